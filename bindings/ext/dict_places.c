/*
 * Dict entries as they lie: in the order of their insertion, key and value side by side.
 *
 * That layout is CPython's own (Objects/dictobject.c), so it is checked at the start against a dict of known content; where it is
 * another one, all goes by PyDict_Next.
 *
 * A look-up in a dict with a key that is no str compares by that key's __eq__, which may take out what was found before. So such
 * dicts are searched entry by entry, str keys only. They are as rare as they are slow.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/dict_places.h"

#include <internal/pycore_dict.h>

#include <stdbool.h>

/* Stands for a key whose text is in the dict, but in another object: HTTP_HOST as servers make it anew for each request. To look for its
 * place would be in vain. */
#define NOWHERE UINT8_MAX

static bool layout_known; // constant after init

/* The entries of a dict that is laid out as nearly all are: its keys are str, and it has them to itself. NULL: another kind. */
static const PyDictUnicodeEntry *entries_of(PyObject *dict, Py_ssize_t *count) {
    const PyDictObject *d = (PyDictObject *)dict;
    if (!layout_known || d->ma_values != NULL || !DK_IS_UNICODE(d->ma_keys)) {
        return NULL;
    }
    *count = d->ma_keys->dk_nentries;
    return DK_UNICODE_ENTRIES(d->ma_keys);
}

/* One that only has str keys is not asked this way. */
static PyObject *search(PyObject *dict, PyObject *key) {
    PyObject *other, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict, &at, &other, &value)) {
        if (other == key || (PyUnicode_CheckExact(other) && PyUnicode_Compare(other, key) == 0)) {
            return value;
        }
    }
    return NULL;
}

static pom_dict_place_t place_of(const PyDictUnicodeEntry *entries, Py_ssize_t count,
                                 PyObject *key) {
    for (Py_ssize_t at = 0; at < count && at < NOWHERE; at++) {
        if (entries[at].me_key == key) {
            return (pom_dict_place_t)at;
        }
    }
    return NOWHERE;
}

PyObject *pom_dict_peek(PyObject *dict, PyObject *key, pom_dict_place_t place) {
    Py_ssize_t count;
    const PyDictUnicodeEntry *entries = entries_of(dict, &count);
    return entries != NULL && place < count && entries[place].me_key == key
               ? entries[place].me_value
               : NULL;
}

PyObject *pom_dict_get(PyObject *dict, PyObject *key, pom_dict_place_t *place) {
    Py_ssize_t count;
    const PyDictUnicodeEntry *entries = entries_of(dict, &count);
    if (entries == NULL) {
        return search(dict, key);
    }
    if (*place < count && entries[*place].me_key == key && entries[*place].me_value != NULL) {
        return entries[*place].me_value;
    }
    PyObject *value = PyDict_GetItemWithError(dict, key); // by str keys: raises nothing
    if (value != NULL && *place != NOWHERE) {
        *place = place_of(entries, count, key);
    }
    return value;
}

/* Whether dicts lie as the headers said that the extension is built with. */
int pom_dict_init(void) {
    PyObject *dict = Py_BuildValue("{s:s,s:s}", "first", "1st", "second", "2nd");
    PyObject *first = PyUnicode_InternFromString("first");
    PyObject *second = PyUnicode_InternFromString("second");
    if (dict == NULL || first == NULL || second == NULL) {
        Py_XDECREF(dict);
        Py_XDECREF(first);
        Py_XDECREF(second);
        return -1;
    }
    layout_known = true;
    Py_ssize_t count = 0;
    const PyDictUnicodeEntry *entries = entries_of(dict, &count);
    layout_known = entries != NULL && count == 2 && PyUnicode_CheckExact(entries[0].me_key) &&
                   entries[0].me_value == PyDict_GetItem(dict, first) &&
                   entries[1].me_value == PyDict_GetItem(dict, second);
    Py_DECREF(dict);
    Py_DECREF(first);
    Py_DECREF(second);
    return 0;
}
