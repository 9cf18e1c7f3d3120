"""Starting, stopping, leaving and forking."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pom_support import PATIENCE, Collector, burn_until_sampled, run_python, threads_of_ours, wait_until
from wsgi_server import Server, generated

import profilomatic

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def act(name="a"):
    with profilomatic.action(name):
        pass


@pytest.mark.acceptance("PM30")
def test_stop_delivers_what_is_queued_and_start_begins_anew(profiles):
    for _ in range(50):
        act("before")
    assert profilomatic.stop(PATIENCE) is True
    assert len(profiles.records) == 50
    wait_until(lambda: threads_of_ours() == [], "their last instructions")
    act("while stopped")
    assert profilomatic.stop() is True
    assert profilomatic.flush() is True
    profilomatic.start()
    profilomatic.start()
    act("after")
    assert [record["action"]["type"] for record in profiles.flushed(51)][-1] == "after"


@pytest.mark.acceptance("PM1", "PM30")
def test_adding_a_destination_starts_a_stopped_engine(profiles):
    assert profilomatic.stop(PATIENCE)
    other = Collector()
    profilomatic.add_destination(other)
    try:
        assert profilomatic.stats()["running"] is True
        act()
        other.flushed(1)
    finally:
        profilomatic.remove_destination(other)


@pytest.mark.acceptance("PM30")
def test_actions_open_at_stop_are_lost_and_their_end_is_harmless(profiles):
    server = Server(profilomatic.wsgi.wrap(generated))
    next(iter(server.call()))
    with profilomatic.action("open") as a:
        assert profilomatic.stop(PATIENCE) is True
        a.message(step=1)
        assert profilomatic.current_task_uuid() is None
    assert b"".join(server.body) == b"world"
    server.close()
    assert sorted(record["action"]["outcome"] for record in profiles.records) == ["lost", "lost"]
    profilomatic.start()
    act("later")
    records = profiles.flushed(3)
    assert records[-1]["action"] == {"type": "later", "kind": "code", "outcome": "succeeded"}


@pytest.mark.acceptance("PM30")
def test_a_refused_action_that_is_open_at_a_stop_of_the_twin_is_lost(profiles, backend, monkeypatch):
    if backend != "pure":
        pytest.skip("the extension refuses nothing on request")
    monkeypatch.setattr("profilomatic._pure.LIVE_MAX", 0)
    before = profilomatic.stats()["actions"]
    act("refused")
    with profilomatic.action("refused, and open"):
        assert profilomatic.stop(PATIENCE) is True
    profilomatic.start()
    after = profilomatic.stats()["actions"]
    assert {name: after[name] - before[name] for name in before} == {
        "started": 2, "profiled": 0, "shed": 2, "finished": 1, "lost": 1}


@pytest.mark.acceptance("PM30")
def test_a_restart_inside_an_action_leaves_it_alone(profiles):
    with profilomatic.action("old"):
        assert profilomatic.stop(PATIENCE)
        profilomatic.start()
        act("new")
    records = profiles.flushed(2)
    assert [(record["action"]["type"], record["action"]["outcome"]) for record in records] == \
        [("old", "lost"), ("new", "succeeded")]


@pytest.mark.acceptance("PM30")
def test_start_and_stop_many_times_from_many_threads(profiles):
    errors = []

    def toggle():
        try:
            for _ in range(10):
                profilomatic.start()
                act()
                profilomatic.stop(PATIENCE)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=toggle) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    profilomatic.start()
    count = len(profiles.records)
    act("last")
    assert profiles.flushed(count + 1)[-1]["action"]["type"] == "last"


def test_any_number_may_wait_for_the_end_of_the_twins_threads():
    """As stops at the same time do: one of them waited for its whole time."""
    from profilomatic import _pure_native

    class Done(_pure_native.WakeUp):
        def wait(self, timeout):
            waiting.release()
            woken.append(super().wait(timeout))
            return woken[-1]

    woken, waiting = [], threading.Semaphore(0)
    may_end = _pure_native.WakeUp()
    awaited = _pure_native.NativeThread("awaited", may_end.wait)
    awaited._done = Done()
    with ThreadPoolExecutor(4) as pool:
        joins = [pool.submit(awaited.join, PATIENCE) for _ in range(4)]
        for _ in joins:
            waiting.acquire()
        may_end.set()
    assert all(join.result() for join in joins)
    assert woken == [True] * 4


def test_a_thread_that_ends_with_an_action_open_does_no_harm(profiles):
    kept = []

    def leave_open():
        kept.append(profilomatic.action("left open").__enter__())

    thread = threading.Thread(target=leave_open)
    thread.start()
    thread.join()
    with profilomatic.action("other"):
        burn_until_sampled(3)
    assert profiles.flushed(1)[0]["action"]["type"] == "other"
    kept[0].__exit__(None, None, None)
    kept.clear()
    assert profiles.flushed(2)[1]["action"]["type"] == "left open"


@pytest.mark.acceptance("PM30")
def test_at_exit_what_is_finished_is_delivered(python, tmp_path):
    path = tmp_path / "profiles.jsonl"
    printed = python("""if True:
        import profilomatic, threading, time
        profilomatic.add_destination(profilomatic.no_flush_destination(%r))
        profilomatic.add_destination(lambda record: print(record["action"]["type"]))
        for number in range(20):
            with profilomatic.action("a%%d" %% number):
                pass
        """ % str(path))
    assert printed.split() == ["a%d" % number for number in range(20)]
    assert [json.loads(line)["action"]["type"] for line in path.read_text().splitlines()] == printed.split()


def test_exit_with_live_actions_and_busy_daemon_threads_neither_hangs_nor_crashes(python):
    python("""if True:
        import profilomatic, threading, time
        profilomatic.add_destination(lambda record: None)
        app = profilomatic.wsgi.wrap(lambda environ, start_response: (b"x" for _ in range(10)))

        def spin():
            while True:
                with profilomatic.action("spinning") as a:
                    a.message(step=sum(range(100)))
                    body = app({}, lambda *args: None)
                    next(iter(body))

        for _ in range(4):
            threading.Thread(target=spin, daemon=True).start()
        open_one = profilomatic.action("open")
        open_one.__enter__()
        time.sleep(0.3)
        """)


def test_a_program_that_closes_descriptors_of_ours_goes_on_and_keeps_its_own(python, tmp_path):
    """As a daemon does with what it does not know, and then opens files of its own by these numbers."""
    printed = python("""if True:
        import os, profilomatic
        os.chdir(os.environ["PLACE"])
        profilomatic.add_destination(profilomatic.file_destination("profiles.jsonl"))
        with profilomatic.action("before"):
            pass
        assert profilomatic.flush(60)
        taken, opened = set(), set()
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                kind = os.readlink("/proc/self/fd/%d" % number)
            except OSError:
                continue  # of the listing itself
            if kind in ("anon_inode:[eventpoll]", "anon_inode:[eventfd]"):
                os.close(number)
                taken.add(number)
        while not opened or not taken <= opened:
            opened.add(os.open("program.txt", os.O_CREAT | os.O_RDWR))
        for number in range(300):
            with profilomatic.action("after"):
                pass
        profilomatic.flush(1)  # what the loop met in its last turn is delivered, the rest is not; the twin has none to take
        profilomatic.stop(0.2)
        to, = profilomatic.stats()["destinations"]
        assert to["sent"] + to["queued"] + sum(to["dropped"].values()) == 301, to
        assert os.path.getsize("program.txt") == 0 and all(os.fstat(number) for number in opened)
        print("alive")
        """, PLACE=str(tmp_path))
    assert printed == "alive\n"


def test_a_stop_does_not_wait_for_what_a_daemon_has_closed(python):
    """It closes all that it does not know. Nothing is left to deliver, and nothing will move any more."""
    python("""if True:
        import os, profilomatic
        profilomatic.add_destination([].append)
        with profilomatic.action("a"):
            pass
        assert profilomatic.flush(60)
        os.closerange(3, 256)
        profilomatic.stop(3600)
        """)


def test_exit_with_a_hung_destination_keeps_the_deadline(python):
    python("""if True:
        import profilomatic, threading
        profilomatic.add_destination(lambda record: threading.Event().wait())
        with profilomatic.action("a"):
            pass
        """)


FORK = """if True:
    import json, os, sys, profilomatic
    records = []
    profilomatic.configure(max_actions_per_run=0)
    profilomatic.add_destination(records.append)
    profilomatic.add_destination(profilomatic.file_destination(sys.argv[1] if len(sys.argv) > 1 else os.environ["OUT"]))

    def report(name):
        # One write, so that the lines of two processes do not mix.
        os.write(1, (json.dumps([name, [r["action"]["type"] for r in records], os.getpid() == records[0]["pid"]
                                 if records else None]) + "\\n").encode())
"""


def forked(python, tmp_path, body):
    path = tmp_path / "profiles.jsonl"
    printed = python(FORK + body, OUT=str(path))
    reports = {name: (types, own) for name, types, own in map(json.loads, printed.splitlines())}
    return reports, [json.loads(line) for line in path.read_text().splitlines()]


@forks
@pytest.mark.acceptance("PM1", "W24")
def test_fork_outside_a_request_the_child_profiles_too(python, tmp_path):
    reports, records = forked(python, tmp_path, """
    with profilomatic.action("before"):
        pass
    assert profilomatic.flush(60)
    child = os.fork()
    name = "child" if child == 0 else "parent"
    if child == 0:
        records.clear()
    with profilomatic.action("after in " + name):
        pass
    assert profilomatic.flush(60), profilomatic.stats()
    report(name)
    assert profilomatic.stop(60)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """)
    assert reports == {"child": (["after in child"], True), "parent": (["before", "after in parent"], True)}
    assert sorted(record["action"]["type"] for record in records) == ["after in child", "after in parent", "before"]
    assert len({record["pid"] for record in records}) == 2


@forks
@pytest.mark.acceptance("W24")
def test_fork_inside_a_request_leaves_the_parents_request_alone(python, tmp_path):
    reports, records = forked(python, tmp_path, """
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        global child
        child = os.fork()
        if child == 0:
            records.clear()
            with profilomatic.action("in child"):
                pass
        yield b"b"

    with profilomatic.action("around"):
        body = profilomatic.wsgi.wrap(app)({"PATH_INFO": "/forking"}, lambda *args: None)
        assert b"".join(body) == b"ab"
        body.close()
    name = "child" if child == 0 else "parent"
    assert profilomatic.flush(60), profilomatic.stats()
    report(name)
    assert profilomatic.stop(60)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """)
    assert reports["child"] == (["in child"], True)
    assert reports["parent"] == (["around"], True)
    assert sorted(record["action"]["type"] for record in records) == ["around", "in child"]


@forks
@pytest.mark.acceptance("W24")
def test_fork_with_busy_threads_and_queued_profiles_duplicates_nothing(python, tmp_path):
    reports, records = forked(python, tmp_path, """
    import threading
    stop = threading.Event()

    def work():
        number = 0
        while not stop.is_set():
            with profilomatic.action("busy", number=number) as a:
                a.message(step=1)
            number += 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(5):
        child = os.fork()
        if child == 0:
            records.clear()
            with profilomatic.action("child %d" % number):
                pass
            assert profilomatic.flush(60), profilomatic.stats()
            report("child %d" % number)
            os._exit(0)
        children.append(child)
    stop.set()
    for thread in threads:
        thread.join()
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert profilomatic.flush(60)
    report("parent")
    """)
    for number in range(5):
        assert reports["child %d" % number] == (["child %d" % number], True)
    ids = [record["task_uuid"] for record in records]
    assert len(ids) == len(set(ids))
    assert set(reports["parent"][0]) <= {"busy"}


def types_of_records(script, path):
    """Of the actions that a program, which is a file as multiprocessing wants it, has written to the path."""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(profilomatic.__file__))}
    subprocess.run([sys.executable, str(script)], env=environment, timeout=300, check=True)
    return [json.loads(line)["action"]["type"] for line in path.read_text().splitlines()]


@forks
@pytest.mark.acceptance("PM30", "W24")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("parent_profiles", [True, False])
def test_a_child_of_multiprocessing_delivers_at_its_end(tmp_path, method, parent_profiles):
    """Such a child leaves by os._exit(), where atexit is silent."""
    path, script = tmp_path / "profiles.jsonl", tmp_path / "script.py"
    script.write_text(f"""if True:
        import multiprocessing, sys
        import profilomatic

        def child(first):
            if first:
                start()
            with profilomatic.action("in child"):
                pass

        def start():
            profilomatic.configure(max_actions_per_run=0)
            profilomatic.add_destination(profilomatic.file_destination({str(path)!r}, append=True))

        if __name__ == "__main__":
            if {parent_profiles}:
                start()
            for number in range(2):
                process = multiprocessing.get_context({method!r}).Process(
                    target=child, args=({method == "spawn" or not parent_profiles},))
                process.start()
                process.join()
                assert process.exitcode == 0
    """)
    assert types_of_records(script, path) == ["in child"] * 2


@forks
@pytest.mark.acceptance("PM30", "W24")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_delivers_what_its_main_module_started(tmp_path, method):
    """One of the fork server's imports that module before it is told that it is a child, and leaves by os._exit() all the same."""
    path, script = tmp_path / "profiles.jsonl", tmp_path / "script.py"
    script.write_text(f"""if True:
        import multiprocessing
        import profilomatic

        profilomatic.configure(max_actions_per_run=0)
        profilomatic.add_destination(profilomatic.file_destination({str(path)!r}, append=True))

        def child():
            with profilomatic.action("in child"):
                pass

        if __name__ == "__main__":
            for number in range(2):
                process = multiprocessing.get_context({method!r}).Process(target=child)
                process.start()
                process.join()
                assert process.exitcode == 0
    """)
    assert types_of_records(script, path) == ["in child"] * 2


@forks
@pytest.mark.acceptance("W24", "W25")
def test_a_fork_that_the_interpreter_was_not_told_of_is_noticed(python, tmp_path):
    """As a server written in C does it: no hook of os.register_at_fork is called in the child. Nor does CPython make its GIL anew
    there: a child that has it as another thread waited for it may hang at once. So the fork waits until no thread does."""
    reports, records = forked(python, tmp_path, """
    import ctypes, pathlib, time
    with profilomatic.action("before"):
        pass
    assert profilomatic.flush(60)

    def others():
        "State and waits of each other thread. One that waits for the GIL wakes every 5 ms, or, on a busy machine, is runnable."
        status = [task.joinpath("status").read_text().splitlines() for task in pathlib.Path("/proc/self/task").iterdir()
                  if task.name != str(os.getpid())]
        return [line for lines in status for line in lines if line.startswith(("Pid:", "State:", "voluntary_ctxt_switches:"))]

    before = None
    while (now := others()) != before or "running" in str(now):
        before = now
        time.sleep(0.02)
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        records.clear()
        assert profilomatic.stats()["actions"]["started"] == 0, profilomatic.stats()
        with profilomatic.action("in child"):
            pass
        assert profilomatic.flush(60), profilomatic.stats()
        report("child")
        assert profilomatic.stop(60)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert profilomatic.flush(60)
    report("parent")
    """)
    assert reports == {"child": (["in child"], True), "parent": (["before"], True)}
    assert sorted(record["action"]["type"] for record in records) == ["before", "in child"]


@forks
@pytest.mark.acceptance("W24")
def test_the_child_of_a_stopped_parent_stays_stopped(python, tmp_path):
    reports, records = forked(python, tmp_path, """
    assert profilomatic.stop(60)
    child = os.fork()
    with profilomatic.action("unseen"):
        pass
    if child == 0:
        assert profilomatic.stats()["running"] is False
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    report("parent")
    """)
    assert reports == {"parent": ([], None)}
    assert records == []


@forks
@pytest.mark.acceptance("W24")
def test_a_child_of_a_child_works_and_so_does_multiprocessing(python, tmp_path):
    reports, records = forked(python, tmp_path, """
    for generation in range(3):
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            if generation:
                os._exit(0)
            break
        with profilomatic.action("generation %d" % generation):
            pass
        assert profilomatic.flush(60)
        if generation == 2:
            os._exit(0)
    """)
    assert [record["action"]["type"] for record in records] == ["generation %d" % number for number in range(3)]


def test_the_process_is_left_as_it_was(python):
    """No signal handler, no hook, no changed interval."""
    python("""if True:
        import signal, sys, threading

        def state():
            return ([signal.getsignal(number) for number in signal.valid_signals()], sys.getswitchinterval(),
                    sys.gettrace(), sys.getprofile(), threading.stack_size(), sys.excepthook, threading.excepthook)

        before = state()
        import profilomatic
        profilomatic.add_destination(lambda record: None)
        app = profilomatic.wsgi.wrap(lambda environ, start_response: [b""])
        app({}, lambda *args: None)
        assert state() == before
        assert profilomatic.stop(60)
        assert state() == before
        """)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="about CPython's memory")
def test_many_tiny_requests_keep_memory_flat(python):
    """A tenth of a million here; `make bench` does the million."""
    python("""if True:
        import profilomatic, time

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096

        delivered = []
        profilomatic.configure(max_actions_per_run=0)
        profilomatic.add_destination(lambda record: delivered.append(None) if len(delivered) < 10 else None)
        app = profilomatic.wsgi.wrap(lambda environ, start_response: (start_response("200 OK", []), [b""])[1])
        environ = {"PATH_INFO": "/x", "REQUEST_METHOD": "GET"}

        def run(count):
            for number in range(count):
                app(dict(environ), lambda *args: None)
                if number % 1000 == 0:
                    profilomatic.flush(30)
            assert profilomatic.flush(60)

        run(10000)
        before = resident()
        run(30000)
        grown = resident() - before
        assert grown < 8 << 20, grown
        actions = profilomatic.stats()["actions"]
        assert actions["started"] == actions["finished"] == 40000, actions
        """)


@pytest.mark.parametrize("call", [profilomatic.stop, profilomatic.flush])
def test_a_timeout_is_a_number_of_seconds_and_what_is_left_may_be_negative(call):
    for wrong in (None, "2", "soon", float("nan"), [1]):
        with pytest.raises(TypeError, match="timeout is a number of seconds, not "):
            call(wrong)
    assert call(-0.5) in (True, False) and call(0) in (True, False)


@pytest.mark.parametrize("forever", [float("inf"), 1e10, 1e300, 10**400], ids=["inf", "1e10", "1e300", "10**400"])
def test_a_timeout_may_be_as_long_as_one_likes(profiles, forever):
    act()
    assert profilomatic.flush(forever) is True
    assert len(profiles.records) == 1
    assert profilomatic.stop(forever) is True
    assert profilomatic.stop(-forever) is True


@pytest.mark.parametrize("kind", ["file", "callable"])
def test_a_start_that_comes_too_late_is_a_warning(kind, tmp_path):
    done = run_python(textwrap.dedent("""
        import atexit, profilomatic

        def late():
            profilomatic.add_destination(%s)
            with profilomatic.action("late"):
                pass
            print("running" if profilomatic.stats()["running"] else "not running")

        atexit.register(late)
        profilomatic.add_destination(print)  # what stops the engine at exit is registered last, and so called first
        profilomatic.remove_destination(print)
        """ % {"file": "profilomatic.file_destination(%r)" % str(tmp_path / "out"), "callable": "lambda record: None"}[kind]))
    assert done.returncode == 0, done.stderr
    told = "RuntimeWarning: the interpreter is ending: it is too late to start profiling, and nothing is recorded" in done.stderr
    assert told == ("not running" in done.stdout), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
