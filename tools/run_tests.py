#!/usr/bin/env python3
"""Build and test, step by step: what `make test` runs.

`run_tests.py [STEP ...]` with steps out of

    layers      tools/check_layers.py
    c           cmocka tests, plain build
    asan        the same under AddressSanitizer and UndefinedBehaviorSanitizer
    tsan        the same under ThreadSanitizer
    valgrind    the same under valgrind's memcheck (not part of `all`)
    build       the extension and the staged package, for each interpreter
    tools       tests of the tools
    python      pytest on the staged package, for each interpreter
    asan-python some of that on an extension built with both sanitizers, for the newest interpreter
    fuzz        a million random WSGI scripts, bare against wrapped, on that same build (not part of `all`)
    acceptance  rows without a test; fails on the required ones
    docs        tools/check_links.py
    lint        every C file through clang's warnings, when clang is there
    format      clang-format, when it is there

`all` (the default) is every step but valgrind and fuzz. `--python 3.12` restricts build, tools and python to one
interpreter. A failing step does not stop the ones after it; the exit code is 0 only when all passed. The last line
is `N passed, N failed`: cmocka test functions and pytest tests together, a step that failed without a failing test
counting as one. Logs are in build/log.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOG = os.path.join(ROOT, "build", "log")
JOBS = str(max(1, len(os.sched_getaffinity(0))))
STEP_SECONDS = 900  # A hang is a failure with a name, not a build that somebody has to kill.
FUZZ_SECONDS = 7200
FUZZ_SCRIPTS = 1000000

FORMAT_MAJOR = 14  # Debian 12's clang-format

CTEST_START = re.compile(rb"^ +Start +\d+:")  # ctest says each name twice when it runs several at once

# What the sanitizers read along with: 30 s together, where all of tests/python would be six minutes, and tests of how much
# memory a process needs would measure the sanitizer.
ASAN_PYTHON = ("tests/python/api/test_wsgi_rules.py", "tests/python/api/test_asgi_rules.py", "tests/python/memory", "--deselect",
               "tests/python/memory/test_leaks.py::test_a_million_tiny_requests_need_no_more_than_a_fifth_of_them",
               "tests/python/stress/test_stress.py::test_survives_and_adds_up[generators]",
               "tests/python/stress/test_stress.py::test_survives_and_adds_up[callbacks]",
               "tests/python/stress/test_stress.py::test_survives_and_adds_up[messages]")

TSAN_PROBE = "#include <pthread.h>\nint main(void)\n{\n    return 0;\n}\n"


def say(text):
    print(text, flush=True)


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.rows = []

    def add(self, name, passed, failed, skipped, ok, seconds):
        if not ok and failed == 0:
            failed = 1
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        self.rows.append((name, passed, failed, skipped, ok, seconds))


def run(command, log, env=None, quiet=False, seconds=STEP_SECONDS):
    """Run a command into build/log/<log>, and to the terminal unless quiet; return its exit code."""
    path = os.path.join(LOG, log)
    with open(path, "wb") as out, subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True) as child:

        def pump():
            for line in child.stdout:
                out.write(line)
                if not quiet and not CTEST_START.match(line):
                    sys.stdout.buffer.write(line)
                    sys.stdout.buffer.flush()

        reader = threading.Thread(target=pump, daemon=True)
        reader.start()
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = 124
            say("  no end after %d s, stopped: %s" % (seconds, " ".join(command)))
        # Whatever the step left running in its session goes with it, and lets go of the pipe.
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        reader.join(10)
    if quiet and code != 0:
        with open(path, "rb") as out:
            tail = out.read().decode("utf-8", "replace").splitlines()[-60:]
        say("\n".join(tail))
        say("  the whole log: build/log/%s" % log)
    return code


def clean_environment(**extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PROFILOMATIC_") and k not in ("PYTHONPATH", "PYTHONHOME")}
    env.update(extra)
    return env


def configure(build, *definitions):
    """Configure once; CMake itself notices edits. A tree that was moved or is half made is made anew."""
    folder = os.path.join(ROOT, "build", build)
    cache = os.path.join(folder, "CMakeCache.txt")
    if os.path.exists(cache):
        with open(cache, encoding="utf-8", errors="replace") as f:
            home = re.search(r"^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$", f.read(), re.MULTILINE)
        if home is None or home.group(1) != ROOT:
            shutil.rmtree(folder)
    command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *definitions]
    return run(command, "configure-%s.log" % build, quiet=True)


def build(name, *definitions):
    code = configure(name, *definitions)
    return code or run(["ninja", "-C", os.path.join(ROOT, "build", name), "-j", JOBS, "-k", "0"], "build-%s.log" % name, quiet=True)


def count_ctest(path):
    """(passed, failed) of the cmocka functions in a ctest JUnit file; a program without a count is one test."""
    passed = failed = 0
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        out = case.findtext("system-out") or ""
        good = sum(int(n) for n in re.findall(r"^\[  PASSED  \] (\d+) test", out, re.MULTILINE))
        bad = sum(int(n) for n in re.findall(r"^\[  FAILED  \] (?:[^\n]*: )?(\d+) test", out, re.MULTILINE))
        ok = case.get("status") == "run" and case.find("failure") is None
        if ok:
            passed += max(good, 1)
        else:
            passed += good
            failed += max(bad, 1)
    return passed, failed


def c_tests(name, *definitions, launcher=None):
    say("  building build/%s" % name)
    code = build(name, "-DPOM_BUILD_PYTHON=OFF", "-DPOM_BUILD_TESTS=ON", "-DPOM_WERROR=ON", "-DCMAKE_BUILD_TYPE=Debug",
                 "-DPOM_TEST_LAUNCHER=%s" % (launcher or ""), *definitions)
    if code:
        return 0, 0, 0, False
    junit = os.path.join(LOG, "ctest-%s.xml" % name)
    if os.path.exists(junit):
        os.unlink(junit)
    code = run(["ctest", "--test-dir", os.path.join(ROOT, "build", name), "-j", JOBS, "--output-on-failure",
                "--no-tests=error", "--test-output-size-passed", "1000000", "--output-junit", junit],
               "ctest-%s.log" % name, env=clean_environment())
    passed, failed = count_ctest(junit) if os.path.exists(junit) else (0, 0)
    return passed, failed, 0, code == 0


def tsan_launcher():
    """ThreadSanitizer's fixed mappings do not stand much address randomisation; None when it cannot run at all."""
    program = os.path.join(LOG, "tsan-probe")
    with open(program + ".c", "w", encoding="utf-8") as f:
        f.write(TSAN_PROBE)
    if run(["cc", "-fsanitize=thread", program + ".c", "-o", program], "tsan-probe.log", quiet=True):
        return None
    for launcher in ("", "setarch;-R"):
        command = [word for word in launcher.split(";") if word] + [program]
        try:
            if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0:
                return launcher
        except OSError:
            pass
    return None


def interpreters(only):
    """[(minor, python of the environment)] that tools/setup.sh filled."""
    found = []
    root = os.path.join(ROOT, ".venv")
    for minor in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        python = os.path.join(root, minor, "bin", "python")
        if os.path.exists(os.path.join(root, minor, ".filled")) and (only is None or minor == only):
            found.append((minor, python))
    return found


def build_python(minor, python):
    return build("py" + minor, "-DPOM_BUILD_PYTHON=ON", "-DPOM_BUILD_TESTS=OFF", "-DPOM_WERROR=ON", "-DPOM_LTO=ON",
                 "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DPython_EXECUTABLE=%s" % python)


def count_pytest(path):
    passed = failed = skipped = 0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
        failed += bad
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    return passed, failed, skipped


def pytest(minor, python, folders, log, tree="py", **environment):
    junit = os.path.join(LOG, log + ".xml")
    if os.path.exists(junit):
        os.unlink(junit)
    stage = os.path.join(ROOT, "build", tree + minor, "stage")
    folders = [folders] if isinstance(folders, str) else folders
    code = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", junit, *folders], log + ".log",
               env=clean_environment(PYTHONPATH=stage, **environment))
    passed, failed, skipped = count_pytest(junit) if os.path.exists(junit) else (0, 0, 0)
    return passed, failed, skipped, code == 0


def asan_build(minor, python):
    """The extension under both sanitizers: the environment variables to run it with, {} where that cannot be, None on failure.

    The interpreter itself is not instrumented, so the sanitizer comes first by LD_PRELOAD, and its malloc under the
    interpreter's by PYTHONMALLOC: uses of freed Python objects are found too. What the interpreter keeps until its end is not
    ours to report; an absurd size must come back as NULL, as from libc."""
    library = subprocess.run(["cc", "-print-file-name=libasan.so"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             universal_newlines=True).stdout.strip()
    if not os.path.isabs(library):
        say("  the C compiler has no libasan.so: left out")
        return {}
    say("  building build/asan-py%s" % minor)
    if build("asan-py" + minor, "-DPOM_BUILD_PYTHON=ON", "-DPOM_BUILD_TESTS=OFF", "-DPOM_WERROR=ON", "-DPOM_SANITIZE=address",
             "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DPython_EXECUTABLE=%s" % python):
        return None
    return {"LD_PRELOAD": library, "PYTHONMALLOC": "malloc", "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1"}


def asan_python(minor, python):
    environment = asan_build(minor, python)
    if not environment:
        return environment is not None
    return pytest(minor, python, ASAN_PYTHON, "pytest-asan-" + minor, tree="asan-py", **environment)


def fuzz(minor, python, scripts, seed):
    """Random WSGI scripts, bare against wrapped, on the sanitized extension."""
    environment = asan_build(minor, python)
    if not environment:
        return environment is not None
    stage = os.path.join(ROOT, "build", "asan-py" + minor, "stage")
    return run([python, "tests/python/fuzz_wsgi/fuzz_wsgi.py", "--no-pauses", "--scripts", str(scripts),
                "--seed", str(seed)],
               "fuzz-%s.log" % minor, env=clean_environment(PYTHONPATH=stage, **environment), seconds=FUZZ_SECONDS) == 0


def check_clang(found):
    """gcc builds everything else; this is the other compiler's opinion, the extension included."""
    if shutil.which("clang") is None:
        say("  no clang here: left out")
        return True
    python = ["-DPOM_BUILD_PYTHON=ON", "-DPython_EXECUTABLE=%s" % found[-1][1]] if found else ["-DPOM_BUILD_PYTHON=OFF"]
    return build("clang", "-DCMAKE_C_COMPILER=clang", "-DPOM_BUILD_TESTS=ON", "-DPOM_WERROR=ON", "-DCMAKE_BUILD_TYPE=Debug",
                 *python) == 0


def check_format():
    tool = shutil.which("clang-format")
    if tool is None:
        say("  no clang-format here: not checked")
        return True
    version = subprocess.run([tool, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, universal_newlines=True)
    major = re.search(r"version (\d+)", version.stdout)
    if major is None or int(major.group(1)) != FORMAT_MAJOR:
        say("  this clang-format is not version %d, and others disagree in places: not checked" % FORMAT_MAJOR)
        return True
    wrong = []
    for path in c_files():
        done = subprocess.run([tool, path], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        with open(os.path.join(ROOT, path), "rb") as f:
            if done.returncode or done.stdout != f.read():
                wrong.append(path)
    if wrong:
        say("  not formatted (`make format` mends it): " + " ".join(wrong))
    return not wrong


def c_files():
    """The C files that git knows or would know; a plain walk outside a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.c", "*.h"], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True)
    if listed.returncode == 0:
        return sorted(f for f in listed.stdout.split("\0") if f and os.path.exists(os.path.join(ROOT, f)))
    found = []
    for here, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in ("build", ".venv", ".git")]
        found += [os.path.relpath(os.path.join(here, n), ROOT) for n in names if n.endswith((".c", ".h"))]
    return sorted(found)


STEPS = ("layers", "c", "asan", "tsan", "build", "tools", "python", "asan-python", "acceptance", "docs", "lint", "format")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help="out of: all valgrind fuzz " + " ".join(STEPS))
    parser.add_argument("--python", metavar="MINOR", help="only this interpreter, such as 3.12")
    parser.add_argument("--brief", action="store_true", help="no table at the end unless a step failed")
    parser.add_argument("--scripts", type=int, default=FUZZ_SCRIPTS, metavar="N", help="how many the fuzz step runs")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="N", help="of the fuzz step; the time by default")
    parser.add_argument("--list-c-files", action="store_true", help="print the C files that the format step reads")
    args = parser.parse_args(argv)
    if args.list_c_files:
        print("\n".join(c_files()))
        return 0
    unknown = [s for s in args.steps if s not in STEPS + ("all", "valgrind", "fuzz")]
    if unknown:
        parser.error("unknown step %s" % unknown[0])
    steps = list(STEPS) if not args.steps or "all" in args.steps else args.steps
    if "python" in steps and "build" not in steps:
        steps.insert(steps.index("python"), "build")

    os.makedirs(LOG, exist_ok=True)
    os.chdir(ROOT)
    totals = Totals()
    found = interpreters(args.python)
    built = {}

    def step(name, function, *arguments, **environment):
        say("== %s" % name)
        begun = time.monotonic()
        answer = function(*arguments, **environment)
        passed, failed, skipped, ok = answer if isinstance(answer, tuple) else (0, 0, 0, bool(answer))
        totals.add(name, passed, failed, skipped, ok, time.monotonic() - begun)
        return ok

    tool = [sys.executable]
    for name in steps:
        if name == "layers":
            step(name, lambda: run(tool + ["tools/check_layers.py"], "layers.log") == 0)
        elif name == "c":
            step("c tests", c_tests, "c")
        elif name == "asan":
            step("c tests, address and undefined", c_tests, "asan", "-DPOM_SANITIZE=address")
        elif name == "tsan":
            launcher = tsan_launcher()
            if launcher is None:
                say("== c tests, thread: ThreadSanitizer does not run on this machine, left out")
                continue
            step("c tests, thread", lambda: c_tests("tsan", "-DPOM_SANITIZE=thread", launcher=launcher))
        elif name == "valgrind":
            step("c tests, valgrind", lambda: c_tests(
                "c-valgrind", launcher="valgrind;-q;--error-exitcode=9;--leak-check=full;--show-leak-kinds=definite,indirect"))
        elif name == "build":
            if not found:
                step("build", lambda: say("  no environment in .venv: run tools/setup.sh"))
            for minor, python in found:
                built[minor] = step("build %s" % minor, lambda m=minor, p=python: build_python(m, p) == 0)
        elif name == "tools" and found:
            minor, python = found[0]
            step("tests of the tools", pytest, minor, python, "tests/tools", "pytest-tools")
        elif name == "python":
            for minor, python in found:
                if built.get(minor, True):
                    step("python tests %s" % minor, pytest, minor, python, "tests/python", "pytest-" + minor)
                    step("pure twin %s" % minor, pytest, minor, python, "tests/python/api", "pytest-pure-" + minor,
                         PROFILOMATIC_PURE="1")
                    step("GIL engine %s" % minor, pytest, minor, python, "tests/python/api", "pytest-gil-" + minor,
                         PROFILOMATIC_ENGINE="gil")
        elif name == "asan-python" and found:
            minor, python = found[-1]
            step("python tests %s, address" % minor, asan_python, minor, python)
        elif name == "fuzz" and found:
            minor, python = found[-1]
            step("fuzz %s, address" % minor, fuzz, minor, python, args.scripts, args.seed)
        elif name == "acceptance":
            step(name, lambda: run(tool + ["tools/acceptance.py", "-q", "--require-file", "tools/acceptance_required.txt"],
                                   "acceptance.log") == 0)
        elif name == "docs":
            step(name, lambda: run(tool + ["tools/check_links.py"], "links.log") == 0)
        elif name == "lint":
            step(name, check_clang, found)
        elif name == "format":
            step(name, check_format)

    ok = all(row[4] for row in totals.rows)
    if args.brief and ok:
        return 0
    say("")
    for name, passed, failed, skipped, ok, seconds in totals.rows:
        counts = "%4d passed %3d failed %3d skipped" % (passed, failed, skipped) if passed or failed or skipped else ""
        say("%-4s %-32s %6.1f s  %s" % ("ok" if ok else "FAIL", name, seconds, counts))
    say("%d passed, %d failed" % (totals.passed, totals.failed))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
