"""The walker alone: nanoseconds per stack by depth, and what share of walks fails on ordinary and on adversarial code.

The main thread walks another thread, as the sampler does, `count` times in a row (`_core._probe_walks`), while that thread runs the
code under test inside an action. Every distinct stack comes back, so a stack whose caller chain cannot be is found.
"""

import threading

from common import profiler, quick, save, table

SPIN = 60


def deep(depth, stop):
    if depth > 0:
        deep(depth - 1, stop)
        return
    while not stop.is_set():
        for _ in range(SPIN):
            pass


# Ordinary code: functions of some microseconds, fixed caller chains.

def leaf_a():
    total = 0
    for i in range(40):
        total += i
    return total


def leaf_b():
    return sum([i * i for i in range(40)])


def middle_a():
    return leaf_a() + leaf_a()


def middle_b():
    return leaf_b() + leaf_b()


def ordinary(stop):
    while not stop.is_set():
        for _ in range(50):
            middle_a()
            middle_b()


# Adversarial code: frames that live for nanoseconds.

def tiny_a():
    return 1


def tiny_b():
    return 2


def hot_a():
    return tiny_a()


def hot_b():
    return tiny_b()


def alternating(stop):
    while not stop.is_set():
        for _ in range(200):
            hot_a()
            hot_b()


def gen_a():
    while True:
        yield 1


def gen_b(inner):
    while True:
        yield next(inner)


def generators(stop):
    ping, pong = gen_b(gen_a()), gen_b(gen_a())
    while not stop.is_set():
        for _ in range(200):
            next(ping)
            next(pong)


def made_inner():
    for i in (1,):
        yield i


def made_outer():
    for i in made_inner():
        yield i


def remade(stop):
    while not stop.is_set():
        for _ in range(50):
            for _ in made_outer():
                pass


def sort_key(value):
    return -value


def callbacks(stop):
    values = list(range(50))
    while not stop.is_set():
        for _ in range(10):
            sorted(values, key=sort_key)


class Thing:
    def __init__(self, value):
        self.value = value


def instances(stop):
    while not stop.is_set():
        for i in range(200):
            Thing(i)


# Each function's only possible callers among the functions under test.
CALLERS = {"leaf_a": {"middle_a"}, "leaf_b": {"middle_b"}, "leaf_b.<locals>.<listcomp>": {"leaf_b"}, "middle_a": {"ordinary"},
           "middle_b": {"ordinary"}, "tiny_a": {"hot_a"}, "tiny_b": {"hot_b"}, "hot_a": {"alternating"},
           "hot_b": {"alternating"}, "gen_a": {"gen_b"}, "gen_b": {"generators"}, "made_inner": {"made_outer"},
           "made_outer": {"remade"}, "sort_key": {"callbacks"},
           "Thing.__init__": {"instances", "__init__"}, "__init__": {"instances"}, "deep": {"deep", "run"}}


def impossible(stack):
    names = [function for function, _ in stack]
    return any(callee in CALLERS and caller not in CALLERS[callee] for caller, callee in zip(names, names[1:]))


def walk(function, count, gap_ns, *args):
    import profilomatic
    from profilomatic import _core

    stop, inside = threading.Event(), threading.Event()

    def run():
        with profilomatic.action("bench"):
            inside.set()
            function(*args, stop)

    thread = threading.Thread(target=run)
    thread.start()
    inside.wait()
    try:
        return _core._probe_walks(count, gap_ns)
    finally:
        stop.set()
        thread.join()


def summary(found):
    walks = sum(found[key] for key in ("ok", "torn", "no_anchor", "unreadable", "raced"))
    wrong = sum(count for stack, count in found["stacks"].items() if impossible(stack))
    depths = [len(stack) for stack, count in found["stacks"].items() for _ in range(min(count, 100))]
    return {"walks": walks, "median_ns": found["median_ns"], "p99_ns": found["p99_ns"],
            "failed": 1 - found["ok"] / walks, "torn": found["torn"], "no_anchor": found["no_anchor"],
            "unreadable": found["unreadable"], "wrong_chains": wrong, "depth": sorted(depths)[len(depths) // 2] if depths else 0}


def main():
    import sys

    sys.setrecursionlimit(5000)
    threading.stack_size(64 << 20)
    profilomatic, destination, _ = profiler(time_granularity=10.0)
    count = 20000 if quick() else 200000
    depths = {n: summary(walk(deep, count, 2000, n - 3)) for n in (5, 30, 100, 500)}
    table("walker, nanoseconds per stack (clock read included)", ["frames", "median", "p99", "failed", "limit"],
          [[n, r["median_ns"], r["p99_ns"], "%.4f %%" % (100 * r["failed"]), {30: 500, 500: 4000}.get(n, "")]
           for n, r in depths.items()])
    codes = {}
    for function in (ordinary, alternating, generators, remade, callbacks, instances):
        n = (50000 if quick() else 1000000) if function is ordinary else count
        codes[function.__name__] = summary(walk(function, n, 1000))
    table("walks that fail, and stacks that cannot be", ["code", "walks", "failed", "torn", "no anchor", "unreadable", "wrong chains", "median ns"],
          [[name, r["walks"], "%.3f %%" % (100 * r["failed"]), r["torn"], r["no_anchor"], r["unreadable"], r["wrong_chains"],
            r["median_ns"]] for name, r in codes.items()])
    profilomatic.stop(5)
    profilomatic.remove_destination(destination)
    save("walker", {"depth": depths, "code": codes})


if __name__ == "__main__":
    main()
