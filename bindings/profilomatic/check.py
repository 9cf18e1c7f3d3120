"""`profilomatic check [FILE]`: which engine runs here and why, what is missing, and why no data may arrive.

The exit status tells scripts: 0 the native engine works, 1 profiling works with another engine, 2 it does not work.
In a running application `profilomatic.check.explain()` says why that process sends nothing.
"""

import argparse
import json
import os
import sys
import warnings

from . import _hosting
from ._check_platform import Finding, describe, findings

_NATIVE = ("native", "core", "_core")
_MARKS = {
    "ok": ("ok", "green"),
    "note": ("note", "yellow"),
    "degraded": ("less", "yellow"),
    "broken": ("BAD", "red"),
}


def main(argv=None, out=None):
    parser = argparse.ArgumentParser(
        prog="profilomatic check",
        description="Say which engine runs here and why, what is missing, which options hold, "
        "and what a live self-test saw. Exit status: 0 native engine, 1 another engine, 2 broken.",
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="also look whether profiles can be, or were, written there"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="the same as JSON")
    parser.add_argument("--no-self-test", action="store_true", help="profile nothing")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    options = parser.parse_args(argv)
    result = examine(options.file, not options.no_self_test)
    out = out or sys.stdout or open(os.devnull, "w")  # with standard output closed there is still the exit status
    try:
        if options.as_json:
            json.dump(result, out, indent=1)
            out.write("\n")
        else:
            _print(result, out, options.color)
        out.flush()
    except OSError as error:
        from ._terminal import abandon

        if not isinstance(error, BrokenPipeError):
            print(f"profilomatic check: standard output: {error.strerror or error}", file=sys.stderr)
        abandon()  # the exit status is the answer still
    return {"ok": 0, "degraded": 1, "broken": 2}[result["status"]]


def examine(file=None, self_test=True):
    """Everything that the command shows, as a dict."""
    values, option_findings = _options()
    engine, engine_findings = _engine()
    found = engine_findings + findings() + option_findings + _zero_code()
    test = None
    if self_test and engine["engine"] is not None:
        from . import _check_live

        test = _check_live.run()
        found.append(_self_test_finding(test))
    if file is not None:
        found += file_findings(file)
    return {
        "format": "profilomatic-check/1",
        "status": _status(engine, found, test),
        "platform": describe(),
        "engine": engine,
        "findings": [finding.data() for finding in found],
        "options": values,
        "self_test": test.data() if test is not None else None,
        "why_no_data": _USUAL_REASONS,
    }


def _status(engine, found, test):
    if any(finding.level == "broken" for finding in found):
        return "broken"
    name = test.engine if test is not None and test.engine else engine["engine"]
    return "ok" if name in _NATIVE else "degraded"


def _engine():
    from . import _backend

    try:
        module = _backend.load()
        info = dict(module.engine_info())
    except Exception as error:  # a broken engine is a finding, not a crash of the tool that explains it
        text = f"no engine can be loaded: {type(error).__name__}: {error}"
        return (
            {"engine": None, "reason": text, "layout_ok": None, "details": {}},
            [Finding("broken", "engine", text, "reinstall the package")],
        )
    name = info.get("engine") or getattr(module, "NAME", "?")
    reason = info.get("reason") or _backend.reason
    info.update(engine=name, reason=reason)
    if name in _NATIVE:
        found = [
            Finding(
                "ok",
                "engine",
                "native: stacks are read without taking the GIL"
                + ("; the layout of this interpreter was checked" if info.get("layout_ok") else ""),
            )
        ]
        blind = info["details"].get("request_threads_reason")
        if blind:
            text = f"what runs in threads for a request of ASGI is not seen, because {blind}"
            found.append(Finding("degraded", "threads", text, "reinstall the package from source"))
        return info, found
    meaning = {
        "gil": "every sample takes the GIL: it costs more and is later under load",
        "pure": "written in Python: the same answers at a higher cost",
    }.get(name, "")
    if reason and reason.startswith("the extension"):
        reason = "the C extension is not usable (see below)"
    finding = Finding("degraded", "engine", f"{name}; {meaning}" + (f", because {reason}" if reason else ""))
    if info.get("layout_ok") is False:
        finding.remedy = (
            "the interpreter was built unlike the one this package was compiled for: reinstall from source"
        )
    return info, [finding]


def _options():
    from . import _options as options

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = options.effective()
    environment, configured = options._environment or {}, options._configured
    rows = []
    for name, value in values.items():
        origin = "default"
        if name in configured:
            origin = "configure()"
        elif name in environment:
            origin = "PROFILOMATIC_" + name.upper()
        rows.append({"name": name, "value": value, "origin": origin})
    found = [Finding("note", "options", str(warning.message)) for warning in caught]
    engine = os.environ.get("PROFILOMATIC_ENGINE", "")
    if engine not in ("", "native", "gil"):
        found.append(Finding("note", "options", f"PROFILOMATIC_ENGINE={engine!r} is ignored: only 'gil' means something"))
    said = {finding.text for finding in found}
    found.extend(Finding("note", "options", text) for text in options.unknown_variables() if "profilomatic: " + text not in said)
    return rows, found


def _zero_code():
    """What PROFILOMATIC_AUTO and PROFILOMATIC_DESTINATION will do, in the environment of this command."""
    from . import _options as options

    topic, text = "PROFILOMATIC_AUTO", os.environ.get("PROFILOMATIC_AUTO", "").strip()
    try:
        asked = bool(text) and options._text_boolean(text)
    except options.Bad:
        asked = False
        found = [Finding("note", topic, f"PROFILOMATIC_AUTO={text!r} is ignored: must be 1")]
    else:
        found = [_auto(topic)] if asked else []
    return found + _destination(asked)


def _auto(topic):
    from ._site import FOLDER

    # What our sitecustomize does; it leaves no other trace, and an interpreter's folders may be others later than at its start.
    if getattr(sys.modules.get("profilomatic.auto"), "_installed", False):
        return Finding("ok", topic, "what is served is wrapped")
    text = "PROFILOMATIC_AUTO is set and nothing will be wrapped, because "
    others = getattr(sys.modules.get("sitecustomize"), "__file__", None)
    if FOLDER in map(os.path.abspath, sys.path) and others:
        return Finding("broken", topic, text + f"{others} hides our sitecustomize", f"put {FOLDER} first on PYTHONPATH")
    remedy = 'export PYTHONPATH="$(profilomatic auto)${PYTHONPATH:+:$PYTHONPATH}"'
    return Finding("broken", topic, text + f"the folder {FOLDER} is not on PYTHONPATH", remedy)


def _destination(needed):
    from . import _named

    topic, text = "PROFILOMATIC_DESTINATION", _named.in_environment()
    if not text:
        said = "it is not set, so profiles go only where the application's own code adds a destination"
        return [Finding("note", topic, said)] if needed else []
    if _named.is_file(text):
        return [_unwritable(text, topic) or Finding("ok", topic, f"{text} can be written")]
    try:
        _named.look(text)
    except (ValueError, TypeError, OSError) as error:
        return [Finding("broken", topic, str(error))]
    return [Finding("ok", topic, f"{text} can be used; whether somebody answers there was not tried")]


def _self_test_finding(test):
    if test.problem:
        return Finding("broken", "self-test", test.problem, test.remedy)
    text = (
        f"{test.samples} samples in {test.seconds:.1f} s (a period of {1000 * test.period:.1f} ms asks for {test.expected}); "
        f"the planted line got {100 * test.planted_share:.0f}%; overhead {100 * test.overhead_fraction:.2f}%, "
        f"{1000 * test.overhead_cpu:.1f} ms CPU"
    )
    if test.samples < 0.5 * test.expected:
        return Finding(
            "note", "self-test", text + ". Less than half of the wanted samples: the machine is very busy"
        )
    return Finding("ok", "self-test", text)


def _unwritable(path, topic):
    """Why profiles cannot be written to a path, or None."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        return Finding("broken", topic, f"{path} is a folder", "name a file")
    if not os.path.isdir(folder):
        return Finding("broken", topic, f"the folder {folder} does not exist", f"mkdir -p {folder}")
    target = path if os.path.exists(path) else folder
    if not os.access(target, os.W_OK):
        text = f"{target} may not be written by user {_user()}"
        return Finding("broken", topic, text, "file_destination() fails there: choose another path, or change its owner")
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < 1 << 20:
        return Finding("broken", topic, f"the file system of {folder} is full")
    return None


def file_findings(path):
    """Whether profiles can be written to a path, and whether some are there."""
    wrong = _unwritable(path, "file")
    if wrong is not None:
        return [wrong]
    if not os.path.exists(path):
        return [Finding("ok", "file", f"{path} does not exist yet and can be made")]
    from ._report_records import NotRecords, Reader

    try:
        with open(path, "rb") as stream:
            reader = Reader(stream, path)
            count = sum(1 for _ in reader)
    except NotRecords as error:
        return [Finding("broken", "file", str(error))]
    except OSError as error:
        return [Finding("broken", "file", f"{path}: {error.strerror}")]
    if not count:
        return [Finding("note", "file", f"{path} is empty: no action has finished since it was opened")]
    return [Finding("ok", "file", f"{path} can be written and holds {count:,} records")]


def _user():
    return str(getattr(os, "geteuid", lambda: "?")())


_USUAL_REASONS = [
    "No destination: nothing starts before the first profilomatic.add_destination(), in each process that serves.",
    "No action: only what runs inside wsgi.wrap(app), asgi.wrap(app), profilomatic.action(...) or an Eliot action is profiled.",
    "It is wrapped, but another object is served: wrap what the server imports (app.wsgi_app = wrap(app.wsgi_app)).",
    "Everything is shed: max_overhead or max_actions_per_run is too low for the load; stats()['actions']['shed'] grows.",
    "The actions are shorter than the period: they are there, with few samples or none; many of them add up.",
    "The file cannot be written or is another one (relative path, other user, other container): stats()['destinations'].",
    "The process died by SIGTERM or SIGKILL before the last second was flushed, or is still in its first second.",
    "The server runs the application in a sub-interpreter, or holds the GIL between requests: the log of logger 'profilomatic' says so.",
    "PROFILOMATIC_* variables of the environment differ between your shell and the server's.",
]


def _capital(text):
    return text if text.startswith("uWSGI") else text[0].upper() + text[1:]


def explain(stats=None):
    """Why this process sends no profiles: a list of sentences, the most likely first; empty when all is well."""
    if stats is None:
        import profilomatic

        stats = profilomatic.stats()
    actions, destinations, samples = stats["actions"], stats["destinations"], stats["samples"]
    caveats = _hosting.caveats()
    said = [f"{_capital(caveat.text)}: {caveat.remedy}." for caveat in caveats]
    if any(caveat.refuses for caveat in caveats):
        return said  # what else is missing would not help
    if not destinations:
        from . import _named

        named = _named.waiting()
        said.append(
            f"There is no destination: PROFILOMATIC_DESTINATION={named!r} is used once an application is wrapped, and none is; "
            "call profilomatic.add_destination()."
            if named
            else "There is no destination: call profilomatic.add_destination(profilomatic.file_destination(PATH))."
        )
    if not stats["running"]:
        said.append(
            "The engine does not run: profilomatic.start() starts it, and so does the first add_destination()."
        )
    for destination in destinations:
        if destination.get("last_error"):
            said.append(f"The destination {destination['name']} fails: {destination['last_error']}.")
        dropped = sum((destination.get("dropped") or {}).values())
        if dropped:
            said.append(
                f"The destination {destination['name']} dropped {dropped:,} {'profile' if dropped == 1 else 'profiles'}: {destination['dropped']}."
            )
    if not actions["started"]:
        said.append(
            "No action began: wrap the application that the server really calls, or use profilomatic.action()."
        )
    elif not actions["profiled"]:
        said.append(f"All {actions['shed']:,} actions were shed: raise max_overhead or max_actions_per_run.")
    elif actions["shed"] > actions["profiled"]:
        said.append(
            f"Most actions are shed ({actions['shed']:,} of {actions['started']:,}): raise max_overhead."
        )
    elif not actions["finished"]:
        said.append("Actions began and none has finished yet: a profile is sent when its action ends.")
    missed = sum(samples["missed"].values())
    if actions["finished"] and not samples["taken"]:
        said.append(
            "Actions finish without one sample: they are shorter than the period"
            + (f", or their samples are missed: {samples['missed']}." if missed else ".")
        )
    elif missed > samples["taken"]:
        said.append(f"Most samples are missed: {samples['missed']}.")
    return said


def _print(result, out, color):
    from ._terminal import Terminal, clean

    terminal = Terminal(out, color)
    verdict = {
        "ok": ("profiling works, natively", "green"),
        "degraded": ("profiling works, with a slower engine", "yellow"),
        "broken": ("profiling does not work", "red"),
    }[result["status"]]
    terminal.line(f"{terminal.paint(verdict[0], 'bold', verdict[1])} · {result['platform']}")
    terminal.line()
    for finding in result["findings"]:
        mark, paint = _MARKS[finding["level"]]
        _entry(terminal, terminal.paint(f"{mark:<5}", paint), f"{finding['topic']}: {clean(finding['text'])}")
        if finding["remedy"]:
            _entry(
                terminal,
                "     ",
                "→ " + clean(finding["remedy"]) if terminal.unicode else "> " + clean(finding["remedy"]),
            )
    details = result["engine"].get("details") or {}
    if details:
        terminal.line()
        terminal.line(terminal.paint("ENGINE DETAILS", "title"))
        for name, value in details.items():
            if isinstance(value, dict):
                value = ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
            _entry(terminal, " " * 5, f"{clean(name)}: {clean(value)}")
    terminal.line()
    terminal.line(terminal.paint("OPTIONS", "title"))
    for row in result["options"]:
        terminal.line(
            f"     {row['name']:<21}{clean(repr(row['value'])):<12}{terminal.paint(row['origin'], 'dim')}"
        )
    terminal.line()
    terminal.line(
        terminal.paint("WHEN NO DATA ARRIVES", "title")
        + "  in the process itself: profilomatic.check.explain() tells which it is"
    )
    for reason in result["why_no_data"]:
        _entry(terminal, "   - ", reason)
    out.flush()


def _entry(terminal, mark, text):
    import textwrap

    room = terminal.columns - 6
    for index, line in enumerate(textwrap.wrap(text, room, break_on_hyphens=False) or [""]):
        terminal.line((mark if index == 0 else "     ") + " " + line)
