"""Falcon: `profilomatic.falcon.init_app(app)`, beside wrapping the application.

    app = falcon.App()
    profilomatic.falcon.init_app(app)
    app = profilomatic.wsgi.wrap(app)
"""

try:
    import falcon
except ImportError as error:
    raise ImportError("profilomatic.falcon needs Falcon: pip install falcon", name="falcon") from error

from . import wsgi

__all__ = ["Middleware", "handle_exception", "init_app"]


class Middleware:
    """Writes the URI template that matched into the environ."""

    def process_resource(self, req, resp, resource, params):
        if req.uri_template is not None:
            req.env["profilomatic.route"] = req.uri_template


def handle_exception(req, resp, error, params):
    """Falcon's own handler for exceptions (a line in the log, status 500), which also links the exception to the record."""
    import traceback

    wsgi.link_exception(req.env, error)
    req.log_error(traceback.format_exc())
    raise falcon.HTTPInternalServerError()


def init_app(app):
    """Adds the middleware, and handle_exception for Exception.

    To be called before the application adds handlers of its own: a handler for Exception that is added later takes the
    place of ours, one for a class derived from it comes before it. TypeError for anything but an application of Falcon's,
    one that is wrapped already included.
    """
    if not isinstance(app, falcon.App):
        raise TypeError("profilomatic.falcon.init_app() takes an application of Falcon's, not %r" % (app,))
    app.add_middleware(Middleware())
    app.add_error_handler(Exception, handle_exception)
