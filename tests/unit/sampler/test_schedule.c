/* The schedule: where the period ends up for a cost model, how fast, and what extreme inputs do to
 * it. */
#include "tests/unit/support/test_support.h"

#include <limits.h>

#include "base/clock.h"
#include "base/hash.h"
#include "sampler/schedule.h"

#define WAKE_NS   (20 * POM_NS_PER_US)
#define WINDOW_NS POM_SCHEDULE_WINDOW_NS

static pom_schedule_t schedule_of(int64_t granularity_ns, int64_t budget_ppm) {
    pom_schedule_options_t options = {.granularity_ns = granularity_ns, .budget_ppm = budget_ppm};
    pom_schedule_t s;
    pom_schedule_init(&s, &options);
    return s;
}

/* One window: wake-ups at the period, each of which looks at `threads` threads; other CPU in per
 * cent of the window. */
static void run_window(pom_schedule_t *s, int64_t threads, int64_t walk_ns, int64_t busy_percent) {
    int64_t cost = WINDOW_NS * (WAKE_NS + threads * walk_ns) / s->period_ns;
    pom_schedule_update(s, cost, WINDOW_NS / 100 * busy_percent, WINDOW_NS);
}

static void test_schedule_defaults_are_documented(void **state) {
    pom_schedule_options_t options = pom_schedule_options_default();
    assert_int_equal(options.granularity_ns, 10 * POM_NS_PER_MS);
    assert_int_equal(options.budget_ppm, 20000);
}

/* acceptance: PM4 */
static void test_schedule_converges_to_the_budget(void **state) {
    static const struct {
        int64_t granularity_ns, budget_ppm, threads, walk_ns, busy_percent;
        int64_t period_low_ns, period_high_ns;
        bool over;
    } cases[] = {
        // A wake-up of 20 us + 1 walk of 1 us in 10 ms is 0.21 % of one busy core: the finest
        // period is affordable.
        {10000000, 20000, 1, 1000, 100, 10000000, 10000000, false},
        // "auto": 21 us / (0.94 x 2 %) = 1.12 ms; of the 179 ticks of a window little is noise.
        {0, 20000, 1, 1000, 100, 1090000, 1150000, false},
        // 21 us / (0.87 x 0.5 %) = 4.83 ms, 41 ticks.
        {0, 5000, 1, 1000, 100, 4700000, 4950000, false},
        // 10 threads: 30 us / (0.93 x 2 %) = 1.61 ms, 124 ticks.
        {0, 20000, 10, 1000, 100, 1570000, 1660000, false},
        // Four busy cores pay for four times as much: below what "auto" allows.
        {0, 20000, 1, 1000, 400, 500000, 500000, false},
        // 100 threads of 8 us each: 820 us / 1.7 % = 48 ms.
        {10000000, 20000, 100, 8000, 100, 46000000, 50000000, false},
        // A process that only waits has a floor of 1/10: 21 us / (0.1 x 1.7 %) = 12.4 ms.
        {10000000, 20000, 1, 1000, 0, 11000000, 14000000, false},
        // The same at 1 %: 24.7 ms; at 0.5 %: 49.4 ms.
        {10000000, 10000, 1, 1000, 0, 22000000, 27500000, false},
        {10000000, 5000, 1, 1000, 0, 45000000, 50000000, false},
        // A tenth of a per cent cannot be kept: the coarsest period, and the limit on admission
        // does the rest.
        {10000000, 100, 1, 1000, 100, 50000000, 50000000, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pom_schedule_t s = schedule_of(cases[i].granularity_ns, cases[i].budget_ppm);
        for (int window = 0; window < 30; window++) {
            run_window(&s, cases[i].threads, cases[i].walk_ns, cases[i].busy_percent);
        }
        assert_in_range(s.period_ns, cases[i].period_low_ns, cases[i].period_high_ns);
        assert_int_equal(s.over_budget, cases[i].over);
        if (!cases[i].over) {
            assert_true(s.overhead_ppm <= cases[i].budget_ppm);
        }
        // It stays there.
        int64_t settled = s.period_ns;
        for (int window = 0; window < 100; window++) {
            run_window(&s, cases[i].threads, cases[i].walk_ns, cases[i].busy_percent);
            assert_in_range(s.period_ns, settled * 9 / 10, settled * 11 / 10);
            assert_int_equal(s.over_budget, cases[i].over);
        }
    }
}

/* acceptance: PM4 */
static void test_schedule_is_back_under_a_threefold_load_in_two_seconds(void **state) {
    static const int64_t budgets[] = {5000, 10000, 20000, 50000};
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        pom_schedule_t s = schedule_of(0, budgets[i]);
        for (int window = 0; window < 30; window++) {
            run_window(&s, 10, 1000, 100);
        }
        assert_false(s.over_budget);
        int64_t before = s.period_ns;
        int windows = 0;
        do { // the same wake-ups, three times as dear: 20 + 70 us
            run_window(&s, 10, 7000, 100);
            windows++;
        } while (s.over_budget && windows < 100);
        assert_in_range(windows, 2, 10); // the first one shows it
        assert_true(s.period_ns > 2 * before);
        for (int window = 0; window < 30; window++) {
            run_window(&s, 10, 1000, 100);
        }
        assert_in_range(s.period_ns, before * 9 / 10, before * 11 / 10); // and it comes back
    }
}

/* acceptance: PM5 */
static void test_schedule_keeps_its_bounds(void **state) {
    static const struct {
        int64_t granularity_ns, finest_ns, coarsest_ns;
    } cases[] = {
        {0, 500000, 50000000},
        {500000, 500000, 50000000},
        {1000000, 1000000, 50000000},
        {10000000, 10000000, 50000000},
        {50000000, 50000000, 50000000},
        {100000000, 100000000, 100000000},
        {10000000000, 10000000000, 10000000000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pom_schedule_t s = schedule_of(cases[i].granularity_ns, 20000);
        assert_true(s.period_ns >= cases[i].finest_ns && s.period_ns <= cases[i].coarsest_ns);
        for (int window = 0; window < 30; window++) { // as dear as can be
            pom_schedule_update(&s, WINDOW_NS, 0, WINDOW_NS);
        }
        assert_int_equal(s.period_ns, cases[i].coarsest_ns);
        for (int window = 0; window < 30; window++) { // as cheap as can be
            pom_schedule_update(&s, 0, WINDOW_NS, WINDOW_NS);
        }
        assert_int_equal(s.period_ns, cases[i].finest_ns);
    }
}

static void test_schedule_is_helpless_only_when_no_period_mends_it(void **state) {
    const int64_t dear = WINDOW_NS / 20, cheap = WINDOW_NS / 1000; // of one core: 5 %, 0.1 %
    pom_schedule_t s = schedule_of(0, 20000);
    for (int i = 0; i < 20; i++) { // now and then over: chance, and the period's to mend
        pom_schedule_update(&s, i % POM_SCHEDULE_PATIENCE == 0 ? cheap : dear, WINDOW_NS,
                            WINDOW_NS);
        assert_false(s.helpless);
        assert_int_equal(s.over_budget, i % POM_SCHEDULE_PATIENCE != 0);
        s.period_ns = 2 * POM_NS_PER_MS; // far from its bounds
    }
    pom_schedule_update(&s, cheap, WINDOW_NS, WINDOW_NS);
    for (int i = 1; i <= POM_SCHEDULE_PATIENCE; i++) { // it has grown, to no avail
        s.period_ns = 2 * POM_NS_PER_MS;
        pom_schedule_update(&s, dear, WINDOW_NS, WINDOW_NS);
        assert_int_equal(s.helpless, i == POM_SCHEDULE_PATIENCE);
    }
    pom_schedule_update(&s, cheap, WINDOW_NS, WINDOW_NS);
    assert_false(s.helpless);
    for (int i = 1; i <= 2; i++) { // it cannot grow
        s.period_ns = s.coarsest_ns;
        pom_schedule_update(&s, dear, WINDOW_NS, WINDOW_NS);
        assert_int_equal(s.helpless, i == 2);
    }
}

static void test_schedule_starts_at_the_wanted_period(void **state) {
    assert_int_equal(schedule_of(7 * POM_NS_PER_MS, 20000).period_ns, 7 * POM_NS_PER_MS);
    assert_int_equal(schedule_of(0, 20000).period_ns, 2 * POM_NS_PER_MS);
}

static void test_schedule_starts_anew_whatever_was_before(void **state) {
    pom_schedule_options_t options = pom_schedule_options_default();
    pom_schedule_t s;
    pom_schedule_init(&s, &options);
    for (int window = 0; window < 30; window++) {
        pom_schedule_update(&s, WINDOW_NS, WINDOW_NS, WINDOW_NS);
    }
    assert_true(s.helpless && s.over_budget && s.overhead_ppm > 0);
    pom_schedule_init(&s, &options);
    assert_false(s.helpless || s.over_budget);
    assert_int_equal(s.overhead_ppm, 0);
    assert_int_equal(s.over_windows, 0);
    assert_int_equal(s.period_ns, options.granularity_ns);
}

static void test_schedule_keeps_a_period_that_still_fits(void **state) {
    pom_schedule_t s = schedule_of(10 * POM_NS_PER_MS, 20000);
    pom_schedule_update(&s, WINDOW_NS, WINDOW_NS, WINDOW_NS);
    assert_int_equal(s.period_ns, 20 * POM_NS_PER_MS);
    pom_schedule_options_t options = {.granularity_ns = 5 * POM_NS_PER_MS, .budget_ppm = 10000};
    pom_schedule_configure(&s, &options);
    assert_int_equal(s.period_ns, 20 * POM_NS_PER_MS);
    options.granularity_ns = 30 * POM_NS_PER_MS;
    pom_schedule_configure(&s, &options);
    assert_int_equal(s.period_ns, 30 * POM_NS_PER_MS);
}

static void test_schedule_steps_at_most_by_two(void **state) {
    pom_schedule_t s = schedule_of(1 * POM_NS_PER_MS, 20000);
    static const int64_t costs[] = {0, 1, 1000000, 200000000, 2000000000, 0, 0, 5, 100000000};
    for (size_t i = 0; i < sizeof costs / sizeof costs[0]; i++) {
        int64_t before = s.period_ns;
        pom_schedule_update(&s, costs[i], WINDOW_NS, WINDOW_NS);
        assert_true(s.period_ns <= 2 * before && s.period_ns >= before / 2);
    }
}

static void test_schedule_ignores_idle_windows(void **state) {
    pom_schedule_t s = schedule_of(10 * POM_NS_PER_MS, 20000);
    pom_schedule_update(&s, WINDOW_NS / 10, WINDOW_NS, WINDOW_NS);
    assert_true(s.over_budget);
    pom_schedule_t before = s;
    for (int i = 0; i < 1000; i++) {
        pom_schedule_update(&s, 5000, 500, 5 * POM_NS_PER_US); // 500 ns of floor
    }
    assert_memory_equal(&s, &before, sizeof s);
}

static void test_schedule_survives_extreme_inputs(void **state) {
    static const int64_t values[] = {INT64_MIN, -1,        0,          1,          999,
                                     1000,      200000000, 1LL << 40,  1LL << 50,  1LL << 62,
                                     INT64_MAX, INT_MAX,   1000000000, 10000000000};
    enum { COUNT = sizeof values / sizeof values[0] };
    for (int g = 0; g < COUNT; g++) {
        for (int b = 0; b < COUNT; b++) {
            pom_schedule_t s = schedule_of(values[g], values[b]);
            assert_true(s.finest_ns > 0 && s.finest_ns <= s.coarsest_ns);
            for (int i = 0; i < COUNT * COUNT * COUNT; i += 7) { // the sanitizer looks on
                pom_schedule_update(&s, values[i % COUNT], values[i / COUNT % COUNT],
                                    values[i / COUNT / COUNT]);
                assert_true(s.period_ns >= s.finest_ns && s.period_ns <= s.coarsest_ns);
                assert_true(s.overhead_ppm >= 0);
                assert_true(pom_schedule_delay(&s, UINT64_MAX) > 0 || s.period_ns == 1);
            }
        }
    }
}

static void test_schedule_delays_spread_evenly_around_the_period(void **state) {
    static const int64_t periods[] = {500000, 10000000, 50000000, 10000000000};
    for (size_t p = 0; p < sizeof periods / sizeof periods[0]; p++) {
        pom_schedule_t s = schedule_of(periods[p], 20000);
        int64_t sum = 0, buckets[10] = {0};
        uint64_t random = 42;
        enum { DRAWS = 100000 };
        for (int i = 0; i < DRAWS; i++) {
            random = pom_hash_mix(random + 1);
            int64_t delay = pom_schedule_delay(&s, random);
            assert_true(delay >= periods[p] / 2 && delay < periods[p] / 2 * 3);
            sum += delay;
            buckets[(delay - periods[p] / 2) * 10 / periods[p]]++;
        }
        assert_in_range(sum / DRAWS, periods[p] * 99 / 100, periods[p] * 101 / 100);
        for (int i = 0; i < 10; i++) { // 10 000 each, standard deviation 95
            assert_in_range(buckets[i], 9500, 10500);
        }
    }
}

static void test_schedule_first_delay_is_uniform_below_the_period(void **state) {
    pom_schedule_t s = schedule_of(10 * POM_NS_PER_MS, 20000);
    int64_t buckets[10] = {0};
    uint64_t random = 42;
    for (int i = 0; i < 100000; i++) {
        random = pom_hash_mix(random + 1);
        int64_t delay = pom_schedule_first_delay(s.period_ns, random);
        assert_true(delay >= 0 && delay < 10 * POM_NS_PER_MS);
        buckets[delay / POM_NS_PER_MS]++;
    }
    for (int i = 0; i < 10; i++) {
        assert_in_range(buckets[i], 9500, 10500);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_schedule_defaults_are_documented),
        POM_TEST(test_schedule_converges_to_the_budget),
        POM_TEST(test_schedule_is_back_under_a_threefold_load_in_two_seconds),
        POM_TEST(test_schedule_keeps_its_bounds),
        POM_TEST(test_schedule_is_helpless_only_when_no_period_mends_it),
        POM_TEST(test_schedule_starts_at_the_wanted_period),
        POM_TEST(test_schedule_starts_anew_whatever_was_before),
        POM_TEST(test_schedule_keeps_a_period_that_still_fits),
        POM_TEST(test_schedule_steps_at_most_by_two),
        POM_TEST(test_schedule_ignores_idle_windows),
        POM_TEST(test_schedule_survives_extreme_inputs),
        POM_TEST(test_schedule_delays_spread_evenly_around_the_period),
        POM_TEST(test_schedule_first_delay_is_uniform_below_the_period),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
