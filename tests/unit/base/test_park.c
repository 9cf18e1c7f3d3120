/*
 * Parking: no lost wake, no system call for nobody, interrupted and refused waits; the alarm of a
 * doze.
 *
 * syscall() is wrapped: the one-thread tests play the kernel by a script of answers and look at
 * what was asked; the tests with threads pass the calls on.
 */
#include "tests/unit/support/test_support.h"

#include "base/clock.h"
#include "base/park.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* What the played kernel answers to one wait. */
typedef struct answer_s {
    int error;     /* 0: returns 0 */
    bool wake_too; /* a waker comes just before the return */
} answer_t;

static bool played; /* false: the real kernel */
static const answer_t *answers;
static int answers_left;
static int waits;
static int wakes;
static struct timespec last_until;
static bool last_had_timeout;
static int faults;                 /* wrong arguments */
static _Atomic(int) interruptions; /* waits that a signal ended in the real kernel */
static pom_park_t park;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

long __wrap_syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    void *word = va_arg(list, void *);
    int op = va_arg(list, int);
    uint32_t value = va_arg(list, uint32_t);
    struct timespec *timeout = va_arg(list, struct timespec *);
    void *word2 = va_arg(list, void *);
    uint32_t value3 = va_arg(list, uint32_t);
    va_end(list);
    if (!played) {
        long rc = __real_syscall(number, word, op, value, timeout, word2, value3);
        if (rc != 0 && errno == EINTR) {
            atomic_fetch_add(&interruptions, 1);
        }
        return rc;
    }

    faults += number != SYS_futex || word != &park.word;
    if (op == FUTEX_WAKE_PRIVATE) {
        wakes++;
        faults += value != 1;
        return 0;
    }
    faults += op != FUTEX_WAIT_BITSET_PRIVATE || value3 != FUTEX_BITSET_MATCH_ANY;
    faults += value != atomic_load(&park.word) || word2 != NULL;
    waits++;
    last_had_timeout = timeout != NULL;
    if (timeout != NULL) {
        last_until = *timeout;
    }
    if (answers_left == 0) {
        faults++; /* Waits more often than expected: end it. */
        errno = ETIMEDOUT;
        return -1;
    }
    answers_left--;
    answer_t answer = *answers++;
    if (answer.wake_too) {
        pom_park_wake(&park);
    }
    errno = answer.error;
    return answer.error == 0 ? 0 : -1;
}

static void play(const answer_t *script, int count) {
    played = true;
    answers = script;
    answers_left = count;
    waits = 0;
    wakes = 0;
    faults = 0;
}

static int setup(void **state) {
    pom_park_init(&park);
    return pom_test_setup(state);
}

static int teardown(void **state) {
    played = false;
    pom_park_fini(&park);
    return pom_test_teardown(state);
}

#define PARK_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void test_park_wake_before_wait_is_kept_without_system_calls(void **state) {
    play(NULL, 0);
    pom_park_wake(&park);
    assert_true(pom_park_wait(&park, POM_FOREVER));
    assert_int_equal(waits + wakes, 0);
    assert_int_equal(faults, 0);
}

static void test_park_wakes_before_a_wait_count_once(void **state) {
    static const answer_t script[] = {{ETIMEDOUT, false}};
    play(script, 1);
    pom_park_wake(&park);
    pom_park_wake(&park);
    pom_park_wake(&park);
    assert_true(pom_park_wait(&park, POM_FOREVER));
    assert_false(pom_park_wait(&park, 1));
    assert_int_equal(waits, 1);
    assert_int_equal(wakes, 0);
}

static void test_park_wait_ends_at_the_deadline(void **state) {
    static const answer_t script[] = {{ETIMEDOUT, false}};
    play(script, 1);
    assert_false(pom_park_wait(&park, 7 * POM_NS_PER_S + 123456789));
    assert_true(last_had_timeout);
    assert_int_equal(last_until.tv_sec, 7);
    assert_int_equal(last_until.tv_nsec, 123456789);
    assert_int_equal(faults, 0);
    /* Afterwards nobody sleeps: a wake is kept, and costs no call. */
    pom_park_wake(&park);
    assert_int_equal(wakes, 0);
    assert_true(pom_park_wait(&park, 1));
}

static void test_park_negative_deadline_has_passed(void **state) {
    static const int64_t passed[] = {0, -1, INT64_MIN};
    static const answer_t script[] = {{ETIMEDOUT, false}};
    for (size_t i = 0; i < 3; i++) {
        play(script, 1);
        assert_false(pom_park_wait(&park, passed[i]));
        assert_true(last_had_timeout);
        assert_int_equal(last_until.tv_sec, 0);
        assert_int_equal(last_until.tv_nsec, 0);
    }
}

static void test_park_forever_has_no_timeout(void **state) {
    static const answer_t script[] = {{0, true}};
    play(script, 1);
    assert_true(pom_park_wait(&park, POM_FOREVER));
    assert_false(last_had_timeout);
    assert_int_equal(wakes, 1);
    assert_int_equal(faults, 0);
}

static void test_park_wait_goes_on_after_interruptions(void **state) {
    /* A signal, a spurious return, a lost race: the same absolute deadline is asked for again. */
    static const answer_t script[] = {
        {EINTR, false}, {0, false}, {EAGAIN, false}, {EINTR, false}, {ETIMEDOUT, false}};
    play(script, 5);
    assert_false(pom_park_wait(&park, 3 * POM_NS_PER_S));
    assert_int_equal(waits, 5);
    assert_int_equal(last_until.tv_sec, 3);
    assert_int_equal(faults, 0);
}

static void test_park_wake_counts_however_the_wait_returns(void **state) {
    static const int errors[] = {0, EINTR, EAGAIN, ETIMEDOUT, ENOSYS};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        const answer_t script[] = {{errors[i], true}, {ETIMEDOUT, false}};
        play(script, 2);
        assert_true(pom_park_wait(&park, POM_NS_PER_S));
        assert_int_equal(waits, 1);
        assert_int_equal(wakes, 1);
        assert_false(pom_park_wait(&park, POM_NS_PER_S)); /* Consumed. */
        assert_int_equal(faults, 0);
    }
}

static void test_park_refused_wait_is_no_endless_loop(void **state) {
    static const int errors[] = {ENOSYS, EPERM, EINVAL, EFAULT};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        const answer_t script[] = {{errors[i], false}};
        play(script, 1);
        assert_false(pom_park_wait(&park, POM_FOREVER));
        assert_int_equal(waits, 1);
        assert_int_equal(faults, 0);
    }
}

// From here on with the real kernel, and with threads.

static void test_park_past_deadline_returns_at_once(void **state) {
    assert_false(pom_park_wait(&park, INT64_MIN));
    assert_false(pom_park_wait(&park, 1));
    assert_false(pom_park_wait(&park, pom_now_ns()));
    assert_false(pom_park_wait(&park, pom_now_ns() + 1000));
}

enum { ROUNDS = 20000 };

typedef struct player_s {
    pom_park_t own;
    struct player_s *other;
    int got;  /* plain: written by the other before its wake */
    int seen; /* faults */
} player_t;

static void *bat(void *arg) {
    player_t *self = arg;
    for (int i = 1; i <= ROUNDS; i++) {
        self->seen += !pom_park_wait(&self->own, POM_FOREVER);
        self->seen += self->got != i;
        self->other->got = i;
        pom_park_wake(&self->other->own);
    }
    return NULL;
}

static void test_park_loses_no_wake_between_two_threads(void **state) {
    player_t left = {.got = 0};
    player_t right = {.got = 0};
    pom_park_init(&left.own);
    pom_park_init(&right.own);
    left.other = &right;
    right.other = &left;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, bat, &left), 0);
    int wrong = 0;
    for (int i = 1; i <= ROUNDS; i++) {
        left.got = i;
        pom_park_wake(&left.own);
        wrong += !pom_park_wait(&right.own, POM_FOREVER);
        wrong += right.got != i;
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(wrong, 0);
    assert_int_equal(left.seen, 0);
}

enum { WAKERS = 3, WAKES = 10000 };

static _Atomic(int) work;
static _Atomic(int) wakers_done;

static void *hammer(void *arg) {
    for (int i = 0; i < WAKES; i++) {
        atomic_fetch_add_explicit(&work, 1, memory_order_relaxed);
        pom_park_wake(&park);
        if (i % 32 == 0) {
            sched_yield();
        }
    }
    atomic_fetch_add(&wakers_done, 1);
    pom_park_wake(&park);
    return NULL;
}

static void wakers_begin(pthread_t threads[WAKERS], void *(*waker)(void *)) {
    atomic_store(&work, 0);
    atomic_store(&wakers_done, 0);
    for (int i = 0; i < WAKERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, waker, NULL), 0);
    }
}

static void wakers_end(pthread_t threads[WAKERS]) {
    for (int i = 0; i < WAKERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_int_equal(atomic_load(&work), WAKERS * WAKES);
}

static void test_park_many_wakers_one_sleeper(void **state) {
    pthread_t threads[WAKERS];
    wakers_begin(threads, hammer);
    /* Deadlines of a few microseconds now and then, so that time-outs race with wakes. A lost wake
     * hangs here and is ended by the test's time limit. */
    int turns = 0;
    while (atomic_load(&wakers_done) < WAKERS) {
        int64_t deadline = turns % 3 == 0 ? pom_now_ns() + 5000 : POM_FOREVER;
        bool woken = pom_park_wait(&park, deadline);
        assert_true(woken || deadline != POM_FOREVER);
        turns++;
    }
    wakers_end(threads);
}

static void *doze(void *arg) {
    bool *woken = arg;
    *woken = pom_park_doze(&park);
    return NULL;
}

/* Starts a thread that dozes and waits until it does: the word tells. */
static pthread_t dozer(bool *woken) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, doze, woken), 0);
    while (atomic_load(&park.word) == 0) {
        sched_yield();
    }
    return thread;
}

static void test_park_alarm_ends_a_doze(void **state) {
    bool woken = true;
    pthread_t thread = dozer(&woken);
    int64_t at_ns = pom_now_ns() + 2 * POM_NS_PER_MS;
    pom_park_alarm(&park, at_ns);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(woken);
    assert_true(pom_now_ns() >= at_ns);
}

static void test_park_only_the_first_alarm_counts(void **state) {
    bool woken = true;
    pthread_t thread = dozer(&woken);
    int64_t at_ns = pom_now_ns() + 20 * POM_NS_PER_MS;
    pom_park_alarm(&park, at_ns);
    pom_park_alarm(&park, 1);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(woken);
    assert_true(pom_now_ns() >= at_ns);
}

static void test_park_wake_ends_a_doze_whatever_its_alarm(void **state) {
    bool woken = false;
    pthread_t thread = dozer(&woken);
    pom_park_wake(&park);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(woken);

    woken = false;
    thread = dozer(&woken);
    pom_park_alarm(&park, pom_now_ns() + 3600 * POM_NS_PER_S);
    pom_park_wake(&park);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(woken);
}

static void test_park_alarm_before_a_doze_ends_it_at_once(void **state) {
    pom_park_alarm(&park, pom_now_ns() + 3600 * POM_NS_PER_S);
    assert_true(pom_park_doze(&park));
}

static void test_park_without_a_timer_an_alarm_wakes(void **state) {
    for (int closed_by_others = 0; closed_by_others < 2; closed_by_others++) {
        int timer = park.timer;
        assert_int_equal(close(timer), 0);
        park.timer = closed_by_others ? timer : -1;
        bool woken = false;
        pthread_t thread = dozer(&woken);
        while (park.timer >= 0 || atomic_load(&park.word) != 1) {
            sched_yield(); // until it has noticed, and sleeps on the futex
        }
        pom_park_alarm(&park, pom_now_ns() + 3600 * POM_NS_PER_S);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(woken);
        pom_park_init(&park);
    }
}

/* However long it takes a stop to be told, it is not the read of a timer that keeps it. */
static void test_park_of_a_long_doze_sleeps_on_its_word(void **state) {
    struct itimerspec beats = {.it_value = {.tv_nsec = POM_NS_PER_MS},
                               .it_interval = {.tv_nsec = POM_NS_PER_MS}};
    for (int closed = 0; closed < 2; closed++) {
        bool woken = false;
        pthread_t thread = dozer(&woken);
        int timer = park.timer;
        assert_int_equal(timerfd_settime(timer, 0, &beats, NULL), 0);
        while (atomic_load(&park.word) != 1) {
            sched_yield(); // from DOZING to SLEEPING
        }
        assert_int_equal(park.timer, timer); // the next doze has it again
        if (closed) {
            // Not by close(): TSan would take it for a race with the read that is over.
            assert_int_equal(syscall(SYS_close, timer), 0);
            pom_park_wake(&park);
        } else {
            pom_park_alarm(&park, pom_now_ns() + 3600 * POM_NS_PER_S);
        }
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(woken);
    }
    pom_park_init(&park);
}

/* A program has closed the timer and opened a file by its number: neither read nor closed. */
static void test_park_leaves_the_file_of_others_alone(void **state) {
    int timer = park.timer;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "12345678", 8), 8);
    assert_int_equal(dup2(ends[0], timer), timer);
    bool woken = false;
    pthread_t thread = dozer(&woken);
    while (park.timer >= 0) {
        sched_yield(); // until it has noticed
    }
    pom_park_wake(&park);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(woken);
    park.timer = timer; /* as if nobody had dozed since */
    pom_park_fini(&park);
    char left[9];
    assert_int_equal(read(timer, left, sizeof left), 8);
    assert_int_equal(close(timer) + close(ends[0]) + close(ends[1]), 0);
    pom_park_init(&park);
}

static void *hammer_alarms(void *arg) {
    for (int i = 0; i < WAKES; i++) {
        atomic_fetch_add_explicit(&work, 1, memory_order_relaxed);
        pom_park_alarm(&park, pom_now_ns() + 1000);
        if (i % 8 == 0) {
            pom_park_wake(&park);
        }
        if (i % 32 == 0) {
            sched_yield();
        }
    }
    atomic_fetch_add(&wakers_done, 1);
    pom_park_wake(&park);
    return NULL;
}

/* A wake that an alarm put off would hang here, until the test's time limit. */
static void test_park_loses_no_wake_to_an_alarm(void **state) {
    pthread_t threads[WAKERS];
    wakers_begin(threads, hammer_alarms);
    while (atomic_load(&wakers_done) < WAKERS) {
        (void)pom_park_doze(&park);
    }
    wakers_end(threads);
}

static _Atomic(int) returned;

static void on_signal(int number) {
    (void)number;
}

static void *sleep_for_ever(void *arg) {
    bool *woken = arg;
    *woken = pom_park_wait(&park, POM_FOREVER);
    atomic_store(&returned, 1);
    return NULL;
}

static void test_park_signals_do_not_end_a_wait(void **state) {
    struct sigaction action = {.sa_handler = on_signal}; /* Without SA_RESTART. */
    struct sigaction before;
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    atomic_store(&interruptions, 0);
    atomic_store(&returned, 0);
    bool woken = false;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, sleep_for_ever, &woken), 0);
    /* Counted where the kernel returns, not in the handler: a sanitizer may hold that back. */
    while (atomic_load(&interruptions) < 10 && atomic_load(&returned) == 0) {
        assert_int_equal(pthread_kill(thread, SIGUSR1), 0);
        sched_yield();
    }
    assert_int_equal(atomic_load(&returned), 0);
    pom_park_wake(&park);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(woken);
    assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PARK_TEST(test_park_wake_before_wait_is_kept_without_system_calls),
        PARK_TEST(test_park_wakes_before_a_wait_count_once),
        PARK_TEST(test_park_wait_ends_at_the_deadline),
        PARK_TEST(test_park_negative_deadline_has_passed),
        PARK_TEST(test_park_forever_has_no_timeout),
        PARK_TEST(test_park_wait_goes_on_after_interruptions),
        PARK_TEST(test_park_wake_counts_however_the_wait_returns),
        PARK_TEST(test_park_refused_wait_is_no_endless_loop),
        PARK_TEST(test_park_past_deadline_returns_at_once),
        PARK_TEST(test_park_loses_no_wake_between_two_threads),
        PARK_TEST(test_park_many_wakers_one_sleeper),
        PARK_TEST(test_park_alarm_ends_a_doze),
        PARK_TEST(test_park_only_the_first_alarm_counts),
        PARK_TEST(test_park_wake_ends_a_doze_whatever_its_alarm),
        PARK_TEST(test_park_alarm_before_a_doze_ends_it_at_once),
        PARK_TEST(test_park_without_a_timer_an_alarm_wakes),
        PARK_TEST(test_park_of_a_long_doze_sleeps_on_its_word),
        PARK_TEST(test_park_leaves_the_file_of_others_alone),
        PARK_TEST(test_park_loses_no_wake_to_an_alarm),
        PARK_TEST(test_park_signals_do_not_end_a_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
