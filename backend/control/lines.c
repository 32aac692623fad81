/* SPDX-License-Identifier: Apache-2.0 */
/* Reading lines into a buffer that grows up to the longest one. */
#include "control/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_SIZE = 256 << 10 };

void lines_fini(struct lines *lines)
{
    free(lines->buffer);
    lines->buffer = NULL;
    lines->capacity = 0;
}

/* Makes room behind what is left in the buffer. */
static int make_room(struct lines *lines, struct err *err)
{
    size_t left = lines->end - lines->begin;
    if (lines->begin != 0) {
        memmove(lines->buffer, lines->buffer + lines->begin, left);
        lines->begin = 0;
        lines->end = left;
    }
    if (lines->capacity - left >= READ_SIZE)
        return 0;
    size_t capacity =
        lines->capacity * 2 > left + READ_SIZE ? lines->capacity * 2 : left + READ_SIZE;
    char *buffer = realloc(lines->buffer, capacity);
    if (buffer == NULL)
        return err_no_memory(err, "a line");
    lines->buffer = buffer;
    lines->capacity = capacity;
    return 0;
}

static int read_more(struct lines *lines, struct err *err)
{
    int rc = make_room(lines, err);
    if (rc != 0)
        return rc;
    ssize_t size;
    do
        size = read(lines->fd, lines->buffer + lines->end, READ_SIZE);
    while (size < 0 && errno == EINTR);
    if (size < 0)
        return err_errno(err, errno, "read the lines");
    lines->is_over = size == 0;
    lines->end += (size_t)size;
    return 0;
}

static void take(struct lines *lines, size_t size)
{
    lines->begin += size;
    lines->bytes += size;
}

int lines_next(struct lines *lines, struct span *line, bool *is_there, struct err *err)
{
    size_t seen = 0;
    bool is_too_long = false;
    *is_there = false;
    int rc = lines->buffer == NULL ? read_more(lines, err) : 0;
    while (rc == 0) {
        char *begin = lines->buffer + lines->begin;
        size_t left = lines->end - lines->begin;
        char *end = left > seen ? memchr(begin + seen, '\n', left - seen) : NULL;
        size_t length = end != NULL ? (size_t)(end - begin) : left;
        is_too_long |= length > lines->longest;
        if (end != NULL || (lines->is_over && (left > 0 || is_too_long))) {
            take(lines, length + (end != NULL));
            lines->count++;
            *is_there = true;
            *line = (struct span){(const uint8_t *)begin, length};
            if (!is_too_long)
                return 0;
            return err_set(err, ERR_INVALID, "the line is longer than %zu bytes", lines->longest);
        }
        if (lines->is_over)
            return 0;
        seen = left;
        if (is_too_long) { /* it is not kept */
            take(lines, left);
            seen = 0;
        }
        rc = read_more(lines, err);
    }
    return rc;
}
