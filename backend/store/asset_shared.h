/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all processes that have an asset index open share, in index/shared, which each maps: the
 * generation of the file that holds the assets, the uses that await the writing process, and where
 * that has the content.
 */
#ifndef ASSETD_STORE_ASSET_SHARED_H
#define ASSETD_STORE_ASSET_SHARED_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "store/asset_uses.h"
#include "store/directory.h"

/* So many uses await the writing process; more take the place of the oldest. */
enum { ASSET_SHARED_USES = 4096 };

struct asset_shared_map;

/* Embedded by its user. */
struct asset_shared {
    struct asset_shared_map *map;
    int fd;
    dev_t device;
    ino_t inode;
    struct asset_shared *next; /* of those that this process has open */
};

/*
 * Opens the file in DIRECTORY, or makes it, in which state it may have been left. ERR_UNAVAILABLE:
 * this process has it open already, which the database below does not stand. ERR_EXHAUSTED: the
 * disk is full, and the file was not there.
 */
int asset_shared_open(const struct store_directory *directory, struct asset_shared *shared,
                      struct err *err);
void asset_shared_close(struct asset_shared *shared);

/*
 * Keeps other processes from opening or replacing the file of the assets, for milliseconds. Waits.
 * It ends with the process. One thread at a time.
 */
int asset_shared_lock(struct asset_shared *shared, struct err *err);
void asset_shared_unlock(struct asset_shared *shared);

/* Changes whenever another file of the assets may have taken the place of the last. Any thread. */
uint64_t asset_shared_generation(const struct asset_shared *shared);
void asset_shared_replaced(struct asset_shared *shared);

/*
 * Where the content is, as the writing process has it: a small number, for those who know its pid,
 * as what is there may be of a process that has ended. 0: it has not told. Any thread.
 */
void asset_shared_put_place(struct asset_shared *shared, unsigned place);
unsigned asset_shared_place(const struct asset_shared *shared, int pid);

/* Tells the writing process of a use, sooner or later. Never blocks; any thread. */
void asset_shared_use(struct asset_shared *shared, const uint8_t hash[ASSET_HASH_SIZE], int64_t at);

/* The writing process: takes what was told it to USES. */
void asset_shared_take_uses(struct asset_shared *shared, struct asset_uses *uses);

#endif
