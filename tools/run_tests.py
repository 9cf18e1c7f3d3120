#!/usr/bin/env python3
"""Build and test in steps: what `make test` runs.

`run_tests.py [STEP ...]` with steps out of

    layers      tools/check_layers.py
    docs        tools/check_links.py
    acceptance  rows without a test; fails on the required ones
    format      clang-format, when it is there
    build       the extension and the staged package, for each interpreter
    python      pytest on the staged package, for each interpreter
    c           cmocka tests, plain build
    asan        the same under AddressSanitizer and UndefinedBehaviorSanitizer
    tsan        the same under ThreadSanitizer
    valgrind    the same under valgrind's memcheck (not part of `all`)
    asan-python some of the Python tests on an extension built with both sanitizers, for the newest interpreter
    fuzz        a million random WSGI scripts, bare against wrapped, on that same build (not part of `all`)
    tools       tests of the tools
    lint        every C file through clang's warnings, when clang is there

`all` (the default) is every step but valgrind and fuzz. `--python 3.12` restricts build, tools and python to one
interpreter. Interpreters are those of tools/interpreters.py; the optional ones are built and tested where they are. Tests marked
`oldest_and_newest` run on these two of the required interpreters, as do the tests of the API on the pure twin and on the GIL
engine; what the sanitizers and clang see is the newest.

Steps that do not need each other run side by side (tools/lanes.py): most of a step is waiting, for servers or for samples.
Each has a line when it ends, with the end of the log where it failed; logs are in build/log. A failing step stops only what
needs it; the exit code is 0 only when all passed. At the end each failing test is named with its reason. The last line is
`N passed, N failed`: cmocka test functions and pytest tests together, a step that failed without a failing test counting as one.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import junit
import lanes
from interpreters import OPTIONAL

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOG = os.path.join(ROOT, "build", "log")
CORES = max(1, len(os.sched_getaffinity(0)))
LANES = 2 * CORES  # a step of pytest by itself leaves half of a core idle
COMPILER_NICE = "15"  # what compiles makes way for what is tested: tests have servers and deadlines
FUZZ_SECONDS = 7200
FUZZ_SCRIPTS = 1000000

STEPS = ("layers", "docs", "acceptance", "format", "build", "python", "c", "asan", "tsan", "asan-python", "tools", "lint")
BY_HAND = ("valgrind", "fuzz")

FORMAT_MAJOR = 14  # Debian 12's clang-format

# What the sanitizers read along with: 30 s together, where all of tests/python would be six minutes, and tests of how much
# memory a process needs would measure the sanitizer. Its allocator is not made for a fork beside a thread that allocates: the child
# waits for a lock of the allocator's that nobody holds there, in 3 of 1000.
ASAN_PYTHON = ("tests/python/api/test_wsgi_rules.py", "tests/python/api/test_asgi_rules.py", "tests/python/memory", "--deselect",
               "tests/python/memory/test_leaks.py::test_a_million_tiny_requests_need_no_more_than_a_fifth_of_them",
               "--deselect", "tests/python/api/test_asgi_rules.py::test_a_forked_child_profiles_its_requests",
               "tests/python/stress/test_stress.py::test_survives_and_adds_up[generators]",
               "tests/python/stress/test_stress.py::test_survives_and_adds_up[callbacks]",
               "tests/python/stress/test_stress.py::test_survives_and_adds_up[messages]", "tests/python/asgi/test_threads.py",
               "tests/python/stress/test_stress.py::test_survives_and_adds_up[request_threads]")

TSAN_PROBE = "#include <pthread.h>\nint main(void)\n{\n    return 0;\n}\n"

commands = lanes.Commands(ROOT, LOG)


def clean_environment(**extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PROFILOMATIC_") and k not in ("PYTHONPATH", "PYTHONHOME")}
    env.update(extra)
    return env


def configure(step, build, *definitions):
    """Configure once; CMake itself notices edits. A tree that was moved or is half made is made anew."""
    folder = os.path.join(ROOT, "build", build)
    cache = os.path.join(folder, "CMakeCache.txt")
    if os.path.exists(cache):
        with open(cache, encoding="utf-8", errors="replace") as f:
            home = re.search(r"^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$", f.read(), re.MULTILINE)
        if home is None or home.group(1) != ROOT:
            shutil.rmtree(folder)
    command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *definitions]
    return commands.run(step, command, "configure-%s.log" % build) == 0


def build(step, name, *definitions):
    command = ["nice", "-n", COMPILER_NICE, "ninja", "-C", os.path.join(ROOT, "build", name), "-j", str(CORES), "-k", "0"]
    return configure(step, name, *definitions) and commands.run(step, command, "build-%s.log" % name) == 0


def c_tests(step, name, *definitions, launcher=""):
    if not build(step, name, "-DPOM_BUILD_PYTHON=OFF", "-DPOM_BUILD_TESTS=ON", "-DPOM_WERROR=ON", "-DCMAKE_BUILD_TYPE=Debug",
                 "-DPOM_TEST_LAUNCHER=%s" % launcher, *definitions):
        return False
    results = os.path.join(LOG, "ctest-%s.xml" % name)
    if os.path.exists(results):
        os.unlink(results)
    code = commands.run(step, ["ctest", "--test-dir", os.path.join(ROOT, "build", name), "-j", str(CORES), "--output-on-failure",
                               "--no-tests=error", "--test-output-size-passed", "1000000", "--output-junit", results],
                        "ctest-%s.log" % name, env=clean_environment())
    if os.path.exists(results):
        step.passed, step.failed, step.skipped, step.failing = junit.read_ctest(results)
    return code == 0


def thread_tests(step):
    launcher = tsan_launcher(step)
    if launcher is None:
        step.say("ThreadSanitizer does not run on this machine: left out")
        return True
    return c_tests(step, "tsan", "-DPOM_SANITIZE=thread", launcher=launcher)


def tsan_launcher(step):
    """ThreadSanitizer's fixed mappings do not stand much address randomisation; None when it cannot run at all."""
    program = os.path.join(LOG, "tsan-probe")
    with open(program + ".c", "w", encoding="utf-8") as f:
        f.write(TSAN_PROBE)
    if commands.run(step, ["cc", "-fsanitize=thread", program + ".c", "-o", program], "tsan-probe.log"):
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


def build_python(step, minor, python):
    return build(step, "py" + minor, "-DPOM_BUILD_PYTHON=ON", "-DPOM_BUILD_TESTS=OFF", "-DPOM_WERROR=ON", "-DPOM_LTO=ON",
                 "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DPython_EXECUTABLE=%s" % python)


def pytest(step, minor, python, arguments, log, tree="py", **environment):
    results = os.path.join(LOG, log + ".xml")
    if os.path.exists(results):
        os.unlink(results)
    stage = os.path.join(ROOT, "build", tree + minor, "stage")
    code = commands.run(step, [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", results, *arguments],
                        log + ".log", env=clean_environment(PYTHONPATH=stage, **environment))
    if os.path.exists(results):
        step.passed, step.failed, step.skipped, step.failing = junit.read_pytest(results)
    return code == 0


def asan_library():
    """None where the C compiler has no AddressSanitizer."""
    path = subprocess.run(["cc", "-print-file-name=libasan.so"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          universal_newlines=True).stdout.strip()
    return path if os.path.isabs(path) else None


def asan_environment():
    """For the extension under both sanitizers.

    The interpreter itself is not instrumented, so the sanitizer comes first by LD_PRELOAD, and its malloc under the
    interpreter's by PYTHONMALLOC: uses of freed Python objects are found too. What the interpreter keeps until its end is not
    ours to report; an absurd size must come back as NULL, as from libc."""
    return {"LD_PRELOAD": asan_library(), "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def asan_build(step, minor, python):
    return build(step, "asan-py" + minor, "-DPOM_BUILD_PYTHON=ON", "-DPOM_BUILD_TESTS=OFF", "-DPOM_WERROR=ON",
                 "-DPOM_SANITIZE=address", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DPython_EXECUTABLE=%s" % python)


def asan_python(step, minor, python):
    return pytest(step, minor, python, ASAN_PYTHON, "pytest-asan-" + minor, tree="asan-py", **asan_environment())


def fuzz(step, minor, python, scripts, seed):
    """Random WSGI scripts, bare against wrapped, on the sanitized extension."""
    stage = os.path.join(ROOT, "build", "asan-py" + minor, "stage")
    return commands.run(step, [python, "tests/python/fuzz_wsgi/fuzz_wsgi.py", "--no-pauses", "--scripts", str(scripts),
                               "--seed", str(seed)],
                        "fuzz-%s.log" % minor, env=clean_environment(PYTHONPATH=stage, **asan_environment()),
                        seconds=FUZZ_SECONDS) == 0


def tool(step, log, *command):
    return commands.run(step, [sys.executable, *command], log) == 0


def check_clang(step, found):
    """gcc builds everything else; this is the other compiler's opinion, the extension included."""
    if shutil.which("clang") is None:
        step.say("no clang here: left out")
        return True
    python = ["-DPOM_BUILD_PYTHON=ON", "-DPython_EXECUTABLE=%s" % found[-1][1]] if found else ["-DPOM_BUILD_PYTHON=OFF"]
    return build(step, "clang", "-DCMAKE_C_COMPILER=clang", "-DPOM_BUILD_TESTS=ON", "-DPOM_WERROR=ON",
                 "-DCMAKE_BUILD_TYPE=Debug", *python)


def check_format(step):
    tool = shutil.which("clang-format")
    if tool is None:
        step.say("no clang-format here: not checked")
        return True
    version = subprocess.run([tool, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, universal_newlines=True)
    major = re.search(r"version (\d+)", version.stdout)
    if major is None or int(major.group(1)) != FORMAT_MAJOR:
        step.say("this clang-format is not version %d, and others disagree in places: not checked" % FORMAT_MAJOR)
        return True
    if commands.run(step, [tool, "--dry-run", "-Werror", *c_files()], "format.log"):
        step.say("not formatted: `make format` mends it")
        return False
    return True


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


def plan(wanted, args):
    """The steps in the order in which they begin: what fails quickly, then what the others wait for, then the longest."""
    found = interpreters(args.python)
    required = [row for row in found if row[0] not in OPTIONAL]
    ends = found if args.python else required[:1] + required[1:][-1:]
    steps = []

    def add(name, work, *arguments, after=(), **more):
        steps.append(lanes.Step(name, lambda step: work(step, *arguments, **more), after))
        return steps[-1:]

    if "layers" in wanted:
        add("layers", tool, "layers.log", "tools/check_layers.py")
    if "docs" in wanted:
        add("docs", tool, "links.log", "tools/check_links.py")
    if "acceptance" in wanted:
        add("acceptance", tool, "acceptance.log", "tools/acceptance.py", "-q", "--require-file", "tools/acceptance_required.txt")
    if "format" in wanted:
        add("format", check_format)

    built = {}
    if "build" in wanted or "python" in wanted:
        if not found:
            add("build", lambda step: step.say("no environment in .venv: run tools/setup.sh"))
        built = {minor: add("build %s" % minor, build_python, minor, python) for minor, python in found}
    if "python" in wanted:
        for minor, python in ends:
            add("python tests %s" % minor, pytest, minor, python, ["tests/python"], "pytest-" + minor, after=built[minor])
        for minor, python in found:
            if (minor, python) not in ends:
                add("python tests %s" % minor, pytest, minor, python, ["tests/python", "-m", "not oldest_and_newest"],
                    "pytest-" + minor, after=built[minor])
        for minor, python in ends:
            add("pure twin %s" % minor, pytest, minor, python, ["tests/python/api"], "pytest-pure-" + minor,
                after=built[minor], PROFILOMATIC_PURE="1")
            add("GIL engine %s" % minor, pytest, minor, python, ["tests/python/api"], "pytest-gil-" + minor,
                after=built[minor], PROFILOMATIC_ENGINE="gil")

    if "c" in wanted:
        add("c tests", c_tests, "c")
    if "asan" in wanted:
        add("c tests, address and undefined", c_tests, "asan", "-DPOM_SANITIZE=address")
    if "tsan" in wanted:
        add("c tests, thread", thread_tests)
    if "valgrind" in wanted:
        add("c tests, valgrind", c_tests, "c-valgrind",
            launcher="valgrind;-q;--error-exitcode=9;--leak-check=full;--show-leak-kinds=definite,indirect")
    if required and {"asan-python", "fuzz"} & wanted and asan_library():
        minor, python = required[-1]
        sanitized = add("build %s, address" % minor, asan_build, minor, python)
        if "asan-python" in wanted:
            add("python tests %s, address" % minor, asan_python, minor, python, after=sanitized)
        if "fuzz" in wanted:
            add("fuzz %s, address" % minor, fuzz, minor, python, args.scripts, args.seed, after=sanitized)
    if "tools" in wanted and required:
        minor, python = required[0]
        add("tests of the tools", pytest, minor, python, ["tests/tools"], "pytest-tools", after=built.get(minor, ()))
    if "lint" in wanted:
        add("lint", check_clang, required or found)
    return steps


def row(step):
    if step.ok is None:
        return "-    %s: what it needs failed" % step.name
    line = "%-4s %-32s %6.1f s" % ("ok" if step.ok else "FAIL", step.name, step.seconds)
    if step.passed or step.failed or step.skipped:
        line += "  %4d passed %3d failed %3d skipped" % (step.passed, step.failed, step.skipped)
    return line


def show(step):
    print("\n".join([row(step)] + ["     " + line for line in step.lines]), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help="out of: all " + " ".join(STEPS + BY_HAND))
    parser.add_argument("--python", metavar="MINOR", help="only this interpreter, such as 3.12")
    parser.add_argument("--brief", action="store_true", help="no table at the end unless a step failed")
    parser.add_argument("--scripts", type=int, default=FUZZ_SCRIPTS, metavar="N", help="how many the fuzz step runs")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="N", help="of the fuzz step; the time by default")
    parser.add_argument("--list-c-files", action="store_true", help="print the C files that the format step reads")
    args = parser.parse_args(argv)
    if args.list_c_files:
        print("\n".join(c_files()))
        return 0
    wanted = set(args.steps or ["all"])
    unknown = wanted - {"all", *STEPS, *BY_HAND}
    if unknown:
        parser.error("unknown step %s" % min(unknown))
    if "all" in wanted:
        wanted.update(STEPS)

    os.makedirs(LOG, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    steps = plan(wanted, args)
    lanes.run_steps(steps, LANES, show, commands.stop)

    ok = all(step.ok for step in steps)
    if args.brief and ok:
        return 0
    print("")
    for step in steps:
        print(row(step))
    if "python" in wanted and args.python is None:
        for minor in OPTIONAL:
            if minor not in [found for found, _ in interpreters(None)]:
                print("     CPython %s is not here: left out (tools/setup.sh says why)" % minor)
    for step in steps:
        for test in step.failing:
            print("\n%s: %s" % (step.name, test))
    print("%d passed, %d failed" % (sum(step.passed for step in steps), sum(step.failed for step in steps)))
    return 0 if ok else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
