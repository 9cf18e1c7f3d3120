/*
 * MessagePack, pulled item by item out of bytes that nobody has checked.
 *
 * Private to profiles/formats, used by the reader of the wire form. Allocates nothing, recurses
 * nowhere; an array or map that claims more elements than there are bytes is malformed, so a count
 * may be believed.
 */
#ifndef POM_PROFILES_FORMATS_MSGPACK_PULL_H
#define POM_PROFILES_FORMATS_MSGPACK_PULL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pom__pull_s {
    const unsigned char *at, *end;
} pom__pull_t;

typedef enum pom__kind_e {
    POM__NIL,
    POM__BOOLEAN,
    POM__INTEGER,
    POM__NUMBER,
    POM__TEXT,
    POM__BYTES,
    POM__ARRAY,
    POM__MAP,
    POM__EXT
} pom__kind_t;

typedef struct pom__item_s {
    pom__kind_t kind;
    bool boolean;
    bool huge; /* an integer beyond INT64_MAX: `integer` holds its bits */
    int8_t ext_type;
    int64_t integer;
    double number;
    const char *data; /* text, bytes, ext */
    uint32_t size;    /* bytes of those; elements of an array, pairs of a map */
} pom__item_t;

/* The next item: a whole scalar, or the head of a container. False: malformed or at the end. */
bool pom__pull_item(pom__pull_t *pull, pom__item_t *item);

/* The head of a container of this kind. */
bool pom__pull_head(pom__pull_t *pull, pom__kind_t kind, uint32_t *size);

/* An integer between least and most. */
bool pom__pull_integer(pom__pull_t *pull, int64_t least, int64_t most, int64_t *value);

/* Passes over one whole value, whatever is in it. */
bool pom__pull_skip(pom__pull_t *pull);

/* Passes over one entry of a map. key: an integer as all of ours, -1 for anything else (a later
 * version's). value: where it begins; it is whole. */
bool pom__pull_entry(pom__pull_t *pull, int64_t *key, pom__pull_t *value);

#endif
