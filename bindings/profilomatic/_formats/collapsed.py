"""Collapsed stacks: one call path a line, the action first, frames parted by `;`, a blank and nanoseconds at the end.

    GET /cart;/srv/shop/views.py:cart:42;/srv/shop/db.py:Query.rows:118 80000000

A `;` in a name becomes `:`, control characters become escapes, and the blank of a name like `rebuild shard 3` becomes `_`: where
its own time stands, flamegraph.pl would read two columns of numbers, as of two profiles to be compared. The same path may
come once for each action; every reader adds them up. Memory: one action at a time.
"""

import re

from ._tree import plain

BINARY = False
EXTENSION = ".collapsed.txt"

_NUMBER_AT_THE_END = re.compile(r"\s(?=\d+(?:\.\d*)?$)")


def write(trees, out, clock):
    labels = {}
    for tree in trees:
        own = tree.clock(clock)
        sums = {}
        for row, stack in tree.walk():
            if own[row]:
                path = tuple(stack)
                sums[path] = sums.get(path, 0) + own[row]
        for path, value in sums.items():
            line = ";".join([labels.get(frame) or labels.setdefault(frame, label(frame)) for frame in path])
            out.write(f"{line} {value}\n".encode("utf-8", "replace"))


def label(frame):
    parts = [frame.file, frame.function, "" if frame.line is None else str(frame.line)]
    text = plain(":".join(part for part in parts if part).replace(";", ":"))
    return _NUMBER_AT_THE_END.sub("_", text) or "?"
