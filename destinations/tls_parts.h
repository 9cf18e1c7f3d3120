/*
 * The inside of TLS, shared by tls_context.c (whom to trust, who we are) and tls.c (a connection).
 *
 *     pom__openssl_hold();
 *     ssl = pom__tls_context_ssl_locked(context, "collector.example");
 *     pom__openssl_release();
 *
 * The lock is held around calls of OpenSSL, and taken by the forking thread (pthread_atfork), so
 * that no lock inside OpenSSL is held by a thread that the child does not have. The child shares
 * OpenSSL with the application, which must not hang there for our sake. A fork waits for one call
 * at most, of a millisecond or two in a handshake.
 */
#ifndef POM_DESTINATIONS_TLS_PARTS_H
#define POM_DESTINATIONS_TLS_PARTS_H

#include <openssl/ssl.h>

#include "destinations/tls.h"

void pom__openssl_hold(void);    /* [any] */
void pom__openssl_release(void); /* [any] */

/* A client's SSL that speaks HTTP/1.1 by ALPN and, unless the options say no, accepts nobody but
 * `host`. Returns owned; NULL: no memory, or after a fork the context could not be made again.
 * [loop] */
SSL *pom__tls_context_ssl_locked(pom__tls_context_t *c, const char *host);

#endif
