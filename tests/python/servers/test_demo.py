"""The demo ends with a verdict, and leaves no process behind however it ends."""

import importlib.util
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
from harness import PACKAGE, PATIENCE, wait_until

pytestmark = pytest.mark.oldest_and_newest
ROOT = pathlib.Path(__file__).resolve().parents[3]
DEMO = ROOT / "tools" / "demo.py"

for module in ("flask", "gunicorn"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the demo needs {module}, which is not installed", allow_module_level=True)


@pytest.fixture
def demo(tmp_path):
    """Starts the demo with some options; what still runs at the end of the test is stopped."""
    started = []

    def start(*options):
        output = open(tmp_path / "output", "wb")
        process = subprocess.Popen(
            [sys.executable, str(DEMO), "--folder", str(tmp_path / "demo"), *options],
            # A small load on a busy machine: no request may be shed, or too few are left to compare.
            env={**os.environ, "PYTHONPATH": PACKAGE, "PYTHONUNBUFFERED": "1", "PROFILOMATIC_MAX_ACTIONS_PER_RUN": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A shell without job control lets what it starts in the background ignore this, and so would the demo.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append((process, output))
        return process

    yield start
    for process, output in started:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)
        output.close()


def output(tmp_path):
    return (tmp_path / "output").read_text(errors="replace")


def address_of(tmp_path):
    found = re.search(r"it answers on ([\d.]+):(\d+)", output(tmp_path))
    return found and (found.group(1), int(found.group(2)))


def assert_nobody_listens(address):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=2).close()


def test_demo_names_the_planted_line_and_the_bill(demo, tmp_path):
    process = demo("--requests", "800")
    assert process.wait(PATIENCE) == 0, output(tmp_path)
    last = output(tmp_path).rstrip().splitlines()[-3:]
    assert re.match(r"demo: guilty: catalogue\.py:\d+ in .*search.*: kept = \[product for ", last[0])
    assert re.match(r"demo: the bill: [\d.]+% ", last[2])
    assert_nobody_listens(address_of(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_stops_its_server(demo, tmp_path, number):
    process = demo("--requests", "100000")
    address = wait_until(lambda: process.poll() is not None or address_of(tmp_path), PATIENCE, "the server's start")
    assert process.poll() is None, output(tmp_path)
    process.send_signal(number)
    assert process.wait(PATIENCE) in (130, 143)
    assert_nobody_listens(address)


def test_demo_fails_when_another_line_is_named():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    planted = module.planted_line()
    cause = {"file": f"/shop/{planted[0]}", "line": planted[1], "function": "Catalogue.search", "group": "GET /search"}
    cause |= {"explained": 0.9, "slow": 3, "actions": 40, "slow_time": 0.1, "rest_time": 0.01}
    head = {"overhead": {"fraction": 0.01, "cpu": 0.1}, "actions": 40}
    assert planted[2] in module.closing_lines({"slow_causes": [cause], "head": head}, planted, 40)[0]
    for causes in ([], [{**cause, "line": planted[1] + 1}, cause]):
        with pytest.raises(module.DemoError, match=f"does not name the planted line {planted[0]}:{planted[1]}"):
            module.closing_lines({"slow_causes": causes, "head": head}, planted, 40)
