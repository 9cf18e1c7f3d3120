/*
 * What the kernel says of one thread of this process in /proc: whether it wants a CPU, and how
 * often it has had one.
 *
 * Used by the sampler, for threads whose CPU time it has to place. A question costs two system
 * calls of 1 to 4 us together while the descriptor is kept, twice that otherwise. The program's
 * limit of descriptors is the program's, so not all threads keep theirs.
 *
 *     pom_thread_files_t files = POM_THREAD_FILES_NONE;
 *     if (pom_thread_wants_cpu(&files, tid, cpu)) ...
 *     pom_thread_files_close(&files);
 *
 * One thread at a time uses all of them: the sampler's, or whoever frees the slots when that one
 * has ended.
 */
#ifndef POM_SAMPLER_THREAD_FILES_H
#define POM_SAMPLER_THREAD_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/own_fd.h"

/* A thread that has used this part of the time since its last look is asked whether it wants a CPU.
 * What is less is carried until it is more: one that waits for the interpreter's lock wakes up each
 * 5 ms to ask for it. Of 64 such threads each was asked for in each tick, for the CPU time of its
 * last turn: 40 % of the sampler's own. */
#define POM_THREAD_ASK_SHARE 50

/* Descriptors kept open, one a question and thread: most servers have fewer threads, and the usual
 * limit is 1024 a process. */
#define POM_THREAD_FILES_MAX 64

typedef struct pom_thread_files_s {
    pom_own_fd_t stat, schedstat; /* of /proc/self/task/<tid> */
    int32_t tid;                  /* whose they are */
} pom_thread_files_t;

#define POM_THREAD_FILES_NONE                                                                      \
    ((pom_thread_files_t){.stat = POM_OWN_FD_NONE, .schedstat = POM_OWN_FD_NONE})

/* The thread runs on that CPU, or waits for it. False when nothing can be read. [sampler] */
bool pom_thread_wants_cpu(pom_thread_files_t *files, int32_t tid, int cpu);

/* How often the thread has been given a CPU, ever; -1 = the kernel does not say. [sampler] */
int64_t pom_thread_turns(pom_thread_files_t *files, int32_t tid);

/* [sampler, or the owner of the slots without one] */
void pom_thread_files_close(pom_thread_files_t *files);

#endif
