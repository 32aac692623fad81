/* SPDX-License-Identifier: Apache-2.0 */
/* The directories that were read last, parsed, within a bound of memory. */
#include <stdlib.h>
#include <string.h>

#include "store/tree_private.h"

static bool has_digest(const struct tree_entry *entry, const void *key)
{
    return digest_equal(&((const struct tree_directory *)entry)->digest, key);
}

int tree_cache_new(struct cas *cas, size_t limit, struct tree_cache **out, struct err *err)
{
    struct tree_cache *cache = calloc(1, sizeof(*cache));
    if (cache == NULL)
        return err_no_memory(err, "what is known of trees");
    cache->cas = cas;
    (void)pthread_mutex_init(&cache->missing_lock, NULL);
    int rc = digest_keys_init(&cache->keys, err);
    if (rc == 0)
        rc = tree_whole_init(&cache->whole, limit / 2, err);
    if (rc == 0)
        rc = tree_memory_init(&cache->directories, limit / 2, has_digest, err);
    if (rc != 0) {
        tree_cache_free(cache);
        return rc;
    }
    *out = cache;
    return 0;
}

void tree_cache_free(struct tree_cache *cache)
{
    if (cache == NULL)
        return;
    tree_memory_fini(&cache->directories);
    tree_whole_fini(&cache->whole);
    (void)pthread_mutex_destroy(&cache->missing_lock);
    free(cache);
}

static size_t child_size(const struct digest *parent)
{
    return sizeof(int64_t) + digest_hash_size(parent->function);
}

struct tree_directory *tree_directory_new(const struct digest *digest, size_t directory_count,
                                          size_t file_count)
{
    size_t bytes =
        sizeof(struct tree_directory) + (directory_count + file_count) * child_size(digest);
    struct tree_directory *directory = malloc(bytes);
    if (directory == NULL)
        return NULL;
    *directory = (struct tree_directory){.entry = {.pins = 1, .bytes = bytes},
                                         .digest = *digest,
                                         .directory_count = directory_count,
                                         .file_count = file_count};
    return directory;
}

void tree_directory_set(struct tree_directory *directory, size_t index, const struct digest *child)
{
    size_t size = child_size(&directory->digest);
    uint8_t *bytes = directory->children + index * size;
    memcpy(bytes, &child->size, sizeof(child->size));
    memcpy(bytes + sizeof(child->size), child->hash, size - sizeof(child->size));
}

void tree_directory_child(const struct tree_directory *directory, size_t index,
                          struct digest *child)
{
    size_t size = child_size(&directory->digest);
    const uint8_t *bytes = directory->children + index * size;
    memset(child, 0, sizeof(*child));
    child->function = directory->digest.function;
    memcpy(&child->size, bytes, sizeof(child->size));
    memcpy(child->hash, bytes + sizeof(child->size), size - sizeof(child->size));
}

static uint32_t hash_of(const struct tree_cache *cache, const struct digest *digest)
{
    size_t hash_size = digest_hash_size(digest->function);
    return digest_keys_hash(&cache->keys, digest->hash, hash_size, digest->size);
}

struct tree_directory *tree_cache_get(struct tree_cache *cache, const struct digest *digest)
{
    return (struct tree_directory *)tree_memory_get(&cache->directories, hash_of(cache, digest),
                                                    digest);
}

void tree_cache_add(struct tree_cache *cache, struct tree_directory *directory)
{
    directory->entry.hash = hash_of(cache, &directory->digest);
    tree_memory_add(&cache->directories, &directory->entry, &directory->digest);
}

void tree_cache_unpin(struct tree_cache *cache, struct tree_directory *directory)
{
    tree_memory_unpin(&cache->directories, &directory->entry);
}

void tree_cache_set_missing(struct tree_cache *cache, const struct digest *root,
                            const struct digest *missing)
{
    struct tree_directory *directory = tree_cache_get(cache, root);
    if (directory == NULL)
        return;
    (void)pthread_mutex_lock(&cache->missing_lock);
    directory->has_missing = missing != NULL;
    if (missing != NULL)
        directory->missing = *missing;
    (void)pthread_mutex_unlock(&cache->missing_lock);
    tree_cache_unpin(cache, directory);
}

bool tree_cache_missing(struct tree_cache *cache, const struct digest *root, struct digest *missing)
{
    struct tree_directory *directory = tree_cache_get(cache, root);
    if (directory == NULL)
        return false;
    (void)pthread_mutex_lock(&cache->missing_lock);
    bool known = directory->has_missing;
    if (known)
        *missing = directory->missing;
    (void)pthread_mutex_unlock(&cache->missing_lock);
    tree_cache_unpin(cache, directory);
    return known;
}
