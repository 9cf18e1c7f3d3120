/*
 * The life of a finished action's data: born with its arena, freed by whoever lets go last.
 *
 * The struct and the first block of its arena are one allocation, and the arena holds all the rest,
 * so that the profile of a short request is one block of the maker's pool, and that of a long one
 * costs one malloc and one free per arena block more, whatever its tree looks like.
 *
 * The tree needs its references to code released before its nodes vanish with the arena; that order
 * is the one thing this file guards. A profile that was never given a tree has an all-zero one,
 * which is as good as empty.
 *
 * Runs on any thread. The fields are filled by one thread before the profile is shared (a queue
 * push publishes them) and never change after; only the reference count does.
 */
#include "profiles/profile.h"

#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "base/prefetch.h"

#define X(name, text) text,
const char *const pom_miss_names[POM_MISS_COUNT] = {POM_MISS_LIST(X)};
const char *const pom_outcome_names[POM_OUTCOME_COUNT] = {POM_OUTCOME_LIST(X)};
#undef X

/* What a request without samples needs is some 300 bytes, with a short tree four times that;
 * together with the struct it stays below 2 KiB. */
#define FIRST_BLOCK ((size_t)1400)
#define MOST_FILL   ((size_t)384) /* of it */

/* Two of the exporter's batches: one that comes in, one that is encoded. */
#define POOLED_MAX 160

static pom_profile_t *init(pom_profile_t *profile, pom_block_pool_t *pool, size_t arena_cap,
                           size_t first) {
    if (profile == NULL) {
        return NULL;
    }
    memset(profile, 0, sizeof *profile);
    // No partner: the maker shares the pointer later, through a queue that publishes.
    atomic_init(&profile->refs, 1);
    profile->pool = pool;
    if (first > 0) {
        pom_arena_init_in(&profile->arena, arena_cap, profile + 1, first);
    } else {
        pom_arena_init(&profile->arena, arena_cap);
    }
    return profile;
}

pom_profile_t *pom_profile_new(size_t arena_cap) {
    size_t first = arena_cap < FIRST_BLOCK ? 0 : FIRST_BLOCK;
    return init(pom_alloc(sizeof(pom_profile_t) + first), NULL, arena_cap, first);
}

pom_block_pool_t *pom_profile_pool_new(void) {
    return pom_block_pool_new(sizeof(pom_profile_t) + FIRST_BLOCK, POOLED_MAX);
}

pom_profile_t *pom_profile_new_in(pom_block_pool_t *pool, size_t arena_cap) {
    assert(arena_cap >= FIRST_BLOCK);
    pom_profile_t *profile = init(pom_block_pool_take(pool), pool, arena_cap, FIRST_BLOCK);
    pom_profile_prefetch_next(pool);
    return profile;
}

void pom_profile_prefetch_next(const pom_block_pool_t *pool) {
    const void *next = pom_block_pool_next(pool);
    if (next != NULL) {
        pom_prefetch_write_all(next, sizeof(pom_profile_t) + MOST_FILL);
    }
}

pom_profile_t *pom_profile_ref(pom_profile_t *profile) {
    // Relaxed: the caller's own reference keeps the count above zero.
    int32_t before = atomic_fetch_add_explicit(&profile->refs, 1, memory_order_relaxed);
    assert(before > 0);
    (void)before; // used by the assert only
    return profile;
}

void pom_profile_unref(pom_profile_t *profile) {
    if (profile == NULL) {
        return;
    }
    // Acquire and release pair with each other across threads: the thread that frees does so after
    // every other holder has read for the last time.
    int32_t before = atomic_fetch_sub_explicit(&profile->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before > 1) {
        return;
    }
    pom_tree_fini(&profile->tree);
    pom_arena_fini(&profile->arena);
    if (profile->pool != NULL) {
        pom_block_pool_give(profile->pool, profile);
    } else {
        pom_free(profile);
    }
}

void pom_profile_prefetch(const pom_profile_t *profile) {
    pom_prefetch_read_all(profile, sizeof *profile + FIRST_BLOCK / 2);
}

size_t pom_profile_bytes(const pom_profile_t *profile) {
    return sizeof *profile + profile->arena.reserved;
}
