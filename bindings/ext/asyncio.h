/*
 * The asyncio task that runs now, as a frame to anchor at.
 */
#ifndef POM_EXT_ASYNCIO_H
#define POM_EXT_ASYNCIO_H

#include <Python.h>

#include <stdint.h>

/* The frame of the running task's coroutine, in the identity of the engine in force; 0 = no task
 * runs here. Raises nothing. [app] */
uintptr_t pom_asyncio_task_frame(void);

/* -1 with an exception. */
int pom_asyncio_init(void);

#endif
