/*
 * The last that is written into an action's profile: who and when it was, what it says of itself,
 * and the times that no sample has covered.
 *
 * Used by registry.c at each seal, of a part too:
 *
 *     profile->outcome = outcome; profile->end_ns = end_ns; ...   what the registry knows
 *     pom__action_close(action, profile);
 *     sink->put(sink, profile);
 */
#ifndef POM_ACTIONS_CLOSING_H
#define POM_ACTIONS_CLOSING_H

#include "actions/action.h"

/* When the part under way began, or the action. [sampler] */
int64_t pom__action_part_start(const pom_action_t *a);

/* The profile's arena has room for it; what does not fit is left out. The profile has its outcome
 * and its end; OPEN: a part, of which the app side may be writing the rest, so that is not looked
 * at. [sampler] */
void pom__action_close(const pom_action_t *a, pom_profile_t *profile);

/* A copy in the arena; empty for no room. */
pom_text_t pom__keep_text(pom_arena_t *arena, const char *data, size_t size);

#endif
