/*
 * Starting and stopping the engine from Python.
 *
 * Used by module.c for the backend's functions; a forked child's first action starts it anew by
 * pom_core_restart() (core.h).
 *
 *     pom_lifecycle_init();         once a process, before anything else
 *     pom_lifecycle_start();        while it runs: nothing
 *     pom_lifecycle_flush(2.0);
 *     pom_lifecycle_stop(2.0);      may be started again
 *
 * All [app] with the GIL, which is released to wait. Where an int is returned, -1 is an exception.
 */
#ifndef POM_EXT_LIFECYCLE_H
#define POM_EXT_LIFECYCLE_H

/* Joins the engine with its parts of this folder. A second time: nothing. */
int pom_lifecycle_init(void);

/* Also sees to it that the interpreter's end is a stop. Nothing once that has come. */
int pom_lifecycle_start(void);

/* 1: everything was delivered and all threads have ended. 0: not within so many seconds, another
 * stop is at it, or the caller is the delivery thread, which would wait for itself. */
int pom_lifecycle_stop(double timeout);

/* 1: every queue was empty. 0 likewise. */
int pom_lifecycle_flush(double timeout);

#endif
