/*
 * How long a request waited before the application got it, by what a proxy wrote on it.
 *
 * Used by bindings/ext when a request begins:
 *
 *     r->queue_ns = pom_request_queue_ns(header, size, action->start_wall_ns);
 */
#ifndef POM_MIDDLEWARE_QUEUE_TIME_H
#define POM_MIDDLEWARE_QUEUE_TIME_H

#include <stddef.h>
#include <stdint.h>

/* From the moment in an X-Request-Start header to now, by the wall clock. 0: no moment, one to
 * come, or one too long ago to be believed. [any] */
int64_t pom_request_queue_ns(const char *text, size_t size, int64_t now_wall_ns);

#endif
