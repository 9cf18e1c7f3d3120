/*
 * Reading the environ: bytes are copied, nothing is interpreted; that is done at the seal, off the
 * request.
 */
#include "bindings/ext/environ.h"

#include "bindings/ext/text.h"
#include "middleware/queue_time.h"
#include "middleware/request.h"
#include "middleware/scrub.h"

#define X(name, text) pom_name_t pom_n_##name;
POM_ENVIRON_NAMES(X)
#undef X

int pom_environ_init(void) {
#define X(name, key)                                                                               \
    pom_n_##name.text = PyUnicode_InternFromString(key);                                           \
    if (pom_n_##name.text == NULL) {                                                               \
        return -1;                                                                                 \
    }
    POM_ENVIRON_NAMES(X)
#undef X
    return 0;
}

bool pom_wire_bytes(PyObject *text, const char **data, size_t *size) {
    if (text == NULL || !PyUnicode_Check(text)) {
        return false;
    }
    if (PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND) {
        *data = (const char *)PyUnicode_1BYTE_DATA(text);
        *size = (size_t)PyUnicode_GET_LENGTH(text);
        return true;
    }
    Py_ssize_t length = 0;
    *data = pom_py_utf8(text, &length);
    *size = (size_t)length;
    return *data != NULL; // a lone surrogate: as good as absent
}

PyObject *pom_environ_get(PyObject *env, pom_name_t *name) {
    return pom_dict_get(env, name->text, &name->place);
}

static pom_text_t keep(pom_action_t *action, PyObject *env, pom_name_t *name) {
    const char *data;
    size_t size;
    if (!pom_wire_bytes(pom_environ_get(env, name), &data, &size)) {
        return (pom_text_t){0};
    }
    return pom_action_text(action, data, size);
}

static void keep_host(pom_action_t *action, pom_request_t *r, PyObject *env) {
    r->host = keep(action, env, &pom_n_host);
    if (r->host.size > 0) {
        return;
    }
    pom_text_t name = keep(action, env, &pom_n_server_name);
    if (name.size == 0) {
        return;
    }
    pom_text_t colon = pom_action_text(action, ":", 1);
    pom_text_t port = keep(action, env, &pom_n_server_port);
    // The three lie one behind the other.
    r->host = (pom_text_t){.data = name.data, .size = name.size + colon.size + port.size};
}

static int64_t queue_ns(const pom_action_t *action, PyObject *env) {
    const char *data;
    size_t size;
    return pom_wire_bytes(pom_environ_get(env, &pom_n_request_start), &data, &size)
               ? pom_request_queue_ns(data, size, action->start_wall_ns)
               : 0;
}

void pom_environ_keep(pom_action_t *action, PyObject *env) {
    pom_request_t *r = pom_request_of(action);
    r->path_info = keep(action, env, &pom_n_path_info);
    r->method = keep(action, env, &pom_n_method);
    r->script_name = keep(action, env, &pom_n_script_name);
    keep_host(action, r, env);
    r->query = keep(action, env, &pom_n_query_string);
    r->queue_ns = queue_ns(action, env);
    action->type = r->path_info.size > 0 ? r->path_info : pom_action_text(action, "wsgi_task", 9);
}

PyObject *pom_environ_shown(PyObject *env, pom_name_t *name) {
    const char *data;
    size_t size;
    if (!pom_wire_bytes(pom_environ_get(env, name), &data, &size)) {
        return NULL;
    }
    PyObject *text = PyUnicode_DecodeUTF8(data, (Py_ssize_t)size, "replace");
    if (text == NULL) {
        PyErr_Clear();
    }
    return text;
}

/* Takes ownership of value, which may be NULL. */
static void put(PyObject *fields, const char *key, PyObject *value) {
    if (value == NULL || PyDict_SetItemString(fields, key, value) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(value);
}

static PyObject *shown_host(PyObject *env) {
    PyObject *host = pom_environ_shown(env, &pom_n_host);
    if (host != NULL && PyUnicode_GET_LENGTH(host) > 0) {
        return host;
    }
    PyObject *name = pom_environ_shown(env, &pom_n_server_name);
    PyObject *port = pom_environ_shown(env, &pom_n_server_port);
    Py_XDECREF(host);
    host = name == NULL || port == NULL ? NULL : PyUnicode_FromFormat("%U:%U", name, port);
    Py_XDECREF(name);
    Py_XDECREF(port);
    return host;
}

static PyObject *shown_query(PyObject *env) {
    const char *data;
    size_t size;
    char masked[POM_REQUEST_QUERY_MAX];
    if (!pom_wire_bytes(pom_environ_get(env, &pom_n_query_string), &data, &size)) {
        return NULL;
    }
    size = pom_scrub_query(data, size, masked, sizeof masked);
    return PyUnicode_DecodeUTF8(masked, (Py_ssize_t)size, "replace");
}

void pom_environ_tell(PyObject *env, PyObject *fields) {
    put(fields, "method", pom_environ_shown(env, &pom_n_method));
    put(fields, "host", shown_host(env));
    put(fields, "script_name", pom_environ_shown(env, &pom_n_script_name));
    put(fields, "path_info", pom_environ_shown(env, &pom_n_path_info));
    put(fields, "query_string", shown_query(env));
}

void pom_environ_link(PyObject *env, PyObject *exception) {
    PyObject *name = pom_py_exception_name(exception), *text = pom_py_exception_text(exception);
    PyObject *pair = name == NULL || text == NULL ? NULL : PyTuple_Pack(2, name, text);
    if (pair == NULL || PyDict_SetItem(env, pom_n_exception.text, pair) < 0) {
        PyErr_Clear(); // no memory: a record without it
    }
    Py_XDECREF(pair);
    Py_XDECREF(name);
    Py_XDECREF(text);
}

bool pom_environ_linked(PyObject *env, PyObject **name, PyObject **text) {
    PyObject *pair = pom_environ_get(env, &pom_n_exception);
    if (pair == NULL || !PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
        return false;
    }
    PyObject *first = PyTuple_GET_ITEM(pair, 0), *second = PyTuple_GET_ITEM(pair, 1);
    if (!PyUnicode_CheckExact(first) || !PyUnicode_CheckExact(second)) {
        return false;
    }
    *name = Py_NewRef(first);
    *text = Py_NewRef(second);
    return true;
}
