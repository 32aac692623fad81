/* SPDX-License-Identifier: Apache-2.0 */
/* How long assets live: fetches renew them, and they expire. Within a transaction of the tables. */
#ifndef ASSETD_STORE_ASSET_LIFE_H
#define ASSETD_STORE_ASSET_LIFE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/asset_tables.h"

/*
 * Writes the pending uses at NOW, the oldest first, as far as the transaction may: *MORE says that
 * some are left. A use that is not RENEW_AFTER milliseconds later than the last one that was
 * written stays pending for as long; where very many are pending it is dropped.
 */
int asset_life_renew(struct asset_tables *tables, int64_t now, int64_t renew_after, bool *more,
                     struct err *err);

/*
 * Whether an asset has not been fetched for EXPIRE_AFTER milliseconds (0: for ever) at NOW. A fetch
 * that is pending in USES counts. Any thread.
 */
bool asset_life_is_unused(struct asset_uses *uses, const uint8_t *hash, const struct asset_row *row,
                          int64_t expire_after, int64_t now);

/*
 * Removes at most LIMIT assets that are expired at NOW; *COUNT says how many. A pending use keeps
 * an asset from it.
 */
int asset_life_expire(struct asset_tables *tables, int64_t now, int64_t expire_after, size_t limit,
                      size_t *count, struct err *err);

#endif
