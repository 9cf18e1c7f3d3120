/*
 * The spool: encoded batches on disk while a server is away.
 *
 * Used by destinations/http.c, one a destination.
 *
 *     pom__spool_new("/var/spool/shop", "https://collector/api", cap, &spool, error, size);
 *     pom__spool_open(spool, &adopted);             takes over what dead processes left
 *     pom__spool_put(spool, &entry, body, size, &evicted);
 *     while (pom__spool_next(spool, &entry, &body, &lost)) { ...; pom__spool_ack(spool); }
 *     pom__spool_free(spool);                       what is left stays on disk
 *
 *     DIR/<hash of the address>/<pid>-<start>/lock, 00000001.seg, 00000002.seg ...
 */
#ifndef POM_DESTINATIONS_SPOOL_H
#define POM_DESTINATIONS_SPOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/id.h"
#include "base/status.h"

#define POM__SPOOL_CAP      ((int64_t)256 << 20) /* an hour of a busy process, small on a disk */
#define POM__SPOOL_SEGMENT  ((int64_t)8 << 20)   /* what is evicted or quarantined at once */
#define POM__SPOOL_AGE_NS   (INT64_C(24) * 3600 * 1000000000) /* of no interest later */
#define POM__SPOOL_BODY_MAX ((uint32_t)64 << 20)

typedef struct pom__spool_s pom__spool_t;

typedef struct pom__spool_entry_s {
    pom_id_t key; /* Idempotency-Key: repetitions carry the same */
    int64_t created_wall_ns;
    uint32_t count; /* profiles */
    uint8_t format; /* pom_http_format_t */
    bool compressed;
} pom__spool_entry_t;

/* Profiles that were spooled and are lost. */
typedef struct pom__spool_lost_s {
    int64_t evicted; /* the cap was reached: the oldest segment goes */
    int64_t too_old;
    int64_t damaged;
    int64_t segments; /* put aside as damaged; what nobody can count is lost with them as well */
} pom__spool_lost_t;

/* Makes the folders. cap: bytes on disk, all segments of this process. POM_ENOMEM; POM_EIO with
 * the reason in error. [any] */
POM_MUST_USE pom_status_t pom__spool_new(const char *directory, const char *address, int64_t cap,
                                         pom__spool_t **out, char *error, size_t error_size);

/* Gets a folder of its own and takes over the segments of processes that have ended; *adopted
 * profiles, once. Nothing happens when it is open. POM_EIO: pom__spool_error(). [loop] */
POM_MUST_USE pom_status_t pom__spool_open(pom__spool_t *s, int64_t *adopted);

/* POM_EIO: the disk is full or may not be written; nothing was added. [loop] */
POM_MUST_USE pom_status_t pom__spool_put(pom__spool_t *s, const pom__spool_entry_t *entry,
                                         const char *body, size_t size, pom__spool_lost_t *lost);

/* The oldest entry that is whole and young enough; the same until it is acknowledged. False: there
 * is none, or no memory or descriptor for it now. lost is added to. [loop] */
bool pom__spool_next(pom__spool_t *s, pom__spool_entry_t *entry, pom_buf_t *body,
                     pom__spool_lost_t *lost);

/* The entry of the last next is done with, whatever became of it. False: it has been evicted
 * meanwhile, and is counted as that. [loop] */
bool pom__spool_ack(pom__spool_t *s);

int64_t pom__spool_profiles(const pom__spool_t *s); /* pending [loop] */
int64_t pom__spool_bytes(const pom__spool_t *s);    /* on disk [loop] */
const char *pom__spool_error(const pom__spool_t *s);

/* To the disk, and folders that are empty go. It stays open. [loop] */
void pom__spool_sync(pom__spool_t *s);

/* In a forked child: the parent's segments are the parent's. [app] */
void pom__spool_after_fork(pom__spool_t *s);

void pom__spool_free(pom__spool_t *s); /* [any], accepts NULL */

#endif
