/*
 * The registry: every live action, from begin to seal.
 *
 * Used by the bindings on app threads (begin, message, end), and by the sampler thread, whose
 * client it is: events are applied in time order between samples, ended actions are sealed into
 * profiles and handed to the sink.
 *
 *     registry = pom_registry_new(&options, codes, sink);
 *     action = pom_registry_begin(registry, &kind);            NULL: shed
 *     event = pom_registry_event(registry, action, 12, 200);   NULL: dropped, counted
 *     pom_registry_post(registry, event);
 *     pom_registry_end(registry, action);
 *
 * [app] functions are kept apart by the interpreter's lock; none waits, and none allocates in
 * steady state. After begin, end and post the caller notifies the sampler.
 */
#ifndef POM_ACTIONS_REGISTRY_H
#define POM_ACTIONS_REGISTRY_H

#include "actions/action.h"
#include "actions/admission.h"
#include "profiles/code_table.h"
#include "sampler/sampler.h"

typedef struct pom_registry_s pom_registry_t;

/* Where finished profiles go. */
typedef struct pom_profile_sink_s pom_profile_sink_t;
struct pom_profile_sink_s {
    /* Takes ownership; must not block. [sampler] */
    void (*put)(pom_profile_sink_t *self, pom_profile_t *profile);
};

typedef struct pom_registry_options_s {
    pom_granularity_t granularity;
    int64_t max_actions_per_run; /* 0 = unlimited */
    int64_t part_ns;             /* an action older than this is sealed in parts; 0 = never */
    int64_t period_ns;           /* what records say before the first window has ended */
    const char *source;          /* borrowed for the call only */
    const char *engine;          /* a constant: profiles, which outlive the registry, point to it */
} pom_registry_options_t;

typedef struct pom_registry_stats_s {
    int64_t started, profiled, shed, finished, lost;
    int64_t in_flight, allowed; /* allowed: -1 = unlimited */
    int64_t dropped_events;
    int64_t in_request_ns; /* begin, events and end on app threads */
    int64_t no_memory;     /* actions whose profile could not be built */
} pom_registry_stats_t;

/* A message keeps as much of its stack as a sample, or it could not stand in the same tree. */
#define POM_EVENT_FRAMES_MAX POM_STACK_MAX
#define POM_EVENT_FIELDS_MAX 8192
/* Events one action may have waiting: a tick's worth (10 ms) of a loop that logs every 2 us.
 * Counted in KiB, so that large ones (4 and 48) do not make it more than 8 MiB. */
#define POM_EVENTS_QUEUED_MAX 8192

/* Returns owned, NULL for no memory. Borrows codes and sink for its life. [any] */
pom_registry_t *pom_registry_new(const pom_registry_options_t *options, pom_code_table_t *codes,
                                 pom_profile_sink_t *sink);

/* Frees it with all pooled and live actions. No thread may use it any more. [any] */
void pom_registry_free(pom_registry_t *registry);

/* New options for actions that begin from now on. [app] */
void pom_registry_configure(pom_registry_t *registry, const pom_registry_options_t *options);

/* The sampler's view of it. */
pom_sampler_client_t *pom_registry_client(pom_registry_t *registry);

/* A pooled action with id, times and thread left to the caller; NULL: shed or no memory, both
 * counted. [app] */
pom_action_t *pom_registry_begin(pom_registry_t *registry, const pom_action_kind_t *kind);

/* Queues the end: outcome and cpu_ns are set in the action, end_ns after its last detach. The
 * caller must not touch the action afterwards. True: many are waiting, wake the sampler. [app] */
bool pom_registry_end(pom_registry_t *registry, pom_action_t *action);

/* An event with room for depth frames and fields_size bytes; NULL, counted as dropped: the action
 * has too many waiting, it is larger than the caps above, or there is no memory. [app] */
pom_event_t *pom_registry_event(pom_registry_t *registry, pom_action_t *action, int32_t depth,
                                uint32_t fields_size);
pom_event_frame_t *pom_event_frames(pom_event_t *event);
void *pom_event_fields(pom_event_t *event);

/* A message that cannot come: counted as one that was dropped. Before the action's end. [app] */
void pom_registry_drop(pom_registry_t *registry, pom_action_t *action);

/* Queues it. fields_size may have been lowered. True: the queue is long, wake the sampler. [app] */
bool pom_registry_post(pom_registry_t *registry, pom_event_t *event);

/* Ends every live action as lost; returns how many. Their holders must not touch them afterwards.
 * [app] */
int64_t pom_registry_abandon(pom_registry_t *registry, int64_t now_ns);

/* Adds to the in-request bill. [app] */
void pom_registry_charge(pom_registry_t *registry, pom_action_t *action, int64_t cost_ns);

/* Loop and delivery threads' CPU so far, set by the engine at each window. [sampler] */
typedef int64_t (*pom_cost_source_t)(void *context);
void pom_registry_set_cost_source(pom_registry_t *registry, pom_cost_source_t source,
                                  void *context);

pom_registry_stats_t pom_registry_stats(const pom_registry_t *registry); /* [any] */

#endif
