/* SPDX-License-Identifier: Apache-2.0 */
/* A chained hash table over digests, threaded by a list in the order of use. */
#include "store/cas_table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS_MIN = 1024 };

int cas_table_init(struct cas_table *table, struct err *err)
{
    int rc = digest_keys_init(&table->keys, err);
    if (rc != 0)
        return rc;
    table->buckets = calloc(BUCKETS_MIN, sizeof(struct cas_entry *));
    if (table->buckets == NULL)
        return err_no_memory(err, "the table of blobs");
    table->bucket_count = BUCKETS_MIN;
    return 0;
}

void cas_table_fini(struct cas_table *table)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        struct cas_entry *entry = table->buckets[i];
        while (entry != NULL) {
            struct cas_entry *next = entry->chain;
            free(entry);
            entry = next;
        }
    }
    free(table->buckets);
    *table = (struct cas_table){0};
}

struct cas_entry *cas_entry_new(const struct digest *digest)
{
    size_t hash_size = digest_hash_size(digest->function);
    struct cas_entry *entry = calloc(1, sizeof(*entry) + hash_size);
    if (entry == NULL)
        return NULL;
    entry->function = digest->function;
    entry->size = digest->size;
    entry->state = CAS_COMING;
    memcpy(entry->hash, digest->hash, hash_size);
    return entry;
}

void cas_entry_digest(const struct cas_entry *entry, struct digest *digest)
{
    memset(digest, 0, sizeof(*digest));
    digest->function = entry->function;
    digest->size = entry->size;
    memcpy(digest->hash, entry->hash, digest_hash_size(entry->function));
}

static struct cas_entry **bucket_of(const struct cas_table *table, const uint8_t *hash,
                                    size_t hash_size, int64_t size)
{
    size_t number = digest_keys_hash(&table->keys, hash, hash_size, size);
    return &table->buckets[number & (table->bucket_count - 1)];
}

static struct cas_entry **bucket_of_entry(const struct cas_table *table,
                                          const struct cas_entry *entry)
{
    return bucket_of(table, entry->hash, digest_hash_size(entry->function), entry->size);
}

struct cas_entry *cas_table_find(const struct cas_table *table, const struct digest *digest)
{
    size_t hash_size = digest_hash_size(digest->function);
    struct cas_entry *entry = *bucket_of(table, digest->hash, hash_size, digest->size);
    while (entry != NULL && (entry->size != digest->size || entry->function != digest->function ||
                             memcmp(entry->hash, digest->hash, hash_size) != 0))
        entry = entry->chain;
    return entry;
}

/* Without memory for more buckets the table works on, with longer chains. */
static void grow(struct cas_table *table)
{
    struct cas_table larger = {.bucket_count = table->bucket_count * 2, .keys = table->keys};
    larger.buckets = calloc(larger.bucket_count, sizeof(struct cas_entry *));
    if (larger.buckets == NULL)
        return;
    for (size_t i = 0; i < table->bucket_count; i++) {
        struct cas_entry *entry = table->buckets[i];
        while (entry != NULL) {
            struct cas_entry *next = entry->chain;
            struct cas_entry **bucket = bucket_of_entry(&larger, entry);
            entry->chain = *bucket;
            *bucket = entry;
            entry = next;
        }
    }
    free(table->buckets);
    table->buckets = larger.buckets;
    table->bucket_count = larger.bucket_count;
}

void cas_table_add(struct cas_table *table, struct cas_entry *entry)
{
    if (table->count == table->bucket_count)
        grow(table);
    struct cas_entry **bucket = bucket_of_entry(table, entry);
    entry->chain = *bucket;
    *bucket = entry;
    table->count++;
}

void cas_table_remove(struct cas_table *table, struct cas_entry *entry)
{
    struct cas_entry **link = bucket_of_entry(table, entry);
    while (*link != entry)
        link = &(*link)->chain;
    *link = entry->chain;
    table->count--;
}

void cas_table_list(struct cas_table *table, struct cas_entry *entry, uint64_t used)
{
    assert(table->newest == NULL || table->newest->used < used);
    entry->used = used;
    entry->newer = NULL;
    entry->older = table->newest;
    if (table->newest != NULL)
        table->newest->newer = entry;
    else
        table->oldest = entry;
    table->newest = entry;
}

void cas_table_unlist(struct cas_table *table, struct cas_entry *entry)
{
    if (entry->older != NULL)
        entry->older->newer = entry->newer;
    else
        table->oldest = entry->newer;
    if (entry->newer != NULL)
        entry->newer->older = entry->older;
    else
        table->newest = entry->older;
    entry->older = NULL;
    entry->newer = NULL;
}

void cas_table_relist(struct cas_table *table, struct cas_entry *entry)
{
    struct cas_entry *newer = table->oldest;
    while (newer != NULL && newer->used < entry->used)
        newer = newer->newer;
    entry->newer = newer;
    entry->older = newer != NULL ? newer->older : table->newest;
    if (entry->older != NULL)
        entry->older->newer = entry;
    else
        table->oldest = entry;
    if (newer != NULL)
        newer->older = entry;
    else
        table->newest = entry;
}
