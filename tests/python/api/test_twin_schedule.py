"""The schedule of the engine in pure Python, which the other tests meet only through its thread: when it looks, whom it refuses. That of
the extension has tests/unit/sampler/test_schedule.c."""

import pytest

from profilomatic._pure_schedule import CYCLE_NS, FINEST_AUTO_NS, PATIENCE, Schedule

CHEAP, DEAR = 0.001, 0.05  # of one core, a cycle


def schedule_of(granularity=0.0, max_actions=10):
    schedule = Schedule()
    schedule.configure(0.02, granularity, max_actions)
    return schedule


def cycle(schedule, cost, looks_cost=0.0, looks=0):
    """The rest of the process has one core."""
    cost_ns = int(cost * CYCLE_NS)
    schedule.account(CYCLE_NS, cost_ns, CYCLE_NS + cost_ns, looks, int(looks_cost * CYCLE_NS))


def test_actions_are_refused_only_when_no_period_mends_the_cost():
    schedule = schedule_of()
    for index in range(4 * PATIENCE):  # now and then over: chance, and the period's to mend
        cycle(schedule, CHEAP if index % PATIENCE == 0 else DEAR)
        assert schedule.allowance is None
    cycle(schedule, CHEAP)
    for index in range(1, PATIENCE + 1):
        cycle(schedule, DEAR)
        assert schedule.allowance == (10 if index == PATIENCE else None)


def test_at_the_coarsest_period_two_cycles_are_enough():
    schedule = schedule_of()
    schedule.period_ns = schedule.coarsest_ns
    cycle(schedule, DEAR)
    assert schedule.allowance is None
    cycle(schedule, DEAR)
    assert schedule.allowance == 10


def test_the_allowance_is_counted_and_comes_back():
    schedule = schedule_of(max_actions=3)
    schedule.period_ns = schedule.coarsest_ns
    cycle(schedule, DEAR)
    cycle(schedule, DEAR)
    assert [schedule.admit() for _ in range(5)] == [True, True, True, False, False]
    cycle(schedule, CHEAP)
    assert schedule.allowance == 6
    assert [schedule.admit() for _ in range(7)] == [True] * 6 + [False]
    for _ in range(20):
        cycle(schedule, CHEAP)
    assert schedule.allowance is None
    assert schedule.admit()


def test_nobody_is_refused_where_that_is_not_wanted():
    schedule = schedule_of(max_actions=0)
    schedule.period_ns = schedule.coarsest_ns
    for _ in range(2 * PATIENCE):
        cycle(schedule, DEAR)
    assert schedule.allowance is None


@pytest.mark.parametrize("granularity", [0.0, 0.01])
def test_looks_have_what_the_budget_leaves(granularity):
    schedule = schedule_of(granularity)
    finest = FINEST_AUTO_NS if granularity == 0.0 else 10000000
    cycle(schedule, 0.01, looks_cost=0.01, looks=100)  # half the budget, at a look each 2 ms
    assert schedule.period_ns == pytest.approx(max(1000000, finest), rel=0.01)
    cycle(schedule, 0.03, looks_cost=0.015, looks=100)  # the rest costs 1.5 %: a third of what these looks did is left
    assert schedule.period_ns == pytest.approx(max(6000000, finest), rel=0.01)
    cycle(schedule, 0.03, looks_cost=0.001, looks=100)  # more than all
    assert schedule.period_ns == schedule.coarsest_ns
    cycle(schedule, 0.0, looks_cost=0.0, looks=1)
    assert schedule.period_ns == finest
