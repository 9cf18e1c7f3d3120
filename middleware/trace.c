/*
 * W3C trace context: reading a traceparent, and what the record says of it.
 *
 * A span id is made only when it is about to leave the process: then, and only then, another
 * process's record may name it as its parent, and ours has to be found under it. Of the flags the
 * two that the standard knows (sampled, random trace id) go on unchanged; the others must not.
 */
#include "middleware/trace.h"

#include <string.h>

#define TRACEPARENT_SIZE 55  /* of version 00 */
#define TRACEPARENT_MAX  512 /* a later version may append fields; nobody sends so many */
#define FLAGS_KNOWN      3U

static pom_trace_t *trace_of(pom_action_t *action) {
    return (pom_trace_t *)(void *)action->kind_data;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Lower-case digits only, at most 16. */
static bool parse_hex(const char *text, size_t size, uint64_t *value) {
    *value = 0;
    for (size_t i = 0; i < size; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0) {
            return false;
        }
        *value = *value << 4 | (uint64_t)digit;
    }
    return true;
}

/* W3C Trace Context, section 3.2: version "-" trace id "-" parent id "-" flags; a later version may
 * append fields. */
bool pom_trace_parse(const char *t, size_t size, pom_id_t *trace_id, pom_trace_t *trace) {
    uint64_t version, flags, span;
    pom_id_t id;
    if (t == NULL || size < TRACEPARENT_SIZE || size > TRACEPARENT_MAX || t[2] != '-' ||
        t[35] != '-' || t[52] != '-' || !parse_hex(t, 2, &version) ||
        !parse_hex(t + 3, 16, &id.hi) || !parse_hex(t + 19, 16, &id.lo) ||
        !parse_hex(t + 36, 16, &span) || !parse_hex(t + 53, 2, &flags)) {
        return false;
    }
    bool longer = size > TRACEPARENT_SIZE;
    if (version == 0xff || (longer && (version == 0 || t[TRACEPARENT_SIZE] != '-')) || span == 0 ||
        (id.hi | id.lo) == 0) {
        return false;
    }
    *trace_id = id;
    *trace = (pom_trace_t){.parent_span = span, .flags = (uint8_t)flags};
    return true;
}

void pom_trace_keep(pom_action_t *action, const char *traceparent, size_t size) {
    pom_id_t id;
    pom_trace_t trace;
    if (pom_trace_parse(traceparent, size, &id, &trace) && id.hi == action->task_id.hi &&
        id.lo == action->task_id.lo) {
        *trace_of(action) = trace;
    }
}

uint64_t pom_trace_span(pom_action_t *action) {
    pom_trace_t *trace = trace_of(action);
    while (trace->span == 0) {
        trace->span = pom_random_u64();
    }
    return trace->span;
}

unsigned pom_trace_flags(pom_action_t *action) {
    const pom_trace_t *trace = trace_of(action);
    return trace->parent_span == 0 ? POM_TRACE_SAMPLED : trace->flags & FLAGS_KNOWN;
}

static void write_span(pom_value_writer_t *w, const char *key, uint64_t span) {
    if (span == 0) {
        return;
    }
    char text[16];
    for (int i = 15; i >= 0; i--, span >>= 4) {
        text[i] = "0123456789abcdef"[span & 15];
    }
    pom_value_key(w, key, strlen(key));
    pom_value_text(w, text, sizeof text);
}

void pom_trace_describe(const pom_action_t *action, pom_value_writer_t *writer) {
    const pom_trace_t *trace = (const pom_trace_t *)(const void *)action->kind_data;
    write_span(writer, "parent_span", trace->parent_span);
    write_span(writer, "span", trace->span);
}
