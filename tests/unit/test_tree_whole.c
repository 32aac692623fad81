/* SPDX-License-Identifier: Apache-2.0 */
/* Trees that are remembered to be whole: what that costs, and what ends it. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "store/cas_private.h"
#include "test_tree_messages.h"
#include "trees.h"

enum { QUOTA = 512 * MIB, CACHE = 16 * MIB };

static int setup(void **state)
{
    return trees_setup(state, QUOTA, CACHE, pread);
}

static struct digest blob(struct trees *trees, uint64_t seed)
{
    struct digest digest;
    assert_int_equal(put_blob(trees->store.cas, NULL, 10, seed, &digest), ERR_OK);
    return digest;
}

/* A directory of COUNT different files, from SEED on, and of one other unless that is NULL. */
static struct digest directory(struct trees *trees, uint64_t seed, size_t count,
                               const struct digest *below)
{
    struct message message = {0};
    char name[24];
    for (size_t i = 0; i < count; i++) {
        struct digest file = blob(trees, seed + i);
        (void)snprintf(name, sizeof(name), "%06zu", i);
        add_file(&message, name, &file);
    }
    if (below != NULL)
        add_directory(&message, "below", below);
    return store_message(&trees->store, &message);
}

static int check(struct trees *trees, const struct digest *root)
{
    return check_lists(trees, NULL, 0, root, 1);
}

static int check_remembered(struct trees *trees, const struct digest *root)
{
    return check_lists_remembered(trees, NULL, 0, root, 1);
}

static uint64_t place_of(struct cas *cas, const struct digest *digest)
{
    struct cas_key key;
    cas_key_of(digest, &key);
    digest_table_enter(cas->table);
    _Atomic uint64_t *entry = digest_table_find(cas->table, &key);
    uint64_t place = entry != NULL ? atomic_load(entry) : 0;
    digest_table_leave(cas->table);
    return place;
}

/*
 * Takes a blob out of the table without telling its segment, so that who looks it up misses it, and
 * who remembers the segment does not.
 */
static void hide(struct trees *trees, const struct digest *digest)
{
    struct cas *cas = trees->store.cas;
    struct cas_key key;
    cas_key_of(digest, &key);
    assert_true(digest_table_move(cas->table, &key, place_of(cas, digest), 0));
}

static void forget_all(struct trees *trees)
{
    tree_cache_free(trees->cache);
    assert_int_equal(tree_cache_new(trees->store.cas, CACHE, &trees->cache, &trees->err), 0);
}

static void test_what_is_remembered_is_not_looked_up(void **state)
{
    enum { FILES = 10000 };
    struct trees *trees = *state;
    struct digest below = directory(trees, 1000, FILES, NULL);
    struct digest root = directory(trees, 1, 5, &below);
    struct digest file = blob(trees, 1000 + FILES / 2);
    assert_int_equal(check_remembered(trees, &root), -ERR_UNAVAILABLE);
    assert_int_equal(check(trees, &root), 0);
    hide(trees, &file);
    hide(trees, &below);
    hide(trees, &root);
    /* More files than could be looked up without waiting, were that needed. */
    assert_int_equal(check_remembered(trees, &root), 0);
    assert_int_equal(check(trees, &root), 0);
    assert_int_equal(trees->missing.count, 0);
    forget_all(trees);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
    assert_int_equal(check_remembered(trees, &root), -ERR_PRECONDITION);
}

static void test_other_lists_with_the_same_directories(void **state)
{
    struct trees *trees = *state;
    struct digest roots[2] = {directory(trees, 100, 10, NULL), directory(trees, 200, 10, NULL)};
    struct digest blobs[2] = {blob(trees, 1), blob(trees, 2)};
    struct digest file = blob(trees, 105);
    assert_int_equal(check_lists(trees, blobs, 1, roots, 2), 0);
    hide(trees, &file);
    hide(trees, &blobs[0]);
    /* The same lists; each directory by itself; the other way round, with other blobs. */
    const struct digest turned[2] = {roots[1], roots[0]};
    assert_int_equal(check_lists_remembered(trees, blobs, 1, roots, 2), 0);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, &roots[0], 1), 0);
    assert_int_equal(check_lists_remembered(trees, &blobs[1], 1, turned, 2), 0);
    /* Blobs that were listed are no part of a directory, and one list is not another. */
    assert_int_equal(check_lists_remembered(trees, blobs, 1, turned, 2), -ERR_PRECONDITION);
    assert_true(digest_equal(&trees->missing.digests[0], &blobs[0]));
    assert_int_equal(check_lists_remembered(trees, &roots[1], 1, &roots[0], 1), 0);
    assert_int_equal(check_lists_remembered(trees, blobs, 2, roots, 1), -ERR_PRECONDITION);
}

static void test_directories_in_common(void **state)
{
    struct trees *trees = *state;
    struct cas *cas = trees->store.cas;
    struct digest shared = directory(trees, 100, 5, NULL);
    /* What FIRST and SECOND have in common is found below FIRST; OVER has all of SECOND. */
    struct digest first = directory(trees, 200, 5, &shared);
    struct digest second = directory(trees, 300, 5, &shared);
    struct digest over = directory(trees, 400, 5, &second);
    struct digest in_shared = blob(trees, 102);
    struct digest in_first = blob(trees, 202);
    const struct digest roots[3] = {first, second, over};
    assert_int_equal(check_lists(trees, NULL, 0, roots, 3), 0);
    hide(trees, &in_first);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(check_remembered(trees, &roots[i]), 0);
    /* It is part of each, wherever it was found. */
    assert_int_equal(cas_delete(cas, &in_shared, &trees->err), 0);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(check_remembered(trees, &roots[i]), -ERR_PRECONDITION);
}

static void test_more_directories_than_are_told_apart(void **state)
{
    enum { COUNT = 100 };
    struct trees *trees = *state;
    struct digest roots[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        roots[i] = directory(trees, 1 + 10 * i, 3, NULL);
    struct digest file = blob(trees, 502);
    assert_int_equal(check_lists(trees, NULL, 0, roots, COUNT), 0);
    hide(trees, &file);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, roots, COUNT), 0);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, roots, COUNT - 1), -ERR_PRECONDITION);
    assert_int_equal(check_remembered(trees, &roots[50]), -ERR_PRECONDITION);
}

static void test_what_is_deleted_is_noticed(void **state)
{
    struct trees *trees = *state;
    struct cas *cas = trees->store.cas;
    struct digest below = directory(trees, 100, 5, NULL);
    struct digest root = directory(trees, 200, 5, &below);
    const struct digest parts[] = {blob(trees, 1), blob(trees, 102), blob(trees, 203), below, root};
    assert_int_equal(check_lists(trees, parts, 1, &root, 1), 0);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        assert_int_equal(cas_delete(cas, &parts[i], &trees->err), 0);
        assert_int_equal(check_lists_remembered(trees, parts, 1, &root, 1), -ERR_PRECONDITION);
        assert_true(digest_equal(&trees->missing.digests[0], &parts[i]));
        assert_int_equal(check_lists(trees, parts, 1, &root, 1), -ERR_PRECONDITION);
        (void)blob(trees, 1);
        below = directory(trees, 100, 5, NULL);
        root = directory(trees, 200, 5, &below);
        assert_int_equal(check_lists_remembered(trees, parts, 1, &root, 1), 0);
    }
}

static void test_after_a_walk_it_is_remembered_anew(void **state)
{
    struct trees *trees = *state;
    struct cas *cas = trees->store.cas;
    struct digest root = directory(trees, 100, 5, NULL);
    struct digest file = blob(trees, 103);
    struct digest other = blob(trees, 1);
    assert_int_equal(cas_place_number(place_of(cas, &other)),
                     cas_place_number(place_of(cas, &file)));
    assert_int_equal(check(trees, &root), 0);
    assert_int_equal(cas_delete(cas, &other, &trees->err), 0);
    assert_int_equal(check_remembered(trees, &root), 0);
    hide(trees, &file);
    assert_int_equal(check_remembered(trees, &root), 0);
    forget_all(trees);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
}

/* tree_check of one blob, under LABEL unless that is NULL. */
static int check_labelled(struct trees *trees, const struct tree_label *label,
                          const struct digest *digest)
{
    struct cas_hold hold;
    const struct tree_list list = {digest, 1, false};
    cas_hold_begin(trees->store.cas, &hold);
    int rc = tree_check(trees->cache, &hold, &list, 1, label, &trees->missing, &trees->err);
    cas_hold_end(&hold);
    return rc;
}

/* Whichever way it was found whole, its label is enough to find it again. */
static void test_what_has_a_label_is_not_gone_through(void **state)
{
    struct trees *trees = *state;
    struct digest walked = blob(trees, 1);
    struct digest pushed = blob(trees, 2);
    struct digest gone = blob(trees, 3);
    struct tree_label label = {.name = "an asset's name", .version = 7, .time = 1700000000000};
    hide(trees, &gone);
    assert_int_equal(check_labelled(trees, &label, &gone), -ERR_PRECONDITION);
    assert_int_equal(check_labelled(trees, &label, &walked), 0);
    assert_int_equal(check_labelled(trees, &label, &gone), 0);
    label.version++;
    assert_int_equal(check_labelled(trees, &label, &gone), -ERR_PRECONDITION);
    assert_int_equal(check_labelled(trees, NULL, &pushed), 0);
    assert_int_equal(check_labelled(trees, &label, &gone), -ERR_PRECONDITION);
    assert_int_equal(check_labelled(trees, &label, &pushed), 0);
    assert_int_equal(check_labelled(trees, &label, &gone), 0);
}

/* By its label as well what is no longer whole is not found. */
static void test_what_is_deleted_is_noticed_by_a_label(void **state)
{
    struct trees *trees = *state;
    struct digest digest = blob(trees, 1);
    struct tree_label label = {.name = "an asset's name", .version = 7, .time = 1700000000000};
    for (int i = 0; i < 4; i++) {
        /* Found by a walk, or as it was found without a label. */
        if (i % 2 == 1)
            assert_int_equal(check_labelled(trees, NULL, &digest), 0);
        assert_int_equal(check_labelled(trees, &label, &digest), 0);
        assert_int_equal(cas_delete(trees->store.cas, &digest, &trees->err), 0);
        assert_int_equal(check_labelled(trees, &label, &digest), -ERR_PRECONDITION);
        digest = blob(trees, 1);
        label.version++;
    }
}

/* Whether the segment NUMBER goes within some seconds. */
static bool goes(struct cas *cas, uint64_t number)
{
    const struct timespec pause = {.tv_nsec = 1000 * 1000};
    for (unsigned i = 0; i < 20000; i++) {
        if (cas_segment_find(&cas->shared, number) == NULL)
            return true;
        (void)nanosleep(&pause, NULL);
    }
    return false;
}

static void test_what_is_carried_is_remembered_anew(void **state)
{
    struct trees *trees = *state;
    struct cas *cas = trees->store.cas;
    struct digest root = directory(trees, 100, 20, NULL);
    struct digest file = blob(trees, 110);
    assert_int_equal(check(trees, &root), 0);
    uint64_t number = cas_place_number(place_of(cas, &file));
    struct cas_segment *segment = cas_segment_find(&cas->shared, number);
    assert_non_null(segment);
    /* A segment with something broken in it is evacuated, whenever it was used. */
    (void)atomic_fetch_or(&segment->flags, CAS_SEGMENT_BROKEN);
    cas_space_broken(cas->space);
    assert_true(goes(cas, number));
    assert_int_not_equal(cas_place_number(place_of(cas, &file)), 0);
    assert_int_not_equal(cas_place_number(place_of(cas, &file)), number);
    assert_int_equal(check_remembered(trees, &root), 0);
    hide(trees, &file);
    assert_int_equal(check_remembered(trees, &root), 0);
    forget_all(trees);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
}

/* What is asked for stays in a store that is full; what is not goes, and that is noticed. */
static void test_an_evicted_segment_is_noticed(void **state)
{
    enum { SMALL = 5 * MIB, SIZE = 40 * KIB };
    struct trees *trees = *state;
    struct message message = {0};
    struct digest large;
    struct digest more;
    trees_close(trees);
    trees_open(trees, SMALL, CACHE);
    assert_int_equal(put_blob(trees->store.cas, NULL, SIZE, 1, &large), ERR_OK);
    add_file(&message, "large", &large);
    struct digest root = store_message(&trees->store, &message);
    struct digest kept = directory(trees, 200, 20, NULL);
    assert_int_equal(check(trees, &root), 0);
    assert_int_equal(check(trees, &kept), 0);
    for (uint64_t i = 0; i < 2 * SMALL / SIZE; i++) {
        assert_int_equal(put_blob(trees->store.cas, NULL, SIZE, 2 + i, &more), ERR_OK);
        if (i % 8 == 0)
            assert_int_equal(check_remembered(trees, &kept), 0);
    }
    assert_int_equal(check_remembered(trees, &root), -ERR_PRECONDITION);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
}

/* --- threads --- */

enum { ROOTS = 8, ROUNDS = 2000, ROOT_FILES = 8, FILES = (ROOTS + 1) * ROOT_FILES / 2 };

struct party {
    struct trees *trees;
    struct digest roots[ROOTS];
    atomic_uint whole;
    atomic_uint broken;
};

struct guest {
    struct party *party;
    unsigned number;
    pthread_t thread;
};

static void *ask(void *context)
{
    struct guest *guest = context;
    struct party *party = guest->party;
    uint32_t random = guest->number;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct cas_hold hold;
        struct tree_missing missing;
        struct err err;
        random = random * 1664525 + 1013904223;
        const struct digest roots[2] = {party->roots[random >> 29],
                                        party->roots[random >> 26 & (ROOTS - 1)]};
        const struct tree_list list = {roots, 1 + (random >> 25 & 1), true};
        cas_hold_begin(party->trees->store.cas, &hold);
        int rc =
            round % 2 == 0
                ? tree_check_remembered(party->trees->cache, &hold, &list, 1, NULL, &missing, &err)
                : tree_check(party->trees->cache, &hold, &list, 1, NULL, &missing, &err);
        cas_hold_end(&hold);
        if (rc == 0)
            atomic_fetch_add(&party->whole, 1);
        else if (rc == -ERR_PRECONDITION && missing.count != 0)
            atomic_fetch_add(&party->broken, 1);
        else if (rc != -ERR_UNAVAILABLE || round % 2 != 0)
            fail_msg("%s", err.msg);
    }
    return NULL;
}

/* Takes out one file after the other and brings it back. */
static void *disturb(void *context)
{
    struct guest *guest = context;
    struct cas *cas = guest->party->trees->store.cas;
    for (unsigned round = 0; round < ROUNDS / 10; round++) {
        struct digest digest;
        struct err err;
        free(make_blob(10, 1 + round % FILES, &digest));
        if (cas_delete(cas, &digest, &err) != 0)
            fail_msg("%s", err.msg);
        if (put_blob(cas, NULL, 10, 1 + round % FILES, &digest) != ERR_OK)
            fail_msg("a blob could not be put back");
    }
    return NULL;
}

static void test_many_ask_while_blobs_come_and_go(void **state)
{
    struct party party = {.trees = *state};
    struct guest guests[4];
    /* Little memory, so that trees are forgotten as well. */
    tree_cache_free(party.trees->cache);
    assert_int_equal(
        tree_cache_new(party.trees->store.cas, 32 * KIB, &party.trees->cache, &party.trees->err),
        0);
    for (size_t i = 0; i < ROOTS; i++)
        party.roots[i] = directory(party.trees, 1 + i * ROOT_FILES / 2, ROOT_FILES,
                                   i == 0 ? NULL : &party.roots[i / 2]);
    for (unsigned i = 0; i < 4; i++) {
        guests[i] = (struct guest){.party = &party, .number = i};
        assert_int_equal(
            pthread_create(&guests[i].thread, NULL, i == 0 ? disturb : ask, &guests[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        (void)pthread_join(guests[i].thread, NULL);
    assert_int_equal(check_lists(party.trees, NULL, 0, party.roots, ROOTS), 0);
    assert_true(atomic_load(&party.whole) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_remembered_is_not_looked_up, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_other_lists_with_the_same_directories, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_directories_in_common, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_more_directories_than_are_told_apart, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_deleted_is_noticed, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_what_has_a_label_is_not_gone_through, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_deleted_is_noticed_by_a_label, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_after_a_walk_it_is_remembered_anew, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_carried_is_remembered_anew, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_an_evicted_segment_is_noticed, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_many_ask_while_blobs_come_and_go, setup,
                                        trees_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
