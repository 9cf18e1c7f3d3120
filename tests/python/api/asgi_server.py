"""Small ASGI pieces for the rule tests: a server that does what servers do, and nothing else."""

import asyncio

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
NO_BODY = {"type": "http.request", "body": b"", "more_body": False}
DISCONNECT = {"type": "http.disconnect"}


def body(chunk=b"", more=False):
    return {"type": "http.response.body", "body": chunk, "more_body": more}


def scope(path="/", headers=(), **more):
    """A minimal real scope; headers are pairs of str, keyword names are its keys, None removes one."""
    result = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers or ()],
        "client": ("192.0.2.7", 4711), "server": ("localhost", 8000),
    }
    for key, value in more.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


class Server:
    """One request: what it gave, what it got, what came of it."""

    def __init__(self, app, given=None, receives=(NO_BODY,), refuse=None, refuse_at=None):
        self.app = app
        self.scope = scope() if given is None else given
        self.receives = list(receives)
        self.refuse, self.refuse_at = refuse, refuse_at  # an exception, and which message gets it
        self.sent = []
        self.result = self.error = None

    async def receive(self):
        await asyncio.sleep(0)
        return self.receives.pop(0) if self.receives else DISCONNECT

    async def send(self, message):
        if len(self.sent) == self.refuse_at:
            raise self.refuse
        self.sent.append(message)
        await asyncio.sleep(0)

    async def handle(self):
        """As a server does it: whatever comes out ends the request, and the server goes on."""
        try:
            self.result = await self.app(self.scope, self.receive, self.send)
        except BaseException as error:
            self.error = error
        return self

    def run(self):
        return asyncio.run(self.handle())

    @property
    def seen(self):
        """All that a client or the server could tell, for comparisons."""
        return self.sent, self.result, repr(self.error)


async def hello(scope, receive, send):
    await send(START)
    await send(body(b"hello "))


async def streamed(scope, receive, send):
    await send(START)
    for chunk in (b"one", b"", b"two"):
        await send(body(chunk, True))
    await send(body())


async def echo(scope, receive, send):
    message = await receive()
    await send(START)
    await send(body(message["body"]))


async def returning(scope, receive, send):
    await hello(scope, receive, send)
    return "something"


async def early_failure(scope, receive, send):
    raise LookupError("before anything")


async def late_failure(scope, receive, send):
    await send(START)
    await send(body(b"some", True))
    raise LookupError("in the middle")


async def extended(scope, receive, send):
    await send({"type": "http.response.early_hint", "links": []})
    await send({**START, "trailers": True})
    await send(body(b"x"))
    await send({"type": "http.response.trailers", "headers": [], "more_trailers": False})


APPS = [hello, streamed, echo, returning, early_failure, late_failure, extended]
