/* SPDX-License-Identifier: Apache-2.0 */
/* The quota of a CAS: never exceeded, and what was used longest ago goes first. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "store/cas_private.h"
#include "store_blobs.h"

/* As du(1) counts. */
static int64_t du_bytes;

static int add_to_du(const char *path, const struct stat *st, int type, struct FTW *position)
{
    (void)path;
    (void)type;
    (void)position;
    du_bytes += (int64_t)st->st_blocks * 512;
    return 0;
}

static int64_t du(const struct store *store)
{
    char path[PATH_MAX];
    du_bytes = 0;
    (void)nftw(scratch_path(&store->scratch, "cas", path), add_to_du, 32, FTW_PHYS);
    return du_bytes;
}

static void test_the_least_recently_used_goes_first(void **state)
{
    struct store *store = *state;
    struct digest digests[4];
    store_open(store, 22 * 1000 * 1000);
    assert_int_equal(put_blob(store->cas, NULL, 15 * 1000 * 1000, 0, &digests[0]), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, 5 * 1000 * 1000, 1, &digests[1]), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, 5 * 1000 * 1000, 2, &digests[2]), ERR_OK);
    assert_false(is_there(store->cas, &digests[0]));
    assert_true(is_there(store->cas, &digests[1]));
    assert_true(is_there(store->cas, &digests[2]));
    assert_int_equal(stats_of(store->cas).evicted, 1);
    /* Being found renews; the next that needs room takes that of the other, and no more. */
    assert_true(is_there(store->cas, &digests[1]));
    assert_int_equal(put_blob(store->cas, NULL, 14 * 1000 * 1000, 3, &digests[3]), ERR_OK);
    assert_true(is_there(store->cas, &digests[1]));
    assert_false(is_there(store->cas, &digests[2]));
    assert_int_equal(stats_of(store->cas).evicted, 2);
    assert_true(du(store) <= 22 * 1000 * 1000);
}

static void test_every_use_renews(void **state)
{
    struct store *store = *state;
    struct digest digests[4];
    struct digest more;
    struct err err;
    store_open(store, 5 * MIB);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &digests[i]), ERR_OK);
    assert_int_equal(get_blob(store->cas, MIB, 0), ERR_OK);
    struct cas_reader *reader;
    assert_int_equal(cas_reader_open(store->cas, &digests[1], &reader, &err), 0);
    cas_reader_close(reader);
    assert_int_equal(put_blob(store->cas, NULL, MIB, 2, &digests[2]), ERR_OK);
    for (uint64_t i = 10; i < 11; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &more), ERR_OK);
    assert_false(is_there(store->cas, &digests[3]));
    assert_int_equal(put_blob(store->cas, NULL, MIB, 11, &more), ERR_OK);
    /* In the order of the uses above. */
    bool present[4];
    cas_find(store->cas, NULL, digests, 4, present);
    assert_false(present[0]);
    assert_true(present[1]);
    assert_true(present[2]);
}

static void test_what_cannot_fit_evicts_nothing(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest other;
    struct cas_writer *writer;
    struct err err;
    store_open(store, 4 * MIB);
    assert_int_equal(put_blob(store->cas, NULL, MIB, 1, &digest), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, 4 * MIB, 2, &other), ERR_EXHAUSTED);
    other.size = INT64_MAX;
    assert_int_equal(cas_writer_open(store->cas, &other, &writer, &err), -ERR_EXHAUSTED);
    other.size = 1000LL * 1000 * 1000 * 1000;
    assert_int_equal(cas_writer_open(store->cas, &other, &writer, &err), -ERR_EXHAUSTED);
    assert_true(is_there(store->cas, &digest));
    assert_int_equal(stats_of(store->cas).evicted, 0);
}

static void test_an_upload_takes_its_room_first(void **state)
{
    struct store *store = *state;
    struct digest first;
    struct digest second;
    struct cas_writer *writer;
    struct cas_writer *refused;
    struct err err;
    store_open(store, 4 * MIB);
    store->cas->patience = 0;
    free(make_blob(3 * MIB, 1, &first));
    free(make_blob(3 * MIB, 2, &second));
    assert_int_equal(cas_writer_open(store->cas, &first, &writer, &err), 0);
    assert_true(stats_of(store->cas).bytes > 3 * MIB);
    assert_int_equal(cas_writer_open(store->cas, &second, &refused, &err), -ERR_EXHAUSTED);
    cas_writer_abort(writer);
    assert_int_equal(cas_writer_open(store->cas, &second, &writer, &err), 0);
    cas_writer_abort(writer);
}

static void test_a_hold_keeps_what_was_found(void **state)
{
    struct store *store = *state;
    struct digest digests[4];
    struct cas_hold hold;
    struct cas_hold later;
    store_open(store, 4 * MIB);
    store->cas->patience = 0;
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &digests[i]), ERR_OK);
    cas_hold_begin(store->cas, &hold);
    bool present;
    cas_find(store->cas, &hold, &digests[0], 1, &present);
    assert_true(present);
    cas_hold_begin(store->cas, &later);
    /* The two that are not held go, and nothing goes where that is not enough. */
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, 3, &digests[3]), ERR_EXHAUSTED);
    assert_int_equal(stats_of(store->cas).evicted, 0);
    assert_int_equal(put_blob(store->cas, &hold, 2 * MIB, 3, &digests[3]), ERR_OK);
    assert_int_equal(stats_of(store->cas).evicted, 2);
    struct digest more;
    assert_int_equal(put_blob(store->cas, NULL, 2 * MIB, 4, &more), ERR_EXHAUSTED);
    cas_hold_end(&hold);
    /* The later one began before the upload. */
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, 4, &more), ERR_EXHAUSTED);
    cas_hold_end(&later);
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, 4, &more), ERR_OK);
    assert_false(is_there(store->cas, &digests[0]));
    assert_false(is_there(store->cas, &digests[3]));
}

static void test_what_is_being_read_stays(void **state)
{
    struct store *store = *state;
    struct digest read;
    struct digest other;
    struct digest more;
    struct cas_reader *reader;
    struct err err;
    store_open(store, 4 * MIB);
    store->cas->patience = 0;
    assert_int_equal(put_blob(store->cas, NULL, MIB, 0, &read), ERR_OK);
    assert_int_equal(cas_reader_open(store->cas, &read, &reader, &err), 0);
    assert_int_equal(put_blob(store->cas, NULL, MIB, 1, &other), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, 2 * MIB, 2, &more), ERR_OK);
    assert_false(is_there(store->cas, &other));
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB + MIB / 2, 3, &more), ERR_EXHAUSTED);
    cas_reader_close(reader);
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB + MIB / 2, 3, &more), ERR_OK);
}

struct waiting_upload {
    struct store *store;
    enum err_code code;
};

static void *upload_that_waits(void *argument)
{
    struct waiting_upload *upload = argument;
    struct digest digest;
    upload->code = put_blob(upload->store->cas, NULL, 3 * MIB, 9, &digest);
    return NULL;
}

static void test_an_upload_waits_for_what_is_in_use(void **state)
{
    struct store *store = *state;
    struct waiting_upload upload = {.store = store};
    struct cas_hold hold;
    struct digest digest;
    pthread_t thread;
    store_open(store, 4 * MIB);
    store->cas->patience = 600;
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_blob(store->cas, &hold, 2 * MIB, 0, &digest), ERR_OK);
    assert_int_equal(pthread_create(&thread, NULL, upload_that_waits, &upload), 0);
    unsigned waiting;
    do {
        (void)usleep(1000);
        (void)pthread_mutex_lock(&store->cas->lock);
        waiting = store->cas->waiting;
        (void)pthread_mutex_unlock(&store->cas->lock);
    } while (waiting == 0);
    cas_hold_end(&hold);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(upload.code, ERR_OK);
    assert_false(is_there(store->cas, &digest));
}

/*
 * Ten times the quota from many threads, with du looking on. As a walk through files that come and
 * go would count some twice, the threads stand still for it, with uploads half done.
 */
enum { WRITERS = 8, PUSH_QUOTA = 4 * MIB };

struct pushing {
    struct store *store;
    uint64_t seed;
    unsigned failed;
    atomic_int *running;
    pthread_rwlock_t *still;
};

static int push_in_two_steps(const struct pushing *pushing, size_t size, uint64_t seed)
{
    struct digest digest;
    struct cas_writer *writer;
    struct err err;
    uint8_t *data = make_blob(size, seed, &digest);
    (void)pthread_rwlock_rdlock(pushing->still);
    int rc = cas_writer_open(pushing->store->cas, &digest, &writer, &err);
    if (rc == 0 && cas_writer_append(writer, data, size / 2, &err) != 0) {
        cas_writer_abort(writer);
        rc = -1;
    }
    (void)pthread_rwlock_unlock(pushing->still);
    if (rc == 0) {
        (void)pthread_rwlock_rdlock(pushing->still);
        (void)cas_writer_append(writer, data + size / 2, size - size / 2, &err);
        rc = cas_writer_commit(writer, &err);
        (void)pthread_rwlock_unlock(pushing->still);
    }
    free(data);
    return rc;
}

static void *push_much(void *argument)
{
    struct pushing *pushing = argument;
    uint64_t random = pushing->seed;
    for (size_t total = 0; total < 10 * PUSH_QUOTA / WRITERS;) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        /* Many small ones let the directory grow, too. */
        size_t size = (random >> 33) % ((random >> 40) % 4 != 0 ? 6000 : 300000) + 1;
        if (push_in_two_steps(pushing, size, random) != 0)
            pushing->failed++;
        total += size;
    }
    atomic_fetch_sub(pushing->running, 1);
    return NULL;
}

static void test_the_quota_holds_under_load(void **state)
{
    struct store *store = *state;
    pthread_t threads[WRITERS];
    struct pushing pushing[WRITERS];
    pthread_rwlock_t still;
    pthread_rwlockattr_t attributes;
    atomic_int running = WRITERS;
    store_open(store, PUSH_QUOTA);
    (void)pthread_rwlockattr_init(&attributes);
    (void)pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    (void)pthread_rwlock_init(&still, &attributes);
    (void)pthread_rwlockattr_destroy(&attributes);
    for (size_t i = 0; i < WRITERS; i++) {
        pushing[i] =
            (struct pushing){.store = store, .seed = i + 1, .running = &running, .still = &still};
        assert_int_equal(pthread_create(&threads[i], NULL, push_much, &pushing[i]), 0);
    }
    int64_t most = 0;
    while (atomic_load(&running) != 0) {
        (void)pthread_rwlock_wrlock(&still);
        int64_t bytes = du(store);
        (void)pthread_rwlock_unlock(&still);
        most = bytes > most ? bytes : most;
        (void)usleep(1000);
    }
    for (size_t i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(pushing[i].failed, 0);
    }
    (void)pthread_rwlock_destroy(&still);
    assert_true(most > PUSH_QUOTA / 2);
    assert_true(most <= PUSH_QUOTA);
    assert_true(du(store) <= PUSH_QUOTA);
    /* What is counted is what is there, but for the room kept for the state file. */
    struct cas_stats stats = stats_of(store->cas);
    assert_true((int64_t)stats.bytes >= du(store));
    assert_true((int64_t)stats.bytes <= du(store) + 4 * store->cas->block);
    assert_true(stats.bytes > PUSH_QUOTA / 2);
    assert_true(stats.evicted > 0);
    store_close(store);
    assert_true(du(store) <= PUSH_QUOTA);
}

static void test_a_smaller_quota_evicts_at_start(void **state)
{
    struct store *store = *state;
    struct digest digests[4];
    store_open(store, 8 * MIB);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &digests[i]), ERR_OK);
    assert_true(is_there(store->cas, &digests[0]));
    store_reopen(store, 3 * MIB);
    assert_true(du(store) <= 3 * MIB);
    bool present[4];
    cas_find(store->cas, NULL, digests, 4, present);
    assert_true(present[0]);
    assert_false(present[1]);
    assert_false(present[2]);
    assert_true(present[3]);
    /* A quota by mistake costs no content. */
    store_close(store);
    struct err err;
    const struct cas_options options = {.path = store->scratch.path, .quota = 1000};
    assert_int_equal(cas_open(&options, &store->cas, &err), -ERR_INVALID);
    store_open(store, 3 * MIB);
    assert_true(is_there(store->cas, &digests[0]));
}

static atomic_bool fail_unlinks;

static int failing_unlinkat(int directory, const char *name, int flags)
{
    if (atomic_load(&fail_unlinks)) {
        errno = EROFS;
        return -1;
    }
    return unlinkat(directory, name, flags);
}

static int setup_unlinks(void **state)
{
    atomic_store(&fail_unlinks, false);
    cas_disk.unlinkat = failing_unlinkat;
    return store_setup(state);
}

static int teardown_unlinks(void **state)
{
    int rc = store_teardown(state);
    cas_disk.unlinkat = unlinkat;
    return rc;
}

static void test_what_cannot_be_removed_stays(void **state)
{
    struct store *store = *state;
    struct digest digests[6];
    struct digest more;
    struct cas_reader *reader;
    struct err err;
    store_open(store, 7 * MIB);
    store->cas->patience = 600; /* that nothing waits for */
    for (uint64_t i = 0; i < 6; i++)
        assert_int_equal(put_blob(store->cas, NULL, MIB, i, &digests[i]), ERR_OK);
    assert_int_equal(cas_reader_open(store->cas, &digests[0], &reader, &err), 0);
    for (uint64_t i = 1; i < 6; i++)
        assert_true(is_there(store->cas, &digests[i]));
    struct cas_stats before = stats_of(store->cas);
    atomic_store(&fail_unlinks, true);
    for (uint64_t i = 10; i < 13; i++)
        assert_int_equal(put_blob(store->cas, NULL, 2 * MIB, i, &more), ERR_IO);
    struct cas_stats after = stats_of(store->cas);
    assert_int_equal(after.blobs, before.blobs);
    assert_int_equal(after.bytes, before.bytes);
    assert_int_equal(after.evicted, 0);
    /* Nor does one who removes by request have room back, and the rest stays as it was. */
    assert_int_equal(cas_delete(store->cas, &digests[5], &err), 0);
    assert_int_equal(stats_of(store->cas).bytes, before.bytes);
    /* Once the disk is well again the order is what it was. */
    atomic_store(&fail_unlinks, false);
    assert_int_equal(put_blob(store->cas, NULL, MIB, 10, &more), ERR_OK);
    assert_int_equal(stats_of(store->cas).evicted, 1);
    assert_true(is_there(store->cas, &digests[0]));
    assert_false(is_there(store->cas, &digests[1]));
    for (uint64_t i = 2; i < 5; i++)
        assert_int_equal(get_blob(store->cas, MIB, i), ERR_OK);
    cas_reader_close(reader);
}

static void test_a_suspect_that_cannot_be_removed_stays_one(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest more;
    store_open(store, 7 * MIB);
    assert_int_equal(put_blob(store->cas, NULL, 4 * MIB, 0, &digest), ERR_OK);
    (void)pthread_mutex_lock(&store->cas->lock);
    store->cas->table.oldest->suspect = true;
    store->cas->suspects = 1;
    (void)pthread_mutex_unlock(&store->cas->lock);
    atomic_store(&fail_unlinks, true);
    assert_int_equal(put_blob(store->cas, NULL, 4 * MIB, 1, &more), ERR_IO);
    enum cas_presence presence;
    cas_find_nowait(store->cas, NULL, &digest, 1, &presence);
    assert_int_equal(presence, CAS_UNVERIFIED);
    assert_true(is_there(store->cas, &digest));
    assert_int_equal(store->cas->suspects, 0);
}

static void test_what_others_put_there_counts(void **state)
{
    struct store *store = *state;
    char path[PATH_MAX];
    store_open(store, 8 * MIB);
    uint64_t before = stats_of(store->cas).bytes;
    store_close(store);
    static const char *const folders[] = {"cas/backup", "cas/backup/old", "cas/blobs/mine"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
        assert_int_equal(mkdir(scratch_path(&store->scratch, folders[i], path), 0755), 0);
    static const char *const files[] = {"cas/backup/old/file", "cas/blobs/mine/file"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        int fd = open(scratch_path(&store->scratch, files[i], path), O_WRONLY | O_CREAT, 0644);
        assert_true(fd >= 0);
        assert_int_equal(posix_fallocate(fd, 0, MIB), 0);
        assert_int_equal(close(fd), 0);
    }
    store_open(store, 8 * MIB);
    assert_true(stats_of(store->cas).bytes >= before + 2 * MIB);
    assert_true((int64_t)stats_of(store->cas).bytes >= du(store));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_least_recently_used_goes_first, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_every_use_renews, store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_fit_evicts_nothing, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_an_upload_takes_its_room_first, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_hold_keeps_what_was_found, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_being_read_stays, store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_an_upload_waits_for_what_is_in_use, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_the_quota_holds_under_load, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_smaller_quota_evicts_at_start, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_removed_stays, setup_unlinks,
                                        teardown_unlinks),
        cmocka_unit_test_setup_teardown(test_a_suspect_that_cannot_be_removed_stays_one,
                                        setup_unlinks, teardown_unlinks),
        cmocka_unit_test_setup_teardown(test_what_others_put_there_counts, store_setup,
                                        store_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
