/*
 * The sampler: one native thread that looks at active slots and hands samples to its client.
 *
 * Used by the engine. It never takes the interpreter's lock, calls no interpreter function and
 * waits for nobody; what it sees goes to one client (actions/registry), on its own thread, so the
 * client's trees have one owner.
 *
 *     sampler = pom_sampler_new(&options, &slots, table, walker, client);
 *     pom_sampler_start(sampler);
 *     pom_sampler_notify(sampler);            an app thread attached something or queued an event
 *     pom_sampler_stop(sampler); pom_sampler_free(sampler);
 *
 * Idle costs nothing: a tick that finds nothing attached and nothing queued parks the thread on a
 * futex until the next notify.
 */
#ifndef POM_SAMPLER_SAMPLER_H
#define POM_SAMPLER_SAMPLER_H

#include "profiles/code_table.h"
#include "sampler/schedule.h"
#include "sampler/slot.h"
#include "sampler/walker.h"

/* When and in what state a stack was taken. */
typedef struct pom_sample_s {
    int64_t at_ns;  /* monotonic */
    int64_t cpu_ns; /* the thread's CPU clock then; 0 when it could not be read */
    bool running;   /* it was on a CPU, or had to leave it to us: CPU time belongs to this stack */
    bool parked;    /* its thread was doing something else: the stack is what it waits in */
    /* parked: CPU time, for this stack, of a thread that works for the action;
     * POM_WALK_UNHELPED: there is none */
    int64_t helped_cpu_ns;
    /* the look before at this thread, 0 = none: only the time from then on was surely this
     * stack's */
    int64_t since_ns;
    int64_t since_cpu_ns; /* the thread's CPU clock at that look */
    /* of the CPU time since then, what was used where no look meets a thread: in and after its
     * sleeps */
    int64_t unmet_cpu_ns;
    bool unmet_before;   /* its sleeps were in what that look showed, rather than in this stack */
    uint64_t code_epoch; /* deaths of code objects before the walk */
} pom_sample_t;

/* What one window of active time showed. */
typedef struct pom_window_s {
    bool helpless;          /* over the budget, and a longer period has not mended it */
    int64_t period_ns;      /* in force from now on */
    int64_t overhead_ppm;   /* whole product's cost, millionths of the process's other CPU time */
    int64_t sample_cost_ns; /* sampler CPU a sample, wake-ups included */
} pom_window_t;

/* Who gets the samples. Every function runs on the sampler thread. */
typedef struct pom_sampler_client_s pom_sampler_client_t;
struct pom_sampler_client_s {
    /* The start of a tick: apply what is queued; true when there was something. */
    bool (*tick)(pom_sampler_client_t *self, int64_t now_ns);
    /* What the code objects of a stack are called: before its sample, and before the walker lets go
     * of its lock if it has one. POM_ENOTFOUND: one died meanwhile, POM_ETORN: one is none; so this
     * is no stack after all, and `missed` follows. */
    pom_status_t (*resolve)(pom_sampler_client_t *self, const pom_stack_t *stack,
                            uint64_t code_epoch);
    /* A sample of the action in `anchor`, of the stack that was resolved last. */
    void (*sample)(pom_sampler_client_t *self, const pom_anchor_t *anchor,
                   const pom_sample_t *sample, const pom_stack_t *stack);
    /* The thread has not run since its last sample, which was of this anchor: it still stands where
     * it stood then. False: that is not known any more, so the stack is wanted after all. */
    bool (*again)(pom_sampler_client_t *self, const pom_anchor_t *anchor,
                  const pom_sample_t *sample);
    /* A sample that was due and failed; of several anchors of a slot the newest is named. */
    void (*missed)(pom_sampler_client_t *self, const pom_anchor_t *anchor, pom_miss_t reason);
    /* Nothing is queued: the sampler may park. */
    bool (*idle)(pom_sampler_client_t *self);
    /* CPU that the rest of the product has used so far: begins and ends, encoding, delivery.
     * Cumulative. */
    int64_t (*other_cost_ns)(pom_sampler_client_t *self);
    /* The end of a window: a new verdict on the budget. */
    void (*window)(pom_sampler_client_t *self, const pom_window_t *window);
};

typedef struct pom_sampler_s pom_sampler_t;

typedef struct pom_sampler_stats_s {
    int64_t period_ns;
    int64_t taken; /* samples handed to the client */
    int64_t missed[POM_MISS_COUNT];
    int64_t wakeups;
    int64_t cpu_ns;       /* the sampler thread's own CPU time */
    int64_t overhead_ppm; /* whole product, last window */
    /* whole product's cost, and what it is a share of, up to the last window or stop */
    int64_t cost_ns, base_cpu_ns;
    bool over_budget;
} pom_sampler_stats_t;

/* Returns owned, NULL for no memory. Borrows everything for its life. [any] */
pom_sampler_t *pom_sampler_new(const pom_schedule_options_t *options, pom_slots_t *slots,
                               pom_code_table_t *codes, pom_walker_t *walker,
                               pom_sampler_client_t *client);

/* The thread must have been stopped. A forked child leaks the parent's instead: its locks may be
 * held for ever. [any] */
void pom_sampler_free(pom_sampler_t *sampler);

/* In a forked child, at once after the fork: lets go of the parent's descriptors. It must not be
 * used afterwards. [any] */
void pom_sampler_after_fork(pom_sampler_t *sampler);

/* POM_EIO when no thread can be made. [app] */
pom_status_t pom_sampler_start(pom_sampler_t *sampler);

/* Ends the thread after one more tick, at once, and joins it. Not with the interpreter's lock held
 * under the GIL engine. [app] */
void pom_sampler_stop(pom_sampler_t *sampler);

/* After an attach or a push: sets the alarm of a thread that is parked, a system call; 8 ns when it
 * is not. [app] */
void pom_sampler_notify(pom_sampler_t *sampler);

/* Has the thread tick now: a queue is getting long. [app] */
void pom_sampler_hurry(pom_sampler_t *sampler);

/* Waits until everything queued before the call has been applied; false when the deadline passed or
 * the thread ended first. Takes no sample. Not with the interpreter's lock held. [app] */
bool pom_sampler_sync(pom_sampler_t *sampler, int64_t deadline_ns);

/* New schedule options, in force from the next tick, which comes at once. The period is kept unless
 * the granularity changes. [app], serialised by the interpreter's lock. */
void pom_sampler_configure(pom_sampler_t *sampler, const pom_schedule_options_t *options);

pom_sampler_stats_t pom_sampler_stats(const pom_sampler_t *sampler); /* [any] */

#endif
