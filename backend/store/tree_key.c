/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of lists: a hash over all that they name, or what names them. */
#include "store/tree_key.h"

#include <string.h>
#include <sys/random.h>

int tree_keys_init(struct tree_keys *keys, struct err *err)
{
    if (getrandom(keys->secret, sizeof(keys->secret), 0) != (ssize_t)sizeof(keys->secret))
        return err_set(err, ERR_UNAVAILABLE, "no random numbers for what is known of trees");
    /* By an odd factor no two words become the same one. */
    for (size_t i = 0; i < TREE_KEY_WORDS; i++)
        keys->secret[i] |= 1;
    return 0;
}

/*
 * Bytes that tell one list from any other, whatever comes next. Many digests at a time, as each is
 * so short that to hand it in costs a third of what it takes to hash it.
 */
static void hash_list(struct hasher *hasher, const struct tree_list *list)
{
    enum { WORDS_SIZE = 2 * sizeof(int64_t), DIGEST_SIZE = WORDS_SIZE + DIGEST_HASH_MAX };
    uint64_t head[2] = {list->are_directories, list->count};
    uint8_t bytes[64 * DIGEST_SIZE];
    size_t size = sizeof(head);
    memcpy(bytes, head, sizeof(head));
    for (size_t i = 0; i < list->count; i++) {
        const struct digest *digest = &list->digests[i];
        int64_t words[2] = {(int64_t)digest->function, digest->size};
        size_t hash_size = digest_hash_size(digest->function);
        if (size > sizeof(bytes) - DIGEST_SIZE) {
            hasher_update(hasher, bytes, size);
            size = 0;
        }
        memcpy(bytes + size, words, sizeof(words));
        memcpy(bytes + size + sizeof(words), digest->hash, hash_size);
        size += sizeof(words) + hash_size;
    }
    hasher_update(hasher, bytes, size);
}

int tree_keys_make(const struct tree_keys *keys, const struct tree_list *lists, size_t list_count,
                   struct tree_key *key, struct err *err)
{
    struct digest digest;
    struct hasher *hasher = hasher_new(DIGEST_SHA256);
    if (hasher == NULL)
        return err_no_memory(err, "the key of a tree");
    hasher_update(hasher, keys->secret, sizeof(keys->secret));
    for (size_t i = 0; i < list_count; i++)
        if (lists[i].count != 0)
            hash_list(hasher, &lists[i]);
    hasher_digest(hasher, &digest);
    hasher_free(hasher);
    memcpy(key->words, digest.hash, sizeof(key->words));
    return 0;
}

void tree_keys_label(const struct tree_keys *keys, const struct tree_label *label,
                     struct tree_key *key)
{
    uint64_t name[2];
    memcpy(name, label->name, sizeof(name));
    key->words[0] = (uint64_t)label->time * keys->secret[0] + name[0] * keys->secret[1] +
                    name[1] * keys->secret[2] + label->version * keys->secret[3];
    key->words[1] = name[0];
    key->words[2] = name[1];
    key->words[3] = label->version;
}

bool tree_key_equal(const struct tree_key *one, const struct tree_key *other)
{
    return memcmp(one->words, other->words, sizeof(one->words)) == 0;
}

uint32_t tree_key_hash(const struct tree_key *key)
{
    return (uint32_t)(key->words[0] >> 32); /* where most bits of a product come together */
}
