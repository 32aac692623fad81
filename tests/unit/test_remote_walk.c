/* SPDX-License-Identifier: Apache-2.0 */
/* What a check asks of an external CAS, and what its answers mean. */
#include "remote/cas_message.h"
#include "remote_site.h"

/* --- the walk --- */

static void test_a_read_for_each_level_and_one_find(void **state)
{
    enum { DEPTH = 5, FILES = 200 };
    (void)state;
    struct digest root = put_chain(1, DEPTH, FILES);
    reopen(0);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_int_equal(fake_calls(FAKE_READ), DEPTH);
    assert_int_equal(fake_calls(FAKE_FIND), 1);
    assert_int_equal(fake.asked, DEPTH * (FILES + 1));
    for (size_t i = 0; i < fake.digests.count; i++)
        assert_int_equal(fake.blobs[i].asked, 1);
    /* What directories name is known now. */
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_int_equal(fake_calls(FAKE_READ), DEPTH);
    assert_int_equal(fake_calls(FAKE_FIND), 2);
    for (size_t i = 0; i < fake.digests.count; i++)
        assert_int_equal(fake.blobs[i].asked, 2);
}

static void test_what_several_directories_name_is_asked_once(void **state)
{
    (void)state;
    struct message top = {0};
    struct digest below = put_directory(1, 2);
    struct digest file = put_file(1);
    struct asked asked;
    add_file(&top, "file", &file);
    add_file(&top, "hardly a file", &below); /* the same content as a file */
    add_directory(&top, "one", &below);
    add_directory(&top, "other", &below);
    struct digest root = put_message(&top);
    const struct digest blobs[] = {file, root, file};
    const struct digest directories[] = {root, below, root};
    const struct tree_list lists[] = {{blobs, 3, false}, {directories, 3, true}};
    check_lists(&asked, lists, 2);
    assert_told(&asked, ERR_OK);
    assert_int_equal(fake_calls(FAKE_READ), 1);
    assert_int_equal(fake_calls(FAKE_FIND), 1);
    assert_int_equal(fake.asked, 4);
    assert_int_equal(fake_read(&below), 1);
    assert_int_equal(fake_asked(&below), 1);
    assert_int_equal(fake_asked(&file), 1);
}

static void test_blobs_are_not_looked_into(void **state)
{
    (void)state;
    struct asked asked;
    struct digest root = put_directory(1, 2);
    struct digest file = digest_of(1, 100);
    fake_remove(&file);
    const struct tree_list list = {&root, 1, false};
    check_lists(&asked, &list, 1);
    assert_told(&asked, ERR_OK);
    assert_int_equal(fake_calls(FAKE_READ), 0);
    /* The same digest in another list is another question. */
    assert_true(trusts(&root, false));
    assert_false(trusts(&root, true));
    assert_int_equal(check_tree(&root).code, ERR_PRECONDITION);
}

static void test_the_empty_ones_are_always_there(void **state)
{
    (void)state;
    struct digest empty;
    struct err err;
    struct asked asked;
    assert_int_equal(digest_compute(DIGEST_SHA256, "", 0, &empty, &err), 0);
    const struct digest digests[] = {empty, empty};
    const struct tree_list lists[] = {{digests, 2, false}, {digests, 2, true}, {NULL, 0, true}};
    prepare(&asked, lists, 3);
    remote_check_start(&asked.check);
    assert_told(&asked, ERR_OK);
    prepare(&asked, NULL, 0);
    remote_check_start(&asked.check);
    assert_told(&asked, ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND) + fake_calls(FAKE_READ), 0);
    struct message top = {0};
    add_directory(&top, "empty", &empty);
    add_file(&top, "empty", &empty);
    struct digest root = put_message(&top);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_int_equal(fake.asked, 1);
}

static void test_missing_ones_are_named_and_counted(void **state)
{
    enum { FILES = 40 };
    (void)state;
    struct digest root = put_directory(1, FILES);
    struct asked asked;
    for (uint64_t i = 0; i < FILES - 3; i++) {
        struct digest file = digest_of(1 + i, 100);
        fake_remove(&file);
    }
    struct digest twice[] = {digest_of(1, 100), digest_of(1, 100)};
    const struct tree_list lists[] = {{&root, 1, true}, {twice, 2, false}};
    check_lists(&asked, lists, 2);
    assert_told(&asked, ERR_PRECONDITION);
    assert_int_equal(asked.check.missing.count, FILES - 3);
    for (size_t i = 0; i < TREE_MISSING_MAX; i++) {
        const struct digest *missing = &asked.check.missing.digests[i];
        assert_int_equal(fake_asked(missing), 1);
        assert_false(fake_find_blob(missing)->is_there);
        for (size_t k = 0; k < i; k++)
            assert_false(digest_equal(missing, &asked.check.missing.digests[k]));
    }
    char text[DIGEST_TEXT_MAX];
    assert_non_null(strstr(asked.err.msg, "37 blobs are missing, the first is "));
    assert_non_null(strstr(asked.err.msg, digest_text(&asked.check.missing.digests[0], text)));
}

static void test_what_a_missing_directory_names_is_not_asked(void **state)
{
    (void)state;
    struct message top = {0};
    struct digest gone = put_directory(1, 3);
    struct digest below = digest_of(1, 100);
    struct asked asked;
    add_directory(&top, "gone", &gone);
    struct digest root = put_message(&top);
    fake_remove(&gone);
    start(&asked, &root, true, false);
    fake_answer_all();
    assert_told(&asked, ERR_PRECONDITION);
    assert_int_equal(asked.check.missing.count, 1);
    assert_true(digest_equal(&asked.check.missing.digests[0], &gone));
    assert_int_equal(fake_asked(&below), 0);
    /* It is found, and cannot be read. */
    fake_put(&gone, NULL);
    fake_damage(&gone);
    start(&asked, &root, true, false);
    fake_answer_all();
    assert_told(&asked, ERR_PRECONDITION);
    assert_int_equal(asked.check.missing.count, 1);
    assert_true(digest_equal(&asked.check.missing.digests[0], &gone));
}

static void test_no_content_has_no_bytes_but_the_empty_one(void **state)
{
    (void)state;
    struct asked asked;
    struct digest none = digest_of(1, 0);
    fake_put(&none, NULL);
    start(&asked, &none, true, false);
    fake_answer_all();
    assert_told(&asked, ERR_PRECONDITION);
    assert_int_equal(asked.check.missing.count, 1);
    assert_int_equal(fake_calls(FAKE_READ), 0);
}

static void test_what_is_no_directory(void **state)
{
    (void)state;
    struct message top = {0};
    struct message bad = {0};
    char text[DIGEST_TEXT_MAX];
    add_bytes(&bad, "\x0a\xff no directory", 15);
    struct digest wrong = put_message(&bad);
    struct digest lost = digest_of(99, 100);
    add_file(&top, "lost", &lost);
    add_directory(&top, "wrong", &wrong);
    struct digest root = put_message(&top);
    struct err err = check_tree(&root);
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.msg, digest_text(&wrong, text)));
    /* As a file it is as good as any. */
    struct asked asked;
    start(&asked, &wrong, false, false);
    fake_answer_all();
    assert_told(&asked, ERR_OK);
}

static void test_directories_may_not_be_too_large(void **state)
{
    (void)state;
    char text[DIGEST_TEXT_MAX];
    struct digest large = digest_of(1, TREE_DIRECTORY_SIZE_MAX + 1);
    fake_put(&large, NULL);
    struct err err = check_tree(&large);
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.msg, digest_text(&large, text)));
    assert_non_null(strstr(err.msg, "is larger than"));
}

static void test_directories_may_not_be_too_many(void **state)
{
    enum { COUNT = TREE_DIRECTORIES_MAX + 1 };
    (void)state;
    struct asked asked;
    struct digest *digests = malloc(COUNT * sizeof(*digests));
    assert_non_null(digests);
    for (size_t i = 0; i < COUNT; i++)
        digests[i] = digest_of(i, 0);
    const struct tree_list most = {digests, COUNT - 1, true};
    check_lists(&asked, &most, 1);
    assert_told(&asked, ERR_PRECONDITION);
    const struct tree_list list = {digests, COUNT, true};
    check_lists(&asked, &list, 1);
    assert_told(&asked, ERR_INVALID);
    assert_non_null(strstr(asked.err.msg, "more than"));
    free(digests);
}

/* Bytes of the FindMissingBlobs that is answered next. */
static size_t request_size(void)
{
    (void)pthread_mutex_lock(&fake.lock);
    const struct cas_find *find = fake.first->call;
    grpc_byte_buffer *request = cas_message_make("kernel", find->digests, find->count);
    (void)pthread_mutex_unlock(&fake.lock);
    assert_non_null(request);
    size_t size = grpc_byte_buffer_length(request);
    grpc_byte_buffer_destroy(request);
    return size;
}

/* The one in the field is 1 MiB. */
static void test_requests_stay_below_the_smallest_limit(void **state)
{
    enum { COUNT = CAS_FIND_MAX, LIMIT = 1 << 20 };
    (void)state;
    struct asked asked;
    struct digest *digests = malloc(COUNT * sizeof(*digests));
    assert_non_null(digests);
    for (size_t i = 0; i < COUNT; i++) {
        digests[i] = digest_of(i, 1 << 30);
        digests[i].function = DIGEST_SHA512;
    }
    const struct tree_list list = {digests, COUNT, false};
    prepare(&asked, &list, 1);
    remote_check_start(&asked.check);
    assert_true(fake_waiting() > 0);
    while (fake_waiting() > 0) {
        assert_true(request_size() < LIMIT);
        assert_true(fake_answer_one());
    }
    assert_told(&asked, ERR_PRECONDITION);
    assert_int_equal(fake.asked, COUNT);
    free(digests);
}

static void test_long_lists_are_asked_in_parts(void **state)
{
    enum { COUNT = 100000 };
    (void)state;
    struct asked asked;
    struct digest *digests = malloc(COUNT * sizeof(*digests));
    assert_non_null(digests);
    for (size_t i = 0; i < COUNT; i++)
        digests[i] = put_file(i);
    const struct tree_list list = {digests, COUNT, false};
    prepare(&asked, &list, 1);
    remote_check_start(&asked.check);
    /* The lists are the caller's until it is told, but they are not needed any more. */
    assert_int_equal(fake_waiting(), 4);
    fake_answer_all();
    assert_told(&asked, ERR_OK);
    assert_int_equal(fake_calls(FAKE_FIND), (COUNT + CAS_FIND_MAX - 1) / CAS_FIND_MAX);
    assert_int_equal(fake.most[FAKE_FIND], 4);
    assert_int_equal(fake.asked, COUNT);
    for (size_t i = 0; i < COUNT; i += 997)
        assert_int_equal(fake_asked(&digests[i]), 1);
    fake_remove(&digests[COUNT - 1]);
    prepare(&asked, &list, 1);
    asked.check.is_fresh = true;
    remote_check_start(&asked.check);
    fake_answer_all();
    assert_told(&asked, ERR_PRECONDITION);
    assert_int_equal(asked.check.missing.count, 1);
    free(digests);
}

/* A level of 600 directories of 20 KiB. */
static void test_a_wide_level_is_read_in_several_batches_at_once(void **state)
{
    enum { COUNT = 600, FILES = 200 };
    (void)state;
    struct message top = {0};
    char name[24];
    for (size_t i = 0; i < COUNT; i++) {
        struct digest below = put_directory(i * FILES, FILES);
        (void)snprintf(name, sizeof(name), "%08zu", i);
        add_directory(&top, name, &below);
    }
    struct digest root = put_message(&top);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    size_t reads = fake_calls(FAKE_READ);
    assert_true(reads > 8 && reads < 16);
    assert_int_equal(fake.most[FAKE_READ], 4);
    assert_true(fake.most[FAKE_FIND] <= 4);
    assert_true(fake_calls(FAKE_FIND) <= COUNT * (FILES + 1) / CAS_FIND_MAX + 1);
}

static void test_small_directories_are_not_too_many_for_one_request(void **state)
{
    enum { COUNT = 5000 };
    (void)state;
    struct message top = {0};
    char name[24];
    for (size_t i = 0; i < COUNT; i++) {
        struct digest below = put_directory(i, 1);
        (void)snprintf(name, sizeof(name), "%08zu", i);
        add_directory(&top, name, &below);
    }
    struct digest root = put_message(&top);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_int_equal(fake_calls(FAKE_READ), 3);
}

static void test_large_directories_are_read_one_at_a_time(void **state)
{
    enum { FILES = 14000, CHECKS = 4 };
    (void)state;
    struct asked asked[CHECKS];
    for (size_t i = 0; i < CHECKS; i++) {
        struct message top = {0};
        struct digest small = put_directory(i * 1000000, 10);
        struct digest one = put_directory(i * 1000000 + 1, FILES);
        struct digest other = put_directory(i * 1000000 + 2, FILES + 1);
        assert_true(one.size > CAS_BATCH_MAX);
        add_directory(&top, "one", &one);
        add_directory(&top, "other", &other);
        add_directory(&top, "small", &small);
        struct digest root = put_message(&top);
        start(&asked[i], &root, true, false);
    }
    fake_answer_all();
    for (size_t i = 0; i < CHECKS; i++)
        assert_told(&asked[i], ERR_OK);
    assert_int_equal(fake.most_large, 1);
    /* They are too large to be remembered. */
    assert_int_equal(fake_calls(FAKE_READ), CHECKS * 4);
}

static void test_batches_are_as_small_as_the_cas_wants_them(void **state)
{
    enum { COUNT = 20, TOGETHER = 4 };
    (void)state;
    struct message top = {0};
    char name[24];
    int64_t size = 0;
    for (size_t i = 0; i < COUNT; i++) {
        struct digest below = put_directory(i * 100, 2);
        (void)snprintf(name, sizeof(name), "%02zu", i);
        add_directory(&top, name, &below);
        size = below.size;
    }
    struct digest root = put_message(&top);
    assert_true(root.size > size * TOGETHER);
    cas_connections_set_batch(NULL, size * TOGETHER);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    /* The root is larger, and comes as a stream. */
    assert_int_equal(fake.most_large, 1);
    assert_int_equal(fake_calls(FAKE_READ), 1 + COUNT / TOGETHER);
}

static void test_a_large_directory_that_fails_lets_the_next_in(void **state)
{
    enum { FILES = 14000, CHECKS = 40 };
    (void)state;
    struct digest root = put_directory(0, FILES);
    struct asked asked[CHECKS];
    fake_fail_next(1);
    for (size_t i = 0; i < CHECKS; i++)
        start(&asked[i], &root, true, true);
    assert_int_equal(fake_calls(FAKE_READ), 1);
    assert_true(fake_answer_one());
    assert_told(&asked[0], ERR_UNAVAILABLE);
    assert_int_equal(fake_waiting(), 1);
    /* The next is in when the one before has been looked into. */
    assert_true(fake_answer_one());
    assert_int_equal(fake_calls(FAKE_FIND), 2);
    assert_int_equal(fake_calls(FAKE_READ), 3);
    /* Now all are refused. */
    fake_refuse(true);
    fake_answer_all();
    assert_told(&asked[1], ERR_OK);
    for (size_t i = 2; i < CHECKS; i++)
        assert_told(&asked[i], ERR_AWAY);
}

/* --- failures --- */

static void test_a_cas_that_cannot_be_asked(void **state)
{
    (void)state;
    struct digest root = put_chain(1, 2, 2);
    struct remote_cas_stats stats;
    fake_refuse(true);
    struct err err = check_tree(&root);
    assert_int_equal(err.code, ERR_AWAY);
    assert_non_null(strstr(err.msg, "breaker"));
    remote_cas_stats(cas, &stats);
    assert_int_equal(stats.failed, 1);
    assert_int_equal(stats.is_up, 0);
    fake_refuse(false);
    /* Any of the calls fails: the first read, the second, the find. */
    for (size_t calls = 0; calls < 3; calls++) {
        struct asked asked;
        reopen(TRUST);
        fake_answer_when(FAKE_WHEN_TOLD);
        if (calls == 0)
            fake_fail_next(1);
        start(&asked, &root, true, false);
        for (size_t i = 1; i <= calls; i++) {
            if (i == calls)
                fake_fail_next(1);
            assert_true(fake_answer_one());
        }
        assert_true(fake_answer_one());
        assert_told(&asked, ERR_UNAVAILABLE);
        assert_int_equal(fake_waiting(), 0);
        assert_false(trusts(&root, true));
    }
    assert_int_equal(check_tree(&root).code, ERR_OK);
}

static void test_what_is_known_to_be_missing_is_an_answer(void **state)
{
    enum { COUNT = CAS_FIND_MAX + 1 };
    (void)state;
    struct asked asked;
    struct digest *digests = malloc(COUNT * sizeof(*digests));
    assert_non_null(digests);
    for (size_t i = 0; i < COUNT; i++)
        digests[i] = digest_of(i, 100);
    const struct tree_list list = {digests, COUNT, false};
    for (unsigned first_fails = 0; first_fails < 2; first_fails++) {
        fake_fail_next(first_fails);
        prepare(&asked, &list, 1);
        asked.check.is_fresh = true;
        if (first_fails == 0) {
            remote_check_start(&asked.check);
            assert_int_equal(fake_waiting(), 2);
            /* The second was begun already; of the next nothing is. */
            fake_answer_all();
            assert_told(&asked, ERR_PRECONDITION);
            assert_int_equal(asked.check.missing.count, COUNT);
        } else {
            remote_check_start(&asked.check);
            fake_answer_all();
            assert_told(&asked, ERR_PRECONDITION);
            assert_int_equal(asked.check.missing.count, 1);
        }
    }
    free(digests);
}

/* --- no recursion --- */

/* The lowest and the highest frame in which something was told. */
static uintptr_t lowest, highest;

static void note_frame(void)
{
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    if (frame < lowest)
        lowest = frame;
    if (frame > highest)
        highest = frame;
}

/* Starts the next one when it is told, as a fetch with several URIs does. */
struct chained {
    struct remote_check check; /* first */
    struct tree_list list;
    struct digest digest;
    size_t left;
};

static void start_chained(struct chained *chained)
{
    size_t left = chained->left - 1;
    *chained = (struct chained){.check = {.cas = cas, .done = chained->check.done},
                                .digest = digest_of(left, 100),
                                .left = left};
    chained->list = (struct tree_list){&chained->digest, 1, false};
    chained->check.lists = &chained->list;
    chained->check.list_count = 1;
    remote_check_start(&chained->check);
}

static size_t ended;

static void on_chained(struct remote_check *check, const struct err *err)
{
    struct chained *chained = (struct chained *)check;
    note_frame();
    assert_non_null(err);
    if (chained->left != 0)
        start_chained(chained);
    else
        ended++;
}

static void test_answers_at_once_do_not_pile_up(void **state)
{
    enum { CHAINS = 100, LENGTH = 500 };
    (void)state;
    struct chained *chained = calloc(CHAINS, sizeof(*chained));
    assert_non_null(chained);
    for (unsigned round = 0; round < 2; round++) {
        lowest = UINTPTR_MAX;
        highest = 0;
        ended = 0;
        fake_refuse(false);
        fake_answer_when(FAKE_WHEN_TOLD);
        for (size_t i = 0; i < CHAINS; i++) {
            chained[i] = (struct chained){.check = {.done = on_chained}, .left = LENGTH + i};
            start_chained(&chained[i]);
        }
        /* From now on all is answered, or refused, at once. */
        fake_answer_when(FAKE_AT_ONCE);
        fake_refuse(round == 1);
        fake_answer_all();
        assert_int_equal(ended, CHAINS);
        assert_true(highest - lowest < 64 * KIB);
    }
    free(chained);
}

static void test_deep_trees_need_no_stack(void **state)
{
    enum { DEPTH = 3000 };
    (void)state;
    struct digest root = put_chain(1, DEPTH, 1);
    fake_answer_when(FAKE_AT_ONCE);
    assert_int_equal(check_tree(&root).code, ERR_OK);
    assert_int_equal(fake_calls(FAKE_READ), DEPTH);
    assert_int_equal(fake_calls(FAKE_FIND), 1);
}

/* Each level costs the CAS a call, and a small push can name a tree of very many. */
static void test_trees_may_not_be_too_deep(void **state)
{
    enum { DEPTH = REMOTE_WALK_LEVELS_MAX + 1 };
    (void)state;
    struct digest root = put_chain(1, DEPTH, 1);
    fake_answer_when(FAKE_AT_ONCE);
    struct err err = check_tree(&root);
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.msg, "4096 levels"));
    assert_int_equal(fake_calls(FAKE_READ), REMOTE_WALK_LEVELS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_read_for_each_level_and_one_find),
        TEST(test_what_several_directories_name_is_asked_once),
        TEST(test_blobs_are_not_looked_into),
        TEST(test_the_empty_ones_are_always_there),
        TEST(test_missing_ones_are_named_and_counted),
        TEST(test_what_a_missing_directory_names_is_not_asked),
        TEST(test_no_content_has_no_bytes_but_the_empty_one),
        TEST(test_what_is_no_directory),
        TEST(test_directories_may_not_be_too_large),
        TEST(test_directories_may_not_be_too_many),
        TEST(test_requests_stay_below_the_smallest_limit),
        TEST(test_long_lists_are_asked_in_parts),
        TEST(test_a_wide_level_is_read_in_several_batches_at_once),
        TEST(test_small_directories_are_not_too_many_for_one_request),
        TEST(test_large_directories_are_read_one_at_a_time),
        TEST(test_batches_are_as_small_as_the_cas_wants_them),
        TEST(test_a_large_directory_that_fails_lets_the_next_in),
        TEST(test_a_cas_that_cannot_be_asked),
        TEST(test_what_is_known_to_be_missing_is_an_answer),
        TEST(test_answers_at_once_do_not_pile_up),
        TEST(test_deep_trees_need_no_stack),
        TEST(test_trees_may_not_be_too_deep),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
