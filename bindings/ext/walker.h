/*
 * The native walker: captures a thread's Python stack without the GIL.
 *
 * Used by the engine's sampler thread through pom_walker_t, and on app threads (GIL held) for a thread's own
 * stack. Facts about CPython's frames are in layout.h.
 */
#ifndef POM_EXT_WALKER_H
#define POM_EXT_WALKER_H

#include "sampler/walker.h"

/* One for the process. [any] */
pom_walker_t *pom_native_walker(void);

/* A frame as an app thread sees its own. */
typedef struct pom_own_frame_s {
    uintptr_t frame, code, previous;
    int32_t lasti;
    bool generator; /* lives in a generator or coroutine, not on the thread's stack */
} pom_own_frame_t;

/* The innermost Python frame of the calling thread at or above `frame` (0 = current), shims skipped; false: none. [app] with
 * the GIL */
bool pom_own_frame(uintptr_t tstate, uintptr_t frame, pom_own_frame_t *out);

/* The interpreter's frame behind a frame object. [app] with the GIL */
uintptr_t pom_frame_of(uintptr_t frame_object);

/* Whether a walk of a thread's own stack finds what the public API says; a sentence in `why` when not. [app] with the GIL */
bool pom_walker_self_test(uintptr_t tstate, char *why, size_t size);

#endif
