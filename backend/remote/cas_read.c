/* SPDX-License-Identifier: Apache-2.0 */
/* BatchReadBlobs and ByteStream.Read: what comes is counted for what it says it is only if it is.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest_set.h"
#include "base/log.h"
#include "base/wire.h"
#include "remote/cas_connections.h"
#include "remote/cas_message.h"

static const struct span absent = {NULL, 0};

static void log_damaged(const struct cas_call *call, const struct digest *digest)
{
    char text[DIGEST_TEXT_MAX];
    log_warning("cas-damaged", log_str("instance", cas_connections_label(call->connections)),
                log_str("address", cas_connections_conf(call->connections)->address),
                log_str("digest", digest_text(digest, text)),
                log_str("answer", "the CAS sent content that is not of this digest, which counts "
                                  "as missing: look whether it is whole there"));
}

/* --- BatchReadBlobs --- */

struct batch_call {
    struct cas_call call; /* first */
    struct cas_read *read;
    struct digest_set asked;
    bool *is_answered; /* of each digest that was asked for */
};

/* BatchReadBlobsResponse, its Response, google.rpc.Status. */
enum {
    BATCH_RESPONSES = 1,
    RESPONSE_DIGEST = 1,
    RESPONSE_DATA = 2,
    RESPONSE_STATUS = 3,
    RESPONSE_COMPRESSOR = 4,
    STATUS_CODE = 1,
    STATUS_MESSAGE = 2,
};

/* One Response, not looked at. */
struct response {
    struct span digest;
    struct span data;
    uint64_t compressor;
    uint64_t code;
    struct span message;
};

static bool parse_status(struct span bytes, struct response *response)
{
    struct wire_reader reader = {.message = bytes};
    struct wire_field field;
    while (wire_next(&reader, &field)) {
        if (field.number == STATUS_CODE && field.type == WIRE_VARINT)
            response->code = field.value;
        else if (field.number == STATUS_MESSAGE && field.type == WIRE_BYTES)
            response->message = field.bytes;
    }
    return !reader.malformed;
}

static bool parse_response(struct span bytes, struct response *response)
{
    static const struct span none = {(const uint8_t *)"", 0};
    struct wire_reader reader = {.message = bytes};
    struct wire_field field;
    *response = (struct response){.digest = none, .data = none, .message = none};
    while (wire_next(&reader, &field)) {
        if (field.number == RESPONSE_DIGEST && field.type == WIRE_BYTES)
            response->digest = field.bytes;
        else if (field.number == RESPONSE_DATA && field.type == WIRE_BYTES)
            response->data = field.bytes;
        else if (field.number == RESPONSE_COMPRESSOR && field.type == WIRE_VARINT)
            response->compressor = field.value;
        else if (field.number == RESPONSE_STATUS && field.type == WIRE_BYTES &&
                 !parse_status(field.bytes, response))
            return false;
    }
    return !reader.malformed;
}

static int fill_asked(struct batch_call *call, struct err *err)
{
    bool is_new;
    int rc = 0;
    for (size_t i = 0; i < call->read->count && rc == 0; i++)
        rc = digest_set_add(&call->asked, &call->read->digests[i], &is_new, err);
    call->is_answered = calloc(call->read->count, sizeof(call->is_answered[0]));
    if (rc == 0 && call->is_answered == NULL)
        rc = err_no_memory(err, "an answer");
    return rc;
}

/* Which of the digests that were asked for it is; each is answered once. */
static int find_asked(struct batch_call *call, const struct response *response, size_t *index,
                      struct err *err)
{
    struct digest digest;
    char text[DIGEST_TEXT_MAX];
    int rc = cas_message_digest(response->digest, call->read->digests[0].function, &digest, err);
    if (rc != 0)
        return rc;
    *index = digest_set_index(&call->asked, &digest);
    if (*index != SIZE_MAX && !call->is_answered[*index]) {
        call->is_answered[*index] = true;
        return 0;
    }
    return err_set(err, ERR_INVALID, "the answer is malformed: it has %s, which was %s",
                   digest_text(&digest, text),
                   *index == SIZE_MAX ? "not asked for" : "answered already");
}

/* Hands a blob on if it is what its digest says. */
static int take_data(struct batch_call *call, size_t index, struct span data, struct err *err)
{
    const struct digest *digest = &call->read->digests[index];
    struct digest computed;
    int rc = digest_compute(digest->function, data.data, data.size, &computed, err);
    if (rc != 0)
        return rc;
    bool is_whole = digest_equal(&computed, digest);
    if (!is_whole)
        log_damaged(&call->call, digest);
    call->read->blob(call->read, index, is_whole ? data : absent);
    return 0;
}

static int take_response(struct batch_call *call, struct span bytes, struct err *err)
{
    struct response response;
    size_t index;
    char text[DIGEST_TEXT_MAX];
    if (!parse_response(bytes, &response))
        return err_set(err, ERR_INVALID, "the answer is malformed: it is no message");
    int rc = find_asked(call, &response, &index, err);
    if (rc != 0)
        return rc;
    (void)digest_text(&call->read->digests[index], text);
    if (response.code == GRPC_STATUS_DATA_LOSS)
        log_damaged(&call->call, &call->read->digests[index]);
    if (response.code == GRPC_STATUS_NOT_FOUND || response.code == GRPC_STATUS_DATA_LOSS) {
        call->read->blob(call->read, index, absent);
        return 0;
    }
    if (response.code != GRPC_STATUS_OK)
        return err_set(err, ERR_UNAVAILABLE, "%s: %s: %s", text,
                       client_call_status_name((grpc_status_code)response.code),
                       cas_call_quote(&call->call, response.message));
    if (response.compressor != 0)
        return err_set(err, ERR_INVALID,
                       "the answer is malformed: %s is compressed, which was not asked for", text);
    return take_data(call, index, response.data, err);
}

static int batch_message(struct cas_call *base, struct span message, struct err *err)
{
    struct batch_call *call = (struct batch_call *)base;
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    size_t count = 0;
    int rc = fill_asked(call, err);
    while (rc == 0 && wire_next(&reader, &field)) {
        if (field.number != BATCH_RESPONSES || field.type != WIRE_BYTES)
            continue;
        rc = take_response(call, field.bytes, err);
        count++;
    }
    if (rc == 0 && reader.malformed)
        rc = err_set(err, ERR_INVALID, "the answer is malformed: it is no message");
    if (rc == 0 && count != call->read->count)
        rc = err_set(err, ERR_INVALID,
                     "the answer is malformed: of %zu blobs that were asked for it has %zu",
                     call->read->count, count);
    return rc;
}

static void batch_done(struct cas_call *base, grpc_status_code status, const struct err *err)
{
    (void)status;
    struct cas_read *read = ((struct batch_call *)base)->read;
    read->done(read, err);
}

static void batch_free(struct cas_call *base)
{
    struct batch_call *call = (struct batch_call *)base;
    digest_set_fini(&call->asked);
    free(call->is_answered);
    free(call);
}

static const struct cas_method batch_method = {
    .path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    .name = "BatchReadBlobs",
    .is_unary = true,
    .message = batch_message,
    .done = batch_done,
    .free = batch_free,
};

static int read_batch(struct cas_connections *connections, struct cas_read *read, struct err *err)
{
    const char *instance = cas_connections_conf(connections)->instance_name;
    struct batch_call *call = calloc(1, sizeof(*call));
    grpc_byte_buffer *request =
        call != NULL ? cas_message_make(instance, read->digests, read->count) : NULL;
    if (request == NULL) {
        free(call);
        return err_no_memory(err, "a call to a CAS");
    }
    call->call.method = &batch_method;
    call->read = read;
    return cas_call_begin(connections, &call->call, request, err);
}

/* --- ByteStream.Read --- */

/* Bytes that room is made for at first, whatever the digest says will come. */
enum { ROOM_FIRST = 2 << 20 };

struct stream_call {
    struct cas_call call; /* first */
    struct cas_read *read;
    struct hasher *hasher;
    uint8_t *data;
    size_t room;
    size_t size;
    bool is_too_long; /* more has come than the blob has */
};

/* google.bytestream.ReadResponse. */
enum { READ_DATA = 10 };

static int make_room(struct stream_call *call, size_t size, struct err *err)
{
    if (call->room - call->size >= size)
        return 0;
    size_t most = (size_t)call->read->digests[0].size;
    size_t room = call->room != 0 ? call->room : ROOM_FIRST;
    while (room - call->size < size)
        room *= 2;
    if (room > most)
        room = most;
    uint8_t *data = realloc(call->data, room);
    if (data == NULL)
        return err_no_memory(err, "a large blob");
    call->data = data;
    call->room = room;
    return 0;
}

/* What is too long is not what was asked for: it need not be read to its end. */
static int append(struct stream_call *call, struct span bytes, struct err *err)
{
    if (bytes.size > (size_t)call->read->digests[0].size - call->size) {
        call->is_too_long = true;
        return err_set(err, ERR_INVALID, "more comes than the blob has");
    }
    int rc = make_room(call, bytes.size, err);
    if (rc != 0 || bytes.size == 0)
        return rc;
    memcpy(call->data + call->size, bytes.data, bytes.size);
    hasher_update(call->hasher, bytes.data, bytes.size);
    call->size += bytes.size;
    return 0;
}

static int stream_message(struct cas_call *base, struct span message, struct err *err)
{
    struct stream_call *call = (struct stream_call *)base;
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    int rc = 0;
    while (rc == 0 && wire_next(&reader, &field))
        if (field.number == READ_DATA && field.type == WIRE_BYTES)
            rc = append(call, field.bytes, err);
    if (rc == 0 && reader.malformed)
        rc = err_set(err, ERR_INVALID, "the answer is malformed: it is no message");
    return rc;
}

/* Whether what has come is the blob; what has not all come is not. */
static bool is_whole(struct stream_call *call)
{
    struct digest computed;
    hasher_digest(call->hasher, &computed);
    return !call->is_too_long && digest_equal(&computed, &call->read->digests[0]);
}

static void stream_done(struct cas_call *base, grpc_status_code status, const struct err *err)
{
    struct stream_call *call = (struct stream_call *)base;
    struct cas_read *read = call->read;
    if (call->is_too_long)
        err = NULL;
    if (err == NULL && status == GRPC_STATUS_NOT_FOUND) {
        read->blob(read, 0, absent);
    } else if (err == NULL && is_whole(call)) {
        read->blob(read, 0, (struct span){call->data, call->size});
    } else if (err == NULL) {
        log_damaged(base, &read->digests[0]);
        read->blob(read, 0, absent);
    }
    read->done(read, err);
}

static void stream_free(struct cas_call *base)
{
    struct stream_call *call = (struct stream_call *)base;
    hasher_free(call->hasher);
    free(call->data);
    free(call);
}

static const struct cas_method stream_method = {
    .path = "/google.bytestream.ByteStream/Read",
    .name = "ByteStream.Read",
    /* DATA_LOSS: it has lost a part of it, or the digest has another size than the blob. */
    .also_fine = 1U << GRPC_STATUS_NOT_FOUND | 1U << GRPC_STATUS_DATA_LOSS,
    .message = stream_message,
    .done = stream_done,
    .free = stream_free,
};

/* REAPI, ContentAddressableStorage: [INSTANCE/]blobs/HASH/SIZE. */
static grpc_byte_buffer *make_read_request(const char *instance, const struct digest *digest)
{
    char text[DIGEST_TEXT_MAX];
    size_t room = strlen(instance) + strlen("/blobs/") + sizeof(text);
    char *name = malloc(room);
    if (name == NULL)
        return NULL;
    (void)snprintf(name, room, "%s%sblobs/%s", instance, instance[0] != '\0' ? "/" : "",
                   digest_text(digest, text));
    grpc_byte_buffer *request = cas_message_make(name, NULL, 0);
    free(name);
    return request;
}

static int read_stream(struct cas_connections *connections, struct cas_read *read, struct err *err)
{
    const char *instance = cas_connections_conf(connections)->instance_name;
    struct stream_call *call = calloc(1, sizeof(*call));
    if (call == NULL)
        return err_no_memory(err, "a call to a CAS");
    call->call.method = &stream_method;
    call->read = read;
    call->hasher = hasher_new(read->digests[0].function);
    grpc_byte_buffer *request =
        call->hasher != NULL ? make_read_request(instance, &read->digests[0]) : NULL;
    if (request == NULL) {
        stream_free(&call->call);
        return err_no_memory(err, "a call to a CAS");
    }
    return cas_call_begin(connections, &call->call, request, err);
}

int cas_read_blobs(struct cas_connections *connections, struct cas_read *read, struct err *err)
{
    assert(read->count >= 1);
    if (read->count == 1 && read->digests[0].size > cas_connections_batch(connections))
        return read_stream(connections, read, err);
    return read_batch(connections, read, err);
}
