/*
 * Asyncio tasks that a request of ASGI has started and waits for.
 *
 * Used by parked.c: behind a BaseHTTPMiddleware of Starlette, or in Django, the endpoint is a task
 * of its own, and the request's own one waits on something of asyncio's until that has answered.
 * What waits then is the endpoint.
 *
 *     pom_children_begin();                     a tick's looks begin
 *     if (pom_tasks_join(code, awaited))        a request waits for tasks
 *         while ((frame = pom_children_next(action, own, &next)) != 0) ...
 *         pom_children_search(view);            finds more
 */
#ifndef POM_EXT_CHILDREN_H
#define POM_EXT_CHILDREN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "actions/action.h"
#include "sampler/slot.h"

/* What was found is out of date. [sampler] */
void pom_children_begin(void);

/* The coroutine's frame of a task that is known to be the action's, which is attached, and is still
 * the same; not the one at `own`, the request's own. *next is 0 at first. 0: no more. Whether it is
 * suspended is not asked. [sampler] */
uintptr_t pom_children_next(const pom_action_t *action, uintptr_t own, size_t *next);

/* Finds out of more of the thread's tasks whose they are, once in a tick. [sampler] */
void pom_children_search(const pom_slot_view_t *view);

#endif
