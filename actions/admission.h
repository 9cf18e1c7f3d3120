/*
 * Admission: whether a new outermost action is profiled or shed. Pure: no clock, no thread.
 *
 * Used by the registry. While the product is within its budget, or a longer period may bring it
 * there, everything is admitted. Else at most `allowance` actions may be in flight, and at most as
 * many be newly admitted per cycle (a schedule window); the allowance starts at
 * max_actions_per_run, grows by half each other cycle and is bounded, where the limit ends; a cycle
 * that the schedule calls helpless resets it.
 *
 *     pom_admission_init(&a, max_actions_per_run);
 *     if (pom_admission_admit(&a)) ...            per new outermost action   [app]
 *     pom_admission_leave(&a);                    per end of an admitted one [app]
 *     pom_admission_cycle(&a, helpless);          per window                 [sampler]
 */
#ifndef POM_ACTIONS_ADMISSION_H
#define POM_ACTIONS_ADMISSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* 0 for "no limit"; a bound on growth, so that one cheap day does not make the next overload
 * unlimited. */
#define POM_ADMISSION_GROWTH 64 /* times max_actions_per_run */

typedef struct pom_admission_s {
    /* written by [app] under the interpreter's lock */
    _Atomic(int64_t) in_flight;
    _Atomic(int64_t) admitted; /* in this cycle */
    _Atomic(uint32_t) cycle_seen;
    /* written by the sampler */
    _Atomic(uint32_t) cycle;
    _Atomic(int64_t) allowance; /* 0 = unlimited */
    _Atomic(int64_t) limit;     /* max_actions_per_run; 0 = never shed */
    _Atomic(bool) limited;      /* the fast path: false admits at once */
} pom_admission_t;

void pom_admission_init(pom_admission_t *admission, int64_t max_actions_per_run);

/* A new limit; 0 = never shed. [app] */
void pom_admission_configure(pom_admission_t *admission, int64_t max_actions_per_run);

/* True: admitted, and in flight until leave. 5 ns. [app] */
bool pom_admission_admit(pom_admission_t *admission);
void pom_admission_leave(pom_admission_t *admission); /* [app] */

/* The end of a window. [sampler] */
void pom_admission_cycle(pom_admission_t *admission, bool helpless);

/* Actions that may be in flight now; -1 = unlimited. For the metrics. [any] */
int64_t pom_admission_allowed(const pom_admission_t *admission);

#endif
