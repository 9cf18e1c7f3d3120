"""Runs every bench in a process of its own: `make bench`, or `python bench/run.py wrapper walker`. BENCH_QUICK=1: does it run at all?"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BENCHES = ("wrapper", "asgi", "events", "walker", "accuracy", "overhead", "servers", "bill", "ship", "weather")


def main():
    wanted = sys.argv[1:] or BENCHES
    unknown = set(wanted) - set(BENCHES)
    if unknown:
        raise SystemExit("unknown bench: %s (there are %s)" % (", ".join(sorted(unknown)), ", ".join(BENCHES)))
    print("CPython %s; figures go to build/bench" % sys.version.split()[0])
    failed = [name for name in wanted if subprocess.call([sys.executable, os.path.join(HERE, name + ".py")])]
    if failed:
        raise SystemExit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
