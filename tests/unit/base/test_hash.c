/* Hashes: known vectors, avalanche, order. */
#include "tests/unit/support/test_support.h"

#include "base/hash.h"

#include <string.h>

static void test_hash_mix_is_splitmix64(void **state) {
    /* The first outputs of splitmix64 from seed 0 mix the multiples of its increment. */
    const uint64_t step = UINT64_C(0x9e3779b97f4a7c15);
    assert_true(pom_hash_mix(step) == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(pom_hash_mix(2 * step) == UINT64_C(0x6e789e6aa1b965f4));
    assert_true(pom_hash_mix(3 * step) == UINT64_C(0x06c45d188009454f));
}

static void test_hash_bytes_is_mixed_fnv_1a(void **state) {
    static const struct {
        const char *text;
        uint64_t fnv; /* published vectors */
    } rows[] = {
        {"", UINT64_C(0xcbf29ce484222325)},
        {"a", UINT64_C(0xaf63dc4c8601ec8c)},
        {"foobar", UINT64_C(0x85944171f73967e8)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t hash = pom_hash_bytes(rows[i].text, strlen(rows[i].text));
        assert_true(hash == pom_hash_mix(rows[i].fnv));
    }
}

static void test_hash_bytes_takes_every_byte_value(void **state) {
    /* Bytes above 127 count as unsigned whatever char is, and a NUL is a byte like others. */
    uint64_t fnv = (UINT64_C(0xcbf29ce484222325) ^ 0xff) * UINT64_C(0x100000001b3);
    assert_true(pom_hash_bytes("\xff", 1) == pom_hash_mix(fnv));
    assert_true(pom_hash_bytes("a\0b", 3) != pom_hash_bytes("a\0c", 3));
    assert_true(pom_hash_bytes("\0", 1) != pom_hash_bytes("\0\0", 2));
    assert_true(pom_hash_bytes(NULL, 0) == pom_hash_bytes("x", 0));
}

static void test_hash_mix_flips_half_of_the_bits(void **state) {
    enum { INPUTS = 1000 };
    for (int bit = 0; bit < 64; bit++) {
        int64_t flips = 0;
        for (uint64_t i = 0; i < INPUTS; i++) {
            uint64_t input = i * UINT64_C(0x123456789abcdef1);
            uint64_t changed = pom_hash_mix(input) ^ pom_hash_mix(input ^ UINT64_C(1) << bit);
            flips += __builtin_popcountll(changed);
        }
        assert_in_range(flips, 31 * INPUTS, 33 * INPUTS);
    }
}

static void test_hash_join_minds_the_order(void **state) {
    for (uint64_t a = 0; a < 50; a++) {
        for (uint64_t b = 0; b < a; b++) {
            assert_true(pom_hash_join(a, b) != pom_hash_join(b, a));
        }
    }
}

static void test_hash_low_bits_spread_names(void **state) {
    /* 4096 names that differ in digits only, into 1024 buckets: 4 expected, Poisson tail below
     * 20. */
    unsigned buckets[1024] = {0};
    for (int i = 0; i < 4096; i++) {
        char name[] = "package/module_0000.py";
        name[15] = (char)('0' + i / 512 % 8);
        name[16] = (char)('0' + i / 64 % 8);
        name[17] = (char)('0' + i / 8 % 8);
        name[18] = (char)('0' + i % 8);
        buckets[pom_hash_bytes(name, sizeof name - 1) % 1024]++;
    }
    for (int i = 0; i < 1024; i++) {
        assert_true(buckets[i] < 20);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_hash_mix_is_splitmix64),
        POM_TEST(test_hash_bytes_is_mixed_fnv_1a),
        POM_TEST(test_hash_bytes_takes_every_byte_value),
        POM_TEST(test_hash_mix_flips_half_of_the_bits),
        POM_TEST(test_hash_join_minds_the_order),
        POM_TEST(test_hash_low_bits_spread_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
