"""The WSGI application that the server tests serve: one path for each way of answering that the rules speak of.

`bare` is the application, `wrapped` the same one under profilomatic.wsgi.wrap, `watched` a wrapped one seen from
outside: it tells whether the very object that the application returned reaches the server.
Environment: SERVERS_RECORDS names the file for the records, SERVERS_FILE a file to serve.
"""

import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
import wsgiref.util
from urllib.parse import parse_qs

import profilomatic
import profilomatic.wsgi

ROUTES = {}
SEEN = []  # what `watched` and the bodies noted; the path /seen answers it
CHUNK = b"x" * 65536
LONG_CHUNKS = 2000


def text(*more):
    """Headers of a plain text; a fresh list each time, since wsgiref adds its own to the very list it is given."""
    return [("Content-Type", "text/plain"), *more]


def route(path):
    def keep(function):
        ROUTES[path] = function
        return function

    return keep


class Body:
    """An iterable whose iterator is another object, with a close() that is noted."""

    def __init__(self, path, chunks, error=None):
        self.path = path
        self.chunks = chunks
        self.error = error

    def __iter__(self):
        return iter(self.chunks)

    def close(self):
        SEEN.append({"path": self.path, "closed_on": threading.current_thread().name})
        if self.error:
            raise self.error


class SizedBody(Body):
    def __len__(self):
        return len(self.chunks)


class NotedFile(io.FileIO):
    def close(self):
        if not self.closed:
            SEEN.append({"path": "/file", "closed_on": threading.current_thread().name})
        super().close()


@route("/list")
def answer_list(environ, start_response):
    start_response("200 OK", text())
    return [b"one ", b"two\n"]


@route("/one")
def answer_one(environ, start_response):
    start_response("200 OK", text())
    return [b"a server may count the length of this one\n"]


@route("/tuple")
def answer_tuple(environ, start_response):
    start_response("200 OK", text(("Content-Length", "6")))
    return (b"abc", b"def")


@route("/empty")
def answer_empty(environ, start_response):
    start_response("200 OK", text(("Content-Length", "0")))
    return []


@route("/generator")
def answer_generator(environ, start_response):
    start_response("200 OK", text())
    return (str(number).encode() + b"\n" for number in range(5))


@route("/generator-one")
def answer_generator_of_one(environ, start_response):
    start_response("200 OK", text())
    yield b"all in one chunk\n"


@route("/lazy")
def answer_lazily(environ, start_response):
    start_response("202 Accepted", text(("X-Late", "yes")))
    yield b"the status came with the first chunk\n"


@route("/body")
def answer_body(environ, start_response):
    start_response("200 OK", text())
    return Body("/body", [b"one", b"two", b"three"])


@route("/sized")
def answer_sized(environ, start_response):
    start_response("200 OK", text())
    return SizedBody("/sized", [b"a sized body of one chunk\n"])


@route("/empty-chunks")
def answer_empty_chunks(environ, start_response):
    start_response("200 OK", text())
    return Body("/empty-chunks", [b"", b"a", b"", b"b", b""])


@route("/write")
def answer_by_write(environ, start_response):
    write = start_response("200 OK", text())
    write(b"pushed ")
    write(b"twice ")
    return [b"then returned\n"]


@route("/twice")
def answer_twice(environ, start_response):
    start_response("200 OK", text())
    try:
        raise ValueError("changed its mind")
    except ValueError:
        start_response("503 Service Unavailable", text(("Retry-After", "1")), sys.exc_info())
    return [b"the second one counts\n"]


@route("/headers")
def answer_headers(environ, start_response):
    start_response("200 OK", text(("X-Latin", "caf\xe9"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")))
    return [b"ok\n"]


def input_of(environ):
    """The body of the request. wsgiref's input has no end of its own, so it is read by its length."""
    if environ.get("wsgi.input_terminated"):
        return environ["wsgi.input"]
    return io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))


@route("/echo")
def answer_echo(environ, start_response):
    told = {
        key: value
        for key, value in environ.items()
        if key.startswith(("HTTP_", "CONTENT_")) or key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING")
    }
    told.pop("HTTP_X_TASK_UUID", None)  # the wrapper tells the application its task id here
    sent = input_of(environ).read()
    told["body"] = [len(sent), hashlib.sha256(sent).hexdigest()]
    answer = json.dumps(told, sort_keys=True).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


@route("/lines")
def answer_lines(environ, start_response):
    count = sum(1 for _ in input_of(environ))
    start_response("200 OK", text())
    return [b"%d lines\n" % count]


@route("/not-modified")
def answer_not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"1"')])
    return Body("/not-modified", [])


@route("/no-content")
def answer_no_content(environ, start_response):
    start_response("204 No Content", [])
    return []


@route("/raise")
def answer_error(environ, start_response):
    raise RuntimeError("before any answer")


@route("/raise-mid")
def answer_error_in_body(environ, start_response):
    start_response("200 OK", text())
    yield b"one chunk, then "
    raise RuntimeError("in the middle of the body")


@route("/raise-close")
def answer_error_in_close(environ, start_response):
    start_response("200 OK", text(("Content-Length", "6")))
    return Body("/raise-close", [b"whole\n"], RuntimeError("in close"))


@route("/file")
def answer_file(environ, start_response):
    file = NotedFile(os.environ["SERVERS_FILE"])
    start_response("200 OK", text(("Content-Length", str(os.fstat(file.fileno()).st_size))))
    return environ.get("wsgi.file_wrapper", wsgiref.util.FileWrapper)(file, 8192)


@route("/long")
def answer_long(environ, start_response):
    start_response("200 OK", text())
    return Body("/long", (CHUNK for _ in range(LONG_CHUNKS)))


def asked(environ, name, otherwise=None):
    """A parameter of the query."""
    return parse_qs(environ["QUERY_STRING"]).get(name, [otherwise])[0]


def samples_taken():
    return profilomatic.stats()["samples"]["taken"]


def pieces(samples):
    """Pieces of work: one, and in a profiled request more, until so many samples were taken of whatever this process does. How long
    that takes is up to the machine."""
    until = samples_taken() + samples
    yield
    while profilomatic.current_task_uuid() and samples_taken() < until:
        yield


def pieces_asleep(samples):
    """The same of sleep: a sleeping greenlet is switched out, and nobody samples it."""
    return pieces(0 if "gevent.monkey" in sys.modules else samples)


@route("/spin")
def answer_spin(environ, start_response):
    for _ in pieces(int(asked(environ, "samples"))):
        spin()
    start_response("200 OK", text())
    return [b"spun\n"]


def spin():
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end:
        hash("keep busy")


@route("/nap")
def answer_nap(environ, start_response):
    for _ in pieces_asleep(int(asked(environ, "samples"))):
        nap()
    start_response("200 OK", text())
    return [b"napped\n"]


def nap():
    time.sleep(0.05)


@route("/stream")
def answer_stream(environ, start_response):
    """Three chunks with a pause after the first. It lasts until the file that the query names is there: so a test can see the first
    one come alone."""
    start_response("200 OK", text())
    awaited = asked(environ, "until")

    def chunks():
        yield b"first\n"
        for _ in pieces_asleep(3):
            time.sleep(0.05)
        while awaited and not os.path.exists(awaited):
            time.sleep(0.01)
        yield b"second\n"
        for _ in pieces(3):
            spin()
        yield b"third\n"

    return chunks()


def answer_json(start_response, value):
    body = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


@route("/who")
def answer_who(environ, start_response):
    nap()  # long enough for the next request to go to another worker
    thread = threading.current_thread()
    return answer_json(start_response, {"pid": os.getpid(), "ident": thread.ident, "thread": thread.name})


@route("/flush")
def answer_flush(environ, start_response):
    return answer_json(start_response, profilomatic.flush(1))


@route("/seen")
def answer_seen(environ, start_response):
    return answer_json(start_response, SEEN)


@route("/stats")
def answer_stats(environ, start_response):
    return answer_json(start_response, profilomatic.stats())


def bare(environ, start_response):
    answer = ROUTES.get(environ.get("PATH_INFO", ""))
    if answer is None:
        start_response("404 Not Found", text())
        return [b"no such path\n"]
    result = answer(environ, start_response)
    environ["test.result"] = result
    return result


wrapped = profilomatic.wsgi.wrap(bare)


def watched(environ, start_response):
    wrapper = environ.get("wsgi.file_wrapper")
    result = wrapped(environ, start_response)
    SEEN.append(
        {
            "path": environ["PATH_INFO"],
            "same_result": result is environ.pop("test.result", None),
            "same_wrapper": environ.get("wsgi.file_wrapper") is wrapper,
            "known_by_wrapper": isinstance(wrapper, type) and isinstance(result, wrapper),
        }
    )
    return result


def count_sendfile():
    """Note each use of sendfile(2) by the server."""
    real = os.sendfile

    def counted(*args, **kwargs):
        sent = real(*args, **kwargs)
        if sent:
            SEEN.append({"path": "sendfile", "bytes": sent})
        return sent

    os.sendfile = counted


if "SERVERS_COUNT_SENDFILE" in os.environ:
    count_sendfile()

if "SERVERS_LEAVE" in os.environ:  # what docs/servers.md gives servers that a SIGTERM just ends
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

if "SERVERS_RECORDS" in os.environ:
    profilomatic.configure(max_actions_per_run=0, max_overhead=0.2)
    profilomatic.add_destination(profilomatic.file_destination(os.environ["SERVERS_RECORDS"], append=True))
    if "SERVERS_ACTION_AT_IMPORT" in os.environ:
        with profilomatic.action("at-import"):
            spin()
