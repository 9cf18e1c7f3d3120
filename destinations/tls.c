/*
 * TLS by OpenSSL over two memory BIOs, so that libuv keeps the socket.
 *
 *     socket --feed--> rbio --> SSL --> wbio --output--> socket
 *
 * Files are read once, into memory, when the context is made: a wrong path fails at the line that
 * names it, and a forked child that has given up its rights can still make its own SSL_CTX. It
 * has to: the parent's loop thread may hold any of OpenSSL's locks at the moment of the fork.
 *
 * The key stays in this process's memory for that reason, as it would inside the SSL_CTX; it is
 * wiped when the context is freed.
 *
 * No early data, no renegotiation, no compression; ciphers are OpenSSL's (and the system
 * administrator's) choice. SSL_CTX has no callbacks of ours but the one that refuses to ask for
 * a passphrase: OpenSSL would ask on the terminal.
 */
#include "destinations/tls.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/alloc.h"
#include "destinations/stages.h"

/* Debian's whole list of authorities has 0.2 MiB. */
#define PEM_MAX ((size_t)4 << 20)

#define ERROR_MAX 256
#define HOST_MAX  256

typedef struct blob_s {
    char *data; /* NULL: not given */
    size_t size;
} blob_t;

struct pom__tls_context_s {
    SSL_CTX *ctx; /* NULL in a forked child until it is needed */
    /* constant after new */
    blob_t ca, more_ca, cert, key;
    char *ca_path;
    bool verify, check_hostname;
    int min_version;
    unsigned long verify_flags;
};

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

pom_tls_options_t pom_tls_options_default(void) {
    return (pom_tls_options_t){.verify = true, .check_hostname = true};
}

/* ---- reading ---- */

static void wipe(blob_t *blob) {
    if (blob->data != NULL) {
        OPENSSL_cleanse(blob->data, blob->size);
        pom_free(blob->data);
    }
    *blob = (blob_t){NULL, 0};
}

static pom_status_t copy_blob(blob_t *blob, const char *data, size_t size) {
    blob->data = pom_alloc(size + 1);
    if (blob->data == NULL) {
        return POM_ENOMEM;
    }
    memcpy(blob->data, data, size);
    blob->size = size;
    return POM_OK;
}

static pom_status_t read_file(blob_t *blob, const char *path, char *error, size_t error_size) {
    pom_status_t status = POM_EIO;
    FILE *file = fopen(path, "re");
    struct stat st;
    if (file == NULL || fstat(fileno(file), &st) != 0) {
        char text[128];
        text[0] = '\0';
        (void)strerror_r(errno, text, sizeof text); /* a number without a text stays empty */
        (void)snprintf(error, error_size, "cannot read '%s': %s", path, text); /* cut is fine */
    } else if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > PEM_MAX) {
        (void)snprintf(error, error_size, "'%s' is not a file of at most 4 MiB", path);
    } else {
        size_t size = (size_t)st.st_size;
        blob->data = pom_alloc(size + 1);
        status = blob->data != NULL ? POM_OK : POM_ENOMEM;
        if (status == POM_OK) {
            blob->size = fread(blob->data, 1, size, file);
        }
    }
    if (file != NULL) {
        (void)fclose(file); /* read only */
    }
    return status;
}

/* ---- the context ---- */

static int no_passphrase(char *buffer, int size, int writing, void *context) {
    (void)buffer;
    (void)size;
    (void)writing;
    (void)context;
    return 0;
}

static BIO *bio_of(const blob_t *blob) {
    return BIO_new_mem_buf(blob->data, (int)blob->size); /* at most PEM_MAX */
}

/* How many certificates went into the store; 0 when there are none in it. */
static int add_authorities(SSL_CTX *ctx, const blob_t *blob) {
    int count = 0;
    BIO *bio = bio_of(blob);
    X509_STORE *store = SSL_CTX_get_cert_store(ctx); /* borrowed */
    for (X509 *x = NULL;
         bio != NULL && (x = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL));) {
        count += X509_STORE_add_cert(store, x) == 1;
        X509_free(x);
    }
    BIO_free(bio);
    ERR_clear_error(); /* the end of a PEM file is an error to its reader */
    return count;
}

static bool use_cert(SSL_CTX *ctx, const blob_t *blob) {
    BIO *bio = bio_of(blob);
    X509 *own = bio != NULL ? PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL) : NULL;
    bool good = own != NULL && SSL_CTX_use_certificate(ctx, own) == 1;
    for (X509 *x = NULL; good && (x = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL));) {
        good = SSL_CTX_add1_chain_cert(ctx, x) == 1;
        X509_free(x);
    }
    X509_free(own);
    BIO_free(bio);
    ERR_clear_error();
    return good;
}

static bool use_key(SSL_CTX *ctx, const blob_t *blob) {
    BIO *bio = bio_of(blob);
    EVP_PKEY *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    bool good =
        key != NULL && SSL_CTX_use_PrivateKey(ctx, key) == 1 && SSL_CTX_check_private_key(ctx) == 1;
    EVP_PKEY_free(key);
    BIO_free(bio);
    ERR_clear_error();
    return good;
}

/* NULL, or what is wrong. */
static const char *configure(SSL_CTX *ctx, const pom__tls_context_t *c) {
    static const unsigned char alpn[] = "\x08http/1.1";
    int version = c->min_version == 3 ? TLS1_3_VERSION : TLS1_2_VERSION;
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
    (void)SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF); /* lengths tell the end */
#endif
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* idle connections: 34 KiB less */
    if (SSL_CTX_set_min_proto_version(ctx, version) != 1 ||
        SSL_CTX_set_alpn_protos(ctx, alpn, sizeof alpn - 1) != 0) {
        return "this OpenSSL refuses TLS 1.2 or ALPN";
    }
    SSL_CTX_set_verify(ctx, c->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (c->verify) {
        if (X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), c->verify_flags) != 1) {
            return "unknown verify_flags";
        }
        if (c->ca.data == NULL && c->more_ca.data == NULL && c->ca_path == NULL) {
            if (SSL_CTX_set_default_verify_paths(ctx) != 1) {
                return "the system's authorities cannot be loaded";
            }
        }
        if ((c->ca.data != NULL && add_authorities(ctx, &c->ca) == 0) ||
            (c->more_ca.data != NULL && add_authorities(ctx, &c->more_ca) == 0)) {
            return "no certificate of an authority in what was given (PEM is expected)";
        }
        if (c->ca_path != NULL && SSL_CTX_load_verify_locations(ctx, NULL, c->ca_path) != 1) {
            return "ca_path cannot be used";
        }
    }
    if (c->cert.data != NULL) {
        if (!use_cert(ctx, &c->cert)) {
            return "no certificate in cert (PEM is expected)";
        }
        if (!use_key(ctx, c->key.data != NULL ? &c->key : &c->cert)) {
            return "no private key for cert: it must be PEM, without a passphrase, and belong to "
                   "it";
        }
    }
    return NULL;
}

/* NULL: *why says it, or is NULL for no memory. */
static SSL_CTX *make_ctx(const pom__tls_context_t *c, const char **why) {
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    *why = ctx != NULL ? configure(ctx, c) : NULL;
    if (*why != NULL) {
        SSL_CTX_free(ctx);
        ctx = NULL;
    }
    ERR_clear_error();
    return ctx;
}

pom_status_t pom__tls_context_new(const pom_tls_options_t *o, pom__tls_context_t **out, char *error,
                                  size_t error_size) {
    pom_status_t status = POM_ENOMEM;
    const char *why = NULL;
    pom__tls_context_t *c = pom_calloc(1, sizeof *c);
    if (c == NULL) {
        return POM_ENOMEM;
    }
    c->verify = o->verify;
    c->check_hostname = o->check_hostname;
    c->min_version = o->min_version;
    c->verify_flags = o->verify_flags;
    if (o->ca_path != NULL) {
        blob_t path = {NULL, 0};
        if (copy_blob(&path, o->ca_path, strlen(o->ca_path)) != POM_OK) {
            goto fail;
        }
        path.data[path.size] = '\0';
        c->ca_path = path.data;
    }
    if (o->ca_pem != NULL && copy_blob(&c->more_ca, o->ca_pem, o->ca_pem_size) != POM_OK) {
        goto fail;
    }
    if ((o->ca_file != NULL &&
         (status = read_file(&c->ca, o->ca_file, error, error_size)) != POM_OK) ||
        (o->cert != NULL && (status = read_file(&c->cert, o->cert, error, error_size)) != POM_OK) ||
        (o->key != NULL && (status = read_file(&c->key, o->key, error, error_size)) != POM_OK)) {
        goto fail;
    }
    c->ctx = make_ctx(c, &why);
    if (c->ctx == NULL) {
        status = why != NULL ? POM_EINVAL : POM_ENOMEM;
        (void)snprintf(error, error_size, "%s", why != NULL ? why : "no memory");
        goto fail;
    }
    *out = c;
    return POM_OK;

fail:
    pom__tls_context_free(c);
    return status;
}

void pom__tls_context_after_fork(pom__tls_context_t *c) {
    c->ctx = NULL; /* leaked: some 0.1 MiB, once a fork, against a hang */
}

void pom__tls_context_free(pom__tls_context_t *c) {
    if (c == NULL) {
        return;
    }
    SSL_CTX_free(c->ctx);
    wipe(&c->ca);
    wipe(&c->more_ca);
    wipe(&c->cert);
    wipe(&c->key);
    pom_free(c->ca_path);
    pom_free(c);
}

/* ---- a connection ---- */

static bool set_host(pom__tls_t *t, const pom__tls_context_t *c, const char *host) {
    X509_VERIFY_PARAM *param = SSL_get0_param(t->ssl); /* borrowed */
    /* An address is recognised by OpenSSL's own reading of it. */
    ASN1_OCTET_STRING *address = a2i_IPADDRESS(host);
    bool is_address = address != NULL;
    ASN1_OCTET_STRING_free(address);
    ERR_clear_error();
    bool good = true;
    if (c->verify && c->check_hostname) {
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        good = is_address ? X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1
                          : SSL_set1_host(t->ssl, host) == 1;
    }
    /* RFC 6066: no address in the server's name. */
    return good && (is_address || SSL_set_tlsext_host_name(t->ssl, host) == 1);
}

pom__tls_t *pom__tls_new(pom__tls_context_t *c, const char *host, const pom__tls_ticket_t *ticket) {
    const char *why;
    if (c->ctx == NULL && (c->ctx = make_ctx(c, &why)) == NULL) {
        return NULL;
    }
    ERR_clear_error();
    pom__tls_t *t = pom_calloc(1, sizeof *t);
    if (t == NULL) {
        return NULL;
    }
    (void)snprintf(t->host, sizeof t->host, "%s", host); /* for messages */
    t->ssl = SSL_new(c->ctx);
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
    if (!set_host(t, c, host)) {
        pom__tls_free(t);
        return NULL;
    }
    if (ticket != NULL) {
        (void)SSL_set_session(t->ssl, session_of(ticket)); /* refused: a full handshake then */
    }
    return t;
}

void pom__tls_free(pom__tls_t *t) {
    if (t != NULL) {
        SSL_free(t->ssl); /* and both BIOs */
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
    ERR_clear_error();
    pom__loop_enter(POM_LOOP_HANDSHAKE);
    int result = SSL_do_handshake(t->ssl);
    pom__loop_leave();
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
    ERR_clear_error();
    pom__loop_enter(POM_LOOP_ENCRYPT);
    int result = SSL_write_ex(t->ssl, data, size, &written);
    pom__loop_leave();
    if (result == 1 && written == size) {
        return POM__TLS_OK;
    }
    explain(t);
    return POM__TLS_FAILED;
}

pom__tls_state_t pom__tls_read(pom__tls_t *t, void *data, size_t room, size_t *got) {
    *got = 0;
    ERR_clear_error();
    pom__loop_enter(POM_LOOP_DECRYPT);
    int result = SSL_read_ex(t->ssl, data, room, got);
    pom__loop_leave();
    return result == 1 ? POM__TLS_OK : translate(t, result);
}

void pom__tls_goodbye(pom__tls_t *t) {
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl); /* the answer is of no interest */
    ERR_clear_error();
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
    SSL_SESSION *session = SSL_get1_session(t->ssl);
    if (session != NULL && SSL_SESSION_is_resumable(session) != 1) {
        SSL_SESSION_free(session);
        session = NULL;
    }
    return (pom__tls_ticket_t *)(void *)session;
}

void pom__tls_ticket_free(pom__tls_ticket_t *ticket) {
    SSL_SESSION_free(session_of(ticket)); /* accepts NULL */
}
