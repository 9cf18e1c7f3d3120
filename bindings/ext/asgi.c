/*
 * A request of an ASGI application, as the wrapper in profilomatic/asgi.py sees it: begun, told of
 * each message, finished.
 *
 *     server --await--> wrapper's coroutine --await--> application
 *     server <--message-- send() of exchange.c <-------+
 *
 * The wrapper is Python and this is what it calls, for three reasons. Its coroutine's frame lies
 * still from the first step to the last, so the action is anchored once, however often the event
 * loop switches. A coroutine of the interpreter's own type is what the sampler can follow while the
 * request waits (parked.c), and what asyncio's and the debuggers' tools expect. And servers ask
 * whether the application's __call__ is a coroutine function, to tell ASGI 3 from what was before
 * it.
 *
 * Time is dealt out to one phase at a time, at each message: app until the response starts,
 * first_byte until some of the body has been taken, body until the response is complete, close
 * until the application returns (background tasks). What passes while the server's send() is
 * awaited is the client's, and so is what passes until the server has a piece of the request's
 * body.
 *
 * A guest never breaks the house: no method raises, and none keeps a message.
 *
 * Over 400 lines: begin, messages and end share one small state, and the Python type that shows
 * them is declared at the end.
 */
#include "bindings/ext/core.h"

#include <string.h>

#include "base/clock.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/context.h"
#include "bindings/ext/exchange.h"
#include "bindings/ext/meter.h"
#include "bindings/ext/scope.h"
#include "bindings/ext/works.h"
#include "middleware/queue_time.h"
#include "middleware/request.h"
#include "middleware/scrub.h"

/* What no meter of ours sees: the wrapper's coroutine, and the calls and steps of a message
 * (exchange.c). Without it the bill would be too low. In bench/asgi.py's `hello` 15 650
 * instructions were 1.96 us of the event loop's thread; the 12 000 that are left would be 1.5, of
 * which the meters below explain 0.95. How the rest is shared out between the request and its two
 * messages is an estimate, from instructions. */
#define SHELL_COST_NS   240
#define MESSAGE_COST_NS 150

/* Of a refused one, all of it: 210 ns for one coroutine more, as measured while the engine is
 * stopped; and 130, which is what a refused request of WSGI costs, as an estimate. */
#define SHED_COST_NS 340

#define ROUTE_MAX 512

typedef enum phase_e { PHASE_APP, PHASE_FIRST_BYTE, PHASE_BODY, PHASE_CLOSE, PHASES } phase_t;

typedef struct asgi_request_s {
    PyObject_HEAD
    pom_work_t work;
    PyObject *scope;  /* NULL after the end */
    int64_t since_ns; /* the current phase, or the wait, has run since then */
    int64_t phase_ns[PHASES];
    int64_t client_ns;
    int64_t bytes;  /* of body taken by the server */
    int32_t status; /* 0 = not said */
    int32_t waits;  /* send() calls under way; more than one only where tasks send at once */
    phase_t phase;
    char profiled;          /* for the wrapper: false = nothing to observe */
    bool head;              /* no body is sent, whatever the application says */
    bool body;              /* a message with some of it is under way, or was */
    bool started, complete; /* the response */
    bool gone;              /* the client, before the response was complete */
} asgi_request_t;

/* What we do before the application is called, and after, in C. */
static pom_meter_t begin_meter = {.cost_ns = 600}, end_meter = {.cost_ns = 400};

static PyTypeObject *request_type;
static PyObject *s_type, *s_status, *s_body, *s_more_body, *s_count, *s_method, *s_host,
    *s_script_name, *s_path_info, *s_query_string, *s_route, *s_bytes;

static pom_request_t *data_of(const asgi_request_t *self) {
    return self->work.kind == POM_WORK_OUTERMOST && pom_work_is_live(&self->work)
               ? pom_request_of(self->work.action)
               : NULL;
}

/* Requests that are kept for reuse, as many as are open at once; 280 bytes each. From here they are
 * not new objects to the garbage collector, which is called by their number. */
#define POOL_MAX 1024

static asgi_request_t *pool[POOL_MAX];
static int pooled;

/* NULL without an exception: no memory. */
static asgi_request_t *new_request(void) {
    asgi_request_t *self = pooled > 0 ? pool[--pooled] : NULL;
    if (self != NULL) {
        (void)PyObject_Init((PyObject *)self, request_type);
    } else {
        self = PyObject_GC_New(asgi_request_t, request_type);
    }
    if (self == NULL) {
        PyErr_Clear();
        return NULL;
    }
    memset((char *)self + sizeof(PyObject), 0, sizeof *self - sizeof(PyObject));
    PyObject_GC_Track(self);
    return self;
}

/* ---- begin ----------------------------------------------------------------------------------- */

static pom_text_t keep(pom_action_t *action, pom_text_t text) {
    return text.size == 0 ? (pom_text_t){0} : pom_action_text(action, text.data, text.size);
}

static void keep_scope(pom_action_t *action, const pom_scope_t *seen) {
    pom_request_t *r = pom_request_of(action);
    r->method = keep(action, seen->method);
    r->host = keep(action, seen->host);
    r->script_name = keep(action, seen->root_path);
    r->path_info = keep(action, seen->path);
    r->query = keep(action, seen->query);
    r->client = keep(action, seen->client);
    r->queue_ns = pom_request_queue_ns(seen->request_start.data, seen->request_start.size,
                                       action->start_wall_ns);
    action->type = r->path_info.size > 0 ? r->path_info : pom_action_text(action, "asgi_task", 9);
}

/* The id of the request around this one, else what the headers ask for, else its own; told to the
 * application. */
static int settle_task_id(asgi_request_t *self, bool around_knows, const pom_scope_t *seen) {
    pom_text_t around =
        around_knows ? pom_scope_text(pom_scope_task(self->scope)) : (pom_text_t){0};
    pom_text_t asked = around.size > 0 ? around : seen->task_uuid, text;
    pom_id_t id = self->work.task_id;
    if ((asked.size > 0 || seen->traceparent.size > 0) &&
        pom_request_task_id(asked.data, asked.size, seen->traceparent.data, seen->traceparent.size,
                            &id, &text)) {
        PyObject *spelt =
            text.size == 0 ? NULL : PyUnicode_DecodeLatin1(text.data, (Py_ssize_t)text.size, NULL);
        pom_work_set_task(&self->work, id, spelt);
        Py_XDECREF(spelt);
        if (self->work.kind == POM_WORK_OUTERMOST) {
            pom_trace_keep(self->work.action, seen->traceparent.data, seen->traceparent.size);
        }
    }
    PyObject *uuid = pom_work_task_uuid(&self->work);
    int status = uuid == NULL ? -1 : pom_scope_set_task(self->scope, uuid);
    Py_XDECREF(uuid);
    return status;
}

static void put(PyObject *fields, PyObject *key, PyObject *value) {
    if (value == NULL || PyDict_SetItem(fields, key, value) < 0) {
        PyErr_Clear(); // a message with fewer fields
    }
    Py_XDECREF(value);
}

static void put_text(PyObject *fields, PyObject *key, pom_text_t text) {
    put(fields, key, PyUnicode_DecodeUTF8(text.data, (Py_ssize_t)text.size, "replace"));
}

/* A request inside another action is a pair of messages there. */
static void post(asgi_request_t *self, const pom_work_head_t *said, pom_text_t path,
                 PyObject *fields) {
    pom_work_head_t head = *said;
    if (path.size == 0) {
        path = (pom_text_t){.data = "asgi_task", .size = 9};
    }
    head.type = PyUnicode_DecodeUTF8(path.data, (Py_ssize_t)path.size, "replace");
    if (head.type != NULL && fields != NULL) {
        pom_work_message(&self->work, &head, fields, NULL);
    }
    PyErr_Clear();
    Py_XDECREF(head.type);
    Py_XDECREF(fields);
}

static void post_start(asgi_request_t *self, const pom_scope_t *seen) {
    PyObject *fields = PyDict_New();
    if (fields != NULL) {
        put_text(fields, s_method, seen->method);
        put_text(fields, s_host, seen->host);
        put_text(fields, s_script_name, seen->root_path);
        put_text(fields, s_path_info, seen->path);
        char query[POM_REQUEST_QUERY_MAX];
        size_t size = pom_scrub_query(seen->query.data, seen->query.size, query, sizeof query);
        put_text(fields, s_query_string, (pom_text_t){.data = query, .size = (uint32_t)size});
    }
    post(self, &(pom_work_head_t){.status = "started"}, seen->path, fields);
}

/* asgi_begin(scope): the request, anchored at the coroutine that calls; None where the application
 * runs bare. */
static PyObject *begin(PyObject *module, PyObject *scope) {
    (void)module;
    if (pom_engine_state == POM_ENGINE_STOPPED || !pom_scope_is_http(scope) ||
        !pom_work_engine_runs()) {
        Py_RETURN_NONE;
    }
    int64_t timed_ns = pom_meter_start(&begin_meter);
    asgi_request_t *self = new_request();
    if (self == NULL) {
        Py_RETURN_NONE;
    }
    // A server may have made this request's task in the context of the one before it. Only a scope
    // that has come through a request is part of it.
    bool around = pom_scope_task(scope) != NULL;
    if (around) {
        pom_work_begin(&self->work, &pom_asgi_kind);
    } else {
        pom_work_begin_on_stack(&self->work, &pom_asgi_kind);
    }
    pom_own_frame_t frame;
    if (self->work.kind == POM_WORK_NONE || !pom_work_caller(&frame)) {
        Py_DECREF(self);
        Py_RETURN_NONE;
    }
    self->profiled = self->work.kind != POM_WORK_SHED;
    if (self->profiled) {
        pom_scope_t seen;
        pom_scope_read(scope, &seen);
        self->scope = Py_NewRef(scope);
        self->head = seen.method.size == 4 && memcmp(seen.method.data, "HEAD", 4) == 0;
        self->since_ns = self->work.kind == POM_WORK_OUTERMOST ? self->work.action->start_ns : 0;
        if (self->work.kind == POM_WORK_OUTERMOST) {
            keep_scope(self->work.action, &seen);
        }
        if (settle_task_id(self, around, &seen) < 0) {
            pom_core_fault("asgi begin");
        }
        if (self->work.kind == POM_WORK_NESTED) {
            post_start(self, &seen);
        }
        pom_scope_release(&seen);
    }
    pom_work_attach(&self->work, &frame, POM_ANCHOR_INSIDE,
                    self->since_ns > 0 ? self->since_ns : pom_now_ns());
    if (self->work.kind == POM_WORK_OUTERMOST) {
        pom_context_enter((PyObject *)self);
    }
    if (self->profiled) {
        pom_meter_stop(&begin_meter, timed_ns);
        pom_work_charge(&self->work, begin_meter.cost_ns + end_meter.cost_ns + SHELL_COST_NS);
    } else {
        pom_work_charge(&self->work, SHED_COST_NS);
    }
    return (PyObject *)self;
}

/* observe(receive, send): what the application gets for them. The server's own where there is no
 * memory. */
static PyObject *request_observe(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "observe() takes 2 arguments");
        return NULL;
    }
    PyObject *receive = args[0], *send = args[1];
    if (!pom_exchange_observe(op, &receive, &send)) {
        pom_core_fault("asgi observe");
        return PyTuple_Pack(2, receive, send);
    }
    PyObject *both = PyTuple_Pack(2, receive, send);
    Py_DECREF(receive);
    Py_DECREF(send);
    return both;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Ends the stretch that has run up to now, on the account of what it was. */
static void settle_at(asgi_request_t *self, int64_t now_ns, int64_t *account) {
    *account += now_ns - self->since_ns;
    self->since_ns = now_ns;
}

static void settle(asgi_request_t *self, int64_t *account) {
    settle_at(self, pom_now_ns(), account);
}

static bool is(PyObject *text, const char *ascii, Py_ssize_t size) {
    return text != NULL && PyUnicode_Check(text) && PyUnicode_IS_COMPACT_ASCII(text) &&
           PyUnicode_GET_LENGTH(text) == size &&
           memcmp(PyUnicode_1BYTE_DATA(text), ascii, (size_t)size) == 0;
}

static int64_t number(PyObject *value) {
    if (value == NULL || !PyLong_Check(value)) {
        return 0;
    }
    int overflow;
    int64_t found = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow != 0 ? 0 : found; // too large to mean anything here
}

static int64_t size_of(PyObject *body) {
    if (body == NULL || PyBytes_Check(body)) {
        return body == NULL ? 0 : PyBytes_GET_SIZE(body);
    }
    Py_buffer buffer;
    if (PyObject_GetBuffer(body, &buffer, PyBUF_SIMPLE) < 0) {
        PyErr_Clear(); // the server's to complain about
        return 0;
    }
    int64_t size = buffer.len;
    PyBuffer_Release(&buffer);
    return size;
}

static void count_body(asgi_request_t *self, int64_t size, PyObject *more) {
    if (!self->head) {
        self->bytes += size;
        self->body = self->body || size > 0;
    }
    int is_more = more == NULL ? 0 : PyObject_IsTrue(more);
    PyErr_Clear();
    self->complete = self->complete || is_more <= 0;
}

static void note_body(asgi_request_t *self, PyObject *message) {
    // The type too: a message with that and a body has nothing else to look for.
    static PyObject **const keys[] = {&s_body, &s_type, &s_more_body};
    static pom_dict_place_t places[] = {1, 0, 2};
    PyObject *found[3];
    pom_scope_pick(message, keys, places, 3, found);
    // Held: to ask a body for its size may run code of its class (__buffer__, from 3.12 on), which
    // may empty the message.
    PyObject *body = Py_XNewRef(found[0]), *more = Py_XNewRef(found[2]);
    count_body(self, size_of(body), more);
    Py_XDECREF(body);
    Py_XDECREF(more);
}

static void note(asgi_request_t *self, PyObject *message) {
    static PyObject **const type_key[] = {&s_type}, **const status_key[] = {&s_status};
    static pom_dict_place_t type_place[] = {0}, status_place[] = {1};
    PyObject *type, *status;
    if (!PyDict_Check(message)) {
        return;
    }
    pom_scope_pick(message, type_key, type_place, 1, &type);
    if (is(type, "http.response.body", 18)) {
        note_body(self, message);
    } else if (is(type, "http.response.start", 19)) {
        pom_scope_pick(message, status_key, status_place, 1, &status);
        self->status = (int32_t)number(status);
        self->started = true;
    } else if (is(type, "http.response.zerocopysend", 26)) {
        count_body(self, number(pom_scope_get(message, s_count)),
                   pom_scope_get(message, s_more_body));
    } else if (is(type, "http.response.pathsend", 22)) {
        self->complete = true;
    }
}

bool pom_asgi_is_open(PyObject *request) {
    return ((asgi_request_t *)request)->work.kind != POM_WORK_NONE;
}

void pom_asgi_sending(PyObject *request, PyObject *message) {
    asgi_request_t *self = (asgi_request_t *)request;
    if (self->work.kind == POM_WORK_NONE) {
        return;
    }
    if (self->waits++ == 0) {
        settle(self, &self->phase_ns[self->phase]);
    }
    note(self, message);
    pom_work_charge(&self->work, MESSAGE_COST_NS);
}

void pom_asgi_sent(PyObject *request, bool broken) {
    asgi_request_t *self = (asgi_request_t *)request;
    if (self->work.kind == POM_WORK_NONE || self->waits == 0 || --self->waits > 0) {
        return;
    }
    settle(self, &self->client_ns);
    self->phase = self->complete  ? PHASE_CLOSE
                  : self->body    ? PHASE_BODY
                  : self->started ? PHASE_FIRST_BYTE
                                  : PHASE_APP;
    self->gone = self->gone || broken;
}

void pom_asgi_received(PyObject *request, int64_t since_ns, PyObject *message) {
    asgi_request_t *self = (asgi_request_t *)request;
    if (self->work.kind == POM_WORK_NONE || !PyDict_Check(message)) {
        return;
    }
    PyObject *type = pom_scope_get(message, s_type);
    if (is(type, "http.disconnect", 15)) {
        // After the response every client is "gone". One that waits for this beside its work has
        // not waited for a client.
        self->gone = self->gone || !self->complete;
    } else if (is(type, "http.request", 12) && self->waits == 0) {
        int64_t now_ns = pom_now_ns();
        if (since_ns < self->since_ns) {
            since_ns = self->since_ns; // a send() in between has been dealt out already
        }
        self->phase_ns[self->phase] += since_ns - self->since_ns;
        self->client_ns += now_ns - since_ns;
        self->since_ns = now_ns;
    }
    pom_work_charge(&self->work, MESSAGE_COST_NS);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Cancellation comes as what is no Exception, in asyncio, in trio and when a coroutine is
 * closed. */
static bool is_cancellation(PyObject *error) {
    return !PyErr_GivenExceptionMatches(error, PyExc_Exception) &&
           !PyErr_GivenExceptionMatches(error, PyExc_BaseExceptionGroup) &&
           !PyErr_GivenExceptionMatches(error, PyExc_SystemExit) &&
           !PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt);
}

static pom_outcome_t outcome_of(const asgi_request_t *self, PyObject *error) {
    if (error == Py_None) {
        return self->gone || (self->started && !self->complete) ? POM_OUTCOME_ABORTED
                                                                : POM_OUTCOME_SUCCEEDED;
    }
    return self->gone || is_cancellation(error) ? POM_OUTCOME_ABORTED : POM_OUTCOME_FAILED;
}

static void post_end(asgi_request_t *self, pom_outcome_t outcome, PyObject *error,
                     pom_text_t route) {
    pom_scope_t seen;
    pom_scope_read(self->scope, &seen);
    PyObject *fields = PyDict_New();
    if (fields != NULL) {
        put(fields, s_status, PyLong_FromLong(self->status));
        put(fields, s_bytes, PyLong_FromLongLong(self->bytes));
        if (route.size > 0) {
            put_text(fields, s_route, route);
        }
    }
    bool failed = outcome == POM_OUTCOME_FAILED;
    bool said = failed || outcome == POM_OUTCOME_SUCCEEDED;
    post(self,
         &(pom_work_head_t){.status = failed ? "failed" : "succeeded",
                            .outcome = said ? NULL : pom_outcome_names[outcome],
                            .exception = failed ? error : NULL},
         seen.path, fields);
    pom_scope_release(&seen);
}

static void fill(asgi_request_t *self, pom_request_t *data, pom_text_t route) {
    data->route = keep(self->work.action, route);
    data->status = self->status;
    data->bytes = self->bytes;
    data->app_ns = self->phase_ns[PHASE_APP];
    data->first_byte_ns = self->phase_ns[PHASE_FIRST_BYTE];
    data->body_ns = self->phase_ns[PHASE_BODY];
    data->close_ns = self->phase_ns[PHASE_CLOSE];
    data->client_ns = self->client_ns;
}

/* finish(error): the application has returned, None, or this left it. */
static PyObject *request_finish(PyObject *op, PyObject *error) {
    asgi_request_t *self = (asgi_request_t *)op;
    char name[ROUTE_MAX];
    pom_text_t route = {.data = name};
    if (self->work.kind == POM_WORK_NONE) {
        Py_RETURN_NONE;
    }
    int64_t timed_ns = pom_meter_start(&end_meter);
    pom_outcome_t outcome = outcome_of(self, error);
    int64_t now_ns =
        pom_work_detach(&self->work); // what follows is ours, and one look at the clock is enough
    if (self->scope != NULL) {
        settle_at(self, now_ns, self->waits > 0 ? &self->client_ns : &self->phase_ns[self->phase]);
        PyObject *scope = Py_NewRef(self->scope); // whoever is asked for the route may finish this
        route.size = (uint32_t)pom_scope_route(scope, name, sizeof name);
        Py_DECREF(scope);
    }
    // Asking for the route may have run a framework's code, and in it the end of the engine.
    pom_request_t *data = data_of(self);
    if (data != NULL) {
        fill(self, data, route);
        self->work.action->end_ns = now_ns;
    } else if (self->work.kind == POM_WORK_NESTED && self->scope != NULL) {
        post_end(self, outcome, error, route);
    }
    pom_work_end(&self->work, outcome, outcome == POM_OUTCOME_FAILED ? error : NULL);
    Py_CLEAR(self->scope);
    pom_meter_stop(&end_meter, timed_ns);
    Py_RETURN_NONE;
}

/* ---- type ------------------------------------------------------------------------------------ */

static int request_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((asgi_request_t *)op)->scope);
    return 0;
}

static int request_clear(PyObject *op) {
    Py_CLEAR(((asgi_request_t *)op)->scope);
    return 0;
}

static void request_dealloc(PyObject *op) {
    asgi_request_t *self = (asgi_request_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    pom_work_end(&self->work, POM_OUTCOME_LOST, NULL); // no-op when it has ended
    (void)request_clear(op);
    if (pooled < POOL_MAX) {
        pool[pooled++] = self;
    } else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(type);
}

static PyMethodDef request_methods[] = {
    {"observe", (PyCFunction)(void (*)(void))request_observe, METH_FASTCALL,
     "observe(receive, send): what the application gets for them."},
    {"finish", request_finish, METH_O, "The application has returned (None), or raised this."},
    {NULL, NULL, 0, NULL}};
static PyMemberDef request_members[] = {
    {"profiled", T_BOOL, offsetof(asgi_request_t, profiled), READONLY,
     "False: it was not admitted, and there is nothing to observe."},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, "An HTTP request of an ASGI application, while it runs."},
    {Py_tp_methods, request_methods},
    {Py_tp_members, request_members},
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {Py_tp_dealloc, request_dealloc},
    {0, NULL}};
static PyType_Spec request_spec = {.name = "profilomatic._core.AsgiRequest",
                                   .basicsize = sizeof(asgi_request_t),
                                   .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
                                            Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                   .slots = request_slots};

static PyMethodDef functions[] = {
    {"asgi_begin", begin, METH_O,
     "For profilomatic.asgi: the request of this scope, anchored at the calling coroutine; None "
     "where "
     "nothing is recorded."},
    {NULL, NULL, 0, NULL}};

int pom_asgi_init(PyObject *module) {
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {{&s_type, "type"},           {&s_status, "status"},
                 {&s_body, "body"},           {&s_more_body, "more_body"},
                 {&s_count, "count"},         {&s_method, "method"},
                 {&s_host, "host"},           {&s_script_name, "script_name"},
                 {&s_path_info, "path_info"}, {&s_query_string, "query_string"},
                 {&s_route, "route"},         {&s_bytes, "bytes"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        *names[i].place = PyUnicode_InternFromString(names[i].text);
        if (*names[i].place == NULL) {
            return -1;
        }
    }
    request_type = (PyTypeObject *)PyType_FromSpec(&request_spec);
    return request_type == NULL || pom_scope_init() < 0 || pom_exchange_init() < 0 ||
                   pom_context_init(request_type, offsetof(asgi_request_t, work)) < 0
               ? -1
               : PyModule_AddFunctions(module, functions);
}
