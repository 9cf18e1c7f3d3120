"""What the framework tests share: an application of each framework with the same URLs, and how it is asked."""

import importlib.util
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from applications import FRAMEWORKS  # noqa: E402


@pytest.fixture(params=list(FRAMEWORKS))
def framework(request):
    """The name of a framework that is installed."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip("%s is not installed" % request.param)
    return request.param


@pytest.fixture
def applications(framework):
    """(profiled, bare) applications of the framework."""
    return FRAMEWORKS[framework]()
