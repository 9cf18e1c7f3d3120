"""What the benches share: paired windows, bootstrap intervals, tables, JSON.

Machines drift by a third within seconds, so nothing here compares two runs. A window with the profiler is compared with the
window next to it without; the ratio of such a pair is one observation, and the median of many is the result, printed with
a bootstrap interval.
"""

import json
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


def bootstrap(values, statistic=statistics.median, rounds=1000, level=0.95):
    """The percentile bootstrap interval of a statistic."""
    rng = random.Random(1)
    n = len(values)
    found = sorted(statistic([values[int(rng.random() * n)] for _ in range(n)]) for _ in range(rounds))
    cut = (1 - level) / 2
    return found[int(rounds * cut)], found[int(rounds * (1 - cut)) - 1]


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Paired:
    """Collects (off, on) pairs of neighbouring windows."""

    def __init__(self):
        self.off, self.on = [], []

    def add(self, off, on):
        self.off.append(off)
        self.on.append(on)

    def ratio(self):
        return self.observe([on / off for off, on in zip(self.off, self.on)])

    def difference(self):
        return self.observe([on - off for off, on in zip(self.off, self.on)])

    def observe(self, values):
        low, high = bootstrap(values)
        return {"median": statistics.median(values), "low": low, "high": high, "pairs": len(values),
                "off": statistics.median(self.off), "on": statistics.median(self.on)}


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
