/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One generation of one shard of the digest table: its file, its slots, and where in them a key is.
 * Every byte of the file may be anything.
 */
#ifndef ASSETD_STORE_DIGEST_SHARD_H
#define ASSETD_STORE_DIGEST_SHARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/digest_set.h"
#include "base/err.h"
#include "store/cas_record.h"
#include "store/cas_shared.h"

/* The hash is written once, before size_function, which is 0 in a slot that was never used. */
struct digest_slot {
    uint64_t hash[2];
    _Atomic uint64_t size_function;
    _Atomic uint64_t place;
};

_Static_assert(sizeof(struct digest_slot) == 32, "two in a line of the processor's cache");

enum {
    DIGEST_SHARD_PAGE = 4096, /* of the file: the smallest shard */
    DIGEST_SHARD_PAGE_SLOTS = DIGEST_SHARD_PAGE / (int)sizeof(struct digest_slot),
    DIGEST_SHARD_PAGES_MAX = 1 << 19, /* as many slots as there are hashes of a shard's keys */
};

/* A file, mapped. */
struct digest_shard {
    uint64_t word; /* what the shared header says of it */
    struct digest_slot *slots;
    uint32_t count;            /* of slots */
    int64_t bytes;             /* on disk */
    struct digest_shard *next; /* the table's: among those that are to be unmapped */
};

/* --- files in the directory TABLE_FD --- */

/* What the shared header says of the shard INDEX: its generation and how many pages it has. */
static inline uint64_t digest_shard_word(const struct cas_shared *shared, unsigned index)
{
    return atomic_load_explicit(&shared->header->shards[index], memory_order_acquire);
}

/* The same for the generation behind it. */
static inline uint64_t digest_shard_next_word(uint64_t word, uint32_t pages)
{
    return ((word >> 32) + 1) << 32 | pages;
}

/* Opens the file that is published now. ERR_DATA_LOSS: it is missing or has the wrong size. */
int digest_shard_open(const struct cas_shared *shared, int table_fd, unsigned index,
                      struct digest_shard **shard, struct err *err);

/* Makes an empty file, which is not published yet, with all its blocks. */
int digest_shard_make(int table_fd, unsigned index, uint64_t word, struct digest_shard **shard,
                      struct err *err);

void digest_shard_close(struct digest_shard *shard); /* or NULL */
int digest_shard_unlink(int table_fd, unsigned index, uint64_t word, struct err *err);

/* Makes the published file durable, which nobody replaces meanwhile. */
int digest_shard_sync(const struct cas_shared *shared, int table_fd, unsigned index,
                      struct err *err);

/* Removes all files but those that are published. */
int digest_shard_sweep(const struct cas_shared *shared, int table_fd, struct err *err);

/* --- slots --- */

/* The lower bits of a hash choose the shard, the upper ones the slot. */
static inline uint32_t digest_shard_hash(const struct cas_shared *shared, const void *hash,
                                         uint64_t size_function)
{
    return digest_keys_hash(&shared->header->keys, hash, CAS_KEY_HASH, (int64_t)size_function);
}

static inline unsigned digest_shard_index(uint32_t hash)
{
    return hash % CAS_SHARDS;
}

static inline uint32_t digest_shard_first(const struct digest_shard *shard, uint32_t hash)
{
    return (uint32_t)((uint64_t)hash * shard->count >> 32);
}

/*
 * The slot of the key of KEY_HASH, 16 bytes, and SIZE_FUNCTION, or the free one where it belongs;
 * NULL: it is not there, and none is free.
 */
static inline struct digest_slot *digest_shard_probe(const struct digest_shard *shard,
                                                     uint32_t hash, const void *key_hash,
                                                     uint64_t size_function, bool *found)
{
    uint64_t words[2];
    memcpy(words, key_hash, sizeof(words));
    uint32_t at = digest_shard_first(shard, hash);
    *found = false;
    for (uint32_t i = 0; i < shard->count; i++) {
        struct digest_slot *slot = &shard->slots[at];
        /* Acquire: the rest of the slot was written before it. */
        uint64_t there = atomic_load_explicit(&slot->size_function, memory_order_acquire);
        if (there == 0)
            return slot;
        if (there == size_function && slot->hash[0] == words[0] && slot->hash[1] == words[1]) {
            *found = true;
            return slot;
        }
        at = at + 1 < shard->count ? at + 1 : 0;
    }
    return NULL;
}

/* Fills a free slot, for those who find at the same time. */
static inline void digest_slot_fill(struct digest_slot *slot, const void *key_hash,
                                    uint64_t size_function, uint64_t place)
{
    memcpy(slot->hash, key_hash, sizeof(slot->hash));
    atomic_store_explicit(&slot->place, place, memory_order_relaxed);
    atomic_store_explicit(&slot->size_function, size_function, memory_order_release);
}

/* Whether SIZE_FUNCTION and PLACE, which may be anything, lead to a record that is trusted. */
bool digest_slot_is_live(const struct cas_shared *shared, uint64_t size_function, uint64_t place);

#endif
