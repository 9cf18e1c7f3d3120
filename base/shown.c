/*
 * Bytes above ASCII are escaped too: a cut in the middle of a character would be no UTF-8 any more,
 * and C1 controls are written with them. Any thread.
 */
#include "base/shown.h"

#include <stdio.h>
#include <string.h>

#define ELLIPSIS "..."

/* At most 4 bytes and a NUL. */
static void escape(char c, char out[5]) {
    if (c == '\\') {
        memcpy(out, "\\\\", 3);
    } else if (c >= ' ' && c < 127) {
        out[0] = c;
        out[1] = '\0';
    } else {
        (void)snprintf(out, 5, "\\x%02x", (unsigned)(unsigned char)c);
    }
}

const char *pom_shown(const char *text, char *room, size_t size) {
    char piece[5];
    size_t used = 0, fits = 0; /* up to where an ellipsis has room behind it */
    for (; *text != '\0'; text++) {
        escape(*text, piece);
        size_t more = strlen(piece);
        if (used + more >= size) {
            memcpy(room + fits, ELLIPSIS, sizeof ELLIPSIS);
            return room;
        }
        memcpy(room + used, piece, more);
        used += more;
        fits = used + sizeof ELLIPSIS <= size ? used : fits;
    }
    room[used] = '\0';
    return room;
}
