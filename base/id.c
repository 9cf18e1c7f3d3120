/*
 * Ids: a generator per thread, and the text form.
 *
 * xoshiro256** (Blackman and Vigna) keeps 32 bytes of state per thread, seeded with one getrandom a
 * thread, so that a request's id costs neither a system call nor a lock. Each state carries the
 * generation it was seeded in; a forked child raises the generation, and the copied state of its
 * one thread is then seeded again before use.
 *
 * Plain _Thread_local of the default TLS model: the extension is loaded with dlopen, where the
 * initial-exec model takes from a small fixed reserve of libc that other modules want too.
 *
 * Not a source of secrets: the state can be computed from a few outputs.
 */
#include "base/id.h"

#include "base/hash.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* Starts at 1: the zeroed state of a new thread has generation 0 and so is never current. Relaxed:
 * it is raised in a forked child, whose one thread is the one that reads it next. */
static _Atomic(uint32_t) generation = 1;

typedef struct generator_s {
    uint64_t s[4];
    uint32_t generation; /* in which it was seeded; 0 = never */
} generator_t;

static _Thread_local generator_t generator;

/* Where getrandom is refused (a sandbox) or the kernel's pool is not ready yet (it would block):
 * the clocks, the process, the thread's own address and a counter tell threads and forks apart. */
static void seed_without_kernel(uint64_t s[4]) {
    static _Atomic(uint64_t) counter;
    struct timespec wall = {0, 0};
    struct timespec mono = {0, 0};
    (void)clock_gettime(CLOCK_REALTIME, &wall); /* A zero only weakens the seed. */
    (void)clock_gettime(CLOCK_MONOTONIC, &mono);
    uint64_t x =
        pom_hash_mix((uint64_t)wall.tv_sec * UINT64_C(1000000000) + (uint64_t)wall.tv_nsec);
    x = pom_hash_join(x, (uint64_t)mono.tv_sec * UINT64_C(1000000000) + (uint64_t)mono.tv_nsec);
    x = pom_hash_join(x, (uint64_t)getpid());
    x = pom_hash_join(x, (uint64_t)(uintptr_t)s);
    x = pom_hash_join(x, atomic_fetch_add_explicit(&counter, 1, memory_order_relaxed));
    for (int i = 0; i < 4; i++) {
        x += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64, the seeding its authors recommend. */
        s[i] = pom_hash_mix(x);
    }
}

static void seed(generator_t *g, uint32_t now) {
    uint64_t s[4];
    if (getrandom(s, sizeof s, GRND_NONBLOCK) != (ssize_t)sizeof s) {
        seed_without_kernel(s);
    }
    if ((s[0] | s[1] | s[2] | s[3]) == 0) {
        s[0] = 1; /* All zero is the one state that xoshiro never leaves. */
    }
    memcpy(g->s, s, sizeof s);
    g->generation = now;
}

static uint64_t rotate_left(uint64_t x, int bits) {
    return (x << bits) | (x >> (64 - bits));
}

static uint64_t next(generator_t *g) {
    uint64_t *s = g->s;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

static generator_t *current(void) {
    generator_t *g = &generator;
    uint32_t now = atomic_load_explicit(&generation, memory_order_relaxed);
    if (g->generation != now) {
        seed(g, now);
    }
    return g;
}

pom_id_t pom_id_new(void) {
    generator_t *g = current();
    pom_id_t id;
    id.hi = (next(g) & ~UINT64_C(0xf000)) | UINT64_C(0x4000);       /* version 4 */
    id.lo = (next(g) & ~(UINT64_C(3) << 62)) | (UINT64_C(2) << 62); /* variant 10 */
    return id;
}

uint64_t pom_random_u64(void) {
    return next(current());
}

void pom_id_after_fork(void) {
    /* Generation 0 means never seeded: skipped, should the number ever wrap around. */
    if (atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed) == UINT32_MAX) {
        atomic_store_explicit(&generation, 1, memory_order_relaxed);
    }
}

/* In the dashed form a dash stands before the digits 8, 12, 16 and 20, which are at these
 * places. */
static bool is_dash_place(size_t place) {
    return place == 8 || place == 13 || place == 18 || place == 23;
}

/* The 8 hex digits of a word, first digit in the first byte. Nibbles are spread over the bytes of
 * one register and turned into digits all at once: an id is written once a request, and digit by
 * digit that is 600 instructions. */
static void put_hex8(uint32_t word, char *out) {
    uint64_t x = word;
    x = (x & 0xffff) | (x & UINT64_C(0xffff0000)) << 16;
    x = (x & UINT64_C(0x000000ff000000ff)) | (x & UINT64_C(0x0000ff000000ff00)) << 8;
    x = (x & UINT64_C(0x000f000f000f000f)) | (x & UINT64_C(0x00f000f000f000f0)) << 4;
    uint64_t is_letter = ((x + UINT64_C(0x0606060606060606)) >> 4) & UINT64_C(0x0101010101010101);
    x += UINT64_C(0x3030303030303030) + is_letter * ('a' - '0' - 10);
    x = __builtin_bswap64(x); // the first digit is in the highest byte, and hosts are little-endian
    memcpy(out, &x, sizeof x);
}

void pom_id_format(pom_id_t id, char out[POM_ID_TEXT]) {
    char digits[32];
    put_hex8((uint32_t)(id.hi >> 32), digits);
    put_hex8((uint32_t)id.hi, digits + 8);
    put_hex8((uint32_t)(id.lo >> 32), digits + 16);
    put_hex8((uint32_t)id.lo, digits + 24);
    memcpy(out, digits, 8);
    memcpy(out + 9, digits + 8, 4);
    memcpy(out + 14, digits + 12, 4);
    memcpy(out + 19, digits + 16, 4);
    memcpy(out + 24, digits + 20, 12);
    out[8] = out[13] = out[18] = out[23] = '-';
}

/* 0 to 15, or -1. By ranges, as isxdigit asks the locale. */
static int digit_value(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

bool pom_id_parse(const char *text, size_t size, pom_id_t *out) {
    if (size != 32 && size != POM_ID_TEXT) {
        return false;
    }
    uint64_t halves[2] = {0, 0};
    int digit = 0;
    for (size_t place = 0; place < size; place++) {
        if (size == POM_ID_TEXT && is_dash_place(place)) {
            if (text[place] != '-') {
                return false;
            }
            continue;
        }
        int value = digit_value(text[place]);
        if (value < 0) {
            return false;
        }
        halves[digit / 16] = halves[digit / 16] << 4 | (uint64_t)value;
        digit++;
    }
    out->hi = halves[0];
    out->lo = halves[1];
    return true;
}
