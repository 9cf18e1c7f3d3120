/* The spool: order, acknowledgement, cap, adoption, what crashes and bad disks leave. */
#include "tests/unit/support/test_support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "destinations/spool.h"

#define ADDRESS "https://collector.example/api/data"

static char directory[32];

static int make_directory(void **state) {
    (void)snprintf(directory, sizeof directory, "/tmp/pom-spool-XXXXXX");
    assert_non_null(mkdtemp(directory));
    return pom_test_setup(state);
}

static int drop_directory(void **state) {
    char command[64];
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
    return pom_test_teardown(state);
}

/* Disk faults: the n-th pwritev from now is short, or fails. */
static int fail_write_at;
ssize_t __real_pwritev(int fd, const struct iovec *parts, int count, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *parts, int count, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    if (fail_write_at > 0 && --fail_write_at == 0) {
        return __real_pwritev(fd, parts, 1, at); /* the head went, the body did not */
    }
    return __real_pwritev(fd, parts, count, at);
}

/* A file of that name cannot be opened, for want of descriptors. */
static const char *fail_open_of;
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (fail_open_of != NULL && strstr(path, fail_open_of) != NULL) {
        errno = EMFILE;
        return -1;
    }
    return __real_open(path, flags, mode);
}

static pom__spool_t *spool_with(int64_t cap) {
    char error[256] = "";
    pom__spool_t *s = NULL;
    if (pom__spool_new(directory, ADDRESS, cap, &s, error, sizeof error) != POM_OK) {
        fail_msg("%s", error);
    }
    return s;
}

static pom__spool_t *opened(int64_t want_adopted) {
    pom__spool_t *s = spool_with(POM__SPOOL_CAP);
    int64_t adopted = -1;
    assert_int_equal(pom__spool_open(s, &adopted), POM_OK);
    assert_int_equal(adopted, want_adopted);
    return s;
}

static pom_status_t try_put(pom__spool_t *s, uint32_t number, size_t size,
                            pom__spool_lost_t *lost) {
    pom__spool_entry_t e = {.key = {number, 7},
                            .created_wall_ns = pom_wall_ns(),
                            .count = number,
                            .format = 1,
                            .compressed = true};
    char *body = malloc(size + 1);
    memset(body, (int)('a' + number % 26), size);
    pom_status_t status = pom__spool_put(s, &e, body, size, lost);
    free(body);
    return status;
}

/* Entry `number` holds that many profiles. */
static void put(pom__spool_t *s, uint32_t number, size_t size) {
    pom__spool_lost_t lost = {0};
    assert_int_equal(try_put(s, number, size, &lost), POM_OK);
    assert_int_equal(lost.evicted, 0);
}

/* The number of the next entry, 0: none. */
static uint32_t next(pom__spool_t *s, pom__spool_lost_t *lost) {
    pom_buf_t body;
    pom__spool_entry_t e;
    pom_buf_init(&body, POM__SPOOL_BODY_MAX);
    uint32_t number = 0;
    if (pom__spool_next(s, &e, &body, lost)) {
        number = e.count;
        assert_int_equal(e.key.hi, number);
        assert_int_equal(e.key.lo, 7);
        assert_int_equal(e.format, 1);
        assert_true(e.compressed);
        for (size_t i = 0; i < body.len; i++) {
            assert_int_equal(body.data[i], 'a' + number % 26);
        }
    }
    pom_buf_fini(&body);
    return number;
}

static void expect(pom__spool_t *s, uint32_t number) {
    pom__spool_lost_t lost = {0};
    assert_int_equal(next(s, &lost), number);
    if (number > 0) {
        assert_true(pom__spool_ack(s));
    }
    assert_int_equal(lost.evicted + lost.too_old + lost.damaged + lost.segments, 0);
}

/* Files below the directory whose name ends so; the path of the last one. */
static int files(const char *folder, const char *end, char path[512]) {
    char inner[512];
    int count = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        if (e->d_name[0] == '.') {
            continue;
        }
        (void)snprintf(inner, sizeof inner, "%.200s/%.200s", folder, e->d_name);
        struct stat st;
        assert_int_equal(lstat(inner, &st), 0);
        if (S_ISDIR(st.st_mode)) {
            assert_int_equal(st.st_mode & 0777, 0700);
            count += files(inner, end, path);
        } else {
            assert_int_equal(st.st_mode & 0777, 0600);
            size_t size = strlen(inner);
            if (size > strlen(end) && strcmp(inner + size - strlen(end), end) == 0) {
                memcpy(path, inner, size + 1);
                count++;
            }
        }
    }
    closedir(d);
    return count;
}

/* As if the process had been killed: nothing is tidied up, but locks are gone. */
static void die(pom__spool_t *s) {
    pom__spool_after_fork(s); /* forgets and closes, removes nothing */
    pom__spool_free(s);
}

static void test_spool_gives_back_in_order(void **state) {
    char path[512];
    pom__spool_t *s = opened(0);
    expect(s, 0);
    for (uint32_t i = 1; i <= 50; i++) {
        put(s, i, i * 100);
    }
    assert_int_equal(pom__spool_profiles(s), 50 * 51 / 2);
    for (uint32_t i = 1; i <= 20; i++) {
        expect(s, i);
    }
    put(s, 51, 0); /* an empty body is one too */
    pom__spool_lost_t lost = {0};
    assert_int_equal(next(s, &lost), 21);
    assert_int_equal(next(s, &lost), 21); /* not acknowledged: the same */
    for (uint32_t i = 21; i <= 51; i++) {
        expect(s, i);
    }
    expect(s, 0);
    assert_int_equal(pom__spool_profiles(s), 0);
    assert_int_equal(pom__spool_bytes(s), 0);
    assert_int_equal(files(directory, ".seg", path), 0);
    pom__spool_free(s);
    assert_int_equal(files(directory, "lock", path), 0);
}

static void test_spool_is_adopted_after_a_crash(void **state) {
    pom__spool_t *s = opened(0);
    for (uint32_t i = 1; i <= 5; i++) {
        put(s, i, 1000);
    }
    expect(s, 1);
    expect(s, 2);
    die(s);
    s = opened(3 + 4 + 5);
    put(s, 6, 10);
    for (uint32_t i = 3; i <= 6; i++) {
        expect(s, i);
    }
    expect(s, 0);
    pom__spool_free(s);
}

static void damage(const char *path, off_t at, const char *bytes, size_t size) {
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, at), size);
    close(fd);
}

/* After a power cut the disk may have one acknowledgement and not the one before it. */
static void test_spool_sends_what_is_pending_among_others(void **state) {
    char path[512];
    pom__spool_t *s = opened(0);
    for (uint32_t i = 1; i <= 4; i++) {
        put(s, i, 100);
    }
    die(s);
    assert_int_equal(files(directory, "00000001.seg", path), 1);
    damage(path, 164 + 4, "A", 1);
    damage(path, 2 * 164 + 4, "A", 1);
    s = opened(1 + 4);
    expect(s, 1);
    expect(s, 4);
    expect(s, 0);
    pom__spool_free(s);
}

static void test_spool_is_kept_when_it_is_closed_in_order(void **state) {
    pom__spool_t *s = opened(0);
    put(s, 9, 10);
    pom__spool_free(s);
    s = opened(9);
    expect(s, 9);
    pom__spool_free(s);
}

static void test_spool_of_the_living_is_left_alone(void **state) {
    pom__spool_t *a = opened(0);
    put(a, 1, 10);
    pom__spool_t *b = opened(0);
    put(b, 2, 10);
    expect(a, 1);
    expect(b, 2);
    put(a, 3, 10);
    /* A child that forgets does not release the parent's lock. */
    pid_t pid = fork();
    if (pid == 0) {
        int64_t adopted = -1;
        pom__spool_after_fork(a);
        pom__spool_after_fork(b);
        bool good = pom__spool_open(a, &adopted) == POM_OK && adopted == 0;
        pom__spool_free(a);
        pom_test_child_ends(good);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    expect(a, 3);
    pom__spool_free(a);
    pom__spool_free(b);
}

/* As a program does that closes what it does not know (os.closerange), and then opens files of its
 * own, each with an old number of ours. Returns how many, below `end`. */
static int take_numbers_of_others(int first, int end, const char *path) {
    int taken = 0;
    for (int fd = first; fd < end; fd++) {
        if (close(fd) == 0) {
            int own = open(path, O_RDWR | O_CREAT, 0600);
            assert_int_equal(own, fd); /* the lowest that is free */
            taken++;
        }
    }
    return taken;
}

static void test_spool_leaves_the_files_of_a_program_alone(void **state) {
    char path[64];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/program", directory);
    for (int which = 0; which < 4; which++) {
        int first = dup(1); /* what the spool opens has this number, and the next ones */
        assert_int_equal(close(first), 0);
        pom__spool_t *s = opened(0);
        pom__spool_lost_t lost = {0};
        put(s, 1, 100);
        put(s, 2, 100);
        assert_int_equal(next(s, &lost), 1);
        assert_int_equal(take_numbers_of_others(first, first + 3, path), 3); /* lock, write, read */
        if (which == 0) {
            pom__spool_after_fork(s);
        } else if (which == 1) { /* goes on with what it opens anew */
            assert_true(pom__spool_ack(s));
            put(s, 3, 100);
            expect(s, 2);
            expect(s, 3);
            expect(s, 0);
        } else if (which == 2) { /* was acknowledged on the disk */
            assert_true(pom__spool_ack(s));
            pom__spool_after_fork(s);
            pom__spool_free(s);
            s = opened(2);
            expect(s, 2);
        }
        pom__spool_free(s);
        for (int fd = first; fd < first + 3; fd++) {
            assert_int_equal(fstat(fd, &st), 0);
            assert_int_equal(st.st_size, 0);
            assert_int_equal(close(fd), 0);
        }
        assert_int_equal(unlink(path), 0);
        bool kept = which == 0 || which == 3;
        s = opened(kept ? 3 : 0);
        expect(s, kept ? 1 : 0);
        expect(s, kept ? 2 : 0);
        pom__spool_free(s);
    }
}

static void test_spool_evicts_the_oldest_segment_at_its_cap(void **state) {
    const int64_t cap = 3 * POM__SPOOL_SEGMENT;
    pom__spool_t *s = spool_with(cap);
    int64_t adopted;
    assert_int_equal(pom__spool_open(s, &adopted), POM_OK);
    pom__spool_lost_t lost = {0};
    int64_t given = 0;
    for (uint32_t i = 1; i <= 40;
         i++) { /* a segment takes 8 of 1 MiB and one more to pass its size */
        assert_int_equal(try_put(s, i, (size_t)1 << 20, &lost), POM_OK);
        given += i;
        assert_true(pom__spool_bytes(s) <= cap);
        assert_int_equal(pom__spool_profiles(s) + lost.evicted, given);
    }
    assert_true(lost.evicted > 0);
    /* The newest are there, without a gap. */
    uint32_t first = next(s, &lost);
    for (uint32_t i = first; i <= 40; i++) {
        expect(s, i);
    }
    expect(s, 0);
    assert_int_equal(try_put(s, 1, (size_t)cap, &lost), POM_EIO); /* larger than all of it */
    pom__spool_free(s);
}

static void test_spool_says_when_the_entry_being_sent_was_evicted(void **state) {
    pom__spool_t *s = spool_with(1000);
    int64_t adopted;
    assert_int_equal(pom__spool_open(s, &adopted), POM_OK);
    pom__spool_lost_t lost = {0};
    put(s, 1, 500);
    assert_int_equal(next(s, &lost), 1);
    assert_int_equal(try_put(s, 2, 500, &lost), POM_OK);
    assert_int_equal(lost.evicted, 1);
    assert_false(pom__spool_ack(s));
    expect(s, 2);
    pom__spool_free(s);
}

/* Nothing is left, and that much was found to be damaged. */
static void expect_damage(pom__spool_t *s, int64_t segments, int64_t profiles) {
    pom__spool_lost_t lost = {0};
    assert_int_equal(next(s, &lost), 0);
    assert_int_equal(lost.segments, segments);
    assert_int_equal(lost.damaged, profiles);
    assert_int_equal(lost.evicted + lost.too_old, 0);
    assert_int_equal(pom__spool_profiles(s), 0);
    assert_int_equal(pom__spool_bytes(s), 0);
}

static void test_spool_counts_what_a_cut_takes(void **state) {
    char path[512];
    /* Two entries of 164 bytes, of one and of two profiles. */
    static const struct {
        off_t at;
        uint32_t whole; /* entries */
        int64_t segments, profiles;
    } cuts[] = {{0, 0, 0, 0},   {10, 0, 1, 0},  {63, 0, 1, 0},  {64, 0, 1, 1},  {163, 0, 1, 1},
                {164, 1, 0, 0}, {200, 1, 1, 0}, {228, 1, 1, 2}, {327, 1, 1, 2}, {328, 2, 0, 0}};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        pom__spool_t *s = opened(0);
        put(s, 1, 100);
        put(s, 2, 100);
        die(s);
        assert_int_equal(files(directory, "00000001.seg", path), 1);
        assert_int_equal(truncate(path, cuts[i].at), 0);
        s = opened(cuts[i].whole * (cuts[i].whole + 1) / 2 + cuts[i].profiles);
        for (uint32_t entry = 1; entry <= cuts[i].whole; entry++) {
            expect(s, entry);
        }
        expect_damage(s, cuts[i].segments, cuts[i].profiles);
        pom__spool_free(s);
    }
}

/* What a power cut leaves: pages that were never written, and wild lengths. */
static void test_spool_counts_what_is_behind_a_bad_head(void **state) {
    char path[512];
    static const char zeros[164];
    static const struct {
        off_t at; /* of five entries of 164 bytes, 1 to 5 profiles */
        const char *bytes;
        size_t size;
        uint32_t whole;
        int64_t profiles;
    } faults[] = {
        {164, zeros, 164, 1, 3 + 4 + 5},                    /* an entry is gone */
        {164, "?", 1, 1, 3 + 4 + 5},                        /* its head is bad */
        {164 + 8, "\xff\xff\xff\x03", 4, 1, 2 + 3 + 4 + 5}, /* its length goes beyond the end */
        {164 + 8, "\x10\x01", 2, 1, 2 + 3 + 4 + 5},         /* or into the middle of another */
        {3 * 164 + 8, "\x12\x01", 2, 3, 4 + 5},             /* or 10 bytes beyond the end */
        {0, zeros, 164, 0, 2 + 3 + 4 + 5},
        {4 * 164, zeros, 164, 4, 0}, /* nobody knows what was there */
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        pom__spool_t *s = opened(0);
        for (uint32_t entry = 1; entry <= 5; entry++) {
            put(s, entry, 100);
        }
        die(s);
        assert_int_equal(files(directory, "00000001.seg", path), 1);
        damage(path, faults[i].at, faults[i].bytes, faults[i].size);
        s = opened(faults[i].whole * (faults[i].whole + 1) / 2 + faults[i].profiles);
        for (uint32_t entry = 1; entry <= faults[i].whole; entry++) {
            expect(s, entry);
        }
        expect_damage(s, 1, faults[i].profiles);
        struct stat st;
        assert_int_equal(files(directory, ".damaged", path), 1);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 5 * 164); /* all of it, for people to look at */
        assert_int_equal(unlink(path), 0);
        pom__spool_free(s);
    }
}

/* The heads behind damage are found wherever they fall into what is read at once. */
static void test_spool_counts_far_behind_a_bad_head(void **state) {
    char path[512];
    pom__spool_t *s = opened(0);
    int64_t behind = 0;
    put(s, 1, 100);
    for (uint32_t i = 2; i <= 300; i++) {
        put(s, i, 1000 + i * 7);
        behind += i;
    }
    die(s);
    assert_int_equal(files(directory, "00000001.seg", path), 1);
    damage(path, 0, "?", 1);
    s = opened(behind);
    expect_damage(s, 1, behind);
    pom__spool_free(s);
}

/* A file may claim any size: what is behind the longest segment there can be is not looked at. */
static void test_spool_does_not_search_a_hole(void **state) {
    char path[512];
    char entry[164];
    pom__spool_t *s = opened(0);
    put(s, 1, 100);
    die(s);
    assert_int_equal(files(directory, "00000001.seg", path), 1);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, entry, sizeof entry, 0), sizeof entry);
    assert_int_equal(pwrite(fd, entry, sizeof entry, (off_t)80 << 20), sizeof entry);
    close(fd);
    damage(path, 0, "?", 1);
    s = opened(0);
    expect_damage(s, 1, 0);
    pom__spool_free(s);
}

/* Closed before anybody came to read it: it is there for the next one, damage and all. */
static void test_spool_keeps_damage_that_nobody_has_counted(void **state) {
    char path[512];
    pom__spool_t *s = opened(0);
    put(s, 1, 100);
    die(s);
    assert_int_equal(files(directory, "00000001.seg", path), 1);
    damage(path, 0, "?", 1);
    pom__spool_free(opened(0));
    s = opened(0);
    expect_damage(s, 1, 0);
    pom__spool_free(s);
}

/* Neither is a segment that cannot be opened now taken for one with nothing in it. */
static void test_spool_leaves_what_it_cannot_open(void **state) {
    char path[512];
    pom__spool_t *s = opened(0);
    put(s, 3, 100);
    die(s);
    assert_int_equal(files(directory, "00000001.seg", path), 1);
    fail_open_of = "00000001.seg";
    s = opened(0);
    fail_open_of = NULL;
    pom__spool_free(s);
    s = opened(3);
    expect(s, 3);
    pom__spool_free(s);
}

static void test_spool_puts_rotten_bodies_aside(void **state) {
    char path[512];
    /* A body that rotted: it and the rest of its segment are put aside and counted. */
    pom__spool_t *s = opened(0);
    for (uint32_t i = 1; i <= 4; i++) {
        put(s, i, 100);
    }
    die(s);
    assert_int_equal(files(directory, ".seg", path), 1);
    damage(path, 164 + 64 + 50, "?", 1);
    s = opened(10);
    put(s, 5, 100);
    expect(s, 1);
    pom__spool_lost_t lost = {0};
    assert_int_equal(next(s, &lost), 5);
    assert_int_equal(lost.damaged, 2 + 3 + 4);
    assert_int_equal(lost.segments, 1);
    assert_true(pom__spool_ack(s));
    assert_int_equal(pom__spool_profiles(s), 0);
    assert_int_equal(files(directory, ".damaged", path), 1);
    pom__spool_free(s);
}

/* Segments of different sizes, so that it shows which ones are there. */
static void test_spool_keeps_the_last_four_damaged_segments(void **state) {
    char path[512];
    for (uint32_t i = 1; i <= 6; i++) {
        pom__spool_t *s = opened(0);
        put(s, i, 100 + i);
        die(s);
        assert_int_equal(files(directory, "00000001.seg", path), 1);
        damage(path, 64, "?", 1);
        s = opened(i);
        expect_damage(s, 1, i);
        pom__spool_free(s);
        assert_int_equal(files(directory, ".damaged", path), i < 4 ? i : 4);
    }
    for (uint32_t i = 3; i <= 6; i++) {
        char end[32];
        struct stat st;
        (void)snprintf(end, sizeof end, "%08u.damaged", i);
        assert_int_equal(files(directory, end, path), 1);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 64 + 100 + i);
    }
    assert_int_equal(files(directory, ".seg", path), 0);
}

static void test_spool_ignores_other_addresses_and_links(void **state) {
    char path[512];
    char link[600];
    pom__spool_t *s = opened(0);
    put(s, 1, 10);
    die(s);
    assert_int_equal(files(directory, ".seg", path), 1);
    damage(path, 24, "another!", 8); /* the address's hash */
    s = opened(0);
    expect_damage(s, 1, 0);
    put(s, 2, 10);
    die(s);
    assert_int_equal(files(directory, "00000002.seg", path), 1);
    (void)snprintf(link, sizeof link, "%s.real", path);
    assert_int_equal(rename(path, link), 0);
    assert_int_equal(symlink(link, path), 0);
    s = opened(0);
    expect(s, 0);
    pom__spool_free(s);
}

static void test_spool_takes_a_full_disk(void **state) {
    pom__spool_t *s = opened(0);
    put(s, 1, 100);
    pom__spool_lost_t lost = {0};
    fail_write_at = 1;
    assert_int_equal(try_put(s, 2, 100, &lost), POM_EIO);
    assert_non_null(strstr(pom__spool_error(s), "No space left"));
    assert_int_equal(pom__spool_profiles(s), 1);
    put(s, 3, 100);
    expect(s, 1);
    expect(s, 3);
    expect(s, 0);
    pom__spool_free(s);
}

/* What cannot be opened for want of a descriptor is whole, and there later. */
static void test_spool_without_a_descriptor_loses_nothing(void **state) {
    struct rlimit limit;
    pom__spool_t *s = opened(0);
    put(s, 1, 100);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const struct rlimit none = {0, limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    expect(s, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    expect(s, 1);
    pom__spool_free(s);
}

static void test_spool_relative_folder_survives_chdir(void **state) {
    char before[4096];
    char path[512];
    char error[256] = "";
    int64_t adopted = -1;
    pom__spool_t *s = NULL;
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(directory), 0);
    pom_status_t status = pom__spool_new("kept", ADDRESS, POM__SPOOL_CAP, &s, error, sizeof error);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(status, POM_OK);
    assert_int_equal(pom__spool_open(s, &adopted), POM_OK);
    put(s, 1, 10);
    assert_int_equal(files(directory, ".seg", path), 1);
    expect(s, 1);
    pom__spool_free(s);
    pom__spool_free(NULL);
    assert_int_equal(chdir(before), 0);
}

static void test_spool_names_a_wrong_folder(void **state) {
    char error[256] = "";
    pom__spool_t *s = NULL;
    assert_int_equal(pom__spool_new("/no/such/folder", ADDRESS, 1, &s, error, sizeof error),
                     POM_EIO);
    assert_non_null(strstr(error, "/no/such/folder"));
    assert_int_equal(pom__spool_new("/dev/null", ADDRESS, 1, &s, error, sizeof error), POM_EIO);
}

static void test_spool_forgets_what_is_too_old(void **state) {
    pom__spool_t *s = opened(0);
    pom__spool_entry_t e = {.count = 4, .created_wall_ns = pom_wall_ns() - POM__SPOOL_AGE_NS - 1};
    pom__spool_lost_t lost = {0};
    assert_int_equal(pom__spool_put(s, &e, "x", 1, &lost), POM_OK);
    put(s, 2, 10);
    assert_int_equal(next(s, &lost), 2);
    assert_int_equal(lost.too_old, 4);
    assert_true(pom__spool_ack(s));
    assert_int_equal(pom__spool_profiles(s), 0);
    pom__spool_free(s);
}

#define SPOOL_TEST(function)                                                                       \
    cmocka_unit_test_setup_teardown(function, make_directory, drop_directory)

int main(void) {
    const struct CMUnitTest tests[] = {
        SPOOL_TEST(test_spool_gives_back_in_order),
        SPOOL_TEST(test_spool_is_adopted_after_a_crash),
        SPOOL_TEST(test_spool_sends_what_is_pending_among_others),
        SPOOL_TEST(test_spool_is_kept_when_it_is_closed_in_order),
        SPOOL_TEST(test_spool_of_the_living_is_left_alone),
        SPOOL_TEST(test_spool_leaves_the_files_of_a_program_alone),
        SPOOL_TEST(test_spool_evicts_the_oldest_segment_at_its_cap),
        SPOOL_TEST(test_spool_says_when_the_entry_being_sent_was_evicted),
        SPOOL_TEST(test_spool_counts_what_a_cut_takes),
        SPOOL_TEST(test_spool_counts_what_is_behind_a_bad_head),
        SPOOL_TEST(test_spool_counts_far_behind_a_bad_head),
        SPOOL_TEST(test_spool_does_not_search_a_hole),
        SPOOL_TEST(test_spool_keeps_damage_that_nobody_has_counted),
        SPOOL_TEST(test_spool_leaves_what_it_cannot_open),
        SPOOL_TEST(test_spool_puts_rotten_bodies_aside),
        SPOOL_TEST(test_spool_keeps_the_last_four_damaged_segments),
        SPOOL_TEST(test_spool_ignores_other_addresses_and_links),
        SPOOL_TEST(test_spool_takes_a_full_disk),
        SPOOL_TEST(test_spool_without_a_descriptor_loses_nothing),
        SPOOL_TEST(test_spool_relative_folder_survives_chdir),
        SPOOL_TEST(test_spool_names_a_wrong_folder),
        SPOOL_TEST(test_spool_forgets_what_is_too_old),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
