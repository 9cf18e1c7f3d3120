/*
 * Dict entries as they lie: in the order of their insertion, key and value side by side.
 *
 * That layout is CPython's own (Objects/dictobject.c), so it is checked at the start against a dict
 * of known content; where it is another one, all goes by PyDict_Next. Half of what a request asks
 * for is absent (headers that few clients send, what integrations say), and the hash table tells
 * that in thirty instructions, where the interpreter's look-up takes a hundred.
 *
 * A look-up in a dict with a key that is no str compares by that key's __eq__, which may take out
 * what was found before. So such dicts are searched entry by entry, str keys only. They are as rare
 * as they are slow.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/dict_places.h"

#include <internal/pycore_dict.h>

#include <stdbool.h>

static bool layout_known; // constant after init

/* The keys of a dict that is laid out as nearly all are: they are str, and it has them to itself.
 * NULL: another kind. */
static PyDictKeysObject *keys_of(PyObject *dict) {
    const PyDictObject *d = (PyDictObject *)dict;
    return layout_known && d->ma_values == NULL && DK_IS_UNICODE(d->ma_keys) ? d->ma_keys : NULL;
}

static bool is_at(PyDictKeysObject *keys, pom_dict_place_t place, PyObject *key) {
    return place < keys->dk_nentries && DK_UNICODE_ENTRIES(keys)[place].me_key == key;
}

/* Its hash table holds places, of one byte each up to this size, and says of most absent keys that
 * they are with its first one. */
#define SMALL_LOG2 7
#define ABSENT     (-1)
#define UNKNOWN    (-2) /* a key of the same hash is there, which may be the same; or many keys */

/* Of the order in which places are tried; the check at the start would tell another one. */
#define PERTURB_SHIFT 5

static Py_hash_t hash_of(PyObject *text) {
    return ((PyASCIIObject *)text)->hash; // there: it is a key, or interned
}

/* The key's place, or one of the two. */
static int find(PyDictKeysObject *keys, PyObject *key) {
    if (keys->dk_log2_size > SMALL_LOG2) {
        return UNKNOWN;
    }
    const PyDictUnicodeEntry *entries = DK_UNICODE_ENTRIES(keys);
    const int8_t *places = (const int8_t *)keys->dk_indices;
    size_t hash = (size_t)hash_of(key), mask = ((size_t)1 << keys->dk_log2_size) - 1;
    for (size_t at = hash & mask, more = hash; places[at] != DKIX_EMPTY;) {
        int place = places[at];
        if (place >= 0 && entries[place].me_key == key) {
            return place;
        }
        if (place >= 0 && hash_of(entries[place].me_key) == (Py_hash_t)hash) {
            return UNKNOWN;
        }
        more >>= PERTURB_SHIFT;
        at = (at * 5 + more + 1) & mask;
    }
    return ABSENT;
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

PyObject *pom_dict_peek(PyObject *dict, PyObject *key, pom_dict_place_t place) {
    PyDictKeysObject *keys = keys_of(dict);
    return keys != NULL && is_at(keys, place, key) ? DK_UNICODE_ENTRIES(keys)[place].me_value
                                                   : NULL;
}

PyObject *pom_dict_get(PyObject *dict, PyObject *key, pom_dict_place_t *place) {
    PyDictKeysObject *keys = keys_of(dict);
    if (keys == NULL) {
        return search(dict, key);
    }
    if (!is_at(keys, *place, key)) {
        int found = find(keys, key);
        if (found < 0) {
            return found == ABSENT ? NULL
                                   : PyDict_GetItemWithError(dict, key); // by str keys: no error
        }
        *place = (pom_dict_place_t)found;
    }
    return DK_UNICODE_ENTRIES(keys)[*place].me_value;
}

#define CHECKED 60 /* keys: their hash table has 128 places, of which many are taken twice */

/* Every other one is in the dict. */
static bool finds_all(PyObject *dict, PyObject *const *keys) {
    PyDictKeysObject *own = keys_of(dict);
    bool good = own != NULL && own->dk_nentries == CHECKED / 2;
    for (int i = 0; good && i < CHECKED; i++) {
        int found = find(own, keys[i]);
        good = i % 2 == 0 ? found == i / 2 && is_at(own, (pom_dict_place_t)found, keys[i]) &&
                                DK_UNICODE_ENTRIES(own)[found].me_value == keys[i]
                          : found == ABSENT;
    }
    return good;
}

/* Whether dicts lie as the headers said that the extension is built with. */
int pom_dict_init(void) {
    PyObject *keys[CHECKED] = {NULL}, *dict = PyDict_New();
    bool made = dict != NULL;
    for (int i = 0; made && i < CHECKED; i++) {
        char text[] = {(char)('0' + i / 10), (char)('0' + i % 10), '\0'};
        keys[i] = PyUnicode_InternFromString(text);
        made = keys[i] != NULL && PyObject_Hash(keys[i]) != -1 &&
               (i % 2 != 0 || PyDict_SetItem(dict, keys[i], keys[i]) == 0);
    }
    layout_known = true;
    layout_known = made && finds_all(dict, keys);
    for (int i = 0; i < CHECKED; i++) {
        Py_XDECREF(keys[i]);
    }
    Py_XDECREF(dict);
    return made ? 0 : -1;
}
