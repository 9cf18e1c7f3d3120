"""Programs that try to break the sampler, each run in a process of its own by test_stress.py.

Each works for a fixed amount of work, not of time, then flushes, stops, and prints the stats as JSON; a crash, a hang or a name that
cannot be is the test's business.
"""

import json
import sys
import threading

import profilomatic


def begin(path, **options):
    profilomatic.configure(time_granularity=0.0005, max_overhead=0.5, max_actions_per_run=0, **options)
    destination = profilomatic.file_destination(path)
    profilomatic.add_destination(destination)


def finish():
    flushed = profilomatic.flush(60)
    stats = profilomatic.stats()
    stopped = profilomatic.stop(60)
    print(json.dumps({"flushed": flushed, "stopped": stopped, "stats": stats}))


def in_threads(count, function, *args):
    threads = [threading.Thread(target=function, args=args) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def tiny():
    return 1


def storm(rounds=10000):
    """Actions begin and end as fast as eight threads can."""
    def work():
        for _ in range(rounds):
            with profilomatic.action("storm"):
                tiny()
    in_threads(8, work)


def short_threads(rounds=1500):
    """Threads that live for one action: their thread state goes right after it."""
    def work():
        with profilomatic.action("short"):
            sum(range(2000))
    for _ in range(rounds // 4):
        in_threads(4, work)


def churn(rounds=6000):
    """Code objects that die in the middle of an action, their addresses reused at once."""
    def work(thread):
        for i in range(rounds):
            with profilomatic.action("churn"):
                name = "made_%d_%d" % (thread, i)
                space = {}
                exec("def %s(n):\n    t = 0\n    for i in range(n):\n        t += i\n    return t\n" % name, space)
                space[name](300)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def recursion(rounds=150):
    """A thousand frames and back, over several chunks of the data stack."""
    sys.setrecursionlimit(3000)

    def down(n):
        return down(n - 1) + 1 if n else sum(range(200))

    def work():
        for _ in range(rounds):
            with profilomatic.action("deep"):
                for _ in range(5):
                    down(1000)
    in_threads(4, work)


def boundary(rounds=4000):
    """Calls that cross a chunk's end again and again, so that chunks are mapped and unmapped all the time."""
    sys.setrecursionlimit(3000)

    def down(n):
        if n:
            return down(n - 1)
        for _ in range(20):
            wide()
        return 0

    def wide(a=1, b=2, c=3, d=4, e=5, f=6, g=7, h=8):
        x1 = x2 = x3 = x4 = x5 = x6 = x7 = x8 = x9 = a
        return x1 + x2 + x3 + x4 + x5 + x6 + x7 + x8 + x9

    def work():
        with profilomatic.action("boundary"):
            for i in range(rounds):
                down(i % 200)
    in_threads(4, work)


def generators(rounds=300):
    """Frames that live in the heap, left and entered all the time."""
    def inner():
        while True:
            yield 1

    def outer(source):
        for value in source:
            yield value

    def work():
        with profilomatic.action("generators"):
            for _ in range(rounds):
                source = outer(outer(inner()))
                for _ in range(300):
                    next(source)
    in_threads(4, work)


def callbacks(rounds=400):
    """Python called by C called by Python: shim frames on the C stack."""
    import functools
    import re

    def key(value):
        return -value

    def replace(match):
        return match.group(0).upper()

    class Thing:
        def __init__(self, value):
            self.value = value

        def __lt__(self, other):
            return self.value < other.value

    def work():
        with profilomatic.action("callbacks"):
            for _ in range(rounds):
                sorted(range(60), key=key)
                re.sub("[a-z]", replace, "the quick brown fox")
                sorted(Thing(i % 7) for i in range(40))
                functools.reduce(lambda a, b: a + b, range(60))
                list(map(key, range(60)))
    in_threads(4, work)


def names(rounds=200):
    """Names in scripts that take one, two and four bytes a character."""
    sources = ["naïve", "имя", "名前", "𝒜", "a" * 300]

    def work():
        for i in range(rounds):
            with profilomatic.action("names"):
                for name in sources:
                    space = {}
                    exec(compile("def %s(n):\n    return sum(i for i in range(n))\n" % name, "/tmp/%s.py" % name, "exec"), space)
                    space[[key for key in space if key != "__builtins__"][0]](3000)
    in_threads(2, work)


def greenlets(rounds=300):
    """Greenlets that switch inside their actions."""
    import greenlet

    def work():
        def run(name):
            with profilomatic.action(name):
                for _ in range(20):
                    sum(range(500))
                    hub.switch()

        hub = greenlet.getcurrent()
        for _ in range(rounds):
            alive = [greenlet.greenlet(run) for _ in range(10)]
            for index, each in enumerate(alive):
                each.switch("green-%d" % index)
            while alive:
                for each in alive:
                    each.switch()
                alive = [each for each in alive if not each.dead]
    in_threads(3, work)


def greenlet_paths(rounds=20000):
    """Greenlets that wait in ever other places, for moments: what has returned lies above what waits, and a new call takes its place. A function's
    name says which may call it: p_01 calls p_010 and p_011."""
    import random

    import greenlet

    chance = random.Random(7)

    def make(name, levels):
        below = [make(name + digit, levels - 1) for digit in "01"] if levels else []
        space = {"below": below, "wait": lambda: hub.switch(), "chance": chance}
        variables = "; ".join("v%d = 0" % number for number in range(chance.randrange(5)))
        body = ("    for _ in wait_here(): pass\n" if levels == 2 else
                "    if chance.random() < 0.3: wait()\n    for _ in range(30): pass\n")
        exec("def w%s():\n    yield wait()\ndef %s():\n    wait_here = w%s\n    %s\n%s    if below: chance.choice(below)()\n"
             % (name, name, name, variables or "pass", body), space)
        return space[name]

    top = make("p_", 5)

    def run():
        with profilomatic.action("path"):
            while len(done) < rounds:
                done.append(1)
                top()

    done = []
    hub = greenlet.getcurrent()
    alive = [greenlet.greenlet(run) for _ in range(8)]
    while alive:
        chance.choice(alive).switch()
        alive = [each for each in alive if not each.dead]


def restarts(rounds=60):
    """The engine stops and starts under running actions."""
    over = threading.Event()

    def work():
        while not over.is_set():
            with profilomatic.action("restarts"):
                sum(range(3000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for _ in range(rounds):
        assert profilomatic.stop(60)
        profilomatic.start()
    over.set()
    for each in threads:
        each.join()


def abandoned_threads(count=30):
    """Threads that end in C, from below a callback, with an action open: stacks go, thread states stay. More at once than libc
    keeps stacks for."""
    import _thread
    import ctypes
    end_thread = ctypes.CDLL(None).pthread_exit
    begun, go = threading.Semaphore(0), threading.Event()

    def inside(_):
        begun.release()
        go.wait()
        end_thread(None)

    def work():
        action = profilomatic.action("abandoned")
        action.__enter__()
        list(map(inside, [1]))

    for _ in range(count):
        _thread.start_new_thread(work, ())
    for _ in range(count):
        begun.acquire()
    go.set()
    look_for_a_while()


def kept_dicts(count=40):
    """The dict of a thread's state is kept by somebody who lists all objects, and the memory of the state is soon another's."""
    import gc
    kept, junk = [], []

    def work():
        action = profilomatic.action("kept")
        action.__enter__()
        kept.append(action)
        kept.append([each for each in gc.get_objects() if type(each) is dict and "profilomatic.thread" in each])

    for _ in range(count):
        in_threads(1, work)
        junk += [bytearray(b"\x48" * size) for size in range(200, 3000, 8)]
        look_for_a_while(10)
    kept.clear()


def look_for_a_while(actions=300):
    """Long enough for some looks at each thread."""
    for _ in range(actions):
        with profilomatic.action("meanwhile"):
            sum(range(3000))


ELSEWHERE = """
import sys

sys.setrecursionlimit(3000)

def wide(a=1, b=2, c=3, d=4, e=5, f=6, g=7, h=8):
    x1 = x2 = x3 = x4 = x5 = x6 = x7 = x8 = x9 = a
    return x1 + x2 + x3 + x4 + x5 + x6 + x7 + x8 + x9

def down(n):
    if n:
        return down(n - 1)
    for _ in range(200):
        wide()
        wide()

for _ in range(%d):
    for n in range(250):
        down(n)
"""


def interpreters(rounds=40):
    """Interpreters with locks of their own return chunks of their stacks, at the same moment, while one of the main
    interpreter's is walked without a pause."""
    try:
        import _interpreters
        create, execute = lambda: _interpreters.create("isolated"), _interpreters.exec
    except ImportError:  # before 3.13
        import _xxsubinterpreters as _interpreters
        create, execute = lambda: _interpreters.create(isolated=True), _interpreters.run_string
    from profilomatic import _backend
    over = threading.Event()

    def elsewhere():
        made = create()
        execute(made, ELSEWHERE % rounds)
        _interpreters.destroy(made)

    def walked():
        with profilomatic.action("interpreters"):
            while not over.is_set():
                exec(ELSEWHERE % 1, {})

    others = [threading.Thread(target=elsewhere) for _ in range(3)]
    one = threading.Thread(target=walked)
    for each in [*others, one]:
        each.start()
    with profilomatic.action("walks"):
        while any(each.is_alive() for each in others):
            _backend.load()._probe_walks(20000, 0)
    over.set()
    one.join()


def messages(rounds=200):
    """Messages with stacks from several threads, more than a queue holds."""
    def work():
        for _ in range(rounds):
            with profilomatic.action("messages") as a:
                for i in range(100):
                    a.message(number=i, text="x" * (i * 7), nested={"a": [1, 2, {"b": None}]})
    in_threads(4, work)


def request_threads(rounds=50):
    """Requests of ASGI with threads that come and go: of a pool that lives for a round, of their own, left behind by requests that
    were cancelled; deep stacks, generators and callbacks in them; contexts that die with them."""
    import asyncio
    import contextvars
    import gc
    from concurrent.futures import ThreadPoolExecutor

    def job_leaf():
        return 1

    def job_pair():
        return job_leaf() + job_leaf()

    def job_each():
        for _ in range(20):
            yield job_pair()

    def job_key(value):
        return job_leaf() - value

    def job_down(levels):
        return job_down(levels - 1) if levels else sum(job_each())

    def job():
        for levels in (0, 3, 40, 100):
            for _ in range(40):
                job_pair()
                sorted(range(20), key=job_key)
                job_down(levels)

    async def in_a_pool():
        await asyncio.to_thread(job)

    async def in_its_own_thread():
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def work():
            job()
            loop.call_soon_threadsafe(done.set)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        own.append(thread)
        thread.start()
        await done.wait()

    async def app(scope, receive, send):
        await (in_a_pool if scope["path"] == "/pool" else in_its_own_thread)()

    async def nothing(*_):
        pass

    wrapped, own = profilomatic.asgi.wrap(app), []

    def request(path):
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "root_path": ""}
        return asyncio.ensure_future(wrapped(scope, nothing, nothing))

    async def one_round(number):
        pool = ThreadPoolExecutor(4)
        asyncio.get_running_loop().set_default_executor(pool)
        requests = [request("/pool" if i % 2 else "/own") for i in range(8)]
        for _ in range(number % 7):
            await asyncio.sleep(0.001)
        for each in requests[number % 3::3]:
            each.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        pool.shutdown()
        for thread in own:
            thread.join()
        own.clear()
        requests.clear()
        gc.collect()

    async def main():
        for number in range(rounds):
            await one_round(number)

    asyncio.run(main())


if __name__ == "__main__":
    program, path = sys.argv[1:3]
    begin(path)
    globals()[program](*map(int, sys.argv[3:]))
    finish()
