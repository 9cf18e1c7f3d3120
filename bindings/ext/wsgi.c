/*
 * The WSGI wrapper: one action per request around any WSGI callable.
 *
 *     server --(environ, start_response)--> Wrapped --(environ, Request)--> application
 *                                                                    |
 *     server <------- list, tuple: the same object, request over ----+
 *     server <------- anything else: inside a body iterator (body.c) -+
 *
 * The request path, as short as it can be: read the environ (bytes are copied, nothing is interpreted), ask the registry, write
 * the task id back, attach, call, detach, end. No allocation in steady state but the task id's text: Request objects are
 * pooled. The Request object is what the application gets as start_response, so status and route are read when they
 * are said (Flask forgets its request before it returns).
 *
 * A guest never breaks the house: each step of ours that can fail is cleared and counted (pom_core_fault), and the application is
 * called all the same, with the very arguments it would have got.
 */
#include "bindings/ext/request_state.h"

#include <string.h>

#include "base/clock.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/core.h"
#include "bindings/ext/values.h"

/* Requests open at once that are kept for reuse; 300 bytes each. */
#define POOL_MAX 64

typedef struct wrapped_s {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *app;
    PyObject *weakrefs;
} wrapped_t;

static PyTypeObject *wrapped_type, *request_type, *file_wrapper_type, *write_type;

static pom_request_state_t *pool[POOL_MAX];
static int pooled;

/* Interned once: keys of the environ and attributes of frameworks. */
#define NAMES(X)                                                                                   \
    X(path_info, "PATH_INFO")                                                                      \
    X(script_name, "SCRIPT_NAME")                                                                  \
    X(query_string, "QUERY_STRING")                                                                \
    X(method, "REQUEST_METHOD")                                                                    \
    X(host, "HTTP_HOST")                                                                           \
    X(server_name, "SERVER_NAME")                                                                  \
    X(server_port, "SERVER_PORT")                                                                  \
    X(task_uuid, "HTTP_X_TASK_UUID")                                                               \
    X(traceparent, "HTTP_TRACEPARENT")                                                             \
    X(file_wrapper, "wsgi.file_wrapper")                                                           \
    X(werkzeug, "werkzeug.request")                                                                \
    X(url_rule, "url_rule")                                                                        \
    X(rule, "rule")                                                                                \
    X(wsgi_task, "wsgi_task")                                                                      \
    X(wrapped, "__wrapped__")

#define X(name, text) static PyObject *s_##name;
NAMES(X)
#undef X

/* ---- reading the environ -------------------------------------------------------------------- */

/* A WSGI string carries bytes as latin-1; the bytes are what we want. False: not text, or (against the rules) wider. */
static bool wire_bytes(PyObject *text, const char **data, size_t *size) {
    if (text == NULL || !PyUnicode_Check(text)) {
        return false;
    }
    if (PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND) {
        *data = (const char *)PyUnicode_1BYTE_DATA(text);
        *size = (size_t)PyUnicode_GET_LENGTH(text);
        return true;
    }
    Py_ssize_t length = 0;
    *data = PyUnicode_AsUTF8AndSize(text, &length);
    *size = (size_t)length;
    if (*data == NULL) {
        PyErr_Clear(); // a lone surrogate: as good as absent
        return false;
    }
    return true;
}

/* Borrowed; NULL when absent. A dict with str keys only looks up without running anybody's code. */
static PyObject *get(PyObject *environ, PyObject *key) {
    PyObject *value = PyDict_GetItemWithError(environ, key);
    if (value == NULL && PyErr_Occurred()) {
        PyErr_Clear(); // a hostile key type in the environ: as good as absent
    }
    return value;
}

static pom_text_t keep(pom_action_t *action, PyObject *environ, PyObject *key) {
    const char *data;
    size_t size;
    if (!wire_bytes(get(environ, key), &data, &size)) {
        return (pom_text_t){0};
    }
    return pom_action_text(action, data, size);
}

static void keep_host(pom_action_t *action, pom_request_t *r, PyObject *environ) {
    r->host = keep(action, environ, s_host);
    if (r->host.size > 0) {
        return;
    }
    pom_text_t name = keep(action, environ, s_server_name);
    pom_text_t colon = pom_action_text(action, ":", 1);
    pom_text_t port = keep(action, environ, s_server_port);
    // The three lie one behind the other.
    r->host = (pom_text_t){.data = name.size > 0 ? name.data : colon.data,
                           .size = name.size + colon.size + port.size};
}

static void keep_request(pom_request_state_t *self, PyObject *environ) {
    pom_action_t *action = self->work.action;
    pom_request_t *r = pom_request_of(action);
    r->path_info = keep(action, environ, s_path_info);
    r->method = keep(action, environ, s_method);
    r->script_name = keep(action, environ, s_script_name);
    keep_host(action, r, environ);
    r->query = keep(action, environ, s_query_string);
    action->type =
        r->path_info.size > 0 ? r->path_info : pom_action_text(action, "wsgi_task", 9);
    self->head = r->method.size == 4 && memcmp(r->method.data, "HEAD", 4) == 0;
}

/* The id the headers ask for, or the one the work has; written back for the application to read. */
static int settle_task_id(pom_request_state_t *self, PyObject *environ) {
    const char *uuid = NULL, *parent = NULL;
    size_t uuid_size = 0, parent_size = 0;
    PyObject *given = get(environ, s_task_uuid);
    PyObject *traceparent = get(environ, s_traceparent);
    if (given != NULL || traceparent != NULL) {
        pom_id_t id = self->work.task_id;
        pom_text_t text;
        (void)wire_bytes(given, &uuid, &uuid_size); // stays NULL when unusable
        (void)wire_bytes(traceparent, &parent, &parent_size);
        if (pom_request_task_id(uuid, uuid_size, parent, parent_size, &id, &text)) {
            pom_work_set_task(&self->work, id, text.size > 0 ? given : NULL);
        }
    }
    PyObject *text = pom_work_task_uuid(&self->work);
    int status = text == NULL ? -1 : PyDict_SetItem(environ, s_task_uuid, text);
    Py_XDECREF(text);
    return status;
}

/* ---- nested requests: a pair of messages in the tree around them ------------------------------- */

static void put(PyObject *dict, const char *key, PyObject *value) {
    if (value != NULL && PyDict_SetItemString(dict, key, value) < 0) {
        PyErr_Clear(); // a message with fewer fields
    }
}

static void put_number(PyObject *dict, const char *key, int64_t value) {
    PyObject *number = PyLong_FromLongLong(value);
    put(dict, key, number);
    Py_XDECREF(number);
}

static void post_nested(pom_request_state_t *self, const char *status, const char *outcome,
                        PyObject *exception, bool start) {
    PyObject *environ = self->environ;
    PyObject *fields = PyDict_New();
    PyObject *path = environ == NULL ? NULL : get(environ, s_path_info);
    pom_work_head_t head = {.type = path != NULL && PyUnicode_Check(path) ? path : s_wsgi_task,
                            .status = status,
                            .outcome = outcome,
                            .exception = exception};
    if (fields != NULL && environ != NULL && start) {
        put(fields, "method", get(environ, s_method));
        put(fields, "host", get(environ, s_host));
        put(fields, "script_name", get(environ, s_script_name));
        put(fields, "path_info", path);
    } else if (fields != NULL && !start) {
        put_number(fields, "status", self->status);
        put_number(fields, "bytes", self->bytes);
        put(fields, "route", self->nested_route);
    }
    PyErr_Clear();
    pom_work_message(&self->work, &head, fields, NULL);
    Py_XDECREF(fields);
}

/* ---- a request's life --------------------------------------------------------------------------- */

static PyObject *request_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names);

static pom_request_state_t *new_request(void) {
    pom_request_state_t *self;
    if (pooled > 0) {
        self = pool[--pooled];
        (void)PyObject_Init((PyObject *)self, request_type);
        PyObject_GC_Track(self);
    } else {
        self = PyObject_GC_New(pom_request_state_t, request_type);
        if (self == NULL) {
            return NULL;
        }
        PyObject_GC_Track(self);
    }
    self->vectorcall = request_call;
    self->start_response = self->environ = self->headers = NULL;
    self->file_wrapper = self->file_body = self->nested_route = NULL;
    self->left_ns = self->bytes = 0;
    self->status = 0;
    self->head = self->first_byte = false;
    return self;
}

pom_request_t *pom_request_data(pom_request_state_t *self) {
    return self->work.kind == POM_WORK_OUTERMOST && pom_work_is_live(&self->work)
               ? pom_request_of(self->work.action)
               : NULL;
}

static void swap_file_wrapper(pom_request_state_t *self, PyObject *environ);

/* NULL without an exception: the application runs bare. */
static pom_request_state_t *begin(PyObject *environ, PyObject *start_response) {
    if (!PyDict_CheckExact(environ) || !pom_work_engine_runs()) {
        return NULL;
    }
    pom_request_state_t *self = new_request();
    if (self == NULL) {
        PyErr_Clear();
        return NULL;
    }
    pom_work_begin(&self->work, &pom_request_kind);
    if (self->work.kind == POM_WORK_NONE) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->work.kind == POM_WORK_OUTERMOST) {
        keep_request(self, environ);
    }
    if (self->work.kind != POM_WORK_SHED && settle_task_id(self, environ) < 0) {
        pom_core_fault("wsgi begin");
    }
    self->start_response = Py_NewRef(start_response);
    self->environ = Py_NewRef(environ);
    if (self->work.kind == POM_WORK_NESTED) {
        post_nested(self, "started", NULL, NULL, true);
    }
    if (self->work.kind != POM_WORK_SHED) {
        swap_file_wrapper(self, environ);
    }
    return self;
}

void pom_request_enter(pom_request_state_t *self) {
    if (!pom_work_caller(&self->caller)) {
        self->caller = (pom_own_frame_t){0}; // a server in C: the anchor is the end of the chain
    }
    pom_work_attach(&self->work, &self->caller, POM_ANCHOR_OUTSIDE);
}

int64_t pom_request_leave(pom_request_state_t *self, int64_t since_ns) {
    pom_work_detach(&self->work);
    self->left_ns = pom_now_ns();
    return self->left_ns - since_ns;
}

void pom_request_count(pom_request_state_t *self, PyObject *chunk) {
    if (self->head || !PyBytes_Check(chunk)) {
        return;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(chunk);
    self->bytes += size;
    self->first_byte = self->first_byte || size > 0;
}

/* The mount point as it is now (a dispatcher moves it), then the framework's rule, which does not know where it is mounted. */
static void keep_route(pom_request_state_t *self, PyObject *rule) {
    pom_request_t *r = pom_request_data(self);
    const char *mount = "";
    size_t mount_size = 0;
    Py_ssize_t size = 0;
    (void)wire_bytes(get(self->environ, s_script_name), &mount, &mount_size); // absent: not mounted
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
    r->route = (pom_text_t){.data = first.data, .size = first.size + second.size}; // one behind the other
}

/* What werkzeug matched, while it is there. getattr may run a framework's code, so the action is looked up again after. */
static void read_route(pom_request_state_t *self) {
    if (self->environ == NULL || self->work.kind == POM_WORK_SHED) {
        return;
    }
    PyObject *request = get(self->environ, s_werkzeug); // borrowed: the environ keeps it
    if (request == NULL) {
        return;
    }
    Py_INCREF(request);
    PyObject *url_rule = PyObject_GetAttr(request, s_url_rule);
    PyObject *rule = url_rule == NULL || url_rule == Py_None ? NULL : PyObject_GetAttr(url_rule, s_rule);
    if (rule != NULL && PyUnicode_Check(rule) && self->environ != NULL) {
        keep_route(self, rule);
    }
    PyErr_Clear(); // no route then
    Py_DECREF(request);
    Py_XDECREF(url_rule);
    Py_XDECREF(rule);
}

static void restore_file_wrapper(pom_request_state_t *self);

void pom_request_finish(pom_request_state_t *self, pom_outcome_t outcome, PyObject *exception) {
    if (self->work.kind == POM_WORK_NONE) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    read_route(self);
    restore_file_wrapper(self);
    pom_request_t *data = pom_request_data(self);
    if (data != NULL) {
        data->status = self->status;
        data->bytes = self->bytes;
    }
    if (self->work.kind == POM_WORK_NESTED) {
        bool failed = outcome == POM_OUTCOME_FAILED;
        bool said = failed || outcome == POM_OUTCOME_SUCCEEDED;
        post_nested(self, failed ? "failed" : "succeeded",
                    said ? NULL : pom_outcome_names[outcome], exception, false);
    }
    pom_work_end(&self->work, outcome, exception);
    Py_CLEAR(self->start_response);
    Py_CLEAR(self->environ);
    Py_CLEAR(self->headers);
    Py_CLEAR(self->file_body);
    Py_CLEAR(self->nested_route);
    PyErr_Restore(type, value, traceback);
}

pom_outcome_t pom_request_outcome_of(PyObject *type) {
    return PyErr_GivenExceptionMatches(type, PyExc_GeneratorExit) ||
                   PyErr_GivenExceptionMatches(type, PyExc_StopIteration)
               ? POM_OUTCOME_ABORTED
               : POM_OUTCOME_FAILED;
}

/* ---- start_response: the Request itself, called ------------------------------------------------- */

static void started(pom_request_state_t *self, PyObject *const *args, Py_ssize_t nargs) {
    const char *status;
    size_t size;
    if (nargs > 0 && wire_bytes(args[0], &status, &size) && size >= 3) {
        int code = 0;
        for (int i = 0; i < 3; i++) {
            code = status[i] >= '0' && status[i] <= '9' && code >= 0 ? code * 10 + status[i] - '0' : -1;
        }
        self->status = code > 0 ? code : 0;
    }
    Py_XSETREF(self->headers, nargs > 1 ? Py_NewRef(args[1]) : NULL);
    read_route(self);
}

typedef struct write_s {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *write;
    pom_request_state_t *request;
} write_t;

static PyObject *write_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *names) {
    write_t *self = (write_t *)callable;
    PyObject *result = PyObject_Vectorcall(self->write, args, nargsf, names);
    if (result != NULL && PyVectorcall_NARGS(nargsf) > 0) {
        pom_request_count(self->request, args[0]);
    }
    return result;
}

/* The server's write(), counted. The server's own when ours cannot be made. */
static PyObject *counted_write(pom_request_state_t *self, PyObject *write) {
    if (pom_request_data(self) == NULL || !PyCallable_Check(write)) {
        return write;
    }
    write_t *ours = PyObject_GC_New(write_t, write_type);
    if (ours == NULL) {
        PyErr_Clear();
        return write;
    }
    ours->vectorcall = write_call;
    ours->write = write;
    ours->request = (pom_request_state_t *)Py_NewRef(self);
    PyObject_GC_Track(ours);
    return (PyObject *)ours;
}

static PyObject *request_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                              PyObject *names) {
    pom_request_state_t *self = (pom_request_state_t *)callable;
    if (self->start_response == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "start_response was called after the request had ended");
        return NULL;
    }
    PyObject *start_response = Py_NewRef(self->start_response); // it may end the request
    started(self, args, PyVectorcall_NARGS(nargsf));
    PyObject *write = PyObject_Vectorcall(start_response, args, nargsf, names);
    Py_DECREF(start_response);
    return write == NULL ? NULL : counted_write(self, write);
}

bool pom_request_is_complete(pom_request_state_t *self) {
    if (self->headers == NULL || !PyList_Check(self->headers)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(self->headers); i++) {
        PyObject *pair = PyList_GET_ITEM(self->headers, i);
        const char *name, *value;
        size_t name_size, value_size;
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            !wire_bytes(PyTuple_GET_ITEM(pair, 0), &name, &name_size) || name_size != 14 ||
            strncasecmp(name, "content-length", 14) != 0 ||
            !wire_bytes(PyTuple_GET_ITEM(pair, 1), &value, &value_size) || value_size > 18) {
            continue;
        }
        int64_t declared = 0;
        for (size_t at = 0; at < value_size; at++) {
            if (value[at] < '0' || value[at] > '9') {
                return false;
            }
            declared = declared * 10 + (value[at] - '0');
        }
        return self->head || self->bytes >= declared;
    }
    return false;
}

/* ---- wsgi.file_wrapper --------------------------------------------------------------------------- */

/* Where it is a function (uWSGI), what it made can be known only by listening. It is put back before the server looks. */
typedef struct file_wrapper_s {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *factory;
    pom_request_state_t *request;
} file_wrapper_t;

static PyObject *file_wrapper_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                                   PyObject *names) {
    file_wrapper_t *self = (file_wrapper_t *)callable;
    PyObject *body = PyObject_Vectorcall(self->factory, args, nargsf, names);
    if (body != NULL && self->request->work.kind != POM_WORK_NONE) {
        Py_XSETREF(self->request->file_body, Py_NewRef(body));
    }
    return body;
}

static void swap_file_wrapper(pom_request_state_t *self, PyObject *environ) {
    PyObject *factory = get(environ, s_file_wrapper);
    if (factory == NULL || PyType_Check(factory) || !PyCallable_Check(factory)) {
        return;
    }
    file_wrapper_t *ours = PyObject_GC_New(file_wrapper_t, file_wrapper_type);
    if (ours == NULL) {
        PyErr_Clear();
        return;
    }
    ours->vectorcall = file_wrapper_call;
    ours->factory = Py_NewRef(factory);
    ours->request = (pom_request_state_t *)Py_NewRef(self);
    PyObject_GC_Track(ours);
    if (PyDict_SetItem(environ, s_file_wrapper, (PyObject *)ours) < 0) {
        PyErr_Clear();
    } else {
        self->file_wrapper = Py_NewRef(factory);
    }
    Py_DECREF(ours);
}

static void restore_file_wrapper(pom_request_state_t *self) {
    PyObject *factory = self->file_wrapper;
    self->file_wrapper = NULL;
    if (factory == NULL) {
        return;
    }
    PyObject *now = self->environ == NULL ? NULL : get(self->environ, s_file_wrapper);
    if (now != NULL && Py_IS_TYPE(now, file_wrapper_type) &&
        PyDict_SetItem(self->environ, s_file_wrapper, factory) < 0) {
        PyErr_Clear();
    }
    Py_DECREF(factory);
}

static bool is_file_body(pom_request_state_t *self, PyObject *result) {
    if (self->file_body == result) {
        return true;
    }
    PyObject *factory = self->environ == NULL ? NULL : get(self->environ, s_file_wrapper);
    return factory != NULL && PyType_Check(factory) &&
           PyObject_TypeCheck(result, (PyTypeObject *)factory);
}

/* ---- the call ---------------------------------------------------------------------------------------- */

static void count_chunks(pom_request_state_t *self, PyObject *chunks) {
    PyObject **items = PySequence_Fast_ITEMS(chunks);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(chunks); i++) {
        pom_request_count(self, items[i]);
    }
}

/* What to give the server for what the application returned (stolen). */
static PyObject *respond(pom_request_state_t *self, PyObject *result) {
    if (PyList_CheckExact(result) || PyTuple_CheckExact(result)) {
        count_chunks(self, result);
        pom_request_finish(self, POM_OUTCOME_SUCCEEDED, NULL);
        return result;
    }
    restore_file_wrapper(self);
    PyTypeObject *type = Py_TYPE(result);
    bool iterable = type->tp_iter != NULL || (type->tp_as_sequence != NULL && type->tp_as_sequence->sq_item != NULL);
    if (self->work.kind == POM_WORK_SHED || !iterable || is_file_body(self, result)) {
        pom_request_finish(self, POM_OUTCOME_SUCCEEDED, NULL);
        return result;
    }
    return pom_body_wrap(self, result);
}

/* Our arguments for the server's: the last one replaced. A method's self may stand before the two. */
static PyObject *call_app(PyObject *app, PyObject *const *args, Py_ssize_t nargs,
                          pom_request_state_t *request) {
    PyObject *passed[4] = {NULL}; // a free place before the first, for bound methods
    memcpy(passed + 1, args, (size_t)(nargs - 1) * sizeof *args);
    passed[nargs] = (PyObject *)request;
    return PyObject_Vectorcall(app, passed + 1, (size_t)nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static PyObject *wrapped_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                              PyObject *names) {
    PyObject *app = ((wrapped_t *)callable)->app;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (pom_engine_state == POM_ENGINE_STOPPED || names != NULL || nargs < 2 || nargs > 3) {
        return PyObject_Vectorcall(app, args, nargsf, names);
    }
    pom_request_state_t *request = begin(args[nargs - 2], args[nargs - 1]);
    if (request == NULL) {
        return PyObject_Vectorcall(app, args, nargsf, names);
    }
    pom_request_enter(request);
    PyObject *result = request->work.kind == POM_WORK_SHED
                           ? PyObject_Vectorcall(app, args, nargsf, names)
                           : call_app(app, args, nargs, request);
    int64_t start_ns = pom_work_is_live(&request->work) && request->work.kind == POM_WORK_OUTERMOST
                           ? request->work.action->start_ns
                           : 0;
    int64_t took_ns = pom_request_leave(request, start_ns);
    pom_request_t *data = pom_request_data(request);
    if (data != NULL) {
        data->app_ns = took_ns;
    }
    if (result == NULL) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        pom_request_finish(request, pom_request_outcome_of(type),
                           pom_request_outcome_of(type) == POM_OUTCOME_FAILED ? value : NULL);
        PyErr_Restore(type, value, traceback);
    } else {
        result = respond(request, result);
    }
    Py_DECREF(request);
    return result;
}

/* ---- types ---------------------------------------------------------------------------------------------- */

static int request_traverse(PyObject *op, visitproc visit, void *arg) {
    pom_request_state_t *self = (pom_request_state_t *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->start_response);
    Py_VISIT(self->environ);
    Py_VISIT(self->headers);
    Py_VISIT(self->file_wrapper);
    Py_VISIT(self->file_body);
    return 0;
}

static int request_clear(PyObject *op) {
    pom_request_state_t *self = (pom_request_state_t *)op;
    Py_CLEAR(self->start_response);
    Py_CLEAR(self->environ);
    Py_CLEAR(self->headers);
    Py_CLEAR(self->file_wrapper);
    Py_CLEAR(self->file_body);
    return 0;
}

static void request_dealloc(PyObject *op) {
    pom_request_state_t *self = (pom_request_state_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pom_request_finish(self, POM_OUTCOME_LOST, NULL); // no-op when it has ended
    (void)request_clear(op);
    if (pooled < POOL_MAX) {
        pool[pooled++] = self;
    } else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(type);
}

static PyMemberDef callable_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(pom_request_state_t, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, "start_response of a profiled request: notes the status, then calls the server's."},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_members, callable_members},
    {0, NULL}};
static PyType_Spec request_spec = {.name = "profilomatic._core.StartResponse",
                                   .basicsize = sizeof(pom_request_state_t),
                                   .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
                                            Py_TPFLAGS_HAVE_VECTORCALL |
                                            Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                   .slots = request_slots};

/* write_t and file_wrapper_t: a callable, and the request it tells. */
_Static_assert(offsetof(write_t, write) == offsetof(file_wrapper_t, factory) &&
                   offsetof(write_t, request) == offsetof(file_wrapper_t, request),
               "one set of slots serves both");

static int listener_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((write_t *)op)->write);
    Py_VISIT((PyObject *)((write_t *)op)->request);
    return 0;
}

static int listener_clear(PyObject *op) {
    // The request stays: a call after this still needs somebody to tell.
    (void)op;
    return 0;
}

static void listener_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_DECREF(((write_t *)op)->write);
    Py_DECREF((PyObject *)((write_t *)op)->request);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMemberDef listener_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(write_t, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot listener_slots[] = {{Py_tp_call, PyVectorcall_Call},
                                       {Py_tp_traverse, listener_traverse},
                                       {Py_tp_clear, listener_clear},
                                       {Py_tp_dealloc, listener_dealloc},
                                       {Py_tp_members, listener_members},
                                       {0, NULL}};
#define LISTENER_FLAGS                                                                             \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |                        \
     Py_TPFLAGS_DISALLOW_INSTANTIATION)
static PyType_Spec write_spec = {.name = "profilomatic._core.Write",
                                 .basicsize = sizeof(write_t),
                                 .flags = LISTENER_FLAGS,
                                 .slots = listener_slots};
static PyType_Spec file_wrapper_spec = {.name = "profilomatic._core.FileWrapper",
                                        .basicsize = sizeof(file_wrapper_t),
                                        .flags = LISTENER_FLAGS,
                                        .slots = listener_slots};

static PyObject *wrap(PyObject *module, PyObject *app) {
    (void)module;
    if (Py_IS_TYPE(app, wrapped_type)) {
        return Py_NewRef(app);
    }
    if (!PyCallable_Check(app)) {
        return PyErr_Format(PyExc_TypeError,
                            "profilomatic.wsgi.wrap() takes a WSGI application, not %R", app);
    }
    wrapped_t *self = PyObject_GC_New(wrapped_t, wrapped_type);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = wrapped_call;
    self->app = Py_NewRef(app);
    self->weakrefs = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *wrapped_getattr(PyObject *op, PyObject *name) {
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(((wrapped_t *)op)->app, name);
    }
    return value;
}

static PyObject *wrapped_get(PyObject *op, PyObject *object, PyObject *type) {
    (void)type;
    return object == NULL || object == Py_None ? Py_NewRef(op) : PyMethod_New(op, object);
}

static PyObject *wrapped_repr(PyObject *op) {
    return PyUnicode_FromFormat("<profilomatic.wsgi.wrap of %R>", ((wrapped_t *)op)->app);
}

static int wrapped_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((wrapped_t *)op)->app);
    return 0;
}

static int wrapped_clear(PyObject *op) {
    (void)op; // never without its application; the cycle is broken elsewhere
    return 0;
}

static void wrapped_dealloc(PyObject *op) {
    wrapped_t *self = (wrapped_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    Py_DECREF(self->app);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMemberDef wrapped_members[] = {
    {"__wrapped__", T_OBJECT, offsetof(wrapped_t, app), READONLY, "The application."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(wrapped_t, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(wrapped_t, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot wrapped_slots[] = {
    {Py_tp_doc, "What wrap() returns: calls the application inside an action."},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getattro, wrapped_getattr},
    {Py_tp_descr_get, wrapped_get},
    {Py_tp_repr, wrapped_repr},
    {Py_tp_traverse, wrapped_traverse},
    {Py_tp_clear, wrapped_clear},
    {Py_tp_dealloc, wrapped_dealloc},
    {Py_tp_members, wrapped_members},
    {0, NULL}};
static PyType_Spec wrapped_spec = {.name = "profilomatic._core.WrappedApplication",
                                   .basicsize = sizeof(wrapped_t),
                                   .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
                                            Py_TPFLAGS_HAVE_VECTORCALL |
                                            Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                   .slots = wrapped_slots};

static PyMethodDef functions[] = {
    {"wrap", wrap, METH_O, "wrap(app): a WSGI callable whose requests are actions."},
    {NULL, NULL, 0, NULL}};

int pom_wsgi_init(PyObject *module) {
#define X(name, text)                                                                              \
    s_##name = PyUnicode_InternFromString(text);                                                   \
    if (s_##name == NULL) {                                                                        \
        return -1;                                                                                 \
    }
    NAMES(X)
#undef X
    wrapped_type = (PyTypeObject *)PyType_FromSpec(&wrapped_spec);
    request_type = (PyTypeObject *)PyType_FromSpec(&request_spec);
    write_type = (PyTypeObject *)PyType_FromSpec(&write_spec);
    file_wrapper_type = (PyTypeObject *)PyType_FromSpec(&file_wrapper_spec);
    if (wrapped_type == NULL || request_type == NULL || write_type == NULL ||
        file_wrapper_type == NULL) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
