/*
 * The wire form as written: golden bytes, limits, failures, and its size beside JSON's. That what
 * is written is read back the same is test_msgpack_reader.c.
 *
 * tests/data/wire/NAME.msgpack are the golden bytes, NAME.jsonl says the same for people. After a
 * wanted change: POM_GOLDEN_UPDATE=1 writes them anew, for review.
 */
#include "tests/unit/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "profiles/formats/json.h"
#include "profiles/formats/msgpack.h"
#include "profiles/formats/record.h"
#include "sample_profiles.h"

static const pom_msgpack_source_t source = {
    .name = {"shop", 4},
    .host = {"web-1", 5},
    .pid = 4711,
    .batch_id = {UINT64_C(0x0190a1b2c3d47e5f), UINT64_C(0x8899aabbccddeeff)},
    .created_wall_ns = SAMPLE_WALL + 1000000000,
};

static void golden(const char *name, const void *data, size_t size) {
    char path[512];
    static char expected[1 << 20];
    (void)snprintf(path, sizeof path, "%s/%s", POM_WIRE_DATA, name);
    if (getenv("POM_GOLDEN_UPDATE") != NULL) {
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(data, 1, size, file), size);
        assert_int_equal(fclose(file), 0);
    }
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t got = fread(expected, 1, sizeof expected, file);
    (void)fclose(file); /* read only */
    assert_int_equal(size, got);
    assert_memory_equal(data, expected, size);
}

static void check_golden(const char *name, pom_profile_t **profiles, size_t count,
                         const pom_msgpack_source_t *from) {
    char path[64];
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 20);
    assert_int_equal(
        pom_msgpack_put_batch(&buf, (const pom_profile_t *const *)profiles, count, from), POM_OK);
    (void)snprintf(path, sizeof path, "%s.msgpack", name);
    golden(path, buf.data, buf.len);
    pom_buf_reset(&buf);
    for (size_t i = 0; i < count; i++) {
        pom_json_t json;
        pom_json_init(&json, &buf);
        pom_record_emit(profiles[i], &json.emitter, 0);
        pom_json_finish(&json);
        pom_buf_put_char(&buf, '\n');
        pom_profile_unref(profiles[i]);
    }
    (void)snprintf(path, sizeof path, "%s.jsonl", name);
    golden(path, buf.data, buf.len);
    pom_buf_fini(&buf);
}

static void test_msgpack_batch_is_the_golden_one(void **state) {
    sample_codes_t codes;
    sample_codes(&codes);
    pom_profile_t *request[] = {sample_request(&codes)};
    check_golden("request", request, 1, NULL);
    pom_profile_t *batch[] = {sample_request(&codes), sample_short(), sample_task(&codes),
                              sample_files(&codes)};
    check_golden("batch", batch, 4, &source);
    pom_profile_t *shed[] = {sample_shed(), sample_short()};
    check_golden("shed", shed, 2, &source);
    check_golden("empty", NULL, 0, &source);
    sample_codes_unref(&codes);
}

static void test_msgpack_report_is_the_golden_one(void **state) {
    pom_client_report_t report = {
        .id = {UINT64_C(0x1234567812344234), UINT64_C(0x9234567890abcdef)},
        .since_wall_ns = SAMPLE_WALL,
        .at_wall_ns = SAMPLE_WALL + INT64_C(90000000000),
        .produced = 1000,
        .queued = 7,
        .sent = 900,
        .spooled = 50,
        .retried = 20};
    pom_client_report_drop(&report, "queue_full", 40);
    pom_client_report_drop(&report, "too_old", 0);
    pom_client_report_drop(&report, "rejected", 3);
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 16);
    assert_int_equal(pom_msgpack_put_report(&buf, &report, &source), POM_OK);
    golden("report.msgpack", buf.data, buf.len);
    pom_buf_reset(&buf);
    pom_json_put_report(&buf, &report, source.name, source.pid);
    golden("report.jsonl", buf.data, buf.len);
    pom_buf_fini(&buf);
}

static void test_msgpack_appends_behind_what_is_there(void **state) {
    pom_profile_t *profile = sample_short();
    const pom_profile_t *const one[] = {profile};
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 16);
    assert_int_equal(pom_msgpack_put_batch(&buf, one, 1, NULL), POM_OK);
    size_t size = buf.len;
    assert_int_equal(pom_msgpack_put_batch(&buf, one, 1, NULL), POM_OK);
    assert_int_equal(buf.len, 2 * size);
    assert_memory_equal(buf.data, buf.data + size, size);
    pom_buf_fini(&buf);
    pom_profile_unref(profile);
}

static void test_msgpack_says_full_and_leaves_the_buffer(void **state) {
    pom_profile_t *profile = sample_short();
    const pom_profile_t *const one[] = {profile};
    pom_buf_t buf;
    pom_buf_init(&buf, 64);
    pom_buf_put_text(&buf, "before");
    assert_int_equal(pom_msgpack_put_batch(&buf, one, 1, NULL), POM_EFULL);
    assert_false(pom_buf_failed(&buf));
    assert_int_equal(buf.len, 6);
    assert_memory_equal(buf.data, "before", 6);
    pom_buf_fini(&buf);
    pom_profile_unref(profile);
}

static bool put_once(void *arg) {
    pom_profile_t *const *profile = arg;
    const pom_profile_t *const twice[] = {*profile, *profile};
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 20);
    pom_status_t status = pom_msgpack_put_batch(&buf, twice, 2, &source);
    assert_true(status == POM_OK || status == POM_ENOMEM);
    assert_true(status == POM_OK || buf.len == 0);
    pom_buf_fini(&buf);
    return status == POM_OK;
}

static void test_msgpack_survives_each_failing_allocation(void **state) {
    sample_codes_t codes;
    sample_codes(&codes);
    pom_profile_t *profile = sample_any(&codes, 4);
    assert_true(pom_torture(put_once, &profile) > 10);
    pom_profile_unref(profile);
    sample_codes_unref(&codes);
}

/* A request as web applications have it: 30 nodes at the end of two dozen samples, twenty of a
 * kind to a batch. */
static void test_msgpack_is_a_quarter_of_json_at_most(void **state) {
    enum { COUNT = 20 };
    sample_codes_t codes;
    pom_profile_t *profiles[COUNT];
    sample_codes(&codes);
    pom_buf_t wire, json;
    pom_buf_init(&wire, 1 << 22);
    pom_buf_init(&json, 1 << 22);
    for (int i = 0; i < COUNT; i++) {
        profiles[i] = sample_new(POM_BY_LINE, "/cart");
        for (int j = 0; j < 15; j++) {
            sample_add(profiles[i], &codes, j % 3 == 0 ? "0167" : "0126", 10 + j / 3, 10 * j + i,
                       10 * SAMPLE_MS + 1000 * j + i, 3 * SAMPLE_MS + 77 * i);
        }
        sample_end(profiles[i], 200 * SAMPLE_MS, 90 * SAMPLE_MS);
        pom_json_put_line(&json, profiles[i]);
    }
    assert_int_equal(profiles[0]->tree.node_count, 30);
    assert_int_equal(
        pom_msgpack_put_batch(&wire, (const pom_profile_t *const *)profiles, COUNT, NULL), POM_OK);
    assert_true(wire.len * 4 < json.len);
    for (int i = 0; i < COUNT; i++) {
        pom_profile_unref(profiles[i]);
    }
    pom_buf_fini(&wire);
    pom_buf_fini(&json);
    sample_codes_unref(&codes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_msgpack_batch_is_the_golden_one),
        POM_TEST(test_msgpack_report_is_the_golden_one),
        POM_TEST(test_msgpack_appends_behind_what_is_there),
        POM_TEST(test_msgpack_says_full_and_leaves_the_buffer),
        POM_TEST(test_msgpack_survives_each_failing_allocation),
        POM_TEST(test_msgpack_is_a_quarter_of_json_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
