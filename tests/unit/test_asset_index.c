/* SPDX-License-Identifier: Apache-2.0 */
/* The asset index: keys, assets, walks, opening, and many writers. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "index_site.h"
#include "store/asset_record.h"

/* --- keys and values --- */

static void test_qualifiers_in_any_order_are_the_same_asset(void **state)
{
    struct site *site = *state;
    const struct qualifier one[] = {{"vcs.branch", "main"}, {"a", "1"}, {"vcs.commit", ""}};
    const struct qualifier other[] = {{"vcs.commit", ""}, {"vcs.branch", "main"}, {"a", "1"}};
    struct asset_key key = site_key("urn:a");
    struct asset asset = site_asset(7);
    site_open(site, MIB, 0);
    key.qualifiers = one;
    key.qualifier_count = 3;
    site_put(site, &key, &asset);
    key.qualifiers = other;
    assert_true(site_has(site, &key));
    key.qualifier_count = 2;
    assert_false(site_has(site, &key));
    key.qualifier_count = 0;
    assert_false(site_has(site, &key));
}

static void test_parts_of_a_key_do_not_run_into_each_other(void **state)
{
    struct site *site = *state;
    static const struct {
        const char *uri;
        struct qualifier qualifier;
        size_t count;
    } keys[] = {
        {"urn:a", {"b", ""}, 1},       {"urn:ab", {"", ""}, 0},       {"urn:a", {"", ""}, 0},
        {"urn:a", {"", "b"}, 1},       {"urn:a", {"bc", "d"}, 1},     {"urn:a", {"b", "cd"}, 1},
        {"urn:a", {"b", "c"}, 1},      {"urn:a\nb", {"", ""}, 0},     {"urn:a\x01", {"", ""}, 0},
        {"urn:\xc3\xa4", {"", ""}, 0}, {"urn:\xc3\xa5", {"", ""}, 0},
    };
    enum { KEYS = sizeof(keys) / sizeof(keys[0]) };
    site_open(site, MIB, 0);
    for (uint64_t i = 0; i < KEYS; i++) {
        struct asset_key key = site_key(keys[i].uri);
        struct asset asset = site_asset(i);
        key.qualifiers = &keys[i].qualifier;
        key.qualifier_count = keys[i].count;
        assert_false(site_has(site, &key));
        site_put(site, &key, &asset);
    }
    for (uint64_t i = 0; i < KEYS; i++) {
        struct asset_key key = site_key(keys[i].uri);
        struct asset asset;
        key.qualifiers = &keys[i].qualifier;
        key.qualifier_count = keys[i].count;
        assert_int_equal(site_get(site, &key, &asset), 0);
        assert_int_equal(asset.content.size, i);
    }
}

static void test_kinds_and_functions_are_apart(void **state)
{
    struct site *site = *state;
    struct asset_key key = site_key("urn:a");
    struct asset asset = site_asset(1);
    site_open(site, MIB, 0);
    site_put(site, &key, &asset);
    key.kind = ASSET_DIRECTORY;
    assert_false(site_has(site, &key));
    key.kind = ASSET_BLOB;
    key.function = DIGEST_SHA512;
    assert_false(site_has(site, &key));
    key.function = DIGEST_SHA256;
    assert_true(site_has(site, &key));
}

/* What is remembered of an asset elsewhere is of one key, and of one push. */
static void test_an_asset_tells_its_key_and_its_push(void **state)
{
    struct site *site = *state;
    struct asset_key keys[2] = {site_key("urn:a"), site_key("urn:b")};
    struct asset asset = site_asset(1);
    struct asset found[2];
    struct asset again;
    site_open(site, MIB, 0);
    assert_int_equal(site_write(site, keys, 2, &asset), ERR_OK);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(site_get(site, &keys[i], &found[i]), 0);
    assert_memory_not_equal(found[0].id, found[1].id, ASSET_ID_SIZE);
    assert_int_not_equal(found[0].version, found[1].version);
    site_touch(site, 1);
    site_close(site);
    site_open(site, MIB, 0);
    assert_int_equal(site_get(site, &keys[0], &again), 0);
    assert_memory_equal(again.id, found[0].id, ASSET_ID_SIZE);
    assert_int_equal(again.version, found[0].version);
    site_put(site, &keys[0], &asset);
    assert_int_equal(site_get(site, &keys[0], &again), 0);
    assert_memory_equal(again.id, found[0].id, ASSET_ID_SIZE);
    assert_int_not_equal(again.version, found[0].version);
}

static void test_all_of_an_asset_comes_back_after_reopening(void **state)
{
    struct site *site = *state;
    struct digest blobs[3];
    struct digest directories[2];
    const enum digest_function functions[] = {DIGEST_SHA1, DIGEST_SHA384, DIGEST_SHA512};
    for (int i = 0; i < 3; i++)
        assert_int_equal(digest_compute(functions[i], "abc", 3, &blobs[i], &site->err), 0);
    directories[0] = site_digest(0);
    directories[1] = site_digest((uint64_t)INT64_MAX);
    struct asset_key key = site_key("https://example.com/a?b=c#d");
    struct asset asset = {.content = site_digest(42),
                          .pushed_at = site_now() - 5,
                          .fetched_at = site_now() - 3,
                          .expires_at = site_now() + HOUR,
                          .blobs = blobs,
                          .blob_count = 3,
                          .directories = directories,
                          .directory_count = 2};
    site_open(site, MIB, 0);
    site_put(site, &key, &asset);
    site_close(site);
    site_open(site, MIB, 0);
    struct asset found;
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_true(digest_equal(&found.content, &asset.content));
    assert_int_equal(found.pushed_at, asset.pushed_at);
    assert_int_equal(found.fetched_at, asset.fetched_at);
    assert_int_equal(found.expires_at, asset.expires_at);
    assert_int_equal(found.blob_count, 3);
    assert_int_equal(found.directory_count, 2);
    for (int i = 0; i < 3; i++)
        assert_true(digest_equal(&found.blobs[i], &blobs[i]));
    for (int i = 0; i < 2; i++)
        assert_true(digest_equal(&found.directories[i], &directories[i]));
}

static void test_a_put_replaces(void **state)
{
    struct site *site = *state;
    struct asset_key key = site_key("urn:a");
    struct asset first = site_asset(1);
    struct asset second = site_asset(2);
    struct asset found;
    first.expires_at = site_now() + MINUTE;
    site_open(site, MIB, 0);
    site_put(site, &key, &first);
    site_put(site, &key, &second);
    assert_int_equal(site_stats(site).assets, 1);
    /* The expiry of the first went with it: a sweep leaves the second alone. */
    atomic_fetch_add(&site_clock, 2 * MINUTE);
    site_put_number(site, 9);
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_int_equal(found.content.size, 2);
    assert_int_equal(site_stats(site).expired, 0);
}

/* Nor when the newest one is gone, and another writer has come since. */
static void test_no_two_pushes_have_the_same_version(void **state)
{
    struct site *site = *state;
    struct asset_key key = site_key("urn:a");
    struct asset asset = site_asset(1);
    struct asset found;
    site_open(site, MIB, 0);
    site_put_number(site, 1);
    site_put(site, &key, &asset);
    assert_int_equal(site_get(site, &key, &found), 0);
    uint64_t version = found.version;
    assert_int_equal(site_write(site, &key, 1, NULL), ERR_OK);
    site_close(site);
    site_open(site, MIB, 0);
    site_put(site, &key, &asset);
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_true(found.version > version);
}

static void test_one_write_has_many_keys_and_removes_them(void **state)
{
    struct site *site = *state;
    const struct asset_key keys[] = {site_key("urn:a"), site_key("urn:b"), site_key("urn:a")};
    struct asset asset = site_asset(1);
    site_open(site, MIB, 0);
    assert_int_equal(site_write(site, keys, 3, &asset), ERR_OK);
    assert_int_equal(site_stats(site).assets, 2);
    assert_true(site_has(site, &keys[0]) && site_has(site, &keys[1]));
    assert_int_equal(site_write(site, &keys[1], 2, NULL), ERR_OK);
    assert_int_equal(site_write(site, &keys[1], 2, NULL), ERR_OK);
    assert_false(site_has(site, &keys[0]) || site_has(site, &keys[1]));
    assert_int_equal(site_stats(site).assets, 0);
    assert_int_equal(site_write(site, keys, 0, &asset), ERR_OK);
}

static void test_a_hundred_thousand_references(void **state)
{
    struct site *site = *state;
    enum { COUNT = 100000 };
    struct digest *digests = calloc(COUNT, sizeof(*digests));
    assert_non_null(digests);
    for (uint64_t i = 0; i < COUNT; i++) {
        digests[i] = (struct digest){.function = DIGEST_SHA256, .size = (int64_t)i};
        memcpy(digests[i].hash, &i, sizeof(i));
    }
    struct asset_key key = site_key("urn:large");
    struct asset asset = site_asset(1);
    struct asset found;
    asset.blobs = digests;
    asset.blob_count = COUNT / 2;
    asset.directories = digests + COUNT / 2;
    asset.directory_count = COUNT / 2;
    site_open(site, 64 * MIB, 0);
    site_put(site, &key, &asset);
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_int_equal(found.blob_count, COUNT / 2);
    assert_memory_equal(found.blobs, digests, COUNT / 2 * sizeof(*digests));
    assert_memory_equal(found.directories, digests + COUNT / 2, COUNT / 2 * sizeof(*digests));
    site_close(site);

    /* More than a quarter of what a small index may hold. */
    char path[PATH_MAX];
    struct asset_index_options options = {.path = scratch_path(&site->scratch, "small", path),
                                          .quota = 8 * MIB,
                                          .now = site_now,
                                          .may_write = true};
    assert_int_equal(asset_index_open(&options, &site->index, &site->err), 0);
    site_put_number(site, 1);
    assert_int_equal(asset_index_check_size(site->index, &key, &asset, &site->err), -ERR_EXHAUSTED);
    assert_int_equal(site_write(site, &key, 1, &asset), ERR_EXHAUSTED);
    assert_false(site_has(site, &key));
    assert_true(site_has_number(site, 1));
    asset.blob_count /= 4;
    asset.directory_count /= 4;
    assert_int_equal(asset_index_check_size(site->index, &key, &asset, &site->err), 0);
    assert_int_equal(site_write(site, &key, 1, &asset), ERR_OK);
    assert_int_equal(site_stats(site).evicted, 0);
    free(digests);
}

/* --- each --- */

struct visits {
    unsigned count;
    unsigned stop_at;
    unsigned char seen[1000];
};

static bool visit(void *context, const struct asset_key *key, const struct asset *asset)
{
    struct visits *visits = context;
    char text[64];
    struct asset_key expected = site_numbered_key(text, (uint64_t)asset->content.size);
    assert_string_equal(key->uri, expected.uri);
    assert_int_equal(key->qualifier_count, 2);
    assert_string_equal(key->qualifiers[0].name, "a");
    assert_string_equal(key->qualifiers[1].value, "2");
    visits->seen[asset->content.size]++;
    return ++visits->count != visits->stop_at;
}

static void test_each_visits_all_once(void **state)
{
    struct site *site = *state;
    enum { COUNT = 300 };
    struct visits visits = {.count = 0};
    const struct qualifier qualifiers[] = {{"b", "2"}, {"a", "1"}};
    uint64_t damaged;
    site_open(site, 4 * MIB, 0);
    assert_int_equal(asset_index_each(site->index, visit, &visits, &damaged, &site->err), 0);
    assert_int_equal(visits.count, 0);
    for (uint64_t i = 0; i < COUNT; i++) {
        char text[64];
        struct asset_key key = site_numbered_key(text, i);
        struct asset asset = site_asset(i);
        key.qualifiers = qualifiers;
        key.qualifier_count = 2;
        if (i % 3 == 0)
            asset.expires_at = 1;
        site_put(site, &key, &asset);
    }
    assert_int_equal(asset_index_each(site->index, visit, &visits, &damaged, &site->err), 0);
    assert_int_equal(visits.count, COUNT - COUNT / 3);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(visits.seen[i], i % 3 != 0);
    visits = (struct visits){.stop_at = 5};
    assert_int_equal(asset_index_each(site->index, visit, &visits, &damaged, &site->err), 0);
    assert_int_equal(visits.count, 5);
}

/* What is visited, and what is done to the index at the first one. */
struct order_of_visits {
    struct site *site;
    void (*meanwhile)(struct site *site);
    unsigned count;
    int64_t numbers[1000];
};

static bool note_visit(void *context, const struct asset_key *key, const struct asset *asset)
{
    struct order_of_visits *order = context;
    (void)key;
    if (order->count == 0 && order->meanwhile != NULL)
        order->meanwhile(order->site);
    assert_true(order->count < 1000);
    order->numbers[order->count++] = asset->content.size;
    return true;
}

static void check_order(struct site *site, void (*meanwhile)(struct site *site),
                        const int64_t *numbers, unsigned count)
{
    struct order_of_visits order = {.site = site, .meanwhile = meanwhile};
    uint64_t damaged;
    assert_int_equal(asset_index_each(site->index, note_visit, &order, &damaged, &site->err), 0);
    assert_int_equal(damaged, 0);
    assert_int_equal(order.count, count);
    assert_memory_equal(order.numbers, numbers, count * sizeof(*numbers));
}

static void test_each_goes_by_use(void **state)
{
    struct site *site = *state;
    site_open(site, 4 * MIB, 0);
    for (uint64_t i = 1; i <= 5; i++)
        site_put_number(site, 6 - i);
    check_order(site, NULL, (const int64_t[]){5, 4, 3, 2, 1}, 5);
    atomic_fetch_add(&site_clock, HOUR);
    site_touch(site, 4);
    site_close(site); /* writes the use */
    site_open(site, 4 * MIB, 0);
    check_order(site, NULL, (const int64_t[]){5, 3, 2, 1, 4}, 5);
}

static void push_some_again(struct site *site)
{
    site_put_number(site, 1);
    site_put_number(site, 299);
    site_put_number(site, 300);
}

static void test_each_misses_nothing_that_moves_meanwhile(void **state)
{
    struct site *site = *state;
    int64_t numbers[302];
    unsigned count = 0;
    site_open(site, 4 * MIB, 0);
    site_fill(site, 1, 300);
    /* The first was seen before it moved. */
    for (int64_t i = 1; i < 299; i++)
        numbers[count++] = i;
    numbers[count++] = 1;
    numbers[count++] = 299;
    numbers[count++] = 300;
    check_order(site, push_some_again, numbers, count);
}

/* --- what was pushed later stays --- */

static void test_what_was_pushed_later_is_kept(void **state)
{
    struct site *site = *state;
    static const struct {
        int64_t later; /* than the asset that is there */
        size_t kept;
    } cases[] = {{-1, 1}, {0, 1}, {1, 0}};
    site_open(site, MIB, HOUR);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct asset_key keys[] = {site_key("urn:there"), site_key("urn:new")};
        struct asset asset = site_asset(1);
        struct asset next = site_asset(2);
        struct pending pending;
        struct asset found;
        asset.expires_at = site_now() + MINUTE;
        site_put(site, &keys[0], &asset);
        next.pushed_at += cases[i].later;
        site_begin_keeping_write(site, &pending, keys, 2, &next);
        assert_int_equal(site_end_write(&pending), ERR_OK);
        assert_int_equal(pending.write.kept, cases[i].kept);
        assert_int_equal(site_get(site, &keys[0], &found), 0);
        assert_int_equal(found.content.size, cases[i].kept == 1 ? 1 : 2);
        assert_int_equal(found.expires_at != 0, cases[i].kept == 1);
        assert_int_equal(site_get(site, &keys[1], &found), 0);
        assert_int_equal(found.content.size, 2);
        assert_int_equal(site_write(site, keys, 2, NULL), ERR_OK);
    }
}

static void test_of_two_in_one_group_the_later_stays(void **state)
{
    struct site *site = *state;
    struct asset_key key = site_key("urn:a");
    struct asset assets[] = {site_asset(1), site_asset(2), site_asset(3)};
    struct pending writes[3];
    struct asset found;
    struct blocker blocker;
    assets[1].pushed_at += 1;
    site_open(site, MIB, 0);
    site_block(site, &blocker);
    for (int i = 0; i < 3; i++) {
        site_begin_keeping_write(site, &writes[i], &key, 1, &assets[i]);
    }
    site_unblock(&blocker);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(site_end_write(&writes[i]), ERR_OK);
        assert_int_equal(writes[i].write.kept, i == 2);
    }
    assert_int_equal(site_get(site, &key, &found), 0);
    assert_int_equal(found.content.size, 2);
}

/* It is as good as gone, though no sweep has come by yet. */
static void test_what_has_expired_is_not_kept(void **state)
{
    struct site *site = *state;
    const struct asset_key keys[] = {site_key("urn:expires"), site_key("urn:unused")};
    struct asset asset = site_asset(1);
    struct asset next = site_asset(2);
    struct pending pending;
    site_open(site, MIB, HOUR);
    asset.fetched_at -= 2 * HOUR;
    site_put(site, &keys[1], &asset);
    asset.fetched_at = site_now();
    asset.expires_at = site_now();
    site_put(site, &keys[0], &asset);
    next.pushed_at -= MINUTE;
    site_begin_keeping_write(site, &pending, keys, 2, &next);
    assert_int_equal(site_end_write(&pending), ERR_OK);
    assert_int_equal(pending.write.kept, 0);
    assert_true(site_has(site, &keys[0]) && site_has(site, &keys[1]));
}

/* --- opening --- */

static void test_a_second_opening_in_the_same_process_is_refused(void **state)
{
    struct site *site = *state;
    site_open(site, MIB, 0);
    struct asset_index *first = site->index;
    struct asset_index_options options = {.path = site->scratch.path, .quota = MIB};
    struct asset_index *second = NULL;
    assert_int_equal(asset_index_open(&options, &second, &site->err), -ERR_UNAVAILABLE);
    assert_null(second);
    assert_ptr_equal(site->index, first);
    site_put_number(site, 1);
}

static void test_a_newer_format_is_refused(void **state)
{
    struct site *site = *state;
    char format[64];
    site_open(site, MIB, 0);
    site_close(site);
    (void)snprintf(format, sizeof(format), "assetd index %d 00000000000000000000000000000000\n",
                   ASSET_FORMAT + 1);
    scratch_write(&site->scratch, "index/format", format);
    assert_int_equal(site_try_open(site, MIB, 0), -ERR_PRECONDITION);
}

static void test_a_file_that_is_no_database_is_refused(void **state)
{
    struct site *site = *state;
    char path[PATH_MAX];
    site_open(site, MIB, 0);
    site_close(site);
    FILE *file = fopen(scratch_path(&site->scratch, "index/data.mdb", path), "w");
    assert_non_null(file);
    for (int i = 0; i < 10000; i++)
        (void)fputs("nothing ", file);
    (void)fclose(file);
    assert_true(site_try_open(site, MIB, 0) < 0);
    assert_non_null(strstr(site->err.msg, "data.mdb"));
}

/* --- group commit --- */

struct submitter {
    struct site *site;
    unsigned number;
    atomic_int *failures;
};

enum { SUBMITTERS = 64, WRITES_EACH = 16 };

static void *submit(void *argument)
{
    struct submitter *submitter = argument;
    for (unsigned i = 0; i < WRITES_EACH; i++) {
        char text[64];
        struct asset_key key = site_numbered_key(text, submitter->number * WRITES_EACH + i);
        struct asset asset = site_asset(submitter->number * WRITES_EACH + i);
        if (site_write(submitter->site, &key, 1, &asset) != ERR_OK)
            atomic_fetch_add(submitter->failures, 1);
    }
    return NULL;
}

static void test_many_submitters(void **state)
{
    struct site *site = *state;
    pthread_t threads[SUBMITTERS];
    struct submitter submitters[SUBMITTERS];
    atomic_int failures = 0;
    site_open(site, 64 * MIB, 0);
    for (unsigned i = 0; i < SUBMITTERS; i++) {
        submitters[i] = (struct submitter){site, i, &failures};
        assert_int_equal(pthread_create(&threads[i], NULL, submit, &submitters[i]), 0);
    }
    for (int i = 0; i < SUBMITTERS; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(failures, 0);
    for (uint64_t i = 0; i < SUBMITTERS * WRITES_EACH; i++)
        assert_true(site_has_number(site, i));
}

static void test_one_oversized_write_fails_alone(void **state)
{
    struct site *site = *state;
    enum { COUNT = 9, LARGE = 4, REFERENCES = 10000 };
    struct digest *digests = calloc(REFERENCES, sizeof(*digests));
    struct pending writes[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    struct asset assets[COUNT];
    struct blocker blocker;
    assert_non_null(digests);
    for (int i = 0; i < REFERENCES; i++)
        digests[i].function = DIGEST_SHA256;
    site_open(site, MIB, 0);
    site_block(site, &blocker);
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = site_numbered_key(texts[i], i);
        assets[i] = site_asset(i);
        assets[i].blobs = digests;
        assets[i].blob_count = i == LARGE ? REFERENCES : 0;
        site_begin_write(site, &writes[i], &keys[i], 1, &assets[i]);
    }
    site_unblock(&blocker);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(site_end_write(&writes[i]), i == LARGE ? ERR_EXHAUSTED : ERR_OK);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(site_has(site, &keys[i]), i != LARGE);
    free(digests);
}

static void test_closing_answers_what_is_queued(void **state)
{
    struct site *site = *state;
    enum { COUNT = 50 };
    struct pending writes[COUNT];
    char texts[COUNT][64];
    struct asset_key keys[COUNT];
    struct asset asset = site_asset(5);
    site_open(site, 16 * MIB, 0);
    for (uint64_t i = 0; i < COUNT; i++) {
        keys[i] = site_numbered_key(texts[i], i);
        site_begin_write(site, &writes[i], &keys[i], 1, &asset);
    }
    site_close(site);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(site_end_write(&writes[i]), ERR_OK);
    site_open(site, 16 * MIB, 0);
    assert_int_equal(site_stats(site).assets, COUNT);
}

int main(void)
{
#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, site_set_up, site_tear_down)
    const struct CMUnitTest tests[] = {
        INDEX_TEST(test_qualifiers_in_any_order_are_the_same_asset),
        INDEX_TEST(test_parts_of_a_key_do_not_run_into_each_other),
        INDEX_TEST(test_kinds_and_functions_are_apart),
        INDEX_TEST(test_an_asset_tells_its_key_and_its_push),
        INDEX_TEST(test_all_of_an_asset_comes_back_after_reopening),
        INDEX_TEST(test_a_put_replaces),
        INDEX_TEST(test_no_two_pushes_have_the_same_version),
        INDEX_TEST(test_one_write_has_many_keys_and_removes_them),
        INDEX_TEST(test_a_hundred_thousand_references),
        INDEX_TEST(test_each_visits_all_once),
        INDEX_TEST(test_each_goes_by_use),
        INDEX_TEST(test_each_misses_nothing_that_moves_meanwhile),
        INDEX_TEST(test_what_was_pushed_later_is_kept),
        INDEX_TEST(test_of_two_in_one_group_the_later_stays),
        INDEX_TEST(test_what_has_expired_is_not_kept),
        INDEX_TEST(test_a_second_opening_in_the_same_process_is_refused),
        INDEX_TEST(test_a_newer_format_is_refused),
        INDEX_TEST(test_a_file_that_is_no_database_is_refused),
        INDEX_TEST(test_many_submitters),
        INDEX_TEST(test_one_oversized_write_fails_alone),
        INDEX_TEST(test_closing_answers_what_is_queued),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
