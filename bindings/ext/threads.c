/*
 * From the calling thread to its slot, and from the end of its thread state to the slot's release.
 *
 * The sampler reads a thread's state and stack while the slot is claimed, so the slot must be
 * released before they go away. A pthread destructor comes too late for that (the thread state is
 * deleted first), so a small guard object is put into the thread state's dict: the interpreter
 * drops it when it clears the state, with the stack still there, and dropping it releases the slot
 * (which waits the microseconds of a walk under way).
 *
 * A thread may also end and leave its state, or the state's dict, behind: C code that calls
 * pthread_exit, a host that cancels its threads, a debugger that keeps what gc.get_objects() lists.
 * The stack goes all the same. So there is a pthread destructor too; it has no GIL, and only tells
 * the sampler to look no more.
 *
 * Servers that make a new thread state for each request on the same thread (embedded interpreters)
 * are covered by the same rule: the next action finds its slot released and claims one anew.
 */
#include "bindings/ext/threads.h"

#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/rseq.h"
#include "base/thread_pointer.h"
#include "bindings/ext/core.h"

#define MAIN_STACK_TOUCHED                                                                         \
    (256 * 1024) /* frames of C below the first action that plain loads may read */

typedef struct guard_s {
    PyObject_HEAD
    pom_slot_t *slot;
    uint64_t generation;
    uint64_t serial;
} guard_t;

static PyTypeObject *guard_type;
static PyObject *guard_key;

/* ---- under the GIL; the first two, and the serials in slots, are written under ends_lock too, so
 * that either may read */
static pom_slots_t *slots;   // NULL: no engine
static uint64_t generation;  // of slots
static uint64_t last_serial; // of claims

/* A leaf: held for some instructions, or for what is left of a walk. */
static pthread_mutex_t ends_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t ends_key;
static bool
    has_ends_key; // false: the system has no more keys, and such threads are looked at too long

static _Thread_local struct {
    bool silent;
    pom_slot_t *slot;
    PyThreadState *state;
    uint64_t generation, serial;
    uintptr_t stack_low, stack_high; /* 0 = not asked yet */
} mine;

static void guard_dealloc(PyObject *self) {
    guard_t *guard = (guard_t *)self;
    (void)pthread_mutex_lock(&ends_lock); // cannot fail: plain, never taken twice
    if (guard->slot != NULL && guard->generation == generation &&
        guard->slot->serial == guard->serial) {
        guard->slot->serial = 0;
        pom_slots_release(slots, guard->slot);
    }
    (void)pthread_mutex_unlock(&ends_lock);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot guard_slots[] = {{Py_tp_dealloc, guard_dealloc}, {0, NULL}};
static PyType_Spec guard_spec = {.name = "profilomatic._core.ThreadGuard",
                                 .basicsize = sizeof(guard_t),
                                 .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                 .slots = guard_slots};

/* Without the GIL. No-op where the guard was first, as it nearly always is. */
static void thread_ends(void *unused) {
    (void)unused;
    (void)pthread_mutex_lock(&ends_lock);
    if (slots != NULL && mine.slot != NULL && mine.generation == generation &&
        mine.slot->serial == mine.serial) {
        pom_slot_end(mine.slot);
    }
    (void)pthread_mutex_unlock(&ends_lock);
}

int pom_threads_init(void) {
    has_ends_key = has_ends_key || pthread_key_create(&ends_key, thread_ends) == 0;
    guard_type = (PyTypeObject *)PyType_FromSpec(&guard_spec);
    guard_key = PyUnicode_InternFromString("profilomatic.thread");
    return guard_type == NULL || guard_key == NULL ? -1 : 0;
}

void pom_threads_use(pom_slots_t *new_slots) {
    (void)pthread_mutex_lock(&ends_lock);
    slots = new_slots;
    generation++;
    (void)pthread_mutex_unlock(&ends_lock);
}

void pom_threads_after_fork(void) {
    (void)pthread_mutex_init(&ends_lock, NULL); // a thread that is not here may have held it
}

/* The main thread's stack is mapped only as far as it has been used: use some of it, so that plain
 * loads there are safe. */
__attribute__((noinline)) static uintptr_t touch_stack(void) {
    volatile char pages[MAIN_STACK_TOUCHED];
    for (size_t i = 0; i < sizeof pages; i += 4096) {
        pages[sizeof pages - 1 - i] = 0;
    }
    uintptr_t lowest = (uintptr_t)&pages[0]; // as a number: nothing is kept of the array
    return lowest;
}

static void find_stack(void) {
    pthread_attr_t attr;
    void *low = NULL;
    size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attr) != 0) {
        mine.stack_low = mine.stack_high =
            (uintptr_t)&attr; // an empty range: all by guarded copies
        return;
    }
    (void)pthread_attr_getstack(&attr, &low, &size); // cannot fail for a valid attr
    (void)pthread_attr_destroy(&attr);
    mine.stack_low = (uintptr_t)low;
    mine.stack_high = (uintptr_t)low + size;
    if (syscall(SYS_gettid) == getpid()) {
        uintptr_t here = (uintptr_t)__builtin_frame_address(0);
        bool room = here > mine.stack_low && here - mine.stack_low > 2 * MAIN_STACK_TOUCHED;
        bool other = here < mine.stack_low ||
                     here >= mine.stack_high; // a coroutine of C's, with a stack of its own
        mine.stack_low = other ? mine.stack_high : room ? touch_stack() : here;
    }
}

/* The name that `threading` knows, else the kernel's. */
static void find_name(char *out, size_t size, unsigned long ident) {
    out[0] = '\0';
    PyObject *modules = PyImport_GetModuleDict(); // borrowed
    PyObject *threading = modules == NULL ? NULL : PyDict_GetItemString(modules, "threading");
    PyObject *active = NULL, *key = NULL, *thread = NULL, *name = NULL;
    if (threading != NULL) {
        active = PyObject_GetAttrString(threading, "_active");
        key = PyLong_FromUnsignedLong(ident);
    }
    if (active != NULL && key != NULL && PyDict_Check(active)) {
        thread = Py_XNewRef(PyDict_GetItemWithError(active, key));
        name = thread == NULL ? NULL : PyObject_GetAttrString(thread, "_name");
    }
    Py_ssize_t len = 0;
    const char *text =
        name != NULL && PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &len) : NULL;
    if (text != NULL) {
        size_t used = (size_t)len < size ? (size_t)len : size - 1;
        while (used > 0 && used < (size_t)len && ((unsigned char)text[used] & 0xc0) == 0x80) {
            used--; // back to a character boundary
        }
        memcpy(out, text, used);
        out[used] = '\0';
    } else if (syscall(SYS_gettid) == getpid()) {
        memcpy(out, "MainThread",
               sizeof "MainThread"); // as threading will call it once it is imported
    } else {
        (void)pthread_getname_np(pthread_self(), out, size < 16 ? size : 16); // cosmetic
    }
    PyErr_Clear(); // a thread without a name is no error
    Py_XDECREF(active);
    Py_XDECREF(key);
    Py_XDECREF(thread);
    Py_XDECREF(name);
}

void pom_threads_silence(void) {
    mine.silent = true;
}

static pom_slot_t *claim_now(PyThreadState *state) {
    PyObject *dict = PyThreadState_GetDict(); // borrowed
    if (slots == NULL || dict == NULL || mine.silent) {
        return NULL;
    }
    if (mine.stack_high == 0) {
        find_stack();
    }
    pom_thread_identity_t who = {.tid = (int32_t)syscall(SYS_gettid),
                                 .ident = PyThread_get_thread_ident(),
                                 .state = (uintptr_t)state,
                                 .stack_low = mine.stack_low,
                                 .stack_high = mine.stack_high,
                                 .cpu = pom_rseq_cpu()};
    find_name(who.name, sizeof who.name, (unsigned long)who.ident);
    guard_t *guard = PyObject_New(guard_t, guard_type);
    if (guard == NULL) {
        PyErr_Clear(); // unsampled
        return NULL;
    }
    guard->slot = NULL;
    // Into the dict first: from then on the slot is released whatever happens. This drops an older
    // guard.
    if (PyDict_SetItem(dict, guard_key, (PyObject *)guard) < 0) {
        PyErr_Clear(); // unsampled
        Py_DECREF(guard);
        return NULL;
    }
    Py_DECREF(guard); // the dict's own keeps it alive
    // A Thread of the user's own making may have run code for its name: the engine may have been
    // stopped.
    pom_slot_t *slot = slots == NULL ? NULL : pom_slots_claim(slots, &who);
    if (slot == NULL) {
        return NULL;
    }
    guard->serial = ++last_serial;
    (void)pthread_mutex_lock(&ends_lock);
    slot->serial = guard->serial;
    (void)pthread_mutex_unlock(&ends_lock);
    if (has_ends_key) {
        (void)pthread_setspecific(ends_key, slot); // anything but NULL; no memory: as without a key
    }
    guard->generation = generation;
    guard->slot = slot;
    mine.slot = slot;
    mine.state = state;
    mine.generation = generation;
    mine.serial = last_serial;
    return slot;
}

/* Also at the end of an action that another thread drops with an exception under way, which is none
 * of ours to clear. */
__attribute__((noinline)) static pom_slot_t *claim(PyThreadState *state) {
    pom_pending_t pending = pom_pending_put_aside();
    pom_slot_t *slot = claim_now(state);
    pom_pending_restore(&pending);
    return slot;
}

pom_slot_t *pom_threads_first(void) {
    return slots == NULL ? NULL : atomic_load_explicit(&slots->first, memory_order_acquire);
}

/* The thread that asked last, which most often is the one that asks now: a request asks ten times,
 * and finding a thread's own variable in a loaded library is a call each time. Under the
 * interpreter's lock. A host may hand a thread state on to another thread, whose clock and stack
 * are others, so both must be the same. */
static struct {
    uintptr_t thread;
    PyThreadState *state;
    pom_slot_t *slot;
    uint64_t generation, serial;
} recent;

__attribute__((noinline)) static pom_slot_t *look_up(PyThreadState *state) {
    bool known = mine.slot != NULL && mine.generation == generation && mine.state == state &&
                 mine.slot->serial == mine.serial;
    pom_slot_t *slot = known ? mine.slot : claim(state);
    if (slot != NULL) {
        recent.thread = pom_this_thread();
        recent.state = state;
        recent.slot = slot;
        recent.generation = mine.generation;
        recent.serial = mine.serial;
    }
    return slot;
}

pom_slot_t *pom_threads_slot(void) {
    PyThreadState *state = PyThreadState_Get();
    // The serial tells a thread state from a later one at its address: the guard gave the slot up
    // in between.
    if (recent.state == state && recent.thread == pom_this_thread() &&
        recent.generation == generation && recent.slot->serial == recent.serial) {
        return recent.slot;
    }
    return look_up(state);
}
