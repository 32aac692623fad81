/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of lists: the same for the same lists, another for any other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/tree_key.h"

enum { COUNT = 300 }; /* more than are hashed at once, of any function */

static struct tree_keys keys;

static int setup(void **state)
{
    struct err err;
    (void)state;
    return tree_keys_init(&keys, &err);
}

static void make_digests(enum digest_function function, struct digest digests[COUNT])
{
    memset(digests, 0, COUNT * sizeof(digests[0]));
    for (size_t i = 0; i < COUNT; i++) {
        digests[i].function = function;
        digests[i].size = (int64_t)i;
        memset(digests[i].hash, (int)i, digest_hash_size(function));
    }
}

static struct tree_key key_of(const struct tree_list *lists, size_t count)
{
    struct tree_key key;
    struct err err;
    assert_int_equal(tree_keys_make(&keys, lists, count, &key, &err), 0);
    return key;
}

static void assert_same(struct tree_key one, struct tree_key other)
{
    assert_true(tree_key_equal(&one, &other));
    assert_int_equal(tree_key_hash(&one), tree_key_hash(&other));
}

static void assert_other(struct tree_key one, struct tree_key other)
{
    assert_false(tree_key_equal(&one, &other));
}

static void test_each_digest_counts(void **state)
{
    static const enum digest_function functions[] = {DIGEST_SHA1, DIGEST_SHA256, DIGEST_SHA512};
    struct digest digests[COUNT];
    const struct tree_list list = {.digests = digests, .count = COUNT};
    (void)state;
    for (size_t f = 0; f < sizeof(functions) / sizeof(functions[0]); f++) {
        make_digests(functions[f], digests);
        struct tree_key key = key_of(&list, 1);
        for (size_t i = 0; i < COUNT; i++) {
            uint8_t *last = &digests[i].hash[digest_hash_size(functions[f]) - 1];
            *last ^= 1;
            assert_other(key_of(&list, 1), key);
            *last ^= 1;
            digests[i].size ^= 1;
            assert_other(key_of(&list, 1), key);
            digests[i].size ^= 1;
        }
        assert_same(key_of(&list, 1), key);
    }
}

static void test_each_length_counts(void **state)
{
    struct digest digests[COUNT];
    struct tree_list list = {.digests = digests};
    (void)state;
    make_digests(DIGEST_SHA256, digests);
    struct tree_key before = key_of(&list, 1);
    while (list.count < COUNT) {
        list.count++;
        struct tree_key key = key_of(&list, 1);
        assert_other(key, before);
        before = key;
    }
}

static void test_what_is_in_which_list_counts(void **state)
{
    struct digest digests[COUNT];
    struct tree_list lists[2] = {{.digests = digests, .count = 100},
                                 {.digests = digests + 100, .count = 100, .are_directories = true}};
    const struct tree_list empty[3] = {{.count = 0}, lists[0], lists[1]};
    (void)state;
    make_digests(DIGEST_SHA256, digests);
    struct tree_key key = key_of(lists, 2);
    assert_same(key_of(empty, 3), key);
    lists[0].count = 99;
    lists[1] = (struct tree_list){.digests = digests + 99, .count = 101, .are_directories = true};
    assert_other(key_of(lists, 2), key);
    lists[0].count = 200;
    assert_other(key_of(lists, 1), key);
}

static struct tree_key key_of_label(const struct tree_label *label)
{
    struct tree_key key;
    tree_keys_label(&keys, label, &key);
    return key;
}

static void test_all_of_a_label_counts(void **state)
{
    struct tree_label label = {.name = "an asset's name", .version = 7, .time = 1700000000000};
    const struct tree_list nothing = {.count = 0};
    (void)state;
    struct tree_key key = key_of_label(&label);
    assert_same(key_of_label(&label), key);
    assert_other(key_of(&nothing, 1), key);
    for (size_t i = 0; i < sizeof(label.name); i++) {
        label.name[i] ^= 1;
        const struct tree_key other = key_of_label(&label);
        assert_other(other, key);
        assert_int_not_equal(tree_key_hash(&other), tree_key_hash(&key)); /* one in 2^32 is */
        label.name[i] ^= 1;
    }
    label.version++;
    assert_other(key_of_label(&label), key);
    label.version--;
    label.time++;
    assert_other(key_of_label(&label), key);
}

/* Names that differ in little, as whoever pushes may choose them, do not share a bucket. */
static void test_labels_that_are_alike_spread(void **state)
{
    enum { LABELS = 4096, BUCKETS = 1 << 16 };
    static uint8_t used[BUCKETS];
    size_t distinct = 0;
    (void)state;
    memset(used, 0, sizeof(used));
    for (unsigned i = 0; i < LABELS; i++) {
        struct tree_label label = {.version = i, .time = 1700000000000 + i % 3};
        memcpy(label.name + i % 12, &i, sizeof(i));
        const struct tree_key key = key_of_label(&label);
        uint8_t *bucket = &used[tree_key_hash(&key) % BUCKETS];
        distinct += *bucket == 0;
        *bucket = 1;
    }
    assert_true(distinct > LABELS * 3 / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_digest_counts),
        cmocka_unit_test(test_each_length_counts),
        cmocka_unit_test(test_what_is_in_which_list_counts),
        cmocka_unit_test(test_all_of_a_label_counts),
        cmocka_unit_test(test_labels_that_are_alike_spread),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
