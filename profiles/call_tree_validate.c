/*
 * The call tree's promises, checked one by one.
 *
 * Runs after every change of a small tree in debug builds, and in tests. It trusts nothing but the
 * links it is about to follow, and is written apart from call_tree.c so that a mistake there is not
 * repeated here: what one keeps incrementally, the other computes anew. O(nodes), but for
 * O(children^2) with few children.
 *
 * Not checked, since nothing here could know better: whether times are the true ones, and the
 * arena.
 */
#include "profiles/call_tree.h"

#include "profiles/call_tree_parts.h"

static bool is_message(const pom_node_t *node) {
    return node->message != NULL;
}

/* A node by itself and against its parent. */
static bool node_is_valid(const pom_tree_t *tree, const pom_node_t *node) {
    if (node->first_ns > node->last_ns || node->hits < 0) {
        return false;
    }
    if (node == &tree->root) {
        return node->index == 0 && node->key == 0 && node->code == NULL && node->parent == NULL &&
               node->next == NULL && !is_message(node);
    }
    if (node->index <= node->parent->index ||
        node->index > tree->node_count + tree->message_count) {
        return false;
    }
    if (tree->granularity != POM_BY_LINE && node->line != -1) {
        return false;
    }
    if (is_message(node)) {
        return node->key == 0 && node->first_child == NULL && node->hits == 0 &&
               node->total_wall_ns == 0 && node->total_cpu_ns == 0 && node->self_wall_ns == 0 &&
               node->self_cpu_ns == 0;
    }
    return node->key != 0 && node->code != NULL &&
           node->key == pom__place_key(tree->granularity, node->code, node->line) &&
           node->first_ns >= tree->root.first_ns && node->last_ns <= tree->root.last_ns;
}

/* No two current siblings share a key. */
static bool keys_are_distinct(const pom_tree_t *tree, const pom_node_t *parent) {
    int position = 0;
    for (const pom_node_t *node = parent->first_current; node != NULL; node = node->next) {
        int before = 0;
        for (const pom_node_t *other = parent->first_current;
             other != node && before < POM__SIBLINGS_SEARCHED; other = other->next) {
            if (other->key == node->key) {
                return false;
            }
            before++;
        }
        // Those behind are noted by key, and one key is noted once: being found means being alone.
        bool wide;
        if (position >= POM__SIBLINGS_SEARCHED && node->next != NULL &&
            pom__siblings_find(tree, parent, node->key, &wide) != node) {
            return false;
        }
        position++;
    }
    return true;
}

/* The row of children: links, order, sealed before current, times. */
static bool children_are_valid(const pom_tree_t *tree, const pom_node_t *parent) {
    int64_t wall_ns = parent->self_wall_ns, cpu_ns = parent->self_cpu_ns, hits = 0;
    const pom_node_t *last = NULL;
    bool current = false;
    for (const pom_node_t *node = parent->first_child; node != NULL; node = node->next) {
        current = current || node == parent->first_current;
        if (node->parent != parent || (last != NULL && last->index >= node->index) ||
            (current && is_message(node))) {
            return false;
        }
        wall_ns += node->total_wall_ns;
        cpu_ns += node->total_cpu_ns;
        hits += node->hits;
        last = node;
    }
    return last == parent->last_child && current == (parent->first_current != NULL) &&
           wall_ns == parent->total_wall_ns && cpu_ns == parent->total_cpu_ns &&
           hits <= parent->hits && keys_are_distinct(tree, parent);
}

/* The last path is a chain from the root; that all of it is current is checked by the index. */
static bool last_path_is_valid(const pom_tree_t *tree) {
    const pom_node_t *parent = &tree->root;
    for (uint32_t i = 0; i < tree->last_depth; i++) {
        const pom_node_t *node = tree->last_path[i];
        if (node->parent != parent || parent->first_current == NULL ||
            node->index < parent->first_current->index) {
            return false;
        }
        parent = node;
    }
    return tree->last_depth <= tree->last_room;
}

static bool timeline_is_valid(const pom_tree_t *tree) {
    for (uint32_t i = 0; i < tree->stretch_count; i++) {
        const pom_stretch_t *stretch = &tree->timeline[i];
        if (stretch->node > tree->node_count + tree->message_count || stretch->duration_ns <= 0) {
            return false;
        }
        if (i > 0 && stretch[-1].start_ns + stretch[-1].duration_ns > stretch->start_ns) {
            return false;
        }
    }
    return tree->stretch_count <= tree->stretch_room && tree->stretch_room <= tree->max_stretches;
}

bool pom_tree_validate(const pom_tree_t *tree) {
    uint32_t nodes = 0, messages = 0;
    for (const pom_node_t *node = &tree->root; node != NULL; node = pom__tree_next(node)) {
        if (!node_is_valid(tree, node) || !children_are_valid(tree, node)) {
            return false;
        }
        if (is_message(node)) {
            messages++;
        } else if (node != &tree->root) {
            nodes++;
        }
    }
    return nodes == tree->node_count && messages == tree->message_count &&
           nodes <= tree->max_nodes && messages <= tree->max_messages && tree->cuts.nodes >= 0 &&
           tree->cuts.messages >= 0 && tree->cuts.timeline >= 0 && last_path_is_valid(tree) &&
           timeline_is_valid(tree);
}
