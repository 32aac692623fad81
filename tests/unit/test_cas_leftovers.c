/* SPDX-License-Identifier: Apache-2.0 */
/* What a power cut can leave of a CAS, and a kill can not: one case after the other. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/log.h"
#include "store/disk.h"
#include "store_blobs.h"

/* Segments have 64 KiB. */
enum { QUOTA = 16 * MIB, BLOB = 5000, LARGE = 300 * 1000, RING = 4096 /* offset of it */ };

static void write_at(const struct store *store, const char *path, const void *bytes, size_t size,
                     off_t offset)
{
    char joined[PATH_MAX];
    int fd = open(scratch_path(&store->scratch, path, joined), O_RDWR | O_CREAT, 0640);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, offset), size);
    assert_int_equal(close(fd), 0);
}

/* The machine has started again since, and the store had not been closed. */
static void cut_power(const struct store *store)
{
    static const char boot_id[40] = "00000000-another-boot";
    const uint32_t clean = 0;
    write_at(store, "cas/shared", boot_id, sizeof(boot_id),
             offsetof(struct cas_shared_header, boot_id));
    write_at(store, "cas/shared", &clean, sizeof(clean), offsetof(struct cas_shared_header, clean));
}

static void write_number(const struct store *store, uint64_t index, uint64_t number)
{
    write_at(store, "cas/shared", &number, sizeof(number),
             RING + (off_t)(index * sizeof(struct cas_segment)) +
                 (off_t)offsetof(struct cas_segment, number));
}

static void put_and_die(struct store *store, uint64_t count)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        store_open(store, QUOTA);
        for (uint64_t i = 0; i < count; i++) {
            struct digest digest;
            if (put_blob(store->cas, NULL, BLOB, i, &digest) != ERR_OK)
                _exit(1);
        }
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void wait_until_rebuilt(const struct store *store)
{
    while (atomic_load(&store->cas->shared.header->rebuilding) != CAS_REBUILT)
        (void)usleep(1000);
}

static uint64_t next_number(uint64_t number)
{
    return number + ((uint64_t)1 << CAS_SEGMENT_INDEX_BITS);
}

/* The removal of its file was not durable, and what took its place is gone as well. */
static void test_an_evicted_segment_is_back(void **state)
{
    struct store *store = *state;
    struct digest digest;
    char path[64];
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, BLOB, 1, &digest), ERR_OK);
    uint64_t number = atomic_load(&segment_of(store->cas, &digest)->number);
    store_close(store);
    (void)snprintf(path, sizeof(path), "cas/log/%016llx", (unsigned long long)number);
    assert_true(scratch_exists(&store->scratch, path));
    cut_power(store);
    write_number(store, number % CAS_SEGMENTS_MAX, next_number(number));

    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_false(scratch_exists(&store->scratch, path));
    assert_int_equal(get_blob(store->cas, BLOB, 1), ERR_NOT_FOUND);
    assert_int_equal(put_blob(store->cas, NULL, BLOB, 1, &digest), ERR_OK);
    store_reopen(store, QUOTA);
    assert_int_equal(get_blob(store->cas, BLOB, 1), ERR_OK);
}

/* The same, where the first page of the shared file is older than those behind it. */
static void test_the_ring_is_newer_than_its_size(void **state)
{
    struct store *store = *state;
    struct digest digest;
    uint8_t bytes[1000] = {0};
    store_open(store, QUOTA);
    assert_int_equal(put_blob(store->cas, NULL, BLOB, 1, &digest), ERR_OK);
    uint32_t capacity = atomic_load(&store->cas->shared.header->capacity);
    store_close(store);
    uint64_t index = capacity + 5;
    uint64_t number = (uint64_t)1 << CAS_SEGMENT_INDEX_BITS | index;
    char path[64];
    (void)snprintf(path, sizeof(path), "cas/log/%016llx", (unsigned long long)number);
    write_at(store, path, bytes, sizeof(bytes), 0);
    cut_power(store);
    write_number(store, index, next_number(number));

    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_true(atomic_load(&store->cas->shared.header->capacity) > index);
    assert_false(scratch_exists(&store->scratch, path));
    assert_int_equal(get_blob(store->cas, BLOB, 1), ERR_OK);
}

/*
 * A record was torn, and one behind it is whole. A table of contents is made of headers, and would
 * offer the torn one after the next power cut.
 */
static void test_a_segment_with_a_torn_record_is_not_sealed(void **state)
{
    struct store *store = *state;
    struct digest digests[3];
    struct cas_found found;
    char path[PATH_MAX];
    struct err err;
    const struct cas_options options = {.path = store->scratch.path, .quota = QUOTA};
    put_and_die(store, 3);
    assert_int_equal(cas_open(&options, &store->cas, &err), 0);
    for (uint64_t i = 0; i < 3; i++)
        free(make_blob(BLOB, i, &digests[i]));
    off_t begin = blob_place(store, &digests[1], path);
    store_close(store);
    scratch_flip(&store->scratch, path, begin + 100);
    cut_power(store);

    /* A process that only reads evacuates nothing. */
    assert_int_equal(cas_open(&options, &store->cas, &err), 0);
    wait_until_rebuilt(store);
    assert_int_equal(presence_of(store->cas, &digests[0]), CAS_PRESENT);
    assert_int_equal(presence_of(store->cas, &digests[1]), CAS_ABSENT);
    assert_int_equal(cas_look_up(store->cas, NULL, &digests[2], &found), CAS_PRESENT);
    const struct cas_segment *segment = segment_of(store->cas, &digests[2]);
    assert_int_equal(atomic_load(&segment->state), CAS_SEALED);
    assert_true((atomic_load(&segment->flags) & CAS_SEGMENT_BROKEN) != 0);
    store_close(store);

    /* Who writes evacuates it. */
    store_open(store, QUOTA);
    while (segment_of(store->cas, &digests[2]) == segment)
        (void)usleep(1000);
    assert_int_equal(get_blob(store->cas, BLOB, 0), ERR_OK);
    assert_int_equal(get_blob(store->cas, BLOB, 1), ERR_NOT_FOUND);
    assert_int_equal(get_blob(store->cas, BLOB, 2), ERR_OK);
}

/* --- uploads before all is known --- */

static atomic_int stop_reads;

/* The headers that are read at start stand at offset 0. */
static ssize_t stopping_pread(int fd, void *buffer, size_t size, off_t offset)
{
    while (offset != 0 && atomic_load(&stop_reads) != 0)
        (void)usleep(1000);
    return pread(fd, buffer, size, offset);
}

static bool is_durable(struct cas *cas, const struct digest *digest)
{
    const struct cas_segment *segment = segment_of(cas, digest);
    return atomic_load(&segment->durable) == atomic_load(&segment->trusted);
}

/*
 * The blob was pushed, and is uploaded again before it is found. The first record is not carried
 * forward any more, so the second one has to be as good.
 */
static void test_what_is_uploaded_before_it_is_found_is_durable(void **state)
{
    struct store *store = *state;
    struct digest small;
    struct digest large;
    struct cas_writer *writer;
    struct err err;
    uint8_t *bytes = make_blob(LARGE, 7, &large);
    put_and_die(store, 3);
    cut_power(store);
    atomic_store(&stop_reads, 1);
    disk.pread = stopping_pread;
    store_open(store, QUOTA);

    enum err_code put = put_blob(store->cas, NULL, BLOB, 0, &small);
    bool is_small_durable = is_durable(store->cas, &small);
    int rc = cas_writer_open(store->cas, &large, &writer, &err);
    if (rc == 0)
        rc = cas_writer_append(writer, bytes, LARGE, &err);
    if (rc == 0)
        rc = cas_writer_commit(writer, &err);
    bool is_large_durable = is_durable(store->cas, &large);

    atomic_store(&stop_reads, 0);
    wait_until_rebuilt(store);
    free(bytes);
    assert_int_equal(put, ERR_OK);
    assert_int_equal(rc, 0);
    assert_true(is_small_durable);
    assert_true(is_large_durable);
    /* What is known not to be there is not synced. */
    assert_int_equal(put_blob(store->cas, NULL, BLOB, 8, &small), ERR_OK);
    assert_false(is_durable(store->cas, &small));
}

/* Threads of the store read as long as it is open. */
static int teardown_reads(void **state)
{
    int rc = store_teardown(state);
    disk.pread = pread;
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_evicted_segment_is_back, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_the_ring_is_newer_than_its_size, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_segment_with_a_torn_record_is_not_sealed,
                                        store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_uploaded_before_it_is_found_is_durable,
                                        store_setup, teardown_reads),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
