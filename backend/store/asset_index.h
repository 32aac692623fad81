/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asset index: which content a URI with qualifiers stands for. The interface does not assume
 * that the index is embedded: a server of its own could take its place.
 */
#ifndef ASSETD_STORE_ASSET_INDEX_H
#define ASSETD_STORE_ASSET_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/err.h"

struct asset_index;

/* Bounds of what is accepted. Lengths are in bytes. */
enum {
    ASSET_URI_LENGTH_MAX = 8192,
    ASSET_QUALIFIERS_MAX = 64,
    ASSET_QUALIFIER_NAME_MAX = 256,
    ASSET_QUALIFIER_VALUE_MAX = 4096,
    ASSET_REFERENCES_MAX = 100000,
};

/* A blob and a directory of the same URI are two assets (Remote Asset API, Push). */
enum asset_kind { ASSET_BLOB = 0, ASSET_DIRECTORY = 1 };

struct qualifier {
    const char *name;
    const char *value;
};

/*
 * What an asset is found by. Two keys are the same if all fields are, with the qualifiers in any
 * order. The strings are valid UTF-8 within the bounds that the services check; qualifier names
 * are distinct.
 */
struct asset_key {
    enum asset_kind kind;
    enum digest_function function;
    const char *uri;
    const struct qualifier *qualifiers;
    size_t qualifier_count;
};

enum { ASSET_ID_SIZE = 32 };

/* What is known of an asset. All times are milliseconds since 1970. */
struct asset {
    /* What asset_index_get has found has these: by what the index knows it, and which push it is.
     */
    uint8_t id[ASSET_ID_SIZE];
    uint64_t version;
    struct digest content;
    int64_t pushed_at;
    int64_t fetched_at;         /* the later of push and last fetch, to within a minute or so */
    int64_t expires_at;         /* set by the client; 0: never */
    const struct digest *blobs; /* references_blobs */
    size_t blob_count;
    const struct digest *directories; /* references_directories */
    size_t directory_count;
};

/* Where the content is. Processes on one index that differ in it give answers that differ. */
enum asset_place {
    ASSET_PLACE_ANY,  /* this process asks for none */
    ASSET_PLACE_HERE, /* in the CAS beside the index */
    ASSET_PLACE_ELSEWHERE,
};

struct asset_index_options {
    const char *path;       /* the storage directory; the index is in PATH/index */
    int64_t quota;          /* bytes, at least 1 MiB; the least recently fetched assets go first */
    int64_t expire_after;   /* milliseconds of not being fetched; 0: never */
    int64_t (*now)(void);   /* milliseconds since 1970; NULL: the system's clock. Any thread. */
    bool may_write;         /* this process, when no other does; otherwise it only reads */
    bool writes_at_once;    /* with may_write: while another process writes, the opening fails */
    enum asset_place place; /* one that reads warns if the process that writes has another */
};

/*
 * Opens or makes the index and starts its thread. ERR_PRECONDITION: the format is newer than this
 * program. ERR_INVALID: the quota is too small. ERR_UNAVAILABLE: it is open in this process
 * already; or another process writes, whose pid is in the message, and this one would at once.
 *
 * One process writes to it, any number read beside it, in the same pid namespace; they start in any
 * order and end in any way. A process that may write while another one does reads, waits for its
 * turn, and takes over in place. All quotas, sweeps and counts are the writer's.
 *
 * The quota bounds the file that holds the assets: it grows as they come, never beyond the quota,
 * and keeps its size when they go; the room is used again. About an eighth of it is kept free, for
 * what a transaction copies. A file that is larger than the quota when it is opened is brought
 * down: assets are evicted, for which it may grow by an eighth, then it is written anew, for which
 * the disk needs room for both. Without that room it stays as large, with a warning.
 */
int asset_index_open(const struct asset_index_options *options, struct asset_index **index,
                     struct err *err);

/* Commits what is queued, calls what waits for it, and closes. */
void asset_index_close(struct asset_index *index);

/* 0, or ERR_UNAVAILABLE while this process only reads; the pid of the writer is in the message. */
int asset_index_is_writing(struct asset_index *index, struct err *err);

/*
 * Looks KEY up. The asset is made in ARENA. ERR_NOT_FOUND for what is absent or expired;
 * ERR_UNAVAILABLE: the file cannot be read. What another process has acknowledged is found at once.
 * Reads memory-mapped pages, never waits for a writer but while the file is opened anew. Any
 * thread.
 */
int asset_index_get(struct asset_index *index, const struct asset_key *key, struct arena *arena,
                    struct asset *asset, struct err *err);

/*
 * Renews the life of an asset that was found and is just handed out. Kept in memory, where it
 * counts at once for expiry and eviction, and written within a minute or two; a crash may lose it.
 * Some thousand different assets are remembered, of which some hundred a second are written while
 * very many come; what comes beyond that is not remembered. Never blocks on the disk. Any thread.
 *
 * A process that reads keeps it where the writer finds it before it removes anything, or the next
 * writer does: for other readers it counts for expiry when it is written.
 */
void asset_index_touch(struct asset_index *index, const struct asset *asset);

/*
 * A write: ASSET under every key, or (if ASSET is NULL) the removal of every key; in one
 * transaction. Keys, asset and all they point to belong to the caller and must live until DONE.
 */
struct asset_write {
    const struct asset_key *keys;
    size_t key_count;
    const struct asset *asset;
    bool keeps_later; /* where the asset under a key was pushed later or then, it stays as it is */
    size_t kept;      /* answer: how many keys those were */
    /* Called once, on the thread of the index, when it is durable (ERR NULL) or failed. Must not
     * block. */
    void (*done)(struct asset_write *write, const struct err *err);
    struct asset_write *next; /* the index's own */
};

/*
 * Queues WRITE for the next group commit. One fsync serves all that wait. ERR_EXHAUSTED: larger
 * than a quarter of the quota (an asset takes about 41 bytes for each reference, under each key),
 * or disk full; ERR_UNAVAILABLE: the disk failed, or this process only reads (see
 * asset_index_is_writing). Any thread.
 */
void asset_index_write(struct asset_index *index, struct asset_write *write);

/* ERR_EXHAUSTED, as a write of it would be: ASSET under KEY is too large for this index. */
int asset_index_check_size(const struct asset_index *index, const struct asset_key *key,
                           const struct asset *asset, struct err *err);

/*
 * Calls VISIT for every asset that is not expired, the one used longest ago first, with strings and
 * arrays that live until it returns; stops when it returns false. What is used or pushed meanwhile
 * may come twice. What is damaged is passed over, and counted in *DAMAGED. Holds up no writer,
 * however long VISIT takes. Any thread.
 */
int asset_index_each(struct asset_index *index,
                     bool (*visit)(void *context, const struct asset_key *key,
                                   const struct asset *asset),
                     void *context, uint64_t *damaged, struct err *err);

struct asset_index_stats {
    uint64_t assets;
    uint64_t bytes;   /* in use; the rest of the file is free for what comes */
    uint64_t evicted; /* since start, by this process, for the quota */
    uint64_t expired; /* since start, by this process */
    uint64_t commits; /* since start, by this process: transactions of writes */
};

void asset_index_stats(struct asset_index *index, struct asset_index_stats *stats);

#endif
