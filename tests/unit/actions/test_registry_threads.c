/*
 * The registry with a real sampler thread: app threads that take turns by a lock, as an
 * interpreter's do, begin, attach, log and end, while code dies and options change. For the thread
 * sanitizer above all.
 */
#include "tests/unit/support/detach.h"
#include "tests/unit/support/test_support.h"

#include <pthread.h>
#include <unistd.h>

#include "base/hash.h"
#include "tests/unit/actions/rig.h"

#define THREADS 3
#define ROUNDS  10000

typedef struct town_s {
    rig_t rig; /* first: the sink finds the town by it */
    pom_slots_t slots;
    fake_walker_t walker;
    pom_sampler_t *sampler;
    pthread_mutex_t lock; /* the interpreter's */
    _Atomic(uint64_t) turn;
    _Atomic(int64_t) faults, messages, sampled;
    int64_t posted, served; /* under lock */
} town_t;

/* Keys 1 to 200, of which the app threads let some die. */
static pom_status_t walk_town(fake_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                              uint32_t *anchor) {
    town_t *town = self->context;
    uint64_t random = pom_hash_mix(atomic_fetch_add(&town->turn, 1));
    stack->depth = 1 + (int32_t)(random % 20);
    stack->truncated = false;
    for (int32_t i = 0; i < stack->depth; i++) {
        random = pom_hash_mix(random + 1);
        stack->frames[i] = (pom_raw_frame_t){.code = 1 + random % 200, .lasti = 1};
    }
    *anchor = (uint32_t)(random >> 32) % view->count;
    static const pom_status_t answers[] = {POM_OK, POM_OK, POM_OK, POM_ETORN, POM_ENOTFOUND};
    return answers[random >> 16 & 3];
}

static void check_profile(rig_t *rig) {
    town_t *town = (town_t *)(void *)rig;
    const pom_profile_t *p = rig->kept[0];
    bool good = pom_tree_validate(&p->tree) && p->tree.root.total_wall_ns == p->wall_ns &&
                p->end_ns >= p->start_ns && p->tree.root.self_wall_ns >= 0 &&
                p->samples == p->tree.root.hits;
    atomic_fetch_add(&town->faults, good ? 0 : 1);
    atomic_fetch_add(&town->messages, p->tree.message_count + p->tree.cuts.messages);
    atomic_fetch_add(&town->sampled, p->samples);
    pom_profile_unref(rig->kept[0]);
    rig->kept[0] = NULL;
    rig->count = 0;
}

static void log_something(town_t *town, pom_action_t *a, uint64_t random) {
    int32_t depth = (int32_t)(random % 10);
    pom_event_t *event = pom_registry_event(town->rig.registry, a, depth, 8);
    if (event == NULL) {
        return;
    }
    for (int32_t i = 0; i < depth; i++) {
        random = pom_hash_mix(random + 1);
        pom_event_frames(event)[i].code =
            pom_code_table_get(town->rig.codes, 1 + random % 200, true, NULL);
        pom_event_frames(event)[i].lasti = 1;
    }
    memcpy(pom_event_fields(event), &random, 8);
    event->at_ns = pom_now_ns();
    town->posted++;
    if (pom_registry_post(town->rig.registry, event)) {
        pom_sampler_hurry(town->sampler);
    } else {
        pom_sampler_notify(town->sampler);
    }
}

/* Half of the actions are sealed in parts, at each sample, while their app side writes what only
 * the last part tells. */
static void describe_open(const pom_action_t *a, pom_value_writer_t *w) {
    pom_value_key(w, "method", 6);
    pom_value_text(w, a->type.data, a->type.size);
}

static const pom_action_kind_t stream_kind = {.name = "stream", .describe_open = describe_open};

static pom_registry_options_t options_of_town(void) {
    pom_registry_options_t options = rig_options();
    options.max_actions_per_run = 0;
    options.part_ns = 1;
    return options;
}

static void hand_over(town_t *town) {
    (void)pthread_mutex_unlock(&town->lock);
    (void)sched_yield();
    (void)pthread_mutex_lock(&town->lock);
}

static void serve(town_t *town, pom_slot_t *slot, uint64_t random) {
    int64_t start_ns = pom_now_ns();
    town->served++;
    pom_action_t *a =
        rig_begin_kind(&town->rig, random % 2 == 0 ? &stream_kind : &rig_kind, start_ns);
    if (a == NULL) {
        return;
    }
    for (uint64_t stretch = 0; stretch <= random % 3; stretch++) {
        pom_anchor_t anchor = {.action = a, .since_ns = pom_now_ns()};
        if (pom_slot_attach(slot, &anchor) == POM_OK) {
            pom_sampler_notify(town->sampler);
        }
        a->kind_data[stretch] = 1;
        a->cpu_ns += 10;
        (void)pom_action_text(a, "more", 4);
        if (random % 4 == 0) {
            log_something(town, a, random);
        }
        if (random % 8 == 0) {
            hand_over(town);
        }
        (void)detach_action(slot, a);
        random = pom_hash_mix(random);
    }
    pom_registry_charge(town->rig.registry, a, 100);
    a->end_ns = pom_now_ns();
    if (pom_registry_end(town->rig.registry, a)) {
        pom_sampler_hurry(town->sampler);
    } else {
        pom_sampler_notify(town->sampler);
    }
}

/* A busy machine may not have let the sampler in yet. */
static bool is_sampled(const town_t *town, int64_t until_ns) {
    return pom_sampler_stats(town->sampler).taken >= 50 || pom_now_ns() > until_ns;
}

static void *live(void *arg) {
    town_t *town = arg;
    (void)pthread_mutex_lock(&town->lock);
    pom_thread_identity_t who = {.tid = 0};
    pom_slot_t *slot = pom_slots_claim(&town->slots, &who);
    uint64_t random = pom_hash_mix((uintptr_t)slot);
    int64_t until_ns = pom_now_ns() + FAKE_PATIENCE_NS;
    for (int i = 0; i < ROUNDS || !is_sampled(town, until_ns); i++) {
        random = pom_hash_mix(random + 1);
        serve(town, slot, random);
        if (random % 16 == 1) {
            pom_code_table_forget(town->rig.codes, 1 + random / 16 % 200);
        }
        if (random % 256 == 2) { // a thread ends, another begins
            pom_slots_release(&town->slots, slot);
            slot = pom_slots_claim(&town->slots, &who);
        }
        if (random % 1024 == 3) {
            pom_registry_options_t options = options_of_town();
            options.source = random / 1024 % 2 == 0 ? "web-1" : "web-2";
            pom_registry_configure(town->rig.registry, &options);
        }
        hand_over(town);
    }
    pom_slots_release(&town->slots, slot);
    (void)pthread_mutex_unlock(&town->lock);
    return NULL;
}

static void test_registry_loses_nothing_between_threads(void **state) {
    static town_t town;
    memset(&town, 0, sizeof town);
    pom_registry_options_t options = options_of_town();
    assert_true(rig_try(&town.rig, &options));
    town.rig.on_put = check_profile;
    pom_slots_init(&town.slots);
    fake_walker_init(&town.walker);
    town.walker.script = walk_town;
    town.walker.context = &town;
    (void)pthread_mutex_init(&town.lock, NULL);
    pom_schedule_options_t schedule = {.granularity_ns = 50 * POM_NS_PER_US, .budget_ppm = 1000000};
    town.sampler = pom_sampler_new(&schedule, &town.slots, town.rig.codes, &town.walker.walker,
                                   town.rig.client);
    assert_int_equal(pom_sampler_start(town.sampler), POM_OK);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, live, &town), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_true(pom_sampler_sync(town.sampler, pom_now_ns() + FAKE_PATIENCE_NS));
    pom_sampler_stop(town.sampler);
    pom_registry_stats_t s = pom_registry_stats(town.rig.registry);
    pom_sampler_stats_t taken = pom_sampler_stats(town.sampler);
    assert_int_equal(atomic_load(&town.faults), 0);
    assert_int_equal(s.started, town.served);
    assert_int_equal(s.started, s.profiled + s.shed);
    assert_int_equal(s.profiled, s.finished);
    assert_int_equal(s.in_flight, 0);
    assert_int_equal(s.no_memory, 0);
    assert_int_equal(atomic_load(&town.messages), town.posted);
    assert_int_equal(atomic_load(&town.sampled), taken.taken);
    assert_true(taken.taken > 0 && s.profiled > 0 && town.posted > 0);
    pom_sampler_free(town.sampler);
    rig_fini(&town.rig);
    pom_slots_fini(&town.slots);
    (void)pthread_mutex_destroy(&town.lock);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_registry_loses_nothing_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
