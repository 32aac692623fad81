/* SPDX-License-Identifier: Apache-2.0 */
/* Room in the file of the asset index: what was used longest ago is evicted. */
#ifndef ASSETD_STORE_ASSET_ROOM_H
#define ASSETD_STORE_ASSET_ROOM_H

#include <stddef.h>

#include "base/err.h"
#include "store/asset_tables.h"

/*
 * Within a transaction: if what it leaves is more than should be in use, evicts what was used
 * longest ago, in proportion to what was put and renewed by it; *COUNT says how many. Nothing that
 * it put or renewed is evicted. An asset whose use is pending is renewed instead, and when no
 * renewal is left, nothing more is evicted.
 */
int asset_room_settle(struct asset_tables *tables, size_t *count, struct err *err);

/*
 * Outside a transaction, after ERR_ABORTED: makes room for BYTES by means that grow with ATTEMPT,
 * from 0; *COUNT says how many assets were evicted. Where all that was used longest ago is pending,
 * some of it is evicted in the end. ERR_EXHAUSTED: there is nothing left to try.
 */
int asset_room_make(struct asset_tables *tables, size_t bytes, unsigned attempt, size_t *count,
                    struct err *err);

/*
 * Outside a transaction: if the file was larger than the quota when it was opened, evicts what was
 * used longest ago, and writes the file anew.
 */
int asset_room_shrink(struct asset_tables *tables, struct err *err);

#endif
