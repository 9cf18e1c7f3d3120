/*
 * When a client report is due: only after trouble, never too often, whatever the wall clock does.
 */
#include "tests/unit/destinations/fake.h"

#include "destinations/self_report.h"

#define EVERY (60 * POM_NS_PER_S)

static void test_self_report_is_due_after_trouble_only(void **state) {
    fake_t *f = fake_new("a", FAKE_SEND);
    pom_destination_t *d = &f->base;
    pom__self_report_t s;
    pom_client_report_t report;
    pom__self_report_init(&s, EVERY);
    pom__self_report_begin(&s, 1000, 77);
    assert_int_equal(pom__self_report_wait_ns(&s, d, 1000), -1);
    pom_destination_adopted(d, 10);
    pom_destination_spooled(d, -8);
    pom_destination_sent(d, 5, 500);
    assert_int_equal(pom__self_report_wait_ns(&s, d, 2 * EVERY), -1); /* all is well */
    pom_destination_dropped(d, POM_DROP_REJECTED, 2);
    pom_destination_retried(d, 4);
    assert_int_equal(pom__self_report_wait_ns(&s, d, 1000), EVERY);
    assert_int_equal(pom__self_report_wait_ns(&s, d, 1000 + EVERY), 0);
    pom__self_report_make(&s, d, 99, &report);
    assert_int_equal(report.since_wall_ns, 77);
    assert_int_equal(report.at_wall_ns, 99);
    assert_int_equal(report.produced, 10);
    assert_int_equal(report.sent, 5);
    assert_int_equal(report.spooled, 2);
    assert_int_equal(report.queued, 1);
    assert_int_equal(report.retried, 4);
    assert_int_equal(report.drop_count, 1);
    assert_string_equal(report.drops[0].reason.data, "rejected");
    assert_int_equal(report.drops[0].count, 2);
    /* What is lost while it is under way is not in it. */
    pom_destination_dropped(d, POM_DROP_TOO_OLD, 1);
    pom__self_report_told(&s, 2 * EVERY);
    assert_int_equal(pom__self_report_wait_ns(&s, d, 2 * EVERY), EVERY);
    pom__self_report_make(&s, d, 100, &report);
    assert_int_equal(report.drop_count, 2);
    pom__self_report_failed(&s, 3 * EVERY); /* still due, but not at once */
    assert_int_equal(pom__self_report_wait_ns(&s, d, 3 * EVERY), EVERY);
    pom__self_report_make(&s, d, 101, &report);
    pom__self_report_told(&s, 4 * EVERY);
    assert_int_equal(pom__self_report_wait_ns(&s, d, 9 * EVERY), -1);
    pom_destination_unref(d);
}

static void test_self_report_keeps_its_id_over_a_close_and_not_over_a_fork(void **state) {
    pom__self_report_t s;
    pom__self_report_init(&s, EVERY);
    pom__self_report_begin(&s, 1000, 77);
    pom_id_t id = s.id;
    pom__self_report_begin(&s, 5000, 88);
    assert_memory_equal(&s.id, &id, sizeof id);
    assert_int_equal(s.since_wall_ns, 77);
    pom__self_report_init(&s, s.every_ns); /* as a forked child does, whose counters are new */
    pom__self_report_begin(&s, 9000, 99);
    assert_memory_not_equal(&s.id, &id, sizeof id);
    assert_int_equal(s.since_wall_ns, 99);
}

static void test_self_report_can_be_switched_off(void **state) {
    fake_t *f = fake_new("a", FAKE_SEND);
    pom__self_report_t s;
    pom__self_report_init(&s, 0);
    pom__self_report_begin(&s, 1000, 77);
    pom_destination_retried(&f->base, 4);
    assert_int_equal(pom__self_report_wait_ns(&s, &f->base, 2 * EVERY), -1);
    pom_destination_unref(&f->base);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_self_report_is_due_after_trouble_only),
        POM_TEST(test_self_report_keeps_its_id_over_a_close_and_not_over_a_fork),
        POM_TEST(test_self_report_can_be_switched_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
