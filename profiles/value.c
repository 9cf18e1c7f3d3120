/*
 * Values as bytes: the writer that an app thread uses at the call, and the replay for the formats.
 *
 *     null 0 | false 1 | true 2 | integer 3 zigzag-varint | number 4 double | text 5 varint bytes
 *     map 6 (key value)* end | list 7 value* end | end 8 | key 9 varint bytes
 *     seconds 10 zigzag-varint nanoseconds
 *
 * One stream is one value. Numbers are in host order: a stream never leaves its process, the
 * formats do the conversion. The writer keeps one byte back for the end of each open container, so
 * that it can always close; a key is written at once and taken back when its value finds no room.
 * It also tolerates calls out of order (a key in a list, an end too many): these are dropped,
 * because the caller is a guest in somebody's request and has nobody to tell.
 *
 * The replay trusts nothing: it checks every length, keeps its own stack instead of recursing, and
 * emits exactly one whole value whatever the bytes are, since a broken message must not break the
 * record around it.
 *
 * Both run on any thread and allocate nothing.
 */
#include "profiles/value.h"

#include <string.h>

enum {
    TAG_NULL,
    TAG_FALSE,
    TAG_TRUE,
    TAG_INTEGER,
    TAG_NUMBER,
    TAG_TEXT,
    TAG_MAP,
    TAG_LIST,
    TAG_END,
    TAG_KEY,
    TAG_SECONDS
};

#define VARINT_MAX    10             /* bytes of a 64-bit varint */
#define NO_KEY        SIZE_MAX       /* key_at: no key waits for its value */
#define ELLIPSIS      "\xe2\x80\xa6" /* U+2026: tells the reader of a text that it goes on */
#define ELLIPSIS_SIZE 3

/* A text is cut for want of room only when this much is left of it: a shorter stump tells
 * nothing. */
#define STUMP_MIN 8

static size_t put_varint(unsigned char *to, uint64_t value) {
    size_t size = 0;
    while (value >= 0x80) {
        to[size++] = (unsigned char)(value | 0x80);
        value >>= 7;
    }
    to[size++] = (unsigned char)value;
    return size;
}

static size_t varint_size(uint64_t value) {
    size_t size = 1;
    while (value >= 0x80) {
        value >>= 7;
        size++;
    }
    return size;
}

/* Bytes that may still be written, with the ends of the open containers set aside. */
static size_t room_left(const pom_value_writer_t *w) {
    size_t taken = w->size + (size_t)w->depth;
    return taken < w->room ? w->room - taken : 0;
}

static bool in_map(const pom_value_writer_t *w) {
    return w->depth > 0 && w->open[w->depth - 1] == TAG_MAP;
}

/* Whether a value may stand here: in a map only behind its key, outside everything only once. */
static bool may_put(pom_value_writer_t *w) {
    if (w->skipping > 0) {
        return false;
    }
    if (in_map(w) ? w->key_at == NO_KEY : w->depth == 0 && w->size > 0) {
        w->cut++;
        return false;
    }
    return true;
}

/* The value does not fit: its key goes as well. */
static void drop_value(pom_value_writer_t *w) {
    w->cut++;
    if (w->key_at != NO_KEY) {
        w->size = w->key_at;
        w->key_at = NO_KEY;
    }
}

static void put_scalar(pom_value_writer_t *w, const unsigned char *bytes, size_t size) {
    if (!may_put(w)) {
        return;
    }
    if (size > room_left(w)) {
        drop_value(w);
        return;
    }
    memcpy(w->data + w->size, bytes, size);
    w->size += size;
    w->key_at = NO_KEY;
}

/* The longest beginning of at most `most` bytes that does not end inside a character. */
static size_t cut_at_character(const char *text, size_t most) {
    size_t at = most;
    while (at > 0 && most - at < 4 && ((unsigned char)text[at] & 0xc0) == 0x80) {
        at--;
    }
    /* Four continuation bytes in a row are no UTF-8: any place is as good. */
    return most - at < 4 ? at : most;
}

/* Tag, length, bytes; longer than allowed is cut and marked. False when there is no room for a
 * useful part. */
static bool put_bytes(pom_value_writer_t *w, unsigned char tag, const char *text, size_t size) {
    size_t left = room_left(w);
    bool whole = size <= POM_VALUE_TEXT_MAX && 1 + varint_size(size) + size <= left;
    if (!whole) {
        size_t most = left > 3
                          ? left - 3
                          : 0; /* tag, and two length bytes: POM_VALUE_TEXT_MAX needs no more */
        if (most > POM_VALUE_TEXT_MAX) {
            most = POM_VALUE_TEXT_MAX;
        }
        /* Half a key for want of room would be another key; half a text is still of use. */
        if (tag == TAG_KEY ? most < POM_VALUE_TEXT_MAX : most < STUMP_MIN) {
            return false;
        }
        size = cut_at_character(text, most - ELLIPSIS_SIZE);
        w->cut++;
    }
    unsigned char *to = w->data + w->size;
    *to++ = tag;
    to += put_varint(to, whole ? size : size + ELLIPSIS_SIZE);
    if (size > 0) {
        memcpy(to, text, size);
        to += size;
    }
    if (!whole) {
        memcpy(to, ELLIPSIS, ELLIPSIS_SIZE);
        to += ELLIPSIS_SIZE;
    }
    w->size = (size_t)(to - w->data);
    return true;
}

static void container_begin(pom_value_writer_t *w, unsigned char tag) {
    if (w->skipping > 0) {
        w->skipping++;
        return;
    }
    if (!may_put(w)) {
        w->skipping = 1;
        return;
    }
    if (w->depth == POM_VALUE_DEPTH_MAX) {
        pom_value_text(w, "...", 3);
        w->cut++;
        w->skipping = 1;
        return;
    }
    if (room_left(w) < 2) { /* the tag and its end */
        drop_value(w);
        w->skipping = 1;
        return;
    }
    w->data[w->size++] = tag;
    w->open[w->depth++] = tag;
    w->key_at = NO_KEY;
}

static void container_end(pom_value_writer_t *w) {
    if (w->skipping > 0) {
        w->skipping--;
        return;
    }
    if (w->depth == 0) {
        return;
    }
    if (w->key_at != NO_KEY) {
        drop_value(w);
    }
    w->depth--;
    w->data[w->size++] = TAG_END;
}

void pom_value_begin(pom_value_writer_t *w, void *storage, size_t room) {
    memset(w, 0, sizeof *w);
    w->data = storage;
    w->room = room;
    w->key_at = NO_KEY;
}

void pom_value_map_begin(pom_value_writer_t *w) {
    container_begin(w, TAG_MAP);
}

void pom_value_map_end(pom_value_writer_t *w) {
    container_end(w);
}

void pom_value_list_begin(pom_value_writer_t *w) {
    container_begin(w, TAG_LIST);
}

void pom_value_list_end(pom_value_writer_t *w) {
    container_end(w);
}

void pom_value_key(pom_value_writer_t *w, const char *text, size_t size) {
    if (w->skipping > 0 || !in_map(w)) {
        return;
    }
    if (w->key_at != NO_KEY) {
        drop_value(w); /* the key before got no value */
    }
    size_t at = w->size;
    if (put_bytes(w, TAG_KEY, text, size)) {
        w->key_at = at;
    } /* else its value finds no key, is dropped too, and is what counts */
}

void pom_value_text(pom_value_writer_t *w, const char *text, size_t size) {
    if (!may_put(w)) {
        return;
    }
    if (put_bytes(w, TAG_TEXT, text, size)) {
        w->key_at = NO_KEY;
    } else {
        drop_value(w);
    }
}

static uint64_t zigzag_of(int64_t value) {
    return ((uint64_t)value << 1) ^ (value < 0 ? UINT64_MAX : 0);
}

static void put_signed(pom_value_writer_t *w, unsigned char tag, int64_t value) {
    unsigned char bytes[1 + VARINT_MAX] = {tag};
    put_scalar(w, bytes, 1 + put_varint(bytes + 1, zigzag_of(value)));
}

void pom_value_integer(pom_value_writer_t *w, int64_t value) {
    put_signed(w, TAG_INTEGER, value);
}

void pom_value_seconds(pom_value_writer_t *w, int64_t ns) {
    put_signed(w, TAG_SECONDS, ns);
}

void pom_value_number(pom_value_writer_t *w, double value) {
    unsigned char bytes[1 + sizeof value] = {TAG_NUMBER};
    memcpy(bytes + 1, &value, sizeof value);
    put_scalar(w, bytes, sizeof bytes);
}

void pom_value_boolean(pom_value_writer_t *w, bool value) {
    unsigned char tag = value ? TAG_TRUE : TAG_FALSE;
    put_scalar(w, &tag, 1);
}

void pom_value_null(pom_value_writer_t *w) {
    unsigned char tag = TAG_NULL;
    put_scalar(w, &tag, 1);
}

/* Where the value goes, of at most `most` bytes, behind its key; NULL when the entry must go the
 * long way, since there may be no room, or no map. One look at the writer where a key and a value
 * take two each. */
static unsigned char *entry_begin(pom_value_writer_t *w, const pom_value_key_t *key, size_t most) {
    if (w->skipping > 0 || !in_map(w) || w->key_at != NO_KEY ||
        room_left(w) < 1 + sizeof *key + most) {
        return NULL;
    }
    unsigned char *to = w->data + w->size;
    *to++ = TAG_KEY;
    memcpy(to, key, sizeof *key); /* a known size needs no call; the value overwrites the rest */
    return to + 1 + key->size;
}

static void entry_end(pom_value_writer_t *w, const unsigned char *end) {
    w->size = (size_t)(end - w->data);
}

void pom_value_entry_text(pom_value_writer_t *w, const pom_value_key_t *key, const char *text,
                          size_t size) {
    unsigned char *to =
        size <= POM_VALUE_TEXT_MAX ? entry_begin(w, key, 1 + VARINT_MAX + size) : NULL;
    if (to == NULL) {
        pom_value_key(w, key->text, key->size);
        pom_value_text(w, text, size);
        return;
    }
    *to++ = TAG_TEXT;
    to += put_varint(to, size);
    if (size > 0) {
        memcpy(to, text, size);
    }
    entry_end(w, to + size);
}

static void entry_signed(pom_value_writer_t *w, const pom_value_key_t *key, unsigned char tag,
                         int64_t value) {
    unsigned char *to = entry_begin(w, key, 1 + VARINT_MAX);
    if (to == NULL) {
        pom_value_key(w, key->text, key->size);
        put_signed(w, tag, value);
        return;
    }
    *to++ = tag;
    entry_end(w, to + put_varint(to, zigzag_of(value)));
}

void pom_value_entry_integer(pom_value_writer_t *w, const pom_value_key_t *key, int64_t value) {
    entry_signed(w, key, TAG_INTEGER, value);
}

void pom_value_entry_seconds(pom_value_writer_t *w, const pom_value_key_t *key, int64_t ns) {
    entry_signed(w, key, TAG_SECONDS, ns);
}

size_t pom_value_finish(pom_value_writer_t *w) {
    w->skipping = 0;
    while (w->depth > 0) {
        container_end(w);
    }
    return w->size;
}

typedef struct reader_s {
    const unsigned char *at, *end;
    pom_emitter_t *emitter;
    int depth;
    int bare; /* 1: the outermost container's own begin and end are not emitted */
    unsigned char open[POM_VALUE_DEPTH_MAX];
} reader_t;

/* Of more than one byte. */
static bool get_long_varint(reader_t *r, uint64_t *value) {
    *value = 0;
    for (unsigned shift = 0; shift < 7 * VARINT_MAX && r->at < r->end; shift += 7) {
        unsigned char byte = *r->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            return true;
        }
    }
    return false;
}

static inline bool get_varint(reader_t *r, uint64_t *value) {
    if (r->at < r->end && *r->at < 0x80) { /* nearly all lengths */
        *value = *r->at++;
        return true;
    }
    return get_long_varint(r, value);
}

static inline bool get_bytes(reader_t *r, const char **text, size_t *size) {
    uint64_t length;
    if (!get_varint(r, &length) || length > (uint64_t)(r->end - r->at)) {
        return false;
    }
    *text = (const char *)r->at;
    *size = (size_t)length;
    r->at += length;
    return true;
}

/* Steps over one value; false when it is malformed. */
static bool skip_value(reader_t *r) {
    uint64_t varint;
    const char *text;
    size_t size;
    int depth = 0;
    do {
        if (r->at == r->end) {
            return false;
        }
        switch (*r->at++) {
        case TAG_NULL:
        case TAG_FALSE:
        case TAG_TRUE:
            break;
        case TAG_INTEGER:
        case TAG_SECONDS:
            if (!get_varint(r, &varint)) {
                return false;
            }
            break;
        case TAG_NUMBER:
            if (r->end - r->at < (ptrdiff_t)sizeof(double)) {
                return false;
            }
            r->at += sizeof(double);
            break;
        case TAG_TEXT:
        case TAG_KEY:
            if (!get_bytes(r, &text, &size)) {
                return false;
            }
            break;
        case TAG_MAP:
        case TAG_LIST:
            depth++;
            break;
        case TAG_END:
            depth--;
            break;
        default:
            return false;
        }
    } while (depth > 0);
    return depth == 0;
}

static bool is_one_of(const char *text, size_t size, const char *const *names) {
    while (*names != NULL && (strlen(*names) != size || memcmp(*names, text, size) != 0)) {
        names++;
    }
    return *names != NULL;
}

void pom_value_entries(pom_value_writer_t *w, const void *data, size_t size,
                       const char *const *without) {
    const unsigned char *stream = data;
    if (size <= 2 || stream[0] != TAG_MAP || w->skipping > 0 || !in_map(w) || w->key_at != NO_KEY) {
        return; /* nothing to add, or nowhere to add it */
    }
    size_t entries = size - 2; /* without the map's own tag and end */
    if (entries > room_left(w)) {
        w->cut++;
        return;
    }
    reader_t r = {.at = stream + 1, .end = stream + 1 + entries};
    while (r.at < r.end) {
        const unsigned char *entry = r.at++;
        const char *key;
        size_t key_size;
        if (*entry != TAG_KEY || !get_bytes(&r, &key, &key_size) || !skip_value(&r)) {
            w->cut++; /* malformed: what could be read stands */
            return;
        }
        if (!is_one_of(key, key_size, without)) {
            memcpy(w->data + w->size, entry, (size_t)(r.at - entry));
            w->size += (size_t)(r.at - entry);
        }
    }
}

static bool read_begin(reader_t *r, unsigned char tag) {
    if (r->depth == POM_VALUE_DEPTH_MAX) {
        return false;
    }
    r->open[r->depth++] = tag;
    if (r->depth <= r->bare) {
        return true;
    }
    if (tag == TAG_MAP) {
        r->emitter->ops->map_begin(r->emitter);
    } else {
        r->emitter->ops->list_begin(r->emitter);
    }
    return true;
}

static void read_end(reader_t *r) {
    r->depth--;
    if (r->depth < r->bare) {
        return;
    }
    if (r->open[r->depth] == TAG_MAP) {
        r->emitter->ops->map_end(r->emitter);
    } else {
        r->emitter->ops->list_end(r->emitter);
    }
}

/* One value, or the beginning of one, behind its tag; false when it is malformed and nothing was
 * emitted. */
static bool read_value(reader_t *r, unsigned char tag) {
    pom_emitter_t *e = r->emitter;
    uint64_t zigzag;
    double number;
    const char *text;
    size_t size;
    switch (tag) {
    case TAG_NULL:
        e->ops->null(e);
        return true;
    case TAG_FALSE:
    case TAG_TRUE:
        e->ops->boolean(e, tag == TAG_TRUE);
        return true;
    case TAG_INTEGER:
    case TAG_SECONDS:
        if (!get_varint(r, &zigzag)) {
            return false;
        }
        zigzag = (zigzag >> 1) ^ (0 - (zigzag & 1));
        (tag == TAG_INTEGER ? e->ops->integer : e->ops->seconds)(e, (int64_t)zigzag);
        return true;
    case TAG_NUMBER:
        if (r->end - r->at < (ptrdiff_t)sizeof number) {
            return false;
        }
        memcpy(&number, r->at, sizeof number);
        r->at += sizeof number;
        e->ops->number(e, number);
        return true;
    case TAG_TEXT:
        if (!get_bytes(r, &text, &size)) {
            return false;
        }
        e->ops->text(e, text, size);
        return true;
    case TAG_MAP:
    case TAG_LIST:
        return read_begin(r, tag);
    default:
        return false;
    }
}

static bool read_key(reader_t *r, unsigned char tag) {
    const char *text;
    size_t size;
    if (tag != TAG_KEY || !get_bytes(r, &text, &size)) {
        return false;
    }
    r->emitter->ops->key(r->emitter, text, size);
    return true;
}

/* What may stand at this place of the stream, emitted: the end of the container, a value, in a map
 * one behind its key. False when it is malformed; a key that was emitted has got its value. */
static bool read_item(reader_t *r) {
    if (r->at == r->end) {
        return false;
    }
    unsigned char tag = *r->at++;
    if (tag == TAG_END) {
        read_end(r);
        return true;
    }
    if (r->open[r->depth - 1] != TAG_MAP) {
        return read_value(r, tag);
    }
    if (!read_key(r, tag)) {
        return false;
    }
    if (r->at < r->end && read_value(r, *r->at++)) {
        return true;
    }
    r->emitter->ops->null(r->emitter);
    return false;
}

/* Reads until every container is closed; after bad bytes it closes them itself. */
static pom_status_t read_open(reader_t *r) {
    while (r->depth > 0) {
        if (!read_item(r)) {
            while (r->depth > 0) {
                read_end(r);
            }
            return POM_EINVAL;
        }
    }
    return r->at == r->end ? POM_OK : POM_EINVAL;
}

static void reader_init(reader_t *r, const void *data, size_t size, pom_emitter_t *emitter) {
    static const unsigned char nothing[1];
    memset(r, 0, sizeof *r);
    r->at = data != NULL ? data : nothing;
    r->end = r->at + (data != NULL ? size : 0);
    r->emitter = emitter;
}

pom_status_t pom_value_emit(const void *data, size_t size, pom_emitter_t *emitter) {
    reader_t r;
    reader_init(&r, data, size, emitter);
    if (r.at == r.end) {
        emitter->ops->null(emitter); /* a writer without any room */
        return POM_OK;
    }
    if (!read_value(&r, *r.at++)) {
        emitter->ops->null(emitter);
        return POM_EINVAL;
    }
    return read_open(&r);
}

pom_status_t pom_value_emit_entries(const void *data, size_t size, pom_emitter_t *emitter) {
    reader_t r;
    reader_init(&r, data, size, emitter);
    if (r.at == r.end) {
        return POM_OK;
    }
    if (*r.at++ != TAG_MAP) {
        return POM_EINVAL;
    }
    r.bare = 1;
    (void)read_begin(&r, TAG_MAP); /* the first container is never too deep */
    return read_open(&r);
}
