"""ASGI requests for the pure twin: what a request of profilomatic.asgi's wrapper learns, and what ends it.

The wrapper's coroutine is the anchor, from the request's first step to its last; a walk stops there. As everywhere
in the twin only what runs is seen: a request that waits has its time, and no line of it.

Phases and outcomes are those of the extension, see bindings/ext/asgi.c.
"""

import sys
import time
import types

from . import _interrupts, _pure, _values

_ns = time.monotonic_ns

_HEADERS = (b"host", b"x-task-uuid", b"traceparent", b"x-request-start")
_APP, _FIRST_BYTE, _BODY, _CLOSE = "app", "first_byte", "body", "close"


def begin(scope):
    """The request of this scope, anchored at the calling coroutine; None where the application runs bare."""
    if _pure._engine.active_run() is None or type(scope) is not dict or scope.get("type") != "http":
        return None
    try:
        return Request.begin(scope, sys._getframe(1))
    except Exception as error:
        if not _pure.fault("asgi begin", error):
            raise
        return None


def _guarded(method):
    """A failure of ours is ours alone: counted, and the request goes on."""
    def guarded(self, *args):
        try:
            if self.work is not None:
                method(self, *args)
        except Exception as error:
            if not _pure.fault("asgi " + method.__name__, error):
                raise
    return guarded


def _text(value):
    return _values.text(value) if isinstance(value, str) else ""


def _below(root, path):
    """The rest of a path below its mount point; all of it when it does not lie there."""
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root):]
    return path


def _headers(scope):
    """Those that matter, as text."""
    found = {}
    headers = scope.get("headers")
    for pair in headers if isinstance(headers, (list, tuple)) else ():
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], bytes):
            name, value = pair
            if name in _HEADERS and isinstance(value, bytes):
                found[name] = value.decode("latin-1")
    return found


def _host(scope, headers):
    host = headers.get(b"host")
    if host:
        return _values.text(host, 255)
    server = scope.get("server")
    if not isinstance(server, (list, tuple)) or len(server) != 2 or not isinstance(server[0], str):
        return ""
    return _values.text(server[0] if not server[1] else "%s:%s" % tuple(server), 255)


def _peer(scope):
    client = scope.get("client")
    return _text(client[0]) if isinstance(client, (list, tuple)) and len(client) == 2 else ""


def _asked_task(scope, headers):
    """The id of a request around this one, else what the headers ask for, else None."""
    around = scope.get("profilomatic.task_uuid")
    return _values.task_uuid_of({
        "HTTP_X_TASK_UUID": around if isinstance(around, str) else headers.get(b"x-task-uuid"),
        "HTTP_TRACEPARENT": headers.get(b"traceparent"),
    })


def _attribute(value, name):
    """An attribute of a framework's object; None where there is none, whatever asking for it raises."""
    try:
        return getattr(value, name)
    except Exception as error:
        if _interrupts.is_programs(error):
            raise
        return None


def _route_of(scope):
    """The name of the matched route with its mount point once, or None; see bindings/ext/scope.c."""
    given = scope.get("profilomatic.route")
    if isinstance(given, str) and given:
        return _values.text(_text(scope.get("root_path")) + given, 512)
    route = scope.get("route")
    fastapi = scope.get("fastapi")
    context = fastapi.get("effective_route_context") if type(fastapi) is dict else None
    if context is not None and _attribute(context, "original_route") is route:
        route = context
    path = _attribute(route, "path")
    if not isinstance(path, str):
        return None
    is_mount = _attribute(route, "path_format") == path + "/{path}"
    return _values.text(_text(scope.get("root_path")) + ("/{path}" if is_mount else path), 512)


def _is_cancellation(error):
    """Cancellation comes as what is no Exception, in asyncio, in trio and when a coroutine is closed."""
    failures = Exception, SystemExit, KeyboardInterrupt, *_GROUPS
    return not isinstance(error, failures)


try:
    _GROUPS = (BaseExceptionGroup,)
except NameError:  # before Python 3.11
    _GROUPS = ()


async def _observed_receive(pair):
    request, receive = pair
    since = _ns()
    message = await receive()
    request.received(since, message)
    return message


async def _observed_send(pair, message):
    request, send = pair
    request.sending(message)
    try:
        result = await send(message)
    except BaseException as error:
        request.sent(error)
        raise
    request.sent(None)
    return result


class Request:
    """One HTTP request from the call of the application to its return."""

    __slots__ = ("work", "profiled", "scope", "since", "spent", "client", "sent_bytes", "status", "waits", "phase", "head",
                 "has_body", "started", "complete", "gone", "path")

    @classmethod
    def begin(cls, scope, frame):
        headers = _headers(scope)
        root = _text(scope.get("root_path"))
        path = _below(root, _text(scope.get("path")))
        query = scope.get("query_string")
        method = _text(scope.get("method"))
        fields = {
            "method": method[:32],
            "host": _host(scope, headers),
            "script_name": root,
            "path_info": path,
            "query_string": _values.scrubbed_query(query.decode("latin-1"))
            if isinstance(query, bytes) else "",
        }
        peer = _peer(scope)
        if peer:
            fields["client"] = peer
        around = _pure._in_context()
        if "profilomatic.task_uuid" not in scope and around is not None and around.spreads and not _pure.runs_inside(around):
            _pure._current.set(None)  # a server may make a request's task in the context of the one before it
        work = _pure.begin(path or "asgi_task", "asgi", fields, _asked_task(scope, headers), frame.f_back, frame, False)
        if work is None:
            return None
        work.spreads = True
        if work.outermost and work.live is not None:
            work.live.trace = _values.Trace({"HTTP_TRACEPARENT": headers.get(b"traceparent")}, work.task_uuid)
        self = cls()
        self.work = work
        self.profiled = work.live is not None
        self.scope = scope if self.profiled else None
        self.since = _ns()
        self.spent = {"queue": _values.queue_ns(headers.get(b"x-request-start"), time.time_ns()), _APP: 0, _FIRST_BYTE: 0, _BODY: 0, "client": 0, _CLOSE: 0}
        self.sent_bytes = self.waits = 0
        self.status = None
        self.phase = _APP
        self.head = method == "HEAD"
        self.has_body = self.started = self.complete = self.gone = False
        self.path = root + path
        _pure.enter(work)
        if self.profiled:
            scope["profilomatic.task_uuid"] = work.task_uuid
        return self

    def observe(self, receive, send):
        """The server's receive and send as the application gets them, each bound to the pair of this and the server's own."""
        return types.MethodType(_observed_receive, (self, receive)), types.MethodType(_observed_send, (self, send))

    def _settle(self, phase):
        now = _ns()
        self.spent[phase] += now - self.since
        self.since = now

    def _count(self, size, message):
        if not self.head:
            self.sent_bytes += size
            self.has_body = self.has_body or size > 0
        self.complete = self.complete or not message.get("more_body", False)

    @_guarded
    def sending(self, message):
        """A message is handed to the server."""
        self.waits += 1
        if self.waits == 1:
            self._settle(self.phase)
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "http.response.body":
            self._count(memoryview(message.get("body", b"")).nbytes, message)
        elif kind == "http.response.start":
            status = message.get("status")
            self.status = status if isinstance(status, int) else None
            self.started = True
        elif kind == "http.response.zerocopysend":
            self._count(message.get("count") or 0, message)
        elif kind == "http.response.pathsend":
            self.complete = True

    @_guarded
    def sent(self, error):
        """The server has taken it (None), or raised this."""
        self.waits -= 1
        if self.waits > 0:
            return
        self._settle("client")
        self.phase = (_CLOSE if self.complete else _BODY if self.has_body else _FIRST_BYTE if self.started else _APP)
        if isinstance(error, OSError):
            self.gone = True

    @_guarded
    def received(self, since, message):
        """A message of the server, awaited since then."""
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "http.disconnect":
            self.gone = self.gone or not self.complete
        elif kind == "http.request" and self.waits == 0:
            now, since = _ns(), max(since, self.since)
            self.spent[self.phase] += since - self.since
            self.spent["client"] += now - since
            self.since = now

    @_guarded
    def finish(self, error):
        """The application has returned (None), or raised this."""
        if error is None:
            outcome = "aborted" if self.gone or (self.started and not self.complete) else "succeeded"
        else:
            outcome = "aborted" if self.gone or _is_cancellation(error) else "failed"
        raised = traceback = None
        if outcome == "failed":
            raised, traceback = _values.described(error), error.__traceback__
        fields = {}
        work, scope = self.work, self.scope
        try:
            if scope is not None:
                self._settle("client" if self.waits else self.phase)
                fields = self._fields(scope)
        finally:  # the action ends, whatever goes wrong in naming it
            self.work = self.scope = None
            try:
                _pure.end(work, outcome, sys._getframe(2).f_back, fields, raised, traceback, True)
            except BaseException:
                _pure.leave(work)  # else the context would keep it, open
                raise

    def _fields(self, scope):
        route = _route_of(scope)
        if route is None:
            route = "<not found>" if self.status == 404 else _values.masked_path(self.path or "/")
        return {
            "status": self.status,
            "route": _pure._engine.route_names.bounded(route),
            "bytes": self.sent_bytes,
            "phases": {name: spent / 1e9 for name, spent in self.spent.items() if spent},
        }

    def __del__(self):
        work, self.work = getattr(self, "work", None), None
        if work is not None:
            try:
                _pure.end(work, "lost", None)
            except Exception:
                pass  # the interpreter may be half gone
