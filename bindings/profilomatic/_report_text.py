"""The report as text: sections to be read at a glance, the guilty line first, within the width of the terminal."""

import datetime

from . import _report_causes
from ._report_model import PHASES
from ._report_pieces import Pieces
from ._terminal import clean, clip, clip_left, count, pad, percent, seconds, width

_BAR = 10


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

    def hottest_lines(self, model):
        lines = model.hottest_lines()
        by_cpu = model.sort == "cpu"
        whole = (model.sampled.cpu if by_cpu else model.sampled.wall) or 1e-9
        has_cpu = model.head.has_cpu
        hint = f"share of sampled {'CPU' if by_cpu else 'time'} by line"
        hint += "" if model.walk.leaf else " of your code, with the library calls it makes"
        self.title("HOTTEST LINES", hint)
        if not lines:
            self.out.line(
                "  no sample: the action was shorter than the period"
                if model.head.actions == 1
                else "  no sample: the actions were shorter than the period, and few; `profilomatic check` tells more"
            )
            return
        hint = "  share" + " " * (_BAR + 2) + "    wall" + ("     CPU" if has_cpu else "") + "  where"
        self.out.line(
            self.out.paint(hint + ("                         █ runs  ░ waits" if has_cpu else ""), "dim")
        )
        longest = max((line.cpu if by_cpu else line.wall) for _, line in lines) or 1e-9
        for place, line in lines:
            share = (line.cpu if by_cpu else line.wall) / whole
            if share <= 0:
                break
            waiting = self.waits(line.wall, line.cpu) if has_cpu and not by_cpu else 0.0
            length = (line.cpu if by_cpu else line.wall) / longest
            row = f"{percent(share):>7}  {self.out.bar(length, _BAR, waiting)}{seconds(line.wall):>8}"
            row += f"{seconds(line.cpu):>8}" if has_cpu else ""
            used = 7 + 2 + _BAR + 8 + (8 if has_cpu else 0) + 2
            self.out.line(f"{row}  {self.where(place, self.out.columns - used)}")
            self.source(place, used, self.out.columns)
            self._below(line, used)

    def _below(self, line, indent):
        if not line.below or line.wall <= 0:
            return
        inside = sum(line.below.values()) / line.wall
        place, most = max(line.below.items(), key=lambda item: item[1])
        if inside < 0.2:
            return
        mostly = "mostly" if most > 0.5 * sum(line.below.values()) else "first"
        text = f"└ {percent(inside)} in library code, {mostly} {self.spot(place)}"
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
            text = (
                f"{cause.slow} of {cause.count:,} take {seconds(cause.slow_time)}, the others {seconds(cause.rest_time)}; "
                f"{percent(cause.explained)} of the difference is"
            )
            self.out.line("  " + self.out.paint(name, "bold") + "  " + clip(text, columns - 4 - width(name)))
            room = columns - 6
            self.out.line("    " + self.out.paint("> ", "hot") + self.where(cause.place, room))
            self.source(cause.place, 6, columns)
            met = "each" if cause.hit == cause.slow else f"in {cause.hit} of these"
            text = f"{seconds(cause.hit_line)} {met}, {seconds(cause.rest_line)} on average in the others"
            if model.head.has_cpu:
                text += (
                    f"; {percent(cause.waiting)} of it waiting" if cause.waiting >= 0.1 else "; on the CPU"
                )
            text += f"; see --task {clean(cause.example)[:8]}"
            self.out.line("      " + self.out.paint(clip(text, columns - 6), "dim"))

    def groups(self, model):
        groups = model.groups_ordered()
        shown = groups[: model.top_groups]
        self.title(
            "ROUTES" if model.by == "route" else "TYPES",
            "most time first" if model.sort == "time" else "most CPU first",
        )
        whole = model.head.cpu or 1e-9
        room = self.out.columns - 63
        header = (
            pad("  route" if model.by == "route" else "  type", room)
            + "   count      p50      p95      max  CPU share  errors  aborted"
        )
        self.out.line(self.out.paint(header, "dim"))
        for group in shown:
            name = "  " + clip(clean(group.name), room - 3)
            errors = f"{group.errors:>8,}"
            self.out.line(
                pad(name, room)
                + f"{group.times.count:>8,}{seconds(group.times.at(0.5)):>9}{seconds(group.times.at(0.95)):>9}"
                f"{seconds(group.times.max):>9}{percent(group.cpu / whole) if model.head.has_cpu else '-':>11}"
                + (self.out.paint(errors, "red") if group.errors else errors)
                + f"{group.aborted + group.lost:>9,}"
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
        room = self.out.columns - 65
        header = pad("  route" if model.by == "route" else "  type", room)
        header += "".join(f"{name.replace('_', ' '):>{_phase_width(name)}}" for name in PHASES)
        self.out.line(self.out.paint(header, "dim"))
        for group in groups[: model.top_groups]:
            row = pad("  " + clip(clean(group.name), room - 3), room)
            for name in PHASES:
                mean = group.phases[name] / group.times.count
                row += f"{seconds(mean) if mean else '-':>{_phase_width(name)}}"
            self.out.line(row)

    def slowest(self, model, file_name):
        self.title("SLOWEST ACTIONS" if model.sort == "time" else "MOST CPU")
        columns = self.out.columns
        has_cpu = model.head.has_cpu
        name_room = min(38, 24 + (columns - 100) // 2) if columns > 100 else 24
        self.out.line(
            self.out.paint(
                "    time     CPU  outcome    status  "
                + pad("action", name_room)
                + "  task      hottest line",
                "dim",
            )
        )
        for action in model.slowest_actions():
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
        self.out.line()
        hint = "The whole tree of one action: profilomatic report {} --task TASK"
        if width(hint.format(clean(file_name))) > columns:
            file_name = "FILE"
        self.out.line(self.out.paint(hint.format(clean(file_name)), "dim"))


def _phase_width(name):
    return max(10, len(name) + 2)


def _clock(epoch, near=None):
    """A moment; without its date when it is of the same day as `near`."""
    moment = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
    if (
        near is not None
        and moment.date() == datetime.datetime.fromtimestamp(near, datetime.timezone.utc).date()
    ):
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _listed(word, names, at_most):
    ordered = names.ordered()
    text = word + ", ".join(clean(name, 40) for name in ordered[:at_most])
    more = len(ordered) - at_most
    return text + (f" and {more}{'+' if names.more else ''} more" if more > 0 else "")


def _fine_percent(share):
    return f"{100 * share:.2f}%"
