/*
 * Which keys are secret: query parameters and message fields lose the values of those.
 *
 * Used by request.c for query strings, at the seal, and by bindings/ext for fields, at the call;
 * configure(scrub=...) sets the words.
 *
 *     pom_scrub_set(words);                           once, or whenever the option changes
 *     pom_scrub_is_secret("api_key", 7);              true with the word "key "
 *     used = pom_scrub_query(query, size, out, room); "a=1&api_key=[scrubbed]"
 *
 * A key is compared as people read it: lower case, every character that is neither letter nor digit
 * a blank, and a blank before and behind it. A word is secret wherever it stands in that, so "auth
 * " finds basic-auth and not author, " pin " finds pin and not spinner, "password" finds
 * user[password2].
 */
#ifndef POM_MIDDLEWARE_SCRUB_H
#define POM_MIDDLEWARE_SCRUB_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* What stands in place of a value. */
#define POM_SCRUBBED      "[scrubbed]"
#define POM_SCRUBBED_SIZE (sizeof POM_SCRUBBED - 1)

/* The words, in the form above; NULL-terminated; NULL masks nothing. Copied. POM_ENOMEM: the words
 * in force stay. [app], serialised by the interpreter's lock */
pom_status_t pom_scrub_set(const char *const *words);

/* What identifies the words in force, for those who remember verdicts; NULL = nothing is masked.
 * [any] */
const void *pom_scrub_words(void);

/* A key's verdict. One longer than any key people read is secret: the word may stand behind the
 * cut. [any] */
bool pom_scrub_is_secret(const char *key, size_t size);

/* The query with the values of secret keys masked; keys are percent-decoded for the look only.
 * Returns the bytes written, at most room. [any] */
size_t pom_scrub_query(const char *query, size_t size, char *out, size_t room);

#endif
