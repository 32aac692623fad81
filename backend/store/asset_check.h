/* SPDX-License-Identifier: Apache-2.0 */
/* A check of an asset index, alone or beside the process that writes to it. */
#ifndef ASSETD_STORE_ASSET_CHECK_H
#define ASSETD_STORE_ASSET_CHECK_H

#include <stdint.h>

#include "base/err.h"
#include "store/cas.h"
#include "store/store_check.h"

struct asset_checked {
    uint64_t assets;     /* expired or not, damaged or not; those that are left after a repair */
    uint64_t incomplete; /* of which not all content or references are in the CAS */
};

/*
 * Checks the index of the storage directory STORAGE, which must be there: each asset is read, and
 * is to stand under the hash of its name. No use is counted. CAS: where content and references are
 * looked up, each but not what directories hold; NULL: they are elsewhere. Incomplete assets are no
 * fault, as content may have been evicted.
 *
 * If CHECK repairs, what is broken is removed; that takes the lock of the writing process, and
 * without it they stay. What was pushed meanwhile may be passed over. One thread.
 *
 * ERR_PRECONDITION: the format is not this program's. ERR_DATA_LOSS, ERR_UNAVAILABLE, ERR_IO: the
 * file of the assets cannot be read to its end.
 */
int asset_check(const char *storage, struct cas *cas, struct store_check *check,
                struct asset_checked *checked, struct err *err);

#endif
