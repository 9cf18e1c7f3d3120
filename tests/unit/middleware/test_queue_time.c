/* X-Request-Start as proxies write it, and as nobody should. */
#include "tests/unit/support/test_support.h"

#include <string.h>

#include "middleware/queue_time.h"

/* 250 ms after 1795178096.5. */
#define NOW INT64_C(1795178096750000000)

static int64_t queued(const char *text) {
    return pom_request_queue_ns(text, strlen(text), NOW);
}

static void test_queue_time_of_each_form(void **state) {
    (void)state;
    static const char *const forms[] = {
        "1795178096.5",    "t=1795178096.5",      "t=1795178096.500",         "1795178096500",
        "t=1795178096500", "1795178096500000",    "t=1795178096500000",       "1795178096500000000",
        "1795178096500.0", "1795178096500000.00", "1795178096.5000000000000",
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        assert_int_equal(queued(forms[i]), 250000000);
    }
    assert_int_equal(queued("1795178096"), 750000000);
}

/* A header is a piece of a larger text, which goes on with anything. */
static void test_queue_time_reads_no_further_than_it_may(void **state) {
    (void)state;
    assert_int_equal(pom_request_queue_ns("1795178096.57", 12, NOW), 250000000);
    assert_int_equal(pom_request_queue_ns("1795178096.5", 11, NOW), 750000000);
    assert_int_equal(pom_request_queue_ns("1795178096.5", 10, NOW), 750000000);
    assert_int_equal(pom_request_queue_ns("17951780965", 10, NOW), 750000000);
    assert_int_equal(pom_request_queue_ns("t=1795178096", 1, NOW), 0);
}

static void test_queue_time_is_none_where_there_is_no_moment(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "",
        "t=",
        "t",
        "now",
        "17951780965",
        "1795178096,5",
        "1795178096.5 ",
        "-1795178096",
        "1795178096.5s",
        "9999999999999999999",
        "99999999999999999999999",
        "T=1795178096.5",
        "0000000000",
        ".5",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(queued(wrong[i]), 0);
    }
    assert_int_equal(pom_request_queue_ns(NULL, 0, NOW), 0);
}

static void test_queue_time_believes_no_clock_that_is_far_off(void **state) {
    (void)state;
    assert_int_equal(queued("1795178097"), 0);                      // to come
    assert_int_equal(queued("1795174497"), INT64_C(3599750000000)); // an hour ago, nearly
    assert_int_equal(queued("1795174496"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_queue_time_of_each_form),
        POM_TEST(test_queue_time_reads_no_further_than_it_may),
        POM_TEST(test_queue_time_is_none_where_there_is_no_moment),
        POM_TEST(test_queue_time_believes_no_clock_that_is_far_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
