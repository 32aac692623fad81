/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C: the known answers, pieces, and both ways of computing it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"

/* RFC 3720, appendix B.4, and the customary check value. */
static void test_known_answers(void **state)
{
    (void)state;
    uint8_t bytes[32];
    assert_int_equal(crc32c(0, "", 0), 0);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, sizeof(bytes)), 0x8a9136aa);
    assert_int_equal(crc32c_by_tables(0, bytes, sizeof(bytes)), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, sizeof(bytes)), 0x62a8ab43);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, bytes, sizeof(bytes)), 0x46dd794e);
    assert_int_equal(crc32c_by_tables(0, bytes, sizeof(bytes)), 0x46dd794e);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(31 - i);
    assert_int_equal(crc32c(0, bytes, sizeof(bytes)), 0x113fdb5c);
}

static void test_both_ways_agree(void **state)
{
    (void)state;
    enum { STARTS = 16, SIZES = 8192 + 100 };
    static uint8_t bytes[STARTS + SIZES];
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        random = random * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(random >> 24);
    }
    /* Every alignment, and every rest of the steps and the lanes. */
    for (size_t start = 0; start < STARTS; start++) {
        uint32_t expected = random;
        for (size_t size = 0; size < SIZES; size++) {
            assert_int_equal(crc32c(random, bytes + start, size), expected);
            expected = crc32c_by_tables(expected, bytes + start + size, 1);
        }
    }
    /* The tables' own steps of eight bytes. */
    for (size_t start = 0; start < STARTS; start++)
        for (size_t size = 0; size < 200; size++)
            assert_int_equal(crc32c_by_tables(random, bytes + start, size),
                             crc32c(random, bytes + start, size));
    assert_int_equal(crc32c_by_tables(7, bytes, sizeof(bytes)), crc32c(7, bytes, sizeof(bytes)));
}

static void test_pieces_make_the_whole(void **state)
{
    (void)state;
    const char *text = "The sum over pieces is the sum over the whole.";
    size_t size = strlen(text);
    for (size_t cut = 0; cut <= size; cut++)
        assert_int_equal(crc32c(crc32c(0, text, cut), text + cut, size - cut),
                         crc32c(0, text, size));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_both_ways_agree),
        cmocka_unit_test(test_pieces_make_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
