/*
 * The reads of last time, in one call.
 *
 * Used by parked.c. What is followed from one address to the next is a system call a step, 0.5 to
 * 1.6 us; a request that waits below twenty coroutines was forty of them at each look, though
 * nothing had moved since the look before. So the addresses that were read for a key are kept, and
 * copied together when it comes again.
 *
 *     pom_replay_begin(key);
 *     status = pom_replay_read(address, out, size);   without a call, in last time's order
 *
 * Nothing kept is believed: the caller finds each address anew, and one that is not the next of the
 * list is read by a call of its own, as all after it. What is copied together is of one moment,
 * that of begin. [sampler]
 */
#ifndef POM_EXT_REPLAY_H
#define POM_EXT_REPLAY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Of one read; more goes by a call of its own. */
#define POM_REPLAY_SIZE_MAX 256

/* The reads of this key from now on; those before are forgotten. */
void pom_replay_begin(uintptr_t key);

/* Copies size bytes; POM_EUNREADABLE: not mapped. */
pom_status_t pom_replay_read(uintptr_t address, void *out, size_t size);

#endif
