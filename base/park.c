/*
 * Parking on one futex word.
 *
 *     EMPTY ----wait----> SLEEPING        the owner says that it is about to sleep
 *     EMPTY ----wake----> NOTIFIED        nobody sleeps: no system call
 *     SLEEPING -wake----> NOTIFIED        and FUTEX_WAKE
 *     NOTIFIED -wait----> EMPTY           the wake is consumed
 *     SLEEPING -timeout-> EMPTY
 *
 * No wake is lost: the kernel compares the word with SLEEPING before it puts the owner to sleep, so
 * a wake between our change and the system call makes that call return at once. Many wakes before a
 * wait count as one: a wake says "look again", not how often.
 *
 * A futex instead of a condition variable, since a timed wait on CLOCK_MONOTONIC with a mutex is
 * more code, and a mutex copied by fork may be locked for ever; this word is simply initialised
 * anew.
 */
#include "base/park.h"

#include "base/clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POM__PARK_EMPTY    0U
#define POM__PARK_SLEEPING 1U
#define POM__PARK_NOTIFIED 2U

/* SYS_futex takes the kernel's long-based timespec. */
_Static_assert(sizeof(time_t) == sizeof(long), "32-bit targets with 64-bit time need futex_time64");

void pom_park_init(pom_park_t *park) {
    atomic_init(&park->word, POM__PARK_EMPTY);
}

/* Takes the state away; acquire pairs with the release in pom_park_wake, so that the owner sees
 * what the waker wrote before it. */
static bool consume(pom_park_t *park) {
    return atomic_exchange_explicit(&park->word, POM__PARK_EMPTY, memory_order_acquire) ==
           POM__PARK_NOTIFIED;
}

bool pom_park_wait(pom_park_t *park, int64_t deadline_ns) {
    /* Relaxed: going to sleep publishes nothing, and the failure case acquires in consume(). */
    uint32_t expected = POM__PARK_EMPTY;
    if (!atomic_compare_exchange_strong_explicit(&park->word, &expected, POM__PARK_SLEEPING,
                                                 memory_order_relaxed, memory_order_relaxed)) {
        return consume(park);
    }

    /* A moment before the boot has passed too, but the kernel refuses negative times. */
    int64_t deadline = deadline_ns > 0 ? deadline_ns : 0;
    struct timespec until = {
        .tv_sec = (time_t)(deadline / POM_NS_PER_S),
        .tv_nsec = (long)(deadline % POM_NS_PER_S),
    };
    struct timespec *timeout = deadline_ns == POM_FOREVER ? NULL : &until;
    for (;;) {
        /* The bitset form is the one whose timeout is absolute, by CLOCK_MONOTONIC: no drift when a
         * signal interrupts it. */
        long rc = syscall(SYS_futex, &park->word, FUTEX_WAIT_BITSET_PRIVATE, POM__PARK_SLEEPING,
                          timeout, NULL, FUTEX_BITSET_MATCH_ANY);
        /* EINTR (a signal), EAGAIN (a wake came first) and 0, which may be spurious, are told apart
         * by the word alone. Anything else, ETIMEDOUT above all, ends the wait: a refusal of the
         * call must not become an endless loop. */
        if (rc != 0 && errno != EINTR && errno != EAGAIN) {
            return consume(park); /* A wake at the last moment still counts. */
        }
        if (atomic_load_explicit(&park->word, memory_order_relaxed) != POM__PARK_SLEEPING) {
            return consume(park);
        }
    }
}

void pom_park_wake(pom_park_t *park) {
    /* Release pairs with the acquire in consume(). An exchange, never a plain store: of two wakers
     * it keeps the release of the first, and exactly one sees SLEEPING and pays the system call. */
    uint32_t before =
        atomic_exchange_explicit(&park->word, POM__PARK_NOTIFIED, memory_order_release);
    if (before == POM__PARK_SLEEPING) {
        (void)syscall(SYS_futex, &park->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        /* Ignored: it cannot fail on our own aligned word, and 0 woken means that the owner was not
         * asleep yet and will see the word. */
    }
}
