/* The arena: alignment, block sizes, the cap, one free. */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "base/arena.h"

#include <string.h>

static void test_arena_allocates_nothing_before_the_first_piece(void **state) {
    pom_arena_t arena;
    int64_t live = pom_alloc_live_bytes();
    pom_arena_init(&arena, 1 << 16);
    assert_int_equal(pom_alloc_live_bytes(), live);
    pom_arena_fini(&arena);
}

static void test_arena_pieces_are_zeroed_aligned_and_apart(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 1 << 20);
    unsigned char *pieces[1000];
    for (size_t i = 0; i < 1000; i++) {
        size_t size = i % 97;
        pieces[i] = pom_arena_alloc(&arena, size);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 8, 0);
        for (size_t k = 0; k < size; k++) {
            assert_int_equal(pieces[i][k], 0);
        }
        memset(pieces[i], (int)(i % 251) + 1, size);
    }
    for (size_t i = 0; i < 1000; i++) {
        for (size_t k = 0; k < i % 97; k++) {
            assert_int_equal(pieces[i][k], i % 251 + 1);
        }
    }
    pom_arena_fini(&arena);
}

static void test_arena_begins_in_memory_of_the_caller(void **state) {
    _Alignas(8) unsigned char memory[256];
    pom_arena_t arena;
    int64_t live = pom_alloc_live_bytes();
    memset(memory, 0xaa, sizeof memory);
    pom_arena_init_in(&arena, 1000, memory, sizeof memory);
    assert_int_equal(arena.reserved, sizeof memory);
    unsigned char *piece = pom_arena_alloc(&arena, 100);
    assert_true(piece >= memory && piece + 100 <= memory + sizeof memory);
    assert_int_equal(piece[0] | piece[99], 0);
    assert_int_equal(pom_alloc_live_bytes(), live);
    unsigned char *further = pom_arena_alloc(&arena, 500);
    assert_non_null(further);
    assert_true(further + 500 <= memory || further >= memory + sizeof memory);
    assert_true(arena.reserved <= 1000);
    assert_null(pom_arena_alloc(&arena, 500)); /* beyond the cap, the lent block counted */
    pom_arena_fini(&arena);
    assert_int_equal(pom_alloc_live_bytes(), live);
}

static void test_arena_size_zero_gives_unique_pieces(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 1 << 16);
    void *a = pom_arena_alloc(&arena, 0);
    void *b = pom_arena_alloc(&arena, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    pom_arena_fini(&arena);
}

static void test_arena_blocks_double_to_32_kib(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 1 << 20);
    /* Sums of 2, 4, 8, 16, 32, 32 KiB. */
    static const size_t sums[] = {2, 6, 14, 30, 62, 94};
    size_t seen = 0;
    size_t last = 0;
    while (seen < sizeof sums / sizeof sums[0]) {
        assert_non_null(pom_arena_alloc(&arena, 64));
        if (arena.reserved != last) {
            last = arena.reserved;
            assert_int_equal(last, sums[seen] * 1024);
            seen++;
        }
    }
    pom_arena_fini(&arena);
}

static void test_arena_never_passes_its_cap_and_uses_nearly_all_of_it(void **state) {
    static const size_t caps[] = {100, 2048, 5000, 64 * 1024};
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        pom_arena_t arena;
        pom_arena_init(&arena, caps[i]);
        size_t got = 0;
        while (pom_arena_alloc(&arena, 16) != NULL) {
            got += 16;
            assert_true(got <= caps[i]);
        }
        assert_true(arena.reserved <= caps[i]);
        /* At most 6 block heads of 24 bytes and 15 odd bytes at the end of each are lost. */
        assert_true(got + 6 * (24 + 15) >= caps[i]);
        pom_arena_fini(&arena);
    }
}

static void test_arena_small_pieces_still_fit_after_a_refused_one(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 4096);
    assert_non_null(pom_arena_alloc(&arena, 8));
    assert_null(pom_arena_alloc(&arena, 4096));
    assert_non_null(pom_arena_alloc(&arena, 8));
    pom_arena_fini(&arena);
}

static void test_arena_large_piece_leaves_the_block_in_use(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 1 << 20);
    char *before = pom_arena_alloc(&arena, 8);
    char *large = pom_arena_alloc(&arena, 100000);
    char *after = pom_arena_alloc(&arena, 8);
    assert_non_null(large);
    memset(large, 1, 100000);
    assert_ptr_equal(after, before + 8);
    pom_arena_fini(&arena);
}

static void test_arena_refuses_sizes_that_overflow(void **state) {
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 7, SIZE_MAX - 24, SIZE_MAX / 2, 1 << 17};
    static const size_t caps[] = {1 << 16, SIZE_MAX};
    for (size_t c = 0; c < 2; c++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            if (caps[c] == SIZE_MAX && sizes[i] <= SIZE_MAX / 2) {
                continue; /* Not an overflow: malloc's affair. */
            }
            pom_arena_t arena;
            pom_arena_init(&arena, caps[c]);
            assert_null(pom_arena_alloc(&arena, sizes[i]));
            assert_null(pom_arena_copy(&arena, "", sizes[i]));
            assert_int_equal(arena.reserved, 0);
            pom_arena_fini(&arena);
        }
    }
}

static void test_arena_cap_zero_refuses_everything(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 0);
    assert_null(pom_arena_alloc(&arena, 0));
    assert_null(pom_arena_copy(&arena, "", 0));
    pom_arena_fini(&arena);
}

static void test_arena_copy_ends_with_nul(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 1 << 16);
    const char *copy = pom_arena_copy(&arena, "a\0bcdefgh", 8);
    assert_memory_equal(copy, "a\0bcdefg\0", 9);
    assert_string_equal(pom_arena_copy(&arena, NULL, 0), "");
    pom_arena_fini(&arena);
}

static void test_arena_can_be_used_again_after_fini(void **state) {
    pom_arena_t arena;
    pom_arena_init(&arena, 4096);
    for (int round = 0; round < 3; round++) {
        assert_non_null(pom_arena_alloc(&arena, 3000));
        assert_null(pom_arena_alloc(&arena, 3000));
        pom_arena_fini(&arena);
        assert_int_equal(arena.reserved, 0);
        assert_no_leak();
    }
}

static bool fill(void *arg) {
    pom_arena_t arena;
    pom_arena_init(&arena, 1 << 18);
    bool succeeded = true;
    for (size_t i = 0; i < 2000; i++) {
        succeeded = pom_arena_alloc(&arena, i % 101) != NULL && succeeded;
    }
    pom_arena_fini(&arena);
    return succeeded;
}

static void test_arena_survives_failing_allocations(void **state) {
    /* 2000 pieces of 54 bytes on average are 5 blocks of doubling size and some of 32 KiB. */
    assert_true(pom_torture(fill, NULL) > 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_arena_allocates_nothing_before_the_first_piece),
        POM_TEST(test_arena_pieces_are_zeroed_aligned_and_apart),
        POM_TEST(test_arena_begins_in_memory_of_the_caller),
        POM_TEST(test_arena_size_zero_gives_unique_pieces),
        POM_TEST(test_arena_blocks_double_to_32_kib),
        POM_TEST(test_arena_never_passes_its_cap_and_uses_nearly_all_of_it),
        POM_TEST(test_arena_small_pieces_still_fit_after_a_refused_one),
        POM_TEST(test_arena_large_piece_leaves_the_block_in_use),
        POM_TEST(test_arena_refuses_sizes_that_overflow),
        POM_TEST(test_arena_cap_zero_refuses_everything),
        POM_TEST(test_arena_copy_ends_with_nul),
        POM_TEST(test_arena_can_be_used_again_after_fini),
        POM_TEST(test_arena_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
