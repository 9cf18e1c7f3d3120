"""`profilomatic report FILE`: which actions were slow, and which lines made them so."""

import argparse
import json
import os
import sys

from . import _record_file, _report_causes, _report_data, _report_tree, _wire
from ._report_costs import Places, Walk
from ._report_graph import GraphText
from ._report_model import Action, Model, is_about
from ._report_records import task_id
from ._report_source import Shortener, Sources, name_of_library_file
from ._report_text import TextReport
from ._terminal import Terminal

_MAX_TASKS = 20  # records of one task shown: its actions in other threads and processes
_HOT_OF_TASK = 3


def make_parser():
    parser = argparse.ArgumentParser(
        prog="profilomatic report",
        description="Show what a file of profile records says: hottest lines, what makes slow "
        "actions slow, routes, slowest actions; or the whole call graph of one action.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="a file of profile records, in either form; - reads standard input"
    )
    parser.add_argument(
        "--top", type=_positive, metavar="N", help="rows per section (default: 10, of routes 20)"
    )
    parser.add_argument(
        "--task", metavar="ID", type=task_id, help="the call graph of one task; the first characters of its id do"
    )
    parser.add_argument("--bottom-up", action="store_true", help="self time by line, with the callers below")
    parser.add_argument("--by", choices=("route", "type"), default="route", help="how actions are grouped")
    parser.add_argument(
        "--sort", choices=("time", "cpu"), default="time", help="rank by wall time or by CPU time"
    )
    parser.add_argument(
        "--leaf",
        action="store_true",
        help="charge the innermost line, library or not, instead of your line that called for it",
    )
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="TEXT",
        help="files whose path contains TEXT are your code even when installed as a library; may be repeated",
    )
    parser.add_argument("--all", action="store_true", dest="everything", help="fold nothing in trees")
    parser.add_argument("--json", action="store_true", dest="as_json", help="the same as JSON")
    parser.add_argument("--source-root", metavar="DIR", help="a folder with a copy of the sources")
    parser.add_argument("--no-source", action="store_true", help="read no source file")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    return parser


def _positive(text):
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def main(argv=None, out=None):
    """The exit status: 0 shown, 1 nothing to show, 2 unreadable or wrong use."""
    options = make_parser().parse_args(argv)
    if options.source_root and not os.path.isdir(options.source_root):
        return _record_file.fail("report", f"--source-root: {options.source_root} is not a folder")
    return _record_file.read("report", options.file, lambda stream, name: _report(stream, name, options, out))


def _report(stream, name, options, out):
    out = out or _record_file.standard(sys.stdout, "standard output")
    is_library = lambda file: name_of_library_file(file) is not None and not any(text in file for text in options.own)
    places = Places(is_library)
    sources = Sources(options.source_root, not options.no_source)
    if options.task is not None:
        return _report_task(stream, name, options, out, places, sources)
    bottom_up = _report_tree.BottomUp() if options.bottom_up else None
    model = Model(places, options.by, options.leaf, options.sort, options.top, bottom_up)
    reader = _wire.open_reader(stream, name)
    for record in reader:
        model.add(record)
    if not reader.records:
        return _nothing(name)
    with _record_file.named("standard output"):
        if options.as_json:
            _write_json(_report_data.report(model, reader, sources, options.everything), out)
        else:
            _show(model, reader, name, options, out, sources)
    return 0


def _show(model, reader, name, options, out, sources):
    terminal = Terminal(out, options.color)
    shortener = Shortener(_files_shown(model), options.own)
    text, graph = TextReport(terminal, sources, shortener), GraphText(terminal, sources, shortener)
    text.head(model, reader)
    if model.bottom_up is not None:
        graph.bottom_up(model.bottom_up, model, options.everything)
    else:
        text.hottest_lines(model)
        text.causes(model)
        text.groups(model)
        text.phases(model)
        text.slowest(model)
        text.in_short(model, "-" if options.file == "-" else name)
    text.changed_sources(model)
    out.flush()


def _files_shown(model):
    """Files of the places that matter, for the folder they have in common."""
    places = [place for place, _ in model.hottest_lines()]
    places += [action.hottest for action in model.slowest_actions() if action.hottest is not None]
    places += [cause.place for cause in _report_causes.find(model.groups.values())]
    return {place.file for place in places if place.file}


def _nothing(name):
    print(
        f"profilomatic report: {name} has no record yet: no action has finished and been written (once a second), or none was "
        "profiled (a script without actions of its own: `profilomatic run --whole`); `profilomatic check` tells what may be wrong",
        file=sys.stderr,
    )
    return 1


def _report_task(stream, name, options, out, places, sources):
    wanted = options.task
    reader = _wire.open_reader(stream, name, needle=wanted.encode("utf-8", "replace"))
    found, more = [], 0
    for record in reader:
        if not is_about(record, wanted):
            continue
        if len(found) < _MAX_TASKS:
            found.append(record)
        else:
            more += 1
    if not found:
        if not reader.records:
            return _nothing(name)
        return _record_file.no_such_task("report", wanted, name)
    found.sort(key=lambda record: str(record.get("start_time")))
    with _record_file.named("standard output"):
        if options.as_json:
            walk = Walk(places, options.leaf, measured=True)
            _write_json(_report_data.tasks(found, more, walk, sources, options), out)
        else:
            _show_tasks(found, more, options, out, places, sources)
    return 0


def _show_tasks(found, more, options, out, places, sources):
    terminal = Terminal(out, options.color)
    shortener = Shortener(_own_files(found, places), options.own)
    text, graph = TextReport(terminal, sources, shortener), GraphText(terminal, sources, shortener)
    for index, record in enumerate(found):
        if index:
            terminal.line()
        action = Action(record, options.by)
        graph.task_head(record, action)
        bottom_up = _report_tree.BottomUp() if options.bottom_up else None
        model = Model(places, options.by, options.leaf, options.sort, options.top, bottom_up, measured=True)
        model.add(record)
        if bottom_up is not None:
            graph.bottom_up(bottom_up, model, options.everything)
        else:
            model.top = min(model.top, _HOT_OF_TASK)
            text.hottest_lines(model)
            graph.call_graph(record, action, places, options.everything)
        text.changed_sources(model)
    if more:
        terminal.line(f"and {more:,} more actions of such tasks; give more of the id")
    out.flush()


def _own_files(records, places):
    files = set()
    walk = Walk(places, leaf=False)
    for record in records:
        files.update(place.file for place in walk.costs(record) if place.file and not place.in_library)
    return files


def _write_json(data, out):
    json.dump(data, out, indent=1)
    out.write("\n")
    out.flush()
