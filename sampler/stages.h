/*
 * The stages of the sampler's thread: "pom-sampler" in a profile of the profiler.
 *
 * Used by sampler.c and by its client, which works on the same thread.
 */
#ifndef POM_SAMPLER_STAGES_H
#define POM_SAMPLER_STAGES_H

#include "base/stage.h"

#define POM_SAMPLER_STAGE_LIST(X)                                                                  \
    X(WAIT, "wait")       /* parked, or until the next look */                                     \
    X(APPLY, "apply")     /* what app threads queued: messages, ends */                            \
    X(SEAL, "seal")       /* one finished action into a profile */                                 \
    X(LOOK, "look")       /* around all slots */                                                   \
    X(WALK, "walk")       /* the stack of one thread */                                            \
    X(STATE, "state")     /* whether the thread runs: its CPU clock, /proc */                      \
    X(RESOLVE, "resolve") /* its code addresses into names and lines */                            \
    X(ADD, "add")         /* one sample into a tree */                                             \
    X(ACCOUNT, "account") /* a window's bill */

typedef enum pom_sampler_stage_e {
    POM_SAMPLER_OUTSIDE,
#define X(name, text) POM_SAMPLER_##name,
    POM_SAMPLER_STAGE_LIST(X)
#undef X
} pom_sampler_stage_t;

extern pom_stages_t pom_sampler_stages; /* one a process, as the thread is */

static inline void pom_sampler_enter(pom_sampler_stage_t stage) {
    pom_stage_enter(&pom_sampler_stages, (uint8_t)stage);
}

static inline void pom_sampler_leave(void) {
    pom_stage_leave(&pom_sampler_stages);
}

#endif
