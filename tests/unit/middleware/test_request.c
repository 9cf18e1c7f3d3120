/* A request's record: hostile ids, secrets in queries, bounded route names, and the whole of it as JSON. */
#define _GNU_SOURCE // memmem
#include "tests/unit/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "actions/registry.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "middleware/request.h"
#include "profiles/formats/json.h"
#include "tests/unit/sampler/fakes.h"

static const char *const secret_words[] = {"password", "token", "secret", "api_key", NULL};

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

/* ---- query ------------------------------------------------------------------------------------ */

/* acceptance: PM21 */
static void test_request_scrub_masks_values_of_secret_keys(void **state) {
    static const struct {
        const char *query, *want;
    } cases[] = {
        {"", ""},
        {"a=1&b=2", "a=1&b=2"},
        {"password=hunter2", "password=[scrubbed]"},
        {"a=1&password=hunter2&b=2", "a=1&password=[scrubbed]&b=2"},
        {"PassWord=x", "PassWord=[scrubbed]"},
        {"user_password_2=x", "user_password_2=[scrubbed]"},
        {"user[password]=x", "user[password]=[scrubbed]"},
        {"user%5Bpassword%5D=x", "user%5Bpassword%5D=[scrubbed]"},
        {"pass%77ord=x", "pass%77ord=[scrubbed]"},
        {"%70%61%73%73%77%6F%72%64=x", "%70%61%73%73%77%6F%72%64=[scrubbed]"},
        {"%50ASSWORD=x", "%50ASSWORD=[scrubbed]"},
        {"a=1;token=x;b=2", "a=1;token=[scrubbed];b=2"},
        {"token=a=b=c", "token=[scrubbed]"},
        {"token==", "token=[scrubbed]"},
        {"token=", "token=[scrubbed]"},
        {"token", "token"},
        {"token&x=1", "token&x=1"},
        {"&&token=1&&", "&&token=[scrubbed]&&"},
        {"x=token", "x=token"},
        {"x=password=1", "x=password=1"},
        {"=x", "=x"},
        {"pass%00word=x", "pass%00word=x"},
        {"to%6ken=x", "to%6ken=x"},
        {"%", "%"},
        {"%4=1&token%=2", "%4=1&token%=[scrubbed]"},
        {"token%7=x", "token%7=[scrubbed]"},
        {"api_key=1&api-key=2", "api_key=[scrubbed]&api-key=2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[256];
        size_t size = strlen(cases[i].query);
        char *exact = pom_alloc(size);
        memcpy(exact, cases[i].query, size);
        size_t used = pom_request_scrub(exact, size, out, sizeof out);
        assert_int_equal(used, strlen(cases[i].want));
        assert_memory_equal(out, cases[i].want, used);
        pom_free(exact);
    }
}

static void test_request_scrub_masks_behind_a_very_long_key(void **state) {
    char query[400], out[800];
    for (size_t pad = 100; pad < 300; pad++) {
        memset(query, 'k', pad);
        memcpy(query + pad, "password=hunter2", 16);
        size_t used = pom_request_scrub(query, pad + 16, out, sizeof out);
        assert_null(memmem(out, used, "hunter2", 7));
        assert_non_null(memmem(out, used, "=[scrubbed]", 11));
    }
}

static void test_request_scrub_never_writes_beyond_its_room(void **state) {
    static const char query[] = "a=1&password=hunter2&token=hunter2&b=2";
    for (size_t room = 0; room < 80; room++) {
        char *out = pom_alloc(room);
        size_t used = pom_request_scrub(query, sizeof query - 1, out, room);
        assert_true(used <= room);
        assert_null(memmem(out, used, "hunter", 6));
        pom_free(out);
    }
    uint64_t random = 3;
    for (int i = 0; i < 20000; i++) { // any bytes
        char noise[64], out[100];
        for (size_t at = 0; at < sizeof noise; at++) {
            random = pom_hash_mix(random + 1);
            noise[at] = "=&;%psswordtken0aF"[random % 18];
        }
        assert_true(pom_request_scrub(noise, random % 64, out, random % 100) <= random % 100);
    }
}

static void test_request_scrub_takes_other_words(void **state) {
    static const char *const other[] = {"pin", NULL}, *const none[] = {NULL};
    char out[100];
    assert_int_equal(pom_request_set_scrub(other), POM_OK);
    size_t used = pom_request_scrub("pin=1&token=2", 13, out, sizeof out);
    assert_memory_equal(out, "pin=[scrubbed]&token=2", used);
    assert_int_equal(pom_request_set_scrub(none), POM_OK);
    used = pom_request_scrub("pin=1&token=2", 13, out, sizeof out);
    assert_memory_equal(out, "pin=1&token=2", used);
    assert_int_equal(pom_request_set_scrub(NULL), POM_OK);
    used = pom_request_scrub("pin=1&token=2", 13, out, sizeof out);
    assert_memory_equal(out, "pin=1&token=2", used);
    int64_t live = pom_alloc_live_bytes();
    for (int i = 0; i < 100; i++) { // lists are kept, but each only once
        assert_int_equal(pom_request_set_scrub(i % 2 == 0 ? other : secret_words), POM_OK);
    }
    assert_int_equal(pom_alloc_live_bytes(), live);
    static const char *const more[] = {"fresh", NULL};
    pom_alloc_fail_from(1);
    assert_int_equal(pom_request_set_scrub(more), POM_ENOMEM);
    pom_alloc_fail_from(0);
    used = pom_request_scrub("pin=1&token=2", 13, out, sizeof out); // the words in force stay
    assert_memory_equal(out, "pin=1&token=[scrubbed]", used);
}

/* ---- routes ------------------------------------------------------------------------------------ */

static void test_request_mask_replaces_what_looks_like_an_id(void **state) {
    static const struct {
        const char *path, *want;
    } cases[] = {
        {"", ""},
        {"/", "/"},
        {"//", "//"},
        {"/users", "/users"},
        {"/users/7", "/users/<id>"},
        {"/users/7/", "/users/<id>/"},
        {"/users/12345/posts/9", "/users/<id>/posts/<id>"},
        {"users/7", "users/<id>"},
        {"/v2/items", "/v2/items"},
        {"/2024/10/news", "/<id>/<id>/news"},
        {"/f/deadbeef", "/f/<id>"},
        {"/f/DEADBEEF01", "/f/<id>"},
        {"/f/facade", "/f/facade"},
        {"/f/0af76519-16cd-43dd-8448-eb211c80319c", "/f/<id>"},
        {"/f/0AF76519-16CD-43DD-8448-EB211C80319C/x", "/f/<id>/x"},
        {"/p/a-very-long-article-name-1", "/p/<id>"},
        {"/p/a-very-long-article-name", "/p/a-very-long-article-name"},
        {"/t/eyJhbGciOiJIUzI1NiJ9", "/t/<id>"},
        {"/x/-7", "/x/-7"},
        {"/x/7.html", "/x/7.html"},
        {"/caf\xc3\xa9/8", "/caf\xc3\xa9/<id>"},
        {"/\xff\xfe/8", "/\xff\xfe/<id>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[256];
        size_t size = strlen(cases[i].path);
        char *exact = pom_alloc(size);
        memcpy(exact, cases[i].path, size);
        size_t used = pom_request_mask(exact, size, out, sizeof out);
        assert_int_equal(used, strlen(cases[i].want));
        assert_memory_equal(out, cases[i].want, used);
        pom_free(exact);
    }
}

static void test_request_mask_never_writes_beyond_its_room(void **state) {
    char path[2000];
    for (size_t i = 0; i < sizeof path; i++) {
        path[i] = i % 2 == 0 ? '/' : '1'; // each digit becomes four characters
    }
    for (size_t size = 0; size < sizeof path; size += 37) {
        for (size_t room = 0; room < 1100; room += 41) {
            char *out = pom_alloc(room);
            assert_true(pom_request_mask(path, size, out, room) <= room);
            pom_free(out);
        }
    }
}

/* ---- the record --------------------------------------------------------------------------------- */

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
    r->client_ns = 250000000;
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
    assert_has(record, "\"phases\":{\"app\":1.5,\"client\":0.25}");
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
    static const struct {
        const char *script_name, *path_info, *route;
        int32_t status;
        const char *want;
    } cases[] = {
        {"", "/a/1", "/a/<int:n>", 200, "/a/<int:n>"},
        {"", "/a/1", "/a/<int:n>", 404, "/a/<int:n>"}, // found, and then missing something
        {"", "/a/1", "", 404, "<not found>"},
        {"", "/a/1", "", 200, "/a/<id>"},
        {"", "/a/1", "", 500, "/a/<id>"},
        {"/mount", "/a/1", "", 200, "/mount/a/<id>"},
        {"/mount", "", "", 200, "/mount"},
        {"", "", "", 200, "/"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig_t rig;
        rig_init(&rig);
        pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
        pom_request_t *r = pom_request_of(a);
        r->script_name = keep(a, cases[i].script_name);
        r->path_info = keep(a, cases[i].path_info);
        r->route = keep(a, cases[i].route);
        r->status = cases[i].status;
        char want[100];
        (void)snprintf(want, sizeof want, "\"route\":\"%s\"", cases[i].want);
        char *record = record_of(&rig, a);
        assert_has(record, want);
        pom_free(record);
        rig_fini(&rig);
    }
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
static void test_request_routes_are_bounded(void **state) {
    rig_t rig;
    rig_init(&rig);
    static char seen[2 * POM_ROUTES_MAX][64];
    int distinct = 0, others = 0;
    static const char *const known = "\"route\":\"/known\"";
    for (int i = 0; i < 100000; i++) {
        pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
        char path[64];
        // Ids, pages with their own names, files: what a crawler asks for.
        static const char *const forms[] = {"/user/%d/%d", "/page-%d/%d", "/static/v%x/%d.css",
                                            "/%d/%d"};
        if (i == 0) {
            (void)strcpy(path, "/known");
        } else {
            (void)snprintf(path, sizeof path, forms[i % 4], i, i);
        }
        pom_request_of(a)->path_info = keep(a, path);
        pom_request_of(a)->status = 200;
        char *record = record_of(&rig, a);
        char *name = strstr(record, "\"route\":");
        assert_non_null(name);
        *strchr(name, ',') = '\0';
        bool other = strcmp(name, "\"route\":\"<other>\"") == 0;
        bool is_new = !other;
        for (int n = distinct; is_new && n-- > 0;) { // most repeat one of the last
            is_new = strcmp(seen[n], name) != 0;
        }
        if (is_new) {
            assert_true(distinct < POM_ROUTES_MAX);
            (void)snprintf(seen[distinct++], sizeof seen[0], "%s", name);
        }
        others += other;
        pom_free(record);
    }
    assert_in_range(distinct, POM_ROUTES_MAX / 2, POM_ROUTES_MAX);
    assert_true(others > 10000);
    // What had a name keeps it.
    pom_action_t *a = pom_registry_begin(rig.registry, &pom_request_kind);
    pom_request_of(a)->path_info = keep(a, "/known");
    char *record = record_of(&rig, a);
    assert_has(record, known);
    pom_free(record);
    rig_fini(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_request_task_id_takes_what_is_usable),
        POM_TEST(test_request_task_id_survives_every_cut_and_flip),
        POM_TEST(test_request_scrub_masks_values_of_secret_keys),
        POM_TEST(test_request_scrub_masks_behind_a_very_long_key),
        POM_TEST(test_request_scrub_never_writes_beyond_its_room),
        cmocka_unit_test(test_request_scrub_takes_other_words), // word lists are kept for good
        POM_TEST(test_request_mask_replaces_what_looks_like_an_id),
        POM_TEST(test_request_mask_never_writes_beyond_its_room),
        POM_TEST(test_request_record_says_all_of_it),
        POM_TEST(test_request_record_of_asgi_has_the_same_keys_and_the_client),
        POM_TEST(test_request_record_of_nothing_is_whole),
        POM_TEST(test_request_record_names_the_route),
        POM_TEST(test_request_record_survives_hostile_bytes),
        POM_TEST(test_request_record_hides_secrets_of_a_query_that_was_cut),
        POM_TEST(test_request_routes_are_bounded),
    };
    if (pom_request_set_scrub(secret_words) != POM_OK) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
