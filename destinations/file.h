/*
 * The file destination: JSON lines, or batches of the wire form, appended to a path.
 *
 * Made by the bindings for file_destination(path) and no_flush_destination(path), used through
 * the exporter only.
 *
 *     pom_file_options_t options = pom_file_options_default();
 *     status = pom_file_new("profiles.jsonl", &options, &destination, error, sizeof error);
 *     pom_exporter_add(exporter, destination);
 *     pom_destination_unref(destination);
 */
#ifndef POM_DESTINATIONS_FILE_H
#define POM_DESTINATIONS_FILE_H

#include "destinations/destination.h"

/* What flush=false holds back at most, as stdio does with bigger buffers. */
#define POM_FILE_BUFFER ((size_t)64 << 10)

typedef enum pom_file_format_e {
    POM_FILE_JSON,   /* one record a line: docs/record.md */
    POM_FILE_MSGPACK /* batches: docs/wire-format.md */
} pom_file_format_t;

typedef struct pom_file_options_s {
    bool append; /* false: what is there is overwritten, once, at creation */
    bool flush;  /* true: each batch is written when it comes; false: 64 KiB at a time */
    pom_file_format_t format;
    /* Rotation, of regular files: before a write that finds the file so large or so old. */
    int64_t rotate_bytes; /* 0: at no size */
    int64_t rotate_ns;    /* since this process opened the file; 0: at no age */
    uint32_t keep;        /* rotated files that stay, 5 */
} pom_file_options_t;

pom_file_options_t pom_file_options_default(void); /* append false, flush true, JSON, no rotation */

/* Opens the path on the caller's thread, so that a wrong path fails here and now. Returns owned in
 * *out. POM_EIO with the reason in words in error (may be NULL) and in errno, POM_ENOMEM. A
 * relative path is made absolute: later chdir does not matter. A FIFO without a reader is an error,
 * not a wait; so is anything but a regular file that is to be rotated. [any] */
POM_MUST_USE pom_status_t pom_file_new(const char *path, const pom_file_options_t *options,
                                       pom_destination_t **out, char *error, size_t error_size);

#endif
