"""`profilomatic check`: the verdict, its reasons, and the exit status that scripts read."""

import json
import os
import pathlib
import platform
import subprocess
import sys
import types

import pytest
from pom_support import REFUSE, package_environment, run_python

from profilomatic import _backend, _check_live, _check_platform, check


def status_of(engine):
    return 0 if engine in check._NATIVE else 1


def test_self_test_profiles_a_planted_line(command):
    run = command("-m", "profilomatic", "check", "--json")
    result = json.loads(run.stdout)
    test = result["self_test"]
    assert test["problem"] is None, test
    assert test["planted_share"] > 0.8
    # What is expected of the period at the end; it only grew, when the budget was spent, from the one that is asked for.
    assert 1 <= test["samples"] <= 1.2 * test["expected"] * test["period"] / 0.01 + 2
    assert test["overhead_cpu"] > 0
    (told,) = (finding["text"] for finding in result["findings"] if finding["topic"] == "self-test")
    assert told.startswith(f"{test['samples']} samples in ")
    assert f"; the planted line got {100 * test['planted_share']:.0f}%; overhead {100 * test['overhead_fraction']:.2f}%, " in told
    assert run.returncode == status_of(test["engine"])
    assert result["status"] == ("ok" if run.returncode == 0 else "degraded")


def test_forced_pure_engine_is_degraded_and_says_why(command):
    run = command("-m", "profilomatic", "check", env={"PROFILOMATIC_PURE": "1"})
    assert run.returncode == 1
    text = run.stdout.decode()
    assert text.startswith("profiling works, with a slower engine")
    assert "PROFILOMATIC_PURE" in text
    assert max(map(len, text.splitlines())) <= 100


def test_options_name_their_origin(command):
    run = command(
        "-m",
        "profilomatic",
        "check",
        "--json",
        "--no-self-test",
        env={
            "PROFILOMATIC_MAX_OVERHEAD": "5%",
            "PROFILOMATIC_SCRUB": "maybe=",
            "PROFILOMATIC_MAX_OVERHED": "1",
            "PROFILOMATIC_TIME_GRANULARITY": "never",
            "PROFILOMATIC_ENGINE": "fast",
            "PROFILOMATIC_FOO": "1",
        },
    )
    result = json.loads(run.stdout)
    options = {row["name"]: row for row in result["options"]}
    assert (options["max_overhead"]["value"], options["max_overhead"]["origin"]) == (
        0.05,
        "PROFILOMATIC_MAX_OVERHEAD",
    )
    assert options["code_granularity"]["origin"] == "default"
    assert options["time_granularity"]["origin"] == "default"
    texts = " ".join(finding["text"] for finding in result["findings"])
    assert "PROFILOMATIC_TIME_GRANULARITY='never' is ignored" in texts
    assert "PROFILOMATIC_MAX_OVERHED means nothing; did you mean PROFILOMATIC_MAX_OVERHEAD?" in texts
    assert "PROFILOMATIC_FOO means nothing" in texts and "PROFILOMATIC_FOO means nothing;" not in texts
    assert "PROFILOMATIC_ENGINE='fast' is ignored: only 'gil' means something" in texts


def test_configured_option_names_its_origin(command):
    run = command(
        "-c",
        "import profilomatic, json, profilomatic.check as c; profilomatic.configure(max_overhead=0.03);"
        "print(json.dumps(c.examine(self_test=False)))",
    )
    rows = {row["name"]: row for row in json.loads(run.stdout)["options"]}
    assert rows["max_overhead"] == {"name": "max_overhead", "value": 0.03, "origin": "configure()"}


def test_broken_engine_is_status_two(command, tmp_path):
    (tmp_path / "broken.py").write_text(
        "import sys\nfrom profilomatic import _backend, check\n"
        "def load():\n    raise RuntimeError('no memory for slots')\n"
        "_backend.load = load\nsys.exit(check.main([]))\n"
    )
    run = command("broken.py", cwd=tmp_path)
    assert run.returncode == 2
    assert b"profiling does not work" in run.stdout and b"no memory for slots" in run.stdout


def test_self_test_that_sees_nothing_is_broken(monkeypatch, capsys):
    test = _check_live.SelfTest()
    test.problem = "no profile arrived"
    monkeypatch.setattr(_check_live, "run", lambda: test)
    assert check.main(["--json"]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "broken"


@pytest.mark.parametrize(
    "record,problem",
    [
        ({"samples": 0, "hits": 0, "place": None}, "not one sample"),
        ({"samples": 9, "hits": 9, "place": ("other.py", 1)}, "the planted line got 0%"),
        ({"samples": 9, "hits": 9, "place": (_check_live.PLANTED_FILE, _check_live.PLANTED_LINE)}, None),
    ],
)
def test_self_test_judges_what_arrived(record, problem):
    children = (
        []
        if record["place"] is None
        else [
            {
                "file": record["place"][0],
                "function": "work",
                "line": record["place"][1],
                "hits": record["hits"],
                "time": 0.1,
                "self_time": 0.1,
            }
        ]
    )
    line = json.dumps(
        {
            "time": 0.1,
            "hits": record["hits"],
            "children": children,
            "profiler": {
                "engine": "native",
                "period": 0.01,
                "samples": record["samples"],
                "missed": {},
                "overhead": {"fraction": 0, "cpu": 0},
            },
        }
    )
    test = _check_live.SelfTest()
    _check_live._judge(test, [line.encode()])
    assert (test.problem or "").startswith(problem or "") and bool(test.problem) == bool(problem)


def test_check_leaves_a_running_engine_running(monkeypatch):
    import profilomatic

    monkeypatch.setattr(_check_live, "_MIN_SECONDS", 0.05)
    seen = []
    profilomatic.add_destination(seen.append)
    try:
        _check_live.run()
        assert profilomatic.stats()["running"]
    finally:
        profilomatic.remove_destination(seen.append)
        profilomatic.stop()


@pytest.mark.parametrize(
    "prepare,level,words",
    [
        (lambda p: None, "ok", "can be made"),
        (lambda p: p.mkdir(), "broken", "is a folder"),
        (lambda p: p.write_text(""), "note", "is empty"),
        (lambda p: p.write_text("text\n"), "broken", "not JSON"),
        (lambda p: p.write_text('{"task_uuid": "x", "time": 1, "children": []}\n'), "ok", "holds 1 records"),
    ],
)
def test_file_argument_is_looked_at(tmp_path, prepare, level, words):
    path = tmp_path / "profiles.jsonl"
    prepare(path)
    (finding,) = check.file_findings(str(path))
    assert finding.level == level
    assert words in finding.text


def test_file_in_no_folder_is_broken(tmp_path):
    (finding,) = check.file_findings(str(tmp_path / "no" / "file"))
    assert (finding.level, finding.remedy) == ("broken", f"mkdir -p {tmp_path / 'no'}")


def told_of_zero_code(command, **env):
    """{topic: finding} of what the zero-code variables say, and the exit status."""
    run = command("-m", "profilomatic", "check", "--json", "--no-self-test", env=env)
    found = json.loads(run.stdout)["findings"]
    return {finding["topic"]: finding for finding in found if finding["topic"].startswith("PROFILOMATIC_")}, run.returncode


@pytest.mark.parametrize("text, words", [
    ("/no/such/folder/x", "the folder /no/such/folder does not exist"), ("/", "is a folder"), ("ftp://x", "a destination is a file"),
    ("http://h:99999/", "ort"), ("tcp://h", "a destination is a file"),
])
def test_a_destination_of_the_environment_that_cannot_be_had_is_broken(command, text, words):
    found, status = told_of_zero_code(command, PROFILOMATIC_DESTINATION=text)
    assert found["PROFILOMATIC_DESTINATION"]["level"] == "broken" and status == 2
    assert words in found["PROFILOMATIC_DESTINATION"]["text"]


@pytest.mark.parametrize("text", ["out.jsonl", "http://127.0.0.1:1/in", "tcp://127.0.0.1:1", "-"])
def test_a_destination_of_the_environment_is_looked_at_and_not_used(command, tmp_path, text):
    """Nothing is made or connected to, and an old file of whatever size is not read."""
    (tmp_path / "old").write_text("no records\n")
    for text in (str(tmp_path / text) if text == "out.jsonl" else text, str(tmp_path / "old")):
        found, status = told_of_zero_code(command, PROFILOMATIC_DESTINATION=text)
        assert found["PROFILOMATIC_DESTINATION"]["level"] == "ok" and status != 2
    assert [each.name for each in tmp_path.iterdir()] == ["old"]


def test_zero_code_without_its_folder_is_broken_and_says_what_to_do(command, tmp_path):
    parent, site = pathlib.Path(check.__file__).parent.parent, pathlib.Path(check.__file__).parent / "_site"
    (tmp_path / "sitecustomize.py").touch()

    def told(*path, auto="1", **env):
        return told_of_zero_code(command, PROFILOMATIC_AUTO=auto, PYTHONPATH=os.pathsep.join(map(str, path)), **env)

    found, status = told(parent)
    assert (found["PROFILOMATIC_AUTO"]["level"], status) == ("broken", 2)
    assert "profilomatic auto" in found["PROFILOMATIC_AUTO"]["remedy"]
    found, status = told(tmp_path, site, parent)
    assert status == 2 and str(tmp_path / "sitecustomize.py") in found["PROFILOMATIC_AUTO"]["text"]
    found, status = told(site, tmp_path, parent)
    assert status != 2 and (found["PROFILOMATIC_AUTO"]["level"], found["PROFILOMATIC_DESTINATION"]["level"]) == ("ok", "note")
    assert "is not set" in found["PROFILOMATIC_DESTINATION"]["text"]
    found, status = told(parent, auto="please")
    assert status != 2 and "'please' is ignored" in found["PROFILOMATIC_AUTO"]["text"]
    assert told(parent, auto="0")[0] == {} == told(parent, auto="")[0]


def stats(**change):
    good = {
        "engine": "native",
        "running": True,
        "actions": {"started": 9, "profiled": 9, "shed": 0, "finished": 9, "lost": 0},
        "samples": {"taken": 90, "missed": {}},
        "destinations": [{"name": "file x", "queued": 0, "dropped": {}, "last_error": None}],
    }
    return {**good, **change}


@pytest.mark.parametrize(
    "change,words",
    [
        ({}, None),
        ({"destinations": []}, "There is no destination"),
        ({"running": False}, "does not run"),
        (
            {"destinations": [{"name": "file x", "dropped": {}, "last_error": "no space left"}]},
            "no space left",
        ),
        ({"destinations": [{"name": "file x", "dropped": {"full": 3}, "last_error": None}]}, "dropped 3"),
        ({"actions": {"started": 0, "profiled": 0, "shed": 0, "finished": 0, "lost": 0}}, "No action began"),
        (
            {"actions": {"started": 5, "profiled": 0, "shed": 5, "finished": 0, "lost": 0}},
            "All 5 actions were shed",
        ),
        (
            {"actions": {"started": 9, "profiled": 2, "shed": 7, "finished": 2, "lost": 0}},
            "Most actions are shed",
        ),
        (
            {"actions": {"started": 2, "profiled": 2, "shed": 0, "finished": 0, "lost": 0}},
            "none has finished",
        ),
        ({"samples": {"taken": 0, "missed": {"torn": 4}}}, "without one sample"),
        ({"samples": {"taken": 2, "missed": {"no_anchor": 40}}}, "Most samples are missed"),
    ],
)
def test_explain_says_why_this_process_sends_nothing(change, words):
    said = check.explain(stats(**change))
    assert (said == []) if words is None else (words in said[0])


def test_a_named_destination_that_waits_for_an_application_is_told():
    done = run_python("""
import profilomatic.check, profilomatic.wsgi
assert "PROFILOMATIC_DESTINATION='/dev/null' is used once an application is wrapped" in profilomatic.check.explain()[0]
profilomatic.wsgi.wrap(lambda environ, start_response: [])
assert not any("PROFILOMATIC_DESTINATION" in each for each in profilomatic.check.explain())
""", PROFILOMATIC_DESTINATION="/dev/null")
    assert done.returncode == 0, done.stderr


def test_explain_asks_the_engine_itself():
    said = check.explain()
    assert said[0].startswith("There is no destination")


def test_probes_find_this_machine_usable():
    levels = {finding.topic: finding.level for finding in _check_platform.findings()}
    assert levels["thread CPU clock"] in ("ok", "note")
    assert "free-threaded build" not in levels
    assert "sub-interpreter" not in levels


def test_the_clock_of_threads_is_the_engines_own(monkeypatch):
    monkeypatch.delattr("time.pthread_getcpuclockid", raising=False)  # PyPy has none
    assert _check_platform.thread_clock().level in ("ok", "note")
    monkeypatch.setattr("profilomatic._pure_native.cpu_ns_of", lambda thread: None)
    assert _check_platform.thread_clock().level == "degraded"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter names system calls by their numbers there")
@pytest.mark.parametrize("refused", ["process_vm_readv", "process_vm_writev"])
def test_a_system_call_of_guarded_reads_that_is_refused_is_named(refused):
    done = run_python(REFUSE + f"""
from profilomatic import _check_platform
told = "refused: {refused} (Operation not permitted);" if refuse({refused.upper()}) else "this process may"
assert told in _check_platform.guarded_reads().text, _check_platform.guarded_reads()
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("on, level", [(True, "degraded"), (False, None)])
def test_a_jit_that_is_on_is_told_with_a_remedy(monkeypatch, on, level):
    monkeypatch.setattr(sys, "_jit", types.SimpleNamespace(is_enabled=lambda: on), raising=False)
    finding = _check_platform.jit()
    assert getattr(finding, "level", None) == level
    assert not on or "PYTHON_JIT=0" in finding.remedy


def of_uwsgi(monkeypatch, options):
    module = types.ModuleType("uwsgi")
    module.opt = options
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    return [finding for finding in _check_platform.findings() if finding.topic == "uWSGI"]


@pytest.mark.acceptance("W25")
def test_uwsgi_without_threads_is_told_with_a_remedy(monkeypatch):
    for options in ({}, {"threads": b"0"}, {b"enable-threads": b"false"}, {"master": True}):
        (finding,) = of_uwsgi(monkeypatch, options)
        assert check.explain(stats())[0].startswith("uWSGI holds the GIL")
        assert (finding.level, finding.remedy) == ("degraded", "set enable-threads = true")
    assert "holds the GIL" in check.explain(stats())[0]
    for options in ({"enable-threads": b"true"}, {"enable-threads": True}, {b"threads": b"4"}):
        (finding,) = of_uwsgi(monkeypatch, options)
        assert finding.level == "ok"
    assert check.explain(stats()) == []


def test_missing_extension_is_told_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "profilomatic._core", None)
    monkeypatch.delattr("profilomatic._core", raising=False)
    finding = _check_platform.extension()
    assert finding.level == "degraded" and finding.remedy


def test_a_reader_that_has_seen_enough_is_no_error():
    process = subprocess.Popen([sys.executable, "-m", "profilomatic", "check", "--no-self-test"], env=package_environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `| head` does
    assert process.stderr.read() == b"" and process.wait() in (0, 1)
    process.stderr.close()


@pytest.mark.parametrize("where,told", [(">&-", b""), (">/dev/full", b"profilomatic check: standard output: No space left on device\n")])
def test_without_an_output_the_exit_status_is_right(command, where, told):
    script = "import os, sys; os.execv('/bin/sh', ['sh', '-c', 'exec %s -m profilomatic check --no-self-test' % sys.executable + sys.argv[1]])"
    usual = command("-m", "profilomatic", "check", "--no-self-test").returncode
    done = command("-c", script, where)
    assert (done.returncode, done.stderr) == (usual, told)


def test_engine_names_are_those_of_the_backends():
    assert _backend.load().engine_info()["engine"] in (*check._NATIVE, "gil", "pure")


def test_commands_are_listed_and_unknown_ones_refused(command):
    run = command("-m", "profilomatic", "--help")
    assert run.returncode == 0 and b"report" in run.stdout and b"check" in run.stdout and b"run" in run.stdout
    run = command("-m", "profilomatic", "rapport")
    assert run.returncode == 2 and b"no command 'rapport'; did you mean report?" in run.stderr and run.stdout == b""
    assert b"did you mean" not in command("-m", "profilomatic", "xyzzy").stderr
    assert command("-m", "profilomatic").returncode == 2
    assert command("-m", "profilomatic", "--version").returncode == 0
    for name in ("run", "report", "check"):
        run = command("-m", "profilomatic", name, "--help")
        assert run.returncode == 0 and b"usage: profilomatic " + name.encode() in run.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["auto"], ["run", "--help"], ["report", "--help"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        assert written_to(pipe, *arguments) == (0, b"")


@pytest.mark.parametrize("argument", ["--help", "--version", "auto"])
def test_an_output_that_takes_nothing_is_one_line(argument):
    with open("/dev/full", "wb") as full:
        assert written_to(full, argument) == (2, b"profilomatic: standard output: No space left on device\n")


def written_to(out, *arguments):
    run = subprocess.run([sys.executable, "-m", "profilomatic", *arguments], stdout=out, stderr=subprocess.PIPE,
                         env=package_environment())
    return run.returncode, run.stderr


def test_an_interrupted_command_ends_without_a_traceback(monkeypatch):
    from profilomatic import _cli

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "examine", interrupted)
    assert _cli.main(["check"]) == 130
