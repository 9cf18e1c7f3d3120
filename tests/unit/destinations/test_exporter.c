/*
 * The exporter against destinations that send, hold, buffer, fail, hang and come and go.
 *
 * The loop thread is real; nothing here depends on how fast it is. Where a test needs to know
 * that the loop went idle it looks at the exporter's inside.
 */
#include "tests/unit/destinations/fake.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/park.h"
#include "destinations/exporter_parts.h"

#define HOUR_NS (3600 * POM_NS_PER_S)

/* An exporter that delivers only when told to (flush, a full batch). */
static pom_exporter_t *slow_exporter(void) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = HOUR_NS;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    return e;
}

/* One with a short flush interval. */
static pom_exporter_t *quick_exporter(int64_t interval_ms) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = interval_ms * POM_NS_PER_MS;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    return e;
}

static fake_t *add_fake(pom_exporter_t *e, const char *name, fake_mode_t mode) {
    fake_t *f = fake_new(name, mode);
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    return f;
}

static void done(fake_t *f) {
    assert_int_equal(atomic_load(&f->faults), 0);
    pom_destination_unref(&f->base);
}

static int64_t soon(void) {
    return pom_now_ns() + PATIENCE_NS;
}

static int64_t wakeups(pom_exporter_t *e) {
    pom_exporter_stats_t stats;
    pom_exporter_stats(e, &stats);
    return stats.wakeups;
}

static void test_exporter_delivers_what_was_put_in_order(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_SEND);
    for (int i = 0; i < 1000; i++) {
        put(e, i, 100);
    }
    assert_true(pom_exporter_flush(e, soon()));
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.sent, 1000);
    assert_int_equal(c.produced, 1000);
    assert_true(c.bytes >= 1000 * 100);
    assert_int_equal(atomic_load(&f->delivered), 1000);
    assert_int_equal(atomic_load(&f->last_number), 999);
    assert_int_equal(pom_exporter_stop(e, soon()), POM_OK);
    assert_int_equal(atomic_load(&f->closes), 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_without_destinations_releases(void **state) {
    pom_exporter_t *e = slow_exporter();
    int64_t before = pom_alloc_live_bytes();
    for (int i = 0; i < 10; i++) {
        put(e, i, 100);
    }
    assert_int_equal(pom_alloc_live_bytes(), before);
    assert_true(pom_exporter_flush(e, 0));
    pom_exporter_stats_t stats;
    pom_exporter_stats(e, &stats);
    assert_int_equal(stats.put, 10);
    assert_int_equal(stats.unwanted, 10);
    assert_false(stats.running); /* nothing was added, so nothing was started */
    free_exporter(e);
}

static void put_next(fake_t *f) {
    int64_t number = atomic_load(&f->last_number) + 2;
    if (number <= 20) {
        pom_exporter_put(f->arg, profile_new(number, 100));
    }
}

static void test_exporter_timer_delivers_then_rests(void **state) {
    pom_exporter_t *e = quick_exporter(5);
    fake_t *f = add_fake(e, "a", FAKE_SEND);
    wait_for(atomic_load(&f->opens) == 1);
    wait_for(atomic_load(&e->signal) == 0);
    int64_t before = wakeups(e);
    put(e, 1, 100);
    wait_for(atomic_load(&f->delivered) == 1);
    wait_for(atomic_load(&e->signal) == 0);
    /* One to arm the timer, one tick that delivers, one tick that finds nothing and stops the
     * timer. */
    assert_int_equal(wakeups(e), before + 3);
    /* And it does stop: another loop's clock runs for 20 ticks meanwhile. */
    pom_exporter_t *clock = quick_exporter(5);
    fake_t *ticks = fake_new("clock", FAKE_SEND);
    ticks->on_deliver = put_next;
    ticks->arg = clock;
    assert_int_equal(pom_exporter_add(clock, &ticks->base), POM_OK);
    put(clock, 0, 100);
    wait_for(atomic_load(&ticks->delivered) == 21);
    assert_int_equal(wakeups(e), before + 3);
    free_exporter(clock);
    done(ticks);
    assert_int_equal(counters(&f->base).sent, 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_steady_stream_costs_one_wakeup_a_tick(void **state) {
    pom_exporter_t *e = quick_exporter(2);
    fake_t *f = fake_new("a", FAKE_SEND);
    f->on_deliver =
        put_next; /* each delivery brings the next profile: there is one in every interval */
    f->arg = e;
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    wait_for(atomic_load(&f->opens) == 1);
    wait_for(atomic_load(&e->signal) == 0);
    int64_t before = wakeups(e);
    put(e, 0, 100);
    wait_for(atomic_load(&f->delivered) == 21);
    wait_for(atomic_load(&e->signal) == 0);
    assert_int_equal(wakeups(e) - before, 1 + 21 + 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_full_batch_does_not_wait(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = fake_new("a", FAKE_SEND);
    f->base.queue_bytes = (size_t)1 << 30; /* however late the loop is, nothing is dropped */
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    put(e, 0, 0);
    assert_true(pom_exporter_flush(e, soon())); /* the first turn of the loop is over */
    for (int i = 1; i <= 400; i++) {
        put(e, i, 32 << 10);
    }
    wait_for(atomic_load(&f->delivered) >= 300); /* 32 of at least 32 KiB are a MiB */
    assert_true(pom_exporter_flush(e, soon()));
    assert_true(atomic_load(&f->largest) <
                (1 << 20) + (64 << 10)); /* a MiB, and the last one's excess */
    free_exporter(e);
    assert_int_equal(counters(&f->base).sent, 401);
    done(f);
}

static void test_exporter_prompt_destination_does_not_wait_for_a_whole_batch(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *patient = add_fake(e, "patient", FAKE_SEND);
    fake_t *prompt = fake_new("prompt", FAKE_SEND);
    prompt->base.prompt = true;
    put(e, 0, 200 << 10);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(atomic_load(&patient->delivered), 1);
    put(e, 1, 200 << 10); /* nobody is prompt yet, so the loop sleeps on */
    assert_int_equal(atomic_load(&e->signal) & POM__PROMPT, 0);
    assert_int_equal(pom_exporter_add(e, &prompt->base), POM_OK);
    assert_true(pom_exporter_flush(e, soon()));
    /* A turn of the loop that the flush or the add asked for may come after them, and be under way
     * when its bit is clear. When the next one begins it is over. */
    wait_for((atomic_load(&e->signal) & POM__URGENT) == 0);
    int64_t turns = wakeups(e);
    put(e, 2, 200 << 10);
    wait_for(wakeups(e) > turns);
    int64_t before = atomic_load(&patient->delivered);
    for (int i = 3; i < 9; i++) {
        put(e, i, 40 << 10); /* four are over 128 KiB */
    }
    wait_for(atomic_load(&prompt->delivered) >= 4);
    assert_int_equal(atomic_load(&patient->delivered), before);
    for (int i = 9; i < 41; i++) {
        put(e, i, 40 << 10); /* dealt out in parts, they are a batch all the same */
    }
    wait_for(atomic_load(&patient->delivered) >= before + 20);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(pom_exporter_remove(e, &prompt->base), POM_OK);
    assert_int_equal(atomic_load(&e->prompt), 0);
    free_exporter(e);
    assert_int_equal(counters(&patient->base).sent, 41);
    assert_int_equal(counters(&prompt->base).sent, 39);
    done(patient);
    done(prompt);
}

/* The one beside it gets its batches in the same turns of the loop, after it. */
static void test_exporter_gathers_for_a_destination_that_wants_it(void **state) {
    pom_exporter_t *e = quick_exporter(1);
    fake_t *f = fake_new("gathers", FAKE_SEND);
    f->base.gather_ns = HOUR_NS;
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    fake_t *beside = add_fake(e, "beside", FAKE_SEND);
    put(e, 1, 0);
    wait_for(atomic_load(&beside->delivered) == 1);
    assert_int_equal(atomic_load(&f->delivered), 1); /* the first one waits for nobody */
    for (int i = 2; i <= 10; i++) {
        put(e, i, 0);
        wait_for(atomic_load(&beside->delivered) == i);
        assert_int_equal(atomic_load(&f->delivered), 1);
    }
    (void)pom_exporter_flush(e, 0);
    wait_for(atomic_load(&f->delivered) == 10); /* though nobody waits any more */
    assert_int_equal(atomic_load(&f->deliveries), 2);
    put(e, 11, 600 << 10);
    wait_for(atomic_load(&beside->delivered) == 11);
    assert_int_equal(atomic_load(&f->delivered), 10);
    put(e, 12, 600 << 10);
    wait_for(atomic_load(&f->delivered) == 12); /* a MiB */
    put(e, 13, 0);
    wait_for(atomic_load(&beside->delivered) == 13);
    assert_int_equal(atomic_load(&f->delivered), 12);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(atomic_load(&f->delivered), 13);
    put(e, 14, 0);
    wait_for(atomic_load(&beside->delivered) == 14);
    free_exporter(e); /* the rest is not left behind */
    assert_int_equal(counters(&f->base).sent + counters(&f->base).dropped[POM_DROP_SHUTDOWN], 14);
    done(beside);
    done(f);
}

static void test_exporter_ends_gathering_with_time(void **state) {
    pom_exporter_t *e = quick_exporter(1);
    fake_t *f = fake_new("gathers", FAKE_SEND);
    f->base.gather_ns = 2 * POM_NS_PER_MS;
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    for (int i = 1; i <= 3; i++) {
        put(e, i, 0);
        wait_for(atomic_load(&f->delivered) == i);
    }
    free_exporter(e);
    done(f);
}

static void test_exporter_many_small_ones_make_a_batch(void **state) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = HOUR_NS;
    options.batch_count = 100;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    fake_t *f = add_fake(e, "a", FAKE_SEND);
    for (int i = 0; i < 1050; i++) {
        put(e, i, 0);
    }
    wait_for(atomic_load(&f->delivered) > 950); /* what is left is less than a batch */
    assert_true(atomic_load(&f->longest) <= 100);
    free_exporter(e);
    done(f);
}

static void test_exporter_full_queue_drops_the_oldest(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = fake_new("a", FAKE_BLOCK);
    f->base.queue_bytes = 1 << 20;
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    put(e, 0, 1000);
    assert_false(pom_exporter_flush(e, 0));
    wait_for(atomic_load(&f->inside) == 1);
    for (int i = 1; i <= 1000; i++) {
        put(e, i, 9000);
    }
    pom_destination_t *listed[2];
    assert_int_equal(pom_exporter_list(e, listed, 2), 1);
    pom_destination_unref(listed[0]);
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.produced, 1001);
    assert_int_equal(c.sent, 0);
    /* A profile of 9 000 bytes weighs between 9 000 and 21 000 with its block, so a MiB holds 50
     * to 116. */
    assert_in_range(c.queued, 50, 117);
    assert_int_equal(c.dropped[POM_DROP_QUEUE_FULL], 1001 - c.queued);
    atomic_store(&f->gate, true);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&f->base).sent, c.queued);
    assert_int_equal(atomic_load(&f->last_number), 1000); /* the newest got through */
    free_exporter(e);
    done(f);
}

static void test_exporter_hanging_destination_holds_no_more_than_its_budget(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = fake_new("a", FAKE_BLOCK);
    f->base.queue_bytes = 2 << 20;
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    put(e, 0, 1000);
    assert_false(pom_exporter_flush(e, 0));
    wait_for(atomic_load(&f->inside) == 1);
    int64_t before = pom_alloc_live_bytes();
    int64_t most = 0;
    for (int i = 1; i <= 3000; i++) {
        put(e, i, 30000);
        int64_t live = pom_alloc_live_bytes() - before;
        most = live > most ? live : most;
    }
    /* 90 MB were put. The budget, an intake of two batches and one profile, and the allocator's
     * slack. */
    assert_true(most < (2 << 20) + (2 << 20) + (1 << 20));
    atomic_store(&f->gate, true);
    assert_true(pom_exporter_flush(e, soon()));
    free_exporter(e);
    done(f);
}

static void test_exporter_profile_over_the_budget_is_too_big(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *small = fake_new("small", FAKE_SEND);
    small->base.queue_bytes = 10000;
    assert_int_equal(pom_exporter_add(e, &small->base), POM_OK);
    fake_t *large = add_fake(e, "large", FAKE_SEND);
    put(e, 1, 50000);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&small->base).dropped[POM_DROP_TOO_BIG], 1);
    assert_int_equal(counters(&large->base).sent, 1);
    free_exporter(e);
    done(small);
    done(large);
}

static void test_exporter_add_and_remove_say_what_is_wrong(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = fake_new("a", FAKE_SEND);
    assert_int_equal(pom_exporter_remove(e, &f->base), POM_ENOTFOUND);
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    assert_int_equal(pom_exporter_add(e, &f->base), POM_EINVAL);
    fake_t *others[POM_EXPORTER_DESTINATIONS_MAX];
    for (int i = 1; i < POM_EXPORTER_DESTINATIONS_MAX; i++) {
        others[i] = add_fake(e, "other", FAKE_SEND);
    }
    others[0] = fake_new("one too many", FAKE_SEND);
    assert_int_equal(pom_exporter_add(e, &others[0]->base), POM_EFULL);
    assert_int_equal(pom_exporter_remove(e, &f->base), POM_OK);
    assert_int_equal(pom_exporter_remove(e, &f->base), POM_ENOTFOUND);
    free_exporter(e);
    for (int i = 0; i < POM_EXPORTER_DESTINATIONS_MAX; i++) {
        done(others[i]);
    }
    done(f);
}

static void test_exporter_new_destination_gets_no_older_profile(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *first = add_fake(e, "first", FAKE_SEND);
    put(e, 1, 0);
    fake_t *second = add_fake(e, "second", FAKE_SEND);
    put(e, 2, 0);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&first->base).sent, 2);
    assert_int_equal(counters(&second->base).sent, 1);
    assert_int_equal(counters(&second->base).produced, 1);
    free_exporter(e);
    done(first);
    done(second);
}

static void test_exporter_remove_while_sending(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_BLOCK);
    fake_t *other = add_fake(e, "b", FAKE_SEND);
    put(e, 1, 0);
    (void)pom_exporter_flush(e, 0);
    wait_for(atomic_load(&f->inside) == 1);
    put(e, 2, 0);
    put(e, 3, 0);
    assert_int_equal(pom_exporter_remove(e, &f->base),
                     POM_OK); /* returns though deliver is hanging */
    assert_int_equal(counters(&f->base).dropped[POM_DROP_REMOVED], 2);
    put(e, 4, 0);
    atomic_store(&f->gate, true);
    assert_true(pom_exporter_flush(e, soon()));
    wait_for(atomic_load(&f->closes) == 1);
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.produced, 3);
    assert_int_equal(c.sent, 1); /* what was being sent is counted by its outcome */
    assert_int_equal(c.queued, 0);
    assert_int_equal(atomic_load(&f->deliveries), 1);
    assert_int_equal(counters(&other->base).sent, 4);
    free_exporter(e);
    done(f);
    done(other);
}

static void test_exporter_closes_what_is_removed_while_nothing_comes(void **state) {
    pom_exporter_t *e = quick_exporter(5);
    fake_t *f = add_fake(e, "a", FAKE_SEND);
    wait_for(atomic_load(&f->opens) == 1);
    wait_for(atomic_load(&e->signal) == 0); /* the timer rests */
    assert_int_equal(pom_exporter_remove(e, &f->base), POM_OK);
    wait_for(atomic_load(&f->closes) == 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_removed_destination_can_be_added_at_once(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_HOLD);
    int64_t sent = 0;
    for (int round = 0; round < 50; round++) {
        put(e, 2 * round, 0);
        (void)pom_exporter_flush(e, 0);
        if (round % 2 == 0) {
            wait_for(atomic_load(&f->held_count) == 1 || atomic_load(&f->deliveries) == 0);
        }
        assert_int_equal(pom_exporter_remove(e, &f->base), POM_OK);
        assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
        sent += fake_release(f, 1);
    }
    atomic_store(&f->mode, FAKE_SEND);
    put(e, 1000, 0);
    (void)fake_release(f, 1);
    assert_true(pom_exporter_flush(e, soon()));
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.produced, 51);
    assert_int_equal(c.sent + c.dropped[POM_DROP_REMOVED], 51);
    assert_true(c.sent >= 1 + sent);
    free_exporter(e);
    assert_int_equal(atomic_load(&f->opens), atomic_load(&f->closes));
    done(f);
}

static void test_exporter_window_bounds_batches_out(void **state) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = HOUR_NS;
    options.batch_count = 10;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    fake_t *f = fake_new("a", FAKE_HOLD);
    f->base.window = 3;
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    for (int i = 0; i < 100; i++) {
        put(e, i, 0);
    }
    wait_for(atomic_load(&f->held_count) == 3);
    assert_int_equal(fake_release(f, 1), 1);
    wait_for(atomic_load(&f->held_count) ==
             3); /* the end of one brings the next, without timer or flush */
    assert_false(pom_exporter_flush(e, 0)); /* the last few do not make a batch */
    wait_for((fake_release(f, 1), counters(&f->base).sent == 100));
    assert_true(pom_exporter_flush(e, soon()));
    free_exporter(e);
    done(f);
}

static void test_exporter_delivers_the_next_when_the_last_is_through(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_HOLD); /* one batch at a time */
    for (int i = 1; i <= 3; i++) {
        put(e, i, 0);
        assert_false(pom_exporter_flush(e, 0));
        if (i == 1) {
            wait_for(atomic_load(&f->held_count) == 1);
        } else {
            wait_for((atomic_load(&e->signal) & POM__URGENT) == 0);
            assert_int_equal(fake_release(f, 1), 1); /* no tick comes, and nobody asks */
            wait_for(atomic_load(&f->held_count) == 1);
        }
        assert_int_equal(atomic_load(&f->delivered), i);
    }
    assert_int_equal(fake_release(f, 1), 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_twenty_destinations_each_keep_their_own_books(void **state) {
    static const fake_mode_t modes[] = {FAKE_SEND, FAKE_BUFFER, FAKE_FAIL, FAKE_HOLD, FAKE_BLOCK};
    pom_exporter_t *e = quick_exporter(1);
    fake_t *fakes[20];
    for (int i = 0; i < 20; i++) {
        fakes[i] = fake_new("one of twenty", modes[i % 5]);
        fakes[i]->base.queue_bytes = 256 << 10;
        assert_int_equal(pom_exporter_add(e, &fakes[i]->base), POM_OK);
    }
    for (int i = 0; i < 2000; i++) {
        put(e, i, 1000);
    }
    for (int i = 4; i < 20; i += 5) {
        atomic_store(&fakes[i]->gate, true);
    }
    for (int i = 0; i < 20; i++) {
        if (modes[i % 5] == FAKE_FAIL) {
            wait_for(counters(&fakes[i]->base).dropped[POM_DROP_ERROR] > 0);
        } else if (modes[i % 5] == FAKE_SEND || modes[i % 5] == FAKE_BLOCK) {
            wait_for(counters(&fakes[i]->base).sent > 0);
        }
    }
    /* Those that hold never send, and those that buffer only when flushed. */
    wait_for(pom_exporter_stop(e, pom_now_ns() + 10 * POM_NS_PER_MS) == POM_OK);
    for (int i = 0; i < 20; i++) {
        pom_destination_counters_t c = counters(&fakes[i]->base);
        assert_int_equal(c.produced, 2000);
        assert_int_equal(c.queued, 0);
        assert_int_equal(c.spooled, 0);
        switch (modes[i % 5]) {
        case FAKE_FAIL:
            assert_int_equal(c.dropped[POM_DROP_ERROR] + c.dropped[POM_DROP_QUEUE_FULL] +
                                 c.dropped[POM_DROP_SHUTDOWN],
                             2000);
            assert_true(c.dropped[POM_DROP_ERROR] > 0);
            assert_memory_equal(c.last_error, "batch ", 6);
            break;
        case FAKE_HOLD:
            assert_int_equal(c.dropped[POM_DROP_SHUTDOWN] + c.dropped[POM_DROP_QUEUE_FULL], 2000);
            assert_true(c.dropped[POM_DROP_SHUTDOWN] > 0);
            break;
        default:
            assert_int_equal(c.sent + c.dropped[POM_DROP_QUEUE_FULL] + c.dropped[POM_DROP_SHUTDOWN],
                             2000);
            assert_true(c.sent > 0 || modes[i % 5] == FAKE_BUFFER);
            break;
        }
    }
    free_exporter(e);
    for (int i = 0; i < 20; i++) {
        done(fakes[i]);
    }
}

static void test_exporter_flush_is_false_until_the_queue_was_empty(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_BLOCK);
    assert_true(pom_exporter_flush(e, 0)); /* nothing queued: true whatever the deadline */
    put(e, 1, 0);
    assert_false(pom_exporter_flush(e, 0));
    assert_false(pom_exporter_flush(e, pom_now_ns() + 5 * POM_NS_PER_MS));
    assert_int_equal(counters(&f->base).queued, 1);
    atomic_store(&f->gate, true);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&f->base).queued, 0);
    assert_true(pom_exporter_flush(e, POM_FOREVER));
    free_exporter(e);
    done(f);
}

static void *flush_it(void *arg) {
    pom_exporter_t *e = arg;
    return pom_exporter_flush(e, soon()) ? e : NULL;
}

static void test_exporter_flush_hears_of_a_late_send(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_HOLD);
    put(e, 1, 0);
    pthread_t thread;
    void *flushed = NULL;
    pthread_create(&thread, NULL, flush_it, e);
    wait_for(atomic_load(&e->waiters) == 1 && atomic_load(&f->held_count) == 1);
    int64_t before = pom_now_ns();
    assert_int_equal(fake_release(f, 1), 1); /* on this thread: the loop sees nothing of it */
    pthread_join(thread, &flushed);
    assert_non_null(flushed);
    assert_true(pom_now_ns() - before < PATIENCE_NS); /* told, not timed out */
    free_exporter(e);
    done(f);
}

static void test_exporter_flush_does_not_wait_for_what_is_removed(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_BLOCK);
    put(e, 1, 0);
    pthread_t thread;
    void *flushed = NULL;
    pthread_create(&thread, NULL, flush_it, e);
    wait_for(atomic_load(&e->waiters) == 1 && atomic_load(&f->inside) == 1);
    int64_t before = pom_now_ns();
    assert_int_equal(pom_exporter_remove(e, &f->base), POM_OK); /* the loop hangs in its deliver */
    pthread_join(thread, &flushed);
    assert_non_null(flushed);
    assert_true(pom_now_ns() - before < PATIENCE_NS); /* told, not timed out */
    atomic_store(&f->gate, true);
    free_exporter(e);
    done(f);
}

static void test_exporter_flush_empties_what_a_destination_buffers(void **state) {
    pom_exporter_t *e = quick_exporter(1);
    fake_t *f = add_fake(e, "a", FAKE_BUFFER);
    put(e, 1, 0);
    wait_for(atomic_load(&f->delivered) == 1);
    wait_for(atomic_load(&e->signal) == 0); /* holding back does not keep the timer running */
    assert_int_equal(counters(&f->base).queued, 1);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&f->base).sent, 1);
    assert_true(atomic_load(&f->flushes) >= 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_stop_counts_the_rest_and_can_start_again(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_HOLD);
    for (int i = 0; i < 100; i++) {
        put(e, i, 1000);
    }
    wait_for(pom_exporter_stop(e, pom_now_ns() + POM_NS_PER_MS) == POM_OK);
    pom_destination_counters_t c = counters(&f->base);
    assert_int_equal(c.produced, 100);
    assert_int_equal(c.dropped[POM_DROP_SHUTDOWN], 100);
    pom_exporter_stats_t stats;
    pom_exporter_stats(e, &stats);
    assert_false(stats.running);
    assert_int_equal(pom_exporter_stop(e, 0), POM_OK); /* again: nothing to do */

    put(e, 100, 1000);
    put(e, 101, 1000);
    assert_true(pom_exporter_flush(e, 0)); /* dropped, so nothing is queued */
    assert_int_equal(counters(&f->base).dropped[POM_DROP_SHUTDOWN], 102);

    atomic_store(&f->mode, FAKE_SEND);
    assert_int_equal(pom_exporter_start(e), POM_OK);
    assert_int_equal(pom_exporter_start(e), POM_OK);
    put(e, 102, 1000);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&f->base).sent, 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_stop_does_not_wait_for_a_hanging_write(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_BLOCK);
    put(e, 1, 0);
    (void)pom_exporter_flush(e, 0);
    wait_for(atomic_load(&f->inside) == 1);
    put(e, 2, 0);
    put(e, 3, 0);
    assert_int_equal(pom_exporter_stop(e, 0), POM_ETIMEDOUT);
    assert_int_equal(pom_exporter_start(e), POM_ETIMEDOUT);
    assert_int_equal(counters(&f->base).dropped[POM_DROP_SHUTDOWN], 2);
    atomic_store(&f->gate, true);
    assert_int_equal(pom_exporter_stop(e, soon()), POM_OK);
    assert_int_equal(counters(&f->base).sent, 1);
    assert_int_equal(pom_exporter_start(e), POM_OK);
    put(e, 4, 0);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&f->base).sent, 2);
    free_exporter(e);
    done(f);
}

static void test_exporter_open_is_tried_again(void **state) {
    pom_exporter_t *e = quick_exporter(1);
    fake_t *f = fake_new("a", FAKE_SEND);
    atomic_store(&f->open_failures, 3);
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    put(e, 1, 0);
    wait_for(counters(&f->base).sent == 1);
    assert_int_equal(atomic_load(&f->open_failures), 0);
    atomic_store(&f->open_failures, INT32_MAX);
    assert_int_equal(pom_exporter_stop(e, soon()), POM_OK);
    assert_int_equal(pom_exporter_start(e), POM_OK);
    put(e, 2, 0);
    wait_for(pom_exporter_stop(e, pom_now_ns() + POM_NS_PER_MS) == POM_OK);
    assert_int_equal(counters(&f->base).dropped[POM_DROP_SHUTDOWN], 1);
    free_exporter(e);
    done(f);
}

static void test_exporter_says_when_there_is_no_descriptor_for_a_loop(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = fake_new("a", FAKE_SEND);
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    pom_status_t status = pom_exporter_add(e, &f->base);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(status, POM_EIO);
    pom_destination_t *listed[1];
    assert_int_equal(pom_exporter_list(e, listed, 1), 0);
    assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
    put(e, 1, 0);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(&f->base).sent, 1);
    free_exporter(e);
    done(f);
}

/* At its poll, as it holds no lock for long. */
static bool loop_sleeps(const pom_exporter_t *e) {
    char path[64], text[256] = "";
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)atomic_load(&e->tid));
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    const char *state = fgets(text, sizeof text, file) == NULL ? NULL : strrchr(text, ')');
    (void)fclose(file);
    return state != NULL && state[2] == 'S'; /* see proc(5) */
}

/* As os.closerange does. The loop's next turn, when its timer is due, is one of a stop that is
 * under way. */
static void test_exporter_without_its_descriptors_says_so_and_stops_without_waiting(void **state) {
    skip_when_sanitized(); /* a child that starts threads */
    for (int busy = 0; busy < 2; busy++) {
        pid_t pid = fork();
        if (pid == 0) {
            pom_exporter_t *e = quick_exporter(100);
            fake_t *f = add_fake(e, "a", FAKE_SEND);
            if (busy) {
                put(e, 1, 0); /* the timer runs until a tick finds nothing */
            }
            bool good = pom_exporter_flush(e, soon());
            wait_for(atomic_load(&f->opens) == 1);
            /* A turn that reads the one or is about to poll the other would end the process. */
            wait_for(loop_sleeps(e));
            pom_destination_t *listed[1];
            good = pom_exporter_list(e, listed, 1) == 1 && good &&
                   counters(&f->base).last_error[0] == '\0';
            (void)close(e->guard.polled);
            (void)close(e->guard.woken);
            good = pom_exporter_list(e, listed, 1) == 1 && good &&
                   strstr(counters(&f->base).last_error, "closed the delivery's descriptors");
            good = pom_exporter_stop(e, pom_now_ns() + HOUR_NS) == POM_ETIMEDOUT && good;
            pom_test_child_ends(good);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

static void test_exporter_thread_is_a_quiet_guest(void **state) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = add_fake(e, "a", FAKE_SEND);
    wait_for(atomic_load(&e->tid) != 0 && atomic_load(&f->opens) == 1);
    char path[64];
    char line[128];
    unsigned long long blocked = 0;
    bool named = false;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)atomic_load(&e->tid));
    FILE *status = fopen(path, "r");
    assert_non_null(status);
    while (fgets(line, sizeof line, status) != NULL) {
        named = named || strcmp(line, "Name:\tpom-loop\n") == 0;
        (void)sscanf(line, "SigBlk: %llx", &blocked);
    }
    fclose(status);
    assert_true(named);
    static const struct {
        int signal;
        bool blocked;
    } wanted[] = {{1, true},  {2, true},  {10, true},  {13, true}, {15, true},
                  {25, true}, {27, true}, {11, false}, {7, false}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        assert_int_equal((blocked >> (wanted[i].signal - 1)) & 1, wanted[i].blocked);
    }
    put(e, 1, 0);
    assert_true(pom_exporter_flush(e, soon()));
    int64_t cpu = pom_exporter_cpu_ns(e);
    assert_true(cpu > 0);
    assert_int_equal(pom_exporter_stop(e, soon()), POM_OK);
    assert_true(pom_exporter_cpu_ns(e) >= cpu); /* the bill outlives the thread */
    assert_int_equal(atomic_load(&e->tid), 0);
    free_exporter(e);
    done(f);
}

/* ---- everything at once ---- */

#define STORM_PUTS 20000

typedef struct storm_s {
    pom_exporter_t *e;
    fake_t *fakes[8];
    _Atomic(bool) over;
    _Atomic(int64_t) faults;
} storm_t;

static void *storm_put(void *arg) {
    storm_t *s = arg;
    for (int i = 0; i < STORM_PUTS; i++) {
        pom_profile_t *p = profile_new(i, (size_t)(i % 7) * 500);
        if (p == NULL) {
            atomic_fetch_add(&s->faults, 1);
        } else {
            pom_exporter_put(s->e, p);
        }
    }
    atomic_store(&s->over, true);
    return NULL;
}

static void *storm_change(void *arg) {
    storm_t *s = arg;
    unsigned random = 12345;
    while (!atomic_load(&s->over)) {
        random = random * 1103515245U + 12345U;
        fake_t *f = s->fakes[(random >> 16) % 8];
        if (pom_exporter_remove(s->e, &f->base) != POM_OK) {
            pom_status_t status = pom_exporter_add(s->e, &f->base);
            if (status != POM_OK && status != POM_EINVAL && status != POM_EFULL) {
                atomic_fetch_add(
                    &s->faults,
                    1); /* EINVAL: the other thread was first; EFULL: many are closing */
            }
        }
    }
    return NULL;
}

static void *storm_look(void *arg) {
    storm_t *s = arg;
    while (!atomic_load(&s->over)) {
        pom_destination_t *listed[8];
        uint32_t n = pom_exporter_list(s->e, listed, 8);
        for (uint32_t i = 0; i < n; i++) {
            pom_destination_counters_t c;
            pom_destination_counters(listed[i], &c);
            if (c.queued < 0 || c.queued > c.produced) {
                atomic_fetch_add(&s->faults, 1);
            }
            pom_destination_unref(listed[i]);
        }
        (void)pom_exporter_flush(s->e, pom_now_ns() + POM_NS_PER_MS);
        (void)pom_exporter_cpu_ns(s->e);
    }
    return NULL;
}

static void test_exporter_storm_of_puts_adds_and_removes(void **state) {
    static const fake_mode_t modes[] = {FAKE_SEND, FAKE_BUFFER, FAKE_FAIL, FAKE_SEND};
    storm_t s = {.e = quick_exporter(1)};
    for (int i = 0; i < 8; i++) {
        s.fakes[i] = add_fake(s.e, "storm", modes[i % 4]);
    }
    pthread_t threads[5];
    void *(*const mains[5])(void *) = {storm_put, storm_change, storm_change, storm_look,
                                       storm_look};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, mains[i], &s), 0);
    }
    for (int i = 0; i < 5; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&s.faults), 0);
    assert_true(pom_exporter_flush(s.e, soon()));
    pom_exporter_stats_t stats;
    pom_exporter_stats(s.e, &stats);
    assert_int_equal(stats.put, STORM_PUTS);
    assert_int_equal(pom_exporter_stop(s.e, soon()), POM_OK);
    for (int i = 0; i < 8; i++) {
        pom_destination_counters_t c = counters(&s.fakes[i]->base);
        assert_int_equal(c.queued, 0);
        assert_true(c.produced <= STORM_PUTS);
        assert_int_equal(atomic_load(&s.fakes[i]->opens), atomic_load(&s.fakes[i]->closes));
    }
    free_exporter(s.e);
    for (int i = 0; i < 8; i++) {
        done(s.fakes[i]);
    }
}

/* ---- constructors ---- */

static bool make(void *arg) {
    pom_exporter_t *e = NULL;
    pom_status_t status = pom_exporter_new(NULL, &e);
    free_exporter(e);
    return status == POM_OK;
}

static bool add_fails(void *arg) {
    pom_exporter_t *e = slow_exporter();
    fake_t *f = arg;
    pom_alloc_fail_from(1);
    pom_status_t status = pom_exporter_add(e, &f->base);
    pom_alloc_fail_from(0);
    free_exporter(e);
    return status == POM_ENOMEM;
}

static void test_exporter_survives_failing_allocations(void **state) {
    assert_true(pom_torture(make, NULL) == 2);
    fake_t *f = fake_new("a", FAKE_SEND);
    assert_true(add_fails(f));
    done(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_exporter_delivers_what_was_put_in_order),
        POM_TEST(test_exporter_without_destinations_releases),
        POM_TEST(test_exporter_timer_delivers_then_rests),
        POM_TEST(test_exporter_steady_stream_costs_one_wakeup_a_tick),
        POM_TEST(test_exporter_full_batch_does_not_wait),
        POM_TEST(test_exporter_prompt_destination_does_not_wait_for_a_whole_batch),
        POM_TEST(test_exporter_gathers_for_a_destination_that_wants_it),
        POM_TEST(test_exporter_ends_gathering_with_time),
        POM_TEST(test_exporter_many_small_ones_make_a_batch),
        POM_TEST(test_exporter_full_queue_drops_the_oldest),
        POM_TEST(test_exporter_hanging_destination_holds_no_more_than_its_budget),
        POM_TEST(test_exporter_profile_over_the_budget_is_too_big),
        POM_TEST(test_exporter_add_and_remove_say_what_is_wrong),
        POM_TEST(test_exporter_new_destination_gets_no_older_profile),
        POM_TEST(test_exporter_remove_while_sending),
        POM_TEST(test_exporter_closes_what_is_removed_while_nothing_comes),
        POM_TEST(test_exporter_removed_destination_can_be_added_at_once),
        POM_TEST(test_exporter_window_bounds_batches_out),
        POM_TEST(test_exporter_delivers_the_next_when_the_last_is_through),
        POM_TEST(test_exporter_twenty_destinations_each_keep_their_own_books),
        POM_TEST(test_exporter_flush_is_false_until_the_queue_was_empty),
        POM_TEST(test_exporter_flush_hears_of_a_late_send),
        POM_TEST(test_exporter_flush_does_not_wait_for_what_is_removed),
        POM_TEST(test_exporter_flush_empties_what_a_destination_buffers),
        POM_TEST(test_exporter_stop_counts_the_rest_and_can_start_again),
        POM_TEST(test_exporter_stop_does_not_wait_for_a_hanging_write),
        POM_TEST(test_exporter_open_is_tried_again),
        POM_TEST(test_exporter_says_when_there_is_no_descriptor_for_a_loop),
        POM_TEST(test_exporter_without_its_descriptors_says_so_and_stops_without_waiting),
        POM_TEST(test_exporter_thread_is_a_quiet_guest),
        POM_TEST(test_exporter_storm_of_puts_adds_and_removes),
        POM_TEST(test_exporter_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
