/*
 * Which numbers libuv's descriptors get, and whose descriptors it closes.
 *
 * It never gets 0, 1 or 2, which are free in a program that has closed them: libuv ends the process
 * when it closes one of these, and what the program prints would go into the loop. So the free ones
 * among them are taken while libuv opens its own. It does that at a loop's birth, and in every
 * forked child, where its handler opens a pipe anew. Sockets it makes later are not ours to choose;
 * those it does not close by force.
 *
 * Before that its handler closes the numbers of the parent's pipe. In a program that has closed
 * what it does not know (os.closerange in a daemon) they are of a file of the program's by then:
 * workers would miss the socket that they listen on. So two handlers of ours run around libuv's:
 *
 *     before    what is not libuv's goes to a higher number
 *     libuv's   close(4); close(5); pipe() = 4, 5
 *     after     back to its number, with its flag; over libuv's new pipe if that is there
 *
 * Of libuv's pipe nothing is used unless a signal is watched, which no loop of ours does.
 *
 * Numbers are taken with pipes: nobody else has a pipe's inode, so one that a program has made its
 * own meanwhile (dup2) is not closed. In the child nothing is called but system calls, as it may
 * have been forked from a process with threads; being alone it can foretell which numbers a pipe
 * will get.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pipe2, dup3 */
#endif

#include "destinations/exporter_uv.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/own_fd.h"

/* libuv 1.44 opens six for the first loop, 1.45 up to nine. Its first loop ends the process when
 * there are too few. */
#define ROOM     10
#define ENDS_MAX (ROOM + 4) /* two pipes more have the numbers 0 to 3 */

typedef struct taken_s {
    pom_own_fd_t ends[ENDS_MAX];
    int count;
} taken_t;

/* Takes free numbers, the lowest first, until `room` of them are above 2. False: there are not so
 * many. */
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

static bool before_is_set, after_is_set;

/* The pipe that libuv closes by number in the next child; none while it is not known. */
static pom_own_fd_t pipe_of_libuv[2] = {{.fd = -1}, {.fd = -1}};

/* In a child, between the two handlers. */
static taken_t at_fork;
static int next_numbers[2]; /* what libuv will open; -1: not known */
static struct {
    int number, kept; /* of the program; where it is meanwhile, -1: nowhere */
    int flags;
} aside[2];

static void set_aside(int i, int above) {
    int number = pipe_of_libuv[i].fd;
    aside[i].number = number;
    aside[i].kept = -1;
    if (number < 0) {
        return;
    }
    aside[i].flags = fcntl(number, F_GETFD);
    if (aside[i].flags >= 0 && !pom_own_fd_holds(&pipe_of_libuv[i])) {
        aside[i].kept = fcntl(number, F_DUPFD_CLOEXEC, above + 1);
    }
    (void)close(number); /* as libuv will: what is free now is free then */
}

static void put_back(int i) {
    if (aside[i].kept >= 0) {
        int flags = (aside[i].flags & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0;
        (void)dup3(aside[i].kept, aside[i].number,
                   flags); /* over an end of libuv's new pipe: see above */
        (void)close(aside[i].kept);
    }
}

static void before_libuv(void) {
    at_fork.count = 0;
    if (!after_is_set) {
        return;
    }
    int first = pipe_of_libuv[0].fd;
    int second = pipe_of_libuv[1].fd;
    set_aside(0, first > second ? first : second);
    set_aside(1, first > second ? first : second);
    (void)take(&at_fork, 2); /* as libuv's pipe, which has room whatever this says */
    int found = 0;
    for (int i = 0; i < at_fork.count && found < 2; i++) {
        if (at_fork.ends[i].fd > STDERR_FILENO) {
            next_numbers[found++] = at_fork.ends[i].fd;
        }
    }
    while (found < 2) {
        next_numbers[found++] = -1;
    }
    let_go(&at_fork, STDERR_FILENO);
}

static void after_libuv(void) {
    (void)pom_own_fd_note(&pipe_of_libuv[0], next_numbers[0]); /* not known stays not known */
    (void)pom_own_fd_note(&pipe_of_libuv[1], next_numbers[1]);
    put_back(0);
    put_back(1);
    let_go(&at_fork, -1);
}

/* libuv's is a pipe whose one byte waits. Another thread would have to make such a one with numbers
 * that were free a moment ago. */
static bool is_pipe_of_libuv(int out, int in) {
    struct stat a, b;
    int waiting = 0;
    return out > STDERR_FILENO && fstat(out, &a) == 0 && fstat(in, &b) == 0 &&
           S_ISFIFO(a.st_mode) && a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
           ioctl(out, FIONREAD, &waiting) == 0 && waiting == 1;
}

/* Among the numbers that were free for the first loop. None is found when somebody else in the
 * process has used the same libuv before: then its handler is before ours, and nothing can be
 * done. */
static void find_pipe_of_libuv(const taken_t *was_free) {
    for (int i = 0; i < was_free->count; i++) {
        for (int k = i + 1; k < was_free->count; k++) {
            if (is_pipe_of_libuv(was_free->ends[i].fd, was_free->ends[k].fd)) {
                (void)pom_own_fd_note(&pipe_of_libuv[0], was_free->ends[i].fd); /* both are open */
                (void)pom_own_fd_note(&pipe_of_libuv[1], was_free->ends[k].fd);
            }
        }
    }
}

/* ---- the loop ---- */

static int init_between_handlers(uv_loop_t *loop, const taken_t *was_free) {
    /* Handlers of children run in the order of their registration; libuv's comes with its first
     * loop. */
    before_is_set = before_is_set || pthread_atfork(NULL, NULL, before_libuv) == 0;
    int error = before_is_set ? uv_loop_init(loop) : UV_ENOMEM;
    if (error != 0) {
        return error;
    }
    if (after_is_set) {
        return 0;
    }
    after_is_set = pthread_atfork(NULL, NULL, after_libuv) == 0;
    if (!after_is_set) {
        (void)uv_loop_close(loop); /* cannot fail: it has no handle */
        return UV_ENOMEM;
    }
    find_pipe_of_libuv(was_free);
    return 0;
}

int pom__uv_loop_init(uv_loop_t *loop) {
    taken_t taken;
    int error = UV_EMFILE;
    if (take(&taken, ROOM)) {
        taken_t was_free = taken;
        let_go(&taken, STDERR_FILENO);
        error = init_between_handlers(loop, &was_free);
    }
    let_go(&taken, -1);
    return error;
}
