/*
 * Where CPython keeps what a walk needs: the only place with an #if on its version.
 *
 * Used by walker.c, parked.c, works.c and code_reader.c. Everything is an offset or a tiny accessor, so the code that reads is
 * the same for every version. Offsets come from the headers the extension is built with; layout.c compares them at start with
 * what the running interpreter says of itself, since structs do change within a minor version.
 *
 * A new CPython version is a new branch here and nothing elsewhere: 3.14 and 3.15 differ in the tag bits of the code
 * reference (POM_CODE_MASK) and in the numbers of the owners.
 */
#ifndef POM_EXT_LAYOUT_H
#define POM_EXT_LAYOUT_H

#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include <Python.h>

#include <internal/pycore_frame.h>
#include <internal/pycore_runtime.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef Py_GIL_DISABLED
#error "free-threaded builds of CPython are not supported"
#endif
#if PY_VERSION_HEX < 0x030b0000 || PY_VERSION_HEX >= 0x030e0000
#error "this extension knows the frames of CPython 3.11 to 3.13"
#endif

#define POM_FRAME_PREVIOUS offsetof(_PyInterpreterFrame, previous)
#define POM_FRAME_OWNER    offsetof(_PyInterpreterFrame, owner)

#if PY_VERSION_HEX >= 0x030d0000
#define POM_FRAME_CODE offsetof(_PyInterpreterFrame, f_executable)
#define POM_FRAME_IP   offsetof(_PyInterpreterFrame, instr_ptr)
#define POM_CODE_MASK  (~(uintptr_t)0)
#else
#define POM_FRAME_CODE offsetof(_PyInterpreterFrame, f_code)
#define POM_FRAME_IP   offsetof(_PyInterpreterFrame, prev_instr)
#define POM_CODE_MASK  (~(uintptr_t)0)
#endif

/* Frames of C code between two runs of the interpreter loop: no code of their own. 3.11 has none. */
#define POM_OWNER_THREAD    0 // lies in a chunk of its thread
#define POM_OWNER_SHIM      3
#define POM_OWNER_GENERATOR 1
#define POM_OWNER_LAST      4

/* From the code object to its first instruction; an instruction pointer counts in units of 2 bytes from there. */
#define POM_CODE_START offsetof(PyCodeObject, co_code_adaptive)

/* The part of a frame that a walk reads. */
#define POM_FRAME_HEAD                                                                             \
    (POM_FRAME_OWNER + 1 > POM_FRAME_IP + 8 ? POM_FRAME_OWNER + 1 : POM_FRAME_IP + 8)

/* The address of the thread's current frame pointer, two steps on 3.11 and 3.12 (the cframe lies on the C stack or in the thread
 * state). False when the first step reads nothing useful. Plain loads: the thread state stays while its slot is claimed. */
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

#define POM_TSTATE_CHUNK offsetof(PyThreadState, datastack_chunk)
#define POM_TSTATE_SIZE  sizeof(PyThreadState)

/* Whether the running interpreter is the one this was built for, by its own words; a sentence in `why` when not. */
bool pom_layout_matches(char *why, size_t size);

#endif
