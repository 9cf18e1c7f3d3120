/*
 * Frames that lie in the heap, copied many at a time.
 *
 * Used by walker.c for coroutines and generators, and what calls them. A copy is a system call, of
 * 0.5 to 1.6 us, and a request of Starlette is some ten coroutines that await each other before its
 * endpoint awaits any: one by one twenty took longer to read than code that works for 10 us between
 * two awaits runs, and it was hardly seen. Who called a frame in the heap is mostly who called it
 * when it was last seen (objects of the same kind take each other's places), so those are copied
 * with it, side by side, in one call.
 *
 *     pom_heap_frames_t heap;
 *     pom_heap_frames_begin(&heap);
 *     const unsigned char *head = pom_heap_frame(&heap, frame);
 *     if (pom_heap_frame_holds(&heap, &call, true)) ...
 *
 * Any thread may, each with its own object; what is remembered is shared, and is but a hint.
 */
#ifndef POM_EXT_HEAP_FRAMES_H
#define POM_EXT_HEAP_FRAMES_H

#include "bindings/ext/layout.h"

#include <stdbool.h>
#include <stddef.h>

/* Of one copy; what is longer begins another. */
#define POM_HEAP_FRAMES_MAX 30

typedef struct pom_heap_frames_s {
    size_t count; /* copied, each twice */
    size_t given; /* of these */
    uintptr_t at[POM_HEAP_FRAMES_MAX];
    uintptr_t heads[2 * POM_HEAP_FRAMES_MAX][POM_FRAME_COPY / 8];
} pom_heap_frames_t;

void pom_heap_frames_begin(pom_heap_frames_t *h);

/* The front of the frame, POM_FRAME_COPY bytes, until the next call; NULL: it cannot be read. The
 * address is a multiple of 8. */
const unsigned char *pom_heap_frame(pom_heap_frames_t *h, uintptr_t frame);

/* The same of the caller of the frame just given, wherever that lies, if it was copied with it;
 * else NULL. */
const unsigned char *pom_heap_frame_caller(pom_heap_frames_t *h, uintptr_t frame);

/* What a walk has read of a frame in the heap, and of the next one that is Python's: its caller, or
 * what that one, the interpreter's entry from C, leads to. */
typedef struct pom_heap_call_s {
    uintptr_t frame, code, caller;
    uintptr_t next, next_code;
} pom_heap_call_t;

/* Whether the frame still had that code and caller when the next one had been read: by the second
 * copy where both were copied together, else by one more, in which the next one is to have its code
 * as well; or true when `anew` does not ask for that. */
bool pom_heap_frame_holds(const pom_heap_frames_t *h, const pom_heap_call_t *call, bool anew);

#endif
