/*
 * What the kernel writes into a thread's own memory when it switches: restartable sequences,
 * rseq(2), which glibc registers for each thread from 2.35 on.
 *
 * Two things of it are used: the number of the thread's CPU, and that a switch takes away the mark
 * of a critical section. So whether a thread has run without a break is told by one load, where to
 * count its switches is a system call.
 *
 *     pom_rseq_init();                                      once an engine starts
 *     int64_t switches = 0;
 *     if (pom_rseq_ran_on(&switches)) ...                   not switched out since it was asked
 * last
 */
#ifndef POM_BASE_RSEQ_H
#define POM_BASE_RSEQ_H

#include <stdbool.h>
#include <stdint.h>

/* Finds what there is, and tries on the calling thread whether the kernel takes marks away, for
 * which it sleeps for a moment (60 us), the first time only. Before it, and where there is nothing,
 * the functions below do without. [any] */
void pom_rseq_init(void);

/* Whether the calling thread has not been switched out, of its own will or not, since it was asked
 * the last time. `switches`, the caller's, 0 at first, is one thread's, and no thread has two. A
 * false "no" comes with a signal and at first; a "yes" is true. 2 ns, or by getrusage() 0.2 to
 * 0.4 us: that does not make the kernel see whether the thread's slice is over, as reading its CPU
 * clock does. Async-signal-safe. [any] */
bool pom_rseq_ran_on(int64_t *switches);

/* Where the number of the calling thread's CPU stands, an int32_t which the kernel keeps as long as
 * the thread lives; 0 = nowhere. [any] */
uintptr_t pom_rseq_cpu(void);

#endif
