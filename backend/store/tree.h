/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completeness: whether a directory is there with everything below it (REAPI, Directory). Trees
 * that were found whole are remembered, so that asking again costs next to nothing.
 */
#ifndef ASSETD_STORE_TREE_H
#define ASSETD_STORE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "store/cas.h"

/* What is known of the trees of one CAS. Any thread. */
struct tree_cache;

/* LIMIT: bytes of memory that it may take, half of it for directories, half for what was whole. */
int tree_cache_new(struct cas *cas, size_t limit, struct tree_cache **cache, struct err *err);
void tree_cache_free(struct tree_cache *cache);

/* Distinct directories of one tree, or of those that are checked together. */
enum { TREE_DIRECTORIES_MAX = 1 << 19 };

/*
 * The first digests that were found missing, and how many distinct ones there are as far as is
 * known: what a missing directory names is not.
 */
enum { TREE_MISSING_MAX = 16 };
struct tree_missing {
    struct digest digests[TREE_MISSING_MAX];
    size_t count; /* may be larger than the array */
};

/* Blobs, or directories with all below them. */
struct tree_list {
    const struct digest *digests;
    size_t count;
    bool are_directories;
};

/*
 * What lists are known by to who asks for them: under the same label there are always the same
 * lists, so that they need not be gone through to be found again.
 */
struct tree_label {
    uint8_t name[16]; /* half of a hash; VERSION tells apart what shares it */
    uint64_t version; /* of what has that name */
    int64_t time;     /* of that version */
};

/*
 * Checks that all of LISTS is there, each distinct directory once, and renews the life of all of it
 * under HOLD, whose spread is used meanwhile. ERR_PRECONDITION: some are missing, see MISSING.
 * ERR_INVALID: a directory is no Directory message, or larger than one may be; its digest is in the
 * message; or there are too many. ERR_UNAVAILABLE: nothing is known to be missing, but some cannot
 * be read at present. The empty directory is always there. Blocks on the disk unless all is
 * remembered. The same lists asked again, and each of a few directories by itself, cost a look at
 * the segments that hold them; with a LABEL, which may be NULL, whatever their length.
 */
int tree_check(struct tree_cache *cache, struct cas_hold *hold, const struct tree_list *lists,
               size_t list_count, const struct tree_label *label, struct tree_missing *missing,
               struct err *err);

/* Digests that are looked up where that must not take long: about a millisecond of work. */
enum { TREE_NOWAIT_MAX = 4096 };

/*
 * The same without touching the disk, and only until something is found missing: then MISSING has
 * at least one digest, not all. ERR_UNAVAILABLE: it is not remembered to be whole, and not all of
 * its directories are, or it is more than TREE_NOWAIT_MAX; ask tree_check.
 */
int tree_check_remembered(struct tree_cache *cache, struct cas_hold *hold,
                          const struct tree_list *lists, size_t list_count,
                          const struct tree_label *label, struct tree_missing *missing,
                          struct err *err);

/*
 * The digests of the files and of the directories that one Directory message names, through two
 * callbacks; either may be NULL. False from a callback ends the scan. ERR_INVALID: no Directory;
 * the callbacks may have been called for what stands before the fault.
 */
struct tree_visitor {
    bool (*file)(void *context, const struct digest *digest);
    bool (*directory)(void *context, const struct digest *digest);
    void *context;
};
int tree_scan(enum digest_function function, struct span message,
              const struct tree_visitor *visitor, struct err *err);

#endif
