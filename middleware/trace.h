/*
 * W3C trace context of an action: the span that called it, its own span, and the flags that go on.
 *
 * Used by request.c and bindings/ext. It lies at the beginning of an action's kind data, whatever
 * the kind, zeroed at the begin; the app side writes it, the seal reads it.
 *
 *     pom_trace_keep(action, traceparent, size);     a request that came with one
 *     span = pom_trace_span(action);                 a request that goes out with one
 *     pom_trace_describe(action, &writer);           the record's "parent_span" and "span", if any
 */
#ifndef POM_MIDDLEWARE_TRACE_H
#define POM_MIDDLEWARE_TRACE_H

#include "actions/action.h"

#define POM_TRACE_SAMPLED                                                                          \
    1U /* the caller may have recorded it; what goes out of a new trace says so */

typedef struct pom_trace_s {
    uint64_t parent_span; /* 0 = none */
    uint64_t span;        /* 0 = nobody has asked for it, so nobody knows it */
    uint8_t flags;        /* as they came; only with a parent span */
} pom_trace_t;

/* The trace id and what comes with it; false for anything but a valid traceparent, which may be
 * NULL. [any] */
bool pom_trace_parse(const char *traceparent, size_t size, pom_id_t *trace_id, pom_trace_t *trace);

/* Keeps parent span and flags of a traceparent whose trace is the action's task; another's says
 * nothing about it. [app] */
void pom_trace_keep(pom_action_t *action, const char *traceparent, size_t size);

/* The action's own span id, made at the first call; never 0. [app] */
uint64_t pom_trace_span(pom_action_t *action);

/* The flags to send on with it. [app] */
unsigned pom_trace_flags(pom_action_t *action);

/* A kind's `describe`, or part of one. [sampler] */
void pom_trace_describe(const pom_action_t *action, pom_value_writer_t *writer);

#endif
