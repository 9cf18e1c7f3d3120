/* The buffer: growth, the cap, failing once and for good. */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "base/buf.h"

#include <string.h>

static void assert_content(const pom_buf_t *buf, const char *text) {
    assert_false(pom_buf_failed(buf));
    assert_int_equal(buf->len, strlen(text));
    assert_memory_equal(buf->data, text, buf->len);
}

static void test_buf_appends_in_order(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 20);
    assert_null(buf.data);
    pom_buf_put(&buf, "one", 3);
    pom_buf_put(&buf, NULL, 0);
    pom_buf_put_char(&buf, ',');
    pom_buf_put_text(&buf, "two");
    pom_buf_put_text(&buf, "");
    assert_content(&buf, "one,two");
    pom_buf_fini(&buf);
}

static void test_buf_keeps_content_while_it_grows(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 20);
    for (int i = 0; i < 100000; i++) {
        pom_buf_put_char(&buf, (char)('a' + i % 26));
    }
    assert_int_equal(buf.len, 100000);
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(buf.data[i], 'a' + i % 26);
    }
    pom_buf_fini(&buf);
}

static void test_buf_growth_costs_few_allocations(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 20);
    pom_alloc_fail_from(0);
    for (int i = 0; i < 1 << 20; i++) {
        pom_buf_put_char(&buf, 'x');
    }
    assert_false(pom_buf_failed(&buf));
    assert_true(pom_alloc_calls() <= 13); /* 2^8, 2^9 ... 2^20 */
    pom_buf_fini(&buf);
}

static void test_buf_fills_up_to_its_cap_exactly(void **state) {
    static const size_t caps[] = {1, 7, 255, 256, 257, 1000};
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        pom_buf_t buf;
        pom_buf_init(&buf, caps[i]);
        for (size_t k = 0; k < caps[i]; k++) {
            pom_buf_put_char(&buf, 'x');
        }
        assert_false(pom_buf_failed(&buf));
        assert_int_equal(buf.len, caps[i]);
        assert_true(buf.room <= caps[i]);
        pom_buf_put(&buf, "", 0); /* Nothing more is not too much. */
        assert_false(pom_buf_failed(&buf));
        pom_buf_put_char(&buf, 'x');
        assert_true(pom_buf_failed(&buf));
        pom_buf_fini(&buf);
    }
}

static void test_buf_failure_frees_at_once_and_stays(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 10);
    pom_buf_put_text(&buf, "12345678");
    pom_buf_put_text(&buf, "9ab");
    assert_true(pom_buf_failed(&buf));
    assert_no_leak(); /* Before fini. */
    assert_int_equal(buf.len, 0);
    pom_buf_put_char(&buf, 'x'); /* Would fit. */
    assert_true(pom_buf_failed(&buf));
    assert_int_equal(buf.len, 0);
    assert_null(pom_buf_reserve(&buf, 1));
    size_t size = 99;
    assert_null(pom_buf_take(&buf, &size));
    assert_int_equal(size, 0);
    assert_true(pom_buf_failed(&buf));
    pom_buf_fini(&buf);
}

static void test_buf_sizes_that_overflow_fail(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1000);
    pom_buf_put_char(&buf, 'x');
    assert_null(pom_buf_reserve(&buf, SIZE_MAX));
    assert_true(pom_buf_failed(&buf));
    pom_buf_fini(&buf);
}

static void test_buf_cap_zero_takes_nothing(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 0);
    pom_buf_put(&buf, "", 0);
    assert_false(pom_buf_failed(&buf));
    pom_buf_put_char(&buf, 'x');
    assert_true(pom_buf_failed(&buf));
    pom_buf_fini(&buf);
}

static void test_buf_reserve_is_filled_in_place(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1000);
    pom_buf_put_text(&buf, "a");
    char *room = pom_buf_reserve(&buf, 500);
    assert_non_null(room);
    memset(room, 'b', 500); /* All of it may be written, less of it claimed. */
    buf.len += 2;
    pom_buf_put_text(&buf, "c");
    assert_content(&buf, "abbc");
    assert_non_null(pom_buf_reserve(&buf, 996));
    assert_null(pom_buf_reserve(&buf, 997));
    pom_buf_fini(&buf);
}

static void test_buf_reset_keeps_the_memory_and_clears_failure(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1000);
    pom_buf_put_text(&buf, "first");
    const char *data = buf.data;
    pom_buf_reset(&buf);
    assert_int_equal(buf.len, 0);
    pom_buf_put_text(&buf, "second");
    assert_content(&buf, "second");
    assert_ptr_equal(buf.data, data);

    (void)pom_buf_reserve(&buf, 2000);
    assert_true(pom_buf_failed(&buf));
    pom_buf_reset(&buf);
    pom_buf_put_text(&buf, "third");
    assert_content(&buf, "third");
    pom_buf_fini(&buf);
}

static void test_buf_take_moves_the_content_out(void **state) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1000);
    size_t size = 99;
    assert_null(pom_buf_take(&buf, &size));
    assert_int_equal(size, 0);

    pom_buf_put_text(&buf, "mine");
    char *taken = pom_buf_take(&buf, &size);
    assert_int_equal(size, 4);
    assert_memory_equal(taken, "mine", 4);
    assert_int_equal(buf.len, 0);
    pom_buf_put_text(&buf, "yours");
    assert_content(&buf, "yours");
    assert_memory_equal(taken, "mine", 4);

    pom_buf_reset(&buf);
    assert_null(pom_buf_take(&buf, &size)); /* Empty, though it has memory. */
    assert_int_equal(size, 0);
    pom_buf_fini(&buf);
    pom_free(taken);
}

static bool write_and_take(void *arg) {
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 16);
    for (int i = 0; i < 3000; i++) {
        pom_buf_put_text(&buf, "0123456789");
    }
    bool failed = pom_buf_failed(&buf);
    size_t size;
    char *taken = pom_buf_take(&buf, &size);
    bool consistent = failed ? taken == NULL && size == 0 : taken != NULL && size == 30000;
    pom_free(taken);
    pom_buf_fini(&buf);
    assert_true(consistent);
    return !failed;
}

static void test_buf_survives_failing_allocations(void **state) {
    assert_int_equal(pom_torture(write_and_take, NULL), 9); /* 2^8 ... 2^15, and the good run */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_buf_appends_in_order),
        POM_TEST(test_buf_keeps_content_while_it_grows),
        POM_TEST(test_buf_growth_costs_few_allocations),
        POM_TEST(test_buf_fills_up_to_its_cap_exactly),
        POM_TEST(test_buf_failure_frees_at_once_and_stays),
        POM_TEST(test_buf_sizes_that_overflow_fail),
        POM_TEST(test_buf_cap_zero_takes_nothing),
        POM_TEST(test_buf_reserve_is_filled_in_place),
        POM_TEST(test_buf_reset_keeps_the_memory_and_clears_failure),
        POM_TEST(test_buf_take_moves_the_content_out),
        POM_TEST(test_buf_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
