/*
 * 128-bit ids (task ids), as RFC 9562 UUIDs of version 4.
 *
 * Used by actions and middleware. Random, not secret: xoshiro256** seeded from getrandom(2) per
 * thread, seeded anew in a forked child (the generation counter), so that parent and child never
 * hand out the same id. About 5 ns an id.
 */
#ifndef POM_BASE_ID_H
#define POM_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POM_ID_TEXT 36 /* characters of the dashed form, without NUL */

typedef struct pom_id_s {
    uint64_t hi, lo;
} pom_id_t;

/* A fresh version 4 UUID. [any] */
pom_id_t pom_id_new(void);

/* Uniform 64 random bits of the same generator. [any] */
uint64_t pom_random_u64(void);

/* Called in the forked child: every thread's generator is seeded again at its next use. [any] */
void pom_id_after_fork(void);

/* Dashed lower-case form, 36 characters, no NUL. [any] */
void pom_id_format(pom_id_t id, char out[POM_ID_TEXT]);

/* Accepts 32 hex digits, or 36 characters with dashes at 8, 13, 18, 23; any case. [any] */
bool pom_id_parse(const char *text, size_t size, pom_id_t *out);

#endif
