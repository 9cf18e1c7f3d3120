"""The programs of test_leaks.py and test_reentry.py, each run in a process of its own: what they count is the whole
process. A program prints one line of JSON."""

import functools
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import types
import weakref

import profilomatic
from profilomatic import _backend

ROUNDS = 1000
DEEP = 200000


class Input:
    """Stands in environ, which itself cannot be referred to weakly."""


class Chunks:
    def __init__(self, close=None):
        self.left = [b"a", b"b"]
        if close is not None:
            self.close = close

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop()


class Sized:
    def __len__(self):
        return 1

    def __iter__(self):
        return iter([b"x"])


class Rule:
    rule = "/items/<int:item>"


class Matched:
    url_rule = Rule()


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


def server_write(data):
    return None


def start_response(status, headers, exc_info=None):
    return server_write


def serve(app, environ, take=None, close=True):
    """As a server does: at most `take` chunks, then close()."""
    body = app(environ, start_response)
    taken = 0
    for _ in body:
        taken += 1
        if taken == take:
            break
    if close and hasattr(body, "close"):
        body.close()


def listed(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]


def generated(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    yield b"x"
    yield b"y"


def raising(environ, start_response):
    raise KeyError("no such page")


def unprintable(environ, start_response):
    raise Unprintable()


def raising_late(environ, start_response):
    start_response("200 OK", [])
    yield b"x"
    raise ValueError("half way")


def writing(environ, start_response):
    write = start_response("200 OK", [])
    write(b"x")
    return ()


def chunked(environ, start_response):
    start_response("200 OK", [])
    return Chunks(close=lambda: None)


def close_raising(environ, start_response):
    start_response("200 OK", [])

    def close():
        raise OSError("gone")

    return Chunks(close=close)


def sized(environ, start_response):
    start_response("200 OK", [])
    return Sized()


def routed(environ, start_response):
    environ["werkzeug.request"] = Matched()
    start_response("200 OK", [])
    return Chunks()


def filed(environ, start_response):
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](Chunks())


kept = []


def hoarding(environ, start_response):
    kept[:] = [start_response]
    start_response("200 OK", [])
    return Chunks()


inner = profilomatic.wsgi.wrap(routed)


@profilomatic.wsgi.wrap
def nesting(environ, start_response):
    return inner(environ, start_response)


def nested_outlives(environ, start_response):
    kept.append(inner(dict(environ), start_response))
    return [b"x"]


def speaking(environ, start_response):
    with profilomatic.action("step", number=1, text="\u20ac", many={"a": [1, 2, object()]}) as step:
        step.message(more=(1, 2.5, None), error=Unprintable())
        try:
            with profilomatic.action("fails"):
                raise ValueError("no")
        except ValueError:
            step.message(handled=True)
        profilomatic.current_task_uuid()
    start_response("200 OK", [])
    return [b"x"]


class Aborted(GeneratorExit):
    pass


def stopping_server(app, environ):
    body = app(environ, start_response)
    next(iter(body))
    del body


SCENARIOS = {
    "list": lambda app, environ: serve(app(listed), environ),
    "generator": lambda app, environ: serve(app(generated), environ),
    "closed early": lambda app, environ: serve(app(generated), environ, take=1),
    "never begun": lambda app, environ: app(generated)(environ, start_response).close(),
    "never closed": lambda app, environ: serve(app(generated), environ, close=False),
    "dropped": lambda app, environ: stopping_server(app(generated), environ),
    "raises": lambda app, environ: swallow(app(raising), environ),
    "raises what cannot be printed": lambda app, environ: swallow(app(unprintable), environ),
    "raises late": lambda app, environ: swallow(app(raising_late), environ),
    "write": lambda app, environ: serve(app(writing), environ),
    "iterator": lambda app, environ: serve(app(chunked), environ),
    "close raises": lambda app, environ: swallow(app(close_raising), environ),
    "sized": lambda app, environ: serve(app(sized), environ),
    "route": lambda app, environ: serve(app(routed), environ),
    "file wrapper": lambda app, environ: serve(app(filed), environ),
    "start_response kept": lambda app, environ: serve(app(hoarding), environ),
    "nested": lambda app, environ: serve(nesting, environ),
    "nested that outlives": lambda app, environ: (serve(app(nested_outlives), environ), kept.clear()),
    "actions and messages": lambda app, environ: serve(app(speaking), environ),
    "id from outside": lambda app, environ: serve(app(listed), dict(environ, HTTP_X_TASK_UUID="job-17")),
    "bare": lambda app, environ: serve(listed, environ),
}


def swallow(app, environ):
    try:
        serve(app, environ)
    except Exception:
        pass


def environ_of(path):
    return {
        "PATH_INFO": path, "REQUEST_METHOD": "GET", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SCRIPT_NAME": "",
        "QUERY_STRING": "a=1&token=secret", "wsgi.input": Input(),
        "wsgi.file_wrapper": lambda body, size=0: iter(body),
    }


wrapped = {}


def app_of(function):
    if function not in wrapped:
        wrapped[function] = profilomatic.wsgi.wrap(function)
    return wrapped[function]


def ready():
    profilomatic.configure(max_actions_per_run=0)
    profilomatic.add_destination(destination)


def destination(record):
    return None


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("it did not happen in %d s: %r" % (seconds, profilomatic.stats()))
        time.sleep(0.001)


def thread_names():
    """Of the process's threads: ours have different ones."""
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open("/proc/self/task/%s/comm" % task) as file:
                names.append(file.read())
        except OSError:
            pass  # it ended meanwhile
    return names


def settled():
    if not profilomatic.flush(60):
        raise RuntimeError("no flush: %r" % profilomatic.stats())


def live_bytes():
    return _backend.load().engine_info()["details"]["counters"]["memory"]


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# ---- test_leaks.py ----


def references():
    """Blocks of the interpreter and references to what a request is made of, that 1 000 of each kind leave behind."""
    ready()
    watched = [destination, start_response, server_write, listed, generated, raising, Input, Chunks, KeyError, ValueError,
               Unprintable, Rule, Matched, nesting, inner, type(start_response), dict]
    left = {}
    for name, scenario in SCENARIOS.items():
        def rounds(count):
            for _ in range(count):
                scenario(app_of, environ_of("/a"))
            settled()
            gc.collect()

        rounds(200)
        counts = [sys.getrefcount(one) for one in watched]
        blocks = sys.getallocatedblocks()
        rounds(ROUNDS)
        blocks = sys.getallocatedblocks() - blocks
        grown = {repr(one): sys.getrefcount(one) - count for one, count in zip(watched, counts)}
        left[name] = {"blocks": blocks, "references": {k: v for k, v in grown.items() if abs(v) >= 20}}
    done(left=left)


def counts(*objects):
    return [sys.getrefcount(one) for one in objects]


def environs():
    """Whether environ, and what is in it, is held by anybody once the request is over; no collection helps."""
    ready()
    gc.disable()
    left = {}
    for name, scenario in SCENARIOS.items():
        environ = environ_of("/a")
        values = [environ["wsgi.input"], environ["wsgi.file_wrapper"]]
        probe = weakref.ref(environ["wsgi.input"])
        before = counts(environ, *values)
        scenario(app_of, environ)
        left[name] = [after - count for after, count in zip(counts(environ, *values), before)]
        values.clear()
        environ.clear()
        del environ
        if probe() is not None:
            left[name].append("alive")
    done(left=left)


def cycles():
    """What only a collection could free, of ours or of an application's frames."""
    ready()
    gc.collect()
    gc.disable()
    ours = (types.FrameType, types.TracebackType, types.GeneratorType)
    left = {}
    for name, scenario in SCENARIOS.items():
        for _ in range(20):
            scenario(app_of, environ_of("/a"))
        settled()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        left[name] = sorted({repr(type(one)) for one in gc.garbage
                             if isinstance(one, ours) or type(one).__module__.startswith("profilomatic")})
        gc.garbage.clear()
    done(left=left)


def broken_cycles():
    """Cycles through objects of ours that an application makes are found and freed."""
    ready()
    core = _backend.load()
    gone = []

    def mark():
        probe = Input()
        weakref.finalize(probe, gone.append, 1).atexit = False
        return probe

    def through_body():
        # The generator has not begun: it alone keeps the body, and the body it.
        box = []

        def chunks(box, probe):
            yield box

        body = profilomatic.wsgi.wrap(lambda e, s: chunks(box, mark()))(environ_of("/a"), start_response)
        box.append(body)

    def through_wrapped():
        class App:
            def __call__(self, environ, start_response):
                return [b"x"]

        app = App()
        app.probe = mark()
        app.me = profilomatic.wsgi.wrap(app.__call__)

    def through_environ():
        environ = environ_of("/a")
        environ["probe"] = mark()
        environ["body"] = profilomatic.wsgi.wrap(generated)(environ, start_response)

    def through_start_response():
        environ = environ_of("/a")
        environ["probe"] = mark()

        def app(environ, start_response):
            environ["again"] = start_response
            return Chunks()

        environ["body"] = profilomatic.wsgi.wrap(app)(environ, start_response)

    def through_fields():
        fields = {"probe": mark()}
        fields["action"] = core.Action("a", fields)

    makers = [through_body, through_wrapped, through_environ, through_start_response, through_fields]
    for maker in makers:
        maker()
    gc.collect()
    settled()
    done(made=len(makers), gone=len(gone), actions=profilomatic.stats()["actions"])


def flat(count):
    """Bytes of ours and pages of the process, after a fifth of the requests and after all."""
    profilomatic.configure(max_actions_per_run=0)
    profilomatic.start()
    app = profilomatic.wsgi.wrap(listed)
    environ = environ_of("/tiny")
    readings = []
    for part in (int(count) // 5, int(count) - int(count) // 5):
        for _ in range(part):
            app(environ, start_response)
        settled()
        gc.collect()
        readings.append([live_bytes(), resident()])
    done(readings=readings, actions=profilomatic.stats()["actions"])


def delivered(count):
    """The same with a destination, whose records are dicts."""
    ready()
    app = app_of(speaking)
    readings = []
    for _ in range(3):
        for number in range(int(count)):
            serve(app, environ_of("/%d" % number))
            if number % 100 == 0:
                settled()
        settled()
        gc.collect()
        readings.append([live_bytes(), sys.getallocatedblocks()])
    done(readings=readings)


def restarts(count):
    """What an engine leaves behind when it is stopped."""
    ready()
    readings = []
    for _ in range(2):
        for _ in range(int(count)):
            serve(app_of(generated), environ_of("/a"))
            if not profilomatic.stop(60):
                raise RuntimeError("no stop")
            profilomatic.start()
        settled()
        gc.collect()
        wait_until(lambda: len(thread_names()) == len(set(thread_names())))  # the last engine's are on their last instructions
        readings.append([live_bytes(), len(os.listdir("/proc/self/fd")), len(thread_names())])
    done(readings=readings)


def destinations(count):
    """Destinations that come and go take their callables with them."""
    readings = []
    probes = []

    def add(one):
        """Removed ones count for the limit of destinations until their thread has dropped them."""
        try:
            profilomatic.add_destination(one)
        except RuntimeError:
            return False
        return True

    for _ in range(3):
        for number in range(int(count)):
            def one(record):
                return None

            probes.append(weakref.ref(one))
            wait_until(functools.partial(add, one))
            serve(app_of(listed), environ_of("/a"))
            if number % 8 == 0:  # so that pools need no more than that
                settled()
            profilomatic.remove_destination(one)
            del one
        settled()
        gc.collect()
        readings.append([live_bytes(), sum(probe() is not None for probe in probes)])
        probes.clear()
    done(readings=readings)


# ---- test_reentry.py ----


def held_until_a_signal_in_stop():
    """A record that is not delivered before stop() has begun to wait and the signal is sent."""
    signalled = threading.Event()

    def send():
        wait_until(lambda: not profilomatic.stats()["running"])
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        signalled.set()

    profilomatic.add_destination(lambda record: signalled.wait(60))
    serve(app_of(listed), environ_of("/a"))
    wait_until(lambda: profilomatic.stats()["destinations"][0]["queued"])
    threading.Thread(target=send).start()


def signal_in_stop():
    """A handler that stops, run while stop() waits."""
    said = []
    signal.signal(signal.SIGALRM, lambda *a: said.append([profilomatic.stop(60), profilomatic.flush(60)]))
    held_until_a_signal_in_stop()
    stopped = profilomatic.stop(60)
    done(stopped=stopped, said=said)


def interrupt_in_stop():
    """What a handler raises while stop() waits comes out of stop()."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    held_until_a_signal_in_stop()
    try:
        profilomatic.stop(60)
    except KeyboardInterrupt:
        done(interrupted=True, running=profilomatic.stats()["running"])
    else:
        done(interrupted=False)


def exit_behind_flush():
    """The process ends although a flush of a daemon thread waits for a destination that hangs."""
    hangs = threading.Event()
    profilomatic.add_destination(lambda record: hangs.set() or threading.Event().wait())
    serve(app_of(listed), environ_of("/a"))
    threading.Thread(target=profilomatic.flush, args=(3600,), daemon=True).start()
    assert hangs.wait(60)
    done(ok=True)


def entered_twice():
    """An action that is entered again while its fields are being encoded."""
    ready()
    Action = _backend.load().Action

    class Slow:
        def __str__(self):
            time.sleep(0.002)
            return "slow"

    class Again:
        def __str__(self):
            action.__enter__()
            return "again"

    def enter(action):
        try:
            with action:
                time.sleep(0.001)
        except RuntimeError:
            pass  # open already

    for _ in range(20):
        shared = Action("shared", {"field": Slow()})
        threads = [threading.Thread(target=enter, args=(shared,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with profilomatic.action("around"):
        for _ in range(20):
            action = Action("again", {"field": Again()}) if _ % 2 else Action("plain", {})
            try:
                action.__enter__()
            except RecursionError:
                pass
            action.__exit__(None, None, None)
            del action
    settled()
    current = profilomatic.current_task_uuid()
    stopped = profilomatic.stop(60)
    done(current=current, stopped=stopped, actions=profilomatic.stats()["actions"])


def stop_from_everywhere():
    """The engine is stopped and started by whatever of the user's code we call."""
    ready()

    class Stops:
        def __str__(self):
            profilomatic.stop(5)
            profilomatic.start()
            return "stopped"

        def __getattr__(self, name):
            profilomatic.stop(5)
            profilomatic.start()
            raise AttributeError(name)

        def __del__(self):
            profilomatic.stop(5)
            profilomatic.start()

    class Failing(Exception):
        __str__ = Stops.__str__

    def app(environ, start_response):
        environ["werkzeug.request"] = Stops()
        with profilomatic.action("a", field=Stops()) as action:
            action.message(field=Stops(), error=Failing())
            inner(dict(environ), start_response)
            with profilomatic.action("b", field=1) as other:
                other.message(field=Stops())
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/fails":
            raise Failing()
        return Chunks(close=lambda: profilomatic.stop(5) and profilomatic.start())

    for number in range(12):
        swallow(app_of(app), environ_of("/fails" if number % 3 == 0 else "/a"))
    settled()
    done(current=profilomatic.current_task_uuid(), stopped=profilomatic.stop(60))


def stop_in_a_begin():
    """The engine is stopped by a field's text, and for good, in an action that then goes into a task from elsewhere."""
    class Stops:
        def __str__(self):
            profilomatic.stop(5)
            return "stopped"

    class Restarts:
        def __str__(self):
            profilomatic.stop(5)
            profilomatic.start()
            return "restarted"

    ids = []
    for field in (Stops(), Restarts()) * 5:
        profilomatic.start()
        with profilomatic.action("entered", parent="order-7", field=field) as action:
            ids.append(action.task_uuid)
        profilomatic.start()
        opened = _backend.load().Action("opened", {"field": field})
        opened.open("order-7")
        ids.append(opened.task_uuid)
        opened.close("succeeded")
    done(ids=ids, current=profilomatic.current_task_uuid(), stopped=profilomatic.stop(60))


def small_stacks():
    """Everything an application can ask, on the smallest stack a thread can have."""
    ready()
    size = 32768
    while True:
        try:
            threading.stack_size(size)
            break
        except ValueError:  # the interpreter wants more, from 3.14 on
            size += 4096

    def ask():
        for name in ("actions and messages", "raises", "generator", "nested"):
            SCENARIOS[name](app_of, environ_of("/a"))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    threading.stack_size(0)
    settled()
    done(actions=profilomatic.stats()["actions"])


def dropped_elsewhere():
    """An open action that another thread drops while an exception unwinds there: the exception survives."""
    ready()
    Action = _backend.load().Action
    seen = []

    def begin(box):
        action = Action("left open", {})
        action.__enter__()
        box.append(action)

    def drop(box):
        def frame():
            held = box.pop()  # the last reference: dropped while the exception leaves this frame
            raise KeyError("mine")

        try:
            frame()
        except KeyError as error:
            seen.append(str(error))

    for _ in range(50):
        box = []
        for target in (begin, drop):
            thread = threading.Thread(target=target, args=(box,))
            thread.start()
            thread.join()
    settled()
    done(seen=len(seen), actions=profilomatic.stats()["actions"])


def child_without_threads():
    """A forked child that cannot have threads serves its requests, bare."""
    ready()
    serve(app_of(listed), environ_of("/a"))
    settled()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        sys.unraisablehook = lambda *a: None
        answer = app_of(listed)(environ_of("/b"), start_response)
        faults = _backend.load().engine_info()["details"]["faults"]
        os.write(write, json.dumps([answer == [b"x"], faults]).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    done(status=status, said=json.loads(os.read(read, 1000) or b"null"))


def host_weather():
    """What a host may have switched on, or do, while requests run."""
    import tracemalloc

    ready()

    @profilomatic.wsgi.wrap
    def recursing(environ, start_response):
        return recursing(environ, start_response)

    @profilomatic.wsgi.wrap
    def exiting(environ, start_response):
        raise SystemExit(3)

    @profilomatic.wsgi.wrap
    def interrupted(environ, start_response):
        yield b"x"
        raise KeyboardInterrupt

    def speak(number):
        with profilomatic.action("deeper") as action:
            action.message(number=number)
            speak(number + 1)

    def rounds():
        for scenario in SCENARIOS.values():
            scenario(app_of, environ_of("/a"))
        raised = []
        for ends in (recursing, exiting, interrupted):
            try:
                serve(ends, environ_of("/b"))
            except BaseException as error:
                raised.append(type(error).__name__)
        try:
            speak(0)
        except RecursionError as error:
            raised.append(type(error).__name__)
        return raised

    raised = rounds()
    tracemalloc.start(5)  # blocks of before are freed through its hooks
    rounds()
    tracemalloc.stop()
    sys.settrace(lambda *a: None)
    rounds()
    sys.settrace(None)
    sys.setprofile(lambda *a: None)
    rounds()
    sys.setprofile(None)
    gc.set_threshold(1, 1, 1)
    rounds()
    gc.set_threshold(700, 10, 10)
    settled()
    current = profilomatic.current_task_uuid()
    stopped = profilomatic.stop(60)
    done(raised=raised, current=current, stopped=stopped, actions=profilomatic.stats()["actions"])


def late_start():
    """After its own exit handler nothing starts the engine again."""
    import atexit

    def late():
        profilomatic.start()
        serve(app_of(listed), environ_of("/a"))
        with profilomatic.action("late") as action:
            action.message(a=1)
        done(running=profilomatic.stats()["running"])

    atexit.register(late)
    ready()
    serve(app_of(listed), environ_of("/a"))


def restart_in_a_claim():
    """A thread's first slot is claimed in the middle of another thread's action, and the thread's name is code that restarts
    the engine."""
    ready()

    class Named(threading.Thread):
        restarts = False

        @property
        def _name(self):
            if self.restarts and threading.current_thread() is self:
                self.restarts = False
                profilomatic.stop(10)
                profilomatic.start()
            return self.__dict__.get("text", "named")

        @_name.setter
        def _name(self, text):
            self.__dict__["text"] = text

    def elsewhere(function):
        def work():
            threading.current_thread().restarts = True
            function()
        thread = Named(target=work)
        thread.start()
        thread.join()

    def streamed(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        sum(range(100000))

    for _ in range(3):
        body = app_of(streamed)(environ_of("/a"), start_response)
        elsewhere(lambda body=body: (list(body), body.close()))
        for last in (lambda action: action.message(a=1), lambda action: action.__exit__(None, None, None)):
            action = profilomatic.action("here")
            action.__enter__()
            elsewhere(lambda action=action, last=last: last(action))
            action.__exit__(None, None, None)
    done(current=profilomatic.current_task_uuid(), stopped=profilomatic.stop(60))


def closed_while_collected(others=100):
    """A body in a cycle is collected; its end asks for the route, and that closes the body. With the pool of requests full by
    then, so that this one's memory goes."""
    ready()

    class Closes:
        body = None

        @property
        def rule(self):
            body, self.body = self.body, None
            if body is not None:
                body.close()
            return "/a"

    def streamed(environ, start_response):
        start_response("200 OK", [])
        yield b"a"

    gc.disable()
    app = app_of(streamed)
    others = [app(environ_of("/a"), start_response) for _ in range(others)]
    environ = environ_of("/a")
    environ["werkzeug.request"] = matched = Matched()
    matched.url_rule = Closes()
    environ["cycle"] = environ
    body = app(environ, start_response)
    next(body)  # its frame has the request, until it is closed
    matched.url_rule.body = body
    del body, environ, matched
    others.clear()
    gc.collect()
    done(current=profilomatic.current_task_uuid(), stopped=profilomatic.stop(60))


def without_memory():
    """Each allocation fails in turn; the first fault at each place is told, with its exception."""
    import _testcapi

    told, kept = [], []  # what is dropped is used again, and allocates nothing
    sys.unraisablehook = lambda unraisable: told.append(unraisable.exc_type)

    class Body:
        def __iter__(self):
            return iter([b"x"])  # another object: that has to be observed too

    class Awaitable:
        def __await__(self):
            return iter(())

    def bodied(environ, start_response):
        start_response("200 OK", [])
        return Body()

    def failing(function, *arguments):
        for count in range(1, 20):
            _testcapi.set_nomemory(count, count + 1)
            try:
                kept.append(function(*arguments))
            except MemoryError:
                pass  # somebody else's allocation
            finally:
                _testcapi.remove_mem_hooks()

    ready()
    failing(iter, app_of(bodied)(environ_of("/a"), start_response))
    request = _backend.load().asgi_begin({"type": "http", "path": "/a", "headers": []})
    failing(request.observe, Awaitable, print)
    failing(request.observe(Awaitable, print)[0])
    request.finish(None)
    faults = _backend.load().engine_info()["details"]["faults"]
    done(faults=sorted(faults), told=[getattr(kind, "__name__", None) for kind in told])


def deep_messages():
    """Chains of what stands for each other, freed where there is little stack."""
    class Awaitable:
        def __await__(self):
            return iter(())

    ready()
    request = _backend.load().asgi_begin({"type": "http", "path": "/a", "headers": []})
    box = [Awaitable()]
    receive, _ = request.observe(box.pop, print)
    for _ in range(DEEP):
        box.append(receive())
    channels = [print]
    for _ in range(DEEP):
        channels.append(request.observe(channels.pop(), print)[0])
    request.finish(None)
    threading.stack_size(4 << 20)  # 3.13 goes as deep as 10 000 calls before it stops, 3.11 and 3.12 go 50
    for chain in (channels, box):
        thread = threading.Thread(target=chain.clear)
        thread.start()
        thread.join()
    done(left=len(box) + len(channels))


def deep_awaits():
    """One message that stands for another, and so on, where it is awaited."""
    class Awaitable:
        def __await__(self):
            return iter(())

    async def awaits(message):
        await message

    def ask(depth):
        box = [Awaitable()]
        receive, _ = request.observe(box.pop, print)
        for _ in range(depth):
            box.append(receive())
        try:
            awaits(box[0]).send(None)
        except (RecursionError, StopIteration) as end:
            ends.append(type(end).__name__)

    ready()
    request = _backend.load().asgi_begin({"type": "http", "path": "/a", "headers": []})
    ends = []
    threading.stack_size(4 << 20)  # a call of ours takes 40 bytes of it
    for depth in (10, DEEP):
        thread = threading.Thread(target=ask, args=(depth,))
        thread.start()
        thread.join()
    request.finish(None)
    done(ends=ends)


def done(**what):
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
