/* SPDX-License-Identifier: Apache-2.0 */
/* Channels to an external CAS: made, made anew, spread over, left alone while it is away. */
#include "remote/cas_connections.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "remote/breaker.h"
#include "remote/cas_credentials.h"
#include "remote/cas_hint.h"
#include "rpc/slices.h"

enum {
    RECEIVE_MAX = 8 << 20,   /* bytes of one message of the CAS */
    METADATA_MAX = 64 << 10, /* bytes */
    LOOKAHEAD = 1 << 20,     /* bytes of a stream that may be on their way to us */
    RECONNECT_FIRST = 100,   /* milliseconds between attempts, doubling */
    RECONNECT_MOST = 2000,
    CONNECT_LEAST = 1000, /* milliseconds that an attempt may take, at least, */
    CONNECT_MOST = 20000, /* and at most */
};

/* What was made of the files as they were at one time. */
struct cas_channels {
    atomic_uint references; /* the connections, and each call */
    unsigned next;          /* the one for the next call; under the connections' lock */
    unsigned count;
    grpc_channel *channels[];
};

struct cas_connections {
    const struct conf_cas *conf;
    const char *label;
    struct rpc_queue *queue;
    _Atomic int64_t batch; /* bytes */
    pthread_mutex_t lock;
    pthread_cond_t idle; /* no call is under way */
    bool is_cancelled;   /* this and all below: under LOCK */
    struct breaker breaker;
    char reason[ERR_MESSAGE_SIZE]; /* of the last failure */
    struct cas_channels *channels;
    struct cas_token token;
    struct cas_call *calls;  /* to be cancelled */
    size_t under_way;        /* calls that have begun to begin, until their caller was told */
    int64_t opened_at;       /* the breaker, by clock_steady; 0: never */
    _Atomic int64_t lost_at; /* the same, once it has closed again; read without LOCK */
    uint64_t begun;
};

const struct conf_cas *cas_connections_conf(const struct cas_connections *connections)
{
    return connections->conf;
}

const char *cas_connections_label(const struct cas_connections *connections)
{
    return connections->label;
}

/* --- channels --- */

static grpc_arg int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

/* What the core is to connect to. Its own name for a time to connect is "reconnect backoff". */
static grpc_channel *make_channel(const struct conf_cas *conf, const char *target,
                                  grpc_channel_credentials *credentials)
{
    int64_t connect = conf->timeout;
    if (connect < CONNECT_LEAST)
        connect = CONNECT_LEAST;
    if (connect > CONNECT_MOST)
        connect = CONNECT_MOST;
    grpc_arg args[] = {
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), /* or all channels share a connection */
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD),
        int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_FIRST),
        int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MOST),
        int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, (int)connect),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RECEIVE_MAX),
        int_arg(GRPC_ARG_MAX_METADATA_SIZE, METADATA_MAX),
        /* The core inflates first and looks at the limit then: a small message can fill memory. */
        int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
    };
    grpc_channel_args all = {.num_args = sizeof(args) / sizeof(args[0]), .args = args};
    return grpc_channel_create(target, credentials, &all);
}

/* None of them connects before its first call. */
static int channels_make(const struct conf_cas *conf, struct cas_channels **out, struct err *err)
{
    char target[ERR_MESSAGE_SIZE];
    grpc_channel_credentials *credentials;
    const char *host = strstr(conf->address, "://");
    if (host != NULL)
        (void)snprintf(target, sizeof(target), "dns:///%s", host + strlen("://"));
    else
        (void)snprintf(target, sizeof(target), "%s", conf->address);
    int rc = cas_credentials_make(conf, CAS_SYSTEM_CA, &credentials, err);
    if (rc != 0)
        return rc;
    struct cas_channels *channels =
        calloc(1, sizeof(*channels) + conf->connections * sizeof(channels->channels[0]));
    if (channels != NULL) {
        atomic_init(&channels->references, 1);
        for (; channels->count < conf->connections; channels->count++)
            channels->channels[channels->count] = make_channel(conf, target, credentials);
    }
    grpc_channel_credentials_release(credentials);
    *out = channels;
    return channels != NULL ? 0 : err_no_memory(err, "the connections to a CAS");
}

static void channels_release(struct cas_channels *channels)
{
    if (channels == NULL || atomic_fetch_sub(&channels->references, 1) != 1)
        return;
    for (unsigned i = 0; i < channels->count; i++)
        grpc_channel_destroy(channels->channels[i]);
    free(channels);
}

/* --- open and close --- */

int cas_connections_open(const struct conf_cas *conf, const char *label, struct rpc_queue *queue,
                         struct cas_connections **out, struct err *err)
{
    struct cas_connections *connections = calloc(1, sizeof(*connections));
    if (connections == NULL)
        return err_no_memory(err, "the connections to a CAS");
    connections->conf = conf;
    connections->label = label;
    connections->queue = queue;
    atomic_init(&connections->batch, CAS_BATCH_MAX);
    (void)pthread_mutex_init(&connections->lock, NULL);
    (void)pthread_cond_init(&connections->idle, NULL);
    int rc = cas_token_init(&connections->token, conf->token_file, err);
    if (rc == 0)
        rc = channels_make(conf, &connections->channels, err);
    if (rc != 0) {
        cas_connections_close(connections);
        return rc;
    }
    *out = connections;
    return 0;
}

void cas_connections_cancel(struct cas_connections *connections)
{
    (void)pthread_mutex_lock(&connections->lock);
    connections->is_cancelled = true;
    for (struct cas_call *call = connections->calls; call != NULL; call = call->next)
        client_call_cancel(&call->rpc);
    (void)pthread_mutex_unlock(&connections->lock);
}

void cas_connections_close(struct cas_connections *connections)
{
    if (connections == NULL)
        return;
    (void)pthread_mutex_lock(&connections->lock);
    while (connections->under_way != 0)
        (void)pthread_cond_wait(&connections->idle, &connections->lock);
    (void)pthread_mutex_unlock(&connections->lock);
    channels_release(connections->channels);
    cas_token_fini(&connections->token);
    (void)pthread_cond_destroy(&connections->idle);
    (void)pthread_mutex_destroy(&connections->lock);
    free(connections);
}

bool cas_connections_are_up(struct cas_connections *connections)
{
    (void)pthread_mutex_lock(&connections->lock);
    bool are_up = !connections->breaker.is_open;
    (void)pthread_mutex_unlock(&connections->lock);
    return are_up;
}

int64_t cas_connections_lost_at(struct cas_connections *connections)
{
    return atomic_load(&connections->lost_at);
}

int64_t cas_connections_batch(struct cas_connections *connections)
{
    return atomic_load(&connections->batch);
}

void cas_connections_set_batch(struct cas_connections *connections, int64_t bytes)
{
    bool is_less = bytes > 0 && bytes < CAS_BATCH_MAX;
    atomic_store(&connections->batch, is_less ? bytes : CAS_BATCH_MAX);
}

uint64_t cas_connections_calls(struct cas_connections *connections)
{
    (void)pthread_mutex_lock(&connections->lock);
    uint64_t begun = connections->begun;
    (void)pthread_mutex_unlock(&connections->lock);
    return begun;
}

/* --- the breaker --- */

/* What a call tells of the CAS, beside what it is about. */
enum verdict {
    VERDICT_ANSWERED,
    VERDICT_FAILED, /* another call would have met the same */
    VERDICT_NONE,   /* we ended it */
};

static void log_lost(const struct cas_connections *connections, const char *reason)
{
    log_warning("cas-lost", log_str("instance", connections->label),
                log_str("address", connections->conf->address), log_str("reason", reason),
                log_str("answer", connections->conf->on_unavailable == CONF_ON_UNAVAILABLE_SERVE
                                      ? "until it is back pushes are UNAVAILABLE, and fetches are "
                                        "answered as stored, unchecked"
                                      : "until it is back pushes are UNAVAILABLE, and so are "
                                        "fetches that were not checked within cas.trust"));
}

/*
 * Hands the verdict of a call to the breaker; REASON is that of a failure. True if that is no news:
 * the CAS was lost meanwhile. What a try meets may be another reason.
 */
static bool settle(struct cas_connections *connections, bool is_try, enum verdict verdict,
                   const char *reason)
{
    bool is_lost = false, is_back = false, is_known = false;
    (void)pthread_mutex_lock(&connections->lock);
    switch (verdict) {
    case VERDICT_ANSWERED:
        is_back = breaker_succeed(&connections->breaker);
        if (is_back)
            atomic_store(&connections->lost_at, connections->opened_at);
        break;
    case VERDICT_FAILED:
        is_known = connections->breaker.is_open && !is_try;
        is_lost = breaker_fail(&connections->breaker, clock_steady(), is_try);
        if (is_lost)
            connections->opened_at = clock_steady();
        (void)snprintf(connections->reason, sizeof(connections->reason), "%s", reason);
        break;
    case VERDICT_NONE:
        breaker_forget(&connections->breaker, is_try);
        break;
    }
    (void)pthread_mutex_unlock(&connections->lock);
    if (is_lost)
        log_lost(connections, reason);
    if (is_back)
        log_info("cas-back", log_str("instance", connections->label),
                 log_str("address", connections->conf->address));
    return is_known;
}

/* What is an answer to the one call, or the failure of all: the server, the way, the credentials.
 */
static enum verdict verdict_of_status(grpc_status_code status)
{
    switch (status) {
    case GRPC_STATUS_CANCELLED: /* not by us */
    case GRPC_STATUS_UNKNOWN:
    case GRPC_STATUS_DEADLINE_EXCEEDED:
    case GRPC_STATUS_PERMISSION_DENIED:
    case GRPC_STATUS_ABORTED:
    case GRPC_STATUS_INTERNAL:
    case GRPC_STATUS_UNAVAILABLE:
    case GRPC_STATUS_UNAUTHENTICATED:
        return VERDICT_FAILED;
    default:
        return VERDICT_ANSWERED;
    }
}

/* --- the end of a call --- */

const char *cas_call_quote(struct cas_call *call, struct span text)
{
    struct cas_connections *connections = call->connections;
    char *copy = arena_copy(&call->arena, (const char *)text.data, text.size);
    if (copy == NULL)
        return "";
    (void)pthread_mutex_lock(&connections->lock);
    cas_token_hide(&connections->token, copy);
    (void)pthread_mutex_unlock(&connections->lock);
    return copy;
}

static bool on_message(struct client_call *rpc, const struct span *runs, size_t count)
{
    struct cas_call *call = (struct cas_call *)rpc;
    struct span message = slices_join(runs, count, &call->arena);
    int rc = message.data != NULL ? call->method->message(call, message, &call->fault)
                                  : err_no_memory(&call->fault, "an answer");
    call->has_message = true;
    arena_reset(&call->arena);
    return rc == 0;
}

/* Takes CALL off the list, and tells whether it may have been cancelled from there. */
static bool unlist(struct cas_connections *connections, struct cas_call *call)
{
    (void)pthread_mutex_lock(&connections->lock);
    if (call->previous != NULL)
        call->previous->next = call->next;
    else
        connections->calls = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    bool is_cancelled = connections->is_cancelled;
    (void)pthread_mutex_unlock(&connections->lock);
    return is_cancelled;
}

static int refuse_cancelled(const struct cas_connections *connections, struct err *err)
{
    return err_set(err, ERR_CANCELLED, "CAS %s: its connections are being closed",
                   connections->conf->address);
}

/* What the end of CALL means: for its caller in ERR, whose code may be ERR_OK, and for all. */
static enum verdict judge(const struct cas_call *call, grpc_status_code status, const char *text,
                          struct err *err)
{
    const struct cas_method *method = call->method;
    int64_t timeout = call->connections->conf->timeout;
    err->code = ERR_OK;
    if (call->fault.code != ERR_OK) {
        (void)err_set(err, ERR_UNAVAILABLE, "%s: %s", method->name, call->fault.msg);
        return VERDICT_ANSWERED;
    }
    if (status == GRPC_STATUS_OK && method->is_unary && !call->has_message) {
        (void)err_set(err, ERR_UNAVAILABLE, "%s: OK without an answer", method->name);
        return VERDICT_ANSWERED;
    }
    bool is_fine = status <= GRPC_STATUS_UNAUTHENTICATED && (method->also_fine & 1U << status) != 0;
    if (status == GRPC_STATUS_OK || is_fine)
        return VERDICT_ANSWERED;
    (void)err_set(err, ERR_UNAVAILABLE, "%s: %s: %s%s", method->name,
                  client_call_status_name(status), text,
                  cas_hint(call->connections->conf->address, text));
    if (status == GRPC_STATUS_DEADLINE_EXCEEDED)
        (void)err_append(err, " (cas.timeout is %lld ms)", (long long)timeout);
    return verdict_of_status(status);
}

/* CALL, which is told to its caller or was not begun, is gone. The last use of CONNECTIONS. */
static void leave(struct cas_connections *connections)
{
    (void)pthread_mutex_lock(&connections->lock);
    if (--connections->under_way == 0)
        (void)pthread_cond_broadcast(&connections->idle);
    (void)pthread_mutex_unlock(&connections->lock);
}

static void free_call(struct cas_call *call)
{
    channels_release(call->channels);
    arena_fini(&call->arena);
    call->method->free(call);
}

static void on_ended(struct client_call *rpc, grpc_status_code status, const char *text)
{
    struct cas_call *call = (struct cas_call *)rpc;
    struct cas_connections *connections = call->connections;
    struct err err;
    bool is_cancelled = unlist(connections, call);
    text = cas_call_quote(call, (struct span){(const uint8_t *)text, strlen(text)});
    log_trace("cas-call", log_str("instance", connections->label),
              log_str("method", call->method->name),
              log_str("status", client_call_status_name(status)), log_str("text", text));
    if (is_cancelled && status == GRPC_STATUS_CANCELLED) {
        (void)refuse_cancelled(connections, &err);
        (void)settle(connections, call->is_try, VERDICT_NONE, NULL);
    } else {
        enum verdict verdict = judge(call, status, text, &err);
        if (settle(connections, call->is_try, verdict, err.msg))
            err.code = ERR_AWAY;
        if (err.code != ERR_OK)
            (void)err_wrap(&err, "CAS %s", connections->conf->address);
    }
    call->method->done(call, status, err.code != ERR_OK ? &err : NULL);
    free_call(call);
    leave(connections);
}

/* --- the begin of a call --- */

static int refuse_open(struct cas_connections *connections, int64_t now, struct err *err)
{
    int64_t wait = connections->breaker.next_try - now;
    if (connections->breaker.is_trying || wait <= 0)
        return err_set(err, ERR_AWAY, "CAS %s does not answer, and is being tried again: %s",
                       connections->conf->address, connections->reason);
    return err_set(err, ERR_AWAY, "CAS %s does not answer, and is tried again in %lld ms: %s",
                   connections->conf->address, (long long)wait, connections->reason);
}

/* Asks whether CALL may be made. After 0 it counts as under way. */
static int enter(struct cas_connections *connections, struct cas_call *call, struct err *err)
{
    int rc = 0;
    int64_t now = clock_steady();
    (void)pthread_mutex_lock(&connections->lock);
    if (connections->is_cancelled)
        rc = refuse_cancelled(connections, err);
    else if (!breaker_admit(&connections->breaker, now, &call->is_try))
        rc = refuse_open(connections, now, err);
    else
        connections->under_way++;
    (void)pthread_mutex_unlock(&connections->lock);
    return rc;
}

/*
 * Makes the connections anew: a try finds what DNS and the files of TLS say now, and waits for no
 * connection that has gone silent. There is one try at a time, so that this needs no lock.
 */
static int renew(struct cas_connections *connections, struct err *err)
{
    struct cas_channels *channels, *former;
    int rc = channels_make(connections->conf, &channels, err);
    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&connections->lock);
    former = connections->channels;
    connections->channels = channels;
    (void)pthread_mutex_unlock(&connections->lock);
    channels_release(former);
    return 0;
}

/* Gives CALL a channel and the token, and lists it. Under the lock. */
static int prepare(struct cas_connections *connections, struct cas_call *call, struct err *err)
{
    struct cas_channels *channels = connections->channels;
    if (connections->is_cancelled)
        return refuse_cancelled(connections, err);
    struct client_call_options options = {
        .channel = channels->channels[channels->next],
        .queue = connections->queue,
        .path = call->method->path,
        .authorization = cas_token_authorization(&connections->token, connections->label),
        .timeout = connections->conf->timeout,
        .is_unary = call->method->is_unary,
    };
    int rc = client_call_init(&call->rpc, &options, err);
    if (rc != 0)
        return rc;
    channels->next = (channels->next + 1) % channels->count;
    atomic_fetch_add(&channels->references, 1);
    call->channels = channels;
    call->next = connections->calls;
    if (call->next != NULL)
        call->next->previous = call;
    connections->calls = call;
    connections->begun++;
    return 0;
}

/* A call that was let through is not made after all. */
static void give_up(struct cas_connections *connections, bool is_try, struct err *err)
{
    bool is_failure = err->code == ERR_PRECONDITION;
    (void)settle(connections, is_try, is_failure ? VERDICT_FAILED : VERDICT_NONE, err->msg);
    if (is_failure) {
        err->code = ERR_UNAVAILABLE;
        (void)err_wrap(err, "CAS %s", connections->conf->address);
    }
    leave(connections);
}

int cas_call_begin(struct cas_connections *connections, struct cas_call *call,
                   grpc_byte_buffer *request, struct err *err)
{
    call->rpc.message = on_message;
    call->rpc.ended = on_ended;
    call->connections = connections;
    arena_init(&call->arena);
    int rc = enter(connections, call, err);
    if (rc == 0) {
        if (call->is_try)
            rc = renew(connections, err);
        if (rc == 0) {
            (void)pthread_mutex_lock(&connections->lock);
            rc = prepare(connections, call, err);
            (void)pthread_mutex_unlock(&connections->lock);
        }
        if (rc != 0)
            give_up(connections, call->is_try, err);
    }
    if (rc != 0) {
        grpc_byte_buffer_destroy(request);
        free_call(call);
        return -(int)err->code;
    }
    client_call_start(&call->rpc, request);
    return 0;
}
