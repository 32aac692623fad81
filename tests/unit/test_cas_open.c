/* SPDX-License-Identifier: Apache-2.0 */
/* What a CAS keeps over a stop, a kill, a power cut and a failed sync. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "store/cas_private.h"
#include "store_blobs.h"

enum { QUOTA = 8 * MIB };

static void test_a_restart_keeps_content_and_order(void **state)
{
    struct store *store = *state;
    struct digest digests[5];
    store_open(store, QUOTA);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put_blob(store->cas, NULL, 3 * MIB / 2, i, &digests[i]), ERR_OK);
    assert_true(is_there(store->cas, &digests[0]));
    uint64_t bytes = stats_of(store->cas).bytes;
    store_reopen(store, QUOTA);
    assert_int_equal(stats_of(store->cas).blobs, 4);
    assert_int_equal(stats_of(store->cas).bytes, bytes);
    for (uint64_t i = 0; i < 2; i++)
        assert_int_equal(put_blob(store->cas, NULL, 3 * MIB / 2, 10 + i, &digests[4]), ERR_OK);
    bool present[4];
    cas_find(store->cas, NULL, digests, 4, present);
    assert_true(present[0]);
    assert_false(present[1]);
    assert_true(present[2]);
    assert_int_equal(get_blob(store->cas, 3 * MIB / 2, 0), ERR_OK);
}

static void test_uploads_are_emptied_and_short_files_dropped(void **state)
{
    struct store *store = *state;
    struct digest digest;
    char path[PATH_MAX];
    char joined[PATH_MAX];
    store_open(store, QUOTA);
    uint64_t bytes = stats_of(store->cas).bytes;
    assert_int_equal(put_blob(store->cas, NULL, MIB, 0, &digest), ERR_OK);
    store_close(store);
    scratch_write(&store->scratch, "cas/uploads/7", "half an upload");
    assert_int_equal(
        truncate(scratch_path(&store->scratch, blob_path(&digest, path), joined), 1000), 0);
    scratch_write(&store->scratch, "cas/blobs/README", "of a person who was curious");
    store_open(store, QUOTA);
    assert_false(scratch_exists(&store->scratch, "cas/uploads/7"));
    assert_false(scratch_exists(&store->scratch, path));
    assert_false(is_there(store->cas, &digest));
    /* What is not ours is left, and counted. */
    assert_true(scratch_exists(&store->scratch, "cas/blobs/README"));
    assert_true(stats_of(store->cas).bytes > bytes);
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
}

/* Fills a store in a process that ends without closing it. */
static void fill_and_die(struct store *store)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct digest digest;
        store_open(store, QUOTA);
        enum err_code code = ERR_OK;
        for (uint64_t i = 0; i < 4 && code == ERR_OK; i++)
            code = put_blob(store->cas, NULL, 100000, i, &digest);
        _exit(code == ERR_OK ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static uint64_t suspects(struct cas *cas)
{
    (void)pthread_mutex_lock(&cas->lock);
    uint64_t count = cas->suspects;
    (void)pthread_mutex_unlock(&cas->lock);
    return count;
}

static void test_a_kill_keeps_what_was_stored(void **state)
{
    struct store *store = *state;
    fill_and_die(store);
    store_open(store, QUOTA);
    assert_int_equal(suspects(store->cas), 0);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(get_blob(store->cas, 100000, i), ERR_OK);
}

/* While this is not zero, the disk is slow: nothing is verified in the background. */
static atomic_int stop_reads;

static ssize_t slow_pread(int fd, void *buffer, size_t size, off_t offset)
{
    while (atomic_load(&stop_reads) != 0)
        (void)usleep(1000);
    return pread(fd, buffer, size, offset);
}

static char *state_of(const struct store *store, char text[128])
{
    char path[PATH_MAX];
    FILE *file = fopen(scratch_path(&store->scratch, "cas/state", path), "r");
    assert_non_null(file);
    assert_non_null(fgets(text, 128, file));
    (void)fclose(file);
    return text;
}

static void test_after_a_power_cut_blobs_are_verified_first(void **state)
{
    struct store *store = *state;
    struct digest digests[4];
    char path[PATH_MAX];
    char text[128];
    bool present[4];
    enum cas_presence presence[4];
    for (uint64_t i = 0; i < 4; i++)
        free(make_blob(100000, i, &digests[i]));
    fill_and_die(store);
    scratch_write(&store->scratch, "cas/state", "another-boot running\n");
    scratch_flip(&store->scratch, blob_path(&digests[1], path), 70000);
    cas_disk.pread = slow_pread;
    atomic_store(&stop_reads, 1);
    store_open(store, QUOTA);
    /* Nothing is claimed before it is verified, and the cut is not forgotten. */
    cas_find_nowait(store->cas, NULL, digests, 4, presence);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(presence[i], CAS_UNVERIFIED);
    assert_string_equal(state_of(store, text), "another-boot running\n");
    atomic_store(&stop_reads, 0);
    cas_find(store->cas, NULL, digests, 4, present);
    assert_true(present[0]);
    assert_false(present[1]);
    assert_true(present[2]);
    assert_true(present[3]);
    assert_false(scratch_exists(&store->scratch, path));
    assert_int_equal(stats_of(store->cas).broken, 1);
    cas_find_nowait(store->cas, NULL, digests, 4, presence);
    assert_int_equal(presence[0], CAS_PRESENT);
    assert_int_equal(presence[1], CAS_ABSENT);
    store_close(store);
    cas_disk.pread = pread;
}

static void test_suspects_are_verified_in_the_background(void **state)
{
    struct store *store = *state;
    struct digest digest;
    char path[PATH_MAX];
    char text[128];
    fill_and_die(store);
    scratch_write(&store->scratch, "cas/state", "another-boot running\n");
    free(make_blob(100000, 2, &digest));
    scratch_flip(&store->scratch, blob_path(&digest, path), 0);
    store_open(store, QUOTA);
    while (strcmp(state_of(store, text), "another-boot running\n") == 0)
        (void)usleep(1000);
    assert_int_equal(suspects(store->cas), 0);
    assert_false(scratch_exists(&store->scratch, path));
    assert_int_equal(stats_of(store->cas).blobs, 3);
    store_close(store);
    assert_non_null(strstr(state_of(store, text), " clean\n"));
    /* After a clean stop another boot is no power cut. */
    scratch_write(&store->scratch, "cas/state", "another-boot clean\n");
    store_open(store, QUOTA);
    assert_int_equal(suspects(store->cas), 0);
    assert_non_null(strstr(state_of(store, text), " running\n"));
    store_close(store);
    /* Without any record nothing is trusted. */
    scratch_write(&store->scratch, "cas/state", "");
    cas_disk.pread = slow_pread;
    atomic_store(&stop_reads, 1);
    store_open(store, QUOTA);
    assert_int_equal(suspects(store->cas), 3);
    atomic_store(&stop_reads, 0);
    store_close(store);
    cas_disk.pread = pread;
}

/* Durability. */

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

static int sync_teardown(void **state)
{
    int rc = store_teardown(state);
    cas_disk.syncfs = syncfs;
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
    atomic_store(&fail_syncs, 1);
    store_close(store);
    assert_non_null(strstr(state_of(store, text), " running\n"));
}

static void test_another_process_is_refused(void **state)
{
    struct store *store = *state;
    store_open(store, QUOTA);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char expected[64];
        struct cas *cas;
        struct err err;
        const struct cas_options options = {.path = store->scratch.path, .quota = QUOTA};
        (void)snprintf(expected, sizeof(expected), "process %d", (int)getppid());
        int rc = cas_open(&options, &cas, &err);
        _exit(rc == -ERR_UNAVAILABLE && strstr(err.msg, expected) != NULL ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
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
    assert_true(scratch_exists(&store->scratch, "assetd/cas/blobs"));
    assert_false(scratch_exists(&store->scratch, "cas/blobs"));
    assert_true(scratch_exists(&store->scratch, "cas/objects/00"));
    store_close(store);
    scratch_write(&store->scratch, "assetd/cas/format",
                  "assetd cas 2 00112233445566778899aabbccddeeff\n");
    struct err err;
    const struct cas_options options = {.path = store->scratch.path, .quota = QUOTA};
    assert_int_equal(cas_open(&options, &store->cas, &err), -ERR_PRECONDITION);
    store->cas = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_restart_keeps_content_and_order, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_uploads_are_emptied_and_short_files_dropped,
                                        store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_a_removed_cas_is_an_empty_one, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_kill_keeps_what_was_stored, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_after_a_power_cut_blobs_are_verified_first,
                                        store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_suspects_are_verified_in_the_background, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_one_sync_serves_all_that_wait, sync_setup,
                                        sync_teardown),
        cmocka_unit_test_setup_teardown(test_a_failed_sync_is_not_retried, sync_setup,
                                        sync_teardown),
        cmocka_unit_test_setup_teardown(test_a_close_that_cannot_sync_is_not_clean, sync_setup,
                                        sync_teardown),
        cmocka_unit_test_setup_teardown(test_another_process_is_refused, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_foreign_store_is_left_alone, store_setup,
                                        store_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
