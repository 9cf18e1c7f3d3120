/*
 * Loops whose numbers are of somebody else's epoll and eventfd, which have no inodes of their own.
 * Each test is a child, as it closes descriptors by the dozen; it tells by its exit status: 0, or
 * the line that failed.
 */
#include "tests/unit/support/test_support.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "destinations/loop_guard.h"

typedef struct guarded_s {
    uv_loop_t loop;
    uv_async_t async;
    pom__loop_guard_t guard;
    int woken;
} guarded_t;

static void on_wake(uv_async_t *async) {
    ((guarded_t *)async->data)->woken++;
}

static void begin(guarded_t *g) {
    POM_TEST_CHILD_CHECK(uv_loop_init(&g->loop) == 0);
    g->woken = 0;
    POM_TEST_CHILD_CHECK(pom__loop_guard_begin(&g->guard, &g->loop));
    POM_TEST_CHILD_CHECK(uv_async_init(&g->loop, &g->async, on_wake) == 0);
    g->async.data = g;
}

static void check_works(guarded_t *g) {
    int woken = g->woken;
    POM_TEST_CHILD_CHECK(pom__loop_holds(&g->loop));
    (void)uv_run(&g->loop, UV_RUN_NOWAIT);
    POM_TEST_CHILD_CHECK(g->woken == woken);
    POM_TEST_CHILD_CHECK(pom__loop_wake(&g->async));
    (void)uv_run(&g->loop, UV_RUN_NOWAIT);
    POM_TEST_CHILD_CHECK(g->woken == woken + 1);
    POM_TEST_CHILD_CHECK(pom__loop_holds(&g->loop));
}

static void end(guarded_t *g) {
    uv_close((uv_handle_t *)&g->async, NULL);
    (void)uv_run(&g->loop, UV_RUN_NOWAIT);
    POM_TEST_CHILD_CHECK(uv_loop_close(&g->loop) == 0);
}

static bool is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

static void check(void (*run)(guarded_t *)) {
    pid_t pid = fork();
    if (pid == 0) {
        guarded_t first, g;
        begin(&first); /* what libuv opens once for all loops has its numbers now */
        begin(&g);
        run(&g);
        end(&first);
        pom_test_child_ends(true);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void live(guarded_t *g) {
    check_works(g);
    check_works(g);
    end(g);
}

static void test_loop_guard_holds_while_nobody_meddles(void **state) {
    (void)state;
    check(live);
}

/* The program's, with the number of ours. */
static void replace(int fd, int theirs) {
    POM_TEST_CHILD_CHECK(theirs >= 0 && dup2(theirs, fd) == fd && close(theirs) == 0);
}

static void check_lost(guarded_t *g) {
    POM_TEST_CHILD_CHECK(!pom__loop_holds(&g->loop));
    POM_TEST_CHILD_CHECK(!pom__loop_wake(&g->async));
}

static void lose_polled(guarded_t *g) {
    int fd = uv_backend_fd(&g->loop);
    struct epoll_event event;
    replace(fd, epoll_create1(0));
    check_lost(g);
    pom__loop_guard_leave(&g->guard);
    POM_TEST_CHILD_CHECK(is_open(fd));
    POM_TEST_CHILD_CHECK(epoll_wait(fd, &event, 1, 0) == 0);
}

static void lose_woken(guarded_t *g) {
    int fd = g->loop.async_io_watcher.fd;
    uint64_t value;
    replace(fd, eventfd(0, EFD_NONBLOCK));
    check_lost(g);
    pom__loop_guard_leave(&g->guard);
    POM_TEST_CHILD_CHECK(is_open(fd));
    POM_TEST_CHILD_CHECK(read(fd, &value, sizeof value) == -1); /* nobody has written to it */
}

static void lose_both(guarded_t *g) {
    int polled = uv_backend_fd(&g->loop);
    int woken = g->loop.async_io_watcher.fd;
    struct epoll_event event = {.events = EPOLLIN};
    replace(polled, epoll_create1(0));
    replace(woken, eventfd(0, EFD_NONBLOCK));
    POM_TEST_CHILD_CHECK(epoll_ctl(polled, EPOLL_CTL_ADD, woken, &event) == 0);
    check_lost(g);
    pom__loop_guard_leave(&g->guard);
    POM_TEST_CHILD_CHECK(is_open(polled) && is_open(woken));
    POM_TEST_CHILD_CHECK(epoll_wait(polled, &event, 1, 0) == 0);
}

/* os.closerange(), and then a loop of the program's own gets all the numbers of ours, watched as
 * ours were. */
static void lose_all_to_a_loop(guarded_t *g) {
    guarded_t theirs;
    int fds[] = {uv_backend_fd(&g->loop), g->loop.signal_pipefd[0], g->loop.signal_pipefd[1],
                 g->loop.async_io_watcher.fd};
    (void)uv_run(&g->loop, UV_RUN_NOWAIT);
    for (int i = 0; i < 4; i++) {
        POM_TEST_CHILD_CHECK(close(fds[i]) == 0);
    }
    begin(&theirs);
    POM_TEST_CHILD_CHECK(uv_backend_fd(&theirs.loop) == fds[0] &&
                         theirs.loop.signal_pipefd[0] == fds[1] &&
                         theirs.loop.async_io_watcher.fd == fds[3]);
    check_works(&theirs);
    check_lost(g);
    check_works(&theirs);
    pom__loop_guard_leave(&g->guard);
    check_works(&theirs);
    end(&theirs);
}

static void test_loop_guard_knows_the_descriptors_of_others(void **state) {
    (void)state;
    check(lose_polled);
    check(lose_woken);
    check(lose_both);
    check(lose_all_to_a_loop);
}

static void leave_in_a_child(guarded_t *g) {
    pid_t pid = fork();
    if (pid == 0) {
        pom__loop_guard_leave(&g->guard);
        POM_TEST_CHILD_CHECK(!is_open(uv_backend_fd(&g->loop)) &&
                             !is_open(g->loop.async_io_watcher.fd));
        pom_test_child_ends(true);
    }
    int status = -1;
    POM_TEST_CHILD_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    live(g);
}

static void test_loop_guard_of_a_child_closes_its_copies(void **state) {
    (void)state;
    check(leave_in_a_child);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_loop_guard_holds_while_nobody_meddles),
        POM_TEST(test_loop_guard_knows_the_descriptors_of_others),
        POM_TEST(test_loop_guard_of_a_child_closes_its_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
