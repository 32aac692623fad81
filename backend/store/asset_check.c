/* SPDX-License-Identifier: Apache-2.0 */
/* Checking an asset index: a walk over its rows, a few at a time, so that no snapshot is long. */
#include "store/asset_check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "store/asset_file.h"
#include "store/asset_tables.h"
#include "store/asset_tables_private.h"
#include "store/cas_check.h"
#include "store/disk.h"

enum {
    STEP_ROWS = 64,
    PASSES_MAX = 16,
    STEP_BYTES = 1 << 20,
    GROWTH_SHARE = 8,      /* of the file, that removals may let it grow by, */
    GROWTH_MIN = 1 << 20,  /* at least */
    NAMED_BY_HASH_MAX = 80 /* bytes of a text */
};

/* A row that is broken; all of it in the arena of its step. */
struct broken {
    struct span key;
    const char *subject;
    const char *reason;
    bool is_readable;
};

struct walk {
    struct store_check *told;
    struct asset_checked *checked;
    struct cas *cas;
    struct store_directory directory;
    struct asset_shared shared;
    struct asset_uses uses;
    struct asset_tables tables;
    bool is_writing;
    struct err not_writing; /* why not, if that was tried */
    bool was_writing_tried;
    uint64_t total;
    unsigned passes;
    /* The last row seen: */
    bool has_begun;
    bool has_ended;
    size_t key_size;
    uint8_t key[512]; /* the longest that the database has is 511 */
    /* Of the step at hand: */
    struct arena arena;
    struct broken broken[STEP_ROWS];
    size_t broken_count;
};

/* --- one asset --- */

static bool is_whole(const struct walk *walk, const struct asset *asset)
{
    if (!cas_check_has(walk->cas, &asset->content))
        return false;
    for (size_t i = 0; i < asset->blob_count; i++)
        if (!cas_check_has(walk->cas, &asset->blobs[i]))
            return false;
    for (size_t i = 0; i < asset->directory_count; i++)
        if (!cas_check_has(walk->cas, &asset->directories[i]))
            return false;
    return true;
}

/* ERR_DATA_LOSS: KEY is not what the row stands under. */
static int compare_name(const struct asset_key *key, const uint8_t *hash, struct err *err)
{
    struct asset_name name;
    int rc = asset_name_init(&name, key, err);
    if (rc != 0)
        return rc;
    if (memcmp(name.hash, hash, sizeof(name.hash)) != 0)
        rc = err_set(err, ERR_DATA_LOSS, "it stands under the hash of another name");
    asset_name_fini(&name);
    return rc;
}

/* *URI is set as soon as it is known. ERR_DATA_LOSS: it is broken. ERR_IO: it cannot be read. */
static int check_asset(struct walk *walk, struct MDB_txn *txn, struct span row_key,
                       struct span packed, const char **uri, struct err *err)
{
    struct asset_row row;
    struct asset_key key;
    struct asset asset;
    struct span record;
    if (row_key.size != ASSET_HASH_SIZE)
        return err_set(err, ERR_DATA_LOSS, "its row stands under %zu bytes", row_key.size);
    if (!asset_row_unpack(packed, &row))
        return err_set(err, ERR_DATA_LOSS, "its row has a wrong checksum");
    int rc = asset_tables_get_record(txn, &row, &record);
    if (rc == ASSET_ENV_NOT_FOUND)
        return err_set(err, ERR_DATA_LOSS, "its record is missing");
    if (rc != 0)
        return asset_env_fault(err, rc, "read its record");
    rc = asset_record_unpack(record, NULL, &walk->arena, &key, &asset, err);
    if (rc != 0)
        return rc;
    *uri = key.uri;
    rc = compare_name(&key, row_key.data, err);
    if (rc == 0 && walk->cas != NULL && !is_whole(walk, &asset))
        walk->checked->incomplete++;
    return rc;
}

/* What is told of an asset whose URI is not known. */
static char *name_by_hash(struct walk *walk, struct span key)
{
    char text[NAMED_BY_HASH_MAX] = "";
    for (size_t i = 0; i < key.size && i < ASSET_HASH_SIZE; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", key.data[i]);
    return arena_printf(&walk->arena, "(name unknown, its SHA-256 is %s)", text);
}

static int note_broken(struct walk *walk, struct span key, const char *uri, struct err *err)
{
    struct broken *broken = &walk->broken[walk->broken_count];
    uint8_t *copy = (uint8_t *)arena_copy(&walk->arena, key.data, key.size);
    *broken = (struct broken){.key = {copy, key.size},
                              .subject = uri != NULL ? uri : name_by_hash(walk, key),
                              .reason = arena_strdup(&walk->arena, err->msg),
                              .is_readable = err->code == ERR_DATA_LOSS};
    if (copy == NULL || broken->subject == NULL || broken->reason == NULL)
        return err_no_memory(err, "a list of broken assets");
    walk->broken_count++;
    return 0;
}

/* --- removing what is broken --- */

/* NULL, or why what is broken stays. */
static const char *become_writer(struct walk *walk)
{
    struct err *err = &walk->not_writing;
    if (walk->was_writing_tried)
        return walk->is_writing ? NULL : err->msg;
    walk->was_writing_tried = true;
    int rc = store_directory_lock(&walk->directory, err);
    if (rc != 0) {
        (void)err_wrap(err, "stays, as only the server can remove it: stop that and repair again");
        return err->msg;
    }
    if (asset_tables_take_over(&walk->tables, err) != 0) {
        store_directory_unlock(&walk->directory);
        (void)err_wrap(err, "stays");
        return err->msg;
    }
    walk->is_writing = true;
    return NULL;
}

static int delete_row(struct walk *walk, struct span key)
{
    struct span packed;
    struct asset_row row;
    int rc = asset_env_get(walk->tables.txn, ASSET_ROWS, key, &packed);
    if (rc != 0)
        return rc == ASSET_ENV_NOT_FOUND ? 0 : rc;
    if (key.size == ASSET_HASH_SIZE && asset_row_unpack(packed, &row))
        return asset_tables_delete(&walk->tables, key.data, &row);
    return asset_tables_delete_key(&walk->tables, ASSET_ROWS, key);
}

/* Removes all that is broken of a step in one transaction. */
static int delete_all(struct walk *walk, struct err *err)
{
    int rc = asset_tables_begin(&walk->tables, 0, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < walk->broken_count; i++)
        if (walk->broken[i].is_readable)
            rc = delete_row(walk, walk->broken[i].key);
    if (rc == 0)
        return asset_tables_commit(&walk->tables, err);
    asset_tables_abort(&walk->tables);
    return asset_env_fault(err, rc, "remove a broken asset");
}

static void tell_broken(struct walk *walk)
{
    struct err err;
    const char *stays = NULL;
    if (walk->broken_count > 0 && walk->told->repairs) {
        stays = become_writer(walk);
        if (stays == NULL && delete_all(walk, &err) != 0) {
            (void)err_wrap(&err, "stays");
            stays = err.msg;
        }
    }
    for (size_t i = 0; i < walk->broken_count; i++) {
        const struct broken *broken = &walk->broken[i];
        bool is_dropped = walk->told->repairs && stays == NULL && broken->is_readable;
        if (walk->passes > 1 && !is_dropped)
            continue; /* it was told before */
        struct store_fault fault = {
            .what = "asset", .subject = broken->subject, .reason = broken->reason};
        if (is_dropped)
            fault.answer = "dropped";
        else if (walk->told->repairs)
            fault.answer = stays != NULL ? stays : "stays: the disk may read it another time";
        store_check_tell(walk->told, &fault, is_dropped);
    }
}

/* --- the walk --- */

static int next_row(struct walk *walk, struct MDB_txn *txn, struct span *key, struct span *packed)
{
    *key = asset_span(walk->key, walk->key_size);
    int rc = walk->has_begun ? asset_env_next(txn, ASSET_ROWS, key, packed)
                             : asset_env_first(txn, ASSET_ROWS, key, packed);
    if (rc == 0 && key->size <= sizeof(walk->key)) {
        walk->has_begun = true;
        walk->key_size = key->size;
        memcpy(walk->key, key->data, key->size);
    }
    return rc;
}

static int read_rows(struct walk *walk, struct MDB_txn *txn, struct err *err)
{
    for (size_t i = 0; i < STEP_ROWS && walk->arena.total < STEP_BYTES; i++) {
        struct span key;
        struct span packed;
        const char *uri = NULL;
        int rc = next_row(walk, txn, &key, &packed);
        walk->has_ended = rc == ASSET_ENV_NOT_FOUND;
        if (walk->has_ended)
            return 0;
        if (rc != 0)
            return asset_env_fault(err, rc, "read the rows");
        walk->checked->assets++;
        rc = check_asset(walk, txn, key, packed, &uri, err);
        if (rc == -ERR_DATA_LOSS || rc == -ERR_IO)
            rc = note_broken(walk, key, uri, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int take_step(struct walk *walk, struct err *err)
{
    struct MDB_txn *txn;
    int rc = asset_db_read_begin(walk->tables.db, &txn, err);
    if (rc != 0)
        return rc;
    walk->broken_count = 0;
    walk->total = asset_env_count(txn, ASSET_ROWS);
    rc = read_rows(walk, txn, err);
    asset_db_read_end(walk->tables.db, txn);
    if (rc == 0)
        tell_broken(walk);
    arena_reset(&walk->arena);
    walk->told->progress(walk->told->context, "assets", walk->checked->assets, walk->total);
    return rc;
}

/* From the first row to the last. */
static int take_pass(struct walk *walk, struct err *err)
{
    int rc = 0;
    walk->passes++;
    walk->has_begun = false;
    walk->has_ended = false;
    *walk->checked = (struct asset_checked){.assets = 0};
    while (rc == 0 && !walk->has_ended)
        rc = take_step(walk, err);
    return rc;
}

/* --- open and close --- */

/* Bytes of the file of the assets. ERR_NOT_FOUND: there is none yet. */
static int measure(const struct walk *walk, int64_t *bytes, struct err *err)
{
    char name[ASSET_FILE_NAME_SIZE];
    uint64_t number;
    struct stat st;
    int rc = asset_file_newest(walk->directory.fd, &number, err);
    if (rc != 0)
        return rc;
    asset_file_name(number, name);
    if (fstatat(walk->directory.fd, name, &st, 0) != 0)
        return disk_fault(err, errno, "look at %s", name);
    *bytes = st.st_size;
    return 0;
}

/* What other processes told the writer of uses is told again: it was not written. */
static void give_back_uses(struct walk *walk)
{
    size_t count = asset_uses_copy(&walk->uses, walk->tables.written_uses);
    for (size_t i = 0; i < count; i++)
        asset_shared_use(&walk->shared, walk->tables.written_uses[i].hash,
                         walk->tables.written_uses[i].at);
}

static int check_tables(struct walk *walk, int64_t bytes, struct err *err)
{
    int64_t growth = bytes / GROWTH_SHARE > GROWTH_MIN ? bytes / GROWTH_SHARE : GROWTH_MIN;
    int rc = asset_tables_open(&walk->tables, &walk->directory, &walk->shared, bytes + growth,
                               false, &walk->uses, err);
    if (rc != 0)
        return rc;
    uint64_t dropped;
    /* Where the database itself is damaged, what is removed may show more of it. */
    do {
        dropped = walk->told->dropped;
        rc = take_pass(walk, err);
    } while (rc == 0 && walk->told->dropped != dropped && walk->passes < PASSES_MAX);
    if (walk->is_writing)
        give_back_uses(walk);
    asset_tables_close(&walk->tables);
    return rc;
}

static int check_directory(struct walk *walk, struct err *err)
{
    int64_t bytes = 0;
    int rc = measure(walk, &bytes, err);
    if (rc == -ERR_NOT_FOUND)
        return 0; /* nothing was ever pushed; to make it is not for a check */
    if (rc == 0)
        rc = asset_uses_init(&walk->uses, err);
    if (rc != 0)
        return rc;
    rc = asset_shared_open(&walk->directory, &walk->shared, err);
    if (rc == 0) {
        rc = check_tables(walk, bytes, err);
        asset_shared_close(&walk->shared);
    }
    asset_uses_fini(&walk->uses);
    return rc;
}

int asset_check(const char *storage, struct cas *cas, struct store_check *check,
                struct asset_checked *checked, struct err *err)
{
    static const struct store_kind kind = {
        .name = "index", .version = ASSET_FORMAT, .oldest = ASSET_FORMAT};
    struct walk walk = {.told = check, .checked = checked, .cas = cas};
    *checked = (struct asset_checked){.assets = 0}; /* where there is no file yet */
    int rc = store_directory_open(storage, &kind, &walk.directory, err);
    if (rc != 0)
        return rc;
    arena_init(&walk.arena);
    rc = check_directory(&walk, err);
    if (rc != 0)
        (void)err_wrap(err, "%s", walk.directory.path);
    arena_fini(&walk.arena);
    store_directory_close(&walk.directory); /* gives up the lock as well */
    return rc;
}
