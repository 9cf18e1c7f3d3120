/*
 * Back-off: how long to wait before the next attempt.
 *
 * Used by destinations/http.c. Pure: time and randomness are parameters.
 *
 *     pom__backoff_t b = {0};                      as after a success
 *     wait_ns = pom__backoff_next(&b, pom_random_u64());
 *     pom__backoff_reset(&b);                      a success
 *     at_least_ns = pom__retry_after_ns(text, size, pom_wall_ns());
 */
#ifndef POM_DESTINATIONS_BACKOFF_H
#define POM_DESTINATIONS_BACKOFF_H

#include <stddef.h>
#include <stdint.h>

#define POM__BACKOFF_FIRST_NS INT64_C(1000000000)  /* a server restarts in about a second */
#define POM__BACKOFF_CAP_NS   INT64_C(60000000000) /* seen to be back within a minute */

/* Full jitter draws from 0 on; a run of small draws is not to become a spin. */
#define POM__BACKOFF_FLOOR_NS INT64_C(100000000)

/* A hostile or wrong Retry-After must not silence us for a day. */
#define POM__RETRY_AFTER_CAP_NS (INT64_C(3600) * 1000000000)

typedef struct pom__backoff_s {
    uint32_t failures; /* in a row */
} pom__backoff_t;

void pom__backoff_reset(pom__backoff_t *backoff);

/* Counts a failure. Uniform between the floor and a ceiling that doubles from first to cap: many
 * processes that lost the same server do not come back at the same moment. random: 64 uniform bits.
 * [any] */
int64_t pom__backoff_next(pom__backoff_t *backoff, uint64_t random);

/* The value of a Retry-After header: seconds, or a date in one of HTTP's three forms. Nanoseconds
 * from now, 0 for a date in the past, capped; -1: neither. [any] */
int64_t pom__retry_after_ns(const char *text, size_t size, int64_t wall_now_ns);

#endif
