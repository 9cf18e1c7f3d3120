/*
 * The native walker: captures a thread's Python stack without the GIL.
 *
 * Used by the engine's sampler thread through pom_walker_t, and on app threads (GIL held) for a
 * thread's own stack. Facts about CPython's frames are in layout.h.
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

/* The last frames of a walk that some anchor may remember: when its own is met, they tell where its
 * stack begins. More than these lie between the two only by chance. */
#define POM_NOTED_MAX 8

typedef struct pom_noted_frame_s {
    uintptr_t frame, code;
    int32_t depth; /* of the stack down to it */
} pom_noted_frame_t;

typedef struct pom_noted_s {
    uint32_t count; /* ever */
    pom_noted_frame_t last[POM_NOTED_MAX];
} pom_noted_t;

/* [any] */
static inline void pom_noted_add(pom_noted_t *noted, uintptr_t frame, uintptr_t code,
                                 int32_t depth) {
    noted->last[noted->count++ % POM_NOTED_MAX] =
        (pom_noted_frame_t){.frame = frame, .code = code, .depth = depth};
}

/* How much of a stack is the action's whose anchor has been met as its last frame, at this
 * instruction. [any] */
int32_t pom_noted_depth(const pom_noted_t *noted, const pom_anchor_t *anchor, int32_t lasti,
                        int32_t depth);

/* The innermost Python frame of the calling thread at or above `frame` (0 = current), shims
 * skipped; false: none. [app] with the GIL */
bool pom_own_frame(uintptr_t tstate, uintptr_t frame, pom_own_frame_t *out);

/* The interpreter's frame behind a frame object. [app] with the GIL */
uintptr_t pom_frame_of(uintptr_t frame_object);

/* Whether a walk of a thread's own stack finds what the public API says; a sentence in `why` when
 * not. [app] with the GIL */
bool pom_walker_self_test(uintptr_t tstate, char *why, size_t size);

#endif
