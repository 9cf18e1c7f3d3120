/*
 * A handoff: profiles go to a consumer on another thread, one by one.
 *
 * Used by bindings/ext: one Python thread serves all callables. Each callable is a destination
 * of its own (own queue, own counters); all of them feed one handoff.
 *
 *     pom_handoff_new(&handoff);
 *     pom_handoff_destination_new(handoff, "print", callable, release, &d);   for each callable
 *     while (pom_handoff_take(handoff, deadline_ns, &item) == POM_OK)         consumer's thread
 *         pom_handoff_done(handoff, &item, call_it(&item));
 *     pom_handoff_unref(handoff);
 *
 * At most one batch of each destination is out here; the rest waits in the exporter's queue
 * within its budget.
 */
#ifndef POM_DESTINATIONS_HANDOFF_H
#define POM_DESTINATIONS_HANDOFF_H

#include "destinations/destination.h"

typedef struct pom_handoff_s pom_handoff_t;

/* One profile for one destination; valid until pom_handoff_done(). */
typedef struct pom_handoff_item_s {
    pom_destination_t *destination; /* owned reference */
    void *context;                  /* the destination's, borrowed */
    pom_profile_t *profile;         /* owned reference */
    uint64_t generation;            /* of the destination's opening; for pom_handoff_done() */
} pom_handoff_item_t;

/* Returns owned, open. POM_ENOMEM. [any] */
POM_MUST_USE pom_status_t pom_handoff_new(pom_handoff_t **out);
pom_handoff_t *pom_handoff_ref(pom_handoff_t *handoff); /* [any] */
void pom_handoff_unref(pom_handoff_t *handoff);         /* [any], accepts NULL */

/* Returns owned in *out; it holds a reference to the handoff. `context` comes with each item;
 * `release` (may be NULL) is called once with it when the destination is freed, on the thread
 * that drops the last reference, which may be the loop's: it must not need the GIL there, so it
 * posts or queues what does. POM_ENOMEM: context stays the caller's. [any] */
POM_MUST_USE pom_status_t pom_handoff_destination_new(pom_handoff_t *handoff, const char *name,
                                                      void *context, void (*release)(void *context),
                                                      pom_destination_t **out);

/* Waits for the next item, oldest first. POM_ETIMEDOUT: none came; POM_ECLOSED:
 * pom_handoff_stop() was called, whatever is queued. Items of a removed destination are counted
 * as removed and never handed out. [delivery, GIL released; one consumer] */
POM_MUST_USE pom_status_t pom_handoff_take(pom_handoff_t *handoff, int64_t deadline_ns,
                                           pom_handoff_item_t *out);

/* The consumer is through with the item: counted as sent, or as error with the text as
 * last_error. Releases both references. [delivery] */
void pom_handoff_done(pom_handoff_t *handoff, pom_handoff_item_t *item, const char *error);

/* Makes take return POM_ECLOSED, now and later, until pom_handoff_start(). Items stay. [any] */
void pom_handoff_stop(pom_handoff_t *handoff);
void pom_handoff_start(pom_handoff_t *handoff);

/* In a forked child: forgets items, locks and the consumer; open again. Destinations do this too
 * when the exporter tells them, so it matters only while none is added. [app, the child's only
 * thread] */
void pom_handoff_after_fork_child(pom_handoff_t *handoff);

#endif
