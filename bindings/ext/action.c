/*
 * Action: the object behind `with profilomatic.action(...)`.
 *
 * Its anchor is the frame with the block, which is the frame that calls __enter__, or stands in for
 * that (anchors.c).
 *
 * Over 400 lines: a Python type, which is declared at the end.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/works.h"

#include <string.h>

#include "bindings/engine/engine.h"
#include "bindings/ext/anchors.h"
#include "bindings/ext/core.h"
#include "bindings/ext/meter.h"
#include "bindings/ext/values.h"
#include "middleware/trace.h"

#define FIELDS_MAX 2048 /* of the 4 KiB of text an action has */

typedef struct action_s {
    PyObject_HEAD
    pom_work_t work;
    PyObject *type;
    PyObject *fields;
    /* whose task it belongs to: text, or an object with a task_uuid; None = its context's */
    PyObject *parent;
    PyObject *weakrefs;
} action_t;

static const pom_action_kind_t code_kind = {.name = "code", .describe = pom_trace_describe};
static const pom_action_kind_t eliot_kind = {.name = "eliot", .describe = pom_trace_describe};

/* What the head of a message says; interned once. */
static PyObject *s_head[3];
static const char *const head_keys[] = {"action_type", "action_status", "task_uuid"};

static PyObject *action_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *name, *fields, *parent = Py_None;
    static char *names[] = {"type", "fields", "parent", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:Action", names, &name, &fields, &parent)) {
        return NULL;
    }
    if (!PyUnicode_Check(name)) {
        return PyErr_Format(PyExc_TypeError, "the type of an action is text, not %R", name);
    }
    action_t *self = (action_t *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->type = Py_NewRef(name);
        self->fields = Py_NewRef(fields);
        self->parent = Py_NewRef(parent);
    }
    return (PyObject *)self;
}

/* ---- enter and exit -------------------------------------------------------------------------- */

static void post(action_t *self, const char *status, const char *outcome, PyObject *exception,
                 PyObject *fields, PyObject *traceback) {
    pom_work_head_t head = {
        .type = self->type, .status = status, .outcome = outcome, .exception = exception};
    pom_work_message(&self->work, &head, fields, traceback);
}

/* A message has each key once: of the fields, those that its head says by itself give way. New
 * reference; NULL (without an exception set): no memory. */
static PyObject *beside_head(PyObject *fields) {
    PyObject *left = Py_NewRef(fields);
    bool any = PyDict_Check(fields) && PyDict_GET_SIZE(fields) > 0;
    for (size_t i = 0; i < sizeof s_head / sizeof *s_head && any; i++) {
        if (PyDict_GetItemWithError(left, s_head[i]) != NULL) {
            if (left == fields) {
                Py_SETREF(left, PyDict_Copy(fields));
            }
            if (left == NULL || PyDict_DelItem(left, s_head[i]) < 0) {
                Py_CLEAR(left);
                break;
            }
        }
    }
    PyErr_Clear(); // a key whose __eq__ raises is none of ours
    return left;
}

static void post_start(action_t *self) {
    PyObject *fields = beside_head(self->fields);
    post(self, "started", NULL, NULL, fields, NULL);
    Py_XDECREF(fields);
}

/* What an outermost one's record says of it. Messages tell of a nested one, and nothing of a
 * refused one, so neither gets here. The user's __str__ may run, and stop the engine or end this
 * very action: then there is nothing to say any more. */
static void keep_details(action_t *self) {
    unsigned char encoded[FIELDS_MAX];
    pom_value_writer_t writer;
    pom_value_begin(&writer, encoded, sizeof encoded);
    pom_value_map_begin(&writer);
    pom_py_write_entries(&writer, self->fields);
    pom_value_map_end(&writer);
    uint32_t size = (uint32_t)pom_value_finish(&writer);
    if (self->work.kind != POM_WORK_OUTERMOST || !pom_work_is_live(&self->work)) {
        return;
    }
    pom_action_t *action = self->work.action;
    Py_ssize_t type_size = 0;
    const char *type = PyUnicode_AsUTF8AndSize(self->type, &type_size);
    if (type == NULL) {
        PyErr_Clear(); // a lone surrogate
        type = "<unprintable>";
        type_size = 13;
    }
    action->fields = pom_action_text(action, (const char *)encoded, size).data;
    action->fields_size = size;
    action->cut_values += writer.cut;
    action->type = pom_action_text(action, type, (size_t)type_size);
}

/* Begins it where the engine runs and a frame is found; else it stays unrecorded: false. Never
 * fails. */
static bool begin(action_t *self, const pom_action_kind_t *kind,
                  bool (*find_frame)(pom_own_frame_t *)) {
    // Looking for the frame may import or ask asyncio. So the engine may have been stopped since,
    // and another thread may have entered this very action.
    pom_own_frame_t frame;
    if (!pom_work_engine_runs() || !find_frame(&frame) || !pom_work_engine_runs() ||
        self->work.kind != POM_WORK_NONE) {
        return false;
    }
    pom_work_begin(&self->work, kind);
    if (self->work.kind == POM_WORK_OUTERMOST) {
        keep_details(self);
    }
    pom_work_attach_block(&self->work, &frame, pom_now_ns());
    return pom_work_is_live(&self->work); // else a field's text or a thread's name has stopped it
}

/* Puts it into a task from elsewhere. */
static void take_task(action_t *self, PyObject *task_uuid) {
    if (self->work.kind != POM_WORK_OUTERMOST && self->work.kind != POM_WORK_NESTED) {
        return;
    }
    Py_ssize_t size = 0;
    const char *text = PyUnicode_AsUTF8AndSize(task_uuid, &size);
    if (text == NULL) {
        PyErr_Clear(); // not UTF-8: its own id then
        return;
    }
    pom_id_t id = self->work.task_id;
    char plain[POM_ID_TEXT] = "";
    if (pom_id_parse(text, (size_t)size, &id)) {
        pom_id_format(id, plain);
    }
    bool is_plain = size == POM_ID_TEXT && memcmp(plain, text, POM_ID_TEXT) == 0;
    pom_work_set_task(&self->work, id, is_plain ? NULL : task_uuid);
}

/* The task id that the parent gives, as a new reference; NULL = none, or the parent has none any
 * more. */
static PyObject *parents_task(const action_t *self) {
    if (self->parent == Py_None) {
        return NULL;
    }
    PyObject *task_uuid = PyUnicode_Check(self->parent)
                              ? Py_NewRef(self->parent)
                              : PyObject_GetAttrString(self->parent, "task_uuid");
    if (task_uuid != NULL && !PyUnicode_Check(task_uuid)) {
        Py_CLEAR(task_uuid); // not open, or not recorded
    }
    PyErr_Clear(); // an object without one is no parent
    return task_uuid;
}

/* Of outermost ones: nested ones are two messages, which bill themselves. */
static pom_meter_t enter_meter = {.cost_ns = 500}, exit_meter = {.cost_ns = 300};

static PyObject *action_enter(PyObject *op, PyObject *unused) {
    (void)unused;
    action_t *self = (action_t *)op;
    int64_t timed_ns = pom_meter_start(&enter_meter);
    if (self->work.kind != POM_WORK_NONE) {
        return PyErr_Format(PyExc_RuntimeError, "this action is open already: %U", self->type);
    }
    PyObject *task_uuid =
        parents_task(self); // may run code of others: before anything of ours begins
    bool begun = begin(self, &code_kind, pom_anchors_block);
    if (!begun) {
        Py_XDECREF(task_uuid);
        return Py_NewRef(op);
    }
    if (task_uuid != NULL) {
        take_task(self, task_uuid);
        Py_DECREF(task_uuid);
    }
    if (self->work.kind == POM_WORK_NESTED) {
        post_start(self);
    } else if (self->work.kind == POM_WORK_OUTERMOST) {
        pom_meter_stop(&enter_meter, timed_ns);
        pom_work_charge(&self->work, enter_meter.cost_ns + exit_meter.cost_ns);
    }
    return Py_NewRef(op);
}

static PyObject *action_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs) {
    action_t *self = (action_t *)op;
    PyObject *type = nargs > 0 ? args[0] : Py_None, *value = nargs > 1 ? args[1] : Py_None;
    PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
    bool raised = type != Py_None;
    bool aborted = raised && PyErr_GivenExceptionMatches(type, PyExc_GeneratorExit);
    pom_outcome_t outcome = !raised   ? POM_OUTCOME_SUCCEEDED
                            : aborted ? POM_OUTCOME_ABORTED
                                      : POM_OUTCOME_FAILED;
    PyObject *exception = outcome == POM_OUTCOME_FAILED && value != Py_None ? value : NULL;
    if (self->work.kind == POM_WORK_NESTED) {
        post(self, outcome == POM_OUTCOME_FAILED ? "failed" : "succeeded",
             aborted ? "aborted" : NULL, exception, NULL, exception == NULL ? NULL : traceback);
    }
    int64_t timed_ns = self->work.kind == POM_WORK_OUTERMOST ? pom_meter_start(&exit_meter) : 0;
    pom_work_end(&self->work, outcome, exception);
    pom_meter_stop(&exit_meter, timed_ns);
    Py_RETURN_FALSE;
}

/* Whether a message would go anywhere. */
static bool takes_messages(const action_t *self) {
    return pom_work_is_live(&self->work) && self->work.action != NULL;
}

static void message(action_t *self, PyObject *fields) {
    PyObject *handled = PyErr_GetHandledException(); // new reference or NULL
    PyObject *traceback = handled == NULL ? NULL : PyException_GetTraceback(handled);
    pom_work_message(&self->work, NULL, fields, traceback);
    Py_XDECREF(traceback);
    Py_XDECREF(handled);
}

/* By the fast convention: the dict is made only when somebody wants it, which halves a message that
 * goes nowhere. */
static PyObject *action_message(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *names) {
    action_t *self = (action_t *)op;
    if (nargs != 0) {
        PyErr_SetString(PyExc_TypeError, "message() takes fields by name only");
        return NULL;
    }
    if (!takes_messages(self)) {
        Py_RETURN_NONE;
    }
    PyObject *fields = PyDict_New();
    Py_ssize_t count = fields == NULL || names == NULL ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyDict_SetItem(fields, PyTuple_GET_ITEM(names, i), args[i]) < 0) {
            Py_CLEAR(fields);
            break;
        }
    }
    if (fields == NULL) {
        return NULL; // no memory, as for any call
    }
    message(self, fields);
    Py_DECREF(fields);
    Py_RETURN_NONE;
}

/* open(task_uuid): begins an action that may outlive this frame, under the id of a task from
 * elsewhere. It posts no messages of its own: whoever opens it has its own. */
static PyObject *action_open(PyObject *op, PyObject *task_uuid) {
    action_t *self = (action_t *)op;
    if (!PyUnicode_Check(task_uuid)) {
        return PyErr_Format(PyExc_TypeError, "a task id is text, not %R", task_uuid);
    }
    if (self->work.kind != POM_WORK_NONE) {
        return PyErr_Format(PyExc_RuntimeError, "this action is open already: %U", self->type);
    }
    bool begun = begin(self, &eliot_kind, pom_anchors_context);
    if (begun) {
        take_task(self, task_uuid);
    }
    return PyBool_FromLong(begun);
}

/* close(outcome, exception): ends what open() began; the outcome is one of the record's words. */
static PyObject *action_close(PyObject *op, PyObject *args) {
    const char *word;
    PyObject *exception = NULL;
    if (!PyArg_ParseTuple(args, "s|O:close", &word, &exception)) {
        return NULL;
    }
    for (int i = 0; i < POM_OUTCOME_OPEN; i++) { // which is no end
        if (strcmp(word, pom_outcome_names[i]) == 0) {
            pom_work_end(&((action_t *)op)->work, (pom_outcome_t)i,
                         exception == Py_None ? NULL : exception);
            Py_RETURN_NONE;
        }
    }
    return PyErr_Format(PyExc_ValueError, "outcome %s: must be succeeded, failed, aborted or lost",
                        word);
}

/* post(fields): a message whose fields are a dict. */
static PyObject *action_post(PyObject *op, PyObject *fields) {
    if (!PyDict_Check(fields)) {
        return PyErr_Format(PyExc_TypeError, "the fields of a message are a dict, not %R", fields);
    }
    if (takes_messages((action_t *)op)) {
        message((action_t *)op, fields);
    }
    Py_RETURN_NONE;
}

static PyObject *action_task_uuid(PyObject *op, void *closure) {
    (void)closure;
    action_t *self = (action_t *)op;
    if (!pom_work_is_live(&self->work) || self->work.kind == POM_WORK_SHED) {
        Py_RETURN_NONE;
    }
    return pom_work_task_uuid(&self->work);
}

/* ---- type ------------------------------------------------------------------------------------ */

static int action_traverse(PyObject *op, visitproc visit, void *arg) {
    action_t *self = (action_t *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->type);
    Py_VISIT(self->fields);
    Py_VISIT(self->parent);
    return 0;
}

static int action_clear(PyObject *op) {
    action_t *self = (action_t *)op;
    Py_SETREF(self->fields, Py_NewRef(Py_None)); // entering it still counts on there being some
    Py_SETREF(self->parent, Py_NewRef(Py_None));
    return 0; // the type is text and cannot be part of a cycle
}

/* Nobody has ended it. */
static void lose(action_t *self) {
    if (self->work.kind == POM_WORK_NESTED) {
        pom_pending_t pending = pom_pending_put_aside();
        post(self, "succeeded", pom_outcome_names[POM_OUTCOME_LOST], NULL, NULL, NULL);
        pom_pending_restore(&pending);
    }
    pom_work_end(&self->work, POM_OUTCOME_LOST, NULL); // no-op when it has ended
}

static void action_dealloc(PyObject *op) {
    action_t *self = (action_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    lose(self);
    Py_XDECREF(self->type);
    Py_XDECREF(self->fields);
    Py_XDECREF(self->parent);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef action_methods[] = {
    {"__enter__", action_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))action_exit, METH_FASTCALL, NULL},
    {"message", (PyCFunction)(void (*)(void))action_message, METH_FASTCALL | METH_KEYWORDS,
     "Puts a message with these fields and the stack of this call into the call graph. Nothing "
     "while "
     "not profiled."},
    {"open", action_open, METH_O,
     "For integrations: begins it under a task id; False when not recorded."},
    {"close", action_close, METH_VARARGS, "For integrations: ends what open() began."},
    {"post", action_post, METH_O, "For integrations: a message, its fields as a dict."},
    {NULL, NULL, 0, NULL}};
static PyMemberDef action_members[] = {
    {"type", T_OBJECT, offsetof(action_t, type), READONLY, NULL},
    {"fields", T_OBJECT, offsetof(action_t, fields), READONLY, NULL},
    {"parent", T_OBJECT, offsetof(action_t, parent), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(action_t, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};
static PyGetSetDef action_getset[] = {
    {"task_uuid", action_task_uuid, NULL, "Its task id while it is open, else None.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot action_slots[] = {
    {Py_tp_doc, "One bounded piece of work to profile; see profilomatic.action()."},
    {Py_tp_new, action_new},
    {Py_tp_methods, action_methods},
    {Py_tp_members, action_members},
    {Py_tp_getset, action_getset},
    {Py_tp_traverse, action_traverse},
    {Py_tp_clear, action_clear},
    {Py_tp_dealloc, action_dealloc},
    {0, NULL}};
static PyType_Spec action_spec = {.name = "profilomatic._core.Action",
                                  .basicsize = sizeof(action_t),
                                  .flags =
                                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
                                  .slots = action_slots};

int pom_action_init(PyObject *module) {
    for (size_t i = 0; i < sizeof s_head / sizeof *s_head; i++) {
        s_head[i] = PyUnicode_InternFromString(head_keys[i]);
        if (s_head[i] == NULL) {
            return -1;
        }
    }
    PyObject *type = PyType_FromSpec(&action_spec);
    int status =
        type == NULL || pom_work_init() < 0 ? -1 : PyModule_AddObjectRef(module, "Action", type);
    Py_XDECREF(type);
    return status;
}
