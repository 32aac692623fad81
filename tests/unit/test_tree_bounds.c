/* SPDX-License-Identifier: Apache-2.0 */
/* Completeness of trees that are large, made to be slow, or on a disk that fails. */
#include <errno.h>
#include <stdatomic.h>

#include "store/cas_private.h"
#include "test_tree_messages.h"
#include "trees.h"

enum { QUOTA = 256 * MIB, CACHE = 16 * MIB };

static atomic_bool fail_reads;

static ssize_t failing_pread(int fd, void *buffer, size_t size, off_t offset)
{
    if (atomic_load(&fail_reads)) {
        errno = EIO;
        return -1;
    }
    return pread(fd, buffer, size, offset);
}

static int setup(void **state)
{
    atomic_store(&fail_reads, false);
    return trees_setup(state, QUOTA, CACHE, failing_pread);
}

static void test_what_cannot_be_read_is_not_missing(void **state)
{
    struct trees *trees = *state;
    struct message top = {0};
    struct digest file;
    struct digest lost;
    assert_int_equal(put_blob(trees->store.cas, NULL, 1000, 1, &file), ERR_OK);
    add_file(&top, "a", &file);
    struct digest root = store_message(&trees->store, &top);
    free(make_blob(1000, 2, &lost));
    assert_int_equal(check_lists(trees, NULL, 0, &root, 1), 0);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, &root, 1), 0);
    /* One file that cannot be read, and the tree is not known to be whole any more. */
    atomic_store(&fail_reads, true);
    assert_int_equal(get_blob(trees->store.cas, 1000, 1), ERR_IO);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, &root, 1), -ERR_UNAVAILABLE);
    assert_int_equal(check_lists(trees, NULL, 0, &root, 1), -ERR_UNAVAILABLE);
    assert_int_equal(check_lists(trees, &file, 1, NULL, 0), -ERR_UNAVAILABLE);
    assert_string_equal(trees->err.msg, "content cannot be read right now");
    assert_int_equal(trees->missing.count, 0);
    /* What is missing beside it is known. */
    const struct digest both[] = {file, lost};
    assert_int_equal(check_lists(trees, both, 2, NULL, 0), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, 1);
    assert_true(digest_equal(&trees->missing.digests[0], &lost));
    /* The same for a directory, once nothing is remembered of it. */
    tree_cache_free(trees->cache);
    assert_int_equal(tree_cache_new(trees->store.cas, CACHE, &trees->cache, &trees->err), 0);
    assert_int_equal(check_lists(trees, NULL, 0, &root, 1), -ERR_IO);
    assert_int_equal(check_lists(trees, NULL, 0, &root, 1), -ERR_UNAVAILABLE);
    assert_int_equal(trees->missing.count, 0);
    atomic_store(&fail_reads, false);
    assert_int_equal(check_lists(trees, &file, 1, &root, 1), 0);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, &root, 1), 0);
}

/* Digests of blobs that nobody has, whose hashes begin with the same 8 bytes. */
static struct digest *alike(size_t count)
{
    struct digest *digests = calloc(count, sizeof(*digests));
    assert_non_null(digests);
    uint64_t random = 1;
    for (size_t i = 0; i < count; i++) {
        digests[i].function = DIGEST_SHA256;
        digests[i].size = 5;
        for (size_t k = 8; k < 32; k += 8) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            memcpy(digests[i].hash + k, &random, 8);
        }
    }
    return digests;
}

/* Their time is that of any others, or this does not end. */
static void test_hashes_that_begin_alike(void **state)
{
    enum { COUNT = 1 << 16, MORE = 1 << 20 };
    struct trees *trees = *state;
    struct digest *digests = alike(MORE);
    assert_int_equal(check_lists(trees, digests, COUNT, NULL, 0), -ERR_PRECONDITION);
    assert_int_equal(trees->missing.count, COUNT);
    for (size_t i = 0; i < TREE_MISSING_MAX; i++)
        assert_true(digest_equal(&trees->missing.digests[i], &digests[i]));
    struct digest_set set = {0};
    for (unsigned round = 0; round < 2; round++)
        for (size_t i = 0; i < MORE; i++) {
            bool is_new;
            assert_int_equal(digest_set_add(&set, &digests[i], &is_new, &trees->err), 0);
            assert_int_equal(is_new, round == 0);
        }
    digest_set_fini(&set);
    free(digests);
}

static void test_much_to_look_up_is_left_to_who_may_wait(void **state)
{
    enum { FILES = 5000 };
    struct trees *trees = *state;
    struct message top = {0};
    struct digest lost;
    struct digest file;
    struct digest *files = malloc(FILES * sizeof(*files));
    char name[16];
    assert_int_equal(put_blob(trees->store.cas, NULL, 10, 1, &file), ERR_OK);
    for (size_t i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof(name), "%05zu", i);
        add_file(&top, name, &file);
        files[i] = file;
    }
    struct digest root = store_message(&trees->store, &top);
    assert_int_equal(put_blob(trees->store.cas, NULL, 10, 3, &lost), ERR_OK);
    assert_int_equal(check_lists(trees, files, FILES, &root, 1), 0);
    assert_int_equal(check_lists_remembered(trees, files, 4000, NULL, 0), 0);
    assert_int_equal(check_lists_remembered(trees, files, FILES - 1, NULL, 0), -ERR_UNAVAILABLE);
    /* Something left a segment that holds it: all of it has to be looked up again. */
    assert_int_equal(check_lists_remembered(trees, files, FILES, &root, 1), 0);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, &root, 1), 0);
    assert_int_equal(cas_delete(trees->store.cas, &lost, &trees->err), 0);
    assert_int_equal(check_lists_remembered(trees, files, FILES, &root, 1), -ERR_UNAVAILABLE);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, &root, 1), -ERR_UNAVAILABLE);
    assert_int_equal(check_lists(trees, NULL, 0, &root, 1), 0);
    assert_int_equal(check_lists_remembered(trees, NULL, 0, &root, 1), 0);
    /* What is found missing before is an answer. */
    free(make_blob(10, 2, &lost));
    files[0] = lost;
    assert_int_equal(check_lists_remembered(trees, files, FILES, NULL, 0), -ERR_PRECONDITION);
    assert_true(digest_equal(&trees->missing.digests[0], &lost));
    free(files);
    /* Nor is more looked up than that takes. */
    struct digest *absent = alike(1000);
    assert_int_equal(check_lists_remembered(trees, absent, 1000, NULL, 0), -ERR_PRECONDITION);
    assert_true(trees->missing.count < 1000);
    free(absent);
}

/* Claims to have COUNT blobs, all where another one is. */
static void claim(struct cas *cas, const struct digest *digests, size_t count)
{
    struct digest digest;
    struct cas_found found;
    struct err err;
    assert_int_equal(put_blob(cas, NULL, 10, 1, &digest), ERR_OK);
    assert_int_equal(cas_look_up(cas, NULL, &digest, &found), CAS_PRESENT);
    for (size_t i = 0; i < count; i++) {
        struct cas_key key;
        cas_key_of(&digests[i], &key);
        uint64_t there;
        assert_int_equal(digest_table_add(cas->table, &key, found.place, &there, &err), 0);
    }
}

static void test_too_many_directories(void **state)
{
    enum { COUNT = TREE_DIRECTORIES_MAX + 1 };
    struct trees *trees = *state;
    struct digest *digests = alike(COUNT);
    claim(trees->store.cas, digests, COUNT);
    assert_int_equal(check_lists(trees, NULL, 0, digests, COUNT), -ERR_INVALID);
    assert_non_null(strstr(trees->err.msg, "524288 directories"));
    /* As many as there may be: the first of them is not what it was claimed to be. */
    assert_int_equal(check_lists(trees, NULL, 0, digests, 1), -ERR_PRECONDITION);
    free(digests);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read_is_not_missing, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_hashes_that_begin_alike, setup, trees_teardown),
        cmocka_unit_test_setup_teardown(test_much_to_look_up_is_left_to_who_may_wait, setup,
                                        trees_teardown),
        cmocka_unit_test_setup_teardown(test_too_many_directories, setup, trees_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
