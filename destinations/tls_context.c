/*
 * Of TLS, what one destination's connections have in common: whom to trust and who we are, made
 * into an SSL_CTX, and from it an SSL for each connection.
 *
 * Files are read once, into memory, when the context is made: a wrong path fails at the line that
 * names it, and a forked child that has given up its rights can still make an SSL_CTX of its own,
 * with tickets of its own. The key stays in this process's memory for that reason, as it would
 * inside the SSL_CTX; it is wiped when the context is freed.
 *
 * A context that was made by somebody else is used as it is, through a reference of our own. It is
 * never changed: what we need differently is set on each SSL made from it, and callbacks that its
 * owner may have set are cleared there, since they would be called on the loop thread.
 *
 * No early data, no renegotiation, no compression; ciphers are OpenSSL's (and the system
 * administrator's) choice. SSL_CTX has no callbacks of ours but the one that refuses to ask for
 * a passphrase: OpenSSL would ask on the terminal.
 *
 * Made on any thread, used on the loop thread under the lock that is kept here.
 */
#include "destinations/tls_parts.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/alloc.h"
#include "base/shown.h"

/* Debian's whole list of authorities has 0.2 MiB. */
#define PEM_MAX ((size_t)4 << 20)

/* That a body has ended its length tells, not the end of the connection. */
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
#define OPTIONS (SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF)
#else
#define OPTIONS (SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION)
#endif

static const unsigned char alpn[] = "\x08http/1.1";

typedef struct blob_s {
    char *data; /* NULL: not given */
    size_t size;
} blob_t;

struct pom__tls_context_s {
    SSL_CTX *ctx; /* NULL in a forked child until it is needed */
    /* constant after new */
    bool borrowed; /* made by somebody else */
    blob_t ca, more_ca, cert, key;
    char *ca_path;
    bool verify, check_hostname;
    int min_version;
    unsigned long verify_flags;
};

pom_tls_options_t pom_tls_options_default(void) {
    return (pom_tls_options_t){.verify = true, .check_hostname = true};
}

/* ---- the lock ---- */

static pthread_mutex_t openssl_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void pom__openssl_hold(void) {
    (void)pthread_mutex_lock(&openssl_lock); /* cannot fail: plain, and never taken twice */
}

void pom__openssl_release(void) {
    (void)pthread_mutex_unlock(&openssl_lock);
}

static void register_fork_handlers(void) {
    /* Without memory for it a fork is as dangerous as without us, when threads use OpenSSL. */
    (void)pthread_atfork(pom__openssl_hold, pom__openssl_release, pom__openssl_release);
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
    char shown[160];
    if (file == NULL || fstat(fileno(file), &st) != 0) {
        char text[128];
        text[0] = '\0';
        (void)strerror_r(errno, text, sizeof text); /* a number without a text stays empty */
        (void)snprintf(error, error_size, "cannot read '%s': %s",
                       pom_shown(path, shown, sizeof shown), text); /* cut is fine */
    } else if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > PEM_MAX) {
        (void)snprintf(error, error_size, "'%s' is not a file of at most 4 MiB",
                       pom_shown(path, shown, sizeof shown));
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
    int version = c->min_version == 3 ? TLS1_3_VERSION : TLS1_2_VERSION;
    (void)SSL_CTX_set_options(ctx, OPTIONS);
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

static pom_status_t borrow(pom__tls_context_t *c, SSL_CTX *ctx) {
    if (SSL_CTX_up_ref(ctx) != 1) {
        return POM_ENOMEM;
    }
    c->ctx = ctx;
    c->borrowed = true;
    c->verify = SSL_CTX_get_verify_mode(ctx) != SSL_VERIFY_NONE;
    return POM_OK;
}

pom_status_t pom__tls_context_new(const pom_tls_options_t *o, pom__tls_context_t **out, char *error,
                                  size_t error_size) {
    pom_status_t status = POM_ENOMEM;
    const char *why = NULL;
    pom__tls_context_t *c = pom_calloc(1, sizeof *c);
    if (c == NULL) {
        return POM_ENOMEM;
    }
    (void)pthread_once(&once, register_fork_handlers); /* cannot fail */
    c->verify = o->verify;
    c->check_hostname = o->check_hostname;
    if (o->context != NULL) {
        if (borrow(c, o->context) != POM_OK) {
            goto fail;
        }
        *out = c;
        return POM_OK;
    }
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
    pom__openssl_hold();
    c->ctx = make_ctx(c, &why);
    pom__openssl_release();
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
    if (!c->borrowed) {
        c->ctx = NULL; /* leaked: some 0.1 MiB, once a fork, and its tickets are the parent's */
    }
}

void pom__tls_context_free(pom__tls_context_t *c) {
    if (c == NULL) {
        return;
    }
    pom__openssl_hold();
    SSL_CTX_free(c->ctx);
    pom__openssl_release();
    wipe(&c->ca);
    wipe(&c->more_ca);
    wipe(&c->cert);
    wipe(&c->key);
    pom_free(c->ca_path);
    pom_free(c);
}

/* ---- an SSL for a connection ---- */

/* How names are compared. A borrowed context may ask for more, that no common name counts, say;
 * read from the context, since before OpenSSL 1.1.1l its SSLs do not inherit that. */
static unsigned host_flags(const pom__tls_context_t *c) {
    unsigned own = X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS;
    return c->borrowed ? own | X509_VERIFY_PARAM_get_hostflags(SSL_CTX_get0_param(c->ctx)) : own;
}

static bool set_host(SSL *ssl, const pom__tls_context_t *c, const char *host) {
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl); /* borrowed */
    /* An address is recognised by OpenSSL's own reading of it. */
    ASN1_OCTET_STRING *address = a2i_IPADDRESS(host);
    bool is_address = address != NULL;
    ASN1_OCTET_STRING_free(address);
    ERR_clear_error();
    bool good = true;
    if (c->verify && c->check_hostname) {
        X509_VERIFY_PARAM_set_hostflags(param, host_flags(c));
        good = is_address ? X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1
                          : SSL_set1_host(ssl, host) == 1;
    }
    /* RFC 6066: no address in the server's name. */
    return good && (is_address || SSL_set_tlsext_host_name(ssl, host) == 1);
}

/* What make_ctx() sets for our own contexts, and no callback of the owner's. */
static bool adapt(SSL *ssl) {
    bool good = SSL_set_alpn_protos(ssl, alpn, sizeof alpn - 1) == 0;
    if (SSL_get_min_proto_version(ssl) < TLS1_2_VERSION) { /* 0: whatever is oldest */
        good = good && SSL_set_min_proto_version(ssl, TLS1_2_VERSION) == 1;
    }
    (void)SSL_set_options(ssl, OPTIONS);
    (void)SSL_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
    SSL_set_msg_callback(ssl, NULL);
    SSL_set_info_callback(ssl, NULL);
#ifndef OPENSSL_NO_PSK
    SSL_set_psk_client_callback(ssl, NULL);
#endif
    return good;
}

SSL *pom__tls_context_ssl_locked(pom__tls_context_t *c, const char *host) {
    const char *why;
    if (c->ctx == NULL && (c->ctx = make_ctx(c, &why)) == NULL) {
        return NULL;
    }
    ERR_clear_error();
    SSL *ssl = SSL_new(c->ctx);
    if (ssl != NULL && ((c->borrowed && !adapt(ssl)) || !set_host(ssl, c, host))) {
        SSL_free(ssl);
        ssl = NULL;
    }
    return ssl;
}
