/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gRPC client that costs little: over nghttp2, in one thread, with bodies that are ready before
 * the first call is made. All functions but the first end the process, with the reason, when
 * anything is not as it should be: what is not correct is not worth measuring.
 */
#ifndef ASSETD_BENCH_CLIENT_H
#define ASSETD_BENCH_CLIENT_H

#include <stdint.h>

#include "bodies.h"

/* What answers are held against, beside status 0. */
enum client_check {
    CLIENT_BYTES, /* all bytes are those of the body */
    CLIENT_SIZE,  /* their number is */
    CLIENT_STATUS /* nothing */
};

struct client;

/* ADDRESS: HOST:PORT, an IPv4 address, or unix:/PATH. NULL with errno: nobody listens there. */
struct client *client_open(const char *address, unsigned connections);

/* Makes COUNT calls, IN_FLIGHT of them at the same time, the same number on each connection. */
void client_run(struct client *client, const struct bodies *bodies, uint64_t count,
                unsigned in_flight, enum client_check check);

void client_close(struct client *client);

/* Says why the benchmark cannot go on, and ends the process. */
_Noreturn void client_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
