/*
 * The registry: pools and live list on the app side, trees and seals on the sampler side, one queue
 * between them.
 *
 *     app threads (one at a time)                     sampler thread
 *     begin: pool -> live list
 *     message, end --------------- events ----------> pending (oldest first) -> tree, seal -> sink
 *     pools <-------------- recycled actions, events --+
 *
 * Events are applied in the order they were queued. A sample applies what happened before it, then
 * itself, so a message separates the samples before it from those after it exactly. The one
 * exception: an end of the sample's own action waits until the sample is in (the end was queued
 * after the walk, or the sampler would not have seen the anchor hold).
 *
 * An action that goes on for long (a stream; of a kind that allows it) is sealed in parts, by the
 * sampler thread alone: at the first sample part_ns after the last cut, which is then exactly
 * between two samples. The app side is not asked and may be writing, so that a part tells only what
 * was there at the first attach, and what the samples say; the rest stands in the last record. No
 * samples, no part: nothing has grown either, but for messages, which have a cap.
 *
 * Memory: an action comes from a pool and goes back after its seal; an event likewise by size
 * class. Pools are bounded; what exceeds them is freed. Trees live in their profile's arena.
 *
 * What needs the action alone stands in closing.c, what needs the stack alone in places.c. The rest
 * is one file in spite of its length: the two sides are one protocol, and reading them apart hides
 * why it holds.
 */
#include "actions/registry.h"

#include <string.h>
#include <unistd.h>

#include "actions/closing.h"
#include "actions/places.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/prefetch.h"
#include "sampler/stages.h"

#define ARENA_CAP (8u << 20) /* max_nodes nodes and max_messages small messages */
/* Ended actions that wait for the sampler: a tick's worth at 100 000 a second. At HURRY_AT it is
 * woken early, so that a storm of tiny requests runs in pooled memory; WAITING_MAX bounds the
 * memory when the sampler gets no core. */
#define HURRY_AT    128
#define WAITING_MAX 1024
#define ARENA_SEAL                                                                                 \
    (32u                                                                                           \
     << 10) /* beyond it, for what the seal adds: a full tree must not cost the record its name */
/* 4.7 MiB, in a process that had so many open at once: a thousand slow requests on one event loop.
 * More are allocated and freed, at 4 000 instructions and the fresh pages of each. */
#define POOLED_ACTIONS_MAX 1024
#define EVENT_CLASSES      3
#define POOLED_EVENT_BYTES (1u << 20) /* a class: 1024 small events, 21 of the largest */
#define QUEUED_UNIT        1024 /* bytes of a small event: what POM_EVENTS_QUEUED_MAX counts */
#define EVENT_LARGEST      49152
#define WAKE_AT            1024 /* waiting units of one action that make the sampler come early */

#define SAMPLE_COST_NS (20 * POM_NS_PER_US) /* a guess, until the first window has ended */

static const uint32_t event_class_bytes[EVENT_CLASSES] = {QUEUED_UNIT, 4096, EVENT_LARGEST};

_Static_assert(sizeof(pom_event_t) + POM_EVENT_FRAMES_MAX * sizeof(pom_event_frame_t) +
                       POM_EVENT_FIELDS_MAX <=
                   EVENT_LARGEST,
               "the largest event fits the largest class");

/* Names of the source, newest first: a seal may be reading an older one. */
typedef struct source_s {
    struct source_s *older;
    char text[];
} source_t;

/* What one side writes for each action is a cache line apart from what the other side does (by
 * size, as malloc aligns to 16 bytes). */
struct pom_registry_s {
    /* constant after new */
    pom_sampler_client_t client;
    pom_code_table_t *codes;
    pom_block_pool_t *profiles;
    pom_profile_sink_t *sink;
    pom_cost_source_t cost_source;
    void *cost_context;
    pom_text_t engine;
    int32_t pid; /* a forked child makes a registry of its own */
    /* rarely written: [app], or the sampler at a window's end */
    source_t *sources;
    _Atomic(const char *) source; /* of the newest in sources */
    _Atomic(int) granularity;
    _Atomic(int64_t) part_ns;
    char apart_from_app[64];
    /* [app], under the interpreter's lock */
    pom_admission_t admission;
    pom_action_t *live;
    pom_action_t *free_actions;
    pom_event_t *free_events[EVENT_CLASSES];
    pom_queue_t events; /* taken by the sampler */
    _Atomic(int64_t) started, profiled, shed, dropped_events, in_request_ns;
    _Atomic(int64_t) taken_actions, taken_events[EVENT_CLASSES]; /* out of the pools */
    char apart_from_sampler[64];
    /* sampler thread */
    pom_queue_t recycled_actions; /* taken by app threads, likewise the next */
    pom_queue_t recycled_events[EVENT_CLASSES];
    _Atomic(int64_t) finished, lost, no_memory, unkept_events;
    int64_t shed_told;                                             /* by profiles */
    _Atomic(int64_t) pooled_actions, pooled_events[EVENT_CLASSES]; /* into the pools */
    pom_event_t *pending, *pending_last;
    pom_window_t window;
    pom_place_t places[POM_STACK_MAX]; /* of a message */
    pom__places_t sampled;             /* of the stack resolved last */
};

static void bump(_Atomic(int64_t) *counter, int64_t by) {
    // One writer a counter: a plain read-modify-write is enough.
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

static int64_t peek(const _Atomic(int64_t) *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* ---- app side: actions ----------------------------------------------------------------------- */

/* What every request writes into its action: from the link on, with the front of the text. */
#define HOT_FROM offsetof(pom_action_t, link)
#define HOT_TO   (offsetof(pom_action_t, text) + 192)

/* An action's lines are in the other side's cache, and fetching them one by one took 1.5 us on the
 * app side, 1 us on the sampler's. Asked for one action ahead they are there in time. */
static void prefetch_action(const pom_action_t *a) {
    pom_prefetch_write_all((const char *)a + HOT_FROM, HOT_TO - HOT_FROM);
}

static pom_action_t *take_action(pom_registry_t *r) {
    if (r->free_actions == NULL) {
        pom_link_t *link = pom_queue_take_all_unordered(&r->recycled_actions);
        r->free_actions = link == NULL ? NULL : POM_CONTAINER(link, pom_action_t, link);
    }
    pom_action_t *action = r->free_actions;
    if (action == NULL) {
        return pom_calloc(1, sizeof(*action));
    }
    pom_link_t *next = action->link.next;
    r->free_actions = next == NULL ? NULL : POM_CONTAINER(next, pom_action_t, link);
    if (r->free_actions != NULL) {
        prefetch_action(r->free_actions);
    }
    bump(&r->taken_actions, 1);
    return action;
}

/* Actions that have ended and are not sealed yet. */
static int64_t waiting(const pom_registry_t *r) {
    return peek(&r->profiled) - peek(&r->finished) - peek(&r->lost) -
           atomic_load_explicit(&r->admission.in_flight, memory_order_relaxed);
}

pom_action_t *pom_registry_begin(pom_registry_t *r, const pom_action_kind_t *kind) {
    bump(&r->started, 1);
    if (waiting(r) >= WAITING_MAX || !pom_admission_admit(&r->admission)) {
        bump(&r->shed, 1);
        return NULL;
    }
    pom_action_t *a = take_action(r);
    if (a == NULL) {
        pom_admission_leave(&r->admission);
        bump(&r->shed, 1);
        return NULL;
    }
    bump(&r->profiled, 1);
    a->kind = kind;
    a->end_event.kind = POM_EVENT_END;
    a->end_event.action = a;
    a->live_prev = NULL;
    a->live_next = r->live;
    if (r->live != NULL) {
        r->live->live_prev = a;
    }
    r->live = a;
    return a;
}

static void unlink_live(pom_registry_t *r, pom_action_t *a) {
    if (a->live_prev != NULL) {
        a->live_prev->live_next = a->live_next;
    } else {
        r->live = a->live_next;
    }
    if (a->live_next != NULL) {
        a->live_next->live_prev = a->live_prev;
    }
}

static void recycle_action(pom_registry_t *r, pom_action_t *a) {
    if (peek(&r->pooled_actions) - peek(&r->taken_actions) >= POOLED_ACTIONS_MAX) {
        pom_free(a);
        return;
    }
    bump(&r->pooled_actions, 1);
    // Here, where its lines are, and not at the next begin. The text is read only up to text_used.
    memset(a, 0, offsetof(pom_action_t, text));
    (void)pom_queue_push(&r->recycled_actions, &a->link);
}

bool pom_registry_end(pom_registry_t *r, pom_action_t *a) {
    unlink_live(r, a);
    pom_admission_leave(&r->admission);
    a->end_event.at_ns = a->end_ns;
    (void)pom_queue_push(&r->events, &a->end_event.link); // an early wake is decided by length
    return waiting(r) % HURRY_AT == 0;
}

int64_t pom_registry_abandon(pom_registry_t *r, int64_t now_ns) {
    int64_t count = 0;
    for (; r->live != NULL; count++) {
        r->live->outcome = POM_OUTCOME_LOST;
        r->live->end_ns = now_ns;
        (void)pom_registry_end(r, r->live); // the sampler is stopped next, which seals them all
    }
    return count;
}

void pom_registry_charge(pom_registry_t *r, pom_action_t *action, int64_t cost_ns) {
    bump(&r->in_request_ns, cost_ns);
    if (action != NULL) {
        action->cost_ns += cost_ns;
    }
}

/* ---- app side: events ------------------------------------------------------------------------ */

static pom_event_t *take_event(pom_registry_t *r, int size_class) {
    if (r->free_events[size_class] == NULL) {
        pom_link_t *link = pom_queue_take_all_unordered(&r->recycled_events[size_class]);
        r->free_events[size_class] = link == NULL ? NULL : POM_CONTAINER(link, pom_event_t, link);
    }
    pom_event_t *event = r->free_events[size_class];
    if (event == NULL) {
        return pom_alloc(event_class_bytes[size_class]);
    }
    pom_link_t *next = event->link.next;
    r->free_events[size_class] = next == NULL ? NULL : POM_CONTAINER(next, pom_event_t, link);
    bump(&r->taken_events[size_class], 1);
    return event;
}

static int32_t units_of(int size_class) {
    return (int32_t)(event_class_bytes[size_class] / QUEUED_UNIT);
}

void pom_registry_drop(pom_registry_t *r, pom_action_t *action) {
    action->dropped_events++;
    bump(&r->dropped_events, 1);
}

pom_event_t *pom_registry_event(pom_registry_t *r, pom_action_t *action, int32_t depth,
                                uint32_t fields_size) {
    pom_event_t *event = NULL;
    int size_class = 0;
    if (depth >= 0 && depth <= POM_EVENT_FRAMES_MAX && fields_size <= POM_EVENT_FIELDS_MAX) {
        size_t bytes =
            sizeof(pom_event_t) + (size_t)depth * sizeof(pom_event_frame_t) + fields_size;
        while (event_class_bytes[size_class] < bytes) {
            size_class++; // ends: the largest event fits the largest class
        }
        int32_t queued = atomic_load_explicit(&action->events_queued, memory_order_relaxed);
        if (queued + units_of(size_class) <= POM_EVENTS_QUEUED_MAX) {
            event = take_event(r, size_class);
        }
    }
    if (event == NULL) {
        pom_registry_drop(r, action);
        return NULL;
    }
    event->kind = POM_EVENT_MESSAGE;
    event->size_class = (uint8_t)size_class;
    event->action = action;
    event->depth = depth;
    event->fields_size = fields_size;
    return event;
}

pom_event_frame_t *pom_event_frames(pom_event_t *event) {
    return (pom_event_frame_t *)(void *)(event + 1);
}

void *pom_event_fields(pom_event_t *event) {
    return pom_event_frames(event) + event->depth;
}

bool pom_registry_post(pom_registry_t *r, pom_event_t *event) {
    int32_t units = units_of(event->size_class);
    int32_t queued =
        atomic_fetch_add_explicit(&event->action->events_queued, units, memory_order_relaxed);
    (void)pom_queue_push(&r->events, &event->link); // an early wake is decided by length
    return queued / WAKE_AT != (queued + units) / WAKE_AT;
}

/* ---- sampler side: trees --------------------------------------------------------------------- */

static pom_profile_t *profile_of(pom_registry_t *r, pom_action_t *a) {
    if (a->profile == NULL) {
        a->profile = pom_profile_new_in(r->profiles, ARENA_CAP);
        if (a->profile != NULL) {
            pom_tree_init(
                &a->profile->tree, &a->profile->arena,
                (pom_granularity_t)atomic_load_explicit(&r->granularity, memory_order_relaxed),
                pom_tree_limits_default(), pom__action_part_start(a));
        }
    }
    return a->profile;
}

static pom_status_t on_resolve(pom_sampler_client_t *self, const pom_stack_t *stack,
                               uint64_t epoch) {
    pom_registry_t *r = POM_CONTAINER(self, pom_registry_t, client);
    return pom__places_resolve(&r->sampled, stack, epoch);
}

static void apply_message(pom_registry_t *r, pom_event_t *event) {
    pom_action_t *a = event->action;
    pom_profile_t *profile = profile_of(r, a);
    if (profile != NULL) {
        const pom_event_frame_t *frames = pom_event_frames(event);
        int32_t depth = 0;
        for (int32_t i = event->depth - 1; i >= 0; i--) {
            if (!frames[i].code->internal) {
                r->places[depth].code = frames[i].code;
                r->places[depth].line = pom_code_line(frames[i].code, frames[i].lasti);
                depth++;
            }
        }
        pom_tree_message(&profile->tree, r->places, depth, event->at_ns, pom_event_fields(event),
                         event->fields_size);
    } else { // no memory; at the seal there may be some again, to say so
        a->unkept_events++;
        bump(&r->unkept_events, 1);
    }
    int size_class = event->size_class;
    int64_t pooled = peek(&r->pooled_events[size_class]) - peek(&r->taken_events[size_class]);
    atomic_fetch_sub_explicit(&a->events_queued, units_of(size_class), memory_order_relaxed);
    if (pooled >= POOLED_EVENT_BYTES / event_class_bytes[size_class]) {
        pom_free(event);
        return;
    }
    bump(&r->pooled_events[size_class], 1);
    (void)pom_queue_push(&r->recycled_events[event->size_class], &event->link);
}

/* Those that no profile has told of yet. What was refused has no record of its own, so the next one
 * made says it. */
static int64_t take_shed(pom_registry_t *r) {
    int64_t shed = peek(&r->shed);
    int64_t untold = shed - r->shed_told;
    r->shed_told = shed;
    return untold;
}

/* Hands the profile to the sink, complete but for what the app side says at the end. */
static void hand_over(pom_registry_t *r, pom_action_t *a, pom_outcome_t outcome, int64_t end_ns) {
    pom_profile_t *profile = a->profile;
    pom_arena_t *arena = &profile->arena;
    arena->cap = ARENA_CAP + ARENA_SEAL;
    const char *source = atomic_load_explicit(&r->source, memory_order_acquire);
    profile->source = pom__keep_text(arena, source, strlen(source));
    profile->engine = r->engine;
    profile->pid = r->pid;
    profile->end_ns = end_ns;
    profile->outcome = outcome;
    pom__action_close(a, profile);
    profile->period_ns = a->samples > 0 ? a->wanted_ns / a->samples : r->window.period_ns;
    profile->overhead_ppm = r->window.overhead_ppm;
    profile->overhead_cpu_ns += a->samples * r->window.sample_cost_ns;
    profile->shed = take_shed(r);
    a->profile = NULL;
    r->sink->put(r->sink, profile);
}

static void seal(pom_registry_t *r, pom_action_t *a) {
    pom_profile_t *profile = profile_of(r, a);
    bump(a->outcome == POM_OUTCOME_LOST ? &r->lost : &r->finished, 1);
    if (profile == NULL) {
        bump(&r->no_memory, 1);
    } else {
        profile->overhead_cpu_ns = a->cost_ns;
        profile->dropped_events = a->dropped_events + a->unkept_events;
        // Whoever ends it reads the clock while its detach is on the way to our core, so that the
        // last sample, and with it a cut, may lie some 100 ns behind the end.
        int64_t start_ns = pom__action_part_start(a);
        hand_over(r, a, a->outcome, a->end_ns > start_ns ? a->end_ns : start_ns);
    }
    recycle_action(r, a);
}

/* Just after a sample at this moment is in the tree. */
static void seal_part_if_due(pom_registry_t *r, pom_action_t *a, int64_t now_ns) {
    int64_t part_ns = atomic_load_explicit(&r->part_ns, memory_order_relaxed);
    if (part_ns == 0 || now_ns - pom__action_part_start(a) < part_ns ||
        a->kind->describe_open == NULL) {
        return;
    }
    pom_sampler_enter(POM_SAMPLER_SEAL);
    int64_t cpu_ns = a->profile->tree.root.total_cpu_ns;
    hand_over(r, a, POM_OUTCOME_OPEN, now_ns);
    pom_sampler_leave();
    a->parts++;
    a->part_start_ns = now_ns;
    a->parts_cpu_ns += cpu_ns;
    a->samples = a->wanted_ns = 0;
    memset(a->missed, 0, sizeof a->missed);
}

/* ---- sampler side: the client ---------------------------------------------------------------- */

static void fetch(pom_registry_t *r) {
    if (pom_queue_is_empty(&r->events)) {
        return;
    }
    pom_link_t *link = pom_queue_take_all(&r->events);
    if (link == NULL) {
        return;
    }
    pom_event_t *first = POM_CONTAINER(link, pom_event_t, link);
    if (r->pending == NULL) {
        r->pending = first;
    } else {
        r->pending_last->link.next = link;
    }
    while (link->next != NULL) {
        link = link->next;
    }
    r->pending_last = POM_CONTAINER(link, pom_event_t, link);
}

/* What the seal of the event's action needs, if it is an end. */
static void prefetch_end(const pom_event_t *event) {
    if (event != NULL && event->kind == POM_EVENT_END) {
        pom_prefetch_write_all(event->action, HOT_TO); // with what is this side's alone
    }
}

/* Applies what was queued up to a moment, in order; stops before the end of `keep`. */
static bool apply(pom_registry_t *r, int64_t until_ns, const pom_action_t *keep) {
    bool any = false;
    fetch(r);
    if (r->pending != NULL) {
        prefetch_end(r->pending);
        pom_profile_prefetch_next(r->profiles);
    }
    while (r->pending != NULL) {
        pom_event_t *event = r->pending;
        if (event->at_ns > until_ns || (event->kind == POM_EVENT_END && event->action == keep)) {
            break;
        }
        pom_link_t *next = event->link.next;
        r->pending = next == NULL ? NULL : POM_CONTAINER(next, pom_event_t, link);
        prefetch_end(r->pending);
        any = true;
        if (event->kind == POM_EVENT_END) {
            pom_sampler_enter(POM_SAMPLER_SEAL);
            seal(r, event->action);
            pom_sampler_leave();
        } else {
            apply_message(r, event);
        }
    }
    return any;
}

static bool on_tick(pom_sampler_client_t *self, int64_t now_ns) {
    pom_registry_t *r = POM_CONTAINER(self, pom_registry_t, client);
    (void)now_ns;
    bool any = apply(r, INT64_MAX, NULL);
    // After apply: an event queued before a code died has been applied by now, so what the table
    // removed before the last reap is referred to by nobody.
    pom_code_table_reap(r->codes);
    return any;
}

/* The thread's CPU time between two readings was not this action's. Returns the later one. */
static int64_t foreign_until(pom_action_t *a, int64_t from_ns, int64_t until_ns) {
    if (until_ns <= from_ns) {
        return from_ns;
    }
    a->foreign_cpu_ns += until_ns - from_ns;
    return until_ns;
}

/* Of stretches before this one, what no sample has stood for. A body of many chunks is attached for
 * each, and most are shorter than the time between two samples: the one that is met stands for
 * those that were not. */
static int64_t earlier(int64_t before_ns, int64_t told_ns) {
    return before_ns > told_ns ? before_ns - told_ns : 0;
}

/* CPU time that no sample can meet goes to where the sleeps were that it comes from: the place of
 * the last sample, or of this one. Where that is no longer known (a message has come in between) it
 * stays with the rest, for the next stack that runs. */
static void charge_unmet(pom_action_t *a, const pom_sample_t *sample, pom_weight_t *weight) {
    int64_t unmet_ns =
        sample->unmet_cpu_ns < a->pending_cpu_ns ? sample->unmet_cpu_ns : a->pending_cpu_ns;
    pom_weight_t before = {.cpu_ns = unmet_ns, .at_ns = a->last_sample_ns};
    if (unmet_ns <= 0) {
        return;
    }
    if (!sample->unmet_before) {
        weight->cpu_ns = unmet_ns;
        a->pending_cpu_ns -= unmet_ns;
    } else if (a->profile != NULL && pom_tree_add_again(&a->profile->tree, &before)) {
        a->pending_cpu_ns -= unmet_ns;
    }
}

/* CPU time of a thread that works for it. What is more than passed since a look met such a thread
 * with a CPU, or none that works for it, was for others. */
static int64_t add_helped(pom_action_t *a, const pom_sample_t *sample) {
    int64_t since_ns = a->helped_at_ns > 0 ? a->helped_at_ns : a->start_ns;
    int64_t most_ns = sample->at_ns - since_ns;
    int64_t helped_ns = sample->helped_cpu_ns < most_ns ? sample->helped_cpu_ns : most_ns;
    if (sample->helped_cpu_ns != 0) {
        a->helped_at_ns = sample->at_ns;
    }
    if (helped_ns <= 0) {
        return 0;
    }
    a->helped_cpu_ns += helped_ns;
    return helped_ns;
}

/* What a sample of an action stands for, and with it when the next one's begins. */
static pom_weight_t weigh(const pom_registry_t *r, const pom_anchor_t *anchor,
                          const pom_sample_t *sample) {
    pom_action_t *a = anchor->action;
    bool same_stretch = a->last_sample_ns >= anchor->since_ns;
    int64_t base_ns = same_stretch ? a->last_sample_ns : anchor->since_ns;
    int64_t base_cpu_ns = same_stretch ? a->last_cpu_ns : anchor->since_cpu_ns;
    if (!sample->parked && sample->since_ns > base_ns) {
        // Other actions of the thread had it in between (asyncio tasks, greenlets): that is their
        // time, or waiting.
        base_ns = sample->since_ns;
        base_cpu_ns = foreign_until(a, base_cpu_ns, sample->since_cpu_ns);
    }
    pom_weight_t weight = {.wall_ns = sample->at_ns - base_ns, .hits = 1, .at_ns = sample->at_ns};
    if (!same_stretch) {
        weight.wall_ns += earlier(anchor->before_ns, a->told_ns);
        a->pending_cpu_ns += earlier(anchor->before_cpu_ns, a->told_cpu_ns);
    }
    if (sample->parked) {
        base_cpu_ns = foreign_until(a, base_cpu_ns, sample->cpu_ns);
    }
    if (sample->cpu_ns > base_cpu_ns) {
        a->pending_cpu_ns += sample->cpu_ns - base_cpu_ns;
    }
    charge_unmet(a, sample, &weight);
    if (sample->running) {
        weight.cpu_ns = a->pending_cpu_ns;
        a->pending_cpu_ns = 0;
    }
    weight.cpu_ns += add_helped(a, sample);
    a->last_sample_ns = sample->at_ns;
    // A clock that could not be read says 0: the next delta must not count from there.
    a->last_cpu_ns = sample->cpu_ns > base_cpu_ns ? sample->cpu_ns : base_cpu_ns;
    a->told_ns = anchor->before_ns + sample->at_ns - anchor->since_ns;
    a->told_cpu_ns = anchor->before_cpu_ns + a->last_cpu_ns - anchor->since_cpu_ns;
    a->samples++;
    a->wanted_ns += r->window.period_ns;
    return weight;
}

static void on_sample(pom_sampler_client_t *self, const pom_anchor_t *anchor,
                      const pom_sample_t *sample, const pom_stack_t *stack) {
    pom_registry_t *r = POM_CONTAINER(self, pom_registry_t, client);
    pom_action_t *a = anchor->action;
    (void)apply(r, sample->at_ns, a);
    pom_profile_t *profile = profile_of(r, a);
    if (profile == NULL) {
        return; // no memory now; the seal counts it if that lasts
    }
    pom_weight_t weight = weigh(r, anchor, sample);
    if (stack->truncated) {
        profile->tree.cuts.depth++;
    }
    pom_tree_add(&profile->tree, r->sampled.stack, r->sampled.depth, &weight);
    seal_part_if_due(r, a, sample->at_ns);
}

static bool on_again(pom_sampler_client_t *self, const pom_anchor_t *anchor,
                     const pom_sample_t *sample) {
    pom_registry_t *r = POM_CONTAINER(self, pom_registry_t, client);
    pom_action_t *a = anchor->action;
    (void)apply(r, sample->at_ns, a);
    if (a->profile == NULL || a->profile->tree.last_leaf == NULL) {
        return false; // another thread's message has come in between
    }
    pom_weight_t weight = weigh(r, anchor, sample);
    bool added = pom_tree_add_again(&a->profile->tree, &weight);
    seal_part_if_due(r, a, sample->at_ns);
    return added;
}

static void on_missed(pom_sampler_client_t *self, const pom_anchor_t *anchor, pom_miss_t reason) {
    (void)self;
    // Only a raced walk can name an action that is over, and then its end waits in the queue:
    // nothing but this thread recycles it, and it has applied nothing since it looked at the slot
    // (or, for dead code, kept this end back).
    ((pom_action_t *)anchor->action)->missed[reason]++;
}

static bool on_idle(pom_sampler_client_t *self) {
    pom_registry_t *r = POM_CONTAINER(self, pom_registry_t, client);
    // While actions are shed there must be windows, or the one that lifts the limit never comes: a
    // server whose every request is refused shows nothing else to wake up for. Cheap windows lift
    // it within some 2 s.
    return r->pending == NULL && pom_queue_is_empty(&r->events) &&
           pom_admission_allowed(&r->admission) < 0;
}

static int64_t on_other_cost(pom_sampler_client_t *self) {
    pom_registry_t *r = POM_CONTAINER(self, pom_registry_t, client);
    int64_t cost = peek(&r->in_request_ns);
    return r->cost_source == NULL ? cost : cost + r->cost_source(r->cost_context);
}

static void on_window(pom_sampler_client_t *self, const pom_window_t *window) {
    pom_registry_t *r = POM_CONTAINER(self, pom_registry_t, client);
    int64_t sample_cost_ns = r->window.sample_cost_ns;
    pom_admission_cycle(&r->admission, window->helpless);
    r->window = *window;
    if (window->sample_cost_ns == 0) { // no samples: what they cost before stands
        r->window.sample_cost_ns = sample_cost_ns;
    }
}

pom_sampler_client_t *pom_registry_client(pom_registry_t *r) {
    return &r->client;
}

/* ---- life ------------------------------------------------------------------------------------ */

void pom_registry_configure(pom_registry_t *r, const pom_registry_options_t *options) {
    pom_admission_configure(&r->admission, options->max_actions_per_run);
    atomic_store_explicit(&r->granularity, (int)options->granularity, memory_order_relaxed);
    atomic_store_explicit(&r->part_ns, options->part_ns, memory_order_relaxed);
    // Kept names are used again, so that configuring in a loop costs nothing but their number.
    for (source_t *kept = r->sources; kept != NULL; kept = kept->older) {
        if (strcmp(kept->text, options->source) == 0) {
            atomic_store_explicit(&r->source, kept->text, memory_order_release);
            return;
        }
    }
    size_t size = strlen(options->source);
    source_t *source = pom_alloc(sizeof(*source) + size + 1);
    if (source == NULL) {
        return; // the old name stays
    }
    memcpy(source->text, options->source, size + 1);
    source->older = r->sources;
    r->sources = source;
    // Release: pairs with the acquire in seal.
    atomic_store_explicit(&r->source, source->text, memory_order_release);
}

pom_registry_t *pom_registry_new(const pom_registry_options_t *options, pom_code_table_t *codes,
                                 pom_profile_sink_t *sink) {
    pom_registry_t *r = pom_calloc(1, sizeof(*r));
    if (r == NULL) {
        return NULL;
    }
    r->profiles = pom_profile_pool_new();
    if (r->profiles == NULL) {
        pom_free(r);
        return NULL;
    }
    r->codes = r->sampled.codes = codes;
    r->sink = sink;
    r->client = (pom_sampler_client_t){.tick = on_tick,
                                       .resolve = on_resolve,
                                       .sample = on_sample,
                                       .again = on_again,
                                       .missed = on_missed,
                                       .idle = on_idle,
                                       .other_cost_ns = on_other_cost,
                                       .window = on_window};
    r->pid = (int32_t)getpid(); // here, as it is a system call
    r->engine = (pom_text_t){.data = options->engine, .size = (uint32_t)strlen(options->engine)};
    pom_admission_init(&r->admission, options->max_actions_per_run);
    r->window.period_ns = options->period_ns;
    r->window.sample_cost_ns = SAMPLE_COST_NS;
    atomic_init(&r->source, "");
    pom_registry_configure(r, options);
    return r;
}

void pom_registry_set_cost_source(pom_registry_t *r, pom_cost_source_t source, void *context) {
    r->cost_source = source;
    r->cost_context = context;
}

static void free_action_list(pom_link_t *link) {
    while (link != NULL) {
        pom_link_t *next = link->next;
        pom_action_t *a = POM_CONTAINER(link, pom_action_t, link);
        pom_profile_unref(a->profile);
        pom_free(a);
        link = next;
    }
}

static void free_event_list(pom_link_t *link) {
    while (link != NULL) {
        pom_link_t *next = link->next;
        pom_free(POM_CONTAINER(link, pom_event_t, link));
        link = next;
    }
}

void pom_registry_free(pom_registry_t *r) {
    if (r == NULL) {
        return;
    }
    (void)apply(r, INT64_MAX,
                NULL); // ends still queued are sealed, so that their actions are pooled
    while (r->live != NULL) {
        pom_action_t *a = r->live;
        r->live = a->live_next;
        pom_profile_unref(a->profile);
        pom_free(a);
    }
    free_action_list(r->free_actions == NULL ? NULL : &r->free_actions->link);
    free_action_list(pom_queue_take_all_unordered(&r->recycled_actions));
    for (int i = 0; i < EVENT_CLASSES; i++) {
        free_event_list(r->free_events[i] == NULL ? NULL : &r->free_events[i]->link);
        free_event_list(pom_queue_take_all_unordered(&r->recycled_events[i]));
    }
    while (r->sources != NULL) {
        source_t *older = r->sources->older;
        pom_free(r->sources);
        r->sources = older;
    }
    pom_block_pool_release(r->profiles);
    pom_free(r);
}

pom_registry_stats_t pom_registry_stats(const pom_registry_t *r) {
    return (pom_registry_stats_t){
        .started = peek(&r->started),
        .profiled = peek(&r->profiled),
        .shed = peek(&r->shed),
        .finished = peek(&r->finished),
        .lost = peek(&r->lost),
        .in_flight = atomic_load_explicit(&r->admission.in_flight, memory_order_relaxed),
        .allowed = pom_admission_allowed(&r->admission),
        .dropped_events = peek(&r->dropped_events) + peek(&r->unkept_events),
        .in_request_ns = peek(&r->in_request_ns),
        .no_memory = peek(&r->no_memory),
    };
}
