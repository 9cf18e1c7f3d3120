/*
 * The wire form as read: the same record comes out, what is unknown is passed over, and no bytes do
 * any harm. tests/data/wire: see test_msgpack.c; later.msgpack has keys, columns and values that
 * this version does not know, regressions/ what once went wrong.
 */
#include "tests/unit/support/test_support.h"

#include <stdio.h>

#include "base/alloc.h"
#include "profiles/formats/json.h"
#include "profiles/formats/msgpack_reader.h"
#include "profiles/formats/record.h"
#include "sample_profiles.h"

static unsigned char bytes[1 << 20];

static size_t load(const char *name) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", POM_WIRE_DATA, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    (void)fclose(file); /* read only */
    return size;
}

static void put_record(pom_buf_t *buf, const pom_profile_t *profile) {
    pom_json_t json;
    pom_json_init(&json, buf);
    pom_record_emit(profile, &json.emitter, 0);
    pom_json_finish(&json);
    pom_buf_put_char(buf, '\n');
}

/* Every record of a batch as JSON lines; the worst status met. */
static pom_status_t read_all(const void *data, size_t size, pom_buf_t *out) {
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    if (reader == NULL) {
        return POM_ENOMEM;
    }
    pom_status_t worst = pom_msgpack_reader_begin(reader, data, size), status = worst;
    while (worst == POM_OK || status != POM_ENOTFOUND) {
        pom_profile_t *profile;
        status = pom_msgpack_reader_next(reader, &profile);
        if (status == POM_OK) {
            put_record(out, profile);
            pom_profile_unref(profile);
        } else if (status == POM_ENOTFOUND) {
            break;
        } else {
            worst = status;
        }
    }
    pom_msgpack_reader_free(reader);
    return worst;
}

static void assert_reads_as(const char *wire, const char *jsonl) {
    static char expected[1 << 20];
    size_t size = load(jsonl);
    memcpy(expected, bytes, size);
    pom_buf_t out;
    pom_buf_init(&out, 1 << 20);
    assert_int_equal(read_all(bytes, load(wire), &out), POM_OK);
    assert_int_equal(out.len, size);
    assert_true(size == 0 || memcmp(out.data, expected, size) == 0);
    pom_buf_fini(&out);
}

static void test_msgpack_reader_reads_the_golden_batches(void **state) {
    assert_reads_as("request.msgpack", "request.jsonl");
    assert_reads_as("batch.msgpack", "batch.jsonl");
    assert_reads_as("shed.msgpack", "shed.jsonl");
    assert_reads_as("empty.msgpack", "empty.jsonl");
}

static void test_msgpack_reader_passes_over_what_it_does_not_know(void **state) {
    assert_reads_as("later.msgpack", "batch.jsonl");
}

/* order.msgpack: the keys of each map in rising order, as the writer once had them. */
static void test_msgpack_reader_takes_keys_in_any_order(void **state) {
    assert_reads_as("order.msgpack", "batch.jsonl");
}

static void test_msgpack_reader_tells_the_source(void **state) {
    size_t size = load("batch.msgpack");
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    assert_int_equal(pom_msgpack_reader_begin(reader, bytes, size), POM_OK);
    const pom_msgpack_source_t *source = pom_msgpack_reader_source(reader);
    assert_int_equal(source->name.size, 4);
    assert_memory_equal(source->name.data, "shop", 4);
    assert_memory_equal(source->host.data, "web-1", 5);
    assert_int_equal(source->pid, 4711);
    assert_int_equal(source->batch_id.hi, UINT64_C(0x0190a1b2c3d47e5f));
    assert_int_equal(source->batch_id.lo, UINT64_C(0x8899aabbccddeeff));
    assert_int_equal(source->created_wall_ns, (SAMPLE_WALL + 1000000000) / 1000 * 1000);
    pom_msgpack_reader_free(reader);
    pom_msgpack_reader_free(NULL);
}

static void test_msgpack_reader_reads_a_client_report(void **state) {
    size_t size = load("report.msgpack");
    pom_profile_t *profile;
    pom_buf_t out;
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    assert_int_equal(pom_msgpack_reader_begin(reader, bytes, size), POM_OK);
    const pom_client_report_t *report = pom_msgpack_reader_report(reader);
    const pom_msgpack_source_t *source = pom_msgpack_reader_source(reader);
    assert_non_null(report);
    pom_buf_init(&out, 1 << 16);
    pom_json_put_report(&out, report, source->name, source->pid);
    assert_int_equal(pom_msgpack_reader_next(reader, &profile), POM_ENOTFOUND);
    /* The reasons point into the bytes, which the next load overwrites. */
    size = load("report.jsonl");
    assert_int_equal(out.len, size);
    assert_memory_equal(out.data, bytes, size);
    pom_buf_fini(&out);
    size = load("batch.msgpack");
    assert_int_equal(pom_msgpack_reader_begin(reader, bytes, size), POM_OK);
    assert_null(pom_msgpack_reader_report(reader));
    pom_msgpack_reader_free(reader);
}

static void test_msgpack_reader_passes_over_a_report_without_sense(void **state) {
    size_t size = load("report.msgpack");
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    const unsigned char id[] = {0x01, 0xc4, 0x10, 0x12, 0x34};
    size_t at = 0;
    while (memcmp(bytes + at, id, sizeof id) != 0) {
        at++;
    }
    bytes[at + 1] = 0xd9; /* a text where the id is bytes */
    assert_int_equal(pom_msgpack_reader_begin(reader, bytes, size), POM_OK);
    assert_null(pom_msgpack_reader_report(reader));
    pom_msgpack_reader_free(reader);
}

/* The row of a node in document order without internal nodes, which is what the wire calls it. */
static uint32_t row_of(const pom_tree_t *tree, uint32_t index) {
    uint32_t row = 0, kept[2048] = {0};
    const pom_node_t *node = &tree->root;
    while (node != NULL) {
        bool shown = node->code == NULL || !node->code->internal || node->message != NULL;
        kept[node->index] = node == &tree->root ? 0 : shown ? ++row : kept[node->parent->index];
        if (node->first_child != NULL) {
            node = node->first_child;
            continue;
        }
        while (node != NULL && node->next == NULL) {
            node = node->parent;
        }
        node = node != NULL ? node->next : NULL;
    }
    return kept[index];
}

/* What is read of a batch of this profile alone; returns owned. */
static pom_profile_t *read_back(const pom_profile_t *profile) {
    const pom_profile_t *const one[] = {profile};
    pom_profile_t *again, *none;
    pom_buf_t wire;
    pom_buf_init(&wire, 1 << 22);
    assert_int_equal(pom_msgpack_put_batch(&wire, one, 1, NULL), POM_OK);
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    assert_int_equal(pom_msgpack_reader_begin(reader, wire.data, wire.len), POM_OK);
    assert_int_equal(pom_msgpack_reader_next(reader, &again), POM_OK);
    assert_int_equal(pom_msgpack_reader_next(reader, &none), POM_ENOTFOUND);
    pom_msgpack_reader_free(reader);
    pom_buf_fini(&wire);
    return again;
}

static void check_round_trip(const pom_profile_t *profile) {
    pom_profile_t *again = read_back(profile);
    pom_buf_t before, after;
    pom_buf_init(&before, 1 << 22);
    pom_buf_init(&after, 1 << 22);
    put_record(&before, profile);
    put_record(&after, again);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, before.len);
    const pom_tree_t *a = &profile->tree, *b = &again->tree;
    assert_int_equal(a->stretch_count, b->stretch_count);
    for (uint32_t i = 0; i < a->stretch_count; i++) {
        assert_int_equal(b->timeline[i].node, row_of(a, a->timeline[i].node));
        assert_int_equal(b->timeline[i].start_ns, a->timeline[i].start_ns - profile->start_ns);
        assert_int_equal(b->timeline[i].duration_ns, a->timeline[i].duration_ns);
    }
    pom_profile_unref(again);
    pom_buf_fini(&before);
    pom_buf_fini(&after);
}

static void test_msgpack_reader_gives_back_any_tree(void **state) {
    sample_codes_t codes;
    sample_codes(&codes);
    for (uint32_t seed = 0; seed < 300; seed++) {
        pom_profile_t *profile = sample_any(&codes, seed);
        check_round_trip(profile);
        pom_profile_unref(profile);
    }
    sample_codes_unref(&codes);
}

/* Each node of `was` against the same one of `is`. */
static void assert_nearly_equal(const pom_profile_t *was, const pom_profile_t *is) {
    const pom_node_t *a = &was->tree.root, *b = &is->tree.root;
    while (a != NULL) {
        assert_non_null(b);
        assert_in_range(b->total_wall_ns - a->total_wall_ns + 999, 0, 2 * 999);
        assert_in_range(b->total_cpu_ns - a->total_cpu_ns + 999, 0, 2 * 999);
        assert_true(b->self_wall_ns >= 0 && b->self_cpu_ns >= 0);
        assert_in_range(b->first_ns - (a->first_ns - was->start_ns) + 500, 0, 1000);
        assert_in_range(b->last_ns - (a->last_ns - was->start_ns) + 500, 0, 1000);
        if (a->first_child != NULL) {
            a = a->first_child;
            b = b->first_child;
            continue;
        }
        while (a != NULL && a->next == NULL) {
            a = a->parent;
            b = b->parent;
        }
        a = a != NULL ? a->next : NULL;
        b = b != NULL ? b->next : NULL;
    }
}

/* A thousand nodes of a third of a microsecond: rounded one by one nothing would be left of
 * them. */
static void test_msgpack_reader_finds_times_that_are_rounded_but_add_up(void **state) {
    sample_codes_t codes;
    sample_codes(&codes);
    pom_profile_t *profile = sample_new(POM_BY_LINE, "/rounded");
    int64_t wall_ns = 0, cpu_ns = 0;
    for (int i = 0; i < 1000; i++) {
        pom_place_t places[3] = {
            {codes.list[0], i / 100}, {codes.list[1], i / 10}, {codes.list[2], i}};
        const pom_weight_t weight = {
            .wall_ns = 333, .cpu_ns = 111 + i % 3, .hits = 1, .at_ns = SAMPLE_START + 1717 * i};
        pom_tree_add(&profile->tree, places, 1 + i % 3, &weight);
        wall_ns += weight.wall_ns;
        cpu_ns += weight.cpu_ns;
    }
    /* Samples that stand for more than the duration: the wall time is another one. */
    sample_end(profile, wall_ns + 77, cpu_ns);
    profile->end_ns -= 5000;
    profile->start_wall_ns = -1501; /* before 1970, and cut towards the past as texts are */
    pom_profile_t *again = read_back(profile);
    assert_nearly_equal(profile, again);
    assert_int_equal(again->wall_ns, 333077 / 1000 * 1000);
    assert_int_equal(again->tree.root.total_wall_ns, again->wall_ns);
    assert_int_equal(again->tree.root.total_cpu_ns, again->cpu_ns);
    assert_int_equal(again->end_ns, 328000);
    assert_int_equal(again->start_wall_ns, -2000);
    int64_t at_ns = 0;
    for (uint32_t i = 0; i < again->tree.stretch_count; i++) {
        const pom_stretch_t *stretch = &again->tree.timeline[i];
        assert_true(stretch->start_ns >= at_ns);
        assert_in_range(
            stretch->start_ns - (profile->tree.timeline[i].start_ns - SAMPLE_START) + 500, 0, 1000);
        at_ns = stretch->start_ns + stretch->duration_ns;
    }
    pom_profile_unref(again);
    pom_profile_unref(profile);
    sample_codes_unref(&codes);
}

static void test_msgpack_reader_keeps_full_depth(void **state) {
    enum { DEPTH = 2048 };
    static pom_place_t places[DEPTH];
    sample_codes_t codes;
    sample_codes(&codes);
    pom_profile_t *profile = sample_new(POM_BY_LINE, "/deep");
    for (int i = 0; i < DEPTH; i++) {
        places[i] = (pom_place_t){codes.list[0], i + 1};
    }
    const pom_weight_t weight = {SAMPLE_MS, SAMPLE_MS, 1, SAMPLE_START + SAMPLE_MS};
    pom_tree_add(&profile->tree, places, DEPTH, &weight);
    sample_end(profile, SAMPLE_MS, SAMPLE_MS);
    pom_profile_t *again = read_back(profile);
    int depth = 0;
    for (const pom_node_t *node = again->tree.root.first_child; node != NULL;
         node = node->first_child) {
        depth++;
        assert_int_equal(node->line, depth);
        assert_int_equal(node->total_wall_ns, SAMPLE_MS);
    }
    assert_int_equal(depth, DEPTH);
    pom_profile_unref(again);
    pom_profile_unref(profile);
    sample_codes_unref(&codes);
}

static void test_msgpack_reader_tells_where_a_batch_ends(void **state) {
    static const struct {
        const char *head;
        size_t size;
        pom_status_t status;
        size_t total;
    } cases[] = {
        {"\x93\xa4pomw\x01\xc6\x00\x00\x01\x02", 12, POM_OK, 12 + 0x102},
        {"\x93\xa4pomw\x02\xc6\x00\x00\x01\x02", 12, POM_EUNSUPPORTED, 12 + 0x102},
        {"\x93\xa4pomw\x01\xc6\x04\x00\x00\x00", 12, POM_OK, 12 + (64u << 20)},
        {"\x93\xa4pomw\x01\xc6\x04\x00\x00\x01", 12, POM_EFULL, 0},
        {"\x93\xa4pomw\x01\xc5\x00\x00\x01\x02", 12, POM_EINVAL, 0},
        {"\x93\xa4pomw\x00\xc6\x00\x00\x01\x02", 12, POM_EINVAL, 0},
        {"\x93\xa4pomw\x01\xc6\x00\x00\x01", 11, POM_ENOTFOUND, 0},
        {"", 0, POM_ENOTFOUND, 0},
        {"{\"task_uuid\": 1}", 16, POM_EINVAL, 0},
        {"\x93\xa4pox", 5, POM_EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t total = 0;
        assert_int_equal(pom_msgpack_batch_size(cases[i].head, cases[i].size, &total),
                         cases[i].status);
        assert_int_equal(total, cases[i].total);
    }
}

/* A body by hand: minor, source, and whatever the test has for the rest. */
static pom_status_t read_body(const void *rest, size_t size, pom_buf_t *out) {
    static unsigned char batch[1 << 20];
    static const char front[] = "\x86\x00\x00\x01\x80";
    size_t body = sizeof front - 1 + size;
    assert_true(12 + body <= sizeof batch);
    memcpy(batch, "\x93\xa4pomw\x01\xc6", 8);
    for (int i = 0; i < 4; i++) {
        batch[8 + i] = (unsigned char)(body >> (24 - 8 * i));
    }
    memcpy(batch + 12, front, sizeof front - 1);
    memcpy(batch + 12 + sizeof front - 1, rest, size);
    return read_all(batch, 12 + body, out);
}

#define TEXTS  "\x02\x92\xa0\xa1x" /* "", "x" */
#define CODES  "\x03\x83\x01\x91\x01\x02\x91\x01\x03\x91\x05"
#define STACKS "\x04\x83\x01\x92\x00\x01\x02\x92\x01\x01\x03\x92\x07\x08" /* x:7 > x:8 */
#define TASK   "\x01\xa1t"
#define ONE    "\x05\x91\x82" TASK

/* Columns of nodes: stacks, and zeros for the rest. */
#define ROWS3_AND(a, b, c)                                                                         \
    "\x05\x91\x83" TASK "\x10\x86\x01\x93" a b c Z3("\x02") Z3("\x03") Z3("\x04") Z3("\x05")       \
        Z3("\x06")
#define ROWS3(a, b, c)                                                                             \
    ONE "\x10\x86\x01\x93" a b c Z3("\x02") Z3("\x03") Z3("\x04") Z3("\x05") Z3("\x06")
#define Z3(n) n "\x93\x00\x00\x00"
#define ROWS1 "\x10\x86\x01\x91\x00\x02\x91\x00\x03\x91\x00\x04\x91\x00\x05\x91\x00\x06\x91\x00"
/* Behind the columns of a profile that has three entries. */
#define MESSAGES(rows, fields) "\x11\x82\x01" rows "\x02" fields
#define TIMES(wall)                                                                                \
    ONE "\x10\x86\x01\x93\x00\x01\x02" Z3("\x02") "\x03\x93" wall wall wall Z3("\x04") Z3("\x05")  \
        Z3("\x06")

static void test_msgpack_reader_refuses_what_makes_no_sense(void **state) {
    static const struct {
        const char *why, *rest;
        size_t size;
        pom_status_t status;
    } cases[] = {
#define CASE(why, rest, status) {why, rest, sizeof(rest) - 1, status}
        CASE("a tree of three", TEXTS CODES STACKS ROWS3("\x00", "\x01", "\x02"), POM_OK),
        CASE("siblings of one stack", TEXTS CODES STACKS ROWS3("\x00", "\x01", "\x01"), POM_OK),
        CASE("a child without its parent", TEXTS CODES STACKS ROWS3("\x00", "\x02", "\x01"),
             POM_EINVAL),
        CASE("a root with a stack", TEXTS CODES STACKS ROWS3("\x01", "\x01", "\x02"), POM_EINVAL),
        CASE("two roots", TEXTS CODES STACKS ROWS3("\x00", "\x00", "\x01"), POM_EINVAL),
        CASE("no such stack", TEXTS CODES STACKS ROWS3("\x00", "\x01", "\x03"), POM_EINVAL),
        CASE("a negative stack", TEXTS CODES STACKS ROWS3("\x00", "\x01", "\xff"), POM_EINVAL),
        CASE("no such text", TEXTS "\x03\x83\x01\x91\x02\x02\x91\x01\x03\x91\x05" STACKS ONE ROWS1,
             POM_EINVAL),
        CASE("no such code", TEXTS CODES "\x04\x83\x01\x91\x00\x02\x91\x02\x03\x91\x07" ONE ROWS1,
             POM_EINVAL),
        CASE("a stack that is its own parent",
             TEXTS CODES "\x04\x83\x01\x91\x01\x02\x91\x01\x03\x91\x07" ONE ROWS1, POM_EINVAL),
        CASE("columns of two lengths",
             TEXTS CODES "\x04\x83\x01\x91\x00\x02\x92\x01\x01\x03\x91\x07" ONE ROWS1, POM_EINVAL),
        CASE("a column too few", TEXTS CODES "\x04\x82\x01\x91\x00\x02\x91\x01" ONE ROWS1,
             POM_EINVAL),
        CASE("no profiles", TEXTS CODES STACKS "\x06\x90", POM_EINVAL),
        CASE("no task", TEXTS CODES STACKS "\x05\x91\x81" ROWS1, POM_EINVAL),
        CASE("no nodes", TEXTS CODES STACKS "\x05\x91\x81" TASK, POM_EINVAL),
        CASE("no rows",
             TEXTS CODES STACKS ONE "\x10\x86\x01\x90\x02\x90\x03\x90\x04\x90\x05\x90\x06\x90",
             POM_EINVAL),
        CASE("a message",
             TEXTS CODES STACKS ROWS3_AND("\x00", "\x01", "\x02") MESSAGES("\x91\x02", "\x91\x80"),
             POM_OK),
        CASE("a message twice",
             TEXTS CODES STACKS ROWS3_AND("\x00", "\x01", "\x02")
                 MESSAGES("\x92\x02\x02", "\x92\x80\x80"),
             POM_EINVAL),
        CASE("a message for the action",
             TEXTS CODES STACKS ROWS3_AND("\x00", "\x01", "\x02") MESSAGES("\x91\x00", "\x91\x80"),
             POM_EINVAL),
        CASE("a message that is no map",
             TEXTS CODES STACKS ROWS3_AND("\x00", "\x01", "\x02") MESSAGES("\x91\x02", "\x91\x90"),
             POM_EINVAL),
        CASE("a task twice", TEXTS CODES STACKS "\x05\x91\x83" TASK TASK ROWS1, POM_EINVAL),
        CASE("a sum of the longest time",
             TEXTS CODES STACKS TIMES("\xcf\x00\x02\x00\x00\x00\x00\x00\x00"), POM_OK),
        CASE("a sum that is too long",
             TEXTS CODES STACKS TIMES("\xcf\x00\x04\x00\x00\x00\x00\x00\x00"), POM_EINVAL),
        CASE("the longest time",
             TEXTS CODES STACKS "\x05\x91\x83" TASK
                                "\x08\xcf\x00\x04\x00\x00\x00\x00\x00\x00" ROWS1,
             POM_OK),
        CASE("a time that is too long",
             TEXTS CODES STACKS "\x05\x91\x83" TASK
                                "\x08\xcf\x00\x04\x00\x00\x00\x00\x00\x01" ROWS1,
             POM_EINVAL),
        CASE("a huge integer", TEXTS CODES STACKS TIMES("\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
             POM_EINVAL),
        CASE("bytes behind the body", TEXTS CODES STACKS ONE ROWS1 "\x00", POM_EINVAL),
        CASE("more texts than bytes", "\x02\xdd\xff\xff\xff\xff" CODES STACKS ONE ROWS1,
             POM_EINVAL),
        CASE("the byte that is never used", TEXTS CODES STACKS "\x05\x91\xc1", POM_EINVAL),
#undef CASE
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pom_buf_t out;
        pom_buf_init(&out, 1 << 16);
        pom_status_t status = read_body(cases[i].rest, cases[i].size, &out);
        if (status != cases[i].status) {
            print_error("%s: %s\n", cases[i].why, pom_status_name(status));
        }
        assert_int_equal(status, cases[i].status);
        assert_int_equal(out.len > 0, status == POM_OK);
        pom_buf_fini(&out);
    }
}

/* An array or a column of `count` integers of one byte. */
static void put_column(pom_buf_t *buf, char key, uint32_t count, unsigned char value) {
    const unsigned char head[] = {(unsigned char)key,           0xdd,
                                  (unsigned char)(count >> 24), (unsigned char)(count >> 16),
                                  (unsigned char)(count >> 8),  (unsigned char)count};
    pom_buf_put(buf, head, sizeof head);
    for (uint32_t i = 0; i < count; i++) {
        pom_buf_put_char(buf, (char)value);
    }
}

static void put_bytes(pom_buf_t *buf, const char *literal, size_t size) {
    pom_buf_put(buf, literal, size);
}

#define PUT(buf, literal) put_bytes((buf), (literal), sizeof(literal) - 1)

/* Two bytes of a column become two kilobytes of a code object. */
static void test_msgpack_reader_limits_the_memory_of_codes(void **state) {
    static const uint32_t counts[] = {1000, 60000};
    for (size_t i = 0; i < 2; i++) {
        pom_buf_t rest, out;
        pom_buf_init(&rest, 1 << 20);
        pom_buf_init(&out, 1 << 16);
        PUT(&rest, "\x02\x92\xa0\xda\x04\x00");
        for (int j = 0; j < 1024; j++) {
            pom_buf_put_char(&rest, 'x');
        }
        PUT(&rest, "\x03\x83");
        put_column(&rest, 1, counts[i], 1);
        put_column(&rest, 2, counts[i], 1);
        put_column(&rest, 3, counts[i], 1);
        PUT(&rest, STACKS ONE ROWS1);
        assert_int_equal(read_body(rest.data, rest.len, &out), i == 0 ? POM_OK : POM_EFULL);
        pom_buf_fini(&rest);
        pom_buf_fini(&out);
    }
}

static void test_msgpack_reader_limits_the_depth(void **state) {
    for (uint32_t depth = POM_MSGPACK_DEPTH_MAX; depth <= POM_MSGPACK_DEPTH_MAX + 1; depth++) {
        pom_buf_t rest, out;
        pom_buf_init(&rest, 1 << 20);
        pom_buf_init(&out, 1 << 22);
        PUT(&rest, TEXTS CODES "\x04\x83\x01\xdd\x00\x00");
        pom_buf_put_char(&rest, (char)(depth >> 8));
        pom_buf_put_char(&rest, (char)depth);
        for (uint32_t i = 0; i < depth; i++) { /* each is the child of the one before */
            const unsigned char parent[] = {0xcd, (unsigned char)(i >> 8), (unsigned char)i};
            pom_buf_put(&rest, parent, sizeof parent);
        }
        put_column(&rest, 2, depth, 1);
        put_column(&rest, 3, depth, 7);
        PUT(&rest, ONE ROWS1);
        assert_int_equal(read_body(rest.data, rest.len, &out),
                         depth <= POM_MSGPACK_DEPTH_MAX ? POM_OK : POM_EFULL);
        pom_buf_fini(&rest);
        pom_buf_fini(&out);
    }
}

static void test_msgpack_reader_takes_values_of_any_width(void **state) {
    static const char rest[] =
        TEXTS CODES STACKS "\x05\x91\x83" TASK ROWS1 "\x0d\x81\x01\xdc\x00\x15"
                           "\xff\xd0\x9c\xd1\xfc\x18\xd2\xff\xfe\x79\x60"
                           "\xd3\x80\x00\x00\x00\x00\x00\x00\x00"
                           "\xcc\xff\xcd\xff\xff\xce\xff\xff\xff\xff"
                           "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
                           "\xca\x3f\x00\x00\x00\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a"
                           "\xd9\x01y\xda\x00\x01y\xdb\x00\x00\x00\x01y\xc4\x01z"
                           "\xd4\x01\xff\xd5\x01\x01\x00\xd7\x01\x00\x00\x00\x00\x00\x0f\x42\x40"
                           "\xd7\x01\x7f\xff\xff\xff\xff\xff\xff\xff"
                           "\xc7\x03\x01\x00\x00\x00\xd4\x02\x01";
    pom_buf_t out;
    pom_buf_init(&out, 1 << 16);
    assert_int_equal(read_body(rest, sizeof rest - 1, &out), POM_OK);
    pom_buf_put_char(&out, '\0');
    assert_non_null(strstr(out.data,
                           "\"x\":[-1,-100,-1000,-100000,-9223372036854775808,255,65535,4294967295,"
                           "1.8446744073709552e+19,0.5,0.1,\"y\",\"y\",\"y\",null,"
                           "-0.000001,0.000256,1.0,null,null,null]"));
    pom_buf_fini(&out);
}

static void test_msgpack_reader_goes_on_behind_a_bad_profile(void **state) {
    static const char rest[] = TEXTS CODES STACKS "\x05\x93\x82" TASK ROWS1 /* good */
                                                  "\x81" TASK               /* without nodes */
                                                  "\x82" TASK ROWS1;
    pom_buf_t out;
    pom_buf_init(&out, 1 << 16);
    assert_int_equal(read_body(rest, sizeof rest - 1, &out), POM_EINVAL);
    int lines = 0;
    for (size_t i = 0; i < out.len; i++) {
        lines += out.data[i] == '\n';
    }
    assert_int_equal(lines, 2);
    pom_buf_fini(&out);
}

/* Each beginning of a batch, and each byte of it changed in several ways: no crash, no leak, and
 * what comes out is at most what fits. Run under the sanitizers, this is the fuzzer's first
 * minute. */
static void test_msgpack_reader_survives_broken_bytes(void **state) {
    static unsigned char copy[1 << 16];
    pom_buf_t out;
    pom_buf_init(&out, 1 << 24);
    size_t size = load("request.msgpack");
    for (size_t cut = 0; cut < size; cut++) {
        pom_buf_reset(&out);
        assert_int_not_equal(read_all(bytes, cut, &out), POM_OK);
        /* And with a head that fits. */
        memcpy(copy, bytes, cut);
        if (cut >= 12) {
            copy[8] = copy[9] = 0;
            copy[10] = (unsigned char)((cut - 12) >> 8);
            copy[11] = (unsigned char)(cut - 12);
            assert_int_not_equal(read_all(copy, cut, &out), POM_OK);
        }
    }
    static const unsigned char changes[] = {0x00, 0x01, 0x7f, 0xc1, 0xcf, 0xdd, 0xff};
    memcpy(copy, bytes, size);
    for (size_t at = 0; at < size; at++) {
        for (size_t i = 0; i < sizeof changes; i++) {
            copy[at] = changes[i];
            pom_buf_reset(&out);
            (void)read_all(copy, size, &out); /* right or wrong */
        }
        copy[at] = bytes[at];
    }
    pom_buf_fini(&out);
}

static bool read_once(void *arg) {
    const size_t *size = arg;
    pom_buf_t out;
    pom_buf_init(&out, 1 << 20);
    pom_status_t status = read_all(bytes, *size, &out);
    bool good = status == POM_OK && !pom_buf_failed(&out);
    pom_buf_fini(&out);
    return good;
}

static void test_msgpack_reader_survives_each_failing_allocation(void **state) {
    size_t size = load("batch.msgpack");
    assert_true(pom_torture(read_once, &size) > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_msgpack_reader_reads_the_golden_batches),
        POM_TEST(test_msgpack_reader_passes_over_what_it_does_not_know),
        POM_TEST(test_msgpack_reader_takes_keys_in_any_order),
        POM_TEST(test_msgpack_reader_tells_the_source),
        POM_TEST(test_msgpack_reader_reads_a_client_report),
        POM_TEST(test_msgpack_reader_passes_over_a_report_without_sense),
        POM_TEST(test_msgpack_reader_gives_back_any_tree),
        POM_TEST(test_msgpack_reader_finds_times_that_are_rounded_but_add_up),
        POM_TEST(test_msgpack_reader_keeps_full_depth),
        POM_TEST(test_msgpack_reader_tells_where_a_batch_ends),
        POM_TEST(test_msgpack_reader_refuses_what_makes_no_sense),
        POM_TEST(test_msgpack_reader_limits_the_memory_of_codes),
        POM_TEST(test_msgpack_reader_limits_the_depth),
        POM_TEST(test_msgpack_reader_takes_values_of_any_width),
        POM_TEST(test_msgpack_reader_goes_on_behind_a_bad_profile),
        POM_TEST(test_msgpack_reader_survives_broken_bytes),
        POM_TEST(test_msgpack_reader_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
