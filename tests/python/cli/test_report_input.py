"""Files that are torn, foreign, hostile or huge: the report says so, stays bounded, keeps the terminal safe."""

import copy
import io
import json
import os
import tracemalloc

import pytest
import record_builder as build

from profilomatic import _report_source, report
from profilomatic._report_causes import find
from profilomatic._report_costs import Places, Walk
from profilomatic._report_model import Model, Quantiles, moment
from profilomatic._report_records import NotRecords, Reader


def one(**fields):
    return build.Script("GET", "/", "abcd", **fields).run(build.HOME, 0.05).record()


def read(data, needle=None):
    reader = Reader(io.BytesIO(data), "file", needle)
    return list(reader), reader


def test_torn_last_line_is_told_and_the_rest_shown(tmp_path, show):
    path = tmp_path / "torn.jsonl"
    path.write_text(json.dumps(one()) + "\n" + json.dumps(one())[:200])
    status, out, _ = show(path, "--no-source")
    assert status == 0
    assert out.startswith("1 action ")
    assert "the last line is torn" in out


def test_an_overhead_that_was_not_measured_yet_is_not_called_none(tmp_path, show):
    """The share of the process is known after its first window; records of before say 0, and what they cost."""
    early, later = (build.Script("GET", "/", "abcd").run(build.HOME, 0.05).record(overhead=share) for share in (0, 0.004))
    path = build.write(tmp_path / "early.jsonl", [early])
    _, out, _ = show(path, "--no-source")
    assert " · overhead 100 µs CPU for these actions" in out and "0.00%" not in out
    path.write_text(json.dumps(early) + "\n" + json.dumps(later) + "\n")
    _, out, _ = show(path, "--no-source")
    assert " · overhead 0.40%, 200 µs CPU for these actions" in out


def test_last_line_without_newline_counts_when_it_is_whole():
    records, reader = read(json.dumps(one()).encode() + b"\n" + json.dumps(one()).encode())
    assert (len(records), reader.torn, reader.bad) == (2, 0, 0)


def test_bad_lines_are_counted_and_the_first_is_named(tmp_path, show):
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(one())}\n\nnonsense\n[]\n{json.dumps(one())}\n")
    status, out, _ = show(path, "--no-source")
    assert status == 0
    assert "2 lines not read (first: line 3)" in out
    assert json.loads(show(path, "--json")[1])["input"] == {
        "name": str(path), "lines": 5, "records": 2, "bad": 2, "first_bad": 3, "torn": 0, "too_long": 0, "lost": {}}


@pytest.mark.parametrize(
    "data,words",
    [
        (b"time,path\n1,/\n", "not JSON"),
        (b'{\n "task_uuid": "x",\n "time": 1\n}\n', "jq -c ."),
        (b'[{"task_uuid": "x", "time": 1, "children": []}]\n', "jq -c '.[]'"),
        (b"\x1f\x8b\x08\x00\x00\x00", "gunzip"),
        (b"\x93POM\x00\x01\xff\xfe", "binary data"),
        (b'{"task_uuid": "x", "task_level": [1], "action_type": "a", "timestamp": 1}\n', "Eliot log"),
        (b"# callgrind format\nversion: 1\n", "kcachegrind"),
        (b'{"name": "value"}\n', "without the keys of a profile record"),
        (b"\xff\xfe{}\n", "binary data"),
        (b'{"task_uuid": "x", "ti', "cut or malformed"),
    ],
)
def test_foreign_file_is_one_clear_error(tmp_path, show, data, words):
    path = tmp_path / "foreign"
    path.write_bytes(data)
    status, out, err = show(path)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert f"{path}, line 1: " in err
    assert words in err


def test_an_empty_task_id_is_wrong_use_and_not_every_task(tmp_path, show, capsys):
    """As of a shell variable that is not set."""
    with pytest.raises(SystemExit) as stop:
        show(build.write(tmp_path / "day.jsonl", build.shop_day()), "--task", "")
    assert stop.value.code == 2 and "an empty text; give a task id" in capsys.readouterr().err


def test_reading_a_big_foreign_file_stops_early():
    stream = io.BytesIO(b"no record\n" * 100_000)
    with pytest.raises(NotRecords):
        list(Reader(stream, "x"))
    assert stream.tell() < 10_000


def test_a_file_of_records_is_read_to_its_end_whatever_else_is_in_it():
    line = json.dumps(one()).encode() + b"\n"
    records, reader = read(line + b"no record\n" * 1000 + line)
    assert (len(records), reader.bad, reader.first_bad) == (2, 1000, 2)


def test_empty_and_absent_files(tmp_path, show):
    (tmp_path / "empty").write_bytes(b"")
    status, _, err = show(tmp_path / "empty")
    assert status == 1
    assert "no record yet" in err and "profilomatic check" in err
    status, _, err = show(tmp_path / "absent")
    assert status == 2
    assert "No such file" in err
    assert show(tmp_path)[0] == 2


@pytest.mark.parametrize("arguments", [[], ["--task", "abcd"]])
@pytest.mark.parametrize(
    "time,missed,words",
    [
        (0.003, {}, "the action was shorter than the period"),
        (1.0, {"too_deep": 22, "torn": 1}, "all that were wanted were missed: 22 too_deep, 1 torn"),
        (1.0, {}, "none was taken, though an action lasted longer than the period"),
    ],
)
def test_without_a_sample_the_reason_is_told(tmp_path, show, time, missed, words, arguments):
    record = {**one(), "time": time, "self_time": time, "hits": 0, "children": []}
    record["profiler"] = {**record["profiler"], "samples": 0, "missed": missed}
    assert f"\n  no sample: {words}" in show(build.write(tmp_path / "none", [record]), *arguments)[1]


def test_parts_of_an_action_that_goes_on_are_shown_before_it_ends(tmp_path, show):
    file = build.write(tmp_path / "stream", [one(outcome="open", part=number) for number in (1, 2)])
    status, out, err = show(file)
    assert (status, err) == (0, "")
    assert out.startswith("0 actions in ") and "! no action has ended yet: these are parts of actions that go on\n" in out
    assert "100%" in out[out.index("HOTTEST LINES") :] and "ROUTES" not in out and "SLOWEST" not in out
    assert json.loads(show(file, "--json")[1])["hottest_lines"]
    unseen = {**one(outcome="open", part=1), "hits": 0, "children": []}
    status, out, err = show(build.write(tmp_path / "unseen", [unseen]))
    assert (status, err) == (0, "") and "\n  no sample: of actions that were still open there is none yet; " in out
    assert "IN SHORT" not in out
    assert "no action has ended" not in show(build.write(tmp_path / "both", [one(outcome="open", part=1), one()]))[1]


def test_wrong_options_are_refused(show):
    for arguments in (["x", "--top", "0"], ["x", "--top", "many"], ["x", "--by", "colour"], []):
        with pytest.raises(SystemExit) as exit:
            show(*arguments)
        assert exit.value.code == 2
    assert show("x", "--source-root", "/no/such/folder")[0] == 2


def test_records_of_the_original_system_are_read(tmp_path, show):
    """No hits, no CPU, no action, no profiler: the type stands in the first message."""
    record = {
        "task_uuid": "old",
        "thread": 1,
        "source": "host",
        "time": 0.3,
        "self_time": 0.1,
        "start_time": "2026-03-01T09:30:00",
        "end_time": "2026-03-01T09:30:00.300000",
        "children": [
            {
                "instruction": "/srv/app/a.py:f:3",
                "time": 0,
                "self_time": 0,
                "start_time": "2026-03-01T09:30:00",
                "end_time": "2026-03-01T09:30:00",
                "message": {"action_type": "old:action", "action_status": "started"},
            },
            {
                "instruction": "/srv/app/a.py:f:4",
                "time": 0.2,
                "self_time": 0.2,
                "start_time": "2026-03-01T09:30:00",
                "end_time": "2026-03-01T09:30:00.2",
            },
        ],
    }
    path = build.write(tmp_path / "old.jsonl", [record])
    status, out, _ = show(path, "--no-source")
    assert status == 0
    assert "a.py:4 f" in out and "old:action" in out
    assert "CPU" not in out[out.index("HOTTEST") : out.index("ROUTES")]
    assert out.splitlines()[0] == "1 action in 300 ms, from 2026-03-01 09:30:00 to 09:30:00 UTC · host"
    del record["end_time"]
    assert show(build.write(path, [record]), "--no-source")[1] == out
    status, out, _ = show(path, "--task", "old", "--no-source")
    assert "◆ old:action started  at app/a.py:3" in out


@pytest.mark.parametrize(
    "text,place",
    [
        ("/srv/a.py:f:3", ("/srv/a.py", "f", 3)),
        ("/srv/a.py:f", ("/srv/a.py", "f", None)),
        ("/srv/a.py:f²", ("/srv/a.py", "f²", None)),
        ("/srv/a.py:²", ("/srv/a.py", "²", None)),
        ("/srv/a.py", ("/srv/a.py", "", None)),
        ("C:\\srv\\a.py:Class.f:3", ("C:\\srv\\a.py", "Class.f", 3)),
        ("C:\\srv\\a.py", ("C:\\srv\\a.py", "", None)),
    ],
)
def test_instructions_are_taken_apart(text, place):
    found = Places(lambda file: False).of({"instruction": text})
    assert (found.file, found.function, found.line) == place


ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n\u202eevil\u2028\x00"


def poisoned():
    record = (
        build.Script("GET", "/" + ESCAPE, "abcd" + ESCAPE)
        .run([(f"/srv/{ESCAPE}.py", ESCAPE, 3)], 0.05)
        .message(ESCAPE, **{ESCAPE: ESCAPE})
        .record(engine=ESCAPE, source=ESCAPE)
    )
    record["thread_name"] = ESCAPE
    record["action"].update(outcome=ESCAPE, host=ESCAPE, **{ESCAPE: {ESCAPE: ESCAPE}})
    record["profiler"]["truncated"] = {ESCAPE: 3}
    return record


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--task", "abcd"],
        ["--bottom-up"],
        ["--json"],
        ["--json", "--task", "abcd"],
        ["--task", "abcd", "--color", "always"],
    ],
)
def test_no_control_character_reaches_the_terminal(tmp_path, show, arguments):
    source = tmp_path / "srv"
    source.mkdir()
    path = build.write(tmp_path / "evil.jsonl", [poisoned()])
    status, out, err = show(path, *arguments, "--source-root", source)
    assert status == 0
    lines = out.split("\n")
    if "always" in arguments:
        import re

        lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()]
    assert err == ""


def test_source_lines_are_cleaned_too(tmp_path, show):
    folder = tmp_path / "app" / "shop"
    folder.mkdir(parents=True)
    (folder / "views.py").write_bytes(b"\n" * 19 + b"x = '\x1b[2J' # \xff\n")
    _, out, _ = show(build.write(tmp_path / "f", [one()]), "--source-root", tmp_path)
    assert "x = '\ufffd[2J' # \ufffd" in out


def nested(depth):
    node = {"file": "/a.py", "function": "f", "line": 1, "time": 1, "self_time": 1, "hits": 1}
    for _ in range(depth):
        node = {
            "file": "/a.py",
            "function": "f",
            "line": 1,
            "time": 1,
            "self_time": 0,
            "hits": 1,
            "children": [node],
        }
    return node


@pytest.mark.parametrize(
    "change",
    [
        {"time": float("nan")},
        {"time": -1},
        {"time": "1"},
        {"time": 1e308},
        {"time": None},
        {"cpu_time": []},
        {"hits": 10**30},
        {"hits": -5},
        {"hits": 1.5},
        {"profiler": None},
        {"profiler": {"period": "x"}},
        {"profiler": {"period": 0.01, "missed": [], "truncated": "x", "overhead": 3, "samples": -1, "shed": -4}},
        {"action": []},
        {"action": {"route": 5, "method": ["x"], "status": "200 OK"}},
        {"action": {"status": 10**9}},
        {"children": [None, 1, "x", [], {}]},
        {"children": [{"message": "text"}, {"message": 5, "children": [{"message": []}]}]},
        {
            "children": [
                {"file": 5, "instruction": 7},
                {"file": "/a", "line": "x", "hits": 3},
                {"instruction": ":::"},
            ]
        },
        {"children": [nested(200)]},
        {"start_time": 5, "end_time": "yesterday"},
        {"end_time": "9999-12-31T23:59:59.999999Z"},
        {"start_time": "9999-12-31T23:59:59Z", "end_time": None, "time": 100.0},
        {"start_time": "0001-01-01T00:00:00+14:00"},
        {"pid": "x", "source": {}, "thread": None},
    ],
)
@pytest.mark.parametrize(
    "arguments", [[], ["--task", "abcd"], ["--bottom-up", "--json"], ["--task", "abcd", "--json"]]
)
def test_odd_values_do_no_harm(tmp_path, show, change, arguments):
    record = {**one(), **change}
    status, out, err = show(build.write(tmp_path / "odd", [record, one()]), *arguments)
    assert status == 0
    assert err == ""
    if "--json" in arguments:
        json.loads(out)


def test_numbers_that_json_does_not_have_are_none(tmp_path, show):
    """Other writers have them, and readers of what --json prints do not."""
    record = one(ratio=float("nan"), limits=[float("inf"), -float("inf")])
    out = show(build.write(tmp_path / "nan", [record]), "--task", "abcd", "--json")[1]
    fields = json.loads(out, parse_constant=pytest.fail)["tasks"][0]["fields"]
    assert (fields["ratio"], fields["limits"]) == (None, [None, None])


def test_nesting_beyond_the_parser_is_a_bad_line():
    deep = b'{"task_uuid": "x", "time": 1, "children": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    records, reader = read(json.dumps(one()).encode() + b"\n" + deep)
    assert (len(records), reader.bad) == (1, 1)


def test_json_leaves_out_what_is_nested_deeper_than_its_readers_bear(tmp_path, show):
    record = {**one(), "children": [nested(200)]}
    node = json.loads(show(build.write(tmp_path / "deep", [record]), "--task", "abcd", "--json")[1])["tasks"][0]["call_graph"]
    depth = 0
    while "children" in node:
        (node,) = node["children"]
        depth += 1
    assert depth == 120 and node["deeper_nodes_left_out"] is True


def test_a_named_pipe_or_device_is_not_read_as_source(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.py")
    sources = _report_source.Sources()
    assert sources.line(str(tmp_path / "pipe.py"), 1) == ""
    assert sources.line("/dev/zero", 1) == ""
    assert sources.line("/a\x00b", 1) == ""


class Endless(io.RawIOBase):
    """So many bytes of the shop's records, made while they are read."""

    def __init__(self, size):
        self.lines = [json.dumps(record).encode() + b"\n" for record in build.shop_day(60)]
        self.size, self.at = size, 0

    def readline(self, limit=-1):
        if self.size <= 0:
            return b""
        line = self.lines[self.at % len(self.lines)]
        self.at += 1
        self.size -= len(line)
        return line


@pytest.mark.oldest_and_newest
def test_memory_does_not_grow_with_the_file():
    def peak(size):
        places = Places(lambda file: False)
        model = Model(places)
        tracemalloc.start()
        try:
            for record in Reader(Endless(size), "x"):
                model.add(record)
            find(model.groups.values())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(6 << 20) < peak(2 << 20) + (256 << 10)


def test_distinct_names_are_capped(monkeypatch):
    from profilomatic import _report_costs, _report_model

    monkeypatch.setattr(_report_costs, "MAX_PLACES", 100)
    monkeypatch.setattr(_report_model, "_MAX_GROUPS", 50)
    model = Model(Places(lambda file: False))
    for i in range(500):
        model.add(build.Script("GET", f"/{i}", str(i)).run([(f"/{i}.py", "f", 1)], 0.05).record())
    assert len(model.lines) == 101
    assert len(model.groups) == 51
    assert model.groups["(other)"].times.count == 450
    assert sum(line.hits for line in model.lines.values()) == 500 * 5


def test_a_line_too_long_is_skipped_whole(monkeypatch):
    from profilomatic import _report_records

    monkeypatch.setattr(_report_records, "MAX_LINE", 10_000)
    good = json.dumps(one()).encode() + b"\n"
    records, reader = read(good + b'{"x": "' + b"y" * 50_000 + b'"}\n' + good)
    assert (len(records), reader.too_long, reader.bad) == (2, 1, 0)


def test_quantiles_are_exact_when_few_and_close_when_many():
    few, many = Quantiles(), Quantiles()
    for i in range(1, 101):
        few.add(i / 100)
    for i in range(1, 100_001):
        many.add(i / 1000)
    assert (few.at(0.5), few.at(0.95), few.at(1.0)) == (0.5, 0.95, 1.0)
    for share in (0.01, 0.5, 0.95, 0.99):
        assert many.at(share) == pytest.approx(100 * share, rel=0.006)
    assert many.at(1.0) == pytest.approx(100, rel=0.006)
    assert many.max == 100
    assert Quantiles().at(0.5) == 0


def test_self_hits_come_from_totals():
    """hits of a node counts samples in and below it; charged are only those that no child has."""
    record = one()
    record["hits"] = 12
    record["children"] = [
        {
            "file": "/a.py",
            "function": "f",
            "line": 1,
            "hits": 10,
            "time": 0.1,
            "self_time": 0.03,
            "children": [
                {"file": "/b.py", "function": "g", "line": 2, "hits": 7, "time": 0.07, "self_time": 0.07}
            ],
        }
    ]
    costs = {
        place.function: cost.hits for place, cost in Walk(Places(lambda file: False)).costs(record).items()
    }
    assert costs == {"f": 3, "g": 7, "": 2}


@pytest.mark.parametrize("spacing,time", [(0.010, 0.9), (0.011, 0.82), (0.030, 0.9)])
def test_late_samples_are_believed_by_their_weights(spacing, time):
    """Samples 30 ms apart under a period of 10 ms: 30 hits stand for 0.9 s and not 0.3 s. 11 ms may be chance."""
    record = build.Script("GET", "/", "late").run(build.HOME, 0.9).record(period=spacing, phase=spacing / 2)
    record["profiler"]["period"] = 0.010
    (cost,) = Walk(Places(lambda file: False)).costs(record).values()
    assert cost.wall == pytest.approx(time, rel=0.01)


def wall_by_function(record):
    return {place.function: cost.wall for place, cost in Walk(Places(lambda file: False)).costs(record).items()}


def test_lines_keep_their_shares_while_the_period_grows():
    """0.2 s looked at every 10 ms and 0.6 s every 50 ms: 20 samples and 12."""
    script = build.Script("GET", "/", "grew").run([build.frame("/a.py", "early", 1)], 0.2).run([build.frame("/a.py", "late", 2)], 0.6)
    record = script.record(later=(0.195, 0.050))
    assert record["hits"] == 32 and record["profiler"]["period"] == pytest.approx(0.0263, rel=0.01)
    assert wall_by_function(record) == {"early": pytest.approx(0.2, rel=0.05), "late": pytest.approx(0.6, rel=0.07)}


def test_an_action_of_short_stretches_is_told_by_its_hits():
    """What was attached for 1 or 3 ms at a time has samples of 0.5 and 1.5 ms, and each stands for 10 ms of such stretches."""
    script = build.Script("GET", "/", "chunks").run([build.frame("/a.py", "short", 1)], 0.1).run([build.frame("/a.py", "longer", 2)], 0.1)
    record = script.record()
    for node, share in zip(record["children"], (0.05, 0.15)):
        node["self_time"] *= share
    record.update(time=10.0, self_time=10.0 - 0.02)
    assert wall_by_function(record) == {"short": pytest.approx(0.1), "longer": pytest.approx(0.1)}


def cause_of(records, by="route"):
    model = Model(Places(lambda file: False), by)
    for record in records:
        model.add(record)
    return find(model.groups.values())


def many(route, slow_every, count=400, slow=0.5, line=build.VOUCHER, base=0.03):
    for i in range(count):
        script = build.Script("GET", route, f"{i:08x}").run(build.PRICE, base)
        if slow_every and i % slow_every == slow_every - 1:
            script.run(line, slow)
        yield script.record(phase=(i % 10 + 0.5) / 1000)


def test_cause_is_found_when_one_request_in_eight_hundred_is_slow():
    """Three of 2 400 take 0.25 s more: over the slowest 120 that is 6 ms on 30 ms, and only a narrower look finds it."""
    causes = cause_of(many("/cart", 800, count=2400, slow=0.25))
    assert [(c.place.line, c.hit, c.rest_line) for c in causes] == [(44, 3, 0.0)]
    assert causes[0].slow < 120
    assert causes[0].hit_line == pytest.approx(0.25, rel=0.03)
    assert causes[0].explained > 0.95


def test_slowest_actions_kept_of_a_route_are_the_slowest_and_capped():
    model = Model(Places(lambda file: False))
    for i in range(400):
        model.add(build.Script("GET", "/", str(i)).run(build.HOME, 0.001 * (400 - i * 7 % 400)).record())
    (group,) = model.groups.values()
    assert sorted(round(entry[0] * 1000) for entry in group.slow) == list(range(273, 401))


def test_cause_names_the_route_that_lost_most_time_first():
    causes = cause_of([*many("/a", 50), *many("/b", 10), *many("/c", 0)])
    assert [c.group.name for c in causes] == ["GET /b", "GET /a"]


def test_no_cause_without_a_difference_or_with_few_actions():
    assert cause_of(many("/cart", 0)) == []
    assert cause_of(many("/cart", 3, count=9)) == []


def test_cause_is_found_among_sixteen_actions():
    causes = cause_of(many("/search", 4, count=16))
    assert [(c.place.line, c.slow, c.hit) for c in causes] == [(44, 3, 3)]


def test_cause_explains_the_part_of_the_difference_that_its_line_took():
    """Of 0.5 s more, 0.3 s are the line's and 0.2 s another's."""
    records = []
    for i in range(100):
        script = build.Script("GET", "/cart", f"{i:08x}").run(build.PRICE, 0.03)
        if i % 20 == 0:
            script.run(build.VOUCHER, 0.3).run(build.QUERY, 0.2)
        records.append(script.record())
    (cause,) = cause_of(records)
    assert (cause.place.line, cause.explained) == (44, pytest.approx(0.6))


def test_no_line_is_a_cause_that_explains_too_little():
    """Ten lines have a tenth of the difference each."""
    records = []
    for i in range(100):
        script = build.Script("GET", "/cart", f"{i:08x}").run(build.PRICE, 0.03)
        for line in range(10 if i % 20 == 0 else 0):
            script.run([build.own("shop/cart.py", "step", line + 1)], 0.1)
        records.append(script.record())
    assert cause_of(records) == []


def test_cause_needs_three_samples_of_its_line():
    """Each slow one has one: every 0.4 s, and not in the first 0.2 s."""
    for slow_every, lines in ((50, []), (33, [44])):
        scripts = (build.Script("GET", "/cart", f"{i:08x}").run(build.PRICE, 0.03) for i in range(100))
        records = [(script if i % slow_every else script.run(build.VOUCHER, 0.4)) for i, script in enumerate(scripts, 1)]
        assert [c.place.line for c in cause_of([script.record(period=0.4, phase=0.2) for script in records])] == lines


def test_cause_is_found_where_no_samples_are_counted():
    """Records of the original system have times alone."""
    records = []
    for i in range(100):
        children = [{"instruction": "/srv/app/shop/pricing.py:price:52", "time": 0.03, "self_time": 0.03}]
        if i % 20 == 0:
            children.append({"instruction": "/srv/app/shop/pricing.py:check_voucher:44", "time": 0.5, "self_time": 0.5})
        whole = sum(child["time"] for child in children)
        records.append({"task_uuid": f"{i:08x}", "time": whole, "self_time": 0.0, "children": children})
    assert [c.place.line for c in cause_of(records)] == [44]


def test_cause_says_waiting_apart():
    records = [
        build.Script("GET", "/w", f"{i}")
        .run(build.PRICE, 0.02)
        .run(build.QUERY, 0.3 if i % 30 == 0 else 0.001, cpu=0.0)
        .record(phase=(i % 10 + 0.5) / 1000)
        for i in range(120)
    ]
    causes = cause_of(records)
    assert causes[0].place.line == 7
    assert causes[0].waiting > 0.9


@pytest.mark.parametrize(
    "text,seconds",
    [
        ("1970-01-01T00:00:01.500000Z", 1.5),
        ("1970-01-01T00:00:01+00:00", 1.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:02", 2.0),
        ("tomorrow", None),
        (5, None),
        ("1" * 100, None),
    ],
)
def test_moments(text, seconds):
    assert moment(text) == seconds


@pytest.mark.parametrize(
    "file,name",
    [
        ("/usr/lib/python3.12/json/encoder.py", "json/encoder.py"),
        ("/srv/venv/lib/python3.11/site-packages/flask/app.py", "flask/app.py"),
        ("/usr/lib/python3/dist-packages/jinja2/x.py", "jinja2/x.py"),
        ("C:\\Python312\\Lib\\json\\encoder.py", "json/encoder.py"),
        ("C:\\venv\\Lib\\site-packages\\flask\\app.py", "flask/app.py"),
        ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
        ("/src/bindings/profilomatic/run_profiled.py", "profilomatic/run_profiled.py"),
        ("/srv/app/shop/cart.py", None),
        ("C:\\Users\\me\\Programs\\Python\\Python312\\Lib\\json\\encoder.py", "json/encoder.py"),
        ("/usr/lib/python312.zip/json/encoder.py", "json/encoder.py"),
        ("/srv/lib/cart.py", None),
        ("/srv/shop/python/lib/cart.py", None),
        ("cart.py", None),
    ],
)
def test_library_code_is_known_by_its_path(file, name):
    assert _report_source.name_of_library_file(file) == name


def test_paths_are_shown_below_their_common_folder():
    shortener = _report_source.Shortener(
        ["/srv/app/shop/cart.py", "/srv/app/shop/db/sql.py", "/usr/lib/python3.12/os.py"]
    )
    assert shortener.root == "/srv/app"
    assert shortener.show("/srv/app/shop/db/sql.py") == "shop/db/sql.py"
    assert shortener.show("/other/x.py") == "/other/x.py"
    assert _report_source.Shortener(["/a.py", "/srv/b.py"]).show("/srv/b.py") == "/srv/b.py"
    assert _report_source.Shortener(["/srv/app/api/a.py", "/srv/app/shop/b.py"]).show("/srv/app/shop/b.py") == "app/shop/b.py"
    assert _report_source.Shortener(["/opt/jobs/a.py", "/srv/shop/b.py"]).show("/opt/jobs/a.py") == "/opt/jobs/a.py"


def test_source_is_found_below_a_root_in_archives_and_in_odd_encodings(tmp_path):
    import zipfile

    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "cart.py").write_bytes(
        "# coding: latin-1\ntotal = 'é'\r\nnext\r\n".encode("latin-1")
    )
    sources = _report_source.Sources(str(tmp_path))
    assert sources.line("/srv/app/shop/cart.py", 2) == "total = 'é'"
    assert sources.line("/srv/app/shop/cart.py", 99) == ""
    assert sources.line("/srv/../../shop/cart.py", 3) == "next"
    assert _report_source.Sources(str(tmp_path), enabled=False).line("/srv/app/shop/cart.py", 2) == ""
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("pkg/mod.py", "first\nsecond\n")
        archive.writestr("pkg/old.py", "# coding: latin-1\ntotal = 'é'\n".encode("latin-1"))
    assert _report_source.Sources().line(str(tmp_path / "app.zip" / "pkg" / "mod.py"), 2) == "second"
    assert _report_source.Sources().line(str(tmp_path / "app.zip" / "pkg" / "old.py"), 2) == "total = 'é'"


def test_what_is_no_archive_or_a_bad_one_has_no_text(tmp_path):
    import zipfile

    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "other.egg").write_text("no archive")
    os.mkfifo(tmp_path / "pipe.zip")
    with zipfile.ZipFile(tmp_path / "large.pyz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mod.py", b"\n" * (_report_source._MAX_FILE + 1))
    with zipfile.ZipFile(tmp_path / "broken.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mod.py", "first\n" * 10)
    data = bytearray((tmp_path / "broken.whl").read_bytes())
    data[36] ^= 0xFF  # the member's first byte
    (tmp_path / "broken.whl").write_bytes(data)
    for name in ("absent.zip", "folder.zip", "other.egg", "pipe.zip", "large.pyz", "broken.whl"):
        assert _report_source.Sources().line(str(tmp_path / name / "mod.py"), 1) == "", name


def test_a_report_does_not_change_the_records():
    record = one()
    before = copy.deepcopy(record)
    Model(Places(lambda file: False)).add(record)
    assert record == before


def test_the_parser_offers_what_the_documentation_says():
    options = report.make_parser().parse_args(["f"])
    assert (options.top, options.by, options.sort, options.color) == (None, "route", "time", "auto")
