/* SPDX-License-Identifier: Apache-2.0 */
/* What the processes of a CAS share: its file, the segments' numbers and states, holds and uses. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "scratch.h"
#include "store/cas_shared.h"
#include "store/disk.h"

#define STORE_ID "0123456789abcdef0123456789abcdef"
#define OTHER_ID "0123456789abcdef0123456789abcdee"

enum { PAGE = 4096, PAGE_SEGMENTS = 64, FILE_SIZE = PAGE + CAS_SEGMENTS_MAX * 64 };

struct site {
    struct scratch scratch;
    struct disk disk; /* the real one */
    int fd;
    struct cas_shared shared;
};

static struct cas_shared open_shared(const struct site *site, bool expect_new)
{
    struct cas_shared shared;
    struct err err;
    bool is_new;
    if (cas_shared_open(site->fd, STORE_ID, true, &shared, &is_new, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(is_new, expect_new);
    return shared;
}

static int setup(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    scratch_init(&site->scratch);
    site->disk = disk;
    site->fd = open(site->scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct err err;
    bool is_new;
    *state = site;
    return cas_shared_open(site->fd, STORE_ID, true, &site->shared, &is_new, &err);
}

static int teardown(void **state)
{
    struct site *site = *state;
    disk = site->disk;
    cas_shared_close(&site->shared);
    (void)close(site->fd);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

static struct cas_segment *begin(struct site *site)
{
    struct cas_segment *segment = NULL;
    struct err err;
    if (cas_segment_begin(&site->shared, &segment, &err) != 0)
        fail_msg("%s", err.msg);
    return segment;
}

/* --- the file --- */

static void test_file_is_kept(void **state)
{
    struct site *site = *state;
    uint64_t use = cas_shared_tick(&site->shared);
    uint64_t number = begin(site)->number;
    assert_int_equal(site->shared.process, -1);
    /* Sparse: not the 16 MiB that there may be. */
    assert_in_range(cas_shared_bytes(&site->shared), PAGE, 64 * 1024);
    struct err err;
    assert_int_equal(cas_shared_sync(&site->shared, &err), 0);
    cas_shared_close(&site->shared);
    site->shared = open_shared(site, false);
    assert_true(cas_shared_tick(&site->shared) > use);
    assert_non_null(cas_segment_find(&site->shared, number));
    assert_false(scratch_exists(&site->scratch, "shared.new"));
}

static void expect_misfit(struct site *site)
{
    struct cas_shared shared;
    struct err err;
    bool is_new;
    assert_int_equal(cas_shared_open(site->fd, STORE_ID, false, &shared, &is_new, &err),
                     -ERR_NOT_FOUND);
    shared = open_shared(site, true);
    assert_null(cas_segment_find(&shared, 1 << CAS_SEGMENT_INDEX_BITS));
    cas_shared_close(&shared);
}

static void test_what_does_not_fit_is_made_anew(void **state)
{
    struct site *site = *state;
    struct err err;
    char path[PATH_MAX];
    (void)scratch_path(&site->scratch, "shared", path);
    /* Who has it mapped keeps it whole. */
    struct cas_segment *mapped = begin(site);
    uint64_t number = mapped->number;
    scratch_flip(&site->scratch, "shared", 3);
    expect_misfit(site);
    assert_int_equal(truncate(path, FILE_SIZE - 1), 0);
    expect_misfit(site);
    assert_int_equal(truncate(path, FILE_SIZE + PAGE), 0);
    expect_misfit(site);
    struct cas_shared other = open_shared(site, false);
    atomic_store(&other.header->capacity, CAS_SEGMENTS_MAX + PAGE_SEGMENTS);
    cas_shared_close(&other);
    expect_misfit(site);
    assert_int_equal(unlink(path), 0);
    expect_misfit(site);
    bool is_new;
    assert_int_equal(cas_shared_open(site->fd, OTHER_ID, true, &other, &is_new, &err), 0);
    assert_true(is_new);
    cas_shared_close(&other);
    expect_misfit(site);
    assert_int_equal(mapped->number, number);
    assert_int_equal(cas_shared_open(site->fd, "0123", true, &other, &is_new, &err), -ERR_INVALID);
}

static void test_lost_blocks_are_taken_again(void **state)
{
    struct site *site = *state;
    int64_t bytes = cas_shared_bytes(&site->shared);
    assert_int_equal(
        fallocate(site->shared.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE), 0);
    assert_true(cas_shared_bytes(&site->shared) < bytes);
    struct cas_shared again = open_shared(site, false);
    assert_int_equal(cas_shared_bytes(&again), bytes);
    cas_shared_close(&again);
}

/* --- failing calls --- */

static int fail_with; /* errno of the calls below */

static int fail_openat(int directory, const char *name, int flags, mode_t mode)
{
    if ((flags & O_CREAT) == 0)
        return openat(directory, name, flags, mode);
    errno = fail_with;
    return -1;
}

static int fail_ftruncate(int fd, off_t size)
{
    (void)fd;
    (void)size;
    errno = fail_with;
    return -1;
}

static int fail_fallocate(int fd, int mode, off_t offset, off_t size)
{
    (void)fd;
    (void)mode;
    (void)offset;
    (void)size;
    errno = fail_with;
    return -1;
}

static ssize_t fail_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    (void)fd;
    (void)parts;
    (void)count;
    (void)offset;
    errno = fail_with;
    return -1;
}

static int fail_fsync(int fd)
{
    (void)fd;
    errno = fail_with;
    return -1;
}

static int fail_renameat(int from, const char *old_name, int to, const char *new_name)
{
    (void)from;
    (void)old_name;
    (void)to;
    (void)new_name;
    errno = fail_with;
    return -1;
}

static void *fail_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    (void)address;
    (void)size;
    (void)protection;
    (void)flags;
    (void)fd;
    (void)offset;
    errno = fail_with;
    return MAP_FAILED;
}

static void expect_failure(struct site *site, int errnum, enum err_code code)
{
    struct cas_shared shared;
    struct err err;
    bool is_new;
    fail_with = errnum;
    assert_int_equal(cas_shared_open(site->fd, OTHER_ID, true, &shared, &is_new, &err), -(int)code);
    disk = site->disk;
    assert_false(scratch_exists(&site->scratch, "shared.new"));
}

static void test_a_failed_open_changes_nothing(void **state)
{
    struct site *site = *state;
    disk.openat = fail_openat;
    expect_failure(site, EACCES, ERR_IO);
    disk.ftruncate = fail_ftruncate;
    expect_failure(site, EIO, ERR_IO);
    disk.fallocate = fail_fallocate;
    expect_failure(site, ENOSPC, ERR_EXHAUSTED);
    disk.pwritev = fail_pwritev;
    expect_failure(site, EDQUOT, ERR_EXHAUSTED);
    disk.fsync = fail_fsync;
    expect_failure(site, EIO, ERR_IO);
    disk.renameat = fail_renameat;
    expect_failure(site, EIO, ERR_IO);
    struct cas_shared shared = open_shared(site, false);
    cas_shared_close(&shared);
    disk.mmap = fail_mmap;
    expect_failure(site, ENOMEM, ERR_NO_MEMORY);
    disk.fsync = fail_fsync;
    fail_with = EIO;
    struct err err;
    assert_int_equal(cas_shared_sync(&site->shared, &err), -ERR_IO);
}

/* --- segments --- */

static void test_begin(void **state)
{
    struct site *site = *state;
    uint64_t before = atomic_load(&site->shared.header->counter);
    struct cas_segment *first = begin(site);
    assert_int_equal(first->state, CAS_OPEN);
    assert_int_equal(first->number >> CAS_SEGMENT_INDEX_BITS, 1);
    assert_int_equal(first->number % CAS_SEGMENTS_MAX, first - site->shared.segments);
    assert_true(first->last_use > before);
    struct cas_segment *second = begin(site);
    assert_ptr_not_equal(first, second);
    assert_true(second->sequence > first->sequence);
    assert_ptr_equal(cas_segment_find(&site->shared, second->number), second);
    assert_null(cas_segment_find(&site->shared, 0));
    assert_null(cas_segment_find(&site->shared, second->number + CAS_SEGMENTS_MAX));

    /* Nothing of the one before is left at an index. */
    uint64_t number = first->number;
    atomic_store(&first->trusted, 1000);
    atomic_store(&first->version, 7);
    atomic_store(&first->flags, CAS_SEGMENT_BROKEN);
    cas_segment_free(first);
    assert_null(cas_segment_find(&site->shared, number));
    struct cas_segment *next = NULL;
    while (next != first) {
        next = begin(site);
        assert_int_not_equal(next->number, number);
    }
    assert_int_equal(next->trusted + next->version + next->flags, 0);
}

static void test_numbers_of_all_indexes_grow_alike(void **state)
{
    struct site *site = *state;
    enum { ROUNDS = 5 };
    for (int i = 0; i < ROUNDS * PAGE_SEGMENTS; i++)
        cas_segment_free(begin(site));
    assert_int_equal(site->shared.header->capacity, PAGE_SEGMENTS);
    for (int i = 0; i < PAGE_SEGMENTS; i++)
        assert_in_range(site->shared.segments[i].number >> CAS_SEGMENT_INDEX_BITS, ROUNDS - 1,
                        ROUNDS + 1);
}

static void test_the_file_grows_when_no_index_is_free(void **state)
{
    struct site *site = *state;
    struct err err;
    struct cas_segment *segment;
    int64_t bytes = cas_shared_bytes(&site->shared);
    for (int i = 0; i < PAGE_SEGMENTS; i++)
        (void)begin(site);
    assert_int_equal(site->shared.header->capacity, PAGE_SEGMENTS);
    disk.fallocate = fail_fallocate;
    fail_with = ENOSPC;
    assert_int_equal(cas_segment_begin(&site->shared, &segment, &err), -ERR_EXHAUSTED);
    assert_int_equal(site->shared.header->capacity, PAGE_SEGMENTS);
    disk = site->disk;
    segment = begin(site);
    assert_true(segment - site->shared.segments >= PAGE_SEGMENTS);
    assert_int_equal(site->shared.header->capacity, 2 * PAGE_SEGMENTS);
    assert_true(cas_shared_bytes(&site->shared) > bytes);
    uint32_t index = 0;
    int count = 0;
    while (cas_segment_next(&site->shared, &index) != NULL)
        count++;
    assert_int_equal(count, PAGE_SEGMENTS + 1);
}

static void test_an_index_without_numbers_is_left(void **state)
{
    struct site *site = *state;
    uint64_t last = ((uint64_t)1 << (CAS_SEGMENT_NUMBER_BITS - CAS_SEGMENT_INDEX_BITS)) - 1;
    for (uint64_t i = 0; i < PAGE_SEGMENTS; i++)
        atomic_store(&site->shared.segments[i].number,
                     (i == 5 ? last - 1 : last) << CAS_SEGMENT_INDEX_BITS | i);
    struct cas_segment *segment = begin(site);
    assert_int_equal(segment->number, last << CAS_SEGMENT_INDEX_BITS | 5);
    assert_int_equal(cas_place_number(cas_place(segment->number, 64)), segment->number);
    cas_segment_free(segment);
    assert_int_equal(begin(site)->number >> CAS_SEGMENT_INDEX_BITS, 1);
    assert_int_equal(site->shared.header->capacity, 2 * PAGE_SEGMENTS);
}

static void test_adopt(void **state)
{
    struct site *site = *state;
    struct err err;
    struct cas_segment *segment;
    uint64_t number = (uint64_t)9 << CAS_SEGMENT_INDEX_BITS | 200;
    assert_int_equal(cas_segment_adopt(&site->shared, number, &segment, &err), 0);
    assert_int_equal(site->shared.header->capacity, 4 * PAGE_SEGMENTS);
    assert_int_equal(segment->state, CAS_SEALED);
    assert_int_equal(segment->trusted, 0);
    assert_int_equal(segment->last_use, 0);
    assert_ptr_equal(cas_segment_find(&site->shared, number), segment);
    /* One that is there, and one that is older than what was. */
    assert_int_equal(cas_segment_adopt(&site->shared, number, &segment, &err), -ERR_PRECONDITION);
    cas_segment_free(segment);
    assert_int_equal(cas_segment_adopt(&site->shared, number - CAS_SEGMENTS_MAX, &segment, &err),
                     -ERR_PRECONDITION);
    assert_int_equal(cas_segment_adopt(&site->shared, number, &segment, &err), 0);
    assert_int_equal(cas_segment_adopt(&site->shared, 200, &segment, &err), -ERR_INVALID);
    number |= (uint64_t)1 << CAS_SEGMENT_NUMBER_BITS;
    assert_int_equal(cas_segment_adopt(&site->shared, number, &segment, &err), -ERR_INVALID);
    disk.fallocate = fail_fallocate;
    fail_with = EIO;
    number = (uint64_t)1 << CAS_SEGMENT_INDEX_BITS | (CAS_SEGMENTS_MAX - 1);
    assert_int_equal(cas_segment_adopt(&site->shared, number, &segment, &err), -ERR_IO);
}

static void test_trusted_places(void **state)
{
    struct site *site = *state;
    struct cas_segment *segment = begin(site);
    uint64_t place = cas_place(segment->number, 64) | CAS_PLACE_USED;
    assert_false(cas_place_is_trusted(&site->shared, place, 0));
    atomic_store(&segment->trusted, 164);
    assert_true(cas_place_is_trusted(&site->shared, place, 100));
    assert_false(cas_place_is_trusted(&site->shared, place, 101));
    assert_false(cas_place_is_trusted(&site->shared, place, INT64_MAX));
    assert_false(cas_place_is_trusted(&site->shared, place, -1));
    assert_false(cas_place_is_trusted(&site->shared, cas_place(segment->number, 176), 0));
    assert_false(cas_place_is_trusted(&site->shared,
                                      cas_place(segment->number + CAS_SEGMENTS_MAX, 64), 100));
    assert_false(cas_place_is_trusted(&site->shared, 0, 0));
    atomic_store(&segment->state, CAS_LEAVING);
    assert_true(cas_place_is_trusted(&site->shared, place, 100));
    cas_segment_free(segment);
    assert_false(cas_place_is_trusted(&site->shared, place, 100));
    /* The last place that there is. */
    uint64_t offset = 0xffffff * (uint64_t)16;
    assert_int_equal(cas_place_offset(cas_place(segment->number, offset)), offset);
}

static void test_use(void **state)
{
    struct site *site = *state;
    struct cas_segment *segment = begin(site);
    uint64_t number = segment->number;
    uint64_t use = cas_shared_tick(&site->shared);
    assert_int_equal(cas_segment_use(&site->shared, number, use), CAS_USE_DONE);
    assert_int_equal(segment->last_use, use);
    assert_int_equal(cas_segment_use(&site->shared, number, use - 1), CAS_USE_DONE);
    assert_int_equal(segment->last_use, use);
    /* Who decides has to see it. */
    atomic_store(&segment->state, CAS_LEAVING);
    assert_int_equal(cas_segment_use(&site->shared, number, use + 1), CAS_USE_UNDECIDED);
    assert_int_equal(segment->last_use, use + 1);
    atomic_store(&segment->state, CAS_SEALED);
    assert_int_equal(cas_segment_use(&site->shared, number, use + 1), CAS_USE_DONE);
    cas_segment_free(segment);
    assert_int_equal(cas_segment_use(&site->shared, number, use + 2), CAS_USE_GONE);
    while (begin(site) != segment)
        continue;
    assert_int_equal(cas_segment_use(&site->shared, number, use + 3), CAS_USE_GONE);
}

/* --- processes --- */

static void join(struct cas_shared *shared)
{
    struct err err;
    if (cas_shared_join(shared, &err) != 0)
        fail_msg("%s", err.msg);
}

static void test_holds(void **state)
{
    struct site *site = *state;
    struct cas_shared other = open_shared(site, false);
    assert_true(cas_shared_oldest_hold(&site->shared) == UINT64_MAX);
    join(&site->shared);
    join(&other);
    assert_int_not_equal(site->shared.process, other.process);
    cas_shared_set_oldest_hold(&site->shared, 20);
    cas_shared_set_oldest_hold(&other, 10);
    assert_int_equal(cas_shared_oldest_hold(&site->shared), 10);
    assert_int_equal(cas_shared_oldest_hold(&other), 10);
    cas_shared_set_oldest_hold(&other, 0);
    assert_int_equal(cas_shared_oldest_hold(&site->shared), 20);
    cas_shared_set_oldest_hold(&other, 5);
    cas_shared_close(&other);
    assert_int_equal(cas_shared_oldest_hold(&site->shared), 20);
}

static void test_as_many_processes_as_there_are_places(void **state)
{
    struct site *site = *state;
    static struct cas_shared others[CAS_PROCESSES];
    struct err err;
    for (int i = 0; i < CAS_PROCESSES; i++) {
        others[i] = open_shared(site, false);
        join(&others[i]);
    }
    assert_int_equal(cas_shared_join(&site->shared, &err), -ERR_EXHAUSTED);
    cas_shared_close(&others[17]);
    join(&site->shared);
    assert_int_equal(site->shared.process, 17);
    for (int i = 0; i < CAS_PROCESSES; i++)
        if (i != 17)
            cas_shared_close(&others[i]);
}

/* Another process that joins, holds and is killed; its place. */
static int run_killed_process(struct site *site, uint64_t hold)
{
    int ready[2];
    int process = -1;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct cas_shared shared;
        struct err err;
        bool is_new;
        if (cas_shared_open(site->fd, STORE_ID, false, &shared, &is_new, &err) != 0 ||
            cas_shared_join(&shared, &err) != 0)
            _exit(1);
        cas_shared_set_oldest_hold(&shared, hold);
        if (write(ready[1], &shared.process, sizeof(process)) != sizeof(process))
            _exit(1);
        for (;;)
            (void)pause();
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &process, sizeof(process)), sizeof(process));
    (void)close(ready[0]);
    assert_int_equal(cas_shared_oldest_hold(&site->shared), hold);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return process;
}

static void test_a_killed_process_is_forgotten(void **state)
{
    struct site *site = *state;
    join(&site->shared);
    cas_shared_set_oldest_hold(&site->shared, 100);
    int process = run_killed_process(site, 7);
    assert_int_equal(site->shared.header->processes[process].oldest_hold, 7);
    assert_int_equal(cas_shared_oldest_hold(&site->shared), 100);
    assert_int_equal(site->shared.header->processes[process].pid, 0);
    /* Who joins takes the place of a dead one, but not its hold. */
    process = run_killed_process(site, 8);
    struct cas_shared other = open_shared(site, false);
    join(&other);
    assert_int_equal(other.process, process);
    assert_int_equal(cas_shared_oldest_hold(&site->shared), 100);
    cas_shared_close(&other);
}

/* --- use against eviction --- */

enum { ROUNDS = 20000 };

struct race {
    struct site *site;
    struct cas_segment *segment;
    bool with_hold;
    _Atomic int round[2]; /* how far the user and the evictor are */
    enum cas_use use;
};

/* Both go into the round at the same time. */
static void meet(struct race *race, int side, int round)
{
    atomic_store(&race->round[side], round);
    while (atomic_load(&race->round[1 - side]) < round)
        continue;
}

static void *use_segment(void *context)
{
    struct race *race = context;
    struct cas_shared *shared = &race->site->shared;
    for (int i = 1; i <= 2 * ROUNDS; i += 2) {
        meet(race, 0, i);
        uint64_t hold = cas_shared_tick(shared);
        if (race->with_hold)
            cas_shared_set_oldest_hold(shared, hold);
        uint64_t number = atomic_load(&race->segment->number);
        race->use = cas_segment_use(shared, number, cas_shared_tick(shared));
        meet(race, 0, i + 1);
    }
    return NULL;
}

/* Evicts unless it was used; returns how often what was used went all the same. */
static int evict_segment(struct race *race)
{
    struct cas_segment *segment = race->segment;
    int wrong = 0;
    for (int i = 1; i <= 2 * ROUNDS; i += 2) {
        cas_shared_set_oldest_hold(&race->site->shared, 0);
        atomic_store(&segment->state, CAS_SEALED);
        uint64_t before = atomic_load(&segment->last_use);
        meet(race, 1, i);
        atomic_store(&segment->state, CAS_LEAVING);
        uint64_t last_use = atomic_load(&segment->last_use);
        bool stays = race->with_hold ? last_use >= cas_shared_oldest_hold(&race->site->shared)
                                     : last_use != before;
        atomic_store(&segment->state, stays ? CAS_SEALED : CAS_FREE);
        meet(race, 1, i + 1);
        wrong += race->use == CAS_USE_DONE && !stays;
    }
    return wrong;
}

static void run_race(struct site *site, bool with_hold)
{
    struct race race = {.site = site, .segment = begin(site), .with_hold = with_hold};
    pthread_t thread;
    join(&site->shared);
    assert_int_equal(pthread_create(&thread, NULL, use_segment, &race), 0);
    int wrong = evict_segment(&race);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(wrong, 0);
}

static void test_what_was_used_stays(void **state)
{
    run_race(*state, false);
}

static void test_what_is_held_stays(void **state)
{
    run_race(*state, true);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_file_is_kept),
        TEST(test_what_does_not_fit_is_made_anew),
        TEST(test_lost_blocks_are_taken_again),
        TEST(test_a_failed_open_changes_nothing),
        TEST(test_begin),
        TEST(test_numbers_of_all_indexes_grow_alike),
        TEST(test_the_file_grows_when_no_index_is_free),
        TEST(test_an_index_without_numbers_is_left),
        TEST(test_adopt),
        TEST(test_trusted_places),
        TEST(test_use),
        TEST(test_holds),
        TEST(test_as_many_processes_as_there_are_places),
        TEST(test_a_killed_process_is_forgotten),
        TEST(test_what_was_used_stays),
        TEST(test_what_is_held_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
