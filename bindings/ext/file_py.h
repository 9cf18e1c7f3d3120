/*
 * The Python type of file destinations.
 */
#ifndef POM_EXT_FILE_PY_H
#define POM_EXT_FILE_PY_H

#include <Python.h>

#include "destinations/destination.h"

/* Adds FileDestination to the module; -1 with an exception. */
int pom_file_py_init(PyObject *module);

/* The destination inside, borrowed; NULL when the object is of another type. */
pom_destination_t *pom_file_py_destination(PyObject *object);

#endif
