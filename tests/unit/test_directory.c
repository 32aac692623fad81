/* SPDX-License-Identifier: Apache-2.0 */
/* The directory of a store: made, taken over, foreign, of another version, locked. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "scratch.h"
#include "store/directory.h"

static const struct store_kind cas_kind = {.name = "cas", .version = 1, .oldest = 1};
static const struct store_kind index_kind = {.name = "index", .version = 1, .oldest = 1};

/* Set: after the next look for a format file another process makes this directory a store. */
static const struct scratch *made_meanwhile;

/* In the place of the C library's. */
int faccessat(int fd, const char *path, int mode, int flags)
{
    int rc = (int)syscall(SYS_faccessat, fd, path, mode);
    int looked = errno;
    const struct scratch *scratch = made_meanwhile;
    (void)flags;
    made_meanwhile = NULL;
    if (scratch != NULL) {
        scratch_write(scratch, "index/format", "assetd index 1 0123456789abcdef0123456789abcdef\n");
        scratch_write(scratch, "index/data.mdb", "assets");
    }
    errno = looked;
    return rc;
}

static int setup(void **state)
{
    struct scratch *scratch = malloc(sizeof(*scratch));
    scratch_init(scratch);
    *state = scratch;
    return 0;
}

static int teardown(void **state)
{
    scratch_fini(*state);
    free(*state);
    return 0;
}

static void make_folder(const struct scratch *scratch, const char *path)
{
    char joined[PATH_MAX];
    assert_int_equal(mkdir(scratch_path(scratch, path, joined), 0755), 0);
}

static void test_is_made_and_found_again(void **state)
{
    const struct scratch *scratch = *state;
    char storage[PATH_MAX];
    char expected[PATH_MAX];
    struct store_directory directory;
    struct err err;
    struct stat st;
    scratch_path(scratch, "not/there/yet", storage);
    assert_int_equal(store_directory_open(storage, &cas_kind, &directory, &err), 0);
    assert_true(directory.is_new);
    assert_string_equal(directory.path, scratch_path(scratch, "not/there/yet/cas", expected));
    assert_int_equal(fstat(directory.fd, &st), 0);
    assert_int_equal(st.st_mode & 0027, 0);
    char id[33];
    memcpy(id, directory.id, sizeof(id));
    assert_int_equal(strlen(id), 32);
    store_directory_close(&directory);
    assert_int_equal(store_directory_open(storage, &cas_kind, &directory, &err), 0);
    assert_false(directory.is_new);
    assert_string_equal(directory.id, id);
    store_directory_close(&directory);
    /* Another store beside it has an id of its own. */
    assert_int_equal(store_directory_open(storage, &index_kind, &directory, &err), 0);
    assert_true(directory.is_new);
    assert_string_not_equal(directory.id, id);
    store_directory_close(&directory);
}

static void test_empty_and_half_made_ones_are_taken_over(void **state)
{
    const struct scratch *scratch = *state;
    struct store_directory directory;
    struct err err;
    make_folder(scratch, "cas");
    make_folder(scratch, "cas/lost+found");
    make_folder(scratch, "index");
    scratch_write(scratch, "index/format.new", "asse");
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err), 0);
    assert_true(directory.is_new);
    store_directory_close(&directory);
    assert_int_equal(store_directory_open(scratch->path, &index_kind, &directory, &err), 0);
    assert_true(directory.is_new);
    store_directory_close(&directory);
    assert_true(scratch_exists(scratch, "index/format"));
    assert_false(scratch_exists(scratch, "index/format.new"));
    assert_false(scratch_exists(scratch, "assetd"));
}

static void test_foreign_ones_are_left_alone(void **state)
{
    const struct scratch *scratch = *state;
    char expected[PATH_MAX];
    struct store_directory directory;
    struct err err;
    make_folder(scratch, "cas");
    make_folder(scratch, "cas/objects");
    scratch_write(scratch, "cas/objects/e3", "content of the old server");
    for (int round = 0; round < 2; round++) {
        assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err), 0);
        assert_string_equal(directory.path, scratch_path(scratch, "assetd/cas", expected));
        assert_int_equal(directory.is_new, round == 0);
        store_directory_close(&directory);
    }
    assert_true(scratch_exists(scratch, "cas/objects/e3"));
    assert_false(scratch_exists(scratch, "cas/format"));
    /* Ours is found where it is after the foreign one was taken away. */
    char joined[PATH_MAX];
    assert_int_equal(unlink(scratch_path(scratch, "cas/objects/e3", joined)), 0);
    assert_int_equal(rmdir(scratch_path(scratch, "cas/objects", joined)), 0);
    assert_int_equal(rmdir(scratch_path(scratch, "cas", joined)), 0);
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err), 0);
    assert_string_equal(directory.path, expected);
    assert_false(directory.is_new);
    store_directory_close(&directory);
}

/* What a warning about KIND says; "" if there is none. */
static const char *warning_of(const struct scratch *scratch, const char *kind, bool may_write)
{
    static char text[4096];
    char joined[PATH_MAX];
    int log = open(scratch_path(scratch, "log", joined), O_RDWR | O_CREAT | O_TRUNC, 0600);
    int before = dup(STDERR_FILENO);
    assert_true(log >= 0 && before >= 0 && dup2(log, STDERR_FILENO) >= 0);
    store_directory_warn(scratch->path, kind, may_write);
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    ssize_t size = pread(log, text, sizeof(text) - 1, 0);
    assert_true(size >= 0);
    text[size] = '\0';
    (void)close(before);
    (void)close(log);
    return text;
}

static void test_foreign_ones_are_told_of_by_one_process(void **state)
{
    const struct scratch *scratch = *state;
    struct store_directory directory;
    struct err err;
    make_folder(scratch, "index");
    make_folder(scratch, "index/lost+found");
    assert_string_equal(warning_of(scratch, "cas", true), "");
    make_folder(scratch, "cas");
    make_folder(scratch, "cas/objects");
    scratch_write(scratch, "cas/objects/e3", "content of the old server");
    assert_string_equal(warning_of(scratch, "index", true), "");
    /* Nobody has told of it before. */
    assert_non_null(strstr(warning_of(scratch, "cas", false), "event=storage-foreign"));
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err), 0);
    store_directory_close(&directory);
    assert_string_equal(warning_of(scratch, "cas", false), "");
    const char *warning = warning_of(scratch, "cas", true);
    assert_non_null(strstr(warning, "event=storage-foreign"));
    assert_non_null(strstr(warning, "assetctl import-casd"));
    scratch_write(scratch, "index/else", "content of something else");
    warning = warning_of(scratch, "index", true);
    assert_non_null(strstr(warning, "event=storage-foreign"));
    assert_null(strstr(warning, "import"));
}

static void test_one_that_is_made_meanwhile_is_not_foreign(void **state)
{
    const struct scratch *scratch = *state;
    make_folder(scratch, "index");
    made_meanwhile = scratch;
    assert_string_equal(warning_of(scratch, "index", true), "");
    assert_null(made_meanwhile);
}

static void test_nowhere_to_go_is_refused(void **state)
{
    const struct scratch *scratch = *state;
    struct store_directory directory;
    struct err err;
    make_folder(scratch, "cas");
    scratch_write(scratch, "cas/something", "x");
    make_folder(scratch, "assetd");
    make_folder(scratch, "assetd/cas");
    scratch_write(scratch, "assetd/cas/something", "x");
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err),
                     -ERR_PRECONDITION);
}

static int open_format(const struct scratch *scratch, const char *format,
                       const struct store_kind *kind, struct err *err)
{
    struct store_directory directory;
    scratch_write(scratch, "cas/format", format);
    int rc = store_directory_open(scratch->path, kind, &directory, err);
    if (rc == 0)
        store_directory_close(&directory);
    return rc;
}

static void refuse(const struct scratch *scratch, const char *format, const char *reason)
{
    struct err err;
    assert_int_equal(open_format(scratch, format, &cas_kind, &err), -ERR_PRECONDITION);
    assert_non_null(strstr(err.msg, reason));
}

static void test_what_is_newer_or_else_is_refused(void **state)
{
    const struct scratch *scratch = *state;
    make_folder(scratch, "cas");
    refuse(scratch, "assetd cas 2 00112233445566778899aabbccddeeff\n", "version 2");
    refuse(scratch, "assetd cas 999999999999 00112233445566778899aabbccddeeff\n", "version");
    refuse(scratch, "assetd index 1 00112233445566778899aabbccddeeff\n", "kind index");
    refuse(scratch, "assetd cas 1 0011\n", "no id");
    refuse(scratch, "something else", "not a format file");
    refuse(scratch, "", "not a format file");
}

static void test_older_versions_are_used_as_far_back_as_can_be(void **state)
{
    static const struct store_kind later = {.name = "cas", .version = 3, .oldest = 2};
    const struct scratch *scratch = *state;
    struct err err;
    make_folder(scratch, "cas");
    assert_int_equal(
        open_format(scratch, "assetd cas 3 00112233445566778899aabbccddeeff\n", &later, &err), 0);
    assert_int_equal(
        open_format(scratch, "assetd cas 2 00112233445566778899aabbccddeeff\n", &later, &err), 0);
    assert_int_equal(
        open_format(scratch, "assetd cas 1 00112233445566778899aabbccddeeff\n", &later, &err),
        -ERR_PRECONDITION);
    assert_non_null(strstr(err.msg, "version 1"));
    assert_non_null(strstr(err.msg, "remove the directory"));
}

static void test_a_lock_keeps_out_a_second_opening(void **state)
{
    const struct scratch *scratch = *state;
    struct store_directory first;
    struct store_directory second;
    struct err err;
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &first, &err), 0);
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &second, &err), 0);
    assert_int_equal(store_directory_lock(&first, &err), 0);
    assert_int_equal(store_directory_lock(&second, &err), -ERR_UNAVAILABLE);
    /* The refused one must not have taken the first one's lock away. */
    assert_int_equal(store_directory_lock(&second, &err), -ERR_UNAVAILABLE);
    store_directory_unlock(&first);
    assert_int_equal(store_directory_lock(&second, &err), 0);
    assert_int_equal(store_directory_lock(&first, &err), -ERR_UNAVAILABLE);
    store_directory_close(&second);
    assert_int_equal(store_directory_lock(&first, &err), 0);
    store_directory_close(&first);
}

static void test_another_process_is_kept_out_and_learns_the_pid(void **state)
{
    const struct scratch *scratch = *state;
    struct store_directory directory;
    struct err err;
    char expected[64];
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err), 0);
    assert_int_equal(store_directory_holder(&directory), 0);
    assert_int_equal(store_directory_lock(&directory, &err), 0);
    (void)snprintf(expected, sizeof(expected), "process %d", (int)getpid());
    pid_t parent = getpid();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct store_directory other;
        bool is_right = store_directory_open(scratch->path, &cas_kind, &other, &err) == 0 &&
                        store_directory_holder(&other) == (int)parent &&
                        store_directory_lock(&other, &err) == -ERR_UNAVAILABLE &&
                        strstr(err.msg, expected) != NULL;
        _exit(is_right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    store_directory_unlock(&directory);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct store_directory other;
        bool is_right = store_directory_open(scratch->path, &cas_kind, &other, &err) == 0 &&
                        store_directory_holder(&other) == 0 &&
                        store_directory_lock(&other, &err) == 0;
        _exit(is_right ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    store_directory_close(&directory);
}

static void test_one_that_is_being_set_up_for_long(void **state)
{
    const struct scratch *scratch = *state;
    struct store_directory directory;
    struct err err;
    int fd = open(scratch->path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err),
                     -ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "another process is setting up "));
    (void)close(fd);
    assert_int_equal(store_directory_open(scratch->path, &cas_kind, &directory, &err), 0);
    store_directory_close(&directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_is_made_and_found_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_empty_and_half_made_ones_are_taken_over, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_foreign_ones_are_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_ones_are_told_of_by_one_process, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_one_that_is_made_meanwhile_is_not_foreign, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_nowhere_to_go_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_newer_or_else_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_older_versions_are_used_as_far_back_as_can_be, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_lock_keeps_out_a_second_opening, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_that_is_being_set_up_for_long, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_process_is_kept_out_and_learns_the_pid, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
