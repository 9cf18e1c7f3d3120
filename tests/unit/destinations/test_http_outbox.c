/*
 * What an outbox sends next, and how long it waits where that is nothing yet. The clock goes on by
 * a step at each look, as it does for a thread that loses its CPU after each.
 */
#include "tests/unit/destinations/fake.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "destinations/http_outbox.h"

#define STEP (10 * POM_NS_PER_MS)

static int64_t clock_ns;

int64_t __wrap_pom_now_ns(void);
int64_t __wrap_pom_now_ns(void) {
    return clock_ns += STEP;
}

typedef struct rig_s {
    fake_t *fake;
    pom__http_texts_t texts;
    pom__http_outbox_t outbox;
} rig_t;

static void rig_up(rig_t *rig, const char *folder) {
    char error[256];
    pom__spool_t *spool = NULL;
    pom_http_options_t options = pom_http_options_default();
    options.host = "h.example";
    options.compress = false;
    options.report_ns = POM_NS_PER_S;
    clock_ns = 0;
    rig->fake = fake_new("a", FAKE_SEND);
    assert_int_equal(pom__http_texts_make(&rig->texts, &options, error, sizeof error), POM_OK);
    if (folder != NULL) {
        assert_int_equal(pom__spool_new(folder, rig->fake->base.name, options.spool_bytes, &spool,
                                        error, sizeof error),
                         POM_OK);
    }
    pom__http_outbox_init(&rig->outbox, &rig->fake->base, &rig->texts, spool, &options);
    pom__http_outbox_open(&rig->outbox);
}

static void rig_down(rig_t *rig) {
    pom__http_outbox_close(&rig->outbox, POM_DROP_SHUTDOWN);
    pom__http_outbox_fini(&rig->outbox);
    pom__http_texts_free(&rig->texts);
    pom_destination_unref(&rig->fake->base);
}

static void end_batch(pom_batch_t *batch) {
    pom_profile_unref(batch->profiles[0]);
    pom_free(batch);
}

static void put_batch(rig_t *rig) {
    pom_batch_t *batch = pom_calloc(1, sizeof *batch + sizeof batch->profiles[0]);
    batch->count = 1;
    batch->end = end_batch;
    batch->profiles[0] = pom_profile_new(1 << 20);
    pom_destination_adopted(&rig->fake->base, 1);
    pom__http_outbox_put(&rig->outbox, batch);
}

/* The one look is a nanosecond before the moment, a second one would be behind it. */
static void assert_waits_until(rig_t *rig, int64_t due_ns) {
    int64_t wait_ns;
    clock_ns = due_ns - STEP - 1;
    assert_false(pom__http_outbox_next(&rig->outbox, &wait_ns));
    assert_int_equal(wait_ns, 1);
    clock_ns = due_ns - STEP;
    assert_true(pom__http_outbox_next(&rig->outbox, &wait_ns));
}

/* A profile that has no room in a body, which a report has. */
static void put_what_is_too_large(rig_t *rig) {
    static const char type[4096];
    rig->outbox.body.out.cap = sizeof type;
    put_batch(rig);
    rig->outbox.batch->profiles[0]->type = (pom_text_t){.data = type, .size = sizeof type};
}

static void fail_request(rig_t *rig) {
    int64_t wait_ns;
    assert_true(pom__http_outbox_next(&rig->outbox, &wait_ns));
    pom__http_outbox_failed(&rig->outbox);
}

/* acceptance: PM25 */
static void test_http_outbox_waits_for_a_report_that_is_nearly_due(void **state) {
    rig_t rig;
    int64_t wait_ns;
    rig_up(&rig, NULL);
    assert_false(pom__http_outbox_next(&rig.outbox, &wait_ns));
    assert_int_equal(wait_ns, 0); /* all is well */
    pom_destination_dropped(&rig.fake->base, POM_DROP_QUEUE_FULL, 1);
    assert_waits_until(&rig, rig.outbox.report.next_ns);
    assert_true(rig.outbox.request.is_report);
    rig_down(&rig);
}

/* acceptance: PM25 */
static void test_http_outbox_tells_what_it_lost_itself(void **state) {
    rig_t rig;
    int64_t wait_ns;
    for (int is_due = 0; is_due < 2; is_due++) {
        rig_up(&rig, NULL);
        put_what_is_too_large(&rig);
        clock_ns = is_due ? rig.outbox.report.next_ns : 0;
        assert_int_equal(pom__http_outbox_next(&rig.outbox, &wait_ns), is_due);
        assert_int_equal(rig.outbox.request.is_report, is_due);
        assert_int_equal(wait_ns > 0, !is_due);
        rig_down(&rig);
    }
}

/* acceptance: PM25 */
static void test_http_outbox_sends_a_batch_before_a_report_that_failed(void **state) {
    rig_t rig;
    int64_t wait_ns;
    rig_up(&rig, NULL);
    pom_destination_dropped(&rig.fake->base, POM_DROP_QUEUE_FULL, 1);
    clock_ns = rig.outbox.report.next_ns;
    fail_request(&rig);
    put_batch(&rig);
    clock_ns = rig.outbox.report.next_ns; /* due again */
    assert_true(pom__http_outbox_next(&rig.outbox, &wait_ns));
    assert_false(rig.outbox.request.is_report);
    pom__http_outbox_sent(&rig.outbox);
    assert_true(pom__http_outbox_next(&rig.outbox, &wait_ns));
    assert_true(rig.outbox.request.is_report);
    rig_down(&rig);
}

/* acceptance: PM25 */
static void test_http_outbox_waits_for_what_is_aside_and_nearly_rested(void **state) {
    rig_t rig;
    rig_up(&rig, NULL);
    rig.outbox.report.every_ns = 0; /* never */
    put_batch(&rig);
    fail_request(&rig);
    fail_request(&rig); /* the second time it is put aside */
    assert_waits_until(&rig, rig.outbox.aside.rest_ns);
    assert_true(rig.outbox.request.is_aside);
    rig_down(&rig);
}

/* acceptance: PM25 */
static void test_http_outbox_waits_for_a_spool_that_is_nearly_rested(void **state) {
    rig_t rig;
    char folder[] = "/tmp/pom-outbox-XXXXXX", command[64];
    assert_non_null(mkdtemp(folder));
    rig_up(&rig, folder);
    rig.outbox.report.every_ns = 0;
    put_batch(&rig);
    fail_request(&rig); /* to the disk */
    fail_request(&rig);
    assert_waits_until(&rig, rig.outbox.spool_rest_ns);
    assert_true(rig.outbox.request.spooled);
    rig_down(&rig);
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_http_outbox_waits_for_a_report_that_is_nearly_due),
        POM_TEST(test_http_outbox_tells_what_it_lost_itself),
        POM_TEST(test_http_outbox_sends_a_batch_before_a_report_that_failed),
        POM_TEST(test_http_outbox_waits_for_what_is_aside_and_nearly_rested),
        POM_TEST(test_http_outbox_waits_for_a_spool_that_is_nearly_rested),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
