/* The pool of blocks: what comes back is taken again, how much is kept, and that blocks may outlive
 * the owner. */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "base/block_pool.h"
#include "base/queue.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#define SIZE 200

static void test_block_pool_takes_first_what_came_back_last(void **state) {
    pom_block_pool_t *pool = pom_block_pool_new(SIZE, 10);
    void *a = pom_block_pool_take(pool), *b = pom_block_pool_take(pool);
    memset(a, 1, SIZE);
    memset(b, 2, SIZE);
    pom_block_pool_give(pool, a);
    pom_block_pool_give(pool, b);
    int64_t calls = pom_alloc_calls();
    assert_null(pom_block_pool_next(pool)); // not at hand yet
    assert_ptr_equal(pom_block_pool_take(pool), b);
    assert_ptr_equal(pom_block_pool_next(pool), a);
    assert_ptr_equal(pom_block_pool_take(pool), a);
    assert_null(pom_block_pool_next(pool));
    assert_int_equal(pom_alloc_calls(), calls);
    memset(a, 3, SIZE); // its memory is all there again
    pom_block_pool_give(pool, a);
    pom_block_pool_give(pool, b);
    pom_block_pool_release(pool);
}

static void test_block_pool_keeps_no_more_than_it_was_told(void **state) {
    int64_t before = pom_alloc_live_bytes();
    pom_block_pool_t *pool = pom_block_pool_new(SIZE, 3);
    int64_t empty = pom_alloc_live_bytes();
    void *blocks[8];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 8; i++) {
            blocks[i] = pom_block_pool_take(pool);
        }
        for (int i = 0; i < 8; i++) {
            pom_block_pool_give(pool, blocks[i]);
        }
        assert_in_range(pom_alloc_live_bytes() - empty, 3 * SIZE, 3 * (SIZE + 32));
    }
    pom_block_pool_release(pool);
    assert_int_equal(pom_alloc_live_bytes(), before);
    pom_block_pool_release(NULL);
}

static void test_block_pool_outlives_its_owner_with_its_last_block(void **state) {
    int64_t before = pom_alloc_live_bytes();
    pom_block_pool_t *pool = pom_block_pool_new(SIZE, 3);
    void *a = pom_block_pool_take(pool), *b = pom_block_pool_take(pool);
    pom_block_pool_release(pool);
    pom_block_pool_give(pool, a);
    memset(b, 7, SIZE);
    assert_true(pom_alloc_live_bytes() > before);
    pom_block_pool_give(pool, b);
    assert_int_equal(pom_alloc_live_bytes(), before);
}

static bool live_a_life(void *arg) {
    (void)arg;
    pom_block_pool_t *pool = pom_block_pool_new(1, 3); // less than a link: made larger
    if (pool == NULL) {
        return false;
    }
    void *a = pom_block_pool_take(pool), *b = pom_block_pool_take(pool);
    bool whole = a != NULL && b != NULL;
    if (a != NULL) {
        pom_block_pool_give(pool, a);
    }
    if (b != NULL) {
        pom_block_pool_give(pool, b);
    }
    pom_block_pool_release(pool);
    return whole;
}

static void test_block_pool_survives_failing_allocations(void **state) {
    assert_int_equal(pom_torture(live_a_life, NULL), 4);
}

/* ---- one taker, two givers ------------------------------------------------------------------- */

#define ROUNDS 20000

typedef struct giver_s {
    pom_block_pool_t *pool;
    pom_queue_t todo;
    _Atomic(bool) end;
    int64_t faults;
} giver_t;

typedef struct block_s {
    pom_link_t link;
    int64_t number, twice;
} block_t;

static void *give_all(void *arg) {
    giver_t *self = arg;
    for (;;) {
        bool end = atomic_load(&self->end); // before the look, so that nothing comes after it
        pom_link_t *link = pom_queue_take_all(&self->todo);
        if (link == NULL && end) {
            return NULL;
        }
        while (link != NULL) {
            block_t *block = POM_CONTAINER(link, block_t, link);
            link = link->next;
            self->faults += block->twice != 2 * block->number;
            pom_block_pool_give(self->pool, block);
        }
        (void)sched_yield();
    }
}

static void test_block_pool_is_shared_by_one_taker_and_many_givers(void **state) {
    pom_block_pool_t *pool = pom_block_pool_new(sizeof(block_t), 16);
    giver_t givers[2] = {{.pool = pool}, {.pool = pool}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        pom_queue_init(&givers[i].todo);
        assert_int_equal(pthread_create(&threads[i], NULL, give_all, &givers[i]), 0);
    }
    for (int64_t n = 0; n < ROUNDS; n++) {
        block_t *block = pom_block_pool_take(pool);
        block->number = n;
        block->twice = 2 * n;
        (void)pom_queue_push(&givers[n % 2].todo, &block->link);
        if (n % 50 == 0) {
            (void)sched_yield();
        }
    }
    pom_block_pool_release(pool); // while they still give
    for (int i = 0; i < 2; i++) {
        atomic_store(&givers[i].end, true);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(givers[i].faults, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_block_pool_takes_first_what_came_back_last),
        POM_TEST(test_block_pool_keeps_no_more_than_it_was_told),
        POM_TEST(test_block_pool_outlives_its_owner_with_its_last_block),
        POM_TEST(test_block_pool_survives_failing_allocations),
        POM_TEST(test_block_pool_is_shared_by_one_taker_and_many_givers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
