/* SPDX-License-Identifier: Apache-2.0 */
/* A store with what is known of its trees, for tests. */
#ifndef ASSETD_TESTS_TREES_H
#define ASSETD_TESTS_TREES_H

#include "store/disk.h"
#include "store/tree.h"
#include "store_blobs.h"

struct trees {
    struct store store; /* first: its functions take it as the test's state */
    struct tree_cache *cache;
    struct tree_missing missing;
    struct err err;
};

static inline void trees_open(struct trees *trees, int64_t quota, size_t cache_limit)
{
    store_open(&trees->store, quota);
    assert_int_equal(tree_cache_new(trees->store.cas, cache_limit, &trees->cache, &trees->err), 0);
}

static inline void trees_close(struct trees *trees)
{
    tree_cache_free(trees->cache);
    store_close(&trees->store);
}

/* Begins with an empty store, read by READ_AT. */
static inline int trees_setup(void **state, int64_t quota, size_t cache_limit,
                              ssize_t (*read_at)(int, void *, size_t, off_t))
{
    struct trees *trees = calloc(1, sizeof(*trees));
    scratch_init(&trees->store.scratch);
    disk.pread = read_at;
    trees_open(trees, quota, cache_limit);
    *state = trees;
    return 0;
}

static inline int trees_teardown(void **state)
{
    struct trees *trees = *state;
    tree_cache_free(trees->cache);
    int rc = store_teardown(state);
    disk.pread = pread;
    return rc;
}

/* tree_check of some blobs and some directories. */
static inline int check_lists(struct trees *trees, const struct digest *blobs, size_t blob_count,
                              const struct digest *directories, size_t directory_count)
{
    struct cas_hold hold;
    const struct tree_list lists[] = {{blobs, blob_count, false},
                                      {directories, directory_count, true}};
    cas_hold_begin(trees->store.cas, &hold);
    int rc = tree_check(trees->cache, &hold, lists, 2, NULL, &trees->missing, &trees->err);
    cas_hold_end(&hold);
    return rc;
}

static inline int check_lists_remembered(struct trees *trees, const struct digest *blobs,
                                         size_t blob_count, const struct digest *directories,
                                         size_t directory_count)
{
    struct cas_hold hold;
    const struct tree_list lists[] = {{blobs, blob_count, false},
                                      {directories, directory_count, true}};
    cas_hold_begin(trees->store.cas, &hold);
    int rc =
        tree_check_remembered(trees->cache, &hold, lists, 2, NULL, &trees->missing, &trees->err);
    cas_hold_end(&hold);
    return rc;
}

#endif
