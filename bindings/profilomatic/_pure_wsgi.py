"""One action per request in pure Python; the twin of bindings/ext's wrapper, with the same rules.

A request's state lives in an object held by the wrapper of its body, never only in the thread: a server may
iterate the body on other threads, interleave two bodies on one, close without iterating, or drop everything.
The action is attached to a thread only while application code runs (the call, each next(), close()), with the
frame of Request.run() as its anchor, so that no frame of ours is ever part of the stack.

The response is never changed: each step of ours is guarded, and its failure is counted and forgotten.
"""

import sys
import time

from . import _interrupts, _pure, _stand_in, _values

_ns = time.monotonic_ns


def wrap(app):
    if not callable(app):
        raise TypeError("profilomatic.wsgi.wrap() takes a WSGI application, not %r" % (app,))
    if issubclass(type(app), WrappedApplication):  # isinstance() asks a proxy for its class, which may raise
        return app
    return WrappedApplication(app)


class WrappedApplication(_stand_in.StandIn):
    """What wrap() returns: calls the application inside an action."""

    __slots__ = ()
    _kind = "wsgi"

    def __init__(self, app):
        self.__wrapped__ = app

    def __repr__(self):
        return "<profilomatic.wsgi.wrap of %r>" % (self.__wrapped__,)

    def __call__(self, environ, start_response, *more):
        if more:
            return self._bound_to(environ)(start_response, *more)
        request = _begin(environ)
        if request is None:
            return self.__wrapped__(environ, start_response)
        try:
            result = request.run(self.__wrapped__, environ, request.start_response(start_response))
            request.called()
            return request.body(result)
        except BaseException as error:
            request.called()
            request.finish(_outcome_of(error), error)
            raise


def _begin(environ):
    if type(environ) is not dict or _pure._engine.active_run() is None:  # PEP 3333 wants a dict; no code of a subclass runs
        return None
    try:
        return Request.begin(environ)
    except Exception as error:
        if not _pure.fault("wsgi begin", error):
            raise
        return None


def _outcome_of(error):
    """StopIteration and GeneratorExit out of the application are a server giving up, no error of its own."""
    return "aborted" if isinstance(error, (GeneratorExit, StopIteration)) else "failed"


def _guarded(where):
    """A method whose failure is ours alone: counted, and None."""
    def decorate(function):
        def guarded(*args):
            try:
                return function(*args)
            except Exception as error:
                if not _pure.fault(where, error):
                    raise
                return None
        return guarded
    return decorate


def _server_frame():
    """The nearest frame that is not of this module: the server's, or whoever's call it is."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _text_of(environ, key):
    value = environ.get(key)
    return _values.display(value) if isinstance(value, str) else ""


def _rule_of(environ):
    """The framework's rule: what somebody says it is, else what Flask or Bottle leave in the environ; None: nobody knows."""
    rule = environ.get("profilomatic.route")
    if not isinstance(rule, str):
        rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    if not isinstance(rule, str):
        rule = getattr(environ.get("bottle.route"), "rule", None)
    return rule if isinstance(rule, str) else None


def _declared_length(headers):
    """The first Content-Length that can be one, or None."""
    for pair in headers:
        if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str) and \
                pair[0].lower() == "content-length" and len(pair[1]) <= 18:
            return int(pair[1]) if pair[1].isascii() and pair[1].isdigit() else None
    return None


class Request:
    """One request from the call of the application to its end."""

    __slots__ = ("work", "environ", "status", "declared", "sent", "route", "path", "head", "phases", "inside",
                 "swapped", "file_bodies", "called_at", "left_at", "wrote_ns")

    @classmethod
    def begin(cls, environ):
        path = _text_of(environ, "PATH_INFO")
        script = _text_of(environ, "SCRIPT_NAME")
        method = environ.get("REQUEST_METHOD")
        host = _text_of(environ, "HTTP_HOST")
        if not host and _text_of(environ, "SERVER_NAME"):
            host = "%s:%s" % (_text_of(environ, "SERVER_NAME"), _text_of(environ, "SERVER_PORT"))
        query = environ.get("QUERY_STRING")
        fields = {
            "method": _values.text(method, 32) if isinstance(method, str) else "",
            "host": _values.text(host, 255),
            "script_name": script,
            "path_info": path,
            "query_string": _values.scrubbed_query(query) if isinstance(query, str) else "",
        }
        work = _pure.begin(path or "wsgi_task", "wsgi", fields, _values.task_uuid_of(environ),
                           _server_frame())
        if work is None:
            return None
        self = cls()
        self.work = work
        self.environ = environ
        self.status = None
        self.declared = None
        self.sent = 0
        self.route = None
        self.path = script + path
        self.head = method == "HEAD"
        waited_ns = _values.queue_ns(_text_of(environ, "HTTP_X_REQUEST_START"), time.time_ns())
        self.phases = {"queue": waited_ns} if waited_ns else {}
        self.left_at = None  # when the application last returned to the server
        self.wrote_ns = 0  # of this stretch, in the server's write(): it waits for the client
        self.inside = work  # the innermost action when the application last ran
        self.swapped = None
        self.file_bodies = None
        self.called_at = _ns()
        environ["HTTP_X_TASK_UUID"] = work.task_uuid
        if work.outermost and work.live is not None:
            work.live.trace = _values.Trace(environ, work.task_uuid)
        self._swap_file_wrapper(environ)
        return self

    # attaching

    def run(self, function, *args):
        """Runs code of the application's on this thread, inside the action."""
        outside = _pure._current.get()
        try:
            self.attach(sys._getframe())
            return function(*args)
        finally:
            try:
                self.detach(outside)
            finally:  # whatever a signal handler raised: what the thread does next is no part of the action
                _pure._current.set(outside)

    @_guarded("wsgi attach")
    def attach(self, frame):
        """Application code is about to run below `frame`, on this thread."""
        work = self.work
        if work is None:  # closed elsewhere, while it ran here
            return
        work.thread = _pure._pure_native.get_ident()
        work.asyncio_task = _pure._asyncio_task()
        inside = each = self.inside
        while each is not None and each is not work:  # actions the application left open in its generator
            each.thread, each.asyncio_task = work.thread, work.asyncio_task
            each = each.parent
        _pure._current.set(inside)
        live = work.live
        if live is not None and work.outermost:
            live.attach(frame, False)
            work.run.attached()

    @_guarded("wsgi detach")
    def detach(self, outside):
        """Application code has returned to the server."""
        work = self.work
        if work is None:
            return
        inside = _pure._current.get()
        self.inside = inside if inside is not None and inside is not outside else work
        live = work.live
        if live is not None and work.outermost:
            live.detach()

    def spend(self, phase, since_ns):
        """A stretch of the application's, which has just returned to the server."""
        self.left_at = _ns()
        wrote_ns, self.wrote_ns = self.wrote_ns, 0
        self._add(phase, self.left_at - since_ns - wrote_ns)

    def waited(self):
        """The time since the application returned was the server's and the client's. Gives this moment."""
        now_ns = _ns()
        if self.left_at is not None:
            self._add("client", now_ns - self.left_at)
            self.left_at = None
        return now_ns

    def _add(self, phase, spent_ns):
        self.phases[phase] = self.phases.get(phase, 0) + spent_ns

    # the application's call

    def start_response(self, server_start_response):
        def start_response(*args, **kwargs):
            self.started(args)
            write = server_start_response(*args, **kwargs)
            if not callable(write):
                return write

            def counting_write(*data, **options):
                start_ns = _ns()
                try:
                    result = write(*data, **options)
                finally:
                    self.wrote(start_ns)
                self.count_written(data)
                return result

            return counting_write

        return start_response

    @_guarded("wsgi start_response")
    def started(self, args):
        """The application said its status; a later call, with exc_info, wins."""
        if args and isinstance(args[0], str) and args[0][:3].isdigit():
            self.status = int(args[0][:3])
        self.declared = None
        if len(args) > 1 and isinstance(args[1], list):
            self.declared = _declared_length(args[1])
        self.read_route()
        if len(args) > 2:
            self.link(args[2])

    def wrote(self, start_ns):
        if self.left_at is None:  # else it is within the server's time anyway
            took_ns = _ns() - start_ns
            self.wrote_ns += took_ns
            self._add("client", took_ns)

    def count_written(self, data):
        if data:
            self.count(data[0])

    def count(self, chunk):
        """What is no bytes is the server's to complain about."""
        if isinstance(chunk, bytes) and not self.head:
            self.sent += len(chunk)

    @_guarded("wsgi route")
    def read_route(self):
        """What the framework matched, while it is there: Flask forgets its request before the application returns."""
        environ = self.environ
        if environ is None:
            return
        try:
            rule = _rule_of(environ)
        except Exception as error:
            if _interrupts.is_programs(error):
                raise
            return  # a framework's own trouble: no route then
        if rule is None:
            return
        rule = _values.text(rule, 512)
        if self.route is None or not self.route.endswith(rule):  # else read before, perhaps under a mount point
            self.route = _text_of(environ, "SCRIPT_NAME") + rule

    def link(self, exc_info):
        """start_response got an exc_info: its exception is what the page that follows is about."""
        if self.environ is not None and isinstance(exc_info, tuple) and len(exc_info) == 3 \
                and isinstance(exc_info[1], BaseException):
            self.environ["profilomatic.exception"] = _values.described(exc_info[1])

    def linked(self):
        """(class, text) of the exception that became an error page, or None."""
        pair = self.environ.get("profilomatic.exception") if self.environ is not None else None
        if type(pair) is tuple and len(pair) == 2 and all(type(part) is str for part in pair):
            return pair
        return None

    def _swap_file_wrapper(self, environ):
        """Where wsgi.file_wrapper is a function, what it returns can be known only by listening; called()
        restores it."""
        factory = environ.get("wsgi.file_wrapper")
        if factory is None or isinstance(factory, type) or not callable(factory):
            return
        made = self.file_bodies = []

        def file_wrapper(*args, **kwargs):
            body = factory(*args, **kwargs)
            made.append(body)
            return body

        self.swapped = (factory, file_wrapper)
        environ["wsgi.file_wrapper"] = file_wrapper

    @_guarded("wsgi call")
    def called(self):
        """The application's call returned or raised; a second time when we were interrupted in what follows."""
        called_at, self.called_at = self.called_at, None
        if called_at is not None:
            self.spend("app", called_at)
        if self.swapped is not None:
            factory, ours = self.swapped
            self.swapped = None
            if self.environ.get("wsgi.file_wrapper") is ours:
                self.environ["wsgi.file_wrapper"] = factory

    def body(self, result):
        """What to hand to the server for what the application returned."""
        try:
            kind = type(result)
            if kind is list or kind is tuple:
                for chunk in result:
                    self.count(chunk)
                self.finish("succeeded")
                return result
            if self._is_file(result) or not (hasattr(result, "__iter__") or hasattr(result, "__getitem__")):
                self.finish("succeeded")
                return result
            return (SizedBody if hasattr(kind, "__len__") else Body)(self, result)
        except Exception as error:
            if not _pure.fault("wsgi body", error):
                raise
            self.finish("succeeded")
            return result

    def _is_file(self, result):
        if self.file_bodies is not None:
            made, self.file_bodies = self.file_bodies, None
            return any(result is body for body in made)
        factory = self.environ.get("wsgi.file_wrapper")
        return isinstance(factory, type) and isinstance(result, factory)

    # the end

    def finish(self, outcome, error=None, raised=None):
        """Ends the action, once. error: what was raised, while it is at hand; raised: what was kept of it."""
        try:
            work, self.work = self.work, None
            if work is None:
                return
            traceback = None
            if outcome != "failed":
                raised = None
            elif error is not None:
                raised, traceback = _values.described(error), error.__traceback__
            fields = {}
            try:
                raised = raised or self.linked()
                fields = self._fields()
            finally:  # the action ends, whatever goes wrong in naming it
                self.environ = self.file_bodies = self.inside = None
                _pure.end(work, outcome, _server_frame(), fields, raised, traceback, True)
        except Exception as failure:
            if not _pure.fault("wsgi end", failure):
                raise

    def _fields(self):
        self.read_route()
        route = self.route
        if route is None:
            route = "<not found>" if self.status == 404 else _values.masked_path(self.path or "/")
        return {
            "status": self.status,
            "route": _pure._engine.route_names.bounded(route),
            "bytes": self.sent,
            "phases": {name: spent / 1e9 for name, spent in self.phases.items()},
        }


class Body:
    """Hands on an iterable's chunks, one for one, and knows when the request is over."""

    __slots__ = ("_request", "_iterable", "_iterated", "_exhausted", "_failure", "_closed", "__weakref__")

    def __init__(self, request, iterable):
        self._request = request
        self._iterable = iterable
        self._iterated = self._exhausted = self._closed = False
        self._failure = None  # (outcome, (name, text)) of the first exception

    def __getattr__(self, name):
        """What else somebody looks for, such as the status_code of a framework's response, is the iterable's to answer."""
        if name in Body.__slots__:  # not initialised yet: copy and pickle ask before __init__
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __iter__(self):
        return self._iterate(self._iterable, self)

    def __next__(self):
        return self._next(self._iterable)

    def _iterate(self, of, ours):
        """iter() of an object of the application's, whenever ours is asked for its own; itself gives ourselves."""
        request = self._request
        if request is None:
            iterator = iter(of)
        else:
            entered_at = request.waited()
            try:
                iterator = request.run(iter, of)
            except BaseException as error:
                request.spend("body" if request.sent else "first_byte", entered_at)
                self._failed(error)
                raise
            request.spend("body" if request.sent else "first_byte", entered_at)
        return ours if iterator is of else Chunks(self, iterator)

    def _next(self, iterator):
        request = self._request
        if request is None:
            return next(iterator)
        entered_at = request.waited()
        phase = "body" if request.sent else "first_byte"  # which the chunk itself still belongs to
        try:
            chunk = request.run(next, iterator)
        except StopIteration:
            request.spend(phase, entered_at)
            self._iterated = self._exhausted = True
            if not hasattr(self._iterable, "close"):  # nothing of the application can run any more
                self._finish("succeeded")
            raise
        except BaseException as error:
            request.spend(phase, entered_at)
            self._iterated = True
            self._failed(error)
            raise
        self._iterated = True
        request.spend(phase, entered_at)
        request.count(chunk)
        return chunk

    def close(self):
        """Closes the iterable, not its iterator, once, and ends the request after it."""
        if self._closed:
            return None
        self._closed = True
        request = self._request
        close = getattr(self._iterable, "close", None)
        if close is None:
            self._finish(self._outcome())
            return None
        if request is None:
            return close()
        entered_at = request.waited()
        try:
            answer = request.run(close)
        except BaseException as error:
            request.spend("close", entered_at)
            self._failed(error)
            self._finish(self._outcome())
            raise
        request.spend("close", entered_at)
        self._finish(self._outcome())
        return answer

    def _failed(self, error):
        """Remembers the first failure without its traceback, which would keep the application's frames."""
        if self._failure is None:
            outcome = _outcome_of(error)
            try:
                self._failure = outcome, _values.described(error)
            except Exception as failure:
                self._failure = outcome, None
                if not _pure.fault("wsgi end", failure):
                    raise

    def _outcome(self):
        request = self._request
        if self._failure is not None:
            return self._failure[0]
        if self._exhausted or not self._iterated:
            return "succeeded"
        if request is not None and (
                request.head or request.declared is not None and request.sent >= request.declared):
            return "succeeded"
        return "aborted"

    def _finish(self, outcome):
        request, self._request = self._request, None
        if request is not None:
            request.waited()
            request.finish(outcome, None, self._failure[1] if self._failure is not None else None)

    def __del__(self):
        request = getattr(self, "_request", None)
        if request is not None:
            self._finish(self._failure[0] if self._failure is not None else "lost")


class SizedBody(Body):
    """For an iterable with a length, from which some servers derive Content-Length."""

    __slots__ = ()

    def __len__(self):
        return len(self._iterable)


class Chunks:
    """What iter() of a body gives whose iterator is another object than its iterable; keeps the body's request open."""

    __slots__ = ("_body", "_iterator")

    def __init__(self, body, iterator):
        self._body = body
        self._iterator = iterator

    def __iter__(self):
        return self._body._iterate(self._iterator, self)

    def __next__(self):
        return self._body._next(self._iterator)
