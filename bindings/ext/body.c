/*
 * The body iterator: hands on what the application's iterable gives, and knows when the request is over.
 *
 * One chunk in, one chunk out, the same object; nothing is read ahead, joined or dropped. Two types that differ in one thing: the
 * sized one has __len__, and is used when the iterable has it, since servers derive a Content-Length from length 1 and
 * must not see a length that was not there.
 *
 * The action is attached around each next() and around close(), on whatever thread they come, with that call's caller as its
 * anchor: a slow client's time between two chunks belongs to nobody's line.
 *
 *     exhausted, then closed        succeeded
 *     an exception out of next()    failed (GeneratorExit: aborted)
 *     closed before its end         aborted; succeeded when never begun, for HEAD, or at its Content-Length
 *     close() raises                failed
 *     dropped without close()       lost
 */
#include "bindings/ext/request_state.h"

#include "base/clock.h"
#include "bindings/ext/core.h"

typedef struct body_s {
    PyObject_HEAD
    pom_request_state_t *request;
    PyObject *iterable; /* its close() is the one that counts */
    PyObject *iterator; /* NULL before the first next() */
    bool begun, exhausted, closed;
    pom_outcome_t outcome; /* of what has been seen so far */
    PyObject *weakrefs;
} body_t;

static PyTypeObject *body_type, *sized_body_type;
static PyObject *s_close;

/* The exception that is pending ends the request; it stays pending. */
static void fail(body_t *self) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    self->outcome = pom_request_outcome_of(type);
    pom_request_finish(self->request, self->outcome,
                       self->outcome == POM_OUTCOME_FAILED ? value : NULL);
    PyErr_Restore(type, value, traceback);
}

static void spend(body_t *self, int64_t took_ns, int64_t waited_ns) {
    pom_request_t *data = pom_request_data(self->request);
    if (data != NULL) {
        *(self->request->first_byte ? &data->body_ns : &data->first_byte_ns) += took_ns;
        data->client_ns += waited_ns;
    }
}

static int64_t since_left(const body_t *self, int64_t now_ns) {
    return self->request->left_ns > 0 ? now_ns - self->request->left_ns : 0;
}

static PyObject *body_next(PyObject *op) {
    body_t *self = (body_t *)op;
    if (self->iterator == NULL && self->exhausted) {
        return NULL;
    }
    int64_t now_ns = pom_now_ns();
    int64_t waited_ns = since_left(self, now_ns);
    self->begun = true;
    pom_request_enter(self->request);
    if (self->iterator == NULL) {
        PyObject *fresh = PyObject_GetIter(self->iterable); // its __iter__ may come back here
        Py_XSETREF(self->iterator, fresh);
    }
    PyObject *iterator = Py_XNewRef(self->iterator); // a close() on another thread may drop ours
    PyObject *chunk = iterator == NULL ? NULL : Py_TYPE(iterator)->tp_iternext(iterator);
    Py_XDECREF(iterator);
    int64_t took_ns = pom_request_leave(self->request, now_ns);
    spend(self, took_ns, waited_ns);
    if (chunk != NULL) {
        pom_request_count(self->request, chunk);
        return chunk;
    }
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_StopIteration)) {
        fail(self);
    } else {
        self->exhausted = true; // the request is over when it is closed, or dropped
    }
    return NULL;
}

static pom_outcome_t outcome_at_close(body_t *self) {
    return self->exhausted || !self->begun || pom_request_is_complete(self->request)
               ? POM_OUTCOME_SUCCEEDED
               : POM_OUTCOME_ABORTED;
}

/* The iterable's close(), if it has one; NULL with its exception. */
static PyObject *close_iterable(body_t *self) {
    PyObject *close = PyObject_GetAttr(self->iterable, s_close);
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

static PyObject *body_close(PyObject *op, PyObject *unused) {
    (void)unused;
    body_t *self = (body_t *)op;
    if (self->closed) {
        Py_RETURN_NONE;
    }
    self->closed = true;
    int64_t now_ns = pom_now_ns();
    pom_outcome_t outcome = outcome_at_close(self);
    spend(self, 0, since_left(self, now_ns));
    pom_request_enter(self->request);
    PyObject *result = close_iterable(self);
    int64_t took_ns = pom_request_leave(self->request, now_ns);
    pom_request_t *data = pom_request_data(self->request);
    if (data != NULL) {
        data->close_ns = took_ns;
    }
    if (result == NULL) {
        fail(self);
    } else {
        pom_request_finish(self->request, outcome, NULL);
    }
    return result;
}

static Py_ssize_t body_length(PyObject *op) {
    return PyObject_Size(((body_t *)op)->iterable);
}

/* Iterating again starts where the application's own object would: an iterator goes on, a container begins anew. */
static PyObject *body_iter(PyObject *op) {
    return Py_NewRef(op);
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
        // Not finished here: a generator has yet to call start_response, which is the request. It ends when that is dropped.
        pom_core_fault("wsgi body");
        return iterable;
    }
    self->request = (pom_request_state_t *)Py_NewRef(request);
    self->iterable = iterable;
    self->iterator = NULL;
    self->begun = self->exhausted = self->closed = false;
    self->outcome = POM_OUTCOME_SUCCEEDED;
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
    Py_VISIT(self->iterator);
    return 0;
}

static int body_clear(PyObject *op) {
    body_t *self = (body_t *)op;
    Py_CLEAR(self->iterator);
    Py_SETREF(self->iterable, Py_NewRef(Py_None)); // next() and close() count on there being one
    return 0; // what a cycle can hang on in the request, that clears itself
}

static void body_finalize(PyObject *op) {
    body_t *self = (body_t *)op;
    // An exhausted body whose server has no use for close() has been served all the same.
    pom_request_finish(self->request, self->exhausted ? POM_OUTCOME_SUCCEEDED : POM_OUTCOME_LOST,
                       NULL);
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
    Py_XDECREF(self->iterator);
    Py_DECREF(self->iterable);
    Py_DECREF((PyObject *)self->request);
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
        {Py_tp_methods, body_methods}, {Py_tp_members, body_members},                              \
        {Py_tp_traverse, body_traverse}, {Py_tp_clear, body_clear},                                \
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

int pom_body_init(PyObject *module) {
    (void)module; // the types are reached through wrap() only
    s_close = PyUnicode_InternFromString("close");
    body_type = (PyTypeObject *)PyType_FromSpec(&body_spec);
    sized_body_type = (PyTypeObject *)PyType_FromSpec(&sized_body_spec);
    return s_close == NULL || body_type == NULL || sized_body_type == NULL ? -1 : 0;
}
