"""Profiling without a line of code: the application is wrapped where its server takes it.

Asked for by `profilomatic run`, by PROFILOMATIC_AUTO=1 (see _site/sitecustomize.py), or by hand, before the server loads the
application:

    import profilomatic.auto           # in gunicorn.conf.py, say
    profilomatic.auto.install()

Servers hand an application around in one place each, a function or a method; that one is replaced when the server's module has
been imported. Nothing else is, and without install() nothing at all. An application that is wrapped already, at
the surface or below middleware, is left as it is.

A fault of ours leaves the application as the server would have it, with one line on standard error.
"""

import functools
import os
import sys

from . import _after_import

__all__ = ["destination", "install"]

# How middleware calls what it stands around: Flask, werkzeug's and many others', WhiteNoise, functools.wraps.
_INNER = ("wsgi_app", "app", "application", "__wrapped__")
_DEPTH = 16
_PREPARED_MAX = 64  # they are kept alive; a process serves one or two

_installed = False
_named = None  # the destination to add with the first application; None: done, or somebody else's business
_prepared = []  # applications whose framework has been told; a server may load one twice


def install(from_environment=True):
    """Wraps the applications that servers load from here on. Twice is once.

    from_environment: with the first of them, PROFILOMATIC_DESTINATION is added as a destination, so that a process
    without an application starts no engine and opens no file.
    """
    global _installed, _named
    if _installed:
        return
    _installed = True
    if from_environment:
        _named = os.environ.get("PROFILOMATIC_DESTINATION", "").strip()
    for module, hook in _HOOKS.items():
        _after_import.call(module, _guarded(hook))


def destination(text):
    """The destination that a text names: http://host[:port][/path] or https://, "-" for standard error, else a file.

    A file is appended to, as several processes share it. A server gets PROFILOMATIC_TOKEN as its token. ValueError and
    OSError say what is wrong.
    """
    import profilomatic

    if text == "-":
        return profilomatic.file_destination(sys.stderr)
    if "://" not in text:
        return profilomatic.file_destination(text, append=True)
    from urllib.parse import urlsplit

    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username is not None:
        raise ValueError("a destination is a file, - or http[s]://host[:port][/path], not %r" % (text,))
    path = url.path if url.path not in ("", "/") else "/api/data"
    token = os.environ.get("PROFILOMATIC_TOKEN") or None
    return profilomatic.RestDestination(url.hostname, url.port, path=path, tls=url.scheme == "https", token=token)


# the application

def wrapped(app):
    """The application as the server shall have it."""
    try:
        app = _wrapped(app)
        _add_named()
    except Exception as error:
        _complain(error)
    return app


def _wrapped(app):
    from . import wsgi

    if not callable(app) or _is_asgi(app):
        return app
    ours = wsgi.wrap(app)
    chain = _chain(app)
    if any(type(each) is type(ours) for each in chain):
        return app  # explicitly, by whoever knows better
    for each in chain:
        if len(_prepared) < _PREPARED_MAX and not any(each is known for known in _prepared):
            _prepared.append(each)
            _tell_framework(each)
    return ours


def _chain(app):
    """The application and what it stands around, as far as that can be seen."""
    chain = [app]
    while len(chain) < _DEPTH:
        inner = (getattr(chain[-1], name, None) for name in _INNER)
        inner = next((each for each in inner if callable(each)), None)
        if inner is None:
            break
        chain.append(inner)
    return chain


def _is_asgi(app):
    import inspect

    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(type(app), "__call__", None))


def _tell_framework(app):
    """What init_app() and its like do, for applications that are made already."""
    module = type(app).__module__.partition(".")[0]
    if isinstance(app, _class("flask", "Flask")):
        from .flask import link_exceptions

        link_exceptions(app)
    elif isinstance(app, _class("falcon", "App")):
        from .falcon import Middleware

        app.add_middleware(Middleware())
    elif module == "pyramid" and hasattr(app, "registry"):
        from pyramid.config import Configurator

        config = Configurator(registry=app.registry)
        config.include("profilomatic.pyramid")
        config.commit()


def _class(module, name):
    """A class of a module that is imported, or no class."""
    return getattr(sys.modules.get(module), name, ())


def _add_named():
    global _named
    if _named is None:
        return
    text, _named = _named, None
    import profilomatic

    if text:
        profilomatic.add_destination(destination(text))
    elif not profilomatic.stats()["destinations"]:
        _complain("PROFILOMATIC_DESTINATION says where to")


def _complain(error):
    try:
        print("profilomatic: not profiled: %s" % (error,), file=sys.stderr)
    except Exception:
        pass  # no standard error


# where servers take it

def _guarded(hook):
    def guarded(module):
        try:
            hook(module)
        except Exception as error:  # another version of the server, which does it elsewhere
            _complain("%s: %r" % (module.__name__, error))

    return guarded


def _argument(path, name):
    """The application is the argument `name` of a function or method of the module."""

    def hook(module):
        import inspect

        *outer, last = path.split(".")
        owner = functools.reduce(getattr, outer, module)
        plain = getattr(owner, last)
        position = list(inspect.signature(plain).parameters).index(name)

        @functools.wraps(plain)
        def with_wrapped(*args, **kwargs):
            if name in kwargs:
                kwargs[name] = wrapped(kwargs[name])
            elif len(args) > position:
                args = (*args[:position], wrapped(args[position]), *args[position + 1:])
            return plain(*args, **kwargs)

        setattr(owner, last, with_wrapped)

    return hook


def _result(path):
    """The application is what a method of the module returns."""

    def hook(module):
        owner, last = path.split(".")
        owner = getattr(module, owner)
        plain = getattr(owner, last)

        @functools.wraps(plain)
        def with_wrapped(*args, **kwargs):
            return wrapped(plain(*args, **kwargs))

        setattr(owner, last, with_wrapped)

    return hook


def _django(module):
    """No server: where Django resolves a request, since its middleware is loaded before we see the application."""
    from . import django

    plain = module.BaseHandler.resolve_request

    @functools.wraps(plain)
    def resolve_request(self, request):
        match = plain(self, request)
        django.say_route(request)
        return match

    module.BaseHandler.resolve_request = resolve_request
    django.link_exceptions()


_HOOKS = {
    "gunicorn.app.base": _result("BaseApplication.wsgi"),  # in each worker, and in the master with --preload
    "waitress.server": _argument("create_server", "application"),
    "werkzeug.serving": _argument("BaseWSGIServer.__init__", "app"),  # flask run
    "wsgiref.simple_server": _argument("WSGIServer.set_app", "application"),  # manage.py runserver
    "gevent.pywsgi": _argument("WSGIServer.__init__", "application"),
    "cheroot.wsgi": _argument("Server.__init__", "wsgi_app"),
    "django.core.handlers.base": _django,
}
