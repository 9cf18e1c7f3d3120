/*
 * The dictionaries of one wire batch: each text, code and stack once, known by its number.
 *
 * Private to profiles/formats; the MessagePack writer fills and writes them. What they point to is
 * borrowed from the profiles of the batch.
 *
 *     pom__wire_tables_t t;
 *     pom__wire_tables_init(&t);
 *     stack = pom__wire_stack(&t, parent, pom__wire_code(&t, code, granularity), line);
 *     if (t.failed) ...;                     no memory: asked once, at the end
 *     pom__wire_tables_fini(&t);
 *
 * One thread at a time.
 */
#ifndef POM_PROFILES_FORMATS_WIRE_TABLES_H
#define POM_PROFILES_FORMATS_WIRE_TABLES_H

#include "profiles/call_tree.h"
#include "profiles/profile.h"

/* Entries numbered in the order of their coming, found by hash. */
typedef struct pom__wire_index_s {
    void *entries;
    uint64_t *hashes; /* of each entry */
    uint32_t *slots;  /* number of the entry plus 1; 0 = free */
    uint32_t count, room, slot_count;
} pom__wire_index_t;

typedef struct pom__wire_code_s {
    const pom_code_t *code;
    bool by_file;            /* the function is not told */
    uint32_t file, function; /* numbers of texts */
} pom__wire_code_t;

typedef struct pom__wire_stack_s {
    uint32_t parent; /* number of a stack */
    uint32_t code;   /* number of a code, from 1; 0 = no place */
    int32_t line;    /* -1 = none */
} pom__wire_stack_t;

typedef struct pom__wire_tables_s {
    pom__wire_index_t texts;  /* pom_text_t; number 0 is the empty text */
    pom__wire_index_t codes;  /* pom__wire_code_t; number n is entry n - 1 */
    pom__wire_index_t stacks; /* pom__wire_stack_t; number n is entry n - 1, 0 the empty stack */
    bool failed;
} pom__wire_tables_t;

void pom__wire_tables_init(pom__wire_tables_t *tables);
void pom__wire_tables_fini(pom__wire_tables_t *tables);

/* Each returns the number, 0 when it failed. */
uint32_t pom__wire_text(pom__wire_tables_t *tables, pom_text_t text);
uint32_t pom__wire_code(pom__wire_tables_t *tables, const pom_code_t *code,
                        pom_granularity_t granularity);
uint32_t pom__wire_stack(pom__wire_tables_t *tables, uint32_t parent, uint32_t code, int32_t line);

#endif
