/*
 * Which asyncio tasks are a request's.
 *
 * They have its context, as what runs for it in threads has (helpers.c), and asyncio keeps a list
 * of all tasks: a set of weak references up to 3.13, from 3.14 on a list in the thread's state. A
 * tick that looks at a request which waits for tasks, and knows of none, reads some of that (once),
 * and asks the contexts of a few, those first that it has not asked before. Whomever they name, it
 * is kept for the turn of that one: of 200 requests that wait at the same time each is looked at
 * now and then only.
 *
 * Where a task keeps its coroutine and its context no header says. So both are looked for in the
 * task that runs as the first request begins, where they are known: the coroutine is what its
 * get_coro() gives, the context is the thread's. Whatever else is read later is checked: its type,
 * and what it leads to.
 *
 * Only a request that waits where only another task can wake it is asked for: in a lock, an event,
 * a queue or a group of asyncio's, or for a task. One that waits for its database is there itself,
 * whatever it has left running.
 *
 * Runs on the sampler thread, but for what is learnt.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/children.h"

#include <stdatomic.h>
#include <string.h>

#include "bindings/ext/context.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/replay.h"

#define TASKS_MAX   256 // of one tick
#define ENTRIES_MAX 256 // of a set's table, most of which is free; other ones each tick
#define STEPS_MAX   64  // along a list, from where the last tick has stopped
#define LOOKUPS_MAX 16  // contexts asked in one tick: six copies each
#define FAMILY_BITS 10
#define FAMILY_MAX  4
#define ASKED_BITS  10
#define ASKED_TICKS 100 // so long it is asked after those that were not
#define FOUND_USES  16  // of what was found, until its context is asked again
#define TASK_MAX    256 // bytes of a task object
#define TRIES_MAX   64  // requests that begin in no task of asyncio's own
#define CODES_MAX   16

typedef struct child_s {
    uintptr_t task, coroutine, context;
} child_t;

/* Written by app threads with the GIL before `known`, constant afterwards. */
static struct {
    /* types, 0 = none; the last is of what gather() gives */
    uintptr_t type, future_iter, gathering;
    size_t size, coroutine, context, node; /* of a task, and offsets in it */
    uintptr_t set; /* the table of weak references; 0 = a list in the thread's state */
    uintptr_t codes[CODES_MAX];
    size_t code_count;
} tasks;
static _Atomic(bool) known; // release, pairs with the acquire in pom_children_joins
static int tries;           // [app]

/* A task that was found to be a request's: with the same coroutine, context and variables it is the
 * same. */
typedef struct found_s {
    child_t child;
    uintptr_t variables;
    unsigned uses;
} found_t;

/* Those of one request, its own task among them. A newer request takes their place, and a newer
 * task the oldest's. */
typedef struct family_s {
    uintptr_t owner; /* whom their contexts name */
    unsigned newest;
    found_t found[FAMILY_MAX];
} family_t;

typedef struct asked_s {
    child_t child;
    uint32_t tick;
} asked_t;

/* The sampler thread's. */
static family_t families[1 << FAMILY_BITS];
static asked_t asked_before[1 << ASKED_BITS];
static uint32_t tick;
static uintptr_t listed; // for which thread, in this tick; 0 = not yet
static child_t children[TASKS_MAX];
static size_t child_count;
static int lookups;
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

void pom_children_learn(void) {
    if (atomic_load_explicit(&known, memory_order_relaxed) || tries >= TRIES_MAX) {
        return;
    }
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
    PyErr_Clear(); // no loop runs, or one of another kind
    Py_XDECREF(coroutine);
    Py_XDECREF(task);
    Py_XDECREF(current);
    Py_XDECREF(type);
}

/* ---- the tasks there are --------------------------------------------------------------------- */

void pom_children_begin(void) {
    tick++;
    listed = 0;
    lookups = 0;
}

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

bool pom_children_joins(uintptr_t code, uintptr_t awaited) {
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

static bool is_task(const unsigned char *copy) {
    PyObject head;
    memcpy(&head, copy, sizeof head);
    return Py_REFCNT(&head) > 0 && (uintptr_t)head.ob_type == tasks.type;
}

static void add(uintptr_t task, const unsigned char *copy) {
    if (child_count < TASKS_MAX && is_task(copy)) {
        children[child_count++] = (child_t){.task = task,
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

/* ---- whose they are -------------------------------------------------------------------------- */

static family_t *family_of(uintptr_t owner) {
    return &families[(owner * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - FAMILY_BITS)];
}

/* Among those of its owner, as the newest. */
static void keep(const child_t *child, uintptr_t owner) {
    family_t *family = family_of(owner);
    if (family->owner != owner) {
        *family = (family_t){.owner = owner};
    }
    unsigned at = 0;
    while (at < FAMILY_MAX && family->found[at].child.task != child->task) {
        at++;
    }
    family->newest = at < FAMILY_MAX ? at : (family->newest + 1) % FAMILY_MAX;
    family->found[family->newest] = (found_t){
        .child = *child, .variables = pom_memory_word(child->context + pom_context_variables)};
}

static asked_t *asked_place(const child_t *child) {
    return &asked_before[(child->task * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - ASKED_BITS)];
}

static bool was_asked(const child_t *child) {
    const asked_t *asked = asked_place(child);
    return asked->child.task == child->task && asked->child.coroutine == child->coroutine &&
           asked->child.context == child->context && tick - asked->tick < ASKED_TICKS;
}

static void ask(const child_t *child) {
    uintptr_t owner = pom_context_owner(child->context);
    *asked_place(child) = (asked_t){.child = *child, .tick = tick};
    lookups++;
    if (owner != 0) {
        keep(child, owner);
    }
}

void pom_children_search(const pom_slot_view_t *view) {
    uintptr_t state = view->slot->who.state;
    bool told[TASKS_MAX];
    if (listed == state) {
        return;
    }
    listed = state;
    child_count = 0;
    if (tasks.set != 0) {
        list_set();
    } else {
        list_state(state);
    }
    for (size_t i = 0; i < child_count; i++) {
        told[i] = was_asked(&children[i]);
        if (!told[i] && lookups < LOOKUPS_MAX) {
            ask(&children[i]);
        }
    }
    // Then the others, of which each may be another one at the same place by now.
    for (size_t i = 0; i < child_count && lookups < LOOKUPS_MAX; i++) {
        size_t at = (tick + i) % child_count;
        if (told[at]) {
            ask(&children[at]);
        }
    }
}

/* It is there as it was kept. */
static bool is_same(found_t *found, uintptr_t owner) {
    unsigned char copy[TASK_MAX];
    const child_t *child = &found->child;
    if (pom_replay_read(child->task, copy, tasks.size) != POM_OK || !is_task(copy) ||
        word(copy + tasks.coroutine) != child->coroutine ||
        word(copy + tasks.context) != child->context ||
        replayed(child->context + pom_context_variables) != found->variables) {
        return false;
    }
    return ++found->uses % FOUND_USES != 0 || pom_context_owner(child->context) == owner;
}

uintptr_t pom_children_next(const pom_action_t *action, uintptr_t own, size_t *next) {
    family_t *family = family_of(pom_context_owner_of(action));
    while (pom_context_owns(family->owner, action) && *next < FAMILY_MAX) {
        // The newest first.
        found_t *found = &family->found[(family->newest + (*next)++) % FAMILY_MAX];
        uintptr_t frame = found->child.coroutine + POM_FRAME_INSIDE;
        if (found->child.task != 0 && frame != own && is_same(found, family->owner)) {
            return frame;
        }
    }
    return 0;
}
