/*
 * The call tree and its parts. Trees are compared as text: each node is name:line=total/self, its
 * children in braces, a message is "!" with its own place and fields.
 *
 *     root=3/0{f:10=3/1{g:3=2/2}}
 *
 * Weights are small numbers of nanoseconds; CPU is always twice the wall time, so that one text
 * shows both.
 */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "profiles/call_tree.h"

#include <stdio.h>
#include <string.h>

#define F       0
#define G       1
#define H       2
#define OTHER_F 3 /* another object of the same source as F */
#define CODES   4

static pom_code_t *codes[CODES];

static int make_codes(void **state) {
    static const char *const names[CODES][2] = {
        {"a.py", "f"}, {"a.py", "g"}, {"b.py", "h"}, {"a.py", "f"}};
    for (int i = 0; i < CODES; i++) {
        pom_code_spec_t spec = {.file = names[i][0],
                                .file_len = 4,
                                .function = names[i][1],
                                .function_len = 1,
                                .first_line = 1};
        codes[i] = pom_code_new(&spec);
    }
    return 0;
}

static int drop_codes(void **state) {
    for (int i = 0; i < CODES; i++) {
        pom_code_unref(codes[i]);
    }
    return 0;
}

static pom_arena_t arena;
static pom_tree_t tree;

static void open_tree(pom_granularity_t granularity, pom_tree_limits_t limits, size_t arena_cap) {
    pom_arena_init(&arena, arena_cap);
    pom_tree_init(&tree, &arena, granularity, limits, 1000);
}

static void open_default(void) {
    open_tree(POM_BY_LINE, pom_tree_limits_default(), 8 << 20);
}

static void close_tree(void) {
    pom_tree_fini(&tree);
    pom_arena_fini(&arena);
    for (int i = 0; i < CODES; i++) {
        assert_int_equal(atomic_load(&codes[i]->refs), 1);
    }
}

static pom_place_t place(int code, int32_t line) {
    return (pom_place_t){.code = codes[code], .line = line};
}

#define PATH(...)                                                                                  \
    (pom_place_t[]){__VA_ARGS__},                                                                  \
        (int32_t)(sizeof(pom_place_t[]){__VA_ARGS__} / sizeof(pom_place_t))

static int64_t now_ns = 1000;

static void add(const pom_place_t *places, int32_t depth, int64_t wall_ns) {
    now_ns += wall_ns;
    pom_weight_t weight = {.wall_ns = wall_ns, .cpu_ns = 2 * wall_ns, .hits = 1, .at_ns = now_ns};
    pom_tree_add(&tree, places, depth, &weight);
    assert_true(pom_tree_validate(&tree));
}

static void message(const pom_place_t *places, int32_t depth, const char *text) {
    pom_tree_message(&tree, places, depth, now_ns, text, strlen(text));
    assert_true(pom_tree_validate(&tree));
}

/* Growing text; tests keep their trees small enough for it. */
static char text[1 << 16];
static size_t text_size;

static void write_node(const pom_node_t *node) {
    const char *name = node->code != NULL ? node->code->function : "root";
    char *at = text + text_size;
    size_t room = sizeof text - text_size;
    int size = 0;
    if (node->message != NULL) {
        size =
            snprintf(at, room, "!%s:%d \"%s\"", name, (int)node->line, (const char *)node->message);
    } else {
        size = snprintf(at, room, node->line < 0 ? "%s" : "%s:%d", name, (int)node->line);
        assert_in_range(size, 1, room);
        text_size += (size_t)size;
        at += size;
        room -= (size_t)size;
        size = snprintf(at, room, "=%lld/%lld", (long long)node->total_wall_ns,
                        (long long)node->self_wall_ns);
        assert_int_equal(node->total_cpu_ns, 2 * node->total_wall_ns);
        assert_int_equal(node->self_cpu_ns, 2 * node->self_wall_ns);
    }
    assert_in_range(size, 1, room);
    text_size += (size_t)size;
    for (const pom_node_t *child = node->first_child; child != NULL; child = child->next) {
        text[text_size++] = child == node->first_child ? '{' : ' ';
        write_node(child);
    }
    if (node->first_child != NULL) {
        text[text_size++] = '}';
    }
    text[text_size] = '\0';
}

static const char *shown(void) {
    text_size = 0;
    write_node(&tree.root);
    return text;
}

static void test_tree_begins_empty(void **state) {
    open_default();
    assert_string_equal(shown(), "root=0/0");
    assert_int_equal(tree.root.first_ns, 1000);
    assert_int_equal(tree.root.last_ns, 1000);
    assert_true(pom_tree_validate(&tree));
    assert_int_equal(arena.reserved, 0);
    close_tree();
}

/* acceptance: PM12 */
static void test_tree_merges_samples_of_one_path(void **state) {
    open_default();
    add(PATH(place(F, 10), place(G, 3)), 2);
    add(PATH(place(F, 10), place(G, 3)), 3);
    add(PATH(place(F, 10)), 4);
    add(PATH(place(F, 10), place(G, 5)), 1);
    add(PATH(place(F, 11), place(G, 3)), 6);
    add(PATH(place(F, 10), place(G, 3)), 5);
    assert_string_equal(shown(), "root=21/0{f:10=15/4{g:3=10/10 g:5=1/1} f:11=6/0{g:3=6/6}}");
    assert_int_equal(tree.node_count, 5);
    assert_int_equal(tree.root.hits, 6);
    assert_int_equal(tree.root.first_child->hits, 5);
    assert_int_equal(tree.root.first_child->first_child->hits, 3);
    close_tree();
}

static void test_tree_adds_again_where_the_last_sample_was(void **state) {
    pom_weight_t weight = {.wall_ns = 3, .cpu_ns = 6, .hits = 1, .at_ns = 2000};
    open_default();
    assert_false(pom_tree_add_again(&tree, &weight)); /* there was none */
    add(PATH(place(F, 10), place(G, 3)), 2);
    assert_true(pom_tree_add_again(&tree, &weight));
    assert_string_equal(shown(), "root=5/0{f:10=5/0{g:3=5/5}}");
    assert_int_equal(tree.root.hits, 2);
    message(PATH(place(F, 10), place(G, 4)), "m"); /* what was there is sealed */
    assert_false(pom_tree_add_again(&tree, &weight));
    assert_int_equal(tree.root.total_wall_ns, 5);
    close_tree();
}

/* acceptance: PM15 */
static void test_tree_root_takes_what_no_place_is_known_for(void **state) {
    open_default();
    add(NULL, 0, 5);
    add(PATH(place(F, 10)), 2);
    pom_tree_add_root(&tree, 7, 14);
    assert_string_equal(shown(), "root=14/12{f:10=2/2}");
    assert_int_equal(tree.root.hits, 2); /* time that was added is no sample */
    pom_weight_t time_only = {.wall_ns = 3, .cpu_ns = 6, .hits = 0, .at_ns = now_ns};
    pom_tree_add(&tree, PATH(place(F, 10)), &time_only);
    assert_string_equal(shown(), "root=17/12{f:10=5/5}");
    assert_int_equal(tree.root.first_child->hits, 1);
    close_tree();
}

/* acceptance: PM6 */
static void test_tree_granularity_says_what_is_one_place(void **state) {
    static const struct {
        pom_granularity_t granularity;
        const char *expected;
    } cases[] = {
        {POM_BY_FILE, "root=15/0{f=7/7 h=8/8}"},
        {POM_BY_FUNCTION, "root=15/0{f=3/3 g=4/4 h=8/8}"},
        {POM_BY_LINE, "root=15/0{f:1=1/1 f:2=2/2 g:1=4/4 h:1=8/8}"},
    };
    for (size_t c = 0; c < 3; c++) {
        open_tree(cases[c].granularity, pom_tree_limits_default(), 1 << 20);
        add(PATH(place(F, 1)), 1);
        add(PATH(place(F, 2)), 2);
        add(PATH(place(G, 1)), 4);
        add(PATH(place(H, 1)), 8);
        assert_string_equal(shown(), cases[c].expected);
        message(PATH(place(H, 9)), "m");
        assert_int_equal(tree.root.last_child->line, cases[c].granularity == POM_BY_LINE ? 9 : -1);
        close_tree();
    }
}

static void test_tree_same_source_in_another_object_is_the_same_place(void **state) {
    for (int granularity = POM_BY_FILE; granularity <= POM_BY_LINE; granularity++) {
        open_tree((pom_granularity_t)granularity, pom_tree_limits_default(), 1 << 20);
        add(PATH(place(F, 1), place(G, 1)), 1);
        add(PATH(place(OTHER_F, 1), place(G, 1)), 1); /* by the last path */
        add(PATH(place(H, 1)), 1);
        add(PATH(place(OTHER_F, 1), place(G, 1)), 1); /* by search */
        assert_int_equal(tree.node_count, 3);
        close_tree();
    }
}

/* acceptance: PM13 */
static void test_tree_message_keeps_before_and_after_apart(void **state) {
    open_default();
    add(PATH(place(F, 10), place(G, 3)), 1);
    message(PATH(place(F, 10), place(F, 12)), "half way");
    add(PATH(place(F, 10), place(G, 3)), 2);
    add(PATH(place(F, 10), place(G, 3)), 4);
    add(PATH(place(F, 10), place(F, 12)),
        8); /* the logging line itself is a place like any other */
    message(PATH(place(F, 10), place(F, 12)), "done");
    add(PATH(place(F, 10), place(G, 3)), 16);
    assert_string_equal(shown(), "root=31/0{f:10=31/0{g:3=1/1 !f:12 \"half way\" g:3=6/6 "
                                 "f:12=8/8 !f:12 \"done\" g:3=16/16}}");
    assert_int_equal(tree.message_count, 2);
    assert_int_equal(tree.node_count, 5);
    close_tree();
}

/* acceptance: PM13 */
static void test_tree_message_seals_its_own_parent_only(void **state) {
    open_default();
    add(PATH(place(F, 10), place(G, 3), place(H, 7)), 1);
    add(PATH(place(F, 11), place(G, 3)), 2);
    message(PATH(place(F, 10), place(G, 3), place(G, 4)), "inner");
    /* Uncles, cousins and the parent itself go on; only h:7 is sealed. */
    add(PATH(place(F, 11), place(G, 3)), 4);
    add(PATH(place(F, 10), place(G, 3)), 8);
    add(PATH(place(F, 10), place(G, 3), place(H, 7)), 16);
    assert_string_equal(shown(), "root=31/0{f:10=25/0{g:3=25/8{h:7=1/1 !g:4 \"inner\" h:7=16/16}} "
                                 "f:11=6/0{g:3=6/6}}");
    close_tree();
}

/* acceptance: PM13 */
static void test_tree_message_above_seals_the_whole_subtree(void **state) {
    open_default();
    add(PATH(place(F, 10), place(G, 3), place(H, 7)), 1);
    message(PATH(place(F, 9)), "outer"); /* its parent is the root */
    add(PATH(place(F, 10), place(G, 3), place(H, 7)), 2);
    message(NULL, 0, "no stack");
    add(PATH(place(F, 10), place(G, 3), place(H, 7)), 4);
    assert_string_equal(shown(), "root=7/0{f:10=1/0{g:3=1/0{h:7=1/1}} !f:9 \"outer\" "
                                 "f:10=2/0{g:3=2/0{h:7=2/2}} !root:-1 \"no stack\" "
                                 "f:10=4/0{g:3=4/0{h:7=4/4}}}");
    close_tree();
}

static void test_tree_message_makes_the_path_it_needs(void **state) {
    open_default();
    message(PATH(place(F, 10), place(G, 3), place(H, 7)), "first of all");
    assert_string_equal(shown(), "root=0/0{f:10=0/0{g:3=0/0{!h:7 \"first of all\"}}}");
    add(PATH(place(F, 10), place(G, 3)), 1);
    assert_string_equal(shown(), "root=1/0{f:10=1/0{g:3=1/1{!h:7 \"first of all\"}}}");
    close_tree();
}

static void test_tree_message_keeps_empty_and_binary_fields(void **state) {
    open_default();
    pom_tree_message(&tree, NULL, 0, 1001, NULL, 0);
    assert_non_null(tree.root.last_child->message);
    assert_int_equal(tree.root.last_child->message_size, 0);
    char fields[] = {0, 1, 0, 2};
    pom_tree_message(&tree, NULL, 0, 1002, fields, sizeof fields);
    memset(fields, 9, sizeof fields); /* it has its own copy */
    assert_int_equal(tree.root.last_child->message_size, 4);
    assert_memory_equal(tree.root.last_child->message, "\0\1\0\2", 4);
    assert_true(pom_tree_validate(&tree));
    close_tree();
}

static void test_tree_moments_span_samples_and_messages(void **state) {
    open_default();
    pom_weight_t weight = {.wall_ns = 5, .cpu_ns = 10, .hits = 1, .at_ns = 1010};
    pom_tree_add(&tree, PATH(place(F, 10), place(G, 3)), &weight);
    weight.at_ns = 1030;
    pom_tree_add(&tree, PATH(place(F, 10)), &weight);
    pom_tree_message(&tree, PATH(place(F, 10), place(F, 12)), 1050, "m", 1);
    const pom_node_t *f = tree.root.first_child;
    assert_int_equal(f->first_ns, 1010);
    assert_int_equal(f->last_ns, 1050);
    assert_int_equal(f->first_child->first_ns, 1010);
    assert_int_equal(f->first_child->last_ns, 1010);
    assert_int_equal(f->last_child->first_ns, 1050);
    assert_int_equal(f->last_child->last_ns, 1050);
    assert_int_equal(tree.root.first_ns, 1000); /* the start, before any sample */
    assert_int_equal(tree.root.last_ns, 1050);
    close_tree();
}

static void test_tree_without_room_for_nodes_gives_the_time_to_the_ancestor(void **state) {
    pom_tree_limits_t limits = pom_tree_limits_default();
    limits.max_nodes = 2;
    open_tree(POM_BY_LINE, limits, 1 << 20);
    add(PATH(place(F, 10), place(G, 3), place(H, 7), place(H, 8)), 1);
    assert_string_equal(shown(), "root=1/0{f:10=1/0{g:3=1/1}}");
    assert_int_equal(tree.cuts.nodes, 2);
    add(PATH(place(F, 11)), 2);
    add(PATH(place(F, 10), place(G, 3)), 4);
    assert_string_equal(shown(), "root=7/2{f:10=5/0{g:3=5/5}}");
    assert_int_equal(tree.cuts.nodes, 3);
    message(PATH(place(F, 10), place(G, 4), place(H, 7)), "kept");
    assert_string_equal(shown(), "root=7/2{f:10=5/0{g:3=5/5 !h:7 \"kept\"}}");
    assert_int_equal(tree.cuts.nodes, 4);
    assert_int_equal(tree.cuts.messages, 0);
    close_tree();
}

static void test_tree_dropped_message_seals_nothing(void **state) {
    pom_tree_limits_t limits = pom_tree_limits_default();
    limits.max_messages = 1;
    open_tree(POM_BY_LINE, limits, 1 << 20);
    add(PATH(place(F, 10)), 1);
    message(NULL, 0, "kept");
    add(PATH(place(F, 10)), 2);
    message(NULL, 0, "dropped");
    message(PATH(place(G, 1), place(G, 1)), "dropped too");
    add(PATH(place(F, 10)), 4);
    assert_string_equal(shown(), "root=7/0{f:10=1/1 !root:-1 \"kept\" f:10=6/6}");
    assert_int_equal(tree.cuts.messages, 2);
    close_tree();
}

static void test_tree_message_larger_than_the_arena_is_dropped_alone(void **state) {
    static char large[8192];
    open_tree(POM_BY_LINE, pom_tree_limits_default(), 4096);
    add(PATH(place(F, 10)), 1);
    pom_tree_message(&tree, NULL, 0, now_ns, large, sizeof large);
    assert_true(pom_tree_validate(&tree));
    assert_int_equal(tree.cuts.messages, 1);
    add(PATH(place(F, 10)), 2); /* nothing was sealed */
    message(NULL, 0, "small");
    add(PATH(place(F, 10)), 4);
    assert_string_equal(shown(), "root=7/0{f:10=3/3 !root:-1 \"small\" f:10=4/4}");
    close_tree();
}

static void test_tree_full_arena_cuts_and_stays_exact(void **state) {
    open_tree(POM_BY_LINE, pom_tree_limits_default(), 16 << 10);
    for (int32_t i = 0; i < 1000; i++) {
        add(PATH(place(F, i % 7), place(G, i)), 1);
        message(PATH(place(F, i % 7), place(H, i)), "something to say");
    }
    assert_int_equal(tree.root.total_wall_ns, 1000);
    assert_true(tree.cuts.nodes > 0);
    assert_true(tree.cuts.messages > 0);
    assert_true(tree.cuts.timeline > 0);
    /* 16 KiB hold at most 128 nodes of 128 bytes. */
    assert_in_range(tree.node_count + tree.message_count, 50, 128);
    close_tree();
}

static void test_tree_wide_parent_finds_all_its_children(void **state) {
    enum { CHILDREN = 19000 };
    open_default();
    pom_weight_t weight = {.wall_ns = 1, .cpu_ns = 2, .hits = 1, .at_ns = 2000};
    for (int round = 0; round < 3; round++) {
        for (int32_t line = 0; line < CHILDREN; line++) {
            int32_t shuffled = (int32_t)((int64_t)line * 7919 % CHILDREN);
            pom_tree_add(&tree, PATH(place(F, 1), place(G, shuffled)), &weight);
        }
        assert_int_equal(tree.node_count, 1 + CHILDREN);
        assert_int_equal(tree.cuts.nodes, 0);
    }
    assert_true(pom_tree_validate(&tree));
    for (const pom_node_t *n = tree.root.first_child->first_child; n != NULL; n = n->next) {
        assert_int_equal(n->hits, 3);
    }
    close_tree();
}

/* Where the table of its children finds no room, none is made that could not be found again. */
static void test_tree_wide_parent_survives_every_arena_size(void **state) {
    enum { CHILDREN = 200 };
    pom_tree_limits_t limits = pom_tree_limits_default();
    limits.max_stretches = 0;
    for (size_t cap = 0; cap < 40000; cap += 136) {
        uint32_t nodes = 0;
        open_tree(POM_BY_LINE, limits, cap);
        for (int32_t i = 0; i < 2 * CHILDREN; i++) {
            pom_weight_t weight = {.wall_ns = 1, .hits = 1, .at_ns = i};
            pom_tree_add(&tree, PATH(place(F, 1), place(G, i % CHILDREN)), &weight);
            nodes = i < CHILDREN ? tree.node_count : nodes;
        }
        assert_int_equal(tree.node_count, nodes);
        assert_int_equal(nodes == 1 + CHILDREN, tree.cuts.nodes == 0);
        assert_int_equal(tree.root.total_wall_ns, 2 * CHILDREN);
        assert_true(pom_tree_validate(&tree));
        close_tree();
    }
}

static void test_tree_wide_parent_forgets_sealed_children(void **state) {
    /* Around the 32 that are searched one by one: none, one and many found by hash. */
    static const int32_t widths[] = {1, 31, 32, 33, 34, 65, 500};
    for (size_t c = 0; c < sizeof widths / sizeof widths[0]; c++) {
        open_default();
        for (int round = 1; round <= 4; round++) {
            for (int again = 0; again < 2; again++) {
                for (int32_t line = 0; line < widths[c]; line++) {
                    add(PATH(place(F, 1), place(G, line)), 1);
                }
            }
            assert_int_equal(tree.node_count, 1 + round * widths[c]);
            message(PATH(place(F, 1), place(F, 2)), "seal");
        }
        close_tree();
    }
}

static void test_tree_takes_the_deepest_stack(void **state) {
    static pom_place_t places[2048];
    for (int32_t i = 0; i < 2048; i++) {
        places[i] = place(i % 3, i);
    }
    open_default();
    for (int32_t depth = 1; depth <= 2048; depth += 89) {
        add(places, depth, 1);
    }
    assert_int_equal(tree.node_count, 2048); /* 1 + 89 * 23 */
    assert_int_equal(tree.root.first_child->hits, 24);
    message(places, 2048, "deep");
    add(places, 2048, 1);
    add(places, 2048, 1);
    assert_int_equal(tree.node_count, 2049);
    close_tree();
}

static void assert_timeline(const pom_stretch_t *expected, uint32_t count) {
    assert_int_equal(tree.stretch_count, count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(tree.timeline[i].node, expected[i].node);
        assert_int_equal(tree.timeline[i].start_ns, expected[i].start_ns);
        assert_int_equal(tree.timeline[i].duration_ns, expected[i].duration_ns);
    }
}

static void sample_at(int code, int64_t at_ns, int64_t wall_ns) {
    pom_weight_t weight = {.wall_ns = wall_ns, .hits = 1, .at_ns = at_ns};
    pom_tree_add(&tree, PATH(place(code, 1)), &weight);
    assert_true(pom_tree_validate(&tree));
}

static void test_timeline_joins_consecutive_samples_of_one_leaf(void **state) {
    open_default();
    sample_at(F, 1010, 10); /* node 1 */
    sample_at(F, 1020, 10);
    sample_at(F, 1041, 20); /* begins 1 after the last one ended: clock calls a little apart */
    sample_at(G, 1050, 10); /* node 2, seems to begin at 1040, before the other ended */
    sample_at(F, 1060, 10);
    sample_at(F, 1100, 10); /* a hole from 1060 to 1090 */
    sample_at(F, 1100, 10); /* nothing new */
    sample_at(F, 1105, 0);  /* no time */
    pom_weight_t root = {.wall_ns = 5, .hits = 1, .at_ns = 1105};
    pom_tree_add(&tree, NULL, 0, &root);
    assert_timeline(
        (pom_stretch_t[]){{1, 1000, 41}, {2, 1041, 9}, {1, 1050, 10}, {1, 1090, 10}, {0, 1100, 5}},
        5);
    close_tree();
}

static void test_timeline_tells_a_node_after_a_message_from_the_one_before(void **state) {
    open_default();
    sample_at(F, 1010, 10);                         /* node 1 */
    pom_tree_message(&tree, NULL, 0, 1010, "m", 1); /* node 2 */
    sample_at(F, 1020, 10);                         /* node 3 */
    assert_timeline((pom_stretch_t[]){{1, 1000, 10}, {3, 1010, 10}}, 2);
    close_tree();
}

static void test_timeline_full_stops_for_good(void **state) {
    pom_tree_limits_t limits = pom_tree_limits_default();
    limits.max_stretches = 20; /* not a power of two times 16 */
    open_tree(POM_BY_LINE, limits, 1 << 20);
    for (int i = 1; i <= 20; i++) {
        sample_at(i % 2 == 0 ? F : G, 1000 + 10 * i, 10);
    }
    assert_int_equal(tree.cuts.timeline, 0);
    sample_at(F, 1210, 10); /* still joins the last one, an F */
    assert_int_equal(tree.cuts.timeline, 0);
    sample_at(G, 1220, 10);
    sample_at(F, 1230, 10); /* would seem to join it */
    assert_int_equal(tree.cuts.timeline, 2);
    assert_int_equal(tree.stretch_count, 20);
    assert_int_equal(tree.timeline[19].duration_ns, 20);
    close_tree();
}

static void test_timeline_can_be_off(void **state) {
    pom_tree_limits_t limits = pom_tree_limits_default();
    limits.max_stretches = 0;
    open_tree(POM_BY_LINE, limits, 1 << 20);
    sample_at(F, 1010, 10);
    assert_null(tree.timeline);
    assert_int_equal(tree.cuts.timeline, 0);
    close_tree();
}

/*
 * An oracle: the same rules in the plainest way, a row of nodes searched from its beginning.
 */
#define ORACLE_NODES 4096

typedef struct oracle_node_s {
    int parent, code, line;
    bool sealed, message;
    int64_t total, self;
} oracle_node_t;

static oracle_node_t oracle[ORACLE_NODES];
static int oracle_count;

static int oracle_child(int parent, int code, int line) {
    for (int i = 1; i < oracle_count; i++) {
        const oracle_node_t *node = &oracle[i];
        if (node->parent == parent && !node->sealed && node->code == code && node->line == line) {
            return i;
        }
    }
    assert_true(oracle_count < ORACLE_NODES);
    oracle[oracle_count] = (oracle_node_t){.parent = parent, .code = code, .line = line};
    return oracle_count++;
}

static void oracle_add(const int *path, int depth, int64_t wall_ns) {
    int node = 0;
    oracle[0].total += wall_ns;
    for (int i = 0; i < depth; i++) {
        node = oracle_child(node, path[i] / 8, path[i] % 8);
        oracle[node].total += wall_ns;
    }
    oracle[node].self += wall_ns;
}

static void oracle_message(const int *path, int depth) {
    int node = 0;
    for (int i = 0; i + 1 < depth; i++) {
        node = oracle_child(node, path[i] / 8, path[i] % 8);
    }
    assert_true(oracle_count < ORACLE_NODES);
    oracle[oracle_count++] = (oracle_node_t){.parent = node, .message = true};
    for (int i = 1; i < oracle_count; i++) {
        oracle[i].sealed = oracle[i].sealed || oracle[i].parent == node;
    }
}

/* The oracle numbers its nodes in the order of creation too. */
static void compare_to_oracle(const pom_node_t *node, int *seen) {
    const oracle_node_t *expected = &oracle[node->index];
    assert_int_equal(node->message != NULL, expected->message);
    assert_int_equal(node->total_wall_ns, expected->total);
    assert_int_equal(node->self_wall_ns, expected->self);
    if (node->parent != NULL) {
        assert_int_equal(node->parent->index, expected->parent);
    }
    (*seen)++;
    for (const pom_node_t *child = node->first_child; child != NULL; child = child->next) {
        compare_to_oracle(child, seen);
    }
}

static void test_tree_agrees_with_the_plainest_one(void **state) {
    uint64_t random = 20;
    for (int round = 0; round < 60; round++) {
        open_default();
        memset(oracle, 0, sizeof oracle);
        oracle_count = 1;
        int path[6] = {0};
        for (int step = 0; step < 150; step++) {
            /* Change the path from some level on, as programs do. */
            int depth = 0;
            pom_place_t places[6];
            random = pom_hash_mix(random + 1);
            depth = (int)(random % 7);
            for (int i = (int)(random / 7 % 7); i < 6; i++) {
                path[i] = (int)((random >> (8 + 6 * i)) % (round % 2 == 0 ? 24 : 3));
            }
            for (int i = 0; i < depth; i++) {
                places[i] = place(path[i] / 8, path[i] % 8);
            }
            if (random >> 60 < 3) {
                oracle_message(path, depth);
                message(places, depth, "m");
            } else {
                oracle_add(path, depth, step);
                add(places, depth, step);
            }
        }
        int seen = 0;
        compare_to_oracle(&tree.root, &seen);
        assert_int_equal(seen, oracle_count);
        close_tree();
    }
}

/* A life with all that allocates: deep and wide paths, messages, a timeline. */
static bool live_a_life(void *arg) {
    pom_tree_limits_t limits = pom_tree_limits_default();
    int64_t added = 0;
    open_tree(POM_BY_LINE, limits, 1 << 20);
    for (int32_t i = 0; i < 400; i++) {
        pom_place_t places[64];
        int32_t depth = i % 10 == 0 ? 64 : 2;
        for (int32_t k = 0; k < depth; k++) {
            places[k] = place(k % 3, k == 1 ? i % 120 : 1);
        }
        pom_weight_t weight = {.wall_ns = 10, .cpu_ns = 20, .hits = 1, .at_ns = 1000 + 10 * i};
        pom_tree_add(&tree, places, depth, &weight);
        added += 10;
        if (i % 50 == 49) {
            pom_tree_message(&tree, places, 2, weight.at_ns, "a message", 9);
        }
    }
    bool valid = pom_tree_validate(&tree) && tree.root.total_wall_ns == added;
    bool whole = tree.cuts.nodes == 0 && tree.cuts.messages == 0 && tree.cuts.timeline == 0;
    pom_tree_fini(&tree);
    pom_arena_fini(&arena);
    if (!valid) {
        *(int *)arg += 1;
    }
    return valid && whole;
}

static void test_tree_survives_failing_allocations(void **state) {
    int invalid = 0;
    assert_true(pom_torture(live_a_life, &invalid) > 8); /* blocks of 2, 4, 8, 16, 32, 32 ... KiB */
    assert_int_equal(invalid, 0);
    close_tree(); /* no reference is left either; a finished tree may be finished again */
}

static void test_tree_survives_every_arena_size(void **state) {
    int invalid = 0;
    for (size_t cap = 0; cap < 40000; cap += 264) {
        pom_arena_init(&arena, cap);
        pom_tree_init(&tree, &arena, POM_BY_LINE, pom_tree_limits_default(), 0);
        for (int32_t i = 0; i < 300; i++) {
            pom_weight_t weight = {.wall_ns = 1, .hits = 1, .at_ns = i};
            pom_tree_add(&tree, PATH(place(F, 1), place(G, i % 50), place(H, i % 3)), &weight);
            if (i % 20 == 19) {
                pom_tree_message(&tree, PATH(place(F, 1), place(F, 2)), i, "m", 1);
            }
        }
        invalid += !pom_tree_validate(&tree) || tree.root.total_wall_ns != 300;
        close_tree();
    }
    assert_int_equal(invalid, 0);
}

static void test_tree_all_zero_is_empty(void **state) {
    memset(&tree, 0, sizeof tree);
    pom_tree_fini(&tree); /* a profile that never got a tree */
}

/* Each breaks a sound tree in one way; validate must notice. The tree is
 * root{f:1{g:1 ... g:40, !m, g:1{h:1}} f:2}. */
static void break_total(void) {
    tree.root.first_child->total_wall_ns++;
}
static void break_self(void) {
    tree.root.first_child->first_child->self_cpu_ns++;
}
static void break_hits(void) {
    tree.root.first_child->hits = 1;
}
static void break_key(void) {
    tree.root.first_child->key++;
}
static void break_line(void) {
    tree.root.first_child->line++;
}
static void break_parent(void) {
    tree.root.first_child->first_child->parent = &tree.root;
}
static void break_last_child(void) {
    tree.root.last_child = tree.root.first_child;
}
static void break_current(void) {
    tree.root.first_current = tree.root.first_child->first_child;
}
static void break_seal(void) {
    tree.root.first_child->first_current = tree.root.first_child->first_child;
}
static void break_order(void) {
    tree.root.first_child->index = 50;
}
static void break_count(void) {
    tree.node_count++;
}
static void break_message_count(void) {
    tree.message_count++;
}
static void break_cap(void) {
    tree.max_nodes = 3;
}
static void break_moment(void) {
    tree.root.first_child->first_ns = tree.root.last_ns + 1;
}
static void break_start(void) {
    tree.root.first_ns = tree.root.last_ns;
}
static void break_last_path(void) {
    tree.last_path[0] = tree.root.first_child->first_child;
}
static void break_timeline(void) {
    tree.timeline[1].start_ns--;
}
static void break_stretch(void) {
    tree.timeline[0].node = 99;
}
static void break_twin(void) {
    tree.root.last_child->key = tree.root.first_child->key;
    tree.root.last_child->line = tree.root.first_child->line;
}
static void break_message_time(void) {
    pom_node_t *f = tree.root.first_child;
    for (pom_node_t *n = f->first_child; n != NULL; n = n->next) {
        if (n->message != NULL) {
            n->total_wall_ns += 1;
            f->self_wall_ns -= 1;
        }
    }
}
static void break_nothing(void) {
}

static void test_validate_notices_each_fault(void **state) {
    static void (*const faults[])(void) = {
        break_nothing,     break_total,     break_self,          break_hits,    break_key,
        break_line,        break_parent,    break_last_child,    break_current, break_seal,
        break_order,       break_count,     break_message_count, break_cap,     break_moment,
        break_start,       break_last_path, break_timeline,      break_stretch, break_twin,
        break_message_time};
    for (size_t c = 0; c < sizeof faults / sizeof faults[0]; c++) {
        open_default();
        for (int32_t line = 1; line <= 40; line++) {
            add(PATH(place(F, 1), place(G, line)), 1);
        }
        message(PATH(place(F, 1), place(H, 1)), "m");
        add(PATH(place(F, 1), place(G, 1), place(H, 1)), 1);
        add(PATH(place(F, 2)), 1);
        faults[c]();
        if (pom_tree_validate(&tree) != (c == 0)) {
            print_error("fault number %zu\n", c);
            fail();
        }
        if (faults[c] == break_parent) {
            tree.root.first_child->first_child->parent = tree.root.first_child;
        }
        close_tree();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_tree_begins_empty),
        POM_TEST(test_tree_merges_samples_of_one_path),
        POM_TEST(test_tree_adds_again_where_the_last_sample_was),
        POM_TEST(test_tree_root_takes_what_no_place_is_known_for),
        POM_TEST(test_tree_granularity_says_what_is_one_place),
        POM_TEST(test_tree_same_source_in_another_object_is_the_same_place),
        POM_TEST(test_tree_message_keeps_before_and_after_apart),
        POM_TEST(test_tree_message_seals_its_own_parent_only),
        POM_TEST(test_tree_message_above_seals_the_whole_subtree),
        POM_TEST(test_tree_message_makes_the_path_it_needs),
        POM_TEST(test_tree_message_keeps_empty_and_binary_fields),
        POM_TEST(test_tree_moments_span_samples_and_messages),
        POM_TEST(test_tree_without_room_for_nodes_gives_the_time_to_the_ancestor),
        POM_TEST(test_tree_dropped_message_seals_nothing),
        POM_TEST(test_tree_message_larger_than_the_arena_is_dropped_alone),
        POM_TEST(test_tree_full_arena_cuts_and_stays_exact),
        POM_TEST(test_tree_wide_parent_finds_all_its_children),
        POM_TEST(test_tree_wide_parent_survives_every_arena_size),
        POM_TEST(test_tree_wide_parent_forgets_sealed_children),
        POM_TEST(test_tree_takes_the_deepest_stack),
        POM_TEST(test_timeline_joins_consecutive_samples_of_one_leaf),
        POM_TEST(test_timeline_tells_a_node_after_a_message_from_the_one_before),
        POM_TEST(test_timeline_full_stops_for_good),
        POM_TEST(test_timeline_can_be_off),
        POM_TEST(test_tree_agrees_with_the_plainest_one),
        POM_TEST(test_tree_survives_failing_allocations),
        POM_TEST(test_tree_survives_every_arena_size),
        POM_TEST(test_tree_all_zero_is_empty),
        POM_TEST(test_validate_notices_each_fault),
    };
    return cmocka_run_group_tests(tests, make_codes, drop_codes);
}
