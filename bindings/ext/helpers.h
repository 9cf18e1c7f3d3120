/*
 * Threads that work for a request of ASGI while it waits for them.
 *
 * A synchronous endpoint, asyncio.to_thread() and sync_to_async() run their function in a thread of
 * a pool, in a copy of the request's context, and the request's coroutine waits. Used by parked.c,
 * so that the function's lines stand below the line that waits.
 *
 *     pom_helpers_begin(walker, slots);             a tick's looks at what waits begin
 *     depth = pom_helpers_stack(anchor, stack);     for each one that waits
 */
#ifndef POM_EXT_HELPERS_H
#define POM_EXT_HELPERS_H

#include "sampler/walker.h"

/* Forgets what was found; costs nothing. The `parked_begin` of the native walker. [sampler] */
void pom_helpers_begin(pom_walker_t *self, const pom_slots_t *slots);

/* Puts the frames of a thread that works for the anchor's action into the empty stack, leaf first,
 * and returns how many; 0: none works for it, or it is no request of ASGI. Of several each gets its
 * turn. *helped_ns: when that thread has a CPU, the CPU time that it used since it was last met
 * with one; POM_WALK_UNHELPED: for sure there is none. The first call of a tick that is about a
 * request lists the threads. [sampler] */
int32_t pom_helpers_stack(const pom_anchor_t *anchor, pom_stack_t *stack, int64_t *helped_ns);

/* Looks whether this interpreter's threads and contexts lie where they should; else they are not
 * looked at. At each start, [app] with the GIL and without a sampler. */
void pom_helpers_check(void);

/* Why they are not looked at, as the check found; NULL: they are. [app] */
const char *pom_helpers_reason(void);

#endif
