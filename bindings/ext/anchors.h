/*
 * The frames of an anchor: at which one an action of the calling code stands, and which others it
 * remembers.
 *
 * Used by action.c, which says which frame's block an action is, and by works.c, which attaches it
 * there. [app] with the GIL; looking may import contextlib or ask asyncio, so other code may run,
 * and the engine may be stopped in it.
 */
#ifndef POM_EXT_ANCHORS_H
#define POM_EXT_ANCHORS_H

#include <Python.h>

#include "bindings/ext/walker.h"

/* The frame whose block an action is that the calling frame enters; false: no Python below. */
bool pom_anchors_block(pom_own_frame_t *frame);

/* The frame that an action outlives nothing of: the asyncio task's coroutine, else the first frame
 * of the thread or greenlet. */
bool pom_anchors_context(pom_own_frame_t *frame);

/* Fills in at, callers and called_at for an action whose block the frame has. A new reference to
 * the generator or coroutine that the anchor's frame is of; NULL = of none. */
PyObject *pom_anchors_fill(pom_anchor_t *anchor, const pom_own_frame_t *frame);

#endif
