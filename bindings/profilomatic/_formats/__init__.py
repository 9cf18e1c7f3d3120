"""Writers of other tools' formats, one module each.

A module has `write(trees, out, clock)`: `trees` yields `_tree.Tree` objects, `out` is a binary stream,
`clock` is "wall" or "cpu" and says which of the two the reader sees first (or, where a format has room for one, alone).
`BINARY` tells that the output is not for a terminal, `EXTENSION` what files of the format end with. Whatever the
format, the times of all frames together are exactly the time of the actions: each action is the outermost frame, and
what no sample covered is its own.
"""

import importlib

# format: (module, what it is for)
FORMATS = {
    "speedscope": ("speedscope", "speedscope.app, one profile an action and clock"),
    "callgrind": ("callgrind", "kcachegrind, qcachegrind, callgrind_annotate: all actions summed up, by line"),
    "pstats": ("pstats", "Python's pstats, snakeviz, gprof2dot: all actions summed up, by function"),
    "pprof": ("pprof", "go tool pprof, Pyroscope, Parca: each action's call paths, labelled"),
    "collapsed": ("collapsed", "flamegraph.pl and most flame graph viewers: one call path a line"),
    "chrome": ("chrome", "Perfetto, chrome://tracing: each action on its thread"),
}


def writer(name):
    """The module of a format; KeyError for a name that is none."""
    return importlib.import_module("." + FORMATS[name][0], __package__)
