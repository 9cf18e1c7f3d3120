/* The registry on one thread: what a profile says of an action, in which order things are applied,
 * and what is counted. */
#include "tests/unit/support/test_support.h"

#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/actions/rig.h"
#include "tests/unit/profiles/trace_emitter.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MANY 30000
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MANY 30000
#endif
#endif
#ifndef MANY
#define MANY 300000
#endif

#define PATH(...) ((const uintptr_t[]){__VA_ARGS__, 0}) /* leaf first */

static pom_anchor_t anchor_of(pom_action_t *a, int64_t since_ns, int64_t since_cpu_ns) {
    return (pom_anchor_t){.action = a, .since_ns = since_ns, .since_cpu_ns = since_cpu_ns};
}

static bool text_is(pom_text_t text, const char *want) {
    return text.size == strlen(want) && memcmp(text.data, want, text.size) == 0;
}

static const pom_node_t *child(const pom_node_t *node, int index) {
    node = node->first_child;
    while (node != NULL && index-- > 0) {
        node = node->next;
    }
    return node;
}

/* "g10" for a sampled place, "!text" for a message. */
static void assert_node(const pom_node_t *node, const char *want) {
    assert_non_null(node);
    if (want[0] == '!') {
        assert_non_null(node->message);
        assert_int_equal(node->message_size, strlen(want + 1));
        assert_memory_equal(node->message, want + 1, node->message_size);
        assert_int_equal(node->total_wall_ns, 0);
    } else {
        assert_null(node->message);
        assert_string_equal(node->code->function, want);
    }
}

static void assert_balanced(const rig_t *rig) {
    pom_registry_stats_t s = pom_registry_stats(rig->registry);
    assert_int_equal(s.started, s.profiled + s.shed);
    assert_int_equal(s.profiled, s.finished + s.lost + s.in_flight);
    assert_true(s.in_flight >= 0);
}

static pom_profile_t *only_profile(rig_t *rig) {
    (void)rig_tick(rig);
    assert_int_equal(rig->count, 1);
    assert_true(pom_tree_validate(&rig->kept[0]->tree));
    return rig->kept[0];
}

/* ---- what a profile says --------------------------------------------------------------------- */

static void test_registry_makes_one_profile_of_an_action(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1000);
    a->cpu_ns = 300;
    rig_end(&rig, a, 5000);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->wall_ns, 4000);
    assert_int_equal(p->cpu_ns, 300);
    assert_int_equal(p->start_ns, 1000);
    assert_int_equal(p->end_ns, 5000);
    assert_int_equal(p->start_wall_ns, 1000001000);
    assert_int_equal(p->task_id.lo, 2);
    assert_int_equal(p->task_text.size, 0);
    assert_int_equal(p->thread, 77);
    assert_true(text_is(p->thread_name, "worker"));
    assert_true(text_is(p->source, "web-1"));
    assert_true(text_is(p->engine, "native"));
    assert_true(text_is(p->type, "job"));
    assert_true(text_is(p->kind, "code"));
    assert_int_equal(p->pid, getpid());
    assert_int_equal(p->outcome, POM_OUTCOME_SUCCEEDED);
    assert_int_equal(p->samples, 0);
    // No sample: all of it is the root's own.
    assert_int_equal(p->tree.root.self_wall_ns, 4000);
    assert_int_equal(p->tree.root.self_cpu_ns, 300);
    assert_null(p->tree.root.first_child);
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_keeps_fields_and_what_failed(void **state) {
    rig_t rig;
    rig_init(&rig);
    unsigned char stream[100];
    pom_value_writer_t writer;
    pom_value_begin(&writer, stream, sizeof stream);
    pom_value_map_begin(&writer);
    pom_value_key(&writer, "n", 1);
    pom_value_integer(&writer, 5);
    pom_value_key(&writer, "outcome", 7); /* the record's own, like the next two */
    pom_value_text(&writer, "splendid", 8);
    pom_value_key(&writer, "reason", 6);
    pom_value_text(&writer, "mine", 4);
    pom_value_key(&writer, "exception", 9);
    pom_value_text(&writer, "mine", 4);
    pom_value_map_end(&writer);
    size_t size = pom_value_finish(&writer);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_text_t kept = pom_action_text(a, (const char *)stream, size);
    a->fields = kept.data;
    a->fields_size = kept.size;
    a->exception = pom_action_text(a, "ValueError", 10);
    a->reason = pom_action_text(a, "no", 2);
    a->outcome = POM_OUTCOME_FAILED;
    a->task_text = pom_action_text(a, "job:7", 5);
    rig_end(&rig, a, 10);
    const pom_profile_t *p = only_profile(&rig);
    static trace_t trace;
    trace_init(&trace);
    assert_int_equal(pom_value_emit(p->fields, p->fields_size, &trace.emitter), POM_OK);
    assert_true(trace_is_whole(&trace));
    assert_string_equal(trace.text, "{n:5 exception:\"ValueError\" reason:\"no\"}");
    assert_int_equal(p->outcome, POM_OUTCOME_FAILED);
    assert_true(text_is(p->task_text, "job:7"));
    rig_fini(&rig);
}

static void test_registry_leaves_keys_that_it_does_not_need(void **state) {
    static const char *const keys[] = {"exception", "type", "reason", "span", "whole"};
    rig_t rig;
    rig_init(&rig);
    unsigned char stream[200];
    pom_value_writer_t writer;
    pom_value_begin(&writer, stream, sizeof stream);
    pom_value_map_begin(&writer);
    for (int i = 0; i < 5; i++) {
        pom_value_key(&writer, keys[i], strlen(keys[i]));
        pom_value_integer(&writer, i);
    }
    pom_action_t *a = rig_begin(&rig, 0);
    pom_text_t kept = pom_action_text(a, (const char *)stream, pom_value_finish(&writer));
    a->fields = kept.data;
    a->fields_size = kept.size;
    a->task_text = pom_action_text(a, "7", 1);
    a->cut_values = 2;
    a->text_cut = true;
    rig_end(&rig, a, 10);
    const pom_profile_t *p = only_profile(&rig);
    static trace_t trace;
    trace_init(&trace);
    assert_int_equal(pom_value_emit(p->fields, p->fields_size, &trace.emitter), POM_OK);
    assert_string_equal(trace.text, "{exception:0 reason:2}"); // nothing was raised
    assert_int_equal(p->cut_values, 2 + 1);
    assert_true(text_is(p->task_text, "7"));
    rig_fini(&rig);
}

/* ---- parts ---------------------------------------------------------------------------------- */

static void describe_stream(const pom_action_t *a, pom_value_writer_t *w) {
    pom_value_key(w, "status", 6);
    pom_value_integer(w, a->kind_data[0]);
}

static void describe_open_stream(const pom_action_t *a, pom_value_writer_t *w) {
    pom_value_key(w, "method", 6);
    pom_value_text(w, a->type.data, a->type.size);
}

static const pom_action_kind_t stream_kind = {
    .name = "stream", .describe = describe_stream, .describe_open = describe_open_stream};

#define SECOND INT64_C(1000000000)

static void init_for_parts(rig_t *rig, int64_t part_ns) {
    pom_registry_options_t options = rig_options();
    options.part_ns = part_ns;
    assert_true(rig_try(rig, &options));
}

static const char *fields_of(const pom_profile_t *p) {
    static trace_t trace;
    trace_init(&trace);
    assert_int_equal(pom_value_emit(p->fields, p->fields_size, &trace.emitter), POM_OK);
    assert_true(trace_is_whole(&trace));
    return trace.text;
}

/* A sample each second, running half of the time, of one of 60 lines. */
static void stream(rig_t *rig, pom_action_t *a, int64_t from_s, int64_t to_s) {
    for (int64_t at = from_s + 1; at <= to_s; at++) {
        pom_anchor_t anchor = anchor_of(a, from_s * SECOND, from_s * SECOND / 2);
        pom_sample_t s = {.at_ns = at * SECOND, .cpu_ns = at * SECOND / 2, .running = true};
        assert_true(rig_sample_path(rig, &anchor, &s, PATH(10 + (uintptr_t)(at % 60))));
        (void)rig_tick(rig);
    }
}

/* acceptance: W15 */
static void test_registry_seals_a_long_stream_in_parts_that_add_up(void **state) {
    rig_t rig;
    init_for_parts(&rig, 60 * SECOND);
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 0);
    stream(&rig, a, 0, 605);
    assert_int_equal(rig.count, 10);
    assert_balanced(&rig);
    assert_int_equal(pom_registry_stats(rig.registry).finished, 0);
    a->kind_data[0] = 200;
    a->cpu_ns = 303 * SECOND;
    rig_end(&rig, a, 606 * SECOND);
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, 11);
    int64_t wall_ns = 0, cpu_ns = 0, samples = 0;
    for (int i = 0; i < 11; i++) {
        const pom_profile_t *p = rig.kept[i];
        assert_true(pom_tree_validate(&p->tree));
        assert_int_equal(p->start_ns, i * 60 * SECOND);
        assert_int_equal(p->start_wall_ns, 1000000000 + i * 60 * SECOND);
        assert_int_equal(p->end_ns, i < 10 ? (i + 1) * 60 * SECOND : 606 * SECOND);
        assert_int_equal(p->outcome, i < 10 ? POM_OUTCOME_OPEN : POM_OUTCOME_SUCCEEDED);
        assert_int_equal(p->samples, i < 10 ? 60 : 5);
        assert_int_equal(p->tree.root.total_wall_ns, p->wall_ns);
        assert_int_equal(p->task_id.lo, 2);
        wall_ns += p->wall_ns;
        cpu_ns += p->cpu_ns;
        samples += p->samples;
    }
    assert_int_equal(wall_ns, 606 * SECOND);
    assert_int_equal(cpu_ns, 303 * SECOND);
    assert_int_equal(samples, 605);
    assert_string_equal(fields_of(rig.kept[1]), "{method:\"job\" part:2}");
    assert_string_equal(
        fields_of(rig.kept[10]),
        "{status:200 part:11 whole:{parts:11 time:606000000000ns cpu_time:303000000000ns}}");
    assert_int_equal(pom_registry_stats(rig.registry).finished, 1);
    assert_balanced(&rig);
    rig_fini(&rig);
}

/* acceptance: W15 */
static void test_registry_holds_no_more_of_a_longer_stream(void **state) {
    rig_t rig;
    init_for_parts(&rig, 60 * SECOND);
    rig.count_only = true;
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 0);
    stream(&rig, a, 0, 120);
    int64_t before = pom_alloc_live_bytes();
    stream(&rig, a, 120, 120 + 100 * 60);
    assert_int_equal(pom_alloc_live_bytes(), before);
    assert_int_equal(rig.count, 102);
    rig_end(&rig, a, 7000 * SECOND);
    (void)rig_tick(&rig);
    rig_fini(&rig);
}

/* acceptance: W15 */
static void test_registry_cuts_no_parts_unasked(void **state) {
    rig_t rig;
    init_for_parts(&rig, 0);
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 0);
    stream(&rig, a, 0, 600);
    rig_end(&rig, a, 600 * SECOND);
    assert_string_equal(fields_of(only_profile(&rig)), "{status:0}");
    rig_fini(&rig);
    init_for_parts(&rig, 60 * SECOND);
    a = rig_begin(&rig, 0); // a kind whose fields are written later
    stream(&rig, a, 0, 600);
    rig_end(&rig, a, 600 * SECOND);
    assert_int_equal(only_profile(&rig)->samples, 600);
    rig_fini(&rig);
}

/* acceptance: W15 */
static void test_registry_cuts_a_stream_that_stands_still(void **state) {
    rig_t rig;
    init_for_parts(&rig, 60 * SECOND);
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 30 * SECOND};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10)));
    s.at_ns = 60 * SECOND;
    assert_true(rig.client->again(rig.client, &anchor, &s));
    assert_int_equal(rig.count, 1);
    assert_int_equal(rig.kept[0]->samples, 2);
    assert_int_equal(rig.kept[0]->tree.root.total_wall_ns, 60 * SECOND);
    s.at_ns = 61 * SECOND;
    assert_false(rig.client->again(rig.client, &anchor, &s)); // nothing is known of the next part
    rig_end(&rig, a, 62 * SECOND);
    (void)rig_tick(&rig);
    assert_int_equal(rig.kept[1]->wall_ns, 2 * SECOND);
    rig_fini(&rig);
}

/* What began some time after the clock did. acceptance: W15 */
static void test_registry_tells_the_whole_time_from_the_begin(void **state) {
    rig_t rig;
    init_for_parts(&rig, 60 * SECOND);
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 1000 * SECOND);
    stream(&rig, a, 1000, 1065);
    a->cpu_ns = 33 * SECOND;
    rig_end(&rig, a, 1070 * SECOND);
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, 2);
    assert_int_equal(rig.kept[0]->wall_ns, 60 * SECOND);
    assert_int_equal(rig.kept[1]->wall_ns, 10 * SECOND);
    assert_string_equal(
        fields_of(rig.kept[1]),
        "{status:0 part:2 whole:{parts:2 time:70000000000ns cpu_time:33000000000ns}}");
    rig_fini(&rig);
}

/* acceptance: W15 */
static void test_registry_tells_a_miss_in_one_part(void **state) {
    rig_t rig;
    init_for_parts(&rig, 60 * SECOND);
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    rig.client->missed(rig.client, &anchor, 0);
    rig.client->missed(rig.client, &anchor, 0);
    rig.client->missed(rig.client, &anchor, 1);
    stream(&rig, a, 0, 60);
    rig.client->missed(rig.client, &anchor, 1);
    rig_end(&rig, a, 61 * SECOND);
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, 2);
    assert_int_equal(rig.kept[0]->missed[0], 2);
    assert_int_equal(rig.kept[0]->missed[1], 1);
    assert_int_equal(rig.kept[1]->missed[0], 0);
    assert_int_equal(rig.kept[1]->missed[1], 1);
    rig_fini(&rig);
}

/* A part that a message or the end of the action is waiting behind. acceptance: W15 */
static void test_registry_cuts_between_what_happened(void **state) {
    rig_t rig;
    init_for_parts(&rig, 60 * SECOND);
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    assert_true(rig_post(&rig, a, 59 * SECOND, PATH(10), "before"));
    assert_true(rig_post(&rig, a, 61 * SECOND, PATH(10), "after"));
    pom_sample_t s = {.at_ns = 60 * SECOND, .cpu_ns = SECOND, .running = true};
    rig_end(&rig, a, 62 * SECOND);
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10)));
    assert_int_equal(rig.count, 1);
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, 2);
    assert_node(child(&rig.kept[0]->tree.root, 0), "!before");
    assert_node(child(&rig.kept[1]->tree.root, 0), "!after");
    assert_int_equal(rig.kept[1]->wall_ns, 2 * SECOND);
    assert_balanced(&rig);
    rig_fini(&rig);
}

/* Its detach was on the way yet when the clock was read for its end. acceptance: W15 */
static void test_registry_ends_no_part_before_it_begins(void **state) {
    rig_t rig;
    init_for_parts(&rig, 60 * SECOND);
    pom_action_t *a = rig_begin_kind(&rig, &stream_kind, 0);
    stream(&rig, a, 0, 60);
    rig_end(&rig, a, 60 * SECOND - 100);
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, 2);
    assert_int_equal(rig.kept[1]->start_ns, 60 * SECOND);
    assert_int_equal(rig.kept[1]->end_ns, 60 * SECOND);
    assert_int_equal(rig.kept[1]->wall_ns, 0);
    assert_balanced(&rig);
    rig_fini(&rig);
}

/* ---- weights --------------------------------------------------------------------------------- */

/* acceptance: PM15 */
static void test_registry_weighs_samples_by_measured_time(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1000);
    pom_anchor_t anchor = anchor_of(a, 1000, 500);
    static const struct {
        int64_t at_ns, cpu_ns;
        bool running;
    } samples[] = {{3000, 1500, true}, {6000, 1700, false}, {7000, 2000, true}};
    const uintptr_t *const paths[] = {PATH(20, 10), PATH(30, 10), PATH(20, 10)};
    for (int i = 0; i < 3; i++) {
        pom_sample_t s = {
            .at_ns = samples[i].at_ns, .cpu_ns = samples[i].cpu_ns, .running = samples[i].running};
        assert_true(rig_sample_path(&rig, &anchor, &s, paths[i]));
    }
    a->cpu_ns = 2000;
    rig_end(&rig, a, 10000);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->samples, 3);
    assert_int_equal(p->wall_ns, 9000);
    assert_int_equal(p->cpu_ns, 2000);
    // 9000 - (2000 + 3000 + 1000) and 2000 - (1000 + 0 + 500) stay with the root.
    assert_int_equal(p->tree.root.self_wall_ns, 3000);
    assert_int_equal(p->tree.root.self_cpu_ns, 500);
    const pom_node_t *ten = child(&p->tree.root, 0);
    assert_node(ten, "g10");
    assert_int_equal(ten->self_wall_ns, 0);
    assert_int_equal(ten->total_wall_ns, 6000);
    const pom_node_t *twenty = child(ten, 0), *thirty = child(ten, 1);
    assert_node(twenty, "g20");
    assert_int_equal(twenty->self_wall_ns, 2000 + 1000);
    // CPU of the middle sample (200) was seen while it did not run: the next one that runs has it.
    assert_int_equal(twenty->self_cpu_ns, 1000 + 200 + 300);
    assert_int_equal(twenty->hits, 2);
    assert_node(thirty, "g30");
    assert_int_equal(thirty->self_wall_ns, 3000);
    assert_int_equal(thirty->self_cpu_ns, 0);
    rig_fini(&rig);
}

/* What looks cannot meet is not carried to the next stack that runs. */
static void test_registry_charges_sleeps_to_where_they_were(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100, .cpu_ns = 10};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10))); // waits
    s = (pom_sample_t){.at_ns = 200, .cpu_ns = 40, .unmet_cpu_ns = 25, .unmet_before = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30, 10)));
    s = (pom_sample_t){
        .at_ns = 300, .cpu_ns = 90, .running = true, .unmet_cpu_ns = 20, .unmet_before = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(40, 10)));
    s = (pom_sample_t){.at_ns = 400, .cpu_ns = 160, .unmet_cpu_ns = 30};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(50, 10))); // it went to sleep here
    // Another thread's message: where the last sample was is not known any more.
    assert_true(rig_post(&rig, a, 450, PATH(10), "elsewhere"));
    s = (pom_sample_t){.at_ns = 500, .cpu_ns = 200, .unmet_cpu_ns = 30, .unmet_before = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(50, 10)));
    s = (pom_sample_t){.at_ns = 600, .cpu_ns = 201, .running = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(60, 10)));
    rig_end(&rig, a, 600);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->tree.root.total_cpu_ns, 201);
    assert_int_equal(p->tree.root.total_wall_ns, 600);
    const pom_node_t *ten = child(&p->tree.root, 0);
    static const int64_t cpu_ns[] = {25, 20, 10 + 5 + 30, 30};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(child(ten, i)->self_cpu_ns, cpu_ns[i]);
        assert_int_equal(child(ten, i)->self_wall_ns, 100);
        assert_int_equal(child(ten, i)->hits, 1); // no sample more
    }
    const pom_node_t *anew = child(&p->tree.root, 2); // behind the message
    assert_int_equal(child(anew, 0)->self_cpu_ns, 0);
    assert_int_equal(child(anew, 1)->self_cpu_ns, 40 + 40 + 1);
    rig_fini(&rig);
}

static void test_registry_weighs_a_standing_thread_where_it_stood(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100, .cpu_ns = 40};
    assert_false(rig.client->again(rig.client, &anchor, &s)); // nothing is known yet
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10)));
    for (int i = 2; i <= 4; i++) {
        s.at_ns = 100 * i;
        assert_true(rig.client->again(rig.client, &anchor, &s));
    }
    // A message from another thread seals what is there, so the place is looked up anew.
    assert_true(rig_post(&rig, a, 450, PATH(10), "elsewhere"));
    s.at_ns = 500;
    assert_false(rig.client->again(rig.client, &anchor, &s));
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10)));
    rig_end(&rig, a, 500);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->samples, 5);
    assert_int_equal(p->tree.root.self_wall_ns, 0);
    const pom_node_t *twenty = child(child(&p->tree.root, 0), 0);
    assert_node(twenty, "g20");
    assert_int_equal(twenty->self_wall_ns, 400);
    assert_int_equal(twenty->hits, 4);
    assert_int_equal(p->tree.root.total_wall_ns, 500);
    rig_fini(&rig);
}

static void test_registry_charges_nobody_for_time_between_attaches(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1);
    pom_anchor_t first = anchor_of(a, 1, 1000), second = anchor_of(a, 5000, 900000);
    pom_sample_t s = {.at_ns = 101, .cpu_ns = 1050, .running = true};
    assert_true(rig_sample_path(&rig, &first, &s, PATH(20)));
    // 4899 ns with a slow client; then another thread, whose clock has another reading.
    s = (pom_sample_t){.at_ns = 5300, .cpu_ns = 900200, .running = true};
    assert_true(rig_sample_path(&rig, &second, &s, PATH(30)));
    rig_end(&rig, a, 6001);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(child(&p->tree.root, 0)->self_wall_ns, 100);
    assert_int_equal(child(&p->tree.root, 0)->self_cpu_ns, 50);
    assert_int_equal(child(&p->tree.root, 1)->self_wall_ns, 300);
    assert_int_equal(child(&p->tree.root, 1)->self_cpu_ns, 200);
    assert_int_equal(p->tree.root.self_wall_ns, 6000 - 400);
    rig_fini(&rig);
}

/* A body of many short chunks: the stretch that is met stands for those before it that were not. */
static void test_registry_gives_short_stretches_to_the_one_that_was_met(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1);
    pom_anchor_t first = anchor_of(a, 1000, 100), third = anchor_of(a, 9000, 700);
    first.before_ns = 400;
    first.before_cpu_ns = 40;
    pom_sample_t s = {.at_ns = 1100, .cpu_ns = 150, .running = true};
    assert_true(rig_sample_path(&rig, &first, &s, PATH(20)));
    // The rest of it took 60, and one nobody met 300.
    third.before_ns = 400 + 160 + 300;
    third.before_cpu_ns = 40 + 80 + 200;
    s = (pom_sample_t){.at_ns = 9010, .cpu_ns = 705, .running = true};
    assert_true(rig_sample_path(&rig, &third, &s, PATH(30)));
    s = (pom_sample_t){.at_ns = 9030, .cpu_ns = 715, .running = true};
    assert_true(rig_sample_path(&rig, &third, &s, PATH(30)));
    rig_end(&rig, a, 10001);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(child(&p->tree.root, 0)->self_wall_ns, 400 + 100);
    assert_int_equal(child(&p->tree.root, 0)->self_cpu_ns, 40 + 50);
    assert_int_equal(child(&p->tree.root, 1)->self_wall_ns, 60 + 300 + 30);
    assert_int_equal(child(&p->tree.root, 1)->self_cpu_ns, 30 + 200 + 15);
    rig_fini(&rig);
}

/* Two asyncio tasks on one thread: neither gets the time or the CPU of the other. */
static void test_registry_keeps_interleaved_actions_apart(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1000);
    pom_anchor_t anchor = anchor_of(a, 1000, 500);
    pom_sample_t s = {.at_ns = 2000, .cpu_ns = 1000, .running = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    // Others from 2000 on; it was seen waiting at 5000, and the look before the next sample was at
    // 8000.
    s = (pom_sample_t){
        .at_ns = 5000, .cpu_ns = 3000, .parked = true, .since_ns = 4000, .since_cpu_ns = 2500};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30)));
    s = (pom_sample_t){
        .at_ns = 9000, .cpu_ns = 6000, .running = true, .since_ns = 8000, .since_cpu_ns = 5600};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(40)));
    a->cpu_ns = 5500; // attached all the time
    rig_end(&rig, a, 9000);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->samples, 3);
    assert_int_equal(p->wall_ns, 8000);
    assert_node(child(&p->tree.root, 0), "g20");
    assert_int_equal(child(&p->tree.root, 0)->self_wall_ns, 1000);
    assert_int_equal(child(&p->tree.root, 0)->self_cpu_ns, 500);
    assert_node(child(&p->tree.root, 1), "g30");
    assert_int_equal(child(&p->tree.root, 1)->self_wall_ns, 3000);
    assert_int_equal(child(&p->tree.root, 1)->self_cpu_ns, 0);
    assert_node(child(&p->tree.root, 2), "g40");
    assert_int_equal(child(&p->tree.root, 2)->self_wall_ns, 1000);
    assert_int_equal(child(&p->tree.root, 2)->self_cpu_ns, 400);
    // From 5000 to 8000 nobody knows what it waited in.
    assert_int_equal(p->tree.root.self_wall_ns, 3000);
    // 5500 less what others used: 1000 to 3000 and 3000 to 5600.
    assert_int_equal(p->cpu_ns, 500 + 400);
    rig_fini(&rig);
}

/* Two actions of one thread, as asyncio tasks are: the looks see one of them run and the other
 * wait. */
static void test_registry_shares_a_thread_among_its_actions(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1000), *b = rig_begin(&rig, 1000);
    pom_anchor_t at_a = anchor_of(a, 1000, 0), at_b = anchor_of(b, 1000, 0);
    // The thread's clock: a runs until 2000 (1000 ns of CPU), then b until 4000 (2000), then a
    // again (500).
    static const struct {
        bool a_runs;
        int64_t at_ns, cpu_ns, since_ns, since_cpu_ns;
    } looks[] = {{true, 2000, 1000, 0, 0},
                 {false, 3000, 2000, 2000, 1000},
                 {false, 4000, 3000, 3000, 2000},
                 {true, 5000, 3500, 4000, 3000}};
    for (int i = 0; i < 4; i++) {
        for (int who = 0; who < 2; who++) {
            bool runs = looks[i].a_runs == (who == 0);
            pom_sample_t s = {.at_ns = looks[i].at_ns,
                              .cpu_ns = looks[i].cpu_ns,
                              .since_ns = looks[i].since_ns,
                              .since_cpu_ns = looks[i].since_cpu_ns,
                              .running = runs,
                              .parked = !runs};
            assert_true(
                rig_sample_path(&rig, who == 0 ? &at_a : &at_b, &s, runs ? PATH(20) : PATH(30)));
        }
    }
    a->cpu_ns = b->cpu_ns = 3500; // each was attached all the time
    rig_end(&rig, a, 5000);
    rig_end(&rig, b, 5000);
    (void)rig_tick(&rig);
    const pom_profile_t *of_a = rig.kept[0], *of_b = rig.kept[1];
    assert_int_equal(child(&of_a->tree.root, 0)->self_wall_ns, 1000 + 1000);
    assert_int_equal(child(&of_a->tree.root, 0)->self_cpu_ns, 1000 + 500);
    assert_int_equal(child(&of_a->tree.root, 1)->self_wall_ns, 2000); // waits
    assert_int_equal(child(&of_a->tree.root, 1)->self_cpu_ns, 0);
    assert_int_equal(of_a->cpu_ns, 1500);
    assert_int_equal(child(&of_b->tree.root, 0)->self_wall_ns, 1000 + 1000); // waits
    assert_int_equal(child(&of_b->tree.root, 0)->self_cpu_ns, 0);
    assert_int_equal(child(&of_b->tree.root, 1)->self_wall_ns, 2000);
    assert_int_equal(child(&of_b->tree.root, 1)->self_cpu_ns, 2000);
    assert_int_equal(of_b->cpu_ns, 2000);
    assert_int_equal(of_a->tree.root.self_wall_ns + of_b->tree.root.self_wall_ns, 0);
    rig_fini(&rig);
}

/* An action waits for a thread that works for it, and is met with a CPU at two of three looks. What
 * it used before the action began is not the action's. */
static void test_registry_adds_what_a_thread_uses_for_a_waiting_action(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1000);
    pom_anchor_t anchor = anchor_of(a, 1000, 0);
    // Meanwhile the action's own thread has used 300 ns for others.
    pom_sample_t s = {.at_ns = 2000, .cpu_ns = 100, .parked = true, .helped_cpu_ns = 5000};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    s = (pom_sample_t){.at_ns = 3000, .cpu_ns = 300, .parked = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30)));
    s = (pom_sample_t){.at_ns = 5000, .cpu_ns = 300, .parked = true, .helped_cpu_ns = 2500};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    // What comes after a look that found no thread is its own from there on.
    s = (pom_sample_t){
        .at_ns = 7000, .cpu_ns = 300, .parked = true, .helped_cpu_ns = POM_WALK_UNHELPED};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30)));
    s = (pom_sample_t){.at_ns = 7100, .cpu_ns = 300, .parked = true, .helped_cpu_ns = 9000};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    a->cpu_ns = 350; // 50 of its own, at its end
    rig_end(&rig, a, 8000);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(child(&p->tree.root, 0)->self_cpu_ns, 1000 + 2500 + 100);
    assert_int_equal(child(&p->tree.root, 1)->self_cpu_ns, 0);
    assert_int_equal(p->tree.root.self_cpu_ns, 50);
    assert_int_equal(p->cpu_ns, 3600 + 50);
    rig_fini(&rig);
}

/* Of two that take turns, one was met only as its thread waited for a CPU, and then as it waited
 * for its turn. */
static void test_registry_keeps_the_time_of_what_is_never_met_running(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1000);
    pom_anchor_t anchor = anchor_of(a, 1000, 100);
    pom_sample_t s = {.at_ns = 2000, .cpu_ns = 800};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    s = (pom_sample_t){.at_ns = 9000, .cpu_ns = 7300, .parked = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30)));
    rig_end(&rig, a, 10000);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->cpu_ns, 700);
    assert_int_equal(p->tree.root.self_cpu_ns, 700); // which line used it nobody saw
    rig_fini(&rig);
}

/* Looks in between that met no anchor: what the thread did then is not the next line's. */
static void test_registry_gives_a_line_no_time_from_elsewhere(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1000);
    pom_anchor_t anchor = anchor_of(a, 1000, 100);
    pom_sample_t s = {.at_ns = 2000, .cpu_ns = 200, .running = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    s = (pom_sample_t){.at_ns = 9000,
                       .cpu_ns = 7300,
                       .running = true,
                       .since_ns = 8000, // the last look that met something else
                       .since_cpu_ns = 6900};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30)));
    a->cpu_ns = 7300 - 100;
    rig_end(&rig, a, 10000);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(child(&p->tree.root, 1)->self_wall_ns, 1000);
    assert_int_equal(child(&p->tree.root, 1)->self_cpu_ns, 400);
    assert_int_equal(p->tree.root.self_wall_ns, 9000 - 2000);
    assert_int_equal(p->cpu_ns, 100 + 400);
    rig_fini(&rig);
}

static void test_registry_survives_a_clock_that_cannot_be_read(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 1);
    pom_anchor_t anchor = anchor_of(a, 1, 1000000);
    static const int64_t clock[] = {1000010, 0, 1000030, 0, 0, 1000040};
    for (int i = 0; i < 6; i++) {
        pom_sample_t s = {.at_ns = 100 * (i + 1), .cpu_ns = clock[i], .running = true};
        assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    }
    rig_end(&rig, a, 1000);
    assert_int_equal(only_profile(&rig)->cpu_ns, 40);
    rig_fini(&rig);
}

static void test_registry_totals_are_never_below_what_was_sampled(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 900, .cpu_ns = 800, .running = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    a->cpu_ns = 700;       // its holder could not read the clock of the last stretch
    rig_end(&rig, a, 850); // nor did it hurry
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->wall_ns, 900);
    assert_int_equal(p->cpu_ns, 800);
    assert_int_equal(p->tree.root.self_wall_ns, 0);
    assert_int_equal(p->tree.root.self_cpu_ns, 0);
    rig_fini(&rig);
}

static void test_registry_counts_misses_and_cuts(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    for (int reason = 0; reason < POM_MISS_COUNT; reason++) {
        for (int i = 0; i <= reason; i++) {
            rig.client->missed(rig.client, &anchor, (pom_miss_t)reason);
        }
    }
    static pom_stack_t stack = {.depth = 1, .truncated = true, .frames = {{.code = 20}}};
    pom_sample_t s = {.at_ns = 10};
    assert_true(rig_sample(&rig, &anchor, &s, &stack, 0));
    rig_end(&rig, a, 20);
    const pom_profile_t *p = only_profile(&rig);
    for (int reason = 0; reason < POM_MISS_COUNT; reason++) {
        assert_int_equal(p->missed[reason], reason + 1);
    }
    assert_int_equal(p->tree.cuts.depth, 1);
    rig_fini(&rig);
}

static void test_registry_hides_internal_frames(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 10};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10001, 20, 10002, 10)));
    assert_true(rig_post(&rig, a, 20, PATH(10003, 20, 10), "m"));
    rig_end(&rig, a, 30);
    const pom_node_t *ten = child(&only_profile(&rig)->tree.root, 0);
    assert_node(ten, "g10");
    assert_node(child(ten, 0), "g20");
    assert_null(child(child(ten, 0), 0));
    assert_node(child(ten, 1), "!m");
    assert_int_equal(child(ten, 1)->line, 20);
    rig_fini(&rig);
}

/* acceptance: PM6 */
static void test_registry_takes_the_granularity_of_the_begin(void **state) {
    static const pom_granularity_t each[] = {POM_BY_FILE, POM_BY_FUNCTION, POM_BY_LINE};
    rig_t rig;
    rig_init(&rig);
    pom_registry_options_t options = rig_options();
    for (int i = 0; i < 3; i++) {
        options.granularity = each[i];
        pom_registry_configure(rig.registry, &options);
        pom_action_t *a = rig_begin(&rig, 0);
        pom_anchor_t anchor = anchor_of(a, 0, 0);
        pom_sample_t s = {.at_ns = 10};
        assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
        rig_end(&rig, a, 30);
        assert_int_equal(only_profile(&rig)->tree.granularity, each[i]);
        rig_forget(&rig);
    }
    rig_fini(&rig);
}

/* acceptance: PM3, PM8 */
static void test_registry_takes_a_new_limit(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_window_t window = {.period_ns = 1, .helpless = true};
    rig.client->window(rig.client, &window);
    assert_int_equal(pom_registry_stats(rig.registry).allowed, 10);
    pom_registry_options_t options = rig_options();
    options.max_actions_per_run = 3;
    pom_registry_configure(rig.registry, &options);
    assert_int_equal(pom_registry_stats(rig.registry).allowed, 3);
    rig_fini(&rig);
}

/* acceptance: PM10 */
static void test_registry_takes_a_new_source_without_growing(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_registry_options_t options = rig_options();
    options.source = "web-2";
    pom_registry_configure(rig.registry, &options);
    int64_t live = pom_alloc_live_bytes();
    for (int i = 0; i < 1000; i++) {
        options.source = i % 2 == 0 ? "web-1" : "web-2";
        pom_registry_configure(rig.registry, &options);
    }
    assert_int_equal(pom_alloc_live_bytes(), live);
    rig_end(&rig, rig_begin(&rig, 0), 10);
    assert_true(text_is(only_profile(&rig)->source, "web-2"));
    rig_fini(&rig);
}

static void test_registry_bills_an_action(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_window_t window = {.period_ns = 12, .overhead_ppm = 34, .sample_cost_ns = 1000};
    rig.client->window(rig.client, &window);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_registry_charge(rig.registry, a, 300);
    pom_registry_charge(rig.registry, NULL, 50);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    for (int i = 1; i <= 3; i++) {
        pom_sample_t s = {.at_ns = i};
        assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    }
    rig_end(&rig, a, 10);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->overhead_cpu_ns, 300 + 3 * 1000);
    assert_int_equal(p->period_ns, 12);
    assert_int_equal(p->overhead_ppm, 34);
    assert_int_equal(pom_registry_stats(rig.registry).in_request_ns, 350);
    assert_int_equal(rig.client->other_cost_ns(rig.client), 350);
    rig_fini(&rig);
}

static int64_t cost_of_the_rest(void *context) {
    return *(int64_t *)context;
}

static void test_registry_tells_what_the_rest_costs(void **state) {
    rig_t rig;
    rig_init(&rig);
    int64_t cost_ns = 7;
    pom_registry_set_cost_source(rig.registry, cost_of_the_rest, &cost_ns);
    pom_registry_charge(rig.registry, NULL, 50);
    assert_int_equal(rig.client->other_cost_ns(rig.client), 57);
    cost_ns = 9;
    assert_int_equal(rig.client->other_cost_ns(rig.client), 59);
    rig_fini(&rig);
}

static const pom_profile_t *sampled_in_windows(rig_t *rig, const pom_window_t *windows, int count) {
    pom_action_t *a = rig_begin(rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    for (int i = 0; i < count; i++) {
        rig->client->window(rig->client, &windows[i]);
        pom_sample_t s = {.at_ns = i + 1};
        assert_true(rig_sample_path(rig, &anchor, &s, PATH(20)));
    }
    rig_end(rig, a, 10);
    return only_profile(rig);
}

static void test_registry_tells_the_mean_of_the_periods_wanted(void **state) {
    rig_t rig;
    rig_init(&rig);
    static const pom_window_t windows[] = {{.period_ns = 10}, {.period_ns = 20}, {.period_ns = 60}};
    const pom_profile_t *p = sampled_in_windows(&rig, windows, 3);
    assert_int_equal(p->period_ns, 30); // three samples, which stand for 90
    rig_fini(&rig);
}

static void test_registry_tells_the_period_that_was_wanted_at_the_time(void **state) {
    rig_t rig;
    rig_init(&rig);
    static const pom_window_t before = {.period_ns = 10}, after = {.period_ns = 60};
    pom_action_t *sampled = rig_begin(&rig, 0), *never = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(sampled, 0, 0);
    rig.client->window(rig.client, &before);
    pom_sample_t s = {.at_ns = 1};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    rig.client->window(rig.client, &after);
    rig_end(&rig, sampled, 10);
    rig_end(&rig, never, 10);
    (void)rig_tick(&rig);
    assert_int_equal(rig.kept[0]->period_ns, 10);
    assert_int_equal(rig.kept[1]->period_ns, 60); // no sample: what is wanted now
    rig_fini(&rig);
}

static void test_registry_bills_samples_at_the_last_known_price(void **state) {
    rig_t rig;
    rig_init(&rig);
    static const pom_window_t windows[] = {{.sample_cost_ns = 7000}, {.sample_cost_ns = 0}};
    assert_int_equal(sampled_in_windows(&rig, windows, 2)->overhead_cpu_ns, 2 * 7000);
    rig_fini(&rig);
}

static void test_registry_guesses_the_price_before_the_first_window(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 3};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20)));
    rig_end(&rig, a, 10);
    assert_in_range(only_profile(&rig)->overhead_cpu_ns, POM_NS_PER_US, 100 * POM_NS_PER_US);
    rig_fini(&rig);
}

/* A tree as large as it may get must not cost the record its name. */
static void test_registry_names_an_action_whose_tree_is_full(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    char large[8001];
    memset(large, 'x', 8000);
    large[8000] = '\0';
    for (int i = 0; i < 1200; i++) {
        assert_true(rig_post(&rig, a, i, PATH(20, 10), large));
        (void)rig_tick(&rig);
    }
    a->exception = pom_action_text(a, "E", 1);
    a->reason = pom_action_text(a, large, 3000);
    rig_end(&rig, a, 5000);
    const pom_profile_t *p = only_profile(&rig);
    assert_true(p->tree.cuts.messages > 0);
    assert_true(pom_profile_bytes(p) < (9u << 20));
    assert_true(text_is(p->type, "job"));
    assert_true(text_is(p->source, "web-1"));
    assert_true(p->fields_size > 3000);
    rig_fini(&rig);
}

/* ---- order ----------------------------------------------------------------------------------- */

/* acceptance: PM13 */
static void test_registry_orders_messages_among_samples(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30, 20, 10)));
    assert_true(rig_post(&rig, a, 150, PATH(20, 10), "one"));
    assert_true(rig_post(&rig, a, 250, PATH(20, 10), "two"));
    // Taken between the two, seen after both were queued.
    s.at_ns = 200;
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30, 20, 10)));
    s.at_ns = 300;
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(30, 20, 10)));
    rig_end(&rig, a, 400);
    const pom_profile_t *p = only_profile(&rig);
    const pom_node_t *ten = child(&p->tree.root, 0);
    assert_node(ten, "g10");
    static const char *const want[] = {"g20", "!one", "g20", "!two", "g20"};
    for (int i = 0; i < 5; i++) {
        assert_node(child(ten, i), want[i]);
        if (i % 2 == 0) {
            assert_int_equal(child(ten, i)->total_wall_ns, 100);
            assert_node(child(child(ten, i), 0), "g30");
        }
    }
    assert_null(child(ten, 5));
    assert_int_equal(ten->total_wall_ns, 300);
    rig_fini(&rig);
}

static void test_registry_keeps_messages_without_a_stack(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    assert_true(rig_post(&rig, a, 1, NULL, "bare"));
    rig_end(&rig, a, 2);
    assert_node(child(&only_profile(&rig)->tree.root, 0), "!bare");
    rig_fini(&rig);
}

static void test_registry_takes_a_sample_before_the_end_of_its_own_action(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0), *other = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    rig_end(&rig, other, 150);
    assert_true(rig_post(&rig, a, 160, PATH(10), "m"));
    rig_end(&rig, a, 190); // queued after the walk, before the sampler got here
    pom_sample_t s = {.at_ns = 200};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10)));
    assert_int_equal(rig.count, 1); // what was over before is sealed by now
    assert_int_equal(rig.kept[0]->end_ns, 150);
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, 2);
    const pom_profile_t *p = rig.kept[1];
    assert_int_equal(p->samples, 1);
    assert_node(child(&p->tree.root, 0), "!m");
    assert_node(child(&p->tree.root, 1), "g10");
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_leaves_an_end_that_comes_after_a_sample(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0), *other = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    rig_end(&rig, other, 250);
    pom_sample_t s = {.at_ns = 200};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10)));
    assert_int_equal(rig.count, 0);
    s.at_ns = 250;
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10)));
    assert_int_equal(rig.count, 1);
    rig_end(&rig, a, 300);
    rig_fini(&rig);
}

static void test_registry_says_whether_anything_was_queued(void **state) {
    rig_t rig;
    rig_init(&rig);
    assert_true(rig.client->idle(rig.client));
    assert_false(rig_tick(&rig));
    pom_action_t *a = rig_begin(&rig, 0);
    assert_true(rig.client->idle(rig.client)); // an anchor, not an action, keeps the sampler awake
    assert_true(rig_post(&rig, a, 50, NULL, "m"));
    assert_false(rig.client->idle(rig.client));
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 10};
    assert_true(
        rig_sample_path(&rig, &anchor, &s, PATH(20))); // fetches the message, does not apply it
    assert_false(rig.client->idle(rig.client));
    assert_true(rig_tick(&rig));
    assert_true(rig.client->idle(rig.client));
    rig_end(&rig, a, 60);
    assert_false(rig.client->idle(rig.client));
    assert_true(rig_tick(&rig));
    assert_false(rig_tick(&rig));
    rig_fini(&rig);
}

/* ---- code that dies -------------------------------------------------------------------------- */

static pom_code_table_t *dying_in;

static pom_code_t *resolve_while_one_dies(pom_code_resolver_t *self, uintptr_t key, bool gil_held) {
    pom_code_t *code = fake_resolve(self, key, gil_held);
    if (dying_in != NULL) {
        pom_code_table_forget(dying_in, 9999);
    }
    return code;
}

static void test_registry_drops_a_sample_whose_code_died(void **state) {
    static pom_code_resolver_t resolver = {.resolve = resolve_while_one_dies};
    rig_t rig;
    pom_registry_options_t options = rig_options();
    assert_true(rig_try_with(&rig, &options, &resolver));
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100, .cpu_ns = 50, .running = true};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10)));
    assert_int_equal(pom_code_table_stats(rig.codes).live, 1);

    uintptr_t keys[1001];
    for (uintptr_t i = 0; i < 1000; i++) {
        keys[i] = 1000 + i;
    }
    keys[1000] = 0;
    dying_in = rig.codes;
    s.at_ns = 200;
    assert_false(rig_sample_path(&rig, &anchor, &s, keys));
    dying_in = NULL;
    assert_int_equal(pom_code_table_stats(rig.codes).live, 1); // none of 1000 claims is trusted

    // A death elsewhere does no harm to what is known already.
    pom_sample_t old = {.at_ns = 300, .cpu_ns = 90, .running = true};
    static pom_stack_t stack = {.depth = 1, .frames = {{.code = 10, .lasti = 1}}};
    uint64_t epoch = pom_code_table_epoch(rig.codes);
    pom_code_table_forget(rig.codes, 8888);
    assert_true(rig_sample(&rig, &anchor, &old, &stack, epoch));

    rig_end(&rig, a, 400);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->samples, 2);
    assert_int_equal(p->tree.node_count, 1);
    // The time of the dropped sample went to the next one.
    assert_int_equal(child(&p->tree.root, 0)->self_wall_ns, 300);
    assert_int_equal(child(&p->tree.root, 0)->self_cpu_ns, 90);
    rig_fini(&rig);
}

/* Names the code by the number of its reading. */
static pom_code_t *resolve_by_turn(pom_code_resolver_t *self, uintptr_t key, bool gil_held) {
    static uintptr_t turn;
    (void)key;
    return fake_resolve(self, ++turn, gil_held);
}

/* Of key 13 there is no code, nor of none. */
static pom_code_t *resolve_but_13(pom_code_resolver_t *self, uintptr_t key, bool gil_held) {
    static const pom_code_spec_t garbage = {.unknown = true, .garbage = true};
    return key == 13 || key == 0 ? pom_code_new(&garbage) : fake_resolve(self, key, gil_held);
}

static void test_registry_drops_a_stack_with_what_is_no_code(void **state) {
    static pom_code_resolver_t resolver = {.resolve = resolve_but_13};
    rig_t rig;
    pom_registry_options_t options = rig_options();
    assert_true(rig_try_with(&rig, &options, &resolver));
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100};
    assert_false(rig_sample_path(&rig, &anchor, &s, PATH(11, 13, 10)));
    assert_false(
        rig_sample_path(&rig, &anchor, &s, PATH(11, 13, 10))); // what is known does not hide it
    static const pom_stack_t none = {.depth = 2, .frames = {{.code = 0, .lasti = 1}, {.code = 10}}};
    assert_false(rig_sample(&rig, &anchor, &s, &none, 0));
    assert_false(rig_sample(&rig, &anchor, &s, &none, 0));
    s.at_ns = 200;
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(11, 12, 10)));
    rig_end(&rig, a, 300);
    const pom_profile_t *p = only_profile(&rig);
    assert_int_equal(p->samples, 1);
    assert_int_equal(p->tree.node_count, 3);
    rig_fini(&rig);
}

static bool born_at_13;

static pom_code_t *resolve_13_once_born(pom_code_resolver_t *self, uintptr_t key, bool gil_held) {
    return (born_at_13 ? fake_resolve : resolve_but_13)(self, key, gil_held);
}

static void test_registry_names_a_code_born_where_none_was(void **state) {
    static pom_code_resolver_t resolver = {.resolve = resolve_13_once_born};
    rig_t rig;
    pom_registry_options_t options = rig_options();
    assert_true(rig_try_with(&rig, &options, &resolver));
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100};
    born_at_13 = false;
    assert_false(rig_sample_path(&rig, &anchor, &s, PATH(13, 10)));
    born_at_13 = true; // no death is announced: there was no code
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(13, 10)));
    rig_end(&rig, a, 300);
    assert_node(child(child(&only_profile(&rig)->tree.root, 0), 0), "g13");
    rig_fini(&rig);
}

static void test_registry_names_a_successor_at_a_dead_codes_address(void **state) {
    static pom_code_resolver_t resolver = {.resolve = resolve_by_turn};
    rig_t rig;
    pom_registry_options_t options = rig_options();
    assert_true(rig_try_with(&rig, &options, &resolver));
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10)));
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10))); // known: not read again
    pom_code_table_forget(rig.codes, 10);
    (void)rig_tick(&rig);
    (void)rig_tick(&rig); // the dead one's memory is gone
    s.at_ns = 200;
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10)));
    rig_end(&rig, a, 300);
    const pom_profile_t *p = only_profile(&rig);
    assert_node(child(&p->tree.root, 0), "g1");
    assert_int_equal(child(&p->tree.root, 0)->hits, 2);
    assert_node(child(&p->tree.root, 1), "g2");
    rig_fini(&rig);
}

static void test_registry_frees_codes_that_died(void **state) {
    rig_t rig;
    rig_init(&rig);
    int64_t before = pom_alloc_live_bytes();
    for (int i = 0; i < 100; i++) {
        assert_non_null(pom_code_table_get(rig.codes, 10, true, NULL));
        pom_code_table_forget(rig.codes, 10);
        (void)rig_tick(&rig);
    }
    (void)rig_tick(&rig);
    assert_int_equal(pom_alloc_live_bytes(), before);
    rig_fini(&rig);
}

static pom_action_t *logging_action;

/* While the sampler seals something, an app thread logs from a code that dies at once. */
static void log_and_die(rig_t *rig) {
    rig->on_put = NULL;
    assert_true(rig_post(rig, logging_action, 50, PATH(66, 10), "last words"));
    pom_code_table_forget(rig->codes, 66);
}

static void test_registry_keeps_codes_of_events_in_the_queue(void **state) {
    rig_t rig;
    rig_init(&rig);
    logging_action = rig_begin(&rig, 0);
    rig_end(&rig, rig_begin(&rig, 0), 40);
    rig.on_put = log_and_die;
    (void)rig_tick(&rig); // has fetched its events before the message comes, and reaps after
    (void)rig_tick(&rig);
    rig_end(&rig, logging_action, 100);
    (void)rig_tick(&rig);
    const pom_node_t *ten = child(&rig.kept[1]->tree.root, 0);
    assert_node(ten, "g10");
    assert_node(child(ten, 0), "!last words");
    assert_string_equal(child(ten, 0)->code->function, "g66");
    rig_fini(&rig);
}

/* ---- caps and pools -------------------------------------------------------------------------- */

static void test_registry_drops_events_beyond_the_cap(void **state) {
    static const struct {
        uint32_t size;
        int32_t room, wakes;
    } cases[] = {
        {10, POM_EVENTS_QUEUED_MAX, 8},
        {2000, POM_EVENTS_QUEUED_MAX / 4, 8},
        {8000, POM_EVENTS_QUEUED_MAX / 48, 7}, // 170 x 48 = 8160
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        rig_t rig;
        rig_init(&rig);
        pom_action_t *a = rig_begin(&rig, 0), *other = rig_begin(&rig, 0);
        for (int round = 1; round <= 2; round++) { // applied, there is room again
            int32_t wakes = 0;
            for (int32_t i = 0; i < cases[c].room; i++) {
                pom_event_t *event = pom_registry_event(rig.registry, a, 0, cases[c].size);
                assert_non_null(event);
                event->fields_size = 1; // less than was asked for
                ((char *)pom_event_fields(event))[0] = 'm';
                event->at_ns = i;
                wakes += pom_registry_post(rig.registry, event);
            }
            assert_int_equal(wakes, cases[c].wakes);
            assert_null(pom_registry_event(rig.registry, a, 0, cases[c].size));
            assert_true(rig_post(&rig, other, 0, NULL, "not its fault"));
            assert_int_equal(a->dropped_events, round);
            assert_int_equal(pom_registry_stats(rig.registry).dropped_events, round);
            (void)rig_tick(&rig);
        }
        rig_end(&rig, a, 100000);
        assert_int_equal(only_profile(&rig)->dropped_events, 2);
        rig_end(&rig, other, 100000);
        (void)rig_tick(&rig);
        assert_int_equal(rig.kept[1]->dropped_events, 0);
        rig_fini(&rig);
    }
}

static void test_registry_refuses_events_of_absurd_size(void **state) {
    static const struct {
        int32_t depth;
        uint32_t size;
        bool good;
    } cases[] = {
        {0, 0, true},
        {POM_EVENT_FRAMES_MAX, POM_EVENT_FIELDS_MAX, true},
        {POM_EVENT_FRAMES_MAX + 1, 0, false},
        {0, POM_EVENT_FIELDS_MAX + 1, false},
        {-1, 0, false},
        {-1, 100, false},
        {INT32_MIN, 0, false},
        {INT32_MAX, 0, false},
        {0, UINT32_MAX, false},
        {INT32_MAX, UINT32_MAX, false},
    };
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    int32_t refused = 0;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        pom_event_t *event = pom_registry_event(rig.registry, a, cases[c].depth, cases[c].size);
        assert_int_equal(event != NULL, cases[c].good);
        refused += !cases[c].good;
        assert_int_equal(a->dropped_events, refused);
        if (event != NULL) {
            for (int32_t i = 0; i < cases[c].depth; i++) {
                pom_event_frames(event)[i] = (pom_event_frame_t){
                    .code = pom_code_table_get(rig.codes, 20, true, NULL), .lasti = 1};
            }
            memset(pom_event_fields(event), 'x', cases[c].size); // the sanitizer looks on
            event->at_ns = 1;
            (void)pom_registry_post(rig.registry, event);
        }
    }
    rig_end(&rig, a, 10);
    assert_int_equal(only_profile(&rig)->tree.message_count, 2);
    rig_fini(&rig);
}

static void test_registry_pools_do_not_grow(void **state) {
    rig_t rig;
    rig_init(&rig);
    rig.count_only = true;
    int64_t warm = 0;
    for (int i = 0; i < MANY; i++) {
        pom_action_t *a = rig_begin(&rig, i);
        if (i % 16 == 0) {
            assert_true(rig_post(&rig, a, i, PATH(20, 10), "m"));
        }
        rig_end(&rig, a, i + 1);
        if (i % 8 == 0) {
            (void)rig_tick(&rig);
        }
        if (i == 1000) {
            warm = pom_alloc_live_bytes();
        }
        assert_true(i < 1000 ||
                    pom_alloc_live_bytes() <= warm + 16 * (int64_t)sizeof(pom_action_t));
    }
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, MANY);
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_begins_without_memory_for_good(void **state) {
    rig_t rig;
    rig_init(&rig);
    rig.count_only = true;
    for (int i = 0; i < 5000; i++) {
        pom_alloc_fail_from(i < 10 ? 0 : 1); // the first ones fill the pool
        pom_action_t *a = rig_begin(&rig, i);
        pom_alloc_fail_from(0);
        assert_non_null(a);
        rig_end(&rig, a, i + 1);
        (void)rig_tick(&rig);
    }
    rig_fini(&rig);
}

static void test_registry_gives_back_what_a_burst_took(void **state) {
    rig_t rig;
    rig_init(&rig);
    rig.count_only = true;
    enum { BURST = 2000 };
    static pom_action_t *actions[BURST];
    int64_t before = pom_alloc_live_bytes();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < BURST; i++) {
            actions[i] = rig_begin(&rig, 0);
            for (uint32_t size = 100; size < 9000; size *= 4) { // one of each class
                pom_event_t *event = pom_registry_event(rig.registry, actions[i], 0, size);
                event->at_ns = 1;
                event->fields_size = 0;
                (void)pom_registry_post(rig.registry, event);
            }
        }
        for (int i = 0; i < BURST; i++) {
            rig_end(&rig, actions[i], 2);
        }
        (void)rig_tick(&rig);
        // 1024 actions of some 5 KiB and three classes of 1 MiB, with the allocator's slack.
        assert_true(pom_alloc_live_bytes() - before < (9 << 20));
    }
    assert_int_equal(rig.count, 3 * BURST);
    assert_balanced(&rig);
    rig_fini(&rig);
}

/* ---- admission, abandon, free ---------------------------------------------------------------- */

/* acceptance: PM9 */
static void test_registry_sheds_over_budget_and_counts_it(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_window_t over = {.helpless = true}, within = {.helpless = false};
    rig.client->window(rig.client, &within);
    assert_int_equal(pom_registry_stats(rig.registry).allowed, -1);
    rig.client->window(rig.client, &over);
    assert_int_equal(pom_registry_stats(rig.registry).allowed, 10);
    assert_false(rig.client->idle(rig.client)); // windows must go on, or the limit would stay
    for (int i = 0; i < 25; i++) {
        pom_action_t *a = rig_begin(&rig, i);
        assert_int_equal(a != NULL, i < 10);
        if (a != NULL) {
            rig_end(&rig, a, i + 1);
        }
    }
    (void)rig_tick(&rig);
    pom_registry_stats_t s = pom_registry_stats(rig.registry);
    assert_int_equal(s.started, 25);
    assert_int_equal(s.profiled, 10);
    assert_int_equal(s.shed, 15);
    assert_int_equal(s.finished, 10);
    for (int i = 0; i < 15; i++) {
        rig.client->window(rig.client, &within);
    }
    assert_int_equal(pom_registry_stats(rig.registry).allowed, -1);
    assert_true(rig.client->idle(rig.client));
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void end_next(rig_t *rig, int64_t at_ns) {
    rig_end(rig, rig_begin(rig, at_ns), at_ns + 1);
    (void)rig_tick(rig);
}

/* acceptance: PM9 */
static void test_registry_profiles_tell_how_many_were_shed(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_window_t over = {.helpless = true};
    end_next(&rig, 1);
    rig.client->window(rig.client, &over);
    pom_action_t *first = rig_begin(&rig, 10), *second = rig_begin(&rig, 11);
    for (int i = 0; i < 20; i++) {
        pom_action_t *a = rig_begin(&rig, 12);
        if (a != NULL) {
            rig_end(&rig, a, 90);
        }
    }
    rig_end(&rig, first, 20);
    rig_end(&rig, second, 21);
    (void)rig_tick(&rig);
    rig.client->window(rig.client, &over); // a new cycle, a new allowance
    end_next(&rig, 100);
    assert_int_equal(rig.count, 1 + 10 + 1);
    int64_t told = 0;
    for (int i = 0; i < rig.count; i++) {
        told += rig.kept[i]->shed;
    }
    assert_int_equal(told, pom_registry_stats(rig.registry).shed);
    assert_int_equal(rig.kept[0]->shed, 0);
    assert_int_equal(rig.kept[1]->shed, 12); // the first one sealed tells them all
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_sheds_while_too_many_wait_for_the_sampler(void **state) {
    rig_t rig;
    rig_init(&rig);
    rig.count_only = true;
    int hurries = 0, begun = 0;
    for (int i = 0; i < 5000; i++) {
        pom_action_t *a = rig_begin(&rig, i);
        if (a != NULL) {
            a->end_ns = i;
            hurries += pom_registry_end(rig.registry, a);
            begun++;
        }
    }
    assert_int_equal(begun, 1024);
    assert_int_equal(hurries, 8);
    (void)rig_tick(&rig);
    assert_non_null(rig_begin(&rig, 6000));
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_sheds_for_nothing_that_is_lost_or_goes_on(void **state) {
    rig_t rig;
    rig_init(&rig);
    rig.count_only = true;
    for (int i = 0; i < 3000; i++) {
        pom_action_t *a = rig_begin(&rig, 0);
        assert_non_null(a);
        a->outcome = POM_OUTCOME_LOST;
        rig_end(&rig, a, 10);
        (void)rig_tick(&rig);
    }
    for (int i = 0; i < 3000; i++) {
        assert_non_null(rig_begin(&rig, 0));
    }
    assert_int_equal(pom_registry_stats(rig.registry).lost, 3000);
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_abandons_live_actions_as_lost(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *actions[5];
    for (int i = 0; i < 5; i++) {
        actions[i] = rig_begin(&rig, 10 * i);
    }
    rig_end(&rig, actions[2], 500);
    assert_int_equal(pom_registry_abandon(rig.registry, 1000), 4);
    assert_int_equal(pom_registry_abandon(rig.registry, 2000), 0);
    (void)rig_tick(&rig);
    assert_int_equal(rig.count, 5);
    for (int i = 0; i < 5; i++) {
        bool lost = rig.kept[i]->outcome == POM_OUTCOME_LOST;
        assert_int_equal(rig.kept[i]->end_ns, lost ? 1000 : 500);
    }
    pom_registry_stats_t s = pom_registry_stats(rig.registry);
    assert_int_equal(s.lost, 4);
    assert_int_equal(s.finished, 1);
    assert_int_equal(s.in_flight, 0);
    rig_end(&rig, rig_begin(&rig, 3000), 4000); // and it goes on
    (void)rig_tick(&rig);
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_unlinks_live_actions_in_any_order(void **state) {
    static const int orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {2, 0, 3, 1}};
    rig_t rig;
    rig_init(&rig);
    rig.count_only = true;
    for (size_t o = 0; o < sizeof orders / sizeof orders[0]; o++) {
        pom_action_t *actions[4];
        for (int i = 0; i < 4; i++) {
            actions[i] = rig_begin(&rig, 0);
        }
        for (int i = 0; i < 3; i++) {
            rig_end(&rig, actions[orders[o][i]], 1);
        }
        assert_int_equal(pom_registry_abandon(rig.registry, 2), 1);
        (void)rig_tick(&rig);
        assert_balanced(&rig);
    }
    rig_fini(&rig);
}

static void test_registry_free_seals_what_ended_and_frees_the_rest(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *ended = rig_begin(&rig, 0), *live = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(live, 0, 0);
    pom_sample_t s = {.at_ns = 10};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10)));
    assert_true(rig_post(&rig, live, 20, PATH(20, 10), "m"));
    rig_end(&rig, ended, 30);
    pom_registry_free(rig.registry);
    rig.registry = NULL;
    assert_int_equal(rig.count, 1);
    rig_fini(&rig);
    pom_registry_free(NULL);
}

/* ---- no memory ------------------------------------------------------------------------------- */

static void test_registry_counts_profiles_it_had_no_memory_for(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    rig_end(&rig, a, 10);
    pom_alloc_fail_from(1);
    (void)rig_tick(&rig);
    pom_alloc_fail_from(0);
    assert_int_equal(rig.count, 0);
    assert_int_equal(pom_registry_stats(rig.registry).no_memory, 1);
    assert_int_equal(pom_registry_stats(rig.registry).finished, 1);
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_counts_messages_it_had_no_memory_for(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    assert_true(rig_post(&rig, a, 1, NULL, "lost"));
    assert_true(rig_post(&rig, a, 2, NULL, "lost too"));
    pom_alloc_fail_from(1);
    (void)rig_tick(&rig);
    pom_alloc_fail_from(0);
    assert_int_equal(pom_registry_stats(rig.registry).dropped_events, 2);
    assert_true(rig_post(&rig, a, 3, NULL, "kept"));
    rig_end(&rig, a, 10);
    assert_int_equal(only_profile(&rig)->dropped_events, 2);
    assert_int_equal(only_profile(&rig)->tree.message_count, 1);
    assert_balanced(&rig);
    rig_fini(&rig);
}

static void test_registry_names_a_code_once_there_is_memory(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = rig_begin(&rig, 0);
    pom_anchor_t anchor = anchor_of(a, 0, 0);
    pom_sample_t s = {.at_ns = 100};
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(10)));
    pom_alloc_fail_from(1);
    s.at_ns = 200;
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10)));
    pom_alloc_fail_from(0);
    s.at_ns = 300;
    assert_true(rig_sample_path(&rig, &anchor, &s, PATH(20, 10))); // the same, and no code has died
    rig_end(&rig, a, 300);
    const pom_profile_t *p = only_profile(&rig);
    const pom_node_t *caller = child(&p->tree.root, 0);
    assert_string_equal(child(caller, 0)->code->function, "<no memory>");
    assert_node(child(caller, 1), "g20");
    rig_fini(&rig);
}

static void test_registry_goes_without_a_source_it_had_no_memory_for(void **state) {
    rig_t rig;
    pom_alloc_fail_from(0); // counts anew
    rig_init(&rig);
    int64_t calls = pom_alloc_calls();
    rig_fini(&rig);
    pom_registry_options_t options = rig_options();
    pom_alloc_fail_from(calls); // the last one, which is the source's
    assert_true(rig_try(&rig, &options));
    pom_alloc_fail_from(0);
    rig_end(&rig, rig_begin(&rig, 0), 10);
    assert_true(text_is(only_profile(&rig)->source, ""));
    rig_forget(&rig);
    pom_registry_configure(rig.registry, &options); // there is memory again
    rig_end(&rig, rig_begin(&rig, 0), 10);
    assert_true(text_is(only_profile(&rig)->source, "web-1"));
    rig_fini(&rig);
}

static bool live_a_life(void *arg) {
    (void)arg;
    rig_t rig;
    pom_registry_options_t options = rig_options();
    bool whole = rig_try(&rig, &options);
    if (whole) {
        pom_action_t *a = rig_begin(&rig, 0), *b = rig_begin(&rig, 0), *c = rig_begin(&rig, 0);
        options.source = "elsewhere";
        pom_registry_configure(rig.registry, &options);
        for (int64_t i = 1; a != NULL && i <= 40; i++) {
            pom_anchor_t anchor = anchor_of(a, 0, 0);
            pom_sample_t s = {.at_ns = 10 * i};
            (void)rig_sample_path(&rig, &anchor, &s, PATH(1000 + (uintptr_t)i, 20, 10));
            whole = rig_post(&rig, a, 10 * i + 1, PATH(30, 20, 10), "m") && whole;
            (void)rig_tick(&rig);
        }
        if (a != NULL) {
            rig_end(&rig, a, 1000);
        }
        if (b != NULL) {
            rig_end(&rig, b, 1000);
        }
        (void)rig_tick(&rig);
        whole = whole && c != NULL && rig.count == 2 && rig.kept[0]->tree.message_count == 40;
        assert_balanced(&rig);
        pom_registry_stats_t s = pom_registry_stats(rig.registry);
        assert_int_equal(s.finished, rig.count + s.no_memory);
        (void)pom_registry_abandon(rig.registry, 2000);
    }
    rig_fini(&rig);
    return whole;
}

static void test_registry_survives_failing_allocations(void **state) {
    assert_true(pom_torture(live_a_life, NULL) > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_registry_makes_one_profile_of_an_action),
        POM_TEST(test_registry_keeps_fields_and_what_failed),
        POM_TEST(test_registry_leaves_keys_that_it_does_not_need),
        POM_TEST(test_registry_seals_a_long_stream_in_parts_that_add_up),
        POM_TEST(test_registry_holds_no_more_of_a_longer_stream),
        POM_TEST(test_registry_cuts_no_parts_unasked),
        POM_TEST(test_registry_tells_the_whole_time_from_the_begin),
        POM_TEST(test_registry_tells_a_miss_in_one_part),
        POM_TEST(test_registry_cuts_between_what_happened),
        POM_TEST(test_registry_ends_no_part_before_it_begins),
        POM_TEST(test_registry_cuts_a_stream_that_stands_still),
        POM_TEST(test_registry_weighs_samples_by_measured_time),
        POM_TEST(test_registry_gives_short_stretches_to_the_one_that_was_met),
        POM_TEST(test_registry_keeps_interleaved_actions_apart),
        POM_TEST(test_registry_charges_sleeps_to_where_they_were),
        POM_TEST(test_registry_weighs_a_standing_thread_where_it_stood),
        POM_TEST(test_registry_charges_nobody_for_time_between_attaches),
        POM_TEST(test_registry_shares_a_thread_among_its_actions),
        POM_TEST(test_registry_adds_what_a_thread_uses_for_a_waiting_action),
        POM_TEST(test_registry_keeps_the_time_of_what_is_never_met_running),
        POM_TEST(test_registry_gives_a_line_no_time_from_elsewhere),
        POM_TEST(test_registry_survives_a_clock_that_cannot_be_read),
        POM_TEST(test_registry_totals_are_never_below_what_was_sampled),
        POM_TEST(test_registry_counts_misses_and_cuts),
        POM_TEST(test_registry_hides_internal_frames),
        POM_TEST(test_registry_takes_the_granularity_of_the_begin),
        POM_TEST(test_registry_takes_a_new_limit),
        POM_TEST(test_registry_takes_a_new_source_without_growing),
        POM_TEST(test_registry_bills_an_action),
        POM_TEST(test_registry_tells_what_the_rest_costs),
        POM_TEST(test_registry_tells_the_mean_of_the_periods_wanted),
        POM_TEST(test_registry_tells_the_period_that_was_wanted_at_the_time),
        POM_TEST(test_registry_bills_samples_at_the_last_known_price),
        POM_TEST(test_registry_guesses_the_price_before_the_first_window),
        POM_TEST(test_registry_names_an_action_whose_tree_is_full),
        POM_TEST(test_registry_orders_messages_among_samples),
        POM_TEST(test_registry_keeps_messages_without_a_stack),
        POM_TEST(test_registry_takes_a_sample_before_the_end_of_its_own_action),
        POM_TEST(test_registry_leaves_an_end_that_comes_after_a_sample),
        POM_TEST(test_registry_says_whether_anything_was_queued),
        POM_TEST(test_registry_drops_a_sample_whose_code_died),
        POM_TEST(test_registry_drops_a_stack_with_what_is_no_code),
        POM_TEST(test_registry_names_a_code_born_where_none_was),
        POM_TEST(test_registry_names_a_successor_at_a_dead_codes_address),
        POM_TEST(test_registry_frees_codes_that_died),
        POM_TEST(test_registry_keeps_codes_of_events_in_the_queue),
        POM_TEST(test_registry_drops_events_beyond_the_cap),
        POM_TEST(test_registry_refuses_events_of_absurd_size),
        POM_TEST(test_registry_pools_do_not_grow),
        POM_TEST(test_registry_begins_without_memory_for_good),
        POM_TEST(test_registry_gives_back_what_a_burst_took),
        POM_TEST(test_registry_sheds_over_budget_and_counts_it),
        POM_TEST(test_registry_profiles_tell_how_many_were_shed),
        POM_TEST(test_registry_sheds_while_too_many_wait_for_the_sampler),
        POM_TEST(test_registry_sheds_for_nothing_that_is_lost_or_goes_on),
        POM_TEST(test_registry_abandons_live_actions_as_lost),
        POM_TEST(test_registry_unlinks_live_actions_in_any_order),
        POM_TEST(test_registry_free_seals_what_ended_and_frees_the_rest),
        POM_TEST(test_registry_counts_profiles_it_had_no_memory_for),
        POM_TEST(test_registry_counts_messages_it_had_no_memory_for),
        POM_TEST(test_registry_names_a_code_once_there_is_memory),
        POM_TEST(test_registry_goes_without_a_source_it_had_no_memory_for),
        POM_TEST(test_registry_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
