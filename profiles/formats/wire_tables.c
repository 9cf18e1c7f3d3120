/*
 * Three tables of one kind: entries in an array, found through open addressing by 64-bit hash, and
 * compared in full, since texts come from users and hashes can be made to collide.
 *
 * A batch has some thousand nodes and each asks for a code and a stack, so codes are compared by
 * pointer first and their hash is the one that the code object carries. Stacks are numbers only.
 *
 * The tables live for one batch and are as large as what the batch says; the batch is bounded by
 * its maker. Runs on any thread.
 */
#include "profiles/formats/wire_tables.h"

#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"

#define ROOM_FIRST 64 /* entries: a batch of one small request */

typedef bool equal_fn(const void *entry, const void *wanted);

static bool grow(pom__wire_index_t *x, size_t entry_size) {
    uint32_t room = x->room != 0 ? x->room * 2 : ROOM_FIRST;
    void *entries = pom_realloc(x->entries, room * entry_size);
    if (entries == NULL) {
        return false;
    }
    x->entries = entries;
    uint64_t *hashes = pom_realloc(x->hashes, room * sizeof *hashes);
    if (hashes == NULL) {
        return false;
    }
    x->hashes = hashes;
    uint32_t slot_count = room * 2; /* at most half full */
    uint32_t *slots = pom_calloc(slot_count, sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < x->count; i++) {
        uint64_t at = hashes[i] & (slot_count - 1);
        while (slots[at] != 0) {
            at = (at + 1) & (slot_count - 1);
        }
        slots[at] = i + 1;
    }
    pom_free(x->slots);
    x->slots = slots;
    x->slot_count = slot_count;
    x->room = room;
    return true;
}

/* Number of the entry, from 0; added when it is new. UINT32_MAX for no memory. */
static uint32_t find_or_add(pom__wire_index_t *x, const void *wanted, size_t entry_size,
                            uint64_t hash, equal_fn *equal) {
    if (x->count == x->room && !grow(x, entry_size)) {
        return UINT32_MAX;
    }
    char *entries = x->entries;
    uint64_t at = hash & (x->slot_count - 1);
    while (x->slots[at] != 0) {
        uint32_t number = x->slots[at] - 1;
        if (x->hashes[number] == hash && equal(entries + number * entry_size, wanted)) {
            return number;
        }
        at = (at + 1) & (x->slot_count - 1);
    }
    memcpy(entries + x->count * entry_size, wanted, entry_size);
    x->hashes[x->count] = hash;
    x->slots[at] = ++x->count;
    return x->count - 1;
}

static void index_fini(pom__wire_index_t *x) {
    pom_free(x->entries);
    pom_free(x->hashes);
    pom_free(x->slots);
    memset(x, 0, sizeof *x);
}

void pom__wire_tables_init(pom__wire_tables_t *tables) {
    memset(tables, 0, sizeof *tables);
    (void)pom__wire_text(tables, (pom_text_t){NULL, 0}); /* number 0 in any case */
}

void pom__wire_tables_fini(pom__wire_tables_t *tables) {
    index_fini(&tables->texts);
    index_fini(&tables->codes);
    index_fini(&tables->stacks);
}

static bool same_bytes(const char *a, size_t a_size, const char *b, size_t b_size) {
    return a_size == b_size && (a_size == 0 || memcmp(a, b, a_size) == 0);
}

static bool same_text(const void *entry, const void *wanted) {
    const pom_text_t *a = entry, *b = wanted;
    return same_bytes(a->data, a->size, b->data, b->size);
}

uint32_t pom__wire_text(pom__wire_tables_t *tables, pom_text_t text) {
    uint64_t hash = pom_hash_bytes(text.size > 0 ? text.data : "", text.size);
    uint32_t number = find_or_add(&tables->texts, &text, sizeof text, hash, same_text);
    tables->failed = tables->failed || number == UINT32_MAX;
    return number != UINT32_MAX ? number : 0;
}

static bool same_code(const void *entry, const void *wanted) {
    const pom__wire_code_t *a = entry, *b = wanted;
    const pom_code_t *one = a->code, *other = b->code;
    if (a->by_file != b->by_file) {
        return false;
    }
    if (one == other) {
        return true;
    }
    /* The same source in another object, as a nested function has it. */
    return same_bytes(one->file, one->file_len, other->file, other->file_len) &&
           (a->by_file ||
            (one->first_line == other->first_line &&
             same_bytes(one->function, one->function_len, other->function, other->function_len)));
}

uint32_t pom__wire_code(pom__wire_tables_t *tables, const pom_code_t *code,
                        pom_granularity_t granularity) {
    pom__wire_code_t wanted = {.code = code, .by_file = granularity == POM_BY_FILE};
    uint64_t hash = pom_hash_mix(wanted.by_file ? code->file_key : code->function_key);
    uint32_t before = tables->codes.count;
    uint32_t number = find_or_add(&tables->codes, &wanted, sizeof wanted, hash, same_code);
    if (number == UINT32_MAX) {
        tables->failed = true;
        return 0;
    }
    if (number == before) {
        pom__wire_code_t *entry = (pom__wire_code_t *)tables->codes.entries + number;
        entry->file = pom__wire_text(tables, (pom_text_t){code->file, code->file_len});
        if (!entry->by_file) {
            entry->function =
                pom__wire_text(tables, (pom_text_t){code->function, code->function_len});
        }
    }
    return number + 1;
}

static bool same_stack(const void *entry, const void *wanted) {
    const pom__wire_stack_t *a = entry, *b = wanted;
    return a->parent == b->parent && a->code == b->code && a->line == b->line;
}

uint32_t pom__wire_stack(pom__wire_tables_t *tables, uint32_t parent, uint32_t code, int32_t line) {
    pom__wire_stack_t wanted = {parent, code, line};
    uint64_t hash = pom_hash_join((uint64_t)parent << 32 | code, (uint32_t)line);
    uint32_t number = find_or_add(&tables->stacks, &wanted, sizeof wanted, hash, same_stack);
    tables->failed = tables->failed || number == UINT32_MAX;
    return number != UINT32_MAX ? number + 1 : 0;
}
