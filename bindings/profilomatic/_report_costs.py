"""What one record says about lines: its tree walked once, each line with what it cost.

A sample stands for one period, so a line's wall time is estimated as hits x the profile's period (the mean of those wanted
at its samples), and its CPU time as that times the line's measured CPU share. Adding the measured weights up would be
biased: the first sample of an action weighs only the time since the action began, so actions shorter than the period would
count too little (half a length on average, and only when they are hit at all).

Samples may come late, though, on a machine that is too busy. When an action has so many that the first one's weight
matters little, and they weigh clearly more than a period each, the weights are believed, with the half period that the
first one lacks on average made up for. And during a long action the period may have grown, so that its later lines have fewer
samples for the same time: where those of some lines weigh clearly more than those of others, the weights say how the sum is
shared out. Where all weigh clearly less than a period, the action was attached for short stretches (a body of many chunks), and only its hits
can be trusted. Records without hits give their self time as it is.

Records may be hostile: nothing here recurses, every number is checked, every table has a cap.
"""

_MANY_HITS = 5  # the first sample's missing half is then a tenth at most
_OFF = 1.2  # weighing so much more or less than a period is no chance of the phase
_UNEVEN = 1.5  # nor so much more than the samples of another line

MAX_PLACES = 100_000
_MAX_TEXT = 1024


class Place:
    """A line (or function, or file, by the granularity of the profile) of code; one object per distinct place."""

    __slots__ = ("file", "function", "line", "in_library")

    def __init__(self, file, function, line, library):
        self.file = file
        self.function = function
        self.line = line
        self.in_library = library


class Places:
    """The distinct places of a report. `library(file)` says whether a file is library code."""

    def __init__(self, library):
        self._library = library
        self._files = {}
        self._known = {}
        self.no_frame = Place("", "", None, False)
        self.other = Place("", "(other places)", None, False)
        self.overflow = 0

    def of(self, node):
        """The place of a tree node; None when the node names none."""
        file, function, line = node.get("file"), node.get("function"), node.get("line")
        if type(file) is not str:
            file, function, line = _split_instruction(node.get("instruction"))
            if file is None:
                return None
        if type(line) is not int or not 0 < line < 1 << 31:
            line = None
        key = (file, function, line) if type(function) is str else (file, "", line)
        place = self._known.get(key)
        if place is None:
            place = self._add(*key)
        return place

    def _add(self, file, function, line):
        if len(self._known) >= MAX_PLACES:
            self.overflow += 1
            return self.other
        key = (file, function, line)
        file, function = file[:_MAX_TEXT], function[:_MAX_TEXT]
        if file not in self._files:
            self._files[file] = self._library(file)
        place = self._known[key] = Place(file, function, line, self._files[file])
        return place


def _split_instruction(text):
    """file, function, line of "file:function:line"; records of the original system have nothing else."""
    if type(text) is not str or not text:
        return None, None, None
    head, _, last = text.rpartition(":")
    if head and last.isascii() and last.isdigit() and len(last) < 10:
        file, _, function = head.rpartition(":")
        return (file, function, int(last)) if file else (head, "", int(last))
    # "C:\shop.py" has a colon and no function.
    if head and "/" not in last and "\\" not in last:
        return head, last, None
    return text, "", None


def number(value):
    """A finite number that is not negative; 0 for anything else (NaN compares false)."""
    if (type(value) is float or type(value) is int) and 0 <= value < 1e12:
        return float(value)
    return 0.0


def integer(value):
    return value if type(value) is int and 0 <= value < 1 << 53 else 0


def children_of(node):
    children = node.get("children")
    return children if type(children) is list else ()


def is_message(node):
    return node.get("message") is not None


class Cost:
    """What a line cost: estimated wall and CPU seconds, and samples; `below` tells in which library lines."""

    __slots__ = ("wall", "cpu", "hits", "below")

    def __init__(self):
        self.wall = self.cpu = 0.0
        self.hits = 0
        self.below = None


def period_of(record):
    profiler = record.get("profiler")
    return number(profiler.get("period")) if isinstance(profiler, dict) else 0.0


def has_hits(record):
    """Whether lines can be counted: the original system's records have neither hits nor a period."""
    return "hits" in record and period_of(record) > 0


class Walk:
    """Walks records and gives what every line cost.

    With `leaf` false, time in library code belongs to the line of the user's code that called for it: the
    deepest one on the stack. A stack without any such line belongs to its innermost line, as with `leaf` true.
    With `measured` the times are the record's own self times instead of estimates: exact within one record.
    """

    def __init__(self, places, leaf=False, measured=False):
        self.places = places
        self.leaf = leaf
        self.measured = measured

    def costs(self, record):
        """{place: Cost} of the record."""
        costs = {}
        for chain, wall, cpu, hits, _ in self.self_costs(record):
            place = chain[0] if chain else self.places.no_frame
            charged = place
            if place.in_library and not self.leaf:
                link = chain[1]
                while link:
                    if not link[0].in_library:
                        charged = link[0]
                        break
                    link = link[1]
            cost = costs.get(charged)
            if cost is None:
                cost = costs[charged] = Cost()
            cost.wall += wall
            cost.cpu += cpu
            cost.hits += hits
            if charged is not place:
                if cost.below is None:
                    cost.below = {}
                cost.below[place] = cost.below.get(place, 0.0) + wall
        return costs

    def self_costs(self, record):
        """Yields (chain, wall, cpu, hits, node) per node with a cost of its own; chain is (place, (caller, … None))."""
        period = period_of(record)
        scale = 1.0 if self.measured or not has_hits(record) else _scale(record, period)
        # The root's own time is what no sample covers; only a sample without any Python frame is a cost there.
        hits = _self_hits(record, children_of(record))
        if hits > 0:
            yield None, hits * period, hits * period * _cpu_share(record), hits, record
        todo = [(child, None) for child in children_of(record)]
        place_of = self.places.of
        while todo:
            node, callers = todo.pop()
            if type(node) is not dict:
                continue
            below = node.get("children")
            if type(below) is not list:
                below = ()
            if node.get("message") is not None:
                todo.extend((child, callers) for child in below)
                continue
            place = place_of(node)
            chain = callers if place is None else (place, callers)
            hits = _self_hits(node, below)
            if scale is None:
                wall = hits * period
            else:
                wall = number(node.get("self_time")) * scale
            if wall > 0:
                yield chain, wall, wall * _cpu_share(node), hits, node
            todo.extend((child, chain) for child in below)


def _self_hits(node, children):
    """Samples of the node alone: `hits` counts those of its children, too."""
    hits = node.get("hits")
    if type(hits) is not int or not 0 < hits < 1 << 53:
        return 0
    for child in children:
        if type(child) is dict:
            taken = child.get("hits")
            if type(taken) is int and taken > 0:
                hits -= taken
    return max(0, hits)


def _scale(record, period):
    """None when hits x period is to be used; else what the measured times are to be multiplied by."""
    hits = integer(record.get("hits")) - _self_hits(record, children_of(record))
    measured = number(record.get("time")) - number(record.get("self_time"))
    if hits < _MANY_HITS or measured <= 0:
        return None
    whole = hits / (hits - 0.5)
    weighs = measured * whole / (hits * period)
    if weighs > _OFF:
        return whole
    return hits * period / measured if weighs > 1 / _OFF and _is_uneven(record) else None


def _is_uneven(record):
    """Samples of some lines weigh clearly more than those of others: the period changed meanwhile."""
    least, most = float("inf"), 0.0
    todo = list(children_of(record))
    while todo:
        node = todo.pop()
        if type(node) is not dict:
            continue
        below = children_of(node)
        hits = _self_hits(node, below)
        if hits >= _MANY_HITS:
            weight = number(node.get("self_time")) / hits
            least, most = min(least, weight), max(most, weight)
        todo.extend(below)
    return most > _UNEVEN * least


def _cpu_share(node):
    """CPU seconds a second of wall time in this node itself; 0 where there is nothing to go by."""
    wall = node.get("self_time")
    cpu = node.get("self_cpu_time")
    if type(wall) is float and type(cpu) is float and 0 < cpu < wall:
        return cpu / wall
    wall, cpu = number(wall), number(cpu)
    return min(1.0, cpu / wall) if wall > 0 else 0.0
