/*
 * The GIL walker: the public API's view of another thread's frames.
 *
 * Runs on the sampler thread, which waits for the GIL here as any Python thread does: up to the
 * switch interval when some thread computes. Samples are therefore late, and shift to where threads
 * give the GIL up; that is why this engine is only the second choice, and why records name it. What
 * it sees is never torn: nothing runs while it looks.
 *
 * The thread may have died before the GIL was ours. As a slot is released under the GIL before its
 * thread state goes, a view that still holds proves that the state is there. A thread that ends
 * without the GIL leaves its state, but no stack; its end waits for this walk.
 *
 * Asking for frames makes frame objects, and on 3.11 making objects may start a collection, which
 * runs finalizers of the user's: on the sampler's small stack, or in the middle of a look-up of a
 * request's. So collections are off meanwhile.
 *
 * An interpreter that ends makes a foreign thread that wants the GIL end or hang. The engine is
 * stopped before that, at exit; the look at the flag covers those who end it otherwise, but for the
 * instant between look and wait.
 */
#include "bindings/ext/gil_walker.h"

#include <Python.h>

#include <pthread.h>

#define STEPS_MAX                                                                                  \
    (2 * POM_STACK_MAX) // frames; deeper recursion is not looked through with everybody waiting

typedef struct match_s {
    int anchor; /* -1 = none */
    bool outside;
    bool remembered; /* it may be where the stack of an anchor further up begins */
} match_t;

/* Which of the view's anchors a frame is; else which one remembers it as a caller, and so owns
 * the samples once its own frame has returned. */
static match_t match(const pom_slot_view_t *view, uintptr_t frame, uintptr_t code) {
    match_t found = {.anchor = -1};
    for (uint32_t i = 0; i < view->count; i++) {
        const pom_anchor_t *a = &view->anchors[i];
        if (a->at.frame == frame && (a->at.code == 0 || a->at.code == code)) {
            return (match_t){.anchor = (int)i, .outside = a->kind == POM_ANCHOR_OUTSIDE};
        }
        if (pom_anchor_remembers(a, frame, code)) {
            found.remembered = found.remembered || a->called_at != 0;
            found.anchor = found.anchor < 0 && a->called_at == 0 ? (int)i : found.anchor;
        }
    }
    return found;
}

/* Borrowed: the frame keeps its code. */
static uintptr_t code_of(PyFrameObject *frame) {
    PyCodeObject *code = PyFrame_GetCode(frame);
    Py_DECREF(code);
    return (uintptr_t)code;
}

/* In instructions, as everywhere here; the API counts bytes. */
static int32_t lasti_of(PyFrameObject *frame) {
    int bytes = PyFrame_GetLasti(frame);
    return bytes < 0 ? -1 : bytes / 2;
}

static pom_status_t walk_frames(const pom_slot_view_t *view, pom_stack_t *stack, uint32_t *anchor) {
    PyThreadState *state = (PyThreadState *)view->slot->who.state;
    PyFrameObject *frame = PyThreadState_GetFrame(state); // owned
    match_t found = {.anchor = -1};
    pom_noted_t noted;
    int steps = 0;
    noted.count = 0;
    stack->depth = 0;
    stack->truncated = false;
    for (; frame != NULL && steps < STEPS_MAX; steps++) {
        uintptr_t code = code_of(frame);
        found = match(view, (uintptr_t)frame, code);
        if (found.anchor >= 0 && found.outside) {
            break;
        }
        if (stack->depth < POM_STACK_MAX) {
            stack->frames[stack->depth++] =
                (pom_raw_frame_t){.code = code, .lasti = lasti_of(frame)};
        } else {
            stack->truncated = true;
        }
        if (found.anchor >= 0) {
            stack->depth = pom_noted_depth(&noted, &view->anchors[found.anchor], lasti_of(frame),
                                           stack->depth);
            break;
        }
        if (found.remembered) {
            pom_noted_add(&noted, (uintptr_t)frame, code, stack->depth);
        }
        Py_SETREF(frame, PyFrame_GetBack(frame));
    }
    if (frame == NULL) {
        found = match(view, 0, 0); // anchored outside of all Python: a server in C
    }
    bool deeper = frame != NULL;
    Py_XDECREF(frame);
    *anchor = (uint32_t)found.anchor;
    return found.anchor >= 0 ? POM_OK : deeper ? POM_EFULL : POM_ENOTFOUND;
}

static bool is_finalizing(void) {
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

/* The sampler thread keeps one thread state from its first walk to its end. One for each walk costs
 * more, and lets tracemalloc.stop() crash the process (CPython gh-128679): its hook around the
 * state's allocation waits for the GIL, and does not look again after. */
static pthread_key_t kept_state;
static pthread_once_t kept_once = PTHREAD_ONCE_INIT;

/* On the sampler thread as it ends; whoever joins it has let go of the GIL. */
static void drop_state(void *state) {
    if (!is_finalizing()) {
        // Not PyGILState_Release: the interpreter's own note of this thread may be gone already, by
        // the same clearing of keys.
        PyEval_RestoreThread(state);
        PyThreadState_Clear(state);
        PyThreadState_DeleteCurrent();
    }
}

static void make_key(void) {
    (void)pthread_key_create(&kept_state,
                             drop_state); // without a key the state stays for the process's life
}

static bool lock(pom_walker_t *self) {
    (void)self;
    if (is_finalizing()) {
        return false;
    }
    (void)pthread_once(&kept_once, make_key);
    PyThreadState *kept = pthread_getspecific(kept_state);
    if (kept != NULL) {
        PyEval_RestoreThread(kept);
    } else {
        (void)PyGILState_Ensure(); // undone by drop_state
        (void)pthread_setspecific(kept_state, PyThreadState_Get());
    }
    return true;
}

static void unlock(pom_walker_t *self) {
    (void)self;
    (void)PyEval_SaveThread(); // what is kept
}

static pom_status_t walk(pom_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                         uint32_t *anchor) {
    (void)self;
    if (!pom_slot_view_holds(view)) {
        return POM_ETORN;
    }
    int collects = PyGC_Disable();
    pom_status_t status = walk_frames(view, stack, anchor);
    if (collects) {
        PyGC_Enable();
    }
    return status;
}

pom_walker_t *pom_gil_walker(void) {
    static pom_walker_t walker = {.lock = lock, .unlock = unlock, .walk = walk};
    return &walker;
}

/* ---- a thread's own stack ------------------------------------------------------------------- */

bool pom_gil_own_frame(uintptr_t at, pom_own_frame_t *out) {
    int collects = PyGC_Disable();
    // Borrowed, both: a frame that runs keeps its frame object, and nothing runs in here.
    PyFrameObject *frame = at != 0 ? (PyFrameObject *)at : PyEval_GetFrame();
    if (frame != NULL) {
        PyFrameObject *back = PyFrame_GetBack(frame);
        PyObject *generator = PyFrame_GetGenerator(frame);
        *out = (pom_own_frame_t){.frame = (uintptr_t)frame,
                                 .code = code_of(frame),
                                 .previous = (uintptr_t)back,
                                 .lasti = lasti_of(frame),
                                 // None from 3.15 on, where it was NULL.
                                 .generator = generator != NULL && generator != Py_None};
        Py_XDECREF(generator);
        Py_XDECREF(back);
    }
    if (collects) {
        PyGC_Enable();
    }
    return frame != NULL;
}
