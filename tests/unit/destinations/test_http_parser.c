/* The reply reader: what it accepts, what it refuses, at every cut of the input; then noise. */
#include "tests/unit/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "destinations/http_parser.h"

typedef struct reply_s {
    const char *text;
    int status;       /* 0: BAD, -1: incomplete even at the end of the connection */
    const char *body; /* NULL: empty */
    bool keep_alive;
    size_t left;       /* bytes behind the reply */
    const char *error; /* part of it */
} reply_t;

static const reply_t replies[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true, 0, NULL},
    {"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "ok", true, 0, NULL},
    {"HTTP/1.1 200\r\ncontent-LENGTH:0\r\n\r\n", 200, NULL, true, 0, NULL},
    {"HTTP/1.1 204 No Content\r\n\r\n", 204, NULL, true, 0, NULL},
    {"HTTP/1.1 204 No Content\r\n\r\nrest", 204, NULL, true, 4, NULL},
    {"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", 304, NULL, true, 0, NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", 200, "ok", false, 0,
     NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nok", 200, "ok", false, 0,
     NULL},
    {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false, 0, NULL},
    {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", 200, "ok", true, 0,
     NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", 200, "ok", true, 0, NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true, 0,
     NULL},
    {"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end", false, 0, NULL},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true,
     0, NULL},
    {"HTTP/1.1 103 Hints\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
     "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
     503, NULL, true, 0, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok", true,
     0, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
     "1;x=y\r\no\r\n00A \r\nkkkkkkkkkk\r\n0\r\nX-T: 1\r\n\r\nmore",
     200, "okkkkkkkkkk", true, 4, NULL},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n", 200,
     NULL, false, 0, NULL},
    {"HTTP/1.1 599 odd\r\nContent-Length: 0\r\n\r\n", 599, NULL, true, 0, NULL},

    {"HTTP/2 200 OK\r\n\r\n", 0, NULL, false, 0, "not HTTP/1"},
    {"SSH-2.0-OpenSSH_9.2\r\n", 0, NULL, false, 0, "not HTTP/1"},
    {"\r\n", 0, NULL, false, 0, "not HTTP/1"},
    {"HTTP/1.1 2x0 OK\r\n\r\n", 0, NULL, false, 0, "not HTTP/1"},
    {"HTTP/1.1 2000 OK\r\n\r\n", 0, NULL, false, 0, "not HTTP/1"},
    {"HTTP/1.1 099 OK\r\n\r\n", 0, NULL, false, 0, "not HTTP/1"},
    {"HTTP/1.1 600 OK\r\n\r\n", 0, NULL, false, 0, "impossible status"},
    {"HTTP/1.1 101 Switching\r\n\r\n", 0, NULL, false, 0, "protocol"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 0, NULL, false, 0,
     "Content-Length"},
    {"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", 0, NULL, false, 0, "Content-Length"},
    {"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 0, NULL, false, 0, "Content-Length"},
    {"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", 0, NULL, false, 0, "Content-Length"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\n", -1, NULL, false, 0, NULL},
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", 0, NULL, false, 0,
     "Content-Length"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 10485761\r\n\r\n", 0, NULL, false, 0, "10 MiB"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 0, NULL, false, 0,
     "transfer coding"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", 0, NULL, false, 0,
     "transfer coding"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0, NULL,
     false, 0, "transfer coding"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", 0, NULL, false, 0, "chunk"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n", 0, NULL, false, 0, "chunk"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 0, NULL, false, 0, "chunk"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n", 0, NULL, false, 0,
     "chunk"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n", 0, NULL,
     false, 0, "10 MiB"},
    {"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", 0, NULL, false, 0, "header line"},
    {"HTTP/1.1 200 OK\r\n: x\r\n\r\n", 0, NULL, false, 0, "header line"},
    {"HTTP/1.1 200 OK\r\nX : x\r\n\r\n", 0, NULL, false, 0, "header line"},
    {"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n", 0, NULL, false, 0, "header line"},
    {"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", 0, NULL, false, 0, "header line"},

    {"", -1, NULL, false, 0, "before the answer"},
    {"HTTP/1.1 200", -1, NULL, false, 0, "inside the answer"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", -1, NULL, false, 0, "inside the answer"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", -1, NULL, false, 0,
     "inside"},
    {"HTTP/1.1 100 Continue\r\n\r\n", -1, NULL, false, 0, "inside the answer"},
};

/* Feeds in pieces of `piece` bytes, each in a block of its own size so that ASan sees its end. */
static pom__http_state_t feed(pom__http_parser_t *p, const char *text, size_t size, size_t piece,
                              size_t *total) {
    pom__http_state_t state = POM__HTTP_MORE;
    size_t at = 0;
    while (at < size && state == POM__HTTP_MORE) {
        size_t n = size - at < piece ? size - at : piece;
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, text + at, n);
        size_t used = 0;
        state = pom__http_parser_feed(p, copy, n, &used);
        free(copy);
        assert_true(used <= n);
        assert_true(state != POM__HTTP_MORE || used == n);
        at += used;
    }
    *total = at;
    return state;
}

/* acceptance: PM25 */
static void test_parser_reads_each_reply_in_pieces_of_any_size(void **state) {
    pom__http_parser_t p;
    pom__http_parser_init(&p);
    for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
        const reply_t *r = &replies[i];
        size_t size = strlen(r->text);
        for (size_t piece = 1; piece <= size + 1; piece++) {
            pom__http_parser_start(&p);
            size_t used = 0;
            pom__http_state_t got = feed(&p, r->text, size, piece, &used);
            bool ended = got == POM__HTTP_MORE;
            if (ended) {
                got = pom__http_parser_eof(&p);
            }
            bool right = got == (r->status > 0 ? POM__HTTP_DONE : POM__HTTP_BAD) &&
                         (r->status >= 0 || ended);
            if (right && r->status > 0) {
                size_t want = r->body != NULL ? strlen(r->body) : 0;
                right = p.status == r->status && p.keep_alive == r->keep_alive &&
                        p.body.len == want &&
                        (want == 0 || memcmp(p.body.data, r->body, want) == 0) &&
                        used == size - r->left;
            } else if (right && r->error != NULL) {
                right = strstr(p.error, r->error) != NULL;
            }
            if (!right) {
                fail_msg("reply %zu in pieces of %zu: state %d status %d error %s\n%s", i, piece,
                         (int)got, p.status, p.error != NULL ? p.error : "", r->text);
            }
        }
    }
    pom__http_parser_fini(&p);
}

static void test_parser_keeps_what_the_sender_needs(void **state) {
    pom__http_parser_t p;
    pom__http_parser_init(&p);
    pom__http_parser_start(&p);
    const char *text = "HTTP/1.1 503 Try\x01 later\r\nRetry-After:  120 \r\nLOCATION: /x\r\n"
                       "Content-Length: 0\r\n\r\n";
    size_t used;
    assert_int_equal(pom__http_parser_feed(&p, text, strlen(text), &used), POM__HTTP_DONE);
    assert_string_equal(p.reason, "Try? later");
    assert_string_equal(p.retry_after, "120");
    assert_string_equal(p.location, "/x");
    pom__http_parser_start(&p);
    assert_string_equal(p.retry_after, "");
    pom__http_parser_fini(&p);
}

/* acceptance: PM25 */
static void test_parser_refuses_endless_headers(void **state) {
    pom__http_parser_t p;
    pom__http_parser_init(&p);
    static const char *const endless[] = {"X: y\r\n", "x", "HTTP/1.1 100 Continue\r\n\r\n"};
    for (size_t i = 0; i < 3; i++) {
        pom__http_parser_start(&p);
        size_t used;
        const char *start = i == 2 ? "" : "HTTP/1.1 200 OK\r\n";
        (void)pom__http_parser_feed(&p, start, strlen(start), &used);
        size_t fed = 0;
        while (pom__http_parser_feed(&p, endless[i], strlen(endless[i]), &used) == POM__HTTP_MORE) {
            fed += used;
            assert_true(fed <= POM__HTTP_HEAD_MAX);
        }
        assert_true(i == 2 || fed > POM__HTTP_HEAD_MAX - 64);
    }
    /* The same in a trailer, and in a chunk's extension. */
    static const char *const heads[] = {"0\r\n", "1;"};
    for (size_t i = 0; i < 2; i++) {
        pom__http_parser_start(&p);
        size_t used;
        const char *start = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        (void)pom__http_parser_feed(&p, start, strlen(start), &used);
        (void)pom__http_parser_feed(&p, heads[i], strlen(heads[i]), &used);
        size_t fed = 0;
        while (pom__http_parser_feed(&p, "x", 1, &used) == POM__HTTP_MORE) {
            assert_true(++fed <= POM__HTTP_HEAD_MAX);
        }
    }
    pom__http_parser_fini(&p);
}

/* acceptance: PM25 */
static void test_parser_keeps_a_part_of_long_bodies_and_refuses_longer(void **state) {
    static char piece[64 << 10];
    memset(piece, 'x', sizeof piece);
    pom__http_parser_t p;
    pom__http_parser_init(&p);
    for (int chunked = 0; chunked < 2; chunked++) {
        pom__http_parser_start(&p);
        size_t used;
        const char *start = chunked ? "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                                    : "HTTP/1.1 200 OK\r\n\r\n";
        (void)pom__http_parser_feed(&p, start, strlen(start), &used);
        uint64_t fed = 0;
        for (;;) {
            pom__http_state_t got = POM__HTTP_MORE;
            if (chunked) {
                got = pom__http_parser_feed(&p, "10000\r\n", 7, &used);
            }
            if (got == POM__HTTP_MORE) {
                got = pom__http_parser_feed(&p, piece, sizeof piece, &used);
            }
            if (got == POM__HTTP_MORE && chunked) {
                got = pom__http_parser_feed(&p, "\r\n", 2, &used);
            }
            if (got != POM__HTTP_MORE) {
                break;
            }
            fed += sizeof piece;
            assert_true(fed <= POM__HTTP_BODY_MAX);
        }
        assert_int_equal(fed, POM__HTTP_BODY_MAX);
        assert_int_equal(p.body.len, POM__HTTP_BODY_KEPT);
        assert_non_null(strstr(p.error, "10 MiB"));
    }
    pom__http_parser_fini(&p);
}

static void test_parser_reads_on_without_memory(void **state) {
    pom__http_parser_t p;
    pom__http_parser_init(&p);
    pom__http_parser_start(&p);
    const char *text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd";
    size_t used;
    pom_alloc_fail_from(1);
    assert_int_equal(pom__http_parser_feed(&p, text, strlen(text), &used), POM__HTTP_DONE);
    pom_alloc_fail_from(0);
    assert_int_equal(p.body.len, 0);
    pom__http_parser_fini(&p);
}

/* Replies of the table, mixed, cut and damaged; the sanitizers are the judges, and three
 * properties: progress, bounds, and the same answer however the input is cut. */
static void test_parser_survives_noise(void **state) {
    uint64_t seed = 25;
    static pom__http_parser_t whole, pieces;
    pom__http_parser_init(&whole);
    pom__http_parser_init(&pieces);
    const size_t kinds = sizeof replies / sizeof replies[0];
    char text[4096];
    for (int round = 0; round < 20000; round++) {
        size_t size = 0;
        for (int part = 0; part < 3; part++) {
            seed = pom_hash_mix(seed + 1);
            const char *from = replies[seed % kinds].text;
            size_t n = strlen(from);
            size_t start = n > 0 && (seed >> 20) % 4 == 0 ? (seed >> 32) % n : 0;
            memcpy(text + size, from + start, n - start);
            size += n - start;
        }
        for (uint64_t damage = (seed >> 40) % 6; damage > 0 && size > 0; damage--) {
            seed = pom_hash_mix(seed + 1);
            static const char bytes[] = "\r\n :;,0189afHT\0\xff";
            text[(seed >> 8) % size] = bytes[seed % (sizeof bytes - 1)];
        }
        pom__http_parser_start(&whole);
        pom__http_parser_start(&pieces);
        size_t used_whole, used_pieces;
        pom__http_state_t a = feed(&whole, text, size, size + 1, &used_whole);
        pom__http_state_t b = feed(&pieces, text, size, 1 + (seed >> 50) % 7, &used_pieces);
        if (a == POM__HTTP_MORE) {
            a = pom__http_parser_eof(&whole);
        }
        if (b == POM__HTTP_MORE) {
            b = pom__http_parser_eof(&pieces);
        }
        assert_int_equal(a, b);
        assert_true(a != POM__HTTP_MORE);
        assert_true(whole.body.len <= POM__HTTP_BODY_KEPT);
        if (a == POM__HTTP_DONE) {
            assert_int_equal(used_whole, used_pieces);
            assert_int_equal(whole.status, pieces.status);
            assert_int_equal(whole.keep_alive, pieces.keep_alive);
            assert_int_equal(whole.body.len, pieces.body.len);
            assert_true(whole.status >= 200 && whole.status < 600);
        } else {
            assert_string_equal(whole.error, pieces.error);
        }
    }
    pom__http_parser_fini(&whole);
    pom__http_parser_fini(&pieces);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_parser_reads_each_reply_in_pieces_of_any_size),
        POM_TEST(test_parser_keeps_what_the_sender_needs),
        POM_TEST(test_parser_refuses_endless_headers),
        POM_TEST(test_parser_keeps_a_part_of_long_bodies_and_refuses_longer),
        POM_TEST(test_parser_reads_on_without_memory),
        POM_TEST(test_parser_survives_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
