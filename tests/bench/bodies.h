/* SPDX-License-Identifier: Apache-2.0 */
/* The bodies of the calls that are made: all requests, and what the answers have to be. */
#ifndef ASSETD_BENCH_BODIES_H
#define ASSETD_BENCH_BODIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "blobs.h"

/* gRPC messages, each with its prefix, as runs of bytes that may belong to several bodies. */
struct body {
    struct span *runs; /* heap */
    size_t count;
    size_t size;   /* of all of them */
    uint8_t *made; /* what was made for this body alone; heap */
    size_t least;  /* bytes that any answer has which is right; where is_right is NULL */
};

/* COUNT calls of one method; call N has request N and answer N, modulo COUNT. */
struct bodies {
    const char *path;
    size_t count;
    struct body *requests; /* heap */
    struct body *answers;  /* heap; the same for all if there is but one */
    size_t answer_count;
    /*
     * Whether GOT says the same as the message RIGHT, be it in another order or with more fields.
     * NULL: only the number of bytes tells.
     */
    bool (*is_right)(struct span right, struct span got);
    struct blobs_large large; /* what runs of ByteStream's bodies are of */
};

/* What is in the store from the beginning: blobs 0 to BASE - 1 and 0 to SMALL - 1 of the series. */
struct bodies_store {
    uint64_t base; /* at least EXCHANGE_BATCH */
    uint64_t small;
    struct digest *digests; /* of the base, those that were needed; heap */
};

void bodies_store_init(struct bodies_store *store, uint64_t base, uint64_t small);
void bodies_store_fini(struct bodies_store *store);

/* Each asks for digests that are there, taken at random by SEED. */
void bodies_make_find(struct bodies *bodies, size_t count, const struct bodies_store *store,
                      uint64_t seed);

/* Each stores blobs of BLOBS_NEW, from number FIRST on. */
void bodies_make_update(struct bodies *bodies, size_t count, uint64_t first);

/* As many as it takes to store each blob of the base once; the last ones may come twice. */
void bodies_make_fill(struct bodies *bodies, const struct bodies_store *store);

/*
 * As many as it takes to read each blob of the base once: in order, or at random if SEED is not 0.
 */
void bodies_make_read(struct bodies *bodies, const struct bodies_store *store, uint64_t seed);

/*
 * Blobs of BLOBS_STREAM of SIZE bytes, a multiple of EXCHANGE_BLOB, from number FIRST on, to be
 * read or written. HAS_BYTES: what is read can be compared; without it the blobs take no memory.
 */
void bodies_make_fetch(struct bodies *bodies, size_t count, uint64_t first, size_t size,
                       bool has_bytes);
void bodies_make_store(struct bodies *bodies, size_t count, uint64_t first, size_t size);

/* Assets of the numbers FIRST to FIRST + COUNT - 1. */
struct bodies_assets {
    uint64_t first;
    uint64_t count;
};

/* COUNT assets, each of them a blob of the base that references REFERENCES blobs of the base. */
void bodies_make_push_assets(struct bodies *bodies, const struct bodies_store *store,
                             const struct bodies_assets *assets, size_t references);

/* COUNT fetches: of the assets in turn, or at random if SEED is not 0. */
void bodies_make_fetch_assets(struct bodies *bodies, size_t count, const struct bodies_store *store,
                              const struct bodies_assets *assets, uint64_t seed);

/* COUNT fetches of what nobody pushed. */
void bodies_make_miss_assets(struct bodies *bodies, size_t count, uint64_t first);

void bodies_fini(struct bodies *bodies);

#endif
