/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index: which assets go when the quota is full, and that the others stay. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "index_site.h"

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

/* Fills until the first assets had to go. Returns the number after the last one. */
static uint64_t fill_up(struct site *site)
{
    uint64_t end = 0;
    while (site_stats(site).evicted == 0) {
        site_fill(site, end, end + 1000);
        end += 1000;
    }
    return end;
}

static int64_t fetched_at(struct site *site, uint64_t number)
{
    char text[64];
    struct asset_key key = site_numbered_key(text, number);
    struct asset asset;
    if (site_get(site, &key, &asset) != 0)
        fail_msg("%llu: %s", (unsigned long long)number, site->err.msg);
    return asset.fetched_at;
}

/* In a full index there is little room for what a transaction copies. */
static void check_fetches_of_a_full_index(struct site *site, int64_t quota)
{
    enum { ROUNDS = 2, FETCHES = 4096, PUSHES = 5, LATE = 1200 };
    site_open(site, quota, 0);
    uint64_t end = fill_up(site);
    unsigned seed = 7;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t first = end - site_stats(site).assets;
        atomic_fetch_add(&site_clock, MINUTE);
        for (int i = 0; i < FETCHES; i++) {
            seed = seed * 1103515245u + 12345u;
            site_touch(site, first + (seed >> 4) % (end - first));
        }
        for (int i = 0; i < PUSHES; i++)
            site_put_number(site, end++);
    }
    site_close(site); /* writes what is left of the fetches */
    site_open(site, quota, 0);
    atomic_fetch_add(&site_clock, 2 * MINUTE);
    for (uint64_t i = end - LATE; i < end; i++)
        site_touch(site, i);
    int64_t at = site_now();
    site_close(site);
    atomic_fetch_add(&site_clock, MINUTE);
    site_open(site, quota, 0);
    for (uint64_t i = end - PUSHES; i < end; i++)
        assert_int_equal(fetched_at(site, i), at);
    uint64_t found = 0;
    for (uint64_t i = end - LATE; i < end; i++)
        found += site_has_number(site, i);
    assert_true(found >= LATE - ROUNDS * PUSHES);
    assert_true(site_file_size(site) <= quota);
}

static void test_fetches_of_a_full_index_are_written(void **state)
{
    static const int64_t quotas[] = {1, 4, 16};
    (void)state;
    for (size_t i = 0; i < sizeof(quotas) / sizeof(quotas[0]); i++) {
        void *sub = NULL;
        assert_int_equal(site_set_up(&sub), 0);
        check_fetches_of_a_full_index(sub, quotas[i] * MIB);
        assert_int_equal(site_tear_down(&sub), 0);
    }
}

static void test_the_sweep_goes_on_in_a_full_index(void **state)
{
    struct site *site = *state;
    enum { EXPIRING = 100, ROUNDS = 1000 };
    site_open(site, 4 * MIB, 0);
    uint64_t end = fill_up(site);
    for (uint64_t i = 0; i < EXPIRING; i++) {
        char text[64];
        struct asset_key key = site_numbered_key(text, end + i);
        struct asset asset = site_asset(end + i);
        asset.expires_at = site_now() + MINUTE;
        site_put(site, &key, &asset);
    }
    atomic_fetch_add(&site_clock, MINUTE);
    for (uint64_t i = 0; i < 4096; i++)
        site_touch(site, end - 1 - i);
    for (int i = 0; i < ROUNDS && site_stats(site).expired < EXPIRING; i++)
        site_put_number(site, end + EXPIRING);
    assert_int_equal(site_stats(site).expired, EXPIRING);
}

static void test_there_is_room_though_all_were_fetched(void **state)
{
    struct site *site = *state;
    enum { REFERENCES = 5000, PUSHES = 40 };
    struct digest *digests = calloc(REFERENCES, sizeof(*digests));
    assert_non_null(digests);
    for (size_t i = 0; i < REFERENCES; i++)
        digests[i] = site_digest(i);
    site_open(site, MIB, 0);
    uint64_t end = fill_up(site);
    for (int i = 0; i < PUSHES; i++) {
        char text[64];
        struct asset_key key = site_numbered_key(text, end);
        struct asset asset = site_asset(end);
        asset.blobs = digests;
        asset.blob_count = i % 2 == 0 ? REFERENCES : 0;
        for (uint64_t j = 0; j < end; j++) /* those that are gone as well */
            site_touch(site, j);
        site_put(site, &key, &asset);
        assert_true(site_has(site, &key));
        end++;
    }
    free(digests);
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
        INDEX_TEST(test_a_quota_that_is_too_small),
        INDEX_TEST(test_the_least_recently_fetched_go_first),
        INDEX_TEST(test_fetches_of_a_full_index_are_written),
        INDEX_TEST(test_the_sweep_goes_on_in_a_full_index),
        INDEX_TEST(test_there_is_room_though_all_were_fetched),
        INDEX_TEST(test_the_file_never_outgrows_the_quota),
        INDEX_TEST(test_large_and_small_assets_in_a_tight_index),
        INDEX_TEST(test_a_smaller_quota_at_start),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
