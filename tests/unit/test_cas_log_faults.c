/* SPDX-License-Identifier: Apache-2.0 */
/* The log: syncs, and disks that fail. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "log_site.h"
#include "store/cas_log_private.h"

/* --- a disk that counts, and fails on demand --- */

static atomic_int fdatasyncs, fsyncs, syncfses, opens, closes;
static atomic_int fail_fdatasync, fail_fsync, fail_syncfs, fail_write, fail_truncate, fail_open,
    fail_unlink;                   /* errno; 0: works */
static atomic_int block_fdatasync; /* while it is not zero, the disk is slow */
static atomic_int sync_skips;      /* calls that work before fail_fdatasync does */
static atomic_int skip_fdatasync;  /* in great numbers, where a test is not about them */

static bool is_failing(atomic_int *fault)
{
    errno = atomic_load(fault);
    return errno != 0;
}

static int test_fdatasync(int fd)
{
    atomic_fetch_add(&fdatasyncs, 1);
    while (atomic_load(&block_fdatasync) != 0)
        (void)usleep(1000);
    if (atomic_load(&skip_fdatasync) != 0)
        return 0;
    if (atomic_load(&fail_fdatasync) != 0 && atomic_fetch_sub(&sync_skips, 1) > 0)
        return fdatasync(fd);
    return is_failing(&fail_fdatasync) ? -1 : fdatasync(fd);
}

static int test_fsync(int fd)
{
    atomic_fetch_add(&fsyncs, 1);
    return is_failing(&fail_fsync) ? -1 : fsync(fd);
}

static int test_syncfs(int fd)
{
    atomic_fetch_add(&syncfses, 1);
    return is_failing(&fail_syncfs) ? -1 : fsync(fd);
}

static ssize_t test_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    if (atomic_load(&fail_write) != 0) {
        /* Some of it is written. */
        ssize_t written = pwritev(fd, parts, 1, offset);
        return is_failing(&fail_write) ? -1 : written;
    }
    return pwritev(fd, parts, count, offset);
}

static int test_ftruncate(int fd, off_t size)
{
    return is_failing(&fail_truncate) ? -1 : ftruncate(fd, size);
}

static int test_openat(int directory, const char *name, int flags, mode_t mode)
{
    if (is_failing(&fail_open)) {
        if (errno == EMFILE)
            atomic_store(&fail_open, 0);
        return -1;
    }
    atomic_fetch_add(&opens, 1);
    return openat(directory, name, flags, mode);
}

static int test_close(int fd)
{
    atomic_fetch_add(&closes, 1);
    return close(fd);
}

static int test_unlinkat(int directory, const char *name, int flags)
{
    return is_failing(&fail_unlink) ? -1 : unlinkat(directory, name, flags);
}

static void reset(void)
{
    atomic_int *counters[] = {&fdatasyncs,     &fsyncs,          &syncfses,   &opens,
                              &closes,         &fail_fdatasync,  &fail_fsync, &fail_syncfs,
                              &fail_write,     &fail_truncate,   &fail_open,  &fail_unlink,
                              &skip_fdatasync, &block_fdatasync, &sync_skips};
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
        atomic_store(counters[i], 0);
}

static int fault_setup(void **state)
{
    reset();
    struct log_site *site = calloc(1, sizeof(*site));
    *state = site;
    scratch_init(&site->scratch);
    site_disk = disk;
    disk.fdatasync = test_fdatasync;
    disk.fsync = test_fsync;
    disk.syncfs = test_syncfs;
    disk.pwritev = test_pwritev;
    disk.ftruncate = test_ftruncate;
    disk.openat = test_openat;
    disk.close = test_close;
    disk.unlinkat = test_unlinkat;
    site_open(site);
    site_begin(site);
    reset();
    return 0;
}

/* What was made to fail or to wait does no more. */
static int fault_teardown(void **state)
{
    reset();
    return site_teardown(state);
}

static int sync_one(struct log_site *site, uint64_t number)
{
    struct err err = {.code = ERR_OK};
    int rc = cas_log_sync(site->log, &number, 1, &err);
    assert_int_equal(rc, -(int)err.code);
    return rc;
}

static uint64_t trusted_of(struct log_site *site, uint64_t number)
{
    return atomic_load(&segment_of(site, number)->trusted);
}

static uint64_t durable_of(struct log_site *site, uint64_t number)
{
    return atomic_load(&segment_of(site, number)->durable);
}

/* --- syncs --- */

static void test_a_sync_covers_what_is_trusted(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    uint64_t twice[] = {stored.number, stored.number, 12345};
    struct err err;
    assert_int_equal(cas_log_sync(site->log, twice, 3, &err), 0);
    assert_int_equal(durable_of(site, stored.number), trusted_of(site, stored.number));
    assert_int_equal(atomic_load(&fdatasyncs), 1);
    assert_int_equal(atomic_load(&fsyncs), 1);
    assert_int_equal(sync_one(site, stored.number), 0);
    assert_int_equal(atomic_load(&fdatasyncs), 1);
    /* The name is durable now. */
    (void)put(site, 100, 2);
    assert_true(durable_of(site, stored.number) < trusted_of(site, stored.number));
    assert_int_equal(sync_one(site, stored.number), 0);
    assert_int_equal(durable_of(site, stored.number), trusted_of(site, stored.number));
    assert_int_equal(atomic_load(&fdatasyncs), 2);
    assert_int_equal(atomic_load(&fsyncs), 1);
}

/* Makes COUNT segments that are open, not durable, and have appenders. */
static void take_many(struct log_site *site, size_t count, struct cas_appender *appenders,
                      struct stored *stored, uint64_t *numbers)
{
    struct err err;
    bool is_new;
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(cas_log_take(site->log, 200, &appenders[i], &is_new, &err), 0);
        assert_int_equal(append_record(&appenders[i], 100, i, &stored[i], &err), 0);
        assert_int_equal(publish_one(&appenders[i], &stored[i], &err), 0);
        numbers[i] = appenders[i].number;
    }
}

enum { MANY = 40 };

static void test_many_segments_are_synced_at_once(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appenders[MANY];
    struct stored stored[MANY];
    uint64_t numbers[MANY];
    struct err err;
    take_many(site, MANY, appenders, stored, numbers);
    assert_int_equal(cas_log_sync(site->log, numbers, 8, &err), 0);
    assert_int_equal(atomic_load(&fdatasyncs), 8);
    assert_int_equal(atomic_load(&fsyncs), 1);
    /* 32 are left: not too many. */
    assert_int_equal(cas_log_sync(site->log, numbers, MANY, &err), 0);
    assert_int_equal(atomic_load(&fdatasyncs), MANY);
    assert_int_equal(atomic_load(&syncfses), 0);
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(append_record(&appenders[i], 100, 100 + i, &stored[i], &err), 0);
        assert_int_equal(publish_one(&appenders[i], &stored[i], &err), 0);
    }
    assert_int_equal(cas_log_sync(site->log, numbers, MANY, &err), 0);
    assert_int_equal(atomic_load(&fdatasyncs), MANY);
    assert_int_equal(atomic_load(&syncfses), 1);
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(durable_of(site, numbers[i]), trusted_of(site, numbers[i]));
        assert_true(cas_log_give(&appenders[i]));
    }
}

static void test_a_syncfs_that_tells_of_no_fault_is_not_used(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appenders[MANY];
    struct stored stored[MANY];
    uint64_t numbers[MANY];
    struct err err;
    take_many(site, MANY, appenders, stored, numbers);
    site->log->has_syncfs = false;
    assert_int_equal(cas_log_sync(site->log, numbers, MANY, &err), 0);
    assert_int_equal(atomic_load(&fdatasyncs), MANY);
    assert_int_equal(atomic_load(&syncfses), 0);
    for (size_t i = 0; i < MANY; i++)
        assert_true(cas_log_give(&appenders[i]));
}

static void test_a_failed_sync_of_all_costs_all_that_is_not_durable(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appenders[MANY];
    struct stored stored[MANY];
    uint64_t numbers[MANY];
    struct err err;
    take_many(site, MANY, appenders, stored, numbers);
    assert_int_equal(sync_one(site, numbers[0]), 0);
    atomic_store(&fail_syncfs, EIO);
    /* The last one was not asked for, but the kernel does not tell twice. */
    assert_int_equal(cas_log_sync(site->log, numbers, MANY - 1, &err), -ERR_UNAVAILABLE);
    assert_int_equal(atomic_load(&syncfses), 1);
    assert_int_equal(get_record(site->log, &stored[0]), 0);
    assert_int_equal(state_of_segment(site, numbers[0]), CAS_OPEN);
    for (size_t i = 1; i < MANY; i++) {
        assert_int_equal(trusted_of(site, numbers[i]), CAS_SEGMENT_HEADER);
        assert_int_equal(state_of_segment(site, numbers[i]), CAS_SEALED);
        assert_int_equal(get_record(site->log, &stored[i]), -ERR_NOT_FOUND);
    }
    for (size_t i = 0; i < MANY; i++)
        assert_true(cas_log_give(&appenders[i]));
    assert_int_equal(put(site, 100, 1).number, numbers[0]);
}

static void test_a_failed_sync_closes_the_segment_at_what_was_durable(void **state)
{
    struct log_site *site = *state;
    struct stored kept = put(site, 100, 1);
    struct stored lost;
    struct cas_appender appender;
    struct err err;
    bool is_new;
    assert_int_equal(sync_one(site, kept.number), 0);
    uint64_t durable = durable_of(site, kept.number);
    uint32_t version = atomic_load(&segment_of(site, kept.number)->version);
    uint64_t failures = cas_log_failures(site->log);
    assert_int_equal(cas_log_take(site->log, 400, &appender, &is_new, &err), 0);
    assert_int_equal(append_record(&appender, 100, 2, &lost, &err), 0);
    assert_int_equal(publish_one(&appender, &lost, &err), 0);
    assert_int_equal(get_record(site->log, &lost), 0);

    atomic_store(&fail_fdatasync, EIO);
    assert_int_equal(sync_one(site, kept.number), -ERR_UNAVAILABLE);
    atomic_store(&fail_fdatasync, 0);
    int syncs = atomic_load(&fdatasyncs);
    assert_int_equal(trusted_of(site, kept.number), durable);
    assert_int_equal(durable_of(site, kept.number), durable);
    assert_true(atomic_load(&segment_of(site, kept.number)->version) > version);
    assert_true(cas_log_failures(site->log) > failures);
    assert_int_equal(get_record(site->log, &lost), -ERR_NOT_FOUND);
    assert_int_equal(get_record(site->log, &kept), 0);
    assert_int_equal(segment_stat(site, kept.number).st_size, durable);

    /* Its appender can do nothing more, also if it had appended before. */
    struct stored next;
    assert_int_equal(append_record(&appender, 100, 3, &next, &err), -ERR_UNAVAILABLE);
    assert_int_equal(publish_one(&appender, &lost, &err), -ERR_UNAVAILABLE);
    assert_false(cas_log_retire(site->log, kept.number));
    assert_true(cas_log_give(&appender));
    assert_true(cas_log_retire(site->log, kept.number));
    assert_int_not_equal(put(site, 10, 4).number, kept.number);
    check_contents(site, kept.number, &kept, 1);
    assert_int_equal(sync_one(site, kept.number), 0);
    assert_int_equal(atomic_load(&fdatasyncs), syncs);
    /* What was lost is lost; all the rest is durable. */
    site_end(site);
    check_contents(site, kept.number, &kept, 1);
}

static void test_a_failed_sync_of_the_names_costs_all_new_segments(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appenders[3];
    struct stored stored[3];
    uint64_t numbers[3];
    take_many(site, 3, appenders, stored, numbers);
    assert_int_equal(sync_one(site, numbers[0]), 0);
    atomic_store(&fail_fsync, EIO);
    assert_int_equal(sync_one(site, numbers[1]), -ERR_UNAVAILABLE);
    assert_int_equal(get_record(site->log, &stored[0]), 0);
    assert_int_equal(get_record(site->log, &stored[1]), -ERR_NOT_FOUND);
    assert_int_equal(get_record(site->log, &stored[2]), -ERR_NOT_FOUND);
    for (size_t i = 0; i < 3; i++)
        assert_true(cas_log_give(&appenders[i]));
}

static void test_a_segment_that_cannot_be_opened_stays_as_it_was(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    /* Another opening has no file of it yet. */
    struct log_site other = {.scratch = site->scratch};
    site_open(&other);
    struct err err;
    atomic_store(&fail_open, EACCES);
    assert_int_equal(cas_log_sync(other.log, &stored.number, 1, &err), -ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "cannot be synced: "));
    assert_non_null(strstr(err.msg, "Permission denied"));
    assert_int_equal(get_record(other.log, &stored), -ERR_IO);
    atomic_store(&fail_open, 0);
    assert_int_equal(get_record(other.log, &stored), 0);
    assert_int_equal(sync_one(&other, stored.number), 0);
    site_close(&other);
}

struct syncing {
    struct log_site *site;
    uint64_t number;
    int rc;
};

static void *sync_in_thread(void *argument)
{
    struct syncing *syncing = argument;
    syncing->rc = sync_one(syncing->site, syncing->number);
    return NULL;
}

static void test_one_at_a_time_syncs_a_segment(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    struct syncing syncings[2] = {{site, stored.number, 0}, {site, stored.number, 0}};
    pthread_t threads[2];
    uint64_t failures = cas_log_failures(site->log);
    atomic_store(&block_fdatasync, 1);
    assert_int_equal(pthread_create(&threads[0], NULL, sync_in_thread, &syncings[0]), 0);
    WAIT_UNTIL(atomic_load(&fdatasyncs) == 1);
    assert_int_equal(pthread_create(&threads[1], NULL, sync_in_thread, &syncings[1]), 0);
    /* Time for the second one to do what it must not. */
    (void)usleep(20000);
    /* The kernel tells of it once. */
    atomic_store(&fail_fdatasync, EIO);
    atomic_store(&block_fdatasync, 0);
    for (size_t i = 0; i < 2; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(syncings[0].rc, -ERR_UNAVAILABLE);
    assert_int_equal(atomic_load(&fdatasyncs), 1);
    assert_int_equal(durable_of(site, stored.number), CAS_SEGMENT_HEADER);
    assert_true(cas_log_failures(site->log) > failures);
}

/* Its place in the ring may be another's by then. */
static void test_a_sync_that_ends_after_its_segment_changes_nothing(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    struct cas_segment *segment = segment_of(site, stored.number);
    struct syncing syncing = {site, stored.number, -1};
    struct err err;
    pthread_t thread;
    atomic_store(&block_fdatasync, 1);
    assert_int_equal(pthread_create(&thread, NULL, sync_in_thread, &syncing), 0);
    WAIT_UNTIL(atomic_load(&fdatasyncs) == 1);
    assert_true(cas_log_retire(site->log, stored.number));
    atomic_store(&segment->state, CAS_LEAVING);
    assert_int_equal(cas_log_remove(site->log, stored.number, &err), 0);
    cas_log_free_segment(site->log, segment);
    atomic_store(&block_fdatasync, 0);
    (void)pthread_join(thread, NULL);
    assert_int_equal(syncing.rc, 0);
    assert_int_equal(atomic_load(&segment->durable), 0);
}

/* --- sealing --- */

static void test_contents_that_cannot_be_written_are_cut_off(void **state)
{
    struct log_site *site = *state;
    struct stored stored[2] = {put(site, 100, 1), put(site, 200, 2)};
    uint64_t number = stored[0].number;
    atomic_store(&fail_write, ENOSPC);
    /* It is durable, which is what counts. */
    site_end(site);
    assert_int_equal(state_of_segment(site, number), CAS_SEALED);
    assert_int_equal(durable_of(site, number), trusted_of(site, number));
    assert_int_equal(segment_stat(site, number).st_size, trusted_of(site, number));
    check_contents(site, number, stored, 2);
}

static void test_contents_that_cannot_be_synced_are_cut_off(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    atomic_store(&sync_skips, 1);
    atomic_store(&fail_fdatasync, EIO);
    site_end(site);
    assert_int_equal(atomic_load(&fdatasyncs), 2);
    assert_int_equal(state_of_segment(site, stored.number), CAS_SEALED);
    assert_int_equal(segment_stat(site, stored.number).st_size, trusted_of(site, stored.number));
    check_contents(site, stored.number, &stored, 1);
}

static void test_a_seal_that_cannot_sync_tells_of_it(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    struct err err;
    uint64_t failures = cas_log_failures(site->log);
    atomic_store(&fail_fdatasync, EIO);
    assert_int_equal(cas_log_end_writing(site->log, &err), -ERR_IO);
    assert_int_equal(atomic_load(&fdatasyncs), 1);
    assert_int_equal(state_of_segment(site, stored.number), CAS_SEALED);
    assert_int_equal(trusted_of(site, stored.number), CAS_SEGMENT_HEADER);
    assert_true(cas_log_failures(site->log) > failures);
    /* Who waited for it has nothing to sync, and the count to compare. */
    assert_int_equal(sync_one(site, stored.number), 0);
}

/* --- writing --- */

static void test_a_failed_append_leaves_what_was_published(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    struct cas_appender appender;
    struct stored lost;
    struct err err;
    bool is_new;
    assert_int_equal(cas_log_take(site->log, 400, &appender, &is_new, &err), 0);
    atomic_store(&fail_write, ENOSPC);
    assert_int_equal(append_record(&appender, 100, 2, &lost, &err), -ERR_EXHAUSTED);
    atomic_store(&fail_write, 0);
    assert_true(segment_stat(site, stored.number).st_size > (off_t)trusted_of(site, stored.number));
    assert_true(cas_log_give(&appender));
    assert_int_equal(segment_stat(site, stored.number).st_size, trusted_of(site, stored.number));
    struct stored next = put(site, 100, 3);
    assert_int_equal(next.offset, lost.offset);
    assert_int_equal(get_record(site->log, &next), 0);
}

static void test_what_cannot_be_cut_is_not_appended_to(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    struct cas_appender appender;
    struct stored lost;
    struct err err;
    bool is_new;
    assert_int_equal(cas_log_take(site->log, 400, &appender, &is_new, &err), 0);
    assert_int_equal(append_record(&appender, 100, 2, &lost, &err), 0);
    atomic_store(&fail_truncate, EIO);
    assert_false(cas_log_give(&appender));
    wait_sealed(site, stored.number);
    assert_int_not_equal(put(site, 100, 3).number, stored.number);
    check_contents(site, stored.number, &stored, 1);
}

static void test_a_segment_that_cannot_be_begun_leaves_nothing(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appender;
    struct err err;
    bool is_new;
    atomic_store(&fail_write, ENOSPC);
    assert_int_equal(cas_log_take(site->log, 400, &appender, &is_new, &err), -ERR_EXHAUSTED);
    atomic_store(&fail_write, 0);
    atomic_store(&fail_open, EROFS);
    assert_int_equal(cas_log_take(site->log, 400, &appender, &is_new, &err), -ERR_IO);
    atomic_store(&fail_open, 0);
    assert_int_equal(count_segments(site, CAS_OPEN), 0);
    char path[PATH_MAX];
    /* The folder is empty. */
    assert_int_equal(rmdir(scratch_path(&site->scratch, "log", path)), 0);
    assert_int_equal(mkdir(path, 0750), 0);
}

static void test_blocks_that_are_not_given_back_are_told(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 100, 1);
    struct err err;
    assert_true(cas_log_retire(site->log, stored.number));
    atomic_store(&fail_truncate, EIO);
    assert_int_equal(cas_log_remove(site->log, stored.number, &err), -ERR_IO);
    assert_int_equal(get_record(site->log, &stored), 0);
    atomic_store(&fail_truncate, 0);
    /* A name takes no blocks, and goes when a writer begins. */
    atomic_store(&fail_unlink, EIO);
    assert_int_equal(cas_log_remove(site->log, stored.number, &err), 0);
    assert_int_equal(segment_stat(site, stored.number).st_blocks, 0);
    cas_segment_free(segment_of(site, stored.number));
    atomic_store(&fail_unlink, 0);
    site_end(site);
    site_begin(site);
    char path[64];
    assert_false(scratch_exists(&site->scratch, segment_path(stored.number, path)));
}

/* --- open files --- */

static void test_few_files_stay_open(void **state)
{
    struct log_site *site = *state;
    enum { COUNT = 700, SIZE = SEGMENT_SIZE / 4 + 1 };
    struct stored *stored = calloc(COUNT, sizeof(*stored));
    atomic_store(&skip_fdatasync, 1);
    for (size_t i = 0; i < COUNT; i++)
        stored[i] = put(site, SIZE, i);
    for (size_t i = 0; i < COUNT; i++)
        wait_sealed(site, stored[i].number);
    for (size_t round = 0; round < 2; round++)
        for (size_t i = 0; i < COUNT; i++)
            assert_int_equal(get_record(site->log, &stored[i]), 0);
    site_end(site);
    int kept = atomic_load(&opens) - atomic_load(&closes);
    assert_true(kept <= 512);
    assert_true(kept > 256);
    /* What was read last is open. */
    int before = atomic_load(&opens);
    assert_int_equal(get_record(site->log, &stored[COUNT - 1]), 0);
    assert_int_equal(atomic_load(&opens), before);
    free(stored);
}

enum { OWN_COUNT = 100, OWN_SIZE = SEGMENT_SIZE / 4 + 1 };

struct putting {
    struct log_site *site;
    struct stored stored[OWN_COUNT]; /* each in a segment of its own */
    atomic_int count;
};

static void *put_own(void *argument)
{
    struct putting *putting = argument;
    for (int i = 0; i < OWN_COUNT; i++) {
        struct err err;
        if (put_record(putting->site->log, OWN_SIZE, (uint64_t)i, &putting->stored[i], &err) != 0)
            break;
        atomic_store(&putting->count, i + 1);
    }
    return NULL;
}

static void test_few_files_wait_for_their_sealing(void **state)
{
    struct putting putting = {.site = *state};
    struct log_site *site = *state;
    pthread_t thread;
    atomic_store(&skip_fdatasync, 1);
    atomic_store(&block_fdatasync, 1);
    assert_int_equal(pthread_create(&thread, NULL, put_own, &putting), 0);
    /* Who fills more than the disk takes has to help, and waits for it. */
    WAIT_UNTIL(atomic_load(&fdatasyncs) == 2);
    int before = atomic_load(&putting.count);
    assert_in_range(before, 50, 80);
    assert_true(atomic_load(&opens) - atomic_load(&closes) < 80);
    /* Others can be read meanwhile. */
    assert_int_equal(get_record(site->log, &putting.stored[before - 1]), 0);
    int opens_before = atomic_load(&opens);
    int closes_before = atomic_load(&closes);
    atomic_store(&block_fdatasync, 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(atomic_load(&putting.count), OWN_COUNT);
    for (size_t i = 0; i < OWN_COUNT; i++)
        wait_sealed(site, putting.stored[i].number);
    /* A file that is closed before it is durable may take a fault with it: none was opened anew. */
    assert_int_equal(atomic_load(&opens) - opens_before, OWN_COUNT - before - 1);
    WAIT_UNTIL(atomic_load(&closes) - closes_before == OWN_COUNT);
    for (size_t i = 0; i < OWN_COUNT; i++)
        check_contents(site, putting.stored[i].number, &putting.stored[i], 1);
}

static void test_a_retired_file_stays_open_until_it_goes(void **state)
{
    struct log_site *site = *state;
    struct err err;
    struct stored kept = put(site, 10, 1);
    assert_true(cas_log_retire(site->log, kept.number));
    struct stored removed = put(site, 10, 2);
    assert_true(cas_log_retire(site->log, removed.number));
    assert_int_equal(atomic_load(&opens), 2);
    assert_int_equal(atomic_load(&closes), 0);
    /* A fault while it was retired is found. */
    atomic_store(&fail_fdatasync, EIO);
    cas_log_keep(site->log, kept.number);
    WAIT_UNTIL(atomic_load(&closes) > 0);
    assert_int_equal(trusted_of(site, kept.number), CAS_SEGMENT_HEADER);
    atomic_store(&segment_of(site, removed.number)->state, CAS_LEAVING);
    assert_int_equal(cas_log_remove(site->log, removed.number, &err), 0);
    cas_segment_free(segment_of(site, removed.number));
    WAIT_UNTIL(atomic_load(&closes) == atomic_load(&opens));
    atomic_store(&fail_fdatasync, 0);
}

static void test_files_run_out(void **state)
{
    struct log_site *site = *state;
    struct stored first = put(site, 20000, 1);
    struct stored second = put(site, 20000, 2);
    wait_sealed(site, first.number);
    wait_sealed(site, second.number);
    assert_int_equal(get_record(site->log, &first), 0);
    int kept = atomic_load(&opens) - atomic_load(&closes);
    atomic_store(&fail_open, EMFILE);
    assert_int_equal(get_record(site->log, &second), 0);
    /* The first one's made place for it. */
    assert_int_equal(atomic_load(&fail_open), 0);
    assert_true(atomic_load(&opens) - atomic_load(&closes) <= kept);
    assert_int_equal(get_record(site->log, &first), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define FAULT_TEST(f) cmocka_unit_test_setup_teardown(f, fault_setup, fault_teardown)
        FAULT_TEST(test_a_sync_covers_what_is_trusted),
        FAULT_TEST(test_many_segments_are_synced_at_once),
        FAULT_TEST(test_a_syncfs_that_tells_of_no_fault_is_not_used),
        FAULT_TEST(test_a_failed_sync_of_all_costs_all_that_is_not_durable),
        FAULT_TEST(test_a_failed_sync_closes_the_segment_at_what_was_durable),
        FAULT_TEST(test_a_failed_sync_of_the_names_costs_all_new_segments),
        FAULT_TEST(test_a_segment_that_cannot_be_opened_stays_as_it_was),
        FAULT_TEST(test_one_at_a_time_syncs_a_segment),
        FAULT_TEST(test_a_sync_that_ends_after_its_segment_changes_nothing),
        FAULT_TEST(test_contents_that_cannot_be_written_are_cut_off),
        FAULT_TEST(test_contents_that_cannot_be_synced_are_cut_off),
        FAULT_TEST(test_a_seal_that_cannot_sync_tells_of_it),
        FAULT_TEST(test_a_failed_append_leaves_what_was_published),
        FAULT_TEST(test_what_cannot_be_cut_is_not_appended_to),
        FAULT_TEST(test_a_segment_that_cannot_be_begun_leaves_nothing),
        FAULT_TEST(test_blocks_that_are_not_given_back_are_told),
        FAULT_TEST(test_few_files_stay_open),
        FAULT_TEST(test_few_files_wait_for_their_sealing),
        FAULT_TEST(test_a_retired_file_stays_open_until_it_goes),
        FAULT_TEST(test_files_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
