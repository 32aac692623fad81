/* SPDX-License-Identifier: Apache-2.0 */
/* A CAS on a disk that changes bytes, fails or is full: nothing wrong is served, nothing is lost.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "disk_faults.h"
#include "store/cas_space_private.h"
#include "store/disk.h"
#include "store_blobs.h"

static int open_store(void **state)
{
    (void)store_setup(state);
    store_open(*state, 64 * MIB);
    return 0;
}

/* --- damage --- */

static void test_a_flipped_bit_ends_the_blob(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_reader *reader;
    struct err err;
    uint8_t buffer[100];
    const size_t size = 4 * CAS_CHUNK + 100;
    const off_t places[] = {0, 2 * CAS_CHUNK + 9, (off_t)size - 1, (off_t)size + 1, -1, -40};
    const size_t count = sizeof(places) / sizeof(places[0]);
    for (size_t i = 0; i < 2 * count; i++) {
        size_t whole = i < count ? size : 1000; /* one that is read in a run as well */
        off_t place = places[i % count];
        if (i >= count && place > 0)
            place = place == 2 * CAS_CHUNK + 9 ? 500 : place - (off_t)size + 1000;
        assert_int_equal(put_blob(store->cas, NULL, whole, 3, &digest), ERR_OK);
        blob_flip(store, &digest, place);
        assert_int_equal(get_blob(store->cas, whole, 3), ERR_NOT_FOUND);
        assert_false(is_there(store->cas, &digest));
        assert_int_equal(stats_of(store->cas).broken, i + 1);
    }
    /* A reader hands out the chunks that are sound, and no other. */
    assert_int_equal(put_blob(store->cas, NULL, size, 3, &digest), ERR_OK);
    blob_flip(store, &digest, CAS_CHUNK + 1000);
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

static void test_a_short_file_or_a_record_elsewhere_ends_the_blob(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest other;
    char path[PATH_MAX];
    char joined[PATH_MAX];
    assert_int_equal(put_blob(store->cas, NULL, 100000, 1, &digest), ERR_OK);
    off_t begin = blob_place(store, &digest, path);
    assert_int_equal(truncate(scratch_path(&store->scratch, path, joined), begin + 99999), 0);
    assert_int_equal(get_blob(store->cas, 100000, 1), ERR_NOT_FOUND);
    assert_false(is_there(store->cas, &digest));
    /* A sound record in the place of another is none. */
    assert_int_equal(put_blob(store->cas, NULL, 1000, 2, &digest), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 3, &other), ERR_OK);
    uint8_t record[1000];
    off_t header = (off_t)cas_record_header_size(DIGEST_SHA256);
    begin = blob_place(store, &digest, path) - header;
    int fd = open(scratch_path(&store->scratch, path, joined), O_RDWR);
    assert_int_equal(pread(fd, record, sizeof(record), begin), sizeof(record));
    begin = blob_place(store, &other, path) - header;
    assert_int_equal(pwrite(fd, record, sizeof(record), begin), sizeof(record));
    assert_int_equal(close(fd), 0);
    assert_int_equal(get_blob(store->cas, 1000, 3), ERR_NOT_FOUND);
    assert_int_equal(get_blob(store->cas, 1000, 2), ERR_OK);
}

/* Tables know half of a hash; a digest that differs in the other half is another one's all the
 * same. */
static void test_a_made_up_digest_breaks_nothing(void **state)
{
    struct store *store = *state;
    uint8_t buffer[1000];
    struct cas_reader *reader;
    struct err err;
    struct cas_blob blob;
    assert_int_equal(put_blob(store->cas, NULL, sizeof(buffer), 1, &blob.digest), ERR_OK);
    const struct digest sound = blob.digest;
    blob.digest.hash[CAS_KEY_HASH] ^= 1;
    assert_true(is_there(store->cas, &blob.digest)); /* a find knows no better */
    cas_get(store->cas, NULL, &blob, 1, buffer);
    assert_int_equal(blob.err.code, ERR_NOT_FOUND);
    assert_int_equal(cas_reader_open(store->cas, &blob.digest, &reader, &err), 0);
    assert_int_equal(cas_reader_read(reader, 0, buffer, sizeof(buffer), &err), -ERR_NOT_FOUND);
    cas_reader_close(reader);
    assert_int_equal(cas_delete(store->cas, &blob.digest, &err), -ERR_NOT_FOUND);
    /* To verify it tells nothing of the other, be that a suspect. */
    struct cas_found found;
    assert_int_equal(cas_look_up(store->cas, NULL, &sound, &found), CAS_PRESENT);
    assert_true(cas_set_suspect(store->cas, &found, true));
    assert_int_equal(verified_presence_of(store->cas, &blob.digest), CAS_ABSENT);
    assert_int_equal(cas_delete(store->cas, &blob.digest, &err), -ERR_NOT_FOUND);
    assert_int_equal(presence_of(store->cas, &sound), CAS_UNVERIFIED);
    assert_int_equal(verified_presence_of(store->cas, &sound), CAS_PRESENT);
    assert_int_equal(stats_of(store->cas).broken, 0);
    assert_int_equal(get_blob(store->cas, sizeof(buffer), 1), ERR_OK);
    assert_int_equal(cas_delete(store->cas, &sound, &err), 0);
}

/* Gets a batch whose digests 0 and 2 are made up, while those they are like are there as well. */
static void expect_sound_ones(struct cas *cas, const struct digest *digests)
{
    enum { SIZE = 1000 };
    struct cas_blob blobs[4];
    uint8_t buffer[4 * SIZE];
    for (size_t i = 0; i < 4; i++) {
        blobs[i].digest = digests[i];
        blobs[i].digest.hash[CAS_KEY_HASH + i] ^= i % 2 == 0;
    }
    cas_get(cas, NULL, blobs, 4, buffer);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(blobs[i].err.code, i % 2 == 0 ? ERR_NOT_FOUND : ERR_OK);
        assert_int_equal(get_blob(cas, SIZE, i), ERR_OK);
    }
    assert_int_equal(stats_of(cas).broken, 0);
}

static void test_made_up_digests_of_a_batch_cost_the_others_nothing(void **state)
{
    struct store *store = *state;
    struct digest digests[4];
    struct cas *reader;
    struct err err;
    const struct cas_options options = {.path = store->scratch.path, .quota = 64 * MIB};
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put_blob(store->cas, NULL, 1000, i, &digests[i]), ERR_OK);
    expect_sound_ones(store->cas, digests);
    assert_int_equal(cas_open(&options, &reader, &err), 0);
    expect_sound_ones(reader, digests);
    cas_close(reader);
}

/* --- what is moved --- */

/* A blob that moves from one place to another and back whenever its bytes are read. */
static struct moving {
    struct disk disk; /* the real one */
    struct cas *cas;
    struct cas_segment *segment;
    struct cas_key key;
    uint64_t places[2];
    unsigned at;
    unsigned moves;        /* to come */
    unsigned misses;       /* to come then: the segment seems to go */
    _Atomic uint64_t uses; /* when it last seemed so; 0: not now */
    atomic_bool is_over;
} moving;

/* In the test's own thread. */
static _Thread_local bool is_moved_about;

static ssize_t pread_moving(int fd, void *buffer, size_t size, off_t offset)
{
    if (is_moved_about && moving.moves > 0) {
        moving.moves--;
        assert_true(digest_table_move(moving.cas->table, &moving.key, moving.places[moving.at],
                                      moving.places[1 - moving.at]));
        moving.at = 1 - moving.at;
        return 0;
    }
    if (is_moved_about && moving.misses > 0) {
        moving.misses--;
        atomic_store(&moving.segment->state, CAS_LEAVING);
        atomic_store(&moving.uses, atomic_load(&moving.cas->shared.header->counter));
        return 0;
    }
    return moving.disk.pread(fd, buffer, size, offset);
}

/* Decides that it stays, each time that somebody has looked the blob up again. */
static void *let_it_stay(void *argument)
{
    (void)argument;
    while (!atomic_load(&moving.is_over)) {
        uint64_t uses = atomic_load(&moving.uses);
        if (uses != 0 && atomic_load(&moving.cas->shared.header->counter) > uses) {
            atomic_store(&moving.uses, 0);
            atomic_store(&moving.segment->state, CAS_OPEN);
        }
        (void)usleep(100);
    }
    return NULL;
}

static uint64_t place_of(struct cas *cas, const struct digest *digest)
{
    struct cas_found found;
    assert_int_equal(cas_look_up(cas, NULL, digest, &found), CAS_PRESENT);
    return found.place & ~(uint64_t)CAS_PLACE_FLAGS;
}

static void test_what_moves_is_not_lost(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_reader *reader;
    pthread_t thread;
    struct err err;
    uint8_t buffer[1000];
    moving = (struct moving){.disk = disk, .cas = store->cas, .at = 1};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(put_blob(store->cas, NULL, sizeof(buffer), 1, &digest), ERR_OK);
        moving.places[i] = place_of(store->cas, &digest);
        if (i == 0)
            assert_int_equal(cas_delete(store->cas, &digest, &err), 0);
    }
    cas_key_of(&digest, &moving.key);
    moving.segment = segment_of(store->cas, &digest);
    disk.pread = pread_moving;
    is_moved_about = true;
    assert_int_equal(pthread_create(&thread, NULL, let_it_stay, NULL), 0);
    assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
    /* It is there, but cannot be caught. */
    moving.moves = 100;
    assert_int_equal(cas_reader_read(reader, 0, buffer, sizeof(buffer), &err), -ERR_UNAVAILABLE);
    /* After many moves a single miss is not the end of it, nor are some in a row. */
    for (unsigned misses = 1; misses <= 9; misses += 4) {
        moving.moves = 15;
        moving.misses = misses;
        assert_int_equal(cas_reader_read(reader, 0, buffer, sizeof(buffer), &err), 0);
        assert_int_equal(moving.moves + moving.misses, 0);
    }
    /* What is never there is broken. */
    moving.misses = 1000;
    assert_int_equal(cas_reader_read(reader, 0, buffer, sizeof(buffer), &err), -ERR_NOT_FOUND);
    assert_int_equal(stats_of(store->cas).broken, 1);
    is_moved_about = false;
    atomic_store(&moving.is_over, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    cas_reader_close(reader);
    store_close(store);
    disk = moving.disk;
}

/* --- failing disks --- */

static atomic_int fail_reads;
static atomic_int fail_writes; /* this many */
static atomic_int write_error;
static struct disk whole_disk; /* as it was */

static ssize_t failing_pread(int fd, void *buffer, size_t size, off_t offset)
{
    if (atomic_load(&fail_reads) != 0) {
        errno = EIO;
        return -1;
    }
    return whole_disk.pread(fd, buffer, size, offset);
}

static ssize_t failing_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    if (atomic_load(&fail_writes) > 0) {
        atomic_fetch_sub(&fail_writes, 1);
        errno = atomic_load(&write_error);
        return -1;
    }
    return whole_disk.pwritev(fd, parts, count, offset);
}

static int open_failing_store(void **state)
{
    atomic_store(&fail_reads, 0);
    atomic_store(&fail_writes, 0);
    whole_disk = disk;
    disk.pread = failing_pread;
    disk.pwritev = failing_pwritev;
    return open_store(state);
}

static int close_failing_store(void **state)
{
    atomic_store(&fail_reads, 0);
    atomic_store(&fail_writes, 0);
    int rc = store_teardown(state);
    disk = whole_disk;
    return rc;
}

static void test_a_failing_disk_is_an_error_of_the_call(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest second;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    uint64_t before = stats_of(store->cas).bytes;
    off_t length = log_bytes(store);
    atomic_store(&fail_reads, 1);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_IO);
    atomic_store(&fail_reads, 0);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_OK);
    atomic_store(&write_error, EIO);
    atomic_store(&fail_writes, 1);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 2, &second), ERR_IO);
    assert_false(is_there(store->cas, &second));
    assert_int_equal(stats_of(store->cas).bytes, before);
    assert_int_equal(log_bytes(store), length);
    assert_int_equal(put_blob(store->cas, NULL, 1000, 2, &second), ERR_OK);
    assert_int_equal(get_blob(store->cas, 1000, 2), ERR_OK);
}

static void test_what_cannot_be_read_is_not_offered(void **state)
{
    static const size_t wholes[] = {1000, 5 * CAS_CHUNK};
    struct store *store = *state;
    for (size_t i = 0; i < 2; i++) {
        size_t size = wholes[i];
        struct digest digest;
        struct cas_reader *reader;
        struct err err;
        uint8_t buffer[1000];
        assert_int_equal(put_blob(store->cas, NULL, size, 1, &digest), ERR_OK);
        atomic_store(&fail_reads, 1);
        assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
        assert_int_equal(get_blob(store->cas, size, 1), ERR_IO);
        assert_int_equal(presence_of(store->cas, &digest), CAS_UNVERIFIED);
        assert_int_equal(verified_presence_of(store->cas, &digest), CAS_UNVERIFIED);
        assert_false(is_there(store->cas, &digest));
        assert_int_equal(get_blob(store->cas, size, 1), ERR_IO);
        assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), -ERR_IO);
        /* It is still in the store, and found when the disk is well again. */
        assert_int_equal(stats_of(store->cas).blobs, i + 1);
        assert_int_equal(stats_of(store->cas).broken, 0);
        atomic_store(&fail_reads, 0);
        assert_true(is_there(store->cas, &digest));
        assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
        /* If it is not, an upload takes its place, though somebody has it open. */
        assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
        atomic_store(&fail_reads, 1);
        assert_int_equal(cas_reader_read(reader, 0, buffer, 1000, &err), -ERR_IO);
        assert_false(is_there(store->cas, &digest));
        assert_int_equal(put_blob(store->cas, NULL, size, 1, &digest), ERR_OK);
        assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
        assert_int_equal(stats_of(store->cas).blobs, i + 1);
        atomic_store(&fail_reads, 0);
        assert_int_equal(get_blob(store->cas, size, 1), ERR_OK);
        assert_int_equal(cas_reader_read(reader, 0, buffer, 1000, &err), 0);
        cas_reader_close(reader);
    }
}

static void test_a_suspect_that_is_broken_goes(void **state)
{
    struct store *store = *state;
    struct digest digest;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    atomic_store(&fail_reads, 1);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_IO);
    atomic_store(&fail_reads, 0);
    blob_flip(store, &digest, 9);
    assert_int_equal(verified_presence_of(store->cas, &digest), CAS_ABSENT);
    assert_int_equal(stats_of(store->cas).broken, 1);
}

static void test_a_writer_takes_the_place_of_a_suspect(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    uint8_t *data = make_blob(MIB, 1, &digest);
    assert_int_equal(put_bytes(store->cas, NULL, &digest, data, MIB), ERR_OK);
    atomic_store(&fail_reads, 1);
    assert_int_equal(get_blob(store->cas, MIB, 1), ERR_IO);
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, MIB, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), 0);
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
    assert_int_equal(stats_of(store->cas).blobs, 1);
    atomic_store(&fail_reads, 0);
    assert_int_equal(get_blob(store->cas, MIB, 1), ERR_OK);
    free(data);
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
    assert_true(code == ERR_IO || code == ERR_UNAVAILABLE);
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_OK);
}

/* Puts a blob so large that it has a segment for itself, and waits until that is sealed. */
static void put_sealed(struct store *store, uint64_t seed, struct digest *digest)
{
    assert_int_equal(put_blob(store->cas, NULL, 300000, seed, digest), ERR_OK);
    const struct cas_segment *segment = segment_of(store->cas, digest);
    while (atomic_load(&segment->state) != CAS_SEALED)
        (void)usleep(1000);
}

static void test_a_full_disk_costs_one_upload(void **state)
{
    struct store *store = *state;
    struct digest digests[3];
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    atomic_store(&store->cas->space->patience, 10);
    atomic_store(&write_error, ENOSPC);
    /* Nothing to evict. */
    atomic_store(&fail_writes, 1);
    assert_int_equal(put_blob(store->cas, NULL, 300000, 9, &digests[0]), ERR_EXHAUSTED);
    put_sealed(store, 0, &digests[0]);
    put_sealed(store, 1, &digests[1]);
    atomic_store(&store->cas->space->patience, 5000);
    /* Room is made once, by the blob that was used longest ago. */
    atomic_store(&fail_writes, 1);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 2, &digests[2]), ERR_OK);
    assert_false(is_there(store->cas, &digests[0]));
    assert_true(is_there(store->cas, &digests[1]));
    assert_int_equal(get_blob(store->cas, 100000, 2), ERR_OK);
    /* Not more than once. */
    put_sealed(store, 0, &digests[0]);
    uint64_t bytes = stats_of(store->cas).bytes;
    atomic_store(&fail_writes, 2);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 3, &digest), ERR_EXHAUSTED);
    assert_int_equal(atomic_load(&fail_writes), 0);
    assert_true(stats_of(store->cas).bytes <= bytes);
    assert_int_equal(put_blob(store->cas, NULL, 100000, 3, &digest), ERR_OK);
    /* In the middle of a stream. */
    for (uint64_t seed = 10; seed < 16; seed++)
        put_sealed(store, seed, &digest);
    uint8_t *data = make_blob(MIB, 4, &digest);
    assert_int_equal(cas_writer_open(store->cas, &digest, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, 512 * KIB, &err), 0);
    atomic_store(&fail_writes, 1);
    assert_int_equal(cas_writer_append(writer, data + 512 * KIB, 512 * KIB, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), 0);
    assert_int_equal(get_blob(store->cas, MIB, 4), ERR_OK);
    free(data);
}

/* --- each call in turn --- */

static int64_t disk_usage;

static int add_usage(const char *path, const struct stat *st, int type, struct FTW *position)
{
    (void)path;
    (void)type;
    (void)position;
    disk_usage += (int64_t)st->st_blocks * 512;
    return 0;
}

/* What is in cas/ takes no more of the disk than is counted. */
static void check_usage(const struct store *store)
{
    char path[PATH_MAX];
    disk_usage = 0;
    assert_int_equal(nftw(scratch_path(&store->scratch, "cas", path), add_usage, 32, FTW_PHYS), 0);
    assert_true(disk_usage <= (int64_t)stats_of(store->cas).bytes);
}

/* What became of one round of work. */
struct round {
    uint64_t seed;
    bool is_put[4];
};

enum { STREAMED = 600 * KIB };

static const size_t round_sizes[4] = {700, 100 * KIB, 1500, STREAMED};

static bool stream_blob(struct cas *cas, uint64_t seed)
{
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    uint8_t *data = make_blob(STREAMED, seed, &digest);
    bool is_stored = cas_writer_open(cas, &digest, &writer, &err) == 0;
    if (is_stored && cas_writer_append(writer, data, STREAMED / 2, &err) == 0 &&
        cas_writer_append(writer, data + STREAMED / 2, STREAMED / 2, &err) == 0) {
        is_stored = cas_writer_commit(writer, &err) == 0;
    } else if (is_stored) {
        cas_writer_abort(writer);
        is_stored = false;
    }
    free(data);
    return is_stored;
}

static void work(struct store *store, struct round *round)
{
    struct cas_blob blobs[3];
    uint8_t *bytes[3];
    for (size_t i = 0; i < 3; i++) {
        bytes[i] = make_blob(round_sizes[i], round->seed + i, &blobs[i].digest);
        blobs[i].data = (struct span){bytes[i], round_sizes[i]};
    }
    cas_put(store->cas, NULL, blobs, 3);
    for (size_t i = 0; i < 3; i++) {
        round->is_put[i] = blobs[i].err.code == ERR_OK;
        free(bytes[i]);
    }
    round->is_put[3] = stream_blob(store->cas, round->seed + 3);
    for (size_t i = 0; i < 4; i++) {
        struct digest digest;
        enum err_code code = get_blob(store->cas, round_sizes[i], round->seed + i);
        assert_true(code == ERR_OK || code == ERR_NOT_FOUND || code == ERR_IO);
        free(make_blob(round_sizes[i], round->seed + i, &digest));
        (void)verified_presence_of(store->cas, &digest);
    }
}

/* Whatever fails: what was stored is whole, unless it was lost to a sync that failed. */
static void sweep(struct store *store, unsigned kinds, int errnum)
{
    static uint64_t seed = 100;
    for (unsigned nth = 1;; nth++) {
        struct round round = {.seed = seed};
        uint64_t failures = cas_log_failures(store->cas->log);
        seed += 10;
        disk_faults_begin(kinds, nth, errnum, 1);
        work(store, &round);
        unsigned failed = disk_faults_end();
        for (size_t i = 0; i < 4; i++) {
            enum err_code code = get_blob(store->cas, round_sizes[i], round.seed + i);
            if (cas_log_failures(store->cas->log) == failures)
                assert_int_equal(code, round.is_put[i] ? ERR_OK : ERR_NOT_FOUND);
            else
                assert_true(code == ERR_OK || code == ERR_NOT_FOUND);
        }
        check_usage(store);
        if (failed == 0)
            break;
    }
    assert_int_equal(stats_of(store->cas).broken, 0);
}

static void test_each_call_that_fails_is_an_error_and_no_more(void **state)
{
    struct store *store = *state;
    atomic_store(&store->cas->space->patience, 1);
    sweep(store, DISK_FAULTS_ALL, EIO);
    sweep(store, DISK_FAULTS_WRITE | DISK_FAULTS_FALLOCATE, ENOSPC);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, open_store, store_teardown)
#define FAILING_CASE(test) \
    cmocka_unit_test_setup_teardown(test, open_failing_store, close_failing_store)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_flipped_bit_ends_the_blob),
        CASE(test_a_short_file_or_a_record_elsewhere_ends_the_blob),
        CASE(test_a_made_up_digest_breaks_nothing),
        CASE(test_made_up_digests_of_a_batch_cost_the_others_nothing),
        CASE(test_what_moves_is_not_lost),
        FAILING_CASE(test_a_failing_disk_is_an_error_of_the_call),
        FAILING_CASE(test_what_cannot_be_read_is_not_offered),
        FAILING_CASE(test_a_suspect_that_is_broken_goes),
        FAILING_CASE(test_a_writer_takes_the_place_of_a_suspect),
        CASE(test_no_file_descriptor_says_nothing_of_a_blob),
        FAILING_CASE(test_a_full_disk_costs_one_upload),
        CASE(test_each_call_that_fails_is_an_error_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
