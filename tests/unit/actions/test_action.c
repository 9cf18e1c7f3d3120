/* An action's text: copied, cut at a character, counted. */
#include "tests/unit/support/test_support.h"

#include <stdlib.h>
#include <string.h>

#include "actions/action.h"
#include "base/alloc.h"

static pom_action_t *new_action(void) {
    pom_action_t *action = pom_calloc(1, sizeof *action);
    assert_non_null(action);
    return action;
}

static void test_action_keeps_pieces_of_text_side_by_side(void **state) {
    pom_action_t *a = new_action();
    char source[] = "one";
    pom_text_t one = pom_action_text(a, source, 3);
    source[0] = 'X';
    pom_text_t none = pom_action_text(a, NULL, 0), two = pom_action_text(a, "tw\0o", 4);
    assert_memory_equal(one.data, "one", 3);
    assert_int_equal(one.size, 3);
    assert_int_equal(none.size, 0);
    assert_int_equal(two.size, 4);
    assert_memory_equal(two.data, "tw\0o", 4);
    assert_int_equal(a->text_used, 7);
    assert_int_equal(a->text_cut, 0);
    pom_free(a);
}

static void test_action_cuts_text_at_a_character(void **state) {
    static const struct {
        const char *text;
        uint32_t room, kept;
    } cases[] = {
        {"abcdef", 6, 6},
        {"abcdef", 5, 5},
        {"abcdef", 0, 0},
        {"ab\xc3\xa9", 3, 2},               // half an e acute
        {"ab\xc3\xa9", 4, 4},               //
        {"ab\xe2\x82\xac", 4, 2},           // two thirds of a euro
        {"ab\xf0\x9f\x98\x80", 5, 2},       // three quarters of a smile
        {"\xf0\x9f\x98\x80", 3, 0},         //
        {"\x80\x80\x80\x80\x80\x80", 3, 0}, // no character at all
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pom_action_t *a = new_action();
        a->text_used = POM_ACTION_TEXT_MAX - cases[i].room;
        pom_text_t text = pom_action_text(a, cases[i].text, strlen(cases[i].text));
        assert_int_equal(text.size, cases[i].kept);
        assert_int_equal(a->text_cut, strlen(cases[i].text) > cases[i].room);
        assert_int_equal(a->text_used, POM_ACTION_TEXT_MAX - cases[i].room + cases[i].kept);
        pom_free(a);
    }
}

static void test_action_never_writes_beyond_its_text(void **state) {
    pom_action_t *a = new_action();
    char *large = pom_alloc(100000);
    memset(large, 'x', 100000);
    for (size_t size = 0; size < 100000; size += 997) { // the sanitizer looks on
        pom_text_t text = pom_action_text(a, large, size);
        assert_true(text.data >= a->text);
        assert_true(text.data + text.size <= a->text + POM_ACTION_TEXT_MAX);
    }
    assert_int_equal(a->text_used, POM_ACTION_TEXT_MAX);
    assert_true(a->text_cut > 0);
    pom_free(large);
    pom_free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_action_keeps_pieces_of_text_side_by_side),
        POM_TEST(test_action_cuts_text_at_a_character),
        POM_TEST(test_action_never_writes_beyond_its_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
