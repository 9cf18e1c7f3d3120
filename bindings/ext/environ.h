/*
 * Reading a WSGI environ: a dict of somebody else's, with anything in it.
 *
 * Used by request_state.c, route.c and wsgi.c. Looks up without running anybody's code, copies
 * bytes, never raises. [app] with the GIL
 */
#ifndef POM_EXT_ENVIRON_H
#define POM_EXT_ENVIRON_H

#include <Python.h>

#include <stdbool.h>

#include "actions/action.h"
#include "bindings/ext/dict_places.h"

/* Interned once: keys of the environ, with where they stood last, and attributes of frameworks. */
typedef struct pom_name_s {
    PyObject *text;
    pom_dict_place_t place;
} pom_name_t;

#define POM_ENVIRON_NAMES(X)                                                                       \
    X(path_info, "PATH_INFO")                                                                      \
    X(script_name, "SCRIPT_NAME")                                                                  \
    X(query_string, "QUERY_STRING")                                                                \
    X(method, "REQUEST_METHOD")                                                                    \
    X(host, "HTTP_HOST")                                                                           \
    X(server_name, "SERVER_NAME")                                                                  \
    X(server_port, "SERVER_PORT")                                                                  \
    X(task_uuid, "HTTP_X_TASK_UUID")                                                               \
    X(traceparent, "HTTP_TRACEPARENT")                                                             \
    X(request_start, "HTTP_X_REQUEST_START")                                                       \
    X(file_wrapper, "wsgi.file_wrapper")                                                           \
    X(route, "profilomatic.route")                                                                 \
    X(exception, "profilomatic.exception")                                                         \
    X(werkzeug, "werkzeug.request")                                                                \
    X(bottle, "bottle.route")                                                                      \
    X(url_rule, "url_rule")                                                                        \
    X(rule, "rule")                                                                                \
    X(wsgi_task, "wsgi_task")

#define X(name, text) extern pom_name_t pom_n_##name;
POM_ENVIRON_NAMES(X)
#undef X

/* Interns the names; -1 with an exception. */
int pom_environ_init(void);

/* The bytes that a WSGI string carries as latin-1, borrowed. False: not text, or (against the
 * rules) wider. Runs nobody's code. */
bool pom_wire_bytes(PyObject *text, const char **data, size_t *size);

/* Borrowed; NULL when absent. */
PyObject *pom_environ_get(PyObject *env, pom_name_t *name);

/* Notes, as the environ's profilomatic.exception, the exception that became an error page: its
 * class and its text, so that neither it nor its frames live longer. The last one counts. Runs the
 * exception's __str__. Never raises. */
void pom_environ_link(PyObject *env, PyObject *exception);

/* What is noted there, as new references; false: nothing, or nothing of that form. */
bool pom_environ_linked(PyObject *env, PyObject **name, PyObject **text);

/* A text of the environ as people read it: the bytes it carries, as UTF-8. New reference; NULL
 * (without an exception set): none. */
PyObject *pom_environ_shown(PyObject *env, pom_name_t *name);

/* What the start message of a nested request says of it, for a dict that is empty; the query with
 * its secrets masked. Never raises: what there is no memory for is left out. */
void pom_environ_tell(PyObject *env, PyObject *fields);

/* Copies what a record says of a request into its action. */
void pom_environ_keep(pom_action_t *action, PyObject *env);

#endif
