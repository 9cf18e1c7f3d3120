/*
 * Names to addresses without waiting.
 *
 * Used by destinations/http_connection.c.
 *
 *     lookup = pom__lookup_new(&async, "collector.example", 443);
 *     ... on async: if (pom__lookup_done(lookup, &addresses)) ...
 *     pom__lookup_free(lookup);    any time; a hanging resolver is left to itself
 */
#ifndef POM_DESTINATIONS_RESOLVER_H
#define POM_DESTINATIONS_RESOLVER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define POM__ADDRESSES_MAX 8 /* tried one after the other within one timeout */

typedef struct pom__addresses_s {
    uint32_t count; /* 0: `error` says why */
    struct sockaddr_storage all[POM__ADDRESSES_MAX];
    char error[128];
} pom__addresses_t;

typedef struct pom__lookup_s pom__lookup_t;

/* The one behind `failed` comes first, and failed last; as they are when it is not among them.
 * [any] */
void pom__addresses_begin_behind(pom__addresses_t *a, const struct sockaddr_storage *failed);

/* A numeric address, which needs nobody's answer. False: it is a name. [loop] */
bool pom__resolve_numeric(const char *host, uint16_t port, pom__addresses_t *out);

/* Starts a thread that ends by async (borrowed until free). NULL: no memory or thread, or eight
 * lookups hang already. [loop] */
pom__lookup_t *pom__lookup_new(uv_async_t *async, const char *host, uint16_t port);

/* False: not yet. [loop] */
bool pom__lookup_done(pom__lookup_t *lookup, pom__addresses_t *out);

/* The async is not touched any more. [loop], accepts NULL */
void pom__lookup_free(pom__lookup_t *lookup);

/* In a forked child: the parent's lookups do not count. [app] */
void pom__resolver_after_fork(void);

#endif
