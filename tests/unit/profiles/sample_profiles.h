/*
 * Profiles for the tests of forms: made by the call tree as the sampler would, so that everything
 * in them agrees. Each returns owned. Their times are whole microseconds, as the wire form has no
 * others.
 */
#ifndef POM_TESTS_SAMPLE_PROFILES_H
#define POM_TESTS_SAMPLE_PROFILES_H

#include <stdio.h>
#include <string.h>

#include "profiles/profile.h"
#include "profiles/value.h"

#define SAMPLE_START INT64_C(5000000000)          /* monotonic */
#define SAMPLE_WALL  INT64_C(1795177200123456789) /* 2026-11-20T11:00:00.123456Z and a bit */
/* Not every test program uses each. */
#define SAMPLE_MAYBE  __attribute__((unused))
#define SAMPLE_PLACES 8
#define SAMPLE_US     INT64_C(1000)
#define SAMPLE_MS     INT64_C(1000000)

typedef struct sample_codes_s {
    pom_code_t *list[SAMPLE_PLACES];
} sample_codes_t;

static pom_text_t sample_text(pom_profile_t *profile, const char *text) {
    return (pom_text_t){pom_arena_copy(&profile->arena, text, strlen(text)),
                        (uint32_t)strlen(text)};
}

static void sample_codes(sample_codes_t *codes) {
    static const struct {
        const char *file, *function;
        int32_t first_line;
        bool internal;
    } places[SAMPLE_PLACES] = {
        {"/srv/shop/app.py", "App.__call__", 10, false},
        {"/srv/shop/views.py", "cart", 40, false},
        {"/srv/shop/views.py", "cart", 90, false}, /* a homonym */
        {"/srv/shop/caf\xc3\xa9.py", "caf\xc3\xa9;\n", 1, false},
        {"/srv/shop/bad\xff.py", "f", 3, false}, /* not UTF-8 */
        {"<frozen runpy>", "run", 1, true},
        {"/srv/shop/db.py", "Query.rows", 100, false},
        {"/srv/shop/db.py", "Query.<locals>.<lambda>", 120, false},
    };
    for (int i = 0; i < SAMPLE_PLACES; i++) {
        const pom_code_spec_t spec = {.file = places[i].file,
                                      .file_len = strlen(places[i].file),
                                      .function = places[i].function,
                                      .function_len = strlen(places[i].function),
                                      .first_line = places[i].first_line,
                                      .internal = places[i].internal};
        codes->list[i] = pom_code_new(&spec);
        assert_non_null(codes->list[i]);
    }
}

static void sample_codes_unref(sample_codes_t *codes) {
    for (int i = 0; i < SAMPLE_PLACES; i++) {
        pom_code_unref(codes->list[i]);
    }
}

static pom_profile_t *sample_new(pom_granularity_t granularity, const char *type) {
    pom_profile_t *profile = pom_profile_new(8 << 20);
    assert_non_null(profile);
    pom_tree_init(&profile->tree, &profile->arena, granularity, pom_tree_limits_default(),
                  SAMPLE_START);
    profile->task_id = (pom_id_t){UINT64_C(0x0123456789ab4def), UINT64_C(0x8123456789abcdef)};
    profile->thread = UINT64_C(140231873947456);
    profile->thread_name = sample_text(profile, "waitress-0");
    profile->source = sample_text(profile, "shop");
    profile->pid = 4711;
    profile->start_ns = SAMPLE_START;
    profile->start_wall_ns = SAMPLE_WALL;
    profile->type = sample_text(profile, type);
    profile->kind = sample_text(profile, "wsgi");
    profile->outcome = POM_OUTCOME_SUCCEEDED;
    profile->engine = sample_text(profile, "native");
    profile->period_ns = 10 * SAMPLE_MS;
    profile->overhead_cpu_ns = 123 * SAMPLE_US;
    profile->overhead_ppm = 1500;
    return profile;
}

/* A path of places by their letters, line numbers growing with the depth: "0 1 6" and so on. */
static int32_t sample_path(const sample_codes_t *codes, const char *path, int32_t line,
                           pom_place_t *places) {
    int32_t depth = 0;
    for (; *path != '\0'; path++) {
        places[depth] = (pom_place_t){codes->list[*path - '0'], line + depth};
        depth++;
    }
    return depth;
}

static void sample_add(pom_profile_t *profile, const sample_codes_t *codes, const char *path,
                       int32_t line, int64_t at_ms, int64_t wall_ns, int64_t cpu_ns) {
    pom_place_t places[64];
    int32_t depth = sample_path(codes, path, line, places);
    const pom_weight_t weight = {
        .wall_ns = wall_ns, .cpu_ns = cpu_ns, .hits = 1, .at_ns = SAMPLE_START + at_ms * SAMPLE_MS};
    pom_tree_add(&profile->tree, places, depth, &weight);
    profile->samples++;
}

static void sample_message(pom_profile_t *profile, const sample_codes_t *codes, const char *path,
                           int32_t line, int64_t at_ms, const void *fields, size_t size) {
    pom_place_t places[64];
    int32_t depth = sample_path(codes, path, line, places);
    pom_tree_message(&profile->tree, places, depth, SAMPLE_START + at_ms * SAMPLE_MS, fields, size);
}

static void sample_end(pom_profile_t *profile, int64_t wall_ns, int64_t cpu_ns) {
    pom_tree_t *tree = &profile->tree;
    profile->end_ns = SAMPLE_START + wall_ns;
    profile->wall_ns = wall_ns;
    profile->cpu_ns = cpu_ns;
    pom_tree_add_root(tree, wall_ns - tree->root.total_wall_ns, cpu_ns - tree->root.total_cpu_ns);
}

#define SAMPLE_KEY(w, text) pom_value_key((w), (text), strlen(text))

/* A request: messages, a homonym, internal frames, every kind of field, a timeline. */
SAMPLE_MAYBE static pom_profile_t *sample_request(const sample_codes_t *codes) {
    char storage[8192];
    pom_value_writer_t w;
    pom_profile_t *profile = sample_new(POM_BY_LINE, "/cart/17");

    pom_value_begin(&w, storage, sizeof storage);
    pom_value_map_begin(&w);
    SAMPLE_KEY(&w, "method");
    pom_value_text(&w, "GET", 3);
    SAMPLE_KEY(&w, "route");
    pom_value_text(&w, "/cart/<int:id>", 14);
    SAMPLE_KEY(&w, "status");
    pom_value_integer(&w, 200);
    SAMPLE_KEY(&w, "phases");
    pom_value_map_begin(&w);
    SAMPLE_KEY(&w, "queue");
    pom_value_seconds(&w, 0);
    SAMPLE_KEY(&w, "app");
    pom_value_seconds(&w, 90123 * SAMPLE_US);
    SAMPLE_KEY(&w, "body");
    pom_value_seconds(&w, 30000);
    SAMPLE_KEY(&w, "client");
    pom_value_seconds(&w, INT64_C(7200000000000));
    SAMPLE_KEY(&w, "early");
    pom_value_seconds(&w, -SAMPLE_US);
    pom_value_map_end(&w);
    pom_value_map_end(&w);
    size_t size = pom_value_finish(&w);
    profile->fields = pom_arena_copy(&profile->arena, storage, size);
    profile->fields_size = (uint32_t)size;

    sample_add(profile, codes, "01", 40, 10, 10 * SAMPLE_MS, 9 * SAMPLE_MS);
    sample_add(profile, codes, "0167", 40, 20, 10 * SAMPLE_MS, 100 * SAMPLE_US);
    sample_add(profile, codes, "0167", 40, 30, 10 * SAMPLE_MS, 0);
    sample_add(profile, codes, "016", 40, 40, 10 * SAMPLE_MS + SAMPLE_US, 50 * SAMPLE_US);

    pom_value_begin(&w, storage, sizeof storage);
    pom_value_map_begin(&w);
    SAMPLE_KEY(&w, "message_type");
    pom_value_text(&w, "cart:loaded \xe2\x82\xac \xff", 15);
    SAMPLE_KEY(&w, "rows");
    pom_value_integer(&w, 17);
    SAMPLE_KEY(&w, "big");
    pom_value_integer(&w, INT64_MIN);
    SAMPLE_KEY(&w, "ratio");
    pom_value_number(&w, 0.1);
    SAMPLE_KEY(&w, "nothing");
    pom_value_null(&w);
    SAMPLE_KEY(&w, "yes");
    pom_value_boolean(&w, true);
    SAMPLE_KEY(&w, "no");
    pom_value_boolean(&w, false);
    SAMPLE_KEY(&w, "many");
    pom_value_list_begin(&w);
    for (int i = 0; i < 20; i++) {
        pom_value_integer(&w, (int64_t)1 << i);
    }
    pom_value_list_end(&w);
    SAMPLE_KEY(&w, "empty");
    pom_value_map_begin(&w);
    pom_value_map_end(&w);
    pom_value_map_end(&w);
    size = pom_value_finish(&w);
    sample_message(profile, codes, "01", 41, 45, storage, size);

    sample_add(profile, codes, "02", 40, 50, 5 * SAMPLE_MS, 5 * SAMPLE_MS);
    sample_add(profile, codes, "0513", 40, 60, 10 * SAMPLE_MS, 10 * SAMPLE_MS);
    sample_add(profile, codes, "05", 40, 70, 10 * SAMPLE_MS, 10 * SAMPLE_MS);
    sample_add(profile, codes, "0111", 40, 80, 10 * SAMPLE_MS, 10 * SAMPLE_MS);
    sample_message(profile, codes, "", 0, 85, "\x06\x08", 2); /* an empty map, no stack */
    sample_add(profile, codes, "04", -1, 90, 10 * SAMPLE_MS, 10 * SAMPLE_MS);
    profile->missed[POM_MISS_RACED] = 2;
    profile->tree.cuts.depth = 3;
    profile->dropped_events = 1;
    sample_end(profile, 97123 * SAMPLE_US, 55000000);
    return profile;
}

/* Another process, a foreign task id, functions only, no fields at all. */
SAMPLE_MAYBE static pom_profile_t *sample_task(const sample_codes_t *codes) {
    pom_profile_t *profile = sample_new(POM_BY_FUNCTION, "rebuild-index");
    profile->task_text = sample_text(profile, "job-17/\xc3\xa9");
    profile->kind = sample_text(profile, "eliot");
    profile->source = sample_text(profile, "nightly");
    profile->pid = 12;
    profile->outcome = POM_OUTCOME_FAILED;
    profile->engine = sample_text(profile, "gil");
    sample_add(profile, codes, "016", 7, 10, 10 * SAMPLE_MS, SAMPLE_MS);
    sample_add(profile, codes, "012", 9, 20, 10 * SAMPLE_MS, SAMPLE_MS);
    sample_end(profile, 25 * SAMPLE_MS, 2 * SAMPLE_MS);
    return profile;
}

/* Files only. */
SAMPLE_MAYBE static pom_profile_t *sample_files(const sample_codes_t *codes) {
    pom_profile_t *profile = sample_new(POM_BY_FILE, "/");
    sample_add(profile, codes, "0167", 7, 10, 10 * SAMPLE_MS, SAMPLE_MS);
    sample_end(profile, 10 * SAMPLE_MS, SAMPLE_MS);
    return profile;
}

/* Too short for a sample. */
SAMPLE_MAYBE static pom_profile_t *sample_short(void) {
    pom_profile_t *profile = sample_new(POM_BY_LINE, "/ping");
    sample_end(profile, 150000, 120000);
    return profile;
}

/* After a burst: others were refused before it. */
SAMPLE_MAYBE static pom_profile_t *sample_shed(void) {
    pom_profile_t *profile = sample_new(POM_BY_LINE, "/ping");
    profile->shed = 14;
    sample_end(profile, 150000, 120000);
    return profile;
}

/* xorshift: the same trees on every machine. */
static uint32_t sample_random(uint32_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

SAMPLE_MAYBE static pom_profile_t *sample_any(const sample_codes_t *codes, uint32_t seed) {
    pom_profile_t *profile = sample_new((pom_granularity_t)(seed % 3), "/any");
    seed = seed * 2654435761u + 1;
    int steps = (int)(sample_random(&seed) % 60);
    int64_t wall_ns = 0, cpu_ns = 0;
    for (int i = 0; i < steps; i++) {
        char path[24];
        int depth = (int)(sample_random(&seed) % 20);
        for (int j = 0; j < depth; j++) {
            path[j] = (char)('0' + sample_random(&seed) % SAMPLE_PLACES);
        }
        path[depth] = '\0';
        int32_t line = (int32_t)(sample_random(&seed) % 3);
        if (sample_random(&seed) % 5 == 0) {
            sample_message(profile, codes, path, line, i + 1, "\x06\x09\x01k\x03\x02\x08", 7);
        } else {
            int64_t us = sample_random(&seed) % 1000;
            wall_ns += us * SAMPLE_US;
            cpu_ns += us / 3 * SAMPLE_US;
            sample_add(profile, codes, path, line, i + 1, us * SAMPLE_US, us / 3 * SAMPLE_US);
        }
    }
    sample_end(profile, wall_ns + SAMPLE_US, cpu_ns + 10 * SAMPLE_US);
    return profile;
}

#endif
