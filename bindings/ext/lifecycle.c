/*
 * The life of the engine as Python sees it: which walker it gets and why, what of this folder is
 * hooked into the interpreter while it runs, and the order of starts, stops, flushes, forks and the
 * interpreter's end.
 *
 * One start, stop or flush at a time, by a lock that is waited for without the GIL. A stop ends at
 * its deadline: what is not delivered by then is counted. What the lock protects is small; what may
 * take as long as a user's callable likes is done after it has been given back.
 *
 * On app threads with the GIL.
 */
#include "bindings/ext/layout.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/rseq.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/code_reader.h"
#include "bindings/ext/core.h"
#include "bindings/ext/delivery.h"
#include "bindings/ext/gil_walker.h"
#include "bindings/ext/helpers.h"
#include "bindings/ext/lifecycle.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/threads.h"
#include "bindings/ext/walker.h"

static bool gil_mode;
static char gil_reason[160]; // why not native; empty = native
static pthread_mutex_t lifecycle_lock =
    PTHREAD_MUTEX_INITIALIZER;    // one start, stop or flush at a time; GIL released to wait
static pthread_t lifecycle_owner; // while lifecycle_owned; both under the GIL
static bool lifecycle_owned;
static bool exiting;
static bool restart_failed; // in this process: not tried again for each request

/* ---- parts for the engine -------------------------------------------------------------------- */

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
    if (!gil_mode) {
        pom_helpers_check();
    }
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
        pom_rseq_init();
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

int pom_lifecycle_init(void) {
    static bool done; // the module may be imported a second time, after it was deleted
    const pom_engine_parts_t parts = {.walker = walker,
                                      .attach = attach,
                                      .detach = detach,
                                      .resolver = pom_code_reader(),
                                      .delivery_cpu_ns = pom_delivery_cpu_ns};
    if (!done) {
        pom_status_t status = pom_engine_init(&parts);
        if (status != POM_OK || pthread_atfork(NULL, NULL, after_fork_child) != 0) {
            (void)pom_core_raise(status);
            return -1;
        }
        done = true;
    }
    return 0;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

/* Takes the lock by the deadline; the GIL is free while waiting, so that the holder can finish. No
 * Python of the user's is meant to run under it. Where it does all the same (a collection that runs
 * finalizers), false is better than waiting for oneself for ever. */
static bool lock_lifecycle(int64_t deadline_ns) {
    if (pthread_mutex_trylock(&lifecycle_lock) != 0) {
        if (lifecycle_owned && pthread_equal(lifecycle_owner, pthread_self())) {
            return false;
        }
        // This call knows the wall clock only: a clock that is set makes one wait longer or
        // shorter.
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
        // nobody would stop it any more: the sampler would look at threads while the interpreter
        // ends them
        return POM_OK;
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
        (void)pom_core_raise(status);
    }
    restart_failed = status != POM_OK || register_at_exit() < 0 || pom_delivery_ensure() < 0;
    if (restart_failed) {
        pom_core_fault("restart after fork");
    }
    return pom_engine_state == POM_ENGINE_RUNNING;
}

int pom_lifecycle_start(void) {
    if (exiting) {
        return 0;
    }
    if (register_at_exit() < 0) {
        return -1;
    }
    pom_status_t status = start_engine();
    if (status != POM_OK) {
        (void)pom_core_raise(status);
        return -1;
    }
    return pom_delivery_ensure();
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

int pom_lifecycle_stop(double timeout) {
    return pom_delivery_is_current() ? 0 : stop_engine(deadline_after(timeout));
}

static PyObject *at_exit(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    exiting = true;
    int clean =
        stop_engine(deadline_after(2.0)); // what is left is counted; there is nobody to tell
    // where the lock could not be had: at least no thread is looked at from here on
    (void)pom_engine_stop_begin();
    if (clean < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

int pom_lifecycle_flush(double timeout) {
    int64_t deadline_ns = deadline_after(timeout);
    bool done;
    if (pom_delivery_is_current() || !lock_lifecycle(deadline_ns)) {
        return 0;
    }
    Py_BEGIN_ALLOW_THREADS;
    done = pom_engine_sync(deadline_ns); // the parts stay meanwhile, by the lock
    Py_END_ALLOW_THREADS;
    unlock_lifecycle();
    // Without the lock: a destination may take as long as it likes, and a stop, or the end of the
    // process, must not wait for it.
    if (done) {
        Py_BEGIN_ALLOW_THREADS;
        done = pom_exporter_flush(pom_engine_exporter(), deadline_ns);
        Py_END_ALLOW_THREADS;
    }
    return done && pom_delivery_flush(deadline_ns);
}
