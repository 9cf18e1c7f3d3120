/*
 * What a fork leaves of an exporter.
 *
 * The child has the destinations, with counters at zero, and none of the work: the queued
 * profiles are the parent's to send, and its loop thread does not exist here. Destinations that
 * were removed begin anew as well, since they may be added again. The lock is held across the
 * fork, so members and backlogs are whole and can be freed. What the loop thread had in hand
 * (batches out, a destination's own buffers) may be half done: it is forgotten without a look, at
 * the price of that memory. The child's own thread starts with its first profile, since
 * most forked processes end in exec or never profile.
 *
 * Runs in the forking thread. Reference counts of profiles are atomic, so they are right in both
 * processes.
 */
#include "destinations/exporter_parts.h"

void pom_exporter_before_fork(pom_exporter_t *e) {
    /* Held across the fork, so that the child finds members and backlogs whole. */
    (void)pthread_mutex_lock(&e->exporter_lock); /* cannot fail: plain, and never taken twice */
    pom_destinations_before_fork();
}

void pom_exporter_after_fork_parent(pom_exporter_t *e) {
    pom_destinations_after_fork_parent();
    (void)pthread_mutex_unlock(&e->exporter_lock);
}

void pom_exporter_after_fork_child(pom_exporter_t *e) {
    pom__exporter_init_locks(e); /* the parent's waiters are not in this process */
    pom_destinations_after_fork_child();
    if (e->state == POM__EXPORTER_RUNNING || e->state == POM__EXPORTER_STOPPING) {
        pom__loop_guard_leave(&e->guard);
    }
    e->state = atomic_load(&e->accepting) ? POM__EXPORTER_DORMANT : POM__EXPORTER_STOPPED;
    e->joinable = false;
    e->wakeable = e->pumping = e->again = e->worked = false;
    e->next_try_ns = 0;
    atomic_store(&e->signal, 0);
    atomic_store(&e->waiters, 0);
    atomic_store(&e->tid, 0);
    atomic_store(&e->ended_cpu_ns, 0);
    atomic_store(&e->put, 0);
    atomic_store(&e->unwanted, 0);
    atomic_store(&e->wakeups, 0);

    /* The queued profiles are the parent's to send. */
    pom_link_t *next = NULL;
    for (pom_link_t *l = pom_queue_take_all(&e->intake); l != NULL; l = next) {
        next = l->next;
        pom_profile_unref(POM_CONTAINER(l, pom_profile_t, link));
    }
    atomic_store(&e->intake_count, 0);
    atomic_store(&e->intake_bytes, 0);
    atomic_store(&e->refused, 0);

    uint32_t kept = 0;
    for (uint32_t i = 0; i < e->member_count; i++) {
        pom__member_t *m = e->members[i];
        pom__backlog_fini(&m->backlog);
        /* Batches that were out are forgotten, not freed: the loop thread was using them. */
        m->phase = POM__MEMBER_NEW;
        m->closed = m->given_up = false;
        m->batches = 0;
        m->batch_bytes = 0;
        m->delivered_ns = 0;
        m->hurried = false;
        m->empty_round = 0;
        if (m->leaving) {
            pom__member_free(m);
        } else {
            e->members[kept++] = m;
        }
    }
    e->member_count = kept;
}
