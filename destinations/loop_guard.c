/*
 * What is looked at are the two descriptors that end the process: the one that is polled and the one
 * that wakes. Which they are is known at the loop's birth and noted then, with the files that they
 * are of; later the number alone would say nothing. All handles of a loop wake it by the same one.
 */
#include "destinations/loop_guard.h"

void pom__loop_guard_begin(pom__loop_guard_t *guard, uv_loop_t *loop) {
    (void)pom_own_fd_note(&guard->polled, uv_backend_fd(loop)); /* open, both */
    (void)pom_own_fd_note(&guard->woken, loop->async_io_watcher.fd);
    loop->data = guard;
}

bool pom__loop_holds(const uv_loop_t *loop) {
    const pom__loop_guard_t *guard = loop->data;
    return pom_own_fd_holds(&guard->polled) && pom_own_fd_holds(&guard->woken);
}

bool pom__loop_wake(uv_async_t *async) {
    /* It fails only on a closing handle. */
    return pom__loop_holds(async->loop) && uv_async_send(async) == 0;
}

void pom__loop_guard_leave(pom__loop_guard_t *guard) {
    pom_own_fd_close(&guard->polled);
    pom_own_fd_close(&guard->woken);
}
