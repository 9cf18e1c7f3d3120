/* What all kinds share: counters whose sum always holds, errors in one line, names that fit,
 * references. */
#include "tests/unit/destinations/fake.h"

#include <pthread.h>
#include <string.h>

static void test_destination_counts_each_fate_apart(void **state) {
    fake_t *f = fake_new("a", FAKE_SEND);
    atomic_store(&f->base.produced, 100);
    pom_destination_sent(&f->base, 10, 1234);
    pom_destination_spooled(&f->base, 5);
    pom_destination_retried(&f->base, 7);
    int64_t dropped = 0;
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        pom_destination_dropped(&f->base, (pom_drop_t)i, i + 1);
        dropped += i + 1;
    }
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.sent, 10);
    assert_int_equal(c.bytes, 1234);
    assert_int_equal(c.spooled, 5);
    assert_int_equal(c.retried, 7);
    assert_int_equal(c.queued, 100 - 10 - 5 - dropped);
    assert_int_equal(pom_destination_queued(&f->base), c.queued);
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        assert_int_equal(c.dropped[i], i + 1);
        assert_non_null(pom_drop_names[i]);
    }
    assert_string_equal(c.last_error, "");
    pom_destination_unref(&f->base);
}

static void test_destination_error_is_one_line_and_cut(void **state) {
    fake_t *f = fake_new("a", FAKE_SEND);
    pom_destination_error(&f->base, "status %d\r\nX-Bad: \x01", 503);
    assert_string_equal(counters(&f->base).last_error, "status 503  X-Bad:  ");
    char text[1000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    pom_destination_error(&f->base, "%s", text);
    assert_int_equal(strlen(counters(&f->base).last_error), POM_DESTINATION_ERROR_MAX - 1);
    pom_destination_unref(&f->base);
}

static void test_destination_long_name_keeps_its_end(void **state) {
    char name[300];
    memset(name, 'd', sizeof name);
    strcpy(name + sizeof name - sizeof "/out.jsonl", "/out.jsonl");
    fake_t *f = fake_new(name, FAKE_SEND);
    assert_int_equal(strlen(f->base.name), POM_DESTINATION_NAME_MAX - 1);
    assert_memory_equal(f->base.name, "...dd", 5);
    assert_string_equal(f->base.name + strlen(f->base.name) - 10, "/out.jsonl");
    pom_destination_unref(&f->base);
}

typedef struct racer_s {
    fake_t *f;
    _Atomic(bool) stop;
} racer_t;

static void *settle(void *arg) {
    racer_t *r = arg;
    for (int i = 0; i < 20000; i++) {
        atomic_fetch_add(&r->f->base.produced, 2);
        pom_destination_sent(&r->f->base, 1, 1);
        pom_destination_dropped(&r->f->base, (pom_drop_t)(i % POM_DROP_COUNT), 1);
        if (i % 100 == 0) {
            pom_destination_error(&r->f->base, "error %d", i);
        }
    }
    atomic_store(&r->stop, true);
    return NULL;
}

static void test_destination_sum_holds_while_others_count(void **state) {
    racer_t r = {.f = fake_new("a", FAKE_SEND)};
    pthread_t thread;
    pthread_create(&thread, NULL, settle, &r);
    int64_t most = 0;
    while (!atomic_load(&r.stop)) {
        pom_destination_counters_t c =
            counters(&r.f->base); /* asserts the sum and that nothing is negative */
        assert_true(c.queued <= c.produced && c.produced >= most);
        most = c.produced;
    }
    pthread_join(thread, NULL);
    assert_int_equal(counters(&r.f->base).queued, 0);
    assert_int_equal(counters(&r.f->base).sent, 20000);
    pom_destination_unref(&r.f->base);
}

static void test_destination_after_fork_starts_from_zero(void **state) {
    fake_t *f = fake_new("a", FAKE_SEND);
    atomic_store(&f->base.produced, 9);
    pom_destination_sent(&f->base, 3, 5);
    pom_destination_dropped(&f->base, POM_DROP_ERROR, 2);
    pom_destination_error(&f->base, "old");
    pom_destination_after_fork(&f->base);
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.produced + c.sent + c.bytes + c.dropped[POM_DROP_ERROR], 0);
    assert_string_equal(c.last_error, "");
    pom_destination_unref(&f->base);
}

static void test_destinations_that_are_left_all_hear_of_a_fork(void **state) {
    fake_t *f[5];
    for (int i = 0; i < 5; i++) {
        f[i] = fake_new("a", FAKE_SEND);
        pom_destination_enlist(&f[i]->base);
        pom_destination_enlist(&f[i]->base); /* once is enough */
        atomic_store(&f[i]->base.produced, 9);
    }
    static const int gone[] = {2, 0, 4}; /* in the middle, and at both ends */
    for (int i = 0; i < 3; i++) {
        pom_destination_unref(&f[gone[i]]->base);
    }
    pom_destinations_before_fork();
    pom_destinations_after_fork_child();
    assert_int_equal(counters(&f[1]->base).produced, 0);
    assert_int_equal(counters(&f[3]->base).produced, 0);
    pom_destination_unref(&f[1]->base);
    pom_destination_unref(&f[3]->base);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_destination_counts_each_fate_apart),
        POM_TEST(test_destination_error_is_one_line_and_cut),
        POM_TEST(test_destination_long_name_keeps_its_end),
        POM_TEST(test_destination_sum_holds_while_others_count),
        POM_TEST(test_destination_after_fork_starts_from_zero),
        POM_TEST(test_destinations_that_are_left_all_hear_of_a_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
