/*
 * Ours is what has the device and inode that were opened. A program that closes and opens between
 * our look and the use of it, some hundred nanoseconds later, cannot be noticed by anybody.
 */
#include "base/own_fd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

bool pom_own_fd_note(pom_own_fd_t *file, int fd) {
    struct stat st;
    *file = POM_OWN_FD_NONE;
    if (fd < 0 || fstat(fd, &st) != 0) { /* -1: errno is that of the open() */
        return false;
    }
    *file = (pom_own_fd_t){.fd = fd, .device = st.st_dev, .inode = st.st_ino};
    return true;
}

bool pom_own_fd_open(pom_own_fd_t *file, const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool noted = pom_own_fd_note(file, fd);
    if (fd >= 0 && !noted) {
        (void)close(fd); /* just opened: ours */
    }
    return noted;
}

bool pom_own_fd_holds(const pom_own_fd_t *file) {
    struct stat st;
    return file->fd >= 0 && fstat(file->fd, &st) == 0 && st.st_dev == file->device &&
           st.st_ino == file->inode;
}

void pom_own_fd_close(pom_own_fd_t *file) {
    pom_own_fd_t old = *file;
    /* Before the close: a fork in between must not leave the child a number that is by then another
     * file's. */
    *file = POM_OWN_FD_NONE;
    if (pom_own_fd_holds(&old)) {
        (void)close(old.fd); /* who writes has checked each write */
    }
}
