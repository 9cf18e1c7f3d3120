/*
 * Contexts: which request a piece of code belongs to that runs outside of its coroutine.
 *
 * A request of an ASGI application may start asyncio tasks (a TaskGroup, middleware that runs the
 * endpoint in a task of its own). They stand on the event loop's stack, not on the request's, so no
 * walk from them meets its anchor; but they inherit its context. So the request puts its work into
 * a context variable of ours, and the walker asks the running context for it.
 *
 *     pom_context_enter(self);                       [app] in the request's own context
 *     pom_context_anchor(context, view);             [sampler] while it runs
 *
 * It is never taken back: a request that has ended is nobody's, and servers make a context for
 * each, or it is set anew. What stays until then is the small object alone; taking it back cost as
 * much as all the rest of a request's end.
 */
#ifndef POM_EXT_CONTEXT_H
#define POM_EXT_CONTEXT_H

#include <Python.h>

#include <stdint.h>

#include "bindings/ext/works.h"

/* Makes the calling context, and what is copied from it from now on, that of the owner's work;
 * without memory, nobody's. [app] */
void pom_context_enter(PyObject *owner);

/* The index of the anchor whose action's work this context has; -1: none. Within a walk; any
 * address may be asked about. [sampler] */
int pom_context_anchor(uintptr_t context, const pom_slot_view_t *view);

/* Where a context has its variables, and what stands there while it has none. */
extern const size_t pom_context_variables;
extern uintptr_t pom_context_no_variables;

/* The object that entered a context, from a guarded look-up; 0 = nobody. Any address may be asked
 * about. [sampler] */
uintptr_t pom_context_owner(uintptr_t context);

/* The object whose work holds the action, which is attached. [sampler] */
uintptr_t pom_context_owner_of(const pom_action_t *action);

/* That object's work is what the action, which is attached, is held by. [sampler] */
bool pom_context_owns(uintptr_t owner, const pom_action_t *action);

/* The open outermost work that the calling context has; NULL = none; borrowed. [app] */
pom_work_t *pom_context_work(void);

/* The type of all owners, and where in them the work lies. -1 with an exception. */
int pom_context_init(PyTypeObject *owners, size_t work_offset);

#endif
