/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of what was found whole: a key and a time for each. */
#include "remote/remote_trust.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct found {
    struct tree_entry entry; /* first */
    struct tree_key key;
    _Atomic int64_t begun_at; /* of the last check */
};

static bool has_key(const struct tree_entry *entry, const void *key)
{
    return tree_key_equal(&((const struct found *)entry)->key, key);
}

int remote_trust_init(struct remote_trust *trust, int64_t span, size_t limit, struct err *err)
{
    trust->span = span;
    return tree_memory_init(&trust->memory, limit, has_key, err);
}

void remote_trust_fini(struct remote_trust *trust)
{
    tree_memory_fini(&trust->memory);
}

static struct found *get(struct remote_trust *trust, const struct tree_key *key)
{
    return (struct found *)tree_memory_get(&trust->memory, tree_key_hash(key), key);
}

bool remote_trust_has(struct remote_trust *trust, const struct tree_key *key, int64_t since)
{
    struct found *found = trust->span != 0 ? get(trust, key) : NULL;
    if (found == NULL)
        return false;
    int64_t begun_at = atomic_load(&found->begun_at);
    bool is_trusted = begun_at >= since && clock_steady() - begun_at < trust->span;
    tree_memory_unpin(&trust->memory, &found->entry);
    return is_trusted;
}

void remote_trust_add(struct remote_trust *trust, const struct tree_key *key, int64_t begun_at)
{
    if (trust->span == 0)
        return;
    struct found *found = get(trust, key);
    if (found != NULL) {
        /* Of two checks at once either time is true. */
        if (atomic_load(&found->begun_at) < begun_at)
            atomic_store(&found->begun_at, begun_at);
    } else {
        found = malloc(sizeof(*found));
        if (found == NULL)
            return;
        found->entry =
            (struct tree_entry){.bytes = sizeof(*found), .hash = tree_key_hash(key), .pins = 1};
        found->key = *key;
        atomic_init(&found->begun_at, begun_at);
        tree_memory_add(&trust->memory, &found->entry, key);
    }
    tree_memory_unpin(&trust->memory, &found->entry);
}

void remote_trust_drop(struct remote_trust *trust, const struct tree_key *key, int64_t begun_at)
{
    struct found *found = trust->span != 0 ? get(trust, key) : NULL;
    if (found == NULL)
        return;
    if (atomic_load(&found->begun_at) <= begun_at)
        tree_memory_drop(&trust->memory, &found->entry);
    tree_memory_unpin(&trust->memory, &found->entry);
}
