"""A script: what one application, its body and its server do, read off a string of bytes.

Each byte is one decision. Where the bytes run out every decision is the first of its choices, and the first is always
the plainest: so a shorter string with lower bytes is a simpler script, and shrinking needs to know nothing of WSGI.
"""

from typing import NamedTuple, Optional


START = ("start", ("two", "200 OK", "plain", False))  # how, status, headers, and whether what it raises is caught


class App(NamedTuple):
    form: str = "function"  # how the callable is made
    call: tuple = (START,)  # what it does before it returns its body: (name, argument) pairs
    body: str = "list"  # what it returns
    chunks: tuple = (("one", ()), ("one", ()))  # each chunk, and what is done before it
    begin: tuple = ()  # done in __iter__
    end: tuple = ()  # done after the last chunk
    close: Optional[tuple] = None  # done in close(); None = it has none
    holds: bool = False  # an action is open around the chunks
    inner: Optional["App"] = None  # the application that it hands on to


class Server(NamedTuple):
    environ: str = "full"
    start_response: str = "server"
    write: str = "takes"
    steps: tuple = (("call", "here"), ("all", "here"), ("close", "here"))  # each step, and where it runs


class Request(NamedTuple):
    app: App = App()
    server: Server = Server()


class Script(NamedTuple):
    requests: tuple = (Request(),)
    order: tuple = ()  # whose step is next


FORMS = ("function", "function", "instance", "method", "partial", "generator", "class", "twice")
CALLS = ("starts", "starts", "starts", "starts late", "never starts")
BODIES = ("list", "iterable", "generator", "sized", "iterator", "tuple", "file", "inner", "inner", "list subclass",
          "getitem", "builtin iterator", "iterable", "generator", "sized", "iterator", "inner generator", "inner list",
          "inner copy", "inner start", "map", "bytes", "dict", "none", "number", "no iterator", "tuple subclass",
          "unused file", "length fails", "length negative", "listed iterator", "empty")
CHUNKS = ("one", "two", "empty", "large", "subclass", "bytearray", "memoryview", "text", "none", "number")
ERRORS = ("value", "key", "exit", "interrupt", "generator exit", "stop", "base", "awkward", "nothing", "memory",
          "recursion", "stop value", "os", "cause")
STARTS = ("two", "none", "two", "exc", "keyword", "all keywords", "one", "none at all", "not exc")
STATUSES = ("200 OK", "404 Not Found", "500 Oops", "204 No Content", "", "x", "20", "200 caf\xe9", "200 \udc80", "99999",
            "number", "none", "bytes")
HEADERS = ("plain", "none", "length 3", "length 0", "length 9", "length x", "length huge", "no list", "odd pairs",
           "missing")
OPS = ("start", "write", "fail", "message", "action", "collect", "look", "request", "pause", "write", "start", "late exc",
       "write", "handled")
ENVIRONS = ("full", "head", "empty", "file class", "file function", "file class", "file function", "file wrong", "task id",
            "traceparent", "odd values", "subclass", "werkzeug", "mounted")
RESPONDERS = ("server", "server", "server", "loose", "partial", "refuses", "no write", "odd write", "object")
WRITES = ("takes", "takes", "counts", "breaks", "breaks second")
PLANS = ("loop", "loop", "loop", "loop", "loop", "steps", "steps", "steps", "steps", "close", "drop", "nothing")
STEPS = ("next", "next", "iter", "all", "close", "len", "next", "drop", "collect", "iter", "close", "check", "next", "stop",
         "start", "rest", "bare next", "attribute")
PLACES = ("here", "here", "here", "here", "here", "thread", "greenlet", "greenlet")
RARE = tuple(number == 63 for number in range(64))
YES = (False, True)


def decode(data):
    """The script in these bytes."""
    return _Reader(data).script()


class _Reader:
    def __init__(self, data):
        self.data = iter(data)

    def pick(self, choices):
        return choices[next(self.data, 0) % len(choices)]

    def script(self):
        requests = tuple(self.request() for _ in range(self.pick((1, 1, 1, 2))))
        order = tuple(self.pick((0, 1)) for _ in range(8)) if len(requests) > 1 else ()
        return Script(requests, order)

    def request(self):
        return Request(self.app(2), self.server())

    def server(self):
        pick = self.pick
        environ, responder, write = pick(ENVIRONS), pick(RESPONDERS), pick(WRITES)
        plan = pick(PLANS)
        steps = {"loop": (("all", "here"), ("close", "here")), "close": (("close", "here"),), "drop": (("drop", "here"),),
                 "nothing": ()}.get(plan)
        if steps is None:
            steps = tuple((self.step(), pick(PLACES)) for _ in range(pick((4, 2, 3, 6, 8, 1))))
        return Server(environ, responder, write, (("call", pick(PLACES)),) + steps)

    def step(self):
        step = self.pick(STEPS)
        if step in ("stop", "start") and not self.pick(RARE):  # of the engine: dear, and a few in a thousand are enough
            return "check"
        return step

    def app(self, depth):
        pick = self.pick
        form, body, starts = pick(FORMS), pick(BODIES), pick(CALLS)
        start = (self.start(),) if starts == "starts" else ()
        call = start + self.ops(depth)
        late = (self.start(),) if starts == "starts late" else ()
        chunks = []
        for _ in range(pick((2, 1, 0, 3))):
            chunks.append((pick(CHUNKS), late + self.ops(depth)))
            late = ()
        begin, end = self.ops(depth), self.ops(depth)
        close = self.ops(depth) if pick(YES) else None
        holds = pick((False, False, False, True))
        inner = None
        if body.startswith("inner"):
            if depth:
                inner = self.app(depth - 1)
            else:
                body = "list"
        return App(form, call, body, tuple(chunks), begin, end, close, holds, inner)

    def ops(self, depth):
        return tuple(self.op(depth) for _ in range(self.pick((0, 0, 0, 0, 1, 1, 2, 3))))

    def op(self, depth):
        name = self.pick(OPS)
        if name == "start":
            return self.start()
        if name == "write":
            return name, self.pick(CHUNKS)
        if name in ("fail", "late exc", "handled"):
            return name, self.pick(ERRORS)
        if name == "request":
            return (name, self.app(0)) if depth else ("look", None)
        return name, None

    def start(self):
        """A call of start_response, and whether the application catches what that raises."""
        return "start", (self.pick(STARTS), self.pick(STATUSES), self.pick(HEADERS), self.pick((False, False, True)))


def told(script):
    """The script as regressions.py would say it: only what is not plain."""
    if not hasattr(script, "_fields"):
        if isinstance(script, tuple):
            return "(%s%s)" % (", ".join(map(told, script)), "," if len(script) == 1 else "")
        return repr(script)
    defaults = type(script)._field_defaults
    return "%s(%s)" % (type(script).__name__, ", ".join(
        "%s=%s" % (name, told(value)) for name, value in zip(script._fields, script) if value != defaults[name]))
