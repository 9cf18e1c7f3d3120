/*
 * The native walker: from a thread's current frame to the first frame that anchors one of its
 * actions.
 *
 * Runs on the sampler thread while the walked thread runs on. Three things keep that safe and true:
 *
 * - Every address is checked before it is read. In the thread's stack chunks (which stay mapped
 *   during a walk, memory.c) and in its C stack plain loads are used; anything else (generators
 *   live in the heap) is copied by the kernel. No fault is possible.
 * - A walk that meets no anchor is worthless and dropped, however plausible it looks. That alone
 *   removes most stacks that were torn by generators and callbacks.
 * - Reading is leaf first, each frame right after the one it called. A frame is only ever mistaken
 *   for another when its callee and it return and a new frame is pushed at its address, all between
 *   two reads some 10 ns apart. The leaf's lines are the ones the walked thread writes, so they are
 *   the slow ones to fetch: they are prefetched, and after the second frame has been read the
 *   current-frame pointer is read again. When the leaf has returned meanwhile, the walk starts
 *   over. Never more checks than that: accepting only stacks that hold still for a whole walk would
 *   under-count fast functions.
 * - A greenlet switch exchanges the thread's chunks, and overwrites the shims on the C stack a
 *   moment before it exchanges the current frame, so that a chain can begin in one greenlet and end
 *   in another. So an ordinary frame outside of the chunks the walk began with is torn, and so is a
 *   walk at whose end the thread has other chunks.
 *
 * Garbage in a code pointer is possible all the same; nothing here follows it (code_reader.c checks
 * it first).
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/walker.h"

#include <stdio.h>

#include "base/clock.h"
#include "bindings/ext/context.h"
#include "bindings/ext/heap_frames.h"
#include "bindings/ext/helpers.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/parked.h"

/* Frames and shims, of which the stack keeps those at the leaf; a cycle ends here. All of them take
 * some 0.3 ms. */
#define STEPS_MAX     32768
#define CHUNKS_MAX    1024                  // 1024 x 16 KiB hold four times as many frames
#define CHUNK_MAX     ((uintptr_t)64 << 20) // a larger size field is torn
#define PREFETCH_DOWN 512                   // the leaf's callers lie below it: four or so frames
#define FEW_ANCHORS   8
#define GENERATORS_CHECKED                                                                         \
    6 // frames from the leaf on: generators that change within a walk are the newest

typedef struct span_s {
    uintptr_t low, high;
} span_t;

typedef struct reader_s {
    uintptr_t tstate;
    span_t chunk;         /* where the last frame was found */
    uintptr_t next_chunk; /* the next one of the thread's list, towards older frames */
    int chunks_seen;
    bool more_chunks; /* than are looked at */
    span_t stack;     /* the thread's C stack */
    pom_heap_frames_t heap;
} reader_t;

typedef struct frame_head_s {
    uintptr_t code, previous, ip;
    unsigned owner;
} frame_head_t;

/* Memory of a thread that goes on running. AddressSanitizer would take the guard zones that come
 * and go in its C stack meanwhile for an error of ours. */
#define NOT_OURS __attribute__((no_sanitize("address")))

NOT_OURS static inline uintptr_t load(uintptr_t address) {
    return *(volatile uintptr_t *)address;
}

NOT_OURS static inline unsigned char load_byte(uintptr_t address) {
    return *(volatile unsigned char *)address;
}

static inline bool within(const span_t *span, uintptr_t address, size_t size) {
    // No sum with the address: it may be garbage at the very end of memory.
    return address >= span->low && address <= span->high && span->high - address >= size;
}

/* Moves to the next older chunk of the list; false at its end. The chunk's header is read plainly:
 * it cannot be unmapped before the walk ends. */
static bool next_chunk(reader_t *r) {
    uintptr_t chunk = r->next_chunk;
    if (chunk == 0 || (chunk & 7) != 0) {
        return false;
    }
    if (r->chunks_seen++ >= CHUNKS_MAX) {
        r->more_chunks = true;
        return false;
    }
    uintptr_t size = load(chunk + offsetof(_PyStackChunk, size));
    if (size == 0 || size > CHUNK_MAX) {
        return false;
    }
    r->chunk.low = chunk;
    r->chunk.high = chunk + size;
    r->next_chunk = load(chunk + offsetof(_PyStackChunk, previous));
    return true;
}

static void reader_start(reader_t *r, const pom_thread_identity_t *who) {
    r->tstate = who->state;
    r->chunk = (span_t){0, 0};
    r->chunks_seen = 0;
    r->more_chunks = false;
    r->next_chunk = load(who->state + POM_TSTATE_CHUNK);
    r->stack = (span_t){who->stack_low, who->stack_high};
    pom_heap_frames_begin(&r->heap);
}

/* Plain loads at the address are safe, by the chunk list. Frames are met newest first, and so are
 * chunks. */
__attribute__((noinline)) static bool is_in_other_chunk(reader_t *r, uintptr_t address,
                                                        size_t size) {
    if (within(&r->stack, address, size)) {
        return true;
    }
    span_t chunk = r->chunk;
    uintptr_t rest = r->next_chunk;
    int seen = r->chunks_seen;
    while (next_chunk(r)) {
        if (within(&r->chunk, address, size)) {
            return true;
        }
    }
    r->chunk = chunk; // not in any: a generator's frame; the next one is likely in the chunk we had
    r->next_chunk = rest;
    r->chunks_seen = seen;
    return false;
}

static inline bool is_plain(reader_t *r, uintptr_t address, size_t size) {
    return within(&r->chunk, address, size) || is_in_other_chunk(r, address, size);
}

static inline void load_head(uintptr_t at, frame_head_t *head) {
    head->code = load(at + POM_FRAME_CODE) & POM_REF_MASK;
    head->previous = load(at + POM_FRAME_PREVIOUS);
    head->ip = load(at + POM_FRAME_IP);
    head->owner = load_byte(at + POM_FRAME_OWNER);
}

/* A frame outside of the chunk at hand: in an older chunk, on the C stack, or in the heap. */
__attribute__((noinline)) static pom_status_t read_elsewhere(reader_t *r, uintptr_t frame,
                                                             frame_head_t *head) {
    uintptr_t at = frame;
    if ((frame & 7) != 0) {
        return POM_ETORN;
    }
    if (!is_in_other_chunk(r, frame, POM_FRAME_HEAD)) {
        at = (uintptr_t)pom_heap_frame(&r->heap, frame);
        if (at == 0) {
            return POM_EUNREADABLE;
        }
    }
    load_head(at, head);
    bool misplaced = head->owner == POM_OWNER_THREAD && !within(&r->chunk, frame, POM_FRAME_HEAD);
    return !misplaced ? POM_OK : r->more_chunks ? POM_EFULL : POM_ETORN;
}

static inline pom_status_t read_frame(reader_t *r, uintptr_t frame, frame_head_t *head) {
    if (within(&r->chunk, frame, POM_FRAME_HEAD) && (frame & 7) == 0) {
        load_head(frame, head);
        return POM_OK;
    }
    return read_elsewhere(r, frame, head);
}

static bool current_frame(reader_t *r, uintptr_t *frame) {
    uintptr_t where;
    if (!pom_layout_current(r->tstate, &where)) {
        return false;
    }
    span_t state = {r->tstate, r->tstate + POM_TSTATE_SIZE};
    if (within(&state, where, sizeof(uintptr_t)) || within(&r->stack, where, sizeof(uintptr_t))) {
        *frame = load(where);
        return true;
    }
    return pom_memory_read(where, frame, sizeof *frame) == POM_OK;
}

/* ---- anchors ------------------------------------------------------------------------------ */

/* Which of the view's anchors a frame is: its index, or -1. */
static int anchor_at(const pom_slot_view_t *view, uintptr_t frame, uintptr_t code) {
    for (uint32_t i = 0; i < view->count; i++) {
        const pom_anchor_t *a = &view->anchors[i];
        if (a->at.frame == frame && (a->at.code == 0 || a->at.code == code)) {
            return (int)i;
        }
    }
    return -1;
}

/* The same among the remembered callers, which own the samples once the anchor's frame has
 * returned. */
static int caller_at(const pom_slot_view_t *view, uintptr_t frame, uintptr_t code) {
    for (uint32_t i = 0; i < view->count; i++) {
        const pom_anchor_t *a = &view->anchors[i];
        if (a->called_at == 0 && pom_anchor_remembers(a, frame, code)) {
            return (int)i;
        }
    }
    return -1;
}

/* Most frames are no anchor. A bit set of the anchors' addresses says so in one look: one word for
 * the usual few, more for the many of asyncio and greenlets. */
typedef struct filter_s {
    /* the addresses lie within: anchors are old frames, so most others lie above */
    uintptr_t low, high;
    unsigned shift; /* of the hash, so that what is left numbers the bits */
    uint64_t bits[64];
} filter_t;

static inline unsigned filter_bit(const filter_t *f, uintptr_t frame) {
    return (unsigned)((frame * UINT64_C(0x9e3779b97f4a7c15)) >> f->shift);
}

static void filter_add(filter_t *f, uintptr_t frame) {
    unsigned bit = filter_bit(f, frame);
    f->bits[bit >> 6] |= UINT64_C(1) << (bit & 63);
    f->low = frame < f->low ? frame : f->low;
    f->high = frame > f->high ? frame : f->high;
}

static void filter_fill(filter_t *f, const pom_slot_view_t *view) {
    bool few = view->count <= FEW_ANCHORS;
    f->shift = few ? 58 : 52;
    f->low = UINTPTR_MAX;
    f->high = 0;
    for (int i = 0; i < (few ? 1 : 64); i++) {
        f->bits[i] = 0;
    }
    for (uint32_t i = 0; i < view->count; i++) {
        filter_add(f, view->anchors[i].at.frame);
        for (int c = 0; c < POM_ANCHOR_CALLERS && view->anchors[i].callers[c].frame != 0; c++) {
            filter_add(f, view->anchors[i].callers[c].frame);
        }
    }
}

static inline bool filter_may_hold(const filter_t *f, uintptr_t frame) {
    if (frame > f->high || frame < f->low) {
        return false;
    }
    unsigned bit = filter_bit(f, frame);
    return (f->bits[bit >> 6] >> (bit & 63) & 1) != 0;
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* It is still a frame of this code and caller. One outside of the chunk at hand is not asked. */
static bool head_holds(const reader_t *r, uintptr_t frame, const frame_head_t *head) {
    return !within(&r->chunk, frame, POM_FRAME_HEAD) ||
           ((load(frame + POM_FRAME_CODE) & POM_REF_MASK) == head->code &&
            load(frame + POM_FRAME_PREVIOUS) == head->previous);
}

/* The leaf still runs, or called something: the current frame is the leaf or lies above it in the
 * same chunk (or on the C stack: a call from C), and no other function's frame has taken its place.
 * Where the leaf lies elsewhere (a generator, a chunk boundary) addresses say nothing: that passes
 * here. So does a generator as the current frame when the leaf was called by one, which takes so
 * long to read that short calls are over by then, and would never be seen; else the leaf may be a
 * call that this generator is about to make. The caller is looked at once more as well: up to 3.13
 * a frame gets its code first, and until it gets its caller there stands that of the last frame in
 * its place. Of loops that make calls at one place themselves and by a generator 28 and 39 of a
 * million stacks showed the one for the other. */
static bool leaf_holds(reader_t *r, uintptr_t at, const frame_head_t *leaf,
                       const frame_head_t *caller) {
    uintptr_t now;
    if (!current_frame(r, &now)) {
        return false;
    }
    if (!within(&r->chunk, at, POM_FRAME_HEAD)) {
        return true;
    }
    bool runs = within(&r->chunk, now, 8)
                    ? now >= at
                    : caller->owner == POM_OWNER_GENERATOR || within(&r->stack, now, 8);
    return runs && head_holds(r, at, leaf);
}

/* A leaf that a generator called: it is current, and its caller is said. By the time that one has
 * been copied its place says nothing of this moment any more. */
static bool leaf_is_called(reader_t *r, uintptr_t at, const frame_head_t *leaf) {
    uintptr_t now;
    if (!within(&r->chunk, at, POM_FRAME_HEAD) || is_plain(r, leaf->previous, POM_FRAME_HEAD)) {
        return true;
    }
    return current_frame(r, &now) && now == at && head_holds(r, at, leaf);
}

/* A generator that is left forgets its caller, whose frame is soon another function's. Copying a
 * frame from the heap takes as long as some calls do, so it is looked at again once its caller has
 * been read; and the caller once more, which is to be there when its own is read. */
static bool call_holds(reader_t *r, uintptr_t at, const frame_head_t *generator, uintptr_t next,
                       const frame_head_t *head, bool anew) {
    pom_heap_call_t call = {.frame = at,
                            .code = generator->code,
                            .caller = generator->previous,
                            .next = next,
                            .next_code = head->code};
    return pom_heap_frame_holds(&r->heap, &call, anew) && head_holds(r, next, head);
}

/* What the frame at hand is among the anchors. */
typedef struct match_s {
    int anchor; /* index, -1 = none */
    bool outside;
} match_t;

__attribute__((noinline)) static match_t match(const pom_slot_view_t *view, uintptr_t frame,
                                               uintptr_t code) {
    int at = anchor_at(view, frame, code);
    if (at >= 0) {
        return (match_t){.anchor = at, .outside = view->anchors[at].kind == POM_ANCHOR_OUTSIDE};
    }
    return (match_t){.anchor = caller_at(view, frame, code)};
}

int32_t pom_noted_depth(const pom_noted_t *noted, const pom_anchor_t *anchor, int32_t lasti,
                        int32_t depth) {
    uint32_t first = noted->count > POM_NOTED_MAX ? noted->count - POM_NOTED_MAX : 0;
    if (anchor->called_at == 0 || anchor->called_at != pom_anchor_called_at(lasti)) {
        return depth;
    }
    for (uint32_t i = first; i < noted->count; i++) {
        const pom_noted_frame_t *met = &noted->last[i % POM_NOTED_MAX];
        if (pom_anchor_remembers(anchor, met->frame, met->code)) {
            return met->depth;
        }
    }
    return depth;
}

/* A chain that is longer than a walk goes; a torn one is as long only if it is a cycle. */
static pom_status_t too_deep(const reader_t *r, uintptr_t newest_chunk) {
    return load(r->tstate + POM_TSTATE_CHUNK) == newest_chunk ? POM_EFULL : POM_ETORN;
}

static void prefetch(reader_t *r, uintptr_t leaf) {
    if (is_plain(r, leaf, POM_FRAME_HEAD)) {
        for (uintptr_t down = 0; down <= PREFETCH_DOWN; down += 64) {
            __builtin_prefetch((const void *)(leaf + 64 - down), 0, 3); // a hint: never faults
        }
    }
}

static pom_status_t walk_once(const pom_slot_view_t *view, const filter_t *filter,
                              pom_stack_t *stack, uint32_t *anchor) {
    reader_t reader;
    uintptr_t frame, callee_at = 0;
    uintptr_t task = 0, before = 0; // the last frame in the heap, of an asyncio task; the one above
    frame_head_t callee = {0};
    int32_t depth = 0, task_depth = 0, before_depth = 0;
    match_t found = {.anchor = -1};
    pom_noted_t noted;
    noted.count = 0;
    stack->truncated = false;
    reader_start(&reader, &view->slot->who);
    uintptr_t newest_chunk = reader.next_chunk, context = load(reader.tstate + POM_TSTATE_CONTEXT);
    if (!current_frame(&reader, &frame)) {
        return POM_ETORN;
    }
    prefetch(&reader, frame);
    for (int step = 0; frame != 0; step++) {
        frame_head_t head;
        int32_t lasti;
        if (step >= STEPS_MAX) {
            return too_deep(&reader, newest_chunk);
        }
        pom_status_t status = read_frame(&reader, frame, &head);
        if (status != POM_OK) {
            return status;
        }
        const unsigned char *copied = pom_heap_frame_caller(&reader.heap, frame);
        if (copied != NULL) {
            load_head((uintptr_t)copied,
                      &head); // of the moment at which it called what is in the heap
        }
        if (head.owner > POM_OWNER_GENERATOR) {
            if (head.owner < POM_OWNER_SHIM || head.owner > POM_OWNER_LAST) {
                return POM_ETORN; // a frame object's own frame is not part of any chain that runs
            }
            frame = head.previous;
            continue;
        }
        bool may_be = filter_may_hold(filter, frame);
        if (may_be) {
            found = match(view, frame, head.code);
            if (found.outside) {
                break;
            }
        }
        if (!pom_layout_lasti(head.code, head.ip, &lasti)) {
            return POM_ETORN;
        }
        if (depth < POM_STACK_MAX) {
            stack->frames[depth++] = (pom_raw_frame_t){.code = head.code, .lasti = lasti};
        } else {
            stack->truncated = true;
        }
        if (head.owner == POM_OWNER_GENERATOR) {
            before = task;
            before_depth = task_depth;
            task = frame;
            task_depth = depth;
        }
        if (depth == 1 && !leaf_is_called(&reader, frame, &head)) {
            return POM_ETORN;
        }
        if (depth == 2 && !leaf_holds(&reader, callee_at, &callee, &head)) {
            return POM_ETORN;
        }
        if (callee.owner == POM_OWNER_GENERATOR && callee_at != 0 &&
            !call_holds(&reader, callee_at, &callee, frame, &head, depth <= GENERATORS_CHECKED)) {
            return POM_ETORN;
        }
        callee = head;
        callee_at = frame;
        if (found.anchor >= 0) {
            depth = pom_noted_depth(&noted, &view->anchors[found.anchor], lasti, depth);
            break;
        }
        if (may_be) {
            pom_noted_add(&noted, frame, head.code, depth);
        }
        frame = head.previous;
    }
    if (found.anchor < 0) {
        found.anchor = anchor_at(view, 0, 0); // an anchor outside of all Python: a server in C
    }
    if (found.anchor < 0 && depth > task_depth && before != 0 && !pom_frame_is_coroutine(task)) {
        task = before; // the event loop itself runs in a generator (trio's does)
        task_depth = before_depth;
    }
    if (found.anchor < 0 && depth > task_depth && pom_frame_is_coroutine(task)) {
        // A task that a request has started, perhaps: a coroutine, and below it the event loop. A
        // chain that ends in the heap was cut by a generator that was left.
        found.anchor = pom_context_anchor(context, view);
        depth = task_depth;
        if (load(reader.tstate + POM_TSTATE_CONTEXT) != context) {
            // the loop has gone on to another task: a stack of one, the context of the other
            return POM_ETORN;
        }
    }
    if (load(reader.tstate + POM_TSTATE_CHUNK) != newest_chunk) {
        return POM_ETORN;
    }
    stack->depth = depth;
    *anchor = (uint32_t)found.anchor;
    return found.anchor >= 0 ? POM_OK : POM_ENOTFOUND;
}

static pom_status_t walk(pom_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                         uint32_t *anchor) {
    (void)self;
    filter_t filter;
    filter_fill(&filter, view);
    pom_memory_walk_begin();
    pom_status_t status = walk_once(view, &filter, stack, anchor);
    pom_memory_walk_end();
    return status;
}

pom_walker_t *pom_native_walker(void) {
    static pom_walker_t walker = {.walk = walk,
                                  .parked_begin = pom_helpers_begin,
                                  .parked = pom_walk_parked,
                                  .frame_most_ns = POM_NS_PER_US};
    return &walker;
}

/* ---- a thread's own stack -------------------------------------------------------------------- */

bool pom_own_frame(uintptr_t tstate, uintptr_t frame, pom_own_frame_t *out) {
    if (frame == 0) {
        uintptr_t where;
        if (!pom_layout_current(tstate, &where)) {
            return false;
        }
        frame = load(where);
    }
    while (frame != 0) {
        frame_head_t head = {
            .code = load(frame + POM_FRAME_CODE) & POM_REF_MASK,
            .previous = load(frame + POM_FRAME_PREVIOUS),
            .ip = load(frame + POM_FRAME_IP),
            .owner = load_byte(frame + POM_FRAME_OWNER),
        };
        if (head.owner < POM_OWNER_SHIM) {
            out->frame = frame;
            out->code = head.code;
            out->previous = head.previous;
            out->generator = head.owner == POM_OWNER_GENERATOR;
            return pom_layout_lasti(head.code, head.ip, &out->lasti);
        }
        frame = head.previous;
    }
    return false;
}

uintptr_t pom_frame_of(uintptr_t frame_object) {
    return (uintptr_t)((PyFrameObject *)frame_object)->f_frame;
}

bool pom_walker_self_test(uintptr_t tstate, char *why, size_t size) {
    PyFrameObject *frame = PyThreadState_GetFrame((PyThreadState *)tstate); // new reference
    pom_own_frame_t own = {0};
    bool more = pom_own_frame(tstate, 0, &own);
    bool good = true;
    int depth = 0;
    while (frame != NULL && good) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        good = more && own.code == (uintptr_t)code && own.lasti * 2 == PyFrame_GetLasti(frame);
        Py_DECREF(code);
        if (!good) {
            (void)snprintf(why, size,
                           "frame %d of the self-test walk is not what the interpreter says",
                           depth);
        }
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
        more = own.previous != 0 && pom_own_frame(tstate, own.previous, &own);
        depth++;
    }
    if (good && more) {
        good = false;
        (void)snprintf(why, size, "the self-test walk found frames the interpreter does not");
    }
    Py_XDECREF(frame);
    return good;
}
