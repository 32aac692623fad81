/* SPDX-License-Identifier: Apache-2.0 */
/* Durability of a CAS: one sync for all that wait, and what a failed one costs. */
#include <errno.h>
#include <stdatomic.h>

#include "store/disk.h"
#include "store_blobs.h"

/* Segments have 64 KiB, so that what is larger than 16 KiB gets one for itself. */
enum { QUOTA = 8 * MIB, OWN = 20 * KIB };

static atomic_int syncs;
static atomic_int fail_syncs;
static atomic_int block_syncs;

static int counting_fdatasync(int fd)
{
    atomic_fetch_add(&syncs, 1);
    while (atomic_load(&block_syncs) != 0)
        (void)usleep(1000);
    if (atomic_load(&fail_syncs) != 0) {
        errno = EIO;
        return -1;
    }
    return fdatasync(fd);
}

static int sync_setup(void **state)
{
    disk.fdatasync = counting_fdatasync;
    (void)store_setup(state);
    store_open(*state, QUOTA);
    atomic_store(&syncs, 0);
    return 0;
}

static int sync_teardown(void **state)
{
    atomic_store(&fail_syncs, 0);
    atomic_store(&block_syncs, 0);
    int rc = store_teardown(state);
    disk.fdatasync = fdatasync;
    return rc;
}

struct waiter {
    struct cas_sync sync; /* first, so that it is the waiter */
    atomic_int done;
    enum err_code code;
};

static void note_done(struct cas_sync *sync, const struct err *err)
{
    struct waiter *waiter = (struct waiter *)sync;
    waiter->code = err != NULL ? err->code : ERR_OK;
    atomic_store(&waiter->done, 1);
}

static void begin_sync(struct cas *cas, struct cas_hold *hold, struct waiter *waiter)
{
    waiter->sync = (struct cas_sync){.hold = hold, .done = note_done};
    atomic_store(&waiter->done, 0);
    cas_sync(cas, &waiter->sync);
}

static enum err_code end_sync(struct waiter *waiter)
{
    while (atomic_load(&waiter->done) == 0)
        (void)usleep(1000);
    return waiter->code;
}

static void test_one_sync_serves_all_that_wait(void **state)
{
    struct store *store = *state;
    struct cas_hold hold;
    struct digest digest;
    struct waiter waiters[10];
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 0, &digest), ERR_OK);
    atomic_store(&block_syncs, 1);
    begin_sync(store->cas, &hold, &waiters[0]);
    while (atomic_load(&syncs) == 0)
        (void)usleep(1000);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 1, &digest), ERR_OK);
    for (size_t i = 1; i < 10; i++)
        begin_sync(store->cas, &hold, &waiters[i]);
    atomic_store(&block_syncs, 0);
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(end_sync(&waiters[i]), ERR_OK);
    assert_int_equal(atomic_load(&syncs), 2);
    cas_hold_end(&hold);
}

static void test_what_is_durable_is_answered_at_once(void **state)
{
    struct store *store = *state;
    struct cas_hold hold;
    struct digest digest;
    struct waiter waiter;
    cas_hold_begin(store->cas, &hold);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(atomic_load(&waiter.done), 1);
    assert_int_equal(waiter.code, ERR_OK);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 0, &digest), ERR_OK);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_OK);
    cas_hold_end(&hold);
    assert_int_equal(atomic_load(&syncs), 1);
    cas_hold_begin(store->cas, &hold);
    assert_true(is_there(store->cas, &digest));
    assert_int_equal(put_blob(store->cas, &hold, 1000, 0, &digest), ERR_OK);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(atomic_load(&waiter.done), 1);
    assert_int_equal(waiter.code, ERR_OK);
    cas_hold_end(&hold);
    assert_int_equal(atomic_load(&syncs), 1);
}

static void test_more_segments_than_a_hold_can_name(void **state)
{
    enum { BLOBS = CAS_HOLD_UNSYNCED + 6 };
    struct store *store = *state;
    struct cas_hold hold;
    struct digest digests[BLOBS];
    struct waiter waiter;
    /* So that none is sealed meanwhile. */
    atomic_store(&block_syncs, 1);
    cas_hold_begin(store->cas, &hold);
    for (uint64_t i = 0; i < BLOBS; i++)
        assert_int_equal(put_blob(store->cas, &hold, OWN, i, &digests[i]), ERR_OK);
    assert_int_equal(hold.unsynced_count, CAS_HOLD_UNSYNCED + 1);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(atomic_load(&waiter.done), 0);
    atomic_store(&block_syncs, 0);
    assert_int_equal(end_sync(&waiter), ERR_OK);
    for (size_t i = 0; i < BLOBS; i++) {
        struct cas_found found;
        assert_int_equal(cas_look_up(store->cas, NULL, &digests[i], &found), CAS_PRESENT);
        const struct cas_segment *segment =
            cas_segment_find(&store->cas->shared, cas_place_number(found.place));
        assert_true(atomic_load(&segment->durable) >= atomic_load(&segment->trusted));
    }
    cas_hold_end(&hold);
}

static void test_a_failed_sync_is_not_retried(void **state)
{
    struct store *store = *state;
    struct cas_hold hold;
    struct cas_hold other;
    struct digest durable;
    struct digest fresh;
    struct digest beside;
    struct waiter waiter;
    struct waiter late;
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 0, &durable), ERR_OK);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_OK);
    cas_hold_end(&hold);

    cas_hold_begin(store->cas, &hold);
    cas_hold_begin(store->cas, &other);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 1, &fresh), ERR_OK);
    assert_int_equal(put_blob(store->cas, &other, 1000, 2, &beside), ERR_OK);
    atomic_store(&fail_syncs, 1);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    atomic_store(&fail_syncs, 0);
    /* What was not known to be durable is gone, what was stays. */
    assert_false(is_there(store->cas, &fresh));
    assert_false(is_there(store->cas, &beside));
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_NOT_FOUND);
    assert_true(is_there(store->cas, &durable));
    assert_int_equal(get_blob(store->cas, 1000, 0), ERR_OK);
    assert_int_equal(stats_of(store->cas).broken, 0);
    /* A push that had checked before and asks only now. */
    begin_sync(store->cas, &other, &late);
    assert_int_equal(end_sync(&late), ERR_UNAVAILABLE);
    cas_hold_end(&hold);
    cas_hold_end(&other);
    /* What is stored anew can be made durable. */
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 1, &fresh), ERR_OK);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_OK);
    assert_true(is_there(store->cas, &fresh));
    cas_hold_end(&hold);
}

static void test_an_upload_in_a_segment_whose_sync_failed(void **state)
{
    struct store *store = *state;
    struct cas_hold hold;
    struct digest fresh;
    struct digest in_flight;
    struct waiter waiter;
    struct cas_writer *writer;
    struct err err;
    uint8_t *data = make_blob(300 * KIB, 2, &in_flight);
    /* Segments so large that the upload shares one. */
    store_reopen(store, (int64_t)1 << 30);
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 1, &fresh), ERR_OK);
    uint64_t bytes = stats_of(store->cas).bytes;
    assert_int_equal(cas_writer_open(store->cas, &in_flight, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, 200 * KIB, &err), 0);
    atomic_store(&fail_syncs, 1);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    atomic_store(&fail_syncs, 0);
    cas_hold_end(&hold);
    assert_int_equal(cas_writer_append(writer, data + 200 * KIB, 100 * KIB, &err),
                     -ERR_UNAVAILABLE);
    cas_writer_abort(writer);
    assert_false(is_there(store->cas, &in_flight));
    assert_int_equal(stats_of(store->cas).bytes, bytes);
    assert_int_equal(put_bytes(store->cas, NULL, &in_flight, data, 300 * KIB), ERR_OK);
    assert_int_equal(get_blob(store->cas, 300 * KIB, 2), ERR_OK);
    free(data);
}

static void test_a_failure_of_others_fails_who_relied_on_it(void **state)
{
    struct store *store = *state;
    struct cas_hold hold;
    struct cas_hold late;
    struct digest digest;
    struct waiter waiter;
    /* It is sealed by itself, and that fails. */
    cas_hold_begin(store->cas, &hold);
    atomic_store(&fail_syncs, 1);
    assert_int_equal(put_blob(store->cas, &hold, OWN, 0, &digest), ERR_OK);
    while (is_there(store->cas, &digest))
        (void)usleep(1000);
    atomic_store(&fail_syncs, 0);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    /* It is no matter to who comes later. */
    cas_hold_begin(store->cas, &late);
    assert_int_equal(put_blob(store->cas, &late, 1000, 1, &digest), ERR_OK);
    begin_sync(store->cas, &late, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_OK);
    cas_hold_end(&hold);
    cas_hold_end(&late);
}

/* The push needs nothing synced: what it found was taken back before it noted that. */
static void test_a_failure_is_told_to_who_has_nothing_to_sync(void **state)
{
    struct store *store = *state;
    struct cas_hold hold;
    struct cas_hold other;
    struct digest digest;
    struct waiter waiter;
    cas_hold_begin(store->cas, &hold);
    cas_hold_begin(store->cas, &other);
    assert_int_equal(put_blob(store->cas, &other, 1000, 0, &digest), ERR_OK);
    atomic_store(&fail_syncs, 1);
    begin_sync(store->cas, &other, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    atomic_store(&fail_syncs, 0);
    assert_int_equal(hold.unsynced_count, 0);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    cas_hold_end(&hold);
    cas_hold_end(&other);
}

static void test_a_close_serves_who_waits_and_keeps_all(void **state)
{
    struct store *store = *state;
    struct digest digests[3];
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(put_blob(store->cas, NULL, 1000, i, &digests[i]), ERR_OK);
    assert_int_equal(atomic_load(&syncs), 0);
    store_reopen(store, QUOTA);
    assert_true(atomic_load(&syncs) > 0);
    struct cas_hold hold;
    enum cas_presence presence[3];
    struct waiter waiter;
    cas_hold_begin(store->cas, &hold);
    cas_find_nowait(store->cas, &hold, digests, 3, presence);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(presence[i], CAS_PRESENT);
    assert_int_equal(hold.unsynced_count, 0);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(atomic_load(&waiter.done), 1);
    assert_int_equal(waiter.code, ERR_OK);
    cas_hold_end(&hold);
}

/* Threads that store and sync at the same time; not NULL: something went wrong. */
static void *push(void *argument)
{
    static atomic_uint_fast64_t seeds;
    struct store *store = argument;
    for (unsigned i = 0; i < 100; i++) {
        struct cas_hold hold;
        struct digest digest;
        struct waiter waiter;
        cas_hold_begin(store->cas, &hold);
        enum err_code code = put_blob(store->cas, &hold, i % 10 == 0 ? OWN : 500,
                                      atomic_fetch_add(&seeds, 1), &digest);
        if (code == ERR_OK) {
            begin_sync(store->cas, &hold, &waiter);
            code = end_sync(&waiter);
        }
        cas_hold_end(&hold);
        if (code != ERR_OK)
            return store;
    }
    return NULL;
}

static void test_threads_that_push(void **state)
{
    struct store *store = *state;
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, push, store), 0);
    for (size_t i = 0; i < 4; i++) {
        void *wrong;
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        assert_null(wrong);
    }
    assert_int_equal(stats_of(store->cas).blobs, 400);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, sync_setup, sync_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_one_sync_serves_all_that_wait),
        CASE(test_what_is_durable_is_answered_at_once),
        CASE(test_more_segments_than_a_hold_can_name),
        CASE(test_a_failed_sync_is_not_retried),
        CASE(test_an_upload_in_a_segment_whose_sync_failed),
        CASE(test_a_failure_of_others_fails_who_relied_on_it),
        CASE(test_a_failure_is_told_to_who_has_nothing_to_sync),
        CASE(test_a_close_serves_who_waits_and_keeps_all),
        CASE(test_threads_that_push),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
