/*
 * Which thread works for a request that waits.
 *
 * Nothing tells the sampler that a pool's thread has taken something up for a request: a watcher of
 * contexts would cost each step of each task, and a patch of the pool is not ours to make. But the
 * function runs in a copy of the request's context, so the thread's state says whom it works for.
 * So a tick that looks at a request that waits lists the interpreter's threads (once), and asks the
 * context of those that have one, until one names this request. An idle thread of a pool has no
 * context, and costs a copy of its state.
 *
 *     interpreter -> state -> state -> state    one system call for 16, guessed from the last list
 *                      |
 *                    context -> variable -> request    4 copies (context.c), at most LOOKUPS_MAX
 *                      |
 *                    stack                     some 5 copies (copied_stack.c), the context again
 *
 * Such a thread has no slot that would keep its memory, so all of this is copied, and believed only
 * when the context still names the request after the stack was read. A thread with an action of its
 * own is left out: its lines are in that one's record.
 *
 * What is found lives until the next tick, as numbers that are compared. So a request that ends, or
 * is cancelled, while a thread still works for it is nobody's concern: it waits no more, and is not
 * looked at.
 *
 * Nobody has read the thread's CPU clock when it took the work up. So a look that meets it on a CPU
 * has all that it used since it was last met so, up to the time since a look at the action met such
 * a thread, or none at all: the end of one request's work may go to the next one's.
 *
 * Runs on the sampler thread, but for the check at start.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/helpers.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "actions/action.h"
#include "base/clock.h"
#include "bindings/ext/children.h"
#include "bindings/ext/context.h"
#include "bindings/ext/copied_stack.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/walker.h"
#include "middleware/request.h"
#include "sampler/thread_files.h"
#include "sampler/walker.h"

/* The newest of more are seen. anyio's pool has 40 threads and that of asyncio 32 at most. */
#define THREADS_MAX 128
#define BATCH       16

/* Contexts asked in one tick, 1.5 us each: as many requests at a time are in threads rarely, and
 * which are asked changes from tick to tick. */
#define LOOKUPS_MAX 32

/* By the thread's id: of ten that compute, two meet at one place once in a hundred times. */
#define CLOCKS_SEEN 4096

/* Threads that the check at start goes through: the main one is the last. */
#define LIST_MAX 65536

typedef struct helper_s {
    pom_thread_copy_t thread;
    uintptr_t owner; /* whom its context names; 0 = nobody, once asked */
    bool asked;
} helper_t;

/* What is known of a thread's CPU clock. */
typedef struct clock_seen_s {
    int32_t tid;
    int64_t at_ns;    /* of the thread's last look */
    int64_t met_ns;   /* what it said when the thread was last met with a CPU */
    int64_t asked_ns; /* likewise, or when it was asked for whether it wants one */
} clock_seen_t;

/* Written by the check, before there is a sampler. */
static uintptr_t interpreter;
static uintptr_t starter; // for pom_copied_stack
static char reason[160] = "not looked at yet";

/* The sampler thread's. */
static const pom_slots_t *all_slots;
static bool listed;                   // in this tick
static uintptr_t states[THREADS_MAX]; // all threads when they were last listed
static size_t state_count;
static helper_t helpers[THREADS_MAX]; // those in a context
static size_t helper_count;
static int lookups;
static uint32_t turn; // who is asked first
static clock_seen_t clocks_seen[CLOCKS_SEEN];

/* ---- the list of threads --------------------------------------------------------------------- */

/* Copies the states from this one on, as far as the last list says where they are; returns how
 * many. */
static size_t copy_states(uintptr_t at, size_t *guess, uintptr_t *where,
                          unsigned char (*fronts)[POM_TSTATE_FRONT]) {
    pom_memory_part_t parts[BATCH];
    size_t from = *guess, count = 0;
    while (from < state_count && states[from] != at) {
        from++;
    }
    if (from < state_count) {
        *guess = from;
        count = state_count - from < BATCH ? state_count - from : BATCH;
        memcpy(where, &states[from], count * sizeof *where);
    } else {
        count = 1; // a new thread
        where[0] = at;
    }
    for (size_t i = 0; i < count; i++) {
        parts[i] = (pom_memory_part_t){where[i], POM_TSTATE_FRONT};
    }
    return pom_memory_gather(parts, count, fronts);
}

static uintptr_t first_thread(void) {
    return pom_memory_word(interpreter + POM_INTERP_THREADS);
}

/* Only those whose context has any variables: from 3.14 on each thread starts in an empty one. */
static void drop_empty_contexts(void) {
    pom_memory_part_t parts[BATCH];
    uintptr_t variables[BATCH];
    size_t kept = 0, next = 0;
    while (next < helper_count) {
        size_t count = helper_count - next < BATCH ? helper_count - next : BATCH;
        for (size_t i = 0; i < count; i++) {
            uintptr_t at = helpers[next + i].thread.context + pom_context_variables;
            parts[i] = (pom_memory_part_t){at, sizeof variables[i]};
        }
        size_t got = pom_memory_gather(parts, count, variables);
        for (size_t i = 0; i < got; i++) {
            if (variables[i] != pom_context_no_variables) {
                helpers[kept++] = helpers[next + i];
            }
        }
        next += got < count ? got + 1 : count; // past one that is gone
    }
    helper_count = kept;
}

/* All threads, and of these the ones that are in a context. A list that changes meanwhile is cut
 * short, or has one that is gone. */
static void list_threads(void) {
    uintptr_t found[THREADS_MAX], where[BATCH];
    unsigned char fronts[BATCH][POM_TSTATE_FRONT];
    size_t count = 0, guess = 0;
    uintptr_t at = first_thread();
    helper_count = 0;
    while (at != 0 && (at & 7) == 0 && count < THREADS_MAX) {
        size_t got = copy_states(at, &guess, where, fronts);
        if (got == 0) {
            break;
        }
        // As long as the list is what it was.
        for (size_t i = 0; i < got && where[i] == at && count < THREADS_MAX; i++) {
            pom_thread_copy_t thread;
            pom_thread_copy(at, fronts[i], &thread);
            if (thread.interp != interpreter) {
                at = 0; // no thread state any more
                break;
            }
            found[count++] = at;
            if (thread.context != 0) {
                helpers[helper_count++] = (helper_t){.thread = thread};
            }
            at = thread.next;
        }
    }
    memcpy(states, found, count * sizeof found[0]);
    state_count = count;
    drop_empty_contexts();
}

/* ---- for one request ------------------------------------------------------------------------- */

void pom_helpers_begin(pom_walker_t *self, const pom_slots_t *slots) {
    (void)self;
    all_slots = slots;
    listed = false;
    lookups = 0;
    pom_children_begin();
}

static bool works_for(helper_t *helper, const pom_action_t *action) {
    if (!helper->asked && lookups < LOOKUPS_MAX) {
        helper->asked = true;
        if (!pom_slots_busy(all_slots, helper->thread.state)) {
            helper->owner = pom_context_owner(helper->thread.context);
            lookups++;
        }
    }
    return pom_context_owns(helper->owner, action);
}

/* The thread has a CPU, or had to leave it to us, as of one with a slot (sampler.c): its clock has
 * gone on during the look, or it wants the CPU that is ours. Returns what it used since it was last
 * met so, or first met; else 0. */
static int64_t used_cpu(int32_t tid, int64_t before_ns) {
    clock_seen_t *seen = &clocks_seen[(uint32_t)tid % CLOCKS_SEEN];
    int64_t now_ns = pom_now_ns(), after_ns = 0;
    if (seen->tid != tid || seen->met_ns > before_ns) { // or it has ended, and its id come again
        // For whom it has used what it did before, nobody knows.
        *seen =
            (clock_seen_t){.tid = tid, .at_ns = now_ns, .met_ns = before_ns, .asked_ns = before_ns};
    }
    bool runs = pom_tid_cpu_ns(tid, &after_ns) && after_ns > before_ns;
    if (!runs && (before_ns - seen->asked_ns) * POM_THREAD_ASK_SHARE > now_ns - seen->at_ns) {
        pom_thread_files_t files = POM_THREAD_FILES_NONE;
        runs = pom_thread_wants_cpu(&files, tid, sched_getcpu());
        pom_thread_files_close(&files);
        seen->asked_ns = before_ns;
    }
    seen->at_ns = now_ns;
    if (!runs) {
        return 0;
    }
    int64_t used_ns = before_ns - seen->met_ns;
    seen->met_ns = seen->asked_ns = before_ns;
    return used_ns;
}

/* The context may be gone, and another be at its place: it is asked again when the stack has been
 * read. */
static bool read_stack(const helper_t *helper, pom_stack_t *stack, int64_t *helped_ns) {
    int32_t tid = helper->thread.tid;
    int64_t cpu_ns = 0;
    bool clock = pom_tid_cpu_ns(tid, &cpu_ns);
    if (pom_copied_stack(&helper->thread, starter, stack) == 0) {
        return false;
    }
    if (pom_context_owner(helper->thread.context) != helper->owner) {
        return false;
    }
    *helped_ns = clock ? used_cpu(tid, cpu_ns) : 0;
    return true;
}

int32_t pom_helpers_stack(const pom_anchor_t *anchor, pom_stack_t *stack, int64_t *helped_ns) {
    // It is attached, so it is not freed before this thread has sealed it.
    const pom_action_t *action = anchor->action;
    if (reason[0] != '\0' || action->kind != &pom_asgi_kind) {
        return 0;
    }
    if (!listed) {
        list_threads();
        listed = true;
    }
    turn++;
    bool all = true; // asked, and none of them is its own
    for (size_t i = 0; i < helper_count; i++) {
        helper_t *helper = &helpers[(turn + i) % helper_count];
        if (works_for(helper, action)) {
            if (read_stack(helper, stack, helped_ns)) {
                return stack->depth;
            }
            all = false;
        }
        all = all && helper->asked;
    }
    *helped_ns = all ? POM_WALK_UNHELPED : 0;
    stack->depth = 0;
    stack->truncated = false;
    return 0;
}

/* ---- the check at start ---------------------------------------------------------------------- */

static bool read_state(uintptr_t state, pom_thread_copy_t *thread) {
    unsigned char front[POM_TSTATE_FRONT];
    if (pom_memory_read(state, front, sizeof front) != POM_OK) {
        return false;
    }
    pom_thread_copy(state, front, thread);
    return true;
}

static bool list_has(uintptr_t state) {
    pom_thread_copy_t thread = {.next = first_thread()};
    for (int i = 0; i < LIST_MAX && thread.next != 0 && thread.next != state; i++) {
        if (!read_state(thread.next, &thread) || thread.interp != interpreter) {
            return false;
        }
    }
    return thread.next == state;
}

/* A context that is entered is the one its thread's state names. */
static bool has_context(uintptr_t state) {
    PyObject *context = PyContext_New();
    pom_thread_copy_t thread;
    bool good = false;
    if (context != NULL && PyContext_Enter(context) == 0) {
        good = read_state(state, &thread) && thread.context == (uintptr_t)context;
        (void)PyContext_Exit(context); // cannot fail: it was entered just now
    }
    PyErr_Clear(); // no memory: as if it were not so
    Py_XDECREF(context);
    return good;
}

/* The newest frame in the chunk lies in its used part. */
static bool has_chunk(uintptr_t state) {
    pom_thread_copy_t thread;
    pom_own_frame_t frame;
    bool more = pom_own_frame(state, 0, &frame);
    while (more && frame.generator) {
        more = frame.previous != 0 && pom_own_frame(state, frame.previous, &frame);
    }
    return more && read_state(state, &thread) && frame.frame > thread.chunk &&
           frame.frame < thread.top && thread.top <= thread.limit;
}

/* What threading.Thread calls through C is none of a pool's jobs: from 3.14 on that is its run(),
 * in a context of its own, and before 3.12, where C is between all calls with *args, its target. */
static uintptr_t starter_code(void) {
#if PY_VERSION_HEX >= 0x030e0000
    const char *starts = "_bootstrap_inner";
#else
    const char *starts = PY_VERSION_HEX < 0x030c0000 ? "run" : "";
#endif
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *type = threading == NULL ? NULL : PyObject_GetAttrString(threading, "Thread");
    PyObject *function = type == NULL ? NULL : PyObject_GetAttrString(type, starts);
    PyObject *code = function == NULL ? NULL : PyObject_GetAttrString(function, "__code__");
    Py_XDECREF(function);
    Py_XDECREF(type);
    Py_XDECREF(threading);
    Py_XDECREF(code); // compared only
    PyErr_Clear();    // somebody's own idea of a thread: the pool's frames are shown then
    return (uintptr_t)code;
}

const char *pom_helpers_reason(void) {
    return reason[0] == '\0' ? NULL : reason;
}

void pom_helpers_check(void) {
    uintptr_t state = (uintptr_t)PyThreadState_Get();
    const char *why = "";
    interpreter = (uintptr_t)PyInterpreterState_Main();
    starter = starter_code();
    reason[0] = '\0';
    if (!pom_layout_lists_threads(reason, sizeof reason)) {
        return;
    }
    if (!list_has(state)) {
        why = "the interpreter's list of threads does not have this one";
    } else if (!has_context(state)) {
        why = "a thread's context is not where it should be";
    } else if (!has_chunk(state)) {
        why = "a thread's stack is not where it should be";
    }
    (void)snprintf(reason, sizeof reason, "%s", why);
}
