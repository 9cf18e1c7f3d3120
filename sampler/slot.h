/*
 * Slots: where an app thread says what it is doing, for the sampler to read.
 *
 * A thread claims one slot at its first action and keeps it until it exits. In it stands a small
 * table of anchors: (frame, action) pairs. A stack walk that meets an anchor belongs to its action.
 *
 *     slot = pom_slots_claim(&slots, &identity);        first action of the thread
 *     pom_slot_attach(slot, &anchor);                   the action runs here now
 *     nth = slot->attaches;                             what this one is called
 *     pom_slot_detach(slot, nth);                       it no longer does
 *     pom_slots_release(&slots, slot);                  the thread exits
 *
 * Seqlock: the one writer (the thread itself, [app]) makes `seq` odd, changes, makes it even; the
 * sampler copies, and discards its copy when `seq` moved. Nobody waits, with one exception: release
 * waits for a walk of this very slot to end (microseconds), because after it the thread's stack
 * memory goes away; it runs at thread exit, outside any request.
 */
#ifndef POM_SAMPLER_SLOT_H
#define POM_SAMPLER_SLOT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rseq.h"
#include "base/status.h"
#include "sampler/thread_files.h"

/* Callers of the anchor frame that a lexical action remembers, nearest first: when the anchor has
 * returned, the nearest one still running owns the samples. Three covers __enter__ in a helper, an
 * ExitStack and one decorator in between. Or, of an anchor that is a generator's, what that has
 * called. */
#define POM_ANCHOR_CALLERS 3

/* An anchor's frame counts only while it still runs this code: frame addresses are reused. */
typedef struct pom_frame_id_s {
    uintptr_t frame; /* 0 = the end of the thread's chain */
    uintptr_t code;  /* 0 = do not compare */
} pom_frame_id_t;

typedef enum pom_anchor_kind_e {
    POM_ANCHOR_OUTSIDE, /* the frame is not part of the stack: the server's, for WSGI */
    POM_ANCHOR_INSIDE   /* it is: the frame with the block */
} pom_anchor_kind_t;

typedef struct pom_anchor_s {
    pom_frame_id_t at;
    pom_frame_id_t callers[POM_ANCHOR_CALLERS]; /* frame 0 = none; always inside */
    void *action;                               /* never dereferenced on this floor; NULL = a gap */
    uint64_t nth;                               /* the attach, by the slot's count; set by it */
    int64_t since_ns;                           /* monotonic moment of the attach */
    int64_t since_cpu_ns;                       /* thread CPU clock then */
    int64_t before_ns, before_cpu_ns;           /* wall and CPU time of its earlier attaches */
    pom_anchor_kind_t kind;
    /* 0: the callers stand in for the frame. Else it is a generator's or a coroutine's, which has
     * called them: they are no anchors, but where the stack begins, nearest to its leaf first, as
     * long as the frame stands where it stood then. */
    uint32_t called_at;
} pom_anchor_t;

/* What called_at is of a frame that stands at an instruction, -1 = before its first one. [any] */
static inline uint32_t pom_anchor_called_at(int32_t instruction) {
    return (uint32_t)instruction + 2;
}

/* The frame is among the anchor's callers. [any] */
static inline bool pom_anchor_remembers(const pom_anchor_t *anchor, uintptr_t frame,
                                        uintptr_t code) {
    for (int i = 0; i < POM_ANCHOR_CALLERS && anchor->callers[i].frame != 0; i++) {
        if (anchor->callers[i].frame == frame && anchor->callers[i].code == code) {
            return true;
        }
    }
    return false;
}

/* Actions one thread can have attached at once (asyncio tasks, greenlets). The table grows by
 * doubling up to this; an action that finds no room runs unsampled, counted. 4096 anchors are 480
 * KiB. */
#define POM_ANCHORS_MAX   4096
#define POM_ANCHORS_FIRST 4

/* What the slot's thread is; constant while it is claimed. */
typedef struct pom_thread_identity_s {
    int32_t tid;          /* kernel thread id, for its CPU clock */
    uint64_t ident;       /* the interpreter's thread id */
    uintptr_t state;      /* the interpreter's thread state */
    uintptr_t stack_low;  /* C stack, lowest address that may be read */
    uintptr_t stack_high; /* one past the highest */
    /* where its CPU's number stands, an int32_t kept by the kernel (rseq); 0 = unknown */
    uintptr_t cpu;
    char name[64]; /* NUL-terminated UTF-8, cut */
} pom_thread_identity_t;

typedef struct pom_anchor_table_s {
    struct pom_anchor_table_s *retired; /* older, smaller tables: freed with the slots */
    uint32_t room;
    pom_anchor_t anchors[];
} pom_anchor_table_t;

/* Shed actions open on one thread at a time; more than this many interleave only on greenlets and
 * asyncio tasks, and then the rest is taken for outermost and asks admission itself. */
#define POM_SHED_MAX 16

/* With more anchors than this, app threads look at marks before they look at anchors, 120 bytes
 * each: a frame's address falls on one of 16384, four times the largest table. A mark says how many
 * frames fell on it, and of a single one enough to tell it from others: with a thousand anchors one
 * strange frame in 500 is mistaken for one, where counts alone took one in 16, each at the price of
 * looking at all. 64 KiB, only for threads that ever had so many. */
#define POM_SLOT_MARKED 16
#define POM_SLOT_MARKS  16384

/* What the owner knows of its thread's CPU clock. All 0: nothing yet, as those moments are long
 * ago. */
typedef struct pom_slot_cpu_s {
    int64_t known_ns, known_at_ns; /* the clock, and when it said so, monotonic */
    int64_t read_at_ns;            /* when the kernel was asked */
    pom_rseq_asker_t asker;        /* whether it has run on since */
} pom_slot_cpu_t;

typedef struct pom_slot_s {
    /* constant once linked */
    _Atomic(struct pom_slot_s *) next;
    /* written by claim and release under the interpreter's lock, read by the sampler while count >
     * 0 */
    pom_thread_identity_t who;
    bool claimed;    /* [app] */
    uint64_t serial; /* [app] the owner's mark: tells a claim from the next one of the same slot */
    uint64_t attaches;   /* [app] ever: names an attach, and tells whether a stretch had company */
    uint32_t gaps;       /* [app] places among count whose anchor has been withdrawn */
    pom_slot_cpu_t cpu;  /* [app] */
    uint32_t shed_count; /* [app], never looked at by the sampler, likewise shed */
    /* frames, and the holder for the action: what begins inside it follows its decision */
    pom_anchor_t shed[POM_SHED_MAX];
    uint32_t *marks; /* [app] NULL = few anchors */
    /* seqlock: written by the owner thread */
    _Atomic(uint32_t) seq;   /* odd while changing; pairs with the fences in pom_slot_view */
    _Atomic(uint32_t) count; /* places in use; 0 when nothing is attached */
    _Atomic(pom_anchor_table_t *) table;
    /* written by the thread as it ends, without the interpreter's lock; pairs like count in
     * pom_slots_release */
    _Atomic(bool) ended; /* nobody has released the slot, and its stack and thread state are gone */
    /* A cache line apart, by size: malloc aligns to 16 bytes, so _Alignas would promise what it
     * does not keep. */
    char apart[64];
    /* written by the sampler: it reads this slot's stack now; pairs with the load in
     * pom_slots_release */
    _Atomic(bool) walking;
    /* sampler thread only */
    /* CPU clock when it was last seen to run, or to wait for no CPU of ours */
    int64_t asked_cpu_ns;
    int64_t look_ns;      /* the last look that showed what the thread did; 0 = none */
    int64_t look_cpu_ns;  /* CPU clock then */
    int32_t look_tid;     /* of which thread */
    uint32_t look_seq;    /* seq then, if one anchor was attached and met; odd = no such look */
    bool look_running;    /* it was on a CPU then, or had to leave it to us */
    int64_t look_turns;   /* how often it had been given a CPU by then, -1 = not asked */
    uint32_t parked_next; /* whose turn it is among the anchors that do not run */
    pom_thread_files_t files;
} pom_slot_t;

typedef struct pom_slots_s {
    _Atomic(pom_slot_t *) first; /* append-only; slots are reused, never unlinked */
    uint32_t total;              /* [app] under the interpreter's lock */
    uint32_t max;
} pom_slots_t;

/* A mark: a count of frames above the exclusive or of their prints. */
#define POM__MARK_ONE  (UINT32_C(1) << 24)
#define POM__MARK_MOST UINT32_C(255) /* lost count */

static inline uint64_t pom__slot_hash(uintptr_t frame) {
    return (uint64_t)frame * UINT64_C(0x9e3779b97f4a7c15);
}

static inline uint32_t pom__slot_mark(uint64_t hash) {
    return (uint32_t)(hash >> 50);
}

static inline uint32_t pom__slot_print(uint64_t hash) {
    return (uint32_t)(hash >> 26) & (POM__MARK_ONE - 1);
}

static inline uint32_t pom__mark_count(uint32_t mark) {
    return mark / POM__MARK_ONE;
}

#define POM_SLOTS_MAX 4096 /* threads with actions at once; 3 KiB each */

void pom_slots_init(pom_slots_t *slots);
/* No thread may use a slot any more. */
void pom_slots_fini(pom_slots_t *slots);

/* NULL: no memory, or POM_SLOTS_MAX threads have one. [app], callers serialised by the
 * interpreter's lock. */
pom_slot_t *pom_slots_claim(pom_slots_t *slots, const pom_thread_identity_t *who);

/* Withdraws what is attached, then waits for a walk of this slot to end. [app], likewise
 * serialised. */
void pom_slots_release(pom_slots_t *slots, pom_slot_t *slot);

/* The slot's thread ends and nobody has released the slot: nothing of the thread is looked at from
 * here on. Waits for a walk of this slot to end. [the thread itself, at its very end, without the
 * interpreter's lock] */
void pom_slot_end(pom_slot_t *slot);

/* The owner thread publishes an anchor; no allocation but when the table doubles or is first
 * marked. POM_EFULL or POM_ENOMEM: the action runs unsampled. The sampler is notified next: that is
 * the fence between this and a look at its parked flag. [app] */
pom_status_t pom_slot_attach(pom_slot_t *slot, const pom_anchor_t *anchor);

/* Withdraws the anchor of the nth attach; false when it is gone. Whatever its place the cost is
 * that of a binary search, and now and then of closing the gaps. Any app thread may call it for a
 * slot whose owner is not changing it, which the interpreter's lock guarantees. [app] */
bool pom_slot_detach(pom_slot_t *slot, uint64_t nth);

/* How many anchors it has. [app] */
static inline uint32_t pom_slot_attached(const pom_slot_t *slot) {
    return atomic_load_explicit(&slot->count, memory_order_relaxed) - slot->gaps;
}

/* False: no anchor of the slot is at this frame, nor has it as a caller that stands in for it.
 * [app] */
static inline bool pom_slot_may_anchor(const pom_slot_t *slot, uintptr_t frame) {
    if (slot->marks == NULL) {
        return true;
    }
    uint64_t hash = pom__slot_hash(frame);
    uint32_t mark = slot->marks[pom__slot_mark(hash)];
    return pom__mark_count(mark) > 1 || mark == POM__MARK_ONE + pom__slot_print(hash);
}

/* Withdraws every anchor of every slot: the engine stops. [app] */
void pom_slots_withdraw(pom_slots_t *slots);

/* In a forked child: no sampler walks here (a release would wait for it for ever), and its
 * descriptors, which show the parent's threads, are closed. All else is left as it is, and may be
 * abandoned. [app, the child's only thread] */
void pom_slots_after_fork(pom_slots_t *slots);

/* Something is attached, on a thread that is there. [sampler] */
static inline bool pom_slot_is_active(const pom_slot_t *slot) {
    return atomic_load_explicit(&slot->count, memory_order_relaxed) > 0 &&
           !atomic_load_explicit(&slot->ended, memory_order_relaxed);
}

/* Something is attached on the thread with this state. [sampler] */
bool pom_slots_busy(const pom_slots_t *slots, uintptr_t state);

/* A copy of a slot's anchors for one walk. */
typedef struct pom_slot_view_s {
    pom_slot_t *slot;
    uint32_t seq;
    int32_t tid; /* of the slot's thread; `who` may be read only while `walking` keeps it */
    uint32_t count;
    pom_anchor_t *anchors; /* the caller's storage */
} pom_slot_view_t;

/* Copies at most `room` anchors, newest first. False: not active, or it was changing (four tries).
 * [sampler] */
bool pom_slot_view(pom_slot_t *slot, pom_slot_view_t *view, pom_anchor_t *storage, uint32_t room);

/* True while nothing has changed since the view was taken, and the thread is there. [sampler] */
bool pom_slot_view_holds(const pom_slot_view_t *view);

#endif
