"""Settings of servers that make profiling impossible, or late: said once in the log, and never felt by a client."""

import re
import uuid

import pytest
from harness import PATIENCE, Server, body_of, need, wait_until
from kinds import each_kind

PATHS = ("/list", "/generator", "/file", "/write", "/echo?a=1", "/no-such-path")


@pytest.mark.oldest_and_newest
@pytest.mark.acceptance("W25")
def test_sub_interpreter_of_mod_wsgi_runs_bare_and_says_so_once(tmp_path):
    need("mod_wsgi")
    own_interpreter = ["WSGIApplicationGroup %{SERVER}"]
    with Server("mod_wsgi", "app:wrapped", tmp_path, options=own_interpreter) as server:
        for path in PATHS * 2:
            answer = server.get(path)
            assert answer.startswith(b"HTTP/1.1 404" if path == "/no-such-path" else b"HTTP/1.1 200"), path
        assert body_of(server.get("/file")) == server.file_path.read_bytes()
        assert body_of(server.get("/generator")) == b"0\n1\n2\n3\n4\n"
        stats = server.get_json("/stats")
        server.stop()
        told = re.findall("this is a sub-interpreter of mod_wsgi.*", server.log())
        assert len(told) == 1, server.log()
        assert "WSGIApplicationGroup %{GLOBAL}" in told[0]
        assert server.records() == []
    assert (stats["running"], stats["actions"]["started"]) == (False, 0)


@pytest.mark.acceptance("PM16", "PM30")
@pytest.mark.parametrize("kind", each_kind(["waitress", "cheroot"]))
def test_leaving_by_an_exception_at_sigterm_drains(kind, tmp_path):
    need(kind)
    tasks = [str(uuid.uuid4()) for _ in range(5)]
    with Server(kind, "app:wrapped", tmp_path, env={"SERVERS_LEAVE": "1"}) as server:
        for task in tasks:
            server.get("/generator", headers=[f"X-Task-UUID: {task}"])
        server.stop()
        assert set(tasks) <= {record["task_uuid"] for record in server.records()}


@pytest.mark.oldest_and_newest
@pytest.mark.acceptance("W25")
@pytest.mark.parametrize("engine", [{}, {"PROFILOMATIC_ENGINE": "gil"}, {"PROFILOMATIC_PURE": "1"}], ids=["native", "gil", "pure"])
def test_uwsgi_without_threads_is_told_and_profiles_all_the_same(engine, tmp_path):
    """Its workers hold the GIL between requests; the master forked them after the application was loaded."""
    need("uwsgi")
    spinning, quick = [str(uuid.uuid4()) for _ in range(3)], [str(uuid.uuid4()) for _ in range(3)]
    with Server("uwsgi", "app:wrapped", tmp_path, preload=True, options=("--no-orphans",), env=engine) as server:
        for spun, other in zip(spinning, quick):
            assert body_of(server.get("/spin?samples=3", headers=[f"X-Task-UUID: {spun}"])) == b"spun\n"
            assert body_of(server.get("/generator", headers=[f"X-Task-UUID: {other}"])) == b"0\n1\n2\n3\n4\n"

        def written():
            if engine:  # Python threads are needed for the file, and they run when a request lets them
                server.get("/nap?samples=0")
            return {*spinning, *quick} <= {record["task_uuid"] for record in server.records()}

        wait_until(written, PATIENCE, "the records in the file")
        server.stop()
        log, records = server.log(), server.records()
    assert log.count("set enable-threads = true") == 1
    assert sum(record["profiler"]["samples"] for record in records if record["task_uuid"] in spinning) > 5
