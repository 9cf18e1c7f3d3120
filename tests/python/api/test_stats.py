"""stats(), the bill, the schedule and admission, as a user sees them."""

import os
import threading
import time

import pytest
from pom_support import PATIENCE, burn, burn_until_sampled, wait_until
from wsgi_server import Server, listed

import profilomatic


def act():
    with profilomatic.action("a"):
        pass


def check_shape(stats, running):
    assert set(stats) == {"engine", "running", "period", "overhead", "actions", "samples", "routes", "destinations"}
    assert isinstance(stats["engine"], str) and stats["engine"]
    assert stats["running"] is running
    assert isinstance(stats["period"], float) and stats["period"] >= 0
    assert set(stats["overhead"]) == {"fraction", "sampler_cpu", "in_request", "delivery_cpu"}
    assert all(isinstance(value, float) and value >= 0 for value in stats["overhead"].values())
    assert set(stats["actions"]) == {"started", "profiled", "shed", "finished", "lost"}
    assert all(isinstance(value, int) and value >= 0 for value in stats["actions"].values())
    assert set(stats["samples"]) == {"taken", "missed"}
    assert isinstance(stats["samples"]["taken"], int) and isinstance(stats["samples"]["missed"], dict)
    assert set(stats["routes"]) == {"names", "other"}
    assert all(isinstance(value, int) and value >= 0 for value in stats["routes"].values())
    for entry in stats["destinations"]:
        assert set(entry) == {"name", "queued", "sent", "retried", "spooled", "dropped", "bytes", "last_error"}
        assert isinstance(entry["name"], str) and isinstance(entry["dropped"], dict)


def test_shape_before_start_while_running_and_after_stop(backend):
    check_shape(profilomatic.stats(), False)
    assert backend == "c" or profilomatic.stats()["engine"] == "pure"
    profilomatic.start()
    check_shape(profilomatic.stats(), True)
    assert profilomatic.stop(PATIENCE)
    check_shape(profilomatic.stats(), False)


def test_destinations_are_counted_in_profiles(profiles):
    for _ in range(3):
        act()
    profiles.flushed(3)
    stats = profilomatic.stats()
    check_shape(stats, True)
    entry, = stats["destinations"]
    assert (entry["queued"], entry["sent"], entry["retried"], entry["spooled"]) == (0, 3, 0, 0)
    assert not any(entry["dropped"].values()) and not entry["last_error"]


def test_of_a_process_that_waits_the_fraction_is_one_of_its_waiting_too(profiles):
    """As the schedule has it, which holds it under max_overhead: a tenth of active time stands for CPU time."""
    with profilomatic.action("waits"):
        time.sleep(1)  # what it is about: some windows in which nothing works
    profilomatic.stop(PATIENCE)
    overhead = profilomatic.stats()["overhead"]
    cost = overhead["sampler_cpu"] + overhead["in_request"] + overhead["delivery_cpu"]
    assert 0 < overhead["fraction"] <= cost / (1 * 0.5 / 10)  # the twin has whole windows only, and looks come late


def test_actions_add_up_at_rest(profiles):
    before = profilomatic.stats()["actions"]
    act()
    with profilomatic.action("outer"):
        act()  # nested ones are part of the outer
    Server(profilomatic.wsgi.wrap(listed)).run()
    profilomatic.action("lost").__enter__()
    import gc

    gc.collect()
    profiles.flushed(4)
    now = profilomatic.stats()["actions"]
    delta = {key: now[key] - before[key] for key in now}
    assert delta == {"started": 4, "profiled": 4, "shed": 0, "finished": 3, "lost": 1}


def test_samples_and_overhead_grow_with_work(profiles, backend):
    before = profilomatic.stats()
    with profilomatic.action("busy"):
        burn_until_sampled(10)
    record = profiles.one()
    now = profilomatic.stats()
    assert now["samples"]["taken"] - before["samples"]["taken"] >= 10
    assert now["overhead"]["sampler_cpu"] > before["overhead"]["sampler_cpu"]
    assert now["overhead"]["in_request"] > before["overhead"]["in_request"]
    assert record["profiler"]["samples"] >= 10
    assert record["profiler"]["overhead"]["cpu"] > 0
    if backend == "pure":  # the extension reckons with what a sample cost in the window before
        assert record["profiler"]["overhead"]["cpu"] <= now["overhead"]["sampler_cpu"] + now["overhead"]["in_request"]


@pytest.mark.acceptance("PM5")
def test_the_period_is_the_time_granularity_while_that_is_affordable(profiles):
    profilomatic.configure(time_granularity=0.02, max_overhead=0.5)
    with profilomatic.action("busy"):
        burn_until_sampled(3)
    profiles.one()
    assert profilomatic.stats()["period"] == pytest.approx(0.02)
    profilomatic.configure(time_granularity=2)
    act()
    profiles.flushed(2)
    assert profilomatic.stats()["period"] == pytest.approx(2)


@pytest.mark.acceptance("PM4")
def test_over_budget_the_period_grows_to_its_coarsest(profiles):
    profilomatic.configure(max_overhead=1e-7, time_granularity=0.001)
    deadline = time.monotonic() + PATIENCE
    with profilomatic.action("busy"):
        while profilomatic.stats()["period"] < 0.0499:
            assert time.monotonic() < deadline, profilomatic.stats()
            burn(2000)
    profiles.one()
    assert profilomatic.stats()["period"] == pytest.approx(0.05)


@pytest.mark.acceptance("PM4")
def test_auto_is_finer_than_the_default_when_the_budget_is_large(profiles):
    profilomatic.configure(max_overhead=0.5, time_granularity="auto")
    deadline = time.monotonic() + PATIENCE
    with profilomatic.action("busy"):
        while not 0.0005 <= profilomatic.stats()["period"] < 0.009:
            assert time.monotonic() < deadline, profilomatic.stats()
            burn(2000)
    profiles.one()


@pytest.mark.acceptance("PM8", "PM9")
def test_over_budget_new_actions_are_shed_and_counted_and_nested_ones_follow(profiles):
    profilomatic.configure(max_overhead=1e-7, max_actions_per_run=1, time_granularity=0.001)
    before = profilomatic.stats()["actions"]
    deadline = time.monotonic() + PATIENCE
    begun = 0
    while profilomatic.stats()["actions"]["shed"] - before["shed"] < 20:
        assert time.monotonic() < deadline, profilomatic.stats()
        for _ in range(20):
            begun += 1
            with profilomatic.action("outer") as a:
                burn(2000)
                with profilomatic.action("inner"):
                    a.message(step=1)
        assert profilomatic.flush(PATIENCE)
    profilomatic.configure(max_actions_per_run=0)
    for _ in range(2):  # admitted: the first tells of those that were refused last, the second of none
        begun += 1
        with profilomatic.action("outer"):
            pass
    records = profiles.flushed()
    now = profilomatic.stats()["actions"]
    delta = {key: now[key] - before[key] for key in now}
    assert delta["started"] == begun == delta["profiled"] + delta["shed"] == delta["finished"] + delta["lost"]
    assert delta["profiled"] == len(records) > 0
    assert {record["action"]["type"] for record in records} == {"outer"}
    told = [record["profiler"]["shed"] for record in records if "shed" in record["profiler"]]
    assert sum(told) == delta["shed"] and all(told)


@pytest.mark.acceptance("PM8", "PM9")
def test_no_limit_means_nothing_is_shed(profiles):
    profilomatic.configure(max_overhead=1e-7, max_actions_per_run=0, time_granularity=0.001)
    before = profilomatic.stats()["actions"]["shed"]
    until = time.monotonic() + 0.7  # several cycles of 200 ms; however many they are, none may shed
    while time.monotonic() < until:
        for _ in range(100):
            with profilomatic.action("a"):
                burn(2000)
        assert profilomatic.flush(PATIENCE)  # a sampler without a CPU falls behind: with 1024 ended ones to see, more are refused
    assert profilomatic.stats()["actions"]["shed"] == before


@pytest.mark.acceptance("PM9")
def test_a_shed_request_is_served_as_any_other(profiles):
    profilomatic.configure(max_overhead=1e-7, max_actions_per_run=1, time_granularity=0.001)
    app = profilomatic.wsgi.wrap(listed)
    bare = Server(listed).run().seen
    deadline = time.monotonic() + PATIENCE
    shed = profilomatic.stats()["actions"]["shed"]
    while profilomatic.stats()["actions"]["shed"] < shed + 5:
        assert time.monotonic() < deadline
        with profilomatic.action("load"):
            burn(2000)
        assert Server(app).run().seen == bare
        assert profilomatic.current_task_uuid() is None


@pytest.mark.skipif(not hasattr(os, "uname"), reason="counts context switches")
def test_an_idle_engine_sleeps(profiles):
    """Parked while nothing is open: the process's threads are not woken, but for this one."""
    import resource

    act()
    profiles.flushed(1)

    def quiet():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        time.sleep(0.4)
        return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before <= 4

    wait_until(quiet, "the engine to go to sleep")
    assert profilomatic.stats()["period"] <= 0.0501  # idle time does not inflate it


def test_a_storm_of_actions_from_many_threads_is_counted_to_the_last(profiles):
    before = profilomatic.stats()["actions"]
    each = 1000

    def storm():
        for number in range(each):
            with profilomatic.action("storm") as a:
                a.message(number=number)

    threads = [threading.Thread(target=storm) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert profilomatic.flush(PATIENCE)
    wait_until(lambda: profilomatic.stats()["actions"]["finished"] - before["finished"] == 8 * each, "the last end")
    now = profilomatic.stats()["actions"]
    delta = {key: now[key] - before[key] for key in now}
    assert delta["started"] == 8 * each == delta["profiled"] + delta["shed"]
    assert delta["lost"] == 0
    entry, = profilomatic.stats()["destinations"]
    assert entry["sent"] + sum(entry["dropped"].values()) == delta["profiled"]
