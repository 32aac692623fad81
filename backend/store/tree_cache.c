/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of the trees of one CAS. */
#include <stdlib.h>

#include "store/tree_private.h"

int tree_cache_new(struct cas *cas, size_t limit, struct tree_cache **out, struct err *err)
{
    struct tree_cache *cache = calloc(1, sizeof(*cache));
    if (cache == NULL)
        return err_no_memory(err, "what is known of trees");
    cache->cas = cas;
    (void)pthread_mutex_init(&cache->missing_lock, NULL);
    int rc = tree_whole_init(&cache->whole, limit / 2, err);
    if (rc == 0)
        rc = tree_directories_init(&cache->directories, limit / 2, err);
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
    tree_directories_fini(&cache->directories);
    tree_whole_fini(&cache->whole);
    (void)pthread_mutex_destroy(&cache->missing_lock);
    free(cache);
}

void tree_cache_set_missing(struct tree_cache *cache, const struct digest *root,
                            const struct digest *missing)
{
    struct tree_directory *directory = tree_directories_get(&cache->directories, root);
    if (directory == NULL)
        return;
    (void)pthread_mutex_lock(&cache->missing_lock);
    directory->has_missing = missing != NULL;
    if (missing != NULL)
        directory->missing = *missing;
    (void)pthread_mutex_unlock(&cache->missing_lock);
    tree_directories_unpin(&cache->directories, directory);
}

bool tree_cache_missing(struct tree_cache *cache, const struct digest *root, struct digest *missing)
{
    struct tree_directory *directory = tree_directories_get(&cache->directories, root);
    if (directory == NULL)
        return false;
    (void)pthread_mutex_lock(&cache->missing_lock);
    bool known = directory->has_missing;
    if (known)
        *missing = directory->missing;
    (void)pthread_mutex_unlock(&cache->missing_lock);
    tree_directories_unpin(&cache->directories, directory);
    return known;
}
