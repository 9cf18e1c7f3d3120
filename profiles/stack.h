/*
 * A captured stack: what a walker hands out.
 *
 * Used by walkers (they fill it), the sampler and the registry. Leaf first, as the walk goes; depth
 * is capped, and what lies between the cap and the anchor is cut at the root side and marked.
 */
#ifndef POM_PROFILES_STACK_H
#define POM_PROFILES_STACK_H

#include <stdbool.h>
#include <stdint.h>

/* Python's own recursion limit is 1000 by default; deeper stacks lose their root side. 16 bytes a
 * frame, one stack for the sampler, so the cap costs 32 KiB once. */
#define POM_STACK_MAX 2048

typedef struct pom_raw_frame_s {
    uintptr_t code; /* key into the code table */
    int32_t lasti;  /* executing instruction in code units, -1 = not started */
} pom_raw_frame_t;

typedef struct pom_stack_s {
    int32_t depth;
    bool truncated;
    pom_raw_frame_t frames[POM_STACK_MAX]; /* leaf first */
} pom_stack_t;

#endif
