/* SPDX-License-Identifier: Apache-2.0 */
/* What a CAS keeps over a stop, a kill and a power cut. */
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
    assert_string_equal(state_of(&store->scratch, text), "another-boot running\n");
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
    while (strcmp(state_of(&store->scratch, text), "another-boot running\n") == 0)
        (void)usleep(1000);
    assert_int_equal(suspects(store->cas), 0);
    assert_false(scratch_exists(&store->scratch, path));
    assert_int_equal(stats_of(store->cas).blobs, 3);
    store_close(store);
    assert_non_null(strstr(state_of(&store->scratch, text), " clean\n"));
    /* After a clean stop another boot is no power cut. */
    scratch_write(&store->scratch, "cas/state", "another-boot clean\n");
    store_open(store, QUOTA);
    assert_int_equal(suspects(store->cas), 0);
    assert_non_null(strstr(state_of(&store->scratch, text), " running\n"));
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

static atomic_uint reads;
static _Atomic(struct cas *) closing;

/* Goes on when the store is being closed. */
static ssize_t waiting_pread(int fd, void *buffer, size_t size, off_t offset)
{
    struct cas *cas;
    atomic_fetch_add(&reads, 1);
    while ((cas = atomic_load(&closing)) == NULL || !atomic_load(&cas->stopping))
        (void)usleep(1000);
    return pread(fd, buffer, size, offset);
}

static void test_a_close_does_not_wait_for_a_large_suspect(void **state)
{
    struct store *store = *state;
    struct digest digest;
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, 4 * MIB, 0, &digest), ERR_OK);
    store_close(store);
    scratch_write(&store->scratch, "cas/state", "another-boot running\n");
    atomic_store(&closing, NULL);
    atomic_store(&reads, 0);
    cas_disk.pread = waiting_pread;
    store_open(store, QUOTA);
    while (atomic_load(&reads) == 0)
        (void)usleep(1000);
    atomic_store(&closing, store->cas);
    store_close(store);
    cas_disk.pread = pread;
    /* A chunk and its checksums. */
    assert_int_equal(atomic_load(&reads), 2);
    /* What was not verified to the end is a suspect still. */
    char text[128];
    assert_string_equal(state_of(&store->scratch, text), "another-boot running\n");
}

static void set_time(const struct store *store, const struct digest *digest, time_t seconds)
{
    char path[PATH_MAX];
    char joined[PATH_MAX];
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                      {.tv_sec = seconds, .tv_nsec = 709551615}};
    scratch_path(&store->scratch, blob_path(digest, path), joined);
    assert_int_equal(utimensat(AT_FDCWD, joined, times, 0), 0);
}

static void test_times_of_files_that_make_no_sense(void **state)
{
    struct store *store = *state;
    struct digest digests[5];
    struct digest more;
    store_open(store, QUOTA);
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &digests[i]), ERR_OK);
    store_close(store);
    /* As late as the counter goes, twice; as late as there is; as early; in a hundred years. */
    set_time(store, &digests[0], 18446744073);
    set_time(store, &digests[1], 18446744073);
    set_time(store, &digests[2], INT64_MAX / 4);
    set_time(store, &digests[3], -1000);
    set_time(store, &digests[4], 4900000000);
    store_open(store, QUOTA);
    assert_true(store->cas->counter < (uint64_t)INT64_MAX);
    /* The one from before the clock began goes first, the one of the future last. */
    for (uint64_t i = 10; i < 13; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &more), ERR_OK);
    assert_false(is_there(store->cas, &digests[3]));
    assert_true(is_there(store->cas, &digests[4]));
    store_reopen(store, QUOTA);
    assert_true(is_there(store->cas, &digests[4]));
}

static void test_the_order_of_many_is_kept(void **state)
{
    enum { BLOBS = 2500 };
    struct store *store = *state;
    struct digest *digests = malloc(BLOBS * sizeof(*digests));
    store_open(store, 64 * MIB);
    for (uint64_t i = 0; i < BLOBS; i++)
        assert_int_equal(put_blob(store->cas, NULL, 10, i, &digests[i]), ERR_OK);
    for (size_t i = BLOBS; i-- > 0;)
        assert_true(is_there(store->cas, &digests[i]));
    store_reopen(store, 64 * MIB);
    const struct cas_entry *entry = store->cas->table.oldest;
    for (size_t i = BLOBS; i-- > 0; entry = entry->newer) {
        struct digest digest;
        assert_non_null(entry);
        cas_entry_digest(entry, &digest);
        assert_true(digest_equal(&digest, &digests[i]));
    }
    free(digests);
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
        cmocka_unit_test_setup_teardown(test_a_close_does_not_wait_for_a_large_suspect, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_times_of_files_that_make_no_sense, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_the_order_of_many_is_kept, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_another_process_is_refused, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_foreign_store_is_left_alone, store_setup,
                                        store_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
