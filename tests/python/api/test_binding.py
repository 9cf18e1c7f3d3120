"""A wrapped application as an attribute of a class: it is bound, or not, as the bare one would be."""

import functools

import pytest
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
    """A descriptor that is an application too, and binds to another one."""

    def __init__(self, bound):
        self.bound = bound

    def __get__(self, instance, owner):
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

    assert served(Case().other) == HELLO and served(Case.ready) == HELLO
    assert len(profiles.flushed()) == 2
