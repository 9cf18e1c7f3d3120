"""Programs in which many actions share a thread, each run in a process of its own by test_contexts.py.

    python programs.py NAME PROFILES

The work is counted in rounds of one loop, so that its shares are known: in each action a `heavy` function does three times what a
`light` one does. How many rounds are long enough for samples depends on the interpreter: some need half the time of others. What a
program finds out by itself it prints as JSON.
"""

import json
import os
import random
import resource
import sys
import time
import timeit

import profilomatic


def spin(rounds):
    total = 0
    for number in range(rounds):
        total += number * number


def rounds_for(seconds, probe=3000):
    """Of the loop below; what the fastest of some runs says, since others were interrupted."""
    fastest = min(timeit.repeat(lambda: spin(probe), number=1, repeat=20))
    return max(int(probe * seconds / fastest), 1000)


UNIT = rounds_for(float(os.environ.get("CONTEXT_STRETCH", "150e-6")))  # rounds of a light stretch


# The same work under names of its own for each kind of action; inlined, so that its time is these functions' self time. Thrice
# from the beginning: larger numbers take longer to add.
def heavy_a():
    for _ in range(3):
        total = 0
        for number in range(UNIT):
            total += number * number


def light_a():
    total = 0
    for number in range(UNIT):
        total += number * number


def heavy_b():
    for _ in range(3):
        total = 0
        for number in range(UNIT):
            total += number * number


def light_b():
    total = 0
    for number in range(UNIT):
        total += number * number


WORK = {"a": (heavy_a, light_a), "b": (heavy_b, light_b)}


def begin(path, **options):
    profilomatic.configure(**{"time_granularity": 0.001, "max_overhead": 0.5, "max_actions_per_run": 0,
                              # A busy machine needs minutes, and parts are not what is looked at here.
                              "partial_every": 86400, **options})
    profilomatic.add_destination(profilomatic.file_destination(path))


def finish(**found):
    assert profilomatic.flush(60), profilomatic.stats()
    stats = profilomatic.stats()
    assert profilomatic.stop(60)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # With PYTHONUNBUFFERED sys.stdout loses what a write leaves over, as one to a full pipe may when libuv uses io_uring.
    with open(1, "w", closefd=False) as out:
        print(json.dumps({"stats": stats, "cpu": usage.ru_utime + usage.ru_stime, **found}), file=out)


class Samples:
    """How many there have been from now on, of the program at work; not more than there were periods of CPU time, since what waits is
    sampled too. Asked between any two stretches of work, and told by a look each 50 ms: to read a CPU clock is a moment at which the
    kernel likes to take the CPU away, and where each stretch ended with one, on a busy machine a fifth of all CPU time was of
    stretches that no sample met at work."""

    def __init__(self):
        self._count, self._next = 0, 0.0
        self._begin_taken, self._begin_cpu = profilomatic.stats()["samples"]["taken"], time.process_time()

    def count(self):
        now = time.monotonic()
        if now >= self._next:
            stats, cpu = profilomatic.stats(), time.process_time() - self._begin_cpu
            self._count = min(stats["samples"]["taken"] - self._begin_taken, int(cpu / stats["period"]))
            self._next = now + 0.05
        return self._count


class Rounds:
    """How often each of many tasks works: so often at least, and until samples enough to judge shares have been taken. On a busy
    machine the twin, which looks whenever it gets the GIL, had 95 in two rounds. All tasks work equally often: the first that is
    through asks, and takes the others along."""

    ENOUGH = 500

    def __init__(self, least):
        self._rounds, self._samples = least, Samples()

    def __iter__(self):
        done = 0
        while done < self._rounds or self._too_few(done):
            yield
            done += 1

    def _too_few(self, done):
        too_few = self._samples.count() < self.ENOUGH
        self._rounds += too_few
        return too_few


def resident():
    """KiB of memory that this process has."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def tasks(path, count=1000):
    """Asyncio tasks that take turns on one thread, two kinds of them."""
    import asyncio

    begin(path)
    grown, rounds = 0, Rounds(2)

    async def work(kind):
        heavy, light = WORK[kind]
        with profilomatic.action(kind) as action:
            await asyncio.sleep(0)  # see greenlets()
            for _ in rounds:
                heavy()
                await asyncio.sleep(0)
                assert profilomatic.current_task_uuid() == action.task_uuid
                light()
                await asyncio.sleep(0)

    async def main():
        nonlocal grown
        before = resident()
        waiting = [asyncio.create_task(work("ab"[number % 2])) for number in range(count)]
        for _ in range(3):
            await asyncio.sleep(0)  # now all of them are open
        grown = resident() - before
        await asyncio.gather(*waiting)

    asyncio.run(main())
    finish(grown=grown)


def greenlets(path, count=1000):
    """The same as greenlets of gevent."""
    import gevent

    begin(path)
    rounds = Rounds(2)

    def work(kind):
        heavy, light = WORK[kind]
        with profilomatic.action(kind) as action:
            # A sample in the first stretch of an action counts from its begin, which is right for the action, and makes what
            # comes first smaller in a sum over actions much shorter than the period.
            gevent.sleep(0)
            for _ in rounds:
                heavy()
                gevent.sleep(0)
                assert profilomatic.current_task_uuid() == action.task_uuid
                light()
                gevent.sleep(0)

    before = resident()
    waiting = [gevent.spawn(work, "ab"[number % 2]) for number in range(count)]
    for _ in range(3):
        gevent.sleep(0)  # now all of them are open
    grown = resident() - before
    gevent.joinall(waiting, raise_error=True)
    finish(grown=grown)


def requests(path, count=1000):
    """The same as requests of an ASGI application, all of them open at once; and each waits three times as long in one place as
    in another. How long it did is measured, since a busy loop comes late. With CONTEXT_LOOP=uvloop on that loop."""
    import asyncio

    begin(path)
    rounds, waited = Rounds(2), {}  # by task: how long each of its waits took

    async def long_wait():
        await asyncio.sleep(1.5)

    async def short_wait():
        await asyncio.sleep(0.5)

    async def measured(wait):
        begin = time.monotonic()
        await wait()
        took = time.monotonic() - begin
        waited.setdefault(profilomatic.current_task_uuid(), {})[wait.__name__] = took

    async def app(scope, receive, send):
        kind = scope["path"][1:]
        heavy, light = WORK[kind]
        await asyncio.sleep(0)  # see greenlets()
        for _ in rounds:
            heavy()
            await asyncio.sleep(0)
            assert profilomatic.current_task_uuid() == scope["profilomatic.task_uuid"]
            light()
            await asyncio.sleep(0)
        await measured(long_wait)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await measured(short_wait)
        await send({"type": "http.response.body", "body": kind.encode()})
        await asyncio.sleep(1)  # what follows an action's last sample is its root's: of this wait, and of none that is compared

    async def send(message):
        pass

    async def main():
        before = resident()
        wrapped = profilomatic.asgi.wrap(app)
        await asyncio.gather(*(wrapped({"type": "http", "method": "GET", "path": "/" + "ab"[number % 2]}, None, send)
                               for number in range(count)))
        return resident() - before

    if os.environ.get("CONTEXT_LOOP") == "uvloop":
        import uvloop

        grown = uvloop.run(main())
    else:
        grown = asyncio.run(main())
    finish(waited=waited, grown=grown)


def children(path, least=20):
    """Requests of ASGI whose work is done by tasks that they start: two at a time, each with its own kind of work. One of the two
    has so many context variables that the interpreter keeps them in another form."""
    import asyncio
    import contextvars

    variables = [contextvars.ContextVar("variable %d" % number) for number in range(100)]

    async def child(kind):
        heavy, light = WORK[kind]
        for _ in range(4):
            heavy()
            await asyncio.sleep(0)
            light()
            await asyncio.sleep(0)

    async def app(scope, receive, send):
        if scope["path"] == "/b":
            for variable in variables:
                variable.set(scope)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(child(scope["path"][1:]))

    async def main():
        wrapped, served = profilomatic.asgi.wrap(app), 0
        for _ in Rounds(least):
            await asyncio.gather(*(asyncio.create_task(wrapped({"type": "http", "path": "/" + kind}, None, None)) for kind in "ab"))
            served += 2
        return served

    begin(path)
    finish(served=asyncio.run(main()))


def chains(path, deep=20, wanted=1000):
    """Requests of ASGI that await their endpoint through many coroutines, as those of frameworks do. It works for some 10 us at a time, and lets
    the others work."""
    import asyncio

    async def down(levels):
        if levels > 0:
            return await down(levels - 1)
        while samples.count() < wanted:
            spin(500)
            await asyncio.sleep(0)

    async def app(scope, receive, send):
        await down(deep)

    async def main():
        wrapped = profilomatic.asgi.wrap(app)
        await asyncio.gather(*(asyncio.create_task(wrapped({"type": "http", "path": "/a"}, None, None)) for _ in range(3)))

    begin(path)
    samples = Samples()
    asyncio.run(main())
    finish()


def generators(path):
    """Generators that hold an action while their consumer, in another action, works between two items; until there are samples
    enough to judge shares, which on a busy machine takes long. No two rounds are equally long: the twin looks whenever it gets the
    GIL, every 6 ms, and where a round took as long, or twice that, all looks would meet the same part of it."""
    global UNIT
    go_on, unit, lengths = True, UNIT, random.Random(1)
    wanted = 250 if profilomatic.stats()["engine"] == "pure" else 1000  # a second or two

    def produce():
        with profilomatic.action("a"):
            while go_on:
                heavy_a()
                light_a()
                yield

    begin(path)
    samples = Samples()
    producers = [produce(), produce()]
    for producer in producers:
        next(producer)  # else their actions would begin inside the consumer's, and be part of it
    with profilomatic.action("b"):
        while samples.count() < wanted:
            for producer in producers:
                UNIT = lengths.randrange(unit // 2, unit * 3 // 2)
                next(producer)
            heavy_b()
            light_b()
    go_on = False
    for producer in producers:
        assert next(producer, "over") == "over"
    finish()


def waiting(path, seconds=1):
    """An action that waits below two calls, while others of its thread work."""
    import asyncio

    async def inner_wait():
        await asyncio.sleep(seconds)  # INNER

    async def waits():
        with profilomatic.action("waits"):
            await inner_wait()  # OUTER
            light_a()

    async def works():
        with profilomatic.action("works"):
            for _ in range(200):
                light_b()
                await asyncio.sleep(0)

    async def main():
        await asyncio.gather(waits(), works())

    begin(path)
    asyncio.run(main())
    finish(lines=[inner_wait.__code__.co_firstlineno + 1, waits.__code__.co_firstlineno + 2])


def waiting_generators(path, seconds=1):
    """An action that waits in an asynchronous generator which it asks for a value, and one that lasts in such a generator itself, which
    waits as long before it gives a value as its consumer does with it."""
    import asyncio
    import contextlib

    async def inner_wait():
        await asyncio.sleep(seconds)

    async def produce():
        await inner_wait()
        yield 1

    @contextlib.asynccontextmanager
    async def manage():
        async for value in produce():
            yield value

    async def asks():
        with profilomatic.action("asks"):
            async with manage():
                light_a()

    async def holds():
        with profilomatic.action("holds"):
            await inner_wait()
            yield 1

    async def consumes():
        async for _ in holds():
            await asyncio.sleep(seconds)

    async def main():
        await asyncio.gather(asks(), consumes())

    begin(path)
    asyncio.run(main())
    finish()


def waiting_greenlets(path, seconds=1):
    """An action, a request and an action that a helper begins, each waiting in a greenlet of its own, below a call, a generator and a call;
    once beside the others, and once alone. Below the wait lies what has returned from deeper calls."""
    import gevent

    def deeper(levels):
        return deeper(levels - 1) if levels else 0

    def wait():
        gevent.sleep(seconds)  # INNER

    def rows():
        yield deeper(30)
        yield wait()

    def query():
        return list(rows())  # by C

    def view():
        for _ in rows():
            pass
        deeper(3)

    def action():
        with profilomatic.action("action"):
            query()

    def helped():
        with Held("helped"):
            view()

    def application(environ, start_response):
        start_response("200 OK", [])
        view()  # OUTER
        return []

    def request():
        wrapped({"PATH_INFO": "/"}, lambda *_: None)

    begin(path)
    wrapped = profilomatic.wsgi.wrap(application)
    for together in [[action, request, helped], [action], [request], [helped]]:
        gevent.joinall([gevent.spawn(function) for function in together], raise_error=True)
    finish(line=wait.__code__.co_firstlineno + 1)


class Held:
    """Begins an action when it is entered, either way: the function that has begun it is over when the block runs. The plain way takes two
    helpers, so that of the three callers that are remembered the last is the function with the block."""

    def __init__(self, name):
        self.action = profilomatic.action(name)

    def __enter__(self):
        self.begin()

    def begin(self):
        self.begin_it()

    def begin_it(self):
        self.action.__enter__()

    def __exit__(self, *exception):
        self.action.__exit__(*exception)

    async def __aenter__(self):
        self.action.__enter__()

    async def __aexit__(self, *exception):
        self.action.__exit__(*exception)


def entered(path, seconds=1):
    """Actions whose anchor is over while they wait: two coroutines and two methods, of two tasks at a time and of one alone."""
    import asyncio

    async def in_a_coroutine():
        async with Held("a"):
            await asyncio.sleep(seconds)

    async def in_a_method():
        with Held("b"):
            await asyncio.sleep(seconds)  # WAITS

    async def main():
        await asyncio.gather(in_a_coroutine(), in_a_method())
        await in_a_coroutine()
        await in_a_method()

    begin(path)
    asyncio.run(main())
    finish(line=in_a_method.__code__.co_firstlineno + 2)


def parked(path, count=1000):
    """A thousand open actions on one thread, nearly all of them waiting, under the usual budget."""
    import asyncio

    grown = 0

    async def work(event):
        with profilomatic.action("a"):
            await event.wait()

    async def main():
        nonlocal grown
        event = asyncio.Event()
        before = resident()
        waiting = [asyncio.create_task(work(event)) for _ in range(count)]
        until = time.process_time() + 1  # what the looks cost is judged as a share of it
        while time.process_time() < until:
            with profilomatic.action("b"):
                light_b()
            await asyncio.sleep(0)
        grown = resident() - before
        event.set()
        await asyncio.gather(*waiting)

    begin(path, max_overhead=0.02, time_granularity=0.01)
    began = time.monotonic()
    asyncio.run(main())
    finish(grown=grown, seconds=time.monotonic() - began)


def lost(path, count=3000):
    """Actions that nobody ends, one after the other."""
    import gc

    begin(path)
    for number in range(count):
        action = profilomatic.action("lost", number=number)
        action.__enter__()
        action.message(number=number)
        del action
        if number % 250 == 100:  # not so many at once that some are shed
            assert profilomatic.flush(60)
        if number == 100:
            gc.collect()
            before = resident()
    gc.collect()
    assert profilomatic.current_task_uuid() is None
    assert profilomatic.flush(60)
    finish(grown=resident() - before)


def messages(path, count=100000):
    """More messages than a record takes."""
    begin(path)
    with profilomatic.action("a") as action:
        for number in range(count):
            action.message(number=number, text="x" * 50)
    finish()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
