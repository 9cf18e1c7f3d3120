/*
 * Restartable sequences, used for what they say of switches.
 *
 * A thread that is in a critical section has put the section's description into its struct rseq.
 * When the kernel has switched it out (or handed it a signal), it looks there before it lets the
 * thread go on: inside the section it sends it to the abort handler, outside of it it empties the
 * word (Documentation/userspace-api/rseq.rst, "rseq_cs"). The sections described here are a byte of
 * data, where no thread ever runs: nothing can be aborted, and the word is empty after each switch.
 * Whoever uses rseq for its own sections overwrites our mark, which reads as a switch.
 *
 * Kernels from 6.19 on look only where a thread was interrupted in its own code: one that slept
 * keeps its mark. So pom_rseq_init() sleeps and looks.
 */
#define _GNU_SOURCE // RUSAGE_THREAD
#include "base/rseq.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/resource.h>
#include <time.h>

#include "base/thread_pointer.h"

/* So many sleeps must take the mark away, among twice as many tries: a signal, or another program
 * that takes the CPU, can spoil one. */
#define SLEEPS 3

/* So that who asks for one thing on a thread does not take another one's mark for its own. */
#define SECTIONS 16

/* The words of struct rseq that are used, of include/uapi/linux/rseq.h, in its order. */
typedef struct area_s {
    uint32_t cpu_id_start;
    int32_t cpu_id; /* less than 0: not registered */
    uint64_t critical_section;
} area_t;

/* A section's description, struct rseq_cs of the same header. */
typedef struct section_s {
    uint32_t version, flags; /* 0 */
    uint64_t start, size, abort;
} __attribute__((aligned(32))) section_t;

_Static_assert(offsetof(area_t, critical_section) == 8 && sizeof(section_t) == 32, "the kernel's");

/* The four bytes before an abort handler, RSEQ_SIG of glibc's sys/rseq.h. The kernel compares them
 * with those that were registered, and ends a process where they differ: so no marks are made on
 * processors where that has not been tried. */
#if defined(__x86_64__) && defined(__LP64__)
#define SIGNATURE UINT32_C(0x53053053)
#else
#define SIGNATURE UINT32_C(0)
#endif

static const struct { uint32_t signature, abort, inside; } nowhere = {.signature = SIGNATURE};

/* Constant once marks are made; they differ in their addresses alone. */
static section_t sections[SECTIONS];
static _Atomic(uint32_t) askers;

/* From the thread pointer to the area; 0 = there is none. */
static _Atomic(ptrdiff_t) offset;
/* Whether marks are taken away. */
static _Atomic(bool) tells;

static area_t *area(void) {
    ptrdiff_t from = atomic_load_explicit(&offset, memory_order_relaxed);
    area_t *found = from == 0 ? NULL : (area_t *)(pom_this_thread() + (uintptr_t)from);
    return found == NULL || __atomic_load_n(&found->cpu_id, __ATOMIC_RELAXED) < 0 ? NULL : found;
}

/* Atomic for the compiler: the kernel writes on this very thread. */
static bool has_mark(const area_t *a, const section_t *mark) {
    return __atomic_load_n(&a->critical_section, __ATOMIC_RELAXED) == (uintptr_t)mark;
}

static void set_mark(area_t *a, const section_t *mark) {
    __atomic_store_n(&a->critical_section, (uintptr_t)mark, __ATOMIC_RELAXED);
}

static int64_t count_switches(void) {
    struct rusage use = {0};
    (void)getrusage(RUSAGE_THREAD, &use); // cannot fail: of this thread, into valid memory
    return (int64_t)use.ru_nvcsw + (int64_t)use.ru_nivcsw;
}

/* Whether a thread that sleeps, and is switched out for nothing else, loses its mark. */
static bool sleep_takes_mark(area_t *a) {
    int taken = 0;
    for (int i = 0; i < 2 * SLEEPS && taken < SLEEPS; i++) {
        const struct timespec moment = {.tv_nsec = 1};
        set_mark(a, &sections[0]);
        int64_t before = count_switches();
        bool stood = has_mark(a, &sections[0]);
        bool slept = nanosleep(&moment, NULL) == 0;
        bool stands = has_mark(a, &sections[0]);
        if (stood && slept && count_switches() == before + 1) {
            if (stands) {
                return false;
            }
            taken++;
        }
    }
    return taken == SLEEPS;
}

void pom_rseq_init(void) {
    if (atomic_load_explicit(&offset, memory_order_relaxed) != 0) {
        return;
    }
    const ptrdiff_t *place = dlsym(RTLD_DEFAULT, "__rseq_offset");
    const unsigned *size = dlsym(RTLD_DEFAULT, "__rseq_size"); // 0: not registered
    if (!POM_HAVE_THREAD_POINTER || place == NULL || size == NULL || *size == 0) {
        return;
    }
    for (size_t i = 0; i < SECTIONS; i++) {
        sections[i] = (section_t){
            .start = (uintptr_t)&nowhere.inside, .size = 1, .abort = (uintptr_t)&nowhere.abort};
    }
    atomic_store_explicit(&offset, *place, memory_order_relaxed);
    area_t *mine = area();
    bool works = SIGNATURE != 0 && mine != NULL && sleep_takes_mark(mine);
    atomic_store_explicit(&tells, works, memory_order_release); // pairs with pom_rseq_ran_on()
}

bool pom_rseq_ran_on(pom_rseq_asker_t *asker) {
    area_t *mine = atomic_load_explicit(&tells, memory_order_acquire) ? area() : NULL;
    if (mine == NULL) {
        int64_t before = asker->switches;
        asker->switches = count_switches();
        return asker->switches == before;
    }
    if (asker->section == 0) {
        uint32_t number = atomic_fetch_add_explicit(&askers, 1, memory_order_relaxed);
        asker->section = 1 + number % SECTIONS;
    }
    const section_t *mark = &sections[asker->section - 1];
    if (has_mark(mine, mark)) {
        return true;
    }
    set_mark(mine, mark);
    return false;
}

uintptr_t pom_rseq_cpu(void) {
    area_t *mine = area();
    return mine == NULL ? 0 : (uintptr_t)&mine->cpu_id;
}
