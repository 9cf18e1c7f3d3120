/*
 * A request between the wrapper, the application and the body: what begins it, what it learns on
 * the way, what ends it.
 *
 * The object is what the application gets as start_response, so status and route are read when they
 * are said (Flask forgets its request before it returns). Objects are pooled: a request allocates
 * nothing in steady state but its task id's text.
 *
 * Two listeners stand between application and server where they must: around the server's write(),
 * to count, and in place of a wsgi.file_wrapper that is a function, to know its bodies. Both hand
 * on exactly what they get.
 *
 * A guest never breaks the house: each step of ours that can fail is cleared and counted, and the
 * request goes on.
 *
 * Over 400 lines, as the three Python types it needs are declared at its end.
 */
#include "bindings/ext/request_state.h"

#include <string.h>

#include "base/clock.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/core.h"
#include "bindings/ext/environ.h"
#include "bindings/ext/meter.h"
#include "bindings/ext/route.h"
#include "bindings/ext/values.h"

/* Requests open at once that are kept for reuse; 300 bytes each. */
#define POOL_MAX 64

static PyTypeObject *request_type, *file_wrapper_type, *write_type;

static pom_request_state_t *pool[POOL_MAX];
static int pooled;

/* The id the headers ask for, or the one the work has; written back for the application to read. */
static int settle_task_id(pom_request_state_t *self, PyObject *env) {
    const char *uuid = NULL, *parent = NULL;
    size_t uuid_size = 0, parent_size = 0;
    // Borrowed: nobody's code runs before the id is written back.
    PyObject *given = pom_environ_get(env, &pom_n_task_uuid);
    PyObject *traceparent = pom_environ_get(env, &pom_n_traceparent);
    if (given != NULL || traceparent != NULL) {
        pom_id_t id = self->work.task_id;
        pom_text_t text;
        (void)pom_wire_bytes(given, &uuid, &uuid_size); // stays NULL when unusable
        (void)pom_wire_bytes(traceparent, &parent, &parent_size);
        if (pom_request_task_id(uuid, uuid_size, parent, parent_size, &id, &text)) {
            pom_work_set_task(&self->work, id, text.size > 0 ? given : NULL);
        }
        if (parent != NULL && self->work.kind == POM_WORK_OUTERMOST) {
            pom_trace_keep(self->work.action, parent, parent_size);
        }
    }
    PyObject *text = pom_work_task_uuid(&self->work);
    int status = text == NULL ? -1 : PyDict_SetItem(env, pom_n_task_uuid.text, text);
    Py_XDECREF(text);
    return status;
}

/* ---- nested requests: a pair of messages in the tree around them ----------------------------- */

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
    PyObject *env = Py_XNewRef(self->environ); // what runs in here may end the request
    PyObject *fields = PyDict_New();
    PyObject *path = env == NULL ? NULL : pom_environ_shown(env, &pom_n_path_info);
    bool named = path != NULL && PyUnicode_GET_LENGTH(path) > 0;
    pom_work_head_t head = {.type = named ? path : pom_n_wsgi_task.text,
                            .status = status,
                            .outcome = outcome,
                            .exception = exception};
    if (fields != NULL && env != NULL && start) {
        pom_environ_tell(env, fields);
    } else if (fields != NULL && !start) {
        put_number(fields, "status", self->status);
        put_number(fields, "bytes", self->bytes);
        put(fields, "route", self->nested_route);
        PyObject *name, *text;
        if (exception == NULL && env != NULL && pom_environ_linked(env, &name, &text)) {
            put(fields, "exception", name);
            put(fields, "reason", text);
            Py_DECREF(name);
            Py_DECREF(text);
        }
    }
    PyErr_Clear();
    pom_work_message(&self->work, &head, fields, NULL);
    Py_XDECREF(fields);
    Py_XDECREF(path);
    Py_XDECREF(env);
}

/* ---- a request's life ------------------------------------------------------------------------ */

static PyObject *request_call(PyObject *self, PyObject *const *args, size_t nargsf,
                              PyObject *names);

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
    self->left_ns = self->wrote_ns = self->bytes = 0;
    self->status = 0;
    self->head = self->first_byte = false;
    return self;
}

pom_request_t *pom_request_data(pom_request_state_t *self) {
    return self->work.kind == POM_WORK_OUTERMOST && pom_work_is_live(&self->work)
               ? pom_request_of(self->work.action)
               : NULL;
}

static void swap_file_wrapper(pom_request_state_t *self, PyObject *env);

/* NULL without an exception: the application runs bare. */
pom_request_state_t *pom_request_begin(PyObject *env, PyObject *start_response) {
    if (!PyDict_CheckExact(env) || !pom_work_engine_runs()) {
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
        pom_environ_keep(self->work.action, env);
        pom_text_t method = pom_request_of(self->work.action)->method;
        self->head = method.size == 4 && memcmp(method.data, "HEAD", 4) == 0;
    }
    if (self->work.kind != POM_WORK_SHED && settle_task_id(self, env) < 0) {
        pom_core_fault("wsgi begin");
    }
    self->start_response = Py_NewRef(start_response);
    self->environ = Py_NewRef(env);
    if (self->work.kind == POM_WORK_NESTED) {
        post_nested(self, "started", NULL, NULL, true);
    }
    if (self->work.kind != POM_WORK_SHED) {
        swap_file_wrapper(self, env);
    }
    return self;
}

void pom_request_enter(pom_request_state_t *self, int64_t now_ns) {
    pom_work_attach_caller(&self->work, now_ns);
}

int64_t pom_request_leave(pom_request_state_t *self, int64_t since_ns) {
    self->left_ns = pom_work_detach(&self->work);
    int64_t took_ns = self->left_ns - since_ns;
    if (self->wrote_ns > 0) {
        took_ns -= self->wrote_ns;
        self->wrote_ns = 0;
    }
    return took_ns;
}

void pom_request_count(pom_request_state_t *self, PyObject *chunk) {
    if (self->head || !PyBytes_Check(chunk)) {
        return;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(chunk);
    self->bytes += size;
    self->first_byte = self->first_byte || size > 0;
}

void pom_request_finish(pom_request_state_t *self, pom_outcome_t outcome, PyObject *exception) {
    if (self->work.kind == POM_WORK_NONE) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    pom_route_read(self, true);
    pom_request_restore_file_wrapper(self);
    pom_request_t *data = pom_request_data(self);
    if (data != NULL) {
        data->status = self->status;
        data->bytes = self->bytes;
        self->work.action->end_ns = self->left_ns;
        pom_route_keep_link(self);
    }
    if (self->work.kind == POM_WORK_NESTED) {
        bool failed = outcome == POM_OUTCOME_FAILED;
        bool said = failed || outcome == POM_OUTCOME_SUCCEEDED;
        post_nested(self, failed ? "failed" : "succeeded", said ? NULL : pom_outcome_names[outcome],
                    exception, false);
    }
    pom_work_end(&self->work, outcome, exception);
    // start_response stays: as the server's own it may be called after an error, or by a file that
    // the server reads later.
    Py_CLEAR(self->environ);
    Py_CLEAR(self->headers);
    Py_CLEAR(self->file_body);
    Py_CLEAR(self->nested_route);
    PyErr_Restore(type, value, traceback);
}

void pom_request_finish_raised(pom_request_state_t *self) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    pom_outcome_t outcome = pom_request_outcome_of(type);
    pom_request_finish(self, outcome, outcome == POM_OUTCOME_FAILED ? value : NULL);
    PyErr_Restore(type, value, traceback);
}

pom_outcome_t pom_request_outcome_of(PyObject *type) {
    return PyErr_GivenExceptionMatches(type, PyExc_GeneratorExit) ||
                   PyErr_GivenExceptionMatches(type, PyExc_StopIteration)
               ? POM_OUTCOME_ABORTED
               : POM_OUTCOME_FAILED;
}

/* ---- start_response: the Request itself, called ---------------------------------------------- */

static void started(pom_request_state_t *self, PyObject *const *args, Py_ssize_t nargs) {
    const char *status;
    size_t size;
    if (nargs > 0 && pom_wire_bytes(args[0], &status, &size) && size >= 3) {
        int code = 0;
        for (int i = 0; i < 3; i++) {
            code = status[i] >= '0' && status[i] <= '9' && code >= 0 ? code * 10 + status[i] - '0'
                                                                     : -1;
        }
        self->status = code > 0 ? code : 0;
    }
    Py_XSETREF(self->headers, nargs > 1 ? Py_NewRef(args[1]) : NULL);
    pom_route_read(self, false);
    if (nargs > 2) {
        pom_route_link(self, args[2]);
    }
}

typedef struct write_s {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *write;
    pom_request_state_t *request;
} write_t;

static PyObject *write_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                            PyObject *names) {
    write_t *self = (write_t *)callable;
    int64_t start_ns = pom_now_ns();
    PyObject *result = PyObject_Vectorcall(self->write, args, nargsf, names);
    int64_t took_ns = pom_now_ns() - start_ns;
    pom_request_t *data = pom_request_data(self->request);
    if (data != NULL &&
        self->request->work.slot != NULL) { // else it is within the server's time anyway
        data->client_ns += took_ns;
        self->request->wrote_ns += took_ns;
    }
    if (result != NULL && PyVectorcall_NARGS(nargsf) > 0) {
        pom_request_count(self->request, args[0]);
    }
    return result;
}

/* Nearly every application drops the write() it gets at once, so one is made for all of them. */
static write_t *spare_write;

static write_t *new_write(void) {
    write_t *self = spare_write;
    if (self == NULL) {
        return PyObject_GC_New(write_t, write_type);
    }
    spare_write = NULL;
    (void)PyObject_Init((PyObject *)self, write_type);
    return self;
}

/* The server's write(), counted. The server's own when ours cannot be made. */
static PyObject *counted_write(pom_request_state_t *self, PyObject *write) {
    if (pom_request_data(self) == NULL || !PyCallable_Check(write)) {
        return write;
    }
    write_t *ours = new_write();
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

static pom_meter_t started_meter = {.cost_ns = 100};

static PyObject *request_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                              PyObject *names) {
    pom_request_state_t *self = (pom_request_state_t *)callable;
    if (self->start_response == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "start_response was called while its request was being collected");
        return NULL;
    }
    PyObject *start_response = Py_NewRef(self->start_response); // it may end the request
    int64_t timed_ns = pom_meter_start(&started_meter);
    started(self, args, PyVectorcall_NARGS(nargsf));
    pom_meter_stop(&started_meter, timed_ns);
    pom_work_charge(&self->work, started_meter.cost_ns);
    PyObject *write = PyObject_Vectorcall(start_response, args, nargsf, names);
    Py_DECREF(start_response);
    return write == NULL ? NULL : counted_write(self, write);
}

bool pom_request_is_complete(pom_request_state_t *self) {
    if (self->head) {
        return true; // granian reads the body of an answer to HEAD for a while, and then closes it
    }
    if (self->headers == NULL || !PyList_Check(self->headers)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(self->headers); i++) {
        PyObject *pair = PyList_GET_ITEM(self->headers, i);
        const char *name, *value;
        size_t name_size, value_size;
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            !pom_wire_bytes(PyTuple_GET_ITEM(pair, 0), &name, &name_size) || name_size != 14 ||
            strncasecmp(name, "content-length", 14) != 0 ||
            !pom_wire_bytes(PyTuple_GET_ITEM(pair, 1), &value, &value_size) || value_size > 18) {
            continue;
        }
        int64_t declared = 0;
        for (size_t at = 0; at < value_size; at++) {
            if (value[at] < '0' || value[at] > '9') {
                return false;
            }
            declared = declared * 10 + (value[at] - '0');
        }
        return self->bytes >= declared;
    }
    return false;
}

/* ---- wsgi.file_wrapper ----------------------------------------------------------------------- */

/* Where it is a function (uWSGI), what it made can be known only by listening. It is put back
 * before the server looks. */
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

static void swap_file_wrapper(pom_request_state_t *self, PyObject *env) {
    PyObject *factory = pom_environ_get(env, &pom_n_file_wrapper);
    if (factory == NULL || PyType_Check(factory) || !PyCallable_Check(factory)) {
        return;
    }
    Py_INCREF(factory); // a new object may mean a collection, and that any code
    file_wrapper_t *ours = PyObject_GC_New(file_wrapper_t, file_wrapper_type);
    if (ours == NULL) {
        PyErr_Clear();
        Py_DECREF(factory);
        return;
    }
    ours->vectorcall = file_wrapper_call;
    ours->factory = factory;
    ours->request = (pom_request_state_t *)Py_NewRef(self);
    PyObject_GC_Track(ours);
    if (PyDict_SetItem(env, pom_n_file_wrapper.text, (PyObject *)ours) < 0) {
        PyErr_Clear();
    } else {
        self->file_wrapper = Py_NewRef(factory);
    }
    Py_DECREF(ours);
}

void pom_request_restore_file_wrapper(pom_request_state_t *self) {
    PyObject *factory = self->file_wrapper;
    self->file_wrapper = NULL;
    if (factory == NULL) {
        return;
    }
    PyObject *env = Py_XNewRef(self->environ); // a key's __eq__ may end the request
    PyObject *now = env == NULL ? NULL : pom_environ_get(env, &pom_n_file_wrapper);
    if (now != NULL && Py_IS_TYPE(now, file_wrapper_type) &&
        PyDict_SetItem(env, pom_n_file_wrapper.text, factory) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(env);
    Py_DECREF(factory);
}

bool pom_request_is_file_body(pom_request_state_t *self, PyObject *result) {
    if (self->file_body == result) {
        return true;
    }
    PyObject *factory =
        self->environ == NULL ? NULL : pom_environ_get(self->environ, &pom_n_file_wrapper);
    return factory != NULL && PyType_Check(factory) &&
           PyObject_TypeCheck(result, (PyTypeObject *)factory);
}

/* ---- types ----------------------------------------------------------------------------------- */

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
    Py_CLEAR(self->nested_route);
    return 0;
}

static void request_dealloc(PyObject *op) {
    pom_request_state_t *self = (pom_request_state_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    self->left_ns = 0;                                // it ends now
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
    if (type == write_type && spare_write == NULL) {
        spare_write = (write_t *)op;
    } else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(type);
}

static PyMemberDef listener_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(write_t, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot listener_slots[] = {
    {Py_tp_call, PyVectorcall_Call},   {Py_tp_traverse, listener_traverse},
    {Py_tp_clear, listener_clear},     {Py_tp_dealloc, listener_dealloc},
    {Py_tp_members, listener_members}, {0, NULL}};
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

int pom_request_init(void) {
    request_type = (PyTypeObject *)PyType_FromSpec(&request_spec);
    write_type = (PyTypeObject *)PyType_FromSpec(&write_spec);
    file_wrapper_type = (PyTypeObject *)PyType_FromSpec(&file_wrapper_spec);
    return request_type == NULL || write_type == NULL || file_wrapper_type == NULL ? -1 : 0;
}
