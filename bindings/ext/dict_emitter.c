/*
 * An emitter that builds Python dicts and lists.
 *
 * Each container is put into the one around it when it begins, so whatever happens later one
 * reference to the root releases all of it. What is open is a fixed array of borrowed references:
 * the record's depth is bounded by the call, and what would nest deeper still is left out rather
 * than trusted.
 *
 * Keys are few and come again in every node, so their str objects are kept in a small table;
 * looking one up costs a comparison, and the dict finds its hash computed.
 *
 * On the delivery thread with the GIL. No code of the user's is called.
 */
#include "bindings/ext/dict_emitter.h"

#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "profiles/formats/record.h"

#define OPEN_MAX POM_RECORD_DEPTH_JSON

/* A record has some 60 different keys, a message adds its own. Longer keys than these are made
 * anew each time. */
#define KEYS_KEPT     256
#define KEY_BYTES_MAX 32

typedef struct level_s {
    PyObject *container; /* borrowed from the one around it */
    PyObject *key;       /* owned; NULL = none waits */
} level_t;

typedef struct builder_s {
    pom_emitter_t emitter;
    PyObject *root; /* owned */
    int depth;      /* containers open in `open` */
    int skipping;   /* depth of containers that are left out */
    bool failed;    /* no memory: nothing is done any more */
    level_t open[OPEN_MAX];
} builder_t;

/* Under the GIL. */
static struct {
    PyObject *str; /* owned, NULL = free */
    char utf8[KEY_BYTES_MAX];
    size_t size;
} keys[KEYS_KEPT];

static builder_t *builder_of(pom_emitter_t *self) {
    return (builder_t *)(void *)self; // the emitter comes first
}

static bool is_deaf(const builder_t *b) {
    return b->failed || b->skipping > 0;
}

/* ---- text ---- */

/* Length of the well-formed character at the start, 0 when there is none. Strict as RFC 3629. */
static size_t character_size(const unsigned char *text, size_t size) {
    static const unsigned char least[] = {0, 0, 0, 0xa0, 0x90}; // second byte after e0, f0
    unsigned char lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || length > size) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool is_first = lead == 0xe0 || lead == 0xf0;
    bool is_over = (lead == 0xed && text[1] >= 0xa0) || (lead == 0xf4 && text[1] >= 0x90);
    return (is_first && text[1] < least[length]) || is_over ? 0 : length;
}

/* U+FFFD for each bad byte, as the JSON form has it; the interpreter's own "replace" makes one
 * of several. */
static PyObject *decode_repaired(const char *text, size_t size) {
    char *fixed = PyMem_Malloc(3 * size + 1), *to = fixed;
    if (fixed == NULL) {
        return PyErr_NoMemory();
    }
    for (size_t at = 0; at < size;) {
        size_t length = character_size((const unsigned char *)text + at, size - at);
        memcpy(to, length > 0 ? text + at : "\xef\xbf\xbd", length > 0 ? length : 3);
        to += length > 0 ? length : 3;
        at += length > 0 ? length : 1;
    }
    PyObject *str = PyUnicode_DecodeUTF8(fixed, to - fixed, NULL);
    PyMem_Free(fixed);
    return str;
}

static PyObject *decode(const char *text, size_t size) {
    PyObject *str = PyUnicode_DecodeUTF8(size > 0 ? text : "", (Py_ssize_t)size, NULL);
    if (str == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        str = decode_repaired(text, size);
    }
    return str;
}

/* Cheap and good enough for words: they differ in length, in the first bytes or in the last. */
static size_t place_of(const char *text, size_t size) {
    uint64_t head = 0;
    memcpy(&head, text, size < 8 ? size : 8);
    head ^= (uint64_t)(unsigned char)text[size - 1] << 32 ^ (uint64_t)size << 40;
    return pom_hash_place(head, 8);
}

/* A new reference. */
static PyObject *key_of(const char *text, size_t size) {
    if (size == 0 || size > KEY_BYTES_MAX) {
        return decode(text, size);
    }
    size_t place = place_of(text, size);
    if (keys[place].str != NULL && keys[place].size == size &&
        memcmp(keys[place].utf8, text, size) == 0) {
        return Py_NewRef(keys[place].str);
    }
    PyObject *str = decode(text, size);
    if (str != NULL) {
        memcpy(keys[place].utf8, text, size);
        keys[place].size = size;
        Py_XSETREF(keys[place].str, Py_NewRef(str)); // the last one wins
    }
    return str;
}

/* ---- building ---- */

static void fail(builder_t *b) {
    b->failed = true;
    while (b->depth > 0) {
        b->depth--;
        Py_CLEAR(b->open[b->depth].key);
    }
    Py_CLEAR(b->root);
}

/* Takes the reference (NULL = no memory) to where a value is due. False: it has gone. */
static bool put(builder_t *b, PyObject *value) {
    if (value == NULL) {
        fail(b);
        return false;
    }
    if (b->depth == 0) {
        Py_XSETREF(b->root, value);
        return true;
    }
    level_t *level = &b->open[b->depth - 1];
    int status;
    if (PyList_CheckExact(level->container)) {
        status = PyList_Append(level->container, value);
    } else if (level->key != NULL) {
        status = PyDict_SetItem(level->container, level->key, value);
        Py_CLEAR(level->key);
    } else {
        Py_DECREF(value); // a value without a key: not from a record
        return false;
    }
    Py_DECREF(value); // the container has its own
    if (status < 0) {
        fail(b);
    }
    return status == 0;
}

static void begin(builder_t *b, PyObject *(*make)(void)) {
    if (is_deaf(b) || b->depth == OPEN_MAX) {
        b->skipping += !b->failed;
        return;
    }
    PyObject *container = make();
    if (put(b, container)) {
        b->open[b->depth++] = (level_t){.container = container};
    } else {
        b->skipping += !b->failed;
    }
}

static void end(builder_t *b) {
    if (b->skipping > 0) {
        b->skipping--;
    } else if (b->depth > 0) {
        b->depth--;
        Py_CLEAR(b->open[b->depth].key);
    }
}

static PyObject *make_list(void) {
    return PyList_New(0);
}

static void dict_map_begin(pom_emitter_t *self) {
    begin(builder_of(self), PyDict_New);
}

static void dict_list_begin(pom_emitter_t *self) {
    begin(builder_of(self), make_list);
}

static void dict_end(pom_emitter_t *self) {
    end(builder_of(self));
}

static void dict_key(pom_emitter_t *self, const char *text, size_t size) {
    builder_t *b = builder_of(self);
    if (is_deaf(b) || b->depth == 0) {
        return;
    }
    PyObject *key = key_of(text, size);
    if (key == NULL) {
        fail(b);
        return;
    }
    Py_XSETREF(b->open[b->depth - 1].key, key);
}

static void dict_text(pom_emitter_t *self, const char *text, size_t size) {
    builder_t *b = builder_of(self);
    if (!is_deaf(b)) {
        (void)put(b, decode(text, size)); // a failure is remembered
    }
}

static void dict_integer(pom_emitter_t *self, int64_t value) {
    builder_t *b = builder_of(self);
    if (!is_deaf(b)) {
        (void)put(b, PyLong_FromLongLong(value));
    }
}

/* NaN and infinities as they are: only JSON has no word for them. */
static void dict_number(pom_emitter_t *self, double value) {
    builder_t *b = builder_of(self);
    if (!is_deaf(b)) {
        (void)put(b, PyFloat_FromDouble(value));
    }
}

static void dict_seconds(pom_emitter_t *self, int64_t ns) {
    dict_number(self, (double)ns / 1e9);
}

static void dict_moment(pom_emitter_t *self, int64_t wall_ns) {
    char text[28];
    pom_format_moment(wall_ns, text);
    dict_text(self, text, sizeof text - 1);
}

static void dict_boolean(pom_emitter_t *self, bool value) {
    builder_t *b = builder_of(self);
    if (!is_deaf(b)) {
        (void)put(b, PyBool_FromLong(value));
    }
}

static void dict_null(pom_emitter_t *self) {
    builder_t *b = builder_of(self);
    if (!is_deaf(b)) {
        (void)put(b, Py_NewRef(Py_None));
    }
}

static const pom_emitter_ops_t dict_ops = {
    .map_begin = dict_map_begin,
    .map_end = dict_end,
    .list_begin = dict_list_begin,
    .list_end = dict_end,
    .key = dict_key,
    .name = pom_name_as_key,
    .text = dict_text,
    .plain = dict_text,
    .integer = dict_integer,
    .number = dict_number,
    .seconds = dict_seconds,
    .moment = dict_moment,
    .boolean = dict_boolean,
    .null = dict_null,
};

static void clear(builder_t *b) {
    b->emitter.ops = &dict_ops;
    b->root = NULL;
    b->depth = b->skipping = 0;
    b->failed = false;
}

static PyObject *finish(builder_t *b) {
    if (b->root == NULL && !PyErr_Occurred()) {
        return PyErr_NoMemory();
    }
    return b->root;
}

PyObject *pom_py_record(const pom_profile_t *profile) {
    builder_t builder;
    clear(&builder);
    pom_record_emit(profile, &builder.emitter, POM_RECORD_DEPTH_JSON);
    return finish(&builder);
}

PyObject *pom_py_client_report(const pom_client_report_t *report, pom_text_t source, int32_t pid) {
    builder_t builder;
    clear(&builder);
    pom_client_report_emit(report, source, pid, &builder.emitter);
    return finish(&builder);
}
