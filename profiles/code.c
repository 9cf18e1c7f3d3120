/*
 * What is kept of a code object, and how an instruction finds its line.
 *
 * One block holds everything: the struct, its line runs, both texts with a NUL each. So making a
 * code is one allocation, releasing it one free, and a look-up of a line stays within a few
 * neighbouring cache lines.
 *
 *     | pom_code_t | runs[run_count] | file \0 | function \0 |
 *
 * Texts and runs are cut at a cap: a resolver may be reading garbage (a torn frame), and generated
 * code can be of any size. A cut text ends at a character boundary. A cut run table ends with a run
 * that says "no line", since the last kept run would otherwise claim every instruction behind it.
 *
 * Runs on any thread; the reference count is the only thing that changes after pom_code_new. This
 * file does not read the interpreter (bindings/ext does) and does not share texts between codes:
 * interning would need a table with a lock or a second graveyard, to save some 60 bytes a code.
 */
#include "profiles/code.h"

#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "profiles/plain.h"

static const char unknown_text[] = "<unknown>";

/* Bytes to keep of a text: all, or at most the cap without splitting a UTF-8 sequence. */
static size_t kept_size(const char *text, size_t size) {
    if (size <= POM_CODE_TEXT_MAX) {
        return size;
    }
    size = POM_CODE_TEXT_MAX;
    // Garbage can be nothing but continuation bytes; four steps pass any real character.
    for (int i = 0; i < 4 && ((unsigned char)text[size] & 0xC0) == 0x80; i++) {
        size--;
    }
    return size;
}

static uint64_t never_zero(uint64_t hash) {
    return hash != 0 ? hash : 1;
}

static char *put_text(char *at, const char *text, size_t size) {
    if (size != 0) {
        memcpy(at, text, size);
    }
    at[size] = '\0';
    return at + size + 1;
}

pom_code_t *pom_code_new(const pom_code_spec_t *spec) {
    const char *file = spec->unknown ? unknown_text : spec->file;
    const char *function = spec->unknown ? unknown_text : spec->function;
    const size_t file_len =
        spec->unknown ? sizeof unknown_text - 1 : kept_size(file, spec->file_len);
    const size_t function_len =
        spec->unknown ? sizeof unknown_text - 1 : kept_size(function, spec->function_len);
    const bool runs_cut = spec->run_count > POM_CODE_RUNS_MAX;
    const size_t run_count = runs_cut ? POM_CODE_RUNS_MAX : spec->run_count;
    const size_t runs_size = run_count * sizeof(pom_line_run_t);

    // The struct's size is a multiple of 8 and a run is 8 bytes with alignment 4: no padding is
    // needed.
    char *block = pom_alloc(sizeof(pom_code_t) + runs_size + file_len + function_len + 2);
    if (block == NULL) {
        return NULL;
    }
    pom_code_t *code = (pom_code_t *)(void *)block;
    pom_line_run_t *runs = (pom_line_run_t *)(void *)(block + sizeof(pom_code_t));
    char *file_at = block + sizeof(pom_code_t) + runs_size;
    char *function_at = put_text(file_at, file, file_len);
    (void)put_text(function_at, function, function_len); // the end, of no interest here
    if (run_count != 0) {
        memcpy(runs, spec->runs, runs_size);
        if (runs_cut) {
            runs[run_count - 1].line = -1;
        }
    }

    memset(code, 0, sizeof *code);
    // No partner: nobody else has the pointer yet, and whatever hands it over publishes the whole
    // block.
    atomic_init(&code->refs, 1);
    code->file = file_at;
    code->function = function_at;
    code->file_len = (uint32_t)file_len;
    code->function_len = (uint32_t)function_len;
    code->first_line = spec->first_line;
    code->run_count = (uint32_t)run_count;
    code->unknown = spec->unknown;
    code->garbage = spec->garbage;
    code->internal = spec->internal;
    code->plain = pom_is_plain(file_at, file_len) && pom_is_plain(function_at, function_len);
    code->file_key = never_zero(pom_hash_bytes(file_at, file_len));
    code->function_key =
        never_zero(pom_hash_join(code->file_key, pom_hash_bytes(function_at, function_len)));
    code->runs = runs;
    return code;
}

pom_code_t *pom_code_ref(pom_code_t *code) {
    // Relaxed: the caller already holds or borrows a reference, so the count cannot reach zero
    // meanwhile and nothing is read on the strength of this increment.
    int32_t before = atomic_fetch_add_explicit(&code->refs, 1, memory_order_relaxed);
    assert(before > 0);
    (void)before; // used by the assert only
    return code;
}

void pom_code_unref(pom_code_t *code) {
    if (code == NULL) {
        return;
    }
    // Acquire and release pair with each other across threads: every holder's reads come before its
    // decrement, and the last decrement, which frees, comes after all of them.
    int32_t before = atomic_fetch_sub_explicit(&code->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before == 1) {
        pom_free(code);
    }
}

int32_t pom_code_line(const pom_code_t *code, int32_t lasti) {
    if (lasti < 0) {
        return code->first_line;
    }
    // The last run that starts at or before the instruction is at index low - 1.
    uint32_t low = 0, high = code->run_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (code->runs[middle].start <= (uint32_t)lasti) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low == 0 ? -1 : code->runs[low - 1].line;
}
