/*
 * Names and texts of the status codes, unfolded from the one list in status.h.
 *
 * A switch instead of a table: the codes are negative, and the compiler says so when the list and a
 * switch disagree. Unknown values come from casts of foreign integers; they get a name too, since
 * this is called on paths that already report a failure. Any thread; nothing here can fail.
 */
#include "base/status.h"

const char *pom_status_name(pom_status_t status) {
    switch (status) {
#define X(name, value, text)                                                                       \
    case POM_##name:                                                                               \
        return #name;
        POM_STATUS_LIST(X)
#undef X
    }
    return "UNKNOWN";
}

const char *pom_status_text(pom_status_t status) {
    switch (status) {
#define X(name, value, text)                                                                       \
    case POM_##name:                                                                               \
        return text;
        POM_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}
