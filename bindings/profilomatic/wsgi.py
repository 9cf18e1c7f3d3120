"""One action per request: a decorator for any WSGI application.

    app = profilomatic.wsgi.wrap(app)

Flask, Django, Pyramid and Falcon have a module of their own beside this one: see docs/frameworks.md.
"""

from . import _backend, _callables, _named

__all__ = ["link_exception", "wrap"]


def wrap(app):
    """Wraps a WSGI callable so that each request becomes an action with its own call graph.

    Returns a WSGI callable. Wrapping what is wrapped already returns it unchanged. While the engine is stopped, or
    when a request is not admitted, the application is called as if it were bare. The response never changes: a list
    or tuple comes back as the same object, any other body inside an iterator that hands on every chunk as it is; a
    failure of ours is counted and the request goes on.

    The request's task id is taken from the header X-Task-UUID, else from `traceparent`, else it is new; it is
    written to environ["HTTP_X_TASK_UUID"]. A malformed header is ignored.

    The first application that is wrapped adds the destination that PROFILOMATIC_DESTINATION names, if it does.

    Raises TypeError when `app` cannot be called, or is an application of ASGI. May be called from any thread.
    """
    if _callables.is_coroutine_function(app):
        raise TypeError("%r is an ASGI application: wrap it with profilomatic.asgi.wrap()" % (app,))
    wrapped = _backend.load().wrap(app)
    _named.add()
    return wrapped


def link_exception(environ, error):
    """Links an exception that was turned into an error page to the request's record; its outcome stays what it is.

    For integrations and error handlers: a framework that answers for its application hides what went wrong. What is kept,
    as environ["profilomatic.exception"], is the class and the text, so that neither the exception nor its frames
    live longer. The last one linked counts; an exception that leaves the application counts more.

    The other key for integrations is environ["profilomatic.route"]: the rule that was matched, as text, without the
    mount point.
    """
    from . import _values

    environ["profilomatic.exception"] = _values.described(error)
