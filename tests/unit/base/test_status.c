/* Status codes: names and texts come from the one list. */
#include "tests/unit/support/test_support.h"

#include "base/status.h"

#include <string.h>

static const pom_status_t all[] = {
#define X(name, value, text) POM_##name,
    POM_STATUS_LIST(X)
#undef X
};
enum { COUNT = sizeof all / sizeof all[0] };

static void test_status_name_is_that_of_the_list(void **state) {
    assert_string_equal(pom_status_name(POM_OK), "OK");
    assert_string_equal(pom_status_name(POM_ENOMEM), "ENOMEM");
    assert_string_equal(pom_status_name(POM_EUNSUPPORTED), "EUNSUPPORTED");
    assert_string_equal(pom_status_text(POM_ENOMEM), "out of memory");
}

static void test_status_failures_are_negative_and_distinct(void **state) {
    assert_int_equal(POM_OK, 0);
    for (int i = 0; i < COUNT; i++) {
        assert_true(all[i] == POM_OK || all[i] < 0);
        for (int j = 0; j < i; j++) {
            assert_int_not_equal(all[i], all[j]);
            assert_string_not_equal(pom_status_name(all[i]), pom_status_name(all[j]));
            assert_string_not_equal(pom_status_text(all[i]), pom_status_text(all[j]));
        }
    }
}

static void test_status_values_keep_their_meaning(void **state) {
    /* They appear in logs and counters of older releases. */
    assert_int_equal(POM_ENOMEM, -1);
    assert_int_equal(POM_EFULL, -2);
    assert_int_equal(POM_EINVAL, -3);
    assert_int_equal(POM_EIO, -4);
    assert_int_equal(POM_ECLOSED, -5);
    assert_int_equal(POM_ETIMEDOUT, -6);
    assert_int_equal(POM_EUNREADABLE, -7);
    assert_int_equal(POM_ETORN, -8);
    assert_int_equal(POM_ENOTFOUND, -9);
    assert_int_equal(POM_EUNSUPPORTED, -10);
}

static void test_status_outside_the_list_is_unknown(void **state) {
    static const int foreign[] = {1, -11, -32, 127};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        assert_string_equal(pom_status_name((pom_status_t)foreign[i]), "UNKNOWN");
        assert_string_equal(pom_status_text((pom_status_t)foreign[i]), "unknown status");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_status_name_is_that_of_the_list),
        POM_TEST(test_status_failures_are_negative_and_distinct),
        POM_TEST(test_status_values_keep_their_meaning),
        POM_TEST(test_status_outside_the_list_is_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
