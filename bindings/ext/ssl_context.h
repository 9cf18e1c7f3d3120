/*
 * The SSL_CTX inside a context of Python's ssl module.
 *
 * Used by http_py.c, with the GIL.
 */
#ifndef POM_EXT_SSL_CONTEXT_H
#define POM_EXT_SSL_CONTEXT_H

#include <Python.h>

/* Borrowed from the context, for as long as that lives. NULL without an exception when it cannot be
 * used from here: `why` gets a clause for people. NULL with one: an attribute of the context
 * raised. */
void *pom_ssl_context_take(PyObject *context, char *why, size_t size);

/* _core.ssl_context_problem(context). */
int pom_ssl_context_init(PyObject *module);

#endif
