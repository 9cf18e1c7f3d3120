/*
 * Python objects as a value stream: what a message's fields were at the moment of the call.
 *
 * Two ways through a container. While its entries are plain (exact str, int, float, bool, None),
 * which is nearly always, they are read in place: nothing of that can run the user's code. At the
 * first entry that might, the rest is copied, as owned references, and the copy is worked off; the
 * user's code may then change the container as it likes. Copies are cut at the cap of items, so
 * neither a huge set nor an endless __iter__ is followed further than it is shown.
 *
 * Whatever the user's code raises is swallowed, BaseException too: this runs inside a call of the
 * user's that has nothing to do with it, and a guest has no way to hand it on. An exception that
 * was pending is put aside and restored.
 *
 * The value of a secret key (middleware/scrub.h) is not even looked at.
 *
 * On the caller's thread with the GIL.
 */
#include "bindings/ext/values.h"

#include "bindings/ext/core.h"
#include "bindings/ext/text.h"
#include "middleware/scrub.h"

typedef struct encoder_s {
    pom_value_writer_t *w;
    Py_ssize_t items_left;
} encoder_t;

static void write_slowly(encoder_t *e, PyObject *value, int depth);

static void write_key(pom_value_writer_t *w, PyObject *str) {
    if (PyUnicode_IS_COMPACT_ASCII(str) && PyUnicode_GET_LENGTH(str) <= POM_PY_KEY_MAX) {
        pom_value_key(w, PyUnicode_DATA(str), (size_t)PyUnicode_GET_LENGTH(str));
        return;
    }
    char utf8[POM_PY_UTF8_BYTES(POM_PY_KEY_MAX)];
    bool cut;
    Py_ssize_t size = pom_py_text_shown(str, POM_PY_KEY_MAX, utf8, &cut);
    w->cut += cut;
    pom_value_key(w, utf8, size > 0 ? (size_t)size : 0);
}

static void write_as_text(pom_value_writer_t *w, PyObject *value) {
    PyObject *text = pom_py_text_of(value);
    if (text != NULL) {
        pom_py_write_text(w, text);
        Py_DECREF(text);
    } else {
        pom_value_null(w);
    }
}

/* ---- plain values ---------------------------------------------------------------------------- */

/* Ints too large for the stream. */
static void write_hex(pom_value_writer_t *w, PyObject *value) {
    PyObject *hex = PyNumber_ToBase(value, 16); // decimal takes quadratic time
    if (hex != NULL) {
        pom_py_write_text(w, hex);
        Py_DECREF(hex);
    } else {
        PyErr_Clear();
        pom_value_null(w);
    }
}

/* An exact int. */
static void write_long(pom_value_writer_t *w, PyObject *value) {
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) {
        pom_value_integer(w, number);
    } else {
        write_hex(w, value);
    }
}

/* Can be written without running any code of the user's, that of collections included. */
static inline bool is_plain(PyObject *value) {
    PyTypeObject *type = Py_TYPE(value);
    return type == &PyUnicode_Type || type == &PyLong_Type || type == &PyFloat_Type ||
           type == &PyBool_Type || value == Py_None;
}

static inline void write_plain(pom_value_writer_t *w, PyObject *value) {
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type) {
        pom_py_write_text(w, value);
    } else if (type == &PyLong_Type) {
        write_long(w, value);
    } else if (type == &PyFloat_Type) {
        pom_value_number(w, PyFloat_AS_DOUBLE(value));
    } else if (type == &PyBool_Type) {
        pom_value_boolean(w, value == Py_True);
    } else {
        pom_value_null(w);
    }
}

static void write_any(encoder_t *e, PyObject *value, int depth) {
    if (is_plain(value)) {
        write_plain(e->w, value);
    } else {
        write_slowly(e, value,
                     depth); // the caller keeps a reference, whatever the user's code does
    }
}

/* ---- secrets --------------------------------------------------------------------------------- */

/* Verdicts on keys: a program has few, and asks for each of them again and again. By hash, so that
 * no key is kept; a key without an entry costs a fraction of a microsecond. */
#define VERDICTS 256

typedef struct verdict_s {
    Py_hash_t hash;
    const void *words; /* that it was judged by; NULL = an empty place */
    bool secret;
} verdict_t;

static bool judge(PyObject *key) {
    if (PyUnicode_IS_COMPACT_ASCII(key)) {
        return pom_scrub_is_secret(PyUnicode_DATA(key), (size_t)PyUnicode_GET_LENGTH(key));
    }
    char utf8[POM_PY_UTF8_BYTES(POM_PY_KEY_MAX)];
    Py_ssize_t size = pom_py_text_start(key, POM_PY_KEY_MAX, utf8);
    return size < 0 || pom_scrub_is_secret(utf8, (size_t)size);
}

/* Runs no code of the user's. */
static bool is_secret(PyObject *key) {
    static verdict_t verdicts[VERDICTS];
    const void *words = pom_scrub_words();
    if (words == NULL) {
        return false;
    }
    if (!PyUnicode_CheckExact(key)) {
        return judge(key); // its hash may be the user's
    }
    Py_hash_t hash = PyObject_Hash(key);
    verdict_t *known = &verdicts[(size_t)hash % VERDICTS];
    if (known->hash != hash || known->words != words) {
        *known = (verdict_t){.hash = hash, .words = words, .secret = judge(key)};
    }
    return known->secret;
}

/* Of a header: WSGI and ASGI have pairs of name and value. */
static bool is_secret_name(PyObject *name) {
    if (PyBytes_CheckExact(name)) {
        return pom_scrub_is_secret(PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name));
    }
    return PyUnicode_CheckExact(name) && is_secret(name);
}

static void write_scrubbed(pom_value_writer_t *w) {
    pom_value_text(w, POM_SCRUBBED, POM_SCRUBBED_SIZE);
}

/* ---- dicts ----------------------------------------------------------------------------------- */

/* False: the cap of items is reached. */
static bool take_item(encoder_t *e) {
    if (e->items_left <= 0) {
        e->w->cut++;
        return false;
    }
    e->items_left--;
    return true;
}

/* True: its value is not to be shown. */
static bool write_any_key(pom_value_writer_t *w, PyObject *key) {
    PyObject *text = PyUnicode_CheckExact(key) ? Py_NewRef(key) : pom_py_text_of(key);
    if (text == NULL) {
        pom_value_key(w, "?", 1);
        return true;
    }
    write_key(w, text);
    bool secret = is_secret(text);
    Py_DECREF(text);
    return secret;
}

/* The entries from `at` on, by way of a copy. One more than may be shown is copied, so that a
 * cut is noticed. */
static void write_entries_copied(encoder_t *e, PyObject *dict, Py_ssize_t at, int depth) {
    PyObject *key, *value;
    Py_ssize_t room = PyDict_GET_SIZE(dict), count = 0;
    if (room > e->items_left + 1) {
        room = e->items_left + 1;
    }
    PyObject **copy = PyMem_Calloc(2 * (size_t)room, sizeof *copy);
    if (copy == NULL) {
        e->w->cut++;
        return;
    }
    while (count < room && PyDict_Next(dict, &at, &key, &value)) {
        copy[2 * count] = Py_NewRef(key);
        copy[2 * count + 1] = Py_NewRef(value);
        count++;
    }
    for (Py_ssize_t i = 0; i < count && take_item(e); i++) {
        if (write_any_key(e->w, copy[2 * i])) {
            write_scrubbed(e->w);
        } else {
            write_any(e, copy[2 * i + 1], depth);
        }
    }
    for (Py_ssize_t i = 0; i < 2 * count; i++) {
        Py_DECREF(copy[i]);
    }
    PyMem_Free(copy);
}

/* depth: of the values. */
static void write_entries(encoder_t *e, PyObject *dict, int depth) {
    PyObject *key, *value;
    Py_ssize_t at = 0, before = 0;
    while (PyDict_Next(dict, &at, &key, &value)) {
        if (!PyUnicode_CheckExact(key) || !is_plain(value)) {
            write_entries_copied(e, dict, before, depth);
            return;
        }
        if (e->items_left <= 0) {
            e->w->cut++;
            return;
        }
        e->items_left--;
        write_key(e->w, key);
        if (is_secret(key)) {
            write_scrubbed(e->w);
        } else {
            write_plain(e->w, value);
        }
        before = at;
    }
}

/* ---- lists, tuples, sets --------------------------------------------------------------------- */

/* Copies items as owned references, at most `room`. -1: the value's own code raised. */
static Py_ssize_t copy_items(PyObject *value, PyObject **copy, Py_ssize_t room) {
    Py_ssize_t count = 0;
    if (PyList_CheckExact(value) || PyTuple_CheckExact(value)) {
        Py_ssize_t size = PySequence_Fast_GET_SIZE(value);
        for (; count < room && count < size; count++) {
            copy[count] = Py_NewRef(PySequence_Fast_GET_ITEM(value, count));
        }
        return count;
    }
    PyObject *iterator = PyObject_GetIter(value), *item = NULL;
    while (iterator != NULL && count < room && (item = PyIter_Next(iterator)) != NULL) {
        copy[count++] = item;
    }
    Py_XDECREF(iterator);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        for (Py_ssize_t i = 0; i < count; i++) {
            Py_DECREF(copy[i]);
        }
        return -1;
    }
    return count;
}

static void write_list(encoder_t *e, PyObject *value, int depth) {
    bool sized = PyList_CheckExact(value) || PyTuple_CheckExact(value);
    Py_ssize_t room = sized ? PySequence_Fast_GET_SIZE(value) : PY_SSIZE_T_MAX;
    if (room > e->items_left + 1) {
        room = e->items_left + 1;
    }
    PyObject **copy = PyMem_Calloc((size_t)room, sizeof *copy);
    Py_ssize_t count = copy == NULL ? -1 : copy_items(value, copy, room);
    if (count < 0) {
        PyMem_Free(copy);
        write_as_text(e->w, value);
        return;
    }
    bool secret = PyTuple_CheckExact(value) && count == 2 && is_secret_name(copy[0]);
    pom_value_list_begin(e->w);
    for (Py_ssize_t i = 0; i < count && take_item(e); i++) {
        if (secret && i == 1) {
            write_scrubbed(e->w);
        } else {
            write_any(e, copy[i], depth + 1);
        }
    }
    pom_value_list_end(e->w);
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_DECREF(copy[i]);
    }
    PyMem_Free(copy);
}

/* ---- everything else ------------------------------------------------------------------------- */

static void write_bytes(pom_value_writer_t *w, PyObject *value) {
    // A copy: decoding may run a collection, and with it code that changes a bytearray.
    const char *data =
        PyBytes_Check(value) ? PyBytes_AS_STRING(value) : PyByteArray_AS_STRING(value);
    Py_ssize_t size = Py_SIZE(value) < POM_PY_BYTES_MAX ? Py_SIZE(value) : POM_PY_BYTES_MAX;
    w->cut += size < Py_SIZE(value);
    PyObject *copy = PyBytes_FromStringAndSize(data, size);
    PyObject *text = copy == NULL
                         ? NULL
                         : PyUnicode_DecodeUTF8(PyBytes_AS_STRING(copy), size, "backslashreplace");
    if (text != NULL) {
        pom_py_write_text(w, text);
    } else {
        PyErr_Clear();
        pom_value_null(w);
    }
    Py_XDECREF(copy);
    Py_XDECREF(text);
}

/* Numbers of classes derived from int and float. */
static void write_number(pom_value_writer_t *w, PyObject *value) {
    PyObject *plain = PyLong_Check(value) ? PyNumber_Long(value) : PyNumber_Float(value);
    if (plain == NULL) {
        PyErr_Clear();
        write_as_text(w, value);
        return;
    }
    if (PyFloat_Check(plain)) {
        pom_value_number(w, PyFloat_AS_DOUBLE(plain));
    } else {
        write_long(w, plain);
    }
    Py_DECREF(plain);
}

/* The user's code may run. By type and not by isinstance(), which asks the object for its
 * __class__. */
static void write_slowly(encoder_t *e, PyObject *value, int depth) {
    bool is_dict = PyDict_Check(value);
    if (is_dict || PyList_Check(value) || PyTuple_Check(value) || PyAnySet_Check(value)) {
        if (depth >= POM_PY_DEPTH_MAX) {
            pom_value_text(e->w, "...", 3); // also where a cycle ends
            e->w->cut++;
        } else if (is_dict) {
            pom_value_map_begin(e->w);
            write_entries(e, value, depth + 1);
            pom_value_map_end(e->w);
        } else {
            write_list(e, value, depth);
        }
    } else if (PyLong_Check(value) || PyFloat_Check(value)) {
        write_number(e->w, value);
    } else if (PyBytes_Check(value) || PyByteArray_Check(value)) {
        write_bytes(e->w, value);
    } else {
        write_as_text(e->w, value);
    }
}

/* ---- the ways in ----------------------------------------------------------------------------- */

void pom_py_write_entries(pom_value_writer_t *w, PyObject *mapping) {
    encoder_t e = {.w = w, .items_left = POM_PY_ITEMS_MAX};
    if (!PyDict_Check(mapping)) {
        return;
    }
    pom_pending_t pending = pom_pending_put_aside();
    Py_INCREF(mapping);
    write_entries(&e, mapping, 1);
    Py_DECREF(mapping);
    pom_pending_restore(&pending);
}
