/*
 * What an action's profile says beside its tree. The exact totals of the app side win over the sum
 * of the samples, and what no sample covers is the root's own; of a part nobody knows more than its
 * samples. The entries of the record are the user's fields, then what the kind knows (middleware's
 * requests: method, query, route), then ours.
 *
 * On the sampler thread. It looks at the action and the profile alone, at no state of the
 * registry's.
 */
#include "actions/closing.h"

#include <string.h>

int64_t pom__action_part_start(const pom_action_t *a) {
    return a->parts > 0 ? a->part_start_ns : a->start_ns;
}

pom_text_t pom__keep_text(pom_arena_t *arena, const char *data, size_t size) {
    char *copy = pom_arena_copy(arena, data, size);
    return (pom_text_t){.data = copy, .size = copy == NULL ? 0 : (uint32_t)size};
}

static void write_entry(pom_value_writer_t *w, const char *key, pom_text_t text) {
    pom_value_key(w, key, strlen(key));
    pom_value_text(w, text.data, text.size);
}

static void write_integer(pom_value_writer_t *w, const char *key, int64_t value) {
    pom_value_key(w, key, strlen(key));
    pom_value_integer(w, value);
}

static void write_seconds(pom_value_writer_t *w, const char *key, int64_t ns) {
    pom_value_key(w, key, strlen(key));
    pom_value_seconds(w, ns);
}

/* Which part this is, and with the last one what they add up to. */
static void write_parts(const pom_action_t *a, const pom_profile_t *profile,
                        pom_value_writer_t *w) {
    write_integer(w, "part", a->parts + 1);
    if (profile->outcome != POM_OUTCOME_OPEN) {
        pom_value_key(w, "whole", 5);
        pom_value_map_begin(w);
        write_integer(w, "parts", a->parts + 1);
        write_seconds(w, "time", profile->wall_ns + a->part_start_ns - a->start_ns);
        write_seconds(w, "cpu_time", profile->cpu_ns + a->parts_cpu_ns);
        pom_value_map_end(w);
    }
}

/* Keys that the record has by itself: it has each once, so a user's field of that name gives way.
 * The first two are there only when an exception came out. */
static const char *const our_keys[] = {"exception", "reason",      "type", "kind",  "outcome",
                                       "span",      "parent_span", "part", "whole", NULL};
#define OUR_KEYS_OF_EXCEPTIONS 2

static void keep_fields(const pom_action_t *a, pom_profile_t *profile) {
    bool open = profile->outcome == POM_OUTCOME_OPEN;
    bool raised = !open && a->exception.size > 0;
    void (*describe)(const pom_action_t *, pom_value_writer_t *) =
        open ? a->kind->describe_open : a->kind->describe;
    unsigned char storage[2 * POM_ACTION_TEXT_MAX];
    pom_value_writer_t writer;
    pom_value_begin(&writer, storage, sizeof storage);
    pom_value_map_begin(&writer);
    pom_value_entries(&writer, a->fields, a->fields_size,
                      our_keys + (raised ? 0 : OUR_KEYS_OF_EXCEPTIONS));
    if (describe != NULL) {
        describe(a, &writer);
    }
    if (open || a->parts > 0) {
        write_parts(a, profile, &writer);
    }
    if (raised) {
        write_entry(&writer, "exception", a->exception);
        write_entry(&writer, "reason", a->reason);
    }
    pom_value_map_end(&writer);
    size_t size = pom_value_finish(&writer);
    // Those of the app side, which may be writing while the action is open, are told by its last
    // record.
    profile->cut_values = writer.cut + (open ? 0 : (int64_t)a->cut_values + a->text_cut);
    profile->fields = pom_arena_copy(&profile->arena, storage, size);
    profile->fields_size = profile->fields == NULL ? 0 : (uint32_t)size;
}

/* What no sample covers is the root's own time; the exact totals win over the sum of samples. */
static void settle_times(const pom_action_t *a, pom_profile_t *profile) {
    int64_t wall = profile->end_ns - profile->start_ns;
    int64_t sampled_wall = profile->tree.root.total_wall_ns;
    int64_t sampled_cpu = profile->tree.root.total_cpu_ns;
    bool open = profile->outcome == POM_OUTCOME_OPEN;
    profile->wall_ns = wall > sampled_wall ? wall : sampled_wall;
    // Of a part nobody knows more than its samples. Of an action that took turns with others on its
    // thread they tell all there is to know, and what was seen of it while it waited for a CPU, and
    // never met again, is its own too.
    int64_t cpu = open ? 0 : a->cpu_ns - a->foreign_cpu_ns + a->helped_cpu_ns - a->parts_cpu_ns;
    int64_t seen_cpu = sampled_cpu + (open ? 0 : a->pending_cpu_ns);
    profile->cpu_ns = cpu > seen_cpu ? cpu : seen_cpu;
    pom_tree_add_root(&profile->tree, profile->wall_ns - sampled_wall,
                      profile->cpu_ns - sampled_cpu);
}

void pom__action_close(const pom_action_t *a, pom_profile_t *profile) {
    pom_arena_t *arena = &profile->arena;
    profile->task_id = a->task_id;
    profile->task_text = a->task_text.size > 0
                             ? pom__keep_text(arena, a->task_text.data, a->task_text.size)
                             : (pom_text_t){0};
    profile->thread = a->thread;
    profile->thread_name = pom__keep_text(arena, a->thread_name, strlen(a->thread_name));
    profile->type = pom__keep_text(arena, a->type.data, a->type.size);
    profile->kind = (pom_text_t){.data = a->kind->name, .size = (uint32_t)strlen(a->kind->name)};
    profile->start_ns = pom__action_part_start(a);
    profile->start_wall_ns = a->start_wall_ns + profile->start_ns - a->start_ns;
    profile->samples = a->samples;
    memcpy(profile->missed, a->missed, sizeof profile->missed);
    settle_times(a, profile);
    keep_fields(a, profile);
}
