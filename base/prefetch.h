/*
 * Asking for memory ahead of its use, where it comes from another core or has not been used for a
 * second: a cache miss costs 60 to 100 ns, and misses that are asked for together are waited for
 * once.
 *
 * To read and to write are two things. A line that the other core has written arrives as a copy
 * that may only be read, unless it is asked for to be written: the first write then waits for a
 * second trip between the cores, and the next atomic operation waits for all such writes. Compilers
 * give out the plain read form on x86-64, as the first processors had no other; to those the write
 * form is a no-op.
 */
#ifndef POM_BASE_PREFETCH_H
#define POM_BASE_PREFETCH_H

#include <stddef.h>

/* A hint for the line at the address: never faults, never waits. [any] */
static inline void pom_prefetch_write(const void *address) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address));
#else
    __builtin_prefetch(address, 1, 3);
#endif
}

/* The same of all lines of a piece of memory, to be written. */
static inline void pom_prefetch_write_all(const void *from, size_t size) {
    for (size_t at = 0; at < size; at += 64) {
        pom_prefetch_write((const char *)from + at);
    }
}

/* The same, to be read. */
static inline void pom_prefetch_read_all(const void *from, size_t size) {
    for (size_t at = 0; at < size; at += 64) {
        __builtin_prefetch((const char *)from + at, 0, 3);
    }
}

#endif
