/* SPDX-License-Identifier: Apache-2.0 */
/* Fetch and push: the index and the CAS together. */
#include "store/instance.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/user.h"
#include "conf/path.h"
#include "store/directory.h"

/* Bytes of memory for what is known of the trees of one instance. */
enum { TREE_CACHE_LIMIT = 16 << 20 };

/* Storage that is open. Read only, but for the last two. */
struct storage {
    struct storage *next;
    dev_t device; /* this and the next tell the directory, by whatever path */
    ino_t inode;
    char *real_path; /* where it was when it was opened, which is where the index makes files */
    const struct conf_instance *conf; /* by which it was opened */
    bool may_write;
    struct asset_index *index;
    struct cas *cas;          /* NULL: index only */
    struct tree_cache *trees; /* NULL: index only */
    pthread_mutex_t turn_lock;
    bool is_closing; /* the index is not to be asked any more whether it is written */
};

struct instances {
    struct instances *former; /* those that it has followed */
    struct storage *storages; /* all that are open; those of the former ones are at its end */
    struct pool *workers;
    size_t count;
    struct instance instances[];
};

/* --- storage --- */

/*
 * Blobs and assets are written by the same process, or a push could end nowhere: who has the turn
 * at the index has it at the CAS as soon as that is free.
 */
static bool is_turn(void *context)
{
    struct storage *storage = context;
    struct err ignored;
    (void)pthread_mutex_lock(&storage->turn_lock);
    bool is_ours = !storage->is_closing && asset_index_is_writing(storage->index, &ignored) == 0;
    (void)pthread_mutex_unlock(&storage->turn_lock);
    return is_ours;
}

static void close_storage(struct storage *storage)
{
    (void)pthread_mutex_lock(&storage->turn_lock);
    storage->is_closing = true;
    (void)pthread_mutex_unlock(&storage->turn_lock);
    asset_index_close(storage->index);
    tree_cache_free(storage->trees);
    cas_close(storage->cas);
    (void)pthread_mutex_destroy(&storage->turn_lock);
    free(storage->real_path);
    free(storage);
}

/* Closes those from FIRST on to before END. */
static void close_storages(struct storage *first, const struct storage *end)
{
    while (first != end) {
        struct storage *next = first->next;
        close_storage(first);
        first = next;
    }
}

/* STATUS of PATH or, as long as that is missing, of what it is to be made in; cuts PATH to that. */
static bool stat_nearest(char path[PATH_MAX], struct stat *status)
{
    while (stat(path, status) != 0) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT || strcmp(path, "/") == 0 || strcmp(path, ".") == 0)
            return false;
        if (slash == NULL)
            (void)strcpy(path, ".");
        else if (slash == path)
            (void)strcpy(path, "/");
        else
            *slash = '\0';
    }
    return true;
}

/* What root makes is root's alone: a server that runs as the owner then could not write. */
static int check_owner(const char *storage, struct err *err)
{
    struct stat status;
    char path[PATH_MAX], user[USER_TEXT_SIZE];
    (void)snprintf(path, sizeof(path), "%s", storage);
    if (geteuid() != 0 || !stat_nearest(path, &status) || status.st_uid == 0)
        return 0;
    return err_set(err, ERR_PRECONDITION,
                   "assetd runs as root, but %.200s belongs to %s: run it as that user, or give it "
                   "to root (chown -R root)",
                   path, user_text(status.st_uid, user));
}

static int open_stores(struct storage *storage, struct err *err)
{
    const struct conf_instance *conf = storage->conf;
    struct asset_index_options index = {.path = conf->storage,
                                        .quota = conf->index_quota,
                                        .expire_after = conf->expire_after,
                                        .may_write = storage->may_write,
                                        .place = conf->index_only ? ASSET_PLACE_ELSEWHERE
                                                                  : ASSET_PLACE_HERE};
    struct cas_options cas = {.path = conf->storage,
                              .quota = conf->quota,
                              .may_write = storage->may_write,
                              .is_turn = is_turn,
                              .context = storage};
    struct stat status;
    int rc = check_owner(conf->storage, err);
    if (rc == 0) {
        store_directory_warn(storage->real_path, "index", storage->may_write);
        if (!conf->index_only)
            store_directory_warn(storage->real_path, "cas", storage->may_write);
    }
    if (rc == 0)
        rc = asset_index_open(&index, &storage->index, err);
    if (rc == 0 && !conf->index_only)
        rc = cas_open(&cas, &storage->cas, err);
    if (rc == 0 && !conf->index_only)
        rc = tree_cache_new(storage->cas, TREE_CACHE_LIMIT, &storage->trees, err);
    if (rc == 0 && stat(conf->storage, &status) != 0)
        rc = err_errno(err, errno, "look at %s", conf->storage);
    if (rc != 0)
        return rc;
    storage->device = status.st_dev;
    storage->inode = status.st_ino;
    return 0;
}

static int open_storage(const struct conf *conf, const struct conf_instance *one,
                        const char *real_path, struct storage **out, struct err *err)
{
    struct storage *storage = calloc(1, sizeof(*storage));
    char *path = strdup(real_path);
    if (storage == NULL || path == NULL) {
        free(storage);
        free(path);
        return err_no_memory(err, "an instance");
    }
    storage->real_path = path;
    storage->conf = one;
    storage->may_write = conf_instance_is_written(conf, one);
    (void)pthread_mutex_init(&storage->turn_lock, NULL);
    int rc = open_stores(storage, err);
    if (rc != 0) {
        close_storage(storage);
        return rc;
    }
    *out = storage;
    return 0;
}

/*
 * Storage that a configuration does not have any more, or would have elsewhere, is open still: the
 * check of the file, which is between its own instances, does not see it.
 */
static int check_place(const struct storage *storage, const char *real_path, struct err *err)
{
    static const char until[] =
        "in use until assetd is restarted: choose another directory, or restart it";
    for (; storage != NULL; storage = storage->next) {
        const char *open = storage->real_path;
        if (strcmp(real_path, open) == 0)
            return err_set(err, ERR_PRECONDITION,
                           "%.200s leads to another directory than it did, which is %s", open,
                           until);
        if (path_is_inside(real_path, open))
            return err_set(err, ERR_PRECONDITION, "%.200s lies inside %.200s, which is %s",
                           real_path, open, until);
        if (path_is_inside(open, real_path))
            return err_set(err, ERR_PRECONDITION, "%.200s holds %.200s, which is %s", real_path,
                           open, until);
    }
    return 0;
}

/* --- instances --- */

/* The instance of INSTANCES that has the storage of INDEX; NULL if none has. */
static const struct instance *find_user(const struct instances *instances,
                                        const struct asset_index *index)
{
    for (size_t i = 0; i < instances->count; i++)
        if (instances->instances[i].index == index)
            return &instances->instances[i];
    return NULL;
}

/* The storage of ONE if it is an instance that stays, with its storage; else NULL. */
static struct storage *find_kept(const struct instances *instances, const struct conf_instance *one)
{
    const struct instance *before =
        instances->former != NULL ? instances_find(instances->former, one->name) : NULL;
    if (before == NULL || strcmp(before->conf->storage, one->storage) != 0)
        return NULL;
    struct storage *storage = instances->storages;
    while (storage->index != before->index)
        storage = storage->next;
    return storage;
}

/*
 * The storage of ONE if it is open already, else NULL. An instance that stays keeps its storage,
 * whatever the path leads to by now; others have what the path leads to.
 */
static struct storage *find_storage(const struct instances *instances,
                                    const struct conf_instance *one)
{
    struct storage *storage = find_kept(instances, one);
    struct stat status;
    if (storage != NULL)
        return storage;
    if (stat(one->storage, &status) != 0)
        return NULL;
    storage = instances->storages;
    while (storage != NULL && (storage->device != status.st_dev || storage->inode != status.st_ino))
        storage = storage->next;
    return storage;
}

/* Opens the storage of ONE, and puts it in front of what is open. */
static int add_storage(struct instances *instances, const struct conf *conf,
                       const struct conf_instance *one, struct storage **out, struct err *err)
{
    struct arena arena;
    arena_init(&arena);
    const char *real_path = path_resolve(one->storage, &arena);
    int rc = real_path != NULL ? check_place(instances->storages, real_path, err)
                               : err_no_memory(err, "an instance");
    if (rc == 0)
        rc = open_storage(conf, one, real_path, out, err);
    arena_fini(&arena);
    if (rc != 0)
        return err_wrap(err, "instance \"%s\"", one->name);
    (*out)->next = instances->storages;
    instances->storages = *out;
    return 0;
}

/* ONE and USER have the same storage. Whichever of them has had it is not to blame. */
static int refuse_shared(const struct instances *instances, const struct conf_instance *one,
                         const struct conf_instance *user, struct err *err)
{
    if (find_kept(instances, one) != NULL) {
        const struct conf_instance *taker = user;
        user = one;
        one = taker;
    }
    return err_set(err, ERR_PRECONDITION, "instance \"%s\": %s is the storage of instance \"%s\"%s",
                   one->name, one->storage, user->name,
                   find_kept(instances, user) != NULL ? ", which keeps it until assetd is restarted"
                                                      : "");
}

/* Makes the next instance of CONF. KEPT is NULL at the start. */
static int add_instance(struct instances *instances, struct conf *conf, struct conf_kept_list *kept,
                        struct err *err)
{
    size_t index = instances->count;
    const struct conf_instance *one = &conf->instances[index];
    struct storage *storage = find_storage(instances, one);
    const struct instance *user = storage != NULL ? find_user(instances, storage->index) : NULL;
    if (user != NULL)
        return refuse_shared(instances, one, user->conf, err);
    if (storage == NULL) {
        int rc = add_storage(instances, conf, one, &storage, err);
        if (rc != 0)
            return rc;
    } else if (kept != NULL) {
        bool is_written = conf_instance_is_written(conf, one);
        conf_carry_storage(storage->conf, conf, index, kept);
        if (is_written != storage->may_write)
            conf_kept_add_instance(kept, index, "", storage->may_write ? "written" : "only read",
                                   is_written ? "written" : "only read");
    }
    instances->instances[instances->count++] = (struct instance){.conf = one,
                                                                 .index = storage->index,
                                                                 .cas = storage->cas,
                                                                 .trees = storage->trees,
                                                                 .workers = instances->workers};
    return 0;
}

/* FORMER and KEPT are NULL for the first ones. */
static int make_instances(struct instances *former, struct pool *workers, struct conf *conf,
                          struct conf_kept_list *kept, struct instances **out, struct err *err)
{
    struct instances *instances =
        calloc(1, sizeof(*instances) + conf->instance_count * sizeof(instances->instances[0]));
    if (instances == NULL)
        return err_no_memory(err, "the instances");
    struct storage *open = former != NULL ? former->storages : NULL;
    instances->former = former;
    instances->storages = open;
    instances->workers = workers;
    int rc = 0;
    while (rc == 0 && instances->count < conf->instance_count)
        rc = add_instance(instances, conf, kept, err);
    if (rc == 0 && kept != NULL && kept->no_memory)
        rc = err_no_memory(err, "the configuration");
    if (rc != 0) {
        close_storages(instances->storages, open);
        free(instances);
        return rc;
    }
    *out = instances;
    return 0;
}

/* Whether nobody is asked whether the content is there. */
static bool is_unchecked(const struct instance *instance)
{
    return instance->cas == NULL && instance->conf->cas == NULL;
}

/* What is new of INSTANCES. */
static void log_opened(const struct instances *instances)
{
    for (size_t i = 0; i < instances->count; i++) {
        const struct instance *one = &instances->instances[i];
        const struct instance *before =
            instances->former != NULL ? find_user(instances->former, one->index) : NULL;
        bool is_new = before == NULL || strcmp(before->conf->name, one->conf->name) != 0;
        if (is_new && instances->former != NULL)
            log_info("instance-added", log_str("instance", one->conf->name),
                     log_str("storage", one->conf->storage));
        if (is_unchecked(one) && (is_new || !is_unchecked(before)))
            log_info("index-only", log_str("instance", one->conf->name),
                     log_str("answers", "as stored; no CAS is asked whether the content is there"));
    }
}

static void log_gone(const struct instances *instances)
{
    for (size_t i = 0; i < instances->former->count; i++) {
        const struct instance *one = &instances->former->instances[i];
        const struct instance *now = find_user(instances, one->index);
        if (now == NULL)
            log_info("instance-gone", log_str("instance", one->conf->name),
                     log_str("storage", one->conf->storage),
                     log_str("answer", "new calls are NOT_FOUND; its storage stays open until "
                                       "assetd ends"));
        else if (strcmp(now->conf->name, one->conf->name) != 0)
            log_info("instance-gone", log_str("instance", one->conf->name),
                     log_str("storage", one->conf->storage),
                     log_str("answer", "new calls are NOT_FOUND; its storage has a new name"));
    }
}

int instances_open(const struct conf *conf, struct pool *workers, struct instances **instances,
                   struct err *err)
{
    /* Nothing of the first one is put back. */
    int rc = make_instances(NULL, workers, (struct conf *)conf, NULL, instances, err);
    if (rc == 0)
        log_opened(*instances);
    return rc;
}

int instances_follow(struct instances *running, struct conf *conf, struct conf_kept_list *kept,
                     struct instances **next, struct err *err)
{
    int rc = make_instances(running, running->workers, conf, kept, next, err);
    if (rc != 0)
        return rc;
    log_opened(*next);
    log_gone(*next);
    return 0;
}

void instances_close(struct instances *instances)
{
    if (instances == NULL)
        return;
    close_storages(instances->storages, NULL);
    while (instances != NULL) {
        struct instances *former = instances->former;
        free(instances);
        instances = former;
    }
}

struct instance *instances_find(const struct instances *instances, const char *name)
{
    for (size_t i = 0; i < instances->count; i++)
        if (strcmp(instances->instances[i].conf->name, name) == 0)
            return (struct instance *)&instances->instances[i];
    return NULL;
}

struct instance *instances_at(const struct instances *instances, size_t index)
{
    return index < instances->count ? (struct instance *)&instances->instances[index] : NULL;
}

/* --- completeness --- */

/* Either tree_check or tree_check_remembered. */
typedef int check_function(struct tree_cache *cache, struct cas_hold *hold,
                           const struct tree_list *lists, size_t list_count,
                           const struct tree_label *label, struct tree_missing *missing,
                           struct err *err);

void instance_lists(enum asset_kind kind, const struct asset *asset,
                    struct tree_list lists[INSTANCE_LISTS])
{
    lists[0] = (struct tree_list){&asset->content, 1, kind == ASSET_DIRECTORY};
    lists[1] = (struct tree_list){asset->blobs, asset->blob_count, false};
    lists[2] = (struct tree_list){asset->directories, asset->directory_count, true};
}

/* Checks the content of an asset and all that it references. LABEL: NULL for one that is new. */
static int check_asset(struct instance *instance, enum asset_kind kind, const struct asset *asset,
                       const struct tree_label *label, struct cas_hold *hold, check_function *check,
                       struct tree_missing *missing, struct err *err)
{
    struct tree_list lists[INSTANCE_LISTS];
    instance_lists(kind, asset, lists);
    return check(instance->trees, hold, lists, INSTANCE_LISTS, label, missing, err);
}

/* Of an asset that the index has: each push makes another version. */
static struct tree_label label_of(const struct asset *asset)
{
    struct tree_label label = {.version = asset->version, .time = asset->pushed_at};
    _Static_assert(sizeof(label.name) <= sizeof(asset->id), "a name is the beginning of an id");
    memcpy(label.name, asset->id, sizeof(label.name));
    return label;
}

/* --- fetch --- */

void instance_fetch_begin(struct instance *instance, struct instance_fetch *fetch)
{
    if (instance->cas != NULL)
        cas_hold_begin(instance->cas, &fetch->hold);
}

void instance_fetch_end(struct instance *instance, struct instance_fetch *fetch)
{
    if (instance->cas != NULL)
        cas_hold_end(&fetch->hold);
}

static struct asset_key key_of(const struct instance_fetch *fetch, const char *uri)
{
    return (struct asset_key){fetch->kind, fetch->function, uri, fetch->qualifiers,
                              fetch->qualifier_count};
}

int instance_fetch_known(struct instance *instance, struct instance_fetch *fetch,
                         struct arena *arena, struct err *err)
{
    while (fetch->next < fetch->uri_count) {
        fetch->uri = fetch->uris[fetch->next++];
        struct asset_key key = key_of(fetch, fetch->uri);
        int rc = asset_index_get(instance->index, &key, arena, &fetch->asset, err);
        bool is_miss =
            rc == -ERR_NOT_FOUND || (rc == 0 && fetch->asset.pushed_at < fetch->oldest_accepted);
        if (!is_miss)
            return rc;
    }
    return err_set(err, ERR_NOT_FOUND, "no asset is known for this URI and these qualifiers");
}

void instance_fetch_touch(struct instance *instance, const struct instance_fetch *fetch)
{
    asset_index_touch(instance->index, &fetch->asset);
}

int instance_fetch_verdict(const struct tree_missing *missing, struct err *err)
{
    char text[DIGEST_TEXT_MAX];
    if (err->code == ERR_PRECONDITION)
        return err_set(err, ERR_NOT_FOUND, "blob %s is gone",
                       digest_text(&missing->digests[0], text));
    if (err->code == ERR_INVALID)
        err->code = ERR_NOT_FOUND;
    return -(int)err->code;
}

int instance_fetch_not_whole(const struct err *reason, struct err *err)
{
    return err_set(err, ERR_NOT_FOUND,
                   "the asset is known but no longer whole, until it is pushed again: %s",
                   reason->msg);
}

/* Whether the asset just found is whole; ERR_NOT_FOUND if it is not. */
static int check_found(struct instance *instance, struct instance_fetch *fetch,
                       check_function *check, struct err *err)
{
    struct tree_missing missing;
    if (instance->cas == NULL)
        return 0;
    const struct tree_label label = label_of(&fetch->asset);
    int rc = check_asset(instance, fetch->kind, &fetch->asset, &label, &fetch->hold, check,
                         &missing, err);
    return rc != 0 ? instance_fetch_verdict(&missing, err) : 0;
}

static int fetch_with(struct instance *instance, struct instance_fetch *fetch,
                      check_function *check, struct arena *arena, struct err *err)
{
    bool is_known = false;
    struct err reason;
    fetch->next = 0;
    for (;;) {
        int rc = instance_fetch_known(instance, fetch, arena, err);
        if (rc == -ERR_NOT_FOUND && is_known)
            return instance_fetch_not_whole(&reason, err);
        if (rc != 0)
            return rc;
        rc = check_found(instance, fetch, check, &reason);
        if (rc == 0) {
            instance_fetch_touch(instance, fetch);
            return 0;
        }
        if (rc != -ERR_NOT_FOUND) {
            *err = reason;
            return rc;
        }
        is_known = true;
    }
}

int instance_fetch(struct instance *instance, struct instance_fetch *fetch, struct arena *arena,
                   struct err *err)
{
    return fetch_with(instance, fetch, tree_check, arena, err);
}

int instance_fetch_remembered(struct instance *instance, struct instance_fetch *fetch,
                              struct arena *arena, struct err *err)
{
    return fetch_with(instance, fetch, tree_check_remembered, arena, err);
}

/* --- push: check, then make the content durable, then the index entry --- */

static void end_push(struct instance_push *push, const struct err *err)
{
    if (push->instance->cas != NULL)
        cas_hold_end(&push->hold);
    push->done(push, err);
}

static void on_written(struct asset_write *write, const struct err *err)
{
    end_push((struct instance_push *)((char *)write - offsetof(struct instance_push, write)), err);
}

static void write_index(struct instance_push *push)
{
    push->asset.pushed_at = clock_now();
    push->asset.fetched_at = push->asset.pushed_at;
    push->write = (struct asset_write){.keys = push->keys,
                                       .key_count = push->key_count,
                                       .asset = &push->asset,
                                       .done = on_written};
    asset_index_write(push->instance->index, &push->write);
}

static void on_synced(struct cas_sync *sync, const struct err *err)
{
    struct instance_push *push =
        (struct instance_push *)((char *)sync - offsetof(struct instance_push, sync));
    if (err != NULL)
        end_push(push, err);
    else
        write_index(push);
}

/* All is there: makes it durable, and goes on from there. */
static void sync_push(struct instance_push *push)
{
    push->sync = (struct cas_sync){.hold = &push->hold, .done = on_synced};
    cas_sync(push->instance->cas, &push->sync);
}

/* On a worker. */
static void check_push(struct job *job)
{
    struct instance_push *push =
        (struct instance_push *)((char *)job - offsetof(struct instance_push, job));
    struct err err;
    /* Not before: what a push holds while it waits for a worker could keep the workers waiting. */
    cas_hold_begin(push->instance->cas, &push->hold);
    int rc = check_asset(push->instance, push->keys[0].kind, &push->asset, NULL, &push->hold,
                         tree_check, &push->missing, &err);
    if (rc != 0) {
        end_push(push, &err);
        return;
    }
    sync_push(push);
}

/*
 * Whether the push could be checked without a worker, which saves two hand-overs. What was just
 * uploaded is there, but its directories have not been looked into: not worth an attempt. And of
 * what is missing a worker finds all.
 */
static bool check_push_at_once(struct instance_push *push)
{
    struct err err;
    if (push->keys[0].kind == ASSET_DIRECTORY || push->asset.directory_count != 0 ||
        push->asset.blob_count >= TREE_NOWAIT_MAX)
        return false;
    cas_hold_begin(push->instance->cas, &push->hold);
    int rc = check_asset(push->instance, push->keys[0].kind, &push->asset, NULL, &push->hold,
                         tree_check_remembered, &push->missing, &err);
    if (rc != 0)
        cas_hold_end(&push->hold);
    return rc == 0;
}

int instance_is_writing(const struct instance *instance, struct err *err)
{
    int rc = asset_index_is_writing(instance->index, err);
    return rc == 0 && instance->cas != NULL ? cas_is_writing(instance->cas, err) : rc;
}

void instance_push(struct instance *instance, struct instance_push *push)
{
    struct err err;
    push->instance = instance;
    push->missing.count = 0;
    if (instance_is_writing(instance, &err) != 0) {
        push->done(push, &err);
    } else if (instance->cas == NULL) {
        write_index(push);
    } else if (check_push_at_once(push)) {
        sync_push(push);
    } else {
        push->missing.count = 0;
        push->job.run = check_push;
        pool_submit(instance->workers, &push->job);
    }
}
