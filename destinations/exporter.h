/*
 * The exporter: one loop thread a process that takes finished profiles to the destinations.
 *
 * Used by bindings/engine, which gives it the sampler's profiles and the user's destinations. It
 * is the only caller of a destination's operations.
 *
 *     pom_exporter_new(&options, &exporter);
 *     pom_exporter_add(exporter, destination);       the first one starts the thread
 *     pom_exporter_put(exporter, profile);           sampler thread, never waits
 *     pom_exporter_flush(exporter, deadline_ns);     true: every queue was empty
 *     pom_exporter_stop(exporter, deadline_ns);      drains, ends the thread; may be started again
 *     pom_exporter_free(exporter);
 *
 *     sampler --put--> intake (lock-free) --dealt out--> queue of destination 1 --batch--> deliver
 *                                                  \---> queue of destination 2 --batch--> deliver
 *
 * A profile is shared by all queues it is in. Each queue has a byte budget; when it is full the
 * oldest profile that is not being delivered goes, counted as queue_full. Wake-ups: one a flush
 * interval while profiles come, one more for each MiB, none while idle.
 */
#ifndef POM_DESTINATIONS_EXPORTER_H
#define POM_DESTINATIONS_EXPORTER_H

#include "destinations/destination.h"

#define POM_EXPORTER_DESTINATIONS_MAX 64 /* more than anybody has; bounds memory at 64 budgets */

typedef struct pom_exporter_s pom_exporter_t;

typedef struct pom_exporter_options_s {
    int64_t flush_interval_ns; /* a profile waits no longer than this for company: 1 s */
    size_t batch_bytes;        /* delivered at once when this much waits: 1 MiB */
    uint32_t batch_count;      /* or this many profiles: 4 096 */
    size_t prompt_bytes;       /* delivered at once to who is prompt: 128 KiB */
} pom_exporter_options_t;

typedef struct pom_exporter_stats_s {
    int64_t put;      /* profiles taken by pom_exporter_put() */
    int64_t unwanted; /* of these, released at once as there was no destination */
    int64_t wakeups;  /* of the loop thread */
    int64_t cpu_ns;   /* CPU time of the loop thread, and of those before it */
    bool running;     /* the loop thread exists */
    bool drained;     /* the last stop has found every queue empty before its deadline */
} pom_exporter_stats_t;

pom_exporter_options_t pom_exporter_options_default(void);

/* Starts nothing. POM_ENOMEM. options may be NULL. [any] */
POM_MUST_USE pom_status_t pom_exporter_new(const pom_exporter_options_t *options,
                                           pom_exporter_t **out);

/* Stops at once if need be (see stop with a deadline in the past), releases the destinations and
 * frees. When the loop thread hangs in a system call, all of it is left to that thread's mercy
 * and never freed. No other call may be under way. Accepts NULL. [app, GIL released] */
void pom_exporter_free(pom_exporter_t *exporter);

/* Takes the reference. Never waits for I/O or for room: a compare-and-swap, and once a flush
 * interval a short lock to wake the loop (or, in a forked child, to create it). [sampler] */
void pom_exporter_put(pom_exporter_t *exporter, pom_profile_t *profile);

/* Takes its own reference; profiles put from now on go to it too. Starts the loop thread.
 * POM_EINVAL: it is there already; POM_EFULL: too many; POM_ENOMEM, POM_EIO: no thread or no
 * descriptors (nothing was added). [app] */
POM_MUST_USE pom_status_t pom_exporter_add(pom_exporter_t *exporter,
                                           pom_destination_t *destination);

/* Waits for nothing. No batch is taken for the destination after this returns; one that has been
 * taken is finished meanwhile on the loop, and counted by its outcome. What was queued is
 * counted as removed: flush first to keep it. The destination may be added again at once.
 * POM_ENOTFOUND. [app] */
pom_status_t pom_exporter_remove(pom_exporter_t *exporter, pom_destination_t *destination);

/* Waits until each queue has been empty at some moment after the call, so all that was put
 * before is gone (sent, spooled, or counted as dropped). False: the deadline came first, or the
 * exporter is stopped with profiles queued. [app, GIL released; never on the loop, nor on the
 * thread that consumes a handoff] */
bool pom_exporter_flush(pom_exporter_t *exporter, int64_t deadline_ns);

/* Starts the loop thread again after a stop, with the destinations it has. No-op while running.
 * Errors as for add; POM_ETIMEDOUT while a stop is under way. [app] */
POM_MUST_USE pom_status_t pom_exporter_start(pom_exporter_t *exporter);

/* Flushes until the deadline (three quarters of it where a destination keeps what is left), counts
 * the rest as shutdown, closes the destinations (they stay added), ends the thread. Profiles put
 * from then on are counted as shutdown. POM_ETIMEDOUT: the loop hangs in a destination's system
 * call; it ends when that returns. [app, GIL released] */
pom_status_t pom_exporter_stop(pom_exporter_t *exporter, int64_t deadline_ns);

/* The three handlers of pthread_atfork(). The child keeps the destinations with counters at
 * zero, forgets thread, loop and queues (they are the parent's to send), and has its own thread
 * from its first profile on. [app] */
void pom_exporter_before_fork(pom_exporter_t *exporter);
void pom_exporter_after_fork_parent(pom_exporter_t *exporter);
void pom_exporter_after_fork_child(pom_exporter_t *exporter);

/* Deals out the intake, so that counters are exact, and writes an owned reference of each
 * destination, in the order added. Returns how many. Where the program has closed the loop's
 * descriptors, each destination's last error says so. [any] */
uint32_t pom_exporter_list(pom_exporter_t *exporter, pom_destination_t **out, uint32_t room);

void pom_exporter_stats(pom_exporter_t *exporter, pom_exporter_stats_t *out); /* [any] */

/* CPU time of the loop thread, ended ones included, for the overhead bill; one system call.
 * [any] */
int64_t pom_exporter_cpu_ns(pom_exporter_t *exporter);

#endif
