/* A request's record: hostile ids, and the whole of it as JSON. */
#define _GNU_SOURCE // memmem
#include "tests/unit/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actions/registry.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "middleware/request.h"
#include "middleware/route_name.h"
#include "middleware/scrub.h"
#include "profiles/formats/json.h"
#include "tests/unit/sampler/fakes.h"

static const char *const secret_words[] = {"password", "token", "secret", "key ", NULL};

/* ---- ids ------------------------------------------------------------------------------------ */

#define PARENT "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
#define LONG64 "a123456789012345678901234567890123456789012345678901234567890123"

/* acceptance: PM20 */
static void test_request_task_id_takes_what_is_usable(void **state) {
    static const struct {
        const char *uuid, *parent;
        const char *id, *text; /* both NULL: unusable */
    } cases[] = {
        {NULL, NULL, NULL, NULL},
        // X-Task-UUID
        {"0af76519-16cd-43dd-8448-eb211c80319c", NULL, "0af76519-16cd-43dd-8448-eb211c80319c",
         NULL},
        {"0AF76519-16CD-43DD-8448-EB211C80319C", NULL, NULL,
         "0AF76519-16CD-43DD-8448-EB211C80319C"},
        {"0af7651916cd43dd8448eb211c80319c", NULL, NULL, "0af7651916cd43dd8448eb211c80319c"},
        {"job-17", NULL, NULL, "job-17"},
        {"a.b_c:d/e@f-g", NULL, NULL, "a.b_c:d/e@f-g"},
        {"7", NULL, NULL, "7"},
        {LONG64, NULL, NULL, LONG64},
        {LONG64 "4", NULL, NULL, NULL},
        {"", NULL, NULL, NULL},
        {"-a", NULL, NULL, NULL},
        {".", NULL, NULL, NULL},
        {"a b", NULL, NULL, NULL},
        {"a\nb", NULL, NULL, NULL},
        {"a\r\nSet-Cookie: x", NULL, NULL, NULL},
        {"a\"b", NULL, NULL, NULL},
        {"<script>", NULL, NULL, NULL},
        {"a;b", NULL, NULL, NULL},
        {"caf\xc3\xa9", NULL, NULL, NULL},
        {"a\x7f", NULL, NULL, NULL},
        // traceparent
        {NULL, PARENT, "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", NULL},
        {NULL, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
         "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", NULL},
        {NULL, "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-holds",
         "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", NULL},
        {NULL, "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x", NULL, NULL},
        {NULL, PARENT "-x", NULL, NULL}, // version 00 has no more fields
        {NULL, PARENT " ", NULL, NULL},
        {NULL, "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", NULL, NULL},
        {NULL, "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", NULL, NULL},
        {NULL, "00-00000000000000000000000000000000-00f067aa0ba902b7-01", NULL, NULL},
        {NULL, "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", NULL, NULL},
        {NULL, "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", NULL, NULL},
        {NULL, "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", NULL, NULL},
        {NULL, "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", NULL, NULL},
        {NULL, "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", NULL, NULL},
        {NULL, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", NULL, NULL},
        {NULL, "", NULL, NULL},
        {NULL, "00", NULL, NULL},
        // both
        {"mine", PARENT, NULL, "mine"},
        {"not usable", PARENT, "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", NULL},
        {"", PARENT, "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", NULL},
        {"not usable", "nor this", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pom_id_t id = {.hi = 0, .lo = 0};
        pom_text_t text = {.data = "stale", .size = 5};
        // Exactly as many bytes as there are: the sanitizer sees a read too far.
        size_t uuid_size = cases[i].uuid != NULL ? strlen(cases[i].uuid) : 0;
        size_t parent_size = cases[i].parent != NULL ? strlen(cases[i].parent) : 0;
        char *uuid = cases[i].uuid != NULL ? pom_alloc(uuid_size) : NULL;
        char *parent = cases[i].parent != NULL ? pom_alloc(parent_size) : NULL;
        if (uuid != NULL) {
            memcpy(uuid, cases[i].uuid, uuid_size);
        }
        if (parent != NULL) {
            memcpy(parent, cases[i].parent, parent_size);
        }
        bool usable = pom_request_task_id(uuid, uuid_size, parent, parent_size, &id, &text);
        assert_int_equal(usable, cases[i].id != NULL || cases[i].text != NULL);
        assert_int_equal(text.size, cases[i].text != NULL ? strlen(cases[i].text) : 0);
        if (cases[i].text != NULL) {
            assert_memory_equal(text.data, cases[i].text, text.size);
        }
        if (cases[i].id != NULL) {
            char plain[POM_ID_TEXT];
            pom_id_format(id, plain);
            assert_memory_equal(plain, cases[i].id, POM_ID_TEXT);
        }
        pom_free(uuid);
        pom_free(parent);
    }
}

static void test_request_task_id_survives_every_cut_and_flip(void **state) {
    for (size_t size = 0; size <= sizeof PARENT - 1; size++) {
        char *exact = pom_alloc(size);
        memcpy(exact, PARENT, size);
        pom_id_t id;
        pom_text_t text;
        assert_int_equal(pom_request_task_id(NULL, 0, exact, size, &id, &text),
                         size == sizeof PARENT - 1);
        (void)pom_request_task_id(exact, size, exact, size, &id, &text);
        for (size_t at = 0; at < size; at++) {
            for (int byte = 0; byte < 256; byte += 17) {
                char kept = exact[at];
                exact[at] = (char)byte;
                (void)pom_request_task_id(exact, size, exact, size, &id, &text);
                assert_true(text.size <= 64);
                exact[at] = kept;
            }
        }
        pom_free(exact);
    }
    char nul[] = {'a', '\0', 'b'};
    pom_id_t id;
    pom_text_t text;
    assert_false(pom_request_task_id(nul, sizeof nul, NULL, 0, &id, &text));
}

/* ---- the record ------------------------------------------------------------------------------ */

typedef struct rig_s {
    pom_profile_sink_t sink; /* first: the sink finds the rig by it */
    pom_code_table_t *codes;
    pom_registry_t *registry;
    pom_profile_t *profile;
} rig_t;

static void put_profile(pom_profile_sink_t *sink, pom_profile_t *profile) {
    ((rig_t *)(void *)sink)->profile = profile;
}

static void rig_init(rig_t *rig) {
    pom_registry_options_t options = {.granularity = POM_BY_LINE, .source = "s", .engine = "e"};
    memset(rig, 0, sizeof *rig);
    rig->sink.put = put_profile;
    rig->codes = pom_code_table_new(64, &fake_resolver);
    rig->registry = pom_registry_new(&options, rig->codes, &rig->sink);
    assert_non_null(rig->registry);
}

static void rig_fini(rig_t *rig) {
    pom_registry_free(rig->registry);
    pom_code_table_free(rig->codes);
}

static pom_text_t keep(pom_action_t *a, const char *text) {
    return pom_action_text(a, text, strlen(text));
}

/* The request's whole record as a NUL-terminated line; owned. */
static char *record_of(rig_t *rig, pom_action_t *a) {
    pom_sampler_client_t *client = pom_registry_client(rig->registry);
    a->end_ns = a->start_ns + 1;
    (void)pom_registry_end(rig->registry, a);
    (void)client->tick(client, 0);
    assert_non_null(rig->profile);
    pom_buf_t buf;
    pom_buf_init(&buf, 1 << 20);
    pom_json_put_line(&buf, rig->profile);
    pom_buf_put_char(&buf, '\0');
    assert_false(pom_buf_failed(&buf));
    pom_profile_unref(rig->profile);
    rig->profile = NULL;
    size_t size;
    return pom_buf_take(&buf, &size);
}

static void assert_has(const char *record, const char *part) {
    if (strstr(record, part) == NULL) {
        fail_msg("no %s in %s", part, record);
    }
}

/* acceptance: PM21 */
static void test_request_record_says_all_of_it(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
    pom_request_t *r = pom_request_of(a);
    a->type = keep(a, "/shop/items/7");
    r->method = keep(a, "GET");
    r->host = keep(a, "example.org");
    r->script_name = keep(a, "/shop");
    r->path_info = keep(a, "/items/7");
    r->query = keep(a, "page=2&token=abc");
    r->status = 200;
    r->bytes = 1234;
    r->app_ns = 1500000000;
    r->first_byte_ns = 125000000;
    r->body_ns = 750000000;
    r->client_ns = 250000000;
    r->close_ns = 500000000;
    r->trace = (pom_trace_t){.parent_span = 0xf067aa0ba902b7, .span = 0xb7ad6b7169203331};
    char *record = record_of(&rig, a);
    assert_has(record, "\"type\":\"/shop/items/7\"");
    assert_has(record, "\"kind\":\"wsgi\"");
    assert_has(record, "\"method\":\"GET\"");
    assert_has(record, "\"host\":\"example.org\"");
    assert_has(record, "\"script_name\":\"/shop\"");
    assert_has(record, "\"path_info\":\"/items/7\"");
    assert_has(record, "\"query_string\":\"page=2&token=[scrubbed]\"");
    assert_has(record, "\"status\":200");
    assert_has(record, "\"route\":\"/shop/items/<id>\"");
    assert_has(record, "\"bytes\":1234");
    assert_has(record, "\"phases\":{\"app\":1.5,\"first_byte\":0.125,\"body\":0.75,"
                       "\"client\":0.25,\"close\":0.5}");
    assert_has(record, "\"parent_span\":\"00f067aa0ba902b7\",\"span\":\"b7ad6b7169203331\"");
    pom_free(record);
    rig_fini(&rig);
}

static void test_request_record_of_asgi_has_the_same_keys_and_the_client(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = pom_registry_begin(rig.registry, &pom_asgi_kind);
    pom_request_t *r = pom_request_of(a);
    r->path_info = keep(a, "/items/7");
    r->client = keep(a, "192.0.2.7");
    r->queue_ns = 250000000;
    r->app_ns = 1500000000;
    char *record = record_of(&rig, a);
    assert_has(record, "\"kind\":\"asgi\"");
    assert_has(record, "\"client\":\"192.0.2.7\"");
    assert_has(record, "\"route\":\"/items/<id>\"");
    assert_has(record, "\"phases\":{\"queue\":0.25,\"app\":1.5}");
    pom_free(record);
    rig_fini(&rig);
}

static void test_request_record_of_nothing_is_whole(void **state) {
    rig_t rig;
    rig_init(&rig);
    char *record = record_of(&rig, pom_registry_begin(rig.registry, &pom_request_kind));
    assert_has(record, "\"status\":null");
    assert_has(record, "\"method\":\"\"");
    assert_has(record, "\"route\":\"/\"");
    assert_has(record, "\"phases\":{}");
    pom_free(record);
    rig_fini(&rig);
}

/* acceptance: W19 */
static void test_request_record_names_the_route(void **state) {
    rig_t rig;
    rig_init(&rig);
    pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
    pom_request_of(a)->path_info = keep(a, "/a/1");
    pom_request_of(a)->route = keep(a, "/mount/a/<int:n>");
    char *record = record_of(&rig, a);
    assert_has(record, "\"route\":\"/mount/a/<int:n>\"");
    pom_free(record);
    rig_fini(&rig);
}

/* Everything a client can send at its longest, any bytes. */
static void test_request_record_survives_hostile_bytes(void **state) {
    rig_t rig;
    rig_init(&rig);
    uint64_t random = 5;
    for (int round = 0; round < 300; round++) {
        pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
        pom_request_t *r = pom_request_of(a);
        pom_text_t *const texts[] = {&a->type,      &r->method,   &r->host,  &r->script_name,
                                     &r->path_info, &r->query,    &r->route, &a->exception,
                                     &a->reason,    &a->task_text};
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
            char noise[3000];
            random = pom_hash_mix(random + 1);
            size_t size = random % 4 == 0 ? random / 4 % sizeof noise : random / 4 % 300;
            for (size_t at = 0; at < size; at++) {
                random = pom_hash_mix(random + 1);
                noise[at] = (char)random;
            }
            *texts[i] = pom_action_text(a, noise, size);
        }
        r->status = (int32_t)random;
        r->bytes = (int64_t)random;
        r->body_ns = (int64_t)random;
        char *record = record_of(&rig, a);
        size_t size = strlen(record);
        assert_int_equal(record[0], '{');
        assert_memory_equal(record + size - 2, "}\n", 2);
        for (size_t at = 0; at < size - 1; at++) { // one line, ASCII
            assert_in_range(record[at], ' ', 0x7f);
        }
        pom_free(record);
    }
    rig_fini(&rig);
}

static void test_request_record_hides_secrets_of_a_query_that_was_cut(void **state) {
    rig_t rig;
    rig_init(&rig);
    for (size_t pad = 1900; pad < 2100; pad += 3) {
        pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
        char query[2200];
        memset(query, 'q', pad);
        memcpy(query + pad, "&password=hunter2&x=1", 21);
        pom_request_of(a)->query = pom_action_text(a, query, pad + 21);
        char *record = record_of(&rig, a);
        assert_null(strstr(record, "hunter2"));
        pom_free(record);
    }
    rig_fini(&rig);
}

/* The table of names is the process's, so this test comes last. */
/* acceptance: W19 */
static void test_request_routes_beyond_the_cap_are_counted(void **state) {
    rig_t rig;
    rig_init(&rig);
    int64_t names, others, now, then;
    pom_request_routes(&names, &others);
    for (int i = 0; i <= POM_ROUTES_MAX; i++) {
        pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
        char rule[32];
        (void)snprintf(rule, sizeof rule, "/page/%d", i);
        pom_request_of(a)->route = keep(a, rule);
        char *record = record_of(&rig, a);
        bool kept = i < POM_ROUTES_MAX - names;
        assert_has(record, kept ? rule : "\"route\":\"<other>\"");
        pom_free(record);
    }
    pom_request_routes(&now, &then);
    assert_int_equal(now, POM_ROUTES_MAX);
    assert_int_equal(then, others + names + 1);
    rig_fini(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_request_task_id_takes_what_is_usable),
        POM_TEST(test_request_task_id_survives_every_cut_and_flip),
        POM_TEST(test_request_record_says_all_of_it),
        POM_TEST(test_request_record_of_asgi_has_the_same_keys_and_the_client),
        POM_TEST(test_request_record_of_nothing_is_whole),
        POM_TEST(test_request_record_names_the_route),
        POM_TEST(test_request_record_survives_hostile_bytes),
        POM_TEST(test_request_record_hides_secrets_of_a_query_that_was_cut),
        POM_TEST(test_request_routes_beyond_the_cap_are_counted),
    };
    if (pom_scrub_set(secret_words) != POM_OK) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
