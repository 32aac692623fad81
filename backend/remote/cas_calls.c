/* SPDX-License-Identifier: Apache-2.0 */
/* FindMissingBlobs and GetCapabilities. */
#include <string.h>

#include <assert.h>
#include <stdlib.h>

#include "base/digest_set.h"
#include "base/wire.h"
#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "remote/cas_connections.h"
#include "remote/cas_message.h"

/* --- FindMissingBlobs --- */

struct find_call {
    struct cas_call call; /* first */
    struct cas_find *find;
    struct digest_set asked; /* filled when something is missing */
};

/* FindMissingBlobsResponse. */
enum { FIND_MISSING_BLOB_DIGESTS = 2 };

static int fill_asked(struct find_call *call, struct err *err)
{
    bool is_new;
    int rc = 0;
    for (size_t i = call->asked.count; i < call->find->count && rc == 0; i++) {
        rc = digest_set_add(&call->asked, &call->find->digests[i], &is_new, err);
        assert(rc != 0 || is_new);
    }
    return rc;
}

/*
 * A digest that nobody asked for fails the call: who names another is not to be trusted with what
 * is not named, which counts as there.
 */
static int take_missing(struct find_call *call, struct span bytes, struct err *err)
{
    struct cas_find *find = call->find;
    struct digest digest;
    char text[DIGEST_TEXT_MAX];
    int rc = cas_message_digest(bytes, find->digests[0].function, &digest, err);
    if (rc == 0)
        rc = fill_asked(call, err);
    if (rc != 0)
        return rc;
    size_t index = digest_set_index(&call->asked, &digest);
    if (index == SIZE_MAX)
        return err_set(err, ERR_INVALID,
                       "the answer is malformed: it names %s, which was not asked for",
                       digest_text(&digest, text));
    find->is_missing[index] = true;
    return 0;
}

static int find_message(struct cas_call *base, struct span message, struct err *err)
{
    struct find_call *call = (struct find_call *)base;
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    while (wire_next(&reader, &field)) {
        if (field.number != FIND_MISSING_BLOB_DIGESTS || field.type != WIRE_BYTES)
            continue;
        int rc = take_missing(call, field.bytes, err);
        if (rc != 0)
            return rc;
    }
    if (reader.malformed)
        return err_set(err, ERR_INVALID, "the answer is malformed: it is no message");
    return 0;
}

static void find_done(struct cas_call *base, grpc_status_code status, const struct err *err)
{
    (void)status;
    struct cas_find *find = ((struct find_call *)base)->find;
    find->done(find, err);
}

static void find_free(struct cas_call *base)
{
    digest_set_fini(&((struct find_call *)base)->asked);
    free(base);
}

static const struct cas_method find_method = {
    .path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    .name = "FindMissingBlobs",
    .is_unary = true,
    .message = find_message,
    .done = find_done,
    .free = find_free,
};

int cas_find_missing(struct cas_connections *connections, struct cas_find *find, struct err *err)
{
    assert(find->count >= 1 && find->count <= CAS_FIND_MAX);
    const char *instance = cas_connections_conf(connections)->instance_name;
    struct find_call *call = calloc(1, sizeof(*call));
    grpc_byte_buffer *request =
        call != NULL ? cas_message_make(instance, find->digests, find->count) : NULL;
    if (request == NULL) {
        free(call);
        return err_no_memory(err, "a call to a CAS");
    }
    memset(find->is_missing, 0, find->count * sizeof(find->is_missing[0]));
    call->call.method = &find_method;
    call->find = find;
    return cas_call_begin(connections, &call->call, request, err);
}

/* --- GetCapabilities --- */

struct capabilities_call {
    struct cas_call call; /* first */
    struct cas_capabilities *capabilities;
    struct arena arena; /* what the message was unpacked into, and it itself */
    struct span message;
};

static void *allocate(void *context, size_t size)
{
    return arena_alloc(context, size);
}

/* The arena takes back everything at once. */
static void release(void *context, void *memory)
{
    (void)context;
    (void)memory;
}

/* Bytes; all that servers tell of themselves has some hundred. Unpacked it takes many times more.
 */
enum { CAPABILITIES_MAX = 64 << 10 };

/* Whoever gets the message counts on it that it can be unpacked. */
static int capabilities_message(struct cas_call *base, struct span message, struct err *err)
{
    struct capabilities_call *call = (struct capabilities_call *)base;
    ProtobufCAllocator allocator = {
        .alloc = allocate, .free = release, .allocator_data = &call->arena};
    const ProtobufCMessageDescriptor *type =
        &build__bazel__remote__execution__v2__server_capabilities__descriptor;
    if (message.size > CAPABILITIES_MAX)
        return err_set(err, ERR_INVALID, "the answer is too large: %zu bytes, at most %d are taken",
                       message.size, CAPABILITIES_MAX);
    if (protobuf_c_message_unpack(type, &allocator, message.size, message.data) == NULL)
        return err_set(err, ERR_INVALID, "the answer is malformed: it is no ServerCapabilities");
    call->message.data = (const uint8_t *)arena_copy(&call->arena, message.data, message.size);
    call->message.size = message.size;
    return call->message.data != NULL ? 0 : err_no_memory(err, "the capabilities of a CAS");
}

static void capabilities_done(struct cas_call *base, grpc_status_code status, const struct err *err)
{
    (void)status; /* without OK there is no message */
    struct capabilities_call *call = (struct capabilities_call *)base;
    call->capabilities->done(call->capabilities, call->message, err);
}

static void capabilities_free(struct cas_call *base)
{
    arena_fini(&((struct capabilities_call *)base)->arena);
    free(base);
}

static const struct cas_method capabilities_method = {
    .path = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
    .name = "GetCapabilities",
    .is_unary = true,
    .also_fine = 1U << GRPC_STATUS_UNIMPLEMENTED,
    .message = capabilities_message,
    .done = capabilities_done,
    .free = capabilities_free,
};

int cas_get_capabilities(struct cas_connections *connections, struct cas_capabilities *capabilities,
                         struct err *err)
{
    const char *instance = cas_connections_conf(connections)->instance_name;
    struct capabilities_call *call = calloc(1, sizeof(*call));
    grpc_byte_buffer *request = call != NULL ? cas_message_make(instance, NULL, 0) : NULL;
    if (request == NULL) {
        free(call);
        return err_no_memory(err, "a call to a CAS");
    }
    arena_init(&call->arena);
    call->call.method = &capabilities_method;
    call->capabilities = capabilities;
    return cas_call_begin(connections, &call->call, request, err);
}
