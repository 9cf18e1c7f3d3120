/*
 * Route names: what requests are grouped by, few however many URLs there are.
 *
 * Used by request.c at the seal, on the sampler thread.
 *
 *     pom_route_name_t name;
 *     pom_route_name(&name, rule, script_name, path_info, status);   "/item/<int:id>"
 *     pom_route_names_keep(&names, &name);                           "<other>" beyond the cap
 */
#ifndef POM_MIDDLEWARE_ROUTE_NAME_H
#define POM_MIDDLEWARE_ROUTE_NAME_H

#include <stdatomic.h>
#include <stdint.h>

#include "profiles/profile.h"

/* Distinct names of a process; one more is "<other>", so that 10^5 URLs stay 1 000 rows. An
 * application has a few hundred routes; what has more made them of its data. */
#define POM_ROUTES_MAX 1000

/* Bytes of a path that are looked at, and of a rule that are kept. A masked segment can be longer
 * than it was. */
#define POM_ROUTE_PATH_MAX 512
#define POM_ROUTE_NAME_MAX (2 * POM_ROUTE_PATH_MAX)

typedef struct pom_route_name_s {
    size_t size;
    char text[POM_ROUTE_NAME_MAX];
} pom_route_name_t;

/* The names of a process, by hash; all zero is empty. Written by one thread. */
typedef struct pom_route_names_s {
    uint64_t seen[2 * 1024]; /* open addressing at half load; 0 = an empty place */
    /* for whoever asks, any thread: single writer, relaxed, since each stands for itself */
    _Atomic(int64_t) count, others;
} pom_route_names_t;

/* The rule that the framework matched, mount point included; without one "<not found>" for a 404,
 * so that a scan of the web is one row, else the path with masked segments. [any] */
void pom_route_name(pom_route_name_t *name, pom_text_t rule, pom_text_t script_name,
                    pom_text_t path_info, int32_t status);

/* The name stays if it is known or there is room for it, else it becomes "<other>", counted. One
 * thread. */
void pom_route_names_keep(pom_route_names_t *names, pom_route_name_t *name);

/* A path with <id> for each segment that looks like one: numbers, dates and versions; hexadecimal
 * of 8 or more; UUIDs; whatever has five digits in a row, or an @ (an address); 20 or more
 * characters with a digit among them (tokens, slugs with ids). Returns the bytes written, at most
 * room. [any] */
size_t pom_route_mask(const char *path, size_t size, char *out, size_t room);

#endif
