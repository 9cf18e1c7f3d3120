/*
 * The profile record: which keys, in which order, with which meaning. The one definition behind
 * every form.
 *
 * Drives an emitter (profiles/emitter.h) with the record of a profile, as docs/record.md shows it.
 */
#ifndef POM_PROFILES_FORMATS_RECORD_H
#define POM_PROFILES_FORMATS_RECORD_H

#include "profiles/emitter.h"
#include "profiles/profile.h"

/* Readers of the dict and JSON forms recurse, and they count maps and lists, two for each level
 * of nodes. Measured: orjson 3.6 to 3.13, and with it Eliot's FileDestination, takes 254 and
 * fails at 255; CPython's json fails at 996. With 240 a record may still stand inside a document
 * of somebody else's, and shows chains of up to 119 nodes whole. */
#define POM_RECORD_DEPTH_JSON 240

/* Emits one map. max_depth: maps and lists that may be open at once; 0 = no limit, less than 40
 * is taken as 40. Chains of nodes too deep for it lose their middle, counted in `truncated`.
 * Allocates only then; without memory the innermost nodes go instead. O(nodes). [any] */
void pom_record_emit(const pom_profile_t *profile, pom_emitter_t *emitter, int max_depth);

#endif
