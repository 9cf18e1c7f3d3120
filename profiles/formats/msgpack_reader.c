/*
 * A batch of the wire form, read: its head, its dictionaries, and then profile by profile
 * (msgpack_profile.c). docs/wire-format.md says what is in it.
 *
 * begin() walks over the whole body once, so what next() meets is well-formed MessagePack, and
 * takes the dictionaries. Each number that names a text, a code or a stack is checked there or
 * where it stands. A dictionary that makes no sense spoils the batch; a profile only itself. A key
 * that is not known is passed over, wherever it stands.
 *
 * Nothing recurses; memory is bounded by the limits in the header file. Runs on any thread, one at
 * a time for each reader.
 *
 * Over 400 lines: head, report and dictionaries are read in one walk, by the same checks.
 */
#include "profiles/formats/msgpack_reader.h"

#include <string.h>

#include "base/alloc.h"
#include "profiles/formats/msgpack_reader_parts.h"

/* ---- heads ---- */

pom_status_t pom_msgpack_batch_size(const void *data, size_t size, size_t *size_out) {
    static const unsigned char magic[] = {0x93, 0xa4, 'p', 'o', 'm', 'w'};
    const unsigned char *head = data;
    size_t known = size < sizeof magic ? size : sizeof magic;
    if (known > 0 && memcmp(head, magic, known) != 0) {
        return POM_EINVAL;
    }
    if (size < POM_MSGPACK_HEAD) {
        return POM_ENOTFOUND;
    }
    size_t body =
        (size_t)head[8] << 24 | (size_t)head[9] << 16 | (size_t)head[10] << 8 | (size_t)head[11];
    if (head[6] == 0 || head[6] > 0x7f || head[7] != 0xc6) {
        return POM_EINVAL;
    }
    if (body > POM_MSGPACK_BODY_MAX) {
        return POM_EFULL;
    }
    *size_out = POM_MSGPACK_HEAD + body;
    return head[6] == POM_MSGPACK_VERSION ? POM_OK : POM_EUNSUPPORTED;
}

pom_msgpack_reader_t *pom_msgpack_reader_new(void) {
    pom_msgpack_reader_t *reader = pom_calloc(1, sizeof *reader);
    if (reader == NULL) {
        return NULL;
    }
    reader->fields = pom_alloc(POM__FIELDS_ROOM);
    if (reader->fields == NULL) {
        pom_free(reader);
        return NULL;
    }
    return reader;
}

/* Forgets the batch. */
static void reset(pom_msgpack_reader_t *reader) {
    for (uint32_t i = 0; i < reader->code_count; i++) {
        pom_code_unref(reader->codes[i]);
    }
    pom_free(reader->texts);
    pom_free(reader->codes);
    pom_free(reader->stacks);
    *reader = (pom_msgpack_reader_t){.fields = reader->fields};
}

void pom_msgpack_reader_free(pom_msgpack_reader_t *reader) {
    if (reader != NULL) {
        reset(reader);
        pom_free(reader->fields);
        pom_free(reader);
    }
}

const pom_msgpack_source_t *pom_msgpack_reader_source(const pom_msgpack_reader_t *reader) {
    return &reader->source;
}

const pom_client_report_t *pom_msgpack_reader_report(const pom_msgpack_reader_t *reader) {
    return reader->has_report ? &reader->report : NULL;
}

/* ---- the dictionaries ---- */

bool pom__read_columns(pom__pull_t pull, pom__column_t columns[POM__COLUMNS_MAX], int64_t count,
                       uint32_t *rows) {
    uint32_t entries;
    bool first = true;
    memset(columns, 0, POM__COLUMNS_MAX * sizeof *columns);
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return false;
    }
    for (; entries > 0; entries--) {
        int64_t key;
        pom__pull_t column;
        if (!pom__pull_entry(&pull, &key, &column)) {
            return false;
        }
        if (key >= 1 && key <= count) {
            uint32_t size;
            if (!pom__pull_head(&column, POM__ARRAY, &size) || (!first && size != *rows)) {
                return false;
            }
            *rows = size;
            first = false;
            columns[key] = (pom__column_t){column, true};
        }
    }
    for (int64_t i = 1; i <= count; i++) {
        if (!columns[i].present) {
            return false;
        }
    }
    return true;
}

bool pom__read_id(const pom__item_t *item, pom_id_t *id) {
    if (item->kind != POM__BYTES || item->size != 16) {
        return false;
    }
    *id = (pom_id_t){0, 0};
    for (int i = 0; i < 8; i++) {
        id->hi = id->hi << 8 | (unsigned char)item->data[i];
        id->lo = id->lo << 8 | (unsigned char)item->data[8 + i];
    }
    return true;
}

static bool read_source(pom_msgpack_reader_t *reader, pom__pull_t pull) {
    pom_msgpack_source_t *s = &reader->source;
    uint32_t entries;
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return false;
    }
    for (; entries > 0; entries--) {
        int64_t key;
        pom__pull_t value;
        pom__item_t item;
        if (!pom__pull_entry(&pull, &key, &value)) {
            return false;
        }
        pom__pull_t again = value;
        if (!pom__pull_item(&value, &item)) {
            return false;
        }
        if (key == POM_WIRE_SOURCE_NAME && item.kind == POM__TEXT) {
            s->name = (pom_text_t){item.data, item.size};
        } else if (key == POM_WIRE_SOURCE_HOST && item.kind == POM__TEXT) {
            s->host = (pom_text_t){item.data, item.size};
        } else if (key == POM_WIRE_SOURCE_PID && item.kind == POM__INTEGER &&
                   item.integer == (int32_t)item.integer) {
            s->pid = (int32_t)item.integer;
        } else if (key == POM_WIRE_SOURCE_BATCH) {
            (void)pom__read_id(&item, &s->batch_id); /* another kind of id is none for us */
        } else if (key == POM_WIRE_SOURCE_CREATED) {
            (void)pom__pull_time(&again, POM__WALL_MAX, &s->created_wall_ns); /* or not told */
        }
    }
    return true;
}

/* Reasons beyond those there is room for are passed over. */
static bool read_drops(pom_client_report_t *r, pom__pull_t pull) {
    uint32_t entries;
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return false;
    }
    for (; entries > 0; entries--) {
        pom__item_t reason;
        int64_t count;
        if (!pom__pull_item(&pull, &reason) || reason.kind != POM__TEXT ||
            !pom__pull_integer(&pull, 0, INT64_MAX, &count)) {
            return false;
        }
        if (r->drop_count < POM_CLIENT_REPORT_DROPS) {
            r->drops[r->drop_count++] = (pom_client_drop_t){{reason.data, reason.size}, count};
        }
    }
    return true;
}

/* False: it makes no sense. */
static bool read_report(pom_client_report_t *r, pom__pull_t pull) {
    int64_t *const counts[] = {[POM_WIRE_REPORT_PRODUCED] = &r->produced,
                               [POM_WIRE_REPORT_QUEUED] = &r->queued,
                               [POM_WIRE_REPORT_SENT] = &r->sent,
                               [POM_WIRE_REPORT_SPOOLED] = &r->spooled,
                               [POM_WIRE_REPORT_RETRIED] = &r->retried};
    uint32_t entries;
    bool has_id = false;
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return false;
    }
    for (; entries > 0; entries--) {
        int64_t key;
        pom__pull_t value;
        pom__item_t item;
        bool good = true;
        if (!pom__pull_entry(&pull, &key, &value)) {
            return false;
        }
        if (key == POM_WIRE_REPORT_ID) {
            good = has_id = pom__pull_item(&value, &item) && pom__read_id(&item, &r->id);
        } else if (key == POM_WIRE_REPORT_DROPPED) {
            good = r->drop_count == 0 && read_drops(r, value);
        } else if (key == POM_WIRE_REPORT_SINCE || key == POM_WIRE_REPORT_AT) {
            int64_t *moment = key == POM_WIRE_REPORT_AT ? &r->at_wall_ns : &r->since_wall_ns;
            good = pom__pull_time(&value, POM__WALL_MAX, moment) && *moment >= 0;
        } else if (key >= POM_WIRE_REPORT_PRODUCED && key <= POM_WIRE_REPORT_RETRIED) {
            good = pom__pull_integer(&value, 0, INT64_MAX, counts[key]);
        }
        if (!good) {
            return false;
        }
    }
    return has_id;
}

static pom_status_t read_texts(pom_msgpack_reader_t *reader, pom__pull_t pull) {
    uint32_t count;
    if (!pom__pull_head(&pull, POM__ARRAY, &count)) {
        return POM_EINVAL;
    }
    if (count > POM_MSGPACK_ENTRIES_MAX) {
        return POM_EFULL;
    }
    reader->texts = pom_alloc(count * sizeof *reader->texts);
    if (reader->texts == NULL) {
        return POM_ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        pom__item_t item;
        if (!pom__pull_item(&pull, &item) || item.kind != POM__TEXT) {
            return POM_EINVAL;
        }
        reader->texts[i] = (pom_text_t){item.data, item.size};
    }
    reader->text_count = count;
    return POM_OK;
}

static pom_status_t read_codes(pom_msgpack_reader_t *reader, pom__pull_t pull) {
    pom__column_t columns[POM__COLUMNS_MAX];
    uint32_t count;
    size_t bytes = 0;
    if (!pom__read_columns(pull, columns, POM_WIRE_CODE_FIRST_LINE, &count)) {
        return POM_EINVAL;
    }
    if (count > POM_MSGPACK_ENTRIES_MAX) {
        return POM_EFULL;
    }
    reader->codes = pom_alloc(count * sizeof *reader->codes);
    if (reader->codes == NULL) {
        return POM_ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        int64_t file, function, first_line, last = (int64_t)reader->text_count - 1;
        if (!pom__column_integer(&columns[POM_WIRE_CODE_FILE], 0, last, &file) ||
            !pom__column_integer(&columns[POM_WIRE_CODE_FUNCTION], 0, last, &function) ||
            !pom__column_integer(&columns[POM_WIRE_CODE_FIRST_LINE], INT32_MIN, INT32_MAX,
                                 &first_line)) {
            return POM_EINVAL;
        }
        pom_text_t file_text = reader->texts[file], function_text = reader->texts[function];
        const pom_code_spec_t spec = {.file = file_text.data,
                                      .file_len = file_text.size,
                                      .function = function_text.data,
                                      .function_len = function_text.size,
                                      .first_line = (int32_t)first_line};
        pom_code_t *code = pom_code_new(&spec);
        if (code == NULL) {
            return POM_ENOMEM;
        }
        reader->codes[reader->code_count++] = code;
        bytes += sizeof *code + code->file_len + code->function_len;
        if (bytes > POM_MSGPACK_CODES_MAX) {
            return POM_EFULL;
        }
    }
    return POM_OK;
}

static pom_status_t read_stacks(pom_msgpack_reader_t *reader, pom__pull_t pull) {
    pom__column_t columns[POM__COLUMNS_MAX];
    uint32_t count;
    if (!pom__read_columns(pull, columns, POM_WIRE_STACK_LINE, &count)) {
        return POM_EINVAL;
    }
    if (count > POM_MSGPACK_ENTRIES_MAX) {
        return POM_EFULL;
    }
    reader->stacks = pom_alloc(((size_t)count + 1) * sizeof *reader->stacks);
    if (reader->stacks == NULL) {
        return POM_ENOMEM;
    }
    reader->stacks[0] = (pom__read_stack_t){.line = -1};
    for (uint32_t i = 1; i <= count; i++) {
        int64_t parent, code, line;
        if (!pom__column_integer(&columns[POM_WIRE_STACK_PARENT], 0, (int64_t)i - 1, &parent) ||
            !pom__column_integer(&columns[POM_WIRE_STACK_CODE], 0, reader->code_count, &code) ||
            !pom__column_integer(&columns[POM_WIRE_STACK_LINE], -1, INT32_MAX, &line)) {
            return POM_EINVAL;
        }
        uint32_t depth = reader->stacks[parent].depth + 1;
        if (depth > POM_MSGPACK_DEPTH_MAX) {
            return POM_EFULL;
        }
        reader->stacks[i] =
            (pom__read_stack_t){(uint32_t)parent, (uint32_t)code, depth, (int32_t)line};
    }
    reader->stack_count = count;
    return POM_OK;
}

static pom_status_t read_body(pom_msgpack_reader_t *reader, pom__pull_t pull) {
    pom__pull_t sections[POM_WIRE_REPORT + 1];
    bool present[POM_WIRE_REPORT + 1] = {false};
    uint32_t entries;
    if (!pom__pull_head(&pull, POM__MAP, &entries)) {
        return POM_EINVAL;
    }
    for (; entries > 0; entries--) {
        int64_t key;
        pom__pull_t section;
        if (!pom__pull_entry(&pull, &key, &section)) {
            return POM_EINVAL;
        }
        if (key >= 0 && key <= POM_WIRE_REPORT) {
            sections[key] = section;
            present[key] = true;
        }
    }
    for (int key = POM_WIRE_SOURCE; key <= POM_WIRE_PROFILES; key++) {
        if (!present[key]) {
            return POM_EINVAL;
        }
    }
    if (pull.at != pull.end || !read_source(reader, sections[POM_WIRE_SOURCE])) {
        return POM_EINVAL;
    }
    reader->has_report =
        present[POM_WIRE_REPORT] && read_report(&reader->report, sections[POM_WIRE_REPORT]);
    pom_status_t status = read_texts(reader, sections[POM_WIRE_TEXTS]);
    if (status == POM_OK) {
        status = read_codes(reader, sections[POM_WIRE_CODES]);
    }
    if (status == POM_OK) {
        status = read_stacks(reader, sections[POM_WIRE_STACKS]);
    }
    if (status == POM_OK) {
        reader->profiles = sections[POM_WIRE_PROFILES];
        if (!pom__pull_head(&reader->profiles, POM__ARRAY, &reader->profiles_left)) {
            status = POM_EINVAL;
        }
    }
    return status;
}

pom_status_t pom_msgpack_reader_begin(pom_msgpack_reader_t *reader, const void *data, size_t size) {
    size_t wanted;
    reset(reader);
    pom_status_t status = pom_msgpack_batch_size(data, size, &wanted);
    if (status != POM_OK) {
        return status == POM_ENOTFOUND ? POM_EINVAL : status;
    }
    if (size != wanted) {
        return POM_EINVAL;
    }
    const unsigned char *bytes = data;
    pom__pull_t pull = {bytes + POM_MSGPACK_HEAD, bytes + size};
    status = read_body(reader, pull);
    if (status != POM_OK) {
        reset(reader);
    }
    return status;
}

pom_status_t pom_msgpack_reader_next(pom_msgpack_reader_t *reader, pom_profile_t **out) {
    if (reader->profiles_left == 0) {
        return POM_ENOTFOUND;
    }
    pom__pull_t pull = reader->profiles;
    (void)pom__pull_skip(&reader->profiles); /* begin() has been over it once */
    reader->profiles_left--;
    pom_profile_t *profile = pom_profile_new(POM_MSGPACK_PROFILE_MAX);
    if (profile == NULL) {
        return POM_ENOMEM;
    }
    /* Room for what the rows bring is the arena's matter. */
    const pom_tree_limits_t limits = {UINT32_MAX / 2, UINT32_MAX / 2, UINT32_MAX};
    pom_tree_init(&profile->tree, &profile->arena, POM_BY_LINE, limits, 0);
    pom_status_t status = pom__read_profile(reader, pull, profile);
    if (status != POM_OK) {
        pom_profile_unref(profile);
        return status;
    }
    *out = profile;
    return POM_OK;
}
