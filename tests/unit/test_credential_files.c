/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of credentials: replaced files are whole, links are not followed, one writes. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "credential/folder.h"
#include "scratch.h"

/* Whether folders cannot be synced. */
static bool fails_for_folders;

/* In the place of the C library's. */
int fsync(int fd)
{
    struct stat st;
    if (fails_for_folders && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

struct site {
    struct scratch scratch;
    struct folder folder;
    struct err err;
};

static int set_up(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    scratch_init(&site->scratch);
    *state = site;
    return folder_open(&site->folder, site->scratch.path, FOLDER_WRITE, &site->err);
}

static int tear_down(void **state)
{
    struct site *site = *state;
    folder_close(&site->folder);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

static struct text text_of(const char *words)
{
    struct text text = {.bytes = NULL};
    text_add(&text, words, strlen(words));
    return text;
}

static int replace(struct site *site, const char *name, const char *words)
{
    struct text text = text_of(words);
    int rc = folder_replace(&site->folder, name, &text, 0640, &site->err);
    text_fini(&text);
    return rc;
}

static void check_content(struct site *site, const char *name, const char *words)
{
    struct text text = {.bytes = NULL};
    assert_int_equal(folder_read(&site->folder, name, &text, &site->err), 0);
    assert_int_equal(text.size, strlen(words));
    assert_memory_equal(text.bytes, words, text.size);
    text_fini(&text);
}

/* How many names there are in the folder. */
static int count_names(struct site *site)
{
    int count = 0;
    DIR *folder = opendir(site->scratch.path);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    (void)closedir(folder);
    return count;
}

static void test_a_file_is_replaced(void **state)
{
    struct site *site = *state;
    struct stat st;
    assert_int_equal(replace(site, "file", "first"), 0);
    check_content(site, "file", "first");
    assert_int_equal(replace(site, "file", "second words"), 0);
    check_content(site, "file", "second words");
    assert_int_equal(fstatat(site->folder.fd, "file", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(count_names(site), 1);
}

static void test_what_was_left_behind_is_in_nobodys_way(void **state)
{
    struct site *site = *state;
    scratch_write(&site->scratch, ".file.new", "of a process that was killed");
    assert_int_equal(replace(site, "file", "words"), 0);
    check_content(site, "file", "words");
    assert_int_equal(count_names(site), 1);
}

static void test_a_limit_of_size_leaves_the_former_file(void **state)
{
    struct site *site = *state;
    struct rlimit former, limit;
    assert_int_equal(replace(site, "file", "short"), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &former), 0);
    limit = former;
    limit.rlim_cur = 8;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int replaced = replace(site, "file", "longer than eight");
    struct text text = text_of("longer than eight");
    int created = folder_create(&site->folder, "new", &text, 0600, &site->err);
    text_fini(&text);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &former), 0);
    assert_int_equal(replaced, -ERR_IO);
    assert_int_equal(created, -ERR_IO);
    check_content(site, "file", "short");
    assert_int_equal(count_names(site), 1);
}

static void test_a_rename_that_fails_leaves_nothing_beside(void **state)
{
    struct site *site = *state;
    char path[PATH_MAX];
    assert_int_equal(mkdir(scratch_path(&site->scratch, "file", path), 0700), 0);
    assert_int_not_equal(replace(site, "file", "words"), 0);
    assert_non_null(strstr(site->err.msg, "replace "));
    assert_int_equal(count_names(site), 1);
    assert_int_equal(folder_read(&site->folder, "file", &(struct text){.bytes = NULL}, &site->err),
                     -ERR_PRECONDITION);
}

static void test_names_that_may_be_lost_by_a_power_cut(void **state)
{
    struct site *site = *state;
    struct text text = text_of("new");
    assert_int_equal(replace(site, "file", "old"), 0);
    fails_for_folders = true;
    /* It has been replaced, and the others that belong to it must be. */
    int replaced = replace(site, "file", "new");
    int created = folder_create(&site->folder, "other", &text, 0600, &site->err);
    fails_for_folders = false;
    assert_int_equal(replaced, 0);
    check_content(site, "file", "new");
    assert_int_equal(created, -ERR_IO);
    assert_false(folder_has(&site->folder, "other"));
    assert_int_equal(count_names(site), 1);
    text_fini(&text);
}

static void test_out_of_memory_replaces_nothing(void **state)
{
    struct site *site = *state;
    struct text text = text_of("half of it");
    assert_int_equal(replace(site, "file", "whole"), 0);
    text.failed = true;
    assert_int_equal(folder_replace(&site->folder, "file", &text, 0600, &site->err),
                     -ERR_NO_MEMORY);
    assert_int_equal(folder_create(&site->folder, "new", &text, 0600, &site->err), -ERR_NO_MEMORY);
    text_fini(&text);
    check_content(site, "file", "whole");
    assert_int_equal(count_names(site), 1);
}

static void test_links_are_neither_read_nor_replaced(void **state)
{
    struct site *site = *state;
    struct text text = text_of("words");
    char path[PATH_MAX];
    scratch_write(&site->scratch, "target", "something else");
    assert_int_equal(symlink("target", scratch_path(&site->scratch, "link", path)), 0);
    assert_int_equal(replace(site, "link", "words"), -ERR_PRECONDITION);
    assert_int_equal(folder_create(&site->folder, "link", &text, 0600, &site->err),
                     -ERR_PRECONDITION);
    assert_int_equal(folder_read(&site->folder, "link", &text, &site->err), -ERR_PRECONDITION);
    assert_non_null(strstr(site->err.msg, "is a link"));
    check_content(site, "target", "something else");
    text_fini(&text);
}

static void test_a_new_file_overwrites_none(void **state)
{
    struct site *site = *state;
    struct text text = text_of("words");
    assert_int_equal(folder_create(&site->folder, "file", &text, 0600, &site->err), 0);
    assert_int_equal(folder_create(&site->folder, "file", &text, 0600, &site->err),
                     -ERR_PRECONDITION);
    text_fini(&text);
    check_content(site, "file", "words");
}

static void test_folders_on_the_way_are_made_for_a_writer_alone(void **state)
{
    struct site *site = *state;
    struct folder folder;
    char path[PATH_MAX];
    struct stat st;
    mode_t mask = umask(077);
    (void)scratch_path(&site->scratch, "a/./b/../c//", path);
    assert_int_equal(folder_open(&folder, path, FOLDER_READ, &site->err), -ERR_NOT_FOUND);
    assert_int_equal(folder_open(&folder, path, FOLDER_FILL, &site->err), -ERR_NOT_FOUND);
    assert_int_equal(folder_open(&folder, path, FOLDER_WRITE, &site->err), 0);
    (void)umask(mask);
    assert_int_equal(fstat(folder.fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    folder_close(&folder);
    assert_true(scratch_exists(&site->scratch, "a/c"));
}

/* What somebody puts in the place of a folder as soon as it is made; empty for nobody. */
static char swapped_for[PATH_MAX];

/* The C library's, which this takes the place of, and then that somebody. */
int mkdirat(int fd, const char *path, mode_t mode)
{
    if (syscall(SYS_mkdirat, fd, path, mode) != 0)
        return -1;
    if (swapped_for[0] != '\0' &&
        (unlinkat(fd, path, AT_REMOVEDIR) != 0 || symlinkat(swapped_for, fd, path) != 0))
        abort();
    return 0;
}

static void test_a_link_in_the_place_of_a_new_folder_is_not_followed(void **state)
{
    struct site *site = *state;
    struct folder folder;
    char path[PATH_MAX];
    struct stat st;
    assert_int_equal(mkdir(scratch_path(&site->scratch, "private", path), 0700), 0);
    (void)scratch_path(&site->scratch, "private", swapped_for);
    int rc =
        folder_open(&folder, scratch_path(&site->scratch, "new", path), FOLDER_WRITE, &site->err);
    folder_close(&folder);
    assert_int_equal(stat(swapped_for, &st), 0);
    swapped_for[0] = '\0';
    assert_int_not_equal(rc, 0);
    assert_int_equal(st.st_mode & 07777, 0700);
}

static void test_a_loop_of_links_ends(void **state)
{
    struct site *site = *state;
    struct folder folder;
    char path[PATH_MAX];
    assert_int_equal(symlink("loop/x", scratch_path(&site->scratch, "loop", path)), 0);
    assert_int_not_equal(folder_open(&folder, path, FOLDER_WRITE, &site->err), 0);
    assert_non_null(strstr(site->err.msg, strerror(ELOOP)));
    scratch_write(&site->scratch, "file", "");
    (void)scratch_path(&site->scratch, "file/x", path);
    assert_int_not_equal(folder_open(&folder, path, FOLDER_WRITE, &site->err), 0);
    assert_non_null(strstr(site->err.msg, strerror(ENOTDIR)));
}

static void test_texts_grow_and_are_cut(void **state)
{
    (void)state;
    struct text text = {.bytes = NULL};
    for (int i = 0; i < 1000; i++)
        text_print(&text, "%03d ", i);
    assert_int_equal(text.size, 4000);
    assert_memory_equal(text.bytes + 3996, "999 ", 4);
    text_cut(&text, 4, 3996);
    assert_int_equal(text.size, 8);
    assert_memory_equal(text.bytes, "000 999 ", 8);
    text_cut(&text, 4, 4);
    assert_int_equal(text.size, 8);
    assert_false(text.failed);
    text_fini(&text);
    assert_null(text.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_file_is_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_was_left_behind_is_in_nobodys_way, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_limit_of_size_leaves_the_former_file, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_rename_that_fails_leaves_nothing_beside, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_names_that_may_be_lost_by_a_power_cut, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_out_of_memory_replaces_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links_are_neither_read_nor_replaced, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_new_file_overwrites_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_folders_on_the_way_are_made_for_a_writer_alone, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_link_in_the_place_of_a_new_folder_is_not_followed,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_loop_of_links_ends, set_up, tear_down),
        cmocka_unit_test(test_texts_grow_and_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
