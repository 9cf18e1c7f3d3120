/*
 * Parking: a thread sleeps until it is woken or a moment has come, at no cost while it sleeps.
 *
 * Used by the sampler. One futex word; a wake that comes before the wait is not lost. Waking nobody
 * costs one atomic exchange, no system call.
 *
 *     pom_park_t park;
 *     pom_park_init(&park);
 *     pom_park_wait(&park, deadline_ns);    the one owner
 *     pom_park_wake(&park);                 anybody
 *     pom_park_fini(&park);
 *
 * An owner that dozes has no deadline yet: whoever has something for it that can wait sets its
 * alarm, one system call that switches to nobody.
 *
 *     pom_park_doze(&park);                 the one owner
 *     pom_park_alarm(&park, at_ns);         anybody
 */
#ifndef POM_BASE_PARK_H
#define POM_BASE_PARK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define POM_FOREVER INT64_MAX

typedef struct pom_park_s {
    _Atomic(uint32_t) word; /* POM__PARK_EMPTY ... (park.c) */
    _Atomic(int) timer;     /* a timerfd for the alarm; -1 = none could be had; relaxed */
} pom_park_t;

void pom_park_init(pom_park_t *park); /* [any] */

/* Nobody may use it meanwhile. In a forked child at once after the fork, before anybody can have
 * closed the descriptor and opened another by its number. [any] */
void pom_park_fini(pom_park_t *park);

/* Sleeps until woken or until the CLOCK_MONOTONIC moment; true when woken. Consumes the wake. One
 * owner. */
bool pom_park_wait(pom_park_t *park, int64_t deadline_ns);

/* Wakes the owner, or lets its next wait return at once. The park must outlive this call, not only
 * the wait that it ends. [any] */
void pom_park_wake(pom_park_t *park);

/* Sleeps until woken or until the moment that an alarm sets; true when woken. Consumes it. After
 * some seconds without either an alarm is a wake. One owner. */
bool pom_park_doze(pom_park_t *park);

/* Ends the doze under way at the CLOCK_MONOTONIC moment, if it is still without one; the doze that
 * comes next, at once. Of alarms that race with a wake one may go off early, in a later doze.
 * Without a timer, and in a doze of some seconds, the owner is woken now. [any] */
void pom_park_alarm(pom_park_t *park, int64_t at_ns);

#endif
