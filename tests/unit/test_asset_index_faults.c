/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index: disks that fail, and kill -9. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "index_site.h"
#include "store/asset_db.h"
#include "store/asset_record.h"
#include "store/asset_uses.h"
#include "store/directory.h"

/* --- a disk that fails on demand: LMDB calls these instead of the C library's --- */

static atomic_int fail_sync;   /* errno for fdatasync; 0: works */
static atomic_int fail_write;  /* errno for pwrite and writev */
static atomic_bool fail_after; /* fail_write holds only after the next fdatasync */
static atomic_int sync_count;
static atomic_int fail_fsync;   /* errno for fsync */
static atomic_int fail_renamed; /* becomes fail_fsync with the next renameat */

/* Not NULL: fdatasync says that it began, and waits until it may go on. */
static _Atomic(struct halt *) halt;

struct halt {
    sem_t begun;
    sem_t go_on;
    bool is_late; /* nobody let it go on */
};

static void stop_at(struct halt *here)
{
    struct timespec deadline;
    (void)clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 30;
    (void)sem_post(&here->begun);
    while (sem_timedwait(&here->go_on, &deadline) != 0 && !here->is_late)
        here->is_late = errno == ETIMEDOUT;
}

int fdatasync(int fd)
{
    struct halt *here = atomic_exchange(&halt, NULL);
    if (here != NULL)
        stop_at(here);
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

int fsync(int fd)
{
    int fault = atomic_load(&fail_fsync);
    if (fault != 0) {
        errno = fault;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int renameat(int old_fd, const char *old_path, int new_fd, const char *new_path)
{
    int fault = atomic_exchange(&fail_renamed, 0);
    if (fault != 0)
        atomic_store(&fail_fsync, fault);
    return (int)syscall(SYS_renameat2, old_fd, old_path, new_fd, new_path, 0);
}

/* The disk works again, whatever the test did to it. */
static int tear_down(void **state)
{
    atomic_store(&fail_sync, 0);
    atomic_store(&fail_write, 0);
    atomic_store(&fail_after, false);
    atomic_store(&fail_fsync, 0);
    atomic_store(&fail_renamed, 0);
    return site_tear_down(state);
}

/* --- kill -9 --- */

enum { KILLS = 20, IN_FLIGHT = 16 };

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
    struct asset_index_options options = {.path = path, .quota = 64 * MIB, .may_write = true};
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
        flight->key = site_numbered_key(flight->text, number);
        flight->asset = site_asset(number);
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
    for (int round = 0; round < KILLS; round++) {
        int pipe_fds[2];
        assert_int_equal(pipe(pipe_fds), 0);
        pid_t child = fork();
        if (child == 0) {
            (void)close(pipe_fds[0]);
            write_for_ever(site->scratch.path, first, pipe_fds[1]);
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
        site_open(site, 64 * MIB, 0);
        for (uint64_t i = 0; i <= last; i++)
            if (acknowledged[i])
                assert_true(site_has_number(site, i));
        site_close(site);
    }
    free(acknowledged);
}

/* --- a disk that fails --- */

static void test_a_failed_sync_is_not_tried_again(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 2);
    struct asset asset = site_asset(2);
    site_open(site, MIB, 0);
    site_put_number(site, 1);
    int before = atomic_load(&sync_count);
    atomic_store(&fail_sync, EIO);
    assert_int_equal(site_write(site, &key, 1, &asset), ERR_UNAVAILABLE);
    assert_int_equal(atomic_load(&sync_count), before + 1);
    assert_true(site_has_number(site, 1));
    assert_false(site_has_number(site, 2));
    atomic_store(&fail_sync, 0);
    site_put_number(site, 2);
    site_close(site);
    site_open(site, MIB, 0);
    assert_true(site_has_number(site, 1) && site_has_number(site, 2));
}

/* Many fetches that wait to be written do not have a broken disk tried each second. */
static void test_a_failed_upkeep_is_not_hurried(void **state)
{
    const struct timespec pause = {.tv_sec = 3};
    struct site *site = *state;
    site_open(site, 16 * MIB, 0);
    site_fill(site, 0, ASSET_USES_MANY);
    atomic_fetch_add(&site_clock, 10 * MINUTE);
    site_put_number(site, ASSET_USES_MANY); /* with the upkeep that is due */
    atomic_store(&fail_sync, EIO);
    int before = atomic_load(&sync_count);
    for (uint64_t i = 0; i < ASSET_USES_MANY; i++)
        site_touch(site, i);
    (void)nanosleep(&pause, NULL);
    assert_int_equal(atomic_load(&sync_count), before + 1);
}

static void test_a_failed_write_of_the_root(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 2);
    struct asset asset = site_asset(2);
    site_open(site, MIB, 0);
    site_put_number(site, 1);
    /* The pages are written and synced, what makes them valid is not: LMDB refuses all after it. */
    atomic_store(&fail_after, true);
    atomic_store(&fail_write, EIO);
    assert_int_equal(site_write(site, &key, 1, &asset), ERR_UNAVAILABLE);
    atomic_store(&fail_write, 0);
    assert_true(site_has_number(site, 1));
    site_put_number(site, 3);
    assert_true(site_has_number(site, 3));
}

static void test_a_root_that_memory_was_lacking_for(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 2);
    struct asset asset = site_asset(2);
    site_open(site, MIB, 0);
    site_put_number(site, 1);
    atomic_store(&fail_after, true);
    atomic_store(&fail_write, ENOMEM);
    assert_int_equal(site_write(site, &key, 1, &asset), ERR_NO_MEMORY);
    atomic_store(&fail_write, 0);
    site_put_number(site, 3);
    assert_true(site_has_number(site, 1) && site_has_number(site, 3));
}

static void test_a_new_file_whose_name_may_be_lost(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 1000);
    struct asset asset = site_asset(1000);
    site_open(site, 4 * MIB, 0);
    site_fill(site, 0, 8000);
    site_close(site);
    /* It is written anew under the old one's name, but that this lasts cannot be made sure of. */
    atomic_store(&fail_renamed, EIO);
    site_open(site, MIB, 0);
    assert_int_equal(atomic_load(&fail_fsync), EIO);
    assert_true(site_file_size(site) <= MIB);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(site_write(site, &key, 1, &asset), ERR_UNAVAILABLE);
        assert_false(site_has_number(site, 1000));
        assert_true(site_has_number(site, 7999));
    }
    atomic_store(&fail_fsync, 0);
    site_put_number(site, 1000);
    assert_true(site_has_number(site, 1000));
}

struct rewriting {
    struct asset_db *db;
    struct halt halt;
    struct err err;
    int rc;
};

static void *rewrite(void *argument)
{
    struct rewriting *rewriting = argument;
    rewriting->rc = asset_db_rewrite(rewriting->db, &rewriting->err);
    return NULL;
}

static void test_readers_go_on_while_the_file_is_written_anew(void **state)
{
    struct site *site = *state;
    static const struct store_kind kind = {"index", ASSET_FORMAT, ASSET_FORMAT};
    struct store_directory directory;
    struct asset_shared shared;
    struct rewriting rewriting = {.rc = 1};
    struct MDB_txn *txn;
    pthread_t thread;
    site_open(site, 4 * MIB, 0);
    site_fill(site, 0, 1000);
    site_close(site);
    assert_int_equal(store_directory_open(site->scratch.path, &kind, &directory, &site->err), 0);
    assert_int_equal(asset_shared_open(&directory, &shared, &site->err), 0);
    assert_int_equal(asset_db_open(&directory, &shared, 4 * MIB, true, &rewriting.db, &site->err),
                     0);
    (void)sem_init(&rewriting.halt.begun, 0, 0);
    (void)sem_init(&rewriting.halt.go_on, 0, 0);
    atomic_store(&halt, &rewriting.halt);
    assert_int_equal(pthread_create(&thread, NULL, rewrite, &rewriting), 0);
    while (sem_wait(&rewriting.halt.begun) != 0)
        continue;
    assert_int_equal(asset_db_read_begin(rewriting.db, &txn, &site->err), 0);
    assert_int_equal(asset_env_count(txn, ASSET_ROWS), 1000);
    asset_db_read_end(rewriting.db, txn);
    (void)sem_post(&rewriting.halt.go_on);
    (void)pthread_join(thread, NULL);
    assert_false(rewriting.halt.is_late);
    assert_int_equal(rewriting.rc, 0);
    assert_int_equal(asset_db_read_begin(rewriting.db, &txn, &site->err), 0);
    assert_int_equal(asset_env_count(txn, ASSET_ROWS), 1000);
    asset_db_read_end(rewriting.db, txn);
    asset_db_close(rewriting.db);
    asset_shared_close(&shared);
    store_directory_close(&directory);
}

static void test_a_full_disk(void **state)
{
    struct site *site = *state;
    struct pending writes[3];
    char texts[3][64];
    struct asset_key keys[3];
    struct asset asset = site_asset(2);
    struct blocker blocker;
    site_open(site, MIB, 0);
    site_put_number(site, 7);
    site_block(site, &blocker);
    atomic_store(&fail_write, ENOSPC);
    for (uint64_t i = 0; i < 3; i++) {
        keys[i] = site_numbered_key(texts[i], i);
        site_begin_write(site, &writes[i], &keys[i], 1, &asset);
    }
    site_unblock(&blocker);
    for (int i = 0; i < 3; i++)
        assert_int_equal(site_end_write(&writes[i]), ERR_EXHAUSTED);
    atomic_store(&fail_write, 0);
    assert_true(site_has_number(site, 7));
    site_put_number(site, 8);
    assert_int_equal(site_stats(site).assets, 3);
    assert_int_equal(site_stats(site).evicted, 0);
}

static void test_a_hot_asset_costs_no_writes(void **state)
{
    struct site *site = *state;
    site_open(site, MIB, 0);
    site_put_number(site, 1);
    int before = atomic_load(&sync_count);
    for (int i = 0; i < 100; i++)
        site_touch(site, 1);
    site_close(site);
    assert_int_equal(atomic_load(&sync_count), before);
    site_open(site, MIB, 0);
    assert_true(site_has_number(site, 1));
}

/* --- group commit --- */

static void test_what_waits_is_committed_at_once(void **state)
{
    struct site *site = *state;
    enum { COUNT = 64 };
    struct pending writes[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    struct asset asset = site_asset(5);
    struct blocker blocker;
    site_open(site, 64 * MIB, 0);
    site_block(site, &blocker);
    uint64_t before = site_stats(site).commits;
    int syncs = atomic_load(&sync_count);
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = site_numbered_key(texts[i], i);
        site_begin_write(site, &writes[i], &keys[i], 1, &asset);
    }
    site_unblock(&blocker);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(site_end_write(&writes[i]), ERR_OK);
    assert_int_equal(site_stats(site).commits, before + 1);
    assert_int_equal(atomic_load(&sync_count), syncs + 1);
    for (int i = 0; i < COUNT; i++)
        assert_true(site_has(site, &keys[i]));
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
        struct asset_key key = site_numbered_key(text, i % HOT);
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
        if (rc == 0)
            asset_index_touch(reader->site->index, &asset);
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
    site_open(site, 4 * MIB, 0);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.site = site, .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, read_all_the_time, &readers[i]), 0);
    }
    for (uint64_t i = 0; i < REFERENCES; i++) {
        char text[64];
        struct asset_key key = site_numbered_key(text, i % HOT);
        struct asset asset = site_asset(i);
        for (uint64_t j = 0; j < i; j++)
            digests[j] = (struct digest){.function = DIGEST_SHA256, .size = (int64_t)i};
        asset.blobs = digests;
        asset.blob_count = i;
        site_put(site, &key, &asset);
        if (i % HOT == HOT - 1)
            atomic_fetch_add(&site_clock, 2 * MINUTE);
        if (i % 64 == 63) { /* the readers must bear that the file is opened anew */
            atomic_store(&fail_sync, EIO);
            assert_int_equal(site_write(site, &key, 1, &asset), ERR_UNAVAILABLE);
            atomic_store(&fail_sync, 0);
        }
    }
    for (uint64_t i = 0; i < HOT; i++) {
        char text[64];
        struct asset_key key = site_numbered_key(text, i);
        assert_true(site_has(site, &key));
    }
    atomic_store(&stop, true);
    for (int i = 0; i < READERS; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].faults, 0);
        assert_true(readers[i].hits > 0);
    }
}

int main(void)
{
#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, site_set_up, tear_down)
    const struct CMUnitTest tests[] = {
        INDEX_TEST(test_killed_at_any_moment), /* first: it forks, and no thread was made yet */
        INDEX_TEST(test_a_failed_sync_is_not_tried_again),
        INDEX_TEST(test_a_failed_upkeep_is_not_hurried),
        INDEX_TEST(test_a_failed_write_of_the_root),
        INDEX_TEST(test_a_root_that_memory_was_lacking_for),
        INDEX_TEST(test_a_new_file_whose_name_may_be_lost),
        INDEX_TEST(test_readers_go_on_while_the_file_is_written_anew),
        INDEX_TEST(test_a_full_disk),
        INDEX_TEST(test_a_hot_asset_costs_no_writes),
        INDEX_TEST(test_what_waits_is_committed_at_once),
        INDEX_TEST(test_readers_beside_a_writer),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
