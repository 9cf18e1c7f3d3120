"""Django: the application wrapped, and a middleware that says which route a request took and what became an error page.

    # settings.py
    MIDDLEWARE = ["profilomatic.django.Middleware", ...]
    WSGI_APPLICATION = "profilomatic.django.application"     # for runserver

    $ DJANGO_SETTINGS_MODULE=site.settings gunicorn profilomatic.django:application
    $ DJANGO_SETTINGS_MODULE=site.settings uvicorn profilomatic.django:asgi_application

A project with a wsgi.py or asgi.py of its own takes get_wsgi_application() or get_asgi_application() from here.
"""

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.core import signals
except ImportError as error:
    raise ImportError("profilomatic.django needs Django: pip install django", name="django") from error

from . import asgi, wsgi

__all__ = ["Middleware", "application", "asgi_application", "get_asgi_application", "get_wsgi_application"]


class Middleware:
    """Writes the matched route into the environ or the scope, and links exceptions that Django answers with status 500.

    Anywhere in MIDDLEWARE; first is best, since those after it may raise too. Without the wrapper it does nothing of use.
    Exceptions are linked over WSGI only.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response):
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)
        link_exceptions()

    def __call__(self, request):
        return self._get_response(request)

    def process_view(self, request, view, args, kwargs):
        say_route(request)


def say_route(request):
    """The route of a request that was resolved, for the wrapper around the application."""
    match = request.resolver_match
    place = getattr(request, "environ", None) or getattr(request, "scope", None)
    if place is not None and match is not None:
        place["profilomatic.route"] = "/" + match.route.removeprefix("^").removeprefix("/")


def link_exceptions():
    """From here on, in this process; twice is once."""
    signals.got_request_exception.connect(_link, dispatch_uid="profilomatic")


def _link(sender, request=None, **_):
    import sys

    error, environ = sys.exc_info()[1], getattr(request, "environ", None)
    if error is not None and environ is not None:
        wsgi.link_exception(environ, error)


def get_wsgi_application():
    """Django's own, wrapped."""
    from django.core.wsgi import get_wsgi_application

    return wsgi.wrap(get_wsgi_application())


def get_asgi_application():
    """Django's own, wrapped."""
    from django.core.asgi import get_asgi_application

    return asgi.wrap(get_asgi_application())


_MAKE = {"application": get_wsgi_application, "asgi_application": get_asgi_application}


def __getattr__(name):
    # Made when somebody asks: Django sets itself up for it, which an import must not.
    if name in _MAKE:
        made = globals()[name] = _MAKE[name]()
        return made
    raise AttributeError("module %r has no attribute %r" % (__name__, name))
