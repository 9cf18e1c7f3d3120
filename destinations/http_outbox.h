/*
 * What an HTTP destination has still to send, one request at a time: halves of a batch, entries of
 * the spool, client reports. It makes the requests and counts what becomes of their profiles; when
 * they go, and what an answer means, is http.c's.
 *
 * Used by destinations/http.c, one a destination.
 *
 *     pom__http_outbox_init(&o, &destination, &texts, spool, &options);
 *     pom__http_outbox_put(&o, batch);
 *     while (pom__http_outbox_next(&o, &wait_ns)) {  o.request is to be sent
 *         pom__http_outbox_sent(&o);                 or _failed, _dropped, _halve, _told
 *     }
 *     pom__http_outbox_fini(&o);
 *
 * All of it on the loop thread, but for init, fini and after_fork.
 */
#ifndef POM_DESTINATIONS_HTTP_OUTBOX_H
#define POM_DESTINATIONS_HTTP_OUTBOX_H

#include "destinations/backoff.h"
#include "destinations/http_body.h"
#include "destinations/http_options.h"
#include "destinations/self_report.h"
#include "destinations/spool.h"

#define POM__HTTP_SOURCE_MAX 256 /* of a client report; longer is cut */

/* Halving a batch until it can be encoded: a batch has at most 2^32 profiles, and each halving
 * leaves one half waiting. */
#define POM__HTTP_RANGES_MAX 34

typedef struct pom__http_range_s {
    uint32_t from, to; /* of the batch's profiles */
    bool halved;       /* after a 413 */
} pom__http_range_t;

typedef struct pom__http_request_s {
    bool is_set;
    /* on a new connection at once, after an idle one had been closed; set by http.c */
    bool repeated;
    bool spooled;   /* it is the spool's oldest entry */
    bool is_aside;  /* it is the one that was put aside */
    bool is_report; /* no profiles; fails without a trace */
    pom__http_range_t range;
    uint32_t count; /* profiles in the body */
    pom__spool_entry_t entry;
    int64_t made_ns;
    uint32_t failures;
    size_t head_size;
    char head[POM__HTTP_REQUEST_HEAD];
} pom__http_request_t;

/* A request that failed and makes room for the next batch. */
typedef struct pom__http_aside_s {
    bool is_set;
    pom__http_request_t request;
    pom_buf_t body;
    pom__backoff_t backoff;
    int64_t rest_ns; /* not before */
} pom__http_aside_t;

typedef struct pom__http_outbox_s {
    /* constant after init */
    pom_destination_t *destination; /* whose counters these are */
    const pom__http_texts_t *texts;
    pom__spool_t *spool; /* owned; NULL: none */
    int64_t give_up_ns;
    int64_t spool_room; /* bytes that are on the disk at most before something is moved */
    /* loop thread */
    pom_batch_t *batch; /* being sent; NULL: none */
    pom__http_range_t ranges[POM__HTTP_RANGES_MAX];
    int range_count;
    pom__http_request_t request; /* the present one */
    pom__http_body_t body;
    pom__http_aside_t aside; /* without a spool */
    pom_buf_t spooled_body;
    pom__backoff_t spool_backoff; /* the spool's own */
    int64_t spool_rest_ns;        /* nothing is sent from it before */
    pom_id_t failed;              /* the entry of it that failed last */
    bool taken;                   /* by the server, some batch, since the last failure of one */
    pom__self_report_t report;
    bool report_failed;                /* the last one, and nothing else has been tried since */
    char source[POM__HTTP_SOURCE_MAX]; /* of the last batch */
    uint32_t source_size;
} pom__http_outbox_t;

/* Borrows destination and texts, takes ownership of spool. */
void pom__http_outbox_init(pom__http_outbox_t *o, pom_destination_t *destination,
                           const pom__http_texts_t *texts, pom__spool_t *spool,
                           const pom_http_options_t *options);
void pom__http_outbox_fini(pom__http_outbox_t *o);

/* In a forked child: nothing is to be sent; memory that may be half done is left where it is. */
void pom__http_outbox_after_fork(pom__http_outbox_t *o);

/* Sending begins; the spool takes over what others have left. */
void pom__http_outbox_open(pom__http_outbox_t *o);

/* Takes a batch; there must be none. It is ended when all of it has its fate, or is on the disk, or
 * aside. */
void pom__http_outbox_put(pom__http_outbox_t *o, pom_batch_t *batch);

/* The present request once more, or a new one: reports first, then the batch, then what rested,
 * aside or in the spool; a report that failed after these. False: there is nothing to send, and the
 * batch is ended; *wait_ns is how long until a report, or what rests, may have its turn, 0 = not
 * before something else happens. Both are answers of one look at the clock: by a second one, what
 * came due in between would be waited for by nobody. */
bool pom__http_outbox_next(pom__http_outbox_t *o, int64_t *wait_ns);

const pom_buf_t *pom__http_outbox_body(const pom__http_outbox_t *o); /* of the present request */

/* Fates of the present request, after which it is the present one no more. */
void pom__http_outbox_sent(pom__http_outbox_t *o);
void pom__http_outbox_dropped(pom__http_outbox_t *o, pom_drop_t reason);
void pom__http_outbox_told(pom__http_outbox_t *o); /* a report has its answer */

/* It was too large: its halves are sent, once. False: it cannot be halved, nothing has changed. */
bool pom__http_outbox_halve(pom__http_outbox_t *o);

/* It could not be sent now: to the disk, or dropped after give_up_ns, or aside, or it stays the
 * present one. One that is from the disk or was aside stays there, and rests for a while. */
void pom__http_outbox_failed(pom__http_outbox_t *o);

/* Somebody waits: what is aside rests no longer. False: nothing is in memory. */
bool pom__http_outbox_hurry(pom__http_outbox_t *o);

/* All of the batch that has not been sent goes to the disk. False: there is none that takes it. */
bool pom__http_outbox_spool(pom__http_outbox_t *o);

/* What it has will not be sent: it goes to the disk, or is counted as `reason`: then false. */
bool pom__http_outbox_leave(pom__http_outbox_t *o, pom_drop_t reason);

/* The same, and the disk is synced. */
void pom__http_outbox_close(pom__http_outbox_t *o, pom_drop_t reason);

#endif
