"""Disks that take nothing, forks, exits and removals with a full queue: a real server, the real destination, and in each case
sent + spooled + dropped = produced, in every process.

The disks are real as well: a small tmpfs in a mount namespace of the program's own, which needs no rights where users may have
namespaces, or a limit to the size of files. The programs print the counters; this process is the server, and compares.
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading

import pytest
from pom_support import PATIENCE, package_environment, wait_until
from rest_server import OK, Gate, Server, fates

import profilomatic

pytestmark = [pytest.mark.acceptance("PM25"), pytest.mark.usefixtures("only_c")]

PROGRAM = """
import atexit, json, os, resource, subprocess, sys, time

def tell():
    print(json.dumps(profilomatic.stats()["destinations"][0]), flush=True)

atexit.register(lambda: "tell at exit" in sys.argv and tell())  # before the package's own, so it is called after that
import profilomatic
profilomatic.configure(max_actions_per_run=0)
port, folder = int(sys.argv[1]), sys.argv[2]

def act(count, size=0):
    for number in range(count):
        with profilomatic.action("work", number=number, noise=os.urandom(size // 2).hex()):
            pass

def counters():
    return profilomatic.stats()["destinations"][0]

def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, profilomatic.stats()["destinations"]
        time.sleep(0.002)

def add(**options):
    profilomatic.add_destination(profilomatic.RestDestination("127.0.0.1", port, **options))
"""


def run(code, port, *arguments, before=()):
    """What the program told: counters, a line each."""
    done = subprocess.run([*before, sys.executable, "-X", "faulthandler", "-c", PROGRAM + code, str(port), *map(str, arguments)],
                          env=package_environment(), timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_over(entry, produced):
    """Nothing waits, and the fates add up."""
    assert entry["queued"] == 0 and fates(entry) == produced, entry


# ---- disks ----

def mounting(folder, command='exec "$@"'):
    """What to write before a program that is to find a tmpfs of 256 KiB at the folder."""
    before = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
              'mount -t tmpfs -o size=256k tmpfs "%s" && %s' % (folder, command), "sh"]
    if shutil.which("unshare") is None or subprocess.run([*before, "true"], capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here: unshare --user --mount is refused")
    return before


FULL = """
if "limit" in sys.argv:
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))
add(spool_dir=folder, compress=False)
produced = 0
while "spool: cannot write" not in (counters()["last_error"] or ""):
    act(20, 2000)
    produced += 20
    profilomatic.flush(0.3)
    assert produced < 1000, "a disk of 256 KiB took them all"
wait_until(lambda: counters()["queued"] + counters()["spooled"] == produced)
tell()
"""


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_a_full_spool_disk_is_counted(tmp_path, port, kind):
    """What fits is spooled, the rest waits in memory and is lost with the process."""
    before = mounting(tmp_path) if kind == "tmpfs" else ()
    full, ended = run(FULL + "profilomatic.stop(0.2); tell()", port, tmp_path, kind, before=before)
    assert full["spooled"] > 0 and full["queued"] > 0 and full["dropped"] == {}
    assert_over(ended, full["spooled"] + full["queued"])
    assert ended["spooled"] == full["spooled"] and ended["dropped"] == {"shutdown": full["queued"]}


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_what_a_full_spool_disk_did_not_take_is_sent_as_well(tmp_path, port, kind):
    """Once the server is there."""
    before = mounting(tmp_path) if kind == "tmpfs" else ()
    full, sent = run(FULL + """
sys.path.insert(0, sys.argv[3])
from rest_server import Server
with Server(port=port) as server:
    wait_until(lambda: profilomatic.flush(0.1) and counters()["sent"] == produced)
    tell()
    assert len(server.records()) == produced
    profilomatic.stop(1)
""", port, tmp_path, os.path.dirname(__file__), kind, before=before)
    assert full["spooled"] > 0 and full["queued"] > 0
    assert_over(sent, full["spooled"] + full["queued"])


def test_a_spool_that_becomes_read_only_is_counted(tmp_path, port):
    told, ended = run("""
add(spool_dir=folder)
wait_until(lambda: any(os.scandir(each.path) for each in os.scandir(folder)))
(address,) = os.scandir(folder)
wait_until(lambda: os.listdir(address.path))
(mine,) = os.scandir(address.path)
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", mine.path], check=True)
act(10)
profilomatic.flush(0)
wait_until(lambda: "Read-only file system" in (counters()["last_error"] or ""))
wait_until(lambda: counters()["queued"] == 10)
tell()
profilomatic.stop(0.2)
tell()
""", port, tmp_path, before=mounting(tmp_path))
    assert told["spooled"] == 0
    assert_over(ended, 10)
    assert ended["dropped"] == {"shutdown": 10}


def test_a_spool_that_is_read_only_is_an_error_at_once(tmp_path, port):
    assert run("""
try:
    add(spool_dir=folder)
except OSError as error:
    assert "spool: cannot use" in str(error) and "Read-only file system" in str(error), error
else:
    raise AssertionError("no error")
""", port, tmp_path, before=mounting(tmp_path, 'mount -o remount,ro "%s" && exec "$@"' % tmp_path)) == []


def test_a_spool_whose_folder_is_gone_is_as_if_there_were_none(sender, tmp_path, port):
    one = sender("127.0.0.1", port, spool_dir=tmp_path)
    wait_until(lambda: list(tmp_path.glob("*/*/lock")), "the spool to be open")
    (lock,) = tmp_path.glob("*/*/lock")
    lock.unlink()
    lock.parent.rmdir()
    lock.parent.write_text("a file in its place")
    one.act(5)
    profilomatic.flush(0)
    wait_until(lambda: "Not a directory" in (one.counters()["last_error"] or ""), "the spool to fail")
    assert one.settled()["queued"] == 5
    with Server(port=port) as server:
        assert one.flushed(1)["sent"] == 6
        assert len(server.records()) == 6


# ---- a loop that does nothing at all ----

STOPPER = """
import ctypes, os, sys
SEIZE, INTERRUPT, ALL_THREADS = 0x4206, 0x4207, 0x40000000
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
thread = int(sys.argv[1])
if ptrace(SEIZE, thread, None, None) == 0:
    ptrace(INTERRUPT, thread, None, None)
    os.waitpid(thread, ALL_THREADS)
    print("stopped", flush=True)
    sys.stdin.read()  # ends with our end, which lets the thread go on
else:
    print("refused", flush=True)
"""

STOPPED = """
import ctypes, pathlib

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"whole"]

add(timeout=60)
act(1)
profilomatic.flush(0)
wait_until(lambda: os.path.exists(os.path.join(folder, "held")))
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_long(-1), 0, 0, 0)  # PR_SET_PTRACER: a child may trace us
(loop,) = [each.parent.name for each in pathlib.Path("/proc/self/task").glob("*/comm") if each.read_text() == "pom-loop\\n"]
def state():
    return pathlib.Path("/proc/self/task", loop, "stat").read_text().split()[2]
wait_until(lambda: state() == "S")  # it sleeps, so it has no lock
stopper = subprocess.Popen([sys.executable, "-c", sys.argv[3], loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
answer = stopper.stdout.readline()
if answer != "stopped\\n":
    print(json.dumps(None))
    sys.exit()
wrapped = profilomatic.wsgi.wrap(app)
def full():
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/" + "x" * 4000}
    assert all(b"".join(wrapped(dict(environ), lambda *started: None)) == b"whole" for _ in range(100))
    return counters()["dropped"].get("queue_full")
wait_until(full)
assert state() == "t", "not stopped all the time"
tell()
stopper.stdin.close()
stopper.wait()
profilomatic.stop(0)
"""


def test_no_request_needs_the_thread_that_sends(tmp_path):
    """It is stopped as a debugger would, its request unanswered, while more comes than the queue holds."""
    gate = Gate()
    with Server([gate, OK]) as server:
        conductor = threading.Thread(target=lambda: gate.reached.wait(PATIENCE) and (tmp_path / "held").touch())
        conductor.start()
        told = run(STOPPED, server.port, tmp_path, STOPPER)[0]
        conductor.join(PATIENCE)
    if told is None:
        pytest.skip("no thread may be traced here: ptrace is refused")
    assert told["sent"] == 0 and told["dropped"]["queue_full"] > 0


# ---- forks ----

FORK = """
add(**({"spool_dir": folder} if "spool" in sys.argv else {}))
act(1)
profilomatic.flush(0)
wait_until(lambda: counters()["last_error"] or os.path.exists(os.path.join(folder, "held")))
act(200)
wait_until(lambda: counters()["queued"] + counters()["spooled"] == 201)
pid = os.fork()
if pid == 0:
    code = 1
    try:
        act(5)
        assert profilomatic.flush(60), profilomatic.stats()
        tell()
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
assert profilomatic.flush(60)
tell()
"""


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_with_a_full_queue_sends_everything_once(tmp_path):
    """The parent's first request is unanswered at the fork and its queue is full; the child is served meanwhile."""
    gate = Gate()
    with Server([gate, OK]) as server:
        def conduct():
            gate.reached.wait(PATIENCE)
            (tmp_path / "held").touch()
            wait_until(lambda: sum(len(body) for _, body in server.requests) == 6, "what the child has")
            gate.open()

        conductor = threading.Thread(target=conduct)
        conductor.start()
        child, parent = run(FORK, server.port, tmp_path)
        conductor.join(PATIENCE)
        assert_over(child, 5)
        assert_over(parent, 201)
        assert child["sent"] == 5 and parent["sent"] == 201 and parent["retried"] == 0
        by_process = {}
        for record in server.records():
            by_process.setdefault(record["pid"], []).append(record["action"]["number"])
        assert sorted(by_process.values(), key=len) == [[*range(5)], [0, *range(200)]]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_with_a_full_queue_spools_everything_once(tmp_path, port):
    child, parent = run(FORK, port, tmp_path, "spool")
    assert_over(child, 5)
    assert_over(parent, 201)
    assert child["spooled"] == 5 and parent["spooled"] == 201
    with Server(port=port) as server:
        ended, = run("""
add(spool_dir=folder)
wait_until(lambda: counters()["sent"] == 206)
tell()
""", port, tmp_path)
        assert_over(ended, 206)
        numbers = sorted(record["action"]["number"] for record in server.records())
        assert numbers == sorted([*range(5), 0, *range(200)])


# ---- ends ----

@pytest.mark.parametrize("spool", [False, True], ids=["counted", "spooled"])
def test_an_exit_with_a_full_queue_and_no_answer_keeps_or_counts_the_rest(tmp_path, spool):
    gate = Gate()
    with Server([gate]) as server:
        ended, = run("""
add(timeout=60, **({"spool_dir": folder} if "spool" in sys.argv else {}))
act(200)
""", server.port, tmp_path, "tell at exit", *["spool"] * spool)
        assert_over(ended, 200)
        assert ended["sent"] == 0
        assert (ended["spooled"], ended["dropped"]) == ((200, {}) if spool else (0, {"shutdown": 200}))


def test_an_exit_with_a_full_queue_sends_it(tmp_path):
    with Server() as server:
        ended, = run("add(); act(200)", server.port, tmp_path, "tell at exit")
        assert_over(ended, 200)
        assert ended["sent"] == 200 and len(server.records()) == 200


def test_removed_while_sending_the_request_counts_and_the_queue_is_dropped(sender):
    gate = Gate()
    with Server([gate, OK]) as server:
        one = sender("127.0.0.1", server.port)
        one.act()
        profilomatic.flush(0)
        assert gate.reached.wait(PATIENCE)
        one.act(50)
        one.settled()
        profilomatic.remove_destination(one.destination)
        assert profilomatic.stats()["destinations"] == []
        gate.open()
        profilomatic.add_destination(one.destination)  # the same counters
        counters = one.flushed(2)
        assert counters["sent"] == 3 and counters["dropped"] == {"removed": 50}
        assert [len(body) for _, body in server.requests] == [1, 2]


# ---- servers ----

class HangsUp(Server):
    """Resets the connection in the middle of the second request's body, once."""

    hung_up = False

    def _one(self, connection, stream):
        if self.hung_up or not self.requests:
            return super()._one(connection, stream)
        self.hung_up = True
        while stream.readline() != b"\r\n":
            pass
        assert len(stream.read(50_000)) == 50_000
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def test_a_reset_in_the_middle_of_a_request_is_sent_again(sender):
    gate = Gate()
    with HangsUp([gate, OK]) as server:
        one = sender("127.0.0.1", server.port, compress=False)
        one.queued_behind(gate, 100, noise="x" * 4000)
        counters = one.flushed(0)
        assert server.hung_up and counters["sent"] == 101 and counters["dropped"] == {}
        assert counters["retried"] == 100 and "connection" in counters["last_error"]
        assert [len(body) for _, body in server.requests] == [1, 100]


def test_a_server_that_starts_again_gets_everything_once(sender, port):
    """Stopped between two requests, and with one unanswered."""
    with Server(port=port):
        one = sender("127.0.0.1", port)
        one.flushed(3)
    gate = Gate()
    with Server([gate], port=port) as server:
        one.act(2)
        profilomatic.flush(0)
        assert gate.reached.wait(PATIENCE)
        gate.answer = b""
    with Server(port=port) as server:
        counters = one.flushed(1)
        assert counters["sent"] == 6 and counters["dropped"] == {}
        assert len(server.records()) == 3
