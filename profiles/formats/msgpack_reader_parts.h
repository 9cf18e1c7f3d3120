/*
 * What the files of the wire reader share: msgpack_reader.c takes a batch and its dictionaries,
 * msgpack_profile.c one profile of it.
 *
 * Private to profiles/formats.
 */
#ifndef POM_PROFILES_FORMATS_MSGPACK_READER_PARTS_H
#define POM_PROFILES_FORMATS_MSGPACK_READER_PARTS_H

#include "base/clock.h"
#include "profiles/formats/msgpack_pull.h"
#include "profiles/formats/msgpack_reader.h"

/* One message as a value stream; the writer's events have 8 KiB, and what does not fit is dropped
 * entry by entry. */
#define POM__FIELDS_ROOM ((size_t)256 << 10)

typedef struct pom__read_stack_s {
    uint32_t parent, code, depth;
    int32_t line;
} pom__read_stack_t;

struct pom_msgpack_reader_s {
    pom_msgpack_source_t source;
    pom_client_report_t report;
    bool has_report;
    pom_text_t *texts; /* in the bytes of the batch */
    uint32_t text_count;
    pom_code_t **codes; /* one reference each */
    uint32_t code_count;
    pom__read_stack_t *stacks;
    uint32_t stack_count;
    pom__pull_t profiles;
    uint32_t profiles_left;
    char *fields; /* POM__FIELDS_ROOM bytes */
};

/* One column of a table: an array that is read from its beginning to its end. */
typedef struct pom__column_s {
    pom__pull_t pull;
    bool present;
} pom__column_t;

#define POM__COLUMNS_MAX 8

/* Finds columns 1 to count of a table, all of the same length, which is *rows. */
bool pom__read_columns(pom__pull_t pull, pom__column_t columns[POM__COLUMNS_MAX], int64_t count,
                       uint32_t *rows);

/* Times are microseconds; what they may be in nanoseconds. */
#define POM__TIME_MAX (INT64_C(1) << 60) /* 36 years: eight of them can be added */
#define POM__WALL_MAX (INT64_C(1) << 62) /* moments up to the year 2116 */

/* A time between -most and most, which is POM__TIME_MAX or POM__WALL_MAX, in nanoseconds. */
static inline bool pom__pull_time(pom__pull_t *pull, int64_t most, int64_t *ns) {
    int64_t us;
    /* 1024, not 1000: a power of two in the document, and 1000 times it is less than `most`. */
    bool good = pom__pull_integer(pull, -(most / 1024), most / 1024, &us);
    if (good) {
        *ns = us * POM_NS_PER_US;
    }
    return good;
}

static inline bool pom__column_integer(pom__column_t *column, int64_t least, int64_t most,
                                       int64_t *value) {
    return pom__pull_integer(&column->pull, least, most, value);
}

/* An id of 16 bytes; false when the item is something else. */
bool pom__read_id(const pom__item_t *item, pom_id_t *id);

/* Fills a fresh profile from the bytes of one, which are well-formed MessagePack. */
pom_status_t pom__read_profile(pom_msgpack_reader_t *reader, pom__pull_t pull,
                               pom_profile_t *profile);

#endif
