/* SPDX-License-Identifier: Apache-2.0 */
/* A table of indices into an array of digests. */
#include "base/digest_set.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { CAPACITY_MIN = 64 };

int digest_keys_init(struct digest_keys *keys, struct err *err)
{
    if (getrandom(keys->keys, sizeof(keys->keys), 0) != (ssize_t)sizeof(keys->keys))
        return err_set(err, ERR_UNAVAILABLE, "no random numbers for a table of digests");
    return 0;
}

/* Multiply-shift hashing of a row of words: two digests collide no more often than by chance. */
uint32_t digest_keys_hash(const struct digest_keys *keys, const uint8_t *hash, size_t hash_size,
                          int64_t size)
{
    uint32_t words[DIGEST_WORDS];
    memcpy(words, &size, sizeof(size));
    memcpy(words + 2, hash, hash_size);
    size_t used = 2 + hash_size / 4;
    uint64_t sum = keys->keys[DIGEST_WORDS];
    for (size_t i = 0; i < used; i++)
        sum += keys->keys[i] * words[i];
    return (uint32_t)(sum >> 32);
}

void digest_set_fini(struct digest_set *set)
{
    free(set->digests);
    free(set->slots);
    *set = (struct digest_set){0};
}

/* The slot that has DIGEST, or the free one where it belongs. */
static uint32_t *find_slot(const struct digest_set *set, const struct digest *digest)
{
    size_t hash_size = digest_hash_size(digest->function);
    size_t at =
        digest_keys_hash(&set->keys, digest->hash, hash_size, digest->size) & set->slot_mask;
    while (set->slots[at] != 0 && !digest_equal(&set->digests[set->slots[at] - 1], digest))
        at = (at + 1) & set->slot_mask;
    return &set->slots[at];
}

/* There are twice as many slots as digests. */
static int grow(struct digest_set *set, struct err *err)
{
    size_t capacity = set->capacity == 0 ? CAPACITY_MIN : 2 * set->capacity;
    if (capacity > UINT32_MAX / sizeof(struct digest))
        return err_set(err, ERR_EXHAUSTED, "more than %zu digests", set->capacity);
    if (set->capacity == 0 && digest_keys_init(&set->keys, err) != 0)
        return -(int)err->code;
    struct digest *digests = realloc(set->digests, capacity * sizeof(digests[0]));
    if (digests == NULL)
        return err_no_memory(err, "a set of digests");
    set->digests = digests;
    uint32_t *slots = calloc(2 * capacity, sizeof(slots[0]));
    if (slots == NULL)
        return err_no_memory(err, "a set of digests");
    free(set->slots);
    set->slots = slots;
    set->slot_mask = 2 * capacity - 1;
    set->capacity = capacity;
    for (size_t i = 0; i < set->count; i++)
        *find_slot(set, &set->digests[i]) = (uint32_t)(i + 1);
    return 0;
}

int digest_set_add(struct digest_set *set, const struct digest *digest, bool *is_new,
                   struct err *err)
{
    if (set->count == set->capacity) {
        int rc = grow(set, err);
        if (rc != 0)
            return rc;
    }
    uint32_t *slot = find_slot(set, digest);
    *is_new = *slot == 0;
    if (*is_new) {
        set->digests[set->count++] = *digest;
        *slot = (uint32_t)set->count;
    }
    return 0;
}

size_t digest_set_index(const struct digest_set *set, const struct digest *digest)
{
    if (set->count == 0)
        return SIZE_MAX;
    uint32_t slot = *find_slot(set, digest);
    return slot != 0 ? slot - 1 : SIZE_MAX;
}
