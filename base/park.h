/*
 * Parking: a thread sleeps until it is woken or a moment has come, at no cost while it sleeps.
 *
 * Used by the sampler (parked while the process is idle) and the waits with a deadline. One futex
 * word; a wake that comes before the wait is not lost. Waking nobody costs one atomic exchange, no
 * system call.
 *
 *     pom_park_t park;
 *     pom_park_init(&park);
 *     pom_park_wait(&park, deadline_ns);    the one owner
 *     pom_park_wake(&park);                 anybody
 */
#ifndef POM_BASE_PARK_H
#define POM_BASE_PARK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define POM_FOREVER INT64_MAX

typedef struct pom_park_s {
    _Atomic(uint32_t) word; /* POM__PARK_EMPTY, _SLEEPING, _NOTIFIED (park.c) */
} pom_park_t;

void pom_park_init(pom_park_t *park); /* [any] */

/* Sleeps until woken or until the CLOCK_MONOTONIC moment; true when woken. Consumes the wake. One
 * owner. */
bool pom_park_wait(pom_park_t *park, int64_t deadline_ns);

/* Wakes the owner, or lets its next wait return at once. The park must outlive this call, not only
 * the wait that it ends. [any] */
void pom_park_wake(pom_park_t *park);

#endif
