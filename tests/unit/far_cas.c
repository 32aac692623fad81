/* SPDX-License-Identifier: Apache-2.0 */
/* The set-up that tests of calls to an external CAS share. */
#include "far_cas.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"

/* Seconds after which what does not come is taken for lost. */
enum { PATIENCE = 60 };

static const char log_name[] = "log";

/* c-ares, by which the core looks hosts up, loses some bytes with each look-up of localhost. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libcares.so\n";
}

/* --- the folder, the queue, the log --- */

static void begin_log(struct far_cas *cas)
{
    char path[PATH_MAX];
    int log = open(scratch_path(&cas->scratch, log_name, path),
                   O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    cas->saved_stderr = dup(STDERR_FILENO);
    assert_true(log >= 0 && cas->saved_stderr >= 0 && dup2(log, STDERR_FILENO) >= 0);
    (void)close(log);
}

/* What was logged, and what failed, is shown. */
static void end_log(struct far_cas *cas)
{
    char path[PATH_MAX], line[1024];
    (void)fflush(stderr);
    (void)dup2(cas->saved_stderr, STDERR_FILENO);
    (void)close(cas->saved_stderr);
    FILE *log = fopen(scratch_path(&cas->scratch, log_name, path), "r");
    while (log != NULL && fgets(line, sizeof(line), log) != NULL)
        (void)fputs(line, stderr);
    if (log != NULL)
        (void)fclose(log);
}

size_t far_cas_logged(const struct far_cas *cas, const char *text)
{
    char path[PATH_MAX], line[4096];
    size_t count = 0;
    FILE *log = fopen(scratch_path(&cas->scratch, log_name, path), "r");
    assert_non_null(log);
    while (fgets(line, sizeof(line), log) != NULL)
        count += strstr(line, text) != NULL;
    (void)fclose(log);
    return count;
}

int far_cas_set_up(void **state)
{
    struct err err;
    struct far_cas *cas = calloc(1, sizeof(*cas));
    assert_non_null(cas);
    scratch_init(&cas->scratch);
    begin_log(cas);
    log_set_level(LOG_LEVEL_INFO);
    (void)snprintf(cas->address, sizeof(cas->address), "unix:%s/cas", cas->scratch.path);
    cas->conf = (struct conf_cas){.address = cas->address,
                                  .instance_name = "far/away",
                                  .timeout = 1000 * PATIENCE,
                                  .connections = 1};
    cas->bytes = malloc(FAR_CAS_ROOM);
    assert_non_null(cas->bytes);
    (void)pthread_mutex_init(&cas->lock, NULL);
    if (rpc_queue_new_for_calls(&cas->queue, &err) != 0)
        fail_msg("%s", err.msg);
    *state = cas;
    return 0;
}

int far_cas_tear_down(void **state)
{
    struct far_cas *cas = *state;
    far_cas_close(cas);
    if (cas->is_serving)
        far_cas_stop(cas);
    rpc_queue_free(cas->queue);
    end_log(cas);
    scratch_fini(&cas->scratch);
    (void)pthread_mutex_destroy(&cas->lock);
    free(cas->request);
    free(cas->bytes);
    free(cas);
    return 0;
}

void far_cas_open(struct far_cas *cas)
{
    struct err err;
    if (cas_connections_open(&cas->conf, "near", cas->queue, &cas->connections, &err) != 0)
        fail_msg("%s", err.msg);
}

void far_cas_close(struct far_cas *cas)
{
    cas_connections_close(cas->connections);
    cas->connections = NULL;
}

/* --- the server --- */

static void note_peer(struct far_cas *cas, const char *peer)
{
    for (size_t i = 0; i < cas->peer_count; i++)
        if (strcmp(cas->peers[i], peer) == 0)
            return;
    if (cas->peer_count < FAR_CAS_PEERS_MAX)
        (void)snprintf(cas->peers[cas->peer_count++], sizeof(cas->peers[0]), "%s", peer);
}

static void note_request(struct far_cas *cas, const struct stub_request *request)
{
    cas->requests++;
    (void)snprintf(cas->path, sizeof(cas->path), "%s", request->path);
    (void)snprintf(cas->authorization, sizeof(cas->authorization), "%s", request->authorization);
    note_peer(cas, request->peer);
    free(cas->request);
    cas->request = malloc(request->message.size + 1);
    if (cas->request == NULL)
        abort();
    memcpy(cas->request, request->message.data, request->message.size);
    cas->request_size = request->message.size;
}

static void answer_request(struct stub_server *server, const struct stub_request *request,
                           struct stub_answer *answer)
{
    struct far_cas *cas = server->context;
    (void)pthread_mutex_lock(&cas->lock);
    note_request(cas, request);
    *answer = cas->answer;
    (void)pthread_mutex_unlock(&cas->lock);
}

int far_cas_serve_at(struct far_cas *cas, const char *address, grpc_server_credentials *credentials)
{
    cas->server = (struct stub_server){.answer = answer_request, .context = cas};
    int port = stub_server_start(&cas->server, address, credentials);
    cas->is_serving = true;
    return port;
}

void far_cas_serve(struct far_cas *cas)
{
    (void)far_cas_serve_at(cas, cas->address, NULL);
}

void far_cas_stop(struct far_cas *cas)
{
    stub_server_stop(&cas->server);
    cas->is_serving = false;
}

static void set_answer(struct far_cas *cas, const struct stub_answer *answer)
{
    (void)pthread_mutex_lock(&cas->lock);
    cas->answer = *answer;
    cas->used = 0;
    (void)pthread_mutex_unlock(&cas->lock);
}

void far_cas_answer(struct far_cas *cas, grpc_status_code status, const char *text)
{
    set_answer(cas, &(struct stub_answer){.status = status, .text = text});
}

void far_cas_hang(struct far_cas *cas)
{
    set_answer(cas, &(struct stub_answer){.hangs = true});
}

/* The next SIZE bytes of the room for messages. */
static uint8_t *add_message(struct far_cas *cas, size_t size)
{
    uint8_t *bytes = cas->bytes + cas->used;
    assert_true(size <= FAR_CAS_ROOM - cas->used);
    assert_true(cas->answer.count < STUB_MESSAGES_MAX);
    (void)pthread_mutex_lock(&cas->lock);
    cas->answer.messages[cas->answer.count++] = (struct span){bytes, size};
    cas->used += size;
    (void)pthread_mutex_unlock(&cas->lock);
    return bytes;
}

/* No call is under way: the bytes are not looked at before they are there. */
void far_cas_add_bytes(struct far_cas *cas, const void *bytes, size_t size)
{
    memcpy(add_message(cas, size), bytes, size);
}

void far_cas_answer_whole(struct far_cas *cas)
{
    far_cas_answer(cas, GRPC_STATUS_OK, NULL);
    far_cas_add_bytes(cas, "", 0);
}

void far_cas_add(struct far_cas *cas, const ProtobufCMessage *message)
{
    uint8_t *out = add_message(cas, protobuf_c_message_get_packed_size(message));
    (void)protobuf_c_message_pack(message, out);
}

/* --- calls --- */

/* What comes of one. */
struct outcome {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_done;
    struct err err; /* ERR_OK: it went well */
};

static void begin(struct outcome *outcome)
{
    *outcome = (struct outcome){.is_done = false};
    (void)pthread_mutex_init(&outcome->lock, NULL);
    (void)pthread_cond_init(&outcome->changed, NULL);
}

static void end(struct outcome *outcome, const struct err *err)
{
    (void)pthread_mutex_lock(&outcome->lock);
    if (err != NULL)
        outcome->err = *err;
    outcome->is_done = true;
    (void)pthread_cond_signal(&outcome->changed);
    (void)pthread_mutex_unlock(&outcome->lock);
}

/* RC is that of the call's begin; what failed there never ends. */
static enum err_code wait_for(struct outcome *outcome, int rc, struct err *err)
{
    struct timespec deadline;
    (void)clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 2 * PATIENCE;
    if (rc != 0)
        return err->code;
    (void)pthread_mutex_lock(&outcome->lock);
    while (!outcome->is_done && rc == 0)
        rc = pthread_cond_timedwait(&outcome->changed, &outcome->lock, &deadline);
    (void)pthread_mutex_unlock(&outcome->lock);
    if (rc != 0)
        fail_msg("a call does not end");
    *err = outcome->err;
    (void)pthread_cond_destroy(&outcome->changed);
    (void)pthread_mutex_destroy(&outcome->lock);
    return err->code;
}

struct find {
    struct cas_find call; /* first */
    struct outcome outcome;
};

static void on_found(struct cas_find *call, const struct err *err)
{
    end(&((struct find *)call)->outcome, err);
}

enum err_code far_cas_find(struct far_cas *cas, const struct digest *digests, size_t count,
                           bool *is_missing, struct err *err)
{
    struct find find = {
        .call = {.digests = digests, .count = count, .is_missing = is_missing, .done = on_found}};
    begin(&find.outcome);
    return wait_for(&find.outcome, cas_find_missing(cas->connections, &find.call, err), err);
}

struct read {
    struct cas_read call; /* first */
    struct outcome outcome;
    uint8_t **found;
    bool *was_told; /* of each blob */
    bool is_faulty; /* a blob was told twice, or after the end */
};

static void on_blob(struct cas_read *call, size_t index, struct span data)
{
    struct read *read = (struct read *)call;
    read->is_faulty |= read->was_told[index] || read->outcome.is_done;
    read->was_told[index] = true;
    if (data.data == NULL)
        return;
    read->found[index] = malloc(data.size + 1);
    if (read->found[index] == NULL || data.size != (size_t)call->digests[index].size)
        abort();
    memcpy(read->found[index], data.data, data.size);
}

static void on_read(struct cas_read *call, const struct err *err)
{
    end(&((struct read *)call)->outcome, err);
}

enum err_code far_cas_read(struct far_cas *cas, const struct digest *digests, size_t count,
                           uint8_t **found, struct err *err)
{
    struct read read = {
        .call = {.digests = digests, .count = count, .blob = on_blob, .done = on_read},
        .found = found,
        .was_told = calloc(count, sizeof(bool))};
    assert_non_null(read.was_told);
    memset(found, 0, count * sizeof(found[0]));
    begin(&read.outcome);
    enum err_code code =
        wait_for(&read.outcome, cas_read_blobs(cas->connections, &read.call, err), err);
    assert_false(read.is_faulty);
    for (size_t i = 0; i < count && code == ERR_OK; i++)
        assert_true(read.was_told[i]);
    free(read.was_told);
    return code;
}

struct ask {
    struct cas_capabilities call; /* first */
    struct outcome outcome;
    struct span *message;
};

static void on_capabilities(struct cas_capabilities *call, struct span message,
                            const struct err *err)
{
    struct ask *ask = (struct ask *)call;
    if (message.data != NULL) {
        uint8_t *copy = malloc(message.size + 1);
        if (copy == NULL)
            abort();
        memcpy(copy, message.data, message.size);
        *ask->message = (struct span){copy, message.size};
    }
    end(&ask->outcome, err);
}

enum err_code far_cas_ask(struct far_cas *cas, struct span *message, struct err *err)
{
    struct ask ask = {.call = {.done = on_capabilities}, .message = message};
    *message = (struct span){NULL, 0};
    begin(&ask.outcome);
    return wait_for(&ask.outcome, cas_get_capabilities(cas->connections, &ask.call, err), err);
}

enum err_code far_cas_try(struct far_cas *cas, struct err *err)
{
    const struct digest digest = far_cas_digest("here", 4);
    bool is_missing;
    return far_cas_find(cas, &digest, 1, &is_missing, err);
}

/* Tries until WANTED is what the breaker says. */
static void try_until(struct far_cas *cas, bool is_up)
{
    static const struct timespec pause = {.tv_nsec = 5000000};
    int64_t end = clock_steady() + 1000 * PATIENCE;
    struct err err;
    for (;;) {
        enum err_code code = far_cas_try(cas, &err);
        if (cas_connections_are_up(cas->connections) == is_up && (code == ERR_OK) == is_up)
            return;
        if (clock_steady() > end)
            fail_msg("the last was: %s", code == ERR_OK ? "answered" : err.msg);
        (void)nanosleep(&pause, NULL);
    }
}

void far_cas_await(struct far_cas *cas)
{
    try_until(cas, true);
}

void far_cas_lose(struct far_cas *cas)
{
    try_until(cas, false);
}

void far_cas_assert_says(const struct far_cas *cas, const struct err *err, const char *reason)
{
    if (strstr(err->msg, cas->conf.address) == NULL)
        fail_msg("the address is not in: %s", err->msg);
    if (strstr(err->msg, reason) == NULL)
        fail_msg("\"%s\" is not in: %s", reason, err->msg);
}

struct digest far_cas_digest(const void *data, size_t size)
{
    struct err err;
    struct digest digest;
    assert_int_equal(digest_compute(DIGEST_SHA256, data, size, &digest, &err), 0);
    return digest;
}
