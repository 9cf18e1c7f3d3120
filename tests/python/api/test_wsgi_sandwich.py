"""The strictest checkers there are, on both sides of the wrapper, around every application of the tests and the example.

wsgiref.validate and werkzeug's lint watch what server and application do to each other. One stands outside of the wrapper
and one inside, and their verdict must be what it is with nothing between them: the same answer, the same complaints.
"""

import contextlib
import importlib.util
import io
import pathlib
import sqlite3
import sys
import warnings
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from wsgi_server import Body, Server, Sized, environ, generated, late, listed, pushed, restarted, returning

import profilomatic

wrap = profilomatic.wsgi.wrap
ROOT = pathlib.Path(__file__).resolve().parents[3]
SHOP_REQUESTS = ("GET /", "GET /product/7", "GET /product/7777", "GET /search?q=tea", "POST /checkout?", "GET /invoice/3",
                 "GET /voucher/SPRING", "GET /voucher/NONE", "HEAD /", "GET /catalogue.csv", "DELETE /product/7")
STATEFUL = {"/seen", "/stats"}  # their answers tell of the requests before


def lint(app):
    from werkzeug.middleware.lint import LintMiddleware

    return LintMiddleware(app)


def verdict(app, request, **more):
    """All that a client and its operator can see of one request: answer, error, complaints."""
    method, target = request.split(" ", 1)
    path, _, query = target.partition("?")
    errors = io.StringIO()
    env = environ(path, REQUEST_METHOD=method, QUERY_STRING=query, wsgi__errors=errors, wsgi__input=io.BytesIO(b"one\ntwo\n"),
                  CONTENT_LENGTH="8", wsgi__file_wrapper=FileWrapper, HTTP_HOST="localhost", **more)
    server = Server(app, env)

    def start_response(status, headers, exc_info=None):  # with a name for what lint wants as a keyword
        server.calls.append((status, list(headers), exc_info and exc_info[0]))
        return server.write

    server.start_response = start_response
    raised = None
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        try:
            server.run()
        except Exception as error:
            raised = type(error), str(error)
            server.body = error.__traceback__ = None  # an iterator of a checker complains when it is dropped unclosed
        server.body = None
    return server.calls, server.written, server.chunks, raised, [str(each.message) for each in complaints], errors.getvalue()


def compare(app, request, **more):
    """The verdict, which is the same with the wrapper between two checkers of either kind."""
    for checker in (validator, lint):
        bare = verdict(checker(checker(app)), request, **more)
        assert verdict(checker(wrap(checker(app))), request, **more) == bare
        assert verdict(checker(wrap(checker(wrap(app)))), request, **more) == bare
        yield bare


def module_of(path):
    """A module that is on nobody's path."""
    name = "sandwich_" + path.stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def faults():
    """Ours, since the process began."""
    return dict(profilomatic._backend.load().engine_info()["details"]["faults"])


@pytest.fixture(autouse=True)
def running(profiles):
    """The profiler, with a destination; each test leaves no action open and no fault."""
    pytest.importorskip("werkzeug")
    before = faults()
    yield
    assert faults() == before
    profiles.flushed()


@pytest.mark.acceptance("PM19", "W2", "W3", "W6", "W8")
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("app", [listed, generated, late, pushed, restarted])
def test_small_applications(app, method):
    for calls, _, _, raised, *_ in compare(app, method + " /some/path?a=1"):
        assert raised is None and calls


@pytest.mark.acceptance("PM19", "W2", "W3")
@pytest.mark.parametrize("body", [Body, Sized, lambda: Body([b"", b"a", b""]), lambda: Body(fail_at=1),
                                  lambda: Sized(fail_close=OSError("no")), lambda: Body(["text"])])
def test_bodies_of_all_kinds(body):
    list(compare(lambda env, start_response: returning(body())(env, start_response), "GET /"))


@pytest.mark.acceptance("PM19", "W4", "W7", "W9", "W12", "W17", "W22")
def test_each_path_of_the_applications_that_the_server_tests_serve(monkeypatch, tmp_path):
    served = module_of(ROOT / "tests" / "python" / "servers" / "app.py")
    monkeypatch.setattr(served, "LONG_CHUNKS", 20)
    (tmp_path / "file").write_bytes(b"content " * 4000)
    monkeypatch.setenv("SERVERS_FILE", str(tmp_path / "file"))
    assert len(served.ROUTES) > 20
    for path in ["/absent", *served.ROUTES]:
        if path not in STATEFUL:
            query = "?seconds=0" if path in ("/spin", "/nap") else ""
            assert len(list(compare(served.bare, "GET " + path + query))) == 2
    list(compare(served.bare, "HEAD /one"))


@pytest.mark.acceptance("PM19", "W8", "W16", "W17")
def test_the_example_shop(monkeypatch):
    pytest.importorskip("flask")
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "shop"))
    opened, connect = contextlib.ExitStack(), sqlite3.connect
    # The shop leaves its database to the end of the process.
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **names: opened.enter_context(
        contextlib.closing(connect(*args, **names))))
    with opened:
        compare_shop(module_of(ROOT / "examples" / "shop" / "shop.py").create_app())


def compare_shop(shop):
    for request in SHOP_REQUESTS:
        for calls, _, _, raised, complaints, _ in compare(shop, request, CONTENT_TYPE="application/x-www-form-urlencoded"):
            assert raised is None and calls
            assert complaints == [] or request.startswith("HEAD")  # lint counts the bytes that HEAD does not send
