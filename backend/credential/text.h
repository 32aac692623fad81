/* SPDX-License-Identifier: Apache-2.0 */
/* A growing run of bytes that is wiped when it goes: keys, tokens, and the files that hold them. */
#ifndef ASSETD_CREDENTIAL_TEXT_H
#define ASSETD_CREDENTIAL_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Zeroed it is empty. Where memory runs out, failed is set and what was to be added is not there:
 * folder_replace and its kin refuse such a text, so that nobody else needs to ask.
 */
struct text {
    char *bytes; /* no NUL at the end; NULL while it is empty */
    size_t size;
    size_t room;
    bool failed;
};

/* Wipes and frees it; it is empty afterwards. */
void text_fini(struct text *text);

void text_add(struct text *text, const void *bytes, size_t size);

void text_print(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Takes the bytes from FROM up to, not including, TO away. */
void text_cut(struct text *text, size_t from, size_t to);

/* Wipes memory that held a secret, as no compiler leaves it out. */
void text_wipe(void *memory, size_t size);

#endif
