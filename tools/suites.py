#!/usr/bin/env python3
"""Run the test suites of WSGI frameworks bare and with every application wrapped: what `make suites` does.

    suites.py [--python 3.12] [SUITE ...]

For each interpreter of .venv: an environment of its own, build/suites/<minor>/env, with what requirements/suites.txt
names; the suites' sources from the same versions' source distributions; each suite twice, tests/suites/suites_hook.py
wrapping or not. A suite passes when both runs have the same tests with the same results, when there were some, when the
wrapped one was really profiled, and when no fault of ours was counted. Logs are in build/suites/<minor>.

A test that can tell the two apart is named below, with the reason. Needs the staged package (`run_tests.py build`).
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree

from run_tests import ROOT, clean_environment, interpreters

PLACE = os.path.join(ROOT, "build", "suites")
REQUIREMENTS = os.path.join(ROOT, "requirements", "suites.txt")
SUITE_SECONDS = 900
DJANGO_PARTS = ("wsgi", "servers", "handlers", "responses", "httpwrappers", "file_uploads", "requests_tests",
                "staticfiles_tests", "test_client", "middleware")


class Suite:
    """package: its source distribution, None = the interpreter's own tests. told_apart: tests that pass bare and fail
    wrapped, for a reason that is documented behaviour of the wrapper; one that does so no more is an error too."""

    def __init__(self, name, package, command, folder="", told_apart=()):
        self.name = name
        self.package = package
        self.command = command
        self.folder = folder
        self.told_apart = told_apart


PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60", "--junitxml", "{junit}"]
SUITES = (
    Suite("werkzeug", "werkzeug", PYTEST + ["tests"]),
    Suite("flask", "flask", PYTEST + ["tests"]),
    Suite("bottle", "bottle", PYTEST + ["test"]),
    Suite("django", "django", ["runtests.py", "--parallel", "1", "--noinput", *DJANGO_PARTS], "tests", (
        "wsgi.tests.WSGITest.test_get_wsgi_application",  # bytes() of what the application returned: no part of WSGI
        # Asks for all headers of the environ; the wrapper's HTTP_X_TASK_UUID is one.
        "servers.test_basehttp.WSGIRequestHandlerTestCase.test_strips_underscore_headers",
    )),
    Suite("wsgiref", None, PYTEST + ["--pyargs", "test.test_wsgiref"]),
)


def say(text):
    print(text, flush=True)


def check(command, log, **options):
    """Run it into a log; the log's end and our own end when it fails."""
    with open(log, "a", encoding="utf-8") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        with open(log, encoding="utf-8", errors="replace") as f:
            say("".join(f.readlines()[-15:]))
        sys.exit("suites: failed: %s; the whole log: %s" % (" ".join(command), log))


def environment(minor, python):
    """The python of build/suites/<minor>/env, filled for what requirements/suites.txt says now."""
    place = os.path.join(PLACE, minor, "env")
    inside = os.path.join(place, "bin", "python")
    stamp = os.path.join(place, ".filled")
    with open(REQUIREMENTS, "rb") as f:
        now = hashlib.sha256(f.read()).hexdigest()
    if not os.path.exists(stamp) or open(stamp, encoding="utf-8").read() != now:
        say("  filling build/suites/%s/env" % minor)
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        log = os.path.join(PLACE, minor, "pip.log")
        # With the pip of .venv: where an interpreter was only unpacked, ensurepip has the system's, which may be too old for it.
        check([python, "-m", "venv", "--without-pip", place], log)
        check([python, "-m", "pip", "--python", inside, "install", "--disable-pip-version-check", "--no-input", "--prefer-binary",
               "pip", "-r", REQUIREMENTS], log)
        with open(stamp, "w", encoding="utf-8") as f:
            f.write(now)
    install_hook(inside, minor)
    return inside


def install_hook(python, minor):
    """A .pth file, not PYTHONPATH: suites start interpreters with a PYTHONPATH of theirs."""
    packages = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True,
                              stdout=subprocess.PIPE, universal_newlines=True).stdout.strip()
    with open(os.path.join(packages, "profilomatic-suites.pth"), "w", encoding="utf-8") as f:
        f.write("%s\n%s\nimport suites_hook\n" % (os.path.join(ROOT, "build", "py" + minor, "stage"),
                                                  os.path.join(ROOT, "tests", "suites")))


def source(python, package):
    """The unpacked source distribution of the version that requirements/suites.txt names."""
    with open(REQUIREMENTS, encoding="utf-8") as f:
        version = re.search(r"^%s==(\S+)" % package, f.read(), re.MULTILINE).group(1)
    folder = os.path.join(PLACE, "src", "%s-%s" % (package, version))
    if not os.path.isdir(folder):
        say("  fetching the sources of %s %s" % (package, version))
        archives = os.path.join(PLACE, "sdist")
        os.makedirs(archives, exist_ok=True)
        check([python, "-m", "pip", "download", "--disable-pip-version-check", "--no-binary", ":all:", "--no-deps",
               "-d", archives, "%s==%s" % (package, version)], os.path.join(PLACE, "download.log"))
        with tarfile.open(os.path.join(archives, "%s-%s.tar.gz" % (package, version))) as archive:
            archive.extractall(os.path.join(PLACE, "src"))
    return folder


class Outcome:
    def __init__(self, results, stats, log):
        self.results = results  # {test: how it ended}
        self.stats = stats  # one dict for each wrapped process
        self.log = log

    def count(self, word):
        return sum(result == word for result in self.results.values())


def junit_results(path):
    results = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        word = "passed"
        for child in case:
            word = {"failure": "failed", "error": "failed", "skipped": "skipped"}.get(child.tag, word)
        results["%s.%s" % (case.get("classname"), case.get("name"))] = word
    return results


def line_results(path):
    results = {}
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            word, _, test = line.rstrip("\n").partition(" ")
            if results.get(test) != "failed":
                results[test] = word
    return results


def is_here(suite, python):
    """An interpreter need not come with its own tests: Debian has them in a package of their own."""
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec(%r) is None)" % suite.command[-1]
    return suite.package is not None or subprocess.run([python, "-c", find]).returncode == 0


def run(suite, minor, python, wrapped):
    base = os.path.join(PLACE, minor, "%s-%s" % (suite.name, "wrapped" if wrapped else "bare"))
    files = {kind: base + "." + kind for kind in ("xml", "results", "stats", "log")}
    for path in files.values():
        if os.path.exists(path):
            os.unlink(path)
    folder = os.path.join(PLACE, minor) if suite.package is None else os.path.join(source(python, suite.package), suite.folder)
    command = [python] + [word.replace("{junit}", files["xml"]) for word in suite.command]
    env = clean_environment(SUITES_WRAP="1" if wrapped else "0", SUITES_STATS=files["stats"],
                            PATH=os.path.dirname(python) + os.pathsep + os.environ["PATH"])
    if "{junit}" not in suite.command:
        env["SUITES_RESULTS"] = files["results"]
    with open(files["log"], "wb") as out:
        try:
            subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                           timeout=SUITE_SECONDS)
        except subprocess.TimeoutExpired:
            out.write(b"no end after %d s\n" % SUITE_SECONDS)
    results = {}
    if os.path.exists(files["xml"]):
        results = junit_results(files["xml"])
    elif os.path.exists(files["results"]):
        results = line_results(files["results"])
    stats = []
    if os.path.exists(files["stats"]):
        with open(files["stats"], encoding="utf-8") as f:
            stats = [json.loads(line) for line in f]
    return Outcome(results, stats, files["log"])


def compare(suite, bare, wrapped):
    """Sentences, one for each reason why the two are not alike."""
    wrong = []
    for test in sorted(set(bare.results) | set(wrapped.results)):
        one, other = bare.results.get(test, "absent"), wrapped.results.get(test, "absent")
        if test in suite.told_apart:
            if (one, other) != ("passed", "failed"):
                wrong.append("%s: is no longer told apart (bare %s, wrapped %s)" % (test, one, other))
        elif one != other:
            wrong.append("%s: bare %s, wrapped %s" % (test, one, other))
    if bare.count("passed") == 0:
        wrong.append("no test passed: see %s" % bare.log)
    if bare.stats:
        wrong.append("the bare run was wrapped")
    if sum(each["actions"]["profiled"] for each in wrapped.stats) == 0:
        wrong.append("nothing was profiled in the wrapped run")
    for each in wrapped.stats:
        actions = each["actions"]
        if each["faults"]:
            wrong.append("faults of ours: %r" % each["faults"])
        if actions["started"] != actions["profiled"] + actions["shed"]:
            wrong.append("the counters do not add up: %r" % actions)
    return wrong


def row(suite, minor, bare, wrapped, wrong, seconds):
    counts = ", ".join("%d %s" % (bare.count(word), word) for word in ("passed", "failed", "skipped"))
    profiled = sum(each["actions"]["profiled"] for each in wrapped.stats)
    return "%-4s %-9s %s  %s bare; %d requests profiled, %d tests told apart, %d differences, %.0f s" % (
        "FAIL" if wrong else "ok", suite.name, minor, counts, profiled, len(suite.told_apart), len(wrong), seconds)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="out of: " + " ".join(suite.name for suite in SUITES))
    parser.add_argument("--python", metavar="MINOR", help="only this interpreter, such as 3.12")
    args = parser.parse_args(argv)
    unknown = set(args.suites) - {suite.name for suite in SUITES}
    if unknown:
        parser.error("unknown suite %s" % " ".join(sorted(unknown)))
    found = interpreters(args.python)
    if not found:
        sys.exit("suites: no environment in .venv: run tools/setup.sh")
    rows, differences = [], 0
    for minor, base in found:
        say("== suites on %s" % minor)
        python = environment(minor, base)
        for suite in SUITES:
            if args.suites and suite.name not in args.suites:
                continue
            if not is_here(suite, python):
                say("  %s is not here for %s: left out" % (suite.command[-1], minor))
                continue
            begun = time.monotonic()
            bare, wrapped = run(suite, minor, python, False), run(suite, minor, python, True)
            wrong = compare(suite, bare, wrapped)
            differences += len(wrong)
            for sentence in wrong:
                say("  " + sentence)
            rows.append(row(suite, minor, bare, wrapped, wrong, time.monotonic() - begun))
            say("  " + rows[-1])
    say("")
    say("\n".join(rows))
    say("%d differences" % differences)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
