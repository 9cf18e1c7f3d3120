/*
 * The schedule: a multiplicative controller with one state variable, the period.
 *
 * Nearly all of the sampler's cost is waking up (11-27 us against about 1 us for a walk), so cost
 * goes with 1/period and one multiplication lands near the target. A step is clamped to a factor of
 * 2 either way, so that one odd window (an import, a burst) cannot throw the period across its
 * range. Only active time is measured: a process that was idle finds the period it left.
 *
 * The denominator is the process's other CPU time, not wall time: on a machine with idle cores a
 * share of wall time says nothing about the users' bill.
 */
#include "sampler/schedule.h"

#include "base/clock.h"

/* The controller aims below the cap, so that noise around the aim stays under it: of windows of 20
 * ticks one in ten is over. The noise of more ticks is less, as the root of their number, so the
 * aim comes nearer to the cap: 85 % up to some 30 ticks, 92 % with 100, 96 % with 400. */
#define AIM_LEAST_PERCENT 85
#define NOISE_PERCENT     80 /* of one tick, for that */
#define TICKS_MOST        400

/* What is beyond these is taken for these, so that no product below overflows: 13 days of CPU in
 * one window, a period of an hour. */
#define TIME_MAX_NS   (INT64_C(1) << 50)
#define PERIOD_MAX_NS (3600 * POM_NS_PER_S)
#define PPM           INT64_C(1000000)

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

pom_schedule_options_t pom_schedule_options_default(void) {
    return (pom_schedule_options_t){.granularity_ns = 10 * POM_NS_PER_MS, .budget_ppm = 20000};
}

void pom_schedule_configure(pom_schedule_t *schedule, const pom_schedule_options_t *options) {
    bool automatic = options->granularity_ns == 0;
    schedule->finest_ns =
        automatic ? POM_PERIOD_AUTO_NS : clamp(options->granularity_ns, 1, PERIOD_MAX_NS);
    schedule->coarsest_ns =
        schedule->finest_ns > POM_PERIOD_COARSEST_NS ? schedule->finest_ns : POM_PERIOD_COARSEST_NS;
    schedule->budget_ppm = clamp(options->budget_ppm, 0, PPM);
    schedule->period_ns = clamp(schedule->period_ns, schedule->finest_ns, schedule->coarsest_ns);
}

void pom_schedule_init(pom_schedule_t *schedule, const pom_schedule_options_t *options) {
    *schedule = (pom_schedule_t){0};
    // "auto" starts in the middle of its range and finds its place within a few windows.
    schedule->period_ns =
        options->granularity_ns == 0 ? 2 * POM_NS_PER_MS : options->granularity_ns;
    pom_schedule_configure(schedule, options);
}

int64_t pom_schedule_delay(const pom_schedule_t *schedule, uint64_t random) {
    // Uniform in [period/2, 3*period/2).
    return schedule->period_ns / 2 + (int64_t)(random % (uint64_t)schedule->period_ns);
}

int64_t pom_schedule_first_delay(int64_t period_ns, uint64_t random) {
    return (int64_t)(random % (uint64_t)period_ns);
}

static int64_t aim_percent(const pom_schedule_t *schedule, int64_t active_wall_ns) {
    int64_t ticks = active_wall_ns / schedule->period_ns, root = 1;
    while (root * root < TICKS_MOST && (root + 1) * (root + 1) <= ticks) {
        root++;
    }
    int64_t percent = 100 - NOISE_PERCENT / root;
    return percent > AIM_LEAST_PERCENT ? percent : AIM_LEAST_PERCENT;
}

void pom_schedule_update(pom_schedule_t *schedule, int64_t cost_ns, int64_t other_cpu_ns,
                         int64_t active_wall_ns) {
    cost_ns = clamp(cost_ns, 0, TIME_MAX_NS);
    other_cpu_ns = clamp(other_cpu_ns, 0, TIME_MAX_NS);
    int64_t floor_ns = clamp(active_wall_ns, 0, TIME_MAX_NS) / POM_SCHEDULE_FLOOR_DIV;
    int64_t other_ns = other_cpu_ns > floor_ns ? other_cpu_ns : floor_ns;
    if (other_ns < POM_NS_PER_US) {
        return; // nothing ran: nothing to learn
    }
    int64_t allowed_ns = other_ns / 1000 * schedule->budget_ppm / 1000;
    schedule->overhead_ppm = cost_ns * 1000 / (other_ns / 1000 + 1);
    schedule->over_budget = cost_ns > allowed_ns;
    int32_t patience = schedule->period_ns < schedule->coarsest_ns ? POM_SCHEDULE_PATIENCE : 2;
    schedule->over_windows = schedule->over_budget ? schedule->over_windows + 1 : 0;
    schedule->helpless = schedule->over_windows >= patience;
    int64_t aim_ns = allowed_ns * aim_percent(schedule, active_wall_ns) / 100;
    if (aim_ns < 1) {
        aim_ns = 1;
    }
    int64_t period = schedule->period_ns;
    // In units of 1/1024.
    int64_t ratio = clamp(cost_ns * 1024 / aim_ns, 512, 2048);
    schedule->period_ns = clamp(period * ratio / 1024, schedule->finest_ns, schedule->coarsest_ns);
}
