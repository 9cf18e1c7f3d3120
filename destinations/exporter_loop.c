/*
 * The loop: a libuv loop with one async handle (somebody wants attention) and one timer
 * (the flush interval); the destinations add theirs.
 *
 * Everything happens in pump(): deal out the intake, then move each destination on by what its
 * state allows. A destination's operations run without the lock, so that put, add and remove
 * never wait for them; what may have changed meanwhile is looked at anew afterwards. Only this
 * thread takes members out of the array, so one that it has in hand stays.
 *
 *     NEW --open--> OPEN --deliver ...--> CLOSING --closed, no batch out--> NEW, or gone
 *
 * The timer runs while there is work: each tick that finds some keeps it running, and the first
 * that finds none stops it. So a steady stream needs no wake-up but the ticks. A destination
 * that holds its profiles back (a file without flush) does not keep it running.
 *
 * File writes are made on this thread, not on libuv's pool: see file.c.
 */
#include "destinations/exporter_parts.h"
#include "destinations/stages.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

static void lock(pom_exporter_t *e) {
    (void)pthread_mutex_lock(&e->exporter_lock); /* cannot fail: plain, and never taken twice */
}

static void unlock(pom_exporter_t *e) {
    (void)pthread_mutex_unlock(&e->exporter_lock);
}

/* ---- batches ---- */

static bool on_loop_thread(const pom_exporter_t *e) {
    return e->joinable && pthread_equal(e->thread, pthread_self());
}

static void end_batch(pom_batch_t *batch) {
    pom__member_t *m = batch->owner;
    pom_exporter_t *e = m->exporter;
    for (uint32_t i = 0; i < batch->count; i++) {
        pom_profile_unref(batch->profiles[i]);
    }
    lock(e);
    m->batches--;
    m->batch_bytes -= batch->bytes;
    if (m->backlog.count > 0 || m->phase == POM__MEMBER_CLOSING) {
        if (on_loop_thread(e) && e->pumping) {
            e->again = true;
        } else {
            pom__exporter_urge_locked(e);
        }
    }
    unlock(e); /* from here on m may be gone */
    pom_free(batch);
}

/* NULL: nothing queued, or no memory, in which case the queue stays for a later turn. */
static pom_batch_t *make_batch_locked(pom__member_t *m) {
    const pom_exporter_options_t *options = &m->exporter->options;
    uint32_t count = pom__backlog_measure(&m->backlog, options->batch_bytes, options->batch_count);
    if (count == 0) {
        return NULL;
    }
    pom_batch_t *batch = pom_alloc(sizeof *batch + count * sizeof batch->profiles[0]);
    if (batch == NULL) {
        return NULL;
    }
    memset(batch, 0, sizeof *batch);
    batch->end = end_batch;
    batch->owner = m;
    size_t before = m->backlog.bytes;
    while (batch->count < count) {
        batch->profiles[batch->count++] = pom__backlog_take(&m->backlog);
    }
    batch->bytes = before - m->backlog.bytes;
    m->batches++;
    m->batch_bytes += batch->bytes;
    m->delivered_ns = m->destination->gather_ns > 0 ? pom_now_ns() : 0;
    m->hurried = m->hurried && m->backlog.count > 0;
    return batch;
}

/* ---- members ---- */

/* The same destination, removed and added again, is not through with its former life. */
static bool has_predecessor_locked(const pom_exporter_t *e, const pom__member_t *m) {
    for (uint32_t i = 0; i < e->member_count && e->members[i] != m; i++) {
        if (e->members[i]->destination == m->destination) {
            return true;
        }
    }
    return false;
}

static void open_locked(pom_exporter_t *e, pom__member_t *m) {
    pom_destination_t *d = m->destination;
    m->phase = POM__MEMBER_OPENING;
    m->closed = m->given_up = false;
    atomic_store(&d->removed, false);
    unlock(e);
    pom_status_t status = d->ops->open(d, &e->loop);
    lock(e);
    m->phase = status == POM_OK ? POM__MEMBER_OPEN : POM__MEMBER_NEW;
    if (m->leaving) {
        atomic_store(&d->removed, true); /* remove came while it was being opened */
    }
}

static void close_locked(pom_exporter_t *e, pom__member_t *m, pom_drop_t reason) {
    m->phase = POM__MEMBER_CLOSING;
    unlock(e);
    m->destination->ops->close(m->destination, reason);
    lock(e);
}

/* There is a batch for it, or a flush has asked for what there is, or waits for the queue to be
 * empty; or it has waited for company long enough. For a destination that gathers that is from the
 * last batch on, not from the oldest profile: after a pause nothing waits. */
static bool is_due_locked(const pom_exporter_t *e, const pom__member_t *m) {
    const pom_destination_t *d = m->destination;
    if (d->prompt || m->hurried || m->backlog.bytes >= e->options.batch_bytes ||
        m->backlog.count >= e->options.batch_count || atomic_load(&e->waiters) > 0) {
        return true;
    }
    if (!e->due || d->gather_ns == 0 || m->delivered_ns == 0) {
        return e->due;
    }
    /* Half a tick less, so that the tick which is due is not missed by its jitter. */
    return pom_now_ns() - m->delivered_ns >= d->gather_ns - e->options.flush_interval_ns / 2;
}

static void deliver_locked(pom_exporter_t *e, pom__member_t *m) {
    /* Read anew each time: remove and stop may come while the lock is open. */
    while (m->phase == POM__MEMBER_OPEN && !m->leaving && e->state == POM__EXPORTER_RUNNING &&
           m->batches < m->destination->window && is_due_locked(e, m)) {
        pom_batch_t *batch = make_batch_locked(m);
        if (batch == NULL) {
            break;
        }
        e->worked = true;
        unlock(e);
        pom__loop_enter(POM_LOOP_DELIVER);
        m->destination->ops->deliver(m->destination, batch);
        pom__loop_leave();
        lock(e);
    }
}

/* What is queued when the exporter stops outlives the process, as far as there is a place and
 * time. */
static void keep_backlog_locked(pom_exporter_t *e, pom__member_t *m) {
    pom_destination_t *d = m->destination;
    bool more = d->keeps;
    while (more && pom_now_ns() < e->keep_until_ns) {
        pom_batch_t *batch = make_batch_locked(m);
        if (batch == NULL) {
            break;
        }
        unlock(e);
        pom__loop_enter(POM_LOOP_DELIVER);
        more = d->ops->keep(d, batch);
        pom__loop_leave();
        lock(e);
    }
}

static void step_locked(pom_exporter_t *e, pom__member_t *m) {
    bool stopping = e->state == POM__EXPORTER_STOPPING;
    bool end = m->leaving || stopping;
    if (m->phase == POM__MEMBER_NEW && !end && !has_predecessor_locked(e, m)) {
        open_locked(e, m);
    }
    deliver_locked(e, m);
    if (m->phase == POM__MEMBER_OPEN && !end && atomic_load(&e->waiters) > 0 &&
        m->destination->ops->flush != NULL) {
        unlock(e);
        m->destination->ops->flush(m->destination);
        lock(e);
    }
    if (m->phase == POM__MEMBER_OPEN && end) {
        if (!m->leaving) {
            keep_backlog_locked(e, m);
        }
        m->given_up = !m->leaving;
        close_locked(e, m, m->leaving ? POM_DROP_REMOVED : POM_DROP_SHUTDOWN);
    }
    bool closed = m->closed && m->batches == 0;
    if (m->phase == POM__MEMBER_CLOSING && stopping && !closed && !m->given_up) {
        /* Removed earlier, and a request or somebody else's call is still out: not waited for any
         * more. */
        m->given_up = true;
        m->closed = false;
        close_locked(e, m, POM_DROP_SHUTDOWN);
    }
    if (m->phase == POM__MEMBER_CLOSING && m->closed && m->batches == 0) {
        m->phase = POM__MEMBER_NEW;
    }
    if (stopping) {
        pom__member_drop_backlog_locked(m, POM_DROP_SHUTDOWN);
    }
    if (m->backlog.count > 0) {
        e->worked = true; /* the timer goes on: there is no other call to come back to it */
    }
}

/* Takes out the members that are through. The frees are left to the caller, as they may run a
 * destination's own free. */
static uint32_t sweep_locked(pom_exporter_t *e, pom__member_t **gone) {
    uint32_t kept = 0;
    uint32_t swept = 0;
    for (uint32_t i = 0; i < e->member_count; i++) {
        pom__member_t *m = e->members[i];
        if (m->leaving && m->phase == POM__MEMBER_NEW) {
            gone[swept++] = m;
        } else {
            e->members[kept++] = m;
        }
    }
    e->member_count = kept;
    return swept;
}

static bool all_closed_locked(const pom_exporter_t *e) {
    for (uint32_t i = 0; i < e->member_count; i++) {
        if (e->members[i]->phase != POM__MEMBER_NEW) {
            return false;
        }
    }
    return true;
}

static void pump(pom_exporter_t *e) {
    e->pumping = true;
    pom__loop_enter(POM_LOOP_PUMP);
    do {
        pom__member_t *gone[POM_EXPORTER_DESTINATIONS_MAX];
        e->again = false;
        lock(e);
        pom__loop_enter(POM_LOOP_DEAL);
        if (pom__exporter_deal_locked(e)) {
            e->worked = true;
        }
        pom__loop_leave();
        for (uint32_t i = 0; i < e->member_count; i++) {
            step_locked(e, e->members[i]);
        }
        uint32_t swept = sweep_locked(e, gone);
        if (swept > 0 && e->member_count > 0) {
            e->again = true; /* a successor may be waiting */
        }
        if (atomic_load(&e->waiters) > 0) {
            pom__exporter_note_empty_locked(e);
        }
        /* Closed handles are ended by one more poll, which ends the process when a program has
         * closed the loop's descriptors. Open ones keep the thread before it
         * (exporter_thread.c). */
        if (e->state == POM__EXPORTER_STOPPING && e->wakeable && all_closed_locked(e) &&
            pom__loop_holds(&e->loop)) {
            e->wakeable = false; /* under the lock: nobody is inside uv_async_send() */
            uv_close((uv_handle_t *)&e->async, NULL);
            uv_close((uv_handle_t *)&e->timer, NULL);
            uv_close((uv_handle_t *)&e->before_poll, NULL);
        }
        unlock(e);
        for (uint32_t i = 0; i < swept; i++) {
            pom__member_free(gone[i]);
        }
    } while (e->again);
    pom__loop_leave();
    e->pumping = false;
}

/* ---- the loop ---- */

static void on_tick(uv_timer_t *timer) {
    pom_exporter_t *e = timer->data;
    atomic_fetch_add_explicit(&e->wakeups, 1, memory_order_relaxed);
    e->due = true;
    pump(e);
    if (!e->worked && uv_is_active((uv_handle_t *)timer)) {
        /* Pairs with put's fetch_or. A put before it in the order of `signal` has pushed
         * already, and the acquire shows it here; one after it finds the bit clear and wakes us. */
        atomic_fetch_and_explicit(&e->signal, ~POM__ARMED, memory_order_acq_rel);
        if (pom_queue_is_empty(&e->intake)) {
            (void)uv_timer_stop(timer); /* cannot fail */
        } else {
            atomic_fetch_or_explicit(&e->signal, POM__ARMED, memory_order_acq_rel);
        }
    }
    e->worked = false;
}

void pom__exporter_on_wake(uv_async_t *async) {
    pom_exporter_t *e = async->data;
    atomic_fetch_add_explicit(&e->wakeups, 1, memory_order_relaxed);
    /* The bit is cleared before anything is looked at, so what comes later wakes us again. */
    uint32_t old =
        atomic_fetch_and_explicit(&e->signal, ~(POM__URGENT | POM__PROMPT), memory_order_acq_rel);
    if ((old & (POM__URGENT | POM__PROMPT)) != 0) {
        e->due = (old & POM__URGENT) != 0;
        pump(e);
    }
    /* pump() may have begun to close the timer. What was delivered does not need it, but more is
     * likely to come. */
    if ((old & POM__ARMED) != 0 && !uv_is_closing((uv_handle_t *)&e->timer) &&
        !uv_is_active((uv_handle_t *)&e->timer)) {
        int64_t ms = e->options.flush_interval_ns / POM_NS_PER_MS;
        uint64_t every = ms > 0 ? (uint64_t)ms : 1;
        (void)uv_timer_start(&e->timer, on_tick, every, every); /* fails only without a callback */
    }
}
