/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Assets as lines of JSON (RFC 8259), an object each:
 *
 *   {"kind": "blob", "uri": "...", "qualifiers": {"NAME": "VALUE"}, "digest_function": "sha256",
 *    "digest": "HASH/SIZE", "references_blobs": ["HASH/SIZE"], "references_directories": [],
 *    "pushed_at": "2026-11-23T10:00:00.123Z", "fetched_at": "...", "expires_at": "..."}
 *
 * KIND is "blob" or "directory". Times are of UTC (RFC 3339). What is empty is left out.
 * What is written is ASCII, as clients chose the texts: none of it steers a terminal.
 */
#ifndef ASSETD_CONTROL_ASSET_JSON_H
#define ASSETD_CONTROL_ASSET_JSON_H

#include <stddef.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/err.h"
#include "store/asset_index.h"

/* Bytes of the longest line that is read; what is written is below 20 MiB. */
enum { ASSET_JSON_LINE_MAX = 32 << 20 };

/* Writes a line to FILE. ERR_IO, ERR_EXHAUSTED and others of errno: FILE could not be written. */
int asset_json_write(const struct asset_key *key, const struct asset *asset, FILE *file,
                     struct err *err);

/*
 * Reads a line, without its end, to KEY and ASSET, with all that they point to in ARENA. A time
 * that is left out is 0. ERR_INVALID, with the reason: it is no such object, has a member that is
 * not known or comes twice, or is out of the bounds of a push.
 */
int asset_json_read(const char *line, size_t length, struct arena *arena, struct asset_key *key,
                    struct asset *asset, struct err *err);

#endif
