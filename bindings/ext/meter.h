/*
 * A meter: what one piece of our own work costs on app threads, for the bill.
 *
 * Used around everything that we do in a request. Reading the clock twice would be a tenth of what
 * it measures, so one piece in 16 is timed, and a running mean stands for all.
 *
 *     static pom_meter_t meter = {.cost_ns = 300};      a guess, until measured
 *     int64_t start_ns = pom_meter_start(&meter);
 *     ... the piece ...
 *     pom_meter_stop(&meter, start_ns);
 *     pom_work_charge(&work, meter.cost_ns);            before or after: it is a mean
 *
 * [app] with the GIL: plain fields.
 */
#ifndef POM_EXT_METER_H
#define POM_EXT_METER_H

#include <stdint.h>

#include "base/clock.h"

#define POM_METER_EVERY 16

typedef struct pom_meter_s {
    int64_t cost_ns; /* the mean */
    unsigned turn;
} pom_meter_t;

/* When the piece began; 0 = this one is not timed. */
static inline int64_t pom_meter_start(pom_meter_t *meter) {
    return meter->turn++ % POM_METER_EVERY == 0 ? pom_now_ns() : 0;
}

/* A moving average that a lost core cannot spoil: what took many times as long was not spent by us,
 * but on somebody else's turn. */
static inline void pom_meter_learn(pom_meter_t *meter, int64_t took_ns) {
    int64_t most_ns = 2 * meter->cost_ns + 100;
    meter->cost_ns += ((took_ns < most_ns ? took_ns : most_ns) - meter->cost_ns) / 8;
}

static inline void pom_meter_stop(pom_meter_t *meter, int64_t start_ns) {
    if (start_ns != 0) {
        pom_meter_learn(meter, pom_now_ns() - start_ns);
    }
}

#endif
