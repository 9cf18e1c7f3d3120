/*
 * Bytes into a room that is given: what scrub.c and route_name.c share.
 */
#ifndef POM_MIDDLEWARE_TEXT_H
#define POM_MIDDLEWARE_TEXT_H

#include <stddef.h>
#include <string.h>

/* Appends at `used` as much as there is room for; returns what is used then. text may be NULL when
 * size is 0. */
static inline size_t pom__put(char *out, size_t room, size_t used, const char *text, size_t size) {
    if (size > room - used) {
        size = room - used;
    }
    if (size > 0) {
        memcpy(out + used, text, size);
    }
    return used + size;
}

/* Its value; -1: none. */
static inline int pom__hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

#endif
