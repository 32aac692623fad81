/* SPDX-License-Identifier: Apache-2.0 */
/* A CAS as its callers see it: what is stored is found and read, and nothing else is. */
#include "store_blobs.h"

static int open_store(void **state)
{
    (void)store_setup(state);
    store_open(*state, 64 * MIB);
    return 0;
}

static const size_t sizes[] = {
    1, 100, CAS_CHUNK - 1, CAS_CHUNK, CAS_CHUNK + 1, 3 * CAS_CHUNK, 5 * MIB + 7};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

static void test_put_find_get_delete(void **state)
{
    struct store *store = *state;
    struct digest digests[SIZES];
    struct err err;
    for (size_t i = 0; i < SIZES; i++) {
        free(make_blob(sizes[i], i, &digests[i]));
        assert_false(is_there(store->cas, &digests[i]));
        assert_int_equal(get_blob(store->cas, sizes[i], i), ERR_NOT_FOUND);
        assert_int_equal(put_blob(store->cas, NULL, sizes[i], i, &digests[i]), ERR_OK);
    }
    bool present[SIZES];
    cas_find(store->cas, NULL, digests, SIZES, present);
    for (size_t i = 0; i < SIZES; i++) {
        assert_true(present[i]);
        assert_int_equal(get_blob(store->cas, sizes[i], i), ERR_OK);
    }
    assert_int_equal(stats_of(store->cas).blobs, SIZES);
    assert_int_equal(cas_delete(store->cas, &digests[0], &err), 0);
    assert_int_equal(cas_delete(store->cas, &digests[0], &err), -ERR_NOT_FOUND);
    assert_false(is_there(store->cas, &digests[0]));
    assert_int_equal(get_blob(store->cas, sizes[0], 0), ERR_NOT_FOUND);
    assert_int_equal(stats_of(store->cas).blobs, SIZES - 1);
    assert_int_equal(put_blob(store->cas, NULL, sizes[0], 0, &digests[0]), ERR_OK);
    assert_int_equal(get_blob(store->cas, sizes[0], 0), ERR_OK);
    store_reopen(store, 64 * MIB);
    for (size_t i = 0; i < SIZES; i++)
        assert_int_equal(get_blob(store->cas, sizes[i], i), ERR_OK);
    assert_int_equal(stats_of(store->cas).blobs, SIZES);
}

/* --- batches --- */

enum { MANY = 300 };

/* Blobs of some sizes, and their bytes one behind the other. */
struct many {
    struct cas_blob blobs[MANY];
    uint8_t *bytes[MANY];
    size_t total;
};

static struct many *make_many(size_t (*size_of)(size_t))
{
    struct many *many = calloc(1, sizeof(*many));
    for (size_t i = 0; i < MANY; i++) {
        size_t size = size_of(i);
        many->bytes[i] = make_blob(size, 1000 + i, &many->blobs[i].digest);
        many->blobs[i].data = (struct span){many->bytes[i], size};
        many->total += size;
    }
    return many;
}

static void free_many(struct many *many)
{
    for (size_t i = 0; i < MANY; i++)
        free(many->bytes[i]);
    free(many);
}

/* Some are small, some end runs, and some are larger than any run. */
static size_t mixed_size(size_t index)
{
    if (index % 50 == 49)
        return 100 * 1000 + index;
    return index % 7 == 0 ? 20 * 1000 : 100 + index;
}

/* Reads the blobs of INDICES and compares them. */
static void get_many(struct cas *cas, const struct many *many, const size_t *indices, size_t count)
{
    struct cas_blob *blobs = calloc(count, sizeof(blobs[0]));
    size_t total = 1;
    for (size_t i = 0; i < count; i++) {
        blobs[i].digest = many->blobs[indices[i]].digest;
        total += (size_t)blobs[i].digest.size;
    }
    uint8_t *buffer = malloc(total);
    cas_get(cas, NULL, blobs, count, buffer);
    uint8_t *expected = buffer;
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(blobs[i].err.code, ERR_OK);
        assert_ptr_equal(blobs[i].data.data, expected);
        assert_int_equal(blobs[i].data.size, blobs[i].digest.size);
        assert_memory_equal(blobs[i].data.data, many->bytes[indices[i]], blobs[i].data.size);
        expected += blobs[i].data.size;
    }
    free(buffer);
    free(blobs);
}

static void test_batches_of_all_sizes(void **state)
{
    struct store *store = *state;
    struct many *many = make_many(mixed_size);
    size_t indices[MANY];
    cas_put(store->cas, NULL, many->blobs, MANY);
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(many->blobs[i].err.code, ERR_OK);
    assert_int_equal(stats_of(store->cas).blobs, MANY);
    for (size_t i = 0; i < MANY; i++)
        indices[i] = i;
    get_many(store->cas, many, indices, MANY);
    /* Backwards, some twice, and across each other. */
    for (size_t i = 0; i < MANY; i++)
        indices[i] = MANY - 1 - i;
    get_many(store->cas, many, indices, MANY);
    for (size_t i = 0; i < MANY; i++)
        indices[i] = i * 7 % 100;
    get_many(store->cas, many, indices, MANY);
    free_many(many);
}

static void test_a_miss_or_a_broken_one_costs_the_others_nothing(void **state)
{
    struct store *store = *state;
    struct cas_blob blobs[4];
    uint8_t buffer[400];
    for (uint64_t i = 0; i < 4; i++) {
        free(make_blob(100, i, &blobs[i].digest));
        if (i != 1)
            assert_int_equal(put_blob(store->cas, NULL, 100, i, &blobs[i].digest), ERR_OK);
    }
    blob_flip(store, &blobs[2].digest, 50);
    cas_get(store->cas, NULL, blobs, 4, buffer);
    assert_int_equal(blobs[0].err.code, ERR_OK);
    assert_int_equal(blobs[1].err.code, ERR_NOT_FOUND);
    assert_int_equal(blobs[2].err.code, ERR_NOT_FOUND);
    assert_int_equal(blobs[3].err.code, ERR_OK);
    assert_int_equal(blobs[1].data.size, 0);
    struct digest digest;
    uint8_t *last = make_blob(100, 3, &digest);
    assert_memory_equal(blobs[3].data.data, last, 100);
    free(last);
    assert_int_equal(stats_of(store->cas).broken, 1);
}

static void test_what_comes_twice_in_a_batch_is_stored_once(void **state)
{
    struct store *store = *state;
    struct cas_blob blobs[6];
    struct digest digest;
    uint8_t *bytes = make_blob(1000, 1, &digest);
    for (size_t i = 0; i < 6; i++)
        blobs[i] = (struct cas_blob){.digest = digest, .data = {bytes, 1000}};
    blobs[4].data.size = 999; /* it is for itself that each fails */
    cas_put(store->cas, NULL, blobs, 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(blobs[i].err.code, i == 4 ? ERR_INVALID : ERR_OK);
    assert_int_equal(atomic_load(&segment_of(store->cas, &digest)->records), 1);
    assert_int_equal(stats_of(store->cas).blobs, 1);
    free(bytes);
}

static void test_wrong_content_is_refused(void **state)
{
    struct store *store = *state;
    struct digest digest;
    uint8_t *data = make_blob(1000, 1, &digest);
    struct digest wrong_size = digest;
    wrong_size.size = 999;
    data[10] ^= 1;
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, 1000), ERR_INVALID);
    data[10] ^= 1;
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, 999), ERR_INVALID);
    assert_int_equal(put_bytes(store->cas, NULL, &wrong_size, data, 1000), ERR_INVALID);
    assert_int_equal(put_bytes(store->cas, NULL, &wrong_size, data, 999), ERR_INVALID);
    assert_int_equal(stats_of(store->cas).blobs, 0);
    /* The right hash with another size, or of another function, is another digest. */
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, 1000), ERR_OK);
    assert_false(is_there(store->cas, &wrong_size));
    /* What is there already is verified all the same. */
    data[10] ^= 1;
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, 1000), ERR_INVALID);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_OK);
    free(data);
}

static void test_the_empty_blob_is_always_there(void **state)
{
    static const enum digest_function functions[] = {DIGEST_SHA256, DIGEST_SHA1, DIGEST_SHA384,
                                                     DIGEST_SHA512};
    struct store *store = *state;
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        struct digest digest;
        struct err err;
        uint8_t byte = 7;
        assert_int_equal(digest_compute(functions[i], "", 0, &digest, &err), 0);
        assert_true(is_there(store->cas, &digest));
        struct cas_blob blob = {.digest = digest};
        cas_get(store->cas, NULL, &blob, 1, &byte);
        assert_int_equal(blob.err.code, ERR_OK);
        assert_int_equal(blob.data.size, 0);
        assert_int_equal(put_bytes(store->cas, NULL, &digest, "", 0), ERR_OK);
        struct cas_reader *reader;
        assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
        assert_int_equal(cas_reader_read(reader, 0, &byte, 0, &err), 0);
        cas_reader_close(reader);
        struct cas_writer *writer;
        assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
        assert_int_equal(cas_writer_append(writer, "x", 1, &err), -ERR_INVALID);
        assert_int_equal(cas_writer_commit(writer, &err), 0);
        assert_int_equal(cas_delete(store->cas, &digest, &err), -ERR_NOT_FOUND);
        assert_true(is_there(store->cas, &digest));
    }
    assert_int_equal(stats_of(store->cas).blobs, 0);
}

static void test_other_functions(void **state)
{
    static const enum digest_function functions[] = {DIGEST_SHA1, DIGEST_SHA384, DIGEST_SHA512};
    struct store *store = *state;
    struct digest digests[3];
    for (size_t i = 0; i < 3; i++) {
        struct err err;
        assert_int_equal(digest_compute(functions[i], "text", 4, &digests[i], &err), 0);
        assert_int_equal(put_bytes(store->cas, NULL, &digests[i], "text", 4), ERR_OK);
    }
    store_reopen(store, 64 * MIB);
    for (size_t i = 0; i < 3; i++) {
        uint8_t text[4];
        struct cas_blob blob = {.digest = digests[i]};
        assert_true(is_there(store->cas, &digests[i]));
        cas_get(store->cas, NULL, &blob, 1, text);
        assert_int_equal(blob.err.code, ERR_OK);
        assert_memory_equal(text, "text", 4);
    }
}

static void test_no_blob_has_such_a_size(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    /* The size of one that is there, in the bits that a key has for it. */
    assert_int_equal(put_blob(store->cas, NULL, 10, 1, &digest), ERR_OK);
    const int64_t huge[] = {CAS_BLOB_MAX + 1, ((int64_t)1 << 56) + 10, ((int64_t)1 << 62) + 10,
                            INT64_MAX};
    for (size_t i = 0; i < sizeof(huge) / sizeof(huge[0]); i++) {
        struct cas_reader *reader;
        digest.size = huge[i];
        assert_int_equal(presence_of(store->cas, &digest), CAS_ABSENT);
        assert_int_equal(verified_presence_of(store->cas, &digest), CAS_ABSENT);
        assert_false(is_there(store->cas, &digest));
        assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), -ERR_NOT_FOUND);
        assert_int_equal(cas_delete(store->cas, &digest, &err), -ERR_NOT_FOUND);
        assert_int_equal(put_bytes(store->cas, NULL, &digest, "x", 1), ERR_INVALID);
        assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), -ERR_EXHAUSTED);
    }
    digest.size = CAS_BLOB_MAX;
    assert_false(is_there(store->cas, &digest));
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), -ERR_EXHAUSTED);
    digest.size = 0;
    assert_false(is_there(store->cas, &digest));
}

/* --- writers --- */

static void write_in_pieces(struct store *store, size_t size, size_t piece, uint64_t seed)
{
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    uint8_t *data = make_blob(size, seed, &digest);
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    for (size_t done = 0; done < size;) {
        size_t take = size - done < piece ? size - done : piece;
        assert_int_equal(cas_writer_append(writer, data + done, take, &err), 0);
        assert_false(is_there(store->cas, &digest));
        done += take;
    }
    assert_int_equal(cas_writer_append(writer, "x", 1, &err), -ERR_INVALID);
    assert_int_equal(cas_writer_commit(writer, &err), 0);
    assert_int_equal(get_blob(store->cas, size, seed), ERR_OK);
    free(data);
}

static void test_a_writer_publishes_at_its_end(void **state)
{
    static const size_t pieces[] = {10007, CAS_CHUNK, 300 * 1000, 4 * MIB};
    static const size_t totals[] = {100,           200 * 1000,        256 * KIB,
                                    256 * KIB + 1, 7 * CAS_CHUNK + 9, 3 * MIB};
    struct store *store = *state;
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof(totals) / sizeof(totals[0]); i++)
        for (size_t k = 0; k < sizeof(pieces) / sizeof(pieces[0]); k++)
            write_in_pieces(store, totals[i], pieces[k], seed++);
    assert_int_equal(stats_of(store->cas).blobs, seed - 5);
}

static void test_a_writer_that_fails_leaves_nothing(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    uint8_t *data = make_blob(MIB, 5, &digest);
    /* The first one leaves the empty segment that was begun for it. */
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    uint64_t during = stats_of(store->cas).bytes;
    assert_int_equal(cas_writer_append(writer, data, MIB / 2, &err), 0);
    assert_true(log_bytes(store) > MIB / 2);
    cas_writer_abort(writer);
    assert_int_equal(log_bytes(store), CAS_SEGMENT_HEADER);
    uint64_t before = stats_of(store->cas).bytes;
    assert_true(before < during);
    /* Too short. */
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_int_equal(stats_of(store->cas).bytes, during);
    assert_int_equal(cas_writer_append(writer, data, MIB / 2, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), -ERR_INVALID);
    /* Other bytes. */
    data[MIB - 1] ^= 1;
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, MIB, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), -ERR_INVALID);
    assert_int_equal(log_bytes(store), CAS_SEGMENT_HEADER);
    assert_false(is_there(store->cas, &digest));
    assert_int_equal(stats_of(store->cas).bytes, before);
    /* A small one takes nothing before its end. */
    struct digest small;
    uint8_t *few = make_blob(1000, 6, &small);
    assert_int_equal(cas_writer_open(store->cas, &small, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, few, 999, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), -ERR_INVALID);
    assert_int_equal(stats_of(store->cas).bytes, before);
    assert_int_equal(log_bytes(store), CAS_SEGMENT_HEADER);
    free(few);
    free(data);
}

static void test_two_writers_of_one_blob(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_writer *first;
    struct cas_writer *second;
    struct cas_writer *third;
    struct err err;
    uint8_t *data = make_blob(MIB, 5, &digest);
    assert_int_equal(cas_writer_open(store->cas, &digest, &first, &err), 0);
    assert_int_equal(cas_writer_open(store->cas, &digest, &second, &err), 0);
    assert_int_equal(cas_writer_append(first, data, MIB, &err), 0);
    assert_int_equal(cas_writer_append(second, data, MIB, &err), 0);
    assert_int_equal(cas_writer_commit(first, &err), 0);
    uint64_t after_first = stats_of(store->cas).bytes;
    assert_int_equal(cas_writer_commit(second, &err), 0);
    assert_true(stats_of(store->cas).bytes < after_first);
    assert_int_equal(stats_of(store->cas).blobs, 1);
    /* One that begins when the blob is there takes no room, and is verified. */
    uint64_t before = stats_of(store->cas).bytes;
    assert_int_equal(cas_writer_open(store->cas, &digest, &third, &err), 0);
    assert_int_equal(stats_of(store->cas).bytes, before);
    assert_int_equal(cas_writer_append(third, data, MIB, &err), 0);
    assert_int_equal(cas_writer_commit(third, &err), 0);
    assert_int_equal(cas_writer_open(store->cas, &digest, &third, &err), 0);
    assert_int_equal(cas_writer_append(third, data + 1, MIB - 1, &err), 0);
    assert_int_equal(cas_writer_append(third, data, 1, &err), 0);
    assert_int_equal(cas_writer_commit(third, &err), -ERR_INVALID);
    /* It does not claim to have stored what was removed under it. */
    assert_int_equal(cas_writer_open(store->cas, &digest, &third, &err), 0);
    assert_int_equal(cas_delete(store->cas, &digest, &err), 0);
    assert_int_equal(cas_writer_append(third, data, MIB, &err), 0);
    assert_int_equal(cas_writer_commit(third, &err), -ERR_UNAVAILABLE);
    assert_false(is_there(store->cas, &digest));
    free(data);
}

/* --- readers --- */

static void test_a_reader_reads_any_part(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_reader *reader;
    struct err err;
    const size_t size = 80 * CAS_CHUNK + 99;
    uint8_t *data = make_blob(size, 9, &digest);
    uint8_t *buffer = malloc(size);
    assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), -ERR_NOT_FOUND);
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, size), ERR_OK);
    assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
    const struct {
        size_t offset;
        size_t size;
    } parts[] = {{0, 1},
                 {0, size},
                 {CAS_CHUNK - 1, 2},
                 {CAS_CHUNK, CAS_CHUNK},
                 {70 * CAS_CHUNK + 5, 3 * CAS_CHUNK},
                 {10 * CAS_CHUNK - 1, 9 * CAS_CHUNK + 2},
                 {5, 10},
                 {5, size - 5},
                 {5, size - 6},
                 {60 * CAS_CHUNK, size - 60 * CAS_CHUNK},
                 {size - 1, 1},
                 {size - 99, 98},
                 {size, 0}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        memset(buffer, 0, size);
        assert_int_equal(
            cas_reader_read(reader, (int64_t)parts[i].offset, buffer, parts[i].size, &err), 0);
        assert_memory_equal(buffer, data + parts[i].offset, parts[i].size);
    }
    /* Who reads a blob that is removed goes on. */
    assert_int_equal(cas_delete(store->cas, &digest, &err), 0);
    assert_int_equal(cas_reader_read(reader, 0, buffer, size, &err), 0);
    assert_memory_equal(buffer, data, size);
    cas_reader_close(reader);
    free(buffer);
    free(data);
}

static void test_a_reader_follows_a_blob_that_is_carried(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_reader *reader;
    struct cas_found found;
    struct cas_found copy;
    struct err err;
    uint8_t *data = make_blob(5 * CAS_CHUNK, 9, &digest);
    uint8_t *buffer = malloc(5 * CAS_CHUNK);
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, 5 * CAS_CHUNK), ERR_OK);
    assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
    assert_int_equal(cas_reader_read(reader, 7, buffer, 100, &err), 0);
    (void)cas_look_up(store->cas, NULL, &digest, &found);
    assert_int_equal(cas_delete(store->cas, &digest, &err), 0);
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, 5 * CAS_CHUNK), ERR_OK);
    (void)cas_look_up(store->cas, NULL, &digest, &copy);
    assert_false(cas_place_is_same(found.place, copy.place));
    /* Where it was is gone now. */
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "cas/log/%016llx",
                   (unsigned long long)cas_place_number(found.place));
    scratch_flip(&store->scratch, path, (off_t)cas_place_offset(found.place) + 1000);
    assert_int_equal(cas_reader_read(reader, 7, buffer, 4 * CAS_CHUNK, &err), 0);
    assert_memory_equal(buffer, data + 7, 4 * CAS_CHUNK);
    assert_int_equal(stats_of(store->cas).broken, 0);
    cas_reader_close(reader);
    free(buffer);
    free(data);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, open_store, store_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_put_find_get_delete),
        CASE(test_batches_of_all_sizes),
        CASE(test_a_miss_or_a_broken_one_costs_the_others_nothing),
        CASE(test_what_comes_twice_in_a_batch_is_stored_once),
        CASE(test_wrong_content_is_refused),
        CASE(test_the_empty_blob_is_always_there),
        CASE(test_other_functions),
        CASE(test_no_blob_has_such_a_size),
        CASE(test_a_writer_publishes_at_its_end),
        CASE(test_a_writer_that_fails_leaves_nothing),
        CASE(test_two_writers_of_one_blob),
        CASE(test_a_reader_reads_any_part),
        CASE(test_a_reader_follows_a_blob_that_is_carried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
