/*
 * The timeline: which node was the leaf, when, for how long.
 *
 * The tree merges what happened at one path and so forgets when; across branches document order is
 * not time order. The timeline keeps it as stretches in time order, and consecutive samples of the
 * same leaf make one stretch, so its size follows what the program did rather than how often we
 * looked.
 *
 *     samples     A A A B B A . . A       (.: the action was attached to no thread)
 *     stretches   [A 3][B 2][A 1]  [A 1]
 *
 * A sample joins the last stretch when it has the same leaf and follows at once. "At once" allows a
 * hole no longer than the sample itself: begin and end are read by different clock calls, and an
 * error below half of the stretch's growth does not show. A longer hole is time that belongs to
 * nobody.
 *
 * When it is full (or there is no memory) it stops for good: a timeline is whole up to its end,
 * which a reader can rely on, instead of having holes that look like idle time. Every sample after
 * that is counted.
 */
#include "profiles/call_tree_parts.h"

#include <string.h>

#define ROOM_FIRST 16

/* Room for one more stretch; false when there is none. */
static bool make_room(pom_tree_t *tree) {
    if (tree->stretch_count < tree->stretch_room) {
        return true;
    }
    if (tree->stretch_room >= tree->max_stretches) {
        return false;
    }
    uint32_t room = tree->stretch_room != 0 ? tree->stretch_room * 2 : ROOM_FIRST;
    if (room > tree->max_stretches) {
        room = tree->max_stretches;
    }
    pom_stretch_t *timeline = pom_arena_alloc(tree->arena, room * sizeof *timeline);
    if (timeline == NULL) {
        return false;
    }
    if (tree->stretch_count != 0) {
        memcpy(timeline, tree->timeline, tree->stretch_count * sizeof *timeline);
    }
    tree->timeline = timeline; // the old one stays in the arena: no more than the new one again
    tree->stretch_room = room;
    return true;
}

void pom__timeline_add(pom_tree_t *tree, const pom_node_t *leaf, const pom_weight_t *weight) {
    if (tree->max_stretches == 0 || weight->wall_ns <= 0) {
        return;
    }
    if (tree->cuts.timeline != 0) {
        tree->cuts.timeline++;
        return;
    }
    int64_t start_ns = weight->at_ns - weight->wall_ns;
    if (tree->stretch_count != 0) {
        pom_stretch_t *last = &tree->timeline[tree->stretch_count - 1];
        int64_t end_ns = last->start_ns + last->duration_ns;
        if (start_ns < end_ns) {
            start_ns = end_ns; // clock calls a little apart; stretches never overlap
        }
        if (weight->at_ns <= end_ns) {
            return; // wholly inside what is told already
        }
        if (last->node == leaf->index && start_ns - end_ns <= weight->wall_ns) {
            last->duration_ns = weight->at_ns - last->start_ns;
            return;
        }
    }
    if (!make_room(tree)) {
        tree->cuts.timeline++;
        return;
    }
    tree->timeline[tree->stretch_count++] = (pom_stretch_t){
        .node = leaf->index, .start_ns = start_ns, .duration_ns = weight->at_ns - start_ns};
}
