/*
 * Python objects as a value stream.
 *
 * Used by works.c and action.c for what the user passed. The user's own code may run (str() of an
 * object): it may release the GIL, change the containers being read, or raise. Nothing here raises,
 * and an exception that is pending stays as it is.
 *
 *     pom_value_map_begin(&writer);
 *     pom_py_write_entries(&writer, fields);
 *     pom_value_map_end(&writer);
 *
 * The twin of bindings/profilomatic/_values.py: the same input gives the same record. All [app]
 * with the GIL.
 */
#ifndef POM_EXT_VALUES_H
#define POM_EXT_VALUES_H

#include <Python.h>

#include "bindings/ext/text.h"
#include "profiles/value.h"

#define POM_PY_BYTES_MAX 4096 /* bytes of a bytes object; of a text, POM_VALUE_TEXT_MAX */
#define POM_PY_KEY_MAX   256  /* characters */
#define POM_PY_DEPTH_MAX 8    /* nesting of fields; their record nests too */
#define POM_PY_ITEMS_MAX 1000 /* entries of all containers of one call together */

/* Writes the entries of a dict into the map that is open; anything else has none. */
void pom_py_write_entries(pom_value_writer_t *w, PyObject *mapping);

#endif
