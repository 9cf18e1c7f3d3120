"""Is what it says true? Planted work, its live truth measured by the work itself, against the profile.

The load knows what it did: each planted function adds its own wall and CPU time as it runs. The distance is the total variation
distance between the shares of the truth and of the profile, by function and by line, on the wall and on the CPU clock; 0 is
perfect, and n random samples leave a noise, see noise(), which the CPU column is to be read against: of a thread that mostly waits few
samples have any CPU time.

pure: CPU only. mixed: sleeping, C code that holds the GIL, C code that releases it, Python. Each alone and with a bystander thread
that computes without an action.
"""

import hashlib
import math
import random
import threading
import time
import zlib
from collections import defaultdict

from common import quick, save, table

DATA = bytes(range(256)) * 2000


class Truth:
    def __init__(self):
        self.wall, self.cpu = defaultdict(float), defaultdict(float)

    def run(self, name, function, *args):
        wall, cpu = time.perf_counter(), time.thread_time()
        function(*args)
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += time.thread_time() - cpu


def spin_a(n):
    total = 0
    for i in range(n):
        total += i * i
    return total


def spin_b(n):
    total = 0
    for i in range(n):
        total ^= i << 1
    return total


def spin_c(n):
    text = ""
    for i in range(n // 4):
        text = str(i)
    return text


def wait(seconds):
    time.sleep(seconds)


def hold_gil(n):
    for _ in range(n):
        sorted(DATA[:20000])


def free_gil(n):
    for _ in range(n):
        hashlib.sha256(DATA).digest()


def squeeze(n):
    for _ in range(n):
        zlib.crc32(DATA)


line_truth = [0.0, 0.0]  # wall seconds of the two


def two_lines(n):
    begin = time.perf_counter()
    total = sum(range(n))
    between = time.perf_counter()
    total += sum(range(3 * n))
    line_truth[0] += between - begin
    line_truth[1] += time.perf_counter() - between
    return total


PURE = [("spin_a", spin_a, (9000,)), ("spin_b", spin_b, (4000,)), ("spin_c", spin_c, (6000,)), ("two_lines", two_lines, (9000,))]
MIXED = PURE + [("wait", wait, (0.002,)), ("hold_gil", hold_gil, (2,)), ("free_gil", free_gil, (3,)), ("squeeze", squeeze, (20,))]


def line_of(function, text):
    import inspect

    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def distance_of_lines(lines):
    """A wait for the GIL comes after a call, and so after a look at the clock too: it is in the stretch that begins there."""
    first, second = line_of(two_lines, "sum(range(n))"), line_of(two_lines, "sum(range(3 * n))")
    found = {1: lines[first - 1] + lines[first], 2: lines[second - 1] + lines[second]}
    return distance({1: line_truth[0], 2: line_truth[1]}, found)


def load(truth, menu, deadline, samples, wanted, seed):
    rng = random.Random(seed)
    while time.monotonic() < deadline and samples() < wanted:
        for _ in range(20):
            name, function, args = rng.choice(menu)
            truth.run(name, function, *args)


def distance(truth, found):
    total_truth, total_found = sum(truth.values()), sum(found.values())
    if not total_found:
        return 1.0
    names = set(truth) | set(found)
    return sum(abs(truth.get(n, 0) / total_truth - found.get(n, 0) / total_found) for n in names) / 2


def noise(truth, n):
    """The distance to expect of n independent samples: of a share p it is sqrt(2 p (1 - p) / (pi n)), the mean absolute deviation of a binomial
    one, and half their sum."""
    total = sum(truth.values())
    return sum(math.sqrt(2 * t / total * (1 - t / total) / (math.pi * n)) for t in truth.values()) / 2


def collect(node, names, wall, cpu, lines, above=None):
    function = node.get("function")
    owner = above if above is not None else (function if function in names else None)
    if owner is not None:
        wall[owner] += node["self_time"]
        cpu[owner] += node["self_cpu_time"]
        if owner == function and owner == "two_lines":
            lines[node["line"]] += node["time"]
    for child in node.get("children", ()):
        collect(child, names, wall, cpu, lines, owner)


def measure(menu_name, menu, bystander, wanted, seconds):
    import profilomatic

    records = []
    profilomatic.configure(time_granularity=0.002, max_overhead=0.5)
    profilomatic.add_destination(records.append)
    stop = threading.Event()

    def stand_by():
        while not stop.is_set():
            spin_b(5000)

    other = threading.Thread(target=stand_by, daemon=True)
    if bystander:
        other.start()
    truth = Truth()
    line_truth[:] = 0.0, 0.0
    before = profilomatic.stats()["samples"]["taken"]
    begin, cpu = time.perf_counter(), time.thread_time()
    with profilomatic.action("accuracy"):
        load(truth, menu, time.monotonic() + seconds, lambda: profilomatic.stats()["samples"]["taken"] - before, wanted, 7)
    cpu = time.thread_time() - cpu
    took = time.perf_counter() - begin
    stop.set()
    assert profilomatic.flush(20)
    stats = profilomatic.stats()
    profilomatic.stop(10)
    profilomatic.remove_destination(records.append)
    if bystander:
        other.join()
    record = records[-1]
    wall, cpus, lines = defaultdict(float), defaultdict(float), defaultdict(float)
    names = {name for name, _, _ in menu}
    collect(record, names, wall, cpus, lines)
    samples = stats["samples"]["taken"] - before
    return {"load": menu_name, "bystander": bystander, "seconds": took, "samples": samples,
            "delivered": samples / (took / stats["period"]), "wall": distance(truth.wall, wall), "cpu": distance(truth.cpu, cpus),
            "cpu_noise": noise(truth.cpu, cpu / stats["period"]),
            "line": distance_of_lines(lines), "cpu_total_ratio": record["cpu_time"] / cpu, "missed": stats["samples"]["missed"],
            "classes": {name: {"truth": truth.wall[name] / sum(truth.wall.values()), "found": wall[name] / (sum(wall.values()) or 1)}
                        for name in sorted(truth.wall)}}


def main():
    wanted, seconds = (800, 8) if quick() else (10000, 90)
    rows = [measure(name, menu, bystander, wanted, seconds)
            for name, menu in (("pure", PURE), ("mixed", MIXED)) for bystander in (False, True)]
    # Beside a bystander the mixed load has the interpreter's lock a twentieth of the time, so 10 000 samples have 500 of its CPU time. Ten
    # times as many tell what is noise.
    rows.append(measure("mixed", MIXED, True, 10 * wanted, 5 * seconds))
    table("Total variation distance to the live truth", ["load", "bystander", "samples", "delivered", "wall, function", "CPU, function", "its noise", "wall, line"],
          [[r["load"], "yes" if r["bystander"] else "no", r["samples"], "%.3f" % r["delivered"], "%.4f" % r["wall"], "%.4f" % r["cpu"], "%.4f" % r["cpu_noise"],
           "%.4f" % r["line"]]
           for r in rows])
    save("accuracy", rows)


if __name__ == "__main__":
    main()
