/*
 * The options of an HTTP destination, checked, and the texts that its requests repeat.
 *
 * Used by destinations/http.c, one a destination.
 *
 *     pom__http_texts_t texts;
 *     status = pom__http_texts_make(&texts, &options, error, sizeof error);
 *     ... texts.head[compressed], and the lines that differ ...
 *     pom__http_texts_free(&texts);
 */
#ifndef POM_DESTINATIONS_HTTP_OPTIONS_H
#define POM_DESTINATIONS_HTTP_OPTIONS_H

#include "destinations/http.h"

/* Of a request's head, the lines that differ in each included: what common servers take. */
#define POM__HTTP_REQUEST_HEAD ((size_t)16 << 10)

#define POM__HTTP_HOST_MAX   254 /* a name of the DNS; an address is shorter */
#define POM__HTTP_PATH_BYTES 2048

typedef struct pom__http_texts_s {
    char host[POM__HTTP_HOST_MAX + 1]; /* without brackets */
    uint16_t port;
    char name[POM__HTTP_HOST_MAX + 32 + POM__HTTP_PATH_BYTES]; /* the address without secrets */
    char *head[2]; /* the request's head without what differs: plain, compressed */
} pom__http_texts_t;

/* POM_EINVAL with the reason in words in error, POM_ENOMEM: nothing is to be freed. [any] */
POM_MUST_USE pom_status_t pom__http_texts_make(pom__http_texts_t *texts,
                                               const pom_http_options_t *options, char *error,
                                               size_t error_size);

void pom__http_texts_free(pom__http_texts_t *texts); /* [any] */

#endif
