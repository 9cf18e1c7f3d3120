/*
 * The exporter as other threads see it: putting, adding, flushing, stopping. The loop thread is
 * exporter_loop.c, forking exporter_fork.c.
 *
 * put() is the hot end, called by the sampler for each profile. It pushes on a lock-free intake
 * and tells the loop only what it does not know: the first profile after a pause arms the batch
 * timer, and a full batch asks for delivery now. All else waits for the timer. So a steady
 * stream costs one wake-up a flush interval, and silence none.
 *
 * A destination that is prompt has a smaller full batch. A second's profiles of a busy process are
 * 2 MB of memory that was last touched half a second ago on another core: to read them then took
 * longer than to encode them. 128 KiB at a time are read from a cache, and their memory is used
 * again.
 *
 * From the intake profiles are dealt out to one backlog for each destination. Whoever holds the
 * lock may deal: the loop does it at each turn; flush, list, add and remove do it so that what
 * they see is exact ("put before the call"); and put itself does it when the loop is stuck in a
 * slow write and the intake has grown to two batches. Thus a hanging destination bounds memory
 * at its budget without any help of the loop.
 *
 *     signal:  0 --put--> ARMED --full batch, flush, remove, stop--> ARMED|URGENT (or PROMPT)
 *              0 <--idle tick-- ARMED <--loop turns-- ARMED|URGENT
 *
 * Every change of `signal` is a read-modify-write with acquire and release: put pushes, then
 * sets its bits; the loop clears a bit, then looks at the intake. Whichever of the two comes
 * second in the order of `signal` sees what the first did, so either put finds the bit clear and
 * wakes, or the loop finds the profile.
 *
 * Not here: what a destination does with a batch, retries, encodings.
 *
 * Over 400 lines: all of it is what is done under the one lock, or around it.
 */
#include "destinations/exporter_parts.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cond.h"

/* What stop() waits for the closing of destinations beyond its deadline. Closing writes at most
 * a buffer and waits for nothing, so this is spent only when the loop hangs in a system call. */
#define STOP_GRACE_NS (500 * POM_NS_PER_MS)

/* Of that, or of what is left until the deadline, the last part is not for keeping what is queued
 * but for closing: one batch more, which takes some 50 ms, and a sync. */
#define STOP_CLOSE_NS (100 * POM_NS_PER_MS)

static void on_settled(void *context);

pom_exporter_options_t pom_exporter_options_default(void) {
    return (pom_exporter_options_t){
        .flush_interval_ns = POM_NS_PER_S,
        .batch_bytes = (size_t)1 << 20,
        .batch_count = 4096,
        .prompt_bytes = (size_t)128 << 10,
    };
}

void pom__exporter_init_locks(pom_exporter_t *e) {
    pom_cond_init(&e->exporter_lock, &e->changed);
}

static void lock(pom_exporter_t *e) {
    (void)pthread_mutex_lock(&e->exporter_lock); /* cannot fail: plain, and never taken twice */
}

static void unlock(pom_exporter_t *e) {
    (void)pthread_mutex_unlock(&e->exporter_lock);
}

pom_status_t pom_exporter_new(const pom_exporter_options_t *options, pom_exporter_t **out) {
    pom_exporter_t *e = pom_calloc(1, sizeof *e);
    if (e == NULL) {
        return POM_ENOMEM;
    }
    e->options = options != NULL ? *options : pom_exporter_options_default();
    pom_queue_init(&e->intake);
    pom__exporter_init_locks(e);
    e->state = POM__EXPORTER_DORMANT;
    atomic_store(&e->accepting, true);
    *out = e;
    return POM_OK;
}

void pom_exporter_free(pom_exporter_t *e) {
    if (e == NULL || pom_exporter_stop(e, 0) != POM_OK) {
        return; /* the thread that hangs may come back, and then it needs all of it */
    }
    lock(e);
    (void)pom__exporter_deal_locked(e); /* what was put since the stop: counted as shutdown */
    unlock(e);
    for (uint32_t i = 0; i < e->member_count; i++) {
        pom__member_free(e->members[i]);
    }
    (void)pthread_cond_destroy(&e->changed);
    (void)pthread_mutex_destroy(&e->exporter_lock);
    pom_free(e);
}

/* ---- dealing ---- */

void pom__member_free(pom__member_t *m) {
    pom__backlog_fini(&m->backlog);
    pom_destination_unref(m->destination);
    pom_free(m);
}

/* Not pom_destination_dropped(): that calls on_settled, which takes the lock. The holder notes
 * the emptiness itself. */
static void count_drop_locked(pom__member_t *m, pom_drop_t reason, int64_t count) {
    atomic_fetch_add(&m->destination->dropped[reason], count);
}

void pom__member_drop_backlog_locked(pom__member_t *m, pom_drop_t reason) {
    count_drop_locked(m, reason, m->backlog.count);
    pom__backlog_fini(&m->backlog);
}

static void deal_one_locked(pom__member_t *m, pom_profile_t *profile) {
    pom_destination_t *d = m->destination;
    size_t size = pom_profile_bytes(profile);
    atomic_fetch_add(&d->produced, 1);
    if (!atomic_load(&m->exporter->accepting)) {
        count_drop_locked(m, POM_DROP_SHUTDOWN, 1);
        return;
    }
    if (size > d->queue_bytes) {
        count_drop_locked(m, POM_DROP_TOO_BIG, 1);
        return;
    }
    if (pom__backlog_put(&m->backlog, pom_profile_ref(profile)) != POM_OK) {
        pom_profile_unref(profile);
        count_drop_locked(m, POM_DROP_QUEUE_FULL,
                          1); /* no memory for a place is as good as no place */
        return;
    }
    /* The oldest that nobody has begun to send: the newest are what people look at during an
     * outage. */
    while (m->backlog.bytes + m->batch_bytes > d->queue_bytes) {
        pom_profile_t *oldest = pom__backlog_take(&m->backlog);
        if (oldest == NULL) {
            break; /* all of it is being delivered */
        }
        pom_profile_unref(oldest);
        count_drop_locked(m, POM_DROP_QUEUE_FULL, 1);
    }
}

bool pom__exporter_deal_locked(pom_exporter_t *e) {
    /* Acquire pairs with put's release push in the queue itself; the count needs no order of its
     * own. */
    int64_t refused = atomic_exchange_explicit(&e->refused, 0, memory_order_relaxed);
    if (refused != 0) {
        for (uint32_t i = 0; i < e->member_count; i++) {
            if (!e->members[i]->leaving) {
                atomic_fetch_add(&e->members[i]->destination->produced, refused);
                count_drop_locked(e->members[i], POM_DROP_QUEUE_FULL, refused);
            }
        }
    }
    pom_link_t *link = pom_queue_take_all(&e->intake);
    if (link == NULL) {
        return false;
    }
    int64_t count = 0;
    int64_t bytes = 0;
    while (link != NULL) {
        pom_link_t *next = link->next;
        pom_profile_t *profile = POM_CONTAINER(link, pom_profile_t, link);
        count++;
        bytes += (int64_t)pom_profile_bytes(profile);
        for (uint32_t i = 0; i < e->member_count; i++) {
            if (!e->members[i]->leaving) {
                deal_one_locked(e->members[i], profile);
            }
        }
        pom_profile_unref(profile);
        link = next;
    }
    atomic_fetch_sub_explicit(&e->intake_count, count, memory_order_relaxed);
    atomic_fetch_sub_explicit(&e->intake_bytes, bytes, memory_order_relaxed);
    return true;
}

/* ---- putting ---- */

/* Makes the loop look, or makes the loop. */
static void wake_locked(pom_exporter_t *e) {
    if (e->wakeable) {
        (void)pom__loop_wake(&e->async); /* a loop that cannot be woken stands still for good */
        return;
    }
    if (e->state == POM__EXPORTER_DORMANT) {
        int64_t now_ns = pom_now_ns();
        if (now_ns < e->next_try_ns || pom__exporter_start_locked(e) != POM_OK) {
            /* No threads or descriptors left: profiles pile up to the budgets meanwhile, and are
             * tried again with a later put, but not with each. */
            e->next_try_ns = now_ns < e->next_try_ns ? e->next_try_ns : now_ns + POM_NS_PER_S;
            atomic_fetch_and_explicit(&e->signal, 0, memory_order_acq_rel);
        }
    }
}

void pom__exporter_urge_locked(pom_exporter_t *e) {
    uint32_t old = atomic_fetch_or_explicit(&e->signal, POM__URGENT, memory_order_acq_rel);
    if ((old & POM__URGENT) == 0) {
        wake_locked(e);
    }
}

void pom_exporter_put(pom_exporter_t *e, pom_profile_t *profile) {
    atomic_fetch_add_explicit(&e->put, 1, memory_order_relaxed);
    /* Relaxed: an add that this misses by nanoseconds has not returned, or is on another thread
     * without order. */
    if (atomic_load_explicit(&e->wanted, memory_order_relaxed) == 0) {
        atomic_fetch_add_explicit(&e->unwanted, 1, memory_order_relaxed);
        pom_profile_unref(profile);
        return;
    }
    int64_t size = (int64_t)pom_profile_bytes(profile);
    int64_t bytes = size + atomic_fetch_add_explicit(&e->intake_bytes, size, memory_order_relaxed);
    int64_t count = 1 + atomic_fetch_add_explicit(&e->intake_count, 1, memory_order_relaxed);
    int64_t batch = (int64_t)e->options.batch_bytes;
    bool accepting = atomic_load_explicit(&e->accepting, memory_order_relaxed);
    if (bytes - size > 2 * batch || !accepting) {
        /* The loop should have emptied this long ago, or there is none. Trying the lock never
         * waits, and its holders hold it for microseconds, so that two batches more are out of
         * reach unless one of them is preempted for long. */
        if (pthread_mutex_trylock(&e->exporter_lock) == 0) {
            (void)pom__exporter_deal_locked(e);
            unlock(e);
        } else if (bytes - size > 4 * batch) {
            atomic_fetch_sub_explicit(&e->intake_bytes, size, memory_order_relaxed);
            atomic_fetch_sub_explicit(&e->intake_count, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&e->refused, 1, memory_order_relaxed);
            pom_profile_unref(profile);
            return;
        }
    }
    (void)pom_queue_push(&e->intake, &profile->link);
    uint32_t want = POM__ARMED;
    if (bytes >= batch || count >= (int64_t)e->options.batch_count) {
        want |= POM__URGENT;
    } else if (bytes >= (int64_t)e->options.prompt_bytes &&
               atomic_load_explicit(&e->prompt, memory_order_relaxed) > 0) {
        want |= POM__PROMPT;
    }
    /* Pairs with the loop's clearing of bits: see the head of this file. */
    uint32_t old = atomic_fetch_or_explicit(&e->signal, want, memory_order_acq_rel);
    if ((old & want) != want) {
        lock(e);
        wake_locked(e);
        unlock(e);
    }
}

/* ---- destinations ---- */

static pom__member_t *find_locked(pom_exporter_t *e, const pom_destination_t *d) {
    for (uint32_t i = 0; i < e->member_count; i++) {
        if (e->members[i]->destination == d && !e->members[i]->leaving) {
            return e->members[i];
        }
    }
    return NULL;
}

static void on_closed(void *context, pom_destination_t *d) {
    pom_exporter_t *e = context;
    lock(e);
    for (uint32_t i = 0; i < e->member_count; i++) {
        pom__member_t *m = e->members[i];
        if (m->destination == d && m->phase == POM__MEMBER_CLOSING) {
            m->closed = true;
        }
    }
    pom__exporter_urge_locked(e);
    unlock(e);
}

pom_status_t pom_exporter_add(pom_exporter_t *e, pom_destination_t *d) {
    pom__member_t *m = pom_calloc(1, sizeof *m);
    if (m == NULL) {
        return POM_ENOMEM;
    }
    m->exporter = e;
    m->destination = pom_destination_ref(d);
    pom__backlog_init(&m->backlog);
    pom_destination_enlist(d);

    pom_status_t status = POM_OK;
    lock(e);
    if (find_locked(e, d) != NULL) {
        status = POM_EINVAL;
    } else if (e->member_count == POM_EXPORTER_DESTINATIONS_MAX) {
        status = POM_EFULL;
    } else if (e->state == POM__EXPORTER_DORMANT) {
        status = pom__exporter_start_locked(e);
    }
    if (status == POM_OK) {
        /* What was put before this call is not for the new one. */
        (void)pom__exporter_deal_locked(e);
        /* Written once: a former life of the destination may be reading them. */
        if (d->context != e) {
            d->on_settled = on_settled;
            d->on_closed = on_closed;
            d->context = e;
        }
        e->members[e->member_count++] = m;
        atomic_fetch_add_explicit(&e->wanted, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&e->prompt, d->prompt ? 1 : 0, memory_order_relaxed);
        pom__exporter_urge_locked(e); /* opened now, so that what is wrong with it shows now */
    }
    unlock(e);
    if (status != POM_OK) {
        pom__member_free(m);
    }
    return status;
}

pom_status_t pom_exporter_remove(pom_exporter_t *e, pom_destination_t *d) {
    pom_status_t status = POM_ENOTFOUND;
    pom__backlog_t backlog;
    pom__backlog_init(&backlog);
    lock(e);
    pom__member_t *m = find_locked(e, d);
    if (m != NULL) {
        (void)pom__exporter_deal_locked(e);
        atomic_store(&d->removed, true);
        m->leaving = true;
        atomic_fetch_sub_explicit(&e->wanted, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&e->prompt, d->prompt ? 1 : 0, memory_order_relaxed);
        count_drop_locked(m, POM_DROP_REMOVED, m->backlog.count);
        backlog = m->backlog;
        pom__backlog_init(&m->backlog);
        pom__exporter_note_empty_locked(e); /* nobody waits for it any more */
        pom__exporter_urge_locked(e);
        status = POM_OK;
    }
    unlock(e);
    pom__backlog_fini(&backlog); /* up to 16 MiB of frees, so not under the lock */
    return status;
}

/* A loop whose descriptors a program has closed ends the turn that it is in and begins no other:
 * more time would not help. */
static bool stands_still_locked(const pom_exporter_t *e) {
    return e->wakeable && !pom__loop_holds(&e->loop);
}

uint32_t pom_exporter_list(pom_exporter_t *e, pom_destination_t **out, uint32_t room) {
    uint32_t n = 0;
    lock(e);
    (void)pom__exporter_deal_locked(e);
    bool for_good = stands_still_locked(e); /* nobody else is there to say it */
    for (uint32_t i = 0; i < e->member_count && n < room; i++) {
        if (!e->members[i]->leaving) {
            out[n++] = pom_destination_ref(e->members[i]->destination);
            if (for_good) {
                pom_destination_error(e->members[i]->destination,
                                      "this process delivers no more: it has closed the delivery's "
                                      "descriptors (os.closerange?), and has not forked since");
            }
        }
    }
    unlock(e);
    return n;
}

/* ---- flushing and stopping ---- */

void pom__exporter_note_empty_locked(pom_exporter_t *e) {
    for (uint32_t i = 0; i < e->member_count; i++) {
        pom__member_t *m = e->members[i];
        if (pom_destination_queued(m->destination) == 0) {
            m->empty_round = e->round;
        }
    }
    (void)pthread_cond_broadcast(&e->changed);
}

/* Called by a destination for each fate it counts. The count before and this load are both
 * sequentially consistent, as are a waiter's announcement and its reading of the counts: one of
 * the two sees the other. */
static void on_settled(void *context) {
    pom_exporter_t *e = context;
    if (atomic_load(&e->waiters) > 0) {
        lock(e);
        pom__exporter_note_empty_locked(e);
        unlock(e);
    }
}

static bool empty_since_locked(const pom_exporter_t *e, uint64_t round) {
    for (uint32_t i = 0; i < e->member_count; i++) {
        if (!e->members[i]->leaving && e->members[i]->empty_round < round) {
            return false;
        }
    }
    return true;
}

bool pom_exporter_flush(pom_exporter_t *e, int64_t deadline_ns) {
    atomic_fetch_add(&e->waiters, 1); /* pairs with the load in on_settled */
    lock(e);
    (void)pom__exporter_deal_locked(e);
    uint64_t round = ++e->round;
    for (uint32_t i = 0; i < e->member_count; i++) {
        e->members[i]->hurried = e->members[i]->backlog.count > 0; /* outlives a short deadline */
    }
    pom__exporter_note_empty_locked(e);
    bool empty = empty_since_locked(e, round);
    bool in_time = true;
    if (!empty) {
        pom__exporter_urge_locked(e);
    }
    while (!empty && in_time && e->state != POM__EXPORTER_STOPPED) {
        in_time = pom_cond_wait(&e->changed, &e->exporter_lock, deadline_ns);
        empty = empty_since_locked(e, round);
    }
    unlock(e);
    atomic_fetch_sub(&e->waiters, 1);
    return empty;
}

pom_status_t pom_exporter_start(pom_exporter_t *e) {
    pom_status_t status = POM_OK;
    lock(e);
    if (e->state == POM__EXPORTER_STOPPING) {
        status = POM_ETIMEDOUT;
    } else if (e->state != POM__EXPORTER_RUNNING) {
        (void)pom__exporter_deal_locked(e); /* what was put while stopped: counted as shutdown */
        status = pom__exporter_start_locked(e);
    }
    unlock(e);
    return status;
}

/* A server that does not answer must not cost what a disk would have taken: a quarter of the time
 * is left for that. */
static int64_t flush_until_locked(const pom_exporter_t *e, int64_t deadline_ns) {
    int64_t left_ns = deadline_ns - pom_now_ns();
    for (uint32_t i = 0; i < e->member_count && left_ns > 0; i++) {
        if (e->members[i]->destination->keeps) {
            return deadline_ns - left_ns / 4;
        }
    }
    return deadline_ns;
}

static void drop_backlogs_locked(pom_exporter_t *e) {
    for (uint32_t i = 0; i < e->member_count; i++) {
        pom__member_drop_backlog_locked(e->members[i], POM_DROP_SHUTDOWN);
    }
}

pom_status_t pom_exporter_stop(pom_exporter_t *e, int64_t deadline_ns) {
    lock(e);
    int64_t flush_until_ns = flush_until_locked(e, deadline_ns);
    unlock(e);
    bool drained =
        pom_exporter_flush(e, flush_until_ns); /* else the rest is kept or counted below */

    pthread_t ended;
    bool join = false;
    lock(e);
    (void)pom__exporter_deal_locked(e);
    atomic_store(&e->accepting, false);
    e->drained = drained;
    int64_t grace_ns = pom_now_ns() + STOP_GRACE_NS;
    int64_t until_ns = deadline_ns > grace_ns && !stands_still_locked(e) ? deadline_ns : grace_ns;
    if (e->state == POM__EXPORTER_DORMANT) {
        e->state = POM__EXPORTER_STOPPED;
    }
    if (e->state == POM__EXPORTER_RUNNING) {
        e->keep_until_ns = until_ns - STOP_CLOSE_NS;
        e->state = POM__EXPORTER_STOPPING;
        pom__exporter_urge_locked(e);
    }
    bool in_time = true;
    while (e->state == POM__EXPORTER_STOPPING && in_time) {
        in_time = pom_cond_wait(&e->changed, &e->exporter_lock, until_ns);
    }
    drop_backlogs_locked(e); /* of a loop that has ended, hangs, or never was */
    pom_status_t status = e->state == POM__EXPORTER_STOPPING ? POM_ETIMEDOUT : POM_OK;
    if (status == POM_OK && e->joinable) {
        ended = e->thread;
        join = true;
        e->joinable = false;
    }
    unlock(e);
    if (join) {
        (void)pthread_join(ended, NULL); /* it has said that it is through: returns at once */
    }
    return status;
}

/* ---- the bill ---- */

int64_t pom_exporter_cpu_ns(pom_exporter_t *e) {
    /* The sum first: a thread that ends in between is then missing once, rather than counted
     * twice. */
    int64_t sum = atomic_load(&e->ended_cpu_ns);
    int32_t tid = atomic_load(&e->tid);
    int64_t own = 0;
    if (tid != 0 && pom_tid_cpu_ns(tid, &own)) {
        sum += own;
    }
    return sum;
}

void pom_exporter_stats(pom_exporter_t *e, pom_exporter_stats_t *out) {
    out->put = atomic_load(&e->put);
    out->unwanted = atomic_load(&e->unwanted);
    out->wakeups = atomic_load(&e->wakeups);
    out->cpu_ns = pom_exporter_cpu_ns(e);
    lock(e);
    out->running = e->state == POM__EXPORTER_RUNNING || e->state == POM__EXPORTER_STOPPING;
    out->drained = e->drained;
    unlock(e);
}
