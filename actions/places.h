/*
 * A sampled stack as places: code and line, root first, without the interpreter's own helper
 * frames.
 *
 * Used by registry.c, one a registry, which zeroes it.
 *
 *     places->codes = codes;
 *     if (pom__places_resolve(places, stack, epoch) == POM_OK) {
 *         pom_tree_add(&tree, places->stack, places->depth, &weight);
 *     }
 */
#ifndef POM_ACTIONS_PLACES_H
#define POM_ACTIONS_PLACES_H

#include "profiles/call_tree.h"
#include "profiles/code_table.h"
#include "sampler/sampler.h"

typedef struct pom__known_frame_s {
    uintptr_t key;    /* 0 = none */
    pom_code_t *code; /* NULL = never shown */
    int32_t lasti, line;
} pom__known_frame_t;

/* Sampler thread, but for codes, which is constant. */
typedef struct pom__places_s {
    pom_code_table_t *codes; /* borrowed */
    int32_t known_depth;
    uint64_t known_removals;          /* the code table's, while known is good */
    pom_place_t stack[POM_STACK_MAX]; /* of the stack resolved last */
    int32_t depth;
    pom__known_frame_t known[POM_STACK_MAX]; /* of the last stacks, root first */
} pom__places_t;

/* POM_ENOTFOUND: a code died under our eyes, POM_ETORN: what a frame has for a code is none; the
 * stack must not be counted. epoch: the code table's before the walk. [sampler] */
pom_status_t pom__places_resolve(pom__places_t *p, const pom_stack_t *stack, uint64_t epoch);

#endif
