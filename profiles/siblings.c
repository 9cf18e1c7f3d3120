/*
 * How a parent's child is found when the last sample's path does not lead to it.
 *
 * Nearly every parent has a handful of current children, and the wanted one is most often the one
 * that was added last. So: look at the last child, then at the first 32 one after the other. A
 * parent with more (a loop over generated code, a dispatcher at line granularity) is *wide*: its
 * children from the 33rd on are also noted in one hash table of the tree, by parent and key. No
 * parent is ever converted: whether a child is noted depends on its place in the row alone.
 *
 *     current children   c0 c1 ... c31 | c32 c33 c34 ...
 *                        searched      | by hash
 *
 * Sealing takes no part in it. Sealed nodes stay in the table and are told apart by their index:
 * nodes are numbered as they are created, and a parent's current children are the last ones
 * created, so a child is current if its index is not below that of the parent's first current
 * child. A new child with the same parent and key takes the slot of its sealed forerunner.
 *
 * The table lies in the arena and doubles, which wastes as much again as it holds: 8 to 20 bytes a
 * noted node, against 128 for the node. It is dropped with the arena. Without room for it the child
 * is not created at all (call_tree.c counts a cut), since a child nobody can find would be created
 * again by every sample.
 */
#include "profiles/call_tree_parts.h"

#include <string.h>

#include "base/hash.h"

#define ROOM_FIRST 64

static bool is_current(const pom_node_t *node) {
    const pom_node_t *first = node->parent->first_current;
    return first != NULL && node->index >= first->index;
}

/* The slot of (parent, key), or the free one where it belongs. There is always a free one. */
static pom_node_t **slot_of(pom_node_t **wide, uint32_t room, const pom_node_t *parent,
                            uint64_t key) {
    uint32_t mask = room - 1;
    uint32_t at = (uint32_t)pom_hash_join(parent->index, key) & mask;
    while (wide[at] != NULL && (wide[at]->parent != parent || wide[at]->key != key)) {
        at = (at + 1) & mask;
    }
    return &wide[at];
}

pom_node_t *pom__siblings_find(const pom_tree_t *tree, const pom_node_t *parent, uint64_t key,
                               bool *wide) {
    *wide = false;
    pom_node_t *node = parent->first_current;
    if (node == NULL) {
        return NULL;
    }
    if (parent->last_child->key == key) {
        return parent->last_child; // the last child is current when any is
    }
    for (int i = 0; i < POM__SIBLINGS_SEARCHED; i++) {
        if (node->key == key) {
            return node;
        }
        node = node->next;
        if (node == NULL) {
            *wide = i + 1 == POM__SIBLINGS_SEARCHED;
            return NULL;
        }
    }
    *wide = true;
    node = tree->wide_room != 0 ? *slot_of(tree->wide, tree->wide_room, parent, key) : NULL;
    return node != NULL && is_current(node) ? node : NULL;
}

pom_status_t pom__siblings_make_room(pom_tree_t *tree) {
    // At most 3/4 full: a look-up for an absent key then passes 8.5 slots on average.
    if ((uint64_t)(tree->wide_count + 1) * 4 <= (uint64_t)tree->wide_room * 3) {
        return POM_OK;
    }
    uint32_t room = tree->wide_room != 0 ? tree->wide_room * 2 : ROOM_FIRST;
    pom_node_t **wide = pom_arena_alloc(tree->arena, room * sizeof(pom_node_t *));
    if (wide == NULL) {
        return POM_ENOMEM;
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < tree->wide_room; i++) {
        pom_node_t *node = tree->wide[i];
        if (node != NULL && is_current(node)) {
            *slot_of(wide, room, node->parent, node->key) = node;
            count++;
        }
    }
    tree->wide = wide;
    tree->wide_room = room;
    tree->wide_count = count;
    return POM_OK;
}

void pom__siblings_note(pom_tree_t *tree, pom_node_t *child) {
    pom_node_t **slot = slot_of(tree->wide, tree->wide_room, child->parent, child->key);
    if (*slot == NULL) {
        tree->wide_count++;
    }
    *slot = child;
}
