/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that grow by copying, so that nothing of them is left behind in freed memory. */
#include "credential/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

enum { TEXT_ROOM = 1024 };

void text_wipe(void *memory, size_t size)
{
    if (size != 0)
        OPENSSL_cleanse(memory, size);
}

void text_fini(struct text *text)
{
    if (text->bytes != NULL)
        text_wipe(text->bytes, text->room);
    free(text->bytes);
    *text = (struct text){.bytes = NULL};
}

/* Room for SIZE more bytes and a NUL. */
static bool grow(struct text *text, size_t size)
{
    size_t room = text->room != 0 ? text->room : TEXT_ROOM;
    if (text->failed)
        return false;
    while (room - text->size <= size && room <= SIZE_MAX / 2)
        room *= 2;
    if (room == text->room)
        return true;
    char *bytes = room - text->size > size ? malloc(room) : NULL;
    if (bytes == NULL) {
        text->failed = true;
        return false;
    }
    if (text->bytes != NULL) {
        memcpy(bytes, text->bytes, text->size);
        text_wipe(text->bytes, text->room);
        free(text->bytes);
    }
    text->bytes = bytes;
    text->room = room;
    return true;
}

void text_add(struct text *text, const void *bytes, size_t size)
{
    if (size == 0 || !grow(text, size))
        return;
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
}

void text_print(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0 || !grow(text, (size_t)size)) {
        text->failed = true;
        return;
    }
    va_start(arguments, format);
    (void)vsnprintf(text->bytes + text->size, (size_t)size + 1, format, arguments);
    va_end(arguments);
    text->size += (size_t)size;
}

void text_cut(struct text *text, size_t from, size_t to)
{
    if (from >= to)
        return;
    memmove(text->bytes + from, text->bytes + to, text->size - to);
    text->size -= to - from;
}
