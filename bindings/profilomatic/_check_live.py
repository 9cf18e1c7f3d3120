"""A short live self-test: profiles an action of a known shape in this process and looks at what arrives.

The planted code is compiled under a file name of its own, because the engine leaves the package's own frames out.
"""

import json
import os
import tempfile
import time

PLANTED_FILE = "self-test.py"
PLANTED_LINE = 4
_PLANTED = """\
def work(clock, until):
    rounds = 0
    while clock() < until:
        rounds += sum(range(3000))
    return rounds
"""
_MIN_SECONDS, _MIN_SAMPLES, _MAX_SECONDS = 0.4, 20, 3.0
_MOST_TO_DELIVER = 20  # seconds: a busy machine is not broken


class SelfTest:
    """What the self-test saw. `problem` is None when everything was as it must be."""

    def __init__(self):
        self.problem = None
        self.remedy = None
        self.seconds = 0.0
        self.samples = self.expected = 0
        self.missed = {}
        self.planted_share = None
        self.engine = None
        self.period = None
        self.overhead_fraction = self.overhead_cpu = None

    def data(self):
        return dict(vars(self))


def run():
    import profilomatic

    test = SelfTest()
    namespace = {}
    exec(compile(_PLANTED, PLANTED_FILE, "exec"), namespace)
    handle, path = tempfile.mkstemp(prefix="profilomatic-check-", suffix=".jsonl")
    os.close(handle)
    destination = None
    ran = False
    try:
        ran = profilomatic.stats()["running"]
        destination = profilomatic.file_destination(path)
        profilomatic.add_destination(destination)
        period = profilomatic.stats()["period"] or 0.01
        test.seconds = min(_MAX_SECONDS, max(_MIN_SECONDS, _MIN_SAMPLES * period))
        with profilomatic.action("profilomatic check"):
            namespace["work"](time.perf_counter, time.perf_counter() + test.seconds)
        if not profilomatic.flush(_MOST_TO_DELIVER):
            test.problem = f"the finished profile was not delivered within {_MOST_TO_DELIVER} s"
        with open(path, "rb") as file:
            lines = file.readlines()
        _judge(test, lines)
    except Exception as error:  # whatever goes wrong is the answer the user asked for
        test.problem = f"{type(error).__name__}: {error}"
    finally:
        if destination is not None:
            profilomatic.remove_destination(destination)
        if not ran:
            profilomatic.stop()
        try:
            os.unlink(path)
        except OSError:
            pass
    return test


def _judge(test, lines):
    from ._report_costs import Places, Walk

    if not lines:
        test.problem = test.problem or "no profile arrived"
        return
    record = json.loads(lines[-1])
    profiler = record["profiler"]
    test.engine, test.period = profiler["engine"], profiler["period"]
    test.samples, test.missed = profiler["samples"], profiler["missed"]
    test.expected = round(record["time"] / test.period) if test.period else 0
    test.overhead_fraction, test.overhead_cpu = profiler["overhead"]["fraction"], profiler["overhead"]["cpu"]
    costs = Walk(Places(lambda file: False), leaf=True).costs(record)
    total = sum(cost.wall for cost in costs.values())
    planted = sum(
        cost.wall
        for place, cost in costs.items()
        if place.file == PLANTED_FILE and place.line in (PLANTED_LINE, None)
    )
    test.planted_share = planted / total if total else 0.0
    if not test.samples:
        test.problem = f"not one sample in {test.seconds:.1f} s; missed: {test.missed or 'none'}"
    elif test.planted_share < 0.5:
        test.problem = (
            f"the planted line got {100 * test.planted_share:.0f}% of the samples and should have nearly all"
        )
