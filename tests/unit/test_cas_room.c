/* SPDX-License-Identifier: Apache-2.0 */
/* The quota as callers of a CAS see it: never exceeded, and what was used longest ago goes first.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "store/cas_space_private.h"
#include "store/disk.h"
#include "store_blobs.h"

/* Milliseconds: short enough to be waited for, and so long that nothing waits for its end. */
enum { SHORT_PATIENCE = 200, LONG_PATIENCE = 600 * 1000 };

static void set_patience(struct store *store, int64_t milliseconds)
{
    atomic_store(&store->cas->space->patience, milliseconds);
}

static void must_put(struct store *store, size_t size, uint64_t seed, struct digest *digest)
{
    assert_int_equal(put_blob(store->cas, NULL, size, seed, digest), ERR_OK);
}

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

/* Until the thread that evicts has nothing to do: a walk counts what comes and goes meanwhile. */
static int64_t du(const struct store *store)
{
    char path[PATH_MAX];
    int64_t before;
    du_bytes = -1;
    do {
        before = du_bytes;
        du_bytes = 0;
        (void)nftw(scratch_path(&store->scratch, "cas", path), add_to_du, 32, FTW_PHYS);
    } while (du_bytes != before);
    return du_bytes;
}

/* --- what goes --- */

static void find_it(struct store *store, const struct digest *digest)
{
    assert_true(is_there(store->cas, digest));
}

static void find_it_without_waiting(struct store *store, const struct digest *digest)
{
    assert_int_equal(presence_of(store->cas, digest), CAS_PRESENT);
}

static void get_it(struct store *store, const struct digest *digest)
{
    assert_int_equal(get_blob(store->cas, (size_t)digest->size, 0), ERR_OK);
}

static void begin_to_read_it(struct store *store, const struct digest *digest)
{
    struct cas_reader *reader;
    struct err err;
    assert_int_equal(cas_reader_open(store->cas, digest, &reader, &err), 0);
    cas_reader_close(reader);
}

static void put_it_again(struct store *store, const struct digest *digest)
{
    struct digest same;
    must_put(store, (size_t)digest->size, 0, &same);
}

static void write_it_again(struct store *store, const struct digest *digest)
{
    struct cas_writer *writer;
    struct digest same;
    struct err err;
    uint8_t *data = make_blob((size_t)digest->size, 0, &same);
    assert_int_equal(cas_writer_open(store->cas, digest, &writer, &err), 0);
    assert_int_equal(cas_writer_append(writer, data, (size_t)digest->size, &err), 0);
    assert_int_equal(cas_writer_commit(writer, &err), 0);
    free(data);
}

static struct cas_spread spread; /* of it */

static void renew_all_of_it(struct store *store, const struct digest *digest)
{
    (void)digest;
    assert_true(cas_spread_renew(store->cas, NULL, &spread));
}

static void test_every_use_renews(void **state)
{
    void (*const uses[])(struct store *, const struct digest *) = {
        find_it,      find_it_without_waiting, get_it,          begin_to_read_it,
        put_it_again, write_it_again,          renew_all_of_it,
    };
    struct store *store = *state;
    struct digest used;
    struct digest other;
    struct digest next;
    struct cas_hold hold;
    enum cas_presence presence;
    /* Room for two of them. */
    store_open(store, 3 * MIB);
    must_put(store, MIB, 0, &used);
    cas_hold_begin(store->cas, &hold);
    hold.spread = &spread;
    cas_find_nowait(store->cas, &hold, &used, 1, &presence);
    cas_hold_end(&hold);
    must_put(store, MIB, 1, &other);
    for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        uses[i](store, &used);
        must_put(store, MIB, 2 + i, &next);
        assert_int_equal(stats_of(store->cas).evicted, 1 + i);
        assert_false(is_there(store->cas, &other));
        assert_true(is_there(store->cas, &used));
        assert_true(is_there(store->cas, &next));
        other = next;
    }
    cas_spread_fini(&spread);
}

static void test_what_cannot_fit_evicts_nothing(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest other;
    struct cas_writer *writer;
    struct err err;
    store_open(store, 4 * MIB);
    must_put(store, MIB, 1, &digest);
    assert_int_equal(put_blob(store->cas, NULL, 4 * MIB, 2, &other), ERR_EXHAUSTED);
    const int64_t sizes[] = {4 * MIB, 1000LL * 1000 * 1000 * 1000, CAS_BLOB_MAX, INT64_MAX};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        other.size = sizes[i];
        assert_int_equal(cas_writer_open(store->cas, &other, &writer, &err), -ERR_EXHAUSTED);
    }
    assert_true(is_there(store->cas, &digest));
    assert_int_equal(stats_of(store->cas).evicted, 0);
}

static void test_a_reader_of_what_is_evicted_ends(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest other;
    struct cas_reader *reader;
    struct err err;
    uint8_t byte;
    store_open(store, 4 * MIB);
    must_put(store, MIB, 0, &digest);
    assert_int_equal(cas_reader_open(store->cas, &digest, &reader, &err), 0);
    assert_int_equal(cas_reader_read(reader, 0, &byte, 1, &err), 0);
    must_put(store, 3 * MIB, 1, &other);
    assert_int_equal(stats_of(store->cas).evicted, 1);
    /* It does not keep its room. */
    assert_true(du(store) < 4 * MIB);
    assert_int_equal(cas_reader_read(reader, MIB / 2, &byte, 1, &err), -ERR_NOT_FOUND);
    assert_int_equal(stats_of(store->cas).broken, 0);
    cas_reader_close(reader);
}

/* --- what stays --- */

static void test_an_upload_takes_its_room_first(void **state)
{
    struct store *store = *state;
    struct digest first;
    struct digest second;
    struct cas_writer *writer;
    struct cas_writer *refused;
    struct err err;
    store_open(store, 4 * MIB);
    set_patience(store, SHORT_PATIENCE);
    free(make_blob(3 * MIB, 1, &first));
    free(make_blob(3 * MIB, 2, &second));
    assert_int_equal(cas_writer_open(store->cas, &first, &writer, &err), 0);
    assert_true(stats_of(store->cas).bytes > 3 * MIB);
    assert_int_equal(cas_writer_open(store->cas, &second, &refused, &err), -ERR_EXHAUSTED);
    cas_writer_abort(writer);
    assert_true(stats_of(store->cas).bytes < MIB);
    assert_int_equal(cas_writer_open(store->cas, &second, &writer, &err), 0);
    cas_writer_abort(writer);
}

static void test_a_hold_keeps_what_was_found(void **state)
{
    struct store *store = *state;
    struct digest digests[4];
    struct digest more;
    struct cas_hold hold;
    struct cas_hold later;
    bool present;
    store_open(store, 4 * MIB);
    set_patience(store, SHORT_PATIENCE);
    for (uint64_t i = 0; i < 3; i++)
        must_put(store, MIB, i, &digests[i]);
    cas_hold_begin(store->cas, &hold);
    cas_find(store->cas, &hold, &digests[0], 1, &present);
    assert_true(present);
    cas_hold_begin(store->cas, &later);
    /* The two that are not held may go; where that is not enough nothing does. */
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, 3, &more), ERR_EXHAUSTED);
    assert_int_equal(stats_of(store->cas).evicted, 0);
    assert_int_equal(put_blob(store->cas, &hold, 2 * MIB, 3, &digests[3]), ERR_OK);
    assert_int_equal(stats_of(store->cas).evicted, 2);
    assert_int_equal(put_blob(store->cas, NULL, 2 * MIB, 4, &more), ERR_EXHAUSTED);
    cas_hold_end(&hold);
    /* The later one began before the upload: only what it did not see may go. */
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, 4, &more), ERR_EXHAUSTED);
    cas_hold_end(&later);
    assert_int_equal(put_blob(store->cas, NULL, 3 * MIB, 4, &more), ERR_OK);
    assert_false(is_there(store->cas, &digests[0]));
    assert_false(is_there(store->cas, &digests[3]));
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

static void test_the_end_of_a_hold_lets_an_upload_go_on(void **state)
{
    struct store *store = *state;
    struct waiting_upload upload = {.store = store};
    struct cas_hold hold;
    struct digest digest;
    pthread_t thread;
    store_open(store, 4 * MIB);
    set_patience(store, LONG_PATIENCE);
    struct cas_space *space = store->cas->space;
    cas_hold_begin(store->cas, &hold);
    assert_int_equal(put_blob(store->cas, &hold, 2 * MIB, 0, &digest), ERR_OK);
    assert_int_equal(pthread_create(&thread, NULL, upload_that_waits, &upload), 0);
    bool is_waiting = false;
    while (!is_waiting) {
        (void)usleep(1000);
        (void)pthread_mutex_lock(&space->lock);
        is_waiting = space->first != NULL;
        (void)pthread_mutex_unlock(&space->lock);
    }
    assert_true(is_there(store->cas, &digest));
    cas_hold_end(&hold);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(upload.code, ERR_OK);
    assert_false(is_there(store->cas, &digest));
}

/* --- room for the table --- */

static atomic_bool is_slow; /* the next shard of the table that is written anew waits */
static atomic_bool is_waiting_for_room;

static int slow_fallocate(int fd, int mode, off_t offset, off_t size)
{
    if (atomic_exchange(&is_slow, false)) {
        atomic_store(&is_waiting_for_room, true);
        while (atomic_load(&is_waiting_for_room))
            (void)usleep(1000);
    }
    return fallocate(fd, mode, offset, size);
}

static int slow_setup(void **state)
{
    disk.fallocate = slow_fallocate;
    return store_setup(state);
}

static int slow_teardown(void **state)
{
    int rc = store_teardown(state);
    disk.fallocate = fallocate;
    return rc;
}

/* Small blobs, until one of the shards has become larger. */
static void *upload_many(void *argument)
{
    struct waiting_upload *upload = argument;
    struct digest digest;
    int64_t before = digest_table_bytes(upload->store->cas->table);
    uint64_t seed = 1000;
    do
        upload->code = put_blob(upload->store->cas, NULL, 10, seed++, &digest);
    while (upload->code == ERR_OK && digest_table_bytes(upload->store->cas->table) == before);
    return NULL;
}

static void test_uploads_go_on_while_one_waits_for_room_in_the_table(void **state)
{
    struct store *store = *state;
    struct waiting_upload upload = {.store = store};
    struct digest digest;
    pthread_t thread;
    store_open(store, 64 * MIB);
    must_put(store, 10, 0, &digest);
    atomic_store(&is_slow, true);
    assert_int_equal(pthread_create(&thread, NULL, upload_many, &upload), 0);
    while (!atomic_load(&is_waiting_for_room))
        (void)usleep(1000);
    for (uint64_t i = 0; i < 100; i++) {
        must_put(store, 10, i, &digest);
        assert_true(is_there(store->cas, &digest));
    }
    atomic_store(&is_waiting_for_room, false);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(upload.code, ERR_OK);
}

/* --- many threads --- */

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
        /* Some are streamed, and many small ones let the table grow. */
        size_t size = (random >> 33) % ((random >> 40) % 4 != 0 ? 6000 : 300000) + 1;
        if (push_in_two_steps(pushing, size, random) != 0)
            pushing->failed++;
        total += size;
    }
    (void)atomic_fetch_sub(pushing->running, 1);
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
        int64_t counted = (int64_t)stats_of(store->cas).bytes, before, bytes;
        do { /* until no thread of the store has evicted or sealed meanwhile */
            before = counted;
            bytes = du(store);
            counted = (int64_t)stats_of(store->cas).bytes;
        } while (counted != before);
        assert_true(bytes <= counted);
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
    assert_true(stats_of(store->cas).evicted > 0);
    assert_int_equal(stats_of(store->cas).broken, 0);
    store_reopen(store, PUSH_QUOTA);
    assert_true(du(store) <= PUSH_QUOTA);
}

/* --- where nothing may go --- */

static void open_keeping(struct store *store, int64_t quota)
{
    struct err err;
    const struct cas_options options = {
        .path = store->scratch.path, .quota = quota, .may_write = true, .keeps_all = true};
    if (cas_open(&options, &store->cas, &err) != 0)
        fail_msg("%s", err.msg);
    set_patience(store, LONG_PATIENCE);
}

/* Nor does the next writer evict at its start what just fitted in. */
static void test_who_keeps_all_evicts_nothing(void **state)
{
    enum { SIZE = 100 * KIB, BLOBS = 200, KEPT_QUOTA = 8 * MIB };
    struct store *store = *state;
    struct digest digests[BLOBS], digest;
    struct cas_writer *writer;
    struct err err;
    size_t count = 0;
    open_keeping(store, KEPT_QUOTA);
    while (put_blob(store->cas, NULL, SIZE, count, &digests[count]) == ERR_OK)
        assert_true(++count < BLOBS);
    assert_true(count * SIZE > KEPT_QUOTA / 2);
    assert_int_equal(put_blob(store->cas, NULL, SIZE, count, &digests[count]), ERR_EXHAUSTED);
    digests[count].size = MIB;
    assert_int_equal(cas_writer_open(store->cas, &digests[count], &writer, &err), -ERR_EXHAUSTED);
    assert_non_null(strstr(err.msg, "nothing is to be evicted"));
    /* What the next one keeps free is left, to the last blob: or it would evict at once. */
    for (size_t i = 0; put_blob(store->cas, NULL, KIB, BLOBS + i, &digest) == ERR_OK; i++)
        assert_true(i < KEPT_QUOTA / KIB);
    const struct cas_space *space = store->cas->space;
    assert_true(atomic_load(&space->used) <= space->limit - space->aside - space->headroom);
    assert_true(du(store) <= KEPT_QUOTA);
    store_close(store);
    open_keeping(store, KEPT_QUOTA / 2);
    assert_int_equal(put_blob(store->cas, NULL, 1, count, &digests[count]), ERR_EXHAUSTED);
    store_reopen(store, KEPT_QUOTA);
    (void)du(store);
    assert_int_equal(stats_of(store->cas).evicted, 0);
    for (size_t i = 0; i < count; i++)
        assert_true(is_there(store->cas, &digests[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_use_renews, store_setup, store_teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_fit_evicts_nothing, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_reader_of_what_is_evicted_ends, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_an_upload_takes_its_room_first, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_hold_keeps_what_was_found, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_the_end_of_a_hold_lets_an_upload_go_on, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_uploads_go_on_while_one_waits_for_room_in_the_table,
                                        slow_setup, slow_teardown),
        cmocka_unit_test_setup_teardown(test_the_quota_holds_under_load, store_setup,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_who_keeps_all_evicts_nothing, store_setup,
                                        store_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
