/*
 * An HTTP request as an action: what is kept of it, and what its record says.
 *
 * Used by bindings/ext, which fills a pom_request_t on the app thread by copying bytes only; all
 * interpretation (masking secrets, naming the route) happens in describe, on the sampler thread.
 *
 *     action = pom_registry_begin(registry, &pom_request_kind);
 *     request = pom_request_of(action);
 *     request->path_info = pom_action_text(action, path, size);
 *
 * Text is as it came over the wire: UTF-8 by convention, any bytes in practice. The emitters
 * survive that.
 */
#ifndef POM_MIDDLEWARE_REQUEST_H
#define POM_MIDDLEWARE_REQUEST_H

#include "actions/action.h"
#include "base/status.h"
#include "middleware/trace.h"

#define POM_REQUEST_QUERY_MAX 2048 /* bytes of a query in a record */

typedef struct pom_request_s {
    pom_trace_t trace; /* first, as in every kind's data */
    pom_text_t method, host, script_name, path_info, query;
    pom_text_t client; /* the peer's address; empty = not kept */
    pom_text_t route;  /* the mount point and the framework's rule; empty = nobody said */
    int32_t status;    /* 0 = start_response was not called */
    bool has_host;     /* else host is SERVER_NAME:SERVER_PORT */
    int64_t bytes;     /* of body sent, write() included */
    /* phases, one behind the other; 0 = none: the call, next() up to the first byte, next() after
     * it, the server between two calls, close() */
    int64_t queue_ns; /* before the request began, so not in its time */
    int64_t app_ns, first_byte_ns, body_ns, client_ns, close_ns;
} pom_request_t;

_Static_assert(sizeof(pom_request_t) <= POM_ACTION_KIND_DATA, "a request fits its action");
_Static_assert(offsetof(pom_request_t, trace) == 0, "trace.c finds it there");

extern const pom_action_kind_t pom_request_kind; /* "wsgi" */
extern const pom_action_kind_t pom_asgi_kind;    /* "asgi": the same record under its own name */

static inline pom_request_t *pom_request_of(pom_action_t *action) {
    return (pom_request_t *)(void *)action->kind_data;
}

/* What a request's headers ask its task id to be. A UUID in its plain form (dashed, lower case), or
 * a W3C traceparent's trace id, becomes *id; another token of at most 64 characters (letters,
 * digits, . _ : / @ -, a letter or digit first) is kept as it is, other spellings of a UUID too, as
 * *text (borrowed from uuid). False: nothing usable, the caller makes a new id. Either header may
 * be NULL. [app] */
bool pom_request_task_id(const char *uuid, size_t uuid_size, const char *traceparent,
                         size_t traceparent_size, pom_id_t *id, pom_text_t *text);

/* Distinct route names that records of this process have had, and how often one was "<other>".
 * [any] */
void pom_request_routes(int64_t *names, int64_t *others);

#endif
