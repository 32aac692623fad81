/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of a WriteRequest whose fields may straddle runs of bytes. */
#include "service/write_request.h"

#include "base/wire.h"

enum {
    FIELD_RESOURCE_NAME = 1,
    FIELD_WRITE_OFFSET = 2,
    FIELD_FINISH_WRITE = 3,
    FIELD_DATA = 10,
};

/* What is left of the message is itself a piece of it. */
static bool read_byte(struct run_piece *rest, uint8_t *byte)
{
    if (rest->size == 0)
        return false;
    while (rest->skip == rest->runs->size) {
        rest->runs++;
        rest->skip = 0;
    }
    *byte = rest->runs->data[rest->skip++];
    rest->size--;
    return true;
}

static bool read_varint(struct run_piece *rest, uint64_t *value)
{
    uint64_t result = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte;
        if (!read_byte(rest, &byte))
            return false;
        result |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *value = result;
            return true;
        }
    }
    return false;
}

static bool take(struct run_piece *rest, uint64_t size, struct run_piece *piece)
{
    if (size > rest->size)
        return false;
    *piece = (struct run_piece){rest->runs, rest->skip, (size_t)size};
    rest->size -= (size_t)size;
    size_t left = (size_t)size;
    while (left > rest->runs->size - rest->skip) {
        left -= rest->runs->size - rest->skip;
        rest->runs++;
        rest->skip = 0;
    }
    rest->skip += left;
    return true;
}

static bool read_payload(struct run_piece *rest, unsigned type, uint64_t *value,
                         struct run_piece *bytes)
{
    switch (type) {
    case WIRE_VARINT:
        return read_varint(rest, value);
    case WIRE_FIXED64:
        return take(rest, 8, bytes);
    case WIRE_BYTES:
        return read_varint(rest, value) && take(rest, *value, bytes);
    case WIRE_FIXED32:
        return take(rest, 4, bytes);
    default:
        return false; /* groups, which proto3 does not have */
    }
}

static bool read_field(struct run_piece *rest, struct write_request *request)
{
    uint64_t key;
    uint64_t value = 0;
    struct run_piece bytes;
    if (!read_varint(rest, &key) || key >> 3 == 0 || key >> 3 > 0x1fffffff)
        return false;
    unsigned type = (unsigned)(key & 7);
    if (!read_payload(rest, type, &value, &bytes))
        return false;
    /* A known number with another type is an unknown field. */
    if (type == WIRE_BYTES && key >> 3 == FIELD_RESOURCE_NAME)
        request->resource_name = bytes;
    else if (type == WIRE_BYTES && key >> 3 == FIELD_DATA)
        request->data = bytes;
    else if (type == WIRE_VARINT && key >> 3 == FIELD_WRITE_OFFSET)
        request->write_offset = (int64_t)value;
    else if (type == WIRE_VARINT && key >> 3 == FIELD_FINISH_WRITE)
        request->finish_write = value != 0;
    return true;
}

int write_request_parse(const struct span *runs, size_t count, struct write_request *request,
                        struct err *err)
{
    *request = (struct write_request){0};
    struct run_piece rest = {.runs = runs};
    for (size_t i = 0; i < count; i++)
        rest.size += runs[i].size;
    while (rest.size != 0)
        if (!read_field(&rest, request))
            return err_set(err, ERR_INVALID, "the message is no WriteRequest: malformed protobuf");
    return 0;
}

bool run_piece_next(struct run_piece *piece, struct span *bytes)
{
    if (piece->size == 0)
        return false;
    while (piece->skip == piece->runs->size) {
        piece->runs++;
        piece->skip = 0;
    }
    size_t size = piece->runs->size - piece->skip;
    if (size > piece->size)
        size = piece->size;
    *bytes = (struct span){piece->runs->data + piece->skip, size};
    piece->size -= size;
    piece->skip += size;
    return true;
}
