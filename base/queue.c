/*
 * The consumer's side of the queue; the producers' side is inline in queue.h.
 *
 * The stack holds the newest first, and the reversal makes the order of pushes out of it: the order
 * in which the compare-and-swaps succeeded, hence each producer's own order. The reversal touches
 * every link once, on the consumer, where a wait costs nobody. One consumer at a time.
 */
#include "base/queue.h"

pom_link_t *pom_queue_take_all(pom_queue_t *queue) {
    /* Most turns of a loop find nothing: a load keeps the line shared where an exchange would take
     * it from the producers. A push missed here is found at the next turn. */
    if (pom_queue_is_empty(queue)) {
        return NULL;
    }
    /* Pairs with the release in pom_queue_push: acquire suffices, as only the things linked here
     * are read, and later pushes extend the release sequence of earlier ones (they are
     * read-modify-write), so one acquire covers the whole list. */
    pom_link_t *newest = atomic_exchange_explicit(&queue->head, NULL, memory_order_acquire);
    pom_link_t *oldest = NULL;
    while (newest != NULL) {
        pom_link_t *older = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = older;
    }
    return oldest;
}
