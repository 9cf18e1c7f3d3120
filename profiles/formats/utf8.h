/*
 * UTF-8 that may be broken: what every form of a record does with bytes that are no text.
 *
 * Private to profiles/formats. The forms must agree, so that a record says the same in each.
 */
#ifndef POM_PROFILES_FORMATS_UTF8_H
#define POM_PROFILES_FORMATS_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Decodes one character; *used is at least 1. Overlong forms, surrogates and what is beyond
 * U+10FFFF are bad UTF-8 as well. Bad bytes become one U+FFFD each. */
static inline uint32_t pom__utf8_decode(const unsigned char *text, size_t size, size_t *used) {
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    unsigned char lead = text[0];
    *used = 1;
    if (lead < 0x80) {
        return lead;
    }
    size_t more = lead >= 0xf0 && lead < 0xf8 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (more == 0 || lead >= 0xf8 || more >= size) {
        return 0xfffd;
    }
    uint32_t point = lead & (0x3fu >> more);
    for (size_t i = 1; i <= more; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0xfffd;
        }
        point = point << 6 | (text[i] & 0x3fu);
    }
    if (point < least[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
        return 0xfffd;
    }
    *used = more + 1;
    return point;
}

#endif
