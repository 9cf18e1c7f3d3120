/*
 * pom_id_parse on hostile texts: it reads request headers that anybody may send.
 *
 * Each text lies in a heap block of exactly its size, so the address sanitizer sees one byte too
 * many. The random part is seeded and compares with an oracle written the other way round.
 */
#include "tests/unit/support/test_support.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "base/id.h"

#include <string.h>

#define HI     UINT64_C(0x0123456789abcdef)
#define LO     UINT64_C(0x8edcba9876543210)
#define DASHED "01234567-89ab-cdef-8edc-ba9876543210"
#define PLAIN  "0123456789abcdef8edcba9876543210"

static const pom_id_t untouched = {77, 88};

static bool parse_exactly(const char *text, size_t size, pom_id_t *id) {
    char *block = pom_alloc(size);
    assert_non_null(block);
    if (size > 0) {
        memcpy(block, text, size);
    }
    *id = untouched;
    bool accepted = pom_id_parse(block, size, id);
    pom_free(block);
    return accepted;
}

static void test_id_parse_accepts_both_forms_in_any_case(void **state) {
    static const char *const texts[] = {
        DASHED,
        PLAIN,
        "01234567-89AB-CDEF-8EDC-BA9876543210",
        "0123456789ABCDEF8EDCBA9876543210",
        "01234567-89aB-CdEf-8eDc-bA9876543210",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        pom_id_t id;
        assert_true(parse_exactly(texts[i], strlen(texts[i]), &id));
        assert_true(id.hi == HI && id.lo == LO);
    }
}

static void test_id_parse_accepts_every_version_and_the_nil_id(void **state) {
    /* Ids of others (a trace id, a version 7 UUID) are taken as they are. */
    static const struct {
        const char *text;
        uint64_t hi, lo;
    } rows[] = {
        {"00000000-0000-0000-0000-000000000000", 0, 0},
        {"ffffffff-ffff-ffff-ffff-ffffffffffff", UINT64_MAX, UINT64_MAX},
        {"017f22e2-79b0-7cc3-98c4-dc0c0c07398f", UINT64_C(0x017f22e279b07cc3),
         UINT64_C(0x98c4dc0c0c07398f)},
        {"4bf92f3577b34da6a3ce929d0e0e4736", UINT64_C(0x4bf92f3577b34da6),
         UINT64_C(0xa3ce929d0e0e4736)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pom_id_t id;
        assert_true(parse_exactly(rows[i].text, strlen(rows[i].text), &id));
        assert_true(id.hi == rows[i].hi && id.lo == rows[i].lo);
    }
}

#define TEXT(literal) literal, sizeof literal - 1

static void test_id_parse_refuses_hostile_texts(void **state) {
    static const struct {
        const char *text;
        size_t size;
    } rows[] = {
        {TEXT("")},
        {TEXT("-")},
        {TEXT("0")},
        {TEXT("0123456789abcdef8edcba987654321")},        /* 31 */
        {TEXT("0123456789abcdef8edcba98765432100")},      /* 33 */
        {TEXT("01234567-89ab-cdef-8edc-ba987654321")},    /* 35 */
        {TEXT("01234567-89ab-cdef-8edc-ba98765432100")},  /* 37 */
        {TEXT("{01234567-89ab-cdef-8edc-ba9876543210}")}, /* as Windows writes it */
        {TEXT("urn:uuid:01234567-89ab-cdef-8edc-ba9876543210")},
        {TEXT("012345678-9ab-cdef-8edc-ba9876543210")}, /* a dash out of place */
        {TEXT("0123456-789ab-cdef-8edc-ba9876543210")},
        {TEXT("01234567-89ab-cdef-8edcb-a9876543210")},
        {TEXT("01234567089ab-cdef-8edc-ba9876543210")}, /* a digit for each dash */
        {TEXT("01234567-89ab0cdef-8edc-ba9876543210")},
        {TEXT("01234567-89ab-cdef08edc-ba9876543210")},
        {TEXT("01234567-89ab-cdef-8edc0ba9876543210")},
        {TEXT("0123456789abcdef8edcba98765432100123")}, /* 36 digits */
        {TEXT("01234567-9ab-def-edc-a9876543210")},     /* 32 with dashes */
        {TEXT("--------------------------------")},
        {TEXT("------------------------------------")},
        {TEXT("01234567_89ab_cdef_8edc_ba9876543210")},
        {TEXT("01234567-89ab-cdef-8edc-ba987654321g")},
        {TEXT("G1234567-89ab-cdef-8edc-ba9876543210")},
        {TEXT("0x234567-89ab-cdef-8edc-ba9876543210")}, /* what strtoull would take */
        {TEXT("+1234567-89ab-cdef-8edc-ba9876543210")},
        {TEXT(" 1234567-89ab-cdef-8edc-ba9876543210")},
        {TEXT("01234567-89ab-cdef-8edc-ba987654321 ")},
        {TEXT("01234567-89ab-cdef-8edc-ba98765432\r\n")}, /* header injection */
        {TEXT("0123456789abcdef8edcba98765432\r\n")},
        {TEXT("0123456789abcdef\0edcba9876543210")}, /* NUL inside */
        {TEXT("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")},
        {TEXT("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"
              "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80")},
        {TEXT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
              "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")},
        /* Full-width digits, superscripts and minus signs that some isdigit takes. */
        {TEXT("\xef\xbc\x90\xef\xbc\x91\xef\xbc\x92\xef\xbc\x93\xef\xbc\x94\xef\xbc\x95\xef\xbc"
              "\x96\xef\xbc\x97\xef\xbc\x98\xef\xbc\x99"
              "01")},
        {TEXT("\xb2\xb3\xb9\xb2\xb3\xb9\xb2\xb3\xb9\xb2\xb3\xb9\xb2\xb3\xb9\xb2"
              "\xb3\xb9\xb2\xb3\xb9\xb2\xb3\xb9\xb2\xb3\xb9\xb2\xb3\xb9\xb2\xb3")},
        {TEXT("01234567\xad"
              "89ab\xad"
              "cdef\xad"
              "8edc\xad"
              "ba9876543210")}, /* soft hyphens */
        {TEXT("%30123456789abcdef8edcba987654321")},
        {TEXT("<script>alert(1)</script>0123456")},
        {TEXT("../../../../../../../etc/passwd0")},
        {TEXT("' OR 1=1 --0123456789abcdef01234")},
        {TEXT("%n%n%n%n%n%n%n%n%n%n%n%n%n%n%n%n")},
        {TEXT("/:@`g/:@`g/:@`g/:@`g/:@`g/:@`gG/")}, /* neighbours of the digit ranges */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pom_id_t id;
        if (parse_exactly(rows[i].text, rows[i].size, &id)) {
            fail_msg("row %zu accepted: %s", i, rows[i].text);
        }
        assert_true(id.hi == untouched.hi && id.lo == untouched.lo);
    }
}

static void test_id_parse_refuses_every_wrong_length(void **state) {
    char digits[200];
    memset(digits, 'a', sizeof digits);
    for (size_t size = 0; size <= sizeof digits; size++) {
        pom_id_t id;
        assert_int_equal(parse_exactly(digits, size, &id), size == 32);
    }
    /* Lengths that a header may claim; the text behind must not even be looked at. */
    pom_id_t id = untouched;
    assert_false(pom_id_parse(NULL, 0, &id));
    assert_false(pom_id_parse(NULL, SIZE_MAX, &id));
    assert_false(pom_id_parse(NULL, (size_t)1 << 32 | 32, &id));
}

static void test_id_parse_knows_every_byte_at_every_place(void **state) {
    static const char *const forms[] = {PLAIN, DASHED};
    for (int form = 0; form < 2; form++) {
        size_t size = strlen(forms[form]);
        for (size_t place = 0; place < size; place++) {
            for (int byte = 0; byte < 256; byte++) {
                char text[40];
                memcpy(text, forms[form], size);
                text[place] = (char)byte;
                bool digit = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') ||
                             (byte >= 'A' && byte <= 'F');
                bool expected = forms[form][place] == '-' ? byte == '-' : digit;
                pom_id_t id = untouched;
                assert_int_equal(pom_id_parse(text, size, &id), expected);
            }
        }
    }
}

/* The oracle: what is accepted is, without its dashes and case, what formatting the result
 * gives. */
static bool is_faithful(const char *text, size_t size, pom_id_t id) {
    char formatted[POM_ID_TEXT];
    pom_id_format(id, formatted);
    size_t at = 0;
    for (size_t place = 0; place < POM_ID_TEXT; place++) {
        if (formatted[place] == '-' && size == 32) {
            continue;
        }
        char c = text[at++];
        if (c >= 'A' && c <= 'F') {
            c = (char)(c | 0x20);
        }
        if (c != formatted[place]) {
            return false;
        }
    }
    return at == size;
}

static void test_id_parse_is_faithful_on_mutated_texts(void **state) {
    static const char alphabet[] = "0123456789abcdefABCDEF-gG \t\r\n:/@`\x7f\x80\xff";
    uint64_t seed = 20261120;
    int accepted = 0;
    for (int round = 0; round < 200000; round++) {
        seed = pom_hash_mix(seed + 0x9e3779b97f4a7c15U);
        char text[40] = DASHED "xyz";
        size_t size = POM_ID_TEXT;
        if (seed & 1) {
            memcpy(text, PLAIN, 32);
            size = 32;
        }
        int edits = (int)(seed >> 1 & 3);
        for (int i = 0; i < edits; i++) {
            uint64_t r = pom_hash_mix(seed + (uint64_t)i);
            text[r % size] = alphabet[(r >> 32) % (sizeof alphabet - 1)];
        }
        if ((seed >> 8 & 15) == 0) {
            size += (size_t)(seed >> 12 & 3); /* At most 39 of 40 bytes. */
        }
        pom_id_t id;
        if (parse_exactly(text, size, &id)) {
            accepted++;
            assert_true(is_faithful(text, size, id));
        } else {
            assert_true(id.hi == untouched.hi && id.lo == untouched.lo);
        }
    }
    /* A quarter has no edit at all and nearly all of those the right length; the oracle had
     * work. */
    assert_true(accepted > 200000 / 5);
    assert_true(accepted < 200000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_id_parse_accepts_both_forms_in_any_case),
        POM_TEST(test_id_parse_accepts_every_version_and_the_nil_id),
        POM_TEST(test_id_parse_refuses_hostile_texts),
        POM_TEST(test_id_parse_refuses_every_wrong_length),
        POM_TEST(test_id_parse_knows_every_byte_at_every_place),
        POM_TEST(test_id_parse_is_faithful_on_mutated_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
