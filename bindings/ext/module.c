/*
 * The module `_core`: the backend interface of the package, on top of the engine. The package calls
 * nothing else of the extension. What is asked for is checked and translated here; when it happens
 * is lifecycle.c's.
 *
 * One interpreter: statics under the GIL are the state, and a sub-interpreter is refused with a
 * sentence that says so. So is a later one of the process, after Py_Finalize(): what the statics
 * name has gone with the first.
 */
#include "bindings/ext/layout.h"

#include <string.h>

#include "bindings/engine/engine.h"
#include "bindings/ext/asyncio.h"
#include "bindings/ext/code_reader.h"
#include "bindings/ext/core.h"
#include "bindings/ext/delivery.h"
#include "bindings/ext/dict_places.h"
#include "bindings/ext/environ.h"
#include "bindings/ext/file_py.h"
#include "bindings/ext/http_py.h"
#include "bindings/ext/lifecycle.h"
#include "bindings/ext/probe.h"
#include "bindings/ext/request_state.h"
#include "bindings/ext/ssl_context.h"
#include "bindings/ext/threads.h"
#include "bindings/ext/works.h"
#include "middleware/scrub.h"
#include "middleware/trace.h"

#define FAULT_PLACES 16

static struct {
    const char *where;
    int64_t count;
} faults[FAULT_PLACES];

/* ---- failures of ours ------------------------------------------------------------------------ */

void pom_core_fault(const char *where) {
    for (int i = 0; i < FAULT_PLACES; i++) {
        if (faults[i].where == where) {
            faults[i].count++;
            PyErr_Clear();
            return;
        }
        if (faults[i].where == NULL) {
            faults[i].where = where;
            faults[i].count = 1;
            PyErr_WriteUnraisable(Py_None); // once a place: the rest is in engine_info()
            return;
        }
    }
    PyErr_Clear();
}

PyObject *pom_core_faults(void) {
    PyObject *counts = PyDict_New();
    for (int i = 0; counts != NULL && i < FAULT_PLACES && faults[i].where != NULL; i++) {
        PyObject *count = PyLong_FromLongLong(faults[i].count);
        if (count == NULL || PyDict_SetItemString(counts, faults[i].where, count) < 0) {
            Py_CLEAR(counts);
        }
        Py_XDECREF(count);
    }
    return counts;
}

PyObject *pom_core_raise(pom_status_t status) {
    if (status == POM_ENOMEM) {
        return PyErr_NoMemory();
    }
    return PyErr_Format(PyExc_RuntimeError, "profilomatic: %s", pom_status_text(status));
}

/* ---- life cycle ------------------------------------------------------------------------------ */

static PyObject *py_start(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    if (pom_lifecycle_start() < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Of a step that takes so many seconds and answers by yes or no. */
static PyObject *within(PyObject *seconds, int (*step)(double)) {
    double timeout = PyFloat_AsDouble(seconds);
    if (timeout == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    int done = step(timeout);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *py_stop(PyObject *module, PyObject *timeout) {
    (void)module;
    return within(timeout, pom_lifecycle_stop);
}

static PyObject *py_flush(PyObject *module, PyObject *timeout) {
    (void)module;
    return within(timeout, pom_lifecycle_flush);
}

/* ---- options --------------------------------------------------------------------------------- */

static PyObject *option(PyObject *dict, const char *name) {
    PyObject *value = PyDict_GetItemString(dict, name); // borrowed
    if (value == NULL) {
        PyErr_Format(PyExc_KeyError, "option %s is missing", name);
    }
    return value;
}

static int apply_scrub(PyObject *list) {
    if (list == Py_None) {
        (void)pom_scrub_set(NULL); // allocates nothing
        return 0;
    }
    PyObject *fast = PySequence_Fast(list, "scrub must be a list or None");
    if (fast == NULL) {
        return -1;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    const char **words = PyMem_Calloc((size_t)count + 1, sizeof *words);
    int status = words == NULL ? -1 : 0;
    if (words == NULL) {
        (void)PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; status == 0 && i < count; i++) {
        words[i] = PyUnicode_AsUTF8(PySequence_Fast_GET_ITEM(fast, i));
        status = words[i] == NULL ? -1 : 0;
    }
    if (status == 0 && pom_scrub_set(words) != POM_OK) {
        PyErr_NoMemory();
        status = -1;
    }
    PyMem_Free(words);
    Py_DECREF(fast);
    return status;
}

static PyObject *py_apply_options(PyObject *module, PyObject *dict) {
    (void)module;
    PyObject *overhead = option(dict, "max_overhead"), *granularity, *code, *actions, *parts,
             *source, *scrub;
    if (overhead == NULL || (granularity = option(dict, "time_granularity")) == NULL ||
        (code = option(dict, "code_granularity")) == NULL ||
        (actions = option(dict, "max_actions_per_run")) == NULL ||
        (parts = option(dict, "partial_every")) == NULL ||
        (source = option(dict, "source_name")) == NULL || (scrub = option(dict, "scrub")) == NULL) {
        return NULL;
    }
    pom_engine_options_t options = {
        .schedule = {.granularity_ns = (int64_t)(PyFloat_AsDouble(granularity) * 1e9),
                     .budget_ppm = (int64_t)(PyFloat_AsDouble(overhead) * 1e6)},
        .granularity = (pom_granularity_t)PyLong_AsLong(code),
        .max_actions_per_run = PyLong_AsLongLong(actions),
        .part_ns = (int64_t)(PyFloat_AsDouble(parts) * 1e9),
    };
    const char *name = PyUnicode_AsUTF8(source);
    if (PyErr_Occurred() || apply_scrub(scrub) < 0) {
        return NULL;
    }
    (void)snprintf(options.source, sizeof options.source, "%s", name); // cut at 255 bytes
    pom_engine_configure(&options); // the GIL is enough: what a stop frees, it frees with the GIL
    Py_RETURN_NONE;
}

/* ---- destinations ---------------------------------------------------------------------------- */

/* The destination inside an object of one of our types, borrowed; NULL for any other object. */
static pom_destination_t *destination_inside(PyObject *object) {
    pom_destination_t *destination = pom_file_py_destination(object);
    return destination != NULL ? destination : pom_http_py_destination(object);
}

static PyObject *py_add_destination(PyObject *module, PyObject *object) {
    pom_destination_t *destination = destination_inside(object);
    if (destination != NULL) {
        pom_status_t status = pom_exporter_add(pom_engine_exporter(), destination);
        if (status != POM_OK && status != POM_EINVAL) { // EINVAL: it is there already
            return pom_core_raise(status);
        }
    } else if (!PyCallable_Check(object)) {
        return PyErr_Format(
            PyExc_TypeError,
            "a destination is what file_destination() and its like return, or a callable "
            "that takes a dict, not %R",
            object);
    } else if (pom_delivery_add(object) < 0) {
        return NULL;
    }
    return py_start(module, NULL);
}

static PyObject *py_remove_destination(PyObject *module, PyObject *object) {
    (void)module;
    pom_destination_t *destination = destination_inside(object);
    if (destination != NULL) {
        (void)pom_exporter_remove(pom_engine_exporter(), destination); // absent: no error
    } else if (pom_delivery_remove(object) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- small questions ------------------------------------------------------------------------ */

static PyObject *py_current_task_uuid(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    pom_work_t *work = pom_work_current();
    if (work == NULL) {
        Py_RETURN_NONE;
    }
    return pom_work_task_uuid(work);
}

/* What goes out of the innermost action in a traceparent. The span is that of the outermost one,
 * which has the record; the flags that came in belong to the trace that came in. */
static PyObject *py_trace_span(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    pom_work_t *work = pom_work_current();
    if (work == NULL) {
        Py_RETURN_NONE;
    }
    pom_action_t *action = work->action;
    bool same = work->task_id.hi == action->task_id.hi && work->task_id.lo == action->task_id.lo;
    return Py_BuildValue("KI", (unsigned long long)pom_trace_span(action),
                         same ? pom_trace_flags(action) : POM_TRACE_SAMPLED);
}

static PyObject *py_strip_leaf(PyObject *module, PyObject *prefix) {
    (void)module;
    if (!PyUnicode_Check(prefix)) {
        return PyErr_Format(PyExc_TypeError, "a path prefix is text, not %R", prefix);
    }
    pom_work_strip_leaf(prefix);
    Py_RETURN_NONE;
}

/* ---- the module ------------------------------------------------------------------------------ */

static PyMethodDef functions[] = {
    {"apply_options", py_apply_options, METH_O, "Takes a complete dict of checked options."},
    {"start", py_start, METH_NOARGS, "Starts the engine; no-op while it runs."},
    {"stop", py_stop, METH_O,
     "stop(timeout): True when everything was delivered and all threads ended."},
    {"flush", py_flush, METH_O, "flush(timeout): True when every queue is empty."},
    {"add_destination", py_add_destination, METH_O, "Adds a destination and starts the engine."},
    {"remove_destination", py_remove_destination, METH_O, "No error when it is not there."},
    {"trace_span", py_trace_span, METH_NOARGS,
     "(span id, flags) for a traceparent from here, as numbers, or None."},
    {"strip_leaf", py_strip_leaf, METH_O,
     "strip_leaf(prefix): files below it are no part of a message's stack."},
    {"current_task_uuid", py_current_task_uuid, METH_NOARGS,
     "Of the innermost action here, or None."},
    {NULL, NULL, 0, NULL}};

static int set_own_files(void) {
    PyObject *package = PyImport_ImportModule("profilomatic");
    PyObject *file = package == NULL ? NULL : PyObject_GetAttrString(package, "__file__");
    const char *text = file == NULL ? NULL : PyUnicode_AsUTF8(file);
    if (text != NULL) {
        char directory[POM_CODE_TEXT_MAX];
        const char *slash = strrchr(text, '/');
        size_t size = slash == NULL ? 0 : (size_t)(slash - text) + 1;
        if (size > 0 && size < sizeof directory) {
            memcpy(directory, text, size);
            directory[size] = '\0';
            pom_code_reader_set_own(directory);
            PyObject *prefix = PyUnicode_FromString(directory);
            if (prefix != NULL) {
                pom_work_strip_own(prefix);
            }
            Py_XDECREF(prefix);
        }
    }
    PyErr_Clear(); // without a file of ours there are no frames of ours to hide
    Py_XDECREF(package);
    Py_XDECREF(file);
    return 0;
}

/* Whether this interpreter is the one that the statics are of; the first that asks is. -1 with an
 * exception. */
static int is_served(void) {
    static bool taken;
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get()); // borrowed
    PyObject *key = PyUnicode_FromString("profilomatic._core");
    int mark = dict == NULL || key == NULL ? -1 : PyDict_Contains(dict, key);
    if (mark == 0 && !taken && (mark = PyDict_SetItem(dict, key, Py_True)) == 0) {
        taken = true;
        mark = 1;
    }
    Py_XDECREF(key);
    if (mark < 0 && !PyErr_Occurred()) {
        (void)PyErr_NoMemory(); // which having no dict means
    }
    return mark;
}

static int exec_module(PyObject *module) {
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(
            PyExc_ImportError,
            "profilomatic's extension does not support sub-interpreters: run the application in "
            "the main interpreter (mod_wsgi: WSGIApplicationGroup %{GLOBAL})");
        return -1;
    }
    int served = is_served();
    if (served <= 0) {
        if (served == 0) {
            PyErr_SetString(PyExc_ImportError, "it serves the first interpreter of a process, and "
                                               "this is a later one");
        }
        return -1;
    }
    if (pom_lifecycle_init() < 0 || pom_threads_init() < 0 || pom_delivery_init(module) < 0 ||
        pom_file_py_init(module) < 0 || pom_http_py_init(module) < 0 ||
        pom_stats_init(module) < 0 || pom_wire_init(module) < 0 ||
        pom_ssl_context_init(module) < 0 || pom_dict_init() < 0 || pom_environ_init() < 0 ||
        pom_request_init() < 0 || pom_wsgi_init(module) < 0 || pom_asgi_init(module) < 0 ||
        pom_body_init(module) < 0 || pom_action_init(module) < 0 || pom_probe_init(module) < 0 ||
        pom_asyncio_init() < 0 || pom_stages_py_init(module) < 0 ||
        PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    pom_core_choose_walker();
    return set_own_files() < 0 ? -1 : PyModule_AddStringConstant(module, "NAME", "c");
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, exec_module},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL}};

static struct PyModuleDef module_def = {.m_base = PyModuleDef_HEAD_INIT,
                                        .m_name = "profilomatic._core",
                                        .m_doc = "The engine of profilomatic; see the package.",
                                        .m_slots = module_slots};

PyMODINIT_FUNC PyInit__core(void); // found by its name in the file, declared nowhere else

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_def);
}
