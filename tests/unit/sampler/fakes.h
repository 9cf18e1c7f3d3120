/*
 * Fakes for what the sampler works with: a walker that does what a test says, a client that writes
 * down what it is told, a resolver that makes a code of any key.
 *
 * Used by the unit tests of sampler, actions and engine. The walker and the client run on the
 * sampler thread; what they write down is atomic, so that a test may look at any time, and await()
 * looks until a deadline.
 */
#ifndef POM_TESTS_UNIT_SAMPLER_FAKES_H
#define POM_TESTS_UNIT_SAMPLER_FAKES_H

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "sampler/sampler.h"

/* Far beyond anything that works; reached only by a test that fails. */
#define FAKE_PATIENCE_NS (120 * POM_NS_PER_S)

/* Looks at the condition again and again; its value at last. */
#define await(condition)                                                                           \
    ({                                                                                             \
        int64_t until_ns_ = pom_now_ns() + FAKE_PATIENCE_NS;                                       \
        while (!(condition) && pom_now_ns() < until_ns_) {                                         \
            (void)sched_yield();                                                                   \
        }                                                                                          \
        (condition);                                                                               \
    })

/* ---- resolver ------------------------------------------------------------------------------- */

/* The code of key 7 is file "f7.py", function "g7", line 7 at any instruction; odd tens of
 * thousands are internal. */
static inline pom_code_t *fake_resolve(pom_code_resolver_t *self, uintptr_t key, bool gil_held) {
    char file[32], function[32];
    int file_len = snprintf(file, sizeof file, "f%" PRIuPTR ".py", key);
    int function_len = snprintf(function, sizeof function, "g%" PRIuPTR, key);
    pom_line_run_t run = {.start = 0, .line = (int32_t)key};
    pom_code_spec_t spec = {.file = file,
                            .file_len = (size_t)file_len,
                            .function = function,
                            .function_len = (size_t)function_len,
                            .first_line = (int32_t)key,
                            .runs = &run,
                            .run_count = 1,
                            .internal = key / 10000 % 2 == 1};
    (void)self;
    (void)gil_held;
    return pom_code_new(&spec);
}

static pom_code_resolver_t fake_resolver __attribute__((unused)) = {.resolve = fake_resolve};

/* ---- walker ---------------------------------------------------------------------------------- */

typedef struct fake_walker_s fake_walker_t;

struct fake_walker_s {
    pom_walker_t walker;
    /* Instead of the answer below; NULL = none. */
    pom_status_t (*script)(fake_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                           uint32_t *anchor);
    void *context;
    _Atomic(int) status; /* pom_status_t */
    _Atomic(uint32_t) anchor;
    _Atomic(int64_t) walks;
};

/* The stack of a fake walk: three frames, leaf first. */
static const uintptr_t fake_frames[] = {30, 20, 10};

static inline void fake_stack(pom_stack_t *stack) {
    stack->depth = 3;
    stack->truncated = false;
    for (int i = 0; i < 3; i++) {
        stack->frames[i] = (pom_raw_frame_t){.code = fake_frames[i], .lasti = 1};
    }
}

static inline pom_status_t fake_walk(pom_walker_t *walker, const pom_slot_view_t *view,
                                     pom_stack_t *stack, uint32_t *anchor) {
    fake_walker_t *self = (fake_walker_t *)(void *)walker;
    atomic_fetch_add(&self->walks, 1);
    if (self->script != NULL) {
        return self->script(self, view, stack, anchor);
    }
    fake_stack(stack);
    *anchor = atomic_load(&self->anchor);
    return (pom_status_t)atomic_load(&self->status);
}

static inline void fake_walker_init(fake_walker_t *self) {
    memset(self, 0, sizeof *self);
    self->walker.walk = fake_walk;
}

/* ---- client ---------------------------------------------------------------------------------- */

typedef struct fake_client_s fake_client_t;

struct fake_client_s {
    pom_sampler_client_t client;
    void (*on_idle)(
        fake_client_t *self); /* on the sampler thread, its parked flag up; NULL = none */
    void (*on_tick)(fake_client_t *self);
    void (*on_resolve)(fake_client_t *self);
    void (*on_sample)(fake_client_t *self); /* its moment is noted */
    void *context;
    _Atomic(int) refuse; /* the status that resolve gives */
    _Atomic(bool) busy;  /* never idle */
    _Atomic(bool) knows; /* where the last sample was: takes it again */
    _Atomic(int64_t) again;
    _Atomic(int64_t) queued, applied;
    _Atomic(int64_t) ticks, idles, samples, windows, helpless_windows, other_windows;
    _Atomic(int64_t) cost_ns,
        cost_step_ns; /* of the rest of the product, and its growth a window */
    _Atomic(int64_t) misses[POM_MISS_COUNT];
    _Atomic(void *) sampled, missed; /* the last actions */
    _Atomic(int64_t) at_ns, cpu_ns, running, not_running, period_ns, sample_cost_ns, depth;
    _Atomic(int64_t) unmet_ns, unmet_before;
    _Atomic(int64_t) early; /* samples of a moment before their anchor */
    /* by action number, which is its address over 16 */
    _Atomic(int64_t) parked, parked_by_action[64], helped_by_action[64], by_action[64];
    _Atomic(int64_t) since_ns, faults;
    _Atomic(uint64_t) code_epoch; /* of the last stack resolved */
};

static inline fake_client_t *fake_client_of(pom_sampler_client_t *client) {
    return (fake_client_t *)(void *)client;
}

static inline bool fake_tick(pom_sampler_client_t *client, int64_t now_ns) {
    fake_client_t *self = fake_client_of(client);
    (void)now_ns;
    if (self->on_tick != NULL) {
        self->on_tick(self);
    }
    atomic_fetch_add(&self->ticks, 1);
    int64_t queued = atomic_load(&self->queued);
    return atomic_exchange(&self->applied, queued) != queued;
}

static inline pom_status_t fake_client_resolve(pom_sampler_client_t *client,
                                               const pom_stack_t *stack, uint64_t code_epoch) {
    (void)stack;
    fake_client_t *self = fake_client_of(client);
    atomic_store(&self->code_epoch, code_epoch);
    if (self->on_resolve != NULL) {
        self->on_resolve(self);
    }
    return (pom_status_t)atomic_load(&self->refuse);
}

static inline void fake_sample(pom_sampler_client_t *client, const pom_anchor_t *anchor,
                               const pom_sample_t *sample, const pom_stack_t *stack) {
    fake_client_t *self = fake_client_of(client);
    atomic_store(&self->at_ns, sample->at_ns);
    if (self->on_sample != NULL) {
        self->on_sample(self);
    }
    atomic_store(&self->cpu_ns, sample->cpu_ns);
    atomic_store(&self->depth, stack->depth);
    atomic_fetch_add(sample->running ? &self->running : &self->not_running, 1);
    atomic_fetch_add(&self->early, sample->at_ns < anchor->since_ns ? 1 : 0);
    atomic_fetch_add(&self->by_action[((uintptr_t)anchor->action >> 4) % 64], 1);
    if (sample->parked) {
        atomic_fetch_add(&self->parked, 1);
        atomic_fetch_add(&self->parked_by_action[((uintptr_t)anchor->action >> 4) % 64], 1);
        atomic_fetch_add(&self->helped_by_action[((uintptr_t)anchor->action >> 4) % 64],
                         sample->helped_cpu_ns);
        atomic_fetch_add(&self->faults, sample->running ? 1 : 0);
    }
    atomic_fetch_add(&self->unmet_ns, sample->unmet_cpu_ns);
    atomic_fetch_add(&self->unmet_before, sample->unmet_before ? 1 : 0);
    atomic_fetch_add(&self->faults,
                     sample->unmet_cpu_ns > sample->cpu_ns - sample->since_cpu_ns ? 1 : 0);
    atomic_store(&self->since_ns, sample->since_ns);
    atomic_fetch_add(&self->faults, sample->since_ns >= sample->at_ns ? 1 : 0);
    atomic_store(&self->sampled, anchor->action);
    atomic_fetch_add(&self->samples, 1);
}

static inline bool fake_again(pom_sampler_client_t *client, const pom_anchor_t *anchor,
                              const pom_sample_t *sample) {
    fake_client_t *self = fake_client_of(client);
    if (!atomic_load(&self->knows)) {
        return false;
    }
    atomic_fetch_add(&self->faults, sample->running ? 1 : 0);
    atomic_store(&self->sampled, anchor->action);
    atomic_fetch_add(&self->again, 1);
    return true;
}

static inline void fake_missed(pom_sampler_client_t *client, const pom_anchor_t *anchor,
                               pom_miss_t reason) {
    fake_client_t *self = fake_client_of(client);
    atomic_store(&self->missed, anchor->action);
    atomic_fetch_add(&self->misses[reason], 1);
}

static inline bool fake_idle(pom_sampler_client_t *client) {
    fake_client_t *self = fake_client_of(client);
    atomic_fetch_add(&self->idles, 1);
    if (self->on_idle != NULL) {
        self->on_idle(self);
    }
    return !atomic_load(&self->busy) && atomic_load(&self->queued) == atomic_load(&self->applied);
}

static inline int64_t fake_other_cost(pom_sampler_client_t *client) {
    return atomic_load(&fake_client_of(client)->cost_ns);
}

static inline void fake_window(pom_sampler_client_t *client, const pom_window_t *window) {
    fake_client_t *self = fake_client_of(client);
    atomic_store(&self->period_ns, window->period_ns);
    atomic_store(&self->sample_cost_ns, window->sample_cost_ns);
    atomic_fetch_add(window->helpless ? &self->helpless_windows : &self->other_windows, 1);
    atomic_fetch_add(&self->cost_ns, atomic_load(&self->cost_step_ns));
    atomic_fetch_add(&self->windows, 1);
}

static inline void fake_client_init(fake_client_t *self) {
    memset(self, 0, sizeof *self);
    self->client = (pom_sampler_client_t){.tick = fake_tick,
                                          .resolve = fake_client_resolve,
                                          .sample = fake_sample,
                                          .again = fake_again,
                                          .missed = fake_missed,
                                          .idle = fake_idle,
                                          .other_cost_ns = fake_other_cost,
                                          .window = fake_window};
}

#endif
