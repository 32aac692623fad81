/* SPDX-License-Identifier: Apache-2.0 */
/* Conversions from and to the core's slices. */
#include "rpc/slices.h"

#include <grpc/byte_buffer_reader.h>
#include <string.h>

static size_t count_slices(grpc_byte_buffer *buffer)
{
    grpc_byte_buffer_reader reader;
    grpc_slice *slice;
    size_t count = 0;
    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return 0;
    while (grpc_byte_buffer_reader_peek(&reader, &slice))
        count++;
    grpc_byte_buffer_reader_destroy(&reader);
    return count;
}

struct span *slices_of_buffer(grpc_byte_buffer *buffer, struct arena *arena, size_t *count)
{
    size_t slices = count_slices(buffer);
    struct span *spans = arena_calloc(arena, slices > 0 ? slices : 1, sizeof(*spans));
    if (spans == NULL)
        return NULL;
    *count = slices > 0 ? slices : 1;
    spans[0] = (struct span){(const uint8_t *)"", 0};
    grpc_byte_buffer_reader reader;
    if (slices == 0 || !grpc_byte_buffer_reader_init(&reader, buffer))
        return spans;
    grpc_slice *slice;
    for (size_t i = 0; grpc_byte_buffer_reader_peek(&reader, &slice); i++)
        spans[i] = (struct span){GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice)};
    grpc_byte_buffer_reader_destroy(&reader);
    return spans;
}

struct span slices_join(const struct span *spans, size_t count, struct arena *arena)
{
    if (count == 1)
        return spans[0];
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += spans[i].size;
    uint8_t *joined = arena_alloc(arena, size);
    if (joined == NULL)
        return (struct span){NULL, 0};
    size_t filled = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(joined + filled, spans[i].data, spans[i].size);
        filled += spans[i].size;
    }
    return (struct span){joined, size};
}

grpc_byte_buffer *slices_to_buffer(grpc_slice slice)
{
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

bool slices_equal_string(grpc_slice slice, const char *string)
{
    size_t length = strlen(string);
    return GRPC_SLICE_LENGTH(slice) == length &&
           memcmp(GRPC_SLICE_START_PTR(slice), string, length) == 0;
}

char *slices_to_string(grpc_slice slice, struct arena *arena)
{
    return arena_copy(arena, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
}
