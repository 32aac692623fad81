/* SPDX-License-Identifier: Apache-2.0 */
/* The lines of a stream, one by one, in memory that the longest one bounds. */
#ifndef ASSETD_CONTROL_LINES_H
#define ASSETD_CONTROL_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"

/* Embedded. Zeroed, but for the first two, to begin. */
struct lines {
    int fd;         /* borrowed */
    size_t longest; /* bytes, without the end; what is longer is passed over */
    uint64_t count; /* lines so far; the number of the present one */
    uint64_t bytes; /* of all these, with their ends */
    /* lines.c's own: */
    char *buffer;
    size_t capacity;
    size_t begin; /* of what is left in it */
    size_t end;
    bool is_over;
};

/* Gives back the memory. */
void lines_fini(struct lines *lines);

/*
 * The next line, without its end, in LINE, which lives until the next call; the last one needs no
 * end. *IS_THERE: there was one. ERR_INVALID: it is too long, the next call goes on behind it.
 * ERR_IO and others of errno: the stream cannot be read.
 */
int lines_next(struct lines *lines, struct span *line, bool *is_there, struct err *err);

#endif
