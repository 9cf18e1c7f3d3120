"""The profiler's own metrics, as Prometheus scrapes them."""

import math
import os
import threading
import time

import pytest
from pom_support import PATIENCE, burn, burn_until_sampled

import profilomatic

prometheus_client = pytest.importorskip("prometheus_client")

ORIGINAL = {
    "profiler_profiling_time_secs_sum", "profiler_profiling_time_secs_count",
    "profiler_profiling_granularity_secs_sum", "profiler_profiling_granularity_secs_count",
    "profiler_tasks_profiled_total", "profiler_tasks_not_profiled_total", "profiler_tasks_inflight",
    "profiler_tasks_allowed",
}


@pytest.fixture
def registry():
    from profilomatic import monitor

    registry = prometheus_client.CollectorRegistry()
    monitor.enable_prometheus(registry)
    monitor.enable_prometheus(registry)
    yield registry
    monitor._registries.clear()


def scraped(registry):
    """{name with labels: value} of the text that a scrape gets."""
    found = {}
    for line in prometheus_client.generate_latest(registry).decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in found, "twice: %s" % name
            found[name] = float(value)
    return found


@pytest.mark.acceptance("PM28")
def test_the_metrics_of_the_original_are_there_under_their_names(registry, profiles):
    before = scraped(registry)
    assert ORIGINAL <= set(before)
    with profilomatic.action("busy"):
        burn_until_sampled(3)
        inside = scraped(registry)
    profiles.flushed(1)
    after = scraped(registry)
    assert inside["profiler_tasks_inflight"] == 1 and after["profiler_tasks_inflight"] == 0
    assert after["profiler_tasks_profiled_total"] - before["profiler_tasks_profiled_total"] == 1
    assert after["profiler_tasks_not_profiled_total"] == before["profiler_tasks_not_profiled_total"]
    assert math.isinf(after["profiler_tasks_allowed"]), "no limit"
    looks = after["profiler_profiling_time_secs_count"] - before["profiler_profiling_time_secs_count"]
    assert looks >= 3
    assert after["profiler_profiling_time_secs_sum"] > before["profiler_profiling_time_secs_sum"]
    wanted = after["profiler_profiling_granularity_secs_sum"] - before["profiler_profiling_granularity_secs_sum"]
    assert looks * 0.0005 < wanted < looks * 0.2


@pytest.mark.acceptance("PM28", "PM9")
def test_refused_actions_and_the_limit_show(registry, profiles):
    """A budget that no sampling can keep, until an action is refused, and while there is a limit: the engine may lift that as soon
    as it has seen a cheap moment."""
    profilomatic.configure(max_overhead=0.00001, max_actions_per_run=1)
    before = scraped(registry)
    deadline = time.monotonic() + PATIENCE
    was_refused, allowed = False, float("inf")
    while not (was_refused and allowed < float("inf")):
        with profilomatic.action("a") as action:
            burn()
            if action.task_uuid is None:
                was_refused = True
                allowed = scraped(registry)["profiler_tasks_allowed"]
        assert time.monotonic() < deadline, profilomatic.stats()
    assert allowed >= 0
    assert profilomatic.flush(PATIENCE)
    after = scraped(registry)
    refused = after["profiler_tasks_not_profiled_total"] - before["profiler_tasks_not_profiled_total"]
    assert refused >= 1
    assert after["profilomatic_actions_shed_total"] == after["profiler_tasks_not_profiled_total"]
    assert after["profiler_tasks_inflight"] == 0
    for name in ("sampler_cpu", "in_request", "delivery_cpu"):
        assert after["profilomatic_overhead_%s_seconds_total" % name] > 0, name


@pytest.mark.acceptance("PM28")
def test_enabling_twice_is_enabling_once_with_the_default_registry_too(python):
    python("""
import prometheus_client, profilomatic.monitor
profilomatic.monitor.enable_prometheus()
profilomatic.monitor.enable_prometheus()
text = prometheus_client.generate_latest().decode()
assert text.count("\\nprofiler_tasks_inflight ") == 1, text
import threading
assert [t.name for t in threading.enumerate()] == ["MainThread"]
""")


def test_what_is_no_registry_is_refused():
    with pytest.raises(TypeError, match=r"enable_prometheus\(\) takes a registry of prometheus_client, not 'x'"):
        profilomatic.monitor.enable_prometheus("x")


def test_the_counters_of_stats_are_metrics_with_the_same_values(registry, profiles):
    def refuses(record):
        raise ValueError("no")

    profilomatic.add_destination(refuses)
    with profilomatic.action("a"):
        burn_until_sampled(1)
    profiles.flushed(1)
    found, stats = scraped(registry), profilomatic.stats()
    for name in ("started", "profiled", "shed", "finished", "lost"):
        assert found["profilomatic_actions_%s_total" % name] == stats["actions"][name]
    assert found["profilomatic_samples_taken_total"] == stats["samples"]["taken"]
    assert found["profilomatic_running"] == 1
    sent = [value for name, value in found.items() if name.startswith("profilomatic_destination_sent_total")]
    assert sorted(sent) == sorted(entry["sent"] for entry in stats["destinations"])
    lost = sum(value for name, value in found.items() if name.startswith("profilomatic_destination_dropped_total"))
    assert lost == sum(sum(entry["dropped"].values()) for entry in stats["destinations"]) == 1
    profilomatic.remove_destination(refuses)


def test_what_waits_is_a_gauge_and_what_has_happened_a_counter(registry, profiles):
    """A counter that falls is taken for a restart, and its new value for an increase: what is on the disk falls as it is sent."""
    text = prometheus_client.generate_latest(registry).decode()
    kinds = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE profilomatic_destination_"))
    counters = {"sent", "retried", "bytes", "dropped"}
    assert kinds == {"profilomatic_destination_" + name: "gauge" for name in ("queued", "spooled")} | {
        "profilomatic_destination_%s_total" % name: "counter" for name in counters}


def test_destinations_of_one_name_are_told_apart(registry, profiles):
    class Named:
        def __call__(self, record):
            pass

    both = [Named(), Named()]
    for destination in both:
        profilomatic.add_destination(destination)
    names = [name for name in scraped(registry) if name.startswith("profilomatic_destination_queued")]
    assert len(names) == 3
    for destination in both:
        profilomatic.remove_destination(destination)


def test_a_path_that_is_not_utf_8_does_not_end_the_scrape(registry, profiles, tmp_path):
    destination = profilomatic.file_destination(os.path.join(tmp_path, os.fsdecode(b"\xff.jsonl")))
    profilomatic.add_destination(destination)
    assert any(name.startswith("profilomatic_destination_sent_total") and ".jsonl" in name for name in scraped(registry))
    profilomatic.remove_destination(destination)


def test_scrapes_at_once_do_not_disturb_each_other(registry, profiles):
    results = []
    threads = [threading.Thread(target=lambda: results.append(scraped(registry))) for _ in range(8)]
    with profilomatic.action("a"):
        for thread in threads:
            thread.start()
        burn_until_sampled(2)
        for thread in threads:
            thread.join()
    assert len(results) == 8
    profiles.flushed(1)


def test_a_scrape_before_the_start_and_after_the_stop_works(registry):
    assert scraped(registry)["profilomatic_running"] == 0
    profilomatic.start()
    assert scraped(registry)["profilomatic_running"] == 1
    assert profilomatic.stop(60)
    assert scraped(registry)["profilomatic_running"] == 0


@pytest.mark.acceptance("PM28")
@pytest.mark.parametrize("variable, told", [("PROMETHEUS_MULTIPROC_DIR", True), ("X", False)])
def test_files_of_many_processes_have_no_such_metrics_and_that_is_told(python, tmp_path, variable, told):
    """Once, and not of a registry that is the caller's own."""
    python("""
import warnings, prometheus_client, profilomatic.monitor
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    profilomatic.monitor.enable_prometheus(prometheus_client.CollectorRegistry())
    assert not caught
    profilomatic.monitor.enable_prometheus()
    profilomatic.monitor.enable_prometheus()
assert [(each.category, each.filename) for each in caught] == [(RuntimeWarning, "<string>")] * %d, caught
assert all("PROMETHEUS_MULTIPROC_DIR" in str(each.message) for each in caught)
""" % told, **{variable: str(tmp_path)})


@pytest.mark.acceptance("PM28")
def test_without_the_library_the_import_says_which_one_is_missing(python):
    python("""
import sys
sys.modules["prometheus_client"] = None
import profilomatic
try:
    import profilomatic.monitor
except ImportError as error:
    assert "pip install prometheus-client" in str(error) and error.name == "prometheus_client", error
else:
    raise SystemExit("imported")
""")
