/* SPDX-License-Identifier: Apache-2.0 */
/* Segments in which something is broken, and disks that fail while room is made. */
#include <errno.h>
#include <sys/mman.h>

#include "space_site.h"
#include "store/cas_evict.h"

/* --- what is broken --- */

static void flip(const struct site *site, uint64_t number, uint64_t offset)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "cas/log/%016llx", (unsigned long long)number);
    scratch_flip(&site->scratch, path, (off_t)offset);
}

static void say_broken(struct site *site, uint64_t number)
{
    struct cas_segment *segment = cas_segment_find(&site->shared, number);
    assert_non_null(segment);
    (void)atomic_fetch_or(&segment->flags, CAS_SEGMENT_BROKEN);
    cas_space_broken(site->space);
}

static void expect_all_but(struct site *site, uint64_t count, uint64_t broken)
{
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(read_blob(site, i, SMALL), i == broken ? ERR_NOT_FOUND : ERR_OK);
    assert_int_equal(atomic_load(&site->shared.header->broken), 1);
    assert_int_equal(evicted(site), 0);
}

static void test_a_broken_segment_is_evacuated(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    uint64_t count = put_one_segment(site);
    uint64_t number = segment_of(site, 0, SMALL);
    uint64_t blobs = atomic_load(&site->shared.header->blobs);
    flip(site, number, cas_place_offset(place_of(site, 2, SMALL)) + 1000);
    uint64_t hold = cas_shared_tick(&site->shared);
    cas_shared_set_oldest_hold(&site->shared, hold);
    say_broken(site, number);
    wait_until_gone(site, number);
    expect_all_but(site, count, 2);
    assert_int_equal(atomic_load(&site->shared.header->blobs), blobs - 1);
    /* Who found one of them before it was carried keeps it where it is now. */
    const struct cas_segment *segment = cas_segment_find(&site->shared, segment_of(site, 0, SMALL));
    assert_true(atomic_load(&segment->last_use) > hold);
    assert_true(cas_space_used(site->space) >= du_at_rest(site));
}

/*
 * Damages the contents of a full segment, and the header of the record of SEED, so that the next
 * ones are not found behind it.
 */
static void damage_contents(struct site *site, uint64_t number, uint64_t seed)
{
    struct err err;
    flip(site, number, cas_place_offset(place_of(site, seed, SMALL)));
    assert_int_equal(cas_log_sync(site->log, &number, 1, &err), 0);
    struct stat st;
    char path[PATH_MAX];
    char name[64];
    (void)snprintf(name, sizeof(name), "cas/log/%016llx", (unsigned long long)number);
    const struct cas_segment *segment = cas_segment_find(&site->shared, number);
    for (int i = 0; atomic_load(&segment->state) != CAS_SEALED; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
    }
    assert_int_equal(stat(scratch_path(&site->scratch, name, path), &st), 0);
    flip(site, number, (uint64_t)st.st_size - 10);
}

/* The table still knows what is where. */
static void test_a_segment_without_contents_is_evacuated(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    uint64_t count = put_one_segment(site);
    uint64_t number = segment_of(site, 0, SMALL);
    damage_contents(site, number, 1);
    say_broken(site, number);
    wait_until_gone(site, number);
    expect_all_but(site, count, 1);
}

/* Records that are larger than what is read at a time. */
static void test_large_records_are_evacuated(void **state)
{
    enum { LARGE = 3 * MIB / 2 + 12345 };
    struct site *site = *state;
    site_start(site, 2000 * (int64_t)MB);
    for (uint64_t i = 0; i < 5; i++)
        must_put(site, i, i == 3 ? SMALL : LARGE);
    uint64_t number = segment_of(site, 0, LARGE);
    assert_int_equal(segment_of(site, 4, LARGE), number);
    flip(site, number, cas_place_offset(place_of(site, 1, LARGE)) + MIB + 200 * KIB);
    flip(site, number, cas_place_offset(place_of(site, 2, LARGE)) + 8);
    say_broken(site, number);
    wait_until_gone(site, number);
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(read_blob(site, i, i == 3 ? SMALL : LARGE),
                         i == 1 || i == 2 ? ERR_NOT_FOUND : ERR_OK);
    assert_int_equal(atomic_load(&site->shared.header->broken), 2);
    assert_true(cas_space_used(site->space) >= du_at_rest(site));
}

/* A hold relies on what is in it until that is elsewhere, and the segment stays as long. */
static void test_a_broken_segment_that_is_held(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    cas_shared_set_oldest_hold(&site->shared, cas_shared_tick(&site->shared));
    uint64_t count = put_one_segment(site);
    uint64_t number = segment_of(site, 0, SMALL);
    flip(site, number, cas_place_offset(place_of(site, 2, SMALL)) + 1000);
    say_broken(site, number);
    for (int i = 0; segment_of(site, 0, SMALL) == number; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
    }
    assert_non_null(cas_segment_find(&site->shared, number));
    assert_true(atomic_load(&cas_segment_find(&site->shared, number)->version) > 1);
    cas_shared_set_oldest_hold(&site->shared, 0);
    cas_space_broken(site->space);
    wait_until_gone(site, number);
    expect_all_but(site, count, 2);
}

static atomic_bool fail_reads;
static atomic_int failed_reads;

static ssize_t failing_pread(int fd, void *buffer, size_t size, off_t offset)
{
    if (!atomic_load(&fail_reads))
        return pread(fd, buffer, size, offset);
    (void)atomic_fetch_add(&failed_reads, 1);
    errno = EIO;
    return -1;
}

static void test_what_cannot_be_read_stays(void **state)
{
    struct site *site = *state;
    disk.pread = failing_pread;
    atomic_store(&fail_reads, false);
    atomic_store(&failed_reads, 0);
    site_start(site, QUOTA);
    uint64_t count = put_one_segment(site);
    uint64_t number = segment_of(site, 0, SMALL);
    flip(site, number, cas_place_offset(place_of(site, 2, SMALL)) + 1000);
    atomic_store(&fail_reads, true);
    say_broken(site, number);
    for (int i = 0; (uint64_t)atomic_load(&failed_reads) < count; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
    }
    atomic_store(&fail_reads, false);
    assert_non_null(cas_segment_find(&site->shared, number));
    for (uint64_t i = 0; i < count; i++)
        assert_true(is_there(site, i, SMALL));
    cas_space_broken(site->space);
    wait_until_gone(site, number);
    expect_all_but(site, count, 2);
}

/* --- disks that fail --- */

static atomic_int errnum_of_removals;
static atomic_int errnum_of_writes; /* of the thread that evicts */
static atomic_int errnum_of_syncs;  /* likewise */
static pthread_t test_thread;

static int failing_ftruncate(int fd, off_t size)
{
    int errnum = atomic_load(&errnum_of_removals);
    errno = errnum;
    return errnum != 0 ? -1 : ftruncate(fd, size);
}

static int failing_unlinkat(int directory, const char *name, int flags)
{
    int errnum = atomic_load(&errnum_of_removals);
    errno = errnum;
    return errnum != 0 ? -1 : unlinkat(directory, name, flags);
}

static ssize_t failing_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    int errnum = pthread_equal(pthread_self(), test_thread) ? 0 : atomic_load(&errnum_of_writes);
    errno = errnum;
    return errnum != 0 ? -1 : pwritev(fd, parts, count, offset);
}

static int failing_fdatasync(int fd)
{
    int errnum = pthread_equal(pthread_self(), test_thread) ? 0 : atomic_load(&errnum_of_syncs);
    errno = errnum;
    return errnum != 0 ? -1 : fdatasync(fd);
}

static atomic_bool has_no_maps;

static void *failing_mmap(void *address, size_t size, int protection, int flags, int fd,
                          off_t offset)
{
    if (!atomic_load(&has_no_maps))
        return mmap(address, size, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

static int setup_faults(void **state)
{
    int rc = setup(state);
    atomic_store(&has_no_maps, false);
    disk.mmap = failing_mmap;
    atomic_store(&errnum_of_removals, 0);
    atomic_store(&errnum_of_writes, 0);
    atomic_store(&errnum_of_syncs, 0);
    test_thread = pthread_self();
    disk.ftruncate = failing_ftruncate;
    disk.unlinkat = failing_unlinkat;
    disk.pwritev = failing_pwritev;
    disk.fdatasync = failing_fdatasync;
    return rc;
}

static void test_what_cannot_be_removed_stays(void **state)
{
    struct site *site = *state;
    struct err err;
    site_start(site, QUOTA);
    for (uint64_t i = 0; i < 4; i++)
        must_put(site, i, MB);
    int64_t used = cas_space_used(site->space);
    uint64_t blobs = atomic_load(&site->shared.header->blobs);
    atomic_store(&errnum_of_removals, EROFS);
    /* Nobody waits for what does not come. */
    for (uint64_t i = 10; i < 13; i++)
        assert_int_equal(cas_space_take(site->space, MB, &err), -ERR_IO);
    assert_int_equal(evicted(site), 0);
    assert_int_equal(cas_space_used(site->space), used);
    assert_int_equal(atomic_load(&site->shared.header->blobs), blobs);
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(read_blob(site, i, MB), ERR_OK);
        assert_true(i == 0 || use_blob(site, i, MB));
    }
    /* Once the disk is well again the order is what it was. */
    atomic_store(&errnum_of_removals, 0);
    must_put(site, 10, MB);
    assert_int_equal(evicted(site), 1);
    assert_false(is_there(site, 0, MB));
    assert_true(is_there(site, 1, MB));
}

/* What was used is not known, nor can it be carried: that is no reason for it to go. */
static void test_without_memory_nothing_goes(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    uint64_t count = put_one_segment(site);
    uint64_t number = segment_of(site, 0, SMALL);
    struct cas_segment *segment = cas_segment_find(&site->shared, number);
    assert_true(use_blob(site, 3, SMALL));
    atomic_store(&segment->last_use, 1);
    damage_contents(site, number, 1);
    atomic_store(&site->space->patience, SHORT_PATIENCE);
    atomic_store(&has_no_maps, true);
    assert_false(cas_space_relieve(site->space, 10 * KB));
    assert_int_equal(evicted(site), 0);
    for (uint64_t i = 0; i < count; i++)
        assert_true(is_there(site, i, SMALL));
    atomic_store(&has_no_maps, false);
    atomic_store(&site->space->patience, LONG_PATIENCE);
    assert_true(cas_space_relieve(site->space, 10 * KB));
    assert_null(cas_segment_find(&site->shared, number));
    assert_int_equal(read_blob(site, 3, SMALL), ERR_OK);
    assert_false(is_there(site, 4, SMALL));
}

/* Seals all that is full: the thread that does writes and syncs as well. */
static void wait_until_sealed(struct site *site)
{
    const uint64_t full = (uint64_t)cas_log_segment_size(QUOTA);
    uint32_t index = 0;
    struct cas_segment *segment;
    while ((segment = cas_segment_next(&site->shared, &index)) != NULL)
        for (int i = 0;
             atomic_load(&segment->state) == CAS_OPEN && atomic_load(&segment->trusted) >= full;
             i++) {
            assert_true(i < WAIT_MAX);
            pause_briefly();
        }
}

/*
 * Fills the store but for the headroom, with blob 3 of the first segment used, so that the next
 * eviction is of that and carries. Returns how many are in it.
 */
static uint64_t fill_store(struct site *site)
{
    struct cas_space *space = site->space;
    uint64_t count = put_one_segment(site);
    int64_t limit = space->limit - space->aside - space->headroom;
    assert_true(use_blob(site, 3, SMALL));
    atomic_store(&cas_segment_find(&site->shared, segment_of(site, 3, SMALL))->last_use, 1);
    for (uint64_t i = 1000; cas_space_used(space) < limit - 30 * KB; i++)
        must_put(site, i, SMALL);
    wait_until_sealed(site);
    assert_int_equal(evicted(site), 0);
    return count;
}

static void test_without_room_for_copies_all_goes(void **state)
{
    struct site *site = *state;
    struct err err;
    site_start(site, QUOTA);
    uint64_t count = fill_store(site);
    int64_t used = cas_space_used(site->space);
    atomic_store(&errnum_of_writes, ENOSPC);
    int64_t bytes = site->space->limit - site->space->aside - used + 10 * KB;
    assert_int_equal(cas_space_take(site->space, bytes, &err), 0);
    atomic_store(&errnum_of_writes, 0);
    for (uint64_t i = 0; i < count; i++)
        assert_false(is_there(site, i, SMALL));
    assert_true(evicted(site) >= count);
    cas_space_give(site->space, bytes);
}

static void expect_no_loss(struct site *site, uint64_t count)
{
    struct err err;
    int64_t bytes = site->space->limit - site->space->aside - cas_space_used(site->space) + 10 * KB;
    assert_int_equal(cas_space_take(site->space, bytes, &err), -ERR_IO);
    assert_int_equal(evicted(site), 0);
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(read_blob(site, i, SMALL), ERR_OK);
}

static void test_copies_that_cannot_be_written(void **state)
{
    struct site *site = *state;
    struct err err;
    site_start(site, QUOTA);
    uint64_t count = fill_store(site);
    uint64_t number = segment_of(site, 3, SMALL);
    atomic_store(&errnum_of_writes, EIO);
    expect_no_loss(site, count);
    atomic_store(&errnum_of_writes, 0);
    int64_t bytes = site->space->limit - site->space->aside - cas_space_used(site->space) + 10 * KB;
    assert_int_equal(cas_space_take(site->space, bytes, &err), 0);
    assert_int_equal(read_blob(site, 3, SMALL), ERR_OK);
    assert_int_not_equal(segment_of(site, 3, SMALL), number);
    assert_false(is_there(site, 2, SMALL));
    cas_space_give(site->space, bytes);
}

/* The originals are what is relied upon. */
static void test_copies_that_do_not_become_durable(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    uint64_t count = fill_store(site);
    uint64_t number = segment_of(site, 3, SMALL);
    atomic_store(&errnum_of_syncs, EIO);
    expect_no_loss(site, count);
    assert_int_equal(segment_of(site, 3, SMALL), number);
    atomic_store(&errnum_of_syncs, 0);
}

static void test_a_full_disk_is_relieved(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    for (uint64_t i = 0; i < 3; i++)
        must_put(site, i, MB);
    int64_t used = cas_space_used(site->space);
    assert_true(cas_space_relieve(site->space, MB + 100 * KB));
    assert_true(cas_space_used(site->space) <= used - MB - 100 * KB);
    assert_int_equal(evicted(site), 2);
    assert_true(is_there(site, 2, MB));
    atomic_store(&site->space->patience, SHORT_PATIENCE);
    assert_false(cas_space_relieve(site->space, 2 * MB));
    assert_true(is_there(site, 2, MB));
    atomic_store(&errnum_of_removals, EIO);
    atomic_store(&site->space->patience, LONG_PATIENCE);
    assert_false(cas_space_relieve(site->space, MB));
    assert_true(is_there(site, 2, MB));
}

static void *relieve_too_much(void *argument)
{
    struct site *site = argument;
    return cas_space_relieve(site->space, 3 * MB) ? site : NULL;
}

/* One waits for room on the disk that cannot be made; others have room within the quota. */
static void test_a_full_disk_stops_nobody_else(void **state)
{
    struct site *site = *state;
    struct err err;
    pthread_t thread;
    void *relieved;
    bool waits = false;
    site_start(site, QUOTA);
    must_put(site, 0, MB);
    assert_int_equal(pthread_create(&thread, NULL, relieve_too_much, site), 0);
    for (int i = 0; !waits && i < 1000; i++) {
        pause_briefly();
        (void)pthread_mutex_lock(&site->space->lock);
        waits = site->space->first != NULL;
        (void)pthread_mutex_unlock(&site->space->lock);
    }
    /* It would wait behind the other for as long as its patience lasts, and fail. */
    assert_int_equal(cas_space_take(site->space, 10 * KB, &err), 0);
    cas_space_give(site->space, 10 * KB);
    assert_int_equal(pthread_join(thread, &relieved), 0);
    assert_null(relieved);
    assert_true(is_there(site, 0, MB));
}

/* --- a table of which not all is known --- */

/* At the next sync of the test's own thread; NULL: nothing. */
static _Thread_local struct cas_shared_header *to_publish;

/* As if another process had written all shards anew, to files that cannot be opened yet. */
static void publish(struct cas_shared_header *header)
{
    for (unsigned i = 0; i < CAS_SHARDS; i++)
        (void)atomic_fetch_add(&header->shards[i], (uint64_t)1 << 32);
}

/* The files of GENERATION become those of the next one. */
static void name_shards(struct site *site, unsigned generation)
{
    for (unsigned i = 0; i < CAS_SHARDS; i++) {
        char from[32];
        char to[32];
        (void)snprintf(from, sizeof(from), "%02u-%08x", i, generation);
        (void)snprintf(to, sizeof(to), "%02u-%08x", i, generation + 1);
        assert_int_equal(renameat(site->table_fd, from, site->table_fd, to), 0);
    }
    digest_table_refresh(site->table);
}

static int fdatasync_and_publish(int fd)
{
    struct cas_shared_header *header = to_publish;
    to_publish = NULL;
    if (header != NULL)
        publish(header);
    return real_disk.fdatasync(fd);
}

static enum cas_eviction evict_one(struct site *site)
{
    struct cas_evicted evicted_one;
    struct err err;
    enum cas_eviction eviction;
    do
        eviction = cas_evict_oldest(site->space, INT64_MAX, true, &evicted_one, &err);
    while (eviction == CAS_EVICTION_LATER);
    return eviction;
}

/* What it would say of them is not known: they may be in use, and copies would not be found. */
static void test_without_all_of_the_table_nothing_goes(void **state)
{
    struct site *site = *state;
    disk.fdatasync = fdatasync_and_publish;
    site_open(site, QUOTA);
    site->space->buffer = malloc(CAS_SPACE_BUFFER); /* the thread's, which is not there */
    uint64_t count = put_one_segment(site);
    uint64_t number = segment_of(site, 0, SMALL);
    const struct cas_segment *segment = cas_segment_find(&site->shared, number);
    assert_true(use_blob(site, 3, SMALL));
    assert_true(use_blob(site, count, SMALL));
    while (atomic_load(&segment->state) != CAS_SEALED)
        pause_briefly();
    /* It is not known before, or not when what was carried is to be entered. */
    for (int is_late = 0; is_late <= 1; is_late++) {
        if (is_late)
            to_publish = site->shared.header;
        else
            publish(site->shared.header);
        assert_int_equal(evict_one(site), CAS_EVICTION_FAULT);
        assert_null(to_publish);
        name_shards(site, is_late ? 2 : 1);
        for (uint64_t i = 0; i < count; i++) {
            assert_int_equal(segment_of(site, i, SMALL), number);
            assert_int_equal(read_blob(site, i, SMALL), ERR_OK);
        }
    }
    assert_int_equal(evict_one(site), CAS_EVICTION_DONE);
    assert_int_equal(read_blob(site, 3, SMALL), ERR_OK);
    assert_false(is_there(site, 0, SMALL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_broken_segment_is_evacuated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_segment_without_contents_is_evacuated, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_large_records_are_evacuated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_broken_segment_that_is_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_removed_stays, setup_faults, teardown),
        cmocka_unit_test_setup_teardown(test_without_memory_nothing_goes, setup_faults, teardown),
        cmocka_unit_test_setup_teardown(test_without_room_for_copies_all_goes, setup_faults,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_copies_that_cannot_be_written, setup_faults, teardown),
        cmocka_unit_test_setup_teardown(test_copies_that_do_not_become_durable, setup_faults,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_full_disk_is_relieved, setup_faults, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_disk_stops_nobody_else, setup_faults, teardown),
        cmocka_unit_test_setup_teardown(test_without_all_of_the_table_nothing_goes, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
