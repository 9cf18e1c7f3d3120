/*
 * What a framework says of a request, read where the framework leaves it.
 *
 * The route: environ["profilomatic.route"] first, which integrations and applications write, then
 * the objects that frameworks leave in the environ by themselves. Read when start_response is
 * called and again at the end: a framework routes before the first and may have forgotten by the
 * second (Flask), or learns of the route only behind it. The bytes are copied into the action; the
 * name is made of them, and bounded, at the seal (middleware/route_name.c).
 *
 * The exception: a framework that turns one into an error page hides it from us, unless it passes
 * exc_info to start_response or an integration links it. The outcome stays what it is: an answer
 * was given.
 *
 * A failure of a framework's attribute is no route, never an exception of the application's.
 */
#include "bindings/ext/route.h"

#include <string.h>

#include "bindings/ext/environ.h"
#include "bindings/ext/text.h"
#include "bindings/ext/values.h"

/* ---- the route ------------------------------------------------------------------------------- */

#define STEPS_MAX 2

/* Where a framework leaves its rule: a key of the environ, then attributes. */
typedef struct place_s {
    pom_name_t *key;
    const pom_name_t *path[STEPS_MAX]; /* NULL = fewer steps */
} place_t;

static const place_t places[] = {
    {&pom_n_werkzeug, {&pom_n_url_rule, &pom_n_rule}}, /* Flask */
    {&pom_n_bottle, {&pom_n_rule, NULL}},
};

#define PLACES (sizeof places / sizeof places[0])

/* A new reference to a str, NULL without an exception. Attributes may run a framework's code. */
static PyObject *rule_at(PyObject *env, const place_t *place) {
    PyObject *object = pom_environ_get(env, place->key);
    if (object == NULL || object == Py_None) {
        // Flask leaves None behind: asking that for attributes took 1 us, for the exception
        return NULL;
    }
    Py_INCREF(object);
    for (int i = 0; object != NULL && i < STEPS_MAX && place->path[i] != NULL; i++) {
        Py_SETREF(object, PyObject_GetAttr(object, place->path[i]->text));
    }
    if (object != NULL && !PyUnicode_Check(object)) {
        Py_CLEAR(object); // None: nothing matched
    }
    PyErr_Clear();
    return object;
}

/* When a framework's is known already, only what is said. */
static PyObject *find_rule(PyObject *env, bool known) {
    static size_t last; // where the rule was found before: a process has one framework, or two
    PyObject *said = pom_environ_get(env, &pom_n_route);
    if (said != NULL && PyUnicode_Check(said)) {
        return Py_NewRef(said);
    }
    PyObject *rule = NULL;
    for (size_t i = 0; rule == NULL && i < PLACES && !known; i++) {
        size_t at = (last + i) % PLACES;
        rule = rule_at(env, &places[at]);
        last = rule != NULL ? at : last;
    }
    return rule;
}

static bool ends_with(pom_text_t text, const char *end, size_t size) {
    return size > 0 && text.size >= size && memcmp(text.data + text.size - size, end, size) == 0;
}

/* The mount point as it is now (a dispatcher moves it), then the framework's rule, which does not
 * know where it is mounted. */
static void keep_route(pom_request_state_t *self, PyObject *rule) {
    pom_request_t *r = pom_request_data(self);
    const char *mount = "";
    size_t mount_size = 0;
    Py_ssize_t size = 0;
    (void)pom_wire_bytes(pom_environ_get(self->environ, &pom_n_script_name), &mount,
                         &mount_size); // absent: not mounted
    const char *text = pom_py_utf8(rule, &size);
    if (text == NULL) {
        return; // a lone surrogate: no route then
    }
    if (r == NULL) {
        PyObject *prefix = PyUnicode_DecodeUTF8(mount, (Py_ssize_t)mount_size, "replace");
        Py_XSETREF(self->nested_route, prefix == NULL ? NULL : PyUnicode_Concat(prefix, rule));
        Py_XDECREF(prefix);
        return;
    }
    if (ends_with(r->route, text, (size_t)size)) {
        return; // read before; a dispatcher may have moved the mount point back since
    }
    pom_text_t first = pom_action_text(self->work.action, mount, mount_size);
    pom_text_t second = pom_action_text(self->work.action, text, (size_t)size);
    r->route =
        (pom_text_t){.data = first.data, .size = first.size + second.size}; // one behind the other
}

void pom_route_read(pom_request_state_t *self, bool at_end) {
    if (self->environ == NULL || self->work.kind == POM_WORK_SHED) {
        return;
    }
    const pom_request_t *r = pom_request_data(self);
    PyObject *env = Py_NewRef(self->environ);
    PyObject *rule = find_rule(env, at_end && r != NULL && r->route.size > 0);
    Py_DECREF(env);
    if (rule != NULL && self->environ != NULL) { // the framework's code may have ended the request
        keep_route(self, rule);
        PyErr_Clear(); // no memory for it
    }
    Py_XDECREF(rule);
}

/* ---- the exception --------------------------------------------------------------------------- */

void pom_route_link(pom_request_state_t *self, PyObject *exc_info) {
    if (self->environ == NULL || self->work.kind == POM_WORK_SHED || !PyTuple_Check(exc_info) ||
        PyTuple_GET_SIZE(exc_info) != 3 ||
        !PyExceptionInstance_Check(PyTuple_GET_ITEM(exc_info, 1))) {
        return;
    }
    PyObject *env = Py_NewRef(self->environ); // str() of the exception may end the request
    pom_environ_link(env, PyTuple_GET_ITEM(exc_info, 1));
    Py_DECREF(env);
}

void pom_route_keep_link(pom_request_state_t *self) {
    PyObject *name, *text;
    if (self->environ == NULL || pom_request_data(self) == NULL ||
        !pom_environ_linked(self->environ, &name, &text)) {
        return;
    }
    pom_work_keep_exception(self->work.action, name, text);
    Py_DECREF(name);
    Py_DECREF(text);
}
