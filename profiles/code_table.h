/*
 * From the interpreter's code object (an address) to what we know of it.
 *
 * Used by the sampler (every frame of every sample), by app threads (stacks of messages) and by the
 * death notification. Addresses are reused at once by the interpreter, so an entry is good only
 * until its object dies: the notification forgets it, and the next object at that address is a new
 * entry.
 *
 *     table = pom_code_table_new(capacity, resolver);
 *     code = pom_code_table_get(table, key, ...);     borrowed; never NULL
 *     pom_code_table_forget(table, key);              the object dies now (GIL held)
 *     pom_code_table_reap(table);                     sampler only, between samples
 *     pom_code_table_free(table);
 *
 * Lock-free: a fixed open-addressing array, changed by compare-and-swap; nobody ever waits. A
 * removed entry goes to a graveyard and is released by the sampler's reap after next, so that a
 * code the sampler has just looked up cannot vanish under it. When the array is full or a probe
 * gets too long, the answer is the shared "<overflow>" code, counted.
 *
 * Race with death: the sampler reads a frame, then asks for its code; the object may die in between
 * and a resolver may read a successor. pom_code_table_epoch() counts deaths: the sampler reads it
 * before the walk and after its look-ups; when it moved, entries that this sample inserted are
 * discarded again (`fresh` tells that there were some) and the sample is a miss.
 *
 * What the sampler inserted without the GIL is therefore a claim. A GIL holder never gets one: it
 * reads the object itself, once, and its confirmed entry replaces the claim.
 */
#ifndef POM_PROFILES_CODE_TABLE_H
#define POM_PROFILES_CODE_TABLE_H

#include "base/status.h"
#include "profiles/code.h"

typedef struct pom_code_table_s pom_code_table_t;

/* Reads the object at `key` and returns an owned code, or NULL for no memory. A new one each
 * time: codes are not shared between keys. Must survive any key (a torn frame can carry
 * garbage): what cannot be read is an `unknown` code, which is tried again now and then.
 * `gil_held` tells that plain access is safe. */
typedef struct pom_code_resolver_s {
    pom_code_t *(*resolve)(struct pom_code_resolver_s *self, uintptr_t key, bool gil_held);
} pom_code_resolver_t;

typedef struct pom_code_table_stats_s {
    int64_t live, inserted, forgotten, overflowed, unknown;
} pom_code_table_stats_t;

/* 512 KiB of zero pages; a large Django site touches some 10^4 code objects. */
#define POM_CODE_TABLE_CAPACITY 32768

/* Returns owned; capacity is a power of two; NULL for no memory. Borrows the resolver for its
 * life. [any] */
pom_code_table_t *pom_code_table_new(size_t capacity, pom_code_resolver_t *resolver);

/* No other thread may use the table any more. [any] */
void pom_code_table_free(pom_code_table_t *table);

/* The code at `key`, resolved at first sight. Never NULL. Borrowed, by the sampler until its
 * next reap, by a GIL holder until it gives up the GIL or the object dies: take a reference to
 * keep it. *fresh is set to true when this call inserted it, else left alone (may be NULL).
 * [sampler], or [app] with gil_held. */
pom_code_t *pom_code_table_get(pom_code_table_t *table, uintptr_t key, bool gil_held, bool *fresh);

/* Asks for the memory that a get of `key` begins with, and for what that leads to: a dozen frames
 * that are not known yet are some fifty lines of memory in no cache, one after the other unless all
 * are asked for first. [sampler] */
void pom_code_table_prefetch(const pom_code_table_t *table, uintptr_t key);
void pom_code_table_prefetch_code(const pom_code_table_t *table, uintptr_t key);

/* The object at `key` dies, is born, or is not to be trusted. No-op when there is none. Never
 * waits; O(64). [app] with the GIL. */
void pom_code_table_forget(pom_code_table_t *table, uintptr_t key);

/* Moves with every forget, before the entry is removed. [any] */
uint64_t pom_code_table_epoch(const pom_code_table_t *table);

/* Moves with every removal of an entry, whoever removes it. While it stands still, what the sampler
 * was given by pom_code_table_get is what it would be given again. [sampler] */
uint64_t pom_code_table_removals(const pom_code_table_t *table);

/* Sampler's own removal, for entries it inserted in a sample that raced with a death; a
 * confirmed entry stays. [sampler] */
void pom_code_table_discard(pom_code_table_t *table, uintptr_t key);

/* Releases what was removed before the previous reap: an event that names a code, queued by a GIL
 * holder that then lost it, is safe if the sampler takes events between two reaps. [sampler], while
 * it holds no borrowed code but such as it drops when pom_code_table_removals has moved. */
void pom_code_table_reap(pom_code_table_t *table);

pom_code_table_stats_t pom_code_table_stats(const pom_code_table_t *table); /* [any] */

#endif
