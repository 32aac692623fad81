/* SPDX-License-Identifier: Apache-2.0 */
/* Instances: what is behind one REAPI instance name, and the promises that bind index and CAS. */
#ifndef ASSETD_STORE_INSTANCE_H
#define ASSETD_STORE_INSTANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/pool.h"
#include "conf/carry.h"
#include "conf/conf.h"
#include "store/asset_index.h"
#include "store/cas.h"
#include "store/tree.h"

/* An instance as one configuration has it. Read only; any thread. */
struct instance {
    const struct conf_instance *conf;
    struct asset_index *index; /* this and the next two are shared by all configurations */
    struct cas *cas;           /* NULL: index only */
    struct tree_cache *trees;  /* NULL: index only */
    struct pool *workers;      /* borrowed */
};

/* All instances of one configuration. Read only; any thread. */
struct instances;

/*
 * Opens the storage of every instance of CONF. WORKERS is borrowed. ERR_PRECONDITION: we are root,
 * and storage belongs to another user, who could not use what we make there.
 */
int instances_open(const struct conf *conf, struct pool *workers, struct instances **instances,
                   struct err *err);

/*
 * The instances of CONF, which takes the place of that of RUNNING. Storage that is open is taken
 * over as it is, by the directory that it is; the rest is opened. Storage that CONF does not have
 * stays open. What CONF says of open storage and needs a restart is put back, and noted in KEPT.
 *
 * RUNNING goes on to be of use beside NEXT, which owns it from now on. On failure nothing has
 * changed, but that directories may have been made. ERR_PRECONDITION: the storage of one instance
 * is that of another until a restart, or in it, or around it. One thread.
 */
int instances_follow(struct instances *running, struct conf *conf, struct conf_kept_list *kept,
                     struct instances **next, struct err *err);

/* Closes all storage, and frees INSTANCES and those that it has followed. */
void instances_close(struct instances *instances);

/* The instance of that name (REAPI instance_name; may be empty), or NULL. */
struct instance *instances_find(const struct instances *instances, const char *name);

/* One by one, for statistics: index 0 and up, NULL behind the last. */
struct instance *instances_at(const struct instances *instances, size_t index);

/* What a fetch asks for. The strings must live until it has ended. */
struct instance_fetch {
    enum asset_kind kind;
    enum digest_function function;
    const char *const *uris; /* tried in this order */
    size_t uri_count;
    const struct qualifier *qualifiers;
    size_t qualifier_count;
    int64_t oldest_accepted; /* milliseconds since 1970; assets pushed before are no hit; 0: any */
    /* Answer: */
    struct asset asset;   /* in the arena */
    const char *uri;      /* the one that hit */
    struct cas_hold hold; /* what the answer names stays until instance_fetch_end */
    size_t next;          /* the URI that instance_fetch_known looks at next; 0 to begin */
};

/* Opens the hold of FETCH, which must stay where it is until instance_fetch_end. */
void instance_fetch_begin(struct instance *instance, struct instance_fetch *fetch);
void instance_fetch_end(struct instance *instance, struct instance_fetch *fetch);

/*
 * The first of the URIs whose asset is known, not expired, and whole: with a CAS, its content and
 * references are all there, and renewed. ERR_NOT_FOUND otherwise. Between begin and end.
 * instance_fetch blocks on the disk; instance_fetch_remembered does not, and gives ERR_UNAVAILABLE
 * where it would have to.
 */
int instance_fetch(struct instance *instance, struct instance_fetch *fetch, struct arena *arena,
                   struct err *err);
int instance_fetch_remembered(struct instance *instance, struct instance_fetch *fetch,
                              struct arena *arena, struct err *err);

/*
 * The steps of a fetch for who checks by other means that an asset is whole, as an external CAS.
 * instance_fetch_known finds the next of the URIs whose asset is known and not expired, and asks
 * nothing of its content; ERR_NOT_FOUND: there is no more. Of the one that is handed out
 * instance_fetch_touch renews the life. Neither blocks; any thread.
 */
int instance_fetch_known(struct instance *instance, struct instance_fetch *fetch,
                         struct arena *arena, struct err *err);
void instance_fetch_touch(struct instance *instance, const struct instance_fetch *fetch);

/* All that ASSET names, in lists that point into it. */
enum { INSTANCE_LISTS = 3 };
void instance_lists(enum asset_kind kind, const struct asset *asset,
                    struct tree_list lists[INSTANCE_LISTS]);

/*
 * What a check found, as a fetch sees it: that something is MISSING, or no tree any more, becomes
 * ERR_NOT_FOUND, which the next push heals. Returns -code.
 */
int instance_fetch_verdict(const struct tree_missing *missing, struct err *err);

/* No asset was whole, for REASON the last that is known: sets ERR_NOT_FOUND. */
int instance_fetch_not_whole(const struct err *reason, struct err *err);

/* 0, or ERR_UNAVAILABLE: another process writes to the storage. Any thread. */
int instance_is_writing(const struct instance *instance, struct err *err);

/*
 * A push: the same asset under every key. It is the caller's, with all that it points to, until
 * DONE is called (once, on some thread; it must not block).
 *
 * With a CAS: all that the asset references is there (else ERR_PRECONDITION and MISSING says what),
 * then durable, then the index entry is durable, then DONE. ERR_UNAVAILABLE: another process writes
 * to the storage, which is told before anything is looked at; DONE is called before this returns.
 */
struct instance_push {
    struct asset_key *keys;
    size_t key_count;
    struct asset asset; /* pushed_at and fetched_at are set by the instance */
    struct tree_missing missing;
    void (*done)(struct instance_push *push, const struct err *err);
    /* The instance's own: */
    struct instance *instance;
    struct cas_hold hold;
    struct job job;
    struct cas_sync sync;
    struct asset_write write;
};

void instance_push(struct instance *instance, struct instance_push *push);

#endif
