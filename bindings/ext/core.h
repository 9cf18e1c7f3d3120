/*
 * What the files of the extension share: the module's own decisions and its types.
 *
 * One interpreter only (module.c refuses others), so plain statics under the GIL stand for module
 * state.
 */
#ifndef POM_EXT_CORE_H
#define POM_EXT_CORE_H

#include <Python.h>

#include <stdbool.h>
#include <structmember.h> // T_OBJECT and READONLY, before 3.12 only here

#include "base/status.h"

/* The engine in force reads frames through the public API with the GIL: frames are known by their
 * frame objects. */
bool pom_core_gil_mode(void);

/* Why not the native engine, in words; empty when it is. */
const char *pom_core_gil_reason(void);

/* Looks at the interpreter and the environment anew; at each start of the engine. */
void pom_core_choose_walker(void);

/* {place: count} of failures of ours as a new dict; NULL with an exception. */
PyObject *pom_core_faults(void);

/* A forked child's first action: starts the engine anew. False: it could not be. */
bool pom_core_restart(void);

/* MemoryError for POM_ENOMEM, else a RuntimeError that names it; returns NULL. */
PyObject *pom_core_raise(pom_status_t status);

/* Counts a failure of ours and clears the pending exception: the host's code goes on. Logged once
 * for each place. */
void pom_core_fault(const char *where);

/* A pending exception that is not ours to lose, while we run what may raise or clear one. */
typedef struct pom_pending_s {
    PyObject *type, *value, *traceback;
} pom_pending_t;

static inline pom_pending_t pom_pending_put_aside(void) {
    pom_pending_t pending;
    PyErr_Fetch(&pending.type, &pending.value, &pending.traceback);
    return pending;
}

/* In place of whatever is pending by now. */
static inline void pom_pending_restore(const pom_pending_t *pending) {
    PyErr_Restore(pending->type, pending->value, pending->traceback);
}

/* Adds the types to the module; -1 with an exception. */
int pom_wsgi_init(PyObject *module);
int pom_asgi_init(PyObject *module);
int pom_body_init(PyObject *module);
int pom_action_init(PyObject *module);
int pom_stats_init(PyObject *module);
int pom_stages_py_init(PyObject *module);
int pom_wire_init(PyObject *module);

#endif
