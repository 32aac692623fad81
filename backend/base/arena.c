/* SPDX-License-Identifier: Apache-2.0 */
/* A bump allocator over chunks that grow with use. */
#include "base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first chunk holds what an ordinary call needs; later ones double up to a bound. */
enum { CHUNK_MIN = 4096 - 64, CHUNK_MAX = 1 << 20 };

/* A larger one is not kept for the next use. */
enum { CHUNK_KEPT = 64 << 10 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t size; /* bytes of data */
    alignas(max_align_t) char data[];
};

void arena_init(struct arena *arena)
{
    *arena = (struct arena){0};
}

static void free_chunks(struct arena_chunk *chunk)
{
    while (chunk != NULL) {
        struct arena_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void arena_fini(struct arena *arena)
{
    free_chunks(arena->chunks);
    arena_init(arena);
}

void arena_reset(struct arena *arena)
{
    struct arena_chunk *first = arena->chunks;
    while (first != NULL && (first->next != NULL || first->size > CHUNK_KEPT)) {
        struct arena_chunk *next = first->next;
        free(first);
        first = next;
    }
    if (first == NULL) {
        arena_init(arena);
        return;
    }
    arena->chunks = first;
    arena->used = 0;
    arena->total = first->size;
}

static int add_chunk(struct arena *arena, size_t least)
{
    size_t size = arena->total < CHUNK_MIN ? CHUNK_MIN : arena->total;
    if (size > CHUNK_MAX)
        size = CHUNK_MAX;
    if (size < least)
        size = least;
    if (size > SIZE_MAX - sizeof(struct arena_chunk))
        return -1;
    struct arena_chunk *chunk = malloc(sizeof(*chunk) + size);
    if (chunk == NULL)
        return -1;
    chunk->next = arena->chunks;
    chunk->size = size;
    arena->chunks = chunk;
    arena->used = 0;
    arena->total += size;
    return 0;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    const size_t align = alignof(max_align_t);
    if (size > SIZE_MAX - align)
        return NULL;
    size = (size + align - 1) & ~(align - 1);
    if (arena->chunks == NULL || arena->chunks->size - arena->used < size) {
        if (add_chunk(arena, size) != 0)
            return NULL;
    }
    void *memory = arena->chunks->data + arena->used;
    arena->used += size;
    return memory;
}

void *arena_calloc(struct arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    void *memory = arena_alloc(arena, count * size);
    if (memory != NULL)
        memset(memory, 0, count * size);
    return memory;
}

char *arena_copy(struct arena *arena, const void *data, size_t size)
{
    if (size == SIZE_MAX)
        return NULL;
    char *copy = arena_alloc(arena, size + 1);
    if (copy == NULL)
        return NULL;
    if (size != 0)
        memcpy(copy, data, size);
    copy[size] = '\0';
    return copy;
}

char *arena_strdup(struct arena *arena, const char *string)
{
    return arena_copy(arena, string, strlen(string));
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        return NULL;
    char *text = arena_alloc(arena, (size_t)length + 1);
    if (text == NULL)
        return NULL;
    va_start(args, format);
    (void)vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}
