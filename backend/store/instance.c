/* SPDX-License-Identifier: Apache-2.0 */
/* Fetch and push: the index and the CAS together. */
#include "store/instance.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

/* Bytes of memory for what is known of the trees of one instance. */
enum { TREE_CACHE_LIMIT = 16 << 20 };

struct instances {
    size_t count; /* of those that are open */
    struct instance instances[];
};

/* --- open and close --- */

/*
 * Blobs and assets are written by the same process, or a push could end nowhere: who has the turn
 * at the index has it at the CAS as soon as that is free.
 */
static bool is_turn(void *context)
{
    struct instance *instance = context;
    struct err ignored;
    (void)pthread_mutex_lock(&instance->turn_lock);
    bool is_ours = !instance->is_closing && asset_index_is_writing(instance->index, &ignored) == 0;
    (void)pthread_mutex_unlock(&instance->turn_lock);
    return is_ours;
}

static void close_instance(struct instance *instance)
{
    (void)pthread_mutex_lock(&instance->turn_lock);
    instance->is_closing = true;
    (void)pthread_mutex_unlock(&instance->turn_lock);
    asset_index_close(instance->index);
    tree_cache_free(instance->trees);
    cas_close(instance->cas);
    (void)pthread_mutex_destroy(&instance->turn_lock);
}

static int open_instance(const struct conf_instance *conf, bool may_write, struct pool *workers,
                         struct instance *instance, struct err *err)
{
    *instance = (struct instance){.conf = conf, .workers = workers};
    (void)pthread_mutex_init(&instance->turn_lock, NULL);
    struct asset_index_options index = {.path = conf->storage,
                                        .quota = conf->index_quota,
                                        .expire_after = conf->expire_after,
                                        .may_write = may_write};
    struct cas_options cas = {.path = conf->storage,
                              .quota = conf->quota,
                              .may_write = may_write,
                              .is_turn = is_turn,
                              .context = instance};
    int rc = asset_index_open(&index, &instance->index, err);
    if (rc == 0 && !conf->index_only)
        rc = cas_open(&cas, &instance->cas, err);
    if (rc == 0 && !conf->index_only)
        rc = tree_cache_new(instance->cas, TREE_CACHE_LIMIT, &instance->trees, err);
    if (rc == 0)
        return 0;
    close_instance(instance);
    return err_wrap(err, "instance \"%s\"", conf->name);
}

int instances_open(const struct conf *conf, struct pool *workers, struct instances **out,
                   struct err *err)
{
    struct instances *instances =
        calloc(1, sizeof(*instances) + conf->instance_count * sizeof(instances->instances[0]));
    if (instances == NULL)
        return err_no_memory(err, "the instances");
    for (; instances->count < conf->instance_count; instances->count++) {
        const struct conf_instance *one = &conf->instances[instances->count];
        int rc = open_instance(one, conf_instance_is_written(conf, one), workers,
                               &instances->instances[instances->count], err);
        if (rc != 0) {
            instances_close(instances);
            return rc;
        }
        if (one->index_only)
            log_info("index-only", log_str("instance", one->name),
                     log_str("answers", "as stored; no CAS is asked whether the content is there"));
    }
    *out = instances;
    return 0;
}

void instances_close(struct instances *instances)
{
    if (instances == NULL)
        return;
    for (size_t i = 0; i < instances->count; i++)
        close_instance(&instances->instances[i]);
    free(instances);
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
                           struct tree_missing *missing, struct err *err);

/* Checks the content of an asset and all that it references. */
static int check_asset(struct instance *instance, enum asset_kind kind, const struct asset *asset,
                       struct cas_hold *hold, check_function *check, struct tree_missing *missing,
                       struct err *err)
{
    const struct tree_list lists[] = {
        {&asset->content, 1, kind == ASSET_DIRECTORY},
        {asset->blobs, asset->blob_count, false},
        {asset->directories, asset->directory_count, true},
    };
    return check(instance->trees, hold, lists, sizeof(lists) / sizeof(lists[0]), missing, err);
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

/*
 * Whether the asset just found is whole. What is not, or no tree any more, is ERR_NOT_FOUND, which
 * the next push heals; ERR says what is missing.
 */
static int check_found(struct instance *instance, struct instance_fetch *fetch,
                       check_function *check, struct err *err)
{
    struct tree_missing missing;
    char text[DIGEST_TEXT_MAX];
    if (instance->cas == NULL)
        return 0;
    int rc = check_asset(instance, fetch->kind, &fetch->asset, &fetch->hold, check, &missing, err);
    if (rc == -ERR_PRECONDITION)
        return err_set(err, ERR_NOT_FOUND, "blob %s is gone",
                       digest_text(&missing.digests[0], text));
    return rc == -ERR_INVALID ? -ERR_NOT_FOUND : rc;
}

static int fetch_with(struct instance *instance, struct instance_fetch *fetch,
                      check_function *check, struct arena *arena, struct err *err)
{
    bool is_known = false;
    struct err reason;
    for (size_t i = 0; i < fetch->uri_count; i++) {
        struct asset_key key = {fetch->kind, fetch->function, fetch->uris[i], fetch->qualifiers,
                                fetch->qualifier_count};
        int rc = asset_index_get(instance->index, &key, arena, &fetch->asset, err);
        if (rc == -ERR_NOT_FOUND || (rc == 0 && fetch->asset.pushed_at < fetch->oldest_accepted))
            continue;
        if (rc != 0)
            return rc;
        rc = check_found(instance, fetch, check, &reason);
        if (rc == 0) {
            fetch->uri = fetch->uris[i];
            asset_index_touch(instance->index, &key);
            return 0;
        }
        if (rc != -ERR_NOT_FOUND) {
            *err = reason;
            return rc;
        }
        is_known = true;
    }
    if (is_known)
        return err_set(err, ERR_NOT_FOUND,
                       "the asset is known but no longer whole, until it is pushed again: %s",
                       reason.msg);
    return err_set(err, ERR_NOT_FOUND, "no asset is known for this URI and these qualifiers");
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

static void check_push(struct job *job)
{
    struct instance_push *push =
        (struct instance_push *)((char *)job - offsetof(struct instance_push, job));
    struct err err;
    /* Not before: what a push holds while it waits for a worker could keep the workers waiting. */
    cas_hold_begin(push->instance->cas, &push->hold);
    int rc = check_asset(push->instance, push->keys[0].kind, &push->asset, &push->hold, tree_check,
                         &push->missing, &err);
    if (rc != 0) {
        end_push(push, &err);
        return;
    }
    push->sync = (struct cas_sync){.hold = &push->hold, .done = on_synced};
    cas_sync(push->instance->cas, &push->sync);
}

/* Another process may write to the storage; who pushes is told before anything is looked at. */
static int is_writing(const struct instance *instance, struct err *err)
{
    int rc = asset_index_is_writing(instance->index, err);
    return rc == 0 && instance->cas != NULL ? cas_is_writing(instance->cas, err) : rc;
}

void instance_push(struct instance *instance, struct instance_push *push)
{
    struct err err;
    push->instance = instance;
    push->missing.count = 0;
    if (is_writing(instance, &err) != 0) {
        push->done(push, &err);
    } else if (instance->cas == NULL) {
        write_index(push);
    } else {
        push->job.run = check_push;
        pool_submit(instance->workers, &push->job);
    }
}
