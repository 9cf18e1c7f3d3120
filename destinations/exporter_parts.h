/*
 * The exporter's inside, shared by exporter.c (what other threads call), exporter_thread.c and
 * exporter_loop.c (what the loop thread is, and does).
 *
 *     pom__exporter_start_locked(e);    makes the thread
 *     pom__exporter_urge_locked(e);     something for the loop to look at
 *     pom__exporter_deal_locked(e);     intake to backlogs
 *
 * One lock guards it all. It is a leaf, held for pointer moves only: never around a
 * destination's operation, except that making the thread takes some 50 us. The sampler takes it
 * once a flush interval.
 */
#ifndef POM_DESTINATIONS_EXPORTER_PARTS_H
#define POM_DESTINATIONS_EXPORTER_PARTS_H

#include <uv.h>

#include "destinations/backlog.h"
#include "destinations/exporter.h"
#include "destinations/loop_guard.h"

/* A destination in an exporter. After a remove and an add of the same destination there are two:
 * the second waits until the first is gone. */
typedef struct pom__member_s {
    /* constant */
    pom_exporter_t *exporter;
    pom_destination_t *destination; /* owned reference */
    /* under exporter_lock */
    enum { POM__MEMBER_NEW, POM__MEMBER_OPENING, POM__MEMBER_OPEN, POM__MEMBER_CLOSING } phase;
    bool leaving;     /* removed: gone as soon as it is closed */
    bool closed;      /* the destination says so; batches may still be out */
    bool given_up;    /* closed for shutdown, so nothing may be waited for */
    uint32_t batches; /* out, not ended */
    size_t batch_bytes;
    int64_t delivered_ns; /* when the last batch went out; 0: none yet */
    bool hurried;         /* a flush has found something in the backlog, and not all of it is out */
    uint64_t empty_round; /* the last flush in which it was seen with nothing queued */
    pom__backlog_t backlog;
} pom__member_t;

typedef enum pom__exporter_state_e {
    POM__EXPORTER_STOPPED, /* no thread; profiles are dropped as shutdown */
    POM__EXPORTER_DORMANT, /* no thread yet: the next profile or flush makes it (a forked child) */
    POM__EXPORTER_RUNNING,
    POM__EXPORTER_STOPPING, /* the thread closes the destinations and ends */
} pom__exporter_state_t;

/* Bits of `signal`. */
#define POM__ARMED  1U /* the batch timer runs, or the loop has been woken to start it */
#define POM__URGENT 2U /* the loop has been woken to look at everything now */
#define POM__PROMPT 4U /* or to deliver to destinations that are prompt */

struct pom_exporter_s {
    /* constant */
    pom_exporter_options_t options;
    /* atomic */
    pom_queue_t intake;
    _Atomic(int64_t) intake_count, intake_bytes; /* of what is in the intake, or is about to be */
    _Atomic(int64_t) refused; /* not taken since the intake was full; not yet in the counters */
    _Atomic(uint32_t) signal;
    _Atomic(int32_t) waiters; /* in pom_exporter_flush */
    _Atomic(uint32_t) wanted; /* members that are not leaving */
    _Atomic(uint32_t) prompt; /* of these, of prompt destinations */
    _Atomic(bool) accepting;  /* state is RUNNING or DORMANT */
    _Atomic(int64_t) put, unwanted, wakeups;
    _Atomic(int64_t) ended_cpu_ns; /* of loop threads that have ended */
    _Atomic(int32_t) tid;          /* kernel id of the loop thread, 0 = none */

    pthread_mutex_t exporter_lock;
    /* ---- under exporter_lock ---- */
    pthread_cond_t changed; /* a round or the state moved on */
    pom__exporter_state_t state;
    pthread_t thread;
    bool joinable;
    bool drained;          /* by the last stop */
    bool wakeable;         /* the async handle is open */
    int64_t next_try_ns;   /* making the thread failed: not again before this */
    int64_t keep_until_ns; /* when stopping: what is not kept by then is counted */
    uint64_t round;        /* of flushes */
    pom__member_t *members[POM_EXPORTER_DESTINATIONS_MAX];
    uint32_t member_count;
    /* ---- loop thread only ---- */
    uv_loop_t loop;
    uv_async_t async;
    uv_timer_t timer;
    uv_prepare_t before_poll;
    pom__loop_guard_t guard; /* of the loop, constant from its birth to the next one's */
    bool pumping;            /* inside pump(): what happens now is looked at before it returns */
    bool again;              /* it has to look once more */
    bool worked;             /* a batch was delivered, or waits, since the last tick of the timer */
    bool due;                /* this turn delivers whatever there is */
};

/* The lock and its condition, made or made anew. */
void pom__exporter_init_locks(pom_exporter_t *e);

/* Somebody wants attention, or the thread is new. [loop] */
void pom__exporter_on_wake(uv_async_t *async);

/* Makes the loop thread. POM_ENOMEM, POM_EIO. State STOPPED or DORMANT before, RUNNING after. */
POM_MUST_USE pom_status_t pom__exporter_start_locked(pom_exporter_t *e);

/* The loop looks at everything soon. No-op without a thread. */
void pom__exporter_urge_locked(pom_exporter_t *e);

/* Moves the intake to the members' backlogs, within their budgets. True when there was anything. */
bool pom__exporter_deal_locked(pom_exporter_t *e);

/* Notes for waiting flushes which members have nothing queued. */
void pom__exporter_note_empty_locked(pom_exporter_t *e);

/* Drops the whole backlog, counted. */
void pom__member_drop_backlog_locked(pom__member_t *m, pom_drop_t reason);

/* Frees the member and its reference; it is in no array and has no batch out. */
void pom__member_free(pom__member_t *m);

#endif
