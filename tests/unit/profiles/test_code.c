/* Codes: what is kept of a code object, where texts and line tables are cut, finding a line. */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "profiles/code.h"

#include <pthread.h>
#include <string.h>

static pom_code_spec_t spec_of(const char *file, const char *function) {
    return (pom_code_spec_t){.file = file,
                             .file_len = strlen(file),
                             .function = function,
                             .function_len = strlen(function),
                             .first_line = 10};
}

static void test_code_keeps_texts_and_flags(void **state) {
    pom_code_spec_t spec = spec_of("shop/cart.py", "Cart.total");
    spec.internal = true;
    pom_code_t *code = pom_code_new(&spec);
    assert_string_equal(code->file, "shop/cart.py");
    assert_int_equal(code->file_len, 12);
    assert_string_equal(code->function, "Cart.total");
    assert_int_equal(code->function_len, 10);
    assert_int_equal(code->first_line, 10);
    assert_true(code->internal);
    assert_false(code->unknown);
    assert_ptr_not_equal(code->file, spec.file);
    pom_code_unref(code);
}

static void test_code_tells_texts_that_need_no_escape(void **state) {
    static const struct {
        const char *file, *function;
        bool plain;
    } cases[] = {
        {"shop/cart.py", "Cart.<locals>.total", true},
        {"", "", true},
        {"shop/cart.py", "caf\xc3\xa9", false},
        {"shop/\"cart\".py", "total", false},
        {"C:\\cart.py", "total", false},
        {"shop/cart.py\n", "total", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pom_code_spec_t spec = spec_of(cases[i].file, cases[i].function);
        pom_code_t *code = pom_code_new(&spec);
        assert_int_equal(code->plain, cases[i].plain);
        assert_ptr_equal(code->function, code->file + code->file_len + 1);
        pom_code_unref(code);
    }
}

static void test_code_accepts_empty_texts(void **state) {
    pom_code_spec_t spec = {.file = NULL, .function = NULL};
    pom_code_t *code = pom_code_new(&spec);
    assert_string_equal(code->file, "");
    assert_string_equal(code->function, "");
    assert_int_equal(pom_code_line(code, 3), -1);
    pom_code_unref(code);
}

static void test_code_unknown_says_so_whatever_was_read(void **state) {
    pom_code_spec_t spec = {.file = NULL, .file_len = 77, .unknown = true, .first_line = -1};
    pom_code_t *code = pom_code_new(&spec);
    assert_string_equal(code->file, "<unknown>");
    assert_string_equal(code->function, "<unknown>");
    assert_true(code->unknown);
    pom_code_unref(code);
}

static void test_code_cuts_long_texts_at_a_character(void **state) {
    static const struct {
        const char *character; /* repeated to fill the text */
        size_t kept;           /* of POM_CODE_TEXT_MAX = 1024 bytes and more */
    } cases[] = {
        {"x", 1024},
        {"\xc3\xa9", 1024},         /* 2 bytes: 512 characters */
        {"\xe2\x82\xac", 1023},     /* 3 bytes: 341 characters */
        {"\xf0\x9f\x90\x8d", 1024}, /* 4 bytes: 256 characters */
        {"\x80", 1020},             /* never a character: four steps back, no further */
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        char text[1500];
        size_t width = strlen(cases[c].character);
        size_t size = 0;
        for (; size + width <= sizeof text; size += width) {
            memcpy(text + size, cases[c].character, width);
        }
        pom_code_spec_t spec = {.file = text, .file_len = size, .function = text + width};
        spec.function_len = size - width;
        pom_code_t *code = pom_code_new(&spec);
        assert_int_equal(code->file_len, cases[c].kept);
        assert_int_equal(code->function_len, cases[c].kept);
        assert_int_equal(strlen(code->file), cases[c].kept);
        assert_memory_equal(code->file, text, cases[c].kept);
        pom_code_unref(code);
    }
}

static void test_code_keeps_a_text_of_just_the_cap(void **state) {
    char text[POM_CODE_TEXT_MAX];
    memset(text, 'y', sizeof text);
    pom_code_spec_t spec = {.file = text, .file_len = sizeof text, .function = text};
    pom_code_t *code = pom_code_new(&spec);
    assert_int_equal(code->file_len, POM_CODE_TEXT_MAX);
    pom_code_unref(code);
}

static void test_code_finds_the_line_of_an_instruction(void **state) {
    static const pom_line_run_t runs[] = {{0, 10}, {4, 11}, {9, -1}, {12, 10}, {20, 14}};
    static const struct {
        int32_t lasti, line;
    } cases[] = {
        {-1, 10}, /* not started: the first line */
        {0, 10},  {3, 10},  {4, 11},  {8, 11},  {9, -1},
        {11, -1}, {12, 10}, {19, 10}, {20, 14}, {INT32_MAX, 14},
    };
    pom_code_spec_t spec = spec_of("a.py", "f");
    spec.runs = runs;
    spec.run_count = 5;
    pom_code_t *code = pom_code_new(&spec);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        assert_int_equal(pom_code_line(code, cases[c].lasti), cases[c].line);
    }
    pom_code_unref(code);
}

static void test_code_has_no_line_before_its_first_run(void **state) {
    static const pom_line_run_t runs[] = {{2, 10}};
    pom_code_spec_t spec = spec_of("a.py", "f");
    spec.runs = runs;
    spec.run_count = 1;
    pom_code_t *code = pom_code_new(&spec);
    assert_int_equal(pom_code_line(code, 1), -1);
    assert_int_equal(pom_code_line(code, 2), 10);
    pom_code_unref(code);
}

static void test_code_says_no_line_behind_a_cut_line_table(void **state) {
    static pom_line_run_t runs[POM_CODE_RUNS_MAX + 1];
    for (uint32_t i = 0; i <= POM_CODE_RUNS_MAX; i++) {
        runs[i] = (pom_line_run_t){.start = 2 * i, .line = (int32_t)(100 + i)};
    }
    pom_code_spec_t spec = spec_of("generated.py", "f");
    spec.runs = runs;

    spec.run_count = POM_CODE_RUNS_MAX;
    pom_code_t *whole = pom_code_new(&spec);
    assert_int_equal(pom_code_line(whole, 2 * (POM_CODE_RUNS_MAX - 1)), 100 + 8191);
    pom_code_unref(whole);

    spec.run_count = POM_CODE_RUNS_MAX + 1;
    pom_code_t *cut = pom_code_new(&spec);
    assert_int_equal(cut->run_count, POM_CODE_RUNS_MAX);
    assert_int_equal(pom_code_line(cut, 2 * (POM_CODE_RUNS_MAX - 2)), 100 + 8190);
    assert_int_equal(pom_code_line(cut, 2 * (POM_CODE_RUNS_MAX - 1)), -1);
    assert_int_equal(pom_code_line(cut, 2 * POM_CODE_RUNS_MAX), -1);
    pom_code_unref(cut);
}

/* acceptance: PM6 */
static void test_code_keys_are_structured_not_joined_text(void **state) {
    /* Joined by a colon, all three of the first would read "a:b:c". */
    static const struct {
        const char *file, *function;
    } cases[] = {{"a", "b:c"}, {"a:b", "c"}, {"a:b:c", ""}, {"a", "b"}, {"b", "a"}};
    pom_code_t *codes[5];
    for (size_t i = 0; i < 5; i++) {
        pom_code_spec_t spec = spec_of(cases[i].file, cases[i].function);
        codes[i] = pom_code_new(&spec);
        assert_true(codes[i]->file_key != 0);
        assert_true(codes[i]->function_key != 0);
        for (size_t k = 0; k < i; k++) {
            assert_true(codes[i]->function_key != codes[k]->function_key);
        }
    }
    assert_true(codes[0]->file_key == codes[3]->file_key);
    assert_true(codes[0]->file_key != codes[1]->file_key);

    pom_code_spec_t again = spec_of("a", "b:c");
    again.first_line = 99; /* another object of the same name is the same function */
    pom_code_t *code = pom_code_new(&again);
    assert_true(code->function_key == codes[0]->function_key);
    pom_code_unref(code);
    for (size_t i = 0; i < 5; i++) {
        pom_code_unref(codes[i]);
    }
}

static void test_code_lives_until_the_last_reference(void **state) {
    int64_t before = pom_alloc_live_bytes();
    pom_code_spec_t spec = spec_of("a.py", "f");
    pom_code_t *code = pom_code_new(&spec);
    assert_ptr_equal(pom_code_ref(code), code);
    pom_code_unref(code);
    assert_string_equal(code->file, "a.py");
    pom_code_unref(code);
    assert_int_equal(pom_alloc_live_bytes(), before);
    pom_code_unref(NULL);
}

static void *ref_and_unref(void *arg) {
    pom_code_t *code = arg;
    for (int i = 0; i < 20000; i++) {
        pom_code_unref(pom_code_ref(code));
    }
    pom_code_unref(code);
    return NULL;
}

static void test_code_references_count_across_threads(void **state) {
    pom_code_spec_t spec = spec_of("a.py", "f");
    pom_code_t *code = pom_code_new(&spec);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ref_and_unref, pom_code_ref(code)), 0);
    }
    pom_code_unref(code);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    /* The teardown finds the block freed once: no leak, and the sanitizer no second free. */
}

static bool make_one(void *arg) {
    pom_code_spec_t spec = spec_of("a.py", "f");
    pom_code_t *code = pom_code_new(&spec);
    pom_code_unref(code);
    return code != NULL;
}

static void test_code_without_memory_is_null(void **state) {
    assert_int_equal(pom_torture(make_one, NULL), 2); /* one block */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_code_keeps_texts_and_flags),
        POM_TEST(test_code_tells_texts_that_need_no_escape),
        POM_TEST(test_code_accepts_empty_texts),
        POM_TEST(test_code_unknown_says_so_whatever_was_read),
        POM_TEST(test_code_cuts_long_texts_at_a_character),
        POM_TEST(test_code_keeps_a_text_of_just_the_cap),
        POM_TEST(test_code_finds_the_line_of_an_instruction),
        POM_TEST(test_code_has_no_line_before_its_first_run),
        POM_TEST(test_code_says_no_line_behind_a_cut_line_table),
        POM_TEST(test_code_keys_are_structured_not_joined_text),
        POM_TEST(test_code_lives_until_the_last_reference),
        POM_TEST(test_code_references_count_across_threads),
        POM_TEST(test_code_without_memory_is_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
