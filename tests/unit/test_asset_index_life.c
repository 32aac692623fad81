/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index: how long assets live, and which go when the quota is full. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "index_site.h"

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

/* --- quota --- */

static void test_a_quota_that_is_too_small(void **state)
{
    struct site *site = *state;
    assert_int_equal(site_try_open(site, MIB - 1, 0), -ERR_INVALID);
    assert_non_null(strstr(site->err.msg, "quota"));
}

static void test_the_least_recently_fetched_go_first(void **state)
{
    struct site *site = *state;
    enum { COUNT = 1500, FETCHED = 100 };
    site_open(site, MIB, 0);
    site_fill(site, 0, COUNT);
    assert_int_equal(site_stats(site).evicted, 0);
    atomic_fetch_add(&site_clock, 2 * MINUTE);
    for (uint64_t i = 0; i < FETCHED; i++)
        site_touch(site, 3 * i);
    uint64_t next = COUNT;
    while (site_stats(site).evicted < COUNT / 2)
        site_put_number(site, next++);
    /* Gone are exactly the first ones but for those that were fetched. */
    uint64_t evicted = site_stats(site).evicted;
    uint64_t gone = 0;
    for (uint64_t i = 0; i < next; i++) {
        bool was_fetched = i < 3 * FETCHED && i % 3 == 0;
        bool should_be_gone = !was_fetched && gone < evicted;
        assert_int_equal(site_has_number(site, i), !should_be_gone);
        gone += should_be_gone;
    }
    assert_int_equal(gone, evicted);
    assert_int_equal(site_stats(site).assets, next - evicted);
}

static void test_the_file_never_outgrows_the_quota(void **state)
{
    struct site *site = *state;
    site_open(site, 2 * MIB, 0);
    uint64_t most = 0;
    for (uint64_t i = 0; i < 40000; i += 1000) {
        site_fill(site, i, i + 1000);
        assert_true(site_file_size(site) <= 2 * MIB);
        assert_true(site_has_number(site, i + 999));
        if (site_stats(site).assets > most)
            most = site_stats(site).assets;
    }
    /* No more went than had to. */
    assert_true(site_stats(site).assets + site_stats(site).evicted == 40000);
    assert_true(site_stats(site).assets > most / 2);
}

static void test_large_and_small_assets_in_a_tight_index(void **state)
{
    struct site *site = *state;
    enum { MOST = 45000 };
    struct digest *digests = calloc(MOST, sizeof(*digests));
    assert_non_null(digests);
    for (size_t i = 0; i < MOST; i++)
        digests[i] = site_digest(i);
    site_open(site, 8 * MIB, 0);
    unsigned seed = 7;
    for (uint64_t i = 0; i < 150; i++) {
        char text[64];
        struct asset_key key = site_numbered_key(text, i);
        struct asset asset = site_asset(i);
        seed = seed * 1103515245u + 12345u;
        asset.blobs = digests;
        asset.blob_count = (seed >> 8) % MOST;
        site_put(site, &key, &asset);
        struct asset found;
        assert_int_equal(site_get(site, &key, &found), 0);
        assert_int_equal(found.blob_count, asset.blob_count);
        site_fill(site, 1000 + 100 * i, 1000 + 100 * i + 100);
        assert_true(site_file_size(site) <= 8 * MIB);
        if (i % 50 == 49) {
            site_close(site);
            site_open(site, 8 * MIB, 0);
        }
    }
    assert_true(site_has_number(site, 149));
    free(digests);
}

static void test_a_smaller_quota_at_start(void **state)
{
    struct site *site = *state;
    site_open(site, 16 * MIB, 0);
    site_fill(site, 0, 20000);
    assert_int_equal(site_stats(site).evicted, 0);
    assert_true(site_file_size(site) > 2 * MIB);
    site_close(site);
    site_open(site, 2 * MIB, 0);
    uint64_t left = site_stats(site).assets;
    assert_true(site_file_size(site) <= 2 * MIB);
    assert_true(left > 1000 && left < 20000);
    for (uint64_t i = 0; i < 20000; i += 97)
        assert_int_equal(site_has_number(site, i), i >= 20000 - left);
    site_fill(site, 20000, 25000);
    assert_true(site_has_number(site, 24999));
    assert_true(site_file_size(site) <= 2 * MIB);
}

int main(void)
{
#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, site_set_up, site_tear_down)
    const struct CMUnitTest tests[] = {
        INDEX_TEST(test_expires_at_the_millisecond),
        INDEX_TEST(test_the_sweep_removes_what_has_expired_only),
        INDEX_TEST(test_a_fetch_renews_the_life),
        INDEX_TEST(test_a_fetch_renews_a_short_life),
        INDEX_TEST(test_closing_writes_the_fetches),
        INDEX_TEST(test_more_fetches_than_are_remembered),
        INDEX_TEST(test_a_clock_set_back),
        INDEX_TEST(test_a_quota_that_is_too_small),
        INDEX_TEST(test_the_least_recently_fetched_go_first),
        INDEX_TEST(test_the_file_never_outgrows_the_quota),
        INDEX_TEST(test_large_and_small_assets_in_a_tight_index),
        INDEX_TEST(test_a_smaller_quota_at_start),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
