/*
 * Python's text as bounded UTF-8, and the text of what is no text: any object, an exception.
 *
 * Used by values.c for fields and keys, and by whoever names an exception in a record.
 *
 *     PyObject *text = pom_py_text_of(value);            str(), or what stands for it
 *     pom_py_write_text(&writer, text);
 *
 * Nothing here raises. The twin of bindings/profilomatic/_values.py. All [app] with the GIL.
 */
#ifndef POM_EXT_TEXT_H
#define POM_EXT_TEXT_H

#include <Python.h>

#include "profiles/value.h"

#define POM_PY_EXCEPTION_MAX 1024 /* characters of an exception's name or text */

#define POM_PY_ELLIPSIS "\xe2\x80\xa6" /* U+2026 */

/* Room for so many characters and an ellipsis. */
#define POM_PY_UTF8_BYTES(characters) (4 * (characters) + sizeof POM_PY_ELLIPSIS)

/* Writes a str; lone surrogates become '?'. A pending exception stays as it is. */
void pom_py_write_text(pom_value_writer_t *w, PyObject *str);

/* UTF-8 of the first `most` characters; returns the bytes, -1: it cannot be read. A pending
 * exception stays as it is. */
Py_ssize_t pom_py_text_start(PyObject *str, Py_ssize_t most, char *out);

/* The same, with an ellipsis behind them when there are more (*cut). */
Py_ssize_t pom_py_text_shown(PyObject *str, Py_ssize_t most, char *out, bool *cut);

/* The whole in UTF-8, kept with the str; NULL, without an exception: it has a lone surrogate, or
 * there is no memory. Runs nobody's code. A pending exception stays as it is. */
const char *pom_py_utf8(PyObject *str, Py_ssize_t *size);

/* str() of anything, or what stands for a value whose class lets nothing be known of it. May run
 * the user's code. A new reference; NULL, without an exception set, for no memory. */
PyObject *pom_py_text_of(PyObject *value);

/* An exception's class, with its module unless it is a builtin, and its str(). New references to
 * str, NULL (without an exception set) for no memory. A pending exception stays as it is. */
PyObject *pom_py_exception_name(PyObject *exc);
PyObject *pom_py_exception_text(PyObject *exc);

#endif
