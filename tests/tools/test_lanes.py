"""Steps side by side: which may begin, what is said of them, and that nothing of a command stays."""

import fcntl
import signal
import sys
import threading
import time

import pytest

PATIENCE = 60  # seconds; only a failing test ever waits so long


@pytest.fixture
def lanes(load_tool):
    return load_tool("lanes")


@pytest.fixture
def commands(lanes, tmp_path):
    return lanes.Commands(str(tmp_path), str(tmp_path))


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


def done(lanes, steps, count):
    """The names of the steps in the order in which they ended."""
    ended = []
    lanes.run_steps(steps, count, lambda step: ended.append(step.name), lambda: None)
    return ended


def test_one_lane_takes_the_steps_in_their_order(lanes):
    assert done(lanes, [lanes.Step(name, lambda step: True) for name in "cab"], 1) == ["c", "a", "b"]


def test_a_step_begins_when_those_it_comes_after_have_passed(lanes):
    build = lanes.Step("build", lambda step: True)
    test = lanes.Step("test", lambda step: build.ok, [build])
    assert done(lanes, [test, build], 2) == ["build", "test"]
    assert test.ok


def test_what_comes_after_a_failure_is_left_out_and_the_others_are_not(lanes):
    build = lanes.Step("build", lambda step: False)
    test = lanes.Step("test", lambda step: True, [build])
    after = lanes.Step("after the test", lambda step: True, [test])
    other = lanes.Step("other", lambda step: True)
    assert sorted(done(lanes, [build, test, after, other], 2)) == ["build", "other"]
    assert (build.ok, test.ok, after.ok, other.ok) == (False, None, None, True)


def test_as_many_steps_run_at_once_as_there_are_lanes(lanes):
    """Two meet; a third, had it begun, would have broken the barrier of two."""
    barrier = threading.Barrier(2)
    lock, running, most = threading.Lock(), 0, 0

    def meet(step):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(PATIENCE)
        with lock:
            running -= 1
        return True

    assert len(done(lanes, [lanes.Step(name, meet) for name in "abcdef"], 2)) == 6
    assert most == 2


def test_a_step_that_fails_without_a_failing_test_counts_as_one(lanes):
    def tests(step):
        step.passed, step.failed = 5, 2

    def breaks(step):
        raise OSError("no such thing")

    steps = [lanes.Step(str(work), work) for work in (tests, breaks, lambda step: False, lambda step: True)]
    done(lanes, steps, 1)
    assert [(step.passed, step.failed, step.ok) for step in steps] == [
        (5, 2, False), (0, 1, False), (0, 1, False), (0, 0, True)]
    assert steps[1].lines == ["OSError: no such thing"]


def test_a_command_is_told_of_only_when_it_fails(lanes, commands, tmp_path):
    step = lanes.Step("step", None)
    assert commands.run(step, python("print('fine')"), "x.log") == 0
    assert step.lines == [] and (tmp_path / "x.log").read_text() == "fine\n"
    assert commands.run(step, python("print('the reason'); raise SystemExit(3)"), "x.log") == 3
    assert step.lines == ["the reason", "the whole log: x.log"]


CHILD = """
import fcntl, pathlib, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    time.sleep(%d)
    lock.write("survived")
""" % PATIENCE

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
time.sleep(float(sys.argv[3]))
"""


def family(path, seconds):
    """A command with a child that has `path` locked until it dies."""
    return python(PARENT, CHILD, path, seconds)


def died_young(path):
    with open(path, "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        return lock.read() == ""


def test_a_command_that_hangs_is_stopped_with_its_children(lanes, commands, tmp_path):
    step = lanes.Step("step", None)
    assert commands.run(step, family(tmp_path / "lock", PATIENCE), "x.log", seconds=2) == 124
    assert step.lines[0].startswith("no end after 2 s, stopped: ")
    assert died_young(tmp_path / "lock")


def test_what_a_command_left_running_ends_with_it(lanes, commands, tmp_path):
    assert commands.run(lanes.Step("step", None), family(tmp_path / "lock", 0), "x.log") == 0
    assert (tmp_path / "x.log").read_text() == "ready\n"
    assert died_young(tmp_path / "lock")


def test_an_interrupt_ends_what_runs_and_begins_nothing_more(lanes, commands, tmp_path):
    def hang(step):
        codes.append(commands.run(step, family(tmp_path / "lock", PATIENCE), "hang.log"))
        codes.append(commands.run(step, python("print('begun')"), "next.log"))

    def interrupted(step):
        while not (tmp_path / "hang.log").exists() or "ready" not in (tmp_path / "hang.log").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    codes = []
    steps = [lanes.Step("hang", hang), lanes.Step("ends", lambda step: True)]
    with pytest.raises(KeyboardInterrupt):
        lanes.run_steps(steps, 2, interrupted, commands.stop)
    assert codes == [-signal.SIGKILL, 130]
    assert (tmp_path / "next.log").read_text() == ""
    assert died_young(tmp_path / "lock")
