/*
 * The spool's files. One process writes one folder and holds a lock on it (flock, so it ends with
 * the process, however that ends); whoever gets the lock of another folder may move its segments
 * into his own.
 *
 *     segment: entry, entry, entry ...        append only, 8 MiB
 *     entry:   head (64 bytes), body
 *     head:    0 magic "POMS"     4 state 'P' pending, 'A' acknowledged   5 format  6 gzip  7 zero
 *              8 body length      12 profiles
 *              16 created, wall clock ns         24 address hash
 *              32 key, 16 bytes                  48 crc32 of the head but state and this, and the body
 *              52 zero                           little endian, as written by the machine
 *
 * An entry is acknowledged by overwriting its state byte, so there is no second file that could
 * disagree with the first; after a crash at worst one entry is sent twice, with the same key.
 *
 * kill -9 leaves whole writes and at most one cut one at the end; a power cut may leave worse. The
 * reader goes up to the first bad head or wrong crc, and puts the segment aside there for people to
 * look at, as NUMBER.damaged beside the folders; of an address the last four stay. What is lost with
 * it is counted by the heads that can still be read. Segments are synced when they are full and when the destination closes,
 * not for each entry: a sync takes longer than an outage of the kernel is likely.
 *
 * No header of a request is in here, hence no token. Files are 0600, folders 0700, and a link in
 * place of a segment is not followed.
 *
 * Runs on the loop thread, like the file destination, and for the same reasons.
 *
 * Over 400 lines: writing, reading and adopting are one format and one list of segments.
 */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* pwritev */
#endif

#include "destinations/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/clock.h"

#define HEAD_BYTES   64
#define SEGMENTS_MAX 512 /* twice the cap in full segments; adopted ones may be small */
#define PATH_BYTES   1024
#define MAGIC        0x534d4f50u /* "POMS" */

#define ASIDE      ".damaged"
#define ASIDE_KEPT 4 /* of an address: enough to see a pattern, an eighth of the cap on the disk */

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

typedef struct segment_s {
    uint32_t number;
    int64_t size;
    int64_t at;       /* everything before it is acknowledged */
    int64_t profiles; /* pending, those behind damage included */
} segment_t;

struct pom__spool_s {
    /* constant after new */
    char root[PATH_BYTES]; /* the address's folder */
    uint64_t address;
    int64_t cap;
    /* loop thread, but for new, after_fork and free */
    char run[PATH_BYTES]; /* this process's folder; empty: not open */
    int lock_fd;
    int read_fd, write_fd; /* of the first and of the last segment; -1: not open */
    uint32_t next_number;
    uint32_t count;
    segment_t segments[SEGMENTS_MAX]; /* oldest first */
    int64_t bytes, profiles;
    uint32_t taken; /* profiles of the entry that next has handed out; 0: none */
    int64_t taken_size;
    char error[256];
};

/* FNV-1a; base/hash.h promises nothing beyond a process. */
static uint64_t hash(const char *text) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (const char *c = text; *c != '\0'; c++) {
        h = (h ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
    }
    return h;
}

static pom_status_t failed(pom__spool_t *s, const char *doing, const char *path) {
    char text[96] = "";
    int error = errno;
    (void)strerror_r(error, text, sizeof text); /* a number without a text stays empty */
    (void)snprintf(s->error, sizeof s->error, "spool: cannot %s '%.100s': %s", doing, path, text);
    return POM_EIO;
}

/* False when it does not fit. */
__attribute__((format(printf, 2, 3))) static bool make_path(char out[PATH_BYTES],
                                                            const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out, PATH_BYTES, format, args);
    va_end(args);
    return n > 0 && n < PATH_BYTES;
}

static bool segment_path(const pom__spool_t *s, uint32_t number, char out[PATH_BYTES]) {
    return make_path(out, "%s/%08u.seg", s->run, number);
}

static void close_fd(int *fd) {
    if (*fd >= 0) {
        (void)close(*fd); /* written data was checked at the write */
        *fd = -1;
    }
}

/* ---- segments ---- */

static void forget_first(pom__spool_t *s) {
    s->bytes -= s->segments[0].size;
    s->profiles -= s->segments[0].profiles;
    s->count--;
    memmove(s->segments, s->segments + 1, s->count * sizeof s->segments[0]);
    close_fd(&s->read_fd);
    if (s->count == 0) {
        close_fd(&s->write_fd);
    }
    s->taken = 0;
}

static void remove_first(pom__spool_t *s) {
    char path[PATH_BYTES];
    if (segment_path(s, s->segments[0].number, path)) {
        (void)unlink(path); /* a file that stays is found by the next adopter, all acknowledged */
    }
    forget_first(s);
}

static bool add_segment(pom__spool_t *s, const segment_t *segment) {
    if (s->count == SEGMENTS_MAX) {
        return false;
    }
    s->segments[s->count++] = *segment;
    s->bytes += segment->size;
    s->profiles += segment->profiles;
    return true;
}

/* ---- what is damaged ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder that end so, sorted; owned, `*count` of them. */
static char **names_in(const char *folder, const char *end, uint32_t *count) {
    DIR *directory = opendir(folder);
    char **names = directory != NULL ? pom_calloc(SEGMENTS_MAX, sizeof *names) : NULL;
    *count = 0;
    struct dirent *entry;
    while (names != NULL && *count < SEGMENTS_MAX && (entry = readdir(directory)) != NULL) {
        size_t size = strlen(entry->d_name);
        size_t tail = strlen(end);
        if (entry->d_name[0] == '.' || size < tail ||
            strcmp(entry->d_name + size - tail, end) != 0 ||
            (names[*count] = pom_alloc(size + 1)) == NULL) {
            continue;
        }
        memcpy(names[(*count)++], entry->d_name, size + 1);
    }
    if (directory != NULL) {
        (void)closedir(directory);
    }
    if (names != NULL) {
        qsort(names, *count, sizeof *names, by_name);
    }
    return names;
}

static void free_names(char **names, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        pom_free(names[i]);
    }
    pom_free(names);
}

/* Moves the file to a name in the address's folder that no other has: behind the last number there.
 * Processes do this at the same time, so the name is claimed by link(), which replaces nothing. */
static void put_aside(const pom__spool_t *s, const char *from) {
    char to[PATH_BYTES];
    uint32_t count;
    char **names = names_in(s->root, ASIDE, &count);
    unsigned long number = 0;
    bool claimed = false;
    if (names != NULL && count > 0) {
        number = strtoul(names[count - 1], NULL, 10);
    }
    for (int i = 0; i < ASIDE_KEPT && !claimed; i++) {
        number++;
        if (!make_path(to, "%s/%08lu" ASIDE, s->root, number)) {
            break;
        }
        claimed = link(from, to) == 0;
        if (!claimed && errno != EEXIST) {
            claimed = rename(from, to) == 0; /* a file system without links */
            break;
        }
    }
    if (claimed) {
        (void)unlink(from); /* one that stays is read again by the next adopter */
    }
    for (uint32_t i = 0; claimed && names != NULL && i + ASIDE_KEPT <= count; i++) {
        if (make_path(to, "%s/%s", s->root, names[i])) {
            (void)unlink(to); /* counted when it was put there */
        }
    }
    free_names(names, count);
}

static void quarantine_first(pom__spool_t *s, pom__spool_lost_t *lost) {
    char path[PATH_BYTES];
    lost->segments++;
    lost->damaged += s->segments[0].profiles;
    if (segment_path(s, s->segments[0].number, path)) {
        put_aside(s, path); /* if it cannot be moved, it can perhaps be read again later */
    }
    forget_first(s);
}

/* ---- adopting ---- */

static bool plausible(const pom__spool_t *s, const head_t *head) {
    return head->magic == MAGIC && (head->state == 'P' || head->state == 'A') &&
           head->length <= POM__SPOOL_BODY_MAX && head->address == s->address && head->count > 0;
}

/* The profiles of pending entries whose heads can be read between two places, wherever they begin:
 * what is known of a stretch with damage in it. No body looks like a head of this address. */
static int64_t profiles_between(const pom__spool_t *s, int fd, int64_t at, int64_t end) {
    char window[16 << 10];
    int64_t profiles = 0;
    head_t head;
    ssize_t got;
    while (at + HEAD_BYTES <= end && (got = pread(fd, window, sizeof window, at)) >= HEAD_BYTES) {
        ssize_t i = 0;
        while (i + HEAD_BYTES <= got) {
            memcpy(&head, window + i, sizeof head);
            bool found = plausible(s, &head);
            profiles += found && head.state == 'P' ? head.count : 0;
            i += found ? HEAD_BYTES : 1;
        }
        at += i;
    }
    return profiles;
}

typedef enum measured_e { PENDING, NOTHING_PENDING, UNREADABLE } measured_t;

/* Walks the heads: what is pending. What is not whole stays in the segment, for the reader to find
 * and to put aside. */
static measured_t measure(const pom__spool_t *s, const char *path, segment_t *segment) {
    struct stat st;
    head_t head;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        measured_t why = fd < 0 && errno == ELOOP ? NOTHING_PENDING : UNREADABLE;
        close_fd(&fd);
        return why;
    }
    int64_t at = 0;
    int64_t body_at = 0; /* of the last entry */
    segment->at = segment->profiles = 0;
    segment->size = S_ISREG(st.st_mode) ? st.st_size : 0;
    while (at + HEAD_BYTES <= segment->size && pread(fd, &head, sizeof head, at) == HEAD_BYTES &&
           plausible(s, &head) && at + HEAD_BYTES + head.length <= segment->size) {
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
        segment->profiles += profiles_between(s, fd, body_at, segment->size);
    }
    close_fd(&fd);
    return segment->at < segment->size ? PENDING : NOTHING_PENDING;
}

/* The lock's descriptor; -1: somebody has it, or the folder is gone. */
static int lock_folder(const char *folder, int flags) {
    char path[PATH_BYTES];
    struct stat st;
    if (!make_path(path, "%s/lock", folder)) {
        return -1;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    /* Without links it was removed by an adopter while we opened it. */
    if (fd >= 0 && (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &st) != 0 || st.st_nlink == 0)) {
        close_fd(&fd);
    }
    return fd;
}

static void adopt_folder(pom__spool_t *s, const char *folder) {
    char from[PATH_BYTES];
    char to[PATH_BYTES];
    int fd = lock_folder(folder, 0);
    if (fd < 0) {
        return;
    }
    uint32_t count;
    char **names = names_in(folder, ".seg", &count);
    uint32_t left = count == SEGMENTS_MAX; /* there may be more */
    for (uint32_t i = 0; names != NULL && i < count; i++) {
        segment_t segment = {.number = s->next_number};
        if (!make_path(from, "%s/%s", folder, names[i]) || !segment_path(s, segment.number, to)) {
            left++;
            continue;
        }
        measured_t measured = measure(s, from, &segment);
        if (measured == NOTHING_PENDING) {
            (void)unlink(from); /* if it stays, it is no harm */
        } else if (measured == PENDING && s->count < SEGMENTS_MAX && rename(from, to) == 0) {
            s->next_number++;
            (void)add_segment(s, &segment);
        } else {
            left++;
        }
    }
    if (names != NULL && left == 0 && make_path(from, "%s/lock", folder)) {
        (void)unlink(from);
        (void)rmdir(folder); /* an empty folder that stays is no harm */
    }
    free_names(names, count);
    close_fd(&fd);
}

static void adopt(pom__spool_t *s) {
    uint32_t count;
    char folder[PATH_BYTES];
    char **names = names_in(s->root, "", &count);
    for (uint32_t i = 0; names != NULL && i < count; i++) {
        if (make_path(folder, "%s/%s", s->root, names[i]) && strcmp(folder, s->run) != 0) {
            adopt_folder(s, folder);
        }
    }
    free_names(names, count);
}

pom_status_t pom__spool_open(pom__spool_t *s, int64_t *adopted) {
    *adopted = 0;
    if (s->run[0] != '\0') {
        return POM_OK;
    }
    for (int i = 0; i < 3 && s->lock_fd < 0; i++) {
        if (!make_path(s->run, "%s/%ld-%llx", s->root, (long)getpid(),
                       (unsigned long long)pom_wall_ns())) {
            errno = ENAMETOOLONG;
            break;
        }
        if (mkdir(s->run, 0700) == 0) {
            s->lock_fd = lock_folder(s->run, O_CREAT);
        } else if (errno != EEXIST) {
            break;
        }
    }
    if (s->lock_fd < 0) {
        pom_status_t status = failed(s, "make", s->run);
        s->run[0] = '\0';
        return status;
    }
    adopt(s);
    *adopted = s->profiles;
    return POM_OK;
}

/* ---- writing ---- */

static uint32_t checksum(const head_t *head, const char *body, size_t size) {
    head_t clean = *head;
    clean.state = 0;
    clean.crc = 0;
    uLong crc = crc32(0, (const Bytef *)&clean, sizeof clean);
    return (uint32_t)crc32(crc, (const Bytef *)body, (uInt)size);
}

/* The last segment is open for writing and has room. */
static bool writable(pom__spool_t *s) {
    char path[PATH_BYTES];
    if (s->write_fd >= 0 && s->segments[s->count - 1].size >= POM__SPOOL_SEGMENT) {
        (void)fsync(s->write_fd); /* the best that can be done has been done */
        close_fd(&s->write_fd);
    }
    if (s->write_fd >= 0) {
        return true;
    }
    segment_t segment = {.number = s->next_number};
    if (s->count == SEGMENTS_MAX || !segment_path(s, segment.number, path)) {
        errno = ENOSPC;
        return false;
    }
    s->write_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->write_fd < 0) {
        return false;
    }
    s->next_number++;
    return add_segment(s, &segment);
}

pom_status_t pom__spool_put(pom__spool_t *s, const pom__spool_entry_t *entry, const char *body,
                            size_t size, pom__spool_lost_t *lost) {
    int64_t need = HEAD_BYTES + (int64_t)size;
    if (s->run[0] == '\0' || size > POM__SPOOL_BODY_MAX || need > s->cap) {
        (void)snprintf(s->error, sizeof s->error,
                       "spool: not open, or a body larger than the spool");
        return POM_EIO;
    }
    while (s->count > 0 && (s->bytes + need > s->cap || s->count == SEGMENTS_MAX)) {
        lost->evicted += s->segments[0].profiles;
        remove_first(s);
    }
    head_t head = {
        .magic = MAGIC,
        .state = 'P',
        .format = entry->format,
        .compressed = entry->compressed,
        .length = (uint32_t)size,
        .count = entry->count,
        .created_wall_ns = entry->created_wall_ns,
        .address = s->address,
        .key_hi = entry->key.hi,
        .key_lo = entry->key.lo,
    };
    head.crc = checksum(&head, body, size);
    if (!writable(s)) {
        return failed(s, "write", s->run);
    }
    segment_t *last = &s->segments[s->count - 1];
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)(uintptr_t)body, size}};
    ssize_t written = pwritev(s->write_fd, parts, 2, last->size);
    if (written != need) {
        if (written >= 0) {
            errno = ENOSPC; /* a short write to a file says no more */
        }
        pom_status_t status = failed(s, "write", s->run);
        (void)ftruncate(s->write_fd,
                        last->size); /* if not: overwritten by the next, or cut later */
        return status;
    }
    last->size += need;
    last->profiles += entry->count;
    s->bytes += need;
    s->profiles += entry->count;
    return POM_OK;
}

/* ---- reading ---- */

static void advance(pom__spool_t *s, int64_t size, uint32_t profiles) {
    segment_t *first = &s->segments[0];
    first->at += size;
    first->profiles -= profiles;
    s->profiles -= profiles;
}

static bool open_first(pom__spool_t *s) {
    char path[PATH_BYTES];
    if (s->read_fd < 0 && segment_path(s, s->segments[0].number, path)) {
        s->read_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    }
    return s->read_fd >= 0;
}

typedef enum found_e { FOUND, SKIPPED, DAMAGED, NOT_NOW } found_t;

static found_t read_entry(pom__spool_t *s, head_t *head, pom_buf_t *body) {
    segment_t *first = &s->segments[0];
    if (!open_first(s) && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
        return NOT_NOW;
    }
    if (s->read_fd < 0 || pread(s->read_fd, head, sizeof *head, first->at) != HEAD_BYTES ||
        !plausible(s, head) || first->at + HEAD_BYTES + head->length > first->size) {
        return DAMAGED;
    }
    if (head->state == 'A') {
        advance(s, HEAD_BYTES + (int64_t)head->length, 0);
        return SKIPPED;
    }
    pom_buf_reset(body);
    char *data = pom_buf_reserve(body, head->length > 0 ? head->length : 1);
    if (data == NULL) {
        return NOT_NOW;
    }
    if (pread(s->read_fd, data, head->length, first->at + HEAD_BYTES) != (ssize_t)head->length ||
        checksum(head, data, head->length) != head->crc) {
        return DAMAGED;
    }
    body->len = head->length;
    return FOUND;
}

bool pom__spool_next(pom__spool_t *s, pom__spool_entry_t *entry, pom_buf_t *body,
                     pom__spool_lost_t *lost) {
    head_t head;
    s->taken = 0;
    while (s->count > 0) {
        if (s->segments[0].at >= s->segments[0].size) {
            remove_first(s);
            continue;
        }
        found_t found = read_entry(s, &head, body);
        if (found == NOT_NOW) {
            return false;
        }
        if (found == DAMAGED) {
            quarantine_first(s, lost);
        } else if (found == FOUND) {
            s->taken = head.count;
            s->taken_size = HEAD_BYTES + (int64_t)head.length;
            /* A clock that was set back makes entries young again: they are sent then. */
            if (pom_wall_ns() - head.created_wall_ns > POM__SPOOL_AGE_NS) {
                lost->too_old += head.count;
                (void)pom__spool_ack(s); /* just taken */
                continue;
            }
            *entry = (pom__spool_entry_t){.key = {head.key_hi, head.key_lo},
                                          .created_wall_ns = head.created_wall_ns,
                                          .count = head.count,
                                          .format = head.format,
                                          .compressed = head.compressed != 0};
            return true;
        }
    }
    return false;
}

bool pom__spool_ack(pom__spool_t *s) {
    if (s->taken == 0) {
        return false;
    }
    /* Fails on a disk that has gone read-only: the entry may be sent again after a restart. */
    (void)pwrite(s->read_fd, "A", 1, s->segments[0].at + (int64_t)offsetof(head_t, state));
    advance(s, s->taken_size, s->taken);
    s->taken = 0;
    if (s->segments[0].at >= s->segments[0].size) {
        remove_first(s);
    }
    return true;
}

/* ---- the rest ---- */

int64_t pom__spool_profiles(const pom__spool_t *s) {
    return s->profiles;
}

int64_t pom__spool_bytes(const pom__spool_t *s) {
    return s->bytes;
}

const char *pom__spool_error(const pom__spool_t *s) {
    return s->error;
}

void pom__spool_sync(pom__spool_t *s) {
    if (s->write_fd >= 0) {
        (void)fsync(s->write_fd); /* nobody is left to tell */
    }
}

static void forget(pom__spool_t *s) {
    close_fd(&s->read_fd);
    close_fd(&s->write_fd);
    close_fd(&s->lock_fd);
    s->run[0] = '\0';
    s->next_number = 1;
    s->count = s->taken = 0;
    s->bytes = s->profiles = 0;
}

void pom__spool_after_fork(pom__spool_t *s) {
    forget(s); /* closing our copy of the lock does not release the parent's */
}

pom_status_t pom__spool_new(const char *directory, const char *address, int64_t cap,
                            pom__spool_t **out, char *error, size_t error_size) {
    char absolute[PATH_BYTES / 2];
    pom__spool_t *s = pom_calloc(1, sizeof *s);
    if (s == NULL) {
        return POM_ENOMEM;
    }
    s->read_fd = s->write_fd = s->lock_fd = -1;
    forget(s);
    s->cap = cap;
    s->address = hash(address);
    pom_status_t status = POM_OK;
    if ((mkdir(directory, 0700) != 0 && errno != EEXIST) || access(directory, W_OK | X_OK) != 0) {
        status = failed(s, "use", directory);
    } else if (directory[0] != '/' && getcwd(absolute, sizeof absolute) == NULL) {
        status = failed(s, "find", directory);
    } else if (!make_path(s->root, "%s%s%s/%016llx", directory[0] == '/' ? "" : absolute,
                          directory[0] == '/' ? "" : "/", directory,
                          (unsigned long long)s->address) ||
               strlen(s->root) > PATH_BYTES - 128) {
        errno = ENAMETOOLONG;
        status = failed(s, "use", directory);
    } else if (mkdir(s->root, 0700) != 0 && errno != EEXIST) {
        status = failed(s, "make", s->root);
    }
    if (status != POM_OK) {
        (void)snprintf(error, error_size, "%s", s->error);
        pom__spool_free(s);
        return status;
    }
    *out = s;
    return POM_OK;
}

void pom__spool_free(pom__spool_t *s) {
    char path[PATH_BYTES];
    if (s == NULL) {
        return;
    }
    pom__spool_sync(s);
    while (s->count > 0 && s->segments[0].at >= s->segments[0].size) {
        remove_first(s);
    }
    if (s->run[0] != '\0' && s->count == 0) {
        if (make_path(path, "%s/lock", s->run)) {
            (void)unlink(path);
        }
        (void)rmdir(s->run); /* the next adopter tries again */
    }
    forget(s);
    pom_free(s);
}
