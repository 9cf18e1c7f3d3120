/*
 * A growable byte buffer, born with its largest size.
 *
 * Used for encoding (JSON lines, values, file batches). The first append that fails (cap or memory)
 * frees the content and marks the buffer failed; every later append is a no-op, so that a writer
 * checks once, at the end.
 *
 *     pom_buf_t b;
 *     pom_buf_init(&b, 1 << 20);
 *     pom_buf_put(&b, "x", 1);
 *     if (pom_buf_failed(&b)) ...;
 *     pom_buf_fini(&b);
 *
 * Not thread safe: one owner at a time.
 */
#ifndef POM_BASE_BUF_H
#define POM_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct pom_buf_s {
    char *data; /* NULL while empty; not NUL-terminated */
    size_t len;
    size_t room;
    size_t cap;
    bool failed;
} pom_buf_t;

/* All [any]. */
void pom_buf_init(pom_buf_t *buf, size_t cap);
void pom_buf_put(pom_buf_t *buf, const void *bytes, size_t size);
void pom_buf_put_char(pom_buf_t *buf, char c);
void pom_buf_put_text(pom_buf_t *buf, const char *text); /* up to its NUL */

/* Room for size more bytes, to be filled in place; NULL when failed. Claim them by len += used. */
char *pom_buf_reserve(pom_buf_t *buf, size_t size);

bool pom_buf_failed(const pom_buf_t *buf);

/* Empties, keeps the memory, clears the failure. */
void pom_buf_reset(pom_buf_t *buf);

/* Moves the content out: the caller owns the block (pom_free); NULL when empty or failed. */
char *pom_buf_take(pom_buf_t *buf, size_t *size);

void pom_buf_fini(pom_buf_t *buf);

#endif
