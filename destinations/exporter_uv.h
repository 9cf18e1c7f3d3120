/*
 * A libuv loop in a process whose descriptors are somebody else's.
 *
 * Used by exporter_thread.c.
 *
 *     uv_loop_t loop;
 *     int error = pom__uv_loop_init(&loop);         in place of uv_loop_init()
 */
#ifndef POM_DESTINATIONS_EXPORTER_UV_H
#define POM_DESTINATIONS_EXPORTER_UV_H

#include <uv.h>

/* As uv_loop_init(), which ends the process where this returns UV_EMFILE. Not from two threads at
 * once, nor during a fork. [any] */
int pom__uv_loop_init(uv_loop_t *loop);

#endif
