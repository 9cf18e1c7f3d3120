/*
 * The stack of an action that is switched out: its coroutine awaits, its generator is suspended,
 * its greenlet is parked.
 *
 * Runs on the sampler thread. Such an action is not on its thread's stack, so a walk cannot meet
 * it, yet its time passes: under the line that waits. The anchor frame still lies where it was: in
 * the coroutine or generator object, or in the stack chunks that a greenlet took with it. From a
 * coroutine the chain of awaits is followed down (what `cr_await` says: it lies on the suspended
 * frame's stack), so that the leaf is the innermost await. An asynchronous generator that is asked
 * for a value awaits in its consumer's place, so the chain goes through it. Where the anchor is
 * over, a caller stands in for it. Frames in the chunks of a greenlet are found by greenlets.c.
 *
 * Threads that work for a request of ASGI while it waits stand below its chain (helpers.c). Tasks
 * that it has started and waits for stand in the place of its chain (children.c).
 *
 * Everything is read by the kernel's safe copy, for the application runs on and may free what is
 * read: two copies a level, which are one call for all levels where nothing has moved since the
 * last look (replay.h). The anchor frame is looked at again at the end; if it has moved, the chain
 * is thrown away. Codes are only claims, as everywhere.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/parked.h"

#include <string.h>

#include "bindings/ext/children.h"
#include "bindings/ext/exchange.h"
#include "bindings/ext/greenlets.h"
#include "bindings/ext/helpers.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/replay.h"
#include "bindings/ext/tasks.h"
#include "middleware/request.h"

#define AWAITS_MAX 64 // levels; a chain this deep is cut at the leaf

/* Of a coroutine or generator, as much as is looked at. */
#define OBJECT (POM_FRAME_INSIDE + POM_FRAME_FRONT)

typedef struct parked_frame_s {
    uintptr_t at, code, previous, ip;
    uintptr_t awaited; /* where the reference to what it awaits lies, if it does; 0 = nowhere */
    unsigned owner;
    bool awaits;    /* it lies in a coroutine, or an asynchronous generator that is asked */
    bool exchanged; /* of a chain: it was awaited through receive() or send(), so for the client */
} parked_frame_t;

static uintptr_t word(const unsigned char *at) {
    uintptr_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void parse_frame(uintptr_t at, const unsigned char *front, parked_frame_t *frame) {
    frame->at = at;
    frame->code = word(front + POM_FRAME_CODE) & POM_REF_MASK;
    frame->previous = word(front + POM_FRAME_PREVIOUS);
    frame->ip = word(front + POM_FRAME_IP);
    frame->awaited = pom_layout_awaited(at, front);
    frame->owner = front[POM_FRAME_OWNER];
}

/* The frame in a copy of a coroutine or generator; false: it is not suspended. One that has ended
 * links to nothing either, and what was freed keeps its bytes for a while, so its state and its
 * references are asked as well. */
static bool parse_object(uintptr_t object, const unsigned char *copy, parked_frame_t *frame) {
    parse_frame(object + POM_FRAME_INSIDE, copy + POM_FRAME_INSIDE, frame);
    uintptr_t type = word(copy + offsetof(PyObject, ob_type));
    frame->awaits = type == (uintptr_t)&PyCoro_Type ||
                    (type == (uintptr_t)&PyAsyncGen_Type && pom_layout_is_asked(copy));
    return pom_layout_is_generator(copy) && pom_layout_is_suspended(copy) &&
           frame->owner == POM_OWNER_GENERATOR && frame->previous == 0;
}

/* The frame of a coroutine or generator that is suspended in this code; 0 = in any. */
static bool read_suspended(uintptr_t at, uintptr_t code, parked_frame_t *frame) {
    unsigned char copy[OBJECT];
    uintptr_t object = at - POM_FRAME_INSIDE;
    frame->exchanged = false;
    return (at & 7) == 0 && pom_replay_read(object, copy, sizeof copy) == POM_OK &&
           parse_object(object, copy, frame) && (code == 0 || frame->code == code);
}

/* It is suspended where it was, now and not at the moment of the copies. */
static bool stands(const parked_frame_t *before) {
    unsigned char copy[OBJECT];
    parked_frame_t now;
    uintptr_t object = before->at - POM_FRAME_INSIDE;
    return pom_memory_read(object, copy, sizeof copy) == POM_OK &&
           parse_object(object, copy, &now) && now.ip == before->ip && now.code == before->code;
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

/* What a suspended coroutine awaits, when that is a suspended coroutine too, or an exchange of ours
 * that stands for one, or the next value of an asynchronous generator that is suspended itself. */
static bool awaited(parked_frame_t *frame) {
    uintptr_t object;
    unsigned char copy[OBJECT];
    if (frame->awaited == 0 || pom_replay_read(frame->awaited, &object, sizeof object) != POM_OK) {
        return false;
    }
    object &= POM_REF_MASK;
    uintptr_t type = read_object(object, copy, sizeof copy);
    size_t inner = type == 0 ? 0 : pom_exchange_inner(type);
    if (inner != 0) {
        frame->exchanged = true;
        object = word(copy + inner);
        type = read_object(object, copy, sizeof copy);
    }
    uintptr_t wanted = (uintptr_t)&PyCoro_Type;
    if (type == (uintptr_t)&_PyAsyncGenASend_Type) {
        object = word(copy + POM_ASKED_GENERATOR);
        type = read_object(object, copy, sizeof copy);
        wanted = (uintptr_t)&PyAsyncGen_Type;
    }
    return type == wanted && parse_object(object, copy, frame) && frame->awaits;
}

bool pom_frame_is_coroutine(uintptr_t frame) {
    uintptr_t object = frame - POM_FRAME_INSIDE;
    return pom_memory_word(object + offsetof(PyObject, ob_type)) == (uintptr_t)&PyCoro_Type;
}

/* The frames from there on, which stand root first, turned around. */
static void leaf_first(pom_stack_t *stack, int32_t from) {
    for (int32_t low = from, high = stack->depth - 1; low < high; low++, high--) {
        pom_raw_frame_t other = stack->frames[low];
        stack->frames[low] = stack->frames[high];
        stack->frames[high] = other;
    }
}

/* Of the anchor, or once that has ended or returned of the nearest of the callers that stand in for
 * it (a coroutine whose helper has begun the action): the suspended frame that the action waits in
 * or below. */
static bool find_suspended(const pom_anchor_t *anchor, parked_frame_t *frame) {
    bool found = read_suspended(anchor->at.frame, anchor->at.code, frame);
    for (int i = 0; i < POM_ANCHOR_CALLERS && anchor->callers[i].frame != 0 && !found; i++) {
        found = read_suspended(anchor->callers[i].frame, anchor->callers[i].code, frame);
    }
    return found;
}

/* A suspended frame and what it awaits, down to the leaf, which is in *frame then. False: torn, or
 * `other` is among them. */
static bool push_awaits(parked_frame_t *frame, uintptr_t other, pom_stack_t *stack) {
    if (frame->at == other || !push(stack, frame)) {
        return false;
    }
    parked_frame_t next = *frame;
    if (frame->awaits) {
        for (int i = 0; i < AWAITS_MAX && awaited(&next) && push(stack, &next); i++) {
            if (next.at == other) {
                return false;
            }
            *frame = next;
        }
    }
    frame->exchanged = next.exchanged;
    return true;
}

/* A task's frame and what it awaits, on top of what is in the stack. How little it tells what its
 * request waits for, by its leaf: 0, it waits by itself; 1, for the client, as Django's listener
 * for its leaving does; 2, for other tasks. -1: it does not wait, or is the request's own task. */
static int push_child(uintptr_t at, uintptr_t own, parked_frame_t *first, pom_stack_t *stack) {
    if (!read_suspended(at, 0, first)) {
        return -1;
    }
    parked_frame_t leaf = *first;
    if (!push_awaits(&leaf, own, stack)) {
        return -1;
    }
    return pom_tasks_join(leaf.code, leaf.awaited) ? 2 : leaf.exchanged ? 1 : 0;
}

/* The frames above this depth in the place of those between. */
static void take_place(pom_stack_t *stack, int32_t from, int32_t above) {
    int32_t depth = stack->depth - above;
    memmove(&stack->frames[from], &stack->frames[above], (size_t)depth * sizeof stack->frames[0]);
    stack->depth = from + depth;
}

/* Takes the place of the request's own chain if one of its tasks that are known waits: the one that
 * ranks lowest, and so high at most (see push_child). */
static bool take_child(const pom_anchor_t *anchor, int most, int32_t helped, pom_stack_t *stack) {
    uintptr_t own = anchor->at.frame, at = 0, best = 0;
    int32_t own_depth = stack->depth;
    size_t next = 0;
    parked_frame_t first;
    while (most >= 0 && (at = pom_children_next(anchor->action, own, &next)) != 0) {
        stack->depth = own_depth;
        int rank = push_child(at, own, &first, stack);
        if (rank >= 0 && rank <= most && stands(&first)) {
            best = at;
            most = rank - 1;
        }
    }
    bool taken = best != 0 && at == best; // it stands in the stack
    if (best != 0 && !taken) {
        stack->depth = own_depth;
        taken = push_child(best, own, &first, stack) >= 0 && stands(&first);
    }
    if (taken) {
        take_place(stack, helped, own_depth);
    } else {
        stack->depth = own_depth;
    }
    return taken;
}

/* A request that waits for tasks which it has started waits where one of these does: that one's
 * chain then stands in the place of its own, as its lines do while it runs. What is in the stack up
 * to `helped` are frames of a thread. */
static void walk_child(const pom_slot_view_t *view, const pom_anchor_t *anchor, int32_t helped,
                       const parked_frame_t *leaf, pom_stack_t *stack) {
    const pom_action_t *action = anchor->action; // attached, as in helpers.c
    if (action->kind != &pom_asgi_kind || leaf->exchanged ||
        !pom_tasks_join(leaf->code, leaf->awaited) || take_child(anchor, 0, helped, stack)) {
        return;
    }
    pom_children_search(view);
    (void)take_child(anchor, 2, helped, stack);
}

/* The action's greenlet is switched out: its stack from the anchor on, or from a caller that stands
 * in for that. Or the anchor's own frame alone, where what has switched away cannot be told: a
 * generator, perhaps. */
static pom_status_t walk_greenlet(const pom_slot_view_t *view, const pom_anchor_t *anchor,
                                  pom_stack_t *stack) {
    unsigned char front[POM_FRAME_FRONT];
    parked_frame_t frame;
    uintptr_t at = anchor->at.frame;
    bool outside = anchor->kind == POM_ANCHOR_OUTSIDE;
    if ((at & 7) != 0 || pom_replay_read(at, front, sizeof front) != POM_OK) {
        return POM_ENOTFOUND;
    }
    parse_frame(at, front, &frame);
    if (frame.owner == POM_OWNER_GENERATOR || pom_greenlet_runs(view->slot->who.state, at)) {
        return POM_ENOTFOUND;
    }
    pom_status_t status = pom_greenlet_stack(view, &anchor->at, outside, stack);
    for (int i = 0; i < POM_ANCHOR_CALLERS && anchor->callers[i].frame != 0 && status != POM_OK;
         i++) {
        status = pom_greenlet_stack(view, &anchor->callers[i], false, stack);
    }
    bool alone = status != POM_OK && !outside && frame.owner == POM_OWNER_THREAD &&
                 frame.code == anchor->at.code && push(stack, &frame);
    return alone ? POM_OK : status;
}

pom_status_t pom_walk_parked(pom_walker_t *self, const pom_slot_view_t *view, uint32_t index,
                             pom_stack_t *stack, int64_t *helped_ns) {
    (void)self;
    const pom_anchor_t *anchor = &view->anchors[index];
    parked_frame_t first, frame;
    stack->depth = 0;
    stack->truncated = false;
    if (anchor->at.frame == 0) {
        return POM_ENOTFOUND; // a server in C
    }
    pom_replay_begin(anchor->at.frame);
    if (anchor->kind != POM_ANCHOR_INSIDE || !find_suspended(anchor, &frame)) {
        return walk_greenlet(view, anchor, stack);
    }
    first = frame;
    int32_t helped = pom_helpers_stack(anchor, stack, helped_ns);
    if (!push_awaits(&frame, 0, stack)) {
        return POM_ENOTFOUND;
    }
    walk_child(view, anchor, helped, &frame, stack);
    leaf_first(stack, helped);
    return stands(&first) ? POM_OK : POM_ENOTFOUND;
}
