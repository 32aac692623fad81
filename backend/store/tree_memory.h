/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered within a bound of memory: that which was used longest ago goes first. */
#ifndef ASSETD_STORE_TREE_MEMORY_H
#define ASSETD_STORE_TREE_MEMORY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Stands first in what is remembered, which is one block of malloc. */
struct tree_entry {
    struct tree_entry *chain; /* of its bucket */
    struct tree_entry *older; /* in the order of use */
    struct tree_entry *newer;
    size_t bytes;   /* of all of it; set by who makes it */
    uint32_t hash;  /* of its key, under keys that clients do not know; set by who makes it */
    unsigned pins;  /* who looks at it, and the memory itself; freed by the last. 1 to begin */
    bool is_listed; /* in the memory */
};

/* Embedded. Any thread; its lock is held for a few entries at a time. */
struct tree_memory {
    pthread_mutex_t lock;
    bool (*has_key)(const struct tree_entry *entry, const void *key);
    size_t limit; /* bytes, the buckets not counted */
    size_t bytes;
    struct tree_entry *oldest;
    struct tree_entry *newest;
    size_t bucket_mask;
    struct tree_entry **buckets;
};

/* LIMIT: bytes that it may take in all. */
int tree_memory_init(struct tree_memory *memory, size_t limit,
                     bool (*has_key)(const struct tree_entry *entry, const void *key),
                     struct err *err);

/* Nothing is pinned. A zeroed one is fine. */
void tree_memory_fini(struct tree_memory *memory);

/* The entry of KEY, pinned and used just now; NULL if none is remembered. */
struct tree_entry *tree_memory_get(struct tree_memory *memory, uint32_t hash, const void *key);

/* Remembers ENTRY, which its maker keeps pinned, unless it is too large or KEY has one already. */
void tree_memory_add(struct tree_memory *memory, struct tree_entry *entry, const void *key);

/* Forgets a pinned entry, if that has not happened yet. */
void tree_memory_drop(struct tree_memory *memory, struct tree_entry *entry);
void tree_memory_unpin(struct tree_memory *memory, struct tree_entry *entry);

#endif
