/* The allocator: live bytes, zero sizes, failing on purpose; and the torture that rests on it. */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"

#include <malloc.h>
#include <pthread.h>
#include <string.h>

static void test_alloc_counts_usable_bytes(void **state) {
    int64_t before = pom_alloc_live_bytes();
    char *a = pom_alloc(100);
    char *b = pom_calloc(10, 30);
    assert_non_null(a);
    assert_non_null(b);
    int64_t usable = (int64_t)(malloc_usable_size(a) + malloc_usable_size(b));
    assert_true(usable >= 400);
    assert_int_equal(pom_alloc_live_bytes() - before, usable);
    pom_free(a);
    pom_free(b);
    assert_int_equal(pom_alloc_live_bytes(), before);
}

static void test_alloc_calloc_zeroes(void **state) {
    char *dirty = pom_alloc(4096);
    memset(dirty, 0xff, 4096);
    pom_free(dirty);
    char *block = pom_calloc(64, 64);
    for (int i = 0; i < 4096; i++) {
        assert_int_equal(block[i], 0);
    }
    pom_free(block);
}

static void test_alloc_size_zero_gives_unique_blocks(void **state) {
    void *blocks[] = {pom_alloc(0), pom_alloc(0), pom_calloc(0, 8), pom_calloc(8, 0),
                      pom_realloc(NULL, 0)};
    enum { COUNT = sizeof blocks / sizeof blocks[0] };
    for (int i = 0; i < COUNT; i++) {
        assert_non_null(blocks[i]);
        for (int j = 0; j < i; j++) {
            assert_ptr_not_equal(blocks[i], blocks[j]);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        pom_free(blocks[i]);
    }
}

static void test_alloc_free_accepts_null(void **state) {
    pom_free(NULL);
}

static void test_alloc_calloc_overflow_is_null(void **state) {
    /* Through a volatile, or the compiler warns about what is tested here. */
    volatile size_t many = SIZE_MAX / 2 + 2; /* Twice that is 2. */
    assert_null(pom_calloc(many, 2));
    assert_null(pom_calloc(2, many));
}

static void test_alloc_realloc_keeps_content_and_count(void **state) {
    int64_t before = pom_alloc_live_bytes();
    char *block = pom_realloc(NULL, 8);
    memcpy(block, "content", 8);
    block = pom_realloc(block, 100000);
    assert_string_equal(block, "content");
    assert_int_equal(pom_alloc_live_bytes() - before, malloc_usable_size(block));
    block = pom_realloc(block, 16);
    assert_string_equal(block, "content");
    assert_int_equal(pom_alloc_live_bytes() - before, malloc_usable_size(block));
    block = pom_realloc(block, 0); /* Not a free. */
    assert_non_null(block);
    assert_int_equal(pom_alloc_live_bytes() - before, malloc_usable_size(block));
    pom_free(block);
}

static void test_alloc_failed_realloc_leaves_the_block(void **state) {
    char *block = pom_alloc(8);
    memcpy(block, "content", 8);
    int64_t live = pom_alloc_live_bytes();
    pom_alloc_fail_from(1);
    char *moved = pom_realloc(block, 100000);
    pom_alloc_fail_from(0);
    assert_null(moved);
    assert_string_equal(block, "content");
    assert_int_equal(pom_alloc_live_bytes(), live);
    pom_free(block);
}

static void test_alloc_fails_from_the_nth_call_until_told_otherwise(void **state) {
    pom_alloc_fail_from(3);
    void *a = pom_alloc(1);
    void *b = pom_calloc(1, 1);
    void *c = pom_realloc(NULL, 1);
    void *d = pom_alloc(1);
    void *e = pom_calloc(1, 1);
    int64_t calls = pom_alloc_calls();
    pom_alloc_fail_from(0);
    void *f = pom_alloc(1);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_null(d);
    assert_null(e);
    assert_int_equal(calls, 5);
    assert_non_null(f);
    assert_int_equal(pom_alloc_calls(), 1);
    pom_free(a);
    pom_free(b);
    pom_free(f);
}

static void *allocate_and_free(void *arg) {
    void **kept = arg;
    for (size_t i = 0; i < 5000; i++) {
        pom_free(pom_alloc(i % 300));
    }
    *kept = pom_alloc(1000); /* Freed by the main thread: the count is not per thread. */
    return NULL;
}

static void test_alloc_counts_across_threads(void **state) {
    enum { THREADS = 4 };
    int64_t before = pom_alloc_live_bytes();
    pthread_t threads[THREADS];
    void *kept[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, allocate_and_free, &kept[i]), 0);
    }
    int64_t usable = 0;
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        usable += (int64_t)malloc_usable_size(kept[i]);
    }
    assert_int_equal(pom_alloc_live_bytes() - before, usable);
    for (int i = 0; i < THREADS; i++) {
        pom_free(kept[i]);
    }
}

static bool three_blocks(void *arg) {
    int *runs = arg;
    (*runs)++;
    void *a = pom_alloc(1);
    void *b = a != NULL ? pom_alloc(2) : NULL;
    void *c = b != NULL ? pom_alloc(3) : NULL;
    bool succeeded = c != NULL;
    pom_free(c);
    pom_free(b);
    pom_free(a);
    return succeeded;
}

static void test_torture_runs_once_per_allocation_and_once_more(void **state) {
    int runs = 0;
    assert_int_equal(pom_torture(three_blocks, &runs), 4);
    assert_int_equal(runs, 4);
    assert_no_leak();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_alloc_counts_usable_bytes),
        POM_TEST(test_alloc_calloc_zeroes),
        POM_TEST(test_alloc_size_zero_gives_unique_blocks),
        POM_TEST(test_alloc_free_accepts_null),
        POM_TEST(test_alloc_calloc_overflow_is_null),
        POM_TEST(test_alloc_realloc_keeps_content_and_count),
        POM_TEST(test_alloc_failed_realloc_leaves_the_block),
        POM_TEST(test_alloc_fails_from_the_nth_call_until_told_otherwise),
        POM_TEST(test_alloc_counts_across_threads),
        POM_TEST(test_torture_runs_once_per_allocation_and_once_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
