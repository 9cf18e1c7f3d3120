"""Comparing a suite's bare run with its wrapped one."""

import pathlib

import pytest

STATS = {"actions": {"started": 2, "profiled": 2, "shed": 0}, "faults": {}}


@pytest.fixture
def suites(load_tool, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).resolve().parents[2] / "tools"))  # it imports run_tests
    return load_tool("suites")


@pytest.fixture
def compare(suites):
    def run(bare, wrapped, stats=(STATS,), told_apart=()):
        suite = suites.Suite("any", None, [], told_apart=told_apart)
        return suites.compare(suite, suites.Outcome(bare, [], "log"), suites.Outcome(wrapped, list(stats), "log"))

    return run


def test_the_same_results_are_no_difference_even_where_a_test_fails(compare):
    results = {"a": "passed", "b": "failed", "c": "skipped"}
    assert compare(results, dict(results)) == []


@pytest.mark.parametrize("wrapped, said", [
    ({"a": "passed", "b": "failed"}, "b: bare passed, wrapped failed"),
    ({"a": "passed", "b": "skipped"}, "b: bare passed, wrapped skipped"),
    ({"a": "passed"}, "b: bare passed, wrapped absent"),
    ({"a": "passed", "b": "passed", "c": "passed"}, "c: bare absent, wrapped passed"),
])
def test_any_other_result_is_a_difference(compare, wrapped, said):
    assert compare({"a": "passed", "b": "passed"}, wrapped) == [said]


def test_a_run_that_proves_nothing_fails(compare):
    assert compare({}, {}) == ["no test passed: see log"]
    assert compare({"a": "passed"}, {"a": "passed"}, stats=()) == ["nothing was profiled in the wrapped run"]


def test_faults_and_counters_that_do_not_add_up_fail(compare):
    results = {"a": "passed"}
    wrong = compare(results, results, stats=[STATS, {"actions": {"started": 3, "profiled": 1, "shed": 1},
                                                     "faults": {"wsgi begin": 1}}])
    assert [sentence.split(":")[0] for sentence in wrong] == ["faults of ours", "the counters do not add up"]


def test_a_test_that_can_tell_is_named_and_must_go_on_telling(compare):
    assert compare({"a": "passed", "b": "passed"}, {"a": "passed", "b": "failed"}, told_apart=["b"]) == []
    both = {"a": "passed", "b": "passed"}
    assert compare(both, both, told_apart=["b"]) == ["b: is no longer told apart (bare passed, wrapped passed)"]


def test_results_are_read_from_both_kinds_of_file(suites, tmp_path):
    (tmp_path / "junit.xml").write_text(
        '<testsuites><testsuite><testcase classname="m" name="a"/><testcase classname="m" name="b"><failure/></testcase>'
        '<testcase classname="m" name="c"><skipped/></testcase></testsuite></testsuites>')
    assert suites.junit_results(tmp_path / "junit.xml") == {"m.a": "passed", "m.b": "failed", "m.c": "skipped"}
    (tmp_path / "lines").write_text("passed m.a\nfailed m.b (i=1)\nfailed m.c\npassed m.c\n")
    assert suites.line_results(tmp_path / "lines") == {"m.a": "passed", "m.b (i=1)": "failed", "m.c": "failed"}
