/*
 * What our native threads are busy with, for _self_profile.py.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/core.h"
#include "destinations/stages.h"
#include "sampler/stages.h"

static pom_stages_t *const threads[] = {&pom_sampler_stages, &pom_loop_stages};

/* Names of a path's stages, outermost first. */
static PyObject *path_tuple(const pom_stages_t *stages, uint64_t path) {
    int depth = 0;
    while (depth < POM_STAGE_DEPTH && path >> (8 * depth) != 0) {
        depth++;
    }
    PyObject *tuple = PyTuple_New(depth);
    for (int i = 0; tuple != NULL && i < depth; i++) {
        PyObject *name =
            PyUnicode_InternFromString(stages->names[path >> (8 * (depth - 1 - i)) & 0xff]);
        if (name == NULL) {
            Py_CLEAR(tuple);
        } else {
            PyTuple_SET_ITEM(tuple, i, name);
        }
    }
    return tuple;
}

static PyObject *cost_dict(const pom_stages_t *stages) {
    PyObject *dict = PyDict_New();
    uint32_t count = atomic_load_explicit(&stages->cost_count, memory_order_acquire);
    for (uint32_t i = 0; dict != NULL && i < count; i++) {
        const pom_stage_cost_t *cost = &stages->costs[i];
        PyObject *path =
            path_tuple(stages, atomic_load_explicit(&cost->path, memory_order_relaxed));
        PyObject *value = Py_BuildValue(
            "LL", (long long)atomic_load_explicit(&cost->wall_ns, memory_order_relaxed),
            (long long)atomic_load_explicit(&cost->cpu_ns, memory_order_relaxed));
        if (path == NULL || value == NULL || PyDict_SetItem(dict, path, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(path);
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *stages_now(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof threads / sizeof threads[0]; i++) {
        PyObject *path =
            path_tuple(threads[i], atomic_load_explicit(&threads[i]->path, memory_order_relaxed));
        if (path == NULL || PyDict_SetItemString(dict, threads[i]->name, path) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(path);
    }
    return dict;
}

static PyObject *stage_costs(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof threads / sizeof threads[0]; i++) {
        PyObject *costs = cost_dict(threads[i]);
        PyObject *entry = Py_BuildValue(
            "iN", (int)atomic_load_explicit(&threads[i]->tid, memory_order_relaxed), costs);
        if (entry == NULL || PyDict_SetItemString(dict, threads[i]->name, entry) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(entry);
    }
    return dict;
}

static PyObject *account_stages(PyObject *module, PyObject *on) {
    (void)module;
    int wanted = PyObject_IsTrue(on);
    if (wanted < 0) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        pom_stages_account(threads[i], wanted != 0);
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"stages_now", stages_now, METH_NOARGS,
     "{thread: the names of the stages it is in, outermost first}"},
    {"stage_costs", stage_costs, METH_NOARGS,
     "{thread: (kernel id, {path: (wall, CPU) nanoseconds in it itself})}"},
    {"account_stages", account_stages, METH_O,
     "Whether our threads measure what each stage costs."},
    {NULL, NULL, 0, NULL}};

int pom_stages_py_init(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
