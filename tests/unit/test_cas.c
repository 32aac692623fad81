/* SPDX-License-Identifier: Apache-2.0 */
/* A CAS as its callers see it: what is stored is found and read, and nothing else is. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "store/cas_file.h"
#include "store/cas_table.h"
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
    uint64_t before = stats_of(store->cas).bytes;
    assert_int_equal(cas_delete(store->cas, &digests[0], &err), 0);
    assert_int_equal(cas_delete(store->cas, &digests[0], &err), -ERR_NOT_FOUND);
    assert_false(is_there(store->cas, &digests[0]));
    assert_int_equal(get_blob(store->cas, sizes[0], 0), ERR_NOT_FOUND);
    assert_true(stats_of(store->cas).bytes < before);
}

static void test_batches_are_read_one_behind_the_other(void **state)
{
    struct store *store = *state;
    struct cas_blob blobs[3];
    uint8_t buffer[300];
    struct digest absent;
    assert_int_equal(put_blob(store->cas, NULL, 100, 1, &blobs[0].digest), ERR_OK);
    free(make_blob(100, 2, &absent));
    blobs[1].digest = absent;
    assert_int_equal(put_blob(store->cas, NULL, 100, 3, &blobs[2].digest), ERR_OK);
    cas_get(store->cas, NULL, blobs, 3, buffer);
    assert_int_equal(blobs[0].err.code, ERR_OK);
    assert_int_equal(blobs[1].err.code, ERR_NOT_FOUND);
    assert_int_equal(blobs[2].err.code, ERR_OK);
    struct digest digest;
    uint8_t *third = make_blob(100, 3, &digest);
    assert_memory_equal(blobs[2].data.data, third, 100);
    free(third);
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
    for (size_t i = 0; i < 3; i++)
        assert_true(is_there(store->cas, &digests[i]));
}

static void test_a_writer_publishes_at_its_end(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    const size_t size = 3 * CAS_CHUNK + 17;
    uint8_t *data = make_blob(size, 5, &digest);
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    for (size_t done = 0; done < size;) {
        size_t take = size - done < 10007 ? size - done : 10007;
        assert_int_equal(cas_writer_append(writer, data + done, take, &err), 0);
        assert_false(is_there(store->cas, &digest));
        done += take;
    }
    assert_int_equal(cas_writer_append(writer, "x", 1, &err), -ERR_INVALID);
    assert_int_equal(cas_writer_commit(writer, &err), 0);
    assert_int_equal(get_blob(store->cas, size, 5), ERR_OK);
    free(data);
}

static void test_a_writer_that_fails_leaves_nothing(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    uint64_t before = stats_of(store->cas).bytes;
    uint8_t *data = make_blob(MIB, 5, &digest);
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_true(scratch_exists(&store->scratch, "cas/uploads/0"));
    assert_int_equal(cas_writer_append(writer, data, MIB / 2, &err), 0);
    cas_writer_abort(writer);
    assert_false(scratch_exists(&store->scratch, "cas/uploads/0"));
    /* Too short. */
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, MIB / 2, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), -ERR_INVALID);
    /* Other bytes. */
    data[MIB - 1] ^= 1;
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, MIB, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), -ERR_INVALID);
    assert_false(scratch_exists(&store->scratch, "cas/uploads/1"));
    assert_false(scratch_exists(&store->scratch, "cas/uploads/2"));
    assert_false(is_there(store->cas, &digest));
    assert_int_equal(stats_of(store->cas).bytes, before);
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
                 {5, 10},
                 {size - 1, 1},
                 {size, 0}};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        assert_int_equal(
            cas_reader_read(reader, (int64_t)parts[i].offset, buffer, parts[i].size, &err), 0);
        assert_memory_equal(buffer, data + parts[i].offset, parts[i].size);
    }
    /* Who reads a blob that is removed goes on, and the room counts until the end. */
    uint64_t before = stats_of(store->cas).bytes;
    assert_int_equal(cas_delete(store->cas, &digest, &err), 0);
    assert_int_equal(cas_reader_read(reader, 0, buffer, size, &err), 0);
    assert_memory_equal(buffer, data, size);
    assert_int_equal(stats_of(store->cas).bytes, before);
    cas_reader_close(reader);
    assert_true(stats_of(store->cas).bytes < before);
    free(buffer);
    free(data);
}

static void test_a_flipped_bit_ends_the_blob(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_reader *reader;
    struct err err;
    char path[PATH_MAX];
    uint8_t buffer[100];
    const size_t size = 4 * CAS_CHUNK + 100;
    const off_t places[] = {0, 2 * CAS_CHUNK + 9, (off_t)size - 1, (off_t)size + 1};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        assert_int_equal(put_blob(store->cas, NULL, size, 3, &digest), ERR_OK);
        scratch_flip(&store->scratch, blob_path(&digest, path), places[i]);
        assert_int_equal(get_blob(store->cas, size, 3), ERR_NOT_FOUND);
        assert_false(is_there(store->cas, &digest));
        assert_false(scratch_exists(&store->scratch, path));
        assert_int_equal(stats_of(store->cas).broken, i + 1);
    }
    /* A reader hands out the chunks that are sound, and no other. */
    assert_int_equal(put_blob(store->cas, NULL, size, 3, &digest), ERR_OK);
    scratch_flip(&store->scratch, blob_path(&digest, path), CAS_CHUNK + 1000);
    assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
    assert_int_equal(cas_reader_read(reader, 10, buffer, 100, &err), 0);
    assert_int_equal(cas_reader_read(reader, CAS_CHUNK, buffer, 100, &err), -ERR_NOT_FOUND);
    assert_false(is_there(store->cas, &digest));
    cas_reader_close(reader);
    assert_int_equal(stats_of(store->cas).blobs, 0);
    /* It can be stored again. */
    assert_int_equal(put_blob(store->cas, NULL, size, 3, &digest), ERR_OK);
    assert_int_equal(get_blob(store->cas, size, 3), ERR_OK);
}

static void test_a_short_or_lost_or_swapped_file_ends_the_blob(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest other;
    char path[PATH_MAX];
    char joined[PATH_MAX];
    char other_path[PATH_MAX];
    char other_joined[PATH_MAX];
    assert_int_equal(put_blob(store->cas, NULL, 100000, 1, &digest), ERR_OK);
    scratch_path(&store->scratch, blob_path(&digest, path), joined);
    assert_int_equal(truncate(joined, 99999), 0);
    assert_int_equal(get_blob(store->cas, 100000, 1), ERR_NOT_FOUND);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 1, &digest), ERR_OK);
    assert_int_equal(unlink(joined), 0);
    assert_int_equal(get_blob(store->cas, 100000, 1), ERR_NOT_FOUND);
    assert_false(is_there(store->cas, &digest));
    /* A sound file in the place of another is not what the digest says. */
    assert_int_equal(put_blob(store->cas, NULL, 100000, 1, &digest), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 2, &other), ERR_OK);
    scratch_path(&store->scratch, blob_path(&other, other_path), other_joined);
    assert_int_equal(rename(other_joined, joined), 0);
    assert_int_equal(get_blob(store->cas, 100000, 1), ERR_NOT_FOUND);
}

static void test_an_upload_whose_file_is_gone_gives_its_room_back(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    char path[PATH_MAX];
    uint64_t before = stats_of(store->cas).bytes;
    free(make_blob(MIB, 5, &digest));
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_int_equal(unlink(scratch_path(&store->scratch, "cas/uploads/0", path)), 0);
    cas_writer_abort(writer);
    assert_int_equal(stats_of(store->cas).bytes, before);
}

/* Of those who can store, some may choose what: not to the cost of the others. */
static void test_hashes_that_begin_alike_are_spread(void **state)
{
    enum { COUNT = 4096, LONGEST = 64 };
    (void)state;
    struct cas_table table = {.buckets = NULL};
    struct digest digest = {.function = DIGEST_SHA256, .size = 1};
    struct err err;
    uint64_t random = 1;
    assert_int_equal(cas_table_init(&table, &err), 0);
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t k = 8; k < 32; k += 8) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            memcpy(digest.hash + k, &random, 8);
        }
        assert_null(cas_table_find(&table, &digest));
        cas_table_add(&table, cas_entry_new(&digest));
        assert_non_null(cas_table_find(&table, &digest));
    }
    for (size_t i = 0; i < table.bucket_count; i++) {
        unsigned length = 0;
        for (const struct cas_entry *entry = table.buckets[i]; entry != NULL; entry = entry->chain)
            length++;
        assert_true(length < LONGEST);
    }
    cas_table_fini(&table);
}

/* Failing disks. */

static atomic_int fail_reads;
static atomic_int fail_writes; /* this many */
static atomic_int write_error;

static ssize_t failing_pread(int fd, void *buffer, size_t size, off_t offset)
{
    if (atomic_load(&fail_reads) != 0) {
        errno = EIO;
        return -1;
    }
    return pread(fd, buffer, size, offset);
}

static ssize_t failing_pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
    if (atomic_load(&fail_writes) > 0) {
        atomic_fetch_sub(&fail_writes, 1);
        errno = atomic_load(&write_error);
        return -1;
    }
    /* A short write is none of the caller's business. */
    return pwrite(fd, buffer, size > 1000 ? size / 2 : size, offset);
}

static int open_failing_store(void **state)
{
    atomic_store(&fail_reads, 0);
    atomic_store(&fail_writes, 0);
    cas_disk.pread = failing_pread;
    cas_disk.pwrite = failing_pwrite;
    return open_store(state);
}

static int close_failing_store(void **state)
{
    int rc = store_teardown(state);
    cas_disk.pread = pread;
    cas_disk.pwrite = pwrite;
    return rc;
}

static void test_a_failing_disk_is_an_error_of_the_call(void **state)
{
    struct store *store = *state;
    struct digest digest;
    uint64_t before = stats_of(store->cas).bytes;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    atomic_store(&fail_reads, 1);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_IO);
    atomic_store(&fail_reads, 0);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_OK);
    atomic_store(&write_error, EIO);
    atomic_store(&fail_writes, 1);
    struct digest second;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 2, &second), ERR_IO);
    assert_false(is_there(store->cas, &second));
    struct err err;
    assert_int_equal(cas_delete(store->cas, &digest, &err), 0);
    assert_int_equal(stats_of(store->cas).bytes, before);
}

static enum cas_presence presence_of(struct cas *cas, const struct digest *digest)
{
    enum cas_presence presence;
    cas_find_nowait(cas, NULL, digest, 1, &presence);
    return presence;
}

static void test_what_cannot_be_read_is_not_offered(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_reader *reader;
    struct err err;
    enum cas_presence presence;
    uint8_t buffer[1000];
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    uint64_t bytes = stats_of(store->cas).bytes;
    atomic_store(&fail_reads, 1);
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_IO);
    assert_int_equal(presence_of(store->cas, &digest), CAS_UNVERIFIED);
    cas_find_verified(store->cas, NULL, &digest, 1, &presence);
    assert_int_equal(presence, CAS_UNVERIFIED);
    assert_false(is_there(store->cas, &digest));
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_IO);
    /* It is still in the store, and found when the disk is well again. */
    assert_int_equal(stats_of(store->cas).blobs, 1);
    assert_int_equal(stats_of(store->cas).broken, 0);
    atomic_store(&fail_reads, 0);
    assert_true(is_there(store->cas, &digest));
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
    /* If it is not, an upload takes its place, though somebody has it open. */
    assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
    atomic_store(&fail_reads, 1);
    assert_int_equal(cas_reader_read(reader, 0, buffer, 1000, &err), -ERR_IO);
    assert_false(is_there(store->cas, &digest));
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
    cas_reader_close(reader);
    assert_int_equal(stats_of(store->cas).blobs, 1);
    assert_int_equal(stats_of(store->cas).bytes, bytes);
    atomic_store(&fail_reads, 0);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_OK);
}

static void test_no_file_descriptor_says_nothing_of_a_blob(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct rlimit before;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    const struct rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    enum err_code code = get_blob(store->cas, 1000, 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(code, ERR_IO);
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_OK);
}

static void test_a_full_disk_costs_one_upload(void **state)
{
    struct store *store = *state;
    struct digest digests[3];
    atomic_store(&write_error, ENOSPC);
    /* Nothing to evict. */
    atomic_store(&fail_writes, 1);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 9, &digests[0]), ERR_EXHAUSTED);
    assert_int_equal(put_blob(store->cas, NULL, 200000, 0, &digests[0]), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, 200000, 1, &digests[1]), ERR_OK);
    /* Room is made once, by the blob that was used longest ago. */
    atomic_store(&fail_writes, 1);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 2, &digests[2]), ERR_OK);
    assert_false(is_there(store->cas, &digests[0]));
    assert_true(is_there(store->cas, &digests[1]));
    assert_int_equal(get_blob(store->cas, 100000, 2), ERR_OK);
    /* Not more than once. */
    atomic_store(&fail_writes, 2);
    struct digest digest;
    assert_int_equal(put_blob(store->cas, NULL, 100000, 3, &digest), ERR_EXHAUSTED);
    atomic_store(&fail_writes, 0);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 3, &digest), ERR_OK);
}

/* Threads that put, read and remove the same few blobs; not NULL: something went wrong. */
static void *churn(void *argument)
{
    struct store *store = argument;
    for (uint64_t i = 0; i < 200; i++) {
        struct digest digest;
        struct err err;
        enum err_code code = put_blob(store->cas, NULL, 70000, i % 3, &digest);
        if (code != ERR_OK && code != ERR_UNAVAILABLE)
            return store;
        code = get_blob(store->cas, 70000, (i + 1) % 3);
        if (code != ERR_OK && code != ERR_NOT_FOUND)
            return store;
        if (i % 5 == 0)
            (void)cas_delete(store->cas, &digest, &err);
    }
    return NULL;
}

static void test_threads_on_the_same_blobs(void **state)
{
    struct store *store = *state;
    pthread_t threads[4];
    uint64_t before = stats_of(store->cas).bytes;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, store), 0);
    for (size_t i = 0; i < 4; i++) {
        void *wrong;
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        assert_null(wrong);
    }
    for (uint64_t i = 0; i < 3; i++) {
        struct digest digest;
        struct err err;
        free(make_blob(70000, i, &digest));
        (void)cas_delete(store->cas, &digest, &err);
    }
    assert_int_equal(stats_of(store->cas).blobs, 0);
    assert_int_equal(stats_of(store->cas).broken, 0);
    assert_int_equal(stats_of(store->cas).bytes, before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_put_find_get_delete, open_store, store_teardown),
        cmocka_unit_test_setup_teardown(test_batches_are_read_one_behind_the_other, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_wrong_content_is_refused, open_store, store_teardown),
        cmocka_unit_test_setup_teardown(test_the_empty_blob_is_always_there, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_other_functions, open_store, store_teardown),
        cmocka_unit_test_setup_teardown(test_a_writer_publishes_at_its_end, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_writer_that_fails_leaves_nothing, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_two_writers_of_one_blob, open_store, store_teardown),
        cmocka_unit_test_setup_teardown(test_a_reader_reads_any_part, open_store, store_teardown),
        cmocka_unit_test_setup_teardown(test_a_flipped_bit_ends_the_blob, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_short_or_lost_or_swapped_file_ends_the_blob,
                                        open_store, store_teardown),
        cmocka_unit_test_setup_teardown(test_a_failing_disk_is_an_error_of_the_call,
                                        open_failing_store, close_failing_store),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read_is_not_offered, open_failing_store,
                                        close_failing_store),
        cmocka_unit_test_setup_teardown(test_no_file_descriptor_says_nothing_of_a_blob, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_an_upload_whose_file_is_gone_gives_its_room_back,
                                        open_store, store_teardown),
        cmocka_unit_test(test_hashes_that_begin_alike_are_spread),
        cmocka_unit_test_setup_teardown(test_a_full_disk_costs_one_upload, open_failing_store,
                                        close_failing_store),
        cmocka_unit_test_setup_teardown(test_threads_on_the_same_blobs, open_store, store_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
