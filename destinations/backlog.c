/*
 * The ring behind a destination's queue.
 *
 * Pointers, not links in the profiles: one profile waits for several destinations at once. The
 * ring is given back when it runs empty after a burst, so that an hour of calm does not keep the
 * memory of a bad minute; small rings stay, as steady traffic would otherwise allocate once a
 * second.
 *
 * Any thread, under the exporter's lock. It neither counts nor decides what to drop.
 */
#include "destinations/backlog.h"

#include "base/alloc.h"

#define ROOM_FIRST 64U   /* 512 bytes: a quiet service's flush interval */
#define ROOM_KEPT  1024U /* 8 KiB kept while empty: a busy one's */

void pom__backlog_init(pom__backlog_t *b) {
    *b = (pom__backlog_t){0};
}

static pom_status_t grow(pom__backlog_t *b) {
    if (b->room > UINT32_MAX / 2) {
        return POM_ENOMEM;
    }
    uint32_t room = b->room == 0 ? ROOM_FIRST : b->room * 2;
    pom_profile_t **slots = pom_alloc(room * sizeof(pom_profile_t *));
    if (slots == NULL) {
        return POM_ENOMEM;
    }
    for (uint32_t i = 0; i < b->count; i++) {
        slots[i] = b->slots[(b->first + i) & (b->room - 1)];
    }
    pom_free(b->slots);
    b->slots = slots;
    b->room = room;
    b->first = 0;
    return POM_OK;
}

pom_status_t pom__backlog_put(pom__backlog_t *b, pom_profile_t *profile) {
    if (b->count == b->room) {
        pom_status_t status = grow(b);
        if (status != POM_OK) {
            return status;
        }
    }
    b->slots[(b->first + b->count) & (b->room - 1)] = profile;
    b->count++;
    b->bytes += pom_profile_bytes(profile);
    return POM_OK;
}

pom_profile_t *pom__backlog_take(pom__backlog_t *b) {
    if (b->count == 0) {
        return NULL;
    }
    pom_profile_t *profile = b->slots[b->first];
    b->first = (b->first + 1) & (b->room - 1);
    b->count--;
    b->bytes -= pom_profile_bytes(profile);
    if (b->count == 0 && b->room > ROOM_KEPT) {
        pom_free(b->slots);
        pom__backlog_init(b);
    }
    return profile;
}

uint32_t pom__backlog_measure(const pom__backlog_t *b, size_t max_bytes, uint32_t max_count) {
    size_t bytes = 0;
    uint32_t n = 0;
    while (n < b->count && n < max_count && bytes < max_bytes) {
        bytes += pom_profile_bytes(b->slots[(b->first + n) & (b->room - 1)]);
        n++;
    }
    return n;
}

void pom__backlog_fini(pom__backlog_t *b) {
    for (pom_profile_t *p = pom__backlog_take(b); p != NULL; p = pom__backlog_take(b)) {
        pom_profile_unref(p);
    }
    pom_free(b->slots);
    pom__backlog_init(b);
}
