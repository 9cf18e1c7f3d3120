/*
 * Hash of a byte string: FNV-1a, then the mixer of hash.h.
 *
 * The strings are file and function names of 10 to 100 bytes, hashed once per code object, so one
 * multiplication a byte is fine. FNV-1a alone is weak in its high bits for short strings, and
 * tables here take either end of the word: hence the mixer. Any thread.
 */
#include "base/hash.h"

uint64_t pom_hash_bytes(const void *bytes, size_t size) {
    const unsigned char *byte = bytes;
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV's 64-bit offset basis and prime. */
    for (size_t i = 0; i < size; i++) {
        hash ^= byte[i];
        hash *= UINT64_C(0x100000001b3);
    }
    return pom_hash_mix(hash);
}
