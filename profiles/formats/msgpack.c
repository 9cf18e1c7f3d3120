/*
 * The wire form, written. docs/wire-format.md is its definition; this file follows it line by line.
 *
 *     93 a4 'pomw' 01 c6 LLLLLLLL | body: {minor, source, texts, codes, stacks, profiles}
 *
 * The head is 12 bytes of fixed layout and MessagePack at the same time: an array of magic, version
 * and body as a binary of known length. So a file of batches is cut into batches without looking
 * inside, a torn end is seen, and any MessagePack library reads it too.
 *
 * The profiles are encoded first, into a buffer of their own, while the dictionaries grow
 * (wire_tables.c); then the dictionaries are written before them, where a reader wants them. Both
 * are copied to the caller's buffer once all has gone well, so that a failure costs him nothing of
 * what he has there already.
 *
 * A tree is columns of integers in document order, not one map a node: no keys to repeat, equal
 * kinds side by side for gzip, and a new column is something an old reader skips. A node's stack
 * number tells its depth and its place in one: the parent is the nearest node before it that has
 * the stack's parent. Totals are left out, they are sums. Internal nodes (the interpreter's helpers
 * and ours) are left out as in every record, their self time is their parent's.
 *
 * Times are rounded to microseconds: what is below is noise beside samples that are milliseconds
 * apart, and noise is what does not compress, a tenth of a batch. It is the moments and the running
 * sums of self times that are rounded, and their differences written, so that no error adds up: the
 * total of any node is right within a microsecond. What follows from the rest (the root's self
 * time, a wall time that is the duration) is written as nothing.
 *
 * Texts are checked: MessagePack calls them UTF-8, and strict readers would refuse the batch for
 * one bad byte. Nothing here recurses. Runs on any thread. The only file that knows msgpack.h,
 * hence its length.
 */
#include "profiles/formats/msgpack.h"

#include <msgpack.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "profiles/formats/utf8.h"
#include "profiles/formats/wire_tables.h"
#include "profiles/value.h"

/* Containers of a message that are open at once: the stream's own, and the map of a key without
 * one. */
#define OPEN_MAX (POM_VALUE_DEPTH_MAX + 1)

/* One node as it is written, its times not yet rounded. */
typedef struct row_s {
    const pom_node_t *node;
    uint32_t parent, stack;
    int64_t self_wall_ns, self_cpu_ns;
} row_t;

typedef struct batch_s {
    pom__wire_tables_t tables;
    pom_buf_t profiles, front; /* front: all that stands before the profiles */
    msgpack_packer packer;     /* to one of the two */
    const pom_msgpack_source_t *source;
    const pom_client_report_t *report; /* NULL: none */
    row_t *rows;                       /* of one profile, in document order */
    uint32_t row_count, row_room;
    uint32_t *positions; /* by index of a node: its row, or its nearest kept ancestor's */
    uint32_t position_room;
    bool failed; /* no memory, outside the buffers and tables */
} batch_t;

static int write_to_buf(void *data, const char *bytes, size_t size) {
    pom_buf_put(data, bytes, size);
    return 0; /* a failed buffer is asked for at the end */
}

/* msgpack's packers return what write_to_buf returned: nothing to look at. */
static void put_int(msgpack_packer *p, int64_t value) {
    (void)msgpack_pack_int64(p, value);
}

/* Nearest, and never falling where ns rises: of what is in order the rounded is, too. */
static int64_t to_us(int64_t ns) {
    int64_t us = ns / POM_NS_PER_US, rest = ns % POM_NS_PER_US;
    return us + (rest >= POM_NS_PER_US / 2) - (rest < -POM_NS_PER_US / 2);
}

/* A moment since 1970, cut as its text is. */
static int64_t to_moment(int64_t wall_ns) {
    return wall_ns / POM_NS_PER_US - (wall_ns % POM_NS_PER_US < 0);
}

static void put_map(msgpack_packer *p, size_t count) {
    (void)msgpack_pack_map(p, count);
}

static void put_array(msgpack_packer *p, size_t count) {
    (void)msgpack_pack_array(p, count);
}

static void put_entry(msgpack_packer *p, int key, int64_t value) {
    put_int(p, key);
    put_int(p, value);
}

/* Length of the beginning that is UTF-8. */
static size_t good_length(const char *text, size_t size) {
    size_t at = 0;
    while (at < size) {
        if ((text[at] & 0x80) == 0) {
            at++;
            continue;
        }
        size_t used;
        uint32_t point = pom__utf8_decode((const unsigned char *)text + at, size - at, &used);
        if (point == 0xfffd && used == 1) {
            break;
        }
        at += used;
    }
    return at;
}

/* Bad bytes become one U+FFFD each, as in JSON. */
static void put_text(msgpack_packer *p, const char *text, size_t size) {
    static const char replacement[] = "\xef\xbf\xbd";
    size_t good = good_length(text, size);
    if (good == size) {
        (void)msgpack_pack_str(p, size);
        (void)msgpack_pack_str_body(p, size > 0 ? text : "", size);
        return;
    }
    size_t total = 0;
    for (size_t at = 0; at < size;) {
        size_t piece = good_length(text + at, size - at);
        bool bad = at + piece < size;
        total += piece + (bad ? 3 : 0);
        at += piece + bad;
    }
    (void)msgpack_pack_str(p, total);
    for (size_t at = 0; at < size;) {
        size_t piece = good_length(text + at, size - at);
        bool bad = at + piece < size;
        (void)msgpack_pack_str_body(p, text + at, piece);
        if (bad) {
            (void)msgpack_pack_str_body(p, replacement, 3);
        }
        at += piece + bad;
    }
}

static void put_number(batch_t *b, int key, pom_text_t text) {
    put_entry(&b->packer, key, pom__wire_text(&b->tables, text));
}

/* ---- a user's fields ---- */

/* An emitter that writes what a value stream replays. The stream does not say how many entries a
 * container has, so its head is one byte, right for up to 15, and is made longer afterwards in the
 * rare other case. */
typedef struct fields_s {
    pom_emitter_t emitter;
    batch_t *batch;
    int depth;
    struct {
        size_t at; /* of the head, in batch->profiles */
        uint32_t count;
        bool is_map;
    } open[OPEN_MAX];
} fields_t;

static fields_t *fields_of(pom_emitter_t *self) {
    return (fields_t *)(void *)self;
}

/* Before each value: an entry of the list that is open. A map counts its keys. */
static msgpack_packer *value_packer(pom_emitter_t *self) {
    fields_t *f = fields_of(self);
    if (f->depth > 0 && !f->open[f->depth - 1].is_map) {
        f->open[f->depth - 1].count++;
    }
    return &f->batch->packer;
}

static void open_container(fields_t *f, bool is_map) {
    f->open[f->depth].at = f->batch->profiles.len;
    f->open[f->depth].count = 0;
    f->open[f->depth].is_map = is_map;
    f->depth++; /* the replay checks its depth, which is less than OPEN_MAX */
    pom_buf_put_char(&f->batch->profiles, 0);
}

static void close_container(fields_t *f) {
    pom_buf_t *buf = &f->batch->profiles;
    f->depth--;
    size_t at = f->open[f->depth].at;
    uint32_t count = f->open[f->depth].count;
    bool is_map = f->open[f->depth].is_map;
    unsigned char head[5] = {(unsigned char)((is_map ? 0x80 : 0x90) | count)};
    size_t size = 1;
    if (count > 15 && count <= 0xffff) {
        head[0] = is_map ? 0xde : 0xdc;
        head[1] = (unsigned char)(count >> 8);
        head[2] = (unsigned char)count;
        size = 3;
    } else if (count > 15) {
        head[0] = is_map ? 0xdf : 0xdd;
        for (int i = 0; i < 4; i++) {
            head[1 + i] = (unsigned char)(count >> (24 - 8 * i));
        }
        size = 5;
    }
    if (size > 1 && pom_buf_reserve(buf, size - 1) != NULL) {
        memmove(buf->data + at + size, buf->data + at + 1, buf->len - at - 1);
        buf->len += size - 1;
    }
    if (!pom_buf_failed(buf)) {
        memcpy(buf->data + at, head, size);
    }
}

static void fields_map_begin(pom_emitter_t *self) {
    (void)value_packer(self);
    open_container(fields_of(self), true);
}

static void fields_list_begin(pom_emitter_t *self) {
    (void)value_packer(self);
    open_container(fields_of(self), false);
}

static void fields_end(pom_emitter_t *self) {
    close_container(fields_of(self));
}

/* Keys repeat from message to message: they are numbers of texts. */
static void fields_key(pom_emitter_t *self, const char *text, size_t size) {
    fields_t *f = fields_of(self);
    f->open[f->depth - 1].count++;
    /* The stream lies in the profile, so the dictionary may borrow from it. */
    put_int(&f->batch->packer,
            pom__wire_text(&f->batch->tables, (pom_text_t){text, (uint32_t)size}));
}

static void fields_text(pom_emitter_t *self, const char *text, size_t size) {
    put_text(value_packer(self), text, size);
}

static void fields_integer(pom_emitter_t *self, int64_t value) {
    put_int(value_packer(self), value);
}

static void fields_number(pom_emitter_t *self, double value) {
    (void)msgpack_pack_double(value_packer(self), value);
}

/* A duration stays one: an ext of the shortest of 1, 2, 4, 8 bytes. */
static void fields_seconds(pom_emitter_t *self, int64_t ns) {
    unsigned char bytes[8];
    int64_t us = to_us(ns);
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)((uint64_t)us >> (56 - 8 * i));
    }
    size_t size = us == (int8_t)us ? 1 : us == (int16_t)us ? 2 : us == (int32_t)us ? 4 : 8;
    msgpack_packer *p = value_packer(self);
    (void)msgpack_pack_ext(p, size, POM_WIRE_EXT_MICROSECONDS);
    (void)msgpack_pack_ext_body(p, bytes + 8 - size, size);
}

static void fields_boolean(pom_emitter_t *self, bool value) {
    msgpack_packer *p = value_packer(self);
    (void)(value ? msgpack_pack_true(p) : msgpack_pack_false(p));
}

static void fields_null(pom_emitter_t *self) {
    (void)msgpack_pack_nil(value_packer(self));
}

static const pom_emitter_ops_t fields_ops = {
    .map_begin = fields_map_begin,
    .map_end = fields_end,
    .list_begin = fields_list_begin,
    .list_end = fields_end,
    .key = fields_key,
    .name = pom_name_as_key,
    .text = fields_text,
    .plain = fields_text,
    .integer = fields_integer,
    .number = fields_number,
    .seconds = fields_seconds,
    .moment = fields_integer, /* never in a stream */
    .boolean = fields_boolean,
    .null = fields_null,
};

/* A map whatever the stream is; of bad bytes, what could be read. */
static void put_fields(batch_t *b, const void *data, size_t size) {
    fields_t f = {.emitter = {&fields_ops}, .batch = b};
    open_container(&f, true);
    (void)pom_value_emit_entries(data, size, &f.emitter);
    close_container(&f);
}

/* ---- the tree ---- */

static bool make_room(batch_t *b, uint32_t nodes, uint32_t indexes) {
    if (nodes > b->row_room) {
        pom_free(b->rows);
        b->rows = pom_alloc(nodes * sizeof *b->rows);
        b->row_room = b->rows != NULL ? nodes : 0;
    }
    if (indexes > b->position_room) {
        pom_free(b->positions);
        b->positions = pom_alloc(indexes * sizeof *b->positions);
        b->position_room = b->positions != NULL ? indexes : 0;
    }
    return b->row_room >= nodes && b->position_room >= indexes;
}

/* Document order. */
static const pom_node_t *next_node(const pom_node_t *node) {
    if (node->first_child != NULL) {
        return node->first_child;
    }
    while (node != NULL && node->next == NULL) {
        node = node->parent;
    }
    return node != NULL ? node->next : NULL;
}

static bool is_shown(const pom_node_t *node) {
    return node->code == NULL || !node->code->internal || node->message != NULL;
}

/* The rows of the tree; *messages counts those that are messages. */
static bool gather(batch_t *b, const pom_tree_t *tree, uint32_t *messages) {
    uint32_t nodes = 0, last_index = 0;
    for (const pom_node_t *node = &tree->root; node != NULL; node = next_node(node)) {
        nodes++;
        if (node->index > last_index) {
            last_index = node->index;
        }
    }
    if (!make_room(b, nodes, last_index + 1)) {
        return false;
    }
    b->row_count = 0;
    *messages = 0;
    for (const pom_node_t *node = &tree->root; node != NULL; node = next_node(node)) {
        uint32_t parent = node->parent != NULL ? b->positions[node->parent->index] : 0;
        if (!is_shown(node)) {
            b->positions[node->index] = parent;
            b->rows[parent].self_wall_ns += node->self_wall_ns;
            b->rows[parent].self_cpu_ns += node->self_cpu_ns;
            continue;
        }
        row_t *row = &b->rows[b->row_count];
        *row = (row_t){node, parent, 0, node->self_wall_ns, node->self_cpu_ns};
        if (node != &tree->root) {
            bool has_place = node->code != NULL && !node->code->internal;
            uint32_t code =
                has_place ? pom__wire_code(&b->tables, node->code, tree->granularity) : 0;
            int32_t line = has_place && tree->granularity == POM_BY_LINE ? node->line : -1;
            row->stack = pom__wire_stack(&b->tables, b->rows[parent].stack, code, line);
        }
        b->positions[node->index] = b->row_count++;
        *messages += node->message != NULL;
    }
    return true;
}

static int64_t self_ns(const row_t *row, int column) {
    return column == POM_WIRE_NODE_SELF_WALL ? row->self_wall_ns : row->self_cpu_ns;
}

/* A column of self times. A node's subtree is a stretch of rows, so its total is the difference of
 * two running sums. The action's own time is what the others leave of its whole time, `all_ns`:
 * what is written in its row is what it has beyond that, usually nothing. */
static void put_self_times(batch_t *b, int column, int64_t all_ns) {
    int64_t sum_ns = 0;
    for (uint32_t i = 0; i < b->row_count; i++) {
        sum_ns += self_ns(&b->rows[i], column);
    }
    put_int(&b->packer, to_us(sum_ns) - to_us(all_ns));
    sum_ns = self_ns(&b->rows[0], column);
    for (uint32_t i = 1; i < b->row_count; i++) {
        int64_t before_us = to_us(sum_ns);
        sum_ns += self_ns(&b->rows[i], column);
        put_int(&b->packer, to_us(sum_ns) - before_us);
    }
}

static void put_nodes(batch_t *b, const pom_profile_t *profile) {
    msgpack_packer *p = &b->packer;
    int64_t start_ns = profile->start_ns;
    put_map(p, 6);
    for (int column = POM_WIRE_NODE_STACK; column <= POM_WIRE_NODE_LAST; column++) {
        put_int(p, column);
        put_array(p, b->row_count);
        if (column == POM_WIRE_NODE_SELF_WALL) {
            put_self_times(b, column, profile->wall_ns);
            continue;
        }
        if (column == POM_WIRE_NODE_SELF_CPU) {
            put_self_times(b, column, profile->cpu_ns);
            continue;
        }
        for (uint32_t i = 0; i < b->row_count; i++) {
            const row_t *row = &b->rows[i];
            int64_t from_ns = i > 0 ? b->rows[row->parent].node->first_ns : start_ns;
            int64_t first_us = to_us(row->node->first_ns - start_ns);
            switch (column) {
            case POM_WIRE_NODE_STACK:
                put_int(p, row->stack);
                break;
            case POM_WIRE_NODE_HITS:
                put_int(p, row->node->hits);
                break;
            case POM_WIRE_NODE_FIRST:
                put_int(p, first_us - to_us(from_ns - start_ns));
                break;
            default:
                put_int(p, to_us(row->node->last_ns - start_ns) - first_us);
            }
        }
    }
}

static void put_messages(batch_t *b, uint32_t count) {
    msgpack_packer *p = &b->packer;
    put_map(p, 2);
    put_int(p, POM_WIRE_MESSAGE_NODE);
    put_array(p, count);
    for (uint32_t i = 0; i < b->row_count; i++) {
        if (b->rows[i].node->message != NULL) {
            put_int(p, i);
        }
    }
    put_int(p, POM_WIRE_MESSAGE_FIELDS);
    put_array(p, count);
    for (uint32_t i = 0; i < b->row_count; i++) {
        const pom_node_t *node = b->rows[i].node;
        if (node->message != NULL) {
            put_fields(b, node->message, node->message_size);
        }
    }
}

static void put_timeline(batch_t *b, const pom_profile_t *profile) {
    const pom_tree_t *tree = &profile->tree;
    msgpack_packer *p = &b->packer;
    put_map(p, 3);
    for (int column = POM_WIRE_STRETCH_NODE; column <= POM_WIRE_STRETCH_DURATION; column++) {
        int64_t end_us = 0;
        put_int(p, column);
        put_array(p, tree->stretch_count);
        for (uint32_t i = 0; i < tree->stretch_count; i++) {
            const pom_stretch_t *stretch = &tree->timeline[i];
            int64_t at_ns = stretch->start_ns - profile->start_ns;
            int64_t gap_us = to_us(at_ns) - end_us;
            end_us = to_us(at_ns + stretch->duration_ns);
            if (column == POM_WIRE_STRETCH_NODE) {
                put_int(p, b->positions[stretch->node]);
            } else if (column == POM_WIRE_STRETCH_GAP) {
                put_int(p, gap_us);
            } else {
                put_int(p, end_us - to_us(at_ns));
            }
        }
    }
}

/* ---- a profile ---- */

typedef struct loss_s {
    const char *name;
    int64_t count;
} loss_t;

/* Counts by the number of their name, those that are not 0. */
static void put_losses(batch_t *b, int key, const loss_t *losses, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < size; i++) {
        count += losses[i].count > 0;
    }
    put_int(&b->packer, key);
    put_map(&b->packer, count);
    for (size_t i = 0; i < size; i++) {
        if (losses[i].count > 0) {
            pom_text_t name = {losses[i].name, (uint32_t)strlen(losses[i].name)};
            put_int(&b->packer, pom__wire_text(&b->tables, name));
            put_int(&b->packer, losses[i].count);
        }
    }
}

static void put_profiler(batch_t *b, const pom_profile_t *profile) {
    const pom_tree_cuts_t *cuts = &profile->tree.cuts;
    msgpack_packer *p = &b->packer;
    put_int(p, POM_WIRE_PROFILER);
    put_map(p, (size_t)(7 + (profile->shed > 0)));
    put_entry(p, POM_WIRE_OVERHEAD_PPM, profile->overhead_ppm);
    put_entry(p, POM_WIRE_PERIOD, to_us(profile->period_ns));
    put_entry(p, POM_WIRE_OVERHEAD_CPU, to_us(profile->overhead_cpu_ns));
    put_entry(p, POM_WIRE_SAMPLES, profile->samples);
    loss_t missed[POM_MISS_COUNT];
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        missed[i] = (loss_t){pom_miss_names[i], profile->missed[i]};
    }
    put_losses(b, POM_WIRE_MISSED, missed, POM_MISS_COUNT);
    const loss_t truncated[] = {
        {"nodes", cuts->nodes},
        {"depth", cuts->depth},
        {"messages", cuts->messages},
        {"timeline", cuts->timeline},
        {"events", profile->dropped_events},
        {"values", profile->cut_values},
    };
    put_losses(b, POM_WIRE_TRUNCATED, truncated, sizeof truncated / sizeof *truncated);
    if (profile->shed > 0) {
        put_entry(p, POM_WIRE_SHED, profile->shed);
    }
    put_number(b, POM_WIRE_ENGINE, profile->engine);
}

static bool same_text(pom_text_t a, pom_text_t b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static void put_id(msgpack_packer *p, pom_id_t id) {
    unsigned char bytes[16];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(id.hi >> (56 - 8 * i));
        bytes[8 + i] = (unsigned char)(id.lo >> (56 - 8 * i));
    }
    (void)msgpack_pack_bin(p, sizeof bytes);
    (void)msgpack_pack_bin_body(p, bytes, sizeof bytes);
}

/* In an order for gzip: what all profiles say alike is one stretch to it, and what differs in each
 * (moment, phases, id, times) stands together, so that few stretches are begun. One part in 35. */
static void put_profile(batch_t *b, const pom_profile_t *profile) {
    msgpack_packer *p = &b->packer;
    uint32_t messages;
    if (!gather(b, &profile->tree, &messages)) {
        b->failed = true;
        return;
    }
    bool own_name = !same_text(profile->source, b->source->name);
    bool own_pid = profile->pid != b->source->pid;
    bool own_wall = profile->wall_ns != profile->end_ns - profile->start_ns;
    bool has_timeline = profile->tree.stretch_count > 0;
    put_map(p, (size_t)(13 + own_name + own_pid + own_wall + (messages > 0) + has_timeline));

    put_profiler(b, profile);
    put_entry(p, POM_WIRE_GRANULARITY, profile->tree.granularity);
    put_entry(p, POM_WIRE_OUTCOME, profile->outcome);
    put_number(b, POM_WIRE_KIND, profile->kind);
    put_int(p, POM_WIRE_THREAD);
    (void)msgpack_pack_uint64(p, profile->thread);
    put_number(b, POM_WIRE_THREAD_NAME, profile->thread_name);
    if (own_name) {
        put_number(b, POM_WIRE_NAME, profile->source);
    }
    if (own_pid) {
        put_entry(p, POM_WIRE_PID, profile->pid);
    }
    put_int(p, POM_WIRE_NODES);
    put_nodes(b, profile);
    if (messages > 0) {
        put_int(p, POM_WIRE_MESSAGES);
        put_messages(b, messages);
    }
    if (has_timeline) {
        put_int(p, POM_WIRE_TIMELINE);
        put_timeline(b, profile);
    }
    put_entry(p, POM_WIRE_START, to_moment(profile->start_wall_ns));
    put_number(b, POM_WIRE_TYPE, profile->type);
    put_int(p, POM_WIRE_FIELDS);
    put_fields(b, profile->fields, profile->fields_size);
    put_int(p, POM_WIRE_TASK);
    if (profile->task_text.size > 0) {
        put_text(p, profile->task_text.data, profile->task_text.size);
    } else {
        put_id(p, profile->task_id);
    }
    put_entry(p, POM_WIRE_CPU, to_us(profile->cpu_ns));
    put_entry(p, POM_WIRE_DURATION, to_us(profile->end_ns - profile->start_ns));
    if (own_wall) {
        put_entry(p, POM_WIRE_WALL, to_us(profile->wall_ns));
    }
}

/* ---- what stands before the profiles ---- */

static void put_source(batch_t *b) {
    const pom_msgpack_source_t *s = b->source;
    msgpack_packer *p = &b->packer;
    bool has_host = s->host.size > 0;
    bool has_id = s->batch_id.hi != 0 || s->batch_id.lo != 0;
    bool has_moment = s->created_wall_ns != 0;
    put_int(p, POM_WIRE_SOURCE);
    put_map(p, (size_t)(3 + has_host + has_id + has_moment));
    put_int(p, POM_WIRE_SOURCE_NAME);
    put_text(p, s->name.data, s->name.size);
    if (has_host) {
        put_int(p, POM_WIRE_SOURCE_HOST);
        put_text(p, s->host.data, s->host.size);
    }
    put_entry(p, POM_WIRE_SOURCE_PID, s->pid);
    put_int(p, POM_WIRE_SOURCE_WRITER);
    put_text(p, "profilomatic", 12);
    if (has_id) {
        put_int(p, POM_WIRE_SOURCE_BATCH);
        put_id(p, s->batch_id);
    }
    if (has_moment) {
        put_entry(p, POM_WIRE_SOURCE_CREATED, to_moment(s->created_wall_ns));
    }
}

static void put_tables(batch_t *b) {
    msgpack_packer *p = &b->packer;
    const pom_text_t *texts = b->tables.texts.entries;
    const pom__wire_code_t *codes = b->tables.codes.entries;
    const pom__wire_stack_t *stacks = b->tables.stacks.entries;
    put_int(p, POM_WIRE_TEXTS);
    put_array(p, b->tables.texts.count);
    for (uint32_t i = 0; i < b->tables.texts.count; i++) {
        put_text(p, texts[i].data, texts[i].size);
    }
    put_int(p, POM_WIRE_CODES);
    put_map(p, 3);
    for (int column = POM_WIRE_CODE_FILE; column <= POM_WIRE_CODE_FIRST_LINE; column++) {
        put_int(p, column);
        put_array(p, b->tables.codes.count);
        for (uint32_t i = 0; i < b->tables.codes.count; i++) {
            const pom__wire_code_t *code = &codes[i];
            if (column == POM_WIRE_CODE_FILE) {
                put_int(p, code->file);
            } else if (column == POM_WIRE_CODE_FUNCTION) {
                put_int(p, code->function);
            } else {
                put_int(p, code->by_file ? 0 : code->code->first_line);
            }
        }
    }
    put_int(p, POM_WIRE_STACKS);
    put_map(p, 3);
    for (int column = POM_WIRE_STACK_PARENT; column <= POM_WIRE_STACK_LINE; column++) {
        put_int(p, column);
        put_array(p, b->tables.stacks.count);
        for (uint32_t i = 0; i < b->tables.stacks.count; i++) {
            const pom__wire_stack_t *stack = &stacks[i];
            if (column == POM_WIRE_STACK_PARENT) {
                put_int(p, stack->parent);
            } else if (column == POM_WIRE_STACK_CODE) {
                put_int(p, stack->code);
            } else {
                put_int(p, stack->line);
            }
        }
    }
}

/* Reasons are texts as they stand: a report is rare, and alone in its batch. */
static void put_report(batch_t *b, const pom_client_report_t *r) {
    msgpack_packer *p = &b->packer;
    put_int(p, POM_WIRE_REPORT);
    put_map(p, 9);
    put_int(p, POM_WIRE_REPORT_ID);
    put_id(p, r->id);
    put_entry(p, POM_WIRE_REPORT_SINCE, to_moment(r->since_wall_ns));
    put_entry(p, POM_WIRE_REPORT_AT, to_moment(r->at_wall_ns));
    put_entry(p, POM_WIRE_REPORT_PRODUCED, r->produced);
    put_entry(p, POM_WIRE_REPORT_QUEUED, r->queued);
    put_entry(p, POM_WIRE_REPORT_SENT, r->sent);
    put_entry(p, POM_WIRE_REPORT_SPOOLED, r->spooled);
    put_entry(p, POM_WIRE_REPORT_RETRIED, r->retried);
    put_int(p, POM_WIRE_REPORT_DROPPED);
    put_map(p, r->drop_count);
    for (uint32_t i = 0; i < r->drop_count; i++) {
        put_text(p, r->drops[i].reason.data, r->drops[i].reason.size);
        put_int(p, r->drops[i].count);
    }
}

static void put_front(batch_t *b, size_t profile_count) {
    msgpack_packer *p = &b->packer;
    msgpack_packer_init(p, &b->front, write_to_buf);
    put_map(p, b->report != NULL ? 7 : 6);
    put_entry(p, POM_WIRE_MINOR, POM_MSGPACK_MINOR);
    put_source(b);
    put_tables(b);
    if (b->report != NULL) {
        put_report(b, b->report);
    }
    put_int(p, POM_WIRE_PROFILES);
    put_array(p, profile_count);
}

static pom_status_t state_of(const batch_t *b) {
    const pom__wire_tables_t *t = &b->tables;
    if (b->profiles.len + b->front.len > POM_MSGPACK_BODY_MAX ||
        t->texts.count > POM_MSGPACK_ENTRIES_MAX || t->codes.count > POM_MSGPACK_ENTRIES_MAX ||
        t->stacks.count > POM_MSGPACK_ENTRIES_MAX) {
        return POM_EFULL;
    }
    bool failed =
        b->failed || t->failed || pom_buf_failed(&b->profiles) || pom_buf_failed(&b->front);
    return failed ? POM_ENOMEM : POM_OK;
}

static pom_status_t append(batch_t *b, pom_buf_t *buf) {
    size_t body = b->front.len + b->profiles.len;
    size_t total = POM_MSGPACK_HEAD + body;
    if (pom_buf_failed(buf) || total > buf->cap - buf->len) {
        return POM_EFULL;
    }
    const unsigned char head[POM_MSGPACK_HEAD] = {0x93,
                                                  0xa4,
                                                  'p',
                                                  'o',
                                                  'm',
                                                  'w',
                                                  POM_MSGPACK_VERSION,
                                                  0xc6,
                                                  (unsigned char)(body >> 24),
                                                  (unsigned char)(body >> 16),
                                                  (unsigned char)(body >> 8),
                                                  (unsigned char)body};
    if (pom_buf_reserve(buf, total) == NULL) {
        return POM_ENOMEM; /* the one case in which the buffer is lost, as its contract says */
    }
    pom_buf_put(buf, head, sizeof head);
    pom_buf_put(buf, b->front.data, b->front.len);
    pom_buf_put(buf, b->profiles.data, b->profiles.len);
    return POM_OK;
}

static pom_status_t put_batch(pom_buf_t *buf, const pom_profile_t *const *profiles, size_t count,
                              const pom_msgpack_source_t *source,
                              const pom_client_report_t *report) {
    batch_t b = {.source = source, .report = report};
    pom__wire_tables_init(&b.tables);
    /* Twice what may be sent, so that a buffer fails for want of memory only. */
    pom_buf_init(&b.profiles, 2 * POM_MSGPACK_BODY_MAX);
    pom_buf_init(&b.front, 2 * POM_MSGPACK_BODY_MAX);
    msgpack_packer_init(&b.packer, &b.profiles, write_to_buf);
    pom_status_t status = POM_OK;
    for (size_t i = 0; i < count && status == POM_OK; i++) {
        put_profile(&b, profiles[i]);
        status = state_of(&b);
    }
    if (status == POM_OK) {
        put_front(&b, count);
        status = state_of(&b);
    }
    if (status == POM_OK) {
        status = append(&b, buf);
    }
    pom__wire_tables_fini(&b.tables);
    pom_buf_fini(&b.profiles);
    pom_buf_fini(&b.front);
    pom_free(b.rows);
    pom_free(b.positions);
    return status;
}

pom_status_t pom_msgpack_put_batch(pom_buf_t *buf, const pom_profile_t *const *profiles,
                                   size_t count, const pom_msgpack_source_t *source) {
    pom_msgpack_source_t first = {0};
    if (source == NULL && count > 0) {
        first.name = profiles[0]->source;
        first.pid = profiles[0]->pid;
    }
    return put_batch(buf, profiles, count, source != NULL ? source : &first, NULL);
}

pom_status_t pom_msgpack_put_report(pom_buf_t *buf, const pom_client_report_t *report,
                                    const pom_msgpack_source_t *source) {
    return put_batch(buf, NULL, 0, source, report);
}
