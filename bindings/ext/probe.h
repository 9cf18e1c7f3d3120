/*
 * The walker's probe: many walks of one thread in a row, for bench/walker and the stress tests.
 */
#ifndef POM_EXT_PROBE_H
#define POM_EXT_PROBE_H

#include <Python.h>

/* Adds _probe_walks(count, gap_ns) to the module; -1 with an exception. */
int pom_probe_init(PyObject *module);

#endif
