"""Real servers as subprocesses on 127.0.0.1, and a client that sees raw bytes.

No port is guessed: the listening socket is opened here and handed down, so that a connection made early waits in the
backlog, or the port is reserved here for a server that listens by itself. Each server is a session of its own: what is
left of it after a failed stop is killed by its process group.
"""

import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest

from kinds import KINDS, why_missing

import profilomatic

HERE = pathlib.Path(__file__).parent
PACKAGE = str(pathlib.Path(profilomatic.__file__).parent.parent)
PATIENCE = 120  # seconds; only a failing test ever waits so long
CRASH = re.compile(r"(?i)segmentation|sigsegv|sigabrt|core dump|fatal python|signal 11|signal 6\b|exit signal (?!killed)")
FILE_SIZE = 12 << 20  # more than the socket buffers of both sides hold


def need(kind):
    """Skip the test when this kind of server cannot run here."""
    why = why_missing(KINDS[kind])
    if why is not None:
        pytest.skip(why)


def wait_until(condition, seconds, what):
    """Poll until the condition gives something true; that is the result."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


def is_cut(line, at):
    """A line at this place of its file may be what a process left that was killed in its write: the kernel gives that up at the end of a
    page (ext4 and tmpfs: 534 of 600 writes of 15 pages, each there), and whoever writes next begins a line."""
    return (at + len(line.rstrip(b"\n"))) % 4096 == 0


class Server:
    """start -> requests -> stop (or kill_process) -> records; also a context manager."""

    kinds = KINDS

    def __init__(self, kind, target, folder, *, workers=1, preload=False, options=None, env=None):
        self.kind = self.kinds[kind]
        self.target = target
        self.workers = workers
        self.preload = preload
        self.options = options  # instead of those that the server's kind has
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.records_path = self.folder / "records.jsonl"
        self.log_path = self.folder / "server.log"
        self.file_path = self.folder / "served.bin"
        self.file_path.write_bytes(bytes(range(256)) * (FILE_SIZE // 256))
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([PACKAGE, str(HERE)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SERVERS_FILE": str(self.file_path),
            **(env or {}),
        }
        if not target.endswith(":bare"):
            self.env["SERVERS_RECORDS"] = str(self.records_path)
        self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    def start(self):
        with socket.socket() as listener, open(self.log_path, "ab") as log:
            # A port that is bound here stays ours until the server, which also reuses addresses, listens on it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            self.address = listener.getsockname()
            if self.kind.takes_socket:
                listener.listen(64)
            fd = listener.fileno()
            self.process = subprocess.Popen(
                [part.replace("{fd}", str(fd)) for part in self.kind.command(self)],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[fd] if self.kind.takes_socket else [],
                start_new_session=True,
            )
            self._wait_until_ready()
        return self

    @property
    def port(self):
        return self.address[1]

    def _wait_until_ready(self):
        try:
            wait_until(self._is_ready, PATIENCE, f"an answer of {self.kind.name}")
        except BaseException:
            self.close()
            raise

    def _is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.kind.name} ended with {self.process.returncode}:\n{self.log()[-4000:]}")
        try:
            return self.get("/ready", timeout=2).startswith((b"HTTP/1.1 404", b"HTTP/1.0 404"))
        except OSError:
            return False

    def stop(self, number=signal.SIGTERM):
        """Stop by signal to the process started here; its return code. A server that stays, or that tells of a crash of
        itself or of a worker, fails the test."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(PATIENCE)
            assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM), (code, self.log()[-4000:])
            assert not CRASH.search(self.log()), self.log()[-4000:]
            self.records()  # nobody writes any more: the last line is whole, too
            return code
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(f"{self.kind.name} was still there {PATIENCE} s after its signal:\n{self.log()[-4000:]}") from None

    def close(self):
        """Leave nothing behind, whatever happened."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # a worker may outlive a master that was killed
        except ProcessLookupError:
            pass
        self.process.wait()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def connect(self, timeout=PATIENCE):
        return socket.create_connection(self.address, timeout=timeout)

    def exchange(self, request, timeout=PATIENCE):
        """Send the bytes of one request that asks to close; everything that comes back."""
        with self.connect(timeout) as connection:
            connection.sendall(request)
            return read_to_end(connection)

    def get(self, target, timeout=PATIENCE, headers=(), method="GET", body=b""):
        lines = [f"{method} {target} HTTP/1.1", "Host: test", "Connection: close", *headers]
        return self.exchange("\r\n".join([*lines, "", ""]).encode("latin-1") + body, timeout)

    def get_json(self, target):
        return json.loads(body_of(self.get(target)))

    def records(self, torn=0):
        """The records in the file now. Fails on anything but whole lines of JSON objects; while the server runs, the last one may
        be in the middle of its write. `torn`: so many may be cut by the death of the process that wrote them."""
        if not self.records_path.exists():
            return []
        runs = self.process is not None and self.process.poll() is None  # before the reading
        text = self.records_path.read_bytes()
        if runs:
            text = text[:text.rfind(b"\n") + 1]
        assert text == b"" or text.endswith(b"\n"), "the file ends inside a line"
        records, at = [], 0
        for line in text.splitlines(keepends=True):
            try:
                records.append(json.loads(line))
            except ValueError:
                if torn == 0 or not is_cut(line, at):
                    raise
                torn -= 1
            at += len(line)
        return records

    def wait_for_records(self, enough, seconds=PATIENCE, torn=0):
        """Poll the file while the server runs until enough(records) is true; the records. The process that happens to
        answer is asked to flush, so that few tests wait for the second after which it does so by itself."""

        def look():
            records = self.records(torn)
            if enough(records):
                return records
            try:
                self.get("/flush", timeout=2)
            except OSError:
                pass  # met a worker that goes
            return None

        return wait_until(look, seconds, "the record in the file")

    def record_of(self, task, seconds=PATIENCE):
        """The record of the request that carried this task id."""
        records = self.wait_for_records(lambda records: task in {r["task_uuid"] for r in records}, seconds)
        (record,) = [record for record in records if record["task_uuid"] == task]
        return record


def read_to_end(connection):
    parts = []
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def body_of(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        return b"".join(chunks_of(body))
    return body


def chunks_of(body):
    """The chunks of a chunked body, one by one."""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return
        yield rest[:length]
        body = rest[length + 2 :]


def without_date(answer):
    """The answer without the one header that the clock writes."""
    return re.sub(rb"(?im)^date: [^\r]*\r\n", b"", answer)


def wait_until_full(connection):
    """Wait until nothing more arrives on a connection that nobody reads."""

    def waiting():
        return struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, b"    "))[0]

    seen = [-1, time.monotonic()]

    def at_rest():
        if waiting() != seen[0]:
            seen[:] = waiting(), time.monotonic()
        return seen[0] > 0 and time.monotonic() - seen[1] > 0.2

    wait_until(at_rest, PATIENCE, "a full receive buffer")


def abort(connection):
    """Close with a reset, as a client does that goes away."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def nodes(record):
    """All nodes of a record's tree, the root left out."""
    rest = list(record.get("children", ()))
    while rest:
        node = rest.pop()
        yield node
        rest.extend(node.get("children", ()))


def time_by_function(record):
    """Seconds of own time by function name."""
    times = {}
    for node in nodes(record):
        if "function" in node:
            times[node["function"]] = times.get(node["function"], 0) + node["self_time"]
    return times
