/*
 * An action: one bounded piece of work, from its begin on an app thread to its seal on the sampler
 * thread.
 *
 * Used by the registry, which owns the pool, and by the bindings, which fill what only they know.
 * Two kinds of field: what the app side writes (before and at the end), and what the sampler side
 * builds in between. Neither touches the other's; the queue of events is the only way across.
 *
 *     action = pom_registry_begin(registry, ...);     [app]
 *     pom_registry_post(registry, event);             [app]  a message
 *     pom_registry_end(registry, action);             [app]  not to be touched afterwards
 */
#ifndef POM_ACTIONS_ACTION_H
#define POM_ACTIONS_ACTION_H

#include "base/id.h"
#include "base/queue.h"
#include "profiles/profile.h"
#include "profiles/stack.h"
#include "profiles/value.h"

/* Text the app side keeps with an action (type, route, query ...). Beyond it texts are cut,
 * counted. A request line is at most 8 KiB on most servers; nearly all fit in a tenth of this. */
#define POM_ACTION_TEXT_MAX  4096
#define POM_ACTION_KIND_DATA 256

typedef struct pom_action_s pom_action_t;

/* What the kind of action adds to its record: run at the seal, on the sampler thread, so that the
 * app thread only copies. */
typedef struct pom_action_kind_s {
    const char *name; /* "wsgi", "code" */
    /* Writes the entries of the record's `action` map that come after type, kind, outcome and the
     * user's fields; NULL = none. */
    void (*describe)(const pom_action_t *action, pom_value_writer_t *writer);
    /* Likewise for a part of an action that goes on, while its app side writes: reads only what was
     * there at the first attach, as type and task id must be. NULL: this kind is never sealed in
     * parts. */
    void (*describe_open)(const pom_action_t *action, pom_value_writer_t *writer);
} pom_action_kind_t;

/* A frame of an event's stack: resolved to a code under the interpreter's lock, line found by the
 * sampler. */
typedef struct pom_event_frame_s {
    pom_code_t
        *code; /* borrowed from the code table; good until the sampler's reap after this event */
    int32_t lasti;
} pom_event_frame_t;

typedef enum pom_event_kind_e { POM_EVENT_MESSAGE, POM_EVENT_END } pom_event_kind_t;

typedef struct pom_event_s {
    pom_link_t link;
    pom_event_kind_t kind;
    uint8_t size_class; /* of the pool it goes back to */
    pom_action_t *action;
    int64_t at_ns;
    /* messages only: depth frames, leaf first, then fields_size bytes */
    int32_t depth;
    uint32_t fields_size;
} pom_event_t;

/* What crosses between two cores costs some 100 ns a cache line, so the lines that the app side
 * writes are few and in a row, and what the sampler side builds lies apart. In the pool everything
 * before `text` is zero. */
struct pom_action_s {
    /* sampler side */
    pom_profile_t *profile; /* being built; NULL before the first sample or event */
    int64_t last_sample_ns, last_cpu_ns;
    int64_t told_ns, told_cpu_ns; /* of the time attached, what lies before the last sample */
    /* of cpu_ns, what other actions of the thread used while this one waited */
    int64_t foreign_cpu_ns;
    /* what other threads used for it while it waited, by samples; and when the last of these was,
     * or one that says that there is no such thread */
    int64_t helped_cpu_ns, helped_at_ns;
    int32_t unkept_events;  /* messages that there was no memory for */
    int64_t pending_cpu_ns; /* CPU time seen while not running: goes to the next stack that runs */
    int64_t samples;        /* of this part, likewise missed */
    int64_t wanted_ns;      /* the periods that were wanted at each of them, added up */
    int64_t missed[POM_MISS_COUNT];
    int64_t part_start_ns; /* where the last part was cut; 0 = there was none */
    int64_t parts_cpu_ns;  /* told by the parts so far */
    int64_t parts;         /* sealed while it went on */
    /* written by the app side before the action is published */
    pom_link_t link; /* in the pool */
    const pom_action_kind_t *kind;
    pom_id_t task_id;
    uint64_t thread;
    int64_t start_ns, start_wall_ns;
    /* whoever ends it, for whoever finds it on the stack; never looked into below the bindings */
    void *holder;
    pom_text_t type; /* in text */
    char thread_name[64];
    /* written by the app side until the end event is queued */
    pom_event_t end_event;
    pom_action_t *live_prev, *live_next; /* the registry's list of live ones */
    int64_t attached_ns;                 /* wall time of the stretches that cpu_ns is of */
    /* thread CPU while attached, of all stretches; off by some microseconds, either way */
    int64_t cpu_ns;
    int64_t cost_ns; /* what begin, events and end took */
    int64_t end_ns;
    uint32_t text_used;
    uint32_t text_cut; /* pieces that did not fit; cut values, too */
    /* the kind's own data (a struct of the floor above), written by the app side */
    _Alignas(8) unsigned char kind_data[POM_ACTION_KIND_DATA];
    /* likewise, by few actions */
    pom_outcome_t outcome; /* 0 = succeeded */
    int32_t dropped_events;
    uint32_t cut_values;            /* of its fields and messages */
    _Atomic(int32_t) events_queued; /* KiB of events; app adds, sampler subtracts */
    uint32_t fields_size;
    const void *fields;           /* a value stream of the user's fields, in text; NULL = none */
    pom_text_t exception, reason; /* what left a failed one: its class and its text */
    pom_text_t task_text;         /* a task id from outside that is no UUID; empty: task_id is it */
    char text[POM_ACTION_TEXT_MAX];
};

/* Copies text into the action; what does not fit is cut at a character boundary and counted. Never
 * fails. [app] */
pom_text_t pom_action_text(pom_action_t *action, const char *text, size_t size);

#endif
