/*
 * The context variable of requests, and how another thread looks it up.
 *
 * The sampler reads the thread's current context, in it the tree of variables, in that the value of
 * ours: a hash array mapped trie, five bits of the variable's hash a level. Every node is immutable
 * once it is there, and the application may free it all under the reader's feet, so each is copied
 * by the kernel, four copies for the few variables that most programs have. Nothing read is
 * believed: types are compared, and what comes out must be an action that is attached to this
 * thread and whose holder is the very work that was found. So a task that outlives its request,
 * whose context still names it, belongs to nobody.
 *
 * Asked only where a walk has met no anchor, and only once there has been a request.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/context.h"

#include <internal/pycore_context.h>
#include <internal/pycore_hamt.h>
#include <stdatomic.h>
#include <string.h>

#include "bindings/ext/memory.h"
#include "bindings/ext/tasks.h"

#define LEVEL_BITS 5
#define LEVELS_MAX 7 // of 32 bits
#define FANOUT     (1 << LEVEL_BITS)

/* A node of few entries: a bit for each index in use, and pairs of key and value for these. No key:
 * the value is a node. Of more than 16 entries CPython makes a node of the other kind, which has a
 * child for each index. */
typedef struct bitmap_node_s {
    PyObject_VAR_HEAD uint32_t bitmap;
    uintptr_t entries[2 * FANOUT];
} bitmap_node_t;

typedef struct array_node_s {
    PyObject_HEAD
    uintptr_t children[FANOUT];
    Py_ssize_t count;
} array_node_t;

/* constant after init */
static PyObject *variable;
static uint32_t variable_hash;            // as the trie folds it
static uintptr_t bitmap_type, array_type; // of the two kinds of node; 0 = not known
static PyTypeObject *owners;              // what the variable's values are
static size_t work_offset;                // in each of them
const size_t pom_context_variables = offsetof(struct _pycontextobject, ctx_vars);
uintptr_t pom_context_no_variables; // empty contexts share one trie; else none is taken for empty
/* written by app threads, read by the sampler; relaxed: it stands alone */
static _Atomic(bool) used; // there has been an owner

/* The types of nodes have no public names, but the roots of contexts have types. Few variables make
 * the one kind, and more than 16 on one level, which this many are, the other. */
static int learn_node_types(void) {
    PyObject *context = PyContext_New();
    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        return -1;
    }
    const PyContext *inside = (PyContext *)context;
    pom_context_no_variables = (uintptr_t)inside->ctx_vars;
    int status = 0;
    bitmap_type = (uintptr_t)Py_TYPE(inside->ctx_vars->h_root);
    for (int i = 0; status == 0 && array_type == 0 && i < 8 * FANOUT; i++) {
        PyObject *other = PyContextVar_New("", NULL);
        PyObject *mark = other == NULL ? NULL : PyContextVar_Set(other, Py_None);
        status = mark == NULL ? -1 : 0;
        uintptr_t type = (uintptr_t)Py_TYPE(inside->ctx_vars->h_root);
        array_type = type == bitmap_type ? 0 : type;
        Py_XDECREF(mark);
        Py_XDECREF(other);
    }
    if (PyContext_Exit(context) < 0) {
        status = -1;
    }
    Py_DECREF(context);
    return status;
}

int pom_context_init(PyTypeObject *type, size_t offset) {
    owners = type;
    work_offset = offset;
    variable = PyContextVar_New("profilomatic.request", NULL);
    if (variable == NULL || learn_node_types() < 0) {
        return -1;
    }
    Py_hash_t hash = ((PyContextVar *)variable)->var_hash;
    variable_hash = (uint32_t)hash ^ (uint32_t)((uint64_t)hash >> 32);
    if (variable_hash == UINT32_MAX) {
        variable_hash = UINT32_MAX - 1; // the trie has no -1
    }
    return 0;
}

void pom_context_enter(PyObject *owner) {
    PyObject *token = PyContextVar_Set(variable, owner);
    if (token == NULL) {
        PyErr_Clear(); // its tasks are nobody's then
        return;
    }
    Py_DECREF(token);
    pom_tasks_learn();
    atomic_store_explicit(&used, true, memory_order_relaxed);
}

pom_work_t *pom_context_work(void) {
    PyObject *owner = NULL;
    if (!used || PyContextVar_Get(variable, NULL, &owner) < 0 || owner == NULL) {
        PyErr_Clear();
        return NULL;
    }
    // Whoever lists a context finds the variable in it, and may have set it to anything.
    pom_work_t *work = (pom_work_t *)(void *)((char *)owner + work_offset);
    bool open =
        Py_IS_TYPE(owner, owners) && work->kind == POM_WORK_OUTERMOST && pom_work_is_live(work);
    Py_DECREF(owner); // the context keeps it
    return open ? work : NULL;
}

/* ---- from another thread --------------------------------------------------------------------- */

/* As much of a node as is there: it may end before the copy does, at the end of what is mapped. */
static bool read_node(uintptr_t at, void *node, size_t head, size_t whole) {
    return at != 0 && (at & 7) == 0 &&
           (pom_memory_read(at, node, whole) == POM_OK ||
            pom_memory_read(at, node, head) == POM_OK);
}

/* Goes one level down; true when *at is the variable's value now, and not a node. */
static bool descend(uintptr_t *at, uint32_t index) {
    union {
        PyObject head;
        bitmap_node_t bitmap;
        array_node_t array;
    } node;
    memset(&node, 0, sizeof node);
    uintptr_t from = *at;
    *at = 0;
    if (!read_node(from, &node, offsetof(bitmap_node_t, entries) + 8 * sizeof(uintptr_t),
                   sizeof node)) {
        return false;
    }
    uintptr_t type = (uintptr_t)Py_TYPE(&node.head);
    if (type == bitmap_type) {
        uint32_t bit = UINT32_C(1) << index;
        int place = 2 * __builtin_popcount(node.bitmap.bitmap & (bit - 1));
        if ((node.bitmap.bitmap & bit) == 0 || place + 1 >= 2 * FANOUT) {
            return false;
        }
        *at = node.bitmap.entries[place + 1];
        if (node.bitmap.entries[place] == (uintptr_t)variable) {
            return true;
        }
        if (node.bitmap.entries[place] != 0) {
            *at = 0; // another variable
        }
    } else if (type == array_type && array_type != 0) {
        *at = node.array.children[index];
    }
    return false;
}

/* The value of our variable in a context; 0 = none. */
static uintptr_t value_in(uintptr_t context) {
    uintptr_t trie = context == 0 ? 0 : pom_memory_word(context + pom_context_variables);
    uintptr_t at = trie == 0 ? 0 : pom_memory_word(trie + offsetof(PyHamtObject, h_root));
    for (int level = 0; at != 0 && level < LEVELS_MAX; level++) {
        if (descend(&at, variable_hash >> (level * LEVEL_BITS) & (FANOUT - 1))) {
            return at;
        }
    }
    return 0;
}

uintptr_t pom_context_owner(uintptr_t context) {
    uintptr_t owner = value_in(context);
    bool is_owner =
        owner != 0 && pom_memory_word(owner + offsetof(PyObject, ob_type)) == (uintptr_t)owners;
    return is_owner ? owner : 0;
}

uintptr_t pom_context_owner_of(const pom_action_t *action) {
    return (uintptr_t)action->holder - work_offset;
}

bool pom_context_owns(uintptr_t owner, const pom_action_t *action) {
    return owner != 0 && owner == pom_context_owner_of(action);
}

int pom_context_anchor(uintptr_t context, const pom_slot_view_t *view) {
    if (!atomic_load_explicit(&used, memory_order_relaxed)) {
        return -1;
    }
    uintptr_t owner = pom_context_owner(context);
    if (owner == 0) {
        return -1;
    }
    uintptr_t action = pom_memory_word(owner + work_offset + offsetof(pom_work_t, action));
    for (uint32_t i = 0; action != 0 && i < view->count; i++) {
        // What is attached is not freed before this thread has sealed it, so it may be looked into.
        if ((uintptr_t)view->anchors[i].action == action &&
            pom_context_owns(owner, view->anchors[i].action)) {
            return (int)i;
        }
    }
    return -1;
}
