/* SPDX-License-Identifier: Apache-2.0 */
/* Fetches of assets that the index has not written yet: the last one of each asset. */
#ifndef ASSETD_STORE_ASSET_USES_H
#define ASSETD_STORE_ASSET_USES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/asset_record.h"

/* More are not remembered between two commits; with ASSET_USES_MANY it is time to write them. */
enum { ASSET_USES_MAX = 8192, ASSET_USES_MANY = ASSET_USES_MAX / 4 };

struct asset_use {
    uint8_t hash[ASSET_HASH_SIZE];
    int64_t at;     /* milliseconds since 1970 */
    uint64_t order; /* counts up with every use */
    uint64_t since; /* of the first use that is not written */
};

/* Embedded by its user. Any thread. */
struct asset_uses {
    pthread_mutex_t lock;
    uint64_t secret;                    /* random, and odd: finds the slot of a hash */
    uint64_t order;                     /* of the newest */
    size_t count;                       /* of uses */
    struct asset_use *uses;             /* ASSET_USES_MAX of them */
    uint16_t slots[2 * ASSET_USES_MAX]; /* by hash, open addressing: 1 + index of a use; 0: none */
};

int asset_uses_init(struct asset_uses *uses, struct err *err);
void asset_uses_fini(struct asset_uses *uses);

/* Remembers a use. */
void asset_uses_add(struct asset_uses *uses, const uint8_t hash[ASSET_HASH_SIZE], int64_t at);

/* The use of an asset, if that is remembered. */
bool asset_uses_find(struct asset_uses *uses, const uint8_t hash[ASSET_HASH_SIZE],
                     struct asset_use *use);

/*
 * Copies them to OUT, which has room for ASSET_USES_MAX. Returns how many. What has not been
 * written for longest comes first, however often it is used: else it would be behind all others,
 * always.
 */
size_t asset_uses_copy(struct asset_uses *uses, struct asset_use *out);

/* Remembers a use that another process tells of, unless a later one of the asset is known. */
void asset_uses_merge(struct asset_uses *uses, const uint8_t hash[ASSET_HASH_SIZE], int64_t at);

/* Whether there are ASSET_USES_MANY. */
bool asset_uses_are_many(struct asset_uses *uses);

/* Forgets all of them. */
void asset_uses_clear(struct asset_uses *uses);

/* Forgets COUNT of them, which are written; those of assets that were used again since are new. */
void asset_uses_forget(struct asset_uses *uses, const struct asset_use *written, size_t count);

#endif
