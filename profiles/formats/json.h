/*
 * JSON writer: an emitter that appends to a buffer. RFC 8259, one record a line (no newline
 * inside), ASCII only: other characters are escaped, bad UTF-8 becomes U+FFFD, NaN and infinities
 * become null.
 *
 *     pom_json_t json;
 *     pom_json_init(&json, &buf);
 *     pom_record_emit(profile, &json.emitter, POM_RECORD_DEPTH_JSON);
 *     pom_json_finish(&json);
 */
#ifndef POM_PROFILES_FORMATS_JSON_H
#define POM_PROFILES_FORMATS_JSON_H

#include "base/buf.h"
#include "profiles/emitter.h"
#include "profiles/formats/client_report.h"
#include "profiles/profile.h"

#define POM_JSON_MOMENT 29 /* "2026-11-20T12:34:56.123456Z" with its quotes */
#define POM_JSON_PIECE  40 /* bytes that a call may write without asking for room */

typedef struct pom_json_s {
    pom_emitter_t emitter;
    pom_buf_t *buf;               /* borrowed; its length is right after finish only */
    char *at;                     /* the next byte goes there: in the buffer, or nowhere */
    char *limit;                  /* the last place with room for a piece */
    bool comma;                   /* a value has been written at this level */
    char moment[POM_JSON_MOMENT]; /* the last one written; begins with NUL: none was */
    int64_t second;               /* which one that is in */
    char nowhere[POM_JSON_PIECE]; /* what the buffer has no room for */
} pom_json_t;

void pom_json_init(pom_json_t *json, pom_buf_t *buf); /* [any] */
void pom_json_finish(pom_json_t *json);               /* [any] */

/* One record and a newline. The buffer is failed when it found no room. [any] */
void pom_json_put_line(pom_buf_t *buf, const pom_profile_t *profile);

/* The report as a line that is a record. [any] */
void pom_json_put_report(pom_buf_t *buf, const pom_client_report_t *report, pom_text_t source,
                         int32_t pid);

#endif
