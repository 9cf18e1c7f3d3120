"""What is special in each framework: its own test client, its own ways to mount, to handle errors, to be configured."""

import asyncio
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest
from applications import MESSAGE, make_bottle, make_django, make_falcon, make_flask, make_pyramid
from asking import ask
from pom_support import messages

import profilomatic

wrap = profilomatic.wsgi.wrap


def test_flask_is_profiled_through_its_test_client(profiles):
    pytest.importorskip("flask")
    app, _ = make_flask()
    with app.test_client() as client:
        assert client.get("/item/7", buffered=True).text == "item 7"
        assert client.get("/raise/7", buffered=True).status_code == 500
    routes = [record["action"]["route"] for record in profiles.flushed(2)]
    assert routes == ["/item/<int:number>", "/raise/<int:number>"]


def test_flask_refuses_what_is_no_flask_application():
    pytest.importorskip("flask")
    import profilomatic.flask

    for wrong in (None, lambda environ, start_response: []):
        with pytest.raises(TypeError, match=r"init_app\(\) takes a Flask application, not "):
            profilomatic.flask.init_app(wrong)


def test_falcon_refuses_what_is_no_falcon_application():
    pytest.importorskip("falcon")
    import profilomatic.falcon

    for wrong in (5, profilomatic.wsgi.wrap(lambda environ, start_response: [])):
        with pytest.raises(TypeError, match=r"init_app\(\) takes an application of Falcon's, not "):
            profilomatic.falcon.init_app(wrong)


def test_flask_exceptions_that_a_handler_answers_are_not_linked_and_those_that_leave_are_failures(profiles):
    pytest.importorskip("flask")
    app, _ = make_flask()
    app.register_error_handler(LookupError, lambda error: ("sold out", 410))
    assert ask(app, "/raise/7")[0].startswith("410")
    assert "exception" not in profiles.one()["action"]

    app, _ = make_flask()
    app.testing = True
    with pytest.raises(LookupError):
        ask(app, "/raise/7")
    action = profiles.flushed(2)[1]["action"]
    assert (action["outcome"], action["exception"], action["reason"]) == ("failed", "LookupError", MESSAGE)


def test_flask_blueprints_and_extensions_of_an_application_that_is_wrapped_already(profiles):
    flask = pytest.importorskip("flask")
    import profilomatic.flask

    app, blueprint = flask.Flask("shop"), flask.Blueprint("api", "api", url_prefix="/api")
    blueprint.add_url_rule("/item/<number>", "item", lambda number: number)
    app.register_blueprint(blueprint)
    app.wsgi_app = wrap(app.wsgi_app)
    wrapped = app.wsgi_app
    profilomatic.flask.init_app(app)
    assert app.wsgi_app is wrapped
    app.wsgi_app = around = lambda environ, start_response: wrapped(environ, start_response)
    profilomatic.flask.init_app(app)
    assert app.wsgi_app is around
    ask(app, "/api/item/7")
    record = profiles.one()
    assert record["action"]["route"] == "/api/item/<number>" and messages(record) == []


@pytest.mark.acceptance("W19")
def test_django_routes_of_includes_and_regular_expressions(profiles):
    pytest.importorskip("django")
    app, _ = make_django()
    for path in ("/old/7", "/api/item/7"):
        assert ask(app, path)[0].startswith("200")
    routes = [record["action"]["route"] for record in profiles.flushed(2)]
    assert routes == ["/old/(?P<number>[0-9]+)$", "/api/item/<int:number>"]


def test_django_middleware_serves_the_test_client_and_asynchronous_handlers(profiles):
    pytest.importorskip("django")
    make_django()
    from django.test import AsyncClient, Client

    assert Client(raise_request_exception=False).get("/item/7").content == b"item 7"
    assert Client(raise_request_exception=False).get("/raise/7").status_code == 500
    answer = asyncio.run(AsyncClient(raise_request_exception=False).get("/item/7"))
    assert answer.content == b"item 7"
    assert profiles.flushed() == []  # neither goes through WSGI


def test_django_middleware_is_of_the_kind_of_what_it_is_around():
    pytest.importorskip("django")
    make_django()
    from asgiref.sync import iscoroutinefunction

    from profilomatic.django import Middleware

    async def asynchronous(request):
        return request

    assert iscoroutinefunction(Middleware(asynchronous)) and not iscoroutinefunction(Middleware(lambda request: request))


def test_django_names_what_is_missing_and_makes_the_application_once():
    pytest.importorskip("django")
    import profilomatic.django

    app, _ = make_django()
    assert profilomatic.django.application is app
    with pytest.raises(AttributeError, match="applicatoin"):
        profilomatic.django.applicatoin


@pytest.mark.parametrize("make, route", [(make_bottle, "/item/<number:int>"), (make_pyramid, "/item/{number:\\d+}")])
def test_bottle_and_pyramid_through_webtest(profiles, make, route):
    pytest.importorskip(make.__name__.partition("_")[2])
    TestApp = pytest.importorskip("webtest").TestApp
    app, _ = make()
    assert TestApp(app).get("/item/7").text == "item 7"
    assert profiles.one()["action"]["route"] == route


@pytest.mark.acceptance("W19")
def test_bottle_mounts_another_application_at_a_prefix(profiles):
    bottle = pytest.importorskip("bottle")
    shop, api = bottle.Bottle(), bottle.Bottle()
    api.route("/item/<number>", callback=lambda number: number)
    shop.mount("/api/", api)
    assert ask(wrap(shop), "/api/item/7")[0].startswith("200")
    assert profiles.one()["action"]["route"] == "/api/item/<number>"


def test_bottle_without_catchall_fails(profiles):
    pytest.importorskip("bottle")
    app, _ = make_bottle()
    app.__wrapped__.catchall = False
    with pytest.raises(LookupError):
        ask(app, "/raise/7")
    action = profiles.one()["action"]
    assert (action["outcome"], action["exception"]) == ("failed", "LookupError")
    assert action["route"] == "/raise/<number:int>"


@pytest.mark.acceptance("W19")
def test_pyramid_prefixes_traversal_and_exceptions_without_a_view(profiles):
    pytest.importorskip("pyramid")
    from pyramid.config import Configurator
    from pyramid.response import Response

    def api(config):
        config.add_route("item", "item/{number}")
        config.add_view(lambda request: Response("item"), route_name="item")

    def broken(request):
        raise LookupError(MESSAGE)

    with Configurator() as config:
        config.include("profilomatic.pyramid")
        config.include(api, route_prefix="api")
        config.add_view(lambda request: Response("by traversal"), name="about")
        config.add_view(broken, name="broken")
        app = wrap(config.make_wsgi_app())
    assert ask(app, "/api/item/7")[0].startswith("200") and ask(app, "/about")[0].startswith("200")
    with pytest.raises(LookupError):
        ask(app, "/broken")
    actions = [record["action"] for record in profiles.flushed(3)]
    assert [action["route"] for action in actions] == ["/api/item/{number}", "/about", "/broken"]
    assert (actions[2]["outcome"], actions[2]["reason"]) == ("failed", MESSAGE)


def test_falcon_through_its_test_client(profiles):
    pytest.importorskip("falcon")
    from falcon.testing import TestClient

    app, bare = make_falcon()
    assert TestClient(app).simulate_get("/item/7").text == "item 7"
    ours, theirs = (TestClient(each).simulate_get("/raise/7") for each in (app, bare))
    assert (ours.status, ours.headers, ours.text) == (theirs.status, theirs.headers, theirs.text)
    logs = io.StringIO(), io.StringIO()
    for each, log in zip((app, bare), logs):
        TestClient(each).simulate_get("/raise/7", wsgierrors=log)
    assert MESSAGE in logs[0].getvalue()
    first, second = (re.sub("[0-9]+", "", log.getvalue()) for log in logs)  # but for the moment
    assert first == second
    routes = [record["action"]["route"] for record in profiles.flushed(3)]
    assert routes == ["/item/{number:int}", "/raise/{number}", "/raise/{number}"]


def test_falcons_own_handlers_come_first(profiles):
    pytest.importorskip("falcon")
    app, _ = make_falcon()

    def sold_out(req, resp, error, params):
        resp.status = "410 Gone"

    app.__wrapped__.add_error_handler(LookupError, sold_out)
    assert ask(app, "/raise/7")[0].startswith("410")
    assert "exception" not in profiles.one()["action"]


@pytest.mark.parametrize("framework, library", [
    ("flask", "Flask"), ("django", "Django"), ("pyramid", "Pyramid"), ("falcon", "Falcon")])
def test_a_framework_that_is_not_installed_is_named(python, framework, library):
    said = python("""if True:
        import sys
        sys.modules[%r] = None  # as if it were not there
        try:
            import profilomatic.%s
        except ImportError as error:
            print(error)
        """ % (framework, framework))
    assert said.strip() == "profilomatic.%s needs %s: pip install %s" % (framework, library, framework)


@pytest.mark.parametrize("framework", ["flask", "django", "pyramid", "falcon"])
def test_importing_an_integration_starts_nothing(framework):
    pytest.importorskip(framework)
    code = "import profilomatic.%s, threading; assert profilomatic._backend.module is None, 'loaded'" \
           "; assert threading.active_count() == 1" % framework
    package = str(pathlib.Path(profilomatic.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "PYTHONPATH": package},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
