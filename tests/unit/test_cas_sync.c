/* SPDX-License-Identifier: Apache-2.0 */
/* Durability of a CAS: one sync for all that wait, and what a failed one costs. */
#include <errno.h>
#include <stdatomic.h>

#include "store/cas_private.h"
#include "store_blobs.h"

enum { QUOTA = 8 * MIB };

static atomic_int syncs;
static atomic_int fail_syncs;
static atomic_int block_syncs;

static int counting_syncfs(int fd)
{
    atomic_fetch_add(&syncs, 1);
    while (atomic_load(&block_syncs) != 0)
        (void)usleep(1000);
    if (atomic_load(&fail_syncs) != 0) {
        errno = EIO;
        return -1;
    }
    return syncfs(fd);
}

static int sync_setup(void **state)
{
    atomic_store(&syncs, 0);
    atomic_store(&fail_syncs, 0);
    atomic_store(&block_syncs, 0);
    cas_disk.syncfs = counting_syncfs;
    (void)store_setup(state);
    store_open(*state, QUOTA);
    return 0;
}

/* While this is not zero, the disk is slow. */
static atomic_int stop_reads;

static ssize_t slow_pread(int fd, void *buffer, size_t size, off_t offset)
{
    while (atomic_load(&stop_reads) != 0)
        (void)usleep(1000);
    return pread(fd, buffer, size, offset);
}

/* Until stop_reads is set to zero, what has to be verified is not. */
static void reopen_without_reads(struct store *store)
{
    atomic_store(&stop_reads, 1);
    cas_disk.pread = slow_pread;
    if (store->cas != NULL)
        store_close(store);
    store_open(store, QUOTA);
}

static int sync_teardown(void **state)
{
    atomic_store(&stop_reads, 0);
    int rc = store_teardown(state);
    cas_disk.syncfs = syncfs;
    cas_disk.pread = pread;
    cas_disk.unlinkat = unlinkat;
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
    /* What is durable needs no other. */
    begin_sync(store->cas, &hold, &waiters[0]);
    assert_int_equal(end_sync(&waiters[0]), ERR_OK);
    assert_int_equal(atomic_load(&syncs), 2);
    cas_hold_end(&hold);
}

static void test_a_failed_sync_is_not_retried(void **state)
{
    struct store *store = *state;
    struct cas_hold hold;
    struct cas_hold other;
    struct digest durable;
    struct digest fresh;
    struct digest in_flight;
    struct waiter waiter;
    struct waiter late;
    struct cas_writer *writer;
    struct err err;
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 0, &durable), ERR_OK);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_OK);
    cas_hold_end(&hold);

    cas_hold_begin(store->cas, &hold);
    cas_hold_begin(store->cas, &other);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 1, &fresh), ERR_OK);
    uint8_t *data = make_blob(1000, 2, &in_flight);
    assert_int_equal(cas_writer_open(store->cas, &in_flight, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, 1000, &err), 0);
    atomic_store(&fail_syncs, 1);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    atomic_store(&fail_syncs, 0);
    /* What was not known to be durable is gone, what was stays. */
    assert_false(is_there(store->cas, &fresh));
    assert_true(is_there(store->cas, &durable));
    assert_int_equal(get_blob(store->cas, 1000, 0), ERR_OK);
    /* An upload whose bytes the failed sync may have been about. */
    assert_int_equal(cas_writer_commit(writer, &err), -ERR_UNAVAILABLE);
    assert_false(is_there(store->cas, &in_flight));
    /* A push that had checked before and asks only now. */
    begin_sync(store->cas, &other, &late);
    assert_int_equal(end_sync(&late), ERR_UNAVAILABLE);
    cas_hold_end(&hold);
    cas_hold_end(&other);
    /* What is stored anew can be made durable. */
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_bytes(store->cas, &hold, &in_flight, data, 1000), ERR_OK);
    begin_sync(store->cas, &hold, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_OK);
    assert_true(is_there(store->cas, &in_flight));
    cas_hold_end(&hold);
    free(data);
}

static void test_a_close_that_cannot_sync_is_not_clean(void **state)
{
    struct store *store = *state;
    char text[128];
    struct digest digest;
    enum cas_presence presence;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 0, &digest), ERR_OK);
    assert_non_null(strstr(state_of(&store->scratch, text), " running\n"));
    atomic_store(&fail_syncs, 1);
    store_close(store);
    /* Another sync would tell nothing about it. */
    atomic_store(&fail_syncs, 0);
    reopen_without_reads(store);
    cas_find_nowait(store->cas, NULL, &digest, 1, &presence);
    assert_int_equal(presence, CAS_UNVERIFIED);
    atomic_store(&stop_reads, 0);
    assert_true(is_there(store->cas, &digest));
}

/* Nothing can be removed but the state, and that not after the blobs. */
static atomic_bool fail_unlinks;
static atomic_uint failed_unlinks;
static atomic_bool state_is_there;
static atomic_bool blobs_were_first;

static int failing_unlinkat(int directory, const char *name, int flags)
{
    if (!atomic_load(&fail_unlinks))
        return unlinkat(directory, name, flags);
    if (strcmp(name, CAS_STATE) == 0) {
        atomic_store(&state_is_there, false);
        return unlinkat(directory, name, flags);
    }
    if (atomic_load(&state_is_there))
        atomic_store(&blobs_were_first, true);
    atomic_fetch_add(&failed_unlinks, 1);
    errno = EIO;
    return -1;
}

static void test_what_a_failed_sync_dropped_is_not_trusted_later(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct waiter waiter;
    enum cas_presence presence;
    cas_disk.unlinkat = failing_unlinkat;
    atomic_store(&state_is_there, true);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 0, &digest), ERR_OK);
    atomic_store(&fail_syncs, 1);
    atomic_store(&fail_unlinks, true);
    begin_sync(store->cas, NULL, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    assert_false(is_there(store->cas, &digest));
    assert_int_equal(atomic_load(&failed_unlinks), 1);
    assert_false(atomic_load(&blobs_were_first));
    assert_false(scratch_exists(&store->scratch, "cas/state"));
    atomic_store(&fail_syncs, 0);
    atomic_store(&fail_unlinks, false);
    /* A close does not call it clean, nor what was stored since. */
    reopen_without_reads(store);
    cas_find_nowait(store->cas, NULL, &digest, 1, &presence);
    assert_int_equal(presence, CAS_UNVERIFIED);
    atomic_store(&stop_reads, 0);
    assert_true(is_there(store->cas, &digest));
}

static atomic_bool fail_state_unlinks;

static int failing_state_unlinkat(int directory, const char *name, int flags)
{
    if (!atomic_load(&fail_state_unlinks))
        return unlinkat(directory, name, flags);
    errno = EROFS;
    return -1;
}

static void test_a_close_forgets_the_state_that_could_not_be_removed(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct waiter waiter;
    cas_disk.unlinkat = failing_state_unlinkat;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 0, &digest), ERR_OK);
    atomic_store(&fail_syncs, 1);
    atomic_store(&fail_state_unlinks, true);
    begin_sync(store->cas, NULL, &waiter);
    assert_int_equal(end_sync(&waiter), ERR_UNAVAILABLE);
    assert_true(scratch_exists(&store->scratch, "cas/state"));
    atomic_store(&fail_syncs, 0);
    atomic_store(&fail_state_unlinks, false);
    store_close(store);
    assert_false(scratch_exists(&store->scratch, "cas/state"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_sync_serves_all_that_wait, sync_setup,
                                        sync_teardown),
        cmocka_unit_test_setup_teardown(test_a_failed_sync_is_not_retried, sync_setup,
                                        sync_teardown),
        cmocka_unit_test_setup_teardown(test_a_close_that_cannot_sync_is_not_clean, sync_setup,
                                        sync_teardown),
        cmocka_unit_test_setup_teardown(test_what_a_failed_sync_dropped_is_not_trusted_later,
                                        sync_setup, sync_teardown),
        cmocka_unit_test_setup_teardown(test_a_close_forgets_the_state_that_could_not_be_removed,
                                        sync_setup, sync_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
