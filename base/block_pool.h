/*
 * Blocks of one size, taken by one thread and given back by any, kept for the next take.
 *
 * Used for profiles: the sampler makes them, the loop frees them. malloc would put what another
 * thread frees together with its neighbours, hand pages back to the system, and cut it all up
 * again; here the block that was given back last, whose memory is likeliest to be in a cache, is
 * taken first.
 *
 *     pool = pom_block_pool_new(size, most);
 *     block = pom_block_pool_take(pool);     NULL: no memory
 *     pom_block_pool_give(pool, block);
 *     pom_block_pool_release(pool);          blocks that are out stay good
 */
#ifndef POM_BASE_BLOCK_POOL_H
#define POM_BASE_BLOCK_POOL_H

#include <stddef.h>
#include <stdint.h>

typedef struct pom_block_pool_s pom_block_pool_t;

/* Keeps at most `most` blocks of `size` bytes, at least a pointer's. Returns owned; NULL for no
 * memory. [any] */
pom_block_pool_t *pom_block_pool_new(size_t size, int64_t most);

/* Returns owned, not zeroed, aligned as by malloc; NULL for no memory. One thread at a time. */
void *pom_block_pool_take(pom_block_pool_t *pool);

/* What the next take gives, for who wants its memory in a cache by then; NULL when it is not at
 * hand. As take. */
const void *pom_block_pool_next(const pom_block_pool_t *pool);

/* Never waits. [any] */
void pom_block_pool_give(pom_block_pool_t *pool, void *block);

/* The owner takes no more. Accepts NULL. [any] */
void pom_block_pool_release(pom_block_pool_t *pool);

#endif
