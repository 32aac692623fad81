/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that end without closing their CAS, and machines that start again. */
#ifndef ASSETD_TESTS_KILL_SITE_H
#define ASSETD_TESTS_KILL_SITE_H

#include <stddef.h>
#include <sys/wait.h>

#include "store/disk.h"
#include "store_blobs.h"

/* Segments have 64 KiB. */
enum { QUOTA = 16 * MIB, BLOBS = 100, BLOB = 5000 };

static inline void put_blobs(struct cas *cas, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        struct digest digest;
        if (put_blob(cas, NULL, BLOB, i, &digest) != ERR_OK)
            abort();
    }
}

/* WORK is done on the open store by a process that ends where that returns, or before. */
static inline void work_and_die(struct store *store, void (*work)(struct store *store))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        store_open(store, QUOTA);
        work(store);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static inline void put_all(struct store *store)
{
    put_blobs(store->cas, 0, BLOBS);
}

/* The machine has started again since; the store had not been closed. */
static inline void boot_again(const struct store *store)
{
    struct cas_shared_header header;
    char path[PATH_MAX];
    int fd = open(scratch_path(&store->scratch, "cas/shared", path), O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &header, sizeof(header), 0), sizeof(header));
    memset(header.boot_id, 0, sizeof(header.boot_id));
    memcpy(header.boot_id, "another-boot", strlen("another-boot"));
    atomic_init(&header.clean, 0);
    assert_int_equal(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
    assert_int_equal(close(fd), 0);
}

static inline bool is_rebuilt(const struct store *store)
{
    return atomic_load(&store->cas->shared.header->rebuilding) == CAS_REBUILT;
}

static inline void wait_until_rebuilt(const struct store *store)
{
    while (!is_rebuilt(store))
        (void)usleep(1000);
}

static inline void expect_blobs(struct store *store, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        assert_int_equal(get_blob(store->cas, BLOB, i), ERR_OK);
}

/* The segment that was begun first. */
static inline struct cas_segment *first_segment(const struct store *store)
{
    struct cas_segment *first = NULL;
    struct cas_segment *segment;
    uint32_t index = 0;
    while ((segment = cas_segment_next(&store->cas->shared, &index)) != NULL)
        if (first == NULL || atomic_load(&segment->sequence) < atomic_load(&first->sequence))
            first = segment;
    assert_non_null(first);
    return first;
}

#endif
