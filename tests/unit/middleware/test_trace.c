/* Trace context: which headers count (test_request.c has the malformed ones), what is kept, what
 * goes on. */
#include "tests/unit/support/test_support.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "middleware/trace.h"

#define TRACE  "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00-" TRACE "-00f067aa0ba902b7-"

static const pom_id_t trace_id = {.hi = 0x4bf92f3577b34da6, .lo = 0xa3ce929d0e0e4736};

static pom_action_t *action_of(pom_id_t task_id) {
    pom_action_t *action = pom_calloc(1, sizeof *action);
    action->task_id = task_id;
    return action;
}

static size_t described(const pom_action_t *action, unsigned char *out, size_t room) {
    pom_value_writer_t writer;
    pom_value_begin(&writer, out, room);
    pom_value_map_begin(&writer);
    pom_trace_describe(action, &writer);
    pom_value_map_end(&writer);
    return pom_value_finish(&writer);
}

static bool contains(const unsigned char *bytes, size_t size, const char *text) {
    for (size_t i = 0; i + strlen(text) <= size; i++) {
        if (memcmp(bytes + i, text, strlen(text)) == 0) {
            return true;
        }
    }
    return false;
}

/* acceptance: PM20 */
static void test_trace_keeps_parent_and_flags_of_its_own_task(void **state) {
    (void)state;
    unsigned char out[256];
    pom_action_t *action = action_of(trace_id);
    assert_int_equal(pom_trace_flags(action), POM_TRACE_SAMPLED);
    size_t empty = described(action, out, sizeof out);
    assert_false(contains(out, empty, "span"));
    pom_trace_keep(action, PARENT "fe", strlen(PARENT "fe"));
    assert_int_equal(pom_trace_flags(action), 2); // unknown bits must not be sent on
    size_t size = described(action, out, sizeof out);
    assert_true(contains(out, size, "parent_span"));
    assert_true(contains(out, size, "00f067aa0ba902b7"));
    pom_free(action);
}

static void test_trace_of_another_task_says_nothing(void **state) {
    (void)state;
    static const char *const others[] = {PARENT "00", "", "00-", NULL};
    pom_action_t *action = action_of((pom_id_t){.hi = trace_id.hi, .lo = trace_id.lo + 1});
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        pom_trace_keep(action, others[i], others[i] == NULL ? 0 : strlen(others[i]));
        assert_int_equal(pom_trace_flags(action), POM_TRACE_SAMPLED);
    }
    pom_free(action);
}

static void test_trace_span_is_made_once_when_it_is_asked_for(void **state) {
    (void)state;
    unsigned char out[256];
    pom_action_t *action = action_of(trace_id);
    uint64_t span = pom_trace_span(action);
    assert_true(span != 0);
    assert_true(pom_trace_span(action) == span);
    size_t size = described(action, out, sizeof out);
    char text[17];
    (void)snprintf(text, sizeof text, "%016llx", (unsigned long long)span);
    assert_true(contains(out, size, text));
    assert_false(contains(out, size, "parent_span"));
    pom_free(action);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_trace_keeps_parent_and_flags_of_its_own_task),
        POM_TEST(test_trace_of_another_task_says_nothing),
        POM_TEST(test_trace_span_is_made_once_when_it_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
