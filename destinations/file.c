/*
 * The file destination. A batch becomes JSON lines in a buffer and the buffer one write, so that
 * lines of several processes (forked workers share the descriptor, O_APPEND) never mix. In the wire
 * form it becomes one batch of that form; "line" below is such a batch then. It needs no newline
 * behind one that was cut: a reader looks for the next magic.
 *
 * The write is made here, on the loop thread, not on libuv's thread pool: a write of a megabyte
 * to the page cache takes less than the encoding before it; the pool would add four threads to
 * somebody else's process, and CPU time that is not in the loop thread's clock, hence not in the
 * bill. The price: while a disk hangs, the other destinations of this process wait too (their
 * queues keep their budgets, no request notices). FIFOs and terminals are opened non-blocking,
 * so a reader that does not read is a pause, not a hang.
 *
 * When a write fails:
 *   - a partial write is completed; if that fails in the middle of a line, the next write begins
 *     with a newline and that line again, whole: a reader meets one broken line, loses nothing.
 *   - the lines are written again a second later (at once when somebody waits in a flush);
 *     failing again, they are dropped as `error`, and the next ones get the same chance. The
 *     batch is not ended meanwhile, so what piles up does so in the exporter's queue, within
 *     its budget.
 *   - a full pipe is no failure: it is tried again every 20 ms, for as long as it takes.
 *
 * Fork: the child shares the descriptor. Daemons close descriptors they do not know, and the
 * number may then be a socket of theirs; so each write first checks (fstat, 0.3 us) that the
 * descriptor is still our file, and opens the path again, appending, when it is not. Opening
 * anew in each child would fail where workers have given up the rights to do so.
 *
 * Rotation (rotate.c moves the files) happens between two writes, so no line or batch is ever
 * split. A file that is rotated by us is followed by its path: before each write the path is
 * looked up (stat, 0.5 us), and when it names another file, since another process has rotated,
 * that one is opened. When rotating or opening fails the old descriptor is written on, the failure is
 * counted in last_error, and it is tried again a minute later: a file that is too large is better
 * than none. Without rotation a renamed file is written on.
 */
#include "destinations/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "destinations/rotate.h"
#include "destinations/stages.h"
#include "profiles/formats/json.h"
#include "profiles/formats/msgpack.h"

/* A write is begun when this much is encoded, which bounds the buffer: 1 MiB and one line. */
#define WRITE_BYTES ((size_t)1 << 20)

/* One line: JSON takes some three times what a profile weighs in memory, and that is at most the
 * budget of 16 MiB. */
#define LINE_BYTES ((size_t)64 << 20)

#define RETRY_MS        1000 /* a full disk or a quota does not change faster than people react */
#define ROTATE_RETRY_NS (60 * POM_NS_PER_S) /* rights and folders change when people act */

#define FULL_PIPE_MS 20 /* a pipe holds 64 KiB, so this is 3 MB/s at worst */

/* A batch of the wire form in `out`. */
typedef struct unit_s {
    size_t bytes;
    int64_t profiles;
} unit_t;

#define UNITS_BYTES (((size_t)1 << 16) * sizeof(unit_t)) /* more than flush=false ever holds back */

typedef struct file_s {
    pom_destination_t base;
    /* constant after new */
    char *path; /* absolute */
    bool flush;
    pom_file_format_t format;
    mode_t type;                     /* S_IFREG, S_IFIFO ... */
    int64_t rotate_bytes, rotate_ns; /* 0: not */
    uint32_t keep;
    size_t write_bytes; /* a write is begun when this much is encoded */
    /* loop thread only, but for new, after_fork and free */
    int fd;
    dev_t dev; /* what fd was when it was opened */
    ino_t ino;
    mode_t mode;            /* rights of the file that was opened last, for the next one */
    int64_t opened_ns;      /* this file */
    int64_t next_rotate_ns; /* after a failure: not before */
    int64_t rotate_failures;
    bool torn;          /* the file ends inside a line */
    pom_buf_t line;     /* one record being encoded */
    pom_buf_t out;      /* whole lines, encoded, not written */
    pom_buf_t units;    /* wire form: unit_t of each batch in `out` */
    pom_batch_t *batch; /* being encoded from `taken` on */
    bool failed;        /* the lines in `out` have been attempted */
    bool waiting;       /* for the timer, to attempt them again */
    uv_timer_t timer;
} file_t;

static file_t *file_of(pom_destination_t *self) {
    return (file_t *)(void *)self; /* base comes first */
}

static const char *errno_text(int error, char *text, size_t size) {
    return uv_strerror_r(uv_translate_sys_error(error), text, size);
}

pom_file_options_t pom_file_options_default(void) {
    return (pom_file_options_t){.append = false, .flush = true, .keep = 5};
}

/* ---- the descriptor ---- */

/* 0 or errno. */
static int open_path(file_t *f, int flags) {
    int fd;
    do {
        fd =
            open(f->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | flags,
                 f->mode);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno;
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int error = errno;
        (void)close(fd); /* nothing was written */
        return error;
    }
    f->fd = fd;
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    f->type = st.st_mode & S_IFMT;
    f->mode = st.st_mode & 0777;
    f->opened_ns = pom_now_ns();
    return 0;
}

/* A predecessor that was killed may have left half a line. Best effort: a file that may not be
 * read is taken to be whole. */
static bool ends_inside_line(const file_t *f) {
    if (f->type != S_IFREG || f->format != POM_FILE_JSON) {
        return false;
    }
    bool inside = false;
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        struct stat st;
        char last = '\n';
        if (fstat(fd, &st) == 0 && st.st_size > 0 && pread(fd, &last, 1, st.st_size - 1) == 1) {
            inside = last != '\n';
        }
        (void)close(fd); /* read only */
    }
    return inside;
}

static bool is_ours(const file_t *f) {
    struct stat st;
    return f->fd >= 0 && fstat(f->fd, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino;
}

/* ---- rotation ---- */

static bool rotates(const file_t *f) {
    return f->rotate_bytes > 0 || f->rotate_ns > 0;
}

static void rotation_failed(file_t *f, const char *doing, int error) {
    char text[128];
    f->next_rotate_ns = pom_now_ns() + ROTATE_RETRY_NS;
    f->rotate_failures++;
    pom_destination_error(&f->base, "cannot %s '%s': %s (%lld times so far)", doing, f->path,
                          errno_text(error, text, sizeof text), (long long)f->rotate_failures);
}

/* Goes over to what the path names now, if that is another file. Otherwise, and when it cannot be
 * opened, the present one stays. */
static void follow_path(file_t *f) {
    struct stat st;
    if (stat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino) {
        return;
    }
    int before = f->fd;
    int error = open_path(f, 0);
    if (error != 0) {
        rotation_failed(f, "open", error);
        return;
    }
    (void)close(before); /* each write to it was checked */
    f->torn = ends_inside_line(f);
}

static bool is_full(const file_t *f, int64_t now_ns) {
    struct stat st;
    if (now_ns < f->next_rotate_ns || fstat(f->fd, &st) != 0 || st.st_size == 0) {
        return false;
    }
    return (f->rotate_bytes > 0 && st.st_size + (int64_t)f->out.len > f->rotate_bytes) ||
           (f->rotate_ns > 0 && now_ns - f->opened_ns >= f->rotate_ns);
}

/* The descriptor is the file to write to next. */
static void turn(file_t *f) {
    if (pom_now_ns() >= f->next_rotate_ns) {
        follow_path(f);
    }
    if (is_full(f, pom_now_ns())) {
        int error = pom__rotate(f->path, f->keep, f->dev, f->ino);
        if (error != 0) {
            rotation_failed(f, "rotate", error);
        } else {
            follow_path(f);
        }
    }
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

/* Profiles in the whole lines among the first `size` bytes of `out`; *whole: bytes of those lines. */
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

/* Writes newline (if the file ends inside a line) and lines in one call where the system does it
 * in one. Returns 0 or errno; *written counts the bytes that went, the newline included. */
static int write_all(file_t *f, size_t newline, size_t *written) {
    char mark = '\n';
    size_t total = newline + f->out.len;
    *written = 0;
    while (*written < total) {
        size_t at = *written >= newline ? *written - newline : 0;
        struct iovec parts[2] = {
            {.iov_base = &mark, .iov_len = newline},
            {.iov_base = f->out.data + at, .iov_len = f->out.len - at},
        };
        int first = *written < newline ? 0 : 1;
        ssize_t n = writev(f->fd, parts + first, 2 - first);
        if (n > 0) {
            *written += (size_t)n;
        } else if (n == 0) {
            return EIO; /* no such answer is promised for a non-empty write: do not spin on it */
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

/* Attempts what is in `out`. Returns 0 with `out` empty, or errno with the lines that did not go
 * whole. */
static int attempt(file_t *f) {
    if (!is_ours(f)) {
        f->fd = -1; /* not closed: the number is somebody else's now, or nobody's */
        int error = open_path(f, 0);
        if (error != 0) {
            return error;
        }
        f->torn = ends_inside_line(f);
    }
    if (rotates(f)) {
        turn(f);
    }
    size_t newline = f->torn ? 1 : 0;
    size_t written = 0;
    int error = write_all(f, newline, &written);
    size_t data = written > newline ? written - newline : 0;
    size_t whole;
    if (error == 0) {
        f->torn = false;
        int64_t profiles = profiles_in_out(f);
        remove_written(f, f->out.len);
        pom_destination_sent(&f->base, profiles, (int64_t)data);
        return 0;
    }
    int64_t profiles = count_profiles(f, data, &whole);
    if (written > 0) {
        f->torn = data > whole && f->format == POM_FILE_JSON;
    }
    remove_written(f, whole);
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
        if (error == EAGAIN || error == EWOULDBLOCK) {
            wait_ms(f, FULL_PIPE_MS);
            return false;
        }
        char text[128];
        pom_destination_error(&f->base, "cannot write '%s': %s", f->path,
                              errno_text(error, text, sizeof text));
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
    f->batch = NULL;
    f->failed = false;
    f->waiting = false;
    f->torn = false;
}

static void file_free(pom_destination_t *self) {
    file_t *f = file_of(self);
    if (is_ours(f)) {
        (void)close(
            f->fd); /* every write was checked; what close could add is of no use to anybody now */
    }
    pom_buf_fini(&f->line);
    pom_buf_fini(&f->out);
    pom_buf_fini(&f->units);
    pom_free(f->path);
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

/* Owned; NULL for no memory, or when the working directory cannot be told (*error is set). */
static char *absolute(const char *path, int *error) {
    char directory[4096] = "";
    if (path[0] != '/' && getcwd(directory, sizeof directory - 1) == NULL) {
        *error = errno;
        return NULL;
    }
    size_t base = strlen(directory);
    if (base > 0) {
        directory[base++] = '/';
    }
    size_t size = strlen(path) + 1;
    char *joined = pom_alloc(base + size);
    if (joined == NULL) {
        *error = ENOMEM;
        return NULL;
    }
    memcpy(joined, directory, base);
    memcpy(joined + base, path, size);
    return joined;
}

/* The path of a link's target, so that the target is rotated and not the link. 0 or errno. */
static int follow_links(file_t *f) {
    char target[PATH_MAX];
    if (realpath(f->path, target) == NULL) {
        return errno == ENOENT ? 0 : errno; /* a new file, or open_path() knows better */
    }
    char *path = absolute(target, &(int){0});
    if (path == NULL) {
        return ENOMEM;
    }
    pom_free(f->path);
    f->path = path;
    return 0;
}

pom_status_t pom_file_new(const char *path, const pom_file_options_t *options,
                          pom_destination_t **out, char *error, size_t error_size) {
    int failure = ENOMEM;
    file_t *f = pom_calloc(1, sizeof *f);
    if (f == NULL) {
        goto fail;
    }
    f->flush = options->flush;
    f->format = options->format;
    f->rotate_bytes = options->rotate_bytes;
    f->rotate_ns = options->rotate_ns;
    f->keep = options->keep;
    f->mode = 0666;
    f->write_bytes = f->rotate_bytes > 0 && f->rotate_bytes < (int64_t)WRITE_BYTES
                         ? (size_t)f->rotate_bytes
                         : WRITE_BYTES;
    f->path = absolute(path, &failure);
    if (f->path == NULL) {
        goto fail_path;
    }
    failure = rotates(f) ? follow_links(f) : 0;
    if (failure == 0) {
        failure = open_path(f, options->append ? 0 : O_TRUNC);
    }
    if (failure != 0) {
        goto fail_open;
    }
    if (rotates(f) && f->type != S_IFREG) {
        (void)close(f->fd);
        failure = EINVAL;
        goto fail_open;
    }
    f->torn = ends_inside_line(f);
    pom_buf_init(&f->line, LINE_BYTES);
    pom_buf_init(&f->out, LINE_BYTES + WRITE_BYTES);
    pom_buf_init(&f->units, UNITS_BYTES);
    pom_destination_init(&f->base, &file_ops, path);
    f->base.prompt = f->format == POM_FILE_JSON; /* a batch of the wire form says its tables anew */
    *out = &f->base;
    return POM_OK;

fail_open:
    pom_free(f->path);
fail_path:
    pom_free(f);
fail:
    if (error != NULL && error_size > 0) {
        char text[128];
        (void)snprintf(error, error_size, "cannot open '%s': %s", path,
                       errno_text(failure, text, sizeof text)); /* cut is fine */
    }
    errno = failure;
    return failure == ENOMEM ? POM_ENOMEM : POM_EIO;
}
