/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, as protobuf strings must have it. */
#ifndef ASSETD_BASE_UTF8_H
#define ASSETD_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether SIZE bytes are valid UTF-8 (RFC 3629: no overlong forms, no surrogates) without NUL. */
bool utf8_is_text(const uint8_t *data, size_t size);

/* Bytes of TEXT, which is valid UTF-8: all of them, or MOST less what would split a character. */
size_t utf8_cut(const char *text, size_t most);

/* Puts '?' in the place of every byte of TEXT that is not of valid UTF-8, as where it was cut. */
void utf8_mend(char *text);

#endif
