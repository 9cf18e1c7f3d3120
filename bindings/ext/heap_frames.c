/*
 * What called a frame last time is kept in a table of addresses, one place for each hash: a newer
 * frame takes an older one's. Nothing in it is believed. It says what to copy; what the copy says
 * is followed, and where that leads elsewhere a new copy begins there.
 *
 *     parts:   a b c d | a b c d      a's caller is b, as it was last time, ...
 *
 * The second half tells whether a still had its caller when that had been read: a generator that is
 * left forgets it.
 */
#include "bindings/ext/heap_frames.h"

#include <stdatomic.h>
#include <string.h>

#include "base/hash.h"
#include "bindings/ext/memory.h"

#define PLACES_BITS 10

_Static_assert(2 * POM_HEAP_FRAMES_MAX <= POM_MEMORY_PARTS_MAX, "all in one copy");

/* Relaxed: a pair that two threads have mixed up is one more wrong guess. */
static struct { _Atomic(uintptr_t) frame, caller; } places[1 << PLACES_BITS];

static size_t place_of(uintptr_t frame) {
    return pom_hash_place(frame, PLACES_BITS);
}

static void remember(uintptr_t frame, uintptr_t caller) {
    size_t i = place_of(frame);
    if (atomic_load_explicit(&places[i].frame, memory_order_relaxed) != frame ||
        atomic_load_explicit(&places[i].caller, memory_order_relaxed) != caller) {
        atomic_store_explicit(&places[i].frame, frame, memory_order_relaxed);
        atomic_store_explicit(&places[i].caller, caller, memory_order_relaxed);
    }
}

/* The frame has been met in the heap; *caller is what called it then. */
static bool is_known(uintptr_t frame, uintptr_t *caller) {
    size_t i = place_of(frame);
    *caller = atomic_load_explicit(&places[i].caller, memory_order_relaxed);
    return atomic_load_explicit(&places[i].frame, memory_order_relaxed) == frame;
}

static uintptr_t code_in(const uintptr_t *head) {
    return head[POM_FRAME_CODE / 8] & POM_REF_MASK;
}

static uintptr_t caller_in(const uintptr_t *head) {
    return head[POM_FRAME_PREVIOUS / 8];
}

/* From this frame on, as far as is known, and with what called the last of them from a chunk or the
 * C stack; those that could be copied twice. A frame alone is not: it is looked at again later. */
static void copy_from(pom_heap_frames_t *h, uintptr_t frame) {
    pom_memory_part_t parts[2 * POM_HEAP_FRAMES_MAX];
    size_t count = 0;
    uintptr_t caller;
    h->at[count++] = frame;
    while (is_known(frame, &caller) && caller != 0 && count < POM_HEAP_FRAMES_MAX) {
        frame = caller;
        h->at[count++] = frame;
    }
    for (size_t i = 0; i < 2 * count; i++) {
        parts[i] = (pom_memory_part_t){h->at[i % count], POM_FRAME_COPY};
    }
    h->given = 0;
    h->count = count == 1 || pom_memory_gather(parts, 2 * count, h->heads) < 2 * count ? 0 : count;
    if (h->count == 0 && pom_memory_read(h->at[0], h->heads[0], POM_FRAME_COPY) == POM_OK) {
        h->count = 1;
    }
}

void pom_heap_frames_begin(pom_heap_frames_t *h) {
    h->count = h->given = 0;
}

/* It was copied with the last one that was given, and is that one's caller. What else was copied
 * was so before what is between them was read. */
static bool is_next(const pom_heap_frames_t *h, uintptr_t frame) {
    return h->given < h->count && h->at[h->given] == frame &&
           (h->given == 0 || caller_in(h->heads[h->given - 1]) == frame);
}

const unsigned char *pom_heap_frame(pom_heap_frames_t *h, uintptr_t frame) {
    if (!is_next(h, frame)) {
        copy_from(h, frame);
        if (h->count == 0) {
            return NULL;
        }
    }
    const uintptr_t *head = h->heads[h->given++];
    remember(frame, caller_in(head));
    return (const unsigned char *)head;
}

const unsigned char *pom_heap_frame_caller(pom_heap_frames_t *h, uintptr_t frame) {
    return h->given > 0 && is_next(h, frame) ? (const unsigned char *)h->heads[h->given++] : NULL;
}

bool pom_heap_frame_holds(const pom_heap_frames_t *h, const pom_heap_call_t *call, bool anew) {
    bool together = h->given >= 2 && h->at[h->given - 2] == call->frame &&
                    h->at[h->given - 1] == call->caller && call->next == call->caller;
    if (together) {
        const uintptr_t *now = h->heads[h->count + h->given - 2];
        return code_in(now) == call->code && caller_in(now) == call->caller;
    }
    if (!anew) {
        return true;
    }
    // Both ends at one moment: a loop comes by here again within the time of a copy.
    uintptr_t heads[3][POM_FRAME_COPY / 8];
    const pom_memory_part_t parts[3] = {
        {call->frame, POM_FRAME_COPY}, {call->next, POM_FRAME_COPY}, {call->frame, POM_FRAME_COPY}};
    return pom_memory_gather(parts, 3, heads) == 3 && code_in(heads[0]) == call->code &&
           caller_in(heads[0]) == call->caller && code_in(heads[1]) == call->next_code &&
           code_in(heads[2]) == call->code && caller_in(heads[2]) == call->caller;
}
