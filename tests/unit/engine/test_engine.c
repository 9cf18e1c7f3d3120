/*
 * The engine with its real sampler, registry, exporter and a file, and with a fake walker and
 * resolver.
 *
 * The engine is one for the process and so is its exporter, which therefore outlives every test
 * here.
 */
#include "tests/unit/support/detach.h"
#include "tests/unit/support/test_support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "bindings/engine/engine.h"
#include "destinations/file.h"
#include "tests/unit/destinations/fake.h"
#include "tests/unit/sampler/fakes.h"

static const pom_action_kind_t kind = {.name = "code"};

/* ---- parts ---------------------------------------------------------------------------------- */

static fake_walker_t fake_walker;
static pom_slots_t *slots; // in force; NULL = none
static pom_status_t attach_status;
static int attaches, detaches;
static _Atomic(int64_t) delivery_cpu;

static pom_walker_t *give_walker(const char **name) {
    *name = "fake";
    return &fake_walker.walker;
}

static pom_status_t attach_parts(pom_slots_t *given, pom_code_table_t *codes) {
    (void)codes;
    if (attach_status == POM_OK) {
        slots = given;
        attaches++;
    }
    return attach_status;
}

static void detach_parts(void) {
    slots = NULL;
    detaches++;
}

static int64_t delivery_cpu_ns(void) {
    return atomic_load(&delivery_cpu);
}

static int init(void **state) {
    (void)state;
    fake_walker_init(&fake_walker);
    pom_engine_parts_t parts = {.walker = give_walker,
                                .resolver = &fake_resolver,
                                .attach = attach_parts,
                                .detach = detach_parts,
                                .delivery_cpu_ns = delivery_cpu_ns};
    return pom_engine_init(&parts) == POM_OK ? 0 : -1;
}

/* ---- a file to deliver to ------------------------------------------------------------------- */

typedef struct output_s {
    char path[64];
    pom_destination_t *file;
} output_t;

static void configure(const char *source) {
    pom_engine_options_t options = {
        .schedule = {.granularity_ns = 100 * POM_NS_PER_US, .budget_ppm = 500000},
        .granularity = POM_BY_LINE,
        .max_actions_per_run = 0};
    (void)snprintf(options.source, sizeof options.source, "%s", source);
    pom_engine_configure(&options);
}

static void output_open(output_t *out) {
    (void)snprintf(out->path, sizeof out->path, "/tmp/pom-engine-XXXXXX");
    int fd = mkstemp(out->path);
    assert_true(fd >= 0);
    (void)close(fd);
    pom_file_options_t options = pom_file_options_default();
    options.append = true;
    assert_int_equal(pom_file_new(out->path, &options, &out->file, NULL, 0), POM_OK);
    assert_int_equal(pom_exporter_add(pom_engine_exporter(), out->file), POM_OK);
    configure("web-1");
}

static void output_close(output_t *out) {
    assert_int_equal(pom_exporter_remove(pom_engine_exporter(), out->file), POM_OK);
    pom_destination_unref(out->file);
    (void)unlink(out->path);
}

/* Lines that hold the text. */
static int64_t count_lines(const output_t *out, const char *text) {
    static char line[1 << 20];
    FILE *f = fopen(out->path, "r");
    assert_non_null(f);
    int64_t count = 0;
    while (fgets(line, sizeof line, f) != NULL) {
        size_t size = strlen(line);
        assert_true(size > 2 && line[0] == '{' && line[size - 2] == '}' && line[size - 1] == '\n');
        count += strstr(line, text) != NULL;
    }
    (void)fclose(f);
    return count;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int64_t patience(void) {
    return pom_now_ns() + FAKE_PATIENCE_NS;
}

static void start(void) {
    assert_int_equal(pom_engine_start(), POM_OK);
    assert_int_equal(pom_engine_state, POM_ENGINE_RUNNING);
}

static bool stop(void) {
    bool clean = pom_engine_stop_begin();
    if (clean) {
        clean = pom_engine_stop_wait(patience());
        pom_engine_stop_end();
    }
    return clean;
}

static pom_slot_t *claim(void) {
    pom_thread_identity_t who = {.tid = 0};
    pom_slot_t *slot = pom_slots_claim(slots, &who);
    assert_non_null(slot);
    return slot;
}

static pom_action_t *begin(pom_slot_t *slot) {
    pom_action_t *a = pom_registry_begin(pom_engine_registry(), &kind);
    if (a != NULL) {
        a->start_ns = pom_now_ns();
        a->start_wall_ns = pom_wall_ns();
        a->task_id = pom_id_new();
        pom_anchor_t anchor = {.action = a, .since_ns = a->start_ns};
        (void)pom_slot_attach(slot, &anchor);
        pom_sampler_notify(pom_engine_sampler());
    }
    return a;
}

static void end(pom_slot_t *slot, pom_action_t *a) {
    (void)detach_action(slot, a);
    a->end_ns = pom_now_ns();
    (void)pom_registry_end(pom_engine_registry(), a);
    pom_sampler_notify(pom_engine_sampler());
}

/* An action that is surely sampled. */
static void serve_sampled(pom_slot_t *slot) {
    int64_t before = pom_engine_stats().sampler.taken;
    pom_action_t *a = begin(slot);
    assert_non_null(a);
    assert_true(await(pom_engine_stats().sampler.taken > before));
    end(slot, a);
}

static void serve(pom_slot_t *slot, int n) {
    for (int i = 0; i < n; i++) {
        pom_action_t *a = begin(slot);
        assert_non_null(a);
        end(slot, a);
    }
}

static void assert_not_backwards(const pom_engine_stats_t *a, const pom_engine_stats_t *b) {
    assert_true(b->sampler.taken >= a->sampler.taken);
    assert_true(b->sampler.wakeups >= a->sampler.wakeups);
    assert_true(b->sampler.cpu_ns >= a->sampler.cpu_ns);
    assert_true(b->sampler.cost_ns >= a->sampler.cost_ns);
    assert_true(b->sampler.base_cpu_ns >= a->sampler.base_cpu_ns);
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        assert_true(b->sampler.missed[i] >= a->sampler.missed[i]);
    }
    assert_true(b->registry.started >= a->registry.started);
    assert_true(b->registry.profiled >= a->registry.profiled);
    assert_true(b->registry.shed >= a->registry.shed);
    assert_true(b->registry.finished >= a->registry.finished);
    assert_true(b->registry.lost >= a->registry.lost);
    assert_true(b->registry.dropped_events >= a->registry.dropped_events);
    assert_true(b->registry.in_request_ns >= a->registry.in_request_ns);
    assert_true(b->registry.no_memory >= a->registry.no_memory);
    assert_true(b->exporter_cpu_ns >= a->exporter_cpu_ns);
    assert_true(b->delivery_cpu_ns >= a->delivery_cpu_ns);
    assert_true(b->codes.inserted >= a->codes.inserted);
    assert_true(b->codes.forgotten >= a->codes.forgotten);
    assert_true(b->codes.unknown >= a->codes.unknown);
    assert_true(b->registry.in_flight >= 0);
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* acceptance: PM30 */
static void test_engine_starts_and_stops(void **state) {
    uint32_t generation = pom_engine_generation();
    int before = attaches;
    assert_int_equal(pom_engine_state, POM_ENGINE_STOPPED);
    assert_false(pom_engine_stop_begin());
    start();
    assert_true(pom_engine_generation() > generation);
    assert_non_null(pom_engine_registry());
    assert_non_null(pom_engine_sampler());
    assert_non_null(pom_engine_codes());
    assert_string_equal(pom_engine_stats().engine, "fake");
    generation = pom_engine_generation();
    start(); // a second one changes nothing
    assert_int_equal(pom_engine_generation(), generation);
    assert_int_equal(attaches, before + 1);
    assert_true(stop());
    assert_int_equal(pom_engine_state, POM_ENGINE_STOPPED);
    assert_true(pom_engine_generation() > generation);
    assert_int_equal(attaches, detaches);
    assert_null(slots);
    assert_false(stop());
}

/* acceptance: PM16 */
static void test_engine_delivers_every_action(void **state) {
    output_t out;
    output_open(&out);
    start();
    pom_slot_t *slot = claim();
    serve_sampled(slot);
    serve(slot, 199);
    assert_true(pom_engine_flush(patience()));
    assert_int_equal(count_lines(&out, "\"engine\":\"fake\""), 200);
    assert_int_equal(count_lines(&out, "\"source\":\"web-1\""), 200);
    assert_true(count_lines(&out, "\"function\":\"g10\"") >= 1);
    assert_true(stop());
    assert_int_equal(count_lines(&out, "succeeded"), 200);
    output_close(&out);
}

/* acceptance: PM30 */
static void test_engine_stop_delivers_what_is_open_as_lost(void **state) {
    output_t out;
    output_open(&out);
    pom_engine_stats_t before = pom_engine_stats();
    start();
    pom_slot_t *slot = claim();
    for (int i = 0; i < 5; i++) {
        assert_non_null(begin(slot));
    }
    serve(slot, 3);
    uint32_t generation = pom_engine_generation();
    assert_true(pom_engine_stop_begin());
    assert_int_equal(pom_slot_attached(slot), 0); // what is over must not be sampled
    assert_true(pom_engine_stop_wait(patience()));
    pom_engine_stop_end();
    assert_true(pom_engine_generation() > generation); // so that their holders only forget them
    assert_int_equal(count_lines(&out, "\"outcome\":\"lost\""), 5);
    assert_int_equal(count_lines(&out, "\"outcome\":\"succeeded\""), 3);
    pom_engine_stats_t after = pom_engine_stats();
    assert_int_equal(after.registry.lost - before.registry.lost, 5);
    assert_int_equal(after.registry.finished - before.registry.finished, 3);
    assert_int_equal(after.registry.in_flight, 0);
    output_close(&out);
}

/* acceptance: PM30 */
static void test_engine_stop_tells_what_it_could_not_deliver(void **state) {
    configure("web-1");
    fake_t *held = fake_new("held", FAKE_HOLD);
    assert_int_equal(pom_exporter_add(pom_engine_exporter(), &held->base), POM_OK);
    start();
    serve(claim(), 3);
    assert_true(pom_engine_stop_begin());
    assert_false(pom_engine_stop_wait(pom_now_ns()));
    pom_engine_stop_end();
    pom_destination_counters_t counted = counters(&held->base);
    assert_int_equal(counted.produced, 3);
    assert_int_equal(counted.dropped[POM_DROP_SHUTDOWN], 3);
    start();
    assert_int_equal(pom_exporter_remove(pom_engine_exporter(), &held->base), POM_OK);
    assert_true(stop());
    pom_destination_unref(&held->base);
}

static void test_engine_stats_never_go_backwards(void **state) {
    output_t out;
    output_open(&out);
    pom_engine_stats_t before = pom_engine_stats();
    for (int life = 0; life < 20; life++) {
        start();
        pom_slot_t *slot = claim();
        serve_sampled(slot);
        serve(slot, 10);
        atomic_fetch_add(&delivery_cpu, 5);
        pom_code_table_forget(pom_engine_codes(), 10);
        pom_engine_stats_t running = pom_engine_stats();
        assert_not_backwards(&before, &running);
        assert_true(running.registry.started > before.registry.started);
        assert_true(running.codes.inserted > before.codes.inserted);
        assert_true(pom_engine_stop_begin());
        pom_engine_stats_t stopping = pom_engine_stats();
        assert_not_backwards(&running, &stopping);
        assert_true(pom_engine_stop_wait(patience()));
        pom_engine_stats_t waited = pom_engine_stats();
        pom_engine_stop_end();
        pom_engine_stats_t stopped = pom_engine_stats();
        assert_not_backwards(&stopping, &stopped);
        assert_not_backwards(&waited, &stopped);
        assert_int_equal(stopped.registry.started - before.registry.started, 11);
        assert_int_equal(stopped.registry.finished - before.registry.finished, 11);
        assert_int_equal(stopped.codes.live, 0);
        before = stopped;
    }
    assert_int_equal(count_lines(&out, "succeeded"), 20 * 11);
    output_close(&out);
}

/* acceptance: PM3, PM10 */
static void test_engine_takes_options_while_running(void **state) {
    output_t out;
    output_open(&out);
    start();
    pom_slot_t *slot = claim();
    serve(slot, 3);
    assert_true(pom_engine_flush(patience()));
    configure("web-2");
    serve(slot, 4);
    assert_true(stop());
    configure("web-3"); // in force at the next start
    start();
    serve(claim(), 5);
    assert_true(stop());
    assert_int_equal(count_lines(&out, "web-1"), 3);
    assert_int_equal(count_lines(&out, "web-2"), 4);
    assert_int_equal(count_lines(&out, "web-3"), 5);
    output_close(&out);
}

static void test_engine_start_fails_whole(void **state) {
    attach_status = POM_EUNSUPPORTED;
    assert_int_equal(pom_engine_start(), POM_EUNSUPPORTED);
    attach_status = POM_OK;
    assert_int_equal(pom_engine_state, POM_ENGINE_STOPPED);
    assert_false(pom_engine_stop_begin());
    start();
    assert_true(stop());
    assert_int_equal(attaches, detaches);
}

static void test_engine_start_survives_failing_allocations(void **state) {
    start(); // the exporter's thread runs from here on, and allocates nothing while idle
    int64_t live = 0;
    for (int life = 0; life < 3; life++) {
        assert_true(pom_engine_stop_begin());
        pom_sampler_stop(pom_engine_sampler());
        pom_engine_stop_end();
        pom_status_t status = POM_ENOMEM;
        for (int64_t n = 1; status != POM_OK; n++) {
            pom_alloc_fail_from(n);
            status = pom_engine_start();
            pom_alloc_fail_from(0);
            assert_true(status == POM_OK || status == POM_ENOMEM);
            assert_int_equal(pom_engine_state == POM_ENGINE_RUNNING, status == POM_OK);
            assert_true(n < 30);
        }
        // The first life's memory is cut from what the tests before left, some bytes too large.
        live = life == 0 ? pom_alloc_live_bytes() : live;
        assert_int_equal(pom_alloc_live_bytes(), live);
    }
    assert_true(stop());
}

static void test_engine_start_waits_for_no_stop(void **state) {
    start();
    assert_true(pom_engine_stop_begin());
    assert_int_equal(pom_engine_start(), POM_ETIMEDOUT);
    assert_true(pom_engine_stop_wait(patience()));
    assert_int_equal(pom_engine_start(), POM_ETIMEDOUT);
    pom_engine_stop_end();
    start();
    assert_true(stop());
}

static void test_engine_flush_without_an_engine_is_the_exporters(void **state) {
    output_t out;
    output_open(&out);
    start();
    assert_true(stop());
    assert_true(pom_engine_flush(patience()));
    output_close(&out);
}

/* ---- forks ----------------------------------------------------------------------------------- */

static _Atomic(bool) hold_walk, walking;

static pom_status_t hold(fake_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                         uint32_t *anchor) {
    (void)self;
    (void)view;
    atomic_store(&walking, true);
    while (atomic_load(&hold_walk)) {
        (void)sched_yield();
    }
    atomic_store(&walking, false);
    fake_stack(stack);
    *anchor = 0;
    return POM_OK;
}

/* In a child: no asserts, which would run the rest of the tests there; an exit status instead. */
#define CHILD_REQUIRE(condition)                                                                   \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            _exit(__LINE__ % 200 + 10);                                                            \
        }                                                                                          \
    } while (0)

static void assert_child_succeeds(pid_t child) {
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0); // else a line of this file, modulo 200, plus 10
}

static void child_works(int actions) {
    CHILD_REQUIRE(pom_engine_start() == POM_OK);
    CHILD_REQUIRE(pom_engine_state == POM_ENGINE_RUNNING);
    pom_slot_t *slot = claim();
    for (int i = 0; i < actions; i++) {
        pom_action_t *a = begin(slot);
        CHILD_REQUIRE(a != NULL);
        end(slot, a);
    }
    CHILD_REQUIRE(pom_engine_flush(patience()));
    CHILD_REQUIRE(pom_engine_stats().registry.started == actions);
    CHILD_REQUIRE(stop());
    CHILD_REQUIRE(pom_engine_stats().registry.finished == actions);
}

static void test_engine_lives_on_in_a_forked_child(void **state) {
    skip_when_sanitized();
    output_t out;
    output_open(&out);
    start();
    pom_slot_t *slot = claim();
    serve(slot, 10);
    pom_action_t *open = begin(slot);
    uint32_t generation = pom_engine_generation();
    pid_t child = fork();
    if (child == 0) {
        (void)alarm(60);
        CHILD_REQUIRE(pom_engine_state == POM_ENGINE_FORKED);
        CHILD_REQUIRE(pom_engine_generation() > generation);
        CHILD_REQUIRE(pom_engine_stats().registry.started == 0);
        CHILD_REQUIRE(pom_engine_stats().sampler.taken == 0);
        pid_t grandchild = fork(); // from a child that never started
        if (grandchild == 0) {
            (void)alarm(60);
            CHILD_REQUIRE(pom_engine_state == POM_ENGINE_FORKED);
            child_works(3);
            pom_test_child_ends(true);
        }
        int status = 0;
        CHILD_REQUIRE(waitpid(grandchild, &status, 0) == grandchild && status == 0);
        child_works(7);
        pom_test_child_ends(true);
    }
    assert_child_succeeds(child);
    assert_int_equal(pom_engine_state, POM_ENGINE_RUNNING);
    assert_int_equal(pom_engine_generation(), generation);
    end(slot, open);
    serve(slot, 4);
    assert_true(stop());
    assert_int_equal(count_lines(&out, "succeeded"), 10 + 3 + 7 + 1 + 4);
    output_close(&out);
}

static void test_engine_child_is_not_kept_by_a_walk_of_the_parents(void **state) {
    skip_when_sanitized();
    output_t out;
    output_open(&out);
    start();
    pom_slot_t *slot = claim();
    atomic_store(&hold_walk, true);
    fake_walker.script = hold;
    pom_action_t *a = begin(slot);
    assert_true(await(atomic_load(&walking)));
    pid_t child = fork();
    if (child == 0) {
        (void)alarm(60);
        pom_slots_release(slots, slot); // the thread's state goes; nobody walks here any more
        fake_walker.script = NULL;
        child_works(2);
        pom_test_child_ends(true);
    }
    assert_child_succeeds(child);
    atomic_store(&hold_walk, false);
    end(slot, a);
    assert_true(stop());
    fake_walker.script = NULL;
    output_close(&out);
}

static void *wait_for_stop(void *arg) {
    _Atomic(int) *clean = arg;
    atomic_store(clean, pom_engine_stop_wait(patience()) ? 1 : -1);
    return NULL;
}

static void test_engine_child_of_a_fork_amid_a_stop_may_start(void **state) {
    skip_when_sanitized();
    for (int round = 0; round < 20; round++) {
        output_t out;
        output_open(&out);
        start();
        pom_slot_t *slot = claim();
        bool held = round % 2 == 0; // in the sampler's join, or anywhere behind it
        if (held) {
            atomic_store(&hold_walk, true);
            fake_walker.script = hold;
        }
        assert_non_null(begin(slot));
        assert_true(!held || await(atomic_load(&walking)));
        _Atomic(int) clean = 0;
        pthread_t stopper;
        assert_true(pom_engine_stop_begin());
        assert_int_equal(pthread_create(&stopper, NULL, wait_for_stop, (void *)&clean), 0);
        for (int spin = 0; spin < 20 * round; spin++) {
            (void)sched_yield();
        }
        pid_t child = fork();
        if (child == 0) {
            (void)alarm(60);
            CHILD_REQUIRE(pom_engine_state == POM_ENGINE_STOPPED);
            fake_walker.script = NULL;
            child_works(2);
            pom_test_child_ends(true);
        }
        assert_child_succeeds(child);
        atomic_store(&hold_walk, false);
        assert_int_equal(pthread_join(stopper, NULL), 0);
        pom_engine_stop_end();
        fake_walker.script = NULL;
        assert_int_equal(atomic_load(&clean), 1);
        assert_int_equal(count_lines(&out, "\"outcome\":\"lost\""), 1);
        assert_int_equal(count_lines(&out, "\"outcome\":\"succeeded\""), 2);
        output_close(&out);
    }
}

/* ---- what went wrong ------------------------------------------------------------------------- */

static pom_status_t hold_and_fail(fake_walker_t *self, const pom_slot_view_t *view,
                                  pom_stack_t *stack, uint32_t *anchor) {
    (void)hold(self, view, stack, anchor);
    return POM_EUNREADABLE;
}

/* Of all engines there were, not of the last one. */
static void test_engine_stats_add_up_what_went_wrong(void **state) {
    configure("web-1");
    pom_engine_stats_t before = pom_engine_stats();
    int64_t overflowed = before.codes.overflowed;
    int64_t unreadable = before.sampler.missed[POM_MISS_UNREADABLE];
    fake_walker.script = hold_and_fail;
    for (int life = 1; life <= 2; life++) {
        atomic_store(&hold_walk, true);
        start();
        pom_slot_t *slot = claim();
        pom_action_t *walked = begin(slot), *a;
        assert_true(await(atomic_load(&walking)));
        pom_registry_drop(pom_engine_registry(), walked);
        pom_registry_drop(pom_engine_registry(), walked);
        // The sampler stands still, and too many that have ended wait for it.
        for (int ended = 0; (a = begin(slot)) != NULL; ended++) {
            end(slot, a);
            assert_in_range(ended, 0, 100000);
        }
        (void)pom_code_table_get(pom_engine_codes(), 1, true, NULL); // to be forgotten
        pom_code_table_forget(pom_engine_codes(), 1);
        for (uintptr_t key = 1000; pom_code_table_stats(pom_engine_codes()).overflowed == 0;
             key++) {
            (void)pom_code_table_get(pom_engine_codes(), key, true, NULL); // takes a place
            assert_in_range(key, 1000, 1000 + POM_CODE_TABLE_CAPACITY);
        }
        atomic_store(&hold_walk, false);
        assert_true(await(pom_engine_stats().sampler.missed[POM_MISS_UNREADABLE] > unreadable));
        end(slot, walked);
        assert_true(stop());
        pom_engine_stats_t after = pom_engine_stats();
        assert_int_equal(after.registry.shed - before.registry.shed, life);
        assert_int_equal(after.registry.dropped_events - before.registry.dropped_events, 2 * life);
        assert_int_equal(after.codes.forgotten - before.codes.forgotten, life);
        assert_true(after.codes.overflowed > overflowed);
        assert_true(after.sampler.missed[POM_MISS_UNREADABLE] > unreadable);
        assert_true(after.sampler.period_ns >= 100 * POM_NS_PER_US);
        overflowed = after.codes.overflowed;
        unreadable = after.sampler.missed[POM_MISS_UNREADABLE];
    }
    fake_walker.script = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_starts_and_stops),
        cmocka_unit_test(test_engine_delivers_every_action),
        cmocka_unit_test(test_engine_stop_delivers_what_is_open_as_lost),
        cmocka_unit_test(test_engine_stop_tells_what_it_could_not_deliver),
        cmocka_unit_test(test_engine_stats_never_go_backwards),
        cmocka_unit_test(test_engine_takes_options_while_running),
        cmocka_unit_test(test_engine_start_fails_whole),
        cmocka_unit_test(test_engine_start_survives_failing_allocations),
        cmocka_unit_test(test_engine_start_waits_for_no_stop),
        cmocka_unit_test(test_engine_flush_without_an_engine_is_the_exporters),
        cmocka_unit_test(test_engine_lives_on_in_a_forked_child),
        cmocka_unit_test(test_engine_child_is_not_kept_by_a_walk_of_the_parents),
        cmocka_unit_test(test_engine_child_of_a_fork_amid_a_stop_may_start),
        cmocka_unit_test(test_engine_stats_add_up_what_went_wrong),
    };
    return cmocka_run_group_tests(tests, init, NULL);
}
