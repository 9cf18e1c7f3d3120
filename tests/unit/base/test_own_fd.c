/* A descriptor whose number the program may have taken: told apart, left open, forgotten. */
#include "tests/unit/support/test_support.h"

#include "base/own_fd.h"

#include <fcntl.h>
#include <unistd.h>

static void test_own_fd_opens_and_closes(void **state) {
    pom_own_fd_t file = POM_OWN_FD_NONE;
    assert_false(pom_own_fd_holds(&file));
    pom_own_fd_close(&file);
    assert_false(pom_own_fd_open(&file, "/no/such/file"));
    assert_int_equal(file.fd, -1);
    assert_true(pom_own_fd_open(&file, "/dev/null"));
    assert_true(pom_own_fd_holds(&file));
    int number = file.fd;
    pom_own_fd_close(&file);
    assert_int_equal(file.fd, -1);
    assert_int_equal(fcntl(number, F_GETFD), -1);
}

static void test_own_fd_leaves_the_file_of_others_open(void **state) {
    pom_own_fd_t file;
    assert_true(pom_own_fd_open(&file, "/proc/self/stat"));
    int number = file.fd;
    assert_int_equal(close(number), 0); /* as os.closerange does */
    assert_false(pom_own_fd_holds(&file));
    assert_int_equal(open("/proc/self/mem", O_RDONLY), number); /* the same device */
    assert_false(pom_own_fd_holds(&file));
    pom_own_fd_close(&file);
    assert_int_equal(file.fd, -1);
    assert_int_equal(close(number), 0);
}

static void test_own_fd_notes_what_is_open(void **state) {
    pom_own_fd_t end;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_true(pom_own_fd_note(&end, ends[0]));
    assert_true(pom_own_fd_holds(&end));
    pom_own_fd_close(&end);
    assert_int_equal(fcntl(ends[0], F_GETFD), -1);
    assert_false(pom_own_fd_note(&end, ends[0]));
    assert_int_equal(end.fd, -1);
    assert_int_equal(close(ends[1]), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        POM_TEST(test_own_fd_opens_and_closes),
        POM_TEST(test_own_fd_notes_what_is_open),
        POM_TEST(test_own_fd_leaves_the_file_of_others_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
