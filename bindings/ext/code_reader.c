/*
 * Reading a code object that may be garbage, and hearing of its death.
 *
 * A pointer taken from a frame while its thread runs on is a claim. So the object is copied by the
 * kernel (memory.h), its type pointer and reference count are looked at, and the same goes for each
 * string and for the line table: copied, checked, capped. What is no code at all is garbage: its
 * stack was torn, and does not count. One with texts that cannot be read is `<unknown>`. About 8
 * copies, 5 us, once in the life of a code object; frames after that cost a table look-up.
 *
 * Resolving at first sight on the sampler thread (rather than later under the GIL) keeps this off
 * every request; the price, a successor read at a dead object's address, is excluded by the table's
 * epoch.
 *
 * The line table is decoded once into runs (first instruction, line), as a look-up per frame and
 * sample must be cheap. Its format is that of CPython's Objects/locations.md: entries of 1 + n
 * bytes, kind in bits 3-6, code units less one in bits 0-2; 15 has no line, 14 a signed varint line
 * delta and three varints, 13 a signed varint, 10-12 a delta of kind - 10 and two bytes, 0-9 the
 * same line and one byte.
 *
 * Deaths: PyCode_AddWatcher where there is one (3.12), else the type's tp_dealloc, chained.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/code_reader.h"

#include <string.h>

#include "base/alloc.h"
#include "bindings/ext/memory.h"

#define LINETABLE_MAX (256 * 1024) /* a function of 10^5 lines */
#define REFS_MAX      ((Py_ssize_t)1 << 40)

static char own_prefix[POM_CODE_TEXT_MAX];
static size_t own_prefix_len;

void pom_code_reader_set_own(const char *prefix) {
    size_t len = strlen(prefix);
    if (len < sizeof own_prefix) {
        memcpy(own_prefix, prefix, len + 1);
        own_prefix_len = len;
    }
}

/* ---- one object ---------------------------------------------------------------------------- */

static bool is_object_of(const PyObject *copy, const PyTypeObject *type) {
    Py_ssize_t refs = (Py_ssize_t)copy->ob_refcnt; // 32 bits of it since 3.14
    return copy->ob_type == type && refs > 0 && refs < REFS_MAX;
}

/* UTF-8 of one character into out; returns its bytes. */
static size_t put_utf8(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if ((c >= 0xd800 && c < 0xe000) || c > 0x10ffff) {
        c = 0xfffd; // lone surrogates (undecodable file names) and garbage
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* A str object's text as UTF-8, cut at POM_CODE_TEXT_MAX bytes. */
static bool read_text(uintptr_t address, char out[POM_CODE_TEXT_MAX], size_t *len) {
    PyASCIIObject head;
    if ((address & 7) != 0 || pom_memory_read(address, &head, sizeof head) != POM_OK ||
        !is_object_of((PyObject *)&head, &PyUnicode_Type) || !head.state.compact ||
        head.length < 0) {
        return false;
    }
    unsigned kind = head.state.kind; // bytes a character: 1, 2 or 4
    if (kind != 1 && kind != 2 && kind != 4) {
        return false;
    }
    size_t count = (size_t)head.length;
    unsigned char raw[POM_CODE_TEXT_MAX];
    if (count > sizeof raw / kind) {
        count = sizeof raw / kind;
    }
    uintptr_t data =
        address + (head.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject));
    if (count > 0 && pom_memory_read(data, raw, count * kind) != POM_OK) {
        return false;
    }
    size_t used = 0;
    for (size_t i = 0; i < count && used + 4 < POM_CODE_TEXT_MAX; i++) {
        uint32_t c = 0;
        memcpy(&c, raw + i * kind, kind); // little-endian hosts only, as layout.h is
        used += put_utf8(c, out + used);
    }
    *len = used;
    return true;
}

/* ---- the line table -------------------------------------------------------------------------- */

typedef struct cursor_s {
    const unsigned char *at, *end;
} cursor_t;

static uint32_t read_varint(cursor_t *c) {
    uint32_t value = 0;
    unsigned shift = 0;
    while (c->at < c->end && shift < 30) {
        unsigned char byte = *c->at++;
        value |= (uint32_t)(byte & 0x3f) << shift;
        if ((byte & 0x40) == 0) {
            break;
        }
        shift += 6;
    }
    return value;
}

static int32_t read_svarint(cursor_t *c) {
    uint32_t value = read_varint(c);
    return (value & 1) != 0 ? -(int32_t)(value >> 1) : (int32_t)(value >> 1);
}

/* Garbage may overflow. */
static int32_t add(int32_t line, int32_t delta) {
    return (int32_t)((uint32_t)line + (uint32_t)delta);
}

static size_t decode_lines(const unsigned char *table, size_t size, int32_t first_line,
                           pom_line_run_t *runs, size_t room) {
    cursor_t c = {.at = table, .end = table + size};
    uint32_t unit = 0;
    int32_t line = first_line;
    size_t count = 0;
    while (c.at < c.end) {
        unsigned char first = *c.at++;
        unsigned kind = first >> 3 & 15;
        int32_t shown = 0;
        if (kind == 15) {
            shown = -1;
        } else if (kind == 14) {
            line = add(line, read_svarint(&c));
            (void)read_varint(&c); // end line, start column, end column
            (void)read_varint(&c);
            (void)read_varint(&c);
        } else if (kind == 13) {
            line = add(line, read_svarint(&c));
        } else if (kind >= 10) {
            line = add(line, (int32_t)kind - 10);
            c.at += 2;
        } else {
            c.at += 1;
        }
        shown = shown < 0 ? -1 : line;
        if (count == 0 || runs[count - 1].line != shown) {
            if (count == room) {
                break;
            }
            runs[count++] = (pom_line_run_t){.start = unit, .line = shown};
        }
        unit += (first & 7u) + 1;
    }
    return count;
}

/* Returns the runs found, 0 when the table cannot be read. */
static size_t read_lines(uintptr_t address, int32_t first_line, pom_line_run_t *runs, size_t room) {
    PyBytesObject head;
    if ((address & 7) != 0 ||
        pom_memory_read(address, &head, offsetof(PyBytesObject, ob_sval)) != POM_OK ||
        !is_object_of((PyObject *)&head, &PyBytes_Type)) {
        return 0;
    }
    Py_ssize_t size = ((PyVarObject *)&head)->ob_size;
    if (size <= 0 || size > LINETABLE_MAX) {
        return 0;
    }
    unsigned char *table = pom_alloc((size_t)size);
    size_t count = 0;
    if (table != NULL && pom_memory_read(address + offsetof(PyBytesObject, ob_sval), table,
                                         (size_t)size) == POM_OK) {
        count = decode_lines(table, (size_t)size, first_line, runs, room);
    }
    pom_free(table);
    return count;
}

/* ---- the code object ------------------------------------------------------------------------- */

static bool starts_with_own(const char *file, size_t len) {
    return own_prefix_len > 0 && len > own_prefix_len &&
           memcmp(file, own_prefix, own_prefix_len) == 0;
}

static pom_code_t *unknown_code(bool garbage) {
    static const char name[] = "<unknown>";
    pom_code_spec_t spec = {.file = name,
                            .file_len = sizeof name - 1,
                            .function = name,
                            .function_len = sizeof name - 1,
                            .first_line = -1,
                            .unknown = true,
                            .garbage = garbage};
    return pom_code_new(&spec);
}

static pom_code_t *resolve(pom_code_resolver_t *self, uintptr_t key, bool gil_held) {
    (void)self;
    (void)gil_held; // reading by copy costs the same microseconds, once, and needs no second path
    PyCodeObject copy; // its fixed part; the instructions that follow are not read
    const PyCodeObject *code = &copy;
    char file[POM_CODE_TEXT_MAX], function[POM_CODE_TEXT_MAX];
    size_t file_len, function_len;
    if ((key & 7) != 0 || pom_memory_read(key, &copy, POM_CODE_START) != POM_OK ||
        !is_object_of((const PyObject *)code, &PyCode_Type)) {
        return unknown_code(true);
    }
    if (!read_text((uintptr_t)code->co_filename, file, &file_len) ||
        !read_text((uintptr_t)code->co_qualname, function, &function_len)) {
        return unknown_code(false);
    }
    pom_line_run_t *runs = pom_alloc(POM_CODE_RUNS_MAX * sizeof *runs);
    if (runs == NULL) {
        return NULL;
    }
    // The frame that finishes Class() since 3.13 has file and name "__init__" and no line of the
    // program.
    bool helper = file_len == 8 && function_len == 8 && memcmp(file, "__init__", 8) == 0 &&
                  memcmp(function, "__init__", 8) == 0;
    pom_code_spec_t spec = {
        .file = file,
        .file_len = file_len,
        .function = function,
        .function_len = function_len,
        .first_line = code->co_firstlineno,
        .runs = runs,
        .run_count = read_lines((uintptr_t)code->co_linetable, code->co_firstlineno, runs,
                                POM_CODE_RUNS_MAX),
        .internal = helper || starts_with_own(file, file_len),
    };
    pom_code_t *result = pom_code_new(&spec);
    pom_free(runs);
    return result;
}

pom_code_resolver_t *pom_code_reader(void) {
    static pom_code_resolver_t resolver = {.resolve = resolve};
    return &resolver;
}

/* ---- deaths ---------------------------------------------------------------------------------- */

static pom_code_table_t *watched; // NULL: nobody listens. Under the GIL.

#if PY_VERSION_HEX >= 0x030c0000

static int watcher = -1;

static int on_code_event(PyCodeEvent event, PyCodeObject *code) {
    // A birth too: what a torn frame led to an entry for, at this address before the object was
    // there, is gone with it.
    if ((event == PY_CODE_EVENT_DESTROY || event == PY_CODE_EVENT_CREATE) && watched != NULL) {
        pom_code_table_forget(watched, (uintptr_t)code);
    }
    return 0;
}

pom_status_t pom_code_deaths_watch(pom_code_table_t *table) {
    if (watcher < 0) {
        watcher = PyCode_AddWatcher(on_code_event);
        if (watcher < 0) {
            PyErr_Clear(); // all eight watchers are taken; the caller says so
            return POM_EUNSUPPORTED;
        }
    }
    watched = table;
    return POM_OK;
}

#else

static destructor original_dealloc;

static void on_code_dealloc(PyObject *code) {
    if (watched != NULL) {
        pom_code_table_forget(watched, (uintptr_t)code);
    }
    original_dealloc(code);
}

/* The chain link stays for good once made: somebody may have chained after us. */
pom_status_t pom_code_deaths_watch(pom_code_table_t *table) {
    if (original_dealloc == NULL) {
        original_dealloc = PyCode_Type.tp_dealloc;
        PyCode_Type.tp_dealloc = on_code_dealloc;
    }
    watched = table;
    return POM_OK;
}

#endif

void pom_code_deaths_unwatch(void) {
    watched = NULL;
}
