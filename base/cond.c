/*
 * None of the calls in pom_cond_init() can fail on Linux: a plain mutex, and a clock that condition
 * variables know.
 */
#include "base/cond.h"

#include <errno.h>
#include <time.h>

#include "base/clock.h"

void pom_cond_init(pthread_mutex_t *lock, pthread_cond_t *changed) {
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    (void)pthread_mutex_init(lock, NULL);
}

bool pom_cond_wait(pthread_cond_t *changed, pthread_mutex_t *lock, int64_t deadline_ns) {
    struct timespec until = pom_timespec(deadline_ns);
    return pthread_cond_timedwait(changed, lock, &until) != ETIMEDOUT;
}
