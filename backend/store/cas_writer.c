/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs that come in pieces. Small ones are gathered in memory and stored at once; larger ones
 * stream into the log, in room that is theirs from the beginning.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/cas_private.h"

enum {
    GATHER_MAX = 256 * 1024, /* bytes of a blob that is kept in memory until it is committed */
    GATHER_MIN = 4 * 1024,   /* bytes that are allocated for one at first */
    WRITE_MIN = 256 * 1024,  /* bytes of a large one that are written at once */
};

enum fate {
    FATE_KNOWN,  /* it is there, and is only verified */
    FATE_GATHER, /* it is kept in memory */
    FATE_STREAM, /* it goes into the log as it comes */
};

struct cas_writer {
    struct cas *cas;
    struct digest digest;
    enum fate fate;
    struct hasher *hasher;
    int64_t written; /* bytes of the blob */
    uint8_t *buffer; /* gathered, or not yet in the log */
    size_t buffered; /* bytes in it */
    size_t capacity; /* bytes of it */
    bool has_upload; /* what follows is in use */
    bool replaces;   /* it takes the place of one that is suspect, or that may be there */
    struct cas_upload upload;
    uint64_t offset; /* of the record in the segment */
    uint8_t *tail;   /* what stands behind the payload */
    uint32_t sum;    /* of the chunk that is being written */
};

/* Takes the room for all of it and writes the record's header. */
static int begin_stream(struct cas_writer *writer, struct err *err)
{
    const struct digest *digest = &writer->digest;
    uint8_t header[CAS_RECORD_HEADER_MAX];
    int rc = cas_upload_begin(writer->cas, cas_record_size(digest->function, digest->size), 1,
                              &writer->upload, err);
    if (rc != 0)
        return rc;
    writer->has_upload = true;
    writer->tail = calloc(1, (size_t)cas_record_tail_size(digest->function, digest->size));
    writer->buffer = malloc(WRITE_MIN);
    if (writer->tail == NULL || writer->buffer == NULL)
        return err_no_memory(err, "an upload");
    writer->capacity = WRITE_MIN;
    writer->offset = writer->upload.appender.offset;
    cas_record_put_header(&writer->upload.appender.origin, writer->offset, digest, header);
    struct iovec part = {header, cas_record_header_size(digest->function)};
    return cas_upload_append(&writer->upload, &part, 1, err);
}

static int begin(struct cas_writer *writer, struct err *err)
{
    struct cas *cas = writer->cas;
    const struct digest *digest = &writer->digest;
    struct cas_found found;
    struct err look_err;
    if (digest->size > CAS_BLOB_MAX)
        return err_set(err, ERR_EXHAUSTED, "a blob of %" PRId64 " bytes is too large for the store",
                       digest->size);
    /* What is not known to be there is stored as if it were not, and so is a suspect. */
    int rc = cas_locate(cas, NULL, digest, &found, &look_err);
    writer->replaces = rc == 0 ? (found.place & CAS_PLACE_SUSPECT) != 0 : rc != -ERR_NOT_FOUND;
    if (rc == 0 && !writer->replaces) {
        writer->fate = FATE_KNOWN;
        return 0;
    }
    if (digest->size > GATHER_MAX) {
        writer->fate = FATE_STREAM;
        return begin_stream(writer, err);
    }
    writer->fate = FATE_GATHER;
    int64_t bytes = cas_log_growth(cas_record_size(digest->function, digest->size), 1);
    return cas_space_fits(cas->space, bytes + cas_log_overhead(cas->log), err);
}

int cas_writer_open(struct cas *cas, const struct digest *digest, struct cas_writer **out,
                    struct err *err)
{
    int rc = cas_is_writing(cas, err);
    if (rc != 0)
        return rc;
    struct cas_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL)
        return err_no_memory(err, "an upload");
    writer->cas = cas;
    writer->digest = *digest;
    writer->hasher = hasher_new(digest->function);
    rc = writer->hasher != NULL ? begin(writer, err) : err_no_memory(err, "a hash");
    if (rc != 0) {
        cas_writer_abort(writer);
        return rc;
    }
    *out = writer;
    return 0;
}

/* --- appending --- */

static int gather(struct cas_writer *writer, const void *data, size_t size, struct err *err)
{
    size_t needed = writer->buffered + size;
    if (needed > writer->capacity) {
        /* A client may announce more than it sends. */
        size_t capacity = 2 * writer->capacity < GATHER_MIN ? GATHER_MIN : 2 * writer->capacity;
        if (capacity < needed)
            capacity = needed;
        if (capacity > (size_t)writer->digest.size)
            capacity = (size_t)writer->digest.size;
        uint8_t *buffer = realloc(writer->buffer, capacity);
        if (buffer == NULL)
            return err_no_memory(err, "an upload");
        writer->buffer = buffer;
        writer->capacity = capacity;
    }
    memcpy(writer->buffer + writer->buffered, data, size);
    writer->buffered = needed;
    return 0;
}

/* Takes the checksums of the next bytes. */
static void add_sums(struct cas_writer *writer, const uint8_t *bytes, size_t size)
{
    int64_t position = writer->written;
    while (size > 0) {
        size_t filled = (size_t)(position % CAS_CHUNK);
        size_t take = CAS_CHUNK - filled < size ? CAS_CHUNK - filled : size;
        uint32_t sum = filled == 0 ? cas_sum_begin(&writer->digest) : writer->sum;
        writer->sum = cas_sum_add(sum, bytes, take);
        memcpy(writer->tail + position / CAS_CHUNK * CAS_SUM, &writer->sum, CAS_SUM);
        position += (int64_t)take;
        bytes += take;
        size -= take;
    }
}

static int stream(struct cas_writer *writer, const void *data, size_t size, struct err *err)
{
    add_sums(writer, data, size);
    if (writer->buffered + size < WRITE_MIN) {
        memcpy(writer->buffer + writer->buffered, data, size);
        writer->buffered += size;
        return 0;
    }
    const struct iovec parts[] = {{writer->buffer, writer->buffered}, {(void *)data, size}};
    writer->buffered = 0;
    return cas_upload_append(&writer->upload, parts, 2, err);
}

int cas_writer_append(struct cas_writer *writer, const void *data, size_t size, struct err *err)
{
    int rc = 0;
    if (size > (uint64_t)(writer->digest.size - writer->written))
        return err_set(err, ERR_INVALID, "blob has more than the %" PRId64 " bytes of its digest",
                       writer->digest.size);
    if (size == 0)
        return 0;
    if (writer->fate == FATE_GATHER)
        rc = gather(writer, data, size, err);
    else if (writer->fate == FATE_STREAM)
        rc = stream(writer, data, size, err);
    if (rc != 0)
        return rc;
    hasher_update(writer->hasher, data, size);
    writer->written += (int64_t)size;
    return 0;
}

/* --- the end --- */

static int verify_digest(struct cas_writer *writer, struct err *err)
{
    struct digest actual;
    char text[DIGEST_TEXT_MAX];
    if (writer->written != writer->digest.size)
        return err_set(err, ERR_INVALID, "blob has %" PRId64 " bytes, its digest says %" PRId64,
                       writer->written, writer->digest.size);
    hasher_digest(writer->hasher, &actual);
    if (!digest_equal(&actual, &writer->digest))
        return err_set(err, ERR_INVALID, "blob has another hash than its digest, %s",
                       digest_text(&writer->digest, text));
    return 0;
}

/* The blob that was found there when the writer was opened lives on, unless it left meanwhile. */
static int renew_known(struct cas_writer *writer, struct err *err)
{
    struct cas_found found;
    char text[DIGEST_TEXT_MAX];
    int rc = cas_locate(writer->cas, NULL, &writer->digest, &found, err);
    if (rc == -ERR_NOT_FOUND)
        rc = err_set(err, ERR_UNAVAILABLE, "blob %s was removed while it was sent again",
                     digest_text(&writer->digest, text));
    return rc;
}

static int put_gathered(struct cas_writer *writer, struct err *err)
{
    struct cas_blob blob = {.digest = writer->digest, .data = {writer->buffer, writer->buffered}};
    struct cas_blob *blobs[] = {&blob};
    cas_put_verified(writer->cas, NULL, blobs, 1);
    *err = blob.err;
    return -(int)blob.err.code;
}

static int publish_stream(struct cas_writer *writer, struct err *err)
{
    const struct digest *digest = &writer->digest;
    struct cas_found found;
    /* If another upload was faster, this one leaves no trace. */
    if (cas_look_up(writer->cas, NULL, digest, &found) == CAS_PRESENT)
        return 0;
    const struct iovec parts[] = {
        {writer->buffer, writer->buffered},
        {writer->tail, (size_t)cas_record_tail_size(digest->function, digest->size)}};
    int rc = cas_upload_append(&writer->upload, parts, 2, err);
    if (rc != 0)
        return rc;
    struct cas_blob blob = {.digest = *digest};
    struct cas_blob *blobs[] = {&blob};
    struct cas_content content = {.offset = writer->offset};
    cas_key_of(digest, &content.key);
    rc = cas_upload_publish(&writer->upload, NULL, blobs, &content, 1, writer->replaces, err);
    if (rc != 0)
        return rc;
    cas_upload_end(&writer->upload, true);
    writer->has_upload = false;
    if (blob.err.code != ERR_OK)
        *err = blob.err;
    return -(int)blob.err.code;
}

int cas_writer_commit(struct cas_writer *writer, struct err *err)
{
    int rc = verify_digest(writer, err);
    if (rc == 0 && writer->fate == FATE_KNOWN)
        rc = renew_known(writer, err);
    else if (rc == 0 && writer->fate == FATE_GATHER)
        rc = put_gathered(writer, err);
    else if (rc == 0)
        rc = publish_stream(writer, err);
    cas_writer_abort(writer);
    return rc;
}

void cas_writer_abort(struct cas_writer *writer)
{
    if (writer == NULL)
        return;
    if (writer->has_upload)
        cas_upload_end(&writer->upload, false);
    hasher_free(writer->hasher);
    free(writer->buffer);
    free(writer->tail);
    free(writer);
}
