"""Planning in the test runner."""

import argparse

import pytest


@pytest.fixture
def runner(load_tool):
    return load_tool("run_tests")


@pytest.fixture
def plan(runner, monkeypatch):
    """Names of the planned steps with those of the steps they come after."""
    monkeypatch.setattr(runner, "asan_library", lambda: "/libasan.so")

    def names(minors, *wanted, only=None):
        rows = [(minor, "python" + minor) for minor in minors if only in (None, minor)]
        monkeypatch.setattr(runner, "interpreters", lambda only: rows)
        args = argparse.Namespace(python=only, scripts=1, seed=1)
        return {step.name: [other.name for other in step.after] for step in runner.plan(set(wanted), args)}

    return names


def test_tests_come_after_the_build_of_their_interpreter(plan):
    steps = plan(["3.11", "3.12", "3.13", "3.14"], "python", "asan-python", "tools")
    for minor in ("3.11", "3.12", "3.13", "3.14"):
        assert steps["python tests " + minor] == ["build " + minor]
    assert steps["tests of the tools"] == ["build 3.11"]
    assert steps["python tests 3.13, address"] == ["build 3.13, address"]


def test_twin_and_gil_engine_are_tested_on_the_oldest_and_the_newest_required(plan):
    steps = plan(["3.11", "3.12", "3.13", "3.14"], "python")
    assert [name for name in steps if name[:4] in ("pure", "GIL ")] == [
        "pure twin 3.11", "GIL engine 3.11", "pure twin 3.13", "GIL engine 3.13"]


@pytest.mark.parametrize("only", ["3.12", "3.14"])
def test_an_interpreter_by_itself_has_every_test(plan, only):
    assert list(plan(["3.11", "3.12", "3.13", "3.14"], "python", only=only)) == [
        "build " + only, "python tests " + only, "pure twin " + only, "GIL engine " + only]


def test_one_required_interpreter_is_both_the_oldest_and_the_newest(plan):
    steps = plan(["3.12", "3.14"], "python")
    assert list(steps) == ["build 3.12", "build 3.14", "python tests 3.12", "python tests 3.14", "pure twin 3.12", "GIL engine 3.12"]


def test_no_interpreter_at_all_fails_the_build(runner, plan, monkeypatch):
    assert list(plan([], "python")) == ["build"]
    step, = runner.plan({"build"}, argparse.Namespace(python=None))
    assert not step.do().ok and step.lines == ["no environment in .venv: run tools/setup.sh"]


def test_the_environment_of_the_tests_has_no_options_of_ours(runner, monkeypatch):
    monkeypatch.setenv("PROFILOMATIC_PURE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = runner.clean_environment(PYTHONPATH="stage")
    assert "PROFILOMATIC_PURE" not in env and env["PYTHONPATH"] == "stage"


def test_an_unknown_step_is_refused(runner):
    with pytest.raises(SystemExit) as refused:
        runner.main(["everything"])
    assert refused.value.code == 2
