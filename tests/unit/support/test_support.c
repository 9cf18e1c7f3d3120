/*
 * Leak check and torture on the seams of base/alloc.h.
 *
 * The torture is curl's: an error path that no test reaches is one that does not work. Its runs are
 * bounded, since a function whose allocations grow with each failure would never end. A failing
 * assert leaves by longjmp, so the injected failure is always switched off before one is made.
 */
#include "tests/unit/support/test_support.h"

#include <unistd.h>

#include "base/alloc.h"

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND   0
#define VALGRIND_COUNT_ERRORS 0
#endif

#define TORTURE_MOST INT64_C(100000)

static int64_t live_at_setup;

int pom_test_setup(void **state) {
    (void)state;
    pom_alloc_fail_from(0);
    live_at_setup = pom_alloc_live_bytes();
    return 0;
}

int pom_test_teardown(void **state) {
    (void)state;
    pom_alloc_fail_from(0); /* A test may have left by an assert with the failure on. */
    int64_t live = pom_alloc_live_bytes();
    if (live != live_at_setup) {
        print_error("live bytes: %lld before the test, %lld after it\n", (long long)live_at_setup,
                    (long long)live);
        return -1;
    }
    return 0;
}

void pom_test_child_ends(bool good) {
    if (good && RUNNING_ON_VALGRIND) {
        good = VALGRIND_COUNT_ERRORS == 0;
        if (good) {
            (void)execl("/bin/true", "true", (char *)NULL); /* valgrind does not follow */
        }
    }
    _exit(good ? 0 : 1);
}

void pom_test_assert_no_leak(const char *file, int line) {
    pom_alloc_fail_from(0);
    _assert_int_equal((LargestIntegralType)pom_alloc_live_bytes(),
                      (LargestIntegralType)live_at_setup, file, line);
}

int64_t pom_test_torture(pom_torture_fn function, void *arg, const char *file, int line) {
    int64_t before = pom_alloc_live_bytes();
    for (int64_t n = 1; n <= TORTURE_MOST; n++) {
        pom_alloc_fail_from(n);
        bool succeeded = function(arg);
        bool undisturbed = pom_alloc_calls() < n;
        pom_alloc_fail_from(0);

        int64_t left = pom_alloc_live_bytes() - before;
        if (left != 0) {
            print_error("%lld bytes left when allocation %lld failed\n", (long long)left,
                        (long long)n);
            _fail(file, line);
        }
        if (undisturbed) {
            if (!succeeded) {
                print_error("the run without a failing allocation (%lld) did not succeed\n",
                            (long long)n);
                _fail(file, line);
            }
            return n;
        }
    }
    print_error("still allocating after %lld runs\n", (long long)TORTURE_MOST);
    _fail(file, line);
    return 0;
}
