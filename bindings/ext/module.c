/*
 * The module `_core`: the backend interface of the package, on top of the engine.
 *
 * Decides which walker is used and why, keeps the life cycle in order (one start or stop at a time, waits without the GIL). The package calls nothing else of the extension.
 *
 * One interpreter: statics under the GIL are the state, and a sub-interpreter is refused with a sentence that says so. So is a later
 * one of the process, after Py_Finalize(): what the statics name has gone with the first.
 */
#include "bindings/ext/layout.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/asyncio.h"
#include "bindings/ext/code_reader.h"
#include "bindings/ext/core.h"
#include "bindings/ext/delivery.h"
#include "bindings/ext/dict_places.h"
#include "bindings/ext/environ.h"
#include "bindings/ext/file_py.h"
#include "bindings/ext/gil_walker.h"
#include "bindings/ext/http_py.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/probe.h"
#include "bindings/ext/request_state.h"
#include "bindings/ext/ssl_context.h"
#include "bindings/ext/threads.h"
#include "bindings/ext/walker.h"
#include "bindings/ext/works.h"
#include "middleware/scrub.h"
#include "middleware/request.h"
#include "middleware/trace.h"

#define FAULT_PLACES 16

static bool gil_mode;
static char gil_reason[160]; // why not native; empty = native
static pthread_mutex_t lifecycle_lock =
    PTHREAD_MUTEX_INITIALIZER;    // one start, stop or flush at a time; GIL released to wait
static pthread_t lifecycle_owner; // while lifecycle_owned; both under the GIL
static bool lifecycle_owned;
static bool exiting;
static bool restart_failed; // in this process: not tried again for each request

static struct {
    const char *where;
    int64_t count;
} faults[FAULT_PLACES];

/* ---- failures of ours --------------------------------------------------------------------------- */

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

static PyObject *raise_status(pom_status_t status) {
    if (status == POM_ENOMEM) {
        return PyErr_NoMemory();
    }
    return PyErr_Format(PyExc_RuntimeError, "profilomatic: %s", pom_status_text(status));
}

/* ---- parts for the engine -------------------------------------------------------------------------- */

bool pom_core_gil_mode(void) {
    return gil_mode;
}

const char *pom_core_gil_reason(void) {
    return gil_reason;
}

/* Looked at once a start: a forked child or a changed environment may get another answer. */
void pom_core_choose_walker(void) {
    const char *wanted = getenv("PROFILOMATIC_ENGINE");
    gil_reason[0] = '\0';
    if (wanted != NULL && strcmp(wanted, "gil") == 0) {
        (void)snprintf(gil_reason, sizeof gil_reason, "PROFILOMATIC_ENGINE=gil asks for it");
    } else if (!pom_memory_readable()) {
        (void)snprintf(
            gil_reason, sizeof gil_reason,
            "this process may not read its own memory by process_vm_readv or /proc/self/mem");
    } else if (pom_layout_matches(gil_reason, sizeof gil_reason)) {
        (void)pom_walker_self_test((uintptr_t)PyThreadState_Get(), gil_reason, sizeof gil_reason);
    }
    gil_mode = gil_reason[0] != '\0';
}

static pom_walker_t *walker(const char **name) {
    pom_core_choose_walker();
    *name = gil_mode ? "gil" : "native";
    return gil_mode ? pom_gil_walker() : pom_native_walker();
}

static pom_status_t attach(pom_slots_t *slots, pom_code_table_t *codes) {
    pom_status_t status = pom_code_deaths_watch(codes);
    if (status == POM_OK) {
        pom_memory_guard_install();
        pom_threads_use(slots);
    }
    return status;
}

static void detach(void) {
    pom_threads_use(NULL);
    pom_code_deaths_unwatch();
    pom_memory_guard_remove();
}

static void after_fork_child(void) {
    (void)pthread_mutex_init(&lifecycle_lock, NULL); // whoever held it is not here
    lifecycle_owned = restart_failed = false;
    pom_memory_after_fork();
    pom_threads_after_fork();
    pom_delivery_after_fork_child();
}

/* ---- life cycle ---------------------------------------------------------------------------------------- */

/* Takes the lock by the deadline; the GIL is free while waiting, so that the holder can finish. No Python of the user's is
 * meant to run under it. Where it does all the same (a collection that runs finalizers), false is better than waiting for
 * oneself for ever. */
static bool lock_lifecycle(int64_t deadline_ns) {
    if (pthread_mutex_trylock(&lifecycle_lock) != 0) {
        if (lifecycle_owned && pthread_equal(lifecycle_owner, pthread_self())) {
            return false;
        }
        // This call knows the wall clock only: a clock that is set makes one wait longer or shorter.
        int64_t left_ns = deadline_ns - pom_now_ns();
        int64_t until_ns = pom_wall_ns() + (left_ns > 0 ? left_ns : 0);
        struct timespec until = pom_timespec(until_ns);
        int err;
        Py_BEGIN_ALLOW_THREADS;
        err = pthread_mutex_timedlock(&lifecycle_lock, &until);
        Py_END_ALLOW_THREADS;
        if (err != 0) {
            return false;
        }
    }
    lifecycle_owner = pthread_self();
    lifecycle_owned = true;
    return true;
}

static void unlock_lifecycle(void) {
    lifecycle_owned = false;
    (void)pthread_mutex_unlock(&lifecycle_lock);
}

static PyObject *at_exit(PyObject *module, PyObject *unused);
static PyMethodDef at_exit_def = {"_at_exit", at_exit, METH_NOARGS, NULL};

/* At each start, since a child of multiprocessing needs it anew; see _exit.py. */
static int register_at_exit(void) {
    PyObject *exits = PyImport_ImportModule("profilomatic._exit");
    PyObject *function = PyCFunction_New(&at_exit_def, NULL);
    PyObject *done = exits == NULL || function == NULL
                         ? NULL
                         : PyObject_CallMethod(exits, "register", "O", function);
    int status = done != NULL ? 0 : -1;
    Py_XDECREF(exits);
    Py_XDECREF(function);
    Py_XDECREF(done);
    return status;
}

static int64_t deadline_after(double timeout) {
    double most = 1e8; // three years: as good as for ever, and no overflow
    return pom_now_ns() + (int64_t)((timeout < 0 ? 0 : timeout > most ? most : timeout) * 1e9);
}

static pom_status_t start_engine(void) {
    if (exiting) {
        return POM_OK; // nobody would stop it any more: the sampler would look at threads while the interpreter ends them
    }
    if (!lock_lifecycle(deadline_after(1e8))) {
        return POM_ETIMEDOUT;
    }
    pom_status_t status = pom_engine_start();
    unlock_lifecycle();
    return status;
}

bool pom_core_restart(void) {
    if (restart_failed) {
        return false;
    }
    pom_status_t status = start_engine();
    if (status != POM_OK) {
        (void)raise_status(status);
    }
    restart_failed = status != POM_OK || register_at_exit() < 0 || pom_delivery_ensure() < 0;
    if (restart_failed) {
        pom_core_fault("restart after fork");
    }
    return pom_engine_state == POM_ENGINE_RUNNING;
}

static PyObject *py_start(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    if (exiting) {
        Py_RETURN_NONE;
    }
    if (register_at_exit() < 0) {
        return NULL;
    }
    pom_status_t status = start_engine();
    if (status != POM_OK) {
        return raise_status(status);
    }
    if (pom_delivery_ensure() < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Also -1 with an exception: of a signal handler that ran meanwhile. */
static int stop_engine(int64_t deadline_ns) {
    bool clean = true;
    if (!lock_lifecycle(deadline_ns)) {
        return 0; // another stop is at it
    }
    if (pom_engine_stop_begin()) {
        Py_BEGIN_ALLOW_THREADS;
        clean = pom_engine_stop_wait(deadline_ns);
        Py_END_ALLOW_THREADS;
        pom_engine_stop_end();
    }
    clean = pom_delivery_stop(deadline_ns) && clean;
    unlock_lifecycle();
    // Without the lock: this runs Python, and so perhaps a signal handler that stops, too.
    return pom_delivery_join(deadline_ns) < 0 ? -1 : clean;
}

static PyObject *py_stop(PyObject *module, PyObject *arg) {
    (void)module;
    double timeout = PyFloat_AsDouble(arg);
    if (timeout == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (pom_delivery_is_current()) {
        Py_RETURN_FALSE; // it would wait for itself
    }
    int clean = stop_engine(deadline_after(timeout));
    return clean < 0 ? NULL : PyBool_FromLong(clean);
}

static PyObject *at_exit(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    exiting = true;
    int clean =
        stop_engine(deadline_after(2.0)); // what is left is counted; there is nobody to tell
    (void)
        pom_engine_stop_begin(); // where the lock could not be had: at least no thread is looked at from here on
    if (clean < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *py_flush(PyObject *module, PyObject *arg) {
    (void)module;
    double timeout = PyFloat_AsDouble(arg);
    if (timeout == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (pom_delivery_is_current()) {
        Py_RETURN_FALSE;
    }
    int64_t deadline_ns = deadline_after(timeout);
    bool done;
    if (!lock_lifecycle(deadline_ns)) {
        Py_RETURN_FALSE;
    }
    Py_BEGIN_ALLOW_THREADS;
    done = pom_engine_sync(deadline_ns); // the parts stay meanwhile, by the lock
    Py_END_ALLOW_THREADS;
    unlock_lifecycle();
    // Without the lock: a destination may take as long as it likes, and a stop, or the end of the process, must not wait for it.
    if (done) {
        Py_BEGIN_ALLOW_THREADS;
        done = pom_exporter_flush(pom_engine_exporter(), deadline_ns);
        Py_END_ALLOW_THREADS;
    }
    return PyBool_FromLong(done);
}

/* ---- options ------------------------------------------------------------------------------------------ */

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

/* ---- destinations ------------------------------------------------------------------------------------- */

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
            return raise_status(status);
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

/* What goes out of the innermost action in a traceparent. The span is that of the outermost one, which has the record; the
 * flags that came in belong to the trace that came in. */
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

/* ---- the module --------------------------------------------------------------------------------------- */

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

/* Whether this interpreter is the one that the statics are of; the first that asks is. -1 with an exception. */
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
    static const pom_engine_parts_t parts = {.walker = walker,
                                             .attach = attach,
                                             .detach = detach,
                                             .delivery_cpu_ns = pom_delivery_cpu_ns};
    static bool initialised; // a second import of a module that was deleted
    if (!initialised) {
        pom_engine_parts_t given = parts;
        given.resolver = pom_code_reader();
        pom_status_t status = pom_engine_init(&given);
        if (status != POM_OK || pthread_atfork(NULL, NULL, after_fork_child) != 0) {
            (void)raise_status(status);
            return -1;
        }
        initialised = true;
    }
    if (pom_threads_init() < 0 || pom_delivery_init(module) < 0 || pom_file_py_init(module) < 0 ||
        pom_http_py_init(module) < 0 || pom_stats_init(module) < 0 || pom_wire_init(module) < 0 ||
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
