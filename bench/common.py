"""What the benches share: paired windows, bootstrap intervals, fresh processes, tables, JSON.

Machines drift by a third within seconds, so nothing here compares two runs. A window with the profiler is compared with the
window next to it without; the ratio of such a pair is one observation, and the median of many is the result, printed with
a bootstrap interval.

Where code and data come to lie in memory is drawn anew for each process, and moves its ratio by 0.2 to 0.4 %, the same for all of its pairs. So
what is to be known better than that is measured in several processes, and the interval is drawn from these first. Of a thread the stack lies at
the same place of a page in each process, so windows are served at places of their own, see anywhere_on_the_stack().
"""

import functools
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time

OUT = os.environ.get("BENCH_OUT", os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "build", "bench"))


def quick():
    """A short run, to see that a bench works; its figures mean nothing."""
    return os.environ.get("BENCH_QUICK") == "1"


def bootstrap(*runs, rounds=1000, level=0.95):
    """The percentile bootstrap interval of the median of all runs' values together: runs are drawn, and then the values of each."""
    rng = random.Random(1)

    def drawn():
        return [run[int(rng.random() * len(run))] for run in (rng.choice(runs) for _ in runs) for _ in run]

    found = sorted(statistics.median(drawn()) for _ in range(rounds))
    cut = (1 - level) / 2
    return found[int(rounds * cut)], found[int(rounds * (1 - cut)) - 1]


def _at_depth(depth, function, *args):
    if depth >= 4:
        return functools.partial(_at_depth, depth - 4, function, *args)()
    if depth > 0:  # another amount of stack than the above
        return next(map(functools.partial(_at_depth, depth - 1, function), *([arg] for arg in args)))
    return function(*args)


def anywhere_on_the_stack(function, *args):
    """function(*args), at least one, with more or less of the C stack in use below it. Where the interpreter's locals lie within a page, and
    what else has the same place in its page, moves the CPU of the same work: of 16 places most within 0.4 %, one or two by 1 %, and
    on CPython 3.13 one by 12. A wrapper that does nothing but call moves them as any call does: what it seems to cost at one place is chance, the same in
    all processes."""
    return _at_depth(random.randrange(16), function, *args)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def in_fresh_processes(count, function, *args, **options):
    """What the function of a bench returns in each of so many new processes, one after the other."""
    found = []
    for _ in range(count):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(function, args, options))
    return found


class Paired:
    """Collects (off, on) pairs of neighbouring windows, of one process or of several."""

    def __init__(self, *runs):
        self.off, self.on = [], []
        self.runs = [(run.off, run.on) for run in runs] or [(self.off, self.on)]

    def add(self, off, on):
        self.off.append(off)
        self.on.append(on)

    def ratio(self):
        return self.observe(lambda off, on: on / off)

    def difference(self):
        return self.observe(lambda off, on: on - off)

    def observe(self, compare):
        runs = [[compare(*pair) for pair in zip(off, on)] for off, on in self.runs]
        values = [value for run in runs for value in run]
        low, high = bootstrap(*runs)
        return {"median": statistics.median(values), "low": low, "high": high, "pairs": len(values),
                "off": statistics.median(value for off, _ in self.runs for value in off),
                "on": statistics.median(value for _, on in self.runs for value in on)}


def table(title, header, rows):
    print("\n" + title)
    texts = [header] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for index, row in enumerate(texts):
        print("  " + "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                              for i, (cell, width) in enumerate(zip(row, widths))).rstrip())
        if index == 0:
            print("  " + "  ".join("-" * width for width in widths))
    sys.stdout.flush()


def save(name, result):
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, "%s-%d.%d.json" % (name, *sys.version_info[:2]))
    with open(path, "w") as file:
        json.dump({"bench": name, "python": platform.python_version(), "machine": platform.machine(),
                   "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "quick": quick(), "result": result},
                  file, indent=1)
    print("  -> %s" % os.path.relpath(path))


def profiler(path=None, **options):
    """The package with a file destination, engine running."""
    import profilomatic

    profilomatic.configure(**options)
    path = path or os.path.join("/dev/shm" if os.path.isdir("/dev/shm") else OUT, "bench-%d.jsonl" % os.getpid())
    destination = profilomatic.file_destination(path)
    profilomatic.add_destination(destination)
    return profilomatic, destination, path
