/*
 * Delivery: the Python end of a handoff, and the table of callables behind it.
 *
 * The thread waits for a profile without the GIL, takes the GIL, builds a dict of its own for the
 * callable and calls it. It is a threading.Thread, so debuggers and threading.enumerate() show it;
 * where gevent has replaced threads by greenlets it is made by the function that gevent put aside,
 * since a greenlet would be served only when the request gives way.
 *
 * A callable may do anything: remove itself, stop the engine, fork, never return. So none of our
 * locks is held while one runs, the table is not looked at across calls of the user's, and the
 * thread asks after each call whether it is still the one in force (`run`; a fork inside a callable
 * leaves a copy of it in the child).
 *
 * A callable of ours that holds back what it is given (a file object with flush=False) has a method
 * _profilomatic_flush, which is called here, on the thread, when flush() asks, at the end and after
 * a removal. Who asks "knocks": the handoff is closed for the moment that it takes the thread to
 * look.
 *
 * A destination is freed by whoever drops its last reference, which may be the loop thread without
 * the GIL. Its callable is dropped earlier, by the removal, which has the GIL.
 *
 * A stop does not wait longer for a callable than it was told to. A thread that is left behind in
 * one ends when the callable returns, or goes on if delivery has been started again by then: never
 * two at a time. At interpreter exit what is left is left; the interpreter itself ends daemon
 * threads when they ask for the GIL.
 *
 * Over 400 lines: the table, the thread and its end share one lock and one life.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE // pthread_setname_np
#endif
#include "bindings/ext/delivery.h"

#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cond.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/core.h"
#include "bindings/ext/dict_emitter.h"
#include "bindings/ext/text.h"
#include "bindings/ext/threads.h"
#include "destinations/handoff.h"

#define THREAD_NAME "Profilomatic Thread"

/* For ever: an idle process has no wake-ups of ours. stop() ends the wait; the end of the
 * interpreter need not, since a thread that waits without the GIL is nothing to it. */
#define TAKE_DEADLINE_NS INT64_MAX

/* A stop that is out of time still grants an ending thread this, to be gone from
 * threading.enumerate(). */
#define JOIN_MIN_S 0.05

/* Not "flush", which a callable of the user's may have and mean something else by. */
#define FLUSH "_profilomatic_flush"

/* The context of a handoff destination, in raw memory: freed without the GIL. */
typedef struct client_s {
    PyObject *callable; /* owned; NULL = removed */
    bool logged;        /* its first failure */
    bool holds;         /* has FLUSH */
} client_t;

typedef struct entry_s {
    client_t *client;               /* borrowed from the destination */
    pom_destination_t *destination; /* owned reference */
} entry_t;

/* What a flush needs while the table changes: owned references. */
typedef struct held_s {
    PyObject *callable;
    pom_destination_t *destination;
} held_t;

static pom_handoff_t *handoff; // made once
static PyObject *thread_main;

/* ---- under the GIL ---- */
static entry_t entries[POM_EXPORTER_DESTINATIONS_MAX];
static int count;
static bool wanted;                                   // the thread is to go on
static uint64_t run;                                  // which thread is in force
static held_t leaving[POM_EXPORTER_DESTINATIONS_MAX]; // removed, to be flushed once more
static int leaving_count;
static uint64_t knocks;  // how often a flush was asked for
static PyObject *thread; // its threading.Thread; NULL: none, or a bare native one

/* ---- under delivery_lock, a leaf; `running` is written with the GIL too: either may read ---- */
static pthread_mutex_t delivery_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended_cond; // also: answered
static uint64_t answered;         // the knocks whose flush is done; written with the GIL too
static bool running;              // from the decision to start until its last deed
static int32_t tid;               // 0 = not begun, or ended
static int64_t past_cpu_ns;       // of threads that ended

static _Thread_local bool is_delivery;

static void lock(void) {
    (void)pthread_mutex_lock(&delivery_lock); // cannot fail: plain, never taken twice
}

static void unlock(void) {
    (void)pthread_mutex_unlock(&delivery_lock);
}

static void init_locks(void) {
    pom_cond_init(&delivery_lock, &ended_cond);
}

/* ---- the table ---- */

static int index_of(PyObject *callable) {
    for (int i = 0; i < count; i++) {
        if (entries[i].client->callable == callable) {
            return i;
        }
    }
    return -1;
}

/* Where an equal callable stands, identity first; -1: nowhere. False with an exception: its ==
 * raised. Compares a copy, as == may be the user's code and change the table. */
static bool find(PyObject *callable, int *at) {
    *at = index_of(callable);
    if (*at >= 0) {
        return true;
    }
    PyObject *copy[POM_EXPORTER_DESTINATIONS_MAX], *equal = NULL;
    int copied = count, status = 0;
    for (int i = 0; i < copied; i++) {
        copy[i] = Py_NewRef(entries[i].client->callable);
    }
    for (int i = 0; i < copied && status == 0; i++) {
        status = PyObject_RichCompareBool(copy[i], callable, Py_EQ);
        equal = status > 0 ? copy[i] : NULL;
    }
    *at = equal != NULL ? index_of(equal) : -1;
    for (int i = 0; i < copied; i++) {
        Py_DECREF(copy[i]);
    }
    return status >= 0;
}

static PyObject *text_attribute(PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL || !PyUnicode_Check(value)) {
        PyErr_Clear();
        Py_CLEAR(value);
    }
    return value;
}

/* What stats() calls it: the callable's own name, else its type's. NULL with an exception. */
static PyObject *name_of(PyObject *callable) {
    PyObject *name = text_attribute(callable, "__qualname__");
    if (name == NULL) {
        name = text_attribute(callable, "__name__");
    }
    return name != NULL ? name : PyType_GetQualName(Py_TYPE(callable));
}

static int raise_status(pom_status_t status) {
    if (status == POM_ENOMEM) {
        (void)PyErr_NoMemory();
    } else {
        PyErr_Format(PyExc_RuntimeError, "cannot add a destination: %s", pom_status_text(status));
    }
    return -1;
}

/* Asked of the type: an instance of the user's may make attributes up. */
static bool holds_back(PyObject *callable) {
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(callable), FLUSH);
    PyErr_Clear();
    Py_XDECREF(method);
    return method != NULL;
}

static int insert(PyObject *callable, const char *name) {
    bool holds = holds_back(callable);
    if (index_of(callable) >= 0) {
        return 0; // its own name or == added it
    }
    if (count == POM_EXPORTER_DESTINATIONS_MAX) {
        return raise_status(POM_EFULL);
    }
    client_t *client = PyMem_RawCalloc(1, sizeof *client);
    if (client == NULL) {
        return raise_status(POM_ENOMEM);
    }
    pom_destination_t *destination;
    pom_status_t status =
        pom_handoff_destination_new(handoff, name, client, PyMem_RawFree, &destination);
    if (status != POM_OK) {
        PyMem_RawFree(client);
        return raise_status(status);
    }
    status = pom_exporter_add(pom_engine_exporter(), destination);
    if (status != POM_OK) {
        pom_destination_unref(destination);
        return raise_status(status);
    }
    client->holds = holds;
    client->callable = Py_NewRef(callable); // in time: what comes is served with the GIL
    entries[count++] = (entry_t){.client = client, .destination = destination};
    return 0;
}

static void knock(void) {
    knocks++;
    pom_handoff_stop(handoff); // the thread opens it again, unless a stop has closed it for good
}

/* The last flush, on the thread, which may be writing to it just now. Without a thread all has been
 * flushed. Nobody removes more of them than there is room for before the thread comes to it. */
static void take_leave(const entry_t *entry) {
    if (running && entry->client->holds && leaving_count < POM_EXPORTER_DESTINATIONS_MAX) {
        leaving[leaving_count++] = (held_t){.callable = Py_NewRef(entry->client->callable),
                                            .destination = pom_destination_ref(entry->destination)};
        knock();
    }
}

static void remove_at(int at) {
    take_leave(&entries[at]);
    pom_destination_t *destination = entries[at].destination;
    PyObject *callable = entries[at].client->callable;
    entries[at].client->callable = NULL;
    count--;
    memmove(&entries[at], &entries[at + 1], (size_t)(count - at) * sizeof entries[0]);
    (void)pom_exporter_remove(pom_engine_exporter(), destination); // it is there: we added it
    pom_destination_unref(destination);
    Py_DECREF(callable); // may run the user's code, so last
}

int pom_delivery_add(PyObject *callable) {
    int at;
    if (!find(callable, &at)) {
        return -1;
    }
    if (at >= 0) {
        return pom_delivery_ensure();
    }
    PyObject *name = name_of(callable);
    if (name == NULL) {
        return -1;
    }
    const char *utf8 = PyUnicode_AsUTF8(name);
    if (utf8 == NULL) {
        PyErr_Clear(); // lone surrogates
        utf8 = Py_TYPE(callable)->tp_name;
    }
    int status = insert(callable, utf8);
    Py_DECREF(name);
    if (status == 0 && (status = pom_delivery_ensure()) < 0) {
        at = index_of(callable);
        if (at >= 0) {
            pom_pending_t pending = pom_pending_put_aside();
            remove_at(at);
            pom_pending_restore(&pending);
        }
    }
    return status;
}

int pom_delivery_remove(PyObject *callable) {
    int at;
    if (!find(callable, &at)) {
        return -1;
    }
    if (at >= 0) {
        remove_at(at);
    }
    return 0;
}

/* ---- serving ---- */

/* Takes the pending exception: "Type: text", cut. */
static void describe_failure(char *out, size_t size) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *name = error == NULL ? NULL : PyType_GetName(Py_TYPE(error));
    PyObject *text = name == NULL ? NULL : pom_py_exception_text(error);
    PyObject *whole = text == NULL ? NULL : PyUnicode_FromFormat("%U: %U", name, text);
    const char *utf8 = whole == NULL ? NULL : PyUnicode_AsUTF8(whole);
    (void)snprintf(out, size, "%s", utf8 != NULL ? utf8 : "unknown error"); // no memory for more
    PyErr_Clear();
    Py_XDECREF(whole);
    Py_XDECREF(text);
    Py_XDECREF(name);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
}

/* Imported here, where it is the delivery thread's time and not that of whoever adds a
 * destination. */
static void log_failure(const char *name, const char *error) {
    PyObject *logging = PyImport_ImportModule("logging");
    PyObject *logger =
        logging == NULL ? NULL : PyObject_CallMethod(logging, "getLogger", "s", "profilomatic");
    PyObject *what = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
    PyObject *why = PyUnicode_DecodeUTF8(error, (Py_ssize_t)strlen(error), "replace");
    if (logger != NULL && what != NULL && why != NULL) {
        Py_XDECREF(PyObject_CallMethod(logger, "error", "sOO",
                                       "destination %s failed: %s (further failures are only "
                                       "counted, see profilomatic.stats())",
                                       what, why));
    }
    PyErr_Clear(); // a broken logging set-up is not ours to report
    Py_XDECREF(why);
    Py_XDECREF(what);
    Py_XDECREF(logger);
    Py_XDECREF(logging);
}

/* One profile to one callable. Consumes the item. */
static void serve(pom_handoff_item_t *item) {
    client_t *client = item->context; // lives as long as the item's destination
    char name[POM_DESTINATION_NAME_MAX], error[POM_DESTINATION_ERROR_MAX];
    PyObject *callable = Py_XNewRef(client->callable);
    if (callable == NULL) {
        pom_handoff_done(handoff, item, "removed while a profile was on its way");
        return;
    }
    PyObject *record = pom_py_record(item->profile);
    PyObject *result = record == NULL ? NULL : PyObject_CallOneArg(callable, record);
    bool failed = result == NULL;
    bool first = false;
    if (failed) {
        describe_failure(error, sizeof error);
        first = !client->logged;
        client->logged = true;
        memcpy(name, item->destination->name, sizeof name);
    }
    Py_XDECREF(result);
    Py_XDECREF(record);
    Py_DECREF(callable);
    Py_BEGIN_ALLOW_THREADS; // may free the profile, which is large
    pom_handoff_done(handoff, item, failed ? error : NULL);
    Py_END_ALLOW_THREADS;
    if (first) {
        log_failure(name, error);
    }
}

/* ---- flushing ---- */

/* How many profiles a flush that failed has lost: the callable knows. Counted as sent until now. */
static void count_lost(const held_t *held) {
    PyObject *number = PyObject_GetAttrString(held->callable, "lost");
    long lost = number == NULL ? 0 : PyLong_AsLong(number);
    PyErr_Clear();
    Py_XDECREF(number);
    if (lost > 0) {
        pom_destination_sent(held->destination, -lost, 0);
        pom_destination_dropped(held->destination, POM_DROP_ERROR, lost);
    }
}

/* Its client, NULL when it has been removed: the first failure is told once. */
static client_t *client_of(const held_t *held) {
    int at = index_of(held->callable);
    return at >= 0 ? entries[at].client : NULL;
}

/* Consumes the references. */
static void flush_held(held_t *held) {
    PyObject *result = PyObject_CallMethod(held->callable, FLUSH, NULL);
    if (result == NULL) {
        char error[POM_DESTINATION_ERROR_MAX];
        describe_failure(error, sizeof error);
        client_t *client = client_of(held);
        bool first = client == NULL || !client->logged;
        if (client != NULL) {
            client->logged = true;
            pom_destination_error(held->destination, "%s", error);
            count_lost(held);
        }
        if (first) {
            log_failure(held->destination->name, error);
        }
    }
    Py_XDECREF(result);
    Py_DECREF(held->callable);
    pom_destination_unref(held->destination);
}

static int take_held(held_t *held) {
    int taken = leaving_count;
    memcpy(held, leaving, (size_t)taken * sizeof *held);
    leaving_count = 0;
    for (int i = 0; i < count; i++) {
        if (entries[i].client->holds) {
            held[taken++] = (held_t){.callable = Py_NewRef(entries[i].client->callable),
                                     .destination = pom_destination_ref(entries[i].destination)};
        }
    }
    return taken;
}

static void flush_all(void) {
    held_t held[2 * POM_EXPORTER_DESTINATIONS_MAX];
    int taken = take_held(held); // a copy: what is called may change the table
    for (int i = 0; i < taken; i++) {
        flush_held(&held[i]);
    }
}

/* The handoff was closed, by a knock or for good. */
static void answer(uint64_t mine) {
    uint64_t heard = knocks;
    if (wanted) {
        pom_handoff_start(handoff);
    }
    flush_all();
    lock();
    if (mine == run) { // else a child, forked by what was called, whose knocks are others
        answered = heard;
        (void)pthread_cond_broadcast(&ended_cond);
    }
    unlock();
}

/* ---- the thread ---- */

/* False: nobody asked for this thread. */
static bool enter(void) {
    lock();
    bool ours = running && tid == 0;
    if (ours) {
        tid = (int32_t)syscall(SYS_gettid);
    }
    unlock();
    is_delivery = ours;
    if (ours) {
        pom_threads_silence(); // for good: the thread ends with this function
    }
    return ours;
}

static void leave(void) {
    is_delivery = false;
    lock();
    past_cpu_ns += pom_thread_cpu_ns();
    tid = 0;
    running = false;
    (void)pthread_cond_broadcast(&ended_cond);
    unlock();
}

/* A native thread beside gevent's greenlets has no threading.Thread yet. */
static void name_bare_thread(void) {
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *current =
        threading == NULL ? NULL : PyObject_CallMethod(threading, "current_thread", NULL);
    PyObject *name = PyUnicode_FromString(THREAD_NAME);
    if (current != NULL && name != NULL) {
        (void)PyObject_SetAttrString(current, "name", name); // cosmetic
    }
    PyErr_Clear();
    Py_XDECREF(name);
    Py_XDECREF(current);
    Py_XDECREF(threading);
}

static PyObject *delivery_main(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    uint64_t mine = run;
    if (!enter()) {
        Py_RETURN_NONE;
    }
    (void)pthread_setname_np(pthread_self(), "pom-delivery"); // cosmetic
    if (thread == NULL) {
        name_bare_thread();
    }
    while (mine == run) {
        pom_handoff_item_t item;
        pom_status_t status;
        Py_BEGIN_ALLOW_THREADS;
        status = pom_handoff_take(handoff, TAKE_DEADLINE_NS, &item);
        Py_END_ALLOW_THREADS;
        if (status == POM_OK) {
            serve(&item);
        } else if (status == POM_ECLOSED) {
            answer(mine);
            if (mine == run && !wanted && knocks == answered) {
                leave();
                break;
            }
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef main_def = {"_delivery_main", delivery_main, METH_NOARGS,
                               "The body of the thread that serves callable destinations."};

/* gevent's function that makes a native thread, a new reference; NULL without an exception:
 * threads are threads here. */
static PyObject *native_start(void) {
    PyObject *modules = PyImport_GetModuleDict(); // borrowed
    PyObject *monkey = modules == NULL ? NULL : PyDict_GetItemString(modules, "gevent.monkey");
    if (monkey == NULL) {
        return NULL;
    }
    Py_INCREF(monkey);
    PyObject *patched = PyObject_CallMethod(monkey, "is_module_patched", "s", "threading");
    PyObject *function = NULL;
    if (patched != NULL && PyObject_IsTrue(patched) == 1) {
        function = PyObject_CallMethod(monkey, "get_original", "ss", "_thread", "start_new_thread");
    }
    Py_XDECREF(patched);
    Py_DECREF(monkey);
    PyErr_Clear(); // a gevent we do not know: the usual way then
    return function;
}

static int spawn_bare(PyObject *start) {
    PyObject *done = PyObject_CallFunction(start, "O()", thread_main);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

static int spawn(void) {
    Py_CLEAR(thread); // one that ended, or the parent's
    PyObject *native = native_start();
    if (native != NULL) {
        int status = spawn_bare(native);
        Py_DECREF(native);
        return status;
    }
    int status = -1;
    PyObject *made = NULL, *started = NULL;
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *class = threading == NULL ? NULL : PyObject_GetAttrString(threading, "Thread");
    PyObject *args = PyTuple_New(0);
    PyObject *kwargs =
        Py_BuildValue("{sOsssO}", "target", thread_main, "name", THREAD_NAME, "daemon", Py_True);
    if (class != NULL && args != NULL && kwargs != NULL) {
        made = PyObject_Call(class, args, kwargs);
    }
    if (made != NULL) {
        thread = Py_NewRef(made); // before it runs: it looks
        started = PyObject_CallMethod(made, "start", NULL);
        status = started != NULL ? 0 : -1;
    }
    Py_XDECREF(started);
    Py_XDECREF(made);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(class);
    Py_XDECREF(threading);
    return status;
}

static void set_running(bool is) {
    lock();
    running = is;
    unlock();
}

/* After a start that failed: a signal handler may have raised when the thread was there already.
 * Then it stays in force; else it finds that nobody asked for it. */
static bool has_entered(void) {
    lock();
    running = tid != 0;
    bool is = running;
    unlock();
    return is;
}

int pom_delivery_ensure(void) {
    if (count == 0 || (running && wanted)) {
        return 0;
    }
    wanted = true;
    if (running) { // stopped while in a callable: it goes on after that, and then looks for knocks
        if (knocks == answered) {
            pom_handoff_start(handoff);
        }
        return 0;
    }
    pom_handoff_start(handoff);
    run++;
    set_running(true);
    if (spawn() < 0) {
        wanted = has_entered();
        return -1;
    }
    return 0;
}

/* ---- the end ---- */

bool pom_delivery_stop(int64_t deadline_ns) {
    wanted = false;
    pom_handoff_stop(handoff);
    if (is_delivery) {
        return false;
    }
    bool ended;
    Py_BEGIN_ALLOW_THREADS;
    bool in_time = true;
    lock();
    while (running && in_time) {
        in_time = pom_cond_wait(&ended_cond, &delivery_lock, deadline_ns);
    }
    ended = !running;
    unlock();
    Py_END_ALLOW_THREADS;
    return ended;
}

static bool anyone_holds(void) {
    bool holds = leaving_count > 0;
    for (int i = 0; i < count; i++) {
        holds = holds || entries[i].client->holds;
    }
    return holds;
}

bool pom_delivery_flush(int64_t deadline_ns) {
    if (!running || !anyone_holds()) {
        return true;
    }
    bool done, in_time = true;
    knock();
    uint64_t mine = knocks;
    Py_BEGIN_ALLOW_THREADS;
    lock();
    while (running && answered < mine && in_time) {
        in_time = pom_cond_wait(&ended_cond, &delivery_lock, deadline_ns);
    }
    done = !running || answered >= mine;
    unlock();
    Py_END_ALLOW_THREADS;
    return done;
}

/* So that threading.enumerate() shows it no more. */
int pom_delivery_join(int64_t deadline_ns) {
    if (running || thread == NULL) {
        return 0; // still in a callable, or started anew
    }
    PyObject *ending = thread;
    thread = NULL;
    double left = (double)(deadline_ns - pom_now_ns()) / 1e9;
    PyObject *done =
        PyObject_CallMethod(ending, "join", "d", left > JOIN_MIN_S ? left : JOIN_MIN_S);
    if (done == NULL && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Clear(); // join()'s own; it has ended whatever the object says
    }
    Py_XDECREF(done);
    Py_DECREF(ending);
    return PyErr_Occurred() ? -1 : 0;
}

/* ---- from outside ---- */

bool pom_delivery_is_current(void) {
    return is_delivery;
}

int64_t pom_delivery_cpu_ns(void) {
    lock();
    int64_t total = past_cpu_ns, cpu_ns;
    if (tid != 0 && pom_tid_cpu_ns(tid, &cpu_ns)) {
        total += cpu_ns;
    }
    unlock();
    return total;
}

void pom_delivery_after_fork_child(void) {
    init_locks();
    run++; // a copy of the thread that forked inside a callable ends after it
    wanted = running = false;
    knocks = answered = 0;
    leaving_count =
        0; // the parent's to flush; the references stay, as there may be no GIL to drop them with
    tid = 0;
    past_cpu_ns = 0;
    is_delivery = false;
    if (handoff != NULL) {
        pom_handoff_after_fork_child(handoff);
    }
}

int pom_delivery_init(PyObject *module) {
    if (handoff == NULL) {
        init_locks();
        if (pom_handoff_new(&handoff) != POM_OK) {
            (void)PyErr_NoMemory();
            return -1;
        }
    }
    if (thread_main == NULL) {
        PyObject *name = PyModule_GetNameObject(module);
        thread_main = name == NULL ? NULL : PyCFunction_NewEx(&main_def, NULL, name);
        Py_XDECREF(name);
    }
    return thread_main != NULL ? 0 : -1;
}
