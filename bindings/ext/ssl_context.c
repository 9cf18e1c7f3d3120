/*
 * CPython has no call that gives out the SSL_CTX of an ssl.SSLContext, but it has always been the
 * first field behind the object's head. It is taken from there only if everything agrees that can
 * be asked:
 *
 *   - the object is a context of the _ssl module by type, and that type is a direct child of
 *     `object` whose instances have room for the field;
 *   - `object` itself is as large as the head that this extension was compiled with (a build
 *     without the GIL or with reference tracing has another);
 *   - _ssl is a file, and calls the same OpenSSL as we do (destinations/tls_borrow.c);
 *   - what is found there has the settings that the object's attributes tell.
 *
 * What Python callbacks on it would mean is _rest.py's to refuse.
 */
#include "bindings/ext/ssl_context.h"

#include "bindings/ext/core.h"

#include <string.h>

#include "destinations/tls_borrow.h"

static void say(char *why, size_t size, const char *text) {
    PyOS_snprintf(why, size, "%s", text);
}

/* True when the context's head and first field are where we think. False, with `why` or an
 * exception. */
static bool has_known_layout(PyObject *context, PyObject *ssl, char *why, size_t size) {
    PyObject *type = PyObject_GetAttrString(ssl, "_SSLContext");
    if (type == NULL) {
        return false;
    }
    bool known = false;
    if (!PyType_Check(type) || !PyObject_TypeCheck(context, (PyTypeObject *)type)) {
        say(why, size, "it is not a context of Python's own ssl module");
    } else {
        PyTypeObject *t = (PyTypeObject *)type;
        known = PyBaseObject_Type.tp_basicsize == (Py_ssize_t)sizeof(PyObject) &&
                t->tp_base == &PyBaseObject_Type &&
                t->tp_basicsize >= (Py_ssize_t)(sizeof(PyObject) + sizeof(void *));
        if (!known) {
            say(why, size, "this interpreter lays it out in an unknown way");
        }
    }
    Py_DECREF(type);
    return known;
}

static bool has_our_openssl(PyObject *ssl, char *why, size_t size) {
    PyObject *file = PyObject_GetAttrString(ssl, "__file__");
    PyObject *path = NULL;
    if (file == NULL) {
        PyErr_Clear(); /* built into the interpreter */
    } else if (!PyUnicode_FSConverter(file, &path)) {
        PyErr_Clear();
    }
    bool same = path != NULL && pom_tls_same_openssl(PyBytes_AS_STRING(path));
    if (!same) {
        say(why, size, "this interpreter's OpenSSL is not the one that profilomatic uses");
    }
    Py_XDECREF(path);
    Py_XDECREF(file);
    return same;
}

/* An attribute as a number; false with an exception. */
static bool read_number(PyObject *context, const char *name, unsigned long long *out) {
    PyObject *value = PyObject_GetAttrString(context, name);
    PyObject *number = value != NULL ? PyNumber_Long(value) : NULL;
    *out = number != NULL ? PyLong_AsUnsignedLongLongMask(number) : 0;
    Py_XDECREF(number);
    Py_XDECREF(value);
    return !PyErr_Occurred();
}

static void *take(PyObject *context, PyObject *ssl, char *why, size_t size) {
    static const int modes[] = {0, 1, 3}; // ssl.CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED
    unsigned long long mode, options;
    if (!has_known_layout(context, ssl, why, size) || !has_our_openssl(ssl, why, size) ||
        !read_number(context, "verify_mode", &mode) || !read_number(context, "options", &options)) {
        return NULL;
    }
    void *ctx;
    memcpy(&ctx, (const char *)context + sizeof(PyObject), sizeof ctx);
    if (mode > 2 || !pom_tls_looks_like(ctx, modes[mode], options)) {
        say(why, size, "it does not look like what its attributes say");
        return NULL;
    }
    return ctx;
}

void *pom_ssl_context_take(PyObject *context, char *why, size_t size) {
    PyObject *ssl = PyImport_ImportModule("_ssl");
    if (ssl == NULL) {
        return NULL;
    }
    void *ctx = take(context, ssl, why, size);
    Py_DECREF(ssl);
    return ctx;
}

static PyObject *problem(PyObject *module, PyObject *context) {
    (void)module;
    char why[160] = "";
    void *ctx = pom_ssl_context_take(context, why, sizeof why);
    if (ctx != NULL) {
        Py_RETURN_NONE;
    }
    return PyErr_Occurred() ? NULL : PyUnicode_FromString(why);
}

static PyMethodDef functions[] = {
    {"ssl_context_problem", problem, METH_O,
     "ssl_context_problem(context): why it cannot be used as it is, or None."},
    {NULL, NULL, 0, NULL}};

int pom_ssl_context_init(PyObject *module) {
    return PyModule_AddFunctions(module, functions);
}
