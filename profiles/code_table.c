/*
 * The code table: open addressing, a fixed array, no lock.
 *
 * Who is here at the same time: the sampler (one thread, no GIL) and one holder of the GIL. The
 * protocol is safe for these two; two GIL holders exclude each other.
 *
 * A slot is a key and a word. The word decides:
 *
 *     EMPTY    never used; ends every probe. It never comes back, so a probe that stops here has
 *              missed nothing.
 *     VACANT   used before (a tombstone). An inserter may take it.
 *     LOCKED   one thread is filling or clearing the slot: some five instructions. Everybody else
 *              passes by as if it were some other key; nobody ever waits.
 *     pointer  an entry, a claim: the code was read without the GIL.
 *     pointer|CONFIRMED  an entry, read under the GIL.
 *
 *     EMPTY, VACANT --cas--> LOCKED --store--> pointer --cas--> LOCKED --store--> VACANT
 *
 * The key is written only between the two LOCKED steps, which makes the word a sequence lock over
 * the key: word, key, the same word again means that they belong together. A pointer is published
 * once in its life and freed by the sampler alone, so the sampler sees no ABA. A GIL holder could
 * (the sampler discards, reaps and publishes a new block at the same address): so it trusts
 * confirmed entries only, which nobody removes while it holds the GIL, and checks the key again
 * after it has locked.
 *
 * Why confirmed. The sampler reads a frame, its code dies, another is born at the address: whatever
 * the sampler inserts now is wrong, and it finds out by the epoch a moment later. In between a GIL
 * holder must not meet that entry. So a GIL holder passes over claims, reads the object itself once
 * (it is alive: its frame is running) and its entry replaces the claim. The sampler takes either.
 *
 * Why duplicates do no harm. Passing by a LOCKED slot can end in two entries of one key. Both
 * describe the same object or one of them is a claim that its sample is about to discard. Forget
 * and discard walk the whole probe window and take out all entries of the key, not the first.
 *
 * Why forget leaves nothing stale. Confirmed entries are inserted and forgotten under the GIL, one
 * after the other. A claim can hide from forget only in a LOCKED slot, that is while the sampler is
 * between its two steps. Then: the sampler stores the pointer and later loads the epoch; forget
 * adds to the epoch and later loads the word. All four are sequentially consistent, so if forget
 * has not seen the pointer, the sampler sees the new epoch and discards what it inserted.
 *
 * Why a reap releases what the reap before it found. An app thread queues an event that names a
 * code without a reference, and the code may die right after, when the sampler has emptied the
 * event queue but not yet the graveyard. The event was queued before the code was removed, so the
 * sampler has seen it by the second reap after that.
 *
 * Claims that turn out `<unknown>` are tried again now and then: the key may have been garbage from
 * a torn frame, no death is ever announced for it, and a real object may be born there.
 *
 * A fork can catch the sampler with a slot LOCKED. The child passes by that slot for ever: one of
 * thousands.
 */
#include "profiles/code_table.h"

#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/prefetch.h"
#include "base/queue.h"

#define EMPTY     ((uintptr_t)0)
#define VACANT    ((uintptr_t)2)
#define LOCKED    ((uintptr_t)4)
#define CONFIRMED ((uintptr_t)1)

/* Slots looked at for one key: 1 KiB, 16 cache lines in a row. A table that is 3/4 full looks at
 * 8.5 slots for an absent key on average. */
#define PROBE_MAX 64

/* Every so many hits of an unreadable claim the object is read again. Each read costs some
 * microseconds of the sampler; at 64 it adds little to a frame that is always unreadable. */
#define UNKNOWN_HITS_PER_RETRY 64

/* Of the line table, which follows the code in its block: where most of them are searched. */
#define CODE_RUNS_BYTES 128

typedef struct slot_s {
    _Atomic(uintptr_t) word;
    _Atomic(uintptr_t) key; /* means something while word is a pointer */
} slot_t;

struct pom_code_table_s {
    /* constant after new */
    slot_t *slots;
    size_t mask;
    pom_code_resolver_t *resolver; /* borrowed */
    pom_code_t *overflow;          /* the answer when there is no room */
    pom_code_t *no_memory;         /* the answer when a code could not be made */
    /* sampler only */
    uint32_t unknown_hits;
    pom_link_t *limbo; /* removed before the last reap */
    /* atomic */
    pom_queue_t graveyard; /* removed codes, by their grave link */
    _Atomic(uint64_t) epoch;
    _Atomic(uint64_t) removals;
    /* atomic, counters: relaxed, they order nothing */
    _Atomic(int64_t) live, inserted, forgotten, overflowed, unknown;
};

static bool is_entry(uintptr_t word) {
    return word > LOCKED;
}

static pom_code_t *code_of(uintptr_t word) {
    return (pom_code_t *)(word & ~CONFIRMED);
}

static void count(_Atomic(int64_t) *counter, int64_t by) {
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static slot_t *slot_at(const pom_code_table_t *table, uintptr_t key, size_t step) {
    return &table->slots[(pom_hash_mix(key) + step) & table->mask];
}

static pom_code_t *permanent_code(const char *name) {
    pom_code_spec_t spec = {.file = name,
                            .file_len = strlen(name),
                            .function = name,
                            .function_len = strlen(name),
                            .first_line = -1,
                            .unknown = false};
    return pom_code_new(&spec);
}

pom_code_table_t *pom_code_table_new(size_t capacity, pom_code_resolver_t *resolver) {
    assert(capacity != 0 && (capacity & (capacity - 1)) == 0);
    pom_code_table_t *table = pom_calloc(1, sizeof *table);
    if (table == NULL) {
        return NULL;
    }
    // All-zero is a valid start for every atomic here: EMPTY words, zero counters, an empty queue.
    table->slots = pom_calloc(capacity, sizeof *table->slots);
    table->mask = capacity - 1;
    table->resolver = resolver;
    table->overflow = permanent_code("<overflow>");
    table->no_memory = permanent_code("<no memory>");
    pom_queue_init(&table->graveyard);
    if (table->slots == NULL || table->overflow == NULL || table->no_memory == NULL) {
        pom_code_table_free(table);
        return NULL;
    }
    table->no_memory->unknown = true; // for who remembers codes: nothing was read, so ask again
    return table;
}

void pom_code_table_free(pom_code_table_t *table) {
    if (table == NULL) {
        return;
    }
    pom_code_table_reap(table);
    pom_code_table_reap(table); // the first one put them into limbo
    for (size_t i = 0; table->slots != NULL && i <= table->mask; i++) {
        // Relaxed: the caller says that nobody else uses the table any more.
        uintptr_t word = atomic_load_explicit(&table->slots[i].word, memory_order_relaxed);
        if (is_entry(word)) {
            pom_code_unref(code_of(word));
        }
    }
    pom_free(table->slots);
    pom_code_unref(table->overflow);
    pom_code_unref(table->no_memory);
    pom_free(table);
}

/* Takes an entry out of its slot if it still is `word` of `key`. The code goes to the graveyard. */
static bool remove_entry(pom_code_table_t *table, slot_t *slot, uintptr_t word, uintptr_t key) {
    // Acquire pairs with the publishing store in insert: the code's content is ours to write its
    // grave link into.
    if (!atomic_compare_exchange_strong_explicit(&slot->word, &word, LOCKED, memory_order_acquire,
                                                 memory_order_relaxed)) {
        return false;
    }
    // Relaxed: nobody writes the key of a slot that we have locked. It differs only for a GIL
    // holder whose claim was replaced by a new block at the same address. That claim is then
    // removed too rather than put back, since the sampler's discard may have passed by meanwhile;
    // it will be read again.
    bool same = atomic_load_explicit(&slot->key, memory_order_relaxed) == key;
    // Release pairs with the acquire of the next inserter's compare-and-swap.
    atomic_store_explicit(&slot->word, VACANT, memory_order_release);
    // Before the push, whose release orders it: a reap that has found the code has seen this too,
    // so by the reap that frees it the sampler knows.
    atomic_fetch_add_explicit(&table->removals, 1, memory_order_seq_cst);
    pom_queue_push(&table->graveyard, &code_of(word)->grave);
    count(&table->live, -1);
    return same;
}

/* True when `word` read from the slot is an entry of `key`. */
static bool is_entry_of(slot_t *slot, uintptr_t word, uintptr_t key) {
    if (!is_entry(word)) {
        return false;
    }
    // Acquire pairs with the release of the key in insert: having seen a later inserter's key, the
    // second load of the word cannot return what was there before that inserter locked the slot.
    if (atomic_load_explicit(&slot->key, memory_order_acquire) != key) {
        return false;
    }
    return atomic_load_explicit(&slot->word, memory_order_relaxed) == word;
}

/* Puts code into the first free slot of the window; false when there is none. */
static bool insert(pom_code_table_t *table, uintptr_t key, pom_code_t *code, bool confirmed) {
    uintptr_t filled = (uintptr_t)code | (confirmed ? CONFIRMED : 0);
    for (size_t step = 0; step < PROBE_MAX && step <= table->mask; step++) {
        slot_t *slot = slot_at(table, key, step);
        // Relaxed: the compare-and-swap below is what counts.
        uintptr_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);
        if (word != EMPTY && word != VACANT) {
            continue;
        }
        // Acquire pairs with the release that vacated the slot. A failure means that the other
        // thread took the slot, and it is passed by like any used one.
        if (!atomic_compare_exchange_strong_explicit(&slot->word, &word, LOCKED,
                                                     memory_order_acquire, memory_order_relaxed)) {
            continue;
        }
        // Release pairs with the acquire of the key in is_entry_of.
        atomic_store_explicit(&slot->key, key, memory_order_release);
        // Publishes the code's content: pairs with the load of the word in get. Sequentially
        // consistent, as one of the four accesses that settle a race with a death (see the top of
        // this file).
        atomic_store_explicit(&slot->word, filled, memory_order_seq_cst);
        count(&table->inserted, 1);
        count(&table->live, 1);
        return true;
    }
    return false;
}

/* The entry of `key` that this caller may use, or NULL. *room: an insertion could succeed. */
static pom_code_t *find(pom_code_table_t *table, uintptr_t key, bool gil_held, bool *room) {
    *room = false;
    for (size_t step = 0; step < PROBE_MAX && step <= table->mask; step++) {
        slot_t *slot = slot_at(table, key, step);
        // Acquire pairs with the publishing store in insert: the code's content is visible.
        uintptr_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
        if (word == EMPTY) {
            *room = true;
            return NULL;
        }
        if (word == VACANT) {
            *room = true;
        } else if (is_entry_of(slot, word, key)) {
            if ((word & CONFIRMED) != 0) {
                return code_of(word);
            }
            if (!gil_held) {
                // Only the sampler comes here, and only it frees: reading the claim is safe.
                if (!code_of(word)->unknown ||
                    ++table->unknown_hits % UNKNOWN_HITS_PER_RETRY != 0) {
                    return code_of(word);
                }
            }
            // A claim that is to be read anew, by a GIL holder or for being unknown: make room.
            (void)remove_entry(table, slot, word,
                               key); // lost to the other thread is as good as removed
            *room = true;
        }
    }
    return NULL;
}

pom_code_t *pom_code_table_get(pom_code_table_t *table, uintptr_t key, bool gil_held, bool *fresh) {
    bool room;
    pom_code_t *code = find(table, key, gil_held, &room);
    if (code != NULL) {
        return code;
    }
    if (!room) {
        count(&table->overflowed, 1); // before the object is read: a full table must stay cheap
        return table->overflow;
    }
    code = table->resolver->resolve(table->resolver, key, gil_held);
    if (code == NULL) {
        return table->no_memory; // not inserted: the next sight may have more luck
    }
    // One published pointer, one entry, one grave link: the resolver must not hand out shared
    // codes.
    assert(atomic_load_explicit(&code->refs, memory_order_relaxed) == 1);
    if (code->unknown) {
        count(&table->unknown, 1);
    }
    if (!insert(table, key, code, gil_held)) {
        pom_code_unref(code); // the other thread took the last free slot of the window
        count(&table->overflowed, 1);
        return table->overflow;
    }
    if (fresh != NULL) {
        *fresh = true;
    }
    return code;
}

void pom_code_table_prefetch(const pom_code_table_t *table, uintptr_t key) {
    pom_prefetch_read_all(slot_at(table, key, 0), sizeof(slot_t));
}

void pom_code_table_prefetch_code(const pom_code_table_t *table, uintptr_t key) {
    // Relaxed: only the address is used, and a wrong one does no harm. Most keys are found at the
    // first step.
    uintptr_t word = atomic_load_explicit(&slot_at(table, key, 0)->word, memory_order_relaxed);
    if (is_entry(word)) {
        pom_prefetch_read_all(code_of(word), sizeof(pom_code_t) + CODE_RUNS_BYTES);
    }
}

/* Removes every entry of `key`, or every claim of it; returns how many. */
static int64_t remove_all(pom_code_table_t *table, uintptr_t key, bool claims_only) {
    int64_t removed = 0;
    for (size_t step = 0; step < PROBE_MAX && step <= table->mask; step++) {
        slot_t *slot = slot_at(table, key, step);
        // Sequentially consistent: for forget it is one of the four accesses that settle a race
        // with a death (see the top of this file).
        uintptr_t word = atomic_load_explicit(&slot->word, memory_order_seq_cst);
        if (word == EMPTY) {
            break;
        }
        if (claims_only && (word & CONFIRMED) != 0) {
            continue;
        }
        if (is_entry_of(slot, word, key) && remove_entry(table, slot, word, key)) {
            removed++;
        }
    }
    return removed;
}

void pom_code_table_forget(pom_code_table_t *table, uintptr_t key) {
    // Before the look at the slots, sequentially consistent: pairs with the load in
    // pom_code_table_epoch (see the top of this file).
    atomic_fetch_add_explicit(&table->epoch, 1, memory_order_seq_cst);
    count(&table->forgotten, remove_all(table, key, false));
}

uint64_t pom_code_table_epoch(const pom_code_table_t *table) {
    // Sequentially consistent: pairs with the addition in pom_code_table_forget.
    return atomic_load_explicit(&table->epoch, memory_order_seq_cst);
}

uint64_t pom_code_table_removals(const pom_code_table_t *table) {
    // Sequentially consistent: after a death and the birth of a successor at its address, who has
    // seen the successor's frame must see the removal.
    return atomic_load_explicit(&table->removals, memory_order_seq_cst);
}

void pom_code_table_discard(pom_code_table_t *table, uintptr_t key) {
    // A confirmed entry was read from the living object meanwhile, so it stays.
    (void)remove_all(table, key, true); // how many is of no interest: `live` has counted them
}

void pom_code_table_reap(pom_code_table_t *table) {
    pom_link_t *link = table->limbo;
    table->limbo = pom_queue_take_all_unordered(&table->graveyard);
    while (link != NULL) {
        pom_link_t *next = link->next;
        pom_code_unref(POM_CONTAINER(link, pom_code_t, grave));
        link = next;
    }
}

pom_code_table_stats_t pom_code_table_stats(const pom_code_table_t *table) {
    pom_code_table_stats_t stats = {
        .live = atomic_load_explicit(&table->live, memory_order_relaxed),
        .inserted = atomic_load_explicit(&table->inserted, memory_order_relaxed),
        .forgotten = atomic_load_explicit(&table->forgotten, memory_order_relaxed),
        .overflowed = atomic_load_explicit(&table->overflowed, memory_order_relaxed),
        .unknown = atomic_load_explicit(&table->unknown, memory_order_relaxed),
    };
    return stats;
}
