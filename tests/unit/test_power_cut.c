/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated power cuts themselves: what must survive always does, what need not, sometimes. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "disk_faults.h"
#include "power_cut.h"
#include "scratch.h"
#include "store/disk.h"

enum { SEEDS = 100, SECTOR = 512, PAYLOAD = 5 * SECTOR + 100 };

struct site {
    struct scratch scratch;
    char recorded[PATH_MAX];
    char target[PATH_MAX];
    int directory; /* of what is recorded */
    struct power_cut *cut;
};

static bool is_mapped(const char *path)
{
    return strncmp(path, "mapped", 6) == 0;
}

static int set_up(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    scratch_init(&site->scratch);
    assert_int_equal(mkdir(scratch_path(&site->scratch, "recorded", site->recorded), 0750), 0);
    (void)scratch_path(&site->scratch, "target", site->target);
    scratch_write(&site->scratch, "recorded/old", "old content");
    site->directory = open(site->recorded, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(site->directory >= 0);
    *state = site;
    return 0;
}

static int set_up_recording(void **state)
{
    int rc = set_up(state);
    struct site *site = *state;
    site->cut = power_cut_begin(site->recorded, is_mapped);
    return rc;
}

static int tear_down(void **state)
{
    struct site *site = *state;
    (void)disk_faults_end();
    if (site->cut != NULL)
        power_cut_end(site->cut);
    (void)close(site->directory);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

static int make(struct site *site, const char *name)
{
    int fd = disk.openat(site->directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    assert_true(fd >= 0);
    return fd;
}

/* Byte AT of what is written in round ROUND; never 0. */
static uint8_t byte_at(size_t at, unsigned round)
{
    return (uint8_t)(1 + (at * 7 + at / SECTOR + round * 31) % 255);
}

static void put(int fd, off_t offset, size_t size, unsigned round)
{
    uint8_t bytes[2 * PAYLOAD];
    assert_true(size <= sizeof(bytes));
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_at((size_t)offset + i, round);
    struct iovec parts[] = {{bytes, size / 3}, {bytes + size / 3, size - size / 3}};
    assert_int_equal(disk.pwritev(fd, parts, 2, offset), size);
}

/* A file as a cut left it. */
struct found {
    bool is_there;
    size_t size;
    uint8_t bytes[4 * PAYLOAD];
};

static void look(struct site *site, const char *name, struct found *found)
{
    char path[PATH_MAX + 32];
    memset(found, 0, sizeof(*found));
    (void)snprintf(path, sizeof(path), "%s/%s", site->target, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    found->is_there = fd >= 0;
    if (fd < 0)
        return;
    ssize_t size = read(fd, found->bytes, sizeof(found->bytes));
    assert_true(size >= 0 && (size_t)size < sizeof(found->bytes));
    found->size = (size_t)size;
    assert_int_equal(close(fd), 0);
}

static void materialise(struct site *site, uint64_t seed, size_t at)
{
    if (access(site->target, F_OK) == 0)
        scratch_remove(site->target);
    assert_int_equal(mkdir(site->target, 0750), 0);
    power_cut_materialise(site->cut, site->target, seed, at);
}

static bool is_round(const struct found *found, size_t begin, size_t end, unsigned round)
{
    for (size_t i = begin; i < end; i++)
        if (i >= found->size || found->bytes[i] != byte_at(i, round))
            return false;
    return true;
}

static bool is_zero(const struct found *found, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (i >= found->size || found->bytes[i] != 0)
            return false;
    return true;
}

/* In how many cuts something was so. */
struct tally {
    unsigned absent, whole, torn, zeros, empty;
};

static void count(const struct found *found, size_t size, struct tally *tally)
{
    if (!found->is_there) {
        tally->absent++;
        return;
    }
    tally->empty += found->size == 0;
    if (found->size == 0)
        return;
    /* Sector by sector what was written, or zeros. */
    for (size_t at = 0; at < found->size; at += SECTOR) {
        size_t end = at + SECTOR < found->size ? at + SECTOR : found->size;
        assert_true(is_round(found, at, end, 0) || is_zero(found, at, end));
    }
    assert_true(found->size <= size);
    if (is_round(found, 0, size, 0))
        tally->whole++;
    else if (found->size == size && is_zero(found, 0, size))
        tally->zeros++;
    else
        tally->torn++;
}

static struct tally try_seeds(struct site *site, const char *name, size_t size, size_t at)
{
    struct tally tally = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct found found;
        materialise(site, seed, at);
        look(site, name, &found);
        count(&found, size, &tally);
    }
    return tally;
}

static void assert_always_whole(struct site *site, const char *name, size_t at)
{
    assert_int_equal(try_seeds(site, name, PAYLOAD, at).whole, SEEDS);
}

static void test_what_is_not_synced_is_sometimes_lost(void **state)
{
    struct site *site = *state;
    int fd = make(site, "file");
    assert_int_equal(disk.fsync(site->directory), 0);
    put(fd, 0, PAYLOAD, 0);
    struct tally tally = try_seeds(site, "file", PAYLOAD, power_cut_events(site->cut));
    assert_int_equal(tally.absent, 0);
    assert_true(tally.whole > 0);
    assert_true(tally.torn > 0);
    assert_true(tally.zeros > 0);
    assert_true(tally.empty > 0);
    assert_int_equal(disk.close(fd), 0);
}

static void test_what_is_synced_is_never_lost(void **state)
{
    struct site *site = *state;
    int (*const syncs[])(int) = {disk.fsync, disk.fdatasync, disk.syncfs};
    for (size_t i = 0; i < 3; i++) {
        const char *const names[] = {"a", "b", "c"};
        int fd = make(site, names[i]);
        put(fd, 0, PAYLOAD, 0);
        size_t before = power_cut_events(site->cut);
        assert_int_equal(syncs[i](fd), 0);
        if (syncs[i] != disk.syncfs)
            assert_int_equal(disk.fsync(site->directory), 0);
        size_t after = power_cut_events(site->cut);
        assert_always_whole(site, names[i], after);
        struct tally tally = try_seeds(site, names[i], PAYLOAD, before);
        assert_true(tally.absent > 0);
        assert_true(tally.whole > 0);
        assert_true(tally.whole < SEEDS - tally.absent);
        assert_int_equal(disk.close(fd), 0);
    }
}

static void test_a_name_needs_a_sync_of_its_directory(void **state)
{
    struct site *site = *state;
    int fd = make(site, "file");
    put(fd, 0, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_int_equal(disk.fsync(fd), 0);
    struct tally tally = try_seeds(site, "file", PAYLOAD, power_cut_events(site->cut));
    assert_true(tally.absent > 0);
    assert_true(tally.whole > 0);
    assert_int_equal(tally.absent + tally.whole, SEEDS);
    assert_int_equal(disk.fsync(site->directory), 0);
    assert_always_whole(site, "file", power_cut_events(site->cut));
    assert_int_equal(disk.close(fd), 0);
}

static void test_an_unlink_may_not_have_been(void **state)
{
    struct site *site = *state;
    int fd = make(site, "file");
    put(fd, 0, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_int_equal(disk.fsync(site->directory), 0);
    assert_int_equal(disk.fsync(site->directory), 0);
    size_t before = power_cut_events(site->cut);
    assert_int_equal(disk.unlinkat(site->directory, "file", 0), 0);
    struct tally tally = try_seeds(site, "file", PAYLOAD, power_cut_events(site->cut));
    assert_true(tally.absent > 0);
    assert_true(tally.whole > 0);
    assert_int_equal(tally.absent + tally.whole, SEEDS);
    /* While it is under way as well. */
    assert_true(try_seeds(site, "file", PAYLOAD, before).absent > 0);
    assert_always_whole(site, "file", before - 1);
    assert_int_equal(disk.fsync(site->directory), 0);
    tally = try_seeds(site, "file", PAYLOAD, power_cut_events(site->cut));
    assert_int_equal(tally.absent, SEEDS);
    assert_int_equal(disk.close(fd), 0);
}

static void test_a_rename_is_old_or_new(void **state)
{
    struct site *site = *state;
    int fd = make(site, "new");
    put(fd, 0, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_int_equal(disk.fsync(site->directory), 0);
    size_t before = power_cut_events(site->cut);
    assert_int_equal(disk.renameat(site->directory, "new", site->directory, "old"), 0);
    size_t after = power_cut_events(site->cut);
    for (size_t at = before; at <= after; at++) {
        unsigned renamed = 0;
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            struct found old_name;
            struct found new_name;
            materialise(site, seed, at);
            look(site, "new", &old_name);
            look(site, "old", &new_name);
            assert_true(new_name.is_there);
            if (old_name.is_there)
                assert_memory_equal(new_name.bytes, "old content", 12);
            assert_true(is_round(old_name.is_there ? &old_name : &new_name, 0, PAYLOAD, 0));
            renamed += !old_name.is_there;
        }
        assert_true(renamed > 0 && renamed < SEEDS);
    }
    assert_int_equal(disk.fsync(site->directory), 0);
    assert_always_whole(site, "old", power_cut_events(site->cut));
    /* The file is followed to its new name. */
    put(fd, PAYLOAD, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_int_equal(try_seeds(site, "old", 2 * PAYLOAD, power_cut_events(site->cut)).whole, SEEDS);
    assert_int_equal(disk.close(fd), 0);
}

static void test_sizes_are_old_or_new(void **state)
{
    struct site *site = *state;
    int fd = make(site, "file");
    assert_int_equal(disk.fsync(site->directory), 0);
    put(fd, 0, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_int_equal(disk.ftruncate(fd, 1000), 0);
    assert_int_equal(disk.fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 3 * PAYLOAD), 0);
    size_t cut = power_cut_events(site->cut);
    assert_int_equal(disk.fallocate(fd, 0, 0, 2 * PAYLOAD), 0);
    size_t grown = power_cut_events(site->cut);
    assert_int_equal(disk.fdatasync(fd), 0);
    size_t synced = power_cut_events(site->cut);
    unsigned sizes[2] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct found found;
        materialise(site, seed, cut - 1);
        look(site, "file", &found);
        assert_true(found.size == 1000 || found.size == PAYLOAD);
        assert_true(is_round(&found, 0, found.size, 0));
        sizes[found.size == 1000]++;
        materialise(site, seed, grown);
        look(site, "file", &found);
        assert_true(found.size == 1000 || found.size == PAYLOAD || found.size == 2 * PAYLOAD);
        materialise(site, seed, synced);
        look(site, "file", &found);
        assert_int_equal(found.size, 2 * PAYLOAD);
        assert_true(is_round(&found, 0, 1000, 0));
        assert_true(is_zero(&found, 1000, 2 * PAYLOAD));
    }
    assert_true(sizes[0] > 0 && sizes[1] > 0);
    assert_int_equal(disk.close(fd), 0);
}

static void test_a_later_write_goes_over_a_synced_one(void **state)
{
    struct site *site = *state;
    int fd = make(site, "file");
    unsigned old = 0;
    unsigned mixed = 0;
    assert_int_equal(disk.fsync(site->directory), 0);
    put(fd, 0, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    put(fd, 0, PAYLOAD, 1);
    size_t at = power_cut_events(site->cut);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct found found;
        unsigned rounds[2] = {0};
        materialise(site, seed, at);
        look(site, "file", &found);
        assert_int_equal(found.size, PAYLOAD);
        for (size_t sector = 0; sector < PAYLOAD; sector += SECTOR) {
            size_t end = sector + SECTOR < PAYLOAD ? sector + SECTOR : PAYLOAD;
            bool is_old = is_round(&found, sector, end, 0);
            assert_true(is_old || is_round(&found, sector, end, 1));
            rounds[!is_old]++;
        }
        old += rounds[1] == 0;
        mixed += rounds[0] > 0 && rounds[1] > 0;
    }
    assert_true(old > 0 && mixed > 0 && old + mixed < SEEDS);
    assert_int_equal(disk.close(fd), 0);
}

static void test_a_failed_sync_is_not_made_good(void **state)
{
    struct site *site = *state;
    int fd = make(site, "file");
    assert_int_equal(disk.fsync(site->directory), 0);
    put(fd, 0, PAYLOAD, 0);
    disk_faults_begin(DISK_FAULTS_FDATASYNC, 1, EIO, 1);
    assert_int_equal(disk.fdatasync(fd), -1);
    assert_int_equal(errno, EIO);
    assert_int_equal(disk.fdatasync(fd), 0);
    struct tally tally = try_seeds(site, "file", PAYLOAD, power_cut_events(site->cut));
    assert_true(tally.whole < SEEDS && tally.torn > 0);
    /* What is written after it is covered by the next. */
    put(fd, 0, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_always_whole(site, "file", power_cut_events(site->cut));
    assert_int_equal(disk.close(fd), 0);
}

static void test_a_failed_call_is_no_event(void **state)
{
    struct site *site = *state;
    uint8_t byte = 1;
    struct iovec part = {&byte, 1};
    int fd = make(site, "file");
    size_t before = power_cut_events(site->cut);
    disk_faults_begin(DISK_FAULTS_ALL & ~DISK_FAULTS_SYNC, 1, EIO, DISK_FAULTS_FOR_EVER);
    assert_int_equal(disk.pwritev(fd, &part, 1, 0), -1);
    assert_int_equal(disk.ftruncate(fd, 5), -1);
    assert_int_equal(disk.fallocate(fd, 0, 0, 5), -1);
    assert_int_equal(disk.unlinkat(site->directory, "file", 0), -1);
    assert_int_equal(disk.renameat(site->directory, "file", site->directory, "other"), -1);
    assert_int_equal(disk.openat(site->directory, "other", O_RDWR | O_CREAT, 0640), -1);
    assert_int_equal(errno, EIO);
    assert_int_equal(disk_faults_end(), 6);
    assert_int_equal(power_cut_events(site->cut), before);
    /* Of a short write only what was written. */
    disk_faults_begin(DISK_FAULTS_WRITE | DISK_FAULTS_SHORT, 1, ENOSPC, 1);
    uint8_t bytes[100];
    memset(bytes, 7, sizeof(bytes));
    part = (struct iovec){bytes, sizeof(bytes)};
    assert_int_equal(disk.pwritev(fd, &part, 1, 0), 50);
    assert_int_equal(disk_faults_end(), 1);
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_int_equal(disk.fsync(site->directory), 0);
    struct found found;
    materialise(site, 1, power_cut_events(site->cut));
    look(site, "file", &found);
    assert_int_equal(found.size, 50);
    assert_memory_equal(found.bytes, bytes, 50);
    assert_int_equal(disk.close(fd), 0);
}

/* Calls below the recording that do something else before they return. */
static struct {
    int fd;
    size_t events;
    struct power_cut *cut;
} within;

static int sync_with_a_write_within(int fd)
{
    if (fd == within.fd)
        put(fd, 0, PAYLOAD, 0);
    return fdatasync(fd);
}

static void test_a_write_after_a_sync_began_is_not_covered(void **state)
{
    struct site *site = *state;
    const struct disk saved = disk;
    disk.fdatasync = sync_with_a_write_within;
    site->cut = power_cut_begin(site->recorded, NULL);
    within.fd = make(site, "file");
    assert_int_equal(disk.fsync(site->directory), 0);
    assert_int_equal(disk.fdatasync(within.fd), 0);
    assert_true(try_seeds(site, "file", PAYLOAD, power_cut_events(site->cut)).whole < SEEDS);
    int fd = within.fd;
    within.fd = -1;
    assert_int_equal(disk.fdatasync(fd), 0);
    assert_always_whole(site, "file", power_cut_events(site->cut));
    assert_int_equal(disk.close(fd), 0);
    power_cut_end(site->cut);
    site->cut = NULL;
    disk = saved;
}

static ssize_t write_with_a_sync_within(int fd, const struct iovec *parts, int part_count,
                                        off_t offset)
{
    ssize_t written = pwritev(fd, parts, part_count, offset);
    assert_int_equal(disk.fdatasync(fd), 0);
    within.events = power_cut_events(within.cut);
    return written;
}

static void test_a_write_under_way_is_not_covered(void **state)
{
    struct site *site = *state;
    const struct disk saved = disk;
    disk.pwritev = write_with_a_sync_within;
    site->cut = power_cut_begin(site->recorded, NULL);
    within.cut = site->cut;
    int fd = make(site, "file");
    assert_int_equal(disk.fsync(site->directory), 0);
    size_t before = power_cut_events(site->cut);
    put(fd, 0, PAYLOAD, 0);
    assert_true(within.events > before && within.events < power_cut_events(site->cut));
    for (size_t at = before; at <= power_cut_events(site->cut); at++) {
        struct tally under_way = try_seeds(site, "file", PAYLOAD, at);
        assert_true(under_way.whole > 0 && under_way.torn > 0 && under_way.empty > 0);
    }
    /* Before it began there is nothing of it. */
    struct tally tally = try_seeds(site, "file", PAYLOAD, before - 1);
    assert_int_equal(tally.absent + tally.empty, SEEDS);
    assert_int_equal(disk.close(fd), 0);
    power_cut_end(site->cut);
    site->cut = NULL;
    disk = saved;
}

static void test_mapped_files(void **state)
{
    struct site *site = *state;
    enum { SIZE = 8 * SECTOR };
    int fd = make(site, "mapped");
    assert_int_equal(disk.fallocate(fd, 0, 0, SIZE), 0);
    assert_int_equal(disk.fsync(site->directory), 0);
    uint8_t *bytes = disk.mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(bytes != MAP_FAILED);
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = byte_at(i, 0);
    size_t unseen = power_cut_events(site->cut);
    size_t at = power_cut_capture(site->cut);
    assert_int_equal(power_cut_capture(site->cut), at);
    struct found found;
    unsigned mixed = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        materialise(site, seed, unseen - 1);
        look(site, "mapped", &found);
        assert_true(found.size == 0 || is_zero(&found, 0, SIZE));
        materialise(site, seed, at);
        look(site, "mapped", &found);
        assert_true(found.size == 0 || found.size == SIZE);
        unsigned written = 0;
        for (size_t sector = 0; sector < found.size; sector += SECTOR) {
            bool is_new = is_round(&found, sector, sector + SECTOR, 0);
            assert_true(is_new || is_zero(&found, sector, sector + SECTOR));
            written += is_new;
        }
        mixed += written > 0 && written < SIZE / SECTOR;
    }
    assert_true(mixed > 0);
    /* A sync takes what is there when it begins, and covers it. */
    assert_int_equal(disk.fdatasync(fd), 0);
    at = power_cut_events(site->cut);
    bytes[SECTOR] ^= 0xff;
    size_t later = power_cut_capture(site->cut);
    assert_int_equal(later, at + 1);
    bytes[SECTOR] ^= 0xff;
    unsigned changed = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        materialise(site, seed, at - 1);
        materialise(site, seed, later);
        look(site, "mapped", &found);
        assert_int_equal(found.size, SIZE);
        changed += !is_round(&found, SECTOR, SECTOR + 1, 0);
        assert_true(is_round(&found, 0, SECTOR, 0));
        assert_true(is_round(&found, SECTOR + 1, SIZE, 0));
    }
    assert_true(changed > 0 && changed < SEEDS);
    assert_int_equal(disk.munmap(bytes, SIZE), 0);
    assert_int_equal(disk.close(fd), 0);
}

static void test_a_file_is_mapped_by_its_later_name(void **state)
{
    struct site *site = *state;
    struct found found;
    int fd = make(site, "new");
    put(fd, 0, SECTOR, 0);
    assert_int_equal(disk.renameat(site->directory, "new", site->directory, "mapped"), 0);
    assert_int_equal(disk.fsync(site->directory), 0);
    uint8_t *bytes = disk.mmap(NULL, SECTOR, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(bytes != MAP_FAILED);
    for (size_t i = 0; i < SECTOR; i++)
        bytes[i] = byte_at(i, 1);
    assert_int_equal(disk.fsync(fd), 0);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        materialise(site, seed, power_cut_events(site->cut));
        look(site, "mapped", &found);
        assert_true(is_round(&found, 0, SECTOR, 1));
    }
    assert_int_equal(disk.munmap(bytes, SECTOR), 0);
    assert_int_equal(disk.close(fd), 0);
}

static void test_what_was_made_without_disk_is_durable(void **state)
{
    struct site *site = *state;
    char path[PATH_MAX];
    struct found found;
    assert_int_equal(mkdir(scratch_path(&site->scratch, "recorded/below", path), 0750), 0);
    scratch_write(&site->scratch, "recorded/below/format", "a format");
    int below = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(below >= 0);
    int fd = disk.openat(below, "file", O_RDWR | O_CREAT, 0640);
    assert_true(fd >= 0);
    put(fd, 0, PAYLOAD, 0);
    assert_int_equal(disk.fdatasync(fd), 0);
    size_t before = power_cut_events(site->cut);
    assert_int_equal(disk.fsync(below), 0);
    assert_always_whole(site, "below/file", power_cut_events(site->cut));
    assert_true(try_seeds(site, "below/file", PAYLOAD, before).absent > 0);
    look(site, "below/format", &found);
    assert_memory_equal(found.bytes, "a format", 9);
    look(site, "old", &found);
    assert_memory_equal(found.bytes, "old content", 12);
    /* At the beginning there is what was there. */
    materialise(site, 3, 0);
    look(site, "old", &found);
    assert_memory_equal(found.bytes, "old content", 12);
    look(site, "below/file", &found);
    assert_false(found.is_there);
    assert_int_equal(disk.close(fd), 0);
    assert_int_equal(close(below), 0);
}

static void test_one_seed_is_one_state(void **state)
{
    struct site *site = *state;
    struct found first;
    struct found second;
    bool differs = false;
    int fd = make(site, "file");
    put(fd, 0, PAYLOAD, 0);
    put(fd, PAYLOAD, PAYLOAD, 0);
    size_t at = power_cut_events(site->cut);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        materialise(site, seed, at);
        look(site, "file", &first);
        materialise(site, seed, at);
        look(site, "file", &second);
        assert_memory_equal(&first, &second, sizeof(first));
        materialise(site, seed + 1, at);
        look(site, "file", &second);
        differs = differs || memcmp(&first, &second, sizeof(first)) != 0;
    }
    assert_true(differs);
    assert_int_equal(disk.close(fd), 0);
}

/* --- many threads: each appends to a file of its own and notes when it was durable --- */

enum { THREADS = 4, APPENDS = 30, APPEND = 700 };

struct appender {
    struct site *site;
    unsigned number;
    char name[16];
    size_t acknowledged[APPENDS]; /* events when append I was known to be durable */
    pthread_t thread;
};

static void *append_all(void *argument)
{
    struct appender *appender = argument;
    struct site *site = appender->site;
    int fd = make(site, appender->name);
    if (disk.fsync(site->directory) != 0)
        abort();
    for (size_t i = 0; i < APPENDS; i++) {
        put(fd, (off_t)(i * APPEND), APPEND, appender->number);
        if (i % 3 == 0 && disk.fdatasync(fd) != 0)
            abort();
        appender->acknowledged[i] = i % 3 == 0 ? power_cut_events(site->cut) : SIZE_MAX;
    }
    if (disk.close(fd) != 0)
        abort();
    return NULL;
}

static void test_threads(void **state)
{
    struct site *site = *state;
    struct appender appenders[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        appenders[i] = (struct appender){.site = site, .number = i};
        (void)snprintf(appenders[i].name, sizeof(appenders[i].name), "file%u", i);
        assert_int_equal(pthread_create(&appenders[i].thread, NULL, append_all, &appenders[i]), 0);
    }
    /* While it goes on as well. */
    materialise(site, 1, power_cut_events(site->cut));
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(appenders[i].thread, NULL), 0);
    unsigned lost = 0;
    for (size_t at = 0; at <= power_cut_events(site->cut); at++) {
        materialise(site, at, at);
        for (unsigned i = 0; i < THREADS; i++) {
            struct {
                size_t size;
                uint8_t bytes[APPENDS * APPEND + 1];
            } found = {0};
            char path[PATH_MAX + 32];
            (void)snprintf(path, sizeof(path), "%s/%s", site->target, appenders[i].name);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            found.size = fd >= 0 ? (size_t)read(fd, found.bytes, sizeof(found.bytes)) : 0;
            if (fd >= 0)
                assert_int_equal(close(fd), 0);
            size_t durable = 0;
            for (size_t j = 0; j < APPENDS; j++)
                if (appenders[i].acknowledged[j] <= at)
                    durable = (j + 1) * APPEND;
            assert_true(found.size >= durable);
            for (size_t j = 0; j < durable; j++)
                assert_int_equal(found.bytes[j], byte_at(j, i));
            lost += durable < APPENDS * APPEND && found.size == durable;
        }
    }
    assert_true(lost > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_not_synced_is_sometimes_lost, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_synced_is_never_lost, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_name_needs_a_sync_of_its_directory, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_an_unlink_may_not_have_been, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_rename_is_old_or_new, set_up_recording, tear_down),
        cmocka_unit_test_setup_teardown(test_sizes_are_old_or_new, set_up_recording, tear_down),
        cmocka_unit_test_setup_teardown(test_a_later_write_goes_over_a_synced_one, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_failed_sync_is_not_made_good, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_failed_call_is_no_event, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_write_after_a_sync_began_is_not_covered, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_write_under_way_is_not_covered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mapped_files, set_up_recording, tear_down),
        cmocka_unit_test_setup_teardown(test_a_file_is_mapped_by_its_later_name, set_up_recording,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_was_made_without_disk_is_durable,
                                        set_up_recording, tear_down),
        cmocka_unit_test_setup_teardown(test_one_seed_is_one_state, set_up_recording, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up_recording, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
