/*
 * A work: an open action as its holder on the app side sees it.
 *
 * Used by wsgi.c, body.c and action.c, each of which embeds one in its Python object. A work is
 * outermost (it has an action, anchors, a tree), nested in an outermost one of the same context (a
 * pair of messages there), or shed. All [app] with the GIL; none raises, none waits, and what goes
 * wrong is counted.
 *
 *     pom_work_begin(&work, ...);        POM_WORK_NONE: nothing is recorded
 *     pom_work_attach(&work, anchor);    application code runs below the anchor now
 *     pom_work_detach(&work);
 *     pom_work_end(&work, ...);
 */
#ifndef POM_EXT_WORKS_H
#define POM_EXT_WORKS_H

#include <Python.h>

#include "actions/registry.h"
#include "bindings/ext/walker.h"

typedef enum pom_work_kind_e {
    POM_WORK_NONE, /* not begun, ended, or not recorded */
    POM_WORK_OUTERMOST,
    POM_WORK_NESTED,
    POM_WORK_SHED
} pom_work_kind_t;

typedef struct pom_work_s pom_work_t;

struct pom_work_s {
    pom_work_kind_t kind;
    uint32_t generation;  /* of the engine: another one has forgotten this work */
    pom_action_t *action; /* the outermost one, a nested one's too; NULL when shed */
    pom_slot_t *slot;     /* where it is attached; NULL = it is not */
    uint64_t slot_serial; /* of the slot's claim then */
    pom_id_t task_id;
    PyObject *task_uuid; /* owned str; NULL until asked for, or when it is task_id's plain form */
    pom_work_t *nested;  /* outermost: open nested ones, newest first */
    pom_work_t *newer, *older; /* nested: its place among them */
    uintptr_t attached_on;     /* which thread */
    int64_t attached_at_ns;
    int64_t attached_cpu_ns;
    uint64_t attached_as; /* the slot's count of attaches then, which names it */
    bool attached_alone;  /* else others were attached, so the CPU time is not its own */
    PyObject *watch;      /* owned weak reference to the generator it is anchored in; NULL = none */
    pom_work_t *watched_before, *watched_after; /* its place among those that have one */
};

/* What a message or a nested action's start says, before the user's own fields. */
typedef struct pom_work_head_s {
    PyObject *type;      /* action_type, borrowed */
    const char *status;  /* action_status */
    const char *outcome; /* NULL = the status says it */
    PyObject *exception; /* borrowed; NULL = none */
} pom_work_head_t;

/* Once, at the module's start; -1 with an exception. */
int pom_work_init(void);

/* Finds out what a new action here is: outermost (an action from the registry, whose kind's data
 * the caller fills), nested (the caller posts its start message) or shed. The engine must be
 * running. The id is new, or that of the work around it. */
void pom_work_begin(pom_work_t *work, const pom_action_kind_t *kind);

/* The same, but nested only where the calling stack says so, not where only the context does
 * (context.h). */
void pom_work_begin_on_stack(pom_work_t *work, const pom_action_kind_t *kind);

/* Gives it another task id; text may be NULL (then the id's plain form is it), else a new reference
 * is taken. */
void pom_work_set_task(pom_work_t *work, pom_id_t id, PyObject *text);

/* The frame of the code that called into C, as the engine in force identifies it; false: no Python
 * below. */
bool pom_work_caller(pom_own_frame_t *frame);

/* The frame at (or, past frames of C, above) a frame's `previous`, likewise. */
bool pom_work_frame(uintptr_t at, pom_own_frame_t *frame);

/* Application code is about to run below (or in) the frame, on this thread; now_ns is this moment
 * or the action's start. No-op unless outermost or shed. */
void pom_work_attach(pom_work_t *work, const pom_own_frame_t *frame, pom_anchor_kind_t kind,
                     int64_t now_ns);

/* The same in a block of the frame's, which may be left without an end, and its generator or
 * coroutine be freed: then nothing is the action's any more, as the next one may have the same
 * frame. */
void pom_work_attach_block(pom_work_t *work, const pom_own_frame_t *frame, int64_t now_ns);

/* The same below the frame that called into C, which is none of the application's: a server's. */
void pom_work_attach_caller(pom_work_t *work, int64_t now_ns);

/* It has stopped: the moment, no sample of it is later. Adds the stretch's CPU time. When it is not
 * attached it only tells the moment; a shed one's is 0. */
int64_t pom_work_detach(pom_work_t *work);

/* Bills what we did in its request (meter.h), to the action if there is one. */
void pom_work_charge(const pom_work_t *work, int64_t cost_ns);

/* The end, once; detaches it first. What is nested in an outermost one ends with it, and its end
 * message is counted as dropped. The outcome and the exception (borrowed, NULL = none) are for an
 * outermost one: a nested one's are said by its end message. An action's end_ns that is set is the
 * end: what the detach before this told. */
void pom_work_end(pom_work_t *work, pom_outcome_t outcome, PyObject *exception);

/* Class and text of the exception that left an action, or that stands behind its answer; str or
 * NULL, borrowed. Runs nobody's code. */
void pom_work_keep_exception(pom_action_t *action, PyObject *name, PyObject *text);

/* Posts a message into the tree of the work's action, with the stack of the caller. fields: a dict
 * or NULL, borrowed. A traceback (borrowed, NULL = none) makes it the stack where its exception was
 * raised. */
void pom_work_message(pom_work_t *work, const pom_work_head_t *head, PyObject *fields,
                      PyObject *traceback);

/* Code in files that begin with this text (borrowed; one at a time) is stripped from the leaf of
 * message stacks: a logging library's own frames say nothing. */
void pom_work_strip_leaf(PyObject *prefix);

/* Likewise the package's own code. Once, at the module's start. */
void pom_work_strip_own(PyObject *prefix);

/* The work still belongs to the engine in force. */
bool pom_work_is_live(const pom_work_t *work);

/* Its task id as a new reference to str, NULL with an exception. */
PyObject *pom_work_task_uuid(pom_work_t *work);

/* The innermost open work of the calling context, NULL = none; borrowed. */
pom_work_t *pom_work_current(void);

/* The engine runs, here and now, started again if this is a forked child's first action. One load
 * when it does. */
bool pom_work_engine_runs(void);

#endif
