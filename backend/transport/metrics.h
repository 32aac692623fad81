/* SPDX-License-Identifier: Apache-2.0 */
/* Figures for a monitoring system: GET /metrics in Prometheus' text format, on a port of its own.
 */
#ifndef ASSETD_TRANSPORT_METRICS_H
#define ASSETD_TRANSPORT_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/err.h"
#include "service/services.h"

/* The gRPC status codes, 0 to 16. */
enum { METRICS_STATUSES = 17 };

/* Calls that ended, by method (in the order of the table; unknown ones last) and by status. */
struct metrics_calls {
    atomic_uint_fast64_t (*ended)[METRICS_STATUSES]; /* method_count + 1 rows */
};

int metrics_calls_init(struct metrics_calls *calls, struct err *err);
void metrics_calls_fini(struct metrics_calls *calls);

/* Any thread. METHOD is NULL for what the table does not have. */
void metrics_calls_add(struct metrics_calls *calls, const struct method *method, unsigned status);

struct metrics;

/*
 * Serves at ADDRESS (HOST:PORT), on one thread, one short request after the other. SERVICES, where
 * those of the configuration of the day are found, and CALLS are borrowed. ERR_UNAVAILABLE: the
 * address is in use.
 */
int metrics_start(const char *address, const struct services *_Atomic *services,
                  const struct metrics_calls *calls, struct metrics **metrics, struct err *err);
void metrics_stop(struct metrics *metrics);

#endif
