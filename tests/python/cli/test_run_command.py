"""`profilomatic run`: the program sees what it sees without us, and its actions are profiled."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import zipfile

import pytest
from pom_support import PATIENCE, package_environment

from profilomatic import run_profiled

PROBE = """
import __main__, json, os, sys
def crash(how):
    if how == "raise":
        try:
            {}["inner"]
        except KeyError:
            raise ValueError("outer")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "status":
        sys.exit(7)
    if how == "text":
        sys.exit("goodbye")
    if how == "none":
        sys.exit()
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "name": __name__, "file": globals().get("__file__"), "same": __main__.__dict__ is globals(),
    "names": sorted(k for k in globals() if k.startswith("__") and k != "__warningregistry__"), "spec": str(__spec__ and __spec__.name),
    "package": __package__, "loader": type(__loader__).__name__, "cached": globals().get("__cached__", "none") is None}))
sys.stdout.flush()
crash(os.environ.get("HOW"))
"""
AFTER = ["-x", "--", "-m", "other", "--help", "", "a b", "-o", "file"]


@pytest.fixture
def program(tmp_path):
    folder = tmp_path / "programs"
    (folder / "package").mkdir(parents=True)
    (folder / "probe.py").write_text(PROBE)
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "__main__.py").write_text(PROBE)
    (folder / "plain").mkdir()
    (folder / "plain" / "__main__.py").write_text(PROBE)
    (folder / "broken.py").write_text("x = 1\nif x\n")
    (folder / "utf.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe9'))\n")
    (folder / "link.py").symlink_to(folder / "package" / "__main__.py")
    with zipfile.ZipFile(folder / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    return folder


def same(command, folder, target, how=None, ours=(), stdin=b"", start=("-m", "profilomatic", "run")):
    """Runs the target bare and under us; asserts equality and returns the result."""
    env = {"HOW": how} if how else {}
    bare = command(*target, *AFTER, cwd=folder, env=env, stdin=stdin)
    run = command(
        *start, "-o", folder / "out.jsonl", *ours, *target, *AFTER, cwd=folder, env=env, stdin=stdin
    )
    assert (run.stdout, run.stderr, run.returncode) == (bare.stdout, bare.stderr, bare.returncode)
    return bare


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize(
    "target",
    [
        ["probe.py"],
        ["./probe.py"],
        ["-m", "probe"],
        ["-m", "package"],
        ["plain"],
        ["app.pyz"],
        ["link.py"],
        ["utf.py"],
        ["broken.py"],
        ["-m", "absent"],
        ["-m", "package.absent"],
    ],
    ids=" ".join,
)
def test_program_sees_itself_as_without_us(command, program, target):
    bare = same(command, program, target)
    if b"argv" in bare.stdout:
        seen = json.loads(bare.stdout)
        assert seen["argv"][1:] == AFTER and seen["same"]


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize(
    "how,status", [("raise", 1), ("interrupt", -signal.SIGINT), ("status", 7), ("text", 1), ("none", 0)]
)
@pytest.mark.parametrize(
    "target,ours",
    [(["probe.py"], []), (["probe.py"], ["--whole"]), (["-m", "package"], []), (["plain"], [])],
    ids=str,
)
def test_exit_status_and_traceback_are_the_program_s_own(command, program, target, how, status, ours):
    assert same(command, program, target, how, ours).returncode == status


@pytest.mark.parametrize("code, told", [
    ("pass", [b"the program began no action"]), ("import profilomatic\nwith profilomatic.action('a'): pass", []),
    ("import os, warnings\nwarnings.simplefilter('ignore')\nos.fork() or os._exit(0)\nos.wait()", []),
    ("import hypercorn.run as run\nrun._populate()", []),
    ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])", [b"the program began no action", b"PROFILOMATIC_AUTO=1"])],
    ids=["nothing to profile", "an action", "workers", "workers in new interpreters", "another program"])
def test_a_person_is_told_when_there_was_nothing_to_profile_and_only_then(tmp_path, code, told):
    """On a terminal. A server's master begins no action: its workers do, be they forks or new interpreters."""
    (tmp_path / "program.py").write_text(code)
    (tmp_path / "hypercorn").mkdir()
    (tmp_path / "hypercorn" / "__init__.py").touch()
    (tmp_path / "hypercorn" / "run.py").write_text("import subprocess, sys\n"
                                                   "def _populate(): subprocess.run([sys.executable, '-c', ''])\n")
    ours, theirs = os.openpty()
    try:
        done = subprocess.run([sys.executable, "-m", "profilomatic", "run", "-o", "out.jsonl", "program.py"], cwd=tmp_path,
                              env=package_environment(), stdin=subprocess.DEVNULL, stderr=theirs, timeout=300)
        os.write(theirs, b"end")
        said = b""
        while not said.endswith(b"end"):
            said += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0 and [words for words in (b"the program began no action", b"PROFILOMATIC_AUTO=1")
                                     if words in said] == told, said


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize("target", [["probe.py"], ["-m", "probe"]], ids=" ".join)
def test_module_form_of_the_command_is_the_same(command, program, target):
    assert same(command, program, target, "raise", start=["-m", "profilomatic.run_profiled"]).returncode == 1


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize("target", [["probe.py"], ["-m", "probe"], ["broken.py"]], ids=" ".join)
@pytest.mark.parametrize("ours", [[], ["--whole"]], ids=str)
def test_installed_command_shows_no_frame_of_its_own(command, program, target, ours):
    """`profilomatic run`, the script that an installation makes: one more frame above ours."""
    (program / "profilomatic-script").write_text(
        "import sys\nfrom profilomatic.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    assert same(command, program, target, "raise", ours, start=["profilomatic-script", "run"]).returncode == 1


def test_program_from_standard_input(command, program):
    bare = same(
        command, program, ["-"], stdin=b"import sys; print(sys.argv, __name__, '__file__' in globals())"
    )
    assert bare.returncode == 0


def test_program_from_a_pipe(command, program):
    """As a shell's `<(…)` is: it can be read once."""
    bare = same(command, program, ["/dev/stdin"], stdin=b"import sys; print(sys.argv, __name__, __file__)")
    assert bare.returncode == 0 and b"/dev/stdin" in bare.stdout


def test_missing_script_keeps_the_output_file(command, program):
    (program / "keep").write_text("precious")
    run = command("-m", "profilomatic", "run", "-o", "keep", "absent.py", cwd=program)
    assert run.returncode == 2
    assert b"can't open file" in run.stderr and run.stderr.count(b"\n") == 1
    assert (program / "keep").read_text() == "precious"


@pytest.mark.parametrize(
    "target", [["-m", "absent"], ["-m", "absent.part"], ["empty"], ["empty.zip"], ["broken.py"]], ids=" ".join
)
def test_what_has_no_code_to_run_keeps_the_output_file(command, program, target):
    (program / "empty").mkdir()
    with zipfile.ZipFile(program / "empty.zip", "w") as archive:
        archive.writestr("other.py", "")
    (program / "out.jsonl").write_text("precious")
    assert same(command, program, target).returncode == 1
    assert (program / "out.jsonl").read_text() == "precious"


@pytest.mark.parametrize("option", ["-o", "--profile-profiler"])
def test_the_program_is_not_overwritten_by_its_own_output(command, program, option):
    run = command("-m", "profilomatic", "run", option, "./link.py", "package/__main__.py", cwd=program)
    assert run.returncode == 2
    assert b"'./link.py' is the program itself" in run.stderr and run.stderr.count(b"\n") == 1
    assert (program / "package" / "__main__.py").read_text() == PROBE


ACTIONS = """
import atexit, sys, threading, time
import profilomatic
def taken():
    return profilomatic.stats()["samples"]["taken"]
def busy(samples):
    until = taken() + samples
    while taken() < until:
        sum(range(1000))
with profilomatic.action("job", step=1):
    busy(3)
def late():
    time.sleep(0.1)
    with profilomatic.action("in-thread"):
        busy(1)
if "thread" in sys.argv:
    threading.Thread(target=late).start()
if "exit" in sys.argv:
    @atexit.register
    def at_exit():
        with profilomatic.action("at-exit"):
            busy(1)
"""


def records_of(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def actions(tmp_path):
    (tmp_path / "actions.py").write_text(ACTIONS)
    return tmp_path


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize("output", [[], ["-o", "-"]], ids=str)
def test_profiles_go_to_standard_error_by_default(command, actions, output):
    """And where that is asked for, as PROFILOMATIC_DESTINATION has it; there is no file of that name."""
    env = {"PROFILOMATIC_DESTINATION": "elsewhere"} if output else {}
    run = command("-m", "profilomatic", "run", *output, "actions.py", cwd=actions, env=env)
    assert (run.returncode, run.stdout, os.listdir(actions)) == (0, b"", ["actions.py"])
    records = records_of(run.stderr)
    assert [r["action"]["type"] for r in records] == ["job"]
    assert records[0]["hits"] >= 2


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize("flush", [[], ["--no-flush"]], ids=str)
def test_actions_of_threads_and_of_exit_are_profiled_too(command, actions, flush):
    run = command(
        "-m", "profilomatic", "run", "-o", "out", *flush, "actions.py", "thread", "exit", cwd=actions
    )
    assert (run.returncode, run.stderr) == (0, b"")
    kinds = [r["action"]["type"] for r in records_of((actions / "out").read_text())]
    assert kinds == ["job", "in-thread", "at-exit"]


@pytest.mark.acceptance("PM26")
def test_options_reach_the_engine(command, actions):
    (actions / "options.py").write_text(
        "import json, profilomatic._options as o; print(json.dumps({k: v for k, v in o.effective().items() if k != 'scrub'}))"
    )
    run = command(
        "-m",
        "profilomatic",
        "run",
        "-s",
        "me",
        "-n",
        "3",
        "-v",
        "5%",
        "-t",
        "0.05",
        "-c",
        "method",
        "-l",
        "options.py",
        cwd=actions,
        env={"PROFILOMATIC_SOURCE_NAME": "not-me"},
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "max_overhead": 0.05,
        "time_granularity": 0.05,
        "code_granularity": "method",
        "store_all_logs": True,
        "max_actions_per_run": 3,
        "partial_every": 60.0,
        "source_name": "me",
        "retention": None,
    }
    run = command(
        "-m",
        "profilomatic",
        "run",
        "--max-overhead=0.03",
        "--time-granularity",
        "auto",
        "options.py",
        cwd=actions,
        env={"PROFILOMATIC_SOURCE_NAME": "me"},
    )
    values = json.loads(run.stdout)
    assert (values["max_overhead"], values["time_granularity"], values["source_name"]) == (0.03, "auto", "me")


@pytest.mark.acceptance("PM26")
def test_source_name_stands_in_the_profile(command, actions):
    command(
        "-m", "profilomatic.run_profiled", "-s", "batch", "-c", "file", "-o", "out", "actions.py", cwd=actions
    )
    record = records_of((actions / "out").read_text())[0]
    assert record["source"] == "batch"
    assert "line" not in record["children"][0]


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize("flush", [[], ["--no-flush"]], ids=str)
def test_profiles_go_to_a_socket(command, actions, flush):
    received = []

    def serve():
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            received.append(stream.read())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        run = command(
            "-m", "profilomatic", "run", *flush, "-i", f"127.0.0.1:{port}", "actions.py", "exit", cwd=actions
        )
        thread.join(PATIENCE)
    assert (run.returncode, run.stderr) == (0, b"")
    assert [r["action"]["type"] for r in records_of(received[0])] == ["job", "at-exit"]


def test_a_socket_is_named_by_its_address():
    from profilomatic import _named

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        destination = _named.destination(f"tcp://127.0.0.1:{port}")
        assert destination.__qualname__ == f"tcp://127.0.0.1:{port}"
        destination.file.close()


@pytest.mark.parametrize(
    "options,env,where",
    [
        (["-o", "/dev/full"], {}, "/dev/full; "),
        ([], {"PROFILOMATIC_DESTINATION": "http://127.0.0.1:1/"}, "http://127.0.0.1:1/api/data; "),
    ],
    ids=["file", "server"],
)
def test_lost_profiles_are_told_at_the_end(command, actions, options, env, where):
    run = command("-m", "profilomatic", "run", *options, "actions.py", cwd=actions, env=env)
    assert (run.returncode, run.stdout) == (0, b"")
    last = run.stderr.decode().splitlines()[-1]
    assert last.startswith("profilomatic run: 1 of 1 profiles lost (") and f": {where}" in last


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["-i", "nowhere", "actions.py"], "HOST:PORT"),
        (["-i", "127.0.0.1:99999", "actions.py"], "a port from 1 to 65535"),
        (["-i", "127.0.0.1:1", "actions.py"], "127.0.0.1:1: "),
        (["-o", "/no/such/folder/x", "actions.py"], "/no/such/folder/x"),
        (["-o", "", "actions.py"], "--output-file ''"),
        (["-v", "lots", "actions.py"], "percentage"),
        (["-v", "300%", "actions.py"], "max_overhead"),
        (["-t", "0", "actions.py"], "time_granularity"),
        (["-t", "soon", "actions.py"], "seconds"),
        (["-n", "-1", "actions.py"], "max_actions_per_run"),
        (["-c", "word", "actions.py"], "invalid choice"),
        (["--unknown", "actions.py"], "--unknown"),
        (["-o", "a", "-i", "b:1", "x"], "not allowed"),
        (["-m"], "module"),
        ([], "name a script"),
        (["-s", "x"], "name a script"),
    ],
)
def test_wrong_use_is_one_clear_error(command, actions, arguments, words):
    run = command("-m", "profilomatic", "run", *arguments, cwd=actions)
    assert run.returncode == 2
    assert words in run.stderr.decode()
    assert b"Traceback" not in run.stderr and run.stdout == b""


@pytest.mark.acceptance("PM26")
@pytest.mark.parametrize(
    "option,module", [("-e", "eliot"), ("--eliot", "eliot"), ("-x", "monitor"), ("--monitor", "monitor")]
)
def test_integrations_are_switched_on_or_explained(command, actions, option, module):
    """The switch calls our module; where its library is missing, one line names it."""
    (actions / "fake.py").write_text(
        textwrap.dedent(f"""
        import sys, types
        fake = types.ModuleType("profilomatic.{module}")
        fake.patch = fake.enable_prometheus = lambda: print("switched on {module}")
        sys.modules[fake.__name__] = fake
        from profilomatic.run_profiled import main
        sys.exit(main([{option!r}, "-o", "out", "actions.py"]))
        """)
    )
    run = command("fake.py", cwd=actions)
    assert (run.returncode, run.stdout) == (0, f"switched on {module}\n".encode())
    (actions / "block.py").write_text(
        textwrap.dedent(f"""
        import sys
        sys.modules["profilomatic.{module}"] = None
        from profilomatic.run_profiled import main
        sys.exit(main([{option!r}, "actions.py"]))
        """)
    )
    run = command("block.py", cwd=actions)
    assert run.returncode == 2
    assert run.stderr.count(b"\n") == 1 and b"pip install" in run.stderr


@pytest.mark.acceptance("PM26", "PM28")
def test_the_switch_for_metrics_registers_them(command, tmp_path):
    pytest.importorskip("prometheus_client")
    (tmp_path / "scraped.py").write_text(
        "import profilomatic, prometheus_client\n"
        "with profilomatic.action('job'):\n"
        "    pass\n"
        "profilomatic.flush(30)\n"
        "print(int(prometheus_client.REGISTRY.get_sample_value('profiler_tasks_profiled_total')))\n"
    )
    run = command("-m", "profilomatic", "run", "-x", "-n", "0", "-o", "out", "scraped.py", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, b"1\n"), run.stderr


def test_whole_makes_the_program_one_action(command, tmp_path):
    (tmp_path / "plain.py").write_text(
        "import profilomatic, sys, time\n"
        "def work():\n"
        "    time.sleep(0.02)\n"
        "while profilomatic.stats()['samples']['taken'] < 10:\n"
        "    work()\n"
        "sys.exit(0)\n"
    )
    run = command("-m", "profilomatic", "run", "--whole", "-o", "out", "plain.py", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, b"")
    (record,) = records_of((tmp_path / "out").read_text())
    assert (record["action"]["type"], record["action"]["kind"], record["action"]["outcome"]) == (
        "run:plain.py",
        "code",
        "succeeded",
    )
    run = command("-m", "profilomatic", "report", "out", "--json", cwd=tmp_path)
    assert json.loads(run.stdout)["hottest_lines"][0]["line"] == 3


def test_whole_is_failed_when_the_program_fails(command, tmp_path):
    (tmp_path / "fails.py").write_text("1/0\n")
    run = command("-m", "profilomatic", "run", "--whole", "-o", "out", "fails.py", cwd=tmp_path)
    assert run.returncode == 1
    (record,) = records_of((tmp_path / "out").read_text())
    assert record["action"]["outcome"] == "failed"


def test_children_by_spawn_and_fork_find_their_main(command, tmp_path):
    (tmp_path / "pool.py").write_text(
        textwrap.dedent("""
        import multiprocessing, sys
        def square(x):
            return x * x
        if __name__ == "__main__":
            for method in ("fork", "spawn"):
                with multiprocessing.get_context(method).Pool(1) as pool:
                    print(pool.map(square, [1, 2, 3]))
        """)
    )
    run = command("-W", "ignore", "-m", "profilomatic", "run", "-o", "out", "pool.py", cwd=tmp_path)
    assert (run.returncode, run.stdout.split(b"\n")[:2]) == (0, [b"[1, 4, 9]"] * 2), run.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P is of 3.11")
def test_safe_path_is_respected(command, program):
    bare = command("-P", "probe.py", cwd=program)
    run = command("-P", "-m", "profilomatic", "run", "-o", "out", "probe.py", cwd=program)
    assert json.loads(run.stdout)["path"] == json.loads(bare.stdout)["path"]


SELF_PROFILED = """
import gc, os, sys, time
import profilomatic
profilomatic.configure(max_actions_per_run=0, time_granularity=0.001, max_overhead=0.5)
observer, = (each for each in gc.get_objects() if type(each).__name__ == "Observer")
def looks(count):
    until = observer._looks + count
    while observer._looks < until:
        yield
def slow(record):
    for _ in looks(4):
        time.sleep(0.01)  # our own line
profilomatic.add_destination(slow)
for _ in range(3):
    with profilomatic.action("job"):
        for _ in looks(20):
            sum(range(1000))
    profilomatic.flush(60)
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
"""


def checked_totals(node):
    """Asserts that each node's time is its own and its children's."""
    below = node.get("children", ())
    for clock in ("time", "cpu_time"):
        assert abs(node[clock] - node["self_" + clock] - sum(child[clock] for child in below)) < 1e-6, node
    assert node["hits"] >= sum(child["hits"] for child in below)
    for child in below:
        checked_totals(child)


def paths_of(node, above=()):
    for child in node.get("children", ()):
        path = (*above, child["function"])
        yield path, child
        yield from paths_of(child, path)


@pytest.mark.acceptance("PM27")
@pytest.mark.parametrize("engine", ["native", *(pytest.param(name, marks=pytest.mark.oldest_and_newest) for name in ("gil", "pure"))])
def test_profile_profiler_writes_call_graphs_of_our_own_threads(command, tmp_path, engine):
    (tmp_path / "program.py").write_text(SELF_PROFILED)
    env = {"PROFILOMATIC_ENGINE": engine, "PROFILOMATIC_PURE": "1" if engine == "pure" else ""}
    run = command("-W", "ignore", "-m", "profilomatic", "run", "-o", "out", "--profile-profiler", "self.jsonl", "program.py",
                  cwd=tmp_path, env=env)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    assert len(records_of((tmp_path / "out").read_text())) == 3
    records = {r["thread_name"]: r for r in records_of((tmp_path / "self.jsonl").read_text())}
    threads = {"profilomatic-sampler"} if engine == "pure" else {"pom-sampler", "pom-loop"}
    assert set(records) == threads | {"Profilomatic Thread"}
    assert len({r["task_uuid"] for r in records.values()}) == 1
    for name, record in records.items():
        assert record["action"]["kind"] == "self" and record["action"]["type"] == name
        assert record["profiler"]["period"] == 0.01 and record["hits"] > 10
        assert 0 < record["cpu_time"] < record["time"]
        assert 0 < record["profiler"]["overhead"]["cpu"]
        checked_totals(record)
    # The destination's own line, in the thread that calls it.
    lines = [(node["file"], node.get("line")) for _, node in paths_of(records["Profilomatic Thread"])]
    assert (str(tmp_path / "program.py"), SELF_PROFILED[:SELF_PROFILED.index("# our own line")].count("\n") + 1) in lines
    if engine == "pure":
        assert any(file.endswith("_pure_engine.py") for file, _ in
                   ((node["file"], 0) for _, node in paths_of(records["profilomatic-sampler"])))
        return
    sampler, loop = (dict(paths_of(records[name])) for name in ("pom-sampler", "pom-loop"))
    assert {("wait",), ("apply",), ("apply", "seal"), ("look",), ("look", "walk"), ("look", "add"),
            ("look", "resolve")} <= set(sampler)
    assert 0 < sampler[("wait",)]["time"] < records["pom-sampler"]["time"]
    assert {("pump", "deliver"), ("pump", "deliver", "encode"), ("pump", "deliver", "write")} <= set(loop)
    assert loop[("pump",)]["time"] < records["pom-loop"]["time"]
    shown = command("-m", "profilomatic", "report", "self.jsonl", cwd=tmp_path)
    assert shown.returncode == 0 and b"pom-sampler" in shown.stdout


@pytest.mark.acceptance("PM27")
def test_profile_profiler_may_share_the_file_of_the_profiles(command, actions):
    run = command("-m", "profilomatic", "run", "-o", "out", "--profile-profiler", "out", "actions.py", cwd=actions)
    assert (run.returncode, run.stderr) == (0, b"")
    kinds = [r["action"]["kind"] for r in records_of((actions / "out").read_text())]
    assert kinds[0] == "code" and set(kinds[1:]) == {"self"}


@pytest.mark.acceptance("PM27")
def test_profile_profiler_without_a_file_to_write_is_one_clear_error(command, actions):
    (actions / "keep").write_text("precious")
    run = command("-m", "profilomatic", "run", "-o", "keep", "--profile-profiler", "/no/such/folder/x", "actions.py",
                  cwd=actions)
    assert run.returncode == 2
    assert run.stderr.count(b"\n") == 1 and b"/no/such/folder/x" in run.stderr
    assert (actions / "keep").read_text() == "precious"


@pytest.mark.parametrize(
    "argv,expected",
    [
        (["s.py", "-m"], ([], False, "s.py", ["-m"])),
        (["-m", "mod", "-o", "x"], ([], True, "mod", ["-o", "x"])),
        (["-mmod", "a"], ([], True, "mod", ["a"])),
        (["-elm", "mod", "a"], (["-el"], True, "mod", ["a"])),
        (["-o", "-m", "s.py"], (["-o", "-m"], False, "s.py", [])),
        (["-n5", "-omout", "s.py", "a"], (["-n5", "-omout"], False, "s.py", ["a"])),
        (
            ["-el", "--no-flush", "--source-name", "x", "--max-overhead=2%", "s.py"],
            (["-el", "--no-flush", "--source-name", "x", "--max-overhead=2%"], False, "s.py", []),
        ),
        (["--source", "x", "s.py"], (["--source", "x"], False, "s.py", [])),
        (["-e", "--", "-odd.py", "--", "b"], (["-e"], False, "-odd.py", ["--", "b"])),
        (["-"], ([], False, "-", [])),
        (["-e"], (["-e"], False, None, [])),
        (["-m"], ([], True, None, [])),
        ([], ([], False, None, [])),
    ],
)
def test_arguments_are_split_at_the_target(argv, expected):
    assert run_profiled.split(argv) == expected
