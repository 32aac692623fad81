/* SPDX-License-Identifier: Apache-2.0 */
/* Validation of UTF-8. */
#include "base/utf8.h"

#include <string.h>

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* The length of the well-formed sequence of two or more bytes at DATA; 0 if there is none. */
static size_t sequence_length(const uint8_t *data, size_t size)
{
    uint8_t lead = data[0];
    if (lead >= 0xc2 && lead <= 0xdf)
        return size >= 2 && is_continuation(data[1]) ? 2 : 0;
    if (lead >= 0xe0 && lead <= 0xef) {
        if (size < 3 || !is_continuation(data[1]) || !is_continuation(data[2]))
            return 0;
        bool overlong = lead == 0xe0 && data[1] < 0xa0;
        bool surrogate = lead == 0xed && data[1] > 0x9f;
        return overlong || surrogate ? 0 : 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        if (size < 4 || !is_continuation(data[1]) || !is_continuation(data[2]) ||
            !is_continuation(data[3]))
            return 0;
        bool overlong = lead == 0xf0 && data[1] < 0x90;
        bool too_large = lead == 0xf4 && data[1] > 0x8f;
        return overlong || too_large ? 0 : 4;
    }
    return 0;
}

/* Whether all of eight bytes are ASCII, and none is 0. */
static bool are_ascii(const uint8_t *data)
{
    uint64_t bytes;
    memcpy(&bytes, data, sizeof(bytes));
    /* Below 0x80 a byte keeps its top bit when 0x7f is added, but for 0. */
    const uint64_t tops = UINT64_C(0x8080808080808080);
    return (bytes & tops) == 0 && ((bytes + ~tops) & tops) == tops;
}

bool utf8_is_text(const uint8_t *data, size_t size)
{
    size_t i = 0;
    while (i < size) {
        if (size - i >= sizeof(uint64_t) && are_ascii(data + i)) {
            i += sizeof(uint64_t);
            continue;
        }
        if (data[i] == 0)
            return false;
        if (data[i] < 0x80) {
            i++;
            continue;
        }
        size_t length = sequence_length(data + i, size - i);
        if (length == 0)
            return false;
        i += length;
    }
    return true;
}

size_t utf8_cut(const char *text, size_t most)
{
    size_t length = strnlen(text, most + 1);
    if (length <= most)
        return length;
    length = most;
    while (length > 0 && is_continuation((uint8_t)text[length]))
        length--;
    return length;
}

void utf8_mend(char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        size_t length =
            (unsigned char)*text < 0x80 ? 1 : sequence_length((const uint8_t *)text, left);
        if (length == 0) {
            *text = '?';
            length = 1;
        }
        text += length;
        left -= length;
    }
}
