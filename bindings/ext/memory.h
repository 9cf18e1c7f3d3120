/*
 * Reading memory that may change or go away under the reader's feet.
 *
 * Used by the walker and the code reader. Two ways: a guarded copy by the kernel, for any address
 * (0.5-0.8 us a call); and the guarantee that the interpreter's stack chunks stay mapped during a
 * walk, which makes plain loads in them safe. Never a signal handler: the host owns its signals.
 *
 *     pom_memory_walk_begin();
 *     ...                          plain loads in chunks that are found after this
 *     pom_memory_walk_end();
 */
#ifndef POM_EXT_MEMORY_H
#define POM_EXT_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Copies size bytes from any address of this process. POM_EUNREADABLE: not mapped, or the kernel
 * refuses. [any] */
pom_status_t pom_memory_read(uintptr_t address, void *out, size_t size);

/* The word at that address, in the same way; 0 where there is none that could be read. [any] */
uintptr_t pom_memory_word(uintptr_t address);

typedef struct pom_memory_part_s {
    uintptr_t address;
    size_t size;
} pom_memory_part_t;

/* As many parts as one copy takes. */
#define POM_MEMORY_PARTS_MAX 64

/* Copies the parts in their order into out, one after the other, all in one system call; returns
 * how many it could, up to the first that is not there whole; 0 where any is an address of no
 * program's. All together cost little more than one pom_memory_read, and lie some 5 ns apart.
 * [any] */
size_t pom_memory_gather(const pom_memory_part_t *parts, size_t count, void *out);

/* Whether the kernel lets us (seccomp may not); asked once and again after a fork. [any] */
bool pom_memory_readable(void);

/* From begin to end no stack chunk that was reachable after begin is unmapped. [sampler] */
void pom_memory_walk_begin(void);
void pom_memory_walk_end(void);

/* Chains / unchains the interpreter's arena allocator, through which stack chunks are freed. [app]
 * with the GIL */
void pom_memory_guard_install(void);
void pom_memory_guard_remove(void);

/* In a forked child: no walk is under way. [app] */
void pom_memory_after_fork(void);

#endif
