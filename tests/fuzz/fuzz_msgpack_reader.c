/*
 * Any bytes to the reader of the wire form, and what it makes of them to the JSON writer.
 * libFuzzer:
 *
 *     cmake -S . -B build/fuzz -DPOM_BUILD_PYTHON=OFF -DPOM_BUILD_TESTS=OFF \
 *         -DPOM_SANITIZE=address -DCMAKE_C_COMPILER=clang && cmake --build build/fuzz
 *     clang -g -O1 -I. -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_msgpack_reader.c \
 *         build/fuzz/profiles/libpom_profiles.a build/fuzz/base/libpom_base.a -lpthread -lm \
 *         $(pkg-config --libs msgpack-c || pkg-config --libs msgpack) -o build/fuzz/msgpack_reader
 *     build/fuzz/msgpack_reader -max_total_time=60 -max_len=8192 CORPUS tests/data/wire
 *
 * The head is put in front here, so that no input is wasted on its twelve bytes. A crash becomes a
 * file in tests/data/wire/regressions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "profiles/formats/json.h"
#include "profiles/formats/msgpack_reader.h"
#include "profiles/formats/record.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void read_batch(const void *data, size_t size) {
    pom_buf_t out;
    pom_buf_init(&out, 32 << 20);
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    if (pom_msgpack_reader_begin(reader, data, size) == POM_OK) {
        pom_profile_t *profile;
        pom_status_t status;
        while ((status = pom_msgpack_reader_next(reader, &profile)) != POM_ENOTFOUND) {
            if (status != POM_OK) {
                continue;
            }
            pom_buf_reset(&out);
            pom_json_put_line(&out, profile);
            pom_buf_t again;
            pom_buf_init(&again, 32 << 20);
            const pom_profile_t *const one[] = {profile};
            if (pom_msgpack_put_batch(&again, one, 1, NULL) == POM_OK) {
                pom_msgpack_reader_t *second = pom_msgpack_reader_new();
                pom_profile_t *copy;
                /* What was read and written can be read. */
                if (pom_msgpack_reader_begin(second, again.data, again.len) != POM_OK ||
                    pom_msgpack_reader_next(second, &copy) != POM_OK) {
                    abort();
                }
                pom_profile_unref(copy);
                pom_msgpack_reader_free(second);
            }
            pom_buf_fini(&again);
            pom_profile_unref(profile);
        }
    }
    pom_msgpack_reader_free(reader);
    pom_buf_fini(&out);
    if (pom_alloc_live_bytes() != 0) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static const unsigned char magic[] = {0x93, 0xa4, 'p', 'o', 'm', 'w', 0x01, 0xc6};
    read_batch(data, size);
    size_t skip = size >= 12 && memcmp(data, magic, sizeof magic) == 0 ? 12 : 0;
    size_t body = size - skip;
    unsigned char *batch = malloc(12 + body);
    memcpy(batch, magic, sizeof magic);
    for (int i = 0; i < 4; i++) {
        batch[8 + i] = (unsigned char)(body >> (24 - 8 * i));
    }
    if (body > 0) {
        memcpy(batch + 12, data + skip, body);
    }
    read_batch(batch, 12 + body);
    free(batch);
    return 0;
}
