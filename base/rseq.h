/*
 * What the kernel writes into a thread's own memory when it switches: restartable sequences,
 * rseq(2), which glibc registers for each thread from 2.35 on.
 *
 * Two things of it are used: the number of the thread's CPU, and that a switch takes away the mark
 * of a critical section. So whether a thread has run without a break is told by one load, where to
 * count its switches is a system call.
 *
 *     pom_rseq_init();
 *     pom_rseq_asker_t asker = {0};
 *     if (pom_rseq_ran_on(&asker)) ...     not switched out since it last asked
 */
#ifndef POM_BASE_RSEQ_H
#define POM_BASE_RSEQ_H

#include <stdbool.h>
#include <stdint.h>

/* Who asks about a thread. All 0: has not asked yet. */
typedef struct pom_rseq_asker_s {
    int64_t switches; /* where they are counted: how many there were */
    uint32_t section; /* where the kernel tells: whose mark is its, from 1 on */
} pom_rseq_asker_t;

/* Finds what there is, and tries on the calling thread whether the kernel takes marks away, for
 * which it sleeps for some moments (0.2 ms), the first time only. Before it, and where there is
 * nothing, the functions below do without. [any] */
void pom_rseq_init(void);

/* Whether the calling thread has not been switched out, of its own will or not, since this asker
 * asked the last time. A "yes" is true, as long as an asker asks on one thread and a thread has few
 * of them (they share 16 marks); a "no" is false at first, after a signal, and where somebody else
 * uses rseq. 2 ns, or by getrusage() 0.2 to 0.4 us: that does not make the kernel see whether the
 * thread's slice is over, as reading its CPU clock does. [any] */
bool pom_rseq_ran_on(pom_rseq_asker_t *asker);

/* Where the number of the calling thread's CPU stands, an int32_t which the kernel keeps as long as
 * the thread lives; 0 = nowhere. [any] */
uintptr_t pom_rseq_cpu(void);

#endif
