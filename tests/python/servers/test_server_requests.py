"""What the records say about requests to real servers: one record each, its outcome, where the time went."""

import concurrent.futures
import http.client
import json
import time
import urllib.parse
import uuid

import pytest
from harness import CRASH, PATIENCE, abort, body_of, chunks_of, nodes, time_by_function, wait_until


@pytest.mark.acceptance("PM19", "PM20")
def test_request_makes_one_record_under_its_task_id(server, task):
    answer = server.get("/list?color=red", headers=[f"X-Task-UUID: {task}"])
    assert body_of(answer) == b"one two\n"
    record = server.record_of(task)
    action = record["action"]
    assert (action["type"], action["kind"], action["outcome"]) == ("/list", "wsgi", "succeeded")
    assert action["method"] == "GET"
    assert action["status"] == 200
    assert "color" in str(action["query_string"])
    assert record["time"] >= 0


@pytest.mark.acceptance("PM19")
def test_keep_alive_connection_makes_one_record_a_request(kind, server):
    if not server.kind.keeps_alive:
        pytest.skip(f"{kind} closes the connection after each answer")
    tasks = [str(uuid.uuid4()) for _ in range(20)]
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
    paths = ("/tuple", "/file", "/echo") + (() if kind == "waitress" else ("/list", "/generator", "/body"))
    sockets = set()
    for index, task in enumerate(tasks):
        connection.request("GET", paths[index % len(paths)], headers={"X-Task-UUID": task})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read()
        sockets.add(connection.sock and connection.sock.getsockname())
    connection.close()
    assert len(sockets) == 1
    records = server.wait_for_records(lambda records: set(tasks) <= {r["task_uuid"] for r in records})
    mine = [record for record in records if record["task_uuid"] in tasks]
    assert len(mine) == len(tasks)
    assert {record["action"]["outcome"] for record in mine} == {"succeeded"}


@pytest.mark.acceptance("W4", "W13")
@pytest.mark.parametrize("path", ["/list", "/body", "/generator", "/file", "/not-modified", "/no-content"])
def test_head_and_bodiless_answers_succeed(server, task, path):
    server.get(path, method="HEAD", headers=[f"X-Task-UUID: {task}"])
    assert server.record_of(task)["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("PM22", "W12", "W13", "W22")
@pytest.mark.parametrize("path", ["/raise", "/raise-mid", "/raise-close"])
def test_exception_out_of_the_application_fails_the_request(server, task, path):
    server.get(path, headers=[f"X-Task-UUID: {task}"])
    action = server.record_of(task)["action"]
    assert action["type"] == path
    assert action["outcome"] == "failed"


@pytest.mark.acceptance("PM22", "W4", "W13")
def test_client_that_goes_away_aborts_the_request(server, task):
    connection = server.connect()
    connection.sendall(f"GET /long HTTP/1.1\r\nHost: test\r\nX-Task-UUID: {task}\r\n\r\n".encode())
    assert connection.recv(65536)
    abort(connection)
    record = server.record_of(task)
    assert record["action"]["outcome"] == "aborted"
    assert body_of(server.get("/list")) == b"one two\n"


@pytest.mark.acceptance("W8")
def test_first_chunk_does_not_wait_for_the_second(server, task):
    """The application makes the second one when the client says that it has the first."""
    word = server.folder / f"{task} has the first"
    with server.connect() as connection:
        connection.sendall(
            f"GET /stream?until={urllib.parse.quote(str(word))} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            f"X-Task-UUID: {task}\r\n\r\n".encode()
        )
        seen = b""
        while part := connection.recv(65536):
            seen += part
            if b"first" in seen:
                word.touch()
    assert body_of(seen) == b"first\nsecond\nthird\n"
    if b"chunked" in seen:
        assert list(chunks_of(seen.partition(b"\r\n\r\n")[2])) == [b"first\n", b"second\n", b"third\n"]


@pytest.mark.acceptance("PM15", "W11")
def test_streamed_body_has_its_time_under_its_own_lines(kind, server, task):
    server.get("/stream", headers=[f"X-Task-UUID: {task}"])
    record = server.record_of(task)
    times = time_by_function(record)
    assert times.get("spin", 0) > 0, times
    if not server.kind.greenlets:  # a sleeping greenlet is switched out, and nobody samples it
        sleeping = sum(seconds for name, seconds in times.items() if name.endswith("chunks"))
        assert sleeping > 0, times


@pytest.mark.acceptance("W11")
def test_samples_of_concurrent_requests_do_not_mix(kind, server):
    if not server.kind.at_once:
        pytest.skip(f"{kind} serves one request at a time")
    spinning = [str(uuid.uuid4()) for _ in range(4)]
    napping = [str(uuid.uuid4()) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda job: server.get(job[0], headers=[f"X-Task-UUID: {job[1]}"]),
                # Each look takes a sample of every thread that serves one.
                [("/spin?samples=40", task) for task in spinning] + [("/nap?samples=40", task) for task in napping],
            )
        )
    everyone = {*spinning, *napping}
    records = server.wait_for_records(lambda records: everyone <= {r["task_uuid"] for r in records})
    by_task = {record["task_uuid"]: record for record in records}
    for task in spinning:
        names = {node["function"].rpartition(".")[2] for node in nodes(by_task[task]) if "function" in node}
        assert "spin" in names
        assert not names & {"nap", "answer_nap"}
    for task in napping:
        names = {node["function"].rpartition(".")[2] for node in nodes(by_task[task]) if "function" in node}
        assert not names & {"spin", "answer_spin"}
        if not server.kind.greenlets:
            assert "nap" in names


@pytest.mark.acceptance("PM19", "W11")
def test_record_names_the_process_and_thread_that_answered(server, task):
    answer = json.loads(body_of(server.get("/who", headers=[f"X-Task-UUID: {task}"])))
    record = server.record_of(task)
    assert record["pid"] == answer["pid"]
    if server.kind.greenlets:
        return
    assert record["thread"] == answer["ident"]
    if not answer["thread"].startswith("Dummy-"):  # what `threading` calls a thread that it did not make
        assert record["thread_name"] == answer["thread"]


@pytest.mark.acceptance("PM19", "W7", "W17")
def test_large_upload_and_its_answer_are_one_record(server, task):
    sent = b"u" * 2_000_000
    headers = [f"X-Task-UUID: {task}", f"Content-Length: {len(sent)}"]
    answer = server.get("/echo", method="POST", headers=headers, body=sent)
    assert json.loads(body_of(answer))["body"][0] == len(sent)
    action = server.record_of(task)["action"]
    assert (action["outcome"], action["method"], action["bytes"]) == ("succeeded", "POST", len(body_of(answer)))


@pytest.mark.acceptance("W13", "W17")
def test_client_that_goes_away_in_mid_upload_harms_nobody(server, task):
    """Whether the application is called at all is the server's to say: some read the whole body first."""
    connection = server.connect()
    head = f"POST /echo HTTP/1.1\r\nHost: test\r\nX-Task-UUID: {task}\r\nContent-Length: 1000000\r\n\r\n"
    connection.sendall(head.encode() + b"u" * 100_000)
    abort(connection)
    after = str(uuid.uuid4())
    assert body_of(server.get("/list", headers=[f"X-Task-UUID: {after}"])) == b"one two\n"
    server.record_of(after)
    assert len([record for record in server.records() if record["task_uuid"] == task]) <= 1


@pytest.mark.acceptance("PM20")
@pytest.mark.parametrize("header", ["X-Task-UUID: " + "a" * 5000, "X-Task-UUID: ../etc", "traceparent: 00-zz-1-01"])
def test_malformed_id_is_replaced_by_a_fresh_one(server, header):
    before = {record["task_uuid"] for record in server.records()}
    assert b"200 OK" in server.get("/tuple", headers=[header])
    records = server.wait_for_records(
        lambda records: {r["task_uuid"] for r in records if r["action"]["type"] == "/tuple"} - before
    )
    (fresh,) = [r for r in records if r["action"]["type"] == "/tuple" and r["task_uuid"] not in before]
    assert uuid.UUID(fresh["task_uuid"])


@pytest.mark.acceptance("PM18", "PM30", "W13")
def test_the_books_balance_at_rest(server):
    """After all the tests above: each request that began is accounted for, and the log has no complaint of ours."""

    def at_rest():
        """The request for the figures is itself under way, and the one before it is sealed at the sampler's next tick, 0.1 s later at
        most: asked for in quick succession they would never be at rest."""
        time.sleep(0.2)
        stats = server.get_json("/stats")
        actions = stats["actions"]
        return stats if actions["profiled"] == actions["finished"] + actions["lost"] + 1 else None

    actions = wait_until(at_rest, PATIENCE, "the end of every request")["actions"]
    assert actions["started"] == actions["profiled"] + actions["shed"]
    assert (actions["shed"], actions["lost"]) == (0, 0)
    assert len(server.records()) <= actions["finished"] + 1
    server.wait_for_records(lambda records: len(records) >= actions["finished"])
    assert "profiling failed" not in server.log()
    assert "set enable-threads" not in server.log()
    assert not CRASH.search(server.log())
