/* JSON text: escapes, numbers, commas, and what a full buffer or a failing allocation does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "profiles/formats/json.h"
#include "profiles/plain.h"

static pom_buf_t buf;
static pom_json_t json;
static pom_emitter_t *e = &json.emitter;

static int set_up(void **state) {
    pom_buf_init(&buf, 1 << 20);
    pom_json_init(&json, &buf);
    return 0;
}

static int tear_down(void **state) {
    pom_buf_fini(&buf);
    return pom_alloc_live_bytes() == 0 ? 0 : -1;
}

static const char *written(void) {
    static char text[64 * 1024];
    pom_json_finish(&json);
    assert_false(pom_buf_failed(&buf));
    assert_true(buf.len < sizeof text);
    if (buf.len > 0) {
        memcpy(text, buf.data, buf.len);
    }
    text[buf.len] = '\0';
    pom_buf_reset(&buf);
    pom_json_init(&json, &buf);
    return text;
}

static const char *written_text(const char *text, size_t size) {
    e->ops->text(e, text, size);
    return written();
}

static const char *written_number(double value) {
    e->ops->number(e, value);
    return written();
}

static const char *written_seconds(int64_t ns) {
    e->ops->seconds(e, ns);
    return written();
}

static void test_json_separates_values_and_entries(void **state) {
    e->ops->map_begin(e);
    e->ops->key(e, "a", 1);
    e->ops->integer(e, 1);
    e->ops->key(e, "b", 1);
    e->ops->list_begin(e);
    e->ops->list_begin(e);
    e->ops->list_end(e);
    e->ops->null(e);
    e->ops->boolean(e, true);
    e->ops->boolean(e, false);
    e->ops->text(e, "x", 1);
    e->ops->map_begin(e);
    e->ops->map_end(e);
    e->ops->number(e, 0.5);
    e->ops->seconds(e, 1);
    e->ops->moment(e, 0);
    e->ops->list_end(e);
    e->ops->key(e, "", 0);
    e->ops->map_begin(e);
    e->ops->key(e, "c", 1);
    e->ops->null(e);
    e->ops->map_end(e);
    e->ops->map_end(e);
    assert_string_equal(written(), "{\"a\":1,\"b\":[[],null,true,false,\"x\",{},0.5,0.000000001,"
                                   "\"1970-01-01T00:00:00.000000Z\"],\"\":{\"c\":null}}");
}

static void test_json_escapes_text(void **state) {
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"", "\"\""},
        {"plain text of more than eight bytes", "\"plain text of more than eight bytes\""},
        {"\"\\/", "\"\\\"\\\\/\""},
        {"\b\t\n\f\r", "\"\\b\\t\\n\\f\\r\""},
        {"\x01\x0b\x0e\x1f \x7f", "\"\\u0001\\u000b\\u000e\\u001f \x7f\""},
        {"\xc3\xa9", "\"\\u00e9\""},
        {"\xc2\x80", "\"\\u0080\""},
        {"\xdf\xbf\xe0\xa0\x80", "\"\\u07ff\\u0800\""},
        {"\xe2\x82\xac", "\"\\u20ac\""},
        {"\xef\xbf\xbf\xf0\x90\x80\x80", "\"\\uffff\\ud800\\udc00\""},
        {"\xf0\x9f\x98\x80", "\"\\ud83d\\ude00\""},
        {"\xf4\x8f\xbf\xbf", "\"\\udbff\\udfff\""},
        /* bad UTF-8, one replacement a byte */
        {"a\x80z", "\"a\\ufffdz\""},
        {"\xff\xfe", "\"\\ufffd\\ufffd\""},
        {"\xc3", "\"\\ufffd\""},
        {"\xc3z", "\"\\ufffdz\""},
        {"\xe2\x82", "\"\\ufffd\\ufffd\""},
        {"\xe2\x82z", "\"\\ufffd\\ufffdz\""},
        {"\xf0\x9f\x98", "\"\\ufffd\\ufffd\\ufffd\""},
        {"\xc0\xaf", "\"\\ufffd\\ufffd\""},                       /* overlong */
        {"\xe0\x80\xaf", "\"\\ufffd\\ufffd\\ufffd\""},            /* overlong */
        {"\xf0\x80\x80\xaf", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""}, /* overlong */
        {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},            /* a surrogate */
        {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""}, /* beyond U+10FFFF */
        {"\xf8\x88\x80\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_string_equal(written_text(cases[i].text, strlen(cases[i].text)), cases[i].shown);
    }
    assert_string_equal(written_text("a\0b", 3), "\"a\\u0000b\"");
    assert_string_equal(written_text(NULL, 0), "\"\"");
}

static void test_json_escapes_keys(void **state) {
    e->ops->map_begin(e);
    e->ops->key(e, "a\"\n\xc3\xa9", 5);
    e->ops->integer(e, 1);
    e->ops->map_end(e);
    assert_string_equal(written(), "{\"a\\\"\\n\\u00e9\":1}");
}

/* The scan takes eight bytes a step: every byte at every place of it. */
static void test_json_finds_what_to_escape_at_any_place(void **state) {
    for (int byte = 0; byte < 256; byte++) {
        for (size_t at = 0; at < 20; at++) {
            char text[20], shown[64];
            memset(text, 'x', sizeof text);
            text[at] = (char)byte;
            char one[8];
            if (byte == '"' || byte == '\\') {
                (void)snprintf(one, sizeof one, "\\%c", byte);
            } else if (byte >= 0x80) {
                (void)snprintf(one, sizeof one, "\\ufffd");
            } else if (byte >= 0x20) {
                (void)snprintf(one, sizeof one, "%c", byte);
            } else if (byte >= 8 && byte <= 13 && byte != 11) {
                (void)snprintf(one, sizeof one, "\\%c", "btn_fr"[byte - 8]);
            } else {
                (void)snprintf(one, sizeof one, "\\u%04x", (unsigned)byte);
            }
            (void)snprintf(shown, sizeof shown, "\"%.*s%s%.*s\"", (int)at, "xxxxxxxxxxxxxxxxxxxx",
                           one, (int)(19 - at), "xxxxxxxxxxxxxxxxxxxx");
            assert_string_equal(written_text(text, sizeof text), shown);
        }
    }
}

/* No byte hides what is beside it, whichever of the two comes first in the machine's word. */
static void test_json_finds_what_to_escape_beside_anything(void **state) {
    for (int first = 0; first < 256; first++) {
        for (int second = 0; second < 256; second++) {
            char text[8] = "abcdefg";
            text[3] = (char)first;
            text[4] = (char)second;
            bool plain = pom_is_plain(text, 7);
            assert_int_equal(plain, pom_is_plain(text + 3, 1) && pom_is_plain(text + 4, 1));
            text[7] = 'h';
            assert_int_equal(strlen(written_text(text, 8)) == 8 + 2, plain);
            assert_int_equal(strlen(written_text(text + 1, 7)) == 7 + 2, plain);
        }
    }
}

/* Wherever the buffer has to grow. */
static void test_json_texts_of_any_length(void **state) {
    static char long_text[700], expected[64 * 1024];
    memset(long_text, 'x', sizeof long_text);
    for (size_t first = 0; first < 300; first++) {
        size_t size = 0;
        e->ops->list_begin(e);
        for (size_t length = first; length < sizeof long_text; length += 150) {
            size += (size_t)sprintf(expected + size, "%c\"%.*s\",{\"%.*s\":\"\\n%.*s\\n\"}",
                                    size == 0 ? '[' : ',', (int)length, long_text, (int)length,
                                    long_text, (int)length, long_text);
            e->ops->plain(e, long_text, length);
            e->ops->map_begin(e);
            e->ops->key(e, long_text, length);
            char escaped[sizeof long_text + 2] = "\n";
            memcpy(escaped + 1, long_text, length);
            escaped[length + 1] = '\n';
            e->ops->text(e, escaped, length + 2);
            e->ops->map_end(e);
        }
        e->ops->list_end(e);
        (void)strcpy(expected + size, "]");
        assert_string_equal(written(), expected);
        pom_buf_fini(&buf);
        pom_json_init(&json, &buf);
    }
}

/* Each character of it is written as six: the room that the text itself needs is not enough. */
static void test_json_escapes_of_any_length(void **state) {
    static char bells[400], expected[6 * sizeof bells + 3];
    memset(bells, '\a', sizeof bells);
    for (size_t length = 0; length <= sizeof bells; length++) {
        char *to = stpcpy(expected, "\"");
        for (size_t i = 0; i < length; i++) {
            to = stpcpy(to, "\\u0007");
        }
        (void)strcpy(to, "\"");
        assert_string_equal(written_text(bells, length), expected);
        pom_buf_fini(&buf);
        pom_json_init(&json, &buf);
    }
}

static void test_json_random_text_is_ascii_on_one_line(void **state) {
    for (uint64_t i = 0; i < 20000; i++) {
        char text[40];
        size_t size = pom_hash_mix(i) % (sizeof text + 1);
        for (size_t at = 0; at < size; at++) {
            uint64_t r = pom_hash_mix(i * 64 + at);
            text[at] =
                (char)(r % 3 == 0 ? 0x80 | (r >> 8 & 0x3f) : r >> 16); /* many continuation bytes */
        }
        const char *shown = written_text(text, size);
        for (const char *c = shown; *c != '\0'; c++) {
            assert_true(*c >= 0x20);
        }
        assert_int_equal(shown[strlen(shown) - 1], '"');
    }
}

static void test_json_integers_are_exact(void **state) {
    static const int64_t values[] = {0, 7, -1, 10, 1234567890123, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        e->ops->integer(e, values[i]);
        assert_int_equal(strtoll(written(), NULL, 10), values[i]);
    }
    e->ops->integer(e, INT64_MIN);
    assert_string_equal(written(), "-9223372036854775808");
}

static void test_json_seconds_are_plain_decimals(void **state) {
    assert_string_equal(written_seconds(0), "0.0");
    assert_string_equal(written_seconds(1), "0.000000001");
    assert_string_equal(written_seconds(12500000), "0.0125");
    assert_string_equal(written_seconds(1000000000), "1.0");
    assert_string_equal(written_seconds(1010000000), "1.01");
    assert_string_equal(written_seconds(123456789012), "123.456789012");
    assert_string_equal(written_seconds(-500000000), "-0.5");
    assert_string_equal(written_seconds(INT64_MAX), "9223372036.854775807");
    assert_string_equal(written_seconds(INT64_MIN), "-9223372036.854775808");
}

static void test_json_moments_have_microseconds_and_z(void **state) {
    e->ops->moment(e, INT64_C(1795177123456789000)); /* 1795132800 is 2026-11-20 */
    assert_string_equal(written(), "\"2026-11-20T12:18:43.456789Z\"");
}

/* Each as if it were the first: around a second, far away and back, before 1970, at both ends of
 * time. */
static void test_json_moments_do_not_depend_on_the_last_one(void **state) {
    static const int64_t second = INT64_C(1795177123000000000);
    static const int64_t moments[] = {
        second,    second + 1, second + 999999999, second + 1000000000, second - 1, second + 500000,
        0,         -1,         -1000000000,        -1000000001,         0,          INT64_MAX,
        INT64_MIN, INT64_MAX,  second + 123456789, INT64_MIN,           -999999999, second};
    char expected[sizeof moments / sizeof moments[0] * 30 + 8] = "[";
    e->ops->list_begin(e);
    for (size_t i = 0; i < sizeof moments / sizeof moments[0]; i++) {
        char moment[28];
        pom_format_moment(moments[i], moment);
        (void)snprintf(expected + strlen(expected), 32, "%s\"%s\"", i == 0 ? "" : ",", moment);
        e->ops->moment(e, moments[i]);
    }
    e->ops->list_end(e);
    (void)strcat(expected, "]");
    assert_string_equal(written(), expected);
}

static void test_json_names_with_and_without_a_comma(void **state) {
    e->ops->map_begin(e);
    POM_EMIT_NAME(e, "a");
    e->ops->integer(e, 1);
    POM_EMIT_NAME(e, "as_long_as_it_gets__");
    e->ops->integer(e, 2);
    POM_EMIT_NAME(e, "");
    e->ops->map_begin(e);
    POM_EMIT_NAME(e, "as_long_as_it_gets__");
    e->ops->null(e);
    e->ops->map_end(e);
    e->ops->map_end(e);
    assert_string_equal(written(), "{\"a\":1,\"as_long_as_it_gets__\":2,\"\":{"
                                   "\"as_long_as_it_gets__\":null}}");
}

static void test_json_numbers_are_the_shortest_that_read_back(void **state) {
    assert_string_equal(written_number(0.1), "0.1");
    assert_string_equal(written_number(0.1 + 0.2), "0.30000000000000004");
    assert_string_equal(written_number(1.0), "1.0");
    assert_string_equal(written_number(-0.0), "-0.0");
    assert_string_equal(written_number(123456789.0), "123456789.0");
    assert_string_equal(written_number(1e300), "1e+300");
    assert_string_equal(written_number(5e-324), "4.94065645841247e-324");
    assert_string_equal(written_number(-1.7976931348623157e308), "-1.7976931348623157e+308");
    assert_string_equal(written_number((double)NAN), "null");
    assert_string_equal(written_number((double)INFINITY), "null");
    assert_string_equal(written_number(-(double)INFINITY), "null");
    for (uint64_t i = 1; i < 20000; i++) {
        uint64_t bits = pom_hash_mix(i);
        double value;
        memcpy(&value, &bits, sizeof value);
        if (isfinite(value)) {
            assert_true(strtod(written_number(value), NULL) == value);
        }
    }
}

/* The stand-in for a locale whose decimal point is a comma, as few machines have one installed:
 * the C library's answer is wrapped. With several bytes, as in ps_AF (U+066B), it is the
 * hardest. */
static const char *decimal_point = ".";
int __wrap_snprintf(char *to, size_t size, const char *format, ...);
int __wrap_snprintf(char *to, size_t size, const char *format, ...) {
    char plain[256];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(plain, sizeof plain, format, args);
    va_end(args);
    const char *point = strchr(plain, '.');
    if (point == NULL || strcmp(decimal_point, ".") == 0) {
        (void)memcpy(to, plain, (size_t)length + 1 < size ? (size_t)length + 1 : size);
        return length;
    }
    size_t before = (size_t)(point - plain);
    char *end = stpcpy((char *)memcpy(to, plain, before) + before, decimal_point);
    (void)strcpy(end, point + 1);
    return length + (int)strlen(decimal_point) - 1;
}

double __real_strtod(const char *text, char **end);
double __wrap_strtod(const char *text, char **end);
double __wrap_strtod(const char *text, char **end) {
    char plain[256];
    const char *point = strstr(text, decimal_point);
    if (point == NULL) {
        return __real_strtod(text, end);
    }
    size_t before = (size_t)(point - text);
    memcpy(plain, text, before);
    plain[before] = '.';
    (void)strcpy(plain + before + 1, point + strlen(decimal_point));
    return __real_strtod(plain, end);
}

static void test_json_numbers_ignore_the_locale(void **state) {
    static const char *const points[] = {",", "\xd9\xab"};
    for (size_t i = 0; i < 2; i++) {
        decimal_point = points[i];
        assert_string_equal(written_number(-1234.5), "-1234.5");
        assert_string_equal(written_number(2.5e-20), "2.5e-20");
        assert_string_equal(written_number(3.0), "3.0");
        assert_string_equal(written_number(0.1 + 0.2), "0.30000000000000004");
        e->ops->seconds(e, 1500000000);
        assert_string_equal(written(), "1.5");
    }
    decimal_point = ".";
}

static void put_some(pom_emitter_t *to) {
    to->ops->map_begin(to);
    to->ops->key(to, "text \xc3\xa9", 7);
    to->ops->text(to, "a longer text with \xc3\xa9\xc3\xa9 and \n in it, again and again and again",
                  61);
    to->ops->key(to, "list", 4);
    to->ops->list_begin(to);
    for (int i = 0; i < 40; i++) {
        to->ops->integer(to, i);
        to->ops->number(to, i / 7.0);
        to->ops->seconds(to, i);
        to->ops->moment(to, i);
        to->ops->null(to);
    }
    to->ops->list_end(to);
    to->ops->map_end(to);
}

static void test_json_goes_quiet_in_a_full_buffer(void **state) {
    put_some(e);
    pom_json_finish(&json);
    size_t needed = buf.len;
    for (size_t cap = 0; cap < needed; cap += 7) {
        pom_buf_t small;
        pom_json_t writer;
        pom_buf_init(&small, cap);
        pom_json_init(&writer, &small);
        put_some(&writer.emitter);
        pom_json_finish(&writer);
        assert_true(pom_buf_failed(&small));
        pom_buf_fini(&small);
    }
}

static void test_json_goes_quiet_without_memory(void **state) {
    for (int64_t n = 1;; n++) {
        pom_buf_t fresh;
        pom_json_t writer;
        pom_buf_init(&fresh, 1 << 20);
        pom_json_init(&writer, &fresh);
        pom_alloc_fail_from(n);
        put_some(&writer.emitter);
        pom_json_finish(&writer);
        int64_t calls = pom_alloc_calls();
        pom_alloc_fail_from(0);
        bool failed = pom_buf_failed(&fresh);
        pom_buf_fini(&fresh);
        assert_int_equal(failed, calls >= n);
        if (!failed) {
            assert_true(n > 1);
            break;
        }
    }
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(test_json_separates_values_and_entries),
        CASE(test_json_escapes_text),
        CASE(test_json_escapes_keys),
        CASE(test_json_finds_what_to_escape_at_any_place),
        CASE(test_json_finds_what_to_escape_beside_anything),
        CASE(test_json_texts_of_any_length),
        CASE(test_json_escapes_of_any_length),
        CASE(test_json_random_text_is_ascii_on_one_line),
        CASE(test_json_integers_are_exact),
        CASE(test_json_seconds_are_plain_decimals),
        CASE(test_json_moments_have_microseconds_and_z),
        CASE(test_json_moments_do_not_depend_on_the_last_one),
        CASE(test_json_names_with_and_without_a_comma),
        CASE(test_json_numbers_are_the_shortest_that_read_back),
        CASE(test_json_numbers_ignore_the_locale),
        CASE(test_json_goes_quiet_in_a_full_buffer),
        CASE(test_json_goes_quiet_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
