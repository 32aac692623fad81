/* SPDX-License-Identifier: Apache-2.0 */
/* What a CAS has after a kill, a power cut, and damage to its files. */
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/wait.h>

#include "store/cas_private.h"
#include "store/disk.h"
#include "store_blobs.h"

/* Segments have 64 KiB. */
enum { QUOTA = 16 * MIB, BLOBS = 100, BLOB = 5000 };

/* --- making what is recovered --- */

static void put_blobs(struct cas *cas, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        struct digest digest;
        if (put_blob(cas, NULL, BLOB, i, &digest) != ERR_OK)
            abort();
    }
}

/* Fills the store in a process that ends without closing it. */
static void fill_and_die(struct store *store, uint64_t first, uint64_t count)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        store_open(store, QUOTA);
        put_blobs(store->cas, first, count);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void write_at(const struct store *store, const char *path, const void *bytes, size_t size,
                     off_t offset)
{
    char joined[PATH_MAX];
    int fd = open(scratch_path(&store->scratch, path, joined), O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, offset), size);
    assert_int_equal(close(fd), 0);
}

/* The machine has started again since; CLEAN: the store had been closed before. */
static void boot_again(const struct store *store, uint32_t clean)
{
    static const char boot_id[40] = "00000000-another-boot";
    write_at(store, "cas/shared", boot_id, sizeof(boot_id),
             offsetof(struct cas_shared_header, boot_id));
    write_at(store, "cas/shared", &clean, sizeof(clean), offsetof(struct cas_shared_header, clean));
}

static uint32_t rebuilding(const struct store *store)
{
    return atomic_load(&store->cas->shared.header->rebuilding);
}

static void wait_until_rebuilt(const struct store *store)
{
    while (rebuilding(store) != CAS_REBUILT)
        (void)usleep(1000);
}

static void expect_blobs(struct store *store, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        assert_int_equal(get_blob(store->cas, BLOB, i), ERR_OK);
}

/* Path below the folder of the INDEX-th file of a directory, by name. False: there are not so many.
 */
static bool file_in(const struct store *store, const char *directory, size_t index,
                    char path[PATH_MAX])
{
    struct dirent **names;
    char joined[PATH_MAX];
    int count = scandir(scratch_path(&store->scratch, directory, joined), &names, NULL, alphasort);
    assert_true(count >= 2);
    bool is_there_one = index + 2 < (size_t)count; /* behind . and .. */
    if (is_there_one)
        (void)snprintf(path, PATH_MAX, "%s/%s", directory, names[index + 2]->d_name);
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    return is_there_one;
}

static off_t size_of(const struct store *store, const char *path)
{
    char joined[PATH_MAX];
    struct stat st;
    assert_int_equal(stat(scratch_path(&store->scratch, path, joined), &st), 0);
    return st.st_size;
}

/* Closes the store; every file of its log has to end with contents then. */
static void close_and_expect_sealed(struct store *store)
{
    struct cas_origin origin;
    char path[PATH_MAX];
    char joined[PATH_MAX];
    memcpy(origin.store, store->cas->store, sizeof(origin.store));
    store_close(store);
    for (size_t i = 0; file_in(store, "cas/log", i, path); i++) {
        uint8_t end[CAS_CONTENTS_END];
        uint64_t count;
        struct err err;
        off_t size = size_of(store, path);
        origin.segment = strtoull(strrchr(path, '/') + 1, NULL, 16);
        int fd = open(scratch_path(&store->scratch, path, joined), O_RDONLY);
        assert_true(fd >= 0);
        assert_int_equal(pread(fd, end, sizeof(end), size - CAS_CONTENTS_END), sizeof(end));
        assert_int_equal(cas_contents_get_end(&origin, end, &count, &err), 0);
        (void)close(fd);
    }
}

/* --- a disk that is slow, or fails, at reading what segments hold --- */

static atomic_int stop_reads;
static atomic_int reads;
static atomic_int fail_reads;
static _Atomic(struct cas *) closing;

/* The headers that are read at start stand at offset 0. */
static ssize_t test_pread(int fd, void *buffer, size_t size, off_t offset)
{
    struct cas *cas;
    if (offset == 0)
        return pread(fd, buffer, size, offset);
    (void)atomic_fetch_add(&reads, 1);
    while (atomic_load(&stop_reads) != 0 &&
           ((cas = atomic_load(&closing)) == NULL || !atomic_load(&cas->closing)))
        (void)usleep(1000);
    if (atomic_load(&fail_reads) > 0) {
        (void)atomic_fetch_sub(&fail_reads, 1);
        errno = EIO;
        return -1;
    }
    return pread(fd, buffer, size, offset);
}

static int recover_setup(void **state)
{
    atomic_store(&stop_reads, 0);
    atomic_store(&reads, 0);
    atomic_store(&fail_reads, 0);
    atomic_store(&closing, NULL);
    disk.pread = test_pread;
    return store_setup(state);
}

static int recover_teardown(void **state)
{
    atomic_store(&stop_reads, 0);
    int rc = store_teardown(state);
    disk.pread = pread;
    return rc;
}

/* --- tests --- */

static void test_a_kill_loses_nothing(void **state)
{
    struct store *store = *state;
    fill_and_die(store, 0, BLOBS);
    store_open(store, QUOTA);
    assert_int_equal(rebuilding(store), CAS_REBUILT);
    assert_int_equal(stats_of(store->cas).blobs, BLOBS);
    expect_blobs(store, 0, BLOBS);
    /* The open ones were sealed, and the store goes on. */
    put_blobs(store->cas, BLOBS, 20);
    store_close(store);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS + 20);
    assert_int_equal(stats_of(store->cas).blobs, BLOBS + 20);
}

static void test_what_a_killed_writer_was_at_is_cut_off(void **state)
{
    struct store *store = *state;
    char path[PATH_MAX];
    fill_and_die(store, 0, 3);
    assert_true(file_in(store, "cas/log", 0, path));
    off_t size = size_of(store, path);
    write_at(store, path, "half a record", 13, size);
    store_open(store, QUOTA);
    expect_blobs(store, 0, 3);
    put_blobs(store->cas, 3, 3);
    store_reopen(store, QUOTA);
    expect_blobs(store, 0, 6);
}

static void test_a_power_cut_loses_nothing_that_was_written(void **state)
{
    struct store *store = *state;
    fill_and_die(store, 0, BLOBS);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_int_equal(stats_of(store->cas).blobs, BLOBS);
    expect_blobs(store, 0, BLOBS);
    uint64_t bytes = stats_of(store->cas).bytes;
    put_blobs(store->cas, BLOBS, 20);
    assert_true(stats_of(store->cas).bytes > bytes);
    store_reopen(store, QUOTA);
    assert_int_equal(rebuilding(store), CAS_REBUILT);
    expect_blobs(store, 0, BLOBS + 20);
}

static void test_after_a_clean_end_another_boot_is_no_power_cut(void **state)
{
    struct store *store = *state;
    store_open(store, QUOTA);
    put_blobs(store->cas, 0, BLOBS);
    store_close(store);
    boot_again(store, 1);
    atomic_store(&reads, 0);
    store_open(store, QUOTA);
    assert_int_equal(rebuilding(store), CAS_REBUILT);
    assert_int_equal(atomic_load(&reads), 0);
    expect_blobs(store, 0, BLOBS);
    /* From now on it would be one. */
    assert_int_equal(atomic_load(&store->cas->shared.header->clean), 0);
    assert_string_not_equal(store->cas->shared.header->boot_id, "00000000-another-boot");
}

static void test_what_is_not_known_yet_is_neither_there_nor_missing(void **state)
{
    struct store *store = *state;
    struct digest digests[3];
    enum cas_presence presence[3];
    free(make_blob(BLOB, 0, &digests[0]));
    free(make_blob(BLOB, BLOBS - 1, &digests[1]));
    free(make_blob(BLOB, BLOBS, &digests[2]));
    fill_and_die(store, 0, BLOBS);
    boot_again(store, 0);
    atomic_store(&stop_reads, 1);
    store_open(store, QUOTA);
    cas_find_nowait(store->cas, NULL, digests, 3, presence);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(presence[i], CAS_UNVERIFIED);
    assert_int_equal(get_blob(store->cas, BLOB, 0), ERR_UNAVAILABLE);
    /* It can be stored all the same, and is then there. */
    assert_int_equal(put_blob(store->cas, NULL, BLOB, 0, &digests[0]), ERR_OK);
    cas_find_nowait(store->cas, NULL, digests, 1, presence);
    assert_int_equal(presence[0], CAS_PRESENT);
    atomic_store(&stop_reads, 0);
    wait_until_rebuilt(store);
    cas_find_nowait(store->cas, NULL, digests, 3, presence);
    assert_int_equal(presence[0], CAS_PRESENT);
    assert_int_equal(presence[1], CAS_PRESENT);
    assert_int_equal(presence[2], CAS_ABSENT);
    assert_int_equal(stats_of(store->cas).blobs, BLOBS);
    expect_blobs(store, 0, BLOBS);
}

static void test_a_rebuild_that_was_cut_short_is_done_later(void **state)
{
    struct store *store = *state;
    fill_and_die(store, 0, BLOBS);
    boot_again(store, 0);
    /* By a close. */
    atomic_store(&stop_reads, 1);
    store_open(store, QUOTA);
    put_blobs(store->cas, BLOBS, 5);
    while (atomic_load(&reads) == 0)
        (void)usleep(1000);
    atomic_store(&closing, store->cas);
    store_close(store);
    atomic_store(&closing, NULL);
    /* By a kill: this reads nothing and dies. */
    fill_and_die(store, BLOBS + 5, 5);
    /* By a power cut. */
    boot_again(store, 0);
    fill_and_die(store, BLOBS + 10, 5);
    atomic_store(&stop_reads, 0);
    store_open(store, QUOTA);
    assert_int_not_equal(rebuilding(store), CAS_REBUILT);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS + 15);
    assert_int_equal(stats_of(store->cas).blobs, BLOBS + 15);
}

static void test_a_kill_in_the_middle_of_a_segment(void **state)
{
    static const uint32_t filling = CAS_FILLING;
    static const uint32_t sealed = CAS_SEALED;
    struct store *store = *state;
    char path[PATH_MAX];
    fill_and_die(store, 0, 5);
    /* It was trusted again, and its blobs are in the table, but it had not been sealed. */
    assert_true(file_in(store, "cas/log", 0, path));
    uint64_t number = strtoull(strrchr(path, '/') + 1, NULL, 16);
    write_at(store, "cas/shared", &sealed, sizeof(sealed),
             (off_t)(4096 + number % CAS_SEGMENTS_MAX * sizeof(struct cas_segment) +
                     offsetof(struct cas_segment, state)));
    write_at(store, "cas/shared", &filling, sizeof(filling),
             offsetof(struct cas_shared_header, rebuilding));
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, 5);
    close_and_expect_sealed(store);
}

static void test_a_torn_tail_costs_no_more_than_itself(void **state)
{
    enum { RECORDS = 3, TORN_MAX = 32 * KIB };
    struct store *store = *state;
    static uint8_t whole[TORN_MAX];
    char path[PATH_MAX];
    char joined[PATH_MAX];
    fill_and_die(store, 0, RECORDS);
    assert_true(file_in(store, "cas/log", 0, path));
    off_t size = size_of(store, path);
    assert_true(size < TORN_MAX && size > RECORDS * BLOB);
    int fd = open(scratch_path(&store->scratch, path, joined), O_RDWR);
    assert_int_equal(pread(fd, whole, (size_t)size, 0), size);
    int64_t record = cas_record_size(DIGEST_SHA256, BLOB);
    for (off_t end = 0; end <= size; end = end < size && end + 512 > size ? size : end + 512) {
        /* What is behind is missing, or was never written. */
        assert_int_equal(ftruncate(fd, end), 0);
        assert_int_equal(pwrite(fd, whole, (size_t)end, 0), end);
        if (end / 512 % 2 != 0)
            assert_int_equal(ftruncate(fd, size), 0);
        boot_again(store, 0);
        store_open(store, QUOTA);
        wait_until_rebuilt(store);
        for (int i = 0; i < RECORDS; i++) {
            bool is_whole = CAS_SEGMENT_HEADER + (i + 1) * record <= end;
            assert_int_equal(get_blob(store->cas, BLOB, (uint64_t)i),
                             is_whole ? ERR_OK : ERR_NOT_FOUND);
        }
        close_and_expect_sealed(store);
        /* A file with nothing in it was removed. */
        (void)close(fd);
        fd = open(joined, O_RDWR | O_CREAT, 0640);
        assert_true(fd >= 0);
    }
    (void)close(fd);
}

/* Closes the store, damages it, and expects all of it to be there after a rebuild. */
static void expect_no_loss(struct store *store, void (*damage)(struct store *))
{
    put_blobs(store->cas, 0, BLOBS);
    store_close(store);
    damage(store);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_int_equal(stats_of(store->cas).blobs, BLOBS);
    expect_blobs(store, 0, BLOBS);
    /* It was not only read, but repaired. */
    store_close(store);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS);
}

static void damage_contents(struct store *store)
{
    char path[PATH_MAX];
    for (size_t i = 0; file_in(store, "cas/log", i, path); i++)
        /* In the end, in the entries, or all of it is missing. */
        if (i % 3 == 2) {
            char joined[PATH_MAX];
            assert_int_equal(truncate(scratch_path(&store->scratch, path, joined),
                                      size_of(store, path) - CAS_CONTENTS_END),
                             0);
        } else {
            scratch_flip(&store->scratch, path,
                         size_of(store, path) - 1 - (off_t)(i % 3) * CAS_CONTENTS_END);
        }
    boot_again(store, 0);
}

static void test_damaged_contents_are_made_anew(void **state)
{
    struct store *store = *state;
    store_open(store, QUOTA);
    expect_no_loss(store, damage_contents);
}

static void damage_headers(struct store *store)
{
    char path[PATH_MAX];
    for (size_t i = 0; file_in(store, "cas/log", i, path); i++) {
        scratch_flip(&store->scratch, path, (off_t)(i % CAS_SEGMENT_HEADER));
        if (i % 2 == 0) /* with the contents it is not even sealed */
            scratch_flip(&store->scratch, path, size_of(store, path) - 1);
    }
    boot_again(store, 0);
}

static void damage_shared(struct store *store)
{
    scratch_flip(&store->scratch, "cas/shared", 3);
}

static void remove_shared(struct store *store)
{
    char path[PATH_MAX];
    assert_int_equal(unlink(scratch_path(&store->scratch, "cas/shared", path)), 0);
}

static void damage_headers_and_shared(struct store *store)
{
    damage_headers(store);
    remove_shared(store);
}

static void test_damaged_headers_cost_nothing(void **state)
{
    struct store *store = *state;
    char path[PATH_MAX];
    store_open(store, QUOTA);
    expect_no_loss(store, damage_headers);
    store_close(store);
    scratch_remove(scratch_path(&store->scratch, "cas", path));
    store_open(store, QUOTA);
    expect_no_loss(store, damage_headers_and_shared);
}

static void cut_shared(struct store *store)
{
    char path[PATH_MAX];
    assert_int_equal(truncate(scratch_path(&store->scratch, "cas/shared", path), 100), 0);
}

static void scramble_ring(struct store *store)
{
    static uint8_t bytes[8 * KIB];
    memset(bytes, 0xc5, sizeof(bytes));
    write_at(store, "cas/shared", bytes, 4096, 4096);
    boot_again(store, 0);
}

/* A kill came while they were thrown away. */
static void half_empty(struct store *store)
{
    static const uint32_t emptying = CAS_EMPTYING;
    write_at(store, "cas/shared", &emptying, sizeof(emptying),
             offsetof(struct cas_shared_header, rebuilding));
}

static void remove_table_file(struct store *store)
{
    char path[PATH_MAX];
    char joined[PATH_MAX];
    assert_true(file_in(store, "cas/table", 7, path));
    assert_int_equal(unlink(scratch_path(&store->scratch, path, joined)), 0);
}

static void cut_table_file(struct store *store)
{
    char path[PATH_MAX];
    char joined[PATH_MAX];
    assert_true(file_in(store, "cas/table", 63, path));
    assert_int_equal(truncate(scratch_path(&store->scratch, path, joined), 32), 0);
}

static void remove_tables(struct store *store)
{
    char path[PATH_MAX];
    scratch_remove(scratch_path(&store->scratch, "cas/table", path));
}

static void test_damaged_tables_are_made_anew(void **state)
{
    static void (*const damages[])(struct store *) = {
        half_empty,    damage_shared,     remove_shared,  cut_shared,
        scramble_ring, remove_table_file, cut_table_file, remove_tables};
    struct store *store = *state;
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        char path[PATH_MAX];
        store_open(store, QUOTA);
        expect_no_loss(store, damages[i]);
        store_close(store);
        scratch_remove(scratch_path(&store->scratch, "cas", path));
    }
}

static void test_a_power_cut_keeps_the_order_of_use(void **state)
{
    struct store *store = *state;
    struct digest digests[6];
    store_open(store, QUOTA);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, i, &digests[i]), ERR_OK);
    assert_true(is_there(store->cas, &digests[0]));
    store_close(store);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    for (uint64_t i = 4; i < 6; i++)
        assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, i, &digests[i]), ERR_OK);
    bool present[6];
    cas_find(store->cas, NULL, digests, 6, present);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(present[i], i != 1);
    /* Without any ring it is the order in which they were written. */
    store_close(store);
    remove_shared(store);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, 6, &digests[1]), ERR_OK);
    cas_find(store->cas, NULL, digests, 6, present);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(present[i], i != 0);
}

static void test_the_last_of_two_records_counts(void **state)
{
    struct store *store = *state;
    struct digest digest;
    store_open(store, QUOTA);
    put_blobs(store->cas, 0, BLOBS);
    /* In a segment before this one, and in the same. */
    for (uint64_t i = 0; i < BLOBS; i += BLOBS - 1) {
        free(make_blob(BLOB, i, &digest));
        blob_flip(store, &digest, 17);
        assert_int_equal(get_blob(store->cas, BLOB, i), ERR_NOT_FOUND);
        assert_int_equal(put_blob(store->cas, NULL, BLOB, i, &digest), ERR_OK);
    }
    store_close(store);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS);
}

static void test_a_damaged_record_costs_no_other(void **state)
{
    struct store *store = *state;
    char path[PATH_MAX];
    fill_and_die(store, 0, 10);
    assert_true(file_in(store, "cas/log", 0, path));
    int64_t record = cas_record_size(DIGEST_SHA256, BLOB);
    scratch_flip(&store->scratch, path, CAS_SEGMENT_HEADER + 4 * record + 1000);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_int_equal(get_blob(store->cas, BLOB, 4), ERR_NOT_FOUND);
    expect_blobs(store, 0, 4);
    expect_blobs(store, 5, 5);
    /* What is whole is carried elsewhere, and the file goes. */
    while (scratch_exists(&store->scratch, path))
        (void)usleep(1000);
    expect_blobs(store, 5, 5);
}

static void test_a_blob_larger_than_what_is_read_at_once(void **state)
{
    struct store *store = *state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct digest digest;
        store_open(store, QUOTA);
        enum err_code code = put_blob(store->cas, NULL, 3 * MIB + 12345, 0, &digest);
        put_blobs(store->cas, 1, 1);
        _exit(code == ERR_OK ? 0 : 1);
    }
    int status;
    char path[PATH_MAX];
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    /* Its contents may have been written already. */
    for (size_t i = 0; file_in(store, "cas/log", i, path); i++)
        scratch_flip(&store->scratch, path, size_of(store, path) - 1);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_int_equal(get_blob(store->cas, 3 * MIB + 12345, 0), ERR_OK);
    store_close(store);
    /* One bit of it, and it is no record. */
    for (size_t i = 0; file_in(store, "cas/log", i, path); i++)
        if (size_of(store, path) > 3 * MIB) {
            scratch_flip(&store->scratch, path, size_of(store, path) - 1);
            scratch_flip(&store->scratch, path, 2 * MIB + 54321);
        }
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    assert_int_equal(get_blob(store->cas, 3 * MIB + 12345, 0), ERR_NOT_FOUND);
}

static void test_files_and_ring_are_brought_into_agreement(void **state)
{
    struct store *store = *state;
    char first[PATH_MAX];
    char last[PATH_MAX];
    char joined[PATH_MAX];
    struct digest digests[BLOBS];
    for (uint64_t i = 0; i < BLOBS; i++)
        free(make_blob(BLOB, i, &digests[i]));
    store_open(store, QUOTA);
    put_blobs(store->cas, 0, BLOBS);
    uint64_t bytes = stats_of(store->cas).bytes;
    store_close(store);
    assert_true(file_in(store, "cas/log", 0, first));
    assert_true(file_in(store, "cas/log", 5, last));
    /* One was evicted, and its process killed before the file was removed; of one the file is gone.
     */
    uint32_t state_free = CAS_FREE;
    uint64_t number = strtoull(strrchr(first, '/') + 1, NULL, 16);
    write_at(store, "cas/shared", &state_free, sizeof(state_free),
             (off_t)(4096 + number % CAS_SEGMENTS_MAX * sizeof(struct cas_segment) +
                     offsetof(struct cas_segment, state)));
    assert_int_equal(unlink(scratch_path(&store->scratch, last, joined)), 0);
    store_open(store, QUOTA);
    assert_false(scratch_exists(&store->scratch, first));
    assert_true(stats_of(store->cas).bytes < bytes - 2 * 60000);
    size_t missing = 0;
    for (uint64_t i = 0; i < BLOBS; i++)
        missing += !is_there(store->cas, &digests[i]);
    assert_in_range(missing, 20, 30);
    store_close(store);
    /* A file of which a ring that is trusted knows nothing is as good as any other. */
    store_open(store, QUOTA);
    put_blobs(store->cas, 0, BLOBS);
    store_close(store);
    size_t count = 0;
    while (file_in(store, "cas/log", count, last))
        count++;
    number = strtoull(strrchr(last, '/') + 1, NULL, 16);
    const struct cas_segment never = {.state = CAS_FREE};
    write_at(store, "cas/shared", &never, sizeof(never),
             (off_t)(4096 + number % CAS_SEGMENTS_MAX * sizeof(struct cas_segment)));
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS);
}

static void test_a_disk_that_cannot_read_is_asked_again(void **state)
{
    struct store *store = *state;
    char path[PATH_MAX];
    fill_and_die(store, 0, BLOBS);
    boot_again(store, 0);
    atomic_store(&fail_reads, 2);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS);
    store_close(store);
    /* What stays unreadable is not cut off; all else is served. */
    off_t sizes = 0;
    for (size_t i = 0; file_in(store, "cas/log", i, path); i++)
        sizes += size_of(store, path);
    boot_again(store, 0);
    atomic_store(&fail_reads, 4);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    struct digest digest;
    size_t missing = 0;
    for (uint64_t i = 0; i < BLOBS; i++) {
        free(make_blob(BLOB, i, &digest));
        missing += !is_there(store->cas, &digest);
    }
    assert_in_range(missing, 1, 15);
    store_close(store);
    for (size_t i = 0; file_in(store, "cas/log", i, path); i++)
        sizes -= size_of(store, path);
    assert_int_equal(sizes, 0);
    boot_again(store, 0);
    store_open(store, QUOTA);
    wait_until_rebuilt(store);
    expect_blobs(store, 0, BLOBS);
}

static void test_a_full_store_is_rebuilt_within_its_quota(void **state)
{
    enum { MANY = 3000 };
    struct store *store = *state;
    struct digest digest;
    fill_and_die(store, 0, MANY);
    boot_again(store, 0);
    store_open(store, 8 * MIB);
    /* It is written to and evicted from meanwhile. */
    for (uint64_t i = MANY; i < MANY + 200; i++)
        assert_int_equal(put_blob(store->cas, NULL, BLOB, i, &digest), ERR_OK);
    wait_until_rebuilt(store);
    while (stats_of(store->cas).bytes > 8 * MIB)
        (void)usleep(1000);
    expect_blobs(store, MANY, 200);
    expect_blobs(store, MANY - 100, 100);
    assert_int_equal(get_blob(store->cas, BLOB, 0), ERR_NOT_FOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, recover_setup, recover_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_kill_loses_nothing),
        TEST(test_what_a_killed_writer_was_at_is_cut_off),
        TEST(test_a_power_cut_loses_nothing_that_was_written),
        TEST(test_after_a_clean_end_another_boot_is_no_power_cut),
        TEST(test_what_is_not_known_yet_is_neither_there_nor_missing),
        TEST(test_a_rebuild_that_was_cut_short_is_done_later),
        TEST(test_a_kill_in_the_middle_of_a_segment),
        TEST(test_a_torn_tail_costs_no_more_than_itself),
        TEST(test_damaged_contents_are_made_anew),
        TEST(test_damaged_headers_cost_nothing),
        TEST(test_damaged_tables_are_made_anew),
        TEST(test_a_power_cut_keeps_the_order_of_use),
        TEST(test_the_last_of_two_records_counts),
        TEST(test_a_damaged_record_costs_no_other),
        TEST(test_a_blob_larger_than_what_is_read_at_once),
        TEST(test_files_and_ring_are_brought_into_agreement),
        TEST(test_a_disk_that_cannot_read_is_asked_again),
        TEST(test_a_full_store_is_rebuilt_within_its_quota),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
