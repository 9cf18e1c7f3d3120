/*
 * The body of a request: profiles encoded and, if wanted, compressed.
 *
 * Used by destinations/http.c, one a destination.
 *
 *     pom__http_body_init(&b, format, compress);
 *     status = pom__http_body_encode(&b, profiles, count, &put);    b.out is the body
 *     pom__http_body_fini(&b);
 */
#ifndef POM_DESTINATIONS_HTTP_BODY_H
#define POM_DESTINATIONS_HTTP_BODY_H

#include <zlib.h>

#include "base/buf.h"
#include "destinations/http.h"
#include "profiles/formats/client_report.h"

typedef struct pom__http_body_s {
    pom_buf_t out;  /* the body */
    pom_buf_t line; /* before compression */
    pom_http_format_t format;
    bool compress;
    bool has_stream; /* zlib's 260 KiB, allocated by the first body */
    z_stream stream;
} pom__http_body_t;

void pom__http_body_init(pom__http_body_t *b, pom_http_format_t format, bool compress); /* [any] */
void pom__http_body_fini(pom__http_body_t *b);                                          /* [any] */

/* Encodes anew. *put: how many profiles are in the body; with JSON one that cannot be encoded is
 * left out. POM_EFULL: too much for one body, half of it may do. POM_ENOMEM. [loop] */
POM_MUST_USE pom_status_t pom__http_body_encode(pom__http_body_t *b, pom_profile_t *const *profiles,
                                                uint32_t count, pom_id_t id, uint32_t *put);

/* The body of a client report, anew. POM_ENOMEM. [loop] */
POM_MUST_USE pom_status_t pom__http_body_encode_report(pom__http_body_t *b,
                                                       const pom_client_report_t *report,
                                                       pom_text_t source, pom_id_t id);

const char *pom__http_body_type(pom_http_format_t format); /* for Content-Type [any] */

#endif
