/*
 * A connection's life, one phase after the other, each under its own timeout:
 *
 *     RESOLVING -> CONNECTING -> HANDSHAKE -> IDLE <-> SENDING -> RECEIVING
 *          \___________\____________\__________\_________\___________\_____-> LOST
 *
 * Resolving and connecting share one timeout; the addresses of a name are tried in order, first the
 * one behind that which failed last. An address that swallows everything takes the whole timeout
 * for itself, as a part of it would be too short for a slow line: the next attempt is the others'.
 * Sending is in slices, so that a slow line is told from a dead one, and so that no more than one
 * slice is kept twice (plain, encrypted). The reply's timeout does not start again with each byte:
 * a server that trickles is cut off. A timer that is late says that the loop was held up, by a slow
 * disk perhaps, and has not looked: what is there by then is looked at first.
 *
 * The other side may refuse before it has read everything, and close: so a failed write is no
 * verdict, what can still be read decides. It cannot accept what it has not got.
 *
 * The owner hears of a loss once; then it closes. Memory goes when libuv has closed the handles,
 * so that a callback may close its own connection.
 *
 * Over 400 lines: each phase begins the next and ends in the same loss, on one state.
 */
#include "destinations/http_connection.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "destinations/loop_guard.h"
#include "destinations/resolver.h"
#include "destinations/stages.h"

#define SLICE ((size_t)16 << 10) /* one TLS record */
/* A slice, encrypted, and whatever else TLS has to say meanwhile; more goes with the next write. */
#define OUT_BYTES (SLICE + 1024)
#define IN_BYTES  ((size_t)16 << 10)

/* A timer is a few milliseconds late on a busy machine, and then everything has been looked at. */
#define LATE_MS 50

#define KEEPALIVE_S 60 /* NATs forget after a few minutes */

typedef enum phase_e { RESOLVING, CONNECTING, HANDSHAKE, IDLE, SENDING, RECEIVING, LOST } phase_t;

struct pom__connection_s {
    /* constant after new */
    const pom__target_t *target;
    const pom__listener_t *listener;
    void *owner;
    /* the rest: loop thread */
    uv_tcp_t tcp;
    uv_timer_t timer;
    uint64_t due_ms; /* its, by the loop's clock */
    uv_async_t async;
    uv_connect_t connecting;
    uv_write_t write;
    int handles; /* open, or closing */
    phase_t phase;
    bool closed;  /* by the owner */
    bool has_tcp; /* the handle is open, not closing */
    bool writing; /* a write is under way */
    bool mute;    /* a write failed: nothing more is sent */
    bool waiting; /* a request is to be sent when idle */
    bool told;    /* the loss */
    bool timed_out;
    bool all_out; /* the last of the request has been given to a write */
    pom__lookup_t *lookup;
    pom__addresses_t addresses;
    uint32_t next_address;
    struct sockaddr_storage failed; /* of the connection before */
    pom__tls_t *tls;
    const char *head, *body;
    size_t head_size, body_size, taken;
    pom__http_parser_t parser;
    char error[256];
    char out[OUT_BYTES];
    char in[IN_BYTES];
};

static void go_on(pom__connection_t *c);
static void push(pom__connection_t *c);

static uint64_t timeout_ms(const pom__connection_t *c) {
    int64_t ms = c->target->timeout_ns / POM_NS_PER_MS;
    return ms > 0 ? (uint64_t)ms : 1;
}

static void lost(pom__connection_t *c, const char *text) {
    if (c->phase == LOST) {
        return;
    }
    c->phase = LOST;
    (void)uv_timer_stop(&c->timer); /* cannot fail */
    if (c->has_tcp) {
        (void)uv_read_stop((uv_stream_t *)&c->tcp); /* always 0 */
    }
    if (!c->told && !c->closed) {
        c->told = true;
        c->listener->lost(c->owner, text, !c->parser.begun && !c->timed_out);
    }
}

static void lost_uv(pom__connection_t *c, const char *doing, int error) {
    char text[128];
    (void)snprintf(c->error, sizeof c->error, "%s: %s", doing,
                   uv_strerror_r(error, text, sizeof text));
    lost(c, c->error);
}

static void on_timeout(uv_timer_t *timer);

/* From now on, not from the beginning of the loop's turn, in which another destination may have
 * been slow. */
static void start_timer(pom__connection_t *c, uint64_t ms) {
    uv_update_time(c->timer.loop);
    c->due_ms = uv_now(c->timer.loop) + ms;
    (void)uv_timer_start(&c->timer, on_timeout, ms, 0); /* fails only without a callback */
}

static void on_timeout(uv_timer_t *timer) {
    pom__connection_t *c = timer->data;
    uint64_t late_ms = uv_now(timer->loop) - c->due_ms;
    if (late_ms > LATE_MS) {
        start_timer(c, late_ms); /* timers come before what has arrived, in a turn of the loop */
        return;
    }
    static const char *const doing[] = {"the name is not resolved", "no connection",
                                        "no TLS handshake",         "",
                                        "the request is not taken", "no answer"};
    int64_t ms = (int64_t)timeout_ms(c);
    if (c->phase != LOST && c->phase != IDLE) {
        (void)snprintf(c->error, sizeof c->error, "%s within %lld.%03lld s", doing[c->phase],
                       (long long)(ms / 1000), (long long)(ms % 1000));
        c->timed_out = true;
        lost(c, c->error);
    }
}

/* A new phase has its whole timeout; IDLE has none. */
static void enter(pom__connection_t *c, phase_t phase) {
    c->phase = phase;
    if (phase == IDLE) {
        (void)uv_timer_stop(&c->timer);
    } else {
        start_timer(c, timeout_ms(c));
    }
}

/* ---- closing ---- */

static void handle_closed(uv_handle_t *handle) {
    pom__connection_t *c = handle->data;
    if (--c->handles > 0) {
        return;
    }
    void *owner = c->owner;
    void (*gone)(void *) = c->listener->gone;
    pom__tls_free(c->tls);
    pom__http_parser_fini(&c->parser);
    pom_free(c);
    gone(owner);
}

void pom__connection_close(pom__connection_t *c) {
    if (c->closed) {
        return;
    }
    c->closed = true;
    if (c->tls != NULL && c->has_tcp && c->phase == IDLE && !c->writing) {
        /* Best effort: what the socket does not take at once is not said. */
        pom__tls_goodbye(c->tls);
        size_t n = pom__tls_output(c->tls, c->out, sizeof c->out);
        uv_buf_t buffer = uv_buf_init(c->out, (unsigned)n);
        (void)uv_try_write((uv_stream_t *)&c->tcp, &buffer, 1);
    }
    c->phase = LOST;
    pom__lookup_free(c->lookup);
    c->lookup = NULL;
    if (c->has_tcp) {
        c->has_tcp = false;
        uv_close((uv_handle_t *)&c->tcp, handle_closed);
    }
    uv_close((uv_handle_t *)&c->timer, handle_closed);
    uv_close((uv_handle_t *)&c->async, handle_closed);
}

/* ---- receiving ---- */

/* The system has taken the whole request; that we have heard of it or not. */
static bool is_sent(const pom__connection_t *c) {
    return !c->mute && c->all_out &&
           uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) == 0;
}

/* The reply is whole. A yes to a request of which a part was never sent is no answer to it. */
static void replied(pom__connection_t *c, bool more) {
    if (c->parser.status < 300 && !is_sent(c)) {
        lost(c, "the server answered before it had the request");
        return;
    }
    bool reusable =
        c->phase == RECEIVING && !c->mute && !c->writing && !more && c->parser.keep_alive;
    enter(c, IDLE);
    c->listener->reply(c->owner, &c->parser, reusable);
}

/* True while the bytes were welcome. */
static bool parse(pom__connection_t *c, const char *data, size_t size) {
    if (c->phase != SENDING && c->phase != RECEIVING) {
        lost(c, "the server sent what nobody asked for");
        return false;
    }
    size_t used = 0;
    pom__http_state_t state = pom__http_parser_feed(&c->parser, data, size, &used);
    if (state == POM__HTTP_BAD) {
        lost(c, c->parser.error);
    } else if (state == POM__HTTP_DONE) {
        /* What lies behind it nobody asked for: the next request must not take it for its own. */
        replied(c, used < size || (c->tls != NULL && pom__tls_has_more(c->tls)));
    }
    return state == POM__HTTP_MORE;
}

static void ended(pom__connection_t *c, const char *text) {
    bool in_exchange = c->phase == SENDING || c->phase == RECEIVING;
    if (in_exchange && pom__http_parser_eof(&c->parser) == POM__HTTP_DONE) {
        replied(c, true);
    } else {
        lost(c, text != NULL  ? text
                : in_exchange ? c->parser.error
                              : "the server closed the connection");
    }
}

static void decrypt(pom__connection_t *c) {
    char plain[4096];
    pom__tls_state_t state = POM__TLS_OK;
    while (state == POM__TLS_OK && c->phase != LOST) {
        size_t got = 0;
        state = pom__tls_read(c->tls, plain, sizeof plain, &got);
        if (state == POM__TLS_OK && !parse(c, plain, got)) {
            return;
        }
    }
    if (state == POM__TLS_CLOSED) {
        ended(c, NULL);
    } else if (state == POM__TLS_FAILED) {
        lost(c, pom__tls_error(c->tls));
    } else if (c->phase != LOST) {
        push(c); /* TLS may have something to answer */
    }
}

static void shake(pom__connection_t *c) {
    pom__tls_state_t state = pom__tls_handshake(c->tls);
    push(c); /* also the alert that says why not */
    if (state == POM__TLS_OK) {
        enter(c, IDLE);
        go_on(c);
        if (c->phase != LOST) {
            decrypt(c);
        }
    } else if (state != POM__TLS_AGAIN) {
        lost(c, state == POM__TLS_CLOSED ? "the server closed the connection in the TLS handshake"
                                         : pom__tls_error(c->tls));
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    pom__connection_t *c = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(c->in, sizeof c->in);
}

static void receive(pom__connection_t *c, ssize_t size, const uv_buf_t *buffer) {
    if (size < 0) {
        char text[128] = "";
        if (size != UV_EOF) {
            (void)uv_strerror_r((int)size, text, sizeof text);
            (void)snprintf(c->error, sizeof c->error, "the connection broke: %s", text);
            lost(c, c->error); /* not ended(): a body up to the end was cut */
        } else {
            ended(c, c->phase == HANDSHAKE ? "the server closed the connection in the TLS handshake"
                                           : NULL);
        }
    } else if (c->tls == NULL) {
        (void)parse(c, buffer->base, (size_t)size);
    } else if (pom__tls_feed(c->tls, buffer->base, (size_t)size) != POM_OK) {
        lost(c, "no memory");
    } else if (c->phase == HANDSHAKE) {
        shake(c);
    } else {
        decrypt(c);
    }
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer) {
    pom__connection_t *c = stream->data;
    if (c->phase != LOST && size != 0) {
        pom__loop_enter(POM_LOOP_RECEIVE);
        receive(c, size, buffer);
        pom__loop_leave();
    }
}

/* ---- sending ---- */

/* The next piece of head or body; 0: all taken. */
static size_t next_piece(pom__connection_t *c, const char **piece) {
    size_t n;
    if (c->taken < c->head_size) {
        *piece = c->head + c->taken;
        n = c->head_size - c->taken;
    } else {
        *piece = c->body + (c->taken - c->head_size);
        n = c->head_size + c->body_size - c->taken;
    }
    n = n < SLICE ? n : SLICE;
    c->taken += n;
    return n;
}

/* Fills `out`; how much there is to write. */
static size_t fill(pom__connection_t *c) {
    const char *piece;
    size_t n = 0;
    if (c->tls == NULL) {
        while (c->phase == SENDING && n == 0 && (n = next_piece(c, &piece)) > 0) {
            memcpy(c->out, piece, n);
        }
        return n;
    }
    while (c->phase == SENDING && pom__tls_pending(c->tls) == 0) {
        n = next_piece(c, &piece);
        if (n == 0) {
            break;
        }
        if (pom__tls_write(c->tls, piece, n) != POM__TLS_OK) {
            lost(c, pom__tls_error(c->tls));
            return 0;
        }
    }
    return pom__tls_output(c->tls, c->out, sizeof c->out);
}

static void on_written(uv_write_t *request, int status) {
    pom__connection_t *c = request->data;
    c->writing = false;
    if (c->phase == LOST) {
        return;
    }
    if (status < 0) {
        c->mute = true;
    }
    if (c->phase == SENDING) {
        enter(c, c->mute ? RECEIVING : SENDING); /* progress: the slice's timeout starts anew */
    }
    push(c);
}

static void push(pom__connection_t *c) {
    if (c->writing || c->mute || c->phase == LOST || !c->has_tcp) {
        return;
    }
    size_t n = fill(c);
    /* Noted here: what TLS has to say later, to a server that asks, is not the request's. */
    c->all_out = c->all_out || (c->taken == c->head_size + c->body_size &&
                                (c->tls == NULL || pom__tls_pending(c->tls) == 0));
    if (n > 0) {
        uv_buf_t buffer = uv_buf_init(c->out, (unsigned)n);
        c->write.data = c;
        pom__loop_enter(POM_LOOP_SEND);
        int error = uv_write(&c->write, (uv_stream_t *)&c->tcp, &buffer, 1, on_written);
        pom__loop_leave();
        if (error == 0) {
            c->writing = true;
        } else {
            c->mute = true;
        }
    }
    if (c->phase == SENDING && !c->writing) {
        enter(c, RECEIVING);
    }
}

/* Idle and something to send. */
static void go_on(pom__connection_t *c) {
    if (c->phase == IDLE && c->waiting) {
        c->waiting = false;
        c->taken = 0;
        c->all_out = false;
        pom__http_parser_start(&c->parser);
        enter(c, SENDING);
        push(c);
    }
}

void pom__connection_send(pom__connection_t *c, const char *head, size_t head_size,
                          const char *body, size_t body_size) {
    c->head = head;
    c->head_size = head_size;
    c->body = body;
    c->body_size = body_size;
    c->waiting = true;
    go_on(c);
}

/* ---- connecting ---- */

static void connect_next(pom__connection_t *c);

static void not_connected(pom__connection_t *c, int error) {
    if (c->next_address < c->addresses.count) {
        connect_next(c);
    } else {
        lost_uv(c, "cannot connect", error);
    }
}

static void on_connected(uv_connect_t *request, int status) {
    pom__connection_t *c = request->data;
    if (c->phase == LOST) {
        return;
    }
    if (status < 0) {
        not_connected(c, status);
        return;
    }
    (void)uv_tcp_nodelay(&c->tcp, 1); /* these three only make it better */
    (void)uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
    int error = uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    if (error != 0) {
        lost_uv(c, "cannot read", error);
    } else if (c->tls != NULL) {
        enter(c, HANDSHAKE);
        shake(c);
    } else {
        enter(c, IDLE);
        go_on(c);
    }
}

static void try_address(pom__connection_t *c) {
    const struct sockaddr *address =
        (const struct sockaddr *)(const void *)&c->addresses.all[c->next_address++];
    int error = uv_tcp_init(c->timer.loop, &c->tcp);
    if (error == 0) {
        c->tcp.data = c;
        c->handles++;
        c->has_tcp = true;
        c->connecting.data = c;
        error = uv_tcp_connect(&c->connecting, &c->tcp, address, on_connected);
    }
    uv_os_fd_t fd;
    if (error == 0 && uv_fileno((const uv_handle_t *)&c->tcp, &fd) == 0) {
        c->listener->socket(c->owner, fd);
    }
    if (error != 0) {
        not_connected(c, error);
    }
}

static void on_socket_closed(uv_handle_t *handle) {
    pom__connection_t *c = handle->data;
    if (c->closed) {
        handle_closed(handle);
        return;
    }
    c->handles--;
    if (c->phase != LOST) {
        try_address(c);
    }
}

static void connect_next(pom__connection_t *c) {
    if (c->has_tcp) {
        c->has_tcp = false;
        uv_close((uv_handle_t *)&c->tcp, on_socket_closed);
    } else {
        try_address(c);
    }
}

static void on_resolved(uv_async_t *async) {
    pom__connection_t *c = async->data;
    if (c->phase != RESOLVING ||
        (c->lookup != NULL && !pom__lookup_done(c->lookup, &c->addresses))) {
        return;
    }
    pom__lookup_free(c->lookup);
    c->lookup = NULL;
    if (c->addresses.count == 0) {
        (void)snprintf(c->error, sizeof c->error, "cannot resolve the name: %s",
                       c->addresses.error);
        lost(c, c->error);
    } else {
        pom__addresses_begin_behind(&c->addresses, &c->failed);
        c->phase = CONNECTING; /* not enter(): the two share a timeout */
        connect_next(c);
    }
}

pom__connection_t *pom__connection_new(uv_loop_t *loop, const pom__target_t *target,
                                       const pom__tls_ticket_t *ticket,
                                       const struct sockaddr_storage *failed,
                                       const pom__listener_t *listener, void *owner) {
    pom__connection_t *c = pom_calloc(1, sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    c->target = target;
    c->listener = listener;
    c->owner = owner;
    c->failed = *failed;
    if (target->tls != NULL && (c->tls = pom__tls_new(target->tls, target->host, ticket)) == NULL) {
        pom_free(c);
        return NULL;
    }
    if (uv_async_init(loop, &c->async, on_resolved) != 0) {
        pom__tls_free(c->tls);
        pom_free(c);
        return NULL;
    }
    (void)uv_timer_init(loop, &c->timer); /* cannot fail */
    c->async.data = c->timer.data = c;
    c->handles = 2;
    pom__http_parser_init(&c->parser);
    enter(c, RESOLVING);
    if (pom__resolve_numeric(target->host, target->port, &c->addresses)) {
        (void)pom__loop_wake(&c->async); /* later, so that nothing is called inside this call */
    } else {
        c->lookup = pom__lookup_new(&c->async, target->host, target->port);
        if (c->lookup == NULL) {
            (void)snprintf(c->addresses.error, sizeof c->addresses.error,
                           "no thread for it, or earlier lookups hang");
            (void)pom__loop_wake(&c->async);
        }
    }
    return c;
}

void pom__connection_address(const pom__connection_t *c, struct sockaddr_storage *out) {
    if (c->next_address > 0) {
        *out = c->addresses.all[c->next_address - 1];
    }
}

pom__tls_ticket_t *pom__connection_take_ticket(pom__connection_t *c) {
    return c->tls != NULL ? pom__tls_take_ticket(c->tls) : NULL;
}
