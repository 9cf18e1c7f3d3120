/*
 * What every unit program shares: cmocka in its include order, the leak check, the torture.
 *
 * Used by all programs under tests/unit.
 *
 *     static void test_tree_adds(void **state) { ... }
 *     int main(void) {
 *         const struct CMUnitTest tests[] = {POM_TEST(test_tree_adds)};
 *         return cmocka_run_group_tests(tests, NULL, NULL);
 *     }
 *
 * POM_TEST notes the live bytes before the test and asserts after it that they are the same again.
 * cmocka's asserts belong to the main thread: other threads count faults, the main thread asserts
 * the count after joining them.
 */
#ifndef POM_TESTS_UNIT_SUPPORT_TEST_SUPPORT_H
#define POM_TESTS_UNIT_SUPPORT_TEST_SUPPORT_H

/* cmocka.h includes none of these, and needs all of them first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

/* A test between pom_test_setup and pom_test_teardown. */
#define POM_TEST(function)                                                                         \
    cmocka_unit_test_setup_teardown(function, pom_test_setup, pom_test_teardown)

/* Fails the test unless the live bytes are those of the last pom_test_setup (0 without one). */
#define assert_no_leak() pom_test_assert_no_leak(__FILE__, __LINE__)

/* Runs function failing allocation 1 and all after it, then 2 ..., until a run asks for fewer
 * allocations than that, hence saw no failure: that run must return true. After each run nothing
 * may be left allocated, so the function cleans up after itself in both cases; what it returns when
 * an allocation failed is its own business. Returns the number of runs, allocations of a good run +
 * 1. */
#define pom_torture(function, arg) pom_test_torture((function), (arg), __FILE__, __LINE__)

typedef bool (*pom_torture_fn)(void *arg);

int pom_test_setup(void **state);
int pom_test_teardown(void **state);
void pom_test_assert_no_leak(const char *file, int line);
int64_t pom_test_torture(pom_torture_fn function, void *arg, const char *file, int line);

/* The end of a forked child, status 0 or 1. A child leaves what was its parent's as it is, by
 * design, so under valgrind nobody looks for leaks here; an error of another kind is status 1. */
_Noreturn void pom_test_child_ends(bool good);

/* In a forked child, where cmocka's asserts are of no use: ends it with status 1 and says why. */
#define POM_TEST_CHILD_CHECK(condition)                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "child: line %d: %s\n", __LINE__, #condition);                         \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#endif
