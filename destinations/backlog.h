/*
 * A backlog: the profiles that wait for one destination, oldest first.
 *
 * Used by the exporter, under its lock. A ring of references that doubles as needed; the
 * exporter keeps the byte budget, which also bounds the ring (a profile weighs some hundred
 * bytes at least).
 *
 *     pom__backlog_init(&b);
 *     pom__backlog_put(&b, profile);        takes ownership of a reference
 *     profile = pom__backlog_take(&b);      returns owned, the oldest
 *     pom__backlog_fini(&b);                releases what is left
 */
#ifndef POM_DESTINATIONS_BACKLOG_H
#define POM_DESTINATIONS_BACKLOG_H

#include "profiles/profile.h"
#include "base/status.h"

typedef struct pom__backlog_s {
    pom_profile_t **slots; /* room of them; NULL while none was needed */
    uint32_t room;         /* a power of two, or 0 */
    uint32_t first;        /* index of the oldest */
    uint32_t count;
    size_t bytes; /* pom_profile_bytes of all */
} pom__backlog_t;

void pom__backlog_init(pom__backlog_t *b);

/* POM_ENOMEM: no place; the reference stays the caller's. */
POM_MUST_USE pom_status_t pom__backlog_put(pom__backlog_t *b, pom_profile_t *profile);

/* The oldest, or NULL when empty. */
pom_profile_t *pom__backlog_take(pom__backlog_t *b);

/* How many of the oldest make one batch: until max_bytes is reached or max_count; at least one
 * unless empty. */
uint32_t pom__backlog_measure(const pom__backlog_t *b, size_t max_bytes, uint32_t max_count);

/* Releases everything; usable as after init. */
void pom__backlog_fini(pom__backlog_t *b);

#endif
