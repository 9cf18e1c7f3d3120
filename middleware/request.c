/*
 * What a request's record says: ids from headers, a query without secrets, a bounded route name.
 *
 * The app thread copies bytes; everything that looks at them runs at the seal, on the sampler thread. The set of route names
 * is that thread's alone. The words to mask are replaced as a whole and published by one pointer; older lists are
 * kept (a seal may be reading one), as they change about once in the life of a process.
 */
#include "middleware/request.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"

#define QUERY_MAX     2048
#define ROUTE_MAX     512
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
        // A UUID in its plain form is its own text; any other spelling is kept as the client wrote it.
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

/* ---- query ---------------------------------------------------------------------------------- */

typedef struct words_s {
    struct words_s *older;
    size_t count;
    char *word[];
} words_t;

static _Atomic(words_t *) words; // NULL: mask nothing. Release in set, acquire in scrub.
static words_t *all_words;       // every list there was, to be found by leak checkers

static bool is_same(const words_t *kept, const char *const *list, size_t count) {
    bool same = kept->count == count;
    for (size_t i = 0; same && i < count; i++) {
        same = strcmp(kept->word[i], list[i]) == 0;
    }
    return same;
}

pom_status_t pom_request_set_scrub(const char *const *list) {
    if (list == NULL) {
        atomic_store_explicit(&words, NULL, memory_order_release);
        return POM_OK;
    }
    size_t count = 0, bytes = 0;
    for (; list[count] != NULL; count++) {
        bytes += strlen(list[count]) + 1;
    }
    // Kept lists are used again, so that configuring in a loop costs nothing but their number.
    for (words_t *kept = all_words; kept != NULL; kept = kept->older) {
        if (is_same(kept, list, count)) {
            atomic_store_explicit(&words, kept, memory_order_release);
            return POM_OK;
        }
    }
    words_t *fresh = pom_alloc(sizeof *fresh + count * sizeof(char *) + bytes);
    if (fresh == NULL) {
        return POM_ENOMEM;
    }
    char *at = (char *)&fresh->word[count];
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(list[i]) + 1;
        memcpy(at, list[i], size);
        fresh->word[i] = at;
        at += size;
    }
    fresh->count = count;
    fresh->older = all_words;
    all_words = fresh;
    atomic_store_explicit(&words, fresh, memory_order_release);
    return POM_OK;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* A key as people read it: percent-decoded, lower case, NUL-terminated. False: longer than any key people read. */
static bool plain_key(const char *key, size_t size, char out[128]) {
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        if (used == 127) {
            return false;
        }
        char c = key[i];
        if (c == '%' && i + 2 < size && hex_digit(key[i + 1]) >= 0 && hex_digit(key[i + 2]) >= 0) {
            c = (char)(hex_digit(key[i + 1]) << 4 | hex_digit(key[i + 2]));
            i += 2;
        }
        if (c >= 'A' && c <= 'Z') {
            c = (char)(c - 'A' + 'a');
        }
        out[used++] = c == '\0' ? ' ' : c;
    }
    out[used] = '\0';
    return true;
}

static bool is_secret(const words_t *list, const char *key, size_t size) {
    char plain[128];
    if (!plain_key(key, size, plain)) {
        return true; // the word may stand behind the cut
    }
    for (size_t i = 0; i < list->count; i++) {
        if (strstr(plain, list->word[i]) != NULL) {
            return true;
        }
    }
    return false;
}

static size_t put(char *out, size_t room, size_t used, const char *text, size_t size) {
    if (size > room - used) {
        size = room - used;
    }
    if (size > 0) { // text may be NULL: a piece that was never set
        memcpy(out + used, text, size);
    }
    return used + size;
}

size_t pom_request_scrub(const char *query, size_t size, char *out, size_t room) {
    const words_t *list = atomic_load_explicit(&words, memory_order_acquire);
    size_t used = 0;
    for (size_t i = 0; i < size;) {
        size_t end = i, equals = size;
        while (end < size && query[end] != '&' && query[end] != ';') {
            if (query[end] == '=' && equals == size) {
                equals = end;
            }
            end++;
        }
        if (list != NULL && equals < end && is_secret(list, query + i, equals - i)) {
            used = put(out, room, used, query + i, equals + 1 - i);
            used = put(out, room, used, "[scrubbed]", 10);
        } else {
            used = put(out, room, used, query + i, end - i);
        }
        if (end < size) {
            used = put(out, room, used, query + end, 1);
        }
        i = end + 1;
    }
    return used;
}

/* ---- routes ----------------------------------------------------------------------------------- */

/* Digits only; hexadecimal of 8 or more; a UUID; or 20 or more characters with a digit among them (tokens, slugs with ids). */
static bool looks_like_id(const char *s, size_t size) {
    size_t digits = 0, hex = 0;
    for (size_t i = 0; i < size; i++) {
        digits += s[i] >= '0' && s[i] <= '9';
        hex += hex_digit(s[i]) >= 0;
    }
    pom_id_t id;
    return size > 0 &&
           (digits == size || (hex == size && size >= 8) || (digits > 0 && size >= 20) ||
            (size == POM_ID_TEXT && pom_id_parse(s, size, &id)));
}

size_t pom_request_mask(const char *path, size_t size, char *out, size_t room) {
    size_t used = 0;
    if (size > ROUTE_MAX) {
        size = ROUTE_MAX;
    }
    for (size_t i = 0; i <= size;) {
        size_t end = i;
        while (end < size && path[end] != '/') {
            end++;
        }
        if (looks_like_id(path + i, end - i)) {
            used = put(out, room, used, "<id>", 4);
        } else {
            used = put(out, room, used, path + i, end - i);
        }
        if (end < size) {
            used = put(out, room, used, "/", 1);
        }
        i = end + 1;
    }
    return used;
}

/* Names seen so far, by hash; open addressing at half load. Sampler thread only. */
static struct {
    uint64_t seen[2 * 1024];
    int count;
} routes;

_Static_assert(2 * 1024 >= 2 * POM_ROUTES_MAX, "the table of route names stays half empty");

static bool route_is_bounded(const char *name, size_t size) {
    uint64_t hash = pom_hash_bytes(name, size) | 1; // 0 is an empty place
    for (size_t at = (size_t)(hash >> 32);; at++) {
        uint64_t *place = &routes.seen[at % (2 * 1024)];
        if (*place == hash) {
            return true;
        }
        if (*place == 0) {
            if (routes.count >= POM_ROUTES_MAX) {
                return false;
            }
            *place = hash;
            routes.count++;
            return true;
        }
    }
}

static void write_text(pom_value_writer_t *w, const char *key, const char *text, size_t size) {
    pom_value_key(w, key, strlen(key));
    pom_value_text(w, text, size);
}

static void write_route(const pom_request_t *r, pom_value_writer_t *w) {
    char name[2 * ROUTE_MAX];
    size_t size;
    if (r->route.size > 0) {
        size = put(name, sizeof name, 0, r->route.data, r->route.size);
    } else if (r->status == 404) {
        size = put(name, sizeof name, 0, "<not found>", 11);
    } else {
        char path[ROUTE_MAX];
        size_t path_size = put(path, sizeof path, 0, r->script_name.data, r->script_name.size);
        path_size = put(path, sizeof path, path_size, r->path_info.data, r->path_info.size);
        if (path_size == 0) {
            path_size = put(path, sizeof path, 0, "/", 1);
        }
        size = pom_request_mask(path, path_size, name, sizeof name);
    }
    if (!route_is_bounded(name, size)) {
        size = put(name, sizeof name, 0, "<other>", 7);
    }
    write_text(w, "route", name, size);
}

/* ---- the record -------------------------------------------------------------------------------- */

static void write_phase(pom_value_writer_t *w, const char *name, int64_t ns) {
    if (ns > 0) {
        pom_value_key(w, name, strlen(name));
        pom_value_seconds(w, ns);
    }
}

/* What was in the request: there from its begin on. */
static void describe_open(const pom_action_t *action, pom_value_writer_t *w) {
    const pom_request_t *r = (const pom_request_t *)(const void *)action->kind_data;
    char query[QUERY_MAX];
    write_text(w, "method", r->method.data, r->method.size);
    write_text(w, "host", r->host.data, r->host.size);
    write_text(w, "script_name", r->script_name.data, r->script_name.size);
    write_text(w, "path_info", r->path_info.data, r->path_info.size);
    size_t size = pom_request_scrub(r->query.data, r->query.size, query, sizeof query);
    write_text(w, "query_string", query, size);
    if (r->client.size > 0) {
        write_text(w, "client", r->client.data, r->client.size);
    }
}

static void describe(const pom_action_t *action, pom_value_writer_t *w) {
    const pom_request_t *r = (const pom_request_t *)(const void *)action->kind_data;
    describe_open(action, w);
    pom_value_key(w, "status", 6);
    if (r->status > 0) {
        pom_value_integer(w, r->status);
    } else {
        pom_value_null(w);
    }
    write_route(r, w);
    pom_value_key(w, "bytes", 5);
    pom_value_integer(w, r->bytes);
    pom_value_key(w, "phases", 6);
    pom_value_map_begin(w);
    write_phase(w, "queue", r->queue_ns);
    write_phase(w, "app", r->app_ns);
    write_phase(w, "first_byte", r->first_byte_ns);
    write_phase(w, "body", r->body_ns);
    write_phase(w, "client", r->client_ns);
    write_phase(w, "close", r->close_ns);
    pom_value_map_end(w);
    pom_trace_describe(action, w);
}

const pom_action_kind_t pom_request_kind = {
    .name = "wsgi", .describe = describe, .describe_open = describe_open};
const pom_action_kind_t pom_asgi_kind = {
    .name = "asgi", .describe = describe, .describe_open = describe_open};
