/*
 * The profile record: one walk over a profile, driving any emitter. docs/record.md is its user's
 * view.
 *
 * Two kinds of node do not appear. Internal code (the interpreter's helpers and ours) never does.
 * And when the document would nest deeper than its reader can take, the too deep chains lose their
 * middle: their outermost nodes say which request it is, their innermost ones which line is slow. A
 * node is removed when it lies deeper than `outer` and has a chain of `inner` or more nodes below
 * it. Along a path the depth only grows and the height only shrinks, so a path keeps at most outer
 * + inner nodes, and one that fits loses none:
 *
 *     depth   1  2  3  4  5  6  7         outer 2, inner 2
 *     height  6  5  4  3  2  1  0
 *     kept    x  x           x  x
 *
 * What hangs on a removed node is hoisted to the nearest node kept above it, in place, so document
 * order stays; the self time of the removed goes there too, so a node's time is still its self time
 * and its children's times.
 *
 * Trees are up to POM_STACK_MAX deep and the loop and delivery threads may have small stacks:
 * nothing here recurses. The profile is shared by threads and not written to; heights of nodes,
 * needed only when a tree is too deep, are in a block of their own.
 *
 * Over 400 lines: one walk, whose parts are the parts of the document in their order.
 */
#include "profiles/formats/record.h"

#include <string.h>

#include "base/alloc.h"
#include "profiles/value.h"

/* A document's fields may nest this deep by themselves, and there are the root and its list:
 * less makes no sense. */
#define DEPTH_MIN 40

/* Levels (a map and a list) that the fields of one message take at most. */
#define MESSAGE_LEVELS_MAX ((POM_VALUE_DEPTH_MAX + 1) / 2)

/* "file:function:line" */
#define INSTRUCTION_MAX (2 * POM_CODE_TEXT_MAX + 16)

typedef struct shape_s {
    bool has_internal; /* some node is internal */
    bool is_cut;       /* some chain is too deep */
    int levels;        /* of nodes below the root that the document may have; 0 = no limit */
    int deepest;       /* levels it would have if none were removed */
    int outer, inner;  /* levels kept at either end of a chain, when is_cut */
    uint32_t last_index;
    uint16_t *heights; /* levels below each node, by index; NULL: not cut, or no memory */
    int64_t elided;
} shape_t;

/* A walk in document order over what is below `top`: each node is entered and, later, left. */
typedef struct cursor_s {
    const pom_node_t *top, *node;
    int depth; /* of node below the root, internal nodes not counted */
    bool leaving;
    bool pass; /* set by the user on entering: neither enter what is below nor leave this node */
} cursor_t;

/* Messages are kept whatever they hang on: they were asked for. */
static bool is_internal(const pom_node_t *node) {
    return node->code != NULL && node->code->internal && node->message == NULL;
}

static bool cursor_next(cursor_t *c) {
    const pom_node_t *node = c->node;
    bool stays = !c->leaving && !c->pass;
    c->pass = false;
    if (stays && node->first_child != NULL) {
        c->node = node->first_child;
        c->depth += !is_internal(c->node);
        return true;
    }
    if (node == c->top) {
        return false;
    }
    if (stays) {
        c->leaving = true;
        return true;
    }
    c->depth -= !is_internal(node);
    c->leaving = node->next == NULL;
    if (!c->leaving) {
        c->node = node->next;
        c->depth += !is_internal(c->node);
        return true;
    }
    c->node = node->parent;
    return c->node != c->top;
}

/* An emitter that only measures how deep a value nests. */
typedef struct gauge_s {
    pom_emitter_t emitter;
    int depth, deepest;
} gauge_t;

static void gauge_begin(pom_emitter_t *self) {
    gauge_t *gauge = (gauge_t *)(void *)self;
    gauge->depth++;
    if (gauge->depth > gauge->deepest) {
        gauge->deepest = gauge->depth;
    }
}

static void gauge_end(pom_emitter_t *self) {
    ((gauge_t *)(void *)self)->depth--;
}

static void gauge_text(pom_emitter_t *self, const char *text, size_t size) {
    (void)self, (void)text, (void)size;
}

static void gauge_integer(pom_emitter_t *self, int64_t value) {
    (void)self, (void)value;
}

static void gauge_number(pom_emitter_t *self, double value) {
    (void)self, (void)value;
}

static void gauge_boolean(pom_emitter_t *self, bool value) {
    (void)self, (void)value;
}

static void gauge_null(pom_emitter_t *self) {
    (void)self;
}

static const pom_emitter_ops_t gauge_ops = {
    .map_begin = gauge_begin,
    .map_end = gauge_end,
    .list_begin = gauge_begin,
    .list_end = gauge_end,
    .key = gauge_text,
    .name = pom_name_as_key,
    .text = gauge_text,
    .plain = gauge_text,
    .integer = gauge_integer,
    .number = gauge_number,
    .seconds = gauge_integer,
    .moment = gauge_integer,
    .boolean = gauge_boolean,
    .null = gauge_null,
};

/* Levels that a node takes besides its own: the fields of a message, rounded up to whole levels. */
static int levels_inside(const pom_node_t *node) {
    if (node->message == NULL) {
        return 0;
    }
    gauge_t gauge = {.emitter = {&gauge_ops}, .deepest = 1};
    (void)pom_value_emit(node->message, node->message_size,
                         &gauge.emitter); /* bad bytes measure as they emit */
    return (gauge.deepest + 1) / 2;
}

/* What the shape needs to know of every node, and whether any chain is too deep. */
static void measure(shape_t *shape, const pom_node_t *root) {
    cursor_t c = {.top = root, .node = root};
    while (cursor_next(&c)) {
        if (c.leaving) {
            continue;
        }
        shape->has_internal = shape->has_internal || is_internal(c.node);
        if (c.node->index > shape->last_index) {
            shape->last_index = c.node->index;
        }
        if (shape->levels == 0) {
            continue;
        }
        int levels = c.depth;
        if (levels + MESSAGE_LEVELS_MAX > shape->levels) {
            levels += levels_inside(
                c.node); /* elsewhere it cannot matter, and measuring costs a replay */
        }
        if (levels > shape->deepest) {
            shape->deepest = levels;
        }
    }
}

static void raise_height(uint16_t *heights, const pom_node_t *node, int height) {
    if (height > heights[node->index]) {
        heights[node->index] = (uint16_t)height;
    }
}

static bool is_removed(const shape_t *shape, const pom_node_t *node, int depth) {
    if (is_internal(node)) {
        return true;
    }
    if (!shape->is_cut || depth <= shape->outer || node->message != NULL) {
        return false;
    }
    return shape->heights == NULL || shape->heights[node->index] >= shape->inner;
}

/* Decides what a too deep tree loses. */
static void cut(shape_t *shape, const pom_node_t *root) {
    shape->is_cut = true;
    shape->inner = shape->levels / 2;
    shape->outer = shape->levels - shape->inner;
    shape->heights = pom_calloc((size_t)shape->last_index + 1, sizeof *shape->heights);
    if (shape->heights == NULL) {
        /* Then the innermost nodes go: that needs no heights. A message may still hang below the
         * last kept. */
        shape->inner = 0;
        shape->outer = shape->levels - MESSAGE_LEVELS_MAX - 1;
    } else {
        cursor_t c = {.top = root, .node = root};
        while (cursor_next(&c)) {
            if (!c.leaving) {
                continue;
            }
            if (c.node->message != NULL) {
                raise_height(shape->heights, c.node, levels_inside(c.node));
            }
            int own_level = !is_internal(c.node);
            raise_height(shape->heights, c.node->parent, shape->heights[c.node->index] + own_level);
        }
    }
    cursor_t c = {.top = root, .node = root};
    while (cursor_next(&c)) {
        shape->elided += !c.leaving && !is_internal(c.node) && is_removed(shape, c.node, c.depth);
    }
}

/* What a kept node shows: its own self times with those of the removed nodes it stands for. */
typedef struct view_s {
    int64_t self_wall_ns, self_cpu_ns;
    bool has_children;
} view_t;

/* Each removed node is looked at once, from the node that stands for it. */
static view_t view_of(const shape_t *shape, const pom_node_t *node, int depth) {
    view_t view = {node->self_wall_ns, node->self_cpu_ns, node->first_child != NULL};
    if (!shape->is_cut && !shape->has_internal) {
        return view;
    }
    view.has_children = false;
    cursor_t c = {.top = node, .node = node, .depth = depth};
    while (cursor_next(&c)) {
        if (c.leaving) {
            continue;
        }
        if (is_removed(shape, c.node, c.depth)) {
            view.self_wall_ns += c.node->self_wall_ns;
            view.self_cpu_ns += c.node->self_cpu_ns;
        } else {
            view.has_children = true;
            c.pass = true;
        }
    }
    return view;
}

#define KEY POM_EMIT_NAME

static void put_text(pom_emitter_t *e, pom_text_t text) {
    e->ops->text(e, text.size > 0 ? text.data : "", text.size);
}

/* A count that is shown only when something was lost. */
static void put_loss(pom_emitter_t *e, const char *name, int64_t count) {
    if (count > 0) {
        e->ops->key(e, name, strlen(name));
        e->ops->integer(e, count);
    }
}

static void put_times(pom_emitter_t *e, int64_t wall_ns, int64_t self_wall_ns, int64_t cpu_ns,
                      int64_t self_cpu_ns, int32_t hits) {
    KEY(e, "time");
    e->ops->seconds(e, wall_ns);
    KEY(e, "self_time");
    e->ops->seconds(e, self_wall_ns);
    KEY(e, "cpu_time");
    e->ops->seconds(e, cpu_ns);
    KEY(e, "self_cpu_time");
    e->ops->seconds(e, self_cpu_ns);
    KEY(e, "hits");
    e->ops->integer(e, hits);
}

static void put_moments(pom_emitter_t *e, int64_t start_wall_ns, int64_t end_wall_ns) {
    KEY(e, "start_time");
    e->ops->moment(e, start_wall_ns);
    KEY(e, "end_time");
    e->ops->moment(e, end_wall_ns);
}

static void put_action(pom_emitter_t *e, const pom_profile_t *profile) {
    const char *outcome = pom_outcome_names[profile->outcome];
    KEY(e, "action");
    e->ops->map_begin(e);
    KEY(e, "type");
    put_text(e, profile->type);
    KEY(e, "kind");
    put_text(e, profile->kind);
    KEY(e, "outcome");
    e->ops->plain(e, outcome, strlen(outcome));
    (void)pom_value_emit_entries(profile->fields, profile->fields_size,
                                 e); /* of bad bytes, what could be read */
    e->ops->map_end(e);
}

static void put_profiler(pom_emitter_t *e, const pom_profile_t *profile, const shape_t *shape) {
    const pom_tree_cuts_t *cuts = &profile->tree.cuts;
    KEY(e, "profiler");
    e->ops->map_begin(e);
    KEY(e, "engine");
    put_text(e, profile->engine);
    KEY(e, "period");
    e->ops->seconds(e, profile->period_ns);
    KEY(e, "samples");
    e->ops->integer(e, profile->samples);
    KEY(e, "missed");
    e->ops->map_begin(e);
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        put_loss(e, pom_miss_names[i], profile->missed[i]);
    }
    e->ops->map_end(e);
    KEY(e, "overhead");
    e->ops->map_begin(e);
    KEY(e, "cpu");
    e->ops->seconds(e, profile->overhead_cpu_ns);
    KEY(e, "fraction");
    /* A fraction in millionths is that many microseconds of a second: seconds() writes it
     * exactly, without floats. */
    e->ops->seconds(e, profile->overhead_ppm * 1000);
    e->ops->map_end(e);
    KEY(e, "truncated");
    e->ops->map_begin(e);
    put_loss(e, "nodes", cuts->nodes);
    put_loss(e, "depth", cuts->depth);
    put_loss(e, "messages", cuts->messages);
    put_loss(e, "timeline", cuts->timeline);
    put_loss(e, "events", profile->dropped_events);
    put_loss(e, "values", profile->cut_values);
    put_loss(e, "elided", shape->elided);
    e->ops->map_end(e);
    put_loss(e, "shed", profile->shed);
    e->ops->map_end(e);
}

static size_t append_integer(char *to, size_t at, int32_t value) {
    char digits[10];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    memcpy(to + at, digits + first, sizeof digits - first);
    return at + sizeof digits - first;
}

/* Where the node is in the source, as far as the granularity tells. */
static void put_place(pom_emitter_t *e, const pom_node_t *node, pom_granularity_t granularity) {
    const pom_code_t *code = node->code;
    if (code == NULL || code->internal) {
        return;
    }
    void (*put)(pom_emitter_t *, const char *, size_t) = code->plain ? e->ops->plain : e->ops->text;
    /* Line 0 stands for "the interpreter gives none": the shape of instruction and the type of
     * line stay. */
    int32_t line = node->line > 0 ? node->line : 0;
    char instruction[INSTRUCTION_MAX];
    size_t size = code->file_len;
    if (granularity != POM_BY_FILE) {
        size += 1 + code->function_len;
    }
    memcpy(instruction, code->file, size); /* the function is behind it, with a NUL between */
    if (granularity != POM_BY_FILE) {
        instruction[code->file_len] = ':';
    }
    if (granularity == POM_BY_LINE) {
        instruction[size++] = ':';
        size = append_integer(instruction, size, line);
    }
    KEY(e, "instruction");
    put(e, instruction, size);
    KEY(e, "file");
    put(e, code->file, code->file_len);
    if (granularity != POM_BY_FILE) {
        KEY(e, "function");
        put(e, code->function, code->function_len);
    }
    if (granularity == POM_BY_LINE) {
        KEY(e, "line");
        e->ops->integer(e, line);
    }
}

/* The entries of a node but for its children; the map is left open. */
static void put_node(pom_emitter_t *e, const pom_profile_t *profile, const pom_node_t *node,
                     const view_t *view) {
    int64_t to_wall_ns = profile->start_wall_ns - profile->start_ns;
    e->ops->map_begin(e);
    put_place(e, node, profile->tree.granularity);
    put_times(e, node->total_wall_ns, view->self_wall_ns, node->total_cpu_ns, view->self_cpu_ns,
              node->hits);
    put_moments(e, to_wall_ns + node->first_ns, to_wall_ns + node->last_ns);
    if (node->message != NULL) {
        KEY(e, "message");
        e->ops->map_begin(e); /* a map whatever the stream is, so that readers need not ask */
        (void)pom_value_emit_entries(node->message, node->message_size, e);
        e->ops->map_end(e);
    }
}

/* All that is below the root, into the list that the caller has open. */
static void put_tree(pom_emitter_t *e, const pom_profile_t *profile, const shape_t *shape) {
    const pom_node_t *root = &profile->tree.root;
    cursor_t c = {.top = root, .node = root};
    while (cursor_next(&c)) {
        if (is_removed(shape, c.node, c.depth)) {
            continue;
        }
        if (c.leaving) {
            e->ops->list_end(e);
            e->ops->map_end(e);
            continue;
        }
        view_t view = view_of(shape, c.node, c.depth);
        put_node(e, profile, c.node, &view);
        if (view.has_children) {
            KEY(e, "children");
            e->ops->list_begin(e);
        } else {
            e->ops->map_end(e);
            c.pass = true;
        }
    }
}

void pom_record_emit(const pom_profile_t *profile, pom_emitter_t *emitter, int max_depth) {
    const pom_node_t *root = &profile->tree.root;
    pom_emitter_t *e = emitter;
    shape_t shape = {0};
    if (max_depth > 0) {
        shape.levels =
            ((max_depth > DEPTH_MIN ? max_depth : DEPTH_MIN) - 1) / 2; /* the root is one map */
    }
    measure(&shape, root);
    if (shape.deepest > shape.levels) {
        cut(&shape, root);
    }

    char id[POM_ID_TEXT];
    pom_text_t task = profile->task_text;
    if (task.size == 0) {
        pom_id_format(profile->task_id, id);
        task = (pom_text_t){id, POM_ID_TEXT};
    }
    view_t view = view_of(&shape, root, 0);
    e->ops->map_begin(e);
    KEY(e, "task_uuid");
    put_text(e, task);
    KEY(e, "thread");
    e->ops->integer(e, (int64_t)profile->thread); /* an address or a small number: never 2^63 */
    KEY(e, "thread_name");
    put_text(e, profile->thread_name);
    KEY(e, "source");
    put_text(e, profile->source);
    KEY(e, "pid");
    e->ops->integer(e, profile->pid);
    put_moments(e, profile->start_wall_ns,
                profile->start_wall_ns + (profile->end_ns - profile->start_ns));
    put_times(e, profile->wall_ns, view.self_wall_ns, profile->cpu_ns, view.self_cpu_ns,
              root->hits);
    put_action(e, profile);
    put_profiler(e, profile, &shape);
    KEY(e, "children");
    e->ops->list_begin(e);
    put_tree(e, profile, &shape);
    e->ops->list_end(e);
    e->ops->map_end(e);
    pom_free(shape.heights);
}
