/*
 * A code object as a profile knows it: where it stands in the source, and which line an instruction
 * is on.
 *
 * Used by the sampler's client, the formats and the bindings. Filled once by a resolver
 * (bindings/ext reads CPython's object), immutable from then on, shared by reference count between
 * the table, live trees and finished profiles, so it may outlive the interpreter's object.
 *
 *     code = pom_code_new(&spec);       returns owned
 *     pom_code_ref(code);
 *     line = pom_code_line(code, lasti);
 *     pom_code_unref(code);
 */
#ifndef POM_PROFILES_CODE_H
#define POM_PROFILES_CODE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/queue.h"

/* From this instruction (a count of 2-byte code units) on, the source line is `line`; -1 = none. */
typedef struct pom_line_run_s {
    uint32_t start;
    int32_t line;
} pom_line_run_t;

/* What a resolver tells. Borrowed for the call only; text is UTF-8 without NUL. */
typedef struct pom_code_spec_s {
    const char *file;
    size_t file_len;
    const char *function; /* the qualified name */
    size_t function_len;
    int32_t first_line;
    const pom_line_run_t *runs; /* ascending start, run 0 starts at 0 */
    size_t run_count;
    bool unknown;  /* the object could not be read: file and function say "<unknown>" */
    bool garbage;  /* unknown, for what is there is no code object at all: the frame was torn */
    bool internal; /* never shown: the interpreter's own helper frames */
} pom_code_spec_t;

typedef struct pom_code_s {
    _Atomic(int32_t) refs;
    /* constant after new */
    const char *file;     /* NUL-terminated too */
    const char *function; /* likewise, and it begins right behind the NUL of file */
    uint32_t file_len, function_len;
    int32_t first_line;
    uint32_t run_count;
    bool unknown, garbage, internal;
    bool plain;            /* file and function both (plain.h) */
    uint64_t file_key;     /* hash of file */
    uint64_t function_key; /* hash of file and function */
    const pom_line_run_t *runs;
    /* the code table's, once it has removed the code */
    pom_link_t grave;
} pom_code_t;

/* Bytes of file or function kept: PATH_MAX is rare in full, and memory is bounded. */
#define POM_CODE_TEXT_MAX 1024
#define POM_CODE_RUNS_MAX 8192 /* a longer function (generated code) keeps its first runs */

/* Returns owned, one block; NULL for no memory. [any] */
pom_code_t *pom_code_new(const pom_code_spec_t *spec);

pom_code_t *pom_code_ref(pom_code_t *code); /* [any] */
void pom_code_unref(pom_code_t *code);      /* [any], accepts NULL */

/* Source line of the instruction at `lasti` code units; first_line when lasti < 0 (a fresh
 * frame); -1 when the code has no line there. O(log runs). [any] */
int32_t pom_code_line(const pom_code_t *code, int32_t lasti);

#endif
