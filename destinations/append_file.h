/*
 * A path that is appended to: its descriptor, and what becomes of it while processes fork, rotate
 * and close what they do not know.
 *
 * Used by destinations/file.c, one a destination.
 *
 *     error = pom__append_file_open(&file, "profiles.jsonl", &options, &destination);
 *     error = pom__append_file_write(&file, lines, size, &written);   as often as there are some
 *     pom__append_file_close(&file);
 */
#ifndef POM_DESTINATIONS_APPEND_FILE_H
#define POM_DESTINATIONS_APPEND_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "destinations/file.h"

typedef struct pom__append_file_s {
    /* constant after open */
    pom_destination_t *owner;        /* borrowed; its last_error tells of rotations that fail */
    char *path;                      /* absolute */
    bool is_text;                    /* of lines: one that was cut is ended before the next */
    mode_t type;                     /* S_IFREG, S_IFIFO ... */
    int64_t rotate_bytes, rotate_ns; /* 0: not */
    uint32_t keep;
    /* loop thread only, but for open, after_fork and close */
    int fd;
    dev_t dev; /* what fd was when it was opened */
    ino_t ino;
    mode_t mode;            /* rights of the file that was opened last, for the next one */
    int64_t opened_ns;      /* this file */
    int64_t next_rotate_ns; /* after a failure: not before */
    int64_t rotate_failures;
    int64_t end; /* the file's size, where nobody else has written since */
    bool torn;   /* it ends inside a line */
    bool paused; /* the last write met a full pipe: what it had begun can go on */
} pom__append_file_t;

/* On the caller's thread, here and now; pom_file_new() says what is refused. 0 or errno, with
 * nothing to close then. [any] */
POM_MUST_USE int pom__append_file_open(pom__append_file_t *f, const char *path,
                                       const pom_file_options_t *options, pom_destination_t *owner);

/* Appends whole lines (or batches), in one call of the system where it takes them in one. 0, or
 * errno with *written < size: so many bytes of the data are in the file; EAGAIN of a full pipe.
 * Lines that did not go whole are to be given again from their start. begun: so much of the first
 * one went before EAGAIN, 0 for a new one; it goes on there if it can, else it is written again,
 * whole. [loop] */
POM_MUST_USE int pom__append_file_write(pom__append_file_t *f, const char *data, size_t size,
                                        size_t begun, size_t *written);

/* In a forked child: what the parent has not finished is the parent's to finish. [app] */
void pom__append_file_after_fork(pom__append_file_t *f);

void pom__append_file_close(pom__append_file_t *f); /* [any] */

#endif
