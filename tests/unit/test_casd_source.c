/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of a casd: what takes another's place while it is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "control/casd_source.h"
#include "scratch.h"

#define REST "00000000000000000000000000000000000000000000000000000000000000"

struct site {
    struct scratch scratch;
    struct casd_source source;
    struct casd_files files;
};

static void tell(void *context, const char *name, const struct err *err)
{
    (void)context;
    fail_msg("%s: %s", name, err->msg);
}

static void progress(void *context, uint64_t files)
{
    (void)context;
    (void)files;
}

static void make_folder(const struct site *site, const char *name)
{
    char path[PATH_MAX];
    assert_int_equal(mkdir(scratch_path(&site->scratch, name, path), 0700), 0);
}

static void move(const struct site *site, const char *from, const char *to)
{
    char one[PATH_MAX], other[PATH_MAX];
    assert_int_equal(
        rename(scratch_path(&site->scratch, from, one), scratch_path(&site->scratch, to, other)),
        0);
}

static void link_to(const struct site *site, const char *target, const char *name)
{
    char one[PATH_MAX], other[PATH_MAX];
    assert_int_equal(symlink(scratch_path(&site->scratch, target, one),
                             scratch_path(&site->scratch, name, other)),
                     0);
}

/* One blob, which is listed. */
static int set_up(void **state)
{
    static const struct casd_listener listener = {.tell = tell, .progress = progress};
    struct site *site = calloc(1, sizeof(*site));
    struct err err;
    assert_non_null(site);
    scratch_init(&site->scratch);
    make_folder(site, "cas");
    make_folder(site, "cas/objects");
    make_folder(site, "cas/objects/00");
    scratch_write(&site->scratch, "cas/objects/00/" REST, "content");
    assert_int_equal(casd_source_open(site->scratch.path, &site->source, &err), 0);
    assert_int_equal(casd_source_list(&site->source, CASD_OBJECTS, &listener, &site->files, &err),
                     0);
    assert_int_equal(site->files.count, 1);
    *state = site;
    return 0;
}

static int tear_down(void **state)
{
    struct site *site = *state;
    casd_files_fini(&site->files);
    casd_source_close(&site->source);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

static int open_one(const struct site *site, struct casd_opened *opened, struct err *err)
{
    return casd_source_open_file(&site->source, CASD_OBJECTS, site->files.files, opened, err);
}

static void a_file_is_opened(void **state)
{
    struct casd_opened opened;
    struct err err;
    assert_int_equal(open_one(*state, &opened, &err), 0);
    assert_int_equal(opened.size, 7);
    (void)close(opened.fd);
}

static void what_is_gone_is_told_as_that(void **state)
{
    struct casd_opened opened;
    struct err err;
    move(*state, "cas/objects/00/" REST, "cas/other");
    assert_int_equal(open_one(*state, &opened, &err), -ERR_NOT_FOUND);
    move(*state, "cas/objects/00", "cas/objects/01");
    assert_int_equal(open_one(*state, &opened, &err), -ERR_NOT_FOUND);
}

static void no_link_is_followed(void **state)
{
    struct casd_opened opened;
    struct err err;
    move(*state, "cas/objects/00/" REST, "cas/other");
    link_to(*state, "cas/other", "cas/objects/00/" REST);
    assert_int_not_equal(open_one(*state, &opened, &err), 0);
}

static void no_link_in_the_place_of_a_folder_is_followed(void **state)
{
    struct casd_opened opened;
    struct err err;
    move(*state, "cas/objects/00", "cas/other");
    link_to(*state, "cas/other", "cas/objects/00");
    assert_int_not_equal(open_one(*state, &opened, &err), 0);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        test(a_file_is_opened),
        test(what_is_gone_is_told_as_that),
        test(no_link_is_followed),
        test(no_link_in_the_place_of_a_folder_is_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
