/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the log: bytes of a segment, and what a segment contains. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/cas_log_private.h"
#include "store/disk.h"

/* Bytes that are read at a time to find the headers of records. */
enum { WINDOW = 1 << 20 };

static int say_cut(struct err *err, uint64_t number)
{
    return err_set(err, ERR_NOT_FOUND, "segment %016" PRIx64 " is gone", number);
}

/*
 * Whether the file may end before END without a fault. The state and `trusted` change before the
 * file does, and it may have the state LEAVING for as long as it is removed.
 */
static bool is_cut(const struct cas_log *log, uint64_t number, uint64_t end)
{
    const struct cas_segment *segment = cas_segment_find(log->options.shared, number);
    return segment == NULL || atomic_load(&segment->trusted) < end ||
           !log_file_is_staying(log, number);
}

int cas_log_read(struct cas_log *log, uint64_t number, void *buffer, size_t size, uint64_t offset,
                 struct err *err)
{
    struct log_file *file;
    if (offset > INT64_MAX - size)
        return err_set(err, ERR_DATA_LOSS, "no segment has bytes at %" PRIu64, offset);
    if (log_file_get(log, number, &file, err) != 0)
        return -(int)err->code;
    int rc = disk_read(file->fd, buffer, size, (off_t)offset, err);
    log_file_unref(file);
    if (rc == 0)
        return 0;
    if (rc == -ERR_DATA_LOSS && is_cut(log, number, offset + size))
        return say_cut(err, number);
    return err_wrap(err, "segment %016" PRIx64, number);
}

/* --- contents --- */

/* What cas_log_contents works on. */
struct source {
    struct cas_origin origin;
    int fd;
    uint64_t size;  /* of the file */
    uint64_t limit; /* where the records end */
    struct cas_content *contents;
    size_t count;
    size_t capacity;
};

static int reserve(struct source *source, size_t capacity, struct err *err)
{
    struct cas_content *contents = NULL;
    if (capacity <= SIZE_MAX / sizeof(*contents))
        contents = realloc(source->contents, capacity * sizeof(*contents));
    if (contents == NULL)
        return err_no_memory(err, "the contents of a segment");
    source->contents = contents;
    source->capacity = capacity;
    return 0;
}

static int add(struct source *source, const struct digest *digest, uint64_t offset, struct err *err)
{
    size_t capacity = source->capacity == 0 ? 256 : 2 * source->capacity;
    if (source->count == source->capacity && reserve(source, capacity, err) != 0)
        return -(int)err->code;
    struct cas_content *content = &source->contents[source->count++];
    cas_key_of(digest, &content->key);
    content->offset = offset;
    return 0;
}

/* Bytes of a record at OFFSET, or ERR_DATA_LOSS if it does not fit in front of the limit. */
static int measure(const struct source *source, uint64_t offset, enum digest_function function,
                   int64_t size, uint64_t *end, struct err *err)
{
    if (offset % CAS_ALIGN != 0 || offset > source->limit || size < 0 || size > CAS_BLOB_MAX ||
        digest_hash_size(function) == 0 ||
        (uint64_t)cas_record_size(function, size) > source->limit - offset)
        return err_set(err, ERR_DATA_LOSS, "no whole record at %" PRIu64, offset);
    *end = offset + (uint64_t)cas_record_size(function, size);
    return 0;
}

/* Reads the headers one behind the other. */
static int scan(struct source *source, struct err *err)
{
    uint64_t start = 0; /* of what the window has */
    size_t size = 0;
    int rc = 0;
    uint8_t *window = malloc(WINDOW);
    if (window == NULL)
        return err_no_memory(err, "a segment's headers");
    for (uint64_t offset = CAS_SEGMENT_HEADER; rc == 0 && offset < source->limit;) {
        uint64_t rest = source->limit - offset;
        size_t wanted = rest < CAS_RECORD_HEADER_MAX ? (size_t)rest : CAS_RECORD_HEADER_MAX;
        if (offset + wanted > start + size) {
            start = offset;
            size = rest < WINDOW ? (size_t)rest : WINDOW;
            rc = disk_read(source->fd, window, size, (off_t)start, err);
            if (rc != 0)
                break;
        }
        struct digest digest;
        uint64_t end = 0;
        rc = cas_record_get_header(&source->origin, offset, window + (offset - start), wanted,
                                   &digest, err);
        if (rc == 0)
            rc = measure(source, offset, digest.function, digest.size, &end, err);
        if (rc == 0)
            rc = add(source, &digest, offset, err);
        offset = end;
    }
    free(window);
    return rc;
}

/* Whether the table's entries are in order and each is a whole record. */
static int check_entries(const struct source *source, struct err *err)
{
    uint64_t end = CAS_SEGMENT_HEADER;
    for (size_t i = 0; i < source->count; i++) {
        const struct cas_content *content = &source->contents[i];
        if (content->offset < end)
            return err_set(err, ERR_DATA_LOSS, "the contents are not in order");
        if (measure(source, content->offset, cas_key_function(&content->key),
                    cas_key_size(&content->key), &end, err) != 0)
            return -(int)err->code;
    }
    return 0;
}

_Static_assert(sizeof(struct cas_content) == CAS_CONTENTS_ENTRY, "entries are decoded in place");

/* Reads COUNT entries which stand in front of END. */
static int read_entries(struct source *source, const uint8_t end[CAS_CONTENTS_END], size_t count,
                        struct err *err)
{
    uint64_t start = source->size - CAS_CONTENTS_END - count * CAS_CONTENTS_ENTRY;
    if (reserve(source, count > 0 ? count : 1, err) != 0)
        return -(int)err->code;
    uint8_t *entries = (uint8_t *)source->contents;
    size_t size = count * CAS_CONTENTS_ENTRY;
    if (disk_read(source->fd, entries, size, (off_t)start, err) != 0 ||
        cas_contents_verify(end, entries, count, err) != 0)
        return -(int)err->code;
    for (size_t i = 0; i < count; i++) {
        struct cas_content content;
        cas_contents_get_entry(entries + i * CAS_CONTENTS_ENTRY, &content);
        source->contents[i] = content;
    }
    source->count = count;
    return check_entries(source, err);
}

/*
 * Reads the table of contents. ERR_DATA_LOSS: there is none, or it is broken. A limit that is not
 * known yet becomes where the table begins.
 */
static int read_table(struct source *source, struct err *err)
{
    uint8_t end[CAS_CONTENTS_END];
    uint64_t count;
    if (source->size < CAS_SEGMENT_HEADER + CAS_CONTENTS_END)
        return err_set(err, ERR_DATA_LOSS, "too small for a table of contents");
    if (disk_read(source->fd, end, sizeof(end), (off_t)(source->size - sizeof(end)), err) != 0 ||
        cas_contents_get_end(&source->origin, end, &count, err) != 0)
        return -(int)err->code;
    uint64_t rest = source->size - CAS_SEGMENT_HEADER - CAS_CONTENTS_END;
    if (count > rest / CAS_CONTENTS_ENTRY)
        return err_set(err, ERR_DATA_LOSS, "the contents are larger than the file");
    uint64_t start = source->size - CAS_CONTENTS_END - count * CAS_CONTENTS_ENTRY;
    if (source->limit == 0)
        source->limit = start;
    if (source->limit > start)
        return err_set(err, ERR_DATA_LOSS, "the contents begin within the records");
    return read_entries(source, end, (size_t)count, err);
}

static int read_contents(struct source *source, bool is_sealed, struct err *err)
{
    if (is_sealed) {
        int rc = read_table(source, err);
        if (rc != -ERR_DATA_LOSS)
            return rc;
        source->count = 0;
        if (source->limit == 0)
            source->limit = source->size;
    }
    return scan(source, err);
}

int cas_log_contents(struct cas_log *log, uint64_t number, struct cas_content **contents,
                     size_t *count, struct err *err)
{
    struct log_file *file;
    struct stat st;
    *contents = NULL;
    *count = 0;
    const struct cas_segment *segment = cas_segment_find(log->options.shared, number);
    if (segment == NULL)
        return say_cut(err, number);
    bool is_sealed = atomic_load(&segment->state) == CAS_SEALED;
    uint64_t trusted = atomic_load(&segment->trusted);
    struct source source = {.origin = log_origin(log, number), .limit = trusted};
    if (log_file_get(log, number, &file, err) != 0)
        return -(int)err->code;
    int rc = 0;
    if (fstat(file->fd, &st) != 0) {
        rc = disk_fault(err, errno, "look at the file");
    } else {
        source.fd = file->fd;
        source.size = (uint64_t)st.st_size;
        rc = read_contents(&source, is_sealed, err);
    }
    log_file_unref(file);

    if (rc == -ERR_NO_MEMORY || source.count == 0) {
        free(source.contents);
        source.contents = NULL;
        source.count = 0;
    }
    *contents = source.contents;
    *count = source.count;
    if (rc == 0)
        return 0;
    if (rc == -ERR_DATA_LOSS && is_cut(log, number, trusted)) {
        free(*contents);
        *contents = NULL;
        *count = 0;
        return say_cut(err, number);
    }
    return err_wrap(err, "segment %016" PRIx64, number);
}
