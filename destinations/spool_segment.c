/*
 * The format of the spool's segments, and what can still be known of one that is damaged.
 *
 *     segment: entry, entry, entry ...        append only, 8 MiB
 *     entry:   head (64 bytes), body
 *     head:    0 magic "POMS"     4 state 'P' pending, 'A' acknowledged   5 format  6 gzip  7 zero
 *              8 body length      12 profiles
 *              16 created, wall clock ns         24 address hash
 *              32 key, 16 bytes                  48 crc32: head without state and this; body
 *              52 zero                           little endian, as written by the machine
 *
 * An entry is acknowledged by overwriting its state byte, so there is no second file that could
 * disagree with the first; after a crash at worst one entry is sent twice, with the same key.
 *
 * kill -9 leaves whole writes and at most one cut one at the end; a power cut may leave worse. The
 * reader goes up to the first bad head or wrong crc; what is lost from there on is counted by the
 * heads that can still be read.
 *
 * No header of a request is in here, hence no token. Runs on the loop thread.
 */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* pwritev */
#endif

#include "destinations/spool_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <zlib.h>

#define HEAD_BYTES POM__SEGMENT_HEAD
#define MAGIC      0x534d4f50u /* "POMS" */

/* No segment is longer, its last entry begins below the mark. What lies behind is not ours, and may
 * be a hole of any size. */
#define SEGMENT_MOST (POM__SPOOL_SEGMENT + HEAD_BYTES + (int64_t)POM__SPOOL_BODY_MAX)

typedef struct head_s {
    uint32_t magic;
    uint8_t state, format, compressed, zero;
    uint32_t length, count;
    int64_t created_wall_ns;
    uint64_t address;
    uint64_t key_hi, key_lo;
    uint32_t crc, zeros[3];
} head_t;

_Static_assert(sizeof(head_t) == HEAD_BYTES, "the layout above");

static bool plausible(const head_t *head, uint64_t address) {
    return head->magic == MAGIC && (head->state == 'P' || head->state == 'A') &&
           head->length <= POM__SPOOL_BODY_MAX && head->address == address && head->count > 0;
}

/* The profiles of pending entries whose heads can be read between two places, wherever they begin:
 * what is known of a stretch with damage in it. No body looks like a head of this address. */
static int64_t profiles_between(int fd, int64_t at, int64_t end, uint64_t address) {
    char window[16 << 10];
    int64_t profiles = 0;
    head_t head;
    ssize_t got;
    end = end < SEGMENT_MOST ? end : SEGMENT_MOST;
    while (at + HEAD_BYTES <= end && (got = pread(fd, window, sizeof window, at)) >= HEAD_BYTES) {
        ssize_t i = 0;
        while (i + HEAD_BYTES <= got) {
            const char *next = memchr(window + i, 'P', (size_t)(got - HEAD_BYTES + 1 - i));
            if (next == NULL) {
                i = got - HEAD_BYTES + 1;
                break;
            }
            i = next - window;
            memcpy(&head, next, sizeof head);
            bool found = plausible(&head, address);
            profiles += found && head.state == 'P' ? head.count : 0;
            i += found ? HEAD_BYTES : 1;
        }
        at += i;
    }
    return profiles;
}

/* Walks the heads. What is not whole stays in the segment, for the reader to find. */
pom__measured_t pom__segment_measure(pom__segment_t *segment, const char *path, uint64_t address) {
    struct stat st;
    head_t head;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        pom__measured_t why =
            fd < 0 && errno == ELOOP ? POM__SEGMENT_NOTHING_PENDING : POM__SEGMENT_UNREADABLE;
        if (fd >= 0) {
            (void)close(fd); /* read only */
        }
        return why;
    }
    int64_t at = 0;
    int64_t body_at = 0; /* of the last entry */
    segment->at = segment->profiles = 0;
    segment->size = S_ISREG(st.st_mode) ? st.st_size : 0;
    while (at + HEAD_BYTES <= segment->size && pread(fd, &head, sizeof head, at) == HEAD_BYTES &&
           plausible(&head, address) && at + HEAD_BYTES + head.length <= segment->size) {
        body_at = at + HEAD_BYTES;
        at = body_at + head.length;
        if (head.state == 'P') {
            segment->profiles += head.count;
        } else if (segment->profiles == 0) {
            segment->at = at;
        }
    }
    if (at < segment->size) {
        /* From that body on: its length may be the damage, and have led over whole entries. */
        segment->profiles += profiles_between(fd, body_at, segment->size, address);
    }
    (void)close(fd); /* read only */
    return segment->at < segment->size ? POM__SEGMENT_PENDING : POM__SEGMENT_NOTHING_PENDING;
}

static uint32_t checksum(const head_t *head, const char *body, size_t size) {
    head_t clean = *head;
    clean.state = 0;
    clean.crc = 0;
    uLong crc = crc32(0, (const Bytef *)&clean, sizeof clean);
    return (uint32_t)crc32(crc, (const Bytef *)body, (uInt)size);
}

pom_status_t pom__segment_append(pom__segment_t *segment, int fd, uint64_t address,
                                 const pom__spool_entry_t *entry, const char *body, size_t size) {
    head_t head = {
        .magic = MAGIC,
        .state = 'P',
        .format = entry->format,
        .compressed = entry->compressed,
        .length = (uint32_t)size,
        .count = entry->count,
        .created_wall_ns = entry->created_wall_ns,
        .address = address,
        .key_hi = entry->key.hi,
        .key_lo = entry->key.lo,
    };
    head.crc = checksum(&head, body, size);
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)(uintptr_t)body, size}};
    ssize_t written = pwritev(fd, parts, 2, segment->size);
    if (written != (ssize_t)(HEAD_BYTES + size)) {
        int error = written < 0 ? errno : ENOSPC; /* a short write to a file says no more */
        (void)ftruncate(fd, segment->size); /* if not: overwritten by the next, or cut later */
        errno = error;
        return POM_EIO;
    }
    segment->size += written;
    segment->profiles += entry->count;
    return POM_OK;
}

pom__found_t pom__segment_peek(pom__segment_t *segment, int fd, uint64_t address,
                               pom__spool_entry_t *entry, pom_buf_t *body) {
    head_t head;
    while (segment->at < segment->size) {
        int64_t body_at = segment->at + HEAD_BYTES;
        if (pread(fd, &head, sizeof head, segment->at) != HEAD_BYTES ||
            !plausible(&head, address) || body_at + head.length > segment->size) {
            return POM__ENTRY_DAMAGED;
        }
        if (head.state == 'A') {
            segment->at = body_at + head.length;
            continue;
        }
        pom_buf_reset(body);
        char *data = pom_buf_reserve(body, head.length > 0 ? head.length : 1);
        if (data == NULL) {
            return POM__ENTRY_NOT_NOW;
        }
        if (pread(fd, data, head.length, body_at) != (ssize_t)head.length ||
            checksum(&head, data, head.length) != head.crc) {
            return POM__ENTRY_DAMAGED;
        }
        body->len = head.length;
        *entry = (pom__spool_entry_t){.key = {head.key_hi, head.key_lo},
                                      .created_wall_ns = head.created_wall_ns,
                                      .count = head.count,
                                      .format = head.format,
                                      .compressed = head.compressed != 0};
        return POM__ENTRY_FOUND;
    }
    return POM__ENTRY_NONE;
}

void pom__segment_ack(pom__segment_t *segment, int fd, uint32_t count, size_t body_size) {
    /* Fails on a disk that has gone read-only: the entry may be sent again after a restart. */
    (void)pwrite(fd, "A", 1, segment->at + (int64_t)offsetof(head_t, state));
    segment->at += HEAD_BYTES + (int64_t)body_size;
    segment->profiles -= count;
}
