/*
 * The HTTP destination: what to post, when to try again, when to give up.
 *
 *     batch -> ranges -> one request -> sent
 *                 ^          |  429, 502, 503, 504, lost, no connection: back-off, the same again
 *                 |          |  413: halved once
 *                 +----------+  every other answer, redirects too: rejected for good
 *
 * One request at a time on one connection that is kept. A request that meets a connection which
 * the server has closed while it was idle goes again at once on a new one; every other failure
 * waits. A repetition carries the same bytes and the same Idempotency-Key, as the loss of an
 * answer does not say whether the request was taken.
 *
 * Batches are made every five seconds where a file's are every second: each has dictionaries and a
 * gzip stream of its own, which cost some 900 bytes, and that is a quarter of what 50 requests come
 * to. There are also fewer requests, for either side.
 *
 * While a server is away the batch stays with us, and what comes after it piles up in the
 * exporter's queue, within its budget. With a spool it goes to the disk instead, and so do the
 * ones after it until an attempt succeeds; then new batches go first, and the spool's in between.
 * A disk that takes nothing is as if there were no spool.
 *
 * What was lost or repeated is told to the server as well (self_report.c): a request like the
 * others, between them, that is never spooled and whose loss does not matter.
 *
 * Redirects are not followed: profiles and tokens go where the user has said, nowhere else.
 *
 * Fork: the child leaves the connection, closing its copy of the descriptor without a word to the
 * server; OpenSSL's context is made anew.
 */
#include "destinations/http.h"

#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/own_fd.h"
#include "destinations/backoff.h"
#include "destinations/http_body.h"
#include "destinations/http_connection.h"
#include "destinations/http_options.h"
#include "destinations/resolver.h"
#include "destinations/self_report.h"
#include "destinations/spool.h"
#include "destinations/stages.h"

#define SOURCE_MAX 256 /* of a client report; longer is cut */

/* Halving a batch until it can be encoded: a batch has at most 2^32 profiles, and each halving
 * leaves one half waiting. */
#define RANGES_MAX 34

/* In a flush the back-off is not sat out, but a dead server is not asked in a loop either. */
#define FLUSH_PAUSE_NS (200 * POM_NS_PER_MS)

typedef struct range_s {
    uint32_t from, to; /* of the batch's profiles */
    bool halved;       /* after a 413 */
} range_t;

typedef struct request_s {
    bool is_set;
    bool repeated; /* on a new connection at once, after an idle one had been closed */
    range_t range;
    uint32_t count; /* profiles in the body */
    bool spooled;   /* it is the spool's oldest entry */
    bool is_report; /* no profiles; fails without a trace */
    pom__spool_entry_t entry;
    int64_t made_ns;
    size_t head_size;
    char head[POM__HTTP_REQUEST_HEAD];
} request_t;

typedef struct http_s {
    pom_destination_t base;
    /* constant after new */
    pom__http_texts_t texts;
    pom__spool_t *spool; /* NULL: none */
    int64_t give_up_ns;
    pom__target_t target;
    /* loop thread, but for new, after_fork and free */
    uv_loop_t *loop;
    uv_timer_t timer;        /* the back-off's */
    uv_timer_t report_timer; /* until the next client report may go */
    int handles;             /* the timers, and each connection that is not gone */
    pom__connection_t *connection;
    pom_own_fd_t socket;    /* the connection's, for a forked child */
    _Atomic(bool) is_noted; /* socket is whole */
    pom__tls_ticket_t *ticket;
    bool ticket_tried;  /* by the present connection */
    uint32_t served;    /* replies on the present connection */
    pom_batch_t *batch; /* being sent; NULL: idle */
    range_t ranges[RANGES_MAX];
    int range_count;
    request_t request;
    pom__http_body_t body;
    pom_buf_t spooled_body;
    pom__backoff_t backoff;
    pom__self_report_t report;
    char source[SOURCE_MAX]; /* of the last batch */
    uint32_t source_size;
    bool busy;         /* an attempt is under way */
    bool waiting;      /* for the timer */
    bool told_to_wait; /* by the server */
    int64_t tried_ns;  /* the last attempt's end */
    bool closing;
    pom_drop_t reason; /* for what is left when closing */
} http_t;

static http_t *http_of(pom_destination_t *self) {
    return (http_t *)(void *)self; /* base comes first */
}

static void work(http_t *h);

/* ---- the connection ---- */

static void on_reply(void *owner, const pom__http_parser_t *reply, bool reusable);
static void on_lost(void *owner, const char *error, bool answered);

static void on_gone(void *owner) {
    http_t *h = owner;
    if (--h->handles == 0) {
        pom_destination_closed(&h->base);
    }
}

/* Read by a forked child only, which has no other thread and sees our writes in this order. A fork in
 * the microseconds between the socket's birth and this leaves the child a copy. */
static void on_socket(void *owner, int fd) {
    http_t *h = owner;
    atomic_store(&h->is_noted, false);
    bool noted = pom_own_fd_note(&h->socket, fd);
    atomic_store(&h->is_noted, noted);
}

static const pom__listener_t listener = {
    .socket = on_socket, .reply = on_reply, .lost = on_lost, .gone = on_gone};

static void drop_connection(http_t *h) {
    if (h->connection != NULL) {
        pom__connection_t *c = h->connection;
        h->connection = NULL;
        atomic_store(&h->is_noted, false);
        pom__connection_close(c);
    }
}

/* ---- requests ---- */

static void end_request(http_t *h) {
    h->request.is_set = h->request.is_report = false;
    h->request.repeated = false;
}

static void push_range(http_t *h, uint32_t from, uint32_t to, bool halved) {
    if (from < to) {
        h->ranges[h->range_count++] = (range_t){from, to, halved};
    }
}

/* Of the range that was just taken: the first half is the next to go. */
static void halve(http_t *h, range_t range, bool halved) {
    uint32_t middle = range.from + (range.to - range.from) / 2;
    push_range(h, middle, range.to, halved);
    push_range(h, range.from, middle, halved);
}

/* UUID of version 7 (RFC 9562): servers sort by it, and forget old ones by it. */
static pom_id_t new_key(void) {
    pom_id_t id = pom_id_new();
    uint64_t ms = (uint64_t)(pom_wall_ns() / POM_NS_PER_MS);
    id.hi = ms << 16 | 0x7000 | (id.hi & 0xfff);
    return id;
}

static const pom_buf_t *body_of(const http_t *h) {
    return h->request.spooled ? &h->spooled_body : &h->body.out;
}

/* The rest of a request whose entry is set. */
static void begin_request(http_t *h, const pom_buf_t *body) {
    request_t *r = &h->request;
    char text[POM_ID_TEXT];
    pom_id_format(r->entry.key, text);
    /* http_options.c has left room for the lines. */
    r->head_size = (size_t)snprintf(
        r->head, sizeof r->head,
        "%sContent-Type: %s\r\nIdempotency-Key: %.*s\r\nContent-Length: %zu\r\n\r\n",
        h->texts.head[r->entry.compressed], pom__http_body_type((pom_http_format_t)r->entry.format),
        POM_ID_TEXT, text, body->len);
    r->count = r->entry.count;
    r->is_set = true;
    r->repeated = false;
    r->made_ns = pom_now_ns();
}

/* Makes a request of the next range. False: nothing is left to send. */
static bool next_request(http_t *h) {
    while (h->range_count > 0) {
        range_t range = h->ranges[--h->range_count];
        uint32_t size = range.to - range.from;
        uint32_t put = 0;
        pom_id_t key = new_key();
        pom__loop_enter(POM_LOOP_ENCODE);
        pom_status_t status =
            pom__http_body_encode(&h->body, h->batch->profiles + range.from, size, key, &put);
        pom__loop_leave();
        if (status == POM_EFULL && size > 1) {
            halve(h, range, range.halved);
            continue;
        }
        uint32_t bad = status == POM_OK ? size - put : size;
        if (bad > 0) {
            pom_destination_error(&h->base, "%u call graphs could not be encoded: %s", bad,
                                  status == POM_EFULL ? "too large" : "no memory");
            pom_destination_dropped(&h->base, POM_DROP_SERIALIZE, bad);
        }
        if (bad == size) {
            continue;
        }
        h->request.range = range;
        h->request.spooled = false;
        h->request.entry = (pom__spool_entry_t){.key = key,
                                                .created_wall_ns = pom_wall_ns(),
                                                .count = put,
                                                .format = (uint8_t)h->body.format,
                                                .compressed = h->body.compress};
        begin_request(h, &h->body.out);
        return true;
    }
    return false;
}

static void end_batch(http_t *h) {
    pom_batch_t *batch = h->batch;
    if (batch != NULL) {
        h->batch = NULL;
        pom_batch_end(batch);
    }
}

/* Makes a request of the present counters. False: no memory, so another time. */
static bool next_report(http_t *h) {
    pom_client_report_t report;
    pom_id_t key = new_key();
    pom__self_report_make(&h->report, &h->base, pom_wall_ns(), &report);
    if (pom__http_body_encode_report(&h->body, &report, (pom_text_t){h->source, h->source_size},
                                     key) != POM_OK) {
        return false;
    }
    h->request.range = (range_t){0, 0, false};
    h->request.spooled = false;
    h->request.is_report = true;
    h->request.entry = (pom__spool_entry_t){
        .key = key, .format = (uint8_t)h->body.format, .compressed = h->body.compress};
    begin_request(h, &h->body.out);
    return true;
}

/* ---- the spool ---- */

/* What the spool has lost leaves `spooled` for another fate. */
static void count_lost(http_t *h, const pom__spool_lost_t *lost) {
    const struct {
        int64_t count;
        pom_drop_t reason;
    } fates[] = {{lost->evicted, POM_DROP_QUEUE_FULL},
                 {lost->too_old, POM_DROP_TOO_OLD},
                 {lost->damaged, POM_DROP_ERROR}};
    if (lost->segments > 0) {
        pom_destination_error(&h->base,
                              "spool: a damaged segment is put aside, at least %lld profiles lost",
                              (long long)lost->damaged);
    }
    for (size_t i = 0; i < sizeof fates / sizeof fates[0]; i++) {
        if (fates[i].count > 0) {
            pom_destination_spooled(&h->base, -fates[i].count);
            pom_destination_dropped(&h->base, fates[i].reason, fates[i].count);
        }
    }
}

/* The present request, which is not from there, goes to the disk. */
static bool spool_request(http_t *h) {
    request_t *r = &h->request;
    pom__spool_lost_t lost = {0};
    if (h->spool == NULL || r->spooled || r->is_report) {
        return false;
    }
    pom_status_t status =
        pom__spool_put(h->spool, &r->entry, h->body.out.data, h->body.out.len, &lost);
    count_lost(h, &lost);
    if (status != POM_OK) {
        pom_destination_error(&h->base, "%s", pom__spool_error(h->spool));
        return false;
    }
    uint32_t count = r->count;
    end_request(h);
    pom_destination_spooled(&h->base, count);
    return true;
}

/* All of the batch that has not been sent. False: the disk takes no more. */
static bool spool_batch(http_t *h) {
    if (h->spool == NULL) {
        return false;
    }
    if (h->request.is_set && (h->request.spooled || h->request.is_report)) {
        end_request(h); /* it is on the disk anyway, or made again */
    }
    while (h->request.is_set || next_request(h)) {
        if (!spool_request(h)) {
            return false;
        }
    }
    end_batch(h);
    return true;
}

/* Makes a request of the spool's oldest entry. */
static bool next_spooled(http_t *h) {
    pom__spool_lost_t lost = {0};
    bool found =
        h->spool != NULL && pom__spool_next(h->spool, &h->request.entry, &h->spooled_body, &lost);
    count_lost(h, &lost);
    if (found) {
        h->request.spooled = true;
        begin_request(h, &h->spooled_body);
    }
    return found;
}

/* Ends the present request with a fate that is counted next: false when the spool has counted it
 * already. */
static bool take_request(http_t *h) {
    request_t *r = &h->request;
    bool ours = true;
    if (r->spooled) {
        ours = pom__spool_ack(h->spool);
        if (ours) {
            pom_destination_spooled(&h->base, -(int64_t)r->count);
        }
    }
    end_request(h);
    return ours;
}

/* ---- attempts ---- */

static void on_timer(uv_timer_t *timer) {
    http_t *h = timer->data;
    h->waiting = false;
    work(h);
}

/* The attempt failed in a way that time may cure. */
static void wait_and_retry(http_t *h, int64_t at_least_ns) {
    int64_t wait_ns = pom__backoff_next(&h->backoff, pom_random_u64());
    h->told_to_wait = at_least_ns >= 0;
    if (at_least_ns > wait_ns) {
        wait_ns = at_least_ns;
    }
    h->waiting = true;
    h->tried_ns = pom_now_ns();
    (void)uv_timer_start(&h->timer, on_timer, (uint64_t)(wait_ns / POM_NS_PER_MS) + 1,
                         0); /* fails only without a callback */
}

static void drop_request(http_t *h, pom_drop_t reason) {
    uint32_t count = h->request.count;
    if (take_request(h)) {
        pom_destination_dropped(&h->base, reason, count);
    }
}

static void failed(http_t *h, int64_t at_least_ns) {
    h->busy = false;
    if (h->request.spooled || h->request.is_report) {
        end_request(h); /* read, or made, again when its turn comes */
    } else if (!spool_request(h) && pom_now_ns() - h->request.made_ns > h->give_up_ns) {
        drop_request(h, POM_DROP_TOO_OLD);
    }
    wait_and_retry(h, at_least_ns);
}

static void attempt(http_t *h) {
    request_t *r = &h->request;
    h->busy = true;
    if (h->connection == NULL) {
        h->connection = pom__connection_new(h->loop, &h->target, h->ticket, &listener, h);
        if (h->connection == NULL) {
            pom_destination_error(&h->base, "no memory or no descriptors");
            failed(h, -1);
            return;
        }
        h->handles++;
        h->ticket_tried = h->ticket != NULL;
        h->served = 0;
    }
    const pom_buf_t *body = body_of(h);
    pom__connection_send(h->connection, r->head, r->head_size, body->data, body->len);
}

static bool report_is_due(http_t *h) {
    return pom__self_report_wait_ns(&h->report, &h->base, pom_now_ns()) == 0;
}

static void on_report_timer(uv_timer_t *timer) {
    work(timer->data);
}

/* Idle: if there is something to tell, but not yet, the timer comes back to it. */
static void wait_for_report(http_t *h) {
    int64_t wait_ns = pom__self_report_wait_ns(&h->report, &h->base, pom_now_ns());
    if (wait_ns > 0 && !uv_is_active((uv_handle_t *)&h->report_timer)) {
        (void)uv_timer_start(&h->report_timer, on_report_timer,
                             (uint64_t)(wait_ns / POM_NS_PER_MS) + 1,
                             0); /* fails only without a callback */
    }
}

/* Goes on until something is awaited. */
static void work(http_t *h) {
    if (h->busy || h->closing) {
        return;
    }
    if (h->waiting) {
        if (h->batch != NULL) {
            (void)spool_batch(h); /* if it cannot be, it waits here */
        }
        return;
    }
    if (h->request.is_set) {
        pom_destination_retried(&h->base, h->request.count);
        attempt(h);
    } else if (report_is_due(h) && next_report(h)) {
        attempt(h);
    } else if (h->batch != NULL && next_request(h)) {
        attempt(h);
    } else {
        end_batch(h);
        if (next_spooled(h)) {
            pom_destination_retried(&h->base, h->request.count);
            attempt(h);
        } else {
            wait_for_report(h);
        }
    }
}

/* ---- closing ---- */

static void drop_rest(http_t *h) {
    if (h->request.is_set && (h->request.spooled || h->request.is_report)) {
        end_request(h);
    }
    if (spool_batch(h)) {
        pom__spool_sync(h->spool);
        return;
    }
    int64_t rest = h->request.is_set ? h->request.count : 0;
    end_request(h);
    while (h->range_count > 0) {
        range_t range = h->ranges[--h->range_count];
        rest += range.to - range.from;
    }
    if (rest > 0) {
        pom_destination_dropped(&h->base, h->reason, rest);
    }
    end_batch(h);
}

static void on_timer_closed(uv_handle_t *handle) {
    on_gone(handle->data);
}

static void finish_close(http_t *h) {
    h->busy = false;
    drop_rest(h);
    drop_connection(h);
    if (!uv_is_closing((uv_handle_t *)&h->timer)) {
        uv_close((uv_handle_t *)&h->timer, on_timer_closed);
        uv_close((uv_handle_t *)&h->report_timer, on_timer_closed);
    }
}

/* After an attempt: the next one, or the end. */
static void go_on(http_t *h) {
    if (h->closing) {
        finish_close(h);
    } else {
        work(h);
    }
}

/* ---- what came of an attempt ---- */

static void on_lost(void *owner, const char *error, bool answered) {
    http_t *h = owner;
    if (!h->busy) {
        drop_connection(h); /* idle: the server's right; the next request makes a new one */
        return;
    }
    bool stale = h->served > 0 && !answered;
    if (h->ticket_tried && h->served == 0) {
        pom__tls_ticket_free(h->ticket); /* perhaps it was the reason */
        h->ticket = NULL;
    }
    if (!stale) {
        pom_destination_error(&h->base, "%s", error);
    }
    drop_connection(h);
    if (stale && !h->request.repeated && !h->closing) {
        h->request.repeated = true;
        h->busy = false;
        work(h);
        return;
    }
    failed(h, -1);
    go_on(h);
}

/* The answer in one line: "503 Service Unavailable: try later". */
static void note_answer(http_t *h, const pom__http_parser_t *reply, const char *what) {
    char start[81];
    size_t n = reply->body.len < sizeof start - 1 ? reply->body.len : sizeof start - 1;
    for (size_t i = 0; i < n; i++) {
        char c = reply->body.data[i];
        start[i] = c >= ' ' && c < 127 ? c : ' ';
    }
    start[n] = '\0';
    pom_destination_error(&h->base, "the server answered %d %s%s%s%s", reply->status, reply->reason,
                          what, n > 0 ? ": " : "", start);
}

static bool is_for_later(int status) {
    return status == 429 || status == 502 || status == 503 || status == 504;
}

/* A server that does not want reports is not asked again before there is more to tell. */
static void settle_report(http_t *h, const pom__http_parser_t *reply) {
    if (is_for_later(reply->status)) {
        note_answer(h, reply, "");
        failed(h,
               pom__retry_after_ns(reply->retry_after, strlen(reply->retry_after), pom_wall_ns()));
    } else {
        pom__self_report_told(&h->report, pom_now_ns());
        end_request(h);
    }
}

static void settle(http_t *h, const pom__http_parser_t *reply) {
    request_t *r = &h->request;
    uint32_t size = r->range.to - r->range.from;
    int status = reply->status;
    if (status < 300) {
        uint32_t count = r->count;
        int64_t bytes = (int64_t)body_of(h)->len;
        pom__backoff_reset(&h->backoff);
        if (take_request(h)) {
            pom_destination_sent(&h->base, count, bytes);
        }
    } else if (is_for_later(status)) {
        note_answer(h, reply, "");
        failed(h,
               pom__retry_after_ns(reply->retry_after, strlen(reply->retry_after), pom_wall_ns()));
    } else if (status == 413 && !r->spooled && size > 1 && !r->range.halved && r->count == size) {
        note_answer(h, reply, " (sent again in halves)");
        pom_destination_retried(&h->base, size);
        halve(h, r->range, true);
        end_request(h);
    } else if (status < 400) {
        note_answer(h, reply, " (redirects are not followed)");
        drop_request(h, POM_DROP_REJECTED);
    } else {
        note_answer(h, reply, "");
        drop_request(h, status == 413 ? POM_DROP_TOO_BIG : POM_DROP_REJECTED);
    }
}

static void on_reply(void *owner, const pom__http_parser_t *reply, bool reusable) {
    http_t *h = owner;
    h->busy = false;
    if (h->served++ == 0) {
        pom__tls_ticket_free(h->ticket);
        h->ticket = pom__connection_take_ticket(h->connection);
    }
    if (h->request.is_report) {
        settle_report(h, reply);
    } else {
        settle(h, reply);
    }
    if (!reusable) {
        drop_connection(h); /* after the last look at the reply, which is the connection's */
    }
    go_on(h);
}

/* ---- the operations ---- */

static pom_status_t http_open(pom_destination_t *self, struct uv_loop_s *loop) {
    http_t *h = http_of(self);
    (void)uv_timer_init(loop, &h->timer); /* cannot fail */
    (void)uv_timer_init(loop, &h->report_timer);
    h->timer.data = h->report_timer.data = h;
    h->loop = loop;
    h->handles = 2;
    h->closing = h->waiting = h->busy = false;
    pom__backoff_reset(&h->backoff);
    pom__self_report_begin(&h->report, pom_now_ns(), pom_wall_ns());
    int64_t adopted = 0;
    if (h->spool != NULL) {
        if (pom__spool_open(h->spool, &adopted) != POM_OK) {
            pom_destination_error(self, "%s", pom__spool_error(h->spool)); /* memory only, then */
        } else if (adopted > 0) {
            pom_destination_adopted(self, adopted);
        }
        work(h);
    }
    return POM_OK;
}

static void http_deliver(pom_destination_t *self, pom_batch_t *batch) {
    http_t *h = http_of(self);
    pom_text_t source = batch->profiles[0]->source;
    h->source_size = source.size < SOURCE_MAX ? source.size : SOURCE_MAX;
    memcpy(h->source, source.size > 0 ? source.data : "", h->source_size);
    h->batch = batch;
    push_range(h, 0, batch->count, false);
    work(h);
}

static void http_flush(pom_destination_t *self) {
    http_t *h = http_of(self);
    if (h->waiting && h->batch != NULL && !h->told_to_wait &&
        pom_now_ns() - h->tried_ns >= FLUSH_PAUSE_NS) {
        (void)uv_timer_stop(&h->timer); /* cannot fail */
        h->waiting = false;
        work(h);
    }
}

static void http_close(pom_destination_t *self, pom_drop_t reason) {
    http_t *h = http_of(self);
    h->closing = true;
    h->reason = reason;
    (void)uv_timer_stop(&h->timer); /* cannot fail */
    h->waiting = false;
    if (h->busy && reason == POM_DROP_REMOVED) {
        return; /* the attempt ends within its timeouts, and counts */
    }
    finish_close(h);
}

static void http_after_fork(pom_destination_t *self) {
    http_t *h = http_of(self);
    if (atomic_exchange(&h->is_noted, false)) {
        pom_own_fd_close(&h->socket); /* the parent's connection must not live as long as we do */
    }
    /* Of the rest some may be half done: left where it is. */
    h->connection = NULL;
    h->ticket = NULL;
    h->batch = NULL;
    h->range_count = 0;
    h->handles = 0;
    h->busy = h->waiting = h->closing = false;
    end_request(h);
    pom__self_report_init(&h->report, h->report.every_ns);
    pom__http_body_init(&h->body, h->body.format, h->body.compress);
    pom_buf_init(&h->spooled_body, POM__SPOOL_BODY_MAX);
    if (h->spool != NULL) {
        pom__spool_after_fork(h->spool);
    }
    pom__resolver_after_fork();
    if (h->target.tls != NULL) {
        pom__tls_context_after_fork(h->target.tls);
    }
}

static void http_free(pom_destination_t *self) {
    http_t *h = http_of(self);
    pom__http_body_fini(&h->body);
    pom_buf_fini(&h->spooled_body);
    pom__spool_free(h->spool);
    pom__tls_ticket_free(h->ticket);
    pom__tls_context_free(h->target.tls);
    pom__http_texts_free(&h->texts);
    pom_free(h);
}

static const pom_destination_ops_t http_ops = {
    .kind = "http",
    .open = http_open,
    .deliver = http_deliver,
    .flush = http_flush,
    .close = http_close,
    .after_fork = http_after_fork,
    .free = http_free,
};

pom_status_t pom_http_new(const pom_http_options_t *o, pom_destination_t **out, char *error,
                          size_t error_size) {
    if (error_size > 0) {
        error[0] = '\0';
    }
    http_t *h = pom_calloc(1, sizeof *h);
    if (h == NULL) {
        return POM_ENOMEM;
    }
    pom_status_t status = pom__http_texts_make(&h->texts, o, error, error_size);
    h->give_up_ns = o->give_up_ns;
    h->target.host = h->texts.host;
    h->target.port = h->texts.port;
    h->target.timeout_ns = o->timeout_ns;
    pom__http_body_init(&h->body, o->format, o->compress);
    pom__self_report_init(&h->report, o->report_ns);
    pom_buf_init(&h->spooled_body, POM__SPOOL_BODY_MAX);
    if (status == POM_OK && o->use_tls) {
        status = pom__tls_context_new(&o->tls, &h->target.tls, error, error_size);
    }
    if (status == POM_OK) {
        pom_destination_init(&h->base, &http_ops, h->texts.name);
        h->base.gather_ns = o->gather_ns;
    }
    if (status == POM_OK && o->spool_dir != NULL) {
        status = pom__spool_new(o->spool_dir, h->base.name, o->spool_bytes, &h->spool, error,
                                error_size);
    }
    if (status != POM_OK) {
        pom__http_texts_free(&h->texts);
        pom__tls_context_free(h->target.tls);
        pom_free(h);
        return status;
    }
    *out = &h->base;
    return POM_OK;
}
