/* SPDX-License-Identifier: Apache-2.0 */
/* Writing of requests, and reading of digests. */
#include "remote/cas_message.h"

#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "rpc/slices.h"

/* Fields of Digest, and of the requests. */
enum { DIGEST_HASH = 1, DIGEST_SIZE_BYTES = 2, REQUEST_TEXT = 1, REQUEST_DIGESTS = 2 };

/* --- requests --- */

/* Bytes of DIGEST as a Digest. Zero, as the default, is not written. */
static size_t digest_message_size(const struct digest *digest)
{
    size_t size = wire_bytes_size(2 * digest_hash_size(digest->function));
    if (digest->size != 0)
        size += 1 + wire_varint_size((uint64_t)digest->size);
    return size;
}

static uint8_t *put_bytes(uint8_t *out, uint32_t number, const char *text, size_t size)
{
    out = wire_put_head(out, number, size);
    memcpy(out, text, size);
    return out + size;
}

static uint8_t *put_digest(uint8_t *out, const struct digest *digest)
{
    char hex[2 * DIGEST_HASH_MAX + 1];
    out = wire_put_head(out, REQUEST_DIGESTS, digest_message_size(digest));
    out = put_bytes(out, DIGEST_HASH, digest_hex(digest, hex),
                    2 * digest_hash_size(digest->function));
    if (digest->size != 0) {
        out += wire_put_varint(out, DIGEST_SIZE_BYTES << 3 | WIRE_VARINT);
        out += wire_put_varint(out, (uint64_t)digest->size);
    }
    return out;
}

grpc_byte_buffer *cas_message_make(const char *text, const struct digest *digests, size_t count)
{
    size_t length = strlen(text);
    size_t size = length != 0 ? wire_bytes_size(length) : 0;
    for (size_t i = 0; i < count; i++)
        size += wire_bytes_size(digest_message_size(&digests[i]));
    /* Memory of ours: the core's own way to get some ends the process where there is none. */
    uint8_t *bytes = malloc(size != 0 ? size : 1);
    if (bytes == NULL)
        return NULL;
    uint8_t *out = bytes;
    if (length != 0)
        out = put_bytes(out, REQUEST_TEXT, text, length);
    for (size_t i = 0; i < count; i++)
        out = put_digest(out, &digests[i]);
    return slices_to_buffer(grpc_slice_new(bytes, size, free));
}

/* --- digests --- */

int cas_message_digest(struct span bytes, enum digest_function function, struct digest *digest,
                       struct err *err)
{
    struct span hash = {(const uint8_t *)"", 0};
    uint64_t size = 0;
    struct wire_reader reader = {.message = bytes};
    struct wire_field field;
    while (wire_next(&reader, &field)) {
        if (field.number == DIGEST_HASH && field.type == WIRE_BYTES)
            hash = field.bytes;
        else if (field.number == DIGEST_SIZE_BYTES && field.type == WIRE_VARINT)
            size = field.value;
    }
    if (reader.malformed)
        return err_set(err, ERR_INVALID, "the answer is malformed: a Digest is no message");
    int rc = digest_parse(function, (const char *)hash.data, hash.size, (int64_t)size, digest, err);
    return rc == 0 ? 0 : err_wrap(err, "the answer is malformed");
}
