/* The client's side of TLS against OpenSSL's server side, both in memory. */
#include "tests/unit/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "destinations/tls.h"

#define DAY 86400L

/* A certificate and its key, in files and in memory. */
typedef struct pair_s {
    char cert_path[64], key_path[64];
    X509 *cert;
    EVP_PKEY *key;
} pair_t;

static char directory[32];
static pair_t authority, good, expired, other, address;

static void save(pair_t *p, const char *name) {
    (void)snprintf(p->cert_path, sizeof p->cert_path, "%s/%s.pem", directory, name);
    (void)snprintf(p->key_path, sizeof p->key_path, "%s/%s.key", directory, name);
    FILE *f = fopen(p->cert_path, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, p->cert), 1);
    fclose(f);
    f = fopen(p->key_path, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_PrivateKey(f, p->key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(f);
}

/* Signed by the authority, or by itself without one. alt: "DNS:name" or "IP:address". */
static void make(pair_t *p, const char *name, const char *alt, long from, long until) {
    p->key = EVP_EC_gen("P-256");
    p->cert = X509_new();
    assert_non_null(p->key);
    X509_set_version(p->cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(p->cert), (long)name[0]);
    X509_gmtime_adj(X509_getm_notBefore(p->cert), from);
    X509_gmtime_adj(X509_getm_notAfter(p->cert), until);
    X509_NAME *subject = X509_get_subject_name(p->cert);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    const pair_t *signer = p == &authority ? p : &authority;
    X509_set_issuer_name(p->cert, X509_get_subject_name(signer->cert));
    X509_set_pubkey(p->cert, p->key);
    X509V3_CTX context;
    X509V3_set_ctx(&context, signer->cert, p->cert, NULL, NULL, 0);
    X509_EXTENSION *e =
        p == &authority
            ? X509V3_EXT_conf_nid(NULL, &context, NID_basic_constraints, "critical,CA:TRUE")
            : X509V3_EXT_conf_nid(NULL, &context, NID_subject_alt_name, alt);
    assert_non_null(e);
    X509_add_ext(p->cert, e, -1);
    X509_EXTENSION_free(e);
    assert_true(X509_sign(p->cert, signer->key, EVP_sha256()) > 0);
    save(p, name);
}

static void drop(pair_t *p) {
    (void)unlink(p->cert_path);
    (void)unlink(p->key_path);
    X509_free(p->cert);
    EVP_PKEY_free(p->key);
}

static int make_all(void **state) {
    (void)snprintf(directory, sizeof directory, "/tmp/pom-tls-XXXXXX");
    assert_non_null(mkdtemp(directory));
    make(&authority, "authority", NULL, -DAY, 10 * DAY);
    make(&good, "good", "DNS:collector.example", -DAY, DAY);
    make(&expired, "expired", "DNS:collector.example", -2 * DAY, -DAY);
    make(&other, "other", "DNS:*.other.example", -DAY, DAY);
    make(&address, "address", "IP:127.0.0.1", -DAY, DAY);
    return 0;
}

static int drop_all(void **state) {
    pair_t *all[] = {&authority, &good, &expired, &other, &address};
    for (size_t i = 0; i < 5; i++) {
        drop(all[i]);
    }
    return rmdir(directory);
}

/* ---- a server ---- */

typedef struct server_s {
    SSL_CTX *ctx;
    SSL *ssl;
    char sni[64];
    char alpn[16];
} server_t;

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *size,
                       const unsigned char *in, unsigned int in_size, void *arg) {
    server_t *s = arg;
    (void)snprintf(s->alpn, sizeof s->alpn, "%.*s", (int)in[0], (const char *)in + 1);
    *out = in + 1;
    *size = in[0];
    return in_size > 0 ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static void server_init(server_t *s, const pair_t *pair, int max_version) {
    memset(s, 0, sizeof *s);
    s->ctx = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate(s->ctx, pair->cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(s->ctx, pair->key), 1);
    SSL_CTX_set_alpn_select_cb(s->ctx, choose_alpn, s);
    SSL_CTX_set_session_id_context(s->ctx, (const unsigned char *)"x", 1);
    if (max_version != 0) {
        SSL_CTX_set_security_level(s->ctx, 0);
        SSL_CTX_set_min_proto_version(s->ctx, TLS1_VERSION);
        SSL_CTX_set_max_proto_version(s->ctx, max_version);
    }
}

static void server_accept(server_t *s) {
    SSL_free(s->ssl);
    s->ssl = SSL_new(s->ctx);
    SSL_set_bio(s->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    BIO_set_mem_eof_return(SSL_get_rbio(s->ssl), -1);
    SSL_set_accept_state(s->ssl);
}

static void server_fini(server_t *s) {
    SSL_free(s->ssl);
    SSL_CTX_free(s->ctx);
    ERR_clear_error();
}

/* Carries what both sides have to say, `piece` bytes at a time. */
static void carry(pom__tls_t *client, server_t *s, size_t piece) {
    char data[4096];
    assert_true(piece <= sizeof data);
    size_t n;
    while ((n = pom__tls_output(client, data, piece)) > 0) {
        assert_int_equal(BIO_write(SSL_get_rbio(s->ssl), data, (int)n), n);
    }
    int got;
    while ((got = BIO_read(SSL_get_wbio(s->ssl), data, (int)piece)) > 0) {
        assert_int_equal(pom__tls_feed(client, data, (size_t)got), POM_OK);
    }
}

static pom__tls_state_t shake(pom__tls_t *client, server_t *s) {
    server_accept(s);
    pom__tls_state_t state = POM__TLS_AGAIN;
    for (int i = 0; i < 10 && state == POM__TLS_AGAIN; i++) {
        state = pom__tls_handshake(client);
        carry(client, s, 100);
        (void)SSL_do_handshake(s->ssl);
        carry(client, s, 4096);
    }
    const char *name = SSL_get_servername(s->ssl, TLSEXT_NAMETYPE_host_name);
    (void)snprintf(s->sni, sizeof s->sni, "%s", name != NULL ? name : "");
    return state;
}

static pom__tls_context_t *context_for(const pom_tls_options_t *options) {
    char error[256] = "";
    pom__tls_context_t *c = NULL;
    if (pom__tls_context_new(options, &c, error, sizeof error) != POM_OK) {
        fail_msg("no context: %s", error);
    }
    return c;
}

static pom_tls_options_t trusting(void) {
    pom_tls_options_t o = pom_tls_options_default();
    o.ca_file = authority.cert_path;
    return o;
}

/* ---- tests ---- */

/* acceptance: PM25 */
static void test_tls_carries_bytes_both_ways(void **state) {
    pom_tls_options_t o = trusting();
    pom__tls_context_t *c = context_for(&o);
    server_t s;
    server_init(&s, &good, 0);
    pom__tls_t *t = pom__tls_new(c, "collector.example", NULL);
    assert_int_equal(shake(t, &s), POM__TLS_OK);
    assert_string_equal(s.sni, "collector.example");
    assert_string_equal(s.alpn, "http/1.1");
    char got[16];
    size_t size = 0;
    assert_int_equal(pom__tls_read(t, got, sizeof got, &size), POM__TLS_AGAIN);
    assert_int_equal(pom__tls_write(t, "question", 8), POM__TLS_OK);
    assert_true(pom__tls_pending(t) > 8);
    carry(t, &s, 7);
    assert_int_equal(SSL_read(s.ssl, got, sizeof got), 8);
    assert_memory_equal(got, "question", 8);
    assert_int_equal(SSL_write(s.ssl, "answer", 6), 6);
    carry(t, &s, 1);
    assert_int_equal(pom__tls_read(t, got, sizeof got, &size), POM__TLS_OK);
    assert_int_equal(size, 6);
    (void)SSL_shutdown(s.ssl);
    carry(t, &s, 100);
    assert_int_equal(pom__tls_read(t, got, sizeof got, &size), POM__TLS_CLOSED);
    pom__tls_goodbye(t);
    assert_true(pom__tls_pending(t) > 0);
    pom__tls_free(t);
    server_fini(&s);
    pom__tls_context_free(c);
}

/* acceptance: PM25 */
static void test_tls_resumes_a_session(void **state) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        pom_tls_options_t o = trusting();
        pom__tls_context_t *c = context_for(&o);
        server_t s;
        server_init(&s, &good, version);
        pom__tls_t *t = pom__tls_new(c, "collector.example", NULL);
        assert_int_equal(shake(t, &s), POM__TLS_OK);
        assert_false(pom__tls_resumed(t));
        char got[4];
        size_t size;
        assert_int_equal(SSL_write(s.ssl, "a", 1), 1); /* tickets come before it */
        carry(t, &s, 4096);
        assert_int_equal(pom__tls_read(t, got, sizeof got, &size), POM__TLS_OK);
        pom__tls_ticket_t *ticket = pom__tls_take_ticket(t);
        assert_non_null(ticket);
        /* As after a connection that ended in order: without it 1.2 forgets the session. */
        pom__tls_goodbye(t);
        (void)SSL_shutdown(s.ssl);
        pom__tls_free(t);
        t = pom__tls_new(c, "collector.example", ticket);
        assert_int_equal(shake(t, &s), POM__TLS_OK);
        assert_true(pom__tls_resumed(t));
        pom__tls_free(t);
        pom__tls_ticket_free(ticket);
        server_fini(&s);
        pom__tls_context_free(c);
    }
}

/* acceptance: PM25 */
static void test_tls_refuses_wrong_certificates_in_words(void **state) {
    static const struct {
        const pair_t *server;
        const char *host;
        bool trust;
        const char *error; /* NULL: accepted */
    } rows[] = {
        {&good, "collector.example", true, NULL},
        {&good, "COLLECTOR.example", true, NULL},
        {&good, "other.example", true, "it is for another host"},
        {&other, "a.other.example", true, NULL},
        {&other, "a.b.other.example", true, "it is for another host"},
        {&address, "127.0.0.1", true, NULL},
        {&address, "127.0.0.2", true, "it is for another host"},
        {&good, "127.0.0.1", true, "it is for another host"},
        {&good, "::1", true, "it is for another host"},
        {&expired, "collector.example", true, "it has expired"},
        {&good, "collector.example", false, "its authority is not known here"},
        {&authority, "collector.example", false, "it is self-signed"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pom_tls_options_t o = pom_tls_options_default();
        o.ca_file = rows[i].trust ? authority.cert_path : address.cert_path;
        pom__tls_context_t *c = context_for(&o);
        server_t s;
        server_init(&s, rows[i].server, 0);
        pom__tls_t *t = pom__tls_new(c, rows[i].host, NULL);
        pom__tls_state_t got = shake(t, &s);
        if (rows[i].error == NULL
                ? got != POM__TLS_OK
                : got != POM__TLS_FAILED || strstr(pom__tls_error(t), rows[i].error) == NULL) {
            fail_msg("row %zu: state %d, '%s'", i, (int)got, pom__tls_error(t));
        }
        assert_int_equal(pom__tls_pending(t), 0); /* the alert was handed out too */
        bool is_name = strspn(rows[i].host, "0123456789.:") != strlen(rows[i].host);
        assert_string_equal(s.sni, is_name ? rows[i].host : "");
        pom__tls_free(t);
        server_fini(&s);
        pom__tls_context_free(c);
    }
}

static void test_tls_verifies_nothing_only_when_asked(void **state) {
    pom_tls_options_t o = pom_tls_options_default();
    o.verify = false;
    pom__tls_context_t *c = context_for(&o);
    server_t s;
    server_init(&s, &expired, 0);
    pom__tls_t *t = pom__tls_new(c, "x.example", NULL);
    assert_int_equal(shake(t, &s), POM__TLS_OK);
    pom__tls_free(t);
    pom__tls_context_free(c);
    o = trusting();
    o.check_hostname = false;
    c = context_for(&o);
    t = pom__tls_new(c, "x.example", NULL);
    assert_int_equal(shake(t, &s), POM__TLS_FAILED); /* expired still counts */
    assert_non_null(strstr(pom__tls_error(t), "expired"));
    pom__tls_free(t);
    server_fini(&s);
    server_init(&s, &good, 0);
    t = pom__tls_new(c, "x.example", NULL);
    assert_int_equal(shake(t, &s), POM__TLS_OK);
    pom__tls_free(t);
    server_fini(&s);
    pom__tls_context_free(c);
}

static void test_tls_refuses_old_versions_and_plain_servers(void **state) {
    pom_tls_options_t o = trusting();
    pom__tls_context_t *c = context_for(&o);
    server_t s;
    server_init(&s, &good, TLS1_1_VERSION);
    pom__tls_t *t = pom__tls_new(c, "collector.example", NULL);
    assert_int_equal(shake(t, &s), POM__TLS_FAILED);
    pom__tls_free(t);
    server_fini(&s);
    t = pom__tls_new(c, "collector.example", NULL);
    assert_int_equal(pom__tls_handshake(t), POM__TLS_AGAIN);
    const char *plain = "HTTP/1.1 400 Bad Request\r\n\r\n";
    assert_int_equal(pom__tls_feed(t, plain, strlen(plain)), POM_OK);
    assert_int_equal(pom__tls_handshake(t), POM__TLS_FAILED);
    assert_string_equal(pom__tls_error(t), "the server does not speak TLS");
    pom__tls_free(t);
    pom__tls_context_free(c);
}

static void test_tls_works_in_a_forked_child_without_the_files(void **state) {
    pom_tls_options_t o = trusting();
    pom__tls_context_t *c = context_for(&o);
    char away[80];
    (void)snprintf(away, sizeof away, "%s.away", authority.cert_path);
    assert_int_equal(rename(authority.cert_path, away), 0);
    /* What a child would do; its OpenSSL context is left behind, as there. */
    SSL_CTX *left = *(SSL_CTX **)(void *)c; /* its first member */
    pom__tls_context_after_fork(c);
    server_t s;
    server_init(&s, &good, 0);
    pom__tls_t *t = pom__tls_new(c, "collector.example", NULL);
    assert_non_null(t);
    assert_int_equal(shake(t, &s), POM__TLS_OK);
    pom__tls_free(t);
    server_fini(&s);
    pom__tls_context_free(c);
    SSL_CTX_free(left);
    assert_int_equal(rename(away, authority.cert_path), 0);
}

static void test_tls_presents_a_client_certificate(void **state) {
    pom_tls_options_t o = trusting();
    o.cert = other.cert_path;
    o.key = other.key_path;
    pom__tls_context_t *c = context_for(&o);
    server_t s;
    server_init(&s, &good, 0);
    SSL_CTX_set_verify(s.ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(s.ctx), authority.cert);
    pom__tls_t *t = pom__tls_new(c, "collector.example", NULL);
    assert_int_equal(shake(t, &s), POM__TLS_OK);
    assert_int_equal(SSL_get_verify_result(s.ssl), X509_V_OK);
    X509 *seen = SSL_get1_peer_certificate(s.ssl);
    assert_non_null(seen);
    assert_int_equal(X509_cmp(seen, other.cert), 0);
    X509_free(seen);
    pom__tls_free(t);
    server_fini(&s);
    pom__tls_context_free(c);
}

static void test_tls_context_names_what_is_wrong(void **state) {
    const struct {
        pom_tls_options_t options;
        pom_status_t status;
        const char *error;
    } rows[] = {
        {{.ca_file = "/no/such/file", .verify = true},
         POM_EIO,
         "cannot read '/no/such/file': No such"},
        {{.ca_file = "/dev/zero", .verify = true}, POM_EIO, "is not a file"},
        {{.ca_file = good.key_path, .verify = true}, POM_EINVAL, "no certificate of an authority"},
        {{.ca_pem = "x", .ca_pem_size = 1, .verify = true},
         POM_EINVAL,
         "no certificate of an authority"},
        {{.cert = good.cert_path}, POM_EINVAL, "no private key"},
        {{.cert = good.cert_path, .key = other.key_path}, POM_EINVAL, "no private key"},
        {{.cert = good.key_path, .key = good.key_path}, POM_EINVAL, "no certificate in cert"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char error[256] = "";
        pom__tls_context_t *c = NULL;
        assert_int_equal(pom__tls_context_new(&rows[i].options, &c, error, sizeof error),
                         rows[i].status);
        if (strstr(error, rows[i].error) == NULL) {
            fail_msg("row %zu: %s", i, error);
        }
    }
}

static bool make_context(void *arg) {
    (void)arg;
    pom_tls_options_t o = trusting();
    o.cert = other.cert_path;
    o.key = other.key_path;
    o.ca_path = "/tmp";
    char error[256];
    pom__tls_context_t *c = NULL;
    if (pom__tls_context_new(&o, &c, error, sizeof error) != POM_OK) {
        return false;
    }
    pom__tls_t *t = pom__tls_new(c, "h.example", NULL);
    bool good_run = t != NULL;
    pom__tls_free(t);
    pom__tls_context_free(c);
    return good_run;
}

static void test_tls_survives_allocation_failures(void **state) {
    assert_true(pom_torture(make_context, NULL) > 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_tls_carries_bytes_both_ways),
        POM_TEST(test_tls_resumes_a_session),
        POM_TEST(test_tls_refuses_wrong_certificates_in_words),
        POM_TEST(test_tls_verifies_nothing_only_when_asked),
        POM_TEST(test_tls_refuses_old_versions_and_plain_servers),
        POM_TEST(test_tls_works_in_a_forked_child_without_the_files),
        POM_TEST(test_tls_presents_a_client_certificate),
        POM_TEST(test_tls_context_names_what_is_wrong),
        POM_TEST(test_tls_survives_allocation_failures),
    };
    return cmocka_run_group_tests(tests, make_all, drop_all);
}
