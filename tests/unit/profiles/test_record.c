/*
 * The record: golden texts of hand-built profiles, and what removing nodes (internal code, too deep
 * chains) must keep.
 *
 * Nodes are linked by hand, so that these tests do not lean on how a call tree merges.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "profiles/formats/json.h"
#include "profiles/formats/record.h"
#include "profiles/value.h"
#include "trace_emitter.h"

#define NODES 6000

static pom_profile_t profile;
static pom_node_t nodes[NODES];
static uint32_t node_count;
static pom_code_t *app, *view, *helper, *hidden;
static pom_buf_t buf;
static trace_t trace;

static pom_code_t *code_new(const char *file, const char *function, bool internal) {
    pom_code_spec_t spec = {.file = file,
                            .file_len = strlen(file),
                            .function = function,
                            .function_len = strlen(function),
                            .first_line = 1,
                            .internal = internal};
    pom_code_t *code = pom_code_new(&spec);
    assert_non_null(code);
    return code;
}

#define TEXT(literal)                                                                              \
    (pom_text_t) {                                                                                 \
        literal, sizeof(literal) - 1                                                               \
    }

static int set_up(void **state) {
    memset(&profile, 0, sizeof profile);
    node_count = 0;
    app = code_new("/srv/app.py", "App.__call__", false);
    view = code_new("/srv/views.py", "cart", false);
    helper = code_new("/srv/views.py", "cart.<locals>.<lambda>", false);
    hidden = code_new("<frozen runpy>", "run", true);
    pom_buf_init(&buf, 16 << 20);
    profile.task_id = (pom_id_t){UINT64_C(0x0123456789ab4def), UINT64_C(0x8123456789abcdef)};
    profile.thread = 140000000000001;
    profile.thread_name = TEXT("MainThread");
    profile.source = TEXT("shop");
    profile.pid = 42;
    profile.start_wall_ns = INT64_C(1795132800) * 1000000000; /* 2026-11-20T00:00:00Z */
    profile.start_ns = 5000000000;
    profile.end_ns = 5100000000;
    profile.wall_ns = 100000000;
    profile.cpu_ns = 30000000;
    profile.type = TEXT("/cart");
    profile.kind = TEXT("wsgi");
    profile.outcome = POM_OUTCOME_SUCCEEDED;
    profile.engine = TEXT("native");
    profile.period_ns = 10000000;
    profile.samples = 9;
    profile.overhead_cpu_ns = 123000;
    profile.overhead_ppm = 1500;
    profile.tree.granularity = POM_BY_LINE;
    profile.tree.node_count = 1;
    profile.tree.root.line = -1;
    return 0;
}

static int tear_down(void **state) {
    pom_code_unref(app);
    pom_code_unref(view);
    pom_code_unref(helper);
    pom_code_unref(hidden);
    pom_buf_fini(&buf);
    return pom_alloc_live_bytes() == 0 ? 0 : -1;
}

/* The last child of parent, with its own samples; totals come from settle(). */
static pom_node_t *add(pom_node_t *parent, pom_code_t *code, int32_t line, int64_t self_wall_ms,
                       int64_t self_cpu_ms) {
    assert_true(node_count < NODES);
    pom_node_t *node = &nodes[node_count++];
    memset(node, 0, sizeof *node);
    node->code = code;
    node->line = line;
    node->index = node_count; /* the root is 0 */
    node->parent = parent;
    node->self_wall_ns = self_wall_ms * 1000000;
    node->self_cpu_ns = self_cpu_ms * 1000000;
    node->hits = 1;
    node->first_ns = profile.start_ns + 10000000;
    node->last_ns = profile.start_ns + 20000000;
    if (parent->last_child != NULL) {
        parent->last_child->next = node;
    } else {
        parent->first_child = node;
    }
    parent->last_child = node;
    profile.tree.node_count++;
    return node;
}

static pom_node_t *add_message(pom_node_t *parent, pom_code_t *code, int32_t line,
                               const void *fields, size_t size) {
    pom_node_t *node = add(parent, code, line, 0, 0);
    node->hits = 0;
    node->first_ns = node->last_ns = profile.start_ns + 15000000;
    node->message = fields;
    node->message_size = (uint32_t)size;
    return node;
}

/* Children were added after their parents: backwards, each total is complete when it is added
 * up. */
static void settle(void) {
    for (uint32_t i = 0; i < node_count; i++) {
        nodes[i].total_wall_ns = nodes[i].self_wall_ns;
        nodes[i].total_cpu_ns = nodes[i].self_cpu_ns;
    }
    for (uint32_t i = node_count; i-- > 0;) {
        if (nodes[i].parent != &profile.tree.root) {
            nodes[i].parent->total_wall_ns += nodes[i].total_wall_ns;
            nodes[i].parent->total_cpu_ns += nodes[i].total_cpu_ns;
        }
    }
}

static size_t one_field(unsigned char *storage, size_t room, const char *name, int64_t value) {
    pom_value_writer_t w;
    pom_value_begin(&w, storage, room);
    pom_value_map_begin(&w);
    pom_value_key(&w, name, strlen(name));
    pom_value_integer(&w, value);
    pom_value_map_end(&w);
    return pom_value_finish(&w);
}

static const char *line_of(const pom_profile_t *from) {
    pom_buf_reset(&buf);
    pom_json_put_line(&buf, from);
    assert_false(pom_buf_failed(&buf));
    pom_buf_put_char(&buf, '\0');
    return buf.data;
}

static const char *children_of_line(void) {
    const char *found = strstr(line_of(&profile), ",\"children\":");
    assert_non_null(found);
    return found + 1;
}

#define HEAD                                                                                       \
    "{\"task_uuid\":\"01234567-89ab-4def-8123-456789abcdef\",\"thread\":140000000000001,"          \
    "\"thread_name\":\"MainThread\",\"source\":\"shop\",\"pid\":42,"                               \
    "\"start_time\":\"2026-11-20T00:00:00.000000Z\",\"end_time\":\"2026-11-20T00:00:00.100000Z\"," \
    "\"time\":0.1,\"self_time\":0.0,\"cpu_time\":0.03,\"self_cpu_time\":0.0,\"hits\":0,"
#define SPAN                                                                                       \
    "\"start_time\":\"2026-11-20T00:00:00.010000Z\",\"end_time\":\"2026-11-20T00:00:00.020000Z\""
#define AT                                                                                         \
    "\"start_time\":\"2026-11-20T00:00:00.015000Z\",\"end_time\":\"2026-11-20T00:00:00.015000Z\""

static void test_record_without_samples_has_every_key(void **state) {
    assert_string_equal(
        line_of(&profile),
        HEAD "\"action\":{\"type\":\"/cart\",\"kind\":\"wsgi\",\"outcome\":\"succeeded\"},"
             "\"profiler\":{\"engine\":\"native\",\"period\":0.01,\"samples\":9,\"missed\":{},"
             "\"overhead\":{\"cpu\":0.000123,\"fraction\":0.0015},\"truncated\":{}},"
             "\"children\":[]}\n");
}

/* acceptance: PM12 PM13 */
static void test_record_by_line_is_golden(void **state) {
    unsigned char fields[64], message[64];
    profile.fields = fields;
    profile.fields_size = (uint32_t)one_field(fields, sizeof fields, "status", 200);
    size_t size = one_field(message, sizeof message, "step", 1);
    profile.missed[POM_MISS_RACED] = 2;
    profile.tree.cuts = (pom_tree_cuts_t){.nodes = 1, .messages = 2, .timeline = 3, .depth = 4};
    profile.dropped_events = 5;
    profile.cut_values = 6;
    profile.shed = 14;
    profile.tree.root.self_wall_ns = 40000000;
    profile.tree.root.self_cpu_ns = 1000000;
    profile.tree.root.hits = 9;
    /* The message seals: views.py:7 stands before and behind it. */
    pom_node_t *call = add(&profile.tree.root, app, 12, 0, 0);
    add(call, view, 7, 20, 9);
    add_message(call, view, 8, message, size);
    pom_node_t *again = add(call, view, 7, 10, 0);
    add(again, helper, 7, 30, 20);
    add_message(&profile.tree.root, NULL, -1, message, size);
    settle();
    assert_string_equal(
        line_of(&profile),
        "{\"task_uuid\":\"01234567-89ab-4def-8123-456789abcdef\",\"thread\":140000000000001,"
        "\"thread_name\":\"MainThread\",\"source\":\"shop\",\"pid\":42,"
        "\"start_time\":\"2026-11-20T00:00:00.000000Z\",\"end_time\":\"2026-11-20T00:00:00."
        "100000Z\","
        "\"time\":0.1,\"self_time\":0.04,\"cpu_time\":0.03,\"self_cpu_time\":0.001,\"hits\":9,"
        "\"action\":{\"type\":\"/"
        "cart\",\"kind\":\"wsgi\",\"outcome\":\"succeeded\",\"status\":200},"
        "\"profiler\":{\"engine\":\"native\",\"period\":0.01,\"samples\":9,\"missed\":{\"raced\":2}"
        ","
        "\"overhead\":{\"cpu\":0.000123,\"fraction\":0.0015},"
        "\"truncated\":{\"nodes\":1,\"depth\":4,\"messages\":2,\"timeline\":3,\"events\":5,"
        "\"values\":6},"
        "\"shed\":14},"
        "\"children\":["
        "{\"instruction\":\"/srv/app.py:App.__call__:12\",\"file\":\"/srv/"
        "app.py\",\"function\":\"App.__call__\","
        "\"line\":12,\"time\":0.06,\"self_time\":0.0,\"cpu_time\":0.029,\"self_cpu_time\":0.0,"
        "\"hits\":1," SPAN ",\"children\":["
        "{\"instruction\":\"/srv/views.py:cart:7\",\"file\":\"/srv/"
        "views.py\",\"function\":\"cart\",\"line\":7,"
        "\"time\":0.02,\"self_time\":0.02,\"cpu_time\":0.009,\"self_cpu_time\":0.009,\"hits\":"
        "1," SPAN "},"
        "{\"instruction\":\"/srv/views.py:cart:8\",\"file\":\"/srv/"
        "views.py\",\"function\":\"cart\",\"line\":8,"
        "\"time\":0.0,\"self_time\":0.0,\"cpu_time\":0.0,\"self_cpu_time\":0.0,\"hits\":0," AT
        ",\"message\":{\"step\":1}},"
        "{\"instruction\":\"/srv/views.py:cart:7\",\"file\":\"/srv/"
        "views.py\",\"function\":\"cart\",\"line\":7,"
        "\"time\":0.04,\"self_time\":0.01,\"cpu_time\":0.02,\"self_cpu_time\":0.0,\"hits\":1," SPAN
        ",\"children\":["
        "{\"instruction\":\"/srv/views.py:cart.<locals>.<lambda>:7\",\"file\":\"/srv/views.py\","
        "\"function\":\"cart.<locals>.<lambda>\",\"line\":7,"
        "\"time\":0.03,\"self_time\":0.03,\"cpu_time\":0.02,\"self_cpu_time\":0.02,\"hits\":1," SPAN
        "}]}]},"
        "{\"time\":0.0,\"self_time\":0.0,\"cpu_time\":0.0,\"self_cpu_time\":0.0,\"hits\":0," AT
        ",\"message\":{\"step\":1}}]}\n");
}

static void test_record_by_function_has_no_line(void **state) {
    profile.tree.granularity = POM_BY_FUNCTION;
    add(&profile.tree.root, view, -1, 1, 1);
    settle();
    assert_string_equal(
        children_of_line(),
        "\"children\":[{\"instruction\":\"/srv/views.py:cart\",\"file\":\"/srv/views.py\","
        "\"function\":\"cart\",\"time\":0.001,\"self_time\":0.001,\"cpu_time\":0.001,"
        "\"self_cpu_time\":0.001,\"hits\":1," SPAN "}]}\n");
}

static void test_record_by_file_has_no_function(void **state) {
    profile.tree.granularity = POM_BY_FILE;
    add(&profile.tree.root, view, -1, 1, 1);
    settle();
    assert_string_equal(
        children_of_line(),
        "\"children\":[{\"instruction\":\"/srv/views.py\",\"file\":\"/srv/views.py\","
        "\"time\":0.001,\"self_time\":0.001,\"cpu_time\":0.001,\"self_cpu_time\":0.001,"
        "\"hits\":1," SPAN "}]}\n");
}

static void test_record_by_line_without_a_line_says_zero(void **state) {
    add(&profile.tree.root, view, -1, 0, 0);
    settle();
    assert_non_null(strstr(children_of_line(),
                           "\"instruction\":\"/srv/views.py:cart:0\",\"file\":\"/srv/views.py\","
                           "\"function\":\"cart\",\"line\":0,"));
}

static void test_record_takes_the_longest_names(void **state) {
    static char file[POM_CODE_TEXT_MAX + 9], function[POM_CODE_TEXT_MAX + 9];
    memset(file, 'f', sizeof file - 1);
    memset(function, 'g', sizeof function - 1);
    pom_code_t *code = code_new(file, function, false);
    add(&profile.tree.root, code, INT32_MAX, 0, 0);
    settle();
    assert_non_null(strstr(children_of_line(), "gg:2147483647\",\"file\":\"ff"));
    pom_code_unref(code);
}

static void test_record_prefers_the_task_id_from_outside(void **state) {
    profile.task_text = TEXT("job-7");
    assert_memory_equal(line_of(&profile), "{\"task_uuid\":\"job-7\",", 21);
}

static void test_record_names_each_outcome_and_loss(void **state) {
    for (int i = 0; i < POM_OUTCOME_COUNT; i++) {
        profile.outcome = (pom_outcome_t)i;
        char wanted[64];
        (void)snprintf(wanted, sizeof wanted, "\"outcome\":\"%s\"}", pom_outcome_names[i]);
        assert_non_null(strstr(line_of(&profile), wanted));
    }
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        memset(profile.missed, 0, sizeof profile.missed);
        profile.missed[i] = 3;
        char wanted[64];
        (void)snprintf(wanted, sizeof wanted, "\"missed\":{\"%s\":3}", pom_miss_names[i]);
        assert_non_null(strstr(line_of(&profile), wanted));
    }
}

static void test_record_survives_broken_fields(void **state) {
    profile.fields = "\6\x09\1a"; /* a map with a key and no value */
    profile.fields_size = 4;
    add_message(&profile.tree.root, view, 8, "\x63", 1);
    settle();
    assert_non_null(strstr(line_of(&profile), "\"outcome\":\"succeeded\",\"a\":null}"));
    assert_non_null(strstr(children_of_line(), "\"message\":{}}]}\n"));
}

/* Hidden code: its children move up in place, its self time goes to the parent, nobody counts it
 * as elided. */
static void test_record_hoists_over_internal_code(void **state) {
    unsigned char message[64];
    size_t size = one_field(message, sizeof message, "step", 1);
    profile.tree.root.self_wall_ns = 1000000;
    pom_node_t *outer = add(&profile.tree.root, hidden, 1, 2, 1);
    pom_node_t *call = add(outer, app, 12, 4, 1);
    pom_node_t *inner = add(call, hidden, 2, 8, 2);
    pom_node_t *innermost = add(inner, hidden, 3, 16, 4);
    add(innermost, view, 7, 32, 8);
    add(inner, view, 8, 0, 0);
    add_message(inner, hidden, 5, message, size);
    add(call, view, 9, 0, 0);
    pom_node_t *alone = add(&profile.tree.root, view, 10, 0, 0);
    add(alone, hidden, 1, 64, 16);
    settle();
#define ZERO "\"time\":0.0,\"self_time\":0.0,\"cpu_time\":0.0,\"self_cpu_time\":0.0,\"hits\":"
    assert_string_equal(children_of_line(),
                        "\"children\":["
                        "{\"instruction\":\"/srv/app.py:App.__call__:12\",\"file\":\"/srv/"
                        "app.py\",\"function\":\"App.__call__\","
                        "\"line\":12,\"time\":0.06,\"self_time\":0.028,\"cpu_time\":0.015,\"self_"
                        "cpu_time\":0.007,\"hits\":1," SPAN ",\"children\":["
                        "{\"instruction\":\"/srv/views.py:cart:7\",\"file\":\"/srv/"
                        "views.py\",\"function\":\"cart\",\"line\":7,"
                        "\"time\":0.032,\"self_time\":0.032,\"cpu_time\":0.008,\"self_cpu_time\":0."
                        "008,\"hits\":1," SPAN "},"
                        "{\"instruction\":\"/srv/views.py:cart:8\",\"file\":\"/srv/"
                        "views.py\",\"function\":\"cart\",\"line\":8," ZERO "1," SPAN "},"
                        "{" ZERO "0," AT ",\"message\":{\"step\":1}},"
                        "{\"instruction\":\"/srv/views.py:cart:9\",\"file\":\"/srv/"
                        "views.py\",\"function\":\"cart\",\"line\":9," ZERO "1," SPAN "}]},"
                        "{\"instruction\":\"/srv/views.py:cart:10\",\"file\":\"/srv/"
                        "views.py\",\"function\":\"cart\",\"line\":10,"
                        "\"time\":0.064,\"self_time\":0.064,\"cpu_time\":0.016,\"self_cpu_time\":0."
                        "016,\"hits\":1," SPAN "}]}\n");
    /* 1 ms of its own and 2 of `outer` */
    assert_non_null(
        strstr(line_of(&profile),
               "\"time\":0.1,\"self_time\":0.003,\"cpu_time\":0.03,\"self_cpu_time\":0.001,"));
    assert_non_null(strstr(line_of(&profile), "\"truncated\":{}"));
}

/* An emitter that reads the document back: which nodes it has (by line, which the tests make
 * unique), how they nest, and whether times add up. */
typedef struct audit_s {
    pom_emitter_t emitter;
    int open, deepest; /* containers */
    int level;         /* node maps open, the root's included */
    int64_t time[2100], self_time[2100], children_time[2100];
    int32_t lines[NODES];
    int levels[NODES];
    int count;
    int messages;
    int64_t elided;
    char key[32];
    int maps_inside; /* maps open that are no nodes */
    bool after_children;
    bool wrong;
} audit_t;

static audit_t audit;

static void audit_open(void) {
    audit.open++;
    audit.deepest = audit.open > audit.deepest ? audit.open : audit.deepest;
}

static void audit_map_begin(pom_emitter_t *self) {
    audit_open();
    bool is_node = audit.maps_inside == 0 &&
                   (audit.open == 1 || strcmp(audit.key, "children") == 0 || audit.after_children);
    if (!is_node) {
        audit.maps_inside++;
        return;
    }
    audit.after_children = false;
    audit.key[0] = '\0';
    audit.level++;
    audit.time[audit.level] = audit.self_time[audit.level] = audit.children_time[audit.level] = 0;
}

static void audit_map_end(pom_emitter_t *self) {
    audit.open--;
    if (audit.maps_inside > 0) {
        audit.maps_inside--;
        return;
    }
    int l = audit.level--;
    audit.wrong = audit.wrong || audit.time[l] != audit.self_time[l] + audit.children_time[l];
    audit.children_time[l - 1] += audit.time[l];
    audit.after_children = true; /* what follows in the list is a node again */
}

static void audit_list_begin(pom_emitter_t *self) {
    audit_open();
}

static void audit_list_end(pom_emitter_t *self) {
    audit.open--;
}

static void audit_key(pom_emitter_t *self, const char *text, size_t size) {
    audit.after_children = false;
    (void)snprintf(audit.key, sizeof audit.key, "%.*s", (int)size, text);
    audit.messages += audit.maps_inside == 0 && strcmp(audit.key, "message") == 0;
}

static void audit_text(pom_emitter_t *self, const char *text, size_t size) {
}

static void audit_integer(pom_emitter_t *self, int64_t value) {
    if (audit.maps_inside == 0 && strcmp(audit.key, "line") == 0) {
        audit.levels[audit.count] = audit.level - 1;
        audit.lines[audit.count++] = (int32_t)value;
    }
    if (strcmp(audit.key, "elided") == 0) {
        audit.elided = value;
    }
}

static void audit_number(pom_emitter_t *self, double value) {
}

static void audit_seconds(pom_emitter_t *self, int64_t ns) {
    if (audit.maps_inside == 0 && strcmp(audit.key, "time") == 0) {
        audit.time[audit.level] = ns;
    }
    if (audit.maps_inside == 0 && strcmp(audit.key, "self_time") == 0) {
        audit.self_time[audit.level] = ns;
    }
}

static void audit_moment(pom_emitter_t *self, int64_t ns) {
}

static void audit_boolean(pom_emitter_t *self, bool value) {
}

static void audit_null(pom_emitter_t *self) {
}

static const pom_emitter_ops_t audit_ops = {
    .map_begin = audit_map_begin,
    .map_end = audit_map_end,
    .list_begin = audit_list_begin,
    .list_end = audit_list_end,
    .key = audit_key,
    .name = pom_name_as_key,
    .text = audit_text,
    .plain = audit_text,
    .integer = audit_integer,
    .number = audit_number,
    .seconds = audit_seconds,
    .moment = audit_moment,
    .boolean = audit_boolean,
    .null = audit_null,
};

/* The root's time is the sum, as a sealed profile's is. */
static void emit_to_audit(int max_depth) {
    settle();
    profile.wall_ns = profile.tree.root.self_wall_ns;
    for (const pom_node_t *n = profile.tree.root.first_child; n != NULL; n = n->next) {
        profile.wall_ns += n->total_wall_ns;
    }
    memset(&audit, 0, sizeof audit);
    audit.emitter.ops = &audit_ops;
    pom_record_emit(&profile, &audit.emitter, max_depth);
    assert_false(audit.wrong);
    assert_int_equal(audit.open, 0);
}

static void test_record_that_just_fits_loses_nothing(void **state) {
    pom_node_t *node = &profile.tree.root;
    for (int i = 1; i <= 59; i++) { /* 1 + 2 * 59 = 119 containers */
        node = add(node, view, i, 1, 0);
    }
    emit_to_audit(120);
    assert_int_equal(audit.count, 59);
    assert_int_equal(audit.elided, 0);
    assert_int_equal(audit.deepest, 119);
}

static void test_record_elides_the_middle_of_a_deep_chain(void **state) {
    pom_node_t *node = &profile.tree.root;
    for (int i = 1; i <= 500; i++) {
        node = add(node, view, i, 1, 0);
    }
    emit_to_audit(120);
    /* 59 levels: the 30 outermost and the 29 innermost */
    assert_int_equal(audit.count, 59);
    assert_int_equal(audit.elided, 441);
    assert_true(audit.deepest <= 120);
    for (int i = 0; i < 59; i++) {
        assert_int_equal(audit.lines[i], i < 30 ? i + 1 : 500 - 58 + i);
        assert_int_equal(audit.levels[i], i + 1);
    }
    emit_to_audit(0);
    assert_int_equal(audit.count, 500);
    assert_int_equal(audit.elided, 0);
}

static void test_record_hoists_what_hangs_on_the_middle(void **state) {
    pom_node_t *node = &profile.tree.root;
    for (int i = 1; i <= 100; i++) {
        node = add(node, view, i, 1, 0);
        if (i == 50) { /* within what is elided: outer is 30, innermost 29 begin at 72 */
            add(node, view, 1050, 1, 0);
        }
    }
    emit_to_audit(120);
    assert_int_equal(audit.elided, 41);
    assert_int_equal(audit.count, 60);
    /* Document order: the branch came first, and is now a sibling of the innermost half. */
    assert_int_equal(audit.lines[29], 30);
    assert_int_equal(audit.lines[30], 1050);
    assert_int_equal(audit.levels[30], 31);
    assert_int_equal(audit.lines[31], 72);
    assert_int_equal(audit.levels[31], 31);
}

static size_t deep_field(unsigned char *storage, size_t room, int depth) {
    pom_value_writer_t w;
    pom_value_begin(&w, storage, room);
    for (int i = 0; i < depth; i++) {
        pom_value_map_begin(&w);
        pom_value_key(&w, "in", 2);
    }
    pom_value_integer(&w, 1);
    return pom_value_finish(&w);
}

static void test_record_counts_the_depth_of_fields(void **state) {
    for (int fields = 1; fields <= POM_VALUE_DEPTH_MAX; fields++) {
        for (int depth = 40; depth <= 130; depth++) {
            unsigned char message[128];
            size_t size = deep_field(message, sizeof message, fields);
            node_count = 0;
            profile.tree.root.first_child = profile.tree.root.last_child = NULL;
            pom_node_t *node = &profile.tree.root;
            for (int i = 1; i < depth; i++) {
                node = add(node, view, i, 1, 0);
            }
            add_message(node, view, depth, message, size);
            emit_to_audit(120);
            assert_int_equal(audit.messages, 1);
            assert_true(audit.deepest <= 120);
            /* The node's map is at 1 + 2 * depth: nothing is elided without need, but for the
             * rounding to levels. */
            if (audit.elided == 0) {
                assert_true(1 + 2 * depth + fields <= 120);
            } else {
                assert_true(1 + 2 * depth + fields >= 119);
            }
        }
    }
}

#define MESSAGE_LEVELS 3 /* of five containers, in maps and lists rounded up */

/* The rule of what is kept, worked out for every node by itself: parents come before their
 * children in `nodes`. */
static void check_against_definition(int max_depth) {
    static int depth[NODES], height[NODES], level[NODES], seen[NODES + 1];
    static bool internal[NODES], kept[NODES];
    int levels = (max_depth - 1) / 2, deepest = 0, shown = 0, kept_count = 0;
    memset(height, 0, sizeof height);
    memset(seen, 0, sizeof seen);
    for (uint32_t i = 0; i < node_count; i++) {
        const pom_node_t *n = &nodes[i];
        int above = n->parent == &profile.tree.root ? 0 : depth[n->parent - nodes];
        internal[i] = n->message == NULL && n->code->internal;
        depth[i] = above + !internal[i];
        int end = depth[i] + (n->message != NULL ? MESSAGE_LEVELS : 0);
        deepest = end > deepest ? end : deepest;
        shown += !internal[i];
    }
    for (uint32_t i = node_count; i-- > 0;) {
        const pom_node_t *n = &nodes[i];
        height[i] = n->message != NULL ? MESSAGE_LEVELS : height[i];
        int *above = n->parent == &profile.tree.root ? NULL : &height[n->parent - nodes];
        if (above != NULL && *above < height[i] + !internal[i]) {
            *above = height[i] + !internal[i];
        }
    }
    bool is_cut = max_depth > 0 && deepest > levels;
    emit_to_audit(max_depth);
    assert_true(max_depth == 0 || audit.deepest <= max_depth);
    for (int i = 0; i < audit.count; i++) {
        seen[audit.lines[i]] = audit.levels[i];
    }
    for (uint32_t i = 0; i < node_count; i++) {
        const pom_node_t *n = &nodes[i];
        kept[i] = !internal[i] && (!is_cut || n->message != NULL ||
                                   depth[i] <= levels - levels / 2 || height[i] < levels / 2);
        kept_count += kept[i];
        level[i] = (n->parent == &profile.tree.root ? 0 : level[n->parent - nodes]) + kept[i];
        assert_int_equal(seen[n->line], kept[i] ? level[i] : 0);
    }
    assert_int_equal(audit.count, kept_count);
    assert_int_equal(audit.elided, shown - kept_count);
}

/* Random trees: long chains, short branches, internal code, messages. */
static void test_record_random_trees_stay_consistent(void **state) {
    static unsigned char message[128];
    size_t size = deep_field(message, sizeof message, 5);
    for (uint64_t seed = 1; seed <= 150; seed++) {
        node_count = 0;
        profile.tree.root.first_child = profile.tree.root.last_child = NULL;
        uint64_t internal_share = seed % 3; /* of 8 */
        for (uint32_t i = 0; i < 400; i++) {
            uint64_t r = pom_hash_mix(seed * 1000 + i);
            /* Mostly below one of the latest nodes: long chains with short branches. */
            uint32_t back =
                (uint32_t)(r >> 8) % 3 + ((r >> 20) % 40 == 0 ? (uint32_t)(r >> 32) % (i + 1) : 0);
            pom_node_t *parent = i > back ? &nodes[i - 1 - back] : &profile.tree.root;
            while (parent->message != NULL) {
                parent = parent->parent;
            }
            if (r % 16 == 0) {
                add_message(parent, view, (int32_t)i + 1, message, size);
            } else {
                add(parent, (r >> 4) % 8 < internal_share ? hidden : view, (int32_t)i + 1,
                    (int64_t)(r >> 50) % 5, 1);
            }
        }
        check_against_definition(0);
        check_against_definition(40);
        check_against_definition(41);
        check_against_definition(120);
        check_against_definition(240);
    }
}

static void test_record_takes_a_small_limit_as_forty(void **state) {
    pom_node_t *node = &profile.tree.root;
    for (int i = 1; i <= 100; i++) {
        node = add(node, view, i, 1, 0);
    }
    emit_to_audit(3);
    assert_int_equal(audit.count, 19); /* (40 - 1) / 2 */
    assert_int_equal(audit.elided, 81);
}

static void test_record_without_memory_keeps_the_outermost(void **state) {
    static unsigned char message[128];
    size_t size = deep_field(message, sizeof message, POM_VALUE_DEPTH_MAX);
    pom_node_t *node = &profile.tree.root;
    for (int i = 1; i <= 2000; i++) {
        node = add(node, view, i, 1, 0);
    }
    add_message(node, view, 2001, message, size);
    pom_alloc_fail_from(1);
    emit_to_audit(120);
    pom_alloc_fail_from(0);
    assert_true(audit.deepest <= 120);
    assert_int_equal(audit.messages, 1);
    assert_int_equal(
        audit.count,
        51); /* 59 levels less 8 for the fields and one for the message, which is shown */
    assert_int_equal(audit.lines[49], 50);
    assert_int_equal(audit.elided, 1950);
}

static void *emit_deepest(void *unused) {
    emit_to_audit(0);
    (void)line_of(&profile);
    return NULL;
}

static void test_record_of_the_deepest_stack_needs_a_small_one(void **state) {
    pom_node_t *node = &profile.tree.root;
    for (int i = 1; i <= 2048; i++) {
        node = add(node, view, i, 1, 0);
    }
    pthread_attr_t attr;
    pthread_t thread;
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, 64 * 1024), 0);
    assert_int_equal(pthread_create(&thread, &attr, emit_deepest, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    (void)pthread_attr_destroy(&attr);
    assert_int_equal(audit.count, 2048);
}

/* A tree as the sampler feeds it: the message stands between what was before and behind it.
 * acceptance: PM12 PM13 */
static void test_record_of_a_grown_tree_keeps_the_order(void **state) {
    unsigned char message[64];
    size_t size = one_field(message, sizeof message, "step", 1);
    pom_arena_t arena;
    pom_arena_init(&arena, 1 << 20);
    pom_tree_init(&profile.tree, &arena, POM_BY_LINE, pom_tree_limits_default(), profile.start_ns);
    pom_place_t path[] = {{app, 12}, {view, 7}};
    pom_weight_t weight = {.wall_ns = 10000000, .cpu_ns = 1, .hits = 1, .at_ns = profile.start_ns};
    pom_tree_add(&profile.tree, path, 2, &weight);
    path[1].line = 8;
    pom_tree_message(&profile.tree, path, 2, profile.start_ns + 1, message, size);
    path[1].line = 7;
    pom_tree_add(&profile.tree, path, 2, &weight);
    pom_tree_add_root(&profile.tree, 5000000, 0);
    profile.wall_ns = profile.tree.root.total_wall_ns;
    memset(&audit, 0, sizeof audit);
    audit.emitter.ops = &audit_ops;
    pom_record_emit(&profile, &audit.emitter, POM_RECORD_DEPTH_JSON);
    assert_false(audit.wrong);
    assert_int_equal(audit.messages, 1);
    static const int32_t lines[] = {12, 7, 8, 7};
    assert_int_equal(audit.count, 4);
    assert_memory_equal(audit.lines, lines, sizeof lines);
    assert_non_null(strstr(line_of(&profile), "\"time\":0.025,\"self_time\":0.005,"));
    pom_tree_fini(&profile.tree);
    pom_arena_fini(&arena);
}

static void test_record_drives_the_emitter_in_document_order(void **state) {
    pom_node_t *call = add(&profile.tree.root, app, 12, 1, 1);
    add(call, view, 7, 20, 9);
    settle();
    trace_init(&trace);
    pom_record_emit(&profile, &trace.emitter, 0);
    assert_true(trace_is_whole(&trace));
    assert_non_null(
        strstr(trace.text,
               "start_time:@1795132800000000000 end_time:@1795132800100000000 time:100000000ns"));
}

/* Every failing allocation leaves a failed buffer, never half a line or a leak. */
static void test_record_line_survives_failing_allocations(void **state) {
    pom_node_t *node = &profile.tree.root;
    for (int i = 1; i <= 100; i++) {
        node = add(node, view, i, 1, 0);
    }
    settle();
    for (int64_t n = 1;; n++) {
        pom_buf_t fresh;
        pom_buf_init(&fresh, 1 << 20);
        pom_alloc_fail_from(n);
        pom_json_put_line(&fresh, &profile);
        int64_t calls = pom_alloc_calls();
        pom_alloc_fail_from(0);
        bool failed = pom_buf_failed(&fresh);
        assert_true(failed || fresh.data[fresh.len - 1] == '\n');
        pom_buf_fini(&fresh);
        if (calls < n) {
            assert_false(failed);
            break;
        }
    }
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(test_record_without_samples_has_every_key),
        CASE(test_record_by_line_is_golden),
        CASE(test_record_by_function_has_no_line),
        CASE(test_record_by_file_has_no_function),
        CASE(test_record_by_line_without_a_line_says_zero),
        CASE(test_record_takes_the_longest_names),
        CASE(test_record_prefers_the_task_id_from_outside),
        CASE(test_record_names_each_outcome_and_loss),
        CASE(test_record_survives_broken_fields),
        CASE(test_record_hoists_over_internal_code),
        CASE(test_record_that_just_fits_loses_nothing),
        CASE(test_record_elides_the_middle_of_a_deep_chain),
        CASE(test_record_hoists_what_hangs_on_the_middle),
        CASE(test_record_counts_the_depth_of_fields),
        CASE(test_record_random_trees_stay_consistent),
        CASE(test_record_takes_a_small_limit_as_forty),
        CASE(test_record_without_memory_keeps_the_outermost),
        CASE(test_record_of_the_deepest_stack_needs_a_small_one),
        CASE(test_record_of_a_grown_tree_keeps_the_order),
        CASE(test_record_drives_the_emitter_in_document_order),
        CASE(test_record_line_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
