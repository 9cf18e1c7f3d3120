/*
 * One connection to an HTTP server, plain or TLS: it connects by itself and carries one exchange
 * at a time.
 *
 * Used by destinations/http.c.
 *
 *     c = pom__connection_new(loop, &target, ticket, &failed, &listener, owner);
 *     pom__connection_send(c, head, head_size, body, body_size);    at once, or when it is idle
 *         -> listener->reply   or   listener->lost
 *     pom__connection_close(c);                                     always by the owner
 *         -> listener->gone, later
 */
#ifndef POM_DESTINATIONS_HTTP_CONNECTION_H
#define POM_DESTINATIONS_HTTP_CONNECTION_H

#include <sys/socket.h>
#include <uv.h>

#include "destinations/http_parser.h"
#include "destinations/tls.h"

typedef struct pom__target_s {
    const char *host;
    uint16_t port;
    pom__tls_context_t *tls; /* NULL: plain */
    int64_t timeout_ns;      /* for connecting, the handshake, each 16 KiB of sending, the reply */
} pom__target_t;

typedef struct pom__connection_s pom__connection_t;

/* All on the loop thread. close() may be called in reply and lost. */
typedef struct pom__listener_s {
    /* It has a socket, perhaps not its first. A forked child must not hold it open. */
    void (*socket)(void *owner, int fd);
    /* The reply is whole; it is valid during the call. reusable: another send may follow. */
    void (*reply)(void *owner, const pom__http_parser_t *reply, bool reusable);
    /* The connection is useless, whether idle or in an exchange; error is one clause. unheard: so
     * ends what the server had closed before it saw the request: no part of a reply had come, and
     * it did not let us wait either. */
    void (*lost)(void *owner, const char *error, bool unheard);
    /* After close(): nothing of it is left on the loop. */
    void (*gone)(void *owner);
} pom__listener_t;

/* Begins to connect. target and listener are borrowed as long as it lives, ticket and failed for
 * the call. failed: the address that is tried last; zero: none. NULL: no memory or descriptors, and
 * nothing is called. [loop] */
pom__connection_t *pom__connection_new(uv_loop_t *loop, const pom__target_t *target,
                                       const pom__tls_ticket_t *ticket,
                                       const struct sockaddr_storage *failed,
                                       const pom__listener_t *listener, void *owner);

/* One exchange. head and body are borrowed until reply, lost or close. [loop] */
void pom__connection_send(pom__connection_t *c, const char *head, size_t head_size,
                          const char *body, size_t body_size);

/* Where it is, or has last tried to get; nothing is written when it knows no address yet. [loop] */
void pom__connection_address(const pom__connection_t *c, struct sockaddr_storage *out);

/* What a later one can resume; NULL for plain ones. [loop] */
pom__tls_ticket_t *pom__connection_take_ticket(pom__connection_t *c);

/* No callback but gone comes after it. [loop] */
void pom__connection_close(pom__connection_t *c);

#endif
