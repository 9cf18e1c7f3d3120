"""The application and the server of a script, and the trace of all that either of them can observe.

A trace is a list of tuples that compare equal when bare and wrapped runs are alike: objects that both runs share stand
in it by id, exceptions by type, arguments, chain and traceback. What the wrapper may do is what the rules of
docs/acceptance.md say, and it is written down here where the trace leaves something out:

    - a body that is no list, tuple or file may be another object, with a close() and an __next__;
    - the body's close() is called once, however often the server calls it;
    - the environ gets HTTP_X_TASK_UUID and keys of profilomatic's own;
    - frames of the package may stand in a traceback (the pure twin's; the extension has none).
"""

import functools
import gc
import io
import os
import sys
import threading
from queue import SimpleQueue

import profilomatic

try:
    import greenlet
except ImportError:
    greenlet = None

PACKAGE = os.path.dirname(profilomatic.__file__) + os.sep
wrap = profilomatic.wsgi.wrap


class Leaving(BaseException):
    """Stands for GreenletExit and gevent.Timeout."""


class Awkward(Exception):
    """An exception that cannot be described."""

    def __init__(self, one, two):
        super().__init__(one, two)

    def __str__(self):
        raise LookupError("no text")

    __repr__ = __str__


class Bytes(bytes):
    pass


class Environ(dict):
    pass


class Silent(Exception):
    def __init__(self):
        pass


ERRORS = {
    "value": lambda: ValueError("a value"), "key": lambda: KeyError("a key"), "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt, "generator exit": GeneratorExit, "stop": StopIteration, "base": lambda: Leaving("base"),
    "awkward": lambda: Awkward(1, 2), "nothing": Silent, "memory": MemoryError, "recursion": lambda: RecursionError("deep"),
    "stop value": lambda: StopIteration("value"), "os": lambda: OSError(32, "broken pipe"), "cause": lambda: caused(),
}
CHUNKS = {"one": b"one", "two": b"two bytes", "empty": b"", "large": b"x" * 70000, "subclass": Bytes(b"subclass"),
          "bytearray": bytearray(b"array"), "memoryview": memoryview(b"view"), "text": "text", "none": None, "number": 7}
SHARED = {id(chunk) for chunk in CHUNKS.values()}
STATUSES = {"number": 200, "none": None, "bytes": b"200 OK"}
HEADERS = {
    "plain": [("Content-Type", "text/plain")], "none": [], "length 3": [("Content-Length", "3")],
    "length 0": [("content-length", "0")], "length 9": [("CONTENT-LENGTH", "9")], "length x": [("Content-Length", "x\xb2")],
    "length huge": [("Content-Length", "9" * 30)], "no list": (("Content-Length", "3"),),
    "odd pairs": [("Content-Length",), ["Content-Length", "3"], None, ("Content-Length", 3), (3, "3")], "missing": None,
}


def mark(chunk):
    """A chunk in a trace: the very object, where both runs have it."""
    return id(chunk) if id(chunk) in SHARED else type(chunk)


def caused():
    try:
        raise KeyError("inner")
    except KeyError as inner:
        error = ValueError("outer")
        error.__cause__ = inner
        error.__context__ = inner
        inner.__traceback__ = None
    return error


def signature(error):
    """An exception as it looks from outside, without what holds it."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            frames.append((code.co_name, code.co_firstlineno, traceback.tb_lineno))
        traceback = traceback.tb_next
    chain = []
    linked = error
    while linked is not None and len(chain) < 8:
        chain.append((type(linked.__cause__), type(linked.__context__), linked.__suppress_context__))
        linked = linked.__context__
    return type(error), error.args, tuple(frames), tuple(chain), getattr(error, "value", None)


class Worker:
    """Another thread that runs one thing at a time, while the caller waits."""

    def __init__(self):
        self.todo, self.done = SimpleQueue(), SimpleQueue()
        threading.Thread(target=self.serve, daemon=True, name="fuzz-worker").start()

    def serve(self):
        for function in iter(self.todo.get, None):
            function()
            del function
            self.done.put(None)

    def run(self, function):
        self.todo.put(function)
        del function
        self.done.get()


class ServerFile:
    """What a server's file wrapper makes."""

    def __init__(self, file, size=8192):
        self.file = file
        self.size = size

    def __iter__(self):
        return self

    def __next__(self):
        data = self.file.read(self.size)
        if not data:
            raise StopIteration
        return data

    def close(self):
        self.file.close()


def server_file(file, size=8192):
    return OtherFile(file, size)


class OtherFile(ServerFile):
    """What a file wrapper that is a function makes."""


class Rule:
    """What stands in environ["werkzeug.request"]; asking it fails."""

    @property
    def url_rule(self):
        raise LookupError("no rule")


INPUT = io.BytesIO(b"input")
FULL = {
    "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/a/7", "QUERY_STRING": "a=1", "SERVER_NAME": "localhost",
    "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": INPUT,
    "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
}
ENVIRONS = {
    "full": FULL, "empty": {}, "subclass": Environ(FULL), "head": {**FULL, "REQUEST_METHOD": "HEAD"},
    "file class": {**FULL, "wsgi.file_wrapper": ServerFile}, "file function": {**FULL, "wsgi.file_wrapper": server_file},
    "file wrong": {**FULL, "wsgi.file_wrapper": 3}, "task id": {**FULL, "HTTP_X_TASK_UUID": "one-given-from-outside"},
    "traceparent": {**FULL, "HTTP_TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    "odd values": {**FULL, "PATH_INFO": None, "REQUEST_METHOD": 3, "QUERY_STRING": "\udc80", "HTTP_HOST": "\u20ac" * 300,
                   "SCRIPT_NAME": b"/x", "HTTP_X_TASK_UUID": 7, "HTTP_TRACEPARENT": "00-"},
    "werkzeug": {**FULL, "werkzeug.request": Rule()}, "mounted": {**FULL, "SCRIPT_NAME": "/caf\xc3\xa9"},
}
OURS = ("HTTP_X_TASK_UUID",)


class Run:
    """One request of a script: the server's state, and the trace."""

    def __init__(self, plan, wrapped, world):
        self.plan = plan
        self.wrapped = wrapped
        self.world = world
        self.trace = []
        given = ENVIRONS[plan.environ]
        self.environ = type(given)(given)
        self.sent = None  # the exc_info that the application passes right now
        self.result = None  # what the application returned, until the server has it
        self.file_body = None  # made by the server's file wrapper
        self.body = self.iterator = None
        self.body_is_theirs = True
        self.closed = self.headers_set = self.headers_sent = False
        self.writes = 0

    def note(self, *event):
        self.trace.append(event)

    def raised(self, what, error):
        self.trace.append((what, "raised", signature(error)))

    # the server's start_response and write

    def responder(self):
        kind = self.plan.start_response
        if kind == "server":
            return self.start_response
        if kind == "loose":
            return lambda *args, **names: self.take(args, names)
        if kind == "partial":
            return functools.partial(Run.start_response, self)
        if kind == "object":
            return Responder(self)
        if kind == "refuses":
            return self.refuse
        return functools.partial(self.start_without_write, None if kind == "no write" else "no function")

    def take(self, args, names):
        the_same = self.sent is not None and any(each is self.sent for each in args)
        self.note("start", [id(each) for each in args[:2]], len(args), sorted(names), the_same)
        return self.write

    def refuse(self, status, headers, exc_info=None):
        self.take((status, headers), {})
        raise OSError("the client is gone")

    def start_without_write(self, answer, *args, **names):
        self.take(args, names)
        return answer

    def start_response(self, status, headers, exc_info=None):
        """As PEP 3333 asks."""
        self.note("start", id(status), id(headers), exc_info is not None, exc_info is self.sent)
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.headers_set:
            raise AssertionError("headers are set already")
        self.headers_set = True
        return self.write

    def write(self, data):
        self.writes += 1
        self.note("write", mark(data))
        if not self.headers_set:
            raise AssertionError("write() before start_response()")
        self.headers_sent = True
        if self.plan.write == "breaks" or self.plan.write == "breaks second" and self.writes == 2:
            raise BrokenPipeError("gone")
        return self.writes if self.plan.write == "counts" else None

    # the server's steps

    def step_call(self):
        self.body = self.app(self.environ, self.responder())
        result, self.result = self.result, None
        # Another object only where the rules allow it.
        self.body_is_theirs = self.body is result
        self.note("returned", self.body_is_theirs or self.wrapped and not (
            type(result) in (list, tuple) or result is self.file_body or not iterable(result)))
        self.file_body = None

    def step_iter(self):
        if self.body is not None:
            self.iterator = iter(self.body)
            self.note("iter")

    def step_next(self):
        if self.iterator is None:
            self.step_iter()
        if self.iterator is not None:
            self.chunk(next(self.iterator))

    def step_all(self):
        if self.body is not None:
            for chunk in self.body:
                self.chunk(chunk)
            self.note("exhausted")

    def step_rest(self):
        """As a server does that has looked at the first chunk."""
        if self.iterator is not None:
            for chunk in self.iterator:
                self.chunk(chunk)
            self.note("exhausted")

    def step_bare_next(self):
        """Without iter()."""
        if self.body is not None:
            self.chunk(next(self.body))

    def chunk(self, chunk):
        self.headers_sent = self.headers_sent or self.headers_set
        self.note("chunk", mark(chunk))

    def step_len(self):
        self.note("len", len(self.body) if hasattr(type(self.body), "__len__") else None)

    def step_attribute(self):
        self.note("attribute", getattr(self.body, "status_code", None))

    def step_close(self):
        """Of the application's own body once, so that a second close() of ours is compared with none at all. A generator
        that is running would refuse the second one too."""
        if self.body is None or self.closed and (self.body_is_theirs or not self.wrapped):
            return
        again, self.closed = self.closed, True
        if hasattr(self.body, "close"):
            answer = self.body.close()
            if not again:
                self.note("closed", answer)
        elif not again:
            self.note("closed", None)

    def step_drop(self):
        self.body = None
        self.iterator = None

    def step_collect(self):
        gc.collect(0)

    def step_check(self):
        self.note("current", self.world.task_before == profilomatic.current_task_uuid())

    def step_stop(self):
        self.world.stop()

    def step_start(self):
        self.world.start()

    def step(self, name, where):
        def perform():
            try:
                STEPS[name](self)
            except BaseException as error:
                self.raised(name, error)
                forget_frames(error)

        if where == "here" or greenlet is None and where == "greenlet":
            perform()
        elif where == "thread":
            self.world.worker.run(perform)
        else:
            other = greenlet.greenlet(perform)
            other.switch()
            while not other.dead:
                self.note("paused")
                self.world.next_step()
                other.switch()

    def finished(self):
        """The last of the trace: how the environ was left. References go."""
        self.step_drop()
        given = ENVIRONS[self.plan.environ]
        left = self.environ
        changed = [key for key, value in given.items() if left.get(key, left) is not value and key not in OURS]
        added = [key for key in left if key not in given and key not in OURS and not key.startswith("profilomatic.")]
        self.note("environ", changed, added)
        self.app = self.sent = None
        return self.trace


STEPS = {name[5:].replace("_", " "): function for name, function in vars(Run).items() if name.startswith("step_")}


def forget_frames(error):
    """An exception that the server is done with holds no frames: collections would free them at different times."""
    seen = 0
    while error is not None and seen < 8:
        error.__traceback__ = None
        error, seen = error.__context__, seen + 1


def iterable(result):
    return hasattr(type(result), "__iter__") or hasattr(type(result), "__getitem__")


class Responder:
    def __init__(self, run):
        self.run = run

    def __call__(self, status, headers, exc_info=None):
        return self.run.start_response(status, headers, exc_info)


class Application:
    """One call of one application."""

    def __init__(self, run, plan):
        self.run = run
        self.plan = plan
        self.environ = self.start_response = self.write = None

    def callable(self):
        made = FORMS[self.plan.form](self)
        if not self.run.wrapped:
            return made
        return wrap(wrap(made)) if self.plan.form == "twice" else wrap(made)

    def function(self):
        def app(environ, start_response):
            return self.respond(environ, start_response)

        return app

    def __call__(self, environ, start_response):
        return self.respond(environ, start_response)

    def generate(self, environ, start_response):
        self.enter(environ, start_response)
        for chunk in self.produce():
            yield chunk

    def respond(self, environ, start_response):
        self.enter(environ, start_response)
        run = self.run
        run.result = result = BODIES[self.plan.body](self)
        return result

    def enter(self, environ, start_response):
        self.environ, self.start_response = environ, start_response
        self.run.note("called", environ is self.run.environ)
        self.do(self.plan.call)

    def do(self, ops):
        for name, argument in ops:
            OPS[name](self, argument)

    # what an application does on its way

    def op_start(self, plan):
        form, status, headers, catches = plan
        status, headers = STATUSES.get(status, status), HEADERS[headers]
        try:
            if form == "two":
                write = self.start_response(status, headers)
            elif form == "none":
                write = self.start_response(status, headers, None)
            elif form == "exc":
                write = self.restart(status, headers, "value")
            elif form == "not exc":
                write = self.start_response(status, headers, ())
            elif form == "keyword":
                write = self.start_response(status, headers, exc_info=None)
            elif form == "all keywords":
                write = self.start_response(status=status, headers=headers)
            elif form == "one":
                write = self.start_response(status)
            else:
                write = self.start_response()
        except Exception as error:
            if not catches:
                raise
            self.run.raised("caught", error)
            forget_frames(error)
        else:
            self.started(write)

    def started(self, write):
        self.run.note("write is", callable(write) or write)
        self.write = write if callable(write) else None

    def restart(self, status, headers, error):
        run = self.run
        try:
            raise ERRORS[error]()
        except BaseException as raised:
            run.sent = sys.exc_info()
            try:
                return self.start_response(status, headers, run.sent)
            finally:
                run.sent = None
                raised.__traceback__ = None

    def op_late_exc(self, error):
        self.started(self.restart("500 Late", HEADERS["plain"], error))

    def op_write(self, chunk):
        if self.write is not None:
            self.run.note("wrote", self.write(CHUNKS[chunk]))

    def op_fail(self, error):
        raise ERRORS[error]()

    def op_handled(self, error):
        """The rest of the request runs, or fails, while nothing is being handled any more."""
        try:
            raise ERRORS[error]()
        except BaseException as raised:
            self.run.note("handled", sys.exc_info()[0])
            raised.__traceback__ = None

    def op_message(self, nothing):
        if self.run.wrapped:
            with profilomatic.action("message") as action:
                action.message(step=1)

    def op_action(self, nothing):
        if self.run.wrapped:
            with profilomatic.action("nested", number=1):
                pass

    def op_collect(self, nothing):
        gc.collect(0)

    def op_look(self, nothing):
        environ = self.environ
        self.run.note("look", environ.get("PATH_INFO"), environ.get("wsgi.input") is INPUT,
                      callable(environ.get("wsgi.file_wrapper")))

    def op_request(self, plan):
        """A test client in the middle of an application: a new environ, the same thread."""
        answers = []
        inner = Application(self.run, plan)
        body = inner.callable()(dict(FULL), lambda *args, **names: answers.append(len(args)))
        try:
            self.run.note("inner", [mark(chunk) for chunk in body], answers)
        finally:
            if hasattr(body, "close"):
                body.close()

    def op_pause(self, nothing):
        if greenlet is not None and self.run.world.pauses:
            parent = greenlet.getcurrent().parent
            if parent is not None:
                parent.switch()

    # bodies

    def produce(self):
        """A generator of the chunks."""
        plan, run = self.plan, self.run
        held = None
        if plan.holds and run.wrapped:
            held = profilomatic.action("held")
            held.__enter__()
        try:
            for chunk, before in plan.chunks:
                self.do(before)
                yield CHUNKS[chunk]
            self.do(plan.end)
        except GeneratorExit:
            run.note("generator exit")
            raise
        finally:
            if held is not None:
                held.__exit__(None, None, None)
            if plan.close is not None:
                self.do(plan.close)

    def body_list(self):
        return [CHUNKS[chunk] for chunk, _ in self.plan.chunks]

    def body_file(self):
        wrapper = self.environ.get("wsgi.file_wrapper")
        if not callable(wrapper):
            return self.produce()
        self.run.file_body = body = wrapper(File(self))
        return body

    def body_unused_file(self):
        made = self.body_file()
        if type(made) in (ServerFile, OtherFile):
            made.close()
        self.run.file_body = None
        return self.body_iterable()

    def body_iterable(self):
        return Iterable(self) if self.plan.close is None else ClosingIterable(self)

    def body_sized(self):
        return Sized(self) if self.plan.close is None else ClosingSized(self)

    def body_iterator(self):
        return Iterator(self) if self.plan.close is None else ClosingIterator(self)

    def body_inner(self):
        return self.hand_on(self.environ, self.start_response)

    def hand_on(self, environ, start_response):
        return Application(self.run, self.plan.inner).callable()(environ, start_response)

    def body_inner_copy(self):
        return self.hand_on(dict(self.environ), self.start_response)

    def body_inner_start(self):
        """A middleware with a start_response of its own."""
        def start_response(status, headers, exc_info=None):
            self.run.note("middleware", id(status))
            return self.start_response(status, headers, exc_info) if exc_info else self.start_response(status, headers)

        return self.hand_on(self.environ, start_response)

    def body_inner_list(self):
        body = self.body_inner()
        try:
            return [chunk for chunk in body]
        finally:
            if hasattr(body, "close"):
                body.close()

    def body_inner_generator(self):
        return self.pass_on(self.body_inner())

    def pass_on(self, body):
        try:
            for chunk in body:
                yield chunk
        finally:
            if hasattr(body, "close"):
                body.close()


class File:
    """A file of the application's, read by the server."""

    def __init__(self, app):
        self.app = app
        self.chunks = iter(app.plan.chunks)

    def read(self, size):
        for chunk, before in self.chunks:
            self.app.do(before)
            return CHUNKS[chunk]
        self.app.do(self.app.plan.end)
        return b""

    def close(self):
        self.app.run.note("file closed")
        self.app.do(self.app.plan.close or ())


class Iterator:
    """Goes on after an exception, as no generator can."""

    def __init__(self, app):
        self.app = app
        self.at = 0

    def __iter__(self):
        self.app.run.note("__iter__")
        self.app.do(self.app.plan.begin)
        return self

    def __next__(self):
        app, at = self.app, self.at
        app.run.note("__next__", at)
        self.at += 1
        chunks = app.plan.chunks
        if at < len(chunks):
            app.do(chunks[at][1])
            return CHUNKS[chunks[at][0]]
        if at == len(chunks):
            app.do(app.plan.end)
        raise StopIteration


class Closing:
    def close(self):
        self.app.run.note("close")
        self.app.do(self.app.plan.close or ())
        return self.app.plan.form


class ClosingIterator(Closing, Iterator):
    pass


class Iterable:
    """Its iterator is another object, with a close() that is nobody's to call; it is some framework's response."""

    status_code = 200

    def __init__(self, app):
        self.app = app

    def __iter__(self):
        app = self.app
        app.run.note("__iter__")
        app.do(app.plan.begin)
        return app.produce() if app.plan.holds else WrongCloseIterator(app)


class WrongCloseIterator(Iterator):
    def close(self):
        self.app.run.note("the iterator's close")


class ClosingIterable(Closing, Iterable):
    pass


class Sized(Iterable):
    def __len__(self):
        self.app.run.note("__len__")
        return len(self.app.plan.chunks)


class ClosingSized(Closing, Sized):
    pass


class LengthFails(ClosingSized):
    def __len__(self):
        raise ArithmeticError("no idea")


class LengthNegative(ClosingSized):
    def __len__(self):
        return -1


class GetItem:
    def __init__(self, app):
        self.app = app

    def __getitem__(self, index):
        self.app.run.note("__getitem__", index)
        chunk, before = self.app.plan.chunks[index]
        self.app.do(before)
        return CHUNKS[chunk]


class ClosingList(list):
    def close(self):
        self.app.run.note("close")
        self.app.do(self.app.plan.close or ())


class OtherTuple(tuple):
    pass


class NoIterator:
    def __iter__(self):
        return 3


class ClassApplication(ClosingIterator):
    """An application that is a class: its instance is the body."""

    def __init__(self, app, environ, start_response):
        super().__init__(app)
        app.enter(environ, start_response)
        app.run.result = self

    def close(self):
        self.app.run.note("close")
        self.app.do(self.app.plan.close or ())


def list_subclass(app):
    body = ClosingList(app.body_list())
    body.app = app
    return body


FORMS = {
    "function": Application.function, "twice": Application.function, "instance": lambda app: app,
    "method": lambda app: app.respond, "partial": lambda app: functools.partial(Application.respond, app),
    "generator": lambda app: app.generate, "class": lambda app: functools.partial(ClassApplication, app),
}
OPS = {name[3:].replace("_", " "): function for name, function in vars(Application).items() if name.startswith("op_")}
BODIES = {name[5:].replace("_", " "): function for name, function in vars(Application).items() if name.startswith("body_")}
BODIES.update({
    "generator": Application.produce, "tuple": lambda app: tuple(app.body_list()), "list subclass": list_subclass,
    "getitem": GetItem, "builtin iterator": lambda app: iter(app.body_list()), "map": lambda app: map(CHUNKS.get, CHUNKS),
    "bytes": lambda app: b"abc", "dict": lambda app: {CHUNKS["one"]: 1, CHUNKS["two"]: 2}, "none": lambda app: None,
    "number": lambda app: 7, "no iterator": lambda app: NoIterator(), "tuple subclass": lambda app: OtherTuple(app.body_list()),
    "length fails": LengthFails, "length negative": LengthNegative, "listed iterator": lambda app: [app.body_iterator()],
    "empty": lambda app: [],
})


class World:
    """Runs scripts, bare or wrapped."""

    def __init__(self, pauses=True):
        self.pauses = pauses  # an application may switch to the server's greenlet
        self.worker = Worker()
        self.stopped = False
        self.restarts = 0
        self.task_before = None
        self.steps = iter(())
        self.unraisable = []

    def stop(self):
        if self.wrapped and not self.stopped:
            assert profilomatic.stop(60) is True
            self.stopped = True
            self.restarts += 1

    def start(self):
        if self.stopped:
            profilomatic.start()
            self.stopped = False

    def next_step(self):
        for run, step in self.steps:
            run.step(*step)
            return True
        return False

    def saw(self, unraisable):
        error = unraisable.exc_value
        self.unraisable.append((unraisable.exc_type, getattr(error, "args", None)))

    def run(self, script, wrapped):
        """The traces of the script's requests, and what could not be raised."""
        self.wrapped = wrapped
        self.unraisable = []
        runs = []
        for app, server in script.requests:
            run = Run(server, wrapped, self)
            run.app = Application(run, app).callable()
            runs.append(run)
        self.steps = in_order([(run, run.plan.steps) for run in runs], script.order)
        while self.next_step():
            pass
        traces = [run.finished() for run in runs]
        if self.stopped:
            self.start()
        return traces, self.unraisable


def in_order(parts, order):
    """(run, step) after (run, step), of the runs in turn as the order says."""
    if len(parts) == 1:
        run, steps = parts[0]
        return iter([(run, step) for step in steps])
    queues = [[(run, step) for step in reversed(steps)] for run, steps in parts]
    result = []
    for which in order:
        if queues[which]:
            result.append(queues[which].pop())
    for queue in queues:
        result += reversed(queue)
    return iter(result)
