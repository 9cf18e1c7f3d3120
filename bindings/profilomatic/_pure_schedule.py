"""When to look next, and whom to admit, so that the cost stays under max_overhead; the pure twin of
sampler/schedule.c and actions/admission.c. No clock and no thread in here: the sampler says what time and
work have passed.

Cost is the sampler thread's CPU, the time spent inside requests, and the delivery thread's CPU. What it is
compared with is the process's other CPU time, but at least a share of the active wall time, so that requests
that only wait are sampled too.
"""

CYCLE_NS = 200000000  # of active time
COARSEST_NS = 50000000
FINEST_AUTO_NS = 500000
PATIENCE = 5  # cycles in a row over the budget that a longer period may mend; at its coarsest two, as one alone is chance
IDLE_SHARE = 0.1  # as in the extension: a process that only waits is still sampled 20 times a second or more
ALLOWANCE_MAX = 10000  # admission is off above it


class Schedule:
    def __init__(self):
        self.budget = 0.02
        self.max_actions = 10
        self.finest_ns = self.coarsest_ns = self.period_ns = 10000000
        self.fraction = 0.0  # of the whole run
        self.allowance = None  # new actions a cycle; None: no limit
        self.admitted = 0  # in this cycle
        self._over_cycles = 0  # so many in a row cost more than the budget
        self._cycle = [0, 0, 0, 0, 0]  # cost, process, active, looks, their cost
        self._total = [0, 0, 0]  # cost, process, active of the run

    def configure(self, budget, granularity, max_actions):
        """granularity in seconds, 0.0 for "auto"."""
        self.budget = budget
        self.max_actions = max_actions
        finest = int(granularity * 1e9) if granularity else FINEST_AUTO_NS
        if finest != self.finest_ns or not granularity:
            self.finest_ns = finest
            self.coarsest_ns = max(COARSEST_NS, finest)
            self.period_ns = finest if granularity else 10000000
        if not max_actions:
            self.allowance = None

    def admit(self):
        """True when one more action may be profiled; called by app threads, so it only reads and counts."""
        allowance = self.allowance
        if allowance is not None and self.admitted >= allowance:
            return False
        self.admitted += 1
        return True

    def account(self, active_ns, cost_ns, process_ns, looks, looks_cost_ns):
        """What passed since the last call: active wall time, all of our cost, the process's CPU time, and how
        many looks there were at what cost (a part of cost_ns)."""
        cycle = self._cycle
        for index, value in enumerate((cost_ns, process_ns, active_ns, looks, looks_cost_ns)):
            cycle[index] += value
        if cycle[2] >= CYCLE_NS:
            self._end_cycle(*cycle)
            self._cycle = [0, 0, 0, 0, 0]

    @staticmethod
    def _base(cost, process, active):
        return max(process - cost, IDLE_SHARE * active, 1.0)

    def _end_cycle(self, cost, process, active, looks, looks_cost):
        for index, value in enumerate((cost, process, active)):
            self._total[index] += value
        self.fraction = self._total[0] / self._base(*self._total)
        base = self._base(cost, process, active)
        self._over_cycles = self._over_cycles + 1 if cost > self.budget * base else 0
        helpless = self._over_cycles >= (PATIENCE if self.period_ns < self.coarsest_ns else 2)
        if looks:
            # What the budget leaves to looks in a cycle like this one decides how many there may be.
            left = self.budget * base - (cost - looks_cost)
            wanted = active * max(looks_cost / looks, 1.0) / left if left > 0 else self.coarsest_ns
            self.period_ns = int(min(max(wanted, self.finest_ns), self.coarsest_ns))
        if not self.max_actions:
            self.allowance = None
        elif helpless:
            self.allowance = self.max_actions
        elif self.allowance is not None:
            self.allowance *= 2
            if self.allowance > ALLOWANCE_MAX:
                self.allowance = None
        self.admitted = 0
