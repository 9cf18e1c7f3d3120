import importlib.util
import pathlib
import sys

import pytest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="session")
def load_tool():
    """Import a script of tools/ as a module; it may import others there."""
    sys.path.insert(0, str(TOOLS))

    def load(name):
        spec = importlib.util.spec_from_file_location("tool_" + name, TOOLS / (name + ".py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tree(tmp_path):
    """Write a tree of files: tree({"base/a.c": "text"}) returns its root."""

    def write(files):
        for path, text in files.items():
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        return tmp_path

    return write
