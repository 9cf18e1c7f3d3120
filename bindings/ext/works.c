/*
 * Works: which action a piece of code belongs to, found from the stack itself.
 *
 * There is no "current action" variable. What is current is decided as the sampler decides it: walk
 * the calling thread's own frames up to the first one that anchors an action of this thread. So
 * greenlets, suspended generators and asyncio tasks that share a thread cannot be confused, and
 * entering or leaving an action sets nothing but its anchor. When nothing is attached to the
 * thread, which is the usual case at the start of a request, there is nothing to walk.
 *
 * A shed outermost action leaves its anchor too, in a small table that only app threads read: what
 * begins inside it follows its decision. It costs the sampler nothing.
 *
 * CPU time is taken at attach and detach, so that the record's is right even for a request that no
 * sample met. That is a system call (0.2-0.4 us, more than all the rest of an attach), so a reading
 * is good for CPU_GUESS_NS more, and until the thread is switched out (cpu_at).
 *
 * Over 400 lines: begin, end, message and the search of the current action are one protocol on one
 * set of frames.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/works.h"

#include <string.h>

#include "base/clock.h"
#include "base/rseq.h"
#include "base/thread_pointer.h"
#include "bindings/engine/engine.h"
#include "bindings/ext/anchors.h"
#include "bindings/ext/asyncio.h"
#include "bindings/ext/context.h"
#include "bindings/ext/core.h"
#include "bindings/ext/gil_walker.h"
#include "bindings/ext/text.h"
#include "bindings/ext/threads.h"
#include "bindings/ext/values.h"

/* A message that took longer was interrupted: the rest of that time was another thread's. */
#define MESSAGE_MOST_NS (50 * POM_NS_PER_US)

/* Frames of ours that app threads look at before they give up: a cycle is not possible under the
 * GIL. */
#define FRAMES_MAX POM_STACK_MAX

/* So long after a reading of its CPU clock a thread is taken to have run on. The attaches of one
 * request (a body's chunks, its close) and those of a loop of short actions come so close together
 * that one reading serves many. What a guess is wrong by, the next reading puts right, unless the
 * thread blocks for less than this between many stretches. */
#define CPU_GUESS_NS (50 * POM_NS_PER_US)

/* A thread that was not switched out has run. Interrupts, and a host that takes the CPU away from a
 * virtual machine, are in that time all the same, so its clock is read again after so long. */
#define CPU_RUN_NS (10 * POM_NS_PER_MS)

bool pom_work_engine_runs(void) {
    return pom_engine_state == POM_ENGINE_RUNNING ||
           (pom_engine_state == POM_ENGINE_FORKED && pom_core_restart());
}

bool pom_work_is_live(const pom_work_t *work) {
    return work->kind != POM_WORK_NONE && work->generation == pom_engine_generation() &&
           pom_engine_state == POM_ENGINE_RUNNING;
}

/* ---- frames in the identity of the engine in force ------------------------------------------- */

bool pom_work_frame(uintptr_t at, pom_own_frame_t *frame) {
    return pom_core_gil_mode() ? pom_gil_own_frame(at, frame)
                               : pom_own_frame((uintptr_t)PyThreadState_Get(), at, frame);
}

/* The same on the slot's own thread, without asking which one this is. */
static bool frame_of(const pom_slot_t *slot, uintptr_t at, pom_own_frame_t *frame) {
    return pom_core_gil_mode() ? pom_gil_own_frame(at, frame)
                               : pom_own_frame(slot->who.state, at, frame);
}

bool pom_work_caller(pom_own_frame_t *frame) {
    return pom_work_frame(0, frame);
}

static bool is_anchor(const pom_anchor_t *anchor, const pom_own_frame_t *frame) {
    if (anchor->at.frame == frame->frame &&
        (anchor->at.code == 0 || anchor->at.code == frame->code)) {
        return true;
    }
    return anchor->called_at == 0 && pom_anchor_remembers(anchor, frame->frame, frame->code);
}

/* The slot's anchors as its own thread sees them. */
static const pom_anchor_t *anchors_of(const pom_slot_t *slot, uint32_t *count) {
    *count = atomic_load_explicit(&slot->count, memory_order_relaxed);
    return atomic_load_explicit(&slot->table, memory_order_relaxed)->anchors;
}

static bool shed_at(const pom_slot_t *slot, const pom_own_frame_t *frame) {
    for (uint32_t i = 0; i < slot->shed_count; i++) {
        if (is_anchor(&slot->shed[i], frame)) {
            return true;
        }
    }
    return false;
}

typedef struct found_s {
    pom_action_t *action; /* NULL = none, or a shed one */
    bool is_shed;
    bool crossed; /* generators or coroutines lie between it and the leaf */
} found_t;

/* The first anchor on the calling stack, up to a frame of it; 0 = all of it, and what is anchored
 * outside of all Python. */
static found_t search_stack(const pom_slot_t *slot, uintptr_t last) {
    found_t found = {0};
    uint32_t count;
    const pom_anchor_t *anchors = anchors_of(slot, &count);
    pom_own_frame_t frame;
    bool more = pom_work_frame(0, &frame);
    for (int steps = 0; more && steps < FRAMES_MAX; steps++) {
        for (uint32_t i = pom_slot_may_anchor(slot, frame.frame) ? count : 0; i-- > 0;) {
            if (is_anchor(&anchors[i], &frame)) {
                found.action = anchors[i].action;
                return found;
            }
        }
        found.is_shed = shed_at(slot, &frame);
        if (found.is_shed || frame.frame == last) {
            return found;
        }
        found.crossed = found.crossed || frame.generator;
        more = frame.previous != 0 && pom_work_frame(frame.previous, &frame);
    }
    for (uint32_t i = pom_slot_may_anchor(slot, 0) ? count : 0; i-- > 0;) {
        if (anchors[i].at.frame == 0) {
            found.action = anchors[i].action;
            return found;
        }
    }
    return found;
}

/* The action whose anchor is the first on the calling stack, or the request whose context this is,
 * if that is asked; NULL with *is_shed telling whether a shed one is. An asyncio task has a context
 * of its own, so what lies above its coroutine is none of it: an action around the event loop, or
 * of the task that started this one eagerly. Asked only when such a one was met. */
static pom_action_t *find_action(const pom_slot_t *slot, bool *is_shed, bool ask_context) {
    *is_shed = false;
    if (atomic_load_explicit(&slot->count, memory_order_relaxed) == 0 && slot->shed_count == 0) {
        return NULL;
    }
    uintptr_t task = 0;
    found_t found = search_stack(slot, 0);
    if (found.crossed && (found.action != NULL || found.is_shed)) {
        uint32_t generation = pom_engine_generation();
        task = pom_asyncio_task_frame(); // runs code of the loop's, which may stop the engine
        if (pom_engine_state != POM_ENGINE_RUNNING || pom_engine_generation() != generation) {
            *is_shed = true; // nothing begins here
            return NULL;
        }
        if (task != 0) {
            found = search_stack(slot, task);
        }
    }
    if (found.action != NULL || found.is_shed) {
        *is_shed = found.is_shed;
        return found.action;
    }
    // That started the asyncio task we are in.
    const pom_work_t *request = ask_context ? pom_context_work() : NULL;
    if (request != NULL && request->slot == slot) {
        return request->action;
    }
    *is_shed = task == 0 && shed_at(slot, &(pom_own_frame_t){0}); // outside of all Python, likewise
    return NULL;
}

/* ---- begin and end --------------------------------------------------------------------------- */

static void fill_action(pom_action_t *a, pom_work_t *work, const pom_slot_t *slot) {
    work->task_id = pom_id_new();
    a->task_id = work->task_id;
    a->thread = slot->who.ident;
    memcpy(a->thread_name, slot->who.name, sizeof a->thread_name);
    a->holder = work;
}

static void nest(pom_work_t *work, pom_work_t *outermost) {
    const pom_work_t *around = outermost->nested != NULL ? outermost->nested : outermost;
    work->kind = POM_WORK_NESTED;
    work->action = outermost->action;
    work->task_id = around->task_id;
    work->task_uuid = Py_XNewRef(around->task_uuid);
    work->older = outermost->nested;
    if (work->older != NULL) {
        work->older->newer = work;
    }
    outermost->nested = work;
}

static void begin(pom_work_t *work, const pom_action_kind_t *kind, bool ask_context) {
    memset(work, 0, sizeof *work);
    pom_slot_t *slot = pom_threads_slot();
    bool is_shed = false;
    if (slot == NULL || pom_engine_state != POM_ENGINE_RUNNING) {
        // More threads than slots; a destination's thread, whose own actions would feed themselves;
        // or a collection since the caller asked has run code that stopped the engine.
        return;
    }
    work->generation = pom_engine_generation();
    pom_action_t *found = find_action(slot, &is_shed, ask_context);
    if (found != NULL) {
        nest(work, found->holder);
        return;
    }
    if (is_shed) {
        return; // follows the outer decision, and is not counted
    }
    int64_t now_ns = pom_now_ns();
    pom_registry_t *registry = pom_engine_registry();
    work->action = pom_registry_begin(registry, kind);
    work->kind = work->action != NULL ? POM_WORK_OUTERMOST : POM_WORK_SHED;
    if (work->action == NULL) {
        return;
    }
    work->action->start_ns = now_ns;
    work->action->start_wall_ns = pom_wall_ns();
    fill_action(work->action, work, slot);
}

void pom_work_begin(pom_work_t *work, const pom_action_kind_t *kind) {
    begin(work, kind, true);
}

void pom_work_begin_on_stack(pom_work_t *work, const pom_action_kind_t *kind) {
    begin(work, kind, false);
}

void pom_work_set_task(pom_work_t *work, pom_id_t id, PyObject *text) {
    PyObject *plain =
        text == NULL ? NULL : PyUnicode_FromObject(text); // exactly str: its end runs nobody's code
    if (plain == NULL) {
        PyErr_Clear(); // the id's plain form then
    }
    work->task_id = id;
    Py_XSETREF(work->task_uuid, plain);
    if (work->kind == POM_WORK_OUTERMOST && pom_work_is_live(work)) {
        work->action->task_id = id;
        Py_ssize_t size = 0;
        const char *utf8 = text == NULL ? NULL : pom_py_utf8(text, &size);
        if (utf8 != NULL) { // else the id's plain form
            work->action->task_text = pom_action_text(work->action, utf8, (size_t)size);
        }
    }
}

static void attach_shed(pom_work_t *work, pom_slot_t *slot, const pom_anchor_t *anchor) {
    if (slot->shed_count < POM_SHED_MAX) {
        pom_anchor_t *shed = &slot->shed[slot->shed_count++];
        *shed = *anchor;
        shed->action = work;
        work->slot = slot;
        work->slot_serial = slot->serial;
    }
}

static void detach_shed(pom_work_t *work) {
    pom_slot_t *slot = work->slot;
    work->slot = NULL;
    if (slot == NULL || work->generation != pom_engine_generation() ||
        slot->serial != work->slot_serial) {
        return; // the slot has been released, by the thread's end or the engine's
    }
    for (uint32_t i = slot->shed_count; i-- > 0;) {
        if (slot->shed[i].action == work) {
            slot->shed_count--;
            memmove(&slot->shed[i], &slot->shed[i + 1],
                    (slot->shed_count - i) * sizeof slot->shed[0]);
            return;
        }
    }
}

/* The CPU clock of the slot's thread, which is the calling one, at this moment. To read it makes
 * the kernel account for the thread, and take its CPU away if another waits and the slice is over,
 * which else comes with the next tick, up to 4 ms later. Behind a server of four threads, where one
 * has the interpreter's lock and the others want it, the readings added 7 % to a request's
 * switches. To ask for its switches asks for nothing of the kind, and costs less. */
static int64_t cpu_at(pom_slot_t *slot, int64_t now_ns) {
    pom_slot_cpu_t *cpu = &slot->cpu;
    int64_t since_ns = now_ns - cpu->known_at_ns;
    if (since_ns >= 0 && since_ns < CPU_GUESS_NS) {
        return cpu->known_ns + since_ns;
    }
    // Before the clock: a switch that comes between is seen next time.
    bool ran_on = pom_rseq_ran_on(&cpu->asker);
    if (since_ns >= 0 && ran_on && now_ns - cpu->read_at_ns < CPU_RUN_NS) {
        cpu->known_ns += since_ns;
        cpu->known_at_ns = now_ns;
    } else {
        cpu->known_ns = pom_thread_cpu_ns();
        cpu->known_at_ns = cpu->read_at_ns = pom_now_ns(); // it may have been away since now_ns
    }
    return cpu->known_ns;
}

/* The anchor comes with its frames and its kind. True: it is there now. */
static bool attach(pom_work_t *work, pom_slot_t *slot, pom_anchor_t *anchor, int64_t now_ns) {
    if (work->slot != NULL || !pom_work_is_live(work)) {
        return false;
    }
    if (work->kind == POM_WORK_SHED) {
        attach_shed(work, slot, anchor);
        return work->slot != NULL;
    }
    anchor->action = work->action;
    anchor->since_ns = now_ns;
    anchor->since_cpu_ns = cpu_at(slot, now_ns);
    anchor->before_ns = work->action->attached_ns;
    anchor->before_cpu_ns = work->action->cpu_ns;
    if (pom_slot_attach(slot, anchor) != POM_OK) {
        return false; // runs unsampled: its times are right, its tree is bare
    }
    work->slot = slot;
    work->slot_serial = slot->serial;
    work->attached_on = pom_this_thread();
    work->attached_at_ns = now_ns;
    work->attached_cpu_ns = anchor->since_cpu_ns;
    work->attached_as = slot->attaches;
    work->attached_alone = pom_slot_attached(slot) == 1;
    pom_sampler_notify(pom_engine_sampler());
    return true;
}

static bool is_attached_itself(const pom_work_t *work) {
    return work->kind == POM_WORK_OUTERMOST || work->kind == POM_WORK_SHED;
}

void pom_work_attach(pom_work_t *work, const pom_own_frame_t *frame, pom_anchor_kind_t kind,
                     int64_t now_ns) {
    // First: a thread's first slot may be claimed here, and that can run code of the user's, which
    // may stop the engine.
    pom_slot_t *slot = is_attached_itself(work) ? pom_threads_slot() : NULL;
    if (slot != NULL) {
        pom_anchor_t anchor = {.at = {.frame = frame->frame, .code = frame->code}, .kind = kind};
        (void)attach(work, slot, &anchor, now_ns); // unsampled else
    }
}

void pom_work_attach_caller(pom_work_t *work, int64_t now_ns) {
    pom_slot_t *slot = is_attached_itself(work) ? pom_threads_slot() : NULL; // likewise
    if (slot != NULL) {
        pom_own_frame_t caller;
        if (!frame_of(slot, 0, &caller)) {
            caller = (pom_own_frame_t){0}; // a server in C: the anchor is the end of the chain
        }
        pom_anchor_t anchor = {.at = {.frame = caller.frame, .code = caller.code},
                               .kind = POM_ANCHOR_OUTSIDE};
        (void)attach(work, slot, &anchor, now_ns); // likewise
    }
}

/* ---- actions that outlive the generator they are anchored in --------------------------------- */

static pom_work_t *watched; // newest first
static PyObject *gone;

/* The callback of weak references. Such an end is rare, so the work is looked for. */
static PyObject *generator_gone(PyObject *module, PyObject *reference) {
    (void)module;
    pom_work_t *work = watched;
    while (work != NULL && work->watch != reference) {
        work = work->watched_after;
    }
    if (work != NULL) {
        (void)pom_work_detach(work); // the end comes later, and asks for the moment itself
    }
    Py_RETURN_NONE;
}

static PyMethodDef gone_def = {"_generator_gone", generator_gone, METH_O, NULL};

int pom_work_init(void) {
    gone = PyCFunction_New(&gone_def, NULL);
    return gone == NULL ? -1 : 0;
}

/* Takes ownership of the reference. */
static void watch(pom_work_t *work, PyObject *reference) {
    work->watch = reference;
    work->watched_before = NULL;
    work->watched_after = watched;
    if (watched != NULL) {
        watched->watched_before = work;
    }
    watched = work;
}

static void unwatch(pom_work_t *work) {
    if (work->watch == NULL) {
        return;
    }
    if (work->watched_before != NULL) {
        work->watched_before->watched_after = work->watched_after;
    } else {
        watched = work->watched_after;
    }
    if (work->watched_after != NULL) {
        work->watched_after->watched_before = work->watched_before;
    }
    Py_CLEAR(work->watch);
}

void pom_work_attach_block(pom_work_t *work, const pom_own_frame_t *frame, int64_t now_ns) {
    if (!is_attached_itself(work)) {
        return;
    }
    // All that may run code of the user's comes first (contextlib is imported, an object is made, a
    // thread's first slot claimed): it may stop the engine, and the slot goes with that.
    pom_anchor_t anchor = {.kind = POM_ANCHOR_INSIDE};
    PyObject *generator = pom_anchors_fill(&anchor, frame);
    PyObject *reference = generator == NULL ? NULL : PyWeakref_NewRef(generator, gone);
    if (generator != NULL && reference == NULL) {
        PyErr_Clear(); // no memory: it stays where it is attached
    }
    Py_XDECREF(generator); // runs
    pom_slot_t *slot = pom_threads_slot();
    if (slot != NULL && attach(work, slot, &anchor, now_ns) && reference != NULL) {
        watch(work, reference);
    } else {
        Py_XDECREF(reference);
    }
}

/* ---- attached no more ------------------------------------------------------------------------ */

int64_t pom_work_detach(pom_work_t *work) {
    if (work->kind == POM_WORK_SHED) {
        detach_shed(work);
        return 0;
    }
    pom_slot_t *slot = work->slot;
    work->slot = NULL;
    if (slot == NULL || !pom_work_is_live(work) || slot->serial != work->slot_serial) {
        // its engine has been stopped, or its thread's state is gone and the slot with it
        return pom_now_ns();
    }
    (void)pom_slot_detach(slot, work->attached_as); // false only when stop() has withdrawn it
    int64_t now_ns = pom_now_ns();                  // after it: no sample is later
    // When other actions took turns with it on this thread, only samples tell whose time it was.
    if (work->attached_alone && slot->attaches == work->attached_as &&
        work->attached_on == pom_this_thread()) {
        // Less than nothing where the attach guessed too high: the sum is what counts.
        work->action->cpu_ns += cpu_at(slot, now_ns) - work->attached_cpu_ns;
        work->action->attached_ns += now_ns - work->attached_at_ns;
    }
    return now_ns;
}

void pom_work_charge(const pom_work_t *work, int64_t cost_ns) {
    if (pom_work_is_live(work)) {
        pom_registry_charge(pom_engine_registry(), work->action, cost_ns);
    }
}

/* Empty where there is none: of an exception whose text cannot be had its class is enough. */
static pom_text_t keep_text(pom_action_t *action, PyObject *text) {
    Py_ssize_t size = 0;
    const char *utf8 = text == NULL ? NULL : pom_py_utf8(text, &size);
    return utf8 == NULL ? (pom_text_t){0} : pom_action_text(action, utf8, (size_t)size);
}

void pom_work_keep_exception(pom_action_t *action, PyObject *name, PyObject *text) {
    action->exception = keep_text(action, name);
    action->reason = keep_text(action, text);
}

/* Class and text of an exception. str() is the user's code, so this runs before anything of the
 * work is changed. */
static void describe_exception(PyObject *exception, PyObject **name, PyObject **text) {
    *name = pom_py_exception_name(exception);
    *text = pom_py_exception_text(exception);
}

static void end_nested(pom_work_t *work) {
    pom_work_t *outermost = work->action->holder;
    if (work->newer != NULL) {
        work->newer->older = work->older;
    } else {
        outermost->nested = work->older;
    }
    if (work->older != NULL) {
        work->older->newer = work->newer;
    }
}

static void tell_sampler(bool hurry) {
    if (hurry) {
        pom_sampler_hurry(pom_engine_sampler());
    } else {
        pom_sampler_notify(pom_engine_sampler());
    }
}

static void end_outermost(pom_work_t *work, pom_outcome_t outcome, PyObject *name, PyObject *text) {
    pom_action_t *action = work->action;
    while (work->nested != NULL) {
        pom_work_t *nested = work->nested;
        work->nested = nested->older;
        nested->kind = POM_WORK_NONE;
        pom_registry_drop(pom_engine_registry(), action); // its end message comes too late
        nested->action = NULL;
        Py_CLEAR(nested->task_uuid);
    }
    if (name != NULL) { // else what is linked stays
        pom_work_keep_exception(action, name, text);
    }
    action->outcome = outcome;
    if (action->end_ns == 0) {         // else the caller's, of its detach
        action->end_ns = pom_now_ns(); // after the detach: no sample is later than the end
    }
    tell_sampler(pom_registry_end(pom_engine_registry(), action));
}

void pom_work_end(pom_work_t *work, pom_outcome_t outcome, PyObject *exception) {
    if (work->kind == POM_WORK_NONE) {
        return;
    }
    PyObject *name = NULL, *text = NULL;
    if (exception != NULL && work->kind == POM_WORK_OUTERMOST) {
        describe_exception(exception, &name, &text);
    }
    if (work->slot != NULL) {
        (void)pom_work_detach(work);
    }
    if (pom_work_is_live(work)) {
        if (work->kind == POM_WORK_OUTERMOST) {
            end_outermost(work, outcome, name, text);
        } else if (work->kind == POM_WORK_NESTED) {
            end_nested(work);
        }
    }
    work->kind = POM_WORK_NONE;
    work->action = NULL;
    unwatch(work);
    Py_CLEAR(work->task_uuid);
    Py_XDECREF(name);
    Py_XDECREF(text);
}

/* ---- messages -------------------------------------------------------------------------------- */

/* The anchor of an action on the calling thread, NULL = it is attached elsewhere or nowhere. */
static const pom_anchor_t *anchor_of(const pom_action_t *action) {
    pom_slot_t *slot = pom_threads_slot();
    uint32_t count = 0;
    const pom_anchor_t *anchors = slot == NULL ? NULL : anchors_of(slot, &count);
    for (uint32_t i = count; i-- > 0;) {
        if (anchors[i].action == action) {
            return &anchors[i];
        }
    }
    return NULL;
}

/* The part of a stack that a traceback adds: from the frame that handles the exception to where it
 * was raised. Returns the frames written, leaf first; *handler is the handling frame. */
static int32_t walk_traceback(PyObject *traceback, pom_raw_frame_t *frames, int32_t room,
                              uintptr_t *handler) {
    int32_t depth = 0;
    *handler = 0;
    for (PyObject *at = traceback; at != NULL && PyTraceBack_Check(at) && depth < room;
         at = (PyObject *)((PyTracebackObject *)at)->tb_next) {
        const PyTracebackObject *tb = (PyTracebackObject *)at;
        PyCodeObject *code = PyFrame_GetCode(tb->tb_frame); // the frame keeps it
        frames[depth++] = (pom_raw_frame_t){.code = (uintptr_t)code, .lasti = tb->tb_lasti / 2};
        Py_DECREF(code);
        if (*handler == 0) {
            *handler = pom_core_gil_mode() ? (uintptr_t)tb->tb_frame
                                           : pom_frame_of((uintptr_t)tb->tb_frame);
        }
    }
    for (int32_t i = 0; i < depth / 2; i++) { // outermost first so far
        pom_raw_frame_t other = frames[i];
        frames[i] = frames[depth - 1 - i];
        frames[depth - 1 - i] = other;
    }
    return depth;
}

static PyObject *stripped, *own; // prefixes of files; NULL = none

void pom_work_strip_leaf(PyObject *prefix) {
    Py_XSETREF(stripped, Py_NewRef(prefix));
}

void pom_work_strip_own(PyObject *prefix) {
    Py_XSETREF(own, Py_NewRef(prefix));
}

static bool begins_with(PyObject *file, PyObject *prefix) {
    return prefix != NULL && PyUnicode_Tailmatch(file, prefix, 0, PY_SSIZE_T_MAX, -1) == 1;
}

/* Ours too: between a logging library and its destination stands the integration's Python. */
static bool is_stripped(const pom_own_frame_t *frame) {
    PyObject *file =
        ((PyCodeObject *)frame->code)->co_filename; // borrowed; the frame runs this code
    return begins_with(file, stripped) || begins_with(file, own);
}

/* A coroutine's, and no generator's: an event loop may run in one of those. */
static bool is_coroutine(const pom_own_frame_t *frame) {
    return frame->generator && (((PyCodeObject *)frame->code)->co_flags & CO_COROUTINE) != 0;
}

/* The calling stack down to the action's anchor, leaf first, behind the `raised` frames that are
 * there already: those of a traceback whose handling frame is `handler`. Returns the depth; 0 when
 * the handler is not on this stretch of the stack. */
static int32_t capture_from(const pom_action_t *action, pom_raw_frame_t *frames, int32_t raised,
                            uintptr_t handler) {
    const pom_anchor_t *anchor = anchor_of(action);
    int32_t depth = raised, task_depth = 0; // up to the last coroutine: of an asyncio task
    bool handled = raised == 0, anchored = false;
    pom_own_frame_t frame;
    pom_noted_t noted;
    bool more = pom_work_frame(0, &frame);
    noted.count = 0;
    while (more && depth < POM_EVENT_FRAMES_MAX) {
        anchored = anchor != NULL && is_anchor(anchor, &frame);
        if (anchored && anchor->kind == POM_ANCHOR_OUTSIDE) {
            break;
        }
        if (!handled && frame.frame == handler) {
            // what was called while handling is not where it was raised: the traceback stands for
            // it
            handled = true;
        } else if (handled && (depth > 0 || !is_stripped(&frame))) {
            frames[depth++] = (pom_raw_frame_t){.code = frame.code, .lasti = frame.lasti};
        }
        if (anchored) {
            depth = pom_noted_depth(&noted, anchor, frame.lasti, depth);
            break;
        }
        if (anchor != NULL && pom_anchor_remembers(anchor, frame.frame, frame.code)) {
            // An exception that is handled only above it is handled outside of the block.
            pom_noted_add(&noted, frame.frame, frame.code, handled ? depth : 0);
        }
        task_depth = is_coroutine(&frame) ? depth : task_depth;
        more = frame.previous != 0 && pom_work_frame(frame.previous, &frame);
    }
    if (!anchored && task_depth > 0 && anchor != NULL) {
        depth = task_depth; // a task of the request's: below it is the event loop
    }
    return handled ? depth : 0;
}

/* The stack of a message; with a traceback, where its exception was raised, if it is handled inside
 * the action. */
static int32_t capture(const pom_action_t *action, PyObject *traceback, pom_raw_frame_t *frames) {
    uintptr_t handler = 0;
    int32_t depth = 0;
    if (traceback != NULL) {
        int32_t raised = walk_traceback(traceback, frames, POM_EVENT_FRAMES_MAX / 2, &handler);
        depth = raised == 0 ? 0 : capture_from(action, frames, raised, handler);
    }
    return depth > 0 ? depth : capture_from(action, frames, 0, 0);
}

static void write_head(pom_value_writer_t *w, const pom_work_head_t *head, const pom_work_t *work) {
    char uuid[POM_ID_TEXT];
    pom_value_key(w, "action_type", 11);
    pom_py_write_text(w, head->type);
    pom_value_key(w, "action_status", 13);
    pom_value_text(w, head->status, strlen(head->status));
    if (head->outcome != NULL) {
        pom_value_key(w, "outcome", 7);
        pom_value_text(w, head->outcome, strlen(head->outcome));
    }
    pom_value_key(w, "task_uuid", 9);
    if (work->task_uuid != NULL) {
        pom_py_write_text(w, work->task_uuid);
    } else {
        pom_id_format(work->task_id, uuid);
        pom_value_text(w, uuid, sizeof uuid);
    }
    if (head->exception != NULL) {
        PyObject *name, *text;
        describe_exception(head->exception, &name, &text);
        if (name != NULL) {
            pom_value_key(w, "exception", 9);
            pom_py_write_text(w, name);
        }
        if (text != NULL) {
            pom_value_key(w, "reason", 6);
            pom_py_write_text(w, text);
        }
        Py_XDECREF(name);
        Py_XDECREF(text);
    }
}

void pom_work_message(pom_work_t *work, const pom_work_head_t *head, PyObject *fields,
                      PyObject *traceback) {
    unsigned char encoded[POM_EVENT_FIELDS_MAX];
    // 32 KiB, which is all the stack some threads have. Under the GIL: nobody else's code runs from
    // the capture on.
    static pom_raw_frame_t raw[POM_EVENT_FRAMES_MAX];
    pom_value_writer_t writer;
    if (!pom_work_is_live(work) || work->action == NULL) {
        return;
    }
    int64_t start_ns = pom_now_ns();
    pom_value_begin(&writer, encoded, sizeof encoded);
    pom_value_map_begin(&writer);
    if (head != NULL) {
        write_head(&writer, head, work);
    }
    if (fields != NULL) {
        pom_py_write_entries(&writer, fields);
    }
    pom_value_map_end(&writer);
    uint32_t size = (uint32_t)pom_value_finish(&writer);
    // claimed before the capture asks for it, as it must not run anybody's code
    (void)pom_threads_slot();
    // Encoding and claiming may have run the user's code and let other threads run: the engine may
    // have been stopped.
    if (!pom_work_is_live(work) || work->action == NULL) {
        return;
    }
    int32_t depth = capture(work->action, traceback, raw);
    pom_registry_t *registry = pom_engine_registry();
    pom_event_t *event = pom_registry_event(registry, work->action, depth, size);
    if (event == NULL) {
        return; // counted
    }
    work->action->cut_values += writer.cut;
    pom_code_table_t *codes = pom_engine_codes();
    pom_event_frame_t *frames = pom_event_frames(event);
    for (int32_t i = 0; i < depth; i++) {
        frames[i].code = pom_code_table_get(codes, raw[i].code, true, NULL);
        frames[i].lasti = raw[i].lasti;
    }
    memcpy(pom_event_fields(event), encoded, size);
    event->at_ns = start_ns;
    tell_sampler(pom_registry_post(registry, event));
    int64_t took_ns = pom_now_ns() - start_ns;
    pom_registry_charge(registry, work->action,
                        took_ns < MESSAGE_MOST_NS ? took_ns : MESSAGE_MOST_NS);
}

/* ---- questions ------------------------------------------------------------------------------- */

PyObject *pom_work_task_uuid(pom_work_t *work) {
    if (work->task_uuid == NULL) {
        work->task_uuid = PyUnicode_New(POM_ID_TEXT, 127);
        if (work->task_uuid != NULL) {
            pom_id_format(work->task_id, (char *)PyUnicode_1BYTE_DATA(work->task_uuid));
        }
    }
    return Py_XNewRef(work->task_uuid);
}

pom_work_t *pom_work_current(void) {
    if (pom_engine_state != POM_ENGINE_RUNNING) {
        return NULL;
    }
    pom_slot_t *slot = pom_threads_slot();
    bool is_shed = false;
    pom_action_t *action = slot == NULL ? NULL : find_action(slot, &is_shed, true);
    if (action == NULL && !is_shed) {
        return pom_context_work(); // a thread that works for a request, in a copy of its context
    }
    pom_work_t *outermost = action == NULL ? NULL : action->holder;
    return outermost != NULL && outermost->nested != NULL ? outermost->nested : outermost;
}
