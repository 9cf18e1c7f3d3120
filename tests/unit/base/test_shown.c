/* Texts in messages: escaped, cut, and never past the room. */
#include "tests/unit/support/test_support.h"

#include "base/shown.h"

#include <string.h>

static void test_shown_is_one_line_of_ascii(void **state) {
    static const struct {
        const char *text, *shown;
    } rows[] = {
        {"", ""},
        {"X-Name: a", "X-Name: a"},
        {"a\r\nY: b", "a\\x0d\\x0aY: b"},
        {"\t\x1b[2J\x7f", "\\x09\\x1b[2J\\x7f"},
        {"caf\xc3\xa9 \xc2\x9b", "caf\\xc3\\xa9 \\xc2\\x9b"},
        {"a\\x0a", "a\\\\x0a"},
    };
    char room[64];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(pom_shown(rows[i].text, room, sizeof room), rows[i].shown);
    }
}

static void test_shown_is_cut_between_characters(void **state) {
    static const struct {
        const char *text, *shown;
    } rows[] = {
        {"1234567", "1234567"},                          /* 8 with the NUL */
        {"12345678", "1234..."}, {"123\n567", "123..."}, /* an escape is whole or not there */
        {"\n\n", "\\x0a..."},    {"1234\n", "1234..."},
        {"123\n", "123\\x0a"},   {"12\n4567", "12..."},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char room[POM_SHOWN_MIN + 1];
        room[POM_SHOWN_MIN] = '!';
        assert_string_equal(pom_shown(rows[i].text, room, POM_SHOWN_MIN), rows[i].shown);
        assert_int_equal(room[POM_SHOWN_MIN], '!');
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_shown_is_one_line_of_ascii),
        POM_TEST(test_shown_is_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
