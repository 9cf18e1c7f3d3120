/*
 * The record of a profile as a Python dict: what callable destinations receive.
 *
 * Used by delivery.c. The dict equals what json.loads() makes of the JSON form.
 */
#ifndef POM_EXT_DICT_EMITTER_H
#define POM_EXT_DICT_EMITTER_H

#include <Python.h>

#include "profiles/formats/client_report.h"
#include "profiles/profile.h"

/* A new dict that nobody else holds; NULL with an exception, which can only be MemoryError. The
 * delivery thread with the GIL; it runs no user code. O(nodes). */
PyObject *pom_py_record(const pom_profile_t *profile);

/* The same of a client report. */
PyObject *pom_py_client_report(const pom_client_report_t *report, pom_text_t source, int32_t pid);

#endif
