"""Flask: `profilomatic.flask.init_app(app)` instead of wrapping, with the exceptions behind its error pages.

The route needs no help: the wrapper finds it in werkzeug's request.
"""

try:
    import flask
except ImportError as error:
    raise ImportError("profilomatic.flask needs Flask: pip install flask", name="flask") from error

from . import wsgi

__all__ = ["init_app", "link_exceptions"]


def init_app(app):
    """Profiles the requests of a Flask application: wraps app.wsgi_app, and links unhandled exceptions to their records.

    Doing it twice is doing it once. An exception that an error handler of its own turns into an answer is handled and not
    linked; one that becomes the page for errors of status 500 is, by the signal got_request_exception. TypeError for
    anything but a Flask application, one that is wrapped already included: call it before wsgi.wrap().
    """
    if not isinstance(app, flask.Flask):
        raise TypeError("profilomatic.flask.init_app() takes a Flask application, not %r" % (app,))
    if "profilomatic" in app.extensions:
        return
    app.extensions["profilomatic"] = True
    app.wsgi_app = wsgi.wrap(app.wsgi_app)
    link_exceptions(app)


def link_exceptions(app):
    """The second half of init_app(), for an application that is wrapped elsewhere."""
    flask.got_request_exception.connect(_link, app)


def _link(sender, exception, **_):
    if flask.has_request_context():
        wsgi.link_exception(flask.request.environ, exception)
