/* SPDX-License-Identifier: Apache-2.0 */
/* How the asset index lays out what it stores: names, rows and records, and their checksums. */
#ifndef ASSETD_STORE_ASSET_RECORD_H
#define ASSETD_STORE_ASSET_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/span.h"
#include "store/asset_index.h"

/* The version of all that is laid out here, and of the index's format file. */
enum { ASSET_FORMAT = 1 };

enum { ASSET_HASH_SIZE = 32, ASSET_ROW_SIZE = 40 };

/* A key in one run of bytes, qualifiers sorted, and the SHA-256 of it: what is looked up. */
struct asset_name {
    uint8_t hash[ASSET_HASH_SIZE];
    uint8_t *bytes; /* ROOM, or allocated */
    size_t size;
    uint8_t room[480];
};

int asset_name_init(struct asset_name *name, const struct asset_key *key, struct err *err);
void asset_name_fini(struct asset_name *name);

/* Bytes that the name of KEY has. */
size_t asset_name_size(const struct asset_key *key);

/* What is found under the hash of a name: where the record is, and what changes without it. */
struct asset_row {
    uint64_t record; /* its number */
    uint64_t used;   /* place in the order of use: pushes and fetches are counted */
    int64_t fetched_at;
    int64_t expires_at; /* 0: never */
};

void asset_row_pack(const struct asset_row *row, uint8_t out[ASSET_ROW_SIZE]);

/* False if the bytes are not what was packed. */
bool asset_row_unpack(struct span bytes, struct asset_row *row);

/* Bytes of the record of an asset under a name of NAME_SIZE bytes. */
size_t asset_record_size(size_t name_size, const struct asset *asset);

/* Writes the record: asset_record_size bytes. Of the times, only pushed_at and expires_at. */
void asset_record_pack(const struct asset_name *name, const struct asset *asset, uint8_t *out);

/*
 * Reads a record. If NAME is not NULL, a record of another name (whose hash is the same) is
 * ERR_NOT_FOUND. KEY may be NULL. Strings and arrays are made in ARENA. fetched_at is 0.
 * ERR_DATA_LOSS: the bytes are not what was packed.
 */
int asset_record_unpack(struct span record, const struct asset_name *name, struct arena *arena,
                        struct asset_key *key, struct asset *asset, struct err *err);

/* The time of the push alone, of the record of NAME. False: it is damaged, or of another name. */
bool asset_record_pushed_at(struct span record, const struct asset_name *name, int64_t *pushed_at);

#endif
