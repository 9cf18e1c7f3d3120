/* Slots: the table of anchors, its growth, claims and releases, and the seqlock under a racing
 * reader. */
#include "tests/unit/support/detach.h"
#include "tests/unit/support/test_support.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "sampler/slot.h"

static pom_anchor_t storage[POM_ANCHORS_MAX];

static pom_thread_identity_t thread_of(int32_t tid) {
    return (pom_thread_identity_t){.tid = tid, .ident = (uint64_t)tid * 10};
}

static pom_slot_t *claim(pom_slots_t *slots, int32_t tid) {
    pom_thread_identity_t who = thread_of(tid);
    return pom_slots_claim(slots, &who);
}

/* Every word of an anchor follows from its number, so that a torn one shows. */
static pom_anchor_t anchor_of(uintptr_t number) {
    pom_anchor_t anchor = {.at = {.frame = number, .code = pom_hash_mix(number)},
                           .action = (void *)(number << 4),
                           .since_ns = (int64_t)pom_hash_mix(number + 1),
                           .since_cpu_ns = (int64_t)pom_hash_mix(number + 2),
                           .kind = (pom_anchor_kind_t)(number & 1)};
    for (uintptr_t i = 0; i < POM_ANCHOR_CALLERS; i++) {
        anchor.callers[i] = (pom_frame_id_t){.frame = number + i, .code = number ^ i};
    }
    return anchor;
}

static void *action_of(uintptr_t number) {
    return anchor_of(number).action;
}

static bool is_whole(const pom_anchor_t *anchor) {
    pom_anchor_t want = anchor_of(anchor->at.frame);
    bool whole = anchor->at.code == want.at.code && anchor->action == want.action &&
                 anchor->since_ns == want.since_ns && anchor->since_cpu_ns == want.since_cpu_ns &&
                 anchor->kind == want.kind;
    for (int i = 0; i < POM_ANCHOR_CALLERS; i++) {
        whole = whole && anchor->callers[i].frame == want.callers[i].frame &&
                anchor->callers[i].code == want.callers[i].code;
    }
    return whole;
}

static void attach(pom_slot_t *slot, uintptr_t number) {
    pom_anchor_t anchor = anchor_of(number);
    assert_int_equal(pom_slot_attach(slot, &anchor), POM_OK);
}

/* ---- the table ------------------------------------------------------------------------------ */

static void test_slot_shows_anchors_newest_first(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    pom_slot_view_t view;
    assert_false(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    for (uintptr_t i = 1; i <= 3; i++) {
        attach(slot, i);
    }
    assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    assert_int_equal(view.count, 3);
    assert_ptr_equal(view.slot, slot);
    assert_int_equal(view.tid, 7);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(view.anchors[i].at.frame, 3 - i);
        assert_true(is_whole(&view.anchors[i]));
    }
    pom_slots_fini(&slots);
}

static void test_slot_shows_the_newest_where_room_is_short(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    for (uintptr_t i = 1; i <= 10; i++) {
        attach(slot, i);
    }
    pom_slot_view_t view;
    assert_true(pom_slot_view(slot, &view, storage, 2));
    assert_int_equal(view.count, 2);
    assert_int_equal(view.anchors[0].at.frame, 10);
    assert_int_equal(view.anchors[1].at.frame, 9);
    pom_slots_fini(&slots);
}

/* Never a no where an anchor is; a no nearly everywhere else, or it would save nothing. */
static void test_slot_marks_where_anchors_may_be(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    assert_true(pom_slot_may_anchor(slot, 999)); // few: it does not say
    for (uintptr_t i = 1; i <= 1000; i++) {
        attach(slot, i);
        for (uintptr_t seen = 1; seen <= i; seen += 97) {
            assert_true(pom_slot_may_anchor(slot, seen));
        }
    }
    pom_anchor_t with_caller = anchor_of(5000);
    with_caller.callers[0] = (pom_frame_id_t){.frame = 6000, .code = 1};
    assert_int_equal(pom_slot_attach(slot, &with_caller), POM_OK);
    assert_true(pom_slot_may_anchor(slot, 6000));
    pom_anchor_t with_callee = anchor_of(7000);
    with_callee.callers[0] = (pom_frame_id_t){.frame = 8000, .code = 1};
    with_callee.called_at = pom_anchor_called_at(-1);
    assert_int_equal(pom_slot_attach(slot, &with_callee), POM_OK);
    assert_true(pom_slot_may_anchor(slot, 7000));
    assert_false(pom_slot_may_anchor(slot, 8000));
    for (uintptr_t i = 2; i <= 1000; i++) {
        assert_true(detach_action(slot, action_of(i)));
        assert_true(pom_slot_may_anchor(slot, 1));
    }
    assert_true(pom_slot_may_anchor(slot, 5000));
    pom_slots_withdraw(&slots);
    for (uintptr_t i = 1; i <= 1000; i++) { // a coroutine's has no callers
        pom_anchor_t anchor = {.at = {.frame = pom_hash_mix(i)}, .action = action_of(i)};
        assert_int_equal(pom_slot_attach(slot, &anchor), POM_OK);
    }
    int maybe = 0;
    for (uintptr_t i = 1; i <= 1000; i++) {
        assert_true(pom_slot_may_anchor(slot, pom_hash_mix(i)));
        maybe += pom_slot_may_anchor(slot, pom_hash_mix(i + 1000));
    }
    assert_in_range(maybe, 0, 5); // counts alone: one in 16
    pom_slots_withdraw(&slots);
    attach(slot, 7);
    assert_true(pom_slot_may_anchor(slot, 7));
    pom_slots_fini(&slots);
}

static void test_slot_detaches_from_any_place(void **state) {
    static const uintptr_t orders[][4] = {{1, 2, 3, 4}, {4, 3, 2, 1}, {2, 4, 1, 3}, {3, 1, 4, 2}};
    for (size_t o = 0; o < sizeof orders / sizeof orders[0]; o++) {
        pom_slots_t slots;
        pom_slots_init(&slots);
        pom_slot_t *slot = claim(&slots, 7);
        for (uintptr_t i = 1; i <= 4; i++) {
            attach(slot, i);
        }
        for (int gone = 0; gone < 4; gone++) {
            assert_true(detach_action(slot, action_of(orders[o][gone])));
            assert_false(detach_action(slot, action_of(orders[o][gone])));
            pom_slot_view_t view;
            bool any = pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX);
            assert_int_equal(any, gone < 3);
            for (uint32_t i = 0; any && i < view.count; i++) {
                assert_true(is_whole(&view.anchors[i]));
                assert_true(i == 0 || view.anchors[i - 1].at.frame > view.anchors[i].at.frame);
            }
            assert_int_equal(any ? view.count : 0, 3 - gone);
        }
        pom_slots_fini(&slots);
    }
}

static void test_slot_detaches_the_newest_of_one_action(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    pom_anchor_t outer = anchor_of(1), inner = anchor_of(2);
    inner.action = outer.action;
    assert_int_equal(pom_slot_attach(slot, &outer), POM_OK);
    assert_int_equal(pom_slot_attach(slot, &inner), POM_OK);
    assert_true(detach_action(slot, outer.action));
    pom_slot_view_t view;
    assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    assert_int_equal(view.count, 1);
    assert_int_equal(view.anchors[0].at.frame, 1);
    pom_slots_fini(&slots);
}

static void test_slot_detaches_once(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    assert_false(pom_slot_detach(slot, 1)); // not attached yet
    for (uintptr_t i = 1; i <= 3; i++) {
        attach(slot, i);
        assert_int_equal(slot->attaches, i);
    }
    static const uint64_t order[] = {2, 3, 1};
    for (int i = 0; i < 3; i++) {
        assert_true(pom_slot_detach(slot, order[i]));
        assert_false(pom_slot_detach(slot, order[i]));
        assert_int_equal(pom_slot_attached(slot), 2 - i);
    }
    assert_int_equal(atomic_load(&slot->count), 0);
    attach(slot, 1);
    assert_false(pom_slot_detach(slot, 3)); // its place has another now
    pom_slots_fini(&slots);
}

/* A queue of a thousand that moves on, as asyncio tasks do: whole and in order at each step, in
 * bounded memory, with the places that are looked at bounded too. */
static void test_slot_closes_gaps(void **state) {
    enum { TASKS = 1000 };
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    for (uintptr_t i = 1; i <= TASKS; i++) {
        attach(slot, i);
    }
    for (uintptr_t i = 1; i <= 10 * TASKS; i++) {
        assert_true(pom_slot_detach(slot, i));
        attach(slot, TASKS + i);
        assert_int_equal(pom_slot_attached(slot), TASKS);
        assert_true(pom_slot_may_anchor(slot, TASKS + i) && pom_slot_may_anchor(slot, i + 1));
        assert_in_range(atomic_load(&slot->count), TASKS, 2 * TASKS + 20);
        pom_slot_view_t view;
        assert_true(i % 97 != 0 || pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
        for (uint32_t seen = 0; i % 97 == 0 && seen < TASKS; seen++) {
            assert_int_equal(view.count, TASKS);
            assert_int_equal(view.anchors[seen].at.frame, TASKS + i - seen);
            assert_true(is_whole(&view.anchors[seen]));
        }
    }
    assert_int_equal(atomic_load(&slot->table)->room, 2 * 1024); // at most twice what they need
    for (uintptr_t i = 10 * TASKS + 1; i < 11 * TASKS; i++) {
        assert_true(pom_slot_detach(slot, i)); // oldest first
    }
    assert_int_equal(pom_slot_attached(slot), 1);
    assert_in_range(atomic_load(&slot->count), 1, 20);
    pom_slots_fini(&slots);
}

/* A full table with a gap has room; what comes next is the newest all the same. */
static void test_slot_fills_gaps_of_the_largest_table(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    for (uintptr_t i = 1; i <= POM_ANCHORS_MAX; i++) {
        attach(slot, i);
    }
    for (uintptr_t i = 1; i <= 3; i++) {
        assert_true(pom_slot_detach(slot, 100 * i));
        attach(slot, POM_ANCHORS_MAX + i);
        pom_slot_view_t view;
        assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
        assert_int_equal(view.count, POM_ANCHORS_MAX);
        assert_int_equal(view.anchors[0].at.frame, POM_ANCHORS_MAX + i);
    }
    assert_int_equal(atomic_load(&slot->table)->room, POM_ANCHORS_MAX);
    pom_slots_fini(&slots);
}

static void test_slot_grows_to_its_cap(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    for (uintptr_t i = 1; i <= POM_ANCHORS_MAX; i++) {
        attach(slot, i);
    }
    pom_anchor_t one_more = anchor_of(POM_ANCHORS_MAX + 1);
    assert_int_equal(pom_slot_attach(slot, &one_more), POM_EFULL);
    pom_slot_view_t view;
    assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    assert_int_equal(view.count, POM_ANCHORS_MAX);
    for (uint32_t i = 0; i < view.count; i++) {
        assert_int_equal(view.anchors[i].at.frame, POM_ANCHORS_MAX - i);
        assert_true(is_whole(&view.anchors[i]));
    }
    assert_true(detach_action(slot, action_of(1)));
    assert_int_equal(pom_slot_attach(slot, &one_more), POM_OK);
    pom_slots_fini(&slots);
}

static void test_slot_view_holds_until_a_change(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7), *other = claim(&slots, 8);
    pom_slot_view_t view;
    attach(slot, 1);
    assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    attach(other, 9);
    assert_true(pom_slot_view_holds(&view));
    attach(slot, 2);
    assert_false(pom_slot_view_holds(&view));
    assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    assert_true(detach_action(slot, action_of(1)));
    assert_false(pom_slot_view_holds(&view));
    pom_slots_fini(&slots);
}

/* What a writer has left half done is not looked at, though nothing moves meanwhile. */
static void test_slot_shows_nothing_within_a_change(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    pom_slot_view_t view;
    attach(slot, 1);
    atomic_fetch_add(&slot->seq, 1);
    assert_false(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    atomic_fetch_add(&slot->seq, 1);
    assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    atomic_store(&slot->count, POM_ANCHORS_FIRST + 1); // of a table that is yet to be seen
    assert_false(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    atomic_store(&slot->count, 1);
    assert_true(pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX));
    pom_slots_fini(&slots);
}

/* ---- claims ---------------------------------------------------------------------------------- */

static void test_slot_whose_thread_has_ended_shows_nothing(void **state) {
    pom_slots_t slots;
    pom_slot_view_t view;
    pom_anchor_t copies[4];
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 7);
    attach(slot, 1);
    assert_true(pom_slot_is_active(slot));
    assert_true(pom_slot_view(slot, &view, copies, 4));
    pom_slot_end(slot);
    assert_false(pom_slot_view_holds(&view));
    assert_false(pom_slot_view(slot, &view, copies, 4));
    assert_false(pom_slot_is_active(slot));
    // Released at last, the slot is as good as new.
    pom_slots_release(&slots, slot);
    assert_ptr_equal(claim(&slots, 8), slot);
    attach(slot, 2);
    assert_true(pom_slot_is_active(slot));
    assert_true(pom_slot_view(slot, &view, copies, 4));
    assert_true(pom_slot_view_holds(&view));
    pom_slots_fini(&slots);
}

static void test_slots_reuse_what_was_released(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *first = claim(&slots, 1), *second = claim(&slots, 2);
    attach(first, 1);
    pom_slots_release(&slots, first);
    pom_slot_view_t view;
    assert_false(pom_slot_view(first, &view, storage, POM_ANCHORS_MAX));
    int64_t live = pom_alloc_live_bytes();
    for (int32_t tid = 3; tid < 1000; tid++) {
        pom_slot_t *again = claim(&slots, tid);
        assert_ptr_equal(again, first);
        assert_int_equal(again->who.tid, tid);
        attach(again, (uintptr_t)tid);
        assert_true(pom_slot_view(again, &view, storage, POM_ANCHORS_MAX));
        assert_int_equal(view.count, 1);
        assert_int_equal(view.tid, tid);
        pom_slots_release(&slots, again);
    }
    assert_int_equal(pom_alloc_live_bytes(), live);
    assert_true(second->claimed);
    assert_int_equal(slots.total, 2);
    pom_slots_fini(&slots);
}

static void test_slots_are_capped(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    assert_int_equal(slots.max, POM_SLOTS_MAX);
    slots.max = 3;
    pom_slot_t *last = NULL;
    for (int32_t tid = 1; tid <= 3; tid++) {
        last = claim(&slots, tid);
        assert_non_null(last);
    }
    assert_null(claim(&slots, 4));
    pom_slots_release(&slots, last);
    assert_ptr_equal(claim(&slots, 4), last);
    pom_slots_fini(&slots);
}

static void test_slots_withdraw_everything(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot[3];
    pom_slot_view_t view;
    for (int32_t i = 0; i < 3; i++) {
        slot[i] = claim(&slots, i + 1);
        attach(slot[i], (uintptr_t)i + 1);
    }
    assert_true(pom_slot_view(slot[0], &view, storage, POM_ANCHORS_MAX));
    pom_slots_withdraw(&slots);
    assert_false(pom_slot_view_holds(&view));
    for (int i = 0; i < 3; i++) {
        assert_false(pom_slot_view(slot[i], &view, storage, POM_ANCHORS_MAX));
        assert_true(slot[i]->claimed);
    }
    assert_false(detach_action(slot[0], action_of(1)));
    attach(slot[0], 5);
    assert_true(pom_slot_view(slot[0], &view, storage, POM_ANCHORS_MAX));
    pom_slots_fini(&slots);
}

static void test_slots_tell_whose_thread_has_something_attached(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    assert_false(pom_slots_busy(&slots, 100));
    pom_slot_t *slot[2];
    for (uintptr_t i = 0; i < 2; i++) {
        pom_thread_identity_t who = {.tid = 1, .state = 100 + i};
        slot[i] = pom_slots_claim(&slots, &who);
        assert_non_null(slot[i]);
    }
    assert_false(pom_slots_busy(&slots, 100));
    attach(slot[0], 1);
    assert_true(pom_slots_busy(&slots, 100));
    assert_false(pom_slots_busy(&slots, 101));
    pom_slot_end(slot[0]);
    assert_false(pom_slots_busy(&slots, 100));
    pom_slots_fini(&slots);
}

/* The parent's descriptors are of no use in a child: they show the parent's threads. */
static void test_slots_close_descriptors_after_a_fork(void **state) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    pom_slot_t *slot = claim(&slots, 1);
    (void)claim(&slots, 2);
    assert_true(pom_own_fd_open(&slot->files.stat, "/dev/null"));
    assert_true(pom_own_fd_open(&slot->files.schedstat, "/dev/null"));
    int fd = slot->files.stat.fd, other_fd = slot->files.schedstat.fd;
    pom_slots_after_fork(&slots);
    assert_int_equal(slot->files.stat.fd, -1);
    assert_int_equal(slot->files.schedstat.fd, -1);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_int_equal(fcntl(other_fd, F_GETFD), -1);
    /* Closed by the program, and its number a file of the program's by now. */
    assert_true(pom_own_fd_open(&slot->files.stat, "/dev/null"));
    fd = slot->files.stat.fd;
    int other = open("/dev/zero", O_RDONLY);
    assert_int_equal(dup2(other, fd), fd);
    pom_slots_after_fork(&slots);
    assert_int_equal(slot->files.stat.fd, -1);
    assert_int_equal(close(fd), 0);
    assert_int_equal(close(other), 0);
    pom_slots_fini(&slots);
}

static bool live_a_life(void *arg) {
    pom_slots_t slots;
    pom_slots_init(&slots);
    bool whole = true;
    for (int32_t tid = 1; tid <= 2; tid++) {
        pom_slot_t *slot = claim(&slots, tid);
        uint32_t attached = 0;
        for (uintptr_t i = 1; slot != NULL && i <= 9; i++) {
            pom_anchor_t anchor = anchor_of(i);
            attached += pom_slot_attach(slot, &anchor) == POM_OK;
        }
        pom_slot_view_t view;
        if (slot != NULL && pom_slot_view(slot, &view, storage, POM_ANCHORS_MAX)) {
            whole = whole && view.count == attached && is_whole(&view.anchors[0]);
        }
        whole = whole && attached == 9;
    }
    pom_slots_fini(&slots);
    return whole;
}

static void test_slots_survive_failing_allocations(void **state) {
    /* Each of two slots: itself, its table of 4, those of 8 and 16; then the run that succeeds. */
    assert_int_equal(pom_torture(live_a_life, NULL), 2 * 4 + 1);
}

/* ---- threads --------------------------------------------------------------------------------- */

#define ROUNDS 100000

typedef struct race_s {
    pom_slots_t slots;
    pom_slot_t *slot;
    _Atomic(bool) done;
    _Atomic(int64_t) seen, torn, faults;
} race_t;

/* Checks what the walk of a sampler relies on: a view that holds is whole and in order. */
static void *look(void *arg) {
    race_t *race = arg;
    static pom_anchor_t copies[64];
    while (!atomic_load(&race->done)) {
        pom_slot_view_t view;
        if (!pom_slot_view(race->slot, &view, copies, 64)) {
            continue;
        }
        bool good = view.count >= 1 && view.count <= 64;
        for (uint32_t i = 0; good && i < view.count; i++) {
            good = is_whole(&view.anchors[i]) &&
                   (i == 0 || view.anchors[i - 1].at.frame > view.anchors[i].at.frame);
        }
        atomic_fetch_add(&race->faults, good ? 0 : 1);
        atomic_fetch_add(pom_slot_view_holds(&view) ? &race->seen : &race->torn, 1);
    }
    return NULL;
}

static void test_slot_views_are_whole_while_anchors_come_and_go(void **state) {
    race_t race = {.done = false};
    pthread_t reader;
    pom_slots_init(&race.slots);
    race.slot = claim(&race.slots, 7);
    assert_int_equal(pthread_create(&reader, NULL, look, &race), 0);
    uintptr_t oldest = 1, newest = 0;
    uint64_t random = 1;
    for (int i = 0; i < ROUNDS; i++) {
        random = pom_hash_mix(random + 1);
        uintptr_t held = newest + 1 - oldest;
        // Up to 40 at once: the table is replaced three times on the way.
        if (held == 0 || (held < 40 && random % 2 == 0)) {
            attach(race.slot, ++newest);
        } else if (random % 3 == 0) {
            assert_true(detach_action(race.slot, action_of(oldest++)));
        } else {
            assert_true(detach_action(race.slot, action_of(newest--)));
        }
        if (i % 64 == 0) {
            (void)sched_yield();
        }
    }
    while (atomic_load(&race.seen) == 0 && newest >= oldest) {
        (void)sched_yield(); // on one core the reader may not have run yet
    }
    atomic_store(&race.done, true);
    assert_int_equal(pthread_join(reader, NULL), 0);
    assert_int_equal(atomic_load(&race.faults), 0);
    pom_slots_fini(&race.slots);
}

typedef struct hold_s {
    pom_slots_t slots;
    pom_slot_t *slot;
    _Atomic(bool) releasing, released;
} hold_t;

static void *release(void *arg) {
    hold_t *hold = arg;
    atomic_store(&hold->releasing, true);
    pom_slots_release(&hold->slots, hold->slot);
    atomic_store(&hold->released, true);
    return NULL;
}

static void test_slots_release_waits_for_the_walk(void **state) {
    hold_t hold = {.releasing = false};
    pthread_t owner;
    pom_slots_init(&hold.slots);
    hold.slot = claim(&hold.slots, 7);
    attach(hold.slot, 1);
    atomic_store(&hold.slot->walking, true);
    assert_int_equal(pthread_create(&owner, NULL, release, &hold), 0);
    while (atomic_load(&hold.slot->count) > 0) {
        (void)sched_yield();
    }
    for (int i = 0; i < 1000; i++) {
        assert_false(atomic_load(&hold.released));
        (void)sched_yield();
    }
    assert_true(hold.slot->claimed);
    atomic_store(&hold.slot->walking, false);
    assert_int_equal(pthread_join(owner, NULL), 0);
    assert_true(atomic_load(&hold.released));
    assert_false(hold.slot->claimed);
    pom_slots_fini(&hold.slots);
}

/* A thread's memory: valid while its slot is claimed. The walk must never see it otherwise. */
typedef struct lives_s {
    pom_slots_t slots;
    _Atomic(bool) done;
    _Atomic(int64_t) walks, faults;
} lives_t;

static void *walk_lives(void *arg) {
    lives_t *lives = arg;
    pom_anchor_t copies[8];
    while (!atomic_load(&lives->done)) {
        pom_slot_t *slot = atomic_load(&lives->slots.first);
        for (; slot != NULL; slot = atomic_load(&slot->next)) {
            pom_slot_view_t view;
            atomic_store(&slot->walking, true);
            atomic_thread_fence(memory_order_seq_cst);
            if (pom_slot_view(slot, &view, copies, 8)) {
                const _Atomic(int64_t) *memory = (void *)slot->who.state;
                atomic_fetch_add(&lives->faults, atomic_load(memory) == 1 ? 0 : 1);
                atomic_fetch_add(&lives->walks, 1);
            }
            atomic_store(&slot->walking, false);
        }
    }
    return NULL;
}

static void test_slots_never_show_a_thread_that_is_gone(void **state) {
    lives_t lives = {.done = false};
    pthread_t walker;
    pom_slots_init(&lives.slots);
    assert_int_equal(pthread_create(&walker, NULL, walk_lives, &lives), 0);
    for (int i = 0; i < 20000 || atomic_load(&lives.walks) == 0; i++) {
        _Atomic(int64_t) *memory = pom_alloc(sizeof *memory);
        atomic_store(memory, 1);
        pom_thread_identity_t who = {.tid = i + 1, .state = (uintptr_t)memory};
        pom_slot_t *slot = pom_slots_claim(&lives.slots, &who);
        attach(slot, 1);
        if (i % 16 == 0) {
            (void)sched_yield();
        }
        bool left_behind = i % 3 == 0; // the thread ends before anybody releases its slot
        if (left_behind) {
            pom_slot_end(slot);
        } else {
            pom_slots_release(&lives.slots, slot);
        }
        atomic_store(memory, 0); // the interpreter frees the stack now
        pom_free(memory);
        if (left_behind) {
            pom_slots_release(&lives.slots, slot);
        }
    }
    atomic_store(&lives.done, true);
    assert_int_equal(pthread_join(walker, NULL), 0);
    assert_int_equal(atomic_load(&lives.faults), 0);
    pom_slots_fini(&lives.slots);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_slot_shows_anchors_newest_first),
        POM_TEST(test_slot_shows_the_newest_where_room_is_short),
        POM_TEST(test_slot_marks_where_anchors_may_be),
        POM_TEST(test_slot_detaches_from_any_place),
        POM_TEST(test_slot_detaches_the_newest_of_one_action),
        POM_TEST(test_slot_detaches_once),
        POM_TEST(test_slot_closes_gaps),
        POM_TEST(test_slot_fills_gaps_of_the_largest_table),
        POM_TEST(test_slot_grows_to_its_cap),
        POM_TEST(test_slot_view_holds_until_a_change),
        POM_TEST(test_slot_shows_nothing_within_a_change),
        POM_TEST(test_slot_whose_thread_has_ended_shows_nothing),
        POM_TEST(test_slots_reuse_what_was_released),
        POM_TEST(test_slots_are_capped),
        POM_TEST(test_slots_withdraw_everything),
        POM_TEST(test_slots_tell_whose_thread_has_something_attached),
        POM_TEST(test_slots_close_descriptors_after_a_fork),
        POM_TEST(test_slots_survive_failing_allocations),
        POM_TEST(test_slot_views_are_whole_while_anchors_come_and_go),
        POM_TEST(test_slots_release_waits_for_the_walk),
        POM_TEST(test_slots_never_show_a_thread_that_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
