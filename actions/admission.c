/*
 * Admission: a limit that exists only while the product is over its budget.
 *
 * Two sides write, each its own fields: app threads (kept apart by the interpreter's lock) count
 * who is in, the sampler gives the verdict once a window. So no read-modify-write needs to be
 * atomic, and the fast path is one load. The newly admitted count is reset by the app side when it
 * sees a new cycle number.
 */
#include "actions/admission.h"

/* No process has more in flight; keeps the growth from overflowing. */
#define LIMIT_MAX INT64_C(1000000000)

static int64_t get(const _Atomic(int64_t) *field) {
    return atomic_load_explicit(field, memory_order_relaxed);
}

static void set(_Atomic(int64_t) *field, int64_t value) {
    atomic_store_explicit(field, value, memory_order_relaxed);
}

void pom_admission_init(pom_admission_t *a, int64_t max_actions_per_run) {
    *a = (pom_admission_t){0};
    pom_admission_configure(a, max_actions_per_run);
}

void pom_admission_configure(pom_admission_t *a, int64_t max_actions_per_run) {
    int64_t limit = max_actions_per_run < 0 ? 0 : max_actions_per_run;
    limit = limit > LIMIT_MAX ? LIMIT_MAX : limit;
    set(&a->limit, limit);
    set(&a->allowance, limit);
}

bool pom_admission_admit(pom_admission_t *a) {
    int64_t in_flight = get(&a->in_flight);
    if (atomic_load_explicit(&a->limited, memory_order_relaxed)) {
        uint32_t cycle = atomic_load_explicit(&a->cycle, memory_order_relaxed);
        if (cycle != atomic_load_explicit(&a->cycle_seen, memory_order_relaxed)) {
            atomic_store_explicit(&a->cycle_seen, cycle, memory_order_relaxed);
            set(&a->admitted, 0);
        }
        int64_t allowance = get(&a->allowance);
        int64_t admitted = get(&a->admitted);
        // An admitted action that is still in flight stands in both counts; in_flight alone would
        // let short ones through without bound, admitted alone would let long ones pile up.
        int64_t used = in_flight > admitted ? in_flight : admitted;
        if (allowance > 0 && used >= allowance) {
            return false;
        }
        set(&a->admitted, admitted + 1);
    }
    set(&a->in_flight, in_flight + 1);
    return true;
}

void pom_admission_leave(pom_admission_t *a) {
    set(&a->in_flight, get(&a->in_flight) - 1);
}

void pom_admission_cycle(pom_admission_t *a, bool helpless) {
    int64_t limit = get(&a->limit);
    int64_t allowance = get(&a->allowance);
    if (limit == 0) {
        helpless = false;
    }
    int64_t bound = limit * POM_ADMISSION_GROWTH;
    int64_t grown = allowance + (allowance + 1) / 2;
    allowance = helpless ? limit : grown < bound ? grown : bound;
    set(&a->allowance, allowance);
    bool was = atomic_load_explicit(&a->limited, memory_order_relaxed);
    // A cheap cycle grows the allowance first; the limit goes when it has grown to its bound, so
    // that a load at the edge does not flap between "all" and "ten".
    bool limited = helpless || (was && allowance < bound);
    atomic_store_explicit(&a->cycle, atomic_load_explicit(&a->cycle, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    atomic_store_explicit(&a->limited, limited, memory_order_relaxed);
}

int64_t pom_admission_allowed(const pom_admission_t *a) {
    return atomic_load_explicit(&a->limited, memory_order_relaxed) ? get(&a->allowance) : -1;
}
