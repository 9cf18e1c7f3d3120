/*
 * The spool's files. One process writes one folder and holds a lock on it (flock, so it ends with
 * the process, however that ends); whoever gets the lock of another folder may move its segments
 * into his own.
 *
 * A segment with damage in it (spool_segment.c) is put aside for people to look at, as
 * NUMBER.damaged beside the folders; of an address the last four stay. Segments are synced when
 * they are full and when the destination closes, not for each entry: a sync takes longer than an
 * outage of the kernel is likely.
 *
 * Files are 0600, folders 0700, and a link in place of a segment is not followed.
 *
 * Runs on the loop thread, like the file destination, and for the same reasons.
 *
 * Over 400 lines: adopting, writing and reading move one list of segments, and the cap is its.
 */
#include "destinations/spool_segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/own_fd.h"

#define SEGMENTS_MAX 512 /* twice the cap in full segments; adopted ones may be small */
#define PATH_BYTES   1024

#define ASIDE      ".damaged"
#define ASIDE_KEPT 4 /* of an address: enough to see a pattern, an eighth of the disk's cap */

struct pom__spool_s {
    /* constant after new */
    char root[PATH_BYTES]; /* the address's folder */
    uint64_t address;
    int64_t cap;
    /* loop thread, but for new, after_fork and free */
    char run[PATH_BYTES]; /* this process's folder; empty: not open */
    pom_own_fd_t lock;
    pom_own_fd_t reader, writer; /* of the first and of the last segment */
    uint32_t next_number;
    uint32_t count;
    pom__segment_t segments[SEGMENTS_MAX]; /* oldest first */
    uint32_t taken;    /* profiles of the entry that next has handed out; 0: none */
    size_t taken_size; /* of its body */
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

/* A file that a program has closed without knowing it is opened anew where it is needed, by its
 * name. */
static bool is_open(pom_own_fd_t *file) {
    if (!pom_own_fd_holds(file)) {
        *file = POM_OWN_FD_NONE; /* the number may be of a file of the program's */
    }
    return file->fd >= 0;
}

/* ---- segments ---- */

static void forget_first(pom__spool_t *s) {
    s->count--;
    memmove(s->segments, s->segments + 1, s->count * sizeof s->segments[0]);
    pom_own_fd_close(&s->reader);
    if (s->count == 0) {
        pom_own_fd_close(&s->writer); /* written data was checked at the write */
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
        (void)close(fd); /* just opened, and nothing was written */
        fd = -1;
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
        pom__segment_t segment = {.number = s->next_number};
        if (!make_path(from, "%s/%s", folder, names[i]) || !segment_path(s, segment.number, to)) {
            left++;
            continue;
        }
        pom__measured_t measured = pom__segment_measure(&segment, from, s->address);
        if (measured == POM__SEGMENT_NOTHING_PENDING) {
            (void)unlink(from); /* if it stays, it is no harm */
        } else if (measured == POM__SEGMENT_PENDING && s->count < SEGMENTS_MAX &&
                   rename(from, to) == 0) {
            s->next_number++;
            s->segments[s->count++] = segment;
        } else {
            left++;
        }
    }
    if (names != NULL && left == 0 && make_path(from, "%s/lock", folder)) {
        (void)unlink(from);
        (void)rmdir(folder); /* an empty folder that stays is no harm */
    }
    free_names(names, count);
    (void)close(fd); /* nothing was written */
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
    for (int i = 0; i < 3 && s->lock.fd < 0; i++) {
        if (!make_path(s->run, "%s/%ld-%llx", s->root, (long)getpid(),
                       (unsigned long long)pom_wall_ns())) {
            errno = ENAMETOOLONG;
            break;
        }
        if (mkdir(s->run, 0700) == 0) {
            (void)pom_own_fd_note(&s->lock, lock_folder(s->run, O_CREAT));
        } else if (errno != EEXIST) {
            break;
        }
    }
    if (s->lock.fd < 0) {
        pom_status_t status = failed(s, "make", s->run);
        s->run[0] = '\0';
        return status;
    }
    adopt(s);
    *adopted = pom__spool_profiles(s);
    return POM_OK;
}

/* ---- writing ---- */

/* The last segment is open for writing and has room. */
static bool writable(pom__spool_t *s) {
    char path[PATH_BYTES];
    if (is_open(&s->writer) && s->segments[s->count - 1].size >= POM__SPOOL_SEGMENT) {
        (void)fsync(s->writer.fd); /* the best that can be done has been done */
        pom_own_fd_close(&s->writer);
    }
    if (s->writer.fd >= 0) {
        return true;
    }
    pom__segment_t segment = {.number = s->next_number};
    if (s->count == SEGMENTS_MAX || !segment_path(s, segment.number, path)) {
        errno = ENOSPC;
        return false;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (!pom_own_fd_note(&s->writer, fd)) {
        return false;
    }
    s->next_number++;
    s->segments[s->count++] = segment;
    return true;
}

pom_status_t pom__spool_put(pom__spool_t *s, const pom__spool_entry_t *entry, const char *body,
                            size_t size, pom__spool_lost_t *lost) {
    int64_t need = POM__SEGMENT_HEAD + (int64_t)size;
    if (s->run[0] == '\0' || size > POM__SPOOL_BODY_MAX || need > s->cap) {
        (void)snprintf(s->error, sizeof s->error,
                       "spool: not open, or a body larger than the spool");
        return POM_EIO;
    }
    while (s->count > 0 && (pom__spool_bytes(s) + need > s->cap || s->count == SEGMENTS_MAX)) {
        lost->evicted += s->segments[0].profiles;
        remove_first(s);
    }
    if (!writable(s) || pom__segment_append(&s->segments[s->count - 1], s->writer.fd, s->address,
                                            entry, body, size) != POM_OK) {
        return failed(s, "write", s->run);
    }
    return POM_OK;
}

/* ---- reading ---- */

static bool open_first(pom__spool_t *s) {
    char path[PATH_BYTES];
    if (!is_open(&s->reader) && segment_path(s, s->segments[0].number, path)) {
        (void)pom_own_fd_note(&s->reader, open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    }
    return s->reader.fd >= 0;
}

static pom__found_t read_first(pom__spool_t *s, pom__spool_entry_t *entry, pom_buf_t *body) {
    pom__segment_t *first = &s->segments[0];
    if (first->at < first->size && !open_first(s)) {
        bool later = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
        return later ? POM__ENTRY_NOT_NOW : POM__ENTRY_DAMAGED;
    }
    return pom__segment_peek(first, s->reader.fd, s->address, entry, body);
}

bool pom__spool_next(pom__spool_t *s, pom__spool_entry_t *entry, pom_buf_t *body,
                     pom__spool_lost_t *lost) {
    s->taken = 0;
    while (s->count > 0) {
        switch (read_first(s, entry, body)) {
        case POM__ENTRY_NOT_NOW:
            return false;
        case POM__ENTRY_NONE:
            remove_first(s);
            break;
        case POM__ENTRY_DAMAGED:
            quarantine_first(s, lost);
            break;
        case POM__ENTRY_FOUND:
            s->taken = entry->count;
            s->taken_size = body->len;
            /* A clock that was set back makes entries young again: they are sent then. */
            if (pom_wall_ns() - entry->created_wall_ns <= POM__SPOOL_AGE_NS) {
                return true;
            }
            lost->too_old += entry->count;
            (void)pom__spool_ack(s); /* just taken */
            break;
        }
    }
    return false;
}

bool pom__spool_ack(pom__spool_t *s) {
    if (s->taken == 0) {
        return false;
    }
    (void)open_first(s); /* if it cannot be: an acknowledgement that the disk did not take */
    pom__segment_ack(&s->segments[0], s->reader.fd, s->taken, s->taken_size);
    s->taken = 0;
    if (s->segments[0].at >= s->segments[0].size) {
        remove_first(s);
    }
    return true;
}

/* ---- the rest ---- */

int64_t pom__spool_profiles(const pom__spool_t *s) {
    int64_t profiles = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        profiles += s->segments[i].profiles;
    }
    return profiles;
}

int64_t pom__spool_bytes(const pom__spool_t *s) {
    int64_t bytes = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        bytes += s->segments[i].size;
    }
    return bytes;
}

const char *pom__spool_error(const pom__spool_t *s) {
    return s->error;
}

void pom__spool_sync(pom__spool_t *s) {
    if (is_open(&s->writer)) {
        (void)fsync(s->writer.fd); /* nobody is left to tell */
    }
}

static void forget(pom__spool_t *s) {
    pom_own_fd_close(&s->reader);
    pom_own_fd_close(&s->writer);
    pom_own_fd_close(&s->lock);
    s->run[0] = '\0';
    s->next_number = 1;
    s->count = s->taken = 0;
}

void pom__spool_after_fork(pom__spool_t *s) {
    forget(s); /* closing our copy of the lock does not release the parent's */
}

/* Else errno says why not. */
static bool is_folder(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0) {
        return false;
    }
    errno = ENOTDIR;
    return S_ISDIR(st.st_mode);
}

pom_status_t pom__spool_new(const char *directory, const char *address, int64_t cap,
                            pom__spool_t **out, char *error, size_t error_size) {
    char absolute[PATH_BYTES / 2];
    pom__spool_t *s = pom_calloc(1, sizeof *s);
    if (s == NULL) {
        return POM_ENOMEM;
    }
    s->reader = s->writer = s->lock = POM_OWN_FD_NONE;
    forget(s);
    s->cap = cap;
    s->address = hash(address);
    pom_status_t status = POM_OK;
    if ((mkdir(directory, 0700) != 0 && errno != EEXIST) || !is_folder(directory) ||
        access(directory, W_OK | X_OK) != 0) {
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
