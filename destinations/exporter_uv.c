/*
 * Which numbers libuv's descriptors get.
 *
 * Never 0, 1 or 2, which are free in a program that has closed them: libuv ends the process when it
 * closes one of these, and what the program prints would go into the loop. So the free ones among them
 * are taken while libuv opens its own. It does that at a loop's birth, and in every forked child, where
 * its handler opens a pipe anew; ours run before and after that one. Sockets it makes later are not
 * ours to choose; those it does not close by force.
 *
 * They are taken with pipes: nobody else has a pipe's inode, so a number that a program has made its
 * own meanwhile (dup2) is not closed. In the child nothing is called but system calls, as it may have
 * been forked from a process with threads.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pipe2 */
#endif

#include "destinations/exporter_uv.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/own_fd.h"

/* libuv 1.44 opens six for the first loop, 1.45 up to nine. Its first loop ends the process when there
 * are too few. */
#define ROOM     10
#define ENDS_MAX (ROOM + 4) /* two pipes more have the numbers 0 to 3 */

typedef struct taken_s {
    pom_own_fd_t ends[ENDS_MAX];
    int count;
} taken_t;

/* Takes free numbers, the lowest first, until `room` of them are above 2. False: there are not so many. */
static bool take(taken_t *t, int room) {
    t->count = 0;
    for (int above = 0; above < room && t->count < ENDS_MAX;) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0) {
            return false;
        }
        for (int i = 0; i < 2; i++) {
            (void)pom_own_fd_note(&t->ends[t->count++],
                                  ends[i]); /* if not open, not ours to close */
            above += ends[i] > STDERR_FILENO ? 1 : 0;
        }
    }
    return true;
}

static void let_go(taken_t *t, int above) {
    for (int i = 0; i < t->count; i++) {
        if (t->ends[i].fd > above) {
            pom_own_fd_close(&t->ends[i]);
        }
    }
}

/* ---- forks ---- */

static taken_t at_fork;
static bool before_is_set, after_is_set;

static void before_libuv(void) {
    at_fork.count = 0;
    if (after_is_set) {
        (void)take(&at_fork, 2); /* libuv closes two, so there are two for it whatever this says */
        let_go(&at_fork, STDERR_FILENO);
    }
}

static void after_libuv(void) {
    let_go(&at_fork, -1);
}

/* ---- the loop ---- */

static int init_between_handlers(uv_loop_t *loop) {
    /* Handlers of children run in the order of their registration; libuv's comes with its first loop. */
    before_is_set = before_is_set || pthread_atfork(NULL, NULL, before_libuv) == 0;
    int error = before_is_set ? uv_loop_init(loop) : UV_ENOMEM;
    if (error != 0) {
        return error;
    }
    after_is_set = after_is_set || pthread_atfork(NULL, NULL, after_libuv) == 0;
    if (!after_is_set) {
        (void)uv_loop_close(loop); /* cannot fail: it has no handle */
        return UV_ENOMEM;
    }
    return 0;
}

int pom__uv_loop_init(uv_loop_t *loop) {
    taken_t taken;
    int error = UV_EMFILE;
    if (take(&taken, ROOM)) {
        let_go(&taken, STDERR_FILENO);
        error = init_between_handlers(loop);
    }
    let_go(&taken, -1);
    return error;
}
