"""The formats as other people's programs read them. Where a program is missing its test is skipped and says so."""

import functools
import gzip
import math
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import random_records as rr

SEEDS = (0, 7, 11)


def run(*command, **environment):
    done = subprocess.run(command, capture_output=True, timeout=300, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8")


@pytest.fixture
def made_file(tmp_path, converted):
    def make(form, made, *options):
        path = tmp_path / ("out." + form)
        path.write_bytes(converted(made, form, *options))
        return str(path)

    return make


def whole(made, key="time"):
    return sum(rr.ns(record[key]) for record in made)


# --- callgrind_annotate ------------------------------------------------------------------------------------------------


def annotate(path, inclusive):
    if shutil.which("callgrind_annotate") is None:
        pytest.skip("callgrind_annotate is missing (package valgrind)")
    text = run("callgrind_annotate", "--auto=no", "--threshold=100", "--show=Wall", f"--inclusive={inclusive}", path, LC_ALL="C")
    rows = {}
    for line in text.splitlines():
        found = re.fullmatch(r" *([\d,]+) (?:\([ \d.]+%\)) +(\S.*)", line)
        if found:
            name = re.sub(r" \[\]$", "", found[2])
            rows[name] = rows.get(name, 0) + int(found[1].replace(",", ""))
    return rows


@pytest.mark.parametrize("seed", SEEDS)
def test_callgrind_annotate_sees_the_same_times(seed, made_file):
    made = rr.records(seed)
    path = made_file("callgrind", made)
    own, total = rr.totals(made)
    for inclusive, truth in (("no", own), ("yes", total)):
        rows = annotate(path, inclusive)
        assert rows.pop("PROGRAM TOTALS") == whole(made)
        # Its own times and totals by function, whatever the names became.
        assert sorted(value for value in rows.values() if value) == sorted(cost[1] for cost in truth.values() if cost[1])


def test_callgrind_annotate_takes_the_clock_asked_for(made_file):
    made = rr.records(5)
    if shutil.which("callgrind_annotate") is None:
        pytest.skip("callgrind_annotate is missing (package valgrind)")
    text = run("callgrind_annotate", "--auto=no", made_file("callgrind", made, "--clock", "cpu"), LC_ALL="C")
    assert re.search(r"Event sort order: +Cpu Wall Samples", text)


# --- go tool pprof -----------------------------------------------------------------------------------------------------


@functools.cache
def pprof_program():
    """The program behind `go tool pprof`: newer releases build it at first use and keep it in Go's cache."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if go is None:
        return None
    done = subprocess.run([go, "tool", "-n", "pprof"], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""})
    return done.stdout.strip() if done.returncode == 0 else None


def pprof(*arguments, tmp_path):
    program = pprof_program()
    if not program:
        pytest.skip("go is missing or cannot run, and with it `go tool pprof`")
    return run(program, *arguments, PPROF_TMPDIR=str(tmp_path))


@pytest.mark.parametrize("seed", SEEDS)
def test_go_tool_pprof_sees_the_same_samples(seed, made_file, tmp_path):
    made = rr.records(seed)
    path = made_file("pprof", made)
    raw = pprof("-raw", path, tmp_path=tmp_path)
    assert "samples/count cpu/nanoseconds wall/nanoseconds[dflt]" in raw
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+): ", raw, re.MULTILINE)
    sums = [sum(int(row[index]) for row in rows) for index in range(3)]
    assert sums[1:] == [whole(made, "cpu_time"), whole(made)]
    top = pprof("-top", "-nodecount=1000", "-nodefraction=0", "-unit=ns", "-sample_index=wall", path, tmp_path=tmp_path)
    assert f"Total samples = {whole(made)}ns" in top
    own, total = rr.totals(made)
    flat_and_cum = sorted((int(flat or 0), int(cum)) for flat, cum in re.findall(
        r"^ *(\d+)(?:ns)? +[\d.e-]+% +[\d.e-]+% +(\d+)(?:ns)? +[\d.e-]+%  ", top, re.MULTILINE))
    by_name = {}
    for record in made:  # pprof's rows are names: functions of one name in two files are one row
        for call_path, cost in rr.paths(record).items():
            names = [rr.function_of(frame) for frame in call_path]
            by_name.setdefault(names[-1], [0, 0])[0] += cost[1]
            for name in set(names):
                by_name.setdefault(name, [0, 0])[1] += cost[1]
    assert sum(flat for flat, _ in flat_and_cum) == whole(made)
    assert max(cum for _, cum in flat_and_cum) == max(cum for _, cum in by_name.values())


def test_go_tool_pprof_selects_by_route(made_file, tmp_path):
    made = rr.records(2)
    for number, record in enumerate(made):
        record["action"]["route"] = "/cart/<int:id>" if number % 2 else "/"
    path = made_file("pprof", made)
    tags = pprof("-tags", path, tmp_path=tmp_path)
    assert "/cart/<int:id>" in tags
    focused = pprof("-top", "-unit=ns", "-sample_index=wall", "-tagfocus=route=/cart", path, tmp_path=tmp_path)
    shown = int(re.search(r"accounting for (\d+)ns", focused)[1])
    assert shown <= whole(made[1::2])
    assert math.isclose(shown, whole(made[1::2]), rel_tol=0.05)  # it drops small nodes
    assert "GET /cart/<int:id>" in focused


# --- Google's protobuf and msgpack -------------------------------------------------------------------------------------


def test_protobuf_library_decodes_the_profile(converted):
    pool_module = pytest.importorskip("google.protobuf.descriptor_pool", reason="the package protobuf is not installed")
    from google.protobuf import descriptor_pb2, message_factory

    made = rr.records(3)
    message = message_factory.GetMessageClass(profile_descriptor(pool_module, descriptor_pb2))()
    message.ParseFromString(gzip.decompress(converted(made, "pprof")))
    assert sum(sample.value[2] for sample in message.sample) == whole(made)
    assert sum(sample.value[1] for sample in message.sample) == whole(made, "cpu_time")
    assert message.string_table[0] == ""
    ids = {location.id for location in message.location}
    assert all(number in ids for sample in message.sample for number in sample.location_id)


def profile_descriptor(pool_module, pb):
    """profile.proto as far as it is used, from its published field numbers."""
    file = pb.FileDescriptorProto(name="profile.proto", package="t", syntax="proto3")

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            entry = made.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                entry.type, entry.type_name = 11, ".t." + kind
            else:
                entry.type = kind

    int64, uint64, boolean, string = 3, 4, 8, 9
    message("ValueType", (1, "type", int64, 0), (2, "unit", int64, 0))
    message("Label", (1, "key", int64, 0), (2, "str", int64, 0), (3, "num", int64, 0))
    message("Sample", (1, "location_id", uint64, 1), (2, "value", int64, 1), (3, "label", "Label", 1))
    message("Mapping", (1, "id", uint64, 0), (5, "filename", int64, 0), (7, "has_functions", boolean, 0))
    message("Line", (1, "function_id", uint64, 0), (2, "line", int64, 0))
    message("Location", (1, "id", uint64, 0), (2, "mapping_id", uint64, 0), (4, "line", "Line", 1))
    message("Function", (1, "id", uint64, 0), (2, "name", int64, 0), (4, "filename", int64, 0))
    message("Profile", (1, "sample_type", "ValueType", 1), (2, "sample", "Sample", 1), (3, "mapping", "Mapping", 1),
            (4, "location", "Location", 1), (5, "function", "Function", 1), (6, "string_table", string, 1),
            (9, "time_nanos", int64, 0), (10, "duration_nanos", int64, 0), (11, "period_type", "ValueType", 0),
            (12, "period", int64, 0), (14, "default_sample_type", int64, 0))
    pool = pool_module.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("t.Profile")


def test_msgpack_library_reads_the_wire_form():
    msgpack = pytest.importorskip("msgpack", reason="the package msgpack is not installed")
    data = pathlib.Path(__file__).resolve().parents[2] / "data" / "wire"
    for name in ("batch.msgpack", "request.msgpack", "later.msgpack", "empty.msgpack"):
        magic, version, body = msgpack.unpackb((data / name).read_bytes(), raw=False)
        assert (magic, version) == ("pomw", 1)
        batch = msgpack.unpackb(body, raw=False, strict_map_key=False)  # strict UTF-8
        assert batch[2][0] == ""
        for profile in batch[5]:
            nodes = profile[16]
            assert len({len(nodes[column]) for column in range(1, 7)}) == 1
            own = sum(nodes[3])
            assert own == profile[8]


# --- Chrome's and Perfetto's own reader --------------------------------------------------------------------------------


def test_trace_processor_loads_the_trace(made_file, tmp_path):
    shell = shutil.which("trace_processor_shell") or shutil.which("trace_processor")
    if shell is None:
        pytest.skip("Perfetto's trace_processor is missing; the rules are checked by test_chrome_events_nest_and_add_up")
    made = rr.records(1)
    query = tmp_path / "query.sql"
    query.write_text("select sum(dur) from slice where category = 'action'")
    out = run(shell, "-q", str(query), made_file("chrome", made))
    assert str(whole(made)) in out
