/* What /proc says of a thread: whether it wants a CPU, and how often it has had one. */
#define _GNU_SOURCE // sched_getcpu, gettid
#include "tests/unit/support/test_support.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sampler/thread_files.h"

#define MANY 1000000

typedef struct sleeper_s {
    pthread_t thread;
    pthread_barrier_t both;
    int32_t tid;
    int naps; /* so often it waits for the test */
} sleeper_t;

static void *sleep_often(void *arg) {
    sleeper_t *s = arg;
    s->tid = (int32_t)syscall(SYS_gettid);
    (void)pthread_barrier_wait(&s->both);
    for (int i = 0; i < s->naps; i++) {
        (void)pthread_barrier_wait(&s->both);
    }
    return NULL;
}

static void begin(sleeper_t *s, int naps) {
    *s = (sleeper_t){.naps = naps};
    assert_int_equal(pthread_barrier_init(&s->both, NULL, 2), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, sleep_often, s), 0);
    (void)pthread_barrier_wait(&s->both);
}

static void end(sleeper_t *s) {
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_int_equal(pthread_barrier_destroy(&s->both), 0);
}

static void test_thread_files_count_the_turns_of_a_thread(void **state) {
    sleeper_t sleeper;
    begin(&sleeper, 100);
    pom_thread_files_t files = POM_THREAD_FILES_NONE;
    int64_t before = pom_thread_turns(&files, sleeper.tid);
    for (int i = 0; i < 99; i++) { // one of both is there first each time, and sleeps
        (void)pthread_barrier_wait(&sleeper.both);
    }
    int64_t turns = pom_thread_turns(&files, sleeper.tid) - before;
    (void)pthread_barrier_wait(&sleeper.both);
    end(&sleeper);
    if (before < 0) {
        skip(); // this kernel does not count them
    }
    assert_in_range(turns, 1, 10000);
    for (int tries = 0; tries < MANY && turns != -1; tries++) { // joined before the kernel is done
        turns = pom_thread_turns(&files, sleeper.tid);
    }
    assert_int_equal(turns, -1); // it has ended
    assert_int_equal(files.schedstat.fd, -1);
    pom_thread_files_close(&files);
}

static void test_thread_files_tell_who_wants_this_cpu(void **state) {
    int32_t own = (int32_t)syscall(SYS_gettid);
    sleeper_t sleeper;
    begin(&sleeper, 1);
    pom_thread_files_t files = POM_THREAD_FILES_NONE;
    bool wants = false, waits = false;
    for (int tries = 0; tries < MANY && !wants; tries++) { // it may be moved in between
        wants = pom_thread_wants_cpu(&files, own, sched_getcpu());
    }
    assert_true(wants);
    assert_int_equal(files.tid, own);
    assert_false(pom_thread_wants_cpu(&files, own, 1 << 20));
    for (int tries = 0; tries < MANY && !waits; tries++) { // it may be on its way to the barrier
        waits = true;
        for (int cpu = 0; cpu < CPU_SETSIZE && waits; cpu++) {
            waits = !pom_thread_wants_cpu(&files, sleeper.tid, cpu);
        }
    }
    assert_true(waits);
    assert_int_equal(files.tid, sleeper.tid); // the same descriptors serve another thread
    (void)pthread_barrier_wait(&sleeper.both);
    end(&sleeper);
    pom_thread_files_close(&files);
    assert_int_equal(files.stat.fd, -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_thread_files_count_the_turns_of_a_thread),
        POM_TEST(test_thread_files_tell_who_wants_this_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
