/* SPDX-License-Identifier: Apache-2.0 */
/* A small hash table of the assets that were fetched since the last commit that wrote them. */
#include "store/asset_uses.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { SLOT_BITS = 14, SLOTS = 2 * ASSET_USES_MAX };

_Static_assert(SLOTS == 1 << SLOT_BITS, "a slot is found by so many bits");

_Static_assert(ASSET_USES_MAX < UINT16_MAX, "a slot holds 1 + index");

int asset_uses_init(struct asset_uses *uses, struct err *err)
{
    memset(uses, 0, sizeof(*uses));
    if (getrandom(&uses->secret, sizeof(uses->secret), 0) != (ssize_t)sizeof(uses->secret))
        return err_set(err, ERR_UNAVAILABLE, "no random numbers for the uses of assets");
    uses->secret |= 1;
    uses->uses = malloc(ASSET_USES_MAX * sizeof(*uses->uses));
    if (uses->uses == NULL)
        return err_no_memory(err, "the uses of assets");
    (void)pthread_mutex_init(&uses->lock, NULL);
    return 0;
}

void asset_uses_fini(struct asset_uses *uses)
{
    if (uses->uses == NULL)
        return;
    free(uses->uses);
    uses->uses = NULL;
    (void)pthread_mutex_destroy(&uses->lock);
}

/*
 * The slot of HASH, or the free one where it belongs: at most half of them are taken. Clients
 * choose names, and so can find some whose hashes begin alike: which of them share a slot is
 * nothing that they know.
 */
static uint16_t *find_slot(struct asset_uses *uses, const uint8_t *hash)
{
    uint64_t word;
    memcpy(&word, hash, sizeof(word));
    size_t i = (size_t)(word * uses->secret >> (64 - SLOT_BITS));
    while (uses->slots[i] != 0 &&
           memcmp(uses->uses[uses->slots[i] - 1].hash, hash, ASSET_HASH_SIZE) != 0)
        i = (i + 1) % SLOTS;
    return &uses->slots[i];
}

static void add(struct asset_uses *uses, uint16_t *slot, const uint8_t *hash, int64_t at)
{
    if (*slot == 0 && uses->count < ASSET_USES_MAX) {
        memcpy(uses->uses[uses->count].hash, hash, ASSET_HASH_SIZE);
        *slot = (uint16_t)++uses->count;
        uses->uses[*slot - 1].since = uses->order + 1;
    }
    if (*slot != 0) {
        uses->uses[*slot - 1].at = at;
        uses->uses[*slot - 1].order = ++uses->order;
    }
}

void asset_uses_add(struct asset_uses *uses, const uint8_t hash[ASSET_HASH_SIZE], int64_t at)
{
    (void)pthread_mutex_lock(&uses->lock);
    add(uses, find_slot(uses, hash), hash, at);
    (void)pthread_mutex_unlock(&uses->lock);
}

void asset_uses_merge(struct asset_uses *uses, const uint8_t hash[ASSET_HASH_SIZE], int64_t at)
{
    (void)pthread_mutex_lock(&uses->lock);
    uint16_t *slot = find_slot(uses, hash);
    if (*slot == 0 || uses->uses[*slot - 1].at < at)
        add(uses, slot, hash, at);
    (void)pthread_mutex_unlock(&uses->lock);
}

bool asset_uses_are_many(struct asset_uses *uses)
{
    (void)pthread_mutex_lock(&uses->lock);
    bool are_many = uses->count >= ASSET_USES_MANY;
    (void)pthread_mutex_unlock(&uses->lock);
    return are_many;
}

void asset_uses_clear(struct asset_uses *uses)
{
    (void)pthread_mutex_lock(&uses->lock);
    uses->count = 0;
    memset(uses->slots, 0, sizeof(uses->slots));
    (void)pthread_mutex_unlock(&uses->lock);
}

bool asset_uses_find(struct asset_uses *uses, const uint8_t hash[ASSET_HASH_SIZE],
                     struct asset_use *use)
{
    (void)pthread_mutex_lock(&uses->lock);
    uint16_t slot = *find_slot(uses, hash);
    if (slot != 0)
        *use = uses->uses[slot - 1];
    (void)pthread_mutex_unlock(&uses->lock);
    return slot != 0;
}

static int compare_since(const void *a, const void *b)
{
    uint64_t left = ((const struct asset_use *)a)->since;
    uint64_t right = ((const struct asset_use *)b)->since;
    return (left > right) - (left < right);
}

size_t asset_uses_copy(struct asset_uses *uses, struct asset_use *out)
{
    (void)pthread_mutex_lock(&uses->lock);
    size_t count = uses->count;
    memcpy(out, uses->uses, count * sizeof(*out));
    (void)pthread_mutex_unlock(&uses->lock);
    if (count > 1)
        qsort(out, count, sizeof(*out), compare_since);
    return count;
}

void asset_uses_forget(struct asset_uses *uses, const struct asset_use *written, size_t count)
{
    if (count == 0)
        return;
    (void)pthread_mutex_lock(&uses->lock);
    for (size_t i = 0; i < count; i++) {
        uint16_t slot = *find_slot(uses, written[i].hash);
        if (slot == 0)
            continue;
        struct asset_use *use = &uses->uses[slot - 1];
        use->since = use->order; /* used again: it is another's turn before */
        if (use->order == written[i].order)
            use->order = 0;
    }
    size_t old_count = uses->count;
    uses->count = 0;
    memset(uses->slots, 0, sizeof(uses->slots));
    for (size_t i = 0; i < old_count; i++) {
        if (uses->uses[i].order == 0)
            continue;
        struct asset_use kept = uses->uses[i];
        uint16_t *slot = find_slot(uses, kept.hash);
        uses->uses[uses->count] = kept;
        *slot = (uint16_t)++uses->count;
    }
    (void)pthread_mutex_unlock(&uses->lock);
}
