/*
 * The route that the framework matched for a request. Used by request_state.c. [app] with the GIL
 */
#ifndef POM_EXT_ROUTE_H
#define POM_EXT_ROUTE_H

#include "bindings/ext/request_state.h"

/* Reads what is known by now and keeps it; the latest answer wins, no answer changes nothing. Never raises. */
void pom_route_read(pom_request_state_t *self);

#endif
