/*
 * A reader of HTTP/1.1 replies with fixed bounds.
 *
 * Used by destinations/http.c, one per connection; bytes in pieces of any size.
 *
 *     pom__http_parser_t *p;  pom__http_parser_init(p);
 *     pom__http_parser_start(p);                          before each request
 *     state = pom__http_parser_feed(p, data, size, &used);   until it is not MORE
 *     state = pom__http_parser_eof(p);                    the other side closed
 *     pom__http_parser_fini(p);
 */
#ifndef POM_DESTINATIONS_HTTP_PARSER_H
#define POM_DESTINATIONS_HTTP_PARSER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define POM__HTTP_HEAD_MAX    ((size_t)16 << 10)   /* a head, or a trailer, with its line ends */
#define POM__HTTP_BODY_KEPT   ((size_t)256 << 10)  /* for last_error; more is read and gone */
#define POM__HTTP_BODY_MAX    ((uint64_t)10 << 20) /* a reply to us has no reason to be longer */
#define POM__HTTP_INTERIM_MAX 8                    /* replies 1xx before the real one */
#define POM__HTTP_REASON_MAX  64
#define POM__HTTP_VALUE_MAX   128 /* of the few header values that are kept; longer is cut */

typedef enum pom__http_state_e {
    POM__HTTP_MORE, /* the reply goes on */
    POM__HTTP_DONE, /* the reply is whole */
    POM__HTTP_BAD   /* not a reply we accept: `error` says why, the connection is useless */
} pom__http_state_t;

typedef struct pom__http_parser_s {
    /* the reply, valid when DONE */
    int status;
    bool keep_alive; /* another request may follow on this connection */
    char reason[POM__HTTP_REASON_MAX];
    char retry_after[POM__HTTP_VALUE_MAX]; /* empty: none */
    char location[POM__HTTP_VALUE_MAX];
    pom_buf_t body; /* its beginning; failed when memory was short, which matters to nobody */
    /* valid always */
    const char *error; /* constant text when BAD */
    bool begun;        /* a byte of the reply has come */
    /* inside */
    int phase;
    int interim;
    uint64_t length;   /* of what is being read: the body's or the chunk's rest */
    uint64_t received; /* body bytes so far */
    bool has_length, chunked, minor_zero, closes, keeps;
    size_t head; /* bytes of this head so far */
    size_t line_size;
    char line[POM__HTTP_HEAD_MAX];
} pom__http_parser_t;

void pom__http_parser_init(pom__http_parser_t *p);  /* [loop] */
void pom__http_parser_start(pom__http_parser_t *p); /* [loop] */

/* Reads up to the end of the reply; *used < size then, if more came. [loop] */
pom__http_state_t pom__http_parser_feed(pom__http_parser_t *p, const char *data, size_t size,
                                        size_t *used);

/* DONE when the reply is one that ends with its connection, else BAD. [loop] */
pom__http_state_t pom__http_parser_eof(pom__http_parser_t *p);

void pom__http_parser_fini(pom__http_parser_t *p); /* [loop] */

#endif
