/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills a store through its own library, as the way over the network takes long for many blobs:
 *
 *     fill STORAGE QUOTA BASE SMALL
 *
 * Puts BASE blobs of EXCHANGE_BLOB bytes and SMALL of EXCHANGE_SMALL, and prints, as one line of
 * JSON, what their records take in the log.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "blobs.h"
#include "exchange.h"
#include "store/cas.h"
#include "store/cas_record.h"

static _Noreturn void fail(const struct err *err)
{
    (void)fprintf(stderr, "fill: %s\n", err->msg);
    exit(EXIT_FAILURE);
}

/* Puts COUNT blobs of SIZE bytes; returns the bytes of their records. */
static int64_t put_all(struct cas *cas, enum blobs_series series, uint64_t count, size_t size)
{
    struct cas_blob blobs[EXCHANGE_BATCH];
    uint8_t *bytes = blobs_memory(EXCHANGE_BATCH, size);
    uint64_t done = 0;
    while (done < count) {
        size_t some = 0;
        for (; some < EXCHANGE_BATCH && done < count; some++, done++) {
            uint8_t *blob = bytes + some * size;
            blobs_fill(series, done, blob, size);
            blobs_digest(blob, size, &blobs[some].digest);
            blobs[some].data = (struct span){blob, size};
        }
        cas_put(cas, NULL, blobs, some);
        for (size_t i = 0; i < some; i++)
            if (blobs[i].err.code != ERR_OK)
                fail(&blobs[i].err);
    }
    free(bytes);
    return (int64_t)count * cas_record_size(DIGEST_SHA256, (int64_t)size);
}

int main(int argc, char **argv)
{
    struct err err;
    struct cas *cas;
    if (argc != 5) {
        (void)fputs("usage: fill STORAGE QUOTA BASE SMALL\n", stderr);
        return 2;
    }
    const struct cas_options options = {
        .path = argv[1], .quota = strtoll(argv[2], NULL, 10), .may_write = true};
    log_set_level(LOG_LEVEL_WARNING);
    if (cas_open(&options, &cas, &err) != 0)
        fail(&err);
    int64_t bytes = put_all(cas, BLOBS_BASE, strtoull(argv[3], NULL, 10), EXCHANGE_BLOB);
    bytes += put_all(cas, BLOBS_SMALL, strtoull(argv[4], NULL, 10), EXCHANGE_SMALL);
    cas_close(cas);
    (void)printf("{\"records\": %" PRId64 "}\n", bytes);
    return EXIT_SUCCESS;
}
