/* The sampler's thread: what it hands on, what it counts as missed, when it parks, and that nobody
 * is left waiting. */
#define _GNU_SOURCE // gettid, pthread_setaffinity_np
#include "tests/unit/support/detach.h"
#include "tests/unit/support/test_support.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tests/unit/sampler/fakes.h"

#define FAST_NS (50 * POM_NS_PER_US)
#define SLOW_NS (3600 * POM_NS_PER_S) /* a look within a test is as likely as one in a thousand */
#define SOON_NS (120 * POM_NS_PER_S)  /* next to nothing of that, even where the machine is busy */

typedef struct rig_s {
    pom_slots_t slots;
    pom_code_table_t *codes;
    fake_walker_t walker;
    fake_client_t client;
    pom_sampler_t *sampler;
    pom_slot_t *slot;
} rig_t;

static pom_slot_t *claim(rig_t *rig, int32_t tid) {
    pom_thread_identity_t who = {.tid = tid};
    return pom_slots_claim(&rig->slots, &who);
}

/* Not started; one slot of a thread that does not exist. */
static void rig_init(rig_t *rig, int64_t granularity_ns, int64_t budget_ppm) {
    pom_schedule_options_t options = {.granularity_ns = granularity_ns, .budget_ppm = budget_ppm};
    pom_slots_init(&rig->slots);
    rig->codes = pom_code_table_new(64, &fake_resolver);
    fake_walker_init(&rig->walker);
    fake_client_init(&rig->client);
    rig->sampler = pom_sampler_new(&options, &rig->slots, rig->codes, &rig->walker.walker,
                                   &rig->client.client);
    assert_non_null(rig->sampler);
    rig->slot = claim(rig, 0);
}

static void rig_fini(rig_t *rig) {
    pom_sampler_stop(rig->sampler);
    pom_sampler_free(rig->sampler);
    pom_code_table_free(rig->codes);
    pom_slots_fini(&rig->slots);
}

static void start(rig_t *rig) {
    assert_int_equal(pom_sampler_start(rig->sampler), POM_OK);
}

static void *action_of(uintptr_t number) {
    return (void *)(number << 4);
}

static void attach(rig_t *rig, pom_slot_t *slot, uintptr_t number) {
    pom_anchor_t anchor = {
        .at = {.frame = number}, .action = action_of(number), .since_ns = pom_now_ns()};
    assert_int_equal(pom_slot_attach(slot, &anchor), POM_OK);
    pom_sampler_notify(rig->sampler);
}

static void detach(pom_slot_t *slot, uintptr_t number) {
    assert_true(detach_action(slot, action_of(number)));
}

static bool sync_now(rig_t *rig) {
    return pom_sampler_sync(rig->sampler, pom_now_ns() + FAKE_PATIENCE_NS);
}

static pom_sampler_stats_t stats(const rig_t *rig) {
    return pom_sampler_stats(rig->sampler);
}

/* ---- samples and misses --------------------------------------------------------------------- */

static void test_sampler_hands_on_the_sample_of_the_anchor_met(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    for (uintptr_t i = 1; i <= 3; i++) {
        attach(&rig, rig.slot, i);
    }
    for (uint32_t index = 0; index < 3; index++) { // newest first
        atomic_store(&rig.walker.anchor, index);
        atomic_store(&rig.client.sampled, NULL);
        start(&rig);
        assert_true(await(atomic_load(&rig.client.sampled) != NULL));
        pom_sampler_stop(rig.sampler);
        assert_ptr_equal(atomic_load(&rig.client.sampled), action_of(3 - index));
    }
    assert_int_equal(atomic_load(&rig.client.depth), 3);
    assert_int_equal(atomic_load(&rig.client.early), 0);
    assert_int_equal(stats(&rig).taken, atomic_load(&rig.client.samples));
    // A walk that this thread was interrupted in is taken again.
    assert_true(atomic_load(&rig.walker.walks) >= atomic_load(&rig.client.samples));
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        assert_int_equal(stats(&rig).missed[i], 0);
    }
    rig_fini(&rig);
}

static pom_status_t waits(pom_walker_t *walker, const pom_slot_view_t *view, uint32_t anchor,
                          pom_stack_t *stack, int64_t *helped_ns) {
    (void)walker;
    (void)helped_ns;
    stack->depth = 1;
    stack->truncated = false;
    stack->frames[0] = (pom_raw_frame_t){.code = 40, .lasti = 1};
    return view->anchors[anchor].action == action_of(2) ? POM_OK : POM_ENOTFOUND;
}

static void test_sampler_looks_at_what_does_not_run(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    rig.walker.walker.parked = waits;
    for (uintptr_t i = 1; i <= 3; i++) {
        attach(&rig, rig.slot, i);
    }
    start(&rig);
    // Newest first, so index 0 is action 3, which runs.
    assert_true(await(atomic_load(&rig.client.by_action[3]) > 0));
    assert_true(await(atomic_load(&rig.client.by_action[2]) > 0));
    assert_int_equal(atomic_load(&rig.client.by_action[1]), 0);
    // The thread runs something else: no sample is missed while those that wait are seen.
    atomic_store(&rig.walker.status, POM_ENOTFOUND);
    assert_true(sync_now(&rig));
    int64_t samples = atomic_load(&rig.client.samples);
    assert_true(await(atomic_load(&rig.client.samples) > samples + 2));
    assert_ptr_equal(atomic_load(&rig.client.sampled), action_of(2));
    pom_sampler_stop(rig.sampler);
    assert_int_equal(atomic_load(&rig.client.depth), 1);
    assert_int_equal(stats(&rig).missed[POM_MISS_NO_ANCHOR], 0);
    rig_fini(&rig);
}

static void test_sampler_looks_at_every_slot(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    pom_slot_t *slots[5];
    start(&rig);
    for (uintptr_t i = 0; i < 5; i++) {
        slots[i] = claim(&rig, 0);
        attach(&rig, slots[i], i + 1);
    }
    for (uintptr_t i = 0; i < 5; i++) {
        assert_true(await(atomic_load(&rig.client.by_action[i + 1]) > 0));
    }
    rig_fini(&rig);
}

static pom_status_t leave(fake_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                          uint32_t *anchor) {
    (void)self;
    fake_stack(stack);
    *anchor = 0;
    (void)pom_slot_detach(view->slot, view->anchors[0].nth);
    return POM_OK;
}

static pom_status_t disturb(fake_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                            uint32_t *anchor) {
    (void)self;
    fake_stack(stack);
    *anchor = 0;
    pom_anchor_t other = {.action = action_of(99)};
    (void)pom_slot_attach(view->slot, &other);
    (void)detach_action(view->slot, other.action);
    return POM_OK;
}

static pom_status_t torn_seven_times(fake_walker_t *self, const pom_slot_view_t *view,
                                     pom_stack_t *stack, uint32_t *anchor) {
    (void)view;
    fake_stack(stack);
    *anchor = 0;
    return atomic_load(&self->walks) % 8 != 0 ? POM_ETORN : POM_OK;
}

/* Looks run on the test's own thread here: one stop after one look would be a race. */
static void await_looks(rig_t *rig, int64_t looks) {
    start(rig);
    assert_true(await(atomic_load(&rig->client.samples) +
                          atomic_load(&rig->client.misses[POM_MISS_TORN]) +
                          atomic_load(&rig->client.misses[POM_MISS_NO_ANCHOR]) +
                          atomic_load(&rig->client.misses[POM_MISS_UNREADABLE]) +
                          atomic_load(&rig->client.misses[POM_MISS_DEAD_CODE]) +
                          atomic_load(&rig->client.misses[POM_MISS_TOO_DEEP]) +
                          atomic_load(&rig->client.misses[POM_MISS_RACED]) >=
                      looks));
    pom_sampler_stop(rig->sampler);
}

static void test_sampler_counts_misses_by_reason(void **state) {
    static const struct {
        pom_status_t status;
        pom_miss_t reason;
    } cases[] = {
        {POM_ETORN, POM_MISS_TORN},
        {POM_ENOTFOUND, POM_MISS_NO_ANCHOR},
        {POM_EUNREADABLE, POM_MISS_UNREADABLE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig_t rig;
        rig_init(&rig, FAST_NS, 1000000);
        attach(&rig, rig.slot, 1);
        attach(&rig, rig.slot, 2);
        atomic_store(&rig.walker.status, (int)cases[i].status);
        await_looks(&rig, 10);
        int64_t misses = stats(&rig).missed[cases[i].reason];
        assert_true(misses >= 10);
        assert_int_equal(atomic_load(&rig.client.misses[cases[i].reason]), misses);
        assert_ptr_equal(atomic_load(&rig.client.missed), action_of(2)); // the newest
        assert_int_equal(stats(&rig).taken, 0);
        assert_true(atomic_load(&rig.walker.walks) <= 8 * misses);
        for (int other = 0; other < POM_MISS_COUNT; other++) {
            assert_true(other == (int)cases[i].reason || stats(&rig).missed[other] == 0);
        }
        rig_fini(&rig);
    }
}

static void test_sampler_tries_a_torn_stack_eight_times(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    attach(&rig, rig.slot, 1);
    atomic_store(&rig.walker.status, POM_ETORN);
    await_looks(&rig, 10);
    assert_int_equal(atomic_load(&rig.walker.walks), 8 * stats(&rig).missed[POM_MISS_TORN]);
    rig_fini(&rig);

    rig_init(&rig, FAST_NS, 1000000);
    attach(&rig, rig.slot, 1);
    rig.walker.script = torn_seven_times;
    await_looks(&rig, 10);
    assert_true(stats(&rig).taken > 0);
    // An eighth walk in which the sampler lost its core is torn as well, and was the look's last.
    assert_int_equal(atomic_load(&rig.walker.walks),
                     8 * (stats(&rig).taken + stats(&rig).missed[POM_MISS_TORN]));
    rig_fini(&rig);
}

#define WALK_FRAMES 7 /* as the sampler counts those of a fake stack */

/* The fake stack, at so many microseconds a frame. */
static void take_slowly(pom_stack_t *stack, uint32_t *anchor, int64_t frame_us) {
    int64_t until_ns = pom_now_ns() + WALK_FRAMES * frame_us * POM_NS_PER_US;
    fake_stack(stack);
    *anchor = 0;
    while (pom_now_ns() < until_ns) {
    }
}

/* Takes as many microseconds a frame as the context says; every second walk is torn besides. */
static pom_status_t take_time(fake_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                              uint32_t *anchor) {
    (void)view;
    take_slowly(stack, anchor, *(const int64_t *)self->context);
    return atomic_load(&self->walks) % 2 == 0 ? POM_ETORN : POM_OK;
}

/* A sampler that takes a walk for interrupted, as the fake one usually is not, and has met only
 * such as take 4 us a frame. */
static void rig_init_slow(rig_t *rig, int64_t *frame_us) {
    rig_init(rig, FAST_NS, 1000000);
    *frame_us = 4;
    rig->walker.walker.frame_most_ns = POM_NS_PER_US;
    rig->walker.script = take_time;
    rig->walker.context = frame_us;
    attach(rig, rig->slot, 1);
    pom_sampler_free(rig->sampler);
    pom_schedule_options_t options = {.granularity_ns = FAST_NS, .budget_ppm = 1000000};
    rig->sampler = pom_sampler_new(&options, &rig->slots, rig->codes, &rig->walker.walker,
                                   &rig->client.client);
    start(rig);
    assert_true(await(atomic_load(&rig->client.samples) > 0));
    pom_sampler_stop(rig->sampler);
}

static void test_sampler_learns_how_slow_the_machine_is(void **state) {
    // Of walks that all take as long, none was interrupted, until that is longer than any machine
    // takes.
    int64_t frame_us, interrupted_us = 40;
    rig_t rig;
    rig_init_slow(&rig, &frame_us);
    assert_int_equal(atomic_load(&rig.client.depth), WALK_FRAMES - 4);
    int64_t samples = atomic_load(&rig.client.samples);
    rig.walker.context = &interrupted_us;
    await_looks(&rig, samples + atomic_load(&rig.client.misses[POM_MISS_TORN]) + 5);
    assert_int_equal(atomic_load(&rig.client.samples), samples);
    rig_fini(&rig);
}

/* The first walk of each two takes 6 us a frame, the second none. */
static pom_status_t take_turns(fake_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                               uint32_t *anchor) {
    (void)view;
    take_slowly(stack, anchor, atomic_load(&self->walks) % 2 == 0 ? 0 : 6);
    return POM_OK;
}

static void test_sampler_forgets_that_the_machine_was_slow(void **state) {
    int64_t frame_us;
    rig_t rig;
    rig_init_slow(&rig, &frame_us);
    frame_us = 0;
    await_looks(&rig, atomic_load(&rig.client.samples) + 100);
    int64_t samples = atomic_load(&rig.client.samples);
    rig.walker.script = take_turns;
    atomic_store(&rig.walker.walks, 0);
    await_looks(&rig, samples + 100);
    samples = atomic_load(&rig.client.samples) - samples;
    // Each sample is of a second walk. Not quite: a quick one may be interrupted in truth.
    assert_true(atomic_load(&rig.walker.walks) > samples * 3 / 2);
    rig_fini(&rig);
}

static void test_sampler_counts_a_stack_that_changed_as_raced(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    attach(&rig, rig.slot, 1);
    rig.walker.script = disturb;
    await_looks(&rig, 10);
    assert_int_equal(stats(&rig).taken, 0);
    assert_int_equal(atomic_load(&rig.walker.walks), 8 * stats(&rig).missed[POM_MISS_RACED]);
    assert_ptr_equal(atomic_load(&rig.client.missed), action_of(1));
    rig_fini(&rig);
}

static void test_sampler_misses_nothing_where_nothing_runs_any_more(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    rig.walker.script = leave;
    attach(&rig, rig.slot, 1);
    start(&rig);
    assert_true(await(atomic_load(&rig.walker.walks) == 1));
    assert_true(sync_now(&rig));
    pom_sampler_stop(rig.sampler);
    assert_int_equal(stats(&rig).taken, 0);
    assert_int_equal(stats(&rig).missed[POM_MISS_RACED], 0);
    rig_fini(&rig);
}

static void test_sampler_takes_no_stack_of_before_the_begin(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    pom_anchor_t anchor = {.action = action_of(1), .since_ns = INT64_MAX};
    assert_int_equal(pom_slot_attach(rig.slot, &anchor), POM_OK);
    await_looks(&rig, 10);
    assert_int_equal(stats(&rig).taken, 0);
    assert_true(stats(&rig).missed[POM_MISS_RACED] >= 10);
    rig_fini(&rig);
}

static void expect_refused(pom_status_t status, pom_miss_t reason) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    attach(&rig, rig.slot, 1);
    attach(&rig, rig.slot, 2);
    atomic_store(&rig.walker.anchor, 1);
    atomic_store(&rig.client.refuse, status);
    await_looks(&rig, 10);
    assert_int_equal(stats(&rig).taken, 0);
    int64_t refused = stats(&rig).missed[reason];
    assert_true(refused > 0);
    assert_int_equal(refused, atomic_load(&rig.client.misses[reason]));
    // A walk in which the sampler lost its core is taken again.
    assert_true(refused <= atomic_load(&rig.walker.walks));
    assert_ptr_equal(atomic_load(&rig.client.missed), action_of(1)); // whose sample it was
    rig_fini(&rig);
}

static void test_sampler_counts_samples_that_the_client_refused(void **state) {
    expect_refused(POM_ENOTFOUND, POM_MISS_DEAD_CODE);
    expect_refused(POM_ETORN, POM_MISS_TORN);
}

static pom_status_t note_walking(fake_walker_t *self, const pom_slot_view_t *view,
                                 pom_stack_t *stack, uint32_t *anchor) {
    _Atomic(int64_t) *marks = self->context;
    atomic_fetch_add(&marks[atomic_load(&view->slot->walking)], 1);
    fake_stack(stack);
    *anchor = 0;
    return POM_OK;
}

static _Atomic(int) lock_held;
static pom_slot_t *_Atomic kept_slot; /* NULL = none to look at */
static _Atomic(int64_t) kept_while_waiting, locked_at_ns;

static bool lock(pom_walker_t *walker) {
    (void)walker;
    pom_slot_t *slot = atomic_load(&kept_slot);
    if (slot != NULL && atomic_load(&slot->walking)) {
        atomic_fetch_add(&kept_while_waiting, 1);
    }
    atomic_store(&locked_at_ns, pom_now_ns());
    atomic_store(&lock_held, 1);
    return true;
}

static void unlock(pom_walker_t *walker) {
    (void)walker;
    atomic_store(&lock_held, 0);
}

static rig_t *ending_rig;

/* The thread ends while the walker waits for the lock, and its memory goes. */
static bool lock_as_the_thread_ends(pom_walker_t *walker) {
    (void)walker;
    pom_slot_t *slot = ending_rig->slot;
    if (slot->claimed) {
        assert_int_equal(munmap((void *)slot->who.cpu, 4096), 0);
        pom_slots_release(&ending_rig->slots, slot);
    }
    return true;
}

static void test_sampler_reads_nothing_of_a_thread_that_ended_before_the_lock(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    ending_rig = &rig;
    rig.walker.walker.lock = lock_as_the_thread_ends;
    rig.walker.walker.unlock = unlock;
    void *memory = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    rig.slot->who.cpu = (uintptr_t)memory;
    attach(&rig, rig.slot, 1);
    start(&rig);
    assert_true(await(atomic_load(&rig.walker.walks) > 0));
    assert_true(sync_now(&rig));
    pom_sampler_stop(rig.sampler);
    assert_int_equal(stats(&rig).taken, 0);
    rig_fini(&rig);
}

/* With a lock or without: a thread may also end without the interpreter's, and its stack with it.
 * One that has that lock, and would wait for a walk that waits for it, is not kept. */
static void test_sampler_keeps_the_thread_during_a_walk_but_not_while_it_waits(void **state) {
    for (int takes_lock = 0; takes_lock < 2; takes_lock++) {
        rig_t rig;
        _Atomic(int64_t) marks[2] = {0, 0};
        rig_init(&rig, FAST_NS, 1000000);
        rig.walker.script = note_walking;
        rig.walker.context = marks;
        rig.walker.walker.lock = takes_lock ? lock : NULL;
        rig.walker.walker.unlock = unlock;
        atomic_store(&kept_slot, rig.slot);
        atomic_store(&kept_while_waiting, 0);
        attach(&rig, rig.slot, 1);
        await_looks(&rig, 3);
        assert_int_equal(atomic_load(&marks[false]), 0);
        assert_true(atomic_load(&marks[true]) >= 3);
        assert_int_equal(atomic_load(&kept_while_waiting), 0);
        rig_fini(&rig);
        atomic_store(&kept_slot, NULL);
    }
}

static void sampled_after_lock(fake_client_t *client) {
    bool after = atomic_load(&client->at_ns) >= atomic_load(&locked_at_ns);
    atomic_fetch_add((_Atomic(int64_t) *)client->context, after ? 0 : 1);
}

/* What the thread did while the sampler waited comes before its stack. A message of then, too. */
static void test_sampler_says_when_the_stack_was_taken_not_when_it_began_to_wait(void **state) {
    rig_t rig;
    _Atomic(int64_t) early = 0;
    rig_init(&rig, FAST_NS, 1000000);
    rig.walker.walker.lock = lock;
    rig.walker.walker.unlock = unlock;
    rig.client.on_sample = sampled_after_lock;
    rig.client.context = &early;
    attach(&rig, rig.slot, 1);
    await_looks(&rig, 5);
    assert_true(atomic_load(&rig.client.samples) >= 3);
    assert_int_equal(atomic_load(&early), 0);
    rig_fini(&rig);
}

static pom_code_table_t *dying_in;

static bool lock_after_deaths(pom_walker_t *walker) {
    pom_code_table_forget(dying_in, 4711); // whoever had the lock compiles and drops code
    return lock(walker);
}

static pom_status_t walk_under_lock(fake_walker_t *self, const pom_slot_view_t *view,
                                    pom_stack_t *stack, uint32_t *anchor) {
    (void)view;
    atomic_fetch_add((_Atomic(int64_t) *)self->context, atomic_load(&lock_held) ? 0 : 1);
    fake_stack(stack);
    *anchor = 0;
    return POM_OK;
}

static void resolve_under_lock(fake_client_t *client) {
    bool lives = atomic_load(&client->code_epoch) == pom_code_table_epoch(dying_in);
    atomic_fetch_add((_Atomic(int64_t) *)client->context, atomic_load(&lock_held) && lives ? 0 : 1);
}

/* A request that compiles all the time lost every sample to codes that had died while the sampler
 * waited. */
static void test_sampler_names_code_while_it_has_the_lock_under_which_none_dies(void **state) {
    rig_t rig;
    _Atomic(int64_t) faults = 0;
    rig_init(&rig, FAST_NS, 1000000);
    dying_in = rig.codes;
    rig.walker.walker.lock = lock_after_deaths;
    rig.walker.walker.unlock = unlock;
    rig.walker.script = walk_under_lock;
    rig.walker.context = &faults;
    rig.client.on_resolve = resolve_under_lock;
    rig.client.context = &faults;
    attach(&rig, rig.slot, 1);
    await_looks(&rig, 10);
    assert_true(atomic_load(&rig.client.samples) >= 3);
    assert_int_equal(atomic_load(&faults), 0);
    assert_int_equal(atomic_load(&lock_held), 0);
    rig_fini(&rig);
}

/* ---- actions that wait ----------------------------------------------------------------------- */

static _Atomic(int) parked_status;
static _Atomic(bool) disturb_parked;
static _Atomic(int64_t) parked_calls;

static pom_status_t find_parked(pom_walker_t *self, const pom_slot_view_t *view, uint32_t anchor,
                                pom_stack_t *stack, int64_t *helped_ns) {
    (void)self;
    atomic_fetch_add(&parked_calls, 1);
    fake_stack(stack);
    *helped_ns = view->anchors[anchor].action == action_of(1) ? 7 : 0; // a thread works for it
    if (atomic_load(&disturb_parked)) {
        pom_anchor_t other = {.action = action_of(63)};
        (void)pom_slot_attach(view->slot, &other);
        (void)detach_action(view->slot, other.action);
    }
    return (pom_status_t)atomic_load(&parked_status);
}

static void rig_with_parked(rig_t *rig, uintptr_t actions) {
    rig_init(rig, FAST_NS, 1000000);
    rig->walker.walker.parked = find_parked;
    atomic_store(&parked_status, POM_OK);
    atomic_store(&disturb_parked, false);
    atomic_store(&parked_calls, 0);
    for (uintptr_t i = 1; i <= actions; i++) {
        attach(rig, rig->slot, i);
    }
}

static void test_sampler_looks_at_what_waits_beside_what_runs(void **state) {
    rig_t rig;
    rig_with_parked(&rig, 3);
    atomic_store(&rig.walker.anchor, 1); // the second newest runs: action 2
    await_looks(&rig, 60);
    int64_t waits = atomic_load(&rig.client.parked_by_action[1]);
    assert_true(waits > 10);
    assert_in_range(atomic_load(&rig.client.parked_by_action[3]), waits - 1, waits + 1);
    assert_int_equal(atomic_load(&rig.client.parked_by_action[2]), 0);
    assert_int_equal(atomic_load(&rig.client.helped_by_action[1]), 7 * waits);
    assert_int_equal(atomic_load(&rig.client.helped_by_action[3]), 0);
    assert_int_equal(stats(&rig).taken, atomic_load(&rig.client.samples));
    assert_true(atomic_load(&rig.client.since_ns) > 0); // when it was looked at before
    assert_int_equal(atomic_load(&rig.client.faults), 0);
    rig_fini(&rig);
}

static void test_sampler_looks_at_what_waits_while_the_thread_does_something_else(void **state) {
    rig_t rig;
    rig_with_parked(&rig, 2);
    atomic_store(&rig.walker.status, POM_ENOTFOUND);
    await_looks(&rig, 20);
    assert_int_equal(atomic_load(&rig.client.parked), atomic_load(&rig.client.samples));
    assert_int_equal(stats(&rig).missed[POM_MISS_NO_ANCHOR], 0);
    rig_fini(&rig);

    rig_with_parked(&rig, 2); // nor can it tell what they wait in
    atomic_store(&rig.walker.status, POM_ENOTFOUND);
    atomic_store(&parked_status, POM_ENOTFOUND);
    await_looks(&rig, 20);
    assert_int_equal(stats(&rig).taken, 0);
    assert_true(stats(&rig).missed[POM_MISS_NO_ANCHOR] >= 20);
    rig_fini(&rig);

    rig_with_parked(&rig, 2); // torn is not elsewhere
    atomic_store(&rig.walker.status, POM_ETORN);
    await_looks(&rig, 20);
    assert_int_equal(atomic_load(&parked_calls), 0);
    assert_true(stats(&rig).missed[POM_MISS_TORN] >= 20);
    rig_fini(&rig);
}

/* The tenth walk finds its anchor, all others are too deep; the eighth notes its moment. */
static pom_status_t shallow_once(fake_walker_t *self, const pom_slot_view_t *view,
                                 pom_stack_t *stack, uint32_t *anchor) {
    int64_t walks = atomic_load(&self->walks);
    fake_stack(stack);
    *anchor = 0;
    if (walks == 8) {
        *(int64_t *)self->context = pom_now_ns();
    }
    return walks == 10 ? POM_OK : POM_EFULL;
}

static void test_sampler_tries_a_stack_that_is_too_deep_once(void **state) {
    rig_t rig;
    int64_t eighth_ns = 0;
    rig_init(&rig, FAST_NS, 1000000);
    attach(&rig, rig.slot, 1);
    rig.walker.script = shallow_once;
    rig.walker.context = &eighth_ns;
    await_looks(&rig, 20);
    assert_int_equal(stats(&rig).taken, 1);
    assert_int_equal(atomic_load(&rig.walker.walks), 1 + stats(&rig).missed[POM_MISS_TOO_DEEP]);
    // What was too deep is not charged to what comes next.
    assert_true(atomic_load(&rig.client.since_ns) > eighth_ns);
    rig_fini(&rig);

    rig_with_parked(&rig, 2); // what waits is looked at all the same
    atomic_store(&rig.walker.status, POM_EFULL);
    await_looks(&rig, 20);
    assert_true(atomic_load(&rig.client.parked) > 0);
    rig_fini(&rig);
}

static void test_sampler_gives_each_of_many_waiting_actions_its_turn(void **state) {
    rig_t rig;
    rig_with_parked(&rig, 50);
    await_looks(&rig, 2000);
    int64_t least = INT64_MAX, most = 0;
    for (int i = 1; i < 50; i++) { // number 50 is the newest, and runs
        int64_t waits = atomic_load(&rig.client.parked_by_action[i]);
        least = waits < least ? waits : least;
        most = waits > most ? waits : most;
    }
    assert_true(least > 10 && most - least <= 1);
    assert_true(atomic_load(&parked_calls) <= 16 * atomic_load(&rig.walker.walks));
    rig_fini(&rig);
}

static _Atomic(int64_t) parked_begins;
static _Atomic(bool) parked_unbegun; /* a look came before its tick was told of */
static _Atomic(bool) parked_told;

static void begin_parked(pom_walker_t *self, const pom_slots_t *slots) {
    (void)self;
    atomic_fetch_add(&parked_begins, 1);
    atomic_store(&parked_told, atomic_load(&slots->first) != NULL);
}

static pom_status_t find_told(pom_walker_t *self, const pom_slot_view_t *view, uint32_t anchor,
                              pom_stack_t *stack, int64_t *helped_ns) {
    if (!atomic_load(&parked_told)) {
        atomic_store(&parked_unbegun, true);
    }
    return find_parked(self, view, anchor, stack, helped_ns);
}

static void forget_told(fake_client_t *self) {
    (void)self;
    atomic_store(&parked_told, false);
}

static void test_sampler_says_once_a_tick_that_it_looks_at_what_waits(void **state) {
    rig_t rig;
    for (int waiting = 0; waiting < 2; waiting++) {
        rig_with_parked(&rig, 1 + 4 * (uintptr_t)waiting);
        rig.walker.walker.parked_begin = begin_parked;
        rig.walker.walker.parked = find_told;
        rig.client.on_tick = forget_told;
        atomic_store(&parked_begins, 0);
        atomic_store(&parked_unbegun, false);
        pom_slot_t *other = claim(&rig, 0);
        attach(&rig, other, 6);
        if (waiting == 1) {
            attach(&rig, other, 7); // 6 waits beside it
        }
        await_looks(&rig, 100);
        pom_sampler_stop(rig.sampler);
        assert_false(atomic_load(&parked_unbegun));
        if (waiting == 0) {
            assert_int_equal(atomic_load(&parked_begins), 0); // one action a thread: it runs
        } else {
            assert_true(atomic_load(&parked_begins) > 0);
            assert_true(atomic_load(&parked_begins) <= atomic_load(&rig.client.ticks));
        }
        rig_fini(&rig);
    }
}

static void test_sampler_takes_no_wait_of_a_slot_that_changed(void **state) {
    rig_t rig;
    rig_with_parked(&rig, 5);
    atomic_store(&disturb_parked, true);
    await_looks(&rig, 50);
    assert_true(atomic_load(&parked_calls) > 0);
    assert_int_equal(atomic_load(&rig.client.parked), 0);
    rig_fini(&rig);
}

/* ---- CPU time -------------------------------------------------------------------------------- */

typedef struct worker_s {
    pthread_t thread;
    _Atomic(int32_t) tid;
    _Atomic(bool) done;
    bool spins;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} worker_t;

static void *work(void *arg) {
    worker_t *w = arg;
    atomic_store(&w->tid, (int32_t)syscall(SYS_gettid));
    (void)pthread_mutex_lock(&w->lock);
    while (!atomic_load(&w->done)) {
        if (!w->spins) {
            (void)pthread_cond_wait(&w->changed, &w->lock);
        }
    }
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void worker_start(worker_t *w, bool spins) {
    memset(w, 0, sizeof *w);
    w->spins = spins;
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->changed, NULL);
    assert_int_equal(pthread_create(&w->thread, NULL, work, w), 0);
    assert_true(await(atomic_load(&w->tid) != 0));
}

static void worker_stop(worker_t *w) {
    atomic_store(&w->done, true);
    if (!w->spins) {
        (void)pthread_mutex_lock(&w->lock);
        (void)pthread_cond_signal(&w->changed);
        (void)pthread_mutex_unlock(&w->lock);
    }
    assert_int_equal(pthread_join(w->thread, NULL), 0);
}

static void test_sampler_tells_running_threads_from_waiting_ones(void **state) {
    for (int spins = 0; spins < 2; spins++) {
        rig_t rig;
        worker_t worker;
        worker_start(&worker, spins);
        rig_init(&rig, POM_NS_PER_MS, 1000000);
        pom_slot_t *slot = claim(&rig, atomic_load(&worker.tid));
        const int64_t other_ns = INT64_MAX / 1000; // of the slot's last owner
        slot->asked_cpu_ns = other_ns;
        attach(&rig, slot, 1);
        start(&rig);
        // Not at each look: other processes want the CPU too, and it may still be on its way to the
        // wait.
        assert_true(spins ? await(atomic_load(&rig.client.running) > 0)
                          : await(atomic_load(&rig.client.not_running) >= 30));
        pom_sampler_stop(rig.sampler);
        worker_stop(&worker);
        assert_true(atomic_load(&rig.client.cpu_ns) > 0);
        // Also of the one that waits, whose CPU time found no stack: it was asked for once, and is
        // not in each look.
        assert_in_range(slot->asked_cpu_ns, 1, other_ns - 1);
        rig_fini(&rig);
    }
}

static void pin(pthread_t thread, int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(pthread_setaffinity_np(thread, sizeof one, &one), 0);
}

/* The first two CPUs that this process may use; false when there is but one. */
static bool two_cpus(const cpu_set_t *all, int cpus[2]) {
    int found = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++) {
        if (CPU_ISSET(cpu, all)) {
            cpus[found++] = cpu;
        }
    }
    return found == 2;
}

#define FIRST_LOOKS 10

/* How many of some first looks find a thread running that has used its CPU before, but hardly gets
 * it now: another one does. It says that its CPU is `told`, -1 = it does not say. */
static int found_running(int sampler_cpu, int cpu, int32_t told) {
    const struct sched_param none = {0};
    worker_t starved, other;
    int running = 0;
    worker_start(&starved, true);
    worker_start(&other, true);
    pin(starved.thread, cpu);
    pin(other.thread, cpu);
    assert_int_equal(pthread_setschedparam(starved.thread, SCHED_IDLE, &none), 0); // a 300th of it
    pin(pthread_self(), sampler_cpu); // and the sampler's, which this one makes
    for (int i = 0; i < FIRST_LOOKS; i++) {
        rig_t rig;
        rig_init(&rig, POM_NS_PER_MS, 1000000);
        pom_slot_t *slot = claim(&rig, atomic_load(&starved.tid));
        slot->who.cpu = told < 0 ? 0 : (uintptr_t)&told;
        attach(&rig, slot, 1);
        start(&rig);
        assert_true(await(atomic_load(&rig.client.samples) > 0));
        running += atomic_load(&rig.client.running) > 0;
        rig_fini(&rig);
    }
    worker_stop(&starved);
    worker_stop(&other);
    return running;
}

static void test_sampler_tells_running_threads_from_those_that_wait_for_a_cpu(void **state) {
    cpu_set_t all;
    int cpus[2];
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof all, &all), 0);
    if (!two_cpus(&all, cpus)) {
        skip();
    }
    int elsewhere = found_running(cpus[0], cpus[1], -1), here = found_running(cpus[0], cpus[0], -1);
    int told_here = found_running(cpus[0], cpus[0], cpus[0]);
    int told_elsewhere = found_running(cpus[0], cpus[0], cpus[1]);
    assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof all, &all), 0);
    assert_true(elsewhere <= FIRST_LOOKS / 2);
    assert_int_equal(here, FIRST_LOOKS); // it may be the sampler that took it
    assert_int_equal(told_here, FIRST_LOOKS);
    assert_true(told_elsewhere <= FIRST_LOOKS / 2); // and is not asked for
}

typedef struct sched_attr_s { /* sched_setattr(2) */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice_ns, deadline_ns, period_ns;
} sched_attr_t;

static sched_attr_t attr_of(int32_t tid) {
    sched_attr_t attr = {.size = sizeof attr};
    assert_int_equal(syscall(SYS_sched_getattr, tid, &attr, sizeof attr, 0), 0);
    return attr;
}

/* The thread of this process with that name; 0 = none. */
static int32_t tid_of(const char *name) {
    int32_t found = 0;
    DIR *threads = opendir("/proc/self/task");
    assert_non_null(threads);
    for (struct dirent *each; (each = readdir(threads)) != NULL;) {
        char path[300], text[32] = "";
        (void)snprintf(path, sizeof path, "/proc/self/task/%s/comm", each->d_name);
        FILE *file = fopen(path, "r");
        if (file != NULL) {
            if (fgets(text, sizeof text, file) != NULL && strncmp(text, name, strlen(name)) == 0) {
                found = (int32_t)atoi(each->d_name);
            }
            (void)fclose(file);
        }
    }
    (void)closedir(threads);
    return found;
}

static void *ask_for_a_slice(void *arg) {
    sched_attr_t attr = attr_of(0);
    attr.slice_ns = *(const uint64_t *)arg;
    bool knows =
        syscall(SYS_sched_setattr, 0, &attr, 0) == 0 && attr_of(0).slice_ns == attr.slice_ns;
    return knows ? arg : NULL;
}

static void test_sampler_does_not_wait_for_the_slices_of_others(void **state) {
    uint64_t other_ns = 5 * POM_NS_PER_MS;
    pthread_t thread;
    void *knows;
    assert_int_equal(pthread_create(&thread, NULL, ask_for_a_slice, &other_ns), 0);
    assert_int_equal(pthread_join(thread, &knows), 0);
    if (knows == NULL) {
        skip(); // before Linux 6.12 a thread has no slice of its own
    }
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    attach(&rig, rig.slot, 1);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.samples) > 0));
    sched_attr_t ours = attr_of(0), its = attr_of(tid_of("pom-sampler"));
    assert_true(its.slice_ns < ours.slice_ns);
    assert_true(its.policy == ours.policy && its.nice == ours.nice); // no more than that
    rig_fini(&rig);
}

static _Atomic(int) slack_ns;

static void note_slack(fake_client_t *self) {
    (void)self;
    atomic_store(&slack_ns, prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)); // of the thread that calls
}

static void test_sampler_does_not_wait_for_the_timers_of_others(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    rig.client.on_tick = note_slack;
    int before_ns = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.ticks) > 0));
    pom_sampler_stop(rig.sampler);
    assert_int_equal(atomic_load(&slack_ns), 1);
    assert_int_equal(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), before_ns); // no more than that
    rig_fini(&rig);
}

static void test_sampler_does_not_walk_a_thread_that_stands_still(void **state) {
    rig_t rig;
    worker_t worker;
    worker_start(&worker, false);
    rig_init(&rig, FAST_NS, 1000000);
    atomic_store(&rig.client.knows, true);
    pom_slot_t *slot = claim(&rig, atomic_load(&worker.tid));
    attach(&rig, slot, 1);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.again) > 20));
    pom_sampler_stop(rig.sampler);
    // Some more while it was on its way to the wait.
    int64_t walks = atomic_load(&rig.walker.walks);
    assert_true(walks >= 1);
    assert_true(stats(&rig).taken > atomic_load(&rig.client.again));
    // A walk in which the sampler lost its core is taken again.
    assert_true(stats(&rig).taken <= walks + atomic_load(&rig.client.again));
    assert_ptr_equal(atomic_load(&rig.client.sampled), action_of(1));
    assert_int_equal(atomic_load(&rig.client.faults), 0);

    // Another action on the thread that has not run: it must be met first.
    attach(&rig, slot, 2);
    detach(slot, 1);
    start(&rig);
    assert_true(await(atomic_load(&rig.walker.walks) > walks));
    pom_sampler_stop(rig.sampler);

    // The client has lost track: walked again, though nothing moves.
    walks = atomic_load(&rig.walker.walks);
    atomic_store(&rig.client.knows, false);
    start(&rig);
    assert_true(await(atomic_load(&rig.walker.walks) > walks + 5));
    worker_stop(&worker);
    rig_fini(&rig);
}

static void test_sampler_walks_a_thread_that_runs_or_has_company_each_time(void **state) {
    for (int company = 0; company < 2; company++) {
        rig_t rig;
        worker_t worker;
        worker_start(&worker, company == 0);
        rig_init(&rig, FAST_NS, 1000000);
        atomic_store(&rig.client.knows, true);
        pom_slot_t *slot = claim(&rig, atomic_load(&worker.tid));
        for (int i = 0; i <= company; i++) {
            attach(&rig, slot, (uintptr_t)i + 1);
        }
        start(&rig);
        assert_true(await(atomic_load(&rig.walker.walks) > 20));
        pom_sampler_stop(rig.sampler);
        if (company) {
            assert_int_equal(atomic_load(&rig.client.again), 0);
        }
        worker_stop(&worker);
        rig_fini(&rig);
    }
}

static void *nap(void *arg) {
    worker_t *w = arg;
    struct timespec short_time = pom_timespec(100 * POM_NS_PER_US);
    atomic_store(&w->tid, (int32_t)syscall(SYS_gettid));
    while (!atomic_load(&w->done)) {
        (void)nanosleep(&short_time, NULL);
    }
    return NULL;
}

/* A thread that does nothing but sleep, a short time each, has all of its CPU time from that. */
static void test_sampler_tells_what_sleeps_cost(void **state) {
    for (int company = 0; company < 2; company++) {
        if (access("/proc/self/schedstat", R_OK) != 0) {
            skip(); // this kernel does not count the turns of a thread
        }
        rig_t rig;
        worker_t worker = {0};
        assert_int_equal(pthread_create(&worker.thread, NULL, nap, &worker), 0);
        assert_true(await(atomic_load(&worker.tid) != 0));
        rig_init(&rig, POM_NS_PER_MS, 1000000);
        pom_slot_t *slot = claim(&rig, atomic_load(&worker.tid));
        for (int i = 0; i <= company; i++) {
            attach(&rig, slot, (uintptr_t)i + 1);
        }
        start(&rig);
        if (company) {
            // Whose sleeps they were nobody knows.
            assert_true(await(atomic_load(&rig.client.samples) > 50));
            pom_sampler_stop(rig.sampler);
            assert_int_equal(atomic_load(&rig.client.unmet_ns), 0);
        } else {
            assert_true(await(atomic_load(&rig.client.unmet_ns) > 50 * POM_NS_PER_US));
            assert_true(atomic_load(&rig.client.unmet_before) > 0);
            pom_sampler_stop(rig.sampler);
        }
        assert_int_equal(atomic_load(&rig.client.faults), 0); // never more than was used
        atomic_store(&worker.done, true);
        assert_int_equal(pthread_join(worker.thread, NULL), 0);
        rig_fini(&rig);
    }
}

static void test_sampler_bounds_its_descriptors(void **state) {
    rig_t rig;
    worker_t worker;
    worker_start(&worker, false);
    rig_init(&rig, FAST_NS, 1000000);
    for (uintptr_t i = 1; i <= 200; i++) {
        attach(&rig, claim(&rig, atomic_load(&worker.tid)), i);
    }
    await_looks(&rig, 1000);
    int open = 0;
    for (pom_slot_t *s = atomic_load(&rig.slots.first); s != NULL; s = atomic_load(&s->next)) {
        open += (s->files.stat.fd >= 0) + (s->files.schedstat.fd >= 0);
    }
    assert_in_range(open, 1, 64);
    worker_stop(&worker);
    rig_fini(&rig);
}

/* Of the thread, and another number than that. A look asks only where there is CPU time to place,
 * which is up to the machine, and once. */
static void await_descriptor(rig_t *rig, pom_slot_t *slot, int32_t tid, int than) {
    bool has = false;
    for (int rounds = 0; rounds < 1000 && !has; rounds++) {
        slot->asked_cpu_ns = 0;
        await_looks(rig, atomic_load(&rig->client.samples) + 10);
        has = slot->files.stat.fd >= 0 && slot->files.stat.fd != than && slot->files.tid == tid;
    }
    assert_true(has);
}

static void test_sampler_gives_up_descriptors_of_threads_that_ended(void **state) {
    rig_t rig;
    worker_t first, second;
    worker_start(&first, false);
    rig_init(&rig, FAST_NS, 1000000);
    pom_slot_t *slot = claim(&rig, atomic_load(&first.tid));
    attach(&rig, slot, 1);
    await_descriptor(&rig, slot, atomic_load(&first.tid), -1);
    /* Closed by the program, and its number a file of the program's by now: neither read nor
     * closed. */
    int pipe_fds[2];
    int number = slot->files.stat.fd;
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(dup2(pipe_fds[0], number), number);
    await_descriptor(&rig, slot, atomic_load(&first.tid), number);
    assert_int_equal(close(number), 0);
    assert_int_equal(close(pipe_fds[0]) + close(pipe_fds[1]), 0);
    worker_stop(&first);
    pom_slots_release(&rig.slots, slot);
    worker_start(&second, false);
    assert_ptr_equal(claim(&rig, atomic_load(&second.tid)), slot);
    attach(&rig, slot, 2);
    await_descriptor(&rig, slot, atomic_load(&second.tid), -1);
    worker_stop(&second);
    rig_fini(&rig);
}

/* ---- parking --------------------------------------------------------------------------------- */

static void test_sampler_parks_while_nothing_is_going_on(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.idles) > 0));
    assert_true(sync_now(&rig));
    assert_true(sync_now(&rig));
    int64_t wakeups = stats(&rig).wakeups;
    for (int i = 0; i < 200; i++) {
        assert_true(sync_now(&rig)); // each of these is one tick; a timer would add its own
    }
    assert_int_equal(stats(&rig).wakeups, wakeups + 200);
    rig_fini(&rig);
}

static void test_sampler_ticks_on_while_the_client_is_busy(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    atomic_store(&rig.client.busy, true);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.ticks) >= 20));
    rig_fini(&rig);
}

/* The moment between the raised flag and the sleep, where a wake-up could get lost. */
typedef struct duel_s {
    _Atomic(int64_t) turns;
} duel_t;

static void take_a_turn(fake_client_t *self) {
    duel_t *duel = self->context;
    atomic_fetch_add(&duel->turns, 1);
}

static void test_sampler_sees_what_is_attached_while_it_parks(void **state) {
    rig_t rig;
    duel_t duel = {0};
    rig_init(&rig, FAST_NS, 1000000);
    rig.client.on_idle = take_a_turn;
    rig.client.context = &duel;
    start(&rig);
    for (uintptr_t i = 1; i <= 500; i++) {
        int64_t turn = atomic_load(&duel.turns);
        pom_sampler_hurry(rig.sampler); // parked: it looks again, and parks again
        assert_true(await(atomic_load(&duel.turns) != turn));
        for (uintptr_t spin = 0; spin < i % 50; spin++) {
            (void)atomic_load(&duel.turns);
        }
        attach(&rig, rig.slot, i);
        assert_true(await(atomic_load(&rig.client.sampled) == action_of(i)));
        detach(rig.slot, i);
    }
    rig_fini(&rig);
}

static void test_sampler_sees_the_last_of_many_attaches(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    start(&rig);
    for (uintptr_t i = 1; i <= 100000; i++) {
        attach(&rig, rig.slot, i);
        if (i % 1000 == 0) {
            assert_true(await(atomic_load(&rig.client.sampled) == action_of(i)));
        }
        detach(rig.slot, i);
    }
    attach(&rig, rig.slot, 7);
    assert_true(await(atomic_load(&rig.client.sampled) == action_of(7)));
    assert_int_equal(atomic_load(&rig.client.early), 0);
    rig_fini(&rig);
}

static void test_sampler_applies_what_was_queued_before_a_sync(void **state) {
    rig_t rig;
    rig_init(&rig, SLOW_NS, 1000000);
    start(&rig);
    for (int64_t i = 1; i <= 5000; i++) {
        atomic_store(&rig.client.queued, i);
        if (i % 3 != 0) {
            pom_sampler_notify(rig.sampler);
        }
        assert_true(sync_now(&rig));
        assert_true(atomic_load(&rig.client.applied) >= i);
    }
    rig_fini(&rig);
}

typedef struct syncer_s {
    rig_t *rig;
    int64_t deadline_ns;
    _Atomic(int64_t) faults;
} syncer_t;

static void *sync_often(void *arg) {
    syncer_t *s = arg;
    for (int i = 0; i < 500; i++) {
        int64_t queued = atomic_fetch_add(&s->rig->client.queued, 1) + 1;
        bool done = pom_sampler_sync(s->rig->sampler, s->deadline_ns);
        bool applied = atomic_load(&s->rig->client.applied) >= queued;
        atomic_fetch_add(&s->faults, done && applied ? 0 : 1);
    }
    return NULL;
}

static void test_sampler_answers_syncs_of_many_threads(void **state) {
    rig_t rig;
    rig_init(&rig, SLOW_NS, 1000000);
    start(&rig);
    syncer_t syncer = {.rig = &rig, .deadline_ns = pom_now_ns() + FAKE_PATIENCE_NS};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, sync_often, &syncer), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_int_equal(atomic_load(&syncer.faults), 0);
    rig_fini(&rig);
}

static void hold_up(fake_client_t *self) {
    _Atomic(bool) *held = self->context;
    while (atomic_load(held)) {
        (void)sched_yield();
    }
}

static void test_sampler_sync_ends_at_its_deadline(void **state) {
    rig_t rig;
    _Atomic(bool) held = true;
    rig_init(&rig, FAST_NS, 1000000);
    rig.client.on_tick = hold_up;
    rig.client.context = (void *)&held;
    start(&rig);
    assert_false(pom_sampler_sync(rig.sampler, pom_now_ns() + POM_NS_PER_MS));
    assert_false(pom_sampler_sync(rig.sampler, 0));
    assert_false(pom_sampler_sync(rig.sampler, -5));
    atomic_store(&held, false);
    assert_true(pom_sampler_sync(rig.sampler, INT64_MAX));
    rig_fini(&rig);
}

static void test_sampler_sync_waits_for_no_thread_that_is_not_there(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    assert_false(pom_sampler_sync(rig.sampler, INT64_MAX));
    start(&rig);
    assert_true(pom_sampler_sync(rig.sampler, INT64_MAX));
    pom_sampler_stop(rig.sampler);
    assert_false(pom_sampler_sync(rig.sampler, INT64_MAX));
    rig_fini(&rig);
}

static void *sync_until_stopped(void *arg) {
    rig_t *rig = arg;
    while (pom_sampler_sync(rig->sampler, INT64_MAX)) {
        (void)sched_yield();
    }
    return NULL;
}

static void test_sampler_stop_leaves_no_sync_waiting(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    for (int i = 0; i < 200; i++) {
        pthread_t syncer;
        start(&rig);
        assert_int_equal(pthread_create(&syncer, NULL, sync_until_stopped, &rig), 0);
        for (int spin = 0; spin < i; spin++) {
            (void)sched_yield();
        }
        pom_sampler_stop(rig.sampler);
        assert_int_equal(pthread_join(syncer, NULL), 0);
    }
    rig_fini(&rig);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void test_sampler_stops_and_syncs_at_once_at_the_coarsest_period(void **state) {
    static const bool attached[] = {false, true};
    for (int i = 0; i < 2; i++) {
        rig_t rig;
        rig_init(&rig, SLOW_NS, 20000);
        int64_t before_ns = pom_now_ns();
        start(&rig);
        if (attached[i]) {
            attach(&rig, rig.slot, 1);
        } else {
            assert_true(await(atomic_load(&rig.client.idles) > 0)); // parked, or as good as
        }
        int quick = 0;
        for (int n = 0; n < 100; n++) { // an unanswered one is met by the next tick, 100 ms later
            int64_t asked_ns = pom_now_ns();
            assert_true(sync_now(&rig));
            quick += pom_now_ns() - asked_ns < 50 * POM_NS_PER_MS;
        }
        assert_true(quick >= 10); // not all of them, where others want the CPU too
        pom_sampler_stop(rig.sampler);
        assert_true(pom_now_ns() - before_ns < SOON_NS);
        rig_fini(&rig);
    }
}

static void test_sampler_ticks_between_rare_looks(void **state) {
    rig_t rig;
    rig_init(&rig, SLOW_NS, 20000);
    attach(&rig, rig.slot, 1);
    int64_t before_ns = pom_now_ns();
    start(&rig);
    assert_true(await(atomic_load(&rig.client.ticks) >= 4)); // 100 ms each
    assert_true(pom_now_ns() - before_ns < SOON_NS);
    assert_int_equal(atomic_load(&rig.client.samples), 0);
    rig_fini(&rig);
}

/* A short action that meets an idle process is seen as often as its length is worth: a period's
 * half as the least delay would never see it. */
static void test_sampler_may_look_at_once_after_an_idle_time(void **state) {
    rig_t rig;
    rig_init(&rig, 20 * POM_NS_PER_MS, 1000000);
    start(&rig);
    int64_t early = 0;
    for (uintptr_t i = 1; i <= 400 && early == 0; i++) {
        int64_t idles = atomic_load(&rig.client.idles);
        assert_true(sync_now(&rig) && sync_now(&rig) && sync_now(&rig));
        assert_true(await(atomic_load(&rig.client.idles) > idles)); // parked
        int64_t before_ns = pom_now_ns();
        attach(&rig, rig.slot, i);
        while (pom_now_ns() - before_ns < 2 * POM_NS_PER_MS) { // a tenth of the period
            (void)sched_yield();
        }
        detach(rig.slot, i);
        early = atomic_load(&rig.client.samples);
    }
    assert_true(early > 0); // not once in 400: 0.9 to the 400th
    rig_fini(&rig);
}

static void test_sampler_takes_no_sample_out_of_turn(void **state) {
    rig_t rig;
    rig_init(&rig, SLOW_NS, 20000);
    attach(&rig, rig.slot, 1);
    int64_t before_ns = pom_now_ns();
    start(&rig);
    for (int i = 0; i < 100; i++) {
        pom_sampler_hurry(rig.sampler);
        assert_true(sync_now(&rig));
    }
    pom_sampler_stop(rig.sampler);
    assert_true(pom_now_ns() - before_ns < SOON_NS);
    assert_int_equal(atomic_load(&rig.walker.walks), 0);
    rig_fini(&rig);
}

static void test_sampler_starts_again(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    attach(&rig, rig.slot, 1);
    pom_sampler_stats_t before = {0};
    for (int life = 0; life < 20; life++) {
        await_looks(&rig, atomic_load(&rig.client.samples) + 2);
        pom_sampler_stats_t now = stats(&rig);
        assert_true(now.cpu_ns > before.cpu_ns);
        assert_true(now.taken > before.taken && now.wakeups > before.wakeups);
        assert_true(now.cost_ns >= now.cpu_ns); // the whole product's
        assert_true(now.base_cpu_ns >= before.base_cpu_ns);
        before = now;
    }
    rig_fini(&rig);
}

static void test_sampler_stop_twice_is_one_stop(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 1000000);
    pom_sampler_stop(rig.sampler); // never started
    start(&rig);
    pom_sampler_stop(rig.sampler);
    pom_sampler_stop(rig.sampler);
    rig_fini(&rig);
    pom_sampler_free(NULL);
}

static void note_signals(fake_client_t *self) {
    _Atomic(int64_t) *open = self->context;
    sigset_t mask;
    (void)pthread_sigmask(SIG_BLOCK, NULL, &mask);
    static const int signals[] = {SIGINT, SIGTERM, SIGPROF, SIGCHLD, SIGUSR1, SIGALRM, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        atomic_fetch_add(open, sigismember(&mask, signals[i]) ? 0 : 1);
    }
}

static void test_sampler_leaves_signals_to_the_host(void **state) {
    rig_t rig;
    _Atomic(int64_t) open = 0;
    sigset_t before, after;
    (void)pthread_sigmask(SIG_BLOCK, NULL, &before);
    rig_init(&rig, FAST_NS, 1000000);
    rig.client.on_tick = note_signals;
    rig.client.context = (void *)&open;
    start(&rig);
    assert_true(sync_now(&rig));
    (void)pthread_sigmask(SIG_BLOCK, NULL, &after);
    pom_sampler_stop(rig.sampler);
    assert_int_equal(atomic_load(&open), 0);
    for (int i = 1; i < 32; i++) {
        assert_int_equal(sigismember(&before, i), sigismember(&after, i));
    }
    rig_fini(&rig);
}

/* ---- options and the bill -------------------------------------------------------------------- */

/* acceptance: PM5 */
static void test_sampler_takes_a_new_granularity_at_once(void **state) {
    rig_t rig;
    rig_init(&rig, SLOW_NS, 1000000);
    attach(&rig, rig.slot, 1);
    int64_t before_ns = pom_now_ns();
    start(&rig);
    assert_true(sync_now(&rig));
    assert_int_equal(stats(&rig).period_ns, SLOW_NS);
    pom_schedule_options_t options = {.granularity_ns = POM_NS_PER_MS, .budget_ppm = 1000000};
    pom_sampler_configure(rig.sampler, &options);
    assert_true(await(atomic_load(&rig.client.samples) > 0));
    assert_true(pom_now_ns() - before_ns < SOON_NS);
    assert_in_range(stats(&rig).period_ns, POM_NS_PER_MS, 50 * POM_NS_PER_MS);
    rig_fini(&rig);
}

static void keep_cost_high(rig_t *rig) {
    atomic_store(&rig->client.cost_step_ns, POM_SCHEDULE_WINDOW_NS); // a core for ourselves
}

/* acceptance: PM4 */
static void test_sampler_widens_the_period_over_budget(void **state) {
    rig_t rig;
    rig_init(&rig, POM_NS_PER_MS, 10000);
    attach(&rig, rig.slot, 1);
    keep_cost_high(&rig);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.helpless_windows) >= 1));
    assert_true(stats(&rig).over_budget);
    assert_true(stats(&rig).period_ns >= 2 * POM_NS_PER_MS);
    assert_true(stats(&rig).overhead_ppm > 10000);
    assert_true(atomic_load(&rig.client.sample_cost_ns) > 0);
    int64_t period_ns = stats(&rig).period_ns;
    pom_schedule_options_t options = {.granularity_ns = POM_NS_PER_MS, .budget_ppm = 5000};
    pom_sampler_configure(rig.sampler, &options); // another option: the period found stays
    assert_true(sync_now(&rig));
    assert_true(stats(&rig).period_ns >= period_ns);
    rig_fini(&rig);
}

/* What keeps the thread ticking then is a limit on admission, and it must be lifted at some
 * time. */
static void test_sampler_judges_idle_windows_as_cheap(void **state) {
    rig_t rig;
    rig_init(&rig, POM_NS_PER_MS, 1);
    atomic_store(&rig.client.busy, true);
    keep_cost_high(&rig);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.windows) >= 2));
    pom_sampler_stop(rig.sampler);
    assert_int_equal(atomic_load(&rig.client.helpless_windows), 0);
    assert_int_equal(stats(&rig).period_ns, POM_NS_PER_MS);
    assert_true(stats(&rig).cost_ns > 0);
    rig_fini(&rig);
}

/* Delivery works a second after the request, while the sampler is parked. */
static void test_sampler_bills_what_is_used_while_parked(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 20000);
    start(&rig);
    assert_true(await(atomic_load(&rig.client.idles) > 0));
    assert_true(sync_now(&rig));
    atomic_store(&rig.client.cost_ns, 5 * POM_NS_PER_S);
    assert_true(sync_now(&rig));
    pom_sampler_stop(rig.sampler);
    assert_true(stats(&rig).cost_ns >= 5 * POM_NS_PER_S);
    rig_fini(&rig);
}

static bool live_a_life(void *arg) {
    rig_t *rig = arg;
    pom_schedule_options_t options = pom_schedule_options_default();
    pom_sampler_t *sampler = pom_sampler_new(&options, &rig->slots, rig->codes, &rig->walker.walker,
                                             &rig->client.client);
    if (sampler == NULL) {
        return false;
    }
    bool good = pom_sampler_start(sampler) == POM_OK &&
                pom_sampler_sync(sampler, pom_now_ns() + FAKE_PATIENCE_NS);
    pom_sampler_stop(sampler);
    pom_sampler_free(sampler);
    return good;
}

static void test_sampler_survives_failing_allocations(void **state) {
    rig_t rig;
    rig_init(&rig, FAST_NS, 20000);
    /* The sampler, the room for a view; the thread allocates nothing. */
    assert_int_equal(pom_torture(live_a_life, &rig), 3);
    rig_fini(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_sampler_hands_on_the_sample_of_the_anchor_met),
        POM_TEST(test_sampler_looks_at_every_slot),
        POM_TEST(test_sampler_looks_at_what_does_not_run),
        POM_TEST(test_sampler_counts_misses_by_reason),
        POM_TEST(test_sampler_tries_a_torn_stack_eight_times),
        POM_TEST(test_sampler_tries_a_stack_that_is_too_deep_once),
        POM_TEST(test_sampler_learns_how_slow_the_machine_is),
        POM_TEST(test_sampler_forgets_that_the_machine_was_slow),
        POM_TEST(test_sampler_counts_a_stack_that_changed_as_raced),
        POM_TEST(test_sampler_misses_nothing_where_nothing_runs_any_more),
        POM_TEST(test_sampler_takes_no_stack_of_before_the_begin),
        POM_TEST(test_sampler_counts_samples_that_the_client_refused),
        POM_TEST(test_sampler_keeps_the_thread_during_a_walk_but_not_while_it_waits),
        POM_TEST(test_sampler_reads_nothing_of_a_thread_that_ended_before_the_lock),
        POM_TEST(test_sampler_says_when_the_stack_was_taken_not_when_it_began_to_wait),
        POM_TEST(test_sampler_names_code_while_it_has_the_lock_under_which_none_dies),
        POM_TEST(test_sampler_looks_at_what_waits_beside_what_runs),
        POM_TEST(test_sampler_looks_at_what_waits_while_the_thread_does_something_else),
        POM_TEST(test_sampler_gives_each_of_many_waiting_actions_its_turn),
        POM_TEST(test_sampler_says_once_a_tick_that_it_looks_at_what_waits),
        POM_TEST(test_sampler_takes_no_wait_of_a_slot_that_changed),
        POM_TEST(test_sampler_tells_running_threads_from_waiting_ones),
        POM_TEST(test_sampler_tells_running_threads_from_those_that_wait_for_a_cpu),
        POM_TEST(test_sampler_does_not_wait_for_the_slices_of_others),
        POM_TEST(test_sampler_does_not_wait_for_the_timers_of_others),
        POM_TEST(test_sampler_does_not_walk_a_thread_that_stands_still),
        POM_TEST(test_sampler_walks_a_thread_that_runs_or_has_company_each_time),
        POM_TEST(test_sampler_tells_what_sleeps_cost),
        POM_TEST(test_sampler_bounds_its_descriptors),
        POM_TEST(test_sampler_gives_up_descriptors_of_threads_that_ended),
        POM_TEST(test_sampler_parks_while_nothing_is_going_on),
        POM_TEST(test_sampler_ticks_on_while_the_client_is_busy),
        POM_TEST(test_sampler_sees_what_is_attached_while_it_parks),
        POM_TEST(test_sampler_sees_the_last_of_many_attaches),
        POM_TEST(test_sampler_applies_what_was_queued_before_a_sync),
        POM_TEST(test_sampler_answers_syncs_of_many_threads),
        POM_TEST(test_sampler_sync_ends_at_its_deadline),
        POM_TEST(test_sampler_sync_waits_for_no_thread_that_is_not_there),
        POM_TEST(test_sampler_stop_leaves_no_sync_waiting),
        POM_TEST(test_sampler_stops_and_syncs_at_once_at_the_coarsest_period),
        POM_TEST(test_sampler_ticks_between_rare_looks),
        POM_TEST(test_sampler_may_look_at_once_after_an_idle_time),
        POM_TEST(test_sampler_takes_no_sample_out_of_turn),
        POM_TEST(test_sampler_starts_again),
        POM_TEST(test_sampler_stop_twice_is_one_stop),
        POM_TEST(test_sampler_leaves_signals_to_the_host),
        POM_TEST(test_sampler_takes_a_new_granularity_at_once),
        POM_TEST(test_sampler_widens_the_period_over_budget),
        POM_TEST(test_sampler_judges_idle_windows_as_cheap),
        POM_TEST(test_sampler_bills_what_is_used_while_parked),
        POM_TEST(test_sampler_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
