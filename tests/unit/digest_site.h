/* SPDX-License-Identifier: Apache-2.0 */
/* A digest table with its shared file in a temporary folder, and keys to put into it. */
#ifndef ASSETD_TESTS_DIGEST_SITE_H
#define ASSETD_TESTS_DIGEST_SITE_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "scratch.h"
#include "store/digest_table.h"
#include "store/disk.h"

#define STORE_ID "0123456789abcdef0123456789abcdef"

enum {
    PAGE = 4096,
    PAGE_SLOTS = 128,
    BLOB_SIZE = 100,
    MANY = 20000, /* keys that make every shard grow more than once */
};

/* One opening of the store, as each process has one. */
struct opening {
    struct cas_shared shared;
    struct digest_table *table;
};

struct site {
    struct scratch scratch;
    struct disk disk; /* the real one */
    int fd;
    int table_fd;
    struct opening writer;
    struct cas_segment *segment; /* where everything is trusted */
};

static inline int open_store(struct site *site, struct opening *opening, struct err *err)
{
    bool is_new;
    int rc = cas_shared_open(site->fd, STORE_ID, true, &opening->shared, &is_new, err);
    if (rc == 0 && is_new)
        rc = digest_table_reset(&opening->shared, site->table_fd, 0, err);
    if (rc != 0)
        return rc;
    rc = digest_table_open(&opening->shared, site->table_fd, &opening->table, err);
    if (rc != 0)
        cas_shared_close(&opening->shared);
    return rc;
}

static inline void close_store(struct opening *opening)
{
    digest_table_close(opening->table);
    cas_shared_close(&opening->shared);
}

static inline void must_open(struct site *site, struct opening *opening)
{
    struct err err;
    if (open_store(site, opening, &err) != 0)
        fail_msg("%s", err.msg);
}

static inline struct cas_segment *begin_segment(struct site *site)
{
    struct cas_segment *segment = NULL;
    struct err err;
    assert_int_equal(cas_segment_begin(&site->writer.shared, &segment, &err), 0);
    atomic_store(&segment->trusted, (uint64_t)1 << 30);
    return segment;
}

static inline int setup(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    char path[PATH_MAX];
    *state = site;
    scratch_init(&site->scratch);
    site->disk = disk;
    site->fd = open(site->scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    (void)mkdir(scratch_path(&site->scratch, "table", path), 0750);
    site->table_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must_open(site, &site->writer);
    site->segment = begin_segment(site);
    log_set_level(LOG_LEVEL_ERROR);
    return 0;
}

static inline int teardown(void **state)
{
    struct site *site = *state;
    disk = site->disk;
    log_set_level(LOG_LEVEL_INFO);
    close_store(&site->writer);
    (void)close(site->fd);
    (void)close(site->table_fd);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

/* The key NUMBER of the test, whose hash looks like any other. */
static inline struct cas_key key_of(uint64_t number)
{
    struct cas_key key = {.size_function = (uint64_t)BLOB_SIZE << 8 | DIGEST_SHA256};
    for (unsigned i = 0; i < 2; i++) {
        uint64_t word = (number * 2 + i + 1) * 0x9e3779b97f4a7c15;
        word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
        word = (word ^ word >> 27) * 0x94d049bb133111eb;
        word ^= word >> 31;
        memcpy(key.hash + i * sizeof(word), &word, sizeof(word));
    }
    return key;
}

static inline uint64_t place_of(const struct cas_segment *segment, uint64_t number)
{
    return cas_place(segment->number, (number + 4) * 16);
}

static inline int put_one(struct site *site, uint64_t number, struct err *err)
{
    struct cas_key key = key_of(number);
    uint64_t there;
    return digest_table_add(site->writer.table, &key, place_of(site->segment, number), &there, err);
}

static inline void put(struct site *site, uint64_t first, uint64_t end)
{
    struct err err;
    for (uint64_t i = first; i < end; i++)
        if (put_one(site, i, &err) != 0)
            fail_msg("%s", err.msg);
}

/* The place that is found, or 0. */
static inline uint64_t find(struct digest_table *table, uint64_t number)
{
    struct cas_key key = key_of(number);
    digest_table_enter(table);
    digest_table_prefetch(table, &key);
    _Atomic uint64_t *place = digest_table_find(table, &key);
    uint64_t found = place != NULL ? atomic_load(place) : 0;
    digest_table_leave(table);
    return found;
}

static inline void expect_all(struct site *site, struct digest_table *table, uint64_t first,
                              uint64_t end)
{
    for (uint64_t i = first; i < end; i++)
        assert_int_equal(find(table, i), place_of(site->segment, i));
}

static inline unsigned count_files(struct site *site)
{
    char path[PATH_MAX];
    unsigned count = 0;
    DIR *directory = opendir(scratch_path(&site->scratch, "table", path));
    struct dirent *found;
    while ((found = readdir(directory)) != NULL)
        count += found->d_name[0] != '.';
    (void)closedir(directory);
    return count;
}

static inline uint64_t blobs(struct site *site)
{
    return atomic_load(&site->writer.shared.header->blobs);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
