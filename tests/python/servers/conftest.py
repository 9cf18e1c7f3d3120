import pathlib
import sys
import uuid

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import Server, need  # noqa: E402
from kinds import KINDS, each_kind  # noqa: E402


@pytest.fixture(scope="session", params=each_kind(KINDS))
def kind(request):
    need(request.param)
    return request.param


@pytest.fixture(scope="session")
def server(kind, tmp_path_factory):
    """One running server of each kind with the wrapped application, shared by tests that leave it as it was."""
    with Server(kind, "app:wrapped", tmp_path_factory.mktemp("wrapped")) as running:
        yield running


@pytest.fixture(scope="session")
def bare_server(kind, tmp_path_factory):
    with Server(kind, "app:bare", tmp_path_factory.mktemp("bare")) as running:
        yield running


@pytest.fixture
def task():
    """A fresh task id; sent as X-Task-UUID it finds the record of one request."""
    return str(uuid.uuid4())
