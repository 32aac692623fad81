/* SPDX-License-Identifier: Apache-2.0 */
/* Validation by descriptors, and unpacking into an arena. */
#include "transport/codec.h"

#include <stdbool.h>

#include "base/utf8.h"
#include "base/wire.h"

enum {
    /* A FindMissingBlobs of 16 MiB has fewer, and so has a push with 100,000 references. */
    MESSAGES_MAX = 1 << 18,
    FIELDS_MAX = 1 << 20,
    /* Fields that a newer client may have: kept in memory, at many times their size. */
    UNKNOWN_MAX = 256,
    /* Requests nest three deep; the bound keeps a future recursive type off the stack. */
    DEPTH_MAX = 32,
};

struct validation {
    size_t messages; /* met so far, below the request itself */
    size_t fields;   /* met so far, at any depth */
    size_t unknown;  /* of these, not of the message's type */
    struct err *err;
};

static int validate(struct validation *validation, const ProtobufCMessageDescriptor *type,
                    struct span bytes, unsigned depth);

static int validate_field(struct validation *validation, const ProtobufCMessageDescriptor *type,
                          const ProtobufCFieldDescriptor *field, struct span bytes, unsigned depth)
{
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        if (++validation->messages > MESSAGES_MAX)
            return err_set(validation->err, ERR_INVALID,
                           "%s.%s: the request has more than %d parts", type->name, field->name,
                           MESSAGES_MAX);
        return validate(validation, field->descriptor, bytes, depth + 1);
    }
    if (field->type == PROTOBUF_C_TYPE_STRING && !utf8_is_text(bytes.data, bytes.size))
        return err_set(validation->err, ERR_INVALID, "%s.%s is not UTF-8 text without NUL",
                       type->name, field->name);
    return 0;
}

static int validate(struct validation *validation, const ProtobufCMessageDescriptor *type,
                    struct span bytes, unsigned depth)
{
    if (depth > DEPTH_MAX)
        return err_set(validation->err, ERR_INVALID, "%s is nested too deeply", type->name);
    struct wire_reader reader = {.message = bytes};
    struct wire_field field;
    while (wire_next(&reader, &field)) {
        if (++validation->fields > FIELDS_MAX)
            return err_set(validation->err, ERR_INVALID, "%s: the request has more than %d fields",
                           type->name, FIELDS_MAX);
        const ProtobufCFieldDescriptor *known =
            protobuf_c_message_descriptor_get_field(type, field.number);
        if (known == NULL && ++validation->unknown > UNKNOWN_MAX)
            return err_set(validation->err, ERR_INVALID,
                           "%s: the request has more than %d unknown fields", type->name,
                           UNKNOWN_MAX);
        if (known == NULL || field.type != WIRE_BYTES)
            continue;
        int rc = validate_field(validation, type, known, field.bytes, depth);
        if (rc != 0)
            return rc;
    }
    if (reader.malformed)
        return err_set(validation->err, ERR_INVALID, "the request is not a valid %s message",
                       type->name);
    return 0;
}

/* What protobuf-c allocates by. */
struct allocation {
    struct arena *arena;
    bool failed;
};

static void *allocate(void *context, size_t size)
{
    struct allocation *allocation = context;
    void *memory = arena_alloc(allocation->arena, size);
    allocation->failed |= memory == NULL;
    return memory;
}

/* The arena takes back everything at once. */
static void release(void *context, void *memory)
{
    (void)context;
    (void)memory;
}

int codec_unpack(const ProtobufCMessageDescriptor *type, struct span bytes, struct arena *arena,
                 const ProtobufCMessage **message, struct err *err)
{
    struct validation validation = {.err = err};
    int rc = validate(&validation, type, bytes, 0);
    if (rc != 0)
        return rc;
    struct allocation allocation = {.arena = arena};
    ProtobufCAllocator allocator = {
        .alloc = allocate, .free = release, .allocator_data = &allocation};
    *message = protobuf_c_message_unpack(type, &allocator, bytes.size, bytes.data);
    if (*message == NULL && allocation.failed)
        return err_no_memory(err, "a request");
    if (*message == NULL)
        return err_set(err, ERR_INVALID, "the request is not a valid %s message", type->name);
    return 0;
}
