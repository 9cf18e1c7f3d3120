/*
 * Ids: the generator, threads and forks, the text form.
 *
 * getrandom is wrapped: a test can choose the seed, or refuse it, and count the calls.
 */
#include "tests/unit/support/test_support.h"

#include "base/id.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

static enum { SEED_REAL, SEED_CHOSEN, SEED_ZERO, SEED_REFUSED, SEED_SHORT } seeding;
static _Atomic(int) seedings;

ssize_t __real_getrandom(void *buffer, size_t size, unsigned flags);
ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned flags);

ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned flags) {
    static const uint64_t chosen[4] = {1, 2, 3, 4};
    atomic_fetch_add(&seedings, 1);
    switch (seeding) {
    case SEED_REAL:
        return __real_getrandom(buffer, size, flags);
    case SEED_CHOSEN:
        memcpy(buffer, chosen, size);
        return (ssize_t)size;
    case SEED_ZERO:
        memset(buffer, 0, size);
        return (ssize_t)size;
    case SEED_SHORT:
        memset(buffer, 0, size / 2);
        return (ssize_t)(size / 2);
    case SEED_REFUSED:
        break;
    }
    errno = ENOSYS;
    return -1;
}

static int teardown(void **state) {
    seeding = SEED_REAL;
    pom_id_after_fork();
    return pom_test_teardown(state);
}

#define ID_TEST(function) cmocka_unit_test_setup_teardown(function, pom_test_setup, teardown)

static bool same(pom_id_t a, pom_id_t b) {
    return a.hi == b.hi && a.lo == b.lo;
}

static int compare(const void *left, const void *right) {
    const pom_id_t *a = left;
    const pom_id_t *b = right;
    if (a->hi != b->hi) {
        return a->hi < b->hi ? -1 : 1;
    }
    return a->lo == b->lo ? 0 : a->lo < b->lo ? -1 : 1;
}

static void assert_distinct(pom_id_t *ids, size_t count) {
    qsort(ids, count, sizeof *ids, compare);
    for (size_t i = 1; i < count; i++) {
        assert_false(same(ids[i - 1], ids[i]));
    }
}

static void test_id_generator_is_xoshiro256_star_star(void **state) {
    seeding = SEED_CHOSEN;
    pom_id_after_fork();
    /* The outputs published for the state 1, 2, 3, 4. */
    static const uint64_t outputs[] = {11520,
                                       0,
                                       1509978240,
                                       UINT64_C(1215971899390074240),
                                       UINT64_C(1216172134540287360),
                                       UINT64_C(607988272756665600)};
    for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
        assert_true(pom_random_u64() == outputs[i]);
    }
}

static void test_id_is_a_version_4_uuid(void **state) {
    uint64_t ones_hi = 0;
    uint64_t ones_lo = 0;
    uint64_t zeros_hi = 0;
    uint64_t zeros_lo = 0;
    for (int i = 0; i < 1000; i++) {
        pom_id_t id = pom_id_new();
        assert_int_equal(id.hi >> 12 & 15, 4);
        assert_int_equal(id.lo >> 62, 2);
        ones_hi |= id.hi;
        ones_lo |= id.lo;
        zeros_hi |= ~id.hi;
        zeros_lo |= ~id.lo;
    }
    /* Every other bit takes both values: missing one in 1000 ids has probability 122 * 2^-999. */
    assert_true(ones_hi == ~UINT64_C(0xb000));
    assert_true(zeros_hi == ~UINT64_C(0x4000));
    assert_true(ones_lo == ~(UINT64_C(1) << 62));
    assert_true(zeros_lo == ~(UINT64_C(1) << 63));
}

enum { THREADS = 4, PER_THREAD = 20000 };
static pom_id_t made[THREADS * PER_THREAD];

static void *make_ids(void *arg) {
    pom_id_t *ids = arg;
    for (int i = 0; i < PER_THREAD; i++) {
        ids[i] = pom_id_new();
    }
    return NULL;
}

static void make_ids_in_threads(void) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, make_ids, &made[i * PER_THREAD]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
}

static void test_id_is_never_repeated_across_threads(void **state) {
    make_ids_in_threads();
    assert_distinct(made, THREADS * PER_THREAD);
}

static void test_id_seeds_once_a_thread(void **state) {
    (void)pom_id_new();
    atomic_store(&seedings, 0);
    (void)pom_id_new();
    assert_int_equal(atomic_load(&seedings), 0);
    make_ids_in_threads();
    assert_int_equal(atomic_load(&seedings), THREADS);
}

static void test_id_needs_no_kernel_randomness(void **state) {
    static const int refusals[] = {SEED_REFUSED, SEED_SHORT};
    for (int r = 0; r < 2; r++) {
        seeding = refusals[r];
        pom_id_after_fork();
        make_ids_in_threads();
        assert_distinct(made, THREADS * PER_THREAD);
        /* And each generation of one thread starts elsewhere. */
        for (int i = 0; i < 1000; i++) {
            pom_id_after_fork();
            made[i] = pom_id_new();
        }
        assert_distinct(made, 1000);
    }
}

static void test_id_survives_a_zero_seed(void **state) {
    seeding = SEED_ZERO;
    pom_id_after_fork();
    for (int i = 0; i < 100; i++) {
        made[i] = pom_id_new();
    }
    assert_distinct(made, 100);
}

/* The next id of a forked child. */
static pom_id_t id_of_child(bool tell) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (tell) {
            pom_id_after_fork();
        }
        pom_id_t id = pom_id_new();
        _exit(write(ends[1], &id, sizeof id) == (ssize_t)sizeof id ? 0 : 1);
    }
    pom_id_t id = {0, 0};
    close(ends[1]);
    assert_int_equal(read(ends[0], &id, sizeof id), sizeof id);
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return id;
}

static void test_id_differs_in_a_forked_child(void **state) {
    (void)pom_id_new(); /* Seeded before the fork. */
    pom_id_t untold = id_of_child(false);
    pom_id_t told = id_of_child(true);
    pom_id_t other = id_of_child(true);
    pom_id_t parent = pom_id_new();
    assert_true(same(untold, parent)); /* What the call is for. */
    assert_false(same(told, parent));
    assert_false(same(told, other));
}

static void test_id_format_is_dashed_lower_case(void **state) {
    char text[POM_ID_TEXT + 1];
    text[POM_ID_TEXT] = '#';
    pom_id_format((pom_id_t){UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210)}, text);
    assert_memory_equal(text, "01234567-89ab-cdef-fedc-ba9876543210#", POM_ID_TEXT + 1);
    pom_id_format((pom_id_t){0, 0}, text);
    assert_memory_equal(text, "00000000-0000-0000-0000-000000000000#", POM_ID_TEXT + 1);
}

static void test_id_format_and_parse_are_inverse(void **state) {
    for (int i = 0; i < 1000; i++) {
        pom_id_t id = {pom_random_u64(), pom_random_u64()};
        pom_id_t back = {0, 0};
        char text[POM_ID_TEXT];
        pom_id_format(id, text);
        assert_true(pom_id_parse(text, POM_ID_TEXT, &back));
        assert_true(same(id, back));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ID_TEST(test_id_generator_is_xoshiro256_star_star),
        ID_TEST(test_id_is_a_version_4_uuid),
        ID_TEST(test_id_is_never_repeated_across_threads),
        ID_TEST(test_id_seeds_once_a_thread),
        ID_TEST(test_id_needs_no_kernel_randomness),
        ID_TEST(test_id_survives_a_zero_seed),
        ID_TEST(test_id_differs_in_a_forked_child),
        ID_TEST(test_id_format_is_dashed_lower_case),
        ID_TEST(test_id_format_and_parse_are_inverse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
