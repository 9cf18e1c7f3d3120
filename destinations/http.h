/*
 * The HTTP destination: batches of profiles, posted to a server.
 *
 * Made by the bindings for RestDestination(...), used through the exporter only.
 *
 *     pom_http_options_t options = pom_http_options_default();
 *     options.host = "collector.example";
 *     options.use_tls = true;
 *     status = pom_http_new(&options, &destination, error, sizeof error);
 *     pom_exporter_add(exporter, destination);
 *     pom_destination_unref(destination);
 */
#ifndef POM_DESTINATIONS_HTTP_H
#define POM_DESTINATIONS_HTTP_H

#include "destinations/destination.h"
#include "destinations/tls.h"

typedef enum pom_http_format_e {
    POM_HTTP_JSON,   /* one call graph a line */
    POM_HTTP_MSGPACK /* one batch of the wire form */
} pom_http_format_t;

typedef struct pom_http_header_s {
    const char *name, *value;
} pom_http_header_t;

/* Texts are borrowed until pom_http_new() returns; NULL: not given. */
typedef struct pom_http_options_s {
    const char *host; /* name or address, IPv6 with or without brackets */
    uint16_t port;    /* 0: 443 with TLS, else 80 */
    const char *path; /* "/api/data" */
    bool use_tls;
    pom_tls_options_t tls;
    int64_t timeout_ns; /* of each step of an attempt: 5 s */
    const pom_http_header_t *headers;
    uint32_t header_count;
    const char *token; /* sent as "Authorization: Bearer" */
    bool compress;     /* gzip */
    pom_http_format_t format;
    int64_t give_up_ns;    /* a batch that found no server for so long is dropped as too_old: 1 h */
    const char *spool_dir; /* a folder for batches that find no server; NULL: memory only */
    int64_t spool_bytes;   /* on disk at most: 256 MiB */
    int64_t gather_ns;     /* between two batches that are not full, 0: a turn of the loop; 5 s */
    int64_t report_ns;     /* client reports at most this often, 0: none; 60 s */
} pom_http_options_t;

pom_http_options_t pom_http_options_default(void);

/* Checks the options and reads the TLS files; nothing is connected. Returns owned in *out.
 * POM_EINVAL, POM_EIO with the reason in words in error; POM_ENOMEM. [any] */
POM_MUST_USE pom_status_t pom_http_new(const pom_http_options_t *options, pom_destination_t **out,
                                       char *error, size_t error_size);

#endif
