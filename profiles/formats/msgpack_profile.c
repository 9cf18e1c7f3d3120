/*
 * One profile of the wire form, read into a pom_profile_t.
 *
 * Its tree is linked from the rows in one pass: a row's parent is the nearest row before it, going
 * up, whose stack is the row's stack's parent. Times are bounded to 36 years and every sum is
 * checked, so that nothing that reads the profile later can overflow. What is known but has a value
 * of another kind makes the profile malformed; what is not known is passed over.
 *
 * A profile read has its own clock: its start is 0 on the monotonic side. Node identities among
 * siblings are not those of a live tree (`key` is the stack), as nobody adds samples to it.
 *
 * The parts are in the order of the document and share its dictionaries, hence one file of some
 * length. Runs on any thread, one at a time for each reader.
 */
#include "profiles/formats/msgpack_reader_parts.h"

#include <string.h>

#include "base/alloc.h"
#include "profiles/value.h"

#define PPM_MAX (INT64_C(1) << 40) /* the record multiplies by 1000 */

/* Deeper values in fields are null: the value stream ends at 16 anyway. */
#define FIELDS_DEPTH (POM_VALUE_DEPTH_MAX + 2)

/* The text that the next integer names, copied into the profile. */
static pom_status_t read_number(pom_msgpack_reader_t *reader, pom__pull_t *pull,
                                pom_profile_t *profile, pom_text_t *text) {
    int64_t number;
    if (!pom__pull_integer(pull, 0, (int64_t)reader->text_count - 1, &number)) {
        return POM_EINVAL;
    }
    const pom_text_t *known = &reader->texts[number];
    text->data = pom_arena_copy(&profile->arena, known->data, known->size);
    text->size = text->data != NULL ? known->size : 0;
    return text->data != NULL ? POM_OK : POM_EFULL;
}

/* A scalar of a user's field. */
static void copy_scalar(pom_value_writer_t *w, const pom__item_t *item) {
    switch (item->kind) {
    case POM__BOOLEAN:
        pom_value_boolean(w, item->boolean);
        return;
    case POM__INTEGER:
        if (item->huge) {
            pom_value_number(w, (double)(uint64_t)item->integer);
        } else {
            pom_value_integer(w, item->integer);
        }
        return;
    case POM__NUMBER:
        pom_value_number(w, item->number);
        return;
    case POM__TEXT:
        pom_value_text(w, item->data, item->size);
        return;
    case POM__EXT: {
        pom__pull_t pull = {(const unsigned char *)item->data,
                            (const unsigned char *)item->data + item->size};
        bool is_duration =
            item->ext_type == POM_WIRE_EXT_MICROSECONDS &&
            (item->size == 1 || item->size == 2 || item->size == 4 || item->size == 8);
        if (is_duration) {
            uint64_t bits = (*pull.at & 0x80) != 0 ? UINT64_MAX : 0;
            while (pull.at < pull.end) {
                bits = bits << 8 | *pull.at++;
            }
            int64_t ns;
            if (!__builtin_mul_overflow((int64_t)bits, POM_NS_PER_US, &ns)) {
                pom_value_seconds(w, ns);
                return;
            }
        }
        break;
    }
    default:
        break;
    }
    pom_value_null(w); /* nil, and what this version has no word for */
}

typedef struct open_s {
    uint32_t left; /* entries to come */
    bool is_map;
} open_t;

/* A map of fields as a value stream in reader->fields; *size bytes. */
static bool copy_fields(pom_msgpack_reader_t *reader, pom__pull_t *pull, size_t *size) {
    open_t open[FIELDS_DEPTH];
    int depth = 0;
    pom_value_writer_t w;
    uint32_t entries;
    if (!pom__pull_head(pull, POM__MAP, &entries)) {
        return false;
    }
    pom_value_begin(&w, reader->fields, POM__FIELDS_ROOM);
    pom_value_map_begin(&w);
    open[depth++] = (open_t){entries, true};
    while (depth > 0) {
        open_t *top = &open[depth - 1];
        pom__item_t item;
        if (top->left == 0) {
            depth--;
            (top->is_map ? pom_value_map_end : pom_value_list_end)(&w);
            continue;
        }
        top->left--;
        if (top->is_map) {
            if (!pom__pull_item(pull, &item)) {
                return false;
            }
            if (item.kind == POM__INTEGER && !item.huge && item.integer >= 0 &&
                item.integer < reader->text_count) {
                pom_text_t key = reader->texts[item.integer];
                pom_value_key(&w, key.data, key.size);
            } else if (item.kind == POM__TEXT) {
                pom_value_key(&w, item.data, item.size);
            } else {
                return false;
            }
        }
        pom__pull_t before = *pull;
        if (!pom__pull_item(pull, &item)) {
            return false;
        }
        if (item.kind != POM__ARRAY && item.kind != POM__MAP) {
            copy_scalar(&w, &item);
        } else if (depth == FIELDS_DEPTH) {
            *pull = before;
            if (!pom__pull_skip(pull)) {
                return false;
            }
            pom_value_null(&w);
        } else {
            bool is_map = item.kind == POM__MAP;
            (is_map ? pom_value_map_begin : pom_value_list_begin)(&w);
            open[depth++] = (open_t){item.size, is_map};
        }
    }
    *size = pom_value_finish(&w);
    return true;
}

/* As above, kept in the profile. */
static pom_status_t read_fields(pom_msgpack_reader_t *reader, pom__pull_t *pull,
                                pom_profile_t *profile, const void **data, uint32_t *size) {
    size_t used;
    if (!copy_fields(reader, pull, &used)) {
        return POM_EINVAL;
    }
    *data = pom_arena_copy(&profile->arena, reader->fields, used);
    *size = *data != NULL ? (uint32_t)used : 0;
    return *data != NULL ? POM_OK : POM_EFULL;
}

/* Counts by name: those that this version knows. */
static bool read_losses(const pom_msgpack_reader_t *reader, pom__pull_t pull,
                        const char *const *names, int64_t *const *counts, size_t size) {
    uint32_t entries;
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return false;
    }
    for (; entries > 0; entries--) {
        int64_t name, count;
        if (!pom__pull_integer(&pull, 0, (int64_t)reader->text_count - 1, &name) ||
            !pom__pull_integer(&pull, 0, INT64_MAX, &count)) {
            return false;
        }
        for (size_t i = 0; i < size; i++) {
            const pom_text_t *text = &reader->texts[name];
            if (strlen(names[i]) == text->size && memcmp(names[i], text->data, text->size) == 0) {
                *counts[i] = count;
            }
        }
    }
    return true;
}

static pom_status_t read_profiler(pom_msgpack_reader_t *reader, pom__pull_t pull,
                                  pom_profile_t *profile) {
    uint32_t entries;
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return POM_EINVAL;
    }
    for (; entries > 0; entries--) {
        int64_t key;
        pom__pull_t value;
        bool good = true;
        if (!pom__pull_entry(&pull, &key, &value)) {
            return POM_EINVAL;
        }
        switch (key) {
        case POM_WIRE_ENGINE: {
            pom_status_t status = read_number(reader, &value, profile, &profile->engine);
            if (status != POM_OK) {
                return status;
            }
            break;
        }
        case POM_WIRE_PERIOD:
            good = pom__pull_time(&value, POM__TIME_MAX, &profile->period_ns) &&
                   profile->period_ns >= 0;
            break;
        case POM_WIRE_SAMPLES:
            good = pom__pull_integer(&value, 0, INT64_MAX, &profile->samples);
            break;
        case POM_WIRE_OVERHEAD_CPU:
            good = pom__pull_time(&value, POM__TIME_MAX, &profile->overhead_cpu_ns);
            break;
        case POM_WIRE_OVERHEAD_PPM:
            good = pom__pull_integer(&value, -PPM_MAX, PPM_MAX, &profile->overhead_ppm);
            break;
        case POM_WIRE_MISSED: {
            int64_t *counts[POM_MISS_COUNT];
            for (int i = 0; i < POM_MISS_COUNT; i++) {
                counts[i] = &profile->missed[i];
            }
            good = read_losses(reader, value, pom_miss_names, counts, POM_MISS_COUNT);
            break;
        }
        case POM_WIRE_TRUNCATED: {
            pom_tree_cuts_t *cuts = &profile->tree.cuts;
            static const char *const names[] = {"nodes",    "depth",  "messages",
                                                "timeline", "events", "values"};
            int64_t *const counts[] = {&cuts->nodes,
                                       &cuts->depth,
                                       &cuts->messages,
                                       &cuts->timeline,
                                       &profile->dropped_events,
                                       &profile->cut_values};
            good = read_losses(reader, value, names, counts, sizeof names / sizeof *names);
            break;
        }
        case POM_WIRE_SHED:
            good = pom__pull_integer(&value, 0, INT64_MAX, &profile->shed);
            break;
        default:
            break;
        }
        if (!good) {
            return POM_EINVAL;
        }
    }
    return POM_OK;
}

/* ---- the tree ---- */

static bool add_bounded(int64_t *sum, int64_t value) {
    return !__builtin_add_overflow(*sum, value, sum) && *sum >= -POM__TIME_MAX &&
           *sum <= POM__TIME_MAX;
}

static bool column_time(pom__column_t *column, int64_t *ns) {
    return pom__pull_time(&column->pull, POM__TIME_MAX, ns);
}

/* The times of one row. */
static bool read_times(pom__column_t *columns, int64_t from_ns, pom_node_t *node) {
    int64_t hits, first, last;
    if (!pom__column_integer(&columns[POM_WIRE_NODE_HITS], 0, INT32_MAX, &hits) ||
        !column_time(&columns[POM_WIRE_NODE_SELF_WALL], &node->self_wall_ns) ||
        !column_time(&columns[POM_WIRE_NODE_SELF_CPU], &node->self_cpu_ns) ||
        !column_time(&columns[POM_WIRE_NODE_FIRST], &first) ||
        !column_time(&columns[POM_WIRE_NODE_LAST], &last)) {
        return false;
    }
    node->hits = (int32_t)hits;
    node->total_wall_ns = node->self_wall_ns;
    node->total_cpu_ns = node->self_cpu_ns;
    node->first_ns = from_ns;
    if (!add_bounded(&node->first_ns, first)) {
        return false;
    }
    node->last_ns = node->first_ns;
    return add_bounded(&node->last_ns, last);
}

static void link_child(pom_node_t *parent, pom_node_t *node) {
    node->parent = parent;
    if (parent->last_child != NULL) {
        parent->last_child->next = node;
    } else {
        parent->first_child = node;
    }
    parent->last_child = node;
}

/* One row below the root. `before` is the node of the row before it. */
static pom_status_t read_row(pom_msgpack_reader_t *reader, pom_profile_t *profile,
                             pom__column_t *columns, uint32_t row, pom_node_t *before,
                             pom_node_t **out) {
    int64_t number;
    if (!pom__column_integer(&columns[POM_WIRE_NODE_STACK], 1, reader->stack_count, &number)) {
        return POM_EINVAL;
    }
    const pom__read_stack_t *stack = &reader->stacks[number];
    pom_node_t *parent = before;
    while (parent != NULL && parent->key != stack->parent) {
        parent = parent->parent;
    }
    if (parent == NULL) {
        return POM_EINVAL;
    }
    pom_node_t *node = pom_arena_alloc(&profile->arena, sizeof *node);
    if (node == NULL) {
        return POM_EFULL;
    }
    node->key = (uint64_t)number;
    node->index = row;
    node->line = stack->line;
    if (stack->code != 0) {
        node->code = pom_code_ref(reader->codes[stack->code - 1]);
    }
    link_child(parent, node);
    *out = node;
    return read_times(columns, parent->first_ns, node) ? POM_OK : POM_EINVAL;
}

/* The root's row says what it has beyond what the others leave of the whole. */
static bool settle_root(pom_profile_t *profile, pom_node_t *const *nodes, uint32_t rows) {
    pom_node_t *root = nodes[0];
    int64_t wall = 0, cpu = 0;
    for (uint32_t row = 1; row < rows; row++) {
        if (!add_bounded(&wall, nodes[row]->self_wall_ns) ||
            !add_bounded(&cpu, nodes[row]->self_cpu_ns)) {
            return false;
        }
    }
    if (!add_bounded(&root->self_wall_ns, profile->wall_ns - wall) ||
        !add_bounded(&root->self_cpu_ns, profile->cpu_ns - cpu)) {
        return false;
    }
    root->total_wall_ns = root->self_wall_ns;
    root->total_cpu_ns = root->self_cpu_ns;
    return true;
}

/* The tree, and by_row, which the caller frees. */
static pom_status_t read_nodes(pom_msgpack_reader_t *reader, pom__pull_t pull,
                               pom_profile_t *profile, pom_node_t ***by_row, uint32_t *rows) {
    pom__column_t columns[POM__COLUMNS_MAX];
    if (!pom__read_columns(pull, columns, POM_WIRE_NODE_LAST, rows) || *rows == 0) {
        return POM_EINVAL;
    }
    if (*rows > POM_MSGPACK_PROFILE_MAX / sizeof(pom_node_t)) {
        return POM_EFULL;
    }
    pom_node_t **nodes = *by_row = pom_alloc(*rows * sizeof *nodes);
    if (nodes == NULL) {
        return POM_ENOMEM;
    }
    nodes[0] = &profile->tree.root;
    int64_t number;
    if (!pom__column_integer(&columns[POM_WIRE_NODE_STACK], 0, 0, &number) ||
        !read_times(columns, 0, nodes[0])) {
        return POM_EINVAL;
    }
    for (uint32_t row = 1; row < *rows; row++) {
        pom_status_t status = read_row(reader, profile, columns, row, nodes[row - 1], &nodes[row]);
        if (status != POM_OK) {
            return status;
        }
    }
    profile->tree.node_count = *rows - 1;
    if (!settle_root(profile, nodes, *rows)) {
        return POM_EINVAL;
    }
    for (uint32_t row = *rows - 1; row > 0; row--) { /* children come after their parents */
        pom_node_t *parent = nodes[row]->parent;
        if (!add_bounded(&parent->total_wall_ns, nodes[row]->total_wall_ns) ||
            !add_bounded(&parent->total_cpu_ns, nodes[row]->total_cpu_ns)) {
            return POM_EINVAL;
        }
    }
    return POM_OK;
}

static pom_status_t read_messages(pom_msgpack_reader_t *reader, pom__pull_t pull,
                                  pom_profile_t *profile, pom_node_t **by_row, uint32_t rows) {
    pom__column_t columns[POM__COLUMNS_MAX];
    uint32_t count;
    if (!pom__read_columns(pull, columns, POM_WIRE_MESSAGE_FIELDS, &count)) {
        return POM_EINVAL;
    }
    for (uint32_t i = 0; i < count; i++) {
        int64_t row;
        if (!pom__column_integer(&columns[POM_WIRE_MESSAGE_NODE], 1, (int64_t)rows - 1, &row)) {
            return POM_EINVAL;
        }
        pom_node_t *node = by_row[row];
        if (node->message != NULL) {
            return POM_EINVAL; /* twice the same: memory for nothing */
        }
        pom_status_t status = read_fields(reader, &columns[POM_WIRE_MESSAGE_FIELDS].pull, profile,
                                          &node->message, &node->message_size);
        if (status != POM_OK) {
            return status;
        }
        profile->tree.node_count--;
        profile->tree.message_count++;
    }
    return POM_OK;
}

static pom_status_t read_timeline(pom__pull_t pull, pom_profile_t *profile, uint32_t rows) {
    pom__column_t columns[POM__COLUMNS_MAX];
    uint32_t count;
    if (!pom__read_columns(pull, columns, POM_WIRE_STRETCH_DURATION, &count)) {
        return POM_EINVAL;
    }
    if (count > POM_MSGPACK_PROFILE_MAX / sizeof(pom_stretch_t)) {
        return POM_EFULL;
    }
    pom_tree_t *tree = &profile->tree;
    tree->timeline = pom_arena_alloc(&profile->arena, count * sizeof *tree->timeline);
    if (tree->timeline == NULL) {
        return POM_EFULL;
    }
    int64_t at_ns = 0;
    for (uint32_t i = 0; i < count; i++) {
        int64_t row, gap, duration;
        if (!pom__column_integer(&columns[POM_WIRE_STRETCH_NODE], 0, (int64_t)rows - 1, &row) ||
            !column_time(&columns[POM_WIRE_STRETCH_GAP], &gap) ||
            !column_time(&columns[POM_WIRE_STRETCH_DURATION], &duration) || duration < 0 ||
            !add_bounded(&at_ns, gap)) {
            return POM_EINVAL;
        }
        tree->timeline[i] = (pom_stretch_t){(uint32_t)row, at_ns, duration};
        if (!add_bounded(&at_ns, duration)) {
            return POM_EINVAL;
        }
    }
    tree->stretch_count = tree->stretch_room = count;
    return POM_OK;
}

/* ---- a profile ---- */

static pom_status_t read_task(pom__pull_t *pull, pom_profile_t *profile) {
    pom__item_t item;
    if (!pom__pull_item(pull, &item)) {
        return POM_EINVAL;
    }
    if (pom__read_id(&item, &profile->task_id)) {
        return POM_OK;
    }
    if (item.kind != POM__TEXT) {
        return POM_EINVAL;
    }
    profile->task_text.data = pom_arena_copy(&profile->arena, item.data, item.size);
    profile->task_text.size = item.size;
    return profile->task_text.data != NULL ? POM_OK : POM_EFULL;
}

/* One entry of a profile's map that stands alone. */
static pom_status_t read_entry(pom_msgpack_reader_t *reader, int64_t key, pom__pull_t value,
                               pom_profile_t *profile) {
    pom__item_t item;
    int64_t number;
    bool good = true;
    switch (key) {
    case POM_WIRE_TASK:
        return read_task(&value, profile);
    case POM_WIRE_THREAD:
        good = pom__pull_item(&value, &item) && item.kind == POM__INTEGER;
        profile->thread = (uint64_t)item.integer;
        break;
    case POM_WIRE_THREAD_NAME:
        return read_number(reader, &value, profile, &profile->thread_name);
    case POM_WIRE_NAME:
        return read_number(reader, &value, profile, &profile->source);
    case POM_WIRE_PID:
        good = pom__pull_integer(&value, INT32_MIN, INT32_MAX, &number);
        if (good) {
            profile->pid = (int32_t)number;
        }
        break;
    case POM_WIRE_START:
        good = pom__pull_time(&value, POM__WALL_MAX, &profile->start_wall_ns);
        break;
    case POM_WIRE_DURATION:
        good = pom__pull_time(&value, POM__TIME_MAX, &profile->end_ns);
        break;
    case POM_WIRE_WALL:
        good = pom__pull_time(&value, POM__TIME_MAX, &profile->wall_ns);
        break;
    case POM_WIRE_CPU:
        good = pom__pull_time(&value, POM__TIME_MAX, &profile->cpu_ns);
        break;
    case POM_WIRE_TYPE:
        return read_number(reader, &value, profile, &profile->type);
    case POM_WIRE_KIND:
        return read_number(reader, &value, profile, &profile->kind);
    case POM_WIRE_OUTCOME:
        good = pom__pull_integer(&value, 0, POM_OUTCOME_COUNT - 1, &number);
        if (good) {
            profile->outcome = (pom_outcome_t)number;
        }
        break;
    case POM_WIRE_FIELDS:
        return read_fields(reader, &value, profile, &profile->fields, &profile->fields_size);
    case POM_WIRE_GRANULARITY:
        good = pom__pull_integer(&value, POM_BY_FILE, POM_BY_LINE, &number);
        if (good) {
            profile->tree.granularity = (pom_granularity_t)number;
        }
        break;
    case POM_WIRE_PROFILER:
        return read_profiler(reader, value, profile);
    default:
        break; /* of a later version, or a part of the tree */
    }
    return good ? POM_OK : POM_EINVAL;
}

pom_status_t pom__read_profile(pom_msgpack_reader_t *reader, pom__pull_t pull,
                               pom_profile_t *profile) {
    pom__pull_t parts[POM_WIRE_TIMELINE + 1];
    bool present[POM_WIRE_TIMELINE + 1] = {false};
    uint32_t entries;
    profile->source.data = pom_arena_copy(
        &profile->arena, reader->source.name.data != NULL ? reader->source.name.data : "",
        reader->source.name.size);
    if (profile->source.data == NULL) {
        return POM_EFULL;
    }
    profile->source.size = reader->source.name.size;
    profile->pid = reader->source.pid;
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return POM_EINVAL;
    }
    for (; entries > 0; entries--) {
        int64_t key;
        pom__pull_t part;
        if (!pom__pull_entry(&pull, &key, &part)) {
            return POM_EINVAL;
        }
        if (key >= 0 && key <= POM_WIRE_TIMELINE) {
            if (present[key]) {
                return POM_EINVAL; /* twice the same: memory for nothing */
            }
            parts[key] = part;
            present[key] = true;
            pom_status_t status = read_entry(reader, key, part, profile);
            if (status != POM_OK) {
                return status;
            }
        }
    }
    if (!present[POM_WIRE_TASK] || !present[POM_WIRE_NODES]) {
        return POM_EINVAL;
    }
    if (!present[POM_WIRE_WALL]) {
        profile->wall_ns = profile->end_ns;
    }
    pom_node_t **by_row = NULL;
    uint32_t rows = 0;
    pom_status_t status = read_nodes(reader, parts[POM_WIRE_NODES], profile, &by_row, &rows);
    if (status == POM_OK && present[POM_WIRE_MESSAGES]) {
        status = read_messages(reader, parts[POM_WIRE_MESSAGES], profile, by_row, rows);
    }
    if (status == POM_OK && present[POM_WIRE_TIMELINE]) {
        status = read_timeline(parts[POM_WIRE_TIMELINE], profile, rows);
    }
    pom_free(by_row);
    return status;
}
