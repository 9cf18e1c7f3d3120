"""Counting and stopping in the test runner."""

import sys
import time

import pytest


@pytest.fixture
def runner(load_tool, tmp_path, monkeypatch):
    tool = load_tool("run_tests")
    monkeypatch.setattr(tool, "LOG", str(tmp_path))
    monkeypatch.setattr(tool, "ROOT", str(tmp_path))
    return tool


CTEST = """<testsuite>
<testcase name="a" status="run"><system-out>[==========] 3 test(s) run.
[  PASSED  ] 3 test(s).
</system-out></testcase>
<testcase name="b" status="fail"><failure message=""/><system-out>[  PASSED  ] 4 test(s).
[  FAILED  ] tests: 2 test(s), listed below:
[  FAILED  ] test_one
[  FAILED  ] test_two
 2 FAILED TEST(S)
</system-out></testcase>
<testcase name="crashed" status="fail"><failure message=""/><system-out>nothing</system-out></testcase>
<testcase name="silent" status="run"><system-out></system-out></testcase>
</testsuite>"""


def test_ctest_counts_functions_and_a_crash_as_one(runner, tmp_path):
    path = tmp_path / "x.xml"
    path.write_text(CTEST)
    assert runner.count_ctest(str(path)) == (3 + 4 + 1, 2 + 1)


def test_pytest_counts_errors_as_failed(runner, tmp_path):
    path = tmp_path / "x.xml"
    path.write_text('<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>')
    assert runner.count_pytest(str(path)) == (4, 3, 3)


def test_a_step_that_fails_without_a_failing_test_counts_as_one(runner):
    totals = runner.Totals()
    totals.add("build", 0, 0, 0, False, 1.0)
    totals.add("tests", 5, 0, 1, True, 1.0)
    totals.add("more", 5, 2, 0, False, 1.0)
    assert (totals.passed, totals.failed, totals.skipped) == (10, 3, 1)


def test_a_command_that_hangs_is_stopped_with_its_children(runner, tmp_path):
    code = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', %r])\ntime.sleep(60)" % (
        "import time, pathlib; time.sleep(2); pathlib.Path(%r).touch()" % str(tmp_path / "survived"))
    begun = time.monotonic()
    assert runner.run([sys.executable, "-c", code], "hang.log", seconds=1) == 124
    assert time.monotonic() - begun < 20
    time.sleep(2.5)
    assert not (tmp_path / "survived").exists()


def test_a_quiet_command_shows_its_log_only_when_it_fails(runner, capsys):
    assert runner.run([sys.executable, "-c", "print('fine')"], "x.log", quiet=True) == 0
    assert capsys.readouterr().out == ""
    assert runner.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], "x.log", quiet=True) == 3
    assert "the reason" in capsys.readouterr().out


def test_the_environment_of_the_tests_has_no_options_of_ours(runner, monkeypatch):
    monkeypatch.setenv("PROFILOMATIC_PURE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    env = runner.clean_environment(PYTHONPATH="stage")
    assert "PROFILOMATIC_PURE" not in env and env["PYTHONPATH"] == "stage"


def test_an_unknown_step_is_refused(runner):
    with pytest.raises(SystemExit) as refused:
        runner.main(["everything"])
    assert refused.value.code == 2
