/* SPDX-License-Identifier: Apache-2.0 */
/* A gRPC server in the test's own process, which answers each call with what the test says. */
#ifndef ASSETD_TESTS_STUB_SERVER_H
#define ASSETD_TESTS_STUB_SERVER_H

#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"
#include "rpc/queue.h"

/* A call that has come with its one message. */
struct stub_request {
    const char *path;
    const char *authorization; /* the metadata of that name; "" if there is none */
    const char *peer;          /* tells connections apart */
    struct span message;
    grpc_call *core;
};

enum { STUB_MESSAGES_MAX = 4 };

/* Zeroed it is OK without a message. All is copied. */
struct stub_answer {
    grpc_status_code status;
    const char *text; /* NULL: none */
    struct span messages[STUB_MESSAGES_MAX];
    size_t count;
    bool hangs; /* it is never given */
};

/* Embedded by the test, which sets the first two. */
struct stub_server {
    /* Fills the answer; on a thread of the server's, one at a time. */
    void (*answer)(struct stub_server *server, const struct stub_request *request,
                   struct stub_answer *answer);
    void *context;
    /* Its own: */
    struct rpc_queue *queue;
    grpc_server *core;
    struct rpc_tag stopped;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t calls; /* armed or under way */
    bool is_stopped;
};

/*
 * Serves at ADDRESS, unix:/PATH or HOST:PORT, and returns the port, which is chosen for port 0.
 * CREDENTIALS are taken over; NULL: plain.
 */
int stub_server_start(struct stub_server *server, const char *address,
                      grpc_server_credentials *credentials);

/* Ends calls under way, and waits for their end. */
void stub_server_stop(struct stub_server *server);

#endif
