/*
 * What the application of a profiled ASGI request gets for the server's receive() and send().
 *
 *     pom_exchange_observe(request, &receive, &send);      both are ours now
 *     await send(message)      pom_asgi_sending(), the server's awaitable, pom_asgi_sent()
 *     await receive()          the server's awaitable, pom_asgi_received()
 *
 * Used by asgi.c, whose three functions it calls, and by parked.c. [app] with the GIL but for the
 * last two.
 */
#ifndef POM_EXT_EXCHANGE_H
#define POM_EXT_EXCHANGE_H

#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Puts callables that tell the request in the place of the server's two, both borrowed; owned
 * afterwards. False with an exception: no memory, nothing has changed. */
bool pom_exchange_observe(PyObject *request, PyObject **receive, PyObject **send);

/* What the server's function gave for one call, if `type` is the type of an object that stands for
 * that: it lies at this offset of the object; 0 = of another type. [sampler] */
size_t pom_exchange_inner(uintptr_t type);

/* Makes the types; -1 with an exception. */
int pom_exchange_init(void);

/* ---- what asgi.c makes of it: none of them raises, or touches an exception that is pending --- */

/* The request has not ended. */
bool pom_asgi_is_open(PyObject *request);
/* A message is handed to the server; any object. */
void pom_asgi_sending(PyObject *request, PyObject *message);
/* The server has taken it, or has raised what `broken` says is how a client that is gone shows. */
void pom_asgi_sent(PyObject *request, bool broken);
/* A message of the server, any object, awaited since then. */
void pom_asgi_received(PyObject *request, int64_t since_ns, PyObject *message);

#endif
