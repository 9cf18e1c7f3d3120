/*
 * One request between the wrapper, the application and the body: what request_state.c, wsgi.c and
 * body.c share.
 *
 * A Python object, since it is also the start_response that the application gets, and the
 * application may keep that.
 */
#ifndef POM_EXT_REQUEST_STATE_H
#define POM_EXT_REQUEST_STATE_H

#include <Python.h>

#include "bindings/ext/works.h"
#include "middleware/request.h"

typedef struct pom_request_state_s {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    pom_work_t work;
    PyObject *start_response; /* the server's; NULL once the collector has been here */
    PyObject *environ; /* NULL after the end: servers take it badly when it outlives the request */
    PyObject *headers; /* of the last start_response: read only when the body ends early */
    PyObject *file_wrapper; /* the server's, while ours stands in its place; NULL else */
    PyObject *file_body;    /* what it made; NULL = nothing */
    int64_t left_ns;        /* when the application last returned to the server */
    int64_t wrote_ns;       /* of this stretch, in the server's write(): it waits for the client */
    PyObject *nested_route; /* of a nested one, for its end message; NULL = nobody said */
    int32_t status;         /* 0 = not said */
    int64_t bytes;          /* of body sent */
    bool head;              /* no body is sent, whatever the application returns */
    bool first_byte;        /* seen */
} pom_request_state_t;

/* A request begins, as an action of its own or inside another; NULL without an exception: the
 * application runs bare. */
pom_request_state_t *pom_request_begin(PyObject *env, PyObject *start_response);

/* Puts the server's wsgi.file_wrapper back, if ours stands in its place. */
void pom_request_restore_file_wrapper(pom_request_state_t *self);

/* The server made this body itself: it must get this very object. */
bool pom_request_is_file_body(pom_request_state_t *self, PyObject *result);

/* Makes the types; -1 with an exception. */
int pom_request_init(void);

/* The request's data; NULL while the action is nested or shed. */
pom_request_t *pom_request_data(pom_request_state_t *self);

/* Application code is about to run below the caller's frame; now_ns is this moment or the request's
 * start. */
void pom_request_enter(pom_request_state_t *self, int64_t now_ns);
/* It has returned: the application's own time since `since_ns`, without that in write(). */
int64_t pom_request_leave(pom_request_state_t *self, int64_t since_ns);

/* A chunk of the body was sent. */
void pom_request_count(pom_request_state_t *self, PyObject *chunk);

/* The end, once: when the application last returned (left_ns; 0 = now). An exception (borrowed,
 * NULL = none) says why it failed. Safe with an exception pending. */
void pom_request_finish(pom_request_state_t *self, pom_outcome_t outcome, PyObject *exception);

/* The end, by the exception that is pending; it stays pending. */
void pom_request_finish_raised(pom_request_state_t *self);

/* What the pending exception means for the request: a server giving up (GeneratorExit,
 * StopIteration) or a failure. */
pom_outcome_t pom_request_outcome_of(PyObject *type);

/* As much of the body was sent as its Content-Length promised; for HEAD that is nothing. */
bool pom_request_is_complete(pom_request_state_t *self);

/* Wraps what the application returned (stolen); never fails: what cannot be wrapped is returned as
 * it is. */
PyObject *pom_body_wrap(pom_request_state_t *self, PyObject *iterable);

#endif
