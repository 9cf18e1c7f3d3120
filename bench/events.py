"""What actions and messages cost the thread that has them.

Ours: nanoseconds of a begin and end inside a live tree, of a message with five fields, and of both outside any profiled action
(engine running, and the outer action refused). Blocks of some 200 us with and without alternate; the difference of neighbours is
one observation.

Eliot's: CPU time of a request with five messages, patch() against one destination that does nothing, which both have. The ratio of
neighbouring windows.
"""

import statistics
import time

from common import Paired, bootstrap, profiler, quick, save, table

LIMITS = {"begin and end": 1000, "message, five fields": 1500, "message outside": 150, "begin and end, outer refused": 150}


def differences(with_, without, pairs, count, pause=0.003):
    clock = time.perf_counter_ns

    def block(function):
        begin = clock()
        for _ in range(count):
            function()
        return (clock() - begin) / count

    for _ in range(20):
        block(with_), block(without)
    found = []
    for i in range(pairs):
        # So that the sampler has applied the last block: a real program does other things between two messages.
        time.sleep(pause)
        if i % 2:
            bare, full = block(without), block(with_)
        else:
            full, bare = block(with_), block(without)
        found.append(full - bare)
    low, high = bootstrap(found, rounds=300)
    return {"ns": statistics.median(found), "low": low, "high": high, "fastest_ns": sorted(found)[len(found) // 20]}


class Bare:
    """A context manager that does nothing: what a `with` costs by itself."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def ours(pairs):
    import profilomatic

    bare = Bare()

    def with_bare():
        with bare:
            pass

    def call(step, name, size, ok, at):
        pass

    def bare_message():
        call(step=1, name="row", size=2.5, ok=True, at=None)

    results = {}
    _, destination, _ = profiler(max_actions_per_run=0, time_granularity=0.01)
    inner = profilomatic.action("inner")

    def with_inner():
        with inner:
            pass

    # A new outer action now and then, before its record is full.
    def in_rounds(name, make):
        parts = []
        for _ in range(10):
            with profilomatic.action("outer") as outer:
                parts.append(differences(*make(outer), max(pairs // 10, 5), 50))
        results[name] = {key: statistics.median(part[key] for part in parts) for key in parts[0]}

    in_rounds("begin and end", lambda outer: (with_inner, with_bare))
    in_rounds("message, five fields", lambda outer: (
        lambda: outer.message(step=1, name="row", size=2.5, ok=True, at=None), bare_message))
    ended = profilomatic.action("ended")
    with ended:
        pass
    results["message outside"] = differences(
        lambda: ended.message(step=1, name="row", size=2.5, ok=True, at=None), bare_message, pairs, 200)
    # A budget that no sampling can keep, until an outer action is refused.
    profilomatic.configure(max_overhead=0.00001, max_actions_per_run=1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        refused = profilomatic.action("refused")
        with refused:
            if refused.task_uuid is None:
                results["begin and end, outer refused"] = differences(with_inner, with_bare, pairs, 100, 0)
                break
            sum(range(2000))
    profilomatic.stop(10)
    profilomatic.remove_destination(destination)
    profilomatic.configure(max_overhead=0.02)
    return results


def request(eliot):
    """One request's logging, with the work of a small one."""
    with eliot.start_action(action_type="request", path="/cart", user=17):
        for number in range(5):
            eliot.log_message("step", number=number, name="row")
        total = 0
        for number in range(20000):  # about a millisecond
            total += number
    return total


def with_eliot(pairs, all_logs):
    import eliot

    import profilomatic
    import profilomatic.eliot

    def nothing(message):
        pass

    def window(count=20):
        begin = time.process_time_ns()
        for _ in range(count):
            request(eliot)
        return (time.process_time_ns() - begin) / count

    eliot.add_destinations(nothing)
    _, destination, _ = profiler(max_actions_per_run=0, store_all_logs=all_logs)
    paired = Paired()
    for i in range(pairs):
        times = {}
        for patched in ((True, False) if i % 2 else (False, True)):
            if patched:
                profilomatic.eliot.patch()
            window(2)
            times[patched] = window()
            profilomatic.flush(5)
            if patched:
                profilomatic.eliot.unpatch()
        paired.add(times[False], times[True])
    profilomatic.stop(10)
    profilomatic.remove_destination(destination)
    eliot.remove_destination(nothing)
    return paired.ratio()


def main():
    pairs = 60 if quick() else 1000
    results = ours(pairs)
    table("actions and messages, nanoseconds each on the app thread", ["what", "median", "95 % interval", "fastest 5 %", "limit"],
          [[name, "%.0f" % r["ns"], "%.0f .. %.0f" % (r["low"], r["high"]), "%.0f" % r["fastest_ns"], LIMITS[name]]
           for name, r in results.items()])
    ratios = {}
    try:
        for name, all_logs in (("actions only", False), ("store_all_logs", True)):
            ratios[name] = with_eliot(10 if quick() else 150, all_logs)
    except ImportError as error:
        print("  Eliot is not installed: %s" % error)
    else:
        table("Eliot: CPU of a 1 ms request with 5 messages, patched / not", ["messages", "ratio", "95 % interval", "us unpatched", "limit"],
              [[name, "%.3f" % r["median"], "%.3f .. %.3f" % (r["low"], r["high"]), "%.0f" % (r["off"] / 1000), "1.10"]
               for name, r in ratios.items()])
    save("events", {"ours": results, "eliot": ratios})


if __name__ == "__main__":
    main()
