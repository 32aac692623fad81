/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is given back all at once: one arena serves one call, or one configuration. */
#ifndef ASSETD_BASE_ARENA_H
#define ASSETD_BASE_ARENA_H

#include <stdarg.h>
#include <stddef.h>

struct arena_chunk;

/* Embedded by its user. One thread at a time; the threads that hand it on must synchronise. */
struct arena {
    struct arena_chunk *chunks; /* newest first */
    size_t used;                /* bytes taken from the newest chunk */
    size_t total;               /* bytes of all chunks */
};

void arena_init(struct arena *arena);

/* Gives everything back; the arena is as after arena_init. */
void arena_fini(struct arena *arena);

/* Forgets what was allocated, and keeps the first chunk for the next use unless it is large. */
void arena_reset(struct arena *arena);

/* SIZE bytes, aligned for any type, not zeroed; NULL when memory is out. */
void *arena_alloc(struct arena *arena, size_t size);

/* COUNT elements of SIZE bytes, zeroed; NULL when memory is out or the product overflows. */
void *arena_calloc(struct arena *arena, size_t count, size_t size);

/* A copy of SIZE bytes with a NUL behind it; NULL when memory is out. */
char *arena_copy(struct arena *arena, const void *data, size_t size);

/* A copy of a string; NULL when memory is out. */
char *arena_strdup(struct arena *arena, const char *string);

/* A formatted string; NULL when memory is out. */
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
