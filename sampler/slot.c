/*
 * Slots: a seqlock per thread around a small table of anchors.
 *
 * Writers are app threads; the interpreter's lock keeps them apart, so claim and release need no
 * lock of their own, and a detach may come from another thread than the owner (a body closed
 * elsewhere). The sampler reads without any lock: it copies the table between two looks at `seq`.
 * Anchors are copied with plain memcpy of words that a writer may be changing; a copy taken during
 * a change is thrown away, never looked at.
 *
 * A table that grows is replaced, and the old one kept until the end: a sampler that still copies
 * from it reads stale but mapped memory, and the seq check discards the copy. Tables double, so
 * what is kept is less than what is used.
 *
 * Anchors stand in the order of their attaches, since the newest of two at one frame is the one
 * that counts. One that is withdrawn from among them leaves a gap, which no frame matches; gaps are
 * closed all at once when there are more of them than anchors. So a detach costs the same whichever
 * of a thousand asyncio tasks is over, where moving up what was behind it copied 60 KB on average.
 *
 * Not decided here: what an anchor means (the walker) and whose time it is (the registry).
 *
 * Over 400 lines: each store of the writers' has its partner among the sampler's loads, and both
 * want to be on one page.
 */
#include "sampler/slot.h"

#include <sched.h>
#include <string.h>

#include "base/alloc.h"

#define VIEW_TRIES 4

/* A gap's frame: neither the end of a chain nor an address of one. */
#define NO_FRAME 1

/* Gaps beyond the number of anchors before they are closed: a few actions in turn should not close
 * them at each detach. */
#define GAPS_SPARE 16

static pom_anchor_table_t *table_new(uint32_t room) {
    pom_anchor_table_t *table =
        pom_calloc(1, sizeof(pom_anchor_table_t) + room * sizeof(pom_anchor_t));
    if (table != NULL) {
        table->room = room;
    }
    return table;
}

void pom_slots_init(pom_slots_t *slots) {
    atomic_init(&slots->first, NULL);
    slots->total = 0;
    slots->max = POM_SLOTS_MAX;
}

void pom_slots_fini(pom_slots_t *slots) {
    pom_slot_t *slot = atomic_load_explicit(&slots->first, memory_order_acquire);
    while (slot != NULL) {
        pom_slot_t *next = atomic_load_explicit(&slot->next, memory_order_relaxed);
        pom_anchor_table_t *table = atomic_load_explicit(&slot->table, memory_order_relaxed);
        while (table != NULL) {
            pom_anchor_table_t *older = table->retired;
            pom_free(table);
            table = older;
        }
        pom_thread_files_close(&slot->files);
        pom_free(slot->marks);
        pom_free(slot);
        slot = next;
    }
    pom_slots_init(slots);
}

pom_slot_t *pom_slots_claim(pom_slots_t *slots, const pom_thread_identity_t *who) {
    pom_slot_t *slot = atomic_load_explicit(&slots->first, memory_order_relaxed);
    while (slot != NULL && slot->claimed) {
        slot = atomic_load_explicit(&slot->next, memory_order_relaxed);
    }
    if (slot == NULL) {
        if (slots->total >= slots->max) {
            return NULL;
        }
        slot = pom_calloc(1, sizeof(*slot));
        pom_anchor_table_t *table = table_new(POM_ANCHORS_FIRST);
        if (slot == NULL || table == NULL) {
            pom_free(slot);
            pom_free(table);
            return NULL;
        }
        atomic_init(&slot->table, table);
        slot->files = POM_THREAD_FILES_NONE;
        slot->who = *who;
        slot->claimed = true;
        atomic_init(&slot->next, atomic_load_explicit(&slots->first, memory_order_relaxed));
        // Release: pairs with the acquire in the sampler's iteration; the slot is whole before it
        // is found.
        atomic_store_explicit(&slots->first, slot, memory_order_release);
        slots->total++;
        return slot;
    }
    // The last owner's release waited for the sampler, and count is 0, so nobody reads `who` now.
    slot->who = *who;
    slot->claimed = true;
    // Relaxed: ordered by the count of the first attach, which a view reads first.
    atomic_store_explicit(&slot->ended, false, memory_order_relaxed);
    slot->shed_count = 0;
    slot->cpu = (pom_slot_cpu_t){0};
    return slot;
}

/* The writer's half of the seqlock. The fence keeps the changes behind the odd store; pairs with
 * the acquire fence in pom_slot_view_holds. */
static void write_begin(pom_slot_t *slot) {
    uint32_t seq = atomic_load_explicit(&slot->seq, memory_order_relaxed);
    atomic_store_explicit(&slot->seq, seq + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

/* Release: pairs with the acquire in pom_slot_view. A plain store, as the writers of a slot come
 * one at a time. */
static void write_end(pom_slot_t *slot) {
    uint32_t seq = atomic_load_explicit(&slot->seq, memory_order_relaxed);
    atomic_store_explicit(&slot->seq, seq + 1, memory_order_release);
}

static pom_anchor_table_t *grow(pom_slot_t *slot, pom_anchor_table_t *table) {
    pom_anchor_table_t *larger = table_new(table->room * 2);
    if (larger == NULL) {
        return NULL;
    }
    memcpy(larger->anchors, table->anchors, table->room * sizeof(pom_anchor_t));
    larger->retired = table;
    // Release: pairs with the acquire load in pom_slot_view.
    atomic_store_explicit(&slot->table, larger, memory_order_release);
    return larger;
}

static void mark_one(pom_slot_t *slot, uintptr_t frame, bool add) {
    uint64_t hash = pom__slot_hash(frame);
    uint32_t *mark = &slot->marks[pom__slot_mark(hash)];
    if (pom__mark_count(*mark) < POM__MARK_MOST) { // else it has lost count, and stays
        *mark = (*mark ^ pom__slot_print(hash)) + (add ? POM__MARK_ONE : -POM__MARK_ONE);
    }
}

static void mark(pom_slot_t *slot, const pom_anchor_t *anchor, bool add) {
    if (anchor->action == NULL) {
        return;
    }
    mark_one(slot, anchor->at.frame, add);
    int stand_ins = anchor->called_at == 0 ? POM_ANCHOR_CALLERS : 0;
    for (int i = 0; i < stand_ins && anchor->callers[i].frame != 0; i++) {
        mark_one(slot, anchor->callers[i].frame, add);
    }
}

/* Marks what is attached, once it is many. Without memory the slot goes on without marks. */
static void mark_many(pom_slot_t *slot, const pom_anchor_t *anchors, uint32_t count) {
    slot->marks = pom_calloc(POM_SLOT_MARKS, sizeof *slot->marks);
    for (uint32_t i = 0; slot->marks != NULL && i < count; i++) {
        mark(slot, &anchors[i], true);
    }
}

static void set_count(pom_slot_t *slot, uint32_t count) {
    atomic_store_explicit(&slot->count, count, memory_order_relaxed);
}

/* Moves the anchors together, in their order. Within a write. */
static void close_gaps(pom_slot_t *slot, pom_anchor_table_t *table, uint32_t count) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (table->anchors[i].action != NULL) {
            if (kept < i) {
                table->anchors[kept] = table->anchors[i];
            }
            kept++;
        }
    }
    slot->gaps = 0;
    set_count(slot, kept);
}

/* Room for one more: where a quarter is gaps, among them, else in a table twice as large. */
static pom_status_t make_room(pom_slot_t *slot, pom_anchor_table_t **table) {
    uint32_t room = (*table)->room;
    bool largest = room >= POM_ANCHORS_MAX;
    if (largest && slot->gaps == 0) {
        return POM_EFULL;
    }
    if (largest || slot->gaps > room / 4) {
        write_begin(slot);
        close_gaps(slot, *table, room);
        write_end(slot);
        return POM_OK;
    }
    pom_anchor_table_t *larger = grow(slot, *table);
    if (larger == NULL) {
        return POM_ENOMEM;
    }
    *table = larger;
    return POM_OK;
}

pom_status_t pom_slot_attach(pom_slot_t *slot, const pom_anchor_t *anchor) {
    pom_anchor_table_t *table = atomic_load_explicit(&slot->table, memory_order_relaxed);
    if (atomic_load_explicit(&slot->count, memory_order_relaxed) == table->room) {
        pom_status_t status = make_room(slot, &table);
        if (status != POM_OK) {
            return status;
        }
    }
    uint32_t count = atomic_load_explicit(&slot->count, memory_order_relaxed);
    slot->attaches++;
    write_begin(slot);
    table->anchors[count] = *anchor;
    table->anchors[count].nth = slot->attaches;
    // Release: pairs with the acquire in pom_slot_view. A copy that is thrown away is still looked
    // at for one thing, whom to blame for the miss, so even then each action in it must be one that
    // was attached.
    atomic_store_explicit(&slot->count, count + 1, memory_order_release);
    write_end(slot);
    if (slot->marks != NULL) {
        mark(slot, anchor, true);
    } else if (pom_slot_attached(slot) > POM_SLOT_MARKED) {
        mark_many(slot, table->anchors, count + 1);
    }
    return POM_OK;
}

/* The place of the nth attach, which is among the first `count`; `count` when it is gone. */
static uint32_t place_of(const pom_anchor_table_t *table, uint32_t count, uint64_t nth) {
    uint32_t low = 0, high = count;
    if (count > 0 && table->anchors[count - 1].nth == nth) {
        return count - 1; // the newest: always, where actions do not take turns
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (table->anchors[middle].nth < nth) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = low < count && table->anchors[low].nth == nth &&
                 table->anchors[low].action != NULL; // else withdrawn already
    return found ? low : count;
}

static void leave_gap(pom_slot_t *slot, pom_anchor_table_t *table, uint32_t count,
                      pom_anchor_t *anchor) {
    anchor->action = NULL;
    anchor->at.frame = NO_FRAME;
    anchor->callers[0].frame = 0;
    slot->gaps++;
    if (slot->gaps > count - slot->gaps + GAPS_SPARE) {
        close_gaps(slot, table, count);
    }
}

static void drop_newest(pom_slot_t *slot, const pom_anchor_table_t *table, uint32_t count) {
    for (count--; count > 0 && table->anchors[count - 1].action == NULL; count--) {
        slot->gaps--;
    }
    set_count(slot, count);
}

bool pom_slot_detach(pom_slot_t *slot, uint64_t nth) {
    pom_anchor_table_t *table = atomic_load_explicit(&slot->table, memory_order_relaxed);
    uint32_t count = atomic_load_explicit(&slot->count, memory_order_relaxed);
    uint32_t place = place_of(table, count, nth);
    if (place == count) {
        return false;
    }
    if (slot->marks != NULL) {
        mark(slot, &table->anchors[place], false);
    }
    write_begin(slot);
    if (place + 1 == count) {
        drop_newest(slot, table, count);
    } else {
        leave_gap(slot, table, count, &table->anchors[place]);
    }
    write_end(slot);
    return true;
}

/* Nothing is attached any more, wherever it was. */
static void withdraw(pom_slot_t *slot) {
    write_begin(slot);
    set_count(slot, 0);
    slot->gaps = 0;
    write_end(slot);
    pom_free(slot->marks);
    slot->marks = NULL;
}

/* A walk takes microseconds; yielding covers the case that the sampler lost its core. */
static void wait_for_walk(pom_slot_t *slot) {
    // Pairs with the fence between the sampler's store of `walking` and its view: either the
    // sampler sees what we have stored, or we see `walking`. A read-modify-write alone is no full
    // barrier on ARM.
    atomic_thread_fence(memory_order_seq_cst);
    while (atomic_load_explicit(&slot->walking, memory_order_acquire)) {
        (void)sched_yield(); // cannot fail on Linux
    }
}

void pom_slots_release(pom_slots_t *slots, pom_slot_t *slot) {
    (void)slots;
    withdraw(slot);
    wait_for_walk(slot);
    slot->claimed = false;
}

void pom_slot_end(pom_slot_t *slot) {
    // Not the anchors: these are changed under the interpreter's lock, by whoever has it.
    atomic_store_explicit(&slot->ended, true, memory_order_relaxed);
    wait_for_walk(slot);
}

void pom_slots_withdraw(pom_slots_t *slots) {
    pom_slot_t *slot = atomic_load_explicit(&slots->first, memory_order_relaxed);
    for (; slot != NULL; slot = atomic_load_explicit(&slot->next, memory_order_relaxed)) {
        withdraw(slot);
    }
}

void pom_slots_after_fork(pom_slots_t *slots) {
    pom_slot_t *slot = atomic_load_explicit(&slots->first, memory_order_acquire);
    for (; slot != NULL; slot = atomic_load_explicit(&slot->next, memory_order_relaxed)) {
        pom_thread_files_close(&slot->files);
        atomic_store_explicit(&slot->walking, false, memory_order_relaxed); // one thread: no order
    }
}

_Static_assert(sizeof(pom_anchor_t) % sizeof(uintptr_t) == 0, "an anchor is copied by words");

/* Copies the newest, at most `room`, newest first, without gaps; returns how many. It may race with
 * a writer; TSan is told so, and pom_slot_view_holds decides whether it counts. By words, and
 * volatile, so that no pointer in it is half of one and half of another, and no memcpy is made of
 * it (TSan looks into that one's calls all the same). What makes a place a gap is read once, so
 * that each action in the copy is one that was attached. */
__attribute__((no_sanitize("thread"))) static uint32_t
copy_anchors(pom_anchor_t *to, uint32_t room, const pom_anchor_t *from, uint32_t count) {
    uint32_t copied = 0;
    for (uint32_t i = count; i-- > 0 && copied < room;) {
        void *action = *(void *const volatile *)&from[i].action;
        if (action == NULL) {
            continue;
        }
        const volatile uintptr_t *source = (const volatile uintptr_t *)&from[i];
        uintptr_t *target = (uintptr_t *)&to[copied];
        for (size_t word = 0; word < sizeof(pom_anchor_t) / sizeof(uintptr_t); word++) {
            target[word] = source[word];
        }
        to[copied++].action = action;
    }
    return copied;
}

/* Racy in the same way: the slot may be released and claimed anew meanwhile. */
__attribute__((no_sanitize("thread"))) static int32_t copy_tid(const pom_slot_t *slot) {
    return *(const volatile int32_t *)&slot->who.tid;
}

/* Racy likewise. */
__attribute__((no_sanitize("thread"))) bool pom_slots_busy(const pom_slots_t *slots,
                                                           uintptr_t state) {
    // Acquire: pairs with the release in pom_slots_claim.
    const pom_slot_t *slot = atomic_load_explicit(&slots->first, memory_order_acquire);
    for (; slot != NULL; slot = atomic_load_explicit(&slot->next, memory_order_relaxed)) {
        if (pom_slot_is_active(slot) && *(const volatile uintptr_t *)&slot->who.state == state) {
            return true;
        }
    }
    return false;
}

bool pom_slot_view(pom_slot_t *slot, pom_slot_view_t *view, pom_anchor_t *storage, uint32_t room) {
    for (int tries = 0; tries < VIEW_TRIES; tries++) {
        uint32_t seq = atomic_load_explicit(&slot->seq, memory_order_acquire);
        if (seq & 1) {
            continue;
        }
        pom_anchor_table_t *table = atomic_load_explicit(&slot->table, memory_order_acquire);
        uint32_t count = atomic_load_explicit(&slot->count, memory_order_acquire);
        if (count == 0 || atomic_load_explicit(&slot->ended, memory_order_relaxed)) {
            return false;
        }
        if (count > table->room) {
            continue; // seen between two changes
        }
        view->slot = slot;
        view->seq = seq;
        view->tid = copy_tid(slot);
        view->count = copy_anchors(storage, room, table->anchors, count);
        view->anchors = storage;
        if (view->count > 0 && pom_slot_view_holds(view)) { // none: seen between two changes
            return true;
        }
    }
    return false;
}

bool pom_slot_view_holds(const pom_slot_view_t *view) {
    // Pairs with the release fence in write_begin: a copy that saw a change sees the odd seq too.
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&view->slot->seq, memory_order_relaxed) == view->seq &&
           !atomic_load_explicit(&view->slot->ended, memory_order_relaxed);
}
