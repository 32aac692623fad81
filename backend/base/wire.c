/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing of protobuf fields. */
#include "base/wire.h"

static bool read_varint(struct wire_reader *reader, uint64_t *value)
{
    uint64_t result = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (reader->position == reader->message.size)
            return false;
        uint8_t byte = reader->message.data[reader->position++];
        result |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *value = result;
            return true;
        }
    }
    return false;
}

static bool read_fixed(struct wire_reader *reader, size_t size, uint64_t *value)
{
    if (reader->message.size - reader->position < size)
        return false;
    uint64_t result = 0;
    for (size_t i = 0; i < size; i++)
        result |= (uint64_t)reader->message.data[reader->position + i] << (8 * i);
    reader->position += size;
    *value = result;
    return true;
}

static bool read_bytes(struct wire_reader *reader, struct span *bytes)
{
    uint64_t size;
    if (!read_varint(reader, &size) || size > reader->message.size - reader->position)
        return false;
    *bytes = (struct span){reader->message.data + reader->position, (size_t)size};
    reader->position += (size_t)size;
    return true;
}

static bool read_payload(struct wire_reader *reader, struct wire_field *field)
{
    switch (field->type) {
    case WIRE_VARINT:
        return read_varint(reader, &field->value);
    case WIRE_FIXED64:
        return read_fixed(reader, 8, &field->value);
    case WIRE_BYTES:
        return read_bytes(reader, &field->bytes);
    case WIRE_FIXED32:
        return read_fixed(reader, 4, &field->value);
    }
    return false; /* groups, which proto3 does not have */
}

bool wire_next(struct wire_reader *reader, struct wire_field *field)
{
    if (reader->malformed || reader->position == reader->message.size)
        return false;
    uint64_t key;
    reader->malformed = true;
    if (!read_varint(reader, &key) || key >> 3 == 0 || key >> 3 > 0x1fffffff)
        return false;
    *field = (struct wire_field){.number = (uint32_t)(key >> 3), .type = (enum wire_type)(key & 7)};
    if (!read_payload(reader, field))
        return false;
    reader->malformed = false;
    return true;
}

size_t wire_put_varint(uint8_t *out, uint64_t value)
{
    size_t size = 0;
    while (value >= 0x80) {
        out[size++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    out[size++] = (uint8_t)value;
    return size;
}

size_t wire_varint_size(uint64_t value)
{
    size_t size = 1;
    while (value >= 0x80) {
        value >>= 7;
        size++;
    }
    return size;
}

size_t wire_bytes_size(size_t size)
{
    return 1 + wire_varint_size(size) + size;
}

uint8_t *wire_put_head(uint8_t *out, uint32_t number, size_t size)
{
    out += wire_put_varint(out, number << 3 | WIRE_BYTES);
    return out + wire_put_varint(out, size);
}
