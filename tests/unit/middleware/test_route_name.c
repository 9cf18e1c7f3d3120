/* Route names: rules, masks, the bucket for 404, and the cap. */
#include "tests/unit/support/test_support.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "middleware/route_name.h"

static pom_text_t text(const char *s) {
    return (pom_text_t){.data = s, .size = (uint32_t)strlen(s)};
}

static void test_route_mask_replaces_what_looks_like_an_id(void **state) {
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
        {"/p/the-history-of-all-hitherto-existing", // as long as a UUID
         "/p/the-history-of-all-hitherto-existing"},
        {"/p/a-very-long-article-name-1", "/p/<id>"},
        {"/p/a-very-long-article-name", "/p/a-very-long-article-name"},
        {"/t/eyJhbGciOiJIUzI1NiJ9", "/t/<id>"},
        {"/x/-7", "/x/<id>"},
        {"/log/2024-01-15", "/log/<id>"},
        {"/v/1.2.3", "/v/<id>"},
        {"/v1.2", "/v1.2"},
        {"/-._", "/-._"},
        {"/order-12345", "/<id>"},
        {"/covid19/summer2024", "/covid19/summer2024"},
        {"/u/ann@example.org", "/u/<id>"},
        {"/@ann", "/<id>"},
        {"/x/7.html", "/x/7.html"},
        {"/caf\xc3\xa9/8", "/caf\xc3\xa9/<id>"},
        {"/\xff\xfe/8", "/\xff\xfe/<id>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[256];
        size_t size = strlen(cases[i].path);
        char *exact = pom_alloc(size);
        memcpy(exact, cases[i].path, size);
        size_t used = pom_route_mask(exact, size, out, sizeof out);
        assert_int_equal(used, strlen(cases[i].want));
        assert_memory_equal(out, cases[i].want, used);
        pom_free(exact);
    }
}

static void test_route_mask_never_writes_beyond_its_room(void **state) {
    char path[2000];
    for (size_t i = 0; i < sizeof path; i++) {
        path[i] = i % 2 == 0 ? '/' : '1'; // each digit becomes four characters
    }
    for (size_t size = 0; size < sizeof path; size += 37) {
        for (size_t room = 0; room < 1100; room += 41) {
            char *out = pom_alloc(room);
            assert_true(pom_route_mask(path, size, out, room) <= room);
            pom_free(out);
        }
    }
}

/* acceptance: W19 */
static void test_route_name_is_the_rule_a_bucket_or_a_masked_path(void **state) {
    static const struct {
        const char *script_name, *path_info, *rule;
        int32_t status;
        const char *want;
    } cases[] = {
        {"", "/a/1", "/a/<int:n>", 200, "/a/<int:n>"},
        {"", "/a/1", "/a/<int:n>", 404, "/a/<int:n>"},       // found, and then missing something
        {"/m", "/a/1", "/m/a/<int:n>", 200, "/m/a/<int:n>"}, // the mount is in it already
        {"", "/a/1", "", 404, "<not found>"},
        {"", "/a/1", "", 200, "/a/<id>"},
        {"", "/a/1", "", 500, "/a/<id>"},
        {"/mount", "/a/1", "", 200, "/mount/a/<id>"},
        {"/mount", "", "", 200, "/mount"},
        {"", "", "", 200, "/"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pom_route_name_t name;
        pom_route_name(&name, text(cases[i].rule), text(cases[i].script_name),
                       text(cases[i].path_info), cases[i].status);
        assert_int_equal(name.size, strlen(cases[i].want));
        assert_memory_equal(name.text, cases[i].want, name.size);
    }
}

static void test_route_name_of_endless_text_fits(void **state) {
    static char endless[8192];
    memset(endless, 'r', sizeof endless);
    pom_text_t all = {.data = endless, .size = sizeof endless};
    pom_route_name_t name;
    pom_route_name(&name, all, text(""), text(""), 200);
    assert_int_equal(name.size, POM_ROUTE_NAME_MAX);
    pom_route_name(&name, text(""), all, all, 200);
    assert_int_equal(name.size, POM_ROUTE_PATH_MAX);
}

static void assert_is(const pom_route_name_t *name, const char *want) {
    assert_int_equal(name->size, strlen(want));
    assert_memory_equal(name->text, want, name->size);
}

/* acceptance: W19 */
static void test_route_names_of_100000_urls_are_bounded(void **state) {
    static pom_route_names_t names;
    static char seen[POM_ROUTES_MAX][64];
    // Ids, pages with their own names, files: what a crawler asks for.
    static const char *const forms[] = {"/user/%d/%d", "/page-x%x/%d", "/static/v%x/%d.css",
                                        "/%d/%d"};
    int64_t distinct = 0, others = 0;
    pom_route_name_t name;
    pom_route_name(&name, text(""), text(""), text("/known"), 200);
    pom_route_names_keep(&names, &name);
    for (int i = 0; i < 100000; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, forms[i % 4], i, i);
        pom_route_name(&name, text(""), text(""), text(path), 200);
        pom_route_names_keep(&names, &name);
        bool is_new = true;
        for (int64_t n = distinct; is_new && n-- > 0;) { // most repeat one of the last
            is_new = name.size != strlen(seen[n]) || memcmp(name.text, seen[n], name.size) != 0;
        }
        if (is_new) {
            assert_in_range(distinct, 0, POM_ROUTES_MAX - 1);
            memcpy(seen[distinct++], name.text, name.size);
        }
        others += name.size == 7 && memcmp(name.text, "<other>", 7) == 0;
    }
    assert_int_equal(names.count, POM_ROUTES_MAX);
    assert_int_equal(distinct, POM_ROUTES_MAX); // without /known, with <other>
    assert_int_equal(names.others, others);
    assert_in_range(others, 10000, 60000);
    // What had a name keeps it, and its requests are no others.
    pom_route_name(&name, text("/known"), text(""), text(""), 200);
    pom_route_names_keep(&names, &name);
    assert_is(&name, "/known");
    pom_route_name(&name, text("/fresh"), text(""), text(""), 200);
    pom_route_names_keep(&names, &name);
    assert_is(&name, "<other>");
    assert_int_equal(names.others, others + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_route_mask_replaces_what_looks_like_an_id),
        POM_TEST(test_route_mask_never_writes_beyond_its_room),
        POM_TEST(test_route_name_is_the_rule_a_bucket_or_a_masked_path),
        POM_TEST(test_route_name_of_endless_text_fits),
        POM_TEST(test_route_names_of_100000_urls_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
