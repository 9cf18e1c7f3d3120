/*
 * The allocator: the only door to malloc below the bindings.
 *
 * Used by every folder. It counts live bytes (the memory bill in stats()) and can be told to fail,
 * which is how every unit program is run failing allocation 1, 2, 3 ... n.
 *
 *     char *p = pom_alloc(64);     returns owned, NULL only for no memory
 *     p = pom_realloc(p, 128);     as realloc: on NULL the old block still stands
 *     pom_free(p);                 accepts NULL
 */
#ifndef POM_BASE_ALLOC_H
#define POM_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/* All [any]. NULL only for no memory; size 0 gives a unique block that may be freed. */
void *pom_alloc(size_t size);
void *pom_calloc(size_t count, size_t size); /* NULL too when count * size overflows. */
void *pom_realloc(void *block, size_t size);
void pom_free(void *block);

/* Bytes now allocated through this door, allocator slack included. [any] */
int64_t pom_alloc_live_bytes(void);

/* Test seam: the n-th allocation from now (1 = the next) and every one after it fails; 0 ends that.
 * Not for use while other threads allocate. */
void pom_alloc_fail_from(int64_t n);

/* Test seam: allocations asked for since the last pom_alloc_fail_from(). */
int64_t pom_alloc_calls(void);

#endif
