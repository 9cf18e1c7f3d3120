/*
 * Plain text: ASCII without control characters, quotes and backslashes, which JSON writes as it is.
 * Nearly all of what a profile holds is plain.
 *
 * Used by the codes, which remember it of theirs, and by the JSON writer, which looks at the rest.
 */
#ifndef POM_PROFILES_PLAIN_H
#define POM_PROFILES_PLAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool pom_is_plain_byte(unsigned char c) {
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

#define POM__EACH_BYTE(b) (UINT64_C(0x0101010101010101) * (b))

/* All eight bytes. A subtraction borrows into the high bit of the lowest byte that is less than
 * what is subtracted, and a byte that has the bit by itself is not plain anyway. The quote (0x22)
 * is made a neighbour of the control characters (0x20), and the backslash a zero. */
static inline bool pom_is_plain_word(uint64_t word) {
    uint64_t control_or_quote = (word ^ POM__EACH_BYTE(0x02)) - POM__EACH_BYTE(0x21);
    uint64_t backslash = (word ^ POM__EACH_BYTE('\\')) - POM__EACH_BYTE(1);
    return ((word | control_or_quote | backslash) & POM__EACH_BYTE(0x80)) == 0;
}

static inline bool pom_is_plain(const char *text, size_t size) {
    size_t at = 0;
    while (at < size && pom_is_plain_byte((unsigned char)text[at])) {
        at++;
    }
    return at == size;
}

#endif
