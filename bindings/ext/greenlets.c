/*
 * The stack of a greenlet that is switched out.
 *
 * greenlet keeps the ends of such a stack in an object that each of its releases lays out as it
 * likes, and that nothing leads to from a frame. What CPython says is enough. The frames of
 * ordinary calls lie one above the other in the chunk that the greenlet took with it, each as long
 * as its code says, so they are followed from the anchor's on upwards. What has returned keeps its
 * bytes there and looks the same, but for one thing: a switch has the interpreter make a frame
 * object for the frame that it leaves, and the two name each other only until the frame returns. So
 * the highest that does is alive, and with it all that lie below.
 *
 *     chunk:   ... anchor | view | query | sleep <--> frame object    | returned | returned ...
 *
 * A generator on that stack lies in the heap, and is found as the caller of an ordinary frame. Not
 * found are: one that has switched away itself, and what only C calls between (from 3.12 on the
 * entry from C lies on the greenlet's C stack, which was copied away); frames in a further chunk,
 * which some 100 calls deep begins. A stack that lacks its leaf says where the leaf was called.
 *
 * Runs on the sampler thread. The rest of the chunk is copied at once, and what of it is alive
 * looked at again at the end.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/greenlets.h"

#include <string.h>

#include "bindings/ext/memory.h"

#define CHUNKS_MAX     64
#define PAGE           ((uintptr_t)4096)
#define PAGES_MAX      4   // a chunk of the usual size
#define FRAMES_MAX     192 // in it, of the smallest kind
#define OBJECTS_MAX    8   // frame objects asked for one leaf: what has returned has none
#define GENERATORS_MAX 16  // between two ordinary frames
#define SIZES          256

/* A code object up to where it says how long its frames are. */
#define CODE_FRONT offsetof(PyCodeObject, co_localsplusnames)

/* A frame object up to the frame that it is of. */
#define OBJECT_FRONT (offsetof(PyFrameObject, f_frame) + sizeof(uintptr_t))

/* the sampler thread's */
static struct { uintptr_t code, size; } sizes[SIZES]; // of frames; a guess, checked for each stack
static struct {
    uintptr_t first; /* frame */
    size_t size;     /* of what was copied from there on */
    size_t count;
    const unsigned char *frames[FRAMES_MAX];
    _Alignas(8) unsigned char bytes[PAGES_MAX * PAGE];
} window;

static uintptr_t word(const unsigned char *at) {
    uintptr_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uintptr_t code_of(const unsigned char *frame) {
    return word(frame + POM_FRAME_CODE) & POM_REF_MASK;
}

static uintptr_t address_of(const unsigned char *frame) {
    return window.first + (uintptr_t)(frame - window.bytes);
}

bool pom_greenlet_runs(uintptr_t state, uintptr_t frame) {
    uintptr_t chunk;
    if (pom_memory_read(state + POM_TSTATE_CHUNK, &chunk, sizeof chunk) != POM_OK) {
        return true;
    }
    for (int i = 0; i < CHUNKS_MAX; i++) {
        _PyStackChunk head;
        if (chunk == 0) {
            return false;
        }
        if ((chunk & 7) != 0 ||
            pom_memory_read(chunk, &head, offsetof(_PyStackChunk, data)) != POM_OK ||
            (frame >= chunk && frame < chunk + head.size)) {
            return true;
        }
        chunk = (uintptr_t)head.previous;
    }
    return true;
}

/* ---- the frames that may be there ------------------------------------------------------------ */

/* From the frame on, page by page, as far as there is memory. */
static void copy_window(uintptr_t first) {
    pom_memory_part_t parts[PAGES_MAX + 1];
    size_t left = sizeof window.bytes, count = 0;
    for (uintptr_t at = first; left > 0; count++) {
        size_t size = PAGE - at % PAGE < left ? PAGE - at % PAGE : left;
        parts[count] = (pom_memory_part_t){at, size};
        at += size;
        left -= size;
    }
    size_t got = pom_memory_gather(parts, count, window.bytes);
    window.first = first;
    window.size = 0;
    for (size_t i = 0; i < got; i++) {
        window.size += parts[i].size;
    }
}

static uintptr_t size_in(const unsigned char *code) {
    return word(code + offsetof(PyObject, ob_type)) == (uintptr_t)&PyCode_Type
               ? pom_layout_frame_size(code)
               : 0;
}

/* Of frames of this code; 0: it is none. */
static uintptr_t size_of_frames(uintptr_t code) {
    unsigned char copy[CODE_FRONT];
    size_t place = (code >> 4) % SIZES;
    if (code == 0 || (code & 7) != 0) {
        return 0;
    }
    if (sizes[place].code != code) {
        if (pom_memory_read(code, copy, sizeof copy) != POM_OK) {
            return 0;
        }
        sizes[place].code = code;
        sizes[place].size = size_in(copy);
    }
    return sizes[place].size;
}

static void find_frames(void) {
    size_t at = 0;
    window.count = 0;
    while (window.count < FRAMES_MAX && at < window.size && window.size - at >= POM_FRAME_FRONT) {
        const unsigned char *frame = window.bytes + at;
        uintptr_t size =
            frame[POM_FRAME_OWNER] == POM_OWNER_THREAD ? size_of_frames(code_of(frame)) : 0;
        if (size < POM_FRAME_FRONT) {
            return;
        }
        window.frames[window.count++] = frame;
        at += size;
    }
}

/* ---- those that are -------------------------------------------------------------------------- */

static uintptr_t object_of(const unsigned char *frame) {
    return word(frame + POM_FRAME_OBJECT);
}

/* It and its frame object name each other. */
static bool is_alive(const unsigned char *frame) {
    unsigned char copy[OBJECT_FRONT];
    return (object_of(frame) & 7) == 0 &&
           pom_memory_read(object_of(frame), copy, sizeof copy) == POM_OK &&
           word(copy + offsetof(PyObject, ob_type)) == (uintptr_t)&PyFrame_Type &&
           word(copy + offsetof(PyFrameObject, f_frame)) == address_of(frame);
}

/* How many are alive: up to the highest that is known to be. */
static size_t count_alive(void) {
    int asked = 0;
    for (size_t i = window.count; i > 0 && asked < OBJECTS_MAX; i--) {
        if (object_of(window.frames[i - 1]) != 0) {
            asked++;
            if (is_alive(window.frames[i - 1])) {
                return i;
            }
        }
    }
    return 0;
}

/* They lie where their codes say today: another one may have come to the address of one that was
 * remembered. */
static bool sizes_hold(size_t count) {
    static unsigned char codes[POM_MEMORY_PARTS_MAX][CODE_FRONT];
    for (size_t from = 0; from < count; from += POM_MEMORY_PARTS_MAX) {
        pom_memory_part_t parts[POM_MEMORY_PARTS_MAX];
        size_t some = count - from < POM_MEMORY_PARTS_MAX ? count - from : POM_MEMORY_PARTS_MAX;
        for (size_t i = 0; i < some; i++) {
            parts[i] = (pom_memory_part_t){code_of(window.frames[from + i]), CODE_FRONT};
        }
        size_t got = pom_memory_gather(parts, some, codes);
        for (size_t i = 0; i < some; i++) {
            if (i >= got || size_in(codes[i]) != size_of_frames(parts[i].address)) {
                memset(sizes, 0, sizeof sizes);
                return false;
            }
        }
    }
    return true;
}

static bool same_word(const unsigned char *now, const unsigned char *then, size_t at) {
    return word(now + at) == word(then + at);
}

/* None of them has moved since, and their greenlet is still switched out. A copy of two pages can
 * have the lower frames of one wait and the upper ones of the next. */
static bool stand(const pom_slot_view_t *view, size_t alive) {
    static _Alignas(8) unsigned char again[PAGES_MAX * PAGE];
    const unsigned char *leaf = window.frames[alive - 1];
    size_t size = (size_t)(leaf - window.bytes) + POM_FRAME_FRONT;
    bool same = pom_memory_read(window.first, again, size) == POM_OK;
    for (size_t i = 0; i < alive && same; i++) {
        const unsigned char *then = window.frames[i], *now = again + (then - window.bytes);
        same = same_word(now, then, POM_FRAME_CODE) && same_word(now, then, POM_FRAME_IP) &&
               same_word(now, then, POM_FRAME_PREVIOUS);
    }
    return same && object_of(again + (leaf - window.bytes)) == object_of(leaf) &&
           !pom_greenlet_runs(view->slot->who.state, address_of(leaf));
}

/* ---- the stack ------------------------------------------------------------------------------- */

static bool push(pom_stack_t *stack, const unsigned char *frame) {
    uintptr_t code = code_of(frame);
    int32_t lasti;
    if (stack->depth == POM_STACK_MAX ||
        !pom_layout_lasti(code, word(frame + POM_FRAME_IP), &lasti)) {
        return false;
    }
    stack->frames[stack->depth++] = (pom_raw_frame_t){.code = code, .lasti = lasti};
    return true;
}

/* The generators that stand between a frame and the ordinary one below it. Of the C stack nothing
 * is asked: it is another greenlet's. */
static bool push_generators(const pom_slot_view_t *view, uintptr_t caller, uintptr_t below,
                            pom_stack_t *stack) {
    const pom_thread_identity_t *who = &view->slot->who;
    for (int i = 0; i < GENERATORS_MAX && caller != below; i++) {
        unsigned char copy[POM_FRAME_INSIDE + POM_FRAME_FRONT];
        bool on_stack = caller >= who->stack_low && caller < who->stack_high;
        if (on_stack || (caller & 7) != 0 ||
            pom_memory_read(caller - POM_FRAME_INSIDE, copy, sizeof copy) != POM_OK ||
            !pom_layout_is_generator(copy) || !pom_layout_is_executing(copy)) {
            return true;
        }
        const unsigned char *frame = copy + POM_FRAME_INSIDE;
        if (!push(stack, frame)) {
            return false;
        }
        caller = word(frame + POM_FRAME_PREVIOUS);
    }
    return true;
}

pom_status_t pom_greenlet_stack(const pom_slot_view_t *view, const pom_frame_id_t *from, bool above,
                                pom_stack_t *stack) {
    if ((from->frame & 7) != 0 || from->frame == 0) {
        return POM_ENOTFOUND;
    }
    copy_window(from->frame);
    find_frames();
    if (window.count == 0 || code_of(window.frames[0]) != from->code) {
        return POM_ENOTFOUND;
    }
    size_t left_out = above ? 1 : 0, alive = count_alive();
    if (alive <= left_out || !sizes_hold(alive)) {
        return POM_ENOTFOUND;
    }
    for (size_t i = alive; i-- > left_out;) {
        const unsigned char *frame = window.frames[i];
        if (!push(stack, frame) ||
            (i > 0 && !push_generators(view, word(frame + POM_FRAME_PREVIOUS),
                                       address_of(window.frames[i - 1]), stack))) {
            stack->depth = 0;
            return POM_ENOTFOUND;
        }
    }
    if (!stand(view, alive)) {
        stack->depth = 0;
        return POM_ENOTFOUND;
    }
    return POM_OK;
}
