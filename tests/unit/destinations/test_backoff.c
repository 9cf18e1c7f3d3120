/* Back-off and Retry-After: bounds, growth, and the dates that servers send. */
#include "tests/unit/support/test_support.h"

#include <string.h>

#include "base/alloc.h"
#include "destinations/backoff.h"

#define S INT64_C(1000000000)

/* acceptance: PM25 */
static void test_backoff_doubles_up_to_a_minute(void **state) {
    static const int64_t ceilings[] = {1, 2, 4, 8, 16, 32, 60, 60, 60};
    pom__backoff_t b = {0};
    for (size_t i = 0; i < sizeof ceilings / sizeof ceilings[0]; i++) {
        pom__backoff_t low = b;
        pom__backoff_t high = b;
        uint64_t span = (uint64_t)(ceilings[i] * S - POM__BACKOFF_FLOOR_NS);
        assert_int_equal(pom__backoff_next(&low, 0), POM__BACKOFF_FLOOR_NS);
        assert_int_equal(pom__backoff_next(&high, span), ceilings[i] * S);
        assert_int_equal(pom__backoff_next(&b, span + 1), POM__BACKOFF_FLOOR_NS); /* wraps */
    }
    pom__backoff_reset(&b);
    assert_true(pom__backoff_next(&b, UINT64_MAX) <= S);
}

static void test_backoff_stays_capped_for_ever(void **state) {
    pom__backoff_t b = {.failures = UINT32_MAX};
    assert_true(pom__backoff_next(&b, UINT64_MAX) <= 60 * S);
    assert_int_equal(b.failures, UINT32_MAX);
}

/* acceptance: PM25 */
static void test_retry_after_reads_seconds_and_dates(void **state) {
    /* Sun, 06 Nov 1994 08:49:37 GMT is 784111777. */
    const int64_t now = INT64_C(784111777) * S;
    static const struct {
        const char *text;
        int64_t want; /* seconds, -1: unreadable */
    } rows[] = {
        {"0", 0},
        {"7", 7},
        {" 120\t", 120},
        {"3600", 3600},
        {"3601", 3600},
        {"99999999999999999999999999", 3600},
        {"", -1},
        {"  ", -1},
        {"-1", -1},
        {"1.5", -1},
        {"1 2", -1},
        {"soon", -1},
        {"Sun, 06 Nov 1994 08:49:37 GMT", 0},
        {"Sun, 06 Nov 1994 08:49:47 GMT", 10},
        {"Sun,06 Nov 1994 08:49:47 GMT", 10},
        {"Sunday, 06-Nov-94 08:50:37 GMT", 60},
        {"Sun Nov  6 08:49:39 1994", 2},
        {"Sun Nov 06 08:49:39 1994", 2},
        {"Thu, 01 Jan 1970 00:00:00 GMT", 0},
        {"Fri, 31 Dec 9999 23:59:59 GMT", 3600},
        {"Sun, 06 Nov 1994 08:49:60 GMT", 23}, /* a leap second */
        {"Sun, 06 Nov 1994 24:49:37 GMT", -1},
        {"Sun, 06 Nov 1994 08:60:37 GMT", -1},
        {"Sun, 00 Nov 1994 08:49:37 GMT", -1},
        {"Sun, 32 Nov 1994 08:49:37 GMT", -1},
        {"Sun, 06 Nox 1994 08:49:37 GMT", -1},
        {"Sun, 06 Nov 1994 08:49:37", -1},
        {"Sun, 06 Nov 1994 08:49:37 CET", -1},
        {"Sun, 06 Nov 1994 08:49:37 GMT ", 0}, /* blanks around are none of it */
        {"Sun, 06 Nov 1994", -1},
        {"Sun Nov", -1},
        {"Sun,", -1},
        {"Sun", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t want = rows[i].want < 0 ? -1 : rows[i].want * S;
        int64_t got = pom__retry_after_ns(rows[i].text, strlen(rows[i].text), now);
        if (got != want) {
            fail_msg("'%s': %lld, not %lld", rows[i].text, (long long)got, (long long)want);
        }
    }
}

/* Exactly as many bytes as there are: the sanitizer sees a read too far. */
static void test_retry_after_is_no_part_of_a_date(void **state) {
    static const char *const dates[] = {"Sun, 06 Nov 1994 08:49:47 GMT",
                                        "Sunday, 06-Nov-94 08:49:47 GMT",
                                        "Sun Nov  6 08:49:47 1994"};
    const int64_t now = INT64_C(784111777) * S;
    for (size_t i = 0; i < sizeof dates / sizeof dates[0]; i++) {
        for (size_t size = 0; size <= strlen(dates[i]); size++) {
            char *exact = pom_alloc(size);
            memcpy(exact, dates[i], size);
            bool whole = size == strlen(dates[i]);
            assert_int_equal(pom__retry_after_ns(exact, size, now), whole ? 10 * S : -1);
            pom_free(exact);
        }
    }
}

static void test_retry_after_knows_leap_years(void **state) {
    /* 2028-02-29 00:00:00 is 1835395200. */
    const int64_t now = INT64_C(1835395200) * S - 5 * S;
    const char *text = "Tue, 29 Feb 2028 00:00:00 GMT";
    assert_int_equal(pom__retry_after_ns(text, strlen(text), now), 5 * S);
    text = "Wed, 01 Mar 2028 00:00:00 GMT";
    assert_int_equal(pom__retry_after_ns(text, strlen(text), now + 86400 * S), 5 * S);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_backoff_doubles_up_to_a_minute),
        POM_TEST(test_backoff_stays_capped_for_ever),
        POM_TEST(test_retry_after_reads_seconds_and_dates),
        POM_TEST(test_retry_after_is_no_part_of_a_date),
        POM_TEST(test_retry_after_knows_leap_years),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
