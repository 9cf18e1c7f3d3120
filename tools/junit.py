"""What a JUnit file says of a run: how many tests passed, failed and were skipped, and why each failing one did.

ctest writes a case for each program, whose output lists the cmocka functions; pytest one for each test. `failing` has a line
for each test that failed, name first, and below it the last few lines of what was said about it.
"""

import collections
import re
import xml.etree.ElementTree as ElementTree

REASON = 12  # lines

Run = collections.namedtuple("Run", "passed failed skipped failing")


def read_ctest(path):
    """A program without a count is one test."""
    passed = failed = 0
    failing = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        out = case.findtext("system-out") or ""
        good = sum(int(n) for n in re.findall(r"^\[  PASSED  \] (\d+) test", out, re.MULTILINE))
        bad = sum(int(n) for n in re.findall(r"^\[  FAILED  \] (?:[^\n]*: )?(\d+) test", out, re.MULTILINE))
        if case.get("status") == "run" and case.find("failure") is None:
            passed += max(good, 1)
        else:
            passed += good
            failed += max(bad, 1)
            failing.append(described(case.get("name"), without_the_good(out)))
    return Run(passed, failed, 0, failing)


def without_the_good(out):
    return re.sub(r"^\[ *(RUN|OK|PASSED) *\].*\n", "", out, flags=re.MULTILINE)


def read_pytest(path):
    passed = failed = skipped = 0
    failing = []
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
        failed += bad
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
        for case in suite.iter("testcase"):
            for what in [*case.iter("failure"), *case.iter("error")]:
                failing.append(described("%s::%s" % (case.get("classname"), case.get("name")), what.text or what.get("message") or ""))
    return Run(passed, failed, skipped, failing)


def described(name, reason):
    return "\n    ".join([name] + [line for line in reason.splitlines() if line.strip()][-REASON:])
