/*
 * The client report: what became of the call graphs that a server did not get.
 *
 * Made by destinations/http.c from its counters, sent to the server among its batches; read back
 * from the wire form by pom_msgpack_reader_report(). A server that keeps the newest one of each id
 * knows what is missing: produced = queued + sent + spooled + dropped, since `since`.
 *
 *     pom_client_report_t report = {.id = id, .since_wall_ns = born, .at_wall_ns = pom_wall_ns()};
 *     pom_client_report_drop(&report, "queue_full", 12);
 *     pom_client_report_emit(&report, source.name, source.pid, &json.emitter);   a line of JSON
 *     status = pom_msgpack_put_report(&buf, &report, &source);                  the wire form
 *
 * The numbers are sums, not differences: one that is lost is made good by the next, and one that
 * arrives twice does no harm.
 */
#ifndef POM_PROFILES_FORMATS_CLIENT_REPORT_H
#define POM_PROFILES_FORMATS_CLIENT_REPORT_H

#include "base/buf.h"
#include "base/id.h"
#include "profiles/emitter.h"
#include "profiles/profile.h"

/* Twice the reasons there are: a later writer may know more. */
#define POM_CLIENT_REPORT_DROPS 18

typedef struct pom_client_drop_s {
    pom_text_t reason; /* borrowed */
    int64_t count;
} pom_client_drop_t;

/* All counts are call graphs. */
typedef struct pom_client_report_s {
    pom_id_t id;           /* the same for one destination in one process */
    int64_t since_wall_ns; /* counting began */
    int64_t at_wall_ns;    /* the counts are of this moment */
    int64_t produced, queued, sent, spooled;
    int64_t retried; /* attempted again; no fate */
    uint32_t drop_count;
    pom_client_drop_t drops[POM_CLIENT_REPORT_DROPS];
} pom_client_report_t;

/* Adds a reason, a text that outlives the report; one without a count is left out. [any] */
void pom_client_report_drop(pom_client_report_t *report, const char *reason, int64_t count);

/* The report as a record without call graph, of kind "report": docs/wire-format.md. Its four key
 * parts are those of every record and constant for an id, so that a store keyed by them keeps the
 * newest. [any] */
void pom_client_report_emit(const pom_client_report_t *report, pom_text_t source, int32_t pid,
                            pom_emitter_t *emitter);

#endif
