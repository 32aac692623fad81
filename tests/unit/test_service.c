/* SPDX-License-Identifier: Apache-2.0 */
/* ContentAddressableStorage, and what every call is checked for: its instance, lists and digests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "fake_services.h"
#include "service/request.h"

#define SHA512 BUILD__BAZEL__REMOTE__EXECUTION__V2__DIGEST_FUNCTION__VALUE__SHA512
#define SHA1   BUILD__BAZEL__REMOTE__EXECUTION__V2__DIGEST_FUNCTION__VALUE__SHA1
#define MD5    BUILD__BAZEL__REMOTE__EXECUTION__V2__DIGEST_FUNCTION__VALUE__MD5
#define ZSTD   BUILD__BAZEL__REMOTE__EXECUTION__V2__COMPRESSOR__VALUE__ZSTD

enum { MIB = 1 << 20 };

/* --- FindMissingBlobs, and the rules for all --- */

static void find_as(struct fake_call *fake, const char *instance, REAPI(Digest) **digests,
                    size_t count, const struct conf_listener *listener, const char *identity)
{
    REAPI(FindMissingBlobsRequest) request =
        BUILD__BAZEL__REMOTE__EXECUTION__V2__FIND_MISSING_BLOBS_REQUEST__INIT;
    request.instance_name = (char *)instance;
    request.blob_digests = digests;
    request.n_blob_digests = count;
    fake_run_as(fake, "ContentAddressableStorage/FindMissingBlobs", &request.base, listener,
                identity);
}

static void find(struct fake_call *fake, REAPI(Digest) **digests, size_t count)
{
    find_as(fake, "", digests, count, &fake_listener, "");
}

/* The call ended well, and named exactly MISSING, in this order. */
static void assert_missing(struct fake_call *fake, REAPI(Digest) **missing, size_t count)
{
    if (fake->status.code != ERR_OK)
        fail_msg("%s", fake->status.msg);
    REAPI(FindMissingBlobsResponse) *response = fake_call_unpack(
        fake, 0, &build__bazel__remote__execution__v2__find_missing_blobs_response__descriptor);
    assert_int_equal(response->n_missing_blob_digests, count);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(response->missing_blob_digests[i]->hash, missing[i]->hash);
        assert_int_equal(response->missing_blob_digests[i]->size_bytes, missing[i]->size_bytes);
    }
    build__bazel__remote__execution__v2__find_missing_blobs_response__free_unpacked(response, NULL);
    fake_call_fini(fake);
}

static void test_find_missing(void **state)
{
    (void)state;
    struct fake_call fake;
    struct fake_blob *here = fake_blob_new(100), *gone = fake_blob_new(100),
                     *lost = fake_blob_new(50);
    struct fake_blob *empty = fake_blob_of("", 0);
    REAPI(Digest) longer = here->digest;
    longer.size_bytes++;
    fake_store(FAKE_MAIN, here);
    find(&fake, NULL, 0);
    assert_missing(&fake, NULL, 0);
    REAPI(Digest) *digests[] = {&gone->digest, &here->digest, &empty->digest, &lost->digest,
                                &gone->digest, &longer,       &gone->digest,  &lost->digest};
    REAPI(Digest) *missing[] = {&gone->digest, &lost->digest, &longer};
    find(&fake, digests, 8);
    assert_missing(&fake, missing, 3);
    /* Another instance has none of them, but for the empty one. */
    find_as(&fake, "small", digests, 3, &fake_listener, "");
    REAPI(Digest) *missing_there[] = {&gone->digest, &here->digest};
    assert_missing(&fake, missing_there, 2);
}

static void test_find_many(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    struct fake_call fake;
    static REAPI(Digest) *digests[COUNT], *missing[COUNT];
    size_t missing_count = 0;
    for (size_t i = 0; i < COUNT; i++) {
        if (i % 10 == 9) {
            digests[i] = digests[i - 5];
            continue;
        }
        struct fake_blob *blob = fake_blob_new(i % 7 + 4);
        digests[i] = &blob->digest;
        if (i % 100 == 0)
            fake_store(FAKE_MAIN, blob);
        else
            missing[missing_count++] = digests[i];
    }
    find(&fake, digests, COUNT);
    assert_missing(&fake, missing, missing_count);
}

static void test_digests_refused(void **state)
{
    (void)state;
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(10);
    REAPI(Digest) *digests[] = {&blob->digest, &blob->digest};
    REAPI(Digest) bad = blob->digest;
    digests[1] = &bad;

    bad.hash = (char *)"";
    find(&fake, digests, 2);
    fake_assert_failed(&fake, ERR_INVALID, "blob_digests[1]: the digest has no hash");
    bad.hash = (char *)"zz";
    find(&fake, digests, 2);
    fake_assert_failed(&fake, ERR_INVALID, "blob_digests[1]");
    find(&fake, digests + 1, 1);
    fake_assert_failed(&fake, ERR_INVALID, "2 characters");
    bad.hash = (char *)"da39a3ee5e6b4b0d3255bfef95601890afd80709"; /* SHA-1 after SHA-256 */
    find(&fake, digests, 2);
    fake_assert_failed(&fake, ERR_INVALID, "blob_digests[1]");
    find(&fake, digests + 1, 1);
    assert_missing(&fake, digests + 1, 1);
    bad = blob->digest;
    bad.size_bytes = -5;
    find(&fake, digests, 2);
    fake_assert_failed(&fake, ERR_INVALID, "negative");
}

static void test_digest_function(void **state)
{
    (void)state;
    static const struct {
        REAPI(DigestFunction__Value) function;
        const char *reason; /* NULL: taken */
    } cases[] = {
        {BUILD__BAZEL__REMOTE__EXECUTION__V2__DIGEST_FUNCTION__VALUE__SHA256, NULL},
        {SHA1, "64 characters"},
        {SHA512, "SHA512 is not served"},
        {MD5, "MD5 is not served here; served: sha256, sha1"},
        {(REAPI(DigestFunction__Value))99, "99 is not known"},
        {(REAPI(DigestFunction__Value))-1, "-1 is not known"},
    };
    struct fake_blob *blob = fake_blob_new(10);
    REAPI(Digest) *digests[] = {&blob->digest};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fake_call fake;
        REAPI(FindMissingBlobsRequest) request =
            BUILD__BAZEL__REMOTE__EXECUTION__V2__FIND_MISSING_BLOBS_REQUEST__INIT;
        request.blob_digests = digests;
        request.n_blob_digests = 1;
        request.digest_function = cases[i].function;
        fake_run(&fake, "ContentAddressableStorage/FindMissingBlobs", &request.base);
        if (cases[i].reason != NULL)
            fake_assert_failed(&fake, ERR_INVALID, cases[i].reason);
        else
            assert_missing(&fake, digests, 1);
    }
}

static void test_instances(void **state)
{
    (void)state;
    struct fake_call fake;
    REAPI(Digest) bad = BUILD__BAZEL__REMOTE__EXECUTION__V2__DIGEST__INIT;
    REAPI(Digest) *digests[] = {&bad};
    /* Before its arguments are looked at. */
    find_as(&fake, "nowhere", digests, 1, &fake_listener, "");
    fake_assert_failed(&fake, ERR_NOT_FOUND, "\"nowhere\"");
    find_as(&fake, "index", digests, 1, &fake_listener, "");
    fake_assert_failed(&fake, ERR_UNIMPLEMENTED, "index only");
    /* A listener that is limited does not know the others. */
    find_as(&fake, "nowhere", NULL, 0, &fake_narrow_listener, "");
    char unknown[ERR_MESSAGE_SIZE];
    memcpy(unknown, fake.status.msg, sizeof(unknown));
    fake_assert_failed(&fake, ERR_NOT_FOUND, "\"nowhere\"");
    find_as(&fake, "index", NULL, 0, &fake_narrow_listener, "");
    assert_string_equal(strstr(fake.status.msg, " is not"), strstr(unknown, " is not"));
    fake_assert_failed(&fake, ERR_NOT_FOUND, "\"index\"");
    find_as(&fake, "small", NULL, 0, &fake_narrow_listener, "");
    assert_missing(&fake, NULL, 0);

    /* Long names are cut between characters, and control characters kept out. */
    char name[400] = "\n";
    while (strlen(name) + 2 < sizeof(name))
        strcat(name, "\xc3\xa9");
    find_as(&fake, name, NULL, 0, &fake_listener, "");
    assert_non_null(strstr(fake.status.msg, "\xc3\xa9...\""));
    assert_null(strchr(fake.status.msg, '\n'));
    fake_assert_failed(&fake, ERR_NOT_FOUND, "check the instance name");
}

static void update_as(struct fake_call *fake, const char *instance,
                      REAPI(BatchUpdateBlobsRequest__Request) **updates, size_t count,
                      const struct conf_listener *listener, const char *identity)
{
    REAPI(BatchUpdateBlobsRequest) request =
        BUILD__BAZEL__REMOTE__EXECUTION__V2__BATCH_UPDATE_BLOBS_REQUEST__INIT;
    request.instance_name = (char *)instance;
    request.requests = updates;
    request.n_requests = count;
    fake_run_as(fake, "ContentAddressableStorage/BatchUpdateBlobs", &request.base, listener,
                identity);
}

static void test_lists(void **state)
{
    (void)state;
    static const struct {
        const char *identity;
        const struct conf_listener *listener;
        const char *push_reason, *pull_reason; /* NULL: let */
    } cases[] = {
        {"ci", &fake_listener, NULL, NULL},
        {"alice", &fake_listener, "does not let alice push", NULL},
        {"bob", &fake_listener, "does not let bob push", "does not let bob pull"},
        {"", &fake_listener, "registered clients push", "unix:/all"},
        {"", &fake_admin_listener, NULL, NULL},
        {"bob", &fake_admin_listener, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fake_call fake;
        find_as(&fake, "team/kernel", NULL, 0, cases[i].listener, cases[i].identity);
        if (cases[i].pull_reason != NULL)
            fake_assert_failed(&fake, ERR_DENIED, cases[i].pull_reason);
        else
            assert_missing(&fake, NULL, 0);
        update_as(&fake, "team/kernel", NULL, 0, cases[i].listener, cases[i].identity);
        if (cases[i].push_reason != NULL) {
            fake_assert_failed(&fake, ERR_DENIED, cases[i].push_reason);
        } else {
            assert_int_equal(fake.status.code, ERR_OK);
            fake_call_fini(&fake);
        }
    }
}

/* --- BatchUpdateBlobs and BatchReadBlobs --- */

enum { UPDATES_MAX = 200 };

/* An update of each of COUNT blobs. */
struct updates {
    REAPI(BatchUpdateBlobsRequest__Request) requests[UPDATES_MAX];
    REAPI(BatchUpdateBlobsRequest__Request) *pointers[UPDATES_MAX];
    size_t count;
};

static void add_update(struct updates *updates, struct fake_blob *blob)
{
    assert_true(updates->count < UPDATES_MAX);
    REAPI(BatchUpdateBlobsRequest__Request) *request = &updates->requests[updates->count];
    build__bazel__remote__execution__v2__batch_update_blobs_request__request__init(request);
    request->digest = &blob->digest;
    request->data = (ProtobufCBinaryData){blob->size, blob->data};
    updates->pointers[updates->count++] = request;
}

/* One response for each update, with its digest and CODES[i], which may be NULL for all 0. */
static void assert_updated(struct fake_call *fake, const struct updates *updates, const int *codes)
{
    if (fake->status.code != ERR_OK)
        fail_msg("%s", fake->status.msg);
    REAPI(BatchUpdateBlobsResponse) *response = fake_call_unpack(
        fake, 0, &build__bazel__remote__execution__v2__batch_update_blobs_response__descriptor);
    assert_int_equal(response->n_responses, updates->count);
    for (size_t i = 0; i < updates->count; i++) {
        const REAPI(BatchUpdateBlobsResponse__Response) *one = response->responses[i];
        assert_string_equal(one->digest->hash, updates->requests[i].digest->hash);
        assert_int_equal(one->digest->size_bytes, updates->requests[i].digest->size_bytes);
        assert_int_equal(one->status->code, codes != NULL ? codes[i] : 0);
        assert_int_equal(one->status->message[0] != '\0', one->status->code != 0);
    }
    build__bazel__remote__execution__v2__batch_update_blobs_response__free_unpacked(response, NULL);
    fake_call_fini(fake);
}

static void read_batch(struct fake_call *fake, REAPI(Digest) **digests, size_t count)
{
    REAPI(BatchReadBlobsRequest) request =
        BUILD__BAZEL__REMOTE__EXECUTION__V2__BATCH_READ_BLOBS_REQUEST__INIT;
    request.digests = digests;
    request.n_digests = count;
    fake_run(fake, "ContentAddressableStorage/BatchReadBlobs", &request.base);
}

/* One response for each blob: its bytes, or NOT_FOUND where the bit of its position is set. */
static void assert_read(struct fake_call *fake, struct fake_blob *const *blobs, size_t count,
                        uint64_t missing)
{
    if (fake->status.code != ERR_OK)
        fail_msg("%s", fake->status.msg);
    REAPI(BatchReadBlobsResponse) *response = fake_call_unpack(
        fake, 0, &build__bazel__remote__execution__v2__batch_read_blobs_response__descriptor);
    assert_int_equal(response->n_responses, count);
    for (size_t i = 0; i < count; i++) {
        const REAPI(BatchReadBlobsResponse__Response) *one = response->responses[i];
        assert_string_equal(one->digest->hash, blobs[i]->digest.hash);
        assert_int_equal(one->digest->size_bytes, blobs[i]->digest.size_bytes);
        if (i < 64 && (missing >> i & 1) != 0) {
            assert_int_equal(one->status->code, 5);
            assert_int_equal(one->data.len, 0);
            continue;
        }
        assert_int_equal(one->status->code, 0);
        assert_int_equal(one->data.len, blobs[i]->size);
        assert_memory_equal(one->data.data, blobs[i]->data, blobs[i]->size);
    }
    build__bazel__remote__execution__v2__batch_read_blobs_response__free_unpacked(response, NULL);
    fake_call_fini(fake);
}

static void test_batch(void **state)
{
    (void)state;
    struct fake_call fake;
    struct updates updates = {.count = 0};
    struct fake_blob *blobs[150] = {NULL};
    REAPI(Digest) *digests[150];
    update_as(&fake, "", NULL, 0, &fake_listener, "");
    assert_updated(&fake, &updates, NULL);
    read_batch(&fake, NULL, 0);
    assert_read(&fake, blobs, 0, 0);
    for (size_t i = 0; i < 150; i++) {
        blobs[i] = i % 50 == 7 ? fake_blob_of("", 0) : fake_blob_new(i * 37 % 300 + 5);
        digests[i] = &blobs[i]->digest;
        add_update(&updates, blobs[i]);
    }
    /* Twice in one request: stored once, answered twice. */
    add_update(&updates, blobs[0]);
    add_update(&updates, blobs[149]);
    update_as(&fake, "", updates.pointers, updates.count, &fake_listener, "");
    assert_updated(&fake, &updates, NULL);
    read_batch(&fake, digests, 150);
    assert_read(&fake, blobs, 150, 0);
}

static void test_batch_update_one_by_one(void **state)
{
    (void)state;
    struct fake_call fake;
    struct updates updates = {.count = 0};
    struct fake_blob *good = fake_blob_new(100), *last = fake_blob_new(100), *others[3];
    add_update(&updates, good);
    for (size_t i = 0; i < 3; i++) {
        others[i] = fake_blob_new(100);
        add_update(&updates, others[i]);
    }
    add_update(&updates, last);
    updates.requests[1].data.len--;             /* another size */
    updates.requests[2].data.data = good->data; /* another hash */
    updates.requests[3].compressor = ZSTD;
    static const int codes[] = {0, 3, 3, 3, 0};
    update_as(&fake, "", updates.pointers, updates.count, &fake_listener, "");
    assert_updated(&fake, &updates, codes);
    assert_true(fake_has(FAKE_MAIN, good));
    assert_true(fake_has(FAKE_MAIN, last));
    for (size_t i = 0; i < 3; i++)
        assert_false(fake_has(FAKE_MAIN, others[i]));
}

static void test_batch_update_refused(void **state)
{
    (void)state;
    struct fake_call fake;
    struct updates updates = {.count = 0};
    struct fake_blob *small = fake_blob_new(100);
    add_update(&updates, small);
    add_update(&updates, fake_blob_new(REQUEST_BATCH_MAX - 99));
    update_as(&fake, "", updates.pointers, updates.count, &fake_listener, "");
    fake_assert_failed(&fake, ERR_INVALID, "ByteStream.Write");
    updates.requests[1].digest = NULL;
    updates.requests[1].data.len = 5;
    update_as(&fake, "", updates.pointers, updates.count, &fake_listener, "");
    fake_assert_failed(&fake, ERR_INVALID, "requests[1]");
    assert_false(fake_has(FAKE_MAIN, small));
    /* The first digest tells the function, but need not be there for the second to be found bad. */
    updates.requests[0].digest = NULL;
    update_as(&fake, "", updates.pointers, updates.count, &fake_listener, "");
    fake_assert_failed(&fake, ERR_INVALID, "requests[0]");
    /* Exactly the limit is taken. */
    updates.count = 0;
    add_update(&updates, small);
    add_update(&updates, fake_blob_new(REQUEST_BATCH_MAX - 100));
    update_as(&fake, "", updates.pointers, updates.count, &fake_listener, "");
    assert_updated(&fake, &updates, NULL);
}

static void test_batch_update_without_room(void **state)
{
    (void)state;
    struct fake_call fake;
    struct updates updates = {.count = 0};
    struct fake_blob *small = fake_blob_new(100);
    add_update(&updates, small);
    add_update(&updates, fake_blob_new(2 * MIB));
    static const int codes[] = {0, 8};
    update_as(&fake, "small", updates.pointers, updates.count, &fake_listener, "");
    assert_updated(&fake, &updates, codes);
    assert_true(fake_has(FAKE_SMALL, small));
}

static void test_batch_read_missing(void **state)
{
    (void)state;
    struct fake_call fake;
    struct fake_blob *blobs[] = {fake_blob_new(100),  fake_blob_new(200),
                                 fake_blob_of("", 0), fake_blob_new(2 * MIB + 1),
                                 fake_blob_new(3),    fake_blob_new(4)};
    REAPI(Digest) *digests[6];
    for (size_t i = 0; i < 6; i++)
        digests[i] = &blobs[i]->digest;
    fake_store(FAKE_MAIN, blobs[1]);
    fake_store(FAKE_MAIN, blobs[3]);
    fake_store(FAKE_MAIN, blobs[5]);
    read_batch(&fake, digests, 6);
    assert_read(&fake, blobs, 6, 1 << 0 | 1 << 4);
}

/* What is read together and what is read alone, with misses before, between and behind. */
static void test_batch_read_of_mixed_sizes(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    static const size_t sizes[] = {5, 127, 128, 16000, 65535, 65536, 65537, 100000, 0, 1};
    struct fake_call fake;
    struct fake_blob *blobs[COUNT];
    REAPI(Digest) *digests[COUNT];
    uint64_t missing = (uint64_t)1 << 0 | (uint64_t)1 << 7 | (uint64_t)1 << 15 | (uint64_t)3 << 31 |
                       (uint64_t)1 << 63;
    for (size_t i = 0; i < COUNT; i++) {
        /* Near the end, runs of small ones longer than a slice. */
        size_t size = i < 64 ? sizes[i % 10] : i;
        blobs[i] = size == 0 ? fake_blob_of("", 0) : fake_blob_new(size);
        digests[i] = &blobs[i]->digest;
        if (i >= 64 || (missing >> i & 1) == 0)
            fake_store(FAKE_MAIN, blobs[i]);
    }
    for (size_t first = 0; first < 64; first++) {
        read_batch(&fake, digests + first, COUNT - first);
        assert_read(&fake, blobs + first, COUNT - first, missing >> first);
    }
    /* All of them missing, as the longest answers to the shortest blobs. */
    struct fake_blob *absent[COUNT];
    for (size_t i = 0; i < 64; i++) {
        absent[i] = fake_blob_new(6 + i / 32);
        digests[i] = &absent[i]->digest;
    }
    read_batch(&fake, digests, 64);
    assert_read(&fake, absent, 64, UINT64_MAX);
}

static void test_batch_read_refused(void **state)
{
    (void)state;
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(100);
    REAPI(Digest) large = blob->digest;
    REAPI(Digest) *digests[] = {&blob->digest, &large, &large, &large};
    fake_store(FAKE_MAIN, blob);
    large.size_bytes = REQUEST_BATCH_MAX - 99;
    read_batch(&fake, digests, 2);
    fake_assert_failed(&fake, ERR_INVALID, "ByteStream.Read");
    large.size_bytes = INT64_MAX;
    read_batch(&fake, digests, 4);
    fake_assert_failed(&fake, ERR_INVALID, "ByteStream.Read");
    large.size_bytes = -1;
    read_batch(&fake, digests, 2);
    fake_assert_failed(&fake, ERR_INVALID, "digests[1]");
    large.size_bytes = REQUEST_BATCH_MAX - 100;
    read_batch(&fake, digests, 2);
    assert_int_equal(fake.status.code, ERR_OK);
    fake_call_fini(&fake);
}

/* --- GetTree --- */

enum { CHILDREN_MAX = 2000 };

/* A directory with CHILDREN in it, and a file name that makes it differ from others. */
static struct fake_blob *directory_of(const char *name, struct fake_blob *const *children,
                                      size_t count)
{
    static REAPI(DirectoryNode) nodes[CHILDREN_MAX];
    static REAPI(DirectoryNode) *pointers[CHILDREN_MAX];
    static char names[CHILDREN_MAX][24];
    REAPI(Directory) directory = BUILD__BAZEL__REMOTE__EXECUTION__V2__DIRECTORY__INIT;
    REAPI(SymlinkNode) link = BUILD__BAZEL__REMOTE__EXECUTION__V2__SYMLINK_NODE__INIT;
    REAPI(SymlinkNode) *links[] = {&link};
    assert_true(count <= CHILDREN_MAX);
    for (size_t i = 0; i < count; i++) {
        build__bazel__remote__execution__v2__directory_node__init(&nodes[i]);
        (void)snprintf(names[i], sizeof(names[i]), "d%06zu", i);
        nodes[i].name = names[i];
        nodes[i].digest = &children[i]->digest;
        pointers[i] = &nodes[i];
    }
    directory.n_directories = count;
    directory.directories = pointers;
    link.name = (char *)name;
    link.target = (char *)"x";
    directory.n_symlinks = 1;
    directory.symlinks = links;
    size_t size = build__bazel__remote__execution__v2__directory__get_packed_size(&directory);
    uint8_t *bytes = malloc(size);
    assert_non_null(bytes);
    (void)build__bazel__remote__execution__v2__directory__pack(&directory, bytes);
    struct fake_blob *blob = fake_blob_of(bytes, size);
    free(bytes);
    return blob;
}

static struct fake_blob *stored_directory(const char *name, struct fake_blob *const *children,
                                          size_t count)
{
    struct fake_blob *blob = directory_of(name, children, count);
    fake_store(FAKE_MAIN, blob);
    return blob;
}

static void get_tree(struct fake_call *fake, const struct fake_blob *root, int32_t page_size,
                     const char *token)
{
    REAPI(GetTreeRequest) request = BUILD__BAZEL__REMOTE__EXECUTION__V2__GET_TREE_REQUEST__INIT;
    REAPI(Digest) digest = root->digest;
    request.root_digest = &digest;
    request.page_size = page_size;
    request.page_token = (char *)token;
    fake_run(fake, "ContentAddressableStorage/GetTree", &request.base);
}

/*
 * The call ended well with these directories, in pages of at most PAGE_SIZE with a token on all
 * but the last. The token of each page goes to TOKENS, if it is not NULL.
 */
static void assert_tree(struct fake_call *fake, struct fake_blob *const *directories, size_t count,
                        size_t page_size, char (*tokens)[64])
{
    size_t done = 0;
    if (fake->status.code != ERR_OK)
        fail_msg("%s", fake->status.msg);
    for (size_t page = 0; page < fake->message_count; page++) {
        REAPI(GetTreeResponse) *response = fake_call_unpack(
            fake, page, &build__bazel__remote__execution__v2__get_tree_response__descriptor);
        assert_true(fake->messages[page].size <= 4 * MIB);
        assert_true(response->n_directories <= page_size);
        for (size_t i = 0; i < response->n_directories; i++, done++) {
            uint8_t bytes[128 << 10];
            assert_true(done < count && directories[done]->size <= sizeof(bytes));
            size_t size = build__bazel__remote__execution__v2__directory__pack(
                response->directories[i], bytes);
            assert_int_equal(size, directories[done]->size);
            assert_memory_equal(bytes, directories[done]->data, size);
        }
        const char *token = response->next_page_token;
        assert_int_equal(token[0] != '\0', page + 1 != fake->message_count);
        if (tokens != NULL)
            (void)snprintf(tokens[page], sizeof(tokens[page]), "%s", token);
        build__bazel__remote__execution__v2__get_tree_response__free_unpacked(response, NULL);
    }
    assert_int_equal(done, count);
    fake_call_fini(fake);
}

/* The order is breadth first; each directory comes once however often it is named. */
static void test_get_tree(void **state)
{
    (void)state;
    struct fake_call fake;
    struct fake_blob *leaf = stored_directory("leaf", NULL, 0);
    struct fake_blob *other = stored_directory("other", NULL, 0);
    struct fake_blob *left = stored_directory("left", (struct fake_blob *[]){leaf, other}, 2);
    struct fake_blob *right = stored_directory("right", (struct fake_blob *[]){leaf, left}, 2);
    struct fake_blob *root =
        stored_directory("root", (struct fake_blob *[]){left, right, leaf, left}, 4);
    struct fake_blob *expected[] = {root, left, right, leaf, other};
    get_tree(&fake, root, 0, "");
    assert_int_equal(fake.message_count, 1);
    assert_tree(&fake, expected, 5, 5, NULL);
    get_tree(&fake, leaf, 1, "");
    assert_tree(&fake, &leaf, 1, 1, NULL);

    for (int32_t page_size = 1; page_size <= 6; page_size++) {
        char tokens[5][64];
        get_tree(&fake, root, page_size, "");
        size_t pages = fake.message_count;
        assert_tree(&fake, expected, 5, (size_t)page_size, tokens);
        for (size_t page = 0; page + 1 < pages; page++) {
            size_t first = (page + 1) * (size_t)page_size;
            get_tree(&fake, root, page_size, tokens[page]);
            assert_tree(&fake, expected + first, 5 - first, (size_t)page_size, NULL);
            /* Another page size may follow. */
            get_tree(&fake, root, 0, tokens[page]);
            assert_tree(&fake, expected + first, 5 - first, 5, NULL);
        }
    }
    /* The empty directory is the empty blob, which is always there. */
    get_tree(&fake, fake_blob_of("", 0), 0, "");
    struct fake_blob *empty = fake_blob_of("", 0);
    assert_tree(&fake, &empty, 1, 1, NULL);
}

static void test_get_tree_incomplete(void **state)
{
    (void)state;
    struct fake_call fake;
    struct fake_blob *leaf = stored_directory("leaf of incomplete", NULL, 0);
    struct fake_blob *gone = directory_of("gone", (struct fake_blob *[]){leaf}, 1);
    struct fake_blob *root =
        stored_directory("incomplete", (struct fake_blob *[]){gone, leaf, gone}, 3);
    struct fake_blob *expected[] = {root, leaf};
    get_tree(&fake, root, 0, "");
    assert_tree(&fake, expected, 2, 2, NULL);
    get_tree(&fake, gone, 0, "");
    fake_assert_failed(&fake, ERR_NOT_FOUND, gone->hash);
    /* Where only missing ones are left, the last page is empty. */
    root = stored_directory("childless", (struct fake_blob *[]){gone}, 1);
    get_tree(&fake, root, 1, "");
    assert_int_equal(fake.message_count, 2);
    assert_tree(&fake, &root, 1, 1, NULL);
    /* A missing one that is larger than what could be sent is missing all the same. */
    gone->digest.size_bytes = INT64_MAX;
    root = stored_directory("large and gone", (struct fake_blob *[]){gone, leaf}, 2);
    expected[0] = root;
    get_tree(&fake, root, 0, "");
    assert_tree(&fake, expected, 2, 2, NULL);
}

static void test_get_tree_tokens_refused(void **state)
{
    (void)state;
    struct fake_call fake;
    char tokens[3][64];
    struct fake_blob *leaf = stored_directory("leaf of tokens", NULL, 0);
    struct fake_blob *other = stored_directory("other of tokens", NULL, 0);
    struct fake_blob *root = stored_directory("tokens", (struct fake_blob *[]){leaf, other}, 2);
    struct fake_blob *root2 = stored_directory("tokens 2", (struct fake_blob *[]){leaf, other}, 2);
    struct fake_blob *expected[] = {root, leaf, other};
    get_tree(&fake, root, 1, "");
    assert_tree(&fake, expected, 3, 1, tokens);
    /* Of another tree, ... */
    get_tree(&fake, root2, 1, tokens[0]);
    fake_assert_failed(&fake, ERR_INVALID, "page_token");
    /* ... changed in any place, cut, or made up. */
    size_t length = strlen(tokens[0]);
    for (size_t i = 0; i < length; i++) {
        char token[64];
        memcpy(token, tokens[0], sizeof(token));
        token[i] = token[i] == '0' ? '1' : '0';
        get_tree(&fake, root, 1, token);
        fake_assert_failed(&fake, ERR_INVALID, "page_token");
        memcpy(token, tokens[0], sizeof(token));
        token[i] = '\0';
        get_tree(&fake, root, 1, token);
        if (i != 0)
            fake_assert_failed(&fake, ERR_INVALID, "page_token");
        else
            assert_tree(&fake, expected, 3, 1, NULL);
    }
    get_tree(&fake, root, 1, "nonsense");
    fake_assert_failed(&fake, ERR_INVALID, "page_token");
    get_tree(&fake, root, 1, "ffffffffffffffffffffffffffffffffffffffff");
    fake_assert_failed(&fake, ERR_INVALID, "page_token");
}

static void test_get_tree_refused(void **state)
{
    (void)state;
    struct fake_call fake;
    REAPI(GetTreeRequest) request = BUILD__BAZEL__REMOTE__EXECUTION__V2__GET_TREE_REQUEST__INIT;
    fake_run(&fake, "ContentAddressableStorage/GetTree", &request.base);
    fake_assert_failed(&fake, ERR_INVALID, "root_digest");
    request.instance_name = (char *)"nowhere";
    fake_run(&fake, "ContentAddressableStorage/GetTree", &request.base);
    fake_assert_failed(&fake, ERR_NOT_FOUND, "\"nowhere\"");
    struct fake_blob *leaf = stored_directory("leaf of refused", NULL, 0);
    get_tree(&fake, leaf, -1, "");
    fake_assert_failed(&fake, ERR_INVALID, "page_size");
    struct fake_blob *file = fake_blob_of("\x12\x7fno directory", 14);
    fake_store(FAKE_MAIN, file);
    get_tree(&fake, file, 0, "");
    fake_assert_failed(&fake, ERR_INVALID, file->hash);
    struct fake_blob *root = stored_directory("refused", (struct fake_blob *[]){leaf, file}, 2);
    get_tree(&fake, root, 0, "");
    fake_assert_failed(&fake, ERR_INVALID, file->hash);
    struct fake_blob *large = fake_blob_new(4 * MIB);
    fake_store(FAKE_MAIN, large);
    get_tree(&fake, large, 0, "");
    fake_assert_failed(&fake, ERR_INVALID, "ByteStream.Read");
}

/* More than fits into one message, with directories of many sizes, is cut into pages by bytes. */
static void test_get_tree_large(void **state)
{
    (void)state;
    enum { COUNT = 40, FAN = 400 };
    struct fake_call fake;
    static struct fake_blob *expected[1 + COUNT + FAN];
    struct fake_blob **middle = expected + 1, **leaves = expected + 1 + COUNT;
    char name[60 << 10];
    for (size_t i = 0; i < FAN; i++) {
        (void)snprintf(name, sizeof(name), "leaf %zu", i);
        leaves[i] = stored_directory(name, NULL, 0);
    }
    for (size_t i = 0; i < COUNT; i++) {
        (void)snprintf(name, sizeof(name), "%0*zu", (int)(i % 10 * 6000 + 1), i);
        middle[i] = stored_directory(name, leaves, FAN);
    }
    struct fake_blob *root = stored_directory("large", middle, COUNT);
    expected[0] = root;
    char tokens[20][64];
    get_tree(&fake, root, 0, "");
    size_t pages = fake.message_count;
    assert_in_range(pages, 2, 20);
    for (size_t i = 0; i < pages; i++)
        assert_true(fake.messages[i].size <= MIB + 64);
    assert_tree(&fake, expected, 1 + COUNT + FAN, 1 + COUNT + FAN, tokens);
    get_tree(&fake, root, 0, tokens[pages - 2]);
    assert_int_equal(fake.message_count, 1);
    fake_call_fini(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_missing),
        cmocka_unit_test(test_find_many),
        cmocka_unit_test(test_digests_refused),
        cmocka_unit_test(test_digest_function),
        cmocka_unit_test(test_instances),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_batch_update_one_by_one),
        cmocka_unit_test(test_batch_update_refused),
        cmocka_unit_test(test_batch_update_without_room),
        cmocka_unit_test(test_batch_read_missing),
        cmocka_unit_test(test_batch_read_of_mixed_sizes),
        cmocka_unit_test(test_batch_read_refused),
        cmocka_unit_test(test_get_tree),
        cmocka_unit_test(test_get_tree_incomplete),
        cmocka_unit_test(test_get_tree_tokens_refused),
        cmocka_unit_test(test_get_tree_refused),
        cmocka_unit_test(test_get_tree_large),
    };
    return cmocka_run_group_tests(tests, fake_services_set_up, fake_services_tear_down);
}
