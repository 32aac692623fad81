/* SPDX-License-Identifier: Apache-2.0 */
/* Shards in mapped files: finding and putting, and writing a shard anew beside who uses it. */
#include "store/digest_table.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/log.h"
#include "store/digest_shard.h"
#include "store/disk.h"

/* Percent of the slots. */
enum {
    REWRITE_AT = 70,
    FULL_AT = 90,
    FILL_MIN = 36, /* of a shard that was written anew: FILL_MIN to FILL_MIN + FILL_STEPS - 1 */
    FILL_STEPS = 16,
    FILL_RESET = 50,
};

/* The writer's side of a shard. */
struct shard_writing {
    pthread_mutex_t lock; /* puts and moves; no file takes another's place without it */
    pthread_cond_t rewritten;
    bool is_on;
    uint32_t retry_at; /* slots used at which it is tried again after it failed; 0: it did not */
};

/*
 * Finds take `entered` shared, for as long as they use files. One who has put another file in a
 * file's place retires the old one; it is unmapped once nobody is in who may have seen it, which is
 * seen by taking `entered` alone. Order of locks: a shard's, `entered`, `files_lock`.
 */
struct digest_table {
    struct cas_shared *shared;
    int table_fd;
    pthread_rwlock_t entered;
    _Atomic(struct digest_shard *) files[CAS_SHARDS];
    _Atomic(struct digest_shard *) retired;
    _Atomic uint64_t behind;    /* a bit for each shard of which the new file could not be mapped */
    pthread_mutex_t files_lock; /* changes of `files` */
    struct digest_table_room room;
    struct shard_writing writing[CAS_SHARDS];
};

/* --- which file --- */

/* Returns when all who were in when it was called have left. */
static void wait_for_leaving(struct digest_table *table)
{
    (void)pthread_rwlock_wrlock(&table->entered);
    (void)pthread_rwlock_unlock(&table->entered);
}

/* Unmaps what has been retired, when all who may have seen it have left. */
static void reclaim(struct digest_table *table)
{
    struct digest_shard *file = atomic_exchange(&table->retired, NULL);
    if (file == NULL)
        return;
    wait_for_leaving(table);
    while (file != NULL) {
        struct digest_shard *next = file->next;
        digest_shard_close(file);
        file = next;
    }
}

/* FILE is not in `files` any more; others may still use it. */
static void retire(struct digest_table *table, struct digest_shard *file)
{
    file->next = atomic_load(&table->retired);
    while (!atomic_compare_exchange_weak(&table->retired, &file->next, file))
        continue;
}

/* Goes over to the published file of a shard; the one there is now, if that fails. */
static struct digest_shard *follow(struct digest_table *table, unsigned index)
{
    struct err err;
    uint64_t bit = (uint64_t)1 << index;
    struct digest_shard *next;
    (void)pthread_mutex_lock(&table->files_lock);
    struct digest_shard *file = atomic_load(&table->files[index]);
    if (file->word == digest_shard_word(table->shared, index)) {
        next = file; /* another thread was faster */
    } else if (digest_shard_open(table->shared, table->table_fd, index, &next, &err) == 0) {
        atomic_store_explicit(&table->files[index], next, memory_order_release);
        atomic_fetch_and(&table->behind, ~bit);
        retire(table, file);
    } else {
        if (atomic_fetch_or(&table->behind, bit) == 0)
            log_error("digest-table-behind", log_num("shard", index), log_str("reason", err.msg));
        next = file;
    }
    (void)pthread_mutex_unlock(&table->files_lock);
    return next;
}

/*
 * The file of a shard, to be used until leave. By the writer also under the shard's lock: it has
 * all files that are published from the beginning, and only it replaces them, with that lock held.
 */
static inline struct digest_shard *file_of(struct digest_table *table, unsigned index)
{
    struct digest_shard *file = atomic_load_explicit(&table->files[index], memory_order_acquire);
    return file->word == digest_shard_word(table->shared, index) ? file : follow(table, index);
}

/* What is put into a file that has been replaced would be lost, and more if that is copied. */
static bool is_published(const struct digest_table *table, unsigned index,
                         const struct digest_shard *file)
{
    return file->word == digest_shard_word(table->shared, index);
}

void digest_table_enter(struct digest_table *table)
{
    (void)pthread_rwlock_rdlock(&table->entered);
}

void digest_table_leave(struct digest_table *table)
{
    (void)pthread_rwlock_unlock(&table->entered);
    if (atomic_load_explicit(&table->retired, memory_order_relaxed) != NULL)
        reclaim(table);
}

bool digest_table_is_current(const struct digest_table *table)
{
    return atomic_load(&table->behind) == 0;
}

void digest_table_refresh(struct digest_table *table)
{
    digest_table_enter(table);
    for (unsigned i = 0; i < CAS_SHARDS; i++)
        (void)file_of(table, i);
    digest_table_leave(table);
}

int64_t digest_table_bytes(const struct digest_table *table)
{
    struct digest_table *entered = (struct digest_table *)table; /* only its lock changes */
    int64_t bytes = 0;
    digest_table_enter(entered);
    for (unsigned i = 0; i < CAS_SHARDS; i++)
        bytes += atomic_load(&table->files[i])->bytes;
    digest_table_leave(entered);
    return bytes;
}

int64_t digest_table_least_bytes(int64_t block)
{
    int64_t blocks = (DIGEST_SHARD_PAGE + block - 1) / block;
    return CAS_SHARDS * blocks * block;
}

/* --- slots --- */

_Atomic uint64_t *digest_table_find(struct digest_table *table, const struct cas_key *key)
{
    uint32_t hash = digest_shard_hash(table->shared, key->hash, key->size_function);
    struct digest_shard *file = file_of(table, digest_shard_index(hash));
    for (;;) {
        bool found;
        struct digest_slot *slot =
            digest_shard_probe(file, hash, key->hash, key->size_function, &found);
        if (found && atomic_load_explicit(&slot->place, memory_order_acquire) != 0)
            return &slot->place;
        /* It may have been put into a file that was published meanwhile. */
        struct digest_shard *current = file_of(table, digest_shard_index(hash));
        if (current == file)
            return NULL;
        file = current;
    }
}

void digest_table_prefetch(struct digest_table *table, const struct cas_key *key)
{
    uint32_t hash = digest_shard_hash(table->shared, key->hash, key->size_function);
    const struct digest_shard *file =
        atomic_load_explicit(&table->files[digest_shard_index(hash)], memory_order_acquire);
    uint32_t at = digest_shard_first(file, hash);
    __builtin_prefetch(&file->slots[at]);
    __builtin_prefetch(&file->slots[at + 2 < file->count ? at + 2 : 0]); /* the line behind it */
}

/* Less one, but never below 0: it is a guess after a kill. */
static void count_down(_Atomic uint64_t *count)
{
    uint64_t now = atomic_load(count);
    while (now > 0 && !atomic_compare_exchange_weak(count, &now, now - 1))
        continue;
}

/* --- writing a shard anew --- */

static uint32_t share(uint32_t count, uint32_t percent)
{
    return (uint32_t)((uint64_t)count * percent / 100);
}

/* Pages of which ENTRIES fill FILL percent; more than DIGEST_SHARD_PAGES_MAX: too many. */
static uint32_t pages_for(uint64_t entries, uint32_t fill)
{
    uint64_t most = (uint64_t)DIGEST_SHARD_PAGES_MAX * DIGEST_SHARD_PAGE_SLOTS;
    uint64_t slots = entries < most ? entries * 100 / fill + 1 : most + 1;
    return (uint32_t)((slots + DIGEST_SHARD_PAGE_SLOTS - 1) / DIGEST_SHARD_PAGE_SLOTS);
}

static uint64_t count_live(const struct digest_table *table, const struct digest_shard *file)
{
    uint64_t live = 0;
    for (uint32_t i = 0; i < file->count; i++) {
        struct digest_slot *slot = &file->slots[i];
        uint64_t size_function = atomic_load_explicit(&slot->size_function, memory_order_acquire);
        if (size_function != 0 &&
            digest_slot_is_live(table->shared, size_function, atomic_load(&slot->place)))
            live++;
    }
    return live;
}

/*
 * Copies what is live, and notes in COPIED the place of each slot as it was, 0 for those left out.
 * False: there is more of it than was counted, and it would be too full.
 */
static bool copy_live(const struct digest_table *table, const struct digest_shard *from,
                      struct digest_shard *to, uint64_t *copied, uint32_t *used)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < from->count; i++) {
        struct digest_slot *slot = &from->slots[i];
        uint64_t size_function = atomic_load_explicit(&slot->size_function, memory_order_acquire);
        uint64_t place = atomic_load(&slot->place);
        copied[i] = 0;
        if (size_function == 0 || !digest_slot_is_live(table->shared, size_function, place))
            continue;
        if (count >= share(to->count, REWRITE_AT))
            return false;
        uint32_t hash = digest_shard_hash(table->shared, slot->hash, size_function);
        bool found;
        struct digest_slot *copy = digest_shard_probe(to, hash, slot->hash, size_function, &found);
        if (found)
            continue; /* damaged: a key is there once */
        digest_slot_fill(copy, slot->hash, size_function, place);
        copied[i] = place;
        count++;
    }
    *used = count;
    return true;
}

/*
 * Takes over what was done to the old file since it was copied: marks set and taken off, and
 * entries taken out by others. In this process nobody puts or moves meanwhile.
 */
static void copy_changes(const struct digest_table *table, const struct digest_shard *from,
                         struct digest_shard *to, const uint64_t *copied)
{
    for (uint32_t i = 0; i < from->count; i++) {
        struct digest_slot *slot = &from->slots[i];
        uint64_t place = copied[i] != 0 ? atomic_load(&slot->place) : 0;
        if (place == copied[i])
            continue;
        uint64_t size_function = atomic_load(&slot->size_function);
        uint32_t hash = digest_shard_hash(table->shared, slot->hash, size_function);
        bool found;
        struct digest_slot *copy = digest_shard_probe(to, hash, slot->hash, size_function, &found);
        uint64_t set = place & ~copied[i] & CAS_PLACE_FLAGS;
        uint64_t taken_off = copied[i] & ~place & CAS_PLACE_FLAGS;
        uint64_t there = found ? atomic_load(&copy->place) : 0;
        while (there != 0 && !atomic_compare_exchange_weak(
                                 &copy->place, &there, place != 0 ? (there | set) & ~taken_off : 0))
            continue;
    }
}

static int take_room(const struct digest_table *table, int64_t bytes, bool waits, struct err *err)
{
    int (*take)(void *, int64_t, struct err *) = waits ? table->room.take : table->room.take_now;
    return take != NULL ? take(table->room.context, bytes, err) : 0;
}

static void give_room(const struct digest_table *table, int64_t bytes)
{
    if (table->room.give != NULL)
        table->room.give(table->room.context, bytes);
}

/* Of a file that is written anew for LIVE entries. */
static uint32_t next_pages(unsigned index, uint64_t live)
{
    return pages_for(live, FILL_MIN + index % FILL_STEPS);
}

/* Makes the next file of a shard, for LIVE entries, and takes room for it, WAITING if need be. */
static int make_next(struct digest_table *table, unsigned index, uint64_t live, bool waits,
                     struct digest_shard **file, struct err *err)
{
    uint32_t pages = next_pages(index, live);
    if (pages > DIGEST_SHARD_PAGES_MAX)
        return err_set(err, ERR_EXHAUSTED, "the digest table cannot become larger");
    int64_t taken = (int64_t)pages * DIGEST_SHARD_PAGE;
    int rc = take_room(table, taken, waits, err);
    if (rc != 0)
        return rc;
    uint64_t word = digest_shard_next_word(digest_shard_word(table->shared, index), pages);
    rc = digest_shard_make(table->table_fd, index, word, file, err);
    /* What the file system uses besides counts as well. */
    if (rc == 0 && (*file)->bytes > taken) {
        rc = take_room(table, (*file)->bytes - taken, waits, err);
        if (rc != 0) {
            digest_shard_close(*file);
            struct err ignored;
            (void)digest_shard_unlink(table->table_fd, index, word, &ignored);
        }
    }
    if (rc != 0)
        give_room(table, taken);
    else if ((*file)->bytes < taken)
        give_room(table, taken - (*file)->bytes);
    return rc;
}

/* Removes a file that is not published, or not any more. */
static void drop_file(struct digest_table *table, unsigned index, uint64_t word, int64_t bytes)
{
    struct err err;
    if (digest_shard_unlink(table->table_fd, index, word, &err) == 0)
        give_room(table, bytes);
    else
        log_warning("digest-table-file-stays", log_str("reason", err.msg));
}

/* Fills NEXT from OLD and puts it into its place, with the shard's lock held. */
static bool replace(struct digest_table *table, unsigned index, struct digest_shard *old,
                    struct digest_shard *next, uint64_t *copied)
{
    uint32_t used;
    if (!copy_live(table, old, next, copied, &used))
        return false;
    (void)pthread_mutex_lock(&table->files_lock);
    atomic_store(&table->shared->header->shards[index], next->word);
    atomic_store(&table->files[index], next);
    atomic_store(&table->shared->header->slots_used[index], used); /* after a kill: too high */
    (void)pthread_mutex_unlock(&table->files_lock);
    /* Who is in may change the old file until he leaves. Who comes in finds the new one. */
    wait_for_leaving(table);
    copy_changes(table, old, next, copied);
    return true;
}

/*
 * Writes a shard anew for LIVE entries. *FITS: there were no more of them. Without the shard's
 * lock, as taking room may wait for an eviction, which moves entries.
 */
static int rewrite(struct digest_table *table, unsigned index, uint64_t live, bool waits,
                   bool *fits, struct err *err)
{
    struct shard_writing *writing = &table->writing[index];
    struct digest_shard *old = atomic_load(&table->files[index]);
    struct digest_shard *next;
    int rc = make_next(table, index, live, waits, &next, err);
    if (rc != 0)
        return rc;
    uint64_t *copied = malloc((size_t)old->count * sizeof(copied[0]));
    *fits = false;
    if (copied != NULL) {
        (void)pthread_mutex_lock(&writing->lock);
        *fits = replace(table, index, old, next, copied);
        (void)pthread_mutex_unlock(&writing->lock);
        free(copied);
    } else {
        rc = err_no_memory(err, "a shard of the digest table");
    }
    struct digest_shard *gone = *fits ? old : next;
    uint64_t word = gone->word;
    int64_t bytes = gone->bytes;
    digest_shard_close(gone);
    drop_file(table, index, word, bytes);
    return rc;
}

/* Called and left with the shard's lock held, which is given up in between. */
static int grow(struct digest_table *table, unsigned index, struct err *err)
{
    struct shard_writing *writing = &table->writing[index];
    struct digest_shard *file = file_of(table, index);
    writing->is_on = true;
    (void)pthread_mutex_unlock(&writing->lock);
    bool fits = false;
    int rc = rewrite(table, index, count_live(table, file), true, &fits, err);
    /* Entries have come meanwhile, or come back: now there is room for as many as there can be. */
    if (rc == 0 && !fits)
        rc = rewrite(table, index, file->count, true, &fits, err);
    assert(rc != 0 || fits);
    (void)pthread_mutex_lock(&writing->lock);
    if (rc != 0 && writing->retry_at == 0)
        log_warning("digest-table-not-grown", log_num("shard", index), log_str("reason", err->msg));
    uint32_t used = atomic_load(&table->shared->header->slots_used[index]);
    writing->retry_at = rc != 0 ? used + file->count / 32 + 1 : 0;
    writing->is_on = false;
    (void)pthread_cond_broadcast(&writing->rewritten);
    return rc;
}

bool digest_table_is_sparse(const struct digest_table *table)
{
    uint64_t blobs = atomic_load(&table->shared->header->blobs);
    int64_t pages = pages_for(blobs / CAS_SHARDS + 1, FILL_MIN);
    return digest_table_bytes(table) / 2 > CAS_SHARDS * pages * DIGEST_SHARD_PAGE;
}

int digest_table_trim(struct digest_table *table, unsigned index, struct err *err)
{
    struct shard_writing *writing = &table->writing[index];
    (void)pthread_mutex_lock(&writing->lock);
    struct digest_shard *file = file_of(table, index);
    bool is_mine = !writing->is_on && is_published(table, index, file);
    writing->is_on = writing->is_on || is_mine;
    (void)pthread_mutex_unlock(&writing->lock);
    if (!is_mine)
        return 0; /* it is being written anew, or cannot be opened */
    int rc = 0;
    bool fits = false; /* if not, entries have come meanwhile: it stays as it is */
    uint64_t live = count_live(table, file);
    if (next_pages(index, live) < file->count / DIGEST_SHARD_PAGE_SLOTS / 2)
        rc = rewrite(table, index, live, false, &fits, err);
    (void)pthread_mutex_lock(&writing->lock);
    writing->is_on = false;
    if (fits)
        writing->retry_at = 0;
    (void)pthread_cond_broadcast(&writing->rewritten);
    (void)pthread_mutex_unlock(&writing->lock);
    return rc;
}

/* --- putting and moving --- */

/*
 * Sets the place of an entry that leads nowhere; returns the one there is if it does lead
 * somewhere. With the shard's lock nobody else makes it do so; another process may take it out.
 */
static uint64_t set_place(struct digest_table *table, struct digest_slot *slot, uint64_t place)
{
    uint64_t there = atomic_load(&slot->place);
    do
        if (digest_slot_is_live(table->shared, atomic_load(&slot->size_function), there))
            return there;
    while (!atomic_compare_exchange_weak(&slot->place, &there, place));
    atomic_fetch_add(&table->shared->header->blobs, 1);
    return 0;
}

/* Fills a free slot. The count comes first: after a kill it may only be too high. */
static void fill_slot(struct digest_table *table, unsigned index, struct digest_slot *slot,
                      const struct cas_key *key, uint64_t place)
{
    atomic_fetch_add(&table->shared->header->slots_used[index], 1);
    digest_slot_fill(slot, key->hash, key->size_function, place);
    atomic_fetch_add(&table->shared->header->blobs, 1);
}

/* Whether a shard takes one more entry before it is written anew. */
static bool has_room(const struct shard_writing *writing, const struct digest_shard *file,
                     uint32_t used)
{
    if (used < share(file->count, REWRITE_AT))
        return true;
    return used < share(file->count, FULL_AT) && (writing->is_on || used < writing->retry_at);
}

int digest_table_add(struct digest_table *table, const struct cas_key *key, uint64_t place,
                     uint64_t *there, struct err *err)
{
    assert(key->size_function != 0);
    uint32_t hash = digest_shard_hash(table->shared, key->hash, key->size_function);
    unsigned index = digest_shard_index(hash);
    struct shard_writing *writing = &table->writing[index];
    int rc = 0;
    *there = 0;
    (void)pthread_mutex_lock(&writing->lock);
    for (;;) {
        struct digest_shard *file = file_of(table, index);
        if (!is_published(table, index, file)) {
            rc = err_set(err, ERR_UNAVAILABLE, "shard %u of the digest table cannot be opened",
                         index);
            break;
        }
        uint32_t used = atomic_load(&table->shared->header->slots_used[index]);
        bool found;
        struct digest_slot *slot =
            digest_shard_probe(file, hash, key->hash, key->size_function, &found);
        if (found) {
            *there = set_place(table, slot, place);
            rc = 0;
            break;
        }
        if (slot != NULL && has_room(writing, file, used)) {
            fill_slot(table, index, slot, key, place);
            rc = 0;
            break;
        }
        if (rc != 0)
            break; /* it was tried, and there is no room for one more */
        if (writing->is_on)
            (void)pthread_cond_wait(&writing->rewritten, &writing->lock);
        else
            rc = grow(table, index, err);
    }
    (void)pthread_mutex_unlock(&writing->lock);
    return rc;
}

bool digest_table_move(struct digest_table *table, const struct cas_key *key, uint64_t from,
                       uint64_t to)
{
    uint32_t hash = digest_shard_hash(table->shared, key->hash, key->size_function);
    unsigned index = digest_shard_index(hash);
    bool is_moved = false;
    /* The lock: what this process moves in a file that it is copying could be lost. */
    (void)pthread_mutex_lock(&table->writing[index].lock);
    digest_table_enter(table);
    struct digest_shard *file = file_of(table, index);
    bool found;
    struct digest_slot *slot =
        digest_shard_probe(file, hash, key->hash, key->size_function, &found);
    found = found && is_published(table, index, file);
    uint64_t there = found ? atomic_load(&slot->place) : 0;
    while (there != 0 && !is_moved && ((there ^ from) & ~(uint64_t)CAS_PLACE_FLAGS) == 0)
        is_moved = atomic_compare_exchange_weak(&slot->place, &there, to);
    digest_table_leave(table);
    (void)pthread_mutex_unlock(&table->writing[index].lock);
    if (is_moved && to == 0)
        count_down(&table->shared->header->blobs);
    return is_moved;
}

/* --- all of it --- */

void digest_table_set_room(struct digest_table *table, const struct digest_table_room *room)
{
    table->room = *room;
}

int digest_table_sweep(struct digest_table *table, struct err *err)
{
    return digest_shard_sweep(table->shared, table->table_fd, err);
}

static void init_locks(struct digest_table *table)
{
    /* Who waits to unmap is not kept waiting by finds that come later. */
    pthread_rwlockattr_t attributes;
    (void)pthread_rwlockattr_init(&attributes);
    (void)pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    (void)pthread_rwlock_init(&table->entered, &attributes);
    (void)pthread_rwlockattr_destroy(&attributes);
    (void)pthread_mutex_init(&table->files_lock, NULL);
    for (unsigned i = 0; i < CAS_SHARDS; i++) {
        (void)pthread_mutex_init(&table->writing[i].lock, NULL);
        (void)pthread_cond_init(&table->writing[i].rewritten, NULL);
    }
}

int digest_table_open(struct cas_shared *shared, int table_fd, struct digest_table **table,
                      struct err *err)
{
    struct digest_table *opened = calloc(1, sizeof(*opened));
    if (opened == NULL)
        return err_no_memory(err, "the digest table");
    opened->shared = shared;
    opened->table_fd = table_fd;
    init_locks(opened);
    int rc = 0;
    for (unsigned i = 0; i < CAS_SHARDS && rc == 0; i++) {
        struct digest_shard *file = NULL;
        rc = digest_shard_open(shared, table_fd, i, &file, err);
        atomic_init(&opened->files[i], file);
    }
    if (rc != 0) {
        digest_table_close(opened);
        return rc;
    }
    *table = opened;
    return 0;
}

void digest_table_close(struct digest_table *table)
{
    reclaim(table);
    for (unsigned i = 0; i < CAS_SHARDS; i++) {
        digest_shard_close(atomic_load(&table->files[i]));
        (void)pthread_mutex_destroy(&table->writing[i].lock);
        (void)pthread_cond_destroy(&table->writing[i].rewritten);
    }
    (void)pthread_mutex_destroy(&table->files_lock);
    (void)pthread_rwlock_destroy(&table->entered);
    free(table);
}

int digest_table_reset(struct cas_shared *shared, int table_fd, uint64_t expected, struct err *err)
{
    struct cas_shared_header *header = shared->header;
    /* The generations stay, so that no file is taken for another one. */
    for (unsigned i = 0; i < CAS_SHARDS; i++)
        atomic_store(&header->shards[i], digest_shard_word(shared, i) >> 32 << 32);
    atomic_store(&header->blobs, 0);
    uint32_t pages = pages_for(expected / CAS_SHARDS + 1, FILL_RESET);
    if (pages > DIGEST_SHARD_PAGES_MAX)
        return err_set(err, ERR_EXHAUSTED, "the digest table cannot become so large");
    int rc = digest_shard_sweep(shared, table_fd, err);
    for (unsigned i = 0; i < CAS_SHARDS && rc == 0; i++) {
        uint64_t word = digest_shard_next_word(digest_shard_word(shared, i), pages);
        struct digest_shard *file;
        rc = digest_shard_make(table_fd, i, word, &file, err);
        if (rc == 0) {
            digest_shard_close(file);
            atomic_store(&header->slots_used[i], 0);
            atomic_store(&header->shards[i], word);
        }
    }
    return rc;
}

int digest_table_each(struct digest_table *table,
                      bool (*visit)(void *context, const struct cas_key *key, uint64_t place),
                      void *context, struct err *err)
{
    bool goes_on = true;
    for (unsigned index = 0; index < CAS_SHARDS && goes_on; index++) {
        /* Mapped once more: nobody has to wait for VISIT to unmap it. */
        struct digest_shard *file;
        int rc = digest_shard_open(table->shared, table->table_fd, index, &file, err);
        if (rc != 0)
            return rc;
        for (uint32_t i = 0; i < file->count && goes_on; i++) {
            struct digest_slot *slot = &file->slots[i];
            struct cas_key key = {.size_function = atomic_load(&slot->size_function)};
            uint64_t place = atomic_load(&slot->place);
            if (key.size_function == 0 || place == 0)
                continue;
            memcpy(key.hash, slot->hash, sizeof(key.hash));
            goes_on = visit(context, &key, place);
        }
        digest_shard_close(file);
    }
    return 0;
}

int digest_table_sync(struct digest_table *table, struct err *err)
{
    int rc = 0;
    for (unsigned i = 0; i < CAS_SHARDS && rc == 0; i++) {
        (void)pthread_mutex_lock(&table->writing[i].lock);
        rc = digest_shard_sync(table->shared, table->table_fd, i, err);
        (void)pthread_mutex_unlock(&table->writing[i].lock);
    }
    if (rc == 0 && disk.fsync(table->table_fd) != 0)
        rc = disk_fault(err, errno, "make table durable");
    return rc;
}
