/*
 * receive() and send() as the application gets them, and one call of them as it is awaited.
 *
 *     application --await--> exchange --(steps it)--> what the server's function returned
 *                               +-- tells the request: sending, sent, received
 *
 * In C, and no coroutine: an async function around each took 2 500 instructions a message, most of
 * them to make a frame and to resume it through two more calls. An exchange is stepped where it is
 * awaited and steps the server's own coroutine, which stays the interpreter's and is what a walk
 * meets; one that waits is followed by parked.c through its inner pointer.
 *
 * Both stand for the server's object: the server's function is called at once and with the very
 * arguments, so that what is wrong with them is said as it says it, and what is asked of either,
 * apart from being called or stepped, the server's object answers: whether it is a coroutine
 * function, its name, the frame of a coroutine. What happens to a coroutine that is awaited twice,
 * thrown into, closed or dropped happens to the server's own.
 *
 * The two hold the server's functions, and the request does not: it lives on in its context for a
 * while (context.h), and the server's connection should not.
 *
 * Over 400 lines: two Python types that make one protocol, each to be declared.
 */
#include "bindings/ext/exchange.h"

#include <structmember.h>

#include "base/clock.h"
#include "bindings/ext/core.h"

/* Kept for reuse: two for each of a thousand requests at once, 64 bytes each; of the other kind one
 * lives while it is awaited. From here they are not new objects to the garbage collector, which is
 * called by their number. */
#define CHANNELS_MAX  2048
#define EXCHANGES_MAX 64

/* The application's receive or send. */
typedef struct channel_s {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *servers;
    PyObject *request;
} channel_t;

/* One call of it. */
typedef struct exchange_s {
    PyObject_HEAD
    PyObject *inner;   /* what the server's function returned, or the iterator that this gave */
    PyObject *request; /* of either kind */
    PyObject *message; /* for send(): until the first step; NULL else */
    int64_t since_ns;  /* for receive(): the first step */
    char sends;
    enum { NEW, STEPPED, DONE } state;
} exchange_t;

static PyTypeObject *channel_type, *exchange_type;
static PyObject *s_throw, *s_close, *s_class;

static channel_t *channels[CHANNELS_MAX];
static exchange_t *exchanges[EXCHANGES_MAX];
static int channels_kept, exchanges_kept;

/* ---- stepping -------------------------------------------------------------------------------- */

static void begin_step(exchange_t *self) {
    if (self->state != NEW) {
        return;
    }
    self->state = STEPPED;
    if (self->sends) {
        pom_asgi_sending(self->request, self->message);
        Py_CLEAR(self->message);
    } else {
        self->since_ns = pom_now_ns();
    }
}

/* The server's awaitable is over: with a result (borrowed), or NULL: by an exception, or given
 * up. */
static void end(exchange_t *self, PyObject *result) {
    bool stepped = self->state == STEPPED;
    self->state = DONE;
    if (!stepped) {
        // given up before its first step, or stepped again after the end: its own fault to find
        return;
    }
    if (self->sends) {
        pom_asgi_sent(self->request, result == NULL && PyErr_Occurred() != NULL &&
                                         PyErr_ExceptionMatches(PyExc_OSError));
    } else if (result != NULL) {
        pom_asgi_received(self->request, self->since_ns, result);
    }
}

/* Before the server's awaitable is stepped or asked for its iterator. Where that is an exchange as
 * well, of another wrapper or of a server that hands back what it got, nobody else counts how deep
 * it goes. False with an exception: too deep. */
static bool go_down(PyObject *inner) {
    return !Py_IS_TYPE(inner, exchange_type) ||
           Py_EnterRecursiveCall(" while a message was awaited") == 0;
}

static void come_up(PyObject *inner) {
    if (Py_IS_TYPE(inner, exchange_type)) {
        Py_LeaveRecursiveCall();
    }
}

static PySendResult step(PyObject *inner, PyObject *value, PyObject **result) {
    if (!go_down(inner)) {
        *result = NULL;
        return PYGEN_ERROR;
    }
    PySendResult how = PyIter_Send(inner, value, result);
    come_up(inner);
    return how;
}

static PySendResult exchange_send(PyObject *op, PyObject *value, PyObject **result) {
    exchange_t *self = (exchange_t *)op;
    begin_step(self);
    PyObject *inner = Py_NewRef(self->inner); // once it is done another await exchanges it
    PySendResult how = step(inner, value, result);
    if (how != PYGEN_NEXT) {
        end(self, *result);
    }
    Py_DECREF(inner);
    return how;
}

/* A return value as iterators have it; NULL. */
static PyObject *stop(PyObject *value) {
    PyObject *stopped =
        value == Py_None ? NULL : PyObject_CallOneArg(PyExc_StopIteration, value); // a tuple too
    if (stopped != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stopped);
        Py_DECREF(stopped);
    }
    Py_DECREF(value);
    return NULL;
}

static PyObject *exchange_next(PyObject *op) {
    PyObject *result;
    PySendResult how = exchange_send(op, Py_None, &result);
    return how == PYGEN_RETURN ? stop(result) : result;
}

static PyObject *exchange_send_method(PyObject *op, PyObject *value) {
    PyObject *result;
    PySendResult how = exchange_send(op, value, &result);
    if (how != PYGEN_RETURN) {
        return result;
    }
    if (result == Py_None) { // a method says so
        PyErr_SetNone(PyExc_StopIteration);
    }
    return stop(result);
}

/* What an iterator without throw() would have happen: the exception is raised where it is
 * awaited. */
static PyObject *raise_here(PyObject *const *args, Py_ssize_t nargs) {
    if (nargs > 0 && PyExceptionInstance_Check(args[0])) {
        PyErr_SetObject((PyObject *)Py_TYPE(args[0]), args[0]);
    } else if (nargs > 0 && PyExceptionClass_Check(args[0])) {
        PyErr_SetObject(args[0], nargs > 1 ? args[1] : NULL);
    } else {
        PyErr_SetString(PyExc_TypeError, "throw() takes an exception");
    }
    return NULL;
}

static PyObject *attribute_of_inner(const exchange_t *self, PyObject *name) {
    PyObject *inner = Py_NewRef(self->inner); // its own code may have it exchanged
    PyObject *value = PyObject_GetAttr(inner, name);
    Py_DECREF(inner);
    return value;
}

static PyObject *exchange_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    exchange_t *self = (exchange_t *)op;
    PyObject *method = attribute_of_inner(self, s_throw), *result;
    if (method != NULL) {
        result = PyObject_Vectorcall(method, args, (size_t)nargs, NULL);
        Py_DECREF(method);
    } else {
        PyErr_Clear();
        result = raise_here(args, nargs);
    }
    if (result == NULL) {
        // A receive() that answers an exception with a message is nobody's: its time stays the
        // phase's.
        end(self, NULL);
    }
    return result;
}

static PyObject *exchange_close(PyObject *op, PyObject *unused) {
    (void)unused;
    exchange_t *self = (exchange_t *)op;
    PyObject *method = attribute_of_inner(self, s_close), *result;
    if (method != NULL) {
        result = PyObject_CallNoArgs(method);
        Py_DECREF(method);
    } else {
        PyErr_Clear(); // nothing to close
        result = Py_NewRef(Py_None);
    }
    end(self, NULL);
    return result;
}

/* ---- awaiting -------------------------------------------------------------------------------- */

static unaryfunc await_of(PyObject *object) {
    const PyAsyncMethods *async = Py_TYPE(object)->tp_as_async;
    return async == NULL ? NULL : async->am_await;
}

/* A generator of types.coroutine(): what is awaited is the generator itself. */
static bool is_old_coroutine(PyObject *object) {
    if (!PyGen_CheckExact(object)) {
        return false;
    }
    PyObject *code = PyObject_GetAttrString(object, "gi_code");
    bool is = code != NULL && PyCode_Check(code) &&
              (((PyCodeObject *)code)->co_flags & CO_ITERABLE_COROUTINE) != 0;
    PyErr_Clear(); // none, then
    Py_XDECREF(code);
    return is;
}

/* Else the interpreter is to say what is wrong with it, where it is awaited. */
static bool is_awaitable(PyObject *object) {
    return PyCoro_CheckExact(object) || await_of(object) != NULL || is_old_coroutine(object);
}

static PyObject *iterator_of(unaryfunc await, PyObject *inner) {
    if (!go_down(inner)) {
        return NULL;
    }
    PyObject *iterator = await(inner);
    come_up(inner);
    return iterator;
}

static PyObject *exchange_await(PyObject *op) {
    exchange_t *self = (exchange_t *)op;
    if (self->state == STEPPED) {
        PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        return NULL;
    }
    unaryfunc await = PyCoro_CheckExact(self->inner) ? NULL : await_of(self->inner);
    if (await != NULL) {
        PyObject *inner = Py_NewRef(self->inner); // it may await this meanwhile
        PyObject *iterator = iterator_of(await, inner);
        Py_DECREF(inner);
        if (iterator == NULL) {
            return NULL;
        }
        Py_SETREF(self->inner, iterator);
    }
    return Py_NewRef(op);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* Takes ownership of what the server's function returned, and gives that where there is no memory
 * for more. */
static PyObject *new_exchange(const channel_t *channel, PyObject *inner, PyObject *message,
                              bool sends) {
    exchange_t *self = exchanges_kept > 0 ? exchanges[--exchanges_kept] : NULL;
    if (self != NULL) {
        (void)PyObject_Init((PyObject *)self, exchange_type);
    } else {
        self = PyObject_GC_New(exchange_t, exchange_type);
    }
    if (self == NULL) {
        pom_core_fault("asgi message");
        return inner;
    }
    self->inner = inner;
    self->request = Py_NewRef(channel->request);
    self->message = Py_XNewRef(message);
    self->sends = sends;
    self->state = NEW;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *receive_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                              PyObject *names) {
    channel_t *self = (channel_t *)callable;
    PyObject *inner = PyObject_Vectorcall(self->servers, args, nargsf, names);
    return inner == NULL || !pom_asgi_is_open(self->request) || !is_awaitable(inner)
               ? inner
               : new_exchange(self, inner, NULL, false);
}

static PyObject *send_call(PyObject *callable, PyObject *const *args, size_t nargsf,
                           PyObject *names) {
    channel_t *self = (channel_t *)callable;
    bool given = PyVectorcall_NARGS(nargsf) > 0 || (names != NULL && PyTuple_GET_SIZE(names) > 0);
    PyObject *message = given ? args[0] : NULL;
    PyObject *inner = PyObject_Vectorcall(self->servers, args, nargsf, names);
    return inner == NULL || message == NULL || !pom_asgi_is_open(self->request) ||
                   !is_awaitable(inner)
               ? inner
               : new_exchange(self, inner, message, true);
}

/* NULL with an exception. */
static channel_t *new_channel(PyObject *request, PyObject *servers, vectorcallfunc call) {
    channel_t *self = channels_kept > 0 ? channels[--channels_kept] : NULL;
    if (self != NULL) {
        (void)PyObject_Init((PyObject *)self, channel_type);
    } else {
        self = PyObject_GC_New(channel_t, channel_type);
    }
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = call;
    self->servers = Py_NewRef(servers);
    self->request = Py_NewRef(request);
    PyObject_GC_Track(self);
    return self;
}

bool pom_exchange_observe(PyObject *request, PyObject **receive, PyObject **send) {
    channel_t *receives = new_channel(request, *receive, receive_call);
    channel_t *sends = receives == NULL ? NULL : new_channel(request, *send, send_call);
    if (sends == NULL) {
        Py_XDECREF(receives);
        return false;
    }
    *receive = (PyObject *)receives;
    *send = (PyObject *)sends;
    return true;
}

size_t pom_exchange_inner(uintptr_t type) {
    return type == (uintptr_t)exchange_type ? offsetof(exchange_t, inner) : 0;
}

/* ---- types ----------------------------------------------------------------------------------- */

static PyObject *answer(PyObject *op, PyObject *name, PyObject *servers) {
    PyObject *value = PyObject_GenericGetAttr(op, name);
    if (value == NULL && servers != NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        if (Py_EnterRecursiveCall(" while a server's object was asked") == 0) {
            Py_INCREF(servers); // its own code may have it exchanged
            value = PyObject_GetAttr(servers, name);
            Py_DECREF(servers);
            Py_LeaveRecursiveCall();
        }
    }
    return value;
}

static PyObject *channel_getattro(PyObject *op, PyObject *name) {
    return answer(op, name, ((channel_t *)op)->servers);
}

/* Its class too, as by `inspect.iscoroutine()`: a task group that starts what is none refuses
 * it. */
static PyObject *exchange_getattro(PyObject *op, PyObject *name) {
    if (name == s_class) {
        return Py_NewRef((PyObject *)Py_TYPE(((exchange_t *)op)->inner));
    }
    return answer(op, name, ((exchange_t *)op)->inner);
}

/* Both are freed by way of the interpreter's trashcan: one may stand for another, and that for one
 * more, to any depth, and each end would call the next. */
static int channel_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((channel_t *)op)->servers);
    Py_VISIT(((channel_t *)op)->request);
    return 0;
}

static void channel_dealloc(PyObject *op) {
    channel_t *self = (channel_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, channel_dealloc);
    Py_CLEAR(self->servers);
    Py_CLEAR(self->request);
    if (channels_kept < CHANNELS_MAX) {
        channels[channels_kept++] = self;
    } else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

static int exchange_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((exchange_t *)op)->inner);
    Py_VISIT(((exchange_t *)op)->request);
    Py_VISIT(((exchange_t *)op)->message);
    return 0;
}

static void exchange_dealloc(PyObject *op) {
    exchange_t *self = (exchange_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, exchange_dealloc);
    if (self->state == STEPPED) { // dropped while it waited; an exception may be on its way
        self->state = DONE;
        if (self->sends) {
            pom_asgi_sent(self->request, false);
        }
    }
    Py_CLEAR(self->inner); // which is closed by that, or says that it was never awaited
    Py_CLEAR(self->message);
    Py_CLEAR(self->request);
    if (exchanges_kept < EXCHANGES_MAX) {
        exchanges[exchanges_kept++] = self;
    } else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(type);
    Py_TRASHCAN_END;
}

#define FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION)

/* No tp_clear in either: a cycle through them goes through a coroutine's frame or the server's
 * object too, which the collector can clear, and what is called or stepped after that still needs
 * its server's. */
static PyMemberDef channel_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(channel_t, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};
static PyType_Slot channel_slots[] = {
    {Py_tp_doc,
     "receive or send of a profiled request: the server's, and the request learns of it."},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getattro, channel_getattro},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_members, channel_members},
    {0, NULL}};
static PyType_Spec channel_spec = {.name = "profilomatic._core.AsgiChannel",
                                   .basicsize = sizeof(channel_t),
                                   .flags = FLAGS | Py_TPFLAGS_HAVE_VECTORCALL,
                                   .slots = channel_slots};

static PyMethodDef exchange_methods[] = {
    {"send", exchange_send_method, METH_O, "As of a coroutine."},
    {"throw", (PyCFunction)(void (*)(void))exchange_throw, METH_FASTCALL, "As of a coroutine."},
    {"close", exchange_close, METH_NOARGS, "As of a coroutine."},
    {NULL, NULL, 0, NULL}};
static PyType_Slot exchange_slots[] = {
    {Py_tp_doc, "One call of a profiled request's receive or send, to be awaited."},
    {Py_am_await, exchange_await},
    {Py_am_send, exchange_send},
    {Py_tp_iternext, exchange_next},
    {Py_tp_methods, exchange_methods},
    {Py_tp_getattro, exchange_getattro},
    {Py_tp_traverse, exchange_traverse},
    {Py_tp_dealloc, exchange_dealloc},
    {0, NULL}};
static PyType_Spec exchange_spec = {.name = "profilomatic._core.AsgiExchange",
                                    .basicsize = sizeof(exchange_t),
                                    .flags = FLAGS,
                                    .slots = exchange_slots};

int pom_exchange_init(void) {
    s_throw = PyUnicode_InternFromString("throw");
    s_close = PyUnicode_InternFromString("close");
    s_class = PyUnicode_InternFromString("__class__");
    channel_type = (PyTypeObject *)PyType_FromSpec(&channel_spec);
    exchange_type = (PyTypeObject *)PyType_FromSpec(&exchange_spec);
    return s_throw == NULL || s_close == NULL || s_class == NULL || channel_type == NULL ||
                   exchange_type == NULL
               ? -1
               : 0;
}
