"""Python's own statistics, as `cProfile` would save them, for `pstats.Stats(FILE)`.

All actions summed up by function, by one clock; seconds. A function's line is the least one seen in it, as records do not
tell where it begins, and calls are what sampling has seen. The action itself is a function without a file, as built-in
functions are. As in cProfile, a recursive function's total counts once what all its activations have together.

Memory: the distinct functions and pairs of caller and callee.
"""

import marshal

from ._functions import Functions
from ._tree import plain

BINARY = True
EXTENSION = ".pstats"


def write(trees, out, clock):
    functions = Functions()
    for tree in trees:
        functions.add(tree)
    index = 1 if clock == "cpu" else 0
    keys = {}
    taken = set()
    for function in functions.all:
        name = plain(function.name)
        key = (plain(function.file) or "~", function.first_line or 0, name if function.file else f"<{name}>")
        while key in taken:  # two names that look alike when they are printable
            key = (key[0], key[1], key[2] + "'")
        taken.add(key)
        keys[function] = key
    stats = {}
    for function in functions.all:
        callers = {keys[caller]: (pair[0], pair[1], _seconds(pair[2 + index]), _seconds(pair[4 + index]))
                   for caller, pair in function.callers.items()}
        stats[keys[function]] = (function.primitive, function.activations, _seconds(function.own[index]),
                                 _seconds(function.total[index]), callers)
    # A version that every Python reads alike; without references to objects that happen to be shared.
    out.write(marshal.dumps(stats, 2))


def _seconds(nanoseconds):
    return nanoseconds / 1e9
