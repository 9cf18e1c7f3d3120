/*
 * Where CPython keeps what a walk needs: the only place with an #if on its version.
 *
 * Used by walker.c, parked.c, greenlets.c, copied_stack.c, helpers.c, works.c and code_reader.c.
 * Everything is an offset or a tiny accessor, so the code that reads is the same for every version.
 * Offsets come from the headers the extension is built with; layout.c compares at start those that
 * the running interpreter tells of itself, since structs do change within a minor version.
 *
 * A new CPython version is a new branch here and nothing elsewhere. From 3.14 on the references in
 * a frame carry tag bits (POM_REF_MASK), and its stack top is a pointer.
 */
#ifndef POM_EXT_LAYOUT_H
#define POM_EXT_LAYOUT_H

#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include <Python.h>

#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>
#if PY_VERSION_HEX >= 0x030e0000
#include <internal/pycore_interpframe_structs.h>
#include <internal/pycore_tstate.h>
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef Py_GIL_DISABLED
#error "free-threaded builds of CPython are not supported"
#endif
#if PY_VERSION_HEX < 0x030b0000 || PY_VERSION_HEX >= 0x03100000
#error "this extension knows the frames of CPython 3.11 to 3.15"
#endif

#define POM_FRAME_PREVIOUS offsetof(_PyInterpreterFrame, previous)
#define POM_FRAME_OWNER    offsetof(_PyInterpreterFrame, owner)

#if PY_VERSION_HEX >= 0x030d0000
#define POM_FRAME_CODE offsetof(_PyInterpreterFrame, f_executable)
#define POM_FRAME_IP   offsetof(_PyInterpreterFrame, instr_ptr)
#else
#define POM_FRAME_CODE offsetof(_PyInterpreterFrame, f_code)
#define POM_FRAME_IP   offsetof(_PyInterpreterFrame, prev_instr)
#endif

/* What is a pointer in a frame's reference: the low bits say who owns it, or that it is no object
 * at all (3.14). */
#if PY_VERSION_HEX >= 0x030e0000
#define POM_REF_MASK (~(uintptr_t)7)
#else
#define POM_REF_MASK (~(uintptr_t)0)
#endif

/* Shims: frames of C code between two runs of the interpreter loop, and of 3.15 the one below all
 * others; no code of their own. 3.11 has none. */
#define POM_OWNER_THREAD    0 // lies in a chunk of its thread
#define POM_OWNER_GENERATOR 1
#define POM_OWNER_SHIM      3
#define POM_OWNER_LAST      4

/* From the code object to its first instruction; an instruction pointer counts in units of 2 bytes
 * from there. */
#define POM_CODE_START offsetof(PyCodeObject, co_code_adaptive)

/* The part of a frame that a walk reads. */
#define POM_FRAME_HEAD                                                                             \
    (POM_FRAME_OWNER + 1 > POM_FRAME_IP + 8 ? POM_FRAME_OWNER + 1 : POM_FRAME_IP + 8)

/* The same as what is copied of a frame: whole words, so that no word of a copy beside it straddles
 * two pages. */
#define POM_FRAME_COPY ((POM_FRAME_HEAD + 7) & ~(size_t)7)

/* Of a frame, all that comes before its variables. */
#define POM_FRAME_FRONT  offsetof(_PyInterpreterFrame, localsplus)
#define POM_FRAME_OBJECT offsetof(_PyInterpreterFrame, frame_obj)

/* From a coroutine's or generator's object to its frame. */
#define POM_FRAME_INSIDE offsetof(PyCoroObject, cr_iframe)

/* The address of the thread's current frame pointer, two steps on 3.11 and 3.12 (the cframe lies on
 * the C stack or in the thread state). False when the first step reads nothing useful. Plain loads:
 * the thread state stays while its slot is claimed. */
static inline bool pom_layout_current(uintptr_t tstate, uintptr_t *where) {
#if PY_VERSION_HEX >= 0x030d0000
    *where = tstate + offsetof(PyThreadState, current_frame);
    return true;
#else
    uintptr_t cframe = *(volatile uintptr_t *)(tstate + offsetof(PyThreadState, cframe));
    *where = cframe + offsetof(_PyCFrame, current_frame);
    return cframe != 0;
#endif
}

/* The same from a copy of the thread state's front, of a thread that may end at any moment; 0 =
 * nowhere. */
static inline uintptr_t pom_layout_current_in(uintptr_t tstate, const unsigned char *front) {
#if PY_VERSION_HEX >= 0x030d0000
    (void)front;
    return tstate + offsetof(PyThreadState, current_frame);
#else
    uintptr_t cframe;
    (void)tstate;
    memcpy(&cframe, front + offsetof(PyThreadState, cframe), sizeof cframe);
    return cframe == 0 ? 0 : cframe + offsetof(_PyCFrame, current_frame);
#endif
}

/* C called this frame, by a copy of its head. Only 3.11 says so there: the others put a shim below
 * it. */
static inline bool pom_layout_is_entry(const unsigned char *head) {
#if PY_VERSION_HEX >= 0x030c0000
    (void)head;
    return false;
#else
    return head[offsetof(_PyInterpreterFrame, is_entry)] != 0;
#endif
}

/* What Thread.run, whose frame this is, has called: above its one local variable its stack holds
 * nothing and then the function. Only 3.11 asks, where C is between; 0 elsewhere. */
static inline uintptr_t pom_layout_thread_target(uintptr_t frame) {
#if PY_VERSION_HEX >= 0x030c0000
    (void)frame;
    return 0;
#else
    return frame + offsetof(_PyInterpreterFrame, localsplus) + 2 * sizeof(PyObject *);
#endif
}

/* The instruction that a frame is at, -1 for one that has not started; false when code and pointer
 * do not belong together: a frame that is being made has none yet, and code may lie so low that a
 * pointer into it looks like one into that. */
static inline bool pom_layout_lasti(uintptr_t code, uintptr_t ip, int32_t *lasti) {
    const uintptr_t most = (uintptr_t)1 << 24;
    uintptr_t bytes = ip - code - POM_CODE_START + 2; // from "not started" on
    *lasti = (int32_t)(bytes >> 1) - 1;
    return code != 0 && bytes <= 2 * most && ((bytes | code) & 1) == 0;
}

/* The slot of a suspended coroutine's frame that holds what it awaits, from a copy of the frame's
 * front; 0 = none, or torn. It is the top of the frame's stack, on 3.15 the one below. */
static inline uintptr_t pom_layout_awaited(uintptr_t frame, const unsigned char *front) {
    const intptr_t most = 1 << 20; // slots of one frame; more is torn
    uintptr_t first = frame + offsetof(_PyInterpreterFrame, localsplus);
#if PY_VERSION_HEX >= 0x030e0000
    uintptr_t top;
    memcpy(&top, front + offsetof(_PyInterpreterFrame, stackpointer), sizeof top);
    intptr_t slots = (intptr_t)(top - first) / (intptr_t)sizeof(uintptr_t);
#else
    int slots;
    memcpy(&slots, front + offsetof(_PyInterpreterFrame, stacktop), sizeof slots);
#endif
    const int down = PY_VERSION_HEX >= 0x030f0000 ? 2 : 1;
    return slots < down || slots > most ? 0 : first + (uintptr_t)(slots - down) * sizeof(uintptr_t);
}

/* How long the frames of a code are in their chunk, by a copy of the code's front; 0 = it cannot
 * be. */
static inline uintptr_t pom_layout_frame_size(const unsigned char *code) {
    const int most = 1 << 20; // words of one frame
    int words;
#if PY_VERSION_HEX >= 0x030c0000
    memcpy(&words, code + offsetof(PyCodeObject, co_framesize), sizeof words);
#else
    int variables, stack;
    memcpy(&variables, code + offsetof(PyCodeObject, co_nlocalsplus), sizeof variables);
    memcpy(&stack, code + offsetof(PyCodeObject, co_stacksize), sizeof stack);
    words = variables < 0 || variables > most || stack < 0 || stack > most
                ? 0
                : variables + stack + (int)FRAME_SPECIALS_SIZE;
#endif
    return words < 0 || words > most ? 0 : (uintptr_t)words * sizeof(uintptr_t);
}

/* A copy of an object, up to its frame, is that of a coroutine or generator that has not been
 * freed. */
static inline bool pom_layout_is_generator(const unsigned char *object) {
    PyObject head;
    memcpy(&head, object, sizeof head);
    return Py_REFCNT(&head) > 0 && (head.ob_type == &PyCoro_Type || head.ob_type == &PyGen_Type ||
                                    head.ob_type == &PyAsyncGen_Type);
}

/* It runs, by such a copy. */
static inline bool pom_layout_is_executing(const unsigned char *object) {
    return (signed char)object[offsetof(PyCoroObject, cr_frame_state)] == FRAME_EXECUTING;
}

/* A coroutine or generator is suspended, by a copy of its object up to its frame. It has ended, or
 * was freed, when neither this nor its frame's `previous` says that it runs. */
static inline bool pom_layout_is_suspended(const unsigned char *object) {
    signed char state = (signed char)object[offsetof(PyCoroObject, cr_frame_state)];
#if PY_VERSION_HEX >= 0x030d0000
    return FRAME_STATE_SUSPENDED(state);
#else
    return state == FRAME_SUSPENDED;
#endif
}

/* An asynchronous generator, by such a copy, has been asked for its next value and has not given
 * it: suspended, it awaits something. */
static inline bool pom_layout_is_asked(const unsigned char *object) {
    return object[offsetof(PyAsyncGenObject, ag_running_async)] != 0;
}

/* What asks an asynchronous generator for its next value, which is what its consumer awaits, has no
 * public layout: the generator is its first field. */
#define POM_ASKED_GENERATOR sizeof(PyObject)

#define POM_TSTATE_CHUNK   offsetof(PyThreadState, datastack_chunk)
#define POM_TSTATE_TOP     offsetof(PyThreadState, datastack_top)
#define POM_TSTATE_LIMIT   offsetof(PyThreadState, datastack_limit)
#define POM_TSTATE_NEXT    offsetof(PyThreadState, next)
#define POM_TSTATE_INTERP  offsetof(PyThreadState, interp)
#define POM_TSTATE_CONTEXT offsetof(PyThreadState, context)
#define POM_TSTATE_TID     offsetof(PyThreadState, native_thread_id)
#define POM_TSTATE_SIZE    sizeof(PyThreadState)

/* Where a thread's state has its list of asyncio tasks; 0 = it has none, and asyncio a set of
 * them. */
#if PY_VERSION_HEX >= 0x030e0000
#define POM_TSTATE_TASKS offsetof(_PyThreadStateImpl, asyncio_tasks_head)
#else
#define POM_TSTATE_TASKS ((size_t)0)
#endif

/* The part of another thread's state that is copied: all of the above. */
#define POM_TSTATE_FRONT (POM_TSTATE_LIMIT + sizeof(uintptr_t))
_Static_assert(POM_TSTATE_TID < POM_TSTATE_LIMIT && POM_TSTATE_CONTEXT < POM_TSTATE_LIMIT,
               "the limit of the chunk comes last");

/* Where an interpreter keeps the head of its list of thread states. */
#define POM_INTERP_THREADS offsetof(PyInterpreterState, threads.head)

/* Whether the running interpreter is the one this was built for, by its own words; a sentence in
 * `why` when not. */
bool pom_layout_matches(char *why, size_t size);

/* The same of the list of threads, without which only threads that work for a request are not
 * found. */
bool pom_layout_lists_threads(char *why, size_t size);

#endif
