/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Assets of casd's into the index, each only if all that it names is in the CAS. Many are made
 * durable and written together.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "control/import_casd.h"
#include "store/checksum.h"
#include "store/instance.h"

enum {
    BATCH = 512,            /* assets that are written together, */
    BATCH_BYTES = 16 << 20, /* unless they have more than this in memory */
    CONTENT_MAX = 16 << 20, /* bytes of a blob that tells what it references */
};

struct entry {
    struct asset_write write; /* first, so that one is found from the other */
    struct batch *batch;
    struct asset_key key;
    struct asset asset;
};

struct batch {
    struct casd_import *import;
    struct arena arena;
    struct cas_hold hold;
    struct entry entries[BATCH];
    size_t count;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t changed;
    size_t under_way;
    struct err err; /* the first of a sync or a write */
};

static void leave_out(struct batch *batch, const struct casd_file *file, const struct err *err)
{
    char text[CASD_FILE_TEXT_MAX];
    batch->import->assets.broken++;
    casd_import_tell(batch->import, casd_file_text(CASD_ASSETS, file, text), err->msg);
}

static void leave_incomplete(struct batch *batch, const struct asset_key *key, const char *reason)
{
    char text[ERR_MESSAGE_SIZE];
    batch->import->assets.incomplete++;
    (void)snprintf(text, sizeof(text), "is not whole: %s", reason);
    casd_import_tell(batch->import, key->uri, text);
}

/* --- writing --- */

static void begin_waiting(struct batch *batch, size_t count)
{
    (void)pthread_mutex_lock(&batch->lock);
    batch->under_way = count;
    (void)pthread_mutex_unlock(&batch->lock);
}

static void end_one(struct batch *batch, const struct err *err)
{
    (void)pthread_mutex_lock(&batch->lock);
    if (err != NULL && batch->err.code == ERR_OK)
        batch->err = *err;
    batch->under_way--;
    (void)pthread_cond_signal(&batch->changed);
    (void)pthread_mutex_unlock(&batch->lock);
}

static int wait_for_all(struct batch *batch, struct err *err)
{
    (void)pthread_mutex_lock(&batch->lock);
    while (batch->under_way > 0)
        (void)pthread_cond_wait(&batch->changed, &batch->lock);
    *err = batch->err;
    (void)pthread_mutex_unlock(&batch->lock);
    return -(int)err->code;
}

/* Embedded in what waits. */
struct sync {
    struct cas_sync sync; /* first */
    struct batch *batch;
};

static void on_synced(struct cas_sync *sync, const struct err *err)
{
    end_one(((struct sync *)sync)->batch, err);
}

static int sync_content(struct batch *batch, struct err *err)
{
    struct sync sync = {.sync = {.hold = &batch->hold, .done = on_synced}, .batch = batch};
    begin_waiting(batch, 1);
    cas_sync(batch->import->cas, &sync.sync);
    return wait_for_all(batch, err);
}

static void on_written(struct asset_write *write, const struct err *err)
{
    end_one(((struct entry *)write)->batch, err);
}

static int write_entries(struct batch *batch, struct err *err)
{
    begin_waiting(batch, batch->count);
    for (size_t i = 0; i < batch->count; i++) {
        struct entry *entry = &batch->entries[i];
        entry->batch = batch;
        entry->write = (struct asset_write){.keys = &entry->key,
                                            .key_count = 1,
                                            .asset = &entry->asset,
                                            .keeps_later = true,
                                            .done = on_written};
        asset_index_write(batch->import->index, &entry->write);
    }
    int rc = wait_for_all(batch, err);
    for (size_t i = 0; rc == 0 && i < batch->count; i++) {
        if (batch->entries[i].write.kept != 0)
            batch->import->assets.there++;
        else
            batch->import->assets.imported++;
    }
    return rc;
}

/* What the entries name is durable before they are. */
static int flush(struct batch *batch, struct err *err)
{
    int rc = batch->count > 0 ? sync_content(batch, err) : 0;
    if (rc == 0)
        rc = write_entries(batch, err);
    batch->count = 0;
    arena_reset(&batch->arena);
    return rc;
}

/* --- one asset --- */

static int read_file(const struct casd_opened *opened, struct arena *arena, struct span *bytes,
                     struct err *err)
{
    if (opened->size > CASD_ASSET_MAX)
        return err_set(err, ERR_INVALID, "it has %" PRId64 " bytes, at most %d are accepted",
                       opened->size, CASD_ASSET_MAX);
    uint8_t *buffer = arena_alloc(arena, (size_t)opened->size + 1);
    if (buffer == NULL)
        return err_no_memory(err, "an asset");
    ssize_t size = casd_source_read(opened->fd, buffer, (size_t)opened->size, err);
    if (size < 0)
        return -(int)err->code;
    *bytes = (struct span){buffer, (size_t)size};
    return 0;
}

/* The file of an asset. Of its times there is the last use, and the push as far as it is known. */
static int read_asset(struct batch *batch, const struct casd_file *file, struct entry *entry,
                      struct err *err)
{
    struct casd_opened opened;
    struct span bytes;
    int rc = casd_source_open_file(&batch->import->source, CASD_ASSETS, file, &opened, err);
    if (rc != 0)
        return rc;
    rc = read_file(&opened, &batch->arena, &bytes, err);
    (void)close(opened.fd);
    if (rc == 0)
        rc = casd_asset_read(bytes, file->name, &batch->arena, &entry->key, &entry->asset, err);
    if (rc != 0)
        return rc;
    int64_t now = batch->import->begun_at;
    entry->asset.fetched_at = opened.used_at < now ? opened.used_at : now;
    entry->asset.pushed_at = opened.made_at < now ? opened.made_at : now;
    return 0;
}

static bool is_expired(const struct casd_import *import, const struct asset *asset)
{
    if (asset->expires_at != 0 && asset->expires_at <= import->begun_at)
        return true;
    return import->expire_after != 0 &&
           import->begun_at - asset->fetched_at >= import->expire_after;
}

/* Whether what is there was pushed no earlier: then nothing needs to be checked. */
static bool is_there(const struct batch *batch, const struct entry *entry)
{
    struct arena arena;
    struct asset found;
    struct err err;
    arena_init(&arena);
    bool is_later = asset_index_get(batch->import->index, &entry->key, &arena, &found, &err) == 0 &&
                    found.pushed_at >= entry->asset.pushed_at;
    arena_fini(&arena);
    return is_later;
}

/* Sets what the content tells that is referenced. ERR_NOT_FOUND: the content is not there. */
static int refer(struct batch *batch, struct entry *entry, struct err *err)
{
    const struct digest *content = &entry->asset.content;
    if (!casd_asset_is_telling(&entry->key))
        return 0;
    if (content->size > CONTENT_MAX)
        return err_set(err, ERR_INVALID, "its content has %" PRId64 " bytes, at most %d are read",
                       content->size, CONTENT_MAX);
    uint8_t *buffer = malloc((size_t)content->size + 1);
    if (buffer == NULL)
        return err_no_memory(err, "the content of an asset");
    struct cas_blob blob = {.digest = *content};
    cas_get(batch->import->cas, &batch->hold, &blob, 1, buffer);
    int rc = -(int)blob.err.code;
    if (rc != 0)
        *err = blob.err;
    else
        rc = casd_asset_refer(&entry->key, blob.data, &batch->arena, &entry->asset, err);
    free(buffer);
    return rc;
}

/* Whether all that it names is there. ERR_PRECONDITION, ERR_INVALID: not all is, which is told. */
static int check_whole(struct batch *batch, const struct entry *entry, struct err *err)
{
    struct tree_list lists[INSTANCE_LISTS];
    struct tree_missing missing = {.count = 0};
    char digest[DIGEST_TEXT_MAX];
    instance_lists(entry->key.kind, &entry->asset, lists);
    int rc =
        tree_check(batch->import->trees, &batch->hold, lists, INSTANCE_LISTS, NULL, &missing, err);
    if (rc != 0 && missing.count != 0)
        (void)err_set(err, ERR_PRECONDITION, "%zu missing, such as %s", missing.count,
                      digest_text(&missing.digests[0], digest));
    return rc;
}

/* What a push is held to. */
static int check_asset(const struct batch *batch, const struct entry *entry, struct err *err)
{
    const struct asset_key *key = &entry->key;
    const struct asset *asset = &entry->asset;
    struct checksum checksum;
    int rc = checksum_parse(key->qualifiers, key->qualifier_count, &checksum, err);
    if (rc == 0 && checksum.count != 0 && key->kind == ASSET_BLOB &&
        checksum.function == asset->content.function &&
        !checksum_matches(&checksum, &asset->content))
        rc = err_set(err, ERR_INVALID, "checksum.sri is not the checksum of the blob");
    return rc == 0 ? asset_index_check_size(batch->import->index, key, asset, err) : rc;
}

/* Whether the asset goes into the batch; it is counted if not. An error ends the import. */
static int take(struct batch *batch, const struct casd_file *file, struct entry *entry,
                bool *is_taken, struct err *err)
{
    struct casd_asset_counts *counts = &batch->import->assets;
    *is_taken = false;
    int rc = read_asset(batch, file, entry, err);
    if (rc == 0 && is_expired(batch->import, &entry->asset)) {
        counts->expired++;
        return 0;
    }
    if (rc == 0 && is_there(batch, entry)) {
        counts->there++;
        return 0;
    }
    bool is_read = rc == 0;
    if (rc == 0)
        rc = refer(batch, entry, err);
    if (rc == -ERR_NOT_FOUND && is_read) {
        leave_incomplete(batch, &entry->key, err->msg);
        return 0;
    }
    if (rc == 0)
        rc = check_asset(batch, entry, err);
    if (rc == -ERR_NO_MEMORY || rc == -ERR_UNAVAILABLE)
        return rc;
    if (rc != 0) {
        leave_out(batch, file, err);
        return 0;
    }
    rc = check_whole(batch, entry, err);
    *is_taken = rc == 0;
    if (rc != -ERR_PRECONDITION && rc != -ERR_INVALID)
        return rc;
    leave_incomplete(batch, &entry->key, err->msg);
    return 0;
}

/* --- all of them --- */

/* The one used last comes last, and counts as used last. */
static int take_some(struct batch *batch, const struct casd_files *files, size_t *left,
                     struct err *err)
{
    int rc = 0;
    cas_hold_begin(batch->import->cas, &batch->hold);
    while (rc == 0 && *left > 0 && batch->count < BATCH && batch->arena.total < BATCH_BYTES) {
        bool is_taken;
        rc = take(batch, &files->files[--*left], &batch->entries[batch->count], &is_taken, err);
        batch->count += is_taken;
    }
    if (rc == 0)
        rc = flush(batch, err);
    cas_hold_end(&batch->hold);
    screen_show(&batch->import->screen, "assets", files->count - *left, files->count);
    return rc;
}

static int take_all(struct casd_import *import, const struct casd_files *files, struct err *err)
{
    struct batch *batch = calloc(1, sizeof(*batch));
    size_t left = files->count;
    int rc = 0;
    if (batch == NULL)
        return err_no_memory(err, "an import");
    batch->import = import;
    arena_init(&batch->arena);
    (void)pthread_mutex_init(&batch->lock, NULL);
    (void)pthread_cond_init(&batch->changed, NULL);
    while (rc == 0 && left > 0)
        rc = take_some(batch, files, &left, err);
    (void)pthread_cond_destroy(&batch->changed);
    (void)pthread_mutex_destroy(&batch->lock);
    arena_fini(&batch->arena);
    free(batch);
    return rc;
}

int casd_import_assets(struct casd_import *import, struct err *err)
{
    struct casd_files files;
    int rc = casd_import_list(import, CASD_ASSETS, &import->assets.broken, &files, err);
    if (rc == 0)
        rc = take_all(import, &files, err);
    casd_files_fini(&files);
    return rc;
}
