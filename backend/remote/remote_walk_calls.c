/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of a walk: filled, sent, and given back to it when they have ended. */
#include "remote/remote_walk_calls.h"

#include <stdlib.h>

/* --- FindMissingBlobs --- */

struct remote_walk_find *remote_walk_find_new(struct remote_walk *walk)
{
    struct remote_walk_find *find = calloc(1, sizeof(*find));
    if (find != NULL)
        find->call.walk = walk;
    return find;
}

void remote_walk_find_free(struct remote_walk_find *find)
{
    if (find == NULL)
        return;
    digest_set_fini(&find->digests);
    free(find);
}

static void on_found(struct cas_find *call, const struct err *err)
{
    struct remote_walk_find *find =
        (struct remote_walk_find *)((char *)call - offsetof(struct remote_walk_find, find));
    remote_walk_take_back(&find->call, err);
}

int remote_walk_find_send(struct remote_walk_find *find, struct err *err)
{
    find->find = (struct cas_find){.digests = find->digests.digests,
                                   .count = find->digests.count,
                                   .is_missing = find->is_missing,
                                   .done = on_found};
    int rc = cas_find_missing(find->call.walk->source->connections, &find->find, err);
    if (rc != 0)
        remote_walk_find_free(find);
    return rc;
}

/* --- BatchReadBlobs --- */

struct remote_walk_read *remote_walk_read_new(struct remote_walk *walk)
{
    struct remote_walk_read *read = calloc(1, sizeof(*read));
    if (read == NULL)
        return NULL;
    read->call.walk = walk;
    read->call.is_read = true;
    return read;
}

void remote_walk_read_free(struct remote_walk_read *read)
{
    if (read == NULL)
        return;
    struct tree_directories *directories = &read->call.walk->source->directories;
    for (size_t i = 0; read->directories != NULL && i < read->count; i++)
        if (read->directories[i] != NULL)
            tree_directories_unpin(directories, read->directories[i]);
    free(read->directories);
    free(read->digests);
    free(read);
}

bool remote_walk_read_has_room(const struct remote_walk_read *read, const struct digest *digest)
{
    return read->count < REMOTE_WALK_BATCH_COUNT_MAX &&
           digest->size <= read->call.walk->batch_max - read->bytes;
}

int remote_walk_read_add(struct remote_walk_read *read, const struct digest *digest,
                         struct err *err)
{
    if (read->count == read->capacity) {
        size_t capacity = read->capacity == 0 ? 16 : 2 * read->capacity;
        struct digest *digests = realloc(read->digests, capacity * sizeof(*digests));
        if (digests == NULL)
            return err_no_memory(err, "the check of a tree");
        read->digests = digests;
        read->capacity = capacity;
    }
    read->digests[read->count++] = *digest;
    read->bytes += digest->size;
    return 0;
}

/* What is a directory is remembered at once, so that other checks have it too. */
static void on_blob(struct cas_read *call, size_t index, struct span data)
{
    struct remote_walk_read *read =
        (struct remote_walk_read *)((char *)call - offsetof(struct remote_walk_read, read));
    struct err err;
    if (data.data == NULL)
        return;
    if (tree_directory_parse(&read->digests[index], data, &read->directories[index], &err) != 0) {
        read->directories[index] = NULL;
        if (read->fault.code != ERR_INVALID)
            read->fault = err;
        return;
    }
    tree_directories_add(&read->call.walk->source->directories, read->directories[index]);
}

static void on_read(struct cas_read *call, const struct err *err)
{
    struct remote_walk_read *read =
        (struct remote_walk_read *)((char *)call - offsetof(struct remote_walk_read, read));
    remote_walk_take_back(&read->call, read->fault.code != ERR_OK ? &read->fault : err);
}

int remote_walk_read_send(struct remote_walk_read *read, struct err *err)
{
    read->is_sent = true;
    read->read = (struct cas_read){
        .digests = read->digests, .count = read->count, .blob = on_blob, .done = on_read};
    read->directories = calloc(read->count, sizeof(struct tree_directory *));
    int rc = read->directories != NULL
                 ? cas_read_blobs(read->call.walk->source->connections, &read->read, err)
                 : err_no_memory(err, "the check of a tree");
    if (rc != 0)
        remote_walk_read_free(read);
    return rc;
}
