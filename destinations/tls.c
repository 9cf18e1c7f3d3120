/*
 * A connection's TLS by OpenSSL over two memory BIOs, so that libuv keeps the socket. Whom it
 * trusts and what it offers has been settled by the context (tls_context.c).
 *
 *     socket --feed--> rbio --> SSL --> wbio --output--> socket
 *
 * Of a failure one clause for people is kept: that of the certificate before OpenSSL's own, which
 * says no more than that verification failed.
 *
 * Loop thread only; each call into what OpenSSL shares between connections is made with its lock
 * held (tls_parts.h says why).
 */
#include "destinations/tls_parts.h"

#include <stdio.h>

#include <openssl/err.h>

#include "base/alloc.h"
#include "destinations/stages.h"

#define ERROR_MAX 256
#define HOST_MAX  256

struct pom__tls_s {
    SSL *ssl;
    BIO *rbio, *wbio; /* owned by ssl */
    char host[HOST_MAX];
    char error[ERROR_MAX];
};

/* An SSL_SESSION under a name of ours. */
static SSL_SESSION *session_of(const pom__tls_ticket_t *ticket) {
    return (SSL_SESSION *)(void *)(uintptr_t)ticket;
}

static pom__tls_t *new_locked(pom__tls_context_t *c, const char *host,
                              const pom__tls_ticket_t *ticket) {
    pom__tls_t *t = pom_calloc(1, sizeof *t);
    if (t == NULL) {
        return NULL;
    }
    (void)snprintf(t->host, sizeof t->host, "%s", host); /* for messages */
    t->ssl = pom__tls_context_ssl_locked(c, host);
    t->rbio = BIO_new(BIO_s_mem());
    t->wbio = BIO_new(BIO_s_mem());
    if (t->ssl == NULL || t->rbio == NULL || t->wbio == NULL) {
        BIO_free(t->rbio);
        BIO_free(t->wbio);
        SSL_free(t->ssl);
        pom_free(t);
        return NULL;
    }
    (void)BIO_set_mem_eof_return(t->rbio, -1); /* empty is "not yet", not the end */
    SSL_set_bio(t->ssl, t->rbio, t->wbio);
    SSL_set_connect_state(t->ssl);
    if (ticket != NULL) {
        (void)SSL_set_session(t->ssl, session_of(ticket)); /* refused: a full handshake then */
    }
    return t;
}

pom__tls_t *pom__tls_new(pom__tls_context_t *c, const char *host, const pom__tls_ticket_t *ticket) {
    pom__openssl_hold();
    pom__tls_t *t = new_locked(c, host, ticket);
    pom__openssl_release();
    return t;
}

void pom__tls_free(pom__tls_t *t) {
    if (t != NULL) {
        pom__openssl_hold();
        SSL_free(t->ssl); /* and both BIOs */
        pom__openssl_release();
        pom_free(t);
    }
}

pom_status_t pom__tls_feed(pom__tls_t *t, const void *data, size_t size) {
    size_t written = 0;
    ERR_clear_error();
    return BIO_write_ex(t->rbio, data, size, &written) == 1 && written == size ? POM_OK
                                                                               : POM_ENOMEM;
}

static const char *verdict_text(long verdict) {
    switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return "it has expired";
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return "it is not valid yet (is the clock right?)";
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        return "it is self-signed (give it, or its authority's, as ca_file)";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        return "its authority is not known here (give it as ca_file)";
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return "it is for another host";
    default:
        return X509_verify_cert_error_string(verdict);
    }
}

static void explain(pom__tls_t *t) {
    long verdict = SSL_get_verify_result(t->ssl);
    bool checked = SSL_get_verify_mode(t->ssl) != SSL_VERIFY_NONE;
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);
    if (checked && verdict != X509_V_OK) {
        (void)snprintf(t->error, sizeof t->error, "the certificate of %.120s is refused: %.100s",
                       t->host, verdict_text(verdict));
    } else if (ERR_GET_REASON(code) == SSL_R_WRONG_VERSION_NUMBER) {
        (void)snprintf(t->error, sizeof t->error, "the server does not speak TLS");
    } else {
        (void)snprintf(t->error, sizeof t->error, "TLS: %.200s",
                       reason != NULL ? reason : "the connection broke");
    }
    ERR_clear_error();
}

static pom__tls_state_t translate(pom__tls_t *t, int result) {
    switch (SSL_get_error(t->ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: /* memory does not fill up */
        return POM__TLS_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return POM__TLS_CLOSED;
    default:
        explain(t);
        return POM__TLS_FAILED;
    }
}

pom__tls_state_t pom__tls_handshake(pom__tls_t *t) {
    pom__openssl_hold();
    ERR_clear_error();
    pom__loop_enter(POM_LOOP_HANDSHAKE);
    int result = SSL_do_handshake(t->ssl);
    pom__loop_leave();
    pom__openssl_release();
    if (result != 1) {
        return translate(t, result);
    }
    /* With SSL_VERIFY_PEER a bad certificate has ended the handshake; asked again since it is the
     * one thing that must not be wrong. */
    if (SSL_get_verify_mode(t->ssl) != SSL_VERIFY_NONE &&
        SSL_get_verify_result(t->ssl) != X509_V_OK) {
        explain(t);
        return POM__TLS_FAILED;
    }
    return POM__TLS_OK;
}

pom__tls_state_t pom__tls_write(pom__tls_t *t, const void *data, size_t size) {
    size_t written = 0;
    pom__openssl_hold();
    ERR_clear_error();
    pom__loop_enter(POM_LOOP_ENCRYPT);
    int result = SSL_write_ex(t->ssl, data, size, &written);
    pom__loop_leave();
    pom__openssl_release();
    if (result == 1 && written == size) {
        return POM__TLS_OK;
    }
    explain(t);
    return POM__TLS_FAILED;
}

pom__tls_state_t pom__tls_read(pom__tls_t *t, void *data, size_t room, size_t *got) {
    *got = 0;
    pom__openssl_hold();
    ERR_clear_error();
    pom__loop_enter(POM_LOOP_DECRYPT);
    int result = SSL_read_ex(t->ssl, data, room, got);
    pom__loop_leave();
    pom__openssl_release();
    return result == 1 ? POM__TLS_OK : translate(t, result);
}

bool pom__tls_has_more(const pom__tls_t *t) {
    return SSL_has_pending(t->ssl) == 1 || BIO_ctrl_pending(t->rbio) > 0;
}

void pom__tls_goodbye(pom__tls_t *t) {
    pom__openssl_hold();
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl); /* the answer is of no interest */
    ERR_clear_error();
    pom__openssl_release();
}

size_t pom__tls_pending(const pom__tls_t *t) {
    return BIO_ctrl_pending(t->wbio);
}

size_t pom__tls_output(pom__tls_t *t, void *data, size_t room) {
    size_t got = 0;
    if (pom__tls_pending(t) > 0) {
        (void)BIO_read_ex(t->wbio, data, room, &got); /* there is something, so it cannot fail */
    }
    return got;
}

const char *pom__tls_error(const pom__tls_t *t) {
    return t->error;
}

bool pom__tls_resumed(const pom__tls_t *t) {
    return SSL_session_reused(t->ssl) == 1;
}

pom__tls_ticket_t *pom__tls_take_ticket(pom__tls_t *t) {
    pom__openssl_hold();
    SSL_SESSION *session = SSL_get1_session(t->ssl);
    if (session != NULL && SSL_SESSION_is_resumable(session) != 1) {
        SSL_SESSION_free(session);
        session = NULL;
    }
    pom__openssl_release();
    return (pom__tls_ticket_t *)(void *)session;
}

void pom__tls_ticket_free(pom__tls_ticket_t *ticket) {
    pom__openssl_hold();
    SSL_SESSION_free(session_of(ticket)); /* accepts NULL */
    pom__openssl_release();
}
