/*
 * An emitter for tests: it writes what it is told in a short notation and checks the grammar of the
 * calls.
 *
 *     {a:1 b:"x" c:[true null 1.5 2ns @3]}
 *
 * `broken` is set by a call that may not come at this place; `open` is 0 and `values` 1 after one
 * whole value.
 */
#ifndef POM_TESTS_TRACE_EMITTER_H
#define POM_TESTS_TRACE_EMITTER_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "profiles/emitter.h"

typedef struct trace_s {
    pom_emitter_t emitter;
    int open;   /* containers */
    int values; /* at the top level */
    int deepest;
    bool key_waits, broken;
    char kinds[4200];
    size_t size;
    char text[64 * 1024]; /* what does not fit is not kept */
} trace_t;

static trace_t *trace_of(pom_emitter_t *self) {
    return (trace_t *)(void *)self;
}

__attribute__((format(printf, 2, 3))) static void trace_put(trace_t *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int size = vsnprintf(t->text + t->size, sizeof t->text - t->size, format, args);
    va_end(args);
    if (size > 0 && t->size + (size_t)size < sizeof t->text) {
        t->size += (size_t)size;
    }
    t->text[t->size] = '\0';
}

static void trace_value(trace_t *t) {
    if (t->open > 0 && t->kinds[t->open - 1] == '{') {
        t->broken = t->broken || !t->key_waits;
        t->key_waits = false;
        return;
    }
    t->values += t->open == 0;
    if (t->size > 0 && strchr("[:", t->text[t->size - 1]) == NULL) {
        trace_put(t, " ");
    }
}

static void trace_begin(pom_emitter_t *self, char kind) {
    trace_t *t = trace_of(self);
    trace_value(t);
    trace_put(t, "%c", kind);
    if (t->open < (int)sizeof t->kinds) {
        t->kinds[t->open] = kind;
    }
    t->open++;
    if (t->open > t->deepest) {
        t->deepest = t->open;
    }
}

static void trace_end(pom_emitter_t *self, char kind, char close) {
    trace_t *t = trace_of(self);
    t->broken = t->broken || t->open == 0 || t->key_waits || t->kinds[t->open - 1] != kind;
    t->open -= t->open > 0;
    trace_put(t, "%c", close);
}

static void trace_map_begin(pom_emitter_t *self) {
    trace_begin(self, '{');
}

static void trace_map_end(pom_emitter_t *self) {
    trace_end(self, '{', '}');
}

static void trace_list_begin(pom_emitter_t *self) {
    trace_begin(self, '[');
}

static void trace_list_end(pom_emitter_t *self) {
    trace_end(self, '[', ']');
}

static void trace_key(pom_emitter_t *self, const char *text, size_t size) {
    trace_t *t = trace_of(self);
    t->broken = t->broken || t->key_waits || t->open == 0 || t->kinds[t->open - 1] != '{';
    t->key_waits = true;
    if (t->size > 0 && t->text[t->size - 1] != '{') {
        trace_put(t, " ");
    }
    trace_put(t, "%.*s:", (int)size, text);
}

static void trace_text(pom_emitter_t *self, const char *text, size_t size) {
    trace_value(trace_of(self));
    trace_put(trace_of(self), "\"%.*s\"", (int)size, text);
}

static void trace_integer(pom_emitter_t *self, int64_t value) {
    trace_value(trace_of(self));
    trace_put(trace_of(self), "%" PRId64, value);
}

static void trace_number(pom_emitter_t *self, double value) {
    trace_value(trace_of(self));
    trace_put(trace_of(self), "%g", value);
}

static void trace_seconds(pom_emitter_t *self, int64_t ns) {
    trace_value(trace_of(self));
    trace_put(trace_of(self), "%" PRId64 "ns", ns);
}

static void trace_moment(pom_emitter_t *self, int64_t wall_ns) {
    trace_value(trace_of(self));
    trace_put(trace_of(self), "@%" PRId64, wall_ns);
}

static void trace_boolean(pom_emitter_t *self, bool value) {
    trace_value(trace_of(self));
    trace_put(trace_of(self), "%s", value ? "true" : "false");
}

static void trace_null(pom_emitter_t *self) {
    trace_value(trace_of(self));
    trace_put(trace_of(self), "null");
}

static const pom_emitter_ops_t trace_ops = {
    .map_begin = trace_map_begin,
    .map_end = trace_map_end,
    .list_begin = trace_list_begin,
    .list_end = trace_list_end,
    .key = trace_key,
    .name = pom_name_as_key,
    .text = trace_text,
    .plain = trace_text,
    .integer = trace_integer,
    .number = trace_number,
    .seconds = trace_seconds,
    .moment = trace_moment,
    .boolean = trace_boolean,
    .null = trace_null,
};

static void trace_init(trace_t *t) {
    t->emitter.ops = &trace_ops;
    t->open = t->values = t->deepest = 0;
    t->key_waits = t->broken = false;
    t->size = 0;
    t->text[0] = '\0';
}

/* One whole value, nothing open, no call out of place. */
static bool trace_is_whole(const trace_t *t) {
    return !t->broken && t->open == 0 && t->values == 1 && !t->key_waits;
}

#endif
