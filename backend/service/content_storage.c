/* SPDX-License-Identifier: Apache-2.0 */
/* build.bazel.remote.execution.v2.ContentAddressableStorage, but for GetTree: see get_tree.c. */
#include <stdlib.h>
#include <string.h>

#include "base/digest_set.h"
#include "base/log.h"
#include "base/utf8.h"
#include "base/wire.h"
#include "service/handlers.h"
#include "service/messages.h"
#include "service/request.h"

enum {
    BATCH_SLICE = 64,             /* blobs that the store is asked about at once */
    FIND_AT_ONCE_MAX = 1024,      /* digests that are looked up without a worker: a millisecond */
    STATUS_MESSAGE_MAX = 127,     /* bytes of one blob's error in BatchReadBlobs */
    READ_TOGETHER_MAX = 64 << 10, /* bytes of a blob that is read with others; the store's run */
};

static const int compressor_none = BUILD__BAZEL__REMOTE__EXECUTION__V2__COMPRESSOR__VALUE__IDENTITY;

/* Makes the instance the call's state, or ends the call. */
static bool take_instance(struct call *call, const char *name)
{
    struct err err;
    struct instance *instance;
    if (request_cas(call, name, &instance, &err) != 0) {
        call_fail(call, &err);
        return false;
    }
    call->state = instance;
    return true;
}

/* A digest of a repeated FIELD. REAPI: all digests of a request are of one function. */
static int parse_digest(enum digest_function function, const REAPI(Digest) *message,
                        const char *field, size_t index, struct digest *digest, struct err *err)
{
    int rc = request_digest(function, message, NULL, digest, err);
    return rc != 0 ? err_wrap(err, "%s[%zu]", field, index) : 0;
}

/* FIRST, the request's first digest, tells the function if the request does not name it. */
static int batch_function(const struct instance *instance, REAPI(DigestFunction__Value) named,
                          const REAPI(Digest) *first, enum digest_function *function,
                          struct err *err)
{
    return request_digest_function(instance, named, first != NULL ? first->hash : NULL, function,
                                   err);
}

/* --- FindMissingBlobs --- */

/* The distinct digests of REQUEST, and for each the message that it came in. */
static int collect_digests(const struct instance *instance,
                           const REAPI(FindMissingBlobsRequest) *request, struct digest_set *set,
                           REAPI(Digest) **messages, struct err *err)
{
    enum digest_function function;
    if (request->n_blob_digests == 0)
        return 0;
    int rc = batch_function(instance, request->digest_function, request->blob_digests[0], &function,
                            err);
    for (size_t i = 0; i < request->n_blob_digests && rc == 0; i++) {
        struct digest digest;
        bool is_new = false;
        rc = parse_digest(function, request->blob_digests[i], "blob_digests", i, &digest, err);
        if (rc == 0)
            rc = digest_set_add(set, &digest, &is_new, err);
        if (is_new)
            messages[set->count - 1] = request->blob_digests[i];
    }
    return rc;
}

/* False if some would have to be verified on the disk first. */
static bool find_at_once(struct cas *cas, const struct digest_set *set, bool *present)
{
    enum cas_presence presence[BATCH_SLICE];
    for (size_t first = 0; first < set->count; first += BATCH_SLICE) {
        size_t count = set->count - first;
        if (count > BATCH_SLICE)
            count = BATCH_SLICE;
        cas_find_nowait(cas, NULL, set->digests + first, count, presence);
        for (size_t i = 0; i < count; i++) {
            if (presence[i] == CAS_UNVERIFIED)
                return false;
            present[first + i] = presence[i] == CAS_PRESENT;
        }
    }
    return true;
}

static void find_missing_offloaded(struct call *call);

static void find_missing(struct call *call, bool may_block)
{
    const REAPI(FindMissingBlobsRequest) *request =
        (const REAPI(FindMissingBlobsRequest) *)call->request;
    const struct instance *instance = call->state;
    struct digest_set set = {0};
    struct err err;
    REAPI(FindMissingBlobsResponse) response =
        BUILD__BAZEL__REMOTE__EXECUTION__V2__FIND_MISSING_BLOBS_RESPONSE__INIT;
    size_t count = request->n_blob_digests;
    REAPI(Digest) **messages = arena_calloc(call->arena, count, sizeof(messages[0]));
    bool *present = arena_calloc(call->arena, count, sizeof(present[0]));
    bool is_known = true;
    int rc = 0;
    if (messages == NULL || present == NULL)
        rc = err_no_memory(&err, "a list of digests");
    if (rc == 0)
        rc = collect_digests(instance, request, &set, messages, &err);
    if (rc == 0 && may_block)
        cas_find(instance->cas, NULL, set.digests, set.count, present);
    else if (rc == 0)
        is_known = find_at_once(instance->cas, &set, present);
    /* The messages of those that are missing move to the front, and are the answer. */
    for (size_t i = 0; i < set.count && rc == 0 && is_known; i++)
        if (!present[i])
            messages[response.n_missing_blob_digests++] = messages[i];
    response.missing_blob_digests = messages;
    digest_set_fini(&set);
    if (rc != 0)
        call_fail(call, &err);
    else if (is_known)
        call_finish(call, &response.base);
    else
        call_offload(call, find_missing_offloaded);
}

static void find_missing_offloaded(struct call *call)
{
    find_missing(call, true);
}

void storage_find_missing_start(struct call *call)
{
    const REAPI(FindMissingBlobsRequest) *request =
        (const REAPI(FindMissingBlobsRequest) *)call->request;
    if (!take_instance(call, request->instance_name))
        return;
    if (request->n_blob_digests <= FIND_AT_ONCE_MAX)
        find_missing(call, false);
    else
        call_offload(call, find_missing_offloaded);
}

/* --- BatchUpdateBlobs --- */

static int add_size(int64_t size, int64_t *sum, const char *instead, struct err *err)
{
    if (size > REQUEST_BATCH_MAX - *sum)
        return err_set(err, ERR_INVALID,
                       "the blobs of a batch may have %d bytes together: send fewer at once, or "
                       "use ByteStream.%s",
                       REQUEST_BATCH_MAX, instead);
    *sum += size;
    return 0;
}

/* All digests are well-formed, and the data is not too much. */
static int check_updates(const struct instance *instance,
                         const REAPI(BatchUpdateBlobsRequest) *request, struct digest *digests,
                         struct err *err)
{
    enum digest_function function;
    int64_t sum = 0;
    if (request->n_requests == 0)
        return 0;
    int rc = batch_function(instance, request->digest_function, request->requests[0]->digest,
                            &function, err);
    for (size_t i = 0; i < request->n_requests && rc == 0; i++) {
        rc = parse_digest(function, request->requests[i]->digest, "requests", i, &digests[i], err);
        if (rc == 0)
            rc = add_size((int64_t)request->requests[i]->data.len, &sum, "Write", err);
    }
    return rc;
}

static int check_update(const REAPI(BatchUpdateBlobsRequest__Request) *update,
                        const struct digest *digest, struct err *err)
{
    if ((int)update->compressor != compressor_none)
        return err_set(err, ERR_INVALID, "compressed data is not taken");
    if ((int64_t)update->data.len != digest->size)
        return err_set(err, ERR_INVALID, "there are %zu bytes of data, the digest has %lld",
                       update->data.len, (long long)digest->size);
    return 0;
}

static Google__Rpc__Status status_ok = GOOGLE__RPC__STATUS__INIT;

/* One blob's outcome as a message in the arena; NULL when memory is out. */
static Google__Rpc__Status *make_status(struct arena *arena, const struct err *err)
{
    if (err->code == ERR_OK)
        return &status_ok;
    Google__Rpc__Status *status = arena_alloc(arena, sizeof(*status));
    if (status == NULL)
        return NULL;
    google__rpc__status__init(status);
    status->code = err_grpc_status(err->code);
    status->message = arena_strdup(arena, err->msg);
    return status->message != NULL ? status : NULL;
}

/* Up to BATCH_SLICE updates at once: those that can be stored, and what became of all of them. */
struct slice {
    struct cas_blob blobs[BATCH_SLICE];
    size_t positions[BATCH_SLICE]; /* of each blob, among the slice's updates */
    size_t blob_count;
    struct err errs[BATCH_SLICE]; /* of each update */
};

static void store_slice(struct cas *cas, const struct digest *digests,
                        REAPI(BatchUpdateBlobsRequest__Request) *const *updates, size_t count,
                        struct slice *slice)
{
    slice->blob_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct cas_blob *blob = &slice->blobs[slice->blob_count];
        slice->errs[i].code = ERR_OK;
        if (check_update(updates[i], &digests[i], &slice->errs[i]) != 0)
            continue;
        blob->digest = digests[i];
        blob->data = (struct span){updates[i]->data.data, updates[i]->data.len};
        slice->positions[slice->blob_count++] = i;
    }
    cas_put(cas, NULL, slice->blobs, slice->blob_count);
    for (size_t i = 0; i < slice->blob_count; i++)
        slice->errs[slice->positions[i]] = slice->blobs[i].err;
}

/* What the store could not take: the client is told blob by blob, and the log once a slice. */
static void log_refused(const struct call *call, const struct instance *instance,
                        const struct slice *slice)
{
    const struct cas_blob *first = NULL;
    int64_t count = 0;
    for (size_t i = 0; i < slice->blob_count; i++) {
        if (slice->blobs[i].err.code == ERR_OK || slice->blobs[i].err.code == ERR_INVALID)
            continue;
        if (first == NULL)
            first = &slice->blobs[i];
        count++;
    }
    char digest[DIGEST_TEXT_MAX];
    if (first != NULL)
        log_warning("upload-refused", log_str("instance", instance->conf->name),
                    log_str("digest", digest_text(&first->digest, digest)),
                    log_str("code", err_name(first->err.code)), log_str("reason", first->err.msg),
                    log_num("blobs", count), log_str("identity", call->identity),
                    log_str("id", call->request_id));
}

static int update_blobs(struct call *call, const struct instance *instance,
                        const REAPI(BatchUpdateBlobsRequest) *request,
                        REAPI(BatchUpdateBlobsResponse__Response) **responses, struct err *err)
{
    struct slice *slice = arena_alloc(call->arena, sizeof(*slice));
    struct digest *digests = arena_calloc(call->arena, request->n_requests, sizeof(digests[0]));
    if (slice == NULL || digests == NULL)
        return err_no_memory(err, "a batch");
    int rc = check_updates(instance, request, digests, err);
    for (size_t first = 0; first < request->n_requests && rc == 0; first += BATCH_SLICE) {
        size_t count = request->n_requests - first;
        if (count > BATCH_SLICE)
            count = BATCH_SLICE;
        store_slice(instance->cas, digests + first, request->requests + first, count, slice);
        log_refused(call, instance, slice);
        for (size_t i = 0; i < count && rc == 0; i++) {
            responses[first + i]->digest = request->requests[first + i]->digest;
            responses[first + i]->status = make_status(call->arena, &slice->errs[i]);
            if (responses[first + i]->status == NULL)
                rc = err_no_memory(err, "the answer");
        }
    }
    return rc;
}

static void batch_update(struct call *call)
{
    const REAPI(BatchUpdateBlobsRequest) *request =
        (const REAPI(BatchUpdateBlobsRequest) *)call->request;
    struct err err;
    size_t count = request->n_requests;
    REAPI(BatchUpdateBlobsResponse__Response) *responses =
        arena_calloc(call->arena, count, sizeof(responses[0]));
    REAPI(BatchUpdateBlobsResponse__Response) **pointers =
        arena_calloc(call->arena, count, sizeof(pointers[0]));
    if (responses == NULL || pointers == NULL) {
        (void)err_no_memory(&err, "the answer");
        call_fail(call, &err);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        build__bazel__remote__execution__v2__batch_update_blobs_response__response__init(
            &responses[i]);
        pointers[i] = &responses[i];
    }
    if (update_blobs(call, call->state, request, pointers, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    REAPI(BatchUpdateBlobsResponse) response =
        BUILD__BAZEL__REMOTE__EXECUTION__V2__BATCH_UPDATE_BLOBS_RESPONSE__INIT;
    response.n_responses = count;
    response.responses = pointers;
    call_finish(call, &response.base);
}

void storage_batch_update_start(struct call *call)
{
    const REAPI(BatchUpdateBlobsRequest) *request =
        (const REAPI(BatchUpdateBlobsRequest) *)call->request;
    if (take_instance(call, request->instance_name))
        call_offload(call, batch_update);
}

/* --- BatchReadBlobs --- */

/* Of BatchReadBlobsResponse.responses, and of its digest, data and status. */
enum {
    FIELD_RESPONSES = 1,
    FIELD_DIGEST = 1,
    FIELD_DATA = 2,
    FIELD_STATUS = 3,
};

static uint8_t *put_message(uint8_t *out, uint32_t number, const ProtobufCMessage *message)
{
    out = wire_put_head(out, number, protobuf_c_message_get_packed_size(message));
    return out + protobuf_c_message_pack(message, out);
}

/* The most that one blob's response takes: it holds the data, or the reason why not. */
static size_t response_room(const REAPI(Digest) *digest, int64_t size)
{
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    size_t code = 1 + wire_varint_size(UINT64_MAX);
    size_t failure = wire_bytes_size(code + wire_bytes_size(STATUS_MESSAGE_MAX));
    size_t success = wire_bytes_size((size_t)size) +
                     wire_bytes_size(google__rpc__status__get_packed_size(&status));
    size_t digest_size = build__bazel__remote__execution__v2__digest__get_packed_size(digest);
    return wire_bytes_size(wire_bytes_size(digest_size) + (success > failure ? success : failure));
}

static uint8_t *put_failure(uint8_t *out, const REAPI(Digest) *digest, struct err *err)
{
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    err->msg[utf8_cut(err->msg, STATUS_MESSAGE_MAX)] = '\0';
    status.code = err_grpc_status(err->code);
    status.message = err->msg;
    size_t digest_size = build__bazel__remote__execution__v2__digest__get_packed_size(digest);
    size_t status_size = google__rpc__status__get_packed_size(&status);
    out = wire_put_head(out, FIELD_RESPONSES,
                        wire_bytes_size(digest_size) + wire_bytes_size(status_size));
    out = put_message(out, FIELD_DIGEST, &digest->base);
    return put_message(out, FIELD_STATUS, &status.base);
}

/* Bytes of a response before the blob's own. */
static size_t head_size(const REAPI(Digest) *digest, size_t size)
{
    size_t digest_size = build__bazel__remote__execution__v2__digest__get_packed_size(digest);
    size_t rest = wire_bytes_size(size) + wire_bytes_size(0);
    return wire_bytes_size(wire_bytes_size(digest_size) + rest) - size - wire_bytes_size(0);
}

/* The data may be where it belongs already, or anywhere behind. */
static uint8_t *put_blob(uint8_t *out, const REAPI(Digest) *digest, struct span data)
{
    size_t digest_size = build__bazel__remote__execution__v2__digest__get_packed_size(digest);
    out = wire_put_head(out, FIELD_RESPONSES,
                        wire_bytes_size(digest_size) + wire_bytes_size(data.size) +
                            wire_bytes_size(0));
    out = put_message(out, FIELD_DIGEST, &digest->base);
    out = wire_put_head(out, FIELD_DATA, data.size);
    if (out != data.data)
        memmove(out, data.data, data.size);
    return put_message(out + data.size, FIELD_STATUS, &status_ok.base);
}

/*
 * The responses for COUNT digests, in the room that they have from OUT on; returns their end. The
 * blobs are read to the end of that room and move to the front one by one: as no response takes
 * more than its room, none reaches the blobs behind it. One alone is read to where it is sent from.
 */
static uint8_t *put_blobs(uint8_t *out, struct cas *cas, REAPI(Digest) *const *messages,
                          const struct digest *digests, size_t count, struct cas_blob *blobs)
{
    size_t gap = 0;
    for (size_t i = 0; i < count; i++) {
        size_t size = (size_t)digests[i].size;
        blobs[i].digest = digests[i];
        gap += count == 1 ? head_size(messages[i], size)
                          : response_room(messages[i], digests[i].size) - size;
    }
    cas_get(cas, NULL, blobs, count, out + gap);
    for (size_t i = 0; i < count; i++)
        out = blobs[i].err.code == ERR_OK ? put_blob(out, messages[i], blobs[i].data)
                                          : put_failure(out, messages[i], &blobs[i].err);
    return out;
}

/* How many of COUNT digests are read at once: what is large is better read alone. */
static size_t read_at_once(const struct digest *digests, size_t count)
{
    size_t taken = 0;
    while (taken < count && taken < BATCH_SLICE && digests[taken].size <= READ_TOGETHER_MAX)
        taken++;
    return taken > 0 ? taken : 1;
}

static int read_blobs(struct cas *cas, const REAPI(BatchReadBlobsRequest) *request,
                      const struct digest *digests, uint8_t *message, size_t *size, struct err *err)
{
    /* Not in the call's arena, which stays as large for the calls to come. */
    struct cas_blob *blobs = malloc(BATCH_SLICE * sizeof(blobs[0]));
    if (blobs == NULL)
        return err_no_memory(err, "a batch");
    uint8_t *end = message;
    for (size_t done = 0, count; done < request->n_digests; done += count) {
        count = read_at_once(digests + done, request->n_digests - done);
        end = put_blobs(end, cas, request->digests + done, digests + done, count, blobs);
    }
    free(blobs);
    *size = (size_t)(end - message);
    return 0;
}

/* Bytes of the largest answer: digests without content add up as well. */
enum { ANSWER_MAX = 4 * REQUEST_BATCH_MAX };

static int check_reads(const struct instance *instance, const REAPI(BatchReadBlobsRequest) *request,
                       struct digest *digests, size_t *room, struct err *err)
{
    enum digest_function function;
    int64_t sum = 0;
    *room = 0;
    if (request->n_digests == 0)
        return 0;
    int rc =
        batch_function(instance, request->digest_function, request->digests[0], &function, err);
    for (size_t i = 0; i < request->n_digests && rc == 0; i++) {
        rc = parse_digest(function, request->digests[i], "digests", i, &digests[i], err);
        if (rc == 0)
            rc = add_size(digests[i].size, &sum, "Read", err);
        if (rc == 0)
            *room += response_room(request->digests[i], digests[i].size);
    }
    if (rc == 0 && *room > ANSWER_MAX)
        rc = err_set(err, ERR_INVALID,
                     "the answer for %zu digests would have up to %zu bytes, at most %d are sent: "
                     "ask for fewer at once",
                     request->n_digests, *room, ANSWER_MAX);
    return rc;
}

static void batch_read(struct call *call)
{
    const REAPI(BatchReadBlobsRequest) *request =
        (const REAPI(BatchReadBlobsRequest) *)call->request;
    const struct instance *instance = call->state;
    struct err err;
    size_t room = 0, size = 0;
    uint8_t *message = NULL;
    struct digest *digests = arena_calloc(call->arena, request->n_digests, sizeof(digests[0]));
    int rc = digests != NULL ? 0 : err_no_memory(&err, "a list of digests");
    if (rc == 0)
        rc = check_reads(instance, request, digests, &room, &err);
    if (rc == 0) {
        message = call_message_space(call, room);
        rc = message != NULL ? 0 : err_no_memory(&err, "the answer");
    }
    if (rc == 0)
        rc = read_blobs(instance->cas, request, digests, message, &size, &err);
    if (rc == 0)
        call_finish_filled(call, size);
    else
        call_fail(call, &err);
}

void storage_batch_read_start(struct call *call)
{
    const REAPI(BatchReadBlobsRequest) *request =
        (const REAPI(BatchReadBlobsRequest) *)call->request;
    if (take_instance(call, request->instance_name))
        call_offload(call, batch_read);
}
