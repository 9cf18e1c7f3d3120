/*
 * A queue with many producers and one consumer, intrusive: the node sits in the thing that is
 * queued.
 *
 * Used for events (app threads to sampler), profiles (sampler to loop) and pools (sampler to app).
 * Producers push with one compare-and-swap and never wait; the consumer takes everything at once
 * and gets it oldest first. A Treiber stack whose consumer reverses the list: popping all at once
 * has no ABA problem, since only pushes compare, and a push whose head was taken and pushed again
 * in between links to what is the head.
 *
 *     struct event { pom_link_t link; ... };
 *     pom_queue_push(&q, &event->link);                       [any]
 *     for (pom_link_t *l = pom_queue_take_all(&q); l; l = next) ...   one consumer
 */
#ifndef POM_BASE_QUEUE_H
#define POM_BASE_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct pom_link_s {
    struct pom_link_s *next;
} pom_link_t;

typedef struct pom_queue_s {
    _Atomic(pom_link_t *) head; /* newest first */
} pom_queue_t;

#define POM_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void pom_queue_init(pom_queue_t *queue) {
    atomic_init(&queue->head, NULL);
}

/* True when the queue was empty before: the one push of a burst that should wake the consumer. The
 * release pairs with the acquire in pom_queue_take_all: the consumer sees what was written
 * before. */
static inline bool pom_queue_push(pom_queue_t *queue, pom_link_t *link) {
    pom_link_t *old = atomic_load_explicit(&queue->head, memory_order_relaxed);
    do {
        link->next = old;
    } while (!atomic_compare_exchange_weak_explicit(&queue->head, &old, link, memory_order_release,
                                                    memory_order_relaxed));
    return old == NULL;
}

/* A hint: true may be stale at once, false means that a push has happened. */
static inline bool pom_queue_is_empty(const pom_queue_t *queue) {
    return atomic_load_explicit(&queue->head, memory_order_relaxed) == NULL;
}

/* Everything queued, oldest first, or NULL. */
pom_link_t *pom_queue_take_all(pom_queue_t *queue);

/* Everything queued, newest first, or NULL: for pools, where order is of no interest. */
static inline pom_link_t *pom_queue_take_all_unordered(pom_queue_t *queue) {
    return atomic_exchange_explicit(&queue->head, NULL, memory_order_acquire);
}

#endif
