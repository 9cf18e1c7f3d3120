/*
 * The arena: bump allocation from a short list of blocks.
 *
 *     arena -> [head | piece piece piece ....room]      the first block is the one that is filled
 *               next -> [head | piece piece ]  ->  ...  the others are only kept for fini
 *
 * Block sizes count their head and double: 2, 4, 8, 16, 32, 32 ... KiB. The next size follows from
 * what is already reserved (0, 2, 6, 14, 30 KiB: reserved + 2 KiB, at most 32), so there is no size
 * to remember. Near the cap a block is cut to what is left of it. A piece larger than that size
 * gets a block of its own, and the block with more room stays first.
 *
 * Pieces are zeroed one by one rather than by calloc of the block: the unused end of a block is
 * then never touched. One owner at a time; no piece can be freed alone.
 */
#include "base/arena.h"

#include "base/alloc.h"

#include <string.h>

/* 2 KiB holds the tree of a typical short request (about 20 nodes). 32 KiB stays far below the
 * threshold where malloc turns to mmap (128 KiB), whose page faults would land on the sampler. */
#define BLOCK_FIRST   ((size_t)2 * 1024)
#define BLOCK_LARGEST ((size_t)32 * 1024)
#define ALIGNMENT     ((size_t)8)

struct pom_arena_block_s {
    struct pom_arena_block_s *next;
    size_t size; /* bytes, this head included */
    size_t used; /* bytes, this head included; a multiple of 8 */
};

static size_t room_of(const struct pom_arena_block_s *block) {
    return block != NULL ? block->size - block->used : 0;
}

/* A block with room for size bytes, linked in; NULL for no memory or the cap. */
static struct pom_arena_block_s *add_block(pom_arena_t *arena, size_t size) {
    size_t left = arena->cap - arena->reserved;
    if (left < sizeof(struct pom_arena_block_s) || left - sizeof(struct pom_arena_block_s) < size) {
        return NULL;
    }
    size_t needed = sizeof(struct pom_arena_block_s) + size;
    size_t wanted = arena->reserved + BLOCK_FIRST;
    if (wanted > BLOCK_LARGEST) {
        wanted = BLOCK_LARGEST;
    }
    if (wanted > left) {
        wanted = left;
    }
    if (wanted < needed) {
        wanted = needed;
    }

    struct pom_arena_block_s *block = pom_alloc(wanted);
    if (block == NULL) {
        return NULL;
    }
    block->size = wanted;
    block->used = sizeof *block;
    arena->reserved += wanted;

    struct pom_arena_block_s *first = arena->blocks;
    if (room_of(block) - size < room_of(first)) {
        block->next = first->next; /* The first block keeps being filled after this piece. */
        first->next = block;
    } else {
        block->next = first;
        arena->blocks = block;
    }
    return block;
}

void pom_arena_init(pom_arena_t *arena, size_t cap) {
    arena->blocks = NULL;
    arena->cap = cap;
    arena->reserved = 0;
    arena->lent = NULL;
}

void pom_arena_init_in(pom_arena_t *arena, size_t cap, void *memory, size_t size) {
    pom_arena_init(arena, cap);
    struct pom_arena_block_s *block = memory;
    block->next = NULL;
    block->size = size;
    block->used = sizeof *block;
    arena->blocks = block;
    arena->lent = block;
    arena->reserved = size;
}

/* As pom_arena_alloc, but for the zeros. */
static void *take_piece(pom_arena_t *arena, size_t size) {
    if (size > arena->cap) {
        return NULL; /* Before the rounding, which could overflow. */
    }
    if (size == 0) {
        size = 1; /* Two empty pieces have different addresses. */
    }
    size_t rounded = (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    if (rounded < size) {
        return NULL;
    }
    struct pom_arena_block_s *block = arena->blocks;
    if (room_of(block) < rounded) {
        block = add_block(arena, rounded);
        if (block == NULL) {
            return NULL;
        }
    }
    void *piece = (char *)block + block->used;
    block->used += rounded;
    return piece;
}

void *pom_arena_alloc(pom_arena_t *arena, size_t size) {
    void *piece = take_piece(arena, size);
    return piece == NULL ? NULL : memset(piece, 0, size);
}

char *pom_arena_copy(pom_arena_t *arena, const void *bytes, size_t size) {
    if (size >= arena->cap) {
        return NULL;
    }
    char *copy = take_piece(arena, size + 1);
    if (copy == NULL) {
        return NULL;
    }
    if (size > 0) {
        memcpy(copy, bytes, size);
    }
    copy[size] = '\0';
    return copy;
}

void pom_arena_fini(pom_arena_t *arena) {
    struct pom_arena_block_s *block = arena->blocks;
    while (block != NULL) {
        struct pom_arena_block_s *next = block->next;
        if (block != arena->lent) {
            pom_free(block);
        }
        block = next;
    }
    pom_arena_init(arena, arena->cap);
}
