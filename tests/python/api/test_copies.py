"""A wrapped application is pickled and copied as the bare one is: a child that multiprocessing spawns gets it so."""

import copy
import pickle

import pytest
from asgi_server import hello
from wsgi_server import listed

import profilomatic


class Application:
    def __call__(self, environ, start_response):
        return listed(environ, start_response)


class AsgiApplication:
    async def __call__(self, scope, receive, send):
        await hello(scope, receive, send)


@profilomatic.wsgi.wrap
def decorated(environ, start_response):
    return listed(environ, start_response)


@profilomatic.asgi.wrap
async def asgi_decorated(scope, receive, send):
    await hello(scope, receive, send)


COPIES = pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda app: pickle.loads(pickle.dumps(app))],
                                 ids=["copy", "deepcopy", "pickle"])


@COPIES
@pytest.mark.parametrize("app", [decorated, asgi_decorated], ids=["wsgi", "asgi"])
def test_a_decorated_function_goes_by_its_name(again, app):
    assert again(app) is app


@COPIES
@pytest.mark.parametrize("wrap, app", [
    (profilomatic.wsgi.wrap, Application()), (profilomatic.wsgi.wrap, listed),
    (profilomatic.asgi.wrap, AsgiApplication()), (profilomatic.asgi.wrap, hello),
], ids=["wsgi object", "wsgi function", "asgi object", "asgi function"])
def test_what_is_no_name_is_wrapped_again(again, wrap, app):
    wrapped = wrap(app)
    other = again(wrapped)
    assert type(other) is type(wrapped) and type(other.__wrapped__) is type(app)
