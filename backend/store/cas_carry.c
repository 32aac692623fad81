/* SPDX-License-Identifier: Apache-2.0 */
/* Carrying records to the end of the log: read, verified, appended, synced, and only then moved. */
#include "store/cas_carry.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum {
    BATCH_RECORDS = 1024, /* that are appended at once */
    DESTINATIONS = 8,     /* segments that are synced at once */
};

/* A verified record in the buffer. */
struct record {
    struct digest digest;
    size_t index; /* among the contents */
    size_t at;    /* in the buffer */
};

/* A copy that is published, and not known to be durable. */
struct copy {
    size_t index;
    uint64_t place;
};

struct carrier {
    struct cas_space *space;
    struct cas_carry *carry;
    struct cas_segment *segment;
    struct cas_origin origin;
    size_t batch_max; /* bytes; more could need a segment of its own */
    struct record records[BATCH_RECORDS];
    size_t record_count;
    size_t fill; /* bytes in the buffer */
    struct copy *copies;
    size_t copy_count;
    uint64_t destinations[DESTINATIONS];
    size_t destination_count;
};

static int64_t size_of(const struct cas_content *content)
{
    return cas_key_record_size(&content->key);
}

static uint64_t place_of(const struct carrier *carrier, size_t index)
{
    return cas_place(carrier->carry->number, carrier->carry->contents[index].offset);
}

/* --- what is wrong with a record --- */

static void log_broken(const struct carrier *carrier, const struct cas_content *content,
                       const struct err *err)
{
    char hash[2 * CAS_KEY_HASH + 1];
    char segment[CAS_LOG_NAME];
    for (size_t i = 0; i < CAS_KEY_HASH; i++)
        (void)snprintf(hash + 2 * i, 3, "%02x", content->key.hash[i]);
    /* The header has all of the hash, but it may be what is broken. */
    log_error("blob-broken", log_str("path", carrier->space->options.path),
              log_str("hash-begins", hash), log_num("size", cas_key_size(&content->key)),
              log_str("segment", cas_log_name(carrier->carry->number, segment)),
              log_num("offset", (int64_t)content->offset), log_str("reason", err->msg));
}

static void drop_broken(struct carrier *carrier, size_t index, const struct err *err)
{
    const struct cas_content *content = &carrier->carry->contents[index];
    struct cas_shared_header *header = carrier->space->options.shared->header;
    carrier->carry->marks[index] |= CAS_MARK_LEFT;
    /* Who remembers it is told before as well: this process may be killed in between. */
    (void)atomic_fetch_add(&carrier->segment->version, 1);
    /* Whoever takes it out tells of it. */
    if (!digest_table_move(carrier->space->options.table, &content->key, place_of(carrier, index),
                           0))
        return;
    (void)atomic_fetch_add(&carrier->segment->version, 1);
    (void)atomic_fetch_add(&header->broken, 1);
    log_broken(carrier, content, err);
}

/*
 * What a fault at reading the record means for it; 0: go on with others. The segment is there, so
 * what is not found in it has been cut off by somebody.
 */
static int settle_fault(struct carrier *carrier, size_t index, int rc, struct err *err)
{
    if (rc == -ERR_DATA_LOSS || rc == -ERR_NOT_FOUND) {
        drop_broken(carrier, index, err);
        return 0;
    }
    if (rc == -ERR_IO) {
        carrier->carry->marks[index] |= CAS_MARK_UNREADABLE;
        return 0;
    }
    return rc;
}

/* --- reading --- */

static int read_source(struct carrier *carrier, void *buffer, size_t size, uint64_t offset,
                       struct err *err)
{
    return cas_log_read(carrier->space->options.log, carrier->carry->number, buffer, size, offset,
                        err);
}

static int get_header(const struct carrier *carrier, size_t index, const uint8_t *in,
                      size_t available, struct digest *digest, struct err *err)
{
    const struct cas_content *content = &carrier->carry->contents[index];
    struct cas_key key;
    if (cas_record_get_header(&carrier->origin, content->offset, in, available, digest, err) != 0)
        return -(int)err->code;
    cas_key_of(digest, &key);
    if (!cas_key_equal(&key, &content->key))
        return err_set(err, ERR_DATA_LOSS, "the record is another blob's");
    return 0;
}

/* Puts a whole record behind those in the buffer, where there is room for it. */
static int read_record(struct carrier *carrier, size_t index, struct err *err)
{
    struct record *record = &carrier->records[carrier->record_count];
    const struct cas_content *content = &carrier->carry->contents[index];
    uint8_t *in = carrier->space->buffer + carrier->fill;
    size_t size = (size_t)size_of(content);
    int rc = read_source(carrier, in, size, content->offset, err);
    if (rc == 0)
        rc = get_header(carrier, index, in, size, &record->digest, err);
    if (rc != 0)
        return settle_fault(carrier, index, rc, err);
    const uint8_t *payload = in + cas_record_header_size(record->digest.function);
    size_t payload_size = (size_t)record->digest.size;
    rc = cas_record_verify(&record->digest, payload, payload_size, payload + payload_size, err);
    if (rc != 0)
        return settle_fault(carrier, index, rc, err);
    record->index = index;
    record->at = carrier->fill;
    carrier->record_count++;
    carrier->fill += size;
    return 0;
}

/* --- appending --- */

/* Takes room for SIZE bytes in COUNT records, and the right to append them. */
static int begin_append(struct carrier *carrier, int64_t size, size_t count,
                        struct cas_appender *appender, struct err *err)
{
    struct cas_space *space = carrier->space;
    struct cas_log *log = space->options.log;
    int64_t overhead = cas_log_overhead(log);
    int64_t growth = cas_log_growth(size, count);
    bool is_new;
    if (!cas_space_take_aside(space, growth + overhead))
        return err_set(err, ERR_EXHAUSTED, "there is no room to carry records");
    int rc = cas_log_take(log, size, appender, &is_new, err);
    if (rc != 0) {
        cas_space_give(space, growth + overhead);
        return rc;
    }
    if (is_new)
        cas_space_charge(space, appender->segment, overhead);
    else
        cas_space_give(space, overhead);
    return 0;
}

/* Publishes the COUNT records that were appended, if RC is 0, and gives the segment back. */
static int end_append(struct carrier *carrier, struct cas_appender *appender,
                      const struct cas_content *contents, size_t count, int64_t size, int rc,
                      struct err *err)
{
    struct cas_space *space = carrier->space;
    uint64_t number = appender->number;
    struct cas_segment *segment = appender->segment;
    if (rc == 0)
        rc = cas_log_publish(appender, contents, count, err);
    /* Once it is given back it may go, and gives what it was charged then. */
    if (rc == 0)
        cas_space_charge(space, segment, cas_log_growth(size, count));
    bool is_cut = cas_log_give(appender);
    if (rc != 0 && is_cut)
        cas_space_give(space, cas_log_growth(size, count));
    else if (rc != 0)
        cas_space_charge(space, segment, cas_log_growth(size, count));
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < carrier->destination_count; i++)
        if (carrier->destinations[i] == number)
            return 0;
    assert(carrier->destination_count < DESTINATIONS);
    carrier->destinations[carrier->destination_count++] = number;
    return 0;
}

static void note_copy(struct carrier *carrier, size_t index, uint64_t number, uint64_t offset)
{
    carrier->copies[carrier->copy_count++] =
        (struct copy){.index = index, .place = cas_place(number, offset)};
}

/*
 * Makes the copies durable and moves their blobs to them. Not before: after a power cut what is
 * only in a cache would be gone, and the original with it.
 */
static int settle_copies(struct carrier *carrier, struct err *err)
{
    const struct cas_space_options *options = &carrier->space->options;
    struct cas_carry *carry = carrier->carry;
    bool is_behind = false;
    if (carrier->copy_count == 0)
        return 0;
    int rc = cas_log_sync(options->log, carrier->destinations, carrier->destination_count, err);
    for (size_t i = 0; rc == 0 && i < carrier->copy_count; i++) {
        const struct copy *copy = &carrier->copies[i];
        const struct cas_content *content = &carry->contents[copy->index];
        struct cas_segment *to = cas_segment_find(options->shared, cas_place_number(copy->place));
        /* A failure that others met first has closed the segment before the copy. */
        if (to == NULL ||
            atomic_load(&to->durable) < cas_place_offset(copy->place) + (uint64_t)size_of(content))
            rc = err_set(err, ERR_UNAVAILABLE, "what was carried did not reach the disk");
    }
    for (size_t i = 0; rc == 0 && i < carrier->copy_count; i++) {
        const struct copy *copy = &carrier->copies[i];
        /* If it is not there any more somebody has removed the blob, and the copy is nothing. */
        if (!digest_table_move(options->table, &carry->contents[copy->index].key,
                               place_of(carrier, copy->index), copy->place) &&
            !digest_table_is_current(options->table))
            is_behind = true;
        else
            carry->marks[copy->index] |= CAS_MARK_LEFT;
    }
    if (rc == 0) {
        /* Those who remember that something is in this segment are to look again. */
        (void)atomic_fetch_add(&carrier->segment->version, 1);
        /*
         * A hold that found a blob here keeps this segment, not the one where the blob is now. It
         * began before this use, so that it keeps the other as well.
         */
        for (size_t i = 0; i < carrier->destination_count; i++)
            (void)cas_segment_use(options->shared, carrier->destinations[i],
                                  cas_shared_tick(options->shared));
    }
    if (is_behind)
        rc = err_set(err, ERR_UNAVAILABLE, "not all of the digest table can be opened");
    carrier->copy_count = 0;
    carrier->destination_count = 0;
    return rc;
}

static int make_destination(struct carrier *carrier, struct err *err)
{
    if (atomic_load(&carrier->space->stopping))
        return err_set(err, ERR_CANCELLED, "the store is being closed");
    return carrier->destination_count == DESTINATIONS ? settle_copies(carrier, err) : 0;
}

/* Appends what is in the buffer. */
static int append_batch(struct carrier *carrier, struct err *err)
{
    size_t count = carrier->record_count;
    int64_t size = (int64_t)carrier->fill;
    struct cas_content contents[BATCH_RECORDS];
    struct cas_appender appender;
    carrier->record_count = 0;
    carrier->fill = 0;
    if (count == 0)
        return 0;
    int rc = make_destination(carrier, err);
    if (rc == 0)
        rc = begin_append(carrier, size, count, &appender, err);
    if (rc != 0)
        return rc;
    uint64_t begin = appender.offset;
    uint64_t number = appender.number;
    for (size_t i = 0; i < count; i++) {
        const struct record *record = &carrier->records[i];
        contents[i] = carrier->carry->contents[record->index];
        contents[i].offset = begin + record->at;
        cas_record_put_header(&appender.origin, contents[i].offset, &record->digest,
                              carrier->space->buffer + record->at);
    }
    struct iovec part = {.iov_base = carrier->space->buffer, .iov_len = (size_t)size};
    rc = cas_log_append(&appender, &part, 1, err);
    rc = end_append(carrier, &appender, contents, count, size, rc, err);
    for (size_t i = 0; rc == 0 && i < count; i++)
        note_copy(carrier, carrier->records[i].index, number, contents[i].offset);
    return rc;
}

/* --- records that are larger than the buffer --- */

struct stream {
    struct digest digest;
    size_t index;
    uint64_t payload; /* where it begins in the segment */
    uint8_t *tail;
    size_t tail_size;
};

static int open_stream(struct carrier *carrier, size_t index, struct stream *stream,
                       struct err *err)
{
    const struct cas_content *content = &carrier->carry->contents[index];
    enum digest_function function = cas_key_function(&content->key);
    uint8_t header[CAS_RECORD_HEADER_MAX];
    size_t header_size = cas_record_header_size(function);
    int64_t size = cas_key_size(&content->key);
    stream->index = index;
    stream->payload = content->offset + header_size;
    stream->tail_size = (size_t)cas_record_tail_size(function, size);
    stream->tail = malloc(stream->tail_size);
    if (stream->tail == NULL)
        return err_no_memory(err, "the checksums of a record");
    int rc = read_source(carrier, header, header_size, content->offset, err);
    if (rc == 0)
        rc = get_header(carrier, index, header, header_size, &stream->digest, err);
    if (rc == 0)
        rc = read_source(carrier, stream->tail, stream->tail_size, stream->payload + (uint64_t)size,
                         err);
    return rc;
}

/* Appends all of the record. *SOURCE: whether it was the original that failed. */
static int copy_stream(struct carrier *carrier, const struct stream *stream,
                       struct cas_appender *appender, bool *source, struct err *err)
{
    uint8_t header[CAS_RECORD_HEADER_MAX];
    size_t left = (size_t)stream->digest.size;
    *source = false;
    cas_record_put_header(&appender->origin, appender->offset, &stream->digest, header);
    struct iovec part = {.iov_base = header,
                         .iov_len = cas_record_header_size(stream->digest.function)};
    int rc = cas_log_append(appender, &part, 1, err);
    uint64_t offset = stream->payload;
    const uint8_t *sums = stream->tail;
    while (rc == 0 && left > 0) {
        size_t size = left < CAS_SPACE_BUFFER ? left : CAS_SPACE_BUFFER;
        uint8_t *buffer = carrier->space->buffer;
        rc = read_source(carrier, buffer, size, offset, err);
        if (rc == 0)
            rc = cas_record_verify(&stream->digest, buffer, size, sums, err);
        if (rc == 0 && atomic_load(&carrier->space->stopping))
            return err_set(err, ERR_CANCELLED, "the store is being closed");
        if (rc != 0) {
            *source = true;
            return rc;
        }
        part = (struct iovec){.iov_base = buffer, .iov_len = size};
        rc = cas_log_append(appender, &part, 1, err);
        offset += size;
        left -= size;
        sums += CAS_SPACE_BUFFER / CAS_CHUNK * CAS_SUM;
    }
    if (rc != 0)
        return rc;
    part = (struct iovec){.iov_base = stream->tail, .iov_len = stream->tail_size};
    return cas_log_append(appender, &part, 1, err);
}

static int carry_large(struct carrier *carrier, size_t index, struct err *err)
{
    struct stream stream;
    struct cas_appender appender;
    struct cas_content content = carrier->carry->contents[index];
    int64_t size = size_of(&content);
    bool source = true;
    int rc = append_batch(carrier, err);
    if (rc == 0)
        rc = make_destination(carrier, err);
    if (rc != 0)
        return rc;
    rc = open_stream(carrier, index, &stream, err);
    if (rc != 0)
        goto out;
    source = false;
    rc = begin_append(carrier, size, 1, &appender, err);
    if (rc != 0)
        goto out;
    uint64_t number = appender.number;
    content.offset = appender.offset;
    rc = copy_stream(carrier, &stream, &appender, &source, err);
    rc = end_append(carrier, &appender, &content, 1, size, rc, err);
    if (rc == 0)
        note_copy(carrier, index, number, content.offset);
out:
    free(stream.tail);
    return rc != 0 && source ? settle_fault(carrier, index, rc, err) : rc;
}

/* --- all of them --- */

static int carry_wanted(struct carrier *carrier, struct err *err)
{
    const struct cas_carry *carry = carrier->carry;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < carry->count; i++) {
        if ((carry->marks[i] & CAS_MARK_WANTED) == 0)
            continue;
        size_t size = (size_t)size_of(&carry->contents[i]);
        if (size > CAS_SPACE_BUFFER) {
            rc = carry_large(carrier, i, err);
            continue;
        }
        if (carrier->record_count == BATCH_RECORDS ||
            (carrier->fill > 0 && carrier->fill + size > carrier->batch_max))
            rc = append_batch(carrier, err);
        if (rc == 0)
            rc = read_record(carrier, i, err);
    }
    return rc == 0 ? append_batch(carrier, err) : rc;
}

int cas_carry(struct cas_space *space, struct cas_carry *carry, struct err *err)
{
    struct carrier *carrier = malloc(sizeof(*carrier));
    if (carrier == NULL)
        return err_no_memory(err, "carrying records");
    carrier->space = space;
    carrier->carry = carry;
    carrier->segment = cas_segment_find(space->options.shared, carry->number);
    carrier->record_count = 0;
    carrier->fill = 0;
    carrier->copy_count = 0;
    carrier->destination_count = 0;
    carrier->origin.segment = carry->number;
    memcpy(carrier->origin.store, space->options.shared->header->store,
           sizeof(carrier->origin.store));
    size_t quarter = (size_t)space->segment_size / 4;
    carrier->batch_max = quarter < CAS_SPACE_BUFFER ? quarter : CAS_SPACE_BUFFER;
    carrier->copies = malloc((carry->count + 1) * sizeof(struct copy));
    int rc;
    if (carrier->copies == NULL || carrier->segment == NULL) {
        rc = err_no_memory(err, "carrying records");
        goto out;
    }
    rc = carry_wanted(carrier, err);
    /* Where there was no room for all, what has been copied is of use all the same. */
    if (rc == 0 || rc == -ERR_EXHAUSTED) {
        struct err sync_err;
        int sync_rc = settle_copies(carrier, &sync_err);
        if (sync_rc != 0) {
            *err = sync_err;
            rc = sync_rc;
        }
    }
out:
    free(carrier->copies);
    free(carrier);
    return rc;
}
