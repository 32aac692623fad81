/* SPDX-License-Identifier: Apache-2.0 */
/* The table of system calls: errors, short counts, signals, and the faults that tests put there. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "disk_faults.h"
#include "scratch.h"
#include "store/disk.h"

struct site {
    struct scratch scratch;
    int directory;
    int fd;
    struct err err;
};

static int set_up(void **state)
{
    struct site *site = malloc(sizeof(*site));
    char path[PATH_MAX];
    scratch_init(&site->scratch);
    site->directory = open(scratch_path(&site->scratch, ".", path), O_RDONLY | O_DIRECTORY);
    site->fd = disk.openat(site->directory, "file", O_RDWR | O_CREAT | O_EXCL, 0640);
    *state = site;
    return site->directory >= 0 && site->fd >= 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    struct site *site = *state;
    (void)disk_faults_end();
    (void)disk.close(site->fd);
    (void)close(site->directory);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

static void test_mode_of_a_new_file_is_handed_on(void **state)
{
    struct site *site = *state;
    struct stat st;
    mode_t mask = umask(0);
    (void)umask(mask);
    assert_int_equal(fstat(site->fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640 & ~mask);
}

static void test_errors_are_of_the_disk(void **state)
{
    (void)state;
    static const struct {
        int errnum;
        enum err_code code;
    } cases[] = {
        {ENOSPC, ERR_EXHAUSTED}, {EDQUOT, ERR_EXHAUSTED}, {ENOMEM, ERR_NO_MEMORY}, {EIO, ERR_IO},
        {ENOENT, ERR_IO},        {EACCES, ERR_IO},        {EPERM, ERR_IO},         {EMFILE, ERR_IO},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err;
        char expected[ERR_MESSAGE_SIZE];
        (void)snprintf(expected, sizeof(expected), "open 100%% of segment 7: %s",
                       strerror(cases[i].errnum));
        assert_int_equal(disk_fault(&err, cases[i].errnum, "open %s of segment %d", "100%", 7),
                         -(int)cases[i].code);
        assert_int_equal(err.code, cases[i].code);
        assert_string_equal(err.msg, expected);
    }
}

static void fill(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
}

/* Writes 3000 bytes in parts, some of them empty, at offset 10. */
static int write_parts(struct site *site, uint8_t *bytes)
{
    struct iovec parts[] = {
        {bytes, 0}, {bytes, 1},           {bytes + 1, 999},     {bytes + 1000, 0},
        {bytes, 0}, {bytes + 1000, 1000}, {bytes + 2000, 1000}, {bytes + 3000, 0},
    };
    return disk_write(site->fd, parts, sizeof(parts) / sizeof(parts[0]), 10, &site->err);
}

static void assert_written(struct site *site, const uint8_t *bytes)
{
    uint8_t found[3000];
    struct stat st;
    assert_int_equal(fstat(site->fd, &st), 0);
    assert_int_equal(st.st_size, 3010);
    assert_int_equal(pread(site->fd, found, sizeof(found), 10), sizeof(found));
    assert_memory_equal(found, bytes, sizeof(found));
}

static void test_parts_are_written_and_read(void **state)
{
    struct site *site = *state;
    uint8_t bytes[3000];
    uint8_t found[3000];
    fill(bytes, sizeof(bytes));
    disk_faults_begin(DISK_FAULTS_ALL, 0, 0, 0);
    assert_int_equal(write_parts(site, bytes), 0);
    assert_int_equal(disk_faults_count(DISK_FAULTS_WRITE), 1);
    assert_written(site, bytes);
    assert_int_equal(disk_read(site->fd, found, sizeof(found), 10, &site->err), 0);
    assert_memory_equal(found, bytes, sizeof(found));
    /* Nothing to write or to read is no call. */
    struct iovec nothing = {bytes, 0};
    assert_int_equal(disk_write(site->fd, &nothing, 1, 0, &site->err), 0);
    assert_int_equal(disk_write(site->fd, &nothing, 0, 0, &site->err), 0);
    assert_int_equal(disk_read(site->fd, found, 0, 9999, &site->err), 0);
    assert_int_equal(disk_faults_count(DISK_FAULTS_ALL), 2);
}

static size_t step; /* of the calls below, in bytes */

static ssize_t write_little(int fd, const struct iovec *parts, int count, off_t offset)
{
    size_t done = 0;
    for (int i = 0; i < count && done < step; i++) {
        size_t size = parts[i].iov_len < step - done ? parts[i].iov_len : step - done;
        assert_int_equal(pwrite(fd, parts[i].iov_base, size, offset + (off_t)done), size);
        done += size;
    }
    return (ssize_t)done;
}

static ssize_t read_little(int fd, void *buffer, size_t size, off_t offset)
{
    return pread(fd, buffer, size < step ? size : step, offset);
}

static void test_short_counts_go_on(void **state)
{
    struct site *site = *state;
    const struct disk saved = disk;
    uint8_t bytes[3000];
    fill(bytes, sizeof(bytes));
    disk.pwritev = write_little;
    disk.pread = read_little;
    static const size_t steps[] = {1, 7, 999, 1000, 1001, 1999, 2000, 2999, 3000};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        uint8_t found[3000] = {0};
        step = steps[i];
        assert_int_equal(ftruncate(site->fd, 0), 0);
        assert_int_equal(write_parts(site, bytes), 0);
        assert_written(site, bytes);
        assert_int_equal(disk_read(site->fd, found, sizeof(found), 10, &site->err), 0);
        assert_memory_equal(found, bytes, sizeof(found));
    }
    /* A device that takes nothing is an error, not a loop without end. */
    step = 0;
    assert_int_equal(write_parts(site, bytes), -ERR_IO);
    disk = saved;
}

static void test_many_parts_are_written(void **state)
{
    struct site *site = *state;
    enum { PARTS = 2 * IOV_MAX + 3 };
    static uint8_t bytes[PARTS];
    static uint8_t found[PARTS];
    static struct iovec parts[PARTS];
    fill(bytes, sizeof(bytes));
    for (size_t i = 0; i < PARTS; i++)
        parts[i] = (struct iovec){bytes + i, 1};
    assert_int_equal(disk_write(site->fd, parts, PARTS, 0, &site->err), 0);
    assert_int_equal(disk_read(site->fd, found, sizeof(found), 0, &site->err), 0);
    assert_memory_equal(found, bytes, sizeof(found));
}

static void test_signals_are_no_errors(void **state)
{
    struct site *site = *state;
    uint8_t bytes[3000];
    uint8_t found[3000];
    fill(bytes, sizeof(bytes));
    disk_faults_begin(DISK_FAULTS_READ | DISK_FAULTS_WRITE, 1, EINTR, 3);
    assert_int_equal(write_parts(site, bytes), 0);
    assert_int_equal(disk_faults_end(), 3);
    assert_written(site, bytes);
    disk_faults_begin(DISK_FAULTS_READ, 1, EINTR, 2);
    assert_int_equal(disk_read(site->fd, found, sizeof(found), 10, &site->err), 0);
    assert_int_equal(disk_faults_end(), 2);
    assert_memory_equal(found, bytes, sizeof(found));
}

static void test_a_short_file_is_data_loss(void **state)
{
    struct site *site = *state;
    uint8_t bytes[3000];
    fill(bytes, sizeof(bytes));
    assert_int_equal(write_parts(site, bytes), 0);
    assert_int_equal(disk_read(site->fd, bytes, 11, 3000, &site->err), -ERR_DATA_LOSS);
    assert_int_equal(disk_read(site->fd, bytes, 1, 3010, &site->err), -ERR_DATA_LOSS);
    assert_int_equal(disk_read(site->fd, bytes, 10, 3000, &site->err), 0);
}

static int64_t blocks_of(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return (int64_t)st.st_blocks * 512;
}

static void expect_bytes(int fd, const uint8_t *bytes, size_t size)
{
    uint8_t found[5000];
    struct stat st;
    struct err err;
    assert_true(size <= sizeof(found));
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, size);
    assert_int_equal(disk_read(fd, found, size, 0, &err), 0);
    assert_memory_equal(found, bytes, size);
}

static void test_a_file_has_all_its_blocks(void **state)
{
    enum { SIZE = 64 * 1024 };
    struct site *site = *state;
    struct stat st;
    uint8_t bytes[3000];
    uint8_t found[3000];
    fill(bytes, sizeof(bytes));
    assert_int_equal(disk_take_blocks(site->fd, SIZE, &site->err), 0);
    assert_int_equal(fstat(site->fd, &st), 0);
    assert_int_equal(st.st_size, SIZE);
    assert_true(blocks_of(site->fd) >= SIZE);
    /* As a copy may leave it. */
    assert_int_equal(pwrite(site->fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    assert_int_equal(
        fallocate(site->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SIZE / 2, SIZE / 4), 0);
    assert_true(blocks_of(site->fd) < SIZE);
    assert_int_equal(disk_take_blocks(site->fd, SIZE, &site->err), 0);
    assert_true(blocks_of(site->fd) >= SIZE);
    assert_int_equal(disk_read(site->fd, found, sizeof(found), 0, &site->err), 0);
    assert_memory_equal(found, bytes, sizeof(found));
    /* One that has them, and is longer, stays as it is. */
    disk_faults_begin(DISK_FAULTS_ALL, 1, EIO, DISK_FAULTS_FOR_EVER);
    assert_int_equal(disk_take_blocks(site->fd, SIZE / 2, &site->err), 0);
    assert_int_equal(disk_take_blocks(site->fd, 2 * SIZE, &site->err), -ERR_IO);
    assert_int_equal(disk_faults_end(), 1);
    disk_faults_begin(DISK_FAULTS_FALLOCATE, 1, ENOSPC, 1);
    assert_int_equal(disk_take_blocks(site->fd, 2 * SIZE, &site->err), -ERR_EXHAUSTED);
    assert_int_equal(disk_faults_end(), 1);
    assert_int_equal(fstat(site->fd, &st), 0);
    assert_int_equal(st.st_size, SIZE);
}

static void test_a_file_system_that_cannot_take_blocks(void **state)
{
    struct site *site = *state;
    uint8_t bytes[5000] = {0};
    fill(bytes, 100);
    assert_int_equal(pwrite(site->fd, bytes, 100, 0), 100);
    disk_faults_begin(DISK_FAULTS_FALLOCATE, 1, EOPNOTSUPP, DISK_FAULTS_FOR_EVER);
    assert_int_equal(disk_take_blocks(site->fd, sizeof(bytes), &site->err), 0);
    assert_int_equal(disk_faults_end(), 1);
    expect_bytes(site->fd, bytes, sizeof(bytes));
}

static void test_a_failed_call_is_an_error(void **state)
{
    struct site *site = *state;
    uint8_t bytes[3000];
    uint8_t found[1500];
    fill(bytes, sizeof(bytes));
    /* A full disk takes the first half before it says so. */
    disk_faults_begin(DISK_FAULTS_WRITE | DISK_FAULTS_SHORT, 1, ENOSPC, 1);
    assert_int_equal(write_parts(site, bytes), -ERR_EXHAUSTED);
    assert_int_equal(disk_faults_count(DISK_FAULTS_WRITE), 2);
    assert_int_equal(disk_faults_end(), 2);
    struct stat st;
    assert_int_equal(fstat(site->fd, &st), 0);
    assert_int_equal(st.st_size, 10 + 1500);
    assert_int_equal(disk_read(site->fd, found, sizeof(found), 10, &site->err), 0);
    assert_memory_equal(found, bytes, sizeof(found));
    disk_faults_begin(DISK_FAULTS_READ, 1, EIO, 1);
    assert_int_equal(disk_read(site->fd, found, sizeof(found), 10, &site->err), -ERR_IO);
    assert_int_equal(disk_faults_end(), 1);
    assert_int_equal(disk_read(site->fd, found, sizeof(found), 10, &site->err), 0);
}

/* One call of each kind; returns how many failed with EIO, all others must work. */
static unsigned call_all(struct site *site)
{
    unsigned failed = 0;
    uint8_t byte = 1;
    struct iovec part = {&byte, 1};
    int fd = disk.openat(site->directory, "a", O_RDWR | O_CREAT, 0640);
    failed += fd < 0;
    if (fd >= 0)
        assert_int_equal(disk.close(fd), 0);
    failed += disk.pwritev(site->fd, &part, 1, 0) != 1;
    failed += disk.pread(site->fd, &byte, 1, 0) != 1;
    failed += disk.fsync(site->fd) != 0;
    failed += disk.fdatasync(site->fd) != 0;
    failed += disk.syncfs(site->fd) != 0;
    failed += disk.fallocate(site->fd, 0, 0, 10) != 0;
    failed += disk.ftruncate(site->fd, 10) != 0;
    void *mapped = disk.mmap(NULL, 10, PROT_READ, MAP_SHARED, site->fd, 0);
    failed += mapped == MAP_FAILED;
    if (mapped != MAP_FAILED)
        assert_int_equal(disk.munmap(mapped, 10), 0);
    failed += disk.renameat(site->directory, "a", site->directory, "b") != 0;
    failed += disk.unlinkat(site->directory, "b", 0) != 0;
    return failed;
}

static void test_each_call_can_fail(void **state)
{
    struct site *site = *state;
    unsigned nth;
    for (nth = 1;; nth++) {
        scratch_write(&site->scratch, "a", "");
        scratch_write(&site->scratch, "b", "");
        disk_faults_begin(DISK_FAULTS_ALL, nth, EIO, 1);
        unsigned failed = call_all(site);
        assert_int_equal(disk_faults_count(DISK_FAULTS_ALL), DISK_FAULTS_KINDS);
        if (failed == 0)
            break;
        assert_int_equal(failed, 1);
        assert_int_equal(disk_faults_end(), 1);
    }
    assert_int_equal(nth, DISK_FAULTS_KINDS + 1);
    assert_int_equal(disk_faults_end(), 0);
    for (unsigned kind = 0; kind < DISK_FAULTS_KINDS; kind++) {
        scratch_write(&site->scratch, "a", "");
        scratch_write(&site->scratch, "b", "");
        disk_faults_begin(1u << kind, 1, EIO, DISK_FAULTS_FOR_EVER);
        assert_int_equal(call_all(site), 1);
        assert_int_equal(disk_faults_count(1u << kind), 1);
        assert_int_equal(disk_faults_end(), 1);
    }
    scratch_write(&site->scratch, "a", "");
    disk_faults_begin(DISK_FAULTS_ALL, 4, EIO, DISK_FAULTS_FOR_EVER);
    assert_int_equal(call_all(site), DISK_FAULTS_KINDS - 3);
    assert_int_equal(disk_faults_end(), DISK_FAULTS_KINDS - 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_mode_of_a_new_file_is_handed_on, set_up, tear_down),
        cmocka_unit_test(test_errors_are_of_the_disk),
        cmocka_unit_test_setup_teardown(test_parts_are_written_and_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_short_counts_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_parts_are_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_signals_are_no_errors, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_short_file_is_data_loss, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_file_has_all_its_blocks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_file_system_that_cannot_take_blocks, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_failed_call_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_each_call_can_fail, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
