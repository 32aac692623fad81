/* SPDX-License-Identifier: Apache-2.0 */
/* Fetch and Push of an index-only instance that asks an external CAS what is there. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "fake_remote_cas.h"
#include "fake_services.h"

#define FETCH_BLOB_RESPONSE &build__bazel__remote__asset__v1__fetch_blob_response__descriptor
#define FETCH_DIRECTORY_RESPONSE \
    &build__bazel__remote__asset__v1__fetch_directory_response__descriptor

enum { URIS_MAX = 64, RACES = 400 };

static const struct fake_answer whole = {.code = ERR_OK};
static const struct fake_answer unreachable = {.code = ERR_UNAVAILABLE,
                                               .text = "cas.example.com does not answer"};
static const struct fake_answer away = {.code = ERR_AWAY, .text = "is tried again in 100 ms"};
static const struct fake_answer no_tree = {.code = ERR_INVALID, .text = "abc/1 is no Directory"};

static int reset(void **state)
{
    (void)state;
    fake_cas.on_unavailable = CONF_ON_UNAVAILABLE_FAIL;
    fake_remote_reset();
    return 0;
}

static struct digest digest_of(const struct fake_blob *blob)
{
    struct digest digest;
    struct err err;
    assert_int_equal(digest_parse(DIGEST_SHA256, blob->hash, strlen(blob->hash),
                                  (int64_t)blob->size, &digest, &err),
                     0);
    return digest;
}

/* The answer that BLOB is missing, and as many more as make COUNT. */
static struct fake_answer missing_of(const struct fake_blob *blob, size_t count)
{
    struct fake_answer answer = {.code = ERR_PRECONDITION, .text = "missing", {.count = count}};
    for (size_t i = 0; i < TREE_MISSING_MAX && i < count; i++)
        answer.missing.digests[i] = digest_of(i == 0 ? blob : fake_blob_new(20 + i));
    return answer;
}

/* A URI that no other test has; it lives to the end of the program's memory of it. */
static char *new_uri(void)
{
    static char uris[4096][24];
    static size_t count;
    assert_true(count < sizeof(uris) / sizeof(uris[0]));
    (void)snprintf(uris[count], sizeof(uris[0]), "urn:test:%zu", count);
    return uris[count++];
}

/* --- calls --- */

static ASSET(PushBlobRequest) push_request(char **uris, size_t count, struct fake_blob *blob)
{
    ASSET(PushBlobRequest) request = BUILD__BAZEL__REMOTE__ASSET__V1__PUSH_BLOB_REQUEST__INIT;
    request.instance_name = (char *)"paired";
    request.uris = uris;
    request.n_uris = count;
    request.blob_digest = &blob->digest;
    return request;
}

static void init(struct fake_call *fake, const char *method)
{
    fake_call_init(fake, &fake_services, fake_method(method), &fake_listener, "");
}

static void push(struct fake_call *fake, char *uri, struct fake_blob *blob)
{
    ASSET(PushBlobRequest) request = push_request(&uri, 1, blob);
    fake_run(fake, "Push/PushBlob", &request.base);
}

static void assert_ended_well(struct fake_call *fake)
{
    assert_true(fake->ended);
    if (fake->status.code != ERR_OK)
        fail_msg("%s", fake->status.msg);
}

/* A new asset that was pushed when all of it was there, and what counts that forgotten. */
static struct fake_blob *pushed(char *uri)
{
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(30);
    fake_remote_reset();
    push(&fake, uri, blob);
    assert_ended_well(&fake);
    fake_call_fini(&fake);
    fake_remote_reset();
    return blob;
}

static ASSET(FetchBlobRequest) fetch_request(char **uris, size_t count)
{
    ASSET(FetchBlobRequest) request = BUILD__BAZEL__REMOTE__ASSET__V1__FETCH_BLOB_REQUEST__INIT;
    request.instance_name = (char *)"paired";
    request.uris = uris;
    request.n_uris = count;
    return request;
}

static void fetch(struct fake_call *fake, char **uris, size_t count)
{
    ASSET(FetchBlobRequest) request = fetch_request(uris, count);
    fake_run(fake, "Fetch/FetchBlob", &request.base);
}

/* The call was answered with BLOB, for URI; gives it back. */
static void assert_fetched(struct fake_call *fake, const char *uri, const struct fake_blob *blob)
{
    assert_ended_well(fake);
    ASSET(FetchBlobResponse) *response = fake_call_unpack(fake, 0, FETCH_BLOB_RESPONSE);
    assert_string_equal(response->uri, uri);
    assert_string_equal(response->blob_digest->hash, blob->hash);
    build__bazel__remote__asset__v1__fetch_blob_response__free_unpacked(response, NULL);
    fake_call_fini(fake);
}

static void assert_fetches(char *uri, const struct fake_blob *blob)
{
    struct fake_call fake;
    fetch(&fake, &uri, 1);
    assert_fetched(&fake, uri, blob);
}

static void assert_unknown(char *uri)
{
    struct fake_call fake;
    fake_remote_reset();
    fetch(&fake, &uri, 1);
    fake_assert_failed(&fake, ERR_NOT_FOUND, "no asset is known");
    assert_int_equal(fake_remote_asked().checks, 0);
}

/* --- push --- */

static void a_push_asks_for_all_that_it_names(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uris[] = {new_uri(), new_uri()};
    struct fake_blob *blob = fake_blob_new(30);
    REAPI(Digest) *blobs[] = {&fake_blob_new(31)->digest, &fake_blob_new(32)->digest};
    REAPI(Digest) *directories[] = {&fake_blob_new(33)->digest};
    ASSET(PushBlobRequest) request = push_request(uris, 2, blob);
    request.references_blobs = blobs;
    request.n_references_blobs = 2;
    request.references_directories = directories;
    request.n_references_directories = 1;
    struct digest content = digest_of(blob);
    fake_remote_trust(&content); /* what was there a while ago is not asked for */
    fake_run(&fake, "Push/PushBlob", &request.base);
    assert_ended_well(&fake);
    fake_call_fini(&fake);

    struct fake_asked asked = fake_remote_asked();
    assert_int_equal(asked.checks, 1);
    assert_int_equal(asked.fresh, 1);
    assert_int_equal(asked.digests, 4);
    assert_int_equal(asked.directories, 1);
    assert_true(digest_equal(&asked.content, &content));
    fake_remote_reset();
    assert_fetches(uris[0], blob);
    asked = fake_remote_asked();
    assert_int_equal(asked.checks, 1);
    assert_int_equal(asked.fresh, 0);
    assert_int_equal(asked.digests, 4);
    assert_int_equal(asked.directories, 1);
    assert_fetches(uris[1], blob);
}

static void a_pushed_directory_is_walked(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    struct fake_blob *root = fake_blob_new(30);
    ASSET(PushDirectoryRequest)
    request = BUILD__BAZEL__REMOTE__ASSET__V1__PUSH_DIRECTORY_REQUEST__INIT;
    request.instance_name = (char *)"paired";
    request.uris = &uri;
    request.n_uris = 1;
    request.root_directory_digest = &root->digest;
    fake_run(&fake, "Push/PushDirectory", &request.base);
    assert_ended_well(&fake);
    fake_call_fini(&fake);
    assert_int_equal(fake_remote_asked().digests, 1);
    assert_int_equal(fake_remote_asked().directories, 1);

    ASSET(FetchDirectoryRequest)
    fetched = BUILD__BAZEL__REMOTE__ASSET__V1__FETCH_DIRECTORY_REQUEST__INIT;
    fetched.instance_name = (char *)"paired";
    fetched.uris = &uri;
    fetched.n_uris = 1;
    fake_run(&fake, "Fetch/FetchDirectory", &fetched.base);
    assert_ended_well(&fake);
    ASSET(FetchDirectoryResponse) *response = fake_call_unpack(&fake, 0, FETCH_DIRECTORY_RESPONSE);
    assert_string_equal(response->root_directory_digest->hash, root->hash);
    build__bazel__remote__asset__v1__fetch_directory_response__free_unpacked(response, NULL);
    fake_call_fini(&fake);
    assert_int_equal(fake_remote_asked().checks, 2);
    assert_int_equal(fake_remote_asked().directories, 1);
}

static void a_push_is_refused_while_something_is_missing(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    struct fake_blob *blob = fake_blob_new(30);
    struct fake_answer answer = missing_of(blob, 20);
    fake_remote_answers(&answer, 1);
    push(&fake, uri, blob);
    assert_non_null(strstr(fake.status.msg, blob->hash));
    fake_assert_failed(&fake, ERR_PRECONDITION, "upload what the asset references");
    assert_int_equal(fake.violations, TREE_MISSING_MAX);
    assert_unknown(uri);
}

static void a_push_is_refused_while_the_cas_cannot_be_asked(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    for (int i = 0; i < 2; i++) {
        fake_cas.on_unavailable = i == 0 ? CONF_ON_UNAVAILABLE_FAIL : CONF_ON_UNAVAILABLE_SERVE;
        fake_remote_answers(&unreachable, 1);
        push(&fake, uri, fake_blob_new(30));
        fake_assert_failed(&fake, ERR_UNAVAILABLE, unreachable.text);
        fake_remote_answers(&away, 1);
        push(&fake, uri, fake_blob_new(30));
        fake_assert_failed(&fake, ERR_AWAY, away.text);
        assert_unknown(uri);
    }
}

static void a_push_of_what_is_no_tree_is_refused(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    fake_remote_answers(&no_tree, 1);
    push(&fake, uri, fake_blob_new(30));
    fake_assert_failed(&fake, ERR_INVALID, no_tree.text);
    assert_unknown(uri);
}

/* The CAS is not asked in vain. */
static void a_push_that_cannot_be_written_asks_nothing(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    ASSET(PushBlobRequest) request = push_request(&uri, 1, fake_blob_new(30));
    request.instance_name = (char *)"read";
    fake_run(&fake, "Push/PushBlob", &request.base);
    fake_assert_failed(&fake, ERR_UNAVAILABLE, "only reads");

    ASSET(Qualifier) qualifier = BUILD__BAZEL__REMOTE__ASSET__V1__QUALIFIER__INIT;
    ASSET(Qualifier) *qualifiers[] = {&qualifier};
    qualifier.name = (char *)"checksum.sri";
    qualifier.value = (char *)"sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/"
                              "SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";
    request.instance_name = (char *)"paired";
    request.qualifiers = qualifiers;
    request.n_qualifiers = 1;
    fake_run(&fake, "Push/PushBlob", &request.base);
    fake_assert_failed(&fake, ERR_INVALID, "checksum.sri of sha512");
    assert_int_equal(fake_remote_asked().checks, 0);
}

/* --- fetch --- */

static void what_is_trusted_is_answered_at_once(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    struct fake_blob *blob = pushed(uri);
    struct digest content = digest_of(blob);
    fake_remote_trust(&content);
    fetch(&fake, &uri, 1);
    assert_false(fake.is_watched);
    assert_fetched(&fake, uri, blob);
    assert_int_equal(fake_remote_asked().trusts, 1);
    assert_int_equal(fake_remote_asked().checks, 0);
}

static void what_is_not_whole_is_a_miss_until_it_is(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    struct fake_blob *blob = pushed(uri), *gone = fake_blob_new(31);
    struct fake_answer answers[] = {missing_of(gone, 2), no_tree, whole};
    fake_remote_answers(answers, 3);
    fetch(&fake, &uri, 1);
    assert_non_null(strstr(fake.status.msg, gone->hash));
    fake_assert_failed(&fake, ERR_NOT_FOUND, "known but no longer whole, until it is pushed again");
    fetch(&fake, &uri, 1);
    assert_non_null(strstr(fake.status.msg, "known but no longer whole"));
    fake_assert_failed(&fake, ERR_NOT_FOUND, no_tree.text);
    assert_fetches(uri, blob); /* the entry was kept */
    assert_int_equal(fake_remote_asked().checks, 3);
}

static void the_first_uri_that_is_whole_is_answered(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uris[] = {new_uri(), new_uri(), new_uri(), new_uri()};
    (void)pushed(uris[1]);
    struct fake_blob *blob = pushed(uris[2]);
    (void)pushed(uris[3]);
    struct fake_answer answers[] = {missing_of(blob, 1), whole, unreachable};
    for (int moment = FAKE_AT_ONCE; moment <= FAKE_ON_A_THREAD; moment += FAKE_ON_A_THREAD) {
        fake_remote_reset();
        fake_remote_answer_when((enum fake_moment)moment);
        fake_remote_answers(answers, 3);
        fetch(&fake, uris, 4);
        assert_fetched(&fake, uris[2], blob);
        assert_int_equal(fake_remote_asked().checks, 2);
    }
    /* What cannot be asked is not passed over: it may be the one. */
    fake_remote_reset();
    answers[1] = unreachable;
    fake_remote_answers(answers, 3);
    fetch(&fake, uris, 4);
    fake_assert_failed(&fake, ERR_UNAVAILABLE, unreachable.text);
    assert_int_equal(fake_remote_asked().checks, 2);
    /* A trusted one behind one that is missing. */
    struct digest content = digest_of(blob);
    fake_remote_reset();
    fake_remote_answers(answers, 1);
    fake_remote_trust(&content);
    fetch(&fake, uris, 4);
    assert_fetched(&fake, uris[2], blob);
    assert_int_equal(fake_remote_asked().checks, 1);
}

static void old_assets_are_passed_over_unasked(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    (void)pushed(uri);
    Google__Protobuf__Timestamp later = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    later.seconds = time(NULL) + 3600;
    ASSET(FetchBlobRequest) request = fetch_request(&uri, 1);
    request.oldest_content_accepted = &later;
    fake_run(&fake, "Fetch/FetchBlob", &request.base);
    fake_assert_failed(&fake, ERR_NOT_FOUND, "no asset is known");
    assert_int_equal(fake_remote_asked().checks, 0);
}

static void a_cas_that_cannot_be_asked_is_the_operators_choice(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    struct fake_blob *blob = pushed(uri);
    fake_remote_answers(&unreachable, 1);
    fetch(&fake, &uri, 1);
    fake_assert_failed(&fake, ERR_UNAVAILABLE, unreachable.text);
    fake_remote_answers(&away, 1);
    fetch(&fake, &uri, 1);
    fake_assert_failed(&fake, ERR_AWAY, away.text);
    fake_cas.on_unavailable = CONF_ON_UNAVAILABLE_SERVE;
    assert_fetches(uri, blob);
    fake_remote_answers(&unreachable, 1);
    assert_fetches(uri, blob);
    /* That is not for what is known to be missing. */
    struct fake_answer missing = missing_of(blob, 1);
    fake_remote_answers(&missing, 1);
    fetch(&fake, &uri, 1);
    fake_assert_failed(&fake, ERR_NOT_FOUND, blob->hash);
}

static int64_t fetched_at(const char *uri)
{
    struct instance *instance = instances_at(fake_services.instances, FAKE_PAIRED);
    struct asset_key key = {ASSET_BLOB, DIGEST_SHA256, uri, NULL, 0};
    struct asset asset;
    struct arena arena;
    struct err err;
    arena_init(&arena);
    if (asset_index_get(instance->index, &key, &arena, &asset, &err) != 0)
        fail_msg("%s", err.msg);
    arena_fini(&arena);
    return asset.fetched_at - asset.pushed_at;
}

/* A hundredth of what the instance expires after must pass for it to be written. */
static void what_is_handed_out_is_renewed(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uris[] = {new_uri(), new_uri(), new_uri(), new_uri()};
    struct fake_blob *blobs[4];
    for (size_t i = 0; i < 4; i++)
        blobs[i] = pushed(uris[i]);
    struct timespec pause = {.tv_nsec = 700 * 1000 * 1000};
    (void)nanosleep(&pause, NULL);
    struct digest trusted = digest_of(blobs[0]);
    struct fake_answer answers[] = {whole, unreachable, missing_of(blobs[3], 1)};
    fake_remote_trust(&trusted);
    fake_remote_answers(answers, 3);
    fake_cas.on_unavailable = CONF_ON_UNAVAILABLE_SERVE;
    for (size_t i = 0; i < 3; i++)
        assert_fetches(uris[i], blobs[i]);
    fetch(&fake, &uris[3], 1);
    fake_assert_failed(&fake, ERR_NOT_FOUND, blobs[3]->hash);
    assert_int_equal(fake_remote_asked().checks, 3);
    fake_services_reopen();
    for (size_t i = 0; i < 3; i++)
        assert_true(fetched_at(uris[i]) > 0);
    assert_int_equal(fetched_at(uris[3]), 0);
}

static void instances_without_one_ask_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"index", "small"};
    for (size_t i = 0; i < 2; i++) {
        struct fake_call fake;
        char *uri = new_uri();
        struct fake_blob *blob = fake_blob_new(30);
        /* One that would have been index-only after a reload, and has its own until a restart. */
        (void)fake_remotes(FAKE_PAIRED, FAKE_SMALL);
        fake_store(FAKE_SMALL, blob);
        ASSET(PushBlobRequest) pushes = push_request(&uri, 1, blob);
        pushes.instance_name = (char *)names[i];
        fake_run(&fake, "Push/PushBlob", &pushes.base);
        assert_ended_well(&fake);
        fake_call_fini(&fake);
        ASSET(FetchBlobRequest) fetches = fetch_request(&uri, 1);
        fetches.instance_name = (char *)names[i];
        fake_run(&fake, "Fetch/FetchBlob", &fetches.base);
        assert_false(fake.is_watched);
        assert_fetched(&fake, uri, blob);
    }
    (void)fake_remotes(FAKE_PAIRED, FAKE_READ);
    assert_int_equal(fake_remote_asked().checks, 0);
    assert_int_equal(fake_remote_asked().trusts, 0);
}

/* --- many, and elsewhere --- */

/* However the answers come, the call is never deeper in the stack than for the first of them. */
static void many_uris_go_on_in_a_loop(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uris[URIS_MAX];
    for (size_t i = 0; i < URIS_MAX; i++)
        (void)pushed(uris[i] = new_uri());
    struct fake_blob *gone = fake_blob_new(30);
    struct fake_answer missing = missing_of(gone, 1);
    for (int moment = FAKE_AT_ONCE; moment <= FAKE_ON_A_THREAD; moment++) {
        ASSET(FetchBlobRequest) request = fetch_request(uris, URIS_MAX);
        fake_remote_reset();
        fake_remote_answers(&missing, 1);
        fake_remote_answer_when((enum fake_moment)moment);
        init(&fake, "Fetch/FetchBlob");
        fake_call_begin(&fake, &request.base);
        /* The first check began on this stack, the others where the first was answered. */
        if (moment == FAKE_WHEN_TOLD)
            fake_remote_answer_waiting();
        fake_call_join(&fake);
        fake_assert_failed(&fake, ERR_NOT_FOUND, gone->hash);
        assert_int_equal(fake_remote_asked().checks, URIS_MAX);
        if (moment != FAKE_ON_A_THREAD)
            assert_in_range(fake_remote_asked().stack, 0, 2048);
    }
}

/* --- cancellation --- */

static void begin_fetch(struct fake_call *fake, char **uris, size_t count)
{
    ASSET(FetchBlobRequest) request = fetch_request(uris, count);
    init(fake, "Fetch/FetchBlob");
    fake_call_begin(fake, &request.base);
}

static void begin_push(struct fake_call *fake, char *uri, struct fake_blob *blob)
{
    ASSET(PushBlobRequest) request = push_request(&uri, 1, blob);
    init(fake, "Push/PushBlob");
    fake_call_begin(fake, &request.base);
}

static void a_cancelled_call_waits_no_longer(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uris[] = {new_uri(), new_uri()}, *never = new_uri();
    struct fake_blob *blob = pushed(uris[0]);
    (void)pushed(uris[1]);
    fake_cas.on_unavailable = CONF_ON_UNAVAILABLE_SERVE; /* which is not for this */
    fake_remote_answer_when(FAKE_WHEN_TOLD);
    begin_fetch(&fake, uris, 2);
    assert_true(fake.is_watched);
    fake_call_tell_cancelled(&fake);
    fake_call_join(&fake);
    fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
    assert_int_equal(fake_remote_asked().checks, 1);
    assert_int_equal(fake_remote_asked().waiting, 0);

    begin_push(&fake, never, blob);
    fake_call_tell_cancelled(&fake);
    fake_call_join(&fake);
    fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
    assert_unknown(never);
}

/* Between the moment from which cancellations are told and that in which there is a check. */
static void a_cancellation_before_the_check_is_not_lost(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uris[] = {new_uri(), new_uri()};
    (void)pushed(uris[0]);
    (void)pushed(uris[1]);
    fake_remote_answer_when(FAKE_WHEN_TOLD);
    init(&fake, "Fetch/FetchBlob");
    fake.cancel_watch = true;
    ASSET(FetchBlobRequest) request = fetch_request(uris, 2);
    fake_call_start(&fake, &request.base);
    fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
}

/* One check was answered, the next not yet asked. */
static void a_cancellation_between_two_checks_is_not_lost(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uris[] = {new_uri(), new_uri()};
    struct fake_answer missing = missing_of(pushed(uris[0]), 1);
    (void)pushed(uris[1]);
    fake_remote_answers(&missing, 1);
    fake_remote_answer_when(FAKE_WHEN_TOLD);
    begin_fetch(&fake, uris, 2);
    atomic_store(&fake.call.is_cancelled, true); /* `cancelled` would meet the first check alone */
    fake_remote_answer_waiting();
    fake_call_join(&fake);
    fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
    assert_int_equal(fake_remote_asked().checks, 2);
}

static void a_cancellation_after_the_answer_does_nothing(void **state)
{
    (void)state;
    struct fake_call fake;
    char *uri = new_uri();
    struct fake_blob *blob = pushed(uri);
    fetch(&fake, &uri, 1);
    fake_call_tell_cancelled(&fake);
    assert_fetched(&fake, uri, blob);
    /* A push that has been checked is written, whether or not its client learns of it. */
    fake_remote_answer_when(FAKE_WHEN_TOLD);
    uri = new_uri();
    begin_push(&fake, uri, blob);
    fake_remote_answer_waiting();
    fake_call_tell_cancelled(&fake);
    fake_call_join(&fake);
    assert_ended_well(&fake);
    fake_call_fini(&fake);
    fake_remote_reset();
    assert_fetches(uri, blob);
}

static void *tell_cancelled(void *argument)
{
    fake_call_tell_cancelled(argument);
    return NULL;
}

/* Whichever comes first, there is one answer: the cancellation, or what the CAS says. */
static void cancellations_and_answers_race(void **state)
{
    (void)state;
    char *uris[] = {new_uri(), new_uri(), new_uri()};
    struct fake_answer answers[] = {missing_of(pushed(uris[0]), 1), whole};
    struct fake_blob *blob = pushed(uris[1]);
    size_t cancelled = 0;
    fake_remote_answer_when(FAKE_ON_A_THREAD);
    for (int i = 0; i < RACES; i++) {
        struct fake_call fake;
        pthread_t thread;
        bool pushes = i % 4 == 0;
        fake_remote_answers(pushes ? &whole : answers, pushes ? 1 : 2);
        if (pushes)
            begin_push(&fake, uris[2], blob);
        else
            begin_fetch(&fake, uris, 2);
        if (i % 2 == 0)
            assert_int_equal(pthread_create(&thread, NULL, tell_cancelled, &fake), 0);
        else
            fake_call_tell_cancelled(&fake);
        fake_call_join(&fake);
        if (i % 2 == 0)
            assert_int_equal(pthread_join(thread, NULL), 0);
        cancelled += fake.status.code == ERR_CANCELLED;
        if (fake.status.code == ERR_CANCELLED)
            fake_assert_failed(&fake, ERR_CANCELLED, "cancelled");
        else if (pushes)
            assert_ended_well(&fake), fake_call_fini(&fake);
        else
            assert_fetched(&fake, uris[1], blob);
    }
    assert_true(cancelled > 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, reset, reset)
    const struct CMUnitTest tests[] = {
        TEST(a_push_asks_for_all_that_it_names),
        TEST(a_pushed_directory_is_walked),
        TEST(a_push_is_refused_while_something_is_missing),
        TEST(a_push_is_refused_while_the_cas_cannot_be_asked),
        TEST(a_push_of_what_is_no_tree_is_refused),
        TEST(a_push_that_cannot_be_written_asks_nothing),
        TEST(what_is_trusted_is_answered_at_once),
        TEST(what_is_not_whole_is_a_miss_until_it_is),
        TEST(the_first_uri_that_is_whole_is_answered),
        TEST(old_assets_are_passed_over_unasked),
        TEST(a_cas_that_cannot_be_asked_is_the_operators_choice),
        TEST(what_is_handed_out_is_renewed),
        TEST(instances_without_one_ask_nothing),
        TEST(many_uris_go_on_in_a_loop),
        TEST(a_cancelled_call_waits_no_longer),
        TEST(a_cancellation_before_the_check_is_not_lost),
        TEST(a_cancellation_between_two_checks_is_not_lost),
        TEST(a_cancellation_after_the_answer_does_nothing),
        TEST(cancellations_and_answers_race),
    };
    return cmocka_run_group_tests(tests, fake_services_set_up, fake_services_tear_down);
}
