/* SPDX-License-Identifier: Apache-2.0 */
/* The protobuf wire format, read field by field without copies or allocation. */
#ifndef ASSETD_BASE_WIRE_H
#define ASSETD_BASE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

/* Protocol Buffers encoding: the wire types that are in use. */
enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/* One field of a message. */
struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;    /* of varint and fixed types */
    struct span bytes; /* of WIRE_BYTES; points into the message */
};

/* A position in a message. Set message and zero the rest. */
struct wire_reader {
    struct span message;
    size_t position; /* bytes consumed */
    bool malformed;  /* set for good when the bytes are no message */
};

/* The next field; false at the end, and when the bytes are malformed. */
bool wire_next(struct wire_reader *reader, struct wire_field *field);

/* Writes VALUE as a varint of 1 to 10 bytes; returns how many. */
size_t wire_put_varint(uint8_t *out, uint64_t value);

/* Bytes that wire_put_varint would write. */
size_t wire_varint_size(uint64_t value);

/* Bytes of a field NUMBER (1 to 15) that holds SIZE bytes, its head included. */
size_t wire_bytes_size(size_t size);

/* Writes the head of such a field, and returns where its bytes go. */
uint8_t *wire_put_head(uint8_t *out, uint32_t number, size_t size);

#endif
