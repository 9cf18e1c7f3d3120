"""`profilomatic convert`: which input, which output, which exit status; flat memory."""

import gzip
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
import random_records as rr
from pom_support import package_environment

from profilomatic import _formats, _wire, convert

WIRE = pathlib.Path(__file__).resolve().parents[2] / "data" / "wire"


@pytest.fixture
def lines(tmp_path):
    return rr.write(tmp_path / "profiles.jsonl", rr.records(1))


def command(*arguments, **options):
    import profilomatic

    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(profilomatic.__file__).parent.parent))
    return subprocess.run([sys.executable, "-m", "profilomatic", "convert", *map(str, arguments)], env=environment,
                          capture_output=True, timeout=300, **options)


def test_convert_is_a_command(lines):
    done = command(lines, "--to", "collapsed")
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.count(b"\n") > 3
    assert command("-", "--to", "collapsed", input=lines.read_bytes()).stdout == done.stdout
    told = command("--help")
    assert all(name.encode() in told.stdout for name in _formats.FORMATS)


@pytest.mark.parametrize("form", _formats.FORMATS)
def test_output_is_the_same_in_a_file(form, lines, tmp_path):
    out = io.BytesIO()
    assert convert.main([str(lines), "--to", form], out) == 0
    target = tmp_path / "out"
    assert convert.main([str(lines), "--to", form, "-o", str(target)]) == 0
    assert target.read_bytes() == out.getvalue() != b""
    assert target.stat().st_mode & 0o777 == lines.stat().st_mode & 0o777
    assert sorted(os.listdir(tmp_path)) == ["out", "profiles.jsonl"]


def test_an_output_that_cannot_be_made_is_named(lines, tmp_path, capsys):
    target = tmp_path / "absent" / "out"
    assert convert.main([str(lines), "--to", "chrome", "-o", str(target)]) == 2
    assert capsys.readouterr().err == f"profilomatic convert: {target}: No such file or directory\n"


def test_one_task_alone(lines):
    task = json.loads(lines.read_text().split("\n")[2])["task_uuid"]
    out = io.BytesIO()
    assert convert.main([str(lines), "--to", "chrome", "--task", task[:12].upper()], out) == 0
    actions = [e for e in json.loads(out.getvalue())["traceEvents"] if e.get("cat") == "action"]
    assert [event["args"]["task"] for event in actions] == [task]


def test_a_task_that_is_not_there_is_status_1(lines, capsys, tmp_path):
    assert convert.main([str(lines), "--to", "pprof", "--task", "ffffffffffff", "-o", str(tmp_path / "out")]) == 1
    assert "no action with a task id" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content, status, word", [
    (b"", 1, "no record yet"),
    (b"hello\n", 2, "one profile record in JSON per line"),
    (gzip.compress(b"{}"), 2, "gzip"),
    (b"# callgrind format\n", 2, "callgrind"),
])
def test_what_is_no_file_of_records_leaves_the_output_alone(content, status, word, tmp_path, capsys):
    path, target = tmp_path / "in", tmp_path / "out"
    path.write_bytes(content)
    target.write_text("precious")
    assert convert.main([str(path), "--to", "speedscope", "-o", str(target)]) == status
    assert word in capsys.readouterr().err
    assert target.read_text() == "precious"


def test_wrong_use_is_status_2(lines, tmp_path, capsys):
    assert convert.main([str(tmp_path / "none"), "--to", "chrome"]) == 2
    assert convert.main([str(tmp_path), "--to", "chrome"]) == 2
    assert convert.main([str(lines), "--to", "chrome", "-o", str(lines)]) == 2
    assert "the output is the input file" in capsys.readouterr().err
    assert convert.main([str(lines), "--to", "chrome", "-o", str(tmp_path / "no" / "folder")]) == 2
    for arguments in (["--to", "svg"], ["--to", "chrome", "--task", " "]):
        with pytest.raises(SystemExit) as stop:
            convert.main([str(lines), *arguments])
        assert stop.value.code == 2
    assert "an empty text; give a task id" in capsys.readouterr().err


def test_a_folder_as_output_is_named_and_not_the_input(lines, tmp_path, capsys):
    assert convert.main([str(lines), "--to", "chrome", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"profilomatic convert: {tmp_path} is a folder; name a file in it with -o\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
@pytest.mark.parametrize("form", _formats.FORMATS)
def test_an_output_that_is_full_is_named_and_not_the_input(form, lines, capsys):
    assert convert.main([str(lines), "--to", form, "-o", "/dev/full"]) == 2
    assert capsys.readouterr().err == "profilomatic convert: /dev/full: No space left on device\n"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "profilomatic", "convert", str(lines), "--to", form], stdout=full,
                              stderr=subprocess.PIPE, env=package_environment(), timeout=300)
    assert (done.returncode, done.stderr) == (2, b"profilomatic convert: standard output: No space left on device\n")


def test_an_output_that_fails_half_way_leaves_the_file_of_before_and_no_other(lines, tmp_path):
    target = tmp_path / "out"
    target.write_text("precious")
    script = 'ulimit -f 0; exec "$0" -m profilomatic convert "$1" --to chrome -o "$2"'  # no file may grow
    done = subprocess.run(["/bin/sh", "-c", script, sys.executable, str(lines), str(target)], capture_output=True,
                          env=package_environment(PYTHONDONTWRITEBYTECODE="1"), timeout=300)
    assert (done.returncode, done.stderr.decode()) == (2, f"profilomatic convert: {target}: File too large\n")
    assert target.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["out", "profiles.jsonl"]


@pytest.mark.parametrize("form", _formats.FORMATS)
def test_a_terminal_is_written_to_unless_the_format_is_binary(form, tmp_path):
    path = rr.write(tmp_path / "one.jsonl", [{"task_uuid": "t", "time": 1.0}])  # less than a terminal holds unread
    ours, theirs = os.openpty()
    try:
        done = subprocess.run([sys.executable, "-m", "profilomatic", "convert", str(path), "--to", form], stdout=theirs,
                              stderr=subprocess.PIPE, env=package_environment(), timeout=300)
        os.set_blocking(ours, False)
        if form not in ("pprof", "pstats"):
            assert (done.returncode, done.stderr) == (0, b"") and os.read(ours, 1)
            return
        told = f"profilomatic convert: {form} is binary and standard output is a terminal; name a file with -o\n"
        assert (done.returncode, done.stderr.decode()) == (2, told)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_output_without_a_name_is_refused(lines, capsys):
    with pytest.raises(SystemExit) as stop:
        convert.main([str(lines), "--to", "chrome", "-o", ""])
    assert stop.value.code == 2
    assert "-o/--output: an empty text; give a file name" in capsys.readouterr().err


def test_lines_that_are_no_records_are_counted(lines, capsys):
    good = io.BytesIO()
    convert.main([str(lines), "--to", "collapsed"], good)
    text = lines.read_text().split("\n")
    lines.write_text("\n".join(text[:2] + ["{broken"] + text[2:-1] + [text[0][:100]]))
    out = io.BytesIO()
    assert convert.main([str(lines), "--to", "collapsed"], out) == 0
    assert out.getvalue() == good.getvalue()
    assert "1 not readable, 1 cut off at the end" in capsys.readouterr().err


def test_records_of_the_original_system_have_wall_time_only(converted):
    made = [{"task_uuid": "t", "thread": 1, "start_time": "2020-01-01T00:00:00.000001+00:00", "time": 0.3, "self_time": 0.0,
             "children": [{"instruction": "a.py:f:3", "time": 0.1, "self_time": 0.1},
                          {"instruction": "a.py:f:3", "time": 0, "self_time": 0, "message": {"action_type": "load"}},
                          {"instruction": "C:\\b.py", "time": 0.2, "self_time": 0.15, "children": [7, None, {"time": "x"}]}]}]
    assert converted(made, "collapsed").decode() == "load 50000000\nload;a.py:f:3 100000000\nload;C:\\b.py 150000000\n"
    for form in _formats.FORMATS:
        assert converted(made, form)
        assert converted(made, form, "--clock", "cpu") is not None


@pytest.mark.parametrize("form", _formats.FORMATS)
def test_hostile_records_are_converted_somehow(form, converted):
    deep = {"file": "d.py", "function": "d", "line": 1, "time": 1e-9, "self_time": 1e-9}
    for _ in range(300):
        deep = {"file": "d.py", "function": "d", "line": 1, "time": 1e-9, "self_time": 0, "children": [deep]}
    made = [
        {"task_uuid": "a", "time": 1, "children": [deep]},
        {"task_uuid": "", "time": None, "thread": {"x": 1}, "pid": -5, "start_time": "no", "hits": -3, "children": "abc"},
        {"task_uuid": "b", "time": 1e300, "cpu_time": -1, "action": [1], "profiler": 5, "start_time": "2026-13-01",
         "children": [{"file": 5, "line": "x"}, {"file": "\ud800", "function": "\udfff", "line": 10**30, "self_time": True},
                      {"message": "text"}, {"message": {"action_type": 5}, "self_time": 3, "children": [{"file": "x"}]}]},
        {"task_uuid": "c", "time": 0, "action": {"route": "x" * 10**5, "method": "\n", "type": None}, "children": [None]},
    ]
    converted(made, form)
    converted(made, form, "--clock", "cpu")


WRONG = [float("nan"), float("inf"), -float("inf"), -1, -1e-9, 1e308, 10**30, -10**30, 1 << 63, True, "1", "", "\ud800", None, [], {}]


def infinite(path, made):
    """The records in a file; what is infinite there is a number beyond all floats: `Infinity` is no JSON."""
    path.write_text("".join(json.dumps(record).replace("Infinity", "1e999") + "\n" for record in made))
    return path


def spoiled(value, wrong):
    """Copies of a record in which one value is wrong, each in its turn."""
    if isinstance(value, dict):
        for key, item in value.items():
            for copy in spoiled(item, wrong):
                yield {**value, key: copy}
    elif isinstance(value, list):
        for at, item in enumerate(value):
            for copy in spoiled(item, wrong):
                yield [*value[:at], copy, *value[at + 1:]]
    yield wrong


@pytest.mark.parametrize("form", _formats.FORMATS)
def test_one_wrong_value_anywhere_ends_no_conversion(form, converted, tmp_path):
    good = {"task_uuid": "t", "thread": 1, "thread_name": "n", "source": "s", "pid": 2, "start_time": "2026-01-01T00:00:00.000000Z",
            "end_time": "2026-01-01T00:00:01.000000Z", "time": 1.0, "self_time": 0.25, "cpu_time": 0.5, "self_cpu_time": 0.25,
            "hits": 3, "action": {"type": "t", "kind": "code", "outcome": "succeeded", "route": "r", "method": "GET"},
            "profiler": {"engine": "native", "period": 0.01, "samples": 3, "missed": {}, "overhead": {"cpu": 0.0, "fraction": 0.0},
                         "truncated": {}},
            "children": [{"instruction": "a.py:f:3", "file": "a.py", "function": "f", "line": 3, "time": 0.75, "self_time": 0.75,
                          "cpu_time": 0.25, "self_cpu_time": 0.25, "hits": 2, "start_time": "2026-01-01T00:00:00.500000Z"},
                         {"instruction": "a.py:f:4", "time": 0.0, "self_time": 0.0, "hits": 0, "message": {"x": 1},
                          "start_time": "2026-01-01T00:00:00.500000Z"}]}
    for wrong in WRONG:
        made = [record for record in spoiled(good, wrong) if isinstance(record, dict) and record]
        for clock in ("wall", "cpu"):
            assert converted(infinite(tmp_path / "in", [good, *made, good]), form, "--clock", clock)
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59+23:59"):
        for order in ([good, {**good, "start_time": moment}], [{**good, "start_time": moment}, good]):
            assert converted(order, form)


def test_a_period_is_a_number_of_seconds(converted, tmp_path):
    good = {"task_uuid": "t", "thread": 1, "time": 1.0, "profiler": {"period": 0.25}}
    for wrong in [*WRONG, 1e6]:
        made = infinite(tmp_path / "in", [good, {**good, "profiler": {"period": wrong}}])
        assert converted(made, "pprof") == converted([good, {**good, "profiler": 0}], "pprof")


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("form", _formats.FORMATS)
def test_memory_stays_flat(form, tmp_path):
    """Ten times the records, the same memory: nothing of an action is kept but what its format says."""
    maker = rr.records(9, 40)
    block = "".join(json.dumps(record) + "\n" for record in maker)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_text(block * 3)
    large.write_text(block * 30)
    # Not ru_maxrss, which begins with what the parent has.
    code = ("import re, sys; from profilomatic import convert; status = convert.main(sys.argv[1:]); "
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(status)")
    import profilomatic

    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(profilomatic.__file__).parent.parent))
    peaks = []
    for path in (small, large):
        done = subprocess.run([sys.executable, "-c", code, str(path), "--to", form, "-o", os.devnull], env=environment,
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert large.stat().st_size > 5 << 20
    assert peaks[1] - peaks[0] < 2048, peaks  # KiB


# --- the MessagePack form ----------------------------------------------------------------------------------------------


def test_a_wire_file_is_cut_into_batches():
    batch, empty = (WIRE / "batch.msgpack").read_bytes(), (WIRE / "empty.msgpack").read_bytes()
    seen = []

    def decode(data):
        seen.append(data)
        if data == empty:
            raise ValueError
        return [{"n": len(seen)}]

    stream = io.BytesIO(batch + empty + batch + batch[:50])
    reader = _wire.Reader(stream, "x", decode)
    assert list(reader) == [{"n": 1}, {"n": 3}]
    assert seen == [batch, empty, batch]
    assert (reader.lines, reader.records, reader.bad, reader.torn, reader.too_long) == (4, 2, 1, 1, 0)


@pytest.mark.parametrize("damage, bad, torn, too_long", [
    (b"", 0, 0, 0),
    (b"garbage here", 1, 0, 0),
    (b"g", 1, 0, 0),
    (_wire.MAGIC, 1, 0, 0),
    (_wire.MAGIC + b"\1\xc6\xff\xff\xff\xff", 0, 0, 1),
    (_wire.MAGIC + b"\1\xc6\0\0\0\x40half", 1, 0, 0),
    (_wire.MAGIC[:4], 1, 0, 0),
    (b"x" * 200_000, 1, 0, 0),
])
def test_a_damaged_wire_file_is_read_behind_the_damage(damage, bad, torn, too_long):
    batch = (WIRE / "batch.msgpack").read_bytes()

    def decode(data):
        if data != batch:
            raise ValueError
        return [{}]

    reader = _wire.Reader(io.BytesIO(batch + damage + batch + batch), "x", decode)
    assert list(reader) == [{}, {}, {}]
    assert (reader.bad, reader.torn, reader.too_long) == (bad, torn, too_long)
    reader = _wire.Reader(io.BytesIO(batch + damage + batch[:-1]), "x", decode)
    assert list(reader) == [{}] and reader.torn == 1


def test_a_wire_file_converts_as_its_json_does(converted, backend):
    if backend != "c":
        pytest.skip("the C extension reads the MessagePack form")
    pytest.importorskip("profilomatic._core")
    from profilomatic import _core

    if not hasattr(_core, "read_wire"):
        pytest.skip("this build of the extension has no read_wire")
    for form in _formats.FORMATS:
        assert converted(WIRE / "batch.msgpack", form) == converted(WIRE / "batch.jsonl", form)


def test_a_wire_file_without_the_extension_is_refused_in_words(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "profilomatic._core", None)
    assert convert.main([str(WIRE / "batch.msgpack"), "--to", "chrome", "-o", str(tmp_path / "out")]) == 2
    assert "MessagePack form" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
