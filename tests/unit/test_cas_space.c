/* SPDX-License-Identifier: Apache-2.0 */
/* The quota of the log: never exceeded, what was used longest ago goes, and what was used stays. */
#include "base/clock.h"
#include "space_site.h"

/* --- tests --- */

static void test_a_small_quota(void **state)
{
    struct site *site = *state;
    struct err err;
    site_open(site, QUOTA);
    cas_space_free(site->space);
    site->space = NULL;
    assert_int_equal(new_space(site, 1000, 0, &err), -ERR_INVALID);
    assert_non_null(strstr(err.msg, "the quota of 1000 bytes is less than the "));
    const char *needed = strstr(err.msg, "than the ") + strlen("than the ");
    int64_t quota = strtoll(needed, NULL, 10);
    assert_true(quota > 1000 && quota < MB);
    /* What others have put there is as if the quota were less. */
    assert_int_equal(new_space(site, quota, 100 * KB, &err), -ERR_INVALID);
    assert_int_equal(new_space(site, quota, 0, &err), 0);
    assert_int_equal(cas_space_start(site->space, &err), 0);
    atomic_store(&site->space->patience, LONG_PATIENCE);
    for (uint64_t i = 0; i < 10; i++)
        must_put(site, i, 3000);
    assert_true(is_there(site, 9, 3000));
    assert_true(du_at_rest(site) <= quota);
}

static void test_the_one_used_longest_ago_goes_alone(void **state)
{
    struct site *site = *state;
    site_start(site, 22 * MB);
    must_put(site, 0, 15 * MB);
    must_put(site, 1, 5 * MB);
    must_put(site, 2, 5 * MB);
    assert_false(is_there(site, 0, 15 * MB));
    assert_int_equal(evicted(site), 1);
    assert_int_equal(read_blob(site, 1, 5 * MB), ERR_OK);
    assert_int_equal(read_blob(site, 2, 5 * MB), ERR_OK);
    /* Use renews; the next takes the room of the other, and no more. */
    assert_true(use_blob(site, 1, 5 * MB));
    must_put(site, 3, 14 * MB);
    assert_true(is_there(site, 1, 5 * MB));
    assert_false(is_there(site, 2, 5 * MB));
    assert_int_equal(evicted(site), 2);
    assert_int_equal(atomic_load(&site->shared.header->blobs), 2);
    assert_true(du_at_rest(site) <= 22 * MB);
    assert_int_equal(atomic_load(&site->shared.header->bytes), cas_space_used(site->space));
}

static void test_what_cannot_fit_evicts_nothing(void **state)
{
    struct site *site = *state;
    struct err err;
    site_start(site, QUOTA);
    must_put(site, 0, MB);
    int64_t used = cas_space_used(site->space);
    assert_int_equal(put_blob(site, 1, QUOTA), ERR_EXHAUSTED);
    assert_int_equal(cas_space_fits(site->space, INT64_MAX, &err), -ERR_EXHAUSTED);
    assert_string_equal(err.msg, "the blob is too large for the quota of 5000000 bytes");
    assert_int_equal(cas_space_take(site->space, -1, &err), -ERR_EXHAUSTED);
    assert_int_equal(cas_space_fits(site->space, 4 * MB, &err), 0);
    assert_true(is_there(site, 0, MB));
    assert_int_equal(evicted(site), 0);
    assert_int_equal(cas_space_used(site->space), used);
}

static void test_what_was_used_is_carried(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    uint64_t count = put_one_segment(site);
    uint64_t old = segment_of(site, 0, SMALL);
    assert_true(use_blob(site, 3, SMALL));
    uint64_t next = put_until_evicted(site, 1000, SMALL, count - 1);
    wait_until_gone(site, old);
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(is_there(site, i, SMALL), i == 3);
    assert_int_equal(read_blob(site, 3, SMALL), ERR_OK);
    /* A copy has to be used again for the next time. */
    assert_int_equal(place_of(site, 3, SMALL) & CAS_PLACE_FLAGS, 0);
    uint64_t copy = segment_of(site, 3, SMALL);
    const struct cas_segment *segment = cas_segment_find(&site->shared, copy);
    assert_true(atomic_load(&segment->durable) > cas_place_offset(place_of(site, 3, SMALL)));
    for (; cas_segment_find(&site->shared, copy) != NULL; next++)
        must_put(site, next, SMALL);
    assert_false(is_there(site, 3, SMALL));
}

static void test_what_was_used_much_is_renewed(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    uint64_t count = put_one_segment(site);
    for (uint64_t i = 0; i < count - 2; i++)
        assert_true(use_blob(site, i, SMALL));
    uint64_t number = segment_of(site, 0, SMALL);
    uint64_t next = put_until_evicted(site, 1000, SMALL, 1);
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(segment_of(site, i, SMALL), number);
        assert_int_equal(place_of(site, i, SMALL) & CAS_PLACE_FLAGS, 0);
    }
    for (; cas_segment_find(&site->shared, number) != NULL; next++)
        must_put(site, next, SMALL);
    for (uint64_t i = 0; i < count; i++)
        assert_false(is_there(site, i, SMALL));
}

static void test_a_tree_uses_all(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    uint64_t count = put_one_segment(site);
    uint64_t number = segment_of(site, 0, SMALL);
    struct cas_segment *segment = cas_segment_find(&site->shared, number);
    (void)atomic_fetch_or(&segment->flags, CAS_SEGMENT_TREE_USED);
    (void)put_until_evicted(site, 1000, SMALL, 1);
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(segment_of(site, i, SMALL), number);
    assert_int_equal(atomic_load(&segment->flags), 0);
}

static void test_a_large_blob_has_its_second_chance(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    must_put(site, 0, 100 * KB);
    must_put(site, 1, 100 * KB);
    assert_true(use_blob(site, 0, 100 * KB));
    assert_true(use_blob(site, 1, 100 * KB));
    must_put(site, 2, 100 * KB);
    uint64_t next = put_until_evicted(site, 1000, SMALL, 1);
    assert_true(is_there(site, 0, 100 * KB));
    assert_true(is_there(site, 1, 100 * KB));
    assert_false(is_there(site, 2, 100 * KB));
    assert_int_equal(place_of(site, 0, 100 * KB) & CAS_PLACE_FLAGS, 0);
    /* There is no third one, but by another use. */
    assert_true(use_blob(site, 1, 100 * KB));
    for (; is_there(site, 0, 100 * KB); next++)
        must_put(site, next, SMALL);
    assert_true(is_there(site, 1, 100 * KB));
}

/* Where all else was used as well, but longer ago: that goes, though it has its second chance. */
static void test_what_was_stored_or_used_last_stays(void **state)
{
    struct site *site = *state;
    uint64_t next = 0;
    site_start(site, QUOTA);
    for (; cas_space_used(site->space) < site->space->limit - MB; next++) {
        must_put(site, next, SMALL);
        assert_true(use_blob(site, next, SMALL));
    }
    must_put(site, 10000, 100 * KB);
    assert_true(use_blob(site, 10000, 100 * KB));
    must_put(site, 10001, 100 * KB);
    assert_int_equal(evicted(site), 0);
    (void)put_until_evicted(site, 20000, SMALL, 1);
    assert_true(is_there(site, 10000, 100 * KB));
    assert_true(is_there(site, 10001, 100 * KB));
    assert_true(is_there(site, 20000, SMALL));
    assert_false(is_there(site, 0, SMALL));
}

/* A hold that relies on none of what was spared does not keep it from going. */
static void test_what_was_spared_is_not_held(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    atomic_store(&site->space->patience, SHORT_PATIENCE);
    for (uint64_t i = 0; i < 3; i++)
        must_put(site, i, 1400 * KB);
    for (uint64_t i = 0; i < 3; i++)
        assert_true(use_blob(site, i, 1400 * KB));
    cas_shared_set_oldest_hold(&site->shared, cas_shared_tick(&site->shared));
    for (int i = 0; i < 1000; i++)
        (void)cas_shared_tick(&site->shared);
    must_put(site, 3, 1400 * KB);
    cas_shared_set_oldest_hold(&site->shared, 0);
}

/* Where all is used something goes all the same, and where all is used all the time, too. */
static void test_second_chances_end(void **state)
{
    struct site *site = *state;
    uint64_t next = 0;
    site_start(site, QUOTA);
    for (; evicted(site) == 0 && next < 5000; next++) {
        must_put(site, next, SMALL);
        for (uint64_t i = next > 200 ? next - 200 : 0; i <= next; i++)
            (void)use_blob(site, i, SMALL);
    }
    for (uint64_t i = 0; i < 1000; i++, next++) {
        must_put(site, next, SMALL);
        assert_true(use_blob(site, next, SMALL));
    }
    assert_true(evicted(site) > 0);
    assert_true(du_at_rest(site) <= QUOTA);
}

static void test_after_a_round_the_oldest_goes(void **state)
{
    struct site *site = *state;
    struct err err;
    site_open(site, QUOTA);
    site->space->spared = CAS_SEGMENTS_MAX;
    assert_int_equal(cas_space_start(site->space, &err), 0);
    uint64_t count = put_one_segment(site);
    for (uint64_t i = 0; i < count; i++)
        assert_true(use_blob(site, i, SMALL));
    (void)put_until_evicted(site, 1000, SMALL, 1);
    for (uint64_t i = 0; i < count; i++)
        assert_false(is_there(site, i, SMALL));
}

/* Nobody waits, and the one that would go is larger than what is to be kept free. */
static void test_nothing_large_goes_in_advance(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    struct cas_space *space = site->space;
    must_put(site, 0, MB);
    for (uint64_t i = 1000; cas_space_used(space) < space->limit - space->aside - 30 * KB; i++)
        must_put(site, i, SMALL);
    bool has_looked = false;
    for (int i = 0; !has_looked; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
        (void)pthread_mutex_lock(&space->lock);
        has_looked = space->retry_at != 0 || evicted(site) != 0;
        (void)pthread_mutex_unlock(&space->lock);
    }
    assert_int_equal(evicted(site), 0);
    assert_true(is_there(site, 0, MB));
}

static void test_a_hold_keeps_what_was_found(void **state)
{
    struct site *site = *state;
    site_start(site, QUOTA);
    atomic_store(&site->space->patience, SHORT_PATIENCE);
    for (uint64_t i = 0; i < 4; i++)
        must_put(site, i, MB);
    cas_shared_set_oldest_hold(&site->shared, cas_shared_tick(&site->shared));
    assert_true(use_blob(site, 0, MB));
    /* Three may go: where that is not enough, none does. */
    assert_int_equal(put_blob(site, 4, 4 * MB - MB / 4), ERR_EXHAUSTED);
    assert_int_equal(evicted(site), 0);
    must_put(site, 4, 2 * MB);
    assert_true(is_there(site, 0, MB));
    assert_false(is_there(site, 1, MB));
    cas_shared_set_oldest_hold(&site->shared, 0);
    cas_space_wake(site->space);
    must_put(site, 5, 4 * MB);
    assert_false(is_there(site, 0, MB));
}

struct upload {
    struct site *site;
    uint64_t seed;
    size_t size;
    enum err_code code;
};

static void *upload_one(void *argument)
{
    struct upload *upload = argument;
    upload->code = put_blob(upload->site, upload->seed, upload->size);
    return NULL;
}

static void wait_for_waiter(struct cas_space *space)
{
    bool is_waiting = false;
    for (int i = 0; !is_waiting; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
        (void)pthread_mutex_lock(&space->lock);
        is_waiting = space->first != NULL;
        (void)pthread_mutex_unlock(&space->lock);
    }
}

static void test_an_upload_waits_for_a_hold(void **state)
{
    struct site *site = *state;
    pthread_t thread;
    struct upload upload = {.site = site, .seed = 1, .size = 3 * MB};
    site_start(site, QUOTA);
    cas_shared_set_oldest_hold(&site->shared, cas_shared_tick(&site->shared));
    must_put(site, 0, 3 * MB);
    assert_int_equal(pthread_create(&thread, NULL, upload_one, &upload), 0);
    wait_for_waiter(site->space);
    assert_true(is_there(site, 0, 3 * MB));
    cas_shared_set_oldest_hold(&site->shared, 0);
    cas_space_wake(site->space);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(upload.code, ERR_OK);
    assert_false(is_there(site, 0, 3 * MB));
    assert_true(is_there(site, 1, 3 * MB));
}

/* Who wants little does not take what was made free for one that wants much. */
static void test_uploads_wait_in_turn(void **state)
{
    struct site *site = *state;
    pthread_t threads[2];
    struct upload large = {.site = site, .seed = 2, .size = 4 * MB};
    struct upload small = {.site = site, .seed = 3, .size = 10 * KB};
    struct err err;
    site_start(site, QUOTA);
    assert_int_equal(cas_space_take(site->space, 2 * MB, &err), 0);
    assert_int_equal(pthread_create(&threads[0], NULL, upload_one, &large), 0);
    wait_for_waiter(site->space);
    const struct cas_space_waiter *first = site->space->first;
    assert_int_equal(pthread_create(&threads[1], NULL, upload_one, &small), 0);
    for (bool waits = false; !waits; pause_briefly()) {
        (void)pthread_mutex_lock(&site->space->lock);
        waits = first->next != NULL;
        (void)pthread_mutex_unlock(&site->space->lock);
    }
    assert_false(is_there(site, 3, 10 * KB));
    cas_space_give(site->space, 2 * MB);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(large.code, ERR_OK);
    assert_int_equal(small.code, ERR_OK);
}

/* --- the start --- */

static void test_a_smaller_quota_evicts_at_start(void **state)
{
    struct site *site = *state;
    site_start(site, 2 * QUOTA);
    uint64_t count = put_one_segment(site);
    assert_true(use_blob(site, 3, SMALL));
    must_put(site, 50, MB);
    for (uint64_t i = 100; i < 120; i++)
        must_put(site, i, SMALL);
    assert_true(use_blob(site, 103, SMALL));
    for (uint64_t i = 0; i < 7; i++)
        must_put(site, i, MB);
    for (uint64_t i = 200; i < 220; i++)
        must_put(site, i, SMALL);
    assert_true(use_blob(site, 0, MB));
    uint32_t version = atomic_load(&site->shared.segments[0].version);
    site_close(site);
    site_start(site, QUOTA);
    for (int i = 0; cas_space_used(site->space) > QUOTA; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
    }
    assert_true(du_at_rest(site) <= QUOTA);
    assert_true(is_there(site, 0, MB));
    assert_true(is_there(site, 6, MB));
    assert_false(is_there(site, 1, MB));
    assert_true(is_there(site, 219, SMALL));
    /* There is no room for copies before the first has gone; then they fit into what it left. */
    for (uint64_t i = 0; i < count; i++)
        assert_false(is_there(site, i, SMALL));
    assert_false(is_there(site, 50, MB));
    assert_int_equal(read_blob(site, 103, SMALL), ERR_OK);
    assert_false(is_there(site, 104, SMALL));
    assert_true(atomic_load(&site->shared.segments[0].version) > version);
}

/* A table that is larger than the new quota shrinks with what goes. */
static void test_a_smaller_quota_trims_the_table(void **state)
{
    enum { MANY = 80000, TINY = 40 };
    struct site *site = *state;
    site_start(site, 40 * MB);
    for (uint64_t i = 0; i < MANY; i++)
        must_put(site, i, TINY);
    assert_int_equal(evicted(site), 0);
    int64_t quota = 3 * MB;
    int64_t table = digest_table_bytes(site->table);
    assert_true(table > quota);
    site_close(site);
    site_start(site, quota);
    for (int i = 0; cas_space_used(site->space) > quota; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
    }
    assert_true(du_at_rest(site) <= quota);
    assert_true(digest_table_bytes(site->table) < table / 2);
    /* Not all of it had to go for that, and what is left is found. */
    uint64_t left = 0;
    for (uint64_t i = 0; i < MANY; i++)
        left += is_there(site, i, TINY);
    assert_true(left > 1000);
    assert_int_equal(read_blob(site, MANY - 1, TINY), ERR_OK);
    must_put(site, MANY, 100 * KB);
    for (uint64_t i = MANY; i < MANY + 5000; i++)
        must_put(site, i, TINY);
    assert_true(du_at_rest(site) <= quota);
}

/* Another opening is another process to the store. */
static void test_who_keeps_all_for_long_is_told_of(void **state)
{
    struct site *site = *state;
    struct cas_shared other;
    struct err err;
    bool is_new;
    site_start(site, QUOTA);
    struct cas_space *space = site->space;
    atomic_store(&space->patience, SHORT_PATIENCE);
    assert_int_equal(cas_shared_open(site->cas_fd, store_id, false, &other, &is_new, &err), 0);
    assert_int_equal(cas_shared_join(&other, &err), 0);
    cas_shared_set_oldest_hold(&other, 1);
    must_put(site, 0, 4 * MB);
    assert_int_equal(put_blob(site, 1, 2 * MB), ERR_EXHAUSTED);
    uint64_t use;
    assert_int_equal(cas_shared_oldest_holder(&site->shared, &use), getpid());
    assert_int_equal(use, 1);
    assert_int_equal(cas_shared_oldest_holder(&other, &use), 0);
    cas_space_free(space);
    assert_int_equal(new_space(site, QUOTA, 0, &err), 0);
    space = site->space;
    atomic_store(&space->patience, SHORT_PATIENCE);
    /* As if it had been like this for more than a minute. */
    space->blocking_hold = 1;
    space->blocked_since = clock_steady() - 61 * 1000;
    assert_int_equal(cas_space_start(space, &err), 0);
    assert_int_equal(put_blob(site, 1, 2 * MB), ERR_EXHAUSTED);
    for (int i = 0; atomic_load(&space->holder_told_at) == 0; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
    }
    cas_shared_close(&other);
}

/* --- many threads --- */

enum { WRITERS = 4, BLOBS = 4000 };

struct pushing {
    struct site *site;
    uint64_t seed;
    unsigned failed;
    atomic_int *running;
    pthread_rwlock_t *still; /* held exclusively: nobody uploads */
};

static size_t size_of_seed(uint64_t seed)
{
    uint64_t random = mix(seed);
    return (size_t)(random % (mix(random) % 32 != 0 ? 4000 : 200 * KB)) + 1;
}

static void *push_much(void *argument)
{
    struct pushing *pushing = argument;
    for (uint64_t i = 0; i < BLOBS; i++) {
        uint64_t seed = pushing->seed + i;
        (void)pthread_rwlock_rdlock(pushing->still);
        if (put_blob(pushing->site, seed, size_of_seed(seed)) != ERR_OK)
            pushing->failed++;
        /* Some are used again and again. */
        for (uint64_t j = 1; j < 4 && i >= j * 64; j++)
            (void)use_blob(pushing->site, seed - j * 64, size_of_seed(seed - j * 64));
        enum err_code code = i % 8 == 0 ? read_blob(pushing->site, seed, size_of_seed(seed)) : 0;
        if (code != ERR_OK && code != ERR_NOT_FOUND)
            pushing->failed++;
        (void)pthread_rwlock_unlock(pushing->still);
    }
    (void)atomic_fetch_sub(pushing->running, 1);
    return NULL;
}

static void test_the_quota_holds_under_load(void **state)
{
    struct site *site = *state;
    pthread_t threads[WRITERS];
    struct pushing pushing[WRITERS];
    pthread_rwlock_t still;
    pthread_rwlockattr_t attributes;
    atomic_int running = WRITERS;
    site_start(site, QUOTA);
    (void)pthread_rwlockattr_init(&attributes);
    (void)pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    (void)pthread_rwlock_init(&still, &attributes);
    (void)pthread_rwlockattr_destroy(&attributes);
    for (size_t i = 0; i < WRITERS; i++) {
        pushing[i] = (struct pushing){
            .site = site, .seed = (i + 1) << 32, .running = &running, .still = &still};
        assert_int_equal(pthread_create(&threads[i], NULL, push_much, &pushing[i]), 0);
    }
    int64_t most = 0;
    while (atomic_load(&running) != 0) {
        (void)pthread_rwlock_wrlock(&still);
        int64_t bytes = du_at_rest(site);
        assert_true(bytes <= cas_space_used(site->space));
        (void)pthread_rwlock_unlock(&still);
        most = bytes > most ? bytes : most;
        pause_briefly();
    }
    for (size_t i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(pushing[i].failed, 0);
    }
    (void)pthread_rwlock_destroy(&still);
    assert_true(most > QUOTA / 2);
    assert_true(most <= QUOTA);
    assert_true(evicted(site) > 0);
    /* What is counted is what is there, but for rests of blocks and what is kept for contents. */
    assert_true(cas_space_used(site->space) < du_at_rest(site) + QUOTA / 5);
    site_close(site);
    assert_true(du(site) <= QUOTA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_small_quota, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_one_used_longest_ago_goes_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_fit_evicts_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_used_is_carried, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_used_much_is_renewed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_tree_uses_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_large_blob_has_its_second_chance, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_stored_or_used_last_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_spared_is_not_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_spared_is_not_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_chances_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_after_a_round_the_oldest_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_large_goes_in_advance, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_hold_keeps_what_was_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_upload_waits_for_a_hold, setup, teardown),
        cmocka_unit_test_setup_teardown(test_uploads_wait_in_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_smaller_quota_evicts_at_start, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_smaller_quota_trims_the_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_keeps_all_for_long_is_told_of, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_quota_holds_under_load, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
