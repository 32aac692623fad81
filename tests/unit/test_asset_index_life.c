/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index: how long assets live. */
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "index_site.h"
#include "store/asset_uses.h"

/* --- time --- */

static void test_expires_at_the_millisecond(void **state)
{
    struct site *site = *state;
    struct asset_key key = site_key("urn:a");
    struct asset asset = site_asset(1);
    site_open(site, MIB, 0);
    asset.expires_at = site_now() + 1000;
    site_put(site, &key, &asset);
    atomic_fetch_add(&site_clock, 999);
    assert_true(site_has(site, &key));
    atomic_fetch_add(&site_clock, 1);
    assert_false(site_has(site, &key));
    site_put(site, &key, &asset); /* in the past by now: accepted, and not found */
    assert_false(site_has(site, &key));
    asset.expires_at = -1;
    site_put(site, &key, &asset);
    assert_false(site_has(site, &key));
}

static void test_the_sweep_removes_what_has_expired_only(void **state)
{
    struct site *site = *state;
    enum { COUNT = 700 };
    site_open(site, 4 * MIB, 0);
    struct blocker blocker;
    site_block(site, &blocker);
    struct asset assets[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    static struct pending writes[COUNT];
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = site_numbered_key(texts[i], i);
        assets[i] = site_asset(i);
        assets[i].expires_at = site_now() + (i % 2 == 0 ? MINUTE : HOUR);
        site_begin_write(site, &writes[i], &keys[i], 1, &assets[i]);
    }
    site_unblock(&blocker);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(site_end_write(&writes[i]), ERR_OK);
    atomic_fetch_add(&site_clock, MINUTE);
    /* At most so many go at once; each write waits for one batch. */
    for (int i = 0; i < 30; i++)
        site_put_number(site, COUNT);
    assert_int_equal(site_stats(site).expired, COUNT / 2);
    assert_int_equal(site_stats(site).assets, COUNT / 2 + 2);
    assert_true(site_has_number(site, 1));
    assert_false(site_has_number(site, 2));

    /* At start as well. */
    site_close(site);
    atomic_fetch_add(&site_clock, HOUR);
    site_open(site, 4 * MIB, 0);
    for (int i = 0; i < 30; i++)
        site_put_number(site, COUNT);
    assert_int_equal(site_stats(site).expired, COUNT / 2);
    assert_int_equal(site_stats(site).assets, 2);
}

static void test_a_fetch_renews_the_life(void **state)
{
    struct site *site = *state;
    site_open(site, MIB, HOUR);
    site_put_number(site, 1);
    site_put_number(site, 2);
    atomic_fetch_add(&site_clock, HOUR - 1);
    assert_true(site_has_number(site, 1) && site_has_number(site, 2));
    site_touch(site, 1);
    atomic_fetch_add(&site_clock, 1);
    assert_true(site_has_number(site, 1)); /* the fetch counts before it is written */
    assert_false(site_has_number(site, 2));
    site_put_number(site, 3); /* after the sweep and the writing of fetches */
    assert_int_equal(site_stats(site).expired, 1);
    assert_true(site_has_number(site, 1));
    site_close(site);
    site_open(site, MIB, HOUR);
    atomic_fetch_add(&site_clock, HOUR - 2);
    assert_true(site_has_number(site, 1));
    atomic_fetch_add(&site_clock, 1);
    assert_false(site_has_number(site, 1));
}

static void test_a_fetch_renews_a_short_life(void **state)
{
    struct site *site = *state;
    site_open(site, MIB, MINUTE);
    site_put_number(site, 1);
    for (int i = 0; i < 20; i++) {
        atomic_fetch_add(&site_clock, MINUTE - 1);
        assert_true(site_has_number(site, 1));
        site_touch(site, 1);
        if (i % 3 == 0)
            site_put_number(site, 2);
    }
}

static void test_a_fetch_soon_after_the_push_is_written_later(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 1);
    struct asset found;
    site_open(site, MIB, 0);
    site_put_number(site, 1);
    atomic_fetch_add(&site_clock, MINUTE / 2);
    int64_t at = site_now();
    site_touch(site, 1);
    for (uint64_t i = 2; i < 4; i++) {
        atomic_fetch_add(&site_clock, MINUTE);
        site_put_number(site, i);
    }
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_int_equal(found.fetched_at, at);
}

static void test_a_fetch_while_the_last_one_is_written(void **state)
{
    static const uint8_t hashes[2][ASSET_HASH_SIZE] = {{1}, {2}};
    static struct asset_use written[ASSET_USES_MAX];
    struct asset_uses uses;
    struct asset_use use;
    struct err err;
    (void)state;
    assert_int_equal(asset_uses_init(&uses, &err), 0);
    asset_uses_add(&uses, hashes[0], 10);
    asset_uses_add(&uses, hashes[1], 11);
    assert_int_equal(asset_uses_copy(&uses, written), 2);
    asset_uses_add(&uses, hashes[0], 12);
    asset_uses_forget(&uses, written, 2);
    assert_true(asset_uses_find(&uses, hashes[0], &use));
    assert_int_equal(use.at, 12);
    assert_false(asset_uses_find(&uses, hashes[1], &use));
    assert_int_equal(asset_uses_copy(&uses, written), 1);
    asset_uses_fini(&uses);
}

/* What is fetched all the time has its turn as what was fetched once. */
static void test_the_fetch_not_written_for_longest_comes_first(void **state)
{
    static const uint8_t hashes[3][ASSET_HASH_SIZE] = {{1}, {2}, {3}};
    static struct asset_use written[ASSET_USES_MAX];
    struct asset_uses uses;
    struct err err;
    (void)state;
    assert_int_equal(asset_uses_init(&uses, &err), 0);
    for (int i = 0; i < 3; i++)
        asset_uses_add(&uses, hashes[i], 10);
    asset_uses_add(&uses, hashes[0], 11);
    assert_int_equal(asset_uses_copy(&uses, written), 3);
    assert_memory_equal(written[0].hash, hashes[0], ASSET_HASH_SIZE);
    assert_int_equal(written[0].at, 11);

    /* Once it is written, one that came meanwhile is behind the others. */
    asset_uses_add(&uses, hashes[0], 12);
    asset_uses_forget(&uses, written, 1);
    assert_int_equal(asset_uses_copy(&uses, written), 3);
    assert_memory_equal(written[0].hash, hashes[1], ASSET_HASH_SIZE);
    assert_memory_equal(written[2].hash, hashes[0], ASSET_HASH_SIZE);
    assert_int_equal(written[2].at, 12);
    asset_uses_fini(&uses);
}

static void test_closing_writes_the_fetches(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 1);
    struct asset found;
    site_open(site, MIB, 0);
    site_put_number(site, 1);
    atomic_fetch_add(&site_clock, 10 * MINUTE);
    site_touch(site, 1);
    site_touch(site, 12345); /* there is no such asset */
    site_close(site);
    site_open(site, MIB, 0);
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_int_equal(found.fetched_at, site_now());
    assert_int_equal(found.pushed_at, site_now() - 10 * MINUTE);
    assert_int_equal(site_stats(site).assets, 1);
}

static void test_more_fetches_than_are_remembered(void **state)
{
    struct site *site = *state;
    site_open(site, MIB, 0);
    site_put_number(site, 3);
    atomic_fetch_add(&site_clock, 10 * MINUTE);
    for (uint64_t i = 0; i < 20000; i++)
        site_touch(site, i);
    site_close(site);
    site_open(site, MIB, 0);
    assert_true(site_has_number(site, 3));
}

static bool count_fetched_now(void *context, const struct asset_key *key, const struct asset *asset)
{
    (void)key;
    *(size_t *)context += asset->fetched_at == site_now();
    return true;
}

enum { LOOK_MS = 1200 }; /* the writer looks at the uses more often than that */

static void pause_ms(int64_t milliseconds)
{
    const struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000 * 1000};
    (void)nanosleep(&pause, NULL);
}

/* How many assets are written as fetched by now. */
static size_t count_renewed(struct site *site)
{
    size_t count = 0;
    uint64_t damaged;
    assert_int_equal(asset_index_each(site->index, count_fetched_now, &count, &damaged, &site->err),
                     0);
    assert_int_equal(damaged, 0);
    return count;
}

/*
 * Fetches of very many different assets do not have the writer write all the time, but go on being
 * written.
 */
static void test_renewals_are_rationed(void **state)
{
    enum { ASSETS = 20000, FETCHING_MS = 2200, RATION = 512 };
    struct site *site = *state;
    site_open(site, 64 * MIB, 0);
    site_fill(site, 0, ASSETS);
    atomic_fetch_add(&site_clock, 10 * MINUTE);
    site_put_number(site, ASSETS); /* with the upkeep that is due: the next ones are hurried */
    pause_ms(LOOK_MS);
    int64_t begun = clock_steady();
    while (clock_steady() - begun < FETCHING_MS)
        for (uint64_t i = 0; i < ASSETS; i++)
            site_touch(site, i);
    size_t renewed = count_renewed(site);
    size_t seconds = (size_t)(clock_steady() - begun) / 1000 + 2;
    assert_in_range(renewed, RATION + 1, 2 * RATION * seconds);

    /* What is remembered is written all the same. */
    site_close(site);
    site_open(site, 64 * MIB, 0);
    assert_true(count_renewed(site) >= ASSET_USES_MAX);
}

/* Nor does it while assets expire. */
static void test_renewals_are_rationed_while_assets_expire(void **state)
{
    enum { ASSETS = 20000, DUE = 3000, RATION = 512 };
    struct site *site = *state;
    site_open(site, 64 * MIB, 0);
    site_fill(site, 0, ASSETS);
    site_fill_until(site, ASSETS, ASSETS + DUE, site_now() + 10 * MINUTE + MINUTE / 2);
    atomic_fetch_add(&site_clock, 10 * MINUTE);
    site_put_number(site,
                    ASSETS + DUE); /* with the upkeep that is due: the next ones are hurried */
    pause_ms(LOOK_MS);
    atomic_fetch_add(&site_clock, MINUTE / 2);
    int64_t begun = clock_steady();
    for (uint64_t i = 0; site_stats(site).expired < DUE; i++)
        site_touch(site, i % ASSETS);
    size_t renewed = count_renewed(site);
    size_t seconds = (size_t)(clock_steady() - begun) / 1000 + 2;
    assert_true(renewed <= 2 * RATION * seconds);
}

/* Too few for haste, and more than one transaction renews: they do not wait for the next minute. */
static void test_all_fetches_of_a_minute_are_written(void **state)
{
    enum { ASSETS = 1500, WRITES = 50 };
    struct site *site = *state;
    site_open(site, 64 * MIB, 0);
    site_fill(site, 0, ASSETS);
    atomic_fetch_add(&site_clock, 10 * MINUTE);
    pause_ms(LOOK_MS);
    for (uint64_t i = 0; i < ASSETS; i++)
        site_touch(site, i);
    int64_t at = site_now();
    atomic_fetch_add(&site_clock, MINUTE);
    for (int i = 0; i < WRITES; i++)
        site_put_number(site, ASSETS);
    atomic_store(&site_clock, at);
    assert_int_equal(count_renewed(site), ASSETS);
}

static void test_a_clock_set_back(void **state)
{
    struct site *site = *state;
    char text[64];
    struct asset_key key = site_numbered_key(text, 1);
    struct asset found;
    site_open(site, MIB, HOUR);
    site_put_number(site, 1);
    atomic_fetch_sub(&site_clock, 1000 * (int64_t)HOUR);
    site_put_number(site, 2);
    assert_true(site_has_number(site, 1) && site_has_number(site, 2));
    site_touch(site, 1);
    atomic_fetch_add(&site_clock, 2 * MINUTE);
    site_put_number(site, 3);
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_int_equal(found.fetched_at, site_now() - 2 * MINUTE);
    atomic_store(&site_clock, INT64_MIN + 1);
    site_put_number(site, 4);
    assert_true(site_has_number(site, 1) && site_has_number(site, 2));
    assert_int_equal(site_stats(site).expired, 0);
    atomic_store(&site_clock, INT64_MAX);
    assert_false(site_has_number(site, 1));
    site_put_number(site, 5);
    assert_true(site_has_number(site, 5));
    assert_int_equal(site_stats(site).expired, 4);
}

static void test_what_was_pushed_while_the_clock_was_ahead(void **state)
{
    struct site *site = *state;
    site_open(site, MIB, HOUR);
    atomic_fetch_add(&site_clock, 10 * HOUR);
    site_put_number(site, 1);
    atomic_fetch_sub(&site_clock, 10 * HOUR - 30 * MINUTE);
    site_put_number(site, 2);
    atomic_fetch_sub(&site_clock, 30 * MINUTE);
    for (uint64_t i = 10; i < 20; i++)
        site_put_number(site, i);
    atomic_fetch_add(&site_clock, HOUR);
    site_put_number(site, 3);
    /* Those behind the first two have expired, and go, though the two stay. */
    assert_int_equal(site_stats(site).expired, 10);
    assert_true(site_has_number(site, 1) && site_has_number(site, 2));
}

static void test_the_sweep_leaves_what_was_fetched_since(void **state)
{
    struct site *site = *state;
    enum { COUNT = 200 };
    site_open(site, MIB, HOUR);
    site_fill(site, 0, COUNT);
    atomic_fetch_add(&site_clock, HOUR - 1);
    for (uint64_t i = COUNT; i > 0; i -= 2)
        site_touch(site, i - 2);
    atomic_fetch_add(&site_clock, 1);
    /* More fetches than one transaction writes: the sweep comes before the last of them. */
    for (int i = 0; i < 30; i++)
        site_put_number(site, COUNT);
    assert_int_equal(site_stats(site).expired, COUNT / 2);
    for (uint64_t i = 0; i < COUNT; i++)
        assert_int_equal(site_has_number(site, i), i % 2 == 0);
}

int main(void)
{
#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, site_set_up, site_tear_down)
    const struct CMUnitTest tests[] = {
        INDEX_TEST(test_expires_at_the_millisecond),
        INDEX_TEST(test_the_sweep_removes_what_has_expired_only),
        INDEX_TEST(test_a_fetch_renews_the_life),
        INDEX_TEST(test_a_fetch_renews_a_short_life),
        INDEX_TEST(test_a_fetch_soon_after_the_push_is_written_later),
        INDEX_TEST(test_a_fetch_while_the_last_one_is_written),
        INDEX_TEST(test_the_fetch_not_written_for_longest_comes_first),
        INDEX_TEST(test_closing_writes_the_fetches),
        INDEX_TEST(test_more_fetches_than_are_remembered),
        INDEX_TEST(test_renewals_are_rationed),
        INDEX_TEST(test_renewals_are_rationed_while_assets_expire),
        INDEX_TEST(test_all_fetches_of_a_minute_are_written),
        INDEX_TEST(test_a_clock_set_back),
        INDEX_TEST(test_what_was_pushed_while_the_clock_was_ahead),
        INDEX_TEST(test_the_sweep_leaves_what_was_fetched_since),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
