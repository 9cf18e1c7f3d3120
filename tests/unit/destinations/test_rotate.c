/* Rotation: numbers, and when a file is left alone. Each file holds one letter, its name. */
#include "tests/unit/support/test_support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "destinations/rotate.h"

static char directory[32];
static char path[64];

static int make_directory(void **state) {
    (void)snprintf(directory, sizeof directory, "/tmp/pom-rotate-XXXXXX");
    assert_non_null(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/f", directory);
    return pom_test_setup(state);
}

static int drop_directory(void **state) {
    char command[64];
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
    return pom_test_teardown(state);
}

static const char *numbered(int number) {
    static char text[80];
    (void)snprintf(text, sizeof text, number > 0 ? "%s.%d" : "%s", path, number);
    return text;
}

static struct stat make(int number, char letter) {
    struct stat st;
    int fd = open(numbered(number), O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &letter, 1), 1);
    assert_int_equal(fstat(fd, &st), 0);
    close(fd);
    return st;
}

/* The letters of PATH, PATH.1 ..., a dot for none. */
static void check(const char *expected) {
    for (int i = 0; expected[i] != '\0'; i++) {
        char letter = '.';
        int fd = open(numbered(i), O_RDONLY);
        if (fd >= 0) {
            assert_int_equal(read(fd, &letter, 1), 1);
            close(fd);
        }
        assert_int_equal(letter, expected[i]);
    }
}

static void test_rotate_shifts_and_replaces_the_oldest(void **state) {
    struct stat a = make(0, 'a');
    assert_int_equal(pom__rotate(path, 2, a.st_dev, a.st_ino), 0);
    check(".a.");
    struct stat b = make(0, 'b');
    assert_int_equal(pom__rotate(path, 2, b.st_dev, b.st_ino), 0);
    check(".ba.");
    struct stat c = make(0, 'c');
    assert_int_equal(pom__rotate(path, 2, c.st_dev, c.st_ino), 0);
    check(".cb.");
    assert_int_equal(pom__rotate(path, 2, c.st_dev, c.st_ino), 0); /* gone already */
    check(".cb.");
}

static void test_rotate_fills_a_number_that_is_free(void **state) {
    struct stat a = make(0, 'a');
    make(1, 'b');
    make(3, 'd');
    assert_int_equal(pom__rotate(path, 9, a.st_dev, a.st_ino), 0);
    check(".abd.");
}

static void test_rotate_leaves_another_file_alone(void **state) {
    struct stat a = make(0, 'a');
    assert_int_equal(rename(path, numbered(1)), 0); /* as another process would */
    make(0, 'b');
    assert_int_equal(pom__rotate(path, 5, a.st_dev, a.st_ino), 0);
    check("ba.");
}

static void test_rotate_leaves_it_to_who_is_at_it(void **state) {
    struct stat a = make(0, 'a');
    int fd = open(path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(pom__rotate(path, 5, a.st_dev, a.st_ino), 0);
    check("a.");
    close(fd);
    assert_int_equal(pom__rotate(path, 5, a.st_dev, a.st_ino), 0);
    check(".a");
}

static void test_rotate_tells_why_not(void **state) {
    struct stat a = make(0, 'a');
    assert_int_equal(mkdir(numbered(1), 0700), 0);
    assert_int_equal(pom__rotate(path, 1, a.st_dev, a.st_ino), EISDIR);
    check("a");
}

static int next_descriptor(void) {
    int fd = open("/dev/null", O_RDONLY);
    assert_true(fd >= 0);
    close(fd);
    return fd;
}

static void test_rotate_leaves_nothing_open(void **state) {
    int before = next_descriptor();
    struct stat a = make(0, 'a');
    assert_int_equal(pom__rotate(path, 5, a.st_dev, a.st_ino), 0);
    make(0, 'b');
    assert_int_equal(pom__rotate(path, 5, a.st_dev, a.st_ino), 0); /* another file */
    assert_int_equal(next_descriptor(), before);
}

#define ROTATE_TEST(function)                                                                      \
    cmocka_unit_test_setup_teardown(function, make_directory, drop_directory)

int main(void) {
    const struct CMUnitTest tests[] = {
        ROTATE_TEST(test_rotate_shifts_and_replaces_the_oldest),
        ROTATE_TEST(test_rotate_fills_a_number_that_is_free),
        ROTATE_TEST(test_rotate_leaves_another_file_alone),
        ROTATE_TEST(test_rotate_leaves_it_to_who_is_at_it),
        ROTATE_TEST(test_rotate_tells_why_not),
        ROTATE_TEST(test_rotate_leaves_nothing_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
