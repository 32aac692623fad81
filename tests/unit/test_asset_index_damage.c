/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index: bytes that are damaged. */
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "index_site.h"
#include "store/asset_record.h"

/* Turns over a bit of the first value of a table, behind the index's back. */
static void damage(struct site *site, const char *table, size_t offset)
{
    char path[PATH_MAX];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_maxdbs(env, 8), 0);
    assert_int_equal(mdb_env_open(env, scratch_path(&site->scratch, "index", path), 0, 0640), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, table, 0, &dbi), 0);
    assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &key, &value, MDB_FIRST), 0);
    uint8_t copy[4096];
    uint8_t key_copy[64];
    assert_true(value.mv_size <= sizeof(copy) && key.mv_size <= sizeof(key_copy));
    memcpy(copy, value.mv_data, value.mv_size);
    memcpy(key_copy, key.mv_data, key.mv_size);
    mdb_cursor_close(cursor);
    copy[offset % value.mv_size] ^= 0x10;
    key.mv_data = key_copy;
    value.mv_data = copy;
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static bool count_asset(void *context, const struct asset_key *key, const struct asset *asset)
{
    (void)key;
    (void)asset;
    ++*(unsigned *)context;
    return true;
}

/* Damages one value of TABLE; the index of one asset must go on as if that asset was not there. */
static void check_damage(struct site *site, const char *table, size_t offset, bool is_found)
{
    unsigned count = 0;
    uint64_t damaged;
    site_open(site, MIB, HOUR);
    site_put_number(site, 1);
    assert_true(site_has_number(site, 1));
    site_close(site);
    damage(site, table, offset);
    site_open(site, MIB, HOUR);
    assert_int_equal(site_has_number(site, 1), is_found);
    assert_int_equal(asset_index_each(site->index, count_asset, &count, &damaged, &site->err), 0);
    assert_int_equal(count, is_found);
    assert_int_equal(damaged, !is_found);
    /* A push heals it; neither expiry nor eviction minds. */
    site_put_number(site, 1);
    assert_true(site_has_number(site, 1));
    atomic_fetch_add(&site_clock, 2 * HOUR);
    site_put_number(site, 2);
    assert_false(site_has_number(site, 1));
    site_fill(site, 10, 4000);
    assert_true(site_has_number(site, 3999));
    assert_true(site_stats(site).evicted > 0);
    site_close(site);
}

/* The checksum of records, byte by byte as the files that there are have it. */
static uint64_t plain_checksum(const uint8_t *bytes, size_t size)
{
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t sum = size * odd;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        for (size_t j = i; j < size && j < i + 8; j++)
            word |= (uint64_t)bytes[j] << (8 * (j - i));
        sum = (sum ^ word) * odd;
        sum ^= sum >> 32;
    }
    return sum;
}

static void assert_checksum(const uint8_t *stored, const uint8_t *bytes, size_t size)
{
    uint64_t sum = plain_checksum(bytes, size);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(stored[i], sum >> (8 * i) & 0xff);
}

/* Whatever their length: a server of another version reads what this one has written. */
static void test_checksums_are_what_they_always_were(void **state)
{
    struct site *site = *state;
    const struct asset_row rows = {.record = 1, .used = 2, .fetched_at = -3, .expires_at = 4};
    uint8_t row[ASSET_ROW_SIZE];
    asset_row_pack(&rows, row);
    assert_checksum(row, row + 8, sizeof(row) - 8);
    struct asset asset = site_asset(5);
    for (size_t length = 1; length <= 16; length++) {
        char uri[32] = {0};
        uint8_t record[512];
        struct asset_name name;
        memset(uri, 0xc3, length);
        struct asset_key key = site_key(uri);
        assert_int_equal(asset_name_init(&name, &key, &site->err), 0);
        size_t size = asset_record_size(name.size, &asset);
        assert_true(size <= sizeof(record));
        asset_record_pack(&name, &asset, record);
        asset_name_fini(&name);
        assert_checksum(record + 8, record + 16, size - 16);
    }
}

static void test_damage_is_a_miss(void **state)
{
    static const struct {
        const char *table;
        size_t offset;
        bool is_found;
    } cases[] = {
        {"records", 0, false},  {"records", 12, false}, {"records", 50, false},
        {"records", 90, false}, {"rows", 0, false},     {"rows", 8, false},
        {"rows", 30, false},    {"by_use", 3, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        void *sub = NULL;
        (void)state;
        assert_int_equal(site_set_up(&sub), 0);
        check_damage(sub, cases[i].table, cases[i].offset, cases[i].is_found);
        assert_int_equal(site_tear_down(&sub), 0);
    }
}

/* Makes the pages that hold rows pages of no kind, in the file of an index that is open. */
static void damage_row_pages(struct site *site)
{
    enum { PAGE = 4096, FLAGS = 10, NODES = 16, KEY_SIZE = 6, LEAF = 2 };
    char path[PATH_MAX];
    uint8_t page[PAGE];
    int damaged = 0;
    int fd = open(scratch_path(&site->scratch, "index/data.mdb", path), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    for (off_t at = 0; pread(fd, page, sizeof(page), at) == (ssize_t)sizeof(page); at += PAGE) {
        size_t node = (size_t)page[NODES] | (size_t)page[NODES + 1] << 8;
        if (page[FLAGS] != LEAF || node + KEY_SIZE >= PAGE ||
            page[node + KEY_SIZE] != ASSET_HASH_SIZE)
            continue;
        page[FLAGS] = 0;
        assert_int_equal(pwrite(fd, page, sizeof(page), at), sizeof(page));
        damaged++;
    }
    (void)close(fd);
    assert_true(damaged > 0);
}

static void test_damage_of_the_file_is_no_miss(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 1);
    struct asset asset = site_asset(1);
    unsigned count = 0;
    uint64_t damaged;
    site_open(site, MIB, 0);
    site_put(site, &key, &asset);
    damage_row_pages(site);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(site_get(site, &key, &asset), -ERR_UNAVAILABLE);
        assert_int_equal(asset_index_each(site->index, count_asset, &count, &damaged, &site->err),
                         -ERR_UNAVAILABLE);
    }
    asset = site_asset(1);
    assert_int_equal(site_write(site, &key, 1, &asset), ERR_UNAVAILABLE);
}

static void test_no_bytes_crash_the_reader(void **state)
{
    struct site *site = *state;
    const struct qualifier qualifiers[] = {{"name", "value"}, {"b", ""}};
    struct asset_key key = site_key("urn:a");
    struct digest digests[3] = {site_digest(1), site_digest(2), site_digest(3)};
    struct asset asset = site_asset(1);
    struct asset_name name;
    key.qualifiers = qualifiers;
    key.qualifier_count = 2;
    asset.blobs = digests;
    asset.blob_count = 3;
    asset.directories = digests;
    asset.directory_count = 1;
    assert_int_equal(asset_name_init(&name, &key, &site->err), 0);
    size_t size = asset_record_size(name.size, &asset);
    uint8_t *record = malloc(size);
    assert_non_null(record);
    asset_record_pack(&name, &asset, record);
    for (size_t i = 0; i <= size; i++) {
        /* Cut off before i, then byte i changed; each in memory of exactly that size. */
        for (unsigned change = 0; change < 256; change++) {
            size_t length = change == 0 ? i : size;
            if (change != 0 && i == size)
                continue;
            uint8_t *copy = malloc(length + 1);
            assert_non_null(copy);
            uint8_t *exact = copy + 1; /* a page of the database promises no alignment */
            memcpy(exact, record, length);
            if (change != 0)
                exact[i] = (uint8_t)(exact[i] ^ change);
            struct asset_key found_key;
            struct asset found;
            arena_reset(&site->arena);
            int rc = asset_record_unpack((struct span){exact, length}, NULL, &site->arena,
                                         &found_key, &found, &site->err);
            bool is_whole = change == 0 && length == size;
            bool is_unused_byte = change != 0 && i >= 1 && i < 8;
            assert_int_equal(rc, is_whole || is_unused_byte ? 0 : -ERR_DATA_LOSS);
            free(copy);
        }
    }
    free(record);
    asset_name_fini(&name);
}

static void test_another_name_under_the_same_hash_is_a_miss(void **state)
{
    struct site *site = *state;
    struct asset_key key = site_key("urn:a");
    struct asset_key other_key = site_key("urn:b");
    struct asset asset = site_asset(1);
    struct asset found;
    struct asset_name name;
    struct asset_name other;
    uint8_t record[256];
    assert_int_equal(asset_name_init(&name, &key, &site->err), 0);
    assert_int_equal(asset_name_init(&other, &other_key, &site->err), 0);
    struct span packed = {record, asset_record_size(name.size, &asset)};
    assert_true(packed.size <= sizeof(record));
    asset_record_pack(&name, &asset, record);
    assert_int_equal(asset_record_unpack(packed, &name, &site->arena, NULL, &found, &site->err), 0);
    assert_int_equal(asset_record_unpack(packed, &other, &site->arena, NULL, &found, &site->err),
                     -ERR_NOT_FOUND);
    asset_name_fini(&name);
    asset_name_fini(&other);
}

/* A copy of a store may have lost the blocks that hold zeros; without them a full disk would end
 * the process. */
static void test_lost_blocks_are_taken_again(void **state)
{
    struct site *site = *state;
    struct stat whole;
    struct stat st;
    char path[PATH_MAX];
    site_open(site, MIB, HOUR);
    site_put_number(site, 1);
    site_close(site);
    (void)scratch_path(&site->scratch, "index/shared", path);
    assert_int_equal(stat(path, &whole), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, whole.st_size - 8192), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_blocks < whole.st_blocks);
    site_open(site, MIB, HOUR);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_blocks >= whole.st_blocks);
    assert_true(site_has_number(site, 1));
    site_close(site);
    (void)close(fd);
}

int main(void)
{
#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, site_set_up, site_tear_down)
    const struct CMUnitTest tests[] = {
        INDEX_TEST(test_checksums_are_what_they_always_were),
        INDEX_TEST(test_damage_is_a_miss),
        INDEX_TEST(test_damage_of_the_file_is_no_miss),
        INDEX_TEST(test_no_bytes_crash_the_reader),
        INDEX_TEST(test_another_name_under_the_same_hash_is_a_miss),
        INDEX_TEST(test_lost_blocks_are_taken_again),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
