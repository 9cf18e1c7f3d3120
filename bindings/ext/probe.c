/*
 * A thread walks the calling thread's neighbour as the sampler does, as often as asked, and tells
 * what it saw: time a walk, what failed, and each distinct stack with its count. Used by
 * bench/walker and the stress tests only; nothing of the product calls it.
 *
 * The caller's thread does the walking, without the GIL, on the one other thread that has an action
 * attached.
 */
#include "bindings/ext/probe.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/threads.h"
#include "bindings/ext/walker.h"

#define STACKS_MAX 65536 // distinct ones; beyond it they are only counted
#define ANCHORS    8
#define COUNT_MAX  10000000

typedef struct seen_s {
    uint64_t hash;
    int64_t count;
    int32_t depth;
    pom_raw_frame_t *frames;
} seen_t;

typedef struct probe_s {
    seen_t *seen; /* open addressing, twice as many places as stacks */
    size_t distinct;
    pom_stack_t stack;
    pom_anchor_t anchors[ANCHORS];
    int64_t ok, torn, no_anchor, unreadable, raced;
    uint32_t *took_ns; /* of each walk */
} probe_t;

static void remember(probe_t *p) {
    uint64_t hash = 1;
    for (int32_t i = 0; i < p->stack.depth; i++) {
        hash = pom_hash_join(
            hash, pom_hash_join(p->stack.frames[i].code, (uint64_t)p->stack.frames[i].lasti));
    }
    for (size_t at = hash % (2 * STACKS_MAX);; at = (at + 1) % (2 * STACKS_MAX)) {
        seen_t *place = &p->seen[at];
        if (place->count > 0 && place->hash == hash) {
            place->count++;
            return;
        }
        if (place->count == 0) {
            size_t bytes = (size_t)p->stack.depth * sizeof(pom_raw_frame_t);
            if (p->distinct >= STACKS_MAX || (place->frames = pom_alloc(bytes)) == NULL) {
                return;
            }
            memcpy(place->frames, p->stack.frames, bytes);
            place->hash = hash;
            place->count = 1;
            place->depth = p->stack.depth;
            p->distinct++;
            return;
        }
    }
}

static pom_status_t walk_one(probe_t *p, pom_slot_t *slot, uint32_t *took_ns) {
    pom_status_t status = POM_ETORN;
    for (int tries = 0; tries < POM_WALK_TRIES && status != POM_OK; tries++) {
        pom_slot_view_t view;
        uint32_t index;
        atomic_store_explicit(&slot->walking, true, memory_order_seq_cst);
        atomic_thread_fence(memory_order_seq_cst);
        status = POM_ECLOSED;
        if (pom_slot_view(slot, &view, p->anchors, ANCHORS)) {
            int64_t start_ns = pom_now_ns();
            status = pom_native_walker()->walk(pom_native_walker(), &view, &p->stack, &index);
            *took_ns = (uint32_t)(pom_now_ns() - start_ns);
            if (!pom_slot_view_holds(&view)) {
                status = POM_ECLOSED;
            } else if (status == POM_OK && *took_ns > 4000 + 1000 * (uint32_t)p->stack.depth) {
                status = POM_ETORN; // as the sampler
            }
        }
        atomic_store_explicit(&slot->walking, false, memory_order_release);
    }
    return status;
}

static void walk_many(probe_t *p, pom_slot_t *slot, int64_t count, int64_t gap_ns) {
    for (int64_t i = 0; i < count; i++) {
        int64_t until_ns = pom_now_ns() + gap_ns;
        switch (walk_one(p, slot, &p->took_ns[i])) {
        case POM_OK:
            p->ok++;
            remember(p);
            break;
        case POM_ETORN:
            p->torn++;
            break;
        case POM_ENOTFOUND:
            p->no_anchor++;
            break;
        case POM_EUNREADABLE:
            p->unreadable++;
            break;
        default:
            p->raced++;
        }
        while (pom_now_ns() < until_ns) {
            // Spin: a sleep would put the walks at the scheduler's favourite moments.
        }
    }
}

static int by_size(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

/* [(function, line) ..., root first] of a stack that was seen. */
static PyObject *stack_tuple(const seen_t *seen) {
    PyObject *tuple = PyTuple_New(seen->depth);
    for (int32_t i = 0; tuple != NULL && i < seen->depth; i++) {
        const pom_raw_frame_t *frame = &seen->frames[seen->depth - 1 - i];
        pom_code_t *code = pom_code_table_get(pom_engine_codes(), frame->code, true, NULL);
        PyObject *item =
            Py_BuildValue("(si)", code->function, (int)pom_code_line(code, frame->lasti));
        if (item == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

static PyObject *stacks_dict(const probe_t *p) {
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < 2 * STACKS_MAX; i++) {
        if (p->seen[i].count == 0) {
            continue;
        }
        PyObject *key = stack_tuple(&p->seen[i]);
        PyObject *old = key == NULL ? NULL : PyDict_GetItem(dict, key); // borrowed
        PyObject *count =
            PyLong_FromLongLong(p->seen[i].count + (old == NULL ? 0 : PyLong_AsLongLong(old)));
        if (key == NULL || count == NULL || PyDict_SetItem(dict, key, count) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(key);
        Py_XDECREF(count);
    }
    return dict;
}

static pom_slot_t *other_slot(void) {
    pom_slot_t *mine = pom_threads_slot();
    pom_slot_t *slot = mine == NULL ? NULL : pom_threads_first();
    while (slot != NULL && (slot == mine || atomic_load(&slot->count) == 0)) {
        slot = atomic_load(&slot->next);
    }
    return slot;
}

static PyObject *probe_walks(PyObject *module, PyObject *args) {
    (void)module;
    long long count, gap_ns;
    if (!PyArg_ParseTuple(args, "LL:_probe_walks", &count, &gap_ns)) {
        return NULL;
    }
    pom_slot_t *slot = pom_engine_state == POM_ENGINE_RUNNING ? other_slot() : NULL;
    if (slot == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no other thread has an action attached");
        return NULL;
    }
    if (count < 1 || count > COUNT_MAX) {
        return PyErr_Format(PyExc_ValueError, "count must be 1 to %d", COUNT_MAX);
    }
    probe_t *p = PyMem_Calloc(1, sizeof *p);
    if (p != NULL) {
        p->seen = PyMem_Calloc(2 * STACKS_MAX, sizeof *p->seen);
        p->took_ns = PyMem_Calloc((size_t)count, sizeof *p->took_ns);
    }
    PyObject *result = NULL;
    if (p == NULL || p->seen == NULL || p->took_ns == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    walk_many(p, slot, count, gap_ns);
    qsort(p->took_ns, (size_t)count, sizeof *p->took_ns, by_size);
    Py_END_ALLOW_THREADS;
    PyObject *stacks = stacks_dict(p);
    if (stacks != NULL) {
        result = Py_BuildValue("{sLsLsLsLsLsLsLsN}", "ok", (long long)p->ok, "torn",
                               (long long)p->torn, "no_anchor", (long long)p->no_anchor,
                               "unreadable", (long long)p->unreadable, "raced", (long long)p->raced,
                               "median_ns", (long long)p->took_ns[count / 2], "p99_ns",
                               (long long)p->took_ns[count * 99 / 100], "stacks", stacks);
    }
done:
    for (size_t i = 0; p != NULL && p->seen != NULL && i < 2 * STACKS_MAX; i++) {
        pom_free(p->seen[i].frames);
    }
    if (p != NULL) {
        PyMem_Free(p->seen);
        PyMem_Free(p->took_ns);
    }
    PyMem_Free(p);
    return result;
}

static PyMethodDef functions[] = {
    {"_probe_walks", probe_walks, METH_VARARGS, "_probe_walks(count, gap_ns): for the benches."},
    {NULL, NULL, 0, NULL}};

int pom_probe_init(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
