/*
 * The HTTP destination against a scripted server on loopback.
 *
 * The server is a thread with blocking sockets: each request gets the next line of the script.
 * Nothing depends on how fast anybody is, but for the tests of timeouts, whose bounds are low
 * ones only.
 */
#include "tests/unit/destinations/fake.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "base/alloc.h"
#include "destinations/exporter_parts.h"
#include "destinations/http.h"
#include "profiles/formats/msgpack_reader.h"

#define OK_REPLY     "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
#define REQUESTS_MAX 16
#define HANG         "hang"  /* read the request, answer nothing until the test ends */
#define CUT          ""      /* read it, close without an answer */
#define MUTE         "mute"  /* read it, answer nothing until the client closes */
#define EARLY        "early" /* say yes, and read nothing until the destination has judged that */

/* How often a destination began to wait before another attempt. Longer are a connection's timeout,
 * a report's, the exporter's. */
#define PAUSE_MOST_NS (30 * POM_NS_PER_S)
static _Atomic(int) pauses;
int __real_uv_timer_start(uv_timer_t *timer, uv_timer_cb call, uint64_t ms, uint64_t repeat);
int __wrap_uv_timer_start(uv_timer_t *timer, uv_timer_cb call, uint64_t ms, uint64_t repeat);
int __wrap_uv_timer_start(uv_timer_t *timer, uv_timer_cb call, uint64_t ms, uint64_t repeat) {
    if (ms < PAUSE_MOST_NS / POM_NS_PER_MS) {
        atomic_fetch_add(&pauses, 1);
    }
    return __real_uv_timer_start(timer, call, ms, repeat);
}

/* A program that closes descriptors it does not know, and then opens a file of its own by the
 * number that wakes the loop. */
static pom_exporter_t *robbed;
static FILE *own_file;

static void rob(fake_t *f) {
    assert_int_not_equal(dup2(fileno(own_file), robbed->guard.woken), -1);
}

/* It does so while "robbed.example" is looked up. The others have two addresses, of which the
 * second is good. At the first nobody listens; or it is one that no socket may connect to; or a
 * hole, if dig_hole() has been there. */
static const char *const two_addresses[][2] = {{"two.example", "127.0.0.2"},
                                               {"forbidden.example", "255.255.255.255"},
                                               {"hole.example", "127.0.0.3"}};

int __real_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out) {
    if (strcmp(host, "robbed.example") == 0 && (hints->ai_flags & AI_NUMERICHOST) == 0) {
        rob(NULL);
        return EAI_NONAME;
    }
    for (int i = 0; i < 3 && (hints->ai_flags & AI_NUMERICHOST) == 0; i++) {
        if (strcmp(host, two_addresses[i][0]) == 0) {
            int error = __real_getaddrinfo(two_addresses[i][1], service, hints, out);
            return error != 0 ? error
                              : __real_getaddrinfo("127.0.0.1", service, hints, &(*out)->ai_next);
        }
    }
    return __real_getaddrinfo(host, service, hints, out);
}

typedef struct request_s {
    char head[2048];
    char *body;
    size_t size;
    int connection;
} request_t;

typedef struct server_s {
    const char *const *script; /* NULL at its end: 200 from then on */
    const char *poison;        /* a request with this in its body gets 504; NULL: none */
    int listener;
    uint16_t port;
    pthread_t thread;
    _Atomic(bool) stop;
    _Atomic(int) count; /* requests read */
    _Atomic(int) fd;    /* the connection being served, -1 */
    _Atomic(bool) judged;
    int connections;
    request_t requests[REQUESTS_MAX];
} server_t;

static bool read_request(int fd, request_t *r) {
    size_t size = 0;
    char *end = NULL;
    while (end == NULL && size < sizeof r->head - 1) {
        ssize_t n = recv(fd, r->head + size, 1, 0);
        if (n <= 0) {
            return false;
        }
        size += (size_t)n;
        r->head[size] = '\0';
        end = strstr(r->head, "\r\n\r\n");
    }
    const char *length = strstr(r->head, "Content-Length: ");
    r->size = length != NULL ? strtoul(length + 16, NULL, 10) : 0;
    r->body = malloc(r->size + 1);
    size_t got = 0;
    while (got < r->size) {
        ssize_t n = recv(fd, r->body + got, r->size - got, 0);
        if (n <= 0) {
            free(r->body);
            r->body = NULL;
            return false;
        }
        got += (size_t)n;
    }
    r->body[r->size] = '\0';
    return true;
}

static void wait_for_end(server_t *s) {
    while (!atomic_load(&s->stop)) {
        usleep(1000);
    }
}

static void serve(server_t *s, int fd) {
    int n = atomic_load(&s->count);
    if (*s->script != NULL && strcmp(*s->script, EARLY) == 0) {
        s->script++;
        (void)send(fd, OK_REPLY, strlen(OK_REPLY), MSG_NOSIGNAL);
        while (!atomic_load(&s->judged) && !atomic_load(&s->stop)) {
            sched_yield();
        }
        return;
    }
    while (n < REQUESTS_MAX && read_request(fd, &s->requests[n])) {
        s->requests[n].connection = s->connections;
        const char *reply = OK_REPLY;
        if (s->poison != NULL && strstr(s->requests[n].body, s->poison) != NULL) {
            reply = "HTTP/1.1 504 x\r\nContent-Length: 0\r\n\r\n";
        } else if (*s->script != NULL) {
            reply = *s->script++;
        }
        atomic_store(&s->count, ++n);
        if (strcmp(reply, HANG) == 0) {
            wait_for_end(s);
            return;
        }
        if (strcmp(reply, MUTE) == 0) {
            char rest;
            (void)!recv(fd, &rest, 1, 0); /* the end */
            return;
        }
        if (strcmp(reply, CUT) == 0) {
            return;
        }
        (void)send(fd, reply, strlen(reply), MSG_NOSIGNAL);
        if (strstr(reply, "onnection: close") != NULL || strstr(reply, "ontent-Length") == NULL) {
            return;
        }
    }
}

static void *server_main(void *arg) {
    server_t *s = arg;
    while (!atomic_load(&s->stop)) {
        int fd = accept(s->listener, NULL, NULL);
        if (fd < 0) {
            break;
        }
        s->connections++;
        atomic_store(&s->fd, fd);
        serve(s, fd);
        atomic_store(&s->fd, -1);
        close(fd);
    }
    return NULL;
}

static void server_start(server_t *s, const char *const *script) {
    memset(s, 0, sizeof *s);
    s->script = script;
    atomic_store(&s->fd, -1);
    s->listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(s->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(s->listener, 16), 0);
    socklen_t size = sizeof address;
    assert_int_equal(getsockname(s->listener, (struct sockaddr *)&address, &size), 0);
    s->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
}

static void server_stop(server_t *s) {
    atomic_store(&s->stop, true);
    (void)shutdown(s->listener, SHUT_RDWR);
    (void)shutdown(atomic_load(&s->fd), SHUT_RDWR); /* none: EBADF */
    pthread_join(s->thread, NULL);
    close(s->listener);
    for (int i = 0; i < REQUESTS_MAX; i++) {
        free(s->requests[i].body);
    }
}

/* ---- the destination ---- */

static pom_http_options_t options_for(const server_t *s) {
    pom_http_options_t o = pom_http_options_default();
    o.host = "127.0.0.1";
    o.port = s->port;
    o.compress = false;
    o.timeout_ns = PATIENCE_NS;
    return o;
}

static bool is_asleep(int32_t tid) {
    char path[64];
    char state = '?';
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
    FILE *f = fopen(path, "r");
    if (f != NULL) {
        if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1) {
            state = '?';
        }
        fclose(f);
    }
    return state == 'S';
}

/* The loop looks round once when a destination is added; what is put meanwhile would be a batch of
 * its own. */
static void wait_for_the_loop(pom_exporter_t *e) {
    pom_exporter_stats_t stats;
    do {
        sched_yield();
        pom_exporter_stats(e, &stats);
    } while (stats.wakeups == 0 || (atomic_load(&e->signal) & POM__URGENT) != 0 ||
             !is_asleep(atomic_load(&e->tid)));
}

static pom_destination_t *add(pom_exporter_t *e, const pom_http_options_t *o) {
    char error[256] = "";
    pom_destination_t *d = NULL;
    if (pom_http_new(o, &d, error, sizeof error) != POM_OK) {
        fail_msg("not made: %s", error);
    }
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    wait_for_the_loop(e);
    return d;
}

/* Delivers only when flushed or full, so that the test decides what a batch is. */
static pom_exporter_t *exporter(void) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = 3600 * POM_NS_PER_S;
    options.batch_bytes = (size_t)1 << 30;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    return e;
}

static int64_t soon(void) {
    return pom_now_ns() + PATIENCE_NS;
}

static int lines(const request_t *r) {
    int n = 0;
    for (size_t i = 0; i < r->size; i++) {
        n += r->body[i] == '\n';
    }
    return n;
}

static void key_of(const request_t *r, char out[37]) {
    const char *at = strstr(r->head, "Idempotency-Key: ");
    assert_non_null(at);
    memcpy(out, at + 17, 36);
    out[36] = '\0';
}

/* ---- tests ---- */

/* acceptance: PM25 */
static void test_http_posts_batches_on_one_connection(void **state) {
    static const char *const script[] = {NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    const pom_http_header_t headers[] = {{"X-Shop", "a b"}};
    o.headers = headers;
    o.header_count = 1;
    o.token = "secret";
    pom_destination_t *d = add(e, &o);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i <= round; i++) {
            put(e, i, 10);
        }
        assert_true(pom_exporter_flush(e, soon()));
    }
    assert_int_equal(atomic_load(&s.count), 3);
    assert_int_equal(s.connections, 1);
    char keys[3][37];
    int64_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        const request_t *r = &s.requests[i];
        assert_int_equal(lines(r), i + 1);
        assert_non_null(strstr(r->head, "POST /api/data HTTP/1.1\r\nHost: 127.0.0.1:"));
        assert_non_null(strstr(r->head, "\r\nContent-Type: application/x-ndjson\r\n"));
        assert_non_null(strstr(r->head, "\r\nX-Shop: a b\r\n"));
        assert_non_null(strstr(r->head, "\r\nAuthorization: Bearer secret\r\n"));
        assert_null(strstr(r->head, "Content-Encoding"));
        key_of(r, keys[i]);
        assert_int_equal(keys[i][14], '7');
        bytes += (int64_t)r->size;
    }
    assert_string_not_equal(keys[0], keys[1]);
    pom_destination_counters_t c = counters(d);
    assert_int_equal(c.sent, 6);
    assert_int_equal(c.produced, 6);
    assert_int_equal(c.retried, 0);
    assert_int_equal(c.bytes, bytes);
    assert_string_equal(c.last_error, "");
    assert_null(strstr(d->name, "secret"));
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

/* acceptance: PM25 */
static void test_http_compresses(void **state) {
    static const char *const script[] = {NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.compress = true;
    pom_destination_t *d = add(e, &o);
    for (int round = 1; round <= 2; round++) { /* the second uses the first one's stream */
        for (int i = 0; i < 50 * round; i++) {
            put(e, i, 10);
        }
        assert_true(pom_exporter_flush(e, soon()));
        const request_t *r = &s.requests[round - 1];
        assert_non_null(strstr(r->head, "\r\nContent-Encoding: gzip\r\n"));
        static unsigned char plain[4 << 20];
        z_stream z = {.next_in = (unsigned char *)r->body,
                      .avail_in = (unsigned)r->size,
                      .next_out = plain,
                      .avail_out = sizeof plain};
        assert_int_equal(inflateInit2(&z, 31), Z_OK);
        assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
        int n = 0;
        for (size_t i = 0; i < z.total_out; i++) {
            n += plain[i] == '\n';
        }
        assert_int_equal(n, 50 * round);
        assert_true(r->size * 10 < z.total_out);
        inflateEnd(&z);
    }
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

typedef struct verdict_s {
    const char *script[8];
    int profiles, sent, rejected, too_big, retried, requests;
    const char *error;
} verdict_t;

/* acceptance: PM25 */
static void test_http_judges_each_answer(void **state) {
    static const verdict_t rows[] = {
        {{"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"}, 3, 3, 0, 0, 0, 1, ""},
        {{"HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n"}, 3, 3, 0, 0, 0, 1, ""},
        {{"HTTP/1.1 100 Continue\r\n\r\n" OK_REPLY}, 3, 3, 0, 0, 0, 1, ""},
        {{"HTTP/1.1 200 OK\r\n\r\nuntil the end"}, 3, 3, 0, 0, 0, 1, ""},
        {{"HTTP/1.1 400 Bad Request\r\nContent-Length: 7\r\n\r\nno good"},
         3,
         0,
         3,
         0,
         0,
         1,
         "answered 400 Bad Request: no good"},
        {{"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"}, 1, 0, 1, 0, 0, 1, "answered 401 No"},
        {{"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"}, 1, 0, 1, 0, 0, 1, "answered 500 Oops"},
        {{"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"},
         2,
         0,
         2,
         0,
         0,
         1,
         "redirects are not followed"},
        {{"HTTP/1.1 429 Slow\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"},
         2,
         2,
         0,
         0,
         2,
         2,
         "answered 429"},
        {{"HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n"}, 2, 2, 0, 0, 2, 2, "answered 502"},
        {{"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"}, 2, 2, 0, 0, 2, 2, "answered 503"},
        {{"HTTP/1.1 504 x\r\nContent-Length: 0\r\n\r\n"}, 2, 2, 0, 0, 2, 2, "answered 504"},
        {{CUT}, 2, 2, 0, 0, 2, 2, "before the answer"},
        {{"SMTP"}, 2, 2, 0, 0, 2, 2, "inside the answer"},
        {{"SMTP is spoken here\r\n"}, 2, 2, 0, 0, 2, 2, "not HTTP/1"},
        {{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nshort"},
         2,
         2,
         0,
         0,
         2,
         2,
         "inside the answer"},
        {{"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n"}, 1, 0, 0, 1, 0, 1, "answered 413"},
        {{"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n", OK_REPLY, OK_REPLY},
         5,
         5,
         0,
         0,
         5,
         3,
         "in halves"},
        /* The halves of 5 are 2 and 3; the second half is refused and not halved again. */
        {{"HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n", OK_REPLY,
          "HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n"},
         5,
         2,
         0,
         3,
         5,
         3,
         "413"},
        {{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
         1,
         1,
         0,
         0,
         0,
         1,
         ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const verdict_t *v = &rows[i];
        server_t s;
        server_start(&s, v->script);
        pom_exporter_t *e = exporter();
        pom_http_options_t o = options_for(&s);
        pom_destination_t *d = add(e, &o);
        for (int k = 0; k < v->profiles; k++) {
            put(e, k, 10);
        }
        assert_true(pom_exporter_flush(e, soon()));
        pom_destination_counters_t c = counters(d);
        if (c.sent != v->sent || c.dropped[POM_DROP_REJECTED] != v->rejected ||
            c.dropped[POM_DROP_TOO_BIG] != v->too_big || c.retried != v->retried || c.queued != 0 ||
            atomic_load(&s.count) != v->requests || strstr(c.last_error, v->error) == NULL ||
            (v->error[0] == '\0' && c.last_error[0] != '\0')) {
            fail_msg("row %zu: sent %d rejected %d too_big %d retried %d requests %d: %s", i,
                     (int)c.sent, (int)c.dropped[POM_DROP_REJECTED],
                     (int)c.dropped[POM_DROP_TOO_BIG], (int)c.retried, atomic_load(&s.count),
                     c.last_error);
        }
        if (v->requests == 2) { /* the same again */
            char first[37], second[37];
            key_of(&s.requests[0], first);
            key_of(&s.requests[1], second);
            assert_string_equal(first, second);
            assert_int_equal(s.requests[0].size, s.requests[1].size);
            assert_memory_equal(s.requests[0].body, s.requests[1].body, s.requests[0].size);
        }
        free_exporter(e);
        pom_destination_unref(d);
        server_stop(&s);
    }
}

/* acceptance: PM25 */
static void test_http_repeats_at_once_when_an_idle_connection_was_closed(void **state) {
    /* The second request is read and cut: as if the server had closed while it was on its way. */
    static const char *const script[] = {OK_REPLY, CUT, NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    pom_destination_t *d = add(e, &o);
    atomic_store(&pauses, 0);
    for (int i = 0; i < 2; i++) {
        put(e, i, 10);
        assert_true(pom_exporter_flush(e, soon()));
    }
    assert_int_equal(atomic_load(&pauses), 0);
    pom_destination_counters_t c = counters(d);
    assert_int_equal(c.sent, 2);
    assert_int_equal(c.retried, 1);
    assert_string_equal(c.last_error, ""); /* nothing was wrong */
    assert_int_equal(s.connections, 2);
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

/* That the server is slow, or dead, is no sign of a connection that it had closed before. */
static void test_http_waits_after_a_timeout_on_a_kept_connection(void **state) {
    static const char *const script[] = {OK_REPLY, MUTE, NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.timeout_ns = 200 * POM_NS_PER_MS;
    pom_destination_t *d = add(e, &o);
    for (int i = 0; i < 2; i++) {
        put(e, i, 10);
        assert_true(pom_exporter_flush(e, soon()));
    }
    assert_int_equal(counters(d).sent, 2);
    assert_non_null(strstr(counters(d).last_error, "no answer within 0.200 s"));
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

/* More than the buffers between the two hold, so a part of it is not sent when the answer comes. */
static void test_http_believes_no_server_that_has_not_got_the_request(void **state) {
    static const char *const script[] = {EARLY, NULL};
    const size_t size = (size_t)12 << 20;
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    pom_destination_t *d = add(e, &o);
    pom_profile_t *p = profile_new(1, 0);
    char *name = pom_arena_alloc(&p->arena, size);
    assert_non_null(name);
    memset(name, 'x', size);
    p->type = (pom_text_t){name, (uint32_t)size};
    pom_exporter_put(e, p);
    (void)pom_exporter_flush(e, pom_now_ns());
    wait_for(counters(d).sent == 1 || counters(d).last_error[0] != '\0');
    assert_int_equal(counters(d).sent, 0);
    assert_non_null(strstr(counters(d).last_error, "before it had the request"));
    atomic_store(&s.judged, true);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(d).sent, 1);
    assert_int_equal(atomic_load(&s.count), 1);
    assert_true(s.requests[0].size > size);
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

/* acceptance: PM25 */
static void test_http_times_out_and_stop_counts_the_rest(void **state) {
    static const char *const script[] = {HANG, NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.timeout_ns = 20 * POM_NS_PER_MS;
    pom_destination_t *d = add(e, &o);
    put(e, 1, 10);
    put(e, 2, 10);
    assert_false(pom_exporter_flush(e, pom_now_ns() + 100 * POM_NS_PER_MS));
    wait_for(counters(d).last_error[0] != '\0');
    assert_non_null(strstr(counters(d).last_error, "within 0.020 s"));
    assert_int_equal(counters(d).queued, 2);
    wait_for(pom_exporter_stop(e, pom_now_ns()) == POM_OK);
    assert_int_equal(counters(d).dropped[POM_DROP_SHUTDOWN], 2);
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

/* Longer than the timeout below. */
static void be_slow(fake_t *f) {
    (void)f;
    int64_t end = pom_now_ns() + POM_NS_PER_S;
    while (pom_now_ns() < end) {
        sched_yield();
    }
}

/* A disk that hangs in the same turn of the loop, before or after the request is begun. */
static void test_http_blames_no_server_for_a_loop_that_was_held_up(void **state) {
    static const char *const script[] = {NULL};
    for (int after = 0; after < 2; after++) {
        server_t s;
        server_start(&s, script);
        pom_exporter_t *e = exporter();
        pom_http_options_t o = options_for(&s);
        o.timeout_ns = POM_NS_PER_S / 2;
        fake_t *f = fake_new("slow", FAKE_SEND);
        f->on_deliver = be_slow;
        pom_destination_t *d = after ? add(e, &o) : NULL;
        assert_int_equal(pom_exporter_add(e, &f->base), POM_OK);
        d = after ? d : add(e, &o);
        wait_for_the_loop(e);
        put(e, 1, 10);
        assert_true(pom_exporter_flush(e, soon()));
        assert_int_equal(atomic_load(&f->delivered), 1);
        pom_destination_counters_t c = counters(d);
        assert_int_equal(c.sent, 1);
        assert_int_equal(c.retried, 0);
        assert_string_equal(c.last_error, "");
        free_exporter(e);
        pom_destination_unref(d);
        pom_destination_unref(&f->base);
        server_stop(&s);
    }
}

static void test_http_remove_lets_the_request_finish(void **state) {
    static const char *const script[] = {HANG, NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.timeout_ns = 50 * POM_NS_PER_MS;
    pom_destination_t *d = add(e, &o);
    put(e, 1, 10);
    (void)pom_exporter_flush(e, pom_now_ns() + POM_NS_PER_MS);
    wait_for(atomic_load(&s.count) == 1);
    assert_int_equal(pom_exporter_remove(e, d), POM_OK);
    wait_for(counters(d).queued == 0);
    assert_int_equal(counters(d).dropped[POM_DROP_REMOVED], 1);
    assert_non_null(strstr(counters(d).last_error, "no answer within"));
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

static void test_http_gives_up_what_is_too_old(void **state) {
    static const char *const script[] = {CUT, CUT, NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.give_up_ns = 1;
    pom_destination_t *d = add(e, &o);
    put(e, 1, 10);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(d).dropped[POM_DROP_TOO_OLD], 1);
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

/* acceptance: PM25 */
static void test_http_names_a_refused_connection_and_an_unknown_host(void **state) {
    static const char *const script[] = {NULL};
    server_t s;
    server_start(&s, script);
    pom_http_options_t o = options_for(&s);
    server_stop(&s); /* nobody listens now */
    static const char *const hosts[] = {"127.0.0.1", "no-such-host.invalid"};
    static const char *const errors[] = {"cannot connect: connection refused",
                                         "cannot resolve the name"};
    for (int i = 0; i < 2; i++) {
        int64_t before = pom_alloc_live_bytes();
        pom_exporter_t *e = exporter();
        o.host = hosts[i];
        pom_destination_t *d = add(e, &o);
        put(e, 1, 10);
        assert_false(pom_exporter_flush(e, pom_now_ns() + POM_NS_PER_MS));
        wait_for(counters(d).last_error[0] != '\0');
        if (strstr(counters(d).last_error, errors[i]) == NULL) {
            fail_msg("%s", counters(d).last_error);
        }
        assert_int_equal(counters(d).queued, 1);
        free_exporter(e);
        assert_int_equal(counters(d).dropped[POM_DROP_SHUTDOWN], 1);
        pom_destination_unref(d);
        wait_for(pom_alloc_live_bytes() == before); /* another attempt's lookup, by and by */
    }
}

static void test_http_tries_each_address_of_a_name(void **state) {
    static const char *const script[] = {NULL};
    static const char *const hosts[] = {"localhost", "two.example", "forbidden.example"};
    for (int i = 0; i < 3; i++) {
        server_t s;
        server_start(&s, script);
        pom_exporter_t *e = exporter();
        pom_http_options_t o = options_for(&s);
        o.host = hosts[i];
        atomic_store(&pauses, 0);
        pom_destination_t *d = add(e, &o);
        put(e, 1, 10);
        assert_true(pom_exporter_flush(e, soon()));
        assert_int_equal(counters(d).sent, 1);
        assert_int_equal(counters(d).retried, 0);
        assert_int_equal(atomic_load(&pauses), 0);
        free_exporter(e);
        pom_destination_unref(d);
        server_stop(&s);
    }
}

#define DIGGERS 3

/* Connections to this port of 127.0.0.3 are not answered: there is a listener whose queue is
 * full. */
static void dig_hole(uint16_t port, int fds[1 + DIGGERS]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET, "127.0.0.3", &address.sin_addr), 1);
    for (int i = 0; i <= DIGGERS; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (i == 0) {
            assert_int_equal(bind(fds[0], (struct sockaddr *)&address, sizeof address), 0);
            assert_int_equal(listen(fds[0], 0), 0);
        } else {
            (void)connect(fds[i], (struct sockaddr *)&address, sizeof address); /* in progress */
        }
    }
}

static void test_http_begins_behind_the_address_that_timed_out(void **state) {
    static const char *const script[] = {NULL};
    server_t s;
    int hole[1 + DIGGERS];
    server_start(&s, script);
    dig_hole(s.port, hole);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.host = "hole.example";
    o.timeout_ns = 100 * POM_NS_PER_MS;
    pom_destination_t *d = add(e, &o);
    put(e, 1, 10);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(d).sent, 1);
    assert_true(counters(d).retried >= 1);
    free_exporter(e);
    pom_destination_unref(d);
    for (int i = 0; i <= DIGGERS; i++) {
        close(hole[i]);
    }
    server_stop(&s);
}

/* acceptance: PM25 */
static void test_http_spools_while_the_server_is_away(void **state) {
    char folder[] = "/tmp/pom-http-XXXXXX";
    char command[128];
    assert_non_null(mkdtemp(folder));
    static const char *const script[] = {"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n",
                                         "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.spool_dir = folder;
    pom_destination_t *d = add(e, &o);
    for (int i = 1; i <= 3; i++) {
        for (int k = 0; k < i; k++) {
            put(e, k, 10);
        }
        assert_true(pom_exporter_flush(e, soon())); /* on disk is a fate */
        assert_int_equal(counters(d).queued, 0);
    }
    /* By itself: the back-off's attempts, the second of which meets a server that answers. */
    wait_for(counters(d).sent == 6);
    pom_destination_counters_t c = counters(d);
    assert_int_equal(c.produced, 6);
    assert_int_equal(c.spooled, 0);
    int64_t got = 0;
    for (int i = 2; i < atomic_load(&s.count); i++) {
        got += lines(&s.requests[i]);
    }
    assert_int_equal(got, 6);
    char first[37], again[37];
    key_of(&s.requests[0], first);
    key_of(&s.requests[1], again);
    assert_string_equal(first, again);
    server_stop(&s);
    /* Nobody listens: what is left at the end stays on disk, and a new destination takes it up. */
    put(e, 1, 10);
    put(e, 2, 10);
    assert_true(pom_exporter_flush(e, soon()));
    put(e, 3, 10);
    assert_int_equal(pom_exporter_stop(e, soon()), POM_OK);
    assert_int_equal(counters(d).spooled, 3);
    free_exporter(e);
    pom_destination_unref(d);
    e = exporter();
    d = add(e, &o);
    wait_for(counters(d).spooled == 3);
    assert_int_equal(counters(d).produced, 3);
    free_exporter(e);
    pom_destination_unref(d);
    /* A bad head: what its entry had is not known, and the loss is told all the same. */
    (void)snprintf(command, sizeof command,
                   "for f in %s/*/*/*.seg; do printf ? | dd conv=notrunc status=none of=$f; done",
                   folder);
    assert_int_equal(system(command), 0);
    e = exporter();
    d = add(e, &o);
    wait_for(strstr(counters(d).last_error, "damaged segment") != NULL);
    assert_int_equal(counters(d).produced, counters(d).dropped[POM_DROP_ERROR]);
    assert_int_equal(counters(d).spooled, 0);
    free_exporter(e);
    pom_destination_unref(d);
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

/* How many were refused, all with one key: tried on, the same as ever. */
static int refused(const server_t *s) {
    char first[37], other[37];
    int n = 0;
    for (int i = 0; i < atomic_load(&s->count); i++) {
        if (strstr(s->requests[i].body, s->poison) != NULL) {
            key_of(&s->requests[i], n == 0 ? first : other);
            if (n++ > 0) {
                assert_string_equal(first, other);
            }
        }
    }
    return n;
}

/* acceptance: PM25 */
static void test_http_passes_by_a_batch_in_the_spool_that_is_never_taken(void **state) {
    static const char *const script[] = {NULL};
    char folder[] = "/tmp/pom-http-XXXXXX";
    char command[128];
    assert_non_null(mkdtemp(folder));
    server_t s;
    server_start(&s, script);
    s.poison = "\"thread\":13,";
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.spool_dir = folder;
    pom_destination_t *d = add(e, &o);
    put(e, 13, 10);
    put(e, 13, 10);
    assert_true(pom_exporter_flush(e, soon()));
    put(e, 1, 10); /* behind it, in the spool */
    assert_true(pom_exporter_flush(e, soon()));
    wait_for(refused(&s) >= 2); /* or more: a busy machine looks late */
    put(e, 2, 10);
    assert_true(pom_exporter_flush(e, soon()));
    wait_for(counters(d).sent == 2);
    wait_for(refused(&s) > 3);
    assert_int_equal(counters(d).sent, 2);
    assert_int_equal(counters(d).spooled, 2);
    assert_int_equal(counters(d).produced, 4);
    free_exporter(e);
    assert_int_equal(counters(d).spooled, 2);
    pom_destination_unref(d);
    server_stop(&s);
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

/* acceptance: PM25 */
static void test_http_passes_by_a_batch_in_memory_that_is_never_taken(void **state) {
    static const char *const script[] = {NULL};
    server_t s;
    server_start(&s, script);
    s.poison = "\"thread\":13,";
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    pom_destination_t *d = add(e, &o);
    put(e, 13, 10);
    put(e, 13, 10);
    assert_false(pom_exporter_flush(e, pom_now_ns()));
    wait_for(refused(&s) >= 1);
    for (int i = 1; i <= 3; i++) {
        put(e, i, 10);
        assert_false(pom_exporter_flush(e, pom_now_ns())); /* it goes on, though nobody waits */
        wait_for(counters(d).sent == i);
    }
    wait_for(refused(&s) > 3);
    assert_int_equal(counters(d).queued, 2);
    free_exporter(e);
    assert_int_equal(counters(d).dropped[POM_DROP_SHUTDOWN], 2);
    assert_int_equal(counters(d).sent, 3);
    pom_destination_unref(d);
    server_stop(&s);
}

/* acceptance: PM25 */
static void test_http_stop_spools_what_is_queued_behind_a_request(void **state) {
    static const char *const script[] = {HANG, NULL};
    for (int room = 0; room < 2; room++) {
        char folder[] = "/tmp/pom-http-XXXXXX";
        char command[128];
        assert_non_null(mkdtemp(folder));
        server_t s;
        server_start(&s, script);
        pom_exporter_t *e = exporter();
        pom_http_options_t o = options_for(&s);
        o.spool_dir = folder;
        o.spool_bytes = room ? o.spool_bytes : 100;
        pom_destination_t *d = add(e, &o);
        put(e, 0, 10);
        assert_false(pom_exporter_flush(e, pom_now_ns()));
        wait_for(atomic_load(&s.count) == 1);
        for (int k = 1; k < 5; k++) {
            put(e, k, 10);
        }
        wait_for(pom_exporter_stop(e, pom_now_ns()) == POM_OK);
        pom_destination_counters_t c = counters(d);
        assert_int_equal(c.produced, 5);
        assert_int_equal(c.spooled, room ? 5 : 0);
        assert_int_equal(c.dropped[POM_DROP_SHUTDOWN], room ? 0 : 5);
        free_exporter(e);
        pom_destination_unref(d);
        server_stop(&s);
        e = exporter();
        d = add(e, &o); /* nobody listens any more: what was kept is found, and stays */
        assert_int_equal(counters(d).produced, room ? 5 : 0);
        assert_int_equal(counters(d).spooled, room ? 5 : 0);
        free_exporter(e);
        pom_destination_unref(d);
        (void)snprintf(command, sizeof command, "rm -rf %s", folder);
        assert_int_equal(system(command), 0);
    }
}

/* acceptance: PM25 */
static void test_http_tells_the_server_what_it_has_lost(void **state) {
    /* The batch is refused; the first report meets a busy server, the second is taken. */
    static const char *const script[] = {"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n",
                                         "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", NULL};
    for (int msgpack = 0; msgpack < 2; msgpack++) {
        server_t s;
        server_start(&s, script);
        pom_exporter_t *e = exporter();
        pom_http_options_t o = options_for(&s);
        o.format = msgpack ? POM_HTTP_MSGPACK : POM_HTTP_JSON;
        o.report_ns = POM_NS_PER_MS;
        pom_destination_t *d = add(e, &o);
        put(e, 1, 10);
        put(e, 2, 10);
        assert_true(pom_exporter_flush(e, soon()));
        wait_for(atomic_load(&s.count) == 3); /* without another profile */
        const request_t *r = &s.requests[2];
        if (msgpack) {
            pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
            assert_int_equal(pom_msgpack_reader_begin(reader, r->body, r->size), POM_OK);
            const pom_client_report_t *report = pom_msgpack_reader_report(reader);
            assert_non_null(report);
            assert_int_equal(report->produced, 2);
            assert_int_equal(report->drop_count, 1);
            assert_memory_equal(report->drops[0].reason.data, "rejected", 8);
            assert_int_equal(report->drops[0].count, 2);
            pom_msgpack_reader_free(reader);
        } else {
            assert_int_equal(lines(r), 1);
            assert_non_null(strstr(r->body, "\"kind\":\"report\""));
            assert_non_null(strstr(r->body, "\"produced\":2,\"queued\":0,\"sent\":0"));
            assert_non_null(strstr(r->body, "\"dropped\":{\"rejected\":2}"));
        }
        char refused[37], taken[37];
        key_of(&s.requests[1], refused);
        key_of(&s.requests[2], taken);
        assert_string_not_equal(refused, taken); /* made anew */
        /* A report is no call graph, and there is nothing to tell about what goes well. */
        put(e, 3, 10);
        assert_true(pom_exporter_flush(e, soon()));
        pom_destination_counters_t c = counters(d);
        assert_int_equal(c.produced, 3);
        assert_int_equal(c.sent, 1);
        assert_int_equal(c.retried, 0);
        assert_int_equal(c.bytes, s.requests[3].size);
        assert_int_equal(atomic_load(&s.count), 4);
        free_exporter(e);
        pom_destination_unref(d);
        server_stop(&s);
    }
}

/* acceptance: PM25 */
static void test_http_goes_on_after_a_report_that_failed(void **state) {
    static const char busy[] = "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n";
    static const char *const script[] = {busy, OK_REPLY, busy, NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    o.report_ns = POM_NS_PER_MS; /* due again at each attempt */
    pom_destination_t *d = add(e, &o);
    put(e, 1, 10);
    (void)pom_exporter_flush(e, pom_now_ns());
    wait_for(counters(d).last_error[0] != '\0'); /* there is something to report from now on */
    put(e, 2, 10);
    assert_true(pom_exporter_flush(e, soon()));
    assert_int_equal(counters(d).sent, 2);
    wait_for(atomic_load(&s.count) >= 5); /* the report is made good */
    int reports = 0;
    for (int i = 0; i < 5; i++) {
        reports += strstr(s.requests[i].body, "\"kind\":\"report\"") != NULL;
        assert_int_equal(reports != 0, i >= 2); /* the third, which failed */
    }
    assert_int_equal(reports, 2);
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

/* acceptance: PM25 */
static void test_http_works_in_a_forked_child(void **state) {
    skip_when_sanitized();
    static const char *const script[] = {NULL};
    server_t s;
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    pom_destination_t *d = add(e, &o);
    put(e, 1, 10);
    assert_true(pom_exporter_flush(e, soon()));
    pom_exporter_before_fork(e);
    pid_t pid = fork();
    if (pid == 0) {
        pom_exporter_after_fork_child(e);
        put(e, 2, 10);
        put(e, 3, 10);
        bool flushed = pom_exporter_flush(e, soon());
        pom_destination_counters_t c;
        pom_destination_counters(d, &c);
        pom_test_child_ends(flushed && c.sent == 2 && c.produced == 2);
    }
    pom_exporter_after_fork_parent(e);
    /* The server serves one connection at a time: the child's, once the parent's is gone. */
    assert_int_equal(pom_exporter_stop(e, soon()), POM_OK);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(counters(d).sent, 1);
    assert_int_equal(atomic_load(&s.count), 2);
    assert_int_equal(s.connections, 2);
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

static int threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks != NULL && (task = readdir(tasks)) != NULL;) {
        count += task->d_name[0] != '.';
    }
    closedir(tasks);
    return count;
}

/* Neither the lookup's thread nor the loop's, on its way to a connection, writes into what is the
 * program's by now, or ends the process, as libuv would. */
static void test_http_does_not_wake_a_loop_whose_descriptor_is_gone(void **state) {
    skip_when_sanitized(); /* a child that starts threads */
    static const char *const hosts[] = {"robbed.example", "127.0.0.1"};
    for (int numeric = 0; numeric < 2; numeric++) {
        pid_t pid = fork();
        if (pid == 0) {
            pom_exporter_t *e = robbed = exporter();
            own_file = tmpfile();
            fake_t *f = fake_new("first", FAKE_SEND);
            f->on_deliver = numeric ? rob : NULL;
            bool good = pom_exporter_add(e, &f->base) == POM_OK;
            pom_http_options_t o = pom_http_options_default();
            o.host = hosts[numeric];
            o.port = 1;
            o.timeout_ns = PAUSE_MOST_NS / 2; /* so that its timer counts as a pause */
            (void)add(e, &o);
            int before = atomic_load(&pauses);
            put(e, 1, 10);
            good = !pom_exporter_flush(e, pom_now_ns()) && good;
            wait_for(atomic_load(&pauses) > before && threads() == 2 &&
                     is_asleep(atomic_load(&e->tid)));
            struct stat st;
            pom_test_child_ends(good && fstat(fileno(own_file), &st) == 0 && st.st_size == 0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

static int sockets(void) {
    char path[64];
    struct stat st;
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        count += stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
    }
    return count;
}

/* acceptance: PM25 */
static void test_http_leaves_no_socket_to_a_child_of_its_first_request(void **state) {
    skip_when_sanitized();
    static const char *const script[] = {HANG, NULL};
    server_t s;
    int before = sockets();
    server_start(&s, script);
    pom_exporter_t *e = exporter();
    pom_http_options_t o = options_for(&s);
    pom_destination_t *d = add(e, &o);
    put(e, 1, 10);
    (void)pom_exporter_flush(e, 0);
    wait_for(atomic_load(&s.count) == 1); /* read, never answered */
    assert_int_equal(sockets(), before + 3);
    pom_exporter_before_fork(e);
    pid_t pid = fork();
    if (pid == 0) {
        pom_exporter_after_fork_child(e);
        /* the server's two, which this test has from its parent */
        pom_test_child_ends(sockets() == before + 2);
    }
    pom_exporter_after_fork_parent(e);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    free_exporter(e);
    pom_destination_unref(d);
    server_stop(&s);
}

static void test_http_refuses_wrong_options(void **state) {
    static const pom_http_header_t smuggled = {"X", "a\r\nY: b"};
    static const pom_http_header_t name = {"X\r\n\x1b[2JY", "a"};
    static const pom_http_header_t ours = {"HOST", "a"};
    static const pom_http_header_t twice = {"Authorization", "a"};
    pom_http_options_t good = pom_http_options_default();
    good.host = "h.example";
    pom_http_options_t rows[13];
    for (size_t i = 0; i < 13; i++) {
        rows[i] = good;
    }
    rows[0].host = NULL;
    rows[1].host = "http://h.example";
    rows[2].host = "h.example/x";
    rows[3].path = "no-slash";
    rows[4].path = "/a b";
    rows[5].path = "/a\r\nX: y";
    rows[6].headers = &smuggled;
    rows[7].headers = &name;
    rows[8].headers = &ours;
    rows[9].headers = &twice;
    rows[9].token = "t";
    rows[10].token = "a\nb";
    rows[11].timeout_ns = 0;
    rows[12].host = "h.example\n\xc3\xa9";
    for (size_t i = 0; i < 13; i++) {
        rows[i].header_count = rows[i].headers != NULL;
        char error[256] = "";
        pom_destination_t *d = NULL;
        if (pom_http_new(&rows[i], &d, error, sizeof error) != POM_EINVAL || error[0] == '\0') {
            fail_msg("row %zu: %s", i, error);
        }
        for (const char *c = error; *c != '\0'; c++) {
            assert_true(*c >= ' ' && *c < 127); /* one line, whatever was refused */
        }
    }
    static const struct {
        const char *host;
        uint16_t port;
        bool tls;
        const char *name;
    } names[] = {
        {"h.example", 0, false, "http://h.example/api/data"},
        {"h.example", 8080, false, "http://h.example:8080/api/data"},
        {"h.example", 0, true, "https://h.example/api/data"},
        {"::1", 443, true, "https://[::1]/api/data"},
        {"[::1]", 80, true, "https://[::1]:80/api/data"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char error[256];
        pom_http_options_t o = good;
        o.host = names[i].host;
        o.port = names[i].port;
        o.use_tls = names[i].tls;
        o.tls.verify = false;
        pom_destination_t *d = NULL;
        assert_int_equal(pom_http_new(&o, &d, error, sizeof error), POM_OK);
        assert_string_equal(d->name, names[i].name);
        pom_destination_unref(d);
    }
}

static bool make_one(void *arg) {
    (void)arg;
    char error[256];
    pom_http_options_t o = pom_http_options_default();
    o.host = "h.example";
    o.token = "t";
    pom_destination_t *d = NULL;
    if (pom_http_new(&o, &d, error, sizeof error) != POM_OK) {
        return false;
    }
    pom_destination_unref(d);
    return true;
}

static void test_http_survives_allocation_failures(void **state) {
    assert_true(pom_torture(make_one, NULL) > 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_http_posts_batches_on_one_connection),
        POM_TEST(test_http_compresses),
        POM_TEST(test_http_judges_each_answer),
        POM_TEST(test_http_repeats_at_once_when_an_idle_connection_was_closed),
        POM_TEST(test_http_waits_after_a_timeout_on_a_kept_connection),
        POM_TEST(test_http_believes_no_server_that_has_not_got_the_request),
        POM_TEST(test_http_times_out_and_stop_counts_the_rest),
        POM_TEST(test_http_blames_no_server_for_a_loop_that_was_held_up),
        POM_TEST(test_http_remove_lets_the_request_finish),
        POM_TEST(test_http_gives_up_what_is_too_old),
        POM_TEST(test_http_names_a_refused_connection_and_an_unknown_host),
        POM_TEST(test_http_tries_each_address_of_a_name),
        POM_TEST(test_http_begins_behind_the_address_that_timed_out),
        POM_TEST(test_http_spools_while_the_server_is_away),
        POM_TEST(test_http_passes_by_a_batch_in_the_spool_that_is_never_taken),
        POM_TEST(test_http_passes_by_a_batch_in_memory_that_is_never_taken),
        POM_TEST(test_http_stop_spools_what_is_queued_behind_a_request),
        POM_TEST(test_http_tells_the_server_what_it_has_lost),
        POM_TEST(test_http_goes_on_after_a_report_that_failed),
        POM_TEST(test_http_works_in_a_forked_child),
        POM_TEST(test_http_does_not_wake_a_loop_whose_descriptor_is_gone),
        POM_TEST(test_http_leaves_no_socket_to_a_child_of_its_first_request),
        POM_TEST(test_http_refuses_wrong_options),
        POM_TEST(test_http_survives_allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
