/* SPDX-License-Identifier: Apache-2.0 */
/* build.bazel.remote.asset.v1.Fetch: what a URI stands for. Nothing is downloaded. */
#include "service/asset_request.h"
#include "service/external.h"
#include "service/handlers.h"
#include "service/request.h"
#include "service/services.h"

struct fetch {
    struct instance *instance;
    struct instance_fetch lookup;
    ASSET(Qualifier) **qualifiers; /* as they came, for the answer */
    struct checked *checked;       /* NULL: there is no external CAS */
};

/* What a fetch has besides where an external CAS is asked. */
struct checked {
    struct external external;
    bool is_known;     /* an asset that is not whole, */
    struct err reason; /* the last one for this reason */
};

/* A request for a blob or for a directory; the two messages have the same fields. */
struct fetch_request {
    enum asset_kind kind;
    const char *instance_name;
    const Google__Protobuf__Timestamp *oldest_content_accepted;
    char **uris;
    size_t uri_count;
    ASSET(Qualifier) **qualifiers;
    size_t qualifier_count;
    REAPI(DigestFunction__Value) digest_function;
};

/* The times that an answer can carry: Timestamp in an arena. */
static Google__Protobuf__Timestamp *timestamp_message(struct arena *arena, int64_t time)
{
    Google__Protobuf__Timestamp *message = arena_alloc(arena, sizeof(*message));
    if (message == NULL)
        return NULL;
    google__protobuf__timestamp__init(message);
    message->seconds = time / 1000;
    message->nanos = (int32_t)(time % 1000 * 1000000);
    return message;
}

/* DIGEST as a message in an arena. */
static REAPI(Digest) *digest_message(struct arena *arena, const struct digest *digest)
{
    REAPI(Digest) *message = arena_alloc(arena, sizeof(*message));
    char hex[2 * DIGEST_HASH_MAX + 1];
    if (message == NULL)
        return NULL;
    build__bazel__remote__execution__v2__digest__init(message);
    message->hash = arena_strdup(arena, digest_hex(digest, hex));
    message->size_bytes = digest->size;
    return message->hash != NULL ? message : NULL;
}

static void answer_blob(struct call *call, const struct fetch *fetch,
                        Google__Protobuf__Timestamp *expires_at, REAPI(Digest) *digest)
{
    Google__Rpc__Status ok = GOOGLE__RPC__STATUS__INIT;
    ASSET(FetchBlobResponse) response = BUILD__BAZEL__REMOTE__ASSET__V1__FETCH_BLOB_RESPONSE__INIT;
    response.status = &ok;
    response.uri = (char *)fetch->lookup.uri;
    response.qualifiers = fetch->qualifiers;
    response.n_qualifiers = fetch->lookup.qualifier_count;
    response.expires_at = expires_at;
    response.blob_digest = digest;
    response.digest_function = (REAPI(DigestFunction__Value))fetch->lookup.function;
    call_finish(call, &response.base);
}

static void answer_directory(struct call *call, const struct fetch *fetch,
                             Google__Protobuf__Timestamp *expires_at, REAPI(Digest) *digest)
{
    Google__Rpc__Status ok = GOOGLE__RPC__STATUS__INIT;
    ASSET(FetchDirectoryResponse)
    response = BUILD__BAZEL__REMOTE__ASSET__V1__FETCH_DIRECTORY_RESPONSE__INIT;
    response.status = &ok;
    response.uri = (char *)fetch->lookup.uri;
    response.qualifiers = fetch->qualifiers;
    response.n_qualifiers = fetch->lookup.qualifier_count;
    response.expires_at = expires_at;
    response.root_directory_digest = digest;
    response.digest_function = (REAPI(DigestFunction__Value))fetch->lookup.function;
    call_finish(call, &response.base);
}

static void answer(struct call *call, struct fetch *fetch)
{
    const struct asset *asset = &fetch->lookup.asset;
    struct err err;
    REAPI(Digest) *digest = digest_message(call->arena, &asset->content);
    Google__Protobuf__Timestamp *expires_at = NULL;
    if (asset->expires_at != 0)
        expires_at = timestamp_message(call->arena, asset->expires_at);
    /*
     * What the answer names is held until here, where it goes out. It cannot be held until the
     * client has it: one that does not read its answer would keep everything from being evicted.
     */
    instance_fetch_end(fetch->instance, &fetch->lookup);
    if (digest == NULL || (asset->expires_at != 0 && expires_at == NULL)) {
        (void)err_no_memory(&err, "an answer");
        call_fail(call, &err);
    } else if (fetch->lookup.kind == ASSET_BLOB) {
        answer_blob(call, fetch, expires_at, digest);
    } else {
        answer_directory(call, fetch, expires_at, digest);
    }
}

static void fail(struct call *call, struct fetch *fetch, const struct err *err)
{
    instance_fetch_end(fetch->instance, &fetch->lookup);
    call_fail(call, err);
}

/* On a worker: content that is not known to be whole is looked through. */
static void fetch_on_worker(struct call *call)
{
    struct fetch *fetch = call->state;
    struct err err;
    instance_fetch_begin(fetch->instance, &fetch->lookup);
    if (instance_fetch(fetch->instance, &fetch->lookup, call->arena, &err) == 0)
        answer(call, fetch);
    else
        fail(call, fetch, &err);
}

static void look_up(struct call *call, struct fetch *fetch)
{
    struct err err;
    instance_fetch_begin(fetch->instance, &fetch->lookup);
    int rc = instance_fetch_remembered(fetch->instance, &fetch->lookup, call->arena, &err);
    if (rc == 0) {
        answer(call, fetch);
    } else if (rc == -ERR_UNAVAILABLE) {
        /* It is not to last while the call waits for a worker. */
        instance_fetch_end(fetch->instance, &fetch->lookup);
        call_offload(call, fetch_on_worker);
    } else {
        fail(call, fetch, &err);
    }
}

/* --- instances with an external CAS --- */

static void touch_and_answer(struct call *call, struct fetch *fetch)
{
    instance_fetch_touch(fetch->instance, &fetch->lookup);
    answer(call, fetch);
}

/*
 * What the CAS says of the asset that was found last. True: another may do, the call goes on;
 * false: the call was answered.
 */
static bool take_verdict(struct call *call, struct fetch *fetch)
{
    struct checked *checked = fetch->checked;
    struct err *verdict = &checked->external.verdict;
    bool serves = fetch->instance->conf->cas->on_unavailable == CONF_ON_UNAVAILABLE_SERVE;
    if (verdict->code != ERR_OK)
        (void)instance_fetch_verdict(checked->external.missing, verdict);
    if (verdict->code == ERR_NOT_FOUND) {
        checked->is_known = true;
        checked->reason = *verdict;
        return true;
    }
    if (verdict->code == ERR_OK || (external_is_unavailable(verdict->code) && serves))
        touch_and_answer(call, fetch);
    else
        fail(call, fetch, verdict);
    return false;
}

/* True: there is a verdict on the asset of the next URI; false: the call was answered, or waits. */
static bool look_at_next(struct call *call, struct fetch *fetch)
{
    struct instance_fetch *lookup = &fetch->lookup;
    struct checked *checked = fetch->checked;
    struct err err;
    int rc = instance_fetch_known(fetch->instance, lookup, call->arena, &err);
    if (rc == -ERR_NOT_FOUND && checked->is_known)
        rc = instance_fetch_not_whole(&checked->reason, &err);
    if (rc != 0) {
        fail(call, fetch, &err);
        return false;
    }
    if (external_trusts(&checked->external, lookup->kind, &lookup->asset)) {
        touch_and_answer(call, fetch);
        return false;
    }
    return external_check(&checked->external, lookup->kind, &lookup->asset, false);
}

static void look_up_checked(struct call *call, struct fetch *fetch)
{
    while (look_at_next(call, fetch) && take_verdict(call, fetch))
        continue;
}

/* The CAS has answered, some time after it was asked. */
static void resume(struct call *call)
{
    struct fetch *fetch = call->state;
    if (take_verdict(call, fetch))
        look_up_checked(call, fetch);
}

void fetch_cancelled(struct call *call)
{
    struct fetch *fetch = call->state;
    external_cancel(&fetch->checked->external);
}

/* --- the request --- */

static int prepare(struct call *call, const struct fetch_request *request, struct fetch *fetch,
                   struct err *err)
{
    struct instance_fetch *lookup = &fetch->lookup;
    int rc = request_instance(call, request->instance_name, &fetch->instance, err);
    if (rc == 0)
        rc = asset_request_uris(request->uris, request->uri_count, err);
    if (rc == 0)
        rc = asset_request_qualifiers(request->qualifiers, request->qualifier_count, call->arena,
                                      &lookup->qualifiers, err);
    if (rc == 0)
        rc = asset_request_time(request->oldest_content_accepted, "oldest_content_accepted",
                                &lookup->oldest_accepted, err);
    if (rc == 0)
        rc = request_digest_function(fetch->instance, request->digest_function, NULL,
                                     &lookup->function, err);
    if (rc != 0)
        return rc;
    lookup->kind = request->kind;
    lookup->uris = (const char *const *)request->uris;
    lookup->uri_count = request->uri_count;
    lookup->qualifier_count = request->qualifier_count;
    fetch->qualifiers = request->qualifiers;
    return 0;
}

/* Answers are checked by the CAS. */
static void start_checked(struct call *call, struct fetch *fetch, struct remote_cas *cas)
{
    struct err err;
    fetch->checked = arena_calloc(call->arena, 1, sizeof(*fetch->checked));
    if (fetch->checked == NULL) {
        (void)err_no_memory(&err, "a fetch");
        call_fail(call, &err);
        return;
    }
    external_init(&fetch->checked->external, call, cas, resume);
    look_up_checked(call, fetch);
}

static void start(struct call *call, const struct fetch_request *request)
{
    struct err err;
    struct fetch *fetch = arena_calloc(call->arena, 1, sizeof(*fetch));
    if (fetch == NULL) {
        (void)err_no_memory(&err, "a fetch");
        call_fail(call, &err);
        return;
    }
    call->state = fetch;
    if (prepare(call, request, fetch, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    struct remote_cas *cas = external_cas(call->services, fetch->instance);
    if (cas != NULL)
        start_checked(call, fetch, cas);
    else
        look_up(call, fetch);
}

void fetch_blob_start(struct call *call)
{
    const ASSET(FetchBlobRequest) *message = (const ASSET(FetchBlobRequest) *)call->request;
    struct fetch_request request = {
        .kind = ASSET_BLOB,
        .instance_name = message->instance_name,
        .oldest_content_accepted = message->oldest_content_accepted,
        .uris = message->uris,
        .uri_count = message->n_uris,
        .qualifiers = message->qualifiers,
        .qualifier_count = message->n_qualifiers,
        .digest_function = message->digest_function,
    };
    start(call, &request);
}

void fetch_directory_start(struct call *call)
{
    const ASSET(FetchDirectoryRequest) *message =
        (const ASSET(FetchDirectoryRequest) *)call->request;
    struct fetch_request request = {
        .kind = ASSET_DIRECTORY,
        .instance_name = message->instance_name,
        .oldest_content_accepted = message->oldest_content_accepted,
        .uris = message->uris,
        .uri_count = message->n_uris,
        .qualifiers = message->qualifiers,
        .qualifier_count = message->n_qualifiers,
        .digest_function = message->digest_function,
    };
    start(call, &request);
}
