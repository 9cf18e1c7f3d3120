"""One action per request: a decorator for any WSGI application.

    app = profilomatic.wsgi.wrap(app)          # or, with Flask: app.wsgi_app = wrap(app.wsgi_app)
"""

from . import _backend

__all__ = ["wrap"]


def wrap(app):
    """Wraps a WSGI callable so that each request becomes an action with its own call graph.

    Returns a WSGI callable. Wrapping what is wrapped already returns it unchanged. While the engine is stopped, or
    when a request is not admitted, the application is called as if it were bare. The response never changes: a list
    or tuple comes back as the same object, any other body inside an iterator that hands on every chunk as it is; a
    failure of ours is counted and the request goes on.

    The request's task id is taken from the header X-Task-UUID, else from `traceparent`, else it is new; it is
    written to environ["HTTP_X_TASK_UUID"]. A malformed header is ignored.

    Raises TypeError when `app` cannot be called. May be called from any thread.
    """
    return _backend.load().wrap(app)
