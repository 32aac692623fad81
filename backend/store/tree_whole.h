/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was found whole, remembered as the segments of the log that hold it: as long as each of them
 * is there and nothing was taken out of it, all of it is.
 */
#ifndef ASSETD_STORE_TREE_WHOLE_H
#define ASSETD_STORE_TREE_WHOLE_H

#include <stdbool.h>
#include <stddef.h>

#include "store/cas.h"
#include "store/tree.h"
#include "store/tree_key.h"
#include "store/tree_memory.h"

/* Embedded. Any thread. */
struct tree_whole {
    struct tree_memory memory;
    struct tree_keys keys;
};

/* LIMIT: bytes of memory that it may take. */
int tree_whole_init(struct tree_whole *whole, size_t limit, struct err *err);

/* A zeroed one is fine. */
void tree_whole_fini(struct tree_whole *whole);

/*
 * Whether what KEY stands for is remembered and still whole; it is renewed under HOLD then, and
 * *SPREAD becomes its segments unless SPREAD is NULL. What is not whole any more is forgotten. Does
 * not block.
 */
bool tree_whole_renew(struct tree_whole *whole, struct cas *cas, struct cas_hold *hold,
                      const struct tree_key *key, struct cas_spread *spread);

/* Remembers under KEY what is in COUNT spreads together. Without memory it is not remembered. */
void tree_whole_add(struct tree_whole *whole, const struct tree_key *key,
                    const struct cas_spread *const *spreads, size_t count);

#endif
