/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of the tables of the asset index, and what the files that change them share. */
#ifndef ASSETD_STORE_ASSET_TABLES_PRIVATE_H
#define ASSETD_STORE_ASSET_TABLES_PRIVATE_H

#include <stdint.h>
#include <string.h>

#include "base/span.h"
#include "store/asset_tables.h"

/* Numbers and times are keys of eight bytes, big-endian, so that they sort. */
enum { ASSET_NUMBER_SIZE = 8, ASSET_EXPIRY_SIZE = ASSET_NUMBER_SIZE + ASSET_HASH_SIZE };

/* Bytes that count for an asset in all tables but that of records, and for a renewal. */
enum { ASSET_ROW_COST = 160, ASSET_RENEWAL_COST = 64 };

static inline struct span asset_span(const void *data, size_t size)
{
    return (struct span){.data = data, .size = size};
}

static inline struct span asset_number_put(uint8_t out[ASSET_NUMBER_SIZE], uint64_t number)
{
    for (int i = 0; i < ASSET_NUMBER_SIZE; i++)
        out[i] = (uint8_t)(number >> (8 * (ASSET_NUMBER_SIZE - 1 - i)));
    return asset_span(out, ASSET_NUMBER_SIZE);
}

static inline uint64_t asset_number_get(const uint8_t *bytes)
{
    uint64_t number = 0;
    for (int i = 0; i < ASSET_NUMBER_SIZE; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* With the sign turned over, times before 1970 come first. */
#define ASSET_EXPIRY_SIGN ((uint64_t)1 << 63)

static inline struct span asset_expiry_put(uint8_t out[ASSET_EXPIRY_SIZE], int64_t expires_at,
                                           const uint8_t *hash)
{
    (void)asset_number_put(out, (uint64_t)expires_at ^ ASSET_EXPIRY_SIGN);
    memcpy(out + ASSET_NUMBER_SIZE, hash, ASSET_HASH_SIZE);
    return asset_span(out, ASSET_EXPIRY_SIZE);
}

static inline int64_t asset_expiry_get(struct span key)
{
    return (int64_t)(asset_number_get(key.data) ^ ASSET_EXPIRY_SIGN);
}

/* --- all of these return what the database says; the last four are the writer's --- */

/* A row that is damaged is not found, which is logged once. */
int asset_tables_get_row(struct asset_tables *tables, struct MDB_txn *txn, const uint8_t *hash,
                         struct asset_row *row);
int asset_tables_get_record(struct MDB_txn *txn, const struct asset_row *row, struct span *record);

/* What is not there has been lost by damage, and need not be deleted. */
int asset_tables_delete_key(struct asset_tables *tables, enum asset_table table, struct span key);

/* Deletes the asset with all that leads to it. */
int asset_tables_delete(struct asset_tables *tables, const uint8_t *hash,
                        const struct asset_row *row);

/* Puts the asset last in the order of use. */
int asset_tables_move_last(struct asset_tables *tables, const uint8_t *hash, struct asset_row *row);

/*
 * The asset behind place *USED in the order of use (0: the one used longest ago) but before this
 * transaction; *USED becomes its place. Places that no asset has, which damage leaves, are deleted
 * on the way.
 */
int asset_tables_next_used(struct asset_tables *tables, uint64_t *used,
                           uint8_t hash[ASSET_HASH_SIZE], struct asset_row *row);

/* Writes USE, which is pending, now. The transaction must have a renewal left. */
int asset_life_renew_one(struct asset_tables *tables, const struct asset_use *use,
                         struct asset_row *row);

#endif
