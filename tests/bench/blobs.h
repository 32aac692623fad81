/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs that can be made again from their number. */
#ifndef ASSETD_BENCH_BLOBS_H
#define ASSETD_BENCH_BLOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

/* Blobs of different series have nothing in common. */
enum blobs_series {
    BLOBS_BASE = 1, /* of EXCHANGE_BLOB bytes, in the store from the beginning */
    BLOBS_SMALL,    /* of EXCHANGE_SMALL bytes, likewise */
    BLOBS_NEW,      /* of EXCHANGE_BLOB bytes, stored while it is measured */
    BLOBS_STREAM,   /* of any size, through ByteStream */
};

/* Writes the SIZE bytes, at least 16, of blob NUMBER of a series. */
void blobs_fill(enum blobs_series series, uint64_t number, uint8_t *out, size_t size);

/* Its digest. Ends the process if there is no memory. */
void blobs_digest(const uint8_t *bytes, size_t size, struct digest *digest);

/*
 * Large blobs differ in their last bytes only: all of a size have the same body in front, which is
 * made once, and their digests are cheap.
 */
enum { BLOBS_TAIL = 16 };

struct blobs_large {
    uint8_t *body; /* SIZE - BLOBS_TAIL bytes; heap; NULL: not kept */
    size_t size;
    void *hashed; /* SHA-256 of the body, under way */
};

/*
 * SIZE: more than BLOBS_TAIL. KEEPS: whether the body is needed. Ends the process without memory.
 */
void blobs_large_init(struct blobs_large *large, size_t size, bool keeps);
void blobs_large_fini(struct blobs_large *large);
void blobs_large_tail(const struct blobs_large *large, uint64_t number, uint8_t tail[BLOBS_TAIL],
                      struct digest *digest);

/* As calloc; ends the process if there is no memory. */
void *blobs_memory(size_t count, size_t size);

#endif
