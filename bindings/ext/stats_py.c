/*
 * stats() and engine_info(): counters of all parts as dicts.
 *
 * stats() has exactly the keys it documents; what else there is to know (for the metrics, the
 * benches and `profilomatic check`) is in engine_info().
 */
#include "bindings/ext/layout.h"

#include <string.h>

#include "base/alloc.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/core.h"
#include "bindings/ext/helpers.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/walker.h"
#include "middleware/request.h"

static PyObject *missed_dict(const int64_t missed[POM_MISS_COUNT]) {
    PyObject *dict = PyDict_New();
    for (int i = 0; dict != NULL && i < POM_MISS_COUNT; i++) {
        PyObject *count = PyLong_FromLongLong(missed[i]);
        if (missed[i] > 0 &&
            (count == NULL || PyDict_SetItemString(dict, pom_miss_names[i], count) < 0)) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(count);
    }
    return dict;
}

static PyObject *destination_dict(pom_destination_t *destination) {
    pom_destination_counters_t c;
    pom_destination_counters(destination, &c);
    PyObject *dropped = PyDict_New();
    for (int i = 0; dropped != NULL && i < POM_DROP_COUNT; i++) {
        PyObject *count = PyLong_FromLongLong(c.dropped[i]);
        if (c.dropped[i] > 0 &&
            (count == NULL || PyDict_SetItemString(dropped, pom_drop_names[i], count) < 0)) {
            Py_CLEAR(dropped);
        }
        Py_XDECREF(count);
    }
    if (dropped == NULL) {
        return NULL;
    }
    PyObject *error =
        c.last_error[0] == '\0'
            ? Py_NewRef(Py_None)
            : PyUnicode_DecodeUTF8(c.last_error, (Py_ssize_t)strlen(c.last_error), "replace");
    PyObject *name =
        PyUnicode_DecodeUTF8(destination->name, (Py_ssize_t)strlen(destination->name), "replace");
    return Py_BuildValue("{sNsLsLsLsLsNsLsN}", "name", name, "queued", (long long)c.queued, "sent",
                         (long long)c.sent, "retried", (long long)c.retried, "spooled",
                         (long long)c.spooled, "dropped", dropped, "bytes", (long long)c.bytes,
                         "last_error", error);
}

static PyObject *destination_list(void) {
    pom_destination_t *all[POM_EXPORTER_DESTINATIONS_MAX];
    uint32_t count = pom_exporter_list(pom_engine_exporter(), all, POM_EXPORTER_DESTINATIONS_MAX);
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; i < count; i++) {
        PyObject *dict = list == NULL ? NULL : destination_dict(all[i]);
        if (list != NULL && (dict == NULL || PyList_Append(list, dict) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(dict);
        pom_destination_unref(all[i]);
    }
    return list;
}

static double seconds(int64_t ns) {
    return (double)ns / 1e9;
}

static PyObject *stats(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    pom_engine_stats_t s = pom_engine_stats();
    PyObject *missed = missed_dict(s.sampler.missed);
    PyObject *destinations = missed == NULL ? NULL : destination_list();
    if (destinations == NULL) {
        Py_XDECREF(missed);
        return NULL;
    }
    double base = (double)s.sampler.base_cpu_ns;
    int64_t names, others;
    pom_request_routes(&names, &others);
    const pom_registry_stats_t *g = &s.registry;
    return Py_BuildValue("{sssNsds{sdsdsdsd}s{sLsLsLsLsL}s{sLsN}s{sLsL}sN}", "engine",
                         pom_core_gil_mode() ? "gil" : "native", "running",
                         PyBool_FromLong(pom_engine_state == POM_ENGINE_RUNNING), "period",
                         seconds(s.sampler.period_ns), "overhead", "fraction",
                         base > 0 ? (double)s.sampler.cost_ns / base : 0.0, "sampler_cpu",
                         seconds(s.sampler.cpu_ns), "in_request", seconds(g->in_request_ns),
                         "delivery_cpu", seconds(s.exporter_cpu_ns + s.delivery_cpu_ns), "actions",
                         "started", (long long)g->started, "profiled", (long long)g->profiled,
                         "shed", (long long)g->shed, "finished", (long long)(g->finished + g->shed),
                         "lost", (long long)g->lost, "samples", "taken", (long long)s.sampler.taken,
                         "missed", missed, "routes", "names", (long long)names, "other",
                         (long long)others, "destinations", destinations);
}

/* What stats() does not promise: for the metrics, the benches and check. */
static PyObject *counters(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    pom_engine_stats_t s = pom_engine_stats();
    return Py_BuildValue(
        "{sLsLsdsLsLsLsLsLsLsL}", "in_flight", (long long)s.registry.in_flight, "allowed",
        (long long)s.registry.allowed, "recent_overhead", (double)s.sampler.overhead_ppm / 1e6,
        "wakeups", (long long)s.sampler.wakeups, "dropped_events",
        (long long)s.registry.dropped_events, "codes_live", (long long)s.codes.live,
        "codes_unknown", (long long)s.codes.unknown, "codes_overflowed",
        (long long)s.codes.overflowed, "no_memory", (long long)s.registry.no_memory, "memory",
        (long long)pom_alloc_live_bytes());
}

static PyObject *engine_info(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    char why[160] = "";
    bool layout = pom_layout_matches(why, sizeof why) &&
                  pom_walker_self_test((uintptr_t)PyThreadState_Get(), why, sizeof why);
    if (pom_engine_state != POM_ENGINE_RUNNING) {
        pom_core_choose_walker();
    }
    PyObject *counts = pom_core_faults();
    if (counts == NULL) {
        return NULL;
    }
    PyObject *all = counters(module, NULL);
    PyObject *reason = pom_core_gil_reason()[0] == '\0'
                           ? Py_NewRef(Py_None)
                           : PyUnicode_FromString(pom_core_gil_reason());
    return Py_BuildValue("{sssNsNs{sssNszsNsN}}", "engine", pom_core_gil_mode() ? "gil" : "native",
                         "reason", reason, "layout_ok", PyBool_FromLong(layout), "details",
                         "built_for", PY_VERSION, "memory_readable",
                         PyBool_FromLong(pom_memory_readable()), "request_threads_reason",
                         pom_helpers_reason(), "faults", counts, "counters", all);
}

static PyMethodDef functions[] = {
    {"stats", stats, METH_NOARGS, "Counters and the bill, as a dict."},
    {"counters", counters, METH_NOARGS, "What stats() does not promise, as a dict."},
    {"engine_info", engine_info, METH_NOARGS, "Which engine this is and why, as a dict."},
    {NULL, NULL, 0, NULL}};

int pom_stats_init(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
