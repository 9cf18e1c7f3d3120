"""A file in the wire form holds the same records as a file of JSON lines, and convert and report read it."""

import datetime
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from pom_support import burn_until_sampled

import profilomatic
from profilomatic import _wire

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
WIRE = pathlib.Path(__file__).resolve().parents[2] / "data" / "wire"


def work():
    return sum(i * i for i in range(20000))


@pytest.fixture
def both(tmp_path):
    """The same profiles in both forms."""
    from profilomatic import _backend

    if _backend.load().NAME != "c":
        pytest.skip("the wire form needs the extension")
    lines, wire = tmp_path / "profiles.jsonl", tmp_path / "profiles.pom"
    destinations = [profilomatic.file_destination(lines), profilomatic.file_destination(wire, format="msgpack")]
    for each in destinations:
        profilomatic.add_destination(each)
    for number in range(5):
        with profilomatic.action("wire", number=number, text="naïve \u2603") as a:
            work()
            a.message(step=number)
            burn_until_sampled(1, work)
    assert profilomatic.flush(60)
    for each in destinations:
        profilomatic.remove_destination(each)
    return lines, wire


def records_of(path):
    """Of a file in the wire form; how many batches it has is the clock's matter."""
    from profilomatic import _core

    data, records = path.read_bytes(), []
    while data:
        end = 12 + int.from_bytes(data[8:12], "big")
        records += _core.read_wire(data[:end])
        data = data[end:]
    return records


def assert_same(found, expected):
    """Times may differ by what the wire form rounds, a microsecond, and moments likewise."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0, abs=1.01e-6)
    elif isinstance(expected, str) and MOMENT.fullmatch(expected):
        between = datetime.datetime.fromisoformat(found) - datetime.datetime.fromisoformat(expected)
        assert abs(between.total_seconds()) <= 1.01e-6
    else:
        assert found == expected


def test_both_forms_hold_the_same_records(both):
    lines, wire = both
    expected = [json.loads(line) for line in lines.read_text().splitlines()]
    assert_same(records_of(wire), expected)


def command(*arguments, stdin=None):
    return subprocess.run([sys.executable, "-m", "profilomatic", *map(str, arguments)], capture_output=True, input=stdin)


def test_convert_reads_the_wire_form(both):
    _, wire = both
    done = command("convert", wire, "--to", "collapsed")
    assert done.returncode == 0, done.stderr
    assert b"wire" in done.stdout  # the actions; whether a sample met work() is chance


@pytest.mark.parametrize("options", [(), ("--json",), ("--bottom-up", "--json"), ("--task",)])
def test_report_says_the_same_of_both_forms(both, tmp_path, options):
    _, wire = both
    lines = tmp_path / "same.jsonl"  # the very same, without what the wire form has rounded
    lines.write_text("".join(json.dumps(record) + "\n" for record in records_of(wire)))
    if options == ("--task",):
        options += (json.loads(lines.read_text().splitlines()[0])["task_uuid"],)
    said = []
    for path in (lines, wire):
        done = command("report", path, *options)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.replace(str(path).encode(), b"FILE"))
    if "--json" in options:
        said = [json.loads(text) for text in said]
        for data in said:
            assert data.pop("input")["records"] == 5
    assert said[0] == said[1]
    assert command("report", "-", stdin=wire.read_bytes()).returncode == 0


def test_report_passes_over_damaged_batches_and_says_so(both, tmp_path):
    _, wire = both
    batch = (WIRE / "batch.msgpack").read_bytes()
    damaged = tmp_path / "damaged"
    damaged.write_bytes(batch + b"garbage" + batch + batch[:-1])
    done = command("report", damaged)
    assert done.returncode == 0 and b"8 actions" in done.stdout
    assert b"! 1 batch not read (first: batch 2)" in done.stdout
    assert b"! the last batch is torn" in done.stdout
    (tmp_path / "empty").write_bytes((WIRE / "empty.msgpack").read_bytes())
    done = command("report", tmp_path / "empty")
    assert done.returncode == 1 and b"has no record yet" in done.stderr


def test_a_pipe_may_give_the_first_bytes_one_by_one(monkeypatch):
    class Pipe(io.RawIOBase):
        data = (WIRE / "batch.msgpack").read_bytes()

        def readable(self):
            return True

        def readinto(self, room):
            room[:1], self.data = self.data[:1], self.data[1:]
            return 1

    monkeypatch.setattr(_wire, "_decoder", lambda: None)
    assert isinstance(_wire.open_reader(io.BufferedReader(Pipe()), "standard input"), _wire.Reader)


@pytest.mark.parametrize("kept", [1, 6, 8, 9, 11, 12, 13, 40])
def test_a_batch_that_the_end_of_the_file_cuts_is_torn(kept):
    """Inside the twelve bytes that tell its length, too."""
    batch = (WIRE / "batch.msgpack").read_bytes()
    reader = _wire.Reader(io.BytesIO(batch + batch[:kept]), "x", decode=lambda batch: [{}])
    assert (len(list(reader)), reader.bad, reader.torn) == (1, 0, 1)


@pytest.mark.acceptance("PM9")
@pytest.mark.parametrize("form", ["jsonl", "msgpack"])
def test_report_tells_what_was_not_profiled(both, form):
    done = command("report", WIRE / ("shed." + form))
    assert done.returncode == 0, done.stderr
    assert b"! 16 actions began, 14 not profiled" in done.stdout


@pytest.mark.parametrize("form", ["jsonl", "msgpack"])
def test_report_tells_what_never_arrived(both, tmp_path, form):
    """Of two reports of one client the newer counts; neither is an action."""
    report = (WIRE / ("report." + form)).read_bytes()
    older = report.replace(b"12:21:30", b"12:20:30").replace(b'"queue_full":40', b'"queue_full":4')
    path = tmp_path / "collected"
    path.write_bytes(report + (WIRE / ("batch." + form)).read_bytes() + older)
    done = command("report", path)
    assert done.returncode == 0, done.stderr
    assert b"4 actions" in done.stdout
    assert b"! 43 call graphs never arrived at the server: 40 queue_full, 3 rejected" in done.stdout
    done = command("report", path, "--json")
    assert json.loads(done.stdout)["input"]["lost"] == {"queue_full": 40, "rejected": 3}
    if form == "msgpack":
        from profilomatic import _core

        assert _core.read_wire(report) == [json.loads((WIRE / "report.jsonl").read_bytes())]


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("arguments", [("convert", "--to", "collapsed"), ("convert", "--to", "pprof"), ("report",)], ids=" ".join)
def test_memory_stays_flat_over_a_wire_file(arguments, tmp_path, backend):
    """Ten times the batches, the same memory: one of them is held at a time."""
    if backend != "c":
        pytest.skip("the wire form needs the extension")
    batch = (WIRE / "batch.msgpack").read_bytes()
    peaks = []
    for count in (300, 3000):
        path = tmp_path / str(count)
        path.write_bytes(batch * count)
        code = ("import os, re, sys; from profilomatic.__main__ import main; sys.stdout = open(os.devnull, 'w'); "
                "status = main(sys.argv[1:]); print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)")
        command, *options = arguments
        options += ["-o", os.devnull] if command == "convert" else []
        done = subprocess.run([sys.executable, "-c", code, command, str(path), *options], capture_output=True, text=True)
        peaks.append(int(done.stderr.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 2048, peaks  # KiB


def test_report_without_the_extension_says_so(monkeypatch, capsys):
    from profilomatic import report

    monkeypatch.setitem(sys.modules, "profilomatic._core", None)
    assert report.main([str(WIRE / "batch.msgpack")]) == 2
    assert "MessagePack form" in capsys.readouterr().err


def test_what_is_no_batch_is_a_value_error():
    _core = pytest.importorskip("profilomatic._core")
    for data in (b"", b"{}", b"POM\x01" + b"\xff" * 40, bytes(range(256))):
        with pytest.raises(ValueError):
            _core.read_wire(data)


def test_a_wrong_format_is_named(tmp_path):
    with pytest.raises(ValueError, match="xml"):
        profilomatic.file_destination(tmp_path / "x", format="xml")
