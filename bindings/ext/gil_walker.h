/*
 * The GIL walker: captures a stack through the interpreter's public API alone, holding the GIL.
 *
 * Used in place of the native walker (walker.h) where frames are not where we expect them or memory
 * may not be read. Frames are known by the addresses of their frame objects, which are borrowed
 * identities: compared, with the code, and never followed. 0 is the end of a chain.
 */
#ifndef POM_EXT_GIL_WALKER_H
#define POM_EXT_GIL_WALKER_H

#include "bindings/ext/walker.h"

/* One for the process. Its walk waits for the GIL. [any] */
pom_walker_t *pom_gil_walker(void);

/* The calling thread's current frame (at = 0), or the one that `previous` of the answer before
 * named; no code may run between the two. False: none. O(1). [app] with the GIL */
bool pom_gil_own_frame(uintptr_t at, pom_own_frame_t *out);

#endif
