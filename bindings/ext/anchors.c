/*
 * Which frames an action is known by.
 *
 * Its block is in the frame that calls __enter__. Two frames that call __enter__ are not the
 * block's: contextlib's, when a generator-based context manager enters the action (then the block
 * is in contextlib's caller), and the decorator's wrapper (which is of this package, so it never
 * shows).
 *
 * The frame may have returned when the block runs: an ExitStack's, a class whose __enter__ enters
 * an action. So its callers stand in for it, but none beyond the first generator or coroutine: what
 * runs that runs others too, in turn, from the same frame of an event loop, and the same helper's
 * next call, for another task, has the same address and code. What such a one calls is over before
 * it is left. So where there is one, the action is anchored at it, owns what runs below it and
 * nothing while it is suspended; the frames in between only say where its stack begins, and only
 * while it has not come back from the call they belong to.
 *
 *     plain block:   at = F   callers = the next above      stand in for F
 *     below one, G:  at = G   callers = F, the next above   the stack begins there, while G stands
 *                                                           at called_at
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/anchors.h"

#include "bindings/ext/asyncio.h"
#include "bindings/ext/core.h"
#include "bindings/ext/works.h"

/* So far up a generator is looked for, at 5 ns a frame. A block that lies deeper below one is
 * anchored at itself. */
#define NEAR_MAX 64

static PyObject
    *contextlib_file; // of contextlib.__file__'s code, found at first use; NULL = not yet

static bool is_contextlib(uintptr_t code_address) {
    if (contextlib_file == NULL) {
        PyObject *module = PyImport_ImportModule("contextlib");
        contextlib_file = module == NULL ? NULL : PyObject_GetAttrString(module, "__file__");
        Py_XDECREF(module);
        if (contextlib_file == NULL) {
            PyErr_Clear(); // frozen away: then nothing is contextlib's
            contextlib_file = Py_NewRef(Py_None);
        }
    }
    PyObject *file =
        ((PyCodeObject *)code_address)->co_filename; // borrowed; the frame runs this code
    return PyUnicode_Check(contextlib_file) && PyUnicode_Compare(file, contextlib_file) == 0;
}

static bool next_above(pom_own_frame_t *frame) {
    return frame->previous != 0 && pom_work_frame(frame->previous, frame);
}

/* From a generator that contextlib drives, or that is contextlib's own, to the frame whose block
 * its block is. */
static bool past_contextlib(pom_own_frame_t *generator) {
    pom_own_frame_t frame = *generator;
    bool driven = is_contextlib(frame.code), more = true;
    while (more && next_above(&frame)) {
        more = is_contextlib(frame.code);
        driven = driven || more;
    }
    if (driven && !more) {
        *generator = frame;
    }
    return driven && !more;
}

bool pom_anchors_block(pom_own_frame_t *frame) {
    if (!pom_work_caller(frame)) {
        return false;
    }
    while (frame->generator && past_contextlib(frame)) {
    }
    return true;
}

bool pom_anchors_context(pom_own_frame_t *frame) {
    uintptr_t coroutine = pom_asyncio_task_frame();
    if (coroutine != 0) {
        return pom_work_frame(coroutine, frame);
    }
    bool found = pom_work_caller(frame);
    pom_own_frame_t next = *frame;
    while (found && next_above(&next)) {
        *frame = next;
    }
    return found;
}

static pom_frame_id_t id_of(const pom_own_frame_t *frame) {
    return (pom_frame_id_t){.frame = frame->frame, .code = frame->code};
}

/* At the generator, and what was found so far is below it. */
static void fill_below(pom_anchor_t *anchor, const pom_own_frame_t *generator) {
    for (int i = POM_ANCHOR_CALLERS - 1; i > 0; i--) {
        anchor->callers[i] = anchor->callers[i - 1];
    }
    anchor->callers[0] = anchor->at;
    anchor->at = id_of(generator);
    anchor->called_at = pom_anchor_called_at(generator->lasti);
}

/* New reference: its frame runs, so it is there. */
static PyObject *generator_of(const pom_own_frame_t *frame) {
    return pom_core_gil_mode() ? PyFrame_GetGenerator((PyFrameObject *)frame->frame)
                               : Py_NewRef((PyObject *)(frame->frame - POM_FRAME_INSIDE));
}

PyObject *pom_anchors_fill(pom_anchor_t *anchor, const pom_own_frame_t *frame) {
    pom_own_frame_t above = *frame;
    anchor->at = id_of(frame);
    if (frame->generator) {
        return generator_of(frame); // a consumer's work is not the producer's
    }
    for (int i = 0; i < NEAR_MAX && next_above(&above); i++) {
        while (above.generator) {
            if (!past_contextlib(&above)) {
                fill_below(anchor, &above);
                return generator_of(&above);
            }
        }
        if (i < POM_ANCHOR_CALLERS) {
            anchor->callers[i] = id_of(&above);
        }
    }
    return NULL;
}
