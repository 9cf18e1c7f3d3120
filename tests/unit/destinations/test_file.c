/*
 * The file destination behind a real exporter: whole lines, failing and partial writes, full
 * pipes, lost descriptors.
 *
 * writev is wrapped: a plan says for each call on the file's descriptor how many bytes go, or
 * which errno comes. So is uv_sleep, for what another process does meanwhile.
 */
#define _GNU_SOURCE // memmem
#include "tests/unit/destinations/fake.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "destinations/file.h"
#include "profiles/formats/msgpack_reader.h"

/* ---- the plan for writev ---- */

#define PLAN_PASS INT_MAX /* as it is */

static _Atomic(int) plan[16]; /* bytes to let through, -errno, or PLAN_PASS */
static _Atomic(int) plan_length, calls;

ssize_t __real_writev(int fd, const struct iovec *parts, int count);
ssize_t __wrap_writev(int fd, const struct iovec *parts, int count);

ssize_t __wrap_writev(int fd, const struct iovec *parts, int count) {
    int call = atomic_fetch_add(&calls, 1);
    int what = call < atomic_load(&plan_length) ? atomic_load(&plan[call]) : PLAN_PASS;
    if (what == PLAN_PASS) {
        return __real_writev(fd, parts, count);
    }
    if (what < 0) {
        errno = -what;
        return -1;
    }
    size_t left = (size_t)what;
    ssize_t written = 0;
    for (int i = 0; i < count && left > 0; i++) {
        size_t n = parts[i].iov_len < left ? parts[i].iov_len : left;
        if (n > 0 && write(fd, parts[i].iov_base, n) != (ssize_t)n) {
            return -1;
        }
        left -= n;
        written += (ssize_t)n;
    }
    return written;
}

static _Atomic(int) neighbour = -1; /* a descriptor, to which each sleep writes the end of a line */

void __wrap_uv_sleep(unsigned ms);

void __wrap_uv_sleep(unsigned ms) {
    (void)ms;
    int fd = atomic_load(&neighbour);
    if (fd >= 0 && write(fd, "0}\n", 3) != 3) {
        abort();
    }
    atomic_store(&neighbour, -1);
}

/* Ends with 0. */
static void plan_writes(const int *steps) {
    int n = 0;
    while (steps[n] != 0) {
        atomic_store(&plan[n], steps[n]);
        n++;
    }
    atomic_store(&calls, 0);
    atomic_store(&plan_length, n);
}

/* ---- the rig ---- */

static char directory[] = "/tmp/pom-test-file-XXXXXX";
static char path[256];

typedef struct rig_s {
    pom_exporter_t *e;
    pom_destination_t *d;
} rig_t;

static int64_t soon(void) {
    return pom_now_ns() + PATIENCE_NS;
}

static pom_file_format_t format; /* of files made; a test that changes it puts it back */

static pom_destination_t *file_new(const char *where, bool append, bool flush) {
    pom_file_options_t options = {.append = append, .flush = flush, .format = format};
    pom_destination_t *d = NULL;
    char error[256] = "";
    if (pom_file_new(where, &options, &d, error, sizeof error) != POM_OK) {
        fail_msg("%s", error);
    }
    return d;
}

static void rig_up(rig_t *rig, const char *where, bool append, bool flush) {
    plan_writes((const int[]){0});
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = POM_NS_PER_MS;
    assert_int_equal(pom_exporter_new(&options, &rig->e), POM_OK);
    rig->d = file_new(where, append, flush);
    assert_int_equal(pom_exporter_add(rig->e, rig->d), POM_OK);
}

static void rig_down(rig_t *rig) {
    free_exporter(rig->e);
    pom_destination_unref(rig->d);
    (void)unlink(path);
}

static char *content(const char *where, size_t *size) {
    FILE *in = fopen(where, "r");
    assert_non_null(in);
    char *text = calloc(1, 16 << 20);
    *size = fread(text, 1, (16 << 20) - 1, in);
    fclose(in);
    return text;
}

/* Lines of the file that are whole records, in order of the numbers from `first`; the others are
 * counted in *broken. */
static int check_lines(const char *where, int64_t first, int *broken) {
    size_t size;
    char *text = content(where, &size);
    int whole = 0;
    *broken = 0;
    char *line = text;
    while (line < text + size) {
        char *end = memchr(line, '\n', (size_t)(text + size - line));
        if (end == NULL) {
            (*broken)++;
            break;
        }
        *end = '\0';
        char wanted[64];
        snprintf(wanted, sizeof wanted, "\"thread\":%lld,", (long long)(first + whole));
        if (line[0] == '{' && end[-1] == '}' && strstr(line, wanted) != NULL) {
            whole++;
        } else {
            (*broken)++;
        }
        line = end + 1;
    }
    free(text);
    return whole;
}

/* As check_lines for the wire form: profiles in order from `first`, and places where a reader had
 * to look for the next magic. */
static int check_batches(const char *where, int64_t first, int *broken) {
    size_t size, at = 0, batch;
    char *data = content(where, &size);
    int whole = 0;
    pom_msgpack_reader_t *reader = pom_msgpack_reader_new();
    *broken = 0;
    while (at < size) {
        pom_profile_t *profile;
        if (pom_msgpack_batch_size(data + at, size - at, &batch) != POM_OK || batch > size - at ||
            pom_msgpack_reader_begin(reader, data + at, batch) != POM_OK) {
            (*broken)++;
            char *next = memmem(data + at + 1, size - at - 1, "\x93\xa4pomw", 6);
            at = next != NULL ? (size_t)(next - data) : size;
            continue;
        }
        while (pom_msgpack_reader_next(reader, &profile) == POM_OK) {
            assert_int_equal(profile->thread, first + whole);
            whole++;
            pom_profile_unref(profile);
        }
        at += batch;
    }
    pom_msgpack_reader_free(reader);
    free(data);
    return whole;
}

/* ---- the good days ---- */

static void test_file_writes_one_whole_line_each(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    for (int i = 0; i < 500; i++) {
        put(rig.e, i, 100);
    }
    assert_true(pom_exporter_flush(rig.e, soon()));
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 500);
    assert_int_equal(broken, 0);
    pom_destination_counters_t c = counters(rig.d);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(c.sent, 500);
    assert_int_equal(c.bytes, st.st_size);
    assert_string_equal(c.last_error, "");
    assert_int_equal(c.retried, 0);
    rig_down(&rig);
}

static void test_file_batch_is_one_write(void **state) {
    pom_exporter_options_t options = pom_exporter_options_default();
    options.flush_interval_ns = 3600 * POM_NS_PER_S;
    pom_exporter_t *e;
    assert_int_equal(pom_exporter_new(&options, &e), POM_OK);
    pom_destination_t *d = file_new(path, false, true);
    assert_int_equal(pom_exporter_add(e, d), POM_OK);
    assert_true(pom_exporter_flush(e, soon()));
    plan_writes((const int[]){0});
    /* One pump takes all that was put since the last one: the first turn of the thread may have
     * taken some. */
    for (int i = 0; i < 50; i++) {
        put(e, i, 0);
    }
    assert_true(pom_exporter_flush(e, soon()));
    assert_in_range(atomic_load(&calls), 1, 2);
    free_exporter(e);
    pom_destination_unref(d);
    (void)unlink(path);
}

static void test_file_overwrites_or_appends_as_told(void **state) {
    rig_t rig;
    int broken;
    for (int life = 0; life < 3; life++) {
        rig_up(&rig, path, life == 1, true);
        put(rig.e, life == 1 ? 1 : 0, 0);
        assert_true(pom_exporter_flush(rig.e, soon()));
        assert_int_equal(check_lines(path, 0, &broken), life == 1 ? 2 : 1);
        assert_int_equal(broken, 0);
        free_exporter(rig.e);
        pom_destination_unref(rig.d);
    }
    (void)unlink(path);
}

/* Its batches end with any byte, and nothing may stand between two. */
static void test_file_appends_to_the_wire_form(void **state) {
    rig_t rig;
    int broken;
    format = POM_FILE_MSGPACK;
    for (int life = 0; life < 3; life++) {
        rig_up(&rig, path, life > 0, true);
        put(rig.e, life, 0);
        assert_true(pom_exporter_flush(rig.e, soon()));
        assert_int_equal(check_batches(path, 0, &broken), life + 1);
        assert_int_equal(broken, 0);
        free_exporter(rig.e);
        pom_destination_unref(rig.d);
    }
    (void)unlink(path);
    format = POM_FILE_JSON;
}

static void test_file_append_after_half_a_line_begins_a_new_one(void **state) {
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "{\"torn\":", 8), 8);
    close(fd);
    rig_t rig;
    rig_up(&rig, path, true, true);
    put(rig.e, 0, 0);
    put(rig.e, 1, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 2);
    assert_int_equal(broken, 1);
    rig_down(&rig);
}

/* Another process that has the file open writes half a line, and is killed, or goes on while we
 * look; then we write. Its line in the file is to be this one, between two of ours. */
static void check_beside_a_neighbour(bool goes_on, const char *wanted) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "{\"torn\":", 8), 8);
    atomic_store(&neighbour, goes_on ? fd : -1);
    put(rig.e, 1, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    close(fd);
    size_t size;
    char *text = content(path, &size);
    assert_non_null(strstr(text, wanted));
    assert_null(strstr(text, "\n\n"));
    free(text);
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 2);
    assert_int_equal(broken, 1); /* the neighbour's */
    rig_down(&rig);
}

static void test_file_line_of_a_killed_neighbour_takes_none_of_ours_with_it(void **state) {
    check_beside_a_neighbour(false, "\n{\"torn\":\n");
}

static void test_file_write_of_a_neighbour_under_way_is_waited_for(void **state) {
    check_beside_a_neighbour(true, "\n{\"torn\":0}\n");
}

static void test_file_without_flush_waits_for_64_kib(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, false);
    struct stat st;
    put(rig.e, 0, 0);
    wait_for(counters(rig.d).produced == 1);
    int64_t number = 1;
    while (counters(rig.d).bytes == 0) {
        int64_t before = counters(rig.d).produced;
        put(rig.e, number++, 0);
        wait_for(counters(rig.d).produced > before);
        assert_true(number < 1000);
    }
    assert_true(counters(rig.d).bytes >= (64 << 10));
    put(rig.e, number++, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d).sent, number);
    put(rig.e, number++, 0);
    wait_for(counters(rig.d).produced == number);
    assert_int_equal(pom_exporter_stop(rig.e, soon()), POM_OK); /* written when closed */
    assert_int_equal(counters(rig.d).sent, number);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(counters(rig.d).bytes, st.st_size);
    rig_down(&rig);
}

static void test_file_writes_the_wire_form(void **state) {
    rig_t rig;
    int broken;
    struct stat st;
    format = POM_FILE_MSGPACK;
    for (int life = 0; life < 2; life++) {
        rig_up(&rig, path, life > 0, life > 0);
        for (int i = 0; i < 300; i++) {
            put(rig.e, 300 * life + i, 100);
        }
        assert_true(pom_exporter_flush(rig.e, soon()));
        assert_int_equal(check_batches(path, 0, &broken), 300 * (life + 1));
        assert_int_equal(broken, 0);
        assert_int_equal(counters(rig.d).sent, 300);
        assert_int_equal(stat(path, &st), 0);
        assert_true(life > 0 || counters(rig.d).bytes == st.st_size);
        free_exporter(rig.e);
        pom_destination_unref(rig.d);
    }
    (void)unlink(path);
    format = POM_FILE_JSON;
}

/* ---- bad days ---- */

static void test_file_batch_cut_by_a_full_disk_is_written_again(void **state) {
    rig_t rig;
    int broken;
    format = POM_FILE_MSGPACK;
    rig_up(&rig, path, false, true);
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    plan_writes((const int[]){40, -ENOSPC, PLAN_PASS, 0});
    put(rig.e, 1, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    put(rig.e, 2, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(check_batches(path, 0, &broken), 3);
    assert_int_equal(broken, 1);
    assert_int_equal(counters(rig.d).sent, 3);
    assert_int_equal(counters(rig.d).retried, 1);
    plan_writes((const int[]){-EIO, 40, -EIO, PLAN_PASS, 0});
    put(rig.e, 3, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d).dropped[POM_DROP_ERROR], 1);
    assert_int_equal(counters(rig.d).queued, 0);
    rig_down(&rig);
    format = POM_FILE_JSON;
}

static void test_file_partial_write_is_completed(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    plan_writes((const int[]){1, 100, -EINTR, 3, -EINTR, PLAN_PASS, 0});
    for (int i = 0; i < 5; i++) {
        put(rig.e, i, 0);
    }
    assert_true(pom_exporter_flush(rig.e, soon()));
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 5);
    assert_int_equal(broken, 0);
    assert_int_equal(counters(rig.d).sent, 5);
    rig_down(&rig);
}

static void test_file_full_disk_in_mid_line_costs_one_broken_line(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    plan_writes((const int[]){100, -ENOSPC, 0});
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon())); /* tried again at once, as somebody waits */
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 1);
    assert_int_equal(broken, 1); /* its first 100 bytes stand before it */
    pom_destination_counters_t c = counters(rig.d);
    assert_int_equal(c.sent, 1);
    assert_int_equal(c.retried, 1);
    assert_non_null(strstr(c.last_error, "no space left"));
    assert_non_null(strstr(c.last_error, path));
    rig_down(&rig);
}

static void test_file_failing_twice_drops_and_goes_on(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    /* Half a line goes, the retry gets its newline through and half a line again. */
    plan_writes((const int[]){50, -ENOSPC, 60, -ENOSPC, 0});
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d).dropped[POM_DROP_ERROR], 1);
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 1);
    assert_int_equal(broken, 2);
    assert_int_equal(counters(rig.d).sent, 1);
    rig_down(&rig);
}

static void test_file_retry_comes_by_itself(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    plan_writes((const int[]){-EIO, 0});
    put(rig.e, 0, 0);
    wait_for(counters(rig.d).sent == 1); /* a second later, without any call */
    assert_int_equal(counters(rig.d).retried, 1);
    rig_down(&rig);
}

/* acceptance: PM23 */
static void test_file_full_device_is_counted_and_profiling_goes_on(void **state) {
    rig_t rig;
    rig_up(&rig, "/dev/full", false, true);
    for (int i = 0; i < 10; i++) {
        put(rig.e, i, 0);
        assert_true(pom_exporter_flush(rig.e, soon()));
    }
    pom_destination_counters_t c = counters(rig.d);
    assert_int_equal(c.dropped[POM_DROP_ERROR], 10);
    assert_int_equal(c.sent, 0);
    assert_string_equal(c.last_error, "cannot write '/dev/full': no space left on device");
    rig_down(&rig);
}

static int reader_of(const char *fifo) {
    assert_int_equal(mkfifo(fifo, 0600), 0);
    int fd = open(fifo, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static void test_file_closed_pipe_is_an_error_not_a_signal(void **state) {
    int reader = reader_of(path);
    rig_t rig;
    rig_up(&rig, path, false, true);
    close(reader);
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d).dropped[POM_DROP_ERROR], 1);
    assert_non_null(strstr(counters(rig.d).last_error, "broken pipe"));
    rig_down(&rig);
}

/* What a reader gets that comes when the pipe is full, and reads on until everything was sent, is
 * in this file then. */
static void read_all(rig_t *rig, int reader, const char *into) {
    FILE *out = fopen(into, "w");
    assert_non_null(out);
    assert_false(pom_exporter_flush(rig->e, pom_now_ns() + 50 * POM_NS_PER_MS));
    char buffer[4096];
    int64_t end = soon();
    bool over = false;
    while (!over) {
        over = counters(rig->d).queued == 0 || pom_now_ns() > end; /* all is in the pipe */
        for (ssize_t n; (n = read(reader, buffer, sizeof buffer)) > 0;) {
            assert_int_equal(fwrite(buffer, 1, (size_t)n, out), n);
        }
    }
    assert_int_equal(fclose(out), 0);
}

static void check_through_a_pipe(int records, uint32_t line) {
    int reader = reader_of(path), broken;
    char into[300];
    (void)snprintf(into, sizeof into, "%s.read", path);
    char *text = calloc(1, line + 1);
    assert_non_null(text);
    memset(text, 'x', line);
    rig_t rig;
    rig_up(&rig, path, false, true);
    for (int i = 0; i < records; i++) {
        pom_profile_t *profile = profile_new(i, 0);
        assert_non_null(profile);
        profile->source = (pom_text_t){.data = text, .size = line};
        pom_exporter_put(rig.e, profile);
    }
    read_all(&rig, reader, into);
    assert_int_equal(counters(rig.d).sent, records);
    assert_int_equal(check_lines(into, 0, &broken), records);
    assert_int_equal(broken, 0);
    struct stat st;
    assert_int_equal(stat(into, &st), 0);
    assert_int_equal(counters(rig.d).bytes, st.st_size);
    assert_true(st.st_size > (64 << 10)); /* more than it holds */
    (void)unlink(into);
    close(reader);
    rig_down(&rig);
    free(text);
}

static void test_file_full_pipe_is_waited_for(void **state) {
    check_through_a_pipe(1000, 0);
}

static void test_file_line_larger_than_a_pipe_goes_through_it_whole(void **state) {
    check_through_a_pipe(3, 200 << 10);
}

static void test_file_full_pipe_does_not_hold_up_a_stop(void **state) {
    int reader = reader_of(path);
    rig_t rig;
    rig_up(&rig, path, false, true);
    for (int i = 0; i < 1000; i++) {
        put(rig.e, i, 0);
    }
    wait_for(pom_exporter_stop(rig.e, pom_now_ns() + 10 * POM_NS_PER_MS) == POM_OK);
    pom_destination_counters_t c = counters(rig.d);
    assert_int_equal(c.queued, 0);
    assert_int_equal(c.sent + c.dropped[POM_DROP_SHUTDOWN], 1000);
    assert_true(c.dropped[POM_DROP_SHUTDOWN] > 0);
    close(reader);
    rig_down(&rig);
}

static void close_all(void) {
    for (int fd = 3; fd < 200; fd++) {
        char link[64];
        char target[300];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof target - 1);
        if (n > 0) {
            target[n] = '\0';
            if (strcmp(target, path) == 0) {
                close(fd);
            }
        }
    }
}

static void test_file_closed_under_it_is_opened_again(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    close_all(); /* as daemons do */
    char other[300];
    snprintf(other, sizeof other, "%s/other", directory);
    int foreign = open(other, O_RDWR | O_CREAT, 0600); /* takes the number that became free */
    put(rig.e, 1, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    struct stat st;
    assert_int_equal(fstat(foreign, &st), 0);
    assert_int_equal(st.st_size, 0);
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 2);
    assert_int_equal(broken, 0);
    rig_down(&rig);
    assert_int_equal(fstat(foreign, &st), 0); /* still open */
    close(foreign);
    unlink(other);
}

static int descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static void test_file_that_was_deleted_is_made_anew(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, true);
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    int before = descriptors();
    assert_int_equal(unlink(path), 0);
    put(rig.e, 1, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(descriptors(), before);
    int broken;
    assert_int_equal(check_lines(path, 1, &broken), 1);
    assert_int_equal(broken, 0);
    rig_down(&rig);
}

/* With its folder: there is nowhere to write to, and each profile is counted as lost. */
static void test_file_that_cannot_be_made_anew_is_an_error(void **state) {
    char folder[300], inside[400];
    snprintf(folder, sizeof folder, "%s/gone", directory);
    snprintf(inside, sizeof inside, "%s/profiles", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    rig_t rig;
    rig_up(&rig, inside, false, true);
    assert_int_equal(unlink(inside), 0);
    assert_int_equal(rmdir(folder), 0);
    put(rig.e, 0, 0);
    (void)pom_exporter_flush(rig.e, soon());
    pom_destination_counters_t c = counters(rig.d);
    assert_int_equal(c.sent, 0);
    assert_int_equal(c.dropped[POM_DROP_ERROR], 1);
    assert_non_null(strstr(c.last_error, "no such file"));
    rig_down(&rig);
}

static void test_file_relative_path_survives_chdir(void **state) {
    char before[4096];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(directory), 0);
    rig_t rig;
    rig_up(&rig, "out.jsonl", false, true);
    assert_int_equal(chdir("/"), 0);
    close_all();
    put(rig.e, 0, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 1);
    rig_down(&rig);
    assert_int_equal(chdir(before), 0);
}

static void test_file_wrong_path_says_why(void **state) {
    static const struct {
        const char *path, *why;
    } cases[] = {
        {"/nonexistent/out.jsonl",
         "cannot open '/nonexistent/out.jsonl': no such file or directory"},
        {"/tmp", "cannot open '/tmp': illegal operation on a directory"},
        {"", "cannot open '': "},
    };
    pom_file_options_t options = pom_file_options_default();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pom_destination_t *d = NULL;
        char error[256] = "";
        assert_int_equal(pom_file_new(cases[i].path, &options, &d, error, sizeof error), POM_EIO);
        assert_null(d);
        assert_memory_equal(error, cases[i].why, strlen(cases[i].why));
        assert_int_equal(pom_file_new(cases[i].path, &options, &d, NULL, 0), POM_EIO);
    }
    /* A FIFO that nobody reads is refused, not waited for. */
    assert_int_equal(mkfifo(path, 0600), 0);
    pom_destination_t *d = NULL;
    assert_int_equal(pom_file_new(path, &options, &d, NULL, 0), POM_EIO);
    (void)unlink(path);
}

static void test_file_removed_in_mid_stream_loses_nothing_uncounted(void **state) {
    rig_t rig;
    rig_up(&rig, path, false, false);
    for (int i = 0; i < 3000; i++) {
        put(rig.e, i, 200);
        if (i == 2000) {
            assert_int_equal(pom_exporter_remove(rig.e, rig.d), POM_OK);
        }
    }
    assert_int_equal(pom_exporter_stop(rig.e, soon()), POM_OK);
    pom_destination_counters_t c = counters(rig.d);
    assert_int_equal(c.produced, 2001);
    assert_int_equal(c.sent + c.dropped[POM_DROP_REMOVED], 2001);
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), c.sent);
    assert_int_equal(broken, 0);
    rig_down(&rig);
}

/* ---- fork ---- */

static void test_file_is_shared_with_forked_children(void **state) {
    skip_when_sanitized();
    rig_t rig;
    rig_up(&rig, path, false, true);
    for (int i = 0; i < 100; i++) {
        put(rig.e, 1000 + i, 0);
    }
    pid_t children[3];
    for (int c = 0; c < 3; c++) {
        pom_exporter_before_fork(rig.e);
        children[c] = fork();
        if (children[c] == 0) {
            pom_exporter_after_fork_child(rig.e);
            for (int i = 0; i < 200; i++) {
                put(rig.e, 2000 + i, 0);
            }
            bool ok = pom_exporter_flush(rig.e, soon()) && counters(rig.d).sent == 200;
            pom_test_child_ends(ok && pom_exporter_stop(rig.e, soon()) == POM_OK);
        }
        pom_exporter_after_fork_parent(rig.e);
    }
    for (int i = 100; i < 200; i++) {
        put(rig.e, 1000 + i, 0);
    }
    assert_true(pom_exporter_flush(rig.e, soon()));
    for (int c = 0; c < 3; c++) {
        int status = -1;
        assert_int_equal(waitpid(children[c], &status, 0), children[c]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(counters(rig.d).sent, 200);
    size_t size;
    char *text = content(path, &size);
    int lines = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        assert_int_equal(line[0], '{');
        assert_int_equal(line[strlen(line) - 1], '}');
        lines++;
    }
    free(text);
    assert_int_equal(lines, 800); /* 200 of each; nothing of the parent's queue twice */
    rig_down(&rig);
}

/* What the parent has not written yet is its own. */
static void test_file_child_begins_with_nothing_encoded(void **state) {
    skip_when_sanitized();
    rig_t rig;
    format = POM_FILE_MSGPACK;
    rig_up(&rig, path, false, true);
    plan_writes((const int[]){-ENOSPC, -ENOSPC, 0});
    put(rig.e, 1, 0);
    wait_for(atomic_load(&calls) >= 1); /* to be tried again */
    pom_exporter_before_fork(rig.e);
    pid_t child = fork();
    if (child == 0) {
        pom_exporter_after_fork_child(rig.e);
        plan_writes((const int[]){0});
        put(rig.e, 2000, 0);
        put(rig.e, 2001, 0);
        bool ok = pom_exporter_flush(rig.e, soon()) && counters(rig.d).sent == 2;
        pom_test_child_ends(ok && pom_exporter_stop(rig.e, soon()) == POM_OK);
    }
    pom_exporter_after_fork_parent(rig.e);
    int status = -1, broken;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(check_batches(path, 2000, &broken), 2);
    assert_int_equal(broken, 0);
    assert_true(pom_exporter_flush(rig.e, soon()));
    assert_int_equal(counters(rig.d).dropped[POM_DROP_ERROR], 1);
    rig_down(&rig);
    format = POM_FILE_JSON;
}

/* ---- rotation ---- */

static void rotating_up(rig_t *rig, bool append, int64_t bytes, int64_t ns, uint32_t keep) {
    pom_file_options_t options = {.append = append,
                                  .flush = true,
                                  .format = format,
                                  .rotate_bytes = bytes,
                                  .rotate_ns = ns,
                                  .keep = keep};
    pom_exporter_options_t exporter = pom_exporter_options_default();
    exporter.flush_interval_ns = POM_NS_PER_MS;
    char error[256] = "";
    assert_int_equal(pom_exporter_new(&exporter, &rig->e), POM_OK);
    if (pom_file_new(path, &options, &rig->d, error, sizeof error) != POM_OK) {
        fail_msg("%s", error);
    }
    assert_int_equal(pom_exporter_add(rig->e, rig->d), POM_OK);
}

static const char *numbered(int number) {
    static char text[300];
    (void)snprintf(text, sizeof text, number > 0 ? "%s.%d" : "%s", path, number);
    return text;
}

/* The newest has number 0; -1: not even that one. */
static int oldest_file(void) {
    int number = 0;
    while (access(numbered(number), F_OK) == 0) {
        number++;
    }
    return number - 1;
}

static void remove_rotated(void) {
    for (int i = oldest_file(); i >= 0; i--) {
        (void)unlink(numbered(i));
    }
}

/* Puts one at a time, so that each is a write of its own. */
static void put_each(rig_t *rig, int from, int to) {
    for (int i = from; i < to; i++) {
        put(rig->e, i, 0);
        assert_true(pom_exporter_flush(rig->e, soon()));
    }
}

/* acceptance: PM23 */
static void test_file_rotates_by_size_between_lines(void **state) {
    rig_t rig;
    rotating_up(&rig, false, 4096, 0, 1000);
    put_each(&rig, 0, 100);
    int oldest = oldest_file();
    assert_true(oldest > 5);
    int next = 0;
    for (int i = oldest; i >= 0; i--) {
        struct stat st;
        int broken;
        assert_int_equal(stat(numbered(i), &st), 0);
        assert_true(st.st_size > 0 && st.st_size <= 4096);
        next += check_lines(numbered(i), next, &broken);
        assert_int_equal(broken, 0);
    }
    assert_int_equal(next, 100);
    assert_int_equal(counters(rig.d).sent, 100);
    assert_string_equal(counters(rig.d).last_error, "");
    remove_rotated();
    rig_down(&rig);
}

static void test_file_rotates_the_wire_form_between_batches(void **state) {
    rig_t rig;
    format = POM_FILE_MSGPACK;
    rotating_up(&rig, false, 1024, 0, 1000);
    put_each(&rig, 0, 60);
    int next = 0;
    assert_true(oldest_file() > 2);
    for (int i = oldest_file(); i >= 0; i--) {
        int broken;
        next += check_batches(numbered(i), next, &broken);
        assert_int_equal(broken, 0);
    }
    assert_int_equal(next, 60);
    remove_rotated();
    rig_down(&rig);
    format = POM_FILE_JSON;
}

static void test_file_a_batch_larger_than_a_file_is_divided(void **state) {
    rig_t rig;
    rotating_up(&rig, false, 4096, 0, 1000);
    for (int i = 0; i < 200; i++) {
        put(rig.e, i, 0);
    }
    assert_true(pom_exporter_flush(rig.e, soon()));
    int next = 0;
    assert_true(oldest_file() > 10);
    for (int i = oldest_file(); i >= 0; i--) {
        struct stat st;
        int broken;
        assert_int_equal(stat(numbered(i), &st), 0);
        assert_true(st.st_size <= 4096 + 1024); /* and a line, of some 600 bytes */
        next += check_lines(numbered(i), next, &broken);
    }
    assert_int_equal(next, 200);
    remove_rotated();
    rig_down(&rig);
}

static void test_file_keeps_so_many_rotated_files(void **state) {
    rig_t rig;
    rotating_up(&rig, false, 1024, 0, 2);
    put_each(&rig, 0, 50);
    assert_int_equal(oldest_file(), 2);
    int broken;
    assert_int_equal(check_lines(path, 49, &broken), 1); /* the newest is where it always is */
    remove_rotated();
    rig_down(&rig);
}

static void test_file_rotates_by_age(void **state) {
    rig_t rig;
    int64_t began = pom_now_ns();
    rotating_up(&rig, false, 0, POM_NS_PER_MS, 1000);
    put_each(&rig, 0, 1);
    int count = 1;
    while (oldest_file() < 2) {
        put_each(&rig, count, count + 1);
        count++;
        assert_true(pom_now_ns() < began + PATIENCE_NS);
    }
    assert_true(pom_now_ns() - began >= 2 * POM_NS_PER_MS);
    int next = 0;
    for (int i = oldest_file(); i >= 0; i--) {
        int broken;
        next += check_lines(numbered(i), next, &broken);
        assert_int_equal(broken, 0);
    }
    assert_int_equal(next, count);
    remove_rotated();
    rig_down(&rig);
}

static void test_file_appended_to_is_rotated_too(void **state) {
    rig_t rig;
    for (int life = 0; life < 3; life++) {
        rotating_up(&rig, true, 4096, 0, 1000);
        put_each(&rig, 20 * life, 20 * life + 20);
        free_exporter(rig.e);
        pom_destination_unref(rig.d);
    }
    int next = 0;
    assert_true(oldest_file() > 3);
    for (int i = oldest_file(); i >= 0; i--) {
        int broken;
        next += check_lines(numbered(i), next, &broken);
        assert_int_equal(broken, 0);
    }
    assert_int_equal(next, 60);
    remove_rotated();
}

/* acceptance: PM23 */
static void test_file_rotated_by_a_neighbour_is_not_written_on(void **state) {
    rig_t rig;
    rotating_up(&rig, false, 1 << 20, 0, 5);
    put_each(&rig, 0, 1);
    assert_int_equal(rename(path, numbered(1)), 0);
    put_each(&rig, 1, 3);
    int broken;
    assert_int_equal(check_lines(numbered(1), 0, &broken), 1);
    assert_int_equal(broken, 0);
    assert_int_equal(check_lines(path, 1, &broken), 2);
    assert_int_equal(broken, 0);
    remove_rotated();
    rig_down(&rig);
}

static void test_file_that_cannot_be_rotated_is_written_on(void **state) {
    rig_t rig;
    rotating_up(&rig, false, 1024, 0, 1);
    assert_int_equal(mkdir(numbered(1), 0700), 0); /* in the way */
    put_each(&rig, 0, 20);
    int broken;
    assert_int_equal(check_lines(path, 0, &broken), 20);
    assert_int_equal(counters(rig.d).sent, 20);
    const char *said = counters(rig.d).last_error;
    assert_non_null(strstr(said, "cannot rotate"));
    assert_non_null(strstr(said, "(1 times so far)")); /* not at each write */
    assert_int_equal(rmdir(numbered(1)), 0);
    rig_down(&rig);
}

static void test_file_rotates_what_a_link_points_to(void **state) {
    char target[300];
    (void)snprintf(target, sizeof target, "%s/target", directory);
    int fd = open(target, O_WRONLY | O_CREAT, 0640);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(symlink(target, path), 0);
    rig_t rig;
    rotating_up(&rig, false, 1024, 0, 1);
    put_each(&rig, 0, 5);
    char rotated[310];
    (void)snprintf(rotated, sizeof rotated, "%s.1", target);
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat(target, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640); /* as before */
    assert_int_equal(unlink(rotated), 0);
    assert_int_equal(unlink(target), 0);
    rig_down(&rig);
}

static void test_file_rotates_regular_files_only(void **state) {
    pom_file_options_t options = pom_file_options_default();
    options.rotate_bytes = 1;
    pom_destination_t *d = NULL;
    char error[256];
    assert_int_equal(pom_file_new("/dev/null", &options, &d, error, sizeof error), POM_EIO);
    assert_non_null(strstr(error, "invalid argument"));
}

/* acceptance: PM23 */
static void test_file_forked_workers_rotate_one_path_and_lose_nothing(void **state) {
    enum { WORKERS = 4, EACH = 150 };
    skip_when_sanitized();
    rig_t rig;
    rotating_up(&rig, false, 4096, 0, 100000);
    put_each(&rig, 0, 1); /* the descriptor is shared, the loop thread runs */
    pid_t children[WORKERS];
    for (int c = 0; c < WORKERS; c++) {
        pom_exporter_before_fork(rig.e);
        children[c] = fork();
        if (children[c] == 0) {
            pom_exporter_after_fork_child(rig.e);
            for (int i = 0; i < EACH; i++) {
                put(rig.e, 1000 * (c + 1) + i, 0);
                (void)pom_exporter_flush(rig.e, soon());
            }
            bool ok = counters(rig.d).sent == EACH && counters(rig.d).last_error[0] == '\0';
            pom_test_child_ends(ok && pom_exporter_stop(rig.e, soon()) == POM_OK);
        }
        pom_exporter_after_fork_parent(rig.e);
    }
    for (int c = 0; c < WORKERS; c++) {
        int status = -1;
        assert_int_equal(waitpid(children[c], &status, 0), children[c]);
        assert_int_equal(status, 0);
    }
    static char seen[1000 * (WORKERS + 1) + EACH];
    int lines = 0;
    int oldest = oldest_file();
    assert_in_range(oldest, WORKERS * EACH / 20, WORKERS * EACH);
    for (int i = oldest; i >= 0; i--) {
        size_t size;
        char *text = content(numbered(i), &size);
        assert_true(size > 0 && text[size - 1] == '\n');
        assert_true(i == 0 || size > 3000); /* moved when full, and once */
        for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
            const char *at = strstr(line, "\"thread\":");
            assert_true(line[0] == '{' && at != NULL && line[strlen(line) - 1] == '}');
            long number = strtol(at + 9, NULL, 10);
            assert_true(number >= 0 && (size_t)number < sizeof seen);
            assert_int_equal(seen[number]++, 0);
            lines++;
        }
        free(text);
    }
    assert_int_equal(lines, 1 + WORKERS * EACH);
    remove_rotated();
    rig_down(&rig);
}

/* ---- constructors ---- */

static bool make(void *arg) {
    pom_file_options_t options = pom_file_options_default();
    pom_destination_t *d = NULL;
    char error[64];
    pom_status_t status = pom_file_new(path, &options, &d, error, sizeof error);
    pom_destination_unref(d);
    return status == POM_OK;
}

static void test_file_survives_failing_allocations(void **state) {
    assert_int_equal(pom_torture(make, NULL), 3);
    (void)unlink(path);
}

static int make_directory(void **state) {
    if (mkdtemp(directory) == NULL) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/out.jsonl", directory);
    return 0;
}

static int remove_directory(void **state) {
    return rmdir(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_file_writes_one_whole_line_each),
        POM_TEST(test_file_batch_is_one_write),
        POM_TEST(test_file_overwrites_or_appends_as_told),
        POM_TEST(test_file_appends_to_the_wire_form),
        POM_TEST(test_file_append_after_half_a_line_begins_a_new_one),
        POM_TEST(test_file_line_of_a_killed_neighbour_takes_none_of_ours_with_it),
        POM_TEST(test_file_write_of_a_neighbour_under_way_is_waited_for),
        POM_TEST(test_file_without_flush_waits_for_64_kib),
        POM_TEST(test_file_writes_the_wire_form),
        POM_TEST(test_file_batch_cut_by_a_full_disk_is_written_again),
        POM_TEST(test_file_partial_write_is_completed),
        POM_TEST(test_file_full_disk_in_mid_line_costs_one_broken_line),
        POM_TEST(test_file_failing_twice_drops_and_goes_on),
        POM_TEST(test_file_retry_comes_by_itself),
        POM_TEST(test_file_full_device_is_counted_and_profiling_goes_on),
        POM_TEST(test_file_closed_pipe_is_an_error_not_a_signal),
        POM_TEST(test_file_full_pipe_is_waited_for),
        POM_TEST(test_file_line_larger_than_a_pipe_goes_through_it_whole),
        POM_TEST(test_file_full_pipe_does_not_hold_up_a_stop),
        POM_TEST(test_file_closed_under_it_is_opened_again),
        POM_TEST(test_file_that_was_deleted_is_made_anew),
        POM_TEST(test_file_that_cannot_be_made_anew_is_an_error),
        POM_TEST(test_file_relative_path_survives_chdir),
        POM_TEST(test_file_wrong_path_says_why),
        POM_TEST(test_file_removed_in_mid_stream_loses_nothing_uncounted),
        POM_TEST(test_file_is_shared_with_forked_children),
        POM_TEST(test_file_child_begins_with_nothing_encoded),
        POM_TEST(test_file_rotates_by_size_between_lines),
        POM_TEST(test_file_rotates_the_wire_form_between_batches),
        POM_TEST(test_file_a_batch_larger_than_a_file_is_divided),
        POM_TEST(test_file_keeps_so_many_rotated_files),
        POM_TEST(test_file_rotates_by_age),
        POM_TEST(test_file_appended_to_is_rotated_too),
        POM_TEST(test_file_rotated_by_a_neighbour_is_not_written_on),
        POM_TEST(test_file_that_cannot_be_rotated_is_written_on),
        POM_TEST(test_file_rotates_what_a_link_points_to),
        POM_TEST(test_file_rotates_regular_files_only),
        POM_TEST(test_file_forked_workers_rotate_one_path_and_lose_nothing),
        POM_TEST(test_file_survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
