/*
 * Whether a loop's descriptors are still its own. Programs close descriptors that they do not know
 * (os.closerange in a daemon); libuv ends the process when it finds that at a poll or a wake, or wakes
 * the loop by eight bytes into a file that the program has opened since.
 *
 * Used by the exporter, whose loop it is, and by whoever wakes that loop.
 *
 *     pom__loop_guard_begin(&guard, &loop);
 *     if (pom__loop_wake(&async)) ...           in place of uv_async_send()
 *     while (!pom__loop_holds(&loop)) pause();  before a poll
 *     pom__loop_guard_leave(&guard);            in a forked child
 */
#ifndef POM_DESTINATIONS_LOOP_GUARD_H
#define POM_DESTINATIONS_LOOP_GUARD_H

#include <uv.h>

#include "base/own_fd.h"

/* Constant while the loop lives. */
typedef struct pom__loop_guard_s {
    pom_own_fd_t polled, woken;
} pom__loop_guard_t;

/* At the loop's birth, when it has an async handle; the loop's data is the guard from then on. */
void pom__loop_guard_begin(pom__loop_guard_t *guard, uv_loop_t *loop);

/* Two system calls. [any] */
bool pom__loop_holds(const uv_loop_t *loop);

/* False: it cannot be woken any more. The handle is not closing. [any] */
bool pom__loop_wake(uv_async_t *async);

/* Closes this process's copies of a loop that is the parent's: uv_loop_close() would not leave the
 * parent's alone. [app, the child's only thread] */
void pom__loop_guard_leave(pom__loop_guard_t *guard);

#endif
