/* SPDX-License-Identifier: Apache-2.0 */
/* Filling the tables anew where other things happen: a close, a decision, a full disk. */
#include <errno.h>
#include <stdatomic.h>

#include "kill_site.h"

static atomic_int stop_reads;
static atomic_int has_room;

/* The headers that are read at start stand at offset 0. */
static ssize_t test_pread(int fd, void *buffer, size_t size, off_t offset)
{
    while (offset != 0 && atomic_load(&stop_reads) != 0)
        (void)usleep(1000);
    return pread(fd, buffer, size, offset);
}

static int test_fallocate(int fd, int mode, off_t offset, off_t size)
{
    if (atomic_load(&has_room) == 0 && size > 4096) {
        errno = ENOSPC;
        return -1;
    }
    return fallocate(fd, mode, offset, size);
}

static int setup(void **state)
{
    atomic_store(&stop_reads, 0);
    atomic_store(&has_room, 1);
    disk.pread = test_pread;
    disk.fallocate = test_fallocate;
    return store_setup(state);
}

static int teardown(void **state)
{
    atomic_store(&stop_reads, 0);
    int rc = store_teardown(state);
    disk.pread = pread;
    disk.fallocate = fallocate;
    return rc;
}

static bool is_decided(const struct store *store)
{
    const struct cas_segment *first = first_segment(store);
    struct cas_segment *segment;
    uint32_t index = 0;
    while ((segment = cas_segment_next(&store->cas->shared, &index)) != NULL)
        if (segment != first && atomic_load(&segment->state) == CAS_SEALED &&
            atomic_load(&segment->trusted) == 0)
            return false;
    return true;
}

/* The last one that is to be read is LEAVING. */
static void test_a_close_while_it_is_decided_does_not_end_it(void **state)
{
    struct store *store = *state;
    work_and_die(store, put_all);
    boot_again(store);
    atomic_store(&stop_reads, 1);
    store_open(store, QUOTA);
    struct cas_segment *first = first_segment(store);
    assert_int_equal(atomic_load(&first->trusted), 0);
    atomic_store(&first->state, CAS_LEAVING);
    atomic_store(&stop_reads, 0);
    /* All others have been read. */
    while (!is_decided(store))
        (void)usleep(1000);
    store_close(store);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS);
}

static void put_small(struct store *store)
{
    enum { SMALL = 40 };
    uint8_t data[64 * SMALL] = {0};
    for (uint64_t i = 0; i < 20000; i += 64) {
        struct cas_blob blobs[64];
        for (size_t j = 0; j < 64; j++) {
            uint64_t seed = i + j;
            struct err err;
            memcpy(data + j * SMALL, &seed, sizeof(seed));
            blobs[j].data = (struct span){data + j * SMALL, SMALL};
            if (digest_compute(DIGEST_SHA256, blobs[j].data.data, SMALL, &blobs[j].digest, &err) !=
                0)
                abort();
        }
        cas_put(store->cas, NULL, blobs, 64);
        for (size_t j = 0; j < 64; j++)
            if (blobs[j].err.code != ERR_OK)
                abort();
    }
}

static void test_a_full_disk_does_not_keep_it_from_beginning(void **state)
{
    struct store *store = *state;
    work_and_die(store, put_small);
    boot_again(store);
    atomic_store(&has_room, 0);
    store_open(store, QUOTA);
    /* It goes on once there is room for the table. */
    atomic_store(&has_room, 1);
    wait_until_rebuilt(store);
    assert_true(stats_of(store->cas).blobs >= 20000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_close_while_it_is_decided_does_not_end_it),
        TEST(test_a_full_disk_does_not_keep_it_from_beginning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
