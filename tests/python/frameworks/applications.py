"""One small shop in each framework, as docs/frameworks.md sets it up.

    GET /item/<number>      "item 7", status 200
    GET /stream/<name>      two chunks
    GET /raise/<number>     LookupError("shelf 7 is empty") in the view: the framework answers with status 500
    GET /refuse/<number>    the framework's own way to say 403
    everything else         404
"""

from pom_support import use_django

import profilomatic
import profilomatic.wsgi

MESSAGE = "shelf 7 is empty"
wrap = profilomatic.wsgi.wrap


def fail(number):
    raise LookupError("shelf %s is empty" % number)


def make_flask():
    import flask

    def make():
        app = flask.Flask("shop")
        app.logger.disabled = True
        app.add_url_rule("/item/<int:number>", "item", lambda number: "item %d" % number)
        app.add_url_rule("/stream/<name>", "stream", lambda name: flask.Response(iter([name, "!"])))
        app.add_url_rule("/raise/<int:number>", "raise", fail)
        app.add_url_rule("/refuse/<int:number>", "refuse", lambda number: flask.abort(403))
        return app

    import profilomatic.flask

    profiled, bare = make(), make()
    profilomatic.flask.init_app(profiled)
    profilomatic.flask.init_app(profiled)  # twice is once
    return profiled, bare


_django = None


def make_django():
    """Settings are the process's, and so is the middleware: "bare" is the same application without the wrapper."""
    global _django
    if _django is None:
        import logging
        import types

        from django.core.exceptions import PermissionDenied
        from django.http import HttpResponse, StreamingHttpResponse
        from django.urls import include, path, re_path

        def refuse(request, number):
            raise PermissionDenied

        shop = [path("item/<int:number>", lambda request, number: HttpResponse("item %s" % number)),
                path("stream/<str:name>", lambda request, name: StreamingHttpResponse([name, "!"])),
                path("raise/<int:number>", lambda request, number: fail(number)),
                path("refuse/<int:number>", refuse)]
        urls = types.ModuleType("shop_urls")
        urls.urlpatterns = [*shop, re_path("^old/(?P<number>[0-9]+)$", shop[0].callback), path("api/", include(shop))]
        options = {"ROOT_URLCONF": urls, "WSGI_APPLICATION": "profilomatic.django.application",
                   "MIDDLEWARE": ["profilomatic.django.Middleware", "django.middleware.common.CommonMiddleware"]}
        use_django(**options)
        logging.getLogger("django").disabled = logging.getLogger("django.request").disabled = True
        from django.core.wsgi import get_wsgi_application

        import profilomatic.django

        _django = options, (profilomatic.django.application, get_wsgi_application())
    use_django(**_django[0])  # another test of this process may have changed them
    return _django[1]


def make_bottle():
    import bottle

    def make():
        app = bottle.Bottle()
        app.route("/item/<number:int>", callback=lambda number: "item %d" % number)
        app.route("/stream/<name>", callback=lambda name: iter([name, "!"]))
        app.route("/raise/<number:int>", callback=fail)
        app.route("/refuse/<number:int>", callback=lambda number: bottle.abort(403))
        return app

    return wrap(make()), make()


def make_pyramid():
    from pyramid.config import Configurator
    from pyramid.httpexceptions import HTTPForbidden
    from pyramid.response import Response

    def refuse(request):
        raise HTTPForbidden()

    def sorry(error, request):
        return Response("sorry", status=500)

    def make(profiled):
        with Configurator() as config:
            if profiled:
                config.include("profilomatic.pyramid")
            for name, view in {
                "item/{number:\\d+}": lambda request: Response("item " + request.matchdict["number"]),
                "/stream/{name}": lambda request: Response(app_iter=[request.matchdict["name"].encode(), b"!"]),
                "/raise/{number}": lambda request: fail(request.matchdict["number"]),
                "/refuse/{number}": refuse,
            }.items():
                config.add_route(name, name)
                config.add_view(view, route_name=name)
            config.add_exception_view(sorry, context=LookupError)
            return config.make_wsgi_app()

    return wrap(make(True)), make(False)


def make_falcon():
    import falcon

    import profilomatic.falcon

    class Item:
        def on_get(self, req, resp, number):
            resp.text = "item %d" % number

    class Stream:
        def on_get(self, req, resp, name):
            resp.stream = iter([name.encode(), b"!"])

    class Raise:
        def on_get(self, req, resp, number):
            fail(number)

    class Refuse:
        def on_get(self, req, resp, number):
            raise falcon.HTTPForbidden()

    def make(profiled):
        app = falcon.App()
        if profiled:
            profilomatic.falcon.init_app(app)
        app.add_route("/item/{number:int}", Item())
        app.add_route("/stream/{name}", Stream())
        app.add_route("/raise/{number}", Raise())
        app.add_route("/refuse/{number}", Refuse())
        return app

    return wrap(make(True)), make(False)


FRAMEWORKS = {"flask": make_flask, "django": make_django, "bottle": make_bottle, "pyramid": make_pyramid,
              "falcon": make_falcon}

# What each calls the route of /item/7, /stream/tea and /raise/7.
ROUTES = {
    "flask": ("/item/<int:number>", "/stream/<name>", "/raise/<int:number>"),
    "django": ("/item/<int:number>", "/stream/<str:name>", "/raise/<int:number>"),
    "bottle": ("/item/<number:int>", "/stream/<name>", "/raise/<number:int>"),
    "pyramid": ("/item/{number:\\d+}", "/stream/{name}", "/raise/{number}"),
    "falcon": ("/item/{number:int}", "/stream/{name}", "/raise/{number}"),
}
