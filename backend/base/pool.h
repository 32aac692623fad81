/* SPDX-License-Identifier: Apache-2.0 */
/* A fixed number of threads for work that blocks: disk, hashing of much data. */
#ifndef ASSETD_BASE_POOL_H
#define ASSETD_BASE_POOL_H

#include "base/err.h"

struct pool;

/* Embedded by whoever hands work in; it must live until RUN is called, which may free it. */
struct job {
    void (*run)(struct job *job);
    struct job *next; /* the pool's own */
};

/* Starts COUNT threads, named NAME in ps(1). */
int pool_new(const char *name, unsigned count, struct pool **pool, struct err *err);

/* Runs what was handed in to its end, then stops the threads. Nothing may be handed in any more. */
void pool_free(struct pool *pool);

/* Queues JOB; jobs are begun in the order they came. Never blocks, never fails. Any thread. */
void pool_submit(struct pool *pool, struct job *job);

#endif
