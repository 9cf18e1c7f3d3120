/*
 * The order of things: a request that failed goes again first, then a report that is due, then the
 * batch, then the spool's oldest entry. So after an outage new batches are not held up by old ones.
 * A report that failed comes last of all until something else has had its turn: a server that takes
 * call graphs and chokes on reports is to get the call graphs.
 *
 * When an entry of the spool fails, the spool alone rests, and new batches go on: it may be the
 * entry that the server, or a proxy, cannot take. If it has taken others since the entry failed
 * before, it is the entry: it goes to the spool's end, with its key and age, so that those behind
 * it have their turn. While nothing is taken, as in an outage, the order stays.
 *
 * Without a spool there is one place for that, in memory: a request that fails the second time is
 * put aside, encoded as it is, its batch is ended, and the next one has its turn. When that fails
 * as well it is the server, and nothing is gained by a third: one body is what we hold beyond the
 * queue's budget.
 *
 * A request is made once and repeated byte for byte with its key, whether from memory or from the
 * disk; only a report is made anew, since its counts have moved on. Each profile of a batch is in
 * one of these places: the ranges that wait, the present request, aside, or counted.
 *
 * Over 400 lines: every function moves a request between these places, on one state.
 */
#include "destinations/http_outbox.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "destinations/stages.h"

#define HEAD_ROOM 1024 /* an entry's head is less */

void pom__http_outbox_init(pom__http_outbox_t *o, pom_destination_t *destination,
                           const pom__http_texts_t *texts, pom__spool_t *spool,
                           const pom_http_options_t *options) {
    memset(o, 0, sizeof *o);
    o->destination = destination;
    o->texts = texts;
    o->spool = spool;
    o->give_up_ns = options->give_up_ns;
    o->spool_room = options->spool_bytes - HEAD_ROOM;
    pom__http_body_init(&o->body, options->format, options->compress);
    pom_buf_init(&o->aside.body, o->body.out.cap);
    pom_buf_init(&o->spooled_body, POM__SPOOL_BODY_MAX);
    pom__self_report_init(&o->report, options->report_ns);
}

void pom__http_outbox_fini(pom__http_outbox_t *o) {
    pom__http_body_fini(&o->body);
    pom_buf_fini(&o->aside.body);
    pom_buf_fini(&o->spooled_body);
    pom__spool_free(o->spool);
}

/* ---- requests of a batch ---- */

static void end_request(pom__http_outbox_t *o) {
    o->request.is_set = o->request.is_report = o->request.is_aside = false;
    o->request.repeated = false;
}

static void push_range(pom__http_outbox_t *o, uint32_t from, uint32_t to, bool halved) {
    if (from < to) {
        o->ranges[o->range_count++] = (pom__http_range_t){from, to, halved};
    }
}

/* Of the range that was just taken: the first half is the next to go. */
static void halve(pom__http_outbox_t *o, pom__http_range_t range, bool halved) {
    uint32_t middle = range.from + (range.to - range.from) / 2;
    push_range(o, middle, range.to, halved);
    push_range(o, range.from, middle, halved);
}

/* UUID of version 7 (RFC 9562): servers sort by it, and forget old ones by it. */
static pom_id_t new_key(void) {
    pom_id_t id = pom_id_new();
    uint64_t ms = (uint64_t)(pom_wall_ns() / POM_NS_PER_MS);
    id.hi = ms << 16 | 0x7000 | (id.hi & 0xfff);
    return id;
}

/* The rest of a request whose entry is set. */
static void begin_request(pom__http_outbox_t *o, const pom_buf_t *body) {
    pom__http_request_t *r = &o->request;
    char text[POM_ID_TEXT];
    pom_id_format(r->entry.key, text);
    /* http_options.c has left room for the lines. */
    r->head_size = (size_t)snprintf(
        r->head, sizeof r->head,
        "%sContent-Type: %s\r\nIdempotency-Key: %.*s\r\nContent-Length: %zu\r\n\r\n",
        o->texts->head[r->entry.compressed],
        pom__http_body_type((pom_http_format_t)r->entry.format), POM_ID_TEXT, text, body->len);
    r->count = r->entry.count;
    r->is_set = true;
    r->repeated = false;
    r->made_ns = pom_now_ns();
    r->failures = 0;
    o->report_failed = false;
}

/* Makes a request of the next range. False: nothing is left to send. */
static bool next_request(pom__http_outbox_t *o) {
    while (o->range_count > 0) {
        pom__http_range_t range = o->ranges[--o->range_count];
        uint32_t size = range.to - range.from;
        uint32_t put = 0;
        pom_id_t key = new_key();
        pom__loop_enter(POM_LOOP_ENCODE);
        pom_status_t status =
            pom__http_body_encode(&o->body, o->batch->profiles + range.from, size, key, &put);
        pom__loop_leave();
        if (status == POM_EFULL && size > 1) {
            halve(o, range, range.halved);
            continue;
        }
        uint32_t bad = status == POM_OK ? size - put : size;
        if (bad > 0) {
            pom_destination_error(o->destination, "%u call graphs could not be encoded: %s", bad,
                                  status == POM_EFULL ? "too large" : "no memory");
            pom_destination_dropped(o->destination, POM_DROP_SERIALIZE, bad);
        }
        if (bad == size) {
            continue;
        }
        o->request.range = range;
        o->request.spooled = false;
        o->request.entry = (pom__spool_entry_t){.key = key,
                                                .created_wall_ns = pom_wall_ns(),
                                                .count = put,
                                                .format = (uint8_t)o->body.format,
                                                .compressed = o->body.compress};
        begin_request(o, &o->body.out);
        return true;
    }
    return false;
}

static void end_batch(pom__http_outbox_t *o) {
    pom_batch_t *batch = o->batch;
    if (batch != NULL) {
        o->batch = NULL;
        pom_batch_end(batch);
    }
}

/* Makes a request of the present counters. False: no memory, so another time. */
static bool next_report(pom__http_outbox_t *o) {
    pom_client_report_t report;
    pom_id_t key = new_key();
    pom__self_report_make(&o->report, o->destination, pom_wall_ns(), &report);
    if (pom__http_body_encode_report(&o->body, &report, (pom_text_t){o->source, o->source_size},
                                     key) != POM_OK) {
        return false;
    }
    o->request.range = (pom__http_range_t){0, 0, false};
    o->request.spooled = false;
    o->request.is_report = true;
    o->request.entry = (pom__spool_entry_t){
        .key = key, .format = (uint8_t)o->body.format, .compressed = o->body.compress};
    begin_request(o, &o->body.out);
    return true;
}

/* ---- the spool ---- */

/* What the spool has lost leaves `spooled` for another fate. */
static void count_lost(pom__http_outbox_t *o, const pom__spool_lost_t *lost) {
    const struct {
        int64_t count;
        pom_drop_t reason;
    } fates[] = {{lost->evicted, POM_DROP_QUEUE_FULL},
                 {lost->too_old, POM_DROP_TOO_OLD},
                 {lost->damaged, POM_DROP_ERROR}};
    if (lost->segments > 0) {
        pom_destination_error(o->destination,
                              "spool: a damaged segment is put aside, at least %lld profiles lost",
                              (long long)lost->damaged);
    }
    for (size_t i = 0; i < sizeof fates / sizeof fates[0]; i++) {
        if (fates[i].count > 0) {
            pom_destination_spooled(o->destination, -fates[i].count);
            pom_destination_dropped(o->destination, fates[i].reason, fates[i].count);
        }
    }
}

/* The present request, which is not from there, goes to the disk. */
static bool spool_request(pom__http_outbox_t *o) {
    pom__http_request_t *r = &o->request;
    pom__spool_lost_t lost = {0};
    if (o->spool == NULL || r->spooled || r->is_report) {
        return false;
    }
    pom_status_t status =
        pom__spool_put(o->spool, &r->entry, o->body.out.data, o->body.out.len, &lost);
    count_lost(o, &lost);
    if (status != POM_OK) {
        pom_destination_error(o->destination, "%s", pom__spool_error(o->spool));
        return false;
    }
    uint32_t count = r->count;
    end_request(o);
    pom_destination_spooled(o->destination, count);
    return true;
}

bool pom__http_outbox_spool(pom__http_outbox_t *o) {
    if (o->spool == NULL) {
        return false;
    }
    if (o->request.is_set && (o->request.spooled || o->request.is_report)) {
        end_request(o); /* it is on the disk anyway, or made again */
    }
    while (o->request.is_set || next_request(o)) {
        if (!spool_request(o)) {
            return false;
        }
    }
    end_batch(o);
    return true;
}

/* Makes a request of the spool's oldest entry. */
static bool next_spooled(pom__http_outbox_t *o, int64_t now_ns) {
    pom__spool_lost_t lost = {0};
    if (o->spool == NULL || now_ns < o->spool_rest_ns) {
        return false;
    }
    bool found = pom__spool_next(o->spool, &o->request.entry, &o->spooled_body, &lost);
    count_lost(o, &lost);
    if (found) {
        o->request.spooled = true;
        begin_request(o, &o->spooled_body);
    }
    return found;
}

/* The present request, the spool's oldest entry, becomes its newest. A crash between the two steps
 * is one of those after which a batch is sent twice. */
static void move_to_end(pom__http_outbox_t *o) {
    const pom__http_request_t *r = &o->request;
    const pom_buf_t *body = &o->spooled_body;
    pom__spool_lost_t lost = {0};
    if (pom__spool_profiles(o->spool) <= r->count ||
        pom__spool_bytes(o->spool) + (int64_t)body->len > o->spool_room) {
        return; /* alone, or others would be evicted for it */
    }
    if (pom__spool_put(o->spool, &r->entry, body->data, body->len, &lost) != POM_OK) {
        pom_destination_error(o->destination, "%s", pom__spool_error(o->spool));
    } else if (!pom__spool_ack(o->spool)) {
        lost.evicted -= r->count; /* with its segment all the same, but there is the copy */
    }
    count_lost(o, &lost);
}

static void rest_spool(pom__http_outbox_t *o) {
    pom_id_t key = o->request.entry.key;
    if (o->taken && key.hi == o->failed.hi && key.lo == o->failed.lo) {
        move_to_end(o);
    }
    o->failed = key;
    o->spool_rest_ns = pom_now_ns() + pom__backoff_next(&o->spool_backoff, pom_random_u64());
}

/* ---- aside ---- */

static void put_aside(pom__http_outbox_t *o) {
    pom_buf_t spare = o->aside.body;
    o->aside.request = o->request;
    o->aside.body = o->body.out;
    o->body.out = spare;
    o->aside.is_set = true;
    o->aside.request.repeated = false;
    pom__backoff_reset(&o->aside.backoff);
    end_request(o);
    if (o->range_count == 0) {
        end_batch(o); /* so that the next one is there when the pause is over */
    }
}

static void rest_aside(pom__http_outbox_t *o) {
    o->aside.rest_ns = pom_now_ns() + pom__backoff_next(&o->aside.backoff, pom_random_u64());
}

/* A copy is the present request until it has a fate; the body stays where it is. */
static bool next_aside(pom__http_outbox_t *o, int64_t now_ns) {
    if (!o->aside.is_set || now_ns < o->aside.rest_ns) {
        return false;
    }
    o->request = o->aside.request;
    o->request.is_aside = true;
    return true;
}

bool pom__http_outbox_hurry(pom__http_outbox_t *o) {
    o->aside.rest_ns = 0;
    return o->batch != NULL || o->aside.is_set;
}

/* ---- what is next ---- */

/* Ends the present request with a fate that is counted next: false when the spool has counted it
 * already. */
static bool take_request(pom__http_outbox_t *o) {
    pom__http_request_t *r = &o->request;
    bool ours = true;
    if (r->spooled) {
        pom__backoff_reset(&o->spool_backoff);
        ours = pom__spool_ack(o->spool);
        if (ours) {
            pom_destination_spooled(o->destination, -(int64_t)r->count);
        }
    }
    if (r->is_aside) {
        o->aside.is_set = false;
    }
    end_request(o);
    return ours;
}

void pom__http_outbox_open(pom__http_outbox_t *o) {
    int64_t adopted = 0;
    pom__self_report_begin(&o->report, pom_now_ns(), pom_wall_ns());
    pom__backoff_reset(&o->spool_backoff);
    o->spool_rest_ns = 0;
    o->taken = false;
    if (o->spool == NULL) {
        return;
    }
    if (pom__spool_open(o->spool, &adopted) != POM_OK) {
        pom_destination_error(o->destination, "%s",
                              pom__spool_error(o->spool)); /* memory only, then */
    } else if (adopted > 0) {
        pom_destination_adopted(o->destination, adopted);
    }
}

void pom__http_outbox_put(pom__http_outbox_t *o, pom_batch_t *batch) {
    pom_text_t source = batch->profiles[0]->source;
    o->source_size = source.size < POM__HTTP_SOURCE_MAX ? source.size : POM__HTTP_SOURCE_MAX;
    memcpy(o->source, source.size > 0 ? source.data : "", o->source_size);
    o->batch = batch;
    push_range(o, 0, batch->count, false);
}

static int64_t report_wait_ns(const pom__http_outbox_t *o, int64_t now_ns) {
    return pom__self_report_wait_ns(&o->report, o->destination, now_ns);
}

/* The shorter of two waits; 0 and less are none. */
static int64_t sooner(int64_t a, int64_t b) {
    return b > 0 && (a <= 0 || b < a) ? b : a;
}

/* Until a report, or what rests, may have its turn. */
static int64_t wait_from(const pom__http_outbox_t *o, int64_t now_ns, int64_t report_ns) {
    int64_t wait_ns = sooner(0, report_ns);
    if (o->aside.is_set) {
        wait_ns = sooner(wait_ns, o->aside.rest_ns - now_ns);
    }
    if (o->spool != NULL && pom__spool_profiles(o->spool) > 0) {
        wait_ns = sooner(wait_ns, o->spool_rest_ns - now_ns);
    }
    return wait_ns;
}

bool pom__http_outbox_next(pom__http_outbox_t *o, int64_t *wait_ns) {
    *wait_ns = 0;
    if (o->request.is_set) {
        pom_destination_retried(o->destination, o->request.count);
        return true;
    }
    if (o->range_count == 0) {
        end_batch(o); /* a report does not hold up the next one */
    }
    int64_t now_ns = pom_now_ns();
    if ((!o->report_failed && report_wait_ns(o, now_ns) == 0 && next_report(o)) ||
        (o->batch != NULL && next_request(o))) {
        return true;
    }
    end_batch(o);
    if (next_aside(o, now_ns) || next_spooled(o, now_ns)) {
        pom_destination_retried(o->destination, o->request.count);
        return true;
    }
    int64_t report_ns = report_wait_ns(o, now_ns); /* of what was lost on the way here, too */
    if (report_ns == 0 && next_report(o)) {
        return true;
    }
    *wait_ns = wait_from(o, now_ns, report_ns);
    return false;
}

const pom_buf_t *pom__http_outbox_body(const pom__http_outbox_t *o) {
    return o->request.spooled    ? &o->spooled_body
           : o->request.is_aside ? &o->aside.body
                                 : &o->body.out;
}

/* ---- fates ---- */

void pom__http_outbox_sent(pom__http_outbox_t *o) {
    uint32_t count = o->request.count;
    int64_t bytes = (int64_t)pom__http_outbox_body(o)->len;
    o->taken = true;
    if (take_request(o)) {
        pom_destination_sent(o->destination, count, bytes);
    }
}

void pom__http_outbox_dropped(pom__http_outbox_t *o, pom_drop_t reason) {
    uint32_t count = o->request.count;
    if (take_request(o)) {
        pom_destination_dropped(o->destination, reason, count);
    }
}

void pom__http_outbox_told(pom__http_outbox_t *o) {
    pom__self_report_told(&o->report, pom_now_ns());
    end_request(o);
}

bool pom__http_outbox_halve(pom__http_outbox_t *o) {
    const pom__http_request_t *r = &o->request;
    uint32_t size = r->range.to - r->range.from;
    if (r->spooled || r->is_aside || size < 2 || r->range.halved || r->count != size) {
        return false;
    }
    pom_destination_retried(o->destination, size);
    halve(o, r->range, true);
    end_request(o);
    return true;
}

static void failed_in_memory(pom__http_outbox_t *o) {
    bool is_second = ++o->request.failures > 1;
    if (pom_now_ns() - o->request.made_ns > o->give_up_ns) {
        pom__http_outbox_dropped(o, POM_DROP_TOO_OLD);
    } else if (o->request.is_aside) {
        end_request(o);
        rest_aside(o);
    } else if (is_second && o->spool == NULL && !o->aside.is_set) {
        put_aside(o);
        rest_aside(o);
    }
}

void pom__http_outbox_failed(pom__http_outbox_t *o) {
    if (o->request.is_report) {
        pom__self_report_failed(&o->report, pom_now_ns());
        o->report_failed = true;
        end_request(o); /* made again when its turn comes */
        return;
    }
    if (o->request.spooled) {
        rest_spool(o);
        end_request(o); /* read again when its turn comes */
    } else if (!spool_request(o)) {
        failed_in_memory(o);
    }
    o->taken = false;
}

bool pom__http_outbox_leave(pom__http_outbox_t *o, pom_drop_t reason) {
    if (o->request.is_set && (o->request.spooled || o->request.is_report)) {
        end_request(o);
    }
    if (pom__http_outbox_spool(o)) {
        return true;
    }
    int64_t rest = o->request.is_set && !o->request.is_aside ? o->request.count : 0;
    rest += o->aside.is_set ? o->aside.request.count : 0;
    o->aside.is_set = false;
    end_request(o);
    while (o->range_count > 0) {
        pom__http_range_t range = o->ranges[--o->range_count];
        rest += range.to - range.from;
    }
    if (rest > 0) {
        pom_destination_dropped(o->destination, reason, rest);
    }
    end_batch(o);
    return false;
}

void pom__http_outbox_close(pom__http_outbox_t *o, pom_drop_t reason) {
    if (pom__http_outbox_leave(o, reason)) {
        pom__spool_sync(o->spool);
    }
}

void pom__http_outbox_after_fork(pom__http_outbox_t *o) {
    o->batch = NULL;
    o->range_count = 0;
    o->report_failed = o->aside.is_set = false;
    end_request(o);
    pom__self_report_init(&o->report, o->report.every_ns);
    pom__http_body_init(&o->body, o->body.format, o->body.compress);
    pom_buf_init(&o->aside.body, o->body.out.cap);
    pom_buf_init(&o->spooled_body, POM__SPOOL_BODY_MAX);
    if (o->spool != NULL) {
        pom__spool_after_fork(o->spool);
    }
}
