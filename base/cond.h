/*
 * Condition variables on the monotonic clock, for waits with a deadline that a wall clock which is
 * set does not move.
 *
 * Used by whoever waits for another thread under a lock that both hold for moments only. The rest
 * is pthread's own: a plain mutex, pthread_cond_broadcast(), pthread_cond_destroy().
 *
 *     pom_cond_init(&lock, &changed);
 *     while (!done && pom_cond_wait(&changed, &lock, deadline_ns)) {}
 */
#ifndef POM_BASE_COND_H
#define POM_BASE_COND_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Makes both; in a forked child, anew whatever state they were left in. [any] */
void pom_cond_init(pthread_mutex_t *lock, pthread_cond_t *changed);

/* With the lock held, which is open meanwhile. False: the moment of pom_now_ns() has come. Spurious
 * wake-ups look like real ones. [any] */
bool pom_cond_wait(pthread_cond_t *changed, pthread_mutex_t *lock, int64_t deadline_ns);

#endif
