"""Finding interpreters: shell scripts stand in for them."""

import stat

import pytest


@pytest.fixture
def fake(tmp_path):
    def make(place, minor, version, why="", code=0):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nprintf '{minor}\\n{version}\\n{path}\\n{why}\\n'\nexit {code}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.fixture
def find(load_tool, tmp_path, monkeypatch):
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    tool = load_tool("interpreters")
    monkeypatch.setattr(tool, "ROOT", str(tmp_path / "checkout"))
    return lambda: tool.find(home=str(tmp_path / "home"), path=str(tmp_path / "bin"))


def test_one_interpreter_a_minor_the_newest_of_pyenv_first(fake, find):
    fake("home/.pyenv/versions/3.11.9/bin/python3.11", "3.11", "3.11.9")
    newest = fake("home/.pyenv/versions/3.11.10/bin/python3.11", "3.11", "3.11.10")
    fake("bin/python3.11", "3.11", "3.11.2")
    other = fake("bin/python3.13", "3.13", "3.13.0")
    assert find() == ([("3.11", newest, "3.11.10"), ("3.13", other, "3.13.0")], [])


def test_one_without_headers_is_passed_over_with_its_reason(fake, find):
    bad = fake("home/.pyenv/versions/3.12.1/bin/python3.12", "3.12", "3.12.1", why="no Python.h")
    good = fake("bin/python3.12", "3.12", "3.12.3")
    assert find() == ([("3.12", good, "3.12.3")], [(bad, "no Python.h")])


def test_a_shim_that_fails_or_lies_is_ignored(fake, find):
    fake("bin/python3.11", "3.11", "3.11.2", code=127)
    fake("bin/python3.12", "3.10", "3.10.4")
    plain = fake("bin/python3", "3.13", "3.13.1")
    assert find() == ([("3.13", plain, "3.13.1")], [])


def test_a_fetched_one_is_found_when_the_machine_has_none(fake, find):
    fetched = fake("checkout/.venv/.pythons/3.14/usr/bin/python3.14", "3.14", "3.14.2")
    assert find() == ([("3.14", fetched, "3.14.2")], [])
    own = fake("bin/python3.14", "3.14", "3.14.1")
    assert find() == ([("3.14", own, "3.14.1")], [])


def test_what_is_optional_and_missing_is_named(load_tool, monkeypatch, capsys):
    tool = load_tool("interpreters")
    monkeypatch.setattr(tool, "find", lambda: ([("3.12", "/a", "3.12.1"), ("3.15", "/b", "3.15.0")], []))
    assert tool.main(["interpreters.py", "--missing"]) == 0
    assert capsys.readouterr().out == "3.14\n"
