/* SPDX-License-Identifier: Apache-2.0 */
/* What is found in a CAS while it changes: holds, spreads, what is being decided, and threads. */
#include <pthread.h>
#include <stdatomic.h>

#include "store_blobs.h"

static int open_store(void **state)
{
    (void)store_setup(state);
    store_open(*state, 64 * MIB);
    return 0;
}

/* --- what is not known at present --- */

static void *decide_later(void *argument)
{
    struct cas_segment *segment = argument;
    (void)usleep(20 * 1000);
    atomic_store(&segment->state, CAS_OPEN);
    return NULL;
}

static void test_who_can_wait_learns_what_is_decided(void **state)
{
    struct store *store = *state;
    struct digest digest;
    pthread_t thread;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    struct cas_segment *segment = segment_of(store->cas, &digest);
    atomic_store(&segment->state, CAS_LEAVING);
    assert_int_equal(presence_of(store->cas, &digest), CAS_UNVERIFIED);
    assert_int_equal(pthread_create(&thread, NULL, decide_later, segment), 0);
    assert_int_equal(verified_presence_of(store->cas, &digest), CAS_PRESENT);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
}

/* Who was to decide may have been killed. */
static void test_a_segment_is_waited_for_once(void **state)
{
    enum { BLOBS = 10 };
    struct store *store = *state;
    struct digest digests[BLOBS];
    bool present[BLOBS];
    struct cas_blob blobs[BLOBS];
    uint8_t buffer[BLOBS * 100];
    const _Atomic uint64_t *uses = &store->cas->shared.header->counter;
    for (uint64_t i = 0; i < BLOBS; i++) {
        assert_int_equal(put_blob(store->cas, NULL, 100, i, &digests[i]), ERR_OK);
        blobs[i].digest = digests[i];
    }
    struct cas_segment *segment = segment_of(store->cas, &digests[0]);
    atomic_store(&segment->state, CAS_LEAVING);
    /* Each look is a use. */
    uint64_t before = atomic_load(uses);
    cas_find(store->cas, NULL, digests, BLOBS, present);
    uint64_t looks = atomic_load(uses) - before;
    assert_true(looks > 100);
    assert_true(looks < 1000);
    /* Nor does any other call wait. */
    cas_get(store->cas, NULL, blobs, BLOBS, buffer);
    for (uint64_t i = 0; i < BLOBS; i++)
        assert_int_equal(get_blob(store->cas, 100, i), ERR_UNAVAILABLE);
    assert_true(atomic_load(uses) - before < looks + 10 * BLOBS);
    for (size_t i = 0; i < BLOBS; i++) {
        assert_false(present[i]);
        assert_int_equal(blobs[i].err.code, ERR_UNAVAILABLE);
    }
    atomic_store(&segment->state, CAS_OPEN);
    assert_true(is_there(store->cas, &digests[BLOBS - 1]));
}

static void test_a_miss_while_the_table_is_filled_says_nothing(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct digest other;
    struct cas_reader *reader;
    struct err err;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    free(make_blob(1000, 2, &other));
    atomic_store(&store->cas->shared.header->rebuilding, CAS_FILLING);
    assert_int_equal(presence_of(store->cas, &digest), CAS_PRESENT);
    assert_int_equal(presence_of(store->cas, &other), CAS_UNVERIFIED);
    assert_int_equal(verified_presence_of(store->cas, &other), CAS_UNVERIFIED);
    assert_false(is_there(store->cas, &other));
    assert_int_equal(get_blob(store->cas, 1000, 2), ERR_UNAVAILABLE);
    assert_int_equal(cas_reader_open(store->cas, &other, &reader, &err), -ERR_UNAVAILABLE);
    assert_int_equal(cas_delete(store->cas, &other, &err), -ERR_UNAVAILABLE);
    /* Who uploads it knows better. */
    assert_int_equal(put_blob(store->cas, NULL, 1000, 2, &other), ERR_OK);
    assert_int_equal(presence_of(store->cas, &other), CAS_PRESENT);
    atomic_store(&store->cas->shared.header->rebuilding, CAS_REBUILT);
}

/* --- holds and spreads --- */

static void begin_spread(struct cas *cas, struct cas_hold *hold, struct cas_spread *spread)
{
    *spread = (struct cas_spread){0};
    cas_hold_begin(cas, hold);
    hold->spread = spread;
}

/* Whether what SPREAD stands for is still there. */
static bool is_whole(struct cas *cas, const struct cas_spread *spread)
{
    return cas_spread_renew(cas, NULL, spread);
}

static void test_a_spread_tells_that_all_is_still_there(void **state)
{
    enum { BLOBS = 100 };
    struct store *store = *state;
    struct digest digests[BLOBS];
    struct digest other;
    enum cas_presence presence[BLOBS];
    struct cas_hold hold;
    struct cas_spread spread;
    struct err err;
    /* Large ones have a segment each. */
    for (uint64_t i = 0; i < BLOBS; i++)
        assert_int_equal(put_blob(store->cas, NULL, i % 5 == 0 ? 100000 : 100, i, &digests[i]),
                         ERR_OK);
    begin_spread(store->cas, &hold, &spread);
    cas_find_nowait(store->cas, &hold, digests, BLOBS, presence);
    cas_hold_end(&hold);
    for (size_t i = 0; i < BLOBS; i++)
        assert_int_equal(presence[i], CAS_PRESENT);
    assert_int_equal(spread.count, BLOBS / 5 + 1);
    for (size_t i = 1; i < spread.count; i++)
        assert_true(spread.segments[i - 1].number < spread.segments[i].number);
    assert_true(is_whole(store->cas, &spread));
    /* What comes beside it is no matter. */
    assert_int_equal(put_blob(store->cas, NULL, 100, 1000, &other), ERR_OK);
    assert_true(is_whole(store->cas, &spread));
    assert_int_equal(cas_delete(store->cas, &digests[5], &err), 0);
    assert_false(is_whole(store->cas, &spread));
    cas_spread_fini(&spread);
    /* One of nothing stands for nothing that could go. */
    assert_true(is_whole(store->cas, &spread));
}

static void test_a_spread_is_over_when_a_blob_breaks_or_is_suspect(void **state)
{
    struct store *store = *state;
    struct digest digest;
    struct cas_hold hold;
    struct cas_spread spread;
    struct cas_found found;
    assert_int_equal(put_blob(store->cas, NULL, 1000, 1, &digest), ERR_OK);
    begin_spread(store->cas, &hold, &spread);
    assert_int_equal(cas_look_up(store->cas, &hold, &digest, &found), CAS_PRESENT);
    assert_true(is_whole(store->cas, &spread));
    assert_true(cas_set_suspect(store->cas, &found, true));
    assert_false(cas_set_suspect(store->cas, &found, true));
    assert_false(is_whole(store->cas, &spread));
    cas_spread_fini(&spread);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_OK);
    assert_int_equal(cas_look_up(store->cas, &hold, &digest, &found), CAS_PRESENT);
    assert_true(is_whole(store->cas, &spread));
    blob_flip(store, &digest, 0);
    assert_int_equal(get_blob(store->cas, 1000, 1), ERR_NOT_FOUND);
    assert_false(is_whole(store->cas, &spread));
    cas_hold_end(&hold);
    cas_spread_fini(&spread);
}

static void test_what_is_stored_through_a_hold_counts_as_found(void **state)
{
    struct store *store = *state;
    struct digest digests[2];
    struct cas_hold hold;
    struct cas_hold second;
    struct cas_spread spread;
    struct cas_spread other;
    begin_spread(store->cas, &hold, &spread);
    assert_int_equal(put_blob(store->cas, &hold, 1000, 1, &digests[0]), ERR_OK);
    assert_int_equal(put_blob(store->cas, &hold, 100000, 2, &digests[1]), ERR_OK);
    assert_int_equal(spread.count, 2);
    assert_int_equal(hold.unsynced_count, 2);
    /* So is what is renewed all together. */
    const struct cas_segment *segment = segment_of(store->cas, &digests[0]);
    begin_spread(store->cas, &second, &other);
    assert_true(cas_spread_renew(store->cas, &second, &spread));
    assert_int_equal(other.count, 2);
    assert_true(second.unsynced_count >= 1); /* the large one's is being sealed */
    assert_true(atomic_load(&segment->last_use) > second.since);
    cas_hold_end(&hold);
    cas_hold_end(&second);
    cas_spread_fini(&spread);
    cas_spread_fini(&other);
}

static void test_the_oldest_hold_is_told(void **state)
{
    struct store *store = *state;
    struct cas_hold holds[3];
    struct cas_shared *shared = &store->cas->shared;
    const _Atomic uint64_t *oldest = &shared->header->processes[shared->process].oldest_hold;
    assert_int_equal(atomic_load(oldest), 0);
    for (size_t i = 0; i < 3; i++)
        cas_hold_begin(store->cas, &holds[i]);
    assert_true(holds[0].since < holds[1].since && holds[1].since < holds[2].since);
    assert_int_equal(atomic_load(oldest), holds[0].since);
    cas_hold_end(&holds[1]);
    assert_int_equal(atomic_load(oldest), holds[0].since);
    cas_hold_end(&holds[0]);
    assert_int_equal(atomic_load(oldest), holds[2].since);
    cas_hold_end(&holds[2]);
    assert_int_equal(atomic_load(oldest), 0);
}

/* --- beside the one that writes --- */

struct noted_sync {
    struct cas_sync sync; /* first, so that it is the noted one */
    enum err_code code;
};

static void note_code(struct cas_sync *sync, const struct err *err)
{
    ((struct noted_sync *)sync)->code = err != NULL ? err->code : ERR_OK;
}

static void test_who_only_reads(void **state)
{
    struct store *store = *state;
    const struct cas_options options = {.path = store->scratch.path, .quota = 64 * MIB};
    struct cas *reader;
    struct digest digests[2];
    struct cas_writer *writer;
    struct cas_hold hold;
    struct cas_spread spread;
    struct err err;
    assert_int_equal(cas_open(&options, &reader, &err), 0);
    for (uint64_t i = 0; i < 2; i++)
        assert_int_equal(put_blob(store->cas, NULL, 1000, i, &digests[i]), ERR_OK);
    assert_int_equal(presence_of(reader, &digests[0]), CAS_PRESENT);
    assert_int_equal(get_blob(reader, 1000, 0), ERR_OK);
    const struct cas_segment *segment = segment_of(store->cas, &digests[1]);
    /* It writes nothing. */
    assert_int_equal(put_blob(reader, NULL, 1000, 0, &digests[0]), ERR_UNAVAILABLE);
    assert_int_equal(cas_writer_open(reader, &digests[0], &writer, &err), -ERR_UNAVAILABLE);
    assert_int_equal(cas_delete(reader, &digests[0], &err), -ERR_UNAVAILABLE);
    cas_hold_begin(reader, &hold);
    struct noted_sync noted = {.sync = {.hold = &hold, .done = note_code}};
    cas_sync(reader, &noted.sync);
    assert_int_equal(noted.code, ERR_UNAVAILABLE);
    /* Its holds are known to the one that writes, and so are its uses. */
    assert_int_equal(cas_shared_oldest_hold(&store->cas->shared), hold.since);
    assert_true(is_there(reader, &digests[1]));
    assert_true(atomic_load(&segment->last_use) > hold.since);
    cas_hold_end(&hold);
    /* What it finds broken is gone for all. */
    begin_spread(store->cas, &hold, &spread);
    bool present;
    cas_find(store->cas, &hold, &digests[0], 1, &present);
    cas_hold_end(&hold);
    assert_true(present);
    assert_true(is_whole(store->cas, &spread));
    blob_flip(store, &digests[0], 1);
    assert_int_equal(get_blob(reader, 1000, 0), ERR_NOT_FOUND);
    assert_false(is_there(store->cas, &digests[0]));
    assert_false(is_whole(store->cas, &spread));
    assert_int_equal(stats_of(store->cas).broken, 1);
    cas_spread_fini(&spread);
    cas_close(reader);
}

/* --- many threads --- */

/* Threads that put, read and remove the same few blobs; not NULL: something went wrong. */
static void *churn(void *argument)
{
    struct store *store = argument;
    struct cas_spread spread = {0};
    for (uint64_t i = 0; i < 200; i++) {
        struct digest digest;
        struct err err;
        struct cas_hold hold;
        cas_hold_begin(store->cas, &hold);
        hold.spread = &spread;
        enum err_code code = put_blob(store->cas, &hold, 70000, i % 3, &digest);
        if (code != ERR_OK)
            return store;
        (void)is_there(store->cas, &digest);
        code = get_blob(store->cas, 70000, (i + 1) % 3);
        if (code != ERR_OK && code != ERR_NOT_FOUND)
            return store;
        (void)cas_spread_renew(store->cas, &hold, &spread);
        cas_hold_end(&hold);
        if (i % 5 == 0)
            (void)cas_delete(store->cas, &digest, &err);
        if (i % 7 == 0)
            cas_spread_fini(&spread);
    }
    cas_spread_fini(&spread);
    return NULL;
}

enum { THREADS = 4 };

/*
 * Those that take room under a hold begin it together: the hold of one that gets no time would
 * keep all that the others store meanwhile.
 */
static pthread_barrier_t rounds;

static void run_threads(struct store *store, void *(*run)(void *))
{
    pthread_t threads[THREADS];
    void *wrong[THREADS];
    assert_int_equal(pthread_barrier_init(&rounds, NULL, THREADS), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run, store), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], &wrong[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_null(wrong[i]);
    (void)pthread_barrier_destroy(&rounds);
}

static void test_threads_on_the_same_blobs(void **state)
{
    struct store *store = *state;
    run_threads(store, churn);
    for (uint64_t i = 0; i < 3; i++) {
        struct digest digest;
        struct err err;
        free(make_blob(70000, i, &digest));
        (void)cas_delete(store->cas, &digest, &err);
    }
    assert_int_equal(stats_of(store->cas).blobs, 0);
    assert_int_equal(stats_of(store->cas).broken, 0);
}

static int open_small_store(void **state)
{
    (void)store_setup(state);
    store_open(*state, 8 * MIB);
    return 0;
}

/* Threads whose blobs are more than the quota: what is held stays. */
static void *overflow(void *argument)
{
    static atomic_uint_fast64_t seeds;
    struct store *store = argument;
    bool is_right = true;
    for (unsigned i = 0; i < 60; i++) {
        struct cas_hold hold;
        struct digest digests[3];
        bool present[3];
        (void)pthread_barrier_wait(&rounds);
        cas_hold_begin(store->cas, &hold);
        for (size_t k = 0; k < 3; k++) {
            size_t size = k == 2 ? 300000 : 5000;
            uint64_t seed = atomic_fetch_add(&seeds, 1);
            if (put_blob(store->cas, &hold, size, seed, &digests[k]) != ERR_OK)
                is_right = false;
        }
        cas_find(store->cas, &hold, digests, 3, present);
        is_right = is_right && present[0] && present[1] && present[2];
        cas_hold_end(&hold);
    }
    return is_right ? NULL : store;
}

static void test_threads_beyond_the_quota(void **state)
{
    struct store *store = *state;
    run_threads(store, overflow);
    assert_true(stats_of(store->cas).bytes <= 8 * MIB);
    assert_true(stats_of(store->cas).evicted > 0);
    assert_int_equal(stats_of(store->cas).broken, 0);
}

/* What a thread remembers of one set of blobs. */
enum { SETS = 6, SET_BLOBS = 12 };

/* Puts the blobs of a set that are not there; false: the store would not. */
static bool put_set(struct cas *cas, struct cas_hold *hold, uint64_t set, struct digest *digests)
{
    for (uint64_t i = 0; i < SET_BLOBS; i++) {
        size_t size = i == 0 ? 20000 : 700 + i;
        if (put_blob(cas, hold, size, (set + 1) * 100 + i, &digests[i]) != ERR_OK)
            return false;
    }
    return true;
}

/* What was whole and has lost a blob: its removal is told a moment after it. */
static bool stays_whole(struct cas *cas, const struct cas_spread *spread)
{
    for (unsigned tries = 0; tries < 5000; tries++) {
        if (!cas_spread_renew(cas, NULL, spread))
            return false;
        (void)usleep(1000);
    }
    return true;
}

/*
 * Threads that remember sets of blobs, while others evict and remove them: one that is said to be
 * whole is, as long as it is held and nobody removes some of it.
 */
static void *remember(void *argument)
{
    static atomic_uint_fast64_t seeds = 1000000;
    struct store *store = argument;
    struct cas_spread spreads[SETS] = {{0}};
    struct digest digests[SETS][SET_BLOBS];
    bool present[SET_BLOBS];
    bool is_right = true;
    for (uint64_t i = 0; i < 150; i++) {
        (void)pthread_barrier_wait(&rounds);
        if (!is_right)
            continue;
        uint64_t set = i % SETS;
        struct cas_spread *spread = &spreads[set];
        struct cas_hold hold;
        struct digest other;
        struct err err;
        cas_hold_begin(store->cas, &hold);
        if (spread->count != 0 && cas_spread_renew(store->cas, &hold, spread)) {
            cas_find(store->cas, &hold, digests[set], SET_BLOBS, present);
            bool are_there = true;
            for (size_t k = 0; k < SET_BLOBS; k++)
                are_there = are_there && present[k];
            is_right = are_there || !stays_whole(store->cas, spread);
        } else {
            cas_spread_fini(spread);
            hold.spread = spread;
            is_right = put_set(store->cas, &hold, set, digests[set]);
        }
        cas_hold_end(&hold);
        is_right = is_right &&
                   put_blob(store->cas, NULL, 90000, atomic_fetch_add(&seeds, 1), &other) == ERR_OK;
        /* One that others remember as well. */
        if (i % 40 == 39)
            (void)cas_delete(store->cas, &digests[(set + 1) % SETS][0], &err);
    }
    for (size_t i = 0; i < SETS; i++)
        cas_spread_fini(&spreads[i]);
    return is_right ? NULL : store;
}

static void test_threads_that_remember(void **state)
{
    struct store *store = *state;
    run_threads(store, remember);
    assert_true(stats_of(store->cas).evicted > 0);
    assert_int_equal(stats_of(store->cas).broken, 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, open_store, store_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_who_can_wait_learns_what_is_decided),
        CASE(test_a_segment_is_waited_for_once),
        CASE(test_a_miss_while_the_table_is_filled_says_nothing),
        CASE(test_a_spread_tells_that_all_is_still_there),
        CASE(test_a_spread_is_over_when_a_blob_breaks_or_is_suspect),
        CASE(test_what_is_stored_through_a_hold_counts_as_found),
        CASE(test_the_oldest_hold_is_told),
        CASE(test_who_only_reads),
        CASE(test_threads_on_the_same_blobs),
        cmocka_unit_test_setup_teardown(test_threads_that_remember, open_small_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_threads_beyond_the_quota, open_small_store,
                                        store_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
