/*
 * Clocks, in nanoseconds as int64.
 *
 * Used by the loops and the bindings only: everything else gets its time as a parameter, which is
 * what makes it testable without waiting.
 */
#ifndef POM_BASE_CLOCK_H
#define POM_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define POM_NS_PER_US INT64_C(1000)
#define POM_NS_PER_MS INT64_C(1000000)
#define POM_NS_PER_S  INT64_C(1000000000)

/* CLOCK_MONOTONIC; 20 ns. [any] */
int64_t pom_now_ns(void);

/* Wall clock since the epoch, UTC. [any] */
int64_t pom_wall_ns(void);

/* CPU time of the calling thread; 0.2-0.4 us, a system call. [any] */
int64_t pom_thread_cpu_ns(void);

/* CPU time of the process, all threads, those that ended included. [any] */
int64_t pom_process_cpu_ns(void);

/* CPU time of another thread by its kernel id; false when that thread is gone. The clock id is
 * computed from the id, (~tid << 3) | 6, as pthread_getcpuclockid reads freed memory for a thread
 * that ended. [any] */
bool pom_tid_cpu_ns(int32_t tid, int64_t *cpu_ns);

/* As system calls take it. What lies before a clock's beginning is its beginning: the kernel takes
 * no negative times. [any] */
struct timespec pom_timespec(int64_t ns);

/* "2026-11-20T12:34:56.123456Z": 27 characters and a NUL into out[28]. [any] */
void pom_format_moment(int64_t wall_ns, char out[28]);

#endif
