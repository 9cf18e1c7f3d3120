/*
 * JSON text of a record, RFC 8259, appended to a buffer.
 *
 * Between two calls there is room for the longest piece of bounded length, so that nearly every
 * call of the emitter writes in place without a look at the buffer and asks for room at its end, if
 * at all: a record of five nodes is some two hundred calls, and this is the cost that shipping a
 * profile has. In a buffer that has failed they write to a place of their own, which nobody reads.
 * Commas need no stack: one is due exactly when the last thing written was a value.
 *
 * The text is ASCII only, so it passes through any terminal, log pipeline or reader whatever its
 * encoding. Numbers are written without the C library where it would ask the locale: an embedding
 * program may have set one whose decimal point is a comma.
 *
 * Runs on any thread. A full buffer is the buffer's own failure state; nothing here reports it.
 *
 * Over 400 lines: all of it is the one emitter, a function or two for each kind of value.
 */
#include "profiles/formats/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "profiles/formats/record.h"
#include "profiles/formats/utf8.h"
#include "profiles/plain.h"

#define INTEGER_MAX 20 /* characters of INT64_MIN, and digits of UINT64_MAX */
#define NUMBER_MAX  32 /* "-1.7976931348623157e+308" is 24 */

_Static_assert(POM_JSON_PIECE >= 1 + POM_JSON_MOMENT && POM_JSON_PIECE >= 1 + NUMBER_MAX + 2 &&
                   POM_JSON_PIECE >= POM_NAME_ROOM,
               "the longest pieces fit, with a comma before them");

static pom_json_t *json_of(pom_emitter_t *self) {
    return POM_CONTAINER(self, pom_json_t, emitter);
}

/* Kept apart from its callers, which are shorter then and save no registers for it. */
#define SELDOM __attribute__((noinline))

/* Goes on in the buffer, with room for `size` bytes and any piece. */
static bool enter(pom_json_t *json, size_t size) {
    pom_buf_t *buf = json->buf;
    char *to = pom_buf_reserve(buf, size + POM_JSON_PIECE);
    json->at = to != NULL ? to : json->nowhere;
    json->limit = to != NULL ? buf->data + buf->room - POM_JSON_PIECE : json->nowhere;
    return to != NULL;
}

static void leave(pom_json_t *json) {
    if (!pom_buf_failed(json->buf)) {
        json->buf->len = (size_t)(json->at - json->buf->data);
    }
}

/* Whether a piece may follow on `size` bytes from `to` on. */
static inline bool has_room(const pom_json_t *json, const char *to, size_t size) {
    return json->limit - to >= (ptrdiff_t)size;
}

SELDOM static bool make_room(pom_json_t *json, size_t size) {
    leave(json);
    return enter(json, size);
}

/* What is written up to `end` stands. */
static inline void end_piece(pom_json_t *json, char *end, bool comma) {
    json->at = end;
    json->comma = comma;
    if (!has_room(json, end, 0)) {
        (void)make_room(json, 0); /* or what follows goes nowhere */
    }
}

/* Where a value is written to, the comma before it if due. */
static inline char *value_begin(pom_json_t *json) {
    *json->at = ',';
    return json->at + json->comma;
}

static inline void value_end(pom_json_t *json, char *end) {
    end_piece(json, end, true);
}

static inline void put_short(pom_json_t *json, const char *text, size_t size) {
    char *to = value_begin(json);
    memcpy(to, text, size);
    value_end(json, to + size);
}

static inline void open_with(pom_emitter_t *self, char c) {
    pom_json_t *json = json_of(self);
    char *to = value_begin(json);
    *to = c;
    end_piece(json, to + 1, false);
}

static inline void close_with(pom_emitter_t *self, char c) {
    pom_json_t *json = json_of(self);
    *json->at = c;
    value_end(json, json->at + 1);
}

static void json_map_begin(pom_emitter_t *self) {
    open_with(self, '{');
}

static void json_map_end(pom_emitter_t *self) {
    close_with(self, '}');
}

static void json_list_begin(pom_emitter_t *self) {
    open_with(self, '[');
}

static void json_list_end(pom_emitter_t *self) {
    close_with(self, ']');
}

static inline uint64_t load_8(const char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint32_t load_4(const char *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Copies the beginning that needs no escape and returns its length. Eight bytes a step, and the
 * rest by a load that overlaps the one before: nearly all texts are plain. */
static inline size_t copy_plain(char *to, const char *text, size_t size) {
    size_t at = 0;
    while (at + 8 <= size) {
        uint64_t word = load_8(text + at);
        if (!pom_is_plain_word(word)) {
            break;
        }
        memcpy(to + at, &word, 8);
        at += 8;
    }
    if (at + 8 > size && size >= 8) {
        uint64_t word = load_8(text + size - 8);
        if (pom_is_plain_word(word)) {
            memcpy(to + size - 8, &word, 8);
            return size;
        }
    } else if (size >= 4 && size < 8) {
        uint32_t first = load_4(text), last = load_4(text + size - 4);
        if (pom_is_plain_word((uint64_t)first << 32 | last)) {
            memcpy(to, &first, 4);
            memcpy(to + size - 4, &last, 4);
            return size;
        }
    }
    for (; at < size && pom_is_plain_byte((unsigned char)text[at]); at++) {
        to[at] = text[at];
    }
    return at;
}

static char *put_unit(char *to, uint32_t unit) {
    static const char digits[] = "0123456789abcdef";
    *to++ = '\\';
    *to++ = 'u';
    *to++ = digits[unit >> 12 & 15];
    *to++ = digits[unit >> 8 & 15];
    *to++ = digits[unit >> 4 & 15];
    *to++ = digits[unit & 15];
    return to;
}

static char *put_escape(char *to, uint32_t point) {
    /* Indexed from 8: \b \t \n, no vertical tab, \f \r. */
    static const char control[] = "btn\0fr";
    if (point == '"' || point == '\\') {
        *to++ = '\\';
        *to++ = (char)point;
        return to;
    }
    if (point >= 8 && point <= 13 && control[point - 8] != '\0') {
        *to++ = '\\';
        *to++ = control[point - 8];
        return to;
    }
    if (point >= 0x10000) {
        to = put_unit(to, 0xd800 + ((point - 0x10000) >> 10));
        return put_unit(to, 0xdc00 + ((point - 0x10000) & 0x3ff));
    }
    return put_unit(to, point);
}

static inline void end_quoted(pom_json_t *json, char *to, bool is_key) {
    to[0] = '"';
    to[1] = ':';
    end_piece(json, to + 1 + is_key, !is_key);
}

/* The rest of a text, from the first character on that is not plain. */
SELDOM static void put_escaped(pom_json_t *json, const char *text, size_t size, bool is_key) {
    char *to = json->at;
    while (size > 0) {
        if (!has_room(json, to, size)) {
            json->at = to;
            if (!make_room(json, size)) {
                return;
            }
            to = json->at;
        }
        size_t used;
        to = put_escape(to, pom__utf8_decode((const unsigned char *)text, size, &used));
        size_t plain = copy_plain(to, text + used, size - used);
        to += plain;
        text += used + plain;
        size -= used + plain;
    }
    end_quoted(json, to, is_key);
}

SELDOM static void put_in_more_room(pom_json_t *json, const char *text, size_t size, bool is_key) {
    if (make_room(json, size)) {
        pom_emitter_t *self = &json->emitter;
        (is_key ? self->ops->key : self->ops->text)(self, text, size);
    }
}

/* The text in quotes, a colon behind a key. */
static inline void put_quoted(pom_json_t *json, const char *text, size_t size, bool is_key) {
    if (!has_room(json, json->at, size)) {
        put_in_more_room(json, text, size, is_key);
        return;
    }
    char *to = value_begin(json);
    *to++ = '"';
    size_t plain = copy_plain(to, text, size);
    to += plain;
    if (plain < size) {
        json->at = to;
        put_escaped(json, text + plain, size - plain, is_key);
        return;
    }
    end_quoted(json, to, is_key);
}

static void json_key(pom_emitter_t *self, const char *text, size_t size) {
    put_quoted(json_of(self), text, size, true);
}

static void json_text(pom_emitter_t *self, const char *text, size_t size) {
    put_quoted(json_of(self), text, size, false);
}

static void json_plain(pom_emitter_t *self, const char *text, size_t size) {
    pom_json_t *json = json_of(self);
    if (!has_room(json, json->at, size)) {
        put_in_more_room(json, text, size, false);
        return;
    }
    char *to = value_begin(json);
    *to++ = '"';
    memcpy(to, text, size);
    end_quoted(json, to + size, false);
}

static void json_name(pom_emitter_t *self, const pom_key_t *name) {
    pom_json_t *json = json_of(self);
    size_t skipped = json->comma ? 0 : 1;
    memcpy(json->at, name->text + skipped, POM_NAME_ROOM);
    end_piece(json, json->at + name->size - skipped, false);
}

/* Two digits a step: they were a quarter of what a record cost. */
static void put_pair(char *to, uint32_t value) {
    static const char pairs[] = "00010203040506070809"
                                "10111213141516171819"
                                "20212223242526272829"
                                "30313233343536373839"
                                "40414243444546474849"
                                "50515253545556575859"
                                "60616263646566676869"
                                "70717273747576777879"
                                "80818283848586878889"
                                "90919293949596979899";
    memcpy(to, pairs + (size_t)2 * value, 2);
}

static void put_four(char *to, uint32_t value) {
    put_pair(to, value / 100);
    put_pair(to + 2, value % 100);
}

static void put_six(char *to, uint32_t value) {
    put_pair(to, value / 10000);
    put_four(to + 2, value % 10000);
}

static void put_nine(char *to, uint32_t value) {
    uint32_t high = value / 10000;
    *to = (char)('0' + high / 10000);
    put_four(to + 1, high % 10000);
    put_four(to + 5, value % 10000);
}

SELDOM static char *put_many_digits(char *to, uint64_t value) {
    size_t size = 2;
    for (uint64_t least = 100; size < INTEGER_MAX && value >= least; least *= 10) {
        size++;
    }
    char *end = to + size, *at = end;
    for (; value >= 100; value /= 100) {
        at -= 2;
        put_pair(at, (uint32_t)(value % 100));
    }
    if (value >= 10) {
        put_pair(to, (uint32_t)value);
    } else {
        *to = (char)('0' + value);
    }
    return end;
}

static inline char *put_unsigned(char *to, uint64_t value) {
    if (value >= 10) {
        return put_many_digits(to, value);
    }
    *to = (char)('0' + value);
    return to + 1;
}

/* The size of a negative number without the overflow of -INT64_MIN. */
static uint64_t magnitude(int64_t value) {
    return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

static void json_integer(pom_emitter_t *self, int64_t value) {
    pom_json_t *json = json_of(self);
    char *to = value_begin(json);
    if (value < 0) {
        *to++ = '-';
    }
    value_end(json, put_unsigned(to, magnitude(value)));
}

/* Exact decimal seconds, never with an exponent, at least one decimal: readers see a float and
 * people can read it. */
static void json_seconds(pom_emitter_t *self, int64_t ns) {
    pom_json_t *json = json_of(self);
    char *to = value_begin(json);
    if (ns < 0) {
        *to++ = '-';
    }
    uint64_t whole = 0, rest = magnitude(ns);
    if (rest >= (uint64_t)POM_NS_PER_S) { /* seldom, and the division is dear */
        whole = rest / (uint64_t)POM_NS_PER_S;
        rest %= (uint64_t)POM_NS_PER_S;
    }
    to = put_unsigned(to, whole);
    *to++ = '.';
    if (rest == 0) { /* most self times */
        *to++ = '0';
        value_end(json, to);
        return;
    }
    put_nine(to, (uint32_t)rest);
    to += 9;
    while (to[-1] == '0') {
        to--;
    }
    value_end(json, to);
}

/* The moments of a record lie in one second or two: its text is kept, and only the digits below it
 * are new. */
static void json_moment(pom_emitter_t *self, int64_t wall_ns) {
    pom_json_t *json = json_of(self);
    char *moment = json->moment + 1; /* behind the quote */
    int64_t second = wall_ns / POM_NS_PER_S, rest_ns = wall_ns % POM_NS_PER_S;
    if (rest_ns < 0) {
        rest_ns += POM_NS_PER_S;
        second--;
    }
    if (second == json->second && moment[-1] != '\0') {
        put_six(moment + 20, (uint32_t)rest_ns / (uint32_t)POM_NS_PER_US);
    } else {
        pom_format_moment(wall_ns, moment);
        moment[-1] = moment[POM_JSON_MOMENT - 2] = '"'; /* over the NUL */
        json->second = second;
    }
    put_short(json, json->moment, POM_JSON_MOMENT);
}

static void json_null(pom_emitter_t *self) {
    put_short(json_of(self), "null", 4);
}

static void json_boolean(pom_emitter_t *self, bool value) {
    if (value) {
        put_short(json_of(self), "true", 4);
    } else {
        put_short(json_of(self), "false", 5);
    }
}

/*
 * The shortest of 15, 16 and 17 digits that reads back as the same double. snprintf and strtod
 * agree on the locale's decimal point, which may be several bytes; whatever is not a digit, sign or
 * exponent is it, and becomes a point.
 */
static void json_number(pom_emitter_t *self, double value) {
    if (!isfinite(value)) {
        json_null(self); /* JSON has no word for it */
        return;
    }
    char local[NUMBER_MAX];
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(local, sizeof local, "%.*g", digits,
                       value); /* longest is 24: it always fits */
        if (strtod(local, NULL) == value) {
            break;
        }
    }
    char text[NUMBER_MAX + 2];
    size_t size = 0;
    bool is_float = false;
    for (const char *from = local; *from != '\0'; from++) {
        if (strchr("0123456789+-e", *from) != NULL) {
            is_float = is_float || *from == 'e';
            text[size++] = *from;
        } else if (text[size - 1] != '.') {
            is_float = true;
            text[size++] = '.';
        }
    }
    if (!is_float) { /* 1.0 stays a float for the reader */
        text[size++] = '.';
        text[size++] = '0';
    }
    put_short(json_of(self), text, size);
}

static const pom_emitter_ops_t json_ops = {
    .map_begin = json_map_begin,
    .map_end = json_map_end,
    .list_begin = json_list_begin,
    .list_end = json_list_end,
    .key = json_key,
    .name = json_name,
    .text = json_text,
    .plain = json_plain,
    .integer = json_integer,
    .number = json_number,
    .seconds = json_seconds,
    .moment = json_moment,
    .boolean = json_boolean,
    .null = json_null,
};

void pom_json_init(pom_json_t *json, pom_buf_t *buf) {
    json->emitter.ops = &json_ops;
    json->buf = buf;
    json->comma = false;
    json->moment[0] = '\0';
    json->second = 0;
    (void)enter(json, 0);
}

void pom_json_finish(pom_json_t *json) {
    leave(json);
}

void pom_json_put_line(pom_buf_t *buf, const pom_profile_t *profile) {
    pom_json_t json;
    pom_json_init(&json, buf);
    pom_record_emit(profile, &json.emitter, POM_RECORD_DEPTH_JSON);
    pom_json_finish(&json);
    pom_buf_put_char(buf, '\n');
}

void pom_json_put_report(pom_buf_t *buf, const pom_client_report_t *report, pom_text_t source,
                         int32_t pid) {
    pom_json_t json;
    pom_json_init(&json, buf);
    pom_client_report_emit(report, source, pid, &json.emitter);
    pom_json_finish(&json);
    pom_buf_put_char(buf, '\n');
}
