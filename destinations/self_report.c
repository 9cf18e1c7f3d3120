/*
 * A report is due when something was dropped or sent again since the last one that arrived, and
 * not more often than once in `every_ns`, counted from the opening on: a bad minute is one report.
 * While all goes well there is none: what was sent, the server has seen for itself.
 *
 * Reports are sums since the counting began, so none needs to be kept or repeated: after a failure
 * the next one is made of newer counters.
 */
#include "destinations/self_report.h"

#include "base/id.h"

void pom__self_report_init(pom__self_report_t *s, int64_t every_ns) {
    *s = (pom__self_report_t){.every_ns = every_ns};
}

void pom__self_report_begin(pom__self_report_t *s, int64_t now_ns, int64_t wall_ns) {
    if (s->id.hi == 0 && s->id.lo == 0) {
        s->id = pom_id_new();
        s->since_wall_ns = wall_ns;
        s->next_ns = now_ns + s->every_ns;
    }
}

/* What a server cannot see for itself. */
static int64_t trouble(const pom_destination_counters_t *c) {
    int64_t sum = c->retried;
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        sum += c->dropped[i];
    }
    return sum;
}

int64_t pom__self_report_wait_ns(const pom__self_report_t *s, pom_destination_t *d,
                                 int64_t now_ns) {
    pom_destination_counters_t c;
    if (s->every_ns <= 0) {
        return -1;
    }
    pom_destination_counters(d, &c);
    if (trouble(&c) == s->told) {
        return -1;
    }
    return s->next_ns > now_ns ? s->next_ns - now_ns : 0;
}

void pom__self_report_make(pom__self_report_t *s, pom_destination_t *d, int64_t wall_ns,
                           pom_client_report_t *out) {
    pom_destination_counters_t c;
    pom_destination_counters(d, &c);
    *out = (pom_client_report_t){.id = s->id,
                                 .since_wall_ns = s->since_wall_ns,
                                 .at_wall_ns = wall_ns,
                                 .produced = c.produced,
                                 .queued = c.queued,
                                 .sent = c.sent,
                                 .spooled = c.spooled,
                                 .retried = c.retried};
    for (int i = 0; i < POM_DROP_COUNT; i++) {
        pom_client_report_drop(out, pom_drop_names[i], c.dropped[i]);
    }
    s->making = trouble(&c);
}

void pom__self_report_told(pom__self_report_t *s, int64_t now_ns) {
    s->told = s->making;
    s->next_ns = now_ns + s->every_ns;
}

void pom__self_report_failed(pom__self_report_t *s, int64_t now_ns) {
    s->next_ns = now_ns + s->every_ns;
}
