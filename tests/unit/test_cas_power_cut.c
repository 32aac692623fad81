/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a CAS has after a power cut: all that was pushed, and nothing but what was stored. A load on
 * it is recorded, and the store opened as cuts at many moments may have left it; one of these is
 * what the next load begins with. The same with syncs that only pretend, which must be found out.
 */
#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

#include "base/log.h"
#include "cas_load.h"
#include "power_cut.h"
#include "store/cas_check.h"
#include "store/disk.h"
#include "store_blobs.h"

enum {
    QUOTA = 5 * MIB,        /* so that the load evicts */
    LARGE_QUOTA = 16 * MIB, /* nothing is evicted; segments are as large */
    RUNS = 5,
    CUTS = 12, /* of each run */
    ADDED = 5, /* blobs that are stored after a cut */
    SYNC_US = 300,
    MUTANT_RUNS = 5,
    REBUILD_SECONDS = 60,
    PUSHED = 16, /* blobs that are carried forward */
    SMALL = 1600,
    FILLER = 30000,
    FILLERS = 600,
    RENEWED = 150, /* fillers between two uses, more than there is room for */
    FILLER_SEED = 1000,
    REQUIRED_MIN = 30, /* blobs at a cut that must be there, on average */
};

/* --- a disk whose syncs take a while, or only pretend --- */

enum mutant {
    NONE,
    NO_SYNC_OF_SEGMENTS,
    NO_SYNC_OF_NAMES,
    NO_SYNC_OF_COPIES, /* that are carried forward */
    NO_SYNC_OF_TABLE,
    NO_SYNC_OF_SHARED,
};

static atomic_int mutant;
static atomic_uint pretended;
static struct disk below;
static atomic_bool is_recording;

/* What it does on a real disk the recording knows: so the test is as fast on each. */
static int slow_sync(int fd)
{
    (void)fd;
    return atomic_load(&is_recording) ? usleep(SYNC_US) : 0;
}

/* Whether FD is PART of a store. */
static bool is_part(int fd, const char *part)
{
    char link[64];
    char path[PATH_MAX];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    path[length > 0 ? length : 0] = '\0';
    return strstr(path, part) != NULL;
}

static bool is_evicting(void)
{
    char name[16];
    return pthread_getname_np(pthread_self(), name, sizeof(name)) == 0 &&
           strcmp(name, "cas-evict") == 0;
}

/* After how many events a segment was removed out of which something had been carried. */
enum { REMOVALS_MAX = 1000 };
static struct power_cut *recording;
static size_t removals[REMOVALS_MAX];
static size_t removal_count; /* these are the thread's that evicts, while there is one */
static bool is_carried;

static int noting_unlinkat(int directory, const char *name, int flags)
{
    int rc = below.unlinkat(directory, name, flags);
    if (is_evicting() && is_carried && removal_count < REMOVALS_MAX) {
        removals[removal_count++] = power_cut_events(recording);
        is_carried = false;
    }
    return rc;
}

static bool pretends(bool is_pretending)
{
    if (is_pretending)
        (void)atomic_fetch_add(&pretended, 1);
    return is_pretending;
}

static int mutant_fsync(int fd)
{
    int which = atomic_load(&mutant);
    if (pretends((which == NO_SYNC_OF_NAMES && is_part(fd, "/cas/log")) ||
                 (which == NO_SYNC_OF_TABLE && is_part(fd, "/cas/table/")) ||
                 (which == NO_SYNC_OF_SHARED && is_part(fd, "/cas/shared"))))
        return 0;
    return below.fsync(fd);
}

static int mutant_fdatasync(int fd)
{
    int which = atomic_load(&mutant);
    bool is_copy = is_evicting();
    if (is_copy)
        is_carried = true;
    if (pretends(which == NO_SYNC_OF_SEGMENTS || (which == NO_SYNC_OF_COPIES && is_copy)))
        return 0;
    return below.fdatasync(fd);
}

static int mutant_syncfs(int fd)
{
    return pretends(atomic_load(&mutant) == NO_SYNC_OF_SEGMENTS) ? 0 : below.syncfs(fd);
}

static bool is_mapped(const char *path)
{
    return strncmp(path, "cas/shared", strlen("cas/shared")) == 0 ||
           strncmp(path, "cas/table/", strlen("cas/table/")) == 0;
}

static struct power_cut *begin_recording(const char *path)
{
    struct power_cut *cut = power_cut_begin(path, is_mapped);
    recording = cut;
    removal_count = 0;
    is_carried = false;
    below = disk;
    disk.fsync = mutant_fsync;
    disk.fdatasync = mutant_fdatasync;
    disk.syncfs = mutant_syncfs;
    disk.unlinkat = noting_unlinkat;
    return cut;
}

/* --- stores --- */

static struct cas *open_store(const char *path, int64_t quota)
{
    struct cas *cas;
    struct err err;
    const struct cas_options options = {.path = path, .quota = quota, .may_write = true};
    if (cas_open(&options, &cas, &err) != 0)
        fail_msg("%s", err.msg);
    return cas;
}

static void wait_until_rebuilt(struct cas *cas)
{
    for (unsigned waited = 0; atomic_load(&cas->shared.header->rebuilding) != CAS_REBUILT;
         waited++) {
        if (waited == REBUILD_SECONDS * 1000)
            fail_msg("the tables are not made anew");
        (void)usleep(1000);
    }
}

static void make_directory(const char *path)
{
    if (mkdir(path, 0750) != 0)
        fail_msg("%s: %s", path, strerror(errno));
}

/* What a cut may have left; the machine has started again since. */
static void materialise(struct power_cut *cut, const char *path, uint64_t seed, size_t at)
{
    static const char boot_id[40] = "00000000-another-boot";
    char shared[PATH_MAX];
    make_directory(path);
    power_cut_materialise(cut, path, seed, at);
    (void)snprintf(shared, sizeof(shared), "%s/cas/shared", path);
    int fd = open(shared, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return; /* the cut came before there was one */
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    off_t offset = offsetof(struct cas_shared_header, boot_id);
    if (st.st_size >= offset + (off_t)sizeof(boot_id))
        assert_int_equal(pwrite(fd, boot_id, sizeof(boot_id), offset), sizeof(boot_id));
    (void)close(fd);
}

static int64_t counted;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *position)
{
    (void)path;
    (void)type;
    (void)position;
    counted += (int64_t)st->st_blocks * 512;
    return 0;
}

static int64_t bytes_below(const char *path)
{
    counted = 0;
    if (nftw(path, count_one, 16, FTW_PHYS) != 0)
        fail_msg("%s cannot be counted", path);
    return counted;
}

/* --- one cut --- */

static atomic_bool is_synced;

static void note_synced(struct cas_sync *sync, const struct err *err)
{
    (void)sync;
    if (err != NULL)
        abort();
    atomic_store(&is_synced, true);
}

/* The store goes on: it takes blobs, and has these and all others when it is opened again. */
static void go_on(struct cas *cas, const char *path, const struct cas_load *load, size_t at,
                  struct cas_load_verdict *verdict)
{
    struct cas_hold hold;
    struct cas_sync sync = {.hold = &hold, .done = note_synced};
    struct digest digest;
    char folder[PATH_MAX];
    cas_hold_begin(cas, &hold);
    for (uint64_t i = 0; i < ADDED; i++)
        assert_int_equal(put_blob(cas, &hold, 4000, i, &digest), ERR_OK);
    atomic_store(&is_synced, false);
    cas_sync(cas, &sync);
    while (!atomic_load(&is_synced))
        (void)usleep(100);
    cas_hold_end(&hold);
    cas_close(cas);
    cas = open_store(path, LARGE_QUOTA);
    for (uint64_t i = 0; i < ADDED; i++)
        assert_int_equal(get_blob(cas, 4000, i), ERR_OK);
    cas_load_verify(load, cas, at, verdict);
    cas_close(cas);
    (void)snprintf(folder, sizeof(folder), "%s/cas", path);
    assert_in_range(bytes_below(folder), 1, LARGE_QUOTA);
}

static void tell_fault(void *context, const struct store_fault *fault)
{
    (void)context;
    if (atomic_load(&mutant) == NONE)
        print_error("%s %s: %s\n", fault->what, fault->subject, fault->reason);
}

static void note_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    (void)context;
    (void)what;
    (void)done;
    (void)total;
}

/* What an operator's check says of the store, beside the process that writes to it. */
static bool is_sound(const char *path)
{
    struct store_check check = {.tell = tell_fault, .progress = note_progress};
    struct cas_checked checked;
    struct cas *cas;
    struct err err;
    const struct cas_options options = {.path = path, .quota = LARGE_QUOTA};
    assert_int_equal(cas_open(&options, &cas, &err), 0);
    int rc = cas_check(cas, &check, &checked, &err);
    cas_close(cas);
    return rc == 0 && check.faults == 0;
}

static bool is_bad(const struct cas_load_verdict *verdict)
{
    return verdict->lost + verdict->wrong + verdict->unclear + verdict->broken > 0;
}

/* Whether the store has what it should. */
static bool survives(struct power_cut *cut, const struct cas_load *load, const char *path,
                     uint64_t seed, size_t at, bool goes_on, struct cas_load_verdict *verdict)
{
    struct cas *cas;
    struct err err;
    const struct cas_options options = {.path = path, .quota = LARGE_QUOTA, .may_write = true};
    materialise(cut, path, seed, at);
    *verdict = (struct cas_load_verdict){.required = 0};
    bool is_open = cas_open(&options, &cas, &err) == 0;
    bool is_clean = false;
    if (is_open) {
        wait_until_rebuilt(cas);
        cas_load_verify(load, cas, at, verdict);
        is_clean = is_sound(path);
        if (goes_on && !is_bad(verdict))
            go_on(cas, path, load, at, verdict);
        else
            cas_close(cas);
    } else if (atomic_load(&mutant) == NONE) {
        print_error("%s\n", err.msg);
    }
    scratch_remove(path);
    return is_clean && !is_bad(verdict);
}

/* --- runs --- */

/* Events after which something else begins. */
struct moments {
    size_t opened; /* the load begins */
    size_t closing;
    size_t closed;
    size_t reopened;
    size_t captured; /* what is mapped was as it is now */
    size_t end;      /* it is closed again; nothing is known to be there behind this */
};

/*
 * Opens a store, works with it, and closes it, twice. What is mapped is looked at all the time, and
 * then only once: it is either as it was in the beginning, or as it is at the end.
 */
static void run(struct cas_load *load, struct power_cut *cut, const char *path, enum mutant which,
                struct moments *moments)
{
    cas_load_record(load, cut);
    atomic_store(&is_recording, true);
    struct cas *cas = open_store(path, QUOTA);
    moments->opened = power_cut_capture(cut);
    cas_load_run(load, cas, true);
    moments->closing = power_cut_capture(cut);
    cas_close(cas);
    moments->closed = power_cut_events(cut);
    atomic_store(&mutant, which);
    cas = open_store(path, QUOTA);
    moments->reopened = power_cut_events(cut);
    cas_load_run(load, cas, false);
    moments->captured = power_cut_capture(cut);
    (void)cas_load_look(load, cas);
    cas_close(cas);
    moments->end = power_cut_events(cut);
    atomic_store(&mutant, NONE);
    cas = open_store(path, LARGE_QUOTA);
    (void)cas_load_look(load, cas);
    struct cas_stats stats;
    cas_stats(cas, &stats);
    cas_close(cas);
    atomic_store(&is_recording, false);
    assert_true(stats.evicted > 0);
    assert_int_equal(stats.broken, 0);
    if (cas_load_fault(load) != NULL)
        fail_msg("%s", cas_load_fault(load));
}

static uint64_t chance(uint64_t seed)
{
    uint64_t random = seed * 0x9e3779b97f4a7c15 + 0x7f4a7c15;
    random = (random ^ random >> 31) * 0xbf58476d1ce4e5b9;
    return random ^ random >> 29;
}

static size_t between(uint64_t seed, size_t begin, size_t end)
{
    return begin + (end > begin ? (size_t)(chance(seed) % (end - begin + 1)) : 0);
}

/* Cuts fall mostly when a push was just acknowledged, and where much is being changed. */
static size_t choose(const struct cas_load *load, const struct moments *moments, uint64_t seed)
{
    size_t pushes = cas_load_pushes(load);
    size_t at;
    switch (seed % CUTS) {
    case 0:
        return moments->closed;
    case 1:
        return between(seed, 0, moments->opened);
    case 2:
        return between(seed, moments->closing, moments->closed);
    case 3:
        return between(seed, moments->closed, moments->reopened);
    case 4:
        return between(seed, moments->opened, moments->end);
    case 5:
        return moments->end;
    case 6:
        return moments->captured;
    case 7:
        return between(seed, moments->captured, moments->end);
    case 8:
        at = removal_count > 0 ? removals[chance(seed) % removal_count] : 0;
        break;
    default:
        at = pushes > 0 ? cas_load_push_event(load, chance(seed) % pushes) : 0;
        break;
    }
    return at < moments->end ? at : moments->end;
}

struct site {
    struct scratch scratch;
    struct cas_load *load;
    char store[PATH_MAX]; /* that is being used */
    char left[PATH_MAX];  /* what a cut has left of it */
};

static void begin_site(struct site *site, uint64_t seed)
{
    scratch_init(&site->scratch);
    site->load = cas_load_new(seed);
    (void)scratch_path(&site->scratch, "0", site->store);
    (void)scratch_path(&site->scratch, "left", site->left);
    make_directory(site->store);
}

static void end_site(struct site *site)
{
    cas_load_free(site->load);
    scratch_fini(&site->scratch);
}

/* What a cut in the middle of this run has left is what the next one begins with. */
static void go_to_next(struct site *site, struct power_cut *cut, const struct moments *moments,
                       uint64_t seed)
{
    char name[32];
    char next[PATH_MAX];
    size_t at = between(seed, moments->opened, moments->end);
    (void)snprintf(name, sizeof(name), "%llu", (unsigned long long)seed);
    materialise(cut, scratch_path(&site->scratch, name, next), seed, at);
    cas_load_cut(site->load, at);
    scratch_remove(site->store);
    (void)snprintf(site->store, sizeof(site->store), "%s", next);
}

static void test_a_power_cut_loses_no_push(void **state)
{
    struct site site;
    unsigned bad = 0;
    unsigned required = 0;
    (void)state;
    begin_site(&site, 1);
    for (uint64_t i = 1; i <= RUNS; i++) {
        struct moments moments;
        struct power_cut *cut = begin_recording(site.store);
        run(site.load, cut, site.store, NONE, &moments);
        for (uint64_t seed = i * CUTS; seed < (i + 1) * CUTS; seed++) {
            struct cas_load_verdict verdict;
            size_t at = choose(site.load, &moments, seed);
            bool is_good = survives(cut, site.load, site.left, seed, at, seed % 4 == 0, &verdict);
            required += verdict.required;
            if (is_good)
                continue;
            bad++;
            print_error("seed %llu, cut at %zu of %zu: of %u blobs %u are lost, of all %u are "
                        "wrong, %u not known, %u broken\n",
                        (unsigned long long)seed, at, moments.end, verdict.required, verdict.lost,
                        verdict.wrong, verdict.unclear, verdict.broken);
        }
        go_to_next(&site, cut, &moments, i);
        power_cut_end(cut);
    }
    end_site(&site);
    assert_int_equal(bad, 0);
    /* Otherwise nothing was tested. */
    assert_true(required > RUNS * CUTS * REQUIRED_MIN);
}

/* --- what is carried forward --- */

/*
 * The blobs of PUSHED, in segments with much that is never used again, and then as much of that as
 * evicts these segments again and again. Returns after how many events the push was acknowledged.
 */
static size_t push_and_evict(struct cas *cas, struct power_cut *cut, const struct digest *pushed)
{
    struct cas_hold hold;
    struct cas_sync sync = {.hold = &hold, .done = note_synced};
    struct digest digest;
    bool present[PUSHED];
    atomic_store(&is_synced, false);
    cas_hold_begin(cas, &hold);
    cas_find(cas, &hold, pushed, PUSHED, present);
    cas_sync(cas, &sync);
    while (!atomic_load(&is_synced))
        (void)usleep(100);
    size_t acknowledged = power_cut_events(cut);
    cas_hold_end(&hold);
    for (uint64_t i = 0; i < FILLERS; i++) {
        assert_int_equal(put_blob(cas, NULL, FILLER, FILLER_SEED + i, &digest), ERR_OK);
        if (i % RENEWED != 0)
            continue;
        cas_find(cas, NULL, pushed, PUSHED, present);
        for (size_t j = 0; j < PUSHED; j++)
            assert_true(present[j]);
    }
    return acknowledged;
}

static bool has_pushed(struct power_cut *cut, const char *path, uint64_t seed, size_t at)
{
    materialise(cut, path, seed, at);
    struct cas *cas = open_store(path, LARGE_QUOTA);
    wait_until_rebuilt(cas);
    bool are_there = true;
    for (uint64_t i = 0; i < PUSHED; i++)
        are_there = get_blob(cas, SMALL, i) == ERR_OK && are_there;
    cas_close(cas);
    scratch_remove(path);
    return are_there;
}

/* Cuts when a segment was just removed out of which something was carried. Whether one lost it. */
static bool loses_what_is_carried(enum mutant which, uint64_t seed)
{
    struct scratch scratch;
    struct digest pushed[PUSHED];
    struct digest digest;
    char store[PATH_MAX];
    char left[PATH_MAX];
    scratch_init(&scratch);
    make_directory(scratch_path(&scratch, "store", store));
    (void)scratch_path(&scratch, "left", left);
    struct power_cut *cut = begin_recording(store);
    atomic_store(&is_recording, true);
    atomic_store(&mutant, which);
    struct cas *cas = open_store(store, QUOTA);
    for (uint64_t i = 0; i < PUSHED; i++) {
        assert_int_equal(put_blob(cas, NULL, SMALL, i, &pushed[i]), ERR_OK);
        for (uint64_t j = 0; j < 9; j++)
            assert_int_equal(put_blob(cas, NULL, SMALL, FILLER_SEED * (j + 2) + i, &digest),
                             ERR_OK);
    }
    size_t acknowledged = push_and_evict(cas, cut, pushed);
    cas_close(cas);
    atomic_store(&is_recording, false);
    atomic_store(&mutant, NONE);
    bool has_lost = false;
    size_t step = removal_count / CUTS + 1;
    for (size_t i = 0; !has_lost && i < removal_count; i += step)
        if (removals[i] >= acknowledged)
            has_lost = !has_pushed(cut, left, seed * REMOVALS_MAX + i, removals[i]);
    power_cut_end(cut);
    scratch_fini(&scratch);
    assert_true(removal_count > 0);
    return has_lost;
}

static void test_a_power_cut_loses_nothing_that_is_carried(void **state)
{
    (void)state;
    assert_false(loses_what_is_carried(NONE, 0));
}

static void test_a_missing_sync_of_carried_copies_is_found_out(void **state)
{
    uint64_t tries = 0;
    (void)state;
    while (!loses_what_is_carried(NO_SYNC_OF_COPIES, ++tries))
        assert_true(tries < MUTANT_RUNS);
}

/* --- mutants --- */

/* Whether the same test would have found out that some syncs do nothing. */
static bool is_found_out(enum mutant which, uint64_t seed)
{
    struct site site;
    struct moments moments;
    begin_site(&site, seed);
    struct power_cut *cut = begin_recording(site.store);
    run(site.load, cut, site.store, which, &moments);
    bool is_sound = true;
    for (uint64_t i = 0; is_sound && i < RUNS * CUTS; i++) {
        struct cas_load_verdict verdict;
        size_t at = choose(site.load, &moments, i);
        is_sound = survives(cut, site.load, site.left, seed * RUNS * CUTS + i, at, false, &verdict);
    }
    power_cut_end(cut);
    end_site(&site);
    return !is_sound;
}

/* What a cut takes depends on threads and on chance: it may go well once. */
static void expect_found_out(enum mutant which)
{
    uint64_t tries = 0;
    atomic_store(&pretended, 0);
    while (!is_found_out(which, ++tries))
        assert_true(tries < MUTANT_RUNS);
    assert_true(atomic_load(&pretended) > 0);
}

static void test_a_missing_sync_of_segments_is_found_out(void **state)
{
    (void)state;
    expect_found_out(NO_SYNC_OF_SEGMENTS);
}

static void test_a_missing_sync_of_names_is_found_out(void **state)
{
    (void)state;
    expect_found_out(NO_SYNC_OF_NAMES);
}

static void test_a_missing_sync_of_the_table_is_found_out(void **state)
{
    (void)state;
    expect_found_out(NO_SYNC_OF_TABLE);
}

static void test_a_missing_sync_of_the_shared_file_is_found_out(void **state)
{
    (void)state;
    expect_found_out(NO_SYNC_OF_SHARED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_power_cut_loses_no_push),
        cmocka_unit_test(test_a_power_cut_loses_nothing_that_is_carried),
        cmocka_unit_test(test_a_missing_sync_of_segments_is_found_out),
        cmocka_unit_test(test_a_missing_sync_of_names_is_found_out),
        cmocka_unit_test(test_a_missing_sync_of_carried_copies_is_found_out),
        cmocka_unit_test(test_a_missing_sync_of_the_table_is_found_out),
        cmocka_unit_test(test_a_missing_sync_of_the_shared_file_is_found_out),
    };
    log_set_level(LOG_LEVEL_ERROR);
    disk.fsync = slow_sync;
    disk.fdatasync = slow_sync;
    disk.syncfs = slow_sync;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
