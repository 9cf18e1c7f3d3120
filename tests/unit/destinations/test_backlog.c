/* The backlog: order through growth and wrapping, bytes, batches, and that nothing leaks when
 * memory runs out. */
#include "tests/unit/destinations/fake.h"

#include "destinations/backlog.h"

static void test_backlog_keeps_order_while_it_grows_and_wraps(void **state) {
    pom__backlog_t b;
    pom__backlog_init(&b);
    int64_t in = 0;
    int64_t out = 0;
    size_t bytes = 0;
    /* Three in, two out: the first index runs round many times while the count grows to some
     * 700. */
    for (int round = 0; round < 700; round++) {
        for (int i = 0; i < 3; i++) {
            pom_profile_t *p = profile_new(in++, 0);
            bytes += pom_profile_bytes(p);
            assert_int_equal(pom__backlog_put(&b, p), POM_OK);
        }
        for (int i = 0; i < 2; i++) {
            pom_profile_t *p = pom__backlog_take(&b);
            assert_int_equal(p->thread, out++);
            bytes -= pom_profile_bytes(p);
            pom_profile_unref(p);
        }
        assert_int_equal(b.count, in - out);
        assert_int_equal(b.bytes, bytes);
    }
    for (pom_profile_t *p = pom__backlog_take(&b); p != NULL; p = pom__backlog_take(&b)) {
        assert_int_equal(p->thread, out++);
        pom_profile_unref(p);
    }
    assert_int_equal(out, in);
    assert_int_equal(b.bytes, 0);
    pom__backlog_fini(&b);
}

static void test_backlog_gives_the_memory_of_a_burst_back(void **state) {
    pom__backlog_t b;
    pom__backlog_init(&b);
    for (int i = 0; i < 5000; i++) {
        assert_int_equal(pom__backlog_put(&b, profile_new(i, 0)), POM_OK);
    }
    assert_true(b.room >= 5000);
    for (int i = 0; i < 5000; i++) {
        pom_profile_unref(pom__backlog_take(&b));
    }
    assert_int_equal(b.room, 0);
    assert_no_leak();
    pom__backlog_fini(&b);
}

static void test_backlog_measures_batches(void **state) {
    pom__backlog_t b;
    pom__backlog_init(&b);
    assert_int_equal(pom__backlog_measure(&b, 1000, 10), 0);
    size_t one = 0;
    for (int i = 0; i < 10; i++) {
        pom_profile_t *p = profile_new(i, 3000);
        one = pom_profile_bytes(p);
        assert_int_equal(pom__backlog_put(&b, p), POM_OK);
    }
    assert_int_equal(pom__backlog_measure(&b, 1, 10),
                     1); /* one that is over the limit alone still goes */
    assert_int_equal(pom__backlog_measure(&b, one, 10), 1);
    assert_int_equal(pom__backlog_measure(&b, one + 1, 10), 2);
    assert_int_equal(pom__backlog_measure(&b, 100 * one, 4), 4);
    assert_int_equal(pom__backlog_measure(&b, 100 * one, 99), 10);
    pom__backlog_fini(&b);
}

static bool fill(void *arg) {
    (void)arg;
    pom__backlog_t b;
    pom__backlog_init(&b);
    bool all = true;
    for (int i = 0; i < 200; i++) {
        pom_profile_t *p = profile_new(i, 100);
        if (p == NULL || pom__backlog_put(&b, p) != POM_OK) {
            pom_profile_unref(p);
            all = false;
        }
    }
    pom__backlog_fini(&b);
    return all;
}

static void test_backlog_survives_failing_allocations(void **state) {
    assert_true(pom_torture(fill, NULL) > 200);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_backlog_keeps_order_while_it_grows_and_wraps),
        POM_TEST(test_backlog_gives_the_memory_of_a_burst_back),
        POM_TEST(test_backlog_measures_batches),
        POM_TEST(test_backlog_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
