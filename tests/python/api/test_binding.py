"""A wrapped application as an attribute of a class: it is bound, or not, as the bare one would be."""

import functools
import inspect

import asgi_server
import pytest
from asgi_server import hello
from pom_support import messages
from wsgi_server import Server, listed, ok

import profilomatic

wrap = profilomatic.wsgi.wrap


class Application:
    def __call__(self, env, start_response):
        return listed(env, start_response)


def shop(name, env, start_response):
    ok(start_response)
    return [name]


class Lazy:
    """A descriptor that is an application too, and binds to another one, or to what is none."""

    def __init__(self, bound):
        self.bound = bound

    def __get__(self, instance, owner):
        if isinstance(self.bound, Exception):
            raise self.bound
        return self.bound

    __call__ = Application.__call__


def served(app):
    return Server(app).run().chunks


HELLO = [b"hello ", b"world"]


@pytest.mark.acceptance("PM19")
def test_an_object_that_is_a_class_attribute_is_called_without_self(profiles):
    class Case:
        app = wrap(Application())
        partial = wrap(functools.partial(shop, b"books"))
        function = wrap(staticmethod(listed))
        inside = staticmethod(wrap(listed))

    for holder in (Case, Case()):
        assert served(holder.app) == HELLO and served(holder.function) == HELLO and served(holder.inside) == HELLO
    assert served(Case.partial) == [b"books"]
    assert Case().app is Case.app
    assert len(profiles.flushed()) == 7


@pytest.mark.acceptance("PM19")
def test_flask_may_be_an_attribute_of_a_test_case(profiles):
    flask = pytest.importorskip("flask")

    class Case:
        app = wrap(flask.Flask("shop"))

    assert Case().app.name == "shop"
    assert Server(Case().app).run().status == "404 NOT FOUND"
    assert profiles.one()["action"]["route"] == "<not found>"


def test_a_partial_binds_as_its_interpreter_has_it():
    """From Python 3.14 on it is a method."""
    partial = functools.partial(shop, b"books")

    class Case:
        bare = partial
        wrapped = wrap(partial)

    def answer(app):
        try:
            return served(app)
        except TypeError:
            return TypeError

    assert answer(Case().wrapped) == answer(Case().bare)


@pytest.mark.acceptance("PM19")
def test_a_descriptor_of_the_applications_is_asked(profiles):
    class Case:
        other = wrap(Lazy(Application()))
        ready = wrap(Lazy(wrap(listed)))
        nothing = wrap(Lazy("no application"))
        broken = wrap(Lazy(LookupError("its own")))

    assert served(Case().other) == HELLO and served(Case.ready) == HELLO
    assert Case().nothing == "no application"
    with pytest.raises(LookupError, match="its own"):
        Case().broken
    assert len(profiles.flushed()) == 2


class WsgiShop:
    """Each way to be an application of a class; `name` proves whose."""

    def __init__(self, name):
        self.name = name

    @wrap
    def method(self, env, start_response):
        return shop(self.name, env, start_response)

    __call__ = method

    @classmethod
    @wrap
    def of_class(cls, env, start_response):
        return shop(cls.__name__.encode(), env, start_response)

    function = wrap(staticmethod(functools.partial(shop, b"function")))


async def asgi_shop(name, scope, receive, send):
    await send(asgi_server.START)
    await send(asgi_server.body(name))


class AsgiShop:
    def __init__(self, name):
        self.name = name

    @profilomatic.asgi.wrap
    async def method(self, scope, receive, send):
        await asgi_shop(self.name, scope, receive, send)

    @profilomatic.asgi.wrap
    async def __call__(self, scope, receive, send):
        await asgi_shop(self.name, scope, receive, send)

    @classmethod
    @profilomatic.asgi.wrap
    async def of_class(cls, scope, receive, send):
        await asgi_shop(cls.__name__.encode(), scope, receive, send)

    function = profilomatic.asgi.wrap(staticmethod(functools.partial(asgi_shop, b"function")))


def awaited(app):
    server = asgi_server.Server(app).run()
    assert server.error is None
    return [message["body"] for message in server.sent[1:]]


KINDS = pytest.mark.parametrize("kind, answer, again", [
    (WsgiShop, served, profilomatic.wsgi.wrap), (AsgiShop, awaited, profilomatic.asgi.wrap),
], ids=["wsgi", "asgi"])


@pytest.mark.acceptance("PM19")
@KINDS
def test_decorated_methods_are_applications(profiles, kind, answer, again):
    shops = [kind(b"books"), kind(b"tools")]
    for each in shops:
        assert answer(each.method) == answer(each) == [each.name]
        assert answer(each.of_class) == answer(kind.of_class) == [kind.__name__.encode()]
        assert answer(each.function) == answer(kind.function) == [b"function"]
    records = profiles.flushed(12)
    assert all(record["action"]["status"] == 200 for record in records)


@pytest.mark.acceptance("PM19")
@KINDS
def test_a_bound_method_is_as_the_bare_one(profiles, kind, answer, again):
    each = kind(b"books")
    assert each.method.__self__ is each and each.method.__name__ == "method"
    assert len(inspect.signature(each.method).parameters) == len(inspect.signature(kind.method).parameters) - 1
    assert answer(again(each.method)) == [b"books"]
    assert messages(profiles.one()) == []  # no second action within


def test_a_bound_coroutine_method_is_what_servers_look_for():
    assert inspect.iscoroutinefunction(AsgiShop(b"books").method.__call__)


@pytest.mark.parametrize("wrap, app", [(wrap, listed), (profilomatic.asgi.wrap, hello)], ids=["wsgi", "asgi"])
def test_a_wrapped_application_seen_through_its_class_is_itself(wrap, app):
    class Case:
        decorated = wrap(app)

    assert Case.decorated is vars(Case)["decorated"]
