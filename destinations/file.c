/*
 * The file destination. A batch becomes JSON lines in a buffer and the buffer one write
 * (append_file.c, which also knows what the path means at that moment). In the wire
 * form it becomes one batch of that form; "line" below is such a batch then.
 *
 * The write is made here, on the loop thread, not on libuv's thread pool: a write of a megabyte
 * to the page cache takes less than the encoding before it; the pool would add four threads to
 * somebody else's process, and CPU time that is not in the loop thread's clock, hence not in the
 * bill. The price: while a disk hangs, the other destinations of this process wait too (their
 * queues keep their budgets, no request notices).
 *
 * When a write fails:
 *   - a line that went in part is written again, whole: nothing is lost.
 *   - the lines are written again a second later (at once when somebody waits in a flush);
 *     failing again, they are dropped as `error`, and the next ones get the same chance. The
 *     batch is not ended meanwhile, so what piles up does so in the exporter's queue, within
 *     its budget.
 *   - a full pipe is no failure: the line goes on after 20 ms, for as long as it takes.
 *
 * Fork: lines that the parent has encoded are its own to write.
 *
 * Over 400 lines: encoding, writing and counting share the buffer, and each loss is counted from
 * it.
 */
#include "destinations/file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "destinations/append_file.h"
#include "destinations/stages.h"
#include "profiles/formats/json.h"
#include "profiles/formats/msgpack.h"

/* A write is begun when this much is encoded, which bounds the buffer: 1 MiB and one line. */
#define WRITE_BYTES ((size_t)1 << 20)

/* One line: JSON takes some three times what a profile weighs in memory, and that is at most the
 * budget of 16 MiB. */
#define LINE_BYTES ((size_t)64 << 20)

#define RETRY_MS 1000 /* a full disk or a quota does not change faster than people react */

#define FULL_PIPE_MS 20 /* a pipe holds 64 KiB, so this is 3 MB/s at worst */

/* A batch of the wire form in `out`. */
typedef struct unit_s {
    size_t bytes;
    int64_t profiles;
} unit_t;

/* More than flush=false ever holds back. */
#define UNITS_BYTES (((size_t)1 << 16) * sizeof(unit_t))

typedef struct file_s {
    pom_destination_t base;
    /* constant after new */
    bool flush;
    pom_file_format_t format;
    size_t write_bytes; /* a write is begun when this much is encoded */
    /* loop thread only, but for new, after_fork and free */
    pom__append_file_t file;
    pom_buf_t line;     /* one record being encoded */
    pom_buf_t out;      /* whole lines, encoded, not written */
    size_t begun;       /* of the first of them so many bytes are in a pipe that was full then */
    pom_buf_t units;    /* wire form: unit_t of each batch in `out` */
    pom_batch_t *batch; /* being encoded from `taken` on */
    bool failed;        /* the lines in `out` have been attempted */
    bool waiting;       /* for the timer, to attempt them again */
    uv_timer_t timer;
} file_t;

static file_t *file_of(pom_destination_t *self) {
    return (file_t *)(void *)self; /* base comes first */
}

pom_file_options_t pom_file_options_default(void) {
    return (pom_file_options_t){.append = false, .flush = true, .keep = 5};
}

/* ---- writing ---- */

static int64_t count_lines(const char *data, size_t size) {
    int64_t lines = 0;
    const char *end = data + size;
    for (const char *p = data; p < end; p++) {
        p = memchr(p, '\n', (size_t)(end - p));
        if (p == NULL) {
            break;
        }
        lines++;
    }
    return lines;
}

/* Profiles in the whole lines among the first `size` bytes of `out`; *whole: bytes of those
 * lines. */
static int64_t count_profiles(const file_t *f, size_t size, size_t *whole) {
    if (f->format == POM_FILE_JSON) {
        while (size > 0 && f->out.data[size - 1] != '\n') {
            size--;
        }
        *whole = size;
        return count_lines(f->out.data, size);
    }
    const unit_t *units = (const unit_t *)(const void *)f->units.data;
    int64_t profiles = 0;
    *whole = 0;
    for (size_t i = 0; i < f->units.len / sizeof *units && *whole + units[i].bytes <= size; i++) {
        *whole += units[i].bytes;
        profiles += units[i].profiles;
    }
    return profiles;
}

static int64_t profiles_in_out(const file_t *f) {
    size_t whole;
    return count_profiles(f, f->out.len, &whole);
}

/* Removes the first `whole` bytes of `out`, whole lines. */
static void remove_written(file_t *f, size_t whole) {
    f->begun = 0;
    if (whole == f->out.len) {
        pom_buf_reset(&f->out);
        pom_buf_reset(&f->units);
        return;
    }
    size_t gone = 0, bytes = 0;
    for (; f->units.len > gone && bytes < whole; gone += sizeof(unit_t)) {
        bytes += ((const unit_t *)(const void *)(f->units.data + gone))->bytes;
    }
    if (gone > 0) {
        memmove(f->units.data, f->units.data + gone, f->units.len - gone);
        f->units.len -= gone;
    }
    memmove(f->out.data, f->out.data + whole, f->out.len - whole);
    f->out.len -= whole;
}

/* Attempts what is in `out`. Returns 0 with `out` empty, or errno with the lines that did not go
 * whole. */
static int attempt(file_t *f) {
    size_t written, whole;
    int error = pom__append_file_write(&f->file, f->out.data, f->out.len, f->begun, &written);
    int64_t profiles = count_profiles(f, written, &whole);
    remove_written(f, whole);
    f->begun = error == EAGAIN ? written - whole : 0;
    if (profiles > 0) {
        pom_destination_sent(&f->base, profiles, (int64_t)whole);
    }
    return error;
}

static void drop_out(file_t *f, pom_drop_t reason) {
    int64_t profiles = profiles_in_out(f);
    remove_written(f, f->out.len);
    f->failed = false;
    pom_destination_dropped(&f->base, reason, profiles);
}

static void work(file_t *f, bool at_once);

static void on_timer(uv_timer_t *timer) {
    file_t *f = timer->data;
    f->waiting = false;
    work(f, false);
}

static void wait_ms(file_t *f, uint64_t ms) {
    f->waiting = true;
    (void)uv_timer_start(&f->timer, on_timer, ms, 0); /* fails only without a callback */
}

/* True when `out` is empty: written, or dropped. False when it waits for the timer. */
static bool write_out(file_t *f, bool at_once) {
    while (f->out.len > 0) {
        if (f->failed) {
            pom_destination_retried(&f->base, profiles_in_out(f));
        }
        pom__loop_enter(POM_LOOP_WRITE);
        int error = attempt(f);
        pom__loop_leave();
        if (error == 0) {
            break;
        }
        if (error == EAGAIN) {
            wait_ms(f, FULL_PIPE_MS);
            return false;
        }
        char text[128];
        pom_destination_error(&f->base, "cannot write '%s': %s", f->file.path,
                              uv_strerror_r(uv_translate_sys_error(error), text, sizeof text));
        if (f->failed) {
            drop_out(f, POM_DROP_ERROR);
        } else {
            f->failed = true;
            if (!at_once) {
                wait_ms(f, RETRY_MS);
                return false;
            }
        }
    }
    f->failed = false;
    return true;
}

/* ---- encoding ---- */

/* Room at the end of buf. A buffer that cannot grow loses what it has, so what was encoded already
 * is counted as lost with it. */
static bool make_room(file_t *f, pom_buf_t *buf, size_t size) {
    if (size > buf->cap - buf->len) {
        return false;
    }
    if (buf->data != NULL && size <= buf->room - buf->len) {
        return true;
    }
    int64_t had = profiles_in_out(f);
    if (pom_buf_reserve(buf, size) != NULL) {
        return true;
    }
    pom_buf_reset(&f->out);
    pom_buf_reset(&f->units);
    f->begun = 0;
    f->failed = false;
    pom_destination_dropped(&f->base, POM_DROP_SERIALIZE, had);
    return false;
}

/* Takes what is in `line` to the end of `out`; false for no room. */
static bool keep_line(file_t *f, int64_t profiles) {
    const unit_t unit = {f->line.len, profiles};
    bool is_wire = f->format == POM_FILE_MSGPACK;
    if (pom_buf_failed(&f->line) || !make_room(f, &f->out, f->line.len) ||
        (is_wire && !make_room(f, &f->units, sizeof unit))) {
        return false;
    }
    if (is_wire) {
        pom_buf_put(&f->units, &unit, sizeof unit);
    }
    pom_buf_put(&f->out, f->line.data, f->line.len);
    return true;
}

/* The next profiles of the batch, one line; counted as dropped when that fails. */
static void encode(file_t *f, pom_batch_t *batch) {
    pom_profile_t *const *profiles = batch->profiles + batch->taken;
    uint32_t count = 1;
    pom_buf_reset(&f->line);
    if (f->format == POM_FILE_JSON) {
        if (batch->taken + 1 < batch->count) {
            pom_profile_prefetch(profiles[1]);
        }
        pom_json_put_line(&f->line, profiles[0]);
    } else {
        const pom_profile_t *const *from = (const pom_profile_t *const *)profiles;
        count = batch->count - batch->taken;
        while (pom_msgpack_put_batch(&f->line, from, count, NULL) != POM_OK && count > 1) {
            count /= 2; /* one of them is a giant, or memory is short */
            pom_buf_reset(&f->line);
        }
    }
    batch->taken += count;
    if (f->line.len > 0 && keep_line(f, count)) {
        return;
    }
    pom_destination_error(
        &f->base,
        "a profile of %zu bytes could not be encoded: no memory, or a line over %zu bytes",
        pom_profile_bytes(profiles[0]), LINE_BYTES);
    pom_destination_dropped(&f->base, POM_DROP_SERIALIZE, count);
}

/* A giant profile passes; its buffers do not stay. */
static void shrink(pom_buf_t *buf) {
    if (buf->len == 0 && buf->room > 2 * WRITE_BYTES) {
        size_t cap = buf->cap;
        pom_buf_fini(buf);
        pom_buf_init(buf, cap);
    }
}

/* Takes the batch as far as it goes. at_once: a failed write is attempted again here and now,
 * not after a pause. */
static void work(file_t *f, bool at_once) {
    bool done = false;
    while (!done) {
        pom_batch_t *batch = f->batch;
        while (batch != NULL && batch->taken < batch->count && f->out.len < f->write_bytes) {
            pom__loop_enter(POM_LOOP_ENCODE);
            encode(f, batch);
            pom__loop_leave();
        }
        bool more = batch != NULL && batch->taken < batch->count;
        if (more || f->flush || at_once || f->failed || f->out.len >= POM_FILE_BUFFER) {
            if (!write_out(f, at_once)) {
                return; /* the batch stays ours, so the exporter sends no other */
            }
        }
        done = !more;
    }
    shrink(&f->line);
    shrink(&f->out);
    if (f->batch != NULL) {
        pom_batch_t *batch = f->batch;
        f->batch = NULL;
        pom_batch_end(batch);
    }
}

/* ---- the operations ---- */

static pom_status_t file_open(pom_destination_t *self, struct uv_loop_s *loop) {
    file_t *f = file_of(self);
    (void)uv_timer_init(loop, &f->timer); /* cannot fail */
    f->timer.data = f;
    f->waiting = false;
    return POM_OK;
}

static void file_deliver(pom_destination_t *self, pom_batch_t *batch) {
    file_t *f = file_of(self);
    f->batch = batch;
    if (!f->waiting) {
        work(f, false);
    }
}

static void file_flush(pom_destination_t *self) {
    file_t *f = file_of(self);
    if (f->batch != NULL || f->out.len > 0) {
        if (f->waiting) {
            (void)uv_timer_stop(&f->timer); /* cannot fail */
            f->waiting = false;
        }
        work(f, true);
    }
}

static void on_closed(uv_handle_t *handle) {
    file_t *f = handle->data;
    pom_destination_closed(&f->base);
}

static void file_close(pom_destination_t *self, pom_drop_t reason) {
    file_t *f = file_of(self);
    if (uv_is_closing((uv_handle_t *)&f->timer)) {
        return; /* the second time: it is as good as over */
    }
    file_flush(self);
    /* What is left is stuck behind a full pipe. */
    drop_out(f, reason);
    if (f->batch != NULL) {
        pom_batch_t *batch = f->batch;
        f->batch = NULL;
        pom_destination_dropped(self, reason, (int64_t)(batch->count - batch->taken));
        pom_batch_end(batch);
    }
    f->waiting = false;
    uv_close((uv_handle_t *)&f->timer, on_closed);
}

static void file_after_fork(pom_destination_t *self) {
    file_t *f = file_of(self);
    /* The parent's loop thread may have been inside any of these. Its lines are its own to
     * write. */
    pom_buf_init(&f->line, LINE_BYTES);
    pom_buf_init(&f->out, LINE_BYTES + WRITE_BYTES);
    pom_buf_init(&f->units, UNITS_BYTES);
    f->begun = 0;
    f->batch = NULL;
    f->failed = false;
    f->waiting = false;
    pom__append_file_after_fork(&f->file);
}

static void file_free(pom_destination_t *self) {
    file_t *f = file_of(self);
    pom__append_file_close(&f->file);
    pom_buf_fini(&f->line);
    pom_buf_fini(&f->out);
    pom_buf_fini(&f->units);
    pom_free(f);
}

static const pom_destination_ops_t file_ops = {
    .kind = "file",
    .open = file_open,
    .deliver = file_deliver,
    .flush = file_flush,
    .close = file_close,
    .after_fork = file_after_fork,
    .free = file_free,
};

pom_status_t pom_file_new(const char *path, const pom_file_options_t *options,
                          pom_destination_t **out, char *error, size_t error_size) {
    file_t *f = pom_calloc(1, sizeof *f);
    int failure = f != NULL ? pom__append_file_open(&f->file, path, options, &f->base) : ENOMEM;
    if (failure != 0) {
        pom_free(f);
        if (error != NULL && error_size > 0) {
            char text[128];
            (void)snprintf(error, error_size, "cannot open '%s': %s", path,
                           uv_strerror_r(uv_translate_sys_error(failure), text,
                                         sizeof text)); /* cut is fine */
        }
        errno = failure;
        return failure == ENOMEM ? POM_ENOMEM : POM_EIO;
    }
    f->flush = options->flush;
    f->format = options->format;
    f->write_bytes = options->rotate_bytes > 0 && options->rotate_bytes < (int64_t)WRITE_BYTES
                         ? (size_t)options->rotate_bytes
                         : WRITE_BYTES;
    pom_buf_init(&f->line, LINE_BYTES);
    pom_buf_init(&f->out, LINE_BYTES + WRITE_BYTES);
    pom_buf_init(&f->units, UNITS_BYTES);
    pom_destination_init(&f->base, &file_ops, path);
    f->base.prompt = f->format == POM_FILE_JSON; /* a batch of the wire form says its tables anew */
    *out = &f->base;
    return POM_OK;
}
