/* SPDX-License-Identifier: Apache-2.0 */
/* What an external CAS can do: asked for by one call for all who wait, and kept for a while. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "build/bazel/remote/execution/v2/remote_execution.pb-c.h"
#include "remote/remote_private.h"

/* What the CAS answered. The users are counted under its lock. */
struct remote_message {
    unsigned users;
    bool is_told; /* else it does not say what it can do */
    size_t size;
    uint8_t bytes[];
};

/* NULL when memory is out. */
static struct remote_message *message_new(struct span span)
{
    struct remote_message *message = malloc(sizeof(*message) + span.size);
    if (message == NULL)
        return NULL;
    *message = (struct remote_message){.users = 1, .is_told = span.data != NULL, .size = span.size};
    if (span.size != 0)
        memcpy(message->bytes, span.data, span.size);
    return message;
}

/* Under the lock. */
static void drop_user(struct remote_message *message)
{
    if (message != NULL && --message->users == 0)
        free(message);
}

/* MESSAGE, which is held for the caller, or ERR; those who are told may be gone afterwards. */
static void tell(struct remote_cas *cas, struct remote_capabilities *told,
                 struct remote_message *message, const struct err *err)
{
    struct span span = {NULL, 0};
    if (message != NULL && message->is_told)
        span = (struct span){message->bytes, message->size};
    while (told != NULL) {
        struct remote_capabilities *next = told->next;
        told->done(told, span, message != NULL ? NULL : err);
        told = next;
    }
    (void)pthread_mutex_lock(&cas->lock);
    drop_user(message);
    (void)pthread_mutex_unlock(&cas->lock);
}

/* --- the log --- */

/* What of an answer matters here. */
struct abilities {
    char functions[64]; /* "sha256,sha1" of those that we know; there is room for all */
    int64_t batch;      /* bytes of blobs in one batch; 0: not bounded */
};

static void list_functions(const Build__Bazel__Remote__Execution__V2__CacheCapabilities *cache,
                           char *text, size_t size)
{
    *text = '\0';
    for (size_t i = 0; cache != NULL && i < cache->n_digest_functions; i++) {
        enum digest_function function = (enum digest_function)cache->digest_functions[i];
        size_t used = strlen(text);
        if (digest_hash_size(function) != 0)
            (void)snprintf(text + used, size - used, "%s%s", used != 0 ? "," : "",
                           digest_function_name(function));
    }
    if (*text == '\0')
        (void)snprintf(text, size, "%s", "none that assetd knows");
}

static struct abilities read_message(struct span message)
{
    struct abilities abilities = {.functions = "not told"};
    if (message.data == NULL)
        return abilities;
    Build__Bazel__Remote__Execution__V2__ServerCapabilities *capabilities =
        build__bazel__remote__execution__v2__server_capabilities__unpack(NULL, message.size,
                                                                         message.data);
    const Build__Bazel__Remote__Execution__V2__CacheCapabilities *cache =
        capabilities != NULL ? capabilities->cache_capabilities : NULL;
    list_functions(cache, abilities.functions, sizeof(abilities.functions));
    abilities.batch = cache != NULL ? cache->max_batch_total_size_bytes : 0;
    build__bazel__remote__execution__v2__server_capabilities__free_unpacked(capabilities, NULL);
    return abilities;
}

static void log_paired(const struct remote_cas *cas, const struct abilities *abilities)
{
    log_info("cas-paired", log_str("instance", cas->label), log_str("address", cas->conf->address),
             log_str("cas_instance", cas->conf->instance_name),
             log_str("digest_functions", abilities->functions),
             log_num("trust_ms", cas->conf->trust));
}

static void log_unreachable(const struct remote_cas *cas, const struct err *err)
{
    bool is_served = cas->conf->on_unavailable == CONF_ON_UNAVAILABLE_SERVE;
    log_warning("cas-unreachable", log_str("instance", cas->label),
                log_str("address", cas->conf->address), log_str("reason", err->msg),
                log_str("answer", is_served ? "until it can be asked fetches are answered as "
                                              "stored, pushes are UNAVAILABLE"
                                            : "until it can be asked fetches and pushes are "
                                              "UNAVAILABLE"));
}

/* --- asking --- */

/* SPAN is the answer, unless ERR says why there is none. */
static void end_asking(struct remote_cas *cas, struct span span, const struct err *err)
{
    struct remote_message *message = err == NULL ? message_new(span) : NULL;
    const struct abilities abilities = read_message(span);
    struct err no_memory;
    if (err == NULL && message == NULL) {
        (void)err_no_memory(&no_memory, "the capabilities of the CAS");
        err = &no_memory;
    }
    if (message != NULL)
        cas_connections_set_batch(cas->source.connections, abilities.batch);
    (void)pthread_mutex_lock(&cas->lock);
    bool is_first = message != NULL && !cas->is_paired;
    bool is_lost = message == NULL && !cas->is_paired && !cas->is_unreachable && !cas->is_closing;
    cas->is_paired = cas->is_paired || is_first;
    cas->is_unreachable = cas->is_unreachable || is_lost;
    if (message != NULL) {
        drop_user(cas->answer);
        cas->answer = message;
        cas->answered_at = cas->asked_at;
    }
    /* The last answer, however old, is better than none. */
    struct remote_message *last = cas->answer;
    if (last != NULL)
        last->users++;
    struct remote_capabilities *told = cas->waiting;
    cas->waiting = NULL;
    cas->waiting_end = &cas->waiting;
    cas->is_asking = false;
    (void)pthread_mutex_unlock(&cas->lock);
    if (is_first)
        log_paired(cas, &abilities);
    if (is_lost)
        log_unreachable(cas, err);
    tell(cas, told, last, err);
}

static void on_answer(struct cas_capabilities *call, struct span message, const struct err *err)
{
    struct remote_cas *cas =
        (struct remote_cas *)((char *)call - offsetof(struct remote_cas, call));
    end_asking(cas, message, err);
}

/* After begin_asking. */
static void ask(struct remote_cas *cas)
{
    struct err err;
    cas->call = (struct cas_capabilities){.done = on_answer};
    if (cas_get_capabilities(cas->source.connections, &cas->call, &err) != 0)
        end_asking(cas, (struct span){NULL, 0}, &err);
}

/* Under the lock. True: the caller must ask. */
static bool begin_asking(struct remote_cas *cas, int64_t now)
{
    if (cas->is_asking)
        return false;
    cas->is_asking = true;
    cas->asked_at = now;
    return true;
}

void remote_capabilities_ask_first(struct remote_cas *cas)
{
    int64_t now = clock_steady();
    (void)pthread_mutex_lock(&cas->lock);
    bool is_due = !cas->is_paired && !cas->is_closing &&
                  (cas->asked_at == 0 || now - cas->asked_at >= REMOTE_CAPABILITIES_AGE);
    bool is_ours = is_due && begin_asking(cas, now);
    (void)pthread_mutex_unlock(&cas->lock);
    if (is_ours)
        ask(cas);
}

void remote_capabilities_start(struct remote_capabilities *capabilities)
{
    struct remote_cas *cas = capabilities->cas;
    struct remote_message *message = NULL;
    bool is_ours = false;
    int64_t now = clock_steady();
    capabilities->next = NULL;
    (void)pthread_mutex_lock(&cas->lock);
    if (cas->answer != NULL && now - cas->answered_at < REMOTE_CAPABILITIES_AGE) {
        message = cas->answer;
        message->users++;
    } else {
        *cas->waiting_end = capabilities;
        cas->waiting_end = &capabilities->next;
        is_ours = begin_asking(cas, now);
    }
    cas->inside++;
    (void)pthread_mutex_unlock(&cas->lock);
    if (message != NULL)
        tell(cas, capabilities, message, NULL);
    else if (is_ours)
        ask(cas);
    remote_cas_leave(cas);
}

void remote_capabilities_fini(struct remote_cas *cas)
{
    drop_user(cas->answer);
}
