/*
 * The wire form, version 1: batches of profiles in MessagePack, as docs/wire-format.md defines it.
 *
 * Used by destinations, which write batches one after the other to a file or send each as a body.
 * Read back by profiles/formats/msgpack_reader.h.
 *
 *     pom_msgpack_source_t source = {.name = TEXT("shop"), .pid = getpid()};
 *     status = pom_msgpack_put_batch(&buf, profiles, count, &source);
 */
#ifndef POM_PROFILES_FORMATS_MSGPACK_H
#define POM_PROFILES_FORMATS_MSGPACK_H

#include "base/buf.h"
#include "base/status.h"
#include "profiles/formats/client_report.h"
#include "profiles/profile.h"

#define POM_MSGPACK_VERSION 1  /* readers of another number refuse */
#define POM_MSGPACK_MINOR   2  /* what was added since; for people, no reader depends on it */
#define POM_MSGPACK_HEAD    12 /* bytes in front of the body: magic, version, length */
#define POM_MSGPACK_TYPE    "application/vnd.profilomatic.v1+msgpack"

/* Bytes of a body, for writer and reader: 64 times what the exporter puts into a batch, and as much
 * as one line of JSON may have. */
#define POM_MSGPACK_BODY_MAX ((size_t)64 << 20)

/* Entries of each dictionary: a reader makes 16 to 100 bytes of one. */
#define POM_MSGPACK_ENTRIES_MAX (1u << 20)

/* Who sends the batch. Texts are borrowed. */
typedef struct pom_msgpack_source_s {
    pom_text_t name; /* a profile with the same source does not repeat it */
    pom_text_t host; /* empty: not told */
    int32_t pid;
    pom_id_t batch_id;       /* zero: none; the receiver's means to know a repetition */
    int64_t created_wall_ns; /* 0: not told */
} pom_msgpack_source_t;

/* Appends one batch. source NULL: the first profile's name and pid. POM_EFULL: it passes a limit
 * above or the buffer's cap, and half of the profiles may fit; POM_ENOMEM. Either way the buffer
 * stays as it was, unless it was its own growth that found no memory. Full depth, timeline
 * included. O(nodes). [any] */
POM_MUST_USE pom_status_t pom_msgpack_put_batch(pom_buf_t *buf,
                                                const pom_profile_t *const *profiles, size_t count,
                                                const pom_msgpack_source_t *source);

/* Appends a batch that has no profiles but the report. Failures as above. [any] */
POM_MUST_USE pom_status_t pom_msgpack_put_report(pom_buf_t *buf, const pom_client_report_t *report,
                                                 const pom_msgpack_source_t *source);

/* Number of keys, shared by the writer and the reader. They never change meaning. */
enum {
    POM_WIRE_MINOR = 0, /* body */
    POM_WIRE_SOURCE = 1,
    POM_WIRE_TEXTS = 2,
    POM_WIRE_CODES = 3,
    POM_WIRE_STACKS = 4,
    POM_WIRE_PROFILES = 5,
    POM_WIRE_REPORT = 6, /* since minor version 1 */

    POM_WIRE_SOURCE_NAME = 1,
    POM_WIRE_SOURCE_HOST = 2,
    POM_WIRE_SOURCE_PID = 3,
    POM_WIRE_SOURCE_WRITER = 4,
    POM_WIRE_SOURCE_BATCH = 5,
    POM_WIRE_SOURCE_CREATED = 6,

    POM_WIRE_CODE_FILE = 1,
    POM_WIRE_CODE_FUNCTION = 2,
    POM_WIRE_CODE_FIRST_LINE = 3,

    POM_WIRE_STACK_PARENT = 1,
    POM_WIRE_STACK_CODE = 2,
    POM_WIRE_STACK_LINE = 3,

    POM_WIRE_TASK = 1, /* profile */
    POM_WIRE_THREAD = 2,
    POM_WIRE_THREAD_NAME = 3,
    POM_WIRE_NAME = 4,
    POM_WIRE_PID = 5,
    POM_WIRE_START = 6,
    POM_WIRE_DURATION = 7,
    POM_WIRE_WALL = 8,
    POM_WIRE_CPU = 9,
    POM_WIRE_TYPE = 10,
    POM_WIRE_KIND = 11,
    POM_WIRE_OUTCOME = 12,
    POM_WIRE_FIELDS = 13,
    POM_WIRE_GRANULARITY = 14,
    POM_WIRE_PROFILER = 15,
    POM_WIRE_NODES = 16,
    POM_WIRE_MESSAGES = 17,
    POM_WIRE_TIMELINE = 18,

    POM_WIRE_ENGINE = 1, /* profiler */
    POM_WIRE_PERIOD = 2,
    POM_WIRE_SAMPLES = 3,
    POM_WIRE_MISSED = 4,
    POM_WIRE_OVERHEAD_CPU = 5,
    POM_WIRE_OVERHEAD_PPM = 6,
    POM_WIRE_TRUNCATED = 7,
    POM_WIRE_SHED = 8, /* since minor version 2 */

    POM_WIRE_NODE_STACK = 1, /* columns of nodes */
    POM_WIRE_NODE_HITS = 2,
    POM_WIRE_NODE_SELF_WALL = 3,
    POM_WIRE_NODE_SELF_CPU = 4,
    POM_WIRE_NODE_FIRST = 5,
    POM_WIRE_NODE_LAST = 6,

    POM_WIRE_MESSAGE_NODE = 1,
    POM_WIRE_MESSAGE_FIELDS = 2,

    POM_WIRE_STRETCH_NODE = 1,
    POM_WIRE_STRETCH_GAP = 2,
    POM_WIRE_STRETCH_DURATION = 3,

    POM_WIRE_REPORT_ID = 1,
    POM_WIRE_REPORT_SINCE = 2,
    POM_WIRE_REPORT_AT = 3,
    POM_WIRE_REPORT_PRODUCED = 4,
    POM_WIRE_REPORT_QUEUED = 5,
    POM_WIRE_REPORT_SENT = 6,
    POM_WIRE_REPORT_SPOOLED = 7,
    POM_WIRE_REPORT_RETRIED = 8,
    POM_WIRE_REPORT_DROPPED = 9,

    POM_WIRE_EXT_MICROSECONDS = 1, /* ext type of a duration among a user's fields */
};

#endif
