/*
 * The WSGI wrapper: one action per request around any WSGI callable.
 *
 *     server --(environ, start_response)--> Wrapped --(environ, Request)--> application
 *                                                                    |
 *     server <------- list, tuple: the same object, request over ----+
 *     server <------- anything else: inside a body iterator (body.c) -+
 *
 * The path, as short as it can be: read the environ (bytes are copied, nothing is interpreted), ask
 * the registry, write the task id back, attach, call, detach, end. What cannot be recorded runs
 * bare, with the very arguments it would have got.
 */
#include "bindings/ext/request_state.h"

#include <string.h>

#include "bindings/engine/engine.h"
#include "bindings/ext/core.h"
#include "bindings/ext/meter.h"

typedef struct wrapped_s {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *app;
    PyObject *weakrefs;
} wrapped_t;

static PyTypeObject *wrapped_type;

/* ---- the call -------------------------------------------------------------------------------- */

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
    pom_request_restore_file_wrapper(self);
    PyTypeObject *type = Py_TYPE(result);
    bool iterable = type->tp_iter != NULL ||
                    (type->tp_as_sequence != NULL && type->tp_as_sequence->sq_item != NULL);
    if (self->work.kind == POM_WORK_SHED || !iterable || pom_request_is_file_body(self, result)) {
        pom_request_finish(self, POM_OUTCOME_SUCCEEDED, NULL);
        return result;
    }
    return pom_body_wrap(self, result);
}

/* Our arguments for the server's: the last one replaced. A method's self may stand before the
 * two. */
static PyObject *call_app(PyObject *app, PyObject *const *args, Py_ssize_t nargs,
                          pom_request_state_t *request) {
    PyObject *passed[4] = {NULL}; // a free place before the first, for bound methods
    memcpy(passed + 1, args, (size_t)(nargs - 1) * sizeof *args);
    passed[nargs] = (PyObject *)request;
    return PyObject_Vectorcall(app, passed + 1, (size_t)nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               NULL);
}

/* What we do before the application is called, and after; for a refused request all of it. */
static pom_meter_t begin_meter = {.cost_ns = 500}, end_meter = {.cost_ns = 400},
                   shed_meter = {.cost_ns = 80};

static PyObject *call_profiled(PyObject *app, PyObject *const *args, Py_ssize_t nargs,
                               pom_request_state_t *request, int64_t timed_ns) {
    // Of a nested one there is no start: its phases are nobody's, its messages bill themselves. To
    // begin one may have run the user's code, and in it the end of the engine: there is no action
    // then.
    bool outermost = pom_request_data(request) != NULL;
    int64_t start_ns = outermost ? request->work.action->start_ns : 0;
    pom_request_enter(request, start_ns);
    if (outermost) {
        pom_meter_stop(&begin_meter, timed_ns);
        pom_work_charge(&request->work, begin_meter.cost_ns + end_meter.cost_ns);
    }
    PyObject *result = call_app(app, args, nargs, request);
    timed_ns = outermost ? pom_meter_start(&end_meter) : 0;
    int64_t took_ns = pom_request_leave(request, start_ns);
    pom_request_t *data = pom_request_data(request);
    if (data != NULL) {
        data->app_ns = took_ns;
    }
    if (result == NULL) {
        pom_request_finish_raised(request);
    } else {
        result = respond(request, result);
    }
    Py_DECREF(request);
    pom_meter_stop(&end_meter, timed_ns);
    return result;
}

static PyObject *call_shed(PyObject *app, PyObject *const *args, size_t nargsf,
                           pom_request_state_t *request, int64_t timed_ns) {
    pom_request_enter(request, 0);
    pom_meter_stop(&shed_meter, timed_ns);
    pom_work_charge(&request->work, shed_meter.cost_ns);
    PyObject *result = PyObject_Vectorcall(app, args, nargsf, NULL);
    (void)pom_request_leave(request, 0);
    if (result == NULL) {
        pom_request_finish_raised(request);
    } else {
        result = respond(request, result);
    }
    Py_DECREF(request);
    return result;
}

static PyObject *wrapped_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                              PyObject *names) {
    PyObject *app = ((wrapped_t *)callable)->app;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (pom_engine_state == POM_ENGINE_STOPPED || names != NULL || nargs < 2 || nargs > 3) {
        return PyObject_Vectorcall(app, args, nargsf, names);
    }
    int64_t timed_ns = pom_meter_start(&begin_meter);
    pom_request_state_t *request = pom_request_begin(args[nargs - 2], args[nargs - 1]);
    if (request == NULL) {
        return PyObject_Vectorcall(app, args, nargsf, names);
    }
    return request->work.kind == POM_WORK_SHED ? call_shed(app, args, nargsf, request, timed_ns)
                                               : call_profiled(app, args, nargs, request, timed_ns);
}

static bool is_wrapped(PyObject *app) {
    return Py_IS_TYPE(app, wrapped_type) ||
           (PyMethod_Check(app) && Py_IS_TYPE(PyMethod_GET_FUNCTION(app), wrapped_type));
}

static PyObject *wrap(PyObject *module, PyObject *app) {
    (void)module;
    if (is_wrapped(app)) {
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

/* Also deletes. Users and frameworks set up `app` after it was wrapped: what is not ours reaches
 * the application, as if bare. */
static int wrapped_setattr(PyObject *op, PyObject *name, PyObject *value) {
    PyObject *own = PyObject_GenericGetAttr(op, name); // there is no dict: of the type
    if (own != NULL) {
        Py_DECREF(own);
        return PyObject_GenericSetAttr(op, name, value);
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear();
    return PyObject_SetAttr(((wrapped_t *)op)->app, name, value);
}

/* As a class attribute it is what the application would be: a function becomes a method, an object
 * stays as it is. */
static PyObject *wrapped_get(PyObject *op, PyObject *object, PyObject *type) {
    PyObject *app = ((wrapped_t *)op)->app;
    descrgetfunc get = Py_TYPE(app)->tp_descr_get;
    PyObject *bound = get == NULL ? Py_NewRef(app) : get(app, object, type);
    PyObject *ours = NULL;
    if (bound == app) {
        ours = Py_NewRef(op);
    } else if (bound != NULL && PyMethod_Check(bound) && PyMethod_GET_FUNCTION(bound) == app) {
        ours = PyMethod_New(op, PyMethod_GET_SELF(bound)); // equal each time, as methods are
    } else if (bound != NULL) {
        ours = PyCallable_Check(bound) ? wrap(NULL, bound) : Py_NewRef(bound);
    }
    Py_XDECREF(bound);
    return ours;
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
    Py_SETREF(((wrapped_t *)op)->app, Py_NewRef(Py_None)); // never without one
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

/* The application's: inspect finds none in a callable of C, and some tell ASGI from WSGI by the
 * number of parameters. */
static PyObject *wrapped_signature(PyObject *op, void *closure) {
    (void)closure;
    PyObject *inspect = PyImport_ImportModule("inspect");
    PyObject *signature =
        inspect == NULL ? NULL
                        : PyObject_CallMethod(inspect, "signature", "O", ((wrapped_t *)op)->app);
    Py_XDECREF(inspect);
    if (signature == NULL) {
        PyErr_SetString(PyExc_AttributeError, "__signature__");
    }
    return signature;
}

static PyGetSetDef wrapped_getset[] = {
    {"__signature__", wrapped_signature, NULL, "The application's signature.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

/* The rules are those of the wrappers in Python. */
static PyObject *wrapped_reduce(PyObject *op, PyObject *unused) {
    (void)unused;
    PyObject *rules = PyImport_ImportModule("profilomatic._stand_in");
    PyObject *reduced =
        rules == NULL ? NULL : PyObject_CallMethod(rules, "reduced", "Os", op, "wsgi");
    Py_XDECREF(rules);
    return reduced;
}

static PyMethodDef wrapped_methods[] = {{"__reduce__", wrapped_reduce, METH_NOARGS,
                                         "By name where that leads here, for pickle and copy."},
                                        {NULL, NULL, 0, NULL}};

static PyMemberDef wrapped_members[] = {
    {"__wrapped__", T_OBJECT, offsetof(wrapped_t, app), READONLY, "The application."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(wrapped_t, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(wrapped_t, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot wrapped_slots[] = {
    {Py_tp_doc, "What wrap() returns: calls the application inside an action."},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getattro, wrapped_getattr},
    {Py_tp_setattro, wrapped_setattr},
    {Py_tp_descr_get, wrapped_get},
    {Py_tp_repr, wrapped_repr},
    {Py_tp_traverse, wrapped_traverse},
    {Py_tp_clear, wrapped_clear},
    {Py_tp_dealloc, wrapped_dealloc},
    {Py_tp_members, wrapped_members},
    {Py_tp_methods, wrapped_methods},
    {Py_tp_getset, wrapped_getset},
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
    wrapped_type = (PyTypeObject *)PyType_FromSpec(&wrapped_spec);
    return wrapped_type == NULL ? -1 : PyModule_AddFunctions(module, functions);
}
