/*
 * The one door to malloc: counts live bytes and can be told to fail.
 *
 * Live bytes are what malloc_usable_size reports, so a block needs no header of ours and the bill
 * includes the allocator's slack. Both counters are process-wide relaxed atomics: two uncontended
 * additions, 12 ns a call, which is acceptable because the path of a request does not allocate
 * in steady state. Per-thread counters were rejected: they would have to be found again when a
 * thread ends, and a block is often freed by another thread than the one that made it.
 *
 * Any thread. It never logs, aborts or retries: NULL is the answer, and the caller counts it.
 */
#include "base/alloc.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* Relaxed throughout: the values are statistics and test switches, they publish no other memory. */
static _Atomic(int64_t) live_bytes;
static _Atomic(int64_t) calls;
static _Atomic(int64_t) fail_from; /* 0: never; n: call number n and later ones fail */

static bool told_to_fail(void) {
    int64_t call = atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed) + 1;
    int64_t from = atomic_load_explicit(&fail_from, memory_order_relaxed);
    return from > 0 && call >= from;
}

static void count(int64_t bytes) {
    atomic_fetch_add_explicit(&live_bytes, bytes, memory_order_relaxed);
}

static int64_t usable(void *block) {
    return (int64_t)malloc_usable_size(block);
}

void *pom_alloc(size_t size) {
    if (told_to_fail()) {
        return NULL;
    }
    /* C lets malloc(0) be NULL, which our callers would take for no memory. */
    void *block = malloc(size > 0 ? size : 1);
    if (block != NULL) {
        count(usable(block));
    }
    return block;
}

void *pom_calloc(size_t number, size_t size) {
    size_t bytes;
    if (told_to_fail()) {
        return NULL;
    }
    /* calloc checks this too, but the sanitizers' calloc ends the process over it. */
    if (__builtin_mul_overflow(number, size, &bytes)) {
        return NULL;
    }
    void *block = calloc(bytes > 0 ? bytes : 1, 1);
    if (block != NULL) {
        count(usable(block));
    }
    return block;
}

void *pom_realloc(void *block, size_t size) {
    if (told_to_fail()) {
        return NULL;
    }
    int64_t before = block != NULL ? usable(block) : 0;
    /* glibc's realloc(p, 0) frees p and returns NULL: never let a zero through. */
    void *moved = realloc(block, size > 0 ? size : 1);
    if (moved != NULL) {
        count(usable(moved) - before);
    }
    return moved;
}

void pom_free(void *block) {
    if (block == NULL) {
        return;
    }
    count(-usable(block));
    free(block);
}

int64_t pom_alloc_live_bytes(void) {
    return atomic_load_explicit(&live_bytes, memory_order_relaxed);
}

void pom_alloc_fail_from(int64_t n) {
    atomic_store_explicit(&calls, 0, memory_order_relaxed);
    atomic_store_explicit(&fail_from, n, memory_order_relaxed);
}

int64_t pom_alloc_calls(void) {
    return atomic_load_explicit(&calls, memory_order_relaxed);
}
