/*
 * How samples become a tree, and how a message closes what came before it.
 *
 * A sample walks down from the root, one place a level. Two samples in a row mostly share all of
 * their path or all but its last places, so the tree remembers the last path and compares place by
 * place: same code object, same line, next. Only where the paths part is a child searched
 * (siblings.c) or created. The totals are inclusive and are added on the way back up, so that a
 * live tree can be read at any moment and sealing an action costs nothing. A sample of 30 known
 * places costs 0.2 us, one that parts from the last at its first place 0.3 us.
 *
 * Sealing. A message is a child of the node where it was logged, and everything that node has so
 * far lies before it. So the node's list of children is closed: first_current moves to NULL, and
 * the next sample below that node starts new children even for known places.
 *
 *     parent -> first_child                  last_child
 *                   |                            |
 *                   c1 -> c2 -> message -> c3 -> c4
 *                   sealed, in time order  ^ first_current
 *
 * Only that node's children are sealed: what its ancestors have beside it did not end with the
 * message. Document order across branches is therefore not time order; the timeline is
 * (timeline.c).
 *
 * The last path stays right under sealing without any flag: a message first walks to its parent as
 * a sample does, which makes that walk the last path, and ends there. So the last path never holds
 * a sealed node.
 *
 * Caps and no memory are the same thing here: a place that finds no room gives its time to the
 * deepest node that has, so totals stay exact; a message that finds none is dropped and seals
 * nothing (else a flood of them would turn into a flood of nodes). Both are counted.
 *
 * One owner at a time, the sampler thread while the action lives. This file knows no clock and no
 * locks.
 */
#include "profiles/call_tree.h"

#include <assert.h>
#include <string.h>

#include "base/hash.h"
#include "profiles/call_tree_parts.h"

/* First room for the last path; doubled as paths get deeper. A WSGI stack has 20 to 60 places. */
#define PATH_ROOM_FIRST 32

/* Debug builds check the whole tree after each change, while that is cheap. */
#define CHECKED(tree) ((tree)->node_count + (tree)->message_count > 64 || pom_tree_validate(tree))

pom_tree_limits_t pom_tree_limits_default(void) {
    return (pom_tree_limits_t){.max_nodes = 20000, .max_messages = 10000, .max_stretches = 4096};
}

void pom_tree_init(pom_tree_t *tree, pom_arena_t *arena, pom_granularity_t granularity,
                   pom_tree_limits_t limits, int64_t start_ns) {
    memset(tree, 0, sizeof *tree);
    tree->root.line = -1;
    tree->root.first_ns = start_ns;
    tree->root.last_ns = start_ns;
    tree->arena = arena;
    tree->granularity = granularity;
    tree->max_nodes = limits.max_nodes;
    tree->max_messages = limits.max_messages;
    tree->max_stretches = limits.max_stretches;
}

uint64_t pom__place_key(pom_granularity_t granularity, const pom_code_t *code, int32_t line) {
    if (granularity == POM_BY_FILE) {
        return code->file_key;
    }
    if (granularity == POM_BY_FUNCTION) {
        return code->function_key;
    }
    uint64_t key = pom_hash_join(code->function_key, (uint32_t)line);
    return key != 0 ? key : 1;
}

/* Whether the sample's place is this node's. Pointers first: hashing a path costs more than all
 * else together. */
static bool is_at(const pom_tree_t *tree, const pom_node_t *node, const pom_place_t *place) {
    if (node->code == place->code) {
        return tree->granularity != POM_BY_LINE || node->line == place->line;
    }
    // The same source in another code object: a nested function is made anew with each module
    // reload.
    return node->key == pom__place_key(tree->granularity, place->code, place->line);
}

/* A zeroed node at the end of parent's children, current as yet; NULL for no room. */
static pom_node_t *append_child(pom_tree_t *tree, pom_node_t *parent, pom_code_t *code,
                                int32_t line, int64_t at_ns) {
    pom_node_t *node = pom_arena_alloc(tree->arena, sizeof *node);
    if (node == NULL) {
        return NULL;
    }
    node->code = code != NULL ? pom_code_ref(code) : NULL;
    node->line = tree->granularity == POM_BY_LINE ? line : -1;
    node->first_ns = at_ns;
    node->last_ns = at_ns;
    node->parent = parent;
    node->index = 1 + tree->node_count + tree->message_count;
    if (parent->last_child != NULL) {
        parent->last_child->next = node;
    } else {
        parent->first_child = node;
    }
    parent->last_child = node;
    if (parent->first_current == NULL) {
        parent->first_current = node;
    }
    return node;
}

/* The current child of parent for this place, created when there is none; NULL for no room. */
static pom_node_t *child_at(pom_tree_t *tree, pom_node_t *parent, const pom_place_t *place,
                            int64_t at_ns) {
    bool wide;
    uint64_t key = pom__place_key(tree->granularity, place->code, place->line);
    pom_node_t *node = pom__siblings_find(tree, parent, key, &wide);
    if (node != NULL || tree->node_count >= tree->max_nodes) {
        return node;
    }
    if (wide && pom__siblings_make_room(tree) != POM_OK) {
        return NULL;
    }
    node = append_child(tree, parent, place->code, place->line, at_ns);
    if (node == NULL) {
        return NULL;
    }
    node->key = key;
    tree->node_count++;
    if (wide) {
        pom__siblings_note(tree, node);
    }
    return node;
}

/* Without memory the room stays as it is, and deeper nodes are searched instead of remembered. */
static void make_path_room(pom_tree_t *tree, uint32_t depth) {
    uint32_t room = tree->last_room != 0 ? tree->last_room : PATH_ROOM_FIRST;
    while (room < depth) {
        room *= 2;
    }
    pom_node_t **path = pom_arena_alloc(tree->arena, room * sizeof(pom_node_t *));
    if (path == NULL) {
        return;
    }
    if (tree->last_depth != 0) {
        memcpy(path, tree->last_path, tree->last_depth * sizeof(pom_node_t *));
    }
    tree->last_path = path;
    tree->last_room = room;
}

/* Walks down a path, creating what is missing, and makes it the last path. Returns the deepest node
 * kept. */
static pom_node_t *descend(pom_tree_t *tree, const pom_place_t *places, int32_t depth,
                           int64_t at_ns) {
    uint32_t wanted = depth > 0 ? (uint32_t)depth : 0;
    if (wanted > tree->last_room) {
        make_path_room(tree, wanted);
    }
    uint32_t shared = wanted < tree->last_depth ? wanted : tree->last_depth;
    pom_node_t *node = &tree->root;
    uint32_t i = 0;
    while (i < shared && is_at(tree, tree->last_path[i], &places[i])) {
        node = tree->last_path[i++];
    }
    for (; i < wanted; i++) {
        pom_node_t *child = child_at(tree, node, &places[i], at_ns);
        if (child == NULL) {
            tree->cuts.nodes += wanted - i;
            break;
        }
        if (i < tree->last_room) {
            tree->last_path[i] = child;
        }
        node = child;
    }
    tree->last_depth = i < tree->last_room ? i : tree->last_room;
    return node;
}

/* Widens the node's span to the moment. */
static void touch(pom_node_t *node, int64_t at_ns) {
    if (at_ns < node->first_ns) {
        node->first_ns = at_ns;
    }
    if (at_ns > node->last_ns) {
        node->last_ns = at_ns;
    }
}

static void add_at(pom_tree_t *tree, pom_node_t *leaf, const pom_weight_t *weight) {
    leaf->self_wall_ns += weight->wall_ns;
    leaf->self_cpu_ns += weight->cpu_ns;
    for (pom_node_t *node = leaf; node != NULL; node = node->parent) {
        node->total_wall_ns += weight->wall_ns;
        node->total_cpu_ns += weight->cpu_ns;
        node->hits += weight->hits;
        touch(node, weight->at_ns);
    }
    tree->last_leaf = leaf;
    pom__timeline_add(tree, leaf, weight);
    assert(CHECKED(tree));
}

void pom_tree_add(pom_tree_t *tree, const pom_place_t *places, int32_t depth,
                  const pom_weight_t *weight) {
    add_at(tree, descend(tree, places, depth, weight->at_ns), weight);
}

bool pom_tree_add_again(pom_tree_t *tree, const pom_weight_t *weight) {
    if (tree->last_leaf == NULL) {
        return false;
    }
    add_at(tree, tree->last_leaf, weight);
    return true;
}

void pom_tree_message(pom_tree_t *tree, const pom_place_t *places, int32_t depth, int64_t at_ns,
                      const void *fields, size_t size) {
    if (tree->message_count >= tree->max_messages || size > UINT32_MAX) {
        tree->cuts.messages++;
        return;
    }
    pom_node_t *parent = descend(tree, places, depth - 1, at_ns);
    tree->last_leaf = NULL;
    for (pom_node_t *node = parent; node != NULL; node = node->parent) {
        touch(node, at_ns);
    }

    // The copy comes first: without it there must be no node, as a node cannot be taken back.
    const void *copy = pom_arena_copy(tree->arena, fields, size);
    const pom_place_t *place = depth > 0 ? &places[depth - 1] : NULL;
    pom_node_t *node = NULL;
    if (copy != NULL) {
        node = append_child(tree, parent, place != NULL ? place->code : NULL,
                            place != NULL ? place->line : -1, at_ns);
    }
    if (node == NULL) {
        tree->cuts.messages++;
        assert(CHECKED(tree));
        return;
    }
    node->message = copy;
    node->message_size = (uint32_t)size;
    tree->message_count++;
    parent->first_current = NULL; // the message and all before it are sealed
    assert(CHECKED(tree));
}

void pom_tree_add_root(pom_tree_t *tree, int64_t wall_ns, int64_t cpu_ns) {
    tree->root.self_wall_ns += wall_ns;
    tree->root.self_cpu_ns += cpu_ns;
    tree->root.total_wall_ns += wall_ns;
    tree->root.total_cpu_ns += cpu_ns;
    assert(CHECKED(tree));
}

pom_node_t *pom__tree_next(const pom_node_t *node) {
    if (node->first_child != NULL) {
        return node->first_child;
    }
    while (node != NULL && node->next == NULL) {
        node = node->parent;
    }
    return node != NULL ? node->next : NULL;
}

void pom_tree_fini(pom_tree_t *tree) {
    for (pom_node_t *node = &tree->root; node != NULL; node = pom__tree_next(node)) {
        pom_code_unref(node->code);
    }
    memset(tree, 0, sizeof *tree);
}
