/*
 * 64-bit hashes for tables and node keys. Not for untrusted keys in unbounded tables: every table
 * here has a cap. Stable within a process only.
 */
#ifndef POM_BASE_HASH_H
#define POM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Finalizer of splitmix64: every input bit changes every output bit with probability near 1/2.
 * [any] */
static inline uint64_t pom_hash_mix(uint64_t x) {
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return x;
}

/* Two hashes into one; the order counts. [any] */
static inline uint64_t pom_hash_join(uint64_t a, uint64_t b) {
    return pom_hash_mix(a ^ (b + UINT64_C(0x9e3779b97f4a7c15) + (a << 6) + (a >> 2)));
}

/* A word's place in a table of 1 << bits, 1 to 63 of these: the top ones of a product with the
 * golden ratio (Knuth, TAOCP 3, 6.4). For addresses and other words that nobody chooses. [any] */
static inline size_t pom_hash_place(uint64_t word, int bits) {
    return (size_t)(word * UINT64_C(0x9e3779b97f4a7c15) >> (64 - bits));
}

/* FNV-1a, then mixed. [any] */
uint64_t pom_hash_bytes(const void *bytes, size_t size);

#endif
