/* SPDX-License-Identifier: Apache-2.0 */
/* Distinct digests in the order in which they came. */
#ifndef ASSETD_BASE_DIGEST_SET_H
#define ASSETD_BASE_DIGEST_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"

/* Words of 32 bits that tell a digest from others of its function: hash and size. */
enum { DIGEST_SET_WORDS = DIGEST_HASH_MAX / 4 + 2 };

/* Embedded by its user. One thread at a time. */
struct digest_set {
    struct digest *digests; /* in the order of digest_set_add; moves when one is added */
    size_t count;
    size_t capacity;  /* of digests */
    uint32_t *slots;  /* index + 1 of a digest, 0 is free; open addressing */
    size_t slot_mask; /* slots less one; a power of two less one */
    uint64_t keys[DIGEST_SET_WORDS + 1];
};

/*
 * Begins an empty set. Who chooses the digests cannot choose them to collide: they are hashed
 * under random keys.
 */
int digest_set_init(struct digest_set *set, struct err *err);

/* A zeroed set is fine. */
void digest_set_fini(struct digest_set *set);

/* Adds DIGEST if it is not there, and tells whether it was new. All are of one function. */
int digest_set_add(struct digest_set *set, const struct digest *digest, bool *is_new,
                   struct err *err);

#endif
