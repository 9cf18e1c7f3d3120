/*
 * The HTTP destination in bad weather that needs more than a scripted answer: a large spool, peers
 * that are there and say nothing, or more than was asked, budgets while nobody answers, and a wall
 * clock that jumps.
 *
 * The server reads requests and throws them away, so that its memory does not count. The wall clock
 * is the real one plus `jump_ns`; no monotonic clock can jump, so none does here.
 */
#include "tests/unit/destinations/fake.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "destinations/http.h"
#include "destinations/spool.h"

#define MIB ((size_t)1 << 20)

static _Atomic(int64_t) jump_ns;
int64_t __wrap_pom_wall_ns(void);
int64_t __wrap_pom_wall_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * POM_NS_PER_S + now.tv_nsec + atomic_load(&jump_ns);
}

/* ---- a server that keeps nothing ---- */

typedef struct sink_s {
    int listener;
    uint16_t port;
    pthread_t thread;
    bool serving;
    _Atomic(bool) busy; /* answers 503 */
    _Atomic(int) requests;
    _Atomic(int64_t) bytes;
    _Atomic(int) fd;
} sink_t;

/* One request; the connection goes when it returns false. */
static bool swallow(sink_t *s, int fd) {
    char head[4096];
    char body[65536];
    size_t size = 0;
    while (size < sizeof head - 1) {
        ssize_t n = recv(fd, head + size, 1, 0);
        if (n <= 0) {
            return false;
        }
        head[++size] = '\0';
        if (size >= 4 && memcmp(head + size - 4, "\r\n\r\n", 4) == 0) {
            break;
        }
    }
    const char *length = strstr(head, "Content-Length: ");
    size_t left = length != NULL ? strtoul(length + 16, NULL, 10) : 0;
    while (left > 0) {
        ssize_t n = recv(fd, body, left < sizeof body ? left : sizeof body, 0);
        if (n <= 0) {
            return false;
        }
        left -= (size_t)n;
        atomic_fetch_add(&s->bytes, n);
    }
    atomic_fetch_add(&s->requests, 1);
    const char *reply = atomic_load(&s->busy) ? "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"
                                              : "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    return send(fd, reply, strlen(reply), MSG_NOSIGNAL) > 0;
}

static void *sink_main(void *arg) {
    sink_t *s = arg;
    int fd;
    while ((fd = accept(s->listener, NULL, NULL)) >= 0) {
        atomic_store(&s->fd, fd);
        while (swallow(s, fd)) {
        }
        atomic_store(&s->fd, -1);
        close(fd);
    }
    return NULL;
}

/* Listens; until sink_serve() connections succeed, by the kernel's doing, and nothing answers. */
static void sink_listen(sink_t *s) {
    memset(s, 0, sizeof *s);
    atomic_store(&s->fd, -1);
    s->listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    assert_int_equal(bind(s->listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(s->listener, 16), 0);
    assert_int_equal(getsockname(s->listener, (struct sockaddr *)&address, &size), 0);
    s->port = ntohs(address.sin_port);
}

static void sink_serve(sink_t *s) {
    s->serving = true;
    assert_int_equal(pthread_create(&s->thread, NULL, sink_main, s), 0);
}

static void sink_stop(sink_t *s) {
    (void)shutdown(s->listener, SHUT_RDWR);
    (void)shutdown(atomic_load(&s->fd), SHUT_RDWR); /* none: EBADF */
    if (s->serving) {
        pthread_join(s->thread, NULL);
    }
    close(s->listener);
}

/* ---- the destination ---- */

static char folder[32];

static int make_folder(void **state) {
    atomic_store(&jump_ns, 0);
    (void)snprintf(folder, sizeof folder, "/tmp/pom-weather-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return pom_test_setup(state);
}

static int drop_folder(void **state) {
    char command[64];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
    return pom_test_teardown(state);
}

static int64_t soon(void) {
    return pom_now_ns() + PATIENCE_NS;
}

static pom_exporter_t *exporter(void) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = POM_NS_PER_MS;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    return e;
}

static pom_http_options_t options_for(const sink_t *s) {
    pom_http_options_t o = pom_http_options_default();
    o.host = "127.0.0.1";
    o.port = s->port;
    o.compress = false;
    o.timeout_ns = PATIENCE_NS;
    o.gather_ns = 0;
    return o;
}

static pom_destination_t *make(const pom_http_options_t *o) {
    char error[256] = "";
    pom_destination_t *d = NULL;
    if (pom_http_new(o, &d, error, sizeof error) != POM_OK) {
        fail_msg("not made: %s", error);
    }
    return d;
}

/* Bytes of all files below. */
static int64_t disk_bytes(const char *path) {
    int64_t sum = 0;
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char name[600];
        struct stat st;
        if (entry->d_name[0] == '.') {
            continue;
        }
        (void)snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (lstat(name, &st) == 0) {
            sum += S_ISDIR(st.st_mode) ? disk_bytes(name) : st.st_size;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return sum;
}

/* A line of /proc/self/status, in bytes. */
static int64_t status_bytes(const char *key) {
    char line[256];
    int64_t kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            kib = strtoll(line + strlen(key) + 1, NULL, 10);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return kib * 1024;
}

/* Segments as a process leaves them that was killed: `count` entries of a mebibyte. */
static void leave_spool(const char *address, int count) {
    char error[256] = "";
    int64_t adopted;
    pom__spool_t *s;
    pom__spool_lost_t lost = {0};
    char *body = malloc(MIB);
    memset(body, 'x', MIB);
    assert_int_equal(
        pom__spool_new(folder, address, (int64_t)count * 2 * (int64_t)MIB, &s, error, sizeof error),
        POM_OK);
    assert_int_equal(pom__spool_open(s, &adopted), POM_OK);
    for (int i = 0; i < count; i++) {
        pom__spool_entry_t e = {.key = {(uint64_t)i + 1, 1},
                                .created_wall_ns = __wrap_pom_wall_ns(),
                                .count = 10,
                                .format = POM_HTTP_MSGPACK};
        assert_int_equal(pom__spool_put(s, &e, body, MIB, &lost), POM_OK);
    }
    pom__spool_free(s);
    free(body);
    assert_int_equal(lost.evicted, 0);
}

/* ---- tests ---- */

/* acceptance: PM25 */
static void test_http_replays_a_full_spool_in_little_memory(void **state) {
    enum {
        ENTRIES = FAKE_SANITIZED ? 32 : 255
    }; /* with their heads less than the cap of 256 MiB */
    sink_t s;
    sink_listen(&s);
    sink_serve(&s);
    pom_http_options_t o = options_for(&s);
    o.spool_dir = folder;
    pom_destination_t *d = make(&o);
    leave_spool(d->name, ENTRIES);
    assert_true(disk_bytes(folder) > ENTRIES * (int64_t)MIB);
    /* Without the file the peak since the start is compared, which is higher. */
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    if (fd >= 0) {
        (void)!write(fd, "5", 1);
        close(fd);
    }
    int64_t before = status_bytes("VmRSS:");
    pom_exporter_t *e = exporter();
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    wait_for(counters(d).sent == 10 * ENTRIES);
    if (!FAKE_SANITIZED) {
        assert_true(status_bytes("VmHWM:") - before <= 64 * (int64_t)MIB);
    }
    assert_int_equal(atomic_load(&s.bytes), ENTRIES * (int64_t)MIB);
    pom_destination_counters_t c = counters(d);
    assert_int_equal(c.produced, 10 * ENTRIES);
    assert_int_equal(c.spooled + c.queued, 0);
    free_exporter(e);
    pom_destination_unref(d);
    assert_int_equal(disk_bytes(folder), 0);
    sink_stop(&s);
}

/* The peer says nothing, and no batch is out: only the spool's oldest entry is under way. */
static void test_http_stop_does_not_wait_for_a_removed_ones_replay(void **state) {
    sink_t s;
    sink_listen(&s);
    pom_http_options_t o = options_for(&s);
    o.spool_dir = folder;
    pom_destination_t *d = make(&o);
    leave_spool(d->name, 1);
    pom_exporter_t *e = exporter();
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    wait_for(counters(d).retried == 10);
    assert_int_equal(pom_exporter_remove(e, d), POM_OK);
    wait_for(pom_exporter_stop(e, pom_now_ns()) == POM_OK);
    pom_destination_counters_t c = counters(d);
    assert_int_equal(c.produced, 10);
    assert_int_equal(c.spooled, 10);
    free_exporter(e);
    pom_destination_unref(d);
    sink_stop(&s);
}

/* acceptance: PM25 */
static void test_http_half_open_peers_time_out_and_nothing_is_lost(void **state) {
    sink_t s;
    sink_listen(&s); /* the connection is made, the request goes out, nobody is there */
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.timeout_ns = 20 * POM_NS_PER_MS;
    pom_destination_t *d = make(&o);
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    put(e, 1, 10);
    /* On a slow machine it is not even connected by then, at first. */
    wait_for(strstr(counters(d).last_error, "no answer within 0.020 s") != NULL);
    /* A request that is larger than what two kernels buffer does not even get out. */
    for (int i = 0; i < 10; i++) {
        put(e, i, MIB);
    }
    assert_false(pom_exporter_flush(e, pom_now_ns() + 300 * POM_NS_PER_MS));
    assert_int_equal(counters(d).queued, 11);
    assert_int_equal(counters(d).dropped[POM_DROP_ERROR], 0);
    free_exporter(e); /* not held up by it */
    assert_int_equal(counters(d).dropped[POM_DROP_SHUTDOWN], 11);
    pom_destination_unref(d);
    /* And one that comes to life is served what waited. */
    e = exporter();
    o.timeout_ns = POM_NS_PER_S;
    d = make(&o);
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    put(e, 1, 10);
    sink_serve(&s); /* finds the dead connections of before in its queue, too */
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(d).sent, 1);
    free_exporter(e);
    pom_destination_unref(d);
    sink_stop(&s);
}

/* acceptance: PM25 */
static void test_http_keeps_its_budgets_while_nobody_answers(void **state) {
    enum { COUNT = 400, EACH = 64 << 10 };
    sink_t s;
    sink_listen(&s);
    sink_serve(&s);
    atomic_store(&s.busy, true);
    for (int with_spool = 0; with_spool < 2; with_spool++) {
        pom_exporter_t *e = exporter();
        pom_http_options_t o = options_for(&s);
        int64_t began = pom_alloc_live_bytes();
        if (with_spool) {
            o.spool_dir = folder;
            o.spool_bytes = 2 * (int64_t)MIB;
        }
        pom_destination_t *d = make(&o);
        d->queue_bytes = 2 * MIB;
        assert_int_equal(pom_exporter_add(e, d), POM_OK);
        int64_t most = 0;
        for (int i = 0; i < COUNT; i++) {
            put(e, i, EACH); /* 25 MiB in all */
            int64_t live = pom_alloc_live_bytes() - began;
            most = live > most ? live : most;
            assert_true(!with_spool || disk_bytes(folder) <= o.spool_bytes);
        }
        wait_for(counters(d).last_error[0] != '\0');
        wait_for(counters(d).produced == COUNT || pom_exporter_flush(e, pom_now_ns()));
        pom_destination_counters_t c = counters(d); /* checks the sum */
        assert_int_equal(c.sent, 0);
        assert_true(c.queued + c.spooled > 0);
        /* The queue, an intake of two batches, and what one request is made of. */
        assert_true(most <= (int64_t)(2 * MIB + 4 * MIB + 4 * MIB));
        assert_true(disk_bytes(folder) <= 2 * (int64_t)MIB);
        wait_for(pom_exporter_stop(e, pom_now_ns()) == POM_OK);
        c = counters(d);
        assert_int_equal(c.produced, COUNT);
        assert_int_equal(c.queued, 0);
        assert_int_equal(c.spooled > 0, with_spool);
        assert_true(disk_bytes(folder) <= 2 * (int64_t)MIB);
        free_exporter(e);
        pom_destination_unref(d);
    }
    sink_stop(&s);
}

/* On its way from the disk a call graph is queued for a moment. */
static bool is_settled(pom_destination_t *d) {
    pom_destination_counters_t c = counters(d);
    return c.spooled == 0 && c.queued == 0;
}

/* acceptance: PM25 */
static void test_http_survives_a_wall_clock_that_jumps(void **state) {
    static const int64_t jumps[] = {-48 * 3600 * POM_NS_PER_S, 12 * 3600 * POM_NS_PER_S,
                                    48 * 3600 * POM_NS_PER_S};
    for (size_t i = 0; i < sizeof jumps / sizeof jumps[0]; i++) {
        sink_t sinks[2];
        atomic_store(&jump_ns, 0);
        for (int k = 0; k < 2; k++) { /* each serves one connection at a time */
            sink_listen(&sinks[k]);
            sink_serve(&sinks[k]);
            atomic_store(&sinks[k].busy, true);
        }
        pom_exporter_t *e = exporter();
        pom_http_options_t o = options_for(&sinks[0]);
        pom_destination_t *memory = make(&o);
        o = options_for(&sinks[1]);
        o.spool_dir = folder;
        pom_destination_t *disk = make(&o);
        assert_int_equal(pom_exporter_add(e, memory), POM_OK);
        assert_int_equal(pom_exporter_add(e, disk), POM_OK);
        put(e, 1, 10);
        put(e, 2, 10);
        wait_for(counters(disk).spooled == 2);
        wait_for(counters(memory).last_error[0] != '\0');
        atomic_store(&jump_ns, jumps[i]);
        atomic_store(&sinks[0].busy, false);
        atomic_store(&sinks[1].busy, false);
        /* What waits in memory goes by the monotonic clock, which does not jump. */
        wait_for(counters(memory).sent == 2);
        /* On disk there is nothing but the wall clock: a day's entries are a day old if it says so,
         * and that is counted. */
        wait_for(is_settled(disk));
        bool is_old = jumps[i] > POM__SPOOL_AGE_NS;
        assert_int_equal(counters(disk).sent, is_old ? 0 : 2);
        assert_int_equal(counters(disk).dropped[POM_DROP_TOO_OLD], is_old ? 2 : 0);
        free_exporter(e);
        pom_destination_unref(memory);
        pom_destination_unref(disk);
        sink_stop(&sinks[0]);
        sink_stop(&sinks[1]);
    }
}

/* ---- TLS ---- */

static SSL_CTX *tls_1_2_context(void) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new(); /* of nobody, by nobody: it is not verified */
    assert_true(context != NULL && key != NULL && cert != NULL);
    X509_set_version(cert, 2);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    assert_int_equal(SSL_CTX_use_certificate(context, cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(context, key), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION), 1);
    X509_free(cert);
    EVP_PKEY_free(key);
    return context;
}

/* One request, which is small and comes in one record or two. */
static bool swallow_tls(SSL *ssl) {
    char text[8192];
    size_t size = 0;
    for (;;) {
        int n = SSL_read(ssl, text + size, (int)(sizeof text - 1 - size));
        if (n <= 0) {
            return false;
        }
        size += (size_t)n;
        text[size] = '\0';
        const char *end = strstr(text, "\r\n\r\n");
        const char *length = strstr(text, "Content-Length: ");
        if (end != NULL && text + size >= end + 4 + strtoul(length + 16, NULL, 10)) {
            return true;
        }
    }
}

/* Before each answer it asks for a new handshake, in one segment with it. */
static void *asking_main(void *arg) {
    static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    sink_t *s = arg;
    SSL_CTX *context = tls_1_2_context();
    int fd;
    while ((fd = accept(s->listener, NULL, NULL)) >= 0) {
        atomic_store(&s->fd, fd);
        SSL *ssl = SSL_new(context);
        SSL_set_fd(ssl, fd);
        if (SSL_accept(ssl) == 1) {
            while (swallow_tls(ssl)) {
                atomic_fetch_add(&s->requests, 1);
                int corked = 1;
                (void)setsockopt(fd, IPPROTO_TCP, TCP_CORK, &corked, sizeof corked);
                (void)SSL_renegotiate(ssl);
                (void)SSL_do_handshake(ssl);
                (void)SSL_write(ssl, reply, (int)strlen(reply));
                corked = 0;
                (void)setsockopt(fd, IPPROTO_TCP, TCP_CORK, &corked, sizeof corked);
            }
        }
        atomic_store(&s->fd, -1);
        SSL_free(ssl);
        close(fd);
    }
    SSL_CTX_free(context);
    return NULL;
}

/* What we have to say to that waits to be sent when the answer is judged, and is no part of the
 * request. */
static void test_http_believes_a_server_that_asks_for_a_handshake(void **state) {
    sink_t s;
    (void)signal(SIGPIPE, SIG_IGN); /* OpenSSL writes to sockets that are closed */
    sink_listen(&s);
    s.serving = true;
    assert_int_equal(pthread_create(&s.thread, NULL, asking_main, &s), 0);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.use_tls = true;
    o.tls.verify = false;
    pom_destination_t *d = make(&o);
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    put(e, 1, 10);
    wait_for(counters(d).sent == 1 || counters(d).last_error[0] != '\0');
    assert_string_equal(counters(d).last_error, "");
    assert_int_equal(atomic_load(&s.requests), 1);
    free_exporter(e);
    pom_destination_unref(d);
    sink_stop(&s);
}

#define WEATHER_TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, drop_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        WEATHER_TEST(test_http_replays_a_full_spool_in_little_memory),
        WEATHER_TEST(test_http_stop_does_not_wait_for_a_removed_ones_replay),
        WEATHER_TEST(test_http_half_open_peers_time_out_and_nothing_is_lost),
        WEATHER_TEST(test_http_keeps_its_budgets_while_nobody_answers),
        WEATHER_TEST(test_http_believes_a_server_that_asks_for_a_handshake),
        WEATHER_TEST(test_http_survives_a_wall_clock_that_jumps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
