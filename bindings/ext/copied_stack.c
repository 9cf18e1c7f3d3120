/*
 * The stack of a thread that may end at any moment.
 *
 * Frames that call each other lie side by side in a chunk, so a copy of its used part (a window)
 * has most of a stack. The rest, shims on the C stack and generators in the heap, lies alone; it is
 * found by following the chain, one copy each, and noted. Then all of it is copied again in one
 * system call:
 *
 *     state | rest of the windows | lone frames | current frame | the newest window's top
 *           | current frame | lone frames | state
 *
 * That counts when the chain in it is whole, the states agree, the leaf had not returned by the
 * second look, and no lone frame has changed around the top, where the frames are that come and go:
 * a generator that was left between the two is soon another function's. What stands together there
 * was read within 0.2 us. With the lone frames read once, 1 of 5000 samples of a program that does
 * little but that had a generator below another function's frame; now none of 247 000, beside ten
 * busy processes on two cores.
 *
 * A chain is whole when it ends at a frame that C called: one that was cut short by a generator
 * that was left ends at that. Calls from C divide a stack into stretches of Python, and by these
 * the pool's own frames are told from the function that it runs: between them lies Context.run,
 * which is C.
 *
 *     _bootstrap, _bootstrap_inner, run (the pool's) | Context.run | endpoint, helper, leaf
 *
 * Runs on the sampler thread. Nothing read here is believed or followed but by another copy; codes
 * are claims, as everywhere.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/copied_stack.h"

#include <string.h>

#include "bindings/ext/memory.h"

#define WINDOW_MAX  ((size_t)16 * 1024) // a chunk of the usual size, some 150 frames
#define WINDOWS_MAX 4
#define SLACK       ((size_t)1024)         // above the top that was seen: calls made since then
#define TOP         (SLACK + (size_t)2048) // the newest 15 to 20 frames, and that
#define MARGIN      ((size_t)1024) // of these, by how many the thread may have returned since then
#define LONES_MAX   24
#define READS_MAX   64 // single copies for one stack, all tries together: 50 us
#define CHUNK_MAX   ((uintptr_t)64 << 20)
#define FRAMES_MAX  512
#define STEPS_MAX   (2 * FRAMES_MAX)
#define TRIES_MAX   16 // 1.5 us each
#define STRETCHES   4  // remembered: of the last two, one may be taken back
#define PARTS_MAX   (WINDOWS_MAX + 2 * LONES_MAX + 4)

/* All parts of one copy, and what is found when it is followed: a window once, a lone frame twice
 * at most. */
#define BYTES_MAX                                                                                  \
    (WINDOWS_MAX * (WINDOW_MAX + POM_FRAME_COPY) + (size_t)2 * LONES_MAX * POM_FRAME_COPY +        \
     2 * (POM_TSTATE_FRONT + sizeof(uintptr_t)))

_Static_assert(PARTS_MAX <= POM_MEMORY_PARTS_MAX, "all in one copy");

typedef struct window_s {
    uintptr_t chunk; /* that it is a part of */
    uintptr_t at;
    size_t size;
    const unsigned char *bytes;
} window_t;

typedef struct lone_s {
    uintptr_t at;
    bool met;                      /* by the chain that is followed */
    const unsigned char *heads[2]; /* before the windows' top was read, and after */
} lone_t;

typedef struct shot_s {
    pom_thread_copy_t thread;
    uintptr_t leaf;
    size_t window_count, lone_count;
    window_t windows[WINDOWS_MAX]; /* the newest chunk's top, the rest of that, older chunks */
    lone_t lones[LONES_MAX];
    int reads;
    bool grown; /* something was copied by itself, at another moment than the rest */
    size_t part_count, used;
    pom_memory_part_t parts[PARTS_MAX];
    _Alignas(8) unsigned char bytes[BYTES_MAX];
} shot_t;

static shot_t shot; // the sampler thread's; 70 KiB, of which 4 to 8 are used

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
                               .limit = word(front + POM_TSTATE_LIMIT),
                               .tid = (int32_t)word(front + POM_TSTATE_TID)};
}

/* ---- what is copied -------------------------------------------------------------------------- */

/* Starts over with the newest chunk alone; false when the thread has none that could be. */
static bool plan(shot_t *s, const pom_thread_copy_t *thread) {
    s->thread = *thread;
    s->lone_count = 0;
    if (thread->current == 0 || thread->chunk == 0 ||
        ((thread->current | thread->chunk) & 7) != 0 || thread->top < thread->chunk ||
        thread->limit < thread->top || thread->limit - thread->chunk > CHUNK_MAX) {
        return false;
    }
    size_t room = thread->limit - thread->top;
    size_t size = thread->top - thread->chunk + (room < SLACK ? room : SLACK);
    size_t left_out = size > WINDOW_MAX ? size - WINDOW_MAX : 0; // at the root side
    size_t below = size - left_out > TOP ? size - left_out - TOP : 0;
    uintptr_t at = thread->chunk + left_out;
    s->windows[0] =
        (window_t){.chunk = thread->chunk, .at = at + below, .size = size - left_out - below};
    s->window_count = 1;
    if (below > 0) {
        // So far that the head of a frame that begins below the top is in it.
        s->windows[s->window_count++] =
            (window_t){.chunk = thread->chunk, .at = at, .size = below + POM_FRAME_COPY};
    }
    return true;
}

static const unsigned char *add_part(shot_t *s, uintptr_t at, size_t size) {
    const unsigned char *bytes = s->bytes + s->used;
    s->parts[s->part_count++] = (pom_memory_part_t){at, size};
    s->used += size;
    return bytes;
}

static void add_lones(shot_t *s, int look) {
    for (size_t i = 0; i < s->lone_count; i++) {
        s->lones[i].heads[look] = add_part(s, s->lones[i].at, POM_FRAME_COPY);
        s->lones[i].met = false;
    }
}

/* All of it at one moment. POM_ENOTFOUND: the thread has ended, or left its context. POM_ETORN:
 * another time, perhaps. */
static pom_status_t take(shot_t *s) {
    s->part_count = 0;
    s->used = 0;
    const unsigned char *first = add_part(s, s->thread.state, POM_TSTATE_FRONT);
    for (size_t i = 1; i < s->window_count; i++) {
        s->windows[i].bytes = add_part(s, s->windows[i].at, s->windows[i].size);
    }
    add_lones(s, 0);
    const unsigned char *leaf = add_part(s, s->thread.current, sizeof s->leaf);
    s->windows[0].bytes = add_part(s, s->windows[0].at, s->windows[0].size);
    const unsigned char *leaf_after = add_part(s, s->thread.current, sizeof s->leaf);
    add_lones(s, 1);
    const unsigned char *last = add_part(s, s->thread.state, POM_TSTATE_FRONT);
    size_t got = pom_memory_gather(s->parts, s->part_count, s->bytes);
    pom_thread_copy_t before, after;
    if (got == 0) {
        return POM_ENOTFOUND;
    }
    pom_thread_copy(s->thread.state, first, &before);
    if (before.context != s->thread.context || before.interp != s->thread.interp) {
        return POM_ENOTFOUND;
    }
    // What has been left and entered since then lies above the top now, and that in the part that
    // is read between the looks at the leaf.
    const window_t *newest = &s->windows[0];
    bool below = newest->at > newest->chunk && before.top < newest->at + MARGIN;
    bool covered =
        before.chunk == s->thread.chunk && !below && before.top <= newest->at + newest->size;
    if (got < s->part_count || !covered) {
        return plan(s, &before) ? POM_ETORN : POM_ENOTFOUND; // it has moved on, or a part has gone
    }
    s->thread.top = before.top;
    if (before.current != s->thread.current) {
        s->thread.current = before.current; // C has called meanwhile, or returned (3.12 and before)
        return POM_ETORN;
    }
    pom_thread_copy(s->thread.state, last, &after);
    bool same = after.context == before.context && after.current == before.current &&
                after.chunk == before.chunk;
    // The leaf has returned when what is current now is neither it nor anything that can lie above
    // it. A generator's frame lies nowhere near, and whose caller it is is not known.
    s->leaf = word(leaf);
    uintptr_t now = word(leaf_after);
    bool in_chunk = s->leaf >= after.chunk && s->leaf < after.limit;
    bool above = now >= s->leaf + POM_FRAME_COPY && now < after.limit;
    bool left = in_chunk && now != s->leaf && !above;
    return same && !left ? POM_OK : POM_ETORN;
}

static bool holds(const lone_t *lone) {
    const unsigned char *before = lone->heads[0], *after = lone->heads[1];
    return word(before + POM_FRAME_CODE) == word(after + POM_FRAME_CODE) &&
           word(before + POM_FRAME_PREVIOUS) == word(after + POM_FRAME_PREVIOUS);
}

/* The copy of a frame's head. POM_ENOTFOUND: it is not there; POM_ETORN: it has changed. */
static pom_status_t find(shot_t *s, uintptr_t frame, const unsigned char **head) {
    for (size_t i = 0; i < s->window_count; i++) {
        const window_t *window = &s->windows[i];
        if (frame >= window->at && frame - window->at < window->size &&
            window->size - (frame - window->at) >= POM_FRAME_COPY) {
            *head = window->bytes + (frame - window->at);
            return POM_OK;
        }
    }
    for (size_t i = 0; i < s->lone_count; i++) {
        lone_t *lone = &s->lones[i];
        if (lone->at == frame) {
            *head = lone->heads[1];
            lone->met = true;
            return holds(lone) ? POM_OK : POM_ETORN;
        }
    }
    return POM_ENOTFOUND;
}

/* The next older chunk than those that are copied, from the header of the last; 0 = none, or not
 * known. */
static uintptr_t next_chunk(const shot_t *s) {
    const window_t *last = &s->windows[s->window_count - 1];
    bool headed = last->at == last->chunk && last->size >= sizeof(_PyStackChunk);
    return headed ? word(last->bytes + offsetof(_PyStackChunk, previous)) : 0;
}

/* Adds the next older chunk, if the frame is in that, else the frame, and copies it for now.
 * POM_EFULL, or POM_EUNREADABLE. */
static pom_status_t grow(shot_t *s, uintptr_t frame, const unsigned char **head) {
    uintptr_t chunk = next_chunk(s);
    // None is smaller than a window.
    bool in_chunk = chunk != 0 && frame > chunk && frame - chunk <= WINDOW_MAX - POM_FRAME_COPY;
    if (s->reads >= READS_MAX ||
        (in_chunk ? s->window_count == WINDOWS_MAX : s->lone_count == LONES_MAX)) {
        return POM_EFULL;
    }
    s->reads++;
    uintptr_t at = in_chunk ? chunk : frame;
    size_t size = in_chunk ? WINDOW_MAX : POM_FRAME_COPY;
    unsigned char *copy = s->bytes + s->used;
    if (pom_memory_read(at, copy, size) != POM_OK) {
        return POM_EUNREADABLE;
    }
    s->used += size;
    *head = copy + (frame - at);
    s->grown = true;
    if (in_chunk) {
        s->windows[s->window_count++] =
            (window_t){.chunk = chunk, .at = at, .size = size, .bytes = copy};
    } else {
        s->lones[s->lone_count++] = (lone_t){.at = at, .met = true, .heads = {copy, copy}};
    }
    return POM_OK;
}

/* Makes room: what the chain did not meet was of calls that are over. False when there is nothing
 * of that kind. */
static bool forget_unmet(shot_t *s) {
    for (size_t i = 0; i < s->lone_count; i++) {
        if (!s->lones[i].met) {
            return plan(s, &s->thread);
        }
    }
    return false;
}

/* ---- the chain in it ------------------------------------------------------------------------- */

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

static uintptr_t type_of(uintptr_t object) {
    return pom_memory_word(object + offsetof(PyObject, ob_type));
}

/* Thread(target=context.run): the C that run() calls through is Context.run itself, and what that
 * runs is no pool's frame. */
static bool runs_a_context(uintptr_t run) {
    uintptr_t function = pom_memory_word(pom_layout_thread_target(run));
    return function != 0 && type_of(function) == (uintptr_t)&PyCFunction_Type &&
           type_of(pom_memory_word(function + offsetof(PyCFunctionObject, m_self))) ==
               (uintptr_t)&PyContext_Type;
}

static pom_status_t find_or_grow(shot_t *s, uintptr_t frame, const unsigned char **head) {
    if ((frame & 7) != 0) {
        return POM_ETORN;
    }
    pom_status_t status = find(s, frame, head);
    if (status == POM_ENOTFOUND) {
        status = grow(s, frame, head);
    }
    if (status == POM_EFULL) {
        return forget_unmet(s) ? POM_ETORN : POM_EFULL;
    }
    return status == POM_OK ? POM_OK : POM_ETORN;
}

/* The frames above the pool's in *stack; a stack that is too deep keeps what was read of it, from
 * its leaf on. */
static pom_status_t follow(shot_t *s, uintptr_t starter, pom_stack_t *stack) {
    stretches_t stretches = {{0}};
    uintptr_t frame = s->leaf;
    bool generator = false; // the last one
    stack->depth = 0;
    stack->truncated = false;
    for (int step = 0; frame != 0; step++) {
        const unsigned char *head;
        pom_status_t status = find_or_grow(s, frame, &head);
        if (status == POM_EFULL || stack->depth == FRAMES_MAX) {
            stack->truncated = true;
            return POM_OK;
        }
        if (status != POM_OK || step == STEPS_MAX) {
            return POM_ETORN;
        }
        unsigned owner = head[POM_FRAME_OWNER];
        uintptr_t code = word(head + POM_FRAME_CODE) & POM_REF_MASK, at = frame;
        frame = word(head + POM_FRAME_PREVIOUS);
        if (owner > POM_OWNER_GENERATOR) {
            if (owner < POM_OWNER_SHIM || owner > POM_OWNER_LAST) {
                return POM_ETORN; // a frame object's own frame is not part of any chain that runs
            }
            end_stretch(&stretches, stack->depth);
            continue;
        }
        pom_raw_frame_t *raw = &stack->frames[stack->depth];
        if (!pom_layout_lasti(code, word(head + POM_FRAME_IP), &raw->lasti)) {
            return POM_ETORN;
        }
        if (code == starter && stretches.ends[0] == stack->depth && !runs_a_context(at)) {
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
    for (int tries = 0; planned && tries < TRIES_MAX && status == POM_ETORN; tries++) {
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
