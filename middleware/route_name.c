/*
 * Route names.
 *
 * A route must be one of few, or reports, metrics and servers drown in rows: one for each id in
 * each URL. Three steps keep it so: the framework's own rule where it is known, a masked path where
 * it is not, and a cap on distinct names where the mask does not help (pages with names of their
 * own, somebody who guesses URLs).
 *
 * The cap keeps the first names, not the most frequent: a name that has a row keeps it for the life
 * of the process, and no name changes its meaning. Names are known by a 64-bit hash; two of a
 * thousand share one with a probability of 3e-14.
 */
#include "middleware/route_name.h"

#include <string.h>

#include "base/hash.h"
#include "base/id.h"
#include "middleware/text.h"

#define PLACES     (sizeof((pom_route_names_t *)NULL)->seen / sizeof(uint64_t))
#define DIGITS_RUN 5 /* "covid19" and "summer2024" are names, "order-12345" is an id */

_Static_assert(PLACES >= 2 * POM_ROUTES_MAX, "the table of route names stays half empty");

static bool looks_like_id(const char *s, size_t size) {
    size_t digits = 0, run = 0, longest = 0, marks = 0, hex = 0, at_signs = 0;
    for (size_t i = 0; i < size; i++) {
        bool digit = s[i] >= '0' && s[i] <= '9';
        run = digit ? run + 1 : 0;
        longest = run > longest ? run : longest;
        digits += digit;
        marks += s[i] == '-' || s[i] == '.' || s[i] == '_' || s[i] == ':' || s[i] == ',';
        at_signs += s[i] == '@';
        hex += pom__hex_digit(s[i]) >= 0;
    }
    pom_id_t id;
    return (digits > 0 && digits + marks == size) || (hex == size && size >= 8) ||
           longest >= DIGITS_RUN || at_signs > 0 || (digits > 0 && size >= 20) ||
           (size == POM_ID_TEXT && pom_id_parse(s, size, &id));
}

size_t pom_route_mask(const char *path, size_t size, char *out, size_t room) {
    size_t used = 0;
    if (size > POM_ROUTE_PATH_MAX) {
        size = POM_ROUTE_PATH_MAX;
    }
    for (size_t i = 0; i <= size;) {
        size_t end = i;
        while (end < size && path[end] != '/') {
            end++;
        }
        if (looks_like_id(path + i, end - i)) {
            used = pom__put(out, room, used, "<id>", 4);
        } else {
            used = pom__put(out, room, used, path + i, end - i);
        }
        if (end < size) {
            used = pom__put(out, room, used, "/", 1);
        }
        i = end + 1;
    }
    return used;
}

static void set(pom_route_name_t *name, const char *text, size_t size) {
    name->size = pom__put(name->text, sizeof name->text, 0, text, size);
}

void pom_route_name(pom_route_name_t *name, pom_text_t rule, pom_text_t script_name,
                    pom_text_t path_info, int32_t status) {
    if (rule.size > 0) {
        set(name, rule.data, rule.size);
        return;
    }
    if (status == 404) {
        set(name, "<not found>", 11);
        return;
    }
    char path[POM_ROUTE_PATH_MAX];
    size_t size = pom__put(path, sizeof path, 0, script_name.data, script_name.size);
    size = pom__put(path, sizeof path, size, path_info.data, path_info.size);
    if (size == 0) {
        size = pom__put(path, sizeof path, 0, "/", 1);
    }
    name->size = pom_route_mask(path, size, name->text, sizeof name->text);
}

static void add(_Atomic(int64_t) *counter) {
    int64_t now = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, now + 1, memory_order_relaxed);
}

void pom_route_names_keep(pom_route_names_t *names, pom_route_name_t *name) {
    uint64_t hash = pom_hash_bytes(name->text, name->size) | 1;
    size_t at = (size_t)(hash >> 32) % PLACES;
    while (names->seen[at] != 0 && names->seen[at] != hash) {
        at = (at + 1) % PLACES;
    }
    if (names->seen[at] == hash) {
        return;
    }
    if (atomic_load_explicit(&names->count, memory_order_relaxed) >= POM_ROUTES_MAX) {
        add(&names->others);
        set(name, "<other>", 7);
        return;
    }
    names->seen[at] = hash;
    add(&names->count);
}
