/*
 * Values: what the writer keeps with and without room, and that the replay is whole whatever the
 * bytes are.
 *
 * Storage is allocated at its exact size, so that the sanitizer sees a byte too many.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "profiles/value.h"
#include "trace_emitter.h"

static trace_t trace;

static const char *replay(const void *data, size_t size, pom_status_t expected) {
    trace_init(&trace);
    assert_int_equal(pom_value_emit(data, size, &trace.emitter), expected);
    assert_true(trace_is_whole(&trace));
    return trace.text;
}

/* Numbers from a seed: each case repeats exactly. */
static uint64_t next_random(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return pom_hash_mix(*state);
}

static void put_sample_message(pom_value_writer_t *w) {
    pom_value_map_begin(w);
    pom_value_key(w, "step", 4);
    pom_value_integer(w, 300);
    pom_value_key(w, "name", 4);
    pom_value_text(w, "checkout of the whole basket", 28);
    pom_value_key(w, "tags", 4);
    pom_value_list_begin(w);
    pom_value_boolean(w, true);
    pom_value_null(w);
    pom_value_list_end(w);
    pom_value_key(w, "ratio", 5);
    pom_value_number(w, 0.5);
    pom_value_map_end(w);
}

static void test_value_replays_every_type(void **state) {
    unsigned char storage[256];
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    pom_value_map_begin(&w);
    pom_value_key(&w, "a", 1);
    pom_value_list_begin(&w);
    pom_value_null(&w);
    pom_value_boolean(&w, false);
    pom_value_boolean(&w, true);
    pom_value_integer(&w, 0);
    pom_value_integer(&w, -1);
    pom_value_integer(&w, INT64_MIN);
    pom_value_integer(&w, INT64_MAX);
    pom_value_number(&w, -2.25);
    pom_value_seconds(&w, -1500);
    pom_value_seconds(&w, INT64_MAX);
    pom_value_text(&w, "", 0);
    pom_value_text(&w, NULL, 0);
    pom_value_text(&w, "x y", 3);
    pom_value_map_begin(&w);
    pom_value_map_end(&w);
    pom_value_list_end(&w);
    pom_value_key(&w, "", 0);
    pom_value_integer(&w, 7);
    pom_value_map_end(&w);
    size_t size = pom_value_finish(&w);
    assert_false(w.cut);
    assert_string_equal(replay(storage, size, POM_OK),
                        "{a:[null false true 0 -1 -9223372036854775808 9223372036854775807 -2.25 "
                        "-1500ns 9223372036854775807ns \"\" \"\" \"x y\" {}] "
                        ":7}");
}

static void test_value_cuts_long_text_between_characters(void **state) {
    /* Every phase of a character against the cut: 0 to 3 letters before the characters of 2, 3
     * and 4 bytes. */
    static const char *const characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    static char text[POM_VALUE_TEXT_MAX + 64];
    static unsigned char storage[POM_VALUE_TEXT_MAX + 64];
    for (size_t c = 0; c < 3; c++) {
        for (size_t letters = 0; letters < 4; letters++) {
            size_t width = strlen(characters[c]), size = 0;
            memset(text, 'x', letters);
            for (size = letters; size + width <= sizeof text; size += width) {
                memcpy(text + size, characters[c], width);
            }
            pom_value_writer_t w;
            pom_value_begin(&w, storage, sizeof storage);
            pom_value_text(&w, text, size);
            assert_true(w.cut);
            const char *shown = replay(storage, pom_value_finish(&w), POM_OK);
            size_t kept = strlen(shown) - 2 - 3; /* quotes, ellipsis */
            assert_true(kept <= POM_VALUE_TEXT_MAX - 3 && kept + width > POM_VALUE_TEXT_MAX - 3);
            assert_int_equal((kept - letters) % width, 0);
            assert_memory_equal(shown + 1, text, kept);
            assert_string_equal(shown + 1 + kept, "\xe2\x80\xa6\"");
        }
    }
}

static void test_value_cuts_text_that_is_not_utf8_anywhere(void **state) {
    static char text[POM_VALUE_TEXT_MAX + 1];
    static unsigned char storage[POM_VALUE_TEXT_MAX + 64];
    memset(text, 0x80, sizeof text);
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    pom_value_text(&w, text, sizeof text);
    /* tag, two bytes of length, the text */
    assert_int_equal(pom_value_finish(&w), 1 + 2 + POM_VALUE_TEXT_MAX);
}

static void test_value_keeps_text_of_the_largest_size_whole(void **state) {
    static char text[POM_VALUE_TEXT_MAX];
    static unsigned char storage[POM_VALUE_TEXT_MAX + 3];
    memset(text, 'x', sizeof text);
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    pom_value_text(&w, text, sizeof text);
    assert_false(w.cut);
    assert_int_equal(strlen(replay(storage, pom_value_finish(&w), POM_OK)), POM_VALUE_TEXT_MAX + 2);
}

static void test_value_replaces_what_nests_too_deep(void **state) {
    unsigned char storage[512];
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    for (int i = 0; i < POM_VALUE_DEPTH_MAX + 3; i++) {
        pom_value_list_begin(&w);
        pom_value_integer(&w, i);
    }
    for (int i = 0; i < POM_VALUE_DEPTH_MAX + 3; i++) {
        pom_value_list_end(&w);
    }
    assert_true(w.cut);
    assert_string_equal(
        replay(storage, pom_value_finish(&w), POM_OK),
        "[0 [1 [2 [3 [4 [5 [6 [7 [8 [9 [10 [11 [12 [13 [14 [15 \"...\"]]]]]]]]]]]]]]]]");
    assert_int_equal(trace.deepest, POM_VALUE_DEPTH_MAX);
}

static void test_value_goes_on_behind_what_nests_too_deep(void **state) {
    unsigned char storage[512];
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    for (int i = 0; i < POM_VALUE_DEPTH_MAX; i++) {
        pom_value_list_begin(&w);
    }
    pom_value_map_begin(&w);
    pom_value_key(&w, "lost", 4);
    pom_value_map_begin(&w);
    pom_value_map_end(&w);
    pom_value_map_end(&w);
    pom_value_integer(&w, 5);
    assert_string_equal(replay(storage, pom_value_finish(&w), POM_OK),
                        "[[[[[[[[[[[[[[[[\"...\" 5]]]]]]]]]]]]]]]]");
}

static void test_value_drops_whole_entries_without_room(void **state) {
    static const struct {
        size_t room;
        const char *shown;
        uint32_t cut; /* what goes with a container counts once */
    } cases[] = {
        {0, "null", 1},
        {1, "null", 1},
        {2, "{}", 4}, /* the map and its end */
        {9, "{}", 4},
        {10, "{tags:[]}",
         5}, /* key 6, list and its end: an entry that fits stays though others went */
        {11, "{step:300}", 3}, /* key 6 and 300 in 3 bytes */
        /* 11, key 6, tag and length 3, stump: 7 bytes would be too short to tell anything, 8 are
         * cut to 5 and ellipsis */
        {27, "{step:300 tags:[true null]}", 2},
        {28, "{step:300 name:\"check\xe2\x80\xa6\"}", 3},
        {400, "{step:300 name:\"checkout of the whole basket\" tags:[true null] ratio:0.5}", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char *storage = malloc(cases[i].room > 0 ? cases[i].room : 1);
        pom_value_writer_t w;
        pom_value_begin(&w, storage, cases[i].room);
        put_sample_message(&w);
        assert_string_equal(replay(storage, pom_value_finish(&w), POM_OK), cases[i].shown);
        assert_int_equal(w.cut, cases[i].cut);
        free(storage);
    }
}

static void test_value_fits_any_room(void **state) {
    unsigned char whole[256];
    pom_value_writer_t w;
    pom_value_begin(&w, whole, sizeof whole);
    put_sample_message(&w);
    size_t needed = pom_value_finish(&w);
    for (size_t room = 0; room <= needed + 1; room++) {
        unsigned char *storage = malloc(room > 0 ? room : 1);
        pom_value_begin(&w, storage, room);
        put_sample_message(&w);
        size_t size = pom_value_finish(&w);
        assert_true(size <= room);
        assert_int_equal(w.cut > 0, size < needed);
        (void)replay(storage, size, POM_OK);
        free(storage);
    }
}

static const pom_value_key_t longest_key = POM_VALUE_KEY("fifteen letters"),
                             empty_key = POM_VALUE_KEY("");

/* Entries under known keys, by the short way and by the two calls that it stands for. */
static void put_entries(pom_value_writer_t *w, bool short_way, const char *text, size_t size,
                        int64_t number) {
    const pom_value_key_t *keys[] = {&longest_key, &empty_key};
    for (size_t i = 0; i < 2; i++) {
        if (short_way) {
            pom_value_entry_text(w, keys[i], text, size);
            pom_value_entry_integer(w, keys[i], number);
            pom_value_entry_seconds(w, keys[i], -number);
        } else {
            pom_value_key(w, keys[i]->text, keys[i]->size);
            pom_value_text(w, text, size);
            pom_value_key(w, keys[i]->text, keys[i]->size);
            pom_value_integer(w, number);
            pom_value_key(w, keys[i]->text, keys[i]->size);
            pom_value_seconds(w, -number);
        }
    }
}

/* In a map, behind a key that waits for its value, in a list, and outside of everything. */
static size_t put_entries_everywhere(void *storage, size_t room, bool short_way, const char *text,
                                     size_t size, int64_t number, bool *cut) {
    pom_value_writer_t w;
    pom_value_begin(&w, storage, room);
    pom_value_map_begin(&w);
    put_entries(&w, short_way, text, size, number);
    pom_value_key(&w, "waits", 5);
    put_entries(&w, short_way, text, size, number);
    pom_value_key(&w, "list", 4);
    pom_value_list_begin(&w);
    put_entries(&w, short_way, text, size, number);
    pom_value_list_end(&w);
    pom_value_map_end(&w);
    put_entries(&w, short_way, text, size, number);
    *cut = w.cut;
    return pom_value_finish(&w);
}

static void test_value_entries_of_known_keys_are_key_and_value(void **state) {
    static char text[POM_VALUE_TEXT_MAX + 2];
    static unsigned char expected[8 * sizeof text];
    memset(text, 'x', sizeof text);
    static const struct {
        size_t size;
        int64_t number;
    } cases[] = {{0, 0}, {1, -1}, {127, 63}, {128, INT64_MIN + 1}, {200, INT64_MAX}};
    bool cut, cut_expected;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t all = put_entries_everywhere(expected, sizeof expected, false, text, cases[i].size,
                                            cases[i].number, &cut_expected);
        for (size_t room = 0; room <= all + 64; room++) {
            unsigned char *storage = malloc(room > 0 ? room : 1);
            size_t size = put_entries_everywhere(storage, room, true, text, cases[i].size,
                                                 cases[i].number, &cut);
            assert_int_equal(size,
                             put_entries_everywhere(expected, room, false, text, cases[i].size,
                                                    cases[i].number, &cut_expected));
            assert_memory_equal(storage, expected, size);
            assert_int_equal(cut, cut_expected);
            free(storage);
        }
    }
    for (size_t size = POM_VALUE_TEXT_MAX - 1; size <= POM_VALUE_TEXT_MAX + 1; size++) {
        static unsigned char storage[sizeof expected];
        size_t used = put_entries_everywhere(storage, sizeof storage, true, text, size, 1, &cut);
        assert_int_equal(used, put_entries_everywhere(expected, sizeof expected, false, text, size,
                                                      1, &cut_expected));
        assert_memory_equal(storage, expected, used);
        assert_int_equal(cut, cut_expected);
    }
}

static void test_value_closes_what_is_open(void **state) {
    unsigned char storage[64];
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    pom_value_map_begin(&w);
    pom_value_key(&w, "a", 1);
    pom_value_list_begin(&w);
    pom_value_map_begin(&w);
    pom_value_key(&w, "no value", 8);
    assert_string_equal(replay(storage, pom_value_finish(&w), POM_OK), "{a:[{}]}");
}

static void test_value_ignores_calls_out_of_order(void **state) {
    unsigned char storage[64];
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    pom_value_list_end(&w);
    pom_value_key(&w, "top", 3);
    pom_value_map_begin(&w);
    pom_value_integer(&w, 1); /* without a key */
    pom_value_list_begin(&w);
    pom_value_integer(&w, 2);
    pom_value_list_end(&w);
    pom_value_key(&w, "first", 5);
    pom_value_key(&w, "second", 6);
    pom_value_integer(&w, 3);
    pom_value_map_end(&w);
    pom_value_map_end(&w);
    pom_value_integer(&w, 4); /* a second value */
    assert_true(w.cut);
    assert_string_equal(replay(storage, pom_value_finish(&w), POM_OK), "{second:3}");
}

static void test_value_entries_join_an_open_map(void **state) {
    unsigned char storage[256];
    pom_value_writer_t w;
    pom_value_begin(&w, storage, sizeof storage);
    put_sample_message(&w);
    size_t size = pom_value_finish(&w);
    trace_init(&trace);
    trace_map_begin(&trace.emitter);
    assert_int_equal(pom_value_emit_entries(storage, size, &trace.emitter), POM_OK);
    assert_int_equal(pom_value_emit_entries(NULL, 0, &trace.emitter), POM_OK);
    assert_int_equal(pom_value_emit_entries("\0", 1, &trace.emitter),
                     POM_EINVAL); /* a null is no map */
    trace_map_end(&trace.emitter);
    assert_true(trace_is_whole(&trace));
    assert_string_equal(
        trace.text, "{step:300 name:\"checkout of the whole basket\" tags:[true null] ratio:0.5}");
}

static void test_value_entries_of_a_stream_join_a_map_being_written(void **state) {
    const char *const none = NULL;
    unsigned char first[256];
    pom_value_writer_t w;
    pom_value_begin(&w, first, sizeof first);
    put_sample_message(&w);
    size_t size = pom_value_finish(&w);
    for (size_t room = 0; room < 256; room++) {
        unsigned char *storage = malloc(room > 0 ? room : 1);
        pom_value_begin(&w, storage, room);
        pom_value_map_begin(&w);
        pom_value_entries(&w, first, size, &none);
        pom_value_entries(&w, NULL, 0, &none);
        pom_value_entries(&w, "\0\0\0", 3, &none); /* no map */
        pom_value_key(&w, "z", 1);
        pom_value_entries(&w, first, size, &none); /* a value is due, not entries */
        pom_value_integer(&w, 9);
        const char *shown = replay(storage, pom_value_finish(&w), POM_OK);
        if (room >= size + 5) { /* key: tag, length, letter; value: tag, byte */
            assert_string_equal(shown, "{step:300 name:\"checkout of the whole basket\" "
                                       "tags:[true null] ratio:0.5 z:9}");
            assert_false(w.cut);
        } else {
            assert_true(w.cut);
        }
        free(storage);
    }
}

/* A list is cut off, and the byte behind would seem to be its end. */
static void test_value_entries_end_where_their_stream_does(void **state) {
    const char *const none = NULL;
    unsigned char first[16], storage[64];
    pom_value_writer_t w;
    pom_value_begin(&w, first, sizeof first);
    pom_value_map_begin(&w);
    pom_value_key(&w, "k", 1);
    pom_value_list_begin(&w);
    size_t size = pom_value_finish(&w);
    pom_value_begin(&w, storage, sizeof storage);
    pom_value_map_begin(&w);
    pom_value_entries(&w, first, size - 1, &none);
    assert_int_equal(w.cut, 1);
    assert_string_equal(replay(storage, pom_value_finish(&w), POM_OK), "{}");
}

static void test_value_entries_stay_behind_when_their_key_is_taken(void **state) {
    static const char *const taken[] = {"tags", "step", "ratio", "tag", NULL};
    unsigned char first[256], storage[256];
    pom_value_writer_t w;
    pom_value_begin(&w, first, sizeof first);
    put_sample_message(&w);
    size_t size = pom_value_finish(&w);
    pom_value_begin(&w, storage, sizeof storage);
    pom_value_map_begin(&w);
    pom_value_entries(&w, first, size, taken);
    pom_value_key(&w, "tags", 4);
    pom_value_integer(&w, 9);
    const char *shown = replay(storage, pom_value_finish(&w), POM_OK);
    assert_string_equal(shown, "{name:\"checkout of the whole basket\" tags:9}");
    assert_false(w.cut);
    for (size_t at = size - 2; at > 0;
         at--) { /* a damaged stream gives what is whole before the damage */
        first[at] = 0x7f;
        pom_value_begin(&w, storage, sizeof storage);
        pom_value_map_begin(&w);
        pom_value_entries(&w, first, size, taken);
        (void)replay(storage, pom_value_finish(&w), POM_OK);
    }
}

static void test_value_random_calls_stay_well_formed(void **state) {
    static const char text[] = "h\xc3\xa9llo w\xe2\x82\xacrld, this is some text to cut";
    for (uint64_t seed = 0; seed < 4000; seed++) {
        uint64_t random = seed;
        size_t room = next_random(&random) % 200;
        unsigned char *storage = malloc(room > 0 ? room : 1);
        pom_value_writer_t w;
        pom_value_begin(&w, storage, room);
        for (uint64_t calls = next_random(&random) % 120; calls > 0; calls--) {
            uint64_t r = next_random(&random);
            size_t size = (r >> 8) % (sizeof text);
            switch (r % 12) {
            case 0:
            case 1:
                pom_value_map_begin(&w);
                break;
            case 2:
                pom_value_map_end(&w);
                break;
            case 3:
                pom_value_list_begin(&w);
                break;
            case 4:
                pom_value_list_end(&w);
                break;
            case 5:
            case 6:
            case 7:
                pom_value_key(&w, text, size % 9);
                break;
            case 8:
                pom_value_text(&w, text, size);
                break;
            case 9:
                pom_value_integer(&w, (int64_t)(r >> (r % 60)));
                break;
            case 10:
                pom_value_number(&w, (double)r);
                break;
            default:
                pom_value_null(&w);
                break;
            }
            assert_true(w.size + (size_t)w.depth <= room);
        }
        size_t size = pom_value_finish(&w);
        assert_true(size <= room);
        (void)replay(storage, size, POM_OK);
        free(storage);
    }
}

/* Both ways of replaying bytes that mean nothing. */
static void replay_anything(const unsigned char *data, size_t size) {
    trace_init(&trace);
    (void)pom_value_emit(data, size, &trace.emitter);
    assert_true(trace_is_whole(&trace));
    assert_true(trace.deepest <= POM_VALUE_DEPTH_MAX);
    trace_init(&trace);
    trace_map_begin(&trace.emitter);
    (void)pom_value_emit_entries(data, size, &trace.emitter);
    trace_map_end(&trace.emitter);
    assert_true(trace_is_whole(&trace));
}

static void test_value_replay_survives_random_bytes(void **state) {
    for (uint64_t seed = 0; seed < 20000; seed++) {
        uint64_t random = seed;
        size_t size = next_random(&random) % 64;
        unsigned char *data = malloc(size > 0 ? size : 1);
        for (size_t i = 0; i < size; i++) {
            /* Mostly tags: bytes of any value end at once. */
            uint64_t r = next_random(&random);
            data[i] = (unsigned char)(r % 4 != 0 ? (r >> 8) % 12 : r >> 8);
        }
        replay_anything(data, size);
        free(data);
    }
}

static void test_value_replay_survives_damage(void **state) {
    unsigned char whole[256];
    pom_value_writer_t w;
    pom_value_begin(&w, whole, sizeof whole);
    put_sample_message(&w);
    size_t size = pom_value_finish(&w);
    for (size_t kept = 0; kept < size; kept++) { /* every cut */
        unsigned char *data = malloc(kept > 0 ? kept : 1);
        memcpy(data, whole, kept);
        replay_anything(data, kept);
        (void)replay(data, kept, kept == 0 ? POM_OK : POM_EINVAL);
        free(data);
    }
    unsigned char *data = malloc(size);
    for (size_t at = 0; at < size; at++) { /* every value of every byte */
        memcpy(data, whole, size);
        for (int byte = 0; byte < 256; byte++) {
            data[at] = (unsigned char)byte;
            replay_anything(data, size);
        }
    }
    free(data);
}

static void test_value_replay_refuses_what_nests_too_deep(void **state) {
    unsigned char data[64];
    memset(data, 7, sizeof data); /* lists in lists */
    trace_init(&trace);
    assert_int_equal(pom_value_emit(data, sizeof data, &trace.emitter), POM_EINVAL);
    assert_true(trace_is_whole(&trace));
    assert_int_equal(trace.deepest, POM_VALUE_DEPTH_MAX);
}

static void test_value_replay_refuses_an_endless_length(void **state) {
    unsigned char data[1 + 11] = {3}; /* an integer of 11 bytes; 10 hold 64 bits */
    memset(data + 1, 0x80, 10);
    assert_string_equal(replay(data, sizeof data, POM_EINVAL), "null");
}

static void test_value_empty_text_needs_its_room(void **state) {
    unsigned char storage[2];
    pom_value_writer_t w;
    pom_value_begin(&w, storage, 1);
    pom_value_text(&w, "", 0);
    assert_int_equal(pom_value_finish(&w), 0);
    pom_value_begin(&w, storage, 2);
    pom_value_text(&w, "", 0);
    assert_int_equal(pom_value_finish(&w), 2);
}

static void test_value_replay_reports_trailing_bytes(void **state) {
    assert_string_equal(replay("\1\1", 2, POM_EINVAL), "false");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_value_replays_every_type),
        cmocka_unit_test(test_value_cuts_long_text_between_characters),
        cmocka_unit_test(test_value_cuts_text_that_is_not_utf8_anywhere),
        cmocka_unit_test(test_value_keeps_text_of_the_largest_size_whole),
        cmocka_unit_test(test_value_replaces_what_nests_too_deep),
        cmocka_unit_test(test_value_goes_on_behind_what_nests_too_deep),
        cmocka_unit_test(test_value_drops_whole_entries_without_room),
        cmocka_unit_test(test_value_fits_any_room),
        cmocka_unit_test(test_value_entries_of_known_keys_are_key_and_value),
        cmocka_unit_test(test_value_closes_what_is_open),
        cmocka_unit_test(test_value_ignores_calls_out_of_order),
        cmocka_unit_test(test_value_entries_join_an_open_map),
        cmocka_unit_test(test_value_entries_of_a_stream_join_a_map_being_written),
        cmocka_unit_test(test_value_entries_end_where_their_stream_does),
        cmocka_unit_test(test_value_entries_stay_behind_when_their_key_is_taken),
        cmocka_unit_test(test_value_random_calls_stay_well_formed),
        cmocka_unit_test(test_value_replay_survives_random_bytes),
        cmocka_unit_test(test_value_replay_survives_damage),
        cmocka_unit_test(test_value_replay_refuses_what_nests_too_deep),
        cmocka_unit_test(test_value_replay_refuses_an_endless_length),
        cmocka_unit_test(test_value_empty_text_needs_its_room),
        cmocka_unit_test(test_value_replay_reports_trailing_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
