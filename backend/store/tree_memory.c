/* SPDX-License-Identifier: Apache-2.0 */
/* A hash table whose entries are in a list as well, in the order of their last use. */
#include "store/tree_memory.h"

#include <stdlib.h>

/* Bytes of memory for which there is a bucket; buckets at least. */
enum { BUCKET_SHARE = 128, BUCKETS_MIN = 16 };

/* One entry may take this part of the memory, so that few have to go for it at once. */
enum { SHARE = 8 };

int tree_memory_init(struct tree_memory *memory, size_t limit,
                     bool (*has_key)(const struct tree_entry *entry, const void *key),
                     struct err *err)
{
    size_t count = BUCKETS_MIN;
    while (count < limit / BUCKET_SHARE)
        count *= 2;
    size_t bytes = count * sizeof(struct tree_entry *);
    *memory = (struct tree_memory){.has_key = has_key,
                                   .limit = limit > bytes ? limit - bytes : 0,
                                   .bucket_mask = count - 1,
                                   .buckets = calloc(count, sizeof(struct tree_entry *))};
    if (memory->buckets == NULL)
        return err_no_memory(err, "what is known of trees");
    (void)pthread_mutex_init(&memory->lock, NULL);
    return 0;
}

void tree_memory_fini(struct tree_memory *memory)
{
    if (memory->buckets == NULL)
        return;
    while (memory->oldest != NULL) {
        struct tree_entry *next = memory->oldest->newer;
        free(memory->oldest);
        memory->oldest = next;
    }
    free(memory->buckets);
    (void)pthread_mutex_destroy(&memory->lock);
}

static struct tree_entry **bucket_of(const struct tree_memory *memory, uint32_t hash)
{
    return &memory->buckets[hash & memory->bucket_mask];
}

static struct tree_entry *find(const struct tree_memory *memory, uint32_t hash, const void *key)
{
    struct tree_entry *entry = *bucket_of(memory, hash);
    while (entry != NULL && (entry->hash != hash || !memory->has_key(entry, key)))
        entry = entry->chain;
    return entry;
}

static void append(struct tree_memory *memory, struct tree_entry *entry)
{
    entry->newer = NULL;
    entry->older = memory->newest;
    if (memory->newest != NULL)
        memory->newest->newer = entry;
    else
        memory->oldest = entry;
    memory->newest = entry;
}

static void detach(struct tree_memory *memory, struct tree_entry *entry)
{
    if (entry->older != NULL)
        entry->older->newer = entry->newer;
    else
        memory->oldest = entry->newer;
    if (entry->newer != NULL)
        entry->newer->older = entry->older;
    else
        memory->newest = entry->older;
}

static void unpin(struct tree_entry *entry)
{
    if (--entry->pins == 0)
        free(entry);
}

static void forget(struct tree_memory *memory, struct tree_entry *entry)
{
    struct tree_entry **link = bucket_of(memory, entry->hash);
    while (*link != entry)
        link = &(*link)->chain;
    *link = entry->chain;
    detach(memory, entry);
    memory->bytes -= entry->bytes;
    entry->is_listed = false;
    unpin(entry);
}

struct tree_entry *tree_memory_get(struct tree_memory *memory, uint32_t hash, const void *key)
{
    (void)pthread_mutex_lock(&memory->lock);
    struct tree_entry *entry = find(memory, hash, key);
    if (entry != NULL) {
        detach(memory, entry);
        append(memory, entry);
        entry->pins++;
    }
    (void)pthread_mutex_unlock(&memory->lock);
    return entry;
}

void tree_memory_add(struct tree_memory *memory, struct tree_entry *entry, const void *key)
{
    if (entry->bytes > memory->limit / SHARE)
        return;
    (void)pthread_mutex_lock(&memory->lock);
    if (find(memory, entry->hash, key) == NULL) {
        while (memory->bytes > memory->limit - entry->bytes)
            forget(memory, memory->oldest);
        struct tree_entry **bucket = bucket_of(memory, entry->hash);
        entry->chain = *bucket;
        *bucket = entry;
        append(memory, entry);
        memory->bytes += entry->bytes;
        entry->is_listed = true;
        entry->pins++;
    }
    (void)pthread_mutex_unlock(&memory->lock);
}

void tree_memory_drop(struct tree_memory *memory, struct tree_entry *entry)
{
    (void)pthread_mutex_lock(&memory->lock);
    if (entry->is_listed)
        forget(memory, entry);
    (void)pthread_mutex_unlock(&memory->lock);
}

void tree_memory_unpin(struct tree_memory *memory, struct tree_entry *entry)
{
    (void)pthread_mutex_lock(&memory->lock);
    unpin(entry);
    (void)pthread_mutex_unlock(&memory->lock);
}
