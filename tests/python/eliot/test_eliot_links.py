"""Tasks that go on elsewhere: on threads, in other processes, in WSGI requests."""

import json
import sys
import threading

import eliot
import pytest
from pom_support import messages, run_python

import profilomatic
import profilomatic.eliot

sys.path.insert(0, __file__.rpartition("/eliot/")[0] + "/api")
from wsgi_server import Server, environ, ok  # noqa: E402


def of_type(record, message_type):
    return [m for m in messages(record) if m.get("message_type") == message_type]


@pytest.mark.acceptance("PM17")
def test_handing_out_a_task_id_is_noted_in_the_graph(patched):
    with eliot.start_action(action_type="caller") as action:
        with eliot.start_action(action_type="inner") as inner:
            first = inner.serialize_task_id()
        second = action.serializeTaskId()
    record = patched.one()
    assert first == ("%s@/2/2" % action.task_uuid).encode() and second == ("%s@/3" % action.task_uuid).encode()
    assert of_type(record, "profilomatic:linked_remote_task") == [
        {"message_type": "profilomatic:linked_remote_task", "task_uuid": action.task_uuid, "task_level": level}
        for level in ([2, 2], [3])]


@pytest.mark.acceptance("PM17")
@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_continued_task_carries_the_remote_id_and_level(patched, as_bytes):
    with eliot.start_action(action_type="caller") as action:
        task_id = action.serialize_task_id()
    if not as_bytes:
        task_id = task_id.decode()
    with eliot.Action.continue_task(task_id=task_id, action_type="worker", size=3):
        pass
    caller, worker = patched.flushed(2)
    assert caller["task_uuid"] == worker["task_uuid"] == action.task_uuid
    assert worker["action"] == {"type": "worker", "kind": "eliot", "outcome": "succeeded", "size": 3}
    linked, = of_type(caller, "profilomatic:linked_remote_task")
    continued, = of_type(worker, "profilomatic:continued_remote_task")
    assert linked["task_level"] == continued["task_level"] == [2]
    assert continued["task_uuid"] == action.task_uuid


def test_work_that_a_thread_does_for_an_action_has_its_task_id(patched):
    def work():
        with eliot.start_action(action_type="in the thread"):
            pass

    with eliot.start_action(action_type="caller") as action:
        thread = threading.Thread(target=eliot.preserve_context(work))
        thread.start()
        thread.join()
    worker, caller = patched.flushed(2)
    assert caller["task_uuid"] == worker["task_uuid"] == action.task_uuid
    assert (worker["action"]["type"], caller["action"]["type"]) == ("eliot:remote_task", "caller")
    assert [m["action_type"] for m in messages(worker) if "action_type" in m] == [
        "eliot:remote_task", "in the thread", "in the thread", "eliot:remote_task"]


def test_an_id_that_is_no_task_of_ours_is_handed_out_as_ever(patched):
    action = eliot.Action(None, "not-begun", eliot._action.TaskLevel(level=[]), "app")
    assert action.serialize_task_id() == b"not-begun@/1"
    for wrong in (b"nonsense", 3):
        with pytest.raises((ValueError, AttributeError, TypeError)):
            eliot.Action.continue_task(task_id=wrong)
    with pytest.raises(RuntimeError):
        eliot.Action.continue_task()
    assert patched.flushed(0) == []
    assert profilomatic.eliot.stats()["faults"] == 0


CHILD = """
import sys, eliot, profilomatic, profilomatic.eliot
profilomatic.eliot.patch()
profilomatic.add_destination(profilomatic.file_destination(sys.argv[1] if len(sys.argv) > 1 else {path!r}))
with eliot.Action.continue_task(task_id={task_id!r}, action_type="remote"):
    eliot.log_message("working")
assert profilomatic.stop(60)
"""


@pytest.mark.acceptance("PM17")
def test_the_graphs_of_two_processes_are_found_by_one_id(patched, tmp_path):
    path = str(tmp_path / "child.jsonl")
    with eliot.start_action(action_type="caller") as action:
        done = run_python(CHILD.format(path=path, task_id=action.serialize_task_id()))
    assert done.returncode == 0, done.stderr
    caller = patched.one()
    with open(path) as lines:
        remote = json.loads(lines.read())
    assert remote["pid"] != caller["pid"]
    assert remote["task_uuid"] == caller["task_uuid"] == action.task_uuid
    linked, = of_type(caller, "profilomatic:linked_remote_task")
    continued, = of_type(remote, "profilomatic:continued_remote_task")
    assert linked["task_level"] == continued["task_level"]
    assert messages(remote)[0]["task_level"] == linked["task_level"] + [1]


@pytest.mark.acceptance("PM16")
def test_an_action_inside_a_request_is_part_of_its_graph_with_both_ids(patched):
    def app(env, start_response):
        with eliot.start_task(action_type="app:work") as action:
            ids.append(action.task_uuid)
            ok(start_response)
        return [b"done"]

    ids = []
    for _ in range(2):
        Server(profilomatic.wsgi.wrap(app), environ(HTTP_X_TASK_UUID="request-id")).run()
    first, second = patched.flushed(2)
    assert ids[0] != ids[1]
    for record, task_uuid in ((first, ids[0]), (second, ids[1])):
        assert record["task_uuid"] == "request-id" and record["action"]["kind"] == "wsgi"
        assert [(m["task_uuid"], m["action_status"]) for m in messages(record)] == [
            (task_uuid, "started"), (task_uuid, "succeeded")]


@pytest.mark.acceptance("PM16")
def test_a_request_inside_an_action_is_part_of_its_graph_with_both_ids(patched):
    def app(env, start_response):
        assert profilomatic.current_task_uuid() == "request-id"
        ok(start_response)
        return [b"done"]

    with eliot.start_action(action_type="client test") as action:
        Server(profilomatic.wsgi.wrap(app), environ("/inside", HTTP_X_TASK_UUID="request-id")).run()
        assert profilomatic.current_task_uuid() == action.task_uuid
    record = patched.one()
    assert record["task_uuid"] == action.task_uuid and record["action"]["kind"] == "eliot"
    inside = [(m["action_type"], m["action_status"], m["task_uuid"]) for m in messages(record)]
    assert inside == [("client test", "started", action.task_uuid), ("/inside", "started", "request-id"),
                      ("/inside", "succeeded", "request-id"), ("client test", "succeeded", action.task_uuid)]


def test_an_action_that_outlives_its_request_ends_with_it(patched):
    def app(env, start_response):
        opened.append(eliot.start_task(action_type="left open"))
        ok(start_response)
        return [b"done"]

    opened = []
    Server(profilomatic.wsgi.wrap(app), environ("/")).run()
    assert profilomatic.current_task_uuid() is None
    opened.pop().finish()
    record = patched.one()
    assert record["action"]["outcome"] == "succeeded"
    assert [m["action_status"] for m in messages(record)][0] == "started"
