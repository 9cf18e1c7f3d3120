/*
 * The stack of a thread that may end at any moment.
 *
 * Frames that call each other lie side by side in a chunk, so one copy of its used part has most of a stack. The rest, shims on
 * the C stack and generators in the heap, is found by following the chain, one copy each, and noted. Then all of it is copied again in
 * one system call, between two looks at the thread's state and its current frame:
 *
 *     state | current frame | chunk, older chunks, shims, generators | current frame | state
 *
 * This counts when the chain in it is whole, both states agree, and the leaf had not returned by the second look. What is read lies some
 * 0.5 us apart, and a thread that waits, as most do that a request waits for, stands still anyway.
 *
 * A chain is whole when it ends at a frame that C called: one that was cut short by a generator that was left ends at that. Calls from C
 * divide a stack into stretches of Python, and by these the pool's own frames are told from the function that it runs: between them
 * lies Context.run, which is C.
 *
 *     _bootstrap, _bootstrap_inner, run (the pool's) | Context.run | endpoint, helper, leaf
 *
 * Runs on the sampler thread. Nothing read here is believed or followed but by another copy; codes are claims, as everywhere.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/copied_stack.h"

#include <string.h>

#include "bindings/ext/memory.h"
#include "sampler/walker.h"

#define WINDOW_MAX ((size_t)16 * 1024) // a chunk of the usual size, some 150 frames
#define SLACK      1024                // above the top that was seen: calls made since then
#define CHUNK_MAX  ((uintptr_t)64 << 20)
#define SPANS_MAX  32 // places that are copied: chunks, shims, generators
#define BYTES_MAX  (3 * WINDOW_MAX)
#define FRAMES_MAX 512
#define STEPS_MAX  (2 * FRAMES_MAX)
#define READS_MAX  64 // single copies for one stack, all tries together: 30 us
#define STRETCHES  4  // remembered: of the last two, one may be taken back

typedef struct span_s {
    uintptr_t at;
    size_t size;
    unsigned char *copy;
    bool met; /* by the chain that is followed */
} span_t;

typedef struct shot_s {
    pom_thread_copy_t thread;
    uintptr_t leaf;
    uintptr_t older; /* the next older chunk of those in spans; 0 = none, or not known */
    size_t span_count;
    span_t spans[SPANS_MAX];
    size_t used;
    int reads;
    bool grown; /* a span was copied by itself, at another moment than the rest */
    unsigned char fronts[2][POM_TSTATE_FRONT];
    unsigned char bytes[BYTES_MAX];
} shot_t;

static shot_t shot; // the sampler thread's; 50 KiB

static uintptr_t word(const unsigned char *at) {
    uintptr_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

void pom_thread_copy(uintptr_t state, const unsigned char *front, pom_thread_copy_t *out) {
    *out = (pom_thread_copy_t){.state = state,
                               .next = word(front + POM_TSTATE_NEXT),
                               .interp = word(front + POM_TSTATE_INTERP),
                               .context = word(front + POM_TSTATE_CONTEXT),
                               .current = pom_layout_current_in(state, front),
                               .chunk = word(front + POM_TSTATE_CHUNK),
                               .top = word(front + POM_TSTATE_TOP),
                               .limit = word(front + POM_TSTATE_LIMIT)};
}

/* ---- what is copied --------------------------------------------------------------------------- */

static span_t *add_span(shot_t *s, uintptr_t at, size_t size) {
    if (s->span_count == SPANS_MAX || size > BYTES_MAX - s->used) {
        return NULL;
    }
    span_t *span = &s->spans[s->span_count++];
    *span = (span_t){.at = at, .size = size, .copy = s->bytes + s->used};
    s->used += (size + 7) & ~(size_t)7;
    return span;
}

/* Starts over with the newest chunk alone; false when the thread has none that could be. */
static bool plan(shot_t *s, const pom_thread_copy_t *thread) {
    s->thread = *thread;
    s->span_count = 0;
    s->used = 0;
    s->older = 0;
    if (thread->current == 0 || thread->chunk == 0 ||
        ((thread->current | thread->chunk) & 7) != 0 || thread->top < thread->chunk ||
        thread->limit < thread->top || thread->limit - thread->chunk > CHUNK_MAX) {
        return false;
    }
    size_t room = thread->limit - thread->top;
    size_t size = thread->top - thread->chunk + (room < SLACK ? room : SLACK);
    size_t below = size > WINDOW_MAX ? size - WINDOW_MAX : 0; // what is left out, at the root side
    (void)add_span(s, thread->chunk + below, size - below);   // the first one fits
    return true;
}

/* All spans at one moment. POM_ENOTFOUND: it has ended, or left its context. POM_ETORN: another time, perhaps. */
static pom_status_t take(shot_t *s) {
    pom_memory_part_t parts[SPANS_MAX + 4];
    uintptr_t leaves[2];
    size_t count = 0;
    parts[count++] = (pom_memory_part_t){s->thread.state, s->fronts[0], POM_TSTATE_FRONT};
    parts[count++] = (pom_memory_part_t){s->thread.current, &leaves[0], sizeof leaves[0]};
    for (size_t i = 0; i < s->span_count; i++) {
        parts[count++] = (pom_memory_part_t){s->spans[i].at, s->spans[i].copy, s->spans[i].size};
        s->spans[i].met = false;
    }
    parts[count++] = (pom_memory_part_t){s->thread.current, &leaves[1], sizeof leaves[1]};
    parts[count++] = (pom_memory_part_t){s->thread.state, s->fronts[1], POM_TSTATE_FRONT};
    size_t got = pom_memory_read_parts(parts, count);
    pom_thread_copy_t before, after;
    if (got == 0) {
        return POM_ENOTFOUND;
    }
    pom_thread_copy(s->thread.state, s->fronts[0], &before);
    if (before.context != s->thread.context || before.interp != s->thread.interp) {
        return POM_ENOTFOUND;
    }
    bool covered =
        before.chunk == s->thread.chunk && before.top <= s->spans[0].at + s->spans[0].size;
    if (got < count || !covered) {
        return plan(s, &before) ? POM_ETORN : POM_ENOTFOUND; // it has moved on, or a span has gone
    }
    s->thread.top = before.top;
    if (before.current != s->thread.current) {
        s->thread.current = before.current; // C has called meanwhile, or returned (3.12 and before)
        return POM_ETORN;
    }
    pom_thread_copy(s->thread.state, s->fronts[1], &after);
    bool same = after.context == before.context && after.current == before.current &&
                after.chunk == before.chunk;
    bool in_chunk = leaves[1] >= after.chunk && leaves[1] < after.limit;
    bool left = in_chunk && leaves[1] < leaves[0] && leaves[0] < after.limit;
    s->leaf = leaves[0];
    return same && !left ? POM_OK : POM_ETORN;
}

/* The copy of a frame's head; false: no span has it. */
static bool find(shot_t *s, uintptr_t frame, const unsigned char **head) {
    for (size_t i = 0; i < s->span_count; i++) {
        span_t *span = &s->spans[i];
        if (frame >= span->at && frame - span->at < span->size &&
            span->size - (frame - span->at) >= POM_FRAME_HEAD) {
            *head = span->copy + (frame - span->at);
            span->met = true;
            return true;
        }
    }
    return false;
}

/* A span for a frame that no other has: all of the next older chunk, if it is in that (none is smaller than a window). POM_EFULL, or
 * POM_EUNREADABLE. */
static pom_status_t grow(shot_t *s, uintptr_t frame, const unsigned char **head) {
    const span_t *newest = &s->spans[0];
    uintptr_t older = s->older;
    if (older == 0 && newest->at == s->thread.chunk && newest->size >= sizeof(_PyStackChunk)) {
        older = word(newest->copy + offsetof(_PyStackChunk, previous));
    }
    bool in_older = older != 0 && frame > older && frame - older < WINDOW_MAX - POM_FRAME_HEAD;
    uintptr_t at = in_older ? older : frame;
    span_t *span =
        s->reads++ < READS_MAX ? add_span(s, at, in_older ? WINDOW_MAX : POM_FRAME_HEAD) : NULL;
    if (span == NULL) {
        return POM_EFULL;
    }
    if (pom_memory_read(span->at, span->copy, span->size) != POM_OK) {
        s->span_count--;
        return POM_EUNREADABLE;
    }
    s->grown = true;
    span->met = true;
    if (in_older) {
        s->older = word(span->copy + offsetof(_PyStackChunk, previous));
    }
    *head = span->copy + (frame - at);
    return POM_OK;
}

/* Makes room: what the chain did not meet was of calls that are over. False when there is nothing of that kind. */
static bool forget_unmet(shot_t *s) {
    for (size_t i = 1; i < s->span_count; i++) {
        if (!s->spans[i].met) {
            return plan(s, &s->thread);
        }
    }
    return false;
}

/* ---- the chain in it ---------------------------------------------------------------------------- */

/* Depths, counted from the leaf, at which C called: the nearest to the thread's start first. */
typedef struct stretches_s {
    int32_t ends[STRETCHES];
} stretches_t;

static void end_stretch(stretches_t *s, int32_t depth) {
    if (depth > s->ends[0]) { // else two calls from C without Python in between
        memmove(&s->ends[1], &s->ends[0], (STRETCHES - 1) * sizeof s->ends[0]);
        s->ends[0] = depth;
    }
}

static void take_back(stretches_t *s) {
    memmove(&s->ends[0], &s->ends[1], (STRETCHES - 1) * sizeof s->ends[0]);
}

/* The frames above the pool's in *stack; a stack that is too deep keeps what was read of it, from its leaf on. */
static pom_status_t follow(shot_t *s, uintptr_t starter, pom_stack_t *stack) {
    stretches_t stretches = {{0}};
    uintptr_t frame = s->leaf;
    bool generator = false; // the last one
    stack->depth = 0;
    stack->truncated = false;
    for (int step = 0; frame != 0; step++) {
        const unsigned char *head;
        if ((frame & 7) != 0 || step == STEPS_MAX) {
            return POM_ETORN;
        }
        pom_status_t status = find(s, frame, &head) ? POM_OK : grow(s, frame, &head);
        if (status == POM_EFULL && forget_unmet(s)) {
            return POM_ETORN;
        }
        if (status == POM_EFULL || stack->depth == FRAMES_MAX) {
            stack->truncated = true;
            return POM_OK;
        }
        if (status != POM_OK) {
            return POM_ETORN;
        }
        unsigned owner = head[POM_FRAME_OWNER];
        uintptr_t code = word(head + POM_FRAME_CODE) & POM_REF_MASK;
        frame = word(head + POM_FRAME_PREVIOUS);
        if (owner > POM_OWNER_GENERATOR) {
            if (owner < POM_OWNER_SHIM || owner > POM_OWNER_LAST) {
                return POM_ETORN; // a frame object's own frame is not part of any chain that runs
            }
            end_stretch(&stretches, stack->depth);
            continue;
        }
        pom_raw_frame_t *raw = &stack->frames[stack->depth];
        if (code == 0 || !pom_layout_lasti(code, word(head + POM_FRAME_IP), &raw->lasti)) {
            return POM_ETORN;
        }
        if (code == starter && stretches.ends[0] == stack->depth) {
            take_back(&stretches);
        }
        raw->code = code;
        stack->depth++;
        generator = owner == POM_OWNER_GENERATOR;
        if (pom_layout_is_entry(head)) {
            end_stretch(&stretches, stack->depth);
        }
    }
    if (stretches.ends[0] != stack->depth || generator) {
        return POM_ETORN;
    }
    stack->depth = stretches.ends[1];
    return POM_OK;
}

int32_t pom_copied_stack(const pom_thread_copy_t *thread, uintptr_t starter, pom_stack_t *stack) {
    shot_t *s = &shot;
    pom_status_t status = POM_ETORN;
    s->reads = 0;
    bool planned = plan(s, thread);
    for (int tries = 0; planned && tries < POM_WALK_TRIES && status == POM_ETORN; tries++) {
        s->grown = false;
        status = take(s);
        if (status == POM_OK) {
            status = follow(s, starter, stack);
            if (s->grown) {
                status = POM_ETORN; // once more, all at one moment
            }
        }
    }
    if (status != POM_OK) {
        stack->depth = 0;
        stack->truncated = false;
    }
    return stack->depth;
}
