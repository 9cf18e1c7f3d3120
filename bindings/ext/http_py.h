/*
 * The Python type of HTTP destinations.
 */
#ifndef POM_EXT_HTTP_PY_H
#define POM_EXT_HTTP_PY_H

#include <Python.h>

#include "destinations/destination.h"

/* Adds HttpDestination to the module; -1 with an exception. */
int pom_http_py_init(PyObject *module);

/* The destination inside, borrowed; NULL when the object is of another type. */
pom_destination_t *pom_http_py_destination(PyObject *object);

#endif
