/*
 * Which descriptor a path means at this moment, and whole lines appended to it, so that those of
 * several processes (forked workers share the descriptor, O_APPEND) never mix. "Line" is also a
 * batch of the wire form, which needs no newline behind one that was cut: a reader looks for the
 * next magic.
 *
 * A partial write is completed; if that fails in the middle of a line, the next write begins with a
 * newline: a reader meets one broken line. So does the next write of a process that shares the
 * file, since one that is killed in the middle of its write cannot: a file that has grown by others
 * is looked at first. A write of theirs that is under way looks the same, and is given a few
 * milliseconds; where a disk holds it up for longer, there is an empty line behind it.
 *
 * FIFOs and terminals are opened non-blocking, so a reader that does not read is EAGAIN, not a
 * hang. A line that did not fit in goes on where it stopped: to begin it again would never end with
 * one that is larger than the pipe.
 *
 * Fork: the child shares the descriptor. Daemons close descriptors they do not know, and the
 * number may then be a socket of theirs; so each write first checks (fstat, 0.3 us) that the
 * descriptor is still our file, and opens the path again, appending, when it is not. Opening
 * anew in each child would fail where workers have given up the rights to do so. A file that was
 * deleted is made anew likewise: nobody would ever read the old one.
 *
 * Rotation (rotate.c moves the files) happens between two writes, so no line or batch is ever
 * split. A file that is rotated by us is followed by its path: before each write the path is looked
 * up (stat, 0.5 us), and when it names another file, since another process has rotated, that one is
 * opened. When rotating or opening fails the old descriptor is written on, the failure is counted
 * in last_error, and it is tried again a minute later: a file that is too large is better than
 * none. Without rotation a renamed file is written on.
 *
 * Opened on any thread, written on the loop thread.
 */
#include "destinations/append_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "destinations/rotate.h"

/* So many looks at half a line that does not grow: its writer was killed, as a write takes
 * microseconds. And so many in all, where one write follows on another. */
#define LOOKS_STILL 5
#define LOOKS_MOST  50
#define BETWEEN_MS  1

#define UNKNOWN (-1) /* the file's size */

#define ROTATE_RETRY_NS (60 * POM_NS_PER_S) /* rights and folders change when people act */

/* ---- the descriptor ---- */

/* 0 or errno. */
static int open_path(pom__append_file_t *f, int flags) {
    int fd;
    do {
        fd =
            open(f->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | flags,
                 f->mode);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno;
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int error = errno;
        (void)close(fd); /* nothing was written */
        return error;
    }
    f->fd = fd;
    f->end = 0; /* what is in it others have written */
    f->torn = f->paused = false;
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    f->type = st.st_mode & S_IFMT;
    f->mode = st.st_mode & 0777;
    f->opened_ns = pom_now_ns();
    return 0;
}

/* Of the file, for the descriptor as well as for its path. */
static bool is_it(const pom__append_file_t *f, const struct stat *st) {
    return st->st_dev == f->dev && st->st_ino == f->ino;
}

/* *st is the file's, if so. */
static bool is_ours(const pom__append_file_t *f, struct stat *st) {
    return f->fd >= 0 && fstat(f->fd, st) == 0 && is_it(f, st);
}

/* The last byte, and the size it was found at; a newline for none; -1 when it may not be read, or
 * the path names another file by now. */
static int last_byte(const pom__append_file_t *f, int64_t *size) {
    int last = -1;
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0) {
        struct stat st;
        unsigned char byte = '\n'; /* it may be cut inside a character */
        if (fstat(fd, &st) == 0 && is_it(f, &st) &&
            (st.st_size == 0 || pread(fd, &byte, 1, st.st_size - 1) == 1)) {
            last = byte;
            *size = st.st_size;
        }
        (void)close(fd); /* read only */
    }
    return last;
}

/* Before a write: whether the file ends inside a line. It need not be asked where nobody else has
 * written since our last write. */
static void look_at_end(pom__append_file_t *f) {
    struct stat st;
    if (f->type != S_IFREG || !f->is_text || fstat(f->fd, &st) != 0 || st.st_size == f->end) {
        return;
    }
    int64_t size = st.st_size;
    int last = last_byte(f, &size);
    for (int looks = 1, still = 1; last >= 0 && last != '\n' && still < LOOKS_STILL; looks++) {
        int64_t before = size;
        uv_sleep(BETWEEN_MS);
        last = last_byte(f, &size);
        still = size == before || looks >= LOOKS_MOST ? still + 1 : 1;
    }
    f->torn = last < 0 ? f->torn : last != '\n';
    f->end = st.st_size;
}

/* ---- rotation ---- */

static bool rotates(const pom__append_file_t *f) {
    return f->rotate_bytes > 0 || f->rotate_ns > 0;
}

static void rotation_failed(pom__append_file_t *f, const char *doing, int error) {
    char text[128];
    f->next_rotate_ns = pom_now_ns() + ROTATE_RETRY_NS;
    f->rotate_failures++;
    pom_destination_error(f->owner, "cannot %s '%s': %s (%lld times so far)", doing, f->path,
                          uv_strerror_r(uv_translate_sys_error(error), text, sizeof text),
                          (long long)f->rotate_failures);
}

/* Goes over to what the path names now, if that is another file. Otherwise, and when it cannot be
 * opened, the present one stays. */
static void follow_path(pom__append_file_t *f) {
    struct stat st;
    if (stat(f->path, &st) == 0 && is_it(f, &st)) {
        return;
    }
    int before = f->fd;
    int error = open_path(f, 0);
    if (error != 0) {
        rotation_failed(f, "open", error);
        return;
    }
    (void)close(before); /* each write to it was checked */
}

/* It is, for another `size` bytes. */
static bool is_full(const pom__append_file_t *f, size_t size, int64_t now_ns) {
    struct stat st;
    if (now_ns < f->next_rotate_ns || fstat(f->fd, &st) != 0 || st.st_size == 0) {
        return false;
    }
    return (f->rotate_bytes > 0 && st.st_size + (int64_t)size > f->rotate_bytes) ||
           (f->rotate_ns > 0 && now_ns - f->opened_ns >= f->rotate_ns);
}

/* The descriptor is the file to write the next `size` bytes to. */
static void turn(pom__append_file_t *f, size_t size) {
    if (pom_now_ns() >= f->next_rotate_ns) {
        follow_path(f);
    }
    if (is_full(f, size, pom_now_ns())) {
        int error = pom__rotate(f->path, f->keep, f->dev, f->ino);
        if (error != 0) {
            rotation_failed(f, "rotate", error);
        } else {
            follow_path(f);
        }
    }
}

/* ---- writing ---- */

/* Writes newline (if the file ends inside a line) and lines. 0 or errno; *written counts the
 * newline. */
static int write_all(const pom__append_file_t *f, size_t newline, const char *data, size_t size,
                     size_t *written) {
    char mark = '\n';
    size_t total = newline + size;
    *written = 0;
    while (*written < total) {
        size_t at = *written >= newline ? *written - newline : 0;
        struct iovec parts[2] = {
            {.iov_base = &mark, .iov_len = newline},
            {.iov_base = (void *)(uintptr_t)(data + at), .iov_len = size - at},
        };
        int first = *written < newline ? 0 : 1;
        ssize_t n = writev(f->fd, parts + first, 2 - first);
        if (n > 0) {
            *written += (size_t)n;
        } else if (n == 0) {
            return EIO; /* no such answer is promised for a non-empty write: do not spin on it */
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

/* ---- opening ---- */

/* Owned; NULL for no memory, or when the working directory cannot be told (*error is set). */
static char *absolute(const char *path, int *error) {
    char directory[4096] = "";
    if (path[0] != '/' && getcwd(directory, sizeof directory - 1) == NULL) {
        *error = errno;
        return NULL;
    }
    size_t base = strlen(directory);
    if (base > 0) {
        directory[base++] = '/';
    }
    size_t size = strlen(path) + 1;
    char *joined = pom_alloc(base + size);
    if (joined == NULL) {
        *error = ENOMEM;
        return NULL;
    }
    memcpy(joined, directory, base);
    memcpy(joined + base, path, size);
    return joined;
}

/* The path of a link's target, so that the target is rotated and not the link. 0 or errno. */
static int follow_links(pom__append_file_t *f) {
    char target[PATH_MAX];
    if (realpath(f->path, target) == NULL) {
        return errno == ENOENT ? 0 : errno; /* a new file, or open_path() knows better */
    }
    char *path = absolute(target, &(int){0});
    if (path == NULL) {
        return ENOMEM;
    }
    pom_free(f->path);
    f->path = path;
    return 0;
}

int pom__append_file_open(pom__append_file_t *f, const char *path,
                          const pom_file_options_t *options, pom_destination_t *owner) {
    int error = ENOMEM;
    *f = (pom__append_file_t){
        .owner = owner,
        .is_text = options->format == POM_FILE_JSON,
        .rotate_bytes = options->rotate_bytes,
        .rotate_ns = options->rotate_ns,
        .keep = options->keep,
        .mode = 0666,
        .path = absolute(path, &error),
    };
    if (f->path == NULL) {
        return error;
    }
    error = rotates(f) ? follow_links(f) : 0;
    if (error == 0) {
        error = open_path(f, options->append ? 0 : O_TRUNC);
    }
    if (error == 0 && rotates(f) && f->type != S_IFREG) {
        (void)close(f->fd);
        error = EINVAL;
    }
    if (error != 0) {
        pom_free(f->path);
        return error;
    }
    return 0;
}

int pom__append_file_write(pom__append_file_t *f, const char *data, size_t size, size_t begun,
                           size_t *written) {
    struct stat st;
    *written = 0;
    if (!is_ours(f, &st)) {
        f->fd = -1; /* not closed: the number is somebody else's now, or nobody's */
    }
    if (f->fd < 0 || (f->type == S_IFREG && st.st_nlink == 0)) {
        int before = f->fd;
        int error = open_path(f, 0);
        if (error != 0) {
            return error;
        }
        if (before >= 0) {
            (void)close(before); /* each write to it was checked */
        }
    }
    if (rotates(f)) {
        turn(f, size);
    }
    look_at_end(f);
    size_t done = f->paused ? begun : 0;
    size_t newline = f->torn && done == 0 ? 1 : 0;
    int error = write_all(f, newline, data + done, size - done, written);
    f->end += (int64_t)*written;
    if (*written > 0) {
        *written -= newline;
        f->torn = f->is_text && *written > 0 && data[done + *written - 1] != '\n';
    }
    *written += done;
    f->paused = error == EAGAIN;
    return error;
}

void pom__append_file_after_fork(pom__append_file_t *f) {
    f->torn = f->paused = false;
    f->end = UNKNOWN; /* it may lie within a write of the parent's */
}

void pom__append_file_close(pom__append_file_t *f) {
    struct stat st;
    if (is_ours(f, &st)) {
        (void)close(
            f->fd); /* every write was checked; what close could add is of no use to anybody now */
    }
    pom_free(f->path);
}
