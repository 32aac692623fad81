/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index: keys, expiry, quota, group commit, faults of the disk, and kill -9. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <lmdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/log.h"
#include "store/asset_index.h"
#include "store/asset_record.h"

enum { MINUTE = 60 * 1000, HOUR = 60 * MINUTE };
enum { MIB = 1 << 20 };

/* --- a disk that fails on demand: LMDB calls these instead of the C library's --- */

static atomic_int fail_sync;   /* errno for fdatasync; 0: works */
static atomic_int fail_write;  /* errno for pwrite and writev */
static atomic_bool fail_after; /* fail_write holds only after the next fdatasync */
static atomic_int sync_count;

int fdatasync(int fd)
{
    atomic_fetch_add(&sync_count, 1);
    atomic_store(&fail_after, false);
    int fault = atomic_load(&fail_sync);
    if (fault != 0) {
        errno = fault;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static bool is_write_failing(void)
{
    int fault = atomic_load(&fail_after) ? 0 : atomic_load(&fail_write);
    errno = fault;
    return fault != 0;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return is_write_failing() ? -1 : (ssize_t)syscall(SYS_pwrite64, fd, data, size, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return is_write_failing() ? -1 : (ssize_t)syscall(SYS_writev, fd, parts, count);
}

/* --- a clock that stands still unless it is set --- */

static atomic_int_fast64_t clock_ms;

static int64_t test_now(void)
{
    return atomic_load(&clock_ms);
}

/* --- what every test has: an empty storage directory, and an index in it --- */

struct site {
    char path[64];
    struct asset_index *index;
    struct arena arena;
    struct err err;
};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

static int set_up(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    const char *parent = getenv("TMPDIR");
    assert_non_null(site);
    (void)snprintf(site->path, sizeof(site->path), "%s/assetd-index-XXXXXX",
                   parent != NULL && strlen(parent) < 32 ? parent : "/tmp");
    assert_non_null(mkdtemp(site->path));
    arena_init(&site->arena);
    atomic_store(&clock_ms, INT64_C(1800000000000));
    *state = site;
    return 0;
}

static int tear_down(void **state)
{
    struct site *site = *state;
    atomic_store(&fail_sync, 0);
    atomic_store(&fail_write, 0);
    atomic_store(&fail_after, false);
    asset_index_close(site->index);
    arena_fini(&site->arena);
    int rc = nftw(site->path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(site);
    return rc;
}

static int try_open(struct site *site, int64_t quota, int64_t expire_after)
{
    struct asset_index_options options = {
        .path = site->path, .quota = quota, .expire_after = expire_after, .now = test_now};
    return asset_index_open(&options, &site->index, &site->err);
}

static void open_index(struct site *site, int64_t quota, int64_t expire_after)
{
    if (try_open(site, quota, expire_after) != 0)
        fail_msg("%s", site->err.msg);
}

static void close_index(struct site *site)
{
    asset_index_close(site->index);
    site->index = NULL;
}

static struct asset_index_stats stats_of(struct site *site)
{
    struct asset_index_stats stats;
    asset_index_stats(site->index, &stats);
    return stats;
}

static int64_t file_size(struct site *site)
{
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/index/data.mdb", site->path);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

/* --- assets --- */

static struct digest digest_of(uint64_t number)
{
    struct digest digest;
    struct err err;
    assert_int_equal(digest_compute(DIGEST_SHA256, &number, sizeof(number), &digest, &err), 0);
    digest.size = (int64_t)number;
    return digest;
}

static struct asset asset_of(uint64_t number)
{
    return (struct asset){
        .content = digest_of(number), .pushed_at = test_now(), .fetched_at = test_now()};
}

static struct asset_key key_of(const char *uri)
{
    return (struct asset_key){.kind = ASSET_BLOB, .function = DIGEST_SHA256, .uri = uri};
}

/* A key whose URI is "urn:test:NUMBER", in TEXT. */
static struct asset_key numbered_key(char text[64], uint64_t number)
{
    (void)snprintf(text, 64, "urn:test:%llu", (unsigned long long)number);
    return key_of(text);
}

/* A write that can be waited for. */
struct pending {
    struct asset_write write;
    sem_t done;
    enum err_code code; /* of the answer */
    sem_t *block;       /* the writer waits for it before it goes on */
};

static void on_done(struct asset_write *write, const struct err *err)
{
    struct pending *pending = (struct pending *)write;
    sem_t *block = pending->block;
    pending->code = err != NULL ? err->code : ERR_OK;
    (void)sem_post(&pending->done);
    if (block != NULL)
        (void)sem_wait(block);
}

static void begin_write(struct site *site, struct pending *pending, const struct asset_key *keys,
                        size_t key_count, const struct asset *asset)
{
    pending->write =
        (struct asset_write){.keys = keys, .key_count = key_count, .asset = asset, .done = on_done};
    pending->code = ERR_CODES;
    pending->block = NULL;
    (void)sem_init(&pending->done, 0, 0);
    asset_index_write(site->index, &pending->write);
}

static enum err_code end_write(struct pending *pending)
{
    while (sem_wait(&pending->done) != 0)
        continue;
    (void)sem_destroy(&pending->done);
    return pending->code;
}

static enum err_code write_keys(struct site *site, const struct asset_key *keys, size_t key_count,
                                const struct asset *asset)
{
    struct pending pending;
    begin_write(site, &pending, keys, key_count, asset);
    return end_write(&pending);
}

static void put(struct site *site, const struct asset_key *key, const struct asset *asset)
{
    assert_int_equal(write_keys(site, key, 1, asset), ERR_OK);
}

static void put_number(struct site *site, uint64_t number)
{
    char text[64];
    struct asset_key key = numbered_key(text, number);
    struct asset asset = asset_of(number);
    put(site, &key, &asset);
}

static int get(struct site *site, const struct asset_key *key, struct asset *asset)
{
    arena_reset(&site->arena);
    return asset_index_get(site->index, key, &site->arena, asset, &site->err);
}

static bool has(struct site *site, const struct asset_key *key)
{
    struct asset asset;
    int rc = get(site, key, &asset);
    if (rc != 0)
        assert_int_equal(rc, -ERR_NOT_FOUND);
    return rc == 0;
}

static bool has_number(struct site *site, uint64_t number)
{
    char text[64];
    struct asset_key key = numbered_key(text, number);
    struct asset asset;
    if (!has(site, &key))
        return false;
    assert_int_equal(get(site, &key, &asset), 0);
    struct digest expected = digest_of(number);
    assert_true(digest_equal(&asset.content, &expected));
    return true;
}

static void touch_number(struct site *site, uint64_t number)
{
    char text[64];
    struct asset_key key = numbered_key(text, number);
    asset_index_touch(site->index, &key);
}

/* Holds the writer thread within the answer to a first write; what is queued now is one group. */
struct blocker {
    struct pending pending;
    sem_t go_on;
    char text[64];
    struct asset_key key;
    struct asset asset;
};

static void block_writer(struct site *site, struct blocker *blocker)
{
    (void)sem_init(&blocker->go_on, 0, 0);
    (void)sem_init(&blocker->pending.done, 0, 0);
    blocker->key = numbered_key(blocker->text, UINT64_MAX);
    blocker->asset = asset_of(1);
    blocker->pending.write = (struct asset_write){
        .keys = &blocker->key, .key_count = 1, .asset = &blocker->asset, .done = on_done};
    blocker->pending.block = &blocker->go_on;
    asset_index_write(site->index, &blocker->pending.write);
    assert_int_equal(end_write(&blocker->pending), ERR_OK);
}

static void unblock_writer(struct blocker *blocker)
{
    (void)sem_post(&blocker->go_on);
}

/* --- keys and values --- */

static void test_qualifiers_in_any_order_are_the_same_asset(void **state)
{
    struct site *site = *state;
    const struct qualifier one[] = {{"vcs.branch", "main"}, {"a", "1"}, {"vcs.commit", ""}};
    const struct qualifier other[] = {{"vcs.commit", ""}, {"vcs.branch", "main"}, {"a", "1"}};
    struct asset_key key = key_of("urn:a");
    struct asset asset = asset_of(7);
    open_index(site, MIB, 0);
    key.qualifiers = one;
    key.qualifier_count = 3;
    put(site, &key, &asset);
    key.qualifiers = other;
    assert_true(has(site, &key));
    key.qualifier_count = 2;
    assert_false(has(site, &key));
    key.qualifier_count = 0;
    assert_false(has(site, &key));
}

static void test_parts_of_a_key_do_not_run_into_each_other(void **state)
{
    struct site *site = *state;
    static const struct {
        const char *uri;
        struct qualifier qualifier;
        size_t count;
    } keys[] = {
        {"urn:a", {"b", ""}, 1},       {"urn:ab", {"", ""}, 0},       {"urn:a", {"", ""}, 0},
        {"urn:a", {"", "b"}, 1},       {"urn:a", {"bc", "d"}, 1},     {"urn:a", {"b", "cd"}, 1},
        {"urn:a", {"b", "c"}, 1},      {"urn:a\nb", {"", ""}, 0},     {"urn:a\x01", {"", ""}, 0},
        {"urn:\xc3\xa4", {"", ""}, 0}, {"urn:\xc3\xa5", {"", ""}, 0},
    };
    enum { KEYS = sizeof(keys) / sizeof(keys[0]) };
    open_index(site, MIB, 0);
    for (uint64_t i = 0; i < KEYS; i++) {
        struct asset_key key = key_of(keys[i].uri);
        struct asset asset = asset_of(i);
        key.qualifiers = &keys[i].qualifier;
        key.qualifier_count = keys[i].count;
        assert_false(has(site, &key));
        put(site, &key, &asset);
    }
    for (uint64_t i = 0; i < KEYS; i++) {
        struct asset_key key = key_of(keys[i].uri);
        struct asset asset;
        key.qualifiers = &keys[i].qualifier;
        key.qualifier_count = keys[i].count;
        assert_int_equal(get(site, &key, &asset), 0);
        assert_int_equal(asset.content.size, i);
    }
}

static void test_kinds_and_functions_are_apart(void **state)
{
    struct site *site = *state;
    struct asset_key key = key_of("urn:a");
    struct asset asset = asset_of(1);
    open_index(site, MIB, 0);
    put(site, &key, &asset);
    key.kind = ASSET_DIRECTORY;
    assert_false(has(site, &key));
    key.kind = ASSET_BLOB;
    key.function = DIGEST_SHA512;
    assert_false(has(site, &key));
    key.function = DIGEST_SHA256;
    assert_true(has(site, &key));
}

static void test_all_of_an_asset_comes_back_after_reopening(void **state)
{
    struct site *site = *state;
    struct digest blobs[3];
    struct digest directories[2];
    const enum digest_function functions[] = {DIGEST_SHA1, DIGEST_SHA384, DIGEST_SHA512};
    for (int i = 0; i < 3; i++)
        assert_int_equal(digest_compute(functions[i], "abc", 3, &blobs[i], &site->err), 0);
    directories[0] = digest_of(0);
    directories[1] = digest_of((uint64_t)INT64_MAX);
    struct asset_key key = key_of("https://example.com/a?b=c#d");
    struct asset asset = {.content = digest_of(42),
                          .pushed_at = test_now() - 5,
                          .fetched_at = test_now() - 3,
                          .expires_at = test_now() + HOUR,
                          .blobs = blobs,
                          .blob_count = 3,
                          .directories = directories,
                          .directory_count = 2};
    open_index(site, MIB, 0);
    put(site, &key, &asset);
    close_index(site);
    open_index(site, MIB, 0);
    struct asset found;
    assert_int_equal(get(site, &key, &found), 0);
    assert_true(digest_equal(&found.content, &asset.content));
    assert_int_equal(found.pushed_at, asset.pushed_at);
    assert_int_equal(found.fetched_at, asset.fetched_at);
    assert_int_equal(found.expires_at, asset.expires_at);
    assert_int_equal(found.blob_count, 3);
    assert_int_equal(found.directory_count, 2);
    for (int i = 0; i < 3; i++)
        assert_true(digest_equal(&found.blobs[i], &blobs[i]));
    for (int i = 0; i < 2; i++)
        assert_true(digest_equal(&found.directories[i], &directories[i]));
}

static void test_a_put_replaces(void **state)
{
    struct site *site = *state;
    struct asset_key key = key_of("urn:a");
    struct asset first = asset_of(1);
    struct asset second = asset_of(2);
    struct asset found;
    first.expires_at = test_now() + MINUTE;
    open_index(site, MIB, 0);
    put(site, &key, &first);
    put(site, &key, &second);
    assert_int_equal(stats_of(site).assets, 1);
    /* The expiry of the first went with it: a sweep leaves the second alone. */
    atomic_fetch_add(&clock_ms, 2 * MINUTE);
    put_number(site, 9);
    assert_int_equal(get(site, &key, &found), 0);
    assert_int_equal(found.content.size, 2);
    assert_int_equal(stats_of(site).expired, 0);
}

static void test_one_write_has_many_keys_and_removes_them(void **state)
{
    struct site *site = *state;
    const struct asset_key keys[] = {key_of("urn:a"), key_of("urn:b"), key_of("urn:a")};
    struct asset asset = asset_of(1);
    open_index(site, MIB, 0);
    assert_int_equal(write_keys(site, keys, 3, &asset), ERR_OK);
    assert_int_equal(stats_of(site).assets, 2);
    assert_true(has(site, &keys[0]) && has(site, &keys[1]));
    assert_int_equal(write_keys(site, &keys[1], 2, NULL), ERR_OK);
    assert_int_equal(write_keys(site, &keys[1], 2, NULL), ERR_OK);
    assert_false(has(site, &keys[0]) || has(site, &keys[1]));
    assert_int_equal(stats_of(site).assets, 0);
    assert_int_equal(write_keys(site, keys, 0, &asset), ERR_OK);
}

static void test_a_hundred_thousand_references(void **state)
{
    struct site *site = *state;
    enum { COUNT = 100000 };
    struct digest *digests = calloc(COUNT, sizeof(*digests));
    assert_non_null(digests);
    for (uint64_t i = 0; i < COUNT; i++) {
        digests[i] = (struct digest){.function = DIGEST_SHA256, .size = (int64_t)i};
        memcpy(digests[i].hash, &i, sizeof(i));
    }
    struct asset_key key = key_of("urn:large");
    struct asset asset = asset_of(1);
    struct asset found;
    asset.blobs = digests;
    asset.blob_count = COUNT / 2;
    asset.directories = digests + COUNT / 2;
    asset.directory_count = COUNT / 2;
    open_index(site, 64 * MIB, 0);
    put(site, &key, &asset);
    assert_int_equal(get(site, &key, &found), 0);
    assert_int_equal(found.blob_count, COUNT / 2);
    assert_memory_equal(found.blobs, digests, COUNT / 2 * sizeof(*digests));
    assert_memory_equal(found.directories, digests + COUNT / 2, COUNT / 2 * sizeof(*digests));
    close_index(site);

    /* More than a quarter of what a small index may hold. */
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/small", site->path);
    struct asset_index_options options = {.path = path, .quota = 8 * MIB, .now = test_now};
    assert_int_equal(asset_index_open(&options, &site->index, &site->err), 0);
    put_number(site, 1);
    assert_int_equal(write_keys(site, &key, 1, &asset), ERR_EXHAUSTED);
    assert_false(has(site, &key));
    assert_true(has_number(site, 1));
    assert_int_equal(stats_of(site).evicted, 0);
    free(digests);
}

/* --- time --- */

static void test_expires_at_the_millisecond(void **state)
{
    struct site *site = *state;
    struct asset_key key = key_of("urn:a");
    struct asset asset = asset_of(1);
    open_index(site, MIB, 0);
    asset.expires_at = test_now() + 1000;
    put(site, &key, &asset);
    atomic_fetch_add(&clock_ms, 999);
    assert_true(has(site, &key));
    atomic_fetch_add(&clock_ms, 1);
    assert_false(has(site, &key));
    put(site, &key, &asset); /* in the past by now: accepted, and not found */
    assert_false(has(site, &key));
    asset.expires_at = -1;
    put(site, &key, &asset);
    assert_false(has(site, &key));
}

static void test_the_sweep_removes_what_has_expired_only(void **state)
{
    struct site *site = *state;
    enum { COUNT = 700 };
    open_index(site, 4 * MIB, 0);
    struct blocker blocker;
    block_writer(site, &blocker);
    struct asset assets[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    static struct pending writes[COUNT];
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = numbered_key(texts[i], i);
        assets[i] = asset_of(i);
        assets[i].expires_at = test_now() + (i % 2 == 0 ? MINUTE : HOUR);
        begin_write(site, &writes[i], &keys[i], 1, &assets[i]);
    }
    unblock_writer(&blocker);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(end_write(&writes[i]), ERR_OK);
    atomic_fetch_add(&clock_ms, MINUTE);
    /* At most so many go at once; each write waits for one batch. */
    for (int i = 0; i < 10; i++)
        put_number(site, COUNT);
    assert_int_equal(stats_of(site).expired, COUNT / 2);
    assert_int_equal(stats_of(site).assets, COUNT / 2 + 2);
    assert_true(has_number(site, 1));
    assert_false(has_number(site, 2));

    /* At start as well. */
    close_index(site);
    atomic_fetch_add(&clock_ms, HOUR);
    open_index(site, 4 * MIB, 0);
    for (int i = 0; i < 10; i++)
        put_number(site, COUNT);
    assert_int_equal(stats_of(site).expired, COUNT / 2);
    assert_int_equal(stats_of(site).assets, 2);
}

static void test_a_fetch_renews_the_life(void **state)
{
    struct site *site = *state;
    open_index(site, MIB, HOUR);
    put_number(site, 1);
    put_number(site, 2);
    atomic_fetch_add(&clock_ms, HOUR - 1);
    assert_true(has_number(site, 1) && has_number(site, 2));
    touch_number(site, 1);
    atomic_fetch_add(&clock_ms, 1);
    assert_true(has_number(site, 1)); /* the fetch counts before it is written */
    assert_false(has_number(site, 2));
    put_number(site, 3); /* after the sweep and the writing of fetches */
    assert_int_equal(stats_of(site).expired, 1);
    assert_true(has_number(site, 1));
    close_index(site);
    open_index(site, MIB, HOUR);
    atomic_fetch_add(&clock_ms, HOUR - 2);
    assert_true(has_number(site, 1));
    atomic_fetch_add(&clock_ms, 1);
    assert_false(has_number(site, 1));
}

static void test_a_fetch_renews_a_short_life(void **state)
{
    struct site *site = *state;
    open_index(site, MIB, MINUTE);
    put_number(site, 1);
    for (int i = 0; i < 20; i++) {
        atomic_fetch_add(&clock_ms, MINUTE - 1);
        assert_true(has_number(site, 1));
        touch_number(site, 1);
        if (i % 3 == 0)
            put_number(site, 2);
    }
}

static void test_closing_writes_the_fetches(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = numbered_key(text, 1);
    struct asset found;
    open_index(site, MIB, 0);
    put_number(site, 1);
    atomic_fetch_add(&clock_ms, 10 * MINUTE);
    touch_number(site, 1);
    touch_number(site, 12345); /* there is no such asset */
    close_index(site);
    open_index(site, MIB, 0);
    assert_int_equal(get(site, &key, &found), 0);
    assert_int_equal(found.fetched_at, test_now());
    assert_int_equal(found.pushed_at, test_now() - 10 * MINUTE);
    assert_int_equal(stats_of(site).assets, 1);
}

static void test_a_hot_asset_costs_no_writes(void **state)
{
    struct site *site = *state;
    open_index(site, MIB, 0);
    put_number(site, 1);
    int before = atomic_load(&sync_count);
    for (int i = 0; i < 100; i++)
        touch_number(site, 1);
    close_index(site);
    assert_int_equal(atomic_load(&sync_count), before);
    open_index(site, MIB, 0);
    assert_true(has_number(site, 1));
}

static void test_more_fetches_than_are_remembered(void **state)
{
    struct site *site = *state;
    open_index(site, MIB, 0);
    put_number(site, 3);
    atomic_fetch_add(&clock_ms, 10 * MINUTE);
    for (uint64_t i = 0; i < 20000; i++)
        touch_number(site, i);
    close_index(site);
    open_index(site, MIB, 0);
    assert_true(has_number(site, 3));
}

static void test_a_clock_set_back(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = numbered_key(text, 1);
    struct asset found;
    open_index(site, MIB, HOUR);
    put_number(site, 1);
    atomic_fetch_sub(&clock_ms, 1000 * (int64_t)HOUR);
    put_number(site, 2);
    assert_true(has_number(site, 1) && has_number(site, 2));
    touch_number(site, 1);
    atomic_fetch_add(&clock_ms, 2 * MINUTE);
    put_number(site, 3);
    assert_int_equal(get(site, &key, &found), 0);
    assert_int_equal(found.fetched_at, test_now() - 2 * MINUTE);
    atomic_store(&clock_ms, INT64_MIN + 1);
    put_number(site, 4);
    assert_true(has_number(site, 1) && has_number(site, 2));
    assert_int_equal(stats_of(site).expired, 0);
    atomic_store(&clock_ms, INT64_MAX);
    assert_false(has_number(site, 1));
    put_number(site, 5);
    assert_true(has_number(site, 5));
    assert_int_equal(stats_of(site).expired, 4);
}

/* --- quota --- */

static void test_a_quota_that_is_too_small(void **state)
{
    struct site *site = *state;
    assert_int_equal(try_open(site, MIB - 1, 0), -ERR_INVALID);
    assert_non_null(strstr(site->err.msg, "quota"));
}

/* Writes the numbers from FIRST up to END, many at a time. */
static void fill(struct site *site, uint64_t first, uint64_t end)
{
    enum { GROUP = 256 };
    static struct pending writes[GROUP];
    static char texts[GROUP][64];
    struct asset_key keys[GROUP];
    struct asset assets[GROUP];
    while (first < end) {
        int count = 0;
        for (; count < GROUP && first < end; count++, first++) {
            keys[count] = numbered_key(texts[count], first);
            assets[count] = asset_of(first);
            begin_write(site, &writes[count], &keys[count], 1, &assets[count]);
        }
        for (int i = 0; i < count; i++)
            assert_int_equal(end_write(&writes[i]), ERR_OK);
    }
}

static void test_the_least_recently_fetched_go_first(void **state)
{
    struct site *site = *state;
    enum { COUNT = 1500, FETCHED = 100 };
    open_index(site, MIB, 0);
    fill(site, 0, COUNT);
    assert_int_equal(stats_of(site).evicted, 0);
    atomic_fetch_add(&clock_ms, 2 * MINUTE);
    for (uint64_t i = 0; i < FETCHED; i++)
        touch_number(site, 3 * i);
    uint64_t next = COUNT;
    while (stats_of(site).evicted < COUNT / 2)
        put_number(site, next++);
    /* Gone are exactly the first ones but for those that were fetched. */
    uint64_t evicted = stats_of(site).evicted;
    uint64_t gone = 0;
    for (uint64_t i = 0; i < next; i++) {
        bool was_fetched = i < 3 * FETCHED && i % 3 == 0;
        bool should_be_gone = !was_fetched && gone < evicted;
        assert_int_equal(has_number(site, i), !should_be_gone);
        gone += should_be_gone;
    }
    assert_int_equal(gone, evicted);
    assert_int_equal(stats_of(site).assets, next - evicted);
}

static void test_the_file_never_outgrows_the_quota(void **state)
{
    struct site *site = *state;
    open_index(site, 2 * MIB, 0);
    uint64_t most = 0;
    for (uint64_t i = 0; i < 40000; i += 1000) {
        fill(site, i, i + 1000);
        assert_true(file_size(site) <= 2 * MIB);
        assert_true(has_number(site, i + 999));
        if (stats_of(site).assets > most)
            most = stats_of(site).assets;
    }
    /* No more went than had to. */
    assert_true(stats_of(site).assets + stats_of(site).evicted == 40000);
    assert_true(stats_of(site).assets > most / 2);
}

static void test_large_and_small_assets_in_a_tight_index(void **state)
{
    struct site *site = *state;
    enum { MOST = 45000 };
    struct digest *digests = calloc(MOST, sizeof(*digests));
    assert_non_null(digests);
    for (size_t i = 0; i < MOST; i++)
        digests[i] = digest_of(i);
    open_index(site, 8 * MIB, 0);
    unsigned seed = 7;
    for (uint64_t i = 0; i < 150; i++) {
        char text[64];
        struct asset_key key = numbered_key(text, i);
        struct asset asset = asset_of(i);
        seed = seed * 1103515245u + 12345u;
        asset.blobs = digests;
        asset.blob_count = (seed >> 8) % MOST;
        put(site, &key, &asset);
        struct asset found;
        assert_int_equal(get(site, &key, &found), 0);
        assert_int_equal(found.blob_count, asset.blob_count);
        fill(site, 1000 + 100 * i, 1000 + 100 * i + 100);
        assert_true(file_size(site) <= 8 * MIB);
        if (i % 50 == 49) {
            close_index(site);
            open_index(site, 8 * MIB, 0);
        }
    }
    assert_true(has_number(site, 149));
    free(digests);
}

static void test_a_smaller_quota_at_start(void **state)
{
    struct site *site = *state;
    open_index(site, 16 * MIB, 0);
    fill(site, 0, 20000);
    assert_int_equal(stats_of(site).evicted, 0);
    assert_true(file_size(site) > 2 * MIB);
    close_index(site);
    open_index(site, 2 * MIB, 0);
    uint64_t left = stats_of(site).assets;
    assert_true(file_size(site) <= 2 * MIB);
    assert_true(left > 1000 && left < 20000);
    for (uint64_t i = 0; i < 20000; i += 97)
        assert_int_equal(has_number(site, i), i >= 20000 - left);
    fill(site, 20000, 25000);
    assert_true(has_number(site, 24999));
    assert_true(file_size(site) <= 2 * MIB);
}

/* --- group commit --- */

static void test_what_waits_is_committed_at_once(void **state)
{
    struct site *site = *state;
    enum { COUNT = 64 };
    struct pending writes[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    struct asset asset = asset_of(5);
    struct blocker blocker;
    open_index(site, 64 * MIB, 0);
    block_writer(site, &blocker);
    uint64_t before = stats_of(site).commits;
    int syncs = atomic_load(&sync_count);
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = numbered_key(texts[i], i);
        begin_write(site, &writes[i], &keys[i], 1, &asset);
    }
    unblock_writer(&blocker);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(end_write(&writes[i]), ERR_OK);
    assert_int_equal(stats_of(site).commits, before + 1);
    assert_int_equal(atomic_load(&sync_count), syncs + 1);
    for (int i = 0; i < COUNT; i++)
        assert_true(has(site, &keys[i]));
}

struct submitter {
    struct site *site;
    unsigned number;
    atomic_int *failures;
};

enum { SUBMITTERS = 64, WRITES_EACH = 16 };

static void *submit(void *argument)
{
    struct submitter *submitter = argument;
    for (unsigned i = 0; i < WRITES_EACH; i++) {
        char text[64];
        struct asset_key key = numbered_key(text, submitter->number * WRITES_EACH + i);
        struct asset asset = asset_of(submitter->number * WRITES_EACH + i);
        if (write_keys(submitter->site, &key, 1, &asset) != ERR_OK)
            atomic_fetch_add(submitter->failures, 1);
    }
    return NULL;
}

static void test_many_submitters(void **state)
{
    struct site *site = *state;
    pthread_t threads[SUBMITTERS];
    struct submitter submitters[SUBMITTERS];
    atomic_int failures = 0;
    open_index(site, 64 * MIB, 0);
    for (unsigned i = 0; i < SUBMITTERS; i++) {
        submitters[i] = (struct submitter){site, i, &failures};
        assert_int_equal(pthread_create(&threads[i], NULL, submit, &submitters[i]), 0);
    }
    for (int i = 0; i < SUBMITTERS; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(failures, 0);
    for (uint64_t i = 0; i < SUBMITTERS * WRITES_EACH; i++)
        assert_true(has_number(site, i));
    assert_true(stats_of(site).commits <= SUBMITTERS * WRITES_EACH);
}

static void test_one_oversized_write_fails_alone(void **state)
{
    struct site *site = *state;
    enum { COUNT = 9, LARGE = 4, REFERENCES = 10000 };
    struct digest *digests = calloc(REFERENCES, sizeof(*digests));
    struct pending writes[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    struct asset assets[COUNT];
    struct blocker blocker;
    assert_non_null(digests);
    for (int i = 0; i < REFERENCES; i++)
        digests[i].function = DIGEST_SHA256;
    open_index(site, MIB, 0);
    block_writer(site, &blocker);
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = numbered_key(texts[i], i);
        assets[i] = asset_of(i);
        assets[i].blobs = digests;
        assets[i].blob_count = i == LARGE ? REFERENCES : 0;
        begin_write(site, &writes[i], &keys[i], 1, &assets[i]);
    }
    unblock_writer(&blocker);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(end_write(&writes[i]), i == LARGE ? ERR_EXHAUSTED : ERR_OK);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(has(site, &keys[i]), i != LARGE);
    free(digests);
}

static void test_closing_answers_what_is_queued(void **state)
{
    struct site *site = *state;
    enum { COUNT = 50 };
    struct pending writes[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    struct asset asset = asset_of(5);
    open_index(site, 16 * MIB, 0);
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = numbered_key(texts[i], i);
        begin_write(site, &writes[i], &keys[i], 1, &asset);
    }
    close_index(site);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(end_write(&writes[i]), ERR_OK);
    open_index(site, 16 * MIB, 0);
    assert_int_equal(stats_of(site).assets, COUNT);
}

/* Reads all the time; every asset found must be one that was written under that key. */
struct reader {
    struct site *site;
    atomic_bool *stop;
    atomic_int hits;
    atomic_int faults;
};

enum { HOT = 50 };

static void *read_all_the_time(void *argument)
{
    struct reader *reader = argument;
    struct arena arena;
    arena_init(&arena);
    for (uint64_t i = 0; !atomic_load(reader->stop); i++) {
        char text[64];
        struct asset_key key = numbered_key(text, i % HOT);
        struct asset asset;
        struct err err;
        arena_reset(&arena);
        int rc = asset_index_get(reader->site->index, &key, &arena, &asset, &err);
        bool is_right =
            rc == 0 && asset.content.size % HOT == (int64_t)(i % HOT) &&
            asset.blob_count == (size_t)asset.content.size &&
            (asset.blob_count == 0 || asset.blobs[asset.blob_count - 1].size == asset.content.size);
        if (rc == 0 && is_right)
            atomic_fetch_add(&reader->hits, 1);
        else if (rc != -ERR_NOT_FOUND)
            atomic_fetch_add(&reader->faults, 1);
        asset_index_touch(reader->site->index, &key);
    }
    arena_fini(&arena);
    return NULL;
}

static void test_readers_beside_a_writer(void **state)
{
    struct site *site = *state;
    enum { READERS = 4, ROUNDS = 6, REFERENCES = HOT * ROUNDS };
    pthread_t threads[READERS];
    struct reader readers[READERS];
    struct digest digests[REFERENCES];
    atomic_bool stop = false;
    open_index(site, 4 * MIB, 0);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.site = site, .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, read_all_the_time, &readers[i]), 0);
    }
    for (uint64_t i = 0; i < REFERENCES; i++) {
        char text[64];
        struct asset_key key = numbered_key(text, i % HOT);
        struct asset asset = asset_of(i);
        for (uint64_t j = 0; j < i; j++)
            digests[j] = (struct digest){.function = DIGEST_SHA256, .size = (int64_t)i};
        asset.blobs = digests;
        asset.blob_count = i;
        put(site, &key, &asset);
        if (i % HOT == HOT - 1)
            atomic_fetch_add(&clock_ms, 2 * MINUTE);
        if (i % 64 == 63) { /* the readers must bear that the file is opened anew */
            atomic_store(&fail_sync, EIO);
            assert_int_equal(write_keys(site, &key, 1, &asset), ERR_UNAVAILABLE);
            atomic_store(&fail_sync, 0);
        }
    }
    for (uint64_t i = 0; i < HOT; i++) {
        char text[64];
        struct asset_key key = numbered_key(text, i);
        assert_true(has(site, &key));
    }
    atomic_store(&stop, true);
    for (int i = 0; i < READERS; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].faults, 0);
        assert_true(readers[i].hits > 0);
    }
}

/* --- each --- */

struct visits {
    unsigned count;
    unsigned stop_at;
    unsigned char seen[1000];
};

static bool visit(void *context, const struct asset_key *key, const struct asset *asset)
{
    struct visits *visits = context;
    char text[64];
    struct asset_key expected = numbered_key(text, (uint64_t)asset->content.size);
    assert_string_equal(key->uri, expected.uri);
    assert_int_equal(key->qualifier_count, 2);
    assert_string_equal(key->qualifiers[0].name, "a");
    assert_string_equal(key->qualifiers[1].value, "2");
    visits->seen[asset->content.size]++;
    return ++visits->count != visits->stop_at;
}

static void test_each_visits_all_once(void **state)
{
    struct site *site = *state;
    enum { COUNT = 300 };
    struct visits visits = {.count = 0};
    const struct qualifier qualifiers[] = {{"b", "2"}, {"a", "1"}};
    open_index(site, 4 * MIB, 0);
    assert_int_equal(asset_index_each(site->index, visit, &visits, &site->err), 0);
    assert_int_equal(visits.count, 0);
    for (uint64_t i = 0; i < COUNT; i++) {
        char text[64];
        struct asset_key key = numbered_key(text, i);
        struct asset asset = asset_of(i);
        key.qualifiers = qualifiers;
        key.qualifier_count = 2;
        if (i % 3 == 0)
            asset.expires_at = 1;
        put(site, &key, &asset);
    }
    assert_int_equal(asset_index_each(site->index, visit, &visits, &site->err), 0);
    assert_int_equal(visits.count, COUNT - COUNT / 3);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(visits.seen[i], i % 3 != 0);
    visits = (struct visits){.stop_at = 5};
    assert_int_equal(asset_index_each(site->index, visit, &visits, &site->err), 0);
    assert_int_equal(visits.count, 5);
}

/* --- opening --- */

static void test_a_second_opening_is_refused(void **state)
{
    struct site *site = *state;
    open_index(site, MIB, 0);
    struct asset_index *first = site->index;
    struct asset_index_options options = {.path = site->path, .quota = MIB};
    struct asset_index *second = NULL;
    assert_int_equal(asset_index_open(&options, &second, &site->err), -ERR_UNAVAILABLE);
    assert_null(second);
    assert_ptr_equal(site->index, first);
    put_number(site, 1);
}

static void test_a_newer_format_is_refused(void **state)
{
    struct site *site = *state;
    char path[128];
    open_index(site, MIB, 0);
    close_index(site);
    (void)snprintf(path, sizeof(path), "%s/index/format", site->path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    (void)fprintf(file, "assetd index %d 00000000000000000000000000000000\n", ASSET_FORMAT + 1);
    (void)fclose(file);
    assert_int_equal(try_open(site, MIB, 0), -ERR_PRECONDITION);
}

static void test_a_file_that_is_no_database_is_refused(void **state)
{
    struct site *site = *state;
    char path[128];
    open_index(site, MIB, 0);
    close_index(site);
    (void)snprintf(path, sizeof(path), "%s/index/data.mdb", site->path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 10000; i++)
        (void)fputs("nothing ", file);
    (void)fclose(file);
    assert_true(try_open(site, MIB, 0) < 0);
    assert_non_null(strstr(site->err.msg, "data.mdb"));
}

/* --- damage --- */

/* Turns over a bit of the first value of a table, behind the index's back. */
static void damage(struct site *site, const char *table, size_t offset)
{
    char path[128];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    (void)snprintf(path, sizeof(path), "%s/index", site->path);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_maxdbs(env, 8), 0);
    assert_int_equal(mdb_env_open(env, path, 0, 0640), 0);
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

static void test_damage_is_a_miss(void **state)
{
    struct site *site = *state;
    static const char *const tables[] = {"records", "rows", "by_use"};
    for (size_t i = 0; i < 9; i++) {
        const char *table = tables[i % 3];
        open_index(site, MIB, HOUR);
        put_number(site, 1);
        assert_true(has_number(site, 1));
        close_index(site);
        damage(site, table, 5 * i);
        open_index(site, MIB, HOUR);
        assert_int_equal(has_number(site, 1), strcmp(table, "by_use") == 0);
        struct visits visits = {.count = 0};
        if (strcmp(table, "by_use") != 0)
            assert_int_equal(asset_index_each(site->index, visit, &visits, &site->err), 0);
        assert_int_equal(visits.count, 0);
        /* Neither a push, nor expiry or eviction minds. */
        put_number(site, 1);
        assert_true(has_number(site, 1));
        atomic_fetch_add(&clock_ms, 2 * HOUR);
        put_number(site, 2);
        assert_false(has_number(site, 1));
        close_index(site);
    }
    open_index(site, MIB, HOUR);
    fill(site, 10, 5000);
    assert_true(has_number(site, 4999));
}

static void test_no_bytes_crash_the_reader(void **state)
{
    struct site *site = *state;
    const struct qualifier qualifiers[] = {{"name", "value"}, {"b", ""}};
    struct asset_key key = key_of("urn:a");
    struct digest digests[3] = {digest_of(1), digest_of(2), digest_of(3)};
    struct asset asset = asset_of(1);
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
    struct asset_key key = key_of("urn:a");
    struct asset_key other_key = key_of("urn:b");
    struct asset asset = asset_of(1);
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

/* --- a disk that fails --- */

static void test_a_failed_sync_is_not_tried_again(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = numbered_key(text, 2);
    struct asset asset = asset_of(2);
    open_index(site, MIB, 0);
    put_number(site, 1);
    int before = atomic_load(&sync_count);
    atomic_store(&fail_sync, EIO);
    assert_int_equal(write_keys(site, &key, 1, &asset), ERR_UNAVAILABLE);
    assert_int_equal(atomic_load(&sync_count), before + 1);
    assert_true(has_number(site, 1));
    assert_false(has_number(site, 2));
    atomic_store(&fail_sync, 0);
    put_number(site, 2);
    close_index(site);
    open_index(site, MIB, 0);
    assert_true(has_number(site, 1) && has_number(site, 2));
}

static void test_a_failed_write_of_the_root(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = numbered_key(text, 2);
    struct asset asset = asset_of(2);
    open_index(site, MIB, 0);
    put_number(site, 1);
    /* The pages are written and synced, what makes them valid is not: LMDB refuses all after it. */
    atomic_store(&fail_after, true);
    atomic_store(&fail_write, EIO);
    assert_int_equal(write_keys(site, &key, 1, &asset), ERR_UNAVAILABLE);
    atomic_store(&fail_write, 0);
    assert_true(has_number(site, 1));
    put_number(site, 3);
    assert_true(has_number(site, 3));
}

static void test_a_full_disk(void **state)
{
    struct site *site = *state;
    struct pending writes[3];
    char texts[3][64];
    struct asset_key keys[3];
    struct asset asset = asset_of(2);
    struct blocker blocker;
    open_index(site, MIB, 0);
    put_number(site, 7);
    block_writer(site, &blocker);
    atomic_store(&fail_write, ENOSPC);
    for (uint64_t i = 0; i < 3; i++) {
        keys[i] = numbered_key(texts[i], i);
        begin_write(site, &writes[i], &keys[i], 1, &asset);
    }
    unblock_writer(&blocker);
    for (int i = 0; i < 3; i++)
        assert_int_equal(end_write(&writes[i]), ERR_EXHAUSTED);
    atomic_store(&fail_write, 0);
    assert_true(has_number(site, 7));
    put_number(site, 8);
    assert_int_equal(stats_of(site).assets, 3);
    assert_int_equal(stats_of(site).evicted, 0);
}

/* --- kill -9 --- */

enum { ROUNDS = 20, IN_FLIGHT = 16 };

struct flight {
    struct asset_write write;
    int pipe;
    uint64_t number;
    char text[64];
    struct asset_key key;
    struct asset asset;
    sem_t *landed;
};

static void on_landed(struct asset_write *write, const struct err *err)
{
    struct flight *flight = (struct flight *)write;
    if (err == NULL && syscall(SYS_write, flight->pipe, &flight->number, sizeof(flight->number)) !=
                           (long)sizeof(flight->number))
        _exit(2);
    (void)sem_post(flight->landed);
}

/* Writes number after number until it is killed. */
static void write_for_ever(const char *path, uint64_t number, int pipe)
{
    struct asset_index_options options = {.path = path, .quota = 64 * MIB};
    struct asset_index *index;
    struct err err;
    sem_t landed[IN_FLIGHT];
    struct flight flights[IN_FLIGHT];
    if (asset_index_open(&options, &index, &err) != 0)
        _exit(1);
    for (int i = 0; i < IN_FLIGHT; i++)
        (void)sem_init(&landed[i], 0, 1);
    for (unsigned i = 0;; i = (i + 1) % IN_FLIGHT, number++) {
        struct flight *flight = &flights[i];
        while (sem_wait(&landed[i]) != 0)
            continue;
        *flight = (struct flight){.pipe = pipe, .number = number, .landed = &landed[i]};
        flight->key = numbered_key(flight->text, number);
        flight->asset = asset_of(number);
        flight->write = (struct asset_write){
            .keys = &flight->key, .key_count = 1, .asset = &flight->asset, .done = on_landed};
        asset_index_write(index, &flight->write);
    }
}

static void test_killed_at_any_moment(void **state)
{
    struct site *site = *state;
    enum { NUMBERS = 1 << 20, LIMIT = 40000 };
    unsigned char *acknowledged = calloc(NUMBERS, 1);
    uint64_t first = 0;
    unsigned seed = (unsigned)getpid();
    assert_non_null(acknowledged);
    for (int round = 0; round < ROUNDS; round++) {
        int pipe_fds[2];
        assert_int_equal(pipe(pipe_fds), 0);
        pid_t child = fork();
        if (child == 0) {
            (void)close(pipe_fds[0]);
            write_for_ever(site->path, first, pipe_fds[1]);
        }
        assert_true(child > 0);
        (void)close(pipe_fds[1]);
        /* After the first answer, so that it is in the middle of its work. */
        uint64_t number;
        uint64_t last = first;
        bool is_killed = false;
        while (read(pipe_fds[0], &number, sizeof(number)) == (ssize_t)sizeof(number)) {
            assert_true(number < NUMBERS);
            acknowledged[number] = 1;
            last = number > last ? number : last;
            if (is_killed)
                continue;
            struct timespec pause = {.tv_nsec = 1000 * (long)((seed = seed * 69069 + 1) >> 17)};
            (void)nanosleep(&pause, NULL);
            (void)kill(child, SIGKILL);
            is_killed = true;
        }
        (void)close(pipe_fds[0]);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        first = last + 1 < LIMIT ? last + 1 : 0;
        open_index(site, 64 * MIB, 0);
        for (uint64_t i = 0; i <= last; i++)
            if (acknowledged[i])
                assert_true(has_number(site, i));
        close_index(site);
    }
    free(acknowledged);
}

int main(void)
{
#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        INDEX_TEST(test_killed_at_any_moment), /* first: it forks, and no thread has been made */
        INDEX_TEST(test_qualifiers_in_any_order_are_the_same_asset),
        INDEX_TEST(test_parts_of_a_key_do_not_run_into_each_other),
        INDEX_TEST(test_kinds_and_functions_are_apart),
        INDEX_TEST(test_all_of_an_asset_comes_back_after_reopening),
        INDEX_TEST(test_a_put_replaces),
        INDEX_TEST(test_one_write_has_many_keys_and_removes_them),
        INDEX_TEST(test_a_hundred_thousand_references),
        INDEX_TEST(test_expires_at_the_millisecond),
        INDEX_TEST(test_the_sweep_removes_what_has_expired_only),
        INDEX_TEST(test_a_fetch_renews_the_life),
        INDEX_TEST(test_a_fetch_renews_a_short_life),
        INDEX_TEST(test_closing_writes_the_fetches),
        INDEX_TEST(test_a_hot_asset_costs_no_writes),
        INDEX_TEST(test_more_fetches_than_are_remembered),
        INDEX_TEST(test_a_clock_set_back),
        INDEX_TEST(test_a_quota_that_is_too_small),
        INDEX_TEST(test_the_least_recently_fetched_go_first),
        INDEX_TEST(test_the_file_never_outgrows_the_quota),
        INDEX_TEST(test_large_and_small_assets_in_a_tight_index),
        INDEX_TEST(test_a_smaller_quota_at_start),
        INDEX_TEST(test_what_waits_is_committed_at_once),
        INDEX_TEST(test_many_submitters),
        INDEX_TEST(test_one_oversized_write_fails_alone),
        INDEX_TEST(test_closing_answers_what_is_queued),
        INDEX_TEST(test_readers_beside_a_writer),
        INDEX_TEST(test_each_visits_all_once),
        INDEX_TEST(test_a_second_opening_is_refused),
        INDEX_TEST(test_a_newer_format_is_refused),
        INDEX_TEST(test_a_file_that_is_no_database_is_refused),
        INDEX_TEST(test_damage_is_a_miss),
        INDEX_TEST(test_no_bytes_crash_the_reader),
        INDEX_TEST(test_another_name_under_the_same_hash_is_a_miss),
        INDEX_TEST(test_a_failed_sync_is_not_tried_again),
        INDEX_TEST(test_a_failed_write_of_the_root),
        INDEX_TEST(test_a_full_disk),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
