"""Trees as text: the call graph of one action, and lines with their callers; one row a node."""

from . import _report_tree
from ._report_costs import number
from ._report_pieces import Pieces, bare
from ._terminal import clean, clip, count, percent, seconds, width

_BAR = 6
_MAX_INDENT = 36


class GraphText(Pieces):
    """What is said about one action, and the drawing of any tree."""

    def task_head(self, record, action):
        paint, out = self.out.paint, self.out
        outcome = clip(clean(action.outcome), 20)
        rest = (f" {action.status}" if action.status is not None else "") + f"  {seconds(action.time)}"
        if "cpu_time" in record:
            rest += f", CPU {seconds(action.cpu)}, waiting {seconds(max(0.0, action.time - action.cpu))}"
        name = clip(clean(action.name), out.columns - width(outcome) - width(rest) - 2)
        out.line(paint(name, "bold") + "  " + paint(outcome, "red" if action.error else "green") + rest)
        parts = [
            f"task {clean(action.task, 80)}",
            f"started {clean(action.start, 40)}",
            clean(action.source, 60),
        ]
        if action.pid:
            parts.append(f"pid {action.pid}")
        thread = action.thread or record.get("thread")
        if thread not in (None, ""):
            parts.append(f"thread {clean(thread, 60)}")
        self.flow([part for part in parts if part])
        self._fields(record)
        profiler = record.get("profiler") if isinstance(record.get("profiler"), dict) else {}
        if profiler:
            overhead = profiler.get("overhead") if isinstance(profiler.get("overhead"), dict) else {}
            self.flow(
                [
                    f"engine {clean(profiler.get('engine', ''), 40)}",
                    f"period {seconds(number(profiler.get('period')))}",
                    count(int(number(profiler.get("samples"))), "sample"),
                    f"our bill {seconds(number(overhead.get('cpu')))} CPU",
                ]
            )
            cut = profiler.get("truncated")
            if isinstance(cut, dict) and any(number(v) for v in cut.values()):
                text = ", ".join(f"{int(number(v)):,} {clean(k, 40)}" for k, v in cut.items() if number(v))
                out.line(paint(clip(f"! cut at a cap while recording: {text}", out.columns), "yellow"))

    def call_graph(self, record, action, places, everything):
        root = _report_tree.top_down(record, places)
        if not root.time:
            root.time = action.time
        if not everything:
            _report_tree.fold(root, self.shortener.show)
        self.title("CALL GRAPH", "in the order of what happened; █ of the whole action")
        self._tree(
            root,
            "cpu_time" in record,
            start=record.get("start_time"),
            whole=root.time,
            first=f"{'the action':<10} (its own time: between and beside the samples)",
        )

    def _fields(self, record):
        fields = record.get("action")
        if not isinstance(fields, dict):
            return
        parts = []
        for name, value in fields.items():
            if name in ("type", "kind", "outcome", "status", "route") and not (
                name == "type" and fields.get("route")
            ):
                continue
            if isinstance(value, dict):
                value = " ".join(
                    f"{clean(k, 40)} {seconds(v) if name == 'phases' and isinstance(v, float) else clean(v, 80)}"
                    for k, v in list(value.items())[:10]
                )
            if value not in (None, "", []):
                parts.append(f"{clean(name, 40)}: {clip(clean(value, 300), 80)}")
        if parts:
            self.flow(parts[:20])

    def bottom_up(self, bottom_up, model, everything):
        root = bottom_up.sorted_root(model.sort)
        whole = root.time
        rest = len(root.children) - model.top
        if rest > 0 and not everything:
            root.children = root.children[: model.top]
        if not everything:
            _report_tree.fold(root, self.shortener.show, in_order=False)
        self.title("BOTTOM UP", "self time by line, its callers below")
        if not root.children:
            self.out.line("  no sample")
            return
        self._tree(root, model.head.has_cpu, start=None, whole=whole, first=None)
        if rest > 0 and not everything:
            self.out.line(self.out.paint(f"and {rest:,} more lines; --top N or --all shows them", "dim"))
        if bottom_up.cut:
            self.out.line(
                self.out.paint(f"! {bottom_up.cut:,} callers not kept: too many distinct ones", "yellow")
            )

    def _tree(self, root, has_cpu, start, whole, first):
        """Draws the children of root, or root itself above them when `first` names it."""
        show_self = first is not None
        header = "    time" + ("    self" if show_self else "   share") + ("     CPU  " if has_cpu else "  ")
        self.out.line(self.out.paint(header + " " * _BAR, "dim"))
        if first is not None:
            self._row(root, "", "", first, has_cpu, show_self, whole)
        # (view, its ancestors' lines, last among its siblings, depth)
        todo = [
            (child, "", i == len(root.children) - 1) for i, child in reversed(list(enumerate(root.children)))
        ]
        while todo:
            view, lines, last = todo.pop()
            corner = "" if first is None and not lines else "└ " if last else "├ "
            if view.message is not None:
                self._message(view, lines, corner, has_cpu, start)
            else:
                self._row(view, lines, corner, None, has_cpu, show_self, whole)
            below = lines + ("  " if last or (first is None and not lines) else "│ ")
            todo.extend(
                (child, below, i == len(view.children) - 1)
                for i, child in reversed(list(enumerate(view.children)))
            )

    def _row(self, view, lines, corner, label, has_cpu, show_self, whole):
        out = self.out
        share = view.time / whole if whole else 0.0
        second = seconds(view.self_time) if show_self else percent(share)
        if show_self and view.self_time <= 0:
            second = "·"
        columns = f"{seconds(view.time):>8}{second:>8}" + (f"{seconds(view.cpu):>8}" if has_cpu else "")
        used = 16 + (8 if has_cpu else 0) + 2 + _BAR + 1
        waiting = self.waits(view.time, view.cpu) if has_cpu else 0.0
        indent = _indent(lines)
        room = out.columns - used - len(indent) - len(corner)
        start = f"{columns}  {out.bar(share, _BAR, waiting)} {out.paint(indent + corner, 'dim')}"
        if label is not None:
            out.line(start + clip(label, room))
        elif view.note is not None:
            out.line(start + out.paint(clip("⋯ " + view.note, room), "dim"))
        else:
            place = self.where(view.place, room)
            left = room - width(bare(place)) - 3
            source = (
                self.sources.line(view.place.file, view.place.line)
                if view.place is not None and left >= 12
                else ""
            )
            out.line(start + place + ("   " + out.paint(clip(source, left), "cyan") if source else ""))

    def _message(self, view, lines, corner, has_cpu, start):
        at = _report_tree.offset(view, start)
        moment = f"+{seconds(max(0.0, at))}" if at is not None else ""
        used = 16 + (8 if has_cpu else 0) + 2 + _BAR + 1
        indent = _indent(lines)
        room = self.out.columns - used - len(indent) - len(corner)
        name, fields = _message_text(view.message)
        text = "◆ " + name + ("  " + fields if fields else "")
        if view.place is not None:
            text += "  at " + self.spot(view.place)
        text = clip(text, room)
        self.out.line(
            f"{moment:>8}"
            + " " * (used - 8)
            + self.out.paint(indent + corner, "dim")
            + self.out.paint(text, "yellow")
        )


def _indent(lines):
    if len(lines) <= _MAX_INDENT:
        return lines
    hidden = (len(lines) - _MAX_INDENT) // 2 + 3
    mark = f"⋯{hidden} "
    return mark + lines[-(_MAX_INDENT - len(mark)) :]


_QUIET_FIELDS = ("task_uuid", "task_level", "timestamp", "action_type", "action_status", "message_type")


def _message_text(message):
    kind = message.get("action_type") or message.get("message_type") or ""
    status = message.get("action_status")
    name = clean(kind, 200) + (f" {clean(status, 40)}" if status else "")
    fields = " ".join(
        f"{clean(k, 60)}={clean(v, 200)}" for k, v in list(message.items())[:30] if k not in _QUIET_FIELDS
    )
    return (name or "message").strip(), fields
