/*
 * What a switched-out action waits in; the `parked` of the native walker.
 */
#ifndef POM_EXT_PARKED_H
#define POM_EXT_PARKED_H

#include "sampler/walker.h"

pom_status_t pom_walk_parked(pom_walker_t *self, const pom_slot_view_t *view, uint32_t anchor,
                             pom_stack_t *stack, int64_t *helped_ns);

/* The frame lies in a coroutine of the interpreter's own type. Any address may be asked about.
 * [sampler] */
bool pom_frame_is_coroutine(uintptr_t frame);

#endif
