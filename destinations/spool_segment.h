/*
 * A segment of the spool: entries in a file, appended, read in their order, acknowledged one by
 * one.
 *
 * Used by destinations/spool.c, which opens the files, names them and keeps the list of them.
 *
 *     pom__segment_append(&segment, write_fd, address, &entry, body, size);
 *     while (pom__segment_peek(&segment, read_fd, address, &entry, body) == POM__ENTRY_FOUND) {
 *         ...
 *         pom__segment_ack(&segment, read_fd, entry.count, body->len);
 *     }
 *
 * `address` is the hash of the server's: an entry for another is not taken for one.
 */
#ifndef POM_DESTINATIONS_SPOOL_SEGMENT_H
#define POM_DESTINATIONS_SPOOL_SEGMENT_H

#include "destinations/spool.h"

#define POM__SEGMENT_HEAD 64 /* bytes before each body */

typedef struct pom__segment_s {
    uint32_t number; /* its name */
    int64_t size;
    int64_t at;       /* everything before it is acknowledged */
    int64_t profiles; /* pending, those behind damage included */
} pom__segment_t;

typedef enum pom__measured_e {
    POM__SEGMENT_PENDING,
    POM__SEGMENT_NOTHING_PENDING,
    POM__SEGMENT_UNREADABLE /* now; size, at and profiles say nothing */
} pom__measured_t;

typedef enum pom__found_e {
    POM__ENTRY_FOUND,
    POM__ENTRY_NONE,    /* all is acknowledged */
    POM__ENTRY_DAMAGED, /* what is at `at` is no whole entry */
    POM__ENTRY_NOT_NOW  /* no memory for the body */
} pom__found_t;

/* What is pending in a file that another process has left, whole or not. [loop] */
pom__measured_t pom__segment_measure(pom__segment_t *segment, const char *path, uint64_t address);

/* POM_EIO with errno: nothing was added. [loop] */
POM_MUST_USE pom_status_t pom__segment_append(pom__segment_t *segment, int fd, uint64_t address,
                                              const pom__spool_entry_t *entry, const char *body,
                                              size_t size);

/* The first entry that is not acknowledged. [loop] */
pom__found_t pom__segment_peek(pom__segment_t *segment, int fd, uint64_t address,
                               pom__spool_entry_t *entry, pom_buf_t *body);

/* Of the entry that peek has found, with so many profiles and bytes of body. [loop] */
void pom__segment_ack(pom__segment_t *segment, int fd, uint32_t count, size_t body_size);

#endif
