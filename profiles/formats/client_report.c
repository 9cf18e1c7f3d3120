/*
 * The client report as a record.
 *
 * Servers of the JSON form know one thing, a call graph a line, and the original's insists on
 * start_time, task_uuid, source and thread. So the report is a call graph, an empty one: no time,
 * no children, and what it has to say among the action's fields. A server that does not know the
 * kind stores it and adds nothing to any sum. The store's key is made of those four, which stay the
 * same while one destination of one process counts: each report takes the place of the one before.
 *
 * "thread" is the process id, which on Linux is a thread's too, the main one's: reports are about
 * the process, and 0 would be taken for missing by some.
 */
#include "profiles/formats/client_report.h"

#include <string.h>

#define KEY POM_EMIT_NAME

void pom_client_report_drop(pom_client_report_t *report, const char *reason, int64_t count) {
    if (count > 0 && report->drop_count < POM_CLIENT_REPORT_DROPS) {
        report->drops[report->drop_count++] =
            (pom_client_drop_t){{reason, (uint32_t)strlen(reason)}, count};
    }
}

static void put_text(pom_emitter_t *e, const char *text) {
    e->ops->text(e, text, strlen(text));
}

static void put_no_time(pom_emitter_t *e) {
    KEY(e, "time");
    e->ops->seconds(e, 0);
    KEY(e, "self_time");
    e->ops->seconds(e, 0);
    KEY(e, "cpu_time");
    e->ops->seconds(e, 0);
    KEY(e, "self_cpu_time");
    e->ops->seconds(e, 0);
    KEY(e, "hits");
    e->ops->integer(e, 0);
}

static void put_counts(pom_emitter_t *e, const pom_client_report_t *r) {
    KEY(e, "produced");
    e->ops->integer(e, r->produced);
    KEY(e, "queued");
    e->ops->integer(e, r->queued);
    KEY(e, "sent");
    e->ops->integer(e, r->sent);
    KEY(e, "spooled");
    e->ops->integer(e, r->spooled);
    KEY(e, "retried");
    e->ops->integer(e, r->retried);
    KEY(e, "dropped");
    e->ops->map_begin(e);
    for (uint32_t i = 0; i < r->drop_count; i++) {
        e->ops->key(e, r->drops[i].reason.data, r->drops[i].reason.size);
        e->ops->integer(e, r->drops[i].count);
    }
    e->ops->map_end(e);
}

void pom_client_report_emit(const pom_client_report_t *r, pom_text_t source, int32_t pid,
                            pom_emitter_t *e) {
    char id[POM_ID_TEXT];
    pom_id_format(r->id, id);
    e->ops->map_begin(e);
    KEY(e, "task_uuid");
    e->ops->text(e, id, sizeof id);
    KEY(e, "thread");
    e->ops->integer(e, pid);
    KEY(e, "thread_name");
    put_text(e, "pom-loop");
    KEY(e, "source");
    e->ops->text(e, source.data, source.size);
    KEY(e, "pid");
    e->ops->integer(e, pid);
    KEY(e, "start_time");
    e->ops->moment(e, r->since_wall_ns);
    KEY(e, "end_time");
    e->ops->moment(e, r->at_wall_ns);
    put_no_time(e);
    KEY(e, "action");
    e->ops->map_begin(e);
    KEY(e, "type");
    put_text(e, "profilomatic:report");
    KEY(e, "kind");
    put_text(e, "report");
    KEY(e, "outcome");
    put_text(e, "succeeded");
    put_counts(e, r);
    e->ops->map_end(e);
    KEY(e, "children");
    e->ops->list_begin(e);
    e->ops->list_end(e);
    e->ops->map_end(e);
}
