/*
 * Stages: what one of our own threads is busy with, for whoever profiles the profiler.
 *
 * Used by the folders that own such a thread; the bindings read it. A thread tells by one word
 * where it is, a path of nested stages: a byte a level, the innermost one lowest, 0 = outside any.
 * While it is accounted, it also reads its clocks at each change and charges the path that it
 * leaves. Not accounted, a change is one load and one store.
 *
 *     static const char *const names[] = {NULL, "look", "walk"};
 *     pom_stages_t stages = POM_STAGES("pom-sampler", names);
 *
 *     pom_stages_begin(&stages);                       first thing in the thread
 *     pom_stage_enter(&stages, LOOK); ... pom_stage_leave(&stages);
 *     pom_stages_end(&stages);                         last thing
 *
 * One thread at a time: the next one (after a stop and a start, in a forked child) begins anew and
 * adds to the same costs.
 */
#ifndef POM_BASE_STAGE_H
#define POM_BASE_STAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define POM_STAGE_DEPTH 8 /* bytes of the word */
#define POM_STAGE_PATHS                                                                            \
    48 /* more than the stages of any thread make; one more is charged to "outside any" */

typedef struct pom_stage_cost_s {
    _Atomic(uint64_t) path;
    _Atomic(int64_t) wall_ns, cpu_ns; /* in this path itself */
} pom_stage_cost_t;

typedef struct pom_stages_s {
    const char *name;         /* of the thread */
    const char *const *names; /* of the stages; [0] is not used */
    _Atomic(uint64_t) path;   /* written by the thread alone */
    _Atomic(int32_t) tid;     /* kernel id of the newest thread; 0 = there has been none */
    _Atomic(bool) accounted;
    _Atomic(uint32_t)
        cost_count; /* release in the thread, acquire in readers: what is below it is whole */
    pom_stage_cost_t costs[POM_STAGE_PATHS]; /* [0] is "outside any" */
    /* the thread alone */
    int64_t since_ns, since_cpu_ns; /* the last change; 0 = not accounted then */
} pom_stages_t;

#define POM_STAGES(thread, stage_names)                                                            \
    { .name = (thread), .names = (stage_names), .cost_count = 1 }

/* [the thread] */
void pom_stages_begin(pom_stages_t *stages);
void pom_stages_end(pom_stages_t *stages);

/* From now on the thread reads its clocks at each change, or no longer. [any] */
static inline void pom_stages_account(pom_stages_t *stages, bool on) {
    atomic_store_explicit(&stages->accounted, on, memory_order_relaxed);
}

/* Charges the time since the last change to the path that the thread is in. [the thread] */
void pom_stages_charge(pom_stages_t *stages);

static inline void pom__stage_to(pom_stages_t *stages, uint64_t path) {
    // Relaxed: the word is all there is to it, and an observer that sees an older one is right
    // about a moment ago.
    if (atomic_load_explicit(&stages->accounted, memory_order_relaxed)) {
        pom_stages_charge(stages);
    }
    atomic_store_explicit(&stages->path, path, memory_order_relaxed);
}

/* 1 to 255. Each enter has its leave, in order, at most POM_STAGE_DEPTH deep. [the thread] */
static inline void pom_stage_enter(pom_stages_t *stages, uint8_t stage) {
    pom__stage_to(stages, atomic_load_explicit(&stages->path, memory_order_relaxed) << 8 | stage);
}

static inline void pom_stage_leave(pom_stages_t *stages) {
    pom__stage_to(stages, atomic_load_explicit(&stages->path, memory_order_relaxed) >> 8);
}

#endif
