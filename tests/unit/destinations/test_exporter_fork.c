/*
 * Forks of a process whose exporter is at work: the child has clean books and a thread of its
 * own, the parent notices nothing.
 *
 * A child tells by its exit status: 0, or the line that failed.
 */
#include "tests/unit/destinations/fake.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "destinations/handoff.h"

static int64_t soon(void) {
    return pom_now_ns() + PATIENCE_NS;
}

static pid_t fork_with(pom_exporter_t *e) {
    pom_exporter_before_fork(e);
    pid_t pid = fork();
    if (pid == 0) {
        pom_exporter_after_fork_child(e);
    } else {
        pom_exporter_after_fork_parent(e);
    }
    return pid;
}

static void expect_success(pid_t pid) {
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static pom_exporter_t *exporter_with(fake_t **f, fake_mode_t mode) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = POM_NS_PER_MS;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    *f = fake_new("a", mode);
    assert_int_equal(pom_exporter_add(e, &(*f)->base), POM_OK);
    return e;
}

/* The child's whole life: it counts from zero, delivers its own, and stops. */
static void live(pom_exporter_t *e, fake_t *f, int64_t first) {
    pom_destination_counters_t c;
    pom_destination_counters(&f->base, &c);
    POM_TEST_CHILD_CHECK(c.produced == 0 && c.queued == 0 && c.sent == 0);
    pom_exporter_stats_t stats;
    pom_exporter_stats(e, &stats);
    POM_TEST_CHILD_CHECK(!stats.running && stats.put == 0 && stats.cpu_ns == 0);
    atomic_store(&f->mode, FAKE_SEND);
    for (int i = 0; i < 100; i++) {
        pom_exporter_put(e, profile_new(first + i, 100));
    }
    POM_TEST_CHILD_CHECK(pom_exporter_flush(e, soon()));
    pom_destination_counters(&f->base, &c);
    POM_TEST_CHILD_CHECK(c.produced == 100 && c.sent == 100 && c.queued == 0);
    POM_TEST_CHILD_CHECK(atomic_load(&f->opens) == 1 && atomic_load(&f->faults) == 0);
}

static void test_fork_child_starts_from_zero_and_parent_goes_on(void **state) {
    skip_when_sanitized();
    fake_t *f;
    pom_exporter_t *e = exporter_with(&f, FAKE_HOLD);
    for (int i = 0; i < 50; i++) {
        put(e, i, 1000);
    }
    wait_for(atomic_load(&f->held_count) == 1);
    pid_t pid = fork_with(e);
    if (pid == 0) {
        live(e, f, 1000);
        POM_TEST_CHILD_CHECK(pom_exporter_stop(e, soon()) == POM_OK);
        free_exporter(e);
        pom_test_child_ends(true);
    }
    expect_success(pid);
    assert_false(
        pom_exporter_flush(e, 0)); /* deals out what came after the first turn of the loop */
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.produced, 50);
    assert_int_equal(c.queued, 50);
    atomic_store(&f->mode, FAKE_SEND);
    wait_for((fake_release(f, 1), counters(&f->base).sent == 50));
    assert_true(pom_exporter_flush(e, soon()));
    free_exporter(e);
    assert_int_equal(atomic_load(&f->faults), 0);
    pom_destination_unref(&f->base);
}

static void test_fork_child_thread_starts_with_the_first_profile(void **state) {
    skip_when_sanitized();
    fake_t *f;
    pom_exporter_t *e = exporter_with(&f, FAKE_SEND);
    pid_t pid = fork_with(e);
    if (pid == 0) {
        /* No flush: the timer of the child's own loop does it. */
        pom_exporter_put(e, profile_new(1, 0));
        int64_t end = soon();
        while (atomic_load(&f->delivered) != 1 && pom_now_ns() < end) {
            sched_yield();
        }
        POM_TEST_CHILD_CHECK(atomic_load(&f->delivered) == 1);
        pom_test_child_ends(true);
    }
    expect_success(pid);
    free_exporter(e);
    pom_destination_unref(&f->base);
}

static void test_fork_grandchild_works_too(void **state) {
    skip_when_sanitized();
    fake_t *f;
    pom_exporter_t *e = exporter_with(&f, FAKE_SEND);
    put(e, 1, 0);
    pid_t pid = fork_with(e);
    if (pid == 0) {
        live(e, f, 1000);
        pid_t grandchild = fork_with(e);
        if (grandchild == 0) {
            live(e, f, 2000);
            pom_test_child_ends(true);
        }
        int status = -1;
        POM_TEST_CHILD_CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
        pom_exporter_put(e, profile_new(3000, 0));
        POM_TEST_CHILD_CHECK(pom_exporter_flush(e, soon()));
        pom_test_child_ends(true);
    }
    expect_success(pid);
    assert_true(pom_exporter_flush(e, soon()));
    free_exporter(e);
    pom_destination_unref(&f->base);
}

static void test_fork_after_stop_stays_stopped(void **state) {
    skip_when_sanitized();
    fake_t *f;
    pom_exporter_t *e = exporter_with(&f, FAKE_SEND);
    assert_int_equal(pom_exporter_stop(e, soon()), POM_OK);
    pid_t pid = fork_with(e);
    if (pid == 0) {
        pom_exporter_put(e, profile_new(1, 0));
        POM_TEST_CHILD_CHECK(pom_exporter_flush(e, 0));
        pom_destination_counters_t c;
        pom_destination_counters(&f->base, &c);
        POM_TEST_CHILD_CHECK(c.dropped[POM_DROP_SHUTDOWN] == 1);
        POM_TEST_CHILD_CHECK(pom_exporter_start(e) == POM_OK);
        pom_exporter_put(e, profile_new(2, 0));
        POM_TEST_CHILD_CHECK(pom_exporter_flush(e, soon()));
        pom_destination_counters(&f->base, &c);
        POM_TEST_CHILD_CHECK(c.sent == 1);
        pom_test_child_ends(true);
    }
    expect_success(pid);
    free_exporter(e);
    pom_destination_unref(&f->base);
}

static void test_fork_with_a_removed_destination_leaves_it_behind(void **state) {
    skip_when_sanitized();
    fake_t *f;
    fake_t *gone;
    pom_exporter_t *e = exporter_with(&f, FAKE_SEND);
    gone = fake_new("gone", FAKE_BLOCK);
    assert_int_equal(pom_exporter_add(e, &gone->base), POM_OK);
    put(e, 1, 0);
    wait_for(atomic_load(&gone->inside) == 1);
    assert_int_equal(pom_exporter_remove(e, &gone->base),
                     POM_OK); /* the loop hangs inside its deliver */
    pid_t pid = fork_with(e);
    if (pid == 0) {
        pom_destination_t *listed[2];
        POM_TEST_CHILD_CHECK(pom_exporter_list(e, listed, 2) == 1 && listed[0] == &f->base);
        live(e, f, 1000);
        POM_TEST_CHILD_CHECK(pom_exporter_add(e, &gone->base) == POM_OK);
        atomic_store(&gone->mode, FAKE_SEND);
        pom_exporter_put(e, profile_new(5000, 0));
        POM_TEST_CHILD_CHECK(pom_exporter_flush(e, soon()));
        pom_destination_counters_t c;
        pom_destination_counters(&gone->base, &c);
        POM_TEST_CHILD_CHECK(c.sent == 1);
        pom_test_child_ends(true);
    }
    expect_success(pid);
    atomic_store(&gone->gate, true);
    assert_true(pom_exporter_flush(e, soon()));
    free_exporter(e);
    pom_destination_unref(&f->base);
    pom_destination_unref(&gone->base);
}

/* Removed and closed at the fork, so it is none of the exporter's members, and added again in
 * both. */
static void test_fork_child_has_a_fresh_destination_that_was_away(void **state) {
    skip_when_sanitized();
    fake_t *f;
    pom_exporter_t *e = exporter_with(&f, FAKE_SEND);
    fake_t *away = fake_new("away", FAKE_SEND);
    fake_t *never = fake_new("never", FAKE_SEND);
    assert_int_equal(pom_exporter_add(e, &away->base), POM_OK);
    put(e, 1, 0);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(pom_exporter_remove(e, &away->base), POM_OK);
    wait_for(atomic_load(&away->base.refs) == 1); /* only the test's own */
    pid_t pid = fork_with(e);
    if (pid == 0) {
        pom_destination_unref(&never->base);
        POM_TEST_CHILD_CHECK(pom_exporter_remove(e, &f->base) == POM_OK);
        POM_TEST_CHILD_CHECK(pom_exporter_add(e, &away->base) == POM_OK);
        pom_exporter_put(e, profile_new(1000, 0));
        POM_TEST_CHILD_CHECK(pom_exporter_flush(e, soon()));
        pom_destination_counters_t c;
        pom_destination_counters(&away->base, &c);
        POM_TEST_CHILD_CHECK(c.produced == 1 && c.sent == 1 && atomic_load(&away->opens) == 1);
        POM_TEST_CHILD_CHECK(pom_exporter_stop(e, soon()) == POM_OK);
        free_exporter(e);
        pom_destination_unref(&away->base); /* strikes it off the list in this process */
        pom_test_child_ends(true);
    }
    expect_success(pid);
    assert_int_equal(pom_exporter_add(e, &away->base), POM_OK);
    put(e, 2, 0);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&away->base).sent, 2);
    free_exporter(e);
    assert_int_equal(atomic_load(&away->opens), 2);
    pom_destination_unref(&f->base);
    pom_destination_unref(&away->base);
    pom_destination_unref(&never->base);
}

static void test_fork_child_has_a_fresh_handoff(void **state) {
    skip_when_sanitized();
    fake_t *f;
    pom_exporter_t *e = exporter_with(&f, FAKE_SEND);
    pom_handoff_t *h;
    pom_destination_t *d;
    assert_int_equal(pom_handoff_new(&h), POM_OK);
    assert_int_equal(pom_handoff_destination_new(h, "callable", NULL, NULL, &d), POM_OK);
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    put(e, 1, 0);
    put(e, 2, 0);
    pom_handoff_item_t item;
    assert_int_equal(pom_handoff_take(h, soon(), &item), POM_OK);
    pid_t pid = fork_with(e);
    if (pid == 0) {
        pom_handoff_item_t mine;
        POM_TEST_CHILD_CHECK(pom_handoff_take(h, 0, &mine) == POM_ETIMEDOUT);
        pom_exporter_put(e, profile_new(1000, 0));
        POM_TEST_CHILD_CHECK(pom_handoff_take(h, soon(), &mine) == POM_OK);
        POM_TEST_CHILD_CHECK(mine.profile->thread == 1000);
        pom_handoff_done(h, &mine, NULL);
        POM_TEST_CHILD_CHECK(pom_exporter_flush(e, soon()));
        pom_test_child_ends(true);
    }
    expect_success(pid);
    while (item.profile->thread != 2) {
        pom_handoff_done(h, &item, NULL);
        assert_int_equal(pom_handoff_take(h, soon(), &item), POM_OK);
    }
    pom_handoff_done(h, &item, NULL);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(d).sent, 2);
    free_exporter(e);
    pom_destination_unref(d);
    pom_destination_unref(&f->base);
    pom_handoff_unref(h);
}

typedef struct putter_s {
    pom_exporter_t *e;
    _Atomic(bool) over;
    int64_t count;
} putter_t;

static void *keep_putting(void *arg) {
    putter_t *p = arg;
    while (!atomic_load(&p->over)) {
        pom_exporter_put(p->e, profile_new(p->count++, 200));
    }
    return NULL;
}

static void test_fork_in_the_middle_of_everything(void **state) {
    skip_when_sanitized();
    fake_t *f;
    pom_exporter_t *e = exporter_with(&f, FAKE_SEND);
    putter_t putter = {.e = e};
    pthread_t thread;
    pthread_create(&thread, NULL, keep_putting, &putter);
    for (int i = 0; i < 20; i++) {
        wait_for(atomic_load(&f->delivered) > i);
        pid_t pid = fork_with(e);
        if (pid == 0) {
            atomic_store(&f->last_number, -1);
            live(e, f, INT64_C(1) << 40);
            POM_TEST_CHILD_CHECK(pom_exporter_stop(e, soon()) == POM_OK);
            pom_test_child_ends(true);
        }
        expect_success(pid);
    }
    atomic_store(&putter.over, true);
    pthread_join(thread, NULL);
    assert_true(pom_exporter_flush(e, soon()));
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.produced, putter.count);
    assert_int_equal(c.sent + c.dropped[POM_DROP_QUEUE_FULL], putter.count);
    assert_int_equal(atomic_load(&f->faults), 0);
    free_exporter(e);
    pom_destination_unref(&f->base);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_fork_child_starts_from_zero_and_parent_goes_on),
        POM_TEST(test_fork_child_thread_starts_with_the_first_profile),
        POM_TEST(test_fork_grandchild_works_too),
        POM_TEST(test_fork_after_stop_stays_stopped),
        POM_TEST(test_fork_with_a_removed_destination_leaves_it_behind),
        POM_TEST(test_fork_child_has_a_fresh_destination_that_was_away),
        POM_TEST(test_fork_child_has_a_fresh_handoff),
        POM_TEST(test_fork_in_the_middle_of_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
