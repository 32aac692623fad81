/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gRPC client that costs little: over nghttp2, in one thread, with bodies
 * that are ready before the first call is made. All functions but the first end
 * the process, with the reason, when anything is not as it should be: what is
 * not correct is not worth measuring.
 */
#ifndef ASSETD_BENCH_CLIENT_H
#define ASSETD_BENCH_CLIENT_H

#include <stdint.h>

#include "bodies.h"
#include "link.h"

/* What answers are held against, beside their gRPC status. */
enum client_check {
    CLIENT_BYTES,  /* all bytes are those of the body */
    CLIENT_SIZE,   /* their number is */
    CLIENT_ENOUGH, /* they say the same: see is_right of struct bodies */
    CLIENT_STATUS, /* nothing */
};

enum { CLIENT_ANY_STATUS = -1 }; /* and nothing else is looked at */

/* How calls are to be made. */
struct client_load {
    uint64_t count;
    unsigned in_flight; /* calls at the same time, the same number on each
                           connection */
    enum client_check check;
    int status; /* that each is to have; if it is not 0, answers are not looked at
                 */
};

struct client;

/*
 * ADDRESS and TLS as for link_open. Returns when the server has said what it
 * allows. NULL with errno: nobody listens there.
 */
struct client *client_open(const char *address, unsigned connections, struct ssl_ctx_st *tls);

/*
 * Makes the calls; those beyond what the server allows at the same time wait.
 * Returns the status of the last that ended.
 */
int client_run(struct client *client, const struct bodies *bodies, const struct client_load *load);

void client_close(struct client *client);

#endif
