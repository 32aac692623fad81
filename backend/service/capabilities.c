/* SPDX-License-Identifier: Apache-2.0 */
/* build.bazel.remote.execution.v2.Capabilities: what an instance, or its external CAS, can do. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "service/external.h"
#include "service/handlers.h"
#include "service/request.h"
#include "service/services.h"

enum {
    FUNCTIONS_MAX =
        sizeof(((struct conf_instance *)0)->digest_functions) / sizeof(enum digest_function),
};

/*
 * Bytes of data that a client may put into one batch. The share of a message that is kept for
 * digests and framing is that of REQUEST_BATCH_MAX in 4 MiB.
 */
static int64_t batch_max(const struct conf *conf)
{
    int64_t fitting = conf->message_limit - conf->message_limit / 64;
    return fitting < REQUEST_BATCH_MAX ? fitting : REQUEST_BATCH_MAX;
}

/* What the instance can do by itself. */
static void answer_own(struct call *call, const struct instance *instance)
{
    const struct conf_instance *conf = instance->conf;
    REAPI(DigestFunction__Value) functions[FUNCTIONS_MAX];
    for (size_t i = 0; i < conf->digest_function_count; i++)
        functions[i] = (REAPI(DigestFunction__Value))conf->digest_functions[i];

    /* There is no action cache here: update_enabled stays false. */
    REAPI(ActionCacheUpdateCapabilities) action_cache;
    build__bazel__remote__execution__v2__action_cache_update_capabilities__init(&action_cache);

    REAPI(CacheCapabilities) cache;
    build__bazel__remote__execution__v2__cache_capabilities__init(&cache);
    cache.n_digest_functions = conf->digest_function_count;
    cache.digest_functions = functions;
    cache.action_cache_update_capabilities = &action_cache;
    cache.max_batch_total_size_bytes = instance->cas != NULL ? batch_max(call->services->conf) : 0;
    cache.symlink_absolute_path_strategy =
        BUILD__BAZEL__REMOTE__EXECUTION__V2__SYMLINK_ABSOLUTE_PATH_STRATEGY__VALUE__ALLOWED;

    /*
     * Version 2.5 adds digest_function to the requests of the CAS, 2.10 to those of Remote Asset;
     * what versions up to there add besides is optional, or about execution.
     */
    Build__Bazel__Semver__SemVer low = BUILD__BAZEL__SEMVER__SEM_VER__INIT;
    Build__Bazel__Semver__SemVer high = BUILD__BAZEL__SEMVER__SEM_VER__INIT;
    low.major = high.major = 2;
    high.minor = 10;

    REAPI(ServerCapabilities) response;
    build__bazel__remote__execution__v2__server_capabilities__init(&response);
    response.cache_capabilities = &cache;
    response.low_api_version = &low;
    response.high_api_version = &high;
    call_finish(call, &response.base);
}

/* --- instances with an external CAS --- */

/*
 * What is asked of the CAS. It may answer when the call is gone: so it is the last of the two that
 * gives it back, and whoever takes the call from it answers that.
 */
struct inquiry {
    struct remote_capabilities remote; /* first, so that one is found from the other */
    const struct instance *instance;
    _Atomic(struct call *) call; /* NULL: it has its answer */
    atomic_uint references;      /* of the CAS's answer, and of the call */
};

/* The call's way to it, in the memory of the call, as `cancelled` may come after `end`. */
struct asking {
    _Atomic(struct inquiry *) inquiry; /* NULL: given back */
};

static void give_back(struct inquiry *inquiry)
{
    if (atomic_fetch_sub(&inquiry->references, 1) == 1)
        free(inquiry);
}

/* Names of digest functions, as the configuration has them: "sha256, blake3". */
struct names {
    char text[128];
    size_t length;
};

static void add_name(struct names *names, REAPI(DigestFunction__Value) function)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
        &build__bazel__remote__execution__v2__digest_function__value__descriptor, (int)function);
    size_t room = sizeof(names->text) - names->length;
    int length = snprintf(names->text + names->length, room, "%s%s", names->length != 0 ? ", " : "",
                          value != NULL ? value->name : "unknown");
    if (length < 0 || (size_t)length >= room)
        names->text[names->length] = '\0'; /* that one is left out */
    else
        for (char *end = names->text + names->length; *end != '\0'; end++, names->length++)
            *end = (char)tolower((unsigned char)*end);
}

static int refuse_functions(const struct conf_instance *conf, const REAPI(CacheCapabilities) *cache,
                            struct err *err)
{
    struct names ours = {.length = 0}, theirs = {.length = 0};
    for (size_t i = 0; i < conf->digest_function_count; i++)
        add_name(&ours, (REAPI(DigestFunction__Value))conf->digest_functions[i]);
    for (size_t i = 0; cache != NULL && i < cache->n_digest_functions; i++)
        add_name(&theirs, cache->digest_functions[i]);
    return err_set(err, ERR_PRECONDITION,
                   "the CAS at %.128s takes digests of %s, and instance \"%.96s\" those of %s: its "
                   "operator must change digest-functions of the instance, or the CAS",
                   conf->cas->address, theirs.length != 0 ? theirs.text : "no function", conf->name,
                   ours.text);
}

/* Leaves of the functions of CAPABILITIES those that the instance has too. ERR_PRECONDITION: none.
 */
static int cut_functions(const struct conf_instance *conf, REAPI(ServerCapabilities) *capabilities,
                         struct err *err)
{
    REAPI(CacheCapabilities) *cache = capabilities->cache_capabilities;
    size_t count = 0;
    for (size_t i = 0; cache != NULL && i < cache->n_digest_functions; i++)
        if (conf_instance_serves(conf, (enum digest_function)cache->digest_functions[i]))
            cache->digest_functions[count++] = cache->digest_functions[i];
    if (count == 0)
        return refuse_functions(conf, cache, err);
    cache->n_digest_functions = count;
    return 0;
}

/* MESSAGE is the CAS's; what it says that we do not know of is handed on as it is. */
static int answer_theirs(struct call *call, const struct instance *instance, struct span message,
                         struct err *err)
{
    REAPI(ServerCapabilities) *capabilities =
        build__bazel__remote__execution__v2__server_capabilities__unpack(NULL, message.size,
                                                                         message.data);
    if (capabilities == NULL)
        return err_set(err, ERR_UNAVAILABLE,
                       "what the CAS at %.128s says that it can do is no "
                       "ServerCapabilities message",
                       instance->conf->cas->address);
    int rc = cut_functions(instance->conf, capabilities, err);
    if (rc == 0)
        call_finish(call, &capabilities->base);
    build__bazel__remote__execution__v2__server_capabilities__free_unpacked(capabilities, NULL);
    return rc;
}

static void answer(struct call *call, const struct instance *instance, struct span message,
                   const struct err *fault)
{
    bool serves_on = instance->conf->cas->on_unavailable == CONF_ON_UNAVAILABLE_SERVE;
    struct err err;
    int rc = 0;
    if (fault != NULL) {
        err = *fault;
        rc = -(int)err.code;
    } else if (message.data != NULL) {
        rc = answer_theirs(call, instance, message, &err);
        if (rc == 0)
            return;
    }
    if (rc == 0 || (serves_on && external_is_unavailable(err.code)))
        answer_own(call, instance); /* as an index that nobody has a CAS for */
    else
        call_fail(call, &err);
}

static void on_told(struct remote_capabilities *remote, struct span message, const struct err *err)
{
    struct inquiry *inquiry = (struct inquiry *)remote;
    struct call *call = atomic_exchange(&inquiry->call, NULL);
    if (call != NULL)
        answer(call, inquiry->instance, message, err);
    give_back(inquiry);
}

static void ask(struct call *call, const struct instance *instance, struct remote_cas *cas)
{
    struct inquiry *inquiry = calloc(1, sizeof(*inquiry));
    struct asking *asking = arena_calloc(call->arena, 1, sizeof(*asking));
    if (inquiry == NULL || asking == NULL) {
        struct err err;
        free(inquiry);
        (void)err_no_memory(&err, "an inquiry");
        call_fail(call, &err);
        return;
    }
    inquiry->remote.cas = cas;
    inquiry->remote.done = on_told;
    inquiry->instance = instance;
    atomic_init(&inquiry->call, call);
    atomic_init(&inquiry->references, 2);
    atomic_init(&asking->inquiry, inquiry);
    call->state = asking;
    call_watch(call); /* it may be gone from here on */
    remote_capabilities_start(&inquiry->remote);
}

void capabilities_get_cancelled(struct call *call)
{
    struct asking *asking = call->state;
    struct inquiry *inquiry = atomic_exchange(&asking->inquiry, NULL);
    if (inquiry == NULL)
        return;
    if (atomic_exchange(&inquiry->call, NULL) != NULL) {
        struct err err;
        (void)err_set(&err, ERR_CANCELLED, "the call was cancelled");
        call_fail(call, &err);
    }
    give_back(inquiry);
}

void capabilities_get_end(struct call *call)
{
    struct asking *asking = call->state;
    struct inquiry *inquiry = asking != NULL ? atomic_exchange(&asking->inquiry, NULL) : NULL;
    if (inquiry != NULL)
        give_back(inquiry);
}

/* --- the request --- */

void capabilities_get_start(struct call *call)
{
    const REAPI(GetCapabilitiesRequest) *request = (const void *)call->request;
    struct instance *instance;
    struct err err;
    if (request_instance(call, request->instance_name, &instance, &err) != 0) {
        call_fail(call, &err);
        return;
    }
    struct remote_cas *cas = external_cas(call->services, instance);
    if (cas != NULL)
        ask(call, instance, cas);
    else
        answer_own(call, instance);
}
