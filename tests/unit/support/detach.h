/*
 * Detaching by action: the product remembers which attach an action's is, a test asks the slot.
 */
#ifndef POM_TEST_DETACH_H
#define POM_TEST_DETACH_H

#include "sampler/slot.h"

/* Withdraws the newest anchor of the action; false when it has none. */
static inline bool detach_action(pom_slot_t *slot, const void *action) {
    const pom_anchor_table_t *table = atomic_load(&slot->table);
    for (uint32_t i = atomic_load(&slot->count); i-- > 0;) {
        if (table->anchors[i].action == action) {
            return pom_slot_detach(slot, table->anchors[i].nth);
        }
    }
    return false;
}

#endif
