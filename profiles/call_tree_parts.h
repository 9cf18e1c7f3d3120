/*
 * What the files of the call tree share: call_tree.c, siblings.c, timeline.c, call_tree_validate.c.
 *
 * Private to this folder. Everything here runs on the thread that owns the tree.
 */
#ifndef POM_PROFILES_CALL_TREE_PARTS_H
#define POM_PROFILES_CALL_TREE_PARTS_H

#include "profiles/call_tree.h"

/* Children of one parent that are searched one after the other; those behind are found by hash. */
#define POM__SIBLINGS_SEARCHED 32

/* Identity of a place among siblings; never 0. */
uint64_t pom__place_key(pom_granularity_t granularity, const pom_code_t *code, int32_t line);

/* The node after this one when every parent comes before its children; NULL after the last. */
pom_node_t *pom__tree_next(const pom_node_t *node);

/* The current child of parent with this key, or NULL. *wide tells that a child added now will stand
 * behind those that are searched, so that room for it must be made and it must be noted. */
pom_node_t *pom__siblings_find(const pom_tree_t *tree, const pom_node_t *parent, uint64_t key,
                               bool *wide);

/* Room to note one more child of a wide parent. POM_ENOMEM: none, and nothing has changed. */
POM_MUST_USE pom_status_t pom__siblings_make_room(pom_tree_t *tree);

/* Notes a child of a wide parent. Cannot fail after make_room. */
void pom__siblings_note(pom_tree_t *tree, pom_node_t *child);

/* Says that node was the leaf for weight->wall_ns until weight->at_ns. */
void pom__timeline_add(pom_tree_t *tree, const pom_node_t *leaf, const pom_weight_t *weight);

#endif
