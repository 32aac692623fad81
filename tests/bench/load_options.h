/* SPDX-License-Identifier: Apache-2.0 */
/* What the arguments KEY=VALUE of load say. */
#ifndef ASSETD_BENCH_LOAD_OPTIONS_H
#define ASSETD_BENCH_LOAD_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "client.h"

enum { LOAD_OPTIONS_PIDS = 64 };

/* With the names of the keys, where a field has another one, and what they are without them. */
struct load_options {
    uint64_t calls;          /* 1 */
    uint64_t connections;    /* 1 */
    uint64_t in_flight;      /* in-flight: calls at the same time, over all connections; 1 */
    uint64_t base;           /* blobs in the store: see struct bodies_store; EXCHANGE_BASE */
    uint64_t small;          /* likewise; 0 */
    uint64_t first;          /* number of the blob or asset that begins; 0 */
    uint64_t size;           /* bytes of a blob that is streamed; EXCHANGE_STREAM */
    uint64_t blobs;          /* that are fetched in turn, from FIRST on; 0: one for each call */
    uint64_t assets;         /* that are fetched, from FIRST on; EXCHANGE_ASSETS */
    uint64_t references;     /* of each asset that is pushed; 0 */
    uint64_t seed;           /* of what is taken at random; 0: assets in turn */
    uint64_t status;         /* that each answer is to have; 0 */
    enum client_check check; /* bytes, size, enough or status; bytes */
    const char *authorities; /* tls: a file of the server's authorities; NULL: no TLS */
    const char *certificate; /* the client's own, with its key; NULL: none */
    const char *key;
    uint64_t pids[LOAD_OPTIONS_PIDS]; /* pid, once for each: processes whose CPU time is told */
    size_t pid_count;
};

/* Takes COUNT arguments, which must last. Ends the process if there is one that makes no sense. */
void load_options_init(struct load_options *options, char **arguments, int count);

#endif
