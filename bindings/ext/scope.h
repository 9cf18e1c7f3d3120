/*
 * Reading an ASGI scope: a dict of somebody else's, with anything in it.
 *
 * Used by asgi.c. Looks up without running anybody's code, but for the route, which is a
 * framework's object; never raises. [app] with the GIL
 *
 *     pom_scope_read(scope, &seen);    its texts are good whatever the scope's owner does meanwhile
 *     pom_scope_release(&seen);
 */
#ifndef POM_EXT_SCOPE_H
#define POM_EXT_SCOPE_H

#include <Python.h>

#include <stdbool.h>

#include "bindings/ext/dict_places.h"
#include "profiles/profile.h"

#define POM_SCOPE_TEXTS 9 /* what they lie in; the server's name is copied */

typedef struct pom_scope_s {
    pom_text_t method, query, host, client;
    pom_text_t root_path; /* where the application is mounted */
    pom_text_t path;      /* below it */
    /* headers, empty when absent */
    pom_text_t task_uuid, traceparent, request_start;
    PyObject *held[POM_SCOPE_TEXTS];
    size_t held_count;
    char server[280]; /* what host points to without a Host header */
} pom_scope_t;

/* The scope of an HTTP request, as opposed to a websocket's or the lifespan's. */
bool pom_scope_is_http(PyObject *scope);

/* Runs nobody's code. */
void pom_scope_read(PyObject *scope, pom_scope_t *out);

/* May run anybody's code, as what is let go may be the last of its kind. */
void pom_scope_release(pom_scope_t *seen);

/* The id that an application around this one was told: it has handed on its scope. Borrowed; NULL =
 * none. */
PyObject *pom_scope_task(PyObject *scope);

/* Tells the application its task id, under "profilomatic.task_uuid"; -1 with an exception. */
int pom_scope_set_task(PyObject *scope, PyObject *task_uuid);

/* The name of the matched route in out, with its mount point once, cut at room; 0 = nobody has
 * matched one. Runs the framework's attributes. */
size_t pom_scope_route(PyObject *scope, char *out, size_t room);

/* What str says in UTF-8; empty when it is none. */
pom_text_t pom_scope_text(PyObject *text);

/* Borrowed; NULL when absent. The key is an interned str. */
PyObject *pom_scope_get(PyObject *dict, PyObject *key);

/* The same for several keys at once. Who fills a dict fills the next one in the same order:
 * `places` (one a caller, as static as its keys) says where each key stood last, and what stands
 * there again costs a tenth of a look-up. */
void pom_scope_pick(PyObject *dict, PyObject **const *keys, pom_dict_place_t *places, size_t count,
                    PyObject **found);

/* Interns the names; -1 with an exception. */
int pom_scope_init(void);

#endif
