/*
 * Greenlets that are switched out.
 *
 * Used by parked.c for actions whose anchor is an ordinary frame: another greenlet runs on their
 * thread.
 *
 *     if (!pom_greenlet_runs(state, frame))
 *         status = pom_greenlet_stack(view, &anchor->at, false, stack);
 */
#ifndef POM_EXT_GREENLETS_H
#define POM_EXT_GREENLETS_H

#include <stdbool.h>
#include <stdint.h>

#include "sampler/walker.h"

/* Whether an ordinary frame lies in a stack chunk that the thread has now: it runs, or it has
 * returned. Unknown counts as yes: no claim is made then. [sampler] */
bool pom_greenlet_runs(uintptr_t state, uintptr_t frame);

/* The frames from this one on (`above`: without it) to the one that has switched away, leaf first.
 * POM_ENOTFOUND: the frame runs or has returned, none above it is known to be alive, or it is too
 * far away. Any address may be asked about. [sampler] */
pom_status_t pom_greenlet_stack(const pom_slot_view_t *view, const pom_frame_id_t *from, bool above,
                                pom_stack_t *stack);

#endif
