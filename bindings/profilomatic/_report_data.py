"""The report as data, for --json: the same facts as the text, unrounded, paths as recorded.

Text is JSON-escaped ASCII, so it is safe to print. Times are seconds.
"""

from . import _report_causes, _report_tree
from ._report_model import Action, moment

FORMAT = "profilomatic-report/1"
_MAX_DEPTH = 120  # readers of JSON recurse; records have this depth at most


def report(model, reader, sources, everything):
    head = model.head
    data = {
        "format": FORMAT,
        "head": {
            "actions": head.actions,
            "start": head.first,
            "end": head.last,
            "sources": head.sources.ordered(),
            "pids": head.pids.ordered(),
            "engines": head.engines.ordered(),
            "period": {"min": head.period_min, "max": head.period_max},
            "samples": head.samples,
            "missed": head.missed,
            "truncated": head.truncated,
            "shed": head.shed,
            "time": head.wall,
            "cpu_time": head.cpu,
            "sampled_time": model.sampled.wall,
            "sampled_cpu_time": model.sampled.cpu,
            "overhead": {
                "fraction": head.overhead,
                "max_fraction": head.overhead_max,
                "cpu": head.overhead_cpu,
            },
        },
        "input": _input(reader),
        "sort": model.sort,
        "hottest_lines": [_line(place, line, model, sources) for place, line in model.hottest_lines()],
        "slow_causes": [_cause(cause, sources) for cause in _report_causes.find(model.groups.values())],
        "by": model.by,
        "groups": [_group(group, model) for group in model.groups_ordered()],
        "slowest_actions": [_action(action, sources) for action in model.slowest_actions()],
    }
    if model.bottom_up is not None:
        root = model.bottom_up.sorted_root(model.sort)
        rows = root.children if everything else root.children[: model.top]
        data["bottom_up"] = [_view(child, sources, "callers") for child in rows]
    data["changed_sources"] = sources.changed_since(head.first)  # last, when it is known whose text is told
    return data


def tasks(records, more, walk, sources, options):
    shown = []
    for record in records:
        action = Action(record, options.by)
        costs = walk.costs(record)
        action.hottest = max(costs, key=lambda place: costs[place].wall, default=None)
        data = _action(action, sources)
        data["fields"] = record.get("action")
        data["profiler"] = record.get("profiler")
        if options.bottom_up:
            bottom_up = _report_tree.BottomUp()
            bottom_up.add(walk.self_costs(record))
            data["bottom_up"] = [
                _view(child, sources, "callers") for child in bottom_up.sorted_root(options.sort).children
            ]
        else:
            data["call_graph"] = _view(_report_tree.top_down(record, walk.places), sources, "children")
        shown.append(data)
    first = min(filter(None, (moment(record.get("start_time")) for record in records)), default=None)
    return {"format": FORMAT, "tasks": shown, "more": more, "changed_sources": sources.changed_since(first)}


def _input(reader):
    return {
        "name": reader.name,
        "lines": reader.lines,
        "records": reader.records,
        "bad": reader.bad,
        "first_bad": reader.first_bad,
        "torn": reader.torn,
        "too_long": reader.too_long,
        "lost": reader.clients.lost(),
    }


def _place(place, sources):
    if place is None:
        return {"file": None, "function": None, "line": None}
    data = {"file": place.file, "function": place.function, "line": place.line, "library": place.in_library}
    source = sources.line(place.file, place.line)
    if source:
        data["source"] = source
    return data


def _line(place, line, model, sources):
    below = sorted((line.below or {}).items(), key=lambda item: -item[1])
    whole = model.sampled.cpu if model.sort == "cpu" else model.sampled.wall
    return {
        **_place(place, sources),
        "share": (line.cpu if model.sort == "cpu" else line.wall) / whole if whole else 0.0,
        "time": line.wall,
        "cpu_time": line.cpu,
        "waiting_time": max(0.0, line.wall - line.cpu),
        "hits": line.hits,
        "actions": line.actions,
        "in_library": [{**_place(inner, sources), "time": wall} for inner, wall in below[:5]],
    }


def _cause(cause, sources):
    return {
        "group": cause.group.name,
        "slow": cause.slow,
        "actions": cause.count,
        "slow_time": cause.slow_time,
        "rest_time": cause.rest_time,
        **_place(cause.place, sources),
        "line_time_slow": cause.slow_line,
        "line_time_rest": cause.rest_line,
        "slow_with_line": cause.hit,
        "line_time_where_met": cause.hit_line,
        "explained": cause.explained,
        "waiting": cause.waiting,
        "example_task": cause.example,
    }


def _group(group, model):
    return {
        "name": group.name,
        "count": group.times.count,
        "p50": group.times.at(0.5),
        "p95": group.times.at(0.95),
        "max": group.times.max,
        "time": group.wall,
        "cpu_time": group.cpu,
        "cpu_share": group.cpu / model.head.cpu if model.head.cpu else 0.0,
        "errors": group.errors,
        "aborted": group.aborted,
        "lost": group.lost,
        "phases": {name: spent for name, spent in group.phases.items() if spent},
    }


def _action(action, sources):
    return {
        "task_uuid": action.task,
        "name": action.name,
        "kind": action.kind,
        "time": action.time,
        "cpu_time": action.cpu,
        "waiting_time": max(0.0, action.time - action.cpu),
        "outcome": action.outcome,
        "status": action.status,
        "error": action.error,
        "start_time": action.start,
        "source": action.source,
        "pid": action.pid,
        "thread": action.thread,
        "hottest_line": _place(action.hottest, sources) if action.hottest is not None else None,
    }


def _view(root, sources, children_key):
    """A tree of views as nested dicts, built without recursion; what lies deeper than readers bear is left out."""
    data = _node(root, sources)
    todo = [(root, data, 0)]
    while todo:
        view, into, depth = todo.pop()
        if view.children and depth >= _MAX_DEPTH:
            into["deeper_nodes_left_out"] = True
            continue
        below = []
        for child in view.children:
            node = _node(child, sources)
            below.append(node)
            todo.append((child, node, depth + 1))
        if below:
            into[children_key] = below
    return data


def _node(view, sources):
    data = {} if view.place is None else _place(view.place, sources)
    data.update(
        time=view.time,
        self_time=view.self_time,
        cpu_time=view.cpu,
        hits=view.hits,
        start_time=view.start,
        end_time=view.end,
    )
    if view.message is not None:
        data["message"] = view.message
    return data
