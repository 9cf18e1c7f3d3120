/*
 * The pool: a queue of what was given back, and the taker's own list of what it found there.
 *
 *     take <- at_hand <- (all at once) <- given <- give
 *
 * References: the owner's, and one for each block that is out. Whoever drops the last, the owner or
 * a late giver, frees everything, so a block may outlive its owner without anybody waiting. What
 * `kept` says may be too low for an instant by the givers that are between their look and their
 * push: the limit is for memory's sake, and a few blocks more are no harm.
 *
 * A forked child has the taker's list as it was, perhaps in the middle of a take; the thread that
 * took is not there, so the block in its hands is nobody's, and is taken again or lost.
 */
#include "base/block_pool.h"

#include "base/alloc.h"
#include "base/queue.h"

/* Under ASan what is kept is as forbidden as what is freed, but for the link. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define HIDE(block, size)                                                                          \
    ASAN_POISON_MEMORY_REGION((char *)(block) + sizeof(pom_link_t), (size) - sizeof(pom_link_t))
#define SHOW(block, size) ASAN_UNPOISON_MEMORY_REGION(block, size)
#else
#define HIDE(block, size) ((void)(block), (void)(size))
#define SHOW(block, size) HIDE(block, size)
#endif

struct pom_block_pool_s {
    /* constant after new */
    size_t size;
    int64_t most;
    /* taker */
    pom_link_t *at_hand;
    char apart_from_taker[64];
    /* atomic */
    pom_queue_t given;
    _Atomic(int64_t) kept; /* in both lists; relaxed, a statistic */
    _Atomic(int64_t) refs;
};

static void free_list(pom_link_t *link, size_t size) {
    while (link != NULL) {
        pom_link_t *next = link->next;
        SHOW(link, size);
        pom_free(link);
        link = next;
    }
}

static void unref(pom_block_pool_t *pool) {
    // Acquire and release pair with each other: who frees does so after every giver's push.
    if (atomic_fetch_sub_explicit(&pool->refs, 1, memory_order_acq_rel) == 1) {
        free_list(pool->at_hand, pool->size);
        free_list(pom_queue_take_all_unordered(&pool->given), pool->size);
        pom_free(pool);
    }
}

pom_block_pool_t *pom_block_pool_new(size_t size, int64_t most) {
    pom_block_pool_t *pool = pom_calloc(1, sizeof *pool);
    if (pool == NULL) {
        return NULL;
    }
    pool->size = size < sizeof(pom_link_t) ? sizeof(pom_link_t) : size;
    pool->most = most;
    pom_queue_init(&pool->given);
    atomic_init(&pool->refs, 1);
    return pool;
}

void *pom_block_pool_take(pom_block_pool_t *pool) {
    if (pool->at_hand == NULL) {
        pool->at_hand = pom_queue_take_all_unordered(&pool->given);
    }
    pom_link_t *link = pool->at_hand;
    if (link != NULL) {
        pool->at_hand = link->next;
        SHOW(link, pool->size);
        atomic_fetch_sub_explicit(&pool->kept, 1, memory_order_relaxed);
    } else {
        link = pom_alloc(pool->size);
        if (link == NULL) {
            return NULL;
        }
    }
    // Relaxed: the owner's own reference keeps the count above zero.
    atomic_fetch_add_explicit(&pool->refs, 1, memory_order_relaxed);
    return link;
}

const void *pom_block_pool_next(const pom_block_pool_t *pool) {
    return pool->at_hand;
}

void pom_block_pool_give(pom_block_pool_t *pool, void *block) {
    if (atomic_load_explicit(&pool->kept, memory_order_relaxed) < pool->most) {
        atomic_fetch_add_explicit(&pool->kept, 1, memory_order_relaxed);
        HIDE(block, pool->size);
        (void)pom_queue_push(&pool->given, block);
    } else {
        pom_free(block);
    }
    unref(pool);
}

void pom_block_pool_release(pom_block_pool_t *pool) {
    if (pool != NULL) {
        unref(pool);
    }
}
