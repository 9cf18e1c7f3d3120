/*
 * May an SSL_CTX that somebody else made be used by us? Only if it is of the very OpenSSL that we
 * call, and looks like what its owner says it is.
 *
 * Used by bindings/ext/ssl_context.c for Python's contexts.
 *
 *     if (pom_tls_same_openssl("/usr/lib/.../_ssl.so") &&
 *         pom_tls_looks_like(ctx, verify_mode, options)) {
 *         options.tls.context = ctx;
 *     }
 */
#ifndef POM_DESTINATIONS_TLS_BORROW_H
#define POM_DESTINATIONS_TLS_BORROW_H

#include <stdbool.h>
#include <stdint.h>

/* The loaded library at this path calls the same SSL_new() as we do. [any] */
bool pom_tls_same_openssl(const char *library);

/* ctx, an SSL_CTX of our OpenSSL if we are lucky, has these settings. verify_mode: OpenSSL's
 * SSL_VERIFY_PEER and SSL_VERIFY_FAIL_IF_NO_PEER_CERT; options: SSL_OP_*, the lower 32 bits. It is
 * read, hence must be readable. [app] */
bool pom_tls_looks_like(const void *ctx, int verify_mode, uint64_t options);

#endif
