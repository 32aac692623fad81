/* SPDX-License-Identifier: Apache-2.0 */
/* Distinct digests in the order in which they came, and the hash function of tables of digests. */
#ifndef ASSETD_BASE_DIGEST_SET_H
#define ASSETD_BASE_DIGEST_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"

/* Words of 32 bits that tell a digest from others of its function: hash and size. */
enum { DIGEST_WORDS = DIGEST_HASH_MAX / 4 + 2 };

/*
 * Random keys of a hash function over digests. Who chooses the digests cannot choose them to
 * collide, as the bytes of a digest can be chosen: some of them even where content is verified.
 */
struct digest_keys {
    uint64_t keys[DIGEST_WORDS + 1];
};

int digest_keys_init(struct digest_keys *keys, struct err *err);

/* 32 bits of a hash over a digest's HASH of HASH_SIZE bytes and its SIZE. */
uint32_t digest_keys_hash(const struct digest_keys *keys, const uint8_t *hash, size_t hash_size,
                          int64_t size);

/* Embedded by its user, zeroed to begin. One thread at a time. */
struct digest_set {
    struct digest *digests; /* in the order of digest_set_add; moves when one is added */
    size_t count;
    size_t capacity;         /* of digests */
    uint32_t *slots;         /* index + 1 of a digest, 0 is free; open addressing */
    size_t slot_mask;        /* slots less one; a power of two less one */
    struct digest_keys keys; /* made with the first digest */
};

/* The set is empty again. */
void digest_set_fini(struct digest_set *set);

/* Adds DIGEST if it is not there, and tells whether it was new. All are of one function. */
int digest_set_add(struct digest_set *set, const struct digest *digest, bool *is_new,
                   struct err *err);

/* The index of DIGEST in the order of digest_set_add; SIZE_MAX if it is not there. */
size_t digest_set_index(const struct digest_set *set, const struct digest *digest);

#endif
