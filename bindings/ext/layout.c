/*
 * Is the running interpreter laid out as the headers said? Asked once at start; a no leads to the
 * GIL engine.
 *
 * The minor version must be the one built for. From 3.13 on the interpreter carries a table of its
 * own offsets (made for debuggers), and each one we use is compared, but for two that it does not
 * have: a wrong one of an asynchronous generator's flag or of a thread's asyncio tasks finds
 * nothing to show. Before that the self-test walk (walker.c) is the judge.
 */
#include "bindings/ext/layout.h"

#include <stdio.h>
#include <string.h>

#if PY_VERSION_HEX >= 0x030d0000
static bool same(char *why, size_t size, const char *what, uint64_t theirs, uint64_t ours) {
    if (theirs == ours) {
        return true;
    }
    (void)snprintf(why, size, "%s is at offset %llu, expected %llu", what,
                   (unsigned long long)theirs, (unsigned long long)ours);
    return false;
}

static bool offsets_match(char *why, size_t size) {
    const _Py_DebugOffsets *o = &_PyRuntime.debug_offsets;
    if (memcmp(o->cookie, "xdebugpy", 8) != 0) {
        (void)snprintf(why, size, "the interpreter's table of offsets is missing");
        return false;
    }
    if (o->free_threaded) {
        (void)snprintf(why, size, "free-threaded interpreters are not supported");
        return false;
    }
    return same(why, size, "thread state: current_frame", o->thread_state.current_frame,
                offsetof(PyThreadState, current_frame)) &&
           same(why, size, "thread state: datastack_chunk", o->thread_state.datastack_chunk,
                POM_TSTATE_CHUNK) &&
           same(why, size, "frame: previous", o->interpreter_frame.previous, POM_FRAME_PREVIOUS) &&
           same(why, size, "frame: executable", o->interpreter_frame.executable, POM_FRAME_CODE) &&
           same(why, size, "frame: instr_ptr", o->interpreter_frame.instr_ptr, POM_FRAME_IP) &&
           same(why, size, "frame: owner", o->interpreter_frame.owner, POM_FRAME_OWNER) &&
           same(why, size, "frame: localsplus", o->interpreter_frame.localsplus,
                offsetof(_PyInterpreterFrame, localsplus)) &&
#if PY_VERSION_HEX >= 0x030e0000
           same(why, size, "frame: stackpointer", o->interpreter_frame.stackpointer,
                offsetof(_PyInterpreterFrame, stackpointer)) &&
           same(why, size, "generator: gi_iframe", o->gen_object.gi_iframe,
                offsetof(PyCoroObject, cr_iframe)) &&
           same(why, size, "generator: gi_frame_state", o->gen_object.gi_frame_state,
                offsetof(PyCoroObject, cr_frame_state)) &&
#endif
           same(why, size, "code: co_code_adaptive", o->code_object.co_code_adaptive,
                POM_CODE_START) &&
           same(why, size, "code: filename", o->code_object.filename,
                offsetof(PyCodeObject, co_filename)) &&
           same(why, size, "code: qualname", o->code_object.qualname,
                offsetof(PyCodeObject, co_qualname)) &&
           same(why, size, "code: linetable", o->code_object.linetable,
                offsetof(PyCodeObject, co_linetable)) &&
           same(why, size, "code: firstlineno", o->code_object.firstlineno,
                offsetof(PyCodeObject, co_firstlineno));
}

bool pom_layout_lists_threads(char *why, size_t size) {
    const _Py_DebugOffsets *o = &_PyRuntime.debug_offsets;
    return same(why, size, "interpreter: threads_head", o->interpreter_state.threads_head,
                POM_INTERP_THREADS) &&
           same(why, size, "thread state: next", o->thread_state.next, POM_TSTATE_NEXT) &&
           same(why, size, "thread state: interp", o->thread_state.interp, POM_TSTATE_INTERP) &&
           same(why, size, "thread state: native_thread_id", o->thread_state.native_thread_id,
                POM_TSTATE_TID);
}
#else
static bool offsets_match(char *why, size_t size) {
    (void)why;
    (void)size;
    return true; // no table before 3.13
}

bool pom_layout_lists_threads(char *why, size_t size) {
    return offsets_match(why, size);
}
#endif

bool pom_layout_matches(char *why, size_t size) {
    unsigned long running = Py_Version >> 16, built = PY_VERSION_HEX >> 16;
    if (running != built) {
        (void)snprintf(why, size, "built for CPython %lu.%lu, running on %lu.%lu", built >> 8,
                       built & 0xff, running >> 8, running & 0xff);
        return false;
    }
    return offsets_match(why, size);
}
