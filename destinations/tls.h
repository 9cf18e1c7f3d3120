/*
 * TLS on the client's side, over memory: bytes in, bytes out, no socket.
 *
 * Used by destinations/http.c: one context a destination, one session object a connection.
 *
 *     pom__tls_context_new(&options, &context, error, sizeof error);
 *     tls = pom__tls_new(context, "collector.example", resume);
 *     pom__tls_feed(tls, data, size);          ciphertext that was received
 *     pom__tls_handshake(tls);                 until it is not AGAIN
 *     pom__tls_write / pom__tls_read           plaintext
 *     n = pom__tls_output(tls, buffer, room);  ciphertext to send, after each of the calls above
 *     pom__tls_free(tls);  pom__tls_context_free(context);
 */
#ifndef POM_DESTINATIONS_TLS_H
#define POM_DESTINATIONS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Texts are borrowed until pom__tls_context_new() returns; NULL: not given. */
typedef struct pom_tls_options_s {
    void *context; /* an SSL_CTX of our OpenSSL (tls_borrow.h) to use as it is, never changed: we
                    * count a reference. Of the rest only check_hostname matters then */
    const char *ca_file; /* PEM; with none of ca_file, ca_path, ca_pem: the system's authorities */
    const char *ca_path; /* a directory made by c_rehash; looked into at each handshake */
    const char *ca_pem;  /* PEM in memory, in addition to ca_file */
    size_t ca_pem_size;
    const char *cert;           /* ours, PEM with its chain */
    const char *key;            /* PEM, unencrypted; NULL: it is in `cert` */
    bool verify;                /* false: anybody can read along and answer; only when asked for */
    bool check_hostname;        /* false: any name that the authority signed */
    int min_version;            /* minor: 2 or 3; 0: 2 */
    unsigned long verify_flags; /* OpenSSL's X509_V_FLAG_*, added to its default */
} pom_tls_options_t;

pom_tls_options_t pom_tls_options_default(void); /* verify and check_hostname */

typedef struct pom__tls_context_s pom__tls_context_t;
typedef struct pom__tls_s pom__tls_t;
typedef struct pom__tls_ticket_s pom__tls_ticket_t; /* what a later connection can resume */

typedef enum pom__tls_state_e {
    POM__TLS_OK,
    POM__TLS_AGAIN,  /* more ciphertext is needed */
    POM__TLS_CLOSED, /* the other side said goodbye */
    POM__TLS_FAILED  /* pom__tls_error() says why */
} pom__tls_state_t;

/* Reads the files here and now. POM_ENOMEM, POM_EIO, POM_EINVAL with the reason in error. [any] */
POM_MUST_USE pom_status_t pom__tls_context_new(const pom_tls_options_t *options,
                                               pom__tls_context_t **out, char *error,
                                               size_t error_size);

/* In a forked child: what we made is abandoned to the parent's unfinished connections, and made
 * anew from what was read at creation when it is needed; a borrowed one stays. [app] */
void pom__tls_context_after_fork(pom__tls_context_t *context);

void pom__tls_context_free(pom__tls_context_t *context); /* [any], accepts NULL */

/* host: name or address, verified and (a name) sent in the clear. ticket: borrowed, may be NULL.
 * NULL: no memory, or after a fork the context could not be made again. [loop] */
pom__tls_t *pom__tls_new(pom__tls_context_t *context, const char *host,
                         const pom__tls_ticket_t *ticket);
void pom__tls_free(pom__tls_t *tls); /* [loop], accepts NULL */

/* POM_ENOMEM. [loop] */
POM_MUST_USE pom_status_t pom__tls_feed(pom__tls_t *tls, const void *data, size_t size);

pom__tls_state_t pom__tls_handshake(pom__tls_t *tls); /* [loop] */

/* All of it or FAILED: memory does not block. [loop] */
pom__tls_state_t pom__tls_write(pom__tls_t *tls, const void *data, size_t size);

/* OK: *got > 0 bytes. [loop] */
pom__tls_state_t pom__tls_read(pom__tls_t *tls, void *data, size_t room, size_t *got);

/* What was fed has more in it than was read: bytes, a goodbye, or a part of one. [loop] */
bool pom__tls_has_more(const pom__tls_t *tls);

/* Says goodbye, into the output; the answer is not awaited. [loop] */
void pom__tls_goodbye(pom__tls_t *tls);

size_t pom__tls_pending(const pom__tls_t *tls);                   /* bytes of output [loop] */
size_t pom__tls_output(pom__tls_t *tls, void *data, size_t room); /* moves them out [loop] */

/* One clause for people; valid until the next call. [loop] */
const char *pom__tls_error(const pom__tls_t *tls);

bool pom__tls_resumed(const pom__tls_t *tls); /* [loop] */

/* After the first reply, when tickets have come. Returns owned; NULL: nothing to resume. [loop] */
pom__tls_ticket_t *pom__tls_take_ticket(pom__tls_t *tls);
void pom__tls_ticket_free(pom__tls_ticket_t *ticket); /* [loop], accepts NULL */

#endif
