/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing a CAS: what is made, what is refused, what counts, what a restart keeps. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#include "store/cas_private.h"
#include "store/disk.h"
#include "store_blobs.h"

enum { QUOTA = 16 * MIB };

/* Tries to open it; the store stays closed. */
static int refuse(const struct store *store, int64_t quota, struct err *err)
{
    struct cas *cas = NULL;
    const struct cas_options options = {
        .path = store->scratch.path, .quota = quota, .may_write = true};
    int rc = cas_open(&options, &cas, err);
    cas_close(cas);
    return rc;
}

static void test_is_made_and_is_empty(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct err err;
    store_open(store, QUOTA);
    assert_int_equal(cas_is_writing(store->cas, &err), 0);
    assert_int_equal(stats_of(store->cas).blobs, 0);
    assert_int_equal(stats_of(store->cas).evicted, 0);
    free(make_blob(100, 1, &digest));
    assert_false(is_there(store->cas, &digest));
    assert_true(scratch_exists(&store->scratch, "cas/format"));
    assert_true(scratch_exists(&store->scratch, "cas/shared"));
    assert_true(scratch_exists(&store->scratch, "cas/log"));
    assert_true(scratch_exists(&store->scratch, "cas/table"));
    store_close(store);
    store_open(store, QUOTA);
    assert_int_equal(stats_of(store->cas).blobs, 0);
}

static void test_a_restart_keeps_content_and_order(void **state)
{
    struct store *store = *state;
    struct digest digests[6];
    store_open(store, QUOTA);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, i, &digests[i]), ERR_OK);
    assert_true(is_there(store->cas, &digests[0]));
    store_reopen(store, QUOTA);
    assert_int_equal(stats_of(store->cas).blobs, 4);
    for (uint64_t i = 4; i < 6; i++)
        assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, i, &digests[i]), ERR_OK);
    bool present[6];
    cas_find(store->cas, NULL, digests, 6, present);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(present[i], i != 1);
    assert_int_equal(get_blob(store->cas, 3 * MIB, 0), ERR_OK);
    store_reopen(store, QUOTA);
    assert_int_equal(stats_of(store->cas).evicted, 1);
    assert_int_equal(get_blob(store->cas, 3 * MIB, 5), ERR_OK);
}

static void test_a_removed_cas_is_an_empty_one(void **state)
{
    struct store *store = *state;
    struct digest digest;
    char path[PATH_MAX];
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, MIB, 0, &digest), ERR_OK);
    store_close(store);
    scratch_remove(scratch_path(&store->scratch, "cas", path));
    store_open(store, QUOTA);
    assert_false(is_there(store->cas, &digest));
    assert_int_equal(put_blob(store->cas, NULL, MIB, 0, &digest), ERR_OK);
    assert_int_equal(get_blob(store->cas, MIB, 0), ERR_OK);
}

static void test_other_formats_are_refused(void **state)
{
    struct store *store = *state;
    char path[PATH_MAX];
    struct err err;
    assert_int_equal(mkdir(scratch_path(&store->scratch, "cas", path), 0750), 0);
    scratch_write(&store->scratch, "cas/format", "assetd cas 1 00112233445566778899aabbccddeeff\n");
    assert_int_equal(refuse(store, QUOTA, &err), -ERR_PRECONDITION);
    assert_non_null(strstr(err.msg, "version 1"));
    assert_non_null(strstr(err.msg, "remove the directory"));
    scratch_write(&store->scratch, "cas/format", "assetd cas 3 00112233445566778899aabbccddeeff\n");
    assert_int_equal(refuse(store, QUOTA, &err), -ERR_PRECONDITION);
    assert_non_null(strstr(err.msg, "version 3"));
    /* What was refused was not touched. */
    assert_false(scratch_exists(&store->scratch, "cas/shared"));
    assert_false(scratch_exists(&store->scratch, "cas/log"));
}

static void test_a_foreign_store_is_left_alone(void **state)
{
    struct store *store = *state;
    struct digest digest;
    char path[PATH_MAX];
    assert_int_equal(mkdir(scratch_path(&store->scratch, "cas", path), 0755), 0);
    assert_int_equal(mkdir(scratch_path(&store->scratch, "cas/objects", path), 0755), 0);
    scratch_write(&store->scratch, "cas/objects/00", "content");
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 0, &digest), ERR_OK);
    assert_true(scratch_exists(&store->scratch, "assetd/cas/log"));
    assert_false(scratch_exists(&store->scratch, "cas/log"));
    assert_true(scratch_exists(&store->scratch, "cas/objects/00"));
    store_reopen(store, QUOTA);
    assert_true(is_there(store->cas, &digest));
}

static void test_a_quota_without_room_is_refused(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct err err;
    assert_int_equal(refuse(store, 64 * KIB, &err), -ERR_INVALID);
    assert_non_null(strstr(err.msg, "quota"));
    assert_non_null(strstr(err.msg, "65536"));
    /* Nothing is held back. */
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, MIB, 0, &digest), ERR_OK);
    store_close(store);
    assert_int_equal(refuse(store, 64 * KIB, &err), -ERR_INVALID);
    store_open(store, QUOTA);
    assert_int_equal(get_blob(store->cas, MIB, 0), ERR_OK);
}

static void test_what_others_put_there_counts_and_stays(void **state)
{
    struct store *store = *state;
    static char text[100 * KIB];
    char path[PATH_MAX];
    memset(text, 'x', sizeof(text) - 1);
    store_open(store, QUOTA);
    uint64_t bytes = stats_of(store->cas).bytes;
    store_close(store);
    assert_int_equal(mkdir(scratch_path(&store->scratch, "cas/folder", path), 0750), 0);
    scratch_write(&store->scratch, "cas/folder/of-somebody", text);
    scratch_write(&store->scratch, "cas/log/README", text);
    store_open(store, QUOTA);
    assert_true(stats_of(store->cas).bytes >= bytes + 2 * (uint64_t)(100 * KIB - 4096));
    assert_true(scratch_exists(&store->scratch, "cas/folder/of-somebody"));
    assert_true(scratch_exists(&store->scratch, "cas/log/README"));
}

static void test_a_smaller_quota_shrinks_the_store(void **state)
{
    struct store *store = *state;
    struct digest digest;
    store_open(store, 32 * MIB);
    for (uint64_t i = 0; i < 25; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &digest), ERR_OK);
    store_reopen(store, QUOTA);
    while (stats_of(store->cas).bytes > QUOTA)
        (void)usleep(1000);
    assert_int_equal(get_blob(store->cas, MIB, 24), ERR_OK);
    assert_int_equal(get_blob(store->cas, MIB, 0), ERR_NOT_FOUND);
}

static void test_a_second_opening_waits_for_its_turn(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct err err;
    struct cas *second;
    const struct cas_options options = {
        .path = store->scratch.path, .quota = QUOTA, .may_write = true};
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 0, &digest), ERR_OK);
    assert_int_equal(cas_open(&options, &second, &err), 0);
    assert_int_equal(cas_is_writing(second, &err), -ERR_UNAVAILABLE);
    assert_int_equal(put_blob(second, NULL, 1000, 1, &digest), ERR_UNAVAILABLE);
    assert_int_equal(get_blob(second, 1000, 0), ERR_OK);
    store_close(store);
    while (cas_is_writing(second, &err) != 0)
        (void)usleep(1000);
    assert_int_equal(put_blob(second, NULL, 1000, 1, &digest), ERR_OK);
    assert_int_equal(get_blob(second, 1000, 0), ERR_OK);
    cas_close(second);
}

static ino_t synced_directory;
static unsigned directory_syncs;

static int count_fsync(int fd)
{
    struct stat st;
    directory_syncs += fstat(fd, &st) == 0 && st.st_ino == synced_directory;
    return fsync(fd);
}

/* Whoever made what is found may have been killed before its name was durable. */
static void test_names_that_are_found_are_made_durable(void **state)
{
    struct store *store = *state;
    char path[PATH_MAX];
    struct stat st;
    store_open(store, 8 * MIB);
    store_close(store);
    assert_int_equal(stat(scratch_path(&store->scratch, "cas", path), &st), 0);
    synced_directory = st.st_ino;
    disk.fsync = count_fsync;
    store_open(store, 8 * MIB);
    store_close(store);
    disk.fsync = fsync;
    assert_true(directory_syncs > 0);
}

/* Of files of the table that are gone. */
static bool has_replaced_files_mapped(void)
{
    char line[PATH_MAX + 256];
    bool has = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL)
        has |= strstr(line, "/cas/table/") != NULL && strstr(line, "(deleted)") != NULL;
    (void)fclose(maps);
    return has;
}

static void test_who_reads_nothing_lets_go_of_replaced_files(void **state)
{
    struct store *store = *state;
    struct cas *readers[2];
    struct err err;
    store_open(store, 64 * MIB);
    for (int i = 0; i < 2; i++) {
        const struct cas_options options = {
            .path = store->scratch.path, .quota = 64 * MIB, .may_write = i == 1};
        assert_int_equal(cas_open(&options, &readers[i], &err), 0);
    }
    for (uint64_t i = 0; !has_replaced_files_mapped(); i++) {
        struct digest digest;
        assert_true(i < 100000);
        assert_int_equal(put_blob(store->cas, NULL, 40, i, &digest), ERR_OK);
    }
    for (int waits = 0; has_replaced_files_mapped(); waits++) {
        assert_true(waits < 60000);
        (void)usleep(1000);
    }
    for (int i = 0; i < 2; i++)
        cas_close(readers[i]);
}

static void test_what_only_reads_does_not_take_the_turn(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct err err;
    struct cas *reader;
    const struct cas_options options = {.path = store->scratch.path, .quota = QUOTA};
    assert_int_equal(cas_open(&options, &reader, &err), 0);
    assert_int_equal(cas_is_writing(reader, &err), -ERR_UNAVAILABLE);
    store_open(store, QUOTA);
    assert_int_equal(cas_is_writing(store->cas, &err), 0);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 0, &digest), ERR_OK);
    assert_int_equal(get_blob(reader, 1000, 0), ERR_OK);
    store_close(store);
    /* What reads says nothing against the clean end. */
    cas_close(reader);
    assert_int_equal(cas_open(&options, &reader, &err), 0);
    assert_int_equal(atomic_load(&reader->shared.header->clean), 1);
    assert_int_equal(get_blob(reader, 1000, 0), ERR_OK);
    cas_close(reader);
}

static bool has_turn(void *turn)
{
    return atomic_load((atomic_bool *)turn);
}

/* As a power cut leaves it: the file was last trusted in another boot, and not closed. */
static void make_distrusted(const struct store *store)
{
    struct cas_shared_header header;
    char path[PATH_MAX];
    FILE *file = fopen(scratch_path(&store->scratch, "cas/shared", path), "r+b");
    assert_non_null(file);
    assert_int_equal(fread(&header, sizeof(header), 1, file), 1);
    header.boot_id[0] ^= 1;
    atomic_store(&header.clean, 0);
    rewind(file);
    assert_int_equal(fwrite(&header, sizeof(header), 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

/* Nobody writes, and neither does who has not the turn; it does what readers do. */
static void test_who_has_not_the_turn_reads_until_it_comes(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct err err;
    struct cas *cas;
    atomic_bool turn = false;
    const struct cas_options options = {.path = store->scratch.path,
                                        .quota = QUOTA,
                                        .may_write = true,
                                        .is_turn = has_turn,
                                        .context = &turn};
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 0, &digest), ERR_OK);
    store_close(store);
    for (int is_distrusted = 0; is_distrusted <= 1; is_distrusted++) {
        if (is_distrusted)
            make_distrusted(store);
        atomic_store(&turn, false);
        assert_int_equal(cas_open(&options, &cas, &err), 0);
        while (get_blob(cas, 1000, 0) != ERR_OK)
            (void)usleep(1000);
        assert_int_equal(cas_is_writing(cas, &err), -ERR_UNAVAILABLE);
        assert_int_equal(put_blob(cas, NULL, 1000, 1, &digest), ERR_UNAVAILABLE);
        /* The lock is for who has. */
        store_open(store, QUOTA);
        while (cas_is_writing(store->cas, &err) != 0)
            (void)usleep(1000);
        assert_int_equal(put_blob(store->cas, NULL, 1000, 2, &digest), ERR_OK);
        assert_int_equal(get_blob(cas, 1000, 2), ERR_OK);
        store_close(store);
        assert_int_equal(cas_is_writing(cas, &err), -ERR_UNAVAILABLE);
        atomic_store(&turn, true);
        while (cas_is_writing(cas, &err) != 0)
            (void)usleep(1000);
        assert_int_equal(put_blob(cas, NULL, 1000, 3, &digest), ERR_OK);
        assert_int_equal(get_blob(cas, 1000, 0), ERR_OK);
        cas_close(cas);
    }
}

/* --- taking over without all of the table --- */

/* What the thread is that takes over, and how far it is. */
static struct late {
    struct disk disk; /* the real one */
    atomic_bool is_turn;
    atomic_bool is_short;  /* it cannot open shards */
    atomic_uint failed;    /* openings */
    atomic_uint failed_at; /* as many had when it was its turn */
    atomic_bool is_asked;
} late;

static int openat_if_not_short(int directory, const char *name, int flags, mode_t mode)
{
    char thread[16] = "";
    bool is_shard = strlen(name) == 11 && name[2] == '-';
    (void)pthread_getname_np(pthread_self(), thread, sizeof(thread));
    if (!is_shard || strcmp(thread, "cas-turn") != 0 || !atomic_load(&late.is_short))
        return late.disk.openat(directory, name, flags, mode);
    (void)atomic_fetch_add(&late.failed, 1);
    errno = EMFILE;
    return -1;
}

static bool is_late_turn(void *context)
{
    (void)context;
    if (!atomic_load(&late.is_turn))
        return false;
    if (!atomic_load(&late.is_asked))
        atomic_store(&late.failed_at, atomic_load(&late.failed));
    atomic_store(&late.is_asked, true);
    return true;
}

/* Shards that it has not got may have been written anew: it would go on with the old ones. */
static void test_nobody_takes_over_without_the_newest_table(void **state)
{
    enum { BLOBS = 8000, SIZE = 16 }; /* so many that shards are written anew */
    struct store *store = *state;
    struct digest digest;
    struct err err;
    struct cas *cas;
    const struct cas_options options = {
        .path = store->scratch.path, .quota = QUOTA, .may_write = true, .is_turn = is_late_turn};
    late = (struct late){.disk = disk, .is_short = true};
    disk.openat = openat_if_not_short;
    store_open(store, QUOTA);
    assert_int_equal(cas_open(&options, &cas, &err), 0);
    for (uint64_t i = 0; i < BLOBS; i++)
        assert_int_equal(put_blob(store->cas, NULL, SIZE, i, &digest), ERR_OK);
    store_close(store);
    atomic_store(&late.is_turn, true);
    while (
        cas_is_writing(cas, &err) != 0 &&
        (!atomic_load(&late.is_asked) || atomic_load(&late.failed) == atomic_load(&late.failed_at)))
        (void)usleep(1000);
    assert_int_equal(cas_is_writing(cas, &err), -ERR_UNAVAILABLE);
    cas_close(cas);
    disk = late.disk;
    store_open(store, QUOTA);
    assert_int_equal(stats_of(store->cas).blobs, BLOBS);
    for (uint64_t i = 0; i < BLOBS; i++)
        assert_int_equal(get_blob(store->cas, SIZE, i), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_is_made_and_is_empty, store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_a_restart_keeps_content_and_order, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_removed_cas_is_an_empty_one, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_other_formats_are_refused, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_foreign_store_is_left_alone, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_quota_without_room_is_refused, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_what_others_put_there_counts_and_stays, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_smaller_quota_shrinks_the_store, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_second_opening_waits_for_its_turn, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_names_that_are_found_are_made_durable, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_who_reads_nothing_lets_go_of_replaced_files,
                                        store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_what_only_reads_does_not_take_the_turn, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_who_has_not_the_turn_reads_until_it_comes, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_nobody_takes_over_without_the_newest_table,
                                        store_setup, store_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
