/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC-32C by the SSE4.2 instruction, in three lanes where sums can be multiplied, or by eight
 * tables that take eight bytes at a step.
 */
#include "base/crc32c.h"

#include <endian.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The polynomial 0x1edc6f41 with its bits reversed. */
static const uint32_t polynomial = 0x82f63b78;

/* tables[K][B]: the sum of byte B with K zero bytes behind it. */
static uint32_t tables[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* SUM, a polynomial whose highest power is the lowest bit, times x. */
static uint32_t times_x(uint32_t sum)
{
    return (sum >> 1) ^ ((sum & 1) != 0 ? polynomial : 0);
}

#if defined(__x86_64__)
static bool has_instruction;
static bool has_multiplication;

/*
 * The instruction can begin in each cycle and takes three: three lanes of this many bytes, one
 * behind the other, are summed side by side. Together they are a little less than 1 KiB, as many
 * blobs are not much larger than that.
 */
enum { LANE = 336 };

/* What a sum is multiplied by to have one lane of zeros behind it, or two: see join_lanes. */
static uint32_t behind_one, behind_two;

static uint32_t power_of_x(unsigned exponent)
{
    uint32_t power = (uint32_t)1 << 31;
    while (exponent-- > 0)
        power = times_x(power);
    return power;
}

static void prepare_instruction(void)
{
    has_instruction = __builtin_cpu_supports("sse4.2") != 0;
    has_multiplication = has_instruction && __builtin_cpu_supports("pclmul") != 0;
    behind_one = power_of_x(8 * LANE - 33);
    behind_two = power_of_x(2 * 8 * LANE - 33);
}
#endif

static void prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (unsigned bit = 0; bit < 8; bit++)
            sum = times_x(sum);
        tables[0][byte] = sum;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (unsigned k = 1; k < 8; k++)
            tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 0xff];
#if defined(__x86_64__)
    prepare_instruction();
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
        wide = _mm_crc32_u64(wide, load(bytes));
    sum = (uint32_t)wide;
    for (; size > 0; bytes++, size--)
        sum = _mm_crc32_u8(sum, *bytes);
    return sum;
}

/*
 * The sum of three lanes from the sum of each. A product of two sums without carries comes out as
 * 64 bits whose lowest is x^63, one power too many, and the instruction multiplies them by x^32
 * while it brings them back to 32 bits: the factors are less by x^33 for that.
 */
__attribute__((target("sse4.2,pclmul"))) static uint64_t join_lanes(const uint64_t sums[3])
{
    __m128i factors = _mm_set_epi64x(behind_one, behind_two);
    __m128i first = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)sums[0]), factors, 0x00);
    __m128i second = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)sums[1]), factors, 0x10);
    __m128i both = _mm_xor_si128(first, second);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(both)) ^ sums[2];
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t by_lanes(uint32_t sum,
                                                                  const uint8_t *bytes, size_t size)
{
    for (; size >= 3 * LANE; bytes += 3 * LANE, size -= 3 * LANE) {
        uint64_t sums[3] = {sum, 0, 0};
        for (size_t i = 0; i < LANE; i += 8) {
            sums[0] = _mm_crc32_u64(sums[0], load(bytes + i));
            sums[1] = _mm_crc32_u64(sums[1], load(bytes + LANE + i));
            sums[2] = _mm_crc32_u64(sums[2], load(bytes + 2 * LANE + i));
        }
        sum = (uint32_t)join_lanes(sums);
    }
    return by_instruction(sum, bytes, size);
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
    if (has_multiplication)
        return ~by_lanes(~sum, data, size);
    if (has_instruction)
        return ~by_instruction(~sum, data, size);
#endif
    return ~by_tables(~sum, data, size);
}
