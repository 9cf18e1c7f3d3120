/*
 * Where asyncio keeps its tasks, and what makes one wait for another.
 *
 * There is a list of all tasks: a set of weak references up to 3.13, from 3.14 on a list in the
 * thread's state. Where a task keeps its coroutine and its context no header says. So both are
 * looked for in the task that runs as the first request begins, where they are known: the coroutine
 * is what its get_coro() gives, the context is the thread's. Whatever else is read later is
 * checked: its type, and what it leads to.
 *
 * Runs on the sampler thread, but for what is learnt.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/tasks.h"

#include <stdatomic.h>
#include <string.h>

#include "bindings/ext/memory.h"
#include "bindings/ext/replay.h"

#define ENTRIES_MAX 256 // of a set's table, most of which is free; other ones each tick
#define STEPS_MAX   64  // along a list, from where the last tick has stopped
#define TASK_MAX    256 // bytes of a task object
#define TRIES_MAX   64  // requests that begin in no task of asyncio's own
#define CODES_MAX   16

/* Written by app threads with the GIL before `known`, constant afterwards. */
static struct {
    /* types, 0 = none; the last is of what gather() gives */
    uintptr_t type, future_iter, gathering;
    size_t size, coroutine, context, node; /* of a task, and offsets in it */
    uintptr_t set; /* the table of weak references; 0 = a list in the thread's state */
    uintptr_t codes[CODES_MAX];
    size_t code_count;
} tasks;
static _Atomic(bool) known; // release, pairs with the acquire in pom_tasks_join
static int tries;           // [app]

/* The sampler thread's. */
static pom_task_t *list; // the caller's, while it is filled
static size_t list_count;
static size_t cursor;        // where in a set's table
static uintptr_t last_node;  // where in a list
static uintptr_t last_state; // whose that is

static uintptr_t word(const unsigned char *at) {
    uintptr_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* ---- what is learnt -------------------------------------------------------------------------- */

/* The functions of asyncio's that wait for another task; what a version lacks is left out. */
static const char *const waits[][3] = {{"asyncio.locks", "Event", "wait"},
                                       {"asyncio.locks", "Condition", "wait"},
                                       {"asyncio.locks", "Lock", "acquire"},
                                       {"asyncio.locks", "Semaphore", "acquire"},
                                       {"asyncio.queues", "Queue", "get"},
                                       {"asyncio.queues", "Queue", "put"},
                                       {"asyncio.queues", "Queue", "join"},
                                       {"asyncio.taskgroups", "TaskGroup", "__aexit__"},
                                       {"asyncio.taskgroups", "TaskGroup", "_aexit"},
                                       {"asyncio.tasks", "_wait", NULL},
                                       {"asyncio.tasks", "wait_for", NULL}};

_Static_assert(sizeof waits / sizeof waits[0] <= CODES_MAX, "room for all");

/* An attribute of an imported module; NULL without an exception when there is none. New
 * reference. */
static PyObject *attribute(const char *module, const char *name) {
    PyObject *text = PyUnicode_FromString(module);
    PyObject *holder = text == NULL ? NULL : PyImport_GetModule(text);
    PyObject *value = holder == NULL ? NULL : PyObject_GetAttrString(holder, name);
    Py_XDECREF(holder);
    Py_XDECREF(text);
    PyErr_Clear();
    return value;
}

static void learn_codes(void) {
    tasks.code_count = 0;
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
        PyObject *owner = attribute(waits[i][0], waits[i][1]);
        PyObject *function = owner == NULL || waits[i][2] == NULL
                                 ? Py_XNewRef(owner)
                                 : PyObject_GetAttrString(owner, waits[i][2]);
        if (function != NULL && PyFunction_Check(function)) {
            tasks.codes[tasks.code_count++] = (uintptr_t)PyFunction_GET_CODE(function); // compared
        }
        Py_XDECREF(function);
        Py_XDECREF(owner);
        PyErr_Clear();
    }
}

/* The last word of the task that is this; 0: none. */
static size_t offset_of(uintptr_t task, size_t size, uintptr_t value) {
    for (size_t at = size - sizeof value; at >= sizeof(PyObject) && value != 0;
         at -= sizeof value) {
        if (pom_memory_word(task + at) == value) {
            return at;
        }
    }
    return 0;
}

/* Two words whose neighbours in a list lead back to them; 0: none. */
static size_t offset_of_node(uintptr_t task, size_t size) {
    for (size_t at = sizeof(PyObject); at + 2 * sizeof task <= size; at += sizeof task) {
        uintptr_t next = pom_memory_word(task + at), previous = pom_memory_word(task + at + 8);
        if (next != 0 && previous != 0 && pom_memory_word(next + 8) == task + at &&
            pom_memory_word(previous) == task + at) {
            return at;
        }
    }
    return 0;
}

/* The set in asyncio's WeakSet, kept for good. */
static uintptr_t learn_set(void) {
    PyObject *all = attribute("asyncio.tasks", "_scheduled_tasks"), *data = NULL;
    if (all == NULL) {
        all = attribute("asyncio.tasks", "_all_tasks"); // 3.11
    }
    data = all == NULL ? NULL : PyObject_GetAttrString(all, "data");
    PyErr_Clear();
    Py_XDECREF(all);
    if (data != NULL && !PySet_CheckExact(data)) {
        Py_CLEAR(data);
    }
    return (uintptr_t)data;
}

static bool learn_task(PyObject *task, PyObject *coroutine) {
    PyObject *iter = PyObject_CallMethod(task, "__await__", NULL);
    PyObject *gathering = attribute("asyncio.tasks", "_GatheringFuture");
    uintptr_t at = (uintptr_t)task;
    tasks.type = (uintptr_t)Py_TYPE(task);
    tasks.size = (size_t)Py_TYPE(task)->tp_basicsize & ~(size_t)7;
    tasks.future_iter = iter == NULL ? 0 : (uintptr_t)Py_TYPE(iter);
    tasks.gathering = (uintptr_t)gathering; // compared
    tasks.coroutine = offset_of(at, tasks.size, (uintptr_t)coroutine);
    tasks.context = offset_of(at, tasks.size, (uintptr_t)PyThreadState_Get()->context);
    bool listed_in_state = POM_TSTATE_TASKS != 0;
    tasks.node = listed_in_state ? offset_of_node(at, tasks.size) : 0;
    if (!listed_in_state && tasks.set == 0) {
        tasks.set = learn_set();
    }
    PyErr_Clear();
    Py_XDECREF(iter);
    Py_XDECREF(gathering);
    return tasks.size <= TASK_MAX && tasks.coroutine != 0 && tasks.context != 0 &&
           tasks.future_iter != 0 && (listed_in_state ? tasks.node : tasks.set) != 0;
}

void pom_tasks_learn(void) {
    // A collection within may let another thread come here.
    static bool learning;
    if (atomic_load_explicit(&known, memory_order_relaxed) || learning || tries >= TRIES_MAX) {
        return;
    }
    learning = true;
    tries++;
    PyObject *type = attribute("_asyncio", "Task");
    PyObject *current = attribute("asyncio.tasks", "current_task");
    PyObject *task = type == NULL || current == NULL ? NULL : PyObject_CallNoArgs(current);
    PyObject *coroutine = task != NULL && (PyObject *)Py_TYPE(task) == type
                              ? PyObject_CallMethod(task, "get_coro", NULL)
                              : NULL;
    if (coroutine != NULL && learn_task(task, coroutine)) {
        learn_codes();
        atomic_store_explicit(&known, true, memory_order_release);
    }
    learning = false;
    PyErr_Clear(); // no loop runs, or one of another kind
    Py_XDECREF(coroutine);
    Py_XDECREF(task);
    Py_XDECREF(current);
    Py_XDECREF(type);
}

/* ---- which wait for others ------------------------------------------------------------------- */

/* A word, in the one call that has all of a look at what waits. */
static uintptr_t replayed(uintptr_t address) {
    uintptr_t value = 0;
    return address != 0 && (address & 7) == 0 &&
                   pom_replay_read(address, &value, sizeof value) == POM_OK
               ? value
               : 0;
}

static uintptr_t type_of(uintptr_t object) {
    return object == 0 ? 0 : replayed(object + offsetof(PyObject, ob_type));
}

bool pom_tasks_join(uintptr_t code, uintptr_t awaited) {
    if (!atomic_load_explicit(&known, memory_order_acquire)) {
        return false;
    }
    for (size_t i = 0; i < tasks.code_count; i++) {
        if (tasks.codes[i] == code) {
            return true;
        }
    }
    uintptr_t iter = replayed(awaited) & POM_REF_MASK;
    if (iter == 0 || type_of(iter) != tasks.future_iter) {
        return false;
    }
    uintptr_t type = type_of(replayed(iter + sizeof(PyObject))); // of the future
    return type == tasks.type || (type != 0 && type == tasks.gathering);
}

/* ---- the tasks there are --------------------------------------------------------------------- */

static bool is_task(const unsigned char *copy) {
    PyObject head;
    memcpy(&head, copy, sizeof head);
    return Py_REFCNT(&head) > 0 && (uintptr_t)head.ob_type == tasks.type;
}

static void add(uintptr_t task, const unsigned char *copy) {
    if (list_count < POM_TASKS_MAX && is_task(copy)) {
        list[list_count++] = (pom_task_t){.object = task,
                                          .coroutine = word(copy + tasks.coroutine),
                                          .context = word(copy + tasks.context)};
    }
}

/* Of some objects the first `size` bytes, past those that are gone; `each` gets the copies. */
static void each_of(const uintptr_t *objects, size_t count, size_t size,
                    void (*each)(uintptr_t, const unsigned char *)) {
    static unsigned char copies[POM_MEMORY_PARTS_MAX * TASK_MAX];
    for (size_t next = 0; next < count;) {
        pom_memory_part_t parts[POM_MEMORY_PARTS_MAX];
        size_t some = count - next < POM_MEMORY_PARTS_MAX ? count - next : POM_MEMORY_PARTS_MAX;
        for (size_t i = 0; i < some; i++) {
            parts[i] = (pom_memory_part_t){objects[next + i], size};
        }
        size_t got = pom_memory_gather(parts, some, copies);
        for (size_t i = 0; i < got; i++) {
            each(objects[next + i], copies + i * size);
        }
        next += got < some ? got + 1 : some;
    }
}

static uintptr_t referred[ENTRIES_MAX];
static size_t referred_count;

static void add_referred(uintptr_t at, const unsigned char *reference) {
    (void)at;
    uintptr_t object = word(reference + offsetof(PyWeakReference, wr_object));
    if (word(reference + offsetof(PyObject, ob_type)) == (uintptr_t)&_PyWeakref_RefType &&
        object != 0 && (object & 7) == 0) {
        referred[referred_count++] = object;
    }
}

static void list_set(void) {
    static setentry entries[ENTRIES_MAX];
    PySetObject set;
    uintptr_t references[ENTRIES_MAX];
    size_t count = 0;
    if (pom_memory_read(tasks.set, &set, offsetof(PySetObject, hash)) != POM_OK) {
        return;
    }
    size_t room = (size_t)set.mask + 1;
    cursor = room > ENTRIES_MAX && cursor + ENTRIES_MAX <= room ? cursor : 0;
    size_t some = room < ENTRIES_MAX ? room : ENTRIES_MAX;
    if (pom_memory_read((uintptr_t)set.table + cursor * sizeof(setentry), entries,
                        some * sizeof(setentry)) != POM_OK) {
        return; // it has grown meanwhile
    }
    cursor += ENTRIES_MAX;
    for (size_t i = 0; i < some; i++) {
        uintptr_t key = (uintptr_t)entries[i].key;
        if (key != 0 && (key & 7) == 0) {
            references[count++] = key;
        }
    }
    referred_count = 0;
    each_of(references, count, offsetof(PyWeakReference, wr_object) + sizeof(uintptr_t),
            add_referred);
    each_of(referred, referred_count, tasks.size, add);
}

/* From where the last tick has stopped, or from the newest on. */
static void list_state(uintptr_t state) {
    uintptr_t head = state + POM_TSTATE_TASKS;
    unsigned char copy[TASK_MAX];
    if (last_node == 0 || last_state != state) {
        last_state = state;
        last_node = pom_memory_word(head + sizeof last_node);
    }
    for (int i = 0; i < STEPS_MAX && last_node != 0; i++) {
        uintptr_t node = last_node;
        last_node = 0;
        if (node == head || (node & 7) != 0 ||
            pom_memory_read(node - tasks.node, copy, tasks.size) != POM_OK || !is_task(copy)) {
            return; // the end, or it is gone
        }
        add(node - tasks.node, copy);
        last_node = word(copy + tasks.node + sizeof last_node);
    }
}

size_t pom_tasks_list(uintptr_t state, pom_task_t *out) {
    list = out;
    list_count = 0;
    if (tasks.set != 0) {
        list_set();
    } else {
        list_state(state);
    }
    return list_count;
}

bool pom_task_is_there(const pom_task_t *task) {
    unsigned char copy[TASK_MAX];
    return pom_replay_read(task->object, copy, tasks.size) == POM_OK && is_task(copy) &&
           word(copy + tasks.coroutine) == task->coroutine &&
           word(copy + tasks.context) == task->context;
}
