/* SPDX-License-Identifier: Apache-2.0 */
/* build.bazel.remote.execution.v2.Capabilities: what an instance can do. */
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

void capabilities_get_start(struct call *call)
{
    const REAPI(GetCapabilitiesRequest) *request = (const void *)call->request;
    struct instance *instance;
    struct err err;
    if (request_instance(call, request->instance_name, &instance, &err) != 0) {
        call_fail(call, &err);
        return;
    }

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
