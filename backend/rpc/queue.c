/* SPDX-License-Identifier: Apache-2.0 */
/* The pollers: threads that take finished batches from the core and call their tags. */
#include "rpc/queue.h"

#include <grpc/support/log.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct rpc_queue {
    grpc_completion_queue *core;
    unsigned count;
    pthread_t threads[];
};

/* The core's own messages are of use to who debugs it, and many tell of clients' doings. */
static void log_of_core(gpr_log_func_args *message)
{
    enum log_level level =
        message->severity == GPR_LOG_SEVERITY_ERROR ? LOG_LEVEL_INFO : LOG_LEVEL_TRACE;
    if (strstr(message->message, "Failed accept") != NULL)
        log_error("listener-lost", log_str("reason", message->message),
                  log_str("answer", "a listener takes no more connections: restart assetd"));
    LOG_AT(level, "grpc-core", log_str("message", message->message), log_str("file", message->file),
           log_num("line", message->line));
}

static void *poll_queue(void *argument)
{
    struct rpc_queue *queue = argument;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(queue->core, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        struct rpc_tag *tag = event.tag;
        tag->done(tag, event.success != 0);
    }
}

int rpc_queue_new(unsigned pollers, struct rpc_queue **out, struct err *err)
{
    struct rpc_queue *queue = calloc(1, sizeof(*queue) + pollers * sizeof(queue->threads[0]));
    if (queue == NULL)
        return err_no_memory(err, "the completion queue");
    gpr_set_log_function(log_of_core);
    grpc_init();
    queue->core = grpc_completion_queue_create_for_next(NULL);
    for (; queue->count < pollers; queue->count++) {
        int rc = pthread_create(&queue->threads[queue->count], NULL, poll_queue, queue);
        if (rc != 0) {
            rpc_queue_free(queue);
            return err_errno(err, rc, "start a poller");
        }
        (void)pthread_setname_np(queue->threads[queue->count], "poller");
    }
    *out = queue;
    return 0;
}

void rpc_queue_free(struct rpc_queue *queue)
{
    if (queue == NULL)
        return;
    grpc_completion_queue_shutdown(queue->core);
    /* Without a poller somebody must still see the queue out. */
    if (queue->count == 0)
        (void)poll_queue(queue);
    for (unsigned i = 0; i < queue->count; i++)
        (void)pthread_join(queue->threads[i], NULL);
    grpc_completion_queue_destroy(queue->core);
    grpc_shutdown();
    free(queue);
}

grpc_completion_queue *rpc_queue_core(const struct rpc_queue *queue)
{
    return queue->core;
}
