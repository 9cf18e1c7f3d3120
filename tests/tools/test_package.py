"""What setup.py builds: the extension, or the engine in pure Python alone."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The interpreter that pip builds for, and a setuptools that only says what it was asked for.
BUILD = """if True:
    import pathlib, runpy, sys, types
    sys.implementation = types.SimpleNamespace(**{**vars(sys.implementation), "name": sys.argv[2]})
    sys.platform = sys.argv[3]
    asked = {}
    sys.modules["setuptools"] = types.SimpleNamespace(setup=asked.update, find_packages=lambda folder: [])
    runpy.run_path(sys.argv[1])
    print(asked.get("cmake_source_dir"))
"""


def built(interpreter, platform, pure=None):
    """The folder that CMake is called for, "None" where it is not."""
    environ = {key: value for key, value in os.environ.items() if key != "PROFILOMATIC_PURE"}
    if pure is not None:
        environ["PROFILOMATIC_PURE"] = pure
    return subprocess.run([sys.executable, "-c", BUILD, str(ROOT / "setup.py"), interpreter, platform], env=environ, check=True,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.mark.parametrize("pure", [None, "0", ""])
def test_cpython_on_linux_gets_the_extension(pure):
    assert built("cpython", "linux", pure) == "."


@pytest.mark.parametrize("interpreter, platform, pure", [("pypy", "linux", None), ("cpython", "darwin", None), ("cpython", "linux", "1")])
def test_where_there_can_be_no_extension_or_none_is_wanted_the_package_is_pure(interpreter, platform, pure):
    assert built(interpreter, platform, pure) == "None"
