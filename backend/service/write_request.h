/* SPDX-License-Identifier: Apache-2.0 */
/* google.bytestream.WriteRequest, read where it lies: its data is never copied. */
#ifndef ASSETD_SERVICE_WRITE_REQUEST_H
#define ASSETD_SERVICE_WRITE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"

/* Bytes of a message that may begin in one run and end in another. */
struct run_piece {
    const struct span *runs; /* the run that it begins in, and those behind it */
    size_t skip;             /* bytes of the first run before it */
    size_t size;             /* bytes */
};

/* The next run of PIECE's bytes, which is then taken off it; false when none are left. */
bool run_piece_next(struct run_piece *piece, struct span *bytes);

/* Points into the message; a field that is absent is empty, zero or false. */
struct write_request {
    struct run_piece resource_name; /* not checked to be UTF-8 */
    int64_t write_offset;
    bool finish_write;
    struct run_piece data;
};

/*
 * Reads the message that lies in COUNT runs. Fields come in any order, the last of several counts
 * and unknown ones are passed over (Protocol Buffers, encoding). ERR_INVALID: malformed.
 */
int write_request_parse(const struct span *runs, size_t count, struct write_request *request,
                        struct err *err);

#endif
