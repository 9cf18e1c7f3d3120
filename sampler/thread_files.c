/*
 * Files of /proc/self/task/<tid>, kept open where there are few. See proc(5).
 */
#include "sampler/thread_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_count; // of all threads; see the header for who may touch it

static void drop(pom_own_fd_t *file) {
    if (file->fd >= 0) {
        pom_own_fd_close(file);
        open_count--;
    }
}

void pom_thread_files_close(pom_thread_files_t *files) {
    drop(&files->stat);
    drop(&files->schedstat);
}

/* The whole of a file of the thread, as much as there is room for; false when it cannot be read. A
 * number of the program's by now, as it closed ours, is left alone. */
static bool read_file(pom_own_fd_t *file, int32_t tid, const char *name, char *text, size_t room) {
    if (file->fd >= 0 && !pom_own_fd_holds(file)) {
        drop(file);
    }
    if (file->fd < 0) {
        char path[64];
        (void)snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)tid, name);
        if (!pom_own_fd_open(file, path)) {
            return false;
        }
        open_count++;
    }
    ssize_t got = pread(file->fd, text, room - 1, 0);
    if (got <= 0 || open_count > POM_THREAD_FILES_MAX) {
        drop(file); // the thread has ended, and its id may come again; or there are enough
    }
    text[got > 0 ? got : 0] = '\0';
    return got > 0;
}

/* What is kept is that thread's from here on. */
static void take_up(pom_thread_files_t *files, int32_t tid) {
    if (files->tid != tid) {
        pom_thread_files_close(files);
        files->tid = tid;
    }
}

#define STAT_STATE 0
#define STAT_CPU   36 /* that it runs on, or ran on last */

/* A field of stat, counted from the state, which is 0; NULL when there are not so many. */
static const char *stat_field(const char *text, int number) {
    const char *at = strrchr(text, ')'); // the name may have blanks and brackets
    for (int blanks = number + 1; at != NULL && blanks > 0; blanks--) {
        at = strchr(at + 1, ' ');
    }
    return at == NULL ? NULL : at + 1;
}

bool pom_thread_wants_cpu(pom_thread_files_t *files, int32_t tid, int cpu) {
    char text[512]; // 52 fields, of which the first 39 are some 200 bytes
    take_up(files, tid);
    if (!read_file(&files->stat, tid, "stat", text, sizeof text)) {
        return false;
    }
    const char *state = stat_field(text, STAT_STATE), *on = stat_field(text, STAT_CPU);
    return state != NULL && on != NULL && state[0] == 'R' && atoi(on) == cpu;
}

int64_t pom_thread_turns(pom_thread_files_t *files, int32_t tid) {
    // Three numbers: time on a CPU, time waiting for one, turns
    // (Documentation/scheduler/sched-stats).
    char text[96];
    take_up(files, tid);
    if (!read_file(&files->schedstat, tid, "schedstat", text, sizeof text)) {
        return -1;
    }
    const char *last = strrchr(text, ' ');
    return last == NULL ? -1 : strtoll(last + 1, NULL, 10);
}
