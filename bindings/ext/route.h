/*
 * What a framework says of a request: the route that it matched, and the exception that it made an
 * error page of. Used by request_state.c. [app] with the GIL; nothing here raises.
 */
#ifndef POM_EXT_ROUTE_H
#define POM_EXT_ROUTE_H

#include "bindings/ext/request_state.h"

/* Reads the route that is known by now and keeps it; the latest answer wins, no answer changes
 * nothing. At the end frameworks are asked only when none has answered before: most have forgotten
 * by then. */
void pom_route_read(pom_request_state_t *self, bool at_end);

/* start_response got an exc_info: its exception is what the page that follows is about. */
void pom_route_link(pom_request_state_t *self, PyObject *exc_info);

/* At the end of a request that no exception left: what was linked goes into its record. */
void pom_route_keep_link(pom_request_state_t *self);

#endif
