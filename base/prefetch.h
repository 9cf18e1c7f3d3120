/*
 * Asking for a cache line that is about to be written.
 *
 * Used where memory comes back from another core. A line that the other core has written arrives as a copy that may only be read, unless
 * it is asked for to be written: the first write then waits for a second trip between the cores, and the next atomic operation
 * waits for all such writes. Compilers give out the plain read form on x86-64, as the first processors had no other;
 * to those the write form is a no-op.
 */
#ifndef POM_BASE_PREFETCH_H
#define POM_BASE_PREFETCH_H

/* A hint for the line at the address: never faults, never waits. [any] */
static inline void pom_prefetch_write(const void *address) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address));
#else
    __builtin_prefetch(address, 1, 3);
#endif
}

#endif
