"""The programs of test_collector.py, each run in a process of its own.

Before 3.12 a collection runs where an object is made, also in the middle of a call in C, and with it anybody's code: a
finalizer, a weak reference's callback. Here that code gives each value of a dict of the host's an equal one in its place, so
that what was there before is freed, and its memory overwritten. A program prints one line of JSON."""

import gc
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from pom_support import messages  # noqa: E402

import profilomatic  # noqa: E402

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"x"}


def anew(value):
    """An equal one that nobody else has."""
    if isinstance(value, str):
        return "".join(list(value))
    if isinstance(value, bytes):
        return bytes(bytearray(value))
    if isinstance(value, int):
        return int(str(value))
    return type(value)(map(anew, value))


def other(value):
    """One of the same size in memory that is not equal, to lie where the first one lay."""
    if isinstance(value, str):
        return "?" * len(value)
    if isinstance(value, bytes):
        return b"?" * len(value)
    if isinstance(value, int):
        return -value
    return type(value)(map(other, value))


class Replaced:
    """While this is entered the values under these keys are replaced at each collection, and that is at each new object."""

    def __init__(self, of, *keys):
        self.of, self.keys, self.made, self.kept = of, keys, [], []

    def replace(self):
        for key in self.keys:
            if key in self.of:
                self.of[key] = anew(self.of[key])
                self.kept.append(other(self.of[key]))

    def collected(self, phase, info):
        self.kept.append(info)
        if phase == "start":
            self.made.clear()
            self.replace()
        else:
            self.made.extend(set() for _ in range(3))  # more than the threshold, so the next one is due at once

    def __enter__(self):
        self.replace()
        self.kept.extend({} for _ in range(200))  # of dicts all that the interpreter keeps for reuse
        gc.callbacks.append(self.collected)
        gc.set_threshold(1, 1, 1)

    def __exit__(self, *error):
        gc.set_threshold(700, 10, 10)
        gc.callbacks.remove(self.collected)


records = []


def ready():
    profilomatic.configure(max_actions_per_run=0)
    profilomatic.add_destination(records.append)


def settled():
    if not profilomatic.flush(60):
        raise RuntimeError("no flush: %r" % profilomatic.stats())


# ---- ASGI ----

async def receive():
    return {"type": "http.request"}


async def send(message):
    return None


def run(coroutine):
    """No loop is needed: nothing waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waits")


def scope_of(**more):
    return {"type": "http", "method": "GET", "path": "/the/path", "root_path": "/root", "query_string": b"a=1&b=2",
            "headers": [(b"host", b"host.example"), (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
            "client": ("192.0.2.7", 4711), "server": ("server.example", 8000), **more}


KEYS = ("method", "path", "root_path", "query_string", "headers", "client", "server")


@profilomatic.asgi.wrap
async def hello(scope, receive, send):
    await send(START)
    await send(BODY)


def nested_scope():
    ready()
    told = scope_of()

    @profilomatic.asgi.wrap
    async def outer(scope, receive, send):
        told["profilomatic.task_uuid"] = scope["profilomatic.task_uuid"]
        with Replaced(told, *KEYS):
            await hello(told, receive, send)

    run(outer(scope_of(), receive, send))
    settled()
    done(messages=messages(records[0]))


def odd_scope():
    """What cannot be read makes an exception, and an exception is an object too."""
    ready()
    for odd in ({"method": "GET\ud800"}, {"root_path": "\ud800"}, {"server": ("server.example", 2 ** 70), "headers": []}):
        told = scope_of(**odd)
        with Replaced(told, *KEYS):
            run(hello(told, receive, send))
    settled()
    done(requests=[[record["action"].get(key) for key in ("path_info", "query_string", "host", "client")] for record in records],
         tasks=[record["task_uuid"] for record in records[:2]])


# ---- WSGI ----

def environ_of(**more):
    return {"PATH_INFO": "/the/path", "REQUEST_METHOD": "GET", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
            "SCRIPT_NAME": "/root", "QUERY_STRING": "a=1", "HTTP_TRACEPARENT":
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", **more}


def start_response(status, headers, exc_info=None):
    return None


def plain(environ, start_response):
    start_response("200 OK", [])
    return [b"x"]


def serve(app, environ, *keys):
    with Replaced(environ, *keys):
        body = app(environ, start_response)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()


def odd_environ():
    ready()
    app = profilomatic.wsgi.wrap(plain)
    keys = list(environ_of())
    for odd in ({"HTTP_X_TASK_UUID": "\ud800"}, {"PATH_INFO": "\ud800"}):
        serve(app, environ_of(**odd), "HTTP_X_TASK_UUID", *keys)
    settled()
    done(requests=[[record["action"].get(key) for key in ("method", "query_string", "host")] for record in records],
         tasks=[record["task_uuid"] for record in records])


class Wrappers(Replaced):
    """The server's wsgi.file_wrapper is a function, and another one each time."""

    def replace(self):
        self.of["wsgi.file_wrapper"] = lambda body, size=0: iter([b"file"])


def file_wrapper():
    ready()

    @profilomatic.wsgi.wrap
    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](None)

    environ = environ_of()
    with Wrappers(environ):
        body = app(environ, start_response)
    settled()
    done(body=b"".join(body).decode())


# ---- any version ----

def route_ends_the_request():
    """What a framework left in the environ ends the request when it is asked for the route, and the environ is nobody's then."""
    ready()
    made = []

    class Matched:
        @property
        def url_rule(self):
            body, made[:] = made[0], []
            try:
                body.close()
            except ValueError:
                pass  # it runs
            raise AttributeError

    def app(environ, start_response):
        environ["werkzeug.request"] = Matched()
        del environ
        start_response("200 OK", [])
        yield b"x"

    for _ in range(20):
        made.append(profilomatic.wsgi.wrap(app)(environ_of(), start_response))
        list(made[0])
    settled()
    done(outcomes=len({record["action"]["outcome"] for record in records}))


def stopped_by_a_key():
    """A key of the environ's is compared with ours where that is written, and stops the engine."""
    class Stops:
        def __hash__(self):
            return hash("HTTP_X_TASK_UUID")

        def __eq__(self, other):
            profilomatic.stop(60)
            return False

    answers = []
    for _ in range(20):
        ready()
        answers.append(profilomatic.wsgi.wrap(plain)({Stops(): 1, **environ_of()}, start_response))
    done(answers=answers == [[b"x"]] * 20)


def done(**what):
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
