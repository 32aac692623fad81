/* SPDX-License-Identifier: Apache-2.0 */
/* google.bytestream.ByteStream: blobs of any size, in pieces. */
#include <string.h>

#include "base/wire.h"
#include "service/handlers.h"
#include "service/messages.h"
#include "service/request.h"
#include "service/resource_name.h"
#include "service/write_request.h"

enum {
    /*
     * Bytes of data in a message that is read: large ones cost a reader less, and clients take
     * messages of up to 4 MiB.
     */
    READ_CHUNK = 1 << 20,
    FIELD_DATA = 10, /* of ReadResponse */
};

/* The instance and the digest of a resource name. */
static int look_up(const struct call *call, enum resource_use use, struct span text,
                   struct instance **instance, struct digest *digest, struct err *err)
{
    struct resource_name name;
    int rc = resource_name_split(use, text, call->arena, &name, err);
    if (rc == 0)
        rc = request_cas(call, name.instance, instance, err);
    if (rc == 0)
        rc = resource_name_digest(&name, *instance, digest, err);
    return rc;
}

/* A Read under way. */
struct download {
    struct instance *instance;
    struct digest digest;
    int64_t offset; /* of the next byte to send */
    int64_t end;    /* where to stop */
};

static int check_range(const BYTESTREAM(ReadRequest) *request, int64_t size, struct err *err)
{
    if (request->read_limit < 0)
        return err_set(err, ERR_INVALID, "read_limit %lld is negative",
                       (long long)request->read_limit);
    if (request->read_offset < 0 || request->read_offset > size)
        return err_set(err, ERR_OUT_OF_RANGE, "read_offset %lld is not within the %lld bytes",
                       (long long)request->read_offset, (long long)size);
    return 0;
}

static int read_piece(const struct download *download, uint8_t *buffer, size_t size,
                      struct err *err)
{
    struct cas_reader *reader;
    int rc = cas_reader_open(download->instance->cas, &download->digest, &reader, err);
    if (rc != 0)
        return rc;
    rc = cas_reader_read(reader, download->offset, buffer, size, err);
    cas_reader_close(reader);
    return rc;
}

/* The next message, in the call's space; its size is 0 if nothing is left to read. */
static int fill_message(struct call *call, struct download *download, size_t *size, struct err *err)
{
    /* Pieces end where the store's checksums end, so that none is verified twice. */
    int64_t piece = READ_CHUNK - download->offset % READ_CHUNK;
    if (piece > download->end - download->offset)
        piece = download->end - download->offset;
    uint8_t *message = call_message_space(call, wire_bytes_size((size_t)piece));
    if (message == NULL)
        return err_no_memory(err, "a message");
    uint8_t *data = wire_put_head(message, FIELD_DATA, (size_t)piece);
    int rc = read_piece(download, data, (size_t)piece, err);
    if (rc != 0)
        return rc;
    download->offset += piece;
    *size = piece > 0 ? wire_bytes_size((size_t)piece) : 0;
    return 0;
}

/*
 * The blob is open only while a piece is read: a client that takes none of it, or little by little,
 * would keep it from being evicted. Each piece renews its life.
 */
static void read_on(struct call *call)
{
    struct download *download = call->state;
    struct err err;
    size_t size = 0;
    if (fill_message(call, download, &size, &err) != 0)
        call_fail(call, &err);
    else if (size == 0)
        call_finish_stream(call);
    else if (download->offset == download->end)
        call_finish_filled(call, size);
    else
        call_send_filled(call, size);
}

void bytestream_read_start(struct call *call)
{
    const BYTESTREAM(ReadRequest) *request = (const BYTESTREAM(ReadRequest) *)call->request;
    struct err err;
    struct download *download = arena_calloc(call->arena, 1, sizeof(*download));
    int rc = download != NULL ? 0 : err_no_memory(&err, "a read");
    if (rc == 0)
        rc = look_up(call, RESOURCE_READ, span_of_text(request->resource_name), &download->instance,
                     &download->digest, &err);
    if (rc == 0)
        rc = check_range(request, download->digest.size, &err);
    if (rc != 0) {
        call_fail(call, &err);
        return;
    }
    download->offset = request->read_offset;
    download->end = download->digest.size;
    if (request->read_limit != 0 && request->read_limit < download->end - download->offset)
        download->end = download->offset + request->read_limit;
    call->state = download;
    call_offload(call, read_on);
}

void bytestream_read_sent(struct call *call)
{
    call_offload(call, read_on);
}

/*
 * A Write under way. Uploads are never resumed, nor known by their name: many clients use one name
 * for several at once.
 */
struct upload {
    struct instance *instance;
    struct digest digest;
    struct span name;             /* of the first message, in the arena */
    struct cas_writer *writer;    /* NULL before the first message and after the last */
    int64_t received;             /* bytes of data, those of REQUEST included */
    bool is_stored;               /* finish_write has come, and the blob is there */
    struct write_request request; /* the message being worked on */
};

static int copy_piece(struct arena *arena, struct run_piece piece, struct span *copy,
                      struct err *err)
{
    uint8_t *text = arena_alloc(arena, piece.size);
    if (text == NULL)
        return err_no_memory(err, "a resource name");
    *copy = (struct span){text, piece.size};
    struct span run;
    while (run_piece_next(&piece, &run)) {
        memcpy(text, run.data, run.size);
        text += run.size;
    }
    return 0;
}

static bool piece_equals(struct run_piece piece, struct span text)
{
    if (piece.size != text.size)
        return false;
    const uint8_t *at = text.data;
    struct span run;
    while (run_piece_next(&piece, &run)) {
        if (memcmp(at, run.data, run.size) != 0)
            return false;
        at += run.size;
    }
    return true;
}

/* The first message says what is written. */
static int upload_begin(struct call *call, const struct write_request *request, struct err *err)
{
    struct upload *upload = arena_calloc(call->arena, 1, sizeof(*upload));
    if (upload == NULL)
        return err_no_memory(err, "a write");
    if (request->resource_name.size > RESOURCE_NAME_MAX)
        return err_set(err, ERR_INVALID, "the resource name has %zu bytes, %d are allowed",
                       request->resource_name.size, RESOURCE_NAME_MAX);
    int rc = copy_piece(call->arena, request->resource_name, &upload->name, err);
    if (rc == 0)
        rc = look_up(call, RESOURCE_WRITE, upload->name, &upload->instance, &upload->digest, err);
    if (rc == 0)
        call->state = upload;
    return rc;
}

static int upload_check(const struct upload *upload, const struct write_request *request,
                        struct err *err)
{
    if (upload->is_stored)
        return err_set(err, ERR_INVALID, "a message came after the one with finish_write");
    if (request->resource_name.size != 0 && !piece_equals(request->resource_name, upload->name))
        return err_set(err, ERR_INVALID, "the resource name is not that of the first message");
    if (request->write_offset != upload->received)
        return err_set(err, ERR_INVALID,
                       "write_offset is %lld after %lld bytes; uploads are not resumed, each one "
                       "begins at 0",
                       (long long)request->write_offset, (long long)upload->received);
    if (request->data.size > (uint64_t)(upload->digest.size - upload->received))
        return err_set(err, ERR_INVALID, "more data came than the %lld bytes of the digest",
                       (long long)upload->digest.size);
    return 0;
}

static void finish_upload(struct call *call, int64_t committed_size)
{
    BYTESTREAM(WriteResponse) response = GOOGLE__BYTESTREAM__WRITE_RESPONSE__INIT;
    response.committed_size = committed_size;
    call_finish(call, &response.base);
}

/* What came in the message goes to the store, and the blob too if it was the last. */
static int store_data(struct call *call, struct upload *upload, struct err *err)
{
    struct span run;
    while (run_piece_next(&upload->request.data, &run)) {
        int rc = cas_writer_append(upload->writer, run.data, run.size, err);
        if (rc != 0)
            return rc;
    }
    if (!upload->request.finish_write)
        return 0;
    if (upload->received != upload->digest.size)
        return err_set(err, ERR_INVALID, "finish_write came after %lld of %lld bytes",
                       (long long)upload->received, (long long)upload->digest.size);
    if (atomic_load(&call->is_cancelled))
        return err_set(err, ERR_CANCELLED, "cancelled");
    struct cas_writer *writer = upload->writer;
    upload->writer = NULL;
    int rc = cas_writer_commit(writer, err);
    upload->is_stored = rc == 0;
    return rc;
}

static void write_on(struct call *call)
{
    struct upload *upload = call->state;
    struct err err;
    int rc = 0;
    /* Room is not taken, nor waited for, for a client that is gone. */
    if (atomic_load(&call->is_cancelled)) {
        rc = err_set(&err, ERR_CANCELLED, "cancelled");
    } else if (upload->writer == NULL) {
        /* REAPI: what is there already need not be sent, and the answer names its full size. */
        bool present;
        cas_find(upload->instance->cas, NULL, &upload->digest, 1, &present);
        if (present) {
            finish_upload(call, upload->digest.size);
            return;
        }
        rc = cas_writer_open(upload->instance->cas, &upload->digest, &upload->writer, &err);
    }
    if (rc == 0)
        rc = store_data(call, upload, &err);
    if (rc == 0) {
        call_receive(call);
        return;
    }
    if (upload->writer != NULL)
        cas_writer_abort(upload->writer);
    upload->writer = NULL;
    call_fail(call, &err);
}

void bytestream_write_start(struct call *call)
{
    call_receive(call);
}

void bytestream_write_message(struct call *call)
{
    struct write_request request;
    struct err err;
    int rc = write_request_parse(call->raw, call->raw_count, &request, &err);
    if (rc == 0 && call->state == NULL)
        rc = upload_begin(call, &request, &err);
    if (rc == 0)
        rc = upload_check(call->state, &request, &err);
    if (rc != 0) {
        call_fail(call, &err);
        return;
    }
    struct upload *upload = call->state;
    upload->received += (int64_t)request.data.size;
    upload->request = request;
    call_offload(call, write_on);
}

/* This is also how a client's disconnection looks: nothing may be stored for it. */
void bytestream_write_half_close(struct call *call)
{
    const struct upload *upload = call->state;
    struct err err;
    if (upload != NULL && upload->is_stored) {
        finish_upload(call, upload->digest.size);
        return;
    }
    (void)err_set(&err, ERR_INVALID, "the upload ended without finish_write");
    call_fail(call, &err);
}

void bytestream_write_end(struct call *call)
{
    struct upload *upload = call->state;
    if (upload != NULL && upload->writer != NULL)
        cas_writer_abort(upload->writer);
}

/* A QueryWriteStatus. */
struct query {
    struct instance *instance;
    struct digest digest;
};

static void answer_query(struct call *call)
{
    const struct query *query = call->state;
    bool present;
    cas_find(query->instance->cas, NULL, &query->digest, 1, &present);
    /* Uploads are not resumed: what is not there whole counts as not begun. */
    BYTESTREAM(QueryWriteStatusResponse) response =
        GOOGLE__BYTESTREAM__QUERY_WRITE_STATUS_RESPONSE__INIT;
    response.committed_size = present ? query->digest.size : 0;
    response.complete = present;
    call_finish(call, &response.base);
}

void bytestream_query_write_status_start(struct call *call)
{
    const BYTESTREAM(QueryWriteStatusRequest) *request =
        (const BYTESTREAM(QueryWriteStatusRequest) *)call->request;
    struct err err;
    struct query *query = arena_calloc(call->arena, 1, sizeof(*query));
    int rc = query != NULL ? 0 : err_no_memory(&err, "a query");
    if (rc == 0)
        rc = look_up(call, RESOURCE_WRITE, span_of_text(request->resource_name), &query->instance,
                     &query->digest, &err);
    if (rc != 0) {
        call_fail(call, &err);
        return;
    }
    call->state = query;
    call_offload(call, answer_query);
}
