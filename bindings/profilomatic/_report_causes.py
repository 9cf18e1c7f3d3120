"""What makes the slow ones slow: per route, the line that tells its slowest actions from the others.

A line's mean time in the slowest 5 % of a route's actions is set against its mean in the rest. The difference of the
means, in seconds, is directly a part of what the slow ones take more, so lines can be ranked and the first one
"explains 91 % of the difference". A line that is slow for everybody has no excess, however hot it is; a line that only
few requests hit has, however small its share of all time. Where no line stands out in the slowest 5 %, fewer are
tried: a line that one request in a thousand meets drowns among the ordinary ones of the 5 %.
"""

import math

_MIN_ACTIONS = 10  # fewer say nothing about a tail
_SLOW_SHARES = (
    0.05,
    0.02,
    0.01,
    0.005,
    0.0,
)  # the first in which a line stands out; the last means _MIN_SLOW
_MIN_SLOW = 3
_MIN_RATIO = 1.25  # the slow ones must be this much slower than the rest to need a reason
_MIN_EXPLAINED = 0.15
_MIN_HITS = 3  # samples of the line in slow actions: one may be chance


class Cause:
    """One route's answer. Times are means per action, in seconds."""

    __slots__ = (
        "group",
        "slow",
        "count",
        "slow_time",
        "rest_time",
        "place",
        "slow_line",
        "rest_line",
        "hit",
        "hit_line",
        "explained",
        "waiting",
        "example",
    )


def compared(groups):
    """The groups that have enough actions to be compared."""
    return [g for g in groups if g.lines is not None and g.times.count >= _MIN_ACTIONS]


def find(groups):
    """[Cause], the one that cost most time in all first. A route of which no line stands out gives none."""
    causes = [cause for cause in map(_cause, compared(groups)) if cause is not None]
    causes.sort(key=lambda c: (-(c.slow_line - c.rest_line) * c.slow, c.group.name))
    return causes


def _cause(group):
    kept = sorted(group.slow, reverse=True, key=lambda entry: entry[:2])
    tried = 0
    for share in _SLOW_SHARES:
        size = min(len(kept), max(_MIN_SLOW, math.ceil(share * group.times.count)))
        if size != tried:
            tried = size
            cause = _compare(group, kept[:size])
            if cause is not None:
                return cause
    return None


def _compare(group, slow):
    n = len(slow)
    rest_n = group.times.count - n
    slow_time = sum(entry[0] for entry in slow) / n
    rest_time = max(0.0, (group.wall - slow_time * n) / rest_n)
    gap = slow_time - rest_time
    if gap <= 0 or slow_time < _MIN_RATIO * rest_time:
        return None
    lines = {}
    for entry in slow:
        for place, (wall, cpu, hits) in entry[3].items():
            total = lines.setdefault(place, [0.0, 0.0, 0])
            total[0] += wall
            total[1] += cpu
            total[2] += hits
    best = None
    for place, (wall, cpu, hits) in lines.items():
        if 0 < hits < _MIN_HITS:
            continue
        total = group.lines.get(place, (wall, cpu, hits))
        rest_line = max(0.0, total[0] - wall) / rest_n
        excess = wall / n - rest_line
        if best is None or excess > best.slow_line - best.rest_line:
            best = best or Cause()
            best.place, best.slow_line, best.rest_line = place, wall / n, rest_line
            best.waiting = max(0.0, 1 - cpu / wall) if wall > 0 else 0.0
    if best is None:
        return None
    best.explained = min(1.0, (best.slow_line - best.rest_line) / gap)
    if best.explained < _MIN_EXPLAINED:
        return None
    best.group, best.slow, best.count = group, n, group.times.count
    best.slow_time, best.rest_time = slow_time, rest_time
    hit = [entry for entry in slow if best.place in entry[3]]
    best.hit, best.hit_line = len(hit), best.slow_line * n / len(hit)
    # The task to look at is the one in which the line took longest.
    best.example = max(hit, key=lambda entry: (entry[3][best.place][0], entry[1]))[2].task
    return best
