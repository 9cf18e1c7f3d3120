/*
 * A profile: one finished outermost action, immutable, shared by reference count.
 *
 * Made by actions when an action is sealed, read by formats and destinations on any thread.
 * Everything it points to lies in its arena, but for the code references of its tree and texts that
 * are constants (kind, engine).
 *
 *     profile = pom_profile_new(arena_cap);   the sealer fills the fields, then never again
 *     pom_profile_ref(profile);
 *     pom_profile_unref(profile);             the last one frees
 */
#ifndef POM_PROFILES_PROFILE_H
#define POM_PROFILES_PROFILE_H

#include "base/arena.h"
#include "base/block_pool.h"
#include "base/id.h"
#include "base/queue.h"
#include "profiles/call_tree.h"

/* Reasons a sample was wanted and not had; one list for counters, records and stats(). */
#define POM_MISS_LIST(X)                                                                           \
    X(TORN, "torn")             /* the stack changed under the walk, eight times */                \
    X(NO_ANCHOR, "no_anchor")   /* the thread runs something else: switched out */                 \
    X(UNREADABLE, "unreadable") /* memory outside what may be read plainly, and the copy failed */ \
    X(RACED, "raced")           /* attached, detached or died while being looked at */             \
    X(DEAD_CODE, "dead_code")   /* a code object died between walk and look-up */                  \
    X(TOO_DEEP, "too_deep")     /* more frames than a walk goes through */

typedef enum pom_miss_e {
#define X(name, text) POM_MISS_##name,
    POM_MISS_LIST(X)
#undef X
        POM_MISS_COUNT
} pom_miss_t;

extern const char *const pom_miss_names[POM_MISS_COUNT];

#define POM_OUTCOME_LIST(X)                                                                        \
    X(SUCCEEDED, "succeeded")                                                                      \
    X(FAILED, "failed")                                                                            \
    X(ABORTED, "aborted")                                                                          \
    X(LOST, "lost")                                                                                \
    X(OPEN, "open")

typedef enum pom_outcome_e {
#define X(name, text) POM_OUTCOME_##name,
    POM_OUTCOME_LIST(X)
#undef X
        POM_OUTCOME_COUNT
} pom_outcome_t;

extern const char *const pom_outcome_names[POM_OUTCOME_COUNT];

/* A borrowed or arena-owned piece of text; data may be NULL when size is 0. */
typedef struct pom_text_s {
    const char *data;
    uint32_t size;
} pom_text_t;

typedef struct pom_profile_s {
    pom_link_t link; /* for the queue to the exporter */
    _Atomic(int32_t) refs;
    /* constant once sealed */
    pom_block_pool_t *pool; /* where its memory goes back to; NULL = freed */
    pom_arena_t arena;
    pom_id_t task_id;
    pom_text_t task_text; /* a task id from outside that is not a UUID; empty: task_id is it */
    uint64_t thread;      /* the interpreter's thread id (threading.get_ident) */
    pom_text_t thread_name;
    pom_text_t source;
    int32_t pid;
    int64_t start_wall_ns; /* moments: wall clock of the start, monotonic twins for offsets */
    int64_t start_ns, end_ns;
    int64_t wall_ns, cpu_ns; /* exact, of the whole action */
    pom_text_t type, kind;
    pom_outcome_t outcome;
    const void *fields; /* value stream (one map) of the action's fields; may be NULL */
    uint32_t fields_size;
    pom_tree_t tree;
    /* the bill */
    pom_text_t engine;
    int64_t period_ns;
    int64_t samples;
    int64_t missed[POM_MISS_COUNT];
    int64_t overhead_cpu_ns; /* CPU that this action cost: its samples, begin, events and end */
    int64_t overhead_ppm;    /* the process's overhead fraction now, in millionths */
    int64_t dropped_events;  /* messages that found the event queue full, or no memory */
    int64_t cut_values;      /* of fields and messages that were cut or left out for want of room */
    int64_t shed;            /* actions refused in this process since its profile before this one */
} pom_profile_t;

/* Returns owned, zeroed, one reference, arena ready; NULL for no memory. [any] */
pom_profile_t *pom_profile_new(size_t arena_cap);

/* For who makes one after the other: the memory of those that are gone, 300 KiB at most. NULL for
 * no memory. [any] */
pom_block_pool_t *pom_profile_pool_new(void);

/* As pom_profile_new, with memory of the pool, which it goes back to. By one thread at a time. It
 * asks for the memory of the one after it. */
pom_profile_t *pom_profile_new_in(pom_block_pool_t *pool, size_t arena_cap);

/* Asks for the memory of the profile that is made next, which was used up to seconds ago, on
 * another core. As pom_profile_new_in. */
void pom_profile_prefetch_next(const pom_block_pool_t *pool);

pom_profile_t *pom_profile_ref(pom_profile_t *profile); /* [any] */
void pom_profile_unref(pom_profile_t *profile);         /* [any], accepts NULL */

/* Asks for the memory of a profile that is read next: it was written up to a second ago, on another
 * core. [any] */
void pom_profile_prefetch(const pom_profile_t *profile);

/* Bytes it holds, for queue budgets. [any] */
size_t pom_profile_bytes(const pom_profile_t *profile);

#endif
