"""What a report knows: everything that can be learnt from records in one pass and in bounded memory.

Kept: sums per line, per-route sums, histograms and slowest actions, the slowest actions of all. Not kept: records.
`Model.add` takes one record; the rest are questions for the renderers (`report` as text, `as_data` for JSON).
"""

import datetime
import heapq
import math

from ._report_costs import Cost, Walk, children_of, integer, is_message, number, period_of

_MAX_GROUPS = 1000  # routes; raw paths (of apps without routes) may be many
_MAX_COMPARED = 200  # groups that keep their slowest actions line by line
_MAX_GROUP_LINES = 5000
_KEPT_SLOW = 128  # slowest actions a group keeps, with
_KEPT_SLOW_LINES = 32  # so many lines each
_MAX_BELOW = 64
_MAX_NAMES = 50

# In the order of what happens. The queue is before the action, the others are parts of its time.
PHASES = ("queue", "app", "first_byte", "body", "client", "close")


class Quantiles:
    """Quantiles of a stream: exact for the first 2 048 values, within 0.5 % beyond (logarithmic buckets)."""

    _EXACT = 2048
    _BASE = math.log(1.01)

    def __init__(self):
        self._values = []
        self._buckets = None
        self.count = 0
        self.max = 0.0

    def add(self, value):
        self.count += 1
        if value > self.max:
            self.max = value
        if self._buckets is None:
            self._values.append(value)
            if len(self._values) > self._EXACT:
                self._buckets = {}
                for value in self._values:
                    self._put(value)
                self._values = []
        else:
            self._put(value)

    def _put(self, value):
        index = round(math.log(max(value, 1e-9)) / self._BASE)
        self._buckets[index] = self._buckets.get(index, 0) + 1

    def at(self, share):
        """The smallest value that at least this share of the values does not exceed."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(share * self.count))
        if self._buckets is None:
            return sorted(self._values)[rank - 1]
        for index in sorted(self._buckets):
            rank -= self._buckets[index]
            if rank <= 0:
                return min(self.max, math.exp(index * self._BASE))
        return self.max


class LineSum(Cost):
    """Sums of one line over all records."""

    __slots__ = ("actions",)

    def __init__(self):
        super().__init__()
        self.actions = 0

    def add(self, cost):
        self.wall += cost.wall
        self.cpu += cost.cpu
        self.hits += cost.hits
        self.actions += 1
        if cost.below:
            if self.below is None:
                self.below = {}
            for place, wall in cost.below.items():
                if place in self.below or len(self.below) < _MAX_BELOW:
                    self.below[place] = self.below.get(place, 0.0) + wall


class Group:
    """All actions of one route (or type)."""

    def __init__(self, name, compared):
        self.name = name
        self.times = Quantiles()
        self.wall = self.cpu = 0.0
        self.errors = self.aborted = self.lost = 0
        self.phases = dict.fromkeys(PHASES, 0.0)
        self.lines = {} if compared else None  # place -> [wall, cpu, hits]
        self.slow = []  # heap of (time, order, action, {place: [wall, cpu, hits]})

    def add(self, action, order, costs):
        self.times.add(action.time)
        self.wall += action.time
        self.cpu += action.cpu
        self.errors += action.error
        self.aborted += action.outcome == "aborted"
        self.lost += action.outcome == "lost"
        for name, spent in action.phases.items():
            self.phases[name] += spent
        if self.lines is None:
            return
        for place, cost in costs.items():
            total = self.lines.get(place)
            if total is None:
                if len(self.lines) >= _MAX_GROUP_LINES:
                    continue
                total = self.lines[place] = [0.0, 0.0, 0]
            total[0] += cost.wall
            total[1] += cost.cpu
            total[2] += cost.hits
        if len(self.slow) < _KEPT_SLOW or action.time > self.slow[0][0]:
            kept = costs
            if len(kept) > _KEPT_SLOW_LINES:
                kept = dict(heapq.nlargest(_KEPT_SLOW_LINES, kept.items(), key=lambda item: item[1].wall))
            entry = (
                action.time,
                order,
                action,
                {place: (cost.wall, cost.cpu, cost.hits) for place, cost in kept.items()},
            )
            (heapq.heappush if len(self.slow) < _KEPT_SLOW else heapq.heapreplace)(self.slow, entry)


class Action:
    """The facts of one action, without its tree."""

    __slots__ = (
        "name",
        "task",
        "time",
        "cpu",
        "outcome",
        "status",
        "kind",
        "start",
        "source",
        "pid",
        "thread",
        "error",
        "hottest",
        "phases",
    )

    def __init__(self, record, by):
        fields = record.get("action")
        if not isinstance(fields, dict):
            fields = {}
        self.name = action_name(record, fields, by)
        self.task = _text(record.get("task_uuid"))
        self.time = number(record.get("time"))
        self.cpu = number(record.get("cpu_time"))
        self.outcome = _text(fields.get("outcome")) or "succeeded"
        whole = fields.get("whole")
        if isinstance(whole, dict) and "part" in fields:  # the last of several records; the open ones count for lines only
            self.time = number(whole.get("time"))
            self.cpu = number(whole.get("cpu_time"))
        self.status = _status(fields.get("status"))
        self.kind = _text(fields.get("kind"))
        self.start = _text(record.get("start_time"))
        self.source = _text(record.get("source"))
        self.pid = integer(record.get("pid"))
        self.thread = _text(record.get("thread_name"))
        self.error = self.outcome == "failed" or (self.status is not None and self.status >= 500)
        self.hottest = None
        phases = fields.get("phases")
        self.phases = {name: number(phases.get(name)) for name in PHASES} if isinstance(phases, dict) else {}


def action_name(record, fields, by="route"):
    """How an action is called: its route with the method, else its type; old records have neither."""
    name = _text(fields.get("route")) if by == "route" else ""
    if not name:
        name = _text(fields.get("type"))
    if not name:
        # The original system has the type in the first message of the tree.
        for child in children_of(record)[:10]:
            if isinstance(child, dict) and isinstance(child.get("message"), dict):
                name = _text(child["message"].get("action_type"))
                if name:
                    break
    name = name or "(no name)"
    method = _text(fields.get("method"))
    if method and not name.startswith(method + " "):
        name = f"{method[:16]} {name}"
    return name


def _text(value, limit=512):
    if isinstance(value, str):
        return value[:limit]
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _status(value):
    if isinstance(value, str):
        value = value.split(" ", 1)[0]
        value = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else None
    return value if type(value) is int and 0 <= value < 100000 else None


def moment(text):
    """Seconds since the epoch of an ISO 8601 moment; None when it is none. Without a zone it is UTC."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        value = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        return value.timestamp()
    except (ValueError, OverflowError):
        return None


class Names:
    """Distinct values with how often they came, capped."""

    def __init__(self):
        self.counts = {}
        self.more = False

    def add(self, name):
        if name in ("", 0, None):
            return
        if name in self.counts or len(self.counts) < _MAX_NAMES:
            self.counts[name] = self.counts.get(name, 0) + 1
        else:
            self.more = True

    def ordered(self):
        return sorted(self.counts, key=lambda name: (-self.counts[name], name))


class Head:
    """The facts of the whole file: how much, when, from where, sampled how, at what bill."""

    def __init__(self):
        self.actions = 0
        self.first = self.last = None
        self.sources, self.pids, self.engines = Names(), Names(), Names()
        self.period_min = self.period_max = None
        self.samples = 0
        self.missed = {}
        self.truncated = {}
        self.shed = 0
        self.wall = self.cpu = 0.0
        self.has_cpu = False  # records of the original system have wall time only
        self.overhead_cpu = 0.0
        self.overhead_max = 0.0
        self._overhead_sum = self._overhead_wall = 0.0

    @property
    def overhead(self):
        """The mean of the overhead fractions that the process reported, weighted by the actions' time; None: there was none."""
        return self._overhead_sum / self._overhead_wall if self._overhead_wall else None

    def add(self, record, action):
        if action.outcome != "open":
            self.actions += 1
            self.wall += action.time
            self.cpu += action.cpu
        self.has_cpu = self.has_cpu or "cpu_time" in record
        self.sources.add(action.source)
        self.pids.add(action.pid)
        start, end = moment(action.start), moment(record.get("end_time"))
        if start is not None and (self.first is None or start < self.first):
            self.first = start
        if end is None and start is not None:
            end = start + action.time
        if end is not None and (self.last is None or end > self.last):
            self.last = end
        profiler = record.get("profiler")
        if not isinstance(profiler, dict):
            return
        self.engines.add(_text(profiler.get("engine"), 40))
        period = period_of(record)
        if period:
            self.period_min = period if self.period_min is None else min(period, self.period_min)
            self.period_max = period if self.period_max is None else max(period, self.period_max)
        self.samples += integer(profiler.get("samples"))
        _add_counts(self.missed, profiler.get("missed"))
        _add_counts(self.truncated, profiler.get("truncated"))
        self.shed += integer(profiler.get("shed"))
        overhead = profiler.get("overhead")
        if isinstance(overhead, dict):
            cpu = number(overhead.get("cpu"))
            self.overhead_cpu += cpu
            fraction = number(overhead.get("fraction"))
            if fraction > 0 or ("fraction" in overhead and cpu == 0):  # 0 at a cost: nothing was measured yet
                weight = max(action.time, 1e-9)
                self.overhead_max = max(self.overhead_max, fraction)
                self._overhead_sum += fraction * weight
                self._overhead_wall += weight


def _add_counts(sums, counts):
    if isinstance(counts, dict):
        for name, value in counts.items():
            if integer(value) and (name in sums or len(sums) < _MAX_NAMES):
                sums[name] = sums.get(name, 0) + value


class Model:
    """The whole of a report; `places` is shared with the walks that renderers do."""

    def __init__(self, places, by="route", leaf=False, sort="time", top=None, bottom_up=None, measured=False):
        self.places = places
        self.by = by
        self.sort = sort
        self.top = top or 10
        self.top_given = top is not None
        self.top_groups = top or 20  # an application has more routes than hot lines
        self.walk = Walk(places, leaf, measured)
        self.bottom_up = bottom_up
        self.head = Head()
        self.lines = {}
        self.groups = {}
        self.sampled = Cost()  # sums over all lines: what shares refer to
        self._slowest = []
        self._records = 0

    def add(self, record):
        action = Action(record, self.by)
        self.head.add(record, action)
        self._records += 1
        order = -self._records  # of equals the earlier one stays, and no two entries compare further
        costs = self.walk.costs(record)
        hottest = 0.0
        for place, cost in costs.items():
            line = self.lines.get(place)
            if line is None:
                line = self.lines[place] = LineSum()
            line.add(cost)
            self.sampled.wall += cost.wall
            self.sampled.cpu += cost.cpu
            self.sampled.hits += cost.hits
            if cost.wall > hottest:
                hottest, action.hottest = cost.wall, place
        if self.bottom_up is not None:
            self.bottom_up.add(self.walk.self_costs(record))
        if action.outcome == "open":
            return
        self._group(action.name).add(action, order, costs)
        rank = action.cpu if self.sort == "cpu" else action.time
        if len(self._slowest) < self.top:
            heapq.heappush(self._slowest, (rank, order, action))
        elif self._slowest and rank > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (rank, order, action))

    def _group(self, name):
        group = self.groups.get(name)
        if group is None:
            if len(self.groups) >= _MAX_GROUPS:
                name = "(other)"
                group = self.groups.get(name)
                if group is not None:
                    return group
            group = self.groups[name] = Group(name, len(self.groups) < _MAX_COMPARED)
        return group

    def hottest_lines(self):
        """[(place, LineSum)], the hottest first, at most `top`."""
        key = (
            (lambda line: (line.cpu, line.wall))
            if self.sort == "cpu"
            else (lambda line: (line.wall, line.cpu))
        )
        return heapq.nlargest(self.top, self.lines.items(), key=lambda item: key(item[1]))

    def slowest_actions(self):
        return [action for _, _, action in sorted(self._slowest, key=lambda e: (e[0], e[1]), reverse=True)]

    def groups_ordered(self):
        """All groups, the one that took most time first."""
        return sorted(
            self.groups.values(), key=lambda g: (-(g.cpu if self.sort == "cpu" else g.wall), g.name)
        )


def is_about(record, wanted):
    """A task whose id starts so has this record, or a nested action in it."""
    return record["task_uuid"].lower().startswith(wanted) or any(
        task.lower().startswith(wanted) for task in _message_task_ids(record)
    )


def _message_task_ids(record):
    """Task ids that stand in the messages of a record: those of nested actions."""
    todo = list(children_of(record))
    while todo:
        node = todo.pop()
        if type(node) is not dict:
            continue
        if is_message(node) and isinstance(node["message"], dict):
            task = node["message"].get("task_uuid")
            if isinstance(task, str):
                yield task
        todo.extend(children_of(node))
