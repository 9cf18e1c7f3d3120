"""What a signal handler of the program's raises amid our code is the program's: a timeout ends what it is for."""

import gc

import asgi_server
import pytest
from interrupting import interrupted
from pom_support import messages
from wsgi_server import Body, Server, generated, listed, pushed, returning

import profilomatic

wrap = profilomatic.wsgi.wrap


def with_messages():
    with profilomatic.action("outer", key="value") as outer:
        outer.message(step=[1])
        with profilomatic.action("inner"):
            pass


@profilomatic.action("decorated")
def decorated():
    pass


def failing():
    with pytest.raises(LookupError):
        with profilomatic.action("failing"):
            raise LookupError("its own")


def awaited():
    """Without a loop, whose own code a signal may interrupt too."""
    async def receive():
        return asgi_server.NO_BODY

    async def send(message):
        pass

    with pytest.raises(StopIteration):
        ASGI(asgi_server.scope(), receive, send).send(None)


ASGI = profilomatic.asgi.wrap(asgi_server.echo)
WSGI = [wrap(app) for app in (listed, generated, pushed, returning(Body()))]
WORK = {"listed": Server(WSGI[0]).run, **{name: (lambda app=app: Server(app).run()) for name, app in zip(
    ("generated", "pushed", "body"), WSGI[1:])}, "action": with_messages, "decorated": decorated, "failing": failing, "asgi": awaited}


def balance():
    gc.collect()
    assert profilomatic.flush(60)
    actions = profilomatic.stats()["actions"]
    return actions["started"] - actions["profiled"] - actions["shed"], actions["started"] - actions["finished"] - actions["lost"]


@pytest.mark.acceptance("W21")
@pytest.mark.parametrize("refused", [False, True], ids=["profiled", "refused"])
@pytest.mark.parametrize("name", list(WORK))
def test_what_a_signal_handler_raises_amid_our_code_reaches_the_program(profiles, backend, monkeypatch, name, refused):
    if name == "asgi" and backend != "pure":
        pytest.skip("of the twin; without a task nothing ends the context that a request in C is in")
    if refused and backend == "pure":
        from profilomatic._pure_schedule import Schedule

        monkeypatch.setattr(Schedule, "admit", lambda self: False)
    before = balance()
    WORK[name]()  # what is imported late
    outcomes = interrupted(WORK[name])
    assert "lost" not in outcomes
    assert len(outcomes) > 5 or backend == "c"
    assert balance() == before


@pytest.mark.acceptance("W21")
def test_after_such_an_exception_the_next_request_is_its_own(profiles):
    interrupted(WORK["generated"])
    profiles.flushed()
    profiles.records.clear()
    WORK["generated"]()
    assert messages(profiles.one()) == []
