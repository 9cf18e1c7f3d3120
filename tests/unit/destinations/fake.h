/*
 * A destination under the test's control, and profiles of a known size and number.
 *
 *     fake_t *f = fake_new("a", FAKE_HOLD);
 *     pom_exporter_add(e, &f->base);
 *     put(e, number, bytes);                       profile->thread is the number
 *     wait_for(atomic_load(&f->delivered) == 1);   spins with a deadline, never sleeps
 *     fake_release(f, 1);                          a held batch is sent
 *     pom_destination_unref(&f->base);
 */
#ifndef POM_TESTS_UNIT_DESTINATIONS_FAKE_H
#define POM_TESTS_UNIT_DESTINATIONS_FAKE_H

#include "tests/unit/support/test_support.h"

#include <sched.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "destinations/destination.h"
#include "destinations/exporter.h"

/* Long enough for a loaded machine under a sanitizer; reached only by a failure. */
#define PATIENCE_NS (120 * POM_NS_PER_S)

#define wait_for(condition)                                                                        \
    do {                                                                                           \
        int64_t wait_for_end = pom_now_ns() + PATIENCE_NS;                                         \
        while (!(condition)) {                                                                     \
            if (pom_now_ns() > wait_for_end) {                                                     \
                fail_msg("never came true: %s", #condition);                                       \
            }                                                                                      \
            sched_yield();                                                                         \
        }                                                                                          \
    } while (0)

/* A child forked while another thread allocates hangs in the sanitizers' allocators (glibc's is
 * made for it), and their threads cannot be started in it. Such tests run in the plain build
 * only. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAKE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FAKE_SANITIZED 1
#endif
#endif
#ifndef FAKE_SANITIZED
#define FAKE_SANITIZED 0
#endif

#define skip_when_sanitized()                                                                      \
    do {                                                                                           \
        if (FAKE_SANITIZED) {                                                                      \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

typedef enum fake_mode_e {
    FAKE_SEND,   /* sent inside deliver */
    FAKE_HOLD,   /* batches are kept until fake_release */
    FAKE_BUFFER, /* batches are ended at once, profiles stay queued until flush */
    FAKE_FAIL,   /* dropped as error inside deliver */
    FAKE_BLOCK,  /* deliver hangs until `gate` is opened, then sends */
} fake_mode_t;

typedef struct fake_s {
    pom_destination_t base;
    _Atomic(fake_mode_t) mode;
    _Atomic(int) open_failures; /* so many opens fail first */
    _Atomic(bool) gate;
    _Atomic(int) opens, closes, flushes;
    _Atomic(int) deliveries, inside;
    _Atomic(int64_t) delivered; /* profiles */
    _Atomic(int64_t) last_number;
    _Atomic(int64_t) faults; /* out of order, after close, more than the window ... */
    _Atomic(int) held_count;
    int64_t buffered;                     /* loop thread */
    void (*on_deliver)(struct fake_s *f); /* called first thing in deliver; may be NULL */
    void *arg;
    _Atomic(size_t) largest;   /* bytes of the largest batch */
    _Atomic(uint32_t) longest; /* profiles of the longest */
    pthread_mutex_t held_lock;
    pom_batch_t *held; /* oldest first */
    bool is_open;      /* loop thread */
} fake_t;

fake_t *fake_new(const char *name, fake_mode_t mode);

/* Sends up to n held batches; how many it was. */
int fake_release(fake_t *f, int n);

/* A profile of at least `bytes`, numbered; NULL for no memory. */
pom_profile_t *profile_new(int64_t number, size_t bytes);

/* Stops first, for as long as it takes: a loop without a CPU, or with a slow disk, may need its
 * grace more than once, and what is not stopped is not freed. NULL is none. */
void free_exporter(pom_exporter_t *e);

/* Makes and puts one. */
void put(pom_exporter_t *e, int64_t number, size_t bytes);

/* All counters, with the sum checked. */
pom_destination_counters_t counters(pom_destination_t *d);

#endif
