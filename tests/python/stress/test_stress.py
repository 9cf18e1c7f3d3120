"""No crash, no hang, no wrong name under code that is hostile to a sampler."""

import json
import os
import re
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = ["storm", "short_threads", "churn", "recursion", "boundary", "generators", "callbacks", "names", "restarts", "messages",
            "abandoned_threads", "kept_dicts", "request_threads"]
KNOWN = {
    "storm": {"work", "tiny"}, "short_threads": {"work"}, "recursion": {"work", "down"}, "boundary": {"work", "down", "wide"},
    "generators": {"work", "inner", "outer"},
}


def run(tmp_path, program, *args):
    path = tmp_path / "profiles.jsonl"
    done = subprocess.run([sys.executable, "-X", "faulthandler", os.path.join(HERE, "programs.py"), program, str(path), *args],
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, "%s\n%s" % (done.returncode, done.stderr[-4000:])
    result = json.loads(done.stdout.splitlines()[-1])
    with open(path) as file:
        records = [json.loads(line) for line in file]
    return result, records


def nodes(record):
    todo = list(record.get("children", ()))
    while todo:
        node = todo.pop()
        yield node
        todo.extend(node.get("children", ()))


def adds_up(result, records):
    stats = result["stats"]
    actions = stats["actions"]
    assert result["flushed"] and result["stopped"]
    assert actions["started"] == actions["profiled"] + actions["shed"] == actions["finished"] + actions["lost"], stats
    destination = stats["destinations"][0]
    lost = sum(destination["dropped"].values())
    assert destination["sent"] + lost == actions["profiled"], stats
    assert len(records) == destination["sent"], stats


@pytest.mark.acceptance("PM29")
@pytest.mark.parametrize("program", PROGRAMS)
def test_survives_and_adds_up(tmp_path, program):
    result, records = run(tmp_path, program)
    # Counters of destinations and engines span the restarts, records may be the fewer; what was abandoned ends with the stop.
    if program not in ("restarts", "abandoned_threads"):
        adds_up(result, records)
    names = {node["function"].rsplit(".", 1)[-1] for record in records for node in nodes(record) if "function" in node}
    if program in KNOWN:
        library = {"run", "_bootstrap", "_bootstrap_inner", "<module>", program, "in_threads", "<lambda>"}
        assert names - library <= KNOWN[program], names - library
    if program == "churn":
        wrong = {name for name in names if name.startswith("made_") and not re.fullmatch(r"made_\d_\d+", name)}
        assert not wrong


def test_dying_code_keeps_its_own_name(tmp_path):
    """A function made in action i of a thread is seen in that action only, under its own name."""
    _, records = run(tmp_path, "churn", "3000")
    for record in records:
        made = {node["function"] for node in nodes(record) if node.get("function", "").startswith("made_")}
        assert len(made) <= 1, made


JOB_CALLS = {"job": {"job_pair", "job_key", "job_down"}, "job_down": {"job_down", "job_each"}, "job_each": {"job_pair"},
             "job_pair": {"job_leaf"}, "job_key": {"job_leaf"}, "job_leaf": set()}


def test_threads_of_requests_show_callers_that_call(tmp_path):
    """Hardly a stack is put together from two moments (1 of 50 000), and what runs in a thread is the request's whose context it has."""
    _, records = run(tmp_path, "request_threads")
    wrong, seen = 0, set()
    for record in records:
        for node in [record, *nodes(record)]:
            name = node.get("function", "").rpartition(".")[2]
            for child in node.get("children", ()):
                below = child.get("function", "").rpartition(".")[2]
                wrong += child["hits"] if below in JOB_CALLS and below not in JOB_CALLS.get(name, {"job"}) else 0
                seen.add(below)
        where = {"/pool": "in_its_own_thread", "/own": "in_a_pool"}[record["action"]["path_info"]]
        assert where not in {node.get("function", "").rpartition(".")[2] for node in nodes(record)}
    assert wrong <= 2
    if records[0]["profiler"]["engine"] == "native":
        assert {"job", "job_down", "job_pair"} <= seen


def test_greenlets_keep_their_own_samples(tmp_path):
    pytest.importorskip("greenlet")
    result, records = run(tmp_path, "greenlets")
    adds_up(result, records)


def test_waiting_greenlets_show_callers_that_call(tmp_path):
    pytest.importorskip("greenlet")
    _, records = run(tmp_path, "greenlet_paths")
    wrong, seen = [], 0
    for record in records:
        for node in nodes(record):
            name = node.get("function", "").rpartition(".")[2]
            for child in node.get("children", ()):
                below = child.get("function", "").rpartition(".")[2]
                if below.startswith(("p_", "wp_")):
                    callers = {below[1:]} if below[0] == "w" else {below[:-1], "run"} if below == "p_" else {below[:-1]}
                    seen += child["hits"]
                    wrong += [(name, below, child["hits"])] if name not in callers else []
    assert seen > 100
    assert not wrong


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all interpreters of a process share one lock before 3.12")
def test_interpreters_with_locks_of_their_own_return_their_chunks(tmp_path):
    result, records = run(tmp_path, "interpreters")
    adds_up(result, records)
