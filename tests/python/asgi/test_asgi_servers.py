"""uvicorn and hypercorn, each a real process with the wrapped application, asked over sockets."""

import asyncio
import os
import pathlib
import signal
import sys
import uuid

import pytest

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "servers"))

import harness  # noqa: E402
from harness import abort, body_of, without_date  # noqa: E402
from kinds import Kind, each_kind, why_missing  # noqa: E402


def asgi(name, modules, *arguments):
    return Kind(name, lambda server: [sys.executable, "-m", *arguments, server.target], modules=modules)


KINDS = {each.name: each for each in (
    asgi("uvicorn", ("uvicorn",),
         "uvicorn", "--fd", "{fd}", "--loop", "asyncio", "--ws", "auto", "--log-level", "warning"),
    asgi("uvicorn-uvloop", ("uvicorn", "uvloop"),
         "uvicorn", "--fd", "{fd}", "--loop", "uvloop", "--ws", "auto", "--log-level", "warning"),
    asgi("hypercorn", ("hypercorn",), "hypercorn", "--bind", "fd://{fd}", "--graceful-timeout", "1"),
)}


class Server(harness.Server):
    kinds = KINDS

    def __init__(self, kind, target, folder):
        super().__init__(kind, target, folder, env={"PYTHONPATH": os.pathsep.join([harness.PACKAGE, str(HERE)])})


@pytest.fixture(scope="module", params=each_kind(KINDS))
def kind(request):
    why = why_missing(KINDS[request.param])
    if why is not None:
        pytest.skip(why)
    return request.param


@pytest.fixture(scope="module")
def server(kind, tmp_path_factory):
    with Server(kind, "asgi_app:wrapped", tmp_path_factory.mktemp("wrapped")) as running:
        yield running


@pytest.fixture(scope="module")
def bare_server(kind, tmp_path_factory):
    with Server(kind, "asgi_app:bare", tmp_path_factory.mktemp("bare")) as running:
        yield running


@pytest.fixture
def task():
    return str(uuid.uuid4())


def post(server, target, chunks, headers=()):
    """A chunked upload."""
    head = "\r\n".join([f"POST {target} HTTP/1.1", "Host: test", "Connection: close", "Transfer-Encoding: chunked", *headers, "", ""])
    return server.exchange(head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""]))


@pytest.mark.parametrize("method, path", [("GET", "/hello"), ("HEAD", "/hello"), ("GET", "/stream"), ("GET", "/no/such"), ("GET", "/fail")])
def test_the_bytes_on_the_wire_are_the_same(server, bare_server, method, path):
    assert without_date(server.get(path, method=method)) == without_date(bare_server.get(path, method=method))


def test_uploads_are_the_same(server, bare_server, task):
    chunks = [b"x" * 70000] * 5
    answers = [post(each, "/upload", chunks, [f"X-Task-UUID: {task}"]) for each in (server, bare_server)]
    assert without_date(answers[0]) == without_date(answers[1]) and body_of(answers[0]) == b"350000"
    assert server.record_of(task)["action"]["phases"]["client"] > 0


def test_a_kept_connection_has_a_record_for_each_request(server):
    ids = [str(uuid.uuid4()) for _ in range(3)]
    with server.connect() as connection:
        for number in ids:
            connection.sendall(f"GET /task HTTP/1.1\r\nHost: test\r\nX-Task-UUID: {number}\r\n\r\n".encode())
            got = b""
            while number.encode() not in got:
                part = connection.recv(65536)
                assert part, got
                got += part
    for number in ids:
        action = server.record_of(number)["action"]
        assert (action["kind"], action["outcome"], action["status"], action["route"]) == ("asgi", "succeeded", 200, "/task")
        assert action["client"] == "127.0.0.1" or action["client"] == ""


async def ask_all_at_once(address, paths):
    async def ask(path):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    return await asyncio.gather(*map(ask, paths))


def functions_of(node):
    return {node.get("function")}.union(*map(functions_of, node.get("children", ())))


def test_a_thousand_slow_requests_at_once_have_each_its_own_tree(server):
    answers = asyncio.run(asyncio.wait_for(ask_all_at_once(server.address, ["/slow/a", "/slow/b"] * 500), harness.PATIENCE))
    assert [body_of(answer) for answer in answers] == [b"a", b"b"] * 500

    def slow(records):
        return [record for record in records if record["action"]["path_info"].startswith("/slow/")]

    records = slow(server.wait_for_records(lambda records: len(slow(records)) == 1000))
    assert len({record["task_uuid"] for record in records}) == 1000
    waits = {"a": {"slow_a", "wait_in_a"}, "b": {"slow_b", "wait_in_b"}}
    whole = 0
    for record in records:
        own = record["action"]["path_info"][-1]
        found = functions_of(record) & (waits["a"] | waits["b"])
        assert found <= waits[own], (record["action"], found)
        whole += found == waits[own]
    assert whole > 500  # they are looked at in turn, and as often as they are many; a look may be missed


def test_pipelined_requests_are_their_own(server):
    ids = [str(uuid.uuid4()) for _ in range(2)]
    with server.connect() as connection:
        connection.sendall("".join(f"GET /task HTTP/1.1\r\nHost: test\r\nX-Task-UUID: {number}\r\n\r\n" for number in ids).encode())
        got = b""
        while not all(number.encode() in got for number in ids):
            part = connection.recv(65536)
            assert part, got
            got += part
    for number in ids:
        assert server.record_of(number)["action"]["outcome"] == "succeeded"


def test_the_busy_line_is_in_the_tree(server, task):
    server.get("/busy", headers=[f"X-Task-UUID: {task}"])
    record = server.record_of(task)
    assert harness.time_by_function(record)["burn"] > record["time"] / 2
    assert {node["function"] for node in record["children"]} == {"bare"}


def test_waiting_stands_under_the_line_that_waits(server, task):
    server.get("/waiting", headers=[f"X-Task-UUID: {task}"])
    record = server.record_of(task)
    top = max(record["children"], key=lambda node: node["time"])  # a look may have met another line
    assert top["function"] == "bare" and "waiting" in {node["function"] for node in top["children"]}
    assert top["time"] > record["time"] / 2


def test_a_failure_is_a_500_and_a_failed_action(server, task):
    assert b" 500 " in server.get("/fail", headers=[f"X-Task-UUID: {task}"]).split(b"\r\n")[0]
    action = server.record_of(task)["action"]
    assert (action["outcome"], action["exception"], action["status"]) == ("failed", "LookupError", None)


def test_a_client_that_leaves_aborts_the_action(server, task):
    connection = server.connect()
    connection.sendall(f"GET /endless HTTP/1.1\r\nHost: test\r\nX-Task-UUID: {task}\r\n\r\n".encode())
    assert connection.recv(65536)
    abort(connection)
    assert server.record_of(task)["action"]["outcome"] == "aborted"


def test_the_lifespan_has_started_the_application(server):
    assert body_of(server.get("/lifespan")) == b"started"


def test_a_websocket_talks_and_is_no_action(server):
    client = pytest.importorskip("websockets.sync.client")
    host, port = server.address
    before = len(server.records())
    with client.connect(f"ws://{host}:{port}/talk", proxy=None) as socket:
        socket.send("there and")
        assert socket.recv(timeout=harness.PATIENCE) == "there and back"
    number = str(uuid.uuid4())
    server.get("/hello", headers=[f"X-Task-UUID: {number}"])
    server.record_of(number)
    assert all(record["action"]["type"] != "/talk" for record in server.records()[before:])


def test_the_last_records_are_written_when_the_server_is_stopped(kind, tmp_path, task):
    with Server(kind, "asgi_app:wrapped", tmp_path) as server:
        server.get("/hello", headers=[f"X-Task-UUID: {task}"])
        server.stop(signal.SIGTERM)
        assert task in {record["task_uuid"] for record in server.records()}, server.log()
