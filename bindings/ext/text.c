/*
 * How much of a text is shown, and as which bytes.
 *
 * It is encoded here and not by the interpreter: PyUnicode_AsUTF8AndSize keeps a second copy with
 * the object for its life, and lone surrogates make it raise. It is cut on the way, so that a giant
 * costs no more than what is shown of it.
 *
 * Whatever the user's __str__ raises is swallowed, BaseException too: this runs inside a call of
 * the user's that has nothing to do with it, and a guest has no way to hand it on.
 *
 * On the caller's thread with the GIL.
 */
#include "bindings/ext/text.h"

#include <string.h>

#include "bindings/ext/core.h"

/* Characters that need not be looked at: the stream cuts texts at POM_VALUE_TEXT_MAX bytes, and
 * none is shorter than one. */
#define ENCODED_MAX (POM_VALUE_TEXT_MAX + 4)

static bool is_ready(PyObject *str) {
#if PY_VERSION_HEX < 0x030c0000
    if (!PyUnicode_IS_READY(str)) { // legacy strings of old extensions
        pom_pending_t pending = pom_pending_put_aside();
        bool ready = PyUnicode_READY(str) == 0;
        pom_pending_restore(&pending);
        return ready;
    }
#else
    (void)str;
#endif
    return true;
}

static char *put_character(char *to, Py_UCS4 c) {
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3f));
    } else if (Py_UNICODE_IS_SURROGATE(c)) {
        *to++ = '?'; // as str.encode("utf-8", "replace") has it
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    }
    return to;
}

/* UTF-8 of the first `count` characters, at most `most` bytes and one character more; returns
 * the bytes written. */
static size_t encode(PyObject *str, Py_ssize_t count, char *out, size_t most) {
    int kind = (int)PyUnicode_KIND(str);
    const void *data = PyUnicode_DATA(str);
    char *to = out;
    for (Py_ssize_t i = 0; i < count && (size_t)(to - out) <= most; i++) {
        to = put_character(to, PyUnicode_READ(kind, data, i));
    }
    return (size_t)(to - out);
}

void pom_py_write_text(pom_value_writer_t *w, PyObject *str) {
    char utf8[ENCODED_MAX];
    if (PyUnicode_IS_COMPACT_ASCII(str)) {
        pom_value_text(w, PyUnicode_DATA(str), (size_t)PyUnicode_GET_LENGTH(str));
    } else if (is_ready(str)) {
        size_t size = encode(str, PyUnicode_GET_LENGTH(str), utf8, POM_VALUE_TEXT_MAX);
        pom_value_text(w, utf8, size);
    } else {
        pom_value_null(w);
    }
}

Py_ssize_t pom_py_text_start(PyObject *str, Py_ssize_t most, char *out) {
    if (!is_ready(str)) {
        return -1;
    }
    Py_ssize_t count = PyUnicode_GET_LENGTH(str);
    count = count < most ? count : most;
    return (Py_ssize_t)encode(str, count, out, 4 * (size_t)most);
}

Py_ssize_t pom_py_text_shown(PyObject *str, Py_ssize_t most, char *out, bool *cut) {
    Py_ssize_t size = pom_py_text_start(str, most, out);
    *cut = size >= 0 && PyUnicode_GET_LENGTH(str) > most;
    if (*cut) {
        memcpy(out + size, POM_PY_ELLIPSIS, sizeof POM_PY_ELLIPSIS - 1);
        size += (Py_ssize_t)sizeof POM_PY_ELLIPSIS - 1;
    }
    return size;
}

/* Latin-1 has none. */
static bool has_surrogate(PyObject *str) {
    int kind = (int)PyUnicode_KIND(str);
    const void *data = PyUnicode_DATA(str);
    Py_ssize_t count = kind == PyUnicode_1BYTE_KIND ? 0 : PyUnicode_GET_LENGTH(str), at = 0;
    while (at < count && !Py_UNICODE_IS_SURROGATE(PyUnicode_READ(kind, data, at))) {
        at++;
    }
    return at < count;
}

const char *pom_py_utf8(PyObject *str, Py_ssize_t *size) {
    if (PyUnicode_IS_COMPACT_ASCII(str)) {
        *size = PyUnicode_GET_LENGTH(str);
        return PyUnicode_DATA(str);
    }
    // Looked for here: the interpreter would make an exception for it, before 3.12 that may run a
    // collection, and a collection anybody's code. Who reads a dict of somebody else's holds what
    // is in it only by that nothing runs.
    if (!is_ready(str) || has_surrogate(str)) {
        return NULL;
    }
    pom_pending_t pending = pom_pending_put_aside();
    const char *utf8 = PyUnicode_AsUTF8AndSize(str, size);
    pom_pending_restore(&pending); // no memory: that exception was there before
    return utf8;
}

/* What stands for a value whose class lets nothing be known of it. */
static PyObject *unprintable(PyObject *value) {
    PyObject *name = PyType_GetName(Py_TYPE(value));
    PyObject *text = name == NULL ? NULL : PyUnicode_FromFormat("<unprintable %U>", name);
    Py_XDECREF(name);
    PyErr_Clear();
    return text;
}

PyObject *pom_py_text_of(PyObject *value) {
    PyObject *text = PyObject_Str(value);
    if (text == NULL) {
        PyErr_Clear();
        text = unprintable(value);
    }
    return text;
}

/* ---- exceptions ------------------------------------------------------------------------------ */

/* A str that can be encoded, cut; consumes the reference. NULL: no memory. */
static PyObject *cleaned(PyObject *text) {
    char utf8[POM_PY_UTF8_BYTES(POM_PY_EXCEPTION_MAX)];
    bool cut;
    if (text != NULL && PyUnicode_CheckExact(text) && PyUnicode_IS_COMPACT_ASCII(text) &&
        PyUnicode_GET_LENGTH(text) <= POM_PY_EXCEPTION_MAX) {
        return text;
    }
    Py_ssize_t size = text != NULL ? pom_py_text_shown(text, POM_PY_EXCEPTION_MAX, utf8, &cut) : -1;
    Py_XDECREF(text);
    text = size >= 0 ? PyUnicode_DecodeUTF8(utf8, size, NULL) : NULL;
    PyErr_Clear();
    return text;
}

PyObject *pom_py_exception_name(PyObject *exc) {
    pom_pending_t pending = pom_pending_put_aside();
    PyTypeObject *type = Py_TYPE(exc);
    PyObject *name = PyType_GetQualName(type);
    PyObject *module = PyObject_GetAttrString((PyObject *)type, "__module__");
    PyErr_Clear(); // a class without a module goes by its bare name
    if (name != NULL && module != NULL && PyUnicode_Check(module) &&
        PyUnicode_CompareWithASCIIString(module, "builtins") != 0) {
        PyObject *whole = PyUnicode_FromFormat("%U.%U", module, name);
        Py_SETREF(name, whole);
        PyErr_Clear();
    }
    Py_XDECREF(module);
    name = cleaned(name);
    pom_pending_restore(&pending);
    return name;
}

PyObject *pom_py_exception_text(PyObject *exc) {
    pom_pending_t pending = pom_pending_put_aside();
    PyObject *text = cleaned(pom_py_text_of(exc));
    pom_pending_restore(&pending);
    return text;
}
