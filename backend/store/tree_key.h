/* SPDX-License-Identifier: Apache-2.0 */
/* The keys under which lists of digests are remembered. */
#ifndef ASSETD_STORE_TREE_KEY_H
#define ASSETD_STORE_TREE_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/tree.h"

enum { TREE_KEY_WORDS = 4, TREE_KEY_SIZE = TREE_KEY_WORDS * (int)sizeof(uint64_t) };

/* Makes keys. Read only once it is made; any thread. */
struct tree_keys {
    uint64_t secret[TREE_KEY_WORDS]; /* random, and odd */
};

/*
 * What lists are remembered by: a SHA-256 that begins with random bytes, which no client knows, or
 * all of a label, one word of it mixed with the others by random factors. So lists whose keys are
 * the same cannot be looked for; nor can keys be chosen that share a bucket.
 */
struct tree_key {
    uint64_t words[TREE_KEY_WORDS]; /* the first one is for tables */
};

/* ERR_UNAVAILABLE: there are no random numbers. */
int tree_keys_init(struct tree_keys *keys, struct err *err);

/* The key of LISTS, of which the empty ones count for nothing. */
int tree_keys_make(const struct tree_keys *keys, const struct tree_list *lists, size_t list_count,
                   struct tree_key *key, struct err *err);

/* The key of LABEL, which is none of lists. */
void tree_keys_label(const struct tree_keys *keys, const struct tree_label *label,
                     struct tree_key *key);

bool tree_key_equal(const struct tree_key *one, const struct tree_key *other);

/* 32 bits of KEY, for tables. */
uint32_t tree_key_hash(const struct tree_key *key);

#endif
