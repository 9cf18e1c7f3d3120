/* Clocks: each reads its own clock; moments are written without libc's calendar. */
#include "tests/unit/support/test_support.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void test_clock_monotonic_never_goes_back(void **state) {
    int64_t last = pom_now_ns();
    assert_true(last > 0);
    for (int i = 0; i < 10000; i++) {
        int64_t now = pom_now_ns();
        assert_true(now >= last);
        last = now;
    }
}

static void test_clock_wall_is_that_of_time(void **state) {
    /* time() may lag by a tick of the coarse clock: compare with a second of room. */
    int64_t before = (int64_t)time(NULL) - 1;
    int64_t wall = pom_wall_ns() / POM_NS_PER_S;
    int64_t after = (int64_t)time(NULL) + 1;
    assert_true(before <= wall && wall <= after);
}

/* Work until the thread's CPU clock has moved by 5 ms: more than making and joining a thread takes,
 * so that one clock cannot pass for another. Bounded, should that clock stand still. */
static int64_t burn(void) {
    int64_t start = pom_thread_cpu_ns();
    for (int i = 0; i < 10000000; i++) {
        if (pom_thread_cpu_ns() > start + 5 * POM_NS_PER_MS) {
            break;
        }
    }
    return pom_thread_cpu_ns() - start;
}

static void test_clock_cpu_counts_work(void **state) {
    int64_t process = pom_process_cpu_ns();
    assert_true(burn() > 0);
    assert_true(pom_process_cpu_ns() > process);
}

static void *burn_in_thread(void *arg) {
    int64_t *burnt = arg;
    *burnt = burn();
    return NULL;
}

static void test_clock_process_cpu_keeps_ended_threads(void **state) {
    int64_t before = pom_process_cpu_ns();
    int64_t burnt = 0;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, burn_in_thread, &burnt), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(burnt > 0);
    assert_true(pom_process_cpu_ns() - before >= burnt);
}

static void test_clock_tid_reads_the_clock_of_that_thread(void **state) {
    int64_t before = pom_thread_cpu_ns();
    int64_t by_tid = 0;
    assert_true(pom_tid_cpu_ns((int32_t)syscall(SYS_gettid), &by_tid));
    int64_t after = pom_thread_cpu_ns();
    assert_true(before <= by_tid && by_tid <= after);
}

static void test_clock_tid_of_no_thread_is_refused(void **state) {
    /* 4194304 is the largest pid_max; 0 would mean the caller; a child's parent is not ours. */
    const int32_t gone[] = {0, -1, INT32_MIN, 4194305, INT32_MAX, (int32_t)getppid()};
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++) {
        int64_t cpu = 77;
        assert_false(pom_tid_cpu_ns(gone[i], &cpu));
        assert_int_equal(cpu, 77);
    }
}

static void assert_moment(int64_t wall_ns, const char *expected) {
    char text[29];
    memset(text, '#', sizeof text);
    pom_format_moment(wall_ns, text);
    assert_string_equal(text, expected);
    assert_int_equal(strlen(text), 27);
    assert_int_equal(text[28], '#');
}

static void test_clock_moment_has_microseconds_and_z(void **state) {
    assert_moment(0, "1970-01-01T00:00:00.000000Z");
    assert_moment(999, "1970-01-01T00:00:00.000000Z");
    assert_moment(1000, "1970-01-01T00:00:00.000001Z");
    assert_moment(POM_NS_PER_S - 1, "1970-01-01T00:00:00.999999Z");
    assert_moment(INT64_C(951782400) * POM_NS_PER_S, "2000-02-29T00:00:00.000000Z");
    assert_moment(INT64_C(1709251199) * POM_NS_PER_S + 5000, "2024-02-29T23:59:59.000005Z");
    assert_moment(INT64_C(1795178096) * POM_NS_PER_S + 123456789, "2026-11-20T12:34:56.123456Z");
    assert_moment(INT64_C(4107542400) * POM_NS_PER_S, "2100-03-01T00:00:00.000000Z");
    assert_moment(INT64_MAX, "2262-04-11T23:47:16.854775Z");
    /* Before the epoch, rounded down: not asked for, but no nonsense either. */
    assert_moment(-1, "1969-12-31T23:59:59.999999Z");
    assert_moment(INT64_MIN, "1677-09-21T00:12:43.145224Z");
}

static void test_clock_moment_agrees_with_libc_on_every_day(void **state) {
    const int64_t days = INT64_MAX / (86400 * POM_NS_PER_S);
    for (int64_t day = 0; day < days; day++) {
        int64_t second = day * 86400 + day * 7919 % 86400; /* Another time of day each day. */
        time_t t = (time_t)second;
        struct tm tm;
        assert_non_null(gmtime_r(&t, &tm));
        char expected[40];
        size_t len = strftime(expected, sizeof expected, "%Y-%m-%dT%H:%M:%S", &tm);
        memcpy(expected + len, ".000000Z", 9);
        char text[28];
        pom_format_moment(second * POM_NS_PER_S, text);
        assert_string_equal(text, expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_clock_monotonic_never_goes_back),
        POM_TEST(test_clock_wall_is_that_of_time),
        POM_TEST(test_clock_cpu_counts_work),
        POM_TEST(test_clock_process_cpu_keeps_ended_threads),
        POM_TEST(test_clock_tid_reads_the_clock_of_that_thread),
        POM_TEST(test_clock_tid_of_no_thread_is_refused),
        POM_TEST(test_clock_moment_has_microseconds_and_z),
        POM_TEST(test_clock_moment_agrees_with_libc_on_every_day),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
