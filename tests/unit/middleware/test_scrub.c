/* Which keys are secret, in queries and in fields. */
#define _GNU_SOURCE // memmem
#include "tests/unit/support/test_support.h"

#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "middleware/scrub.h"

static const char *const secret_words[] = {"password", "token", "secret", "key ",
                                           "auth ",    " cvv ", NULL};

/* acceptance: PM21 */
static void test_scrub_finds_words_in_keys_as_people_read_them(void **state) {
    static const struct {
        const char *key;
        bool secret;
    } cases[] = {
        {"password", true},
        {"PASSWORD", true},
        {"user[password2]", true},
        {"X-Auth", true},
        {"HTTP_X_AUTH_TOKEN", true},
        {"basic_auth", true},
        {"author", false},
        {"authority", false},
        {"autha", false},
        {"authZ", false},
        {"authz", false},
        {"auth0", false},
        {"auth9", false},
        {"auth{", true},
        {"api_key", true},
        {"api-key", true},
        {"apiKey", true},
        {"key", true},
        {"key.id", true},
        {"keyword", false},
        {"keys", false},
        {"cvv", true},
        {"card cvv", true},
        {"xcvvx", false},
        {"cvv2", false},
        {"pass%77ord", false}, // encoding is the query's
        {"", false},
        {"\xc3\xa9token", true},
        {"to\0ken", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool secret = pom_scrub_is_secret(cases[i].key, strlen(cases[i].key));
        if (secret != cases[i].secret) {
            fail_msg("%s", cases[i].key);
        }
    }
    char longest[300];
    memset(longest, 'k', sizeof longest);
    assert_false(pom_scrub_is_secret(longest, 125));
    assert_true(pom_scrub_is_secret(longest, 126)); // nobody reads it: a word may stand behind
    assert_true(pom_scrub_is_secret(longest, sizeof longest));
}

static void test_scrub_says_when_its_words_change(void **state) {
    static const char *const other[] = {"ssn", NULL};
    const void *before = pom_scrub_words();
    assert_non_null(before);
    assert_int_equal(pom_scrub_set(other), POM_OK);
    assert_ptr_not_equal(pom_scrub_words(), before);
    assert_true(pom_scrub_is_secret("ssn", 3));
    assert_int_equal(pom_scrub_set(NULL), POM_OK);
    assert_null(pom_scrub_words());
    assert_false(pom_scrub_is_secret("password", 8));
    assert_int_equal(pom_scrub_set(secret_words), POM_OK);
    assert_ptr_equal(pom_scrub_words(), before);
}

/* acceptance: PM21 */
static void test_scrub_query_masks_values_of_secret_keys(void **state) {
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
        {"api_key=1&API-Key=2&apikey=3", "api_key=[scrubbed]&API-Key=[scrubbed]&apikey=[scrubbed]"},
        {"keyword=1&author=2", "keyword=1&author=2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[256];
        size_t size = strlen(cases[i].query);
        char *exact = pom_alloc(size);
        memcpy(exact, cases[i].query, size);
        size_t used = pom_scrub_query(exact, size, out, sizeof out);
        assert_int_equal(used, strlen(cases[i].want));
        assert_memory_equal(out, cases[i].want, used);
        pom_free(exact);
    }
}

static void test_scrub_query_masks_behind_a_very_long_key(void **state) {
    char query[400], out[800];
    for (size_t pad = 100; pad < 300; pad++) {
        memset(query, 'k', pad);
        memcpy(query + pad, "password=hunter2", 16);
        size_t used = pom_scrub_query(query, pad + 16, out, sizeof out);
        assert_null(memmem(out, used, "hunter2", 7));
        assert_non_null(memmem(out, used, "=[scrubbed]", 11));
    }
}

static void test_scrub_query_never_writes_beyond_its_room(void **state) {
    static const char query[] = "a=1&password=hunter2&token=hunter2&b=2";
    for (size_t room = 0; room < 80; room++) {
        char *out = pom_alloc(room);
        size_t used = pom_scrub_query(query, sizeof query - 1, out, room);
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
        assert_true(pom_scrub_query(noise, random % 64, out, random % 100) <= random % 100);
    }
}

static void test_scrub_takes_other_words(void **state) {
    static const char *const other[] = {"pin", NULL}, *const none[] = {NULL};
    char out[100];
    assert_int_equal(pom_scrub_set(other), POM_OK);
    size_t used = pom_scrub_query("pin=1&token=2", 13, out, sizeof out);
    assert_memory_equal(out, "pin=[scrubbed]&token=2", used);
    assert_int_equal(pom_scrub_set(none), POM_OK);
    used = pom_scrub_query("pin=1&token=2", 13, out, sizeof out);
    assert_memory_equal(out, "pin=1&token=2", used);
    assert_int_equal(pom_scrub_set(NULL), POM_OK);
    used = pom_scrub_query("pin=1&token=2", 13, out, sizeof out);
    assert_memory_equal(out, "pin=1&token=2", used);
    int64_t live = pom_alloc_live_bytes();
    for (int i = 0; i < 100; i++) { // lists are kept, but each only once
        assert_int_equal(pom_scrub_set(i % 2 == 0 ? other : secret_words), POM_OK);
    }
    assert_int_equal(pom_alloc_live_bytes(), live);
    static const char *const more[] = {"fresh", NULL};
    pom_alloc_fail_from(1);
    assert_int_equal(pom_scrub_set(more), POM_ENOMEM);
    pom_alloc_fail_from(0);
    used = pom_scrub_query("pin=1&token=2", 13, out, sizeof out); // the words in force stay
    assert_memory_equal(out, "pin=1&token=[scrubbed]", used);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_scrub_finds_words_in_keys_as_people_read_them),
        // word lists are kept for good
        cmocka_unit_test(test_scrub_says_when_its_words_change),
        POM_TEST(test_scrub_query_masks_values_of_secret_keys),
        POM_TEST(test_scrub_query_masks_behind_a_very_long_key),
        POM_TEST(test_scrub_query_never_writes_beyond_its_room),
        cmocka_unit_test(test_scrub_takes_other_words),
    };
    if (pom_scrub_set(secret_words) != POM_OK) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
