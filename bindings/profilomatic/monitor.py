"""What the profiler does and costs, as Prometheus metrics.

    import profilomatic.monitor
    profilomatic.monitor.enable_prometheus()

registers one collector, which reads `profilomatic.stats()` when it is scraped: between scrapes it costs nothing, and nothing
on the way of a request.

    profiler_profiling_time_secs            summary: CPU seconds of the sampler's thread, and its looks at the application
    profiler_profiling_granularity_secs     summary: wanted seconds between looks, the mean of what held when scraped
    profiler_tasks_profiled_total           outermost actions with a call graph
    profiler_tasks_not_profiled_total       outermost actions refused under load
    profiler_tasks_inflight                 outermost actions open now
    profiler_tasks_allowed                  how many may be open before new ones are refused; +Inf without a limit
    profilomatic_...                        the counters of stats(), by their names there
"""

import os
import threading

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
except ImportError as error:
    raise ImportError("profilomatic.monitor needs the library prometheus-client: pip install prometheus-client",
                      name="prometheus_client") from error

from . import _backend

__all__ = ["enable_prometheus"]

# Where set, prometheus_client keeps values in files, one a process, which MultiProcessCollector adds up.
_MULTIPROCESS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")

_lock = threading.Lock()
_registries = []


def enable_prometheus(registry=None):
    """Registers the metrics with a registry of prometheus_client, by default the library's own. Idempotent.

    Starts nothing: the application exposes the registry as it does for its other metrics. Where several processes serve
    one application, each has its own figures; a scrape sees those of the process that answers. RuntimeWarning where
    PROMETHEUS_MULTIPROC_DIR is set: the library's default registry is not what is scraped there. TypeError for what is no
    registry.
    """
    registry = REGISTRY if registry is None else registry
    if not callable(getattr(registry, "register", None)):
        raise TypeError("enable_prometheus() takes a registry of prometheus_client, not %r" % (registry,))
    with _lock:
        known = any(known is registry for known in _registries)
        if not known:
            registry.register(_Collector())
            _registries.append(registry)
    if not known and registry is REGISTRY and any(name in os.environ for name in _MULTIPROCESS):
        import warnings

        warnings.warn("profilomatic: PROMETHEUS_MULTIPROC_DIR is set, and a scrape that gathers the files there has none of the "
                      "profiler's metrics, which are in no file: give enable_prometheus() a registry that each process exposes "
                      "by itself", RuntimeWarning, stacklevel=2)


class _Collector:
    def __init__(self):
        self._lock = threading.Lock()  # two scrapes at once
        self._looks = 0
        self._granularity_sum = 0.0

    def describe(self):
        """Nothing: else registering would ask collect() for the names, and so load the engine."""
        return []

    def collect(self):
        backend = _backend.load()
        stats = backend.stats()
        yield from self._original(stats, backend.counters())
        yield from _overhead(stats)
        yield from _counts(stats)
        yield from _destinations(stats["destinations"])

    def _original(self, stats, counters):
        actions, looks = stats["actions"], counters["wakeups"]
        with self._lock:
            if looks < self._looks:  # a forked child begins at nothing
                self._looks, self._granularity_sum = 0, 0.0
            self._granularity_sum += (looks - self._looks) * stats["period"]
            self._looks = looks
            granularity_sum = self._granularity_sum
        yield SummaryMetricFamily("profiler_profiling_time_secs", "CPU time of the sampler in seconds, and its looks",
                                  count_value=looks, sum_value=stats["overhead"]["sampler_cpu"])
        yield SummaryMetricFamily("profiler_profiling_granularity_secs", "Wanted seconds between two looks",
                                  count_value=looks, sum_value=granularity_sum)
        yield CounterMetricFamily("profiler_tasks_profiled", "Outermost actions with a call graph",
                                  value=actions["profiled"])
        yield CounterMetricFamily("profiler_tasks_not_profiled", "Outermost actions refused under load",
                                  value=actions["shed"])
        yield GaugeMetricFamily("profiler_tasks_inflight", "Outermost actions open now", value=counters["in_flight"])
        allowed = counters["allowed"]
        yield GaugeMetricFamily("profiler_tasks_allowed", "Actions that may be open before new ones are refused",
                                value=allowed if allowed >= 0 else float("inf"))


def _overhead(stats):
    overhead = stats["overhead"]
    yield GaugeMetricFamily("profilomatic_running", "1 while the engine runs", value=int(stats["running"]))
    yield GaugeMetricFamily("profilomatic_period_seconds", "Wanted seconds between two samples", value=stats["period"])
    yield GaugeMetricFamily("profilomatic_overhead_fraction", "Profiling's share of the process's CPU time",
                            value=overhead["fraction"])
    for name, text in (("sampler_cpu", "CPU time of the sampler"), ("in_request", "Time spent inside actions"),
                       ("delivery_cpu", "CPU time of delivery")):
        yield CounterMetricFamily("profilomatic_overhead_%s_seconds" % name, text, value=overhead[name])


def _counts(stats):
    actions, samples = stats["actions"], stats["samples"]
    for name, text in (("started", "begun"), ("profiled", "admitted"), ("shed", "refused under load"),
                       ("finished", "ended"), ("lost", "never ended")):
        yield CounterMetricFamily("profilomatic_actions_" + name, "Outermost actions " + text, value=actions[name])
    yield CounterMetricFamily("profilomatic_samples_taken", "Samples", value=samples["taken"])
    missed = CounterMetricFamily("profilomatic_samples_missed", "Samples wanted and not had", labels=["reason"])
    for reason, count in samples["missed"].items():
        missed.add_metric([reason], count)
    yield missed


def _destinations(entries):
    # What waits, in memory or on the disk, becomes less again when it is sent: no counters.
    families = {name: GaugeMetricFamily("profilomatic_destination_" + name, text, labels=["destination"])
                for name, text in (("queued", "Profiles waiting"), ("spooled", "Profiles kept on disk"))}
    families.update({name: CounterMetricFamily("profilomatic_destination_" + name, text, labels=["destination"])
                     for name, text in (("sent", "Profiles delivered"), ("retried", "Deliveries tried again"),
                                        ("bytes", "Bytes written"))})
    dropped = CounterMetricFamily("profilomatic_destination_dropped", "Profiles lost", labels=["destination", "reason"])
    seen = {}
    for entry in entries:
        # Two destinations may have one name; a metric may not have one label twice.
        name = entry["name"].encode("utf-8", "replace").decode()  # of a path that is not UTF-8, which would end the scrape
        number = seen[name] = seen.get(name, 0) + 1
        name = name if number == 1 else "%s (%d)" % (name, number)
        for key, family in families.items():
            family.add_metric([name], entry[key])
        for reason, count in entry["dropped"].items():
            dropped.add_metric([name, reason], count)
    yield from families.values()
    yield dropped
