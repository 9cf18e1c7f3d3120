/*
 * The stack of an action that is switched out: its coroutine awaits, its generator is suspended, its greenlet is parked.
 *
 * Runs on the sampler thread. Such an action is not on its thread's stack, so a walk cannot meet it, yet its time passes: under
 * the line that waits. The anchor frame still lies where it was: in the coroutine or generator object, or in the stack chunks that
 * a greenlet took with it. From a coroutine the chain of awaits is followed down (what `cr_await` says: it lies on the
 * suspended frame's stack), so that the leaf is the innermost await. Of a greenlet only the anchor frame itself can be found.
 *
 * Threads that work for a request of ASGI while it waits stand below its chain (helpers.c).
 *
 * Everything is read by the kernel's safe copy, for the application runs on and may free what is read: two copies a level, which are one call
 * for all levels where nothing has moved since the last look (replay.h). The anchor frame is looked at again at the end; if it has moved, the chain
 * is thrown away. Codes are only claims, as everywhere.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/parked.h"

#include <string.h>

#include "bindings/ext/exchange.h"
#include "bindings/ext/helpers.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/replay.h"

#define AWAITS_MAX 64 // levels; a chain this deep is cut at the leaf
#define CHUNKS_MAX 64

/* The front of a frame, as much as is looked at. */
#define FRONT (offsetof(_PyInterpreterFrame, localsplus))

typedef struct parked_frame_s {
    uintptr_t code, previous, ip;
    uintptr_t awaited; /* where the reference to what it awaits lies, if it does; 0 = nowhere */
    unsigned owner;
} parked_frame_t;

static uintptr_t word(const unsigned char *at) {
    uintptr_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void parse_frame(uintptr_t at, const unsigned char *front, parked_frame_t *frame) {
    frame->code = word(front + POM_FRAME_CODE) & POM_REF_MASK;
    frame->previous = word(front + POM_FRAME_PREVIOUS);
    frame->ip = word(front + POM_FRAME_IP);
    frame->awaited = pom_layout_awaited(at, front);
    frame->owner = front[POM_FRAME_OWNER];
}

static bool read_frame(uintptr_t at, parked_frame_t *frame) {
    unsigned char front[FRONT];
    if ((at & 7) != 0 || pom_replay_read(at, front, sizeof front) != POM_OK) {
        return false;
    }
    parse_frame(at, front, frame);
    return true;
}

/* The frame is suspended where it was, now and not at the moment of the copies. */
static bool stands(uintptr_t at, const parked_frame_t *before) {
    unsigned char front[FRONT];
    parked_frame_t now;
    if (pom_memory_read(at, front, sizeof front) != POM_OK) {
        return false;
    }
    parse_frame(at, front, &now);
    return now.ip == before->ip && now.previous == 0 && now.code == before->code;
}

static bool push(pom_stack_t *stack, const parked_frame_t *frame) {
    int32_t lasti;
    if ((frame->code & 7) != 0 || !pom_layout_lasti(frame->code, frame->ip, &lasti)) {
        return false;
    }
    stack->frames[stack->depth++] = (pom_raw_frame_t){.code = frame->code, .lasti = lasti};
    return true;
}

/* An object in a copy of its front, and its type; 0 = it cannot be read. */
static uintptr_t read_object(uintptr_t object, unsigned char *copy, size_t size) {
    return object != 0 && (object & 7) == 0 && pom_replay_read(object, copy, size) == POM_OK
               ? word(copy + offsetof(PyObject, ob_type))
               : 0;
}

/* What a suspended coroutine awaits, when that is a suspended coroutine too, or an exchange of ours that stands for one. */
static bool awaited(parked_frame_t *frame) {
    uintptr_t object;
    unsigned char copy[offsetof(PyCoroObject, cr_iframe) + FRONT];
    if (frame->awaited == 0 || pom_replay_read(frame->awaited, &object, sizeof object) != POM_OK) {
        return false;
    }
    object &= POM_REF_MASK;
    uintptr_t type = read_object(object, copy, sizeof copy);
    size_t inner = type == 0 ? 0 : pom_exchange_inner(type);
    if (inner != 0) {
        object = word(copy + inner);
        type = read_object(object, copy, sizeof copy);
    }
    if (type != (uintptr_t)&PyCoro_Type) {
        return false;
    }
    size_t inside = offsetof(PyCoroObject, cr_iframe);
    parse_frame(object + inside, copy + inside, frame);
    return frame->owner == POM_OWNER_GENERATOR && frame->previous == 0;
}

bool pom_frame_is_coroutine(uintptr_t frame) {
    uintptr_t object = frame - offsetof(PyCoroObject, cr_iframe);
    return pom_memory_word(object + offsetof(PyObject, ob_type)) == (uintptr_t)&PyCoro_Type;
}

/* Whether an address lies in a stack chunk that the thread has now. Unknown counts as yes: no claim is made then. */
static bool in_chunks(uintptr_t tstate, uintptr_t address) {
    uintptr_t chunk;
    if (pom_memory_read(tstate + POM_TSTATE_CHUNK, &chunk, sizeof chunk) != POM_OK) {
        return true;
    }
    for (int i = 0; i < CHUNKS_MAX; i++) {
        _PyStackChunk head;
        if (chunk == 0) {
            return false;
        }
        if ((chunk & 7) != 0 ||
            pom_memory_read(chunk, &head, offsetof(_PyStackChunk, data)) != POM_OK ||
            (address >= chunk && address < chunk + head.size)) {
            return true;
        }
        chunk = (uintptr_t)head.previous;
    }
    return true;
}

/* The frames from there on, which stand root first, turned around. */
static void leaf_first(pom_stack_t *stack, int32_t from) {
    for (int32_t low = from, high = stack->depth - 1; low < high; low++, high--) {
        pom_raw_frame_t other = stack->frames[low];
        stack->frames[low] = stack->frames[high];
        stack->frames[high] = other;
    }
}

pom_status_t pom_walk_parked(pom_walker_t *self, const pom_slot_view_t *view, uint32_t index,
                             pom_stack_t *stack) {
    (void)self;
    const pom_anchor_t *anchor = &view->anchors[index];
    uintptr_t at = anchor->at.frame;
    parked_frame_t first, frame;
    stack->depth = 0;
    stack->truncated = false;
    if (anchor->kind != POM_ANCHOR_INSIDE || at == 0) {
        return POM_ENOTFOUND;
    }
    pom_replay_begin(at);
    if (!read_frame(at, &frame) || frame.code != anchor->at.code) {
        return POM_ENOTFOUND;
    }
    if (frame.owner == POM_OWNER_THREAD) {
        // Not among the thread's chunks: a greenlet has them. Among them: it runs, or it has returned.
        return push(stack, &frame) && !in_chunks(view->slot->who.state, at) ? POM_OK
                                                                            : POM_ENOTFOUND;
    }
    if (frame.owner != POM_OWNER_GENERATOR || frame.previous != 0) {
        return POM_ENOTFOUND; // it runs
    }
    first = frame;
    int32_t helped = pom_helpers_stack(anchor, stack);
    if (!push(stack, &frame)) {
        return POM_ENOTFOUND;
    }
    if (pom_frame_is_coroutine(at)) {
        for (int i = 0; i < AWAITS_MAX && awaited(&frame) && push(stack, &frame); i++) {
        }
    }
    leaf_first(stack, helped);
    return stands(anchor->at.frame, &first) ? POM_OK : POM_ENOTFOUND;
}
