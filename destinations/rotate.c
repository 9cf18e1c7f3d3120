/*
 * Renaming, under a lock of those who would do the same.
 *
 * Forked workers, and processes that know nothing of each other, write one path. All find it full
 * at about the same moment, and it must be moved once: moved twice, the second move would push the
 * file that was just begun, and the oldest out. So whoever rotates locks the very file at `path`
 * (flock, through an open of its own: forked processes share the lock of a shared descriptor) and
 * then looks whether `path` is still that file. The last rename takes the locked file away from
 * `path`, so all who held an older view of it find another file there and leave it alone. There is
 * no lock file to be left behind, and the lock ends with its process.
 *
 * A crash between two renames leaves a number out, which the next rotation fills.
 *
 * Nobody's data are touched but the oldest file, which is renamed over. Others go on writing to the
 * moved file until their next write (append_file.c looks at the path before each): what they write
 * there is in PATH.1 and not lost.
 */
#include "destinations/rotate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096 /* PATH_MAX, the NUL included */

static bool is_file(const struct stat *st, dev_t dev, ino_t ino) {
    return st->st_dev == dev && st->st_ino == ino;
}

/* "PATH.3"; number 0 is the path itself. False: too long. */
static bool numbered(const char *path, uint32_t number, char out[PATH_BYTES]) {
    int size = number == 0 ? snprintf(out, PATH_BYTES, "%s", path)
                           : snprintf(out, PATH_BYTES, "%s.%u", path, (unsigned)number);
    return size > 0 && size < PATH_BYTES;
}

/* The oldest first, so that nothing is renamed over but what is to go. Where a number is free the
 * files behind it can stay. */
static int shift(const char *path, uint32_t keep) {
    char from[PATH_BYTES];
    char to[PATH_BYTES];
    struct stat st;
    uint32_t last = 1;
    while (last < keep && numbered(path, last, to) && lstat(to, &st) == 0) {
        last++;
    }
    for (uint32_t i = last; i > 0; i--) {
        if (!numbered(path, i - 1, from) || !numbered(path, i, to)) {
            return ENAMETOOLONG;
        }
        if (rename(from, to) != 0 && errno != ENOENT) {
            return errno;
        }
    }
    return 0;
}

int pom__rotate(const char *path, uint32_t keep, dev_t dev, ino_t ino) {
    struct stat opened;
    struct stat there;
    int error = 0;
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT ? 0 : errno; /* moved already, and nobody has written since */
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        error = errno == EWOULDBLOCK ? 0 : errno;
    } else {
        if (fstat(fd, &opened) != 0 || stat(path, &there) != 0) {
            error = errno == ENOENT ? 0 : errno;
        } else if (is_file(&opened, dev, ino) && is_file(&there, dev, ino)) {
            error = shift(path, keep);
        }
        /* Not left to close(): a child forked meanwhile has a copy of the descriptor. */
        (void)flock(fd, LOCK_UN);
    }
    (void)close(fd); /* nothing was written */
    return error;
}
