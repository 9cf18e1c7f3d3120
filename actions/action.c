/*
 * An action's text storage: filled by the app side, read by the seal.
 */
#include "actions/action.h"

#include <string.h>

pom_text_t pom_action_text(pom_action_t *action, const char *text, size_t size) {
    size_t room = POM_ACTION_TEXT_MAX - action->text_used;
    if (size > room) {
        action->text_cut++;
        size = room;
        // Back to a character boundary: 10xxxxxx bytes continue a UTF-8 character.
        while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80) {
            size--;
        }
    }
    char *at = action->text + action->text_used;
    if (size > 0) { // text may be NULL
        memcpy(at, text, size);
    }
    action->text_used += (uint32_t)size;
    return (pom_text_t){.data = at, .size = (uint32_t)size};
}
