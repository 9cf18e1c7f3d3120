/*
 * A descriptor that is ours for long in a program that is not: programs close descriptors that they
 * do not know (os.closerange in a daemon), and then the number may be of a file of theirs, which we
 * must neither read nor close.
 *
 * Used by the sampler and by bindings/ext/memory.c, for files of /proc, and by destinations, for
 * what a forked child has to close.
 *
 * Not for an epoll, an eventfd or a timerfd: all of these share one inode, so that another one
 * would pass for ours (see destinations/loop_guard.c).
 *
 *     pom_own_fd_t file = POM_OWN_FD_NONE;
 *     pom_own_fd_open(&file, path);                 -1 in file.fd: it cannot be
 *     if (pom_own_fd_holds(&file)) pread(file.fd, ...);
 *     pom_own_fd_close(&file);
 */
#ifndef POM_BASE_OWN_FD_H
#define POM_BASE_OWN_FD_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct pom_own_fd_s {
    int fd; /* -1 = not open */
    /* what was opened */
    dev_t device;
    ino_t inode;
} pom_own_fd_t;

#define POM_OWN_FD_NONE ((pom_own_fd_t){.fd = -1})

/* For reading. Whatever was open before is not closed. False: it cannot be opened. [any] */
bool pom_own_fd_open(pom_own_fd_t *file, const char *path);

/* The same of a descriptor that is open, whatever it is of. False: it is not open; errno stays as
 * it is when it is -1. [any] */
bool pom_own_fd_note(pom_own_fd_t *file, int fd);

/* Whether the number is still that file's: one system call. [any] */
bool pom_own_fd_holds(const pom_own_fd_t *file);

/* Closes it if it is ours, and forgets it anyway. [any] */
void pom_own_fd_close(pom_own_fd_t *file);

#endif
