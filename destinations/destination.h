/*
 * A destination: a named place that profiles are delivered to, and the counters that say what
 * became of each.
 *
 * Made by the bindings (a file, a handoff to Python, later HTTP), given to the exporter, which
 * alone calls the operations. Shared by reference count.
 *
 *     pom_destination_t *d;  pom_file_new("out.jsonl", &options, &d, error, sizeof error);
 *     pom_exporter_add(exporter, d);          the exporter takes its own reference
 *     pom_destination_counters(d, &counters); any time, from any thread
 *     pom_destination_unref(d);               the last one frees
 *
 * The way of a profile through one destination; every arrow is counted, in profiles:
 *
 *     produced --> queued --+--> sent      the destination has it for good
 *                           +--> spooled   on disk, to be sent later
 *                           +--> dropped   by reason
 *
 * queued = produced - sent - spooled - dropped by definition, so no reader ever sees a sum that
 * does not add up.
 */
#ifndef POM_DESTINATIONS_DESTINATION_H
#define POM_DESTINATIONS_DESTINATION_H

#include <pthread.h>

#include "base/status.h"
#include "profiles/profile.h"

struct uv_loop_s;

/* Why a profile was lost; one list for counters, stats() and reports. */
#define POM_DROP_LIST(X)                                                                           \
    X(QUEUE_FULL, "queue_full") /* the destination's byte budget was used up: the oldest goes */   \
    X(TOO_OLD, "too_old")       /* waited longer than the destination allows */                    \
    X(TOO_BIG, "too_big")       /* one profile over the budget, or refused for its size */         \
    X(REJECTED, "rejected")     /* the other side said no, for good */                             \
    X(SERIALIZE, "serialize")   /* could not be encoded */                                         \
    X(SHUTDOWN, "shutdown")     /* the exporter stopped before it could be sent */                 \
    X(FORK, "fork")             /* an unfinished delivery of this process that a fork cut off */   \
    X(ERROR, "error")           /* writing, sending or the user's callable failed */               \
    X(REMOVED, "removed")       /* the destination was removed while it was queued */

typedef enum pom_drop_e {
#define X(name, text) POM_DROP_##name,
    POM_DROP_LIST(X)
#undef X
        POM_DROP_COUNT
} pom_drop_t;

extern const char *const pom_drop_names[POM_DROP_COUNT];

#define POM_DESTINATION_NAME_MAX  128 /* a path's tail and its kind; longer is cut at the front */
#define POM_DESTINATION_ERROR_MAX 256 /* one line of stats() */

/* 16 MiB hold some 2 000 to 20 000 profiles: tens of seconds of a busy process, small beside its
 * heap. */
#define POM_DESTINATION_QUEUE_BYTES ((size_t)16 << 20)

/* What became of the profiles, as pom_destination_counters() copies it. */
typedef struct pom_destination_counters_s {
    int64_t produced; /* sum of the four fates below */
    int64_t queued;   /* waiting, being delivered, or buffered by the destination */
    int64_t sent;
    int64_t spooled;
    int64_t dropped[POM_DROP_COUNT];
    int64_t retried; /* profiles that were attempted again; not a fate */
    int64_t bytes;   /* bytes written or sent, in the destination's encoding */
    char last_error[POM_DESTINATION_ERROR_MAX]; /* empty: none so far */
} pom_destination_counters_t;

/* A batch: profiles to deliver together, oldest first. Memory of the exporter, lent to the
 * destination from deliver() until pom_batch_end(). */
typedef struct pom_batch_s {
    struct pom_batch_s *next; /* free for the destination's use: a list of what it holds */
    size_t bytes;             /* pom_profile_bytes of all, for budgets */
    uint32_t count;
    uint32_t taken; /* free for the destination's use: how far it is; starts at 0 */
    void (*end)(struct pom_batch_s *self); /* the owner's part of pom_batch_end() */
    void *owner;
    pom_profile_t *profiles[]; /* one owned reference each */
} pom_batch_t;

/* The destination needs the batch no more: releases the profiles and gives its place to the next
 * one. Says nothing about fates: those are counted by the functions below, before or after.
 * [any] */
void pom_batch_end(pom_batch_t *batch);

typedef struct pom_destination_s pom_destination_t;

/* What a kind of destination does. All calls come from the loop thread, one at a time, but for
 * the last two. None may wait. */
typedef struct pom_destination_ops_s {
    const char *kind; /* "file", "handoff", ... */

    /* Gets ready to deliver; the loop is for the destination's own handles, until closed. On
     * failure the exporter keeps the queue and tries again with the next batch. Called again
     * after close() when added or started anew. [loop] */
    pom_status_t (*open)(pom_destination_t *self, struct uv_loop_s *loop);

    /* Takes the batch: sends it now or later, counts a fate for each of its profiles and ends
     * the batch, once, from any thread, inside this call or after it. At most `window` batches
     * are out at a time; an early end (with the fates still open) lets the next batch come, so a
     * destination that buffers must bound its buffer. [loop] */
    void (*deliver)(pom_destination_t *self, pom_batch_t *batch);

    /* Somebody waits in pom_exporter_flush(): send what is buffered, do not sit out a back-off.
     * May be called often. NULL: nothing is ever held back. [loop] */
    void (*flush)(pom_destination_t *self);

    /* The exporter stops with this batch undelivered: it outlives the process, or is counted as
     * SHUTDOWN; it is ended either way, here and now. An earlier batch that is still out is settled
     * in the same way, and close() comes next. False: a further batch would not be kept. Only
     * called if `keeps`. [loop] */
    bool (*keep)(pom_destination_t *self, pom_batch_t *batch);

    /* Stop delivering: what can be finished at once is, all else is counted as `reason` (REMOVED
     * or SHUTDOWN), and every batch is ended; only for REMOVED may one wait for a call that is
     * out of our hands. Then pom_destination_closed(), inside this call or later on the loop.
     * Called after open() succeeded, and a second time with SHUTDOWN when the exporter stops
     * before that is over. [loop] */
    void (*close)(pom_destination_t *self, pom_drop_t reason);

    /* In a forked child: the loop thread, its handles and what it was doing are gone, in any
     * half-done state: forget them without looking, be as before open(). NULL: nothing to
     * forget. [app, the child's only thread] */
    void (*after_fork)(pom_destination_t *self);

    /* The last reference is gone; not open. [any] */
    void (*free)(pom_destination_t *self);
} pom_destination_ops_t;

/* A kind embeds this as its first member. */
struct pom_destination_s {
    /* constant after init */
    const pom_destination_ops_t *ops;
    char name[POM_DESTINATION_NAME_MAX];
    size_t queue_bytes; /* budget of its queue; may be set before it is added */
    uint32_t window;    /* batches out at a time; may be set before it is added */
    bool prompt;        /* small batches cost it no more: it gets them while they are in a cache */
    bool keeps;         /* a stop spends part of its time on keep() */
    int64_t gather_ns;  /* at least, between two batches that are not full; 0: a turn of the loop */
    /* atomic */
    _Atomic(int32_t) refs;
    _Atomic(bool) removed; /* remove was called and it has not been opened since */
    _Atomic(int64_t) produced, sent, spooled, retried, bytes;
    _Atomic(int64_t) dropped[POM_DROP_COUNT];
    /* set by the exporter before the first delivery */
    void (*on_settled)(void *context); /* after each fate counted; NULL: nobody listens */
    void (*on_closed)(void *context, pom_destination_t *self);
    void *context;
    /* under the lock of enlisted destinations */
    bool is_enlisted;
    pom_destination_t *before, *after; /* NULL at the ends */
    /* under error_lock, a leaf */
    pthread_mutex_t error_lock;
    char last_error[POM_DESTINATION_ERROR_MAX];
};

/* For kinds: one reference, counters at zero, default budget, window 1. name is copied. [any] */
void pom_destination_init(pom_destination_t *self, const pom_destination_ops_t *ops,
                          const char *name);

pom_destination_t *pom_destination_ref(pom_destination_t *self); /* [any] */
void pom_destination_unref(pom_destination_t *self);             /* [any], accepts NULL */

/* A copy of the counters in which the sum holds. Profiles that the exporter has not yet dealt
 * out to its destinations are not in it: pom_exporter_list() deals them out first. [any] */
void pom_destination_counters(pom_destination_t *self, pom_destination_counters_t *out);

/* produced minus all fates. [any] */
int64_t pom_destination_queued(const pom_destination_t *self);

/* Fates, for kinds and the exporter: `count` profiles leave `queued`. [any] */
void pom_destination_sent(pom_destination_t *self, int64_t count, int64_t bytes);
void pom_destination_spooled(pom_destination_t *self, int64_t count); /* negative: taken out of
                                                                       * the spool, to be counted
                                                                       * as sent or dropped next */
void pom_destination_dropped(pom_destination_t *self, pom_drop_t reason, int64_t count);

/* `count` profiles of a process that has ended were found in the spool: produced and spooled
 * here. [loop] */
void pom_destination_adopted(pom_destination_t *self, int64_t count);

/* Not a fate: `count` profiles are being attempted again. [any] */
void pom_destination_retried(pom_destination_t *self, int64_t count);

/* Remembers a failure in words, printf style, cut to one line's length. [any] */
void pom_destination_error(pom_destination_t *self, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Ends what close() began: no handle of the destination is left on the loop. Once for each
 * close(). [loop] */
void pom_destination_closed(pom_destination_t *self);

/* In a forked child: counters at zero, locks anew, then the kind's after_fork. [app, the child's
 * only thread] */
void pom_destination_after_fork(pom_destination_t *self);

/* From now on forked children begin it anew, until it is freed. More than once is once. [app] */
void pom_destination_enlist(pom_destination_t *self);

/* Around a fork; in the child all that are enlisted begin anew. They may be taken within the
 * exporter's lock. [app] */
void pom_destinations_before_fork(void);
void pom_destinations_after_fork_parent(void);
void pom_destinations_after_fork_child(void);

#endif
