/*
 * A text of somebody else's in a message of ours: one line, whatever is in it, and no longer than
 * its room.
 *
 * Used where an option or a name is refused, which may be because of what it contains.
 *
 *     char room[64];
 *     printf("'%s' is no host name", pom_shown(text, room, sizeof room));
 */
#ifndef POM_BASE_SHOWN_H
#define POM_BASE_SHOWN_H

#include <stddef.h>

#define POM_SHOWN_MIN 8 /* of a room */

/* Writes the text to the room and returns that: what is no visible ASCII nor a blank as \xNN, a
 * backslash as two, and "..." for what does not fit. [any] */
const char *pom_shown(const char *text, char *room, size_t size);

#endif
