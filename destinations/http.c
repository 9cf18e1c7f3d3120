/*
 * The HTTP destination: when to post, what an answer means, when to try again. What is posted, and
 * what becomes of it, is http_outbox.c's.
 *
 *     batch -> ranges -> one request -> sent
 *                 ^          |  429, 502, 503, 504, lost, no connection: back-off, the same again
 *                 |          |  413: halved once, if it is not from the spool
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
 * While a server is away the batch stays with us, and the next one, in case that it was the batch's
 * fault; what comes after them piles up in the exporter's queue, within its budget. With a spool it
 * goes to the disk instead, and so do the ones that come during the pause; else new batches go
 * first, and the spool's in between. The spool has a pause of its own: an entry that fails is no
 * reason to hold up new batches. A disk that takes nothing is as if there were no spool.
 *
 * What was lost or repeated is told to the server as well (self_report.c): a request like the
 * others, between them, that is never spooled and whose loss does not matter.
 *
 * Redirects are not followed: profiles and tokens go where the user has said, nowhere else.
 *
 * Fork: the child leaves the connection, closing its copy of the descriptor without a word to the
 * server; OpenSSL's context is made anew.
 *
 * Over 400 lines: one machine of a few states, which each of its events may move.
 */
#include "destinations/http.h"

#include <string.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/own_fd.h"
#include "destinations/backoff.h"
#include "destinations/http_connection.h"
#include "destinations/http_options.h"
#include "destinations/http_outbox.h"
#include "destinations/resolver.h"

/* In a flush the back-off is not sat out, but a dead server is not asked in a loop either. */
#define FLUSH_PAUSE_NS (200 * POM_NS_PER_MS)

typedef struct http_s {
    pom_destination_t base;
    /* constant after new */
    pom__http_texts_t texts;
    pom__target_t target;
    /* loop thread, but for new, after_fork and free */
    uv_loop_t *loop;
    uv_timer_t timer;       /* the back-off's */
    uv_timer_t later_timer; /* until a client report, or what rests, may have its turn */
    int handles;            /* the timers, and each connection that is not gone */
    pom__connection_t *connection;
    pom_own_fd_t socket;    /* the connection's, for a forked child */
    _Atomic(bool) is_noted; /* socket is whole */
    pom__tls_ticket_t *ticket;
    bool ticket_tried;              /* by the present connection */
    uint32_t served;                /* replies on the present connection */
    struct sockaddr_storage failed; /* where the last connection without a reply was; zero: none */
    pom__http_outbox_t outbox;
    pom__backoff_t backoff;
    bool busy;         /* an attempt is under way */
    bool waiting;      /* for the timer */
    bool told_to_wait; /* by the server */
    int64_t tried_ns;  /* the last failure */
    bool closing;
    pom_drop_t reason; /* for what is left when closing */
} http_t;

static http_t *http_of(pom_destination_t *self) {
    return (http_t *)(void *)self; /* base comes first */
}

static void work(http_t *h);

/* ---- the connection ---- */

static void on_reply(void *owner, const pom__http_parser_t *reply, bool reusable);
static void on_lost(void *owner, const char *error, bool unheard);

static void on_gone(void *owner) {
    http_t *h = owner;
    if (--h->handles == 0) {
        pom_destination_closed(&h->base);
    }
}

/* Read by a forked child only, which has no other thread and sees our writes in this order. A fork
 * in the microseconds between the socket's birth and this leaves the child a copy. */
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

/* ---- attempts ---- */

static void on_timer(uv_timer_t *timer) {
    http_t *h = timer->data;
    h->waiting = false;
    work(h);
}

/* From now on, not from the beginning of the loop's turn, in which another destination may have
 * been slow. */
static void start_timer(uv_timer_t *timer, uv_timer_cb call, int64_t wait_ns) {
    uv_update_time(timer->loop);
    (void)uv_timer_start(timer, call, (uint64_t)(wait_ns / POM_NS_PER_MS) + 1,
                         0); /* fails only without a callback */
}

/* The attempt failed in a way that time may cure. */
static void wait_and_retry(http_t *h, int64_t at_least_ns) {
    int64_t wait_ns = pom__backoff_next(&h->backoff, pom_random_u64());
    h->told_to_wait = at_least_ns >= 0;
    if (at_least_ns > wait_ns) {
        wait_ns = at_least_ns;
    }
    h->waiting = true;
    start_timer(&h->timer, on_timer, wait_ns);
}

static void failed(http_t *h, int64_t at_least_ns) {
    const pom__http_request_t *r = &h->outbox.request;
    bool rests = (r->spooled || r->is_aside) && at_least_ns < 0;
    h->busy = false;
    h->tried_ns = pom_now_ns();
    pom__http_outbox_failed(&h->outbox);
    if (!rests) {
        wait_and_retry(h, at_least_ns);
    }
}

static void attempt(http_t *h) {
    h->busy = true;
    if (h->connection == NULL) {
        h->connection =
            pom__connection_new(h->loop, &h->target, h->ticket, &h->failed, &listener, h);
        if (h->connection == NULL) {
            pom_destination_error(&h->base, "no memory or no descriptors");
            failed(h, -1);
            work(h); /* ends: each failure makes something rest */
            return;
        }
        h->handles++;
        h->ticket_tried = h->ticket != NULL;
        h->served = 0;
    }
    const pom__http_request_t *r = &h->outbox.request;
    const pom_buf_t *body = pom__http_outbox_body(&h->outbox);
    pom__connection_send(h->connection, r->head, r->head_size, body->data, body->len);
}

static void on_later(uv_timer_t *timer) {
    work(timer->data);
}

/* Goes on until something is awaited: an attempt's end, the back-off's, or, where nothing may be
 * sent yet, the moment when something may. */
static void work(http_t *h) {
    int64_t wait_ns;
    if (h->busy || h->closing) {
        return;
    }
    if (h->waiting) {
        if (h->outbox.batch != NULL) {
            (void)pom__http_outbox_spool(&h->outbox); /* if it cannot be, it waits here */
        }
    } else if (pom__http_outbox_next(&h->outbox, &wait_ns)) {
        attempt(h);
    } else if (wait_ns > 0) {
        start_timer(&h->later_timer, on_later, wait_ns);
    }
}

/* ---- closing ---- */

static void on_timer_closed(uv_handle_t *handle) {
    on_gone(handle->data);
}

static void finish_close(http_t *h) {
    h->busy = false;
    pom__http_outbox_close(&h->outbox, h->reason);
    drop_connection(h);
    if (!uv_is_closing((uv_handle_t *)&h->timer)) {
        uv_close((uv_handle_t *)&h->timer, on_timer_closed);
        uv_close((uv_handle_t *)&h->later_timer, on_timer_closed);
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

static void on_lost(void *owner, const char *error, bool unheard) {
    http_t *h = owner;
    if (!h->busy) {
        drop_connection(h); /* idle: the server's right; the next request makes a new one */
        return;
    }
    bool stale = h->served > 0 && unheard;
    if (h->ticket_tried && h->served == 0) {
        pom__tls_ticket_free(h->ticket); /* perhaps it was the reason */
        h->ticket = NULL;
    }
    if (h->served == 0) {
        pom__connection_address(h->connection, &h->failed);
    }
    if (!stale) {
        pom_destination_error(&h->base, "%s", error);
    }
    drop_connection(h);
    if (stale && !h->outbox.request.repeated && !h->closing) {
        h->outbox.request.repeated = true;
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
        pom__http_outbox_told(&h->outbox);
    }
}

static void settle(http_t *h, const pom__http_parser_t *reply) {
    int status = reply->status;
    if (status < 300) {
        pom__backoff_reset(&h->backoff);
        pom__http_outbox_sent(&h->outbox);
    } else if (is_for_later(status)) {
        note_answer(h, reply, "");
        failed(h,
               pom__retry_after_ns(reply->retry_after, strlen(reply->retry_after), pom_wall_ns()));
    } else if (status == 413 && pom__http_outbox_halve(&h->outbox)) {
        note_answer(h, reply, " (sent again in halves)");
    } else if (status < 400) {
        note_answer(h, reply, " (redirects are not followed)");
        pom__http_outbox_dropped(&h->outbox, POM_DROP_REJECTED);
    } else {
        note_answer(h, reply, "");
        pom__http_outbox_dropped(&h->outbox, status == 413 ? POM_DROP_TOO_BIG : POM_DROP_REJECTED);
    }
}

static void on_reply(void *owner, const pom__http_parser_t *reply, bool reusable) {
    http_t *h = owner;
    h->busy = false;
    if (h->served++ == 0) {
        pom__tls_ticket_free(h->ticket);
        h->ticket = pom__connection_take_ticket(h->connection);
    }
    if (h->outbox.request.is_report) {
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
    (void)uv_timer_init(loop, &h->later_timer);
    h->timer.data = h->later_timer.data = h;
    h->loop = loop;
    h->handles = 2;
    h->closing = h->waiting = h->busy = false;
    pom__backoff_reset(&h->backoff);
    pom__http_outbox_open(&h->outbox);
    if (h->outbox.spool != NULL) {
        work(h); /* what others have left is sent before anything happens here */
    }
    return POM_OK;
}

static void http_deliver(pom_destination_t *self, pom_batch_t *batch) {
    http_t *h = http_of(self);
    pom__http_outbox_put(&h->outbox, batch);
    work(h);
}

static void http_flush(pom_destination_t *self) {
    http_t *h = http_of(self);
    if (!h->busy && !(h->waiting && h->told_to_wait) &&
        pom_now_ns() - h->tried_ns >= FLUSH_PAUSE_NS && pom__http_outbox_hurry(&h->outbox)) {
        (void)uv_timer_stop(&h->timer); /* cannot fail */
        h->waiting = false;
        work(h);
    }
}

/* The present attempt is over with the first batch: an answer that comes later means nothing. */
static bool http_keep(pom_destination_t *self, pom_batch_t *batch) {
    http_t *h = http_of(self);
    h->closing = true;
    h->busy = false;
    drop_connection(h);
    bool kept = pom__http_outbox_leave(&h->outbox, POM_DROP_SHUTDOWN);
    if (kept) {
        pom__http_outbox_put(&h->outbox, batch);
        kept = pom__http_outbox_leave(&h->outbox, POM_DROP_SHUTDOWN);
    } else {
        pom_destination_dropped(self, POM_DROP_SHUTDOWN, batch->count);
        pom_batch_end(batch);
    }
    return kept;
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
    h->handles = 0;
    h->busy = h->waiting = h->closing = false;
    pom__http_outbox_after_fork(&h->outbox);
    pom__resolver_after_fork();
    if (h->target.tls != NULL) {
        pom__tls_context_after_fork(h->target.tls);
    }
}

static void http_free(pom_destination_t *self) {
    http_t *h = http_of(self);
    pom__http_outbox_fini(&h->outbox);
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
    .keep = http_keep,
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
    h->target.host = h->texts.host;
    h->target.port = h->texts.port;
    h->target.timeout_ns = o->timeout_ns;
    pom__spool_t *spool = NULL;
    if (status == POM_OK && o->use_tls) {
        status = pom__tls_context_new(&o->tls, &h->target.tls, error, error_size);
    }
    if (status == POM_OK) {
        pom_destination_init(&h->base, &http_ops, h->texts.name);
        h->base.gather_ns = o->gather_ns;
        h->base.keeps = o->spool_dir != NULL;
    }
    if (status == POM_OK && o->spool_dir != NULL) {
        status =
            pom__spool_new(o->spool_dir, h->base.name, o->spool_bytes, &spool, error, error_size);
    }
    if (status != POM_OK) {
        pom__http_texts_free(&h->texts);
        pom__tls_context_free(h->target.tls);
        pom_free(h);
        return status;
    }
    pom__http_outbox_init(&h->outbox, &h->base, &h->texts, spool, o);
    *out = &h->base;
    return POM_OK;
}
