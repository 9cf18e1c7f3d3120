/*
 * Loops in processes that have closed some of their first descriptors. Each test is a child, since
 * libuv sets up a process once; a child tells by its exit status: 0, or the line that failed.
 */
#include "tests/unit/support/test_support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "destinations/exporter_uv.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            _exit(__LINE__ % 255 + 1); /* there may be no stderr */                                \
        }                                                                                          \
    } while (0)

static bool is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

/* The status of a child that runs it. */
static int status_of(void (*run)(int), int argument) {
    pid_t pid = fork();
    if (pid == 0) {
        run(argument);
        pom_test_child_ends(true);
    }
    int status = -1;
    return waitpid(pid, &status, 0) == pid ? status : -1;
}

static void close_some(int mask) {
    for (int fd = 0; fd < 3; fd++) {
        if ((mask >> fd & 1) != 0) {
            (void)close(fd);
        }
    }
}

static void check_free(int mask) {
    for (int fd = 0; fd < 3; fd++) {
        CHECK((mask >> fd & 1) == 0 || !is_open(fd));
    }
}

static void do_nothing(int mask) {
    check_free(mask);
}

static void fork_once(int mask) {
    check_free(mask);
    CHECK(status_of(do_nothing, mask) == 0);
}

static void loop_without(int mask) {
    uv_loop_t loop;
    close_some(mask);
    CHECK(pom__uv_loop_init(&loop) == 0);
    check_free(mask);
    CHECK(status_of(fork_once, mask) ==
          0); /* libuv opens a pipe in each child, and closes its parent's */
    CHECK(uv_loop_close(&loop) == 0);
    check_free(mask);
    CHECK(pom__uv_loop_init(&loop) == 0);
    CHECK(uv_loop_close(&loop) == 0);
}

static void loop_before(int mask) {
    uv_loop_t loop;
    CHECK(pom__uv_loop_init(&loop) == 0);
    close_some(mask);
    CHECK(status_of(fork_once, mask) == 0);
    CHECK(uv_loop_close(&loop) == 0);
}

static void test_uv_loop_leaves_the_first_three_numbers_free(void **state) {
    (void)state;
    for (int mask = 0; mask < 8; mask++) {
        assert_int_equal(status_of(loop_without, mask), 0);
        assert_int_equal(status_of(loop_before, mask), 0);
    }
}

/* From none to more than a first loop needs. */
static void loop_with_room(int room) {
    uv_loop_t loop;
    int end = 0; /* of the numbers with `room` free ones */
    for (int free = 0; free < room || is_open(end); end++) {
        free += is_open(end) ? 0 : 1;
    }
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)end;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int error = pom__uv_loop_init(&loop);
    CHECK(error == (room < 10 ? UV_EMFILE : 0));
    CHECK(error != 0 || uv_loop_close(&loop) == 0);
}

static void test_uv_loop_says_when_descriptors_are_few(void **state) {
    (void)state;
    for (int room = 0; room < 12; room++) {
        assert_int_equal(status_of(loop_with_room, room), 0);
    }
}

/* ---- descriptors of the program's ---- */

#define END 32 /* above what libuv opens */

static ino_t inodes[END];

static int flag_of(int fd) {
    return fd % 2 == 0 ? FD_CLOEXEC : 0;
}

/* As os.closerange() does, and then opens files of its own with the same numbers. */
static void own_all(int end) {
    struct stat st;
    for (int fd = 3; fd < END; fd++) {
        (void)close(fd);
    }
    for (int fd = 3; fd < end; fd++) {
        CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == fd);
        CHECK(fcntl(fd, F_SETFD, flag_of(fd)) == 0);
        CHECK(fstat(fd, &st) == 0);
        inodes[fd] = st.st_ino;
    }
}

static void check_all(int end) {
    struct stat st;
    int others = 0;
    for (int fd = 3; fd < END; fd++) {
        if (fd < end) {
            CHECK(fstat(fd, &st) == 0 && st.st_ino == inodes[fd]);
            CHECK(fcntl(fd, F_GETFD) == flag_of(fd));
        } else {
            others += is_open(fd) ? 1 : 0;
        }
    }
    CHECK(others <= 2); /* libuv's pipe of this process */
}

static void check_and_fork(int end) {
    check_all(end);
    CHECK(status_of(check_all, end) == 0);
}

static void own_all_again(int end) {
    check_all(end);
    own_all(END - 4); /* what libuv has opened in this process too */
    CHECK(status_of(check_and_fork, END - 4) == 0);
}

static void loop_then_own_all(int end) {
    uv_loop_t loop;
    own_all(3); /* nothing */
    CHECK(pom__uv_loop_init(&loop) == 0);
    own_all(end);
    CHECK(status_of(check_and_fork, end) == 0);
    CHECK(status_of(own_all_again, end) == 0);
    check_all(end);
}

static void test_uv_loop_leaves_a_daemons_descriptors_to_its_workers(void **state) {
    (void)state;
    for (int end = 3; end < END - 4;
         end++) { /* the numbers of libuv's pipe are 4 and 5: none, one, both */
        assert_int_equal(status_of(loop_then_own_all, end), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_uv_loop_leaves_the_first_three_numbers_free),
        POM_TEST(test_uv_loop_leaves_a_daemons_descriptors_to_its_workers),
        POM_TEST(test_uv_loop_says_when_descriptors_are_few),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
