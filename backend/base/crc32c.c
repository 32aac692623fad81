/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C by the SSE4.2 instruction, or by eight tables that take eight bytes at a step. */
#include "base/crc32c.h"

#include <endian.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

/* The polynomial 0x1edc6f41 with its bits reversed. */
static const uint32_t polynomial = 0x82f63b78;

/* tables[K][B]: the sum of byte B with K zero bytes behind it. */
static uint32_t tables[8][256];
static bool has_instruction;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (unsigned bit = 0; bit < 8; bit++)
            sum = (sum >> 1) ^ ((sum & 1) != 0 ? polynomial : 0);
        tables[0][byte] = sum;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (unsigned k = 1; k < 8; k++)
            tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 0xff];
#if defined(__x86_64__)
    has_instruction = __builtin_cpu_supports("sse4.2") != 0;
#endif
}

static uint64_t load(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return le64toh(word);
}

static uint32_t by_tables(uint32_t sum, const uint8_t *bytes, size_t size)
{
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word = load(bytes) ^ sum;
        sum = 0;
        for (unsigned k = 0; k < 8; k++)
            sum ^= tables[7 - k][(word >> (8 * k)) & 0xff];
    }
    for (; size > 0; bytes++, size--)
        sum = (sum >> 8) ^ tables[0][(sum ^ *bytes) & 0xff];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t sum, const uint8_t *bytes,
                                                                 size_t size)
{
    uint64_t wide = sum;
    for (; size >= 8; bytes += 8, size -= 8)
        wide = __builtin_ia32_crc32di(wide, load(bytes));
    sum = (uint32_t)wide;
    for (; size > 0; bytes++, size--)
        sum = __builtin_ia32_crc32qi(sum, *bytes);
    return sum;
}
#endif

uint32_t crc32c_by_tables(uint32_t sum, const void *data, size_t size)
{
    (void)pthread_once(&once, prepare);
    return ~by_tables(~sum, data, size);
}

uint32_t crc32c(uint32_t sum, const void *data, size_t size)
{
    (void)pthread_once(&once, prepare);
#if defined(__x86_64__)
    if (has_instruction)
        return ~by_instruction(~sum, data, size);
#endif
    return ~by_tables(~sum, data, size);
}
