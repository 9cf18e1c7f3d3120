/*
 * A registry with everything around it faked, for the tests of this folder: a sink that keeps what
 * it gets, and short ways to begin, sample and end. Times are plain numbers.
 */
#ifndef POM_TESTS_UNIT_ACTIONS_RIG_H
#define POM_TESTS_UNIT_ACTIONS_RIG_H

#include "actions/registry.h"
#include "base/alloc.h"
#include "tests/unit/sampler/fakes.h"

#define RIG_KEPT 64

typedef struct rig_s rig_t;

struct rig_s {
    pom_profile_sink_t sink; /* first: the sink finds the rig by it */
    pom_code_table_t *codes;
    pom_registry_t *registry;
    pom_sampler_client_t *client;
    void (*on_put)(rig_t *self);
    bool count_only; /* profiles are released at once */
    int64_t count;
    pom_profile_t *kept[RIG_KEPT];
};

static inline void rig_put(pom_profile_sink_t *sink, pom_profile_t *profile) {
    rig_t *rig = (rig_t *)(void *)sink;
    if (rig->count_only || rig->count >= RIG_KEPT) {
        pom_profile_unref(profile);
    } else {
        rig->kept[rig->count] = profile;
    }
    rig->count++;
    if (rig->on_put != NULL) {
        rig->on_put(rig);
    }
}

/* False without memory; rig_fini is right in both cases. */
static inline bool rig_try_with(rig_t *rig, const pom_registry_options_t *options,
                                pom_code_resolver_t *resolver) {
    memset(rig, 0, sizeof *rig);
    rig->sink.put = rig_put;
    rig->codes = pom_code_table_new(4096, resolver);
    if (rig->codes != NULL) {
        rig->registry = pom_registry_new(options, rig->codes, &rig->sink);
    }
    if (rig->registry == NULL) {
        return false;
    }
    rig->client = pom_registry_client(rig->registry);
    return true;
}

static inline bool rig_try(rig_t *rig, const pom_registry_options_t *options) {
    return rig_try_with(rig, options, &fake_resolver);
}

static inline pom_registry_options_t rig_options(void) {
    return (pom_registry_options_t){.granularity = POM_BY_LINE,
                                    .max_actions_per_run = 10,
                                    .source = "web-1",
                                    .engine = "native"};
}

static inline void rig_init(rig_t *rig) {
    pom_registry_options_t options = rig_options();
    assert_true(rig_try(rig, &options));
}

static inline void rig_forget(rig_t *rig) {
    for (int64_t i = 0; i < rig->count && i < RIG_KEPT; i++) {
        pom_profile_unref(rig->kept[i]);
        rig->kept[i] = NULL;
    }
    rig->count = 0;
}

static inline void rig_fini(rig_t *rig) {
    pom_registry_free(rig->registry);
    rig_forget(rig);
    pom_code_table_free(rig->codes);
}

static inline bool rig_tick(rig_t *rig) {
    return rig->client->tick(rig->client, 0);
}

static const pom_action_kind_t rig_kind = {.name = "code"};

static inline pom_action_t *rig_begin_kind(rig_t *rig, const pom_action_kind_t *kind,
                                           int64_t start_ns) {
    pom_action_t *a = pom_registry_begin(rig->registry, kind);
    if (a != NULL) {
        a->start_ns = start_ns;
        a->start_wall_ns = 1000000000 + start_ns;
        a->task_id = (pom_id_t){.hi = 1, .lo = 2};
        a->thread = 77;
        memcpy(a->thread_name, "worker", 7);
        a->type = pom_action_text(a, "job", 3);
    }
    return a;
}

static inline pom_action_t *rig_begin(rig_t *rig, int64_t start_ns) {
    return rig_begin_kind(rig, &rig_kind, start_ns);
}

static inline void rig_end(rig_t *rig, pom_action_t *a, int64_t end_ns) {
    a->end_ns = end_ns;
    (void)pom_registry_end(rig->registry, a);
}

static inline bool rig_sample(rig_t *rig, const pom_anchor_t *anchor, const pom_sample_t *sample,
                              const pom_stack_t *stack, uint64_t code_epoch) {
    if (rig->client->resolve(rig->client, stack, code_epoch) != POM_OK) {
        return false;
    }
    rig->client->sample(rig->client, anchor, sample, stack);
    return true;
}

/* A stack of keys, leaf first, ended by 0. */
static inline bool rig_sample_path(rig_t *rig, const pom_anchor_t *anchor,
                                   const pom_sample_t *sample, const uintptr_t *keys) {
    static pom_stack_t stack;
    stack.truncated = false;
    stack.depth = 0;
    for (; keys[stack.depth] != 0; stack.depth++) {
        stack.frames[stack.depth] = (pom_raw_frame_t){.code = keys[stack.depth], .lasti = 1};
    }
    return rig_sample(rig, anchor, sample, &stack, pom_code_table_epoch(rig->codes));
}

static inline bool rig_post(rig_t *rig, pom_action_t *a, int64_t at_ns, const uintptr_t *keys,
                            const char *text) {
    int32_t depth = 0;
    while (keys != NULL && keys[depth] != 0) {
        depth++;
    }
    pom_event_t *event = pom_registry_event(rig->registry, a, depth, (uint32_t)strlen(text));
    if (event == NULL) {
        return false;
    }
    for (int32_t i = 0; i < depth; i++) {
        pom_event_frames(event)[i].code = pom_code_table_get(rig->codes, keys[i], true, NULL);
        pom_event_frames(event)[i].lasti = 1;
    }
    memcpy(pom_event_fields(event), text, strlen(text));
    event->at_ns = at_ns;
    (void)pom_registry_post(rig->registry, event);
    return true;
}

#endif
