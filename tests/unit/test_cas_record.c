/* SPDX-License-Identifier: Apache-2.0 */
/* The format of the log: round trips, the bytes as they stand, and every kind of damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "store/cas_record.h"

static const struct cas_origin origin = {
    .store = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255},
    .segment = 0x0000002233445566,
};

static const enum digest_function functions[] = {DIGEST_SHA256, DIGEST_SHA1, DIGEST_SHA384,
                                                 DIGEST_SHA512};
enum { FUNCTIONS = sizeof(functions) / sizeof(functions[0]) };

static struct digest make_digest(enum digest_function function, int64_t size)
{
    struct digest digest = {.size = size, .function = function};
    for (size_t i = 0; i < digest_hash_size(function); i++)
        digest.hash[i] = (uint8_t)(0xa0 + i * 3);
    return digest;
}

static void flip(uint8_t *bytes, size_t bit)
{
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

static uint64_t number_at(const uint8_t *bytes, size_t size)
{
    uint64_t number = 0;
    for (size_t i = size; i-- > 0;)
        number = number << 8 | bytes[i];
    return number;
}

/* --- keys --- */

static void test_keys_tell_digests_apart(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 255, 256, 65536, CAS_BLOB_MAX - 1, CAS_BLOB_MAX};
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    struct cas_key keys[FUNCTIONS * SIZES];
    size_t count = 0;
    for (size_t i = 0; i < FUNCTIONS; i++)
        for (size_t j = 0; j < SIZES; j++, count++) {
            struct digest digest = make_digest(functions[i], sizes[j]);
            cas_key_of(&digest, &keys[count]);
            assert_memory_equal(keys[count].hash, digest.hash, CAS_KEY_HASH);
            assert_int_equal(cas_key_size(&keys[count]), sizes[j]);
            assert_int_equal(cas_key_function(&keys[count]), functions[i]);
        }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++)
            assert_int_equal(cas_key_equal(&keys[i], &keys[j]), i == j);
    struct cas_key other = keys[0];
    flip(other.hash, 8 * CAS_KEY_HASH - 1);
    assert_false(cas_key_equal(&other, &keys[0]));
}

static void test_sizes_that_are_not_stored_have_keys_of_no_blob(void **state)
{
    (void)state;
    static const int64_t sizes[] = {CAS_BLOB_MAX + 1, 2 * CAS_BLOB_MAX, 2 * CAS_BLOB_MAX + 5,
                                    INT64_MAX};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct digest digest = make_digest(DIGEST_SHA256, sizes[i]);
        struct cas_key key;
        cas_key_of(&digest, &key);
        assert_true(cas_key_size(&key) > CAS_BLOB_MAX);
        assert_int_equal(cas_key_function(&key), DIGEST_SHA256);
    }
}

/* --- segments --- */

static void test_segment_header(void **state)
{
    (void)state;
    uint8_t bytes[CAS_SEGMENT_HEADER];
    uint64_t sequence = 0;
    struct err err;
    cas_segment_put_header(&origin, 0x0102030405060708, bytes);
    assert_memory_equal(bytes, "assetdSG", 8);
    assert_int_equal(number_at(bytes + 8, 4), 1);
    assert_memory_equal(bytes + 16, origin.store, 16);
    assert_int_equal(number_at(bytes + 32, 8), origin.segment);
    assert_int_equal(number_at(bytes + 40, 8), 0x0102030405060708);
    assert_int_equal(number_at(bytes + 60, 4), crc32c_by_tables(0, bytes, 60));
    assert_int_equal(cas_segment_get_header(&origin, bytes, &sequence, &err), 0);
    assert_int_equal(sequence, 0x0102030405060708);
    for (size_t bit = 0; bit < 8 * sizeof(bytes); bit++) {
        flip(bytes, bit);
        assert_int_equal(cas_segment_get_header(&origin, bytes, &sequence, &err), -ERR_DATA_LOSS);
        flip(bytes, bit);
    }
}

static void test_segment_header_of_elsewhere(void **state)
{
    (void)state;
    uint8_t bytes[CAS_SEGMENT_HEADER];
    uint64_t sequence;
    struct err err;
    struct cas_origin other = origin;
    other.segment++;
    cas_segment_put_header(&other, 7, bytes);
    assert_int_equal(cas_segment_get_header(&origin, bytes, &sequence, &err), -ERR_DATA_LOSS);
    other = origin;
    other.store[15] ^= 1;
    cas_segment_put_header(&other, 7, bytes);
    assert_int_equal(cas_segment_get_header(&origin, bytes, &sequence, &err), -ERR_DATA_LOSS);
    /* A version that is not known, with the right checksum. */
    cas_segment_put_header(&origin, 7, bytes);
    bytes[8]++;
    uint32_t sum = crc32c(0, bytes, 60);
    memcpy(bytes + 60, &sum, sizeof(sum));
    assert_int_equal(cas_segment_get_header(&origin, bytes, &sequence, &err), -ERR_DATA_LOSS);
}

/* --- headers of records --- */

static void test_record_header_as_it_stands(void **state)
{
    (void)state;
    struct digest digest = make_digest(DIGEST_SHA1, 0x0001020304050607);
    uint8_t bytes[CAS_RECORD_HEADER_MAX];
    assert_int_equal(cas_record_header_size(DIGEST_SHA1), 44);
    cas_record_put_header(&origin, 0x1234560, &digest, bytes);
    assert_memory_equal(bytes, "aRec", 4);
    assert_int_equal(bytes[4], DIGEST_SHA1);
    assert_int_equal(bytes[5], 20);
    assert_int_equal(number_at(bytes + 6, 2), 0);
    assert_int_equal(number_at(bytes + 8, 8), 0x0001020304050607);
    assert_int_equal(number_at(bytes + 20, 4), 0);
    assert_memory_equal(bytes + 24, digest.hash, 20);
    uint8_t summed[32 + 44];
    uint64_t offset = 0x1234560;
    memcpy(summed, origin.store, 16);
    memcpy(summed + 16, &origin.segment, 8);
    memcpy(summed + 24, &offset, 8);
    memcpy(summed + 32, bytes, 44);
    memset(summed + 32 + 16, 0, 4);
    assert_int_equal(number_at(bytes + 16, 4), crc32c_by_tables(0, summed, sizeof(summed)));
}

static void test_record_header_round_trips(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 4096, CAS_BLOB_MAX - 1, CAS_BLOB_MAX};
    static const uint64_t offsets[] = {64, 0xfffff0, (uint64_t)1 << 40};
    for (size_t i = 0; i < FUNCTIONS; i++)
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++)
            for (size_t k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++) {
                struct digest digest = make_digest(functions[i], sizes[j]);
                struct digest found;
                struct err err;
                uint8_t bytes[CAS_RECORD_HEADER_MAX];
                size_t size = cas_record_header_size(functions[i]);
                cas_record_put_header(&origin, offsets[k], &digest, bytes);
                memset(&found, 0xff, sizeof(found));
                assert_int_equal(
                    cas_record_get_header(&origin, offsets[k], bytes, size, &found, &err), 0);
                assert_true(digest_equal(&digest, &found));
            }
}

static void test_record_header_cut_off(void **state)
{
    (void)state;
    for (size_t i = 0; i < FUNCTIONS; i++) {
        struct digest digest = make_digest(functions[i], 100);
        struct digest found;
        struct err err;
        uint8_t bytes[CAS_RECORD_HEADER_MAX];
        size_t size = cas_record_header_size(functions[i]);
        cas_record_put_header(&origin, 64, &digest, bytes);
        for (size_t available = 0; available < size; available++) {
            /* On the heap, so that a read behind the end is found. */
            uint8_t *cut = malloc(available > 0 ? available : 1);
            assert_non_null(cut);
            memcpy(cut, bytes, available);
            assert_int_equal(cas_record_get_header(&origin, 64, cut, available, &found, &err),
                             -ERR_DATA_LOSS);
            free(cut);
        }
    }
}

static void test_record_header_with_a_flipped_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < FUNCTIONS; i++) {
        struct digest digest = make_digest(functions[i], 0x123456789);
        struct digest found;
        struct err err;
        uint8_t bytes[CAS_RECORD_HEADER_MAX] = {0};
        size_t size = cas_record_header_size(functions[i]);
        cas_record_put_header(&origin, 0x40, &digest, bytes);
        for (size_t bit = 0; bit < 8 * size; bit++) {
            flip(bytes, bit);
            assert_int_equal(
                cas_record_get_header(&origin, 0x40, bytes, sizeof(bytes), &found, &err),
                -ERR_DATA_LOSS);
            flip(bytes, bit);
        }
        assert_int_equal(cas_record_get_header(&origin, 0x40, bytes, size, &found, &err), 0);
    }
}

static void test_record_header_of_elsewhere(void **state)
{
    (void)state;
    struct digest digest = make_digest(DIGEST_SHA256, 100);
    struct digest found;
    struct err err;
    uint8_t bytes[CAS_RECORD_HEADER_MAX];
    size_t size = cas_record_header_size(DIGEST_SHA256);
    cas_record_put_header(&origin, 160, &digest, bytes);
    assert_int_equal(cas_record_get_header(&origin, 160, bytes, size, &found, &err), 0);
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t offset = 160 ^ (uint64_t)1 << bit;
        struct cas_origin other = origin;
        other.segment ^= (uint64_t)1 << bit;
        assert_int_equal(cas_record_get_header(&origin, offset, bytes, size, &found, &err),
                         -ERR_DATA_LOSS);
        assert_int_equal(cas_record_get_header(&other, 160, bytes, size, &found, &err),
                         -ERR_DATA_LOSS);
    }
    for (size_t bit = 0; bit < 128; bit++) {
        struct cas_origin other = origin;
        flip(other.store, bit);
        assert_int_equal(cas_record_get_header(&other, 160, bytes, size, &found, &err),
                         -ERR_DATA_LOSS);
    }
    uint8_t zeros[CAS_RECORD_HEADER_MAX] = {0};
    assert_int_equal(cas_record_get_header(&origin, 160, zeros, sizeof(zeros), &found, &err),
                     -ERR_DATA_LOSS);
}

/* Gives the header at offset 64 the checksum that it should have. */
static void mend_record(uint8_t *bytes, size_t hash_size)
{
    uint64_t offset = 64;
    memset(bytes + 16, 0, 4);
    uint32_t sum = crc32c(0, origin.store, 16);
    sum = crc32c(sum, &origin.segment, 8);
    sum = crc32c(sum, &offset, 8);
    sum = crc32c(sum, bytes, 24 + hash_size);
    memcpy(bytes + 16, &sum, 4);
}

static void test_record_header_that_cannot_be(void **state)
{
    (void)state;
    struct digest digest = make_digest(DIGEST_SHA256, 100);
    struct digest found;
    struct err err;
    uint8_t bytes[256] = {0};
    static const uint64_t sizes[] = {(uint64_t)CAS_BLOB_MAX + 1, (uint64_t)1 << 56,
                                     (uint64_t)INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        cas_record_put_header(&origin, 64, &digest, bytes);
        memcpy(bytes + 8, &sizes[i], 8);
        mend_record(bytes, 32);
        assert_int_equal(cas_record_get_header(&origin, 64, bytes, sizeof(bytes), &found, &err),
                         -ERR_DATA_LOSS);
    }
    /* The same way with a possible size, to see that it is the size that was refused. */
    uint64_t size = (uint64_t)CAS_BLOB_MAX;
    memcpy(bytes + 8, &size, 8);
    mend_record(bytes, 32);
    assert_int_equal(cas_record_get_header(&origin, 64, bytes, sizeof(bytes), &found, &err), 0);
    assert_int_equal(found.size, CAS_BLOB_MAX);
    /* A function with another's hash size, and functions that there are not. */
    for (unsigned function = 0; function < 256; function++) {
        if (function == DIGEST_SHA256)
            continue;
        bytes[4] = (uint8_t)function;
        mend_record(bytes, 32);
        assert_int_equal(cas_record_get_header(&origin, 64, bytes, sizeof(bytes), &found, &err),
                         -ERR_DATA_LOSS);
    }
    bytes[4] = DIGEST_SHA256;
    for (unsigned hash_size = 0; hash_size < 200; hash_size++) {
        bytes[5] = (uint8_t)hash_size;
        mend_record(bytes, hash_size);
        int rc = cas_record_get_header(&origin, 64, bytes, sizeof(bytes), &found, &err);
        assert_int_equal(rc, hash_size == 32 ? 0 : -ERR_DATA_LOSS);
    }
}

/* --- sizes, payload and what stands behind it --- */

static void test_sizes_of_records(void **state)
{
    (void)state;
    static const struct {
        enum digest_function function;
        int64_t size;
        int64_t header;
        int64_t tail;
    } cases[] = {
        {DIGEST_SHA256, 0, 56, 8},
        {DIGEST_SHA1, 0, 44, 4},
        {DIGEST_SHA384, 0, 72, 8},
        {DIGEST_SHA512, 0, 88, 8},
        {DIGEST_SHA256, 1, 56, 4 + 3},
        {DIGEST_SHA256, 3, 56, 4 + 1},
        {DIGEST_SHA256, 4, 56, 4},
        {DIGEST_SHA256, 5, 56, 4 + 15},
        {DIGEST_SHA256, 65535, 56, 4 + 5},
        {DIGEST_SHA256, 65536, 56, 4 + 4},
        {DIGEST_SHA256, 65537, 56, 8 + 15},
        {DIGEST_SHA256, 131072, 56, 8},
        {DIGEST_SHA256, 131073, 56, 12 + 11},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(cas_record_header_size(cases[i].function), cases[i].header);
        assert_int_equal(cas_record_tail_size(cases[i].function, cases[i].size), cases[i].tail);
        assert_int_equal(cas_record_size(cases[i].function, cases[i].size),
                         cases[i].header + cases[i].size + cases[i].tail);
    }
    static const int64_t largest[] = {CAS_BLOB_MAX - CAS_CHUNK, CAS_BLOB_MAX - 1, CAS_BLOB_MAX};
    for (size_t i = 0; i < FUNCTIONS; i++)
        for (size_t j = 0; j < 3; j++) {
            int64_t header = (int64_t)cas_record_header_size(functions[i]);
            int64_t sums = (largest[j] + CAS_CHUNK - 1) / CAS_CHUNK * CAS_SUM;
            int64_t size = cas_record_size(functions[i], largest[j]);
            assert_true(size >= header + largest[j] + sums);
            assert_true(size < header + largest[j] + sums + CAS_ALIGN);
            assert_int_equal(size % CAS_ALIGN, 0);
        }
}

static uint8_t *make_payload(size_t size)
{
    uint8_t *payload = malloc(size > 0 ? size : 1);
    assert_non_null(payload);
    uint32_t random = (uint32_t)size;
    for (size_t i = 0; i < size; i++) {
        random = random * 1664525 + 1013904223;
        payload[i] = (uint8_t)(random >> 24);
    }
    return payload;
}

static const size_t payload_sizes[] = {0,     1,     15,     16,     4096,   65535,
                                       65536, 65537, 131071, 131072, 131073, 200000};
enum { PAYLOAD_SIZES = sizeof(payload_sizes) / sizeof(payload_sizes[0]) };

static void test_tail_round_trips(void **state)
{
    (void)state;
    for (size_t i = 0; i < FUNCTIONS * PAYLOAD_SIZES; i++) {
        size_t size = payload_sizes[i % PAYLOAD_SIZES];
        struct digest digest = make_digest(functions[i / PAYLOAD_SIZES], (int64_t)size);
        size_t tail_size = (size_t)cas_record_tail_size(digest.function, digest.size);
        uint8_t *payload = make_payload(size);
        uint8_t *tail = malloc(tail_size);
        assert_non_null(tail);
        memset(tail, 0xff, tail_size);
        cas_record_put_tail(&digest, payload, tail);
        size_t chunks = (size + CAS_CHUNK - 1) / CAS_CHUNK;
        for (size_t j = 0; j < chunks; j++) {
            size_t begin = j * CAS_CHUNK;
            size_t length = size - begin < CAS_CHUNK ? size - begin : CAS_CHUNK;
            uint32_t sum = crc32c_by_tables(0, digest.hash, digest_hash_size(digest.function));
            sum = crc32c_by_tables(sum, payload + begin, length);
            assert_int_equal(number_at(tail + j * CAS_SUM, CAS_SUM), sum);
            /* Each chunk by itself, and all that are behind it. */
            struct err err;
            assert_int_equal(
                cas_record_verify(&digest, payload + begin, length, tail + j * CAS_SUM, &err), 0);
            assert_int_equal(
                cas_record_verify(&digest, payload + begin, size - begin, tail + j * CAS_SUM, &err),
                0);
        }
        for (size_t j = chunks * CAS_SUM; j < tail_size; j++)
            assert_int_equal(tail[j], 0);
        free(tail);
        free(payload);
    }
}

static void test_sums_in_pieces(void **state)
{
    (void)state;
    struct digest digest = make_digest(DIGEST_SHA256, 70000);
    uint8_t *payload = make_payload(70000);
    uint8_t tail[32];
    cas_record_put_tail(&digest, payload, tail);
    uint32_t sum = cas_sum_begin(&digest);
    for (size_t done = 0; done < CAS_CHUNK; done += 1024)
        sum = cas_sum_add(sum, payload + done, 1024);
    assert_int_equal(number_at(tail, CAS_SUM), sum);
    sum = cas_sum_begin(&digest);
    sum = cas_sum_add(sum, payload + CAS_CHUNK, 1);
    sum = cas_sum_add(sum, payload + CAS_CHUNK + 1, 70000 - CAS_CHUNK - 1);
    assert_int_equal(number_at(tail + CAS_SUM, CAS_SUM), sum);
    free(payload);
}

static void test_damaged_payload(void **state)
{
    (void)state;
    struct err err;
    for (size_t i = 1; i < PAYLOAD_SIZES; i++) {
        size_t size = payload_sizes[i];
        struct digest digest = make_digest(DIGEST_SHA256, (int64_t)size);
        uint8_t *payload = make_payload(size);
        uint8_t tail[64];
        cas_record_put_tail(&digest, payload, tail);
        const size_t places[] = {0, size / 2, size - 1, size > CAS_CHUNK ? CAS_CHUNK - 1 : 0,
                                 size > CAS_CHUNK ? CAS_CHUNK : 0};
        for (size_t bit = 0; bit < 8 * sizeof(places) / sizeof(places[0]); bit++) {
            flip(payload + places[bit / 8], bit % 8);
            assert_int_equal(cas_record_verify(&digest, payload, size, tail, &err), -ERR_DATA_LOSS);
            flip(payload + places[bit / 8], bit % 8);
        }
        size_t chunks = (size + CAS_CHUNK - 1) / CAS_CHUNK;
        for (size_t bit = 0; bit < 8 * CAS_SUM * chunks; bit++) {
            flip(tail, bit);
            assert_int_equal(cas_record_verify(&digest, payload, size, tail, &err), -ERR_DATA_LOSS);
            flip(tail, bit);
        }
        /* Another blob's bytes, with their checksums. */
        struct digest other = digest;
        other.hash[31] ^= 1;
        cas_record_put_tail(&other, payload, tail);
        assert_int_equal(cas_record_verify(&digest, payload, size, tail, &err), -ERR_DATA_LOSS);
        free(payload);
    }
}

/* --- the table of contents --- */

enum { ENTRIES = 5 };

static void put_entries(uint8_t entries[ENTRIES * CAS_CONTENTS_ENTRY])
{
    for (size_t i = 0; i < ENTRIES; i++) {
        struct digest digest = make_digest(functions[i % FUNCTIONS], (int64_t)(i * 1000));
        struct cas_content content = {.offset = CAS_SEGMENT_HEADER + i * 0x12340};
        digest.hash[0] = (uint8_t)i;
        cas_key_of(&digest, &content.key);
        cas_contents_put_entry(&content, entries + i * CAS_CONTENTS_ENTRY);
    }
}

static void test_contents_round_trip(void **state)
{
    (void)state;
    uint8_t entries[ENTRIES * CAS_CONTENTS_ENTRY];
    uint8_t end[CAS_CONTENTS_END];
    uint64_t count = 0;
    struct err err;
    put_entries(entries);
    for (size_t i = 0; i < ENTRIES; i++) {
        const uint8_t *entry = entries + i * CAS_CONTENTS_ENTRY;
        struct digest digest = make_digest(functions[i % FUNCTIONS], (int64_t)(i * 1000));
        struct cas_content content;
        digest.hash[0] = (uint8_t)i;
        assert_memory_equal(entry, digest.hash, CAS_KEY_HASH);
        assert_int_equal(number_at(entry + 16, 8),
                         (uint64_t)digest.size << 8 | (uint64_t)digest.function);
        assert_int_equal(number_at(entry + 24, 8), CAS_SEGMENT_HEADER + i * 0x12340);
        struct cas_key key;
        cas_key_of(&digest, &key);
        cas_contents_get_entry(entry, &content);
        assert_true(cas_key_equal(&content.key, &key));
        assert_int_equal(content.offset, CAS_SEGMENT_HEADER + i * 0x12340);
    }
    for (uint64_t some = 0; some <= ENTRIES; some++) {
        cas_contents_put_end(&origin, entries, some, end);
        assert_int_equal(cas_contents_get_end(&origin, end, &count, &err), 0);
        assert_int_equal(count, some);
        assert_int_equal(cas_contents_verify(end, entries, some, &err), 0);
        assert_int_equal(cas_contents_verify(end, entries, some + 1, &err), -ERR_DATA_LOSS);
    }
    assert_memory_equal(end, "assetdTC", 8);
    assert_memory_equal(end + 8, origin.store, 16);
    assert_int_equal(number_at(end + 24, 8), origin.segment);
    assert_int_equal(number_at(end + 32, 8), ENTRIES);
    assert_int_equal(number_at(end + 40, 4), crc32c_by_tables(0, entries, sizeof(entries)));
    assert_int_equal(number_at(end + 60, 4), crc32c_by_tables(0, end, 60));
}

static void test_damaged_contents(void **state)
{
    (void)state;
    uint8_t entries[ENTRIES * CAS_CONTENTS_ENTRY];
    uint8_t end[CAS_CONTENTS_END];
    uint64_t count;
    struct err err;
    put_entries(entries);
    cas_contents_put_end(&origin, entries, ENTRIES, end);
    for (size_t bit = 0; bit < 8 * sizeof(end); bit++) {
        flip(end, bit);
        assert_int_equal(cas_contents_get_end(&origin, end, &count, &err), -ERR_DATA_LOSS);
        flip(end, bit);
    }
    for (size_t bit = 0; bit < 8 * sizeof(entries); bit++) {
        flip(entries, bit);
        assert_int_equal(cas_contents_verify(end, entries, ENTRIES, &err), -ERR_DATA_LOSS);
        flip(entries, bit);
    }
    struct cas_origin other = origin;
    other.segment++;
    assert_int_equal(cas_contents_get_end(&other, end, &count, &err), -ERR_DATA_LOSS);
    other = origin;
    other.store[0] ^= 1;
    assert_int_equal(cas_contents_get_end(&other, end, &count, &err), -ERR_DATA_LOSS);
    memset(end, 0, sizeof(end));
    assert_int_equal(cas_contents_get_end(&origin, end, &count, &err), -ERR_DATA_LOSS);
}

static void test_contents_that_cannot_be(void **state)
{
    (void)state;
    uint8_t entries[CAS_CONTENTS_ENTRY];
    uint8_t end[CAS_CONTENTS_END];
    uint64_t count;
    struct err err;
    static const struct {
        uint64_t size_function;
        uint64_t offset;
        int rc;
    } cases[] = {
        {DIGEST_SHA256, 64, 0},
        {(uint64_t)CAS_BLOB_MAX << 8 | DIGEST_SHA512, 80, 0},
        {DIGEST_UNKNOWN, 64, -ERR_DATA_LOSS},
        {3, 64, -ERR_DATA_LOSS},
        {255, 64, -ERR_DATA_LOSS},
        {((uint64_t)CAS_BLOB_MAX + 1) << 8 | DIGEST_SHA256, 64, -ERR_DATA_LOSS},
        {UINT64_MAX << 8 | DIGEST_SHA256, 64, -ERR_DATA_LOSS},
        {DIGEST_SHA256, 0, -ERR_DATA_LOSS},
        {DIGEST_SHA256, 48, -ERR_DATA_LOSS},
        {DIGEST_SHA256, 72, -ERR_DATA_LOSS},
        {DIGEST_SHA256, UINT64_MAX - 15, -ERR_DATA_LOSS},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cas_content content = {.key = {.size_function = cases[i].size_function},
                                      .offset = cases[i].offset};
        cas_contents_put_entry(&content, entries);
        cas_contents_put_end(&origin, entries, 1, end);
        assert_int_equal(cas_contents_verify(end, entries, 1, &err), cases[i].rc);
    }
    /* A count whose bytes could not be counted. */
    static const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 59,
                                      (uint64_t)INT64_MAX / CAS_CONTENTS_ENTRY + 1};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        memcpy(end + 32, &counts[i], 8);
        uint32_t sum = crc32c(0, end, 60);
        memcpy(end + 60, &sum, 4);
        assert_int_equal(cas_contents_get_end(&origin, end, &count, &err), -ERR_DATA_LOSS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_tell_digests_apart),
        cmocka_unit_test(test_sizes_that_are_not_stored_have_keys_of_no_blob),
        cmocka_unit_test(test_segment_header),
        cmocka_unit_test(test_segment_header_of_elsewhere),
        cmocka_unit_test(test_record_header_as_it_stands),
        cmocka_unit_test(test_record_header_round_trips),
        cmocka_unit_test(test_record_header_cut_off),
        cmocka_unit_test(test_record_header_with_a_flipped_bit),
        cmocka_unit_test(test_record_header_of_elsewhere),
        cmocka_unit_test(test_record_header_that_cannot_be),
        cmocka_unit_test(test_sizes_of_records),
        cmocka_unit_test(test_tail_round_trips),
        cmocka_unit_test(test_sums_in_pieces),
        cmocka_unit_test(test_damaged_payload),
        cmocka_unit_test(test_damaged_contents),
        cmocka_unit_test(test_contents_round_trip),
        cmocka_unit_test(test_contents_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
