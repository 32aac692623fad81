/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of jobs and the threads that take from it. */
#include "base/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work; /* signalled when a job is queued, broadcast when stopping */
    struct job *first;
    struct job **last; /* where the next job is linked in */
    bool stopping;
    unsigned count;
    pthread_t threads[];
};

static void *pool_thread(void *argument)
{
    struct pool *pool = argument;
    (void)pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->first == NULL && !pool->stopping)
            (void)pthread_cond_wait(&pool->work, &pool->lock);
        struct job *job = pool->first;
        if (job == NULL)
            break;
        pool->first = job->next;
        if (pool->first == NULL)
            pool->last = &pool->first;
        (void)pthread_mutex_unlock(&pool->lock);
        job->run(job);
        (void)pthread_mutex_lock(&pool->lock);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int pool_new(const char *name, unsigned count, struct pool **out, struct err *err)
{
    struct pool *pool = calloc(1, sizeof(*pool) + count * sizeof(pool->threads[0]));
    if (pool == NULL)
        return err_no_memory(err, "a thread pool");
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->work, NULL);
    pool->last = &pool->first;
    for (; pool->count < count; pool->count++) {
        int rc = pthread_create(&pool->threads[pool->count], NULL, pool_thread, pool);
        if (rc != 0) {
            pool_free(pool);
            return err_errno(err, rc, "start a thread");
        }
        (void)pthread_setname_np(pool->threads[pool->count], name);
    }
    *out = pool;
    return 0;
}

void pool_free(struct pool *pool)
{
    if (pool == NULL)
        return;
    (void)pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    (void)pthread_cond_broadcast(&pool->work);
    (void)pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->count; i++)
        (void)pthread_join(pool->threads[i], NULL);
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void pool_submit(struct pool *pool, struct job *job)
{
    job->next = NULL;
    (void)pthread_mutex_lock(&pool->lock);
    *pool->last = job;
    pool->last = &job->next;
    (void)pthread_cond_signal(&pool->work);
    (void)pthread_mutex_unlock(&pool->lock);
}
