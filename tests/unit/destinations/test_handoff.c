/* The handoff behind a real exporter: one consumer, several destinations, and a consumer that
 * takes its time. */
#include "tests/unit/destinations/fake.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "destinations/handoff.h"

typedef struct rig_s {
    pom_exporter_t *e;
    pom_handoff_t *h;
    pom_destination_t *d[3];
    int context[3];
    int released;
} rig_t;

static void release(void *context) {
    *(int *)context += 1000;
}

static void rig_up(rig_t *rig, int destinations) {
    memset(rig, 0, sizeof *rig);
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = POM_NS_PER_MS;
    assert_int_equal(pom_exporter_new(&options, &rig->e), POM_OK);
    assert_int_equal(pom_handoff_new(&rig->h), POM_OK);
    for (int i = 0; i < destinations; i++) {
        assert_int_equal(
            pom_handoff_destination_new(rig->h, "callable", &rig->context[i], release, &rig->d[i]),
            POM_OK);
        assert_int_equal(pom_exporter_add(rig->e, rig->d[i]), POM_OK);
    }
}

static void rig_down(rig_t *rig) {
    free_exporter(rig->e);
    for (int i = 0; i < 3; i++) {
        pom_destination_unref(rig->d[i]);
        assert_true(rig->d[i] == NULL || rig->context[i] >= 1000); /* released, once */
        assert_true(rig->context[i] < 2000);
    }
    pom_handoff_unref(rig->h);
}

static int64_t soon(void) {
    return pom_now_ns() + PATIENCE_NS;
}

static pom_handoff_item_t take(rig_t *rig) {
    pom_handoff_item_t item;
    assert_int_equal(pom_handoff_take(rig->h, soon(), &item), POM_OK);
    return item;
}

static void test_handoff_gives_each_destination_each_profile_in_order(void **state) {
    rig_t rig;
    rig_up(&rig, 3);
    for (int i = 0; i < 100; i++) {
        put(rig.e, i, 100);
    }
    int64_t next[3] = {0, 0, 0};
    for (int i = 0; i < 300; i++) {
        pom_handoff_item_t item = take(&rig);
        int which = (int)((int *)item.context - rig.context);
        assert_in_range(which, 0, 2);
        assert_ptr_equal(item.destination, rig.d[which]);
        assert_int_equal(item.profile->thread, next[which]);
        next[which]++;
        pom_handoff_done(rig.h, &item, which == 2 ? "ValueError: no" : NULL);
        assert_null(item.profile);
    }
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d[0]).sent, 100);
    assert_int_equal(counters(rig.d[1]).sent, 100);
    assert_int_equal(counters(rig.d[2]).dropped[POM_DROP_ERROR], 100);
    assert_string_equal(counters(rig.d[2]).last_error, "ValueError: no");
    rig_down(&rig);
}

/* Who has been served stands behind those who wait. */
static void test_handoff_takes_destinations_in_turn(void **state) {
    rig_t rig;
    rig_up(&rig, 3);
    fake_t *beside = fake_new("beside", FAKE_SEND); /* gets its batches last in each turn */
    assert_int_equal(pom_exporter_add(rig.e, &beside->base), POM_OK);
    put(rig.e, 1, 0);
    wait_for(atomic_load(&beside->delivered) == 1);
    for (int i = 0; i < 6; i++) {
        pom_handoff_item_t item = take(&rig);
        assert_ptr_equal(item.destination, rig.d[i % 3]);
        assert_int_equal(item.profile->thread, 1 + i / 3);
        pom_handoff_done(rig.h, &item, NULL);
        if (i == 0) { /* the first has its second while the others have not had theirs */
            put(rig.e, 2, 0);
            wait_for(atomic_load(&beside->delivered) == 2);
        }
    }
    assert_true(pom_exporter_flush(rig.e, soon()));
    rig_down(&rig);
    pom_destination_unref(&beside->base);
}

static void test_handoff_flush_waits_for_the_consumer(void **state) {
    rig_t rig;
    rig_up(&rig, 1);
    put(rig.e, 1, 0);
    pom_handoff_item_t item = take(&rig);
    assert_false(pom_exporter_flush(rig.e, pom_now_ns() + POM_NS_PER_MS));
    assert_int_equal(counters(rig.d[0]).queued, 1);
    pom_handoff_done(rig.h, &item, NULL);
    assert_true(pom_exporter_flush(rig.e, soon()));
    rig_down(&rig);
}

static void test_handoff_take_times_out_and_closes(void **state) {
    rig_t rig;
    rig_up(&rig, 1);
    pom_handoff_item_t item;
    assert_int_equal(pom_handoff_take(rig.h, 0, &item), POM_ETIMEDOUT);
    assert_int_equal(pom_handoff_take(rig.h, pom_now_ns() + POM_NS_PER_MS, &item), POM_ETIMEDOUT);
    put(rig.e, 1, 0);
    pom_handoff_stop(rig.h);
    assert_int_equal(pom_handoff_take(rig.h, soon(), &item), POM_ECLOSED);
    pom_handoff_start(rig.h);
    item = take(&rig);
    assert_int_equal(item.profile->thread, 1);
    pom_handoff_done(rig.h, &item, NULL);
    rig_down(&rig);
}

static void test_handoff_of_a_child_is_not_stopped(void **state) {
    pom_handoff_t *h = NULL;
    pom_handoff_item_t item;
    assert_int_equal(pom_handoff_new(&h), POM_OK);
    pom_handoff_stop(h);
    assert_int_equal(pom_handoff_take(h, 0, &item), POM_ECLOSED);
    pom_handoff_after_fork_child(h);
    assert_int_equal(pom_handoff_take(h, 0, &item), POM_ETIMEDOUT);
    pom_handoff_unref(h);
}

static void *stop_it(void *arg) {
    pom_handoff_stop(arg);
    return NULL;
}

static void test_handoff_stop_wakes_a_waiting_consumer(void **state) {
    rig_t rig;
    rig_up(&rig, 1);
    pthread_t thread;
    pthread_create(&thread, NULL, stop_it, rig.h);
    pom_handoff_item_t item;
    assert_int_equal(pom_handoff_take(rig.h, soon(), &item), POM_ECLOSED);
    pthread_join(thread, NULL);
    rig_down(&rig);
}

static void test_handoff_slow_consumer_costs_the_oldest(void **state) {
    rig_t rig;
    rig_up(&rig, 0);
    assert_int_equal(
        pom_handoff_destination_new(rig.h, "slow", &rig.context[0], release, &rig.d[0]), POM_OK);
    rig.d[0]->queue_bytes = 200 << 10;
    assert_int_equal(pom_exporter_add(rig.e, rig.d[0]), POM_OK);
    put(rig.e, 0, 1000);
    pom_handoff_item_t item = take(&rig);
    for (int i = 1; i < 1000; i++) {
        put(rig.e, i, 1000);
    }
    wait_for(counters(rig.d[0]).produced == 1000);
    pom_destination_counters_t c = counters(rig.d[0]);
    assert_true(c.dropped[POM_DROP_QUEUE_FULL] > 500);
    assert_int_equal(c.sent, 0);
    int64_t last = -1;
    while (counters(rig.d[0]).queued > 1) {
        last = (int64_t)item.profile->thread;
        pom_handoff_done(rig.h, &item, NULL);
        item = take(&rig);
        assert_true((int64_t)item.profile->thread > last);
    }
    assert_int_equal(item.profile->thread, 999);
    pom_handoff_done(rig.h, &item, NULL);
    assert_true(pom_exporter_flush(rig.e, soon()));
    rig_down(&rig);
}

static void test_handoff_removed_destination_is_called_no_more(void **state) {
    rig_t rig;
    rig_up(&rig, 2);
    for (int i = 0; i < 10; i++) {
        put(rig.e, i, 0);
    }
    assert_false(pom_exporter_flush(rig.e, 0));
    pom_handoff_item_t item = take(&rig);
    int which = item.destination == rig.d[0] ? 0 : 1;
    wait_for(counters(rig.d[1]).produced == 10);
    assert_int_equal(pom_exporter_remove(rig.e, rig.d[which]), POM_OK);
    pom_handoff_done(rig.h, &item, NULL); /* its call was under way: counted by its outcome */
    for (int i = 0; i < 10; i++) {
        item = take(&rig);
        assert_ptr_equal(item.destination, rig.d[1 - which]);
        pom_handoff_done(rig.h, &item, NULL);
    }
    assert_int_equal(pom_handoff_take(rig.h, 0, &item), POM_ETIMEDOUT);
    wait_for(counters(rig.d[which]).queued == 0);
    assert_int_equal(counters(rig.d[which]).sent, 1);
    assert_int_equal(counters(rig.d[which]).dropped[POM_DROP_REMOVED], 9);
    rig_down(&rig);
}

static void test_handoff_removed_and_added_while_its_call_runs(void **state) {
    rig_t rig;
    rig_up(&rig, 1);
    put(rig.e, 1, 0);
    pom_handoff_item_t item = take(&rig);
    assert_int_equal(pom_exporter_remove(rig.e, rig.d[0]), POM_OK);
    assert_int_equal(pom_exporter_add(rig.e, rig.d[0]), POM_OK);
    put(rig.e, 2, 0);
    pom_handoff_item_t none;
    /* The new life begins when the old call returns. */
    assert_int_equal(pom_handoff_take(rig.h, pom_now_ns() + 5 * POM_NS_PER_MS, &none),
                     POM_ETIMEDOUT);
    pom_handoff_done(rig.h, &item, NULL);
    item = take(&rig);
    assert_int_equal(item.profile->thread, 2);
    pom_handoff_done(rig.h, &item, NULL);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d[0]).sent, 2);
    rig_down(&rig);
}

static void test_handoff_stop_does_not_wait_for_a_call(void **state) {
    rig_t rig;
    rig_up(&rig, 1);
    for (int i = 0; i < 5; i++) {
        put(rig.e, i, 0);
    }
    pom_handoff_item_t late = take(&rig);
    wait_for(pom_exporter_stop(rig.e, pom_now_ns() + POM_NS_PER_MS) == POM_OK);
    assert_int_equal(counters(rig.d[0]).dropped[POM_DROP_SHUTDOWN], 5);
    /* Started anew while the old call still runs: the late end of that counts nothing. */
    assert_int_equal(pom_exporter_start(rig.e), POM_OK);
    put(rig.e, 5, 0);
    pom_handoff_item_t item = take(&rig);
    pom_handoff_done(rig.h, &late, NULL);
    assert_int_equal(counters(rig.d[0]).sent, 0);
    assert_int_equal(counters(rig.d[0]).queued, 1);
    pom_handoff_done(rig.h, &item, NULL);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d[0]).sent, 1);
    rig_down(&rig);
}

static void test_handoff_stop_gives_up_on_a_removed_one_too(void **state) {
    rig_t rig;
    rig_up(&rig, 1);
    put(rig.e, 1, 0);
    pom_handoff_item_t item = take(&rig);
    assert_int_equal(pom_exporter_remove(rig.e, rig.d[0]), POM_OK);
    wait_for(pom_exporter_stop(rig.e, pom_now_ns() + POM_NS_PER_MS) == POM_OK);
    assert_int_equal(counters(rig.d[0]).dropped[POM_DROP_SHUTDOWN], 1);
    free_exporter(rig.e);
    rig.e = NULL;
    pom_handoff_done(rig.h, &item,
                     NULL); /* the exporter is no more: nothing of it may be touched */
    rig_down(&rig);
}

typedef struct consumer_s {
    rig_t *rig;
    _Atomic(int64_t) consumed;
} consumer_t;

static void *consume(void *arg) {
    consumer_t *c = arg;
    pom_handoff_item_t item;
    for (;;) {
        pom_status_t status = pom_handoff_take(c->rig->h, pom_now_ns() + PATIENCE_NS, &item);
        if (status == POM_ECLOSED) {
            return NULL;
        }
        if (status == POM_OK) {
            atomic_fetch_add(&c->consumed, 1);
            pom_handoff_done(c->rig->h, &item, NULL);
        }
    }
}

static void test_handoff_storm_with_removals(void **state) {
    rig_t rig;
    rig_up(&rig, 3);
    consumer_t c = {.rig = &rig};
    pthread_t thread;
    pthread_create(&thread, NULL, consume, &c);
    for (int i = 0; i < 10000; i++) {
        put(rig.e, i, 0);
        if (i % 50 == 49) {
            pom_destination_t *d = rig.d[i / 50 % 3];
            assert_int_equal(pom_exporter_remove(rig.e, d), POM_OK);
            assert_int_equal(pom_exporter_add(rig.e, d), POM_OK);
        }
        if (i % 1000 == 999) {
            wait_for(pom_exporter_stop(rig.e, pom_now_ns() + POM_NS_PER_MS) == POM_OK);
            assert_int_equal(pom_exporter_start(rig.e), POM_OK);
        }
    }
    assert_true(pom_exporter_flush(rig.e, soon()));
    pom_handoff_stop(rig.h);
    pthread_join(thread, NULL);
    int64_t sent = 0;
    for (int i = 0; i < 3; i++) {
        pom_destination_counters_t k = counters(rig.d[i]);
        assert_int_equal(k.produced, 10000);
        assert_int_equal(k.queued, 0);
        assert_int_equal(k.sent + k.dropped[POM_DROP_REMOVED] + k.dropped[POM_DROP_SHUTDOWN],
                         10000);
        sent += k.sent;
    }
    /* A call that was given up at a stop is not counted as sent. */
    assert_true(sent <= atomic_load(&c.consumed));
    assert_true(sent + 10 >= atomic_load(&c.consumed));
    rig_down(&rig);
}

static bool make(void *arg) {
    static int context;
    context = 0;
    pom_handoff_t *h = NULL;
    pom_destination_t *d = NULL;
    pom_status_t status = pom_handoff_new(&h);
    if (status == POM_OK) {
        status = pom_handoff_destination_new(h, "a", &context, release, &d);
    }
    bool whole = status == POM_OK ? context == 0 : status == POM_ENOMEM && context == 0;
    pom_destination_unref(d);
    pom_handoff_unref(h);
    return whole && d != NULL;
}

static void test_handoff_survives_failing_allocations(void **state) {
    assert_int_equal(pom_torture(make, NULL), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_handoff_gives_each_destination_each_profile_in_order),
        POM_TEST(test_handoff_takes_destinations_in_turn),
        POM_TEST(test_handoff_flush_waits_for_the_consumer),
        POM_TEST(test_handoff_take_times_out_and_closes),
        POM_TEST(test_handoff_of_a_child_is_not_stopped),
        POM_TEST(test_handoff_stop_wakes_a_waiting_consumer),
        POM_TEST(test_handoff_slow_consumer_costs_the_oldest),
        POM_TEST(test_handoff_removed_destination_is_called_no_more),
        POM_TEST(test_handoff_removed_and_added_while_its_call_runs),
        POM_TEST(test_handoff_stop_does_not_wait_for_a_call),
        POM_TEST(test_handoff_stop_gives_up_on_a_removed_one_too),
        POM_TEST(test_handoff_storm_with_removals),
        POM_TEST(test_handoff_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
