/* SPDX-License-Identifier: Apache-2.0 */
/* A writer that is killed while it syncs, after a sync has failed, or while it decides. */
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

#include "kill_site.h"

/* --- what is done by who is killed --- */

static int fail_fdatasync(int fd)
{
    (void)fd;
    errno = EIO;
    return -1;
}

static int fail_ftruncate(int fd, off_t size)
{
    (void)fd;
    (void)size;
    errno = EIO;
    return -1;
}

static int die_in_fdatasync(int fd)
{
    (void)fd;
    _exit(0);
}

static void sync_first(struct store *store)
{
    struct err err;
    uint64_t number = atomic_load(&first_segment(store)->number);
    (void)cas_log_sync(store->cas->log, &number, 1, &err);
}

/* The first sync of a segment fails while tables are filled, and what is lost cannot be cut off. */
static void fail_first_sync(struct store *store)
{
    put_blobs(store->cas, 0, 1);
    atomic_store(&store->cas->shared.header->rebuilding, CAS_FILLING);
    disk.fdatasync = fail_fdatasync;
    disk.ftruncate = fail_ftruncate;
    sync_first(store);
}

enum { KNOWN = 4, UNKNOWN = 6, LARGE = 3 * MIB };

/* Four are durable, and it is killed when it makes six more so. */
static void die_syncing(struct store *store)
{
    put_blobs(store->cas, 0, KNOWN);
    sync_first(store);
    put_blobs(store->cas, KNOWN, UNKNOWN);
    disk.fdatasync = die_in_fdatasync;
    sync_first(store);
    abort();
}

/* Likewise, with one that is larger than what is read at once. */
static void die_syncing_large(struct store *store)
{
    struct digest digest;
    disk.fdatasync = die_in_fdatasync;
    if (put_blob(store->cas, NULL, LARGE, 0, &digest) != ERR_OK)
        abort();
    sync_first(store);
}

/* It looks whether a segment goes of which half has been filled into the table. */
static void die_deciding(struct store *store)
{
    put_blobs(store->cas, 0, BLOBS);
    struct cas_segment *first = first_segment(store);
    while (atomic_load(&first->state) != CAS_SEALED)
        (void)usleep(1000);
    for (uint64_t i = 0; i < 6; i++) {
        struct cas_found found;
        struct digest digest;
        free(make_blob(BLOB, i, &digest));
        if (cas_look_up(store->cas, NULL, &digest, &found) != CAS_PRESENT ||
            cas_segment_find(&store->cas->shared, cas_place_number(found.place)) != first ||
            !digest_table_move(store->cas->table, &found.key, found.place, 0))
            abort();
    }
    atomic_store(&store->cas->shared.header->rebuilding, CAS_FILLING);
    atomic_store(&first->state, CAS_LEAVING);
}

/* --- which bytes are written before anything is synced --- */

static atomic_int has_synced;
static atomic_uint_fast64_t rewritten_from;
static atomic_uint_fast64_t rewritten_to;

static ssize_t note_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    ssize_t written = pwritev(fd, parts, count, offset);
    if (atomic_load(&has_synced) == 0 && written > 0) {
        if ((uint64_t)offset < atomic_load(&rewritten_from))
            atomic_store(&rewritten_from, (uint64_t)offset);
        if ((uint64_t)(offset + written) > atomic_load(&rewritten_to))
            atomic_store(&rewritten_to, (uint64_t)(offset + written));
    }
    return written;
}

static int note_fdatasync(int fd)
{
    atomic_store(&has_synced, 1);
    return fdatasync(fd);
}

/* A disk that is slow, so that a rebuild is in time for what is to be sealed. */
static int slow_fdatasync(int fd)
{
    (void)usleep(200 * 1000);
    return fdatasync(fd);
}

static struct disk real_disk;

static int setup(void **state)
{
    real_disk = disk;
    atomic_store(&has_synced, 0);
    atomic_store(&rewritten_from, UINT64_MAX);
    atomic_store(&rewritten_to, 0);
    return store_setup(state);
}

static int teardown(void **state)
{
    int rc = store_teardown(state);
    disk = real_disk;
    return rc;
}

static void open_noting(struct store *store)
{
    disk.pwritev = note_pwritev;
    disk.fdatasync = note_fdatasync;
    store_open(store, QUOTA);
}

/* --- tests --- */

static void test_what_a_failed_sync_took_back_does_not_return(void **state)
{
    struct store *store = *state;
    work_and_die(store, fail_first_sync);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_int_equal(get_blob(store->cas, BLOB, 0), ERR_NOT_FOUND);
}

static const uint64_t record = (24 + 32 + BLOB + 4 + 15) / 16 * 16;

static void test_what_was_being_synced_is_written_again(void **state)
{
    struct store *store = *state;
    assert_int_equal(cas_record_size(DIGEST_SHA256, BLOB), record);
    work_and_die(store, die_syncing);
    open_noting(store);
    assert_int_equal(atomic_load(&rewritten_from), CAS_SEGMENT_HEADER + KNOWN * record);
    assert_true(atomic_load(&rewritten_to) >= CAS_SEGMENT_HEADER + (KNOWN + UNKNOWN) * record);
    /* No other than those that are going on now. */
    while (atomic_load(&store->cas->shared.header->syncing) != 0)
        (void)usleep(1000);
    expect_blobs(store, 0, KNOWN + UNKNOWN);
    /* Once is enough. */
    store_close(store);
    boot_again(store);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, KNOWN + UNKNOWN);
}

static void test_what_was_being_synced_and_is_not_whole_is_cut(void **state)
{
    struct store *store = *state;
    enum { BROKEN = KNOWN + 2 };
    work_and_die(store, die_syncing);
    char name[sizeof("cas/log/") + NAME_MAX];
    char path[PATH_MAX];
    struct dirent **names;
    int count = scandir(scratch_path(&store->scratch, "cas/log", path), &names, NULL, alphasort);
    assert_int_equal(count, 3);
    (void)snprintf(name, sizeof(name), "cas/log/%s", names[2]->d_name);
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    scratch_flip(&store->scratch, name, (off_t)(CAS_SEGMENT_HEADER + BROKEN * record + 1000));
    store_open(store, QUOTA);
    expect_blobs(store, 0, BROKEN);
    for (uint64_t i = BROKEN; i < KNOWN + UNKNOWN; i++)
        assert_int_equal(get_blob(store->cas, BLOB, i), ERR_NOT_FOUND);
    /* It is not there any more, and was not found broken. */
    assert_int_equal(stats_of(store->cas).broken, 0);
    put_blobs(store->cas, BROKEN, 1);
    expect_blobs(store, 0, BROKEN + 1);
}

static void test_a_large_one_that_was_being_synced(void **state)
{
    struct store *store = *state;
    work_and_die(store, die_syncing_large);
    open_noting(store);
    assert_int_equal(atomic_load(&rewritten_from), 0);
    assert_true(atomic_load(&rewritten_to) >= CAS_SEGMENT_HEADER + LARGE);
    assert_int_equal(get_blob(store->cas, LARGE, 0), ERR_OK);
}

static void test_one_that_was_being_filled_and_decided_on(void **state)
{
    struct store *store = *state;
    work_and_die(store, die_deciding);
    disk.fdatasync = slow_fdatasync;
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_a_failed_sync_took_back_does_not_return),
        TEST(test_what_was_being_synced_is_written_again),
        TEST(test_what_was_being_synced_and_is_not_whole_is_cut),
        TEST(test_a_large_one_that_was_being_synced),
        TEST(test_one_that_was_being_filled_and_decided_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
