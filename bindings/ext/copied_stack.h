/*
 * The stack of a thread that may end at any moment, by guarded copies alone.
 *
 * Used by helpers.c for threads without an action of their own: nothing keeps their state, their
 * chunks or their C stack, as a slot does for the walker.
 *
 *     pom_thread_copy(state, front, &thread);          what a copy of its state says
 *     depth = pom_copied_stack(&thread, starter, &stack); the frames that run for somebody
 */
#ifndef POM_EXT_COPIED_STACK_H
#define POM_EXT_COPIED_STACK_H

#include <stddef.h>
#include <stdint.h>

#include "profiles/stack.h"

/* A thread's state as one copy of it shows it. Any word may be garbage. */
typedef struct pom_thread_copy_s {
    uintptr_t state, next, interp;
    uintptr_t context;
    uintptr_t current;           /* where the pointer to its current frame lies */
    uintptr_t chunk, top, limit; /* its newest stack chunk, and of that what is used, and its end */
    int32_t tid;                 /* the kernel's id of it */
} pom_thread_copy_t;

/* From a copy of the first POM_TSTATE_FRONT bytes of the state. */
void pom_thread_copy(uintptr_t state, const unsigned char *front, pom_thread_copy_t *out);

/* The thread's Python frames, leaf first, without those of the pool: what lies below the first call
 * from C, counted from the thread's start. A call from C that the code `starter` made does not
 * count (0 = none). Returns the depth. 0: there are none, it has left the context it had, it has
 * ended, or it never held still. Some five copies where it waits. [sampler] */
int32_t pom_copied_stack(const pom_thread_copy_t *thread, uintptr_t starter, pom_stack_t *stack);

#endif
