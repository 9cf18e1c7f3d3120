/*
 * Looking keys up in dicts that are filled in the same order again and again: an environ, a scope,
 * a message.
 *
 * Used by environ.c and scope.c. Who fills such a dict fills the next one in the same order with
 * the same keys, so a key is likeliest where it stood the last time: to look there costs a tenth of
 * a look-up, and one line of memory instead of three. Nobody's code runs, whatever else is in the
 * dict. [app] with the GIL
 *
 *     static pom_dict_place_t place;
 *     PyObject *value = pom_dict_get(dict, key, &place);
 */
#ifndef POM_EXT_DICT_PLACES_H
#define POM_EXT_DICT_PLACES_H

#include <Python.h>

#include <stdint.h>

/* Where a key stood last; 0 at first. */
typedef uint8_t pom_dict_place_t;

/* Borrowed; NULL, without an exception, when absent. dict is a dict, the key an interned str. */
PyObject *pom_dict_get(PyObject *dict, PyObject *key, pom_dict_place_t *place);

/* The same, but NULL too when it stands anywhere else. */
PyObject *pom_dict_peek(PyObject *dict, PyObject *key, pom_dict_place_t place);

/* -1 with an exception. */
int pom_dict_init(void);

#endif
