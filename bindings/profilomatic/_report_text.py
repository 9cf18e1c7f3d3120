"""The report as text: sections to be read at a glance, the guilty line first, within the width of the terminal."""

import datetime

from . import _report_causes, _report_tree
from ._report_costs import children_of, number
from ._terminal import clean, clip, clip_left, count, pad, percent, seconds, width

_BAR = 10
_TREE_BAR = 6
_MAX_INDENT = 36


class TextReport:
    """Writes sections to a Terminal. `sources` finds source text, `shortener` shows paths."""

    def __init__(self, terminal, sources, shortener):
        self.out = terminal
        self.sources = sources
        self.shortener = shortener

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _title(self, title, hint=""):
        self.out.line()
        self.out.line(self.out.paint(title, "title") + ("  " + self.out.paint(hint, "dim") if hint else ""))

    def place(self, place):
        """file:line function, as printed."""
        if place is None or not (place.file or place.function):
            return "(no Python frame)"
        where = self.shortener.show(place.file)
        if place.line:
            where += f":{place.line}"
        function = clean(place.function).replace(".<locals>", "")
        return f"{where} {function}".rstrip() if place.file else function

    def _where(self, place, columns):
        """The place in at most so many columns, painted; the function gives way before the line number."""
        text = self.place(place)
        if not text.startswith("("):
            where, _, function = text.partition(" ")
            where = clip_left(where, columns)
            room = columns - width(where) - 1
            function = " " + clip(function, room) if function and room >= min(4, width(function)) else ""
            return self.out.paint(where, "bold") + function
        return clip(text, columns)

    def _source(self, place, indent, columns, mark=""):
        text = self.sources.line(place.file, place.line) if place is not None else ""
        if text:
            self.out.line(" " * indent + mark + self.out.paint(clip(text, columns - indent - len(mark)), "cyan"))

    def _waits(self, wall, cpu):
        return max(0.0, 1 - cpu / wall) if wall > 0 else 0.0

    # --- head -------------------------------------------------------------------------------------------------------

    def head(self, model, reader):
        head, paint = model.head, self.out.paint
        span = ""
        if head.first is not None and head.last is not None:
            span = f" in {seconds(max(0.0, head.last - head.first))}, from {_clock(head.first)} to {_clock(head.last, head.first)} UTC"
        parts = [paint(count(head.actions, "action"), "bold") + span]
        if head.sources.counts:
            parts.append(_listed("", head.sources, 2))
        if head.pids.counts:
            parts.append(_listed("pid ", head.pids, 3))
        self._flow(parts)
        parts = []
        if head.engines.counts:
            parts.append("engine " + ", ".join(clean(e) for e in head.engines.ordered()[:3]))
        if head.period_min:
            period = seconds(head.period_min)
            if head.period_max > 1.01 * head.period_min:
                period += f" to {seconds(head.period_max)}"
            parts.append(f"period {period}")
        missed = sum(head.missed.values())
        parts.append(count(head.samples, "sample") + (f" ({percent(missed / (missed + head.samples))} missed)" if missed else ""))
        if head.overhead is not None:
            parts.append(paint(f"overhead {_fine_percent(head.overhead)}", "bold") + f", {seconds(head.overhead_cpu)} CPU for these actions")
        self._flow(parts)
        self._troubles(model, reader)
        if self.shortener.root:
            self.out.line(paint(f"paths below {clip_left(clean(self.shortener.root), self.out.columns - 12)}", "dim"))

    def _flow(self, parts):
        """Parts joined by dots, broken into lines where the width ends."""
        line = ""
        for part in parts:
            joined = f"{line} · {part}" if line else part
            if line and width(_bare(joined)) > self.out.columns:
                self.out.line(line)
                joined = part
            line = joined
        self.out.line(line)

    def _troubles(self, model, reader):
        said = []
        if reader.bad:
            said.append(f"{count(reader.bad, 'line')} not read (first: line {reader.first_bad})")
        if reader.torn:
            said.append("the last line is torn (still being written, or the process died)")
        if reader.too_long:
            said.append(f"{count(reader.too_long, 'line')} too long")
        if model.head.truncated:
            cut = ", ".join(f"{value:,} {clean(name, 40)}" for name, value in sorted(model.head.truncated.items())[:6])
            said.append(f"cut at a cap while recording: {cut}")
        if model.places.overflow:
            said.append("more distinct lines than a report holds: the rest counts as (other places)")
        for text in said:
            self.out.line(self.out.paint(clip("! " + text, self.out.columns), "yellow"))

    # --- hottest lines ----------------------------------------------------------------------------------------------

    def hottest_lines(self, model):
        lines = model.hottest_lines()
        by_cpu = model.sort == "cpu"
        whole = (model.sampled.cpu if by_cpu else model.sampled.wall) or 1e-9
        has_cpu = model.head.has_cpu
        hint = f"share of sampled {'CPU' if by_cpu else 'time'} by line"
        hint += "" if model.walk.leaf else " of your code, with the library calls it makes"
        self._title("HOTTEST LINES", hint)
        if not lines:
            self.out.line("  no sample: the action was shorter than the period" if model.head.actions == 1 else
                          "  no sample: the actions were shorter than the period, and few; `profilomatic check` tells more")
            return
        hint = "  share" + " " * (_BAR + 2) + "    wall" + ("     CPU" if has_cpu else "") + "  where"
        self.out.line(self.out.paint(hint + ("                         █ runs  ░ waits" if has_cpu else ""), "dim"))
        longest = max((line.cpu if by_cpu else line.wall) for _, line in lines) or 1e-9
        for place, line in lines:
            share = (line.cpu if by_cpu else line.wall) / whole
            if share <= 0:
                break
            waiting = self._waits(line.wall, line.cpu) if has_cpu and not by_cpu else 0.0
            length = (line.cpu if by_cpu else line.wall) / longest
            row = f"{percent(share):>7}  {self.out.bar(length, _BAR, waiting)}{seconds(line.wall):>8}"
            row += f"{seconds(line.cpu):>8}" if has_cpu else ""
            used = 7 + 2 + _BAR + 8 + (8 if has_cpu else 0) + 2
            self.out.line(f"{row}  {self._where(place, self.out.columns - used)}")
            self._source(place, used, self.out.columns)
            self._below(line, used)

    def _below(self, line, indent):
        if not line.below or line.wall <= 0:
            return
        inside = sum(line.below.values()) / line.wall
        place, most = max(line.below.items(), key=lambda item: item[1])
        if inside < 0.2:
            return
        mostly = "mostly" if most > 0.5 * sum(line.below.values()) else "first"
        text = f"└ {percent(inside)} in library code, {mostly} {self.place(place).partition(' ')[0]}"
        self.out.line(" " * indent + self.out.paint(clip(text, self.out.columns - indent), "dim"))

    # --- what makes the slow ones slow ------------------------------------------------------------------------------

    def causes(self, model):
        groups = list(model.groups.values())
        compared = _report_causes.compared(groups)
        if not compared:
            return
        self._title("WHAT MAKES THE SLOW ONES SLOW", "the slowest of each route against its others")
        causes = _report_causes.find(groups)
        if not causes:
            self.out.line(f"  no line tells slow actions from the others ({count(len(compared), 'route')} compared)")
        columns = self.out.columns
        for cause in causes[:max(3, model.top // 2)]:
            name = clip(clean(cause.group.name), 34)
            text = (f"{cause.slow} of {cause.count:,} take {seconds(cause.slow_time)}, the others {seconds(cause.rest_time)}; "
                    f"{percent(cause.explained)} of the difference is")
            self.out.line("  " + self.out.paint(name, "bold") + "  " + clip(text, columns - 4 - width(name)))
            room = columns - 6
            self.out.line("    " + self.out.paint("> ", "hot") + self._where(cause.place, room))
            self._source(cause.place, 6, columns)
            met = "each" if cause.hit == cause.slow else f"in {cause.hit} of these"
            text = f"{seconds(cause.hit_line)} {met}, {seconds(cause.rest_line)} on average in the others"
            if model.head.has_cpu:
                text += f"; {percent(cause.waiting)} of it waiting" if cause.waiting >= 0.1 else "; on the CPU"
            text += f"; see --task {clean(cause.example)[:8]}"
            self.out.line("      " + self.out.paint(clip(text, columns - 6), "dim"))

    # --- routes and actions -----------------------------------------------------------------------------------------

    def groups(self, model):
        groups = model.groups_ordered()
        shown = groups[:max(model.top, 20)]
        self._title("ROUTES" if model.by == "route" else "TYPES", "most time first" if model.sort == "time" else "most CPU first")
        whole = model.head.cpu or 1e-9
        room = self.out.columns - 63
        header = pad("  route" if model.by == "route" else "  type", room) + \
            "   count      p50      p95      max  CPU share  errors  aborted"
        self.out.line(self.out.paint(header, "dim"))
        for group in shown:
            name = "  " + clip(clean(group.name), room - 3)
            errors = f"{group.errors:>8,}"
            self.out.line(
                pad(name, room) + f"{group.times.count:>8,}{seconds(group.times.at(0.5)):>9}{seconds(group.times.at(0.95)):>9}"
                f"{seconds(group.times.max):>9}{percent(group.cpu / whole) if model.head.has_cpu else '-':>11}"
                + (self.out.paint(errors, "red") if group.errors else errors)
                + f"{group.aborted + group.lost:>9,}")
        if len(groups) > len(shown):
            self.out.line(self.out.paint(f"  and {len(groups) - len(shown):,} more; --top {len(groups)} shows all", "dim"))

    def slowest(self, model, file_name):
        self._title("SLOWEST ACTIONS" if model.sort == "time" else "MOST CPU")
        columns = self.out.columns
        has_cpu = model.head.has_cpu
        name_room = min(38, 24 + (columns - 100) // 2) if columns > 100 else 24
        self.out.line(self.out.paint(
            "    time     CPU  outcome    status  " + pad("action", name_room) + "  task      hottest line", "dim"))
        for action in model.slowest_actions():
            outcome = pad(clip(clean(action.outcome), 9), 9)
            if action.error:
                outcome = self.out.paint(outcome, "red")
            status = str(action.status) if action.status is not None else "-"
            row = (f"{seconds(action.time):>8}{seconds(action.cpu) if has_cpu else '-':>8}  {outcome}  {status:>6}  "
                   f"{pad(clip(clean(action.name), name_room), name_room)}  {pad(clean(action.task)[:8], 8)}  ")
            used = 8 + 8 + 2 + 9 + 2 + 6 + 2 + name_room + 2 + 8 + 2
            where = self._where(action.hottest, columns - used) if action.hottest is not None else "-"
            self.out.line(row + where)
        self.out.line()
        hint = "The whole tree of one action: profilomatic report {} --task TASK"
        if width(hint.format(clean(file_name))) > columns:
            file_name = "FILE"
        self.out.line(self.out.paint(hint.format(clean(file_name)), "dim"))

    # --- trees ------------------------------------------------------------------------------------------------------

    def task_head(self, record, action):
        paint, out = self.out.paint, self.out
        out.line(paint(clip(clean(action.name), out.columns - 40), "bold") + "  "
                 + paint(clean(action.outcome), "red" if action.error else "green")
                 + (f" {action.status}" if action.status is not None else "")
                 + f"  {seconds(action.time)}"
                 + (f", CPU {seconds(action.cpu)}, waiting {seconds(max(0.0, action.time - action.cpu))}"
                    if "cpu_time" in record else ""))
        parts = [f"task {clean(action.task, 80)}", f"started {clean(action.start, 40)}", clean(action.source, 60)]
        if action.pid:
            parts.append(f"pid {action.pid}")
        thread = action.thread or record.get("thread")
        if thread not in (None, ""):
            parts.append(f"thread {clean(thread, 60)}")
        self._flow([part for part in parts if part])
        self._fields(record)
        profiler = record.get("profiler") if isinstance(record.get("profiler"), dict) else {}
        if profiler:
            overhead = profiler.get("overhead") if isinstance(profiler.get("overhead"), dict) else {}
            self._flow([f"engine {clean(profiler.get('engine', ''), 40)}", f"period {seconds(number(profiler.get('period')))}",
                        count(int(number(profiler.get("samples"))), "sample"),
                        f"our bill {seconds(number(overhead.get('cpu')))} CPU"])
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
        self._title("CALL GRAPH", "in the order of what happened; █ of the whole action")
        self._tree(root, "cpu_time" in record, start=record.get("start_time"), whole=root.time,
                   first=f"{'the action':<10} (its own time: between and beside the samples)")

    def _fields(self, record):
        fields = record.get("action")
        if not isinstance(fields, dict):
            return
        parts = []
        for name, value in fields.items():
            if name in ("type", "kind", "outcome", "status", "route") and not (name == "type" and fields.get("route")):
                continue
            if isinstance(value, dict):
                value = " ".join(f"{clean(k, 40)} {seconds(v) if name == 'phases' and isinstance(v, float) else clean(v, 80)}"
                                 for k, v in list(value.items())[:10])
            if value not in (None, "", []):
                parts.append(f"{clean(name, 40)}: {clip(clean(value, 300), 80)}")
        if parts:
            self._flow(parts[:20])

    def bottom_up(self, bottom_up, model, everything):
        root = bottom_up.sorted_root(model.sort)
        whole = root.time
        rest = len(root.children) - model.top
        if rest > 0 and not everything:
            root.children = root.children[:model.top]
        if not everything:
            _report_tree.fold(root, self.shortener.show, in_order=False)
        self._title("BOTTOM UP", "self time by line, its callers below")
        if not root.children:
            self.out.line("  no sample")
            return
        self._tree(root, model.head.has_cpu, start=None, whole=whole, first=None)
        if rest > 0 and not everything:
            self.out.line(self.out.paint(f"and {rest:,} more lines; --top N or --all shows them", "dim"))
        if bottom_up.cut:
            self.out.line(self.out.paint(f"! {bottom_up.cut:,} callers not kept: too many distinct ones", "yellow"))

    def _tree(self, root, has_cpu, start, whole, first):
        """Draws the children of root, or root itself above them when `first` names it."""
        show_self = first is not None
        header = "    time" + ("    self" if show_self else "   share") + ("     CPU  " if has_cpu else "  ")
        self.out.line(self.out.paint(header + " " * _TREE_BAR, "dim"))
        if first is not None:
            self._row(root, "", "", first, has_cpu, show_self, whole)
        # (view, its ancestors' lines, last among its siblings, depth)
        todo = [(child, "", i == len(root.children) - 1) for i, child in reversed(list(enumerate(root.children)))]
        while todo:
            view, lines, last = todo.pop()
            corner = ("" if first is None and not lines else "└ " if last else "├ ")
            if view.message is not None:
                self._message(view, lines, corner, has_cpu, start)
            else:
                self._row(view, lines, corner, None, has_cpu, show_self, whole)
            below = lines + ("  " if last or (first is None and not lines) else "│ ")
            todo.extend((child, below, i == len(view.children) - 1)
                        for i, child in reversed(list(enumerate(view.children))))

    def _row(self, view, lines, corner, label, has_cpu, show_self, whole):
        out = self.out
        share = view.time / whole if whole else 0.0
        second = seconds(view.self_time) if show_self else percent(share)
        if show_self and view.self_time <= 0:
            second = "·"
        columns = f"{seconds(view.time):>8}{second:>8}" + (f"{seconds(view.cpu):>8}" if has_cpu else "")
        used = 16 + (8 if has_cpu else 0) + 2 + _TREE_BAR + 1
        waiting = self._waits(view.time, view.cpu) if has_cpu else 0.0
        indent = _indent(lines)
        room = out.columns - used - len(indent) - len(corner)
        start = f"{columns}  {out.bar(share, _TREE_BAR, waiting)} {out.paint(indent + corner, 'dim')}"
        if label is not None:
            out.line(start + clip(label, room))
        elif view.note is not None:
            out.line(start + out.paint(clip("⋯ " + view.note, room), "dim"))
        else:
            place = self._where(view.place, room)
            left = room - width(_bare(place)) - 3
            source = self.sources.line(view.place.file, view.place.line) if view.place is not None and left >= 12 else ""
            out.line(start + place + ("   " + out.paint(clip(source, left), "cyan") if source else ""))

    def _message(self, view, lines, corner, has_cpu, start):
        at = _report_tree.offset(view, start)
        moment = f"+{seconds(max(0.0, at))}" if at is not None else ""
        used = 16 + (8 if has_cpu else 0) + 2 + _TREE_BAR + 1
        indent = _indent(lines)
        room = self.out.columns - used - len(indent) - len(corner)
        name, fields = _message_text(view.message)
        text = "◆ " + name + ("  " + fields if fields else "")
        if view.place is not None:
            text += "  at " + self.place(view.place).partition(" ")[0]
        text = clip(text, room)
        self.out.line(f"{moment:>8}" + " " * (used - 8) + self.out.paint(indent + corner, "dim") + self.out.paint(text, "yellow"))


def _indent(lines):
    if len(lines) <= _MAX_INDENT:
        return lines
    hidden = (len(lines) - _MAX_INDENT) // 2 + 3
    mark = f"⋯{hidden} "
    return mark + lines[-(_MAX_INDENT - len(mark)):]


_QUIET_FIELDS = ("task_uuid", "task_level", "timestamp", "action_type", "action_status", "message_type")


def _message_text(message):
    kind = message.get("action_type") or message.get("message_type") or ""
    status = message.get("action_status")
    name = clean(kind, 200) + (f" {clean(status, 40)}" if status else "")
    fields = " ".join(f"{clean(k, 60)}={clean(v, 200)}" for k, v in list(message.items())[:30] if k not in _QUIET_FIELDS)
    return (name or "message").strip(), fields


def _clock(epoch, near=None):
    """A moment; without its date when it is of the same day as `near`."""
    moment = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
    if near is not None and moment.date() == datetime.datetime.fromtimestamp(near, datetime.timezone.utc).date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _listed(word, names, at_most):
    ordered = names.ordered()
    text = word + ", ".join(clean(name, 40) for name in ordered[:at_most])
    more = len(ordered) - at_most
    return text + (f" and {more}{'+' if names.more else ''} more" if more > 0 else "")


def _fine_percent(share):
    return f"{100 * share:.2f}%"


def _bare(text):
    """The text without the colours that paint added: for measuring."""
    if "\x1b" not in text:
        return text
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
