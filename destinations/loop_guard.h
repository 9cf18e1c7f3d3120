/*
 * Whether a loop's descriptors are still its own. Programs close descriptors that they do not know
 * (os.closerange in a daemon); libuv ends the process when it finds that at a poll or a wake, or
 * wakes the loop by eight bytes into a file that the program has opened since.
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
#include "base/status.h"

/* Constant while the loop lives. */
typedef struct pom__loop_guard_s {
    int polled, woken;
    pom_own_fd_t mark; /* what tells that they are ours */
} pom__loop_guard_t;

/* At the loop's birth; its data is the guard from then on. False: the kernel has no room for what
 * the loop would poll. libuv would end the process at the first poll, so there must be none, hence
 * no handle before this that needs one to be closed. */
POM_MUST_USE bool pom__loop_guard_begin(pom__loop_guard_t *guard, uv_loop_t *loop);

/* Three system calls. [any] */
bool pom__loop_holds(const uv_loop_t *loop);

/* False: it cannot be woken any more. The handle is not closing. [any] */
bool pom__loop_wake(uv_async_t *async);

/* Closes this process's copies of a loop that is the parent's: uv_loop_close() would not leave the
 * parent's alone. [app, the child's only thread] */
void pom__loop_guard_leave(pom__loop_guard_t *guard);

#endif
