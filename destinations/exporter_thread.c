/*
 * The loop thread's birth and death. It is a guest in somebody else's process.
 *
 * It blocks every signal an application might use: a handler must never run here. The ones that a
 * crash raises stay open, for a blocked one would hide the crash from whoever reports it
 * (faulthandler). Blocking SIGPIPE and SIGXFSZ is also what makes writes to closed pipes and full
 * quotas plain errors.
 *
 * A program that closes descriptors it does not know, in the middle of its life, takes the loop's
 * too. libuv aborts at the next poll then, so that is never reached: the thread stands still, and
 * all others find what a destination that hangs shows them.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np */
#endif

#include "destinations/exporter_parts.h"
#include "destinations/exporter_uv.h"
#include "destinations/stages.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

/* A TLS handshake and the encoders need some 50 KiB; thread-local storage of the host's
 * libraries comes out of it too. Only touched pages cost memory. */
#define STACK_BYTES ((size_t)512 << 10)

#define X(name, text) text,
static const char *const stage_names[] = {NULL, POM_LOOP_STAGE_LIST(X)};
#undef X

pom_stages_t pom_loop_stages = POM_STAGES("pom-loop", stage_names);

static void on_before_poll(uv_prepare_t *prepare) {
    while (!pom__loop_holds(prepare->loop)) {
        (void)pause(); /* until the process ends: see above */
    }
}

static void *loop_main(void *arg) {
    pom_exporter_t *e = arg;
    /* A name that does not fit would be the only failure. */
    (void)pthread_setname_np(pthread_self(), "pom-loop");
    atomic_store(&e->tid, (int32_t)syscall(SYS_gettid));
    pom_stages_begin(&pom_loop_stages);

    (void)uv_run(&e->loop,
                 UV_RUN_DEFAULT); /* returns when all handles are closed; the value says no more */

    int closed = uv_loop_close(&e->loop);
    assert(closed == 0 && "a destination left a handle on the loop");
    (void)closed; /* in a release its descriptors leak: better than to end the process */

    pom_stages_end(&pom_loop_stages);
    (void)pthread_mutex_lock(&e->exporter_lock); /* cannot fail: plain, and never taken twice */
    atomic_fetch_add(&e->ended_cpu_ns, pom_thread_cpu_ns());
    atomic_store(&e->tid, 0);
    (void)pom__exporter_deal_locked(e);
    e->state = POM__EXPORTER_STOPPED;
    (void)pthread_cond_broadcast(&e->changed);
    (void)pthread_mutex_unlock(&e->exporter_lock);
    return NULL;
}

static int start_thread(pom_exporter_t *e) {
    sigset_t blocked;
    sigset_t before;
    (void)sigfillset(&blocked);
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
        (void)sigdelset(&blocked, crashes[i]); /* fails only for numbers that are no signal */
    }
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    /* Refused where thread-local storage needs more than this: the default is then right. */
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
    /* The new thread inherits the mask, so there is no moment in which a signal could reach it. */
    (void)pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int error = pthread_create(&e->thread, &attr, loop_main, e);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attr);
    return error;
}

pom_status_t pom__exporter_start_locked(pom_exporter_t *e) {
    if (e->joinable) {
        /* A stop gave up on it, but it did end. Unlocking was its last act, so this returns at
         * once. */
        (void)pthread_join(e->thread, NULL);
        e->joinable = false;
    }
    memset(&e->loop, 0, sizeof e->loop);
    int error = pom__uv_loop_init(&e->loop);
    if (error != 0) {
        return error == UV_ENOMEM ? POM_ENOMEM : POM_EIO;
    }
    error = pom__loop_guard_begin(&e->guard, &e->loop)
                ? uv_async_init(&e->loop, &e->async, pom__exporter_on_wake)
                : UV_ENOSPC;
    if (error != 0) {
        goto fail_loop;
    }
    (void)uv_timer_init(&e->loop, &e->timer); /* cannot fail, nor can those of prepare */
    (void)uv_prepare_init(&e->loop, &e->before_poll);
    (void)uv_prepare_start(&e->before_poll, on_before_poll);
    e->async.data = e;
    e->timer.data = e;
    e->pumping = e->again = e->worked = e->due = false;
    error = start_thread(e);
    if (error != 0) {
        goto fail_handles;
    }
    e->joinable = true;
    e->wakeable = true;
    e->state = POM__EXPORTER_RUNNING;
    atomic_store(&e->accepting, true);
    /* Everything is looked at in the first turn, whatever bits a former thread left. */
    atomic_fetch_or_explicit(&e->signal, POM__ARMED | POM__URGENT, memory_order_acq_rel);
    (void)uv_async_send(&e->async);
    return POM_OK;

fail_handles:
    uv_close((uv_handle_t *)&e->async, NULL);
    uv_close((uv_handle_t *)&e->timer, NULL);
    uv_close((uv_handle_t *)&e->before_poll, NULL);
    (void)uv_run(&e->loop, UV_RUN_NOWAIT);
fail_loop:
    (void)uv_loop_close(&e->loop);
    return error == ENOMEM || error == UV_ENOMEM ? POM_ENOMEM : POM_EIO;
}
