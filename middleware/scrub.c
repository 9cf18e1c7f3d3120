/*
 * Which keys are secret.
 *
 * Keys are brought into one plain form and searched for each word, by strstr: a dozen words and
 * keys of a dozen characters need no automaton, and who asks often (message fields) remembers the
 * verdict by key and list.
 *
 * The words are replaced as a whole and published by one pointer; older lists are kept (a seal on
 * the sampler thread may be reading one), each only once, as they change about once in the life of
 * a process.
 *
 * Values are not looked at: a secret in a value under an innocent key is not found, and a search
 * for what looks like one would mask half of all ids.
 */
#include "middleware/scrub.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "middleware/text.h"

/* Characters of a key in its plain form, the blanks around it included. */
#define PLAIN_MAX 128

typedef struct words_s {
    struct words_s *older;
    size_t count;
    char *word[];
} words_t;

static _Atomic(words_t *) words; // NULL: mask nothing. Release in set, acquire where it is read.
static words_t *all_words;       // every list there was, to be found by leak checkers

static bool is_same(const words_t *kept, const char *const *list, size_t count) {
    bool same = kept->count == count;
    for (size_t i = 0; same && i < count; i++) {
        same = strcmp(kept->word[i], list[i]) == 0;
    }
    return same;
}

pom_status_t pom_scrub_set(const char *const *list) {
    if (list == NULL) {
        atomic_store_explicit(&words, NULL, memory_order_release);
        return POM_OK;
    }
    size_t count = 0, bytes = 0;
    for (; list[count] != NULL; count++) {
        bytes += strlen(list[count]) + 1;
    }
    // Kept lists are used again, so that configuring in a loop costs nothing but their number.
    for (words_t *kept = all_words; kept != NULL; kept = kept->older) {
        if (is_same(kept, list, count)) {
            atomic_store_explicit(&words, kept, memory_order_release);
            return POM_OK;
        }
    }
    words_t *fresh = pom_alloc(sizeof *fresh + count * sizeof(char *) + bytes);
    if (fresh == NULL) {
        return POM_ENOMEM;
    }
    char *at = (char *)&fresh->word[count];
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(list[i]) + 1;
        memcpy(at, list[i], size);
        fresh->word[i] = at;
        at += size;
    }
    fresh->count = count;
    fresh->older = all_words;
    all_words = fresh;
    atomic_store_explicit(&words, fresh, memory_order_release);
    return POM_OK;
}

const void *pom_scrub_words(void) {
    return atomic_load_explicit(&words, memory_order_acquire);
}

static char plain_character(char c) {
    if (c >= 'A' && c <= 'Z') {
        return (char)(c - 'A' + 'a');
    }
    bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (unsigned char)c >= 0x80;
    return letter ? c : ' ';
}

/* The plain form, NUL-terminated. False: longer than any key people read. */
static bool plain_key(const char *key, size_t size, bool encoded, char out[PLAIN_MAX]) {
    size_t used = 0;
    out[used++] = ' ';
    for (size_t i = 0; i < size; i++) {
        if (used == PLAIN_MAX - 2) {
            return false;
        }
        char c = key[i];
        if (encoded && c == '%' && i + 2 < size && pom__hex_digit(key[i + 1]) >= 0 &&
            pom__hex_digit(key[i + 2]) >= 0) {
            c = (char)(pom__hex_digit(key[i + 1]) << 4 | pom__hex_digit(key[i + 2]));
            i += 2;
        }
        out[used++] = plain_character(c);
    }
    out[used++] = ' ';
    out[used] = '\0';
    return true;
}

static bool is_secret(const words_t *list, const char *key, size_t size, bool encoded) {
    char plain[PLAIN_MAX];
    if (list == NULL) {
        return false;
    }
    if (!plain_key(key, size, encoded, plain)) {
        return true;
    }
    for (size_t i = 0; i < list->count; i++) {
        if (strstr(plain, list->word[i]) != NULL) {
            return true;
        }
    }
    return false;
}

bool pom_scrub_is_secret(const char *key, size_t size) {
    return is_secret(atomic_load_explicit(&words, memory_order_acquire), key, size, false);
}

size_t pom_scrub_query(const char *query, size_t size, char *out, size_t room) {
    const words_t *list = atomic_load_explicit(&words, memory_order_acquire);
    size_t used = 0;
    for (size_t i = 0; i < size;) {
        size_t end = i, equals = size;
        while (end < size && query[end] != '&' && query[end] != ';') {
            if (query[end] == '=' && equals == size) {
                equals = end;
            }
            end++;
        }
        if (equals < end && is_secret(list, query + i, equals - i, true)) {
            used = pom__put(out, room, used, query + i, equals + 1 - i);
            used = pom__put(out, room, used, POM_SCRUBBED, POM_SCRUBBED_SIZE);
        } else {
            used = pom__put(out, room, used, query + i, end - i);
        }
        if (end < size) {
            used = pom__put(out, room, used, query + end, 1);
        }
        i = end + 1;
    }
    return used;
}
