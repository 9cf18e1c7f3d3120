"""`profilomatic run` and PROFILOMATIC_AUTO=1: real servers, applications that do not know of us."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import zipfile

import pytest
from pom_support import kept_port, messages

import profilomatic

PACKAGE = str(pathlib.Path(profilomatic.__file__).parent.parent)
SECONDS = 120  # only a failing test ever waits so long

PLAIN = """
def app(environ, start_response):
    status = "200 OK" if environ["PATH_INFO"].startswith("/item/") else "404 Not Found"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"item 7"]

if __name__ == "__main__":
    import sys
    from gevent.pywsgi import WSGIServer
    WSGIServer(("127.0.0.1", int(sys.argv[1])), app).serve_forever()
"""
FLASK = """
import flask
from werkzeug.middleware.proxy_fix import ProxyFix
app = flask.Flask("shop")
app.add_url_rule("/item/<int:number>", "item", lambda number: "item %d" % number)
app.add_url_rule("/raise/<int:number>", "raise", lambda number: {}[number])
behind = ProxyFix(app)
"""
DJANGO = """
from django.http import HttpResponse
from django.urls import path
SECRET_KEY = "x"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "site_settings"
DEBUG = False
urlpatterns = [path("item/<int:number>", lambda request, number: HttpResponse("item %d" % number)),
               path("raise/<int:number>", lambda request, number: {}[number])]
"""
FALCON = """
import falcon
class Item:
    def on_get(self, req, resp, number):
        resp.text = "item %d" % number
app = falcon.App()
app.add_route("/item/{number:int}", Item())
"""
PYRAMID = """
from pyramid.config import Configurator
from pyramid.response import Response
with Configurator() as config:
    config.add_route("item", "/item/{number}")
    config.add_view(lambda request: Response("item " + request.matchdict["number"]), route_name="item")
    config.add_route("raise", "/raise/{number}")
    config.add_view(lambda request: {}[int(request.matchdict["number"])], route_name="raise")
    config.add_exception_view(lambda error, request: Response("sorry", status=500), context=KeyError)
    app = config.make_wsgi_app()
"""
FASTAPI = """
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
app = FastAPI()
@app.get("/item/{number}", response_class=PlainTextResponse)
async def item(number: int):
    return "item %d" % number
"""

GUNICORN = ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--worker-tmp-dir", "{folder}",
            "--no-control-socket"]

# name: (modules it needs, how it is asked for, the command, the route of /item/7, whether /raise/7 is a page with a link)
SERVERS = {
    "gunicorn": (["gunicorn"], "run", [*GUNICORN, "plain:app"], "/item/<id>", False),
    "gunicorn preloading Flask": (["gunicorn", "flask"], "auto", [*GUNICORN, "--preload", "shop:behind"], "/item/<int:number>", True),
    "gunicorn with Pyramid": (["gunicorn", "pyramid"], "auto", [*GUNICORN, "-k", "gthread", "pyra:app"], "/item/{{number}}", True),
    "waitress": (["waitress"], "auto", ["-m", "waitress", "--listen", "127.0.0.1:{port}", "plain:app"], "/item/<id>", False),
    "waitress with Falcon": (["waitress", "falcon"], "run", ["-m", "waitress", "--listen", "127.0.0.1:{port}", "falc:app"],
                             "/item/{{number:int}}", False),
    "flask run": (["flask"], "auto", ["-m", "flask", "--app", "shop", "run", "--port", "{port}"], "/item/<int:number>", True),
    "manage.py runserver": (["django"], "run", ["-m", "django", "runserver", "--noreload", "--settings", "site_settings",
                                                "127.0.0.1:{port}"], "/item/<int:number>", True),
    "gevent.pywsgi": (["gevent"], "auto", ["plain.py", "{port}"], "/item/<id>", False),
    "uvicorn": (["uvicorn", "fastapi"], "run", ["-m", "uvicorn", "--port", "{port}", "asgi:app"], "/item/{{number}}", False),
    "hypercorn": (["hypercorn", "fastapi"], "auto", ["-m", "hypercorn", "--bind", "127.0.0.1:{port}", "asgi:app"],
                  "/item/{{number}}", False),
    "runserver with its reloader": (["django"], "run -o", ["-m", "django", "runserver", "--settings", "site_settings",
                                                           "127.0.0.1:{port}"], "/item/<int:number>", True),
    "flask with its reloader": (["flask"], "run -o", ["-m", "flask", "--app", "shop", "run", "--reload", "--port", "{port}"],
                                "/item/<int:number>", True),
    "uvicorn with workers": (["uvicorn", "fastapi"], "run -o", ["-m", "uvicorn", "--workers", "2", "--port", "{port}", "asgi:app"],
                             "/item/{{number}}", False),
    "uvicorn with its reloader": (["uvicorn", "fastapi"], "run -o", ["-m", "uvicorn", "--reload", "--port", "{port}", "asgi:app"],
                                  "/item/{{number}}", False),
    "hypercorn with workers": (["hypercorn", "fastapi"], "run -o", ["-m", "hypercorn", "--workers", "2", "--bind",
                                                                    "127.0.0.1:{port}", "asgi:app"], "/item/{{number}}", False),
    "cheroot": (["cheroot"], "auto", ["-m", "cheroot", "--bind", "127.0.0.1:{port}", "plain:app"], "/item/<id>", False),
}


@pytest.fixture
def port():
    with kept_port() as number:
        yield number


def get(port, path):
    try:
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path), timeout=SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def wait_until(condition, process, log):
    end = time.monotonic() + SECONDS
    while True:
        result = condition()
        if result:
            return result
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail("the server %s:\n%s" % (process.poll(), log.read_text()[-3000:]))
        time.sleep(0.02)


@pytest.fixture
def shop(tmp_path):
    """A folder with applications, none of which knows of us."""
    for name, text in {"plain": PLAIN, "shop": FLASK, "site_settings": DJANGO, "falc": FALCON, "pyra": PYRAMID,
                       "asgi": FASTAPI}.items():
        (tmp_path / (name + ".py")).write_text(textwrap.dedent(text))
    return tmp_path


@pytest.mark.acceptance("PM26", "W19", "W24")
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("gunicorn with Pyramid", "waitress with Falcon", "flask run", "manage.py runserver")
                 else pytest.mark.oldest_and_newest) for name in SERVERS])
def test_a_server_serves_profiled_without_a_line_of_code(shop, port, name):
    modules, way, command, route, linked = SERVERS[name]
    for module in modules:
        pytest.importorskip(module)
    records, log = shop / "records.jsonl", shop / "log"
    command = [part.format(port=port, folder=shop) for part in command]
    site = subprocess.run([sys.executable, "-m", "profilomatic", "auto"], env={**os.environ, "PYTHONPATH": PACKAGE},
                          capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join([PACKAGE, str(shop)]),
           "PROFILOMATIC_DESTINATION": str(records), "PROFILOMATIC_MAX_ACTIONS_PER_RUN": "0", "PYTHONWARNINGS": "ignore"}
    if way == "run":
        command = ["-m", "profilomatic", "run", *command]
    elif way == "run -o":  # whoever serves is in an interpreter that the server starts: options reach it, too
        del env["PROFILOMATIC_DESTINATION"], env["PROFILOMATIC_MAX_ACTIONS_PER_RUN"]
        command = ["-m", "profilomatic", "run", "-o", records.name, "-n0", "-s", "shop", *command]
    else:
        env["PYTHONPATH"] = os.pathsep.join([site, PACKAGE, str(shop)])
        env["PROFILOMATIC_AUTO"] = "1"
    with open(log, "wb") as out:
        process = subprocess.Popen([sys.executable, *command], cwd=shop, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   start_new_session=True)
    try:
        def answers():
            try:
                return get(port, "/item/7")
            except OSError:
                return None

        assert wait_until(answers, process, log) == (200, b"item 7")
        for _ in range(3):
            assert get(port, "/item/8")[0] == 200
        assert get(port, "/absent/1")[0] == 404
        if linked:
            assert get(port, "/raise/7")[0] == 500
        expected = 6 if linked else 5
        lines = wait_until(lambda: records.exists() and len(found := records.read_text().splitlines()) >= expected and found,
                           process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)  # workers that outlived a master
        except ProcessLookupError:
            pass
        process.wait()
    found = [json.loads(line) for line in lines]
    assert len(found) == expected  # each request once
    assert way != "run -o" or {record["source"] for record in found} == {"shop"}
    kind = "asgi" if "asgi:app" in command else "wsgi"
    assert all(record["action"]["kind"] == kind and messages(record) == [] for record in found)
    routes = [record["action"]["route"] for record in found]
    assert routes.count(route.format()) == 4 and routes.count("<not found>") == 1
    if linked:
        failing = [record["action"] for record in found if record["action"]["status"] == 500]
        assert [(action["outcome"], action["exception"], action["reason"]) for action in failing] == [("succeeded", "KeyError", "7")]


def test_a_stop_of_uvicorn_delivers_what_was_served_last(shop, port):
    """It raises the signal again when it has shut down, so that nothing runs at exit."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    records, log = shop / "records.jsonl", shop / "log"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join([PACKAGE, str(shop)])}
    with open(log, "wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "profilomatic", "run", "-o", records, "-m", "uvicorn", "--port", str(port),
                                    "asgi:app"], cwd=shop, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_until(lambda: "Uvicorn running" in log.read_text(), process, log)
        assert get(port, "/item/7") == (200, b"item 7")
    finally:
        process.terminate()
        process.wait(SECONDS)
    assert [json.loads(line)["action"]["route"] for line in records.read_text().splitlines()] == ["/item/{number}"]


def test_asking_for_nothing_changes_nothing(python):
    """The package imported, the environment silent: no import hook, no server touched."""
    python("""if True:
        import sys
        finders = list(sys.meta_path)
        import profilomatic, profilomatic.wsgi, profilomatic.auto
        import wsgiref.simple_server
        assert sys.meta_path == finders
        assert wsgiref.simple_server.WSGIServer.set_app.__module__ == "wsgiref.simple_server"
        assert not hasattr(wsgiref.simple_server.WSGIServer.set_app, "__wrapped__")
        """)


@pytest.mark.acceptance("W18")
def test_what_is_wrapped_already_is_left_alone(python):
    python("""if True:
        import profilomatic
        from profilomatic import asgi, auto, wsgi

        def app(environ, start_response): return []
        class Middleware:
            def __init__(self, app): self.app = app
            def __call__(self, environ, start_response): return self.app(environ, start_response)
        class Circle:
            def __call__(self, environ, start_response): return []
            @property
            def app(self): return self
        class Hostile:
            def __call__(self, environ, start_response): return []
            @property
            def app(self): raise RuntimeError("no")
        async def function(scope, receive, send): pass
        class Asgi:
            def __init__(self, app=None): self.app = app
            async def __call__(self, scope, receive, send): pass

        ours = wsgi.wrap(app)
        around, hostile, circle = Middleware(Middleware(ours)), Hostile(), Circle()
        for same in (ours, around, asgi.wrap(function), Asgi(asgi.wrap(function)), None, 7):
            assert auto.wrapped(same) is same, same
        for wrapped in (app, Middleware(app), circle, function, Asgi(function)):
            assert auto.wrapped(wrapped).__wrapped__ is wrapped
        assert auto.wrapped(hostile) is hostile  # told on standard error
        """)


def test_install_is_idempotent_and_takes_modules_that_are_imported_already(python):
    python("""if True:
        import wsgiref.simple_server as server, sys
        from profilomatic import auto
        auto.install(); auto.install()
        assert server.WSGIServer.set_app.__wrapped__.__qualname__ == "WSGIServer.set_app"
        assert not hasattr(server.WSGIServer.set_app.__wrapped__, "__wrapped__")
        assert sum(type(finder).__module__ == "profilomatic._after_import" for finder in sys.meta_path) == 1
        import gevent.pywsgi
        assert hasattr(gevent.pywsgi.WSGIServer.__init__, "__wrapped__")
        import importlib
        importlib.reload(gevent.pywsgi)  # as it comes from its file again
        """)


def test_a_function_is_called_after_an_import_whatever_loads_the_module(python, tmp_path):
    with zipfile.ZipFile(tmp_path / "modules.zip", "w") as archive:
        for name in ("one", "two", "fails"):
            archive.writestr(name + ".py", "import late\n" if name == "fails" else "name = %r\n" % name)
    python("""if True:
        import sys, types
        from profilomatic import _after_import
        called = []
        for name in ("one", "two", "fails", "old", "json.tool", "absent"):
            _after_import.call(name, lambda module: called.append((module.__name__, len(vars(module)) > 5)))

        class OldLoader:  # no exec_module, and no place for one
            __slots__ = ()
            def load_module(self, name):
                sys.modules[name] = types.ModuleType(name)
                return sys.modules[name]
        class OldFinder:
            def find_spec(self, name, path, target=None):
                from importlib.machinery import ModuleSpec
                return ModuleSpec(name, OldLoader()) if name == "old" else None
        sys.meta_path.append(OldFinder())
        sys.path.insert(0, %r)
        import two, one, json.tool
        if sys.version_info < (3, 15):  # which knows no such loaders any more
            import old
        for name in ("absent", "fails"):
            try:
                __import__(name)
            except ImportError as error:
                print(error)
        assert called == [("two", True), ("one", True), ("json.tool", True)], called
        assert one.name == "one" and "exec_module" not in vars(one.__loader__)
        _after_import.call("one", lambda module: called.append(module.name))  # at once
        assert called[-1] == "one"
        """ % str(tmp_path / "modules.zip"))


def test_a_bad_destination_leaves_the_application_served_bare(python, tmp_path):
    for text in (str(tmp_path / "absent" / "file"), "ftp://x/y", "tcp://x", "tcp://x:1/y", "http://", "http://a@b/", "http://h:99999/"):
        python("""if True:
            import sys
            from profilomatic import auto
            said = sys.stderr = __import__("io").StringIO()
            auto.install()
            def app(environ, start_response): return [b"served"]
            served = auto.wrapped(app)
            assert served({}, None) == [b"served"]
            assert said.getvalue().startswith("profilomatic: not profiled: "), said.getvalue()
            assert auto.wrapped(app)({}, None) == [b"served"] and said.getvalue().count("not profiled") == 1
            """, PROFILOMATIC_DESTINATION=text)


def test_a_destination_that_is_not_named_is_told(python):
    python("""if True:
        import sys
        from profilomatic import auto
        said = sys.stderr = __import__("io").StringIO()
        auto.install()
        def app(environ, start_response): return []
        auto.wrapped(app), auto.wrapped(app)
        assert said.getvalue() == ("profilomatic: not profiled: PROFILOMATIC_DESTINATION is not set: "
                                   "name a file, http://HOST:PORT, or - for standard error\\n"), said.getvalue()
        """)


def test_destinations_by_their_text(tmp_path):
    from profilomatic import auto

    def name_of(text):
        destination = auto.destination(text)
        profilomatic.add_destination(destination)
        name = profilomatic.stats()["destinations"][0]["name"]
        profilomatic.remove_destination(destination)
        return name

    path = tmp_path / "records.jsonl"
    path.write_text("kept\n")
    assert name_of(str(path)) == str(path) and path.read_text() == "kept\n"
    assert "collector.example:8080" in name_of("http://collector.example:8080")
    assert "collector.example" in name_of("https://collector.example/in")
    assert name_of("-")


def test_the_hosts_own_sitecustomize_still_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.marked = 'the host'\n")
    site = str(pathlib.Path(profilomatic.__file__).parent / "_site")
    code = "import sys, sitecustomize; print(sys.marked, sitecustomize.__file__, 'profilomatic' in sys.modules)"
    for asked in ("1", "0"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS,
                              env={**os.environ, "PROFILOMATIC_AUTO": asked,
                                   "PYTHONPATH": os.pathsep.join([site, PACKAGE, str(tmp_path)])})
        assert done.stdout.split() == ["the", "host", str(tmp_path / "sitecustomize.py"), str(asked == "1")], done.stderr


def test_run_leaves_the_application_alone_when_told(tmp_path):
    (tmp_path / "serve.py").write_text(textwrap.dedent("""
        import wsgiref.simple_server as server
        def app(environ, start_response): return []
        print(server.make_server("127.0.0.1", 0, app).get_app() is app)
        """))
    for option, alone in ((["--no-wrap"], "True"), ([], "False")):
        done = subprocess.run([sys.executable, "-m", "profilomatic", "run", *option, "-o", str(tmp_path / "out"), "serve.py"],
                              cwd=tmp_path, env={**os.environ, "PYTHONPATH": PACKAGE}, capture_output=True, text=True, timeout=SECONDS)
        assert (done.returncode, done.stdout.strip()) == (0, alone), done.stderr
