/*
 * Charging stages.
 *
 * Sampling alone would say little of threads that work 0.2 % of the time: a look every 10 ms meets
 * them once in five seconds. So an accounted thread measures itself, exactly: two clock reads a
 * change, some 0.3 us, paid only while somebody has asked for it. Costs are written by the thread
 * and read by anybody: relaxed counters, each right by itself.
 */
#define _GNU_SOURCE
#include "base/stage.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

static pom_stage_cost_t *cost_of(pom_stages_t *stages, uint64_t path) {
    uint32_t count = atomic_load_explicit(&stages->cost_count, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        if (atomic_load_explicit(&stages->costs[i].path, memory_order_relaxed) == path) {
            return &stages->costs[i];
        }
    }
    if (count == POM_STAGE_PATHS) {
        return &stages->costs[0];
    }
    atomic_store_explicit(&stages->costs[count].path, path, memory_order_relaxed);
    atomic_store_explicit(&stages->cost_count, count + 1, memory_order_release);
    return &stages->costs[count];
}

static void add(_Atomic(int64_t) *counter, int64_t by) {
    // One writer: a plain read-modify-write is enough.
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

void pom_stages_charge(pom_stages_t *stages) {
    int64_t now_ns = pom_now_ns(), cpu_ns = pom_thread_cpu_ns();
    if (stages->since_ns != 0) {
        uint64_t path = atomic_load_explicit(&stages->path, memory_order_relaxed);
        pom_stage_cost_t *cost = cost_of(stages, path);
        add(&cost->wall_ns, now_ns - stages->since_ns);
        add(&cost->cpu_ns, cpu_ns - stages->since_cpu_ns);
    }
    stages->since_ns = now_ns;
    stages->since_cpu_ns = cpu_ns;
}

void pom_stages_begin(pom_stages_t *stages) {
    atomic_store_explicit(&stages->path, 0, memory_order_relaxed);
    atomic_store_explicit(&stages->tid, (int32_t)syscall(SYS_gettid), memory_order_relaxed);
    bool accounted = atomic_load_explicit(&stages->accounted, memory_order_relaxed);
    stages->since_ns = accounted ? pom_now_ns() : 0;
    stages->since_cpu_ns = 0; // this thread's clock began with it: making it costs too
}

void pom_stages_end(pom_stages_t *stages) {
    pom__stage_to(stages, 0);
    stages->since_ns = 0; // what follows, if anything, is on another thread's clock
}
