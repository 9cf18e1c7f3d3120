/*
 * The frames near the root are the same from sample to sample, whatever request they belong to. So
 * what the last stacks had at each depth is kept: met again, a frame costs one look here, where the
 * code table and a line table are four or five lines of memory each, which after some milliseconds
 * of sleep are in no cache. The rest is asked for ahead, all of it before the first is looked at.
 *
 * What is kept is good until the code table removes something.
 */
#include "actions/places.h"

static void look_up(pom__places_t *p, const pom_raw_frame_t *raw, pom__known_frame_t *known,
                    bool *fresh, bool *garbage) {
    pom_code_t *code = pom_code_table_get(p->codes, raw->code, false, fresh);
    if (code->garbage) {
        *garbage = true;
        pom_code_table_discard(p->codes, raw->code); // a code may be born there
    }
    *known =
        (pom__known_frame_t){.key = code->unknown ? 0 : raw->code, // unknown: tried again next time
                             .code = code->internal ? NULL : code,
                             .lasti = raw->lasti,
                             .line = pom_code_line(code, raw->lasti)};
}

static bool is_known(const pom__places_t *p, int32_t i, const pom_raw_frame_t *raw) {
    const pom__known_frame_t *known = &p->known[i];
    return i < p->known_depth && known->key != 0 && known->key == raw->code &&
           known->lasti == raw->lasti;
}

static const pom_raw_frame_t *frame_at(const pom_stack_t *stack, int32_t from_root) {
    return &stack->frames[stack->depth - 1 - from_root];
}

static void prefetch_unknown(const pom__places_t *p, const pom_stack_t *stack) {
    for (int32_t i = 0; i < stack->depth; i++) {
        if (!is_known(p, i, frame_at(stack, i))) {
            pom_code_table_prefetch(p->codes, frame_at(stack, i)->code);
        }
    }
    for (int32_t i = 0; i < stack->depth; i++) {
        if (!is_known(p, i, frame_at(stack, i))) {
            pom_code_table_prefetch_code(p->codes, frame_at(stack, i)->code);
        }
    }
}

pom_status_t pom__places_resolve(pom__places_t *p, const pom_stack_t *stack, uint64_t epoch) {
    bool fresh = false, garbage = false;
    int32_t depth = 0;
    // After the walk, before the look-ups.
    uint64_t removals = pom_code_table_removals(p->codes);
    if (removals != p->known_removals) {
        p->known_removals = removals;
        p->known_depth = 0;
    }
    prefetch_unknown(p, stack);
    for (int32_t i = 0; i < stack->depth; i++) {
        pom__known_frame_t *known = &p->known[i];
        if (!is_known(p, i, frame_at(stack, i))) {
            look_up(p, frame_at(stack, i), known, &fresh, &garbage);
        }
        if (known->code != NULL) {
            p->stack[depth++] = (pom_place_t){.code = known->code, .line = known->line};
        }
    }
    if (p->known_depth < stack->depth) {
        p->known_depth = stack->depth;
    }
    if (fresh && pom_code_table_epoch(p->codes) != epoch) {
        // What we have just read may be a successor at a dead object's address. All claims of this
        // stack go, which of them are fresh is not worth remembering: the others are read again.
        p->known_depth = 0;
        for (int32_t i = 0; i < stack->depth; i++) {
            pom_code_table_discard(p->codes, stack->frames[i].code);
        }
        return POM_ENOTFOUND;
    }
    p->depth = depth;
    return garbage ? POM_ETORN : POM_OK;
}
