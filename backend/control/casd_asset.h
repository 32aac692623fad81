/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Assets as buildbox-casd keeps them: each in a file with a google.protobuf.Any, in which is what a
 * fetch of it answers, a FetchBlobResponse or FetchDirectoryResponse (Remote Asset API). The file
 * is named by the SHA-256 of the request that asks for it, likewise in an Any: its URI, and its
 * qualifiers sorted by name.
 *
 * What a push referenced is not kept. Of BuildStream's own assets it can be told by their content.
 */
#ifndef ASSETD_CONTROL_CASD_ASSET_H
#define ASSETD_CONTROL_CASD_ASSET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/span.h"
#include "store/asset_index.h"

/* Bytes of the SHA-256 that names a file. */
enum { CASD_NAME_SIZE = 32 };

/* Bytes of the longest file of an asset: larger ones have no bounds that a push is held to. */
enum { CASD_ASSET_MAX = 1 << 20 };

/*
 * Reads the FILE of that NAME to KEY and ASSET, with all that they point to in ARENA; ASSET has no
 * times but expires_at, and no references. ERR_INVALID, with the reason: it is no asset, is out of
 * the bounds of a push, or has another name than its URI and qualifiers give.
 */
int casd_asset_read(struct span file, const uint8_t name[CASD_NAME_SIZE], struct arena *arena,
                    struct asset_key *key, struct asset *asset, struct err *err);

/* Whether the content of an asset tells what it references: it is one of BuildStream's. */
bool casd_asset_is_telling(const struct asset_key *key);

/*
 * Sets the references of such an ASSET, as BuildStream pushes them, from its CONTENT; in ARENA.
 * ERR_INVALID: the content is not the message that it should be.
 */
int casd_asset_refer(const struct asset_key *key, struct span content, struct arena *arena,
                     struct asset *asset, struct err *err);

#endif
