/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of directories, for the files that check trees. */
#ifndef ASSETD_STORE_TREE_PRIVATE_H
#define ASSETD_STORE_TREE_PRIVATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest_set.h"
#include "store/tree.h"
#include "store/tree_memory.h"
#include "store/tree_whole.h"

/*
 * What one directory names. That follows from its digest alone and never becomes wrong, whatever
 * goes out of the store; so trees that share directories share what is remembered of them.
 */
struct tree_directory {
    struct tree_entry entry; /* first */
    struct digest digest;
    bool has_missing; /* of the tree below it, this one was missing when it was last checked */
    struct digest missing;
    size_t directory_count;
    size_t file_count;
    uint8_t children[]; /* sizes and hashes, the directories first; no empty digests */
};

struct tree_cache {
    struct cas *cas;
    struct tree_whole whole;
    struct tree_memory directories;
    struct digest_keys keys;      /* of the directories */
    pthread_mutex_t missing_lock; /* of what is missing below each of them */
};

/* A directory of its own, with room for its children and one pin; NULL when memory is out. */
struct tree_directory *tree_directory_new(const struct digest *digest, size_t directory_count,
                                          size_t file_count);
void tree_directory_set(struct tree_directory *directory, size_t index, const struct digest *child);
void tree_directory_child(const struct tree_directory *directory, size_t index,
                          struct digest *child);

/* Pinned; NULL if it is not remembered. */
struct tree_directory *tree_cache_get(struct tree_cache *cache, const struct digest *digest);

/* Remembers DIRECTORY, which stays pinned, unless it is too large or known already. */
void tree_cache_add(struct tree_cache *cache, struct tree_directory *directory);
void tree_cache_unpin(struct tree_cache *cache, struct tree_directory *directory);

/* Remembers what is missing below the directory ROOT; MISSING NULL: nothing. */
void tree_cache_set_missing(struct tree_cache *cache, const struct digest *root,
                            const struct digest *missing);

/* What was missing below ROOT; false if nothing is known to be. */
bool tree_cache_missing(struct tree_cache *cache, const struct digest *root,
                        struct digest *missing);

#endif
