/*
 * When a destination tells its server what the server did not get, and what it says.
 *
 * Used by destinations/http.c, one a destination. Pure but for the destination's counters: time is
 * a parameter.
 *
 *     pom__self_report_init(&s, every_ns);                    0: never
 *     pom__self_report_begin(&s, now_ns, wall_ns);            once the destination is open
 *     if (pom__self_report_wait_ns(&s, d, now_ns) == 0) {     due
 *         pom__self_report_make(&s, d, wall_ns, &report);
 *         pom__self_report_told(&s, now_ns);                  the server has it
 *     }
 */
#ifndef POM_DESTINATIONS_SELF_REPORT_H
#define POM_DESTINATIONS_SELF_REPORT_H

#include "destinations/destination.h"
#include "profiles/formats/client_report.h"

typedef struct pom__self_report_s {
    int64_t every_ns;
    pom_id_t id; /* zero: not begun */
    int64_t since_wall_ns;
    int64_t next_ns; /* not before */
    int64_t making;  /* what the report under way counts */
    int64_t told;    /* what the last one that arrived counted */
} pom__self_report_t;

void pom__self_report_init(pom__self_report_t *s, int64_t every_ns); /* [any] */

/* A new id and moment, unless it has begun: counters outlive a close. [loop] */
void pom__self_report_begin(pom__self_report_t *s, int64_t now_ns, int64_t wall_ns);

/* 0: due; -1: nothing to tell. [loop] */
int64_t pom__self_report_wait_ns(const pom__self_report_t *s, pom_destination_t *d, int64_t now_ns);

/* The counters of this moment. [loop] */
void pom__self_report_make(pom__self_report_t *s, pom_destination_t *d, int64_t wall_ns,
                           pom_client_report_t *out);

/* The last one made has arrived, or was refused for good. [loop] */
void pom__self_report_told(pom__self_report_t *s, int64_t now_ns);

/* It could not be sent now: the next one comes not sooner than after one that has arrived.
 * [loop] */
void pom__self_report_failed(pom__self_report_t *s, int64_t now_ns);

#endif
