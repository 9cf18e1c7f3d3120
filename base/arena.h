/*
 * An arena: many small pieces, one free.
 *
 * Used by profiles (a call tree lives in its action's arena). Blocks double from 2 KiB to 32 KiB,
 * so an action with few samples stays small; the total is capped at birth.
 *
 *     pom_arena_t arena;
 *     pom_arena_init(&arena, 64 * 1024);
 *     node = pom_arena_alloc(&arena, sizeof *node);    NULL: no memory or the cap is reached
 *     pom_arena_fini(&arena);                          frees every piece
 *
 * Not thread safe: one owner at a time.
 */
#ifndef POM_BASE_ARENA_H
#define POM_BASE_ARENA_H

#include <stddef.h>

struct pom_arena_block_s;

typedef struct pom_arena_s {
    struct pom_arena_block_s *blocks; /* the first is being filled */
    size_t cap;                       /* bytes of all blocks together, at most */
    size_t reserved;                  /* bytes of all blocks together, now */
    struct pom_arena_block_s *lent;   /* a block that is the caller's memory; NULL = none */
} pom_arena_t;

/* Nothing is allocated before the first piece. [any] */
void pom_arena_init(pom_arena_t *arena, size_t cap);

/* The same with a first block in the caller's memory, 8-byte aligned, of size bytes up to the cap:
 * it outlives the arena, and counts as reserved. [any] */
void pom_arena_init_in(pom_arena_t *arena, size_t cap, void *memory, size_t size);

/* Zeroed, 8-byte aligned, valid until fini. NULL: no memory, or the cap would be passed. [any] */
void *pom_arena_alloc(pom_arena_t *arena, size_t size);

/* A copy of size bytes plus a terminating NUL. NULL as above. [any] */
char *pom_arena_copy(pom_arena_t *arena, const void *bytes, size_t size);

/* Frees all pieces; the arena may be used again as after pom_arena_init. [any] */
void pom_arena_fini(pom_arena_t *arena);

#endif
