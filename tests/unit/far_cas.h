/* SPDX-License-Identifier: Apache-2.0 */
/* An external CAS that answers what the test says, connections to it, and what they log. */
#ifndef ASSETD_TESTS_FAR_CAS_H
#define ASSETD_TESTS_FAR_CAS_H

#include <protobuf-c/protobuf-c.h>
#include <pthread.h>

#include "remote/cas_calls.h"
#include "scratch.h"
#include "stub_server.h"

enum { FAR_CAS_ROOM = 10 << 20, FAR_CAS_PEERS_MAX = 8 };

/* What every test has. */
struct far_cas {
    struct scratch scratch;
    char address[160]; /* unix:/PATH, below the folder */
    struct conf_cas conf;
    struct rpc_queue *queue;
    struct cas_connections *connections; /* NULL: not open */
    struct stub_server server;
    bool is_serving;
    int saved_stderr;
    pthread_mutex_t lock;
    struct stub_answer answer; /* this and all below: under LOCK while it serves */
    uint8_t *bytes;            /* of the answer's messages */
    size_t used;
    char path[128]; /* of the last request, as the next ones */
    char authorization[64];
    uint8_t *request;
    size_t request_size;
    size_t requests;
    char peers[FAR_CAS_PEERS_MAX][64]; /* distinct ones that have called */
    size_t peer_count;
};

/* For cmocka_unit_test_setup_teardown: the state is a struct far_cas, and nothing of it open. */
int far_cas_set_up(void **state);
int far_cas_tear_down(void **state);

/* Opens the connections by the configuration, which the test may have changed before. */
void far_cas_open(struct far_cas *cas);
void far_cas_close(struct far_cas *cas);

/* Serves at its own address; or at ADDRESS, see stub_server_start. */
void far_cas_serve(struct far_cas *cas);
int far_cas_serve_at(struct far_cas *cas, const char *address,
                     grpc_server_credentials *credentials);
void far_cas_stop(struct far_cas *cas);

/* --- what it answers: at first OK without a message --- */

/* The status, and no message. */
void far_cas_answer(struct far_cas *cas, grpc_status_code status, const char *text);
void far_cas_hang(struct far_cas *cas);

/* OK with a message without a field: nothing is missing. */
void far_cas_answer_whole(struct far_cas *cas);

/* Adds a message. */
void far_cas_add_bytes(struct far_cas *cas, const void *bytes, size_t size);
void far_cas_add(struct far_cas *cas, const ProtobufCMessage *message);

/* --- calls, from their begin to their end --- */

/* The code, with the message in ERR unless it is ERR_OK. */
enum err_code far_cas_find(struct far_cas *cas, const struct digest *digests, size_t count,
                           bool *is_missing, struct err *err);

/* FOUND gets copies of the blobs, to be freed, or NULL. */
enum err_code far_cas_read(struct far_cas *cas, const struct digest *digests, size_t count,
                           uint8_t **found, struct err *err);

/* MESSAGE gets a copy, to be freed, or NULL. */
enum err_code far_cas_ask(struct far_cas *cas, struct span *message, struct err *err);

/* Finds nothing missing of one digest: whether the CAS answers. */
enum err_code far_cas_try(struct far_cas *cas, struct err *err);

/* Tries until it is answered; fails the test if it never is. */
void far_cas_await(struct far_cas *cas);

/* Tries until the breaker is open. */
void far_cas_lose(struct far_cas *cas);

/* ERR names the CAS, and has REASON. */
void far_cas_assert_says(const struct far_cas *cas, const struct err *err, const char *reason);

/* How many lines of the log have TEXT. */
size_t far_cas_logged(const struct far_cas *cas, const char *text);

struct digest far_cas_digest(const void *data, size_t size);

#endif
