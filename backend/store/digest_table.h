/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The digest table: where in the log each blob is. Files of slots in open addressing, one for each
 * of CAS_SHARDS shards, mapped by every process. It is a cache of what the segments hold: after a
 * power cut it is made anew from them.
 *
 * An entry of a segment that is gone is no entry, so eviction deletes none. A shard that is 70 %
 * full is written anew without them, larger or smaller, as a file of the next generation, which the
 * shared header publishes; its name is SHARD-GENERATION in cas/table. A slot's key is never changed
 * once it is published, its place is one atomic word. Written anew a shard is 36 to 51 % full, each
 * by a share of its own, so that not all of them fill up at once.
 *
 * Who has a shard's old file mapped when the next is published goes over to the new one with the
 * next find. What another process does to the old one at that moment may be lost: a mark of use,
 * and also the taking out of a blob that it found broken, which is then found broken once more.
 */
#ifndef ASSETD_STORE_DIGEST_TABLE_H
#define ASSETD_STORE_DIGEST_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/cas_record.h"
#include "store/cas_shared.h"

struct digest_table;

/*
 * How a table asks for bytes on disk, and gives them back. TAKE, to grow, may wait for eviction;
 * TAKE_NOW, to become smaller, does not.
 */
struct digest_table_room {
    int (*take)(void *context, int64_t bytes, struct err *err);
    int (*take_now)(void *context, int64_t bytes, struct err *err);
    void (*give)(void *context, int64_t bytes);
    void *context;
};

/*
 * Opens the shards that the shared header names in the directory TABLE_FD, which is borrowed, as
 * SHARED is. ERR_DATA_LOSS: one is missing or has the wrong size: make the table anew.
 */
int digest_table_open(struct cas_shared *shared, int table_fd, struct digest_table **table,
                      struct err *err);
void digest_table_close(struct digest_table *table);

/*
 * The writer's: replaces the table by an empty one and removes every other file in the directory.
 * EXPECTED: entries to make room for. Before other processes may open the store.
 */
int digest_table_reset(struct cas_shared *shared, int table_fd, uint64_t expected, struct err *err);

/* Bytes on disk of all shards. */
int64_t digest_table_bytes(const struct digest_table *table);

/* The same of a table with nothing in it, on a file system that gives BLOCK bytes at a time. */
int64_t digest_table_least_bytes(int64_t block);

/*
 * Between these two what was found stays mapped. Many at the same time, in any thread, but not one
 * within the other; keep them short, and do not wait for the disk in between: a shard that is
 * written anew waits for them.
 */
void digest_table_enter(struct digest_table *table);
void digest_table_leave(struct digest_table *table);

/*
 * The place of KEY, to be read and changed atomically; NULL if there is none, or there is one of a
 * later generation of its shard that could not be mapped: see digest_table_is_current. It is 0 if
 * the entry has been taken out just now. The record may be gone: see cas_place_is_trusted. Between
 * enter and leave.
 */
_Atomic uint64_t *digest_table_find(struct digest_table *table, const struct cas_key *key);

/*
 * Begins to fetch the memory of KEY's slot, so that a batch of finds waits for it once. Between
 * enter and leave.
 */
void digest_table_prefetch(struct digest_table *table, const struct cas_key *key);

/*
 * Whether this process sees all that the writer has put. False: a shard's new file could not be
 * opened or mapped, which was logged; a key that is not found may be there. Cheap.
 */
bool digest_table_is_current(const struct digest_table *table);

/*
 * Goes over to the files that are published now, as finds do. For processes that may find nothing
 * for long: the blocks of a file that is gone stay taken on the disk as long as it is mapped.
 */
void digest_table_refresh(struct digest_table *table);

/* --- the writer's; any thread; outside of enter and leave --- */

void digest_table_set_room(struct digest_table *table, const struct digest_table_room *room);

/*
 * Removes the files that a killed writer has left in the directory. Before bytes on disk are
 * counted, and before the first put.
 */
int digest_table_sweep(struct digest_table *table, struct err *err);

/*
 * Sets the place of KEY to PLACE, where the record is trusted already, unless KEY has a place that
 * is trusted: then *THERE is that one, else it is 0. Of two who add the same key one is first. May
 * wait for room, which holds up only those who add to the same shard. ERR_EXHAUSTED, ERR_IO,
 * ERR_NO_MEMORY: the shard is 90 % full and cannot be written anew; nothing has changed. Below
 * that, it is tried again later. ERR_UNAVAILABLE: see digest_table_is_current.
 */
int digest_table_add(struct digest_table *table, const struct cas_key *key, uint64_t place,
                     uint64_t *there, struct err *err);

/* Whether all of it seems to need less than half of its files. A guess after a kill. Cheap. */
bool digest_table_is_sparse(const struct digest_table *table);

/*
 * Writes the shard INDEX anew if what is live in it needs less than half of its file. Does not wait
 * for room: the thread that evicts may call it. ERR_EXHAUSTED, ERR_IO, ERR_NO_MEMORY.
 */
int digest_table_trim(struct digest_table *table, unsigned index, struct err *err);

/*
 * Sets it to TO if it is still FROM (flags of the place left aside); false otherwise, also where
 * the published shard cannot be had: see digest_table_is_current. TO 0: takes the entry out. Any
 * process; of another one than the writer it may get lost, as said above.
 */
bool digest_table_move(struct digest_table *table, const struct cas_key *key, uint64_t from,
                       uint64_t to);

/*
 * Calls VISIT for each entry, trusted or not; stops when it returns false. For checks: holds no
 * lock, so VISIT may block; what is put or moved meanwhile is visited or not, as it was or is.
 */
int digest_table_each(struct digest_table *table,
                      bool (*visit)(void *context, const struct cas_key *key, uint64_t place),
                      void *context, struct err *err);

/* Makes all shards durable. */
int digest_table_sync(struct digest_table *table, struct err *err);

#endif
