/* SPDX-License-Identifier: Apache-2.0 */
/* What is exchanged in each operation that is measured: methods, and the sizes of answers. */
#ifndef ASSETD_BENCH_EXCHANGE_H
#define ASSETD_BENCH_EXCHANGE_H

#define EXCHANGE_CAS         "/build.bazel.remote.execution.v2.ContentAddressableStorage/"
#define EXCHANGE_FIND        EXCHANGE_CAS "FindMissingBlobs"
#define EXCHANGE_UPDATE      EXCHANGE_CAS "BatchUpdateBlobs"
#define EXCHANGE_READ        EXCHANGE_CAS "BatchReadBlobs"
#define EXCHANGE_FETCH       "/google.bytestream.ByteStream/Read"
#define EXCHANGE_STORE       "/google.bytestream.ByteStream/Write"
#define EXCHANGE_PUSH_ASSET  "/build.bazel.remote.asset.v1.Push/PushBlob"
#define EXCHANGE_FETCH_ASSET "/build.bazel.remote.asset.v1.Fetch/FetchBlob"

/*
 * Before the number of an asset, in EXCHANGE_NUMBER hexadecimal digits: the URI that BuildStream
 * would have for an artifact, and one of another length that nobody pushes.
 */
#define EXCHANGE_URI      "urn:fdc:buildstream.build:2020:artifact:bench/element/"
#define EXCHANGE_MISS_URI "urn:fdc:buildstream.build:2020:artifact:bench/missing-element/"

/* All in bytes, but for those that say what they count. */
enum {
    EXCHANGE_BATCH = 100,       /* digests or blobs in a request */
    EXCHANGE_BASE = 10000,      /* blobs of EXCHANGE_BLOB in the store from the beginning */
    EXCHANGE_BLOB = 1024,       /* a blob of a batch */
    EXCHANGE_SMALL = 16,        /* a blob that is only there to be many */
    EXCHANGE_STREAM = 64 << 20, /* a blob of ByteStream */
    EXCHANGE_PIECE = 1 << 20,   /* of it in a message, the last one excepted */
    EXCHANGE_ASSETS = 1000,     /* assets that are pushed once, and fetched in turn */
    EXCHANGE_NUMBER = 64,       /* digits */

    /* A Digest: 64 hexadecimal digits with their head, and the size of a blob of a batch. */
    EXCHANGE_DIGEST = 2 + 64 + 3,
    EXCHANGE_FIND_ANSWER = 0,
    EXCHANGE_UPDATE_ANSWER = EXCHANGE_BATCH * (2 + 2 + EXCHANGE_DIGEST + 2),
    EXCHANGE_READ_ANSWER = EXCHANGE_BATCH * (3 + 2 + EXCHANGE_DIGEST + 3 + EXCHANGE_BLOB + 2),
    EXCHANGE_FETCH_MESSAGE = 1 + 3 + EXCHANGE_PIECE, /* of the pieces but a smaller last one */
    EXCHANGE_STORE_ANSWER_MAX = 1 + 10,
    EXCHANGE_PUSH_ASSET_ANSWER = 0,
    EXCHANGE_FETCH_ASSET_ANSWER =
        2 + 2 + (sizeof(EXCHANGE_URI) - 1 + EXCHANGE_NUMBER) + 2 + EXCHANGE_DIGEST + 2,
    /* A request for what nobody pushed. */
    EXCHANGE_MISS_REQUEST = 2 + sizeof(EXCHANGE_MISS_URI) - 1 + EXCHANGE_NUMBER,

    EXCHANGE_PREFIX = 5, /* gRPC: before each message */
};

#endif
