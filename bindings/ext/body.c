/*
 * The body iterator: hands on what the application's iterable gives, and knows when the request is
 * over.
 *
 * One chunk in, one chunk out, the same object; nothing is read ahead, joined or dropped. Two types
 * that differ in one thing: the sized one has __len__, and is used when the iterable has it, since
 * servers derive a Content-Length from length 1 and must not see a length that was not there.
 *
 * The action is attached around iter(), each next() and close(), on whatever thread they come, with
 * that call's caller as its anchor: a slow client's time between two chunks belongs to nobody's
 * line.
 *
 *     exhausted, then closed        succeeded
 *     an exception out of next()    failed (GeneratorExit: aborted)
 *     closed before its end         aborted; succeeded when never begun, for HEAD, or at its
 *                                   Content-Length
 *     close() raises                failed
 *     dropped without close()       lost
 */
#include "bindings/ext/request_state.h"

#include "base/clock.h"
#include "bindings/ext/core.h"
#include "bindings/ext/meter.h"

typedef struct body_s {
    PyObject_HEAD
    pom_request_state_t *request; /* NULL once closed: what comes after that passes through */
    PyObject *iterable;           /* its close() is the one that counts */
    bool begun, exhausted, closed;
    PyObject *weakrefs;
} body_t;

/* What iter() of a body gives whose iterator is another object than its iterable. Keeps the body,
 * so that the request ends with the later of the two. */
typedef struct chunks_s {
    PyObject_HEAD
    body_t *body;
    PyObject *iterator;
} chunks_t;

static PyTypeObject *body_type, *sized_body_type, *chunks_type;
static PyObject *s_close;

static pom_meter_t next_meter = {.cost_ns = 150}, close_meter = {.cost_ns = 400};

static pom_request_state_t *hold_request(body_t *self) {
    return (pom_request_state_t *)Py_XNewRef(self->request);
}

static void spend(pom_request_state_t *request, int64_t took_ns, int64_t waited_ns) {
    pom_request_t *data = pom_request_data(request);
    if (data != NULL) {
        *(request->first_byte ? &data->body_ns : &data->first_byte_ns) += took_ns;
        data->client_ns += waited_ns;
    }
}

static int64_t since_left(const pom_request_state_t *request, int64_t now_ns) {
    return request->left_ns > 0 ? now_ns - request->left_ns : 0;
}

/* One stretch of the application's code, and what we spend before and after it. */
typedef struct stretch_s {
    pom_meter_t *meter;
    bool timed;
    int64_t start_ns;
    int64_t before_ns; /* spent before it */
    int64_t back_ns;   /* when it was over */
} stretch_t;

static stretch_t stretch_begin(pom_request_state_t *request, pom_meter_t *meter) {
    stretch_t stretch = {
        .meter = meter, .timed = meter->turn++ % POM_METER_EVERY == 0, .start_ns = pom_now_ns()};
    pom_request_enter(request, stretch.start_ns);
    pom_work_charge(&request->work, meter->cost_ns);
    stretch.before_ns = stretch.timed ? pom_now_ns() - stretch.start_ns : 0;
    return stretch;
}

/* How long it took. */
static int64_t stretch_leave(stretch_t *stretch, pom_request_state_t *request) {
    stretch->back_ns = stretch->timed ? pom_now_ns() : 0;
    return pom_request_leave(request, stretch->start_ns);
}

static void stretch_end(const stretch_t *stretch) {
    if (stretch->timed) {
        pom_meter_learn(stretch->meter, stretch->before_ns + pom_now_ns() - stretch->back_ns);
    }
}

/* The next chunk of an iterator of the body's: the iterable itself or what its iter() gave (both
 * borrowed). */
static PyObject *next_chunk(body_t *self, PyObject *iterator) {
    iternextfunc next = Py_TYPE(iterator)->tp_iternext;
    pom_request_state_t *request = hold_request(self);
    if (request == NULL) {
        return next(iterator);
    }
    stretch_t stretch = stretch_begin(request, &next_meter);
    int64_t waited_ns = since_left(request, stretch.start_ns);
    self->begun = true;
    PyObject *chunk = next(iterator);
    spend(request, stretch_leave(&stretch, request), waited_ns);
    stretch_end(&stretch);
    if (chunk != NULL) {
        pom_request_count(request, chunk);
    } else if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_StopIteration)) {
        pom_request_finish_raised(request);
    } else {
        self->exhausted = true; // the request is over when it is closed, or dropped
    }
    Py_DECREF(request);
    return chunk;
}

/* next() of the body itself, for those that are their own iterators. */
static PyObject *body_next(PyObject *op) {
    body_t *self = (body_t *)op;
    if (!PyIter_Check(self->iterable)) {
        return PyErr_Format(PyExc_TypeError, "'%.200s' object is not an iterator",
                            Py_TYPE(self->iterable)->tp_name);
    }
    PyObject *iterable = Py_NewRef(self->iterable); // the collector may take it from us
    PyObject *chunk = next_chunk(self, iterable);
    Py_DECREF(iterable);
    return chunk;
}

static PyObject *get_iterator(body_t *self, PyObject *of) {
    pom_request_state_t *request = hold_request(self);
    if (request == NULL) {
        return PyObject_GetIter(of);
    }
    stretch_t stretch = stretch_begin(request, &next_meter);
    int64_t waited_ns = since_left(request, stretch.start_ns);
    PyObject *iterator = PyObject_GetIter(of);
    spend(request, stretch_leave(&stretch, request), waited_ns);
    stretch_end(&stretch);
    if (iterator == NULL) {
        pom_request_finish_raised(request);
    }
    Py_DECREF(request);
    return iterator;
}

/* Calls iter() of an object of the application's whenever ours (op) is asked for its own, and no
 * other time: it may fail, or begin anew at each. Itself gives ourselves. */
static PyObject *iterate(body_t *self, PyObject *of, PyObject *op) {
    if (Py_TYPE(of)->tp_iter == PyObject_SelfIter) {
        return Py_NewRef(op); // a generator: none of the application's code runs
    }
    PyObject *iterator = get_iterator(self, of);
    if (iterator == NULL) {
        return NULL;
    }
    if (iterator == of) {
        Py_DECREF(iterator);
        return Py_NewRef(op);
    }
    chunks_t *chunks = PyObject_GC_New(chunks_t, chunks_type);
    if (chunks == NULL) {
        pom_core_fault("wsgi body");
        return iterator;
    }
    chunks->body = (body_t *)Py_NewRef((PyObject *)self);
    chunks->iterator = iterator;
    PyObject_GC_Track(chunks);
    return (PyObject *)chunks;
}

static PyObject *body_iter(PyObject *op) {
    body_t *self = (body_t *)op;
    PyObject *iterable = Py_NewRef(self->iterable); // the collector may take it from us
    PyObject *iterator = iterate(self, iterable, op);
    Py_DECREF(iterable);
    return iterator;
}

static PyObject *chunks_iter(PyObject *op) {
    chunks_t *self = (chunks_t *)op;
    return iterate(self->body, self->iterator, op);
}

static PyObject *chunks_next(PyObject *op) {
    chunks_t *self = (chunks_t *)op;
    return next_chunk(self->body, self->iterator);
}

static pom_outcome_t outcome_at_close(body_t *self, pom_request_state_t *request) {
    return self->exhausted || !self->begun || pom_request_is_complete(request)
               ? POM_OUTCOME_SUCCEEDED
               : POM_OUTCOME_ABORTED;
}

/* The iterable's close(), if it has one; NULL with its exception. */
static PyObject *close_iterable(body_t *self) {
    PyObject *iterable = Py_NewRef(self->iterable); // the collector may take it from us
    PyObject *close = PyObject_GetAttr(iterable, s_close);
    Py_DECREF(iterable);
    if (close == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return NULL;
        }
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    PyObject *result = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    return result;
}

static PyObject *close_request(body_t *self, pom_request_state_t *request) {
    pom_outcome_t outcome = outcome_at_close(self, request);
    stretch_t stretch = stretch_begin(request, &close_meter);
    spend(request, 0, since_left(request, stretch.start_ns));
    PyObject *result = close_iterable(self);
    int64_t took_ns = stretch_leave(&stretch, request);
    pom_request_t *data = pom_request_data(request);
    if (data != NULL) {
        data->close_ns = took_ns;
    }
    if (result == NULL) {
        pom_request_finish_raised(request);
    } else {
        pom_request_finish(request, outcome, NULL);
    }
    stretch_end(&stretch);
    return result;
}

static PyObject *body_close(PyObject *op, PyObject *unused) {
    (void)unused;
    body_t *self = (body_t *)op;
    if (self->closed) {
        Py_RETURN_NONE;
    }
    self->closed = true;
    pom_request_state_t *request = hold_request(self);
    PyObject *result = close_request(self, request);
    Py_DECREF(request);
    // A server may keep the body, and the request has the server's start_response: no cycle is left
    // behind.
    Py_CLEAR(self->request);
    return result;
}

static Py_ssize_t body_length(PyObject *op) {
    return PyObject_Size(((body_t *)op)->iterable);
}

/* What else somebody looks for, such as the status_code of a framework's response, is the
 * iterable's to answer. */
static PyObject *body_getattr(PyObject *op, PyObject *name) {
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        PyObject *iterable = Py_NewRef(((body_t *)op)->iterable);
        value = PyObject_GetAttr(iterable, name);
        Py_DECREF(iterable);
    }
    return value;
}

static PyObject *body_repr(PyObject *op) {
    return PyUnicode_FromFormat("<profilomatic body of %R>", ((body_t *)op)->iterable);
}

PyObject *pom_body_wrap(pom_request_state_t *request, PyObject *iterable) {
    PyTypeObject *of = Py_TYPE(iterable);
    bool sized = (of->tp_as_sequence != NULL && of->tp_as_sequence->sq_length != NULL) ||
                 (of->tp_as_mapping != NULL && of->tp_as_mapping->mp_length != NULL);
    body_t *self = PyObject_GC_New(body_t, sized ? sized_body_type : body_type);
    if (self == NULL) {
        // Not finished here: a generator has yet to call start_response, which is the request. It
        // ends when that is dropped.
        pom_core_fault("wsgi body");
        return iterable;
    }
    self->request = (pom_request_state_t *)Py_NewRef(request);
    self->iterable = iterable;
    self->begun = self->exhausted = self->closed = false;
    self->weakrefs = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* ---- type ------------------------------------------------------------------------------------ */

static int body_traverse(PyObject *op, visitproc visit, void *arg) {
    body_t *self = (body_t *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->request);
    Py_VISIT(self->iterable);
    return 0;
}

static int body_clear(PyObject *op) {
    body_t *self = (body_t *)op;
    Py_SETREF(self->iterable, Py_NewRef(Py_None)); // next() and close() count on there being one
    return 0; // what a cycle can hang on in the request, that clears itself
}

static void body_finalize(PyObject *op) {
    body_t *self = (body_t *)op;
    // An exhausted body whose server has no use for close() has been served all the same.
    // Held: the end may run a framework's code, which closes this very body.
    pom_request_state_t *request = hold_request(self);
    if (request != NULL) {
        int64_t now_ns = pom_now_ns();
        spend(request, 0, since_left(request, now_ns));
        request->left_ns = now_ns; // it ends now
        pom_request_finish(request, self->exhausted ? POM_OUTCOME_SUCCEEDED : POM_OUTCOME_LOST,
                           NULL);
        Py_DECREF(request);
    }
}

static void body_dealloc(PyObject *op) {
    body_t *self = (body_t *)op;
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; // brought back to life
    }
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    Py_DECREF(self->iterable);
    Py_XDECREF((PyObject *)self->request);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static int chunks_traverse(PyObject *op, visitproc visit, void *arg) {
    chunks_t *self = (chunks_t *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->body);
    Py_VISIT(self->iterator);
    return 0;
}

static void chunks_dealloc(PyObject *op) {
    chunks_t *self = (chunks_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_DECREF(self->iterator);
    Py_DECREF((PyObject *)self->body);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMethodDef body_methods[] = {
    {"close", body_close, METH_NOARGS, "Closes the application's iterable and ends the request."},
    {NULL, NULL, 0, NULL}};
static PyMemberDef body_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(body_t, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

#define COMMON_SLOTS                                                                               \
    {Py_tp_iter, body_iter}, {Py_tp_iternext, body_next}, {Py_tp_repr, body_repr},                 \
        {Py_tp_getattro, body_getattr}, {Py_tp_methods, body_methods},                             \
        {Py_tp_members, body_members}, {Py_tp_traverse, body_traverse}, {Py_tp_clear, body_clear}, \
        {Py_tp_finalize, body_finalize}, {Py_tp_dealloc, body_dealloc}, {                          \
        Py_tp_doc, "The body of a profiled request."                                               \
    }

static PyType_Slot body_slots[] = {COMMON_SLOTS, {0, NULL}};
static PyType_Slot sized_body_slots[] = {COMMON_SLOTS, {Py_sq_length, body_length}, {0, NULL}};

#define BODY_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION)
static PyType_Spec body_spec = {.name = "profilomatic._core.Body",
                                .basicsize = sizeof(body_t),
                                .flags = BODY_FLAGS,
                                .slots = body_slots};
static PyType_Spec sized_body_spec = {.name = "profilomatic._core.SizedBody",
                                      .basicsize = sizeof(body_t),
                                      .flags = BODY_FLAGS,
                                      .slots = sized_body_slots};

/* No tp_clear: what it holds is fixed, and the body and the application's objects break any cycle
 * that it is in. */
static PyType_Slot chunks_slots[] = {{Py_tp_iter, chunks_iter},
                                     {Py_tp_iternext, chunks_next},
                                     {Py_tp_traverse, chunks_traverse},
                                     {Py_tp_dealloc, chunks_dealloc},
                                     {Py_tp_doc, "The chunks of a profiled request's body."},
                                     {0, NULL}};
static PyType_Spec chunks_spec = {.name = "profilomatic._core.Chunks",
                                  .basicsize = sizeof(chunks_t),
                                  .flags = BODY_FLAGS,
                                  .slots = chunks_slots};

int pom_body_init(PyObject *module) {
    (void)module; // the types are reached through wrap() only
    s_close = PyUnicode_InternFromString("close");
    body_type = (PyTypeObject *)PyType_FromSpec(&body_spec);
    sized_body_type = (PyTypeObject *)PyType_FromSpec(&sized_body_spec);
    chunks_type = (PyTypeObject *)PyType_FromSpec(&chunks_spec);
    return s_close == NULL || body_type == NULL || sized_body_type == NULL || chunks_type == NULL
               ? -1
               : 0;
}
