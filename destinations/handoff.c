/*
 * The handoff: batches wait in a list, the consumer takes profile by profile.
 *
 *     loop:      deliver --> list of destinations that have a batch
 *     consumer:  list --take--> one profile --its work--> done
 *
 * A destination has at most one batch here (window 1), so the list is made of the destinations
 * themselves. The consumer has at most one profile in hand, for a time nobody can bound: a
 * user's callable runs. Closing therefore never waits for it. After a removal the batch stays
 * out until the callable returns and is then counted by its outcome; at shutdown the profile is
 * counted as shutdown at once, and a `generation` tells the late done() that it has nothing left
 * to count.
 *
 * Counters and pom_batch_end() are called without the lock, since both may take the exporter's.
 * While done() counts, the batch is still out, and that is what keeps the exporter alive
 * (`settling`).
 *
 * The lock is held for pointer moves. Runs on the loop thread and on the consumer's.
 */
#include "destinations/handoff.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/cond.h"

typedef struct entry_s {
    pom_destination_t base;
    /* constant */
    pom_handoff_t *handoff; /* owned reference */
    void *context;
    void (*release)(void *context);
    /* under handoff_lock */
    pom_batch_t *batch;   /* not ended; profiles from `taken` on wait */
    struct entry_s *next; /* in the list while profiles wait */
    bool listed;
    bool out;            /* the consumer has a profile of it */
    bool settling;       /* the consumer counts it */
    uint64_t generation; /* moves when a profile in hand is given up */
} entry_t;

struct pom_handoff_s {
    _Atomic(int32_t) refs;
    pthread_mutex_t handoff_lock;
    /* ---- under handoff_lock ---- */
    pthread_cond_t changed; /* something to take, or stopped */
    bool stopped;
    entry_t *first, *last;
};

static entry_t *entry_of(pom_destination_t *self) {
    return (entry_t *)(void *)self; /* base comes first */
}

static void lock(pom_handoff_t *h) {
    (void)pthread_mutex_lock(&h->handoff_lock); /* cannot fail: plain, and never taken twice */
}

static void unlock(pom_handoff_t *h) {
    (void)pthread_mutex_unlock(&h->handoff_lock);
}

static void init_locks(pom_handoff_t *h) {
    pom_cond_init(&h->handoff_lock, &h->changed);
}

pom_status_t pom_handoff_new(pom_handoff_t **out) {
    pom_handoff_t *h = pom_calloc(1, sizeof *h);
    if (h == NULL) {
        return POM_ENOMEM;
    }
    atomic_init(&h->refs, 1);
    init_locks(h);
    *out = h;
    return POM_OK;
}

pom_handoff_t *pom_handoff_ref(pom_handoff_t *h) {
    atomic_fetch_add_explicit(&h->refs, 1,
                              memory_order_relaxed); /* the caller's own keeps it alive */
    return h;
}

void pom_handoff_unref(pom_handoff_t *h) {
    /* Release and acquire: the free comes after what every other owner did. */
    if (h != NULL && atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) == 1) {
        (void)pthread_cond_destroy(&h->changed);
        (void)pthread_mutex_destroy(&h->handoff_lock);
        pom_free(h);
    }
}

/* ---- the list ---- */

static void append_locked(pom_handoff_t *h, entry_t *entry) {
    entry->next = NULL;
    entry->listed = true;
    if (h->first == NULL) {
        h->first = entry;
    } else {
        h->last->next = entry;
    }
    h->last = entry;
}

static void unlist_locked(pom_handoff_t *h, entry_t *entry) {
    if (!entry->listed) {
        return;
    }
    entry_t *before = NULL;
    for (entry_t *e = h->first; e != entry; e = e->next) {
        before = e;
    }
    if (before == NULL) {
        h->first = entry->next;
    } else {
        before->next = entry->next;
    }
    if (h->last == entry) {
        h->last = before;
    }
    entry->listed = false;
}

/* Takes what waits out of the batch; returns how many profiles that was. */
static uint32_t empty_batch_locked(pom_handoff_t *h, entry_t *entry) {
    uint32_t waiting = 0;
    if (entry->batch != NULL) {
        waiting = entry->batch->count - entry->batch->taken;
        entry->batch->taken = entry->batch->count;
    }
    unlist_locked(h, entry);
    return waiting;
}

/* The batch, to be ended by the caller, when nothing waits in it and nothing of it is in hand;
 * else NULL. */
static pom_batch_t *detach_locked(entry_t *entry) {
    pom_batch_t *batch = entry->batch;
    if (batch == NULL || batch->taken < batch->count || entry->out || entry->settling) {
        return NULL;
    }
    entry->batch = NULL;
    return batch;
}

/* ---- the destination's side, loop thread ---- */

static pom_status_t handoff_open(pom_destination_t *self, struct uv_loop_s *loop) {
    (void)self;
    (void)loop; /* no handles of its own */
    return POM_OK;
}

static void handoff_deliver(pom_destination_t *self, pom_batch_t *batch) {
    entry_t *entry = entry_of(self);
    pom_handoff_t *h = entry->handoff;
    lock(h);
    entry->batch = batch;
    append_locked(h, entry);
    (void)pthread_cond_signal(&h->changed);
    unlock(h);
}

static void handoff_close(pom_destination_t *self, pom_drop_t reason) {
    entry_t *entry = entry_of(self);
    pom_handoff_t *h = entry->handoff;
    lock(h);
    int64_t dropped = empty_batch_locked(h, entry);
    if (reason == POM_DROP_SHUTDOWN && entry->out) {
        entry->out = false;
        entry->generation++;
        dropped++;
    }
    pom_batch_t *batch = detach_locked(entry);
    unlock(h);
    pom_destination_dropped(self, reason, dropped);
    if (batch != NULL) {
        pom_batch_end(batch);
    }
    pom_destination_closed(self);
}

static void handoff_after_fork(pom_destination_t *self) {
    entry_t *entry = entry_of(self);
    pom_handoff_after_fork_child(entry->handoff);
    entry->batch = NULL;
    entry->next = NULL;
    entry->listed = entry->out = entry->settling = false;
    entry->generation++;
}

static void handoff_free(pom_destination_t *self) {
    entry_t *entry = entry_of(self);
    if (entry->release != NULL) {
        entry->release(entry->context);
    }
    pom_handoff_unref(entry->handoff);
    pom_free(entry);
}

static const pom_destination_ops_t handoff_ops = {
    .kind = "handoff",
    .open = handoff_open,
    .deliver = handoff_deliver,
    .flush = NULL,
    .close = handoff_close,
    .after_fork = handoff_after_fork,
    .free = handoff_free,
};

pom_status_t pom_handoff_destination_new(pom_handoff_t *h, const char *name, void *context,
                                         void (*release)(void *context), pom_destination_t **out) {
    entry_t *entry = pom_calloc(1, sizeof *entry);
    if (entry == NULL) {
        return POM_ENOMEM;
    }
    pom_destination_init(&entry->base, &handoff_ops, name);
    entry->handoff = pom_handoff_ref(h);
    entry->context = context;
    entry->release = release;
    *out = &entry->base;
    return POM_OK;
}

/* ---- the consumer's side ---- */

/* The first in the list was removed: its waiting profiles go, without waiting for the loop to
 * close it. Opens the lock meanwhile. */
static void discard_first_locked(pom_handoff_t *h) {
    entry_t *entry = h->first;
    pom_destination_t *d = pom_destination_ref(&entry->base);
    int64_t dropped = empty_batch_locked(h, entry);
    entry->settling = true; /* the batch stays out until this is counted */
    unlock(h);
    pom_destination_dropped(d, POM_DROP_REMOVED, dropped);
    lock(h);
    entry->settling = false;
    pom_batch_t *batch = detach_locked(entry);
    unlock(h);
    if (batch != NULL) {
        pom_batch_end(batch);
    }
    pom_destination_unref(d);
    lock(h);
}

pom_status_t pom_handoff_take(pom_handoff_t *h, int64_t deadline_ns, pom_handoff_item_t *out) {
    pom_status_t status = POM_OK;
    bool in_time = true;
    lock(h);
    for (;;) {
        if (h->stopped) {
            status = POM_ECLOSED;
            break;
        }
        entry_t *entry = h->first;
        if (entry != NULL && atomic_load(&entry->base.removed)) {
            discard_first_locked(h);
            continue;
        }
        if (entry != NULL) {
            pom_batch_t *batch = entry->batch;
            out->destination = pom_destination_ref(&entry->base);
            out->context = entry->context;
            out->profile = pom_profile_ref(batch->profiles[batch->taken++]);
            out->generation = entry->generation;
            entry->out = true;
            if (batch->taken == batch->count) {
                unlist_locked(h, entry);
            }
            break;
        }
        if (!in_time) {
            status = POM_ETIMEDOUT;
            break;
        }
        in_time = pom_cond_wait(&h->changed, &h->handoff_lock, deadline_ns);
    }
    unlock(h);
    return status;
}

void pom_handoff_done(pom_handoff_t *h, pom_handoff_item_t *item, const char *error) {
    entry_t *entry = entry_of(item->destination);
    pom_batch_t *batch = NULL;
    lock(h);
    bool ours = entry->out && entry->generation == item->generation;
    if (ours) {
        entry->out = false;
        entry->settling = true;
    }
    unlock(h);
    if (ours) {
        if (error == NULL) {
            pom_destination_sent(item->destination, 1, 0);
        } else {
            pom_destination_error(item->destination, "%s", error);
            pom_destination_dropped(item->destination, POM_DROP_ERROR, 1);
        }
        lock(h);
        entry->settling = false;
        batch = detach_locked(entry);
        unlock(h);
    }
    if (batch != NULL) {
        pom_batch_end(batch);
    }
    pom_profile_unref(item->profile);
    pom_destination_unref(item->destination);
    *item = (pom_handoff_item_t){0};
}

void pom_handoff_stop(pom_handoff_t *h) {
    lock(h);
    h->stopped = true;
    (void)pthread_cond_broadcast(&h->changed);
    unlock(h);
}

void pom_handoff_start(pom_handoff_t *h) {
    lock(h);
    h->stopped = false;
    unlock(h);
}

void pom_handoff_after_fork_child(pom_handoff_t *h) {
    init_locks(h);
    h->stopped = false;
    h->first = h->last = NULL;
}
