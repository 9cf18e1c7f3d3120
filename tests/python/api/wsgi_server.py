"""Small WSGI pieces for the rule tests: a server that does what servers do, and nothing else."""

import io
import sys


def environ(path="/", **more):
    """A minimal real environ; keyword names are environ keys, None removes one, a dot is written as __."""
    result = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "",
        "SERVER_NAME": "localhost", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
        "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False,
    }
    for key, value in more.items():
        key = key.replace("__", ".")
        if value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


class Server:
    """One request: what start_response got, what write() got, and the chunks."""

    def __init__(self, app, env=None):
        self.app = app
        self.environ = environ() if env is None else env
        self.calls = []
        self.written = []
        self.chunks = []
        self.body = None

    def start_response(self, *args):
        self.calls.append(args)
        return self.write

    def write(self, data):
        self.written.append(data)

    def call(self):
        self.body = self.app(self.environ, self.start_response)
        return self.body

    def run(self):
        """Call, iterate, close; as a server does it, close() whatever happens."""
        self.call()
        try:
            for chunk in self.body:
                self.chunks.append(chunk)
        finally:
            self.close()
        return self

    def close(self):
        close = getattr(self.body, "close", None)
        if close is not None:
            close()

    @property
    def status(self):
        return self.calls[-1][0]

    @property
    def seen(self):
        """All that a client could tell, for comparisons."""
        return self.calls, self.written, self.chunks


def ok(start_response, *headers):
    return start_response("200 OK", [("Content-Type", "text/plain"), *headers])


def listed(env, start_response):
    ok(start_response)
    return [b"hello ", b"world"]


def generated(env, start_response):
    ok(start_response)
    yield b"hello "
    yield b""
    yield b"world"


def pushed(env, start_response):
    write = ok(start_response)
    write(b"pushed ")
    return [b"and returned"]


def late(env, start_response):
    """A generator: its start_response is called by the first next()."""
    def body():
        ok(start_response)
        yield b"late"

    return body()


def restarted(env, start_response):
    ok(start_response)
    try:
        raise ValueError("late")
    except ValueError:
        start_response("500 Oops", [("Content-Type", "text/plain"), ("X-Second", "1")], sys.exc_info())
    return [b"sorry"]


class Body:
    """An iterable whose iterator is another object, as PEP 3333 allows, and which counts what is done to it."""

    def __init__(self, chunks=(b"a", b"b"), fail_at=None, fail_close=None):
        self.chunks = list(chunks)
        self.fail_at = fail_at
        self.fail_close = fail_close
        self.iterated = self.closed = 0

    def __iter__(self):
        self.iterated += 1
        return self._chunks()

    def _chunks(self):
        for index, chunk in enumerate(self.chunks):
            if index == self.fail_at:
                raise LookupError("chunk %d" % index)
            yield chunk

    def close(self):
        self.closed += 1
        if self.fail_close is not None:
            raise self.fail_close


class Sized(Body):
    def __len__(self):
        return len(self.chunks)


def returning(body, *headers):
    def app(env, start_response):
        ok(start_response, *headers)
        return body

    return app
