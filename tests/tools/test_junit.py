"""What the test runner reads in JUnit files."""

import pytest


@pytest.fixture
def junit(load_tool):
    return load_tool("junit")


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "x.xml"
        path.write_text(text)
        return str(path)

    return write


CTEST = """<testsuite>
<testcase name="a" status="run"><system-out>[==========] 3 test(s) run.
[  PASSED  ] 3 test(s).
</system-out></testcase>
<testcase name="b" status="fail"><failure message=""/><system-out>[ RUN      ] test_zero
[       OK ] test_zero
[   LINE   ] --- b.c:7: error: Failure!
[  PASSED  ] 4 test(s).
[  FAILED  ] tests: 2 test(s), listed below:
[  FAILED  ] test_one
[  FAILED  ] test_two
 2 FAILED TEST(S)
</system-out></testcase>
<testcase name="crashed" status="fail"><failure message=""/><system-out>nothing</system-out></testcase>
<testcase name="silent" status="run"><system-out></system-out></testcase>
</testsuite>"""


def test_ctest_counts_functions_and_a_crash_as_one(junit, written):
    run = junit.read_ctest(written(CTEST))
    assert (run.passed, run.failed, run.skipped) == (3 + 4 + 1, 2 + 1, 0)


def test_ctest_names_what_failed_and_why(junit, written):
    b, crashed = junit.read_ctest(written(CTEST)).failing
    assert b.splitlines()[0] == "b" and "b.c:7: error: Failure!" in b and "test_zero" not in b and "[  FAILED  ] test_two" in b
    assert crashed == "crashed\n    nothing"


PYTEST = """<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3">
<testcase classname="tests.test_x" name="test_good"/>
<testcase classname="tests.test_x" name="test_bad"><failure message="assert 1 == 2">def test_bad():
&gt;       assert 1 == 2
E       assert 1 == 2

tests/test_x.py:3: AssertionError</failure></testcase>
<testcase classname="tests.test_x" name="test_broken"><error message="no fixture"/></testcase>
</testsuite></testsuites>"""


def test_pytest_counts_errors_as_failed(junit, written):
    run = junit.read_pytest(written(PYTEST))
    assert (run.passed, run.failed, run.skipped) == (4, 3, 3)


def test_pytest_names_what_failed_and_why(junit, written):
    bad, broken = junit.read_pytest(written(PYTEST)).failing
    assert bad.splitlines()[0] == "tests.test_x::test_bad"
    assert bad.splitlines()[-1].strip() == "tests/test_x.py:3: AssertionError"
    assert broken == "tests.test_x::test_broken\n    no fixture"


def test_a_long_reason_keeps_its_end(junit, written):
    text = "\n".join("line %d" % n for n in range(100))
    (bad,) = junit.read_pytest(written('<testsuite><testcase classname="c" name="n"><failure>%s</failure></testcase></testsuite>'
                                       % text)).failing
    assert len(bad.splitlines()) == 1 + junit.REASON and bad.endswith("line 99")
