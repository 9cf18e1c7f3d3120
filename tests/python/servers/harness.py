"""Real servers as subprocesses on 127.0.0.1, and a client that sees raw bytes.

The listening socket is opened here and handed down, so no port is guessed and a connection made early waits in the
backlog. Each server is a session of its own: what is left of it after a failed stop is killed by its process group.
"""

import fcntl
import importlib.util
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

import profilomatic

HERE = pathlib.Path(__file__).parent
PACKAGE = str(pathlib.Path(profilomatic.__file__).parent.parent)
START_SECONDS = 20
STOP_SECONDS = 10
FILE_SIZE = 12 << 20  # more than the socket buffers of both sides hold

# kind: (modules it needs, worker class of gunicorn or None)
KINDS = {
    "gunicorn-sync": (("gunicorn",), "sync"),
    "gunicorn-gthread": (("gunicorn",), "gthread"),
    "gunicorn-gevent": (("gunicorn", "gevent", "packaging"), "gevent"),
    "waitress": (("waitress",), None),
    "wsgiref": ((), None),
}


def need(kind):
    """Skip the test when this kind of server is not installed."""
    for module in KINDS[kind][0]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{kind} needs {module}, which is not installed")


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


class Server:
    """start -> requests -> stop (or kill_process) -> records; also a context manager."""

    def __init__(self, kind, target, folder, *, workers=1, preload=False, env=None):
        self.kind = kind
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.records_path = self.folder / "records.jsonl"
        self.log_path = self.folder / "server.log"
        self.file_path = self.folder / "served.bin"
        self.file_path.write_bytes(bytes(range(256)) * (FILE_SIZE // 256))
        self.command = self._command(target, workers, preload)
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

    def _command(self, target, workers, preload):
        worker_class = KINDS[self.kind][1]
        if worker_class is None:
            return [sys.executable, str(HERE / "serve.py"), self.kind, "{fd}", target]
        command = [sys.executable, "-m", "gunicorn", "--bind", "fd://{fd}", "--config", str(HERE / "gunicorn_conf.py")]
        command += ["--worker-class", worker_class, "--workers", str(workers), "--worker-tmp-dir", str(self.folder)]
        if worker_class == "gthread":
            command += ["--threads", "4"]
        if preload:
            command.append("--preload")
        return [*command, target]

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    def start(self):
        with socket.socket() as listener, open(self.log_path, "wb") as log:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            self.address = listener.getsockname()
            fd = listener.fileno()
            self.process = subprocess.Popen(
                [part.format(fd=fd) for part in self.command],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[fd],
                start_new_session=True,
            )
        try:
            wait_until(self._is_ready, START_SECONDS, f"an answer of {self.kind}")
        except BaseException:
            self.close()
            raise
        return self

    def _is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.kind} ended with {self.process.returncode}:\n{self.log()}")
        try:
            return self.get("/ready", timeout=2).startswith((b"HTTP/1.1 404", b"HTTP/1.0 404"))
        except OSError:
            return False

    def stop(self, number=signal.SIGTERM):
        """Stop by signal to the process started here; its return code. A server that stays fails the test."""
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(f"{self.kind} was still there {STOP_SECONDS} s after its signal:\n{self.log()}") from None

    def close(self):
        """Leave nothing behind, whatever happened."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # a worker may outlive a master that was killed
        except ProcessLookupError:
            pass
        self.process.wait()

    def log(self):
        return self.log_path.read_text(errors="replace")[-4000:]

    def connect(self, timeout=10):
        return socket.create_connection(self.address, timeout=timeout)

    def exchange(self, request, timeout=10):
        """Send the bytes of one request that asks to close; everything that comes back."""
        with self.connect(timeout) as connection:
            connection.sendall(request)
            return read_to_end(connection)

    def get(self, target, timeout=10, headers=(), method="GET"):
        lines = [f"{method} {target} HTTP/1.1", "Host: test", "Connection: close", *headers]
        return self.exchange("\r\n".join([*lines, "", ""]).encode("latin-1"), timeout)

    def get_json(self, target):
        return json.loads(body_of(self.get(target)))

    def records(self):
        """The records in the file now. Fails on anything but whole lines of JSON objects."""
        if not self.records_path.exists():
            return []
        text = self.records_path.read_bytes()
        assert text == b"" or text.endswith(b"\n"), "the file ends inside a line"
        return [json.loads(line) for line in text.splitlines()]

    def wait_for_records(self, enough, seconds=8):
        """Poll the file while the server runs until enough(records) is true; the records."""

        def look():
            records = self.records()
            return records if enough(records) else None

        return wait_until(look, seconds, "the record in the file")

    def record_of(self, task, seconds=8):
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

    wait_until(at_rest, 10, "a full receive buffer")


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
