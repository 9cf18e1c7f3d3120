/*
 * The code table: one thread first, with the other thread's steps played by the resolver (it is
 * called in the middle of a look-up, which is where a race would strike); then real threads.
 */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "profiles/code_table.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLER false
#define APP     true

/* Names each code by the number of the call, so that two readings of one key can be told apart. */
typedef struct fake_resolver_s {
    pom_code_resolver_t base;
    int calls;
    bool fail, unknown;
    pom_code_table_t *table;
    void (*meanwhile)(struct fake_resolver_s *self, uintptr_t key); /* what another thread does */
} fake_resolver_t;

static pom_code_t *code_named(const char *function, bool unknown) {
    pom_code_spec_t spec = {.file = "a.py",
                            .file_len = 4,
                            .function = function,
                            .function_len = strlen(function),
                            .unknown = unknown};
    return pom_code_new(&spec);
}

static pom_code_t *fake_resolve(pom_code_resolver_t *base, uintptr_t key, bool gil_held) {
    fake_resolver_t *self = POM_CONTAINER(base, fake_resolver_t, base);
    char name[32];
    (void)snprintf(name, sizeof name, "call %d", ++self->calls); // cannot be too long
    pom_code_t *code = self->fail ? NULL : code_named(name, self->unknown);
    void (*meanwhile)(fake_resolver_t *, uintptr_t) = self->meanwhile;
    self->meanwhile = NULL; /* once */
    if (meanwhile != NULL) {
        meanwhile(self, key);
    }
    return code;
}

static fake_resolver_t resolver;

static pom_code_table_t *new_table(size_t capacity) {
    resolver = (fake_resolver_t){.base = {fake_resolve}};
    resolver.table = pom_code_table_new(capacity, &resolver.base);
    assert_non_null(resolver.table);
    return resolver.table;
}

static void test_code_table_reads_an_object_once(void **state) {
    pom_code_table_t *table = new_table(64);
    bool fresh = false;
    pom_code_t *code = pom_code_table_get(table, 0x1000, SAMPLER, &fresh);
    assert_string_equal(code->function, "call 1");
    assert_true(fresh);
    fresh = false;
    assert_ptr_equal(pom_code_table_get(table, 0x1000, SAMPLER, &fresh), code);
    assert_false(fresh);
    assert_ptr_not_equal(pom_code_table_get(table, 0x2000, SAMPLER, NULL), code);
    assert_int_equal(resolver.calls, 2);
    pom_code_table_stats_t stats = pom_code_table_stats(table);
    assert_int_equal(stats.live, 2);
    assert_int_equal(stats.inserted, 2);
    assert_int_equal(stats.forgotten, 0);
    assert_int_equal(stats.overflowed, 0);
    assert_int_equal(stats.unknown, 0);
    pom_code_table_free(table);
}

static void test_code_table_takes_any_key(void **state) {
    static const uintptr_t keys[] = {0, 1, 2, 4, UINTPTR_MAX, 0x7f0000000010};
    pom_code_table_t *table = new_table(64);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 6; i++) {
            char name[32];
            (void)snprintf(name, sizeof name, "call %zu", i + 1); // cannot be too long
            pom_code_t *code = pom_code_table_get(table, keys[i], SAMPLER, NULL);
            assert_string_equal(code->function, name);
        }
    }
    pom_code_table_free(table);
}

static void test_code_table_forgets_a_dead_object(void **state) {
    pom_code_table_t *table = new_table(64);
    (void)pom_code_table_get(table, 0x1000, SAMPLER, NULL); // its name is known: "call 1"
    uint64_t epoch = pom_code_table_epoch(table);
    pom_code_table_forget(table, 0x1000);
    assert_true(pom_code_table_epoch(table) > epoch);
    pom_code_t *code = pom_code_table_get(table, 0x1000, SAMPLER, NULL);
    assert_string_equal(code->function, "call 2");
    pom_code_table_stats_t stats = pom_code_table_stats(table);
    assert_int_equal(stats.live, 1);
    assert_int_equal(stats.inserted, 2);
    assert_int_equal(stats.forgotten, 1);
    pom_code_table_free(table);
}

static void test_code_table_removals_move_whoever_removes(void **state) {
    pom_code_table_t *table = new_table(64);
    uint64_t seen = pom_code_table_removals(table);
    (void)pom_code_table_get(table, 0x1000, SAMPLER, NULL);
    (void)pom_code_table_get(table, 0x2000, SAMPLER, NULL);
    (void)pom_code_table_get(table, 0x3000, SAMPLER, NULL);
    pom_code_table_forget(table, 0x9000); /* not there */
    assert_int_equal(pom_code_table_removals(table), seen);
    pom_code_table_forget(table, 0x1000);
    assert_int_equal(pom_code_table_removals(table), ++seen);
    pom_code_table_discard(table, 0x2000);
    assert_int_equal(pom_code_table_removals(table), ++seen);
    (void)pom_code_table_get(table, 0x3000, APP, NULL); /* replaces the claim */
    assert_int_equal(pom_code_table_removals(table), ++seen);
    pom_code_table_free(table);
}

static void test_code_table_epoch_moves_for_unknown_objects_too(void **state) {
    pom_code_table_t *table = new_table(64);
    uint64_t epoch = pom_code_table_epoch(table);
    pom_code_table_forget(table, 0x5000); /* the sampler may be reading just this one */
    assert_true(pom_code_table_epoch(table) > epoch);
    assert_int_equal(pom_code_table_stats(table).forgotten, 0);
    pom_code_table_free(table);
}

static void test_code_table_keeps_removed_codes_until_the_second_reap(void **state) {
    pom_code_table_t *table = new_table(64);
    int64_t empty = pom_alloc_live_bytes();
    pom_code_t *dead = pom_code_table_get(table, 0x1000, SAMPLER, NULL);
    pom_code_t *kept = pom_code_ref(pom_code_table_get(table, 0x2000, SAMPLER, NULL));
    pom_code_table_forget(table, 0x1000);
    pom_code_table_discard(table, 0x2000);
    pom_code_table_reap(table);
    /* An event that names it may be under way: the sanitizer would object. */
    assert_string_equal(dead->function, "call 1");
    pom_code_table_reap(table);
    assert_string_equal(kept->function, "call 2"); /* a reference outlives the reap */
    pom_code_unref(kept);
    assert_int_equal(pom_alloc_live_bytes(), empty);
    pom_code_table_free(table);
}

static void test_code_table_gil_holder_reads_a_claim_anew(void **state) {
    pom_code_table_t *table = new_table(64);
    pom_code_t *claim = pom_code_table_get(table, 0x1000, SAMPLER, NULL);
    bool fresh = false;
    pom_code_t *confirmed = pom_code_table_get(table, 0x1000, APP, &fresh);
    assert_string_equal(confirmed->function, "call 2");
    assert_true(fresh);
    assert_string_equal(claim->function, "call 1"); /* the sampler may still be using it */
    assert_ptr_equal(pom_code_table_get(table, 0x1000, APP, NULL), confirmed);
    assert_ptr_equal(pom_code_table_get(table, 0x1000, SAMPLER, NULL), confirmed);
    assert_int_equal(resolver.calls, 2);
    assert_int_equal(pom_code_table_stats(table).live, 1);
    pom_code_table_free(table);
}

static void test_code_table_discard_spares_confirmed_entries(void **state) {
    pom_code_table_t *table = new_table(64);
    (void)pom_code_table_get(table, 0x1000, SAMPLER, NULL); // a claim
    pom_code_t *confirmed = pom_code_table_get(table, 0x2000, APP, NULL);
    uint64_t epoch = pom_code_table_epoch(table);
    pom_code_table_discard(table, 0x1000);
    pom_code_table_discard(table, 0x2000);
    pom_code_table_discard(table, 0x3000);
    assert_int_equal(pom_code_table_epoch(table), epoch);
    assert_int_equal(pom_code_table_stats(table).live, 1);
    assert_ptr_equal(pom_code_table_get(table, 0x2000, SAMPLER, NULL), confirmed);
    assert_string_equal(pom_code_table_get(table, 0x1000, SAMPLER, NULL)->function, "call 3");
    pom_code_table_free(table);
}

static void meanwhile_app_looks_up(fake_resolver_t *self, uintptr_t key) {
    (void)pom_code_table_get(self->table, key, APP, NULL); // its entry is what counts
}

static void test_code_table_forget_removes_all_entries_of_a_key(void **state) {
    pom_code_table_t *table = new_table(64);
    resolver.meanwhile = meanwhile_app_looks_up;
    (void)pom_code_table_get(table, 0x1000, SAMPLER,
                             NULL); // confirmed by the app, claimed behind it
    assert_int_equal(pom_code_table_stats(table).live, 2);
    pom_code_table_forget(table, 0x1000);
    assert_int_equal(pom_code_table_stats(table).live, 0);
    assert_int_equal(pom_code_table_stats(table).forgotten, 2);
    assert_string_equal(pom_code_table_get(table, 0x1000, SAMPLER, NULL)->function, "call 3");
    pom_code_table_free(table);
}

static void test_code_table_discard_after_a_double_insertion_leaves_the_confirmed(void **state) {
    pom_code_table_t *table = new_table(64);
    resolver.meanwhile = meanwhile_app_looks_up;
    (void)pom_code_table_get(table, 0x1000, SAMPLER, NULL); // as above
    pom_code_table_discard(table, 0x1000);
    assert_int_equal(pom_code_table_stats(table).live, 1);
    assert_string_equal(pom_code_table_get(table, 0x1000, APP, NULL)->function, "call 2");
    pom_code_table_free(table);
}

static void meanwhile_object_dies(fake_resolver_t *self, uintptr_t key) {
    pom_code_table_forget(self->table, key);
}

static void test_code_table_death_during_a_reading_is_seen_in_the_epoch(void **state) {
    pom_code_table_t *table = new_table(64);
    uint64_t epoch = pom_code_table_epoch(table);
    resolver.meanwhile = meanwhile_object_dies;
    bool fresh = false;
    pom_code_t *stale = pom_code_table_get(table, 0x1000, SAMPLER, &fresh);
    assert_string_equal(stale->function, "call 1");
    /* Before the sampler has looked at the epoch: the successor does not get the old name. */
    assert_string_equal(pom_code_table_get(table, 0x1000, APP, NULL)->function, "call 2");
    assert_true(fresh);
    assert_true(pom_code_table_epoch(table) != epoch);
    pom_code_table_discard(table, 0x1000);
    assert_string_equal(pom_code_table_get(table, 0x1000, SAMPLER, NULL)->function, "call 2");
    pom_code_table_free(table);
}

static void test_code_table_full_answers_overflow_and_counts(void **state) {
    pom_code_table_t *table = new_table(4);
    for (uintptr_t key = 1; key <= 4; key++) {
        (void)pom_code_table_get(table, key * 16, SAMPLER, NULL); // fills a slot each
    }
    bool fresh = false;
    pom_code_t *overflow = pom_code_table_get(table, 0x500, SAMPLER, &fresh);
    assert_string_equal(overflow->function, "<overflow>");
    assert_string_equal(overflow->file, "<overflow>");
    assert_false(fresh);
    assert_ptr_equal(pom_code_table_get(table, 0x600, APP, NULL), overflow);
    assert_int_equal(resolver.calls, 4); /* a full table does not even read the object */
    assert_int_equal(pom_code_table_stats(table).overflowed, 2);
    assert_string_equal(pom_code_table_get(table, 0x20, SAMPLER, NULL)->function, "call 2");

    pom_code_table_forget(table, 0x20);
    assert_string_equal(pom_code_table_get(table, 0x500, SAMPLER, NULL)->function, "call 5");
    assert_int_equal(pom_code_table_stats(table).live, 4);
    pom_code_table_free(table);
}

static void test_code_table_full_has_room_for_what_is_read_anew(void **state) {
    pom_code_table_t *table = new_table(4);
    for (uintptr_t key = 1; key <= 4; key++) {
        (void)pom_code_table_get(table, key * 16, SAMPLER, NULL); // fills a slot each
    }
    bool fresh = false;
    assert_string_equal(pom_code_table_get(table, 0x20, APP, &fresh)->function, "call 5");
    assert_true(fresh);
    assert_string_equal(pom_code_table_get(table, 0x20, SAMPLER, NULL)->function, "call 5");
    assert_int_equal(pom_code_table_stats(table).overflowed, 0);
    assert_int_equal(pom_code_table_stats(table).live, 4);
    pom_code_table_free(table);
}

static void meanwhile_app_takes_the_last_slot(fake_resolver_t *self, uintptr_t key) {
    (void)pom_code_table_get(self->table, key + 16, APP, NULL); // for its slot
}

static void test_code_table_last_slot_lost_to_another_thread_overflows(void **state) {
    pom_code_table_t *table = new_table(1);
    resolver.meanwhile = meanwhile_app_takes_the_last_slot;
    bool fresh = false;
    pom_code_t *code = pom_code_table_get(table, 0x1000, SAMPLER, &fresh);
    assert_string_equal(code->function, "<overflow>");
    assert_false(fresh);
    assert_int_equal(pom_code_table_stats(table).overflowed, 1);
    assert_int_equal(pom_code_table_stats(table).live, 1);
    pom_code_table_free(table);
}

static void test_code_table_probes_are_bounded(void **state) {
    /* 80 keys that begin at one slot of a table that is far from full. */
    pom_code_table_t *table = new_table(32768);
    int found = 0;
    for (uintptr_t key = 16; found < 80; key += 16) {
        if ((pom_hash_mix(key) & 32767) == 5) {
            (void)pom_code_table_get(table, key, SAMPLER, NULL); // counted below
            found++;
        }
    }
    assert_int_equal(pom_code_table_stats(table).live, 64);
    assert_int_equal(pom_code_table_stats(table).overflowed, 16);
    pom_code_table_free(table);
}

static void test_code_table_uses_forgotten_slots_again(void **state) {
    pom_code_table_t *table = new_table(64);
    for (uintptr_t i = 1; i <= 10000; i++) {
        pom_code_t *code = pom_code_table_get(table, i * 64, i % 2 == 0, NULL);
        assert_string_not_equal(code->function, "<overflow>");
        if (i > 32) {
            pom_code_table_forget(table, (i - 32) * 64);
        }
        pom_code_table_reap(table);
    }
    pom_code_table_stats_t stats = pom_code_table_stats(table);
    assert_int_equal(stats.live, 32);
    assert_int_equal(stats.inserted, 10000);
    assert_int_equal(stats.forgotten, 10000 - 32);
    assert_int_equal(stats.overflowed, 0);
    pom_code_table_free(table);
}

static void test_code_table_reads_an_unreadable_object_again_later(void **state) {
    pom_code_table_t *table = new_table(64);
    resolver.unknown = true;
    assert_true(pom_code_table_get(table, 0x1000, SAMPLER, NULL)->unknown);
    assert_int_equal(pom_code_table_stats(table).unknown, 1);
    resolver.unknown = false;
    int hits = 0;
    while (pom_code_table_get(table, 0x1000, SAMPLER, NULL)->unknown) {
        hits++;
        assert_true(hits < 1000);
    }
    assert_int_equal(hits, 63); /* the 64th is a new reading */
    assert_int_equal(resolver.calls, 2);
    assert_int_equal(pom_code_table_stats(table).live, 1);
    pom_code_table_free(table);
}

static void test_code_table_without_memory_answers_and_tries_again(void **state) {
    pom_code_table_t *table = new_table(64);
    resolver.fail = true;
    bool fresh = false;
    pom_code_t *code = pom_code_table_get(table, 0x1000, SAMPLER, &fresh);
    assert_string_equal(code->function, "<no memory>");
    assert_false(fresh);
    assert_int_equal(pom_code_table_stats(table).live, 0);
    resolver.fail = false;
    assert_string_equal(pom_code_table_get(table, 0x1000, APP, NULL)->function, "call 2");
    pom_code_table_free(table);
}

static bool live_a_little(void *arg) {
    resolver = (fake_resolver_t){.base = {fake_resolve}};
    pom_code_table_t *table = pom_code_table_new(64, &resolver.base);
    if (table == NULL) {
        return false;
    }
    for (uintptr_t key = 16; key <= 160; key += 16) {
        (void)pom_code_table_get(table, key, key % 32 == 0, NULL); // any answer will do
        (void)pom_code_table_get(table, key / 2, true, NULL);      // likewise
        pom_code_table_forget(table, key / 4);
    }
    pom_code_table_free(table);
    return true;
}

static void test_code_table_survives_failing_allocations(void **state) {
    pom_code_table_free(NULL);
    assert_true(pom_torture(live_a_little, NULL) > 5); /* four blocks of the table, then codes */
}

/*
 * Threads. A heap of few addresses, so that each is used again and again. `memory` is what stands
 * at an address, also after death; `alive` is the generation a running frame there would have, 0
 * for none. The app threads bear and kill under a mutex that plays the GIL. The sampler reads
 * frames without it.
 */
#define ADDRESSES     24
#define FRAMES        6
#define APP_TURNS     15000
#define CHECKED_LEAST 20

/* What an app thread tells the sampler: a code it has looked up, without a reference. */
typedef struct event_s {
    pom_link_t link;
    pom_code_t *code;
    uint32_t generation;
} event_t;

typedef struct heap_s {
    pom_code_resolver_t base;
    pom_code_table_t *table;
    pthread_mutex_t gil;
    uint32_t generations; /* under gil */
    pom_queue_t events;
    _Atomic(uint32_t) memory[ADDRESSES], alive[ADDRESSES];
    _Atomic(uint64_t) seed;
    _Atomic(int) apps_running, stale_for_app, stale_for_sampler, checked_by_sampler;
    bool births_announced; /* as PyCode_AddWatcher does; a 3.11 announces deaths only */
    bool torn_frames;      /* the sampler also asks for what is dead */
} heap_t;

static uint32_t next_random(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)pom_hash_mix(*state);
}

static uintptr_t key_of(uint32_t address) {
    return (uintptr_t)(address + 1) * 16;
}

static pom_code_t *heap_resolve(pom_code_resolver_t *base, uintptr_t key, bool gil_held) {
    heap_t *heap = POM_CONTAINER(base, heap_t, base);
    uint32_t generation = atomic_load(&heap->memory[key / 16 - 1]);
    char name[16];
    (void)snprintf(name, sizeof name, "%u", generation); // cannot be too long
    if (!gil_held && generation % 3 == 0) {
        (void)sched_yield(); // a chance for a death between reading and insertion
    }
    return code_named(name, false);
}

static uint32_t generation_of(const pom_code_t *code) {
    return (uint32_t)strtoul(code->function, NULL, 10);
}

static void app_turn(heap_t *heap, uint64_t *random) {
    uint32_t at = next_random(random) % ADDRESSES;
    uint32_t generation = atomic_load(&heap->alive[at]);
    if (generation == 0) {
        atomic_store(&heap->memory[at], ++heap->generations);
        if (heap->births_announced) {
            pom_code_table_forget(heap->table, key_of(at));
        }
        atomic_store(&heap->alive[at], heap->generations);
    } else if (next_random(random) % 4 == 0) {
        atomic_store(&heap->alive[at], 0); // the frame is gone before the object dies
        pom_code_table_forget(heap->table, key_of(at));
    } else {
        pom_code_t *code = pom_code_table_get(heap->table, key_of(at), true, NULL);
        if (generation_of(code) != generation) {
            atomic_fetch_add(&heap->stale_for_app, 1);
        }
        event_t *event = pom_alloc(sizeof *event);
        *event = (event_t){.code = code, .generation = generation};
        pom_queue_push(&heap->events, &event->link);
    }
}

/* Reads what may have died since it was queued: the sanitizers object when it was released too. */
static void take_events(heap_t *heap) {
    pom_link_t *link = pom_queue_take_all(&heap->events);
    while (link != NULL) {
        event_t *event = POM_CONTAINER(link, event_t, link);
        link = link->next;
        if (generation_of(event->code) != event->generation) {
            atomic_fetch_add(&heap->stale_for_app, 1);
        }
        pom_free(event);
    }
}

static void *app_main(void *arg) {
    heap_t *heap = arg;
    uint64_t random = atomic_fetch_add(&heap->seed, 1); // a sequence of its own
    // And until the sampler has had its share: on a busy machine it may get no core for all these
    // turns.
    for (int i = 0; i < APP_TURNS || atomic_load(&heap->checked_by_sampler) < CHECKED_LEAST; i++) {
        pthread_mutex_lock(&heap->gil);
        app_turn(heap, &random);
        pthread_mutex_unlock(&heap->gil);
        if (i % 16 == 0) {
            (void)sched_yield(); // few cores: let the sampler in
        }
    }
    atomic_fetch_sub(&heap->apps_running, 1);
    return NULL;
}

static void take_sample(heap_t *heap, uint64_t *random, pom_code_t **kept) {
    uint32_t at[FRAMES], generation[FRAMES];
    bool fresh[FRAMES] = {false}, stale = false;
    uint64_t epoch = pom_code_table_epoch(heap->table);
    for (int i = 0; i < FRAMES; i++) {
        at[i] = next_random(random) % ADDRESSES;
        generation[i] = atomic_load(&heap->alive[at[i]]);
        if (generation[i] == 0 && !heap->torn_frames) {
            continue;
        }
        pom_code_t *code = pom_code_table_get(heap->table, key_of(at[i]), false, &fresh[i]);
        stale = stale || (generation[i] != 0 && generation_of(code) != generation[i]);
        if (next_random(random) % 8 == 0) {
            pom_code_unref(*kept);
            *kept = pom_code_ref(code); // a tree keeps it for a while
        }
    }
    if (pom_code_table_epoch(heap->table) != epoch) {
        for (int i = 0; i < FRAMES; i++) {
            if (fresh[i]) {
                pom_code_table_discard(heap->table, key_of(at[i]));
            }
        }
    } else {
        atomic_fetch_add(&heap->checked_by_sampler, 1);
        atomic_fetch_add(&heap->stale_for_sampler, stale ? 1 : 0);
    }
    take_events(heap);
    pom_code_table_reap(heap->table);
}

static void *sampler_main(void *arg) {
    heap_t *heap = arg;
    uint64_t random = 1;
    pom_code_t *kept = NULL;
    while (atomic_load(&heap->apps_running) != 0) {
        take_sample(heap, &random, &kept);
    }
    pom_code_unref(kept);
    return NULL;
}

static void run_threads(heap_t *heap) {
    *heap = (heap_t){.base = {heap_resolve},
                     .births_announced = heap->births_announced,
                     .torn_frames = heap->torn_frames};
    heap->table = pom_code_table_new(64, &heap->base);
    assert_non_null(heap->table);
    pom_queue_init(&heap->events);
    atomic_store(&heap->apps_running, 2);
    pthread_t threads[3];
    assert_int_equal(pthread_mutex_init(&heap->gil, NULL), 0);
    assert_int_equal(pthread_create(&threads[0], NULL, sampler_main, heap), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, app_main, heap), 0);
    assert_int_equal(pthread_create(&threads[2], NULL, app_main, heap), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    pthread_mutex_destroy(&heap->gil);
    take_events(heap);

    pom_code_table_stats_t stats = pom_code_table_stats(heap->table);
    assert_int_equal(stats.overflowed, 0);
    assert_true(stats.forgotten > 0);
    assert_true(stats.live <= 64);
    /* Every entry can be forgotten, claims and duplicates included. */
    for (uint32_t i = 0; i < ADDRESSES; i++) {
        pom_code_table_forget(heap->table, key_of(i));
    }
    assert_int_equal(pom_code_table_stats(heap->table).live, 0);
    pom_code_table_free(heap->table);
    assert_no_leak();
}

static void test_code_table_threads_never_see_a_predecessor(void **state) {
    heap_t heap = {.births_announced = false, .torn_frames = false};
    run_threads(&heap);
    assert_int_equal(heap.stale_for_app, 0);
    assert_int_equal(heap.stale_for_sampler, 0);
}

static void test_code_table_torn_frames_never_mislead_a_gil_holder(void **state) {
    heap_t heap = {.births_announced = false, .torn_frames = true};
    run_threads(&heap);
    assert_int_equal(heap.stale_for_app, 0);
}

static void test_code_table_announced_births_heal_torn_frames(void **state) {
    heap_t heap = {.births_announced = true, .torn_frames = true};
    run_threads(&heap);
    assert_int_equal(heap.stale_for_app, 0);
    assert_int_equal(heap.stale_for_sampler, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_code_table_reads_an_object_once),
        POM_TEST(test_code_table_takes_any_key),
        POM_TEST(test_code_table_forgets_a_dead_object),
        POM_TEST(test_code_table_removals_move_whoever_removes),
        POM_TEST(test_code_table_epoch_moves_for_unknown_objects_too),
        POM_TEST(test_code_table_keeps_removed_codes_until_the_second_reap),
        POM_TEST(test_code_table_gil_holder_reads_a_claim_anew),
        POM_TEST(test_code_table_discard_spares_confirmed_entries),
        POM_TEST(test_code_table_forget_removes_all_entries_of_a_key),
        POM_TEST(test_code_table_discard_after_a_double_insertion_leaves_the_confirmed),
        POM_TEST(test_code_table_death_during_a_reading_is_seen_in_the_epoch),
        POM_TEST(test_code_table_full_answers_overflow_and_counts),
        POM_TEST(test_code_table_full_has_room_for_what_is_read_anew),
        POM_TEST(test_code_table_last_slot_lost_to_another_thread_overflows),
        POM_TEST(test_code_table_probes_are_bounded),
        POM_TEST(test_code_table_uses_forgotten_slots_again),
        POM_TEST(test_code_table_reads_an_unreadable_object_again_later),
        POM_TEST(test_code_table_without_memory_answers_and_tries_again),
        POM_TEST(test_code_table_survives_failing_allocations),
        POM_TEST(test_code_table_threads_never_see_a_predecessor),
        POM_TEST(test_code_table_torn_frames_never_mislead_a_gil_holder),
        POM_TEST(test_code_table_announced_births_heal_torn_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
