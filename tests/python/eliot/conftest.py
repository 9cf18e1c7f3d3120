"""Eliot patched for one test, with a destination of the user's beside ours."""

import eliot
import pytest

import profilomatic
import profilomatic.eliot


class Log(list):
    """What Eliot logged: a destination."""

    __call__ = list.append


@pytest.fixture
def log():
    destination = Log()
    eliot.add_destinations(destination)
    yield destination
    eliot.remove_destination(destination)


@pytest.fixture
def patched(profiles, log):
    """Collected profiles, with Eliot patched."""
    before = dict(eliot.Action.__dict__)
    profilomatic.eliot.patch()
    yield profiles
    stats = profilomatic.eliot.stats()
    profilomatic.eliot.unpatch()
    assert stats is None or stats["open"] == 0
    assert dict(eliot.Action.__dict__) == before
    assert [d for d in eliot.Logger._destinations._destinations if d is not log] == []
    profilomatic._backend.load().strip_leaf("/nowhere/")
