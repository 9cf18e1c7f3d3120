/*
 * The schedule: from what sampling costs and may cost to when to look next. Pure: no clock, no
 * thread.
 *
 * Used by the sampler thread. Every POM_SCHEDULE_WINDOW_NS of active time it is told the cost of
 * that window and the process's other CPU time, and moves the period so that cost / other stays at
 * the budget:
 *
 *     period' = period * cost / (budget * other),  within a factor of 2 a step
 *
 *     pom_schedule_init(&s, &options);
 *     delay = pom_schedule_delay(&s, pom_random_u64());       per tick
 *     pom_schedule_update(&s, cost_ns, other_ns, active_ns);  per window
 *
 * [sampler] only.
 */
#ifndef POM_SAMPLER_SCHEDULE_H
#define POM_SAMPLER_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

/* Long enough that a tick more or less (one in 20 at 10 ms) does not swing the period, short enough
 * to be back under the budget within 2 s after a load that costs three times as much (one halving a
 * window). */
#define POM_SCHEDULE_WINDOW_NS INT64_C(200000000)

#define POM_PERIOD_AUTO_NS                                                                         \
    INT64_C(500000) /* finest period of "auto": below it wake-ups alone cost 3 % */
#define POM_PERIOD_COARSEST_NS                                                                     \
    INT64_C(50000000) /* so that a slow request gets samples under any load */

/* So many windows in a row over the budget, a second, and the period is given up as the remedy; at
 * its coarsest, which leaves nothing to try, two: one alone is chance. Of the 2 s in which three
 * times the cost must be within the budget again, that leaves one for admission. */
#define POM_SCHEDULE_PATIENCE 5

/* The share of active wall time that counts as other CPU time at least: a process that only waits
 * for I/O uses next to no CPU, and would otherwise never be sampled. At 2 % budget and 50 us a
 * wake-up, which is what it takes where nothing else keeps the caches warm, this floor alone
 * affords a period of 25 ms, and at the coarsest half of it is left to requests and delivery. */
#define POM_SCHEDULE_FLOOR_DIV 10

typedef struct pom_schedule_options_s {
    int64_t granularity_ns; /* finest period; 0 = "auto" */
    int64_t budget_ppm;     /* allowed cost, millionths of the other CPU time */
} pom_schedule_options_t;

typedef struct pom_schedule_s {
    int64_t finest_ns, coarsest_ns;
    int64_t budget_ppm;
    int64_t period_ns;
    int64_t overhead_ppm; /* of the last window */
    bool over_budget;     /* the last window cost more than the budget */
    int32_t over_windows; /* so many in a row did */
    bool helpless; /* and a longer period has not mended it: fewer actions must be profiled */
} pom_schedule_t;

pom_schedule_options_t pom_schedule_options_default(void);
void pom_schedule_init(pom_schedule_t *schedule, const pom_schedule_options_t *options);

/* New options; the period is kept where it still lies within the new bounds. */
void pom_schedule_configure(pom_schedule_t *schedule, const pom_schedule_options_t *options);

/* The next delay: the period with +-50 % jitter, so that it cannot walk in step with the program's
 * own timers. */
int64_t pom_schedule_delay(const pom_schedule_t *schedule, uint64_t random);

/* The first delay after an idle time: uniform below the period, as if sampling had never paused.
 * Half a period at least, as above, would mean that a short action which meets an idle process is
 * never seen. */
int64_t pom_schedule_first_delay(int64_t period_ns, uint64_t random);

/* The end of a window. All >= 0. */
void pom_schedule_update(pom_schedule_t *schedule, int64_t cost_ns, int64_t other_cpu_ns,
                         int64_t active_wall_ns);

#endif
