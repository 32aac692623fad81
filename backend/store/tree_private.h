/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of the trees of one CAS, for the files that check trees. */
#ifndef ASSETD_STORE_TREE_PRIVATE_H
#define ASSETD_STORE_TREE_PRIVATE_H

#include <pthread.h>
#include <stdbool.h>

#include "store/tree.h"
#include "store/tree_directory.h"
#include "store/tree_whole.h"

struct tree_cache {
    struct cas *cas;
    struct tree_whole whole;
    struct tree_directories directories;
    pthread_mutex_t missing_lock; /* of what is missing below each of them */
};

/* Remembers what is missing below the directory ROOT; MISSING NULL: nothing. */
void tree_cache_set_missing(struct tree_cache *cache, const struct digest *root,
                            const struct digest *missing);

/* What was missing below ROOT; false if nothing is known to be. */
bool tree_cache_missing(struct tree_cache *cache, const struct digest *root,
                        struct digest *missing);

#endif
