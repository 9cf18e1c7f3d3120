"""Random WSGI applications and servers, bare against wrapped, event by event.

    python fuzz_wsgi.py --scripts 1000000              # `make fuzz` does this under AddressSanitizer
    python fuzz_wsgi.py --seed 7 --scripts 20000       # the same scripts each time
    python fuzz_wsgi.py --show 0102ff                  # one script: what it says, and both traces

Each script runs twice (fuzz_world.py), and the two traces must be equal. A difference is shrunk to the shortest string
of bytes that still shows one, whose script then belongs into regressions.py. After each batch every counter must add up:
started = profiled + shed = finished + lost, and no fault of ours. The profiler runs and delivers all the while; every
other batch it is kept over its budget, so that requests are shed.
"""

import argparse
import gc
import os
import random
import sys
import time

import fuzz_world
import regressions
from fuzz_script import decode, told

import profilomatic

BATCH = 500
LONGEST = 72  # bytes of a script; most decisions are made by then
PATIENCE = 60.0
SHRINK_TRIES = 4000


class Fuzzer:
    def __init__(self, pauses=True):
        self.world = fuzz_world.World(pauses)
        self.ran = self.events = 0

    def __enter__(self):
        sys.unraisablehook = self.world.saw
        self.destination = profilomatic.file_destination(os.devnull)
        profilomatic.configure(max_actions_per_run=0)
        profilomatic.add_destination(self.destination)
        gc.collect()
        gc.freeze()
        gc.disable()  # what lies in cycles is finalized where the script says, not where a threshold falls
        self.world.task_before = profilomatic.current_task_uuid()
        return self

    def __exit__(self, *exc_info):
        gc.enable()
        gc.unfreeze()
        sys.unraisablehook = sys.__unraisablehook__
        profilomatic.remove_destination(self.destination)
        profilomatic.stop(PATIENCE)

    def compare(self, script):
        """None, or the two traces that differ."""
        bare = self.world.run(script, False)
        wrapped = self.world.run(script, True)
        self.ran += 1
        self.events += sum(map(len, bare[0]))
        open_task = profilomatic.current_task_uuid()
        if open_task is not None:
            return bare, "an action is open: %s" % open_task
        return None if bare == wrapped else (bare, wrapped)

    def books(self):
        """None, or what does not add up. At rest: what the collector would free is freed, and delivered."""
        gc.collect()
        if profilomatic.flush(PATIENCE) is not True:
            return "not flushed: %r" % profilomatic.stats()
        actions = profilomatic.stats()["actions"]
        if not actions["started"] == actions["profiled"] + actions["shed"] == actions["finished"] + actions["lost"]:
            return "the counters do not add up: %r" % actions
        faults = profilomatic._backend.load().engine_info()["details"]["faults"]
        return "faults: %r" % faults if any(faults.values()) else None

    def wrong(self, script):
        """compare() and the books after it."""
        difference = self.compare(script)
        return difference if difference is not None else self.books()

    def batch(self, scripts):
        """None, or (data, difference) of the first script that has one."""
        for data in scripts:
            difference = self.compare(decode(data))
            if difference is not None:
                return data, difference
        books = self.books()
        if books is None:
            return None
        for data in scripts:  # once more, one by one: the counters are the process's, so only a change tells
            before = self.balance()
            self.compare(decode(data))
            self.books()
            if self.balance() != before:
                return data, books
        return scripts[-1], books + " (no single script does it)"

    def balance(self):
        actions = profilomatic.stats()["actions"]
        faults = profilomatic._backend.load().engine_info()["details"]["faults"]
        return (actions["started"] - actions["profiled"] - actions["shed"],
                actions["started"] - actions["finished"] - actions["lost"], sum(faults.values()))

    def shrunk(self, data):
        """The simplest string that still shows a difference in its traces."""
        tries = 0
        best = data
        again = True
        while again and tries < SHRINK_TRIES:
            again = False
            for simpler in simplifications(best):
                tries += 1
                if self.compare(decode(simpler)) is not None:
                    best, again = simpler, True
                    break
                if tries >= SHRINK_TRIES:
                    break
        return best


def simplifications(data):
    """Shorter first, then lower."""
    for size in (16, 8, 4, 2, 1):
        for at in range(0, len(data) - size + 1):
            yield data[:at] + data[at + size:]
    for at, byte in enumerate(data):
        for lower in sorted({0, byte // 2, byte % 64, byte % 16, max(byte - 1, 0)}):
            if lower < byte:
                yield data[:at] + bytes([lower]) + data[at + 1:]


def scripts_of(seed, count):
    """Batches of scripts; the seed tells them all."""
    rng = random.Random(seed)
    while count > 0:
        yield [rng.randbytes(rng.randrange(6, LONGEST)) for _ in range(min(count, BATCH))]
        count -= BATCH


def show(difference):
    """The two traces side by side, from where they part."""
    bare, wrapped = difference
    if isinstance(wrapped, str):
        return "  " + wrapped
    lines = []
    for number, (left, right) in enumerate(zip(bare[0], wrapped[0])):
        if left == right:
            continue
        at = next((at for at, (one, other) in enumerate(zip(left, right)) if one != other), min(len(left), len(right)))
        lines.append("  request %d, event %d, after %r" % (number, at, left[max(0, at - 3):at]))
        lines.append("    bare    %r" % (left[at:at + 4],))
        lines.append("    wrapped %r" % (right[at:at + 4],))
    if bare[1] != wrapped[1]:
        lines.append("  unraisable: bare %r, wrapped %r" % (bare[1], wrapped[1]))
    return "\n".join(lines)


def report(fuzzer, data, difference):
    if isinstance(difference, str):
        print("wrong: %s\n%s\n%s" % (data.hex(), told(decode(data)), difference))
        return
    small = fuzzer.shrunk(data)
    found = fuzzer.compare(decode(small)) or difference
    print("different: %s (from %s)\n%s\n%s" % (small.hex() or "00", data.hex(), told(decode(small)), show(found)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", type=int, default=20000, metavar="N")
    parser.add_argument("--seed", type=int, help="a random one by default, which is printed")
    parser.add_argument("--show", metavar="HEX", help="run this script only")
    parser.add_argument("--no-pauses", action="store_true", help="no greenlet switches inside an application: greenlet copies "
                        "the C stack, and AddressSanitizer takes our frames there for overruns")
    parser.add_argument("--keep-going", type=int, default=1, metavar="N", help="stop at the Nth difference")
    args = parser.parse_args(argv)
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    with Fuzzer(not args.no_pauses) as fuzzer:
        if args.show is not None:
            data = bytes.fromhex(args.show)
            print(told(decode(data)))
            difference = fuzzer.wrong(decode(data))
            if difference is None:
                print("no difference")
                return 0
            report(fuzzer, data, difference)
            return 1
        print("engine %s, seed %d, %d scripts" % (profilomatic.stats()["engine"], seed, args.scripts), flush=True)
        found = 0
        begun = time.monotonic()
        for what, script in regressions.CASES:
            difference = fuzzer.wrong(script)
            if difference is not None:
                print("again: %s\n%s" % (what, difference if isinstance(difference, str) else show(difference)))
                found += 1
        for number, scripts in enumerate(scripts_of(seed, args.scripts)):
            profilomatic.configure(max_actions_per_run=number % 2 * 8, max_overhead=1e-6 if number % 2 else 0.5,
                                   time_granularity=0.0005)
            wrong = fuzzer.batch(scripts)
            if wrong is not None:
                report(fuzzer, *wrong)
                found += 1
                if found >= args.keep_going:
                    break
        seconds = time.monotonic() - begun
        actions = profilomatic.stats()["actions"]
        print("%d scripts in %.0f s (%.0f/s), %d events each way, %d restarts of the engine, %d samples, actions %r: "
              "%d differences" % (fuzzer.ran, seconds, fuzzer.ran / seconds, fuzzer.events, fuzzer.world.restarts,
                 profilomatic.stats()["samples"]["taken"], actions, found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
