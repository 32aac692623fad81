/* SPDX-License-Identifier: Apache-2.0 */
/* build.bazel.remote.asset.v1.Push: takes what a URI stands for, once all of it is there. */
#include <stdio.h>

#include "base/log.h"
#include "service/asset_request.h"
#include "service/external.h"
#include "service/handlers.h"
#include "service/request.h"
#include "service/services.h"
#include "store/checksum.h"

/* Content whose checksum is of another function than its digest is read in pieces of this size. */
enum { READ_SIZE = 1 << 20 };

/* A request for a blob or for a directory; the two messages have the same fields. */
struct push_request {
    enum asset_kind kind;
    const char *instance_name;
    char **uris;
    size_t uri_count;
    ASSET(Qualifier) **qualifiers;
    size_t qualifier_count;
    const Google__Protobuf__Timestamp *expire_at;
    const char *content_field;
    const REAPI(Digest) *content;
    REAPI(Digest) **blobs;
    size_t blob_count;
    REAPI(Digest) **directories;
    size_t directory_count;
    REAPI(DigestFunction__Value) digest_function;
};

struct push {
    struct instance_push push; /* first, so that one is found from the other */
    struct call *call;
    struct instance *instance;
    struct checksum checksum;
    struct external external; /* where an external CAS is asked */
};

/* --- answer --- */

/* REASON is NULL for a push that was taken. */
static void log_push(const struct push *push, const char *reason)
{
    char digest[DIGEST_TEXT_MAX];
    const struct call *call = push->call;
    const char *uri = asset_request_loggable(push->push.keys[0].uri, call->arena);
    (void)digest_text(&push->push.asset.content, digest);
    if (reason == NULL)
        log_info("push", log_str("instance", push->instance->conf->name),
                 log_str("identity", call->identity), log_str("id", call->request_id),
                 log_str("digest", digest), log_str("uri", uri));
    else
        log_warning("push-refused", log_str("instance", push->instance->conf->name),
                    log_str("identity", call->identity), log_str("id", call->request_id),
                    log_str("digest", digest), log_str("uri", uri), log_str("reason", reason));
}

/*
 * "blobs/HASH/SIZE" for each that is known by name, as the message and as details (REAPI,
 * ContentAddressableStorage: a missing blob is a PreconditionFailure of type MISSING).
 */
static void fail_missing(const struct push *push)
{
    const struct tree_missing *missing = &push->push.missing;
    enum { SUBJECT_SIZE = DIGEST_TEXT_MAX + 8 };
    char subjects[TREE_MISSING_MAX][SUBJECT_SIZE];
    char text[256 + TREE_MISSING_MAX * SUBJECT_SIZE];
    Google__Rpc__PreconditionFailure failure = GOOGLE__RPC__PRECONDITION_FAILURE__INIT;
    Google__Rpc__PreconditionFailure__Violation violations[TREE_MISSING_MAX];
    Google__Rpc__PreconditionFailure__Violation *all[TREE_MISSING_MAX];
    char digest[DIGEST_TEXT_MAX];
    size_t named = missing->count < TREE_MISSING_MAX ? missing->count : TREE_MISSING_MAX;
    int length = snprintf(text, sizeof(text),
                          "upload what the asset references, then push again; "
                          "missing:");
    for (size_t i = 0; i < named; i++) {
        (void)snprintf(subjects[i], SUBJECT_SIZE, "blobs/%s",
                       digest_text(&missing->digests[i], digest));
        length += snprintf(text + length, sizeof(text) - (size_t)length, " %s", subjects[i]);
        google__rpc__precondition_failure__violation__init(&violations[i]);
        violations[i].type = (char *)"MISSING";
        violations[i].subject = subjects[i];
        all[i] = &violations[i];
    }
    (void)snprintf(text + length, sizeof(text) - (size_t)length, " (%zu in all)", missing->count);
    failure.n_violations = named;
    failure.violations = all;
    log_push(push, text);
    call_fail_with(push->call, ERR_PRECONDITION, text, &failure.base);
}

static void on_pushed(struct instance_push *instance_push, const struct err *err)
{
    struct push *push = (struct push *)instance_push;
    struct call *call = push->call;
    if (err != NULL && err->code == ERR_PRECONDITION && instance_push->missing.count != 0) {
        fail_missing(push);
    } else if (err != NULL) {
        call_fail(call, err);
    } else {
        log_push(push, NULL);
        /* Both responses are empty messages. */
        ASSET(PushBlobResponse) response =
            BUILD__BAZEL__REMOTE__ASSET__V1__PUSH_BLOB_RESPONSE__INIT;
        call_finish(call, &response.base);
    }
}

/* --- the checksum qualifier --- */

/* Hashes the content anew, with the checksum's function. */
static int hash_content(const struct push *push, struct digest *digest, struct err *err)
{
    const struct digest *content = &push->push.asset.content;
    struct cas_reader *reader;
    int rc = cas_reader_open(push->instance->cas, content, &reader, err);
    if (rc != 0)
        return rc;
    struct hasher *hasher = hasher_new(push->checksum.function);
    uint8_t *buffer = arena_alloc(push->call->arena, READ_SIZE);
    if (hasher == NULL || buffer == NULL)
        rc = err_no_memory(err, "a checksum");
    for (int64_t offset = 0; rc == 0 && offset < content->size; offset += READ_SIZE) {
        int64_t left = content->size - offset;
        size_t size = left < READ_SIZE ? (size_t)left : READ_SIZE;
        rc = cas_reader_read(reader, offset, buffer, size, err);
        if (rc == 0)
            hasher_update(hasher, buffer, size);
    }
    if (rc == 0)
        hasher_digest(hasher, digest);
    hasher_free(hasher);
    cas_reader_close(reader);
    return rc;
}

static int refuse_checksum(struct err *err)
{
    return err_set(err, ERR_INVALID, "checksum.sri is not the checksum of the blob that is pushed");
}

/* On a worker. */
static void check_content(struct call *call)
{
    struct push *push = call->state;
    struct digest digest;
    struct err err;
    int rc = hash_content(push, &digest, &err);
    if (rc == 0 && !checksum_matches(&push->checksum, &digest))
        rc = refuse_checksum(&err);
    if (rc == 0 || rc == -ERR_NOT_FOUND) /* what is missing, the push itself tells */
        instance_push(push->instance, &push->push);
    else
        call_fail(call, &err);
}

/* Whether the checksum is of a function that can only be verified by reading the content. */
static bool needs_content(const struct push *push)
{
    return push->checksum.count != 0 && push->push.keys[0].kind == ASSET_BLOB &&
           push->checksum.function != push->push.asset.content.function;
}

static int check_checksum(struct push *push, struct err *err)
{
    const struct asset_key *key = &push->push.keys[0];
    int rc = checksum_parse(key->qualifiers, key->qualifier_count, &push->checksum, err);
    if (rc != 0 || push->checksum.count == 0 || key->kind != ASSET_BLOB)
        return rc;
    if (needs_content(push) && push->instance->cas == NULL)
        return err_set(err, ERR_INVALID,
                       "checksum.sri of %s cannot be checked here, as the instance has no CAS of "
                       "its own: use %s, the digest function",
                       digest_function_name(push->checksum.function),
                       digest_function_name(push->push.asset.content.function));
    if (!needs_content(push) && !checksum_matches(&push->checksum, &push->push.asset.content))
        return refuse_checksum(err);
    return 0;
}

/* --- instances with an external CAS --- */

/* All is there, or the push is refused as the instance's own check would. */
static void take_verdict(struct push *push)
{
    struct external *external = &push->external;
    if (external->verdict.code == ERR_OK) {
        instance_push(push->instance, &push->push);
        return;
    }
    if (external->verdict.code == ERR_PRECONDITION)
        push->push.missing = *external->missing;
    on_pushed(&push->push, &external->verdict);
}

static void resume(struct call *call)
{
    take_verdict(call->state);
}

/* What the CAS said a while ago is not enough: who pushes has uploaded what was missing then. */
static void check_external(struct call *call, struct push *push, struct remote_cas *cas)
{
    struct err err;
    if (instance_is_writing(push->instance, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    external_init(&push->external, call, cas, resume);
    if (external_check(&push->external, push->push.keys[0].kind, &push->push.asset, true))
        take_verdict(push);
}

void push_cancelled(struct call *call)
{
    struct push *push = call->state;
    external_cancel(&push->external);
}

/* --- the request --- */

/* Old clients reference digests without hash and size: these are left out. */
static bool is_blank(const REAPI(Digest) *message)
{
    return message->hash[0] == '\0' && message->size_bytes == 0;
}

static int take_references(const struct push_request *request, bool directories,
                           enum digest_function function, struct arena *arena,
                           const struct digest **out, size_t *count, struct err *err)
{
    REAPI(Digest) **messages = directories ? request->directories : request->blobs;
    size_t message_count = directories ? request->directory_count : request->blob_count;
    *count = 0;
    *out = NULL;
    if (message_count == 0)
        return 0;
    struct digest *digests = arena_calloc(arena, message_count, sizeof(*digests));
    if (digests == NULL)
        return err_no_memory(err, "the references");
    for (size_t i = 0; i < message_count; i++) {
        if (is_blank(messages[i]))
            continue;
        int rc = request_digest(function, messages[i],
                                directories ? "references_directories" : "references_blobs",
                                &digests[*count], err);
        if (rc != 0)
            return rc;
        (*count)++;
    }
    *out = digests;
    return 0;
}

static int take_asset(const struct push_request *request, enum digest_function function,
                      struct arena *arena, struct asset *asset, struct err *err)
{
    size_t references = request->blob_count + request->directory_count;
    if (references > ASSET_REFERENCES_MAX)
        return err_set(err, ERR_INVALID, "the push has %zu references, at most %d are accepted",
                       references, ASSET_REFERENCES_MAX);
    int rc =
        request_digest(function, request->content, request->content_field, &asset->content, err);
    if (rc == 0)
        rc = asset_request_time(request->expire_at, "expire_at", &asset->expires_at, err);
    if (rc == 0)
        rc = take_references(request, false, function, arena, &asset->blobs, &asset->blob_count,
                             err);
    if (rc == 0)
        rc = take_references(request, true, function, arena, &asset->directories,
                             &asset->directory_count, err);
    return rc;
}

static int take_keys(const struct push_request *request, enum digest_function function,
                     struct arena *arena, struct instance_push *push, struct err *err)
{
    const struct qualifier *qualifiers;
    int rc = asset_request_qualifiers(request->qualifiers, request->qualifier_count, arena,
                                      &qualifiers, err);
    if (rc != 0)
        return rc;
    push->keys = arena_calloc(arena, request->uri_count, sizeof(push->keys[0]));
    if (push->keys == NULL)
        return err_no_memory(err, "the URIs");
    push->key_count = request->uri_count;
    for (size_t i = 0; i < request->uri_count; i++)
        push->keys[i] = (struct asset_key){request->kind, function, request->uris[i], qualifiers,
                                           request->qualifier_count};
    return 0;
}

static int prepare(struct call *call, const struct push_request *request, struct push *push,
                   struct err *err)
{
    enum digest_function function;
    int rc = request_instance(call, request->instance_name, &push->instance, err);
    if (rc == 0)
        rc = asset_request_uris(request->uris, request->uri_count, err);
    if (rc == 0 && (request->content == NULL || is_blank(request->content)))
        rc = err_set(err, ERR_INVALID, "the push has no %s", request->content_field);
    if (rc == 0)
        rc = request_digest_function(push->instance, request->digest_function,
                                     request->content->hash, &function, err);
    if (rc == 0)
        rc = take_asset(request, function, call->arena, &push->push.asset, err);
    if (rc == 0)
        rc = take_keys(request, function, call->arena, &push->push, err);
    if (rc == 0)
        rc = check_checksum(push, err);
    return rc;
}

static void start(struct call *call, const struct push_request *request)
{
    struct err err;
    struct push *push = arena_calloc(call->arena, 1, sizeof(*push));
    if (push == NULL) {
        (void)err_no_memory(&err, "a push");
        call_fail(call, &err);
        return;
    }
    call->state = push;
    push->call = call;
    push->push.done = on_pushed;
    if (prepare(call, request, push, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    struct remote_cas *cas = external_cas(call->services, push->instance);
    if (cas != NULL)
        check_external(call, push, cas);
    else if (needs_content(push))
        call_offload(call, check_content);
    else
        instance_push(push->instance, &push->push);
}

void push_blob_start(struct call *call)
{
    const ASSET(PushBlobRequest) *message = (const ASSET(PushBlobRequest) *)call->request;
    struct push_request request = {
        .kind = ASSET_BLOB,
        .instance_name = message->instance_name,
        .uris = message->uris,
        .uri_count = message->n_uris,
        .qualifiers = message->qualifiers,
        .qualifier_count = message->n_qualifiers,
        .expire_at = message->expire_at,
        .content_field = "blob_digest",
        .content = message->blob_digest,
        .blobs = message->references_blobs,
        .blob_count = message->n_references_blobs,
        .directories = message->references_directories,
        .directory_count = message->n_references_directories,
        .digest_function = message->digest_function,
    };
    start(call, &request);
}

void push_directory_start(struct call *call)
{
    const ASSET(PushDirectoryRequest) *message = (const ASSET(PushDirectoryRequest) *)call->request;
    struct push_request request = {
        .kind = ASSET_DIRECTORY,
        .instance_name = message->instance_name,
        .uris = message->uris,
        .uri_count = message->n_uris,
        .qualifiers = message->qualifiers,
        .qualifier_count = message->n_qualifiers,
        .expire_at = message->expire_at,
        .content_field = "root_directory_digest",
        .content = message->root_directory_digest,
        .blobs = message->references_blobs,
        .blob_count = message->n_references_blobs,
        .directories = message->references_directories,
        .directory_count = message->n_references_directories,
        .digest_function = message->digest_function,
    };
    start(call, &request);
}
