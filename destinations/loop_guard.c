/*
 * What is looked at are the two descriptors that end the process: the one that is polled and the
 * one that wakes. Which they are is known at the loop's birth; later the number alone would say
 * nothing, nor does their inode, which all epolls and eventfds of a machine share.
 *
 * So the epoll is asked: it knows what it polls by file and number, and no other one polls our
 * mark. The mark is the pipe that every loop has for signals, as nobody else has a pipe's inode.
 *
 *     mark      its inode is ours
 *     polled    polls the mark
 *     woken     is polled by it
 *
 * To ask is to set the events to what libuv has set them to, which changes nothing, and fails where
 * it is not so. (To add is to disturb an epoll of the program's for a moment.) libuv sets them at
 * its first poll; for what is there already then it does as for what has been there before.
 */
#include "destinations/loop_guard.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static bool polls(int polled, int how, int fd) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.fd = fd; /* as libuv reads it */
    return epoll_ctl(polled, how, fd, &event) == 0;
}

static bool holds(const pom__loop_guard_t *guard) {
    return pom_own_fd_holds(&guard->mark) && polls(guard->polled, EPOLL_CTL_MOD, guard->mark.fd) &&
           polls(guard->polled, EPOLL_CTL_MOD, guard->woken);
}

bool pom__loop_guard_begin(pom__loop_guard_t *guard, uv_loop_t *loop) {
    guard->polled = uv_backend_fd(loop);
    guard->woken = loop->async_io_watcher.fd;
    loop->data = guard;
    return pom_own_fd_note(&guard->mark, loop->signal_pipefd[0]) &&
           polls(guard->polled, EPOLL_CTL_ADD, guard->mark.fd) &&
           polls(guard->polled, EPOLL_CTL_ADD, guard->woken);
}

bool pom__loop_holds(const uv_loop_t *loop) {
    return holds(loop->data);
}

bool pom__loop_wake(uv_async_t *async) {
    /* It fails only on a closing handle. */
    return pom__loop_holds(async->loop) && uv_async_send(async) == 0;
}

void pom__loop_guard_leave(pom__loop_guard_t *guard) {
    /* All or none: where the program has closed one, nothing tells whose the others are. */
    if (holds(guard)) {
        (void)close(guard->polled);
        (void)close(guard->woken);
        pom_own_fd_close(&guard->mark);
    }
    guard->mark = POM_OWN_FD_NONE;
}
