/*
 * Delivery: profiles as dicts to the user's callables, all on one Python daemon thread,
 * "Profilomatic Thread".
 *
 * Used by module.c and lifecycle.c. Each callable is a destination of the exporter (own queue, own
 * counters); the thread is there while there are callables and the engine is not stopped.
 *
 *     pom_delivery_init(module);
 *     pom_delivery_add(callable);            starts the thread
 *     ... exporter --> handoff --> thread --> callable(dict) ...
 *     pom_delivery_stop(deadline_ns);        after the exporter was stopped
 *     pom_delivery_ensure();                 after a stop or a fork
 */
#ifndef POM_EXT_DELIVERY_H
#define POM_EXT_DELIVERY_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

/* Once for each module object; -1 with an exception. */
int pom_delivery_init(PyObject *module);

/* Makes the callable a destination and starts the thread; one that is there already (identical,
 * or equal as bound methods are) stays alone. Runs the user's __eq__. -1 with an exception.
 * [app] with the GIL */
int pom_delivery_add(PyObject *callable);

/* Its profiles that wait are counted as removed. 0 also when it is not there; -1 with an
 * exception. Runs the user's __eq__. [app] with the GIL */
int pom_delivery_remove(PyObject *callable);

/* The calling thread is the delivery thread: it must not wait for itself. [any] */
bool pom_delivery_is_current(void);

/* CPU time of the delivery thread in this process so far, ended ones included; a system call.
 * [any], no GIL needed */
int64_t pom_delivery_cpu_ns(void);

/* What callables of ours hold back is handed on, on the delivery thread. False: the deadline came
 * first. [app], called with the GIL, which is free while it waits, and no lock a callable could
 * want */
bool pom_delivery_flush(int64_t deadline_ns);

/* Ends the thread once the callable it is in returns; true when it has ended before the
 * deadline. On that thread itself it does not wait, and says false. [app], called with the GIL
 * and no lock a callable could want; the GIL is free while it waits, and no Python runs */
bool pom_delivery_stop(int64_t deadline_ns);

/* After a stop: has the Thread object know that it ended. Runs Python, and with it signal handlers:
 * -1 with what one of them raised. [app] with the GIL and no lock of ours */
int pom_delivery_join(int64_t deadline_ns);

/* Forgets the parent's thread; calls no Python. [app, the child's only thread] */
void pom_delivery_after_fork_child(void);

/* Starts the thread if there are callables and none runs; -1 with an exception. [app] with the
 * GIL */
int pom_delivery_ensure(void);

#endif
