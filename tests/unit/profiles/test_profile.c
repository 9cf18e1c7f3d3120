/* The profile: one reference counts, everything goes with the last one, and what it weighs. */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "profiles/profile.h"

#include <pthread.h>
#include <string.h>

static pom_code_t *new_code(void) {
    pom_code_spec_t spec = {.file = "a.py", .file_len = 4, .function = "f", .function_len = 1};
    return pom_code_new(&spec);
}

/* One sample at a place of its own; the tree keeps the only reference to the code. */
static void add_sample(pom_profile_t *profile, int32_t line) {
    pom_code_t *code = new_code();
    pom_place_t place = {.code = code, .line = line};
    pom_weight_t weight = {.wall_ns = 1, .hits = 1, .at_ns = line};
    if (code != NULL) {
        pom_tree_add(&profile->tree, &place, 1, &weight);
    }
    pom_code_unref(code);
}

static void test_profile_begins_zeroed_with_one_reference(void **state) {
    pom_profile_t *profile = pom_profile_new(1 << 16);
    assert_int_equal(atomic_load(&profile->refs), 1);
    assert_int_equal(profile->arena.cap, 1 << 16);
    assert_int_equal(profile->wall_ns, 0);
    assert_int_equal(profile->outcome, POM_OUTCOME_SUCCEEDED);
    assert_null(profile->type.data);
    assert_null(profile->fields);
    pom_profile_unref(profile); /* it never got a tree */
}

static void test_profile_last_reference_frees_tree_and_arena(void **state) {
    int64_t before = pom_alloc_live_bytes();
    pom_profile_t *profile = pom_profile_new(1 << 20);
    pom_tree_init(&profile->tree, &profile->arena, POM_BY_LINE, pom_tree_limits_default(), 0);
    for (int32_t line = 1; line <= 200; line++) {
        add_sample(profile, line);
    }
    pom_tree_message(&profile->tree, NULL, 0, 300, "hello", 5);
    profile->source.data = pom_arena_copy(&profile->arena, "web", 3);
    profile->source.size = 3;
    assert_ptr_equal(pom_profile_ref(profile), profile);
    pom_profile_unref(profile);
    assert_string_equal(profile->source.data, "web");
    assert_int_equal(profile->tree.node_count, 200);
    assert_true(pom_tree_validate(&profile->tree));
    pom_profile_unref(profile);
    assert_int_equal(pom_alloc_live_bytes(), before);
    pom_profile_unref(NULL);
}

static void test_profile_bytes_are_the_struct_and_its_arena(void **state) {
    int64_t before = pom_alloc_live_bytes(), calls = pom_alloc_calls();
    pom_profile_t *profile = pom_profile_new(1 << 20);
    size_t born = pom_profile_bytes(profile);
    assert_true(born > sizeof *profile && born < 2048);
    assert_in_range(pom_alloc_live_bytes() - before, born, born + 32);
    assert_non_null(pom_arena_alloc(&profile->arena, 1000));
    assert_int_equal(pom_profile_bytes(profile), born);
    assert_int_equal(pom_alloc_calls() - calls, 1); /* a short request's */
    assert_non_null(pom_arena_alloc(&profile->arena, 1000));
    assert_true(pom_profile_bytes(profile) > born + 1000);
    pom_profile_unref(profile);
    profile = pom_profile_new(100); /* less than a first block: the cap holds all the same */
    assert_int_equal(pom_profile_bytes(profile), sizeof *profile);
    assert_null(pom_arena_alloc(&profile->arena, 100));
    pom_profile_unref(profile);
    assert_int_equal(pom_alloc_live_bytes(), before);
}

static void test_profile_of_a_pool_is_made_of_the_memory_of_the_last(void **state) {
    int64_t before = pom_alloc_live_bytes();
    pom_block_pool_t *pool = pom_profile_pool_new();
    pom_profile_t *first = pom_profile_new_in(pool, 1 << 20);
    pom_tree_init(&first->tree, &first->arena, POM_BY_LINE, pom_tree_limits_default(), 0);
    for (int32_t line = 1; line <= 200; line++) {
        add_sample(first, line);
    }
    pom_profile_unref(first);
    int64_t calls = pom_alloc_calls();
    pom_profile_t *second = pom_profile_new_in(pool, 1 << 20);
    assert_ptr_equal(second, first);
    assert_int_equal(second->tree.node_count, 0);
    assert_int_equal(second->arena.reserved, pom_profile_bytes(second) - sizeof *second);
    assert_int_equal(pom_alloc_calls(), calls);
    pom_block_pool_release(
        pool); /* the exporter may keep a profile for longer than its maker lives */
    second->wall_ns = 1;
    pom_profile_unref(second);
    assert_int_equal(pom_alloc_live_bytes(), before);
}

static void test_profile_names_follow_the_lists(void **state) {
    static const char *const misses[] = {"torn",  "no_anchor", "unreadable",
                                         "raced", "dead_code", "too_deep"};
    assert_int_equal(POM_MISS_COUNT, 6);
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        assert_string_equal(pom_miss_names[i], misses[i]);
    }
    assert_int_equal(POM_OUTCOME_COUNT, 5);
    assert_string_equal(pom_outcome_names[POM_OUTCOME_SUCCEEDED], "succeeded");
    assert_string_equal(pom_outcome_names[POM_OUTCOME_FAILED], "failed");
    assert_string_equal(pom_outcome_names[POM_OUTCOME_ABORTED], "aborted");
    assert_string_equal(pom_outcome_names[POM_OUTCOME_LOST], "lost");
    assert_string_equal(pom_outcome_names[POM_OUTCOME_OPEN], "open");
}

static void *read_and_unref(void *arg) {
    pom_profile_t *profile = arg;
    for (int i = 0; i < 5000; i++) {
        pom_profile_ref(profile);
        bool valid = profile->tree.root.total_wall_ns == 20;
        pom_profile_unref(profile);
        if (!valid) {
            pom_profile_unref(profile);
            return arg;
        }
    }
    pom_profile_unref(profile);
    return NULL;
}

static void test_profile_is_shared_by_threads(void **state) {
    pom_profile_t *profile = pom_profile_new(1 << 20);
    pom_tree_init(&profile->tree, &profile->arena, POM_BY_LINE, pom_tree_limits_default(), 0);
    for (int32_t line = 1; line <= 20; line++) {
        add_sample(profile, line);
    }
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        pom_profile_ref(profile);
        assert_int_equal(pthread_create(&threads[i], NULL, read_and_unref, profile), 0);
    }
    pom_profile_unref(profile); /* whichever thread ends last frees it */
    for (int i = 0; i < 3; i++) {
        void *fault;
        assert_int_equal(pthread_join(threads[i], &fault), 0);
        assert_null(fault);
    }
}

static bool live_a_life(void *arg) {
    pom_profile_t *profile = pom_profile_new(1 << 20);
    if (profile == NULL) {
        return false;
    }
    pom_tree_init(&profile->tree, &profile->arena, POM_BY_FUNCTION, pom_tree_limits_default(), 0);
    for (int32_t line = 1; line <= 3; line++) {
        add_sample(profile, line);
        pom_tree_message(&profile->tree, NULL, 0, line, "m", 1);
    }
    bool whole = profile->tree.root.hits == 3 && profile->tree.message_count == 3;
    pom_profile_unref(profile);
    return whole;
}

static void test_profile_survives_failing_allocations(void **state) {
    /* The struct, three codes, one block of the arena, and the run that succeeds. */
    assert_int_equal(pom_torture(live_a_life, NULL), 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_profile_begins_zeroed_with_one_reference),
        POM_TEST(test_profile_last_reference_frees_tree_and_arena),
        POM_TEST(test_profile_bytes_are_the_struct_and_its_arena),
        POM_TEST(test_profile_names_follow_the_lists),
        POM_TEST(test_profile_of_a_pool_is_made_of_the_memory_of_the_last),
        POM_TEST(test_profile_is_shared_by_threads),
        POM_TEST(test_profile_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
