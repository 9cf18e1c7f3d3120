"""What `profilomatic run` hands on to interpreters that a reloader or a manager of workers starts, and to no others."""

import json
import socket
import threading

import pytest
from pom_support import PATIENCE

# As far as we look at it; the real ones are in tests/python/frameworks.
SERVER = """
import subprocess, sys
def _populate(*arguments):
    subprocess.run([sys.executable, "child.py", *arguments], check=True)
"""
PROGRAM = """
import json, os, subprocess, sys
from hypercorn.run import _populate
before = dict(os.environ)
subprocess.run([sys.executable, "child.py", "no server"], check=True)
_populate()
assert dict(os.environ) == before
"""
CHILD = """
import json, os, subprocess, sys
print(json.dumps({
    "who": sys.argv[1:], "imported": "profilomatic" in sys.modules, "variables": [name for name in os.environ if "PROFILOMATIC_" in name],
    "path": os.environ.get("PYTHONPATH"), "site": [entry for entry in sys.path if entry.endswith("_site")]}), flush=True)
if not sys.argv[1:]:
    subprocess.run([sys.executable, "child.py", "of a server"], check=True)
import wsgiref.simple_server, wsgiref.util
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"x"]
environ = {"PATH_INFO": "/item/7"}
wsgiref.util.setup_testing_defaults(environ)
with wsgiref.simple_server.make_server("127.0.0.1", 0, app) as server:
    body = server.get_app()(environ, lambda status, headers: None)
    list(body)
    getattr(body, "close", int)()
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "hypercorn").mkdir()
    for name, text in {"hypercorn/__init__": "", "hypercorn/run": SERVER, "program": PROGRAM, "child": CHILD}.items():
        (tmp_path / (name + ".py")).write_text(text)
    return tmp_path


def served(run, records):
    """The one record, and what the three children printed."""
    assert run.returncode == 0, run.stderr
    (record,) = [json.loads(line) for line in records.splitlines()]
    assert (record["action"]["kind"], record["action"]["route"]) == ("wsgi", "/item/<id>")
    return record, [json.loads(line) for line in run.stdout.splitlines()]


def test_a_servers_interpreter_is_profiled_and_no_other_child_sees_anything(command, program):
    run = command("-m", "profilomatic", "run", "-o", "out", "-s", "handed", "-c", "method", "program.py", cwd=program)
    record, (other, server, below) = served(run, (program / "out").read_text())
    assert run.stderr == b""
    assert record["source"] == "handed"
    assert (other["who"], server["who"], below["who"]) == (["no server"], [], ["of a server"])
    assert server["imported"] and not other["imported"] and not below["imported"]
    assert all(each[name] == other[name] for each in (server, below) for name in ("variables", "path", "site"))
    assert set(other["variables"]) <= {"PROFILOMATIC_PURE"} and other["site"] == []


@pytest.mark.parametrize("options, env", [([], {}), (["-o", "-"], {}), ([], {"PROFILOMATIC_DESTINATION": "-"})], ids=str)
def test_standard_error_is_shared(command, program, options, env):
    run = command("-m", "profilomatic", "run", *options, "program.py", cwd=program, env=env)
    served(run, run.stderr)


def test_a_file_that_the_environment_names_is_found_from_another_folder(command, program):
    (program / "elsewhere").mkdir()
    (program / "program.py").write_text("import os, sys\nfrom hypercorn import run\nos.chdir('elsewhere')\n"
                                        "os.symlink('../child.py', 'child.py')\nrun._populate()\n")
    run = command("-m", "profilomatic", "run", "program.py", cwd=program, env={"PROFILOMATIC_DESTINATION": "out"})
    assert served(run, (program / "out").read_text())[1][0]["imported"]


def test_each_process_connects_to_a_socket_by_itself(command, program):
    received = []

    def take(connection):
        with connection, connection.makefile("rb") as stream:
            received.append(stream.read())

    with socket.create_server(("127.0.0.1", 0)) as server:
        def accept():
            for _ in range(2):
                threads.append(threading.Thread(target=take, args=(server.accept()[0],)))
                threads[-1].start()

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        run = command("-m", "profilomatic", "run", "-i", "127.0.0.1:%d" % server.getsockname()[1], "program.py", cwd=program)
        threads[0].join(PATIENCE)
        for thread in threads[1:]:
            thread.join(PATIENCE)
    served(run, b"".join(received))
    assert sorted(map(bool, received)) == [False, True]


def test_no_wrap_leaves_the_application_of_the_new_interpreter_alone_too(command, program):
    run = command("-m", "profilomatic", "run", "--no-wrap", "-o", "out", "program.py", cwd=program)
    assert (run.returncode, run.stderr, (program / "out").read_text()) == (0, b"", "")
    (program / "child.py").write_text(CHILD.replace("def app(", "import profilomatic\n@profilomatic.wsgi.wrap\ndef app("))
    (program / "program.py").write_text("from hypercorn import run\nrun._populate('x')\n")
    run = command("-m", "profilomatic", "run", "--no-wrap", "-o", "out", "program.py", cwd=program)
    served(run, (program / "out").read_text())  # it says so itself, and where to is said for it


@pytest.mark.parametrize("option, library, ours, switched", [
    ("-e", "eliot", "profilomatic.eliot", "profilomatic.eliot._listener is not None"),
    ("-x", "prometheus_client", "profilomatic.monitor", "profilomatic.monitor._registries"),
])
@pytest.mark.parametrize("first", [0, 1], ids=["library", "ours"])
def test_integrations_are_switched_on_when_they_are_imported(command, program, option, library, ours, switched, first):
    pytest.importorskip(library)
    child = f"import sys\nassert {library!r} not in sys.modules\nimport {(library, ours)[first]}\nimport {ours}\nprint(bool({switched}))\n"
    (program / "child.py").write_text(child)
    (program / "program.py").write_text("from hypercorn import run\nrun._populate()\n")
    run = command("-m", "profilomatic", "run", option, "-o", "out", "program.py", cwd=program)
    assert (run.stdout, run.stderr) == (b"True\n", b"")


def test_what_is_wrong_with_the_destination_is_one_line_and_the_application_is_served(command, program):
    (program / "program.py").write_text("import os\nfrom hypercorn import run\nos.remove('out')\nos.mkdir('out')\n"
                                        "run._populate('x')\n")
    run = command("-m", "profilomatic", "run", "-o", "out", "program.py", cwd=program)
    assert run.returncode == 0 and run.stderr.count(b"not profiled") == 1 and b"/out': " in run.stderr, run.stderr


def test_a_command_that_a_reloader_repeats_adds_to_its_files(command, program):
    """As werkzeug's does, which starts again what sys.orig_argv says."""
    (program / "hypercorn" / "run.py").write_text("import subprocess, sys\ndef _populate():\n"
                                                  "    subprocess.run([sys.executable, *sys.orig_argv[1:], 'again'], check=True)\n")
    (program / "program.py").write_text("import sys, profilomatic\nwith profilomatic.action(sys.argv[-1]):\n    pass\n"
                                        "profilomatic.flush(60)\nfrom hypercorn import run\n"
                                        "if sys.argv[1:] != ['again']:\n    run._populate()\n    run._populate()\n")
    run = command("-m", "profilomatic", "run", "-o", "out", "--profile-profiler", "self", "program.py", cwd=program)
    assert (run.returncode, run.stderr) == (0, b"")
    types = [json.loads(line)["action"]["type"] for line in (program / "out").read_text().splitlines()]
    assert types == ["program.py", "again", "again"]
    assert len({json.loads(line)["pid"] for line in (program / "self").read_text().splitlines()}) == 3
