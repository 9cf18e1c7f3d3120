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
import sys

from . import _after_import, _callables, _named
from ._named import destination

__all__ = ["destination", "install"]

# How middleware calls what it stands around: Flask, werkzeug's and many others', WhiteNoise, functools.wraps.
_INNER = ("wsgi_app", "app", "application", "__wrapped__")
_DEPTH = 16
_PREPARED_MAX = 64  # they are kept alive; a process serves one or two

_installed = False
_asks = False  # whether a missing destination is still to be complained of
_prepared = []  # applications whose framework has been told; a server may load one twice


def install(from_environment=True):
    """Wraps the applications that servers load from here on. Twice is once.

    from_environment: with the first of them, PROFILOMATIC_DESTINATION is added as a destination, so that a process
    without an application starts no engine and opens no file.
    """
    global _installed, _asks
    if _installed:
        return
    _installed = True
    _asks = from_environment
    if not from_environment:
        _named.settle()
    for module, hook in _HOOKS.items():
        _after_import.call(module, guarded(hook))


# the application

def wrapped(app):
    """The application as the server shall have it."""
    try:
        app = _wrapped(app)
        _check_destination()
    except Exception as error:
        _named.complain(error)
    return app


def _wrapped(app):
    from . import asgi, wsgi

    if not callable(app):
        return app
    ours = (asgi if _callables.is_coroutine_function(app) else wsgi).wrap(app)
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


def _check_destination():
    global _asks
    if not _asks:
        return
    _asks = False
    _named.add()  # also for an application that its own code has wrapped, or not at all
    import profilomatic

    if not profilomatic.stats()["destinations"] and not _named.failed:
        _named.complain("PROFILOMATIC_DESTINATION is not set: name a file, http://HOST:PORT, or - for standard error")


# where servers take it

def guarded(hook):
    def guarded(module):
        try:
            hook(module)
        except Exception as error:  # another version of the server, which does it elsewhere
            _named.complain("%s: %r" % (module.__name__, error))

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


def _uvicorn(module):
    """What Config.load() has loaded, inside uvicorn's own middleware, which puts the client's address into the scope."""
    plain = module.Config.load
    own = ("uvicorn.middleware.message_logger", "uvicorn.middleware.proxy_headers", "uvicorn.middleware.wsgi")

    @functools.wraps(plain)
    def load(self):
        plain(self)
        owner, name = self, "loaded_app"
        while type(getattr(owner, name)).__module__ in own:
            owner, name = getattr(owner, name), "app"
        setattr(owner, name, wrapped(getattr(owner, name)))

    module.Config.load = load


def _uvicorn_stop(module):
    """It ends by the signal that stopped it, so nothing runs at exit."""
    plain = module.Server.shutdown

    @functools.wraps(plain)
    async def shutdown(self, *args, **kwargs):
        try:
            return await plain(self, *args, **kwargs)
        finally:
            _flush()

    module.Server.shutdown = shutdown


def _flush():
    try:
        import profilomatic

        profilomatic.flush()
    except Exception as error:
        _named.complain(error)


_HOOKS = {
    "gunicorn.app.base": _result("BaseApplication.wsgi"),  # in each worker, and in the master with --preload
    "waitress.server": _argument("create_server", "application"),
    "werkzeug.serving": _argument("BaseWSGIServer.__init__", "app"),  # flask run
    "wsgiref.simple_server": _argument("WSGIServer.set_app", "application"),  # manage.py runserver
    "gevent.pywsgi": _argument("WSGIServer.__init__", "application"),
    "cheroot.wsgi": _argument("Server.__init__", "wsgi_app"),
    "uvicorn.config": _uvicorn,  # whether uvicorn runs it, gunicorn, or a program
    "uvicorn.server": _uvicorn_stop,
    "hypercorn.utils": _argument("wrap_app", "app"),
    "django.core.handlers.base": _django,
}
