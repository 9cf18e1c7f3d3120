/*
 * FileDestination: what file_destination(path) returns. The file is opened here, on the caller's
 * thread, so that a path that cannot be written is an OSError at the line that names it; everything
 * later happens on the loop thread.
 */
#include "bindings/ext/file_py.h"

#include "bindings/ext/core.h"

#include <string.h>

#include "destinations/file.h"

typedef struct file_destination_s {
    PyObject_HEAD
    pom_destination_t *destination;
    PyObject *path;
} file_destination_t;

static PyTypeObject *file_destination_type;

static PyObject *file_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path",         "flush",          "append", "format",
                            "rotate_bytes", "rotate_seconds", "keep",   NULL};
    const char *format = "json";
    PyObject *path, *bytes = NULL;
    int flush = 1, append = 0;
    long long rotate_bytes = 0; // these three are checked by the package
    double rotate_seconds = 0.0;
    unsigned int keep = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|ppsLdI:FileDestination", names, &path, &flush,
                                     &append, &format, &rotate_bytes, &rotate_seconds, &keep)) {
        return NULL;
    }
    bool msgpack = strcmp(format, "msgpack") == 0;
    if (!msgpack && strcmp(format, "json") != 0) {
        return PyErr_Format(PyExc_ValueError, "format='%s': must be 'json' or 'msgpack'", format);
    }
    if (!PyUnicode_FSConverter(path, &bytes)) {
        return NULL;
    }
    pom_file_options_t options = pom_file_options_default();
    options.flush = flush != 0;
    options.append = append != 0;
    options.rotate_bytes = rotate_bytes;
    options.rotate_ns = (int64_t)(rotate_seconds * 1e9);
    options.keep = keep;
    options.format = msgpack ? POM_FILE_MSGPACK : POM_FILE_JSON;
    pom_destination_t *destination = NULL;
    pom_status_t status;
    Py_BEGIN_ALLOW_THREADS; // a slow file system
    status = pom_file_new(PyBytes_AS_STRING(bytes), &options, &destination, NULL, 0);
    Py_END_ALLOW_THREADS;
    int failure = errno;
    Py_DECREF(bytes);
    errno = failure;
    if (status == POM_ENOMEM) {
        return PyErr_NoMemory();
    }
    if (status != POM_OK) {
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    file_destination_t *self = (file_destination_t *)type->tp_alloc(type, 0);
    if (self == NULL) {
        pom_destination_unref(destination);
        return NULL;
    }
    self->destination = destination;
    self->path = Py_NewRef(path);
    return (PyObject *)self;
}

static void file_dealloc(PyObject *op) {
    file_destination_t *self = (file_destination_t *)op;
    PyTypeObject *type = Py_TYPE(op);
    pom_destination_unref(self->destination);
    Py_XDECREF(self->path);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *file_repr(PyObject *op) {
    return PyUnicode_FromFormat("<profilomatic destination: file %R>",
                                ((file_destination_t *)op)->path);
}

static PyMemberDef file_members[] = {
    {"path", T_OBJECT, offsetof(file_destination_t, path), READONLY, "As it was given."},
    {NULL, 0, 0, 0, NULL}};
static PyType_Slot file_slots[] = {
    {Py_tp_doc, "FileDestination(path, flush=True, append=False, format=\"json\", rotate_bytes=0, "
                "rotate_seconds=0, keep=0): written in C."},
    {Py_tp_new, file_new},
    {Py_tp_dealloc, file_dealloc},
    {Py_tp_repr, file_repr},
    {Py_tp_members, file_members},
    {0, NULL}};
static PyType_Spec file_spec = {.name = "profilomatic._core.FileDestination",
                                .basicsize = sizeof(file_destination_t),
                                .flags = Py_TPFLAGS_DEFAULT,
                                .slots = file_slots};

int pom_file_py_init(PyObject *module) {
    file_destination_type = (PyTypeObject *)PyType_FromSpec(&file_spec);
    return file_destination_type == NULL ? -1
                                         : PyModule_AddObjectRef(module, "FileDestination",
                                                                 (PyObject *)file_destination_type);
}

pom_destination_t *pom_file_py_destination(PyObject *object) {
    return Py_IS_TYPE(object, file_destination_type) ? ((file_destination_t *)object)->destination
                                                     : NULL;
}
