/* SPDX-License-Identifier: Apache-2.0 */
/* Completeness of trees: reading Directory messages, walking them, remembering them. */
#include "test_tree_messages.h"
#include "trees.h"

/* How often the test itself has read from the disk; the store's own threads do not count. */
static _Thread_local int reads;

static ssize_t counting_pread(int fd, void *buffer, size_t size, off_t offset)
{
    reads++;
    return pread(fd, buffer, size, offset);
}

static int setup(void **state)
{
    return trees_setup(state, 512 * (int64_t)MIB, 64 * MIB, counting_pread);
}

static int check(struct trees *trees, const struct digest *root)
{
    struct cas_hold hold;
    cas_hold_begin(trees->store.cas, &hold);
    const struct tree_list list = {root, 1, true};
    int rc = tree_check(trees->cache, &hold, &list, 1, NULL, &trees->missing, &trees->err);
    cas_hold_end(&hold);
    return rc;
}

static int check_remembered(struct trees *trees, const struct digest *root)
{
    int before = reads;
    struct cas_hold hold;
    cas_hold_begin(trees->store.cas, &hold);
    const struct tree_list list = {root, 1, true};
    int rc =
        tree_check_remembered(trees->cache, &hold, &list, 1, NULL, &trees->missing, &trees->err);
    cas_hold_end(&hold);
    assert_int_equal(reads, before);
    return rc;
}

static struct digest absent_blob(uint64_t seed)
{
    struct digest digest;
    free(make_blob(10, seed, &digest));
    return digest;
}

static struct digest present_blob(struct trees *trees, uint64_t seed)
{
    struct digest digest;
    assert_int_equal(put_blob(trees->store.cas, NULL, 10, seed, &digest), ERR_OK);
    return digest;
}

static void test_a_whole_tree_is_remembered(void **state)
{
    struct trees *trees = *state;
    struct message leaf = {0};
    struct message top = {0};
    struct digest file = present_blob(trees, 1);
    struct digest other = present_blob(trees, 2);
    struct err err;
    add_file(&leaf, "a", &file);
    struct digest leaf_digest = store_message(&trees->store, &leaf);
    add_file(&top, "b", &other);
    add_directory(&top, "c", &leaf_digest);
    struct digest root = store_message(&trees->store, &top);
    assert_int_equal(check_remembered(trees, &root), -ERR_UNAVAILABLE);
    assert_int_equal(check(trees, &root), 0);
    assert_int_equal(trees->missing.count, 0);
    assert_int_equal(check_remembered(trees, &root), 0);
    /* What is deleted is missed, and what comes back is found, without the disk. */
    assert_int_equal(cas_delete(trees->store.cas, &file, &err), 0);
    assert_int_equal(check_remembered(trees, &root), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 1);
    assert_true(digest_equal(&trees->missing.digests[0], &file));
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
    assert_true(digest_equal(&trees->missing.digests[0], &file));
    (void)present_blob(trees, 1);
    assert_int_equal(check_remembered(trees, &root), 0);
    /* A directory of it as well. */
    assert_int_equal(cas_delete(trees->store.cas, &leaf_digest, &err), 0);
    assert_int_equal(check_remembered(trees, &root), -ERR_PRECONDITION);
    assert_true(digest_equal(&trees->missing.digests[0], &leaf_digest));
    assert_int_equal(cas_delete(trees->store.cas, &root, &err), 0);
    assert_int_equal(check_remembered(trees, &root), -ERR_PRECONDITION);
    assert_true(digest_equal(&trees->missing.digests[0], &root));
}

static void test_eviction_is_noticed(void **state)
{
    struct trees *trees = *state;
    struct message top = {0};
    struct digest big;
    struct digest more;
    assert_int_equal(put_blob(trees->store.cas, NULL, 3 * MIB, 1, &big), ERR_OK);
    add_file(&top, "big", &big);
    struct digest root = store_message(&trees->store, &top);
    assert_int_equal(check(trees, &root), 0);
    assert_int_equal(check_remembered(trees, &root), 0);
    trees_close(trees);
    trees_open(trees, 5 * MIB, 64 * MIB);
    assert_int_equal(check(trees, &root), 0);
    assert_int_equal(put_blob(trees->store.cas, NULL, 3 * MIB, 2, &more), ERR_OK);
    assert_int_equal(check_remembered(trees, &root), -ERR_PRECONDITION);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
}

static void test_a_check_renews_all_of_the_tree(void **state)
{
    struct trees *trees = *state;
    struct message leaf = {0};
    struct message top = {0};
    struct digest more;
    struct digest file;
    trees_close(trees);
    trees_open(trees, 6 * MIB, 64 * MIB);
    assert_int_equal(put_blob(trees->store.cas, NULL, MIB, 1, &file), ERR_OK);
    add_file(&leaf, "file", &file);
    struct digest leaf_digest = store_message(&trees->store, &leaf);
    add_directory(&top, "leaf", &leaf_digest);
    struct digest root = store_message(&trees->store, &top);
    for (uint64_t i = 0; i < 12; i++) {
        assert_int_equal(put_blob(trees->store.cas, NULL, 2 * MIB, 10 + i, &more), ERR_OK);
        assert_int_equal(i % 2 == 0 ? check(trees, &root) : check_remembered(trees, &root), 0);
    }
    assert_true(stats_of(trees->store.cas).evicted > 8);
}

static void test_what_is_missing_is_named(void **state)
{
    struct trees *trees = *state;
    struct digest absent[20];
    struct digest present = present_blob(trees, 1);
    struct message deepest = {0};
    char name[16];
    for (size_t i = 0; i < 20; i++) {
        absent[i] = absent_blob(100 + i);
        (void)snprintf(name, sizeof(name), "f%02zu", i);
        add_file(&deepest, name, &absent[i]);
    }
    /* Named twice, counted once. */
    add_file(&deepest, "g", &absent[0]);
    add_file(&deepest, "h", &present);
    struct digest below = store_message(&trees->store, &deepest);
    for (unsigned depth = 0; depth < 5; depth++) {
        struct message next = {0};
        add_directory(&next, "d", &below);
        below = store_message(&trees->store, &next);
    }
    assert_int_equal(check(trees, &below), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 20);
    for (size_t i = 0; i < TREE_MISSING_MAX; i++)
        assert_true(digest_equal(&trees->missing.digests[i], &absent[i]));
    /* One of them is remembered, and looked at first. */
    assert_int_equal(check_remembered(trees, &below), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 1);
    for (size_t i = 0; i < 20; i++)
        (void)present_blob(trees, 100 + i);
    assert_int_equal(check_remembered(trees, &below), 0);
    assert_int_equal(check(trees, &below), 0);
}

/* A message can claim any size. */
static void test_what_is_larger_than_any_blob_is_missing(void **state)
{
    struct trees *trees = *state;
    struct digest file = present_blob(trees, 1);
    struct digest directory = present_blob(trees, 2);
    struct message message = {0};
    file.size = INT64_MAX;
    directory.size = CAS_BLOB_MAX + 1;
    add_file(&message, "f", &file);
    add_directory(&message, "d", &directory);
    struct digest root = store_message(&trees->store, &message);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 2);
    assert_int_equal(check(trees, &directory), -ERR_PRECONDITION);
    assert_int_equal(check_remembered(trees, &directory), -ERR_PRECONDITION);
}

static void test_lists_of_blobs_and_directories(void **state)
{
    struct trees *trees = *state;
    struct digest empty;
    struct message other = {0};
    struct message same = {0};
    struct digest blobs[4] = {present_blob(trees, 1), absent_blob(2), absent_blob(2)};
    assert_int_equal(digest_compute(DIGEST_SHA256, "", 0, &empty, &trees->err), 0);
    blobs[3] = empty;
    /* The empty directory and the empty file are always there. */
    add_file(&other, "a", &empty);
    add_directory(&other, "b", &empty);
    add_file(&same, "missing", &blobs[1]);
    struct digest directories[4] = {empty, store_message(&trees->store, &other), absent_blob(3),
                                    store_message(&trees->store, &same)};
    assert_int_equal(check_lists(trees, blobs, 4, directories, 2), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 1);
    assert_int_equal(check_lists(trees, blobs, 4, directories, 4), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 2);
    assert_true(digest_equal(&trees->missing.digests[0], &blobs[1]));
    assert_true(digest_equal(&trees->missing.digests[1], &directories[2]));
    assert_int_equal(check_lists(trees, blobs, 1, directories, 2), 0);
    assert_int_equal(check_lists_remembered(trees, blobs, 1, directories, 2), 0);
    /* A listed blob needs no memory. */
    assert_int_equal(check_lists_remembered(trees, blobs, 2, NULL, 0), -ERR_PRECONDITION);
}

static void test_a_deep_chain(void **state)
{
    enum { DEPTH = 4000 };
    struct trees *trees = *state;
    struct digest file = present_blob(trees, 1);
    struct message deepest = {0};
    add_file(&deepest, "f", &file);
    struct digest below = store_message(&trees->store, &deepest);
    for (unsigned depth = 1; depth < DEPTH; depth++) {
        struct message next = {0};
        add_directory(&next, "d", &below);
        below = store_message(&trees->store, &next);
    }
    assert_int_equal(check(trees, &below), 0);
    assert_int_equal(check_remembered(trees, &below), 0);
    assert_int_equal(cas_delete(trees->store.cas, &file, &trees->err), 0);
    assert_int_equal(check_remembered(trees, &below), -ERR_PRECONDITION);
    assert_true(digest_equal(&trees->missing.digests[0], &file));
}

static void test_a_wide_directory(void **state)
{
    enum { FILES = 100000 };
    struct trees *trees = *state;
    struct message top = {0};
    struct digest missing = absent_blob(9);
    char name[16];
    struct digest files[10];
    for (uint64_t i = 0; i < 10; i++)
        files[i] = present_blob(trees, i + 100);
    for (size_t i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof(name), "f%06zu", i);
        add_file(&top, name, i == 77777 ? &missing : &files[i % 10]);
    }
    struct digest root = store_message(&trees->store, &top);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 1);
    assert_true(digest_equal(&trees->missing.digests[0], &missing));
    (void)present_blob(trees, 9);
    assert_int_equal(check(trees, &root), 0);
}

static void test_shared_directories_are_visited_once(void **state)
{
    struct trees *trees = *state;
    struct digest file = present_blob(trees, 1);
    struct message deepest = {0};
    add_file(&deepest, "f", &file);
    struct digest below = store_message(&trees->store, &deepest);
    struct digest all[41] = {below};
    /* Two ways down at each of 40 levels: 2^40 paths. */
    for (unsigned depth = 1; depth <= 40; depth++) {
        struct message next = {0};
        add_directory(&next, "left", &below);
        add_directory(&next, "right", &below);
        below = store_message(&trees->store, &next);
        all[depth] = below;
    }
    /* Every level is asked for by itself as well, and read once. */
    int before = reads;
    assert_int_equal(check_lists(trees, NULL, 0, &below, 1), 0);
    int once = reads - before;
    tree_cache_free(trees->cache);
    assert_int_equal(tree_cache_new(trees->store.cas, MIB, &trees->cache, &trees->err), 0);
    before = reads;
    assert_int_equal(check_lists(trees, NULL, 0, all, 41), 0);
    assert_int_equal(reads - before, once);
    assert_int_equal(check_remembered(trees, &below), 0);
}

static void test_memory_is_bounded(void **state)
{
    struct trees *trees = *state;
    struct digest roots[100];
    tree_cache_free(trees->cache);
    assert_int_equal(tree_cache_new(trees->store.cas, 16 * KIB, &trees->cache, &trees->err), 0);
    for (size_t i = 0; i < 100; i++) {
        struct message top = {0};
        char name[16];
        for (size_t k = 0; k < 15; k++) {
            struct digest file = present_blob(trees, k);
            (void)snprintf(name, sizeof(name), "%03zu-%03zu", i, k);
            add_file(&top, name, &file);
        }
        roots[i] = store_message(&trees->store, &top);
        assert_int_equal(check(trees, &roots[i]), 0);
        assert_int_equal(check_remembered(trees, &roots[i]), 0);
    }
    /* The ones checked first were forgotten, not found missing. */
    assert_int_equal(check_remembered(trees, &roots[0]), -ERR_UNAVAILABLE);
    assert_int_equal(check(trees, &roots[0]), 0);
    assert_int_equal(check_remembered(trees, &roots[0]), 0);
    assert_int_equal(check_remembered(trees, &roots[99]), 0);
}

static void test_what_is_no_directory_is_named(void **state)
{
    struct trees *trees = *state;
    struct message garbage = {0};
    struct message top = {0};
    char text[DIGEST_TEXT_MAX];
    add_bytes(&garbage, "\x0a\x7fgarbage", 9);
    struct digest bad = store_message(&trees->store, &garbage);
    add_directory(&top, "bad", &bad);
    struct digest root = store_message(&trees->store, &top);
    assert_int_equal(check(trees, &root), -ERR_INVALID);
    assert_non_null(strstr(trees->err.msg, digest_text(&bad, text)));
    /* It is no answer from memory. */
    assert_int_equal(check_remembered(trees, &root), -ERR_UNAVAILABLE);
    /* One that breaks on the disk is missing. */
    blob_flip(&trees->store, &bad, 3);
    assert_int_equal(check(trees, &root), -ERR_PRECONDITION);
    assert_true(digest_equal(&trees->missing.digests[0], &bad));
}

/* The scanner by itself. */

struct counts {
    unsigned files;
    unsigned directories;
    unsigned stop_after;
};

static bool count_file(void *context, const struct digest *digest)
{
    struct counts *counts = context;
    assert_int_equal(digest->function, DIGEST_SHA256);
    return ++counts->files != counts->stop_after;
}

static bool count_directory(void *context, const struct digest *digest)
{
    struct counts *counts = context;
    assert_int_equal(digest->function, DIGEST_SHA256);
    counts->directories++;
    return true;
}

static int scan(const struct message *message, struct counts *counts)
{
    struct err err;
    struct tree_visitor visitor = {count_file, count_directory, counts};
    return tree_scan(DIGEST_SHA256, (struct span){message->data, message->size}, &visitor, &err);
}

static void refuse(struct message *message)
{
    struct counts counts = {0};
    assert_int_equal(scan(message, &counts), -ERR_INVALID);
    message->size = 0;
}

static void test_scan_refuses_what_is_no_directory(void **state)
{
    (void)state;
    struct digest digest = absent_blob(1);
    struct message message = {0};
    struct message good = {0};
    struct counts counts = {0};
    assert_int_equal(scan(&message, &counts), 0);
    /* Without a digest; without a name; with two digests. */
    add_field(&message, 1,
              "\x0a\x01"
              "a",
              3);
    refuse(&message);
    add_file(&message, "", &digest);
    refuse(&message);
    add_file(&good, "a", &digest);
    add_field(&message, 1, good.data + 2, good.size - 2);
    counts = (struct counts){0};
    assert_int_equal(scan(&message, &counts), 0);
    assert_int_equal(counts.files, 1);
    struct message twice = {0};
    add_bytes(&twice, good.data + 2, good.size - 2);
    add_bytes(&twice, good.data + 2, good.size - 2);
    message.size = 0;
    add_field(&message, 1, twice.data, twice.size);
    refuse(&message);
    /* Two nodes of one name. */
    add_file(&message, "a", &digest);
    add_file(&message, "a", &digest);
    refuse(&message);
    /* A hash of the wrong length, a negative size, a wrong wire type. */
    struct digest sha1;
    assert_int_equal(digest_compute(DIGEST_SHA1, "x", 1, &sha1, &(struct err){0}), 0);
    add_file(&message, "a", &sha1);
    refuse(&message);
    digest.size = -1;
    add_file(&message, "a", &digest);
    refuse(&message);
    add_varint(&message, 1 << 3 | WIRE_VARINT);
    add_varint(&message, 7);
    refuse(&message);
    free(message.data);
    free(good.data);
    free(twice.data);
}

static void test_scan_visits_until_it_is_told(void **state)
{
    (void)state;
    struct digest digest = absent_blob(1);
    struct message message = {0};
    struct counts counts = {.stop_after = 2};
    add_file(&message, "a", &digest);
    add_file(&message, "b", &digest);
    add_file(&message, "c", &digest);
    add_directory(&message, "d", &digest);
    /* A symlink and a field of a later version. */
    add_field(&message, 3,
              "\x0a\x01"
              "l\x12\x01"
              "t",
              6);
    add_field(&message, 5, "new", 3);
    assert_int_equal(scan(&message, &counts), 0);
    assert_int_equal(counts.files, 2);
    assert_int_equal(counts.directories, 0);
    counts = (struct counts){0};
    assert_int_equal(scan(&message, &counts), 0);
    assert_int_equal(counts.files, 3);
    assert_int_equal(counts.directories, 1);
    const struct tree_visitor nobody = {0};
    struct err err;
    assert_int_equal(
        tree_scan(DIGEST_SHA256, (struct span){message.data, message.size}, &nobody, &err), 0);
    free(message.data);
}

static void test_scan_survives_garbage(void **state)
{
    (void)state;
    struct digest digest = absent_blob(1);
    struct message message = {0};
    add_file(&message, "a", &digest);
    add_directory(&message, "b", &digest);
    add_file(&message, "c", &digest);
    uint8_t *mutant = malloc(message.size);
    uint32_t random = 1;
    unsigned refused = 0;
    for (unsigned round = 0; round < 20000; round++) {
        size_t size = message.size;
        memcpy(mutant, message.data, size);
        for (unsigned change = 0; change < 1 + round % 4; change++) {
            random = random * 1664525 + 1013904223;
            mutant[(random >> 8) % size] ^= (uint8_t)(1 << (random >> 29));
        }
        if (round % 3 == 0)
            size = (random >> 4) % size;
        /* An exact allocation, so that a read behind the end is seen. */
        struct message copy = {.data = malloc(size + (size == 0)), .size = size};
        struct counts counts = {0};
        memcpy(copy.data, mutant, size);
        int rc = scan(&copy, &counts);
        assert_true(rc == 0 || rc == -ERR_INVALID);
        refused += rc != 0;
        free(copy.data);
    }
    assert_true(refused > 1000);
    free(mutant);
    free(message.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_whole_tree_is_remembered, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_eviction_is_noticed, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_a_check_renews_all_of_the_tree, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_missing_is_named, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_larger_than_any_blob_is_missing, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_lists_of_blobs_and_directories, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_a_deep_chain, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_a_wide_directory, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_shared_directories_are_visited_once, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_memory_is_bounded, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_directory_is_named, setup, trees_teardown),
        cmocka_unit_test(test_scan_refuses_what_is_no_directory),
        cmocka_unit_test(test_scan_visits_until_it_is_told),
        cmocka_unit_test(test_scan_survives_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
