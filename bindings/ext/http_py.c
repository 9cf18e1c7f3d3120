/*
 * HttpDestination: what RestDestination(...) returns. Options are checked here, on the caller's
 * thread, and certificates are read, so that what is wrong is an exception at the line that says
 * it; everything later happens on the loop thread.
 *
 * The package's RestDestination() is the interface for people; this one takes each option, by
 * keyword, in its final form.
 */
#define PY_SSIZE_T_CLEAN // "z#" takes a Py_ssize_t
#include "bindings/ext/http_py.h"

#include "bindings/ext/core.h"
#include "bindings/ext/ssl_context.h"

#include <string.h>

#include "destinations/http.h"

#define HEADERS_MAX 64 // a request's head is at most 16 KiB anyway

typedef struct http_destination_s {
    PyObject_HEAD
    pom_destination_t *destination;
    PyObject *context; // the user's, while its SSL_CTX is in use; or NULL
} http_destination_t;

static PyTypeObject *http_destination_type;

/* Pairs of text, borrowed from the list; how many, or -1. */
static int read_headers(PyObject *list, pom_http_header_t *out) {
    if (!PyList_Check(list) || PyList_GET_SIZE(list) > HEADERS_MAX) {
        PyErr_Format(PyExc_ValueError, "headers: at most %d pairs", HEADERS_MAX);
        return -1;
    }
    int count = (int)PyList_GET_SIZE(list);
    for (int i = 0; i < count; i++) {
        PyObject *pair = PyList_GET_ITEM(list, i);
        if (!PyArg_ParseTuple(pair, "ss", &out[i].name, &out[i].value)) { // refuses a NUL inside
            return -1;
        }
    }
    return count;
}

static PyObject *http_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {
        "host",      "port",         "path",        "timeout",        "headers",     "token",
        "compress",  "msgpack",      "use_tls",     "ca_file",        "ca_path",     "ca_pem",
        "cert",      "key",          "verify",      "check_hostname", "min_version", "verify_flags",
        "spool_dir", "report_every", "ssl_context", "send_every",     NULL};
    pom_http_options_t options = pom_http_options_default();
    pom_http_header_t headers[HEADERS_MAX];
    PyObject *header_list, *context = Py_None;
    double timeout, report_every = 0.0, send_every = 0.0;
    int port, compress, msgpack, use_tls, verify = 1, check_hostname = 1;
    Py_ssize_t pem_size = 0;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "sisdO!zppp|zzz#zzppikzdOd:HttpDestination", names, &options.host, &port,
            &options.path, &timeout, &PyList_Type, &header_list, &options.token, &compress,
            &msgpack, &use_tls, &options.tls.ca_file, &options.tls.ca_path, &options.tls.ca_pem,
            &pem_size, &options.tls.cert, &options.tls.key, &verify, &check_hostname,
            &options.tls.min_version, &options.tls.verify_flags, &options.spool_dir, &report_every,
            &context, &send_every)) {
        return NULL;
    }
    int header_count = read_headers(header_list, headers);
    if (header_count < 0) {
        return NULL;
    }
    char error[POM_DESTINATION_ERROR_MAX] = "";
    if (context != Py_None) {
        options.tls.context = pom_ssl_context_take(context, error, sizeof error);
        if (options.tls.context == NULL) {
            return PyErr_Occurred() ? NULL
                                    : PyErr_Format(PyExc_ValueError, "ssl_context: %s", error);
        }
    }
    options.port = (uint16_t)port; // checked by the package
    options.timeout_ns = (int64_t)(timeout * 1e9);
    options.gather_ns = (int64_t)(send_every * 1e9);
    options.report_ns = (int64_t)(report_every * 1e9);
    options.headers = headers;
    options.header_count = (uint32_t)header_count;
    options.compress = compress != 0;
    options.format = msgpack ? POM_HTTP_MSGPACK : POM_HTTP_JSON;
    options.use_tls = use_tls != 0;
    options.tls.ca_pem_size = (size_t)pem_size;
    options.tls.verify = verify != 0;
    options.tls.check_hostname = check_hostname != 0;
    pom_destination_t *destination = NULL;
    pom_status_t status;
    Py_BEGIN_ALLOW_THREADS; // files; the arguments are held by the caller
    status = pom_http_new(&options, &destination, error, sizeof error);
    Py_END_ALLOW_THREADS;
    if (status == POM_ENOMEM) {
        return PyErr_NoMemory();
    }
    if (status != POM_OK) {
        PyErr_SetString(status == POM_EINVAL ? PyExc_ValueError : PyExc_OSError, error);
        return NULL;
    }
    http_destination_t *self = (http_destination_t *)type->tp_alloc(type, 0);
    if (self == NULL) {
        pom_destination_unref(destination);
        return NULL;
    }
    self->destination = destination;
    self->context = context != Py_None ? Py_NewRef(context) : NULL;
    return (PyObject *)self;
}

static void http_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    pom_destination_unref(((http_destination_t *)op)->destination);
    Py_XDECREF(((http_destination_t *)op)->context);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *http_name(PyObject *op, void *unused) {
    (void)unused;
    const char *name = ((http_destination_t *)op)->destination->name;
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
}

static PyObject *http_repr(PyObject *op) {
    PyObject *name = http_name(op, NULL);
    PyObject *text =
        name == NULL ? NULL : PyUnicode_FromFormat("<profilomatic destination: %U>", name);
    Py_XDECREF(name);
    return text;
}

static PyGetSetDef http_getset[] = {
    {"name", http_name, NULL, "As in stats(): the address without secrets.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot http_slots[] = {
    {Py_tp_doc, "What RestDestination() returns: posts batches from C."},
    {Py_tp_new, http_new},
    {Py_tp_dealloc, http_dealloc},
    {Py_tp_repr, http_repr},
    {Py_tp_getset, http_getset},
    {0, NULL}};
static PyType_Spec http_spec = {.name = "profilomatic._core.HttpDestination",
                                .basicsize = sizeof(http_destination_t),
                                .flags = Py_TPFLAGS_DEFAULT,
                                .slots = http_slots};

int pom_http_py_init(PyObject *module) {
    http_destination_type = (PyTypeObject *)PyType_FromSpec(&http_spec);
    return http_destination_type == NULL ? -1
                                         : PyModule_AddObjectRef(module, "HttpDestination",
                                                                 (PyObject *)http_destination_type);
}

pom_destination_t *pom_http_py_destination(PyObject *object) {
    return Py_IS_TYPE(object, http_destination_type) ? ((http_destination_t *)object)->destination
                                                     : NULL;
}
