"""A file in the wire form holds the same records as a file of JSON lines, and convert and report read it."""

import json
import subprocess
import sys

import pytest
from pom_support import burn_until_sampled

import profilomatic


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
    assert profilomatic.flush(30)
    for each in destinations:
        profilomatic.remove_destination(each)
    return lines, wire


def without_noise(node):
    return {key: without_noise(value) if isinstance(value, dict) else
            [without_noise(each) for each in value] if isinstance(value, list) else
            round(value, 6) if isinstance(value, float) else value for key, value in node.items()} if isinstance(node, dict) else node


def test_both_forms_hold_the_same_records(both):
    from profilomatic import _core

    lines, wire = both
    expected = [json.loads(line) for line in lines.read_text().splitlines()]
    found = _core.read_wire(wire.read_bytes())
    assert [without_noise(record) for record in found] == [without_noise(record) for record in expected]


def test_report_reads_the_wire_form(both):
    _, wire = both
    done = subprocess.run([sys.executable, "-m", "profilomatic", "convert", str(wire), "--to", "collapsed"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "work" in done.stdout


def test_what_is_no_batch_is_a_value_error():
    _core = pytest.importorskip("profilomatic._core")
    for data in (b"", b"{}", b"POM\x01" + b"\xff" * 40, bytes(range(256))):
        with pytest.raises(ValueError):
            _core.read_wire(data)


def test_a_wrong_format_is_named(tmp_path):
    with pytest.raises(ValueError, match="xml"):
        profilomatic.file_destination(tmp_path / "x", format="xml")
