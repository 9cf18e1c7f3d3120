/*
 * Parking on one futex word, and dozing on one timer.
 *
 *     EMPTY ----wait----> SLEEPING        the owner says that it is about to sleep
 *     EMPTY ----wake----> NOTIFIED        nobody sleeps: no system call
 *     SLEEPING -wake----> NOTIFIED        and FUTEX_WAKE
 *     NOTIFIED -wait----> EMPTY           the wake is consumed
 *     SLEEPING -timeout-> EMPTY
 *
 *     EMPTY ----doze----> DOZING          sleeps in a read of the timer, which is not set
 *     DOZING ---alarm---> ALARMED         and the timer set to the moment
 *     DOZING, ALARMED -wake-> NOTIFIED    and the timer set to a moment that has passed
 *
 * No wake is lost: the kernel compares the word with SLEEPING before it puts the owner to sleep, so
 * a wake between our change and the system call makes that call return at once. Many wakes before a
 * wait count as one: a wake says "look again", not how often.
 *
 * A futex instead of a condition variable, since a timed wait on CLOCK_MONOTONIC with a mutex is
 * more code, and a mutex copied by fork may be locked for ever; this word is simply initialised
 * anew.
 *
 * A futex has no timeout that others can set, so the doze reads a timerfd. The word decides all the
 * same: the timer may go off late for what has been consumed (its setter was held up), and then the
 * read is just begun again.
 *
 * A program may close descriptors that it does not know while we read one, and from then on nothing
 * but the timer itself ends that read. So it goes off every HEARTBEAT_NS, and after DOZE_BEATS of
 * these the doze is over and the owner sleeps on the word, which nobody can close:
 *
 *     DOZING ---beats---> EMPTY, SLEEPING   and an alarm is a wake
 *
 * Short beats for ever would be an idle process that wakes up. The price is a wake too many, at the
 * first alarm after a pause of seconds.
 */
#include "base/park.h"

#include "base/clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define POM__PARK_EMPTY    0U
#define POM__PARK_SLEEPING 1U
#define POM__PARK_NOTIFIED 2U
#define POM__PARK_DOZING   3U
#define POM__PARK_ALARMED  4U

/* SYS_futex takes the kernel's long-based timespec. */
_Static_assert(sizeof(time_t) == sizeof(long), "32-bit targets with 64-bit time need futex_time64");

/* One nanosecond after the boot has passed; zero would turn the timer off. */
#define PASSED_NS 1
/* So long may a stop have to wait for a doze whose timer has been closed. */
#define HEARTBEAT_NS POM_NS_PER_S
/* The first may be due at once, or be an alarm that came late. */
#define DOZE_BEATS 3

static int timer_of(const pom_park_t *park) {
    return atomic_load_explicit(&park->timer, memory_order_relaxed);
}

static void forget_timer(pom_park_t *park) {
    atomic_store_explicit(&park->timer, -1, memory_order_relaxed);
}

static void set_timer(pom_park_t *park, int64_t at_ns) {
    struct itimerspec spec = {.it_value = pom_timespec(at_ns > 0 ? at_ns : PASSED_NS),
                              .it_interval = pom_timespec(HEARTBEAT_NS)};
    /* It fails only when somebody has closed it: see the heartbeat. */
    (void)timerfd_settime(timer_of(park), TFD_TIMER_ABSTIME, &spec, NULL);
}

void pom_park_init(pom_park_t *park) {
    atomic_init(&park->word, POM__PARK_EMPTY);
    atomic_init(&park->timer, timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    if (timer_of(park) >= 0) {
        set_timer(park, pom_now_ns() + HEARTBEAT_NS);
    }
}

/* What the number is of now may be a file of the program, which has closed our timer. Another timer
 * cannot be told from ours. */
static bool has_timer(const pom_park_t *park) {
    struct itimerspec spec;
    return timerfd_gettime(timer_of(park), &spec) == 0;
}

void pom_park_fini(pom_park_t *park) {
    if (has_timer(park)) {
        (void)close(timer_of(park)); /* nothing can be lost */
    }
    forget_timer(park);
}

/* Takes the state away; acquire pairs with the release in pom_park_wake, so that the owner sees
 * what the waker wrote before it. */
static bool consume(pom_park_t *park) {
    return atomic_exchange_explicit(&park->word, POM__PARK_EMPTY, memory_order_acquire) ==
           POM__PARK_NOTIFIED;
}

/* From EMPTY to a way of sleeping; false when a wake came first. Relaxed: going to sleep publishes
 * nothing, and the failure case acquires in consume(). */
static bool lie_down(pom_park_t *park, uint32_t how) {
    uint32_t expected = POM__PARK_EMPTY;
    return atomic_compare_exchange_strong_explicit(&park->word, &expected, how,
                                                   memory_order_relaxed, memory_order_relaxed);
}

bool pom_park_wait(pom_park_t *park, int64_t deadline_ns) {
    if (!lie_down(park, POM__PARK_SLEEPING)) {
        return consume(park);
    }
    struct timespec until = pom_timespec(deadline_ns);
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

bool pom_park_doze(pom_park_t *park) {
    if (timer_of(park) < 0) {
        return pom_park_wait(park, POM_FOREVER);
    }
    if (!lie_down(park, POM__PARK_DOZING)) {
        return consume(park);
    }
    int beats = 0;
    do {
        uint64_t times;
        bool closed =
            !has_timer(park) || (read(timer_of(park), &times, sizeof times) < 0 && errno != EINTR);
        if (closed) {
            /* Somebody did. Never to be read again: its number may be another file's soon. */
            forget_timer(park);
        }
        if (closed || ++beats >= DOZE_BEATS) {
            uint32_t expected = POM__PARK_DOZING;
            if (atomic_compare_exchange_strong_explicit(&park->word, &expected, POM__PARK_EMPTY,
                                                        memory_order_relaxed,
                                                        memory_order_relaxed)) {
                return pom_park_wait(park, POM_FOREVER);
            }
        }
    } while (atomic_load_explicit(&park->word, memory_order_relaxed) == POM__PARK_DOZING);
    return consume(park);
}

void pom_park_alarm(pom_park_t *park, int64_t at_ns) {
    uint32_t before = POM__PARK_DOZING;
    /* Release pairs with the acquire in consume(), as below. */
    if (!atomic_compare_exchange_strong_explicit(&park->word, &before, POM__PARK_ALARMED,
                                                 memory_order_release, memory_order_relaxed)) {
        if (before == POM__PARK_EMPTY || before == POM__PARK_SLEEPING) {
            pom_park_wake(park);
        }
        return;
    }
    set_timer(park, at_ns);
    /* A wake in between has set the timer first, and we have just put it off. */
    if (atomic_load_explicit(&park->word, memory_order_relaxed) != POM__PARK_ALARMED) {
        set_timer(park, PASSED_NS);
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
    } else if (before == POM__PARK_DOZING || before == POM__PARK_ALARMED) {
        set_timer(park, PASSED_NS);
    }
}
