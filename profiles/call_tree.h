/*
 * The call tree of one action: merged samples that keep who called whom, in the order of what
 * happened.
 *
 * Used by actions (the sampler thread feeds it), by formats (they read nodes). A path is a list of
 * places, root first. A sample is added along a path; a message seals its parent: the parent's
 * current children are closed, so work before and after a message stays apart and ordered.
 *
 *     pom_tree_init(&tree, &arena, granularity, max_nodes);
 *     pom_tree_add(&tree, places, depth, &weight);
 *     pom_tree_message(&tree, places, depth, at_ns, fields, size);
 *     (the arena's fini frees it; pom_tree_fini releases the references to code)
 *
 * One owner at a time: the sampler thread while the action lives, then read-only for ever. A tree
 * must not be moved in memory after init: its nodes point to the root inside it.
 *
 *        root (no place)
 *         +- a.py:f:10            current child
 *         |   +- message          sealed, with all before it
 *         |   +- b.py:g:3         current again after the message
 */
#ifndef POM_PROFILES_CALL_TREE_H
#define POM_PROFILES_CALL_TREE_H

#include "base/arena.h"
#include "base/status.h"
#include "profiles/code.h"

typedef enum pom_granularity_e { POM_BY_FILE, POM_BY_FUNCTION, POM_BY_LINE } pom_granularity_t;

/* One frame of a path, resolved. */
typedef struct pom_place_s {
    pom_code_t *code; /* borrowed; the tree takes its own reference when it keeps it */
    int32_t line;     /* -1 = none */
} pom_place_t;

/* What a sample stands for. */
typedef struct pom_weight_s {
    int64_t wall_ns, cpu_ns;
    int32_t hits;  /* 1 for a sample, 0 when only time is added */
    int64_t at_ns; /* monotonic moment of the sample */
} pom_weight_t;

typedef struct pom_node_s pom_node_t;

struct pom_node_s {
    uint64_t key;     /* identity among current siblings; 0 for the root and messages */
    pom_code_t *code; /* owned reference; NULL for the root, and for a message without a stack */
    int32_t line;     /* -1 = none, by granularity */
    int32_t hits;     /* samples whose leaf or ancestor this node is */
    int64_t self_wall_ns, self_cpu_ns;
    int64_t total_wall_ns, total_cpu_ns;
    int64_t first_ns, last_ns; /* monotonic moments of the first and last sample or message here */
    pom_node_t *parent, *first_child, *last_child, *next;
    pom_node_t *first_current; /* first child that is not sealed; NULL: all are */
    const void *message;       /* value stream in the arena; NULL = not a message */
    uint32_t message_size;
    uint32_t index; /* order of creation, root 0: the timeline's name for the node */
};

/* One stretch of the timeline: this node was the leaf from start for duration. */
typedef struct pom_stretch_s {
    uint32_t node;
    int64_t start_ns, duration_ns;
} pom_stretch_t;

typedef struct pom_tree_cuts_s {
    int64_t nodes;    /* places not kept: time went to their ancestor */
    int64_t messages; /* messages dropped */
    int64_t timeline; /* samples after the timeline was full */
    int64_t depth;    /* samples whose stack was cut */
} pom_tree_cuts_t;

typedef struct pom_tree_s {
    pom_node_t root;
    pom_arena_t *arena; /* borrowed */
    pom_granularity_t granularity;
    uint32_t node_count, max_nodes; /* without root and messages; indexes reach the sum of both */
    uint32_t message_count, max_messages;
    pom_stretch_t *timeline; /* in the arena, doubled as it grows */
    uint32_t stretch_count, stretch_room, max_stretches;
    pom_tree_cuts_t cuts;
    /* the path of the last sample, to find the next one's common part without a search */
    pom_node_t **last_path;
    uint32_t last_depth, last_room;
    pom_node_t *last_leaf; /* of the last sample; NULL = none, or a message since */
    /* children of wide parents by (parent, key): siblings.c */
    pom_node_t **wide;
    uint32_t wide_count, wide_room;
} pom_tree_t;

typedef struct pom_tree_limits_s {
    uint32_t max_nodes;     /* 20 000: 3 MiB of nodes, more than a person reads */
    uint32_t max_messages;  /* 10 000 */
    uint32_t max_stretches; /* 4 096: 96 KiB; 0 = no timeline */
} pom_tree_limits_t;

pom_tree_limits_t pom_tree_limits_default(void);

/* [any] The arena is borrowed for the tree's life. */
void pom_tree_init(pom_tree_t *tree, pom_arena_t *arena, pom_granularity_t granularity,
                   pom_tree_limits_t limits, int64_t start_ns);

/* Adds a sample. depth 0 = the root itself. What finds no room is added to the deepest node
 * kept, counted in cuts. O(depth + siblings searched). [sampler] */
void pom_tree_add(pom_tree_t *tree, const pom_place_t *places, int32_t depth,
                  const pom_weight_t *weight);

/* Adds a sample where the last one was; false when there was none, or a message since. O(depth).
 * [sampler] */
bool pom_tree_add_again(pom_tree_t *tree, const pom_weight_t *weight);

/* Adds a message node below places[0..depth-2]; places[depth-1] is its own place (the logging
 * line); depth 0: below the root, without a place. fields is copied. Moves first_ns/last_ns of
 * the path, adds no time. [sampler] */
void pom_tree_message(pom_tree_t *tree, const pom_place_t *places, int32_t depth, int64_t at_ns,
                      const void *fields, size_t size);

/* Adds time to the root alone (what no sample covers). [sampler] */
void pom_tree_add_root(pom_tree_t *tree, int64_t wall_ns, int64_t cpu_ns);

/* Releases the references to code; the nodes go with the arena. [any] */
void pom_tree_fini(pom_tree_t *tree);

/* Debug and tests: totals equal self plus children, counts agree, sealed children come before
 * current ones, no two current siblings share a key. */
bool pom_tree_validate(const pom_tree_t *tree);

#endif
