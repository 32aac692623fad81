/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of what was found whole. */
#include "store/tree_whole.h"

#include <stdlib.h>
#include <string.h>

/* What was found whole once. */
struct found {
    struct tree_entry entry; /* first */
    struct tree_key key;
    size_t count;
    struct cas_spread_segment segments[]; /* by number */
};

static bool has_key(const struct tree_entry *entry, const void *key)
{
    return tree_key_equal(&((const struct found *)entry)->key, key);
}

int tree_whole_init(struct tree_whole *whole, size_t limit, struct err *err)
{
    int rc = tree_keys_init(&whole->keys, err);
    return rc == 0 ? tree_memory_init(&whole->memory, limit, has_key, err) : rc;
}

void tree_whole_fini(struct tree_whole *whole)
{
    tree_memory_fini(&whole->memory);
}

/* --- asking --- */

/* Without memory SPREAD is of no use. */
static void copy(const struct found *found, struct cas_spread *spread)
{
    *spread = (struct cas_spread){.count = found->count, .capacity = found->count};
    if (found->count == 0)
        return;
    spread->segments = malloc(found->count * sizeof(found->segments[0]));
    if (spread->segments == NULL)
        *spread = (struct cas_spread){.is_over = true};
    else
        memcpy(spread->segments, found->segments, found->count * sizeof(found->segments[0]));
}

bool tree_whole_renew(struct tree_whole *whole, struct cas *cas, struct cas_hold *hold,
                      const struct tree_key *key, struct cas_spread *spread)
{
    struct tree_entry *entry = tree_memory_get(&whole->memory, tree_key_hash(key), key);
    if (entry == NULL)
        return false;
    /* The lock of the memory is not held: there may be very many segments. */
    struct found *found = (struct found *)entry;
    const struct cas_spread there = {
        .segments = found->segments, .count = found->count, .capacity = found->count};
    bool is_whole = cas_spread_renew(cas, hold, &there);
    if (!is_whole)
        tree_memory_drop(&whole->memory, entry);
    else if (spread != NULL)
        copy(found, spread);
    tree_memory_unpin(&whole->memory, entry);
    return is_whole;
}

/* --- remembering --- */

static int compare(const void *a, const void *b)
{
    const struct cas_spread_segment *one = a;
    const struct cas_spread_segment *other = b;
    if (one->number != other->number)
        return one->number < other->number ? -1 : 1;
    return one->version < other->version ? -1 : one->version > other->version;
}

/* Each segment once. False: one is there in two versions, so something went out of it. */
static bool sort(struct found *found)
{
    size_t kept = 0;
    qsort(found->segments, found->count, sizeof(found->segments[0]), compare);
    for (size_t i = 0; i < found->count; i++) {
        const struct cas_spread_segment *last = &found->segments[kept == 0 ? 0 : kept - 1];
        if (kept == 0 || found->segments[i].number != last->number)
            found->segments[kept++] = found->segments[i];
        else if (found->segments[i].version != last->version)
            return false;
    }
    found->count = kept;
    return true;
}

static struct found *join(const struct cas_spread *const *spreads, size_t count)
{
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (spreads[i]->is_over)
            return NULL;
        sum += spreads[i]->count;
    }
    size_t segment_size = sizeof(struct cas_spread_segment);
    struct found *found = calloc(1, sizeof(*found) + sum * segment_size);
    if (found == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        if (spreads[i]->count != 0)
            memcpy(found->segments + found->count, spreads[i]->segments,
                   spreads[i]->count * segment_size);
        found->count += spreads[i]->count;
    }
    if (!sort(found)) {
        free(found);
        return NULL;
    }
    size_t bytes = sizeof(*found) + found->count * segment_size;
    struct found *smaller = found->count < sum ? realloc(found, bytes) : NULL;
    if (smaller != NULL)
        found = smaller;
    found->entry.bytes = bytes;
    return found;
}

void tree_whole_add(struct tree_whole *whole, const struct tree_key *key,
                    const struct cas_spread *const *spreads, size_t count)
{
    struct found *found = join(spreads, count);
    if (found == NULL)
        return;
    found->key = *key;
    found->entry.hash = tree_key_hash(key);
    found->entry.pins = 1;
    tree_memory_add(&whole->memory, &found->entry, key);
    tree_memory_unpin(&whole->memory, &found->entry);
}
