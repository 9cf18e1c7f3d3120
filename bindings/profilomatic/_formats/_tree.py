"""A record as the writers want it: rows in document order, in whole nanoseconds.

Records hold seconds as decimals that are exact to the nanosecond, so rounding gives the nanoseconds back, and sums are
sums of integers: totals agree to the last digit in every format. Row 0 is the action. Its own time is the action's time
less what the rows below have, so the whole is the action's exact time even where a foreign record does not
add up.
"""

import os

from .._report_costs import Place, Places, children_of, integer, is_message, number
from .._report_model import action_name, moment

MAX_ACTIONS = 10_000  # distinct names of actions; more are one


class Frames:
    """The distinct frames of a conversion; the same place is the same object."""

    def __init__(self):
        self._places = Places(lambda file: False)
        self._actions = {}

    def of_node(self, node):
        return self._places.of(node)

    def of_action(self, record):
        fields = record.get("action")
        name = action_name(record, fields if isinstance(fields, dict) else {})
        frame = self._actions.get(name)
        if frame is None:
            if len(self._actions) >= MAX_ACTIONS:
                name = "(other actions)"
                if name in self._actions:
                    return self._actions[name]
            frame = self._actions[name] = Place("", name, None, False)
        return frame


class Tree:
    """One action. Lists are indexed by row; a parent's row is less than its children's.

    `frames`, `parents` (-1 for row 0), `wall`, `cpu`, `hits`: of the row itself; `total_wall`, `total_cpu`: with all
    below. A node that names no place is its parent. `messages` maps the row of a message to (fields, moment as text);
    such rows have no time, nothing below them, and may have no frame (None).
    """

    __slots__ = ("record", "frames", "parents", "wall", "cpu", "hits", "total_wall", "total_cpu", "messages")

    def __init__(self, record, frames):
        self.record = record
        self.frames = [frames.of_action(record)]
        self.parents, self.wall, self.cpu = [-1], [0], [0]
        self.messages = {}
        total_hits = [integer(record.get("hits"))]
        todo = [(child, 0) for child in reversed(children_of(record))]
        while todo:
            node, parent = todo.pop()
            if type(node) is not dict:
                continue
            frame = frames.of_node(node)
            below = parent
            if is_message(node):
                self.messages[len(self.frames)] = (node["message"], node.get("start_time"))
                self._append(frame, parent)
                total_hits.append(0)
            elif frame is not None:
                below = len(self.frames)
                self._append(frame, parent)
                total_hits.append(integer(node.get("hits")))
            self.wall[below] += nanoseconds(node.get("self_time"))
            self.cpu[below] += nanoseconds(node.get("self_cpu_time"))
            todo.extend((child, below) for child in reversed(children_of(node)))
        self._close(total_hits)

    def _append(self, frame, parent):
        self.frames.append(frame)
        self.parents.append(parent)
        self.wall.append(0)
        self.cpu.append(0)

    def _close(self, total_hits):
        """The action's own time, the totals, and each row's own hits."""
        self.wall[0] = max(0, nanoseconds(self.record.get("time")) - sum(self.wall[1:]))
        self.cpu[0] = max(0, nanoseconds(self.record.get("cpu_time")) - sum(self.cpu[1:]))
        self.total_wall, self.total_cpu, self.hits = list(self.wall), list(self.cpu), list(total_hits)
        for row in range(len(self.frames) - 1, 0, -1):
            parent = self.parents[row]
            self.total_wall[parent] += self.total_wall[row]
            self.total_cpu[parent] += self.total_cpu[row]
            self.hits[parent] -= total_hits[row]
        self.hits = [max(0, hits) for hits in self.hits]

    def clock(self, name):
        """The rows' own times by that clock."""
        return self.cpu if name == "cpu" else self.wall

    def walk(self):
        """Yields (row, frames from the action to the row) for the rows with a cost of their own, in document order.

        The list is the walk's own: copy what is kept. Costs O(rows), not O(rows x depth).
        """
        stack, rows = [], []
        for row, frame in enumerate(self.frames):
            if row in self.messages:
                continue
            while rows and rows[-1] != self.parents[row]:
                rows.pop()
                stack.pop()
            rows.append(row)
            stack.append(frame)
            if self.wall[row] or self.cpu[row] or self.hits[row]:
                yield row, stack

    @property
    def start(self):
        """Nanoseconds since the epoch; None when the record does not say."""
        seconds = moment(self.record.get("start_time"))
        return None if seconds is None else round(seconds * 1e6) * 1000

    def fields(self):
        fields = self.record.get("action")
        return fields if isinstance(fields, dict) else {}


def nanoseconds(seconds):
    return round(number(seconds) * 1e9)


def name_of(frame):
    """What a frame is called in a list: its function, else its file."""
    return frame.function or os.path.basename(frame.file) or frame.file or "?"


def plain(text):
    """Text for formats of lines: control characters and separators of lines become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
                   if ord(c) < 0xD800 or ord(c) > 0xDFFF else "\\u%04x" % ord(c) for c in text)
