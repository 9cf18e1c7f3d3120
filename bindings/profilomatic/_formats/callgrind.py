"""Callgrind's profile format, version 1, for kcachegrind and callgrind_annotate.

All actions summed up: own costs by line, and calls by line of the caller. Events are wall time, CPU time (nanoseconds)
and samples; the chosen clock comes first. `calls=` counts what sampling has seen, a lower bound. Traps that this file
avoids:

- a function is written in one piece: readers take a second block as another function or forget the first;
- functions of one name get numbered names, since readers put them together otherwise;
- of a recursive function, only the outermost call carries cost: the calls of a function are then its total, as
  callgrind_annotate adds them up, and no total exceeds the whole;
- names stand behind a number, `(1) name`, so one that begins with a parenthesis is no trouble.

Memory: the distinct functions, lines and calls.
"""

from ._functions import Functions
from ._tree import plain

BINARY = False
EXTENSION = ".callgrind"

_EVENTS = {"wall": ("Wall", "Cpu", "Samples"), "cpu": ("Cpu", "Wall", "Samples")}


def write(trees, out, clock):
    functions = Functions()
    for tree in trees:
        functions.add(tree)
    Writer(functions, out, clock).write()


class Writer:
    def __init__(self, functions, out, clock):
        self._functions = functions
        self._out = out
        self._clock = clock
        self._files = {}
        self._numbers = {}
        self._names = set()

    def write(self):
        events = " ".join(_EVENTS[self._clock])
        self._line("# callgrind format\nversion: 1\ncreator: profilomatic\ncmd: actions\npositions: line\n"
                   "event: Wall : Wall time, ns\nevent: Cpu : CPU time, ns\nevent: Samples : Samples\n"
                   f"events: {events}\nsummary: {self._costs(self._functions.sum)}\n")
        for function in self._functions.all:
            self._line(f"\nfl={self._file(function)}\nfn={self._function(function)}\n")
            for line, cost in sorted(function.lines.items()):
                self._line(f"{line} {self._costs(cost)}\n")
            for (line, callee), (count, *cost) in function.calls.items():
                self._line(f"cfi={self._file(callee)}\ncfn={self._function(callee)}\n"
                           f"calls={max(count, 1)} {callee.first_line or 0}\n{line} {self._costs(cost)}\n")
        self._line(f"\ntotals: {self._costs(self._functions.sum)}\n")

    def _costs(self, cost):
        wall, cpu, hits = cost
        return f"{wall} {cpu} {hits}" if self._clock == "wall" else f"{cpu} {wall} {hits}"

    def _file(self, function):
        return _numbered(self._files, function.file, lambda: plain(function.file) or "(action)")

    def _function(self, function):
        return _numbered(self._numbers, function, lambda: self._free_name(plain(function.name)))

    def _free_name(self, name):
        free, number = name, 1
        while free in self._names:
            number += 1
            free = f"{name}_{number}"
        self._names.add(free)
        return free

    def _line(self, text):
        self._out.write(text.encode("utf-8", "replace"))


def _numbered(numbers, key, name):
    """`(number) name` at first, `(number)` from then on."""
    number = numbers.get(key)
    if number is not None:
        return f"({number})"
    number = numbers[key] = len(numbers) + 1
    return f"({number}) {name()}"
