/*
 * Encoding, and gzip. Lines of JSON at level 1: 300 000 instructions for a profile of 30 nodes,
 * three times that at the higher levels for a fifth of the bytes, and the loop thread's time is on
 * the bill. The wire form is a tenth of the bytes to begin with, so level 6 costs 30 000 instead of
 * 14 000, and takes off another eighth.
 *
 * JSON goes through the compressor line by line, so the whole text never exists at once; the wire
 * form is one piece by nature.
 */
#include "destinations/http_body.h"

#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "destinations/stages.h"
#include "profiles/formats/json.h"
#include "profiles/formats/msgpack.h"

/* One profile is at most the queue's 16 MiB, and a line some three times that. */
#define LINE_BYTES ((size_t)64 << 20)
#define BODY_BYTES ((size_t)64 << 20)

/* What a giant left behind does not stay. */
#define KEEP_BYTES ((size_t)2 << 20)

#define HOST_BYTES 256

#define JSON_LEVEL    1
#define MSGPACK_LEVEL 6

#define GZIP_WINDOW (15 + 16) /* zlib's way to say: the largest window, with a gzip header */

static voidpf zlib_alloc(voidpf context, uInt count, uInt size) {
    (void)context;
    return pom_calloc(count, size);
}

static void zlib_free(voidpf context, voidpf block) {
    (void)context;
    pom_free(block);
}

void pom__http_body_init(pom__http_body_t *b, pom_http_format_t format, bool compress) {
    memset(b, 0, sizeof *b);
    pom_buf_init(&b->out, BODY_BYTES);
    pom_buf_init(&b->line, LINE_BYTES);
    b->format = format;
    b->compress = compress;
}

void pom__http_body_fini(pom__http_body_t *b) {
    if (b->has_stream) {
        (void)deflateEnd(&b->stream); /* says only that it was not finished */
        b->has_stream = false;
    }
    pom_buf_fini(&b->out);
    pom_buf_fini(&b->line);
}

static void shrink(pom_buf_t *buf) {
    size_t cap = buf->cap;
    if (buf->room > KEEP_BYTES) {
        pom_buf_fini(buf);
        pom_buf_init(buf, cap);
    }
    pom_buf_reset(buf);
}

static bool begin(pom__http_body_t *b) {
    shrink(&b->out);
    shrink(&b->line);
    if (!b->compress) {
        return true;
    }
    if (b->has_stream) {
        return deflateReset(&b->stream) == Z_OK;
    }
    int level = b->format == POM_HTTP_JSON ? JSON_LEVEL : MSGPACK_LEVEL;
    b->stream.zalloc = zlib_alloc;
    b->stream.zfree = zlib_free;
    b->has_stream =
        deflateInit2(&b->stream, level, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) == Z_OK;
    return b->has_stream;
}

/* Appends to the body. False: no room; the buffer is failed then. */
static bool append(pom__http_body_t *b, const char *data, size_t size, bool last) {
    if (!b->compress) {
        pom_buf_put(&b->out, data, size);
        return !pom_buf_failed(&b->out);
    }
    b->stream.next_in = (z_const Bytef *)(uintptr_t)data;
    b->stream.avail_in = (uInt)size; /* at most LINE_BYTES */
    int result;
    do {
        size_t room = 4096 + b->stream.avail_in / 8;
        char *out = pom_buf_reserve(&b->out, room);
        if (out == NULL) {
            return false;
        }
        b->stream.next_out = (Bytef *)out;
        b->stream.avail_out = (uInt)room;
        pom__loop_enter(POM_LOOP_COMPRESS);
        result = deflate(&b->stream, last ? Z_FINISH : Z_NO_FLUSH);
        pom__loop_leave();
        b->out.len += room - b->stream.avail_out;
    } while (b->stream.avail_out == 0 || (last && result == Z_OK));
    return true;
}

static pom_status_t encode_json(pom__http_body_t *b, pom_profile_t *const *profiles, uint32_t count,
                                uint32_t *put) {
    for (uint32_t i = 0; i < count; i++) {
        pom_buf_reset(&b->line);
        pom_json_put_line(&b->line, profiles[i]);
        if (pom_buf_failed(&b->line)) {
            continue; /* the others may fit */
        }
        if (!append(b, b->line.data, b->line.len, false)) {
            return POM_EFULL;
        }
        (*put)++;
    }
    return POM_OK;
}

/* host is borrowed by the result. */
static pom_msgpack_source_t source_of(pom_text_t name, int32_t pid, pom_id_t id,
                                      char host[HOST_BYTES]) {
    memset(host, 0, HOST_BYTES);
    (void)gethostname(host, HOST_BYTES - 1); /* empty: not told */
    return (pom_msgpack_source_t){
        .name = name,
        .host = {host, (uint32_t)strlen(host)},
        .pid = pid,
        .batch_id = id,
        .created_wall_ns = pom_wall_ns(),
    };
}

static pom_status_t encode_msgpack(pom__http_body_t *b, pom_profile_t *const *profiles,
                                   uint32_t count, pom_id_t id, uint32_t *put) {
    char host[HOST_BYTES];
    pom_msgpack_source_t source = source_of(profiles[0]->source, profiles[0]->pid, id, host);
    pom_status_t status = pom_msgpack_put_batch(
        &b->line, (const pom_profile_t *const *)(const void *)profiles, count, &source);
    if (status == POM_OK && !append(b, b->line.data, b->line.len, false)) {
        status = POM_EFULL;
    }
    *put = status == POM_OK ? count : 0;
    return status;
}

pom_status_t pom__http_body_encode(pom__http_body_t *b, pom_profile_t *const *profiles,
                                   uint32_t count, pom_id_t id, uint32_t *put) {
    *put = 0;
    if (!begin(b)) {
        return POM_ENOMEM;
    }
    pom_status_t status = b->format == POM_HTTP_JSON ? encode_json(b, profiles, count, put)
                                                     : encode_msgpack(b, profiles, count, id, put);
    if (status == POM_OK && b->compress && !append(b, "", 0, true)) {
        status = POM_EFULL;
    }
    return status;
}

pom_status_t pom__http_body_encode_report(pom__http_body_t *b, const pom_client_report_t *report,
                                          pom_text_t name, pom_id_t id) {
    char host[HOST_BYTES];
    pom_status_t status = POM_OK;
    if (!begin(b)) {
        return POM_ENOMEM;
    }
    if (b->format == POM_HTTP_JSON) {
        pom_json_put_report(&b->line, report, name, getpid());
    } else {
        pom_msgpack_source_t source = source_of(name, getpid(), id, host);
        status = pom_msgpack_put_report(&b->line, report, &source);
    }
    bool good = status == POM_OK && !pom_buf_failed(&b->line) &&
                append(b, b->line.data, b->line.len, false) &&
                (!b->compress || append(b, "", 0, true));
    return good ? POM_OK : POM_ENOMEM; /* far from any limit */
}

const char *pom__http_body_type(pom_http_format_t format) {
    return format == POM_HTTP_JSON ? "application/x-ndjson" : POM_MSGPACK_TYPE;
}
