/*
 * Values: the fields of a message or an action, written at the call, replayed into any emitter
 * later.
 *
 * Used by bindings/ext (it writes what the user passed, on the app thread) and by formats (they
 * replay). A value stream is a byte string: one tag byte, then a payload. It pins nothing of the
 * interpreter and shows the value of that moment.
 *
 *     pom_value_writer_t w;
 *     pom_value_begin(&w, storage, sizeof storage);   the caller's storage: no allocation
 *     pom_value_map_begin(&w);
 *     pom_value_key(&w, "step", 4);
 *     pom_value_integer(&w, 1);
 *     pom_value_map_end(&w);
 *     size = pom_value_finish(&w);                    always a whole, well-formed stream
 *     pom_value_emit(storage, size, emitter);
 *
 * A writer that runs out of room drops what does not fit (whole entries, cut texts), closes what is
 * open and counts it in `cut`; it never fails.
 */
#ifndef POM_PROFILES_VALUE_H
#define POM_PROFILES_VALUE_H

#include "base/status.h"
#include "profiles/emitter.h"

#define POM_VALUE_DEPTH_MAX 16 /* nesting of a user's fields; deeper is replaced by "..." */

/* Bytes of one text; longer is cut at a character boundary and marked with an ellipsis. */
#define POM_VALUE_TEXT_MAX 4096

typedef struct pom_value_writer_s {
    unsigned char *data;
    size_t size, room;
    int depth;
    int skipping;  /* depth of containers being dropped for want of room */
    size_t key_at; /* where the key without a value yet begins; SIZE_MAX = none */
    uint32_t cut;  /* values cut or dropped */
    unsigned char open[POM_VALUE_DEPTH_MAX + 1]; /* container kinds, to close them */
} pom_value_writer_t;

/* All [any]; the storage is borrowed until finish. */
void pom_value_begin(pom_value_writer_t *w, void *storage, size_t room);
void pom_value_map_begin(pom_value_writer_t *w);
void pom_value_map_end(pom_value_writer_t *w);
void pom_value_list_begin(pom_value_writer_t *w);
void pom_value_list_end(pom_value_writer_t *w);
void pom_value_key(pom_value_writer_t *w, const char *text, size_t size);
void pom_value_text(pom_value_writer_t *w, const char *text, size_t size);
void pom_value_integer(pom_value_writer_t *w, int64_t value);
void pom_value_seconds(pom_value_writer_t *w, int64_t ns); /* a duration: seconds in the output */
void pom_value_number(pom_value_writer_t *w, double value);
void pom_value_boolean(pom_value_writer_t *w, bool value);
void pom_value_null(pom_value_writer_t *w);

/* A key of ours, laid out as in the stream, where its tag stands before it. A name of more than 15
 * characters does not compile. */
typedef struct pom_value_key_s {
    unsigned char size;
    char text[15];
} pom_value_key_t;

#define POM_VALUE_KEY(name)                                                                        \
    { .size = sizeof(name) - 1, .text = name }

/* A key and its value, as by the two calls, in less than half of their instructions: for what every
 * record has. */
void pom_value_entry_text(pom_value_writer_t *w, const pom_value_key_t *key, const char *text,
                          size_t size);
void pom_value_entry_integer(pom_value_writer_t *w, const pom_value_key_t *key, int64_t value);
void pom_value_entry_seconds(pom_value_writer_t *w, const pom_value_key_t *key, int64_t ns);

/* The entries of a finished stream that is one map join the map that is open here, if there is room
 * for all of them. Those whose keys are in `without`, a list that ends with NULL, stay behind: the
 * caller writes such keys itself. */
void pom_value_entries(pom_value_writer_t *w, const void *data, size_t size,
                       const char *const *without);

/* Closes what is open; returns the bytes used. */
size_t pom_value_finish(pom_value_writer_t *w);

/* Replays a stream as exactly one value. POM_EINVAL when it is malformed: containers begun are
 * closed all the same, and what cannot be read is null. An empty stream is null. [any] */
pom_status_t pom_value_emit(const void *data, size_t size, pom_emitter_t *emitter);

/* As above for a stream that is one map, without its braces: the entries join a map the caller
 * has open. An empty stream has none. [any] */
pom_status_t pom_value_emit_entries(const void *data, size_t size, pom_emitter_t *emitter);

#endif
