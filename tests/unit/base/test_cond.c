/* Waiting under a lock: by the monotonic clock, for a wake or a moment. */
#include "tests/unit/support/test_support.h"

#include "base/clock.h"
#include "base/cond.h"

static pthread_mutex_t lock;
static pthread_cond_t changed;
static bool done;

static void test_cond_moments_that_have_passed_end_the_wait(void **state) {
    static const int64_t moments[] = {INT64_MIN, -1, 0, 1};
    pom_cond_init(&lock, &changed);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        assert_false(pom_cond_wait(&changed, &lock, moments[i]));
    }
    /* By the wall clock this moment would have passed half a century ago. */
    int64_t deadline_ns = pom_now_ns() + 20 * POM_NS_PER_MS;
    while (pom_cond_wait(&changed, &lock, deadline_ns)) {
    }
    assert_true(pom_now_ns() >= deadline_ns);
    pthread_mutex_unlock(&lock);
    pthread_cond_destroy(&changed);
    pthread_mutex_destroy(&lock);
}

static void *finish(void *unused) {
    pthread_mutex_lock(&lock);
    done = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return unused;
}

static void test_cond_a_wake_ends_the_wait(void **state) {
    pthread_t thread;
    pom_cond_init(&lock, &changed);
    pthread_mutex_lock(&lock);
    assert_int_equal(pthread_create(&thread, NULL, finish, NULL), 0);
    bool in_time = true;
    while (!done && in_time) {
        in_time = pom_cond_wait(&changed, &lock, pom_now_ns() + 30 * POM_NS_PER_S);
    }
    assert_true(done);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    pthread_cond_destroy(&changed);
    pthread_mutex_destroy(&lock);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_cond_moments_that_have_passed_end_the_wait),
        POM_TEST(test_cond_a_wake_ends_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
