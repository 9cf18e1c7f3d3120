"""Each format, read back by a reader of its own, says what the records say: the same totals to the nanosecond.

The trees are random, with recursion, functions of one name, messages, and names with all that formats use as
separators.
"""

import json
import math
import pathlib
import pstats
import re

import format_readers as readers
import pytest
import random_records as rr

SEEDS = range(25)
DATA = pathlib.Path(__file__).resolve().parents[2] / "data" / "formats"


def whole(made):
    return [sum(rr.ns(record[key]) for record in made) for key in ("time", "cpu_time")]


@pytest.mark.parametrize("seed", SEEDS)
def test_collapsed_has_every_path_and_the_whole_time(seed, converted):
    made = rr.records(seed)
    for index, clock in enumerate(("wall", "cpu")):
        lines = converted(made, "collapsed", "--clock", clock).decode("utf-8").split("\n")
        assert lines.pop() == ""
        sums = {}
        for line in lines:
            path, value = line.rsplit(" ", 1)
            sums[path] = sums.get(path, 0) + int(value)
        assert sum(sums.values()) == whole(made)[index]
        expected = {}
        for record in made:
            for path, cost in rr.paths(record).items():
                if cost[1 + index]:
                    key = ";".join(collapsed_label(frame) for frame in path)
                    expected[key] = expected.get(key, 0) + cost[1 + index]
        assert sums == expected


@pytest.mark.parametrize("name,label", [("rebuild shard 3", "rebuild shard_3"), ("v 2.", "v_2."), ("17", "17"), ("shard 3 b", "shard 3 b"),
                                        ("/item/3", "/item/3")])
def test_collapsed_has_one_number_at_the_end_of_a_line(converted, name, label):
    """flamegraph.pl takes two for the columns of two profiles."""
    record = {**rr.records(0)[0], "action": {"type": name}, "children": [], "time": 0.5}
    assert converted([record], "collapsed").decode() == label + " 500000000\n"


def test_the_time_of_a_node_that_names_no_place_is_its_parents(converted):
    line = {"file": "a.py", "line": 3}
    record = {**rr.records(0)[0], "action": {"type": "load"}, "time": 1.0, "self_time": 0.25, "children": [
        {"time": 0.375, "self_time": 0.25, "children": [{**line, "time": 0.125, "self_time": 0.125}]},
        {**line, "time": 0.375, "self_time": 0.125, "children": [{"time": 0.25, "self_time": 0.25}]}]}
    assert converted([record], "collapsed").decode() == "load 500000000\nload;a.py:3 500000000\n"


def collapsed_label(frame):
    text = ":".join(str(part) for part in frame if part)
    return re.sub(r" (\d+)$", r"_\1", printable(text.replace(";", ":")))


def printable(text):
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@pytest.mark.parametrize("seed", SEEDS)
def test_speedscope_has_two_profiles_an_action(seed, converted):
    made = rr.records(seed)
    data = json.loads(converted(made, "speedscope"))
    readers.check_schema(data, json.loads((DATA / "speedscope-file-format-schema.json").read_text()))
    frames = data["shared"]["frames"]
    assert len(data["profiles"]) == 2 * len(made)
    assert len({json.dumps(frame, sort_keys=True) for frame in frames}) == len(frames)
    for number, profile in enumerate(data["profiles"]):
        record, clock = made[number // 2], number % 2
        assert profile["name"] == f"{rr.action_label(record)} {record['task_uuid']} {('wall', 'cpu')[clock]}"
        assert profile["unit"] == "nanoseconds" and profile["startValue"] == 0
        assert sum(profile["weights"]) == profile["endValue"] == rr.ns(record[("time", "cpu_time")[clock]])
        assert min(profile["weights"], default=1) > 0
        assert all(0 <= index < len(frames) for stack in profile["samples"] for index in stack)
        sums = {}
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            key = tuple((frames[i].get("file", ""), frames[i]["name"], frames[i].get("line", 0)) for i in stack)
            sums[key] = sums.get(key, 0) + weight
        expected = {}
        for path, cost in rr.paths(record).items():
            if cost[1 + clock]:
                key = tuple((file, rr.function_of((file, function, line))[1] + (f":{line}" if line else ""), line or 0)
                            for file, function, line in path)
                expected[key] = expected.get(key, 0) + cost[1 + clock]
        assert sums == expected
    cpu_first = json.loads(converted(made, "speedscope", "--clock", "cpu"))
    assert cpu_first["profiles"][0]["name"].endswith(" cpu")


@pytest.mark.parametrize("seed", SEEDS)
def test_pprof_has_every_path(seed, converted):
    made = rr.records(seed)
    data = readers.pprof(converted(made, "pprof"))
    assert data["types"] == [("samples", "count"), ("cpu", "nanoseconds"), ("wall", "nanoseconds")]
    assert data["default"] == "wall" and data["period"] == 10_000_000 and data["time"] > 0
    by_task = {}
    for path, values, labels in data["samples"]:
        assert labels["method"] == "GET" and labels["source"] == "shop"
        entry = by_task.setdefault(labels["task"], {}).setdefault(path, [0, 0, 0])
        for index, value in enumerate((values[0], values[2], values[1])):
            entry[index] += value
    expected = {}
    for record in made:
        paths = expected.setdefault(record["task_uuid"], {})
        for path, cost in rr.paths(record).items():
            key = tuple((printable(file), printable(rr.function_of((file, function, line))[1]), line or 0)
                        for file, function, line in path)
            entry = paths.setdefault(key, [0, 0, 0])
            for index in range(3):
                entry[index] += cost[index]
    assert by_task == {task: paths for task, paths in expected.items() if paths}
    by_cpu = readers.pprof(converted(made, "pprof", "--clock", "cpu"))
    assert by_cpu["default"] == "cpu" and by_cpu["types"][2] == ("cpu", "nanoseconds")
    assert sum(values[2] for _, values, _ in by_cpu["samples"]) == whole(made)[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_callgrind_adds_up_for_each_function(seed, converted):
    made = rr.records(seed)
    data = readers.Callgrind(converted(made, "callgrind").decode("utf-8"))
    assert data.header["events"] == ["Wall Cpu Samples"]
    hits = sum(cost[0] for record in made for cost in rr.paths(record).values())
    expected = whole(made) + [hits]
    assert data.header["summary"] == data.header["totals"] == [" ".join(map(str, expected))]
    assert [sum(cost[i] for cost in data.own.values()) for i in range(3)] == expected
    assert len(set(data.blocks)) == len(data.blocks), "a function in two pieces"
    assert len({name for _, name in data.blocks}) == len(data.blocks), "two functions of one name"
    own, total = rr.totals(made)
    shown = [(name, data.own.get(name, [0, 0, 0]), data.total.get(name, [0, 0, 0])) for name in data.blocks]
    # Names are numbered where functions share them, so compare what there is to compare: file and costs.
    have = sorted((file, cost, inclusive) for (file, _), cost, inclusive in shown)
    want = sorted((printable(file) or "(action)", turn(own.get(key, [0, 0, 0])), turn(cost))
                  for key, cost in total.items() for file in key[:1])
    assert [entry for entry in have if any(entry[2])] == [entry for entry in want if any(entry[2])]
    for caller, callee, _, _ in data.calls:
        assert caller in data.blocks and callee in data.blocks


def test_callgrind_numbers_functions_of_one_name(converted):
    """Readers take what has one name for one function."""
    children = [{"file": f"{folder}/views.py", "function": "index", "line": 1, "time": 0.25, "self_time": 0.25} for folder in "abc"]
    record = {**rr.records(0)[0], "action": {"type": "load"}, "time": 0.75, "children": children}
    data = readers.Callgrind(converted([record], "callgrind").decode())
    assert data.blocks == [("(action)", "load"), ("a/views.py", "index"), ("b/views.py", "index_2"), ("c/views.py", "index_3")]


def turn(cost):
    """hits, wall, CPU to the file's order."""
    return [cost[1], cost[2], cost[0]]


@pytest.mark.parametrize("seed", SEEDS)
def test_pstats_adds_up_for_each_function(seed, converted, tmp_path):
    made = rr.records(seed)
    own, total = rr.totals(made)
    for index, clock in enumerate(("wall", "cpu")):
        path = tmp_path / "out.pstats"
        path.write_bytes(converted(made, "pstats", "--clock", clock))
        stats = pstats.Stats(str(path))
        assert math.isclose(stats.total_tt, whole(made)[index] / 1e9, rel_tol=1e-12, abs_tol=1e-12)
        have = {(file, name): (round(tt * 1e9), round(ct * 1e9))
                for (file, _, name), (cc, nc, tt, ct, callers) in stats.stats.items()}
        want = {(printable(file) or "~", printable(name) if file else f"<{printable(name)}>"):
                (own.get((file, name), [0, 0, 0])[1 + index], cost[1 + index]) for (file, name), cost in total.items()}
        assert {key: value for key, value in have.items() if any(value)} == {k: v for k, v in want.items() if any(v)}
        have = {(caller[::2], callee[::2]): round(pair[3] * 1e9)
                for callee, row in stats.stats.items() for caller, pair in row[4].items()}
        want = calls(made, 1 + index)
        assert {pair: value for pair, value in have.items() if value} == {pair: value for pair, value in want.items() if value}
        for cc, nc, tt, ct, callers in stats.stats.values():
            assert 0 <= cc <= nc and tt <= ct + 1e-12
            if callers:
                assert math.isclose(sum(pair[2] for pair in callers.values()), tt, rel_tol=1e-9, abs_tol=1e-12)
                assert all(pair[3] <= ct + 1e-9 for pair in callers.values())
                assert sum(pair[1] for pair in callers.values()) == nc
                assert sum(pair[0] for pair in callers.values()) == cc


def calls(made, index):
    """{(caller, callee): cost of all paths on which the one calls the other}, each as pstats names it."""
    sums = {}
    for record in made:
        for path, cost in rr.paths(record).items():
            names = [(printable(file) or "~", printable(name) if file else f"<{printable(name)}>")
                     for file, name in map(rr.function_of, path)]
            for pair in set(zip(names, names[1:])):
                sums[pair] = sums.get(pair, 0) + cost[index]
    return sums


def test_pstats_keeps_names_apart_that_print_alike(converted, tmp_path):
    record = rr.records(1, 1)[0]
    node = {"file": "a.py", "line": 3, "time": 0.1, "self_time": 0.1, "cpu_time": 0.1, "self_cpu_time": 0.1, "hits": 1}
    record.update(time=0.2, self_time=0.0, cpu_time=0.2, self_cpu_time=0.0, hits=2,
                  children=[{**node, "function": "a\n"}, {**node, "function": "a\\n"}])
    path = tmp_path / "out.pstats"
    path.write_bytes(converted([record], "pstats"))
    stats = pstats.Stats(str(path))
    assert len(stats.stats) == 3 and math.isclose(stats.total_tt, 0.2)


@pytest.mark.parametrize("seed", SEEDS)
def test_chrome_events_nest_and_add_up(seed, converted):
    made = rr.records(seed)
    trace = json.loads(converted(made, "chrome"))
    assert trace["displayTimeUnit"] == "ns"
    actions, calls = readers.check_nesting(trace)
    assert len(actions) == len(made)
    for record, event in zip(made, actions, strict=True):
        assert event["name"] == rr.action_label(record) and event["args"]["task"] == record["task_uuid"]
        assert round(event["dur"] * 1000) == rr.ns(record["time"])
        assert round(event["tdur"] * 1000) == rr.ns(record["cpu_time"])
        assert "synthetic" not in event["args"]
    # Children end to end: below an action they take what it does not have itself.
    total = sum(round(event["dur"] * 1000) for event in actions)
    assert total == whole(made)[0]
    starts = [rr.moment_us(record["start_time"]) for record in made]
    assert [round(event["ts"] - actions[0]["ts"]) for event in actions] == [start - starts[0] for start in starts]
    assert all(event["args"]["synthetic"] is True for event in calls)
    messages = [event for event in trace["traceEvents"] if event["ph"] == "i"]
    assert len(messages) == sum(count_messages(record) for record in made)
    assert all(event["name"] == "shop:é" and event["args"]["moment"].endswith("Z") for event in messages)


def count_messages(node):
    return ("message" in node) + sum(count_messages(child) for child in node.get("children", ()))


def test_overlapping_actions_of_one_thread_stand_on_two_tracks(converted):
    made = rr.records(3, 2)
    for record, start, time in zip(made, (5_000_000, 6_000_000), (3.0, 3.0), strict=True):
        record.update(start_time=rr.moment(start), time=time, children=[], pid=1, thread=7)
    actions, _ = readers.check_nesting(json.loads(converted(made, "chrome")))
    assert actions[0]["tid"] != actions[1]["tid"]
    made[1]["start_time"] = rr.moment(9_000_000)
    actions, _ = readers.check_nesting(json.loads(converted(made, "chrome")))
    assert actions[0]["tid"] == actions[1]["tid"]
