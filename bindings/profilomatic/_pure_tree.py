"""The call tree of one action and the record made of it; the pure twin of profiles/call_tree.c and formats/record.c.

A path is a list of places, root first; a place is (file, function, line), in which what the granularity
leaves out is None. A message is a child of its caller's node and seals that node's current children, so that
work before and after it stays apart. The sampler thread alone touches a tree while the action lives;
afterwards nobody changes it.
"""

from . import _values

MAX_NODES = 20000
MAX_MESSAGES = 10000

# Nodes below the root in one line of descent. A record nests at most 120 maps: the root, 118 nodes, a message.
MAX_DEPTH = 118
_HEAD, _TAIL = 59, 59


class Node:
    __slots__ = ("place", "sealed", "current", "wall_ns", "cpu_ns", "hits", "first_ns", "last_ns", "message")

    def __init__(self, place, now_ns, message=None):
        self.place = place
        self.sealed = None  # list of closed children
        self.current = None  # dict of place -> child, in order of first sight
        self.wall_ns = 0  # self time
        self.cpu_ns = 0
        self.hits = 0
        self.first_ns = self.last_ns = now_ns
        self.message = message

    def children(self):
        nodes = list(self.sealed) if self.sealed else []
        if self.current:
            nodes.extend(self.current.values())
        return nodes


class Tree:
    __slots__ = ("root", "granularity", "nodes", "messages", "truncated", "gaps")

    def __init__(self, granularity, start_ns):
        self.root = Node(None, start_ns)
        self.granularity = granularity
        self.nodes = 0
        self.messages = 0
        self.truncated = {}
        self.gaps = set()  # middles left out of paths, each counted once

    def cut(self, reason, count=1):
        self.truncated[reason] = self.truncated.get(reason, 0) + count

    def _place(self, code, line):
        file = _values.text(code.co_filename)
        if self.granularity == 0:
            return file, None, None
        function = _values.text(getattr(code, "co_qualname", code.co_name))
        if self.granularity == 1:
            return file, function, None
        return file, function, line

    def _path(self, stack):
        """Places of a stack, root first, without its middle when it is too deep."""
        if len(stack) > MAX_DEPTH:
            gap = hash(tuple((id(code), line) for code, line in stack[_HEAD:-_TAIL]))
            if gap not in self.gaps and len(self.gaps) < MAX_NODES:
                self.gaps.add(gap)
                self.cut("elided", len(stack) - MAX_DEPTH)
            stack = stack[:_HEAD] + stack[-_TAIL:]
        return [self._place(*frame) for frame in stack]

    def child(self, node, place, now_ns):
        if node.current is None:
            node.current = {}
        child = node.current.get(place)
        if child is None:
            if self.nodes >= MAX_NODES:
                self.cut("nodes")
                return None
            self.nodes += 1
            child = node.current[place] = Node(place, now_ns)
        # A message may come after a sample that is later than its moment.
        child.first_ns = min(child.first_ns, now_ns)
        child.last_ns = max(child.last_ns, now_ns)
        return child

    def add(self, stack, wall_ns, cpu_ns, now_ns):
        """Adds a sample: [(code, line), ...] root first. What finds no room goes to the deepest node kept."""
        node = self.root
        node.hits += 1
        for place in self._path(stack):
            child = self.child(node, place, now_ns)
            if child is None:
                break
            child.hits += 1
            node = child
        node.wall_ns += wall_ns
        node.cpu_ns += cpu_ns

    def add_message(self, stack, fields, now_ns):
        """Adds a message with the stack of its call; its last frame is the message's own place."""
        if self.messages >= MAX_MESSAGES or self.nodes >= MAX_NODES:
            self.cut("messages")
            return
        path = self._path(stack)
        node = self.root
        for place in path[:-1]:
            child = self.child(node, place, now_ns)
            if child is None:
                self.cut("messages")
                return
            node = child
        if node.sealed is None:
            node.sealed = []
        if node.current:
            node.sealed.extend(node.current.values())
            node.current = None
        node.sealed.append(Node(path[-1] if path else None, now_ns, fields))
        self.messages += 1
        self.nodes += 1


class Profile:
    """One finished outermost action, immutable. `record()` builds its dict, a fresh one at each call."""

    __slots__ = ("task_uuid", "thread", "thread_name", "source", "pid", "start_ns", "end_ns", "start_wall_ns",
                 "cpu_ns", "type", "kind", "outcome", "fields", "tree", "period", "samples", "missed",
                 "overhead_cpu", "overhead_fraction", "shed")

    def size(self):
        """Bytes it holds, roughly, for the budget of a destination's queue."""
        return 1024 + 256 * self.tree.nodes + 512 * self.tree.messages

    def total_cpu_ns(self):
        return max(self.cpu_ns, self._children(self.tree.root)[2])

    def _moment(self, mono_ns):
        return _values.moment(self.start_wall_ns + mono_ns - self.start_ns)

    def record(self):
        children, below_wall, below_cpu = self._children(self.tree.root)
        wall_ns = max(self.end_ns - self.start_ns, below_wall)
        cpu_ns = max(self.cpu_ns, below_cpu)
        action = {"type": self.type, "kind": self.kind, "outcome": self.outcome, **self.fields}
        return {
            "task_uuid": self.task_uuid,
            "thread": self.thread,
            "thread_name": self.thread_name,
            "source": self.source,
            "pid": self.pid,
            "start_time": self._moment(self.start_ns),
            "end_time": self._moment(self.end_ns),
            "time": wall_ns / 1e9,
            "self_time": (wall_ns - below_wall) / 1e9,
            "cpu_time": cpu_ns / 1e9,
            "self_cpu_time": (cpu_ns - below_cpu) / 1e9,
            "hits": self.tree.root.hits,
            "action": action,
            "profiler": {
                "engine": "pure",
                "period": self.period,
                "samples": self.samples,
                "missed": dict(self.missed),
                "overhead": {"cpu": self.overhead_cpu, "fraction": self.overhead_fraction},
                "truncated": dict(self.tree.truncated),
                **({"shed": self.shed} if self.shed else {}),
            },
            "children": children,
        }

    def _children(self, node):
        """Dicts of a node's children, with the wall and CPU nanoseconds in them. At most MAX_DEPTH calls deep."""
        dicts = []
        wall_ns = cpu_ns = 0
        for child in node.children():
            below, below_wall, below_cpu = self._children(child)
            child_wall = child.wall_ns + below_wall
            child_cpu = child.cpu_ns + below_cpu
            wall_ns += child_wall
            cpu_ns += child_cpu
            entry = _place_dict(child.place)
            entry["time"] = child_wall / 1e9
            entry["self_time"] = child.wall_ns / 1e9
            entry["cpu_time"] = child_cpu / 1e9
            entry["self_cpu_time"] = child.cpu_ns / 1e9
            entry["hits"] = child.hits
            entry["start_time"] = self._moment(child.first_ns)
            entry["end_time"] = self._moment(child.last_ns)
            if below:
                entry["children"] = below
            if child.message is not None:
                entry["message"] = _copy(child.message)
            dicts.append(entry)
        return dicts, wall_ns, cpu_ns


def _place_dict(place):
    """The keys that name a place: only those that the granularity leaves; none for a message of unknown place."""
    if place is None:
        return {}
    file, function, line = place
    entry = {"instruction": file, "file": file}
    if function is not None:
        entry["instruction"] = "%s:%s" % (file, function)
        entry["function"] = function
        if line is not None:
            entry["instruction"] = "%s:%s:%d" % (file, function, line)
            entry["line"] = line
    return entry


def _copy(value):
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) is list:
        return [_copy(item) for item in value]
    return value
