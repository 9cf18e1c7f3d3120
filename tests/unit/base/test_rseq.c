/* Whether a thread has run on: a "yes" is never wrong, and signals and forks do no harm. The same
 * before pom_rseq_init(), where switches are counted, and after it. */
#define _GNU_SOURCE // RUSAGE_THREAD, sched_getcpu
#include "tests/unit/support/test_support.h"

#include "base/rseq.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

/* Each of them finds the thread undisturbed for some instructions. */
#define TRIES 10000

/* Of getrusage(), by the code under test. */
static _Atomic(int) calls;

int __real_getrusage(int who, struct rusage *use);
int __wrap_getrusage(int who, struct rusage *use);

int __wrap_getrusage(int who, struct rusage *use) {
    atomic_fetch_add(&calls, 1);
    return __real_getrusage(who, use);
}

static int64_t switches_of_this_thread(void) {
    struct rusage use = {0};
    (void)__real_getrusage(RUSAGE_THREAD, &use); /* Cannot fail: see rseq.c. */
    return (int64_t)use.ru_nvcsw + (int64_t)use.ru_nivcsw;
}

/* Not for its time: to be switched out, which a sleep that is over before it began is not. */
static void give_up_the_cpu(void) {
    const struct timespec moment = {.tv_nsec = 1};
    int64_t before = switches_of_this_thread();
    do {
        (void)nanosleep(&moment, NULL); /* Not for long enough for a signal to matter. */
    } while (switches_of_this_thread() == before);
}

static bool runs_on_at_last(pom_rseq_asker_t *asker) {
    for (int i = 0; i < TRIES; i++) {
        (void)pom_rseq_ran_on(asker);
        if (pom_rseq_ran_on(asker)) {
            return true;
        }
    }
    return false;
}

static void tell_running_from_sleeping(void) {
    pom_rseq_asker_t asker = {0};
    for (int i = 0; i < 100; i++) {
        assert_true(runs_on_at_last(&asker));
        give_up_the_cpu();
        assert_false(pom_rseq_ran_on(&asker));
    }
}

static void test_rseq_tells_running_from_sleeping_by_counting(void **state) {
    tell_running_from_sleeping();
}

static void test_rseq_tells_running_from_sleeping(void **state) {
    pom_rseq_init();
    tell_running_from_sleeping();
}

static void test_rseq_tells_askers_on_one_thread_apart(void **state) {
    pom_rseq_init();
    pom_rseq_asker_t one = {0}, other = {0};
    assert_true(runs_on_at_last(&one));
    give_up_the_cpu();
    assert_true(runs_on_at_last(&other));
    assert_false(pom_rseq_ran_on(&one));
}

/* 618 for 6.18. */
static int kernel(void) {
    struct utsname name;
    int major = 0, minor = 0;
    assert_int_equal(uname(&name), 0);
    assert_int_equal(sscanf(name.release, "%d.%d", &major, &minor), 2);
    return major * 100 + minor;
}

static void test_rseq_counts_no_switches_where_the_kernel_tells(void **state) {
    pom_rseq_init();
    if (pom_rseq_cpu() == 0 || kernel() >= 619) {
        skip(); // see the head of rseq.c
    }
    int before = atomic_load(&calls);
    pom_rseq_asker_t asker = {0};
    assert_true(runs_on_at_last(&asker));
    give_up_the_cpu();
    assert_false(pom_rseq_ran_on(&asker));
    assert_int_equal(atomic_load(&calls), before);
}

/* Work that leaves the CPU to others only when it is taken away, or in every third turn. */
static void be_busy(int turn) {
    for (volatile int i = 0; i < 2000; i++) {
    }
    if (turn % 3 == 0) {
        give_up_the_cpu();
    }
}

static _Atomic(bool) over;

static void *busy(void *arg) {
    while (!atomic_load(&over)) {
    }
    return arg;
}

typedef struct asked_s {
    int yes, wrong;
} asked_t;

static void *ask_while_busy(void *arg) {
    pom_rseq_asker_t asker = {0};
    asked_t *asked = arg;
    for (int turn = 0; turn < 3000; turn++) {
        (void)pom_rseq_ran_on(&asker);
        int64_t before = switches_of_this_thread();
        be_busy(turn);
        int64_t after = switches_of_this_thread();
        bool ran_on = pom_rseq_ran_on(&asker);
        asked->yes += ran_on;
        asked->wrong += ran_on && after != before;
    }
    return NULL;
}

static void test_rseq_never_overlooks_a_switch(void **state) {
    pom_rseq_init();
    enum { ASKING = 2, BUSY = 3 };
    pthread_t asking[ASKING], others[BUSY];
    asked_t asked[ASKING] = {{0}};
    atomic_store(&over, false);
    for (int i = 0; i < BUSY; i++) {
        assert_int_equal(pthread_create(&others[i], NULL, busy, NULL), 0);
    }
    for (int i = 0; i < ASKING; i++) {
        assert_int_equal(pthread_create(&asking[i], NULL, ask_while_busy, &asked[i]), 0);
    }
    for (int i = 0; i < ASKING; i++) {
        assert_int_equal(pthread_join(asking[i], NULL), 0);
        assert_int_equal(asked[i].wrong, 0);
        assert_true(asked[i].yes > 0);
    }
    atomic_store(&over, true);
    for (int i = 0; i < BUSY; i++) {
        assert_int_equal(pthread_join(others[i], NULL), 0);
    }
}

static void on_signal(int number) {
    (void)number;
}

static void test_rseq_stands_signals(void **state) {
    pom_rseq_init();
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction old;
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    pom_rseq_asker_t asker = {0};
    for (int i = 0; i < 1000; i++) {
        assert_true(runs_on_at_last(&asker));
        assert_int_equal(raise(SIGUSR1), 0);
    }
    assert_true(runs_on_at_last(&asker));
    assert_int_equal(sigaction(SIGUSR1, &old, NULL), 0);
}

static void test_rseq_works_in_a_forked_child(void **state) {
    pom_rseq_init();
    pom_rseq_asker_t asker = {0};
    assert_true(runs_on_at_last(&asker));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        pom_rseq_asker_t own = {0};
        bool right = runs_on_at_last(&own);
        give_up_the_cpu();
        pom_test_child_ends(right && !pom_rseq_ran_on(&own));
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(runs_on_at_last(&asker));
}

static void *place(void *arg) {
    uintptr_t *found = arg;
    *found = pom_rseq_cpu();
    return NULL;
}

static void test_rseq_has_the_number_of_the_cpu(void **state) {
    pom_rseq_init();
    uintptr_t mine = pom_rseq_cpu(), others = 0;
    if (mine == 0) {
        skip(); // this C library or kernel has none, as under valgrind
    }
    bool same = false;
    for (int i = 0; i < TRIES && !same; i++) { // it may move between the two
        same = *(volatile const int32_t *)mine == sched_getcpu();
    }
    assert_true(same);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, place, &others), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(others != 0 && others != mine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_rseq_tells_running_from_sleeping_by_counting), // first: not yet found
        POM_TEST(test_rseq_tells_running_from_sleeping),
        POM_TEST(test_rseq_tells_askers_on_one_thread_apart),
        POM_TEST(test_rseq_counts_no_switches_where_the_kernel_tells),
        POM_TEST(test_rseq_never_overlooks_a_switch),
        POM_TEST(test_rseq_stands_signals),
        POM_TEST(test_rseq_works_in_a_forked_child),
        POM_TEST(test_rseq_has_the_number_of_the_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
