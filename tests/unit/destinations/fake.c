/* The fake destination: notes what the exporter does to it, and complains of what it must not
 * do. */
#include "tests/unit/destinations/fake.h"

#include "base/alloc.h"

static fake_t *fake_of(pom_destination_t *self) {
    return (fake_t *)(void *)self;
}

static pom_status_t fake_open(pom_destination_t *self, struct uv_loop_s *loop) {
    fake_t *f = fake_of(self);
    if (f->is_open || loop == NULL) {
        atomic_fetch_add(&f->faults, 1);
    }
    if (atomic_load(&f->open_failures) > 0) {
        atomic_fetch_sub(&f->open_failures, 1);
        return POM_EIO;
    }
    f->is_open = true;
    atomic_fetch_add(&f->opens, 1);
    return POM_OK;
}

static void fake_deliver(pom_destination_t *self, pom_batch_t *batch) {
    fake_t *f = fake_of(self);
    if (!f->is_open || atomic_fetch_add(&f->inside, 1) != 0) {
        atomic_fetch_add(&f->faults, 1);
    }
    if (f->on_deliver != NULL) {
        f->on_deliver(f);
    }
    size_t bytes = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        int64_t number = (int64_t)batch->profiles[i]->thread;
        if (number <= atomic_load(&f->last_number)) {
            atomic_fetch_add(&f->faults, 1);
        }
        atomic_store(&f->last_number, number);
        bytes += pom_profile_bytes(batch->profiles[i]);
    }
    if (bytes != batch->bytes || batch->count == 0) {
        atomic_fetch_add(&f->faults, 1);
    }
    if (batch->bytes > atomic_load(&f->largest)) {
        atomic_store(&f->largest, batch->bytes);
    }
    if (batch->count > atomic_load(&f->longest)) {
        atomic_store(&f->longest, batch->count);
    }
    atomic_fetch_add(&f->deliveries, 1);
    atomic_fetch_add(&f->delivered, batch->count);
    switch (atomic_load(&f->mode)) {
    case FAKE_BLOCK:
        while (!atomic_load(&f->gate)) {
            sched_yield();
        }
        /* fall through */
    case FAKE_SEND:
        pom_destination_sent(self, batch->count, (int64_t)batch->bytes);
        pom_batch_end(batch);
        break;
    case FAKE_FAIL:
        pom_destination_error(self, "batch %d refused\n", atomic_load(&f->deliveries));
        pom_destination_dropped(self, POM_DROP_ERROR, batch->count);
        pom_batch_end(batch);
        break;
    case FAKE_BUFFER:
        f->buffered += batch->count;
        pom_batch_end(batch);
        break;
    case FAKE_HOLD: {
        pthread_mutex_lock(&f->held_lock);
        pom_batch_t **end = &f->held;
        while (*end != NULL) {
            end = &(*end)->next;
        }
        *end = batch;
        if ((uint32_t)atomic_fetch_add(&f->held_count, 1) >= self->window) {
            atomic_fetch_add(&f->faults, 1);
        }
        pthread_mutex_unlock(&f->held_lock);
        break;
    }
    }
    atomic_fetch_sub(&f->inside, 1);
}

static pom_batch_t *take_held(fake_t *f) {
    pthread_mutex_lock(&f->held_lock);
    pom_batch_t *batch = f->held;
    if (batch != NULL) {
        f->held = batch->next;
        atomic_fetch_sub(&f->held_count, 1);
    }
    pthread_mutex_unlock(&f->held_lock);
    return batch;
}

int fake_release(fake_t *f, int n) {
    int released = 0;
    while (released < n) {
        pom_batch_t *batch = take_held(f);
        if (batch == NULL) {
            break;
        }
        pom_destination_sent(&f->base, batch->count, (int64_t)batch->bytes);
        pom_batch_end(batch);
        released++;
    }
    return released;
}

static void fake_flush(pom_destination_t *self) {
    fake_t *f = fake_of(self);
    atomic_fetch_add(&f->flushes, 1);
    if (f->buffered > 0) {
        int64_t n = f->buffered;
        f->buffered = 0;
        pom_destination_sent(self, n, 0);
    }
}

static void fake_close(pom_destination_t *self, pom_drop_t reason) {
    fake_t *f = fake_of(self);
    if (!f->is_open) {
        atomic_fetch_add(&f->faults, 1);
    }
    f->is_open = false;
    for (pom_batch_t *b = take_held(f); b != NULL; b = take_held(f)) {
        pom_destination_dropped(self, reason, b->count);
        pom_batch_end(b);
    }
    pom_destination_dropped(self, reason, f->buffered);
    f->buffered = 0;
    atomic_fetch_add(&f->closes, 1);
    pom_destination_closed(self);
}

static void fake_after_fork(pom_destination_t *self) {
    fake_t *f = fake_of(self);
    pthread_mutex_init(&f->held_lock, NULL);
    f->held = NULL;
    f->is_open = false;
    f->buffered = 0;
    atomic_store(&f->held_count, 0);
    atomic_store(&f->inside, 0);
    atomic_store(&f->opens, 0);
    atomic_store(&f->closes, 0);
    atomic_store(&f->deliveries, 0);
    atomic_store(&f->delivered, 0);
}

static void fake_free(pom_destination_t *self) {
    fake_t *f = fake_of(self);
    pthread_mutex_destroy(&f->held_lock);
    pom_free(f);
}

static const pom_destination_ops_t fake_ops = {
    .kind = "fake",
    .open = fake_open,
    .deliver = fake_deliver,
    .flush = fake_flush,
    .close = fake_close,
    .after_fork = fake_after_fork,
    .free = fake_free,
};

fake_t *fake_new(const char *name, fake_mode_t mode) {
    fake_t *f = pom_calloc(1, sizeof *f);
    assert_non_null(f);
    pom_destination_init(&f->base, &fake_ops, name);
    pthread_mutex_init(&f->held_lock, NULL);
    atomic_store(&f->mode, mode);
    atomic_store(&f->last_number, -1);
    return f;
}

pom_profile_t *profile_new(int64_t number, size_t bytes) {
    pom_profile_t *p = pom_profile_new(64 << 20);
    if (p == NULL) {
        return NULL;
    }
    p->thread = (uint64_t)number;
    if (bytes > 0 && pom_arena_alloc(&p->arena, bytes) == NULL) {
        pom_profile_unref(p);
        return NULL;
    }
    return p;
}

void free_exporter(pom_exporter_t *e) {
    if (e != NULL) {
        wait_for(pom_exporter_stop(e, 0) == POM_OK);
    }
    pom_exporter_free(e);
}

void put(pom_exporter_t *e, int64_t number, size_t bytes) {
    pom_profile_t *p = profile_new(number, bytes);
    assert_non_null(p);
    pom_exporter_put(e, p);
}

pom_destination_counters_t counters(pom_destination_t *d) {
    pom_destination_counters_t c;
    pom_destination_counters(d, &c);
    int64_t sum = c.queued + c.sent + c.spooled;
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        assert_true(c.dropped[i] >= 0);
        sum += c.dropped[i];
    }
    assert_true(c.queued >= 0);
    assert_int_equal(sum, c.produced);
    return c;
}
