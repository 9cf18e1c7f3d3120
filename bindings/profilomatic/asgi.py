"""One action per HTTP request: a decorator for any ASGI application.

    app = profilomatic.asgi.wrap(app)          # Starlette, FastAPI, Django, Quart; last, around all middleware
"""

from . import _backend, _callables, _named, _stand_in

__all__ = ["wrap"]

_LAST_SECONDS = 2.0  # as at exit


def wrap(app):
    """Wraps an ASGI application so that each HTTP request becomes an action with its own call graph.

    Returns an ASGI application. Wrapping what is wrapped already returns it unchanged, and so does an application of
    ASGI 2 (called with the scope alone), which is not profiled. Websockets and the lifespan pass through: the
    application gets the very objects of the server. While the engine is stopped, or when a request is not admitted,
    the same holds for requests. When the lifespan is over, what has been measured is delivered, in two seconds at
    most: a server may end by a signal then (uvicorn does), and nothing runs at exit. A request's messages pass unchanged, each when it is sent, and what the application
    returns or raises is what the server sees; a failure of ours is counted and the request goes on.

    The action lasts until the application returns: background tasks that a framework runs after the response are
    part of it. The request's task id is taken from the header X-Task-UUID, else from `traceparent`, else it is new; it is
    written to scope["profilomatic.task_uuid"]. A malformed header is ignored.

    The first application that is wrapped adds the destination that PROFILOMATIC_DESTINATION names, if it does.

    Raises TypeError when `app` cannot be called, or is an application of WSGI. May be called from any thread.
    """
    if issubclass(type(app), WrappedApplication):  # isinstance() asks a proxy for its class, which may raise
        return app
    if not callable(app):
        raise TypeError("profilomatic.asgi.wrap() takes an ASGI application, not %r" % (app,))
    if not _callables.takes_all_three(app):
        if _callables.takes(app, 2) and not _callables.takes(app, 1):
            raise TypeError("%r is a WSGI application: wrap it with profilomatic.wsgi.wrap()" % (app,))
        return app
    wrapped = WrappedApplication(app)
    _named.add()
    return wrapped


class WrappedApplication(_stand_in.StandIn):
    """What wrap() returns: awaits the application inside an action.

    A coroutine function, since servers ask for one, and since its frame is where the action is anchored from the
    request's first step to its last. The backend's request does the rest.
    """

    __slots__ = ("_begin",)
    _kind = "asgi"

    def __init__(self, app):
        self.__wrapped__ = app
        self._begin = _backend.load().asgi_begin

    async def __call__(self, scope, receive, send, *more):
        if more:
            return await self._bound_to(scope)(receive, send, *more)
        request = self._begin(scope)
        if request is None:
            try:
                return await self.__wrapped__(scope, receive, send)
            finally:
                if type(scope) is dict and scope.get("type") == "lifespan":
                    _deliver()
        try:
            if request.profiled:
                receive, send = request.observe(receive, send)
            result = await self.__wrapped__(scope, receive, send)
        except BaseException as error:
            request.finish(error)
            raise
        request.finish(None)
        return result

    def __repr__(self):
        return "<profilomatic.asgi.wrap of %r>" % (self.__wrapped__,)


def _deliver():
    """No request is open any more, and the server, which waits for its event loop, goes on after this."""
    try:
        _backend.load().flush(_LAST_SECONDS)
    except Exception:
        pass  # the server's end is not ours to hold up
