"""Servers that fork, stop and die: children profile, parents stay untouched, the file keeps whole lines."""

import concurrent.futures
import json
import os
import signal
import uuid

import pytest
from harness import PATIENCE, Server, body_of, need, wait_until
from kinds import each_kind, marks


# What forks workers, and whether the application was loaded before.
FORKS = [
    ("gunicorn-sync", False),
    ("gunicorn-sync", True),
    ("gunicorn-gthread", False),
    ("gunicorn-gthread", True),
    ("gunicorn-gevent", False),
    ("gunicorn-gevent", True),
    ("uwsgi", False),
    ("uwsgi", True),
    ("granian", False),
    ("mod_wsgi", False),
]

# The signal that makes the parent replace its workers one by one.
RELOADS = {"gunicorn-gthread": signal.SIGHUP, "uwsgi": signal.SIGHUP, "granian": signal.SIGHUP, "mod_wsgi": signal.SIGUSR1}


def ask_for_pids(server, enough, tasks):
    """Ask for the workers' pids, four at a time, each request under a task id put into `tasks`, until enough(pids)."""
    pids = set()

    def ask(_):
        task = str(uuid.uuid4())
        try:
            answer = json.loads(body_of(server.get("/who", headers=[f"X-Task-UUID: {task}"])))
        except (OSError, ValueError):
            return None  # this one met a worker that goes
        tasks[task] = answer["pid"]
        return answer["pid"]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:

        def look():
            pids.update(pid for pid in pool.map(ask, range(4)) if pid)
            return enough(pids)

        wait_until(look, PATIENCE, "an answer of each worker")
    return pids


@pytest.mark.acceptance("PM16", "PM23", "PM30")
def test_records_are_in_the_file_after_sigterm(kind, tmp_path):
    tasks = [str(uuid.uuid4()) for _ in range(10)]
    with Server(kind, "app:wrapped", tmp_path) as server:
        for index, task in enumerate(tasks):
            server.get(("/list", "/generator")[index % 2], headers=[f"X-Task-UUID: {task}"])
        if not server.kind.drains:  # only what was flushed counts
            server.wait_for_records(lambda records: set(tasks) <= {r["task_uuid"] for r in records})
        server.stop(signal.SIGTERM)
        written = [record["task_uuid"] for record in server.records()]
    assert sorted(task for task in written if task in tasks) == sorted(tasks)


@pytest.mark.acceptance("PM1", "W24")
@pytest.mark.parametrize("kind,preload", [
    pytest.param(kind, preload, marks=marks(kind), id=f"{kind}-{'preload' if preload else 'own load'}") for kind, preload in FORKS])
def test_forked_workers_profile_and_the_master_is_untouched(kind, preload, tmp_path):
    need(kind)
    told = tmp_path / "master.json"
    env = {"SERVERS_ACTION_AT_IMPORT": "1"}
    told_by_master = preload and kind.startswith("gunicorn")
    if told_by_master:
        env["SERVERS_MASTER"] = str(told)
    tasks = {}
    with Server(kind, "app:wrapped", tmp_path, workers=2, preload=preload, env=env) as server:
        master = server.process.pid
        workers = ask_for_pids(server, lambda pids: len(pids) == 2, tasks)
        server.wait_for_records(lambda records: set(tasks) <= {r["task_uuid"] for r in records})
        server.stop()
        records = server.records()
    assert master not in workers
    # One record for each request, from the process that answered it.
    assert sorted((r["task_uuid"], r["pid"]) for r in records if r["task_uuid"] in tasks) == sorted(tasks.items())
    # What was done before the fork is reported once, by whoever did it.
    at_import = [record["pid"] for record in records if record["action"]["type"] == "at-import"]
    assert sorted(at_import) == ([master] if preload else sorted(workers))
    if told_by_master:
        stands = json.loads(told.read_text())
        assert stands["pid"] == master
        assert stands["before"]["started"] == stands["before"]["finished"] == 1
        assert stands["after"]["started"] == stands["after"]["finished"] == 2
        assert stands["flushed"] is True
        assert [record["pid"] for record in records if record["action"]["type"] == "at-exit"] == [master]


@pytest.mark.acceptance("W24", "PM23")
@pytest.mark.parametrize("kind", each_kind(["gunicorn-gthread", "uwsgi", "granian", "mod_wsgi"]))
def test_killed_worker_leaves_whole_lines_and_its_successor_profiles(kind, tmp_path):
    need(kind)
    before, during, after = {}, {}, {}
    with Server(kind, "app:wrapped", tmp_path, workers=2, preload=kind == "uwsgi") as server:
        workers = ask_for_pids(server, lambda pids: len(pids) == 2, before)
        server.wait_for_records(lambda records: set(before) <= {r["task_uuid"] for r in records})
        with concurrent.futures.ThreadPoolExecutor(4) as pool:

            def hit(index):
                task = str(uuid.uuid4())
                try:
                    server.get("/list", headers=[f"X-Task-UUID: {task}"])
                except OSError:
                    return  # this one met the dying worker
                during[task] = index

            hits = [pool.submit(hit, index) for index in range(200)]
            wait_until(lambda: len(during) > 50, PATIENCE, "the load")
            os.kill(min(workers), signal.SIGKILL)
            for done in hits:
                done.result()
        ask_for_pids(server, lambda pids: pids - workers, after)
        # The kernel gives up the write of a process that is killed at the end of any page, so one line may be cut.
        server.wait_for_records(lambda records: set(after) <= {r["task_uuid"] for r in records}, torn=1)
        server.stop()
        records = server.records(torn=1)
    found = {record["task_uuid"] for record in records}
    assert set(before) <= found
    assert set(after) <= found
    # The survivor lost nothing of its own; the dead one at most what it had not flushed.
    survivor = max(workers)
    assert any(record["pid"] == survivor and record["task_uuid"] in during for record in records)


@pytest.mark.acceptance("W24", "PM23", "PM30")
@pytest.mark.parametrize("kind", each_kind(RELOADS))
def test_reload_loses_no_record_of_the_old_workers(kind, tmp_path):
    need(kind)
    before, after = {}, {}
    with Server(kind, "app:wrapped", tmp_path, preload=kind == "uwsgi") as server:
        old = ask_for_pids(server, lambda pids: len(pids) == 1, before)
        if not server.kind.drains:  # only what was flushed counts
            server.wait_for_records(lambda records: set(before) <= {r["task_uuid"] for r in records})
        server.process.send_signal(RELOADS[kind])
        ask_for_pids(server, lambda pids: pids - old, after)
        server.wait_for_records(lambda records: set(before) | set(after) <= {r["task_uuid"] for r in records})
        server.stop()
        found = sorted((r["task_uuid"], r["pid"]) for r in server.records() if r["task_uuid"] in {**before, **after})
    assert found == sorted({**before, **after}.items())
