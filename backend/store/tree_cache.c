/* SPDX-License-Identifier: Apache-2.0 */
/* The directories that were read last, parsed, within a bound of memory. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest_set.h"
#include "store/tree_private.h"

enum { BUCKETS = 1 << 14 };

/* One directory may take this part of the memory. */
enum { SHARE = 4 };

struct tree_cache {
    struct cas *cas;
    size_t limit;
    pthread_mutex_t lock;
    size_t bytes;
    struct tree_directory *oldest;
    struct tree_directory *newest;
    struct digest_keys keys;
    struct tree_directory *buckets[BUCKETS];
};

int tree_cache_new(struct cas *cas, size_t limit, struct tree_cache **out, struct err *err)
{
    struct tree_cache *cache = calloc(1, sizeof(*cache));
    if (cache == NULL)
        return err_no_memory(err, "what is known of trees");
    int rc = digest_keys_init(&cache->keys, err);
    if (rc != 0) {
        free(cache);
        return rc;
    }
    cache->cas = cas;
    /* The buckets count as well. */
    cache->limit = limit > sizeof(*cache) ? limit - sizeof(*cache) : 0;
    (void)pthread_mutex_init(&cache->lock, NULL);
    *out = cache;
    return 0;
}

void tree_cache_free(struct tree_cache *cache)
{
    if (cache == NULL)
        return;
    while (cache->oldest != NULL) {
        struct tree_directory *next = cache->oldest->newer;
        free(cache->oldest);
        cache->oldest = next;
    }
    (void)pthread_mutex_destroy(&cache->lock);
    free(cache);
}

struct cas *tree_cache_cas(const struct tree_cache *cache)
{
    return cache->cas;
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
    *directory = (struct tree_directory){.digest = *digest,
                                         .pins = 1,
                                         .bytes = bytes,
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

static struct tree_directory **bucket_of(struct tree_cache *cache, const struct digest *digest)
{
    size_t hash_size = digest_hash_size(digest->function);
    return &cache->buckets[digest_keys_hash(&cache->keys, digest->hash, hash_size, digest->size) %
                           BUCKETS];
}

static struct tree_directory *find(struct tree_cache *cache, const struct digest *digest)
{
    struct tree_directory *directory = *bucket_of(cache, digest);
    while (directory != NULL && !digest_equal(&directory->digest, digest))
        directory = directory->chain;
    return directory;
}

static void append(struct tree_cache *cache, struct tree_directory *directory)
{
    directory->newer = NULL;
    directory->older = cache->newest;
    if (cache->newest != NULL)
        cache->newest->newer = directory;
    else
        cache->oldest = directory;
    cache->newest = directory;
}

static void detach(struct tree_cache *cache, struct tree_directory *directory)
{
    if (directory->older != NULL)
        directory->older->newer = directory->newer;
    else
        cache->oldest = directory->newer;
    if (directory->newer != NULL)
        directory->newer->older = directory->older;
    else
        cache->newest = directory->older;
}

static void forget(struct tree_cache *cache, struct tree_directory *directory)
{
    struct tree_directory **link = bucket_of(cache, &directory->digest);
    while (*link != directory)
        link = &(*link)->chain;
    *link = directory->chain;
    detach(cache, directory);
    cache->bytes -= directory->bytes;
    if (--directory->pins == 0)
        free(directory);
}

struct tree_directory *tree_cache_get(struct tree_cache *cache, const struct digest *digest)
{
    (void)pthread_mutex_lock(&cache->lock);
    struct tree_directory *directory = find(cache, digest);
    if (directory != NULL) {
        detach(cache, directory);
        append(cache, directory);
        directory->pins++;
    }
    (void)pthread_mutex_unlock(&cache->lock);
    return directory;
}

void tree_cache_add(struct tree_cache *cache, struct tree_directory *directory)
{
    if (directory->bytes > cache->limit / SHARE)
        return;
    (void)pthread_mutex_lock(&cache->lock);
    if (find(cache, &directory->digest) == NULL) {
        while (cache->bytes > cache->limit - directory->bytes)
            forget(cache, cache->oldest);
        struct tree_directory **bucket = bucket_of(cache, &directory->digest);
        directory->chain = *bucket;
        *bucket = directory;
        append(cache, directory);
        cache->bytes += directory->bytes;
        directory->pins++;
    }
    (void)pthread_mutex_unlock(&cache->lock);
}

void tree_cache_unpin(struct tree_cache *cache, struct tree_directory *directory)
{
    (void)pthread_mutex_lock(&cache->lock);
    if (--directory->pins == 0)
        free(directory);
    (void)pthread_mutex_unlock(&cache->lock);
}

void tree_cache_set_missing(struct tree_cache *cache, const struct digest *root,
                            const struct digest *missing)
{
    (void)pthread_mutex_lock(&cache->lock);
    struct tree_directory *directory = find(cache, root);
    if (directory != NULL) {
        directory->has_missing = missing != NULL;
        if (missing != NULL)
            directory->missing = *missing;
    }
    (void)pthread_mutex_unlock(&cache->lock);
}

bool tree_cache_missing(struct tree_cache *cache, const struct digest *root, struct digest *missing)
{
    (void)pthread_mutex_lock(&cache->lock);
    struct tree_directory *directory = find(cache, root);
    bool known = directory != NULL && directory->has_missing;
    if (known)
        *missing = directory->missing;
    (void)pthread_mutex_unlock(&cache->lock);
    return known;
}
