/*
 * JSON text of a record, RFC 8259, appended to a buffer.
 *
 * Every call of the emitter reserves its worst case once and writes in place: a record of five
 * nodes is some two hundred calls, and this is the cost that shipping a profile has. Commas need no
 * stack: one is due exactly when the last thing written was a value.
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

#define INTEGER_MAX 20 /* characters of INT64_MIN, and digits of UINT64_MAX */
#define SECONDS_MAX 22 /* sign, 10 digits, point, 9 digits, and one spare */
#define NUMBER_MAX  32 /* "-1.7976931348623157e+308" is 24 */
#define ESCAPE_MAX  12 /* a surrogate pair */

static pom_json_t *json_of(pom_emitter_t *self) {
    return POM_CONTAINER(self, pom_json_t, emitter);
}

/* pom_buf_reserve without the call while there is room: two hundred times a record. */
static char *reserve(pom_buf_t *buf, size_t size) {
    if (buf->data != NULL && size <= buf->room - buf->len) {
        return buf->data + buf->len;
    }
    return pom_buf_reserve(buf, size);
}

/* Room for a comma and `size` bytes, the comma written if due; NULL when the buffer has failed. */
static inline char *value_begin(pom_json_t *json, size_t size) {
    char *to = reserve(json->buf, size + 1);
    if (to != NULL && json->comma) {
        *to++ = ',';
    }
    return to;
}

static void value_end(pom_json_t *json, const char *end) {
    json->buf->len = (size_t)(end - json->buf->data);
    json->comma = true;
}

static void put_short(pom_json_t *json, const char *text, size_t size) {
    char *to = value_begin(json, size);
    if (to != NULL) {
        memcpy(to, text, size);
        value_end(json, to + size);
    }
}

static void open_with(pom_emitter_t *self, char c) {
    pom_json_t *json = json_of(self);
    char *to = value_begin(json, 1);
    if (to != NULL) {
        *to++ = c;
        value_end(json, to);
        json->comma = false;
    }
}

static void close_with(pom_emitter_t *self, char c) {
    pom_json_t *json = json_of(self);
    pom_buf_put_char(json->buf, c);
    json->comma = true;
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

#define EACH_BYTE(b) (UINT64_C(0x0101010101010101) * (b))
#define HIGH_BITS    EACH_BYTE(0x80)

/* High bit set in some byte of the result when some byte of x is zero. */
static uint64_t zero_bytes(uint64_t x) {
    return (x - EACH_BYTE(1)) & ~x & HIGH_BITS;
}

static bool is_plain(unsigned char c) {
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* is_plain of all eight bytes. */
static bool is_plain_word(uint64_t word) {
    uint64_t control = (word - EACH_BYTE(0x20)) & ~word & HIGH_BITS;
    uint64_t other = word & HIGH_BITS;
    return (control | other | zero_bytes(word ^ EACH_BYTE('"')) |
            zero_bytes(word ^ EACH_BYTE('\\'))) == 0;
}

static uint64_t load_8(const char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static uint32_t load_4(const char *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Length of the beginning that needs no escape. Eight bytes a step, and the rest by a load that
 * overlaps the one before: keys and file names are most of a record, and nearly all of them are
 * plain. */
static size_t plain_length(const char *text, size_t size) {
    size_t at = 0;
    while (size - at >= 8 && is_plain_word(load_8(text + at))) {
        at += 8;
    }
    if (size - at < 8) {
        if (size >= 8) {
            if (is_plain_word(load_8(text + size - 8))) {
                return size;
            }
        } else if (size >= 4) {
            if (is_plain_word((uint64_t)load_4(text) << 32 | load_4(text + size - 4))) {
                return size;
            }
        }
    }
    while (at < size && is_plain((unsigned char)text[at])) {
        at++;
    }
    return at;
}

#define SHORT_MAX 16

/* Copies at most SHORT_MAX bytes, by loads that overlap as above: a call of memcpy costs more. */
static inline void copy_short(char *to, const char *text, size_t size) {
    if (size >= 8) {
        uint64_t first = load_8(text), last = load_8(text + size - 8);
        memcpy(to, &first, 8);
        memcpy(to + size - 8, &last, 8);
    } else if (size >= 4) {
        uint32_t first = load_4(text), last = load_4(text + size - 4);
        memcpy(to, &first, 4);
        memcpy(to + size - 4, &last, 4);
    } else {
        for (size_t i = 0; i < size; i++) {
            to[i] = text[i];
        }
    }
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

/* The text in quotes. */
static void put_quoted(pom_json_t *json, const char *text, size_t size) {
    if (size == 0) {
        text = ""; /* may be NULL */
    }
    size_t plain = plain_length(text, size);
    char *to = value_begin(json, plain + 2 + ESCAPE_MAX);
    if (to == NULL) {
        return;
    }
    *to++ = '"';
    for (;;) {
        memcpy(to, text, plain);
        to += plain;
        text += plain;
        size -= plain;
        if (size == 0) {
            break;
        }
        size_t used;
        uint32_t point = pom__utf8_decode((const unsigned char *)text, size, &used);
        to = put_escape(to, point);
        text += used;
        size -= used;
        plain = plain_length(text, size);
        json->buf->len = (size_t)(to - json->buf->data);
        to = reserve(json->buf, plain + 1 + ESCAPE_MAX);
        if (to == NULL) {
            return;
        }
    }
    *to++ = '"';
    value_end(json, to);
}

static void json_key(pom_emitter_t *self, const char *text, size_t size) {
    pom_json_t *json = json_of(self);
    put_quoted(json, text, size);
    pom_buf_put_char(json->buf, ':');
    json->comma = false;
}

static void json_name(pom_emitter_t *self, const char *text, size_t size) {
    if (size > SHORT_MAX) {
        json_key(self, text, size);
        return;
    }
    pom_json_t *json = json_of(self);
    char *to = value_begin(json, SHORT_MAX + 3);
    if (to != NULL) {
        *to++ = '"';
        copy_short(to, text, size);
        to += size;
        *to++ = '"';
        *to++ = ':';
        value_end(json, to);
        json->comma = false;
    }
}

static void json_text(pom_emitter_t *self, const char *text, size_t size) {
    put_quoted(json_of(self), text, size);
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

static void put_six(char *to, uint32_t value) {
    put_pair(to, value / 10000);
    put_pair(to + 2, value / 100 % 100);
    put_pair(to + 4, value % 100);
}

static char *put_unsigned(char *to, uint64_t value) {
    char digits[INTEGER_MAX];
    size_t at = sizeof digits;
    while (value >= 10) {
        at -= 2;
        put_pair(digits + at, (uint32_t)(value % 100));
        value /= 100;
    }
    if (value > 0 || at == sizeof digits) {
        digits[--at] = (char)('0' + value);
    }
    memcpy(to, digits + at, sizeof digits - at);
    return to + (sizeof digits - at);
}

/* The size of a negative number without the overflow of -INT64_MIN. */
static uint64_t magnitude(int64_t value) {
    return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

static void json_integer(pom_emitter_t *self, int64_t value) {
    pom_json_t *json = json_of(self);
    char *to = value_begin(json, INTEGER_MAX);
    if (to == NULL) {
        return;
    }
    if (value < 0) {
        *to++ = '-';
    }
    value_end(json, put_unsigned(to, magnitude(value)));
}

/* Exact decimal seconds, never with an exponent, at least one decimal: readers see a float and
 * people can read it. */
static void json_seconds(pom_emitter_t *self, int64_t ns) {
    pom_json_t *json = json_of(self);
    char *to = value_begin(json, SECONDS_MAX);
    if (to == NULL) {
        return;
    }
    if (ns < 0) {
        *to++ = '-';
    }
    uint64_t all = magnitude(ns);
    uint32_t rest = (uint32_t)(all % (uint64_t)POM_NS_PER_S);
    to = put_unsigned(to, all / (uint64_t)POM_NS_PER_S);
    *to++ = '.';
    if (rest == 0) { /* most self times */
        *to++ = '0';
        value_end(json, to);
        return;
    }
    put_six(to + 3, rest % 1000000);
    rest /= 1000000;
    put_pair(to + 1, rest % 100);
    *to = (char)('0' + rest / 100);
    to += 9;
    while (to[-1] == '0') {
        to--;
    }
    value_end(json, to);
}

/* The moments of a record lie in one second or two: its text is kept, and only the digits below it are new. */
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
}

void pom_json_put_line(pom_buf_t *buf, const pom_profile_t *profile) {
    pom_json_t json;
    pom_json_init(&json, buf);
    pom_record_emit(profile, &json.emitter, POM_RECORD_DEPTH_JSON);
    pom_buf_put_char(buf, '\n');
}

void pom_json_put_report(pom_buf_t *buf, const pom_client_report_t *report, pom_text_t source,
                         int32_t pid) {
    pom_json_t json;
    pom_json_init(&json, buf);
    pom_client_report_emit(report, source, pid, &json.emitter);
    pom_buf_put_char(buf, '\n');
}
