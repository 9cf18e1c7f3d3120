"""The report as text: sections to be read at a glance, the guilty line first, within the width of the terminal."""

import datetime

from . import _report_causes
from ._report_model import PHASES
from ._report_pieces import Pieces, bare
from ._terminal import PLAIN_COLUMNS, clean, clip, clip_left, count, pad, percent, seconds, width

_BAR = 10
_SURELY = 5  # rows of hottest lines that are shown however little they have; then a share of _LEAST is asked for
_LEAST = 0.01
_LEFT = 9  # where a source line begins that does not fit below its place
_USEFUL = 12  # columns of a source line that are worth showing
_MOMENTS = -62_135_596_800, 253_402_300_799  # the years 1 to 9999, which a datetime can say


class TextReport(Pieces):
    """The sections about a whole file, one method each."""

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
        self.flow(parts)
        parts = []
        if head.engines.counts:
            parts.append("engine " + ", ".join(clean(e) for e in head.engines.ordered()[:3]))
        if head.period_min:
            period = seconds(head.period_min)
            if head.period_max > 1.01 * head.period_min:
                period += f" to {seconds(head.period_max)}"
            parts.append(f"period {period}")
        missed = sum(head.missed.values())
        parts.append(
            count(head.samples, "sample")
            + (f" ({percent(missed / (missed + head.samples))} missed)" if missed else "")
        )
        bill = [] if head.overhead is None else [_fine_percent(head.overhead)]
        if bill or head.overhead_cpu > 0:
            bill.append(f"{seconds(head.overhead_cpu)} CPU for these actions")
            parts.append(paint(f"overhead {bill[0]}", "bold") + "".join(f", {text}" for text in bill[1:]))
        self.flow(parts)
        self._troubles(model, reader)
        if self.shortener.root:
            self.out.line(
                paint(f"paths below {clip_left(clean(self.shortener.root), self.out.columns - 12)}", "dim")
            )

    def _troubles(self, model, reader):
        said = []
        if not model.head.actions:
            said.append("no action has ended yet: these are parts of actions that go on")
        if model.head.shed:
            began = model.head.actions + model.head.shed
            share = percent(model.head.shed / began)
            said.append(f"{count(began, 'action')} began, {model.head.shed:,} not profiled ({share}): refused over max_overhead")
        if reader.bad:
            said.append(f"{count(reader.bad, reader.UNIT)} not read (first: {reader.UNIT} {reader.first_bad})")
        if reader.torn:
            said.append(f"the last {reader.UNIT} is torn (still being written, or the process died)")
        if reader.too_long:
            said.append(f"{count(reader.too_long, reader.UNIT)} too long")
        lost = reader.clients.lost()
        if lost:
            reasons = ", ".join(f"{value:,} {clean(name, 40)}" for name, value in sorted(lost.items())[:6])
            said.append(f"{count(sum(lost.values()), 'call graph')} never arrived at the server: {reasons}")
        if model.head.truncated:
            cut = ", ".join(
                f"{value:,} {clean(name, 40)}" for name, value in sorted(model.head.truncated.items())[:6]
            )
            said.append(f"cut at a cap while recording: {cut}")
        if model.places.overflow:
            said.append("more distinct lines than a report holds: the rest counts as (other places)")
        for text in said:
            self.out.line(self.out.paint(clip("! " + text, self.out.columns), "yellow"))

    def changed_sources(self, model):
        """Last of all, when it is known whose text was shown."""
        changed = self.sources.changed_since(model.head.first)
        if changed:
            more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
            text = f"! changed since the first action, so lines may have moved: {', '.join(map(self.shortener.show, changed[:2]))}{more}"
            self.out.line(self.out.paint(clip(text, self.out.columns), "yellow"))

    def hottest_lines(self, model):
        lines = model.hottest_lines()
        by_cpu = model.sort == "cpu"
        whole = (model.sampled.cpu if by_cpu else model.sampled.wall) or 1e-9
        has_cpu = model.head.has_cpu
        hint = f"sampled {'CPU' if by_cpu else 'time'} by line"
        hint += "" if model.walk.leaf else " of your code, its library calls included"
        self.title("HOTTEST LINES", hint)
        if not lines:
            self.out.line(clip("  no sample: " + _why_no_sample(model), self.out.columns))
            return
        if by_cpu and model.sampled.cpu <= 0:
            self.out.line("  no sample met a line on a CPU; without --sort cpu: where they waited")
            return
        hint = "  share" + " " * (_BAR + 2) + "    wall" + ("     CPU" if has_cpu else "") + "  where"
        self.out.line(
            self.out.paint(pad(hint, min(67, self.out.columns - 16)) + "█ runs  ░ waits" if has_cpu else hint, "dim")
        )
        longest = max((line.cpu if by_cpu else line.wall) for _, line in lines) or 1e-9
        for number, (place, line) in enumerate(lines):
            share = (line.cpu if by_cpu else line.wall) / whole
            if share <= 0:
                break
            if share < _LEAST and number >= _SURELY and not model.top_given:
                hint = f"  and {count(len(model.lines) - number, 'line')} below 1% each; --top {len(model.lines)} shows all"
                self.out.line(self.out.paint(hint, "dim"))
                break
            waiting = self.waits(line.wall, line.cpu) if has_cpu and not by_cpu else 0.0
            length = (line.cpu if by_cpu else line.wall) / longest
            row = f"{percent(share):>7}  {self.out.bar(length, _BAR, waiting)}{seconds(line.wall):>8}"
            row += f"{seconds(line.cpu):>8}" if has_cpu else ""
            used = 7 + 2 + _BAR + 8 + (8 if has_cpu else 0) + 2
            self.out.line(f"{row}  {self.charged(place, self.out.columns - used, model.walk.leaf)}")
            self.source(place, used, self.out.columns, _LEFT)
            self._below(line, used)

    def _below(self, line, indent):
        if not line.below or line.wall <= 0:
            return
        inside = sum(line.below.values()) / line.wall
        place, most = max(line.below.items(), key=lambda item: item[1])
        if inside < 0.2:
            return
        mostly = "mostly" if most > 0.5 * sum(line.below.values()) else "most in"
        text = f"└ {percent(inside)} in library code, {mostly} {self.spot(place)}"
        if indent + width(text) > self.out.columns:
            indent = _LEFT
        self.out.line(" " * indent + self.out.paint(clip(text, self.out.columns - indent), "dim"))

    def causes(self, model):
        groups = list(model.groups.values())
        compared = _report_causes.compared(groups)
        if not compared:
            return
        self.title("WHAT MAKES THE SLOW ONES SLOW", "the slowest of each route against its others")
        causes = _report_causes.find(groups)
        if not causes:
            self.out.line(
                f"  no line tells slow actions from the others ({count(len(compared), 'route')} compared)"
            )
        columns = self.out.columns
        for cause in causes[: max(3, model.top // 2)]:
            name = clip(clean(cause.group.name), 34)
            clauses = [
                f"{cause.slow} of {cause.count:,} take {seconds(cause.slow_time)}, the others {seconds(cause.rest_time)}",
                f"{percent(cause.explained)} of the difference is",
            ]
            self.sentence("  " + self.out.paint(name, "bold") + "  ", clauses, 4)
            room = columns - 6
            self.out.line("    " + self.out.paint("> ", "hot") + self.charged(cause.place, room, model.walk.leaf))
            self.source(cause.place, 6, columns)
            met = "each" if cause.hit == cause.slow else f"in {cause.hit} of these"
            clauses = [f"{seconds(cause.hit_line)} {met}, {seconds(cause.rest_line)} on average in the others"]
            if model.head.has_cpu:
                clauses.append(f"{percent(cause.waiting)} of it waiting" if cause.waiting >= 0.1 else "on the CPU")
            clauses.append(f"see --task {clean(cause.example)[:8]}")
            self.sentence("      ", clauses, 6, "dim")

    def groups(self, model):
        groups = model.groups_ordered()
        if not groups:
            return
        shown = groups[: model.top_groups]
        self.title(
            "ROUTES" if model.by == "route" else "TYPES",
            "most time first" if model.sort == "time" else "most CPU first",
        )
        whole = model.head.cpu or 1e-9
        counts, times, share, errors = (8, 9, 11, 8) if self.out.columns >= PLAIN_COLUMNS else (7, 8, 7, 7)
        room = self.out.columns - counts - 3 * times - share - 2 * errors - 1
        self.out.line(
            self.out.paint(
                pad("  route" if model.by == "route" else "  type", room)
                + f"{'count':>{counts}}{'p50':>{times}}{'p95':>{times}}{'max':>{times}}"
                + f"{'CPU share' if share > 9 else 'CPU':>{share}}{'errors':>{errors}}{'aborted':>{errors + 1}}",
                "dim",
            )
        )
        for group in shown:
            name = "  " + clip(clean(group.name), room - 3)
            failed = f"{group.errors:>{errors},}"
            self.out.line(
                pad(name, room)
                + f"{group.times.count:>{counts},}"
                + "".join(f"{seconds(t):>{times}}" for t in (group.times.at(0.5), group.times.at(0.95), group.times.max))
                + f"{percent(group.cpu / whole) if model.head.has_cpu else '-':>{share}}"
                + (self.out.paint(failed, "red") if group.errors else failed)
                + f"{group.aborted + group.lost:>{errors + 1},}"
            )
        if len(groups) > len(shown):
            self.out.line(
                self.out.paint(
                    f"  and {len(groups) - len(shown):,} more; --top {len(groups)} shows all", "dim"
                )
            )

    def phases(self, model):
        """Where requests spend their time, the server's and the client's included; nothing without requests."""
        groups = [group for group in model.groups_ordered() if any(group.phases.values())]
        if not groups:
            return
        self.title("PHASES", "mean of an action; queue: before it began, client: between two chunks")
        least = 10 if self.out.columns >= PLAIN_COLUMNS else 8
        widths = {name: max(least, len(name) + least // 5) for name in PHASES}
        room = self.out.columns - sum(widths.values()) - 3
        header = pad("  route" if model.by == "route" else "  type", room)
        header += "".join(f"{name.replace('_', ' '):>{widths[name]}}" for name in PHASES)
        self.out.line(self.out.paint(header, "dim"))
        for group in groups[: model.top_groups]:
            row = pad("  " + clip(clean(group.name), room - 3), room)
            for name in PHASES:
                mean = group.phases[name] / group.times.count
                row += f"{seconds(mean) if mean else '-':>{widths[name]}}"
            self.out.line(row)

    def slowest(self, model):
        actions = model.slowest_actions()
        if not actions:
            return
        self.title("SLOWEST ACTIONS" if model.sort == "time" else "MOST CPU")
        columns = self.out.columns
        has_cpu = model.head.has_cpu
        longest = max((width(clean(action.name)) for action in actions), default=0)
        name_room = max(6, min(longest, 38, 24 + (columns - PLAIN_COLUMNS) // 2))
        self.out.line(
            self.out.paint(
                "    time     CPU  outcome    status  "
                + pad("action", name_room)
                + "  task      hottest line",
                "dim",
            )
        )
        for action in actions:
            outcome = pad(clip(clean(action.outcome), 9), 9)
            if action.error:
                outcome = self.out.paint(outcome, "red")
            status = str(action.status) if action.status is not None else "-"
            row = (
                f"{seconds(action.time):>8}{seconds(action.cpu) if has_cpu else '-':>8}  {outcome}  {status:>6}  "
                f"{pad(clip(clean(action.name), name_room), name_room)}  {pad(clean(action.task)[:8], 8)}  "
            )
            used = 8 + 8 + 2 + 9 + 2 + 6 + 2 + name_room + 2 + 8 + 2
            where = self.where(action.hottest, columns - used) if action.hottest is not None else "-"
            self.out.line(row + where)

    def in_short(self, model, file_name):
        """The answer once more, last: on a terminal the end of a report is what is seen first."""
        by_cpu = model.sort == "cpu"
        answers, actions = [], model.slowest_actions()[:1]
        for place, line in model.hottest_lines()[:1]:
            share = (line.cpu if by_cpu else line.wall) / ((model.sampled.cpu if by_cpu else model.sampled.wall) or 1e-9)
            if share > 0:
                answers.append((f"{percent(share)} of the {'CPU' if by_cpu else 'time'}", place))
        for cause in _report_causes.find(list(model.groups.values()))[:1]:
            answers.append((f"slow {clip(clean(cause.group.name), 24)}", cause.place))
        if not answers and not actions:
            return
        self.title("IN SHORT")
        slowest = "most CPU" if by_cpu else "the slowest action"
        first = 4 + max(width(text) for text in (slowest, *(answer for answer, _ in answers)))
        room = self.out.columns - first
        for answer, place in answers:
            where = self.where(place, room)
            source, left = self.source_of(place), room - width(bare(where)) - 2
            source = "  " + self.out.paint(clip(source, left), "cyan") if source and left >= _USEFUL else ""
            self.out.line(pad("  " + answer, first) + where + source)
        for action in actions:
            command = "profilomatic report {} --task " + clean(action.task)[:8]
            if width(command.format(clean(file_name))) > room:
                file_name = "FILE"
            self.out.line(pad("  " + slowest, first) + command.format(clean(file_name)))


def _why_no_sample(model):
    missed, period = model.head.missed, model.head.period_max
    if missed:
        reasons = ", ".join(f"{value:,} {clean(name, 40)}" for name, value in sorted(missed.items())[:6])
        return f"all that were wanted were missed: {reasons}"
    if period and max((group.times.max for group in model.groups.values()), default=0.0) > period:
        return "none was taken, though an action lasted longer than the period; `profilomatic check` tells more"
    if model.head.actions == 0:
        return "of actions that were still open there is none yet; `profilomatic check` tells more"
    if model.head.actions == 1:
        return "the action was shorter than the period"
    return "the actions were shorter than the period, and few; `profilomatic check` tells more"


def _clock(epoch, near=None):
    """A moment; without its date when it is of the same day as `near`."""
    moment = _datetime(epoch)
    if near is not None and moment.date() == _datetime(near).date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _datetime(epoch):
    """The nearest that there is: a record may begin in the last second of the year 9999, and take time."""
    first, last = _MOMENTS
    return datetime.datetime.fromtimestamp(min(max(epoch, first), last), datetime.timezone.utc)


def _listed(word, names, at_most):
    ordered = names.ordered()
    text = word + ", ".join(clean(name, 40) for name in ordered[:at_most])
    more = len(ordered) - at_most
    return text + (f" and {more}{'+' if names.more else ''} more" if more > 0 else "")


def _fine_percent(share):
    return f"{100 * share:.2f}%"
