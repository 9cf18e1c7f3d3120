"""What the built extension shows to other libraries, and what it needs from them."""

import importlib.util
import shutil
import subprocess

import pytest


@pytest.fixture(scope="module")
def core():
    if importlib.util.find_spec("profilomatic") is None:
        pytest.skip("the package is not staged")
    spec = importlib.util.find_spec("profilomatic._core")
    if spec is None:
        pytest.skip("the extension is not built")
    if shutil.which("nm") is None:
        pytest.skip("no nm here")
    return spec.origin


def symbols(*arguments):
    out = subprocess.run(["nm", "-D", *arguments], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1] for line in out.splitlines() if line.strip()]


def test_only_the_init_function_is_exported(core):
    assert symbols("--defined-only", core) == ["PyInit__core"]


def test_none_of_our_own_symbols_is_left_undefined(core):
    assert [name for name in symbols("--undefined-only", core) if name.startswith("pom_")] == []


def test_the_module_is_not_tied_to_one_libpython(core):
    needed = subprocess.run(["readelf", "-d", core], capture_output=True, text=True, check=True).stdout
    assert "libpython" not in needed
