/* SPDX-License-Identifier: Apache-2.0 */
/* The key under which lists of digests are remembered. */
#ifndef ASSETD_STORE_TREE_KEY_H
#define ASSETD_STORE_TREE_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/tree.h"

enum { TREE_KEY_SIZE = 16 };

/* Makes keys. Read only once it is made; any thread. */
struct tree_keys {
    uint8_t secret[TREE_KEY_SIZE];
};

/*
 * What lists are remembered by: 128 bits of a SHA-256 that begins with random bytes, which no
 * client knows. So lists whose keys are the same cannot be looked for, only be met by chance, one
 * in 2^128 for two of them; nor can keys be chosen that share a bucket.
 */
struct tree_key {
    uint8_t bytes[TREE_KEY_SIZE];
};

/* ERR_UNAVAILABLE: there are no random numbers. */
int tree_keys_init(struct tree_keys *keys, struct err *err);

/* The key of LISTS, of which the empty ones count for nothing. */
int tree_keys_make(const struct tree_keys *keys, const struct tree_list *lists, size_t list_count,
                   struct tree_key *key, struct err *err);

/* 32 bits of KEY, for tables. */
uint32_t tree_key_hash(const struct tree_key *key);

#endif
