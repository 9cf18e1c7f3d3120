/*
 * The route of a request: what the framework matched, read where the framework leaves it.
 *
 * Read when start_response is called and again at the end: a framework routes before the first and may have forgotten by the second
 * (Flask), or calls start_response from an error page that came before routing. The bytes are copied into the action; the name is
 * made of them, and bounded, at the seal (middleware/request.c).
 *
 * A failure of a framework's attribute is no route, never an exception of the application's.
 */
#include "bindings/ext/route.h"

#include <string.h>

#include "bindings/ext/environ.h"

/* The mount point as it is now (a dispatcher moves it), then the framework's rule, which does not know where it is mounted. */
static void keep_route(pom_request_state_t *self, PyObject *rule) {
    pom_request_t *r = pom_request_data(self);
    const char *mount = "";
    size_t mount_size = 0;
    Py_ssize_t size = 0;
    (void)pom_wire_bytes(pom_environ_get(self->environ, pom_s_script_name), &mount,
                         &mount_size); // absent: not mounted
    const char *text = PyUnicode_AsUTF8AndSize(rule, &size);
    if (text == NULL) {
        return;
    }
    if (r == NULL) {
        PyObject *prefix = PyUnicode_DecodeUTF8(mount, (Py_ssize_t)mount_size, "replace");
        Py_XSETREF(self->nested_route, prefix == NULL ? NULL : PyUnicode_Concat(prefix, rule));
        Py_XDECREF(prefix);
        return;
    }
    if (r->route.size == mount_size + (size_t)size &&
        memcmp(r->route.data + mount_size, text, (size_t)size) == 0) {
        return; // read before
    }
    pom_text_t first = pom_action_text(self->work.action, mount, mount_size);
    pom_text_t second = pom_action_text(self->work.action, text, (size_t)size);
    r->route =
        (pom_text_t){.data = first.data, .size = first.size + second.size}; // one behind the other
}

/* What werkzeug matched, while it is there. getattr may run a framework's code, so the action is looked up again after. */
void pom_route_read(pom_request_state_t *self) {
    if (self->environ == NULL || self->work.kind == POM_WORK_SHED) {
        return;
    }
    PyObject *request =
        pom_environ_get(self->environ, pom_s_werkzeug); // borrowed: the environ keeps it
    if (request == NULL) {
        return;
    }
    Py_INCREF(request);
    PyObject *url_rule = PyObject_GetAttr(request, pom_s_url_rule);
    PyObject *rule =
        url_rule == NULL || url_rule == Py_None ? NULL : PyObject_GetAttr(url_rule, pom_s_rule);
    if (rule != NULL && PyUnicode_Check(rule) && self->environ != NULL) {
        keep_route(self, rule);
    }
    PyErr_Clear(); // no route then
    Py_DECREF(request);
    Py_XDECREF(url_rule);
    Py_XDECREF(rule);
}
