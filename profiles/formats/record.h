/*
 * The profile record: which keys, in which order, with which meaning. The one definition behind every form.
 *
 * Drives an emitter (profiles/emitter.h) with the record of a profile, as docs/record.md shows it.
 */
#ifndef POM_PROFILES_FORMATS_RECORD_H
#define POM_PROFILES_FORMATS_RECORD_H

#include "profiles/emitter.h"
#include "profiles/profile.h"

/* Readers of dict and JSON forms recurse: orjson stops at 127 levels, json at some 500. Two levels of nesting a node
 * (map and list) would make 60; the readers count maps and lists, so this is what a node may take. */
#define POM_RECORD_DEPTH_JSON 120

/* Emits one map. max_depth: nodes nested deeper lose their middle (counted in `truncated`); 0 = no limit. [any] */
void pom_record_emit(const pom_profile_t *profile, pom_emitter_t *emitter, int max_depth);

#endif
