/*
 * The calling thread's slot: claimed at its first action, released when its thread state goes.
 *
 * Used by everything that attaches an action. [app] with the GIL throughout.
 */
#ifndef POM_EXT_THREADS_H
#define POM_EXT_THREADS_H

#include <Python.h>

#include "sampler/slot.h"

/* This thread's slot, claimed now if need be: 3 ns when it is there. NULL without an exception: no
 * slot can be had, the action runs unsampled. */
pom_slot_t *pom_threads_slot(void);

/* The calling thread never gets a slot: what it does is not recorded. */
void pom_threads_silence(void);

/* The first of all slots, NULL = none; for the probe. */
pom_slot_t *pom_threads_first(void);

/* At the start of an engine: where slots come from. A new generation forgets all slots of the one
 * before (stop, fork). */
void pom_threads_use(pom_slots_t *slots);

/* In a forked child: no other thread is there. */
void pom_threads_after_fork(void);

/* Type object of the guard, made at module init. -1 with an exception. */
int pom_threads_init(void);

#endif
