/* Admission: everything within the budget, a bounded number over it, and the way back. */
#include "tests/unit/support/test_support.h"

#include "actions/admission.h"
#include "base/hash.h"

static int64_t in_flight(const pom_admission_t *a) {
    return atomic_load(&a->in_flight);
}

/* acceptance: PM9 */
static void test_admission_admits_all_within_the_budget(void **state) {
    static const int64_t limits[] = {0, 1, 10, 1000000};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        pom_admission_t a;
        pom_admission_init(&a, limits[i]);
        for (int n = 1; n <= 5000; n++) {
            assert_true(pom_admission_admit(&a));
            assert_int_equal(in_flight(&a), n);
            if (n % 100 == 0) {
                pom_admission_cycle(&a, false);
            }
        }
        assert_int_equal(pom_admission_allowed(&a), -1);
        for (int n = 0; n < 5000; n++) {
            pom_admission_leave(&a);
        }
        assert_int_equal(in_flight(&a), 0);
    }
}

/* acceptance: PM8, PM9 */
static void test_admission_over_budget_admits_so_many_a_cycle(void **state) {
    static const int64_t limits[] = {1, 2, 10, 500};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        pom_admission_t a;
        pom_admission_init(&a, limits[i]);
        for (int cycle = 0; cycle < 20; cycle++) {
            pom_admission_cycle(&a, true);
            assert_int_equal(pom_admission_allowed(&a), limits[i]);
            int64_t admitted = 0;
            for (int tries = 0; tries < 2000; tries++) { // short ones: each leaves at once
                if (pom_admission_admit(&a)) {
                    admitted++;
                    pom_admission_leave(&a);
                }
            }
            assert_int_equal(admitted, limits[i]);
        }
        assert_int_equal(in_flight(&a), 0);
    }
}

/* acceptance: PM9 */
static void test_admission_over_budget_bounds_those_in_flight(void **state) {
    pom_admission_t a;
    pom_admission_init(&a, 10);
    pom_admission_cycle(&a, true);
    for (int cycle = 0; cycle < 5;
         cycle++) { // long ones: they pile up to the limit, over all cycles
        for (int tries = 0; tries < 100; tries++) {
            (void)pom_admission_admit(&a);
        }
        assert_int_equal(in_flight(&a), 10);
        pom_admission_cycle(&a, true);
    }
    pom_admission_leave(&a);
    assert_true(pom_admission_admit(&a));
    assert_false(pom_admission_admit(&a));
}

static void test_admission_counts_those_from_before_the_limit(void **state) {
    pom_admission_t a;
    pom_admission_init(&a, 10);
    for (int n = 0; n < 50; n++) {
        assert_true(pom_admission_admit(&a));
    }
    pom_admission_cycle(&a, true);
    assert_false(pom_admission_admit(&a));
    for (int n = 0; n < 41; n++) {
        assert_false(pom_admission_admit(&a));
        pom_admission_leave(&a);
    }
    assert_true(pom_admission_admit(&a)); // 9 are left
    assert_false(pom_admission_admit(&a));
    assert_int_equal(in_flight(&a), 10);
}

/* acceptance: PM9 */
static void test_admission_allowance_grows_and_is_bounded(void **state) {
    static const int64_t limits[] = {1, 2, 10, 1000, INT64_MAX};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        pom_admission_t a;
        pom_admission_init(&a, limits[i]);
        pom_admission_cycle(&a, true);
        int64_t first = pom_admission_allowed(&a), last = first;
        assert_true(first > 0 && first <= limits[i]);
        int cycles = 0;
        while (pom_admission_allowed(&a) >= 0) {
            pom_admission_cycle(&a, false);
            int64_t now = pom_admission_allowed(&a);
            assert_true(now == -1 || (now > last && now < first * POM_ADMISSION_GROWTH));
            last = now;
            assert_true(++cycles < 20); // log 64 / log 1.5 = 10.3
        }
        for (int n = 0; n < 1000; n++) {
            pom_admission_cycle(&a, false);
            assert_in_range(atomic_load(&a.allowance), 1, first * POM_ADMISSION_GROWTH);
        }
    }
}

/* acceptance: PM9 */
static void test_admission_allowance_grows_by_half(void **state) {
    // 10 x 64 is the bound, where the limit ends.
    static const int64_t want[] = {15, 23, 35, 53, 80, 120, 180, 270, 405, 608, -1};
    pom_admission_t a;
    pom_admission_init(&a, 10);
    pom_admission_cycle(&a, true);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        pom_admission_cycle(&a, false);
        assert_int_equal(pom_admission_allowed(&a), want[i]);
    }
}

/* acceptance: PM4, PM9 */
static void test_admission_over_budget_resets_the_allowance(void **state) {
    pom_admission_t a;
    pom_admission_init(&a, 10);
    for (int cheap = 0; cheap < 30; cheap++) {
        pom_admission_cycle(&a, true);
        for (int n = 0; n < cheap; n++) {
            pom_admission_cycle(&a, false);
        }
        pom_admission_cycle(&a, true);
        assert_int_equal(pom_admission_allowed(&a), 10);
    }
}

/* acceptance: PM8 */
static void test_admission_of_zero_never_sheds(void **state) {
    static const int64_t limits[] = {0, -1, INT64_MIN};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        pom_admission_t a;
        pom_admission_init(&a, limits[i]);
        for (int n = 0; n < 1000; n++) {
            pom_admission_cycle(&a, true);
            assert_true(pom_admission_admit(&a));
            assert_int_equal(pom_admission_allowed(&a), -1);
        }
    }
}

/* acceptance: PM3, PM8 */
static void test_admission_takes_a_new_limit(void **state) {
    pom_admission_t a;
    pom_admission_init(&a, 10);
    pom_admission_cycle(&a, true);
    pom_admission_configure(&a, 3);
    assert_int_equal(pom_admission_allowed(&a), 3);
    for (int n = 0; n < 3; n++) {
        assert_true(pom_admission_admit(&a));
    }
    assert_false(pom_admission_admit(&a));
    pom_admission_configure(&a, 0);
    assert_true(pom_admission_admit(&a));
    pom_admission_cycle(&a, true);
    assert_int_equal(pom_admission_allowed(&a), -1);
    pom_admission_configure(&a, 5);
    pom_admission_cycle(&a, true);
    assert_int_equal(pom_admission_allowed(&a), 5);
}

/* A model beside it: any order of admits, leaves and verdicts. */
static void test_admission_is_never_negative_nor_too_generous(void **state) {
    uint64_t random = 7;
    for (int run = 0; run < 50; run++) {
        int64_t limit = run % 12;
        pom_admission_t a;
        pom_admission_init(&a, limit);
        int64_t flying = 0, admitted = 0, allowed = -1;
        for (int step = 0; step < 2000; step++) {
            random = pom_hash_mix(random + 1);
            switch (random % 8) {
            case 0:
                pom_admission_cycle(&a, random >> 32 & 1);
                admitted = 0;
                allowed = pom_admission_allowed(&a);
                break;
            case 1:
            case 2:
            case 3:
                if (flying > 0) {
                    pom_admission_leave(&a);
                    flying--;
                }
                break;
            default: {
                bool room = allowed < 0 || (flying < allowed && admitted < allowed);
                bool in = pom_admission_admit(&a);
                assert_int_equal(in, room);
                flying += in;
                admitted += in;
            }
            }
            assert_int_equal(in_flight(&a), flying);
            assert_true(allowed == -1 || limit > 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_admission_admits_all_within_the_budget),
        POM_TEST(test_admission_over_budget_admits_so_many_a_cycle),
        POM_TEST(test_admission_over_budget_bounds_those_in_flight),
        POM_TEST(test_admission_counts_those_from_before_the_limit),
        POM_TEST(test_admission_allowance_grows_and_is_bounded),
        POM_TEST(test_admission_allowance_grows_by_half),
        POM_TEST(test_admission_over_budget_resets_the_allowance),
        POM_TEST(test_admission_of_zero_never_sheds),
        POM_TEST(test_admission_takes_a_new_limit),
        POM_TEST(test_admission_is_never_negative_nor_too_generous),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
