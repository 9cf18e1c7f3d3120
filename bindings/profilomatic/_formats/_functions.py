"""Sums by function over many actions, as the formats without call paths want them: callgrind and pstats.

Recursion is where such sums go wrong. Here each nanosecond is looked at with its whole call path:

- a function's own time is what was spent in it, its total what was spent while it was anywhere on the path, once;
- from a caller to a callee go, once for each nanosecond, the paths on which the one called the other (`callers`, for
  pstats), or those on which that was the callee's outermost activation (`calls`, for callgrind: so a function's calls
  add up to its total, which is how readers of callgrind find it).

Memory: the distinct functions, lines and pairs; not the actions.
"""

from ._tree import name_of


class Function:
    __slots__ = ("file", "name", "first_line", "own", "total", "primitive", "activations", "callers", "lines", "calls")

    def __init__(self, file, name):
        self.file = file
        self.name = name
        self.first_line = None  # the least line seen: records do not tell where a function begins
        self.own = [0, 0, 0]    # wall, CPU, hits
        self.total = [0, 0, 0]
        self.primitive = self.activations = 0
        self.callers = {}       # caller -> [primitive, activations, own wall, own cpu, total wall, total cpu]
        self.lines = {}         # line -> [wall, CPU, hits] of the function itself
        self.calls = {}         # (line, callee) -> [activations, wall, CPU, hits]


class Functions:
    """`all` holds the functions in the order of their coming."""

    def __init__(self):
        self._known = {}
        self._of_frame = {}
        self.all = []
        self.sum = [0, 0, 0]

    def of(self, frame):
        function = self._of_frame.get(frame)
        if function is None:
            key = (frame.file, name_of(frame))
            function = self._known.get(key)
            if function is None:
                function = self._known[key] = Function(*key)
                self.all.append(function)
            self._of_frame[frame] = function
        if frame.line is not None and (function.first_line is None or frame.line < function.first_line):
            function.first_line = frame.line
        return function

    def add(self, tree):
        """One pass over the rows.

        The same function on two lines beside each other is one activation or several, which samples cannot tell: it is
        counted as one.
        """
        path = []  # (row, function, line) from the action to the row
        counted = set()
        for row, frame in enumerate(tree.frames):
            if row in tree.messages:
                continue
            parent = tree.parents[row]
            while path and path[-1][0] != parent:
                path.pop()
            function = self.of(frame)
            self._count(path, function, (parent, function), counted)
            path.append((row, function, frame.line or 0))
            cost = (tree.wall[row], tree.cpu[row], tree.hits[row])
            if any(cost):
                self._book(path, cost)

    @staticmethod
    def _count(path, function, activation, counted):
        """Makes room for the sums of a call, and counts it unless it is a line of an activation already counted."""
        is_new = activation not in counted
        counted.add(activation)
        is_primitive = is_new and all(other is not function for _, other, _ in path)
        function.activations += is_new
        function.primitive += is_primitive
        if path:
            _, caller, line = path[-1]
            caller.calls.setdefault((line, function), [0, 0, 0, 0])[0] += is_new
            pair = function.callers.setdefault(caller, [0, 0, 0, 0, 0, 0])
            pair[0] += is_primitive
            pair[1] += is_new

    def _book(self, path, cost):
        _, function, line = path[-1]
        _add(self.sum, cost)
        _add(function.own, cost)
        _add(function.lines.setdefault(line, [0, 0, 0]), cost)
        if len(path) > 1:
            pair = function.callers[path[-2][1]]
            pair[2] += cost[0]
            pair[3] += cost[1]
        met, pairs = {path[0][1]}, set()
        _add(path[0][1].total, cost)
        for (_, caller, line), (_, callee, _) in zip(path, path[1:]):
            if callee not in met:  # its outermost activation
                met.add(callee)
                _add(callee.total, cost)
                call = caller.calls[(line, callee)]
                call[1] += cost[0]
                call[2] += cost[1]
                call[3] += cost[2]
            if (caller, callee) not in pairs:
                pairs.add((caller, callee))
                pair = callee.callers[caller]
                pair[4] += cost[0]
                pair[5] += cost[1]


def _add(sums, cost):
    sums[0] += cost[0]
    sums[1] += cost[1]
    sums[2] += cost[2]
