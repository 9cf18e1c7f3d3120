"""Pyramid: `config.include("profilomatic.pyramid")`, beside wrapping the application.

    config.include("profilomatic.pyramid")
    app = profilomatic.wsgi.wrap(config.make_wsgi_app())

Two events say what the wrapper cannot see: which route matched, and which exception a view for exceptions answered.
"""

try:
    from pyramid.events import BeforeTraversal, NewResponse
    from pyramid.interfaces import IResponse
except ImportError as error:
    raise ImportError("profilomatic.pyramid needs Pyramid: pip install pyramid", name="pyramid") from error

from . import wsgi

__all__ = ["includeme"]


def includeme(config):
    """Subscribes to the events; for Configurator.include()."""
    config.add_subscriber(_say_route, BeforeTraversal)
    config.add_subscriber(_link, NewResponse)


def _say_route(event):
    route = getattr(event.request, "matched_route", None)  # absent: found by traversal, or not at all
    if route is not None:
        event.request.environ["profilomatic.route"] = "/" + route.pattern.removeprefix("/")


def _link(event):
    error = getattr(event.request, "exception", None)
    # HTTPNotFound and its like are answers that can be raised, no failures.
    if error is not None and not IResponse.providedBy(error):
        wsgi.link_exception(event.request.environ, error)
