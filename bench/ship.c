/*
 * The sender of bench/ship.py: puts profiles of 30 nodes into an exporter with one HTTP destination
 * as fast as they are sent, and prints what that took.
 *
 *     bench_ship record                                one profile as a JSON line
 *     bench_ship PORT CA_FILE FORMAT COMPRESS ROUNDS   {"profiles", "cpu_ns", "wall_ns", "bytes"}
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "destinations/exporter.h"
#include "destinations/http.h"
#include "profiles/formats/json.h"

#define PROFILES 4096 /* one batch by count; some 16 MiB, so the queue gets more below */
#define NODES    30

static pom_code_t *codes[NODES];

static void make_codes(void) {
    for (int i = 0; i < NODES; i++) {
        char file[64];
        char function[64];
        int file_len =
            snprintf(file, sizeof file, "/srv/shop/package_%d/module_%d.py", i / 8, i / 3);
        int function_len = snprintf(function, sizeof function, "Class%d.method_%d", i / 3, i);
        pom_code_spec_t spec = {.file = file,
                                .file_len = (size_t)file_len,
                                .function = function,
                                .function_len = (size_t)function_len,
                                .first_line = 10 * i + 1};
        codes[i] = pom_code_new(&spec);
    }
}

/* Ten frames deep, three branches of ten nodes. */
static pom_profile_t *make_profile(int number) {
    pom_profile_t *p = pom_profile_new((size_t)1 << 20);
    pom_tree_init(&p->tree, &p->arena, POM_BY_LINE, pom_tree_limits_default(), 0);
    for (int branch = 0; branch < 3; branch++) {
        pom_place_t places[10];
        for (int i = 0; i < 10; i++) {
            places[i] = (pom_place_t){codes[branch * 10 + i], 10 * i + 5};
        }
        for (int depth = 4; depth <= 10; depth += 2) {
            pom_weight_t weight = {.wall_ns = 10123457 + number * 31,
                                   .cpu_ns = 3100001 + number,
                                   .hits = 1,
                                   .at_ns = (branch * 10 + depth) * INT64_C(10000000)};
            pom_tree_add(&p->tree, places, depth, &weight);
        }
    }
    p->task_id = pom_id_new();
    p->thread = UINT64_C(140231873947456);
    p->thread_name = (pom_text_t){"waitress-0", 10};
    p->source = (pom_text_t){"shop", 4};
    p->pid = 4711;
    p->start_wall_ns = INT64_C(1795177200123456789) + number * INT64_C(1000003);
    p->end_ns = 130000000;
    p->wall_ns = 130000000;
    p->cpu_ns = 41000000;
    p->type = (pom_text_t){"/cart/checkout", 14};
    p->kind = (pom_text_t){"wsgi", 4};
    p->engine = (pom_text_t){"native", 6};
    p->period_ns = 10000000;
    p->samples = 12;
    return p;
}

int main(int argc, char **argv) {
    make_codes();
    if (argc == 2) {
        pom_buf_t line;
        pom_buf_init(&line, (size_t)1 << 20);
        pom_json_put_line(&line, make_profile(1));
        return fwrite(line.data, 1, line.len, stdout) == line.len ? 0 : 1;
    }
    if (argc != 6) {
        return 2;
    }
    char error[256];
    pom_http_options_t o = pom_http_options_default();
    o.host = "127.0.0.1";
    o.port = (uint16_t)atoi(argv[1]);
    o.use_tls = true;
    o.tls.ca_file = argv[2];
    o.format = strcmp(argv[3], "msgpack") == 0 ? POM_HTTP_MSGPACK : POM_HTTP_JSON;
    o.compress = strcmp(argv[4], "gzip") == 0;
    o.timeout_ns = 60 * POM_NS_PER_S;
    static pom_profile_t *profiles[PROFILES];
    for (int i = 0; i < PROFILES; i++) {
        profiles[i] = make_profile(i);
    }
    pom_destination_t *d;
    pom_exporter_t *e;
    if (pom_http_new(&o, &d, error, sizeof error) != POM_OK ||
        pom_exporter_new(NULL, &e) != POM_OK) {
        (void)fprintf(stderr, "%s\n", error);
        return 1;
    }
    d->queue_bytes = (size_t)1 << 30;
    if (pom_exporter_add(e, d) != POM_OK) {
        return 1;
    }
    int rounds = atoi(argv[5]);
    int64_t began = pom_now_ns();
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < PROFILES; i++) {
            pom_exporter_put(e, pom_profile_ref(profiles[i]));
        }
        if (!pom_exporter_flush(e, pom_now_ns() + 120 * POM_NS_PER_S)) {
            return 1;
        }
    }
    int64_t wall_ns = pom_now_ns() - began;
    pom_destination_counters_t c;
    pom_destination_counters(d, &c);
    (void)printf("{\"profiles\": %" PRId64 ", \"cpu_ns\": %" PRId64 ", \"wall_ns\": %" PRId64
                 ", \"bytes\": %" PRId64 "}\n",
                 c.sent, pom_exporter_cpu_ns(e), wall_ns, c.bytes);
    /* A put that finds the loop too far behind drops: what was sent is what is measured. */
    return c.sent > (int64_t)rounds * PROFILES / 2 ? 0 : 1;
}
