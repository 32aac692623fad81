/* SPDX-License-Identifier: Apache-2.0 */
/* The digest table without room, with calls that fail, and with damaged files. */
#include <sys/mman.h>

#include "digest_site.h"

struct room {
    int64_t left;
    int64_t taken;
};

static int take(void *context, int64_t bytes, struct err *err)
{
    struct room *room = context;
    if (bytes > room->left)
        return err_set(err, ERR_EXHAUSTED, "no room");
    room->left -= bytes;
    room->taken += bytes;
    return 0;
}

static void give(void *context, int64_t bytes)
{
    struct room *room = context;
    room->left += bytes;
    room->taken -= bytes;
}

/* Puts until one fails, which is with CODE; how many there are then. */
static uint64_t put_until(struct site *site, enum err_code code)
{
    struct err err;
    uint64_t count = 0;
    while (put_one(site, count, &err) == 0)
        count++;
    assert_int_equal(err.code, code);
    return count;
}

static void test_without_room_shards_fill_up(void **state)
{
    struct site *site = *state;
    struct room room = {.left = 0};
    struct digest_table_room calls = {.take = take, .give = give, .context = &room};
    int64_t bytes = digest_table_bytes(site->writer.table);
    assert_int_equal(bytes, CAS_SHARDS * PAGE);
    digest_table_set_room(site->writer.table, &calls);
    uint64_t count = put_until(site, ERR_EXHAUSTED);
    uint32_t most = 0;
    for (unsigned i = 0; i < CAS_SHARDS; i++)
        if (atomic_load(&site->writer.shared.header->slots_used[i]) > most)
            most = atomic_load(&site->writer.shared.header->slots_used[i]);
    assert_int_equal(most, PAGE_SLOTS * 90 / 100);
    expect_all(site, site->writer.table, 0, count);
    assert_int_equal(find(site->writer.table, count), 0);
    assert_int_equal(blobs(site), count);
    /* What is there already needs none. */
    put(site, 0, count);
    /* Room for one page is not enough for the next file, and is given back. */
    room.left = PAGE;
    (void)put_until(site, ERR_EXHAUSTED);
    assert_int_equal(room.left, PAGE);
    room.left = INT32_MAX;
    put(site, 0, MANY);
    assert_int_equal(bytes + room.taken, digest_table_bytes(site->writer.table));
    expect_all(site, site->writer.table, 0, MANY);
}

static int fail_with; /* errno of the calls below */

static int fail_fallocate(int fd, int mode, off_t offset, off_t size)
{
    (void)fd;
    (void)mode;
    (void)offset;
    (void)size;
    errno = fail_with;
    return -1;
}

static int fail_openat(int directory, const char *name, int flags, mode_t mode)
{
    (void)directory;
    (void)name;
    (void)flags;
    (void)mode;
    errno = fail_with;
    return -1;
}

static void *fail_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    (void)address;
    (void)size;
    (void)protection;
    (void)flags;
    (void)fd;
    (void)offset;
    errno = fail_with;
    return MAP_FAILED;
}

static int fail_unlinkat(int directory, const char *name, int flags)
{
    (void)directory;
    (void)name;
    (void)flags;
    errno = fail_with;
    return -1;
}

static int fail_fsync(int fd)
{
    (void)fd;
    errno = fail_with;
    return -1;
}

static void expect_failed_growth(struct site *site, struct room *room, int errnum,
                                 enum err_code code)
{
    fail_with = errnum;
    uint64_t count = put_until(site, code);
    disk = site->disk;
    assert_int_equal(count_files(site), CAS_SHARDS);
    assert_int_equal(room->taken, 0);
    expect_all(site, site->writer.table, 0, count);
}

static void test_a_failed_growth_changes_nothing(void **state)
{
    struct site *site = *state;
    struct room room = {.left = INT32_MAX};
    struct digest_table_room calls = {.take = take, .give = give, .context = &room};
    digest_table_set_room(site->writer.table, &calls);
    disk.fallocate = fail_fallocate;
    expect_failed_growth(site, &room, ENOSPC, ERR_EXHAUSTED);
    disk.fallocate = fail_fallocate;
    expect_failed_growth(site, &room, EIO, ERR_IO);
    disk.openat = fail_openat;
    expect_failed_growth(site, &room, EMFILE, ERR_IO);
    disk.mmap = fail_mmap;
    expect_failed_growth(site, &room, ENOMEM, ERR_NO_MEMORY);
    put(site, 0, MANY);
    expect_all(site, site->writer.table, 0, MANY);
}

static void test_old_files_that_stay_are_swept(void **state)
{
    struct site *site = *state;
    struct err err;
    put(site, 0, 5000);
    unsigned before = count_files(site);
    fail_with = EIO;
    disk.unlinkat = fail_unlinkat;
    assert_int_equal(digest_table_sweep(site->writer.table, &err), 0);
    scratch_write(&site->scratch, "table/00-0000ffff", "left by a killed writer");
    scratch_write(&site->scratch, "table/core", "left by somebody else");
    assert_int_equal(digest_table_sweep(site->writer.table, &err), -ERR_IO);
    disk = site->disk;
    assert_int_equal(digest_table_sweep(site->writer.table, &err), 0);
    assert_int_equal(count_files(site), before);
    expect_all(site, site->writer.table, 0, 5000);
}

static void test_sync(void **state)
{
    struct site *site = *state;
    struct err err;
    assert_int_equal(digest_table_sync(site->writer.table, &err), 0);
    fail_with = EIO;
    disk.fsync = fail_fsync;
    assert_int_equal(digest_table_sync(site->writer.table, &err), -ERR_IO);
}

/* --- opening --- */

static void expect_data_loss(struct site *site)
{
    struct opening opening;
    struct err err;
    assert_int_equal(open_store(site, &opening, &err), -ERR_DATA_LOSS);
}

static void test_damaged_shards(void **state)
{
    struct site *site = *state;
    char path[PATH_MAX];
    struct err err;
    put(site, 0, 100);
    assert_int_equal(truncate(scratch_path(&site->scratch, "table/07-00000001", path), PAGE - 1),
                     0);
    expect_data_loss(site);
    assert_int_equal(unlink(path), 0);
    expect_data_loss(site);
    assert_int_equal(mkdir(path, 0750), 0);
    struct opening opening;
    assert_int_equal(open_store(site, &opening, &err), -ERR_IO);
    assert_int_equal(rmdir(path), 0);
    _Atomic uint64_t *word = &site->writer.shared.header->shards[7];
    const uint64_t wrong[] = {0, 1, (uint64_t)1 << 32, (uint64_t)1 << 32 | 2, UINT64_MAX};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        atomic_store(word, wrong[i]);
        expect_data_loss(site);
    }
    /* Made anew it is empty, and whoever has it open goes over to it. */
    assert_int_equal(digest_table_reset(&site->writer.shared, site->table_fd, 100000, &err), 0);
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(find(site->writer.table, i), 0);
    assert_int_equal(blobs(site), 0);
    assert_int_equal(count_files(site), CAS_SHARDS);
    put(site, 0, 100);
    must_open(site, &opening);
    expect_all(site, opening.table, 0, 100);
    close_store(&opening);
}

static void test_reset_makes_room_for_what_is_expected(void **state)
{
    struct site *site = *state;
    struct err err;
    scratch_write(&site->scratch, "table/core", "left by somebody else");
    assert_int_equal(digest_table_reset(&site->writer.shared, site->table_fd, MANY, &err), 0);
    assert_int_equal(count_files(site), CAS_SHARDS);
    digest_table_refresh(site->writer.table);
    int64_t bytes = digest_table_bytes(site->writer.table);
    assert_in_range(bytes, MANY * 32, MANY * 98);
    put(site, 0, MANY);
    assert_int_equal(digest_table_bytes(site->writer.table), bytes);
    fail_with = ENOSPC;
    disk.fallocate = fail_fallocate;
    assert_int_equal(digest_table_reset(&site->writer.shared, site->table_fd, MANY, &err),
                     -ERR_EXHAUSTED);
    disk = site->disk;
    expect_data_loss(site);
    assert_int_equal(digest_table_reset(&site->writer.shared, site->table_fd, UINT64_MAX, &err),
                     -ERR_EXHAUSTED);
    assert_int_equal(digest_table_reset(&site->writer.shared, site->table_fd, 0, &err), 0);
}

/* Whatever is in the slots, nothing outside of them is touched. */
static void test_any_bytes_are_safe(void **state)
{
    struct site *site = *state;
    char name[32], path[PATH_MAX];
    uint8_t page[PAGE];
    struct err err;
    uint32_t random = 7;
    for (unsigned shard = 0; shard < CAS_SHARDS; shard++) {
        for (size_t i = 0; i < sizeof(page); i++) {
            random = random * 1664525 + 1013904223;
            page[i] = (uint8_t)(shard % 2 == 0 ? random >> 24 : 0xff);
        }
        (void)snprintf(name, sizeof(name), "table/%02u-00000001", shard);
        int fd = open(scratch_path(&site->scratch, name, path), O_WRONLY);
        assert_int_equal(pwrite(fd, page, sizeof(page), 0), sizeof(page));
        (void)close(fd);
    }
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(find(site->writer.table, i), 0);
    /* Full of what leads nowhere: written anew without it. */
    put(site, 0, 1000);
    expect_all(site, site->writer.table, 0, 1000);
    assert_int_equal(digest_table_sync(site->writer.table, &err), 0);
}

static void test_one_that_cannot_follow_says_so(void **state)
{
    struct site *site = *state;
    struct opening reader;
    must_open(site, &reader);
    assert_true(digest_table_is_current(reader.table));
    put(site, 0, MANY);
    fail_with = EMFILE;
    disk.openat = fail_openat;
    unsigned missed = 0;
    for (uint64_t i = 0; i < MANY; i++)
        missed += find(reader.table, i) == 0;
    assert_true(missed > 0);
    assert_false(digest_table_is_current(reader.table));
    disk = site->disk;
    digest_table_refresh(reader.table);
    assert_true(digest_table_is_current(reader.table));
    expect_all(site, reader.table, 0, MANY);
    close_store(&reader);
}

/* What it would put there would be lost; so would what others have put into the newer one. */
static void test_nothing_is_put_into_a_file_that_was_replaced(void **state)
{
    enum { EARLY = 1000, MORE = MANY + 1000 };
    struct site *site = *state;
    struct opening other;
    struct err err;
    put(site, 0, EARLY);
    must_open(site, &other);
    put(site, EARLY, MANY);
    fail_with = EMFILE;
    disk.openat = fail_openat;
    for (uint64_t i = MANY; i < MORE; i++) {
        struct cas_key key = key_of(i);
        uint64_t there;
        assert_int_equal(
            digest_table_add(other.table, &key, place_of(site->segment, i), &there, &err),
            -ERR_UNAVAILABLE);
    }
    for (uint64_t i = 0; i < EARLY; i++) {
        struct cas_key key = key_of(i);
        assert_false(digest_table_move(other.table, &key, place_of(site->segment, i), 0));
    }
    disk = site->disk;
    for (uint64_t i = MANY; i < MORE; i++)
        assert_int_equal(find(other.table, i), 0);
    expect_all(site, other.table, 0, MANY);
    expect_all(site, site->writer.table, 0, MANY);
    struct cas_key key = key_of(0);
    assert_true(digest_table_move(other.table, &key, place_of(site->segment, 0), 0));
    assert_int_equal(find(site->writer.table, 0), 0);
    close_store(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_without_room_shards_fill_up),
        TEST(test_a_failed_growth_changes_nothing),
        TEST(test_old_files_that_stay_are_swept),
        TEST(test_sync),
        TEST(test_damaged_shards),
        TEST(test_reset_makes_room_for_what_is_expected),
        TEST(test_any_bytes_are_safe),
        TEST(test_one_that_cannot_follow_says_so),
        TEST(test_nothing_is_put_into_a_file_that_was_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
