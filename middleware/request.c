/*
 * What a request's record says: ids from headers, a query without secrets (scrub.h), a bounded
 * route name (route_name.h).
 *
 * The app thread copies bytes; everything that looks at them runs at the seal, on the sampler
 * thread, whose alone the table of route names is. Of headers nothing is kept but the host and the
 * task id, which is validated; of bodies nothing but their length.
 */
#include "middleware/request.h"

#include <string.h>

#include "middleware/route_name.h"
#include "middleware/scrub.h"

#define TASK_TEXT_MAX 64

/* ---- ids ---------------------------------------------------------------------------------- */

static bool is_alnum(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_token(const char *text, size_t size) {
    if (size == 0 || size > TASK_TEXT_MAX || !is_alnum(text[0])) {
        return false;
    }
    for (size_t i = 1; i < size; i++) {
        if (!is_alnum(text[i]) && (text[i] == '\0' || strchr("._:/@-", text[i]) == NULL)) {
            return false;
        }
    }
    return true;
}

bool pom_request_task_id(const char *uuid, size_t uuid_size, const char *traceparent,
                         size_t traceparent_size, pom_id_t *id, pom_text_t *text) {
    *text = (pom_text_t){0};
    if (uuid != NULL && is_token(uuid, uuid_size)) {
        // A UUID in its plain form is its own text; any other spelling is kept as the client wrote
        // it.
        char plain[POM_ID_TEXT];
        if (uuid_size == POM_ID_TEXT && pom_id_parse(uuid, uuid_size, id)) {
            pom_id_format(*id, plain);
            if (memcmp(plain, uuid, POM_ID_TEXT) == 0) {
                return true;
            }
        }
        *text = (pom_text_t){.data = uuid, .size = (uint32_t)uuid_size};
        return true;
    }
    pom_trace_t trace;
    return pom_trace_parse(traceparent, traceparent_size, id, &trace);
}

/* ---- the record ------------------------------------------------------------------------------ */

static pom_route_names_t route_names; // of the process

/* In the order in which they are written, so that few cache lines hold those of a record. */
#define KEY_LIST(X)                                                                                \
    X(method)                                                                                      \
    X(host)                                                                                        \
    X(script_name)                                                                                 \
    X(path_info)                                                                                   \
    X(query_string)                                                                                \
    X(client)                                                                                      \
    X(status)                                                                                      \
    X(route)                                                                                       \
    X(bytes)                                                                                       \
    X(queue)                                                                                       \
    X(app)                                                                                         \
    X(first_byte)                                                                                  \
    X(body)                                                                                        \
    X(close)

static const struct {
#define X(name) pom_value_key_t name;
    KEY_LIST(X)
#undef X
} keys = {
#define X(name) .name = POM_VALUE_KEY(#name),
    KEY_LIST(X)
#undef X
};

void pom_request_routes(int64_t *names, int64_t *others) {
    *names = atomic_load_explicit(&route_names.count, memory_order_relaxed);
    *others = atomic_load_explicit(&route_names.others, memory_order_relaxed);
}

static void write_text(pom_value_writer_t *w, const pom_value_key_t *key, pom_text_t text) {
    pom_value_entry_text(w, key, text.data, text.size);
}

static void write_route(const pom_request_t *r, pom_value_writer_t *w) {
    pom_route_name_t name;
    pom_route_name(&name, r->route, r->script_name, r->path_info, r->status);
    pom_route_names_keep(&route_names, &name);
    pom_value_entry_text(w, &keys.route, name.text, name.size);
}

static void write_phase(pom_value_writer_t *w, const pom_value_key_t *name, int64_t ns) {
    if (ns > 0) {
        pom_value_entry_seconds(w, name, ns);
    }
}

/* What was in the request: there from its begin on. */
static void describe_open(const pom_action_t *action, pom_value_writer_t *w) {
    const pom_request_t *r = (const pom_request_t *)(const void *)action->kind_data;
    char query[POM_REQUEST_QUERY_MAX];
    write_text(w, &keys.method, r->method);
    write_text(w, &keys.host, r->host);
    write_text(w, &keys.script_name, r->script_name);
    write_text(w, &keys.path_info, r->path_info);
    size_t size = pom_scrub_query(r->query.data, r->query.size, query, sizeof query);
    pom_value_entry_text(w, &keys.query_string, query, size);
    if (r->client.size > 0) {
        write_text(w, &keys.client, r->client);
    }
}

static void describe(const pom_action_t *action, pom_value_writer_t *w) {
    const pom_request_t *r = (const pom_request_t *)(const void *)action->kind_data;
    describe_open(action, w);
    if (r->status > 0) {
        pom_value_entry_integer(w, &keys.status, r->status);
    } else {
        pom_value_key(w, "status", 6);
        pom_value_null(w);
    }
    write_route(r, w);
    pom_value_entry_integer(w, &keys.bytes, r->bytes);
    pom_value_key(w, "phases", 6);
    pom_value_map_begin(w);
    write_phase(w, &keys.queue, r->queue_ns);
    write_phase(w, &keys.app, r->app_ns);
    write_phase(w, &keys.first_byte, r->first_byte_ns);
    write_phase(w, &keys.body, r->body_ns);
    write_phase(w, &keys.client, r->client_ns);
    write_phase(w, &keys.close, r->close_ns);
    pom_value_map_end(w);
    pom_trace_describe(action, w);
}

const pom_action_kind_t pom_request_kind = {
    .name = "wsgi", .describe = describe, .describe_open = describe_open};
const pom_action_kind_t pom_asgi_kind = {
    .name = "asgi", .describe = describe, .describe_open = describe_open};
