/* Stages: the path in one word, and charges to the path that is left. */
#include "tests/unit/support/test_support.h"

#include "base/stage.h"

enum { OUTER = 1, INNER, OTHER };
static const char *const names[] = {NULL, "outer", "inner", "other"};

static uint64_t path(const pom_stages_t *stages) {
    return atomic_load(&stages->path);
}

static int64_t wall(const pom_stages_t *stages, uint64_t wanted) {
    for (uint32_t i = 0; i < atomic_load(&stages->cost_count); i++) {
        if (atomic_load(&stages->costs[i].path) == wanted) {
            return atomic_load(&stages->costs[i].wall_ns);
        }
    }
    return -1;
}

/* acceptance: PM27 */
static void test_stage_path_has_a_byte_a_level(void **state) {
    (void)state;
    pom_stages_t stages = POM_STAGES("t", names);
    pom_stages_begin(&stages);
    assert_int_equal(path(&stages), 0);
    pom_stage_enter(&stages, OUTER);
    pom_stage_enter(&stages, INNER);
    assert_int_equal(path(&stages), OUTER << 8 | INNER);
    pom_stage_leave(&stages);
    assert_int_equal(path(&stages), OUTER);
    pom_stages_end(&stages);
    assert_int_equal(path(&stages), 0);
    assert_int_equal(wall(&stages, OUTER), -1); // nobody has asked
}

/* acceptance: PM27 */
static void test_stage_charges_each_path_by_itself(void **state) {
    (void)state;
    pom_stages_t stages = POM_STAGES("t", names);
    pom_stages_account(&stages, true);
    pom_stages_begin(&stages);
    int64_t begun_ns = stages.since_ns;
    pom_stage_enter(&stages, OUTER);
    pom_stage_enter(&stages, INNER);
    pom_stage_leave(&stages);
    pom_stage_enter(&stages, OTHER);
    pom_stage_leave(&stages);
    pom_stage_leave(&stages);
    int64_t until_ns = stages.since_ns;
    pom_stages_end(&stages);
    uint64_t all[] = {0, OUTER, OUTER << 8 | INNER, OUTER << 8 | OTHER};
    int64_t sum = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_true(wall(&stages, all[i]) >= 0);
        sum += wall(&stages, all[i]);
    }
    assert_true(sum >=
                until_ns - begun_ns); // nothing between the first and the last change is missing
}

static void test_stage_switched_on_in_between_charges_from_then_on(void **state) {
    (void)state;
    pom_stages_t stages = POM_STAGES("t", names);
    pom_stages_begin(&stages);
    pom_stage_enter(&stages, OUTER);
    pom_stages_account(&stages, true);
    pom_stage_enter(&stages, INNER);
    assert_int_equal(wall(&stages, OUTER), -1);
    pom_stage_leave(&stages);
    assert_true(wall(&stages, OUTER << 8 | INNER) >= 0);
    pom_stages_account(&stages, false);
    pom_stage_leave(&stages);
    assert_int_equal(wall(&stages, OUTER), -1);
}

static void test_stage_takes_no_more_paths_than_it_has_room_for(void **state) {
    (void)state;
    pom_stages_t stages = POM_STAGES("t", names);
    pom_stages_account(&stages, true);
    pom_stages_begin(&stages);
    for (int i = 1; i <= 2 * POM_STAGE_PATHS; i++) {
        pom_stage_enter(&stages, (uint8_t)i);
        pom_stage_leave(&stages);
    }
    assert_int_equal(atomic_load(&stages.cost_count), POM_STAGE_PATHS);
    assert_int_equal(wall(&stages, POM_STAGE_PATHS), -1); // charged to "outside any"
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_stage_path_has_a_byte_a_level),
        POM_TEST(test_stage_charges_each_path_by_itself),
        POM_TEST(test_stage_switched_on_in_between_charges_from_then_on),
        POM_TEST(test_stage_takes_no_more_paths_than_it_has_room_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
