/*
 * What every kind of destination shares: the reference count, the counters, the last error, the
 * list of those that a forked child begins anew.
 *
 * Counters are plain atomics that only grow. `queued` is not one of them: it is what was
 * produced less what was settled, so the sum of fates is right at every moment without a lock
 * around it. A reader loads the fates before `produced`: a profile is produced before it meets
 * its fate, so the difference is never negative.
 *
 * Each fate counted is followed by a call to the exporter's listener. It costs one load while
 * nobody waits in a flush.
 *
 * The list is not the exporter's array of members: a destination that was removed is none of these,
 * but its counters, its spool and the ids it reports by would be the parent's still when the child
 * adds it again. It holds no reference; the last one to go takes the destination off it.
 */
#include "destinations/destination.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *const pom_drop_names[POM_DROP_COUNT] = {
#define X(name, text) text,
    POM_DROP_LIST(X)
#undef X
};

/* Sequentially consistent: a settling thread adds here and then looks for flush waiters, a
 * waiter announces itself and then reads the sums. One of them must see the other (exporter.c,
 * on_settled). */
static void add(_Atomic(int64_t) *counter, int64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_seq_cst);
}

static int64_t get(const _Atomic(int64_t) *counter) {
    return atomic_load_explicit(counter, memory_order_seq_cst);
}

static void settled(pom_destination_t *self) {
    if (self->on_settled != NULL) {
        self->on_settled(self->context);
    }
}

void pom_batch_end(pom_batch_t *batch) {
    batch->end(batch);
}

void pom_destination_init(pom_destination_t *self, const pom_destination_ops_t *ops,
                          const char *name) {
    memset(self, 0, sizeof *self);
    self->ops = ops;
    /* The end of a path tells more than its beginning. */
    size_t len = strlen(name);
    if (len < sizeof self->name) {
        memcpy(self->name, name, len + 1);
    } else {
        memcpy(self->name, "...", 3);
        memcpy(self->name + 3, name + len - (sizeof self->name - 4), sizeof self->name - 3);
    }
    self->queue_bytes = POM_DESTINATION_QUEUE_BYTES;
    self->window = 1;
    atomic_init(&self->refs, 1);
    (void)pthread_mutex_init(&self->error_lock, NULL); /* cannot fail on Linux without attributes */
}

/* ---- the list ---- */

static pthread_mutex_t enlisted_lock = PTHREAD_MUTEX_INITIALIZER;
/* ---- under enlisted_lock ---- */
static pom_destination_t *enlisted;

void pom_destination_enlist(pom_destination_t *self) {
    (void)pthread_mutex_lock(&enlisted_lock); /* cannot fail: plain, and never taken twice */
    if (!self->is_enlisted) {
        self->is_enlisted = true;
        self->after = enlisted;
        if (enlisted != NULL) {
            enlisted->before = self;
        }
        enlisted = self;
    }
    (void)pthread_mutex_unlock(&enlisted_lock);
}

static void strike_off(pom_destination_t *self) {
    (void)pthread_mutex_lock(&enlisted_lock);
    if (self->is_enlisted) {
        *(self->before != NULL ? &self->before->after : &enlisted) = self->after;
        if (self->after != NULL) {
            self->after->before = self->before;
        }
    }
    (void)pthread_mutex_unlock(&enlisted_lock);
}

void pom_destinations_before_fork(void) {
    /* Held across the fork, so that the child finds the list whole. */
    (void)pthread_mutex_lock(&enlisted_lock);
}

void pom_destinations_after_fork_parent(void) {
    (void)pthread_mutex_unlock(&enlisted_lock);
}

void pom_destinations_after_fork_child(void) {
    (void)pthread_mutex_init(&enlisted_lock,
                             NULL); /* the parent's waiters are not in this process */
    for (pom_destination_t *d = enlisted; d != NULL; d = d->after) {
        pom_destination_after_fork(d);
    }
}

/* ---- references ---- */

pom_destination_t *pom_destination_ref(pom_destination_t *self) {
    atomic_fetch_add_explicit(&self->refs, 1,
                              memory_order_relaxed); /* the caller's own keeps it alive */
    return self;
}

void pom_destination_unref(pom_destination_t *self) {
    /* Release: what this thread did with it comes before the free; acquire: the free comes after
     * what all others did. */
    if (self != NULL && atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) == 1) {
        strike_off(self);
        (void)pthread_mutex_destroy(&self->error_lock); /* nobody can hold it */
        self->ops->free(self);
    }
}

void pom_destination_counters(pom_destination_t *self, pom_destination_counters_t *out) {
    out->sent = get(&self->sent);
    int64_t fates = out->sent;
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        out->dropped[i] = get(&self->dropped[i]);
        fates += out->dropped[i];
    }
    /* Last of the fates: what is unspooled leaves here before it is sent or dropped. */
    out->spooled = get(&self->spooled);
    fates += out->spooled;
    out->retried = get(&self->retried);
    out->bytes = get(&self->bytes);
    out->produced = get(&self->produced);
    out->queued = out->produced - fates;
    (void)pthread_mutex_lock(&self->error_lock); /* cannot fail: not recursive, not robust */
    memcpy(out->last_error, self->last_error, sizeof out->last_error);
    (void)pthread_mutex_unlock(&self->error_lock);
}

int64_t pom_destination_queued(const pom_destination_t *self) {
    int64_t fates = get(&self->sent);
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        fates += get(&self->dropped[i]);
    }
    fates += get(&self->spooled); /* last: see above */
    return get(&self->produced) - fates;
}

void pom_destination_sent(pom_destination_t *self, int64_t count, int64_t bytes) {
    add(&self->bytes, bytes);
    add(&self->sent, count);
    settled(self);
}

void pom_destination_adopted(pom_destination_t *self, int64_t count) {
    add(&self->produced, count);
    add(&self->spooled, count);
}

void pom_destination_spooled(pom_destination_t *self, int64_t count) {
    add(&self->spooled, count);
    settled(self);
}

void pom_destination_dropped(pom_destination_t *self, pom_drop_t reason, int64_t count) {
    if (count != 0) {
        add(&self->dropped[reason], count);
        settled(self);
    }
}

void pom_destination_retried(pom_destination_t *self, int64_t count) {
    add(&self->retried, count);
}

void pom_destination_error(pom_destination_t *self, const char *format, ...) {
    char text[POM_DESTINATION_ERROR_MAX] = {0};
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* cut is fine, and the formats are ours */
    va_end(args);
    /* One line: what the other side says may hold anything. */
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < ' ') {
            *p = ' ';
        }
    }
    (void)pthread_mutex_lock(&self->error_lock);
    memcpy(self->last_error, text, sizeof text);
    (void)pthread_mutex_unlock(&self->error_lock);
}

void pom_destination_closed(pom_destination_t *self) {
    self->on_closed(self->context, self);
}

void pom_destination_after_fork(pom_destination_t *self) {
    /* Another thread may have held it at the fork; the text it guards may be half written. */
    (void)pthread_mutex_init(&self->error_lock, NULL);
    memset(self->last_error, 0, sizeof self->last_error);
    atomic_store(&self->produced, 0);
    atomic_store(&self->sent, 0);
    atomic_store(&self->spooled, 0);
    atomic_store(&self->retried, 0);
    atomic_store(&self->bytes, 0);
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        atomic_store(&self->dropped[i], 0);
    }
    if (self->ops->after_fork != NULL) {
        self->ops->after_fork(self);
    }
}
